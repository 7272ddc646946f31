/* SPDX-License-Identifier: Apache-2.0 */
#include "base/wire.h"

static uint64_t get(struct wire_reader *r, size_t width)
{
	uint64_t v = 0;

	if (r->bad || r->left < width) {
		r->bad = true;
		return 0;
	}
	for (size_t i = 0; i < width; i++)
		v |= (uint64_t)r->ptr[i] << (8 * i);
	r->ptr += width;
	r->left -= width;
	return v;
}

uint8_t wire_get_u8(struct wire_reader *r)
{
	return (uint8_t)get(r, 1);
}

uint16_t wire_get_u16(struct wire_reader *r)
{
	return (uint16_t)get(r, 2);
}

uint32_t wire_get_u32(struct wire_reader *r)
{
	return (uint32_t)get(r, 4);
}

uint64_t wire_get_u64(struct wire_reader *r)
{
	return get(r, 8);
}

struct str wire_get_blob(struct wire_reader *r, size_t max)
{
	uint32_t len = wire_get_u32(r);

	if (r->bad || len > max || len > r->left) {
		r->bad = true;
		return (struct str){ "", 0 };
	}
	struct str s = { (const char *)r->ptr, len };

	r->ptr += len;
	r->left -= len;
	return s;
}

struct str wire_get_rest(struct wire_reader *r)
{
	struct str s = { (const char *)r->ptr, r->bad ? 0 : r->left };

	r->ptr += s.len;
	r->left -= s.len;
	return s;
}

static bool put(struct buf *b, uint64_t v, size_t width)
{
	unsigned char bytes[8];

	for (size_t i = 0; i < width; i++)
		bytes[i] = (unsigned char)(v >> (8 * i));
	return buf_add(b, bytes, width);
}

bool wire_put_u8(struct buf *b, uint8_t v)
{
	return put(b, v, 1);
}

bool wire_put_u16(struct buf *b, uint16_t v)
{
	return put(b, v, 2);
}

bool wire_put_u32(struct buf *b, uint32_t v)
{
	return put(b, v, 4);
}

bool wire_put_u64(struct buf *b, uint64_t v)
{
	return put(b, v, 8);
}

bool wire_put_blob(struct buf *b, struct str s)
{
	if (s.len > UINT32_MAX) {
		b->failed = true;
		return false;
	}
	return wire_put_u32(b, (uint32_t)s.len) && buf_add_str(b, s);
}
