/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "gateway/dns.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

/* A message while it is put together. */
struct message {
	unsigned char bytes[8192];
	size_t len;
};

static void add(struct message *m, const void *data, size_t len)
{
	memcpy(m->bytes + m->len, data, len);
	m->len += len;
}

static void add16(struct message *m, unsigned v)
{
	unsigned char bytes[2] = { (unsigned char)(v >> 8), (unsigned char)v };

	add(m, bytes, 2);
}

/* "a.b" in wire form, without the root. */
static void add_labels(struct message *m, const char *text)
{
	while (*text) {
		size_t len = strcspn(text, ".");
		unsigned char byte = (unsigned char)len;

		add(m, &byte, 1);
		add(m, text, len);
		text += len + (text[len] == '.');
	}
}

static void add_header(struct message *m, unsigned id, unsigned flags, unsigned answers,
		       unsigned additional)
{
	add16(m, id);
	add16(m, flags);
	add16(m, 1);
	add16(m, answers);
	add16(m, 0);
	add16(m, additional);
}

static void add_question(struct message *m, const char *name, unsigned type)
{
	add_labels(m, name);
	add(m, "", 1);
	add16(m, type);
	add16(m, 1);
}

static void add_opt(struct message *m, unsigned udp_size, unsigned version)
{
	const unsigned char ttl[4] = { 0, (unsigned char)version, 0, 0 };

	add(m, "", 1);
	add16(m, DNS_OPT);
	add16(m, udp_size);
	add(m, ttl, 4);
	add16(m, 0);
}

static struct message query(const char *name, unsigned type)
{
	struct message m = { .len = 0 };

	add_header(&m, 0x1234, 0x0100, 0, 0);
	add_question(&m, name, type);
	return m;
}

static enum dns_verdict parse(const struct message *m, struct dns_query *q, enum dns_rcode *rcode)
{
	/* A block of exactly the message's size: sanitizers see any read beyond it. */
	OWNED_MEM unsigned char *exact = malloc(m->len ? m->len : 1);

	assert_non_null(exact);
	memcpy(exact, m->bytes, m->len);
	return dns_parse_query(exact, m->len, q, rcode);
}

static struct dns_query parsed(const char *name, unsigned type)
{
	struct message m = query(name, type);
	struct dns_query q;
	enum dns_rcode rcode;

	assert_int_not_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
	return q;
}

static void test_query(void **state)
{
	struct message m = query("Www.Example.COM", DNS_A);
	struct dns_query q;
	enum dns_rcode rcode;
	char text[DNS_TEXT_SIZE];

	(void)state;
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_OK);
	assert_int_equal(q.id, 0x1234);
	assert_int_equal(q.type, DNS_A);
	assert_true(q.recursion);
	assert_false(q.edns);
	assert_int_equal(q.udp_size, 512);
	dns_text(&q, text);
	assert_string_equal(text, "Www.Example.COM");
	/* Each byte is needed, and none more. */
	for (size_t len = m.len; len-- > 0;) {
		m.len = len;
		assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
	}
	m = query("example.com", DNS_A);
	add(&m, "x", 1);
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
}

static void test_query_header(void **state)
{
	/* Offset in the header, and a value that it must not have. */
	static const struct {
		size_t at;
		unsigned char value;
	} wrong[] = {
		{ 2, 0x81 }, /* an answer */
		{ 2, 0x29 }, /* UPDATE */
		{ 2, 0x11 }, /* STATUS */
		{ 5, 0 },    { 5, 2 },  { 4, 1 },  { 7, 1 },
		{ 9, 1 },    { 11, 1 }, { 11, 2 }, { 10, 1 },
	};
	struct dns_query q;
	enum dns_rcode rcode;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		struct message m = query("example.com", DNS_A);

		m.bytes[wrong[i].at] = wrong[i].value;
		assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
	}
}

static void test_query_opt(void **state)
{
	static const struct {
		unsigned size, taken;
	} sizes[] = { { 0, 512 },     { 512, 512 },   { 513, 513 },
		      { 4096, 4096 }, { 4097, 4096 }, { 65535, 4096 } };
	struct dns_query q;
	enum dns_rcode rcode;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct message m = query("example.com", DNS_A);

		m.bytes[11] = 1;
		add_opt(&m, sizes[i].size, 0);
		assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_OK);
		assert_true(q.edns);
		assert_int_equal(q.udp_size, sizes[i].taken);
		m.bytes[m.len - 6 + 1] = 1; /* a version that does not exist */
		assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_REFUSED);
		assert_int_equal(rcode, DNS_BADVERS);
		m.bytes[m.len - 1] = 1; /* options that are not there */
		assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
	}
	struct message m = query("example.com", DNS_A);

	m.bytes[11] = 1;
	add_opt(&m, 4096, 0);
	m.bytes[m.len - 9] = 250; /* TSIG, not OPT */
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
}

