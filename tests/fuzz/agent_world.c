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
#include <sys/wait.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>

/* Here the real one is meant. */
#undef syscall
long syscall(long nr, ...);
long agent_world_syscall(long nr, ...);

int agent_world_kill(pid_t pid, int sig);
pid_t agent_world_waitpid(pid_t pid, int *status, int options);
int agent_world_waitid(idtype_t kind, id_t id, siginfo_t *info, int options);
int agent_world_clock(clockid_t clock, struct timespec *now);
int agent_world_timer(int fd, int flags, const struct itimerspec *at, struct itimerspec *old);

/* More events than any input of sensible size can cause: the agent is going round in circles. */
#define TURNS_MAX 100000
#define ENDED_MAX 64

static char root[64];
static struct agent_world *current;
static int64_t now_ns;
static struct {
	pid_t pid;
	int status;
} ended[ENDED_MAX];
static size_t ended_count;
static struct agent_process processes[64];
static size_t process_count;
static struct buf replies;

static bool agent_world_check(struct agent_world *w);

/* ---- what the agent calls ---- */

int agent_world_clock(clockid_t clock, struct timespec *now)
{
	(void)clock;
	*now = (struct timespec){ now_ns / 1000000000, now_ns % 1000000000 };
	return 0;
}

int agent_world_timer(int fd, int flags, const struct itimerspec *at, struct itimerspec *old)
{
	(void)fd;
	(void)old;
	assert(flags == TFD_TIMER_ABSTIME && at->it_value.tv_nsec < 1000000000);
	return 0;
}

/* A kernel or terminal that the agent has heard of and that has not ended. */
static bool is_owned(pid_t pid)
{
	return reap_known(&current->agent, pid);
}

static bool is_orphan(pid_t pid)
{
	for (size_t i = 0; i < process_count; i++)
		if (processes[i].pid == pid)
			return true;
	return false;
}

int agent_world_kill(pid_t pid, int sig)
{
	/* Every process, when nothing is left that could own one. */
	if (pid == -1) {
		assert(sig == SIGKILL);
		for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
			assert(!current->agent.kernels[i] || current->agent.kernels[i]->dead ||
			       current->agent.kernels[i]->state == AGENT_KERNEL_NONE);
		process_count = 0;
		return 0;
	}
	/* 0 and 1 are the agent itself; nobody but kernels, terminals and orphans is meant. */
	assert(pid > 1 || pid < -1);
	if (is_owned(pid < 0 ? -pid : pid)) {
		if (sig == SIGKILL)
			agent_world_exit(current, pid < 0 ? -pid : pid, SIGKILL);
		return 0;
	}
	assert(pid > 1 && sig == SIGKILL && is_orphan(pid));
	for (size_t i = 0; i < process_count; i++)
		if (processes[i].pid == pid)
			processes[i] = processes[--process_count];
	return 0;
}

pid_t agent_world_waitpid(pid_t pid, int *status, int options)
{
	(void)pid;
	(void)options;
	if (!ended_count)
		return 0;
	ended_count--;
	*status = ended[ended_count].status;
	return ended[ended_count].pid;
}

/* Whatever number a kernel says: there is such a child. */
int agent_world_waitid(idtype_t kind, id_t id, siginfo_t *info, int options)
{
	(void)kind;
	(void)id;
	(void)info;
	(void)options;
	return 0;
}

size_t processes_read(struct agent_process *ret, size_t max)
{
	assert(max >= process_count);
	memcpy(ret, processes, process_count * sizeof(*ret));
	return process_count;
}

/* A processor is always free; kernel_deadline() kills. */
struct agent_work processes_work(pid_t session)
{
	assert(session > 1);
	return (struct agent_work){ .cpu_ns = now_ns, .runnable = 1 };
}

int pty_open(uint16_t columns, uint16_t rows, int *ret_master, int *ret_slave, struct err *e)
{
	if (columns == 0xffff)
		return err_set(e, ERR_UNAVAILABLE, "no terminal is left");
	(void)rows;
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		abort();
	*ret_master = pair[0];
	*ret_slave = fcntl(pair[1], F_DUPFD_CLOEXEC, 0);
	for (size_t i = 0; i < WORLD_ENDS_MAX; i++) {
		struct world_end *end = &current->ends[i];

		if (end->what != WORLD_FREE)
			continue;
		*end = (struct world_end){ WORLD_TERMINAL, 0, pair[1], { -1, -1 }, 0 };
		return 0;
	}
	close(pair[1]);
	return 0;
}

void pty_resize(int master, uint16_t columns, uint16_t rows)
{
	(void)columns;
	(void)rows;
	assert(master >= 0);
}

