/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * agent_frames: parsers of what an agent sends, without a connection, so that they can be fuzzed.
 * Each returns false for a malformed frame; views point into the frame.
 */

#include "base/wire.h"
#include "sandbox/agent_link.h"

struct agent_frame {
	uint32_t len;
	uint8_t type;
	uint64_t op;
};

struct agent_kernel_change {
	uint32_t kernel;
	enum agent_kernel_state state;
	enum agent_death death;
	uint32_t code;
};

struct agent_terminal_change {
	bool ended;
	enum agent_death death;
	uint32_t code;
};

/** agent_frame_header: of AGENT_HEADER_SIZE bytes; checks version and size. */
bool agent_frame_header(const char *bytes, struct agent_frame *ret);
/** agent_frame_status: kernels, executions and terminals are different ones each. */
bool agent_frame_status(struct wire_reader *r, struct agent_status *ret);
bool agent_frame_kernel_state(struct wire_reader *r, struct agent_kernel_change *ret);
bool agent_frame_terminal_state(struct wire_reader *r, struct agent_terminal_change *ret);
/** agent_frame_output: 1 to AGENT_STREAM_CHUNK bytes. */
bool agent_frame_output(struct wire_reader *r, int *ret_stream, struct str *ret_bytes);
bool agent_frame_display(struct wire_reader *r, struct agent_value *ret);
bool agent_frame_result(struct wire_reader *r, struct agent_result *ret);
bool agent_frame_file(struct wire_reader *r, struct agent_file *ret);
/** agent_frame_entries: the array is malloc'ed (caller frees), its size bounded by the frame's. */
bool agent_frame_entries(struct wire_reader *r, struct agent_file **ret, size_t *ret_count,
			 bool *ret_more);
/** agent_frame_error: unknown codes become ERR_INTERNAL; bytes that are not
 * printable become '?'. */
bool agent_frame_error(struct wire_reader *r, struct err *ret);
