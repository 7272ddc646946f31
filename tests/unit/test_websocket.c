/* SPDX-License-Identifier: Apache-2.0 */

/* The WebSocket server against a client that writes its frames byte by byte; plain, and over TLS.
 */

#include "base/own.h"
#include "http/websocket.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>

#include "raw_http.h"
#ifdef RAW_HTTP_TLS
#include "tls_files.h"

static struct http_tls *tls;
#endif

#define MESSAGE_MAX 70000
#define QUEUE_MAX   (256 * 1024)
#define FLOOD       (8 * 1024 * 1024)
#define PLACES      40

static struct http_server *server;
static uint16_t port;

/* ---- the server's side ---- */

/*
 * Echoes messages; text may be an order: "close" closes with 4001, "pause" takes nothing for half a
 * second, "flood" sends 8 MiB in messages of 1000 bytes, "stats" answers what has come to pass.
 */
struct talk {
	struct websocket *ws;
	struct loop_timer *timer;
	bool paused;
	bool asks; /* for stats: not part of them */
	size_t flood;
};

static int talks;  /* whose deferred function has not run */
static int closed; /* how often closed() was called */
static int last_code;
static int early_messages; /* that came in spite of a pause */
static size_t refused;

static void pour(struct talk *t)
{
	static char piece[1000];

	memset(piece, 'f', sizeof(piece));
	while (t->flood) {
		size_t n = t->flood < sizeof(piece) ? t->flood : sizeof(piece);

		if (!websocket_send(t->ws, false, (struct str){ piece, n })) {
			refused++;
			return;
		}
		t->flood -= n;
	}
}

static void on_drained(void *arg)
{
	pour(arg);
}

static void unpause(void *arg)
{
	struct talk *t = arg;

	t->paused = false;
	websocket_resume(t->ws);
}

static void on_message(void *arg, bool text, struct str data)
{
	struct talk *t = arg;
	char line[200];

	early_messages += t->paused;
	if (text && str_eq(data, STR("close"))) {
		websocket_close(t->ws, 4001, "as you wish");
	} else if (text && str_eq(data, STR("pause"))) {
		t->paused = true;
		websocket_pause(t->ws);
		loop_timer_start(t->timer, 500);
	} else if (text && str_eq(data, STR("flood"))) {
		t->flood = FLOOD;
		pour(t);
	} else if (text && str_eq(data, STR("stats"))) {
		t->asks = true;
		snprintf(line, sizeof(line),
			 "talks %d closed %d code %d early %d refused %d room %zu", talks, closed,
			 last_code, early_messages, refused > 0, websocket_room(t->ws));
		websocket_send(t->ws, true, str_from(line));
	} else {
		websocket_send(t->ws, text, data);
	}
}

static void on_closed(void *arg, int code)
{
	struct talk *t = arg;

	t->ws = NULL;
	closed++;
	if (!t->asks)
		last_code = code;
}

static void talk_gone(void *arg)
{
	struct talk *t = arg;

	assert_null(t->ws); /* closed() has been the last callback */
	loop_timer_free(t->timer);
	talks--;
}

static const struct websocket_events events = { on_message, on_drained, on_closed };

static void talk(struct http_request *rq, const struct websocket_config *config)
{
	struct err e = ERR_INIT;
	struct talk *t = http_alloc(rq, sizeof(*t));

	talks++;
	t->timer = loop_timer_new(unpause, t);
	http_defer(rq, talk_gone, t);
	t->ws = websocket_accept(rq, config, &events, t, &e);
	if (!t->ws)
		http_reply_err(rq, &e);
}

static void serve_talk(struct http_request *rq, void *ctx)
{
	static const struct websocket_config config = { "test.v1", MESSAGE_MAX, QUEUE_MAX, 0 };

	(void)ctx;
	talk(rq, &config);
}

static void serve_impatient(struct http_request *rq, void *ctx)
{
	static const struct websocket_config config = { NULL, MESSAGE_MAX, QUEUE_MAX, 1 };

	(void)ctx;
	talk(rq, &config);
}

