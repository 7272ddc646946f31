/* SPDX-License-Identifier: Apache-2.0 */
#include "api/sse.h"

#include "api/json_out.h"
#include "base/own.h"

#include <stdlib.h>
#include <string.h>

/* Two displays and a result of the largest size, and more than any window of output. */
#define HELD_MAX  (256u << 20)
#define EVENT_MAX (256u * 1024)
/* Held memory is given back when it has been this much and is empty. */
#define HELD_KEEP (16u * 1024)

/* ---- which representation ---- */

struct accept {
	double q_stream;
	double q_json;
	int json_rank; /* how exactly the range of q_json matches */
};

/* -1: not a number from 0 to 1. */
static double quality(struct str parameters)
{
	while (parameters.len) {
		const char *end = memchr(parameters.ptr, ';', parameters.len);
		size_t len = end ? (size_t)(end - parameters.ptr) : parameters.len;
		struct str one = str_trim((struct str){ parameters.ptr, len });
		char text[8];
		char *rest;

		if (str_starts_nocase(one, STR("q="))) {
			if (!str_copy((struct str){ one.ptr + 2, one.len - 2 }, text, sizeof(text)))
				return -1;
			double q = strtod(text, &rest);

			return text[0] && !*rest && q >= 0 && q <= 1 ? q : -1;
		}
		len += end ? 1 : 0;
		parameters = (struct str){ parameters.ptr + len, parameters.len - len };
	}
	return 1;
}

static void accept_range(struct accept *a, struct str range)
{
	static const struct str json_ranges[] = { { "*/*", 3 },
						  { "application/*", 13 },
						  { "application/json", 16 } };
	const char *end = memchr(range.ptr, ';', range.len);
	size_t len = end ? (size_t)(end - range.ptr) : range.len;
	struct str type = str_trim((struct str){ range.ptr, len });
	double q = quality(
		(struct str){ range.ptr + len + (end ? 1 : 0), range.len - len - (end ? 1 : 0) });

	if (q < 0)
		return;
	if (str_eq_nocase(type, STR("text/event-stream")))
		a->q_stream = q;
	for (int rank = 0; rank < 3; rank++)
		if (str_eq_nocase(type, json_ranges[rank]) && rank >= a->json_rank) {
			a->q_json = q;
			a->json_rank = rank;
		}
}

static void accept_header(void *arg, struct str name, struct str value)
{
	if (!str_eq_nocase(name, STR("Accept")))
		return;
	while (value.len) {
		const char *end = memchr(value.ptr, ',', value.len);
		size_t len = end ? (size_t)(end - value.ptr) : value.len;

		accept_range(arg, (struct str){ value.ptr, len });
		len += end ? 1 : 0;
		value = (struct str){ value.ptr + len, value.len - len };
	}
}

bool event_stream_wanted(struct http_request *rq)
{
	struct accept a = { 0 };

	http_each_header(rq, accept_header, &a);
	return a.q_stream > 0 && a.q_stream >= a.q_json;
}

/* ---- what waits ---- */

enum record_kind {
	RECORD_READY = 0, /* as it goes out */
	/* 1 and 2: output of that stream */
	RECORD_FLUSH = 3, /* one byte that says it */
};

struct record {
	uint32_t len;
	uint8_t kind;
} __attribute__((packed));

/* The client must not take what it has for whole; the request ends, and with it what it began. */
static void cut(struct event_stream *es)
{
	es->cut = true;
	buf_done(&es->event);
	buf_done(&es->held);
	es->held_at = es->event_at = 0;
	http_stream_abort(es->rq);
}

static struct record record_at(const struct event_stream *es, size_t at)
{
	struct record r;

	memcpy(&r, es->held.ptr + at, sizeof(r));
	return r;
}

