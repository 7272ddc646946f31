/* SPDX-License-Identifier: Apache-2.0 */
#include "base/gateway_proto.h"
#include "base/own.h"
#include "gateway/flows.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <arpa/inet.h>
#include <endian.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <netinet/in.h>
#include <string.h>

#define SANDBOX 0xc6120002u /* 198.18.0.2 */
#define SERVER  0xcb007105u /* 203.0.113.5 */

static struct flow_record got[8];
static size_t got_count;

static void keep(void *arg, const struct flow_record *r)
{
	(void)arg;
	assert_true(got_count < ARRAY_LEN(got));
	got[got_count++] = *r;
}

/* The only record of one message, NULL if it has none. */
static const struct flow_record *parse(const void *data, size_t len)
{
	got_count = 0;
	flows_parse(data, len, keep, NULL);
	assert_true(got_count <= 1);
	return got_count ? &got[0] : NULL;
}

static struct nlmsghdr *begin(char *buf, uint16_t type)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);

	nlh->nlmsg_type = type;
	mnl_nlmsg_put_extra_header(nlh, sizeof(struct nfgenmsg));
	return nlh;
}

struct packet {
	unsigned char bytes[64];
	size_t len;
};

static struct packet packet(uint8_t protocol, uint32_t source, uint32_t destination, uint16_t port)
{
	struct packet p = { .bytes = { [0] = 0x45, [9] = protocol }, .len = 64 };
	uint32_t addresses[2] = { htonl(source), htonl(destination) };
	uint16_t ports[2] = { htons(40000), htons(port) };

	memcpy(p.bytes + 12, addresses, sizeof(addresses));
	memcpy(p.bytes + 20, ports, sizeof(ports));
	return p;
}

static const struct flow_record *log_record(const char *prefix, const struct packet *p)
{
	static char buf[1024] __attribute__((aligned(8)));
	struct nlmsghdr *nlh = begin(buf, NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET);

	mnl_attr_put_strz(nlh, NFULA_PREFIX, prefix);
	mnl_attr_put(nlh, NFULA_PAYLOAD, p->len, p->bytes);
	return parse(buf, nlh->nlmsg_len);
}

static void test_prefixes(void **state)
{
	static const struct {
		const char *prefix;
		uint16_t event;
		uint8_t reason;
	} cases[] = {
		{ "new", FLOW_NEW, FLOW_REASON_NONE },
		{ "address", FLOW_REFUSED, FLOW_REASON_ADDRESS },
		{ "host", FLOW_REFUSED, FLOW_REASON_HOST },
		{ "connections", FLOW_REFUSED, FLOW_REASON_CONNECTIONS },
		{ "rate", FLOW_REFUSED, FLOW_REASON_RATE },
		{ "spoofed", FLOW_REFUSED, FLOW_REASON_SPOOFED },
		{ "protocol", FLOW_REFUSED, FLOW_REASON_PROTOCOL },
	};
	struct packet p = packet(IPPROTO_TCP, SANDBOX, SERVER, 443);

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		const struct flow_record *r = log_record(cases[i].prefix, &p);

		assert_non_null(r);
		assert_int_equal(r->version, FLOW_PROTO_VERSION);
		assert_int_equal(r->event, cases[i].event);
		assert_int_equal(r->reason, cases[i].reason);
		assert_int_equal(r->protocol, IPPROTO_TCP);
		assert_int_equal(r->port, 443);
		assert_int_equal(r->session, SANDBOX);
		assert_int_equal(r->address, SERVER);
	}
	assert_null(log_record("newer", &p));
	assert_null(log_record("ne", &p));
	assert_null(log_record("", &p));
}

static void test_packets_cut_short(void **state)
{
	struct packet p = packet(IPPROTO_UDP, SANDBOX, SERVER, 53);

	(void)state;
	for (p.len = 0; p.len < 20; p.len++)
		assert_null(log_record("new", &p));
	for (p.len = 20; p.len < 24; p.len++)
		assert_int_equal(log_record("new", &p)->port, 0);
	assert_int_equal(log_record("new", &p)->port, 53);
	p.bytes[0] = 0x46; /* options: the ports are four bytes on, and not there */
	assert_int_equal(log_record("new", &p)->port, 0);
}

static void test_packets_without_ports(void **state)
{
	struct packet p = packet(IPPROTO_TCP, SANDBOX, SERVER, 443);

	(void)state;
	p.bytes[7] = 1; /* a later fragment */
	assert_int_equal(log_record("new", &p)->port, 0);
	p.bytes[6] = 0x20; /* the first one has ports */
	p.bytes[7] = 0;
	assert_int_equal(log_record("new", &p)->port, 443);
	p.bytes[9] = IPPROTO_ICMP;
	assert_int_equal(log_record("new", &p)->port, 0);
	assert_int_equal(got[0].protocol, IPPROTO_ICMP);
}

