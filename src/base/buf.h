/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * buf: a growable byte buffer with a hard maximum, so that no unbounded buffer can be written by
 * accident.
 *
 * `buf_init(&b, max)` embeds, `buf_done` frees. After the first failed append (maximum reached, or
 * out of memory) the buffer is `failed` and ignores further appends; check once at the end with
 * buf_ok(). Contents are always followed by a NUL that does not count.
 */

#include "base/str.h"

struct buf {
	char *ptr;
	size_t len;
	size_t cap;
	size_t max;
	bool failed;
};

void buf_init(struct buf *b, size_t max);
void buf_done(struct buf *b);
/** buf_clear: forgets the contents, keeps the memory, clears `failed`. */
void buf_clear(struct buf *b);
/** buf_reserve: room for n more bytes at b->ptr + b->len; false at the maximum. */
bool buf_reserve(struct buf *b, size_t n);
bool buf_add(struct buf *b, const void *data, size_t len);
bool buf_add_str(struct buf *b, struct str s);
bool buf_addf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** buf_add_utf8: as valid UTF-8: each byte that belongs to no character becomes U+FFFD. */
bool buf_add_utf8(struct buf *b, struct str s);
/** buf_consume: drops the first n bytes. */
void buf_consume(struct buf *b, size_t n);
static inline bool buf_ok(const struct buf *b)
{
	return !b->failed;
}
static inline struct str buf_str(const struct buf *b)
{
	return (struct str){ b->ptr ? b->ptr : "", b->len };
}
/**
 * buf_take: hands over the NUL-terminated contents (caller frees); the buffer is empty again. NULL
 * after a failed append: what is left out would make another text of it.
 */
char *buf_take(struct buf *b);
