/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * gateway: the program bivouac-gateway, which answers the sandboxes' DNS questions and says what
 * they do on the network. The jailer opens all of its sockets, so that it needs no right of its
 * own.
 *
 * base/gateway_proto.h says which descriptors these are. All are non-blocking; those to resolvers
 * are of the host's namespace, GATEWAY_SOCKETS_EACH for the first, then those of the next.
 *
 * SECURITY: it reads packets of sandboxes, so it is worth taking over; it is started with these
 * sockets and /dev/null only, becomes a user that nothing else runs as, and filters its own system
 * calls. Taken over, it can lie about flows and names; rules and routes are out of its reach.
 */

#include "jailer/egress.h"

#include <sys/types.h>

#define GATEWAY_SOCKETS_EACH 32

struct gateway_config {
	const char *binary_dir; /* bivouac-gateway */
	uid_t uid;              /* what it becomes */
	int ns_fd;              /* the gateway's network namespace */
	int home_fd;            /* the host's */
	const uint32_t *dns;
	size_t dns_count;
};

/**
 * gateway_start: runs it with fresh sockets. On success the caller owns the process (*ret_pid, to
 * be reaped), its pidfd and the receiving end of the flow records.
 */
int gateway_start(const struct gateway_config *config, pid_t *ret_pid, int *ret_pidfd,
		  int *ret_flows, struct err *e);
/** gateway_reaches: whether it would be started with this resolver, as seen from here. */
bool gateway_reaches(uint32_t resolver);
