/* SPDX-License-Identifier: Apache-2.0 */
#include "http/multipart.h"

#include "base/buf.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

/*
 * Input: the Content-Type, a line feed, the body. The body is parsed twice, at once and in odd
 * pieces with a reluctant consumer; both must tell the same.
 */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct record {
	struct buf text;
	bool reluctant;
	unsigned calls;
};

static int on_part(void *arg, const struct multipart_part *part, struct err *e)
{
	struct record *r = arg;

	(void)e;
	buf_add(&r->text, "\1", 1);
	buf_add_str(&r->text, part->name);
	buf_add(&r->text, part->filename.ptr ? "\2" : "\3", 1);
	buf_add_str(&r->text, part->filename);
	buf_add_str(&r->text, part->content_type);
	return 0;
}

static ssize_t on_data(void *arg, const char *data, size_t len, struct err *e)
{
	struct record *r = arg;

	(void)e;
	r->calls++;
	if (r->reluctant)
		len = r->calls % 3 == 0 ? 0 : len - len / (1 + r->calls % 4);
	buf_add(&r->text, data, len);
	return (ssize_t)len;
}

static int on_part_end(void *arg, struct err *e)
{
	(void)e;
	buf_add(&((struct record *)arg)->text, "\4", 1);
	return 0;
}

static void parse(struct str type, struct str body, struct record *r)
{
	static const struct multipart_events events = { on_part, on_data, on_part_end };
	struct err e = ERR_INIT;
	struct multipart *m = multipart_new(type, &events, r, &e);
	ssize_t took = m ? 0 : -1;
	size_t at = 0;
	size_t idle = 0;

	for (unsigned i = 0; took >= 0 && at < body.len; i++) {
		size_t n = body.len - at;

		if (r->reluctant && n > 1 + i % 5)
			n = 1 + i % 5;
		took = multipart_feed(m, body.ptr + at, n, &e);
		assert(took <= (ssize_t)n);
		at += took > 0 ? (size_t)took : 0;
		idle = took > 0 ? 0 : idle + 1;
		assert(idle < 1000); /* progress, whatever the consumer does */
	}
	if (took < 0 || multipart_finish(m, &e) < 0)
		buf_add(&r->text, "\5", 1);
	multipart_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	const char *lf = size ? memchr(text, '\n', size) : NULL;

	if (!lf)
		return 0;
	struct str type = { text, (size_t)(lf - text) };
	struct str body = { lf + 1, size - type.len - 1 };
	struct record whole = { .reluctant = false };
	struct record pieces = { .reluctant = true };

	buf_init(&whole.text, 8 * size + 4096);
	buf_init(&pieces.text, 8 * size + 4096);
	parse(type, body, &whole);
	parse(type, body, &pieces);
	/* A consumer that was refused in the middle may have been given more or less before that.
	 */
	bool refused = whole.text.len && whole.text.ptr[whole.text.len - 1] == '\5';

	if (!refused && !str_eq(buf_str(&whole.text), buf_str(&pieces.text)))
		abort();
	buf_done(&whole.text);
	buf_done(&pieces.text);
	return 0;
}
