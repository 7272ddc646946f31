/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * agent_sandbox: the real agent as PID 1 of namespaces of its own, with kernels and launchers that
 * are a few lines of the test.
 *
 * Never without a PID namespace: when its last kernel ends, the agent kills every process it can
 * reach.
 *
 * A kernel runs "programs" of one line each, commands parted by ';':
 *   out N    N bytes to stdout, byte i of them 'a' + i % 26 of all it ever wrote
 *   err TEXT to stderr
 *   show     a display
 *   hang     for ever, without ending at SIGINT
 *   exit N   ends the process
 *   child    forks a child of its own session, which holds the lifeline
 *   member   forks and ends the parent: a process without parents in the kernel's session
 *   orphan   the same in a session of its own
 */

#include "base/agent_proto.h"
#include "base/wire.h"

#include <stdbool.h>
#include <sys/types.h>

struct agent_sandbox {
	pid_t pid; /* the agent, as seen from here */
	char dir[64];
	char socket[96];
	int daemon;
	struct buf in;
};

/** sandbox_start: false with a reason on stderr where no namespaces can be made. */
bool sandbox_start(struct agent_sandbox *s, const char *agent_binary);
void sandbox_stop(struct agent_sandbox *s);
/** sandbox_connect: as a new daemon; the old one's connection is closed. */
void sandbox_connect(struct agent_sandbox *s);
/** sandbox_rss: resident memory of the agent, bytes. */
size_t sandbox_rss(const struct agent_sandbox *s);

/** sandbox_kernel: starts one in the sandbox; returns the agent's end of its socket. What it forks
 * holds the write end of lifeline, -1 none. */
int sandbox_kernel(struct agent_sandbox *s, int lifeline);
/** sandbox_launcher: what becomes a terminal's first process: /bin/sh. */
int sandbox_launcher(struct agent_sandbox *s);

void sandbox_send(struct agent_sandbox *s, enum agent_msg type, uint64_t op, struct str payload,
		  int fd);
/** sandbox_next: the next frame; its payload is valid until the next call. */
struct str sandbox_next(struct agent_sandbox *s, uint8_t *ret_type, uint64_t *ret_op);
