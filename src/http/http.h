/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * http: the server, on libmicrohttpd in external-epoll mode under the daemon's loop, and the
 * router.
 *
 * A request is owned by the server from its first header to the end of its response, or to the loss
 * of its client. A handler runs on the loop when the headers are in (body mode STREAM), or when
 * headers and whole body are in (NONE, BUFFER). It answers at once, or returns and answers later
 * from any loop callback: until then the connection is suspended and costs nothing. A handler that
 * keeps the pointer must register http_defer(): the deferred functions run exactly once when the
 * request ends for whatever reason, and after them the pointer is dead.
 *
 * Paths: split at '/', empty segments dropped ("//" collapses), each segment percent-decoded once
 * after splitting (so %2F stays inside its segment). Segments that decode to NUL bytes or invalid
 * UTF-8 are refused with 400. Query keys compare case-insensitively, values are percent-decoded
 * once, '+' stays '+'. Header names are case-insensitive. Every response carries `x-ms-request-id`.
 *
 * At connections_max a newcomer takes the place of the connection that has waited longest without
 * an authorized request, those that never had one first. A place with an authorized request on it
 * is safe; if all have one, newcomers wait.
 */

#include "base/err.h"
#include "base/str.h"

#include <stdint.h>

struct http_server;
struct http_request;

enum http_body { HTTP_BODY_NONE, HTTP_BODY_BUFFER, HTTP_BODY_STREAM };

/**
 * One row of a route table. pattern: "/a/{name}/b", literals match case-insensitively; a last
 * segment
 * "{name*}" takes all remaining segments (at least one), joined by '/'. Rows are tried in order; a
 * path that matches rows of other methods only is 405 with Allow.
 */
struct http_route {
	const char *method; /* "GET", … or "*" */
	const char *pattern;
	void (*handler)(struct http_request *rq, void *ctx);
	enum http_body body;
	const char *permission; /* handed to the authorize hook; NULL: open to all */
	const char *summary;    /* for the OpenAPI document */
};

struct http_config {
	const char *address; /* "127.0.0.1" */
	uint16_t port;       /* 0 picks one */
	int socket_fd; /* from http_bind(), taken over, also on failure; 0: the server binds one */
	int tls_socket_fd;      /* from http_bind(), taken over as well: served with tls; 0: none */
	struct http_tls *tls;   /* borrowed */
	size_t connections_max; /* default 4096; both sockets together */
	size_t connection_memory; /* bytes for request line and headers of one connection; default
				     32 KiB */
	unsigned idle_timeout_s;  /* default 75 */
	unsigned head_timeout_s;  /* from a head's first byte to its last; default 15; 408 */
	unsigned body_window_s;   /* default 30: in each such stretch a body must bring */
	uint64_t body_rate_min;   /* so many bytes a second, unless we pause it; 0: any; 408 */
	uint64_t requests_max;    /* per connection; default 100 000; then it is closed */
	size_t body_max;          /* of BUFFER bodies; default 4 MiB; larger is 413 */
	/**
	 * buffers_max: bytes of BUFFER bodies, of replies (http_reply_owned) and of streamed
	 * replies that all requests hold together; default 512 MiB. What would take more is 503
	 * with Retry-After, or for streams a shorter queue. Buffers up to 64 KiB do not count.
	 */
	size_t buffers_max;
	/**
	 * authorize: called with the headers, before any byte of the body is read; -1 refuses with
	 * e. A 401 is answered as the real service does: empty body and WWW-Authenticate.
	 */
	int (*authorize)(struct http_request *rq, const struct http_route *route, void *ctx,
			 struct err *e);
	/** finished: once per request, for the access log; may be NULL. */
	void (*finished)(struct http_request *rq, int status, int64_t duration_us, void *ctx);
	void *ctx;
};

/**
 * http_tls: certificate chain and private key (PEM) for a TLS listener: TLS 1.2 and 1.3, ALPN
 * http/1.1. http_tls_reload takes effect for connections that begin later; on failure the old pair
 * stays in use. Free it after the server.
 */
struct http_tls *http_tls_new(const char *certificate_pem, const char *key_pem, struct err *e);
int http_tls_reload(struct http_tls *t, const char *certificate_pem, const char *key_pem,
		    struct err *e);
/** http_tls_expires: when the server's certificate does, seconds since the epoch. */
int64_t http_tls_expires(const struct http_tls *t);
void http_tls_free(struct http_tls *t); /* accepts NULL */
/** http_bind: a socket for http_config.socket_fd, for processes that may not bind later. Does not
 * listen. */
int http_bind(const char *address, uint16_t port, int *ret_fd, struct err *e);
/** http_server_new: binds and listens; *ret_port is the bound port. */
struct http_server *http_server_new(const struct http_config *config, uint16_t *ret_port,
				    struct err *e);
/** http_tls_port: of the TLS listener; 0 without one. */
uint16_t http_tls_port(const struct http_server *s);
/** http_server_routes: adds a table (not copied, must outlive the server); ctx goes to its
 * handlers. */
