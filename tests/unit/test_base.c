/* SPDX-License-Identifier: Apache-2.0 */
#include "base/buf.h"
#include "base/clock.h"
#include "base/fdio.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/own.h"
#include "base/rand.h"
#include "base/str.h"
#include "base/wire.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>

/* ---- err ---- */

static void test_err(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(err_set(&e, ERR_NOT_FOUND, "session %d", 7), -1);
	assert_int_equal(e.code, ERR_NOT_FOUND);
	assert_string_equal(e.msg, "session 7");
	assert_int_equal(err_wrap(&e, "starting %s", "x"), -1);
	assert_int_equal(e.code, ERR_NOT_FOUND);
	assert_string_equal(e.msg, "starting x: session 7");
	errno = ENOENT;
	assert_int_equal(err_sys(&e, "open %s", "/a"), -1);
	assert_int_equal(errno, ENOENT);
	assert_int_equal(e.code, ERR_SYSTEM);
	assert_int_equal(e.errnum, ENOENT);
	assert_string_equal(e.msg, "open /a: No such file or directory");
	err_wrap(&e, "y");
	assert_int_equal(e.errnum, ENOENT);
	errno = ENOMEM;
	err_sys(&e, "x");
	assert_int_equal(e.code, ERR_NOMEM);
	err_set(&e, ERR_INVALID, "no errno");
	assert_int_equal(e.errnum, 0);
	assert_int_equal(err_set(NULL, ERR_INVALID, "x"), -1);
	assert_int_equal(err_sys(NULL, "x"), -1);
	assert_int_equal(err_wrap(NULL, "x"), -1);
}

static void test_err_truncation(void **state)
{
	char text[ERR_MSG_MAX + 10];
	struct err e = ERR_INIT;

	(void)state;
	memset(text, 'x', sizeof(text));
	for (size_t len = ERR_MSG_MAX - 2; len <= ERR_MSG_MAX + 1; len++) {
		err_set(&e, ERR_INVALID, "%.*s", (int)len, text);
		assert_int_equal(strlen(e.msg), len < ERR_MSG_MAX ? len : ERR_MSG_MAX - 1);
		/* The context comes first: what does not fit is the end of the older message. */
		err_wrap(&e, "context");
		assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
		assert_memory_equal(e.msg, "context: xxx", 12);
		errno = EPERM;
		err_sys(&e, "%.*s", (int)len, text);
		assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
		err_set(&e, ERR_INVALID, "old");
		err_wrap(&e, "%.*s", (int)len, text);
		assert_int_equal(strlen(e.msg), ERR_MSG_MAX - 1);
	}
}

static void test_err_table(void **state)
{
	(void)state;
	for (int code = ERR_NONE + 1; code < ERR_CODE_MAX; code++) {
		int status = err_http_status((enum err_code)code);
		int exit_status = err_exit_status((enum err_code)code);

		assert_in_range(status, 400, 599);
		assert_in_range(exit_status, 64, 78);
		assert_true(strlen(err_api_code((enum err_code)code)) > 3);
	}
	assert_int_equal(err_http_status(ERR_NONE), 200);
	assert_int_equal(err_exit_status(ERR_NONE), 0);
	assert_int_equal(err_http_status(ERR_CODE_MAX), 500);
	assert_int_equal(err_exit_status((enum err_code) - 1), 70);
	assert_string_equal(err_api_code(ERR_CODE_MAX), "InternalServerError");
}

/* ---- str ---- */

static void test_str_numbers(void **state)
{
	static const struct {
		const char *text;
		uint64_t max;
		bool ok;
		uint64_t value;
	} rows[] = {
		{ "0", 0, true, 0 },
		{ "1", 0, false, 0 },
		{ "255", 255, true, 255 },
		{ "256", 255, false, 0 },
		{ "007", 9, true, 7 },
		{ "18446744073709551615", UINT64_MAX, true, UINT64_MAX },
		{ "18446744073709551616", UINT64_MAX, false, 0 },
		{ "99999999999999999999999", UINT64_MAX, false, 0 },
		{ "", 9, false, 0 },
		{ "-1", 9, false, 0 },
		{ "+1", 9, false, 0 },
		{ " 1", 9, false, 0 },
		{ "1 ", 9, false, 0 },
		{ "0x1", 99, false, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t v = 12345;
		bool ok = str_to_u64(str_from(rows[i].text), rows[i].max, &v);

		if (ok != rows[i].ok || v != (ok ? rows[i].value : 12345))
			fail_msg("'%s' of %llu: %d", rows[i].text, (unsigned long long)rows[i].max,
				 ok);
	}
}

static void test_str_bools(void **state)
{
	static const char *const yes[] = { "true", "True", "TRUE", "1" };
	static const char *const no[] = { "false", "False", "0" };
	static const char *const neither[] = { "", "yes", "2", "01", "tru", "true ", "nottrue" };
	bool b;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(yes); i++)
		assert_true(str_to_bool(str_from(yes[i]), &b) && b);
	for (size_t i = 0; i < ARRAY_LEN(no); i++)
		assert_true(str_to_bool(str_from(no[i]), &b) && !b);
	for (size_t i = 0; i < ARRAY_LEN(neither); i++)
		assert_false(str_to_bool(str_from(neither[i]), &b));
}

