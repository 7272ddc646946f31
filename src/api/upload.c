/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"

#include "base/own.h"
#include "http/multipart.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Room for boundaries and part headers beside the files' bytes. */
#define FORM_OVERHEAD (1u << 20)

struct upload;

/* One file of the form. */
struct upload_file {
	struct upload *upload;
	struct agent_file_op *op; /* NULL when the agent has answered */
	struct upload_file *next;
	char path[];
};

/*
 * Files on their way from a client: HTTP body → multipart → agent, in constant memory. When the
 * agent's window is full the body pauses; `drained` wakes it. A file counts when the agent has put
 * it in place.
 */
struct upload {
	struct call *call;
	struct agent_link *link;     /* NULL until the session is open, and after it ended */
	struct agent_file_op *guard; /* tells when it ends */
	struct multipart *form;
	struct upload_file *files; /* newest first: the head is the one being written */
	size_t unanswered;
	bool in_file; /* between the headers and the end of a part with a file name */
	bool body_ended;
	bool failed;
	bool ended; /* the request is over */
	uint64_t total;
	struct buf entries; /* of the reply */
	size_t count;
	char path[AGENT_PATH_MAX + 1];
};

static void cancel_all(struct upload *u)
{
	for (struct upload_file *f = u->files; f; f = f->next) {
		agent_file_cancel(f->op);
		f->op = NULL;
	}
}

static void upload_done(void *arg)
{
	struct upload *u = arg;

	u->ended = true;
	cancel_all(u);
	agent_file_cancel(u->guard);
	multipart_free(u->form);
	buf_done(&u->entries);
}

static void fail(struct upload *u, const struct err *e)
{
	if (u->failed || u->ended)
		return;
	u->failed = true;
	cancel_all(u);
	call_fail(u->call, e);
}

static void reply(struct upload *u)
{
	struct err e = ERR_INIT;
	struct buf b;

	if (!u->count) {
		err_set(&e, ERR_INVALID,
			"The form has no file: send multipart/form-data with a part that has a filename.");
		fail(u, &e);
		return;
	}
	buf_init(&b, 16u << 20);
	if (call_is_old(u->call)) {
		buf_add_str(&b, STR("{\"$id\":\"1\",\"value\":["));
		buf_add_str(&b, buf_str(&u->entries));
		buf_add_str(&b, STR("]}"));
	} else if (u->count == 1) {
		buf_add_str(&b, buf_str(&u->entries));
	} else {
		buf_add_str(&b, STR("{\"value\":["));
		buf_add_str(&b, buf_str(&u->entries));
		buf_add_str(&b, STR("]}"));
	}
	call_reply_json(u->call, 200, &b);
}

static void on_failed(void *arg, const struct err *e)
{
	struct upload_file *file = arg;
	struct err mine;

	file->op = NULL;
	file->upload->unanswered--;
	files_error(file->path, e, &mine);
	fail(file->upload, &mine);
}

static void on_info(void *arg, const struct agent_file *f)
{
	struct upload_file *file = arg;
	struct upload *u = file->upload;
	const char *slash = memrchr(f->path.ptr, '/', f->path.len);
	struct str parent = { f->path.ptr, slash ? (size_t)(slash - f->path.ptr) : 0 };

	file->op = NULL;
	u->unanswered--;
	/* The old reply names files relative to the root, the new one by their last part. */
	files_put_entry(&u->entries, u->call, f, call_is_old(u->call) ? STR("") : parent, false);
	u->count++;
	if (u->body_ended && !u->failed && !u->unanswered)
		reply(u);
}

static void on_drained(void *arg)
{
	struct upload_file *file = arg;

	http_body_resume(file->upload->call->rq);
}

static const struct agent_file_events events = {
	.failed = on_failed,
	.info = on_info,
	.drained = on_drained,
};

static int on_part(void *arg, const struct multipart_part *part, struct err *e)
{
	struct upload *u = arg;
	struct str directory;

	u->in_file = part->filename.ptr != NULL;
	if (!u->in_file)
		return 0; /* a plain field: its bytes are skipped */
	if (!http_query(u->call->rq, "path", &directory))
		directory = STR("");
	if (files_path(directory, part->filename, u->path, e) < 0)
		return -1;
	if (!u->path[0])
		return err_set(e, ERR_INVALID, "The part's filename is empty.");
	u->total = 0;
	if (!u->link)
		return err_set(e, ERR_CONFLICT, "The session was deleted during the upload.");
	size_t path_size = strlen(u->path) + 1;
	struct upload_file *file = http_alloc(u->call->rq, sizeof(*file) + path_size);

	if (!file)
		return err_set(e, ERR_NOMEM, "out of memory");
	memcpy(file->path, u->path, path_size);
	file->upload = u;
	file->op = agent_file_write(u->link, str_from(u->path),
				    pool_spec(u->call->pool)->upload_max_bytes, &events, file);
	if (!file->op)
		return err_set(e, ERR_NOMEM, "out of memory");
	file->next = u->files;
	u->files = file;
	u->unanswered++;
	return 0;
}

