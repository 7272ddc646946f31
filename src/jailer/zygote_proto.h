/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * zygote protocol: between the jailer and the zygote of an image, SOCK_SEQPACKET, fixed structs.
 *
 * The zygote says ready with a reply of tag 0 once its libraries are loaded (or why they are not,
 * and ends); with the argument `--notify` that reply carries the listener of its filter. Request
 * descriptors, in this order: the agent's pidfd, the kernel's end of the socket to the agent, then
 * cgroup_fds descriptors of cgroup.procs files. SECURITY: the zygote's only peer is the jailer; no
 * byte that a caller or a sandbox chose reaches it.
 */

#include "base/err.h"
#include "base/jailer_proto.h"
#include "jailer/confine.h"

#include <stdint.h>

#define ZYGOTE_SOCK_FD       3
#define ZYGOTE_FILTER_FD     4 /* what a kernel adds to its zygote's filter */
#define ZYGOTE_OWN_FILTER_FD 6 /* what the zygote installs once its libraries are loaded */

struct zygote_request {
	uint32_t tag;
	uint32_t cgroup_fds;
	struct confine_limits limits;
	char language[JAILER_LANGUAGE_SIZE]; /* empty: the first of the image's recipe */
};

struct zygote_reply {
	uint32_t tag;
	uint32_t reserved;
	uint64_t duration_us;
	struct err err;
};
