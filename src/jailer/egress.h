/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * egress: what root's command line says about the network of connected sandboxes, as numbers.
 *
 * SECURITY: these settings come with the jailer's start and never over its socket, so a daemon that
 * was taken over cannot widen them. Text from outside ends here: what is rendered into a ruleset
 * later is printed from these numbers.
 */

#include "base/err.h"

#include <netinet/in.h>

#include <stdbool.h>
#include <stdint.h>

#define EGRESS_ALLOW_MAX 64
#define EGRESS_DNS_MAX   3

/** IPv4, host byte order; no bit beyond the prefix is set. */
struct cidr {
	uint32_t address;
	unsigned prefix;
};

struct egress_options {
	bool off;                            /* nobody is connected */
	struct cidr allow[EGRESS_ALLOW_MAX]; /* wins over refused ranges and host addresses */
	size_t allow_count;
	uint32_t dns[EGRESS_DNS_MAX]; /* upstream resolvers, host byte order */
	size_t dns_count;
	bool dns_given;       /* else the host's resolv.conf is read when needed */
	uint32_t connections; /* of one sandbox at once */
	uint32_t rate;        /* new connections of one sandbox per second */
	uint64_t bandwidth;   /* bytes per second, each direction of one sandbox */
};

#define EGRESS_OPTIONS_INIT                                                                        \
	((struct egress_options){ .connections = 256, .rate = 100, .bandwidth = 12500000 })

/** egress_parse_switch: "on" or "off". */
int egress_parse_switch(struct egress_options *o, const char *text, struct err *e);
/** egress_parse_allow: "10.1.0.0/16,192.0.2.7"; a lone address is a /32. Adds to the list. */
int egress_parse_allow(struct egress_options *o, const char *text, struct err *e);
/** egress_parse_dns: "192.0.2.53,192.0.2.54", at most EGRESS_DNS_MAX. */
int egress_parse_dns(struct egress_options *o, const char *text, struct err *e);
int egress_parse_connections(struct egress_options *o, const char *text, struct err *e);
int egress_parse_rate(struct egress_options *o, const char *text, struct err *e);
int egress_parse_bandwidth(struct egress_options *o, const char *text, struct err *e);
/** egress_read_resolv_conf: IPv4 nameservers of a resolv.conf's text; how many there were. */
size_t egress_read_resolv_conf(const char *text, uint32_t dns[static EGRESS_DNS_MAX]);
