/* SPDX-License-Identifier: Apache-2.0 */
#include "http/internal.h"

#include "base/clock.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>

#define STREAM_RING_MIN  4096
#define STREAM_RING_KEEP (16 * 1024)
#define STREAM_BLOCK     (64 * 1024)

/* ---- headers ---- */

/*
 * SECURITY: names and values may come from sandboxes and upstreams; a line break would end the
 * header and let them write headers or whole responses of their own.
 */
static bool value_ok(const char *value)
{
	for (; *value; value++)
		if ((unsigned char)*value < ' ' && *value != '\t')
			return false;
	return true;
}

static bool name_ok(const char *name)
{
	struct str n = str_from(name);

	for (size_t i = 0; i < n.len; i++)
		if (n.ptr[i] <= ' ' || n.ptr[i] == ':' || n.ptr[i] == 127)
			return false;
	/* The framing of responses is ours. */
	return n.len && !str_eq_nocase(n, STR("Content-Length")) &&
	       !str_eq_nocase(n, STR("Transfer-Encoding"));
}

static const char *keep_text(struct http_request *rq, const char *text)
{
	size_t size = strlen(text) + 1;
	char *p = request_alloc(rq, size);

	return p ? memcpy(p, text, size) : NULL;
}

static struct header_out *find_header(const struct http_request *rq, const char *name)
{
	for (struct header_out *h = rq->headers; h; h = h->next)
		if (str_eq_nocase(str_from(h->name), str_from(name)))
			return h;
	return NULL;
}

int http_add_header(struct http_request *rq, const char *name, const char *value)
{
	struct header_out **end = &rq->headers;

	if (rq->replied || rq->header_count >= HEADERS_OUT_MAX || !name_ok(name) ||
	    !value_ok(value))
		return -1;
	struct header_out *h = request_alloc(rq, sizeof(*h));

	if (!h)
		return -1;
	*h = (struct header_out){ NULL, keep_text(rq, name), keep_text(rq, value) };
	if (!h->name || !h->value)
		return -1;
	while (*end)
		end = &(*end)->next;
	*end = h;
	rq->header_count++;
	return 0;
}

int http_set_header(struct http_request *rq, const char *name, const char *value)
{
	struct header_out *h = find_header(rq, name);

	if (!h)
		return http_add_header(rq, name, value);
	const char *kept = rq->replied || !value_ok(value) ? NULL : keep_text(rq, value);

	if (!kept)
		return -1;
	h->value = kept;
	return 0;
}

/* ---- early replies ---- */

/*
 * MHD can answer only before the first or after the last byte of a request's body. An answer due in
 * between (refused upload, body over the limit, handler that has seen enough) is written to the
 * socket here, followed by the end of file, while MHD goes on reading and intake.c drops what it
 * reads, so that the client is not reset before it has read the answer. The connection is closed
 * after that.
 */

void early_free(struct early *early)
{
	if (!early)
		return;
	loop_watch_free(early->watch);
	loop_timer_free(early->timer);
	buf_done(&early->out);
	free(early);
}

static void early_done(struct http_request *rq)
{
	struct early *early = rq->early;

	early->done = true;
	loop_watch_free(early->watch);
	loop_timer_free(early->timer);
	early->watch = NULL;
	early->timer = NULL;
	peer_end_of_file(rq->peer);
	request_wake(rq); /* also lets MHD read on, to drop it */
}

static void early_stuck(void *arg)
{
	struct http_request *rq = arg;

	early_done(rq);
	request_kill(rq);
}

/* Returns whether nothing is left to do (all sent, or the client is gone). */
static bool early_write(struct http_request *rq)
{
	struct early *early = rq->early;

	while (early->sent < early->out.len) {
		ssize_t n = peer_send(rq->peer, early->out.ptr + early->sent,
				      early->out.len - early->sent);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno != EAGAIN;
		early->sent += (size_t)n;
	}
	return true;
}

static void early_writable(void *arg, int events)
{
	struct http_request *rq = arg;

	(void)events;
	if (early_write(rq))
		early_done(rq);
}

