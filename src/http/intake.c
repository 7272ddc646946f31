/* SPDX-License-Identifier: Apache-2.0 */
#include "http/internal.h"

#include "base/clock.h"

#define BAD_LINE "a header line does not end in CR LF, is folded, or holds a NUL byte"

struct framing {
	struct http_request *rq;
	struct str length;
	bool has_length;
	bool has_host;
	bool has_token;
	bool several_tokens;
	const char *next; /* where the next header's name must be; compared, never read */
	const char *bad;  /* what is wrong */
};

static bool is_token(const char *name, size_t len)
{
	if (!len)
		return false;
	for (size_t i = 0; i < len; i++) {
		char c = name[i];

		if (c <= ' ' || c == 127 || strchr("()<>@,;:\\\"/[]?={}", c))
			return false;
	}
	return true;
}

/*
 * SECURITY: a proxy in front of us and MHD must agree where a request ends, or one client can put a
 * request into another's connection. MHD takes the first of several lengths, ignores names with
 * blanks before the colon, and reads unknown transfer codings to the end of the connection: all
 * refused here. It also takes a bare CR, a bare LF and a NUL for the end of a line and joins folded
 * ones; as it parses in place, each header must begin two bytes behind the end of the one before.
 */
static enum MHD_Result see_header(void *cls, enum MHD_ValueKind kind, const char *name,
				  size_t name_len, const char *value, size_t value_len)
{
	struct framing *f = cls;
	struct str key = { name, name_len };
	struct str text = { value ? value : "", value ? value_len : 0 };

	(void)kind;
	if (name != f->next || memchr(text.ptr, '\r', text.len))
		f->bad = BAD_LINE;
	f->next = text.ptr + text.len + 2;
	if (!is_token(name, name_len)) {
		f->bad = "a header name is malformed";
	} else if (name_len == 14 && str_eq_nocase(key, STR("Content-Length"))) {
		if (f->has_length && !str_eq(f->length, text))
			f->bad = "several Content-Length headers";
		f->has_length = true;
		f->length = text;
	} else if (name_len == 17 && str_eq_nocase(key, STR("Transfer-Encoding"))) {
		if (f->rq->chunked || !str_eq_nocase(text, STR("chunked")))
			f->bad = "only one Transfer-Encoding, chunked, is supported";
		f->rq->chunked = true;
	} else if (name_len == 4 && str_eq_nocase(key, STR("Host"))) {
		if (f->has_host)
			f->bad = "several Host headers";
		f->has_host = true;
	} else if (name_len == 13 && str_eq_nocase(key, STR("Authorization"))) {
		f->several_tokens |= f->has_token;
		f->has_token = true;
	} else if (name_len == 6 && str_eq_nocase(key, STR("Expect"))) {
		f->rq->expect_continue = str_eq_nocase(text, STR("100-continue"));
	}
	return MHD_YES;
}

/* Whether the head ends two bytes behind its last header: the empty line's. */
static bool ends_well(const struct http_request *rq, const char *method, const char *next)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(rq->conn, MHD_CONNECTION_INFO_REQUEST_HEADER_SIZE);

	return info && info->header_size == (size_t)(next + 2 - method);
}

static int examine_framing(struct http_request *rq, const char *method, const char *version,
			   struct err *e)
{
	struct framing f = { .rq = rq, .next = version + strlen(version) + 2 };

	MHD_get_connection_values_n(rq->conn, MHD_HEADER_KIND, see_header, &f);
	if (!f.bad && !ends_well(rq, method, f.next))
		f.bad = BAD_LINE;
	if (f.has_length && rq->chunked && !f.bad)
		f.bad = "both Content-Length and Transfer-Encoding";
	if (f.has_length && !f.bad && !str_to_u64(f.length, UINT64_MAX, &rq->content_length))
		f.bad = "Content-Length is not a number";
	/* The version follows the target's terminating NUL, unless the target
	 * holds a NUL itself. */
	if (!f.bad && version != rq->uri_at + rq->uri.len + 1)
		f.bad = "the request line holds a NUL byte";
	/* RFC 9112, 3.2; HTTP/1.0 had no such header. */
	if (!f.bad && !f.has_host && !rq->http10)
		f.bad = "the Host header is missing";
	rq->body_done = !rq->chunked && !rq->content_length;
	/* Which one counts is a question between us and a proxy, too. */
	if (!f.bad && f.several_tokens)
		return err_set(e, ERR_UNAUTHORIZED, "several Authorization headers");
	if (!f.bad)
		return 0;
	rq->close_now = true;
	return err_set(e, ERR_MALFORMED, "%s", f.bad);
}

