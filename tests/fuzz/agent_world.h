/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * agent_world: an agent without a sandbox, for fuzz targets: what main.c, the kernel of the
 * machine, the sandbox's own kernels, launchers and the programs behind its terminals would do. The
 * connection, the kernels' sockets and the terminals are pairs whose other ends belong to the
 * world; the data root is a temporary directory; time passes only when it is told to.
 *
 * The agent's sources are compiled with kill(), waitpid(), syscall(), clock_gettime() and
 * timerfd_settime() named agent_world_…: whatever pid a frame claims, no process is signalled,
 * processes that were killed end at the next agent_world_turn(), and a path that leads out of the
 * data root ends the process. pty.c and processes.c are not linked: the world has its own.
 */

#include "agent/agent.h"

#define WORLD_ENDS_MAX 32

/** The other end of what was handed to the agent with a frame. */
struct world_end {
	enum { WORLD_FREE, WORLD_KERNEL, WORLD_LAUNCHER, WORLD_TERMINAL } what;
	uint64_t name; /* of a kernel its number, of a terminal its operation */
	int fd;
	int out_fds[2]; /* a kernel's stdout and stderr */
	pid_t pid;
};

struct agent_world {
	struct agent agent;
	int daemon_fd;   /* the daemon's end of the connection */
	bool ready;      /* kernels and launchers say READY by themselves */
	bool slow;       /* the daemon does not read */
	size_t out_max;  /* most that a result may carry of each stream; 0: not checked */
	uint64_t credit; /* given for executions that are streamed … */
	uint64_t out;    /* … and what came of them */
	uint64_t term_credit, term_out;
	struct world_end ends[WORLD_ENDS_MAX];
};

/** agent_world_open: connected; no kernel. */
void agent_world_open(struct agent_world *w);
/** agent_world_close: gives everything back, empties the data root, and checks the last replies. */
void agent_world_close(struct agent_world *w);
/** agent_world_attach: hands in kernel 0; it has not said READY, unless w->ready. */
void agent_world_attach(struct agent_world *w);
/** agent_world_feed: bytes from the daemon. Frames that need a descriptor come with one. */
void agent_world_feed(struct agent_world *w, const uint8_t *data, size_t size);
/** agent_world_kernel: bytes from a kernel. */
void agent_world_kernel(struct agent_world *w, uint32_t number, const uint8_t *data, size_t size);
/** agent_world_turn: the agent does all there is to do; what it signalled with SIGKILL ends. */
void agent_world_turn(struct agent_world *w);
/** agent_world_wait: time passes. */
void agent_world_wait(struct agent_world *w, uint32_t ms);
/** agent_world_exit: a process of this number ends. */
void agent_world_exit(struct agent_world *w, pid_t pid, int status);
/** agent_world_reconnect: the daemon is another one. */
void agent_world_reconnect(struct agent_world *w);
/** agent_world_processes: what /proc shows: u32 pid, parent, session, age in ms, … */
void agent_world_processes(const uint8_t *data, size_t size);
struct world_end *agent_world_find(struct agent_world *w, int what, uint64_t name);
