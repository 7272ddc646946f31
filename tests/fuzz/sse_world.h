/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * sse_world: an HTTP reply and a loop for sse.c alone: a client that reads when it is told to, and
 * what it has read, taken apart into events.
 */

#include "api/sse.h"

#include <jansson.h>

struct http_request {
	struct buf sent;    /* all of it */
	size_t queued;      /* of these, not read yet */
	size_t queue_max;   /* room between us and the client */
	size_t held;        /* http_stream_hold() */
	size_t held_max;    /* and what it allows */
	const char *accept; /* lines of Accept headers */
	bool ended, aborted;
	void (*drained)(void *arg);
	void *arg;
};

/** What came out: texts of the streams put together, names of the events in order. */
struct sse_seen {
	struct buf text[3]; /* 1 stdout, 2 stderr */
	struct buf names;   /* "started stdout …" */
	struct buf last;    /* data of the last event that is no text */
	size_t comments;
	size_t longest; /* text of one event */
};

/** sse_world_read: the client reads so many bytes. */
void sse_world_read(struct http_request *rq, size_t bytes);
/** sse_world_tick: the timer of the stream goes off, if it is armed; whether it was. */
bool sse_world_tick(void);
/** sse_world_parse: strictly; aborts when it is no stream of events with one line of JSON each. */
void sse_world_parse(const struct http_request *rq, struct sse_seen *ret);
void sse_seen_done(struct sse_seen *seen);
