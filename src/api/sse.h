/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * sse: server-sent events as the body of one reply: what a program writes, as it writes it.
 *
 * Every event has a name and one line of JSON. Output of the program comes as bytes and leaves as
 * text: cut between characters, what is no UTF-8 replaced as in any other reply. What the client
 * has not read yet waits here, in the order in which it came, behind the queue of http.h, and
 * counts in buffers_max with it. `taken` says when bytes of output have left for that queue, so
 * that whoever sends them can be held back until then: not more than that ever waits.
 *
 * A comment goes out every 15 s in which nothing else waits, so that nobody on the way takes the
 * connection for dead. When memory is out the connection is cut: a stream never has a hole.
 */

#include "base/buf.h"
#include "http/http.h"
#include "loop/loop.h"

#define EVENT_STREAM_ALIVE_MS 15000
/** Bytes of output in one event, at most. */
#define EVENT_TEXT_MAX (16u * 1024)

/** Members are sse.c's own. Zeroed before event_stream_begin(). */
struct event_stream {
	struct http_request *rq;
	void (*taken)(void *arg, size_t bytes);
	void *arg;
	struct loop_timer *alive;
	struct buf event;   /* being written, */
	size_t event_at;    /* from here on; */
	size_t event_bytes; /* bytes of output in it */
	struct buf held;    /* records behind it, */
	size_t held_at;     /* from here on; */
	size_t held_last;   /* where the last one begins */
	struct {
		char bytes[4];
		size_t len;
	} unfinished[3]; /* the beginning of a character, by stream */
	bool pumping;
	bool ending;
	bool cut;
};

/** event_stream_wanted: the request accepts text/event-stream by name, and nothing that could be
 * answered instead more than that. */
bool event_stream_wanted(struct http_request *rq);
/** event_stream_begin: answers with the headers set so far and those of such streams. */
int event_stream_begin(struct event_stream *es, struct http_request *rq,
		       void (*taken)(void *arg, size_t bytes), void *arg, struct err *e);
/** event_stream_comment: text without line breaks. */
void event_stream_comment(struct event_stream *es, const char *text);
/** event_stream_event: data is JSON on one line. */
void event_stream_event(struct event_stream *es, const char *name, struct str data);
/** event_stream_display: an event `display`: an image; format has no character that JSON escapes.
 */
void event_stream_display(struct event_stream *es, const char *format, struct str base64);
/** event_stream_output: an event `stdout` (1) or `stderr` (2). */
void event_stream_output(struct event_stream *es, int stream, struct str bytes);
/** event_stream_flush: nothing follows on both; halves of characters leave as they are. */
void event_stream_flush(struct event_stream *es);
void event_stream_end(struct event_stream *es);
/** event_stream_done: frees what it holds; also after a failed begin. */
void event_stream_done(struct event_stream *es);
