/* SPDX-License-Identifier: Apache-2.0 */
#include "base/own.h"
#include "gateway/gateway.h"

#include <arpa/inet.h>
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

/** Steps of one connection before the others get their turn. */
#define STEPS_A_TURN 16

void stream_init(struct gateway *g)
{
	for (size_t i = 0; i < STREAMS_MAX; i++)
		g->stream[i].fd = -1;
}

/* Events carry the slot and how often it was used: one of a connection that is gone is noticed. */
static unsigned index_of(const struct gateway *g, const struct stream *s)
{
	return s->generation * STREAMS_MAX + (unsigned)(s - g->stream);
}

static void arm(struct gateway *g, struct stream *s, uint32_t events)
{
	if (s->armed == events)
		return;
	s->armed = events;
	gateway_watch(g, s->fd, SOURCE_STREAM, index_of(g, s), events, false);
}

static void close_stream(struct gateway *g, struct stream *s)
{
	if (s->flight)
		forward_cancel(g, s->flight);
	s->sandbox->streams--;
	g->streams--;
	close_fd(&s->fd);
}

/* SECURITY: as with queries, the oldest connection of whoever has most of them yields to others. */
static struct stream *make_room(struct gateway *g, const struct sandbox *newcomer)
{
	struct stream *most = g->stream;

	for (struct stream *s = g->stream; s < g->stream + STREAMS_MAX; s++) {
		if (s->fd < 0)
			return s;
		if (s->sandbox->streams > most->sandbox->streams ||
		    (s->sandbox == most->sandbox && s->deadline_ms < most->deadline_ms))
			most = s;
	}
	if (most->sandbox->streams <= newcomer->streams + 1)
		return NULL;
	close_stream(g, most);
	return most;
}

static bool accept_one(struct gateway *g)
{
	struct sockaddr_in from = { 0 };
	socklen_t from_len = sizeof(from);
	OWNED_FD int fd = accept4(GATEWAY_TCP_FD, (struct sockaddr *)&from, &from_len,
				  SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return false;
	struct sandbox *sandbox =
		from.sin_family == AF_INET ? gateway_sandbox(g, ntohl(from.sin_addr.s_addr)) : NULL;

	if (!sandbox || sandbox->streams >= STREAMS_SANDBOX_MAX)
		return true;
	struct stream *s = make_room(g, sandbox);

	if (!s)
		return true;
	s->fd = take_fd(fd);
	s->sandbox = sandbox;
	s->flight = NULL;
	s->deadline_ms = g->now_ms + STREAM_TIMEOUT_MS;
	s->in_len = s->out_at = s->out_len = 0;
	s->armed = EPOLLIN;
	s->generation++;
	sandbox->streams++;
	g->streams++;
	gateway_watch(g, s->fd, SOURCE_STREAM, index_of(g, s), EPOLLIN, true);
	return true;
}

void stream_accept(struct gateway *g)
{
	for (unsigned i = 0; i < STREAMS_MAX && accept_one(g); i++)
		;
}

/* ---- one query after another ---- */

enum step { STEP_ON, STEP_WAIT, STEP_CLOSE };

static enum step send_some(struct gateway *g, struct stream *s)
{
	ssize_t n = send(s->fd, s->out + s->out_at, s->out_len - s->out_at,
			 MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno == EAGAIN) {
		arm(g, s, EPOLLOUT);
		return STEP_WAIT;
	}
	if (n < 0)
		return STEP_CLOSE;
	s->out_at += (size_t)n;
	if (s->out_at == s->out_len)
		s->out_at = s->out_len = 0;
	return STEP_ON;
}

/* The length of the query at the front, 0 if its length is not there yet. */
static size_t query_len(const struct stream *s)
{
	return s->in_len < 2 ? 0 : (size_t)(s->in[0] << 8 | s->in[1]);
}

static enum step receive_some(struct gateway *g, struct stream *s)
{
	ssize_t n = recv(s->fd, s->in + s->in_len, sizeof(s->in) - s->in_len, MSG_DONTWAIT);

	if (n < 0 && errno == EAGAIN) {
		arm(g, s, EPOLLIN);
		return STEP_WAIT;
	}
	if (n <= 0)
		return STEP_CLOSE;
	s->in_len += (size_t)n;
	return STEP_ON;
}

static enum step take_query(struct gateway *g, struct stream *s, size_t len)
{
	struct client c = { .sandbox = s->sandbox, .stream = s };
	unsigned char query[DNS_QUERY_MAX];

	memcpy(query, s->in + 2, len);
	s->in_len -= 2 + len;
	memmove(s->in, s->in + 2 + len, s->in_len);
	return forward_query(g, &c, query, len) ? STEP_ON : STEP_CLOSE;
}

static enum step step(struct gateway *g, struct stream *s)
{
	size_t len = query_len(s);

	if (s->out_len)
		return send_some(g, s);
	if (s->flight) {
		arm(g, s, 0);
		return STEP_WAIT;
	}
	/* What does not fit the buffer ends here, so there is always room to receive. */
	if (s->in_len >= 2 && (len < DNS_HEADER_SIZE || len > DNS_QUERY_MAX))
		return STEP_CLOSE;
	if (s->in_len >= 2 && s->in_len >= 2 + len)
		return take_query(g, s, len);
	return receive_some(g, s);
}

static void run(struct gateway *g, struct stream *s)
{
	enum step next = STEP_ON;

	for (unsigned i = 0; i < STEPS_A_TURN && next == STEP_ON; i++)
		next = step(g, s);
	if (next == STEP_ON)
		arm(g, s, EPOLLOUT); /* comes at once, after the others */
	else if (next == STEP_CLOSE)
		close_stream(g, s);
}

void stream_reply(struct gateway *g, struct stream *s, const void *data, size_t len)
{
	s->out[0] = (unsigned char)(len >> 8);
	s->out[1] = (unsigned char)len;
	memcpy(s->out + 2, data, len);
	s->out_at = 0;
	s->out_len = 2 + len;
	s->deadline_ms = g->now_ms + STREAM_TIMEOUT_MS;
	/* Sent from the loop, not from here: whoever answers may be in the middle of a table. */
	arm(g, s, EPOLLOUT);
}

void stream_event(struct gateway *g, unsigned index, uint32_t events)
{
	struct stream *s = &g->stream[index % STREAMS_MAX];

	if (s->fd < 0 || index_of(g, s) != index)
		return; /* closed by an event before this one */
	if (events & (EPOLLHUP | EPOLLERR))
		close_stream(g, s);
	else
		run(g, s);
}

void stream_tick(struct gateway *g)
{
	for (struct stream *s = g->stream; s < g->stream + STREAMS_MAX; s++)
		if (s->fd >= 0 && !s->flight && g->now_ms >= s->deadline_ms)
			close_stream(g, s);
}
