/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "jailer/egress.h"
#include "jailer/netns.h"
#include "jailer/records.h"
#include "jailer/rules.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>
#include <sys/stat.h>

/* ---- what the command line says ---- */

static void check_allow(const char *text, size_t count)
{
	struct egress_options o = EGRESS_OPTIONS_INIT;
	struct err e = ERR_INIT;

	if (egress_parse_allow(&o, text, &e) != 0)
		fail_msg("'%s' refused: %s", text, e.msg);
	assert_int_equal(o.allow_count, count);
}

static void check_allow_refused(const char *text, const char *why)
{
	struct egress_options o = EGRESS_OPTIONS_INIT;
	struct err e = ERR_INIT;

	if (egress_parse_allow(&o, text, &e) != -1)
		fail_msg("'%s' accepted", text);
	assert_int_equal(e.code, ERR_INVALID);
	if (!strstr(e.msg, why))
		fail_msg("'%s': %s", text, e.msg);
}

static void test_allow(void **state)
{
	struct egress_options o = EGRESS_OPTIONS_INIT;
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(egress_parse_allow(&o, "10.1.0.0/16,192.0.2.7", &e), 0);
	/* The option may be given again. */
	assert_int_equal(egress_parse_allow(&o, "128.0.0.0/1,255.255.255.255/32", &e), 0);
	assert_int_equal(o.allow_count, 4);
	assert_int_equal(o.allow[0].address, 0x0a010000);
	assert_int_equal(o.allow[0].prefix, 16);
	assert_int_equal(o.allow[1].address, 0xc0000207);
	assert_int_equal(o.allow[1].prefix, 32);
	assert_int_equal(o.allow[2].address, 0x80000000);
	assert_int_equal(o.allow[2].prefix, 1);
	assert_int_equal(o.allow[3].address, 0xffffffff);
	check_allow("0.0.0.0/8", 1);
	static const char *const no_network[] = {
		"",
		",",
		"10.0.0.0/8,",
		",10.0.0.0/8",
		"10.0.0.0/33",
		"10.0.0.0/",
		"10.0.0.0/-1",
		"10.0.0.0/8 ",
		" 10.0.0.0/8",
		"10.0.0.0/8;",
		"10.0.0/8",
		"10/8",
		"010.0.0.0/8",
		"0xa.0.0.0/8",
		"256.0.0.0/8",
		"10.0.0.0/+8",
		"fd00::/8",
		"::/0",
		"example.com",
		"10.0.0.0/8}",
		"10.0.0.0/8/",
		"10.0.0.0/8,,a",
		"1.2.3.4\n",
		"10.0.0.0/8#x",
		"1.2.3.4.5",
	};
	for (size_t i = 0; i < ARRAY_LEN(no_network); i++)
		check_allow_refused(no_network[i], "is no IPv4 network");
	check_allow_refused("0.0.0.0/0", "a prefix of 0");
	check_allow_refused("10.0.0.1/8", "bits beyond its prefix");
	check_allow_refused("10.0.0.0/7,10.0.0.0/4", "'10.0.0.0/4' has bits");
}

static void test_allow_at_most(void **state)
{
	struct egress_options o = EGRESS_OPTIONS_INIT;
	struct err e = ERR_INIT;
	char text[32];

	(void)state;
	for (unsigned i = 0; i < EGRESS_ALLOW_MAX; i++) {
		snprintf(text, sizeof(text), "10.%u.0.0/16", i);
		assert_int_equal(egress_parse_allow(&o, text, &e), 0);
	}
	assert_int_equal(egress_parse_allow(&o, "11.0.0.0/8", &e), -1);
	assert_non_null(strstr(e.msg, "more than 64"));
	assert_int_equal(o.allow_count, EGRESS_ALLOW_MAX);
}

