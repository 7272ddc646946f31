/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * kernel protocol: between the agent (PID 1 of a sandbox) and one language kernel, over a stream
 * socketpair. docs/agent-protocol.md has the page.
 *
 * Frame: u32 payload length, u8 type, payload; little-endian; blobs are u32 length + bytes.
 * SECURITY: the kernel runs hostile code in its own process and can send anything. The agent bounds
 * every frame by KERNEL_FRAME_MAX, accepts only what the state allows and otherwise kills the
 * kernel.
 *
 * Order: agent sends INIT with two descriptors (write ends for fd 1 and fd 2); kernel dups them,
 * runs one silent warm-up cell, answers READY. Then for each execution: agent RUN; kernel DISPLAY*,
 * DONE. Output goes through fds 1 and 2, flushed before DONE (and before each DISPLAY), so order is
 * kept. SIGINT to the kernel's process group means "interrupt": user code gets KeyboardInterrupt;
 * between executions the kernel ignores it. End of file on the socket: the kernel exits.
 */

#define KERNEL_HEADER_SIZE 5
/** One display (an image) or result may have this many bytes; larger ones become a text that says
 * so. */
#define KERNEL_FRAME_MAX (16u * 1024 * 1024)

enum kernel_msg {
	/* agent -> kernel */
	KERNEL_INIT =
		1, /* blob: bytes of entropy (32) for reseeding; fds: stdout, stderr write ends */
	KERNEL_RUN = 2, /* u32 cell number (1…), blob code (UTF-8) */
	/* kernel -> agent */
	KERNEL_READY = 16, /* u32 pid inside the sandbox */
	KERNEL_DISPLAY =
		17,       /* u8 value kind, blob value, as in DONE: rich output that is not text */
	KERNEL_DONE = 18, /* u8 kernel_status, u8 value kind, blob value, blob error name, blob
			     error text, blob traceback (UTF-8, no colour codes; empty when ok) */
};

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
	KERNEL_VALUE_INT = 3,   /* blob decimal text, fits int64 */
	KERNEL_VALUE_FLOAT = 4, /* blob repr() of a finite double */
	KERNEL_VALUE_STR = 5,   /* blob UTF-8: a str value as it is */
	KERNEL_VALUE_TEXT = 6,  /* blob UTF-8: text/plain form of any other value */
	KERNEL_VALUE_IMAGE =
		7, /* blob: u8 length of format name, format ("png", "jpeg", "svg+xml"), bytes */
};
