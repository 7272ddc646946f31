/* SPDX-License-Identifier: Apache-2.0 */
#include "sse_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

struct world {
	struct http_request rq;
	struct event_stream es;
	size_t credited;
};

static void taken(void *arg, size_t bytes)
{
	((struct world *)arg)->credited += bytes;
}

static void begin(struct world *w, size_t queue_max)
{
	struct err e = ERR_INIT;

	*w = (struct world){ .rq = { .queue_max = queue_max, .held_max = 1u << 30 } };
	buf_init(&w->rq.sent, 1u << 30);
	assert_int_equal(event_stream_begin(&w->es, &w->rq, taken, w, &e), 0);
}

static void done(struct world *w)
{
	event_stream_done(&w->es);
	buf_done(&w->rq.sent);
}

static void output(struct world *w, int stream, struct str bytes)
{
	event_stream_output(&w->es, stream, bytes);
}

static void assert_sent(struct world *w, const char *want)
{
	assert_string_equal(w->rq.sent.ptr, want);
	buf_clear(&w->rq.sent);
	w->rq.queued = 0;
}

#define OUT(text) "event: stdout\ndata: {\"text\":\"" text "\"}\n\n"
#define ERR(text) "event: stderr\ndata: {\"text\":\"" text "\"}\n\n"

static void test_events(void **state)
{
	struct world w;

	(void)state;
	begin(&w, 10000);
	event_stream_comment(&w.es, "queued");
	assert_sent(&w, ": queued\n\n");
	event_stream_event(&w.es, "started", STR("{\"id\":\"x\"}"));
	assert_sent(&w, "event: started\ndata: {\"id\":\"x\"}\n\n");
	output(&w, 1, STR("a\nb\r\n\"\0\x1b[0m"));
	assert_sent(&w, OUT("a\\nb\\r\\n\\\"\\u0000\\u001b[0m"));
	assert_int_equal(w.credited, 11);
	output(&w, 2, STR("e"));
	assert_sent(&w, ERR("e"));
	event_stream_display(&w.es, "svg+xml", STR("aGk="));
	assert_sent(&w, "event: display\ndata: "
			"{\"type\":\"image\",\"format\":\"svg+xml\",\"base64_data\":\"aGk=\"}\n\n");
	assert_true(sse_world_tick());
	assert_sent(&w, ": keep-alive\n\n");
	assert_false(w.rq.ended);
	event_stream_end(&w.es);
	assert_true(w.rq.ended);
	assert_false(sse_world_tick());
	assert_int_equal(w.rq.sent.len, 0);
	done(&w);
}

/* No event ends within a character; what never becomes one is replaced byte by byte. */
static void test_characters(void **state)
{
	struct world w;

	(void)state;
	begin(&w, 10000);
	output(&w, 1, STR("a\xf0\x9f"));
	assert_sent(&w, OUT("a"));
	assert_int_equal(w.credited, 3); /* nobody waits for what only the next byte tells */
	output(&w, 2, STR("\xc3"));
	output(&w, 1, STR("\x98"));
	assert_int_equal(w.rq.sent.len, 0);
	output(&w, 1, STR("\x80z"));
	assert_sent(&w, OUT("\xf0\x9f\x98\x80z"));
	output(&w, 2, STR("\xa9"));
	assert_sent(&w, ERR("\xc3\xa9"));
	output(&w, 1, STR("\xe2\x82"));
	output(&w, 1, STR("x"));
	assert_sent(&w, OUT("\xef\xbf\xbd\xef\xbf\xbdx"));
	output(&w, 1, STR("\xff\x80\xc0"));
	assert_sent(&w, OUT("\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"));
	output(&w, 1, STR("\xe2\x82"));
	output(&w, 2, STR("\xf4"));
	assert_int_equal(w.rq.sent.len, 0);
	event_stream_flush(&w.es);
	assert_sent(&w, OUT("\xef\xbf\xbd\xef\xbf\xbd") ERR("\xef\xbf\xbd"));
	event_stream_flush(&w.es);
	assert_int_equal(w.rq.sent.len, 0);
	done(&w);
}

/* What the client does not read is held, in order, and not credited. */
static void test_slow_reader(void **state)
{
	struct world w;

	(void)state;
	begin(&w, strlen(OUT("1")) - 1);
	output(&w, 1, STR("1"));
	assert_int_equal(w.credited, 0);
	output(&w, 1, STR("22"));
	output(&w, 1, STR("33"));
	output(&w, 2, STR("4"));
	output(&w, 1, STR("5"));
	event_stream_event(&w.es, "result", STR("{}"));
	event_stream_end(&w.es);
	assert_int_equal(w.credited, 0);
	sse_world_read(&w.rq, 1);
	assert_int_equal(w.credited, 1); /* the last byte of the first event has left */
	while (!w.rq.ended)
		sse_world_read(&w.rq, 1000);
	assert_int_equal(w.credited, 7);
	assert_sent(&w, OUT("1") OUT("2233") ERR("4") OUT("5") "event: result\ndata: {}\n\n");
	done(&w);
}

