/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static void drop_passed(struct agent_conn *c)
{
	for (size_t i = 0; i < c->passed_count; i++)
		close(c->passed[i]);
	c->passed_count = 0;
}

static int take_passed(struct agent_conn *c)
{
	if (!c->passed_count)
		return -1;
	int fd = c->passed[0];

	c->passed_count--;
	memmove(c->passed, c->passed + 1, c->passed_count * sizeof(c->passed[0]));
	return fd;
}

static void conn_close(struct agent *a)
{
	if (a->conn.fd < 0)
		return;
	close_fd(&a->conn.fd);
	drop_passed(&a->conn);
	buf_done(&a->conn.in);
	buf_done(&a->conn.out);
	a->conn.writing = a->conn.broken = false;
	files_reset(a);
	outputs_reset(a);
	terminals_reset(a);
}

/*
 * From inside a frame handler, whose callers still hold operations: nothing is freed here, the end
 * of the socket comes back as an event.
 */
void conn_break(struct agent *a)
{
	if (a->conn.fd < 0)
		return;
	a->conn.broken = true;
	shutdown(a->conn.fd, SHUT_RDWR);
	buf_clear(&a->conn.out);
}

static void watch(struct agent *a, bool add)
{
	uint32_t watched = add ? 0 : EPOLLERR; /* anything but what is asked for */

	agent_watch(a, a->conn.fd, EVENT_CONN, 0, EPOLLIN | (a->conn.writing ? EPOLLOUT : 0),
		    &watched);
}

void conn_accept(struct agent *a)
{
	int fd = accept4(AGENT_LISTEN_FD, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	/* SECURITY: only the daemon's user can reach the socket's path. The newest connection is
	 * the living daemon. */
	conn_close(a);
	a->conn.fd = fd;
	watch(a, true);
}

static void conn_flush(struct agent *a)
{
	struct agent_conn *c = &a->conn;

	while (c->out.len) {
		ssize_t n = send(c->fd, c->out.ptr, c->out.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			conn_break(a);
			return;
		}
		buf_consume(&c->out, (size_t)n);
	}
	if (c->writing != (c->out.len > 0)) {
		c->writing = c->out.len > 0;
		watch(a, false);
	}
	/* Memory for a large result is given back when it is gone. */
	if (!c->out.len && c->out.cap > 256 * 1024)
		buf_done(&c->out);
}

size_t conn_room(const struct agent *a)
{
	size_t limit = 2 * AGENT_FILE_WINDOW;

	return a->conn.out.len < limit ? limit - a->conn.out.len : 0;
}

static void send_parts(struct agent *a, enum agent_msg type, uint64_t op, struct str head,
		       struct str rest)
{
	struct buf *out = &a->conn.out;

	if (a->conn.fd < 0 || a->conn.broken)
		return;
	if (!wire_put_u32(out, (uint32_t)(head.len + rest.len)) ||
	    !wire_put_u8(out, AGENT_PROTO_VERSION) || !wire_put_u8(out, (uint8_t)type) ||
	    !wire_put_u16(out, 0) || !wire_put_u64(out, op) || !buf_add_str(out, head) ||
	    !buf_add_str(out, rest)) {
		conn_break(a);
		return;
	}
	if (!a->conn.writing)
		conn_flush(a);
}

void conn_send(struct agent *a, enum agent_msg type, uint64_t op, struct str payload)
{
	send_parts(a, type, op, STR(""), payload);
}

void conn_send_tagged(struct agent *a, enum agent_msg type, uint64_t op, uint8_t tag,
		      struct str rest)
{
	send_parts(a, type, op, (struct str){ (const char *)&tag, 1 }, rest);
}

void conn_send_number(struct agent *a, enum agent_msg type, uint64_t op, uint32_t number)
{
	struct buf b;

	buf_init(&b, 8);
	wire_put_u32(&b, number);
	conn_send(a, type, op, buf_str(&b));
	buf_done(&b);
}

void conn_send_error(struct agent *a, uint64_t op, const struct err *e)
{
	struct buf b;

	buf_init(&b, 4096);
	wire_put_u32(&b, (uint32_t)e->code);
	wire_put_blob(&b, str_from(e->msg));
	conn_send(a, AGENT_ERROR, op, buf_str(&b));
	buf_done(&b);
}

static void put_kernels(struct agent *a, struct buf *b)
{
	uint32_t count = 0;

	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		count += a->kernels[i] && a->kernels[i]->state != AGENT_KERNEL_NONE;
	wire_put_u32(b, count);
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++) {
		const struct agent_kernel *k = a->kernels[i];

		if (!k || k->state == AGENT_KERNEL_NONE)
			continue;
		wire_put_u32(b, k->number);
		wire_put_u8(b, (uint8_t)k->state);
		wire_put_blob(b, buf_str(&k->label));
	}
}

static void put_executions(struct agent *a, struct buf *b)
{
	uint32_t running = 0;

	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		running += a->kernels[i] && a->kernels[i]->exec.running;
	wire_put_u32(b, (uint32_t)a->done_count + running);
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++) {
		const struct agent_kernel *k = a->kernels[i];

		if (!k || !k->exec.running)
			continue;
		wire_put_u64(b, k->exec.op);
		wire_put_u8(b, AGENT_EXEC_RUNNING);
		wire_put_u32(b, k->number);
	}
	list_each(&a->done, struct agent_done, node, d) {
		wire_put_u64(b, d->op);
		wire_put_u8(b, AGENT_EXEC_FINISHED);
		wire_put_u32(b, d->kernel);
	}
}

