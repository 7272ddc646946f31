/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void buf_init(struct buf *b, size_t max)
{
	*b = (struct buf){ .max = max };
}

void buf_done(struct buf *b)
{
	free(b->ptr);
	*b = (struct buf){ .max = b->max };
}

void buf_clear(struct buf *b)
{
	b->len = 0;
	b->failed = false;
	if (b->ptr)
		b->ptr[0] = '\0';
}

bool buf_reserve(struct buf *b, size_t n)
{
	if (b->failed || n > b->max || b->len > b->max - n) {
		b->failed = true;
		return false;
	}
	size_t want = b->len + n + 1;

	if (want <= b->cap)
		return true;
	size_t cap = b->cap ? b->cap : 256;

	while (cap < want)
		cap *= 2;
	if (cap > b->max + 1)
		cap = b->max + 1;
	char *p = realloc(b->ptr, cap);

	if (!p) {
		b->failed = true;
		return false;
	}
	b->ptr = p;
	b->cap = cap;
	return true;
}

bool buf_add(struct buf *b, const void *data, size_t len)
{
	if (!buf_reserve(b, len))
		return false;
	assert(b->ptr);
	if (len)
		memcpy(b->ptr + b->len, data, len);
	b->len += len;
	b->ptr[b->len] = '\0';
	return true;
}

bool buf_add_str(struct buf *b, struct str s)
{
	return buf_add(b, s.ptr, s.len);
}

bool buf_addf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	char *text = NULL;

	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);

	va_end(ap);
	if (n < 0) {
		b->failed = true;
		return false;
	}
	bool ok = buf_add(b, text, (size_t)n);

	free(text);
	return ok;
}

/* How many bytes at the beginning belong to no character; at most max. */
static size_t bad_run(struct str s, size_t max)
{
	size_t n = 0;

	while (n < max && n < s.len &&
	       !utf8_run((struct str){ s.ptr + n, s.len - n < 4 ? s.len - n : 4 }))
		n++;
	return n;
}

bool buf_add_utf8(struct buf *b, struct str s)
{
	static const char marks[] = "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
				    "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd";

	for (;;) {
		size_t good = utf8_run(s);

		buf_add(b, s.ptr, good);
		if (good == s.len)
			return buf_ok(b);
		s.ptr += good;
		s.len -= good;
		size_t bad = bad_run(s, sizeof(marks) / 3);

		buf_add(b, marks, bad * 3);
		s.ptr += bad;
		s.len -= bad;
	}
}

void buf_consume(struct buf *b, size_t n)
{
	if (n >= b->len) {
		buf_clear(b);
		return;
	}
	memmove(b->ptr, b->ptr + n, b->len - n);
	b->len -= n;
	b->ptr[b->len] = '\0';
}

char *buf_take(struct buf *b)
{
	if (b->failed || (!b->ptr && !buf_add(b, "", 0))) {
		buf_done(b);
		return NULL;
	}
	char *p = b->ptr;

	*b = (struct buf){ .max = b->max };
	return p;
}
