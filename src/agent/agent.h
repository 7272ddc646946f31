/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * agent: PID 1 of a sandbox, one static program, one thread, one epoll loop.
 *
 * It serves one daemon connection at a time, runs executions in the sandbox's kernel, and reads and
 * writes files below /mnt/data. It holds no right that the sandbox's code does not hold; what it
 * adds is that it cannot be touched from inside (PID 1 takes no signals from its namespace, it is
 * not dumpable) and that it survives the kernel, the daemon and the jailer.
 */

#include "base/agent_proto.h"
#include "base/buf.h"
#include "base/err.h"
#include "base/kernel_proto.h"
#include "base/list.h"
#include "base/wire.h"

#include <sys/types.h>

#define AGENT_LISTEN_FD 3
#define AGENT_OOM_FD    4
/** Between the interrupt of an overdue cell and the kill of its kernel; goal: a timeout holds to ±
 * 50 ms. */
#define AGENT_TIMEOUT_GRACE_MS 30
#define AGENT_CANCEL_GRACE_MS  500
#define AGENT_KERNEL_START_MS  20000
/** Displays of one execution, and all their bytes. */
#define AGENT_DISPLAYS_MAX  32
#define AGENT_CODE_MAX      (8u * 1024 * 1024)
#define AGENT_TRACEBACK_MAX (64u * 1024)

enum agent_event {
	EVENT_LISTEN,
	EVENT_CONN,
	EVENT_KERNEL,
	EVENT_STDOUT,
	EVENT_STDERR,
	EVENT_SIGNAL,
	EVENT_TIMER,
};

struct agent_conn {
	int fd; /* -1: nobody is connected */
	struct buf in;
	struct buf out;
	int passed_fd; /* came with the bytes in `in`, -1 none */
	bool writing;  /* EPOLLOUT is armed */
	bool broken;   /* shut down; closed when the event comes */
};

/** One stream of an execution: what is kept, and how much there was. */
struct agent_output {
	int fd; /* read end of the kernel's pipe, -1 */
	struct buf kept;
	uint64_t total;
};

struct agent_exec {
	bool running;
	uint64_t op;
	uint32_t cell; /* number of the cell in this kernel */
	int64_t started_ns;
	uint32_t result_max;
	enum agent_exec_status ending; /* OK, or why it is being interrupted */
	struct buf displays;           /* u8 kind, blob, … as in EXEC_DONE */
	uint32_t display_count;
	unsigned long long oom_kills; /* at the start */
};

struct agent_kernel {
	enum agent_kernel_state state;
	int sock;
	struct buf label;
	pid_t pid; /* 0 until READY */
	struct buf in;
	struct buf out;
	bool writing;
	bool killed;  /* by us */
	bool warming; /* READY came; its first, silent cell is running */
	uint32_t cells;
	unsigned long long oom_kills; /* when it started */
};

/** What the one timer is waiting for. */
enum agent_deadline { DEADLINE_NONE, DEADLINE_START, DEADLINE_RUN, DEADLINE_KILL };

struct agent {
	int epoll_fd;
	int signal_fd;
	int timer_fd;
	int data_dfd; /* /mnt/data */
	enum agent_deadline deadline;
	struct agent_conn conn;
	struct agent_kernel kernel;
	struct agent_exec exec;
	struct agent_output out;
	struct agent_output err;
	struct list done; /* struct agent_done: finished, not acknowledged */
	size_t done_count;
	struct list files;
	size_t file_count;
};

struct agent_done {
	struct list node;
	uint64_t op;
	struct buf payload;
};

/* main.c */
void agent_watch(struct agent *a, int fd, enum agent_event event, uint32_t events, bool add);
/** agent_arm: one-shot timer; ms 0 disarms. */
void agent_arm(struct agent *a, enum agent_deadline what, int64_t ms);

/* conn.c */
void conn_accept(struct agent *a);
void conn_event(struct agent *a, uint32_t events);
/** conn_send: queues one frame; dropped silently when nobody is connected. */
void conn_send(struct agent *a, enum agent_msg type, uint64_t op, struct str payload);
void conn_send_error(struct agent *a, uint64_t op, const struct err *e);
/** conn_room: bytes that may be queued before file data should wait. */
size_t conn_room(const struct agent *a);

/* kernel.c */
void kernel_attach(struct agent *a, int sock, struct str label);
void kernel_event(struct agent *a, uint32_t events);
void kernel_output_event(struct agent *a, struct agent_output *o);
void kernel_reap(struct agent *a);
/** kernel_kill: it is of no use any more; its end comes back through kernel_reap. */
void kernel_kill(struct agent *a);
void kernel_deadline(struct agent *a);
void kernel_send_status(struct agent *a);

/* exec.c */
void exec_start(struct agent *a, uint64_t op, struct wire_reader *r);
void exec_cancel(struct agent *a, uint64_t op);
void exec_ack(struct agent *a, uint64_t op);
void exec_resend(struct agent *a);
/** exec_display: one DISPLAY frame of the kernel. */
void exec_display(struct agent *a, struct str frame);
/** exec_finish: builds and sends EXEC_DONE. done_frame is the kernel's DONE payload, empty if it
 * had none. */
void exec_finish(struct agent *a, enum agent_exec_status status, struct str done_frame,
		 const char *error_text);
unsigned long long exec_oom_kills(void);

/* files.c */
void files_frame(struct agent *a, enum agent_msg type, uint64_t op, struct wire_reader *r);
/** files_pump: sends more of the files being read, as credit and queue allow. */
void files_pump(struct agent *a);
/** files_reset: the daemon went away. */
void files_reset(struct agent *a);
