/* SPDX-License-Identifier: Apache-2.0 */
#include "api/json_out.h"

#include "base/clock.h"

#include <inttypes.h>

void json_str(struct buf *b, struct str s)
{
	buf_add(b, "\"", 1);
	for (size_t from = 0, i = 0;; i++) {
		unsigned char c = i < s.len ? (unsigned char)s.ptr[i] : 0;

		if (i < s.len && c >= 0x20 && c != '"' && c != '\\')
			continue;
		buf_add(b, s.ptr + from, i - from);
		if (i == s.len)
			break;
		from = i + 1;
		if (c == '"' || c == '\\')
			buf_addf(b, "\\%c", c);
		else if (c == '\n')
			buf_add(b, "\\n", 2);
		else if (c == '\t')
			buf_add(b, "\\t", 2);
		else if (c == '\r')
			buf_add(b, "\\r", 2);
		else
			buf_addf(b, "\\u%04x", c);
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
