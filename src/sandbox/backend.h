/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * backend: the verbs every isolation tier implements, as the pool sees them.
 *
 * All verbs are asynchronous: they return at once and call back from the loop, exactly once, also
 * when the tier's helper process was lost meanwhile. A sandbox is named by its id (32 hexadecimal
 * digits, chosen by the pool); what it is made of is the backend's affair. After `create` and again
 * after a restart of the daemon, `connect` gives the stream socket of the sandbox's agent
 * (agent_link.h). Tiers: process (process.c). oci and microvm come with their issues, behind the
 * same struct.
 */

#include "base/err.h"
#include "base/flow_proto.h"
#include "base/jailer_proto.h"

#include <stdbool.h>

struct backend;

struct sandbox_spec {
	const char *sid;
	const char *image;
	struct jailer_limits limits;
};

typedef void (*backend_done_fn)(void *arg, const struct err *e);
/** fd: the agent's end of a new kernel's socket, owned by the callee; -1 on error. */
typedef void (*backend_kernel_fn)(void *arg, int fd, const struct err *e);
/** address: the sandbox's, 0 when it is not connected. */
typedef void (*backend_network_fn)(void *arg, uint32_t address, const struct err *e);
/** names: of system calls, latest first; valid during the callback. */
typedef void (*backend_refused_fn)(void *arg, const char *const *names, size_t count,
				   const struct err *e);
typedef void (*backend_list_fn)(void *arg, const char *const *sids, size_t count,
				const struct err *e);

struct backend_ops {
	const char *name;
	/** load_image: done when kernels of the image can be started. */
	void (*load_image)(struct backend *b, const char *image, backend_done_fn done, void *arg);
	void (*create)(struct backend *b, const struct sandbox_spec *spec, backend_done_fn done,
		       void *arg);
	/** start_kernel: of a language that the image has; "": its first; "terminal": a launcher
	 * for agent_terminal_open(). */
	void (*start_kernel)(struct backend *b, const char *sid, const char *language,
			     backend_kernel_fn done, void *arg);
	/** destroy: done when nothing of the sandbox is left; unknown ids succeed. */
	void (*destroy)(struct backend *b, const char *sid, backend_done_fn done, void *arg);
	/** list: every sandbox the tier still has, in order of its id. */
	void (*list)(struct backend *b, backend_list_fn done, void *arg);
	void (*stats)(struct backend *b, const char *sid,
		      void (*done)(void *arg, const struct jailer_stats *stats,
				   const struct err *e),
		      void *arg);
	/** memory: a lower limit for a living sandbox, or 0: the one it was made with.
	 * ERR_CONFLICT if it holds more already, or has a lower limit itself. */
	void (*memory)(struct backend *b, const char *sid, uint64_t bytes, backend_done_fn done,
		       void *arg);
	/** network: connects a sandbox to the outside, or cuts it off; repeating succeeds. */
	void (*network)(struct backend *b, const char *sid, bool on, backend_network_fn done,
			void *arg);
	/** refused: what the system-call filter refused since then (clock_mono_ns). */
	void (*refused)(struct backend *b, const char *sid, int64_t since_ns,
			backend_refused_fn done, void *arg);
	/** connect: descriptor of a connected stream socket, or -1. */
	int (*connect)(struct backend *b, const char *sid, struct err *e);
	void (*free)(struct backend *b);
};

struct backend {
	const struct backend_ops *ops;
	/** restarted: the helper process was replaced; images must be loaded again and sandboxes
	 * compared. */
	void (*restarted)(void *arg);
	/** lost: the helper process cannot come back. */
	void (*lost)(void *arg, const struct err *e);
	/** flow: what a connected sandbox did on the network; NULL: not wanted. */
	void (*flow)(void *arg, const struct flow_record *r);
	void *arg;
	/** What this machine does not enforce: words ("memory pids cpu landlock …"), space between;
	 * empty when all is; known from the first restarted() on. */
	char missing[JAILER_MISSING_SIZE];
};

/** process_backend_new: takes jailer_fd; sockets_dir (borrowed) is the directory of the agents'
 * sockets. */
struct backend *process_backend_new(int jailer_fd, const char *sockets_dir, struct err *e);
