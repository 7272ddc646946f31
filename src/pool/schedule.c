/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What a session runs next, and under which memory limit.
 *
 * Contexts run side by side. An execution with a limit of its own (maxMemory) runs alone, as the
 * limit is that of the whole sandbox: it waits until nothing runs and no kernel is coming up, and
 * whatever arrived after it waits for it. So arrival decides: nobody starves, and whoever cannot
 * start for want of a kernel holds nobody up.
 */
#include "pool/internal.h"

#include "base/log.h"
#include "base/rand.h"

/* Times that a lost request for another memory limit is repeated. */
#define MEMORY_TRIES 3
/* Bit of an operation number: it runs under the session's own limit. Bit 0 is set in all of them.
 */
#define OP_UNLIMITED 2

static uint64_t limit_of(const struct session *s, uint64_t memory_bytes)
{
	return s->memory_bytes && memory_bytes >= s->memory_bytes ? 0 : memory_bytes;
}

uint64_t execution_op(const struct session *s, uint64_t memory_bytes)
{
	uint64_t op = (rand_u64() | 1) & ~(uint64_t)OP_UNLIMITED;

	return limit_of(s, memory_bytes) ? op : op | OP_UNLIMITED;
}

void memory_heard(struct session *s, const struct agent_status *status)
{
	/* The daemon before us started it after it had given the memory back. */
	for (size_t i = 0; i < status->exec_count; i++)
		if (status->execs[i].state == AGENT_EXEC_RUNNING &&
		    (status->execs[i].op & OP_UNLIMITED))
			s->memory_set = 0;
}

/* Something runs, and keeps the limit it was started under. */
static bool is_running(const struct session *s)
{
	list_each(&s->contexts, struct context, node, c)
		if ((c->current && !c->current->asking) || c->foreign_op)
			return true;
	return false;
}

bool memory_is_back(const struct session *s)
{
	/* The jailer takes requests in order, so only a lower limit that is in force, or still on
	 * its way there, has to be waited for. */
	return s->memory_busy ? s->memory_want == 0 : s->memory_set == 0 || !is_running(s);
}

/* The one that waited longest, of those whose kernels are idle. */
static struct execution *first_after(const struct session *s, uint64_t arrival)
{
	struct execution *first = NULL;

	list_each(&s->contexts, struct context, node, c) {
		if (!c->kernel_idle || list_empty(&c->queue))
			continue;
		struct execution *x = list_first(&c->queue, struct execution, node);

		/* Finished at the agent already: its result is on the way. Canceled: so is that. */
		if (x->state != EXECUTION_QUEUED || x->canceled || x->arrival <= arrival)
			continue;
		if (!first || x->arrival < first->arrival)
			first = x;
	}
	return first;
}

/* The limit that has to be in force before the next step. */
static uint64_t memory_wanted(const struct session *s, const struct execution *first)
{
	uint64_t limit = first ? limit_of(s, first->memory_bytes) : 0;

	/* A kernel comes up under the sandbox's own. */
	return limit && contexts_coming(s) ? 0 : limit;
}

static void ask_for_memory(struct session *s, uint64_t bytes)
{
	s->memory_busy = true;
	s->memory_want = bytes;
	sandbox_set_memory(s->sandbox, bytes);
}

static void start_alone(struct session *s, struct execution *x)
{
	if (!x->context->current && !is_running(s) && !contexts_coming(s))
		execution_start(x);
}

static void start_what_may(struct session *s)
{
	struct execution *x = first_after(s, 0);
	uint64_t want = memory_wanted(s, x);

	/* Executions without maxMemory pay this comparison. */
	if (want != s->memory_set) {
		if (!is_running(s))
			ask_for_memory(s, want);
		return;
	}
	if (x && limit_of(s, x->memory_bytes)) {
		start_alone(s, x);
		return;
	}
	while (x && !limit_of(s, x->memory_bytes)) {
		uint64_t arrival = x->arrival;

		if (!x->context->current)
			execution_start(x);
		x = first_after(s, arrival);
	}
}

void executions_next(struct session *s)
{
	/* Until the agent has said what there is, an execution of an earlier daemon may run. */
	if (s->ended || !s->agent_heard)
		return;
	if (!s->memory_busy)
		start_what_may(s);
	contexts_start_waiting(s);
}

/* It cannot have the limit it asks for, or the one before cannot be undone. */
static void refuse(struct execution *x, const struct err *e)
{
	struct err mine = ERR_INIT;

	if (e->code == ERR_CONFLICT)
		err_set(&mine, ERR_CONFLICT,
			"maxMemory cannot be kept: %s. Nothing was run. Delete variables or "
			"files, or ask for more.",
			e->msg);
	else
		err_set(&mine, e->code == ERR_NOT_SUPPORTED ? e->code : ERR_UNAVAILABLE,
			"The memory limit of the execution could not be set: %s.", e->msg);
	execution_refuse(x, &mine);
}

static void memory_refused(struct session *s, const struct err *e)
{
	struct execution *first = first_after(s, 0);

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
	if (memory_wanted(s, first) == s->memory_want) {
		/* Whoever comes next asks again; nobody does in a circle. */
		if (!first) {
			contexts_start_waiting(s);
			return;
		}
		refuse(first, e);
	}
	/* Else who wanted it left meanwhile, and others may have queued. */
	if (!s->ended)
		executions_next(s);
}

void session_memory_set(struct session *s, const struct err *e)
{
	s->memory_busy = false;
	if (e->code != ERR_NONE) {
		memory_refused(s, e);
		return;
	}
	s->memory_set = s->memory_want;
	s->memory_failures = 0;
	executions_next(s);
}