static ssize_t on_part_data(void *arg, const char *data, size_t len, struct err *e)
{
	struct upload *u = arg;
	uint64_t max = pool_spec(u->call->pool)->upload_max_bytes;

	if (!u->in_file)
		return (ssize_t)len;
	u->total += len;
	if (u->total > max)
		return err_set(
			e, ERR_TOO_LARGE,
			"The file is larger than %" PRIu64
			" bytes, the upload limit of the pool (413; sessionLimits.maxUploadSizeInBytes).",
			max);
	if (!u->files->op)
		return err_set(e, ERR_UNAVAILABLE, "the upload was broken off");
	size_t sent = agent_file_put(u->files->op, data, len);

	u->total -= len - sent;
	return (ssize_t)sent;
}

static int on_part_end(void *arg, struct err *e)
{
	struct upload *u = arg;

	if (!u->in_file)
		return 0;
	if (!u->files->op)
		return err_set(e, ERR_UNAVAILABLE, "the upload was broken off");
	u->in_file = false;
	agent_file_end(u->files->op);
	return 0;
}

static const struct multipart_events form_events = {
	.part = on_part,
	.data = on_part_data,
	.part_end = on_part_end,
};

static size_t on_body(void *arg, const char *data, size_t len)
{
	struct upload *u = arg;
	struct err e = ERR_INIT;

	if (u->failed || u->ended)
		return len; /* swallowed: the reply is out */
	if (!data) {
		u->body_ended = true;
		if (multipart_finish(u->form, &e) < 0)
			fail(u, &e);
		else if (!u->unanswered)
			reply(u);
		return 0;
	}
	ssize_t n = multipart_feed(u->form, data, len, &e);

	if (n < 0) {
		fail(u, &e);
		return len;
	}
	return (size_t)n;
}

static void on_link_lost(void *arg, const struct err *e)
{
	struct upload *u = arg;

	u->guard = NULL;
	u->link = NULL;
	fail(u, e);
}

static const struct agent_file_events guard_events = { .failed = on_link_lost };

static void on_open(void *arg, struct session *s, struct agent_link *link)
{
	struct upload *u = arg;
	struct err e = ERR_INIT;

	u->guard = agent_file_guard(link, &guard_events, u);
	if (!u->guard) {
		err_set(&e, ERR_NOMEM, "out of memory");
		fail(u, &e);
		return;
	}
	u->link = link;
	call_session_headers(u->call, s);
	http_body_sink(u->call->rq, on_body, u);
}

static void upload(struct http_request *rq, void *ctx, enum shape shape)
{
	struct call *c = call_begin(rq, ctx, shape);
	struct err e = ERR_INIT;
	struct str type = STR("");
	struct str length;
	uint64_t bytes;

	if (!c)
		return;
	struct upload *u = http_alloc(rq, sizeof(*u));

	if (!u) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(c, &e);
		return;
	}
	u->call = c;
	buf_init(&u->entries, 8u << 20);
	http_defer(rq, upload_done, u);
	http_header(rq, "Content-Type", &type);
	uint64_t max = pool_spec(c->pool)->upload_max_bytes;

	if (http_header(rq, "Content-Length", &length) &&
	    str_to_u64(length, UINT64_MAX / 2, &bytes) && bytes > max + FORM_OVERHEAD)
		err_set(&e, ERR_TOO_LARGE,
			"The request has %" PRIu64
			" bytes; the upload limit of the pool is %" PRIu64
			" (413; sessionLimits.maxUploadSizeInBytes).",
			bytes, max);
	u->form = e.code == ERR_NONE ? multipart_new(type, &form_events, u, &e) : NULL;
	struct session *s = u->form ? call_session(c, &e) : NULL;

	if (!s)
		call_fail(c, &e);
	else
		call_when_open(c, s, on_open, u);
}

void files_upload(struct http_request *rq, void *ctx)
{
	upload(rq, ctx, SHAPE_NEW);
}

void files_upload_old(struct http_request *rq, void *ctx)
{
	upload(rq, ctx, SHAPE_OLD);
}
