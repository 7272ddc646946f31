/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/rand.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define OPERATION_ID_MAX 127
#define MEMORY_MIN       (64u << 20)

struct execute_state {
	struct call *call;
	struct execution_params params;
	char *code_owned; /* decoded base64 */
	json_t *body;
	struct execution *x;
	int64_t session_ns;
	char operation_id[OPERATION_ID_MAX + 1];
	char type[24];
	bool finished;
};

static void state_done(void *arg)
{
	struct execute_state *st = arg;

	/* The client may have gone: the run goes on, its result has nobody to go to. */
	if (st->x && !st->finished)
		execution_detach(st->x);
	json_decref(st->body);
	free(st->code_owned);
}

static const char *word(json_t *props, const char *name)
{
	return json_string_value(json_find(props, name));
}

static int parse_type(struct execute_state *st, json_t *props, struct err *e)
{
	json_t *v = json_find(props, "executionType");
	const char *type = v && !json_is_null(v) ? json_string_value(v) : "Synchronous";

	if (!type ||
	    (strcasecmp(type, "synchronous") != 0 && strcasecmp(type, "asynchronous") != 0))
		return err_set(e, ERR_INVALID,
			       "executionType '%.40s' is unknown: use Synchronous or Asynchronous.",
			       type ? type : "(not a string)");
	snprintf(st->type, sizeof(st->type), "%s", type);
	st->params.execution_type = st->type;
	st->params.async = strcasecmp(type, "asynchronous") == 0;
	return 0;
}

/* `code`, or `pythonCode` of the oldest clients, plain or base64. */
static int parse_code(struct execute_state *st, json_t *props, struct err *e)
{
	json_t *code = json_find(props, "code");
	json_t *kind = json_find(props, "codeInputType");
	const char *input = kind && !json_is_null(kind) ? json_string_value(kind) : "Inline";

	if (!code)
		code = json_find(props, "pythonCode");
	if (!code)
		return err_set(
			e, ERR_PROPERTY_MISSING,
			"The property 'code' is missing from the request body (looked at the top level and in "
			"'properties').");
	if (!json_is_string(code))
		return err_set(e, ERR_INVALID, "The property 'code' must be a string.");
	if (!input || (strcasecmp(input, "inline") != 0 && strcasecmp(input, "inlinetext") != 0 &&
		       strcasecmp(input, "inlinebase64") != 0))
		return err_set(
			e, ERR_INVALID,
			"codeInputType '%.40s' is unknown: use Inline, InlineText or InlineBase64.",
			input ? input : "(not a string)");
	st->params.code = (struct str){ json_string_value(code), json_string_length(code) };
	if (strcasecmp(input, "inlinebase64") == 0) {
		struct buf b;

		buf_init(&b, st->params.code.len);
		bool ok = base64_decode(&b, st->params.code) && utf8_valid(buf_str(&b));

		st->params.code = (struct str){ "", 0 };
		if (ok && b.len) {
			st->params.code.len = b.len;
			st->params.code.ptr = st->code_owned = buf_take(&b);
		}
		buf_done(&b);
		if (!ok)
			return err_set(e, ERR_INVALID,
				       "The property 'code' is not base64 of UTF-8 text.");
	}
	if (st->params.code.len > st->call->config->code_max)
		return err_set(e, ERR_TOO_LARGE,
			       "The code has %zu bytes; the limit is %zu. Upload it as a file.",
			       st->params.code.len, st->call->config->code_max);
	if (memchr(st->params.code.ptr, '\0', st->params.code.len))
		return err_set(e, ERR_INVALID, "The property 'code' contains a NUL character.");
	return 0;
}

/* A number, or text of one, of the first of two names that is there; fallback if neither is. */
static int parse_number(json_t *props, const char *name, const char *alias, double fallback,
			double max, double *ret, struct err *e)
{
	json_t *v = json_find(props, name);

	if (!v || json_is_null(v)) {
		v = alias ? json_find(props, alias) : NULL;
		name = v ? alias : name;
	}
	*ret = fallback;
	if (!v || json_is_null(v))
		return 0;
	char *end = NULL;
	double n = json_is_number(v)   ? json_number_value(v)
		   : json_is_string(v) ? strtod(json_string_value(v), &end)
				       : -1;

	if (end && (*end || end == json_string_value(v)))
		n = -1;
	if (!(n > 0) || n > max)
		return err_set(e, ERR_INVALID,
			       "%s must be a number greater than 0 and at most %.0f.", name, max);
	*ret = n;
	return 0;
}

/* `maxMemory`, or `max_memory`: a number of bytes or text as "512Mi"; it can only lower. */
static int parse_memory(struct execute_state *st, json_t *props, struct err *e)
{
	uint64_t most = pool_spec(st->call->pool)->memory_bytes;
	json_t *v = json_find(props, "maxMemory");
	uint64_t bytes = 0;

	if (!v || json_is_null(v))
		v = json_find(props, "max_memory");
	if (!v || json_is_null(v))
		return 0;
	if (json_is_integer(v) && json_integer_value(v) > 0)
		bytes = (uint64_t)json_integer_value(v);
	else if (!json_is_string(v) || !str_parse_size(str_from(json_string_value(v)), &bytes))
		bytes = 0;
	if (bytes < MEMORY_MIN)
		return err_set(e, ERR_INVALID,
			       "maxMemory must be a size like '512Mi' or a number of bytes, at "
			       "least %u (64Mi).",
			       MEMORY_MIN);
	if (bytes > most)
		return err_set(e, ERR_INVALID,
			       "maxMemory is %" PRIu64
			       " bytes; sessionLimits.memory of the session "
			       "pool is %" PRIu64 ", and a call can only lower it.",
			       bytes, most);
	st->params.memory_bytes = bytes < most ? bytes : 0;
	return 0;
}

