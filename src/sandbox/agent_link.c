/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/agent_link.h"

#include "base/fdio.h"
#include "base/list.h"
#include "base/own.h"
#include "base/wire.h"
#include "loop/loop.h"
#include "sandbox/agent_frames.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* One for each kernel and terminal there can be, and as many that are replaced meanwhile. */
#define ATTACHMENTS_MAX (2 * (AGENT_KERNELS_MAX + AGENT_TERMINALS_MAX))

struct agent_file_op {
	struct list node;
	uint64_t op;
	enum agent_msg kind;
	const struct agent_file_events *ev;
	void *arg;
	struct agent_link *link;
	uint32_t window; /* write: bytes we may send */
	bool starved;
};

struct agent_link {
	int fd;
	struct loop_watch *watch;
	struct buf in;
	struct buf out;
	bool writing;
	bool broken;
	bool busy; /* inside a callback loop: freeing is postponed */
	bool freed;
	const struct agent_link_events *events;
	void *arg;
	struct list files;
	uint64_t next_op;
	/* Descriptors that wait for their frames to reach the front of `out`, in order. */
	struct attachment {
		int fd;
		size_t at; /* bytes of `out` before that frame */
	} attachments[ATTACHMENTS_MAX];
	size_t attachment_count;
};

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

static int link_send(struct agent_link *l, enum agent_msg type, uint64_t op, struct str head,
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

static struct agent_file_op *file_find(struct agent_link *l, uint64_t op)
{
	list_each(&l->files, struct agent_file_op, node, f)
		if (f->op == op)
			return f;
	return NULL;
}

static void file_free(struct agent_file_op *f)
{
	list_remove(&f->node);
	free(f);
}

static void file_fail(struct agent_file_op *f, const struct err *e)
{
	const struct agent_file_events *ev = f->ev;
	void *arg = f->arg;

	file_free(f);
	ev->failed(arg, e);
}

static bool take_info(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	struct agent_file_op *f = file_find(l, op);
	struct agent_file info;

	if (!agent_frame_file(r, &info) || !wire_ok(r))
		return false;
	if (!f)
		return true; /* canceled meanwhile */
	const struct agent_file_events *ev = f->ev;
	void *arg = f->arg;

	if (f->kind != AGENT_FILE_READ && f->kind != AGENT_FILE_STAT && f->kind != AGENT_FILE_WRITE)
		return false;
	if (f->kind != AGENT_FILE_READ)
		file_free(f);
	ev->info(arg, &info);
	return true;
}

static bool take_entries(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	struct agent_file_op *f = file_find(l, op);
	struct agent_file *files = NULL;
	size_t count = 0;
	bool more = false;

	if (!agent_frame_entries(r, &files, &count, &more))
		return false;
	bool ok = !f || f->kind == AGENT_FILE_LIST;

	if (f && ok) {
		const struct agent_file_events *ev = f->ev;
		void *arg = f->arg;

		file_free(f);
		ev->entries(arg, files, count, more);
	}
	free(files);
	return ok;
}

static bool take_data(struct agent_link *l, uint64_t op, struct str data)
{
	struct agent_file_op *f = file_find(l, op);

	if (!f)
		return true;
	const struct agent_file_events *ev = f->ev;
	void *arg = f->arg;

	if (f->kind != AGENT_FILE_READ || data.len > AGENT_FILE_CHUNK)
		return false;
	if (data.len) {
		ev->data(arg, data);
	} else {
		file_free(f);
		ev->done(arg);
	}
	return true;
}

static bool take_credit(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	struct agent_file_op *f = file_find(l, op);
	uint32_t bytes = wire_get_u32(r);

	if (!wire_ok(r))
		return false;
	if (!f || f->kind != AGENT_FILE_WRITE)
		return true;
	if (bytes > AGENT_FILE_WINDOW - f->window)
		return false;
	f->window += bytes;
	if (f->starved && f->window >= AGENT_FILE_CHUNK) {
		f->starved = false;
		f->ev->drained(f->arg);
	}
	return true;
}

static bool take_done(struct agent_link *l, uint64_t op)
{
	struct agent_file_op *f = file_find(l, op);

	if (!f)
		return true;
	const struct agent_file_events *ev = f->ev;
	void *arg = f->arg;

	if (f->kind != AGENT_FILE_DELETE)
		return false;
	file_free(f);
	ev->done(arg);
	return true;
}

static bool take_error(struct agent_link *l, uint64_t op, struct wire_reader *r)
{
	struct agent_file_op *f = file_find(l, op);
	struct err e = ERR_INIT;

	if (!agent_frame_error(r, &e))
		return false;
	if (f)
		file_fail(f, &e);
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
	case AGENT_FILE_INFO:
		return take_info(l, op, &r);
	case AGENT_FILE_ENTRIES:
		return take_entries(l, op, &r);
	case AGENT_FILE_DATA:
		return take_data(l, op, payload);
	case AGENT_FILE_CREDIT:
		return take_credit(l, op, &r);
	case AGENT_DONE:
		return take_done(l, op);
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
	while (!list_empty(&l->files))
		file_free(list_first(&l->files, struct agent_file_op, node));
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
	while (!l->freed && !list_empty(&l->files))
		file_fail(list_first(&l->files, struct agent_file_op, node), &e);
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
	while (!list_empty(&l->files))
		file_fail(list_first(&l->files, struct agent_file_op, node), &e);
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

/* Queues a frame that a descriptor goes with; takes fd. */
static void send_with_fd(struct agent_link *l, enum agent_msg type, uint64_t op, struct str payload,
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

void agent_link_attach(struct agent_link *l, uint32_t kernel, struct str label, int fd)
{
	struct buf b;

	buf_init(&b, 256);
	wire_put_u32(&b, kernel);
	wire_put_blob(&b, label);
	send_with_fd(l, AGENT_KERNEL_ATTACH, 0, buf_str(&b), fd);
	buf_done(&b);
}

static struct agent_file_op *file_new(struct agent_link *l, enum agent_msg kind,
				      const struct agent_file_events *ev, void *arg)
{
	struct agent_file_op *f = calloc(1, sizeof(*f));

	if (!f)
		return NULL;
	f->op = l->next_op++;
	f->kind = kind;
	f->ev = ev;
	f->arg = arg;
	f->link = l;
	f->window = AGENT_FILE_WINDOW;
	list_add_tail(&l->files, &f->node);
	return f;
}

struct agent_file_op *agent_file_guard(struct agent_link *l, const struct agent_file_events *ev,
				       void *arg)
{
	return file_new(l, AGENT_HELLO, ev, arg);
}

static struct agent_file_op *file_start(struct agent_link *l, enum agent_msg kind, struct buf *head,
					struct str path, const struct agent_file_events *ev,
					void *arg)
{
	struct agent_file_op *f = file_new(l, kind, ev, arg);

	if (f) {
		wire_put_u32(head, (uint32_t)path.len);
		/* A broken link fails the operation when its end arrives. */
		link_send(l, kind, f->op, buf_str(head), path);
	}
	buf_done(head);
	return f;
}

struct agent_file_op *agent_file_list(struct agent_link *l, struct str path, bool recursive,
				      uint32_t max, const struct agent_file_events *ev, void *arg)
{
	struct buf b;

	buf_init(&b, 64);
	wire_put_u8(&b, recursive);
	wire_put_u32(&b, max);
	return file_start(l, AGENT_FILE_LIST, &b, path, ev, arg);
}

struct agent_file_op *agent_file_stat(struct agent_link *l, struct str path,
				      const struct agent_file_events *ev, void *arg)
{
	struct buf b;

	buf_init(&b, 64);
	return file_start(l, AGENT_FILE_STAT, &b, path, ev, arg);
}

struct agent_file_op *agent_file_read(struct agent_link *l, struct str path,
				      const struct agent_file_events *ev, void *arg)
{
	struct buf b;

	buf_init(&b, 64);
	return file_start(l, AGENT_FILE_READ, &b, path, ev, arg);
}

struct agent_file_op *agent_file_write(struct agent_link *l, struct str path, uint64_t size_max,
				       const struct agent_file_events *ev, void *arg)
{
	struct buf b;

	buf_init(&b, 64);
	wire_put_u64(&b, size_max);
	return file_start(l, AGENT_FILE_WRITE, &b, path, ev, arg);
}

struct agent_file_op *agent_file_delete(struct agent_link *l, struct str path,
					const struct agent_file_events *ev, void *arg)
{
	struct buf b;

	buf_init(&b, 64);
	return file_start(l, AGENT_FILE_DELETE, &b, path, ev, arg);
}

void agent_file_credit(struct agent_file_op *op, size_t bytes)
{
	struct buf b;

	buf_init(&b, 8);
	wire_put_u32(&b, (uint32_t)bytes);
	link_send(op->link, AGENT_FILE_CREDIT, op->op, buf_str(&b), (struct str){ 0 });
	buf_done(&b);
}

size_t agent_file_put(struct agent_file_op *op, const char *data, size_t len)
{
	size_t sent = 0;

	while (sent < len && op->window) {
		size_t n = len - sent;

		if (n > op->window)
			n = op->window;
		if (n > AGENT_FILE_CHUNK)
			n = AGENT_FILE_CHUNK;
		if (link_send(op->link, AGENT_FILE_DATA, op->op, (struct str){ data + sent, n },
			      (struct str){ 0 }) < 0)
			break;
		op->window -= (uint32_t)n;
		sent += n;
	}
	if (sent < len)
		op->starved = true;
	return sent;
}

void agent_file_end(struct agent_file_op *op)
{
	link_send(op->link, AGENT_FILE_END, op->op, (struct str){ 0 }, (struct str){ 0 });
}

void agent_file_cancel(struct agent_file_op *op)
{
	if (!op)
		return;
	if (op->kind != AGENT_HELLO) /* a guard: the agent knows nothing of it */
		link_send(op->link, AGENT_FILE_ABORT, op->op, (struct str){ 0 }, (struct str){ 0 });
	file_free(op);
}
