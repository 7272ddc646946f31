/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * kernel protocol: between the agent (PID 1 of a sandbox) and one language kernel, over a stream
 * socketpair. docs/agent-protocol.md has the page, docs/runtimes.md how to write a kernel.
 *
 * Frame: u32 payload length, u8 type, payload; little-endian; blobs are u32 length + bytes.
 * SECURITY: the kernel runs hostile code in its own process and can send anything. The agent bounds
 * every frame by KERNEL_FRAME_MAX, accepts only what the state allows and otherwise kills the
 * kernel.
 *
 * Order: agent sends INIT with two descriptors (write ends for fd 1 and fd 2); kernel dups them and
 * answers READY; agent sends RUN of cell 0, the warm-up. Then for each execution: agent RUN; kernel
 * DISPLAY*, DONE. Output goes through fds 1 and 2, flushed before DONE (and before each DISPLAY),
 * so order is kept. SIGINT to the kernel's process group means "interrupt": user code gets
 * KeyboardInterrupt or what its language has; between executions the kernel ignores it. End of file
 * on the socket: the kernel exits.
 *
 * A kernel that is a program of its own (launched, not forked from an interpreter) need not take
 * INIT: its launcher does, makes the two descriptors 1 and 2 and the socket descriptor 3, and
 * starts it (runtimes/launch.h).
 */

#define KERNEL_HEADER_SIZE 5
/** One display (an image) or result may have this many bytes; larger ones become a text that says
 * so. */
#define KERNEL_FRAME_MAX (16u * 1024 * 1024)
/** The socket of a launched kernel. */
#define KERNEL_FD 3

enum kernel_msg {
	/* agent -> kernel */
	KERNEL_INIT =
		1, /* blob: bytes of entropy (32) for reseeding; fds: stdout, stderr write ends */
	KERNEL_RUN = 2,      /* u32 cell number (1…), u8 enum kernel_run_flag, blob code (UTF-8).
				Cell 0 has no code: the kernel runs something of its own choosing that
				has no effect, so that what a first cell touches has been touched */
	KERNEL_TERMINAL = 3, /* instead of INIT, for the launcher only: blob TERM, blob command
				(empty: the image's shell); fds: the slave of a terminal. It answers
				READY, closes the socket and becomes the terminal's first process */
	/* kernel -> agent */
	KERNEL_READY = 16, /* u32 pid inside the sandbox */
	KERNEL_DISPLAY =
		17,       /* u8 value kind, blob value, as in DONE: rich output that is not text */
	KERNEL_DONE = 18, /* u8 kernel_status, u8 value kind, blob value, blob error name, blob
			     error text, blob traceback (UTF-8, no colour codes; empty when ok) */
};

enum kernel_run_flag {
	KERNEL_RUN_STREAM = 1, /* somebody watches: output leaves as it is written, unbuffered */
	KERNEL_RUN_ARGV = 2,   /* code is a program and its arguments, each ended by a NUL byte */
};

/** DONE's error name beside KERNEL_OK: SIGKILL ended the command, or a program of it. The kernel
 * cannot know what for; the agent can (AGENT_RESULT_OOM). */
#define KERNEL_NAME_KILLED "Killed"

/** Exit status of a kernel whose language has no memory left within the session's limit, where the
 * machine has killed nobody (AGENT_RESULT_OOM): that of ERR_NOMEM in base/err.h. */
#define KERNEL_EXIT_NO_MEMORY 71

enum kernel_status {
	KERNEL_OK = 0,
	KERNEL_ERROR = 1,       /* the cell raised (also SyntaxError) */
	KERNEL_INTERRUPTED = 2, /* the cell ended by KeyboardInterrupt */
};

/** Kinds of a value; typing rules of clients.md §0.1 are applied by the kernel driver. */
enum kernel_value {
	KERNEL_VALUE_NONE = 0,  /* nothing to show: blob empty */
	KERNEL_VALUE_NULL = 1,  /* an explicit None: blob empty */
	KERNEL_VALUE_BOOL = 2,  /* blob "0" or "1" */
	KERNEL_VALUE_INT = 3,   /* blob decimal text, fits int64; of a command: its exit code */
	KERNEL_VALUE_FLOAT = 4, /* blob repr() of a finite double */
	KERNEL_VALUE_STR = 5,   /* blob UTF-8: a str value as it is */
	KERNEL_VALUE_TEXT = 6,  /* blob UTF-8: text/plain form of any other value */
	KERNEL_VALUE_IMAGE =
		7, /* blob: u8 length of format name, format ("png", "jpeg", "svg+xml"), bytes */
};
