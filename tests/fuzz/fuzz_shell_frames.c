/* SPDX-License-Identifier: Apache-2.0 */

/* The shell kernel's frames: what is accepted lies within the bytes, and what was short stays so.
 */

#include "kernel_frame.h"

#include "base/kernel_proto.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct run_frame run;
	struct str bytes = { (const char *)data, size };
	int rc = run_frame_parse(bytes, &run);

	if (rc != 1)
		return 0;
	assert(run.size <= size && run.size <= KERNEL_HEADER_SIZE + KERNEL_FRAME_MAX);
	assert(run.code_begin + run.code_len == run.size);
	if (run.is_argv)
		assert(run.code_len && data[run.size - 1] == '\0');
	struct run_frame again;

	/* A byte less is not enough, a byte more changes nothing. */
	assert(run_frame_parse((struct str){ bytes.ptr, run.size - 1 }, &again) == 0);
	assert(run_frame_parse((struct str){ bytes.ptr, run.size }, &again) == 1);
	assert(again.code_begin == run.code_begin && again.number == run.number);
	return 0;
}
