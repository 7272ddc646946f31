/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Event streams: whatever a program writes, in whatever pieces, to however slow a reader, both
 * streams come out as the whole text would have been cleaned, in events of valid JSON, and every
 * byte is credited once. Input: an Accept header up to the first NUL, then commands.
 */
#include "sse_world.h"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t credited;

static void taken(void *arg, size_t bytes)
{
	(void)arg;
	credited += bytes;
}

struct world {
	struct http_request rq;
	struct event_stream es;
	struct buf wrote[3];
	size_t events, comments;
};

static void output(struct world *w, int stream, struct str bytes)
{
	buf_add_str(&w->wrote[stream], bytes);
	event_stream_output(&w->es, stream, bytes);
}

/* One command: what, how much, and the bytes after it. */
static struct str step(struct world *w, struct str in)
{
	uint8_t op = (uint8_t)in.ptr[0];
	size_t n = (uint8_t)in.ptr[1];
	struct str rest = { in.ptr + 2, in.len - 2 };
	struct str bytes = { rest.ptr, n < rest.len ? n : rest.len };

	switch (op % 6) {
	case 0:
	case 1:
		output(w, 1 + op % 6, bytes);
		return (struct str){ rest.ptr + bytes.len, rest.len - bytes.len };
	case 2:
		sse_world_read(&w->rq, n * 64);
		break;
	case 3:
		event_stream_event(&w->es, "result", STR("{\"a\":1}"));
		w->events++;
		break;
	case 4:
		event_stream_comment(&w->es, "queued");
		w->comments++;
		break;
	case 5:
		for (size_t i = 0; i < n % 64; i++)
			output(w, 1 + (int)(i & 1), STR("\xf0"));
		break;
	}
	return rest;
}

static void check_stream(struct world *w, struct sse_seen *seen, int stream)
{
	struct buf want;

	buf_init(&want, 1u << 30);
	buf_add_utf8(&want, buf_str(&w->wrote[stream]));
	assert(str_eq(buf_str(&want), buf_str(&seen->text[stream])));
	buf_done(&want);
}

static void check(struct world *w)
{
	struct sse_seen seen;

	event_stream_flush(&w->es);
	event_stream_event(&w->es, "end", STR("{}"));
	event_stream_end(&w->es);
	while (w->rq.queued)
		sse_world_read(&w->rq, 5000);
	assert(w->rq.ended && !w->rq.aborted);
	assert(credited == w->wrote[1].len + w->wrote[2].len);
	sse_world_parse(&w->rq, &seen);
	check_stream(w, &seen, 1);
	check_stream(w, &seen, 2);
	assert(seen.comments == w->comments);
	assert(seen.longest <= 3 * (EVENT_TEXT_MAX + 3));
	assert(str_eq(buf_str(&seen.last), STR("{}")));
	sse_seen_done(&seen);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world w = { .rq = { .queue_max = 300, .held_max = 1u << 30 } };
	struct str in = { (const char *)data, size };
	size_t head = strnlen(in.ptr, in.len);
	char *accept = str_dup((struct str){ in.ptr, head });
	struct err e = ERR_INIT;

	assert(accept);
	w.rq.accept = accept;
	event_stream_wanted(&w.rq);
	credited = 0;
	buf_init(&w.rq.sent, 1u << 30);
	for (int i = 0; i < 3; i++)
		buf_init(&w.wrote[i], 1u << 30);
	assert(event_stream_begin(&w.es, &w.rq, taken, NULL, &e) == 0);
	in = (struct str){ in.ptr + head, in.len - head };
	while (in.len >= 2)
		in = step(&w, in);
	check(&w);
	event_stream_done(&w.es);
	buf_done(&w.rq.sent);
	for (int i = 0; i < 3; i++)
		buf_done(&w.wrote[i]);
	free(accept);
	return 0;
}
