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

/** What STATUS says; views into the frame. */
struct agent_status_kernel {
	uint32_t kernel;
	enum agent_kernel_state state;
	struct str label;
};
struct agent_status_exec {
	uint64_t op;
	enum agent_exec_state state;
	uint32_t kernel;
};
struct agent_status_terminal {
	uint64_t op;
	struct str label;
};
struct agent_status {
	struct agent_status_kernel kernels[AGENT_KERNELS_MAX];
	size_t kernel_count;
	struct agent_status_exec execs[AGENT_DONE_MAX + AGENT_KERNELS_MAX];
	size_t exec_count;
	struct agent_status_terminal terminals[AGENT_TERMINALS_MAX];
	size_t terminal_count;
};

struct agent_link_events {
	/** status: answer to the hello of agent_link_new: kernels there are, executions that run or
	 * wait to be acknowledged, terminals. */
	void (*status)(void *arg, const struct agent_status *status);
	void (*kernel_state)(void *arg, uint32_t kernel, enum agent_kernel_state state,
			     enum agent_death death, uint32_t code);
	void (*exec_done)(void *arg, uint64_t op, const struct agent_result *result);
	/** exec_output, exec_display: of streamed executions, also of ones that an earlier daemon
	 * started. The consumer returns bytes with agent_link_exec_credit(). stream: 1, 2. */
	void (*exec_output)(void *arg, uint64_t op, int stream, struct str bytes);
	void (*exec_display)(void *arg, uint64_t op, const struct agent_value *value);
	/** terminal_ended: one that nobody is attached to. */
	void (*terminal_ended)(void *arg, uint64_t op);
	/** closed: the agent is gone or broke the protocol; all file operations and terminals
	 * have been failed. */
	void (*closed)(void *arg, const struct err *e);
};

struct agent_exec_params {
	uint32_t kernel;
	uint8_t flags; /* enum kernel_run_flag */
	uint32_t timeout_ms;
	uint32_t stdout_max;
	uint32_t stderr_max;
	uint32_t result_max;
	uint32_t credit; /* KERNEL_RUN_STREAM: at most AGENT_STREAM_WINDOW */
	struct str code;
};

/** agent_link_new: takes fd (connected, non-blocking) and says hello. */
struct agent_link *agent_link_new(int fd, const struct agent_link_events *events, void *arg,
				  struct err *e);
/** agent_link_free: fails the file operations and terminals that are open (their callbacks run
 * now). Accepts NULL. */
void agent_link_free(struct agent_link *l);

/** agent_link_busy: file operations are open. */
bool agent_link_busy(const struct agent_link *l);
int agent_link_exec(struct agent_link *l, uint64_t op, const struct agent_exec_params *p);
void agent_link_ack(struct agent_link *l, uint64_t op);
void agent_link_cancel(struct agent_link *l, uint64_t op);
/** agent_link_exec_credit: bytes of output passed on; 0: nobody watches any more. */
void agent_link_exec_credit(struct agent_link *l, uint64_t op, uint32_t bytes);
/** agent_link_attach: hands over the socket of a new kernel; takes fd. Several may be on their way.
 */
void agent_link_attach(struct agent_link *l, uint32_t kernel, struct str label, int fd);
void agent_link_kernel_end(struct agent_link *l, uint32_t kernel);

/*
 * Terminals: an operation each, which outlives links: its number, random as those of executions,
 * finds it again.
 */
struct agent_terminal;

struct agent_terminal_events {
	/** attached: it takes input and sends output from now on. */
	void (*attached)(void *arg);
	/** output: at most what was credited; return it with agent_terminal_credit(). */
	void (*output)(void *arg, struct str bytes);
	/** drained: agent_terminal_input() takes more. */
	void (*drained)(void *arg);
	/** ended, failed: exactly one of them, the last callback. failed: could not be opened or
	 * found, or the session is over. */
	void (*ended)(void *arg, enum agent_death death, uint32_t code);
	void (*failed)(void *arg, const struct err *e);
};

struct agent_terminal_params {
	uint16_t columns, rows;
	struct str term;    /* TERM */
	struct str command; /* empty: the image's shell */
	struct str label;
};

/** agent_terminal_open: takes fd, the socket of a launcher; attaches it as well. NULL: no memory,
 * or more than an agent may have; so attach. */
struct agent_terminal *agent_terminal_open(struct agent_link *l, uint64_t op,
					   const struct agent_terminal_params *p, int fd,
					   const struct agent_terminal_events *ev, void *arg);
/** agent_terminal_attach: one that is there, which nobody is attached to over this link. */
struct agent_terminal *agent_terminal_attach(struct agent_link *l, uint64_t op,
					     const struct agent_terminal_events *ev, void *arg);
/** agent_terminal_input: returns how many bytes fit the window (less: wait for drained). */
size_t agent_terminal_input(struct agent_terminal *t, const char *data, size_t len);
void agent_terminal_credit(struct agent_terminal *t, size_t bytes);
void agent_terminal_resize(struct agent_terminal *t, uint16_t columns, uint16_t rows);
void agent_terminal_signal(struct agent_terminal *t, int signum);
/** agent_terminal_detach: no further callback; it goes on in the sandbox. Accepts NULL. */
void agent_terminal_detach(struct agent_terminal *t);
/** agent_terminal_close: hangs up; `ended` follows. */
void agent_terminal_close(struct agent_terminal *t);
/** agent_terminal_end: hangs up one that is there, attached over this link or not. */
void agent_terminal_end(struct agent_link *l, uint64_t op);

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
