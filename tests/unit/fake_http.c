/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_http.h"

#include "http/router.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct http_server {
	struct router *router;
};

struct http_request {
	struct str method;
	struct str path;
	struct str query;
	struct str headers;
	struct str body;
	struct router_match match;
	void *caller;
	void *allocs[64];
	size_t alloc_count;
	struct fake_reply *reply;
};

struct http_server *fake_server_new(void)
{
	struct http_server *s = calloc(1, sizeof(*s));

	s->router = router_new(NULL);
	return s;
}

void fake_server_free(struct http_server *s)
{
	router_free(s->router);
	free(s);
}

int http_server_routes(struct http_server *s, const struct http_route *routes, size_t count,
		       void *ctx, struct err *e)
{
	return router_add(s->router, routes, count, ctx, e);
}

void *http_alloc(struct http_request *rq, size_t size)
{
	if (rq->alloc_count == sizeof(rq->allocs) / sizeof(rq->allocs[0]))
		abort();
	return rq->allocs[rq->alloc_count++] = calloc(1, size);
}

struct fake_reply fake_call(struct http_server *s, const char *method, const char *target,
			    const char *headers, const char *body, void *caller)
{
	struct fake_reply reply = { 0 };
	const char *mark = strchr(target, '?');
	size_t len = mark ? (size_t)(mark - target) : strlen(target);
	struct http_request rq = {
		.method = str_from(method),
		.path = { target, len },
		.query = str_from(mark ? mark + 1 : ""),
		.headers = str_from(headers ? headers : ""),
		.body = str_from(body ? body : ""),
		.caller = caller,
		.reply = &reply,
	};
	struct router_path path;
	char *mem = http_alloc(&rq, len + 1);

	buf_init(&reply.body, 16 << 20);
	buf_init(&reply.headers, 1 << 20);
	if (router_split(rq.path, mem, &path, NULL) < 0) {
		reply.status = 400;
	} else {
		switch (router_match(s->router, rq.method, &path, &rq.match)) {
		case ROUTER_FOUND:
			snprintf(reply.permission, sizeof(reply.permission), "%s",
				 rq.match.route->permission);
			rq.match.route->handler(&rq, rq.match.ctx);
			break;
		case ROUTER_NOT_FOUND:
			reply.status = 404;
			break;
		case ROUTER_METHOD:
			reply.status = 405;
			break;
		}
	}
	for (size_t i = 0; i < rq.alloc_count; i++)
		free(rq.allocs[i]);
	return reply;
}

void fake_reply_done(struct fake_reply *r)
{
	buf_done(&r->body);
	buf_done(&r->headers);
}

struct str http_path(const struct http_request *rq)
{
	return rq->path;
}

const struct http_route *http_route(const struct http_request *rq)
{
	return rq->match.route;
}

struct str http_param(const struct http_request *rq, const char *name)
{
	for (size_t i = 0; i < rq->match.param_count; i++)
		if (str_eq(rq->match.params[i].name, str_from(name)))
			return rq->match.params[i].value;
	return (struct str){ 0 };
}

bool http_query(const struct http_request *rq, const char *key, struct str *ret)
{
	struct str raw;

	if (!query_get(rq->query, str_from(key), &raw))
		return false;
	char *copy = http_alloc((struct http_request *)rq, raw.len + 1);

	*ret = (struct str){ copy, percent_decode(raw, copy) };
	return true;
}

bool http_header(const struct http_request *rq, const char *name, struct str *ret)
{
	struct str rest = rq->headers;
	size_t name_len = strlen(name);

	while (rest.len) {
		const char *end = memchr(rest.ptr, '\n', rest.len);
		size_t len = end ? (size_t)(end - rest.ptr) : rest.len;

		if (str_starts_nocase((struct str){ rest.ptr, len }, str_from(name)) &&
		    rest.ptr[name_len] == ':') {
			*ret = str_trim(
				(struct str){ rest.ptr + name_len + 1, len - name_len - 1 });
			return true;
		}
		len += end ? 1 : 0;
		rest = (struct str){ rest.ptr + len, rest.len - len };
	}
	return false;
}

struct str http_body(const struct http_request *rq)
{
	return rq->body;
}

const char *http_base_url(struct http_request *rq)
{
	(void)rq;
	return "http://localhost:8080";
}

const char *http_request_id(const struct http_request *rq)
{
	(void)rq;
	return "11111111-2222-4333-8444-555555555555";
}

void *http_caller(const struct http_request *rq)
{
	return rq->caller;
}

int http_set_header(struct http_request *rq, const char *name, const char *value)
{
	return buf_addf(&rq->reply->headers, "%s: %s\n", name, value) ? 0 : -1;
}

void http_reply(struct http_request *rq, int status, const char *content_type, const void *data,
		size_t len)
{
	if (rq->reply->status)
		abort(); /* answered twice */
	rq->reply->status = status;
	if (content_type)
		http_set_header(rq, "Content-Type", content_type);
	buf_add(&rq->reply->body, data, len);
}

void http_reply_owned(struct http_request *rq, int status, const char *content_type, char *data,
		      size_t len)
{
	http_reply(rq, status, content_type, data, len);
	free(data);
}

void http_reply_empty(struct http_request *rq, int status)
{
	http_reply(rq, status, NULL, "", 0);
}

void http_reply_err(struct http_request *rq, const struct err *e)
{
	char text[ERR_MSG_MAX + 200];
	int n = snprintf(text, sizeof(text), "%s: %s", err_api_code(e->code), e->msg);

	http_set_header(rq, "x-ms-error-code", err_api_code(e->code));
	http_reply(rq, err_http_status(e->code), "text/plain", text, (size_t)n);
}
