/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * jailer protocol: between bivouacd (unprivileged) and bivouac-jailer (root), one SOCK_SEQPACKET
 * packet per message. docs/jailer-protocol.md has the page and, per opcode, the argument why it is
 * safe.
 *
 * Requests and replies are fixed-size structs in host byte order (both ends are one build on one
 * machine); the jailer refuses packets of any other size, version, unknown opcode or unterminated
 * text. `tag` comes back unchanged. Replies arrive in any order. Session ids and image ids are the
 * only names: 32 and 64 lower-case hexadecimal digits, never paths.
 */

#include "base/err.h"

#include <stdint.h>

#define JAILER_PROTO_VERSION 1
#define JAILER_SID_SIZE      33 /* 32 hex digits + NUL */
#define JAILER_IMAGE_SIZE    65
#define JAILER_LIST_MAX      64

enum jailer_op {
	JAILER_CREATE = 1,       /* a sandbox without a kernel (a "shell") */
	JAILER_START_KERNEL = 2, /* fork a kernel into it; reply carries one fd: the agent's end */
	JAILER_DESTROY = 3,      /* kill everything, reply when nothing is left */
	JAILER_LIST = 4, /* complete sandboxes after `sid` (empty: all), JAILER_LIST_MAX a reply */
	JAILER_STATS = 5,
	JAILER_IMAGE = 6, /* start the zygote of an image; reply when it is loaded */
	JAILER_PING = 7,
	/* jailer -> daemon, unasked, tag 0 */
	JAILER_RESTARTED = 32, /* a new jailer took over; requests without reply are lost */
};

struct jailer_limits {
	uint64_t memory_bytes; /* kernels, agent and tmpfs contents together */
	uint64_t data_bytes;   /* tmpfs size of /mnt/data */
	uint64_t tmp_bytes;    /* tmpfs size of /tmp and of the home directory, each */
	uint32_t inodes;       /* per tmpfs */
	uint32_t pids;
	uint32_t cpu_millis; /* quota in thousandths of a core, 0 = no quota */
	uint32_t reserved;
};

struct jailer_request {
	uint16_t version;
	uint16_t op;
	uint32_t tag;
	char sid[JAILER_SID_SIZE];
	char image[JAILER_IMAGE_SIZE]; /* CREATE, IMAGE */
	uint8_t pad[6];
	struct jailer_limits limits; /* CREATE */
};

struct jailer_stats {
	uint64_t memory_bytes;
	uint64_t cpu_us;
	uint32_t pids;
	uint32_t oom_kills;
};

struct jailer_reply {
	uint16_t version;
	uint16_t op;
	uint32_t tag;
	struct err err; /* ERR_NONE: it worked */
	uint32_t list_count;
	uint32_t list_more;
	char sids[JAILER_LIST_MAX][JAILER_SID_SIZE];
	struct jailer_stats stats;
	uint64_t duration_us; /* time the jailer (and zygote) spent on it */
};
