/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "sandbox/agent_frames.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

static struct buf frame;

static int setup(void **state)
{
	(void)state;
	buf_init(&frame, 1 << 20);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	buf_done(&frame);
	return 0;
}

/* Copies the first len bytes of the frame, so that ASan sees any byte read beyond them. */
static char *part(size_t len)
{
	char *p = malloc(len ? len : 1);

	memcpy(p, frame.ptr, len);
	return p;
}

/* ---- header ---- */

static bool header(uint32_t len, uint8_t version, uint16_t zero, struct agent_frame *ret)
{
	buf_clear(&frame);
	wire_put_u32(&frame, len);
	wire_put_u8(&frame, version);
	wire_put_u8(&frame, AGENT_STATUS);
	wire_put_u16(&frame, zero);
	wire_put_u64(&frame, 0x1122334455667788);
	assert_int_equal(frame.len, AGENT_HEADER_SIZE);
	return agent_frame_header(frame.ptr, ret);
}

static void test_header(void **state)
{
	struct agent_frame f;

	(void)state;
	assert_true(header(AGENT_FRAME_MAX, AGENT_PROTO_VERSION, 0, &f));
	assert_int_equal(f.len, AGENT_FRAME_MAX);
	assert_int_equal(f.type, AGENT_STATUS);
	assert_true(f.op == 0x1122334455667788);
	assert_false(header(AGENT_FRAME_MAX + 1, AGENT_PROTO_VERSION, 0, &f));
	assert_false(header(UINT32_MAX, AGENT_PROTO_VERSION, 0, &f));
	assert_false(header(0, AGENT_PROTO_VERSION + 1, 0, &f));
	assert_false(header(0, 0, 0, &f));
	assert_false(header(0, AGENT_PROTO_VERSION, 1, &f));
	assert_false(header(0, AGENT_PROTO_VERSION, 0x8000, &f));
	assert_true(header(0, AGENT_PROTO_VERSION, 0, &f));
}

/* ---- results ---- */

static void put_result(uint8_t status, uint8_t kind, uint32_t displays, uint8_t display_kind)
{
	buf_clear(&frame);
	wire_put_u8(&frame, status);
	wire_put_u8(&frame, AGENT_KERNEL_IDLE);
	wire_put_u64(&frame, 1234);
	wire_put_u64(&frame, 5);
	wire_put_u64(&frame, 6);
	wire_put_u8(&frame, kind);
	wire_put_blob(&frame, STR("value"));
	wire_put_blob(&frame, STR("out"));
	wire_put_blob(&frame, STR("err"));
	wire_put_blob(&frame, STR("Name"));
	wire_put_blob(&frame, STR("text"));
	wire_put_blob(&frame, STR("trace"));
	wire_put_u32(&frame, displays);
	for (uint32_t i = 0; i < displays; i++) {
		char text[16];

		snprintf(text, sizeof(text), "d%u", i);
		wire_put_u8(&frame, display_kind);
		wire_put_blob(&frame, str_from(text));
	}
	assert_true(buf_ok(&frame));
}

static bool result(struct agent_result *ret)
{
	struct wire_reader r = wire_reader(frame.ptr, frame.len);

	return agent_frame_result(&r, ret);
}

static void test_result(void **state)
{
	struct agent_result res;

	(void)state;
	put_result(AGENT_RESULT_ERROR, KERNEL_VALUE_STR, 2, KERNEL_VALUE_IMAGE);
	assert_true(result(&res));
	assert_int_equal(res.status, AGENT_RESULT_ERROR);
	assert_true(res.kernel_idle);
	assert_int_equal(res.duration_us, 1234);
	assert_int_equal(res.stdout_dropped, 5);
	assert_int_equal(res.stderr_dropped, 6);
	assert_int_equal(res.value.kind, KERNEL_VALUE_STR);
	assert_true(str_eq(res.value.data, STR("value")));
	assert_true(str_eq(res.out, STR("out")));
	assert_true(str_eq(res.err, STR("err")));
	assert_true(str_eq(res.error_name, STR("Name")));
	assert_true(str_eq(res.error_text, STR("text")));
	assert_true(str_eq(res.traceback, STR("trace")));
	assert_int_equal(res.display_count, 2);
	assert_true(str_eq(res.displays[1].data, STR("d1")));
	assert_int_equal(res.displays[1].kind, KERNEL_VALUE_IMAGE);
}