static void wanted(struct http_request *rq, void *ctx)
{
	char token[64] = "-";
	char text[100];

	(void)ctx;
	websocket_bearer(rq, token, sizeof(token));
	int n = snprintf(text, sizeof(text), "%d %s", websocket_wanted(rq), token);

	http_reply(rq, 200, "text/plain", text, (size_t)n);
}

static const struct http_route routes[] = {
	{ "GET", "/talk", serve_talk, HTTP_BODY_NONE, "x", "" },
	{ "POST", "/talk", serve_talk, HTTP_BODY_BUFFER, "x", "" },
	{ "GET", "/impatient", serve_impatient, HTTP_BODY_NONE, "x", "" },
	{ "GET", "/wanted", wanted, HTTP_BODY_NONE, "x", "" },
};

/* ---- frames ---- */

#define UPGRADE                                                                                    \
	"Host: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"                     \
	"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"

enum { TEXT = 0x81, BINARY = 0x82, CLOSE = 0x88, PING = 0x89, PONG = 0x8a };

static size_t make_frame(unsigned char *out, int first, const void *data, size_t len)
{
	static const unsigned char mask[4] = { 0x11, 0x82, 0x33, 0xf4 };
	size_t n = 0;

	out[n++] = (unsigned char)first;
	if (len < 126) {
		out[n++] = (unsigned char)(0x80 | len);
	} else if (len < 65536) {
		out[n++] = 0x80 | 126;
		out[n++] = (unsigned char)(len >> 8);
		out[n++] = (unsigned char)len;
	} else {
		out[n++] = 0x80 | 127;
		for (int shift = 56; shift >= 0; shift -= 8)
			out[n++] = (unsigned char)((uint64_t)len >> shift);
	}
	memcpy(out + n, mask, 4);
	n += 4;
	for (size_t i = 0; i < len; i++)
		out[n + i] = (unsigned char)(((const unsigned char *)data)[i] ^ mask[i % 4]);
	return n + len;
}

static void put_frame(int first, const void *data, size_t len)
{
	static unsigned char out[200000];

	put_n((const char *)out, make_frame(out, first, data, len));
}

static void say(const char *text)
{
	put_frame(TEXT, text, strlen(text));
}

static unsigned char got[100000];
static size_t got_len;

/* The next frame; its first byte. -1: the end. */
static int get_frame(void)
{
	size_t head = 2;

	while (conn.len < 10 && conn.len < head + (size_t)(conn.len >= 2 ? conn.in[1] & 0x7f : 1))
		if (!fill())
			return -1;
	size_t len = conn.in[1] & 0x7f;

	CHECK(!(conn.in[1] & 0x80)); /* servers do not mask */
	if (len == 126) {
		head = 4;
		while (conn.len < head)
			CHECK(fill());
		len = (size_t)(unsigned char)conn.in[2] << 8 | (unsigned char)conn.in[3];
	} else if (len == 127) {
		head = 10;
		while (conn.len < head)
			CHECK(fill());
		len = (size_t)(unsigned char)conn.in[7] << 16 |
		      (size_t)(unsigned char)conn.in[8] << 8 | (unsigned char)conn.in[9];
	}
	int first = (unsigned char)conn.in[0];

	CHECK(len < sizeof(got));
	while (conn.len < head + len)
		CHECK(fill());
	memcpy(got, conn.in + head, len);
	got[len] = '\0';
	got_len = len;
	eat(head + len);
	return first;
}

static bool hears(int first, const char *text)
{
	return get_frame() == first && got_len == strlen(text) && memcmp(got, text, got_len) == 0;
}

static bool hears_close(int code)
{
	return get_frame() == CLOSE && got_len >= 2 && (got[0] << 8 | got[1]) == code;
}