/* Cuts the target into path and query; an absolute target (as sent to proxies) loses scheme and
 * host. */
static void cut_target(struct http_request *rq)
{
	struct str t = rq->uri;
	bool absolute = true;

	if (str_starts_nocase(t, STR("http://")))
		t = (struct str){ t.ptr + 7, t.len - 7 };
	else if (str_starts_nocase(t, STR("https://")))
		t = (struct str){ t.ptr + 8, t.len - 8 };
	else
		absolute = false;
	if (absolute) {
		size_t host = 0;

		while (host < t.len && t.ptr[host] != '/' && t.ptr[host] != '?')
			host++;
		t = (struct str){ t.ptr + host, t.len - host };
	}
	const char *mark = memchr(t.ptr, '?', t.len);

	rq->path = (struct str){ t.ptr, mark ? (size_t)(mark - t.ptr) : t.len };
	if (mark)
		rq->query = (struct str){ mark + 1, (size_t)(t.ptr + t.len - mark - 1) };
}

static int find_route(struct http_request *rq, struct err *e)
{
	struct router_path path;
	char allow[ROUTER_ALLOW_MAX];
	char *mem = request_alloc(rq, rq->path.len + 1);

	if (!mem)
		return err_set(e, ERR_NOMEM, "out of memory");
	if (router_split(rq->path, mem, &path, e) < 0)
		return -1;
	switch (router_match(rq->server->router, rq->method, &path, &rq->match)) {
	case ROUTER_FOUND:
		return 0;
	case ROUTER_METHOD:
		http_set_header(rq, "Allow", router_allow(rq->server->router, &path, allow));
		return err_set(e, ERR_METHOD, "the method %.*s is not allowed here",
			       (int)(rq->method.len < 40 ? rq->method.len : 40), rq->method.ptr);
	case ROUTER_NOT_FOUND:
		break;
	}
	return err_set(e, ERR_NOT_FOUND, "there is no resource at %.*s",
		       (int)utf8_cut(rq->path, 200), rq->path.ptr);
}

static uint64_t body_limit(const struct http_request *rq)
{
	switch (rq->match.route->body) {
	case HTTP_BODY_BUFFER:
		return rq->server->config.body_max;
	case HTTP_BODY_NONE:
		return BODY_DISCARD_MAX;
	case HTTP_BODY_STREAM:
		break;
	}
	return UINT64_MAX;
}

static int too_large(const struct http_request *rq, struct err *e)
{
	return err_set(e, ERR_TOO_LARGE, "the request body is larger than %llu bytes",
		       (unsigned long long)body_limit(rq));
}

static int admit(struct http_request *rq, const char *method, const char *version, struct err *e)
{
	struct http_server *s = rq->server;

	if (examine_framing(rq, method, version, e) < 0)
		return -1;
	cut_target(rq);
	if (find_route(rq, e) < 0)
		return -1;
	/* SECURITY: before any byte of the body is looked at, and before the handler exists. */
	if (s->config.authorize && s->config.authorize(rq, rq->match.route, s->config.ctx, e) < 0)
		return -1;
	if (rq->content_length > body_limit(rq))
		return too_large(rq, e);
	return 0;
}

static void call_handler(struct http_request *rq)
{
	rq->handled = true;
	rq->match.route->handler(rq, rq->match.ctx);
}

enum MHD_Result intake_headers(struct http_request *rq, const char *method, const char *version)
{
	struct err e = ERR_INIT;

	rq->framed = true;
	rq->in_intake = true;
	rq->method = str_from(method);
	rq->http10 = strcmp(version, "HTTP/1.0") == 0;
	int admitted = admit(rq, method, version, &e);