static void test_result_limits(void **state)
{
	struct agent_result res;
	const uint32_t max = ARRAY_LEN(res.displays);

	(void)state;
	put_result(AGENT_RESULT_OK, KERNEL_VALUE_NONE, max, KERNEL_VALUE_IMAGE);
	assert_true(result(&res));
	assert_int_equal(res.display_count, max);
	put_result(AGENT_RESULT_OK, KERNEL_VALUE_NONE, max + 1, KERNEL_VALUE_IMAGE);
	assert_false(result(&res));
	put_result(AGENT_RESULT_NOT_RUN, KERNEL_VALUE_IMAGE, 0, 0);
	assert_true(result(&res));
	put_result(AGENT_RESULT_NOT_RUN + 1, KERNEL_VALUE_NONE, 0, 0);
	assert_false(result(&res));
	put_result(255, KERNEL_VALUE_NONE, 0, 0);
	assert_false(result(&res));
	put_result(AGENT_RESULT_OK, KERNEL_VALUE_NONE, 0, 0);
	frame.ptr[1] = AGENT_KERNEL_BUSY;
	assert_true(result(&res));
	assert_false(res.kernel_idle);
	frame.ptr[1] = AGENT_KERNEL_BUSY + 1;
	assert_false(result(&res));
	put_result(AGENT_RESULT_OK, KERNEL_VALUE_IMAGE + 1, 0, 0);
	assert_false(result(&res));
	put_result(AGENT_RESULT_OK, KERNEL_VALUE_NONE, 1, KERNEL_VALUE_IMAGE + 1);
	assert_false(result(&res));
	put_result(AGENT_RESULT_OK, KERNEL_VALUE_NONE, 1, KERNEL_VALUE_IMAGE);
	wire_put_u8(&frame, 0); /* one byte too many */
	assert_false(result(&res));
}

static void test_result_truncated(void **state)
{
	(void)state;
	put_result(AGENT_RESULT_OK, KERNEL_VALUE_STR, 3, KERNEL_VALUE_IMAGE);
	for (size_t cut = 0; cut < frame.len; cut++) {
		OWNED_MEM char *p = part(cut);
		struct wire_reader r = wire_reader(p, cut);
		struct agent_result res;

		if (agent_frame_result(&r, &res))
			fail_msg("accepted %zu of %zu bytes", cut, frame.len);
	}
}

/* ---- files ---- */

static void put_file(uint8_t directory, uint64_t size, uint64_t mtime_us, struct str path)
{
	wire_put_u8(&frame, directory);
	wire_put_u64(&frame, size);
	wire_put_u64(&frame, mtime_us);
	wire_put_blob(&frame, path);
}

static bool file(struct agent_file *ret)
{
	struct wire_reader r = wire_reader(frame.ptr, frame.len);

	return agent_frame_file(&r, ret);
}

static void test_file(void **state)
{
	static char path[AGENT_PATH_MAX + 1];
	static const struct {
		uint64_t in;
		int64_t out;
	} times[] = {
		{ 0, 0 },
		{ 1795293524123456, 1795293524123456 },
		{ 253402300799000000, 253402300799000000 },
		{ 253402300799000001, 0 },
		{ INT64_MAX, 0 },
		{ UINT64_MAX, 0 },
		{ (uint64_t)1 << 63, 0 },
	};
	struct agent_file f;

	(void)state;
	memset(path, 'p', sizeof(path));
	put_file(2, UINT64_MAX, 7, (struct str){ path, AGENT_PATH_MAX });
	assert_true(file(&f));
	assert_true(f.directory);
	assert_true(f.size == UINT64_MAX);
	assert_int_equal(f.mtime_us, 7);
	assert_int_equal(f.path.len, AGENT_PATH_MAX);
	buf_clear(&frame);
	put_file(0, 0, 0, (struct str){ path, AGENT_PATH_MAX + 1 });
	assert_false(file(&f));
	for (size_t i = 0; i < ARRAY_LEN(times); i++) {
		buf_clear(&frame);
		put_file(0, 1, times[i].in, STR("x"));
		assert_true(file(&f));
		assert_false(f.directory);
		assert_true(f.mtime_us == times[i].out);
	}
	for (size_t cut = 0; cut < frame.len; cut++) {
		OWNED_MEM char *p = part(cut);
		struct wire_reader r = wire_reader(p, cut);

		assert_false(agent_frame_file(&r, &f));
	}
}

