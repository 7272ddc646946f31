/* SPDX-License-Identifier: Apache-2.0 */
#include "launch.h"

#include "base/fdio.h"
#include "base/kernel_proto.h"
#include "base/own.h"
#include "base/wire.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static struct launch_plan plan;

static int parse(const char *text, struct err *e)
{
	*e = ERR_INIT;
	return launch_parse(&plan, str_from(text), e);
}

static void test_recipe(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(parse("# comment = no\n"
			       "name = x\n"
			       "kernel = python @zygote\n"
			       "  kernel=shell   /opt/shell  -a\t--b=c \r\n"
			       "kernel = node /usr/bin/node\n"
			       "terminal = /bin/bash -l\n"
			       "environment = A=1 2=3 \n"
			       "environment = _b9=\n"
			       "no equals sign\n"
			       "kernel_ = none",
			       &e),
			 0);
	assert_int_equal(plan.program_count, 3);
	char *const *argv = launch_find(&plan, "shell", &e);

	assert_non_null(argv);
	assert_string_equal(argv[0], "/opt/shell");
	assert_string_equal(argv[1], "-a");
	assert_string_equal(argv[2], "--b=c");
	assert_null(argv[3]);
	argv = launch_find(&plan, "node", &e);
	assert_string_equal(argv[0], "/usr/bin/node");
	assert_null(argv[1]);
	argv = launch_find(&plan, "terminal", &e);
	assert_string_equal(argv[0], "/bin/bash");
	assert_string_equal(argv[1], "-l");
	assert_int_equal(plan.environment_count, 2);
	assert_string_equal(plan.environment[0], "A=1 2=3");
	assert_string_equal(plan.environment[1], "_b9=");
	/* Nothing to execute: forked elsewhere, unknown. */
	static const char *const none[] = { "", "python", "cobol", "shel", "shell2" };

	for (size_t i = 0; i < ARRAY_LEN(none); i++) {
		e = ERR_INIT;
		assert_null(launch_find(&plan, none[i], &e));
		assert_int_equal(e.code, ERR_INVALID);
	}
	assert_int_equal(parse("kernel = a /a", &e), 0);
	assert_string_equal(launch_find(&plan, "", &e)[0], "/a");
	assert_null(launch_find(&plan, "terminal", &e));
	assert_non_null(strstr(e.msg, "no terminals"));
}

static void test_bad_recipes(void **state)
{
	static const struct {
		const char *text;
		const char *want;
	} rows[] = {
		{ "", "no kernel" },
		{ "kernel =", "cannot be a language" },
		{ "kernel = a", "kernel names no program" },
		{ "kernel = a b", "'b' is not an absolute path" },
		{ "kernel = terminal /a", "'terminal' cannot be a language" },
		{ "kernel = a/b /a", "'a/b' cannot be a language" },
		{ "kernel = abcdefghijklmnop /a", "cannot be a language" },
		{ "kernel = a /a\nkernel = b /b\nkernel = a /c",
		  "recipe:3: kernel: language 'a' comes twice" },
		{ "kernel = a /a\nterminal = bash", "'bash' is not an absolute path" },
		{ "kernel = a /a\nterminal = @zygote", "'@zygote' is not an absolute path" },
		{ "# x\n\nkernel = a /a\nterminal = /b\r\nterminal = /b\n",
		  "recipe:5: terminal comes twice" },
		{ "kernel = a /a\nenvironment = A", "NAME=value" },
		{ "kernel = a /a\nenvironment = =1", "NAME=value" },
		{ "kernel = a /a\nenvironment = 1A=1", "NAME=value" },
		{ "kernel = a /a\nenvironment = A B=1", "NAME=value" },
		{ "kernel = a /a {memory_mib:}", "recipe:1: kernel: '{memory_mib:}'" },
		{ "kernel = a /a {memory_mib:0}", "{memory_mib:1} to {memory_mib:100}" },
		{ "kernel = a /a {memory_mib:101}", "'{memory_mib:101}'" },
		{ "kernel = a /a {memory_mib:+7}", "'{memory_mib:+7}'" },
		{ "kernel = a /a {memory_mib: 7}", "'{memory_mib:'" },
		{ "kernel = a /a --x={memory_mib:7", "'--x={memory_mib:7'" },
		{ "kernel = a /a {memory_mib:7}{memory_mib:8}", "once in a word" },
		{ "kernel = a /a{memory_mib:7}", "'/a{memory_mib:7}' cannot be a program" },
		{ "kernel = a /a\nterminal = /b {memory_mib:x}", "recipe:2: terminal: " },
	};
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(parse(rows[i].text, &e), -1);
		if (!strstr(e.msg, rows[i].want))
			fail_msg("'%s': %s", rows[i].text, e.msg);
	}
}

