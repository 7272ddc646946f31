/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * raw_http: an HTTP client of one connection over a raw socket, for tests that care for bytes. It
 * lives in a forked child, while the server runs under the loop of the parent: CHECK() ends the
 * process. The includer calls clients_init() before it makes its server, and clients_done() at the
 * end. To be included after cmocka.h.
 */

#include "http/http.h"
#include "loop/loop.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			fprintf(stderr, "%s:%d: %s\n", __func__, __LINE__, #x);                    \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

struct conn {
	int fd;
	char in[200000];
	size_t len;
};

struct reply {
	int status;
	char head[8192];
	char *body;
	size_t len;
};

static struct conn conn;
static struct reply reply;

/* With RAW_HTTP_TLS all of a client's connections speak TLS, and so the same tests do. */
#ifdef RAW_HTTP_TLS

#include <gnutls/gnutls.h>

#define RAW_SCHEME "https"

static gnutls_session_t raw_sessions[20000]; /* by descriptor */
static gnutls_certificate_credentials_t raw_trust;
static const char *raw_ca_file;

static void raw_begin(int fd)
{
	gnutls_session_t *s = &raw_sessions[fd];

	if (!raw_trust) {
		CHECK(gnutls_certificate_allocate_credentials(&raw_trust) == 0);
		CHECK(gnutls_certificate_set_x509_trust_file(raw_trust, raw_ca_file,
							     GNUTLS_X509_FMT_PEM) == 1);
	}
	if (*s)
		gnutls_deinit(*s); /* the descriptor's number has been used before */
	CHECK(gnutls_init(s, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL) == 0);
	gnutls_set_default_priority(*s);
	gnutls_credentials_set(*s, GNUTLS_CRD_CERTIFICATE, raw_trust);
	gnutls_session_set_verify_cert(*s, "localhost", 0);
	gnutls_transport_set_int(*s, fd);
	int rc = gnutls_handshake(*s);

	if (rc < 0)
		fprintf(stderr, "handshake: %s\n", gnutls_strerror(rc));
	CHECK(rc == 0);
}

static inline ssize_t raw_send(int fd, const void *data, size_t len)
{
	size_t sent = 0;

	while (sent < len) {
		ssize_t n =
			gnutls_record_send(raw_sessions[fd], (const char *)data + sent, len - sent);

		if (n < 0)
			return sent ? (ssize_t)sent : -1;
		sent += (size_t)n;
	}
	return (ssize_t)sent;
}

static inline ssize_t raw_recv(int fd, void *data, size_t len)
{
	ssize_t n = gnutls_record_recv(raw_sessions[fd], data, len);

	return n == GNUTLS_E_PREMATURE_TERMINATION ? 0 : n;
}

static inline void raw_half_close(int fd)
{
	gnutls_bye(raw_sessions[fd], GNUTLS_SHUT_WR);
	shutdown(fd, SHUT_WR);
}

#else

#define RAW_SCHEME "http"

static inline void raw_begin(int fd)
{
	(void)fd;
}

static inline ssize_t raw_send(int fd, const void *data, size_t len)
{
	return send(fd, data, len, MSG_NOSIGNAL);
}

static inline ssize_t raw_recv(int fd, void *data, size_t len)
{
	return recv(fd, data, len, 0);
}

static inline void raw_half_close(int fd)
{
	shutdown(fd, SHUT_WR);
}

#endif

