/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "http/router.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

static void nothing(struct http_request *rq, void *ctx)
{
	(void)rq;
	(void)ctx;
}

static const struct http_route table[] = {
	{ "GET", "/", nothing, HTTP_BODY_NONE, NULL, "root" },
	{ "GET", "/pools/{pool}/files/{path*}", nothing, HTTP_BODY_NONE, NULL, "file" },
	{ "GET", "/pools/{pool}", nothing, HTTP_BODY_NONE, NULL, "pool" },
	{ "PUT", "/pools/{pool}", nothing, HTTP_BODY_NONE, NULL, "put" },
	{ "DELETE", "/pools/{pool}", nothing, HTTP_BODY_NONE, NULL, "delete" },
	{ "*", "/proxy/{rest*}", nothing, HTTP_BODY_NONE, NULL, "proxy" },
	{ "POST", "/Code/Execute", nothing, HTTP_BODY_NONE, NULL, "execute" },
};

static int setup(void **state)
{
	struct err e = ERR_INIT;
	struct router *r = router_new(&e);

	if (!r || router_add(r, table, ARRAY_LEN(table), NULL, &e) < 0)
		return -1;
	*state = r;
	return 0;
}

static int teardown(void **state)
{
	router_free(*state);
	return 0;
}

/* "404", "405", or the summary of the row and its parameters. */
static const char *route(struct router *r, const char *method, const char *path)
{
	static char text[512];
	static char mem[512];
	struct router_path split;
	struct router_match match;
	struct err e = ERR_INIT;

	if (router_split(str_from(path), mem, &split, &e) < 0)
		return e.code == ERR_MALFORMED ? "400" : "?";
	switch (router_match(r, str_from(method), &split, &match)) {
	case ROUTER_NOT_FOUND:
		return "404";
	case ROUTER_METHOD:
		return "405";
	case ROUTER_FOUND:
		break;
	}
	int n = snprintf(text, sizeof(text), "%s", match.route->summary);

	for (size_t i = 0; i < match.param_count; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, " %.*s=%.*s",
			      STR_ARG(match.params[i].name), STR_ARG(match.params[i].value));
	return text;
}

static void test_match(void **state)
{
	struct router *r = *state;

	assert_string_equal(route(r, "GET", "/"), "root");
	assert_string_equal(route(r, "GET", ""), "root");
	assert_string_equal(route(r, "GET", "/pools/a"), "pool pool=a");
	assert_string_equal(route(r, "GET", "//POOLS//a/"), "pool pool=a");
	assert_string_equal(route(r, "HEAD", "/pools/a"), "pool pool=a");
	assert_string_equal(route(r, "PUT", "/pools/a"), "put pool=a");
	assert_string_equal(route(r, "POST", "/code/execute"), "execute");
	assert_string_equal(route(r, "HEAD", "/code/execute"), "405");
	assert_string_equal(route(r, "POST", "/pools/a"), "405");
	assert_string_equal(route(r, "GET", "/pools"), "404");
	assert_string_equal(route(r, "GET", "/pools/a/b"), "404");
	assert_string_equal(route(r, "get", "/pools/a"), "405");
}

static void test_rest(void **state)
{
	struct router *r = *state;

	assert_string_equal(route(r, "GET", "/pools/p/files/a/b/c"), "file pool=p path=a/b/c");
	assert_string_equal(route(r, "GET", "/pools/p/files/a//b/"), "file pool=p path=a/b");
	assert_string_equal(route(r, "GET", "/pools/p/files/"), "404");
	assert_string_equal(route(r, "PATCH", "/proxy/x/y"), "proxy rest=x/y");
	assert_string_equal(route(r, "HEAD", "/proxy/x"), "proxy rest=x");
}

