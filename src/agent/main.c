/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/own.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

static int agent_init(struct agent *a)
{
	uint32_t unwatched[3] = { 0 };
	sigset_t chld;

	*a = (struct agent){ .conn = { .fd = -1 } };
	buf_init(&a->conn.in, AGENT_FRAME_MAX + AGENT_HEADER_SIZE + 4096);
	buf_init(&a->conn.out, 64u << 20);
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
	agent_watch(a, AGENT_LISTEN_FD, EVENT_LISTEN, 0, EPOLLIN, &unwatched[0]);
	agent_watch(a, a->signal_fd, EVENT_SIGNAL, 0, EPOLLIN, &unwatched[1]);
	agent_watch(a, a->timer_fd, EVENT_TIMER, 0, EPOLLIN, &unwatched[2]);
	return 0;
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
	while (agent_turn(&agent, -1) >= 0)
		;
	return 1;
}