static int parse_limits(struct execute_state *st, json_t *props, struct err *e)
{
	const struct session_pool_spec *spec = pool_spec(st->call->pool);
	double sync_max = spec->timeout_max_ms / 1000.0;
	/* Asynchronous runs have no limit of their own; a week is where milliseconds end. */
	double max = st->params.async ? 7 * 86400.0 : sync_max;
	double timeout_s;
	double output;

	if (parse_number(props, "timeoutInSeconds", "timeout",
			 st->params.async ? 0 : spec->timeout_default_ms / 1000.0, max, &timeout_s,
			 e) < 0 ||
	    parse_number(props, "outputStreamsMaxLength", NULL, spec->output_max,
			 pool_config(st->call->pool)->output_limit, &output, e) < 0)
		return -1;
	st->params.timeout_ms = (uint32_t)(timeout_s * 1000);
	if (timeout_s > 0 && !st->params.timeout_ms)
		st->params.timeout_ms = 1;
	st->params.output_max = (uint32_t)output;
	return parse_memory(st, props, e);
}

/* Text writers of .NET and PowerShell put a byte order mark first, which JSON lets a reader ignore
 * (RFC 8259, 8.1). */
static struct str without_mark(struct str body)
{
	struct str mark = STR("\xef\xbb\xbf");
	bool marked = body.len >= mark.len && memcmp(body.ptr, mark.ptr, mark.len) == 0;
	size_t skip = marked ? mark.len : 0;

	return (struct str){ body.ptr + skip, body.len - skip };
}

static int parse_body(struct execute_state *st, struct err *e)
{
	struct str body = without_mark(http_body(st->call->rq));
	json_error_t je;

	if (json_check_bounds(body, e) < 0)
		return -1;
	st->body = json_loadb(body.ptr, body.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &je);
	if (!st->body)
		return err_set(e, ERR_MALFORMED,
			       "The request body is not valid JSON (line %d, column %d): %.160s.",
			       je.line, je.column, je.text);
	if (!json_is_object(st->body))
		return err_set(e, ERR_MALFORMED, "The request body must be a JSON object.");
	/* Old clients wrap, new ones do not, az wraps against the new API: take what is there. */
	json_t *props = json_find(st->body, "properties");

	if (!json_is_object(props))
		props = st->body;
	if (word(props, "shellCommand"))
		return err_set(
			e, ERR_NOT_SUPPORTED,
			"shellCommand needs a session pool of containerType Shell; this pool runs %s.",
			pool_spec(st->call->pool)->container_type);
	if (parse_type(st, props, e) < 0 || parse_code(st, props, e) < 0 ||
	    parse_limits(st, props, e) < 0)
		return -1;
	return 0;
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
	st->params.id = st->operation_id;
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
	buf_init(&b, 128u << 20);
	render_execution(&b, st->call, x);
	call_reply_json(st->call, status, &b);
}

static void executed(void *arg, struct execution *x, const struct err *e)
{
	struct execute_state *st = arg;

	st->finished = true;
	if (e) {
		call_fail(st->call, e);
		return;
	}
	set_timing(st, x, x->session);
	reply(st, x, 200);
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
	struct err e = ERR_INIT;
	struct execution *x =
		session_execute(s, &st->params, st->params.async ? NULL : executed, st, &e);

	if (!x) {
		call_fail(st->call, &e);
		return;
	}
	st->finished = st->params.async;
	st->x = x;
	if (st->params.async)
		accepted(st, x);
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
	if (call_identifier(c, &e) < 0 || parse_body(st, &e) < 0 ||
	    parse_operation_id(st, &e) < 0) {
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

void execution_get(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);
	struct err e = ERR_INIT;
	struct buf b;

	if (!c)
		return;
	struct str id = http_param(rq, "id");

	if (call_identifier(c, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	struct session *s = session_find(c->pool, c->identifier);
	struct execution *x = s ? execution_find(s, id) : NULL;

	if (!x) {
		err_set(&e, ERR_NO_EXECUTION,
			"Execution '%.*s' was not found in the session (404). Finished executions are kept while the "
			"session lives, the last %d of them, with %llu bytes of results together (--results-kept-max).",
			(int)(id.len < 128 ? id.len : 128), id.ptr,
			pool_config(c->pool)->executions_kept,
			(unsigned long long)pool_config(c->pool)->results_kept_max);
		call_fail(c, &e);
		return;
	}
	session_touch(s);
	call_session_headers(c, s);
	http_set_header(rq, "operation-id", x->id);
	buf_init(&b, 128u << 20);
	render_execution(&b, c, x);
	call_reply_json(c, 200, &b);
}