static void test_str_sizes(void **state)
{
	static const struct {
		const char *text;
		bool ok;
		uint64_t value;
	} rows[] = {
		{ "0", true, 0 },
		{ "1024", true, 1024 },
		{ "1Ki", true, 1024 },
		{ "1.5Gi", true, 1610612736 },
		{ "512Mi", true, 536870912 },
		{ "1Ti", true, 1099511627776 },
		{ "2k", true, 2000 },
		{ "2K", true, 2000 },
		{ "3M", true, 3000000 },
		{ "2G", true, 2000000000 },
		{ "9000000000000000", true, 9000000000000000 },
		{ "9000000000000002", false, 0 },
		{ "9000000G", true, 9000000000000000 },
		{ "9000001G", false, 0 },
		{ "1e400", false, 0 },
		{ "", false, 0 },
		{ "-1", false, 0 },
		{ ".5Gi", false, 0 },
		{ "Gi", false, 0 },
		{ "nan", false, 0 },
		{ "inf", false, 0 },
		{ "1Gb", false, 0 },
		{ "1 Gi", false, 0 },
		{ "1gi", false, 0 },
		{ "1000000000000000000000000000000000000000", false, 0 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		uint64_t v = 12345;
		bool ok = str_parse_size(str_from(rows[i].text), &v);

		if (ok != rows[i].ok || v != (ok ? rows[i].value : 12345))
			fail_msg("'%s': %d %llu", rows[i].text, ok, (unsigned long long)v);
	}
	uint64_t v;

	assert_false(str_parse_size((struct str){ "1\0k", 3 }, &v));
}

static void test_str_views(void **state)
{
	char room[4];
	OWNED_MEM char *copy = str_dup((struct str){ "a\0b", 3 });
	OWNED_MEM char *text = str_printf("%d-%s", 5, "x");

	(void)state;
	assert_memory_equal(copy, "a\0b", 4);
	assert_string_equal(text, "5-x");
	assert_true(str_copy(STR("abc"), room, sizeof(room)));
	assert_string_equal(room, "abc");
	assert_false(str_copy(STR("abcd"), room, sizeof(room)));
	assert_string_equal(room, "");
	assert_false(str_copy((struct str){ "a\0", 2 }, room, sizeof(room)));
	assert_true(str_copy((struct str){ NULL, 0 }, room, 1));
	assert_true(str_eq(str_trim(STR(" \ta b\t ")), STR("a b")));
	assert_int_equal(str_trim(STR(" \t ")).len, 0);
	assert_true(str_eq_nocase(STR("Content-TYPE"), STR("content-type")));
	assert_false(str_eq_nocase(STR("[a"), STR("{a"))); /* 32 apart, and no letters */
	assert_false(str_eq_nocase(STR("ab"), STR("abc")));
	assert_true(str_starts_nocase(STR("BEARER x"), STR("Bearer ")));
	assert_false(str_starts_nocase(STR("Bear"), STR("Bearer ")));
	assert_true(str_eq((struct str){ NULL, 0 }, STR("")));
	assert_true(hash_bytes("abc", 3) == hash_bytes("abc", 3));
	assert_true(hash_bytes("abc", 3) != hash_bytes("abd", 3));
	assert_true(hash_bytes("a\0", 2) != hash_bytes("a", 1));
	assert_true(hash_bytes("12345678", 8) != hash_bytes("123456789", 9));
}

static void test_utf8(void **state)
{
	static const char *const good[] = {
		"",
		"ascii \x7f",
		"\xc2\x80",
		"\xdf\xbf",
		"\xe0\xa0\x80",
		"\xed\x9f\xbf", /* U+D7FF, before the surrogates */
		"\xee\x80\x80",
		"\xef\xbf\xbf",
		"\xf0\x90\x80\x80",
		"\xf4\x8f\xbf\xbf", /* U+10FFFF */
	};
	static const char *const bad[] = {
		"\x80",
		"\xc0\x80", /* overlong */
		"\xc1\xbf",
		"\xc2",
		"\xc2\x7f",
		"\xc2\xc0",
		"\xe0\x9f\xbf", /* overlong */
		"\xed\xa0\x80", /* surrogate */
		"\xed\xbf\xbf",
		"\xef\xbf",
		"\xf0\x8f\xbf\xbf", /* overlong */
		"\xf4\x90\x80\x80", /* U+110000 */
		"\xf5\x80\x80\x80",
		"\xf0\x90\x80",
		"\xf0\x90\x80\x7f",
		"\xff",
		"ok\xfe",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		if (!utf8_valid(str_from(good[i])))
			fail_msg("good row %zu", i);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (utf8_valid(str_from(bad[i])))
			fail_msg("bad row %zu", i);
	assert_true(utf8_valid((struct str){ "a\0b", 3 }));
}

/* Read in words: a bad byte, or a character of two, at any place. */
static void test_utf8_run(void **state)
{
	char text[40];

	(void)state;
	for (size_t len = 1; len < sizeof(text); len++)
		for (size_t at = 0; at < len; at++) {
			memset(text, 'x', len);
			text[at] = (char)0xff;
			assert_int_equal(utf8_run((struct str){ text, len }), at);
			text[at] = (char)0xc3;
			assert_int_equal(utf8_run((struct str){ text, len }), at);
			if (at + 1 == len)
				continue;
			text[at + 1] = (char)0xa9;
			assert_int_equal(utf8_run((struct str){ text, len }), len);
		}
	assert_int_equal(utf8_run((struct str){ NULL, 0 }), 0);
}

static void test_utf8_cut(void **state)
{
	struct str s = STR("a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80z"); /* 1 + 2 + 3 + 4 + 1 bytes */
	static const size_t want[] = { 0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11 };

	(void)state;
	for (size_t max = 0; max < ARRAY_LEN(want); max++)
		assert_int_equal(utf8_cut(s, max), want[max]);
	/* No character begins within reach: cut where asked, not at the start. */
	assert_int_equal(utf8_cut(STR("a\x80\x80\x80\x80\x80\x80"), 5), 5);
	assert_int_equal(utf8_cut(STR("\x80\x80"), 1), 1);
}

/* ---- buf ---- */

static void test_utf8_unfinished(void **state)
{
	static const struct {
		const char *text;
		size_t want;
	} cases[] = {
		{ "", 0 },
		{ "a", 0 },
		{ "\xc3", 1 },
		{ "\xc3\xa9", 0 },
		{ "\xe2", 1 },
		{ "\xe2\x82", 2 },
		{ "\xe2\x82\xac", 0 },
		{ "\xf0\x9f", 2 },
		{ "\xf0\x9f\x98", 3 },
		{ "\xf0\x9f\x98\x80", 0 },
		{ "\x80", 0 },
		{ "\x80\x80\x80", 0 },
		{ "\xff", 0 },
		{ "\xc0", 0 },
		{ "\xc1", 0 },
		{ "\xf5\x80", 0 },
		{ "\xc3\xa9\xa9", 0 },
		{ "\xe2x", 0 },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		assert_int_equal(utf8_unfinished(str_from(cases[i].text)), cases[i].want);
}

/* Cut at any place where no character is unfinished, the pieces clean as the whole does. */
static void test_buf_add_utf8(void **state)
{
	static const unsigned char bytes[] = { 'a',  0x80, 0xbf, 0xc2, 0xc1, 0xe0,
					       0xa0, 0xed, 0xf0, 0x90, 0xf4, 0xff };
	struct buf whole, parts;
	char text[6];

	(void)state;
	buf_init(&whole, 100);
	buf_init(&parts, 100);
	assert_true(buf_add_utf8(&whole, STR("a\xf0\x9f\x98\x80\xe2\x82z\xff")));
	assert_string_equal(whole.ptr, "a\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbdz\xef\xbf\xbd");
	for (uint32_t n = 0; n < 12 * 12 * 12 * 12 * 12; n++) {
		size_t cut = n % 5 + 1;
		uint32_t rest = n;

		for (size_t i = 0; i < 5; i++, rest /= 12)
			text[i] = (char)bytes[rest % 12];
		cut -= utf8_unfinished((struct str){ text, cut });
		buf_clear(&whole);
		buf_clear(&parts);
		buf_add_utf8(&whole, (struct str){ text, 5 });
		buf_add_utf8(&parts, (struct str){ text, cut });
		buf_add_utf8(&parts, (struct str){ text + cut, 5 - cut });
		assert_true(utf8_valid(buf_str(&whole)));
		assert_true(str_eq(buf_str(&whole), buf_str(&parts)));
	}
	buf_done(&whole);
	buf_done(&parts);
	buf_init(&whole, 2);
	assert_false(buf_add_utf8(&whole, STR("\xff")));
	buf_done(&whole);
}

static void test_buf_limits(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 300);
	assert_string_equal(buf_str(&b).ptr, "");
	for (int i = 0; i < 300; i++)
		assert_true(buf_add(&b, "x", 1));
	assert_int_equal(b.len, 300);
	assert_int_equal(b.ptr[300], 0);
	assert_true(buf_add(&b, "", 0));
	assert_true(buf_ok(&b));
	assert_false(buf_add(&b, "y", 1));
	assert_false(buf_ok(&b));
	assert_int_equal(b.len, 300);
	buf_consume(&b, 299);
	assert_int_equal(b.len, 1);
	/* Failed stays failed, whatever room there is, until it is cleared. */
	assert_false(buf_add(&b, "z", 1));
	assert_false(buf_addf(&b, "z"));
	assert_false(buf_reserve(&b, 1));
	assert_string_equal(b.ptr, "x");
	buf_clear(&b);
	assert_string_equal(b.ptr, "");
	assert_true(buf_addf(&b, "%0300d", 7));
	assert_false(buf_addf(&b, "%d", 7));
	buf_done(&b);
	assert_true(buf_reserve(&b, 300));
	assert_false(buf_reserve(&b, 301));
	buf_done(&b);
	assert_false(buf_reserve(&b, SIZE_MAX));
	buf_done(&b);
	buf_init(&b, 0);
	assert_true(buf_add(&b, NULL, 0));
	assert_false(buf_add(&b, "x", 1));
	buf_done(&b);
}

static void test_buf_take(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 100);
	OWNED_MEM char *empty = buf_take(&b);

	assert_string_equal(empty, "");
	buf_add_str(&b, STR("abcdef"));
	buf_consume(&b, 2);
	assert_string_equal(buf_str(&b).ptr, "cdef");
	buf_consume(&b, 4);
	assert_int_equal(b.len, 0);
	buf_add_str(&b, STR("gh"));
	buf_consume(&b, 100);
	buf_add_str(&b, STR("ij"));
	OWNED_MEM char *text = buf_take(&b);

	assert_string_equal(text, "ij");
	assert_null(b.ptr);
	assert_int_equal(b.len, 0);
	assert_int_equal(b.max, 100);
}

static void test_buf_take_after_a_failure(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 3);
	buf_add_str(&b, STR("ab"));
	assert_false(buf_add_str(&b, STR("cd")));
	assert_null(buf_take(&b));
	/* It can be used again, and holds nothing. */
	assert_null(b.ptr);
	assert_true(buf_ok(&b));
	buf_add_str(&b, STR("abc"));
	OWNED_MEM char *text = buf_take(&b);

	assert_string_equal(text, "abc");
	/* Also without anything before the failure. */
	assert_false(buf_add_str(&b, STR("abcd")));
	assert_null(buf_take(&b));
}

