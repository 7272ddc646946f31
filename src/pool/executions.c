/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rand.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* An agent that is still silent after this has lost its session. */
#define SILENT_MS      10000
#define SLOW_READER_MS 1000

static void enqueue(struct execution *x, bool first)
{
	struct context *c = x->context;

	if (first)
		list_add_head(&c->queue, &x->node);
	else
		list_add_tail(&c->queue, &x->node);
	c->queue_len++;
	x->session->queue_len++;
	x->session->queued_bytes += x->code_len;
}

static void dequeue(struct execution *x)
{
	assert(x->context);
	list_remove(&x->node);
	x->context->queue_len--;
	x->session->queue_len--;
	x->session->queued_bytes -= x->code_len;
}

void execution_free(struct execution *x)
{
	if (!x)
		return;
	list_remove(&x->node);
	result_done(&x->result);
	free(x->code);
	free(x);
}

void execution_detach(struct execution *x, bool keep)
{
	x->done = NULL;
	if (x->watcher && x->state == EXECUTION_RUNNING && !x->asking)
		agent_link_exec_credit(x->session->sandbox->link, x->op, 0);
	x->watcher = NULL;
	/* Nobody will ever ask for it, and it has not begun: out of the way of the others. */
	if (x->state == EXECUTION_QUEUED && !x->async && !keep) {
		struct session *s = x->session;

		dequeue(x);
		execution_free(x);
		session_later(s); /* whoever waited for it to run alone */
	}
}

struct execution *execution_find(struct session *s, struct str id)
{
	list_each(&s->contexts, struct context, node, c) {
		if (c->current && str_eq(str_from(c->current->id), id))
			return c->current;
		list_each(&c->queue, struct execution, node, x)
			if (str_eq(str_from(x->id), id))
				return x;
	}
	list_each(&s->recent, struct execution, node, y)
		if (str_eq(str_from(y->id), id))
			return y;
	return NULL;
}

static struct store *store_of(struct session *s)
{
	return s->pool->pools->config.store;
}

static void copy_sid(const struct session *s, char sid[33])
{
	memcpy(sid, s->sandbox->sid, 33);
}

static int store_request(struct execution *x, struct err *e)
{
	char *text = request_to_json(x);
	struct store_execution row = {
		.id = x->id,
		.op = x->op,
		.request = text,
		.created_us = x->created_us,
	};
	int rc = -1;

	copy_sid(x->session, row.sid);
	if (text)
		rc = store_execution_put(store_of(x->session), &row, e);
	else
		err_set(e, ERR_NOMEM, "out of memory");
	free(text);
	return rc;
}

static int check_queue(struct session *s, const struct execution_params *p, struct err *e)
{
	if (s->queue_len >= s->pool->spec.queue_max)
		return err_set(
			e, ERR_QUEUE_FULL,
			"The session already has %u executions waiting, the limit of its pool "
			"(sessionLimits.queueLength). Wait for some to finish.",
			s->pool->spec.queue_max);
	uint64_t max = s->pool->pools->config.queued_code_max;
	uint64_t bytes = s->queued_bytes + p->code.len;

	/* One that need not wait is bounded by --code-max alone. */
	if (s->queue_len && bytes > max)
		return err_set(e, ERR_QUEUE_FULL,
			       "The executions that wait in the session have %" PRIu64
			       " bytes of code together with this one; the limit is %" PRIu64
			       " (--queued-code-max). Wait for some to finish.",
			       bytes, max);
	if (p->id && execution_find(s, str_from(p->id)))
		return err_set(e, ERR_CONFLICT,
			       "An execution with the id '%s' exists in this session.", p->id);
	return 0;
}