static bool entries(const char *bytes, size_t len, struct agent_file **ret, size_t *ret_count,
		    bool *ret_more)
{
	struct wire_reader r = wire_reader(bytes, len);

	return agent_frame_entries(&r, ret, ret_count, ret_more);
}

static void test_entries(void **state)
{
	struct agent_file *files = NULL;
	size_t count = 99;
	bool more;

	(void)state;
	wire_put_u8(&frame, 0);
	wire_put_u32(&frame, 0);
	assert_true(entries(frame.ptr, frame.len, &files, &count, &more));
	assert_int_equal(count, 0);
	assert_false(more);
	free(files);
	buf_clear(&frame);
	wire_put_u8(&frame, 1);
	wire_put_u32(&frame, 3);
	for (int i = 0; i < 3; i++)
		put_file(i == 1, 10, 20, i == 2 ? STR("") : STR("name"));
	assert_true(entries(frame.ptr, frame.len, &files, &count, &more));
	assert_int_equal(count, 3);
	assert_true(more);
	assert_true(files[1].directory && !files[0].directory);
	assert_true(str_eq(files[1].path, STR("name")));
	assert_int_equal(files[2].path.len, 0);
	free(files);
	files = NULL;
	for (size_t cut = 0; cut < frame.len; cut++) {
		OWNED_MEM char *p = part(cut);

		assert_false(entries(p, cut, &files, &count, &more));
		assert_null(files);
	}
	wire_put_u8(&frame, 0);
	assert_false(entries(frame.ptr, frame.len, &files, &count, &more));
}

static void test_entries_counts(void **state)
{
	static const uint32_t counts[] = { 2, 1000, 0x0c30c30d, 0x7fffffff, UINT32_MAX };
	struct agent_file *files = NULL;
	size_t count;
	bool more;

	(void)state;
	/* More entries than the bytes can hold: refused before memory is asked for. */
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		buf_clear(&frame);
		wire_put_u8(&frame, 0);
		wire_put_u32(&frame, counts[i]);
		put_file(0, 1, 2, STR("x"));
		assert_false(entries(frame.ptr, frame.len, &files, &count, &more));
		assert_null(files);
	}
	/* Fewer than the bytes hold. */
	buf_clear(&frame);
	wire_put_u8(&frame, 0);
	wire_put_u32(&frame, 1);
	put_file(0, 1, 2, STR("x"));
	put_file(0, 1, 2, STR("y"));
	assert_false(entries(frame.ptr, frame.len, &files, &count, &more));
	assert_null(files);
}

/* ---- errors ---- */

static bool error(uint32_t code, struct str msg, struct err *ret)
{
	buf_clear(&frame);
	wire_put_u32(&frame, code);
	wire_put_blob(&frame, msg);
	struct wire_reader r = wire_reader(frame.ptr, frame.len);

	return agent_frame_error(&r, ret);
}

