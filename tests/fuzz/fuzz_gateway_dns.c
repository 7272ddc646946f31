/* SPDX-License-Identifier: Apache-2.0 */
#include "gateway/dns.h"

#include <assert.h>
#include <string.h>

/*
 * Input: options (1: the answer's id and question are made to match, 2: the answer is for a client
 * of TCP), the query's length in two bytes, the query, the answer.
 */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_query(const struct dns_query *q, const unsigned char *asked)
{
	unsigned char out[DNS_QUERY_MAX];
	struct dns_query again;
	enum dns_rcode rcode;
	size_t len = dns_write_query(q, 7, asked, DNS_UDP_SIZE, out);

	/* What goes to the resolver is a query that we would take ourselves, for the same name. */
	assert(dns_parse_query(out, len, &again, &rcode) == DNS_QUERY_OK);
	assert(again.id == 7 && again.type == q->type && again.edns);
	assert(again.name_len == q->name_len && memcmp(again.name, asked, q->name_len) == 0);
}

static void check_reply(const struct dns_query *q, enum dns_rcode rcode)
{
	unsigned char out[DNS_REPLY_MAX];
	size_t len = dns_write_reply(q, rcode, out);

	assert(len <= 512);
	if (q->class == 1)
		assert(dns_match_answer(q, q->id, q->name, out, len) == DNS_MATCH);
}

static void check_answer(const struct dns_query *q, const unsigned char *asked,
			 unsigned char options, const uint8_t *data, size_t size)
{
	size_t question = DNS_HEADER_SIZE + (size_t)q->name_len + 4;
	size_t size_max = options & 2 ? DNS_REPLY_MAX : q->udp_size;
	unsigned char answer[DNS_ANSWER_MAX];
	unsigned char out[DNS_REPLY_MAX];
	unsigned char twice[DNS_REPLY_MAX];

	if (size > sizeof(answer))
		return;
	memcpy(answer, data, size);
	if (options & 1 && size >= question) {
		unsigned char own[DNS_QUERY_MAX];

		dns_write_query(q, 7, asked, DNS_UDP_SIZE, own);
		memcpy(answer, own, 2);
		answer[2] = (unsigned char)((answer[2] & 0x07) | 0x80);
		memcpy(answer + 4, own + 4, 2);
		memcpy(answer + DNS_HEADER_SIZE, own + DNS_HEADER_SIZE, question - DNS_HEADER_SIZE);
		assert(dns_match_answer(q, 7, asked, answer, size) == DNS_MATCH);
	}
	if (dns_match_answer(q, 7, asked, answer, size) == DNS_NO_MATCH)
		return;
	size_t len = dns_write_answer(q, answer, size, size_max, out);

	if (!len)
		return;
	assert(len >= question && (len <= size_max || len == question + DNS_OPT_SIZE));
	assert(dns_match_answer(q, q->id, q->name, out, len) == DNS_MATCH || len > DNS_ANSWER_MAX);
	/* Nothing is left to rewrite: the records were understood. */
	if (len <= DNS_ANSWER_MAX) {
		assert(dns_write_answer(q, out, len, size_max, twice) == len);
		assert(memcmp(out, twice, len) == 0);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	unsigned char random[32];
	unsigned char asked[DNS_NAME_MAX];
	char text[DNS_TEXT_SIZE];
	struct dns_query q;
	enum dns_rcode rcode = DNS_NOERROR;

	if (size < 3)
		return 0;
	size_t query_len = (size_t)(data[1] << 8 | data[2]);

	if (query_len > size - 3)
		return 0;
	enum dns_verdict verdict = dns_parse_query(data + 3, query_len, &q, &rcode);

	if (verdict == DNS_QUERY_MALFORMED)
		return 0;
	check_reply(&q, rcode);
	dns_text(&q, text);
	if (verdict == DNS_QUERY_REFUSED)
		return 0;
	assert(strlen(text) == (size_t)q.name_len - 2);
	if (dns_answered_here(&q, &rcode))
		check_reply(&q, rcode);
	memset(random, data[0], sizeof(random));
	dns_mix_case(&q, random, asked);
	check_query(&q, asked);
	check_answer(&q, asked, data[0], data + 3 + query_len, size - 3 - query_len);
	return 0;
}
