/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * netns: network namespaces of others, entered for the moment in which a socket or a /proc/sys
 * entry is opened there. The jailer's worker has one thread, so that nothing else runs elsewhere.
 */

#include "base/err.h"

#include <stdbool.h>

/** netns_current: descriptor of the calling process's network namespace. */
int netns_current(struct err *e);
/** netns_new: a fresh one that lives as long as its descriptor (and sockets). */
int netns_new(int home_fd, struct err *e);
/** netns_of_process: that of a process; ERR_NOT_FOUND when it has ended. */
int netns_of_process(int pidfd, int home_fd, struct err *e);
/**
 * netns_run: fn inside ns_fd, then home again. SECURITY: a worker that cannot come back aborts:
 * what it did next to "the host" would happen in a sandbox.
 */
int netns_run(int ns_fd, int home_fd, int (*fn)(void *arg, struct err *e), void *arg,
	      struct err *e);

/** sysctl_set: writes /proc/sys/net/<name> of the namespace one is in; a file that this kernel
 * lacks is an error only when `must`. */
int sysctl_set(const char *name, const char *value, bool must, struct err *e);
