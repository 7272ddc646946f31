/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * flows: messages of the kernel's packet filter to flow records. A pure function on bytes.
 *
 * NFLOG messages carry the prefix of the rule and the beginning of a packet that a sandbox wrote;
 * conntrack DESTROY messages carry a connection's addresses and byte counters.
 */

#include "base/flow_proto.h"

#include <stddef.h>

typedef void flow_fn(void *arg, const struct flow_record *record);

/**
 * flows_parse: calls `each` for every message of one netlink datagram that says something about a
 * sandbox. Others are passed over: questions to the gateway itself, packets that are not IPv4
 * (they name no sandbox), message types nobody asked for. `data` is aligned to 4 bytes.
 */
void flows_parse(const void *data, size_t len, flow_fn *each, void *arg);
