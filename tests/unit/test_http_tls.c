/* SPDX-License-Identifier: Apache-2.0 */

/* TLS itself: pairs, swapping them, and what connections share with the plain listener. The tests
 * of HTTP and WebSockets over TLS are those without (tests/meson.build). */

#include "base/own.h"
#include "http/http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <poll.h>
#include <time.h>
#include <uv.h>

#define RAW_HTTP_TLS
#include "raw_http.h"
#include "tls_files.h"

#define PLACES 4

static struct http_server *server;
static struct http_tls *tls;
static uint16_t port;
static uint16_t plain_port;

static int authorize(struct http_request *rq, const struct http_route *route, void *ctx,
		     struct err *e)
{
	(void)rq;
	(void)route;
	(void)ctx;
	(void)e;
	return 0;
}

static void hello(struct http_request *rq, void *ctx)
{
	(void)ctx;
	http_reply(rq, 200, "text/plain", "hello", 5);
}

/* Makes another pair, and has it served. */
static void swap(struct http_request *rq, void *ctx)
{
	struct err e = ERR_INIT;

	(void)ctx;
	tls_forget("server.pem");
	if (own_ca_ensure(tls_dir, "127.0.0.1", &e) == 0) {
		char *cert = tls_file("server.pem");
		char *key = tls_file("server-key.pem");

		http_tls_reload(tls, cert, key, &e);
		free(cert);
		free(key);
	}
	http_reply(rq, e.code ? 500 : 200, "text/plain", e.msg, strlen(e.msg));
}

static long turns;

static void count_turn(uv_check_t *check)
{
	(void)check;
	turns++;
}

/* How often the loop has turned. */
static void count_turns(struct http_request *rq, void *ctx)
{
	char text[40];
	int n = snprintf(text, sizeof(text), "%ld", turns);

	(void)ctx;
	http_reply(rq, 200, "text/plain", text, (size_t)n);
}

static void hang(struct http_request *rq, void *ctx)
{
	(void)rq;
	(void)ctx;
}