static void test_query_size(void **state)
{
	struct message m = query("example.com", DNS_A);
	struct dns_query q;
	enum dns_rcode rcode;
	static const unsigned char zeros[600];

	(void)state;
	m.bytes[11] = 1;
	add_opt(&m, 4096, 0);
	size_t options = DNS_QUERY_MAX - m.len;

	add(&m, zeros, options + 1);
	m.len = DNS_QUERY_MAX;
	m.bytes[m.len - options - 2] = (unsigned char)(options >> 8);
	m.bytes[m.len - options - 1] = (unsigned char)options;
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_OK);
	m.len++;
	options++;
	m.bytes[m.len - options - 2] = (unsigned char)(options >> 8);
	m.bytes[m.len - options - 1] = (unsigned char)options;
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
}

static void test_longest_name(void **state)
{
	char name[300];
	char text[DNS_TEXT_SIZE];
	struct dns_query q;
	enum dns_rcode rcode;

	(void)state;
	/* 3 × 64 + 62 + 1 = 255 on the wire. */
	snprintf(name, sizeof(name), "%063d.%063d.%063d.%061d", 1, 2, 3, 4);
	struct message m = query(name, DNS_A);

	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_OK);
	assert_int_equal(q.name_len, DNS_NAME_MAX);
	dns_text(&q, text);
	assert_string_equal(text, name);
	snprintf(name, sizeof(name), "%063d.%063d.%063d.%062d", 1, 2, 3, 4);
	m = query(name, DNS_A);
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
	snprintf(name, sizeof(name), "%064d.example", 1);
	m = query(name, DNS_A);
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
	m = query("example.com", DNS_A);
	m.bytes[12] = 0xc0; /* a pointer */
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_MALFORMED);
}

static void test_refused(void **state)
{
	static const unsigned types[] = { 10, 13, 41, 99, 251, 252, 253, 254, 255, 256, 32769 };
	static const unsigned char bytes[] = { 0, '\n', ' ', '.', '\\', 0x7f, 0x80, 0xff };
	struct dns_query q;
	enum dns_rcode rcode;
	struct message m;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		m = query("example.com", types[i]);
		assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_REFUSED);
		assert_int_equal(rcode, DNS_NOTIMP);
	}
	for (size_t i = 0; i < ARRAY_LEN(bytes); i++) {
		m = query("example.com", DNS_A);
		m.bytes[15] = bytes[i];
		assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_REFUSED);
		assert_int_equal(rcode, DNS_REFUSED);
	}
	m = query("example.com", DNS_TXT);
	m.bytes[m.len - 1] = 3; /* CHAOS */
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_REFUSED);
	assert_int_equal(rcode, DNS_REFUSED);
	m = query("", DNS_NS);
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_REFUSED);
	char text[DNS_TEXT_SIZE];

	dns_text(&q, text);
	assert_string_equal(text, ".");
}

