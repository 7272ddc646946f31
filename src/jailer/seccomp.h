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

/** seccomp_compile: memfd with the raw struct sock_filter array. */
int seccomp_compile(int *ret_fd, struct err *e);
