/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/agent_link.h"

#include "base/fdio.h"
#include "base/own.h"
#include "base/wire.h"
#include "sandbox/agent_frames.h"
#include "sandbox/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

static void set_events(struct agent_link *l)
{
	loop_watch_set(l->watch, LOOP_READ | (l->writing ? LOOP_WRITE : 0));
}

static void drop_attachment(struct agent_link *l)
{
	close_fd(&l->attachments[0].fd);
	l->attachment_count--;
	memmove(l->attachments, l->attachments + 1,
		l->attachment_count * sizeof(l->attachments[0]));
}

static void link_break(struct agent_link *l)
{
	/* The end of the socket comes back as an event, outside of whoever is calling. */
	l->broken = true;
	buf_clear(&l->out);
	while (l->attachment_count)
		drop_attachment(l);
	shutdown(l->fd, SHUT_RDWR);
}

/* A descriptor goes with the first byte of its frame, and no two in one call. */
static ssize_t send_some(struct agent_link *l)
{
	size_t len = l->out.len;
	bool with_fd = l->attachment_count && l->attachments[0].at == 0;
	size_t next = with_fd ? 1 : 0;

	if (next < l->attachment_count)
		len = l->attachments[next].at;
	ssize_t n = fd_send(l->fd, l->out.ptr, len, &l->attachments[0].fd, with_fd ? 1 : 0);

	if (n < 0)
		return n;
	if (with_fd)
		drop_attachment(l);
	for (size_t i = 0; i < l->attachment_count; i++)
		l->attachments[i].at -= (size_t)n;
	buf_consume(&l->out, (size_t)n);
	return n;
}

static void link_flush(struct agent_link *l)
{
	while (l->out.len) {
		ssize_t n = send_some(l);

		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0) {
			link_break(l);
			return;
		}
	}
	if (l->writing != (l->out.len > 0)) {
		l->writing = l->out.len > 0;
		set_events(l);
	}
	if (!l->out.len && l->out.cap > 256 * 1024)
		buf_done(&l->out);
}

int link_send(struct agent_link *l, enum agent_msg type, uint64_t op, struct str head,
	      struct str tail)
{
	if (l->broken)
		return -1;
	wire_put_u32(&l->out, (uint32_t)(head.len + tail.len));
	wire_put_u8(&l->out, AGENT_PROTO_VERSION);
	wire_put_u8(&l->out, (uint8_t)type);
	wire_put_u16(&l->out, 0);
	wire_put_u64(&l->out, op);
	buf_add_str(&l->out, head);
	buf_add_str(&l->out, tail);
	if (!buf_ok(&l->out)) {
		link_break(l);
		return -1;
	}
	if (!l->writing)
		link_flush(l);
	return 0;
}

int link_send_u32(struct agent_link *l, enum agent_msg type, uint64_t op, uint32_t value)
{
	char bytes[4];

	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(value >> 8 * i);
	return link_send(l, type, op, (struct str){ bytes, sizeof(bytes) }, (struct str){ 0 });
}

void link_send_fd(struct agent_link *l, enum agent_msg type, uint64_t op, struct str payload,
		  int fd)
{
	if (l->broken || l->attachment_count == ATTACHMENTS_MAX) {
		close(fd);
		if (!l->broken)
			link_break(l);
		return;
	}
	l->attachments[l->attachment_count++] = (struct attachment){ fd, l->out.len };
	link_send(l, type, op, payload, (struct str){ 0 });
}

static bool take_error(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	struct err e = ERR_INIT;

	if (!agent_frame_error(r, &e))
		return false;
	if (!files_take_error(l, op, &e))
		terminals_take_error(l, op, &e);
	return true;
}

static bool take_exec_output(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	int stream;
	struct str bytes;

	if (!agent_frame_output(r, &stream, &bytes))
		return false;
	l->events->exec_output(l->arg, op, stream, bytes);
	return true;
}

static bool take_exec_display(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	struct agent_value value;

	if (!agent_frame_display(r, &value))
		return false;
	l->events->exec_display(l->arg, op, &value);
	return true;
}

static bool take_exec_done(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	struct agent_result result;

	if (!agent_frame_result(r, &result))
		return false;
	l->events->exec_done(l->arg, op, &result);
	return true;
}

static bool take_status(struct agent_link *l, struct wire_reader *r)
{
	struct agent_status status;

	if (!agent_frame_status(r, &status))
		return false;
	l->events->status(l->arg, &status);
	return true;
}

static bool take_kernel_state(struct agent_link *l, struct wire_reader *r)
{
	struct agent_kernel_change c;

	if (!agent_frame_kernel_state(r, &c))
		return false;
	l->events->kernel_state(l->arg, c.kernel, c.state, c.death, c.code);
	return true;
}

static bool take_frame(struct agent_link *l, uint8_t type, uint64_t op, struct str payload)
{
	struct wire_reader r = wire_reader(payload.ptr, payload.len);

	switch (type) {
	case AGENT_STATUS:
		return take_status(l, &r);
	case AGENT_KERNEL_STATE:
		return take_kernel_state(l, &r);
	case AGENT_EXEC_DONE:
		return take_exec_done(l, op, &r);
	case AGENT_EXEC_OUTPUT:
		return take_exec_output(l, op, &r);
	case AGENT_EXEC_DISPLAY:
		return take_exec_display(l, op, &r);
	case AGENT_FILE_INFO:
	case AGENT_FILE_ENTRIES:
	case AGENT_FILE_DATA:
	case AGENT_FILE_CREDIT:
	case AGENT_DONE:
		return files_take(l, (enum agent_msg)type, op, payload);
	case AGENT_TERM_OUTPUT:
	case AGENT_TERM_STATE:
	case AGENT_TERM_CREDIT:
		return terminals_take(l, (enum agent_msg)type, op, payload);
	case AGENT_ERROR:
		return take_error(l, op, &r);
	default:
		return false;
	}
}