static void test_error(void **state)
{
	static char text[2 * ERR_MSG_MAX];
	struct err e = ERR_INIT;

	(void)state;
	assert_true(error(ERR_NO_FILE, STR("no such file"), &e));
	assert_int_equal(e.code, ERR_NO_FILE);
	assert_string_equal(e.msg, "no such file");
	assert_true(error(ERR_CODE_MAX - 1, STR(""), &e));
	assert_int_equal(e.code, ERR_CODE_MAX - 1);
	assert_string_equal(e.msg, "");
	/* Success, and codes there are none of, must not become a reply. */
	assert_true(error(ERR_NONE, STR("x"), &e));
	assert_int_equal(e.code, ERR_INTERNAL);
	assert_true(error(ERR_CODE_MAX, STR("x"), &e));
	assert_int_equal(e.code, ERR_INTERNAL);
	assert_true(error(UINT32_MAX, STR("x"), &e));
	assert_int_equal(e.code, ERR_INTERNAL);
	assert_true(error(ERR_INVALID, (struct str){ "%s%n\x1b[2J\n\0\x7f\xc3\xa9", 13 }, &e));
	assert_string_equal(e.msg, "%s%n?[2J?????");
	memset(text, 'x', sizeof(text));
	for (size_t len = ERR_MSG_MAX - 2; len <= ERR_MSG_MAX + 1; len++) {
		assert_true(error(ERR_INVALID, (struct str){ text, len }, &e));
		assert_int_equal(strlen(e.msg), len < ERR_MSG_MAX ? len : ERR_MSG_MAX - 1);
	}
	assert_true(error(ERR_INVALID, (struct str){ text, sizeof(text) }, &e));
	error(ERR_INVALID, STR("some text"), &e);
	for (size_t cut = 0; cut < frame.len; cut++) {
		OWNED_MEM char *p = part(cut);
		struct wire_reader r = wire_reader(p, cut);

		assert_false(agent_frame_error(&r, &e));
	}
	wire_put_u8(&frame, 0);
	struct wire_reader r = wire_reader(frame.ptr, frame.len);

	assert_false(agent_frame_error(&r, &e));
}

/* ---- status ---- */

static void put_kernel(uint32_t number, uint8_t state, struct str label)
{
	wire_put_u32(&frame, number);
	wire_put_u8(&frame, state);
	wire_put_blob(&frame, label);
}

static void put_exec(uint64_t op, uint8_t state, uint32_t kernel)
{
	wire_put_u64(&frame, op);
	wire_put_u8(&frame, state);
	wire_put_u32(&frame, kernel);
}

static bool status(struct agent_status *ret)
{
	struct wire_reader r = wire_reader(frame.ptr, frame.len);

	return agent_frame_status(&r, ret);
}

static bool one_kernel(uint32_t number, uint8_t state, size_t label_len)
{
	static char label[AGENT_LABEL_MAX + 1];
	struct agent_status s;

	buf_clear(&frame);
	wire_put_u32(&frame, 1);
	put_kernel(number, state, (struct str){ label, label_len });
	wire_put_u32(&frame, 0);
	wire_put_u32(&frame, 0);
	return status(&s);
}

static bool two_execs(uint64_t a, uint8_t a_state, uint32_t a_kernel, uint64_t b, uint8_t b_state,
		      uint32_t b_kernel)
{
	struct agent_status s;

	buf_clear(&frame);
	wire_put_u32(&frame, 0);
	wire_put_u32(&frame, 2);
	put_exec(a, a_state, a_kernel);
	put_exec(b, b_state, b_kernel);
	wire_put_u32(&frame, 0);
	return status(&s);
}

static void put_status(uint32_t kernels, uint32_t execs, uint32_t terminals)
{
	buf_clear(&frame);
	wire_put_u32(&frame, kernels);
	for (uint32_t i = 0; i < kernels; i++)
		put_kernel(i, AGENT_KERNEL_IDLE, STR("name\nlanguage"));
	wire_put_u32(&frame, execs);
	for (uint32_t i = 0; i < execs; i++)
		put_exec(i + 1, AGENT_EXEC_FINISHED, 15);
	wire_put_u32(&frame, terminals);
	for (uint32_t i = 0; i < terminals; i++) {
		wire_put_u64(&frame, i + 1);
		wire_put_blob(&frame, STR("id"));
	}
	assert_true(buf_ok(&frame));
}