/* At each bound, and one past it. */
static void test_bounds(void **state)
{
	static const struct {
		const char *head, *part;
		int max;
		const char *want;
	} rows[] = {
		{ "kernel = x", " /a", LAUNCH_WORDS_MAX, "words" },
		{ "kernel = x /a\nterminal =", " /a", LAUNCH_WORDS_MAX, "words" },
		{ "", "kernel = %c /a\n", LAUNCH_LANGUAGES_MAX, "kernels" },
		{ "kernel = x /a\n", "environment = A=1\n", LAUNCH_ENV_MAX, "environment" },
	};
	struct err e = ERR_INIT;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		for (int extra = 0; extra <= 1; extra++) {
			struct buf b;

			buf_init(&b, RECIPE_MAX);
			buf_add_str(&b, str_from(rows[i].head));
			for (int n = 0; n < rows[i].max + extra; n++)
				buf_addf(&b, rows[i].part, 'a' + n);
			assert_int_equal(parse(b.ptr, &e), -extra);
			if (extra)
				assert_non_null(strstr(e.msg, rows[i].want));
			buf_done(&b);
		}
	}
	OWNED_MEM char *large = malloc(RECIPE_MAX + 2);
	static const char start[] = "kernel = a /a\n";

	memset(large, '\n', RECIPE_MAX + 1);
	large[RECIPE_MAX + 1] = '\0';
	memcpy(large, start, sizeof(start) - 1);
	assert_int_equal(launch_parse(&plan, (struct str){ large, RECIPE_MAX }, &e), 0);
	assert_int_equal(launch_parse(&plan, (struct str){ large, RECIPE_MAX + 1 }, &e), -1);
	assert_int_equal(e.code, ERR_TOO_LARGE);
}

static rlim_t memory = RLIM_INFINITY; /* what the launcher is told */

struct run {
	pid_t pid;
	int sock;
	int out, err; /* read ends */
};

/* A child that launches; its first frame is sent already. */
static struct run start(const char *recipe, const char *language, uint8_t type, struct str payload)
{
	struct err e = ERR_INIT;
	int pair[2], out[2], err_pipe[2];
	char data[256];
	struct run r;

	assert_int_equal(parse(recipe, &e), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(err_pipe, O_CLOEXEC), 0);
	r.pid = fork();
	if (r.pid == 0) {
		const struct rlimit limit = { memory, memory };

		dup2(err_pipe[1], STDERR_FILENO);
		setrlimit(RLIMIT_RSS, &limit);
		_exit(launch_run(&plan, language, pair[1]));
	}
	struct buf b;

	buf_init(&b, sizeof(data));
	wire_put_u32(&b, (uint32_t)payload.len);
	wire_put_u8(&b, type);
	buf_add_str(&b, payload);
	assert_int_equal(fd_send(pair[0], b.ptr, b.len, (int[]){ out[1], err_pipe[1] }, 2), b.len);
	buf_done(&b);
	close(pair[1]);
	close(out[1]);
	close(err_pipe[1]);
	r.sock = pair[0];
	r.out = out[0];
	r.err = err_pipe[0];
	return r;
}

static char *read_all(int fd)
{
	struct buf b;
	char chunk[512];
	ssize_t n;

	buf_init(&b, 65536);
	buf_add(&b, "", 0);
	while ((n = read(fd, chunk, sizeof(chunk))) > 0)
		buf_add(&b, chunk, (size_t)n);
	close(fd);
	return buf_take(&b);
}

static int finish(struct run *r)
{
	int status = 0;

	close(r->sock);
	assert_int_equal(waitpid(r->pid, &status, 0), r->pid);
	assert_true(WIFEXITED(status));
	return WEXITSTATUS(status);
}

#define INIT_PAYLOAD ((struct str){ "\x04\0\0\0seed", 8 })

