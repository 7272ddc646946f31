/* SPDX-License-Identifier: Apache-2.0 */

/*
 * bivouac-kernel-shell: the kernel of shell commands (src/base/kernel_proto.h), started by a
 * launcher with the socket as descriptor 3 and the output pipes as 1 and 2.
 *
 * The commands of a session run in one bash (kernel_shell.h). This program only carries frames,
 * reports how commands end, and starts the next bash when one has gone.
 *
 * The code it runs has the same user and could end it or take its place on the socket: that breaks
 * nothing but its own session. What commands do by accident must not break it.
 */

#include "kernel_frame.h"
#include "kernel_shell.h"

#include "base/buf.h"
#include "base/kernel_proto.h"
#include "base/own.h"
#include "base/wire.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define EXIT_PROTOCOL 76 /* EX_PROTOCOL of sysexits.h */
#define EXIT_SYSTEM   71 /* EX_OSERR */
/** After an interrupt the command's end is awaited for so long (the first time well within the
 * agent's AGENT_TIMEOUT_GRACE_MS), then what it did not reach gets it too, and again after twice as
 * long. */
#define INSIST_MS_FIRST 8
#define INSIST_MS_LAST  512
/** The exit code of a command whose shell could not be had, or could not be asked afterwards. */
#define CODE_NO_SHELL 125
#define CODE_KILLED   (128 + SIGKILL)

struct kernel {
	struct shell shell;
	struct buf in;
	int epoll_fd;
	int signal_fd;
	bool asked;       /* a RUN has not been answered */
	bool handed;      /* and its command has been given to bash */
	bool interrupted; /* SIGINT came */
	int insist_ms;
	unsigned refusals;    /* of that command, by shells that could not even begin it */
	struct run_frame run; /* that RUN, at the start of `in` */
	unsigned starts;      /* of shells, since one was ready */
};

static void say(const char *text)
{
	(void)!write(2, text, strlen(text));
}

static void send_frame(enum kernel_msg type, struct str payload)
{
	struct buf b;

	buf_init(&b, 1024);
	wire_put_u32(&b, (uint32_t)payload.len);
	wire_put_u8(&b, (uint8_t)type);
	buf_add_str(&b, payload);
	/* A frame of some bytes: there is room, or nobody reads any more. */
	if (!buf_ok(&b) || send(KERNEL_FD, b.ptr, b.len, MSG_NOSIGNAL) != (ssize_t)b.len)
		exit(EXIT_PROTOCOL);
	buf_done(&b);
}

static void answer(struct kernel *k, int code)
{
	bool interrupted = k->interrupted;
	struct buf b;
	char text[16];

	snprintf(text, sizeof(text), "%d", code);
	buf_init(&b, 512);
	wire_put_u8(&b, interrupted ? KERNEL_INTERRUPTED : KERNEL_OK);
	wire_put_u8(&b, interrupted ? KERNEL_VALUE_NONE : KERNEL_VALUE_INT);
	wire_put_blob(&b, str_from(interrupted ? "" : text));
	wire_put_blob(&b, str_from(interrupted           ? "Interrupted"
				   : code == CODE_KILLED ? KERNEL_NAME_KILLED
							 : ""));
	wire_put_blob(&b, str_from(interrupted ? "the command was interrupted" : ""));
	wire_put_blob(&b, STR(""));
	send_frame(KERNEL_DONE, buf_str(&b));
	buf_done(&b);
	k->asked = k->handed = false;
	k->refusals = 0;
	buf_consume(&k->in, k->run.size);
	k->run.size = 0;
	if (!k->in.len && k->in.cap > 256 * 1024)
		buf_done(&k->in);
}

/* Edge-triggered: each line that bash has read is one event. */
static int watch(struct kernel *k, int fd, uint32_t events)
{
	struct epoll_event ev = { .events = events, .data.fd = fd };

	return epoll_ctl(k->epoll_fd, EPOLL_CTL_ADD, fd, &ev);
}

static void start(struct kernel *k, bool state)
{
	k->starts++;
	/* After an interrupt nobody expects a shell with other options. */
	if (shell_start(&k->shell, state, k->interrupted) < 0 ||
	    watch(k, k->shell.ctl_fd, EPOLLIN | EPOLLOUT | EPOLLET) < 0)
		shell_kill(&k->shell);
}

/* Gives the waiting command to the shell, which may have to be started for it. */
static void hand_over(struct kernel *k)
{
	struct str code = { k->in.ptr + k->run.code_begin, k->run.code_len };

	if (!k->asked || k->handed)
		return;
	if (k->shell.state == SHELL_DOWN) {
		k->starts = 0;
		start(k, true);
		if (k->shell.state == SHELL_DOWN) {
			say("bash: cannot be started: the session has no processes or memory left\n");
			answer(k, CODE_NO_SHELL);
		}
		return;
	}
	if (k->shell.state != SHELL_IDLE)
		return;
	if (!k->run.is_argv && memchr(code.ptr, '\0', code.len)) {
		say("bash: the command has a NUL character, which no command can have\n");
		answer(k, 2);
		return;
	}
	k->interrupted = false;
	k->insist_ms = INSIST_MS_FIRST;
	if (shell_run(&k->shell, code, k->run.is_argv) == 0) {
		k->handed = true;
		return;
	}
	say("bash: the command does not fit into the session's memory\n");
	answer(k, CODE_NO_SHELL);
}

/* A shell has gone, or takes no commands; the next one starts when its last command is answered.
 * What it left may be what breaks it: the second attempt is without. */
