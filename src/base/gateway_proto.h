/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * gateway protocol: how bivouac-jailer starts bivouac-gateway. Everything the gateway ever uses is
 * a descriptor that it is born with, so that it needs no right of its own.
 *
 * `bivouac-gateway --uid UID --resolvers N --sockets-each M`, as root, with these descriptors open.
 * It ends when the other end of GATEWAY_RECORDS_FD is closed or its parent dies.
 */

#define GATEWAY_NFLOG_FD     3 /* NETLINK_NETFILTER, bound to the log group below */
#define GATEWAY_CONNTRACK_FD 4 /* NETLINK_NETFILTER, member of the conntrack destroy group */
#define GATEWAY_UDP_FD       5 /* UDP socket bound to GATEWAY_ADDRESS, port 53 */
#define GATEWAY_TCP_FD       6 /* TCP socket listening there */
#define GATEWAY_RECORDS_FD   7 /* SOCK_SEQPACKET to bivouacd: flow_proto.h */
#define GATEWAY_UPSTREAM_FD  8 /* N times M UDP sockets, connected to resolver after resolver */

/** None is allowed: every query then fails at once. */
#define GATEWAY_RESOLVERS_MAX 8
#define GATEWAY_SOCKETS_MAX   64 /* of one resolver */

/** Prefixes of the log group say what the rule did: "new", or why it refused (enum flow_reason). */
#define GATEWAY_LOG_GROUP 1
#define GATEWAY_LOG_BYTES 64 /* of each packet: an IPv4 header with options, and ports */

/** Host byte order. Sandboxes are in 198.18.0.0/16; they ask 169.254.1.1 for names. */
#define GATEWAY_ADDRESS      0xa9fe0101u
#define GATEWAY_SANDBOX_NET  0xc6120000u
#define GATEWAY_SANDBOX_MASK 0xffff0000u
