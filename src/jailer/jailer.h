/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * jailer: the worker's state and its opcodes. docs/jailer-protocol.md has the argument per opcode.
 *
 * One thread, one epoll loop. Everything is found by sandbox id in one table; a sandbox that is
 * being destroyed stays in the table until nothing of it is left, and only then are the waiting
 * replies sent and its slot reused.
 */

#include "base/map.h"
#include "jailer/cgroup.h"
#include "jailer/network.h"
#include "jailer/records.h"
#include "jailer/witness.h"
#include "jailer/zygotes.h"

struct jailer_config {
	const char *run_dir; /* absolute */
	const char *images_dir;
	const char *binary_dir; /* bivouac-agent, bivouac-zygote-* */
	const char *uid_dir;    /* shared by all daemons of the machine */
	uid_t owner;            /* the daemon's user: may connect to agents */
	struct egress_options egress;
};

#define JAILER_SOCK_FD 3
#define JAILER_LOCK_FD 4

/** What a watched descriptor is of: a bit in the pointer that epoll keeps. None: a sandbox, or the
 * daemon's socket (NULL). */
#define WATCH_ZYGOTE  1u
#define WATCH_NETWORK 2u

struct sandbox {
	struct map_node node;
	struct record rec;
	int pidfd;
	bool dying;          /* killed, or ended by itself */
	bool reaped;         /* PID 1 is gone */
	uint32_t waiting[4]; /* tags of DESTROY requests */
	size_t waiting_count;
	struct list busy_node; /* in jailer.busy while cgroups cannot be removed yet */
	int tries;
	int64_t destroy_started_ns;
};

/** A START_KERNEL or IMAGE request that a zygote has not answered. */
struct pending {
	struct list node;
	uint32_t zygote_tag;
	uint32_t tag;
	uint16_t op;
	struct zygote *zygote;
	int agent_end;
	int64_t started_ns;
};

struct jailer {
	struct jailer_config config;
	struct cgroup_layout cgroups;
	/* What this machine does not enforce, for RESTARTED: words, space between. */
	char missing[JAILER_MISSING_SIZE];
	struct zygote_config zygote_config;
	struct network *network;
	struct map sandboxes;
	struct list zygotes;
	struct list pending;
	size_t pending_count; /* at most PENDING_MAX */
	struct list busy;
	uint32_t next_zygote_tag;
	uint8_t slots[RECORD_SLOTS]; /* 1 in use */
	unsigned next_slot;
	bool recovery_failed;
	uint64_t refused_requests; /* malformed packets of the daemon */
	uid_t uid_base;
	int epoll_fd;
	int agent_fd;                 /* sealed copy of the agent's binary */
	struct witness_place *places; /* by slot */
	int witnesses[2];             /* pipe: closed at the far end when all witnesses are gone */
	int filter_fd;
	int records_dfd;
	int sockets_dfd;
};

/** jailer_run: serves until the daemon's end of the socket closes. Exit status of the process. */
int jailer_run(const struct jailer_config *config);

/* sandboxes.c */
/** sandboxes_recover: finds the sandboxes of an earlier worker again, destroys
 * what was half made. */
int sandboxes_recover(struct jailer *j, struct err *e);
/** sandbox_image: the image's template, mounted on first use; its zygote may not be running. */
struct zygote *sandbox_image(struct jailer *j, const char *image, struct err *e);
int sandbox_create(struct jailer *j, const struct jailer_request *rq, struct err *e);
struct sandbox *sandbox_find(struct jailer *j, const char *sid);
/** sandbox_kill: begins destruction; sandbox_settle() finishes it. */
void sandbox_kill(struct jailer *j, struct sandbox *s);
/** sandbox_settle: takes one step; true when nothing is left (s is freed, *ret_tags replied by the
 * caller). */
bool sandbox_settle(struct jailer *j, struct sandbox *s);

/* opcodes.c */
void opcode_dispatch(struct jailer *j, const struct jailer_request *rq);
void opcode_reply(struct jailer *j, uint16_t op, uint32_t tag, const struct err *e,
		  int64_t started_ns, int fd);
/** opcode_restarted: says hello, with what is missing. */
void opcode_restarted(struct jailer *j);
/** opcode_drop_pending: nobody is left to answer. */
void opcode_drop_pending(struct jailer *j);
void opcode_zygote_event(struct jailer *j, struct zygote *z);
/** opcode_request_ok: shape of a packet: size, version, terminated hexadecimal names, limits in
 * range. */
bool opcode_request_ok(const void *packet, size_t len, struct err *e);
