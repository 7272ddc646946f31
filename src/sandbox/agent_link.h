/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * agent_link: the daemon's end of the connection to one sandbox's agent (base/agent_proto.h).
 *
 * SECURITY: what comes in is hostile. Frames are bounded, values parsed with limits, operations
 * matched against the ones open here; anything else closes the link, which its owner treats as the
 * end of the sandbox. Callbacks run from the loop, never from inside a call of this header (but see
 * agent_link_free); agent_file_cancel() guarantees no further callback of that operation. The
 * link's owner may free it inside any callback.
 */

#include "base/agent_proto.h"
#include "base/err.h"
#include "base/kernel_proto.h"
#include "base/str.h"

#include <stdint.h>

struct agent_link;

struct agent_value {
	enum kernel_value kind;
	struct str data;
};

/** Views into the frame: valid during the callback. */
struct agent_result {
	enum agent_exec_status status;
	bool kernel_idle; /* the kernel survived and takes the next execution */
	uint64_t duration_us;
	uint64_t stdout_dropped; /* bytes the agent did not keep */
	uint64_t stderr_dropped;
	struct agent_value value;
	struct str out;
	struct str err;
	struct str error_name;
	struct str error_text; /* or how the kernel died */
	struct str traceback;
	struct agent_value displays[32];
	size_t display_count;
};

struct agent_link_events {
	/** status: answer to the hello of agent_link_new; ops that run (state 1) or wait to be
	 * acknowledged (2). */
	void (*status)(void *arg, enum agent_kernel_state state, const uint64_t *ops,
		       const uint8_t *states, size_t count);
	void (*kernel_state)(void *arg, enum agent_kernel_state state, enum agent_death death,
			     uint32_t code);
	void (*exec_done)(void *arg, uint64_t op, const struct agent_result *result);
	/** closed: the agent is gone or broke the protocol; all file operations
	 * have been failed. */
	void (*closed)(void *arg, const struct err *e);
};

struct agent_exec_params {
	uint32_t timeout_ms;
	uint32_t stdout_max;
	uint32_t stderr_max;
	uint32_t result_max;
	struct str code;
};

/** agent_link_new: takes fd (connected, non-blocking) and says hello. */
struct agent_link *agent_link_new(int fd, const struct agent_link_events *events, void *arg,
				  struct err *e);
/** agent_link_free: fails the file operations that are open (their callbacks run now). Accepts
 * NULL. */
void agent_link_free(struct agent_link *l);

/** agent_link_busy: file operations are open. */
bool agent_link_busy(const struct agent_link *l);
int agent_link_exec(struct agent_link *l, uint64_t op, const struct agent_exec_params *p);
void agent_link_ack(struct agent_link *l, uint64_t op);
void agent_link_cancel(struct agent_link *l, uint64_t op);
/** agent_link_attach: hands over the socket of a new kernel; takes fd. */
void agent_link_attach(struct agent_link *l, int fd);

/* Files. Paths are relative to the data root, already checked by the caller, and checked again by
 * the agent. */
struct agent_file {
	bool directory;
	uint64_t size;
	int64_t mtime_us;
	struct str path; /* bytes the sandbox chose: maybe no UTF-8 */
};

struct agent_file_events {
	/** Every operation ends with exactly one of done and failed. */
	void (*failed)(void *arg, const struct err *e);
	void (*done)(void *arg); /* delete, read (after the last byte) */
	void (*info)(
		void *arg,
		const struct agent_file *f); /* stat and write: this is the end; read: the start */
	void (*entries)(void *arg, const struct agent_file *files, size_t count,
			bool more); /* list: the end */
	/** data: bytes of a read; the reader returns them with agent_file_credit() when it has
	 * passed them on. */
	void (*data)(void *arg, struct str bytes);
	/** drained: a write may go on. */
	void (*drained)(void *arg);
};

struct agent_file_op;

struct agent_file_op *agent_file_list(struct agent_link *l, struct str path, bool recursive,
				      uint32_t max, const struct agent_file_events *ev, void *arg);
struct agent_file_op *agent_file_stat(struct agent_link *l, struct str path,
				      const struct agent_file_events *ev, void *arg);
struct agent_file_op *agent_file_read(struct agent_link *l, struct str path,
				      const struct agent_file_events *ev, void *arg);
struct agent_file_op *agent_file_write(struct agent_link *l, struct str path, uint64_t size_max,
				       const struct agent_file_events *ev, void *arg);
struct agent_file_op *agent_file_delete(struct agent_link *l, struct str path,
					const struct agent_file_events *ev, void *arg);
/**
 * agent_file_guard: no operation at all, but ends like one: ev->failed when the link is closed or
 * freed. For whoever keeps a link between operations.
 */
struct agent_file_op *agent_file_guard(struct agent_link *l, const struct agent_file_events *ev,
				       void *arg);
void agent_file_credit(struct agent_file_op *op, size_t bytes);
/** agent_file_put: sends up to len bytes of a write; returns how many fit the window (0: wait for
 * drained). */
size_t agent_file_put(struct agent_file_op *op, const char *data, size_t len);
void agent_file_end(struct agent_file_op *op);
/** agent_file_cancel: forgets the operation (an unfinished write leaves nothing); accepts NULL. */
void agent_file_cancel(struct agent_file_op *op);
