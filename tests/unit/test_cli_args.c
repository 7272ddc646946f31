/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "cli/args.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const char *const colours[] = { "Red", "DarkGreen", NULL };

static const struct cli_flag flags_make[] = {
	{ .name = "name", .letter = 'n', .kind = FLAG_TEXT, .required = true, .help = "" },
	{ .name = "count", .kind = FLAG_INT, .min = 1, .max = 220, .fallback = "60", .help = "" },
	{ .name = "colour", .alias = "paint", .kind = FLAG_ENUM, .choices = colours, .help = "" },
	{ .name = "tags", .kind = FLAG_LIST, .help = "" },
	{ .name = "yes", .letter = 'y', .letter_alias = 'j', .kind = FLAG_BOOL, .help = "" },
	{ .name = NULL },
};

static const struct cli_flag flags_global[] = {
	{ .name = "output", .letter = 'o', .kind = FLAG_TEXT, .fallback = "json", .help = "" },
	{ .name = NULL },
};

static const struct cli_verb verbs_pool[] = {
	{ .name = "make", .summary = "", .flags = { flags_make } },
	{ .name = NULL },
};
static const struct cli_verb verbs_deep[] = {
	{ .name = "run", .summary = "" },
	{ .name = NULL },
};
static const struct cli_verb verbs_top[] = {
	{ .name = "help", .summary = "", .takes_words = true },
	{ .name = NULL },
};
static const struct cli_group group_pool = { "pool", "", verbs_pool };
static const struct cli_group group_session = { "session", "", verbs_pool };
static const struct cli_group group_deep = { "session code-interpreter", "", verbs_deep };
static const struct cli_group group_top = { "", "", verbs_top };
static const struct cli_group *const groups[] = { &group_pool, &group_session, &group_deep,
						  &group_top, NULL };

static int parse(struct args *a, struct err *e, const char *first, ...)
{
	char *argv[64] = { (char *)"bivouac" };
	int argc = 1;
	va_list ap;

	*e = ERR_INIT;
	va_start(ap, first);
	for (const char *word = first; word; word = va_arg(ap, const char *))
		argv[argc++] = (char *)word;
	va_end(ap);
	return args_parse(a, groups, flags_global, argc, argv, e);
}

#define PARSE(a, e, ...) parse(a, e, __VA_ARGS__, NULL)

static void test_values(void **state)
{
	struct args a;
	struct err e;

	(void)state;
	assert_int_equal(PARSE(&a, &e, "pool", "make", "-n", "x", "--count=5", "-otsv", "--paint",
			       "darkgreen", "-j"),
			 0);
	assert_string_equal(a.verb->name, "make");
	assert_string_equal(args_text(&a, "name"), "x");
	assert_int_equal(args_int(&a, "count"), 5);
	assert_string_equal(args_text(&a, "output"), "tsv");
	assert_string_equal(args_text(&a, "colour"), "DarkGreen");
	assert_true(args_given(&a, "yes"));
	assert_false(args_given(&a, "tags"));
	assert_int_equal(PARSE(&a, &e, "containerapp", "pool", "make", "--name", "-1"), 0);
	assert_string_equal(args_text(&a, "name"), "-1");
	assert_int_equal(args_int(&a, "count"), 60);
	assert_null(args_text(&a, "colour"));
	assert_int_equal(PARSE(&a, &e, "pool", "make", "--name", "a", "--name", "--b=c"), 0);
	assert_string_equal(args_text(&a, "name"), "--b=c");
	assert_int_equal(PARSE(&a, &e, "pool", "make", "--name="), 0);
	assert_string_equal(args_text(&a, "name"), "");
	assert_int_equal(PARSE(&a, &e, "pool", "make", "-n", "-"), 0);
	assert_string_equal(args_text(&a, "name"), "-");
}

static void test_lists(void **state)
{
	struct args a;
	struct err e;

	(void)state;
	assert_int_equal(
		PARSE(&a, &e, "pool", "make", "--tags", "a=1", "b", "-n", "x", "--tags", "c"), 0);
	assert_string_equal(args_list(&a, "tags", 0), "a=1");
	assert_string_equal(args_list(&a, "tags", 1), "b");
	assert_string_equal(args_list(&a, "tags", 2), "c");
	assert_null(args_list(&a, "tags", 3));
	assert_int_equal(PARSE(&a, &e, "pool", "make", "-n", "x", "--tags"), 0);
	assert_true(args_given(&a, "tags"));
	assert_null(args_list(&a, "tags", 0));
}

