/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/internal.h"

#include <stdlib.h>
#include <string.h>

/* Between the question and the answer the session, the sandbox and the execution may all go: they
 * are found again by name. */
struct question {
	struct pools *pools;
	char sid[JAILER_SID_SIZE];
	uint64_t op;
};

static void answered(void *arg, const char *const *names, size_t count, const struct err *e)
{
	struct question *q = arg;
	struct sandbox *sb = sandbox_find(q->pools, q->sid);
	struct session *s = sb ? sb->session : NULL;
	uint64_t op = q->op;

	free(q);
	if (!s)
		return;
	s->refusals_busy = false;
	struct context *c = context_of_op(s, op);

	if (!c || !c->current || c->current->op != op || !c->current->asking)
		return; /* too late */
	if (e->code == ERR_NONE && count)
		result_add_refused(c->current, names, count);
	execution_settled(c);
}

/*
 * Only what failed, or wrote to stderr as programs do that carry on after a refusal, is worth the
 * question: everything else is answered without it. So is what was ended from outside: no refusal
 * did that.
 */
static bool worth_asking(const struct agent_result *r)
{
	switch (r->status) {
	case AGENT_RESULT_OK:
		return r->err.len || r->stderr_dropped;
	case AGENT_RESULT_ERROR:
	case AGENT_RESULT_KERNEL_DIED:
		return true;
	default:
		return false;
	}
}

bool refusals_ask(struct context *c, const struct agent_result *r)
{
	struct session *s = c->session;
	struct pools *p = s->pool->pools;
	struct question *q;

	/* SECURITY: one question per session: a jailer that is stuck costs each session the wait
	 * once, and what is kept for the questions does not grow with the executions. */
	if (!worth_asking(r) || s->refusals_busy)
		return false;
	q = calloc(1, sizeof(*q));
	if (!q)
		return false;
	q->pools = p;
	memcpy(q->sid, s->sandbox->sid, sizeof(q->sid));
	q->op = c->current->op;
	c->current->asking = true;
	s->refusals_busy = true;
	loop_timer_start(c->overdue, p->config.names_wait_ms);
	p->config.backend->ops->refused(p->config.backend, q->sid, c->current->started_ns, answered,
					q);
	return true;
}
