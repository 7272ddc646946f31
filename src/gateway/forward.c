/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "base/rand.h"
#include "gateway/gateway.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

/** Packets taken from one socket before the others get their turn. */
#define PACKETS_A_TURN 64

void forward_init(struct gateway *g)
{
	list_init(&g->flights);
	list_init(&g->free_flights);
	for (size_t i = 0; i < FLIGHTS_MAX; i++)
		list_add_tail(&g->free_flights, &g->flight[i].node);
}

static void reply(struct gateway *g, const struct client *c, const unsigned char *data, size_t len)
{
	if (c->stream)
		stream_reply(g, c->stream, data, len);
	else /* a client that does not read loses answers */
		sendto(GATEWAY_UDP_FD, data, len, MSG_DONTWAIT | MSG_NOSIGNAL,
		       (const struct sockaddr *)&c->from, sizeof(c->from));
}

static void reply_code(struct gateway *g, const struct client *c, const struct dns_query *q,
		       enum dns_rcode rcode)
{
	unsigned char out[DNS_REPLY_MAX];

	reply(g, c, out, dns_write_reply(q, rcode, out));
}

/* ---- queries in flight ---- */

static uint32_t key_of(unsigned socket, uint16_t id)
{
	return (uint32_t)(socket + 1) << 16 | id;
}

/* 4 KiB, read from end to end: faster than anything that must be kept in order. */
static struct flight *find_flight(struct gateway *g, uint32_t key)
{
	for (size_t i = 0; i < FLIGHTS_MAX; i++)
		if (g->flight_key[i] == key)
			return &g->flight[i];
	return NULL;
}

static void release(struct gateway *g, struct flight *f)
{
	g->flight_key[f - g->flight] = 0;
	f->sandbox->flights--;
	if (f->stream)
		f->stream->flight = NULL;
	list_remove(&f->node);
	list_add_tail(&g->free_flights, &f->node);
}

void forward_cancel(struct gateway *g, struct flight *f)
{
	release(g, f);
}

static void finish(struct gateway *g, struct flight *f, const unsigned char *data, size_t len)
{
	struct client c = { f->sandbox, f->stream, f->from };

	release(g, f);
	reply(g, &c, data, len);
}

static void fail(struct gateway *g, struct flight *f)
{
	unsigned char out[DNS_REPLY_MAX];

	finish(g, f, out, dns_write_reply(&f->query, DNS_SERVFAIL, out));
}

/*
 * SECURITY: whoever wants to answer in the resolver's place has to guess 16 bits of id, which of
 * the sockets it is and that one's port, and the case of each letter. There is no cache: a right
 * guess deceives the one query.
 */