static void test_groups(void **state)
{
	struct args a;
	struct err e;

	(void)state;
	assert_int_equal(PARSE(&a, &e, "session", "code-interpreter", "run"), 0);
	assert_ptr_equal(a.group, &group_deep);
	assert_int_equal(PARSE(&a, &e, "session", "make", "-n", "x"), 0);
	assert_ptr_equal(a.group, &group_session);
	assert_int_equal(PARSE(&a, &e, "session", "code-interpreter"), 0);
	assert_true(a.help);
	assert_ptr_equal(a.group, &group_deep);
	assert_null(a.verb);
	assert_int_equal(PARSE(&a, &e, "pool", "make", "--help"), 0);
	assert_true(a.help);
	assert_string_equal(a.verb->name, "make");
	assert_int_equal(PARSE(&a, &e, "help", "pool", "make"), 0);
	assert_int_equal(a.word_count, 2);
}

static void assert_error(const struct err *e, int rc, const char *text)
{
	assert_int_equal(rc, -1);
	assert_int_equal(err_exit_status(e->code), 64);
	if (!strstr(e->msg, text))
		fail_msg("'%s' does not say '%s'", e->msg, text);
}

static void test_errors(void **state)
{
	struct args a;
	struct err e;

	(void)state;
	assert_error(&e, PARSE(&a, &e, "poool", "make"), "did you mean 'pool'?");
	assert_error(&e, PARSE(&a, &e, "pool", "mkae"), "did you mean 'pool make'?");
	assert_error(&e, PARSE(&a, &e, "session", "code-interpretr", "run"),
		     "did you mean 'session code-interpreter'?");
	assert_error(&e, PARSE(&a, &e, "zzzzzz"), "unknown command 'bivouac zzzzzz'");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "--nmae", "x"), "did you mean '--name'?");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "-n", "x", "-z"), "unknown flag '-z'");
	assert_error(&e, PARSE(&a, &e, "pool", "make"), "--name is required");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "--name"), "--name needs a value");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "--name", "--yes"), "--name needs a value");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "-n", "x", "--yes=1"), "takes no value");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "-n", "x", "--colour", "rd"),
		     "not one of Red, DarkGreen: did you mean 'Red'?");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "-n", "x", "stray"), "unexpected word");
}

static void test_int_bounds(void **state)
{
	struct args a;
	struct err e;

	(void)state;
	assert_int_equal(PARSE(&a, &e, "pool", "make", "-n", "x", "--count", "1"), 0);
	assert_int_equal(PARSE(&a, &e, "pool", "make", "-n", "x", "--count", "220"), 0);
	assert_error(&e, PARSE(&a, &e, "pool", "make", "-n", "x", "--count", "0"), "from 1 to 220");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "-n", "x", "--count", "221"), "221");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "-n", "x", "--count", "5x"), "5x");
	assert_error(&e, PARSE(&a, &e, "pool", "make", "-n", "x", "--count", ""), "''");
}

static void test_too_many_values(void **state)
{
	char *argv[ARGS_VALUES_MAX + 8] = { (char *)"bivouac", (char *)"pool", (char *)"make" };
	struct args a;
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 3; i < ARRAY_LEN(argv); i++)
		argv[i] = (char *)"-y";
	argv[3] = (char *)"-n";
	argv[4] = (char *)"x";
	assert_int_equal(args_parse(&a, groups, flags_global, 5 + ARGS_VALUES_MAX - 1, argv, &e),
			 0);
	assert_error(&e, args_parse(&a, groups, flags_global, 5 + ARGS_VALUES_MAX, argv, &e),
		     "more than");
}

static void test_durations(void **state)
{
	struct err e = ERR_INIT;
	long s;

	(void)state;
	assert_int_equal(args_duration("90", &s, &e), 0);
	assert_int_equal(s, 90);
	assert_int_equal(args_duration("2m", &s, &e), 0);
	assert_int_equal(s, 120);
	assert_int_equal(args_duration("1h", &s, &e), 0);
	assert_int_equal(s, 3600);
	assert_int_equal(args_duration("30d", &s, &e), 0);
	assert_int_equal(s, 2592000);
	assert_int_equal(args_duration("", &s, &e), -1);
	assert_int_equal(args_duration("h", &s, &e), -1);
	assert_int_equal(args_duration("1w", &s, &e), -1);
	assert_int_equal(args_duration("1hh", &s, &e), -1);
	assert_int_equal(args_duration("99999999999999999999", &s, &e), -1);
}

static void test_distance(void **state)
{
	char big[100];

	(void)state;
	assert_int_equal(args_distance("", ""), 0);
	assert_int_equal(args_distance("abc", ""), 3);
	assert_int_equal(args_distance("create", "craete"), 1);
	assert_int_equal(args_distance("kitten", "sitting"), 3);
	memset(big, 'a', sizeof(big));
	big[63] = '\0';
	assert_int_equal(args_distance(big, "a"), 62);
	big[63] = 'a';
	big[64] = '\0';
	assert_true(args_distance(big, "a") >= 1000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),     cmocka_unit_test(test_lists),
		cmocka_unit_test(test_groups),     cmocka_unit_test(test_errors),
		cmocka_unit_test(test_int_bounds), cmocka_unit_test(test_too_many_values),
		cmocka_unit_test(test_durations),  cmocka_unit_test(test_distance),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
