/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/internal.h"

#include "base/buf.h"
#include "base/rand.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX       (64u << 20)
#define TIMEOUT_TEXT   "Request timed out waiting for code execution to complete"
#define RESTARTED_TEXT "the kernel was restarted: variables are lost, files are kept"

static struct text take_text(struct buf *b)
{
	struct text t = { .len = b->len };

	t.ptr = buf_take(b);
	if (!t.ptr)
		t.len = 0;
	return t;
}

static struct text clean(struct str s)
{
	struct buf b;

	buf_init(&b, TEXT_MAX);
	buf_add_utf8(&b, s);
	struct text t = take_text(&b);

	buf_done(&b);
	return t;
}

/* One output stream: cut between characters at the limit, and said so. */
static void add_stream(struct buf *b, const char *name, struct str kept, uint64_t dropped,
		       uint32_t max)
{
	size_t cut = utf8_cut(kept, max);
	uint64_t total = kept.len + dropped;

	buf_add_utf8(b, (struct str){ kept.ptr, cut });
	if (total > cut)
		buf_addf(b,
			 "\n[%s truncated: %zu of %" PRIu64
			 " bytes shown; raise outputStreamsMaxLength to see more]\n",
			 name, cut, total);
}

static void add_line(struct buf *b, const char *text)
{
	if (b->len && b->ptr[b->len - 1] != '\n')
		buf_add(b, "\n", 1);
	buf_add_str(b, str_from(text));
}

/* Which limit it was; what counts is not obvious to who only wrote a file. */
static void add_memory_limit(struct buf *b, const struct execution *x, bool killed)
{
	uint64_t own = x->session->memory_bytes;

	if (x->memory_bytes && (!own || x->memory_bytes < own))
		buf_addf(b, ": it reached its memory limit of %" PRIu64 " MiB (maxMemory)",
			 x->memory_bytes >> 20);
	else if (own)
		buf_addf(b,
			 ": the session reached its memory limit of %" PRIu64
			 " MiB (sessionLimits.memory)",
			 own >> 20);
	else
		buf_addf(b, ": the session reached its memory limit (sessionLimits.memory)");
	buf_addf(b,
		 " and %s. Files in /mnt/data, /tmp, /dev/shm and the home directory count as "
		 "memory.",
		 killed ? RESTARTED_TEXT : "a program was ended");
}

static void add_ending(struct buf *b, const struct agent_result *r, const struct execution *x)
{
	bool killed = !r->kernel_idle;

	switch (r->status) {
	case AGENT_RESULT_TIMEOUT:
		add_line(b, TIMEOUT_TEXT);
		if (killed)
			buf_addf(b, "\nThe code ignored the interrupt; " RESTARTED_TEXT ".");
		break;
	case AGENT_RESULT_CANCELED:
		add_line(b, "Execution canceled");
		if (killed)
			buf_addf(b, "\nThe code ignored the interrupt; " RESTARTED_TEXT ".");
		break;
	case AGENT_RESULT_OOM:
		add_line(b, "Execution aborted");
		add_memory_limit(b, x, killed);
		break;
	case AGENT_RESULT_KERNEL_DIED:
		add_line(b, "Execution aborted: the kernel died (");
		buf_add_utf8(b, r->error_text);
		buf_addf(b, "); " RESTARTED_TEXT ".");
		break;
	default:
		if (r->traceback.len) {
			add_line(b, "");
			buf_add_utf8(b, r->traceback);
		}
	}
}

static bool image_parts(struct str data, char *format, size_t format_size, struct str *bytes)
{
	size_t len = data.len ? (unsigned char)data.ptr[0] : 0;

	if (!data.len || len + 1 > data.len || !len)
		return false;
	struct str f = { data.ptr + 1, len };

	/* SECURITY: the format goes into JSON and file names of clients: letters, digits and "+-."
	 * only. */
	for (size_t i = 0; i < f.len; i++)
		if (!((f.ptr[i] >= 'a' && f.ptr[i] <= 'z') ||
		      (f.ptr[i] >= '0' && f.ptr[i] <= '9') ||
		      (f.ptr[i] && strchr("+-.", f.ptr[i]))))
			return false;
	*bytes = (struct str){ data.ptr + 1 + len, data.len - 1 - len };
	return str_copy(f, format, format_size);
}

char *result_image(const struct agent_value *v, char *format, size_t format_size, size_t *ret_len)
{
	struct str bytes;
	struct buf b;
	char *text = NULL;

	buf_init(&b, TEXT_MAX);
	if (v->kind == KERNEL_VALUE_IMAGE && image_parts(v->data, format, format_size, &bytes) &&
	    base64_encode(&b, bytes.ptr, bytes.len)) {
		*ret_len = b.len;
		text = buf_take(&b);
	}
	buf_done(&b);
	return text;
}

static void take_value(struct execution_result *out, const struct agent_value *v)
{
	out->kind = v->kind;
	if (v->kind == KERNEL_VALUE_IMAGE) {
		out->value.ptr = result_image(v, out->format, sizeof(out->format), &out->value.len);
		if (!out->value.ptr) {
			out->kind = KERNEL_VALUE_NONE;
			out->value = clean(STR(""));
		}
	} else {
		out->value = clean(v->data);
	}
}

