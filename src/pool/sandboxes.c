/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/own.h"
#include "base/rand.h"

#include <stdlib.h>
#include <string.h>

#define MAKE_FAILURES_MAX 5
/* While at least half of the stock is there, refilling waits for the request to be answered. */
#define REFILL_DELAY_MS 10

struct sandbox *sandbox_find(struct pools *p, const char *sid)
{
	struct map_node *n = map_get(&p->sandboxes, str_from(sid));

	return n ? container_of(n, struct sandbox, node) : NULL;
}

static size_t others_starved(const struct pool *pool)
{
	size_t count = 0;

	for (struct map_node *n = map_next(&pool->pools->pools, NULL); n;
	     n = map_next(&pool->pools->pools, n)) {
		const struct pool *other = container_of(n, struct pool, node);

		count += other != pool && other->starved;
	}
	return count;
}

/*
 * SECURITY: a flood of new identifiers in one pool must not keep the others from serving: while
 * others want places too, each has its share of starting_max.
 */
static bool may_start(struct pool *pool)
{
	size_t most = (size_t)pool->pools->config.starting_max;
	size_t others;

	if (pool->pools->starting >= most)
		return false;
	others = others_starved(pool);
	return !others || pool->making + pool->making_shells < most / (others + 1) ||
	       pool->making + pool->making_shells == 0;
}

/* A place became free that others may be waiting for; who is asked first takes turns. */
static void feed_starved(struct pools *p)
{
	size_t first = p->pools.len ? ++p->fed % p->pools.len : 0;

	for (int round = 0; round < 2; round++) {
		size_t i = 0;

		for (struct map_node *n = map_next(&p->pools, NULL); n;
		     n = map_next(&p->pools, n), i++) {
			struct pool *pool = container_of(n, struct pool, node);

			if (pool->starved && (i >= first) == (round == 0))
				loop_timer_start(pool->refill, 0);
		}
	}
}

/* Leaves whatever list and count its state puts it in. */
void sandbox_leave_stock(struct sandbox *sb)
{
	struct pool *pool = sb->pool;

	if (!list_empty(&sb->list)) {
		list_remove(&sb->list);
		if (sb->state == SANDBOX_READY)
			pool->ready_count--;
		else
			pool->shell_count--;
	}
	if (sb->counted) {
		sb->counted = false;
		pool->pools->starting--;
		if (sb->want_kernel)
			pool->making--;
		else
			pool->making_shells--;
		feed_starved(pool->pools);
	}
}

static void sandbox_free(struct sandbox *sb)
{
	pool_unref(sb->pool);
	network_done(sb);
	free(sb);
}

struct destroy_arg {
	struct pools *pools;
	char sid[JAILER_SID_SIZE];
};

static void destroyed(void *arg, const struct err *e)
{
	struct destroy_arg *d = arg;
	struct pools *p = d->pools;

	if (e->code != ERR_NONE && e->code != ERR_UNAVAILABLE)
		log_error("destroying sandbox %s: %s", d->sid, e->msg);
	free(d);
	p->destroying--;
	if (p->draining && p->destroying == 0 && p->sandboxes.len == 0 && p->drained) {
		void (*fn)(void *) = p->drained;

		p->drained = NULL;
		fn(p->drained_arg);
	}
}

void sandbox_destroy_unknown(struct pools *p, const char *sid)
{
	struct destroy_arg *d = calloc(1, sizeof(*d));

	if (!d) {
		log_error("out of memory; sandbox %s stays until the next restart", sid);
		return;
	}
	d->pools = p;
	memcpy(d->sid, sid, sizeof(d->sid));
	p->destroying++;
	p->config.backend->ops->destroy(p->config.backend, sid, destroyed, d);
}

void sandbox_destroy(struct sandbox *sb)
{
	struct pools *p = sb->pool->pools;

	if (sb->dead)
		return;
	sandbox_leave_stock(sb);
	sb->dead = true;
	network_leave(sb);
	sb->session = NULL;
	agent_link_free(sb->link);
	sb->link = NULL;
	map_remove(&p->sandboxes, &sb->node);
	sandbox_destroy_unknown(p, sb->sid);
	if (!sb->calls)
		sandbox_free(sb);
}

bool sandbox_call_returned(struct sandbox *sb)
{
	sb->calls--;
	if (!sb->dead)
		return false;
	if (!sb->calls)
		sandbox_free(sb);
	return true;
}

