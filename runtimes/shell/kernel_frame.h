/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * kernel_frame: the one frame that the shell kernel takes, RUN of base/kernel_proto.h.
 */

#include "base/str.h"

struct run_frame {
	size_t size;       /* of the whole frame */
	uint32_t number;   /* of the cell; 0 is the warm-up, which has no code of its own */
	bool is_argv;      /* code is words, each ended by a NUL, at least one */
	size_t code_begin; /* in the bytes that were parsed */
	size_t code_len;
};

/**
 * run_frame_parse: 1 and *ret if a RUN is at the start of data, 0 if that needs more bytes, -1 if
 * it is something else.
 */
int run_frame_parse(struct str data, struct run_frame *ret);
