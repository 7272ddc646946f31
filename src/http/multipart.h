/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * multipart: incremental parser of multipart/form-data as real clients send it (clients.md,
 * superset contract §8): quoted and unquoted boundary and parameters, `filename*=` (RFC 5987,
 * utf-8), raw UTF-8 names, part headers in any order, missing part Content-Type, LF instead of CRLF
 * after the boundary, a preamble, and a wrong Content-Type, in which case the boundary is sniffed
 * from the first line.
 *
 * Feed it bytes; it calls back. Memory is bounded: part headers MULTIPART_HEADERS_MAX, boundary 70
 * bytes (RFC 2046), at most MULTIPART_PARTS_MAX parts. No allocation depends on the input
 * otherwise.
 */

#include "base/err.h"
#include "base/str.h"

#include <sys/types.h>

#define MULTIPART_HEADERS_MAX  (16 * 1024)
#define MULTIPART_PARTS_MAX    64
#define MULTIPART_BOUNDARY_MAX 70

/** Views are valid during the call only. */
struct multipart_part {
	struct str name;         /* decoded; empty if absent */
	struct str filename;     /* decoded, as the client sent it: hostile; ptr NULL if absent */
	struct str content_type; /* empty if absent */
};

struct multipart_events {
	/** part: headers of a part are in. -1 stops parsing with e. */
	int (*part)(void *arg, const struct multipart_part *part, struct err *e);
	/**
	 * data: bytes of the current part; returns how many were taken (fewer: the parser stops and
	 * multipart_feed reports how much it consumed), or -1 with e.
	 */
	ssize_t (*data)(void *arg, const char *data, size_t len, struct err *e);
	/** part_end: the current part is complete. */
	int (*part_end)(void *arg, struct err *e);
};

struct multipart;

/** multipart_new: content_type is the request's header (may be wrong or empty: then the boundary is
 * sniffed). */
struct multipart *multipart_new(struct str content_type, const struct multipart_events *events,
				void *arg, struct err *e);
void multipart_free(struct multipart *m);
/**
 * multipart_feed: consumes up to len bytes. Returns the number consumed (less than len only after
 * events->data took fewer than offered), -1 on malformed input or a callback's error.
 */
ssize_t multipart_feed(struct multipart *m, const char *data, size_t len, struct err *e);
/** multipart_finish: the body has ended; -1 if the closing boundary was missing. */
int multipart_finish(struct multipart *m, struct err *e);
