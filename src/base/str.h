/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * str: views of bytes that somebody else owns, and checks on them.
 *
 * A `struct str` never owns and is not NUL-terminated. Helpers that produce C strings say so.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct str {
	const char *ptr;
	size_t len;
};

#define STR(lit) ((struct str){ (lit), sizeof(lit) - 1 })
/** STR_FMT/STR_ARG: printf("%.*s") of a view. */
#define STR_ARG(s) (int)(s).len, (s).ptr

static inline struct str str_from(const char *z)
{
	return (struct str){ z, z ? strlen(z) : 0 };
}

static inline bool str_eq(struct str a, struct str b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0);
}

bool str_eq_nocase(struct str a, struct str b);
bool str_starts_nocase(struct str s, struct str prefix);
/** str_dup: heap copy with NUL appended; NULL when memory is out. */
char *str_dup(struct str s);
/** str_copy: copies into buf with NUL; false (and buf empty) if it does not fit or holds a NUL. */
bool str_copy(struct str s, char *buf, size_t buf_size);
/** str_trim: drops spaces and tabs at both ends. */
struct str str_trim(struct str s);
/** str_to_u64: whole view is a decimal number <= max. */
bool str_to_u64(struct str s, uint64_t max, uint64_t *ret);
/** str_to_bool: true, false, 1 or 0, in any case. */
bool str_to_bool(struct str s, bool *ret);
/** str_parse_size: "512Mi", "1.5Gi", "2G", "1024" -> bytes. */
bool str_parse_size(struct str s, uint64_t *ret_bytes);

/** utf8_valid: whole view is well-formed UTF-8 (no surrogates, no overlong forms). */
bool utf8_valid(struct str s);
/** utf8_run: how many bytes at its beginning are. */
size_t utf8_run(struct str s);
/** utf8_cut: the longest prefix of at most max bytes that ends on a character boundary. */
size_t utf8_cut(struct str s, size_t max);
/** utf8_unfinished: how many bytes at its end, at most three, begin a character that more bytes may
 * complete. */
size_t utf8_unfinished(struct str s);

/** asprintf that returns the string, or NULL when memory is out. */
char *str_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/** A 64-bit keyed hash (SipHash-1-3) with a per-process random key: safe for keys that callers
 * choose. */
uint64_t hash_bytes(const void *data, size_t len);
