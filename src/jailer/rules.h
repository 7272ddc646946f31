/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * rules: the nftables rulesets of egress as text, and the run of nft(8) that loads one.
 *
 * Each text replaces a whole table in one transaction, so that loading it again, or over what a
 * killed jailer left, is the same as loading it once. Two tables: `bivouac` in the gateway's
 * namespace decides what sandboxes may reach; `bivouac_<index>` in the host's namespace keeps the
 * gateway away from the host and translates its address.
 *
 * SECURITY: every byte of a text is a constant of ours or printed from a number.
 */

#include "base/buf.h"
#include "base/gateway_proto.h"
#include "jailer/egress.h"

/** Host byte order; sandboxes have GATEWAY_SANDBOX_NET + 2 + slot, their next hop is
 * GATEWAY_ADDRESS. */
#define RULES_UPLINK 0xc6130000u /* 198.19.0.0/16, a /30 for each daemon of the machine */

/** Interfaces in the gateway's namespace: RULES_UP, and s<slot> for each connected sandbox. */
#define RULES_UP "up0"
/** Host addresses in the gateway's set. */
#define RULES_HOST_MAX 1024
#define RULES_TEXT_MAX (64u << 10)

static inline uint32_t rules_sandbox_address(unsigned slot)
{
	return GATEWAY_SANDBOX_NET + 2 + slot;
}
/** rules_uplink_host, rules_uplink_gateway: the two addresses of a daemon's /30. */
static inline uint32_t rules_uplink_host(unsigned index)
{
	return RULES_UPLINK + 4 * index + 1;
}
static inline uint32_t rules_uplink_gateway(unsigned index)
{
	return RULES_UPLINK + 4 * index + 2;
}

#define RULES_TABLE_SIZE 24
/** rules_uplink_table: the name of the host's table. */
void rules_uplink_table(unsigned index, char ret[static RULES_TABLE_SIZE]);

/** rules_gateway: the gateway's table. */
void rules_gateway(const struct egress_options *o, const uint32_t *host, size_t host_count,
		   struct buf *out);
/** rules_host_addresses: other contents of the gateway's set of host addresses. */
void rules_host_addresses(const uint32_t *host, size_t host_count, struct buf *out);
/** rules_uplink: the host's table for the uplink bvk<index>; timeouts: with some of its own. */
void rules_uplink(const struct egress_options *o, unsigned index, bool timeouts, struct buf *out);
void rules_uplink_remove(unsigned index, struct buf *out);
/** rules_load: nft in a network namespace; its own words come back in the error. */
int rules_load(int ns_fd, const struct buf *text, struct err *e);
