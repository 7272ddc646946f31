/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * landlock: a second wall inside a sandbox, drawn by another part of the kernel than mounts and
 * namespaces. A kernel process may write below its own writable places only, reach no abstract
 * socket and signal no process outside of its own descendants and siblings, whatever happens to the
 * mount tree or the namespaces around it.
 *
 * TCP is not restricted: with egress off there is only a loopback, and programs that talk to
 * themselves over it (servers under test, debuggers, multiprocessing) are the session's own affair.
 */

#include "base/err.h"

/**
 * Files. What later versions add (truncation, device control, abstract sockets, signals; Linux 6.12
 * has all that is used here) doubles what read-only mounts and namespaces do already.
 */
#define LANDLOCK_ABI_WANTED 1
/** landlock_abi: version of the running kernel, 0: it has none. */
int landlock_abi(void);
/** landlock_confine: the calling thread and all it will start. Succeeds, doing less or nothing,
 * where the kernel has less; jailer says so at its start. Needs no_new_privs. */
int landlock_confine(struct err *e);
