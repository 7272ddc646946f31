/* SPDX-License-Identifier: Apache-2.0 */
#include "base/wire.h"
#include "sandbox/agent_frames.h"
#include "sandbox/internal.h"

#include <stdlib.h>

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

bool files_take(struct agent_link *l, enum agent_msg type, uint64_t op, struct str payload)
{
	struct wire_reader r = wire_reader(payload.ptr, payload.len);

	switch (type) {
	case AGENT_FILE_INFO:
		return take_info(l, op, &r);
	case AGENT_FILE_ENTRIES:
		return take_entries(l, op, &r);
	case AGENT_FILE_DATA:
		return take_data(l, op, payload);
	case AGENT_FILE_CREDIT:
		return take_credit(l, op, &r);
	default:
		return take_done(l, op);
	}
}

bool files_take_error(struct agent_link *l, uint64_t op, const struct err *e)
{
	struct agent_file_op *f = file_find(l, op);

	if (f)
		file_fail(f, e);
	return f != NULL;
}

void files_fail(struct agent_link *l, const struct err *e, bool freeing)
{
	while ((freeing || !l->freed) && !list_empty(&l->files))
		file_fail(list_first(&l->files, struct agent_file_op, node), e);
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

/* One that has a path and nothing else. */
static struct agent_file_op *file_start_plain(struct agent_link *l, enum agent_msg kind,
					      struct str path, const struct agent_file_events *ev,
					      void *arg)
{
	struct buf b;

	buf_init(&b, 64);
	return file_start(l, kind, &b, path, ev, arg);
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
	return file_start_plain(l, AGENT_FILE_STAT, path, ev, arg);
}

struct agent_file_op *agent_file_read(struct agent_link *l, struct str path,
				      const struct agent_file_events *ev, void *arg)
{
	return file_start_plain(l, AGENT_FILE_READ, path, ev, arg);
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
	return file_start_plain(l, AGENT_FILE_DELETE, path, ev, arg);
}

void agent_file_credit(struct agent_file_op *op, size_t bytes)
{
	link_send_u32(op->link, AGENT_FILE_CREDIT, op->op, (uint32_t)bytes);
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
