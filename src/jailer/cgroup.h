/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * cgroup: one place that knows cgroup v1, v2 and the hybrid of both. Jailer only.
 *
 * All sandboxes of a daemon live below <hierarchy>/bivouac/<instance>/<sid>. Memory and pids limits
 * hold for everything in the sandbox; the CPU quota holds for kernels only, so that a throttled
 * kernel cannot delay the agent's timeouts. On v2 that needs two leaves, <sid>/agent and
 * <sid>/kernel; on v1 the agent simply stays out of the cpu hierarchy. A controller that the
 * machine lacks, or whose tree cannot be written, is named in `missing`: words "memory pids cpu",
 * and "swap" where memory is limited but swap is not accounted.
 */

#include "base/jailer_proto.h"

#include <sys/types.h>

#include <stdbool.h>

enum cgroup_controller { CGROUP_MEMORY, CGROUP_PIDS, CGROUP_CPU, CGROUP_CONTROLLERS };

struct cgroup_layout {
	struct {
		int parent_dfd; /* <hierarchy>/bivouac/<instance>, -1 if the controller is missing
				 */
		int version;    /* 1 or 2 */
	} ctrl[CGROUP_CONTROLLERS];
	char instance[32];
	char missing[64];
	char reason[ERR_MSG_MAX]; /* why, for the log */
	int moved;                /* processes of a container's root that cgroup_open moved */
};

/** cgroup_open: finds the hierarchies and makes the instance's directories; cgroup_tree.h says what
 * it does inside a container. */
int cgroup_open(struct cgroup_layout *l, const char *instance, struct err *e);
/** cgroup_close: removes the instance's directories if they are empty. */
void cgroup_close(struct cgroup_layout *l);

int cgroup_create(const struct cgroup_layout *l, const char *sid,
		  const struct jailer_limits *limits, struct err *e);
/** cgroup_set_memory: another limit for a living sandbox. ERR_CONFLICT, and nothing changed, if it
 * holds more already; ERR_NOT_SUPPORTED without a memory controller. */
int cgroup_set_memory(const struct cgroup_layout *l, const char *sid, uint64_t bytes,
		      struct err *e);
/** cgroup_attach_agent: moves a process in by pid. */
int cgroup_attach_agent(const struct cgroup_layout *l, const char *sid, pid_t pid, struct err *e);
/** cgroup_detach_agent: out of the CPU quota again (v1), once its cgroup namespace is made. */
int cgroup_detach_agent(const struct cgroup_layout *l, pid_t pid, struct err *e);
/**
 * cgroup_kernel_fds: descriptors of cgroup.procs files; a process that writes "0" to each joins as
 * a kernel. Returns how many (at most CGROUP_CONTROLLERS); the caller closes them.
 */
int cgroup_kernel_fds(const struct cgroup_layout *l, const char *sid, int fds[CGROUP_CONTROLLERS],
		      struct err *e);
/** cgroup_oom_fd: readable file with a line "oom_kill N"; -1 (no error) if there is none. */
int cgroup_oom_fd(const struct cgroup_layout *l, const char *sid);
/** cgroup_remove: 0 gone, 1 still busy (try again), -1 error. */
int cgroup_remove(const struct cgroup_layout *l, const char *sid, struct err *e);
/** cgroup_kill: SIGKILL to whatever is inside; for sandboxes without a living PID 1. */
void cgroup_kill(const struct cgroup_layout *l, const char *sid);
int cgroup_stats(const struct cgroup_layout *l, const char *sid, struct jailer_stats *ret,
		 struct err *e);
/** cgroup_each: names of all sandbox directories in all hierarchies (may repeat). */
void cgroup_each(const struct cgroup_layout *l, void (*fn)(const char *sid, void *arg), void *arg);
