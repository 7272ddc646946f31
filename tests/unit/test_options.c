/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fdio.h"
#include "base/own.h"
#include "daemon/options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>

static int parse(struct options *o, struct err *e, const char *first, ...)
{
	char *argv[32] = { (char *)"bivouacd" };
	int argc = 1;
	va_list ap;

	*e = ERR_INIT;
	va_start(ap, first);
	for (const char *word = first; word; word = va_arg(ap, const char *))
		argv[argc++] = (char *)word;
	va_end(ap);
	return options_parse(o, argc, argv, e);
}

#define assert_parses(o, ...)                                                                      \
	do {                                                                                       \
		struct err e_;                                                                     \
		if (parse(o, &e_, __VA_ARGS__, NULL) < 0)                                          \
			fail_msg("%s", e_.msg);                                                    \
	} while (0)
#define assert_refused(part, ...)                                                                  \
	do {                                                                                       \
		struct options o_;                                                                 \
		struct err e_;                                                                     \
		assert_int_equal(parse(&o_, &e_, __VA_ARGS__, NULL), -1);                          \
		assert_int_equal(e_.code, ERR_INVALID);                                            \
		if (!strstr(e_.msg, part))                                                         \
			fail_msg("no '%s' in: %s", part, e_.msg);                                  \
	} while (0)

static void test_defaults(void **state)
{
	struct options o;
	struct err e;

	(void)state;
	assert_int_equal(parse(&o, &e, NULL), 0);
	assert_int_equal(e.code, ERR_NONE);
	assert_false(o.dev || o.keep_sessions || o.help || o.version);
	assert_string_equal(o.listen, "127.0.0.1:8900"); /* never the whole network */
	assert_string_equal(o.state_dir, "/var/lib/bivouac");
	assert_string_equal(o.run_dir, "/run/bivouac");
	assert_string_equal(o.user, "bivouac");
	assert_string_equal(o.log_level, "info");
	assert_null(o.config);
	assert_int_equal(o.body_max, 8 << 20);
	assert_int_equal(o.executions_kept, 64);
	assert_int_equal(o.buffers_max, 512 << 20);
	assert_int_equal(o.results_kept_max, 32 << 20);
}

static void test_forms(void **state)
{
	struct options o;

	(void)state;
	assert_parses(&o, "--dev", "--listen", "[::1]:0", "--state=/s=t", "--ready=0",
		      "--keep-sessions=false");
	assert_true(o.dev);
	assert_false(o.keep_sessions);
	assert_string_equal(o.listen, "[::1]:0");
	assert_string_equal(o.state_dir, "/s=t");
	assert_int_equal(o.ready, 0);
	assert_parses(&o, "--keep-sessions=true", "--listen", "--dev"); /* a value, not an option */
	assert_true(o.keep_sessions);
	assert_false(o.dev);
	assert_string_equal(o.listen, "--dev");
	assert_parses(&o, "--ready", "5", "--ready", "6"); /* the last one counts */
	assert_int_equal(o.ready, 6);
	assert_parses(&o, "--help", "--version");
	assert_true(o.help && o.version);
}

static void test_unknown(void **state)
{
	(void)state;
	assert_refused("'--nothing'", "--nothing");
	assert_refused("'--de'", "--de"); /* no abbreviations: the next version may add a name */
	assert_refused("'--devel'", "--devel");
	assert_refused("'--DEV'", "--DEV");
	assert_refused("'--'", "--");
	assert_refused("'-d'", "-d");
	assert_refused("'serve'", "--dev", "serve");
	assert_refused("''", "");
	assert_refused("--listen needs a value", "--dev", "--listen");
	assert_refused("true or false", "--dev=yes");
	assert_refused("true or false", "--dev=");
}