static void open_at(const char *path)
{
	char request[500];

	dial(port);
	snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\n" UPGRADE "\r\n", path);
	put(request);
	get_head();
	CHECK(reply.status == 101 && has("\r\nUpgrade: websocket\r\n"));
	CHECK(has("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
	CHECK(!has("Sec-WebSocket-Extensions") && !has("Content-Length") &&
	      !has("Connection: close"));
}

static const char *stats(void)
{
	open_at("/talk");
	say("stats");
	CHECK(get_frame() == TEXT);
	return (const char *)got;
}

/* Until all have ended but the one that asks, which stays. */
static void expect_alone(void)
{
	for (int i = 0; i < 1000; i++) {
		if (strstr(stats(), "talks 1 "))
			return;
		usleep(10000);
		put_frame(CLOSE, "", 0);
	}
	CHECK(!"ended");
}

/* The close code of the last that ended. */
static void expect_code(int code)
{
	char want[100];

	snprintf(want, sizeof(want), "code %d ", code);
	expect_alone();
	if (!strstr((const char *)got, want))
		fprintf(stderr, "%s, not %s\n", got, want);
	CHECK(strstr((const char *)got, want));
}

/* ---- what clients do ---- */

static void client_handshake(void)
{
	static const char *const bad[][2] = {
		{ "GET /talk HTTP/1.1\r\nHost: h\r\n\r\n", "426" },
		{ "GET /talk HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
		  "426" },
		{ "GET /talk HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
		  "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		  "426" },
		{ "GET /talk HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		  "Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
		  "426" },
		{ "GET /talk HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: c2hvcnQ=\r\n\r\n",
		  "400" },
		{ "GET /talk HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: !!!!IHNhbXBsZSBub25jZQ==\r\n\r\n",
		  "400" },
		{ "GET /talk HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
		  "Sec-WebSocket-Version: 13\r\n\r\n",
		  "400" },
		{ "POST /talk HTTP/1.1\r\n" UPGRADE "Content-Length: 0\r\n\r\n", "426" },
		{ "GET /talk HTTP/1.1\r\n" UPGRADE "Content-Length: 1\r\n\r\nx", "400" },
	};

	dial(port);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int status = ask(bad[i][0]);

		CHECK(status == atoi(bad[i][1]));
		if (status == 426)
			CHECK(has("\r\nSec-WebSocket-Version: 13\r\n") &&
			      error_code("UpgradeRequired"));
	}
	dial(port);
	CHECK(ask("GET /talk HTTP/1.0\r\n" UPGRADE "\r\n") == 426);
	/* no subprotocol is chosen that was not offered, and no other than ours */
	open_at("/talk");
	CHECK(!has("Sec-WebSocket-Protocol"));
	dial(port);
	put("GET /talk HTTP/1.1\r\n" UPGRADE "Sec-WebSocket-Protocol: other, test.v1\r\n\r\n");
	get_head();
	CHECK(reply.status == 101 && has("\r\nSec-WebSocket-Protocol: test.v1\r\n"));
	expect_code(1006);
}

static void client_wanted(void)
{
	dial(port);
	CHECK(ask("GET /wanted HTTP/1.1\r\n" UPGRADE "\r\n") == 200 && said("1 -"));
	CHECK(ask("GET /wanted HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n") ==
	      200);
	CHECK(said("0 -"));
	CHECK(ask("GET /wanted HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Protocol: x, "
		  "base64url.bearer.authorization.bivouac.aGVsbG8_d29ybGQ\r\n\r\n") == 200);
	CHECK(said("0 hello?world"));
	CHECK(ask("GET /wanted HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Protocol: "
		  "base64url.bearer.authorization.bivouac.***\r\n\r\n") == 200);
	CHECK(said("0 -"));
}

static void client_echo(void)
{
	static char big[MESSAGE_MAX];

	memset(big, 'b', sizeof(big));
	open_at("/talk");
	say("hello");
	CHECK(hears(TEXT, "hello"));
	say("");
	CHECK(hears(TEXT, ""));
	say("gr\xc3\xbc\xc3\x9f dich");
	CHECK(hears(TEXT, "gr\xc3\xbc\xc3\x9f dich"));
	put_frame(BINARY, "\xff\0\xfe", 3);
	CHECK(get_frame() == BINARY && got_len == 3 && memcmp(got, "\xff\0\xfe", 3) == 0);
	put_frame(BINARY, big, MESSAGE_MAX);
	CHECK(get_frame() == BINARY && got_len == MESSAGE_MAX);
	CHECK(memcmp(got, big, MESSAGE_MAX) == 0);
	/* in fragments, with a ping between them; a character may be split */
	put_frame(0x01, "a\xc3", 2);
	put_frame(PING, "p", 1);
	put_frame(0x00, "\xbc", 1);
	put_frame(0x00, "", 0);
	put_frame(0x80, "b", 1);
	CHECK(hears(PONG, "p") && hears(TEXT, "a\xc3\xbc"
					      "b"));
	put_frame(PONG, "unasked", 7);
	put_frame(CLOSE,
		  "\x03\xe8"
		  "bye",
		  5);
	CHECK(hears_close(1000) && get_frame() == -1);
	expect_code(1000);
}

/* Head and frames in one piece, frames in single bytes. */
static void client_pieces(void)
{
	unsigned char out[1000];
	size_t n = 0;

	memcpy(out, "GET /talk HTTP/1.1\r\n" UPGRADE "\r\n",
	       sizeof("GET /talk HTTP/1.1\r\n" UPGRADE "\r\n"));
	n = strlen((char *)out);
	n += make_frame(out + n, TEXT, "one", 3);
	n += make_frame(out + n, TEXT, "two", 3);
	dial(port);
	put_n((char *)out, n);
	get_head();
	CHECK(reply.status == 101 && hears(TEXT, "one") && hears(TEXT, "two"));
	n = make_frame(out, TEXT, "three", 5);
	for (size_t i = 0; i < n; i++) {
		put_n((char *)out + i, 1);
		usleep(1000);
	}
	CHECK(hears(TEXT, "three"));
	put_frame(CLOSE, "", 0);
	CHECK(get_frame() == CLOSE && got_len == 0 && get_frame() == -1);
	expect_code(1005);
}

static void refused_with(const void *raw, size_t len, int code)
{
	open_at("/talk");
	put_n(raw, len);
	CHECK(hears_close(code));
	while (fill()) /* until the end, which is orderly */
		conn.len = 0;
}

static void client_violations(void)
{
	static unsigned char out[200000];
	static char big[MESSAGE_MAX + 1];
	size_t n;

	refused_with("\x81\x02hi", 4, 1002);             /* no mask */
	refused_with("\xc1\x80\0\0\0\0", 6, 1002);       /* a reserved bit */
	refused_with("\x83\x80\0\0\0\0", 6, 1002);       /* an opcode that is none */
	refused_with("\x80\x80\0\0\0\0", 6, 1002);       /* goes on with nothing */
	refused_with("\x09\x80\0\0\0\0", 6, 1002);       /* a control frame in fragments */
	refused_with("\x89\xfe\0\x7e\0\0\0\0", 8, 1002); /* a long control frame */
	n = make_frame(out, TEXT, "\xff\xfe", 2);
	refused_with(out, n, 1007);
	n = make_frame(out, TEXT, "cut \xc3", 5);
	refused_with(out, n, 1007);
	n = make_frame(out, BINARY, big, MESSAGE_MAX + 1);
	refused_with(out, n, 1009);
	/* announced, and one byte of it sent */
	refused_with("\x82\xff\0\0\0\x01\0\0\0\0\0\0\0\0x", 15, 1009);
	/* in fragments */
	n = make_frame(out, 0x02, big, MESSAGE_MAX);
	n += make_frame(out + n, 0x80, "x", 1);
	refused_with(out, n, 1009);
	expect_code(1006);
}

static void client_closed_by_us(void)
{
	open_at("/talk");
	say("close");
	say("too late"); /* is not delivered */
	CHECK(hears_close(4001) && memcmp(got + 2, "as you wish", 11) == 0);
	put_frame(CLOSE, "\x0f\xa1", 2);
	CHECK(get_frame() == -1);
	expect_code(4001);
	/* Without an answer of ours the connection ends all the same. */
	open_at("/talk");
	say("close");
	CHECK(hears_close(4001) && get_frame() == -1);
	expect_code(1006);
}

static void client_leaves(void)
{
	static const char half[] = "\x81\xfe\x10\0\0\0\0\0half a frame";
	struct linger reset = { 1, 0 };

	for (int how = 0; how < 6; how++) {
		open_at("/talk");
		if (how & 1)
			put_n(half, sizeof(half) - 1);
		if (how & 2)
			say("pause");
		if (how & 4)
			setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(conn.fd);
		conn.fd = 0;
	}
	expect_code(1006);
}

static void client_pause(void)
{
	open_at("/talk");
	say("pause");
	for (int i = 0; i < 300; i++)
		say("after");
	for (int i = 0; i < 300; i++)
		CHECK(hears(TEXT, "after"));
	put_frame(CLOSE, "", 0);
	CHECK(get_frame() == CLOSE);
	CHECK(strstr(stats(), "early 0 "));
}

static void client_slow_reader(void)
{
	size_t sum = 0;

	open_at("/talk");
	say("flood");
	usleep(300000);
	while (sum < FLOOD) {
		int first = get_frame();

		if (first == PING) /* a slow machine */
			continue;
		CHECK(first == BINARY && got[0] == 'f');
		sum += got_len;
	}
	CHECK(sum == FLOOD);
	say("stats");
	CHECK(get_frame() == TEXT && strstr((char *)got, "refused 1 "));
}

/* Pongs of somebody who reads nothing do not pile up: at some point nothing more is taken. */
static void client_ping_flood(void)
{
	static unsigned char pings[130 * 1000];
	static char text[125];
	size_t n = 0;
	size_t sent = 0;

	open_at("/talk");
	say("flood");
	while (n + 131 < sizeof(pings))
		n += make_frame(pings + n, PING, text, sizeof(text));
	struct timeval limit = { 0, 500000 };

	setsockopt(conn.fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
	for (int i = 0; i < 1000; i++) {
		ssize_t now = raw_send(conn.fd, pings, n);

		if (now > 0)
			sent += (size_t)now;
		if (now < (ssize_t)n)
			break;
	}
	CHECK(sent < 100 * sizeof(pings));
	close(conn.fd);
	conn.fd = 0;
	expect_code(1006);
}

static void client_silence(void)
{
	open_at("/impatient");
	CHECK(get_frame() == PING);
	put_frame(PONG, "", 0);
	CHECK(get_frame() == PING); /* answered: goes on; not answered: */
	CHECK(get_frame() == -1);
	expect_code(1006);
}

/* A place with a WebSocket on it is safe from newcomers. */
static void client_keeps_its_place(void)
{
	open_at("/talk");
	struct conn mine = conn;

	for (int i = 0; i < 2 * PLACES; i++) {
		conn.fd = 0;
		dial(port);
		put("GET /wan");
	}
	conn = mine;
	say("still here");
	CHECK(hears(TEXT, "still here"));
}

static int holder[2]; /* its other end closes when the server has ended */

static void client_stays(void)
{
	expect_alone();
	if (fork() == 0) { /* holds the connection while the server ends */
		char end;

		CHECK(hears_close(1001));
		close(holder[1]);
		_exit(read(holder[0], &end, 1) == 0 ? 0 : 1);
	}
}

/* ---- frame ---- */

static int setup(void **state)
{
	struct http_config config = {
		.address = "127.0.0.1",
		.connections_max = PLACES,
		.head_timeout_s = 5,
	};
	struct err e = ERR_INIT;

	(void)state;
	if (clients_init(&e) < 0 || pipe2(holder, O_CLOEXEC) < 0)
		return -1;
#ifdef RAW_HTTP_TLS
	tls = tls_files_make();
	raw_ca_file = tls_ca_file;
	config.tls = tls;
	config.tls_socket_fd = tls_socket(&port);
	server = tls ? http_server_new(&config, NULL, &e) : NULL;
#else
	server = http_server_new(&config, &port, &e);
#endif
	if (!server || http_server_routes(server, routes, ARRAY_LEN(routes), NULL, &e) < 0) {
		fprintf(stderr, "%s\n", e.msg);
		return -1;
	}
	return 0;
}

static void test_server_free(void **state)
{
	int before = closed;

	(void)state;
	assert_int_equal(talks, 1);
	http_server_free(server);
	close(holder[1]);
	assert_int_equal(talks, 0);
	assert_int_equal(closed, before + 1);
	clients_done();
#ifdef RAW_HTTP_TLS
	http_tls_free(tls);
	tls_files_done();
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		client(handshake),   client(wanted),
		client(echo),        client(pieces),
		client(violations),  client(closed_by_us),
		client(leaves),      client(pause),
		client(slow_reader), client(ping_flood),
		client(silence),     client(keeps_its_place),
		client(stays),       cmocka_unit_test(test_server_free),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
