/* SPDX-License-Identifier: Apache-2.0 */
#include "agent_world.h"

#include "base/fdio.h"
#include "base/own.h"
#include "sandbox/agent_frames.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

/* Here the real one is meant. */
#undef syscall
long syscall(long nr, ...);
long agent_world_syscall(long nr, ...);

int agent_world_kill(pid_t pid, int sig);
pid_t agent_world_waitpid(pid_t pid, int *status, int options);

static char root[64];
static struct agent_world *current;
static pid_t killed; /* the kernel's pid once it got SIGKILL */
static bool reaped;  /* waitpid() returned it */
static struct buf replies;

/* ---- what the agent calls ---- */

void agent_watch(struct agent *a, int fd, enum agent_event event, uint32_t events, bool add)
{
	(void)a;
	(void)event;
	(void)events;
	(void)add;
	assert(fd >= 0);
}

void agent_arm(struct agent *a, enum agent_deadline what, int64_t ms)
{
	a->deadline = ms ? what : DEADLINE_NONE;
}

int agent_world_kill(pid_t pid, int sig)
{
	struct agent_kernel *k = &current->agent.kernel;

	/* Every process, once the kernel was reaped: what it left behind. */
	if (pid == -1) {
		assert(reaped && sig == SIGKILL);
		return 0;
	}
	/* 0 and 1 are the agent itself; nobody but the kernel is meant. */
	assert(pid > 1 || pid < -1);
	assert(pid == k->pid || pid == -k->pid);
	if (sig == SIGKILL)
		killed = k->pid;
	return 0;
}

pid_t agent_world_waitpid(pid_t pid, int *status, int options)
{
	(void)pid;
	(void)options;
	pid_t gone = killed;

	reaped = gone != 0;
	killed = 0;
	*status = SIGKILL;
	return gone;
}

/* Every path the agent opens comes by here; a file outside ends the process before it is touched.
 */
long agent_world_syscall(long nr, ...)
{
	char self[64];
	char path[AGENT_PATH_MAX];
	long arg[4];
	va_list ap;

	va_start(ap, nr);
	for (size_t i = 0; i < ARRAY_LEN(arg); i++)
		arg[i] = va_arg(ap, long);
	va_end(ap);
	assert(nr == SYS_openat2);
	long fd = syscall(nr, arg[0], arg[1], arg[2], arg[3]);

	if (fd < 0)
		return fd;
	snprintf(self, sizeof(self), "/proc/self/fd/%ld", fd);
	ssize_t n = readlink(self, path, sizeof(path));
	size_t len = strlen(root);

	assert(n >= (ssize_t)len && memcmp(path, root, len) == 0);
	assert(n == (ssize_t)len || path[len] == '/');
	return fd;
}

/* ---- the data root ---- */

static void put_file(const char *name, size_t size)
{
	static const char bytes[3000] = "contents";
	OWNED_FD int fd =
		openat(current->agent.data_dfd, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, bytes, size) != (ssize_t)size)
		abort();
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st;
	(void)flag;
	return ftw->level ? remove(path) : 0;
}

static void remove_root(void)
{
	nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	rmdir(root);
}

static void open_root(void)
{
	if (!root[0]) {
		/* In memory where possible: it is made anew for each input. */
		snprintf(root, sizeof(root), "%s/bivouac-fuzz-XXXXXX",
			 access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
		if (!mkdtemp(root))
			abort();
		atexit(remove_root);
	}
	current->agent.data_dfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert(current->agent.data_dfd >= 0);
	put_file("file", 3000);
	if (mkdirat(current->agent.data_dfd, "dir", 0755) < 0 ||
	    symlinkat("/etc", current->agent.data_dfd, "out") < 0 ||
	    symlinkat("..", current->agent.data_dfd, "up") < 0 ||
	    symlinkat("..", current->agent.data_dfd, "dir/back") < 0)
		abort();
	put_file("dir/inner", 0);
}

/* ---- the world ---- */

static void make_pair(int *near, int *far)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		abort();
	*near = pair[0];
	*far = pair[1];
}

