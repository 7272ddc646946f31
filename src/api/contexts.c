/* SPDX-License-Identifier: Apache-2.0 */
#include "api/execute_body.h"

#include "base/json.h"

#include <string.h>

/** A call about one context, that waits for its session. */
struct context_call {
	struct call *call;
	struct str name;
	struct str language; /* empty: the caller does not say */
};

static void put_context(struct buf *b, const struct context_info *info)
{
	json_item(b);
	buf_add(b, "{", 1);
	json_key_str(b, "name", info->name);
	json_key_str(b, "language", info->language);
	json_key_str(b, "state", info->state);
	json_key_int(b, "queueLength", (int64_t)info->queue_len);
	json_key_int(b, "executions", (int64_t)info->executions);
	buf_add(b, "}", 1);
}

static void reply_context(struct call *c, const struct session *s, int status,
			  const struct context_info *info)
{
	struct buf b;

	buf_init(&b, 1 << 16);
	put_context(&b, info);
	call_session_headers(c, s);
	call_reply_json(c, status, &b);
}

static void list_one(const struct context_info *info, void *arg)
{
	put_context(arg, info);
}

static void list_opened(void *arg, struct session *s, struct agent_link *link)
{
	struct call *c = arg;
	struct buf b;

	(void)link;
	buf_init(&b, 1 << 20);
	buf_add_str(&b, STR("{\"value\":["));
	context_each(s, list_one, &b);
	buf_add(&b, "]}", 2);
	call_session_headers(c, s);
	call_reply_json(c, 200, &b);
}

void contexts_list(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);
	struct err e = ERR_INIT;

	if (!c)
		return;
	struct session *s = call_session(c, &e);

	/* After a restart of the daemon the sandbox says first what there is. */
	if (s)
		call_when_open(c, s, list_opened, c);
	else
		call_fail(c, &e);
}

/* What the calls about one context have in common; replies with the error and returns NULL. */
static struct context_call *begin(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);
	struct err e = ERR_INIT;

	if (!c)
		return NULL;
	struct context_call *cc = http_alloc(rq, sizeof(*cc));

	if (!cc) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(c, &e);
		return NULL;
	}
	cc->call = c;
	cc->name = http_param(rq, "name");
	if (call_identifier(c, &e) < 0 || context_name_check(cc->name, &e) < 0) {
		call_fail(c, &e);
		return NULL;
	}
	return cc;
}

static void opened(void *arg, struct session *s, struct agent_link *link)
{
	struct context_call *cc = arg;
	struct context_info info;
	struct err e = ERR_INIT;
	bool had = context_get(s, cc->name, &info, NULL) == 0;

	(void)link;
	if (context_open(s, cc->name, cc->language, &info, &e) < 0)
		call_fail(cc->call, &e);
	else
		reply_context(cc->call, s, had ? 200 : 201, &info);
}

/* {"language"}, or nothing; also inside `properties`. */
static int parse_put(struct context_call *cc, struct err *e)
{
	struct str body = http_body(cc->call->rq);
	struct str language = { 0 };

	if (!body.len)
		return 0;
	json_t *doc = json_parse_body(body, e);

	if (doc && !json_is_object(doc)) {
		json_decref(doc);
		return err_set(e, ERR_MALFORMED, "The request body must be a JSON object.");
	}
	if (!doc)
		return -1;
	json_t *props = json_find(doc, "properties");
	int found = text_property(json_is_object(props) ? props : doc, "language", &language, e);

	if (found > 0)
		found = language_find(cc->call->pool, language, &cc->language, e);
	json_decref(doc);
	return found < 0 ? -1 : 0;
}

void context_put(struct http_request *rq, void *ctx)
{
	struct context_call *cc = begin(rq, ctx);
	struct err e = ERR_INIT;

	if (!cc)
		return;
	struct session *s = parse_put(cc, &e) < 0 ? NULL : call_session(cc->call, &e);

	if (s)
		call_when_open(cc->call, s, opened, cc);
	else
		call_fail(cc->call, &e);
}

/* A call about a context of a session that there is; it makes neither. */
static void when_open(struct http_request *rq, void *ctx,
		      void (*then)(void *arg, struct session *s, struct agent_link *link))
{
	struct context_call *cc = begin(rq, ctx);
	struct err e = ERR_INIT;

	if (!cc)
		return;
	struct session *s = session_find(cc->call->pool, cc->call->identifier);

	if (!s) {
		err_set(&e, ERR_NO_CONTEXT,
			"There is no context '%.*s': the identifier has no session (404).",
			STR_ARG(cc->name));
		call_fail(cc->call, &e);
		return;
	}
	session_touch(s);
	call_when_open(cc->call, s, then, cc);
}

static void remove_opened(void *arg, struct session *s, struct agent_link *link)
{
	struct context_call *cc = arg;
	struct err e = ERR_INIT;

	(void)link;
	if (context_delete(s, cc->name, &e) == 0)
		http_reply_empty(cc->call->rq, 204);
	else
		call_fail(cc->call, &e);
}

void context_remove(struct http_request *rq, void *ctx)
{
	when_open(rq, ctx, remove_opened);
}

static void renew_opened(void *arg, struct session *s, struct agent_link *link)
{
	struct context_call *cc = arg;
	struct context_info info;
	struct err e = ERR_INIT;

	(void)link;
	if (context_restart(s, cc->name, &e) < 0 || context_get(s, cc->name, &info, &e) < 0)
		call_fail(cc->call, &e);
	else
		reply_context(cc->call, s, 200, &info);
}

void context_renew(struct http_request *rq, void *ctx)
{
	when_open(rq, ctx, renew_opened);
}