/* ---- map, list ---- */

struct entry {
	struct map_node node;
	char key[16];
	bool seen;
};

static void test_map(void **state)
{
	enum { COUNT = 1000 };
	struct entry *entries = calloc(COUNT, sizeof(*entries));
	struct map m;

	(void)state;
	map_init(&m);
	assert_null(map_get(&m, STR("0")));
	assert_null(map_next(&m, NULL));
	map_remove(&m, &entries[0].node); /* of an empty map: harmless */
	for (int i = 0; i < COUNT; i++) {
		snprintf(entries[i].key, sizeof(entries[i].key), "%d", i);
		assert_int_equal(map_put(&m, &entries[i].node, str_from(entries[i].key)), 0);
		assert_true(m.len <= m.slot_count); /* it grows before chains do */
	}
	assert_int_equal(m.len, COUNT);
	for (int i = 0; i < COUNT; i += 2)
		map_remove(&m, &entries[i].node);
	map_remove(&m, &entries[0].node); /* twice: harmless */
	assert_int_equal(m.len, COUNT / 2);
	for (int i = 0; i < COUNT; i++) {
		struct map_node *n = map_get(&m, str_from(entries[i].key));

		assert_ptr_equal(n, i % 2 ? &entries[i].node : NULL);
	}
	assert_null(map_get(&m, STR("1x")));
	/* Removing the current entry once its follower is known. */
	size_t walked = 0;

	for (struct map_node *n = map_next(&m, NULL), *next; n; n = next) {
		struct entry *it = container_of(n, struct entry, node);

		next = map_next(&m, n);
		assert_false(it->seen);
		it->seen = true;
		map_remove(&m, n);
		walked++;
	}
	assert_int_equal(walked, COUNT / 2);
	assert_int_equal(m.len, 0);
	assert_null(map_next(&m, NULL));
	map_done(&m);
	assert_null(map_get(&m, STR("1")));
	free(entries);
}

