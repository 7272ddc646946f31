/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * confine: the last steps before code of a sandbox runs: session user, no capabilities, no way to
 * gain any, the system-call filter. Used by the launcher of the agent and by zygotes in a freshly
 * forked kernel, when the process is already in the sandbox's namespaces.
 */

#include "base/err.h"

#include <stdint.h>

/** User and group of everything inside a sandbox. The image has them as `session`. */
#define CONFINE_UID 1000

/** Limits of the process and what it forks that the pool's document decides. */
struct confine_limits {
	uint32_t open_files; /* of each process */
	uint32_t pids;       /* processes and threads of the sandbox's user, all together */
	/* Kept by the cgroup, and told to programs as RLIMIT_RSS (`ulimit -m`), which Linux does
	 * not enforce (getrlimit(2)). */
	uint64_t memory_bytes;
};

/** confine_become_session: resource limits, ids, securebits, empty capability
 * sets, no_new_privs. */
int confine_become_session(const struct confine_limits *limits, struct err *e);
/**
 * confine_install_filter: loads the compiled BPF of a memfd (seccomp_compile) into the calling
 * process. With ret_listener (NULL: not wanted) calls that the filter notifies of come to that
 * descriptor.
 */
int confine_install_filter(int fd, int *ret_listener, struct err *e);