void agent_world_open(struct agent_world *w)
{
	struct agent *a = &w->agent;

	*w = (struct agent_world){ .kernel_fd = -1, .out_fds = { -1, -1 } };
	current = w;
	killed = 0;
	reaped = false;
	*a = (struct agent){ .epoll_fd = -1,
			     .signal_fd = -1,
			     .timer_fd = -1,
			     .conn = { .passed_fd = -1 },
			     .kernel = { .sock = -1 },
			     .out = { .fd = -1 },
			     .err = { .fd = -1 } };
	buf_init(&a->conn.in, AGENT_FRAME_MAX + AGENT_HEADER_SIZE + 4096);
	buf_init(&a->conn.out, 64u << 20);
	buf_init(&a->kernel.in, KERNEL_FRAME_MAX + KERNEL_HEADER_SIZE + 65536);
	buf_init(&a->kernel.out, AGENT_CODE_MAX + 4096);
	buf_init(&a->exec.displays, KERNEL_FRAME_MAX);
	list_init(&a->done);
	list_init(&a->files);
	make_pair(&a->conn.fd, &w->daemon_fd);
	buf_init(&replies, 64u << 20);
	open_root();
}

void agent_world_attach(struct agent_world *w)
{
	int near;

	make_pair(&near, &w->kernel_fd);
	kernel_attach(&w->agent, near, STR("default"));
	/* INIT, as the kernel's driver takes it. */
	char init[64];
	size_t count = 2;
	ssize_t n = fd_recv(w->kernel_fd, init, sizeof(init), w->out_fds, &count);

	assert(n == KERNEL_HEADER_SIZE + 4 + 32 && count == 2);
}

void agent_world_feed(struct agent_world *w, int fd, const uint8_t *data, size_t size)
{
	bool daemon = fd == w->daemon_fd;

	while (size) {
		/* As pieces: frames arrive in any cut. */
		size_t piece = size < 4096 ? size : 4096;
		ssize_t n = send(fd, data, piece, MSG_NOSIGNAL);

		if (n <= 0 && errno != EAGAIN)
			return; /* the agent has closed its end */
		if (n > 0) {
			data += n;
			size -= (size_t)n;
		}
		if (daemon && w->agent.conn.fd >= 0)
			conn_event(&w->agent, EPOLLIN | EPOLLOUT);
		else if (!daemon)
			kernel_event(&w->agent, EPOLLIN);
		agent_world_check(w);
		if (n < 0 && (daemon ? w->agent.conn.fd : w->agent.kernel.sock) < 0)
			return;
	}
}

void agent_world_ready(struct agent_world *w)
{
	static const uint8_t ready[] = { 4, 0, 0, 0, KERNEL_READY, 42, 0, 0, 0 };
	static const uint8_t done[5 + 2 + 4 * 4] = { 2 + 4 * 4, 0, 0, 0, KERNEL_DONE };

	agent_world_feed(w, w->kernel_fd, ready, sizeof(ready));
	agent_world_feed(w, w->kernel_fd, done, sizeof(done));
	assert(w->agent.kernel.state == AGENT_KERNEL_IDLE && w->agent.kernel.pid == 42);
}

void agent_world_reap(struct agent_world *w)
{
	if (killed)
		kernel_reap(&w->agent);
}

/* ---- what the daemon would see ---- */

static void check_status(struct wire_reader *r)
{
	uint32_t count = wire_get_u32(r);

	assert(count <= AGENT_KERNELS_MAX);
	for (uint32_t i = 0; i < count; i++) {
		wire_get_u32(r);
		assert(wire_get_u8(r) <= AGENT_KERNEL_BUSY);
		wire_get_blob(r, AGENT_LABEL_MAX);
	}
	count = wire_get_u32(r);
	assert(count <= AGENT_DONE_MAX + AGENT_KERNELS_MAX);
	for (uint32_t i = 0; i < count; i++) {
		wire_get_u64(r);
		assert(wire_get_u8(r) <= AGENT_EXEC_FINISHED);
		wire_get_u32(r);
	}
	count = wire_get_u32(r);
	assert(count <= AGENT_TERMINALS_MAX);
	for (uint32_t i = 0; i < count; i++) {
		wire_get_u64(r);
		wire_get_blob(r, AGENT_LABEL_MAX);
	}
	assert(wire_ok(r));
}

