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

/* The agent answers a timeout within AGENT_TIMEOUT_GRACE_MS; if it does not, we do, to hold the
 * promise. */
#define OVERDUE_MS 42
/* An agent that is still silent after this has lost its session. */
#define SILENT_MS 10000
/* Times that a lost request for another memory limit is repeated. */
#define MEMORY_TRIES 3

void execution_free(struct execution *x)
{
	if (!x)
		return;
	list_remove(&x->node);
	result_done(&x->result);
	free(x->code);
	free(x);
}

void execution_detach(struct execution *x)
{
	x->done = NULL;
	/* Nobody will ever ask for it, and it has not begun: out of the way of the others. */
	if (x->state == EXECUTION_QUEUED && !x->async) {
		x->session->queue_len--;
		execution_free(x);
	}
}

struct execution *execution_find(struct session *s, struct str id)
{
	if (s->current && str_eq(str_from(s->current->id), id))
		return s->current;
	list_each(&s->queue, struct execution, node, x)
		if (str_eq(str_from(x->id), id))
			return x;
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
	json_t *doc = json_pack("{s:s%,s:s,s:I,s:I,s:I}", "code", x->code, x->code_len,
				"executionType", x->execution_type, "timeoutMs",
				(json_int_t)x->timeout_ms, "outputMax", (json_int_t)x->output_max,
				"memoryBytes", (json_int_t)x->memory_bytes);
	char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;
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
	json_decref(doc);
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
	uint64_t bytes = p->code.len;

	list_each(&s->queue, struct execution, node, x)
		bytes += x->code_len;
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
	assert(!p->async || s->sandbox);
	if (check_queue(s, p, e) < 0)
		return NULL;
	struct execution *x = calloc(1, sizeof(*x));

