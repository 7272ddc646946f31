/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"

#include <stdio.h>
#include <string.h>

/* The service's page size. */
#define PAGE 300

static void put_session(struct buf *b, const struct session *s, const char *expires)
{
	struct session_info info = session_info(s);

	json_item(b);
	buf_add(b, "{", 1);
	json_key_str(b, "identifier", info.identifier);
	json_key_str(b, "etag", info.guid);
	json_key_time(b, "createdAt", info.created_us);
	json_key_time(b, "lastAccessedAt", info.accessed_us);
	json_key_time(b, expires, info.expires_us);
	buf_add(b, "}", 1);
}

static struct session *find(struct call *c, struct err *e)
{
	if (call_identifier(c, e) < 0)
		return NULL;
	struct session *s = session_find(c->pool, c->identifier);

	if (!s)
		err_set(e, ERR_NO_SESSION,
			"Session pool '%s' has no session with the identifier '%.*s'.",
			pool_spec(c->pool)->name, STR_ARG(c->identifier));
	return s;
}

static void reply_session(struct call *c, const char *expires)
{
	struct err e = ERR_INIT;
	struct session *s = find(c, &e);
	struct buf b;

	if (!s) {
		call_fail(c, &e);
		return;
	}
	session_touch(s);
	buf_init(&b, 1 << 16);
	put_session(&b, s, expires);
	call_session_headers(c, s);
	call_reply_json(c, 200, &b);
}

void session_get(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);

	if (c)
		reply_session(c, "expireAt");
}

void session_remove(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin_of(rq, ctx);

	if (!c)
		return;
	struct session *s = session_find(c->pool, c->identifier);

	/* Gone is gone: a second DELETE is no error. */
	if (s)
		session_delete(s);
	http_reply_empty(rq, 204);
}

struct list_arg {
	struct buf b;
	const char *expires;
};

static void list_one(const struct session *s, void *arg)
{
	struct list_arg *l = arg;

	put_session(&l->b, s, l->expires);
}

static void reply_list(struct call *c, const char *path, const char *array, const char *expires,
		       bool count)
{
	struct list_arg l = { .expires = expires };
	const struct session_pool_spec *spec = pool_spec(c->pool);
	struct err e = ERR_INIT;
	uint64_t skip = 0;
	struct str text;

	if (http_query(c->rq, "skip", &text) && !str_to_u64(text, 1u << 30, &skip)) {
		err_set(&e, ERR_INVALID, "skip must be a number of sessions, 0 or more.");
		call_fail(c, &e);
		return;
	}
	buf_init(&l.b, 16u << 20);
	buf_addf(&l.b, "{\"%s\":[", array);
	size_t total = session_each(c->pool, skip, PAGE, list_one, &l);

	buf_add(&l.b, "]", 1);
	if (count)
		json_key_int(
			&l.b, "count",
			(int64_t)(total > skip ? (total - skip < PAGE ? total - skip : PAGE) : 0));
	json_key(&l.b, "nextLink");
	if (total > skip + PAGE)
		buf_addf(
			&l.b,
			"\"%s/subscriptions/%s/resourceGroups/%s/sessionPools/%s/%s?api-version=%.*s&skip=%d\"",
			http_base_url(c->rq), spec->subscription, spec->group, spec->name, path,
			c->api_version.len ? (int)c->api_version.len : 18,
			c->api_version.len ? c->api_version.ptr : "2025-10-02-preview",
			(int)(skip + PAGE));
	else
		buf_add(&l.b, "null", 4);
	buf_add(&l.b, "}", 1);
	call_reply_json(c, 200, &l.b);
}

void session_list(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);

	if (c)
		reply_list(c, "listSessions", "sessions", "expireAt", false);
}

void session_management(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);
	struct err e = ERR_INIT;

	if (!c)
		return;
	struct str action = http_param(rq, "action");

	if (str_eq_nocase(action, STR("getSession"))) {
		reply_session(c, "expiresAt");
	} else if (str_eq_nocase(action, STR("listSessions"))) {
		reply_list(c, ".management/listSessions", "value", "expiresAt", true);
	} else if (str_eq_nocase(action, STR("stopSession"))) {
		struct session *s = find(c, &e);
		char text[IDENTIFIER_MAX + 128];

		if (!s) {
			call_fail(c, &e);
			return;
		}
		snprintf(text, sizeof(text), "Session %s in session pool %s stopped.",
			 session_info(s).identifier, pool_spec(c->pool)->name);
		session_delete(s);
		http_reply(rq, 200, "text/plain", text, strlen(text));
	} else {
		err_set(&e, ERR_NOT_SUPPORTED,
			"Unknown management call; known are getSession, listSessions and stopSession.");
		call_fail(c, &e);
	}
}

void pool_metadata(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);

	if (!c)
		return;
	const struct session_pool_spec *spec = pool_spec(c->pool);
	const char *text = c->config->metadata(spec->container_type, c->config->metadata_arg);
	struct buf b;

	/* The image says what is in it, the pool since when it is. */
	buf_init(&b, 8u << 20);
	buf_add(&b, "{", 1);
	json_key_str(&b, "createdAt", spec->created_at);
	json_key_str(&b, "lastUpdatedAt", spec->modified_at);
	buf_add(&b, ",", 1);
	buf_add_str(&b, str_from(text[0] == '{' ? text + 1 : "}"));
	call_reply_json(c, 200, &b);
}