static bool take_frames(struct agent_link *l)
{
	size_t at = 0;
	bool ok = true;

	while (ok && !l->freed && l->in.len - at >= AGENT_HEADER_SIZE) {
		struct agent_frame f;

		ok = agent_frame_header(l->in.ptr + at, &f);
		if (!ok || l->in.len - at - AGENT_HEADER_SIZE < f.len)
			break;
		ok = take_frame(l, f.type, f.op,
				(struct str){ l->in.ptr + at + AGENT_HEADER_SIZE, f.len });
		at += AGENT_HEADER_SIZE + f.len;
	}
	buf_consume(&l->in, at);
	if (!l->in.len && l->in.cap > 256 * 1024)
		buf_done(&l->in);
	return ok;
}

static void link_destroy(struct agent_link *l)
{
	loop_watch_free(l->watch);
	close_fd(&l->fd);
	while (l->attachment_count)
		drop_attachment(l);
	buf_done(&l->in);
	buf_done(&l->out);
	free(l);
}

static void link_closed(struct agent_link *l, const char *why)
{
	struct err e = ERR_INIT;

	l->broken = true;
	loop_watch_set(l->watch, 0);
	err_set(&e, ERR_UNAVAILABLE, "the session ended (%s)", why);
	files_fail(l, &e, false);
	terminals_fail(l, &e, false);
	if (!l->freed)
		l->events->closed(l->arg, &e);
}

static void link_event(void *arg, int events)
{
	struct agent_link *l = arg;
	const char *why = NULL;

	l->busy = true;
	if (events & LOOP_WRITE)
		link_flush(l);
	if (events & LOOP_READ) {
		if (!buf_reserve(&l->in, 16384)) {
			why = "too much output";
		} else {
			ssize_t n =
				recv(l->fd, l->in.ptr + l->in.len, l->in.cap - l->in.len - 1, 0);

			if (n > 0) {
				l->in.len += (size_t)n;
				if (!take_frames(l))
					why = "protocol violation";
			} else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
				why = "its sandbox is gone";
			}
		}
	}
	if (why && !l->freed)
		link_closed(l, why);
	l->busy = false;
	if (l->freed)
		link_destroy(l);
}

struct agent_link *agent_link_new(int fd, const struct agent_link_events *events, void *arg,
				  struct err *e)
{
	struct agent_link *l = calloc(1, sizeof(*l));

	if (!l) {
		err_set(e, ERR_NOMEM, "out of memory");
		close(fd);
		return NULL;
	}
	l->fd = fd;
	l->events = events;
	l->arg = arg;
	l->next_op = 1;
	list_init(&l->files);
	list_init(&l->terminals);
	buf_init(&l->in, AGENT_FRAME_MAX + AGENT_HEADER_SIZE + 65536);
	buf_init(&l->out, 64u << 20);
	l->watch = loop_watch_new(fd, link_event, l);
	if (!l->watch) {
		err_set(e, ERR_SYSTEM, "watch the agent");
		close(fd);
		free(l);
		return NULL;
	}
	set_events(l);
	link_send(l, AGENT_HELLO, 0, (struct str){ 0 }, (struct str){ 0 });
	return l;
}

void agent_link_free(struct agent_link *l)
{
	struct err e = ERR_INIT;

	if (!l || l->freed)
		return;
	l->freed = l->broken = true;
	err_set(&e, ERR_CONFLICT, "the session was deleted meanwhile");
	files_fail(l, &e, true);
	terminals_fail(l, &e, true);
	if (!l->busy)
		link_destroy(l);
}

bool agent_link_busy(const struct agent_link *l)
{
	return !list_empty(&l->files);
}

int agent_link_exec(struct agent_link *l, uint64_t op, const struct agent_exec_params *p)
{
	struct buf b;
	int rc;

	buf_init(&b, 64);
	wire_put_u32(&b, p->kernel);
	wire_put_u8(&b, p->flags);
	wire_put_u32(&b, p->timeout_ms);
	wire_put_u32(&b, p->stdout_max);
	wire_put_u32(&b, p->stderr_max);
	wire_put_u32(&b, p->result_max);
	wire_put_u32(&b, p->credit);
	wire_put_u32(&b, (uint32_t)p->code.len);
	rc = link_send(l, AGENT_EXEC, op, buf_str(&b), p->code);
	buf_done(&b);
	return rc;
}

void agent_link_ack(struct agent_link *l, uint64_t op)
{
	link_send(l, AGENT_EXEC_ACK, op, (struct str){ 0 }, (struct str){ 0 });
}

void agent_link_cancel(struct agent_link *l, uint64_t op)
{
	link_send(l, AGENT_EXEC_CANCEL, op, STR("\1"), (struct str){ 0 });
}

void agent_link_exec_credit(struct agent_link *l, uint64_t op, uint32_t bytes)
{
	link_send_u32(l, AGENT_EXEC_CREDIT, op, bytes);
}

void agent_link_kernel_end(struct agent_link *l, uint32_t kernel)
{
	link_send_u32(l, AGENT_KERNEL_END, 0, kernel);
}

void agent_link_attach(struct agent_link *l, uint32_t kernel, struct str label, int fd)
{
	struct buf b;

	buf_init(&b, 256);
	wire_put_u32(&b, kernel);
	wire_put_blob(&b, label);
	link_send_fd(l, AGENT_KERNEL_ATTACH, 0, buf_str(&b), fd);
	buf_done(&b);
}
