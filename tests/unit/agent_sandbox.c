/* SPDX-License-Identifier: Apache-2.0 */
#include "agent_sandbox.h"

#include "base/fdio.h"
#include "base/kernel_proto.h"
#include "base/own.h"
#include "sandbox/agent_frames.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

/* ---- namespaces ---- */

static int write_text(const char *path, const char *text)
{
	struct err e = ERR_INIT;

	return fd_write_once(AT_FDCWD, path, text, &e);
}

static bool mount_all(void)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("tmpfs", "/mnt", "tmpfs", MS_NOSUID | MS_NODEV, NULL) < 0 ||
	    mkdir("/mnt/data", 0755) < 0)
		return false;
	if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "hidepid=invisible,subset=pid") < 0)
		return false;
	return mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		     "newinstance,ptmxmode=0666,mode=0620") == 0 &&
	       mount("/dev/pts/ptmx", "/dev/ptmx", NULL, MS_BIND, NULL) == 0;
}

/* PID 1 of the new namespaces. */
static void agent_main(const char *binary, int listen_fd, int go)
{
	char *argv[] = { (char *)"bivouac-agent", NULL };
	char byte;

	/* Its ids are mapped, and whoever waits for it lives. */
	if (read(go, &byte, 1) != 1 || prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		_exit(1);
	if (!mount_all()) {
		perror("mounts of the sandbox");
		_exit(1);
	}
	setsid();
	int listener = fcntl(listen_fd, F_DUPFD, 10);
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	/* Not the standard descriptors: what the agent has to say belongs into the log. */
	if (dup2(listener, 3) < 0 || dup2(null, 4) < 0)
		_exit(1);
	syscall(SYS_close_range, 5, ~0U, 0);
	execv(binary, argv);
	_exit(1);
}

static bool map_ids(pid_t pid)
{
	char path[64];
	char map[64];

	snprintf(path, sizeof(path), "/proc/%d/uid_map", (int)pid);
	snprintf(map, sizeof(map), "0 %d 1", (int)getuid());
	return write_text(path, map) == 0;
}

bool sandbox_start(struct agent_sandbox *s, const char *binary)
{
	bool root = geteuid() == 0;
	int go[2];

	*s = (struct agent_sandbox){ .pid = -1, .daemon = -1 };
	buf_init(&s->in, AGENT_FRAME_MAX + 65536);
	snprintf(s->dir, sizeof(s->dir), "/tmp/bivouac-agent-XXXXXX");
	if (!mkdtemp(s->dir))
		abort();
	snprintf(s->socket, sizeof(s->socket), "%s/agent.sock", s->dir);
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	snprintf(at.sun_path, sizeof(at.sun_path), "%s", s->socket);
	OWNED_FD int listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (bind(listen_fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(listen_fd, 4) < 0 ||
	    pipe2(go, O_CLOEXEC) < 0)
		abort();
	struct clone_args args = {
		.flags = CLONE_NEWPID | CLONE_NEWNS | (root ? 0 : CLONE_NEWUSER),
		.exit_signal = SIGCHLD,
	};

	s->pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (s->pid == 0) {
		close(go[1]);
		agent_main(binary, listen_fd, go[0]);
	}
	close(go[0]);
	bool ok = s->pid > 0 && (root || map_ids(s->pid)) && write(go[1], "g", 1) == 1;

	close(go[1]);
	if (!ok) {
		perror("namespaces");
		sandbox_stop(s);
		return false;
	}
	sandbox_connect(s);
	return true;
}

void sandbox_stop(struct agent_sandbox *s)
{
	if (s->pid > 0) {
		kill(s->pid, SIGKILL);
		waitpid(s->pid, NULL, 0);
	}
	s->pid = -1;
	close_fd(&s->daemon);
	buf_done(&s->in);
	unlink(s->socket);
	rmdir(s->dir);
}

size_t sandbox_rss(const struct agent_sandbox *s)
{
	char path[64];
	char line[256];
	unsigned long kib = 0;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)s->pid);
	FILE *f = fopen(path, "re");

	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "VmRSS: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	assert(kib);
	return kib * 1024;
}

/* Born in the sandbox, by one who is born there as well and ends: so PID 1 becomes its parent. */
static void fork_inside(void (*run)(int sock, int lifeline), int sock, int lifeline)
{
	pid_t between = fork();

	if (between == 0) {
		pid_t child = fork();

		if (child == 0) {
			/* Nothing else of the test: an end of a pipe here would keep it open. */
			sock = fcntl(sock, F_DUPFD, 100);
			lifeline = lifeline < 0 ? -1 : fcntl(lifeline, F_DUPFD, 200);
			syscall(SYS_close_range, 3, 99, 0);
			setsid();
			run(sock, lifeline);
			_exit(0);
		}
		_exit(child < 0);
	}
	int status = -1;

	waitpid(between, &status, 0);
	_exit(status != 0);
}

