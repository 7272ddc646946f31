/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* api-version 2024-10-02-preview: its .NET client has `string?` for the value. */
static bool value_as_string(const struct call *c)
{
	return c->shape == SHAPE_NEW && c->api_version.len >= 10 &&
	       memcmp(c->api_version.ptr, "2024-10-02", 10) == 0;
}

static bool is_true(const struct execution_result *r)
{
	return str_eq(text_str(&r->value), STR("1"));
}

static void put_image(struct buf *b, const char *format, struct str base64)
{
	buf_addf(b, "{\"type\":\"image\",\"format\":\"%s\",\"base64_data\":\"", format);
	buf_add_str(b, base64);
	buf_add(b, "\"}", 2);
}

/* The typing of clients.md §0.1. */
static void put_value(struct buf *b, const struct call *c, const struct execution_result *r)
{
	bool string = value_as_string(c);

	switch (r->kind) {
	case KERNEL_VALUE_NULL:
		/* The oldest clients fail on null. */
		buf_add_str(b, c->shape == SHAPE_FLAT ? STR("\"\"") : STR("null"));
		break;
	case KERNEL_VALUE_BOOL:
		if (string)
			buf_add_str(b, is_true(r) ? STR("\"True\"") : STR("\"False\""));
		else
			buf_add_str(b, is_true(r) ? STR("true") : STR("false"));
		break;
	case KERNEL_VALUE_INT:
	case KERNEL_VALUE_FLOAT: {
		/* SECURITY: text from a kernel becomes a bare JSON number only if a parser agrees
		 * that it is one, with nothing around it: a line break would end an event. */
		struct str text = text_str(&r->value);
		bool bare = text.len && text.ptr[0] > ' ' && text.ptr[text.len - 1] > ' ';
		json_t *number = string || !bare
					 ? NULL
					 : json_loadb(text.ptr, text.len, JSON_DECODE_ANY, NULL);

		if (json_is_number(number))
			buf_add_str(b, text_str(&r->value));
		else
			json_str(b, text_str(&r->value));
		json_decref(number);
		break;
	}
	case KERNEL_VALUE_IMAGE:
		if (string) {
			struct buf object;

			/* Where only text is allowed, the object as text. */
			buf_init(&object, 64u << 20);
			put_image(&object, r->format, text_str(&r->value));
			json_str(b, buf_str(&object));
			buf_done(&object);
		} else {
			put_image(b, r->format, text_str(&r->value));
		}
		break;
	case KERNEL_VALUE_NONE:
	case KERNEL_VALUE_STR:
	case KERNEL_VALUE_TEXT:
		json_str(b, text_str(&r->value));
		break;
	}
}

static void put_displays(struct buf *b, const struct execution_result *r)
{
	/* Extension: every image the cell showed; `result` has room for the last one only. */
	if (json_array_size(r->displays) < 2)
		return;
	json_key(b, "displayData");
	buf_add(b, "[", 1);
	for (size_t i = 0; i < json_array_size(r->displays); i++) {
		json_t *d = json_array_get(r->displays, i);

		json_item(b);
		put_image(b, json_string_value(json_object_get(d, "format")),
			  str_from(json_string_value(json_object_get(d, "base64_data"))));
	}
	buf_add(b, "]", 1);
}

static const char *error_code(const struct execution_result *r)
{
	switch (r->status) {
	case AGENT_RESULT_TIMEOUT:
		return "ExecutionTimeout";
	case AGENT_RESULT_CANCELED:
		return "ExecutionCanceled";
	case AGENT_RESULT_OOM:
		return "ExecutionOutOfMemory";
	case AGENT_RESULT_KERNEL_DIED:
		return "KernelDied";
	default:
		return "CodeExecutionFailed";
	}
}

static const char *status_new(const struct execution *x)
{
	if (x->state == EXECUTION_QUEUED)
		return "NotStarted";
	if (x->state == EXECUTION_RUNNING)
		return "Running";
	if (x->result.status == AGENT_RESULT_CANCELED)
		return "Canceled";
	return x->result.status == AGENT_RESULT_OK ? "Succeeded" : "Failed";
}

static const char *status_old(const struct execution *x)
{
	if (x->state != EXECUTION_FINISHED)
		return status_new(x);
	return x->result.status == AGENT_RESULT_OK ? "Success" : "Failure";
}

static int64_t milliseconds(const struct execution *x)
{
	return (x->result.duration_us + 500) / 1000;
}

static void put_streams(struct buf *b, const struct execution_result *r)
{
	json_key_text(b, "stdout", text_str(&r->out));
	json_key_text(b, "stderr", text_str(&r->err));
}

