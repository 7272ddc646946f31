/* SPDX-License-Identifier: Apache-2.0 */
#include "http/internal.h"

#include "base/own.h"

#include <stdio.h>
#include <stdlib.h>

struct str http_method(const struct http_request *rq)
{
	return rq->method;
}

struct str http_path(const struct http_request *rq)
{
	return rq->path;
}

struct str http_query_string(const struct http_request *rq)
{
	return rq->query;
}

const struct http_route *http_route(const struct http_request *rq)
{
	return rq->match.route;
}

struct str http_param(const struct http_request *rq, const char *name)
{
	struct str key = str_from(name);

	for (size_t i = 0; i < rq->match.param_count; i++)
		if (str_eq(rq->match.params[i].name, key))
			return rq->match.params[i].value;
	return STR("");
}

bool http_query(const struct http_request *rq, const char *key, struct str *ret)
{
	struct str raw;

	if (!query_get(rq->query, str_from(key), &raw))
		return false;
	if (raw.len && memchr(raw.ptr, '%', raw.len)) {
		/* The request's arena is not part of what a const request
		 * promises not to change. */
		char *mem = request_alloc((struct http_request *)rq, raw.len);

		if (!mem)
			return false;
		raw.len = percent_decode(raw, mem);
		raw.ptr = mem;
	}
	*ret = raw;
	return true;
}

bool http_header(const struct http_request *rq, const char *name, struct str *ret)
{
	const char *value = NULL;
	size_t len = 0;

	if (MHD_lookup_connection_value_n(rq->conn, MHD_HEADER_KIND, name, strlen(name), &value,
					  &len) != MHD_YES)
		return false;
	*ret = (struct str){ value ? value : "", value ? len : 0 };
	return true;
}

struct headers_walk {
	void (*fn)(void *arg, struct str name, struct str value);
	void *arg;
};

static enum MHD_Result walk_header(void *cls, enum MHD_ValueKind kind, const char *name,
				   size_t name_len, const char *value, size_t value_len)
{
	const struct headers_walk *walk = cls;

	(void)kind;
	walk->fn(walk->arg, (struct str){ name, name_len },
		 (struct str){ value ? value : "", value ? value_len : 0 });
	return MHD_YES;
}

void http_each_header(const struct http_request *rq,
		      void (*fn)(void *arg, struct str name, struct str value), void *arg)
{
	struct headers_walk walk = { fn, arg };

	MHD_get_connection_values_n(rq->conn, MHD_HEADER_KIND, walk_header, &walk);
}

struct str http_body(const struct http_request *rq)
{
	return buf_str(&rq->body);
}

/*
 * SECURITY: the Host header ends up in URLs that clients follow and in documents that people read;
 * only the characters of a host and a port pass, anything else falls back to the bound address.
 */
