/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "pool/internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

#define MARK(name, shown, total)                                                                   \
	"\n[" name " truncated: " shown " of " total                                               \
	" bytes shown; raise outputStreamsMaxLength to see more]\n"
#define RESTARTED "the kernel was restarted: variables are lost, files are kept"

#define FILES "Files in /mnt/data, /tmp, /dev/shm and the home directory count as memory."

static struct pool pool;
static struct session session = { .pool = &pool, .memory_bytes = 512u << 20 };
static struct execution x;

static int setup(void **state)
{
	(void)state;
	x = (struct execution){ .session = &session, .output_max = 10 };
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	result_done(&x.result);
	return 0;
}

static const struct execution_result *take(const struct agent_result *r)
{
	result_done(&x.result);
	result_from_agent(&x, r);
	const struct text *const texts[] = { &x.result.out, &x.result.err, &x.result.error_name,
					     &x.result.error_text, &x.result.value };

	/* Whatever comes in, what leaves is there and is UTF-8. */
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		assert_non_null(texts[i]->ptr);
		assert_int_equal(texts[i]->ptr[texts[i]->len], 0);
		assert_true(utf8_valid(text_str(texts[i])));
	}
	return &x.result;
}

static void test_streams(void **state)
{
	static const struct {
		const char *kept;
		uint64_t dropped;
		const char *want;
	} rows[] = {
		{ "", 0, "" },
		{ "0123456789", 0, "0123456789" }, /* at the limit */
		{ "0123456789a", 0, "0123456789" MARK("stdout", "10", "11") },
		{ "0123456789", 1, "0123456789" MARK("stdout", "10", "11") },
		{ "0123456789abc", 1000000000000,
		  "0123456789" MARK("stdout", "10", "1000000000013") },
		/* Cut between characters, and the count says so. */
		{ "012345678\xc3\xa9", 0, "012345678" MARK("stdout", "9", "11") },
		{ "01234567\xe2\x82\xac", 0, "01234567" MARK("stdout", "8", "11") },
		{ "0123456\xf0\x9f\x98\x80", 0, "0123456" MARK("stdout", "7", "11") },
		{ "012345\xf0\x9f\x98\x80", 0, "012345\xf0\x9f\x98\x80" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct agent_result r = { .out = str_from(rows[i].kept),
					  .stdout_dropped = rows[i].dropped };
		const struct execution_result *res = take(&r);

		assert_string_equal(res->out.ptr, rows[i].want);
		assert_string_equal(res->err.ptr, "");
		struct agent_result swapped = { .err = r.out, .stderr_dropped = r.stdout_dropped };

		res = take(&swapped);
		assert_string_equal(res->out.ptr, "");
		assert_int_equal(res->err.len, strlen(rows[i].want));
		if (strlen(rows[i].want) > 10)
			assert_non_null(strstr(res->err.ptr, "[stderr truncated: "));
	}
}

static void test_invalid_text(void **state)
{
	static const char *const pairs[][2] = {
		{ "a\xff"
		  "b",
		  "a\xef\xbf\xbd"
		  "b" },
		{ "\xc3", "\xef\xbf\xbd" },
		{ "\xc3\xa9\xc3", "\xc3\xa9\xef\xbf\xbd" },
		{ "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" }, /* a surrogate */
		{ "\xff\xe2\x82\xac", "\xef\xbf\xbd\xe2\x82\xac" },
		{ "\x80\xf0\x9f\x98\x80z", "\xef\xbf\xbd\xf0\x9f\x98\x80z" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
		struct str s = str_from(pairs[i][0]);
		struct agent_result r = {
			.out = s,
			.err = s,
			.error_name = s,
			.error_text = s,
			.value = { KERNEL_VALUE_STR, s },
		};
		const struct execution_result *res = take(&r);

		assert_string_equal(res->out.ptr, pairs[i][1]);
		assert_string_equal(res->err.ptr, pairs[i][1]);
		assert_string_equal(res->error_name.ptr, pairs[i][1]);
		assert_string_equal(res->error_text.ptr, pairs[i][1]);
		assert_string_equal(res->value.ptr, pairs[i][1]);
		assert_int_equal(res->kind, KERNEL_VALUE_STR);
	}
}

static void check_ending(enum agent_exec_status status, const char *err, const char *text,
			 const char *want)
{
	struct agent_result r = { .status = status,
				  .err = str_from(err),
				  .error_text = str_from(text),
				  .kernel_idle = strcmp(text, "killed") != 0 };

	x.output_max = 1000;
	const struct execution_result *res = take(&r);

	assert_int_equal(res->status, status);
	assert_string_equal(res->err.ptr, want);
}

static void test_endings(void **state)
{
	(void)state;
	check_ending(AGENT_RESULT_OK, "warning\n", "", "warning\n");
	check_ending(AGENT_RESULT_TIMEOUT, "", "",
		     "Request timed out waiting for code execution to complete");
	check_ending(AGENT_RESULT_TIMEOUT, "half", "killed",
		     "half\nRequest timed out waiting for code execution to complete\n"
		     "The code ignored the interrupt; " RESTARTED ".");
	check_ending(AGENT_RESULT_CANCELED, "line\n", "", "line\nExecution canceled");
	check_ending(AGENT_RESULT_OOM, "", "killed",
		     "Execution aborted: the session reached its memory limit of 512 MiB "
		     "(sessionLimits.memory) and " RESTARTED ". " FILES);
	check_ending(AGENT_RESULT_OOM, "Killed\n", "",
		     "Killed\nExecution aborted: the session reached its memory limit of 512 MiB "
		     "(sessionLimits.memory) and a program was ended. " FILES);
	x.memory_bytes = 100u << 20;
	check_ending(AGENT_RESULT_OOM, "", "killed",
		     "Execution aborted: it reached its memory limit of 100 MiB (maxMemory) "
		     "and " RESTARTED ". " FILES);
	x.memory_bytes = 513u << 20; /* the session's own was the lower one */
	check_ending(AGENT_RESULT_OOM, "", "killed",
		     "Execution aborted: the session reached its memory limit of 512 MiB "
		     "(sessionLimits.memory) and " RESTARTED ". " FILES);
	x.memory_bytes = 0;
	x.session->memory_bytes = 0; /* of a daemon before us, under another document perhaps */
	check_ending(AGENT_RESULT_OOM, "", "killed",
		     "Execution aborted: the session reached its memory limit "
		     "(sessionLimits.memory) and " RESTARTED ". " FILES);
	x.session->memory_bytes = 512u << 20;
	check_ending(
		AGENT_RESULT_KERNEL_DIED, "", "signal 11 (Segmentation fault)",
		"Execution aborted: the kernel died (signal 11 (Segmentation fault)); " RESTARTED
		".");
	check_ending(AGENT_RESULT_KERNEL_DIED, "", "%s%n\xff",
		     "Execution aborted: the kernel died (%s%n\xef\xbf\xbd); " RESTARTED ".");
	struct err why = ERR_INIT;

	err_set(&why, ERR_CONFLICT, "too much");
	result_done(&x.result);
	result_not_started(&x, &why);
	assert_int_equal(x.result.status, AGENT_RESULT_OOM);
	assert_string_equal(x.result.err.ptr, "Execution not started: too much");
	assert_string_equal(x.result.out.ptr, "");
	struct agent_result r = { .status = AGENT_RESULT_ERROR,
				  .err = STR("noise"),
				  .error_name = STR("ValueError"),
				  .error_text = STR("bad"),
				  .traceback = STR("Traceback\nValueError: bad") };

	assert_string_equal(take(&r)->err.ptr, "noise\nTraceback\nValueError: bad");
	x.timeout_ms = 1500;
	result_done(&x.result);
	result_timeout(&x);
	assert_int_equal(x.result.status, AGENT_RESULT_TIMEOUT);
	assert_int_equal(x.result.duration_us, 1500000);
	assert_string_equal(x.result.out.ptr, "");
}

static struct agent_result image(struct str data)
{
	return (struct agent_result){ .value = { KERNEL_VALUE_IMAGE, data } };
}

static void test_images(void **state)
{
	static const struct str bad[] = {
		{ "", 0 },
		{ "\0x", 2 },   /* no format */
		{ "\4png", 4 }, /* longer than there is */
		{ "\xff png", 5 },
		{ "\3PNGx", 5 },
		{ "\3p\"gx", 5 },
		{ "\3p/gx", 5 },
		{ "\3p gx", 5 },
		{ "\3p\0gx", 5 },
		{ "\3p\ngx", 5 },
		{ "\x18"
		  "aaaaaaaaaaaaaaaaaaaaaaaax",
		  26 }, /* 24 letters: one over */
	};
	const struct execution_result *res;

	(void)state;
	struct agent_result r = image((struct str){ "\3png\x89PNG\0", 9 });

	res = take(&r);
	assert_int_equal(res->kind, KERNEL_VALUE_IMAGE);
	assert_string_equal(res->format, "png");
	assert_string_equal(res->value.ptr, "iVBORwA=");
	r = image(STR("\7svg+xml<svg/>"));
	res = take(&r);
	assert_string_equal(res->format, "svg+xml");
	r = image(STR("\3png"));
	res = take(&r);
	assert_int_equal(res->kind, KERNEL_VALUE_IMAGE);
	assert_string_equal(res->value.ptr, "");
	r = image(STR("\x17"
		      "aaaaaaaaaaaaaaaaaaaaaaax"));
	res = take(&r);
	assert_int_equal(res->kind, KERNEL_VALUE_IMAGE);
	assert_int_equal(strlen(res->format), 23);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		r = image(bad[i]);
		res = take(&r);
		if (res->kind != KERNEL_VALUE_NONE || res->value.len)
			fail_msg("row %zu became format '%s'", i, res->format);
	}
}

static void test_displays(void **state)
{
	struct agent_result r = { .display_count = 3,
				  .displays = { { KERNEL_VALUE_IMAGE, STR("\3pngabc") },
						{ KERNEL_VALUE_IMAGE, STR("\3p\"gabc") },
						{ KERNEL_VALUE_IMAGE, STR("\4jpegd") } } };
	const struct execution_result *res = take(&r);

	(void)state;
	OWNED_MEM char *text = json_dumps(res->displays, JSON_COMPACT);

	assert_string_equal(text,
			    "[{\"type\":\"image\",\"format\":\"png\",\"base64_data\":\"YWJj\"},"
			    "{\"type\":\"image\",\"format\":\"jpeg\",\"base64_data\":\"ZA==\"}"
			    "]");
	r.display_count = 0;
	assert_null(take(&r)->displays);
}

static void test_duration(void **state)
{
	struct agent_result r = { .duration_us = INT64_MAX - 1 };

	(void)state;
	assert_true(take(&r)->duration_us == INT64_MAX - 1);
	r.duration_us = UINT64_MAX;
	assert_int_equal(take(&r)->duration_us, 0);
}

static void round_trip(const struct agent_result *r)
{
	const struct execution_result *a = take(r);
	OWNED_MEM char *text = result_to_json(a);
	struct execution_result b = { 0 };
	struct err e = ERR_INIT;

	assert_non_null(text);
	if (result_from_json(text, &b, &e) < 0)
		fail_msg("%s: %s", e.msg, text);
	assert_int_equal(b.status, a->status);
	assert_int_equal(b.kind, a->kind);
	assert_true(b.duration_us == a->duration_us);
	assert_true(str_eq(text_str(&b.out), text_str(&a->out)));
	assert_true(str_eq(text_str(&b.err), text_str(&a->err)));
	assert_true(str_eq(text_str(&b.error_name), text_str(&a->error_name)));
	assert_true(str_eq(text_str(&b.error_text), text_str(&a->error_text)));
	assert_true(str_eq(text_str(&b.value), text_str(&a->value)));
	assert_string_equal(b.format, a->format);
	assert_true(a->displays ? json_equal(a->displays, b.displays) : !b.displays);
	result_done(&b);
}

static void test_round_trip(void **state)
{
	struct agent_result r = { .status = AGENT_RESULT_ERROR,
				  .duration_us = INT64_MAX - 1,
				  .out = STR("\x01\x1b\"\\\n\xc3\xa9"),
				  .err = STR("e\xff"),
				  .error_name = STR("N"),
				  .error_text = STR("T\xf0\x9f\x98\x80"),
				  .traceback = STR("trace"),
				  .value = { KERNEL_VALUE_IMAGE, STR("\3png\1\2\3") },
				  .display_count = 1,
				  .displays = { { KERNEL_VALUE_IMAGE, STR("\3pngabc") } } };
	struct agent_result empty = { 0 };

	(void)state;
	round_trip(&r);
	round_trip(&empty);
}

/* A NUL that the code printed must neither cut the output nor damage what is stored. */
static void test_nul_in_output(void **state)
{
	struct agent_result r = { .out = { "ab\0cd", 5 },
				  .value = { KERNEL_VALUE_STR, { "x\0y", 3 } } };

	(void)state;
	round_trip(&r);
	assert_true(str_eq(text_str(&x.result.out), (struct str){ "ab\0cd", 5 }));
	assert_true(str_eq(text_str(&x.result.value), (struct str){ "x\0y", 3 }));
}

static void test_damaged_json(void **state)
{
	static const char *const damaged[] = {
		"",
		"{}",
		"[]",
		"{\"status\":0}",
		"{\"status\":\"0\",\"stdout\":\"\",\"stderr\":\"\",\"errorName\":\"\",\"errorText\":"
		"\"\",\"kind\":0,\"value\":\"\",\"format\":\"\",\"durationUs\":1}",
		"{\"status\":0,\"stdout\":null,\"stderr\":\"\",\"errorName\":\"\",\"errorText\":"
		"\"\",\"kind\":0,\"value\":\"\",\"format\":\"\",\"durationUs\":1}",
	};
	struct execution_result r = { 0 };
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(damaged); i++) {
		e = ERR_INIT;
		assert_int_equal(result_from_json(damaged[i], &r, &e), -1);
		assert_int_equal(e.code, ERR_INTERNAL);
		assert_null(r.out.ptr);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_streams, setup, teardown),
		cmocka_unit_test_setup_teardown(test_invalid_text, setup, teardown),
		cmocka_unit_test_setup_teardown(test_endings, setup, teardown),
		cmocka_unit_test_setup_teardown(test_images, setup, teardown),
		cmocka_unit_test_setup_teardown(test_displays, setup, teardown),
		cmocka_unit_test_setup_teardown(test_duration, setup, teardown),
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_nul_in_output, setup, teardown),
		cmocka_unit_test_setup_teardown(test_damaged_json, setup, teardown),
	};

	return cmocka_run_group_tests_name("results", tests, NULL, NULL);
}
