/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * agent: PID 1 of a sandbox, one static program, one thread, one epoll loop.
 *
 * It serves one daemon connection at a time, runs executions in the sandbox's kernels, keeps its
 * terminals, and reads and writes files below /mnt/data. It holds no right that the sandbox's code
 * does not hold; what it adds is that it cannot be touched from inside (PID 1 takes no signals from
 * its namespace, it is not dumpable) and that it survives the kernels, the daemon and the jailer.
 *
 * Memory: kernels and terminals have theirs only while they exist. Whatever they send, each is
 * bounded: what a result keeps, what a terminal keeps, one frame of the kernel protocol. Data waits
 * where it is when conn_room() says so; results do not wait, and when all that is queued gets too
 * much, the connection ends: the next one gets them one by one.
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
 * 50 ms. As long as its threads that want a processor have not had AGENT_TIMEOUT_CPU_MS of one each
 * on average, the one that heeds the interrupt may not have had its turn: it gets the same time
 * again, until AGENT_TIMEOUT_LAST_MS are over. More than AGENT_TIMEOUT_THREADS do not count: they
 * are not what an interrupt needs. */
#define AGENT_TIMEOUT_GRACE_MS 30
#define AGENT_TIMEOUT_CPU_MS   25
#define AGENT_TIMEOUT_THREADS  4
#define AGENT_TIMEOUT_LAST_MS  1000
#define AGENT_CANCEL_GRACE_MS  500
#define AGENT_KERNEL_START_MS  20000
/** Between a terminal's hang-up and the kill of what is left of it. */
#define AGENT_HANGUP_GRACE_MS 200
/** How long the last output of a terminal is waited for when others hold it open. */
#define AGENT_LAST_OUTPUT_MS 100
/** Displays of one execution, and all their bytes. */
#define AGENT_DISPLAYS_MAX  32
#define AGENT_CODE_MAX      (8u * 1024 * 1024)
#define AGENT_TRACEBACK_MAX (64u * 1024)
#define AGENT_TERM_NAME_MAX 64
#define AGENT_COMMAND_MAX   (64u * 1024)
/** Descriptors that came before the frames that they belong to. */
#define AGENT_PASSED_MAX 8

enum agent_event {
	EVENT_LISTEN,
	EVENT_CONN,
	EVENT_KERNEL,
	EVENT_STDOUT, /* in the order of struct agent_kernel.streams */
	EVENT_STDERR,
	EVENT_LAUNCHER,
	EVENT_TERMINAL,
	EVENT_SIGNAL,
	EVENT_TIMER,
};

struct agent_conn {
	int fd; /* -1: nobody is connected */
	struct buf in;
	struct buf out;
	int passed[AGENT_PASSED_MAX]; /* in the order of the frames that they came with */
	size_t passed_count;
	bool writing; /* EPOLLOUT is armed */
	bool broken;  /* shut down; closed when the event comes */
};

/** One stream of an execution: what is kept, and how much there was. */
struct agent_output {
	int fd; /* read end of the kernel's pipe, -1 */
	uint32_t watched;
	size_t ahead; /* bytes in the pipe that come before the frame that waits */
	struct buf kept;
	uint64_t total;
};

struct agent_exec {
	bool running;
	bool streaming; /* somebody watches */
	uint64_t op;
	int64_t started_ns;
	int64_t ended_ns; /* its DONE came; 0 before */
	uint32_t result_max;
	uint32_t credit;
	enum agent_exec_status ending; /* OK, or why it is being interrupted */
	int64_t interrupted_ns;        /* TIMEOUT: when, */
	int64_t interrupted_cpu_ns;    /* and what its session had worked by then */
	struct buf displays;           /* u8 kind, blob, … as in EXEC_DONE */
	uint32_t display_count;
};

/** What a kernel's deadline is for. */
enum agent_deadline { DEADLINE_NONE, DEADLINE_START, DEADLINE_RUN, DEADLINE_KILL };

/** Not a frame: what waits last for the output of a kernel that is dead. */
#define KERNEL_GONE 255

struct agent_kernel {
	uint32_t number;               /* its place among the agent's */
	enum agent_kernel_state state; /* NONE: forgotten, freed by kernels_tidy() */
	int sock;
	pid_t pid; /* 0 until READY */
	struct buf label;
	struct buf in;
	struct buf out;
	uint32_t watched; /* epoll events of sock, 0 none */
	uint8_t waiting;  /* type of the frame in `in` that waits for output to leave, 0 none;
			     KERNEL_GONE: the end of the kernel itself */
	bool killed;      /* by us */
	bool warming;     /* READY came; its first, silent cell is running */
	bool dead;        /* reaped; its last output may still have to leave */
	enum agent_death death;
	int status; /* of the dead, as waitpid() tells it */
	uint32_t cells;
	unsigned long long oom_kills; /* when it or its latest execution started */
	enum agent_deadline deadline;
	int64_t deadline_ns;
	struct agent_exec exec;
	struct agent_output streams[2]; /* stdout, stderr */
};

