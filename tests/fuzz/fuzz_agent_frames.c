/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an agent sends, as the daemon reads it: a byte for the parser, then a frame's payload (or
 * header). Views stay inside the frame, counts and kinds inside their limits, messages printable.
 */
#include "base/own.h"
#include "sandbox/agent_frames.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *frame;
static size_t frame_len;

static void check_view(struct str s)
{
	assert(s.len == 0 || (s.ptr >= frame && s.ptr + s.len <= frame + frame_len));
}

static void check_result(struct wire_reader *r)
{
	struct agent_result res;

	if (!agent_frame_result(r, &res))
		return;
	const struct str views[] = { res.out,        res.err,       res.error_name,
				     res.error_text, res.traceback, res.value.data };

	for (size_t i = 0; i < ARRAY_LEN(views); i++)
		check_view(views[i]);
	assert(res.status <= AGENT_RESULT_NOT_RUN && res.value.kind <= KERNEL_VALUE_IMAGE);
	assert(res.display_count <= ARRAY_LEN(res.displays));
	for (size_t i = 0; i < res.display_count; i++) {
		assert(res.displays[i].kind <= KERNEL_VALUE_IMAGE);
		check_view(res.displays[i].data);
	}
}

static void check_file(const struct agent_file *f)
{
	check_view(f->path);
	assert(f->path.len <= AGENT_PATH_MAX);
	assert(f->mtime_us >= 0 && f->mtime_us <= 253402300799000000);
}

static void check_entries(struct wire_reader *r)
{
	struct agent_file *files = NULL;
	size_t count = 0;
	bool more;

	if (!agent_frame_entries(r, &files, &count, &more)) {
		assert(!files);
		return;
	}
	for (size_t i = 0; i < count; i++)
		check_file(&files[i]);
	free(files);
}

static void check_kernels(const struct agent_status *s)
{
	assert(s->kernel_count <= AGENT_KERNELS_MAX);
	for (size_t i = 0; i < s->kernel_count; i++) {
		assert(s->kernels[i].kernel < AGENT_KERNELS_MAX);
		assert(s->kernels[i].state <= AGENT_KERNEL_BUSY);
		assert(s->kernels[i].label.len <= AGENT_LABEL_MAX);
		check_view(s->kernels[i].label);
		for (size_t j = 0; j < i; j++)
			assert(s->kernels[i].kernel != s->kernels[j].kernel);
	}
}

static void check_status(struct wire_reader *r)
{
	struct agent_status s;

	if (!agent_frame_status(r, &s))
		return;
	check_kernels(&s);
	assert(s.exec_count <= ARRAY_LEN(s.execs));
	for (size_t i = 0; i < s.exec_count; i++) {
		assert(s.execs[i].kernel < AGENT_KERNELS_MAX);
		assert(s.execs[i].state == AGENT_EXEC_RUNNING ||
		       s.execs[i].state == AGENT_EXEC_FINISHED);
		for (size_t j = 0; j < i; j++)
			assert(s.execs[i].op != s.execs[j].op);
	}
	assert(s.terminal_count <= AGENT_TERMINALS_MAX);
	for (size_t i = 0; i < s.terminal_count; i++) {
		assert(s.terminals[i].label.len <= AGENT_LABEL_MAX);
		check_view(s.terminals[i].label);
		for (size_t j = 0; j < i; j++)
			assert(s.terminals[i].op != s.terminals[j].op);
	}
}

static void check_kernel_state(struct wire_reader *r)
{
	struct agent_kernel_change c;

	if (agent_frame_kernel_state(r, &c))
		assert(c.kernel < AGENT_KERNELS_MAX && c.state <= AGENT_KERNEL_BUSY &&
		       c.death <= AGENT_DEATH_KILLED);
}

static void check_terminal_state(struct wire_reader *r)
{
	struct agent_terminal_change c;

	if (agent_frame_terminal_state(r, &c))
		assert(c.death <= AGENT_DEATH_KILLED);
}

static void check_output(struct wire_reader *r)
{
	struct str bytes;
	int stream;

	if (!agent_frame_output(r, &stream, &bytes))
		return;
	assert((stream == 1 || stream == 2) && bytes.len && bytes.len <= AGENT_STREAM_CHUNK);
	check_view(bytes);
}

static void check_display(struct wire_reader *r)
{
	struct agent_value v;

	if (!agent_frame_display(r, &v))
		return;
	assert(v.kind <= KERNEL_VALUE_IMAGE);
	check_view(v.data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct agent_frame header;
	struct agent_file file;
	struct err e = ERR_INIT;

	if (!size)
		return 0;
	frame = (const char *)data + 1;
	frame_len = size - 1;
	struct wire_reader r = wire_reader(frame, frame_len);

	switch (data[0] % 10) {
	case 0:
		if (frame_len >= AGENT_HEADER_SIZE && agent_frame_header(frame, &header))
			assert(header.len <= AGENT_FRAME_MAX);
		break;
	case 1:
		check_result(&r);
		break;
	case 2:
		if (agent_frame_file(&r, &file))
			check_file(&file);
		break;
	case 3:
		check_entries(&r);
		break;
	case 4:
		if (!agent_frame_error(&r, &e))
			break;
		assert(e.code > ERR_NONE && e.code < ERR_CODE_MAX);
		for (const char *p = e.msg; *p; p++)
			assert(*p >= 0x20 && *p < 0x7f);
		break;
	case 5:
		check_status(&r);
		break;
	case 6:
		check_kernel_state(&r);
		break;
	case 7:
		check_terminal_state(&r);
		break;
	case 8:
		check_output(&r);
		break;
	case 9:
		check_display(&r);
		break;
	}
	return 0;
}
