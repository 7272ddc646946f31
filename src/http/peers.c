/* SPDX-License-Identifier: Apache-2.0 */
#include "http/internal.h"

#include "base/clock.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/*
 * Open connections: who may be cut for a newcomer, who takes too long, and who has left unseen.
 *
 * SECURITY: a connection costs a descriptor, a few pages and one of connections_max places, and
 * anybody may open one. So a place is only safe while an authorized request is being served on it:
 * the others leave, longest wait first, when somebody new is at the door; first those who never had
 * an authorized request (whatever part of a head they have sent), then idle ones who had.
 */

#define PEER_CHECK_MS 1000
#define PEERS_AT_ONCE 256

/* ---- places ---- */

bool peers_full(const struct http_server *s)
{
	return s->peer_count >= s->config.connections_max;
}

static void take_seat(struct http_server *s, struct peer *p)
{
	list_remove(&p->seat);
	list_add_tail(p->known ? &s->regulars : &s->strangers, &p->seat);
	p->since_ms = clock_mono_ms();
	doors_open(s); /* who waits there may take it */
}

static void cut(struct peer *p)
{
	list_remove(&p->seat);
	p->cut = true;
	if (p->rq)
		request_kill(p->rq);
	else
		shutdown(p->fd, SHUT_RDWR); /* MHD meets the end of file and closes */
}

bool peers_make_room(struct http_server *s)
{
	struct list *from = list_empty(&s->strangers) ? &s->regulars : &s->strangers;

	if (list_empty(from))
		return false;
	cut(list_first(from, struct peer, seat));
	return true;
}

/* ---- peers that have closed ---- */

/*
 * MHD 0.9.75 polls edge-triggered and takes a short read for "nothing more to read". Where the last
 * bytes and the end of file came before that read, no further edge tells of the end, and a client
 * that left in the middle of a request would keep its connection until the idle timeout. So a slow
 * timer looks for ends of file nobody has read; shutdown() of the receiving side, which is shut
 * down by then, changes nothing but makes another edge.
 */

/*
 * A complete request is left alone: its client may have closed its half and wait for the answer,
 * which MHD drops when it reads the end of file. A suspended connection is read when it is resumed.
 */
static bool peer_is_read(const struct peer *p)
{
	const struct http_request *rq = p->rq;

	if (!rq)
		return true;
	return !rq->body_done && !rq->suspended && !rq->queued && (!rq->early || rq->early->done);
}

static void wake_closed(struct pollfd *fds, nfds_t count)
{
	if (poll(fds, count, 0) <= 0)
		return;
	for (nfds_t i = 0; i < count; i++)
		if (fds[i].revents & POLLRDHUP)
			shutdown(fds[i].fd, SHUT_RD);
}

/* Its request is waited for by nobody any more (http_mind_leaving). */
static void check_leaving(const struct peer *p)
{
	struct pollfd fd = { .fd = p->fd, .events = POLLRDHUP };

	if (poll(&fd, 1, 0) > 0 && fd.revents)
		request_kill(p->rq);
}

/* ---- peers that take too long ---- */

