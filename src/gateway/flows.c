/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/flows.h"

#include "base/gateway_proto.h"
#include "base/own.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <endian.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <netinet/in.h>
#include <netinet/ip.h>
#include <stdbool.h>

/* What the rules write before a packet. */
static const struct {
	struct str prefix;
	uint8_t event;
	uint8_t reason;
} verdicts[] = {
	{ { "new", 3 }, FLOW_NEW, FLOW_REASON_NONE },
	{ { "address", 7 }, FLOW_REFUSED, FLOW_REASON_ADDRESS },
	{ { "host", 4 }, FLOW_REFUSED, FLOW_REASON_HOST },
	{ { "connections", 11 }, FLOW_REFUSED, FLOW_REASON_CONNECTIONS },
	{ { "rate", 4 }, FLOW_REFUSED, FLOW_REASON_RATE },
	{ { "spoofed", 7 }, FLOW_REFUSED, FLOW_REASON_SPOOFED },
	{ { "protocol", 8 }, FLOW_REFUSED, FLOW_REASON_PROTOCOL },
};

/* Attributes of one message by type; types over the array's end are of newer kernels. */
struct attributes {
	const struct nlattr **by_type;
	uint16_t type_max;
};

static int keep_attribute(const struct nlattr *attr, void *arg)
{
	const struct attributes *a = arg;

	if (mnl_attr_get_type(attr) <= a->type_max)
		a->by_type[mnl_attr_get_type(attr)] = attr;
	return MNL_CB_OK;
}

static void nested_attributes(const struct nlattr *nest, const struct nlattr **by_type,
			      uint16_t type_max)
{
	struct attributes a = { by_type, type_max };

	if (nest)
		mnl_attr_parse_nested(nest, keep_attribute, &a);
}

/* The payload of an attribute, empty if it is missing. */
static struct str payload(const struct nlattr *attr)
{
	if (!attr)
		return (struct str){ "", 0 };
	return (struct str){ mnl_attr_get_payload(attr), mnl_attr_get_payload_len(attr) };
}

/* An integer of exactly this size; false if the attribute is missing or of another size. */
static bool integer(const struct nlattr *attr, void *ret, size_t size)
{
	struct str s = payload(attr);

	if (s.len != size)
		return false;
	memcpy(ret, s.ptr, size);
	return true;
}

static bool is_sandbox(uint32_t address)
{
	return (address & GATEWAY_SANDBOX_MASK) == GATEWAY_SANDBOX_NET;
}

static bool read_prefix(struct str prefix, struct flow_record *r)
{
	prefix.len = strnlen(prefix.ptr, prefix.len);
	for (size_t i = 0; i < ARRAY_LEN(verdicts); i++) {
		if (str_eq(prefix, verdicts[i].prefix)) {
			r->event = verdicts[i].event;
			r->reason = verdicts[i].reason;
			return true;
		}
	}
	return false;
}

/* SECURITY: a packet of a sandbox, cut off anywhere: every field is copied from proven bounds. */
static bool read_packet(struct str packet, struct flow_record *r)
{
	struct iphdr ip;
	uint16_t ports[2];

	if (packet.len < sizeof(ip))
		return false;
	memcpy(&ip, packet.ptr, sizeof(ip));
	size_t header = (size_t)ip.ihl * 4;

	if (ip.version != 4 || header < sizeof(ip))
		return false;
	r->session = ntohl(ip.saddr);
	r->address = ntohl(ip.daddr);
	r->protocol = ip.protocol;
	bool has_ports = ip.protocol == IPPROTO_TCP || ip.protocol == IPPROTO_UDP;
	bool first = (ntohs(ip.frag_off) & IP_OFFMASK) == 0;

	if (has_ports && first && packet.len >= header + sizeof(ports)) {
		memcpy(ports, packet.ptr + header, sizeof(ports));
		r->port = ntohs(ports[1]);
	}
	return is_sandbox(r->session) && !(r->event == FLOW_NEW && r->address == GATEWAY_ADDRESS);
}

