/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes from the daemon's side of the agent's connection, and, between them, what happens in its
 * sandbox: frames of a type that the protocol does not know are the world's. The first byte says
 * what is there. Whatever comes: every reply is one the daemon accepts, limits hold, nobody is
 * signalled that the agent does not own, no path leads out of the data root, and the end of the
 * connection gives everything back.
 */
#include "agent_world.h"

#include "base/own.h"
#include "sandbox/agent_frames.h"

#include <sys/socket.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
	WITH_KERNEL = 1,
	WITH_DEADLINE = 2, /* at the end, all that is armed passes */
	WITH_READY = 4,    /* kernels and launchers say READY by themselves */
};

enum world_msg {
	WORLD_KERNEL_BYTES = 200, /* op: number; payload: bytes to the kernel's socket */
	WORLD_KERNEL_OUTPUT,      /* op: number, 1 << 32: to stderr; u32 how many bytes */
	WORLD_TERM_OUTPUT,        /* op; u32 how many bytes */
	WORLD_TERM_INPUT,         /* op: the program reads what there is */
	WORLD_WAIT,               /* u32 ms */
	WORLD_EXIT,               /* op: kernel, or 1 << 32: terminal; u32 status */
	WORLD_RECONNECT,
	WORLD_SLOW, /* op 1: the daemon does not read any more, 0: it does */
	WORLD_PROCESSES,
	WORLD_HANG_UP, /* op: kernel: it closes its socket; 1 << 32: a terminal's last end */
};

static void write_many(int fd, uint32_t count)
{
	static const char bytes[4096] = { 'x' };

	for (count %= 1u << 20; count;) {
		ssize_t n = write(fd, bytes, count < sizeof(bytes) ? count : sizeof(bytes));

		if (n <= 0)
			return;
		count -= (uint32_t)n;
	}
}

static void read_all(int fd)
{
	char bytes[4096];

	while (recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		;
}

static struct world_end *named(struct agent_world *w, uint64_t op)
{
	if (!(op >> 32))
		return agent_world_find(w, WORLD_KERNEL, (uint32_t)op);
	return agent_world_find(w, WORLD_TERMINAL, (uint32_t)op);
}

static bool world_frame(struct agent_world *w, const struct agent_frame *f, const uint8_t *payload)
{
	struct wire_reader r = wire_reader(payload, f->len);
	struct world_end *end = named(w, f->op);

	switch ((enum world_msg)f->type) {
	case WORLD_KERNEL_BYTES:
		agent_world_kernel(w, (uint32_t)f->op, payload, f->len);
		break;
	case WORLD_KERNEL_OUTPUT:
		end = named(w, (uint32_t)f->op);
		if (end)
			write_many(end->out_fds[f->op >> 32 & 1], wire_get_u32(&r));
		break;
	case WORLD_TERM_OUTPUT:
		end = agent_world_find(w, WORLD_TERMINAL, f->op);
		if (end)
			write_many(end->fd, wire_get_u32(&r));
		break;
	case WORLD_TERM_INPUT:
		end = agent_world_find(w, WORLD_TERMINAL, f->op);
		if (end)
			read_all(end->fd);
		break;
	case WORLD_WAIT:
		agent_world_wait(w, wire_get_u32(&r) % 100000);
		break;
	case WORLD_EXIT:
		if (end)
			agent_world_exit(w, end->pid, (int)(wire_get_u32(&r) & 0xff7f));
		break;
	case WORLD_RECONNECT:
		agent_world_reconnect(w);
		break;
	case WORLD_SLOW:
		w->slow = f->op & 1;
		break;
	case WORLD_PROCESSES:
		agent_world_processes(payload, f->len);
		break;
	case WORLD_HANG_UP:
		if (end)
			shutdown(end->fd, SHUT_RDWR);
		break;
	default:
		return false;
	}
	agent_world_turn(w);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct agent_world w;
	uint8_t with = size ? data[0] : 0;

	if (!size)
		return 0;
	data++;
	size--;
	agent_world_open(&w);
	w.ready = true;
	if (with & WITH_KERNEL)
		agent_world_attach(&w);
	w.ready = with & WITH_READY;
	while (size >= AGENT_HEADER_SIZE) {
		struct agent_frame f;
		const uint8_t *payload = data + AGENT_HEADER_SIZE;

		if (!agent_frame_header((const char *)data, &f) || f.len > size - AGENT_HEADER_SIZE)
			break;
		if (!world_frame(&w, &f, payload))
			agent_world_feed(&w, data, AGENT_HEADER_SIZE + f.len);
		data += AGENT_HEADER_SIZE + f.len;
		size -= AGENT_HEADER_SIZE + f.len;
	}
	agent_world_feed(&w, data, size);
	if (with & WITH_DEADLINE)
		agent_world_wait(&w, AGENT_KERNEL_START_MS);
	agent_world_close(&w);
	return 0;
}