static void test_map_binary_keys(void **state)
{
	struct entry a = { 0 };
	struct entry b = { 0 };
	struct map m;

	(void)state;
	map_init(&m);
	map_put(&m, &a.node, (struct str){ "k\0a", 3 });
	map_put(&m, &b.node, (struct str){ "k\0b", 3 });
	assert_ptr_equal(map_get(&m, (struct str){ "k\0a", 3 }), &a.node);
	assert_ptr_equal(map_get(&m, (struct str){ "k\0b", 3 }), &b.node);
	assert_null(map_get(&m, (struct str){ "k", 1 }));
	map_done(&m);
}

struct item {
	struct list node;
	int value;
};

static void check_list(const struct list *head, const char *want)
{
	char text[32] = "";

	list_each(head, struct item, node, it)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "%d", it->value);
	assert_string_equal(text, want);
}

static void test_list(void **state)
{
	struct item items[4];
	struct list head;

	(void)state;
	list_init(&head);
	assert_true(list_empty(&head));
	check_list(&head, "");
	for (int i = 0; i < 4; i++) {
		items[i].value = i;
		list_init(&items[i].node);
	}
	list_remove(&items[3].node); /* in no list: harmless */
	list_add_tail(&head, &items[1].node);
	list_add_tail(&head, &items[2].node);
	list_add_head(&head, &items[0].node);
	check_list(&head, "012");
	assert_int_equal(list_first(&head, struct item, node)->value, 0);
	list_remove(&items[1].node);
	list_remove(&items[1].node);
	check_list(&head, "02");
	list_each(&head, struct item, node, it)
		list_remove(&it->node);
	assert_true(list_empty(&head));
}

