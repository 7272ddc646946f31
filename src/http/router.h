/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * router: from a raw request path to a row of a route table; pure, no server behind it.
 *
 * A path is split at '/', empty segments are dropped, and each segment is percent-decoded once
 * after the splitting, so that %2F never makes a new segment. A '%' that two hexadecimal digits do
 * not follow stays as it is: real clients send file names unquoted. Patterns and the meaning of
 * rows: http.h. The decoded segments live in memory of the caller, lie in order and are joined by
 * single '/' bytes.
 */

#include "http/http.h"

#define ROUTER_SEGMENTS_MAX 128
#define ROUTER_PARAMS_MAX   8
#define ROUTER_ALLOW_MAX    128

struct router_path {
	struct str segments[ROUTER_SEGMENTS_MAX];
	size_t count;
};

struct router_param {
	struct str name; /* points into the pattern */
	struct str value;
};

struct router_match {
	const struct http_route *route;
	void *ctx;
	struct router_param params[ROUTER_PARAMS_MAX];
	size_t param_count;
};

enum router_result { ROUTER_FOUND, ROUTER_NOT_FOUND, ROUTER_METHOD };

struct router;

/** percent_decode: decodes once into out (raw.len bytes suffice; out may be raw.ptr) and returns
 * the length. */
size_t percent_decode(struct str raw, char *out);

/** router_split: decodes into mem (raw.len + 1 bytes). -1 for NUL bytes, bad UTF-8 or too many
 * segments. */
int router_split(struct str raw, char *mem, struct router_path *ret, struct err *e);

struct router *router_new(struct err *e);
void router_free(struct router *r);
/** router_add: routes are not copied. -1 for a pattern that is not well formed. */
int router_add(struct router *r, const struct http_route *routes, size_t count, void *ctx,
	       struct err *e);
/** router_match: ret is filled when found. HEAD also matches rows of GET. */
enum router_result router_match(const struct router *r, struct str method,
				const struct router_path *path, struct router_match *ret);
/** router_allow: text of an Allow header: the methods of all rows that match path. */
const char *router_allow(const struct router *r, const struct router_path *path,
			 char buf[static ROUTER_ALLOW_MAX]);

/** query_get: first value of key in a raw query; returns the raw view, to be
 * decoded by the caller. */
bool query_get(struct str query, struct str key, struct str *ret_raw);
