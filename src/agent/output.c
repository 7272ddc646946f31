/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a kernel writes to its two pipes. Of an execution the first bytes are kept for its result;
 * while somebody watches, all of them leave as they come, as far as the reader has given credit and
 * the connection has room. Without either the pipe is not read: it fills, and the program's write
 * waits. Nothing is copied into memory that grows.
 *
 * What was written before a DISPLAY or DONE is in the pipes when that frame is read; the frame
 * waits until those bytes have left, then it is handled. An execution that is being ended, or that
 * nobody watches, never waits.
 */
#include "agent/agent.h"

#include "base/own.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>

/* Bounded per turn: a flood must not keep the agent from its timer or from other kernels. */
#define TURN_READS 4
/* What a pipe holds is at most a megabyte in at most 256 pieces; more has been written since. */
#define SETTLE_READS 1024

bool output_held(const struct agent *a, const struct agent_kernel *k)
{
	const struct agent_exec *x = &k->exec;

	return x->running && x->streaming && x->ending == AGENT_RESULT_OK &&
	       (!x->credit || !conn_room(a));
}

static void watch(struct agent *a, struct agent_kernel *k)
{
	bool held = output_held(a, k);

	for (size_t i = 0; i < ARRAY_LEN(k->streams); i++) {
		struct agent_output *o = &k->streams[i];

		if (o->fd >= 0)
			agent_watch(a, o->fd, EVENT_STDOUT + i, k->number,
				    held || (k->waiting && !o->ahead) ? 0 : EPOLLIN, &o->watched);
	}
}

static void close_pipe(struct agent *a, struct agent_kernel *k, struct agent_output *o)
{
	if (o->fd >= 0)
		agent_watch(a, o->fd, EVENT_STDOUT, k->number, 0, &o->watched);
	close_fd(&o->fd);
}

void output_keep(struct agent_output *o, struct str bytes)
{
	size_t room = o->kept.max > o->kept.len ? o->kept.max - o->kept.len : 0;

	o->total += bytes.len;
	buf_add(&o->kept, bytes.ptr, bytes.len < room ? bytes.len : room);
}

/* Reads once; 0: nothing is there. */
static size_t read_once(struct agent *a, struct agent_kernel *k, struct agent_output *o, size_t max)
{
	static char chunk[AGENT_STREAM_CHUNK];
	struct agent_exec *x = &k->exec;
	size_t sendable = 0;

	if (max > sizeof(chunk))
		max = sizeof(chunk);
	if (x->running && x->streaming) {
		size_t room = conn_room(a);

		sendable = x->credit < room ? x->credit : room;
		if (sendable && max > sendable)
			max = sendable;
	}
	ssize_t n = o->fd >= 0 ? read(o->fd, chunk, max) : -1;

	if (n == 0)
		close_pipe(a, k, o); /* every writer closed it; the kernel may live on */
	if (n <= 0)
		return 0;
	if (!x->running)
		return (size_t)n; /* output of a thread between executions belongs to nobody */
	output_keep(o, (struct str){ chunk, (size_t)n });
	if (sendable) {
		x->credit -= (uint32_t)n;
		conn_send_tagged(a, AGENT_EXEC_OUTPUT, x->op, o == k->streams ? 1 : 2,
				 (struct str){ chunk, (size_t)n });
	}
	return (size_t)n;
}

void output_event(struct agent *a, struct agent_kernel *k, struct agent_output *o)
{
	if (k->waiting) {
		kernel_advance(a, k);
		return;
	}
	for (int i = 0; i < TURN_READS && !output_held(a, k); i++)
		if (!read_once(a, k, o, AGENT_STREAM_CHUNK))
			break;
	watch(a, k);
}

static void mark(struct agent_output *o)
{
	int bytes = 0;

	o->ahead = o->fd >= 0 && ioctl(o->fd, FIONREAD, &bytes) == 0 && bytes > 0 ? (size_t)bytes
										  : 0;
}

bool output_settle(struct agent *a, struct agent_kernel *k, uint8_t before)
{
	if (k->waiting != before) {
		mark(&k->streams[0]);
		mark(&k->streams[1]);
		k->waiting = before;
	}
	for (size_t i = 0; i < ARRAY_LEN(k->streams); i++) {
		struct agent_output *o = &k->streams[i];

		for (int n = 0; o->ahead && !output_held(a, k); n++) {
			size_t got = n < SETTLE_READS ? read_once(a, k, o, o->ahead) : 0;

			/* Less than there was: its code reads its own pipe. */
			o->ahead -= got ? got : o->ahead;
		}
	}
	bool settled = !k->streams[0].ahead && !k->streams[1].ahead;

	/* A display costs no credit, but it needs room like everything that is sent. */
	if (before == KERNEL_DISPLAY && output_held(a, k) && !conn_room(a))
		settled = false;
	if (settled)
		k->waiting = 0;
	watch(a, k);
	return settled;
}

void output_close(struct agent *a, struct agent_kernel *k)
{
	for (size_t i = 0; i < ARRAY_LEN(k->streams); i++)
		close_pipe(a, k, &k->streams[i]);
}

void output_resume(struct agent *a, struct agent_kernel *k)
{
	if (k->waiting)
		kernel_advance(a, k);
	else
		watch(a, k);
}

void output_unwatched(struct agent *a, struct agent_kernel *k)
{
	k->exec.streaming = false;
	output_resume(a, k);
}

void outputs_pump(struct agent *a)
{
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		if (a->kernels[i] && a->kernels[i]->exec.streaming)
			output_resume(a, a->kernels[i]);
}

void outputs_reset(struct agent *a)
{
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		if (a->kernels[i] && a->kernels[i]->exec.streaming)
			output_unwatched(a, a->kernels[i]);
}
