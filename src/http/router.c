/* SPDX-License-Identifier: Apache-2.0 */
#include "http/router.h"

#include <stdlib.h>

enum segment_kind { SEGMENT_LITERAL, SEGMENT_PARAM, SEGMENT_REST };

struct segment {
	enum segment_kind kind;
	struct str text; /* literal, or name of the parameter */
};

struct row {
	const struct http_route *route;
	void *ctx;
	struct str method;
	struct segment *segments;
	size_t segment_count;
};

struct router {
	struct row *rows;
	size_t row_count;
};

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c = (char)(c | 0x20);
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

size_t percent_decode(struct str raw, char *out)
{
	size_t n = 0;

	for (size_t i = 0; i < raw.len; i++) {
		char c = raw.ptr[i];

		if (c == '%' && raw.len - i > 2) {
			int hi = hex_digit(raw.ptr[i + 1]);
			int lo = hex_digit(raw.ptr[i + 2]);

			if (hi >= 0 && lo >= 0) {
				c = (char)(hi << 4 | lo);
				i += 2;
			}
		}
		out[n++] = c;
	}
	return n;
}

int router_split(struct str raw, char *mem, struct router_path *ret, struct err *e)
{
	char *out = mem;
	size_t i = 0;

	ret->count = 0;
	while (i < raw.len) {
		size_t start = i;
		const char *slash = memchr(raw.ptr + i, '/', raw.len - i);

		i = slash ? (size_t)(slash - raw.ptr) : raw.len;
		struct str piece = { raw.ptr + start, i - start };

		i++;
		if (!piece.len)
			continue;
		if (ret->count == ROUTER_SEGMENTS_MAX)
			return err_set(e, ERR_MALFORMED, "the path has more than %d segments",
				       ROUTER_SEGMENTS_MAX);
		if (ret->count)
			*out++ = '/';
		struct str seg = { out, percent_decode(piece, out) };

		/*
		 * SECURITY: everything behind the router may take a segment for text; a NUL would
		 * cut it short in C strings, and bytes that are not UTF-8 have several readings
		 * downstream.
		 */
		if (memchr(seg.ptr, '\0', seg.len) || !utf8_valid(seg))
			return err_set(e, ERR_MALFORMED,
				       "the path holds a NUL byte or is not valid UTF-8");
		out += seg.len;
		ret->segments[ret->count++] = seg;
	}
	return 0;
}

struct router *router_new(struct err *e)
{
	struct router *r = calloc(1, sizeof(*r));

	if (!r)
		err_set(e, ERR_NOMEM, "out of memory");
	return r;
}

void router_free(struct router *r)
{
	if (!r)
		return;
	for (size_t i = 0; i < r->row_count; i++)
		free(r->rows[i].segments);
	free(r->rows);
	free(r);
}

/* One piece of a pattern. -1 if it is not well formed. */
static int compile_segment(struct str piece, bool last, struct segment *ret)
{
	*ret = (struct segment){ SEGMENT_LITERAL, piece };
	if (piece.ptr[0] != '{')
		return memchr(piece.ptr, '{', piece.len) || memchr(piece.ptr, '}', piece.len) ? -1
											      : 0;
	if (piece.len < 3 || piece.ptr[piece.len - 1] != '}')
		return -1;
	ret->kind = SEGMENT_PARAM;
	ret->text = (struct str){ piece.ptr + 1, piece.len - 2 };
	if (ret->text.ptr[ret->text.len - 1] != '*')
		return 0;
	ret->kind = SEGMENT_REST;
	ret->text.len--;
	return last && ret->text.len ? 0 : -1;
}

static int compile(struct row *row, const char *pattern, struct err *e)
{
	size_t slashes = 0;
	size_t params = 0;
	struct str left = str_from(pattern);

	if (!left.len || left.ptr[0] != '/')
		return err_set(e, ERR_INTERNAL, "route pattern %s does not start with /", pattern);
	for (size_t i = 0; i < left.len; i++)
		slashes += left.ptr[i] == '/';
	row->segments = calloc(slashes, sizeof(*row->segments));
	if (!row->segments)
		return err_set(e, ERR_NOMEM, "out of memory");
	while (left.len) {
		left.ptr++;
		left.len--;
		const char *slash = memchr(left.ptr, '/', left.len);
		struct str piece = { left.ptr, slash ? (size_t)(slash - left.ptr) : left.len };

		left.ptr += piece.len;
		left.len -= piece.len;
		if (!piece.len)
			continue;
		struct segment *seg = &row->segments[row->segment_count++];

		if (compile_segment(piece, !left.len, seg) < 0)
			return err_set(e, ERR_INTERNAL, "route pattern %s is malformed", pattern);
		params += seg->kind != SEGMENT_LITERAL;
	}
	if (params > ROUTER_PARAMS_MAX)
		return err_set(e, ERR_INTERNAL, "route pattern %s has too many parameters",
			       pattern);
	return 0;
}

int router_add(struct router *r, const struct http_route *routes, size_t count, void *ctx,
	       struct err *e)
{
	struct row *rows = reallocarray(r->rows, r->row_count + count, sizeof(*rows));