int http_server_routes(struct http_server *s, const struct http_route *routes, size_t count,
		       void *ctx, struct err *e);
/**
 * http_server_free: ends all requests (their deferred functions run) and closes all sockets. Not
 * from a handler, a sink or a deferred function.
 */
void http_server_free(struct http_server *s);

/* Reading a request. Views live as long as the request. */
struct str http_method(const struct http_request *rq);
struct str http_path(const struct http_request *rq);         /* raw, without query */
struct str http_query_string(const struct http_request *rq); /* raw, without '?' */
const struct http_route *http_route(const struct http_request *rq);
/** http_param: decoded path segment named in the pattern; empty view if the pattern has no such
 * name. */
struct str http_param(const struct http_request *rq, const char *name);
bool http_query(const struct http_request *rq, const char *key, struct str *ret);
bool http_header(const struct http_request *rq, const char *name, struct str *ret);
void http_each_header(const struct http_request *rq,
		      void (*fn)(void *arg, struct str name, struct str value), void *arg);
struct str http_body(const struct http_request *rq); /* BUFFER only */
/** http_base_url: "http://host:port", or https, as the caller named the server (Host header, else
 * the bound address). */
const char *http_base_url(struct http_request *rq);
const char *http_request_id(const struct http_request *rq);
int64_t http_started_ns(const struct http_request *rq); /* monotonic */
/** Slot for the authorize hook to leave the caller's identity in (freed by its own http_defer). */
void http_set_caller(struct http_request *rq, void *caller);
void *http_caller(const struct http_request *rq);

/** http_alloc: zeroed memory freed with the request; NULL when out. */
void *http_alloc(struct http_request *rq, size_t size);
int http_defer(struct http_request *rq, void (*fn)(void *arg), void *arg);
/**
 * http_mind_leaving: of a request whose body is in. A client that closes its connection before the
 * answer is there cannot be told from one that will send no more and reads on; without this both
 * are answered. With it both have left, and the request ends within a second or two.
 */
void http_mind_leaving(struct http_request *rq);

/* Streaming request bodies (STREAM only). */
/**
 * http_body_sink: chunks arrive at fn as they come; fn returns how many bytes it took. Less than
 * len pauses the client until http_body_resume(), which may call fn before it returns. len 0 with
 * data NULL is the end of the body. Called at most once per request, in the handler or later (the
 * body waits). A complete reply given before the end stops the body: what is still to come is
 * dropped, and unless that is little (64 KiB announced) the connection is closed after the reply. A
 * streamed reply begun before the end leaves when the body has come in; if it is ended (and so all
 * in the queue) before that, it is a complete reply.
 */
void http_body_sink(struct http_request *rq, size_t (*fn)(void *arg, const char *data, size_t len),
		    void *arg);
void http_body_resume(struct http_request *rq);

/* Answering. Exactly one of http_reply*, http_stream_begin per request. */
/**
 * http_set_header: replaces, http_add_header: adds another of that name. -1 for names and values
 * that are not allowed (line breaks; Content-Length and Transfer-Encoding, which are the server's),
 * or after the reply.
 */
int http_set_header(struct http_request *rq, const char *name, const char *value);
int http_add_header(struct http_request *rq, const char *name, const char *value);
void http_reply(struct http_request *rq, int status, const char *content_type, const void *data,
		size_t len); /* copies */
void http_reply_owned(struct http_request *rq, int status, const char *content_type, char *data,
		      size_t len); /* takes data, frees it with free() */
void http_reply_empty(struct http_request *rq, int status);
/** http_reply_err: {"error":{"code","message","traceId"}} with the status and code of e,
 * x-ms-error-code. */
void http_reply_err(struct http_request *rq, const struct err *e);
bool http_replied(const struct http_request *rq);

/**
 * http_stream_begin: response body in pieces. length is exact, or -1 for chunked encoding.
 * `drained` is called when the queue has run below half of HTTP_STREAM_QUEUE_MAX after it was above
 * or a write was cut short; http_stream_write takes as many bytes as fit into the queue and returns
 * their number (all of them when nobody will read them: HEAD, or the client is gone).
 * http_stream_end closes in order, http_stream_abort cuts the connection so that the client sees a
 * broken transfer.
 */
#define HTTP_STREAM_QUEUE_MAX (256 * 1024)
int http_stream_begin(struct http_request *rq, int status, const char *content_type, int64_t length,
		      void (*drained)(void *arg), void *arg, struct err *e);
size_t http_stream_write(struct http_request *rq, const void *data, size_t len);
void http_stream_end(struct http_request *rq);
void http_stream_abort(struct http_request *rq);
/** http_stream_hold: so many bytes wait outside the queue for room in it, and count in buffers_max;
 * false, and not counted, if there is no room for them. */
bool http_stream_hold(struct http_request *rq, size_t bytes);