static void early_head(struct http_request *rq, struct buf *out, size_t body_len)
{
	char date[64] = "";
	time_t now = time(NULL);
	struct tm tm;

	if (gmtime_r(&now, &tm))
		strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", &tm);
	buf_addf(out, "HTTP/1.1 %d %s\r\nDate: %s\r\nConnection: close\r\nx-ms-request-id: %s\r\n",
		 rq->status, MHD_get_reason_phrase_for((unsigned int)rq->status), date, rq->id);
	if (rq->content_type)
		buf_addf(out, "Content-Type: %s\r\n", rq->content_type);
	for (struct header_out *h = rq->headers; h; h = h->next)
		if (!str_eq_nocase(str_from(h->name), STR("Connection")))
			buf_addf(out, "%s: %s\r\n", h->name, h->value);
	if (rq->status != 204)
		buf_addf(out, "Content-Length: %zu\r\n", body_len);
	buf_addf(out, "\r\n");
}

static void stream_copy(const struct stream *st, char *out, size_t n)
{
	size_t first = st->cap - st->head < n ? st->cap - st->head : n;

	memcpy(out, st->ring + st->head, first);
	memcpy(out + first, st->ring, n - first);
}

static void early_start(struct http_request *rq)
{
	size_t len = rq->stream ? rq->stream->len : rq->data_len;
	struct early *early = rq->peer ? calloc(1, sizeof(*early)) : NULL;

	rq->discard = true;
	request_drop_body(rq);
	if (!early) {
		request_kill(rq);
		return;
	}
	rq->early = early;
	early->started_ms = clock_mono_ms();
	buf_init(&early->out, SIZE_MAX / 4);
	early_head(rq, &early->out, len);
	if (len && !request_no_body(rq) && buf_reserve(&early->out, len)) {
		if (rq->stream)
			stream_copy(rq->stream, early->out.ptr + early->out.len, len);
		else
			memcpy(early->out.ptr + early->out.len, rq->data, len);
		early->out.len += len;
	}
	MHD_set_connection_option(rq->conn, MHD_CONNECTION_OPTION_TIMEOUT, EARLY_IDLE_S);
	if (!buf_ok(&early->out)) {
		request_kill(rq);
	} else if (early_write(rq)) {
		early_done(rq);
	} else {
		early->watch = loop_watch_new(request_fd(rq), early_writable, rq);
		early->timer = loop_timer_new(early_stuck, rq);
		if (!early->watch || !early->timer) {
			early_stuck(rq);
			return;
		}
		loop_watch_set(early->watch, LOOP_WRITE);
		loop_timer_start(early->timer, EARLY_LINGER_MS);
		request_wake(rq);
	}
}

void reply_settle(struct http_request *rq)
{
	if (!rq->replied || rq->body_done || rq->discard || rq->queued || rq->ended)
		return;
	if (rq->stream && !rq->stream->ended)
		return; /* its answer starts when the body has come in */
	if (!rq->late && !rq->chunked && rq->content_length - rq->received <= BODY_DISCARD_MAX) {
		rq->discard = true;
		request_drop_body(rq);
		request_wake(rq);
		return;
	}
	early_start(rq);
}

/* ---- complete replies ---- */

static bool reply_begin(struct http_request *rq, int status, const char *content_type)
{
	if (rq->replied || rq->ended)
		return false;
	if (content_type && value_ok(content_type))
		rq->content_type = keep_text(rq, content_type);
	rq->status = status;
	rq->replied = true;
	return true;
}

static void reply_ready(struct http_request *rq)
{
	if (rq->in_intake)
		return;
	if (rq->body_done)
		request_wake(rq);
	else
		reply_settle(rq);
}

void http_reply(struct http_request *rq, int status, const char *content_type, const void *data,
		size_t len)
{
	if (rq->replied || rq->ended)
		return;
	char *copy = len ? request_alloc(rq, len) : NULL;

	if (len && !copy) {
		http_reply_empty(rq, 503);
		return;
	}
	if (len)
		memcpy(copy, data, len);
	reply_begin(rq, status, content_type);
	rq->data = copy;
	rq->data_len = len;
	reply_ready(rq);
}

