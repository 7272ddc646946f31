/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * websocket: the server's end of a WebSocket (RFC 6455), over libwslay, on an upgraded request.
 *
 * Bounded: a message that comes in may have message_max bytes (larger: close 1009), what waits to
 * go out is at most queue_max. Pings are answered; a silent peer is pinged every 30 s and dropped
 * when it has not answered for 60. Text must be UTF-8 (else 1007); control frames, masks and
 * fragments are checked by the library. No extension is negotiated.
 *
 * SECURITY: a browser sends cookies but no Authorization header with a WebSocket; as there are no
 * cookies, a page of another origin has nothing to ride on. Browsers may carry the token as a
 * subprotocol (websocket_bearer).
 */

#include "http/http.h"

struct websocket;

struct websocket_events {
	/** message: complete; data is valid during the call. After websocket_pause() none comes
	 * until websocket_resume(). */
	void (*message)(void *arg, bool text, struct str data);
	/** drained: the queue is below half again after a send that did not fit. */
	void (*drained)(void *arg);
	/** closed: exactly once, the last callback; code: what the peer sent, 1006 without one. */
	void (*closed)(void *arg, int code);
};

struct websocket_config {
	const char *protocol; /* subprotocol to choose if the client offers it; NULL: none */
	size_t message_max;
	size_t queue_max;
	unsigned ping_s; /* default 30; twice that without an answer ends it */
};

/** websocket_wanted: the request asks for an upgrade to WebSocket version 13. */
bool websocket_wanted(struct http_request *rq);
/** websocket_bearer: a token offered as subprotocol
 * "base64url.bearer.authorization.bivouac.<base64url>", as Kubernetes does it. */
bool websocket_bearer(struct http_request *rq, char *buf, size_t size);
/**
 * websocket_accept: answers 101. From now on the request belongs to the WebSocket: its deferred
 * functions run when it is closed. On error nothing has been answered.
 */
struct websocket *websocket_accept(struct http_request *rq, const struct websocket_config *config,
				   const struct websocket_events *ev, void *arg, struct err *e);
/** websocket_room: bytes that fit the queue. */
size_t websocket_room(const struct websocket *ws);
/** websocket_send: false if it does not fit (drained follows) or the peer is gone. */
bool websocket_send(struct websocket *ws, bool text, struct str data);
void websocket_pause(struct websocket *ws);
void websocket_resume(struct websocket *ws);
/** websocket_close: says goodbye after what is queued; `closed` follows. */
void websocket_close(struct websocket *ws, int code, const char *reason);