static const struct http_route routes[] = {
	{ "GET", "/hello", hello, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/swap", swap, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/turns", count_turns, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/hang", hang, HTTP_BODY_NONE, "x", "" },
};

#define HELLO "GET /hello HTTP/1.1\r\nHost: h\r\n\r\n"
#define HANG  "GET /hang HTTP/1.1\r\nHost: h\r\n\r\n"

/* ---- what clients do ---- */

static int plain(uint16_t at)
{
	struct sockaddr_in sa = { .sin_family = AF_INET, .sin_port = htons(at) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	sa.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	CHECK(connect(fd, (struct sockaddr *)&sa, sizeof(sa)) == 0);
	return fd;
}

static bool ends(int fd, int timeout_ms)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char text[100];

	while (poll(&p, 1, timeout_ms) == 1) {
		ssize_t n = recv(fd, text, sizeof(text), 0);

		if (n <= 0)
			return n == 0 || errno == ECONNRESET;
	}
	return false;
}

static gnutls_datum_t peer_certificate(void)
{
	unsigned count;
	const gnutls_datum_t *list = gnutls_certificate_get_peers(raw_sessions[conn.fd], &count);
	gnutls_datum_t copy = { NULL, 0 };

	CHECK(list && count == 1);
	copy.data = malloc(list->size);
	copy.size = list->size;
	memcpy(copy.data, list->data, list->size);
	return copy;
}

static void client_swapped(void)
{
	dial(port);
	CHECK(ask(HELLO) == 200 && said("hello"));
	gnutls_datum_t before = peer_certificate();

	CHECK(ask("GET /swap HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
	CHECK(ask(HELLO) == 200); /* goes on with the old one */
	dial(port);
	CHECK(ask(HELLO) == 200);
	gnutls_datum_t after = peer_certificate();

	CHECK(before.size != after.size || memcmp(before.data, after.data, after.size) != 0);
	free(before.data);
	free(after.data);
}

/* Who does not get through the handshake leaves with the time for heads (one second here). */
static void client_stalled(void)
{
	int silent = plain(port);
	int half = plain(port);

	CHECK(send(half, "\x16\x03\x01\x02\0\x01\0", 7, MSG_NOSIGNAL) == 7);
	CHECK(ends(silent, 8000) && ends(half, 8000));
}

/* Nor does the server run in circles for it. */
static void client_stalled_is_idle(void)
{
	char text[100];
	int fd = plain(port);

	CHECK(send(fd, "\x16\x03\x01\x02\0\x01\0", 7, MSG_NOSIGNAL) == 7);
	usleep(100000);
	dial(port);
	CHECK(ask("GET /turns HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
	long before = atol(reply.body);

	usleep(500000);
	CHECK(ask("GET /turns HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
	snprintf(text, sizeof(text), "%ld turns", atol(reply.body) - before);
	if (atol(reply.body) - before > 50)
		fprintf(stderr, "%s\n", text);
	CHECK(atol(reply.body) - before <= 50);
	close(fd);
}

/* One limit for both listeners; who has had no authorized request makes room for either. */
static void client_places_are_shared(void)
{
	int fds[PLACES];

	for (int i = 0; i < PLACES; i++) {
		fds[i] = plain(i % 2 ? port : plain_port);
		usleep(20000);
	}
	dial(port); /* takes the place of the first */
	CHECK(ask(HELLO) == 200);
	CHECK(ends(fds[0], 8000));
	int newcomer = plain(plain_port);

	CHECK(send(newcomer, HELLO, strlen(HELLO), MSG_NOSIGNAL) > 0);
	struct pollfd p = { .fd = newcomer, .events = POLLIN };

	CHECK(poll(&p, 1, 8000) == 1);
	CHECK(ends(fds[1], 8000));
	/* Places with requests on them are safe from both. */
	for (int i = 0; i < PLACES; i++) {
		conn.fd = 0;
		dial(port);
		put(HANG);
		usleep(50000);
	}
	newcomer = plain(plain_port);
	send(newcomer, HELLO, strlen(HELLO), MSG_NOSIGNAL);
	p.fd = newcomer;
	CHECK(poll(&p, 1, 2500) == 0);
}

/* ---- pairs ---- */

static void expect_bad(const char *cert, const char *key, const char *why)
{
	struct err e = ERR_INIT;

	assert_null(http_tls_new(cert, key, &e));
	assert_int_equal(e.code, ERR_INVALID);
	if (!strstr(e.msg, why))
		fail_msg("%s, not %s", e.msg, why);
	e = ERR_INIT;
	assert_int_equal(http_tls_reload(tls, cert, key, &e), -1);
	assert_int_equal(e.code, ERR_INVALID);
}

static void test_pairs(void **state)
{
	OWNED_MEM char *ca = tls_file("ca.pem");
	OWNED_MEM char *cert = tls_file("server.pem");
	OWNED_MEM char *key = tls_file("server-key.pem");
	OWNED_MEM char *ca_key = tls_file("ca-key.pem");
	OWNED_MEM char *chain = str_printf("%s%s", cert, ca);
	OWNED_MEM char *unsorted = str_printf("%s%s", ca, cert);
	struct err e = ERR_INIT;

	(void)state;
	expect_bad("", key, "no certificate");
	expect_bad(key, key, "no certificate");
	expect_bad(cert, "", "no private key");
	expect_bad(cert, cert, "no private key");
	expect_bad(cert, ca_key, "does not belong");
	expect_bad(unsorted, ca_key, "not in order");
	int64_t left = http_tls_expires(tls) - time(NULL);

	assert_true(left > 390 * 86400 && left <= 397 * 86400);
	struct http_tls *t = http_tls_new(chain, key, &e);

	assert_non_null(t);
	assert_int_equal(http_tls_reload(t, cert, key, &e), 0);
	http_tls_free(t);
	http_tls_free(NULL);
}

/* ---- frame ---- */

static uv_check_t turn_counter;

static int setup(void **state)
{
	struct http_config config = {
		.address = "127.0.0.1",
		.connections_max = PLACES,
		.head_timeout_s = 1,
		.authorize = authorize,
	};
	struct err e = ERR_INIT;

	(void)state;
	if (clients_init(&e) < 0)
		return -1;
	uv_check_init(loop_uv(), &turn_counter);
	uv_check_start(&turn_counter, count_turn);
	tls = tls_files_make();
	raw_ca_file = tls_ca_file;
	config.tls = tls;
	config.tls_socket_fd = tls_socket(&port);
	server = tls ? http_server_new(&config, &plain_port, &e) : NULL;
	if (!server || http_tls_port(server) != port ||
	    http_server_routes(server, routes, ARRAY_LEN(routes), NULL, &e) < 0) {
		fprintf(stderr, "%s\n", e.msg);
		return -1;
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	http_server_free(server);
	clients_done();
	http_tls_free(tls);
	tls_files_done();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pairs), client(swapped),           client(stalled),
		client(stalled_is_idle),      client(places_are_shared),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