static bool host_ok(struct str host)
{
	static const char allowed[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_:[]";

	if (!host.len || host.len > 260)
		return false;
	for (size_t i = 0; i < host.len; i++)
		if (!host.ptr[i] || !strchr(allowed, host.ptr[i]))
			return false;
	return true;
}

const char *http_base_url(struct http_request *rq)
{
	struct str host;
	char text[320];

	if (rq->base_url)
		return rq->base_url;
	const struct listener *l = rq->listener;
	const char *scheme = l->tls ? "https" : "http";

	if (http_header(rq, "Host", &host) && host_ok(host))
		snprintf(text, sizeof(text), "%s://%.*s", scheme, STR_ARG(host));
	else if (strchr(rq->server->address, ':'))
		snprintf(text, sizeof(text), "%s://[%s]:%u", scheme, rq->server->address, l->port);
	else
		snprintf(text, sizeof(text), "%s://%s:%u", scheme, rq->server->address, l->port);
	size_t size = strlen(text) + 1;

	rq->base_url = request_alloc(rq, size);
	if (!rq->base_url)
		return "";
	return memcpy(rq->base_url, text, size);
}

const char *http_request_id(const struct http_request *rq)
{
	return rq->id;
}

int64_t http_started_ns(const struct http_request *rq)
{
	return rq->started_ns;
}

void http_set_caller(struct http_request *rq, void *caller)
{
	rq->caller = caller;
}

void *http_caller(const struct http_request *rq)
{
	return rq->caller;
}

bool http_replied(const struct http_request *rq)
{
	return rq->replied || rq->ended;
}

void *request_alloc(struct http_request *rq, size_t size)
{
	if (size > SIZE_MAX / 2)
		return NULL;
	size_t rounded = (size + sizeof(max_align_t) - 1) & ~(sizeof(max_align_t) - 1);
	if (rounded <= rq->arena_left) {
		char *p = rq->arena;

		rq->arena += rounded;
		rq->arena_left -= rounded;
		return p;
	}
	struct arena_block *block = malloc(sizeof(*block) + rounded);

	if (!block)
		return NULL;
	block->next = rq->blocks;
	rq->blocks = block;
	return block->data;
}

void request_free_memory(struct http_request *rq)
{
	while (rq->blocks) {
		struct arena_block *block = rq->blocks;

		rq->blocks = block->next;
		free(block);
	}
}

void *http_alloc(struct http_request *rq, size_t size)
{
	void *p = request_alloc(rq, size);

	if (p && size)
		memset(p, 0, size);
	return p;
}

void http_mind_leaving(struct http_request *rq)
{
	rq->minds_leaving = true;
}

int http_defer(struct http_request *rq, void (*fn)(void *arg), void *arg)
{
	struct deferred *d = request_alloc(rq, sizeof(*d));

	if (!d)
		return -1;
	*d = (struct deferred){ rq->deferred, fn, arg };
	rq->deferred = d;
	return 0;
}

bool request_no_body(const struct http_request *rq)
{
	return str_eq(rq->method, STR("HEAD")) || rq->status < 200 || rq->status == 204 ||
	       rq->status == 304;
}

void request_drop_body(struct http_request *rq)
{
	buf_done(&rq->body);
	buffers_set(rq, BUFFER_BODY, 0);
}

/* One offer of held bytes. Returns whether the sink took all of them. */
static bool deliver_held(struct http_request *rq)
{
	while (rq->body.len) {
		rq->sink_again = false;
		size_t took = rq->sink(rq->sink_arg, rq->body.ptr, rq->body.len);

		if (rq->replied && !rq->stream)
			return false; /* the sink has answered the request */
		if (took > rq->body.len)
			took = rq->body.len;
		buf_consume(&rq->body, took);
		if (rq->body.len && !rq->sink_again)
			return false;
	}
	return true;
}

void request_deliver(struct http_request *rq)
{
	if (!rq->sink || rq->in_sink || rq->discard || rq->ended || (rq->replied && !rq->stream))
		return;
	rq->in_sink = true;
	bool all = deliver_held(rq);

	if (all && rq->body_done && !rq->sink_ended) {
		rq->sink_ended = true;
		rq->sink(rq->sink_arg, NULL, 0);
	}
	rq->in_sink = false;
	/* Everything went: let the client send more. A complete request waits for its answer
	 * instead. */
	if (all && !rq->body_done && rq->suspended)
		request_wake(rq);
}

void http_body_sink(struct http_request *rq, size_t (*fn)(void *arg, const char *data, size_t len),
		    void *arg)
{
	if (rq->sink || rq->ended)
		return;
	rq->sink = fn;
	rq->sink_arg = arg;
	/* Set later than in the handler: what came meanwhile was held. */
	if (!rq->in_intake && !rq->in_sink)
		request_deliver(rq);
}

void http_body_resume(struct http_request *rq)
{
	if (rq->in_sink)
		rq->sink_again = true;
	else if (!rq->in_intake)
		request_deliver(rq);
}
