/* SPDX-License-Identifier: Apache-2.0 */
#include "api/json_out.h"

#include "base/clock.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

/* Whether one of eight bytes is below 0x20, a quote or a backslash; sometimes yes where it is no.
 */
static bool needs_escape(uint64_t word)
{
	const uint64_t each = 0x0101010101010101;
	uint64_t quote = word ^ each * '"';
	uint64_t backslash = word ^ each * '\\';

	return (((word - each * 0x20) & ~word) | ((quote - each) & ~quote) |
		((backslash - each) & ~backslash)) &
	       each * 0x80;
}

static size_t plain_run(struct str s)
{
	size_t i = 0;
	uint64_t word;

	for (; s.len - i >= sizeof(word); i += sizeof(word)) {
		memcpy(&word, s.ptr + i, sizeof(word));
		if (needs_escape(word))
			break;
	}
	while (i < s.len && (unsigned char)s.ptr[i] >= 0x20 && s.ptr[i] != '"' && s.ptr[i] != '\\')
		i++;
	return i;
}

/* Writes at most six bytes for each of the n at p; returns how many. */
static size_t escape(const char *p, size_t n, char *out)
{
	static const char hex[] = "0123456789abcdef";
	char *at = out;

	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)p[i];

		if (c >= 0x20) {
			if (c == '"' || c == '\\')
				*at++ = '\\';
			*at++ = (char)c;
			continue;
		}
		*at++ = '\\';
		if (c == '\n' || c == '\t' || c == '\r') {
			*at++ = c == '\n' ? 'n' : c == '\t' ? 't' : 'r';
			continue;
		}
		*at++ = 'u';
		*at++ = '0';
		*at++ = '0';
		*at++ = hex[c >> 4];
		*at++ = hex[c & 15];
	}
	return (size_t)(at - out);
}

/* SECURITY: code in a session chooses megabytes of this text, and all callers share one thread: no
 * character may cost more than some nanoseconds. */
void json_str(struct buf *b, struct str s)
{
	char piece[64 * 6];

	buf_add(b, "\"", 1);
	while (s.len) {
		size_t plain = plain_run(s);
		size_t rest = s.len - plain < 64 ? s.len - plain : 64;

		buf_add(b, s.ptr, plain);
		buf_add(b, piece, escape(s.ptr + plain, rest, piece));
		s.ptr += plain + rest;
		s.len -= plain + rest;
	}
	buf_add(b, "\"", 1);
}

void json_item(struct buf *b)
{
	if (b->len && b->ptr[b->len - 1] != '[' && b->ptr[b->len - 1] != '{')
		buf_add(b, ",", 1);
}

void json_key(struct buf *b, const char *name)
{
	json_item(b);
	buf_addf(b, "\"%s\":", name);
}

void json_key_str(struct buf *b, const char *name, const char *value)
{
	json_key(b, name);
	json_str(b, str_from(value));
}

void json_key_text(struct buf *b, const char *name, struct str value)
{
	json_key(b, name);
	json_str(b, value);
}

void json_key_int(struct buf *b, const char *name, int64_t value)
{
	json_key(b, name);
	buf_addf(b, "%" PRId64, value);
}

void json_key_time(struct buf *b, const char *name, int64_t wall_us)
{
	char text[CLOCK_TEXT_SIZE];

	json_key_str(b, name, clock_format(wall_us, text));
}
