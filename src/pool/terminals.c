/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Terminals of a session. A place is a terminal that the sandbox has, or is about to have; a struct
 * terminal is who is attached to one, or waits to be. The agent keeps the id as the label.
 *
 * SECURITY: an id is 128 random bits, and found in its session alone: who may use the session may
 * use its terminals. What the agent says of terminals that nobody opened here is dropped.
 */
#include "pool/internal.h"

#include "base/rand.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ID_LEN      32
#define TERM_MAX    64
#define COMMAND_MAX 4096
#define SIDE_MAX    1000
#define SIGNAL_MAX  64

struct terminal_place {
	struct list node; /* session.terminals */
	struct session *session;
	char id[ID_LEN + 1];
	uint64_t op;
	bool there;                   /* it is in the sandbox */
	bool asked;                   /* its launcher is on its way */
	struct agent_terminal *agent; /* while somebody is attached */
	struct terminal *terminal;
};

struct terminal {
	struct list node; /* session.replaced */
	struct session *session;
	struct session_wait *wait;
	struct terminal_place *place;
	const struct terminal_events *ev;
	void *arg;
	bool fresh;
	bool attached;
	bool closing;
	bool inside;     /* terminal_open() has not returned */
	size_t returned; /* bytes passed on, and not credited to the agent yet */
	uint16_t columns, rows;
	char id[ID_LEN + 1]; /* that was asked for, or "" */
	char term[TERM_MAX + 1];
	char *command;
	struct err early; /* why it could not even wait */
};

static void terminal_free(struct terminal *t)
{
	list_remove(&t->node);
	free(t->command);
	free(t);
}

static void place_free(struct terminal_place *p)
{
	list_remove(&p->node);
	p->session->terminal_count--;
	free(p);
}

static void terminal_fail(struct terminal *t, const struct err *e)
{
	const struct terminal_events *ev = t->ev;
	void *arg = t->arg;

	terminal_free(t);
	ev->failed(arg, e);
}

/* The end of a place; returns who has to be told. */
static struct terminal *leave(struct terminal_place *p)
{
	struct terminal *t = p->terminal;

	if (t)
		t->place = NULL;
	place_free(p);
	return t;
}

static bool is_id(struct str id)
{
	for (size_t i = 0; i < id.len; i++)
		if (!((id.ptr[i] >= '0' && id.ptr[i] <= '9') ||
		      (id.ptr[i] >= 'a' && id.ptr[i] <= 'f')))
			return false;
	return id.len == ID_LEN;
}

static struct terminal_place *place_find(const struct session *s, const char *id)
{
	list_each(&s->terminals, struct terminal_place, node, p)
		if (strcmp(p->id, id) == 0)
			return p;
	return NULL;
}

static struct terminal_place *place_of_op(const struct session *s, uint64_t op)
{
	list_each(&s->terminals, struct terminal_place, node, p)
		if (p->op == op)
			return p;
	return NULL;
}

static struct terminal_place *place_new(struct session *s, uint64_t op)
{
	struct terminal_place *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->session = s;
	p->op = op;
	list_add_tail(&s->terminals, &p->node);
	s->terminal_count++;
	return p;
}

/* --- what the agent says --- */

static void on_attached(void *arg)
{
	struct terminal_place *p = arg;
	struct terminal *t = p->terminal;

	p->there = true;
	t->attached = true;
	if (!t->fresh)
		agent_terminal_resize(p->agent, t->columns, t->rows);
	t->ev->attached(t->arg, p->id, t->fresh);
}

static void on_output(void *arg, struct str bytes)
{
	struct terminal *t = ((struct terminal_place *)arg)->terminal;

	t->ev->output(t->arg, bytes);
}

static void on_drained(void *arg)
{
	struct terminal *t = ((struct terminal_place *)arg)->terminal;

	t->ev->drained(t->arg);
}

