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

#define JAILER_PROTO_VERSION 3
#define JAILER_SID_SIZE      33 /* 32 hex digits + NUL */
#define JAILER_IMAGE_SIZE    65
#define JAILER_LIST_MAX      64
/** Refused system calls that one reply names; a name fits with its NUL. */
#define JAILER_REFUSED_MAX  8
#define JAILER_CALL_SIZE    28
#define JAILER_MISSING_SIZE 160
/** A language's name: lower-case letters, digits and '-', with NUL. */
#define JAILER_LANGUAGE_SIZE 16

enum jailer_op {
	JAILER_CREATE = 1,       /* a sandbox without a kernel (a "shell") */
	JAILER_START_KERNEL = 2, /* fork a kernel of `language` into it (empty: the first of its
				    image; "terminal": a launcher that waits for KERNEL_TERMINAL);
				    reply carries one fd: the agent's end */
	JAILER_DESTROY = 3,      /* kill everything, reply when nothing is left */
	JAILER_LIST = 4, /* complete sandboxes after `sid` (empty: all), JAILER_LIST_MAX a reply */
	JAILER_STATS = 5,
	JAILER_IMAGE = 6, /* start the zygote of an image; reply when it is loaded */
	JAILER_PING = 7,
	JAILER_MEMORY = 8,   /* another memory limit (limits.memory_bytes) for a living sandbox, at
				most that of CREATE; 0: that of CREATE */
	JAILER_NETWORK = 9,  /* `network` 1: connects a sandbox to the outside, 0: cuts it off;
				repeating either succeeds */
	JAILER_REFUSED = 10, /* system calls the filter refused in a sandbox since `since_ns` */
	/* jailer -> daemon, unasked, tag 0 */
	JAILER_RESTARTED = 32, /* a new jailer took over; requests without reply are lost; `missing`
				  names what the machine does not enforce */
	JAILER_FLOWS = 33,     /* carries one fd: flow_proto.h records of connected sandboxes */
};

struct jailer_limits {
	uint64_t memory_bytes; /* kernels, agent and tmpfs contents together */
	uint64_t data_bytes;   /* tmpfs size of /mnt/data */
	uint64_t tmp_bytes;    /* tmpfs size of /tmp and of the home directory, each */
	uint32_t inodes;       /* per tmpfs */
	uint32_t pids;
	uint32_t cpu_millis; /* quota in thousandths of a core, 0 = no quota; also the share */
	uint32_t open_files; /* of each process */
};

struct jailer_request {
	uint16_t version;
	uint16_t op;
	uint32_t tag;
	char sid[JAILER_SID_SIZE];
	char image[JAILER_IMAGE_SIZE];       /* CREATE, IMAGE */
	char language[JAILER_LANGUAGE_SIZE]; /* START_KERNEL */
	uint8_t network;                     /* NETWORK */
	uint8_t pad[5];
	struct jailer_limits limits; /* CREATE; MEMORY */
	uint64_t since_ns;           /* REFUSED: CLOCK_MONOTONIC */
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
	uint32_t address;     /* NETWORK: IPv4 address of the sandbox, host byte order; 0: none */
	uint32_t refused_count;
	char refused[JAILER_REFUSED_MAX][JAILER_CALL_SIZE]; /* REFUSED: names, latest first */
	char missing[JAILER_MISSING_SIZE]; /* RESTARTED: words, space between; empty: all enforced
					    */
};