	peer_head_done(rq, admitted == 0 && rq->match.route->permission);
	if (admitted < 0)
		http_reply_err(rq, &e);
	else if (rq->match.route->body == HTTP_BODY_STREAM) {
		/* Held bytes are what MHD has read at most, whatever body_max is. */
		rq->body.max = rq->server->config.connection_memory;
		call_handler(rq);
	}
	rq->in_intake = false;
	if (!rq->replied || (rq->body_done && !rq->close_now))
		return MHD_YES;
	/*
	 * An answer queued now makes MHD refuse the body and close: right for a client that waits
	 * for "100 Continue" and for one whose framing cannot be trusted. Others are sending
	 * already, and would lose the answer to the reset that closing under unread data causes.
	 */
	if (rq->close_now || rq->expect_continue)
		return reply_queue(rq);
	reply_settle(rq);
	return MHD_YES;
}

static enum MHD_Result drop(struct http_request *rq, size_t len)
{
	struct early *early = rq->early;

	if (!early)
		return MHD_YES;
	early->dropped += len;
	/* SECURITY: a refused client must not be able to keep us reading. */
	if (early->dropped > EARLY_DISCARD_MAX ||
	    clock_mono_ms() - early->started_ms > EARLY_LINGER_MS)
		return MHD_NO;
	return MHD_YES;
}

static void take_stream(struct http_request *rq, const char *data, size_t len)
{
	size_t took = 0;

	if (rq->sink && !rq->body.len && !rq->suspended) {
		rq->in_sink = true;
		rq->sink_again = false;
		took = rq->sink(rq->sink_arg, data, len);
		rq->in_sink = false;
		if (took > len)
			took = len;
	}
	/* A streamed answer that was begun does not stop the body; a complete one does. */
	if (took == len || (rq->replied && !rq->stream))
		return;
	if (!buf_add(&rq->body, data + took, len - took)) {
		request_kill(rq);
		return;
	}
	if (rq->sink_again)
		request_deliver(rq);
	if (rq->body.len && !rq->body_done)
		request_suspend(rq);
}

static void take_buffer(struct http_request *rq, const char *data, size_t len)
{
	struct err e = ERR_INIT;

	/* Reserved by what the client announces only while that is small. */
	if (!rq->body.ptr && !rq->chunked && rq->content_length <= BODY_DISCARD_MAX)
		buf_reserve(&rq->body, (size_t)rq->content_length);
	if (rq->received > rq->server->config.body_max)
		too_large(rq, &e);
	else if (!buf_add(&rq->body, data, len))
		err_set(&e, ERR_NOMEM, "out of memory");
	else if (buffers_set(rq, BUFFER_BODY, rq->body.cap))
		return;
	request_drop_body(rq);
	if (e.code)
		http_reply_err(rq, &e);
	else
		buffers_full(rq, BUFFER_BODY);
}

enum MHD_Result intake_body(struct http_request *rq, const char *data, size_t len)
{
	struct err e = ERR_INIT;

	if (rq->killed)
		return MHD_NO;
	rq->received += len;
	if (!rq->chunked && rq->received >= rq->content_length)
		rq->body_done = true;
	if (rq->discard)
		return drop(rq, len);
	rq->in_intake = true;
	switch (rq->match.route->body) {
	case HTTP_BODY_STREAM:
		take_stream(rq, data, len);
		break;
	case HTTP_BODY_BUFFER:
		take_buffer(rq, data, len);
		break;
	case HTTP_BODY_NONE:
		if (rq->received > BODY_DISCARD_MAX) {
			too_large(rq, &e);
			http_reply_err(rq, &e);
		}
		break;
	}
	rq->in_intake = false;
	reply_settle(rq);
	return MHD_YES;
}

enum MHD_Result intake_complete(struct http_request *rq)
{
	if (rq->killed)
		return MHD_NO;
	rq->body_done = true;
	if (!rq->parked && rq->peer)
		peer_awaits_head(rq->peer);
	if (rq->early) {
		/* All dropped; the connection ends when the answer has left. */
		if (rq->early->done)
			return MHD_NO;
		request_suspend(rq);
		return MHD_YES;
	}
	rq->in_intake = true;
	if (!rq->replied && !rq->handled)
		call_handler(rq);
	/* A sink that has paused gets the rest, and the end after it, when it resumes. */
	if (rq->match.route && rq->match.route->body == HTTP_BODY_STREAM && !rq->body.len)
		request_deliver(rq);
	rq->in_intake = false;
	if (rq->replied)
		return reply_queue(rq);
	if (rq->parked)
		request_suspend(rq);
	rq->parked = true;
	return MHD_YES;
}