static void test_dns(void **state)
{
	struct egress_options o = EGRESS_OPTIONS_INIT;
	struct err e = ERR_INIT;

	(void)state;
	assert_false(o.dns_given);
	assert_int_equal(egress_parse_dns(&o, "127.0.0.53,9.9.9.9,1.1.1.1", &e), 0);
	assert_true(o.dns_given);
	assert_int_equal(o.dns_count, 3);
	assert_int_equal(o.dns[0], 0x7f000035);
	/* Given again, it replaces. */
	assert_int_equal(egress_parse_dns(&o, "8.8.8.8", &e), 0);
	assert_int_equal(o.dns_count, 1);
	static const char *const wrong[] = { "", "1.1.1.1,", "localhost", "1.1.1.1:53", "::1" };

	for (size_t i = 0; i < ARRAY_LEN(wrong); i++)
		assert_int_equal(egress_parse_dns(&o, wrong[i], &e), -1);
	assert_int_equal(egress_parse_dns(&o, "1.1.1.1,1.1.1.2,1.1.1.3,1.1.1.4", &e), -1);
	assert_non_null(strstr(e.msg, "more than 3"));
}

static void test_numbers(void **state)
{
	static const struct {
		int (*parse)(struct egress_options *o, const char *text, struct err *e);
		const char *least, *below, *most, *above;
	} options[] = {
		{ egress_parse_connections, "1", "0", "65536", "65537" },
		{ egress_parse_rate, "1", "0", "10000", "10001" },
		{ egress_parse_bandwidth, "65536", "65535", "4000000000", "4000000001" },
	};
	static const char *const wrong[] = {
		"", "-1", "1k", " 100000", "0x10000", "1e6", "99999999999999999999"
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		struct egress_options o = EGRESS_OPTIONS_INIT;
		struct err e = ERR_INIT;

		assert_int_equal(options[i].parse(&o, options[i].least, &e), 0);
		assert_int_equal(options[i].parse(&o, options[i].most, &e), 0);
		assert_int_equal(options[i].parse(&o, options[i].below, &e), -1);
		assert_int_equal(e.code, ERR_INVALID);
		assert_int_equal(options[i].parse(&o, options[i].above, &e), -1);
		for (size_t k = 0; k < ARRAY_LEN(wrong); k++)
			assert_int_equal(options[i].parse(&o, wrong[k], &e), -1);
	}
}

static void test_resolv_conf(void **state)
{
	uint32_t dns[EGRESS_DNS_MAX];

	(void)state;
	assert_int_equal(egress_read_resolv_conf("", dns), 0);
	assert_int_equal(egress_read_resolv_conf("# nameserver 1.1.1.1\nsearch a b\n"
						 "nameserver\t 9.9.9.9 # comment\n"
						 "nameserver ::1\nnameserver fe80::1%eth0\n"
						 " nameserver 2.2.2.2\nnameservers 3.3.3.3\n"
						 "nameserver\nnameserver  \nnameserver 1.2.3\n"
						 "nameserver 127.0.0.53",
						 dns),
			 2);
	assert_int_equal(dns[0], 0x09090909);
	assert_int_equal(dns[1], 0x7f000035);
	assert_int_equal(egress_read_resolv_conf("nameserver 1.0.0.1\nnameserver 1.0.0.2\n"
						 "nameserver 1.0.0.3\nnameserver 1.0.0.4\n",
						 dns),
			 3);
	assert_int_equal(dns[2], 0x01000003);
}

/* ---- addresses ---- */

static void test_addresses_do_not_meet(void **state)
{
	(void)state;
	assert_int_equal(rules_sandbox_address(0), 0xc6120002);
	/* The last sandbox is below the uplinks, the last uplink inside 198.19.0.0/16. */
	assert_true(rules_sandbox_address(RECORD_SLOTS - 1) < RULES_UPLINK);
	assert_int_equal(rules_uplink_host(0), 0xc6130001);
	assert_int_equal(rules_uplink_gateway(511), 0xc61307fe);
	assert_int_equal(rules_uplink_host(1) - rules_uplink_host(0), 4);
	assert_int_equal(record_uid_index(0x40000000u), 0);
	assert_int_equal(record_uid_index(0x40000000u + 511 * 262144u), 511);
}