static int spawn(struct agent_sandbox *s, void (*run)(int sock, int lifeline), int lifeline)
{
	static const struct {
		const char *name;
		int flag;
	} spaces[] = { { "user", CLONE_NEWUSER }, { "mnt", CLONE_NEWNS }, { "pid", CLONE_NEWPID } };
	int pair[2];
	int rc = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair);

	assert(rc == 0);
	pid_t helper = fork();

	if (helper == 0) {
		int fds[ARRAY_LEN(spaces)];

		close(pair[0]);
		for (size_t i = 0; i < ARRAY_LEN(spaces); i++) {
			char path[64];

			snprintf(path, sizeof(path), "/proc/%d/ns/%s", (int)s->pid, spaces[i].name);
			fds[i] = open(path, O_RDONLY | O_CLOEXEC);
		}
		/* Root has made no user namespace. */
		for (size_t i = geteuid() == 0; i < ARRAY_LEN(spaces); i++)
			if (setns(fds[i], spaces[i].flag) < 0)
				_exit(1);
		fork_inside(run, pair[1], lifeline);
	}
	int status = -1;

	waitpid(helper, &status, 0);
	assert(status == 0);
	close(pair[1]);
	return pair[0];
}

/* ---- a kernel ---- */

static struct {
	int sock;
	int lifeline;
	uint64_t written;
} kernel;

static void say(uint8_t type, struct str payload)
{
	struct err e = ERR_INIT;
	struct buf b;

	buf_init(&b, 4096);
	wire_put_u32(&b, (uint32_t)payload.len);
	wire_put_u8(&b, type);
	buf_add_str(&b, payload);
	if (fd_write_all(kernel.sock, b.ptr, b.len, &e) < 0)
		_exit(2);
	buf_done(&b);
}

static void say_ready(int sock)
{
	uint32_t pid = (uint32_t)getpid();
	char bytes[4] = { (char)pid, (char)(pid >> 8), (char)(pid >> 16), (char)(pid >> 24) };

	kernel.sock = sock;
	say(KERNEL_READY, (struct str){ bytes, sizeof(bytes) });
}

static void read_exactly(void *to, size_t len, int *fds, size_t *count)
{
	for (size_t have = 0; have < len;) {
		size_t room = have ? 0 : *count;
		ssize_t n = fd_recv(kernel.sock, (char *)to + have, len - have, fds, &room);

		if (n <= 0)
			_exit(0);
		if (!have)
			*count = room;
		have += (size_t)n;
	}
}

static void write_out(uint64_t count)
{
	char bytes[26 * 1024];

	while (count) {
		size_t n = count < sizeof(bytes) - 26 ? (size_t)count : sizeof(bytes) - 26;

		for (size_t i = 0; i < n; i++)
			bytes[i] = (char)('a' + (kernel.written + i) % 26);
		ssize_t put = write(1, bytes, n);

		if (put < 0 && errno != EINTR)
			_exit(3);
		if (put < 0)
			return; /* interrupted */
		kernel.written += (uint64_t)put;
		count -= (uint64_t)put;
	}
}

static void interrupted(int sig)
{
	(void)sig;
}

static void fork_off(bool leave_parent, bool leave_session)
{
	pid_t child = fork();

	if (child < 0)
		_exit(4);
	if (child) {
		if (leave_parent)
			waitpid(child, NULL, 0);
		return;
	}
	if (leave_session)
		setsid();
	if (leave_parent && fork() != 0)
		_exit(0);
	/* Of all descriptors only the lifeline, by whose end its death is seen. */
	if (kernel.lifeline >= 0 && dup2(kernel.lifeline, 0) < 0)
		_exit(5);
	syscall(SYS_close_range, 1, ~0U, 0);
	signal(SIGINT, SIG_DFL);
	for (;;)
		pause();
}

static void command(char *text)
{
	unsigned long long n = 0;

	if (sscanf(text, "out %llu", &n) == 1)
		write_out(n);
	else if (strncmp(text, "err ", 4) == 0)
		(void)!write(2, text + 4, strlen(text + 4));
	else if (strcmp(text, "show") == 0)
		say(KERNEL_DISPLAY, STR("\5\3\0\0\0abc"));
	else if (sscanf(text, "exit %llu", &n) == 1)
		_exit((int)n);
	else if (strcmp(text, "child") == 0)
		fork_off(false, true);
	else if (strcmp(text, "member") == 0)
		fork_off(true, false);
	else if (strcmp(text, "orphan") == 0)
		fork_off(true, true);
	else if (strcmp(text, "hang") == 0)
		for (;;)
			pause();
}

static void run_program(struct str code)
{
	char text[4096];
	char *rest = NULL;

	if (!str_copy(code, text, sizeof(text)))
		_exit(6);
	for (char *one = strtok_r(text, ";", &rest); one; one = strtok_r(NULL, ";", &rest))
		command(one);
}