	if (!x || !(x->code = str_dup(p->code))) {
		free(x);
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	x->code_len = p->code.len;
	x->session = s;
	if (p->id)
		snprintf(x->id, sizeof(x->id), "%s", p->id);
	else
		uuid_new(x->id);
	snprintf(x->execution_type, sizeof(x->execution_type), "%s", p->execution_type);
	x->op = rand_u64() | 1; /* 0 means none */
	x->async = p->async;
	x->timeout_ms = p->timeout_ms;
	x->output_max = p->output_max;
	x->memory_bytes = p->memory_bytes;
	x->created_us = clock_wall_us();
	x->queued_ns = clock_mono_ns();
	x->done = done;
	x->arg = arg;
	list_add_tail(&s->queue, &x->node);
	s->queue_len++;
	if (x->async && store_request(x, e) < 0) {
		s->queue_len--;
		execution_free(x);
		return NULL;
	}
	executions_next(s);
	return x;
}

/*
 * The limit that has to be in force before the next step: that of the execution which runs next,
 * else the sandbox's own. A kernel that is being replaced comes up under the sandbox's own.
 */
static uint64_t memory_wanted(const struct session *s)
{
	if (!s->kernel_idle || list_empty(&s->queue))
		return 0;
	const struct execution *x = list_first(&s->queue, struct execution, node);

	if (x->state != EXECUTION_QUEUED || (s->memory_bytes && x->memory_bytes >= s->memory_bytes))
		return 0;
	return x->memory_bytes;
}

/* Something runs, and keeps the limit it was started under. */
static bool is_running(const struct session *s)
{
	return (s->current && !s->current->asking) || s->foreign_op;
}

void executions_next(struct session *s)
{
	/* Until the agent has said what there is, an execution of an earlier daemon may run. */
	if (s->ended || !s->agent_heard || is_running(s) || s->memory_busy)
		return;
	/* Executions without maxMemory pay this comparison. */
	if (memory_wanted(s) != s->memory_set) {
		s->memory_busy = true;
		s->memory_want = memory_wanted(s);
		sandbox_set_memory(s->sandbox, s->memory_want);
		return;
	}
	if (s->current || !s->kernel_idle || list_empty(&s->queue))
		return;
	struct execution *x = list_first(&s->queue, struct execution, node);

	if (x->state != EXECUTION_QUEUED)
		return; /* finished at the agent already; its result is on the way */
	list_remove(&x->node);
	s->queue_len--;
	s->current = x;
	s->kernel_idle = false;
	x->state = EXECUTION_RUNNING;
	x->started_ns = clock_mono_ns();
	struct agent_exec_params p = {
		.timeout_ms = x->timeout_ms,
		.stdout_max = x->output_max,
		.stderr_max = x->output_max,
		.result_max = s->pool->pools->config.result_max,
		.code = { x->code, x->code_len },
	};

	/* A link that breaks here ends the session from the loop, which fails this execution. */
	agent_link_exec(s->sandbox->link, x->op, &p);
	if (x->timeout_ms)
		loop_timer_start(s->overdue, (int64_t)x->timeout_ms + OVERDUE_MS);
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
	if (done)
		done(x->arg, x, e);
}

static void complete(struct execution *x)
{
	x->state = EXECUTION_FINISHED;
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
	if (s->current && s->current->op == op)
		return s->current;
	list_each(&s->queue, struct execution, node, x)
		if (x->op == op && x->state == EXECUTION_RUNNING)
			return x;
	return NULL;
}

static bool is_unstored(struct session *s, uint64_t op)
{
	list_each(&s->recent, struct execution, node, x)
		if (x->op == op)
			return x->unstored;
	return false;
}

/* The kernel died under our hands: once more when the next one is there. */
static void not_run(struct execution *x)
{
	struct session *s = x->session;

	x->state = EXECUTION_QUEUED;
	if (x != s->current)
		return;
	s->current = NULL;
	list_add_head(&s->queue, &x->node);
	s->queue_len++;
	loop_timer_stop(s->overdue);
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

void execution_agent_done(struct session *s, uint64_t op, const struct agent_result *r)
{
	struct execution *x = find_op(s, op);

	/* SECURITY: it has its result. Nothing that a taken-over agent says after that changes it,
	 * least of all makes it run again. */
	if (x && x->asking)
		return;
	if (x && r->status == AGENT_RESULT_NOT_RUN) {
		not_run(x);
		return;
	}
	if (x) {
		result_from_agent(x, r);
		if (r->status == AGENT_RESULT_OK || r->status == AGENT_RESULT_ERROR)
			s->sandbox->kernel_failures = 0; /* it does come up, and works */
		if (x != s->current) {
			list_remove(&x->node);
			s->queue_len--;
			settle(s, x);
			return;
		}
		/* The agent sends no extra message: done means idle, unless the kernel did not
		 * survive. */
		s->kernel_idle = r->kernel_idle;
		if (!refusals_ask(s, r))
			execution_settled(s);
		return;
	}
	if (s->foreign_op == op) {
		s->foreign_op = 0;
		loop_timer_stop(s->overdue);
		s->kernel_idle = r->kernel_idle;
	}
	if (s->ended)
		return;
	/* Nobody's: the agent may forget it. */
	agent_link_ack(s->sandbox->link, op);
	executions_next(s);
}

void execution_settled(struct session *s)
{
	struct execution *x = s->current;

	s->current = NULL;
	loop_timer_stop(s->overdue);
	settle(s, x);
}

void session_overdue(void *arg)
{
	struct session *s = arg;
	struct execution *x = s->current;

	if (!x) {
		struct err e = ERR_INIT;

		err_set(&e, ERR_UNAVAILABLE, "its sandbox does not answer");
		if (s->foreign_op)
			session_end(s, &e);
		return;
	}
	if (x->asking) {
		execution_settled(s); /* without the names: the jailer is silent */
		return;
	}
	/* Late, but not lost: its result is taken as one of an execution that nobody waits for. */
	s->current = NULL;
	s->foreign_op = x->op;
	result_timeout(x);
	finish(x);
	if (!s->ended)
		loop_timer_start(s->overdue, SILENT_MS);
}

struct restore_arg {
	struct session *s;
};

static int restore_one(const struct store_execution *row, void *arg, struct err *e)
{
	struct session *s = ((struct restore_arg *)arg)->s;
	struct execution *x = calloc(1, sizeof(*x));
	json_error_t je;
	json_t *doc = json_loads(row->request, JSON_ALLOW_NUL, &je);
	const char *code = "";
	const char *type = "Asynchronous";
	json_int_t timeout = 0;
	json_int_t output = 4096;
	json_int_t memory = 0;
	size_t len = 0;

	if (!x || !doc ||
	    json_unpack(doc, "{s:s%,s:s,s:I,s:I,s?I}", "code", &code, &len, "executionType", &type,
			"timeoutMs", &timeout, "outputMax", &output, "memoryBytes", &memory) < 0 ||
	    !(x->code = str_dup((struct str){ code, len }))) {
		json_decref(doc);
		free(x);
		return err_set(e, ERR_INTERNAL, "stored execution %s is damaged", row->id);
	}
	x->code_len = len;
	x->session = s;
	snprintf(x->id, sizeof(x->id), "%s", row->id);
	snprintf(x->execution_type, sizeof(x->execution_type), "%s", type);
	x->op = row->op;
	x->async = true;
	x->timeout_ms = (uint32_t)timeout;
	x->output_max = (uint32_t)output;
	x->memory_bytes = (uint64_t)memory;
	x->created_us = row->created_us;
	x->queued_ns = x->started_ns = clock_mono_ns();
	json_decref(doc);
	if (row->result && result_from_json(row->result, &x->result, e) == 0) {
		x->state = EXECUTION_FINISHED;
		remember(x);
	} else {
		list_add_tail(&s->queue, &x->node);
		s->queue_len++;
	}
	return 0;
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

/* The first of the queue cannot have the limit it asks for, or the one before cannot be undone. */
static void fail_unlimited(struct session *s, const struct err *e)
{
	struct execution *x = list_first(&s->queue, struct execution, node);
	struct err mine = ERR_INIT;

	if (e->code == ERR_CONFLICT)
		err_set(&mine, ERR_CONFLICT,
			"maxMemory cannot be kept: %s. Nothing was run. Delete variables or "
			"files, or ask for more.",
			e->msg);
	else
		err_set(&mine, e->code == ERR_NOT_SUPPORTED ? e->code : ERR_UNAVAILABLE,
			"The memory limit of the execution could not be set: %s.", e->msg);
	s->queue_len--;
	if (!x->async) {
		fail_one(x, &mine);
		return;
	}
	list_remove(&x->node);
	x->started_ns = clock_mono_ns();
	result_not_started(x, &mine);
	finish(x);
}

static void memory_refused(struct session *s, const struct err *e)
{
	/* Refused: nothing was changed. Anything else: who knows. */
	if (e->code != ERR_CONFLICT) {
		log_warn("session %s: memory limit: %s", s->guid, e->msg);
		s->memory_set = MEMORY_UNKNOWN;
	}
	if (e->code == ERR_UNAVAILABLE && s->memory_failures++ < MEMORY_TRIES) {
		executions_next(s); /* the jailer was replaced */
		return;
	}
	s->memory_failures = 0;
	if (memory_wanted(s) == s->memory_want) {
		/* Whoever comes next asks again; nobody does in a circle. */
		if (!s->kernel_idle || list_empty(&s->queue) ||
		    list_first(&s->queue, struct execution, node)->state != EXECUTION_QUEUED)
			return;
		fail_unlimited(s, e);
	}
	/* Else who wanted it left meanwhile, and others may have queued. */
	executions_next(s);
}

void session_memory_set(struct session *s, const struct err *e)
{
	s->memory_busy = false;
	if (e->code == ERR_NONE) {
		s->memory_set = s->memory_want;
		s->memory_failures = 0;
		executions_next(s);
	} else {
		memory_refused(s, e);
	}
	if (s->ended || !s->kernel_waits || (s->memory_busy && s->memory_want))
		return;
	s->kernel_waits = false;
	sandbox_restart_kernel(s->sandbox);
}

void executions_fail_queued(struct session *s, const struct err *e)
{
	struct agent_result r = {
		.status = AGENT_RESULT_KERNEL_DIED,
		.error_text = str_from(e->msg),
	};

	while (!s->ended && !list_empty(&s->queue)) {
		struct execution *x = list_first(&s->queue, struct execution, node);

		s->queue_len--;
		if (x->async) {
			/* It was acknowledged: this is its result. */
			list_remove(&x->node);
			x->started_ns = clock_mono_ns();
			result_from_agent(x, &r);
			finish(x);
		} else {
			fail_one(x, e);
		}
	}
}

void executions_fail_all(struct session *s, const struct err *e)
{
	if (s->current) {
		struct execution *x = s->current;
		bool has_result = x->asking;

		s->current = NULL;
		if (has_result)
			complete(x); /* the caller's, whatever becomes of the session */
		fail_one(x, has_result ? NULL : e);
	}
	while (!list_empty(&s->queue))
		fail_one(list_first(&s->queue, struct execution, node), e);
	while (!list_empty(&s->recent))
		execution_free(list_first(&s->recent, struct execution, node));
	s->queue_len = s->recent_len = 0;
}
