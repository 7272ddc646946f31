/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rand.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct session_wait {
	struct list node;
	struct session *session;
	void (*open)(void *arg, struct session *s, struct agent_link *link);
	void (*failed)(void *arg, const struct err *e);
	void *arg;
};

int identifier_check(struct str id, struct err *e)
{
	/* The swagger's set (azure-api.md §1.2): printable ASCII without blank and grave accent. */
	if (id.len < IDENTIFIER_MIN || id.len > IDENTIFIER_MAX)
		return err_set(
			e, ERR_INVALID,
			"The identifier has %zu characters; it must have %d to %d. Choose another identifier.",
			id.len, IDENTIFIER_MIN, IDENTIFIER_MAX);
	for (size_t i = 0; i < id.len; i++) {
		unsigned char c = (unsigned char)id.ptr[i];

		if (c <= 0x20 || c >= 0x7f || c == '`')
			return err_set(
				e, ERR_INVALID,
				"The identifier has a forbidden character (byte 0x%02x at position %zu). "
				"Allowed are letters, digits and | - & ^ %% $ # ( ) { } [ ] ; < > _ . : @ / "
				"+ = ! ~ ' \" ? * , \\.",
				c, i + 1);
	}
	return 0;
}

static void idle_expired(void *arg)
{
	struct session *s = arg;
	int64_t left_us =
		s->accessed_us + (int64_t)s->pool->spec.cooldown_s * 1000000 - clock_wall_us();

	/* A running execution or transfer is not idleness; a touch since the timer was set moves
	 * the end. */
	if (contexts_busy(s) || terminals_attached(s) ||
	    (s->sandbox && agent_link_busy(s->sandbox->link)))
		left_us = (int64_t)s->pool->spec.cooldown_s * 1000000;
	if (left_us > 0) {
		loop_timer_start(s->idle, left_us / 1000 + 1);
		return;
	}
	log_info("session %s of pool %s expired after %d s without a request", s->guid,
		 s->pool->spec.name, s->pool->spec.cooldown_s);
	session_end(s, NULL);
}

static void session_free(void *arg)
{
	struct session *s = arg;

	loop_timer_free(s->idle);
	contexts_done(s);
	free(s);
}