static void test_status(void **state)
{
	struct agent_status s;
	const uint32_t execs_max = ARRAY_LEN(s.execs);

	(void)state;
	put_status(AGENT_KERNELS_MAX, execs_max, AGENT_TERMINALS_MAX);
	assert_true(status(&s));
	assert_int_equal(s.kernel_count, AGENT_KERNELS_MAX);
	assert_int_equal(s.exec_count, execs_max);
	assert_int_equal(s.terminal_count, AGENT_TERMINALS_MAX);
	assert_int_equal(s.kernels[3].kernel, 3);
	assert_true(str_eq(s.kernels[3].label, STR("name\nlanguage")));
	assert_int_equal(s.execs[3].op, 4);
	assert_int_equal(s.execs[3].kernel, 15);
	assert_true(str_eq(s.terminals[7].label, STR("id")));
	for (size_t cut = 0; cut < frame.len; cut++) {
		OWNED_MEM char *p = part(cut);
		struct wire_reader r = wire_reader(p, cut);

		assert_false(agent_frame_status(&r, &s));
	}
	wire_put_u8(&frame, 0);
	assert_false(status(&s));
	put_status(AGENT_KERNELS_MAX + 1, 0, 0);
	assert_false(status(&s));
	put_status(0, execs_max + 1, 0);
	assert_false(status(&s));
	put_status(0, 0, AGENT_TERMINALS_MAX + 1);
	assert_false(status(&s));
	put_status(0, 0, 0);
	assert_true(status(&s));
	memset(frame.ptr, 0xff, 4);
	assert_false(status(&s));
}

static void test_status_values(void **state)
{
	const uint8_t run = AGENT_EXEC_RUNNING;
	const uint8_t end = AGENT_EXEC_FINISHED;

	(void)state;
	assert_true(one_kernel(15, AGENT_KERNEL_BUSY, AGENT_LABEL_MAX));
	assert_false(one_kernel(16, AGENT_KERNEL_BUSY, 0));
	assert_false(one_kernel(UINT32_MAX, AGENT_KERNEL_BUSY, 0));
	assert_false(one_kernel(0, AGENT_KERNEL_BUSY + 1, 0));
	assert_false(one_kernel(0, AGENT_KERNEL_IDLE, AGENT_LABEL_MAX + 1));
	assert_true(two_execs(1, run, 0, 2, run, 1));
	assert_true(two_execs(1, run, 0, 2, end, 0));
	assert_false(two_execs(1, run, 0, 2, run, 0)); /* one at a time */
	assert_false(two_execs(1, end, 0, 1, end, 1));
	assert_false(two_execs(1, 0, 0, 2, run, 1));
	assert_false(two_execs(1, 3, 0, 2, run, 1));
	assert_false(two_execs(1, run, 16, 2, run, 1));
	buf_clear(&frame);
	wire_put_u32(&frame, 2);
	put_kernel(1, AGENT_KERNEL_IDLE, STR("a"));
	put_kernel(1, AGENT_KERNEL_IDLE, STR("b"));
	wire_put_u32(&frame, 0);
	wire_put_u32(&frame, 0);
	struct agent_status s;

	assert_false(status(&s));
	buf_clear(&frame);
	wire_put_u32(&frame, 0);
	wire_put_u32(&frame, 0);
	wire_put_u32(&frame, 2);
	for (int i = 0; i < 2; i++) {
		wire_put_u64(&frame, 9);
		wire_put_blob(&frame, STR("id"));
	}
	assert_false(status(&s));
}

/* ---- states, output ---- */