static void dial(uint16_t port)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct timeval limit = { 10, 0 };

	if (conn.fd > 0)
		close(conn.fd);
	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	conn.fd = socket(AF_INET, SOCK_STREAM, 0);
	conn.len = 0;
	setsockopt(conn.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
	CHECK(connect(conn.fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
	raw_begin(conn.fd);
}

static void put_n(const char *data, size_t len)
{
	while (len) {
		ssize_t n = raw_send(conn.fd, data, len);

		CHECK(n > 0);
		data += n;
		len -= (size_t)n;
	}
}

static void put(const char *text)
{
	put_n(text, strlen(text));
}

/* Reads on; false at the end. */
static bool fill(void)
{
	CHECK(conn.len < sizeof(conn.in));
	ssize_t n = raw_recv(conn.fd, conn.in + conn.len, sizeof(conn.in) - conn.len);

	CHECK(n >= 0);
	conn.len += (size_t)n;
	return n > 0;
}

static void eat(size_t n)
{
	memmove(conn.in, conn.in + n, conn.len - n);
	conn.len -= n;
}

static inline bool at_end(void)
{
	return !conn.len && !fill();
}

/* Status and headers of the next reply. */
static void get_head(void)
{
	char *end;

	while (!(end = memmem(conn.in, conn.len, "\r\n\r\n", 4)))
		CHECK(fill());
	size_t n = (size_t)(end - conn.in) + 4;

	CHECK(n < sizeof(reply.head));
	memcpy(reply.head, conn.in, n);
	reply.head[n] = '\0';
	eat(n);
	CHECK(sscanf(reply.head, "HTTP/1.1 %d", &reply.status) == 1);
	if (reply.status != 100)
		CHECK(strcasestr(reply.head, "\r\nx-ms-request-id: "));
}

static bool has(const char *header)
{
	return strcasestr(reply.head, header) != NULL;
}

static size_t chunk_size(void)
{
	char *end;

	while (!(end = memmem(conn.in, conn.len, "\r\n", 2)))
		CHECK(fill());
	size_t n = end == conn.in ? 0 : strtoul(conn.in, NULL, 16);

	eat((size_t)(end - conn.in) + 2);
	return n;
}

static void take_body(size_t n, bool keep)
{
	if (keep)
		reply.body = realloc(reply.body, reply.len + n + 1);
	while (n) {
		if (!conn.len)
			CHECK(fill());
		size_t now = conn.len < n ? conn.len : n;

		for (size_t i = 0; !keep && i < now; i++)
			CHECK(conn.in[i] == (char)('a' + (reply.len + i) % 23));
		if (keep)
			memcpy(reply.body + reply.len, conn.in, now);
		reply.len += now;
		eat(now);
		n -= now;
	}
	if (keep)
		reply.body[reply.len] = '\0';
}

/* A whole reply. The body is kept, or (large ones) compared with the pattern of /download. */
static int get_reply(bool keep)
{
	char *length;

	get_head();
	reply.len = 0;
	take_body(0, true);
	length = strcasestr(reply.head, "\r\nContent-Length: ");
	if (length) {
		take_body(strtoul(length + 18, NULL, 10), keep);
	} else if (has("Transfer-Encoding: chunked")) {
		size_t n;

		while ((n = chunk_size())) {
			take_body(n, keep);
			CHECK(chunk_size() == 0); /* the line break after the chunk */
		}
		CHECK(chunk_size() == 0);
	}
	return reply.status;
}

static inline int ask(const char *request)
{
	put(request);
	return get_reply(true);
}

static inline bool said(const char *text)
{
	return strcmp(reply.body, text) == 0;
}

static inline bool error_code(const char *code)
{
	char body[100];
	char head[100];

	snprintf(body, sizeof(body), "{\"error\":{\"code\":\"%s\",\"message\":\"", code);
	snprintf(head, sizeof(head), "\r\nx-ms-error-code: %s\r\n", code);
	return strncmp(reply.body, body, strlen(body)) == 0 &&
	       strstr(reply.body, "\"traceId\":\"") && has(head) &&
	       has("\r\nContent-Type: application/json");
}

/* ---- running a client ---- */

static struct loop_timer *watchdog;
static int client_status;
static pid_t client_pid;

static void child_done(int signum)
{
	(void)signum;
	if (client_pid > 0 && waitpid(client_pid, &client_status, WNOHANG) > 0) {
		client_pid = 0;
		loop_stop();
	}
}

static void too_slow(void *arg)
{
	(void)arg;
	fprintf(stderr, "the client hangs\n");
	if (client_pid > 0) {
		kill(client_pid, SIGKILL);
		waitpid(client_pid, NULL, 0);
		client_pid = 0;
	}
	client_status = -1;
	loop_stop();
}

static int clients_init(struct err *e)
{
	if (loop_init(e) < 0 || loop_signal(SIGCHLD, child_done, e) < 0)
		return -1;
	watchdog = loop_timer_new(too_slow, NULL);
	return 0;
}

/* A server of these routes; NULL: it did not start. */
static inline struct http_server *clients_serve(const struct http_config *config,
						const struct http_route *routes, size_t count,
						uint16_t *ret_port, struct err *e)
{
	struct http_server *server = http_server_new(config, ret_port, e);

	if (!server || http_server_routes(server, routes, count, NULL, e) < 0)
		fprintf(stderr, "%s\n", e->msg);
	else
		return server;
	http_server_free(server);
	return NULL;
}

static void clients_done(void)
{
	loop_timer_free(watchdog);
	loop_done();
}

static void run_client(void **state)
{
	void (*fn)(void) = *(void (**)(void)) * state;

	client_pid = fork();
	if (!client_pid) {
		fn();
		_exit(0);
	}
	assert_true(client_pid > 0);
	client_status = -1;
	loop_timer_start(watchdog, 120000);
	loop_run();
	loop_timer_stop(watchdog);
	assert_int_equal(client_status, 0);
}

/** client: the row of client_<fn>() in a table of tests. */
#define client(fn)                                                                                 \
	{                                                                                          \
#fn, run_client, NULL, NULL, &(void (*)(void))                                     \
		{                                                                                  \
			client_##fn                                                                \
		}                                                                                  \
	}