static void check_reply(const struct agent_frame *f, struct str payload)
{
	struct wire_reader r = wire_reader(payload.ptr, payload.len);
	struct agent_file *files = NULL;
	struct agent_result result;
	struct agent_file file;
	struct err e = ERR_INIT;
	size_t count;
	bool more;

	switch (f->type) {
	case AGENT_STATUS:
		check_status(&r);
		break;
	case AGENT_KERNEL_STATE:
		assert(wire_get_u32(&r) < AGENT_KERNELS_MAX);
		assert(wire_get_u8(&r) <= AGENT_KERNEL_BUSY);
		assert(wire_get_u8(&r) <= AGENT_DEATH_KILLED);
		wire_get_u32(&r);
		assert(wire_ok(&r) && f->op == 0);
		break;
	case AGENT_EXEC_DONE:
		assert(agent_frame_result(&r, &result));
		assert(!current->out_max ||
		       (result.out.len <= current->out_max && result.err.len <= current->out_max));
		break;
	case AGENT_FILE_INFO:
		assert(agent_frame_file(&r, &file) && wire_ok(&r));
		break;
	case AGENT_FILE_ENTRIES:
		assert(agent_frame_entries(&r, &files, &count, &more));
		free(files);
		break;
	case AGENT_FILE_DATA:
		assert(payload.len <= AGENT_FILE_CHUNK);
		break;
	case AGENT_FILE_CREDIT:
		wire_get_u32(&r);
		assert(wire_ok(&r));
		break;
	case AGENT_DONE:
		assert(payload.len == 0);
		break;
	case AGENT_ERROR:
		assert(agent_frame_error(&r, &e) && e.msg[0]);
		break;
	default:
		abort();
	}
}

void agent_world_check(struct agent_world *w)
{
	for (;;) {
		if (!buf_reserve(&replies, 65536))
			abort();
		ssize_t n = recv(w->daemon_fd, replies.ptr + replies.len, 65536, 0);

		if (n <= 0)
			break;
		replies.len += (size_t)n;
		if (w->agent.conn.fd >= 0 && !w->agent.conn.broken)
			conn_event(&w->agent, EPOLLOUT);
	}
	size_t at = 0;

	while (replies.len - at >= AGENT_HEADER_SIZE) {
		struct agent_frame f;

		assert(agent_frame_header(replies.ptr + at, &f));
		if (replies.len - at - AGENT_HEADER_SIZE < f.len)
			break;
		check_reply(&f, (struct str){ replies.ptr + at + AGENT_HEADER_SIZE, f.len });
		at += AGENT_HEADER_SIZE + f.len;
	}
	buf_consume(&replies, at);
	/* Limits the agent promises to keep. */
	assert(w->agent.file_count <= AGENT_FILE_OPS_MAX);
	assert(w->agent.done_count <= AGENT_DONE_MAX);
}

void agent_world_close(struct agent_world *w)
{
	struct agent *a = &w->agent;

	agent_world_check(w);
	/* A reply may be cut only by the end of the connection. */
	assert(replies.len == 0 || a->conn.fd < 0 || a->conn.broken);
	/* The daemon and the kernel go away. */
	close_fd(&w->daemon_fd);
	close_fd(&w->kernel_fd);
	close_fd(&w->out_fds[0]);
	close_fd(&w->out_fds[1]);
	if (a->conn.fd >= 0)
		conn_event(a, EPOLLIN | EPOLLHUP);
	assert(a->conn.fd < 0 && a->file_count == 0 && list_empty(&a->files));
	if (a->kernel.sock >= 0)
		kernel_event(a, EPOLLIN | EPOLLHUP);
	agent_world_reap(w);
	assert(a->kernel.sock < 0 && a->out.fd < 0 && a->err.fd < 0 && !a->exec.running);
	while (!list_empty(&a->done))
		exec_ack(a, list_first(&a->done, struct agent_done, node)->op);
	assert(a->done_count == 0);
	buf_done(&a->kernel.in);
	buf_done(&a->kernel.out);
	buf_done(&a->exec.displays);
	buf_done(&a->out.kept);
	buf_done(&a->err.kept);
	buf_done(&replies);
	close_fd(&a->data_dfd);
	nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