struct execution *session_execute(struct session *s, const struct execution_params *p,
				  void (*done)(void *arg, struct execution *x, const struct err *e),
				  void *arg, struct err *e)
{
	assert(!p->async || (s->sandbox && !p->watcher));
	struct context *c = check_queue(s, p, e) < 0 ? NULL
						     : context_for(s, p->context, p->language, e);

	if (!c)
		return NULL;
	struct execution *x = calloc(1, sizeof(*x));

	if (!x || !(x->code = str_dup(p->code))) {
		free(x);
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	x->code_len = p->code.len;
	x->session = s;
	x->context = c;
	x->arrival = ++s->arrivals;
	x->argv = p->argv;
	x->command = p->command;
	x->watcher = p->watcher;
	if (p->id)
		snprintf(x->id, sizeof(x->id), "%s", p->id);
	else
		uuid_new(x->id);
	snprintf(x->execution_type, sizeof(x->execution_type), "%s", p->execution_type);
	x->op = execution_op(s, p->memory_bytes);
	x->async = p->async;
	x->timeout_ms = p->timeout_ms;
	x->output_max = p->output_max;
	x->memory_bytes = p->memory_bytes;
	x->created_us = clock_wall_us();
	x->queued_ns = clock_mono_ns();
	x->done = done;
	x->arg = arg;
	enqueue(x, false);
	if (x->async && store_request(x, e) < 0) {
		dequeue(x);
		execution_free(x);
		return NULL;
	}
	executions_next(s);
	return x;
}

void execution_start(struct execution *x)
{
	struct context *c = x->context;
	struct session *s = x->session;

	dequeue(x);
	c->current = x;
	c->kernel_idle = false;
	c->begun++;
	x->state = EXECUTION_RUNNING;
	x->started_ns = clock_mono_ns();
	struct agent_exec_params p = {
		.kernel = (uint32_t)c->number,
		.timeout_ms = x->timeout_ms,
		.stdout_max = x->output_max,
		.stderr_max = x->output_max,
		.result_max = s->pool->pools->config.result_max,
		.code = { x->code, x->code_len },
	};

	if (x->argv)
		p.flags |= KERNEL_RUN_ARGV;
	if (x->watcher) {
		x->streamed = true;
		x->stream_window = p.credit = AGENT_STREAM_WINDOW;
		x->stream_returned = 0;
		p.flags |= KERNEL_RUN_STREAM;
		session_later(s); /* tells it */
	}
	/* A link that breaks here ends the session from the loop, which fails this execution. */
	agent_link_exec(s->sandbox->link, x->op, &p);
	if (x->timeout_ms)
		loop_timer_start(c->overdue,
				 (int64_t)x->timeout_ms + s->pool->pools->config.answer_wait_ms);
}

static uint64_t result_bytes(const struct execution_result *r)
{
	uint64_t n = r->out.len + r->err.len + r->error_name.len + r->error_text.len + r->value.len;

	for (size_t i = 0; i < json_array_size(r->displays); i++)
		n += json_string_length(
			json_object_get(json_array_get(r->displays, i), "base64_data"));
	return n;
}

/* SECURITY: how many bytes a result has is the session's choice; so they are counted, too. */
static void remember(struct execution *x)
{
	struct session *s = x->session;

	x->kept_bytes = sizeof(*x) + result_bytes(&x->result);
	s->recent_bytes += x->kept_bytes;
	list_add_tail(&s->recent, &x->node);
	s->recent_len++;
}

static void prune_recent(struct session *s)
{
	const struct pools_config *config = &s->pool->pools->config;
	struct err e = ERR_INIT;

	while (s->recent_len > (size_t)config->executions_kept ||
	       (s->recent_len > 1 && s->recent_bytes > config->results_kept_max)) {
		struct execution *oldest = list_first(&s->recent, struct execution, node);

		s->recent_bytes -= oldest->kept_bytes;
		if (oldest->async &&
		    store_execution_delete(store_of(s), s->sandbox->sid, oldest->id, &e) < 0)
			log_error("session %s: %s", s->guid, e.msg);
		s->recent_len--;
		execution_free(oldest);
	}
}

static bool store_result(struct execution *x)
{
	struct session *s = x->session;
	struct err e = ERR_INIT;
	char *text = result_to_json(&x->result);
	bool ok = text &&
		  store_execution_finish(store_of(s), s->sandbox->sid, x->id, text, &e) == 0;

	if (!ok)
		log_error("session %s: result of %s is not stored: %s", s->guid, x->id, e.msg);
	free(text);
	x->unstored = !ok;
	return ok;
}

/* What the store refused (a full disk) is still with the agent; it may forget it once it is stored.
 */
static void store_leftovers(struct session *s)
{
	list_each(&s->recent, struct execution, node, x)
		if (x->unstored && store_result(x))
			agent_link_ack(s->sandbox->link, x->op);
}

static void tell(struct execution *x, const struct err *e)
{
	void (*done)(void *, struct execution *, const struct err *) = x->done;

	x->done = NULL;
	x->watcher = NULL;
	if (done)
		done(x->arg, x, e);
}

static void complete(struct execution *x)
{
	x->state = EXECUTION_FINISHED;
	x->context = NULL;
	x->asking = false;
	x->finished_ns = clock_mono_ns();
	free(x->code);
	x->code = NULL;
}

/* The result is in x; stores it if it was promised, tells who waits. */
static void finish(struct execution *x)
{
	struct session *s = x->session;

	complete(x);
	store_leftovers(s);
	if (x->async)
		store_result(x);
	remember(x);
	s->accessed_us = clock_wall_us();
	tell(x, NULL);
	if (!s->ended)
		prune_recent(s);
}

static struct execution *find_op(struct session *s, uint64_t op)
{
	list_each(&s->contexts, struct context, node, c) {
		if (c->current && c->current->op == op)
			return c->current;
		list_each(&c->queue, struct execution, node, x)
			if (x->op == op && x->state == EXECUTION_RUNNING)
				return x;
	}
	return NULL;
}

static bool is_unstored(struct session *s, uint64_t op)
{
	list_each(&s->recent, struct execution, node, x)
		if (x->op == op)
			return x->unstored;
	return false;
}

static void finish_canceled(struct execution *x)
{
	static const struct agent_result canceled = { .status = AGENT_RESULT_CANCELED,
						      .kernel_idle = true };

	x->started_ns = clock_mono_ns();
	result_from_agent(x, &canceled);
	finish(x);
}

/* The kernel died under our hands: once more when the next one is there. */
static void not_run(struct execution *x)
{
	struct context *c = x->context;

	x->state = EXECUTION_QUEUED;
	if (x == c->current) {
		c->current = NULL;
		enqueue(x, true);
		loop_timer_stop(c->overdue);
	}
	if (x->canceled)
		session_later(x->session); /* or not at all */
}

/* x has its result and waits nowhere any more. */
static void settle(struct session *s, struct execution *x)
{
	uint64_t op = x->op;

	finish(x); /* x may be gone after this */
	if (s->ended)
		return;
	/* Stored: the agent may forget it. Not stored: it keeps it for the next daemon. */
	if (!is_unstored(s, op))
		agent_link_ack(s->sandbox->link, op);
	executions_next(s);
}

/* What was canceled is not anything else, least of all because its kernel had to end for it. */
static struct agent_result as_canceled(const struct context *c, const struct agent_result *r)
{
	struct agent_result canceled = *r;

	canceled.status = AGENT_RESULT_CANCELED;
	canceled.kernel_idle = r->kernel_idle || c->kernel == CONTEXT_KERNEL_ENDING;
	return canceled;
}

static void take_result(struct execution *x, const struct agent_result *r)
{
	struct context *c = x->context;
	struct agent_result canceled;

	/* The agent sends no extra message: done means idle, unless the kernel did not survive. */
	if (x == c->current)
		c->kernel_idle = r->kernel_idle && c->kernel == CONTEXT_KERNEL_UP;
	if (r->status == AGENT_RESULT_OK || r->status == AGENT_RESULT_ERROR)
		c->kernel_failures = 0; /* it does come up, and works */
	if (x->canceled) {
		canceled = as_canceled(c, r);
		r = &canceled;
	}
	result_from_agent(x, r);
	if (x != c->current) {
		dequeue(x);
		settle(x->session, x);
	} else if (!refusals_ask(c, r)) {
		execution_settled(c);
	}
}

static void take_foreign_result(struct session *s, uint64_t op, const struct agent_result *r)
{
	struct context *c = context_of_op(s, op);

	if (c) {
		c->foreign_op = 0;
		loop_timer_stop(c->overdue);
		c->kernel_idle = r->kernel_idle && c->kernel == CONTEXT_KERNEL_UP;
	}
	/* Nobody's: the agent may forget it. */
	agent_link_ack(s->sandbox->link, op);
	if (c && c->deleted)
		session_later(s);
	executions_next(s);
}

static void violation(struct session *s, const char *what)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_PROTOCOL, "its sandbox broke the protocol (%s)", what);
	session_end(s, &e);
}

