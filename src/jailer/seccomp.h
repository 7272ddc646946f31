/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * seccomp: the system calls a process sandbox may make, as data, compiled once at the jailer's
 * start.
 *
 * The filter is an allow-list for CPython, numpy, Node and a shell. What is not on it fails with
 * ENOSYS (so that programs fall back), what is known and dangerous fails with EPERM, and calls of
 * another architecture kill the process. The compiled BPF is handed to the agent's launcher and to
 * zygotes in a sealed memfd.
 */

#include "base/err.h"

#include <stdbool.h>

/**
 * Loading the filter takes a millisecond, so kernels inherit most of it: their zygote runs under
 * SECCOMP_ZYGOTE, which is SECCOMP_FULL but for the calls that entering a sandbox takes, and a new
 * kernel adds SECCOMP_REST, which refuses just those. Both together are SECCOMP_FULL, which agents
 * get. SECCOMP_ZYGOTE_NOTIFY is SECCOMP_ZYGOTE with known calls refused through a listener, so that
 * the user can be told their names (witness.h).
 */
enum seccomp_part { SECCOMP_FULL, SECCOMP_ZYGOTE, SECCOMP_ZYGOTE_NOTIFY, SECCOMP_REST };

/** seccomp_compile: memfd with the raw struct sock_filter array. */
int seccomp_compile(enum seccomp_part part, int *ret_fd, struct err *e);
/** seccomp_can_notify: whether a filter with a listener can be installed here. */
bool seccomp_can_notify(void);
/** seccomp_refusal_errno: what a call that came to the listener fails with. */
int seccomp_refusal_errno(int nr);