static void hold(struct event_stream *es, enum record_kind kind, struct str bytes)
{
	struct record r = { 0, (uint8_t)kind };

	if (!bytes.len || es->cut || es->ending)
		return;
	if (!buf_reserve(&es->held, sizeof(r) + bytes.len)) {
		cut(es);
		return;
	}
	/* A program that writes byte by byte must not make us hold a record for each. */
	bool joins = es->held_at < es->held.len && kind != RECORD_FLUSH &&
		     record_at(es, es->held_last).kind == kind;

	if (joins) {
		r = record_at(es, es->held_last);
	} else {
		es->held_last = es->held.len;
		buf_add(&es->held, &r, sizeof(r));
	}
	buf_add_str(&es->held, bytes);
	r.len += (uint32_t)bytes.len; /* at most HELD_MAX */
	memcpy(es->held.ptr + es->held_last, &r, sizeof(r));
}

/* Of the first record, len bytes have been used; what is left of it becomes the first. */
static void drop(struct event_stream *es, struct record r, size_t len)
{
	size_t at = es->held_at;

	if (len == r.len) {
		es->held_at += sizeof(r) + len;
		return;
	}
	r.len -= (uint32_t)len;
	es->held_at += len;
	memcpy(es->held.ptr + es->held_at, &r, sizeof(r));
	if (es->held_last == at)
		es->held_last = es->held_at;
}

/* SECURITY: who does not read makes us hold this; thousands of them hold no more than buffers_max
 * together. */
static void account(struct event_stream *es)
{
	if (!es->cut && (!buf_ok(&es->held) || !buf_ok(&es->event) ||
			 !http_stream_hold(es->rq, es->held.cap + es->event.cap)))
		cut(es);
}

/* Keeps the beginning of the buffer from being what is long gone. */
static void compact(struct event_stream *es)
{
	if (es->held_at == es->held.len) {
		es->held_at = 0;
		if (es->held.cap > HELD_KEEP)
			buf_done(&es->held);
		else
			buf_clear(&es->held);
	} else if (es->held_at > es->held.len / 2) {
		buf_consume(&es->held, es->held_at);
		es->held_last -= es->held_at;
		es->held_at = 0;
	}
}

/* ---- events ---- */

static void put_text(struct event_stream *es, int stream, struct str text)
{
	struct buf clean;

	buf_add_str(&es->event, stream == 1 ? STR("event: stdout\ndata: {\"text\":")
					    : STR("event: stderr\ndata: {\"text\":"));
	if (utf8_valid(text)) {
		json_str(&es->event, text);
	} else {
		buf_init(&clean, EVENT_MAX);
		buf_add_utf8(&clean, text);
		json_str(&es->event, buf_str(&clean));
		buf_done(&clean);
	}
	buf_add_str(&es->event, STR("}\n\n"));
}

/* The text of some bytes that came, as far as its characters are whole. */
static void put_output(struct event_stream *es, int stream, struct str bytes)
{
	char joined[EVENT_TEXT_MAX + 4];
	size_t had = es->unfinished[stream].len;

	es->event_bytes = bytes.len;
	if (had) {
		memcpy(joined, es->unfinished[stream].bytes, had);
		memcpy(joined + had, bytes.ptr, bytes.len);
		bytes = (struct str){ joined, had + bytes.len };
	}
	size_t rest = utf8_unfinished(bytes);

	bytes.len -= rest;
	memcpy(es->unfinished[stream].bytes, bytes.ptr + bytes.len, rest);
	es->unfinished[stream].len = rest;
	if (bytes.len)
		put_text(es, stream, bytes);
}

static void put_unfinished(struct event_stream *es)
{
	for (int stream = 1; stream <= 2; stream++) {
		size_t len = es->unfinished[stream].len;

		es->unfinished[stream].len = 0;
		if (len)
			put_text(es, stream, (struct str){ es->unfinished[stream].bytes, len });
	}
}

/* Whether the event that is under way has left. */
static bool write_event(struct event_stream *es)
{
	size_t left = es->event.len - es->event_at;
	size_t n = left ? http_stream_write(es->rq, es->event.ptr + es->event_at, left) : 0;
	size_t bytes = es->event_bytes;

	es->event_at += n;
	if (n < left)
		return false;
	es->event_at = 0;
	es->event_bytes = 0;
	buf_clear(&es->event);
	if (bytes)
		es->taken(es->arg, bytes);
	return true;
}

