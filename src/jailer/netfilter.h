/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * netfilter: sockets that hear of packets and connections, and the end of connections. Opened in
 * the namespace one is in (netns_run) and bound to it for good.
 */

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/** netfilter_open_log: NFLOG group GATEWAY_LOG_GROUP, non-blocking. */
int netfilter_open_log(struct err *e);
/** netfilter_open_ends: conntrack's DESTROY events, non-blocking. */
int netfilter_open_ends(struct err *e);
/** netfilter_open_changes: readable when somebody changed rulesets, non-blocking. */
int netfilter_open_changes(struct err *e);
/** netfilter_has_table: 1 if there is an `inet` table of this name, 0 if not. */
int netfilter_has_table(const char *name, struct err *e);
/** netfilter_forget: ends what conntrack knows of connections that were begun by addresses (host
 * byte order) of which `ended` says so. Walks all connections of the namespace. */
int netfilter_forget(bool (*ended)(void *arg, uint32_t address), void *arg, struct err *e);
