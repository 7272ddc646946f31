/* SPDX-License-Identifier: Apache-2.0 */
#include "api/json_out.h"
#include "base/own.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <jansson.h>

static void assert_str(struct str s, const char *want)
{
	struct buf b;

	buf_init(&b, 10000);
	json_str(&b, s);
	assert_true(buf_ok(&b));
	assert_string_equal(b.ptr, want);
	buf_done(&b);
}

static void test_escapes(void **state)
{
	(void)state;
	assert_str(STR(""), "\"\"");
	assert_str((struct str){ NULL, 0 }, "\"\"");
	assert_str(STR("plain \x7f \xc3\xa9 \xf0\x9f\x98\x80 /"),
		   "\"plain \x7f \xc3\xa9 \xf0\x9f\x98\x80 /\"");
	assert_str(STR("\""), "\"\\\"\"");
	assert_str(STR("\\"), "\"\\\\\"");
	assert_str(STR("a\nb\tc\rd"), "\"a\\nb\\tc\\rd\"");
	assert_str(STR("\x01\x1f\b\f\x1b[0m"), "\"\\u0001\\u001f\\u0008\\u000c\\u001b[0m\"");
	assert_str((struct str){ "a\0b\0", 4 }, "\"a\\u0000b\\u0000\"");
	assert_str(STR("\"end\\"), "\"\\\"end\\\\\"");
	assert_str(STR("%s%n"), "\"%s%n\"");
}

/* Another reader gets every character back. */
static void test_all_characters(void **state)
{
	char all[128 + 6];
	struct buf b;

	(void)state;
	for (int i = 0; i < 128; i++)
		all[i] = (char)i;
	memcpy(all + 128, "\xe2\x80\xa8\xc2\x85", 6); /* U+2028, U+0085 */
	buf_init(&b, 10000);
	json_str(&b, (struct str){ all, 133 });
	json_t *v = json_loadb(b.ptr, b.len, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

	assert_non_null(v);
	assert_int_equal(json_string_length(v), 133);
	assert_memory_equal(json_string_value(v), all, 133);
	json_decref(v);
	buf_done(&b);
}

/* The text is read in words: a character at any place in one, after and before any others. */
static void test_every_place(void **state)
{
	static const char special[] = { '"',    '\\', '\n', '\x01', '\x1f', '\0',
					'\x20', '!',  '#',  '[',    ']' };
	char text[40];

	(void)state;
	for (size_t len = 1; len < sizeof(text); len++)
		for (size_t at = 0; at < len; at++)
			for (size_t i = 0; i < sizeof(special); i++) {
				struct buf b;

				memset(text, i % 2 ? 'x' : 0x7f, len);
				text[at] = special[i];
				text[len - 1 - at] = special[(i + 1) % sizeof(special)];
				buf_init(&b, 10000);
				json_str(&b, (struct str){ text, len });
				json_t *v = json_loadb(b.ptr, b.len,
						       JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);

				assert_non_null(v);
				assert_int_equal(json_string_length(v), len);
				assert_memory_equal(json_string_value(v), text, len);
				json_decref(v);
				buf_done(&b);
			}
}

static void test_commas(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	buf_add(&b, "{", 1);
	json_key(&b, "list");
	buf_add(&b, "[", 1);
	json_item(&b);
	json_str(&b, STR("["));
	json_item(&b);
	json_str(&b, STR("{"));
	json_item(&b);
	buf_add(&b, "{", 1);
	json_key_int(&b, "min", INT64_MIN);
	json_key_int(&b, "max", INT64_MAX);
	buf_add(&b, "}", 1);
	buf_add(&b, "]", 1);
	json_key_str(&b, "text", "a\"b");
	json_key_text(&b, "nul", (struct str){ "a\0", 2 });
	json_key_time(&b, "when", 1795293524123456);
	buf_add(&b, "}", 1);
	assert_string_equal(b.ptr, "{\"list\":[\"[\",\"{\",{\"min\":-9223372036854775808,"
				   "\"max\":9223372036854775807}],\"text\":\"a\\\"b\","
				   "\"nul\":\"a\\u0000\","
				   "\"when\":\"2026-11-21T20:38:44.123456Z\"}");
	buf_done(&b);
	json_item(&b); /* the very first thing: no comma */
	assert_int_equal(b.len, 0);
	buf_done(&b);
}

/* A buffer that is full fails once and for all: no reply with a hole in it. */
static void test_full(void **state)
{
	(void)state;
	for (size_t max = 0; max < 30; max++) {
		struct buf b;

		buf_init(&b, max);
		buf_add(&b, "{", 1);
		json_key_str(&b, "name",
			     "a\nb\x01"
			     "c");
		json_key_int(&b, "n", 7);
		buf_add(&b, "}", 1);
		assert_int_equal(buf_ok(&b), max >= strlen("{\"name\":\"a\\nb\\u0001c\",\"n\":7}"));
		buf_done(&b);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_escapes),     cmocka_unit_test(test_all_characters),
		cmocka_unit_test(test_every_place), cmocka_unit_test(test_commas),
		cmocka_unit_test(test_full),
	};

	return cmocka_run_group_tests_name("json_out", tests, NULL, NULL);
}
