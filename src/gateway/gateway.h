/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * gateway: what the parts of bivouac-gateway share. One thread, one epoll loop, no memory from the
 * heap: everything is in one static struct gateway, so that all its limits are the sizes of arrays.
 *
 * It forwards DNS of sandboxes with egress to the operator's resolvers and reports their
 * connections. Its input is hostile: packets of sandboxes, and answers of resolvers, which hold
 * what any server of the internet wrote.
 */

#include "base/err.h"
#include "base/flow_proto.h"
#include "base/gateway_proto.h"
#include "base/list.h"
#include "gateway/dns.h"

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/** Queries in flight: in all, and of one sandbox. */
#define FLIGHTS_MAX         1024
#define FLIGHTS_SANDBOX_MAX 64
/** Connections of DNS over TCP: in all, and of one sandbox. */
#define STREAMS_MAX         64
#define STREAMS_SANDBOX_MAX 8

#define QUERY_RETRY_MS    2000
#define QUERY_TIMEOUT_MS  5000
#define STREAM_TIMEOUT_MS 10000

/** A sandbox's queries per second and at once; its flow records likewise. */
#define QUERIES_PER_S   200
#define QUERIES_BURST   400
#define RECORDS_PER_S   500
#define RECORDS_BURST   1000
#define REFUSED_EACH_MS 1000 /* at most one record of refused queries */
#define NAME_EACH_MS    1000 /* the same name again is not reported */

/** What is known of the sandbox with one address; all zero is one that nothing is known of. */
struct sandbox {
	int64_t queries_ns; /* token buckets: the time until which the rate is used up */
	int64_t records_ns;
	int64_t refused_ms; /* of the last record */
	int64_t name_ms;
	uint64_t name_hash;
	uint32_t refused;         /* queries not yet reported; if any: */
	struct list refused_node; /* in gateway.refusing */
	uint16_t flights;
	uint16_t streams;
	uint8_t refused_protocol; /* of the last one */
	uint8_t resolver;         /* where its next query goes first */
};

/** A query that waits for a resolver. */
struct flight {
	struct list node; /* gateway.flights, in order of started_ms; or gateway.free_flights */
	struct sandbox *sandbox;
	struct stream *stream; /* who asked, NULL: `from` */
	struct sockaddr_in from;
	struct dns_query query;
	int64_t started_ms;
	uint8_t resolver;
	bool retried;
	bool any_case; /* the resolver does not keep the case of names */
	unsigned char asked[DNS_NAME_MAX];
};

/** A client of DNS over TCP. */
struct stream {
	int fd;              /* -1: free */
	uint32_t armed;      /* epoll events */
	unsigned generation; /* of this slot */
	struct sandbox *sandbox;
	struct flight *flight; /* its query that is being answered, NULL none */
	int64_t deadline_ms;
	size_t in_len;
	size_t out_at;
	size_t out_len;
	unsigned char in[2 + DNS_QUERY_MAX];
	unsigned char out[2 + DNS_REPLY_MAX];
};

enum gateway_source {
	SOURCE_NFLOG,
	SOURCE_CONNTRACK,
	SOURCE_UDP,
	SOURCE_TCP,
	SOURCE_RECORDS,
	SOURCE_UPSTREAM, /* with an index */
	SOURCE_STREAM,   /* with an index */
};

struct gateway {
	int epoll_fd;
	unsigned resolvers;
	unsigned sockets_each;
	int64_t now_ns; /* of this turn of the loop */
	int64_t now_ms;
	bool ending;

	uint64_t records_lost;
	struct list refusing; /* sandboxes with refused queries to report */

	/* By the lower half of the address: nothing to evict, and nothing to fill up. */
	struct sandbox sandboxes[65536];

	struct list flights;
	struct list free_flights;
	struct flight flight[FLIGHTS_MAX];
	uint32_t flight_key[FLIGHTS_MAX]; /* socket and id, 0: not in flight */

	struct stream stream[STREAMS_MAX];
	unsigned streams;
};

/* main.c */
void gateway_watch(struct gateway *g, int fd, enum gateway_source source, unsigned index,
		   uint32_t events, bool add);
/** gateway_sandbox: NULL if no sandbox has this address (host byte order). */
struct sandbox *gateway_sandbox(struct gateway *g, uint32_t address);
/** gateway_take: one token of a bucket; false: used up. */
bool gateway_take(const struct gateway *g, int64_t *bucket_ns, unsigned per_s, unsigned burst);

/* confine.c */
/** gateway_confine: becomes `uid` for good; afterwards only what the loop needs can be called. */
int gateway_confine(uid_t uid, struct err *e);

/* records.c */
void records_init(struct gateway *g);
void records_send(struct gateway *g, const struct flow_record *r);
/** records_lost: that many were not sent, or never came. */
void records_lost(struct gateway *g, uint64_t count);
/** records_tick: what could not be said before, as soon as it can. */
void records_tick(struct gateway *g);
/** records_netlink: one datagram of SOURCE_NFLOG or SOURCE_CONNTRACK; false: none is there. */
bool records_netlink(struct gateway *g, int fd);
/** records_name: a query was accepted. records_refused: one was not. */
void records_name(struct gateway *g, struct sandbox *s, uint8_t protocol,
		  const struct dns_query *q);
void records_refused(struct gateway *g, struct sandbox *s, uint8_t protocol);

/* forward.c */
/** Who asked: a stream, or the sender of a UDP packet. */
struct client {
	struct sandbox *sandbox;
	struct stream *stream;
	struct sockaddr_in from;
};
void forward_init(struct gateway *g);
/** forward_query: answers now or later, once; false: there will be no answer. */
bool forward_query(struct gateway *g, const struct client *c, const void *data, size_t len);
/** forward_cancel: nobody waits for it any more. */
void forward_cancel(struct gateway *g, struct flight *f);
void forward_udp_event(struct gateway *g);
void forward_upstream_event(struct gateway *g, unsigned index);
/** forward_tick: retries and timeouts. */
void forward_tick(struct gateway *g);

/* stream.c */
void stream_init(struct gateway *g);
void stream_accept(struct gateway *g);
void stream_event(struct gateway *g, unsigned index, uint32_t events);
/** stream_reply: the answer of the stream's query, to be sent by the loop. */
void stream_reply(struct gateway *g, struct stream *s, const void *data, size_t len);
void stream_tick(struct gateway *g);
