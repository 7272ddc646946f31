/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The kernels of a session. A context is a name, a language and a queue here; the agent knows it by
 * the number of its kernel, and keeps a label for the next daemon.
 *
 * One that is deleted stays in the list, without its name, until its kernel has ended: until then
 * what the agent says of the number is about it. A new one takes a number that is free, else that
 * of one which is ending, and then starts its kernel after that.
 */
#include "pool/internal.h"

#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KERNEL_FAILURES_MAX 5
#define KERNEL_STABLE_MS    1000
#define RETRY_MIN_MS        50

/* A START_KERNEL under way. */
struct kernel_call {
	struct sandbox *sandbox;
	struct context *context;
};

static void start_kernel(struct context *c);

static void retry_kernel(void *arg)
{
	struct context *c = arg;

	if (!c->session->ended)
		start_kernel(c);
}

static int context_init(struct context *c, struct session *s, struct str name, const char *language,
			struct err *e)
{
	c->session = s;
	c->language = language;
	c->number = -1;
	c->kernel = CONTEXT_KERNEL_WAITS;
	list_init(&c->node);
	list_init(&c->queue);
	c->overdue = loop_timer_new(context_overdue, c);
	if (!c->overdue || !str_copy(name, c->name, sizeof(c->name)))
		return err_set(e, ERR_NOMEM, "out of memory");
	list_add_tail(&s->contexts, &c->node);
	return 0;
}

static void context_done(struct context *c)
{
	loop_timer_free(c->overdue);
	loop_timer_free(c->retry);
	list_remove(&c->node);
}

int contexts_init(struct session *s, struct err *e)
{
	return context_init(&s->first, s, STR(CONTEXT_DEFAULT), s->pool->runtime->languages[0], e);
}

void contexts_done(struct session *s)
{
	list_each(&s->contexts, struct context, node, c) {
		context_done(c);
		if (c != &s->first)
			free(c);
	}
}

void contexts_bind(struct session *s)
{
	s->first.number = 0;
	s->first.kernel = CONTEXT_KERNEL_UP;
	s->first.kernel_idle = true;
	s->first.kernel_started_ms = s->sandbox->kernel_started_ms;
}

bool contexts_busy(const struct session *s)
{
	if (s->queue_len)
		return true;
	list_each(&s->contexts, struct context, node, c)
		if (c->current || c->foreign_op)
			return true;
	return false;
}

struct context *context_find(const struct session *s, struct str name)
{
	list_each(&s->contexts, struct context, node, c)
		if (!c->deleted && str_eq(str_from(c->name), name))
			return c;
	return NULL;
}

struct context *context_of_op(struct session *s, uint64_t op)
{
	list_each(&s->contexts, struct context, node, c)
		if ((c->current && c->current->op == op) || c->foreign_op == op)
			return c;
	return NULL;
}

/* The one whose kernel has this number: of two the older one, whose kernel is ending. */
static struct context *numbered(struct session *s, int number)
{
	list_each(&s->contexts, struct context, node, c)
		if (c->number == number)
			return c;
	return NULL;
}

/* A number nobody has; else one whose kernel is ending and that nobody waits for. */
static int free_number(struct session *s)
{
	int ending = -1;

	for (int n = 0; n < AGENT_KERNELS_MAX; n++) {
		int users = 0;
		bool living = false;

		list_each(&s->contexts, struct context, node, c)
			if (c->number == n) {
				users++;
				living |= !c->deleted;
			}
		if (!users)
			return n;
		if (ending < 0 && !living)
			ending = n;
	}
	return ending;
}

static const char *language_of(const struct session *s, struct str language)
{
	const struct runtime *r = s->pool->runtime;

	for (size_t i = 0; i < r->language_count; i++)
		if (str_eq(str_from(r->languages[i]), language))
			return r->languages[i];
	return NULL;
}

