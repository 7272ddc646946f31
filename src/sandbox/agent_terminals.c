/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Terminals of one link: a record per terminal that was opened or attached here, which lives until
 * the terminal ends, also while nobody is attached: its input window goes on from one who is
 * attached to the next, as the agent's does.
 *
 * SECURITY: an agent may send anything at any time. Output counts only between the answer to the
 * last attach and its end, and never beyond what was credited since; the number of records is that
 * of terminals an agent may have.
 */
#include "base/wire.h"
#include "sandbox/agent_frames.h"
#include "sandbox/internal.h"

#include <assert.h>
#include <stdlib.h>

struct agent_terminal {
	struct list node;
	struct agent_link *link;
	uint64_t op;
	const struct agent_terminal_events *ev; /* NULL: nobody is attached */
	void *arg;
	unsigned answers;    /* to TERM_OPEN and TERM_ATTACH that are still to come */
	uint32_t out_window; /* bytes of output that may come */
	uint32_t in_window;  /* bytes of input that may be sent */
	bool starved;
};

static struct agent_terminal *terminal_find(struct agent_link *l, uint64_t op)
{
	list_each(&l->terminals, struct agent_terminal, node, t)
		if (t->op == op)
			return t;
	return NULL;
}

static struct agent_terminal *terminal_new(struct agent_link *l, uint64_t op)
{
	struct agent_terminal *t =
		l->terminal_count < 2 * AGENT_TERMINALS_MAX ? calloc(1, sizeof(*t)) : NULL;

	if (!t)
		return NULL;
	t->link = l;
	t->op = op;
	t->in_window = AGENT_STREAM_WINDOW;
	l->terminal_count++;
	list_add_tail(&l->terminals, &t->node);
	return t;
}

static void terminal_forget(struct agent_terminal *t)
{
	t->link->terminal_count--;
	list_remove(&t->node);
	free(t);
}

static void terminal_failed(struct agent_terminal *t, const struct err *e)
{
	const struct agent_terminal_events *ev = t->ev;
	void *arg = t->arg;

	terminal_forget(t);
	if (ev)
		ev->failed(arg, e);
}

static bool take_ended(struct agent_link *l, uint64_t op, const struct agent_terminal_change *c)
{
	struct agent_terminal *t = terminal_find(l, op);
	const struct agent_terminal_events *ev = t ? t->ev : NULL;
	void *arg = t ? t->arg : NULL;

	if (t)
		terminal_forget(t);
	if (ev)
		ev->ended(arg, c->death, c->code);
	else
		l->events->terminal_ended(l->arg, op);
	return true;
}

static bool take_state(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	struct agent_terminal *t = terminal_find(l, op);
	struct agent_terminal_change c;

	if (!agent_frame_terminal_state(r, &c))
		return false;
	if (c.ended)
		return take_ended(l, op, &c);
	if (!t || !t->answers)
		return false;
	if (--t->answers || !t->ev)
		return true;
	t->out_window = AGENT_STREAM_WINDOW;
	t->ev->attached(t->arg);
	return true;
}

static bool take_output(struct agent_link *l, uint64_t op, struct str bytes)
{
	struct agent_terminal *t = terminal_find(l, op);

	if (bytes.len > AGENT_STREAM_CHUNK)
		return false;
	/* On its way when somebody else attached, or nobody was any more. */
	if (!t || !t->ev || t->answers || !bytes.len)
		return true;
	if (bytes.len > t->out_window)
		return false;
	t->out_window -= (uint32_t)bytes.len;
	t->ev->output(t->arg, bytes);
	return true;
}

static bool take_credit(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	struct agent_terminal *t = terminal_find(l, op);
	uint32_t bytes = wire_get_u32(r);

	if (!wire_ok(r))
		return false;
	if (!t)
		return true;
	/* More than was sent here: an earlier daemon's input was taken now. */
	if (bytes > AGENT_STREAM_WINDOW - t->in_window)
		bytes = AGENT_STREAM_WINDOW - t->in_window;
	t->in_window += bytes;
	if (t->starved && t->ev && t->in_window >= AGENT_STREAM_CHUNK) {
		t->starved = false;
		t->ev->drained(t->arg);
	}
	return true;
}

