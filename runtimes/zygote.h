/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * zygote: what the zygotes of all languages share: waiting for the jailer's requests, forking into
 * a sandbox and confining what is born there (jailer/zygote_proto.h).
 *
 * A zygote is single-threaded for life. Per request it forks a process into a sandbox:
 *
 *   zygote ──vfork──▶ go-between ──fork──▶ kernel
 *
 * The zygote points its children at the sandbox's PID namespace, so the go-between (which shares
 * the zygote's memory and only forks and exits) and the kernel are born inside it. When the
 * go-between exits, the kernel becomes a child of the sandbox's PID 1: the agent reaps it and knows
 * how it ended, and nothing of a sandbox depends on the zygote's life. Page tables are copied once.
 */

#include "jailer/zygote_proto.h"

#include <stdbool.h>

/** Where the socket to the agent is in a new kernel; it closes on exec. */
#define ZYGOTE_KERNEL_FD 100

struct zygote_ops {
	/** load: everything that kernels are to find ready. */
	int (*load)(struct err *e);
	/** check: may refuse a request before anything is forked; or NULL. */
	int (*check)(const struct zygote_request *rq, struct err *e);
	/** before_fork, after_fork: in the zygote, around each fork; or NULL. */
	void (*before_fork)(void);
	void (*after_fork)(void);
	/** kernel: in the new process, confined; its result is the exit status. */
	int (*kernel)(const struct zygote_request *rq);
};

/** zygote_main: all of a zygote program; returns its exit status. */
int zygote_main(int argc, char **argv, const struct zygote_ops *ops);