static void test_run(void **state)
{
	struct run r = start("kernel = sh /bin/sh -c echo\nenvironment = MINE=yes\n"
			     "environment = TERM=mine\nkernel = env /usr/bin/env\n"
			     "terminal = /bin/bash",
			     "env", KERNEL_INIT, INIT_PAYLOAD);
	OWNED_MEM char *out = read_all(r.out);
	OWNED_MEM char *err = read_all(r.err);

	(void)state;
	assert_int_equal(finish(&r), 0);
	assert_string_equal(err, "");
	static const char *const want[] = {
		"TERM=mine\n",    "MINE=yes\n",     "SHELL=/bin/bash\n", "HOME=/home/session\n",
		"USER=session\n", "LANG=C.UTF-8\n", "GIT_PAGER=cat\n",
	};
	size_t lines = 0;

	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		if (!strstr(out, want[i]))
			fail_msg("no %s in %s", want[i], out);
	for (const char *p = out; *p; p++)
		lines += *p == '\n';
	/* Of the caller's own environment nothing is left. */
	assert_int_equal(lines, 10);
}

/* What a program is given of words that name the session's memory. */
static void test_memory(void **state)
{
	static const struct {
		rlim_t bytes;
		const char *want;
	} rows[] = {
		{ RLIM_INFINITY, "{memory_mib} a\n" },
		{ 1ull << 40, "--a=734003b 10485 1048576x {memory_mib} a\n" },
		{ (256u << 20) - 1, "--a=178b 2 255x {memory_mib} a\n" },
		{ 256u << 20, "--a=179b 2 256x {memory_mib} a\n" },
		{ 1u << 20, "--a=0b 0 1x {memory_mib} a\n" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		memory = rows[i].bytes;
		struct run r = start("kernel = echo /bin/echo --a={memory_mib:70}b {memory_mib:1}"
				     " {memory_mib:100}x {memory_mib} a",
				     "", KERNEL_INIT, INIT_PAYLOAD);
		OWNED_MEM char *out = read_all(r.out);

		assert_int_equal(finish(&r), 0);
		close(r.err);
		assert_string_equal(out, rows[i].want);
	}
	memory = RLIM_INFINITY;
}

static void test_descriptors(void **state)
{
	struct run r = start("kernel = ls /bin/ls /proc/self/fd", "", KERNEL_INIT, INIT_PAYLOAD);
	OWNED_MEM char *out = read_all(r.out);

	(void)state;
	assert_int_equal(finish(&r), 0);
	close(r.err);
	/* 4 is the directory that ls reads. */
	assert_string_equal(out, "0\n1\n2\n3\n4\n");
}

/* What cannot be executed says so where the kernel's own words would go. */
static void test_missing_program(void **state)
{
	struct run r = start("kernel = x /nonexistent/kernel", "", KERNEL_INIT, INIT_PAYLOAD);
	OWNED_MEM char *out = read_all(r.out);
	OWNED_MEM char *err = read_all(r.err);

	(void)state;
	assert_int_equal(finish(&r), LAUNCH_FAILED);
	assert_string_equal(out, "");
	assert_non_null(strstr(err, "cannot start /nonexistent/kernel"));
	assert_int_equal(strchr(err, '\n') - err, (long)strlen(err) - 1);
}

static void test_bad_frames(void **state)
{
	static const struct {
		const char *language;
		uint8_t type;
		struct str payload;
		const char *want;
	} rows[] = {
		{ "", KERNEL_RUN, { "\0\0\0\0", 4 }, "first frame of type 2" },
		{ "", KERNEL_TERMINAL, { "\0\0\0\0", 4 }, "first frame of type 3" },
		{ "", KERNEL_INIT, { "\x05\0\0\0seed", 8 }, "malformed INIT" },
		{ "", KERNEL_INIT, { "\x03\0\0\0seed", 8 }, "malformed INIT" },
		{ "", KERNEL_INIT, { "", 0 }, "malformed INIT" },
		{ "terminal", KERNEL_INIT, { "\x04\0\0\0seed", 8 }, "first frame of type 1" },
		{ "cobol", KERNEL_INIT, { "\x04\0\0\0seed", 8 }, "no program for language" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct run r = start("kernel = x /bin/true\nterminal = /bin/sh", rows[i].language,
				     rows[i].type, rows[i].payload);
		OWNED_MEM char *err = read_all(r.err);

		close(r.out);
		assert_int_equal(finish(&r), LAUNCH_FAILED);
		if (!strstr(err, rows[i].want))
			fail_msg("row %zu: %s", i, err);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_recipe),          cmocka_unit_test(test_bad_recipes),
		cmocka_unit_test(test_bounds),          cmocka_unit_test(test_run),
		cmocka_unit_test(test_memory),          cmocka_unit_test(test_descriptors),
		cmocka_unit_test(test_missing_program), cmocka_unit_test(test_bad_frames),
	};

	/* A first frame may go to a process that has given up. */
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests_name("launch", tests, NULL, NULL);
}
