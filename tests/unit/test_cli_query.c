/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "cli/output.h"
#include "cli/query.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char document[] =
	"{\"name\":\"n\",\"a-b\":{\"c\":1},\"none\":null,\"flag\":true,\"real\":0.1,"
	"\"items\":[{\"id\":1,\"tags\":[\"x\",\"y\"]},{\"id\":2,\"tags\":[\"z\"]},{\"tags\":null},{"
	"}],"
	"\"nested\":[[1,2],[3,[4]],5]}";

static void assert_query(const char *expression, const char *expected)
{
	struct err e = ERR_INIT;
	struct buf text;
	json_t *root = output_load(STR(document), &e);
	json_t *v = query_run(expression, root, &e);

	if (!v)
		fail_msg("%s: %s", expression, e.msg);
	buf_init(&text, 10000);
	assert_true(json_compact(&text, v));
	assert_string_equal(text.ptr, expected);
	buf_done(&text);
	json_decref(v);
	json_decref(root);
}

static void test_selects(void **state)
{
	(void)state;
	assert_query("name", "\"n\"");
	assert_query(" name ", "\"n\"");
	assert_query("\"a-b\".c", "1");
	assert_query("\"a\\u002db\" . c", "1");
	assert_query("none", "null");
	assert_query("missing.deeper", "null");
	assert_query("name.deeper", "null");
	assert_query("items[0].id", "1");
	assert_query("items[-3].id", "2");
	assert_query("items[4]", "null");
	assert_query("items[-5]", "null");
	assert_query("name[0]", "null");
	assert_query("real", "0.1");
}

static void test_projects(void **state)
{
	(void)state;
	assert_query("items[].id", "[1,2]");
	assert_query("items[*].id", "[1,2]");
	assert_query("items[*].tags", "[[\"x\",\"y\"],[\"z\"]]");
	assert_query("items[*].tags[0]", "[\"x\",\"z\"]");
	assert_query("items[*].tags[]", "[\"x\",\"y\",\"z\"]");
	assert_query("items[].tags[]", "[\"x\",\"y\",\"z\"]");
	assert_query("items[*].tags[*]", "[[\"x\",\"y\"],[\"z\"]]");
	assert_query("items[*].missing", "[]");
	assert_query("nested[]", "[1,2,3,[4],5]");
	assert_query("nested[][]", "[1,2,3,4,5]");
	assert_query("name[]", "null");
	assert_query("name[*]", "null");
	assert_query("missing[].x", "null");
}

static void assert_refused(const char *expression, const char *names)
{
	struct err e = ERR_INIT;

	assert_int_equal(query_check(expression, &e), -1);
	assert_int_equal(e.code, ERR_INVALID);
	if (!strstr(e.msg, names))
		fail_msg("%s: '%s' does not name '%s'", expression, e.msg, names);
}

static void test_refuses_by_name(void **state)
{
	(void)state;
	assert_refused("length(items)", "function call");
	assert_refused("items | [0]", "pipe");
	assert_refused("items[?id==`1`]", "filter");
	assert_refused("items[0:2]", "slice");
	assert_refused("items[:2]", "slice");
	assert_refused("[name, real]", "multi-select list");
	assert_refused("{n: name}", "multi-select hash");
	assert_refused("items[].{n: id}", "multi-select hash");
	assert_refused("a.*", "object projection");
	assert_refused("@", "current node");
	assert_refused("a || b", "or expression");
	assert_refused("a && b", "and expression");
	assert_refused("!a", "not expression");
	assert_refused("`1`", "literal");
	assert_refused("'a'", "raw string");
	assert_refused("a == b", "comparison");
	assert_refused("a-b", "without quotes");
	assert_refused("", "too early");
	assert_refused("a.", "too early");
	assert_refused("\"open", "malformed");
	assert_refused("a[", "multi-select list");
	assert_refused("1a", "unexpected");
}

static void test_limits(void **state)
{
	char text[QUERY_TEXT_MAX + 10];
	struct err e = ERR_INIT;

	(void)state;
	memset(text, 'a', sizeof(text));
	text[QUERY_TEXT_MAX] = '\0';
	assert_int_equal(query_check(text, &e), 0);
	text[QUERY_TEXT_MAX] = 'a';
	text[QUERY_TEXT_MAX + 1] = '\0';
	assert_int_equal(query_check(text, &e), -1);
	strcpy(text, "a");
	for (int i = 0; i < QUERY_STEPS_MAX - 1; i++)
		strcat(text, "[*]");
	assert_int_equal(query_check(text, &e), 0);
	strcat(text, "[*]");
	assert_int_equal(query_check(text, &e), -1);
}

