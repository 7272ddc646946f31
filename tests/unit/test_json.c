/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"
#include "base/own.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static json_t *parse(const char *text)
{
	struct err e = ERR_INIT;
	json_t *v = json_parse(str_from(text), &e);

	if (!v)
		fail_msg("%s: %s", text, e.msg);
	return v;
}

static void assert_json(json_t *v, const char *want)
{
	OWNED_MEM char *text = json_dumps(v, JSON_COMPACT | JSON_SORT_KEYS | JSON_ENCODE_ANY);

	assert_string_equal(text, want);
}

static void test_parse(void **state)
{
	static const char *const bad[] = {
		"",     "{",     "{\"a\":1,\"a\":2}", "[1] x", "nul",
		"\xff", "{a:1}", "\"\\ud800\"",       "1e999",
	};
	struct err e = ERR_INIT;
	char deep[2 * (JSON_DEPTH_MAX + 1) + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_null(json_parse(str_from(bad[i]), &e));
		assert_int_equal(e.code, ERR_MALFORMED);
	}
	for (size_t depth = JSON_DEPTH_MAX; depth <= JSON_DEPTH_MAX + 1; depth++) {
		memset(deep, '[', depth);
		memset(deep + depth, ']', depth);
		json_t *v = json_parse((struct str){ deep, 2 * depth }, &e);

		assert_int_equal(v != NULL, depth <= JSON_DEPTH_MAX);
		json_decref(v);
	}
	json_decref(parse("\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["
			  "[[\\\"[\""));
	assert_null(json_parse_object(STR("[]"), &e));
	assert_int_equal(e.code, ERR_MALFORMED);
}

static void test_find(void **state)
{
	json_t *o = parse("{\"CoolDown\":1,\"cooldown\":2,\"Nothing\":null}");

	(void)state;
	assert_int_equal(json_integer_value(json_find(o, "cooldown")), 2);
	assert_int_equal(json_integer_value(json_find(o, "CoolDown")), 1);
	assert_non_null(json_find(o, "COOLDOWN"));
	assert_null(json_find(o, "nothing"));
	assert_string_equal(json_find_key(o, "nothing"), "Nothing");
	assert_null(json_find(NULL, "x"));
	json_decref(o);
}

static void test_getters(void **state)
{
	static const char *const words[] = { "Inline", "Other", NULL };
	json_t *o = parse("{\"s\":\"x\",\"i\":7,\"is\":\"-42\",\"r\":3.0,\"rs\":\"0.5\",\"f\":1.5,"
			  "\"b\":true,"
			  "\"w\":\"iNLINE\",\"bad\":\"0x10\",\"big\":\"99999999999999999999\","
			  "\"inf\":\"inf\","
			  "\"o\":{},\"a\":[],\"minus\":\"-\",\"null\":null}");
	struct err e = ERR_INIT;
	const char *s = NULL;
	int64_t i = 0;
	double d = 0;
	bool b = false;
	json_t *v = NULL;

	(void)state;
	assert_int_equal(json_get_string(o, "p", "S", &s, &e), 1);
	assert_string_equal(s, "x");
	assert_int_equal(json_get_string(o, "p", "none", &s, &e), 0);
	assert_int_equal(json_get_string(o, "p", "null", &s, &e), 0);
	assert_int_equal(json_get_string(o, "properties", "i", &s, &e), -1);
	assert_string_equal(e.msg, "'properties.i' must be a string, not a number.");
	assert_int_equal(json_get_int(o, "", "is", &i, &e), 1);
	assert_int_equal(i, -42);
	assert_int_equal(json_get_int(o, "", "r", &i, &e), 1);
	assert_int_equal(i, 3);
	assert_int_equal(json_get_int(o, "", "f", &i, &e), -1);
	assert_string_equal(e.msg, "'f' must be a whole number, not a number.");
	assert_int_equal(json_get_int(o, "", "bad", &i, &e), -1);
	assert_int_equal(json_get_int(o, "", "big", &i, &e), -1);
	assert_int_equal(json_get_int(o, "", "minus", &i, &e), -1);
	assert_int_equal(json_get_number(o, "", "rs", &d, &e), 1);
	assert_true(d == 0.5);
	assert_int_equal(json_get_number(o, "", "inf", &d, &e), -1);
	assert_int_equal(json_get_number(o, "", "bad", &d, &e), -1);
	assert_int_equal(json_get_bool(o, "", "b", &b, &e), 1);
	assert_true(b);
	assert_int_equal(json_get_bool(o, "", "s", &b, &e), -1);
	assert_int_equal(json_get_word(o, "", "w", words, &s, &e), 1);
	assert_string_equal(s, "Inline");
	assert_int_equal(json_get_word(o, "", "s", words, &s, &e), -1);
	assert_string_equal(e.msg, "'s' cannot be 'x'. Valid values are: Inline, Other.");
	assert_int_equal(json_get_object(o, "", "o", &v, &e), 1);
	assert_int_equal(json_get_object(o, "", "a", &v, &e), -1);
	assert_int_equal(json_get_array(o, "", "a", &v, &e), 1);
	assert_int_equal(json_get_array(o, "", "o", &v, &e), -1);
	json_decref(o);
}