static int check_count(const struct session *s, struct err *e)
{
	int max = s->pool->pools->config.contexts_max;
	int count = 0;

	list_each(&s->contexts, struct context, node, c)
		/* SECURITY: what the jailer was asked for counts until it has answered. */
		count += !c->deleted || c->kernel == CONTEXT_KERNEL_ASKED;
	if (count < max)
		return 0;
	return err_set(e, ERR_QUOTA,
		       "The session already has %d contexts, the limit of this server "
		       "(--contexts-max). Delete one.",
		       count);
}

static struct context *context_new(struct session *s, struct str name, const char *language,
				   struct err *e)
{
	struct context *c = calloc(1, sizeof(*c));

	if (!c) {
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	if (context_init(c, s, name, language, e) < 0) {
		context_done(c);
		free(c);
		return NULL;
	}
	return c;
}

/* Makes it when the agent can be talked to, or when it has said what there is. */
static struct context *make(struct session *s, struct str name, struct str language, struct err *e)
{
	struct str found = str_from(s->pool->runtime->languages[0]);

	if ((language.len && language_find(s->pool, language, &found, e) < 0) ||
	    context_name_check(name, e) < 0 || check_count(s, e) < 0)
		return NULL;
	struct context *c = context_new(s, name, found.ptr, e);

	if (c && s->agent_heard) {
		c->number = free_number(s);
		executions_next(s);
	}
	return c;
}

static struct context *named(struct session *s, struct str name, struct str language, struct err *e)
{
	struct context *c = context_find(s, name);

	if (!c)
		return make(s, name, language, e);
	if (!language.len || str_eq(str_from(c->language), language))
		return c;
	if (language_find(s->pool, language, &language, e) == 0)
		err_set(e, ERR_CONFLICT,
			"The context '%s' has the language %s. Name another context, or delete "
			"this one.",
			c->name, c->language);
	return NULL;
}

struct context *context_for(struct session *s, struct str name, struct str language, struct err *e)
{
	if (name.len)
		return named(s, name, language, e);
	if (!language.len || str_eq(str_from(s->first.language), language))
		return &s->first;
	return language_find(s->pool, language, &language, e) < 0 ? NULL
								  : named(s, language, language, e);
}

struct context *context_restored(struct session *s, const char *name, const char *language,
				 struct err *e)
{
	const char *found = language_of(s, str_from(language));
	struct context *c = context_find(s, str_from(name));
	size_t count = 0;