void execution_agent_done(struct session *s, uint64_t op, const struct agent_result *r)
{
	struct execution *x = find_op(s, op);

	/* SECURITY: it has its result. Nothing that a taken-over agent says after that changes it,
	 * least of all makes it run again. */
	if (x && x->asking)
		return;
	/* SECURITY: nor what has been seen running; each run has one window for its output. */
	if (x && r->status == AGENT_RESULT_NOT_RUN && x->heard)
		violation(s, "output of what was not run");
	else if (x && r->status == AGENT_RESULT_NOT_RUN)
		not_run(x);
	else if (x)
		take_result(x, r);
	else if (!s->ended)
		take_foreign_result(s, op, r);
}

void execution_settled(struct context *c)
{
	struct session *s = c->session;
	struct execution *x = c->current;

	c->current = NULL;
	loop_timer_stop(c->overdue);
	if (c->deleted)
		session_later(s);
	settle(s, x);
}

static void end_silent(struct session *s)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_UNAVAILABLE, "its sandbox does not answer");
	session_end(s, &e);
}

void context_overdue(void *arg)
{
	struct context *c = arg;
	struct session *s = c->session;
	struct execution *x = c->current;

	if (s->ended)
		return;
	if (x && x->asking) {
		execution_settled(c); /* without the names: the jailer is silent */
		return;
	}
	if (!x || x->canceled) {
		if (x || c->foreign_op)
			end_silent(s);
		return;
	}
	/* What it has written is not read: it may be over in time, its last output on the way to a
	 * slow reader. What is late all the same the agent ends, and no reader holds that up. */
	if (x->streamed && x->watcher && x->stream_window < AGENT_STREAM_CHUNK) {
		loop_timer_start(c->overdue, SLOW_READER_MS);
		return;
	}
	/* Late, but not lost: its result is taken as one of an execution that nobody waits for. */
	c->current = NULL;
	c->foreign_op = x->op;
	if (x->streamed)
		agent_link_exec_credit(s->sandbox->link, x->op, 0);
	result_timeout(x);
	finish(x);
	if (!s->ended)
		loop_timer_start(c->overdue, SILENT_MS);
}