/* The table of RFC 7396, appendix A, then our case rule. */
static void test_merge_patch(void **state)
{
	static const char *const rows[][3] = {
		{ "{\"a\":\"b\"}", "{\"a\":\"c\"}", "{\"a\":\"c\"}" },
		{ "{\"a\":\"b\"}", "{\"b\":\"c\"}", "{\"a\":\"b\",\"b\":\"c\"}" },
		{ "{\"a\":\"b\"}", "{\"a\":null}", "{}" },
		{ "{\"a\":\"b\",\"b\":\"c\"}", "{\"a\":null}", "{\"b\":\"c\"}" },
		{ "{\"a\":[\"b\"]}", "{\"a\":\"c\"}", "{\"a\":\"c\"}" },
		{ "{\"a\":\"c\"}", "{\"a\":[\"b\"]}", "{\"a\":[\"b\"]}" },
		{ "{\"a\":{\"b\":\"c\"}}", "{\"a\":{\"b\":\"d\",\"c\":null}}",
		  "{\"a\":{\"b\":\"d\"}}" },
		{ "{\"a\":[{\"b\":\"c\"}]}", "{\"a\":[1]}", "{\"a\":[1]}" },
		{ "[\"a\",\"b\"]", "[\"c\",\"d\"]", "[\"c\",\"d\"]" },
		{ "{\"a\":\"b\"}", "[\"c\"]", "[\"c\"]" },
		{ "{\"a\":\"foo\"}", "null", "null" },
		{ "{\"a\":\"foo\"}", "\"bar\"", "\"bar\"" },
		{ "{\"e\":null}", "{\"a\":1}", "{\"a\":1,\"e\":null}" },
		{ "[1,2]", "{\"a\":\"b\",\"c\":null}", "{\"a\":\"b\"}" },
		{ "{}", "{\"a\":{\"bb\":{\"ccc\":null}}}", "{\"a\":{\"bb\":{}}}" },
		{ "{\"Tags\":{\"k\":1}}", "{\"tAGS\":{\"K\":2,\"n\":3}}",
		  "{\"Tags\":{\"k\":2,\"n\":3}}" },
		{ "{\"Tags\":{\"k\":1}}", "{\"tags\":null}", "{}" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		json_t *target = parse(rows[i][0]);
		json_t *patch = parse(rows[i][1]);
		json_t *out = json_merge_patch(target, patch);

		assert_json(out, rows[i][2]);
		assert_json(target, rows[i][0]);
		json_decref(out);
		json_decref(target);
		json_decref(patch);
	}
}

static void test_numbers_beyond_64_bits(void **state)
{
	static const char text[] = "{\"big\":18446744073709551616,\"small\":7,\"s\":\"a\\u0000b\"}";
	struct err e = ERR_INIT;

	(void)state;
	assert_null(json_parse(str_from(text), &e));
	assert_int_equal(e.code, ERR_MALFORMED);
	json_t *v = json_parse_body(str_from(text), &e);

	assert_non_null(v);
	assert_true(json_is_real(json_object_get(v, "big")));
	assert_true(json_real_value(json_object_get(v, "small")) == 7.0);
	assert_int_equal(json_string_length(json_object_get(v, "s")), 3);
	json_decref(v);
	v = json_parse_body(STR("[9223372036854775807]"), &e);
	assert_true(json_integer_value(json_array_get(v, 0)) == INT64_MAX);
	json_decref(v);
	assert_null(json_parse_body(STR("[1e999]"), &e));
	assert_null(json_parse_body(STR("{\"a\":18446744073709551616,\"a\":1}"), &e));
}

static const char *const colours[] = { "Red", "DarkBlue", NULL };
static const struct json_shape item_shape[] = { { .name = "fullName", .kind = JSON_KIND_STRING },
						{ 0 } };
static const struct json_shape inner_shape[] = {
	{ .name = "maxCount", .kind = JSON_KIND_INT },
	{ .name = "colour", .kind = JSON_KIND_WORD, .words = colours },
	{ .name = "ratio", .kind = JSON_KIND_NUMBER },
	{ .name = "isOn", .kind = JSON_KIND_BOOL },
	{ 0 },
};
static const struct json_shape shape[] = {
	{ .name = "properties", .kind = JSON_KIND_OBJECT, .members = inner_shape },
	{ .name = "items", .kind = JSON_KIND_LIST, .members = item_shape },
	{ .name = "tags", .kind = JSON_KIND_MAP },
	{ .name = "any", .kind = JSON_KIND_ANY },
	{ 0 },
};

static void test_respell(void **state)
{
	static const char *const rows[][2] = {
		{ "{\"PROPERTIES\":{\"MaxCount\":\"30\",\"COLOUR\":\"darkblue\",\"ratio\":\"0.5\","
		  "\"ison\":true,"
		  "\"unknown\":1},\"unknown\":{}}",
		  "{\"properties\":{\"colour\":\"DarkBlue\",\"isOn\":true,\"maxCount\":30,"
		  "\"ratio\":0.5}}" },
		{ "{\"Items\":[{\"FULLNAME\":\"x\",\"z\":1},{}],\"tags\":{\"Ab\":\"1\",\"n\":null}"
		  "}",
		  "{\"items\":[{\"fullName\":\"x\"},{}],\"tags\":{\"Ab\":\"1\"}}" },
		{ "{\"any\":[1,{\"X\":2}],\"properties\":null}", "{\"any\":[1,{\"X\":2}]}" },
	};
	static const char *const bad[][2] = {
		{ "{\"properties\":{\"maxCount\":\"x\"}}", "'properties.maxCount' must be a whole "
							   "number, not a string." },
		{ "{\"properties\":[]}", "'properties' must be an object, not an array." },
		{ "{\"properties\":{\"Colour\":\"green\"}}", "'properties.colour' cannot be "
							     "'green'. Valid values are: Red, "
							     "DarkBlue." },
		{ "{\"tags\":{\"a\":1}}", "'tags.a' must be a string, not a number." },
		{ "{\"tags\":{},\"TAGS\":{}}", "'tags' is given twice, in different spellings." },
		{ "{\"items\":[{},{\"fullname\":1}]}", "'items[1].fullName' must be a string, not "
						       "a number." },
		{ "{\"items\":[1]}", "'items[0]' must be an object, not a number." },
	};
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		json_t *in = parse(rows[i][0]);
		json_t *out = json_respell(in, shape, "", &e);

		assert_json(out, rows[i][1]);
		assert_int_equal(e.code, ERR_NONE);
		json_decref(out);
		json_decref(in);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		json_t *in = parse(bad[i][0]);

		assert_null(json_respell(in, shape, "", &e));
		assert_int_equal(e.code, ERR_MALFORMED);
		assert_string_equal(e.msg, bad[i][1]);
		json_decref(in);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),   cmocka_unit_test(test_find),
		cmocka_unit_test(test_getters), cmocka_unit_test(test_merge_patch),
		cmocka_unit_test(test_respell), cmocka_unit_test(test_numbers_beyond_64_bits),
	};

	return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
