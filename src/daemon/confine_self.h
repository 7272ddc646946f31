/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * confine_self: what bivouacd takes from itself once it is no longer root: system calls it does not
 * need, TCP connections of its own, core dumps, and being looked into by others of its user.
 *
 * What a daemon that was taken over still has: the jailer's socket, with what its opcodes grant
 * (docs/jailer-protocol.md); the sockets of its agents; its two directories; the connections of its
 * callers. It cannot start a program, make or change code, open a network socket, connect or listen
 * anywhere but to unix sockets it can see, signal or trace anybody, or reach parts of the kernel
 * that serving does not take.
 */

#include "base/err.h"

#include <stddef.h>

/**
 * confine_self: for good, for all threads. After the drop of privileges, with the socket to serve
 * on already bound: no other network socket can be made afterwards. In sanitizer builds core dumps
 * and dumpability only.
 */
int confine_self(struct err *e);

/** confine_self_open_files: raises the soft limit of open files to the hard one; what it is then.
 */
size_t confine_self_open_files(void);
