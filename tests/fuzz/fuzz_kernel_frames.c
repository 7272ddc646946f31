/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from a sandbox's kernel to the agent: hostile code may send anything. The first byte
 * chooses the state. Whatever comes: only the kernel is ever signalled, and what reaches the daemon
 * is a result its parser accepts.
 */
#include "agent_world.h"

#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
	STATE_READY = 1,
	STATE_RUNNING = 2,
	STATE_CANCELED = 4,
	STATE_SMALL = 8,
	STATE_DEADLINE = 16,
	STATE_OVERDUE = 32,
	STATE_OUTPUT = 64, /* the bytes go to stdout and stderr as well */
	STATE_RERUN = 128,
};

#define OUTPUT_MAX 10

static void start_execution(struct agent_world *w, bool small)
{
	struct buf b;

	buf_init(&b, 256);
	wire_put_u32(&b, 4 + 1 + 5 * 4 + 4 + 1);
	wire_put_u8(&b, AGENT_PROTO_VERSION);
	wire_put_u8(&b, AGENT_EXEC);
	wire_put_u16(&b, 0);
	wire_put_u64(&b, 77);
	wire_put_u32(&b, 0);
	wire_put_u8(&b, 0);
	wire_put_u32(&b, 1000);
	wire_put_u32(&b, OUTPUT_MAX);
	wire_put_u32(&b, OUTPUT_MAX);
	wire_put_u32(&b, small ? 16 : 1 << 20);
	wire_put_u32(&b, 0);
	wire_put_blob(&b, STR("1"));
	agent_world_feed(w, (const uint8_t *)b.ptr, b.len);
	buf_done(&b);
}

/* What is not acknowledged is listed and sent again to whoever connects. */
static void hello(struct agent_world *w)
{
	static const uint8_t frame[AGENT_HEADER_SIZE] = { 0,          0, 0, 0, AGENT_PROTO_VERSION,
							  AGENT_HELLO };

	agent_world_reconnect(w);
	agent_world_feed(w, frame, sizeof(frame));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct agent_world w;

	if (!size)
		return 0;
	agent_world_open(&w);
	w.out_max = OUTPUT_MAX + 3;
	w.ready = data[0] & (STATE_READY | STATE_RUNNING);
	agent_world_attach(&w);
	struct world_end *end = agent_world_find(&w, WORLD_KERNEL, 0);

	if (data[0] & STATE_RUNNING)
		start_execution(&w, data[0] & STATE_SMALL);
	if (data[0] & STATE_CANCELED)
		exec_cancel(&w.agent, 77);
	for (int i = 0; i < 2 && data[0] & STATE_OUTPUT; i++)
		if (write(end->out_fds[i], data, size < 4096 ? size : 4096) <= 0)
			abort();
	agent_world_kernel(&w, 0, data + 1, size - 1);
	if (data[0] & STATE_RERUN) {
		start_execution(&w, false);
		hello(&w);
	}
	if (data[0] & STATE_DEADLINE)
		agent_world_wait(&w, AGENT_KERNEL_START_MS);
	if (data[0] & STATE_OVERDUE)
		agent_world_wait(&w, AGENT_TIMEOUT_GRACE_MS);
	agent_world_close(&w);
	return 0;
}
