/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "http/router.h"

#include <assert.h>
#include <stdlib.h>

/* Input: a raw request target. Whatever it is, segments stay inside their memory and matching is
 * stable. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void nothing(struct http_request *rq, void *ctx)
{
	(void)rq;
	(void)ctx;
}

static const struct http_route table[] = {
	{ "GET", "/", nothing, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/pools/{pool}/files/{path*}", nothing, HTTP_BODY_NONE, NULL, "" },
	{ "PUT", "/pools/{pool}/x/{other}", nothing, HTTP_BODY_NONE, NULL, "" },
	{ "*", "/{rest*}", nothing, HTTP_BODY_NONE, NULL, "" },
};

static void check_match(const struct router *r, const struct router_path *path, const char *mem,
			size_t mem_len)
{
	static const struct str methods[] = { { "GET", 3 }, { "HEAD", 4 }, { "PUT", 3 } };
	char allow[ROUTER_ALLOW_MAX];

	for (size_t i = 0; i < ARRAY_LEN(methods); i++) {
		struct router_match match;
		enum router_result result = router_match(r, methods[i], path, &match);

		/* Only the empty path is not taken by the last row. */
		assert(result == ROUTER_FOUND || !path->count);
		for (size_t k = 0; result == ROUTER_FOUND && k < match.param_count; k++) {
			struct str v = match.params[k].value;

			assert(v.ptr >= mem && v.ptr + v.len <= mem + mem_len);
			assert(utf8_valid(v) && !memchr(v.ptr, 0, v.len));
		}
	}
	router_allow(r, path, allow);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct router *r;
	struct err e = ERR_INIT;
	struct str target = { (const char *)data, size };
	struct router_path path;
	struct str value;

	if (!r) {
		r = router_new(&e);
		if (!r || router_add(r, table, ARRAY_LEN(table), NULL, &e) < 0)
			abort();
	}
	char *mem = malloc(size + 1); /* exactly as long as promised: ASan sees any byte beyond */

	if (!mem)
		return 0;
	const char *mark = size ? memchr(data, '?', size) : NULL;
	size_t path_len = mark ? (size_t)(mark - target.ptr) : size;

	if (router_split((struct str){ target.ptr, path_len }, mem, &path, &e) == 0)
		check_match(r, &path, mem, size + 1);
	if (mark &&
	    query_get((struct str){ mark + 1, size - path_len - 1 }, STR("identifier"), &value))
		percent_decode(value, mem);
	free(mem);
	return 0;
}