/* A reader that waits gets no comments on top, and what is held stays in proportion. */
static void test_byte_by_byte(void **state)
{
	struct world w;
	struct sse_seen seen;

	(void)state;
	begin(&w, 100);
	for (int i = 0; i < 100000; i++)
		output(&w, 1, STR("x"));
	assert_true(w.rq.held < 300000);
	for (int i = 0; i < 10; i++)
		assert_true(sse_world_tick());
	while (w.rq.queued)
		sse_world_read(&w.rq, 100);
	assert_int_equal(w.credited, 100000);
	assert_int_equal(w.rq.held, 0);
	sse_world_parse(&w.rq, &seen);
	assert_int_equal(seen.text[1].len, 100000);
	assert_int_equal(seen.comments, 0);
	assert_int_equal(seen.longest, EVENT_TEXT_MAX);
	sse_seen_done(&seen);
	done(&w);
}

/* One event takes EVENT_TEXT_MAX bytes of text and no more. */
static void test_longest_event(void **state)
{
	static char text[EVENT_TEXT_MAX + 1];
	struct world w;
	struct sse_seen seen;

	(void)state;
	memset(text, 1, sizeof(text)); /* six bytes each, as JSON */
	for (size_t more = 0; more <= 1; more++) {
		begin(&w, 1 << 20);
		output(&w, 1, (struct str){ text, EVENT_TEXT_MAX + more });
		sse_world_parse(&w.rq, &seen);
		assert_string_equal(seen.names.ptr, more ? "stdout stdout " : "stdout ");
		assert_int_equal(seen.text[1].len, EVENT_TEXT_MAX + more);
		sse_seen_done(&seen);
		done(&w);
	}
}

/* No memory for what waits: the client sees a broken transfer, not a stream with a hole. */
static void test_no_room(void **state)
{
	static char text[5000];
	struct world w;

	(void)state;
	memset(text, 'x', sizeof(text));
	begin(&w, 100);
	w.rq.held_max = 4000;
	output(&w, 1, (struct str){ text, 1000 });
	assert_false(w.rq.aborted);
	output(&w, 1, (struct str){ text, sizeof(text) });
	assert_true(w.rq.aborted);
	output(&w, 1, STR("more"));
	event_stream_event(&w.es, "result", STR("{}"));
	event_stream_flush(&w.es);
	event_stream_end(&w.es);
	assert_false(w.rq.ended);
	assert_int_equal(w.credited, 0);
	done(&w);
}

static void test_accept(void **state)
{
	static const struct {
		const char *accept;
		bool wanted;
	} cases[] = {
		{ NULL, false },
		{ "", false },
		{ "*/*", false },
		{ "text/*", false },
		{ "application/json", false },
		{ "text/event-stream", true },
		{ "TEXT/Event-Stream", true },
		{ " text/event-stream ; charset=utf-8", true },
		{ "text/event-streams", false },
		{ "text/event-stream;q=0", false },
		{ "text/event-stream;q=0.0", false },
		{ "text/event-stream; Q=0.001", true },
		{ "text/event-stream;q=1.1", false },
		{ "text/event-stream;q=-1", false },
		{ "text/event-stream;q=", false },
		{ "text/event-stream;q=nan", false },
		{ "text/event-stream;q=x", false },
		{ "application/json, text/event-stream", true },
		{ "application/json;q=0.9, text/event-stream;q=0.8", false },
		{ "application/json;q=0.8, text/event-stream;q=0.9", true },
		{ "text/event-stream;q=0.5, */*", false },
		{ "text/event-stream, */*;q=0.1", true },
		{ "text/event-stream;q=0.5, application/json;q=0.2, */*", true },
		{ "*/*, application/json;q=0.2, text/event-stream;q=0.5", true },
		{ "text/event-stream;q=0.5, application/*;q=0.6", false },
		{ "application/json\ntext/event-stream", true },
		{ "text/event-stream\napplication/json;q=0.5", true },
		{ ",,;,text/event-stream,", true },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct http_request rq = { .accept = cases[i].accept };

		if (event_stream_wanted(&rq) != cases[i].wanted)
			fail_msg("%s", cases[i].accept);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events),        cmocka_unit_test(test_characters),
		cmocka_unit_test(test_slow_reader),   cmocka_unit_test(test_byte_by_byte),
		cmocka_unit_test(test_longest_event), cmocka_unit_test(test_no_room),
		cmocka_unit_test(test_accept),
	};

	return cmocka_run_group_tests_name("sse", tests, NULL, NULL);
}