/* ---- rulesets ---- */

static void wide_options(struct egress_options *o, uint64_t bandwidth)
{
	struct err e = ERR_INIT;
	char text[32];

	*o = EGRESS_OPTIONS_INIT;
	o->connections = 65536;
	o->rate = 10000;
	o->bandwidth = bandwidth;
	/* Overlapping ones are merged. */
	assert_int_equal(egress_parse_allow(o, "128.0.0.0/1,10.0.0.0/8,192.168.0.1", &e), 0);
	for (unsigned i = 0; o->allow_count < EGRESS_ALLOW_MAX; i++) {
		snprintf(text, sizeof(text), "10.%u.0.0/16", i);
		assert_int_equal(egress_parse_allow(o, text, &e), 0);
	}
}

static void test_rendered(void **state)
{
	struct egress_options o = EGRESS_OPTIONS_INIT;
	struct err e = ERR_INIT;
	const uint32_t host[] = { 0x7f000001, 0xcb007102 };
	struct buf text;

	(void)state;
	buf_init(&text, RULES_TEXT_MAX);
	rules_gateway(&o, host, ARRAY_LEN(host), &text);
	assert_true(buf_ok(&text));
	static const char *const parts[] = {
		"add table inet bivouac\ndelete table inet bivouac\ntable inet bivouac {\n",
		"elements = { 127.0.0.1, 203.0.113.2 }\n",
		"hook forward priority filter; policy drop;",
		"hook input priority filter; policy drop;",
		"iif limit rate over 12500000 bytes/second burst 12500000 bytes } drop",
		"ip daddr limit rate over 12500000 bytes/second burst 12500000 bytes } drop",
		"ip saddr ct count over 256 } goto refuse_connections",
		"limit rate over 100/second burst 100 packets } goto refuse_rate",
	};
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		if (!strstr(text.ptr, parts[i]))
			fail_msg("not in the text: %s\n%s", parts[i], text.ptr);
	/* Neighbours are refused before the operator's list is asked. */
	assert_true(strstr(text.ptr, "ip daddr 198.18.0.0/15 goto refuse_address") <
		    strstr(text.ptr, "ip daddr @allowed"));
	buf_clear(&text);
	assert_int_equal(egress_parse_allow(&o, "10.0.0.0/8,192.0.2.1", &e), 0);
	o.bandwidth = 65536;
	rules_uplink(&o, 7, true, &text);
	assert_non_null(strstr(text.ptr, "elements = { 10.0.0.0/8, 192.0.2.1/32 }"));
	assert_non_null(
		strstr(text.ptr, "iifname != \"bvk7\" accept\n\t\tip saddr != 198.19.0.30"));
	buf_clear(&text);
	rules_gateway(&o, NULL, 0, &text);
	assert_non_null(strstr(text.ptr, "65536 bytes/second burst 262144 bytes"));
	buf_done(&text);
}

/* A fresh namespace, or a skip that says why there is none. */
static int namespace(void)
{
	struct err e = ERR_INIT;

	if (geteuid() != 0 || access("/usr/sbin/nft", X_OK) < 0) {
		print_message("skipped: loading rulesets takes root and nft\n");
		skip();
	}
	int home = netns_current(&e);
	int fd = home < 0 ? -1 : netns_new(home, &e);

	if (fd < 0)
		fail_msg("%s", e.msg);
	close(home);
	return fd;
}

static void load(int ns, struct buf *text)
{
	struct err e = ERR_INIT;

	assert_true(buf_ok(text));
	if (rules_load(ns, text, &e) < 0)
		fail_msg("%s\n%s", e.msg, text->ptr);
	buf_clear(text);
}