struct agent_terminal {
	uint64_t op;
	size_t slot;
	struct buf label;
	int sock; /* the launcher, until it says READY */
	char ready[KERNEL_HEADER_SIZE + 4];
	size_t ready_len;
	int master;
	int slave; /* held while the first process lives, so that the master knows no hang-up */
	pid_t pid; /* 0 until READY */
	int status;
	bool ended;   /* reaped; its last output may still have to leave */
	bool closing; /* hung up by us */
	bool attached;
	bool awaited;     /* opened, and not attached yet: its output and its end wait for that */
	unsigned answers; /* to TERM_OPEN and TERM_ATTACH, owed until READY */
	bool eof;
	uint32_t watched; /* epoll events of master, 0 none */
	uint32_t credit;
	/* Output in order: byte n is at ring[n % AGENT_TERMINAL_KEPT] while it is kept. */
	char *ring;
	uint64_t total;
	uint64_t sent;
	struct buf input;
	int64_t deadline_ns;
};

struct agent_done {
	struct list node;
	uint64_t op;
	uint32_t kernel;
	bool sent; /* to the daemon that is connected */
	struct buf payload;
};

struct agent {
	int epoll_fd;
	int signal_fd;
	int timer_fd;
	int data_dfd; /* /mnt/data */
	int64_t armed_ns;
	int64_t orphans_ns; /* when to look again for what nobody owns, 0 not */
	bool reaping;       /* more children than one turn took */
	struct agent_conn conn;
	struct agent_kernel *kernels[AGENT_KERNELS_MAX]; /* by number */
	struct agent_terminal *terminals[AGENT_TERMINALS_MAX];
	struct list done; /* struct agent_done: finished, not acknowledged */
	size_t done_count;
	struct list files;
	size_t file_count;
};

/* loop.c */
/** agent_turn: waits for events and handles them; how many there were, or -1. */
int agent_turn(struct agent *a, int timeout_ms);
/** agent_deadlines: those that have passed. */
void agent_deadlines(struct agent *a);
/** agent_watch: events 0 takes fd out: without interest, a hang-up would still be told, for ever.
 * *watched is what was asked for last. */
void agent_watch(struct agent *a, int fd, enum agent_event event, size_t slot, uint32_t events,
		 uint32_t *watched);
/** agent_rearm: a deadline has changed. */
void agent_rearm(struct agent *a);

static inline int64_t agent_sooner(int64_t at_ns, int64_t other_ns)
{
	return other_ns && (!at_ns || other_ns < at_ns) ? other_ns : at_ns;
}

/* conn.c */
void conn_accept(struct agent *a);
void conn_event(struct agent *a, uint32_t events);
/** conn_send: queues one frame; dropped silently when nobody is connected. */
void conn_send(struct agent *a, enum agent_msg type, uint64_t op, struct str payload);
/** conn_send_tagged: a payload of one byte and more. */
void conn_send_tagged(struct agent *a, enum agent_msg type, uint64_t op, uint8_t tag,
		      struct str rest);
void conn_send_error(struct agent *a, uint64_t op, const struct err *e);
/** conn_send_number: a payload of one u32. */
void conn_send_number(struct agent *a, enum agent_msg type, uint64_t op, uint32_t number);
/** conn_break: ends the connection, whose memory stays until the event of its end. */
void conn_break(struct agent *a);
/** conn_room: bytes that may be queued before data should wait. */
size_t conn_room(const struct agent *a);

/* kernel.c */
struct agent_kernel *kernel_find(struct agent *a, uint32_t number);
void kernel_attach(struct agent *a, uint32_t number, struct str label, int sock);
void kernel_end(struct agent *a, uint32_t number);
void kernel_event(struct agent *a, struct agent_kernel *k, uint32_t events);
/** kernel_advance: takes what waits in its socket's buffer, as far as output has left. */
void kernel_advance(struct agent *a, struct agent_kernel *k);
/** kernel_kill: it is of no use any more; its end comes back through kernel_died. */
void kernel_kill(struct agent *a, struct agent_kernel *k);
void kernel_died(struct agent *a, struct agent_kernel *k, int status);
void kernel_arm(struct agent *a, struct agent_kernel *k, enum agent_deadline what, int64_t ms);
void kernel_deadline(struct agent *a, struct agent_kernel *k);
/** kernel_run: queues one cell. */
void kernel_run(struct agent *a, struct agent_kernel *k, uint8_t flags, struct str code);
/** kernel_signal: to its process group, if it is there. */
void kernel_signal(const struct agent_kernel *k, int sig);
/** kernels_tidy: frees what was forgotten; when no caller holds a kernel. */
void kernels_tidy(struct agent *a);