static void take_displays(struct execution_result *out, const struct agent_result *r)
{
	if (!r->display_count)
		return;
	out->displays = json_array();
	for (size_t i = 0; i < r->display_count; i++) {
		struct execution_result one = { 0 };

		take_value(&one, &r->displays[i]);
		if (one.kind == KERNEL_VALUE_IMAGE)
			json_array_append_new(out->displays,
					      json_pack("{s:s,s:s,s:s}", "type", "image", "format",
							one.format, "base64_data", one.value.ptr));
		result_done(&one);
	}
}

void result_from_agent(struct execution *x, const struct agent_result *r)
{
	struct execution_result *out = &x->result;
	struct buf b;

	result_done(out);
	out->status = r->status;
	out->duration_us = r->duration_us < INT64_MAX ? (int64_t)r->duration_us : 0;
	buf_init(&b, TEXT_MAX);
	add_stream(&b, "stdout", r->out, r->stdout_dropped, x->output_max);
	out->out = take_text(&b);
	add_stream(&b, "stderr", r->err, r->stderr_dropped, x->output_max);
	add_ending(&b, r, x);
	out->err = take_text(&b);
	buf_done(&b);
	out->error_name = clean(r->error_name);
	out->error_text = clean(r->error_text);
	take_value(out, &r->value);
	take_displays(out, r);
}

void result_add_refused(struct execution *x, const char *const *names, size_t count)
{
	struct text *text = &x->result.err;
	struct buf b;

	buf_init(&b, TEXT_MAX);
	buf_add_str(&b, text_str(text));
	add_line(&b, "[The sandbox refused: ");
	for (size_t i = 0; i < count; i++)
		buf_addf(&b, "%s%s()", i == 0 ? "" : ", ", names[i]);
	buf_addf(&b, ". %s not available in sessions.]\n",
		 count == 1 ? "This system call is" : "These system calls are");
	if (buf_ok(&b)) {
		free(text->ptr);
		*text = take_text(&b);
	}
	buf_done(&b);
}

void result_not_started(struct execution *x, const struct err *e)
{
	struct execution_result *out = &x->result;
	struct buf b;

	result_done(out);
	out->status = e->code == ERR_CONFLICT ? AGENT_RESULT_OOM : AGENT_RESULT_KERNEL_DIED;
	buf_init(&b, TEXT_MAX);
	buf_addf(&b, "Execution not started: %s", e->msg);
	out->err = take_text(&b);
	buf_done(&b);
	out->out = clean(STR(""));
	out->error_name = clean(STR(""));
	out->error_text = clean(STR(""));
	out->kind = KERNEL_VALUE_NONE;
	out->value = clean(STR(""));
}

void result_timeout(struct execution *x)
{
	struct agent_result r = {
		.status = AGENT_RESULT_TIMEOUT,
		.duration_us = (uint64_t)x->timeout_ms * 1000,
	};

	result_from_agent(x, &r);
}

void result_done(struct execution_result *r)
{
	free(r->out.ptr);
	free(r->err.ptr);
	free(r->error_name.ptr);
	free(r->error_text.ptr);
	free(r->value.ptr);
	json_decref(r->displays);
	*r = (struct execution_result){ 0 };
}

static json_t *text_json(const struct text *t)
{
	return json_stringn_nocheck(t->ptr ? t->ptr : "", t->len);
}

char *result_to_json(const struct execution_result *r)
{
	json_t *doc = json_pack("{s:i,s:o,s:o,s:o,s:o,s:i,s:o,s:s,s:I,s:O*}", "status",
				(int)r->status, "stdout", text_json(&r->out), "stderr",
				text_json(&r->err), "errorName", text_json(&r->error_name),
				"errorText", text_json(&r->error_text), "kind", (int)r->kind,
				"value", text_json(&r->value), "format", r->format, "durationUs",
				(json_int_t)r->duration_us, "displays", r->displays);
	char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;

	json_decref(doc);
	return text;
}

static struct text text_from(const char *ptr, size_t len)
{
	return clean((struct str){ ptr, len });
}

int result_from_json(const char *text, struct execution_result *ret, struct err *e)
{
	json_error_t je;
	json_t *doc = json_loads(text, JSON_ALLOW_NUL, &je);
	const char *out, *err, *name, *msg, *value, *format;
	size_t out_len, err_len, name_len, msg_len, value_len;
	json_t *displays = NULL;
	json_int_t duration;
	int status, kind;

	if (!doc || json_unpack(doc, "{s:i,s:s%,s:s%,s:s%,s:s%,s:i,s:s%,s:s,s:I,s?o}", "status",
				&status, "stdout", &out, &out_len, "stderr", &err, &err_len,
				"errorName", &name, &name_len, "errorText", &msg, &msg_len, "kind",
				&kind, "value", &value, &value_len, "format", &format, "durationUs",
				&duration, "displays", &displays) < 0) {
		json_decref(doc);
		return err_set(e, ERR_INTERNAL, "stored result is damaged");
	}
	*ret = (struct execution_result){
		.status = (enum agent_exec_status)status,
		.out = text_from(out, out_len),
		.err = text_from(err, err_len),
		.error_name = text_from(name, name_len),
		.error_text = text_from(msg, msg_len),
		.kind = (enum kernel_value)kind,
		.value = text_from(value, value_len),
		.displays = json_incref(displays),
		.duration_us = duration,
	};
	snprintf(ret->format, sizeof(ret->format), "%s", format);
	json_decref(doc);
	return 0;
}