static void on_ended(void *arg, enum agent_death death, uint32_t code)
{
	struct terminal *t = leave(arg);
	const struct terminal_events *ev = t->ev;
	void *ev_arg = t->arg;

	terminal_free(t);
	ev->ended(ev_arg, death, code);
}

static void on_failed(void *arg, const struct err *e)
{
	terminal_fail(leave(arg), e);
}

static const struct agent_terminal_events agent_events = {
	.attached = on_attached,
	.output = on_output,
	.drained = on_drained,
	.ended = on_ended,
	.failed = on_failed,
};

void terminal_gone(struct session *s, uint64_t op)
{
	struct terminal_place *p = place_of_op(s, op);

	if (p && p->there && !p->terminal)
		place_free(p);
}

void terminals_status(struct session *s, const struct agent_status *status)
{
	for (size_t i = 0; i < status->terminal_count; i++) {
		const struct agent_status_terminal *there = &status->terminals[i];
		char id[ID_LEN + 1];

		if (!is_id(there->label) || !str_copy(there->label, id, sizeof(id)) ||
		    place_find(s, id))
			continue;
		struct terminal_place *p = place_new(s, there->op);

		if (!p)
			continue;
		memcpy(p->id, id, sizeof(id));
		p->there = true;
	}
}

/* --- opening --- */

struct launcher_call {
	struct sandbox *sandbox;
	struct terminal_place *place;
};

static void launched(struct terminal_place *p, int fd)
{
	struct terminal *t = p->terminal;
	struct agent_terminal_params params = {
		.columns = t->columns,
		.rows = t->rows,
		.term = str_from(t->term),
		.command = str_from(t->command),
		.label = str_from(p->id),
	};
	struct err e = ERR_INIT;

	p->agent = agent_terminal_open(p->session->sandbox->link, p->op, &params, fd, &agent_events,
				       p);
	if (!p->agent) {
		err_set(&e, ERR_UNAVAILABLE, "no terminal can be opened now");
		on_failed(p, &e);
	} else if (t->closing) {
		agent_terminal_close(p->agent);
	}
}

static void launcher_started(void *arg, int fd, const struct err *e)
{
	struct launcher_call *call = arg;
	struct sandbox *sb = call->sandbox;
	struct terminal_place *p = call->place;

	free(call);
	/* With the sandbox the session has ended, and all its places. */
	if (sandbox_call_returned(sb)) {
		if (fd >= 0)
			close(fd);
		return;
	}
	p->asked = false;
	if (!p->terminal) {
		place_free(p); /* who wanted it has gone; the end of its socket ends it */
		if (fd >= 0)
			close(fd);
	} else if (fd < 0) {
		on_failed(p, e);
	} else {
		launched(p, fd);
	}
}

static int open_new(struct terminal *t, struct err *e)
{
	struct session *s = t->session;
	struct backend *b = s->pool->pools->config.backend;
	int max = s->pool->pools->config.terminals_max;
	unsigned char random[ID_LEN / 2];

	if (s->terminal_count >= (size_t)max)
		return err_set(e, ERR_QUOTA,
			       "The session already has %zu terminals, the limit of this server "
			       "(--terminals-max). Close one: GET .../terminals lists them, DELETE "
			       ".../terminals/{id} closes (bivouac session terminal list, delete).",
			       s->terminal_count);
	struct launcher_call *call = malloc(sizeof(*call));
	struct terminal_place *p = call ? place_new(s, rand_u64() | 1) : NULL;

	if (!p) {
		free(call);
		return err_set(e, ERR_NOMEM, "out of memory");
	}
	rand_bytes(random, sizeof(random));
	hex_encode(random, sizeof(random), p->id);
	p->terminal = t;
	p->asked = true;
	t->place = p;
	t->fresh = true;
	*call = (struct launcher_call){ s->sandbox, p };
	s->sandbox->calls++;
	b->ops->start_kernel(b, s->sandbox->sid, "terminal", launcher_started, call);
	return 0;
}

