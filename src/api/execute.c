/* SPDX-License-Identifier: Apache-2.0 */
#include "api/execute_body.h"
#include "api/sse.h"

#include "base/clock.h"
#include "base/rand.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPERATION_ID_MAX 127
#define REPLY_MAX        (128u << 20)

struct execute_state {
	struct call *call;
	struct execute_body body;
	struct execution *x; /* while somebody here waits for it */
	char operation_id[OPERATION_ID_MAX + 1];
	bool streams;
	bool begun; /* the stream is */
	bool told;  /* how it ended */
	struct event_stream stream;
};

/* Whether it ends with its client. */
static bool stops(const struct execute_state *st)
{
	if (st->body.on_disconnect == ON_DISCONNECT_UNSAID)
		return st->streams;
	return st->body.on_disconnect == ON_DISCONNECT_STOP;
}

/* The client has its answer, or it has gone. Then what it began goes on, its result has nobody to
 * go to; or it ends, if that was asked for. */
static void state_done(void *arg)
{
	struct execute_state *st = arg;
	struct execution *x = st->x;

	st->x = NULL; /* nothing is passed on any more */
	if (x && stops(st) && x->state == EXECUTION_RUNNING)
		execution_cancel(x);
	if (x && !st->told)
		execution_detach(x, st->body.on_disconnect == ON_DISCONNECT_CONTINUE);
	event_stream_done(&st->stream);
	execute_body_done(&st->body);
}

static int parse_operation_id(struct execute_state *st, struct err *e)
{
	struct str id;

	if (!http_header(st->call->rq, "operation-id", &id) || !id.len)
		return 0;
	for (size_t i = 0; i < id.len; i++)
		if (!((id.ptr[i] >= '0' && id.ptr[i] <= '9') ||
		      ((id.ptr[i] | 32) >= 'a' && (id.ptr[i] | 32) <= 'z') || id.ptr[i] == '-' ||
		      id.ptr[i] == '_'))
			return err_set(
				e, ERR_INVALID,
				"The header operation-id may have letters, digits, '-' and '_' only.");
	if (!str_copy(id, st->operation_id, sizeof(st->operation_id)))
		return err_set(e, ERR_INVALID,
			       "The header operation-id has more than %d characters.",
			       OPERATION_ID_MAX);
	st->body.params.id = st->operation_id;
	return 0;
}

static int parse_accept(struct execute_state *st, struct err *e)
{
	st->streams = event_stream_wanted(st->call->rq);
	if (st->streams && st->body.params.async)
		return err_set(e, ERR_INVALID,
			       "An Asynchronous execution has no stream: leave out 'Accept: "
			       "text/event-stream', or make it Synchronous.");
	return 0;
}

static void set_ms(struct http_request *rq, const char *name, int64_t ns)
{
	char text[32];

	snprintf(text, sizeof(text), "%" PRId64 ".%04d", ns / 1000000, (int)(ns % 1000000 / 100));
	http_set_header(rq, name, text);
}

/* azure-api.md §1.4; times in milliseconds. */
static void set_timing(struct execute_state *st, const struct execution *x, const struct session *s)
{
	struct http_request *rq = st->call->rq;
	int64_t now = clock_mono_ns();
	int64_t started = http_started_ns(rq);
	int64_t code_ns = x->result.duration_us * 1000;
	int64_t run_ns = x->finished_ns - x->started_ns;
	char uuid[UUID_TEXT_SIZE];

	http_set_header(rq, "operation-id", x->id);
	http_set_header(rq, "mise-correlation-id", uuid_new(uuid));
	http_set_header(rq, "x-ms-new-allocation", st->call->fresh ? "true" : "false");
	http_set_header(rq, "x-ms-allocation-retries", "0");
	set_ms(rq, "x-ms-allocation-time",
	       st->call->fresh ? session_info(s).allocation_us * 1000 : 0);
	set_ms(rq, "x-ms-preparation-time", x->queued_ns - started);
	set_ms(rq, "x-ms-execution-request-time", x->started_ns - x->queued_ns);
	set_ms(rq, "x-ms-execution-read-response-time", run_ns > code_ns ? run_ns - code_ns : 0);
	set_ms(rq, "x-ms-container-execution-duration", code_ns);
	set_ms(rq, "x-ms-overall-execution-time", run_ns);
	set_ms(rq, "x-ms-total-execution-service-time", now - started);
}