/* The kernel takes each text, at each end of each limit, and again over what is there. */
static void test_loaded(void **state)
{
	static const uint64_t bandwidths[] = { 65536, 12500000, 4000000000 };
	uint32_t host[RULES_HOST_MAX];
	OWNED_FD int ns = namespace();
	struct egress_options o = EGRESS_OPTIONS_INIT;
	struct buf text;

	(void)state;
	for (size_t i = 0; i < RULES_HOST_MAX; i++)
		host[i] = 0xac100000 + (uint32_t)i;
	buf_init(&text, RULES_TEXT_MAX);
	for (size_t i = 0; i < ARRAY_LEN(bandwidths); i++) {
		wide_options(&o, bandwidths[i]);
		rules_gateway(&o, host, RULES_HOST_MAX, &text);
		load(ns, &text);
		rules_uplink(&o, 511, true, &text);
		load(ns, &text);
	}
	o = EGRESS_OPTIONS_INIT;
	o.connections = 1;
	o.rate = 1;
	rules_gateway(&o, NULL, 0, &text);
	load(ns, &text);
	rules_host_addresses(host, RULES_HOST_MAX, &text);
	load(ns, &text);
	rules_host_addresses(NULL, 0, &text);
	load(ns, &text);
	rules_uplink(&o, 0, false, &text);
	load(ns, &text);
	/* Removing what is there, and what is not. */
	rules_uplink_remove(511, &text);
	load(ns, &text);
	rules_uplink_remove(511, &text);
	load(ns, &text);
	buf_done(&text);
}

static void test_refused_text(void **state)
{
	OWNED_FD int ns = namespace();
	struct err e = ERR_INIT;
	struct buf text;

	(void)state;
	buf_init(&text, 64);
	buf_addf(&text, "table inet x { nonsense }\n");
	assert_int_equal(rules_load(ns, &text, &e), -1);
	assert_int_equal(e.code, ERR_SYSTEM);
	assert_non_null(strstr(e.msg, "nft refused a ruleset (status 1): "));
	assert_non_null(strstr(e.msg, "syntax error"));
	/* A text that did not fit is not loaded in part. */
	buf_clear(&text);
	for (int i = 0; i < 5; i++)
		buf_addf(&text, "add table inet t%d\n", i);
	assert_int_equal(rules_load(ns, &text, &e), -1);
	assert_int_equal(e.code, ERR_NOMEM);
	buf_done(&text);
}

/* ---- namespaces ---- */

static ino_t here(void)
{
	struct stat st;

	assert_int_equal(stat("/proc/self/ns/net", &st), 0);
	return st.st_ino;
}

static int fail_inside(void *arg, struct err *e)
{
	*(ino_t *)arg = here();
	return err_set(e, ERR_CONFLICT, "inside");
}

static void test_comes_home(void **state)
{
	OWNED_FD int ns = namespace();
	struct err e = ERR_INIT;
	OWNED_FD int home = netns_current(&e);
	ino_t before = here();
	ino_t inside = 0;
	struct stat st;

	(void)state;
	assert_int_equal(netns_run(ns, home, fail_inside, &inside, &e), -1);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_int_equal(fstat(ns, &st), 0);
	assert_int_equal(inside, st.st_ino);
	assert_int_not_equal(inside, before);
	assert_int_equal(here(), before);
	/* A setting that this kernel lacks is an error only where it must be. */
	assert_int_equal(sysctl_set("ipv4/conf/all/no_such", "1", false, &e), 0);
	assert_int_equal(sysctl_set("ipv4/conf/all/no_such", "1", true, &e), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_allow),        cmocka_unit_test(test_allow_at_most),
		cmocka_unit_test(test_dns),          cmocka_unit_test(test_numbers),
		cmocka_unit_test(test_resolv_conf),  cmocka_unit_test(test_addresses_do_not_meet),
		cmocka_unit_test(test_rendered),     cmocka_unit_test(test_loaded),
		cmocka_unit_test(test_refused_text), cmocka_unit_test(test_comes_home),
	};

	return cmocka_run_group_tests_name("network", tests, NULL, NULL);
}