/* ---- wire ---- */

static void test_wire(void **state)
{
	struct buf b;

	(void)state;
	buf_init(&b, 1000);
	wire_put_u8(&b, 0xfe);
	wire_put_u16(&b, 0xfedc);
	wire_put_u32(&b, 0xfedcba98);
	wire_put_u64(&b, 0xfedcba9876543210);
	wire_put_blob(&b, STR("blob"));
	buf_add_str(&b, STR("rest"));
	assert_true(buf_ok(&b));
	assert_memory_equal(b.ptr, "\xfe\xdc\xfe\x98\xba\xdc\xfe\x10\x32", 9);
	struct wire_reader r = wire_reader(b.ptr, b.len);

	assert_int_equal(wire_get_u8(&r), 0xfe);
	assert_int_equal(wire_get_u16(&r), 0xfedc);
	assert_int_equal(wire_get_u32(&r), 0xfedcba98);
	assert_true(wire_get_u64(&r) == 0xfedcba9876543210);
	assert_true(str_eq(wire_get_blob(&r, 4), STR("blob")));
	assert_false(wire_ok(&r)); /* something is left */
	assert_true(str_eq(wire_get_rest(&r), STR("rest")));
	assert_true(wire_ok(&r));
	/* Truncated at every byte before the rest: bad, and everything reads as zero from then on.
	 */
	for (size_t cut = 0; cut < b.len - 4; cut++) {
		OWNED_MEM char *part = malloc(cut ? cut : 1);

		memcpy(part, b.ptr, cut);
		r = wire_reader(part, cut);
		wire_get_u8(&r);
		wire_get_u16(&r);
		wire_get_u32(&r);
		wire_get_u64(&r);
		assert_int_equal(wire_get_blob(&r, 4).len, 0);
		assert_true(r.bad);
		assert_false(wire_ok(&r));
		assert_int_equal(wire_get_u8(&r), 0);
		assert_int_equal(wire_get_rest(&r).len, 0);
	}
	buf_done(&b);
}

static void test_wire_blobs(void **state)
{
	struct wire_reader r = wire_reader("\4\0\0\0blob", 8);

	(void)state;
	assert_int_equal(wire_get_blob(&r, 3).len, 0); /* one over the limit */
	assert_true(r.bad);
	assert_int_equal(wire_get_u8(&r), 0);
	r = wire_reader("\5\0\0\0blob", 8); /* one over what is there */
	assert_int_equal(wire_get_blob(&r, 100).len, 0);
	assert_true(r.bad);
	r = wire_reader("\xff\xff\xff\xff", 4);
	assert_int_equal(wire_get_blob(&r, SIZE_MAX).len, 0);
	assert_true(r.bad);
	r = wire_reader("\0\0\0\0", 4);
	assert_int_equal(wire_get_blob(&r, 0).len, 0);
	assert_true(wire_ok(&r));
	r = wire_reader(NULL, 0);
	assert_true(wire_ok(&r));
	struct buf b;

	buf_init(&b, 7);
	assert_false(wire_put_blob(&b, STR("blob")));
	assert_false(buf_ok(&b));
	buf_done(&b);
	buf_init(&b, 8);
	assert_true(wire_put_blob(&b, STR("blob")));
	assert_false(wire_put_blob(&b, (struct str){ NULL, (size_t)UINT32_MAX + 1 }));
	assert_false(buf_ok(&b));
	buf_done(&b);
}

