/* SPDX-License-Identifier: Apache-2.0 */

/* Places for connections, and how long heads and bodies may take. */

#include "base/own.h"
#include "http/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>

#include "raw_http.h"

#define PLACES       4
#define REQUESTS_MAX 3
#define NAP_MS       4500

static struct http_server *server;
static uint16_t port;

/* ---- the server's side ---- */

static int authorize(struct http_request *rq, const struct http_route *route, void *ctx,
		     struct err *e)
{
	struct str token;

	(void)ctx;
	if (!route->permission || http_header(rq, "Authorization", &token))
		return 0;
	return err_set(e, ERR_UNAUTHORIZED, "no token");
}

static void hello(struct http_request *rq, void *ctx)
{
	(void)ctx;
	http_reply(rq, 200, "text/plain", "hello", 5);
}

static void hang(struct http_request *rq, void *ctx)
{
	(void)rq;
	(void)ctx;
}

struct pause {
	struct http_request *rq;
	struct loop_timer *timer;
	bool over;
};

static void pause_done(void *arg)
{
	loop_timer_free(((struct pause *)arg)->timer);
}

static struct pause *pause_begin(struct http_request *rq, void (*over)(void *arg), int64_t ms)
{
	struct pause *p = http_alloc(rq, sizeof(*p));

	p->rq = rq;
	p->timer = loop_timer_new(over, p);
	http_defer(rq, pause_done, p);
	loop_timer_start(p->timer, ms);
	return p;
}

static void nap_over(void *arg)
{
	http_reply(((struct pause *)arg)->rq, 200, "text/plain", "hello", 5);
}

static void nap(struct http_request *rq, void *ctx)
{
	(void)ctx;
	pause_begin(rq, nap_over, NAP_MS);
}

/* Takes nothing for a while, then everything. */

static void pause_over(void *arg)
{
	struct pause *p = arg;

	p->over = true;
	http_body_resume(p->rq);
}

static size_t pause_sink(void *arg, const char *data, size_t len)
{
	struct pause *p = arg;

	if (!data)
		http_reply(p->rq, 200, "text/plain", "hello", 5);
	return p->over ? len : 0;
}

static void paused_upload(struct http_request *rq, void *ctx)
{
	(void)ctx;
	struct pause *p = pause_begin(rq, pause_over, 3500);

	http_body_sink(rq, pause_sink, p);
}

static const struct http_route routes[] = {
	{ "GET", "/open", hello, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/known", hello, HTTP_BODY_NONE, "x", "" },
	{ "GET", "/nap", nap, HTTP_BODY_NONE, "x", "" },
	{ "GET", "/open-hang", hang, HTTP_BODY_NONE, NULL, "" },
	{ "POST", "/body", hello, HTTP_BODY_BUFFER, "x", "" },
	{ "PUT", "/paused", paused_upload, HTTP_BODY_STREAM, "x", "" },
};

/* ---- what clients do ---- */

#define OPEN  "GET /open HTTP/1.1\r\nHost: h\r\n\r\n"
#define KNOWN "GET /known HTTP/1.1\r\nHost: h\r\nAuthorization: x\r\n\r\n"
#define NAP   "GET /nap HTTP/1.1\r\nHost: h\r\nAuthorization: x\r\n\r\n"

/* A connection beside the one of raw_http.h. */
static int side(const char *text)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(port) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
	CHECK(send(fd, text, strlen(text), MSG_NOSIGNAL) == (ssize_t)strlen(text));
	return fd;
}

static bool ended(int fd)
{
	char text[4096];

	for (;;) {
		ssize_t n = recv(fd, text, sizeof(text), MSG_DONTWAIT);

		if (n <= 0)
			return n == 0 || errno == ECONNRESET;
	}
}

static void wait_answer(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char text[4096];

	CHECK(poll(&p, 1, 10000) == 1);
	CHECK(recv(fd, text, sizeof(text), 0) > 12 && memcmp(text, "HTTP/1.1 200", 12) == 0);
}

/* Sends a byte now and then until something comes back. */
static void drip(const char *byte)
{
	struct pollfd p = { .fd = conn.fd, .events = POLLIN };

	for (int i = 0; i < 200 && poll(&p, 1, 50) == 0; i++)
		if (send(conn.fd, byte, 1, MSG_NOSIGNAL) < 0)
			return;
}

static void late(const char *what)
{
	get_head();
	CHECK(reply.status == 408);
	CHECK(has("\r\nConnection: close"));
	reply.len = 0;
	take_body(strtoul(strcasestr(reply.head, "\r\nContent-Length: ") + 18, NULL, 10), true);
	CHECK(error_code("RequestTimeout") && strstr(reply.body, what));
	CHECK(at_end());
}

static void client_requests(void)
{
	dial(port);
	for (int i = 1; i < REQUESTS_MAX; i++) {
		CHECK(ask(OPEN) == 200);
		CHECK(!has("Connection: close"));
	}
	CHECK(ask(OPEN) == 200);
	CHECK(has("\r\nConnection: close"));
	CHECK(at_end());
}