static bool ask(struct gateway *g, struct flight *f)
{
	unsigned char random[32] = { 0 };
	unsigned char out[DNS_QUERY_MAX];
	struct {
		uint32_t socket;
		uint16_t id;
	} chosen;
	uint32_t key;

	do {
		rand_bytes(&chosen, sizeof(chosen));
		chosen.socket = f->resolver * g->sockets_each + chosen.socket % g->sockets_each;
		key = key_of(chosen.socket, chosen.id);
	} while (find_flight(g, key));
	if (!f->any_case)
		rand_bytes(random, sizeof(random));
	dns_mix_case(&f->query, random, f->asked);
	g->flight_key[f - g->flight] = key;
	size_t len = dns_write_query(&f->query, chosen.id, f->asked,
				     f->stream ? DNS_ANSWER_MAX : DNS_UDP_SIZE, out);

	return send(GATEWAY_UPSTREAM_FD + (int)chosen.socket, out, len,
		    MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len;
}

static void ask_next(struct gateway *g, struct flight *f)
{
	f->retried = true;
	f->resolver = (uint8_t)((f->resolver + 1) % g->resolvers);
	/* Per sandbox: names that no resolver answers cost only those who ask for them. */
	f->sandbox->resolver = f->resolver;
	ask(g, f);
}

/* SECURITY: a full table is shared fairly: the oldest query of whoever has most of them yields. */
static bool make_room(struct gateway *g, const struct sandbox *s)
{
	struct flight *most = NULL;

	list_each(&g->flights, struct flight, node, f)
		if (!most || f->sandbox->flights > most->sandbox->flights)
			most = f;
	if (!most || most->sandbox->flights <= s->flights + 1)
		return false;
	fail(g, most);
	return true;
}

static bool start(struct gateway *g, const struct client *c, const struct dns_query *q)
{
	struct sandbox *s = c->sandbox;

	if (!g->resolvers || s->flights >= FLIGHTS_SANDBOX_MAX)
		return false;
	if (list_empty(&g->free_flights) && !make_room(g, s))
		return false;
	struct flight *f = list_first(&g->free_flights, struct flight, node);

	*f = (struct flight){ .node = f->node,
			      .sandbox = s,
			      .stream = c->stream,
			      .from = c->from,
			      .query = *q,
			      .started_ms = g->now_ms,
			      .resolver = (uint8_t)(s->resolver % g->resolvers) };
	list_remove(&f->node);
	list_add_tail(&g->flights, &f->node);
	s->flights++;
	if (c->stream)
		c->stream->flight = f;
	if (!ask(g, f))
		ask_next(g, f);
	return true;
}

static uint8_t transport(const struct client *c)
{
	return c->stream ? IPPROTO_TCP : IPPROTO_UDP;
}

bool forward_query(struct gateway *g, const struct client *c, const void *data, size_t len)
{
	struct dns_query q;
	enum dns_rcode rcode = DNS_SERVFAIL;

	if (!gateway_take(g, &c->sandbox->queries_ns, QUERIES_PER_S, QUERIES_BURST)) {
		records_refused(g, c->sandbox, transport(c));
		return false;
	}
	switch (dns_parse_query(data, len, &q, &rcode)) {
	case DNS_QUERY_MALFORMED:
		records_refused(g, c->sandbox, transport(c));
		return false;
	case DNS_QUERY_REFUSED:
		records_refused(g, c->sandbox, transport(c));
		break;
	case DNS_QUERY_OK:
		records_name(g, c->sandbox, transport(c), &q);
		if (dns_answered_here(&q, &rcode))
			break;
		if (start(g, c, &q))
			return true;
		records_refused(g, c->sandbox, transport(c));
		break;
	}
	reply_code(g, c, &q, rcode);
	return true;
}

/* ---- events ---- */

static bool one_udp_query(struct gateway *g)
{
	unsigned char data[DNS_QUERY_MAX + 1]; /* one more: too long is seen */
	struct client c = { .from = { 0 } };
	socklen_t from_len = sizeof(c.from);
	ssize_t n = recvfrom(GATEWAY_UDP_FD, data, sizeof(data), MSG_DONTWAIT,
			     (struct sockaddr *)&c.from, &from_len);

	if (n < 0)
		return errno != EAGAIN;
	if (c.from.sin_family != AF_INET || c.from.sin_port == 0)
		return true;
	c.sandbox = gateway_sandbox(g, ntohl(c.from.sin_addr.s_addr));
	if (c.sandbox)
		forward_query(g, &c, data, (size_t)n);
	return true;
}

void forward_udp_event(struct gateway *g)
{
	for (unsigned i = 0; i < PACKETS_A_TURN && one_udp_query(g); i++)
		;
}

/*
 * SECURITY: addresses in answers are passed on as they are, private ones too: an operator's
 * allow-list can make those legitimate, and a sandbox needs no name to try an address. What it may
 * connect to is decided by the packet filter, for each connection, whatever a name meant before.
 */
static void take_answer(struct gateway *g, unsigned socket, const unsigned char *data, size_t len)
{
	unsigned char out[DNS_REPLY_MAX];

	if (len < DNS_HEADER_SIZE)
		return;
	uint16_t id = (uint16_t)(data[0] << 8 | data[1]);
	struct flight *f = find_flight(g, key_of(socket, id));

	if (!f)
		return;
	switch (dns_match_answer(&f->query, id, f->asked, data, len)) {
	case DNS_NO_MATCH:
		return;
	case DNS_MATCH_OTHER_CASE:
		if (!f->any_case) {
			f->any_case = true;
			ask(g, f);
			return;
		}
		break;
	case DNS_MATCH:
		break;
	}
	size_t size_max = f->stream ? sizeof(out) : f->query.udp_size;
	size_t out_len = dns_write_answer(&f->query, data, len, size_max, out);

	if (out_len)
		finish(g, f, out, out_len);
}

void forward_upstream_event(struct gateway *g, unsigned index)
{
	unsigned char data[DNS_ANSWER_MAX + 1];

	for (unsigned i = 0; i < PACKETS_A_TURN; i++) {
		ssize_t n =
			recv(GATEWAY_UPSTREAM_FD + (int)index, data, sizeof(data), MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n > 0) /* else an ICMP error; the query's timer deals with it */
			take_answer(g, index, data, (size_t)n);
	}
}

void forward_tick(struct gateway *g)
{
	list_each(&g->flights, struct flight, node, f) {
		int64_t age_ms = g->now_ms - f->started_ms;

		if (age_ms < QUERY_RETRY_MS)
			break; /* those behind are younger */
		if (age_ms >= QUERY_TIMEOUT_MS)
			fail(g, f);
		else if (!f->retried)
			ask_next(g, f);
	}
}