static void reply(struct execute_state *st, const struct execution *x, int status)
{
	struct buf b;

	call_session_headers(st->call, x->session);
	buf_init(&b, REPLY_MAX);
	render_execution(&b, st->call, x);
	call_reply_json(st->call, status, &b);
}

/* ---- streams ---- */

static void taken(void *arg, size_t bytes)
{
	struct execute_state *st = arg;

	if (st->x)
		execution_credit(st->x, bytes);
}

static int stream_begin(struct execute_state *st, const struct execution *x, struct err *e)
{
	call_session_headers(st->call, x->session);
	http_set_header(st->call->rq, "operation-id", x->id);
	http_set_header(st->call->rq, "x-ms-new-allocation", st->call->fresh ? "true" : "false");
	if (event_stream_begin(&st->stream, st->call->rq, taken, st, e) < 0)
		return -1;
	st->begun = true;
	return 0;
}

static void stream_json(struct execute_state *st, const char *name, struct buf *b)
{
	/* Whoever reads half of it must not take it for the whole. */
	if (buf_ok(b))
		event_stream_event(&st->stream, name, buf_str(b));
	else
		event_stream_event(
			&st->stream, "error",
			STR("{\"code\":\"InternalServerError\",\"message\":\"the reply is too large\"}"));
	buf_done(b);
}

static void stream_started(void *arg, struct execution *x)
{
	struct execute_state *st = arg;
	struct err e = ERR_INIT;
	struct buf b;

	/* It may be before session_execute() has returned. */
	if (!st->begun && stream_begin(st, x, &e) < 0)
		return; /* run() sees that too */
	buf_init(&b, 4096);
	buf_add(&b, "{", 1);
	json_key_str(&b, "id", x->id);
	json_key_text(&b, "identifier", st->call->identifier);
	buf_add(&b, "}", 1);
	stream_json(st, "started", &b);
}

static void stream_output(void *arg, struct execution *x, int stream, struct str bytes)
{
	struct execute_state *st = arg;

	(void)x;
	if (st->begun)
		event_stream_output(&st->stream, stream, bytes);
}

static void stream_display(void *arg, struct execution *x, const char *format, struct str base64)
{
	struct execute_state *st = arg;

	(void)x;
	if (st->begun)
		event_stream_display(&st->stream, format, base64);
}

static const struct execution_watcher stream_watcher = {
	.started = stream_started,
	.output = stream_output,
	.display = stream_display,
};

static void stream_error(struct execute_state *st, const struct err *e)
{
	struct buf b;

	buf_init(&b, 16 * ERR_MSG_MAX);
	buf_add(&b, "{", 1);
	json_key_str(&b, "code", err_api_code(e->code));
	json_key(&b, "message");
	struct str message = str_from(e->msg);

	message.len = utf8_run(message);
	json_str(&b, message);
	buf_add(&b, "}", 1);
	stream_json(st, "error", &b);
}

static void stream_result(struct execute_state *st, const struct execution *x)
{
	struct buf b;

	buf_init(&b, REPLY_MAX);
	if (render_error(&b, x))
		stream_json(st, "error", &b);
	buf_done(&b);
	render_execution(&b, st->call, x);
	stream_json(st, "result", &b);
}

/* ---- one request ---- */

static void executed(void *arg, struct execution *x, const struct err *e)
{
	struct execute_state *st = arg;

	st->told = true;
	st->x = NULL;
	if (st->begun) {
		event_stream_flush(&st->stream);
		if (e)
			stream_error(st, e);
		else
			stream_result(st, x);
		event_stream_end(&st->stream);
	} else if (e) {
		call_fail(st->call, e);
	} else {
		set_timing(st, x, x->session);
		reply(st, x, 200);
	}
}

/* Percent-encodes a query value. */
static void add_encoded(struct buf *b, struct str s)
{
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.ptr[i];

		if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') ||
		    strchr("-_.~", c))
			buf_add(b, &c, 1);
		else
			buf_addf(b, "%%%02X", c);
	}
}

static void accepted(struct execute_state *st, const struct execution *x)
{
	struct call *c = st->call;
	const struct session_pool_spec *spec = pool_spec(c->pool);
	struct str version = c->api_version.len ? c->api_version : STR("2025-10-02-preview");
	struct buf url;

	buf_init(&url, 4096);
	buf_addf(
		&url,
		"%s/subscriptions/%s/resourceGroups/%s/sessionPools/%s/executions/%s?api-version=%.*s&identifier=",
		http_base_url(c->rq), spec->subscription, spec->group, spec->name, x->id,
		STR_ARG(version));
	add_encoded(&url, c->identifier);
	http_set_header(c->rq, "Operation-Location", url.ptr);
	http_set_header(c->rq, "operation-id", x->id);
	buf_done(&url);
	reply(st, x, 202);
}