void sandbox_make_failed(struct sandbox *sb, const struct err *e)
{
	struct pool *pool = sb->pool;

	if (!pool->image_loaded) {
		/* The jailer was replaced: no fault of the sandbox, and those who wait go on
		 * waiting. */
		sandbox_destroy(sb);
		return;
	}
	/* One fault can fell all sandboxes in the making: it counts once. */
	if (loop_now_ms() >= pool->retry_at_ms) {
		if (pool->failures++ == 0)
			log_warn("pool %s: a sandbox did not come up: %s", pool->spec.name, e->msg);
		pool->retry_at_ms =
			loop_now_ms() + (pool->failures < 6 ? 50 << pool->failures : 3000);
	}
	sandbox_destroy(sb);
	/* Those who wait for a sandbox wait for the next try, but not without end. */
	if (pool->failures >= MAKE_FAILURES_MAX) {
		struct err mine = *e;

		mine.code = ERR_UNAVAILABLE; /* whatever it is, it is not the caller's fault */
		pools_signal_ready(pool->pools, &mine);
		while (!list_empty(&pool->waiting))
			session_end(list_first(&pool->waiting, struct session, waiting), &mine);
	}
	pool_refill(pool);
}

static void became_ready(struct sandbox *sb)
{
	struct pool *pool = sb->pool;

	sandbox_leave_stock(sb);
	pool->failures = 0;
	sb->state = SANDBOX_READY;
	if (!list_empty(&pool->waiting)) {
		session_bind(list_first(&pool->waiting, struct session, waiting), sb);
	} else {
		list_add_tail(&pool->ready, &sb->list);
		pool->ready_count++;
	}
	pool_refill(pool);
	pools_signal_ready(pool->pools, &(struct err){ 0 });
}

static void on_kernel_state(void *arg, uint32_t kernel, enum agent_kernel_state state,
			    enum agent_death death, uint32_t code)
{
	struct sandbox *sb = arg;

	if (sb->session) {
		contexts_kernel_state(sb->session, kernel, state, death);
	} else if (kernel != 0) {
		return;
	} else if (sb->state == SANDBOX_STARTING && state == AGENT_KERNEL_IDLE) {
		became_ready(sb);
	} else if (state == AGENT_KERNEL_NONE) {
		struct err e = ERR_INIT;

		err_set(&e, ERR_UNAVAILABLE, "a kernel ended before it was used (%d, %u)",
			(int)death, code);
		sandbox_make_failed(sb, &e);
	}
}

static void on_status(void *arg, const struct agent_status *status)
{
	struct sandbox *sb = arg;

	if (sb->session)
		session_agent_status(sb->session, status);
}

static void on_exec_done(void *arg, uint64_t op, const struct agent_result *result)
{
	struct sandbox *sb = arg;

	if (sb->session)
		execution_agent_done(sb->session, op, result);
}

/* Of nothing that was started there. */
static void uncalled_for(struct sandbox *sb)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_PROTOCOL, "the agent of a sandbox without a session sends output");
	sandbox_make_failed(sb, &e);
}

static void on_exec_output(void *arg, uint64_t op, int stream, struct str bytes)
{
	struct sandbox *sb = arg;

	if (sb->session)
		execution_output(sb->session, op, stream, bytes);
	else
		uncalled_for(sb);
}

static void on_exec_display(void *arg, uint64_t op, const struct agent_value *value)
{
	struct sandbox *sb = arg;

	if (sb->session)
		execution_display(sb->session, op, value);
	else
		uncalled_for(sb);
}

static void on_terminal_ended(void *arg, uint64_t op)
{
	struct sandbox *sb = arg;

	if (sb->session)
		terminal_gone(sb->session, op);
}

static void on_closed(void *arg, const struct err *e)
{
	struct sandbox *sb = arg;

	if (sb->session)
		session_end(sb->session, e);
	else
		sandbox_make_failed(sb, e);
}

static const struct agent_link_events link_events = {
	.status = on_status,
	.kernel_state = on_kernel_state,
	.exec_done = on_exec_done,
	.exec_output = on_exec_output,
	.exec_display = on_exec_display,
	.terminal_ended = on_terminal_ended,
	.closed = on_closed,
};

static int connect_link(struct sandbox *sb, struct err *e)
{
	struct backend *b = sb->pool->pools->config.backend;
	int fd = b->ops->connect(b, sb->sid, e);

	if (fd < 0)
		return -1;
	sb->link = agent_link_new(fd, &link_events, sb, e);
	return sb->link ? 0 : -1;
}

