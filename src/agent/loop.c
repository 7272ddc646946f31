/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/clock.h"
#include "base/own.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

void agent_watch(struct agent *a, int fd, enum agent_event event, size_t slot, uint32_t events,
		 uint32_t *watched)
{
	struct epoll_event ev = { .events = events,
				  .data.u64 = (uint64_t)slot << 32 | (uint32_t)event };

	if (events == *watched)
		return;
	epoll_ctl(a->epoll_fd,
		  !events     ? EPOLL_CTL_DEL
		  : !*watched ? EPOLL_CTL_ADD
			      : EPOLL_CTL_MOD,
		  fd, &ev);
	*watched = events;
}

void agent_rearm(struct agent *a)
{
	int64_t at_ns = a->orphans_ns;

	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		if (a->kernels[i])
			at_ns = agent_sooner(at_ns, a->kernels[i]->deadline_ns);
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		if (a->terminals[i])
			at_ns = agent_sooner(at_ns, a->terminals[i]->deadline_ns);
	if (at_ns == a->armed_ns)
		return;
	struct itimerspec at = { .it_value = { at_ns / 1000000000, at_ns % 1000000000 } };

	a->armed_ns = at_ns;
	timerfd_settime(a->timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

void agent_deadlines(struct agent *a)
{
	int64_t now_ns = clock_mono_ns();

	a->armed_ns = 0;
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++) {
		struct agent_kernel *k = a->kernels[i];

		if (k && k->deadline_ns && k->deadline_ns <= now_ns)
			kernel_deadline(a, k);
	}
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++) {
		struct agent_terminal *t = a->terminals[i];

		if (t && t->deadline_ns && t->deadline_ns <= now_ns)
			terminal_deadline(a, t);
	}
	if (a->orphans_ns && a->orphans_ns <= now_ns)
		reap_orphans(a);
	agent_rearm(a);
}

/* An event may be older than what is in the slot now: then there is nothing to read, and that is
 * all that happens. */
static void dispatch_kernel(struct agent *a, enum agent_event event, size_t slot, uint32_t events)
{
	struct agent_kernel *k = a->kernels[slot];

	if (!k)
		return;
	if (event == EVENT_KERNEL)
		kernel_event(a, k, events);
	else
		output_event(a, k, &k->streams[event - EVENT_STDOUT]);
}

static void dispatch(struct agent *a, const struct epoll_event *ev)
{
	enum agent_event event = (enum agent_event)(uint32_t)ev->data.u64;
	size_t slot = ev->data.u64 >> 32;
	struct signalfd_siginfo info;
	uint64_t ticks;

	switch (event) {
	case EVENT_LISTEN:
		conn_accept(a);
		break;
	case EVENT_CONN:
		conn_event(a, ev->events);
		break;
	case EVENT_KERNEL:
	case EVENT_STDOUT:
	case EVENT_STDERR:
		dispatch_kernel(a, event, slot, ev->events);
		break;
	case EVENT_LAUNCHER:
		if (a->terminals[slot])
			terminal_launched(a, a->terminals[slot]);
		break;
	case EVENT_TERMINAL:
		if (a->terminals[slot])
			terminal_event(a, a->terminals[slot], ev->events);
		break;
	case EVENT_SIGNAL:
		while (read(a->signal_fd, &info, sizeof(info)) > 0)
			;
		reap_children(a);
		break;
	case EVENT_TIMER:
		if (read(a->timer_fd, &ticks, sizeof(ticks)) > 0)
			agent_deadlines(a);
		break;
	}
	kernels_tidy(a);
}

int agent_turn(struct agent *a, int timeout_ms)
{
	struct epoll_event events[16];
	int n = epoll_wait(a->epoll_fd, events, ARRAY_LEN(events), a->reaping ? 0 : timeout_ms);

	if (n < 0)
		return errno == EINTR ? 0 : -1;
	for (int i = 0; i < n; i++)
		dispatch(a, &events[i]);
	if (a->reaping)
		reap_children(a);
	kernels_tidy(a);
	return n;
}
