/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * agent protocol: between bivouacd and the agent of one sandbox, over one stream connection,
 * multiplexed by operation number. docs/agent-protocol.md has the page; this header defines it.
 *
 * Frame: u32 payload length, u8 version, u8 type, u16 zero, u64 op; then payload. Little-endian,
 * blobs are u32 length + bytes. A frame over AGENT_FRAME_MAX, a wrong version or an unknown type
 * ends the connection. The daemon chooses op numbers (random 64 bits for executions, so that they
 * stay unique over daemon restarts, and for terminals; a counter for files). SECURITY: the agent
 * runs in the sandbox and may be taken over; the daemon treats every frame as hostile: bounded,
 * checked against the operations it has open, never used as a path or a format.
 *
 * The agent serves the newest connection: a new one replaces the old (the old daemon is dead or
 * leaving). Executions do not depend on a connection; their results are kept until EXEC_ACK.
 */

#define AGENT_PROTO_VERSION 2
#define AGENT_HEADER_SIZE   16
#define AGENT_FRAME_MAX     (20u * 1024 * 1024)
/** Bytes of file data in one frame, and the most that may be unacknowledged in one direction. */
#define AGENT_FILE_CHUNK  (64u * 1024)
#define AGENT_FILE_WINDOW (512u * 1024)
/** Finished executions the agent keeps for a daemon that is away. */
#define AGENT_DONE_MAX     64
#define AGENT_PATH_MAX     4096
#define AGENT_FILE_OPS_MAX 64
/** Kernels of one sandbox at once; number 0 is the one that its pool's language has. */
#define AGENT_KERNELS_MAX 16
/** Output of a streamed execution, or of a terminal, that may be on its way in one direction. */
#define AGENT_STREAM_WINDOW (256u * 1024)
#define AGENT_STREAM_CHUNK  (64u * 1024)
/** Terminals at once, and the last output of each that is kept for whoever attaches. */
#define AGENT_TERMINALS_MAX 8
#define AGENT_TERMINAL_KEPT (128u * 1024)
/** What the daemon calls a kernel or terminal, kept by the agent for the next daemon. */
#define AGENT_LABEL_MAX 128

