/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * links: interfaces, addresses and routes, through rtnetlink (libmnl). Jailer only.
 *
 * A socket belongs to the network namespace in which it was opened and works there wherever its
 * owner goes. IPv4 addresses are in host byte order.
 */

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct mnl_socket;

struct link_end {
	const char *name;
	unsigned index; /* the interface's number; 0: the kernel chooses, then of both ends */
	bool up;        /* from the start; not for the other end of a pair */
};

struct link_route {
	uint32_t to;
	unsigned prefix;
	unsigned index;  /* of the interface */
	uint32_t via;    /* 0: on the link */
	uint32_t source; /* preferred source address; 0: none */
};

/** links_open: NULL on error; links_close() accepts NULL. */
struct mnl_socket *links_open(struct err *e);
void links_close(struct mnl_socket *nl);
/** links_add_pair: a veth pair, one end here, the other in there_ns_fd. */
int links_add_pair(struct mnl_socket *nl, const struct link_end *here, const struct link_end *there,
		   int there_ns_fd, struct err *e);
/** links_delete: a pair goes with either end; one that is not there is no error. */
int links_delete(struct mnl_socket *nl, const char *name, struct err *e);
int links_set_up(struct mnl_socket *nl, unsigned index, struct err *e);
int links_add_address(struct mnl_socket *nl, unsigned index, uint32_t address, unsigned prefix,
		      struct err *e);
int links_add_route(struct mnl_socket *nl, const struct link_route *r, struct err *e);
/** links_delete_route: one that is not there is no error. */
int links_delete_route(struct mnl_socket *nl, const struct link_route *r, struct err *e);
/** links_addresses: the namespace's IPv4 addresses, sorted, each once; returns how many there are,
 * of which at most max are stored. */
int links_addresses(struct mnl_socket *nl, uint32_t *ret, size_t max, struct err *e);
/** links_watch: non-blocking socket that becomes readable when an IPv4 address comes or goes. */
int links_watch(struct err *e);
