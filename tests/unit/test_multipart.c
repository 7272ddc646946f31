/* SPDX-License-Identifier: Apache-2.0 */
#include "http/multipart.h"

#include "base/buf.h"
#include "base/own.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>

#include <cmocka.h>

/* Events as text: "[name|filename|type]data." for each part; "-" for a filename that is absent. */
struct record {
	struct buf text;
	size_t bite; /* most bytes data takes at once */
	bool greedy_turn;
};

static int on_part(void *arg, const struct multipart_part *part, struct err *e)
{
	struct record *r = arg;

	(void)e;
	buf_addf(&r->text, "[%.*s|%.*s|%.*s]", STR_ARG(part->name),
		 part->filename.ptr ? (int)part->filename.len : 1,
		 part->filename.ptr ? part->filename.ptr : "-", STR_ARG(part->content_type));
	return 0;
}

static ssize_t on_data(void *arg, const char *data, size_t len, struct err *e)
{
	struct record *r = arg;

	(void)e;
	if (r->bite) {
		/* Every other call takes nothing at all. */
		r->greedy_turn = !r->greedy_turn;
		if (!r->greedy_turn)
			return 0;
		if (len > r->bite)
			len = r->bite;
	}
	buf_add(&r->text, data, len);
	return (ssize_t)len;
}

static int on_part_end(void *arg, struct err *e)
{
	(void)e;
	return buf_add(&((struct record *)arg)->text, ".", 1) ? 0 : -1;
}

static const struct multipart_events events = { on_part, on_data, on_part_end };

/* Feeds body in pieces; returns the events, ending in "!" if it was refused. */
static char *run(const char *type, struct str body, size_t piece, size_t bite)
{
	struct record r = { .bite = bite };
	struct err e = ERR_INIT;
	size_t at = 0;
	bool bad = false;

	buf_init(&r.text, 1 << 20);
	struct multipart *m = multipart_new(str_from(type), &events, &r, &e);

	bad = !m;
	while (!bad && at < body.len) {
		size_t n = body.len - at < piece ? body.len - at : piece;
		ssize_t took = multipart_feed(m, body.ptr + at, n, &e);

		if (took < 0)
			bad = true;
		else
			at += (size_t)took;
	}
	if (bad || multipart_finish(m, &e) < 0)
		buf_add(&r.text, "!", 1);
	multipart_free(m);
	return buf_take(&r.text);
}

/* The result must not depend on how the body is cut or consumed. */
static void expect_n(const char *type, struct str body, const char *want)
{
	static const size_t pieces[] = { 1 << 20, 1, 2, 3, 7, 64 };
	static const size_t bites[] = { 0, 1, 5 };

	for (size_t i = 0; i < ARRAY_LEN(pieces); i++)
		for (size_t k = 0; k < ARRAY_LEN(bites); k++) {
			OWNED_MEM char *got = run(type, body, pieces[i], bites[k]);

			assert_string_equal(got, want);
		}
}

#define expect(type, body, want) expect_n(type, STR(body), want)
#define TYPE                     "multipart/form-data; boundary=B"
#define FILE_HEAD                "Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n"

static void test_plain(void **state)
{
	(void)state;
	expect(TYPE, "--B\r\n" FILE_HEAD "Content-Type: text/plain\r\n\r\nhello\r\n--B--\r\n",
	       "[file|a.txt|text/plain]hello.");
	expect(TYPE,
	       "--B\r\nContent-Disposition: form-data; name=\"x\"\r\n\r\n1\r\n--B\r\n" FILE_HEAD
	       "\r\n2\r\n--B--",
	       "[x|-|]1.[file|a.txt|]2.");
	expect(TYPE, "--B--\r\n", "");
	expect(TYPE, "--B--", "");
}

