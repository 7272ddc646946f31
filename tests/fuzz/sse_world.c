/* SPDX-License-Identifier: Apache-2.0 */
#include "sse_world.h"

#include <assert.h>
#include <stdlib.h>

struct loop_timer {
	loop_timer_fn fn;
	void *arg;
	bool armed;
};

static struct loop_timer *timer;

struct loop_timer *loop_timer_new(loop_timer_fn fn, void *arg)
{
	timer = calloc(1, sizeof(*timer));
	assert(timer);
	*timer = (struct loop_timer){ .fn = fn, .arg = arg };
	return timer;
}

void loop_timer_start(struct loop_timer *t, int64_t delay_ms)
{
	assert(delay_ms == EVENT_STREAM_ALIVE_MS);
	t->armed = true;
}

void loop_timer_stop(struct loop_timer *t)
{
	t->armed = false;
}

void loop_timer_free(struct loop_timer *t)
{
	free(t);
	timer = NULL;
}

bool sse_world_tick(void)
{
	if (!timer || !timer->armed)
		return false;
	timer->armed = false;
	timer->fn(timer->arg);
	return true;
}

void http_each_header(const struct http_request *rq,
		      void (*fn)(void *arg, struct str name, struct str value), void *arg)
{
	fn(arg, STR("Accept-Encoding"), STR("text/event-stream"));
	for (const char *line = rq->accept; line && *line;) {
		size_t len = strcspn(line, "\n");

		fn(arg, STR("accept"), (struct str){ line, len });
		line += len + (line[len] ? 1 : 0);
	}
}

int http_set_header(struct http_request *rq, const char *name, const char *value)
{
	(void)rq;
	return name[0] && value[0] ? 0 : -1;
}

int http_stream_begin(struct http_request *rq, int status, const char *content_type, int64_t length,
		      void (*drained)(void *arg), void *arg, struct err *e)
{
	(void)e;
	assert(status == 200 && length == -1);
	assert(strcmp(content_type, "text/event-stream; charset=utf-8") == 0);
	rq->drained = drained;
	rq->arg = arg;
	return 0;
}

size_t http_stream_write(struct http_request *rq, const void *data, size_t len)
{
	size_t room = rq->queue_max - rq->queued;
	size_t n = len < room ? len : room;

	assert(!rq->ended && !rq->aborted);
	assert(buf_add(&rq->sent, data, n));
	rq->queued += n;
	return n;
}

bool http_stream_hold(struct http_request *rq, size_t bytes)
{
	if (bytes > rq->held && bytes > rq->held_max)
		return false;
	rq->held = bytes;
	return true;
}

void http_stream_end(struct http_request *rq)
{
	rq->ended = true;
}

void http_stream_abort(struct http_request *rq)
{
	rq->aborted = true;
}

void sse_world_read(struct http_request *rq, size_t bytes)
{
	rq->queued -= bytes < rq->queued ? bytes : rq->queued;
	if (rq->drained && !rq->ended && !rq->aborted)
		rq->drained(rq->arg);
}

static bool eat(struct str *s, const char *word)
{
	size_t len = strlen(word);

	if (s->len < len || memcmp(s->ptr, word, len) != 0)
		return false;
	s->ptr += len;
	s->len -= len;
	return true;
}

static struct str line(struct str *s)
{
	const char *end = memchr(s->ptr, '\n', s->len);

	assert(end);
	struct str text = { s->ptr, (size_t)(end - s->ptr) };

	assert(!memchr(text.ptr, '\r', text.len));
	*s = (struct str){ end + 1, s->len - text.len - 1 };
	return text;
}

static void event(struct sse_seen *seen, struct str name, struct str data)
{
	json_t *doc = json_loadb(data.ptr, data.len, JSON_ALLOW_NUL, NULL);
	json_t *text = json_object_get(doc, "text");
	int stream = str_eq(name, STR("stdout")) ? 1 : str_eq(name, STR("stderr")) ? 2 : 0;

	assert(json_is_object(doc));
	buf_addf(&seen->names, "%.*s ", STR_ARG(name));
	if (stream) {
		size_t len = json_string_length(text);

		assert(json_is_string(text) && len);
		buf_add(&seen->text[stream], json_string_value(text), len);
		seen->longest = len > seen->longest ? len : seen->longest;
	} else {
		buf_clear(&seen->last);
		buf_add_str(&seen->last, data);
	}
	json_decref(doc);
}

void sse_world_parse(const struct http_request *rq, struct sse_seen *ret)
{
	struct str rest = buf_str(&rq->sent);

	*ret = (struct sse_seen){ 0 };
	for (int i = 0; i < 3; i++)
		buf_init(&ret->text[i], 1u << 30);
	buf_init(&ret->names, 1u << 30);
	buf_init(&ret->last, 1u << 30);
	while (rest.len) {
		if (eat(&rest, ": ")) {
			assert(line(&rest).len);
			ret->comments++;
		} else {
			assert(eat(&rest, "event: "));
			struct str name = line(&rest);

			assert(eat(&rest, "data: "));
			event(ret, name, line(&rest));
		}
		assert(eat(&rest, "\n"));
	}
}

void sse_seen_done(struct sse_seen *seen)
{
	for (int i = 0; i < 3; i++)
		buf_done(&seen->text[i]);
	buf_done(&seen->names);
	buf_done(&seen->last);
}