bool terminals_take(struct agent_link *l, enum agent_msg type, uint64_t op, struct str payload)
{
	struct wire_reader r = wire_reader(payload.ptr, payload.len);

	switch (type) {
	case AGENT_TERM_OUTPUT:
		return take_output(l, op, payload);
	case AGENT_TERM_CREDIT:
		return take_credit(l, op, &r);
	default:
		return take_state(l, op, &r);
	}
}

void terminals_take_error(struct agent_link *l, uint64_t op, const struct err *e)
{
	struct agent_terminal *t = terminal_find(l, op);

	/* There is none: what was asked after that is answered in the same way, to nobody. */
	if (!t)
		return;
	bool listened = t->ev;

	terminal_failed(t, e);
	if (!listened && !l->freed)
		l->events->terminal_ended(l->arg, op);
}

void terminals_fail(struct agent_link *l, const struct err *e, bool freeing)
{
	while ((freeing || !l->freed) && !list_empty(&l->terminals))
		terminal_failed(list_first(&l->terminals, struct agent_terminal, node), e);
}

static void send_attach(struct agent_terminal *t, const struct agent_terminal_events *ev, void *arg)
{
	t->ev = ev;
	t->arg = arg;
	t->starved = false;
	t->answers++;
	link_send_u32(t->link, AGENT_TERM_ATTACH, t->op, AGENT_STREAM_WINDOW);
}

struct agent_terminal *agent_terminal_open(struct agent_link *l, uint64_t op,
					   const struct agent_terminal_params *p, int fd,
					   const struct agent_terminal_events *ev, void *arg)
{
	struct agent_terminal *t = terminal_new(l, op);
	struct buf b;

	if (!t) {
		close(fd);
		return NULL;
	}
	buf_init(&b, 16384);
	wire_put_u16(&b, p->columns);
	wire_put_u16(&b, p->rows);
	wire_put_blob(&b, p->term);
	wire_put_blob(&b, p->command);
	wire_put_blob(&b, p->label);
	assert(buf_ok(&b));
	t->answers++;
	link_send_fd(l, AGENT_TERM_OPEN, op, buf_str(&b), fd);
	buf_done(&b);
	send_attach(t, ev, arg);
	return t;
}

struct agent_terminal *agent_terminal_attach(struct agent_link *l, uint64_t op,
					     const struct agent_terminal_events *ev, void *arg)
{
	struct agent_terminal *t = terminal_find(l, op);

	assert(!t || !t->ev);
	if (!t)
		t = terminal_new(l, op);
	if (t)
		send_attach(t, ev, arg);
	return t;
}

size_t agent_terminal_input(struct agent_terminal *t, const char *data, size_t len)
{
	size_t sent = 0;

	while (sent < len && t->in_window) {
		size_t n = len - sent;

		if (n > t->in_window)
			n = t->in_window;
		if (n > AGENT_STREAM_CHUNK)
			n = AGENT_STREAM_CHUNK;
		if (link_send(t->link, AGENT_TERM_INPUT, t->op, (struct str){ data + sent, n },
			      (struct str){ 0 }) < 0)
			break;
		t->in_window -= (uint32_t)n;
		sent += n;
	}
	if (sent < len)
		t->starved = true;
	return sent;
}

void agent_terminal_credit(struct agent_terminal *t, size_t bytes)
{
	assert(bytes <= AGENT_STREAM_WINDOW - t->out_window);
	t->out_window += (uint32_t)bytes;
	link_send_u32(t->link, AGENT_TERM_CREDIT, t->op, (uint32_t)bytes);
}

void agent_terminal_resize(struct agent_terminal *t, uint16_t columns, uint16_t rows)
{
	link_send_u32(t->link, AGENT_TERM_RESIZE, t->op, columns | (uint32_t)rows << 16);
}

void agent_terminal_signal(struct agent_terminal *t, int signum)
{
	link_send_u32(t->link, AGENT_TERM_SIGNAL, t->op, (uint32_t)signum);
}

void agent_terminal_detach(struct agent_terminal *t)
{
	if (!t)
		return;
	t->ev = NULL;
	link_send(t->link, AGENT_TERM_DETACH, t->op, (struct str){ 0 }, (struct str){ 0 });
}

void agent_terminal_close(struct agent_terminal *t)
{
	agent_terminal_end(t->link, t->op);
}

void agent_terminal_end(struct agent_link *l, uint64_t op)
{
	link_send(l, AGENT_TERM_CLOSE, op, (struct str){ 0 }, (struct str){ 0 });
}
