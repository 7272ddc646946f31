/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/internal.h"

#include "base/log.h"
#include "base/own.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void refill_timer(void *arg)
{
	pool_refill_now(arg);
}

struct pool *pool_find(struct pools *p, struct str key)
{
	struct map_node *n = map_get(&p->pools, key);

	return n ? container_of(n, struct pool, node) : NULL;
}

const struct session_pool_spec *pool_spec(const struct pool *pool)
{
	return &pool->spec;
}

const struct pools_config *pool_config(const struct pool *pool)
{
	return &pool->pools->config;
}

const struct runtime *pool_runtime(const struct pool *pool)
{
	return pool->runtime;
}

struct pool_counts pool_counts(const struct pool *pool)
{
	return (struct pool_counts){ pool->sessions.len, pool->ready_count, pool->shell_count,
				     pool->making };
}

int pools_new(const struct pools_config *config, struct pools **ret, struct err *e)
{
	struct pools *p = calloc(1, sizeof(*p));

	if (!p)
		return err_set(e, ERR_NOMEM, "out of memory");
	p->config = *config;
	map_init(&p->pools);
	map_init(&p->sandboxes);
	map_init(&p->flow_owners);
	list_init(&p->connects);
	list_init(&p->flow_gone);
	*ret = p;
	return 0;
}

static void pool_free(void *arg)
{
	struct pool *pool = arg;

	loop_timer_free(pool->refill);
	map_done(&pool->sessions);
	free(pool);
}

void pool_unref(struct pool *pool)
{
	/* At the end of the turn: sessions that just ended are freed then, and before it. */
	if (--pool->sandbox_count == 0 && pool->removed && loop_later(pool_free, pool) < 0)
		log_error("out of memory; a removed pool stays in memory");
}

static struct pool *pool_new(struct pools *p, const struct session_pool_spec *spec, struct err *e)
{
	const struct runtime *runtime =
		p->config.runtime_of(spec->container_type, p->config.runtime_arg);
	struct pool *pool = calloc(1, sizeof(*pool));

