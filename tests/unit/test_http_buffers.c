/* SPDX-License-Identifier: Apache-2.0 */

/* What requests may hold together: bodies, replies that are not read, streamed replies. */

#include "base/own.h"
#include "http/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <signal.h>

#include "raw_http.h"

/* More than the sockets between a server and a client that does not read can take. */
#define ALL   (32u << 20)
#define SMALL 65536u
/* A body one byte shorter than this has a buffer of just this size. */
#define BODY 131072u

static struct http_server *server;
static size_t taken; /* by the last /flow before anything of it was read */
static uint16_t port;

/* ---- the server's side ---- */

static void big(struct http_request *rq, void *ctx)
{
	struct str n;
	uint64_t size = 0;

	(void)ctx;
	if (http_query(rq, "n", &n))
		str_to_u64(n, 2 * ALL, &size);
	char *data = malloc(size + 1);

	if (!data)
		abort();
	for (size_t i = 0; i < size; i++)
		data[i] = (char)('a' + i % 23);
	http_reply_owned(rq, 200, "text/plain", data, size);
}

static void hello(struct http_request *rq, void *ctx)
{
	(void)ctx;
	http_reply(rq, 200, "text/plain", "hello", 5);
}

struct flow {
	struct http_request *rq;
	size_t sent;
};

static void flow_on(void *arg)
{
	struct flow *f = arg;
	char piece[50000];

	while (f->sent < 4 * SMALL) {
		size_t want = 4 * SMALL - f->sent;

		if (want > sizeof(piece))
			want = sizeof(piece);
		for (size_t i = 0; i < want; i++)
			piece[i] = (char)('a' + (f->sent + i) % 23);
		size_t n = http_stream_write(f->rq, piece, want);

		f->sent += n;
		if (n < want)
			return;
	}
	http_stream_end(f->rq);
}

static void flow(struct http_request *rq, void *ctx)
{
	struct flow *f = http_alloc(rq, sizeof(*f));
	struct err e = ERR_INIT;

	(void)ctx;
	f->rq = rq;
	if (http_stream_begin(rq, 200, "text/plain", 4 * SMALL, flow_on, f, &e) == 0)
		flow_on(f);
	taken = f->sent;
}

static void flow_taken(struct http_request *rq, void *ctx)
{
	char *text = str_printf("%zu", taken);

	(void)ctx;
	http_reply_owned(rq, 200, "text/plain", text, strlen(text));
}

static const struct http_route routes[] = {
	{ "GET", "/big", big, HTTP_BODY_NONE, NULL, "" },
	{ "POST", "/big", big, HTTP_BODY_NONE, NULL, "" },
	{ "POST", "/body", hello, HTTP_BODY_BUFFER, NULL, "" },
	{ "GET", "/flow", flow, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/taken", flow_taken, HTTP_BODY_NONE, NULL, "" },
};

/* ---- what clients do ---- */

/* A connection whose reply of n bytes has begun and is not read. */
static int unread(size_t n)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	int little = 4096;
	char text[100];
	char byte;

	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
	CHECK(connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
	int len = snprintf(text, sizeof(text), "GET /big?n=%zu HTTP/1.1\r\nHost: h\r\n\r\n", n);

	CHECK(send(fd, text, (size_t)len, MSG_NOSIGNAL) == len);
	CHECK(recv(fd, &byte, 1, 0) == 1);
	return fd;
}

static int ask_big(const char *method, size_t n)
{
	char text[100];

	dial(port);
	snprintf(text, sizeof(text), "%s /big?n=%zu HTTP/1.1\r\nHost: h\r\n\r\n", method, n);
	put(text);
	get_head();
	reply.len = 0;
	take_body(strtoul(strcasestr(reply.head, "\r\nContent-Length: ") + 18, NULL, 10),
		  reply.status != 200);
	return reply.status;
}

static int ask_body(size_t n)
{
	char *body = calloc(1, n);
	char text[100];

	dial(port);
	snprintf(text, sizeof(text),
		 "POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n", n);
	put(text);
	put_n(body, n);
	free(body);
	return get_reply(true);
}

static void refused(bool again)
{
	CHECK(reply.status == 503);
	CHECK(error_code("ServiceUnavailable"));
	CHECK(strstr(reply.body, "--buffers-max"));
	CHECK(has("\r\nRetry-After: 1\r\n") == again);
}

static void client_replies(void)
{
	int fd = unread(ALL);

	ask_big("GET", SMALL + 1);
	refused(true);
	CHECK(ask_big("GET", SMALL) == 200 && reply.len == SMALL);
	/* What has been done must not be done again. */
	ask_big("POST", SMALL + 1);
	refused(false);
	close(fd);
	while (ask_big("GET", SMALL + 1) != 200)
		usleep(10000);
	CHECK(reply.len == SMALL + 1);
	/* Alone it may have everything, and no more. */
	CHECK(ask_big("GET", ALL) == 200 && reply.len == ALL);
	ask_big("GET", ALL + 1);
	refused(true);
}

static void client_bodies(void)
{
	int fd = unread(ALL - BODY);

	for (int i = 0; i < 3; i++) {
		CHECK(ask_body(BODY - 1) == 200);
		ask_body(BODY);
		refused(true);
	}
	close(fd);
	while (ask_body(BODY) != 200)
		usleep(10000);
	fd = unread(ALL);
	ask_body(BODY - 1);
	refused(true);
	CHECK(ask_body(SMALL / 2) == 200);
	close(fd);
}

static void get_flow(const char *expected)
{
	dial(port);
	put("GET /flow HTTP/1.1\r\nHost: h\r\n\r\n");
	CHECK(get_reply(false) == 200);
	CHECK(reply.len == 4 * SMALL);
	CHECK(ask("GET /taken HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
	CHECK(said(expected));
}

/* Its queue is shorter, and all of it arrives. */
static void client_streams(void)
{
	get_flow("262144");
	int fd = unread(ALL);

	get_flow("65536");
	close(fd);
}

/* ---- frame ---- */

static int setup(void **state)
{
	struct http_config config = {
		.address = "127.0.0.1",
		.body_max = 2 * ALL,
		.buffers_max = ALL,
	};
	struct err e = ERR_INIT;

	(void)state;
	if (clients_init(&e) < 0)
		return -1;
	server = clients_serve(&config, routes, ARRAY_LEN(routes), &port, &e);
	return server ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	http_server_free(server);
	clients_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		client(replies),
		client(bodies),
		client(streams),
	};

	return cmocka_run_group_tests_name("http_buffers", tests, setup, teardown);
}
