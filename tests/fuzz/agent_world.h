/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * agent_world: an agent without a sandbox, for fuzz targets: what main.c, the kernel of the machine
 * and the sandbox's own kernel would do. The connection and the kernel's socket are pairs whose
 * other ends belong to the target; the data root is a temporary directory.
 *
 * The agent's sources are compiled with kill(), waitpid() and syscall() named agent_world_…:
 * whatever pid a frame claims, no process is signalled, a kernel that was killed ends at the next
 * agent_world_reap(), and a path that leads out of the data root ends the process.
 */

#include "agent/agent.h"

struct agent_world {
	struct agent agent;
	int daemon_fd;  /* the daemon's end of the connection */
	int kernel_fd;  /* the kernel's end of its socket */
	int out_fds[2]; /* the kernel's stdout and stderr */
	size_t out_max; /* most that a result may carry of each; 0: not checked */
};

/** agent_world_open: connected; no kernel. */
void agent_world_open(struct agent_world *w);
/** agent_world_close: gives everything back, empties the data root, and checks the last replies. */
void agent_world_close(struct agent_world *w);
/** agent_world_attach: hands in a kernel that has not said READY. */
void agent_world_attach(struct agent_world *w);
/** agent_world_ready: the kernel says READY and answers its first, silent cell. */
void agent_world_ready(struct agent_world *w);
/** agent_world_feed: writes bytes to a socket's far end and lets the agent take all of them. */
void agent_world_feed(struct agent_world *w, int fd, const uint8_t *data, size_t size);
/** agent_world_check: reads all replies; each must be one that the daemon's parsers accept. */
void agent_world_check(struct agent_world *w);
/** agent_world_reap: the kernel that was signalled with SIGKILL ends. */
void agent_world_reap(struct agent_world *w);