static void replace(struct kernel *k, bool state, int code)
{
	shell_kill(&k->shell);
	if (k->handed)
		answer(k, code);
	if (k->starts < 2) {
		start(k, state && k->starts == 0);
	} else if (k->asked) {
		say("bash: ends as soon as it starts: the session has no processes or memory left\n");
		answer(k, CODE_NO_SHELL);
	}
}

static void on_event(struct kernel *k, enum shell_event event)
{
	switch (event) {
	case SHELL_NOTHING:
		break;
	case SHELL_STRAYED:
		say("bash: break or continue outside of a loop: the rest of the command was not run\n");
		/* fallthrough */
	case SHELL_FINISHED:
		answer(k, k->shell.exit_code);
		break;
	case SHELL_READY:
		k->starts = 0;
		hand_over(k);
		break;
	case SHELL_ENDED:
		replace(k, true, k->shell.exit_code);
		break;
	case SHELL_REFUSED:
		k->handed = false;
		if (k->refusals++ == 0)
			say("bash: could run no more commands (restricted? no descriptors left?) "
			    "and was replaced\n");
		if (k->refusals > 2)
			answer(k, CODE_NO_SHELL);
		replace(k, k->refusals < 2, 0);
		break;
	case SHELL_BROKEN:
		if (k->handed)
			say("bash: takes no more commands after this one (set -n? a function named "
			    "builtin?) and was replaced; variables and functions are those before "
			    "it\n");
		replace(k, true, CODE_NO_SHELL);
		break;
	}
}

/* Everything that bash has said, and whether it lives. */
static void look_at_shell(struct kernel *k)
{
	enum shell_event event;

	while ((event = shell_take(&k->shell)) != SHELL_NOTHING)
		on_event(k, event);
}

static void on_signal(struct kernel *k)
{
	struct signalfd_siginfo info;

	while (read(k->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		if (info.ssi_signo == SIGINT) {
			/* bash has it too: it is of the same process group. */
			k->interrupted = true;
			if (k->asked && !k->handed)
				answer(k, CODE_NO_SHELL);
		} else if (info.ssi_signo == SIGCHLD) {
			look_at_shell(k);
			on_event(k, shell_reap(&k->shell));
		}
	}
}

/* Takes a RUN from the start of `in`; false if there is none yet, or the last is not answered. */
static bool take_frame(struct kernel *k)
{
	int rc = k->asked ? 0 : run_frame_parse(buf_str(&k->in), &k->run);

	if (rc < 0)
		exit(EXIT_PROTOCOL);
	if (rc == 0)
		return false;
	if (k->run.number == 0) {
		/* The warm-up: an empty command goes all the way of any other. */
		k->run.code_len = 0;
		k->run.is_argv = false;
	}
	k->asked = true;
	hand_over(k);
	return true;
}

static void on_socket(struct kernel *k)
{
	if (!buf_reserve(&k->in, 65536))
		exit(EXIT_PROTOCOL);
	ssize_t n = recv(KERNEL_FD, k->in.ptr + k->in.len, k->in.cap - k->in.len - 1, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		/* A last chance for what commands trap. */
		if (k->shell.pid > 0)
			kill(k->shell.pid, SIGHUP);
		/* Reset: it went without having read our last answer. */
		exit((n == 0 || errno == ECONNRESET) && k->in.len == k->run.size ? 0
										 : EXIT_PROTOCOL);
	}
	k->in.len += (size_t)n;
}

static int init(struct kernel *k)
{
	sigset_t all, wanted;

	*k = (struct kernel){ 0 };
	buf_init(&k->in, KERNEL_FRAME_MAX + KERNEL_HEADER_SIZE + 65536);
	/* `kill 0` in a command is for the command, not for its kernel. */
	sigfillset(&all);
	sigemptyset(&wanted);
	sigaddset(&wanted, SIGINT);
	sigaddset(&wanted, SIGCHLD);
	k->signal_fd = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK);
	k->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (sigprocmask(SIG_SETMASK, &all, NULL) < 0 || k->signal_fd < 0 || k->epoll_fd < 0 ||
	    fcntl(KERNEL_FD, F_SETFD, FD_CLOEXEC) < 0 || shell_init(&k->shell) < 0 ||
	    watch(k, KERNEL_FD, EPOLLIN) < 0 || watch(k, k->signal_fd, EPOLLIN) < 0)
		return -1;
	return 0;
}

static void send_ready(void)
{
	struct buf b;

	buf_init(&b, 16);
	wire_put_u32(&b, (uint32_t)getpid());
	send_frame(KERNEL_READY, buf_str(&b));
	buf_done(&b);
}

int main(int argc, char **argv)
{
	static struct kernel k;

	if (argc == 3)
		return exec_main(argv[1], argv[2]);
	if (init(&k) < 0) {
		perror("bivouac-kernel-shell");
		return EXIT_SYSTEM;
	}
	start(&k, false);
	send_ready();
	for (;;) {
		struct epoll_event events[4];
		bool insist = k.handed && k.interrupted && k.insist_ms <= INSIST_MS_LAST;
		int n = epoll_wait(k.epoll_fd, events, ARRAY_LEN(events),
				   insist ? k.insist_ms : -1);

		if (n == 0) {
			shell_interrupt_stragglers(&k.shell);
			k.insist_ms *= 2;
		}
		for (int i = 0; i < n; i++) {
			if (events[i].data.fd == KERNEL_FD)
				on_socket(&k);
			else if (events[i].data.fd == k.signal_fd)
				on_signal(&k);
			else
				look_at_shell(&k);
		}
		while (take_frame(&k))
			;
	}
}