static void test_ranges(void **state)
{
	static const struct {
		const char *name, *min, *max, *below, *above;
	} rows[] = {
		{ "ready", "0", "10000", NULL, "10001" },
		{ "shells", "0", "10000", NULL, "10001" },
		{ "starting-max", "1", "1000", "0", "1001" },
		{ "connections-max", "1", "19000", "0", "19001" },
		{ "body-max", "1024", "1073741824", "1023", "1073741825" },
		{ "buffers-max", "1048576", "1099511627776", "1048575", "1099511627777" },
		{ "code-max", "1024", "7340032", "1023", "7340033" },
		{ "output-max", "1024", "4194304", "1023", "4194305" },
		{ "result-max", "1024", "8388608", "1023", "8388609" },
		{ "list-max", "1", "100000", "0", "100001" },
		{ "executions-kept", "1", "10000", "0", "10001" },
		{ "results-kept-max", "1024", "1099511627776", "1023", "1099511627777" },
		{ "idle-timeout", "1", "86400", "0", "86401" },
		{ "head-timeout", "1", "3600", "0", "3601" },
		{ "body-rate-min", "0", "1073741824", NULL, "1073741825" },
		{ "requests-per-connection", "1", "1000000000", "0", "1000000001" },
		{ "egress-connections", "1", "65536", "0", "65537" },
		{ "egress-rate", "1", "10000", "0", "10001" },
		{ "egress-bandwidth", "65536", "4000000000", "65535", "4000000001" },
		{ "egress-log-max", "0", "1099511627776", NULL, "1099511627777" },
	};
	static const char *const wrong[] = { "",   "-1",   "+5",  "5 ",
					     "5k", "0x10", "1e3", "99999999999999999999999" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct options o;
		OWNED_MEM char *option = str_printf("--%s", rows[i].name);
		OWNED_MEM char *text = str_printf("%s must be a number from %s to %s, not '",
						  rows[i].name, rows[i].min, rows[i].max);

		assert_parses(&o, option, rows[i].min);
		assert_parses(&o, option, rows[i].max);
		if (rows[i].below)
			assert_refused(text, option, rows[i].below);
		assert_refused(text, option, rows[i].above);
		for (size_t w = 0; w < ARRAY_LEN(wrong); w++)
			assert_refused(text, option, wrong[w]);
	}
}

static void write_config(const char *path, const char *text)
{
	struct err e = ERR_INIT;

	if (fd_write_file(AT_FDCWD, path, text, strlen(text), 0600, &e) < 0)
		fail_msg("%s", e.msg);
}

static void test_config(void **state)
{
	char dir[] = "/tmp/bivouac-options-XXXXXX";
	struct options o;

	(void)state;
	assert_non_null(mkdtemp(dir));
	OWNED_MEM char *path = str_printf("%s/bivouacd.ini", dir);

	write_config(path, "; comment\n[bivouacd]\nready = 9\nshells=3\nlisten = 0.0.0.0:80\n"
			   "dev = true\nkeep-sessions = true\n");
	/* The command line wins, wherever it names the file; the file wins over the defaults. */
	assert_parses(&o, "--ready", "1", "--config", path, "--keep-sessions=false");
	assert_int_equal(o.ready, 1);
	assert_int_equal(o.shells, 3);
	assert_string_equal(o.listen, "0.0.0.0:80");
	assert_true(o.dev);
	assert_false(o.keep_sessions);
	assert_int_equal(o.list_max, 10000);
	/* A value that equals the default was still given. */
	assert_parses(&o, "--config", path, "--ready=4", "--listen", "127.0.0.1:8900");
	assert_int_equal(o.ready, 4);
	assert_string_equal(o.listen, "127.0.0.1:8900");

	write_config(path, "[bivouacd]\nredy = 9\n");
	assert_refused("unknown setting [bivouacd] redy", "--config", path);
	assert_refused(path, "--config", path);
	write_config(path, "[other]\nready = 9\n");
	assert_refused("unknown setting [other] ready", "--config", path);
	write_config(path, "ready = 9\n");
	assert_refused("unknown setting [] ready", "--config", path);
	write_config(path, "[bivouacd]\nready = 10001\n");
	assert_refused("from 0 to 10000", "--config", path);
	write_config(path, "[bivouacd]\ndev = 1\n");
	assert_refused("true or false", "--config", path);
	write_config(path, "[bivouacd]\nconfig = /etc/other.ini\n");
	assert_refused("unknown setting [bivouacd] config", "--config", path);
	write_config(path, "[bivouacd]\nready = 1\nno setting at all\n");
	assert_refused("line 3 is no setting", "--config", path);
	write_config(path, "");
	assert_parses(&o, "--config", path);
	assert_int_equal(o.ready, 4);
	unlink(path);
	assert_refused("cannot be read", "--config", path);
	rmdir(dir);
}

static void test_help(void **state)
{
	char *text = NULL;
	size_t len = 0;
	FILE *out = open_memstream(&text, &len);

	(void)state;
	options_help(out);
	fclose(out);
	assert_non_null(strstr(text, "--listen ADDR:PORT"));
	assert_non_null(strstr(text, "(default 127.0.0.1:8900)"));
	assert_non_null(strstr(text, "--dev "));
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults), cmocka_unit_test(test_forms),
		cmocka_unit_test(test_unknown),  cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_config),   cmocka_unit_test(test_help),
	};

	return cmocka_run_group_tests_name("options", tests, NULL, NULL);
}