struct session *session_new(struct pool *pool, struct str identifier, const char *guid,
			    int64_t created_us, int64_t accessed_us, struct err *e)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s) {
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	s->pool = pool;
	list_init(&s->contexts);
	if (!(s->idle = loop_timer_new(idle_expired, s)) || contexts_init(s, e) < 0 ||
	    !str_copy(identifier, s->identifier, sizeof(s->identifier)) ||
	    map_put(&pool->sessions, &s->node, str_from(s->identifier)) < 0) {
		session_free(s);
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	if (guid)
		snprintf(s->guid, sizeof(s->guid), "%s", guid);
	else
		uuid_new(s->guid);
	s->created_us = created_us;
	s->accessed_us = accessed_us;
	list_init(&s->waiting);
	list_init(&s->terminals);
	list_init(&s->replaced);
	list_init(&s->recent);
	list_init(&s->waits);
	list_add_tail(&pool->order, &s->order);
	session_rearm(s);
	return s;
}

void session_rearm(struct session *s)
{
	int64_t end_us = s->accessed_us + (int64_t)s->pool->spec.cooldown_s * 1000000;
	int64_t left_us = end_us - clock_wall_us();

	loop_timer_start(s->idle, left_us > 0 ? left_us / 1000 + 1 : 0);
}

struct session *session_find(struct pool *pool, struct str identifier)
{
	struct map_node *n = map_get(&pool->sessions, identifier);

	return n ? container_of(n, struct session, node) : NULL;
}

static void leave_waiting(struct session *s)
{
	if (list_empty(&s->waiting))
		return;
	list_remove(&s->waiting);
	s->pool->waiting_count--;
}

static int store_row(struct session *s, struct err *e)
{
	struct store_session row = {
		.pool_key = s->pool->spec.key,
		.identifier = s->identifier,
		.guid = s->guid,
		.image = s->sandbox->image,
		.created_us = s->created_us,
		.accessed_us = s->accessed_us,
	};

	memcpy(row.sid, s->sandbox->sid, sizeof(row.sid));
	if (store_session_put(s->pool->pools->config.store, &row, e) < 0)
		return -1;
	s->stored = true;
	return 0;
}

static void run_waits(struct session *s)
{
	while (!s->ended && !list_empty(&s->waits)) {
		struct session_wait *w = list_first(&s->waits, struct session_wait, node);
		void (*open)(void *, struct session *, struct agent_link *) = w->open;
		void *arg = w->arg;

		session_wait_cancel(w);
		open(arg, s, s->sandbox->link);
	}
}

void session_bind(struct session *s, struct sandbox *sb)
{
	struct err e = ERR_INIT;

	leave_waiting(s);
	sb->state = SANDBOX_ALLOCATED;
	sb->session = s;
	s->sandbox = sb;
	s->agent_heard = true;
	contexts_bind(s);
	s->memory_bytes = sb->memory_bytes;
	pool_note_demand(s->pool);
	/* The row is written before anything runs: a session that did something
	 * is never forgotten. */
	if (store_row(s, &e) < 0) {
		log_error("session %s: %s", s->guid, e.msg);
		session_end(s, &e);
		return;
	}
	s->allocation_us = (clock_mono_ns() - s->asked_ns) / 1000;
	run_waits(s);
	if (!s->ended)
		executions_next(s);
}

struct session *session_open(struct pool *pool, struct str identifier, struct err *e)
{
	struct session *s = session_find(pool, identifier);

	if (s) {
		session_touch(s);
		return s;
	}
	if (pool->sessions.len >= (size_t)pool->spec.sessions_max) {
		err_set(e, ERR_SESSIONS_MAX,
			"Session pool '%s' already has its maximum of %d concurrent sessions. Delete a session, "
			"wait for one to expire (cooldown %d s), or raise scaleConfiguration.maxConcurrentSessions.",
			pool->spec.name, pool->spec.sessions_max, pool->spec.cooldown_s);
		return NULL;
	}
	s = session_new(pool, identifier, NULL, clock_wall_us(), clock_wall_us(), e);
	if (!s)
		return NULL;
	s->asked_ns = clock_mono_ns();
	if (pool->ready_count) {
		struct sandbox *sb = list_first(&pool->ready, struct sandbox, list);

		sandbox_leave_stock(sb);
		session_bind(s, sb);
		pool_refill(pool);
		if (!s->ended)
			return s;
		err_set(e, ERR_INTERNAL, "the session could not be recorded; see the daemon's log");
		return NULL;
	}
	list_add_tail(&pool->waiting, &s->waiting);
	pool->waiting_count++;
	pool_refill(pool);
	if (s->ended) {
		s = NULL;
		err_set(e, ERR_UNAVAILABLE, "no sandbox could be started; see the daemon's log");
	}
	return s;
}

void session_touch(struct session *s)
{
	struct err e = ERR_INIT;
	int64_t now = clock_wall_us();

	/* The row follows in steps of a second: after a crash a session may live
	 * that much longer. */
	bool write = s->stored && now / 1000000 != s->accessed_us / 1000000;

	s->accessed_us = now;
	if (write &&
	    store_session_touch(s->pool->pools->config.store, s->sandbox->sid, now, &e) < 0)
		log_warn("session %s: %s", s->guid, e.msg);
}

void session_end(struct session *s, const struct err *why)
{
	struct pool *pool = s->pool;
	struct sandbox *sb = s->sandbox;
	struct err e = ERR_INIT;

	if (s->ended)
		return;
	s->ended = true;
	leave_waiting(s);
	list_remove(&s->order);
	map_remove(&pool->sessions, &s->node);
	if (why) {
		log_warn("session %s of pool %s ended: %s", s->guid, pool->spec.name, why->msg);
		e = *why;
	} else {
		/* It may have waited, or have run code or a terminal. */
		err_set(&e, ERR_CONFLICT, "The session was deleted before the request was done.");
	}
	if (s->stored &&
	    store_session_delete(pool->pools->config.store, sb->sid, &(struct err){ 0 }) < 0)
		log_error("session %s: its row could not be deleted", s->guid);
	/* From here on nobody finds it; tell those who hold on to it. */
	while (!list_empty(&s->waits)) {
		struct session_wait *w = list_first(&s->waits, struct session_wait, node);
		void (*failed)(void *, const struct err *) = w->failed;
		void *arg = w->arg;

		session_wait_cancel(w);
		failed(arg, &e);
	}
	executions_fail_all(s, &e);
	terminals_fail_all(s, &e);
	if (sb)
		sandbox_destroy(sb);
	/* Callers up the stack may still look at it. */
	if (loop_later(session_free, s) < 0)
		session_free(s);
	pool_refill(pool);
}

void session_delete(struct session *s)
{
	session_end(s, NULL);
}

struct session_info session_info(const struct session *s)
{
	return (struct session_info){
		.identifier = s->identifier,
		.guid = s->guid,
		.created_us = s->created_us,
		.accessed_us = s->accessed_us,
		.expires_us = s->accessed_us + (int64_t)s->pool->spec.cooldown_s * 1000000,
		.pool = s->pool,
		.allocation_us = s->allocation_us,
	};
}

size_t session_each(struct pool *pool, size_t skip, size_t limit,
		    void (*fn)(const struct session *s, void *arg), void *arg)
{
	size_t at = 0;

	list_each(&pool->order, struct session, order, s) {
		if (at >= skip && at - skip < limit)
			fn(s, arg);
		at++;
	}
	return at;
}

struct session_wait *session_when_open(struct session *s,
				       void (*open)(void *arg, struct session *s,
						    struct agent_link *link),
				       void (*failed)(void *arg, const struct err *e), void *arg)
{
	if (s->agent_heard) {
		open(arg, s, s->sandbox->link);
		return NULL;
	}
	struct session_wait *w = s->wait_count < s->pool->spec.queue_max ? calloc(1, sizeof(*w))
									 : NULL;

	if (!w) {
		struct err e = ERR_INIT;

		err_set(&e, ERR_QUEUE_FULL,
			"%u requests wait for the session to start, the limit of its pool (sessionLimits.queueLength).",
			s->pool->spec.queue_max);
		failed(arg, &e);
		return NULL;
	}
	w->session = s;
	s->wait_count++;
	w->open = open;
	w->failed = failed;
	w->arg = arg;
	list_add_tail(&s->waits, &w->node);
	return w;
}

void session_wait_cancel(struct session_wait *w)
{
	if (!w)
		return;
	w->session->wait_count--;
	list_remove(&w->node);
	free(w);
}

void session_agent_status(struct session *s, const struct agent_status *status)
{
	/* SECURITY: what an agent says of itself counts once, when an earlier daemon knew it. */
	if (s->agent_heard)
		return;
	memory_heard(s, status);
	contexts_status(s, status);
	terminals_status(s, status);
	s->agent_heard = true;
	run_waits(s);
	if (!s->ended)
		executions_next(s);
}

static void session_settle(void *arg)
{
	struct session *s = arg;

	s->later = false;
	if (s->ended)
		return;
	executions_settle(s);
	if (s->ended)
		return;
	terminals_settle(s);
	if (s->ended)
		return;
	contexts_sweep(s);
	executions_next(s);
}

void session_later(struct session *s)
{
	/* One that has ended is freed later as well: before that. */
	if (s->later || s->ended)
		return;
	s->later = true;
	if (loop_later(session_settle, s) < 0)
		session_settle(s);
}