static void memory_set(void *arg, const struct err *e)
{
	struct sandbox *sb = arg;

	if (!sandbox_call_returned(sb) && sb->session)
		session_memory_set(sb->session, e);
}

void sandbox_set_memory(struct sandbox *sb, uint64_t bytes)
{
	struct backend *b = sb->pool->pools->config.backend;

	sb->calls++;
	b->ops->memory(b, sb->sid, bytes, memory_set, sb);
}

static void kernel_started(void *arg, int fd, const struct err *e)
{
	struct sandbox *sb = arg;
	char label[AGENT_LABEL_MAX];

	if (sandbox_call_returned(sb)) {
		if (fd >= 0)
			close(fd);
		return;
	}
	if (fd < 0) {
		sandbox_make_failed(sb, e);
		return;
	}
	sb->kernel_started_ms = loop_now_ms();
	agent_link_attach(sb->link, 0,
			  context_label(CONTEXT_DEFAULT, sb->pool->runtime->languages[0], label),
			  fd);
}

/* A shell, or a sandbox that was just created, gets its kernel. */
static void begin_kernel(struct sandbox *sb)
{
	struct backend *b = sb->pool->pools->config.backend;

	sb->state = SANDBOX_STARTING;
	sb->calls++;
	b->ops->start_kernel(b, sb->sid, "", kernel_started, sb);
}

static void created(void *arg, const struct err *e)
{
	struct sandbox *sb = arg;
	struct err link = ERR_INIT;

	if (sandbox_call_returned(sb))
		return;
	if (e->code != ERR_NONE) {
		sandbox_make_failed(sb, e);
		return;
	}
	if (connect_link(sb, &link) < 0) {
		sandbox_make_failed(sb, &link);
		return;
	}
	network_settle(sb);
}

void sandbox_networked(struct sandbox *sb)
{
	if (sb->want_kernel) {
		begin_kernel(sb);
		return;
	}
	struct pool *pool = sb->pool;

	sandbox_leave_stock(sb);
	sb->state = SANDBOX_SHELL;
	list_add_tail(&pool->shells, &sb->list);
	pool->shell_count++;
	pool_refill(pool);
}

static struct sandbox *sandbox_new(struct pool *pool, const char *sid, const char *image)
{
	struct sandbox *sb = calloc(1, sizeof(*sb));
	unsigned char id[16];

	if (!sb)
		return NULL;
	list_init(&sb->list);
	network_init(sb);
	sb->pool = pool;
	if (sid) {
		memcpy(sb->sid, sid, sizeof(sb->sid));
	} else {
		rand_bytes(id, sizeof(id));
		hex_encode(id, sizeof(id), sb->sid);
	}
	memcpy(sb->image, image, sizeof(sb->image));
	if (map_put(&pool->pools->sandboxes, &sb->node, str_from(sb->sid)) < 0) {
		free(sb);
		return NULL;
	}
	pool->sandbox_count++;
	return sb;
}

static int make_sandbox(struct pool *pool, bool with_kernel)
{
	struct backend *b = pool->pools->config.backend;
	const struct session_pool_spec *spec = &pool->spec;
	struct sandbox *sb = sandbox_new(pool, NULL, pool->image);

	if (!sb)
		return -1;
	struct sandbox_spec want = {
		.sid = sb->sid,
		.image = sb->image,
		.limits = {
			.memory_bytes = spec->memory_bytes,
			.data_bytes = spec->data_bytes,
			.tmp_bytes = spec->tmp_bytes,
			.inodes = spec->inodes,
			.pids = spec->pids,
			.cpu_millis = spec->cpu_millis,
			.open_files = spec->open_files,
		},
	};

	sb->memory_bytes = spec->memory_bytes;
	sb->state = SANDBOX_CREATING;
	sb->want_kernel = with_kernel;
	sb->counted = true;
	pool->pools->starting++;
	if (with_kernel)
		pool->making++;
	else
		pool->making_shells++;
	sb->calls++;
	b->ops->create(b, &want, created, sb);
	return 0;
}

static void promote_shell(struct pool *pool)
{
	struct sandbox *sb = list_first(&pool->shells, struct sandbox, list);

	sandbox_leave_stock(sb);
	sb->want_kernel = true;
	sb->counted = true;
	pool->pools->starting++;
	pool->making++;
	begin_kernel(sb);
}