static void test_boundary_forms(void **state)
{
	(void)state;
	expect("multipart/form-data; boundary=\"B\"", "--B\r\n" FILE_HEAD "\r\nx\r\n--B--",
	       "[file|a.txt|]x.");
	expect("Multipart/Form-Data;charset=utf-8; BOUNDARY = \"a b:'()\" ; x=y",
	       "--a b:'()\r\n" FILE_HEAD "\r\nx\r\n--a b:'()--", "[file|a.txt|]x.");
	/* blanks after the boundary, and line feeds alone */
	expect(TYPE, "--B \t\r\n" FILE_HEAD "\r\nx\r\n--B  \r\n" FILE_HEAD "\r\ny\r\n--B-- ",
	       "[file|a.txt|]x.[file|a.txt|]y.");
	expect(TYPE, "--B\n" FILE_HEAD "\r\nx\r\n--B--", "[file|a.txt|]x.");
	expect(TYPE, "--B\nContent-Disposition: form-data; name=n\n\nx\ny\n--B--\n", "[n|-|]x\ny.");
	/* preamble and epilogue */
	expect(TYPE, "This is MIME.\r\n\r\n--B\r\n" FILE_HEAD "\r\nx\r\n--B--\r\nbye\r\n--B\r\n",
	       "[file|a.txt|]x.");
}

static void test_sniffed(void **state)
{
	(void)state;
	expect("application/json", "--XyZ\r\n" FILE_HEAD "\r\nx\r\n--XyZ--", "[file|a.txt|]x.");
	expect("", "\r\n--XyZ\r\n" FILE_HEAD "\r\nx\r\n--XyZ--", "[file|a.txt|]x.");
	expect("multipart/form-data", "--XyZ\r\n" FILE_HEAD "\r\nx\r\n--XyZ--", "[file|a.txt|]x.");
	expect("multipart/form-data; boundary=other", "--XyZ\r\n" FILE_HEAD "\r\nx\r\n--XyZ--",
	       "[file|a.txt|]x.");
	expect("application/json", "{\"a\":1}\n", "!");
	expect("application/json", "{\"a\":1}", "!");
}

static void test_contents(void **state)
{
	(void)state;
	expect(TYPE, "--B\r\n" FILE_HEAD "\r\n\r\n--B--", "[file|a.txt|].");
	expect(TYPE, "--B\r\n" FILE_HEAD "\r\n--B--", "[file|a.txt|].");
	expect(TYPE, "--B\r\n\r\nx\r\n--B--", "[|-|]x.");
	expect(TYPE, "--B\r\n" FILE_HEAD "\r\n\r\n\r\n--B--", "[file|a.txt|]\r\n.");
	expect(TYPE, "--B\r\n" FILE_HEAD "\r\n\r\r\n--B--", "[file|a.txt|]\r.");
	/* near misses */
	expect(TYPE, "--B\r\n" FILE_HEAD "\r\na\r\n--\r\n--BB\r\n--B-x\r\n\r\n--A\r\n--B--",
	       "[file|a.txt|]a\r\n--\r\n--BB\r\n--B-x\r\n\r\n--A.");
	expect(TYPE, "--B\r\n" FILE_HEAD "\r\n--\r\n-\n\r\n-\r--B\r\n--B \rx\r\n--B--",
	       "[file|a.txt|]--\r\n-\n\r\n-\r--B\r\n--B \rx.");
	expect(TYPE, "--B\r\n" FILE_HEAD "\r\n--B--", "[file|a.txt|].");
}