void pty_signal(int master, int sig)
{
	assert(master >= 0 && sig > 0);
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

static void connect_daemon(struct agent_world *w)
{
	uint32_t watched = 0;

	make_pair(&w->agent.conn.fd, &w->daemon_fd);
	agent_watch(&w->agent, w->agent.conn.fd, EVENT_CONN, 0, EPOLLIN, &watched);
}

void agent_world_open(struct agent_world *w)
{
	struct agent *a = &w->agent;

	*w = (struct agent_world){ 0 };
	current = w;
	ended_count = process_count = 0;
	signal(SIGPIPE, SIG_IGN); /* as main.c */
	now_ns = 1000000000;
	for (size_t i = 0; i < WORLD_ENDS_MAX; i++)
		w->ends[i] = (struct world_end){ WORLD_FREE, 0, -1, { -1, -1 }, 0 };
	*a = (struct agent){ .signal_fd = -1, .timer_fd = -1 };
	a->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	buf_init(&a->conn.in, AGENT_FRAME_MAX + AGENT_HEADER_SIZE + 4096);
	buf_init(&a->conn.out, 64u << 20);
	list_init(&a->done);
	list_init(&a->files);
	connect_daemon(w);
	buf_init(&replies, 64u << 20);
	open_root();
}

static void close_end(struct world_end *end)
{
	close_fd(&end->fd);
	close_fd(&end->out_fds[0]);
	close_fd(&end->out_fds[1]);
	end->what = WORLD_FREE;
}

struct world_end *agent_world_find(struct agent_world *w, int what, uint64_t name)
{
	for (size_t i = 0; i < WORLD_ENDS_MAX; i++)
		if ((int)w->ends[i].what == what && w->ends[i].name == name)
			return &w->ends[i];
	return NULL;
}

void agent_world_exit(struct agent_world *w, pid_t pid, int status)
{
	(void)w;
	for (size_t i = 0; i < ended_count; i++)
		if (ended[i].pid == pid)
			return;
	if (ended_count == ENDED_MAX)
		return;
	ended[ended_count].pid = pid;
	ended[ended_count++].status = status;
}

void agent_world_processes(const uint8_t *data, size_t size)
{
	struct wire_reader r = wire_reader(data, size);

	process_count = 0;
	while (r.left >= 16 && process_count < ARRAY_LEN(processes)) {
		struct agent_process p = { .pid = (pid_t)(wire_get_u32(&r) & 0xffff) };
		pid_t last = process_count ? processes[process_count - 1].pid : 1;

		p.parent = (pid_t)(wire_get_u32(&r) & 0xffff);
		p.session = (pid_t)(wire_get_u32(&r) & 0xffff);
		p.age_ms = wire_get_u32(&r);
		if (p.pid > last) /* as /proc lists them */
			processes[process_count++] = p;
	}
}

void agent_world_turn(struct agent_world *w)
{
	int left = TURNS_MAX;

	do {
		while (agent_turn(&w->agent, 0) > 0) {
			assert(left-- > 0);
			agent_world_check(w);
		}
		bool any = ended_count > 0;

		if (any) {
			reap_children(&w->agent);
			kernels_tidy(&w->agent);
		}
		if (agent_world_check(w))
			any = true;
		if (!any && !ended_count)
			break;
		assert(left-- > 0);
	} while (true);
}

void agent_world_wait(struct agent_world *w, uint32_t ms)
{
	now_ns += (int64_t)ms * 1000000;
	agent_deadlines(&w->agent);
	kernels_tidy(&w->agent);
	agent_world_turn(w);
}

static void send_pieces(struct agent_world *w, int fd, const uint8_t *data, size_t size, int passed)
{
	for (int idle = 0; size && idle < 4;) {
		/* As pieces: frames arrive in any cut. */
		size_t piece = size < 4096 ? size : 4096;
		ssize_t n = fd_send(fd, data, piece, &passed, passed >= 0 ? 1 : 0);

		if (n <= 0 && errno != EAGAIN)
			return; /* the agent has closed its end */
		if (n > 0) {
			data += n;
			size -= (size_t)n;
			passed = -1;
		}
		idle = n > 0 ? 0 : idle + 1;
		agent_world_turn(w);
	}
}

/* INIT as a kernel's driver takes it, or what a launcher gets; then what they answer. */
static void take_first_frame(struct agent_world *w, struct world_end *end)
{
	static const uint8_t done[5 + 2 + 4 * 4] = { 2 + 4 * 4, 0, 0, 0, KERNEL_DONE };
	uint8_t ready[] = { 4, 0, 0, 0, KERNEL_READY, 0, 0, 0, 0 };
	char first[8192];
	int fds[2] = { -1, -1 };
	size_t count = 2;
	ssize_t n = fd_recv(end->fd, first, sizeof(first), fds, &count);

	if (n <= 0) { /* not taken */
		close_end(end);
		return;
	}
	if (end->what == WORLD_KERNEL) {
		assert(n == KERNEL_HEADER_SIZE + 4 + 32 && count == 2);
		end->out_fds[0] = fds[0];
		end->out_fds[1] = fds[1];
		fd_set_nonblock(fds[0], true);
		fd_set_nonblock(fds[1], true);
	} else {
		struct world_end *term = agent_world_find(w, WORLD_TERMINAL, 0);

		assert(first[4] == KERNEL_TERMINAL && count == 1);
		close(fds[0]);
		if (term) {
			term->name = end->name;
			term->pid = end->pid;
		}
	}
	if (!w->ready)
		return;
	ready[5] = (uint8_t)end->pid;
	ready[6] = (uint8_t)(end->pid >> 8);
	send_pieces(w, end->fd, ready, sizeof(ready), -1);
	if (end->what == WORLD_KERNEL)
		send_pieces(w, end->fd, done, sizeof(done), -1);
	else
		close_end(end);
}

/* A frame that comes with a descriptor: what of it stays here. */
static void feed_passing(struct agent_world *w, const struct agent_frame *f, const uint8_t *frame)
{
	static pid_t next = 100;
	struct world_end *end = agent_world_find(w, WORLD_FREE, 0);
	OWNED_FD int near = -1;

	for (size_t i = 0; !end && i < WORLD_ENDS_MAX; i++)
		if (w->ends[i].what == WORLD_FREE)
			end = &w->ends[i];
	if (!end) {
		send_pieces(w, w->daemon_fd, frame, AGENT_HEADER_SIZE + f->len, -1);
		return;
	}
	next = next < 20000 ? next + 1 : 100;
	end->what = f->type == AGENT_TERM_OPEN ? WORLD_LAUNCHER : WORLD_KERNEL;
	end->pid = next;
	end->name = f->op;
	if (end->what == WORLD_KERNEL) {
		struct wire_reader r = wire_reader(frame + AGENT_HEADER_SIZE, f->len);

		end->name = wire_get_u32(&r);
	}
	make_pair(&near, &end->fd);
	send_pieces(w, w->daemon_fd, frame, AGENT_HEADER_SIZE + f->len, near);
	close_fd(&near);
	if (end->fd >= 0)
		take_first_frame(w, end);
	agent_world_turn(w);
}

/* The most that may come now. */
static void count_credit(struct agent_world *w, const struct agent_frame *f, const uint8_t *frame)
{
	struct wire_reader r = wire_reader(frame + AGENT_HEADER_SIZE, f->len);

	if (f->type == AGENT_EXEC) {
		for (int i = 0; i < 4 + 1 + 4 * 4; i++)
			wire_get_u8(&r);
		w->credit += wire_get_u32(&r);
	} else if (f->type == AGENT_EXEC_CREDIT) {
		w->credit += wire_get_u32(&r);
	} else if (f->type == AGENT_TERM_ATTACH || f->type == AGENT_TERM_CREDIT) {
		w->term_credit += wire_get_u32(&r);
	}
}

void agent_world_feed(struct agent_world *w, const uint8_t *data, size_t size)
{
	while (size >= AGENT_HEADER_SIZE) {
		struct agent_frame f;

		if (!agent_frame_header((const char *)data, &f) || f.len > size - AGENT_HEADER_SIZE)
			break;
		count_credit(w, &f, data);
		if (f.type == AGENT_KERNEL_ATTACH || f.type == AGENT_TERM_OPEN)
			feed_passing(w, &f, data);
		else
			send_pieces(w, w->daemon_fd, data, AGENT_HEADER_SIZE + f.len, -1);
		data += AGENT_HEADER_SIZE + f.len;
		size -= AGENT_HEADER_SIZE + f.len;
	}
	if (size)
		send_pieces(w, w->daemon_fd, data, size, -1);
}

void agent_world_attach(struct agent_world *w)
{
	static const uint8_t frame[] = {
		11,
		0,
		0,
		0,
		AGENT_PROTO_VERSION,
		AGENT_KERNEL_ATTACH,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		3,
		0,
		0,
		0,
		'd',
		'e',
		'f',
	};

	agent_world_feed(w, frame, sizeof(frame));
	struct agent_kernel *k = kernel_find(&w->agent, 0);

	assert(k && k->state == (w->ready ? AGENT_KERNEL_IDLE : AGENT_KERNEL_STARTING));
}

void agent_world_kernel(struct agent_world *w, uint32_t number, const uint8_t *data, size_t size)
{
	struct world_end *end = agent_world_find(w, WORLD_KERNEL, number);

	if (end)
		send_pieces(w, end->fd, data, size, -1);
}

void agent_world_reconnect(struct agent_world *w)
{
	close_fd(&w->daemon_fd);
	agent_world_turn(w);
	assert(w->agent.conn.fd < 0);
	/* Half a frame at most is lost with the connection. */
	buf_clear(&replies);
	w->credit = w->out = w->term_credit = w->term_out = 0;
	connect_daemon(w);
}

/* ---- what the daemon would see ---- */

static void check_exec_output(struct wire_reader *r)
{
	struct str bytes;
	int stream;

	assert(agent_frame_output(r, &stream, &bytes));
	current->out += bytes.len;
	assert(current->out <= current->credit);
}

static void check_term_output(struct str bytes)
{
	assert(bytes.len > 0 && bytes.len <= AGENT_STREAM_CHUNK);
	current->term_out += bytes.len;
	assert(current->term_out <= current->term_credit);
}

static void check_reply(const struct agent_frame *f, struct str payload)
{
	struct wire_reader r = wire_reader(payload.ptr, payload.len);
	struct agent_file *files = NULL;
	struct agent_kernel_change change;
	struct agent_terminal_change terminal;
	struct agent_status status;
	struct agent_result result;
	struct agent_value value;
	struct agent_file file;
	struct err e = ERR_INIT;
	size_t count;
	bool more;

	switch (f->type) {
	case AGENT_STATUS:
		assert(agent_frame_status(&r, &status));
		break;
	case AGENT_KERNEL_STATE:
		assert(agent_frame_kernel_state(&r, &change) && f->op == 0);
		break;
	case AGENT_TERM_STATE:
		assert(agent_frame_terminal_state(&r, &terminal));
		break;
	case AGENT_EXEC_DONE:
		assert(agent_frame_result(&r, &result));
		assert(!current->out_max ||
		       (result.out.len <= current->out_max && result.err.len <= current->out_max));
		break;
	case AGENT_EXEC_OUTPUT:
		check_exec_output(&r);
		break;
	case AGENT_TERM_OUTPUT:
		check_term_output(payload);
		break;
	case AGENT_EXEC_DISPLAY:
		assert(agent_frame_display(&r, &value));
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
	case AGENT_TERM_CREDIT:
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

static void check_limits(const struct agent *a)
{
	size_t running = 0;

	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		running += a->kernels[i] && a->kernels[i]->exec.running;
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		assert(!a->terminals[i] || a->terminals[i]->credit <= AGENT_STREAM_WINDOW);
	assert(a->file_count <= AGENT_FILE_OPS_MAX);
	assert(a->done_count + running <= AGENT_DONE_MAX);
}

/* Reads all replies; true if there were any, which makes room for more. */
static bool agent_world_check(struct agent_world *w)
{
	bool any = false;

	for (;;) {
		if (!buf_reserve(&replies, 65536))
			abort();
		ssize_t n = w->slow || w->daemon_fd < 0
				    ? -1
				    : recv(w->daemon_fd, replies.ptr + replies.len, 65536, 0);

		if (n <= 0)
			break;
		replies.len += (size_t)n;
		any = true;
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
	check_limits(&w->agent);
	return any;
}

void agent_world_close(struct agent_world *w)
{
	struct agent *a = &w->agent;

	w->slow = false;
	agent_world_turn(w);
	/* A reply may be cut only by the end of the connection. */
	assert(replies.len == 0 || a->conn.fd < 0 || a->conn.broken);
	/* The daemon, the kernels and what is behind the terminals go away. */
	close_fd(&w->daemon_fd);
	for (size_t i = 0; i < WORLD_ENDS_MAX; i++)
		close_end(&w->ends[i]);
	agent_world_turn(w);
	assert(a->conn.fd < 0 && a->file_count == 0 && list_empty(&a->files));
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		if (a->terminals[i])
			agent_world_exit(w, a->terminals[i]->pid, 0);
	agent_world_turn(w);
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		assert(!a->kernels[i]);
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		assert(!a->terminals[i]);
	while (!list_empty(&a->done))
		exec_ack(a, list_first(&a->done, struct agent_done, node)->op);
	assert(a->done_count == 0);
	buf_done(&replies);
	close_fd(&a->data_dfd);
	close_fd(&a->epoll_fd);
	nftw(root, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}