/* Whether there is another one. */
static bool next_event(struct event_stream *es)
{
	if (es->held_at == es->held.len) {
		buf_done(&es->event);
		return false;
	}
	struct record r = record_at(es, es->held_at);
	size_t len = r.len < EVENT_TEXT_MAX ? r.len : EVENT_TEXT_MAX;
	struct str bytes = { es->held.ptr + es->held_at + sizeof(r), len };

	if (r.kind == RECORD_READY)
		buf_add_str(&es->event, bytes);
	else if (r.kind == RECORD_FLUSH)
		put_unfinished(es);
	else
		put_output(es, r.kind, bytes);
	drop(es, r, len);
	compact(es);
	return true;
}

/* As much as there is room for; called again when there is more. */
static void pump(struct event_stream *es)
{
	if (es->pumping || es->cut)
		return;
	es->pumping = true;
	while (!es->cut && write_event(es) && next_event(es))
		;
	es->pumping = false;
	account(es);
	if (es->ending && !es->cut && !es->event.len && es->held_at == es->held.len)
		http_stream_end(es->rq);
}

static void drained(void *arg)
{
	pump(arg);
}

static void alive(void *arg)
{
	struct event_stream *es = arg;

	if (!es->event.len)
		event_stream_comment(es, "keep-alive");
	loop_timer_start(es->alive, EVENT_STREAM_ALIVE_MS);
}

int event_stream_begin(struct event_stream *es, struct http_request *rq,
		       void (*taken)(void *arg, size_t bytes), void *arg, struct err *e)
{
	*es = (struct event_stream){ .rq = rq, .taken = taken, .arg = arg };
	buf_init(&es->event, EVENT_MAX);
	buf_init(&es->held, HELD_MAX);
	es->alive = loop_timer_new(alive, es);
	if (!es->alive)
		return err_set(e, ERR_NOMEM, "out of memory");
	http_set_header(rq, "Cache-Control", "no-store");
	/* nginx and its kin would collect it. */
	http_set_header(rq, "X-Accel-Buffering", "no");
	if (http_stream_begin(rq, 200, "text/event-stream; charset=utf-8", -1, drained, es, e) < 0)
		return -1;
	loop_timer_start(es->alive, EVENT_STREAM_ALIVE_MS);
	return 0;
}

static void ready(struct event_stream *es, const struct str *parts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		hold(es, RECORD_READY, parts[i]);
	pump(es);
}

void event_stream_comment(struct event_stream *es, const char *text)
{
	const struct str parts[] = { STR(": "), str_from(text), STR("\n\n") };

	ready(es, parts, ARRAY_LEN(parts));
}

void event_stream_event(struct event_stream *es, const char *name, struct str data)
{
	const struct str parts[] = { STR("event: "), str_from(name), STR("\ndata: "), data,
				     STR("\n\n") };

	ready(es, parts, ARRAY_LEN(parts));
}

void event_stream_display(struct event_stream *es, const char *format, struct str base64)
{
	const struct str parts[] = {
		STR("event: display\ndata: {\"type\":\"image\",\"format\":\""),
		str_from(format),
		STR("\",\"base64_data\":\""),
		base64,
		STR("\"}\n\n"),
	};

	ready(es, parts, ARRAY_LEN(parts));
}

void event_stream_output(struct event_stream *es, int stream, struct str bytes)
{
	hold(es, (enum record_kind)stream, bytes);
	pump(es);
}

void event_stream_flush(struct event_stream *es)
{
	hold(es, RECORD_FLUSH, STR("."));
	pump(es);
}

void event_stream_end(struct event_stream *es)
{
	loop_timer_stop(es->alive);
	es->ending = true;
	pump(es);
}

void event_stream_done(struct event_stream *es)
{
	loop_timer_free(es->alive);
	buf_done(&es->event);
	buf_done(&es->held);
}