enum agent_msg {
	/* daemon -> agent */
	AGENT_HELLO = 1,         /* empty; answered by STATUS */
	AGENT_EXEC = 2,          /* u32 kernel, u8 enum kernel_run_flag, u32 timeout_ms (0 none),
				    u32 stdout_max, u32 stderr_max, u32 result_max, u32 credit (STREAM: bytes
				    of output the daemon takes so far), blob code. Each kernel runs one at a
				    time */
	AGENT_EXEC_ACK = 3,      /* empty: the result is stored, forget it */
	AGENT_EXEC_CANCEL = 4,   /* u8 1: end as canceled (interrupt, then kill) */
	AGENT_KERNEL_ATTACH = 5, /* u32 kernel, blob label; one descriptor: the agent's end of a
				    new kernel's socket */
	AGENT_FILE_LIST =
		6, /* u8 recursive, u32 entries_max, blob directory relative to the data root */
	AGENT_FILE_STAT = 7, /* blob path */
	AGENT_FILE_READ =
		8, /* blob path; answered by FILE_INFO then FILE_DATA…, ended by an empty one */
	AGENT_FILE_WRITE = 9,   /* u64 size_max, blob path: directories are made, the file appears
				   whole at END */
	AGENT_FILE_DATA = 10,   /* rest: bytes (both directions) */
	AGENT_FILE_END = 11,    /* empty: upload complete */
	AGENT_FILE_ABORT = 12,  /* empty: forget this file operation */
	AGENT_FILE_CREDIT = 13, /* u32 bytes consumed (both directions) */
	AGENT_FILE_DELETE = 14, /* blob path */
	AGENT_EXEC_CREDIT = 15, /* u32 bytes of streamed output consumed; 0: nobody watches any
				   more, the run goes on without a stream */
	AGENT_KERNEL_END = 16,  /* u32 kernel: kill it; its execution ends as canceled; answered by
				   KERNEL_STATE none, at once if there is none */
	/* A terminal is an operation that lives until its process ends. */
	AGENT_TERM_OPEN = 17,   /* u16 columns, u16 rows, blob TERM, blob command, blob label; one
				   descriptor: the socket of a launcher. Answered by TERM_STATE or
				   ERROR. Not attached yet */
	AGENT_TERM_ATTACH = 18, /* u32 credit: sends what is kept, then what comes; answered by
				   TERM_STATE, or ERROR (there is none) */
	AGENT_TERM_DETACH = 19, /* empty: it goes on; its last output is kept */
	AGENT_TERM_INPUT = 20,  /* rest: bytes, at most AGENT_STREAM_WINDOW not yet credited */
	AGENT_TERM_CREDIT = 21, /* u32 bytes consumed (both directions) */
	AGENT_TERM_RESIZE = 22, /* u16 columns, u16 rows */
	AGENT_TERM_SIGNAL = 23, /* u32 signal, to the foreground process group */
	AGENT_TERM_CLOSE = 24,  /* empty: hang up, kill what stays */
	/* agent -> daemon */
	AGENT_STATUS = 64, /* u32 n, n × (u32 kernel, u8 kernel state, blob label); u32 n,
			      n × (u64 op, u8 exec state, u32 kernel); u32 n, n × (u64 op of a
			      terminal, blob label) */
	AGENT_KERNEL_STATE =
		65, /* u32 kernel, u8 kernel state, u8 agent_death, u32 code or signal; op 0 */
	AGENT_EXEC_DONE = 66, /* see struct agent_result in the daemon: u8 status, u8 kernel state
				 now (IDLE: no other message will say so), u64 duration_us,
				 u64 stdout_dropped, u64 stderr_dropped, u8 value kind, blob value,
				 blob stdout, blob stderr, blob error name, blob error text, blob
				 traceback, u32 n, n × (u8 value kind, blob) displays */
	AGENT_FILE_INFO = 67, /* u8 is_directory, u64 size, u64 mtime_us, blob path relative to the
				 data root */
	AGENT_FILE_ENTRIES = 68, /* u8 more (cut at entries_max), u32 n, n × FILE_INFO */
	AGENT_DONE = 69,         /* empty: delete done */
	AGENT_ERROR = 70,        /* u32 err_code, blob message: the operation failed */
	AGENT_EXEC_OUTPUT = 71,  /* u8 1 stdout, 2 stderr; rest: bytes, at most
				    AGENT_STREAM_CHUNK. Sent while there is credit; without, the
				    program's writes wait */
	AGENT_EXEC_DISPLAY = 72, /* u8 value kind, blob value: as it is shown. Costs no credit; the
				    limits of displays are those of EXEC_DONE */
	AGENT_TERM_OUTPUT = 73,  /* rest: bytes, at most AGENT_STREAM_CHUNK */
	AGENT_TERM_STATE = 74,   /* u8 0 it runs, 1 ended; u8 agent_death, u32 exit status or
				    signal; ended: the operation is forgotten */
};

enum agent_kernel_state {
	AGENT_KERNEL_NONE = 0, /* no kernel: the daemon may attach one */
	AGENT_KERNEL_STARTING = 1,
	AGENT_KERNEL_IDLE = 2,
	AGENT_KERNEL_BUSY = 3,
};

enum agent_death {
	AGENT_DEATH_NONE = 0,
	AGENT_DEATH_EXIT = 1,   /* code = exit status */
	AGENT_DEATH_SIGNAL = 2, /* code = signal */
	AGENT_DEATH_OOM = 3,    /* the memory limit was reached */
	AGENT_DEATH_KILLED = 4, /* the agent killed it (timeout, cancel, protocol violation) */
};

enum agent_exec_state { AGENT_EXEC_RUNNING = 1, AGENT_EXEC_FINISHED = 2 };

enum agent_exec_status {
	AGENT_RESULT_OK = 0,
	AGENT_RESULT_ERROR = 1, /* user code raised */
	AGENT_RESULT_TIMEOUT = 2,
	AGENT_RESULT_CANCELED = 3,
	AGENT_RESULT_KERNEL_DIED = 4, /* error text says how */
	AGENT_RESULT_OOM = 5,
	AGENT_RESULT_NOT_RUN =
		6, /* no idle kernel: not started, not kept, the daemon tries again */
};
