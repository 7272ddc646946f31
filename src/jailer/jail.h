/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * jail: what happens inside the new namespaces: the mount tree, the identity, the exec of the
 * agent.
 *
 * A template tree is built once per image in the jailer's private mount namespace: the image
 * read-only, with a /dev of six device nodes. A sandbox clones that namespace, adds its own tmpfs
 * and /proc, and makes the tree its root.
 */

#include "base/jailer_proto.h"
#include "jailer/confine.h"

#include <sys/types.h>

/** Host ids of one sandbox: base + 0 is the namespace's root (owns nothing, runs nothing), base + 1
 * the session. The others are nobody's, but for two of the first slot: base + 8 is bivouac-gateway,
 * base + 9 all witnesses (witness.c).
 */
#define JAIL_IDS_PER_SLOT 16
#define JAIL_ID_GATEWAY   8
#define JAIL_ID_WITNESS   9

/** jail_template: mounts rootfs_dfd read-only at `target` with a private /dev. */
int jail_template(int rootfs_dfd, const char *target, struct err *e);

struct jail_spawn {
	const char *template; /* mount point made by jail_template */
	const struct jailer_limits *limits;
	int agent_fd; /* the agent's binary, sealed */
	int seccomp_fd;
	int listen_fd; /* becomes fd 3 of the agent */
	int oom_fd;    /* becomes fd 4; -1 allowed */
	uid_t uid_base;
};

/**
 * jail_spawn: makes all seven namespaces, runs the agent as PID 1. `attach` is called in the parent
 * with the child's pid while the child waits. On success *ret_pid and *ret_pidfd are set.
 */
int jail_spawn(const struct jail_spawn *s, int (*attach)(pid_t pid, void *arg, struct err *e),
	       void *arg, pid_t *ret_pid, int *ret_pidfd, struct err *e);