bool render_error(struct buf *b, const struct execution *x)
{
	const struct execution_result *r = &x->result;

	if (r->status == AGENT_RESULT_OK)
		return false;
	buf_add(b, "{", 1);
	json_key_str(b, "code", error_code(r));
	json_key(b, "message");
	if (r->status == AGENT_RESULT_ERROR) {
		struct buf text;

		buf_init(&text, 1 << 20);
		buf_add_str(&text, text_str(&r->error_name));
		buf_add_str(&text, r->error_text.len ? STR(": ") : STR(""));
		buf_add_str(&text, text_str(&r->error_text));
		json_str(b, buf_str(&text));
		buf_done(&text);
	} else {
		json_str(b, text_str(&r->err));
	}
	buf_add(b, "}", 1);
	return true;
}

static void put_error(struct buf *b, const struct execution *x)
{
	if (x->result.status == AGENT_RESULT_OK)
		return;
	json_key(b, "error");
	render_error(b, x);
}

static void put_result(struct buf *b, const struct call *c, const struct execution *x,
		       const char *time_key)
{
	put_streams(b, &x->result);
	json_key(b, "executionResult");
	put_value(b, c, &x->result);
	json_key_int(b, time_key, milliseconds(x));
	put_displays(b, &x->result);
}

static void render_new(struct buf *b, const struct call *c, const struct execution *x)
{
	buf_add(b, "{", 1);
	json_key_str(b, "id", x->id);
	json_key(b, "identifier");
	json_str(b, c->identifier);
	json_key_str(b, "executionType", x->execution_type);
	json_key_str(b, "status", status_new(x));
	if (x->state == EXECUTION_FINISHED) {
		put_error(b, x);
		json_key(b, "result");
		buf_add(b, "{", 1);
		put_result(b, c, x, "executionTimeInMilliseconds");
		buf_add(b, "}", 1);
	}
	buf_add(b, "}", 1);
}

/* As a shell says it, also of what never got as far as a code of its own. */
static int64_t exit_code(const struct execution_result *r)
{
	uint64_t code = 1;

	switch (r->status) {
	case AGENT_RESULT_TIMEOUT:
		return 124;
	case AGENT_RESULT_CANCELED:
		return 130;
	case AGENT_RESULT_KERNEL_DIED:
	case AGENT_RESULT_OOM:
		return 137;
	default:
		if (r->kind == KERNEL_VALUE_INT)
			str_to_u64(text_str(&r->value), 255, &code);
		return (int64_t)code;
	}
}

/* What Shell pools of the service answer: the status is the exit code, as text. */
static void render_command(struct buf *b, const struct call *c, const struct execution *x)
{
	char code[24];

	snprintf(code, sizeof(code), "%" PRId64, exit_code(&x->result));
	buf_add(b, "{", 1);
	json_key_str(b, "id", x->id);
	json_key_text(b, "identifier", c->identifier);
	json_key_str(b, "executionType", x->execution_type);
	json_key_str(b, "status", x->state == EXECUTION_FINISHED ? code : status_new(x));
	if (x->state == EXECUTION_FINISHED) {
		put_error(b, x);
		json_key(b, "result");
		buf_add(b, "{", 1);
		put_streams(b, &x->result);
		json_key_int(b, "exitCode", exit_code(&x->result));
		json_key_int(b, "executionTimeInMilliseconds", milliseconds(x));
		buf_add(b, "}", 1);
	}
	buf_add(b, "}", 1);
}

static void put_old_fields(struct buf *b, const struct call *c, const struct execution *x)
{
	json_key_str(b, "status", status_old(x));
	put_streams(b, &x->result);
	/* The service's own sample image says executionResult, the hosted service result. */
	json_key(b, "result");
	put_value(b, c, &x->result);
	json_key(b, "executionResult");
	put_value(b, c, &x->result);
	json_key_int(b, "executionTimeInMilliseconds", milliseconds(x));
	put_displays(b, &x->result);
}

static void render_old(struct buf *b, const struct call *c, const struct execution *x)
{
	buf_add(b, "{", 1);
	json_key_str(b, "$id", "1");
	if (c->shape == SHAPE_FLAT)
		put_old_fields(b, c, x);
	json_key(b, "properties");
	buf_add(b, "{", 1);
	json_key_str(b, "$id", "2");
	json_key_str(b, "id", x->id);
	put_old_fields(b, c, x);
	buf_add(b, "}}", 2);
}

static void render_founding(struct buf *b, const struct call *c, const struct execution *x)
{
	buf_add(b, "{", 1);
	json_key_str(b, "status", status_old(x));
	json_key(b, "result");
	buf_add(b, "{", 1);
	put_result(b, c, x, "executionTimeMs");
	buf_add(b, "}", 1);
	/* One more copy for unmodified clients that happen to use the path form. */
	json_key(b, "properties");
	buf_add(b, "{", 1);
	put_old_fields(b, c, x);
	buf_add(b, "}}", 2);
}

void render_execution(struct buf *b, const struct call *c, const struct execution *x)
{
	if (x->command)
		render_command(b, c, x);
	else if (c->shape == SHAPE_NEW)
		render_new(b, c, x);
	else if (c->shape == SHAPE_FOUNDING)
		render_founding(b, c, x);
	else
		render_old(b, c, x);
}