void http_reply_owned(struct http_request *rq, int status, const char *content_type, char *data,
		      size_t len)
{
	if (rq->replied || rq->ended) {
		free(data);
		return;
	}
	if (!buffers_set(rq, BUFFER_REPLY, len)) {
		free(data);
		buffers_full(rq, BUFFER_REPLY);
		return;
	}
	/* Buffers grow by doubling: what is kept is what was counted. */
	char *fit = len > BUFFERS_SMALL ? realloc(data, len) : NULL;

	if (fit)
		data = fit;
	reply_begin(rq, status, content_type);
	rq->owned = data;
	rq->data = data;
	rq->data_len = len;
	reply_ready(rq);
}

void http_reply_empty(struct http_request *rq, int status)
{
	if (reply_begin(rq, status, NULL))
		reply_ready(rq);
}

void reply_upgrade(struct http_request *rq)
{
	if (reply_begin(rq, 101, NULL))
		reply_ready(rq);
}

static void add_json_text(struct buf *b, struct str s)
{
	bool valid = utf8_valid(s);

	buf_add(b, "\"", 1);
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.ptr[i];

		if (c == '"' || c == '\\')
			buf_add(b, (char[]){ '\\', (char)c }, 2);
		else if (c < ' ' || c == 127)
			buf_addf(b, "\\u%04x", c);
		else if (c >= 128 && !valid)
			buf_add_str(b, STR("\\ufffd"));
		else
			buf_add(b, &s.ptr[i], 1);
	}
	buf_add(b, "\"", 1);
}

/* The real service answers 401 with an empty body and says why in the challenge only. */
static void reply_unauthorized(struct http_request *rq, const struct err *e)
{
	char text[ERR_MSG_MAX + 80];
	struct str unused;
	size_t len = 0;

	if (http_header(rq, "Authorization", &unused)) {
		len = (size_t)snprintf(text, sizeof(text),
				       "Bearer error=\"invalid_token\", "
				       "error_description=\"");
		for (const char *p = e->msg; *p && len < sizeof(text) - 2; p++)
			if (*p >= ' ' && *p < 127 && *p != '"' && *p != '\\')
				text[len++] = *p;
		text[len++] = '"';
		text[len] = '\0';
	}
	if (!find_header(rq, "WWW-Authenticate"))
		http_set_header(rq, "WWW-Authenticate", len ? text : "Bearer");
	if (!find_header(rq, "mise-correlation-id"))
		http_set_header(rq, "mise-correlation-id", rq->id);
	http_reply_empty(rq, 401);
}

/* Clients show the body alone, and one tells a missing file only by the status number in it. */
static void add_message(struct buf *b, const struct err *e, int status)
{
	char text[ERR_MSG_MAX + sizeof(" (404)")];
	char number[sizeof("404")];

	snprintf(number, sizeof(number), "%d", status);
	if (strstr(e->msg, number))
		snprintf(text, sizeof(text), "%s", e->msg);
	else
		snprintf(text, sizeof(text), "%s (%s)", e->msg, number);
	add_json_text(b, str_from(text));
}

void http_reply_err(struct http_request *rq, const struct err *e)
{
	int status = err_http_status(e->code);
	const char *code = err_api_code(e->code);
	struct buf b;

	if (rq->replied || rq->ended)
		return;
	if (status == 401) {
		reply_unauthorized(rq, e);
		return;
	}
	buf_init(&b, 16 * ERR_MSG_MAX);
	buf_addf(&b, "{\"error\":{\"code\":\"%s\",\"message\":", code);
	add_message(&b, e, status);
	buf_addf(&b, ",\"traceId\":\"%s\"}}", rq->id);
	http_set_header(rq, "x-ms-error-code", code);
	if (buf_ok(&b)) {
		size_t len = b.len;

		http_reply_owned(rq, status, "application/json; charset=utf-8", buf_take(&b), len);
		return;
	}
	buf_done(&b);
	http_reply_empty(rq, status);
}

