/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Connects sandboxes to the outside and cuts them off.
 *
 * Level-triggered: per sandbox there is at most one call under way, and when it is answered, what
 * was asked for is compared with what the pool says by then; so the last wish wins, however fast it
 * changed. Sandboxes without a session never switch: they are made under one status, and pools.c
 * destroys them when it changes.
 *
 * SECURITY: `open` is set before a connect is asked for and cleared only by a cut that succeeded,
 * so a sandbox that may be connected is never taken for one that is not. A session that cannot be
 * cut ends. In a pool without egress `open` is set for the sandboxes of an earlier daemon alone,
 * which may have connected them: each is cut off once. For those made here no call is made at all.
 */
#include "pool/internal.h"

#include "base/log.h"

#define CUT_FAILURES_MAX 5
#define RETRY_MIN_MS     100
#define RETRY_MAX_MS     30000
/* Sessions that are being connected at once; more would keep the jailer from its other work, and
 * from cuts. */
#define CONNECTING_MAX 8

static bool wanted(const struct sandbox *sb)
{
	return sb->pool->pools->config.egress && sb->pool->spec.egress;
}

void network_init(struct sandbox *sb)
{
	list_init(&sb->network.turn);
}

static void stop_retry(struct sandbox_network *n)
{
	if (n->retry)
		loop_timer_stop(n->retry);
}

static void answered(void *arg, uint32_t address, const struct err *e);

static void call(struct sandbox *sb, bool on)
{
	struct backend *b = sb->pool->pools->config.backend;
	struct sandbox_network *n = &sb->network;

	list_remove(&n->turn);
	stop_retry(n);
	n->busy = true;
	if (n->asked != on)
		n->failures = 0;
	n->asked = on;
	n->stale = false;
	if (on)
		n->open = true;
	sb->calls++;
	b->ops->network(b, sb->sid, on, answered, sb);
}

static void next_turn(struct pools *p)
{
	while (p->connecting < CONNECTING_MAX && !list_empty(&p->connects)) {
		struct sandbox *sb = list_first(&p->connects, struct sandbox, network.turn);

		p->connecting++;
		sb->network.counted = true;
		call(sb, true);
	}
}

void network_settle(struct sandbox *sb)
{
	struct sandbox_network *n = &sb->network;
	struct pools *p = sb->pool->pools;
	bool on = wanted(sb);

	if (sb->dead || n->busy)
		return;
	if (on ? n->owner && !n->stale : !n->open) {
		list_remove(&n->turn);
		stop_retry(n);
		if (sb->state == SANDBOX_CREATING)
			sandbox_networked(sb);
	} else if (on && sb->state != SANDBOX_CREATING) {
		if (list_empty(&n->turn))
			list_add_tail(&p->connects, &n->turn);
		next_turn(p);
	} else {
		call(sb, on);
	}
}

static void retry(void *arg)
{
	network_settle(arg);
}

static void failed(struct sandbox *sb, const struct err *e)
{
	struct sandbox_network *n = &sb->network;
	int64_t pause_ms = RETRY_MAX_MS;
	struct err why = *e;

	n->stale = true;
	if (!sb->session) {
		err_wrap(&why, "network");
		sandbox_make_failed(sb, &why);
		return;
	}
	n->failures++;
	if (n->failures == 1)
		log_warn("session %s: its network could not be %s: %s; trying again",
			 sb->session->guid, n->asked ? "connected" : "cut off", e->msg);
	if (!n->retry)
		n->retry = loop_timer_new(retry, sb);
	if (!n->asked && (n->failures == CUT_FAILURES_MAX || !n->retry)) {
		err_wrap(&why, "its network could not be cut off");
		session_end(sb->session, &why);
		return;
	}
	if (n->failures < 9)
		pause_ms = RETRY_MIN_MS << (n->failures - 1);
	if (n->retry)
		loop_timer_start(n->retry, pause_ms < RETRY_MAX_MS ? pause_ms : RETRY_MAX_MS);
}

static int connected(struct sandbox *sb, uint32_t address, struct err *e)
{
	struct sandbox_network *n = &sb->network;

	if (!address)
		return err_set(e, ERR_PROTOCOL, "the jailer named no address");
	if (n->owner && flow_owner_address(n->owner) == address)
		return 0;
	flow_owner_leave(n->owner);
	n->owner = flow_owner_new(sb, address);
	return n->owner ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

static void done(struct sandbox *sb, uint32_t address, const struct err *e)
{
	struct sandbox_network *n = &sb->network;
	struct err mine = *e;

	if (mine.code == ERR_NONE && n->asked)
		connected(sb, address, &mine);
	if (mine.code != ERR_NONE) {
		failed(sb, &mine);
		return;
	}
	if (!n->asked) {
		n->open = false;
		flow_owner_leave(n->owner);
		n->owner = NULL;
	}
	if (n->failures)
		log_info("session %s: its network is %s now", sb->session ? sb->session->guid : "-",
			 n->asked ? "connected" : "cut off");
	n->failures = 0;
	network_settle(sb);
}

static void answered(void *arg, uint32_t address, const struct err *e)
{
	struct sandbox *sb = arg;
	struct pools *p = sb->pool->pools;

	sb->network.busy = false;
	if (sb->network.counted) {
		sb->network.counted = false;
		p->connecting--;
	}
	if (!sandbox_call_returned(sb))
		done(sb, address, e);
	next_turn(p);
}

void network_adopt(struct sandbox *sb)
{
	sb->network.open = true;
	network_settle(sb);
}

void network_leave(struct sandbox *sb)
{
	list_remove(&sb->network.turn);
	stop_retry(&sb->network);
	flow_owner_leave(sb->network.owner);
	sb->network.owner = NULL;
}

void network_done(struct sandbox *sb)
{
	loop_timer_free(sb->network.retry);
}

void network_pool_changed(struct pool *pool)
{
	if (pool->spec.egress && !pool->pools->config.egress)
		log_warn(
			"pool %s is EgressEnabled, but this daemon offers no egress: its sessions have no network",
			pool->spec.name);
	list_each(&pool->order, struct session, order, s)
		if (s->sandbox)
			network_settle(s->sandbox);
}

void network_restarted(struct pools *p)
{
	for (struct map_node *n = map_next(&p->sandboxes, NULL), *next; n; n = next) {
		struct sandbox *sb = container_of(n, struct sandbox, node);

		next = map_next(&p->sandboxes, n);
		if (!sb->network.open || sb->state == SANDBOX_CREATING)
			continue;
		if (!sb->session) {
			/* Nobody is given one that is not connected yet. */
			sandbox_destroy(sb);
			continue;
		}
		sb->network.stale = true;
		network_settle(sb);
	}
}