	if (!runtime) {
		free(pool);
		err_set(e, ERR_UNAVAILABLE, "no image for %s is installed (bivouac image build)",
			spec->container_type);
		return NULL;
	}
	if (!pool) {
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	pool->pools = p;
	pool->spec = *spec;
	pool->runtime = runtime;
	snprintf(pool->image, sizeof(pool->image), "%s", runtime->id);
	map_init(&pool->sessions);
	list_init(&pool->order);
	list_init(&pool->waiting);
	list_init(&pool->ready);
	list_init(&pool->shells);
	pool->demand_second = loop_now_ms() / 1000;
	pool->refill = loop_timer_new(refill_timer, pool);
	if (!pool->refill || map_put(&p->pools, &pool->node, str_from(pool->spec.key)) < 0) {
		pool_free(pool);
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	return pool;
}

/* What was prepared under other limits is of no use. */
static void drop_stock(struct pool *pool)
{
	while (!list_empty(&pool->ready))
		sandbox_destroy(list_first(&pool->ready, struct sandbox, list));
	while (!list_empty(&pool->shells))
		sandbox_destroy(list_first(&pool->shells, struct sandbox, list));
	for (struct map_node *n = map_next(&pool->pools->sandboxes, NULL), *next; n; n = next) {
		struct sandbox *sb = container_of(n, struct sandbox, node);

		next = map_next(&pool->pools->sandboxes, n);
		if (sb->pool == pool && !sb->session)
			sandbox_destroy(sb);
	}
}

static void pool_remove(struct pool *pool)
{
	while (!list_empty(&pool->order))
		session_end(list_first(&pool->order, struct session, order), NULL);
	drop_stock(pool);
	map_remove(&pool->pools->pools, &pool->node);
	pool->image_loaded = false;
	loop_timer_stop(pool->refill);
	pool->removed = true;
	pool->sandbox_count++;
	pool_unref(pool);
}

/* Tells whoever started us, once. */
void pools_signal_ready(struct pools *p, const struct err *e)
{
	void (*fn)(void *, const struct err *) = p->ready;

	p->ready = NULL;
	if (fn)
		fn(p->ready_arg, e);
}

struct image_arg {
	struct pools *pools;
	char key[512];
};

static void image_loaded(void *arg, const struct err *e)
{
	struct image_arg *a = arg;
	struct pool *pool = pool_find(a->pools, str_from(a->key));

	if (e->code != ERR_NONE) {
		log_error("image of pool %s: %s", a->key, e->msg);
		pools_signal_ready(a->pools, e);
	}
	if (!pool || pool_ready_target(pool) == 0)
		pools_signal_ready(a->pools, &(struct err){ 0 });
	if (pool) {
		/* Not loaded: refill tries, with pauses, and finds out when it is. */
		pool->image_loaded = true;
		pool_refill(pool);
	}
	free(a);
}

static void load_image(struct pool *pool)
{
	struct backend *b = pool->pools->config.backend;
	struct image_arg *a = calloc(1, sizeof(*a));

	if (!a)
		return;
	a->pools = pool->pools;
	memcpy(a->key, pool->spec.key, sizeof(a->key));
	b->ops->load_image(b, pool->image, image_loaded, a);
}

static bool same_sandbox(const struct session_pool_spec *a, const struct session_pool_spec *b)
{
	return a->memory_bytes == b->memory_bytes && a->data_bytes == b->data_bytes &&
	       a->tmp_bytes == b->tmp_bytes && a->inodes == b->inodes && a->pids == b->pids &&
	       a->cpu_millis == b->cpu_millis && a->open_files == b->open_files &&
	       a->egress == b->egress;
}

static int apply_document(struct pools *p, const struct store_doc *doc, struct err *e)
{
	struct session_pool_spec spec;

	if (session_pool_spec_load(doc, &spec, e) < 0)
		return -1;
	struct pool *pool = pool_find(p, str_from(spec.key));

	if (!pool) {
		pool = pool_new(p, &spec, e);
		if (!pool)
			return -1;
		network_pool_changed(pool);
		if (p->started)
			load_image(pool);
		return 0;
	}
	bool same = same_sandbox(&pool->spec, &spec);

	pool->spec = spec;
	if (!same)
		drop_stock(pool);
	network_pool_changed(pool);
	list_each(&pool->order, struct session, order, s)
		session_rearm(s);
	pool_refill(pool);
	return 0;
}

void pools_document(struct pools *p, const char *key, bool deleted)
{
	struct store_doc doc = { 0 };
	struct err e = ERR_INIT;
	struct pool *pool = pool_find(p, str_from(key));

	if (deleted) {
		if (pool)
			pool_remove(pool);
		return;
	}
	if (store_doc_get(p->config.store, key, &doc, &e) == 1)
		apply_document(p, &doc, &e);
	store_doc_done(&doc);
	if (e.code != ERR_NONE)
		log_error("pool %s: %s", key, e.msg);
}

static int load_document(const struct store_doc *doc, void *arg, struct err *e)
{
	/* One pool that cannot be served must not keep the others from it. */
	if (apply_document(arg, doc, e) < 0)
		log_error("pool %s: %s", doc->key, e->msg);
	*e = ERR_INIT;
	return 0;
}

/* The sandboxes the backend has, by id. */
struct listed {
	struct pools *pools;
	const char *const *sids;
	size_t count;
	char (*lost)[33]; /* rows whose sandbox is gone */
	size_t lost_count;
};

static int compare_sids(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool is_listed(const struct listed *l, const char *sid)
{
	return l->count && bsearch(&sid, l->sids, l->count, sizeof(l->sids[0]), compare_sids);
}

static void note_lost(struct listed *l, const char *sid)
{
	void *grown = realloc(l->lost, (l->lost_count + 1) * sizeof(*l->lost));

	if (!grown)
		return;
	l->lost = grown;
	memcpy(l->lost[l->lost_count++], sid, 33);
}

static int adopt_row(const struct store_session *row, void *arg, struct err *e)
{
	struct listed *l = arg;
	struct pool *pool = pool_find(l->pools, str_from(row->pool_key));
	struct session *s = NULL;

	if (!pool || !is_listed(l, row->sid) || session_find(pool, str_from(row->identifier))) {
		note_lost(l, row->sid);
		return 0;
	}
	s = session_new(pool, str_from(row->identifier), row->guid, row->created_us,
			row->accessed_us, e);
	if (!s)
		return -1;
	s->stored = true;
	if (sandbox_adopt(s, row->sid, row->image, e) < 0 || executions_restore(s, e) < 0) {
		log_error("session %s: %s", row->guid, e->msg);
		note_lost(l, row->sid);
		s->stored = false;
		session_end(s, e);
	}
	*e = ERR_INIT;
	return 0;
}

static void adopt_listed(void *arg, const char *const *sids, size_t count,
			 const struct err *list_err)
{
	struct listed l = { .pools = arg, .sids = sids, .count = count };
	struct pools *p = arg;
	struct err e = ERR_INIT;

	if (list_err->code != ERR_NONE) {
		log_error("listing sandboxes: %s", list_err->msg);
		return;
	}
	if (!p->started && store_session_each(p->config.store, adopt_row, &l, &e) < 0)
		log_error("reading sessions: %s", e.msg);
	for (size_t i = 0; i < l.lost_count; i++) {
		log_warn("the sandbox %s of a session is gone; the session is forgotten",
			 l.lost[i]);
		store_session_delete(p->config.store, l.lost[i], &e);
	}
	free(l.lost);
	size_t unknown = 0;

	for (size_t i = 0; i < count; i++) {
		if (sandbox_find(p, sids[i]))
			continue;
		sandbox_destroy_unknown(p, sids[i]);
		unknown++;
	}
	p->started = true;
	log_info("%zu sandboxes found, %zu of them unowned and destroyed", count, unknown);
	for (struct map_node *n = map_next(&p->pools, NULL); n; n = map_next(&p->pools, n))
		load_image(container_of(n, struct pool, node));
	if (!p->pools.len)
		pools_signal_ready(p, &(struct err){ 0 });
}

void pools_start(struct pools *p, void (*ready)(void *arg, const struct err *e), void *arg)
{
	struct backend *b = p->config.backend;
	struct err e = ERR_INIT;

	p->ready = ready;
	p->ready_arg = arg;
	if (store_doc_list(p->config.store, "microsoft.app/sessionpools", "", NULL, 1 << 20,
			   load_document, p, &e) < 0) {
		ready(arg, &e);
		return;
	}
	b->ops->list(b, adopt_listed, p);
}

void pools_backend_restarted(struct pools *p)
{
	struct backend *b = p->config.backend;

	for (struct map_node *n = map_next(&p->pools, NULL); n; n = map_next(&p->pools, n)) {
		struct pool *pool = container_of(n, struct pool, node);

		pool->failures = 0;
		pool->retry_at_ms = 0;
		pool->image_loaded = false; /* until the new jailer's zygote says so */
	}
	network_restarted(p);
	b->ops->list(b, adopt_listed, p);
}

void pools_drain(struct pools *p, void (*done)(void *arg), void *arg)
{
	p->draining = true;
	p->drained = done;
	p->drained_arg = arg;
	for (struct map_node *n; (n = map_next(&p->pools, NULL));)
		pool_remove(container_of(n, struct pool, node));
	if (p->destroying == 0 && p->drained) {
		p->drained = NULL;
		done(arg);
	}
}

void pools_free(struct pools *p)
{
	/* With sandboxes that live on, the process is about to end and takes all of it along. */
	if (!p || p->sandboxes.len || p->pools.len)
		return;
	flows_done(p);
	map_done(&p->pools);
	map_done(&p->sandboxes);
	free(p);
}