/* ---- text of bytes ---- */

static void test_base64(void **state)
{
	static const char *const pairs[][2] = {
		{ "", "" },
		{ "f", "Zg==" },
		{ "fo", "Zm8=" },
		{ "foo", "Zm9v" },
		{ "foob", "Zm9vYg==" },
		{ "fooba", "Zm9vYmE=" },
		{ "foobar", "Zm9vYmFy" },
	};
	static const char *const bad[] = { "Zg",    "Zg=",  "Zg===", "=Zg=",     "Z=g=", "Zm9",
					   "Zm9vY", "Zm9-", "Z g=",  "Zg==Zg==", "====" };
	struct buf b;

	(void)state;
	buf_init(&b, 100);
	for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
		buf_clear(&b);
		assert_true(base64_encode(&b, pairs[i][0], strlen(pairs[i][0])));
		assert_string_equal(buf_str(&b).ptr, pairs[i][1]);
		buf_clear(&b);
		assert_true(base64_decode(&b, str_from(pairs[i][1])));
		assert_string_equal(buf_str(&b).ptr, pairs[i][0]);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		buf_clear(&b);
		if (base64_decode(&b, str_from(bad[i])))
			fail_msg("accepted '%s'", bad[i]);
	}
	buf_clear(&b);
	assert_true(base64_decode(&b, STR("Zm9v\r\nYmFy\n")));
	assert_string_equal(b.ptr, "foobar");
	assert_false(base64_decode(&b, (struct str){ "Zm\0v", 4 }));
	buf_done(&b);
	buf_init(&b, 4);
	assert_true(base64_encode(&b, "foo", 3));
	assert_false(base64_encode(&b, "f", 1));
	buf_done(&b);
	buf_init(&b, 2);
	assert_false(base64_decode(&b, STR("Zm9v")));
	buf_done(&b);
	unsigned char all[256];

	for (int i = 0; i < 256; i++)
		all[i] = (unsigned char)i;
	buf_init(&b, 1000);
	base64_encode(&b, all, sizeof(all));
	struct buf back;

	buf_init(&back, 256);
	assert_true(base64_decode(&back, buf_str(&b)));
	assert_int_equal(back.len, 256);
	assert_memory_equal(back.ptr, all, 256);
	buf_done(&back);
	buf_done(&b);
}

static void test_hex_uuid(void **state)
{
	char text[9];
	char uuid[UUID_TEXT_SIZE];
	char other[UUID_TEXT_SIZE];
	unsigned char bytes[4];

	(void)state;
	hex_encode("\x00\x9f\xf0\xab", 4, text);
	assert_string_equal(text, "009ff0ab");
	assert_true(hex_decode(STR("009FF0ab"), bytes, 4));
	assert_memory_equal(bytes, "\x00\x9f\xf0\xab", 4);
	assert_false(hex_decode(STR("009ff0a"), bytes, 4));
	assert_false(hex_decode(STR("009ff0abc"), bytes, 4));
	assert_false(hex_decode(STR("009ff0ag"), bytes, 4));
	assert_false(hex_decode(STR("009ff0a "), bytes, 4));
	assert_true(hex_decode(STR(""), bytes, 0));
	uuid_new(uuid);
	assert_int_equal(strlen(uuid), 36);
	for (int i = 0; i < 36; i++)
		if (i == 8 || i == 13 || i == 18 || i == 23)
			assert_int_equal(uuid[i], '-');
		else
			assert_non_null(strchr("0123456789abcdef", uuid[i]));
	assert_int_equal(uuid[14], '4');
	assert_non_null(strchr("89ab", uuid[19]));
	assert_string_not_equal(uuid, uuid_new(other));
}

static void test_clock(void **state)
{
	char text[CLOCK_TEXT_SIZE];

	(void)state;
	assert_string_equal(clock_format(0, text), "1970-01-01T00:00:00.000000Z");
	assert_string_equal(clock_format(1, text), "1970-01-01T00:00:00.000001Z");
	assert_string_equal(clock_format(1795293524123456, text), "2026-11-21T20:38:44.123456Z");
	assert_string_equal(clock_format(253402300799999999, text), "9999-12-31T23:59:59.999999Z");
	int64_t a = clock_mono_ns();
	int64_t b = clock_mono_ns();

	assert_true(b >= a && a > 0);
	assert_true(clock_wall_us() > 1700000000000000);
}