/* output.c */
void output_event(struct agent *a, struct agent_kernel *k, struct agent_output *o);
/** output_keep: of what a stream says, as much as is kept. */
void output_keep(struct agent_output *o, struct str bytes);
/** output_settle: reads what is in the pipes when it is first called for `before`, the type of a
 * frame; false: some of that waits for the reader of a stream. */
bool output_settle(struct agent *a, struct agent_kernel *k, uint8_t before);
/** output_resume: there is credit, room, or no reason to wait any more. */
void output_resume(struct agent *a, struct agent_kernel *k);
/** output_close: nothing more is read. */
void output_close(struct agent *a, struct agent_kernel *k);
/** output_unwatched: nobody watches any more. */
void output_unwatched(struct agent *a, struct agent_kernel *k);
/** outputs_pump: the connection has room again. */
void outputs_pump(struct agent *a);
/** outputs_reset: the daemon went away. */
void outputs_reset(struct agent *a);
/** output_held: what the kernel writes has to wait now. */
bool output_held(const struct agent *a, const struct agent_kernel *k);

/* exec.c */
void exec_start(struct agent *a, uint64_t op, struct wire_reader *r);
void exec_cancel(struct agent *a, uint64_t op);
void exec_ack(struct agent *a, uint64_t op);
void exec_credit(struct agent *a, uint64_t op, struct wire_reader *r);
/** exec_resend: to a new daemon, everything that is not acknowledged. */
void exec_resend(struct agent *a);
/** exec_pump: sends results as the connection has room. */
void exec_pump(struct agent *a);
/** exec_display: one DISPLAY frame of the kernel. */
void exec_display(struct agent *a, struct agent_kernel *k, struct str frame);
/** exec_finish: builds and sends EXEC_DONE. done_frame is the kernel's DONE payload, empty if it
 * had none. */
void exec_finish(struct agent *a, struct agent_kernel *k, enum agent_exec_status status,
		 struct str done_frame, const char *error_text);
unsigned long long exec_oom_kills(void);

/* terminal.c */
void terminal_open(struct agent *a, uint64_t op, struct wire_reader *r, int launcher);
void terminal_frame(struct agent *a, enum agent_msg type, uint64_t op, struct wire_reader *r);
void terminal_launched(struct agent *a, struct agent_terminal *t);
void terminal_event(struct agent *a, struct agent_terminal *t, uint32_t events);
void terminal_died(struct agent *a, struct agent_terminal *t, int status);
void terminal_deadline(struct agent *a, struct agent_terminal *t);
/** terminals_pump, terminals_reset: as of outputs. */
void terminals_pump(struct agent *a);
void terminals_reset(struct agent *a);

/* pty.c */
int pty_open(uint16_t columns, uint16_t rows, int *ret_master, int *ret_slave, struct err *e);
void pty_resize(int master, uint16_t columns, uint16_t rows);
/** pty_signal: to the foreground process group. */
void pty_signal(int master, int sig);

/* processes.c */
struct agent_process {
	pid_t pid;
	pid_t parent;
	pid_t session;
	int64_t age_ms;
	bool runnable; /* has a processor or waits for one */
};
/** What the processes of a session have worked, those that have ended left out. */
struct agent_work {
	int64_t cpu_ns;
	unsigned runnable; /* threads */
};
/** processes_parse: one line of /proc/PID/stat; false: no process that could be signalled. */
bool processes_parse(const char *stat, struct agent_process *ret);
/** processes_read: those that can be seen, at most max, by ascending number. */
size_t processes_read(struct agent_process *ret, size_t max);
struct agent_work processes_work(pid_t session);

/* reap.c */
/** reap_children: takes those that have ended, not without end in one turn. */
void reap_children(struct agent *a);
/** reap_orphans: a kernel has ended: what belongs to none of those that live ends too. */
void reap_orphans(struct agent *a);
/** reap_session: a terminal has ended: what is in its session ends too. */
void reap_session(struct agent *a, pid_t session);
/** reap_known: a kernel or terminal that lives has this number. */
bool reap_known(const struct agent *a, pid_t pid);

/* files.c */
void files_frame(struct agent *a, enum agent_msg type, uint64_t op, struct wire_reader *r);
/** files_pump: sends more of the files being read, as credit and queue allow. */
void files_pump(struct agent *a);
/** files_reset: the daemon went away. */
void files_reset(struct agent *a);