/* --- cancellation --- */

void execution_interrupt(struct execution *x)
{
	if (x->asking)
		return; /* it has its result */
	x->canceled = true;
	loop_timer_start(x->context->overdue, SILENT_MS);
}

void execution_cancel(struct execution *x)
{
	if (x->state == EXECUTION_FINISHED || x->canceled || x->asking)
		return;
	if (x->state == EXECUTION_QUEUED) {
		x->canceled = true;
		session_later(x->session);
	} else if (x == x->context->current) {
		execution_interrupt(x);
		agent_link_cancel(x->session->sandbox->link, x->op);
	} /* else it has finished, and its result is on the way */
}

void executions_cancel_queued(struct context *c)
{
	list_each(&c->queue, struct execution, node, x)
		if (x->state == EXECUTION_QUEUED)
			x->canceled = true;
}

static struct execution *first_canceled(struct session *s)
{
	list_each(&s->contexts, struct context, node, c)
		list_each(&c->queue, struct execution, node, x)
			if (x->canceled && x->state == EXECUTION_QUEUED)
				return x;
	return NULL;
}

static struct execution *first_untold(struct session *s)
{
	list_each(&s->contexts, struct context, node, c)
		if (c->current && c->current->watcher && !c->current->told_started)
			return c->current;
	return NULL;
}

static void tell_started(struct execution *x)
{
	if (x->told_started)
		return;
	x->told_started = true;
	x->watcher->started(x->arg, x);
}

void executions_settle(struct session *s)
{
	struct execution *x;

	/* Each of them may end the session, or cancel others. */
	while (!s->ended && (x = first_canceled(s))) {
		dequeue(x);
		finish_canceled(x);
	}
	while (!s->ended && (x = first_untold(s)))
		tell_started(x);
}

/* --- output of what is watched --- */

/*
 * The watched execution that output is of; NULL: of nobody, or the session is over now.
 *
 * SECURITY: output without an execution that was started with a stream, or beyond what was credited
 * to it, or displays beyond what a result may have, come from an agent that was taken over: they
 * would fill the buffers of a watcher who reads slowly.
 */
static struct execution *streaming(struct session *s, uint64_t op, uint64_t bytes)
{
	struct context *c = context_of_op(s, op);
	struct execution *x = c ? c->current : NULL;

	if (c && c->foreign_op == op)
		return NULL; /* nobody's; the agent is told so */
	if (!x || !x->streamed || x->asking || bytes > x->stream_window) {
		violation(s, x && x->streamed ? "more output than was asked for"
					      : "output that nobody asked for");
		return NULL;
	}
	x->heard = true;
	x->stream_window -= (uint32_t)bytes;
	if (x->watcher)
		tell_started(x);
	/* Who was told may have gone, and taken the session along. */
	return !s->ended && c->current == x && x->watcher ? x : NULL;
}

void execution_output(struct session *s, uint64_t op, int stream, struct str bytes)
{
	struct execution *x = streaming(s, op, bytes.len);

	if (x)
		x->watcher->output(x->arg, x, stream, bytes);
}