static void assert_tsv(const char *json, const char *expected)
{
	struct buf b;
	json_t *v = output_load(str_from(json), NULL);

	buf_init(&b, 10000);
	assert_true(output_tsv(&b, v));
	assert_string_equal(b.ptr ? b.ptr : "", expected);
	buf_done(&b);
	json_decref(v);
}

static void test_tsv(void **state)
{
	(void)state;
	assert_tsv("\"text\"", "text\n");
	assert_tsv("true", "true\n");
	assert_tsv("1.5", "1.5\n");
	assert_tsv("[1,\"b\",false]", "1\nb\nfalse\n");
	assert_tsv("[]", "");
	assert_tsv("[{\"b\":2,\"a\":\"x\",\"c\":null,\"d\":{},\"e\":[1,2],\"f\":true}]",
		   "x\t2\tNone\t\t2\tTrue\n");
	assert_tsv("[[1,2],[3]]", "1\t2\n3\n");
}

static void assert_reformat(const char *json, const char *expected)
{
	struct buf b;

	buf_init(&b, 10000);
	assert_true(json_reformat(&b, str_from(json), false));
	assert_string_equal(b.ptr, expected);
	buf_done(&b);
}

static void test_reformat_keeps_scalars(void **state)
{
	(void)state;
	assert_reformat("{\"a\":[1,{ }, [ ]],\"b\":\"x\\\"{,}\"}",
			"{\n  \"a\": [\n    1,\n    {},\n    []\n  ],\n  \"b\": \"x\\\"{,}\"\n}");
	assert_reformat("123456789012345678901234567890", "123456789012345678901234567890");
	assert_reformat("{\"n\":1.10,\"e\":1E5}", "{\n  \"n\": 1.10,\n  \"e\": 1E5\n}");
}

static void test_load(void **state)
{
	struct err e = ERR_INIT;
	json_t *v = output_load(STR("[123456789012345678901234567890]"), &e);

	(void)state;
	assert_non_null(v);
	json_decref(v);
	assert_null(output_load(STR("{\"a\":"), &e));
	assert_int_equal(e.code, ERR_PROTOCOL);
}

static void assert_groups(const char *in, const char *expected)
{
	struct err e = ERR_INIT;
	struct buf text;
	json_t *v = output_load(str_from(in), &e);

	assert_non_null(v);
	output_add_groups(v);
	buf_init(&text, 10000);
	assert_true(json_compact(&text, v));
	assert_string_equal(text.ptr, expected);
	buf_done(&text);
	json_decref(v);
}

#define GROUP "/subscriptions/s/resourceGroups/My-Group"
#define POOL  GROUP "/providers/Microsoft.App/sessionPools/p"

static void test_groups(void **state)
{
	(void)state;
	assert_groups("{\"id\":\"" POOL "\",\"name\":\"p\"}",
		      "{\"id\":\"" POOL "\",\"name\":\"p\",\"resourceGroup\":\"My-Group\"}");
	assert_groups(
		"[{\"id\":\"/subscriptions/s/resourcegroups/g/a/b/c/d/e/f\"},{\"a\":{\"id\":\"" POOL
		"\"}}]",
		"[{\"id\":\"/subscriptions/s/resourcegroups/g/a/b/c/d/e/f\",\"resourceGroup\":\"g\"},"
		"{\"a\":{\"id\":\"" POOL "\",\"resourceGroup\":\"My-Group\"}}]");
	static const char *const same[] = {
		"{\"id\":\"" POOL "\",\"ResourceGroup\":null}",
		"{\"id\":\"" GROUP "\"}",
		"{\"id\":\"" GROUP "/providers/Microsoft.App/sessionPools\"}",
		"{\"id\":\"/subscriptions/s/providers/a/b/c/d/e/f\"}",
		"{\"id\":\"/subscriptions/s/resourceGroups//providers/a/b/c\"}",
		"{\"id\":\"\"}",
		"{\"id\":1}",
		"{\"id\":null}",
		"[]",
		"\"" POOL "\"",
		"null",
	};

	for (size_t i = 0; i < ARRAY_LEN(same); i++)
		assert_groups(same[i], same[i]);
	output_add_groups(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_selects),
		cmocka_unit_test(test_projects),
		cmocka_unit_test(test_refuses_by_name),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_tsv),
		cmocka_unit_test(test_reformat_keeps_scalars),
		cmocka_unit_test(test_load),
		cmocka_unit_test(test_groups),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
