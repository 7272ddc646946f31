/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"
#include "base/fdio.h"
#include "base/log.h"
#include "base/own.h"
#include "daemon/egress.h"
#include "daemon/egress_log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static struct options settings(void)
{
	return (struct options){
		.egress = "on", .egress_connections = 1, .egress_rate = 2, .egress_bandwidth = 70000
	};
}

static void assert_refused(struct options o, const char *want)
{
	struct err e = ERR_INIT;

	assert_int_equal(egress_check(&o, &e), -1);
	assert_int_equal(e.code, ERR_INVALID);
	if (!strstr(e.msg, want))
		fail_msg("no '%s' in: %s", want, e.msg);
}

static void test_settings(void **state)
{
	static const struct {
		const char *text, *want;
	} allow[] = {
		{ "", "not ''" },
		{ "10.1.0.0/16,", "not ''" },
		{ "10.1.0.0/33", "not '10.1.0.0/33'" },
		{ "10.1.0.0/", "not '10.1.0.0/'" },
		{ "10.1/16", "not '10.1/16'" },
		{ "10.1.0.0 /16", "not '10.1.0.0 /16'" },
		{ "010.1.0.0/16", "not '010.1.0.0/16'" },
		{ "fd00::/8", "IPv4 networks" },
		{ "0.0.0.0/0", "too wide" },
		{ "10.0.0.0/7", "too wide" },
		{ "10.1.2.3/16", "the network is 10.1.0.0/16, the address alone 10.1.2.3/32" },
		{ "10.1.0.0/16; flush ruleset", "not '10.1.0.0/16; flush" },
		{ "1111111111111111111111111111111111111111111111111111111111111111111",
		  "too long" },
	};
	static const char *const dns[] = { "",        "9.9.9.9,", "9.9.9.9/32", "dns.example",
					   "0.0.0.0", "::1",      "9.9.9" };
	struct options o = settings();
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(egress_check(&o, &e), 0);
	o.egress = "off";
	o.egress_allow = "10.0.0.0/8,10.1.2.3,192.168.7.0/24,10.1.2.3/32";
	o.dns = "9.9.9.9,1.1.1.1,8.8.8.8";
	assert_int_equal(egress_check(&o, &e), 0);
	o.egress = "maybe";
	assert_refused(o, "--egress is on or off, not 'maybe'");
	for (size_t i = 0; i < ARRAY_LEN(allow); i++) {
		o = settings();
		o.egress_allow = allow[i].text;
		assert_refused(o, allow[i].want);
	}
	for (size_t i = 0; i < ARRAY_LEN(dns); i++) {
		o = settings();
		o.dns = dns[i];
		assert_refused(o, "--dns takes IPv4 addresses");
	}
	o.dns = "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4";
	assert_refused(o, "--dns takes at most 3");
}

static void test_args(void **state)
{
	static const char *const want[] = {
		"--egress",
		"on",
		"--egress-connections",
		"1",
		"--egress-rate",
		"2",
		"--egress-bandwidth",
		"70000",
		"--egress-allow",
		"10.0.0.0/8",
		"--dns",
		"9.9.9.9",
	};
	const char *args[EGRESS_ARGS_MAX + 1];
	struct options o = settings();

	(void)state;
	o.egress_allow = "10.0.0.0/8";
	o.dns = "9.9.9.9";
	egress_args(&o, true, args);
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		assert_string_equal(args[i], want[i]);
	assert_null(args[ARRAY_LEN(want)]);
	egress_args(&o, false, args);
	assert_string_equal(args[0], "--egress");
	assert_string_equal(args[1], "off");
	assert_null(args[2]);
	o.egress = "off";
	assert_non_null(strstr(egress_find(&o, "/nowhere"), "--egress on"));
	o.egress = "on";
	assert_non_null(egress_find(&o, "/nowhere"));
}

static char dir[64];

static void assert_file(const char *name, const char *want)
{
	OWNED_MEM char *path = str_printf("%s/%s", dir, name);
	struct buf text;
	struct err e = ERR_INIT;

	buf_init(&text, 1 << 20);
	if (fd_read_file(AT_FDCWD, path, 1 << 20, &text, &e) < 0)
		fail_msg("%s", e.msg);
	buf_add_str(&text, (struct str){ "", 1 });
	assert_string_equal(text.ptr, want);
	buf_done(&text);
}

static int setup(void **state)
{
	(void)state;
	log_init("test", LOG_ERROR);
	snprintf(dir, sizeof(dir), "/tmp/bivouac-egress-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	OWNED_MEM char *command = str_printf("rm -rf %s", dir);

	(void)state;
	egress_log_close();
	return system(command);
}

static void test_log_rotates(void **state)
{
	struct stat st;
	OWNED_MEM char *path = str_printf("%s/egress.jsonl", dir);

	(void)state;
	egress_log_open(dir, 8);
	egress_log_write("abc", 3);
	egress_log_write("def", 3); /* 8 bytes: just fits */
	assert_file("egress.jsonl", "abc\ndef\n");
	egress_log_write("g", 1);
	assert_file("egress.jsonl.1", "abc\ndef\n");
	assert_file("egress.jsonl", "g\n");
	/* A line that is longer than the file may be has one for itself. */
	egress_log_write("0123456789", 10);
	assert_file("egress.jsonl.1", "g\n");
	assert_file("egress.jsonl", "0123456789\n");
	egress_log_write("h", 1);
	assert_file("egress.jsonl", "h\n");
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	/* The next daemon goes on where this one ended. */
	egress_log_close();
	egress_log_open(dir, 8);
	egress_log_write("i", 1);
	assert_file("egress.jsonl", "h\ni\n");
}

static void test_log_off(void **state)
{
	OWNED_MEM char *path = str_printf("%s/egress.jsonl", dir);

	(void)state;
	egress_log_open(dir, 0);
	egress_log_write("abc", 3);
	assert_int_equal(access(path, F_OK), -1);
}

/* As on a full disk: the write ends in the middle of a line. */
static void test_log_full(void **state)
{
	struct rlimit before;

	(void)state;
	signal(SIGXFSZ, SIG_IGN);
	egress_log_open(dir, 1 << 20);
	egress_log_write("abc", 3);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 6, before.rlim_max }), 0);
	egress_log_write("defgh", 5);
	egress_log_write("defgh", 5);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
	assert_file("egress.jsonl", "abc\n");
	egress_log_write("ijk", 3);
	assert_file("egress.jsonl", "abc\nijk\n");
}

static void test_log_never_follows_or_waits(void **state)
{
	OWNED_MEM char *path = str_printf("%s/egress.jsonl", dir);
	OWNED_MEM char *other = str_printf("%s/other", dir);

	(void)state;
	assert_int_equal(symlink(other, path), 0);
	egress_log_open(dir, 100);
	egress_log_write("abc", 3);
	egress_log_close();
	assert_int_equal(access(other, F_OK), -1);
	assert_int_equal(unlink(path), 0);
	assert_int_equal(mkfifo(path, 0600), 0);
	egress_log_open(dir, 100);
	egress_log_write("abc", 3); /* returns */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_settings),
		cmocka_unit_test(test_args),
		cmocka_unit_test_setup_teardown(test_log_rotates, setup, teardown),
		cmocka_unit_test_setup_teardown(test_log_off, setup, teardown),
		cmocka_unit_test_setup_teardown(test_log_full, setup, teardown),
		cmocka_unit_test_setup_teardown(test_log_never_follows_or_waits, setup, teardown),
	};

	return cmocka_run_group_tests_name("egress", tests, NULL, NULL);
}