void execution_display(struct session *s, uint64_t op, const struct agent_value *value)
{
	struct execution *x = streaming(s, op, 0);
	char format[sizeof(x->result.format)];
	size_t len = 0;

	if (!x)
		return;
	x->display_count++;
	x->display_bytes += value->data.len;
	if (x->display_count > ARRAY_LEN(((struct agent_result *)0)->displays) ||
	    x->display_bytes > s->pool->pools->config.result_max) {
		violation(s, "more displays than were asked for");
		return;
	}
	OWNED_MEM char *base64 = result_image(value, format, sizeof(format), &len);

	if (base64)
		x->watcher->display(x->arg, x, format, (struct str){ base64, len });
}

void execution_credit(struct execution *x, size_t bytes)
{
	if (x->state != EXECUTION_RUNNING || !x->watcher || x->asking)
		return;
	uint32_t due = AGENT_STREAM_WINDOW - x->stream_window - x->stream_returned;

	if (bytes > due)
		bytes = due;
	x->stream_returned += (uint32_t)bytes;
	/* In large steps: what is left of the window keeps the program going meanwhile. */
	if (x->stream_returned < AGENT_STREAM_WINDOW / 4)
		return;
	agent_link_exec_credit(x->session->sandbox->link, x->op, x->stream_returned);
	x->stream_window += x->stream_returned;
	x->stream_returned = 0;
}

/* --- after a restart of the daemon --- */

struct restore_arg {
	struct session *s;
};

static int restore_one(const struct store_execution *row, void *arg, struct err *e)
{
	struct session *s = ((struct restore_arg *)arg)->s;
	struct execution *x = calloc(1, sizeof(*x));
	const char *context = CONTEXT_DEFAULT;
	const char *language = s->first.language;
	json_t *doc = NULL;

	if (!x || request_from_json(x, row->request, &context, &language, &doc) < 0) {
		json_decref(doc);
		free(x);
		return err_set(e, ERR_INTERNAL, "stored execution %s is damaged", row->id);
	}
	list_init(&x->node);
	x->session = s;
	snprintf(x->id, sizeof(x->id), "%s", row->id);
	x->op = row->op;
	x->async = true;
	x->arrival = ++s->arrivals;
	x->created_us = row->created_us;
	x->queued_ns = x->started_ns = clock_mono_ns();
	if (row->result && result_from_json(row->result, &x->result, e) == 0) {
		x->state = EXECUTION_FINISHED;
		remember(x);
	} else if ((x->context = context_restored(s, context, language, e))) {
		enqueue(x, false);
	} else {
		err_wrap(e, "stored execution %s", row->id);
		execution_free(x);
		x = NULL;
	}
	json_decref(doc);
	return x ? 0 : -1;
}

int executions_restore(struct session *s, struct err *e)
{
	struct restore_arg arg = { s };

	return store_execution_each(store_of(s), s->sandbox->sid, restore_one, &arg, e);
}

static void fail_one(struct execution *x, const struct err *e)
{
	tell(x, e);
	execution_free(x);
}

void execution_refuse(struct execution *x, const struct err *e)
{
	dequeue(x);
	if (!x->async) {
		fail_one(x, e);
		return;
	}
	x->started_ns = clock_mono_ns();
	result_not_started(x, e);
	finish(x);
}

void executions_fail_queued(struct context *c, const struct err *e)
{
	struct agent_result r = {
		.status = AGENT_RESULT_KERNEL_DIED,
		.error_text = str_from(e->msg),
	};
	struct session *s = c->session;

	while (!s->ended && !list_empty(&c->queue)) {
		struct execution *x = list_first(&c->queue, struct execution, node);

		dequeue(x);
		if (x->async) {
			/* It was acknowledged: this is its result. */
			x->started_ns = clock_mono_ns();
			result_from_agent(x, &r);
			finish(x);
		} else {
			fail_one(x, e);
		}
	}
}

static void fail_context(struct context *c, const struct err *e)
{
	if (c->current) {
		struct execution *x = c->current;
		bool has_result = x->asking;

		c->current = NULL;
		if (has_result)
			complete(x); /* the caller's, whatever becomes of the session */
		fail_one(x, has_result ? NULL : e);
	}
	while (!list_empty(&c->queue)) {
		struct execution *x = list_first(&c->queue, struct execution, node);

		dequeue(x);
		fail_one(x, e);
	}
}

void executions_fail_all(struct session *s, const struct err *e)
{
	list_each(&s->contexts, struct context, node, c)
		fail_context(c, e);
	while (!list_empty(&s->recent))
		execution_free(list_first(&s->recent, struct execution, node));
	s->recent_len = 0;
}