static void test_kernel_state(void **state)
{
	static const struct {
		uint32_t kernel;
		uint8_t state, death;
		bool ok;
	} cases[] = {
		{ 0, AGENT_KERNEL_NONE, AGENT_DEATH_NONE, true },
		{ 15, AGENT_KERNEL_BUSY, AGENT_DEATH_KILLED, true },
		{ 16, AGENT_KERNEL_IDLE, AGENT_DEATH_NONE, false },
		{ UINT32_MAX, AGENT_KERNEL_IDLE, AGENT_DEATH_NONE, false },
		{ 0, AGENT_KERNEL_BUSY + 1, AGENT_DEATH_NONE, false },
		{ 0, AGENT_KERNEL_NONE, AGENT_DEATH_KILLED + 1, false },
		{ 0, AGENT_KERNEL_NONE, 255, false },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct agent_kernel_change c;

		buf_clear(&frame);
		wire_put_u32(&frame, cases[i].kernel);
		wire_put_u8(&frame, cases[i].state);
		wire_put_u8(&frame, cases[i].death);
		wire_put_u32(&frame, 9);
		struct wire_reader r = wire_reader(frame.ptr, frame.len);

		assert_int_equal(agent_frame_kernel_state(&r, &c), cases[i].ok);
		for (size_t cut = 0; cut < frame.len; cut++) {
			OWNED_MEM char *p = part(cut);

			r = wire_reader(p, cut);
			assert_false(agent_frame_kernel_state(&r, &c));
		}
	}
}

static bool terminal_state(uint8_t over, uint8_t death, size_t extra,
			   struct agent_terminal_change *ret)
{
	buf_clear(&frame);
	wire_put_u8(&frame, over);
	wire_put_u8(&frame, death);
	wire_put_u32(&frame, 7);
	for (size_t i = 0; i < extra; i++)
		wire_put_u8(&frame, 0);
	struct wire_reader r = wire_reader(frame.ptr, frame.len);

	return agent_frame_terminal_state(&r, ret);
}

static void test_terminal_state(void **state)
{
	struct agent_terminal_change c;

	(void)state;
	assert_true(terminal_state(1, AGENT_DEATH_SIGNAL, 0, &c));
	assert_true(c.ended);
	assert_int_equal(c.code, 7);
	assert_true(terminal_state(0, AGENT_DEATH_NONE, 0, &c));
	assert_false(c.ended);
	assert_false(terminal_state(2, AGENT_DEATH_NONE, 0, &c));
	assert_false(terminal_state(1, AGENT_DEATH_KILLED + 1, 0, &c));
	assert_false(terminal_state(1, AGENT_DEATH_EXIT, 1, &c));
}

static bool output(uint8_t stream, size_t len)
{
	static char bytes[AGENT_STREAM_CHUNK + 1];
	struct str got;
	int number;

	buf_clear(&frame);
	wire_put_u8(&frame, stream);
	buf_add(&frame, bytes, len);
	struct wire_reader r = wire_reader(frame.ptr, frame.len);

	return agent_frame_output(&r, &number, &got) && number == stream && got.len == len;
}

static void test_output(void **state)
{
	struct agent_value v;

	(void)state;
	assert_true(output(1, 1));
	assert_true(output(2, AGENT_STREAM_CHUNK));
	assert_false(output(1, AGENT_STREAM_CHUNK + 1));
	assert_false(output(1, 0));
	assert_false(output(0, 1));
	assert_false(output(3, 1));
	buf_clear(&frame);
	wire_put_u8(&frame, KERNEL_VALUE_IMAGE);
	wire_put_blob(&frame, STR("abc"));
	struct wire_reader r = wire_reader(frame.ptr, frame.len);

	assert_true(agent_frame_display(&r, &v));
	assert_true(str_eq(v.data, STR("abc")));
	wire_put_u8(&frame, 0);
	r = wire_reader(frame.ptr, frame.len);
	assert_false(agent_frame_display(&r, &v));
	frame.ptr[0] = KERNEL_VALUE_IMAGE + 1;
	r = wire_reader(frame.ptr, frame.len - 1);
	assert_false(agent_frame_display(&r, &v));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_header, setup, teardown),
		cmocka_unit_test_setup_teardown(test_result, setup, teardown),
		cmocka_unit_test_setup_teardown(test_result_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_result_truncated, setup, teardown),
		cmocka_unit_test_setup_teardown(test_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_entries, setup, teardown),
		cmocka_unit_test_setup_teardown(test_entries_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_error, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status, setup, teardown),
		cmocka_unit_test_setup_teardown(test_status_values, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kernel_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_terminal_state, setup, teardown),
		cmocka_unit_test_setup_teardown(test_output, setup, teardown),
	};

	return cmocka_run_group_tests_name("agent_frames", tests, NULL, NULL);
}