static bool read_log(const struct nlmsghdr *nlh, struct flow_record *r)
{
	const struct nlattr *attrs[NFULA_MAX + 1] = { NULL };
	struct attributes a = { attrs, NFULA_MAX };

	mnl_attr_parse(nlh, sizeof(struct nfgenmsg), keep_attribute, &a);
	return read_prefix(payload(attrs[NFULA_PREFIX]), r) &&
	       read_packet(payload(attrs[NFULA_PAYLOAD]), r);
}

static uint64_t counted_bytes(const struct nlattr *counters)
{
	const struct nlattr *attrs[CTA_COUNTERS_MAX + 1] = { NULL };
	uint64_t bytes = 0;

	nested_attributes(counters, attrs, CTA_COUNTERS_MAX);
	integer(attrs[CTA_COUNTERS_BYTES], &bytes, sizeof(bytes));
	return be64toh(bytes);
}

static bool read_tuple(const struct nlattr *tuple, struct flow_record *r)
{
	const struct nlattr *parts[CTA_TUPLE_MAX + 1] = { NULL };
	const struct nlattr *ip[CTA_IP_MAX + 1] = { NULL };
	const struct nlattr *proto[CTA_PROTO_MAX + 1] = { NULL };
	uint32_t source;
	uint32_t destination;
	uint16_t port = 0;

	nested_attributes(tuple, parts, CTA_TUPLE_MAX);
	nested_attributes(parts[CTA_TUPLE_IP], ip, CTA_IP_MAX);
	nested_attributes(parts[CTA_TUPLE_PROTO], proto, CTA_PROTO_MAX);
	if (!integer(ip[CTA_IP_V4_SRC], &source, sizeof(source)) ||
	    !integer(ip[CTA_IP_V4_DST], &destination, sizeof(destination)) ||
	    !integer(proto[CTA_PROTO_NUM], &r->protocol, sizeof(r->protocol)))
		return false;
	integer(proto[CTA_PROTO_DST_PORT], &port, sizeof(port));
	r->session = ntohl(source);
	r->address = ntohl(destination);
	r->port = ntohs(port);
	return is_sandbox(r->session) && r->address != GATEWAY_ADDRESS;
}

static bool read_end(const struct nlmsghdr *nlh, struct flow_record *r)
{
	const struct nlattr *attrs[CTA_MAX + 1] = { NULL };
	struct attributes a = { attrs, CTA_MAX };

	mnl_attr_parse(nlh, sizeof(struct nfgenmsg), keep_attribute, &a);
	r->event = FLOW_END;
	r->bytes_out = counted_bytes(attrs[CTA_COUNTERS_ORIG]);
	r->bytes_in = counted_bytes(attrs[CTA_COUNTERS_REPLY]);
	return read_tuple(attrs[CTA_TUPLE_ORIG], r);
}

static bool read_message(const struct nlmsghdr *nlh, struct flow_record *r)
{
	if (nlh->nlmsg_len < MNL_NLMSG_HDRLEN + sizeof(struct nfgenmsg))
		return false;
	switch (nlh->nlmsg_type) {
	case NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET:
		return read_log(nlh, r);
	case NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE:
		return read_end(nlh, r);
	default:
		return false;
	}
}

void flows_parse(const void *data, size_t len, flow_fn *each, void *arg)
{
	const char *at = data;

	/* Not mnl_nlmsg_ok(): it takes lengths of 2 GiB and more for negative, and accepts them.
	 * And libmnl lets attributes reach to the aligned end, so that one has to be there. */
	while (len >= MNL_NLMSG_HDRLEN) {
		const struct nlmsghdr *nlh = (const struct nlmsghdr *)at;
		struct flow_record r = { .version = FLOW_PROTO_VERSION };
		size_t size = nlh->nlmsg_len;

		if (size < MNL_NLMSG_HDRLEN || size > len || MNL_ALIGN(size) > len)
			break;
		if (read_message(nlh, &r))
			each(arg, &r);
		at += MNL_ALIGN(size);
		len -= MNL_ALIGN(size);
	}
}
