/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * internal: what the files of http/ share about servers and requests; nobody else includes it.
 *
 * - server.c: MHD's daemons under the loop: pumping, MHD's callbacks, life of a request
 * - listen.c: sockets to listen on, accepting
 * - tls.c: certificates, what a connection needs for TLS, writing past MHD
 * - intake.c: a request coming in: headers, framing, routing, authorization, body
 * - request.c: accessors for handlers, memory of a request, streamed bodies in
 * - reply.c: answers: complete, streamed, and early (before the request's body has come in)
 * - buffers.c: how many bytes requests may hold together
 * - peers.c: connections: places and who leaves for a newcomer, time limits, ends of file that MHD
 *   misses
 * - handshake.c: whether a request may become a WebSocket
 * - websocket.c: what becomes of a request that is upgraded
 *
 * How a request waits. MHD (0.9.75) calls the handler when the request is complete and would call
 * it again at once unless the connection is suspended. A connection suspended straight after a read
 * is read again when it is resumed, and the end of file of a client that half-closed then kills it
 * before it is answered. So the first complete call only marks the request `parked`; MHD then stops
 * wanting to read, calls again in the same pump, and that second call suspends. It also saves the
 * useless read.
 */

#include "base/list.h"
#include "base/rand.h"
#include "http/http.h"
#include "http/router.h"
#include "loop/loop.h"

#include <microhttpd.h>
#include <stddef.h>

/* A body not wanted any more is read and dropped up to this size, so that the connection stays
 * usable. */
#define BODY_DISCARD_MAX (64 * 1024)
/* After an early reply that closes the connection: how much and how long the client may go on
 * sending. */
#define EARLY_DISCARD_MAX (16 * 1024 * 1024)
#define EARLY_LINGER_MS   15000
#define EARLY_IDLE_S      5
#define HEADERS_OUT_MAX   64
/* Buffers up to this size do not count against buffers_max. */
#define BUFFERS_SMALL (64 * 1024)

enum buffer_kind { BUFFER_BODY, BUFFER_REPLY, BUFFER_STREAM, BUFFER_KINDS };

/* A socket to listen on, and MHD's daemon for what is accepted on it (MHD speaks TLS on all
 * connections of a daemon or on none). */
struct listener {
	struct http_server *server;
	struct MHD_Daemon *mhd;
	struct http_tls *tls; /* NULL: plain */
	uint16_t port;
	int fd;
	struct loop_watch *door; /* newcomers */
	bool door_watched;
	struct loop_watch *watch; /* MHD's epoll descriptor */
};

enum { PLAIN, SECURE, LISTENERS };

struct http_server {
	struct listener listeners[LISTENERS]; /* mhd NULL: not in use */
	struct http_config config;
	char address[64];
	struct router *router;
	struct loop_timer *timer;
	int64_t timer_due_ms; /* 0: not armed */
	struct list requests;
	struct list peers;
	size_t peer_count;
	size_t buffered; /* the sum over all requests */
	/* Who may be cut for a newcomer, longest wait first: without and with an authorized request
	 * in the past. */
	struct list strangers;
	struct list regulars;
	struct list handshakes; /* peers whose handshake MHD is at */
	struct loop_timer *peer_timer;
	bool peer_timer_armed;
	struct list run_node; /* in the list of servers to pump later in this turn */
	bool in_run;
	bool rerun; /* a connection was resumed inside the pump */
	size_t upgrades_ending;
	bool stopping;
	unsigned char random[256];
	size_t random_left;
};

/* An open connection, between requests too. */
struct peer {
	struct http_server *server;
	struct list node; /* in http_server.peers */
	struct list
		seat; /* in strangers or regulars; alone while an authorized request is served */
	int fd;
	struct http_request *rq; /* the one it is at; NULL: its request line is not in yet */
	uint64_t requests;
	bool known; /* has had an authorized request */
	bool cut;
	bool gone;           /* an upgraded one, at the last look */
	int64_t upgraded_ms; /* its upgrade ended; what is left of it is being sent; 0: not */
	struct gnutls_session_int *tls; /* MHD's session; NULL: plain */
	struct tls_pair *pair;
	struct MHD_Connection *conn; /* of TLS */
	struct list handshake;       /* in http_server.handshakes */
	struct loop_watch *hello;    /* the client's part of the handshake is waited for */
	bool waits;                  /* for that, suspended */
	bool shook_hands;
	uint64_t taken_bytes; /* of the client's stream, before the head that is awaited */
	int64_t since_ms;     /* it waits for a request */
	int64_t head_ms;      /* a request's head is coming in; 0: not */
	/* The stretch over which the body's rate is looked at. */
	int64_t window_ms;
	uint64_t window_received;
};

struct header_out {
	struct header_out *next;
	const char *name;
	const char *value;
};

struct deferred {
	struct deferred *next;
	void (*fn)(void *arg);
	void *arg;
};

struct arena_block {
	struct arena_block *next;
	max_align_t data[];
};

/* Response body in pieces: a ring that grows up to HTTP_STREAM_QUEUE_MAX. */
struct stream {
	char *ring;
	size_t cap;
	size_t head;
	size_t len;
	int64_t length; /* -1: unknown */
	int64_t written;
	void (*drained)(void *arg);
	void *arg;
	bool high; /* at or above half since drained was last called */
	bool ended;
	bool aborted;
};

/* A reply that leaves past MHD while the request's body is still coming (reply.c). */
struct early {
	struct buf out;
	size_t sent;
	struct loop_watch *watch;
	struct loop_timer *timer;
	int64_t started_ms;
	uint64_t dropped;
	bool done;
};

struct http_request {
	struct list node;
	struct http_server *server;
	struct listener *listener;
	struct MHD_Connection *conn;
	struct peer *peer; /* NULL: there was no memory for it */
	struct router_match match;
	struct str method;
	struct str uri; /* as sent */
	struct str path;
	struct str query;
	const char *uri_at; /* where MHD holds it; compared, never read */
	int64_t started_ns;
	char id[UUID_TEXT_SIZE];
	char *base_url;
	void *caller;
	struct deferred *deferred;
	struct arena_block *blocks;
	char *arena;
	size_t arena_left;
	size_t buffered[BUFFER_KINDS]; /* of http_server.buffered, its share */

	/* the request's body */
	uint64_t content_length;
	uint64_t received;
	struct buf body; /* BUFFER: the body; STREAM: what the sink would not take yet */
	size_t (*sink)(void *arg, const char *data, size_t len);
	void *sink_arg;
	bool framed; /* headers have been examined */
	bool chunked;
	bool expect_continue;
	bool body_done; /* all of it has been received (or there is none) */
	bool in_sink;
	bool sink_again; /* http_body_resume() was called inside the sink */
	bool sink_ended;
	bool discard; /* drop what is still to come */

	/* the answer */
	int status;
	const char *content_type;
	struct header_out *headers;
	size_t header_count;
	const char *data;
	size_t data_len;
	char *owned;
	struct stream *stream;
	struct early *early;
	struct websocket *websocket; /* it is to be upgraded, or has been */
	bool http10;
	bool late;          /* refused for coming in too slowly: the rest is not waited for */
	bool minds_leaving; /* the end of what the client sends ends it */
	bool close_now;     /* framing cannot be trusted: answer, read nothing more */

	/* life */
	bool in_intake; /* inside one of the intake functions: they look after replies at their end
			 */
	bool handled;
	bool replied;
	bool queued;
	bool parked;
	bool suspended;
	bool killed;
	bool upgrade_ends;
	bool ended;
};

/* server.c */
/** server_schedule: pumps in this turn of the loop. */
void server_schedule(struct http_server *s);
/** server_pump: now; not from MHD's callbacks. */
void server_pump(struct http_server *s);
/** server_make_id: for a request or an answer. */
void server_make_id(struct http_server *s, char out[static UUID_TEXT_SIZE]);
/** request_wake: resumes a suspended connection and has MHD look at it in this turn of the loop. */
void request_wake(struct http_request *rq);
/** request_suspend: only inside MHD's callbacks. */
void request_suspend(struct http_request *rq);
/** request_kill: cuts the connection. */
void request_kill(struct http_request *rq);
int request_fd(const struct http_request *rq);
/** server_upgrade_ends: MHD has been told to close an upgraded connection. */
void server_upgrade_ends(struct http_request *rq);

/* buffers.c */
/** buffers_set: rq holds a buffer of this size now; false, and nothing has changed, if it is larger
 * than before and all requests together would hold more than buffers_max. */
bool buffers_set(struct http_request *rq, enum buffer_kind kind, size_t size);
/** buffers_full: answers that there is no room for it. */
void buffers_full(struct http_request *rq, enum buffer_kind kind);
void buffers_done(struct http_request *rq);

/* listen.c */
/** listener_open: listens on bound_fd (taken over, also on failure), or on a socket of its own for
 * -1. */
int listener_open(struct listener *l, int bound_fd, uint16_t port, struct err *e);
/** listener_close: while MHD's daemon still is there. */
void listener_close(struct listener *l);
/** doors_open: accepts again, if it has stopped. */
void doors_open(struct http_server *s);

/* tls.c */
/** TLS 1.2 and 1.3, forward secrecy, authenticated encryption. */
#define TLS_PRIORITIES                                                                             \
	"NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-KX-ALL:+ECDHE-ECDSA:+ECDHE-RSA:-CIPHER-ALL:"  \
	"+AES-128-GCM:+AES-256-GCM:+CHACHA20-POLY1305:-GROUP-ALL:+GROUP-X25519:+GROUP-SECP256R1:"  \
	"+GROUP-SECP384R1:%SERVER_PRECEDENCE"
/** tls_begin: session: MHD's for this connection; it gets our pair. -1: it cannot be served. */
int tls_begin(struct peer *p, const struct http_tls *t, struct MHD_Connection *conn,
	      struct gnutls_session_int *session);
/** tls_rest: after a run of MHD: takes connections from it that wait in their handshake. */
void tls_rest(struct http_server *s);
/** tls_rouse: gives them all back, for the end of the server. */
void tls_rouse(struct http_server *s);
void tls_end(struct peer *p);
/** peer_send: past MHD, as send(2) that never waits. */
ssize_t peer_send(struct peer *p, const void *data, size_t len);
/** peer_end_of_file: tells the client that nothing more comes. */
void peer_end_of_file(struct peer *p);

/* peers.c */
int peers_start(struct http_server *s, struct err *e);
void peers_stop(struct http_server *s);
bool peers_full(const struct http_server *s);
/** peers_make_room: cuts who has waited longest; false: all places are safe. */
bool peers_make_room(struct http_server *s);
struct peer *peer_new(struct http_server *s, int fd);
void peer_free(struct peer *p);
struct peer *peer_of(struct MHD_Connection *conn);
/** peers_watch: looks after time limits and doors every second as long as there is a need. */
void peers_watch(struct http_server *s);
void peer_begins(struct http_request *rq);
/** peer_head_done: authorized: its place is safe until the request is over. */
void peer_head_done(struct http_request *rq, bool authorized);
/** peer_awaits_head: all that has been read so far was before the next head. */
void peer_awaits_head(struct peer *p);
/** peer_body_window: the body's rate counts from here on. */
void peer_body_window(struct http_request *rq);
void peer_ends(struct http_request *rq);
/** peer_last_request: the connection has had as many requests as it may. */
bool peer_last_request(const struct http_request *rq);

/* intake.c: steps of MHD's access callback. */
enum MHD_Result intake_headers(struct http_request *rq, const char *method, const char *version);
enum MHD_Result intake_body(struct http_request *rq, const char *data, size_t len);
enum MHD_Result intake_complete(struct http_request *rq);

/* request.c */
bool request_no_body(const struct http_request *rq);
/** request_drop_body: what has been held of it. */
void request_drop_body(struct http_request *rq);
/** request_deliver: gives held bytes, then the end of the body, to the sink. */
void request_deliver(struct http_request *rq);
void *request_alloc(struct http_request *rq, size_t size);
void request_free_memory(struct http_request *rq);

/* reply.c */
enum MHD_Result reply_queue(struct http_request *rq);
/** reply_settle: decides how a reply leaves whose request body is still coming. */
void reply_settle(struct http_request *rq);
/** request_too_slow: 408 and the end of the connection. */
void request_too_slow(struct http_request *rq);
/** reply_upgrade: 101 for rq->websocket. */
void reply_upgrade(struct http_request *rq);
void early_free(struct early *early);
void stream_free(struct stream *stream);

/* handshake.c */
/** websocket_check: of a request that is to become a WebSocket; what its answer has to say. */
int websocket_check(struct http_request *rq, char ret_accept[static 32], struct err *e);
/** websocket_offers: whether the client would speak this subprotocol; not if NULL. */
bool websocket_offers(struct http_request *rq, const char *protocol);

/* websocket.c */
struct websocket;
/** websocket_begin: the 101 has left; early: what of the stream came with the head. */
void websocket_begin(struct websocket *ws, int fd, struct str early,
		     struct MHD_UpgradeResponseHandle *upgrade);
/** websocket_left: the client has closed the connection; all_read: nothing of what it has sent is
 * on its way. */
void websocket_left(struct websocket *ws, bool all_read);
/** websocket_going_away: tells the peer, if that goes at once. */
void websocket_going_away(struct websocket *ws);