	if (c)
		return c;
	list_each(&s->contexts, struct context, node, other)
		count++;
	if (!found || context_name_check(str_from(name), NULL) < 0 || count >= AGENT_KERNELS_MAX) {
		err_set(e, ERR_INTERNAL, "its context cannot be made again");
		return NULL;
	}
	return context_new(s, str_from(name), found, e);
}

struct str context_label(const char *name, const char *language, char label[AGENT_LABEL_MAX])
{
	return (struct str){ label,
			     (size_t)snprintf(label, AGENT_LABEL_MAX, "%s\n%s", name, language) };
}

/* --- kernels --- */

bool contexts_coming(const struct session *s)
{
	list_each(&s->contexts, struct context, node, c)
		if (!c->deleted &&
		    (c->kernel == CONTEXT_KERNEL_WAITS || c->kernel == CONTEXT_KERNEL_ASKED ||
		     c->kernel == CONTEXT_KERNEL_STARTING))
			return true;
	return false;
}

/*
 * A session is worth patience: its files are there. But a kernel that cannot come up (full storage
 * under the memory limit, code that kills whatever starts) must not turn in a circle, and those who
 * wait must hear of it.
 */
static void retry_later(struct context *c, const struct err *e)
{
	struct session *s = c->session;

	c->kernel = CONTEXT_KERNEL_NONE;
	c->kernel_failures++;
	if (c->kernel_failures == KERNEL_FAILURES_MAX)
		log_warn("session %s: no kernel of context %s stays up: %s", s->guid, c->name,
			 e->msg);
	if (!c->retry)
		c->retry = loop_timer_new(retry_kernel, c);
	if (c->retry)
		loop_timer_start(c->retry,
				 RETRY_MIN_MS << (c->kernel_failures < 8 ? c->kernel_failures : 8));
	if (c->kernel_failures >= KERNEL_FAILURES_MAX)
		executions_fail_queued(c, e);
	/* What runs alone may have waited for it. */
	if (!s->ended)
		session_later(s);
}

static void kernel_started(void *arg, int fd, const struct err *e)
{
	struct kernel_call *call = arg;
	struct sandbox *sb = call->sandbox;
	struct context *c = call->context;
	char label[AGENT_LABEL_MAX];

	free(call);
	if (sandbox_call_returned(sb)) {
		if (fd >= 0)
			close(fd);
		return;
	}
	if (c->deleted) {
		if (fd >= 0)
			close(fd); /* the end of its socket ends it */
		c->kernel = CONTEXT_KERNEL_NONE;
		c->number = -1;
		session_later(c->session);
		return;
	}
	if (fd < 0) {
		retry_later(c, e);
		return;
	}
	c->kernel = CONTEXT_KERNEL_STARTING;
	c->kernel_started_ms = loop_now_ms();
	agent_link_attach(sb->link, (uint32_t)c->number, context_label(c->name, c->language, label),
			  fd);
}

/* Or as soon as it may: see contexts_start_waiting(). */
static void start_kernel(struct context *c)
{
	struct session *s = c->session;
	struct sandbox *sb = s->sandbox;
	struct backend *b = s->pool->pools->config.backend;
	struct err e = ERR_INIT;

	c->kernel = CONTEXT_KERNEL_WAITS;
	if (numbered(s, c->number) != c || !memory_is_back(s))
		return;
	struct kernel_call *call = malloc(sizeof(*call));

	if (!call) {
		err_set(&e, ERR_NOMEM, "out of memory");
		retry_later(c, &e);
		return;
	}
	*call = (struct kernel_call){ sb, c };
	c->kernel = CONTEXT_KERNEL_ASKED;
	sb->calls++;
	b->ops->start_kernel(b, sb->sid, c == &s->first ? "" : c->language, kernel_started, call);
}

void contexts_start_waiting(struct session *s)
{
	list_each(&s->contexts, struct context, node, c)
		if (c->kernel == CONTEXT_KERNEL_WAITS && c->number >= 0 && !c->deleted && !s->ended)
			start_kernel(c);
}

/* Its kernel is gone: another one, at once unless the last one did not live for long. */
static void replace_kernel(struct context *c)
{
	struct err e = ERR_INIT;

	if (loop_now_ms() - c->kernel_started_ms > KERNEL_STABLE_MS) {
		c->kernel_failures = 0;
		c->kernel = CONTEXT_KERNEL_WAITS;
		executions_next(c->session);
		return;
	}
	/* The memory is given back meanwhile. */
	c->kernel = CONTEXT_KERNEL_NONE;
	executions_next(c->session);
	if (c->session->ended)
		return;
	err_set(&e, ERR_UNAVAILABLE,
		"The session's kernel does not stay up. Its memory may be full of files (delete "
		"some), or its own processes end it; or delete the session.");
	retry_later(c, &e);
}

static void kernel_ended(struct context *c, enum agent_death death)
{
	static const char *const deaths[] = { "", "exit", "signal", "out of memory", "killed" };
	struct session *s = c->session;

	c->kernel_idle = false;
	switch (c->kernel) {
	case CONTEXT_KERNEL_ENDING:
		if (c->deleted) {
			c->kernel = CONTEXT_KERNEL_NONE;
			c->number = -1;
			session_later(s);
		} else {
			c->kernel = CONTEXT_KERNEL_WAITS;
		}
		executions_next(s);
		break;
	case CONTEXT_KERNEL_STARTING:
	case CONTEXT_KERNEL_UP:
		/* "There is none" answers KERNEL_END alone: here, one that died before that came.
		 */
		if (death == AGENT_DEATH_NONE)
			break;
		log_info("session %s: the kernel of context %s ended (%s); starting another",
			 s->guid, c->name, deaths[death]);
		replace_kernel(c);
		break;
	default:
		break;
	}
}

void contexts_kernel_state(struct session *s, uint32_t number, enum agent_kernel_state state,
			   enum agent_death death)
{
	struct context *c = numbered(s, (int)number);

