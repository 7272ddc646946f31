/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"
#include "base/own.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static char out[AGENT_PATH_MAX + 1];

static void assert_path(struct str directory, struct str name, const char *want)
{
	struct err e = ERR_INIT;

	memset(out, 'X', sizeof(out));
	if (files_path(directory, name, out, &e) < 0)
		fail_msg("'%.*s' + '%.*s': %s", STR_ARG(directory), STR_ARG(name), e.msg);
	assert_string_equal(out, want);
	assert_int_equal(e.code, ERR_NONE);
}

static void assert_refused(struct str directory, struct str name)
{
	struct err e = ERR_INIT;

	if (files_path(directory, name, out, &e) != -1)
		fail_msg("'%.*s' + '%.*s' became '%s'", STR_ARG(directory), STR_ARG(name), out);
	assert_int_equal(e.code, ERR_INVALID);
	assert_true(e.msg[0] && utf8_valid(str_from(e.msg)));
}

static void test_names(void **state)
{
	static const char *const rows[][3] = {
		{ "", "a.txt", "a.txt" },
		{ "", "", "" },
		{ "dir", "", "dir" },
		{ "dir", "a", "dir/a" },
		{ "dir/", "a", "dir/a" },
		{ "/dir//sub/", "a", "dir/sub/a" },
		{ "", "dir//a/", "dir/a" },
		{ "/", "a", "a" },
		{ "/mnt/data", "a", "a" },
		{ "/mnt/data/", "a", "a" },
		{ "/mnt/data/dir", "a", "dir/a" },
		{ "/data/dir", "a", "dir/a" },
		{ "", "/mnt/data/a", "a" },
		{ "", "/data/a", "a" },
		{ "", "/a", "a" },
		/* An absolute name says all; the directory is not put in twice. */
		{ "dir", "/mnt/data/dir/a", "dir/a" },
		{ "dir", "/mnt/data/a", "a" },
		/* The root is a prefix of whole parts, once. */
		{ "", "/mnt/database/a", "mnt/database/a" },
		{ "", "/database/a", "database/a" },
		{ "", "mnt/data/a", "mnt/data/a" },
		{ "", "/mnt/data/mnt/data/a", "mnt/data/a" },
		{ "", "/mnt/data", "" },
		{ "", "/mnt", "mnt" },
		{ "", "...", "..." },
		{ "", "..a", "..a" },
		{ "", ".hidden", ".hidden" },
		{ "", "a..b", "a..b" },
		{ "", "two words & more;'\"$(x)", "two words & more;'\"$(x)" },
		{ "", "%2e%2e", "%2e%2e" }, /* decoded once, elsewhere */
		{ "\xc3\xa9t\xc3\xa9", "\xf0\x9f\x98\x80.png",
		  "\xc3\xa9t\xc3\xa9/\xf0\x9f\x98\x80.png" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		assert_path(str_from(rows[i][0]), str_from(rows[i][1]), rows[i][2]);
}

static void test_hostile(void **state)
{
	static const char *const rows[] = {
		".",
		"..",
		"../a",
		"a/..",
		"a/../b",
		"a/./b",
		"/..",
		"/mnt/data/..",
		"/mnt/data/../etc/passwd",
		"/data/..",
		"//..//",
		"a\\b",
		"..\\a",
		"C:\\a",
		"a\nb",
		"a\x7f",
		"\x1b[2J",
		"a\tb",
		"\x80",
		"a\xff",
		"\xc0\xae\xc0\xae/a", /* overlong dots */
		"\xed\xa0\x80",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_refused(STR(""), str_from(rows[i]));
		assert_refused(str_from(rows[i]), STR("a"));
		assert_refused(STR("dir"), str_from(rows[i]));
	}
	assert_refused(STR(""), (struct str){ "a\0b", 3 });
	assert_refused((struct str){ "\0", 1 }, STR("a"));
	/* A part of UTF-8 on each side of a slash is no character. */
	assert_refused(STR(""), STR("a\xc3/\xa9"));
}

static void test_limits(void **state)
{
	static char text[AGENT_PATH_MAX + 10];
	struct err e = ERR_INIT;

	(void)state;
	memset(text, 'n', sizeof(text));
	assert_int_equal(files_path(STR(""), (struct str){ text, 255 }, out, &e), 0);
	assert_int_equal(strlen(out), 255);
	assert_refused(STR(""), (struct str){ text, 256 });
	assert_refused((struct str){ text, 256 }, STR("a"));
	/* Parts of 199 bytes and a slash, 20 of them, and a rest. */
	for (size_t i = 199; i < 4000; i += 200)
		text[i] = '/';
	for (size_t len = AGENT_PATH_MAX - 20; len < sizeof(text); len++) {
		e = ERR_INIT;
		memset(out, 'X', sizeof(out));
		int rc = files_path(STR(""), (struct str){ text, len }, out, &e);

		/* It fits with its NUL or is refused; never cut. */
		if (rc == 0)
			assert_int_equal(strlen(out), len);
		else
			assert_int_equal(e.code, ERR_INVALID);
		if (len <= AGENT_PATH_MAX - 2)
			assert_int_equal(rc, 0);
		if (len > AGENT_PATH_MAX)
			assert_int_equal(rc, -1);
		int two = files_path((struct str){ text, 2000 },
				     (struct str){ text + 2000, len - 2000 }, out, &e);

		assert_int_equal(two, rc);
	}
}

static void test_content_type(void **state)
{
	(void)state;
	assert_string_equal(files_content_type(STR("a.PNG")), "image/png");
	assert_string_equal(files_content_type(STR("a.tar.gz")), "application/gzip");
	assert_string_equal(files_content_type(STR(".png")), "application/octet-stream");
	assert_string_equal(files_content_type(STR("png")), "application/octet-stream");
	assert_string_equal(files_content_type(STR("a.png ")), "application/octet-stream");
	assert_string_equal(files_content_type(STR("")), "application/octet-stream");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_hostile),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_content_type),
	};

	return cmocka_run_group_tests_name("files_path", tests, NULL, NULL);
}
