/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/socket.h>

static void conn_close(struct agent *a)
{
	if (a->conn.fd < 0)
		return;
	close_fd(&a->conn.fd);
	close_fd(&a->conn.passed_fd);
	buf_done(&a->conn.in);
	buf_done(&a->conn.out);
	a->conn.writing = a->conn.broken = false;
	files_reset(a);
}

/*
 * Ends the connection from inside a frame handler, whose callers still hold operations of it:
 * nothing is freed here, the end of the socket comes back as an event.
 */
static void conn_break(struct agent *a)
{
	a->conn.broken = true;
	shutdown(a->conn.fd, SHUT_RDWR);
	buf_clear(&a->conn.out);
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
	agent_watch(a, fd, EVENT_CONN, EPOLLIN, true);
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
		agent_watch(a, c->fd, EVENT_CONN, EPOLLIN | (c->writing ? EPOLLOUT : 0), false);
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

void conn_send(struct agent *a, enum agent_msg type, uint64_t op, struct str payload)
{
	struct buf *out = &a->conn.out;

	if (a->conn.fd < 0 || a->conn.broken)
		return;
	if (!wire_put_u32(out, (uint32_t)payload.len) || !wire_put_u8(out, AGENT_PROTO_VERSION) ||
	    !wire_put_u8(out, (uint8_t)type) || !wire_put_u16(out, 0) || !wire_put_u64(out, op) ||
	    !buf_add_str(out, payload)) {
		conn_break(a);
		return;
	}
	if (!a->conn.writing)
		conn_flush(a);
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

static void attach(struct agent *a, struct wire_reader *r)
{
	OWNED_FD int sock = take_fd(a->conn.passed_fd);
	uint32_t kernel = wire_get_u32(r);
	struct str label = wire_get_blob(r, AGENT_LABEL_MAX);

	if (sock >= 0 && wire_ok(r) && kernel == 0)
		kernel_attach(a, take_fd(sock), label);
}

static void handle_frame(struct agent *a, enum agent_msg type, uint64_t op, struct str payload)
{
	struct wire_reader r = wire_reader(payload.ptr, payload.len);

	switch (type) {
	case AGENT_HELLO:
		kernel_send_status(a);
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
	case AGENT_KERNEL_ATTACH:
		attach(a, &r);
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
	size_t at = 0;

	while (!a->conn.broken && a->conn.in.len - at >= AGENT_HEADER_SIZE) {
		struct wire_reader r = wire_reader(a->conn.in.ptr + at, AGENT_HEADER_SIZE);
		uint32_t len = wire_get_u32(&r);
		uint8_t version = wire_get_u8(&r);
		uint8_t type = wire_get_u8(&r);

		wire_get_u16(&r);
		uint64_t op = wire_get_u64(&r);

		if (len > AGENT_FRAME_MAX || version != AGENT_PROTO_VERSION) {
			conn_close(a);
			return false;
		}
		if (a->conn.in.len - at - AGENT_HEADER_SIZE < len)
			break;
		handle_frame(a, (enum agent_msg)type, op,
			     (struct str){ a->conn.in.ptr + at + AGENT_HEADER_SIZE, len });
		at += AGENT_HEADER_SIZE + len;
	}
	buf_consume(&a->conn.in, at);
	if (!a->conn.in.len && a->conn.in.cap > 256 * 1024)
		buf_done(&a->conn.in);
	return true;
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

		if (n < 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			conn_close(a);
			return;
		}
		if (fd_count) {
			close_fd(&c->passed_fd);
			c->passed_fd = fd;
		}
		c->in.len += (size_t)n;
		if (!take_frames(a))
			return;
	}
	if (c->fd >= 0 && !c->broken)
		files_pump(a);
}