	/* Its status is on the way and says the same; or there is no such kernel. */
	if (!s->agent_heard || !c)
		return;
	if (state == AGENT_KERNEL_NONE) {
		kernel_ended(c, death);
	} else if (c->kernel == CONTEXT_KERNEL_STARTING || c->kernel == CONTEXT_KERNEL_UP) {
		c->kernel_idle = state == AGENT_KERNEL_IDLE;
		if (state != AGENT_KERNEL_STARTING)
			c->kernel = CONTEXT_KERNEL_UP;
		if (c->kernel_idle)
			executions_next(s);
	}
}

/* --- what an earlier daemon left --- */

/*
 * SECURITY: a label comes from an agent that may have been taken over. It is a name and a language
 * or nothing: bytes of the set that callers may use, a language of this image, a name that no other
 * kernel has. The worst that is left is that a session mixes up its own contexts.
 */
static struct context *from_label(struct session *s, struct str label)
{
	const char *end = memchr(label.ptr, '\n', label.len);
	struct err e = ERR_INIT;

	if (!end)
		return NULL;
	struct str name = { label.ptr, (size_t)(end - label.ptr) };
	const char *language = language_of(s, (struct str){ end + 1, label.len - name.len - 1 });
	struct context *c = context_name_check(name, NULL) == 0 ? context_find(s, name) : NULL;

	if (context_name_check(name, NULL) < 0 || !language)
		return NULL;
	if (!c)
		return context_new(s, name, language, &e);
	return c != &s->first && c->number < 0 && strcmp(c->language, language) == 0 ? c : NULL;
}

/* One that nobody could ever name. */
static struct context *adopt_nameless(struct session *s, uint32_t number)
{
	struct err e = ERR_INIT;
	struct context *c = context_new(s, STR("?"), s->first.language, &e);

	agent_link_kernel_end(s->sandbox->link, number);
	if (c)
		c->deleted = true;
	return c;
}

static void adopt_kernel(struct session *s, const struct agent_status_kernel *k)
{
	struct context *c = &s->first;

	if (k->state == AGENT_KERNEL_NONE)
		return;
	if (k->kernel != 0) {
		c = from_label(s, k->label);
		if (!c)
			c = adopt_nameless(s, k->kernel);
		if (!c)
			return;
	}
	c->number = (int)k->kernel;
	if (c->deleted)
		c->kernel = CONTEXT_KERNEL_ENDING;
	else if (k->state == AGENT_KERNEL_STARTING)
		c->kernel = CONTEXT_KERNEL_STARTING;
	else
		c->kernel = CONTEXT_KERNEL_UP;
	c->kernel_idle = !c->deleted && k->state == AGENT_KERNEL_IDLE;
}

static struct execution *queued_op(struct session *s, uint64_t op)
{
	list_each(&s->contexts, struct context, node, c)
		list_each(&c->queue, struct execution, node, x)
			if (x->op == op)
				return x;
	return NULL;
}

/* Which of the stored executions did the agent ever get? */
static void adopt_execution(struct session *s, const struct agent_status_exec *there)
{
	struct execution *x = queued_op(s, there->op);
	bool running = there->state == AGENT_EXEC_RUNNING;
	struct context *c = x ? x->context : numbered(s, (int)there->kernel);

	if (x) {
		/* Its result comes as EXEC_DONE: right after this message, or when it ends. */
		x->state = EXECUTION_RUNNING;
		if (running && !c->current) {
			list_remove(&x->node);
			c->queue_len--;
			s->queue_len--;
			s->queued_bytes -= x->code_len;
			c->current = x;
		}
	} else if (running && c && !c->current) {
		c->foreign_op = there->op;
		/* If it was watched, it waits for somebody to take its output. */
		agent_link_exec_credit(s->sandbox->link, there->op, 0);
	}
}

void contexts_status(struct session *s, const struct agent_status *status)
{
	for (size_t i = 0; i < status->kernel_count; i++)
		adopt_kernel(s, &status->kernels[i]);
	s->first.number = 0;
	list_each(&s->contexts, struct context, node, c)
		if (c->number < 0 && !c->deleted)
			c->number = free_number(s);
	for (size_t i = 0; i < status->exec_count; i++)
		adopt_execution(s, &status->execs[i]);
}

void contexts_sweep(struct session *s)
{
	list_each(&s->contexts, struct context, node, c) {
		if (!c->deleted || c->number >= 0 || c->kernel == CONTEXT_KERNEL_ASKED ||
		    c->current || c->queue_len)
			continue;
		context_done(c);
		free(c);
	}
}

/* --- by name --- */

static struct context_info info_of(const struct context *c)
{
	return (struct context_info){
		.name = c->name,
		.language = c->language,
		.state = c->current || c->foreign_op      ? "busy"
			 : c->kernel == CONTEXT_KERNEL_UP ? "idle"
							  : "starting",
		.queue_len = c->queue_len,
		.executions = c->begun,
	};
}

int context_open(struct session *s, struct str name, struct str language, struct context_info *ret,
		 struct err *e)
{
	struct context *c = context_name_check(name, e) < 0 ? NULL : named(s, name, language, e);