static void run(struct execute_state *st, struct session *s)
{
	struct execution_params *p = &st->body.params;
	struct err e = ERR_INIT;

	p->watcher = st->streams ? &stream_watcher : NULL;
	struct execution *x = session_execute(s, p, p->async ? NULL : executed, st, &e);

	if (!x) {
		call_fail(st->call, &e);
		return;
	}
	if (p->async) {
		accepted(st, x);
		return;
	}
	st->x = x;
	if (stops(st) || st->streams)
		http_mind_leaving(st->call->rq);
	if (!st->streams || st->begun)
		return;
	if (stream_begin(st, x, &e) < 0)
		call_fail(st->call, &e); /* and it goes with the request */
	else if (x->state == EXECUTION_QUEUED)
		event_stream_comment(&st->stream, "queued"); /* somebody is there */
}

static void opened(void *arg, struct session *s, struct agent_link *link)
{
	struct execute_state *st = arg;

	(void)link;
	run(st, s);
}

static void execute(struct http_request *rq, void *ctx, enum shape shape)
{
	struct call *c = call_begin(rq, ctx, shape);
	struct err e = ERR_INIT;

	if (!c)
		return;
	struct execute_state *st = http_alloc(rq, sizeof(*st));

	if (!st) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(c, &e);
		return;
	}
	st->call = c;
	http_defer(rq, state_done, st);
	/* A request that is wrong must not cost a session. */
	if (call_identifier(c, &e) < 0 || execute_body_parse(c, &st->body, &e) < 0 ||
	    parse_operation_id(st, &e) < 0 || parse_accept(st, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	struct session *s = call_session(c, &e);

	if (!s) {
		call_fail(c, &e);
		return;
	}
	/* Both kinds by the same way: first come, first served, also before the session is open. */
	call_when_open(c, s, opened, st);
}

void execute_old(struct http_request *rq, void *ctx)
{
	execute(rq, ctx, SHAPE_OLD);
}

void execute_founding(struct http_request *rq, void *ctx)
{
	execute(rq, ctx, SHAPE_FOUNDING);
}

void execute_flat(struct http_request *rq, void *ctx)
{
	execute(rq, ctx, SHAPE_FLAT);
}

void execute_new(struct http_request *rq, void *ctx)
{
	execute(rq, ctx, SHAPE_NEW);
}

/* The execution that a path names; session_touch()ed. */
static struct execution *find_execution(struct call *c, struct err *e)
{
	struct str id = http_param(c->rq, "id");

	if (call_identifier(c, e) < 0)
		return NULL;
	struct session *s = session_find(c->pool, c->identifier);
	struct execution *x = s ? execution_find(s, id) : NULL;

	if (!x) {
		err_set(e, ERR_NO_EXECUTION,
			"Execution '%.*s' was not found in the session (404). Finished executions are kept while the "
			"session lives, the last %d of them, with %llu bytes of results together (--results-kept-max).",
			(int)(id.len < 128 ? id.len : 128), id.ptr,
			pool_config(c->pool)->executions_kept,
			(unsigned long long)pool_config(c->pool)->results_kept_max);
		return NULL;
	}
	session_touch(s);
	call_session_headers(c, s);
	http_set_header(c->rq, "operation-id", x->id);
	return x;
}

/* What the calls about one execution have in common; replies with the error and returns NULL. */
static struct execution *begin_of_one(struct http_request *rq, void *ctx, struct call **ret)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);
	struct err e = ERR_INIT;
	struct execution *x = c ? find_execution(c, &e) : NULL;

	if (c && !x)
		call_fail(c, &e);
	*ret = c;
	return x;
}

void execution_get(struct http_request *rq, void *ctx)
{
	struct call *c;
	struct execution *x = begin_of_one(rq, ctx, &c);
	struct buf b;

	if (!x)
		return;
	buf_init(&b, REPLY_MAX);
	render_execution(&b, c, x);
	call_reply_json(c, 200, &b);
}

void execution_delete(struct http_request *rq, void *ctx)
{
	struct call *c;
	struct execution *x = begin_of_one(rq, ctx, &c);

	if (!x)
		return;
	/* Over is over: a second DELETE is no error. */
	execution_cancel(x);
	http_reply_empty(rq, 204);
}