	if (!rows && count)
		return err_set(e, ERR_NOMEM, "out of memory");
	if (!rows)
		return 0;
	r->rows = rows;
	for (size_t i = 0; i < count; i++) {
		struct row *row = &r->rows[r->row_count];

		*row = (struct row){ &routes[i], ctx, str_from(routes[i].method), NULL, 0 };
		if (compile(row, routes[i].pattern, e) < 0) {
			free(row->segments);
			return -1;
		}
		r->row_count++;
	}
	return 0;
}

static bool row_matches(const struct row *row, const struct router_path *path)
{
	size_t n = row->segment_count;
	bool rest = n && row->segments[n - 1].kind == SEGMENT_REST;

	if (rest ? path->count < n : path->count != n)
		return false;
	for (size_t i = 0; i < n; i++)
		if (row->segments[i].kind == SEGMENT_LITERAL &&
		    !str_eq_nocase(row->segments[i].text, path->segments[i]))
			return false;
	return true;
}

static bool method_matches(struct str row, struct str method)
{
	return str_eq(row, STR("*")) || str_eq(row, method) ||
	       (str_eq(method, STR("HEAD")) && str_eq(row, STR("GET")));
}

static void take_params(const struct row *row, const struct router_path *path,
			struct router_match *ret)
{
	ret->route = row->route;
	ret->ctx = row->ctx;
	ret->param_count = 0;
	for (size_t i = 0; i < row->segment_count; i++) {
		const struct segment *seg = &row->segments[i];
		struct str value = path->segments[i];

		if (seg->kind == SEGMENT_LITERAL)
			continue;
		if (seg->kind == SEGMENT_REST) {
			struct str end = path->segments[path->count - 1];

			value.len = (size_t)(end.ptr + end.len - value.ptr);
		}
		ret->params[ret->param_count++] = (struct router_param){ seg->text, value };
	}
}

enum router_result router_match(const struct router *r, struct str method,
				const struct router_path *path, struct router_match *ret)
{
	bool other_method = false;

	for (size_t i = 0; i < r->row_count; i++) {
		const struct row *row = &r->rows[i];

		if (!row_matches(row, path))
			continue;
		if (method_matches(row->method, method)) {
			take_params(row, path, ret);
			return ROUTER_FOUND;
		}
		other_method = true;
	}
	return other_method ? ROUTER_METHOD : ROUTER_NOT_FOUND;
}

/* Appends method unless the list has it already; methods too long for the list are left out. */
static size_t allow_add(char *buf, size_t len, struct str method)
{
	struct str left = { buf, len };

	while (left.len) {
		const char *comma = memchr(left.ptr, ',', left.len);
		size_t n = comma ? (size_t)(comma - left.ptr) : left.len;

		if (str_eq((struct str){ left.ptr, n }, method))
			return len;
		if (!comma)
			break;
		left.ptr += n + 2;
		left.len -= n + 2;
	}
	if (len + 2 + method.len >= ROUTER_ALLOW_MAX)
		return len;
	if (len) {
		buf[len++] = ',';
		buf[len++] = ' ';
	}
	memcpy(buf + len, method.ptr, method.len);
	buf[len + method.len] = '\0';
	return len + method.len;
}

const char *router_allow(const struct router *r, const struct router_path *path,
			 char buf[static ROUTER_ALLOW_MAX])
{
	size_t len = 0;

	buf[0] = '\0';
	for (size_t i = 0; i < r->row_count; i++) {
		const struct row *row = &r->rows[i];

		if (!row_matches(row, path))
			continue;
		len = allow_add(buf, len, row->method);
		if (str_eq(row->method, STR("GET")))
			len = allow_add(buf, len, STR("HEAD"));
	}
	return buf;
}

/* Compares a raw, possibly percent-encoded key without decoding it to memory. */
static bool key_eq(struct str raw, struct str key)
{
	size_t k = 0;

	for (size_t i = 0; i < raw.len; i++, k++) {
		char c[3];
		size_t n = raw.len - i > 2 && raw.ptr[i] == '%' ? 3 : 1;
		size_t got = percent_decode((struct str){ raw.ptr + i, n }, c);

		if (n == 3 && got == 1)
			i += 2;
		if (k >= key.len ||
		    !str_eq_nocase((struct str){ c, 1 }, (struct str){ key.ptr + k, 1 }))
			return false;
	}
	return k == key.len;
}

bool query_get(struct str query, struct str key, struct str *ret_raw)
{
	while (query.len) {
		const char *amp = memchr(query.ptr, '&', query.len);
		struct str pair = { query.ptr, amp ? (size_t)(amp - query.ptr) : query.len };
		const char *eq = memchr(pair.ptr, '=', pair.len);
		struct str name = { pair.ptr, eq ? (size_t)(eq - pair.ptr) : pair.len };

		if (key_eq(name, key)) {
			size_t skip = eq ? name.len + 1 : name.len;

			*ret_raw = (struct str){ pair.ptr + skip, pair.len - skip };
			return true;
		}
		size_t skip = amp ? pair.len + 1 : pair.len;

		query.ptr += skip;
		query.len -= skip;
	}
	return false;
}