	if (!c)
		return -1;
	*ret = info_of(c);
	return 0;
}

static struct context *must_find(const struct session *s, struct str name, struct err *e)
{
	struct context *c;

	if (context_name_check(name, e) < 0)
		return NULL;
	c = context_find(s, name);
	if (!c)
		err_set(e, ERR_NO_CONTEXT, "The session has no context '%.*s'.", STR_ARG(name));
	return c;
}

int context_get(const struct session *s, struct str name, struct context_info *ret, struct err *e)
{
	const struct context *c = must_find(s, name, e);

	if (!c)
		return -1;
	*ret = info_of(c);
	return 0;
}

/* Its kernel is to go; what runs there is canceled. */
static void end_kernel(struct context *c)
{
	struct session *s = c->session;

	c->kernel = CONTEXT_KERNEL_ENDING;
	c->kernel_idle = false;
	if (c->current)
		execution_interrupt(c->current);
	agent_link_kernel_end(s->sandbox->link, (uint32_t)c->number);
}

int context_delete(struct session *s, struct str name, struct err *e)
{
	struct context *c = must_find(s, name, e);

	if (!c)
		return -1;
	if (c == &s->first)
		return err_set(e, ERR_CONFLICT,
			       "The context '" CONTEXT_DEFAULT
			       "' cannot be deleted; restart it, or "
			       "delete the session.");
	c->deleted = true;
	if (c->retry)
		loop_timer_stop(c->retry);
	if (c->kernel == CONTEXT_KERNEL_UP || c->kernel == CONTEXT_KERNEL_STARTING)
		end_kernel(c);
	else if (c->kernel != CONTEXT_KERNEL_ENDING)
		c->number = -1; /* the agent never heard of it */
	executions_cancel_queued(c);
	session_later(s);
	return 0;
}

int context_restart(struct session *s, struct str name, struct err *e)
{
	struct context *c = must_find(s, name, e);

	if (!c)
		return -1;
	if (c->kernel == CONTEXT_KERNEL_UP) {
		end_kernel(c);
	} else if (c->kernel == CONTEXT_KERNEL_NONE) {
		c->kernel_failures = 0;
		if (c->retry)
			loop_timer_stop(c->retry);
		start_kernel(c);
	} /* else a fresh one is on its way already */
	return 0;
}

void context_each(const struct session *s, void (*fn)(const struct context_info *c, void *arg),
		  void *arg)
{
	list_each(&s->contexts, struct context, node, c) {
		struct context_info info = info_of(c);

		if (!c->deleted)
			fn(&info, arg);
	}
}
