/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * flow protocol: from bivouac-gateway to bivouacd, one struct per SOCK_SEQPACKET packet, host byte
 * order (both ends are one build on one machine). Says what connected sandboxes do on the network.
 *
 * SECURITY: the gateway parses packets of sandboxes and may be taken over; the daemon takes packets
 * of exactly this size, looks the address up in its own table and escapes the name. A packet that
 * does not fit is dropped. A gateway that finds the socket full counts, and says so in LOST.
 */

#include <stdint.h>

#define FLOW_PROTO_VERSION 1
#define FLOW_NAME_SIZE     256

enum flow_event {
	FLOW_NEW = 1,     /* a connection was let through */
	FLOW_REFUSED = 2, /* a connection was refused; see reason */
	FLOW_END = 3,     /* a connection is over: bytes */
	FLOW_DNS = 4,     /* a name was asked for */
	FLOW_LOST = 5,    /* `count` records were not sent */
};

/** Why a connection was refused. */
enum flow_reason {
	FLOW_REASON_NONE = 0,
	FLOW_REASON_ADDRESS = 1,     /* private, link-local, metadata, multicast, … */
	FLOW_REASON_HOST = 2,        /* an address of the host */
	FLOW_REASON_CONNECTIONS = 3, /* too many at once */
	FLOW_REASON_RATE = 4,        /* too many new ones a second */
	FLOW_REASON_SPOOFED = 5,     /* not the sender's own address, which `session` claims */
	FLOW_REASON_PROTOCOL = 6,    /* neither TCP, UDP nor ICMP echo; or IPv6 */
	FLOW_REASON_QUERY = 7,       /* DNS: malformed, or too many */
};

struct flow_record {
	uint16_t version;
	uint16_t event;
	uint8_t reason;
	uint8_t protocol; /* IPPROTO_TCP, … */
	uint16_t port;    /* destination */
	uint32_t session; /* the sandbox's address, as JAILER_NETWORK replied it */
	uint32_t address; /* destination, IPv4, host byte order */
	uint64_t bytes_out;
	uint64_t bytes_in;
	uint64_t count;            /* LOST; REFUSED for QUERY: queries since the last such record */
	char name[FLOW_NAME_SIZE]; /* DNS: without the last dot, NUL-terminated, any bytes */
};
