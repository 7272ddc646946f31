/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * agent protocol: between bivouacd and the agent of one sandbox, over one stream connection,
 * multiplexed by operation number. docs/agent-protocol.md has the page; this header defines it.
 *
 * Frame: u32 payload length, u8 version, u8 type, u16 zero, u64 op; then payload. Little-endian,
 * blobs are u32 length + bytes. A frame over AGENT_FRAME_MAX, a wrong version or an unknown type
 * ends the connection. The daemon chooses op numbers (random 64 bits for executions, so that they
 * stay unique over daemon restarts; a counter for files). SECURITY: the agent runs in the sandbox
 * and may be taken over; the daemon treats every frame as hostile: bounded, checked against the
 * operations it has open, never used as a path or a format.
 *
 * The agent serves the newest connection: a new one replaces the old (the old daemon is dead or
 * leaving). Executions do not depend on a connection; their results are kept until EXEC_ACK.
 */

#define AGENT_PROTO_VERSION 1
#define AGENT_HEADER_SIZE   16
#define AGENT_FRAME_MAX     (20u * 1024 * 1024)
/** Bytes of file data in one frame, and the most that may be unacknowledged in one direction. */
#define AGENT_FILE_CHUNK  (64u * 1024)
#define AGENT_FILE_WINDOW (512u * 1024)
/** Finished executions the agent keeps for a daemon that is away. */
#define AGENT_DONE_MAX     64
#define AGENT_PATH_MAX     4096
#define AGENT_FILE_OPS_MAX 64

enum agent_msg {
	/* daemon -> agent */
	AGENT_HELLO = 1, /* empty; answered by STATUS */
	AGENT_EXEC = 2,  /* u32 timeout_ms (0 none), u32 stdout_max, u32 stderr_max, u32 result_max,
			    blob code */
	AGENT_EXEC_ACK = 3,      /* empty: the result is stored, forget it */
	AGENT_EXEC_CANCEL = 4,   /* u8 1: end as canceled (interrupt, then kill) */
	AGENT_KERNEL_ATTACH = 5, /* one descriptor: the agent's end of a new kernel's socket */
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
	/* agent -> daemon */
	AGENT_STATUS = 64,       /* u8 kernel state, u32 n, n × (u64 op, u8 exec state) */
	AGENT_KERNEL_STATE = 65, /* u8 kernel state, u8 agent_death, u32 code or signal; op 0 */
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
