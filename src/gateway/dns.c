/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/dns.h"

#include "base/own.h"

#include <string.h>

#define FLAG_QR     0x8000
#define FLAG_OPCODE 0x7800
#define FLAG_AA     0x0400
#define FLAG_TC     0x0200
#define FLAG_RD     0x0100
#define FLAG_RA     0x0080
#define FLAG_RCODE  0x000f

#define CLASS_IN      1
#define LABEL_MAX     63
#define LABEL_POINTER 0xc0
#define UDP_SIZE_MIN  512

/* A message while it is read; `at` never passes `len`. */
struct cursor {
	const unsigned char *data;
	size_t len;
	size_t at;
};

static uint16_t get16(const unsigned char *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static unsigned char *put16(unsigned char *p, uint16_t v)
{
	p[0] = (unsigned char)(v >> 8);
	p[1] = (unsigned char)v;
	return p + 2;
}

static unsigned char lower(unsigned char c)
{
	return c >= 'A' && c <= 'Z' ? c | 0x20 : c;
}

/* Length bytes are below 'A': whole names may be compared as they are. */
static bool equal_nocase(const unsigned char *a, const unsigned char *b, size_t len)
{
	for (size_t i = 0; i < len; i++)
		if (lower(a[i]) != lower(b[i]))
			return false;
	return true;
}

/* ---- queries of clients ---- */

/* SECURITY: no pointers: in a query's only name there is nothing before it to point to. */
static bool read_name(struct cursor *c, struct dns_query *q)
{
	size_t len = 0;

	for (;;) {
		size_t left = c->len - c->at;

		if (!left || c->data[c->at] > LABEL_MAX)
			return false;
		size_t label = 1 + (size_t)c->data[c->at];

		if (label > left || len + label > DNS_NAME_MAX)
			return false;
		memcpy(q->name + len, c->data + c->at, label);
		len += label;
		c->at += label;
		if (label == 1)
			break;
	}
	q->name_len = (uint8_t)len;
	return true;
}

/* An OPT record, and nothing after it. */
static bool read_opt(struct cursor *c, struct dns_query *q, unsigned *ret_version)
{
	const unsigned char *p = c->data + c->at;
	size_t left = c->len - c->at;

	if (left < DNS_OPT_SIZE || p[0] != 0 || get16(p + 1) != DNS_OPT ||
	    left != DNS_OPT_SIZE + (size_t)get16(p + 9))
		return false;
	uint16_t size = get16(p + 3);

	*ret_version = p[6];
	q->edns = true;
	q->udp_size = size < UDP_SIZE_MIN ? UDP_SIZE_MIN : size;
	if (q->udp_size > DNS_ANSWER_MAX)
		q->udp_size = DNS_ANSWER_MAX;
	c->at = c->len;
	return true;
}

/*
 * Bytes that real names are made of. A dot or a backslash inside of a label would make two names
 * one text, and the rest are of use to those who move data through names.
 */
static bool name_is_plain(const struct dns_query *q)
{
	for (size_t at = 0; q->name[at]; at += 1 + (size_t)q->name[at])
		for (size_t i = at + 1; i <= at + q->name[at]; i++)
			if (q->name[i] <= ' ' || q->name[i] >= 0x7f || q->name[i] == '.' ||
			    q->name[i] == '\\')
				return false;
	return true;
}

static bool type_is_known(uint16_t type)
{
	static const uint16_t known[] = {
		DNS_A,   DNS_NS,   DNS_CNAME, DNS_SOA,  DNS_PTR,   DNS_MX,
		DNS_TXT, DNS_AAAA, DNS_SRV,   DNS_SVCB, DNS_HTTPS, DNS_CAA
	};

	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (known[i] == type)
			return true;
	return false;
}

enum dns_verdict dns_parse_query(const void *data, size_t len, struct dns_query *ret_query,
				 enum dns_rcode *ret_rcode)
{
	struct cursor c = { data, len, DNS_HEADER_SIZE };
	struct dns_query q = { .udp_size = UDP_SIZE_MIN };
	unsigned version = 0;

	if (len < DNS_HEADER_SIZE || len > DNS_QUERY_MAX)
		return DNS_QUERY_MALFORMED;
	uint16_t flags = get16(c.data + 2);
	uint16_t additional = get16(c.data + 10);

	/* One question, no answer, no authority, at most an OPT record. */
	if (flags & (FLAG_QR | FLAG_OPCODE) || get16(c.data + 4) != 1 || get16(c.data + 6) != 0 ||
	    get16(c.data + 8) != 0 || additional > 1)
		return DNS_QUERY_MALFORMED;
	if (!read_name(&c, &q) || c.len - c.at < 4)
		return DNS_QUERY_MALFORMED;
	q.type = get16(c.data + c.at);
	q.class = get16(c.data + c.at + 2);
	c.at += 4;
	if (additional && !read_opt(&c, &q, &version))
		return DNS_QUERY_MALFORMED;
	if (c.at != c.len)
		return DNS_QUERY_MALFORMED;
	q.id = get16(c.data);
	q.recursion = flags & FLAG_RD;
	*ret_query = q;
	if (version != 0)
		*ret_rcode = DNS_BADVERS;
	else if (q.class != CLASS_IN || q.name_len == 1 || !name_is_plain(&q))
		*ret_rcode = DNS_REFUSED;
	else if (!type_is_known(q.type))
		*ret_rcode = DNS_NOTIMP;
	else
		return DNS_QUERY_OK;
	return DNS_QUERY_REFUSED;
}

/* ---- what is answered here ---- */

/* suffix: in wire form; the literal's NUL is the root. */
static bool ends_with(const struct dns_query *q, const char *suffix)
{
	size_t len = strlen(suffix) + 1;

	for (size_t at = 0; q->name[at]; at += 1 + (size_t)q->name[at])
		if (q->name_len - at == len)
			return equal_nocase(q->name + at, (const unsigned char *)suffix, len);
	return false;
}

static bool label_to_octet(const unsigned char *label, uint32_t *ret)
{
	uint32_t v = 0;

	if (label[0] > 3)
		return false;
	for (unsigned i = 1; i <= label[0]; i++) {
		if (label[i] < '0' || label[i] > '9')
			return false;
		v = v * 10 + (label[i] - '0');
	}
	*ret = v;
	return v <= 255;
}

/* The block that a name below in-addr.arpa stands for: "168.192" is 192.168.0.0/16. */
static void reverse_block(const struct dns_query *q, uint32_t *ret_address, unsigned *ret_bits)
{
	size_t labels[DNS_NAME_MAX];
	size_t count = 0;
	uint32_t octet;

	for (size_t at = 0; q->name[at]; at += 1 + (size_t)q->name[at])
		labels[count++] = at;
	*ret_address = 0;
	*ret_bits = 0;
	for (size_t i = count - 2; i > 0 && *ret_bits < 32; i--) {
		if (!label_to_octet(q->name + labels[i - 1], &octet))
			break;
		*ret_bits += 8;
		*ret_address |= octet << (32 - *ret_bits);
	}
}

static bool reverse_is_private(const struct dns_query *q)
{
	static const struct {
		uint32_t address;
		unsigned bits;
	} ranges[] = {
		{ 0x00000000, 8 },  { 0x0a000000, 8 },  { 0x64400000, 10 }, { 0x7f000000, 8 },
		{ 0xa9fe0000, 16 }, { 0xac100000, 12 }, { 0xc0000000, 24 }, { 0xc0000200, 24 },
		{ 0xc0a80000, 16 }, { 0xc6120000, 15 }, { 0xc6336400, 24 }, { 0xcb007100, 24 },
		{ 0xe0000000, 4 },  { 0xf0000000, 4 },
	};
	uint32_t address;
	unsigned bits;

	/* Of IPv6, only 2000::/3 is anybody's. */
	if (ends_with(q, "\3ip6\4arpa"))
		return !ends_with(q, "\0012\3ip6\4arpa") && !ends_with(q, "\0013\3ip6\4arpa");
	if (!ends_with(q, "\7in-addr\4arpa"))
		return false;
	reverse_block(q, &address, &bits);
	for (size_t i = 0; i < ARRAY_LEN(ranges); i++)
		if (bits >= ranges[i].bits &&
		    ((address ^ ranges[i].address) >> (32 - ranges[i].bits)) == 0)
			return true;
	return false;
}

bool dns_answered_here(const struct dns_query *q, enum dns_rcode *ret_rcode)
{
	/* Names that mean something on some local network only: they would tell the resolver, and
	 * learn from it, what is none of a sandbox's business. */
	bool local = (size_t)q->name[0] + 2 == q->name_len || ends_with(q, "\5local") ||
		     ends_with(q, "\11localhost") || ends_with(q, "\7invalid") ||
		     ends_with(q, "\5onion") || reverse_is_private(q);

	if (local) {
		*ret_rcode = DNS_NXDOMAIN;
		return true;
	}
	/* No IPv6 leaves a sandbox: an address would only cost its user a failed attempt. */
	if (q->type == DNS_AAAA || q->type == DNS_HTTPS || q->type == DNS_SVCB) {
		*ret_rcode = DNS_NOERROR;
		return true;
	}
	return false;
}

void dns_text(const struct dns_query *q, char text[static DNS_TEXT_SIZE])
{
	size_t len = q->name_len > 2 ? (size_t)q->name_len - 2 : 0;

	memcpy(text, q->name + 1, len);
	text[len] = '\0';
	for (size_t at = 0; q->name[at]; at += 1 + (size_t)q->name[at])
		if (at)
			text[at - 1] = '.';
	if (!len)
		memcpy(text, ".", 2);
}

/* ---- to and from resolvers ---- */

void dns_mix_case(const struct dns_query *q, const unsigned char random[static 32],
		  unsigned char name[static DNS_NAME_MAX])
{
	for (size_t i = 0; i < q->name_len; i++) {
		unsigned char c = lower(q->name[i]);
		bool letter = c >= 'a' && c <= 'z';

		name[i] = letter && random[i / 8] >> i % 8 & 1 ? c ^ 0x20 : c;
	}
}

static unsigned char *put_header(unsigned char *p, uint16_t id, uint16_t flags,
				 const uint16_t counts[static 3])
{
	p = put16(p, id);
	p = put16(p, flags);
	p = put16(p, 1);
	for (size_t i = 0; i < 3; i++)
		p = put16(p, counts[i]);
	return p;
}

static unsigned char *put_question(unsigned char *p, const struct dns_query *q,
				   const unsigned char *name)
{
	memcpy(p, name, q->name_len);
	p = put16(p + q->name_len, q->type);
	return put16(p, q->class);
}

static unsigned char *put_opt(unsigned char *p, uint16_t udp_size, unsigned rcode)
{
	*p++ = 0;
	p = put16(p, DNS_OPT);
	p = put16(p, udp_size);
	p = put16(p, (uint16_t)(rcode >> 4 << 8)); /* upper bits of the code, version 0 */
	p = put16(p, 0);
	return put16(p, 0);
}

size_t dns_write_query(const struct dns_query *q, uint16_t id, const unsigned char *name,
		       uint16_t udp_size, unsigned char out[static DNS_QUERY_MAX])
{
	static const uint16_t counts[3] = { 0, 0, 1 };
	unsigned char *p = put_header(out, id, q->recursion ? FLAG_RD : 0, counts);

	p = put_question(p, q, name);
	p = put_opt(p, udp_size, 0);
	return (size_t)(p - out);
}

enum dns_match dns_match_answer(const struct dns_query *q, uint16_t id, const unsigned char *name,
				const void *data, size_t len)
{
	const unsigned char *p = data;
	size_t question = DNS_HEADER_SIZE + (size_t)q->name_len + 4;

	if (len < question || len > DNS_ANSWER_MAX || get16(p) != id)
		return DNS_NO_MATCH;
	if ((get16(p + 2) & (FLAG_QR | FLAG_OPCODE)) != FLAG_QR || get16(p + 4) != 1)
		return DNS_NO_MATCH;
	if (get16(p + question - 4) != q->type || get16(p + question - 2) != CLASS_IN ||
	    !equal_nocase(p + DNS_HEADER_SIZE, name, q->name_len))
		return DNS_NO_MATCH;
	return memcmp(p + DNS_HEADER_SIZE, name, q->name_len) == 0 ? DNS_MATCH
								   : DNS_MATCH_OTHER_CASE;
}

/* Past a name that may end in a pointer; where that points is for whoever reads the name. */
static bool skip_name(struct cursor *c)
{
	while (c->at < c->len) {
		unsigned char label = c->data[c->at];
		size_t size = (label & LABEL_POINTER) == LABEL_POINTER ? 2 : 1 + (size_t)label;

		if ((label > LABEL_MAX && size != 2) || size > c->len - c->at)
			return false;
		c->at += size;
		if (label == 0 || label > LABEL_MAX)
			return true;
	}
	return false;
}

static bool skip_record(struct cursor *c, uint16_t *ret_type)
{
	if (!skip_name(c) || c->len - c->at < 10)
		return false;
	size_t size = 10 + (size_t)get16(c->data + c->at + 8);

	*ret_type = get16(c->data + c->at);
	if (size > c->len - c->at)
		return false;
	c->at += size;
	return true;
}

/*
 * Walks all records. *ret_len is where those end that are copied: an OPT record is between us and
 * the resolver, and what follows it goes with it, because pointers forbid moving bytes.
 */
static bool walk_records(const unsigned char *data, size_t len, size_t question,
			 uint16_t counts[static 3], size_t *ret_len)
{
	struct cursor c = { data, len, question };
	bool opt = false;
	uint16_t type;

	*ret_len = c.at;
	for (size_t section = 0; section < 3; section++) {
		uint16_t count = get16(data + 6 + 2 * section);

		counts[section] = count;
		for (uint16_t i = 0; i < count; i++) {
			if (!skip_record(&c, &type) || (type == DNS_OPT && section != 2))
				return false;
			if (type == DNS_OPT && !opt) {
				opt = true;
				counts[section] = i;
			}
			if (!opt)
				*ret_len = c.at;
		}
	}
	return true;
}

size_t dns_write_answer(const struct dns_query *q, const void *data, size_t len, size_t size_max,
			unsigned char out[static DNS_REPLY_MAX])
{
	const unsigned char *answer = data;
	size_t question = DNS_HEADER_SIZE + (size_t)q->name_len + 4;
	uint16_t counts[3];
	size_t end;

	if (!walk_records(answer, len, question, counts, &end))
		return 0;
	uint16_t flags = get16(answer + 2) & (FLAG_QR | FLAG_AA | FLAG_TC | FLAG_RA | FLAG_RCODE);
	size_t opt = q->edns ? DNS_OPT_SIZE : 0;

	if (end + opt > size_max) {
		flags |= FLAG_TC;
		memset(counts, 0, sizeof(counts));
		end = question;
	}
	counts[2] = (uint16_t)(counts[2] + q->edns);
	unsigned char *p = put_header(out, q->id, flags | (q->recursion ? FLAG_RD : 0), counts);

	p = put_question(p, q, q->name);
	memcpy(p, answer + question, end - question);
	p += end - question;
	if (q->edns)
		p = put_opt(p, DNS_UDP_SIZE, 0);
	return (size_t)(p - out);
}

size_t dns_write_reply(const struct dns_query *q, enum dns_rcode rcode,
		       unsigned char out[static DNS_REPLY_MAX])
{
	const uint16_t counts[3] = { 0, 0, q->edns };
	uint16_t flags = FLAG_QR | FLAG_RA | (q->recursion ? FLAG_RD : 0) | (rcode & FLAG_RCODE);
	unsigned char *p = put_header(out, q->id, flags, counts);

	p = put_question(p, q, q->name);
	if (q->edns)
		p = put_opt(p, DNS_UDP_SIZE, rcode);
	return (size_t)(p - out);
}
