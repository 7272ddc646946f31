/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * dns: parser and writer of DNS messages (RFC 1035, EDNS of RFC 6891), as far as a forwarder needs
 * them. Pure functions on bytes: no sockets, no memory of their own.
 *
 * A client's query is reduced to struct dns_query, and only what is in there goes on: messages to
 * resolvers and to clients are written from it. Of a resolver's answer the records are copied,
 * after a walk that proves their bounds. Names are kept in wire form: length byte, label, …, zero.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_HEADER_SIZE 12
#define DNS_OPT_SIZE    11
#define DNS_NAME_MAX    255
/** Text without the last dot, and its NUL. */
#define DNS_TEXT_SIZE 254
/** Longest query taken from a client; what it holds beyond a name is EDNS options. */
#define DNS_QUERY_MAX 512
/** Longest answer taken from a resolver. */
#define DNS_ANSWER_MAX 4096
/** Longest message written: a resolver's answer with our OPT record for its own. */
#define DNS_REPLY_MAX (DNS_ANSWER_MAX + DNS_OPT_SIZE)
/** What resolvers may send by UDP: without fragments, or all we take. */
#define DNS_UDP_SIZE 1232

enum dns_rcode {
	DNS_NOERROR = 0,
	DNS_SERVFAIL = 2,
	DNS_NXDOMAIN = 3,
	DNS_NOTIMP = 4,
	DNS_REFUSED = 5,
	DNS_BADVERS = 16, /* EDNS */
};

enum dns_type {
	DNS_A = 1,
	DNS_NS = 2,
	DNS_CNAME = 5,
	DNS_SOA = 6,
	DNS_PTR = 12,
	DNS_MX = 15,
	DNS_TXT = 16,
	DNS_AAAA = 28,
	DNS_SRV = 33,
	DNS_OPT = 41,
	DNS_SVCB = 64,
	DNS_HTTPS = 65,
	DNS_CAA = 257,
};

struct dns_query {
	uint16_t id;
	uint16_t type;
	uint16_t class;    /* IN, in what is not refused */
	uint16_t udp_size; /* longest answer by UDP: 512 to DNS_ANSWER_MAX */
	bool recursion;    /* RD */
	bool edns;
	uint8_t name_len; /* with the root's zero */
	unsigned char name[DNS_NAME_MAX];
};

enum dns_verdict {
	DNS_QUERY_OK,
	DNS_QUERY_REFUSED,   /* well-formed, and answered with *ret_rcode */
	DNS_QUERY_MALFORMED, /* no answer */
};

/** dns_parse_query: ret_query is complete unless the query is malformed. */
enum dns_verdict dns_parse_query(const void *data, size_t len, struct dns_query *ret_query,
				 enum dns_rcode *ret_rcode);
/** dns_answered_here: the query never leaves the machine; *ret_rcode is the answer, without
 * records. */
bool dns_answered_here(const struct dns_query *q, enum dns_rcode *ret_rcode);
/** dns_text: the name for people, "." for the root. */
void dns_text(const struct dns_query *q, char text[static DNS_TEXT_SIZE]);

/** dns_mix_case: the name with each letter's case chosen by a bit of random[32]. */
void dns_mix_case(const struct dns_query *q, const unsigned char random[static 32],
		  unsigned char name[static DNS_NAME_MAX]);
/** dns_write_query: a query for the resolver, asking for `name` (q's name in some case). Returns
 * its length, at most DNS_QUERY_MAX. */
size_t dns_write_query(const struct dns_query *q, uint16_t id, const unsigned char *name,
		       uint16_t udp_size, unsigned char out[static DNS_QUERY_MAX]);

enum dns_match { DNS_NO_MATCH, DNS_MATCH_OTHER_CASE, DNS_MATCH };

/** dns_match_answer: whether this answers the question `name` (q's name in some case). */
enum dns_match dns_match_answer(const struct dns_query *q, uint16_t id, const unsigned char *name,
				const void *data, size_t len);
/**
 * dns_write_answer: the resolver's answer as the client gets it: its own id and spelling of the
 * name, our OPT record if it knows EDNS, only header and question if it is longer than size_max.
 * The answer must have matched. Returns its length, 0 if a record is malformed.
 */
size_t dns_write_answer(const struct dns_query *q, const void *data, size_t len, size_t size_max,
			unsigned char out[static DNS_REPLY_MAX]);
/** dns_write_reply: our own answer, without records. Returns its length. */
size_t dns_write_reply(const struct dns_query *q, enum dns_rcode rcode,
		       unsigned char out[static DNS_REPLY_MAX]);