static void put_terminals(struct agent *a, struct buf *b)
{
	uint32_t count = 0;

	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		count += a->terminals[i] != NULL;
	wire_put_u32(b, count);
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++) {
		if (!a->terminals[i])
			continue;
		wire_put_u64(b, a->terminals[i]->op);
		wire_put_blob(b, buf_str(&a->terminals[i]->label));
	}
}

static void send_status(struct agent *a)
{
	struct buf b;

	buf_init(&b, 8192);
	put_kernels(a, &b);
	put_executions(a, &b);
	put_terminals(a, &b);
	conn_send(a, AGENT_STATUS, 0, buf_str(&b));
	buf_done(&b);
}

static void attach(struct agent *a, struct wire_reader *r)
{
	OWNED_FD int sock = take_passed(&a->conn);
	uint32_t number = wire_get_u32(r);
	struct str label = wire_get_blob(r, AGENT_LABEL_MAX);

	if (!wire_ok(r) || sock < 0 || number >= AGENT_KERNELS_MAX)
		conn_break(a);
	else
		kernel_attach(a, number, label, take_fd(sock));
}

static void end_kernel(struct agent *a, struct wire_reader *r)
{
	uint32_t number = wire_get_u32(r);

	if (wire_ok(r) && number < AGENT_KERNELS_MAX)
		kernel_end(a, number);
	else
		conn_break(a);
}

static void handle_frame(struct agent *a, enum agent_msg type, uint64_t op, struct str payload)
{
	struct wire_reader r = wire_reader(payload.ptr, payload.len);

	switch (type) {
	case AGENT_HELLO:
		send_status(a);
		exec_resend(a);
		break;
	case AGENT_EXEC:
		exec_start(a, op, &r);
		break;
	case AGENT_EXEC_ACK:
		exec_ack(a, op);
		break;
	case AGENT_EXEC_CANCEL:
		exec_cancel(a, op);
		break;
	case AGENT_EXEC_CREDIT:
		exec_credit(a, op, &r);
		break;
	case AGENT_KERNEL_ATTACH:
		attach(a, &r);
		break;
	case AGENT_KERNEL_END:
		end_kernel(a, &r);
		break;
	case AGENT_TERM_OPEN:
		terminal_open(a, op, &r, take_passed(&a->conn));
		break;
	case AGENT_TERM_ATTACH:
	case AGENT_TERM_DETACH:
	case AGENT_TERM_INPUT:
	case AGENT_TERM_CREDIT:
	case AGENT_TERM_RESIZE:
	case AGENT_TERM_SIGNAL:
	case AGENT_TERM_CLOSE:
		terminal_frame(a, type, op, &r);
		break;
	case AGENT_FILE_LIST:
	case AGENT_FILE_STAT:
	case AGENT_FILE_READ:
	case AGENT_FILE_WRITE:
	case AGENT_FILE_DATA:
	case AGENT_FILE_END:
	case AGENT_FILE_ABORT:
	case AGENT_FILE_CREDIT:
	case AGENT_FILE_DELETE:
		files_frame(a, type, op, &r);
		break;
	default:
		conn_break(a);
	}
}

/* Takes complete frames off the input; false when the connection is gone. */
static bool take_frames(struct agent *a)
{
	struct agent_conn *c = &a->conn;
	size_t at = 0;

	while (!c->broken && c->in.len - at >= AGENT_HEADER_SIZE) {
		struct wire_reader r = wire_reader(c->in.ptr + at, AGENT_HEADER_SIZE);
		uint32_t len = wire_get_u32(&r);
		uint8_t version = wire_get_u8(&r);
		uint8_t type = wire_get_u8(&r);
		uint16_t zero = wire_get_u16(&r);
		uint64_t op = wire_get_u64(&r);

		if (len > AGENT_FRAME_MAX || version != AGENT_PROTO_VERSION || zero) {
			conn_close(a);
			return false;
		}
		if (c->in.len - at - AGENT_HEADER_SIZE < len)
			break;
		handle_frame(a, (enum agent_msg)type, op,
			     (struct str){ c->in.ptr + at + AGENT_HEADER_SIZE, len });
		at += AGENT_HEADER_SIZE + len;
	}
	buf_consume(&c->in, at);
	if (!c->in.len) {
		drop_passed(c); /* came with frames that carry none */
		if (c->in.cap > 256 * 1024)
			buf_done(&c->in);
	}
	return true;
}

/* A descriptor comes with the first byte of its frame, which may be complete only after those of
 * later frames have come. */
static void keep_passed(struct agent_conn *c, int fd)
{
	if (c->passed_count == AGENT_PASSED_MAX)
		close(fd);
	else
		c->passed[c->passed_count++] = fd;
}

void conn_event(struct agent *a, uint32_t events)
{
	struct agent_conn *c = &a->conn;

	if (events & EPOLLOUT)
		conn_flush(a);
	if (c->fd >= 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR))) {
		int fd = -1;
		size_t fd_count = 1;

		if (!buf_reserve(&c->in, 16384)) {
			conn_close(a);
			return;
		}
		size_t room = c->in.cap - c->in.len - 1;
		ssize_t n = fd_recv(c->fd, c->in.ptr + c->in.len, room, &fd, &fd_count);

		if (n == 0 || (n < 0 && errno != EAGAIN)) {
			conn_close(a);
			return;
		}
		if (fd_count)
			keep_passed(c, fd);
		c->in.len += n > 0 ? (size_t)n : 0;
		if (!take_frames(a))
			return;
	}
	if (c->fd < 0 || c->broken)
		return;
	exec_pump(a);
	outputs_pump(a);
	terminals_pump(a);
	files_pump(a);
}