void request_too_slow(struct http_request *rq)
{
	struct err e = ERR_INIT;

	if (rq->replied) {
		request_kill(rq); /* the answer is waiting for the body's end */
		return;
	}
	rq->late = true;
	err_set(&e, ERR_TIMEOUT, "the request body came in at less than %llu bytes per second",
		(unsigned long long)rq->server->config.body_rate_min);
	http_reply_err(rq, &e);
}

/* ---- streamed replies ---- */

void stream_free(struct stream *st)
{
	if (!st)
		return;
	free(st->ring);
	free(st);
}

int http_stream_begin(struct http_request *rq, int status, const char *content_type, int64_t length,
		      void (*drained)(void *arg), void *arg, struct err *e)
{
	if (rq->replied || rq->ended)
		return err_set(e, ERR_INTERNAL, "the request has been answered already");
	struct stream *st = calloc(1, sizeof(*st));

	if (!st)
		return err_set(e, ERR_NOMEM, "out of memory");
	st->length = length;
	st->drained = drained;
	st->arg = arg;
	rq->stream = st;
	reply_begin(rq, status, content_type);
	reply_ready(rq);
	return 0;
}

/* As far as memory goes: what does not fit waits until some has been read. */
static void stream_grow(struct http_request *rq, size_t need)
{
	struct stream *st = rq->stream;
	size_t cap = st->cap ? st->cap : STREAM_RING_MIN;

	while (cap < need)
		cap *= 2;
	if (cap > HTTP_STREAM_QUEUE_MAX)
		cap = HTTP_STREAM_QUEUE_MAX;
	if (cap <= st->cap)
		return;
	if (!buffers_set(rq, BUFFER_STREAM, cap)) {
		if (st->cap >= BUFFERS_SMALL)
			return;
		cap = BUFFERS_SMALL;
	}
	char *ring = malloc(cap);

	if (!ring) {
		buffers_set(rq, BUFFER_STREAM, st->cap);
		return;
	}
	if (st->len)
		stream_copy(st, ring, st->len);
	free(st->ring);
	st->ring = ring;
	st->cap = cap;
	st->head = 0;
}

size_t http_stream_write(struct http_request *rq, const void *data, size_t len)
{
	struct stream *st = rq->stream;

	if (!st || rq->ended || st->ended || st->aborted || request_no_body(rq))
		return len; /* nobody will read it */
	if (st->length >= 0 && len > (uint64_t)(st->length - st->written)) {
		http_stream_abort(
			rq); /* more than announced: the client must not take it for whole */
		return len;
	}
	size_t n = HTTP_STREAM_QUEUE_MAX - st->len < len ? HTTP_STREAM_QUEUE_MAX - st->len : len;

	stream_grow(rq, st->len + n);
	if (n > st->cap - st->len)
		n = st->cap - st->len;
	if (!n) {
		st->high = true;
		return 0;
	}
	size_t tail = (st->head + st->len) % st->cap;
	size_t first = st->cap - tail < n ? st->cap - tail : n;

	memcpy(st->ring + tail, data, first);
	memcpy(st->ring, (const char *)data + first, n - first);
	st->len += n;
	st->written += (int64_t)n;
	if (n < len || st->len >= HTTP_STREAM_QUEUE_MAX / 2)
		st->high = true;
	if (rq->queued && rq->suspended)
		request_wake(rq);
	return n;
}

void http_stream_end(struct http_request *rq)
{
	struct stream *st = rq->stream;

	if (!st || rq->ended || st->ended || st->aborted)
		return;
	if (st->length >= 0 && st->written < st->length && !request_no_body(rq)) {
		http_stream_abort(rq);
		return;
	}
	st->ended = true;
	if (rq->queued)
		request_wake(rq);
	else
		reply_ready(rq);
}