static void test_decoding(void **state)
{
	struct router *r = *state;

	assert_string_equal(route(r, "GET", "/pools/a%2Fb"), "pool pool=a/b");
	assert_string_equal(route(r, "GET", "/pools/a%252Fb"), "pool pool=a%2Fb");
	assert_string_equal(route(r, "GET", "/pools/%c3%A4"), "pool pool=\xc3\xa4");
	assert_string_equal(route(r, "GET", "/pools/a+b c"), "pool pool=a+b c");
	assert_string_equal(route(r, "GET", "/pools/100%"), "pool pool=100%");
	assert_string_equal(route(r, "GET", "/pools/%4"), "pool pool=%4");
	assert_string_equal(route(r, "GET", "/pools/%zz%41"), "pool pool=%zzA");
	assert_string_equal(route(r, "GET", "/p%6Fols/x"), "pool pool=x");
	assert_string_equal(route(r, "GET", "/pools/a%00b"), "400");
	assert_string_equal(route(r, "GET", "/pools/%ff"), "400");
	assert_string_equal(route(r, "GET", "/pools/\xed\xa0\x80"), "400");
	assert_string_equal(route(r, "GET", "/pools/%c0%af"), "400");
}

static void test_segments_limit(void **state)
{
	char path[2 * ROUTER_SEGMENTS_MAX + 3];
	char mem[sizeof(path)];
	struct router_path split;
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < sizeof(path) - 1; i++)
		path[i] = i % 2 ? 'a' : '/';
	assert_int_equal(
		router_split((struct str){ path, 2 * ROUTER_SEGMENTS_MAX }, mem, &split, &e), 0);
	assert_int_equal(split.count, ROUTER_SEGMENTS_MAX);
	assert_int_equal(router_split((struct str){ path, sizeof(path) - 1 }, mem, &split, &e), -1);
}

static void test_allow(void **state)
{
	struct router_path split;
	struct err e = ERR_INIT;
	char mem[64];
	char allow[ROUTER_ALLOW_MAX];

	assert_int_equal(router_split(STR("/pools/a"), mem, &split, &e), 0);
	assert_string_equal(router_allow(*state, &split, allow), "GET, HEAD, PUT, DELETE");
}

static void test_bad_patterns(void **state)
{
	static const char *const bad[] = { "pools", "",
					   "/{",    "/{}",
					   "/{*}",  "/{a*}/b",
					   "/a{b}", "/{1}/{2}/{3}/{4}/{5}/{6}/{7}/{8}/{9}" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct http_route row = { "GET", bad[i], nothing, HTTP_BODY_NONE, NULL, "" };
		struct err e = ERR_INIT;
		struct router *r = router_new(&e);

		assert_int_equal(router_add(r, &row, 1, NULL, &e), -1);
		router_free(r);
	}
}

static void expect_query(const char *query, const char *key, const char *want)
{
	struct str got;
	bool found = query_get(str_from(query), str_from(key), &got);

	assert_int_equal(found, want != NULL);
	if (want)
		assert_true(str_eq(got, str_from(want)));
}

static void test_query(void **state)
{
	(void)state;
	expect_query("identifier=a%20b&api-version=1", "identifier", "a%20b");
	expect_query("identifier=a&API-Version=1+2", "api-version", "1+2");
	expect_query("api%2Dversion=1", "api-version", "1");
	expect_query("a&b=&c", "a", "");
	expect_query("a&b=&c", "b", "");
	expect_query("a&b=&c", "c", "");
	expect_query("a&b=&c", "d", NULL);
	expect_query("a=1&a=2", "a", "1");
	expect_query("a=b=c", "a", "b=c");
	expect_query("", "a", NULL);
	expect_query("&&=x&ab=1", "a", NULL);
	expect_query("a%=1", "a%", "1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_match),    cmocka_unit_test(test_rest),
		cmocka_unit_test(test_decoding), cmocka_unit_test(test_segments_limit),
		cmocka_unit_test(test_allow),    cmocka_unit_test(test_bad_patterns),
		cmocka_unit_test(test_query),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
