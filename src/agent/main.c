/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

void agent_watch(struct agent *a, int fd, enum agent_event event, uint32_t events, bool add)
{
	struct epoll_event ev = { .events = events, .data.u32 = event };

	epoll_ctl(a->epoll_fd, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &ev);
}

void agent_arm(struct agent *a, enum agent_deadline what, int64_t ms)
{
	struct itimerspec at = { .it_value = { ms / 1000, (ms % 1000) * 1000000 } };

	a->deadline = ms ? what : DEADLINE_NONE;
	timerfd_settime(a->timer_fd, 0, &at, NULL);
}

static int agent_init(struct agent *a)
{
	sigset_t chld;

	*a = (struct agent){ .conn = { .fd = -1, .passed_fd = -1 }, .kernel = { .sock = -1 } };
	buf_init(&a->conn.in, AGENT_FRAME_MAX + AGENT_HEADER_SIZE + 4096);
	buf_init(&a->conn.out, 64u << 20);
	buf_init(&a->kernel.in, KERNEL_FRAME_MAX + KERNEL_HEADER_SIZE + 65536);
	buf_init(&a->kernel.out, AGENT_CODE_MAX + 4096);
	buf_init(&a->exec.displays, KERNEL_FRAME_MAX);
	a->out.fd = a->err.fd = -1;
	list_init(&a->done);
	list_init(&a->files);
	sigemptyset(&chld);
	sigaddset(&chld, SIGCHLD);
	sigprocmask(SIG_BLOCK, &chld, NULL);
	signal(SIGPIPE, SIG_IGN);
	a->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	a->signal_fd = signalfd(-1, &chld, SFD_CLOEXEC | SFD_NONBLOCK);
	a->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	a->data_dfd = open("/mnt/data", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (a->epoll_fd < 0 || a->signal_fd < 0 || a->timer_fd < 0 || a->data_dfd < 0)
		return -1;
	agent_watch(a, AGENT_LISTEN_FD, EVENT_LISTEN, EPOLLIN, true);
	agent_watch(a, a->signal_fd, EVENT_SIGNAL, EPOLLIN, true);
	agent_watch(a, a->timer_fd, EVENT_TIMER, EPOLLIN, true);
	return 0;
}

static void dispatch(struct agent *a, const struct epoll_event *ev)
{
	struct signalfd_siginfo info;
	uint64_t ticks;

	switch ((enum agent_event)ev->data.u32) {
	case EVENT_LISTEN:
		conn_accept(a);
		break;
	case EVENT_CONN:
		conn_event(a, ev->events);
		break;
	case EVENT_KERNEL:
		kernel_event(a, ev->events);
		break;
	case EVENT_STDOUT:
		kernel_output_event(a, &a->out);
		break;
	case EVENT_STDERR:
		kernel_output_event(a, &a->err);
		break;
	case EVENT_SIGNAL:
		while (read(a->signal_fd, &info, sizeof(info)) > 0)
			;
		kernel_reap(a);
		break;
	case EVENT_TIMER:
		if (read(a->timer_fd, &ticks, sizeof(ticks)) > 0)
			kernel_deadline(a);
		break;
	}
}

int main(void)
{
	static struct agent agent;

	/* SECURITY: same user as the sandbox's code; not dumpable means no ptrace, no /proc/1/mem,
	 * no /proc/1/fd. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	fcntl(AGENT_LISTEN_FD, F_SETFD, FD_CLOEXEC);
	fcntl(AGENT_OOM_FD, F_SETFD, FD_CLOEXEC);
	if (agent_init(&agent) < 0)
		return 1;
	for (;;) {
		struct epoll_event events[16];
		int n = epoll_wait(agent.epoll_fd, events, ARRAY_LEN(events), -1);

		if (n < 0 && errno != EINTR)
			return 1;
		for (int i = 0; i < n; i++)
			dispatch(&agent, &events[i]);
	}
}