static void test_answered_here(void **state)
{
	static const struct {
		const char *name;
		unsigned type;
		int rcode; /* -1: goes to a resolver */
	} cases[] = {
		{ "example.com", DNS_A, -1 },
		{ "example.com", DNS_CAA, -1 },
		{ "example.com", DNS_AAAA, DNS_NOERROR },
		{ "example.com", DNS_HTTPS, DNS_NOERROR },
		{ "_dns.example.com", DNS_SVCB, DNS_NOERROR },
		{ "printer", DNS_A, DNS_NXDOMAIN },
		{ "printer", DNS_AAAA, DNS_NXDOMAIN },
		{ "printer.LOCAL", DNS_A, DNS_NXDOMAIN },
		{ "notlocal.example", DNS_A, -1 },
		{ "local.example", DNS_A, -1 },
		{ "thelocal.x-local", DNS_A, -1 },
		{ "a.localhost", DNS_A, DNS_NXDOMAIN },
		{ "abc.onion", DNS_A, DNS_NXDOMAIN },
		{ "a.invalid", DNS_A, DNS_NXDOMAIN },
		{ "4.3.2.10.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "10.IN-ADDR.arpa", DNS_NS, DNS_NXDOMAIN },
		{ "4.3.2.11.in-addr.arpa", DNS_PTR, -1 },
		{ "1.0.15.172.in-addr.arpa", DNS_PTR, -1 },
		{ "1.0.16.172.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "1.0.31.172.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "1.0.32.172.in-addr.arpa", DNS_PTR, -1 },
		{ "172.in-addr.arpa", DNS_NS, -1 },
		{ "1.0.168.192.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "1.0.64.100.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "1.0.128.100.in-addr.arpa", DNS_PTR, -1 },
		{ "254.169.254.169.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "1.0.0.127.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "1.0.18.198.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "0.0.0.0.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "1.0.0.224.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "255.255.255.255.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "1.1.1.1.in-addr.arpa", DNS_PTR, -1 },
		{ "9.8.1.1.1.10.in-addr.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "in-addr.arpa", DNS_NS, -1 },
		{ "266.in-addr.arpa", DNS_PTR, -1 },
		{ "1.0.0.2.ip6.arpa", DNS_PTR, -1 },
		{ "0.3.ip6.arpa", DNS_PTR, -1 },
		{ "0.d.f.ip6.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "0.8.e.f.ip6.arpa", DNS_PTR, DNS_NXDOMAIN },
		{ "1.0.0.ip6.arpa", DNS_PTR, DNS_NXDOMAIN },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct dns_query q = parsed(cases[i].name, cases[i].type);
		enum dns_rcode rcode = DNS_SERVFAIL;
		bool here = dns_answered_here(&q, &rcode);

		if (here != (cases[i].rcode >= 0) || (here && (int)rcode != cases[i].rcode))
			fail_msg("%s type %u: %d, code %d", cases[i].name, cases[i].type, here,
				 rcode);
	}
}

static void test_write_query(void **state)
{
	static const unsigned char flip[32] = { 0xff, 0xff, 0xff };
	struct message m = query("eXample.com", DNS_MX);
	unsigned char name[DNS_NAME_MAX];
	unsigned char out[DNS_QUERY_MAX];
	struct message want = { .len = 0 };
	struct dns_query q;
	enum dns_rcode rcode;

	(void)state;
	/* What a client may add does not go out: options, sizes, other flags. */
	m.bytes[2] |= 0x06;
	m.bytes[3] = 0x7f;
	m.bytes[11] = 1;
	add_opt(&m, 700, 0);
	m.bytes[m.len - 4] = 0x80; /* DNSSEC OK */
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_OK);
	dns_mix_case(&q, flip, name);
	add_header(&want, 0xbeef, 0x0100, 0, 1);
	add_question(&want, "EXAMPLE.COM", DNS_MX);
	add_opt(&want, DNS_UDP_SIZE, 0);
	assert_int_equal(dns_write_query(&q, 0xbeef, name, DNS_UDP_SIZE, out), want.len);
	assert_memory_equal(out, want.bytes, want.len);
}

static struct message answer(const char *name, unsigned records, unsigned additional)
{
	static const unsigned char record[] = {
		0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 8, 8, 4, 4
	};
	struct message m = { .len = 0 };

	add_header(&m, 7, 0x8180, records, additional);
	add_question(&m, name, DNS_A);
	for (unsigned i = 0; i < records; i++)
		add(&m, record, sizeof(record));
	return m;
}

static enum dns_match match(const struct dns_query *q, const struct message *m)
{
	OWNED_MEM unsigned char *exact = malloc(m->len ? m->len : 1);

	assert_non_null(exact);
	memcpy(exact, m->bytes, m->len);
	return dns_match_answer(q, 7, q->name, exact, m->len);
}

static void test_match(void **state)
{
	struct dns_query q = parsed("example.com", DNS_A);
	struct message right = answer("example.com", 1, 0);
	struct message m = answer("eXample.com", 1, 0);

	(void)state;
	assert_int_equal(match(&q, &right), DNS_MATCH);
	assert_int_equal(match(&q, &m), DNS_MATCH_OTHER_CASE);
	m = answer("example.org", 1, 0);
	assert_int_equal(match(&q, &m), DNS_NO_MATCH);
	m = answer("example.co", 1, 0);
	assert_int_equal(match(&q, &m), DNS_NO_MATCH);
	m = answer("www.example.com", 1, 0);
	assert_int_equal(match(&q, &m), DNS_NO_MATCH);
	/* id, QR, opcode, number of questions, type, class */
	static const size_t at[] = { 0, 1, 2, 4, 5, 26, 28 };
	static const unsigned char flip[] = { 1, 1, 0x80, 1, 1, 1, 2 };

	for (size_t i = 0; i < ARRAY_LEN(at); i++) {
		m = right;
		m.bytes[at[i]] ^= flip[i];
		assert_int_equal(match(&q, &m), DNS_NO_MATCH);
	}
	m = right;
	m.bytes[2] |= 0x10;
	assert_int_equal(match(&q, &m), DNS_NO_MATCH);
	for (m.len = 0; m.len < 29; m.len++)
		assert_int_equal(match(&q, &m), DNS_NO_MATCH);
	m.len = DNS_ANSWER_MAX + 1;
	assert_int_equal(match(&q, &m), DNS_NO_MATCH);
}

static void test_answer(void **state)
{
	struct message m = query("exAMPle.com", DNS_A);
	struct message want = answer("exAMPle.com", 2, 0);
	struct message got = answer("example.com", 2, 1);
	unsigned char out[DNS_REPLY_MAX];
	struct dns_query q;
	enum dns_rcode rcode;

	(void)state;
	/* The client's id and spelling; the resolver's OPT record is not for it. */
	assert_int_equal(parse(&m, &q, &rcode), DNS_QUERY_OK);
	want.bytes[0] = 0x12;
	want.bytes[1] = 0x34;
	add_opt(&got, 4096, 0);
	assert_int_equal(dns_write_answer(&q, got.bytes, got.len, 512, out), want.len);
	assert_memory_equal(out, want.bytes, want.len);
	/* A client that knows EDNS gets ours. */
	q.edns = true;
	want.bytes[11] = 1;
	add_opt(&want, DNS_UDP_SIZE, 0);
	assert_int_equal(dns_write_answer(&q, got.bytes, got.len, 512, out), want.len);
	assert_memory_equal(out, want.bytes, want.len);
	/* Authentic data and the like are the resolver's claim to us. */
	got.bytes[3] |= 0x70;
	assert_int_equal(dns_write_answer(&q, got.bytes, got.len, 512, out), want.len);
	assert_memory_equal(out, want.bytes, want.len);
}

static void test_answer_truncated(void **state)
{
	struct dns_query q = parsed("example.com", DNS_A);
	struct message m = answer("example.com", 30, 0); /* 29 + 30 × 16 = 509 */
	unsigned char out[DNS_REPLY_MAX];

	(void)state;
	assert_int_equal(dns_write_answer(&q, m.bytes, m.len, 509, out), 509);
	assert_int_equal(out[2] & 0x02, 0);
	assert_int_equal(dns_write_answer(&q, m.bytes, m.len, 508, out), 29);
	assert_int_equal(out[2] & 0x02, 0x02);
	assert_int_equal(out[7], 0);
	/* The OPT record counts. */
	q.edns = true;
	assert_int_equal(dns_write_answer(&q, m.bytes, m.len, 520, out), 520);
	assert_int_equal(dns_write_answer(&q, m.bytes, m.len, 519, out), 29 + DNS_OPT_SIZE);
	assert_int_equal(out[11], 1);
	/* The longest that a resolver may send. */
	m = answer("example.com", 254, 0);
	assert_true(m.len <= DNS_ANSWER_MAX);
	assert_int_equal(dns_write_answer(&q, m.bytes, m.len, sizeof(out), out),
			 m.len + DNS_OPT_SIZE);
}

static void test_answer_malformed(void **state)
{
	struct dns_query q = parsed("example.com", DNS_A);
	struct message right = answer("example.com", 2, 0);
	struct message m = right;
	unsigned char out[DNS_REPLY_MAX];

	(void)state;
	for (m.len = 29; m.len < right.len; m.len++) {
		OWNED_MEM unsigned char *exact = malloc(m.len);

		assert_non_null(exact);
		memcpy(exact, m.bytes, m.len);
		assert_int_equal(dns_write_answer(&q, exact, m.len, 512, out), 0);
	}
	m = right;
	m.bytes[29] = 0x80; /* neither a label nor a pointer */
	assert_int_equal(dns_write_answer(&q, m.bytes, m.len, 512, out), 0);
	m = right;
	m.bytes[32] = DNS_OPT; /* among the answers */
	assert_int_equal(dns_write_answer(&q, m.bytes, m.len, 512, out), 0);
	/* What follows the records is not passed on. */
	m = right;
	add(&m, "more", 4);
	assert_int_equal(dns_write_answer(&q, m.bytes, m.len, 512, out), right.len);
}

static void test_reply(void **state)
{
	struct dns_query q = parsed("example.com", DNS_A);
	struct message want = { .len = 0 };
	unsigned char out[DNS_REPLY_MAX];

	(void)state;
	add_header(&want, 0x1234, 0x8183, 0, 0);
	add_question(&want, "example.com", DNS_A);
	assert_int_equal(dns_write_reply(&q, DNS_NXDOMAIN, out), want.len);
	assert_memory_equal(out, want.bytes, want.len);
	/* The upper bits of BADVERS are in the OPT record. */
	q.edns = true;
	assert_int_equal(dns_write_reply(&q, DNS_BADVERS, out), want.len + DNS_OPT_SIZE);
	assert_int_equal(out[3] & 0x0f, 0);
	assert_int_equal(out[want.len + 5], 1);
	assert_int_equal(out[want.len + 6], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_query),
		cmocka_unit_test(test_query_header),
		cmocka_unit_test(test_query_opt),
		cmocka_unit_test(test_query_size),
		cmocka_unit_test(test_longest_name),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_answered_here),
		cmocka_unit_test(test_write_query),
		cmocka_unit_test(test_match),
		cmocka_unit_test(test_answer),
		cmocka_unit_test(test_answer_truncated),
		cmocka_unit_test(test_answer_malformed),
		cmocka_unit_test(test_reply),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