int sandbox_adopt(struct session *s, const char *sid, const char *image, struct err *e)
{
	struct sandbox *sb = sandbox_new(s->pool, sid, image);

	if (!sb)
		return err_set(e, ERR_NOMEM, "out of memory");
	sb->state = SANDBOX_ALLOCATED;
	sb->session = s;
	s->sandbox = sb;
	/* The daemon before us may have lowered it for an execution that has ended since. */
	s->memory_set = MEMORY_UNKNOWN;
	if (connect_link(sb, e) == 0) {
		network_adopt(sb);
		return 0;
	}
	s->sandbox = NULL;
	sandbox_destroy(sb);
	return -1;
}

static void demand_advance(struct pool *pool)
{
	int64_t now = loop_now_ms() / 1000;

	if (now - pool->demand_second > DEMAND_SLOTS)
		pool->demand_second = now - DEMAND_SLOTS;
	while (pool->demand_second < now)
		pool->demand[++pool->demand_second % DEMAND_SLOTS] = 0;
}

void pool_note_demand(struct pool *pool)
{
	demand_advance(pool);
	pool->demand[pool->demand_second % DEMAND_SLOTS]++;
}

/*
 * How many sandboxes should be ready: what the pool asks for at least; as many as were allocated in
 * the busiest second of the last half minute; at most a fifth of the pool's sessions (or what it
 * asks for), and never more than there are sessions left to give.
 */
size_t pool_ready_target(struct pool *pool)
{
	size_t floor = (size_t)(pool->spec.ready_min >= 0 ? pool->spec.ready_min
							  : pool->pools->config.ready_default);
	size_t ceiling = (size_t)pool->spec.sessions_max / 5;
	size_t left = (size_t)pool->spec.sessions_max > pool->sessions.len
			      ? (size_t)pool->spec.sessions_max - pool->sessions.len
			      : 0;
	size_t peak = 0;

	/* Asked for: nothing that stands idle. */
	if (pool->spec.ready_min == 0)
		return 0;
	demand_advance(pool);
	for (size_t i = 0; i < DEMAND_SLOTS; i++)
		if (pool->demand[i] > peak)
			peak = pool->demand[i];
	if (ceiling < floor)
		ceiling = floor;
	size_t want = peak > floor ? peak : floor;

	want = want < ceiling ? want : ceiling;
	return want < left ? want : left;
}

void pool_refill_now(struct pool *pool)
{
	struct pools *p = pool->pools;
	int64_t now = loop_now_ms();

	pool->starved = false;
	if (!pool->image_loaded || p->draining)
		return;
	if (now < pool->retry_at_ms) {
		loop_timer_start(pool->refill, pool->retry_at_ms - now);
		return;
	}
	size_t target = pool_ready_target(pool);

	/* Too many after a busy time: the oldest go, one per turn. */
	if (pool->ready_count > target + 1 + target / 4)
		sandbox_destroy(list_first(&pool->ready, struct sandbox, list));
	target += pool->waiting_count;
	while (pool->ready_count + pool->making < target && may_start(pool)) {
		if (pool->shell_count)
			promote_shell(pool);
		else if (make_sandbox(pool, true) < 0)
			break;
	}
	/* Shells are for the time when the ready list runs dry; they never compete with it, nor
	 * with somebody who waits for a processor. */
	while (!pool->making && pool->ready_count >= target &&
	       pool->shell_count + pool->making_shells < (size_t)p->config.shells &&
	       may_start(pool))
		if (make_sandbox(pool, false) < 0)
			break;
	pool->starved = pool->ready_count + pool->making < target;
	/* Demand fades with time: look again. */
	loop_timer_start(pool->refill, 1000);
}

void pool_refill(struct pool *pool)
{
	/* People who wait are served in this turn, if nobody else was first. Otherwise stock is
	 * kept up off the request's path, also off its processor: the request that took a sandbox
	 * is still running. */
	if (pool->waiting_count && !others_starved(pool))
		pool_refill_now(pool);
	else if (pool->waiting_count)
		loop_timer_start(pool->refill, 0);
	else if (pool->ready_count * 2 < pool_ready_target(pool) || pool->making)
		loop_timer_start(pool->refill, 0);
	else
		loop_timer_start(pool->refill, REFILL_DELAY_MS);
}
