/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * wire: bounds-checked reading and writing of little-endian fields, shared by all protocols of our
 * own.
 *
 * A reader that runs past the end (or meets a length over its limit) becomes `bad` and yields zeros
 * from then on; check once at the end with wire_ok(). A writer appends to a struct buf.
 * Blobs are u32 length + bytes.
 */

#include "base/buf.h"

struct wire_reader {
	const unsigned char *ptr;
	size_t left;
	bool bad;
};

static inline struct wire_reader wire_reader(const void *data, size_t len)
{
	return (struct wire_reader){ data, len, false };
}

uint8_t wire_get_u8(struct wire_reader *r);
uint16_t wire_get_u16(struct wire_reader *r);
uint32_t wire_get_u32(struct wire_reader *r);
uint64_t wire_get_u64(struct wire_reader *r);
/** wire_get_blob: a view into the reader's bytes; bad if longer than max. */
struct str wire_get_blob(struct wire_reader *r, size_t max);
/** wire_get_rest: everything that is left. */
struct str wire_get_rest(struct wire_reader *r);
/** wire_ok: nothing was missing and nothing is left over. */
static inline bool wire_ok(const struct wire_reader *r)
{
	return !r->bad && r->left == 0;
}

bool wire_put_u8(struct buf *b, uint8_t v);
bool wire_put_u16(struct buf *b, uint16_t v);
bool wire_put_u32(struct buf *b, uint32_t v);
bool wire_put_u64(struct buf *b, uint64_t v);
bool wire_put_blob(struct buf *b, struct str s);