/* MHD does not say when a head begins, only when its first line is in; TCP counts its bytes. */
static bool bytes_received(const struct peer *p, uint64_t *ret)
{
	struct tcp_info info;
	socklen_t len = sizeof(info);

	if (getsockopt(p->fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ||
	    len < offsetof(struct tcp_info, tcpi_bytes_received) + sizeof(info.tcpi_bytes_received))
		return false;
	*ret = info.tcpi_bytes_received;
	return true;
}

static bool head_has_begun(const struct peer *p)
{
	uint64_t bytes;

	return bytes_received(p, &bytes) && bytes > p->taken_bytes;
}

/* In this order: what comes between the two looks like the next head's, which it is. */
void peer_awaits_head(struct peer *p)
{
	uint64_t bytes;
	int unread = 0;

	if (bytes_received(p, &bytes) && ioctl(p->fd, FIONREAD, &unread) == 0)
		p->taken_bytes = bytes - (uint64_t)unread;
}

/* Nothing of an answer has been sent yet, so it can be written past MHD. */
static void refuse_head(struct http_server *s, struct peer *p)
{
	struct err e = ERR_INIT;
	char body[ERR_MSG_MAX + 100];
	char text[ERR_MSG_MAX + 400];
	char id[UUID_TEXT_SIZE];

	server_make_id(s, id);
	err_set(&e, ERR_TIMEOUT, "the request's headers were not complete within %u seconds",
		s->config.head_timeout_s);
	int length = snprintf(body, sizeof(body),
			      "{\"error\":{\"code\":\"%s\",\"message\":\"%s\",\"traceId\":\"%s\"}}",
			      err_api_code(e.code), e.msg, p->rq ? p->rq->id : id);
	int n = snprintf(text, sizeof(text),
			 "HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n"
			 "Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n"
			 "x-ms-request-id: %s\r\nx-ms-error-code: %s\r\n\r\n%s",
			 length, p->rq ? p->rq->id : id, err_api_code(e.code), body);

	peer_send(p, text, (size_t)n);
	if (p->rq)
		p->rq->status = 408;
	cut(p);
}

static void check_head(struct http_server *s, struct peer *p, int64_t now)
{
	if (!p->head_ms && !p->rq && now - p->since_ms >= PEER_CHECK_MS && head_has_begun(p))
		p->head_ms = now - PEER_CHECK_MS;
	if (p->head_ms && now - p->head_ms > (int64_t)s->config.head_timeout_s * 1000)
		refuse_head(s, p);
}

/* Not even TLS has begun, or it does not get on. There is no way to answer. */
static void check_handshake(struct http_server *s, struct peer *p, int64_t now)
{
	if (now - p->since_ms > (int64_t)s->config.head_timeout_s * 1000)
		cut(p);
}

static void check_body(struct http_server *s, struct peer *p, int64_t now)
{
	struct http_request *rq = p->rq;
	const int64_t window_ms = (int64_t)s->config.body_window_s * 1000;

	if (rq->body_done || rq->queued || rq->early)
		return;
	if (rq->suspended) {
		peer_body_window(rq); /* it is we who do not read */
		return;
	}
	if (now - p->window_ms < window_ms)
		return;
	if (rq->received - p->window_received >= s->config.body_rate_min * s->config.body_window_s)
		peer_body_window(rq);
	else
		request_too_slow(rq);
}

/*
 * An upgraded connection is its WebSocket's, but over TLS MHD keeps the end of file to itself, and
 * a paused one reads nothing. What is left to be sent at its end may stay there for a while only.
 */
static void check_upgraded(struct peer *p, int64_t now)
{
	struct pollfd fd = { .fd = p->fd, .events = POLLRDHUP };
	int unread = 0;

	if (p->upgraded_ms) {
		if (now - p->upgraded_ms > EARLY_LINGER_MS)
			shutdown(p->fd, SHUT_RDWR);
		return;
	}
	if (poll(&fd, 1, 0) <= 0)
		return;
	/* What MHD has read it has handed on by the second look. Behind a reset nothing comes. */
	ioctl(p->fd, FIONREAD, &unread);
	websocket_left(p->rq->websocket,
		       p->gone && (!unread || (fd.revents & (POLLERR | POLLHUP))));
	p->gone = true;
}

static void on_peer_timer(void *arg)
{
	struct http_server *s = arg;
	struct pollfd fds[PEERS_AT_ONCE];
	nfds_t count = 0;
	int64_t now = clock_mono_ms();

	s->peer_timer_armed = false;
	list_each(&s->peers, struct peer, node, p) {
		if (p->rq && p->rq->websocket && p->rq->queued)
			check_upgraded(p, now);
		if (p->cut)
			continue;
		if (p->tls && !p->shook_hands)
			check_handshake(s, p, now);
		else if (!p->rq || !p->rq->framed)
			check_head(s, p, now);
		else
			check_body(s, p, now);
		if (!p->cut && p->rq && p->rq->minds_leaving)
			check_leaving(p);
		if (p->cut || !peer_is_read(p))
			continue;
		fds[count++] = (struct pollfd){ .fd = p->fd, .events = POLLRDHUP };
		if (count == PEERS_AT_ONCE) {
			wake_closed(fds, count);
			count = 0;
		}
	}
	wake_closed(fds, count);
	doors_open(s);
	if (!list_empty(&s->peers))
		peers_watch(s);
}

void peers_watch(struct http_server *s)
{
	if (s->peer_timer_armed || !s->peer_timer)
		return;
	s->peer_timer_armed = true;
	loop_timer_start(s->peer_timer, PEER_CHECK_MS);
}

/* ---- life of a connection ---- */

int peers_start(struct http_server *s, struct err *e)
{
	s->peer_timer = loop_timer_new(on_peer_timer, s);
	return s->peer_timer ? 0 : err_set(e, ERR_NOMEM, "out of memory");
}

void peers_stop(struct http_server *s)
{
	loop_timer_free(s->peer_timer);
	s->peer_timer = NULL;
}

struct peer *peer_new(struct http_server *s, int fd)
{
	struct peer *p = calloc(1, sizeof(*p));

	if (!p)
		return NULL;
	p->server = s;
	p->fd = fd;
	list_init(&p->seat);
	list_init(&p->handshake);
	list_add_tail(&s->peers, &p->node);
	s->peer_count++;
	take_seat(s, p);
	peers_watch(s);
	return p;
}

void peer_free(struct peer *p)
{
	if (!p)
		return;
	list_remove(&p->node);
	list_remove(&p->seat);
	p->server->peer_count--;
	doors_open(p->server);
	tls_end(p);
	free(p);
}

void peer_begins(struct http_request *rq)
{
	struct peer *p = rq->peer;

	if (!p)
		return;
	p->rq = rq;
	p->requests++;
	if (!p->head_ms)
		p->head_ms = clock_mono_ms();
}

void peer_head_done(struct http_request *rq, bool authorized)
{
	struct peer *p = rq->peer;

	if (!p)
		return;
	p->head_ms = 0;
	peer_body_window(rq);
	/* SECURITY: who shows no token is served as long as there is room. */
	if (authorized) {
		p->known = true;
		list_remove(&p->seat);
	}
}

void peer_body_window(struct http_request *rq)
{
	struct peer *p = rq->peer;

	if (!p)
		return;
	p->window_ms = clock_mono_ms();
	p->window_received = rq->received;
}

void peer_ends(struct http_request *rq)
{
	struct peer *p = rq->peer;

	if (!p)
		return;
	p->rq = NULL;
	p->head_ms = 0;
	if (!p->cut)
		take_seat(rq->server, p);
}

bool peer_last_request(const struct http_request *rq)
{
	return rq->peer && rq->peer->requests >= rq->server->config.requests_max;
}