static void replace(struct terminal_place *p)
{
	struct terminal *old = p->terminal;
	struct session *s = p->session;

	p->terminal = NULL;
	agent_terminal_detach(p->agent);
	p->agent = NULL;
	old->place = NULL;
	list_add_tail(&s->replaced, &old->node);
	session_later(s);
}

static struct terminal_place *place_there(const struct session *s, const char *id, struct err *e)
{
	struct terminal_place *p = place_find(s, id);

	if (p && p->there)
		return p;
	err_set(e, ERR_NO_TERMINAL,
		"The session has no terminal '%s'. Its program may have ended; open a new one.",
		id);
	return NULL;
}

static int attach(struct terminal *t, struct err *e)
{
	struct session *s = t->session;
	struct terminal_place *p = place_there(s, t->id, e);

	if (!p)
		return -1;
	if (p->terminal)
		replace(p);
	p->agent = agent_terminal_attach(s->sandbox->link, p->op, &agent_events, p);
	if (!p->agent)
		return err_set(e, ERR_UNAVAILABLE, "no terminal can be attached now");
	p->terminal = t;
	t->place = p;
	return 0;
}

static int begin(struct terminal *t, struct err *e)
{
	return t->id[0] ? attach(t, e) : open_new(t, e);
}

static void session_opened(void *arg, struct session *s, struct agent_link *link)
{
	struct terminal *t = arg;
	struct err e = ERR_INIT;

	(void)s;
	(void)link;
	t->wait = NULL;
	if (begin(t, &e) == 0)
		return;
	if (t->inside)
		t->early = e;
	else
		terminal_fail(t, &e);
}

static void session_failed(void *arg, const struct err *e)
{
	struct terminal *t = arg;

	t->wait = NULL;
	if (t->inside)
		t->early = *e;
	else
		terminal_fail(t, e);
}