static void client_slow_heads(void)
{
	static const char *const beginnings[] = {
		"G", /* and no end of the first line */
		"GET /open HTTP/1.1\r\nHost: h\r\nX: ",
	};

	for (size_t i = 0; i < ARRAY_LEN(beginnings); i++) {
		dial(port);
		put(beginnings[i]);
		drip("A");
		late("headers");
		/* Later in a connection, too, and if nothing more comes. */
		dial(port);
		CHECK(ask(OPEN) == 200);
		put(beginnings[i]);
		late("headers");
		dial(port);
		CHECK(ask(OPEN) == 200);
		usleep(1200000);
		put(beginnings[i]);
		drip("A");
		late("headers");
	}
	/* Who says nothing at all is idle, not late. */
	dial(port);
	usleep(2300000);
	CHECK(ask(OPEN) == 200);
	usleep(2300000);
	CHECK(ask(OPEN) == 200);
}

static void client_slow_bodies(void)
{
	dial(port);
	put("POST /body HTTP/1.1\r\nHost: h\r\nAuthorization: x\r\nContent-Length: 5000\r\n\r\n");
	drip("A");
	late("bytes per second");
	dial(port);
	put("POST /body HTTP/1.1\r\nHost: h\r\nAuthorization: x\r\nTransfer-Encoding: chunked\r\n\r\n"
	    "1000\r\n");
	drip("A");
	late("bytes per second");
	/* Refused already; its body is only waited for to keep the connection. */
	dial(port);
	put("POST /body HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n");
	drip("A");
	while (fill())
		;
	CHECK(conn.len == 0 || strncmp(conn.in, "HTTP/1.1 401", 12) == 0);
}

static void client_paused_body(void)
{
	static char body[100000];

	memset(body, 'a', sizeof(body));
	dial(port);
	put("PUT /paused HTTP/1.1\r\nHost: h\r\nAuthorization: x\r\nContent-Length: 100000\r\n\r\n");
	put_n(body, sizeof(body));
	CHECK(get_reply(true) == 200 && said("hello"));
}

static void client_newcomers(void)
{
	int fds[PLACES];

	for (int i = 0; i < PLACES; i++) {
		fds[i] = side(i == 1 ? "GET /open HTTP/1.1\r\nX:" : "");
		usleep(20000);
	}
	/* The oldest two make room, whatever part of a head they have sent. */
	for (int i = 0; i < 2; i++) {
		dial(port);
		CHECK(ask(OPEN) == 200);
		CHECK(ended(fds[i]) && !ended(fds[i + 1]));
		fds[i] = conn.fd;
		conn.fd = 0;
	}
	for (int i = 0; i < PLACES; i++)
		CHECK(!ended(fds[i]));
}

static void client_regulars_stay_longer(void)
{
	int known = side(KNOWN);
	int fds[PLACES - 1];

	wait_answer(known);
	for (int i = 0; i < PLACES - 1; i++)
		fds[i] = side("");
	for (int i = 0; i < 3 * PLACES; i++) {
		dial(port);
		CHECK(ask(OPEN) == 200);
	}
	CHECK(!ended(known));
	for (int i = 0; i < PLACES - 1; i++)
		close(fds[i]);
}

static void client_requests_are_never_cut(void)
{
	int fds[PLACES];

	for (int i = 0; i < PLACES; i++)
		fds[i] = side(NAP);
	usleep(100000);
	dial(port);
	put(OPEN);
	usleep(NAP_MS / 2 * 1000); /* two looks at who waits */
	for (int i = 0; i < PLACES; i++)
		CHECK(!ended(fds[i]));
	CHECK(recv(conn.fd, conn.in, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
	/* The newcomer's turn comes with the first answer. */
	for (int i = 0; i < PLACES; i++)
		wait_answer(fds[i]);
	CHECK(get_reply(true) == 200);
}

/* Without a token a request is no protection. */
static void client_requests_of_strangers_are(void)
{
	int fds[PLACES];

	for (int i = 0; i < PLACES; i++)
		fds[i] = side("GET /open-hang HTTP/1.1\r\nHost: h\r\n\r\n");
	usleep(100000);
	dial(port);
	CHECK(ask(OPEN) == 200);
	for (int i = 0; i < PLACES; i++)
		close(fds[i]);
}

/* ---- frame ---- */

static int setup(void **state)
{
	struct http_config config = {
		.address = "127.0.0.1",
		.connections_max = PLACES,
		.idle_timeout_s = 60,
		.head_timeout_s = 1,
		.body_window_s = 1,
		.body_rate_min = 1000,
		.requests_max = REQUESTS_MAX,
		.authorize = authorize,
	};
	struct err e = ERR_INIT;

	(void)state;
	if (clients_init(&e) < 0 || http_bind("127.0.0.1", 0, &config.socket_fd, &e) < 0)
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
		client(requests),
		client(slow_heads),
		client(slow_bodies),
		client(paused_body),
		client(newcomers),
		client(regulars_stay_longer),
		client(requests_of_strangers_are),
		client(requests_are_never_cut),
	};

	return cmocka_run_group_tests_name("http_peers", tests, setup, teardown);
}
