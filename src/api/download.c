/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"

#include <string.h>

/*
 * A file on its way to a client. Constant memory: the agent sends at most a window ahead of what
 * the client has taken; what the response queue does not take waits in `held`.
 */
struct download {
	struct call *call;
	struct agent_file_op *op;
	struct buf held;
	uint64_t left; /* bytes promised and not yet arrived */
	bool streaming;
	bool complete; /* the agent has sent everything */
	bool ended;
	char path[AGENT_PATH_MAX + 1];
};

static void download_done(void *arg)
{
	struct download *d = arg;

	agent_file_cancel(d->op);
	d->op = NULL;
	d->ended = true;
	buf_done(&d->held);
}

static void finish_if_sent(struct download *d)
{
	if (!d->complete || d->held.len || d->ended)
		return;
	d->ended = true;
	if (d->left)
		http_stream_abort(d->call->rq); /* the file shrank: a short body must not look like
						   a whole one */
	else
		http_stream_end(d->call->rq);
}

static void drained(void *arg)
{
	struct download *d = arg;

	if (d->ended)
		return;
	size_t sent = http_stream_write(d->call->rq, d->held.ptr, d->held.len);

	buf_consume(&d->held, sent);
	if (sent && d->op)
		agent_file_credit(d->op, sent);
	finish_if_sent(d);
}

static void on_info(void *arg, const struct agent_file *f)
{
	struct download *d = arg;
	struct err e = ERR_INIT;

	d->left = f->size;
	d->streaming = true;
	http_set_header(d->call->rq, "X-Content-Type-Options", "nosniff");
	if (http_stream_begin(d->call->rq, 200, files_content_type(f->path), (int64_t)f->size,
			      drained, d, &e) < 0) {
		d->streaming = false;
		call_fail(d->call, &e);
	}
}

static void on_data(void *arg, struct str bytes)
{
	struct download *d = arg;

	if (!d->streaming || d->ended || bytes.len > d->left)
		return;
	d->left -= bytes.len;
	size_t sent = d->held.len ? 0 : http_stream_write(d->call->rq, bytes.ptr, bytes.len);

	if (sent)
		agent_file_credit(d->op, sent);
	buf_add(&d->held, bytes.ptr + sent, bytes.len - sent);
}

static void on_done(void *arg)
{
	struct download *d = arg;

	d->op = NULL;
	d->complete = true;
	finish_if_sent(d);
}

static void on_failed(void *arg, const struct err *e)
{
	struct download *d = arg;

	d->op = NULL;
	if (d->streaming && !d->ended) {
		d->ended = true;
		http_stream_abort(d->call->rq);
	} else if (!d->streaming) {
		call_fail_file(d->call, d->path, e);
	}
}

static const struct agent_file_events events = {
	.failed = on_failed,
	.done = on_done,
	.info = on_info,
	.data = on_data,
};

static void on_open(void *arg, struct session *s, struct agent_link *link)
{
	struct download *d = arg;
	struct err e = ERR_INIT;

	call_session_headers(d->call, s);
	d->op = agent_file_read(link, str_from(d->path), &events, d);
	if (!d->op) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(d->call, &e);
	}
}

void files_download(struct call *c, struct str path)
{
	struct download *d = http_alloc(c->rq, sizeof(*d));
	struct err e = ERR_INIT;

	if (!d || !str_copy(path, d->path, sizeof(d->path))) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(c, &e);
		return;
	}
	d->call = c;
	buf_init(&d->held, AGENT_FILE_WINDOW + AGENT_FILE_CHUNK);
	http_defer(c->rq, download_done, d);
	struct session *s = path.len ? call_session(c, &e) : NULL;

	if (!path.len)
		err_set(&e, ERR_INVALID, "The file name is missing.");
	if (!s)
		call_fail(c, &e);
	else
		call_when_open(c, s, on_open, d);
}
