/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_frame.h"

#include "base/kernel_proto.h"
#include "base/wire.h"

int run_frame_parse(struct str data, struct run_frame *ret)
{
	struct wire_reader r = wire_reader(data.ptr, data.len);
	uint32_t len = wire_get_u32(&r);
	uint8_t type = wire_get_u8(&r);

	if (data.len < KERNEL_HEADER_SIZE)
		return 0;
	if (len > KERNEL_FRAME_MAX || type != KERNEL_RUN)
		return -1;
	if (data.len - KERNEL_HEADER_SIZE < len)
		return 0;
	r = wire_reader(data.ptr + KERNEL_HEADER_SIZE, len);
	struct run_frame run = { .size = KERNEL_HEADER_SIZE + (size_t)len };

	run.number = wire_get_u32(&r);
	uint8_t flags = wire_get_u8(&r);
	struct str code = wire_get_blob(&r, KERNEL_FRAME_MAX);

	run.is_argv = flags & KERNEL_RUN_ARGV;
	/* KERNEL_RUN_STREAM asks nothing of this kernel: nothing of its own is buffered. */
	if (!wire_ok(&r) || flags & ~(KERNEL_RUN_ARGV | KERNEL_RUN_STREAM) ||
	    (run.is_argv && (!code.len || code.ptr[code.len - 1] != '\0')))
		return -1;
	run.code_begin = run.size - code.len;
	run.code_len = code.len;
	*ret = run;
	return 1;
}
