/* SPDX-License-Identifier: Apache-2.0 */
#include "http/internal.h"

/*
 * SECURITY: a caller decides how long a body that it sends, or a reply that it does not read, stays
 * in memory, and callers may have thousands of connections. Each of these is bounded by itself;
 * here they are bounded together, so that memory ends with a refusal and not with the daemon. Small
 * ones do not count and always pass: with them, errors and the requests that clean up.
 */

static size_t counted(size_t size)
{
	return size > BUFFERS_SMALL ? size : 0;
}

bool buffers_set(struct http_request *rq, enum buffer_kind kind, size_t size)
{
	struct http_server *s = rq->server;
	size_t had = rq->buffered[kind];
	size_t others = s->buffered - had;
	size_t max = s->config.buffers_max;

	size = counted(size);
	if (size > had && (others > max || size > max - others))
		return false;
	rq->buffered[kind] = size;
	s->buffered = others + size;
	return true;
}

void buffers_done(struct http_request *rq)
{
	for (int i = 0; i < BUFFER_KINDS; i++)
		buffers_set(rq, (enum buffer_kind)i, 0);
}

void buffers_full(struct http_request *rq, enum buffer_kind kind)
{
	struct err e = ERR_INIT;
	bool reply = kind == BUFFER_REPLY;
	bool again = !reply || str_eq(rq->method, STR("GET"));

	err_set(&e, ERR_UNAVAILABLE,
		"The server holds %zu bytes of request bodies and of replies that are still to be read; %s "
		"would take more than its limit of %zu (--buffers-max). %s",
		rq->server->buffered, reply ? "this reply" : "this body",
		rq->server->config.buffers_max,
		again ? "Try again later."
		      : "The request has been carried out; only its reply is lost.");
	/* To send a request again that has been carried out would do it twice. */
	if (again)
		http_set_header(rq, "Retry-After", "1");
	http_reply_err(rq, &e);
}