void http_stream_abort(struct http_request *rq)
{
	struct stream *st = rq->stream;
	struct linger reset = { 1, 0 };

	if (!st || rq->ended || st->aborted)
		return;
	st->aborted = true;
	/* A body that ends with the connection would look whole: make the end a reset, and over TLS
	 * one without its goodbye. */
	if (st->length < 0 && rq->http10) {
		setsockopt(request_fd(rq), SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		if (rq->listener->tls)
			shutdown(request_fd(rq), SHUT_RDWR);
	}
	if (rq->queued)
		request_wake(rq);
	else
		request_kill(rq);
}

bool http_stream_hold(struct http_request *rq, size_t bytes)
{
	return rq->ended || buffers_set(rq, BUFFER_REPLY, bytes);
}

/* MHD wants up to max bytes of the response body. */
static ssize_t stream_read(void *cls, uint64_t pos, char *out, size_t max)
{
	struct http_request *rq = cls;
	struct stream *st = rq->stream;

	(void)pos;
	if (st->aborted || rq->killed)
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (!st->len) {
		if (st->ended)
			return MHD_CONTENT_READER_END_OF_STREAM;
		request_suspend(rq);
		return 0;
	}
	size_t n = st->len < max ? st->len : max;

	stream_copy(st, out, n);
	st->head = (st->head + n) % st->cap;
	st->len -= n;
	if (!st->len && st->cap > STREAM_RING_KEEP && !st->high) {
		/* Idle streams are many: do not let each keep its largest queue. */
		free(st->ring);
		st->ring = NULL;
		st->cap = 0;
		st->head = 0;
		buffers_set(rq, BUFFER_STREAM, 0);
	}
	if (st->high && st->len < HTTP_STREAM_QUEUE_MAX / 2) {
		st->high = false;
		if (st->drained)
			st->drained(st->arg);
	}
	return (ssize_t)n;
}

/* ---- handing answers to MHD ---- */

static void on_upgraded(void *cls, struct MHD_Connection *conn, void *context, const char *early,
			size_t early_len, MHD_socket fd, struct MHD_UpgradeResponseHandle *upgrade)
{
	struct http_request *rq = cls;

	(void)conn;
	(void)context;
	websocket_begin(rq->websocket, fd, (struct str){ early, early_len }, upgrade);
}

static struct MHD_Response *make_response(struct http_request *rq)
{
	const struct stream *st = rq->stream;
	bool no_body = request_no_body(rq);

	if (rq->websocket)
		return MHD_create_response_for_upgrade(on_upgraded, rq);
	if (!st || (st->length < 0 && no_body && rq->status != 200))
		return MHD_create_response_from_buffer(rq->data_len, (void *)rq->data,
						       MHD_RESPMEM_PERSISTENT);
	uint64_t size = st->length < 0 ? MHD_SIZE_UNKNOWN : (uint64_t)st->length;

	if (!size)
		return MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
	size_t block = size < STREAM_BLOCK ? (size_t)size : STREAM_BLOCK;

	/* Chunks are made in the connection's own memory; the block would be dead weight. */
	if (no_body || st->length < 0)
		block = 4096;
	struct MHD_Response *r =
		MHD_create_response_from_callback(size, block, stream_read, rq, NULL);

	/* MHD 0.9.75 ends the answer to a HEAD with the last chunk of a body it did not send. */
	if (r && no_body && st->length < 0)
		MHD_set_response_options(r, MHD_RF_HTTP_1_0_COMPATIBLE_STRICT, MHD_RO_END);
	return r;
}

enum MHD_Result reply_queue(struct http_request *rq)
{
	if (rq->queued)
		return MHD_YES;
	if (rq->stream && rq->stream->aborted)
		return MHD_NO;
	struct MHD_Response *r = make_response(rq);

	if (!r)
		return MHD_NO;
	MHD_add_response_header(r, "x-ms-request-id", rq->id);
	if (rq->content_type)
		MHD_add_response_header(r, "Content-Type", rq->content_type);
	for (struct header_out *h = rq->headers; h; h = h->next)
		MHD_add_response_header(r, h->name, h->value);
	if (peer_last_request(rq) && !rq->websocket)
		MHD_add_response_header(r, "Connection", "close");
	rq->queued = true;
	enum MHD_Result result = MHD_queue_response(rq->conn, (unsigned int)rq->status, r);

	MHD_destroy_response(r);
	return result;
}