/* ---- fdio ---- */

static int open_count(void)
{
	int count = 0;

	for (int fd = 0; fd < 1024; fd++)
		count += fcntl(fd, F_GETFD) >= 0;
	return count;
}

static void test_fd_passing(void **state)
{
	int pair[2];
	int before = open_count();
	char data[16];
	int fds[FDS_MAX + 1];
	size_t count = FDS_MAX;

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	for (int i = 0; i <= FDS_MAX; i++)
		fds[i] = pair[0];
	errno = 0;
	assert_int_equal(fd_send(pair[0], "x", 1, fds, FDS_MAX + 1), -1);
	assert_int_equal(errno, EINVAL);
	assert_int_equal(fd_send(pair[0], "hello", 5, fds, FDS_MAX), 5);
	assert_int_equal(fd_recv(pair[1], data, sizeof(data), fds, &count), 5);
	assert_memory_equal(data, "hello", 5);
	assert_int_equal(count, FDS_MAX);
	for (size_t i = 0; i < count; i++) {
		assert_int_equal(fcntl(fds[i], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
		close(fds[i]);
	}
	/* More descriptors than there is room for are closed; without room for any, all are. */
	for (int i = 0; i < 3; i++)
		fds[i] = pair[0];
	assert_int_equal(fd_send(pair[0], "a", 1, fds, 3), 1);
	count = 1;
	assert_int_equal(fd_recv(pair[1], data, sizeof(data), fds, &count), 1);
	assert_int_equal(count, 1);
	close(fds[0]);
	for (int i = 0; i < 3; i++)
		fds[i] = pair[0];
	assert_int_equal(fd_send(pair[0], "b", 1, fds, 3), 1);
	assert_int_equal(fd_recv(pair[1], data, sizeof(data), NULL, NULL), 1);
	assert_int_equal(fd_send(pair[0], "c", 1, NULL, 0), 1);
	count = FDS_MAX;
	assert_int_equal(fd_recv(pair[1], data, sizeof(data), fds, &count), 1);
	assert_int_equal(count, 0);
	assert_int_equal(fd_set_nonblock(pair[1], true), 0);
	count = FDS_MAX;
	assert_int_equal(fd_recv(pair[1], data, sizeof(data), fds, &count), -1);
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(count, 0);
	close(pair[0]);
	count = FDS_MAX;
	assert_int_equal(fd_recv(pair[1], data, sizeof(data), fds, &count), 0);
	errno = 0;
	assert_int_equal(fd_send(pair[1], "x", 1, NULL, 0), -1); /* and no SIGPIPE */
	assert_int_equal(errno, EPIPE);
	close(pair[1]);
	assert_int_equal(open_count(), before);
}

static void test_files(void **state)
{
	char dir[] = "/tmp/bivouac-base-XXXXXX";
	char path[128];
	struct err e = ERR_INIT;
	struct stat st;
	struct buf b;

	(void)state;
	assert_non_null(mkdtemp(dir));
	OWNED_FD int dfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(fd_write_file(dfd, "f", "0123456789", 10, 0640, &e), 0);
	assert_int_equal(fstatat(dfd, "f", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0640);
	buf_init(&b, 100);
	assert_int_equal(fd_read_file(dfd, "f", 10, &b, &e), 0);
	assert_string_equal(b.ptr, "0123456789");
	buf_clear(&b);
	assert_int_equal(fd_read_file(dfd, "f", 9, &b, &e), -1);
	assert_int_equal(e.code, ERR_TOO_LARGE);
	buf_done(&b);
	buf_init(&b, 9);
	assert_int_equal(fd_read_file(dfd, "f", 10, &b, &e), -1);
	assert_int_equal(e.code, ERR_NOMEM);
	buf_done(&b);
	buf_init(&b, 100);
	assert_int_equal(fd_read_file(dfd, "none", 10, &b, &e), -1);
	assert_int_equal(e.errnum, ENOENT);
	/* Replaced as a whole; nothing else stays in the directory. */
	assert_int_equal(fd_write_file(dfd, "f", "new", 3, 0600, &e), 0);
	assert_int_equal(fd_write_once(dfd, "f", "NE", &e), 0);
	assert_int_equal(fd_read_file(dfd, "f", 10, &b, &e), 0);
	assert_string_equal(b.ptr, "NEw");
	buf_done(&b);
	assert_int_equal(fd_write_once(dfd, "none", "x", &e), -1);
	assert_int_equal(fd_write_file(dfd, "no/dir", "x", 1, 0600, &e), -1);
	assert_int_equal(fstat(dfd, &st), 0);
	assert_int_equal(st.st_nlink, 2);
	snprintf(path, sizeof(path), "%s/a/b/c", dir);
	assert_int_equal(fd_mkdirs(path, 0700, &e), 0);
	assert_int_equal(fd_mkdirs(path, 0700, &e), 0);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0700);
	snprintf(path, sizeof(path), "%s/f/g", dir);
	assert_int_equal(fd_mkdirs(path, 0700, &e), -1);
	assert_int_equal(e.errnum, ENOTDIR);
	static const char *const dirs[] = { "a/b/c", "a/b", "a" };

	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		assert_int_equal(unlinkat(dfd, dirs[i], AT_REMOVEDIR), 0);
	assert_int_equal(unlinkat(dfd, "f", 0), 0);
	assert_int_equal(rmdir(dir), 0); /* no temporary file was left */
}

static void test_unix_connect(void **state)
{
	char path[200];
	struct err e = ERR_INIT;

	(void)state;
	memset(path, 'x', sizeof(path));
	path[0] = '/';
	path[107] = '\0';
	assert_int_equal(fd_unix_connect(path, &e), -1); /* fits the address, is not there */
	assert_int_equal(e.errnum, ENOENT);
	path[107] = 'x';
	path[108] = '\0';
	assert_int_equal(fd_unix_connect(path, &e), -1);
	assert_int_equal(e.code, ERR_INVALID);
}

/* ---- log ---- */

static struct buf log_line(enum log_level level, const char *text)
{
	struct buf b;
	int fds[2];
	int kept = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 10);

	assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
	dup2(fds[1], STDERR_FILENO);
	log_msg(level, "%s", text);
	dup2(kept, STDERR_FILENO);
	close(kept);
	close(fds[1]);
	buf_init(&b, 10000);
	buf_reserve(&b, 8000);
	ssize_t n = read(fds[0], b.ptr, 8000);

	b.len = n > 0 ? (size_t)n : 0;
	b.ptr[b.len] = '\0';
	close(fds[0]);
	return b;
}

static void test_log(void **state)
{
	static char text[3000];

	(void)state;
	log_init("tester", LOG_INFO);
	struct buf b = log_line(LOG_DEBUG, "hidden");

	assert_int_equal(b.len, 0);
	buf_done(&b);
	/* Nothing a caller chose can begin a line or move a terminal. */
	b = log_line(LOG_WARN, "a\nb\r\x1b[2J\x7f\t\xc3\xa9");
	assert_non_null(strstr(b.ptr, "Z warn tester["));
	assert_non_null(strstr(b.ptr, "]: a\\x0ab\\x0d\\x1b[2J\\x7f\\x09\xc3\xa9\n"));
	assert_ptr_equal(strchr(b.ptr, '\n'), b.ptr + b.len - 1);
	buf_done(&b);
	/* The longest line there can be: every byte takes four. */
	memset(text, '\n', sizeof(text) - 1);
	b = log_line(LOG_ERROR, text);
	assert_in_range(b.len, 1023 * 4, 4400);
	assert_ptr_equal(strchr(b.ptr, '\n'), b.ptr + b.len - 1);
	buf_done(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_err),
		cmocka_unit_test(test_err_truncation),
		cmocka_unit_test(test_err_table),
		cmocka_unit_test(test_str_numbers),
		cmocka_unit_test(test_str_bools),
		cmocka_unit_test(test_str_sizes),
		cmocka_unit_test(test_str_views),
		cmocka_unit_test(test_utf8),
		cmocka_unit_test(test_utf8_cut),
		cmocka_unit_test(test_utf8_unfinished),
		cmocka_unit_test(test_buf_add_utf8),
		cmocka_unit_test(test_utf8_run),
		cmocka_unit_test(test_buf_limits),
		cmocka_unit_test(test_buf_take),
		cmocka_unit_test(test_buf_take_after_a_failure),
		cmocka_unit_test(test_map),
		cmocka_unit_test(test_map_binary_keys),
		cmocka_unit_test(test_list),
		cmocka_unit_test(test_wire),
		cmocka_unit_test(test_wire_blobs),
		cmocka_unit_test(test_base64),
		cmocka_unit_test(test_hex_uuid),
		cmocka_unit_test(test_clock),
		cmocka_unit_test(test_fd_passing),
		cmocka_unit_test(test_files),
		cmocka_unit_test(test_unix_connect),
		cmocka_unit_test(test_log),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
