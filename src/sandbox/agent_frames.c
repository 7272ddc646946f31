/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/agent_frames.h"

#include "base/own.h"

#include <stdlib.h>

/* Least size of one FILE_INFO: flag, size, time, empty path. */
#define ENTRY_SIZE_MIN (1 + 8 + 8 + 4)

bool agent_frame_header(const char *bytes, struct agent_frame *ret)
{
	struct wire_reader r = wire_reader(bytes, AGENT_HEADER_SIZE);

	ret->len = wire_get_u32(&r);
	uint8_t version = wire_get_u8(&r);

	ret->type = wire_get_u8(&r);
	uint16_t zero = wire_get_u16(&r);

	ret->op = wire_get_u64(&r);
	return version == AGENT_PROTO_VERSION && zero == 0 && ret->len <= AGENT_FRAME_MAX;
}

static bool get_kernels(struct wire_reader *r, struct agent_status *ret)
{
	uint32_t count = wire_get_u32(r);

	if (count > ARRAY_LEN(ret->kernels))
		return false;
	for (uint32_t i = 0; i < count; i++) {
		struct agent_status_kernel *k = &ret->kernels[i];

		k->kernel = wire_get_u32(r);
		uint8_t state = wire_get_u8(r);

		k->state = (enum agent_kernel_state)state;
		k->label = wire_get_blob(r, AGENT_LABEL_MAX);
		if (k->kernel >= AGENT_KERNELS_MAX || state > AGENT_KERNEL_BUSY)
			return false;
		for (uint32_t j = 0; j < i; j++)
			if (ret->kernels[j].kernel == k->kernel)
				return false;
	}
	ret->kernel_count = count;
	return !r->bad;
}

static bool get_execs(struct wire_reader *r, struct agent_status *ret)
{
	uint32_t count = wire_get_u32(r);

	if (count > ARRAY_LEN(ret->execs))
		return false;
	for (uint32_t i = 0; i < count; i++) {
		struct agent_status_exec *x = &ret->execs[i];

		x->op = wire_get_u64(r);
		uint8_t state = wire_get_u8(r);

		x->state = (enum agent_exec_state)state;
		x->kernel = wire_get_u32(r);
		if ((state != AGENT_EXEC_RUNNING && state != AGENT_EXEC_FINISHED) ||
		    x->kernel >= AGENT_KERNELS_MAX)
			return false;
		for (uint32_t j = 0; j < i; j++)
			if (ret->execs[j].op == x->op ||
			    (state == AGENT_EXEC_RUNNING &&
			     ret->execs[j].state == AGENT_EXEC_RUNNING &&
			     ret->execs[j].kernel == x->kernel))
				return false;
	}
	ret->exec_count = count;
	return !r->bad;
}

static bool get_terminals(struct wire_reader *r, struct agent_status *ret)
{
	uint32_t count = wire_get_u32(r);

	if (count > ARRAY_LEN(ret->terminals))
		return false;
	for (uint32_t i = 0; i < count; i++) {
		ret->terminals[i].op = wire_get_u64(r);
		ret->terminals[i].label = wire_get_blob(r, AGENT_LABEL_MAX);
		for (uint32_t j = 0; j < i; j++)
			if (ret->terminals[j].op == ret->terminals[i].op)
				return false;
	}
	ret->terminal_count = count;
	return !r->bad;
}

bool agent_frame_status(struct wire_reader *r, struct agent_status *ret)
{
	return get_kernels(r, ret) && get_execs(r, ret) && get_terminals(r, ret) && wire_ok(r);
}

bool agent_frame_kernel_state(struct wire_reader *r, struct agent_kernel_change *ret)
{
	ret->kernel = wire_get_u32(r);
	uint8_t state = wire_get_u8(r);
	uint8_t death = wire_get_u8(r);

	ret->state = (enum agent_kernel_state)state;
	ret->death = (enum agent_death)death;
	ret->code = wire_get_u32(r);
	return wire_ok(r) && ret->kernel < AGENT_KERNELS_MAX && state <= AGENT_KERNEL_BUSY &&
	       death <= AGENT_DEATH_KILLED;
}

static bool get_value(struct wire_reader *r, struct agent_value *ret)
{
	uint8_t kind = wire_get_u8(r);

	ret->data = wire_get_blob(r, AGENT_FRAME_MAX);
	ret->kind = (enum kernel_value)kind;
	return !r->bad && kind <= KERNEL_VALUE_IMAGE;
}