static void kernel_main(int sock, int lifeline)
{
	static const char done[2 + 4 * 4];
	struct sigaction on_int = { .sa_handler = interrupted };
	char header[KERNEL_HEADER_SIZE];
	char payload[8192];
	int fds[2];

	kernel.lifeline = lifeline;
	kernel.sock = sock;
	sigaction(SIGINT, &on_int, NULL);
	for (;;) {
		size_t count = 2;

		read_exactly(header, sizeof(header), fds, &count);
		struct wire_reader r = wire_reader(header, sizeof(header));
		uint32_t len = wire_get_u32(&r);
		uint8_t type = wire_get_u8(&r);
		size_t none = 0;

		assert(len <= sizeof(payload));
		read_exactly(payload, len, NULL, &none);
		if (type == KERNEL_INIT) {
			assert(count == 2 && dup2(fds[0], 1) == 1 && dup2(fds[1], 2) == 2);
			close(fds[0]);
			close(fds[1]);
			say_ready(sock);
			continue;
		}
		assert(type == KERNEL_RUN);
		r = wire_reader(payload, len);
		wire_get_u32(&r);
		wire_get_u8(&r);
		run_program(wire_get_blob(&r, sizeof(payload)));
		say(KERNEL_DONE, (struct str){ done, sizeof(done) });
	}
}

int sandbox_kernel(struct agent_sandbox *s, int lifeline)
{
	return spawn(s, kernel_main, lifeline);
}

/* ---- a launcher ---- */

static void launcher_main(int sock, int lifeline)
{
	char *argv[] = { (char *)"sh", NULL };
	char *envp[] = { (char *)"PATH=/usr/bin:/bin", (char *)"PS1=$ ", (char *)"TERM=dumb",
			 NULL };
	char payload[8192];
	size_t count = 1;
	int slave = -1;

	(void)lifeline;
	kernel.sock = sock;
	read_exactly(payload, KERNEL_HEADER_SIZE, &slave, &count);
	struct wire_reader r = wire_reader(payload, KERNEL_HEADER_SIZE);
	uint32_t len = wire_get_u32(&r);
	size_t none = 0;

	assert(wire_get_u8(&r) == KERNEL_TERMINAL && count == 1 && len <= sizeof(payload));
	read_exactly(payload, len, NULL, &none);
	if (ioctl(slave, TIOCSCTTY, 0) < 0)
		_exit(7);
	for (int fd = 0; fd < 3; fd++)
		dup2(slave, fd);
	say_ready(sock);
	syscall(SYS_close_range, 3, ~0U, 0);
	/* As in a sandbox, whatever the test's own parent ignores: what is ignored cannot be
	 * trapped. */
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	execve("/bin/sh", argv, envp);
	_exit(8);
}

int sandbox_launcher(struct agent_sandbox *s)
{
	return spawn(s, launcher_main, -1);
}

/* ---- the daemon's end ---- */

void sandbox_connect(struct agent_sandbox *s)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	close_fd(&s->daemon);
	buf_clear(&s->in);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s", s->socket);
	s->daemon = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int rc = connect(s->daemon, (struct sockaddr *)&at, sizeof(at));

	assert(rc == 0);
}

void sandbox_send(struct agent_sandbox *s, enum agent_msg type, uint64_t op, struct str payload,
		  int fd)
{
	struct err e = ERR_INIT;
	struct buf b;

	buf_init(&b, AGENT_FRAME_MAX);
	wire_put_u32(&b, (uint32_t)payload.len);
	wire_put_u8(&b, AGENT_PROTO_VERSION);
	wire_put_u8(&b, (uint8_t)type);
	wire_put_u16(&b, 0);
	wire_put_u64(&b, op);
	buf_add_str(&b, payload);
	ssize_t n = fd_send(s->daemon, b.ptr, b.len, &fd, fd >= 0 ? 1 : 0);

	assert(n > 0);
	if ((size_t)n < b.len && fd_write_all(s->daemon, b.ptr + n, b.len - (size_t)n, &e) < 0)
		abort();
	buf_done(&b);
	if (fd >= 0)
		close(fd);
}

static bool receive(struct agent_sandbox *s, size_t len)
{
	static char frame[AGENT_FRAME_MAX];

	buf_clear(&s->in);
	for (size_t have = 0; have < len;) {
		ssize_t n = recv(s->daemon, frame + have, len - have, 0);

		if (n <= 0)
			return false;
		have += (size_t)n;
	}
	return buf_add(&s->in, frame, len);
}

struct str sandbox_next(struct agent_sandbox *s, uint8_t *ret_type, uint64_t *ret_op)
{
	struct agent_frame f;
	bool ok = receive(s, AGENT_HEADER_SIZE) && agent_frame_header(s->in.ptr, &f);

	assert(ok);
	*ret_type = f.type;
	*ret_op = f.op;
	ok = receive(s, f.len);
	assert(ok);
	return buf_str(&s->in);
}