static void test_packets_of_nobody(void **state)
{
	static const unsigned char first_bytes[] = { 0x44, 0x65, 0x00, 0xf5 };
	struct packet p = packet(IPPROTO_TCP, 0xc6130001, SERVER, 443); /* 198.19.0.1 */
	struct packet dns = packet(IPPROTO_UDP, SANDBOX, GATEWAY_ADDRESS, 53);

	(void)state;
	assert_null(log_record("new", &p));
	p = packet(IPPROTO_TCP, 0xc611ffff, SERVER, 443); /* 198.17.255.255 */
	assert_null(log_record("new", &p));
	for (size_t i = 0; i < ARRAY_LEN(first_bytes); i++) {
		p = packet(IPPROTO_TCP, SANDBOX, SERVER, 443);
		p.bytes[0] = first_bytes[i];
		assert_null(log_record("new", &p));
	}
	/* Names have records of their own; what else it is asked for is worth one. */
	assert_null(log_record("new", &dns));
	assert_non_null(log_record("host", &dns));
}

struct end {
	uint32_t source;
	uint32_t destination;
	uint64_t bytes_out;
	uint64_t bytes_in;
	bool counters;
	bool tuple;
};

static void put_counters(struct nlmsghdr *nlh, uint16_t type, uint64_t bytes)
{
	struct nlattr *nest = mnl_attr_nest_start(nlh, type);

	mnl_attr_put_u64(nlh, CTA_COUNTERS_PACKETS, htobe64(3));
	mnl_attr_put_u64(nlh, CTA_COUNTERS_BYTES, htobe64(bytes));
	mnl_attr_nest_end(nlh, nest);
}

static size_t write_end(char *buf, const struct end *c)
{
	struct nlmsghdr *nlh = begin(buf, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE);

	if (c->tuple) {
		struct nlattr *tuple = mnl_attr_nest_start(nlh, CTA_TUPLE_ORIG);
		struct nlattr *ip = mnl_attr_nest_start(nlh, CTA_TUPLE_IP);

		mnl_attr_put_u32(nlh, CTA_IP_V4_SRC, htonl(c->source));
		mnl_attr_put_u32(nlh, CTA_IP_V4_DST, htonl(c->destination));
		mnl_attr_nest_end(nlh, ip);
		struct nlattr *proto = mnl_attr_nest_start(nlh, CTA_TUPLE_PROTO);

		mnl_attr_put_u8(nlh, CTA_PROTO_NUM, IPPROTO_TCP);
		mnl_attr_put_u16(nlh, CTA_PROTO_SRC_PORT, htons(40000));
		mnl_attr_put_u16(nlh, CTA_PROTO_DST_PORT, htons(443));
		mnl_attr_nest_end(nlh, proto);
		mnl_attr_nest_end(nlh, tuple);
	}
	if (c->counters) {
		put_counters(nlh, CTA_COUNTERS_ORIG, c->bytes_out);
		put_counters(nlh, CTA_COUNTERS_REPLY, c->bytes_in);
	}
	return nlh->nlmsg_len;
}

static const struct flow_record *end_record(const struct end *c)
{
	static char buf[1024] __attribute__((aligned(8)));

	return parse(buf, write_end(buf, c));
}

static void test_ends(void **state)
{
	struct end c = { SANDBOX, SERVER, 1320, 1ull << 40, true, true };
	const struct flow_record *r = end_record(&c);

	(void)state;
	assert_non_null(r);
	assert_int_equal(r->event, FLOW_END);
	assert_int_equal(r->reason, FLOW_REASON_NONE);
	assert_int_equal(r->session, SANDBOX);
	assert_int_equal(r->address, SERVER);
	assert_int_equal(r->protocol, IPPROTO_TCP);
	assert_int_equal(r->port, 443);
	assert_int_equal(r->bytes_out, 1320);
	assert_int_equal(r->bytes_in, 1ull << 40);
	c.counters = false; /* nf_conntrack_acct is off */
	assert_int_equal(end_record(&c)->bytes_out, 0);
	c.destination = GATEWAY_ADDRESS;
	assert_null(end_record(&c));
	c.destination = SERVER;
	c.source = 0x0a000001;
	assert_null(end_record(&c));
	c.tuple = false;
	assert_null(end_record(&c));
}

static void test_datagrams(void **state)
{
	char buf[2048] __attribute__((aligned(8)));
	struct end c = { SANDBOX, SERVER, 1, 2, true, true };
	size_t len = write_end(buf, &c);
	struct nlmsghdr *second = (struct nlmsghdr *)(buf + MNL_ALIGN(len));
	size_t both = MNL_ALIGN(len) + write_end((char *)second, &c);

	(void)state;
	got_count = 0;
	flows_parse(buf, both, keep, NULL);
	assert_int_equal(got_count, 2);
	/* Lengths that lie end the datagram: longer than it is, negative for an int, shorter than
	 * a header. */
	static const uint32_t lies[] = { 0, 15, 0x80000010, UINT32_MAX };

	for (size_t i = 0; i < ARRAY_LEN(lies); i++) {
		second->nlmsg_len = lies[i];
		assert_non_null(parse(buf, both));
	}
	second->nlmsg_len = (uint32_t)len + 1;
	assert_non_null(parse(buf, both));
	for (size_t cut = 0; cut < len; cut++)
		assert_null(parse(buf, cut));
	/* Only a message of a kind that was asked for. */
	((struct nlmsghdr *)buf)->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW;
	assert_null(parse(buf, len));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_prefixes),
		cmocka_unit_test(test_packets_cut_short),
		cmocka_unit_test(test_packets_without_ports),
		cmocka_unit_test(test_packets_of_nobody),
		cmocka_unit_test(test_ends),
		cmocka_unit_test(test_datagrams),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