bool agent_frame_terminal_state(struct wire_reader *r, struct agent_terminal_change *ret)
{
	uint8_t state = wire_get_u8(r);
	uint8_t death = wire_get_u8(r);

	ret->ended = state == 1;
	ret->death = (enum agent_death)death;
	ret->code = wire_get_u32(r);
	return wire_ok(r) && state <= 1 && death <= AGENT_DEATH_KILLED;
}

bool agent_frame_output(struct wire_reader *r, int *ret_stream, struct str *ret_bytes)
{
	*ret_stream = wire_get_u8(r);
	*ret_bytes = wire_get_rest(r);
	return wire_ok(r) && (*ret_stream == 1 || *ret_stream == 2) && ret_bytes->len > 0 &&
	       ret_bytes->len <= AGENT_STREAM_CHUNK;
}

bool agent_frame_display(struct wire_reader *r, struct agent_value *ret)
{
	return get_value(r, ret) && wire_ok(r);
}

bool agent_frame_result(struct wire_reader *r, struct agent_result *ret)
{
	uint8_t status = wire_get_u8(r);

	uint8_t kernel_state = wire_get_u8(r);

	ret->status = (enum agent_exec_status)status;
	ret->kernel_idle = kernel_state == AGENT_KERNEL_IDLE;
	ret->duration_us = wire_get_u64(r);
	ret->stdout_dropped = wire_get_u64(r);
	ret->stderr_dropped = wire_get_u64(r);
	if (status > AGENT_RESULT_NOT_RUN || kernel_state > AGENT_KERNEL_BUSY ||
	    !get_value(r, &ret->value))
		return false;
	ret->out = wire_get_blob(r, AGENT_FRAME_MAX);
	ret->err = wire_get_blob(r, AGENT_FRAME_MAX);
	ret->error_name = wire_get_blob(r, AGENT_FRAME_MAX);
	ret->error_text = wire_get_blob(r, AGENT_FRAME_MAX);
	ret->traceback = wire_get_blob(r, AGENT_FRAME_MAX);
	ret->display_count = wire_get_u32(r);
	if (r->bad || ret->display_count > ARRAY_LEN(ret->displays))
		return false;
	for (size_t i = 0; i < ret->display_count; i++)
		if (!get_value(r, &ret->displays[i]))
			return false;
	return wire_ok(r);
}

bool agent_frame_file(struct wire_reader *r, struct agent_file *ret)
{
	ret->directory = wire_get_u8(r) != 0;
	ret->size = wire_get_u64(r);
	ret->mtime_us = (int64_t)wire_get_u64(r);
	ret->path = wire_get_blob(r, AGENT_PATH_MAX);
	/* Times a person would not believe would not fit the text of a date either. */
	if (ret->mtime_us < 0 || ret->mtime_us > 253402300799000000)
		ret->mtime_us = 0;
	return !r->bad;
}

bool agent_frame_entries(struct wire_reader *r, struct agent_file **ret, size_t *ret_count,
			 bool *ret_more)
{
	*ret_more = wire_get_u8(r) != 0;
	uint32_t count = wire_get_u32(r);

	if (r->bad || count > r->left / ENTRY_SIZE_MIN)
		return false;
	OWNED_MEM struct agent_file *files = calloc((size_t)count + 1, sizeof(*files));

	if (!files)
		return false;
	for (uint32_t i = 0; i < count; i++)
		if (!agent_frame_file(r, &files[i]))
			return false;
	if (!wire_ok(r))
		return false;
	*ret = take_ptr(files);
	*ret_count = count;
	return true;
}

bool agent_frame_error(struct wire_reader *r, struct err *ret)
{
	uint32_t code = wire_get_u32(r);
	struct str msg = wire_get_blob(r, AGENT_FRAME_MAX);
	char text[ERR_MSG_MAX];
	size_t len = msg.len < sizeof(text) - 1 ? msg.len : sizeof(text) - 1;

	if (!wire_ok(r))
		return false;
	for (size_t i = 0; i < len; i++)
		text[i] = msg.ptr[i] >= 0x20 && msg.ptr[i] < 0x7f ? msg.ptr[i] : '?';
	text[len] = '\0';
	if (code == ERR_NONE || code >= ERR_CODE_MAX)
		code = ERR_INTERNAL;
	err_set(ret, (enum err_code)code, "%s", text);
	return true;
}
