/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * network: connects sandboxes to the outside. docs/jailer-protocol.md has the page.
 *
 * One gateway network namespace per daemon, made when the first sandbox is connected, held by a
 * descriptor of the worker and gone with it. Each connected sandbox has a routed point-to-point
 * veth into it (eth0 there, s<slot> in the gateway), the gateway one to the host (up0, bvk<index>
 * there). There is no bridge: without a shared layer 2 there is nobody to spoof and nothing to
 * overhear. Whether a sandbox is connected is decided by the daemon alone; a worker that was
 * restarted begins with none, and the daemon asks again.
 */

#include "jailer/egress.h"

#include <sys/types.h>

struct network;

struct network_config {
	const struct egress_options *options;
	const char *binary_dir;
	const char *run_dir; /* keeps a mark while the host has something of ours */
	unsigned index;      /* of the daemon's block of user ids: unique on the machine */
	uid_t gateway_uid;   /* of that block; no sandbox has it */
	int epoll_fd;        /* gets our descriptors, with watch_data */
	void *watch_data;
	void (*flows)(void *arg, int fd); /* a new gateway's flow records; fd stays ours */
	void *arg;
};

/** network_new: makes nothing yet, but removes what a killed worker left on the host. */
struct network *network_new(const struct network_config *config, struct err *e);
/** network_free: cuts everybody off and removes everything from the host. Accepts NULL. */
void network_free(struct network *n);
/** network_connect: connects the sandbox with this PID 1; repeating succeeds. */
int network_connect(struct network *n, unsigned slot, int pidfd, uint32_t *ret_address,
		    struct err *e);
/** network_disconnect: no packet leaves or arrives any more; repeating succeeds. */
int network_disconnect(struct network *n, unsigned slot, int pidfd, struct err *e);
/** network_forget: the slot's sandbox has ended; its address may become another's. Accepts a
 * NULL network. */
void network_forget(struct network *n, unsigned slot);
/** network_event: one of our descriptors is readable. */
void network_event(struct network *n);