static bool is_term(struct str term)
{
	for (size_t i = 0; i < term.len; i++) {
		char c = term.ptr[i];

		if (!((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
		      (c && strchr("+-._", c))))
			return false;
	}
	return term.len >= 1 && term.len <= TERM_MAX;
}

static int check_id(struct str id, struct err *e)
{
	return is_id(id) ? 0
			 : err_set(e, ERR_NO_TERMINAL,
				   "The id of a terminal has %d hexadecimal digits.", ID_LEN);
}

static int check(const struct terminal_params *p, struct err *e)
{
	if (p->columns < 1 || p->columns > SIDE_MAX || p->rows < 1 || p->rows > SIDE_MAX)
		return err_set(e, ERR_INVALID,
			       "A terminal has 1 to %d columns and 1 to %d rows, not %u and %u.",
			       SIDE_MAX, SIDE_MAX, p->columns, p->rows);
	if (p->term.len && !is_term(p->term))
		return err_set(
			e, ERR_INVALID,
			"The name of the kind of terminal (term) has 1 to %d letters, digits "
			"and + - . _ only.",
			TERM_MAX);
	if (p->command.len > COMMAND_MAX)
		return err_set(e, ERR_INVALID,
			       "The command of a terminal has at most %d bytes, not %zu.",
			       COMMAND_MAX, p->command.len);
	if (p->command.len && memchr(p->command.ptr, '\0', p->command.len))
		return err_set(e, ERR_INVALID, "The command contains a NUL character.");
	return p->id.len ? check_id(p->id, e) : 0;
}

static struct terminal *terminal_new(struct session *s, const struct terminal_params *p,
				     struct err *e)
{
	struct terminal *t = calloc(1, sizeof(*t));

	if (!t || !(t->command = str_dup(p->command))) {
		free(t);
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	list_init(&t->node);
	t->session = s;
	t->columns = p->columns;
	t->rows = p->rows;
	str_copy(p->id, t->id, sizeof(t->id));
	str_copy(p->term.len ? p->term : STR("xterm-256color"), t->term, sizeof(t->term));
	return t;
}

struct terminal *terminal_open(struct session *s, const struct terminal_params *p,
			       const struct terminal_events *ev, void *arg, struct err *e)
{
	struct terminal *t = check(p, e) < 0 ? NULL : terminal_new(s, p, e);

	if (!t)
		return NULL;
	t->ev = ev;
	t->arg = arg;
	t->early = ERR_INIT;
	t->inside = true;
	t->wait = session_when_open(s, session_opened, session_failed, t);
	t->inside = false;
	if (t->early.code == ERR_NONE)
		return t;
	*e = t->early;
	terminal_free(t);
	return NULL;
}

/* --- use --- */

static struct agent_terminal *agent_of(const struct terminal *t)
{
	return t->place && t->attached ? t->place->agent : NULL;
}

size_t terminal_input(struct terminal *t, const char *data, size_t len)
{
	return agent_of(t) ? agent_terminal_input(agent_of(t), data, len) : 0;
}

void terminal_credit(struct terminal *t, size_t bytes)
{
	t->returned += bytes;
	if (!agent_of(t) || t->returned < AGENT_STREAM_WINDOW / 4)
		return;
	agent_terminal_credit(agent_of(t), t->returned);
	t->returned = 0;
}

void terminal_resize(struct terminal *t, uint16_t columns, uint16_t rows)
{
	if (columns < 1 || columns > SIDE_MAX || rows < 1 || rows > SIDE_MAX)
		return;
	t->columns = columns;
	t->rows = rows;
	if (t->place && t->place->agent)
		agent_terminal_resize(t->place->agent, columns, rows);
}

void terminal_signal(struct terminal *t, int signum)
{
	if (agent_of(t) && signum >= 1 && signum <= SIGNAL_MAX)
		agent_terminal_signal(agent_of(t), signum);
}

void terminal_detach(struct terminal *t)
{
	struct terminal_place *p = t ? t->place : NULL;

	if (!t)
		return;
	session_wait_cancel(t->wait);
	if (p) {
		/* Nobody was told its id. */
		if (p->agent && t->fresh && !t->attached)
			agent_terminal_close(p->agent);
		p->there |= p->agent != NULL;
		agent_terminal_detach(p->agent);
		p->agent = NULL;
		p->terminal = NULL;
		session_touch(t->session); /* from now on it is idle */
	}
	terminal_free(t);
}

void terminal_close(struct terminal *t)
{
	t->closing = true;
	if (t->place && t->place->agent)
		agent_terminal_close(t->place->agent);
}

int terminal_delete(struct session *s, struct str id, struct err *e)
{
	char text[ID_LEN + 1];

	if (check_id(id, e) < 0)
		return -1;
	str_copy(id, text, sizeof(text));
	struct terminal_place *p = place_there(s, text, e);

	if (!p)
		return -1;
	agent_terminal_end(s->sandbox->link, p->op);
	return 0;
}

bool terminals_attached(const struct session *s)
{
	list_each(&s->terminals, struct terminal_place, node, p)
		if (p->terminal)
			return true;
	return false;
}

void terminals_settle(struct session *s)
{
	while (!list_empty(&s->replaced)) {
		struct terminal *t = list_first(&s->replaced, struct terminal, node);
		const struct terminal_events *ev = t->ev;
		void *arg = t->arg;

		terminal_free(t);
		ev->replaced(arg);
	}
}

void terminals_fail_all(struct session *s, const struct err *e)
{
	terminals_settle(s);
	while (!list_empty(&s->terminals)) {
		struct terminal_place *p = list_first(&s->terminals, struct terminal_place, node);

		agent_terminal_detach(p->agent);
		struct terminal *t = leave(p);

		if (t)
			terminal_fail(t, e);
	}
}

void terminal_each(const struct session *s, void (*fn)(const char *id, bool attached, void *arg),
		   void *arg)
{
	list_each(&s->terminals, struct terminal_place, node, p)
		if (p->there)
			fn(p->id, p->terminal != NULL, arg);
}