static void test_headers(void **state)
{
	(void)state;
	expect(TYPE,
	       "--B\r\ncontent-type: a/b\r\nX: y\r\nCONTENT-DISPOSITION: form-data;filename=a b.txt ;"
	       "name=file\r\n\r\nx\r\n--B--",
	       "[file|a b.txt|a/b]x.");
	expect(TYPE,
	       "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"x\"; "
	       "filename*=UTF-8''na%C3%AFve%20%E2%82%AC.txt\r\n\r\n\r\n--B--",
	       "[f|na\xc3\xafve \xe2\x82\xac.txt|].");
	expect(TYPE,
	       "--B\r\nContent-Disposition: form-data; filename*=iso-8859-1'en'%e4; filename=x\r\n\r\n\r\n"
	       "--B--",
	       "[|\xc3\xa4|].");
	expect(TYPE,
	       "--B\r\nContent-Disposition: form-data; filename=x; filename*=utf-8''%ff\r\n\r\n\r\n--B--",
	       "[|x|].");
	expect(TYPE,
	       "--B\r\nContent-Disposition: form-data; name=\"f\";\r\n\tfilename=\"d\xc3\xa4.txt\"\r\n"
	       "\r\n\r\n--B--",
	       "[f|d\xc3\xa4.txt|].");
	expect(TYPE,
	       "--B\r\nContent-Disposition: form-data; filename=\"C:\\dir\\a\\\"b;c\\\\.txt\"\r\n\r\n\r\n"
	       "--B--",
	       "[|C:\\dir\\a\"b;c\\.txt|].");
	expect(TYPE,
	       "--B\r\nContent-Disposition: form-data; filename=\"\"; name=\"f\"\r\n\r\n\r\n--B--",
	       "[f||].");
	expect(TYPE, "--B\r\nContent-Disposition: form-data; filename=\"open\r\n\r\n\r\n--B--",
	       "[|open|].");
}

static void test_refused(void **state)
{
	(void)state;
	expect(TYPE, "", "!");
	expect(TYPE, "--B\r\n" FILE_HEAD "\r\nhello", "[file|a.txt|]hello!");
	expect(TYPE, "--B\r\n" FILE_HEAD, "!");
	expect(TYPE, "--B\r\n" FILE_HEAD "\r\nx\r\n--B", "[file|a.txt|]x!");
}

static void test_limits(void **state)
{
	char type[160];
	char body[400];
	struct buf b;

	(void)state;
	for (int n = MULTIPART_BOUNDARY_MAX; n <= MULTIPART_BOUNDARY_MAX + 1; n++) {
		snprintf(type, sizeof(type), "multipart/form-data; boundary=%0*d", n, 7);
		snprintf(body, sizeof(body), "--%0*d\r\n" FILE_HEAD "\r\nx\r\n--%0*d--", n, 7, n,
			 7);
		expect_n(type, str_from(body),
			 n > MULTIPART_BOUNDARY_MAX ? "!" : "[file|a.txt|]x.");
	}
	for (int parts = MULTIPART_PARTS_MAX; parts <= MULTIPART_PARTS_MAX + 1; parts++) {
		buf_init(&b, 1 << 20);
		for (int i = 0; i < parts; i++)
			buf_addf(&b, "--B\r\n\r\n\r\n");
		buf_addf(&b, "--B--");
		OWNED_MEM char *got = run(TYPE, buf_str(&b), 1000, 0);

		assert_int_equal(got[strlen(got) - 1], parts > MULTIPART_PARTS_MAX ? '!' : '.');
		buf_done(&b);
	}
	for (int over = 0; over <= 1; over++) {
		buf_init(&b, 1 << 20);
		buf_addf(&b, "--B\r\nX: ");
		while (b.len < 5 + MULTIPART_HEADERS_MAX - 4 + (size_t)over)
			buf_add(&b, "y", 1);
		buf_addf(&b, "\r\n\r\nz\r\n--B--");
		OWNED_MEM char *got = run(TYPE, buf_str(&b), 1000, 0);

		assert_string_equal(got, over ? "!" : "[|-|]z.");
		buf_done(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),   cmocka_unit_test(test_boundary_forms),
		cmocka_unit_test(test_sniffed), cmocka_unit_test(test_contents),
		cmocka_unit_test(test_headers), cmocka_unit_test(test_refused),
		cmocka_unit_test(test_limits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
