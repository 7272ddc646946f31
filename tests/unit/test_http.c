/* SPDX-License-Identifier: Apache-2.0 */
#include "base/sanitized.h"
#include "http/http.h"

#include "base/buf.h"
#include "base/own.h"
#include "loop/loop.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "raw_http.h"
#ifdef RAW_HTTP_TLS
#include "tls_files.h"

static struct http_tls *tls;
#endif

/*
 * The server runs in this process, under the loop; each test forks a client that speaks over raw
 * sockets and exits with 0 if it saw what it should.
 */

#define BODY_MAX 100000
#define BIG      (64 * 1024 * 1024)

static struct http_server *server;
static uint16_t port;
static struct http_server *patient; /* its idle timeout is longer than any test */
static uint16_t patient_port;
static int live; /* routed requests whose deferred function has not run */
static int started;
static int finished_count;
static int last_status;

/* ---- handlers ---- */

static void gone(void *arg)
{
	(void)arg;
	live--;
}

static int authorize(struct http_request *rq, const struct http_route *route, void *ctx,
		     struct err *e)
{
	struct str token;

	(void)ctx;
	live++;
	started++;
	http_defer(rq, gone, NULL);
	if (!route->permission)
		return 0;
	if (!http_header(rq, "authorization", &token) || !str_eq(token, STR("Bearer good")))
		return err_set(e, ERR_UNAUTHORIZED, "no \"good\" token");
	return 0;
}

static void finished(struct http_request *rq, int status, int64_t duration_us, void *ctx)
{
	(void)rq;
	(void)ctx;
	finished_count++;
	last_status = status;
	if (duration_us < 0)
		abort();
}

static void hello(struct http_request *rq, void *ctx)
{
	(void)ctx;
	http_set_header(rq, "x-bad", "a\r\nb: c");
	http_set_header(rq, "x-once", "1");
	http_set_header(rq, "X-Once", "2");
	http_reply(rq, 200, "text/plain", "hello", 5);
	http_reply(rq, 500, "text/plain", "twice", 5); /* ignored */
}

static void echo(struct http_request *rq, void *ctx)
{
	struct str body = http_body(rq);

	(void)ctx;
	http_reply(rq, 200, "text/plain", body.ptr, body.len);
}

static void describe(struct http_request *rq, void *ctx)
{
	struct str q = STR("-");
	struct str rest = http_param(rq, "rest");
	struct str a = http_param(rq, "a");

	(void)ctx;
	http_query(rq, "Q", &q);
	char *text = str_printf("%.*s|%.*s|%.*s|%.*s|%s", STR_ARG(a), STR_ARG(rest), STR_ARG(q),
				STR_ARG(http_path(rq)), http_base_url(rq));

	http_reply_owned(rq, 200, "text/plain", text, strlen(text));
}

struct delayed {
	struct http_request *rq;
	struct loop_timer *timer;
};

static void delayed_gone(void *arg)
{
	loop_timer_free(((struct delayed *)arg)->timer);
}

static void delayed_fire(void *arg)
{
	struct delayed *d = arg;

	echo(d->rq, NULL);
}

/* ?ms=…, or 20 */
static int64_t delay_ms(struct http_request *rq)
{
	struct str ms;
	uint64_t n = 20;

	if (http_query(rq, "ms", &ms))
		str_to_u64(ms, 60000, &n);
	return (int64_t)n;
}

/* Keeps the whole loop waiting. */
static void nap(struct http_request *rq, void *ctx)
{
	usleep((useconds_t)delay_ms(rq) * 1000);
	hello(rq, ctx);
}

static void later(struct http_request *rq, void *ctx)
{
	struct delayed *d = http_alloc(rq, sizeof(*d));

	(void)ctx;
	d->rq = rq;
	d->timer = loop_timer_new(delayed_fire, d);
	http_defer(rq, delayed_gone, d);
	loop_timer_start(d->timer, delay_ms(rq));
}

/* Takes bites, with a pause after each: the client must be held back. */
struct upload {
	struct http_request *rq;
	struct loop_timer *timer;
	size_t bite;
	size_t total;
	unsigned sum;
	bool ended;
};

static void upload_gone(void *arg)
{
	loop_timer_free(((struct upload *)arg)->timer);
}

static size_t upload_sink(void *arg, const char *data, size_t len)
{
	struct upload *u = arg;
	char text[64];

	if (!data) {
		if (u->ended)
			abort();
		u->ended = true;
		snprintf(text, sizeof(text), "%zu %u", u->total, u->sum);
		http_reply(u->rq, 200, "text/plain", text, strlen(text));
		return 0;
	}
	size_t n = u->bite && len > u->bite ? u->bite : len;

	for (size_t i = 0; i < n; i++)
		u->sum = u->sum * 31 + (unsigned char)data[i];
	u->total += n;
	if (n < len)
		loop_timer_start(u->timer, 0);
	return n;
}

static void upload_resume(void *arg)
{
	http_body_resume(((struct upload *)arg)->rq);
}

static void upload(struct http_request *rq, void *ctx)
{
	struct upload *u = http_alloc(rq, sizeof(*u));
	struct str bite;
	uint64_t n = 0;

	(void)ctx;
	if (http_query(rq, "bite", &bite))
		str_to_u64(bite, 1 << 30, &n);
	u->rq = rq;
	u->bite = (size_t)n;
	u->timer = loop_timer_new(upload_resume, u);
	http_defer(rq, upload_gone, u);
	http_body_sink(rq, upload_sink, u);
}

/* Answers at the first bytes: with an error, a large body, or a stream that is complete at once. */
static size_t stop_sink(void *arg, const char *data, size_t len)
{
	struct http_request *rq = arg;
	struct str how = STR("");
	struct err e = ERR_INIT;

	(void)len;
	http_query(rq, "how", &how);
	if (data && str_eq(how, STR("big"))) {
		char *big = malloc(BIG);

		for (size_t i = 0; i < BIG; i++)
			big[i] = (char)('a' + i % 23);
		http_reply_owned(rq, 409, "text/plain", big, BIG);
	} else if (data && str_eq(how, STR("stream"))) {
		http_stream_begin(rq, 409, "text/plain", -1, NULL, NULL, &e);
		http_stream_write(rq, "hello", 5);
		http_stream_end(rq);
	} else if (data) {
		err_set(&e, ERR_CONFLICT, "enough \xff");
		http_reply_err(rq, &e);
	}
	return 0;
}

static void stop_early(struct http_request *rq, void *ctx)
{
	(void)ctx;
	http_body_sink(rq, stop_sink, rq);
}

/* A sink set long after the handler returned. */
static void late_sink(void *arg)
{
	struct upload *u = arg;

	loop_timer_free(u->timer);
	u->timer = loop_timer_new(upload_resume, u);
	http_body_sink(u->rq, upload_sink, u);
}

static void upload_late(struct http_request *rq, void *ctx)
{
	struct upload *u = http_alloc(rq, sizeof(*u));

	(void)ctx;
	u->rq = rq;
	u->bite = 1000;
	u->timer = loop_timer_new(late_sink, u);
	http_defer(rq, upload_gone, u);
	loop_timer_start(u->timer, delay_ms(rq));
}

struct download {
	struct http_request *rq;
	size_t left;
	size_t pos;
	bool cut;
};

static void download_fill(void *arg)
{
	struct download *d = arg;
	char piece[10000];

	while (d->left) {
		size_t n = d->left < sizeof(piece) ? d->left : sizeof(piece);

		for (size_t i = 0; i < n; i++)
			piece[i] = (char)('a' + (d->pos + i) % 23);
		size_t took = http_stream_write(d->rq, piece, n);

		d->left -= took;
		d->pos += took;
		if (took < n)
			return;
	}
	if (d->cut)
		http_stream_abort(d->rq);
	else
		http_stream_end(d->rq);
}

static void download(struct http_request *rq, void *ctx)
{
	struct download *d = http_alloc(rq, sizeof(*d));
	struct str how = http_param(rq, "how");
	struct err e = ERR_INIT;
	uint64_t n = 0;

	(void)ctx;
	str_to_u64(http_param(rq, "size"), 1 << 30, &n);
	d->rq = rq;
	d->left = (size_t)n;
	d->cut = str_eq(how, STR("cut"));
	if (http_stream_begin(rq, 200, "text/plain", str_eq(how, STR("length")) ? (int64_t)n : -1,
			      download_fill, d, &e) < 0)
		abort();
	download_fill(d);
}

static struct http_request *hung[16];
static size_t hung_count;

static void unhang(void *arg)
{
	for (size_t i = 0; i < hung_count; i++)
		if (hung[i] == arg)
			hung[i] = NULL;
}

static void hang(struct http_request *rq, void *ctx)
{
	(void)ctx;
	hung[hung_count++ % ARRAY_LEN(hung)] = rq;
	http_defer(rq, unhang, rq);
}

static void release(struct http_request *rq, void *ctx)
{
	for (size_t i = 0; i < ARRAY_LEN(hung); i++)
		if (hung[i])
			hello(hung[i], ctx);
	hello(rq, ctx);
}

static void stats(struct http_request *rq, void *ctx)
{
	char text[64];
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	(void)ctx;
	if (!f || fscanf(f, "%*u %lu", &pages) != 1)
		abort();
	fclose(f);
	snprintf(text, sizeof(text), "%d %d %lu", live, last_status, pages * 4096);
	http_reply(rq, 200, "text/plain", text, strlen(text));
}

static const struct http_route routes[] = {
	{ "GET", "/hello", hello, HTTP_BODY_NONE, NULL, "" },
	{ "POST", "/hello", hello, HTTP_BODY_NONE, NULL, "" },
	{ "POST", "/echo", echo, HTTP_BODY_BUFFER, NULL, "" },
	{ "POST", "/later", later, HTTP_BODY_BUFFER, NULL, "" },
	{ "POST", "/secret", echo, HTTP_BODY_BUFFER, "secret", "" },
	{ "GET", "/d/{a}/{rest*}", describe, HTTP_BODY_NONE, NULL, "" },
	{ "PUT", "/upload", upload, HTTP_BODY_STREAM, NULL, "" },
	{ "PUT", "/late", upload_late, HTTP_BODY_STREAM, NULL, "" },
	{ "PUT", "/stop", stop_early, HTTP_BODY_STREAM, NULL, "" },
	{ "GET", "/download/{size}/{how}", download, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/nap", nap, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/hang", hang, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/release", release, HTTP_BODY_NONE, NULL, "" },
	{ "GET", "/stats", stats, HTTP_BODY_NONE, NULL, "" },
};

/* ---- what clients do ---- */

static unsigned long resident(void)
{
	int n = 0;
	int status = 0;
	unsigned long bytes = 0;

	CHECK(ask("GET /stats HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
	CHECK(sscanf(reply.body, "%d %d %lu", &n, &status, &bytes) == 3);
	return bytes;
}

/* Waits until no request but this one is alive. */
static void expect_alone(void)
{
	for (int i = 0; i < 500; i++) {
		dial(port);
		resident();
		if (strncmp(reply.body, "1 ", 2) == 0)
			return;
		usleep(10000);
	}
	fprintf(stderr, "requests left over: %s\n", reply.body);
	_exit(1);
}

static void client_keepalive(void)
{
	dial(port);
	CHECK(ask("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n") == 200 && said("hello"));
	CHECK(has("\r\nContent-Length: 5\r\n") && has("\r\nx-once: 2\r\n") && !has("x-bad"));
	CHECK(ask("POST /later HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc") == 200);
	CHECK(said("abc"));
	CHECK(ask("POST /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc") == 200);
	CHECK(ask("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n") == 200 &&
	      said(""));
	CHECK(has("\r\nContent-Length: 0\r\n"));
	CHECK(ask("GET /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n") == 200);
	CHECK(has("\r\nConnection: close\r\n") && at_end());
	dial(port);
	CHECK(ask("GET /hello HTTP/1.0\r\n\r\n") == 200 && at_end());
	dial(port);
	CHECK(ask("POST /echo HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: 2\r\n\r\nhi") ==
		      200 &&
	      said("hi"));
	CHECK(ask("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
}

static void client_pipelining(void)
{
	dial(port);
	for (int i = 0; i < 20; i++)
		put("POST /later HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n12GET /hello HTTP/1.1\r\nHost: h\r\n\r\nPOST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n");
	for (int i = 0; i < 20; i++) {
		CHECK(get_reply(true) == 200 && said("12"));
		CHECK(get_reply(true) == 200 && said("hello"));
		CHECK(get_reply(true) == 200 && said("x"));
	}
}

static void client_bodies(void)
{
	char head[200];
	static char body[BODY_MAX + 1];

	memset(body, 'b', sizeof(body));
	dial(port);
	CHECK(ask("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nTrailer: t\r\n\r\n") ==
	      200);
	CHECK(said("abc0123456789"));
	put("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
	get_head();
	CHECK(reply.status == 100);
	CHECK(ask("body") == 200 && said("body"));
	/* at the limit, and one past it */
	snprintf(head, sizeof(head), "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n",
		 BODY_MAX);
	put(head);
	put_n(body, BODY_MAX);
	CHECK(get_reply(true) == 200 && reply.len == BODY_MAX);
	snprintf(head, sizeof(head), "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n",
		 BODY_MAX + 1);
	put(head);
	put_n(body, BODY_MAX + 1);
	CHECK(get_reply(true) == 413 && error_code("RequestEntityTooLarge") && at_end());
	dial(port);
	snprintf(head, sizeof(head),
		 "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n",
		 BODY_MAX + 1);
	put(head);
	put_n(body, BODY_MAX + 1);
	CHECK(get_reply(true) == 413 && error_code("RequestEntityTooLarge"));
	CHECK(has("\r\nConnection: close\r\n") && at_end());
	/* a client that waits gets its refusal instead of the go-ahead */
	dial(port);
	CHECK(ask("POST /echo HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 9999999\r\n\r\n") ==
	      413);
	CHECK(at_end());
}

static void client_refusals(void)
{
	static char body[50000];

	memset(body, 'b', sizeof(body));
	dial(port);
	CHECK(ask("GET /nowhere HTTP/1.1\r\nHost: h\r\n\r\n") == 404 && error_code("NotFound"));
	CHECK(ask("PUT /hello HTTP/1.1\r\nHost: h\r\n\r\n") == 405 &&
	      error_code("MethodNotAllowed"));
	CHECK(has("\r\nAllow: GET, HEAD, POST\r\n"));
	CHECK(ask("GET /d/%00/x HTTP/1.1\r\nHost: h\r\n\r\n") == 400);
	CHECK(error_code("InvalidRequestContent"));
	CHECK(ask("GET /d/%ff/x HTTP/1.1\r\nHost: h\r\n\r\n") == 400);
	/* 401: empty; a small body is read, so the connection stays */
	CHECK(ask("POST /secret HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nxx") == 401);
	CHECK(said("") && has("\r\nWWW-Authenticate: Bearer\r\n") &&
	      has("\r\nmise-correlation-id: "));
	CHECK(has("\r\nContent-Length: 0\r\n"));
	CHECK(ask("POST /secret HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer bad\r\nContent-Length: 2\r\n\r\nxx") ==
	      401);
	CHECK(has("\r\nWWW-Authenticate: Bearer error=\"invalid_token\", "
		  "error_description=\"no good token\"\r\n"));
	CHECK(ask("POST /secret HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer good\r\nContent-Length: 2\r\n\r\nxx") ==
		      200 &&
	      said("xx"));
	/* a large body is not read before the answer, and not for ever after it */
	put("POST /secret HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000\r\n\r\n");
	put_n(body, sizeof(body));
	CHECK(get_reply(true) == 401 && has("\r\nConnection: close\r\n") && at_end());
	for (size_t sent = 0;; sent += sizeof(body)) {
		if (raw_send(conn.fd, body, sizeof(body)) <= 0)
			break;
		CHECK(sent < 100000000);
	}
	dial(port);
	CHECK(ask("POST /secret HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n") ==
	      401);
	CHECK(at_end());
}

static void client_framing(void)
{
	static const char *const bad[] = {
		"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
		"POST /echo HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
		"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length : 3\r\n\r\nxxx",
	};

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		dial(port);
		CHECK(ask(bad[i]) == 400 && error_code("InvalidRequestContent"));
		CHECK(has("\r\nConnection: close\r\n"));
	}
	/* headers beyond connection_memory: MHD's own answer */
	dial(port);
	put("GET /hello HTTP/1.1\r\nHost: h\r\nX: ");
	for (int i = 0; i < 4000 && raw_send(conn.fd, "0123456789", 10) == 10; i++)
		continue;
	while (raw_recv(conn.fd, conn.in, sizeof(conn.in)) > 0)
		continue;
	dial(port);
	put_n("GET /d/a\0b/c HTTP/1.1\r\nHost: h\r\n\r\n", 34);
	CHECK(get_reply(true) == 400 && error_code("InvalidRequestContent"));
}

static void client_targets(void)
{
	char want[200];

	dial(port);
	CHECK(ask("GET /d/a%2Fb//c/%20d/?q=x%2By+z&q=2 HTTP/1.1\r\nHost: example:81\r\n\r\n") ==
	      200);
	CHECK(said("a/b|c/ d|x+y+z|/d/a%2Fb//c/%20d/|" RAW_SCHEME "://example:81"));
	snprintf(want, sizeof(want), "a|b|-|/d/a/b|" RAW_SCHEME "://127.0.0.1:%u", port);
	CHECK(ask("GET http://elsewhere/d/a/b HTTP/1.1\r\nHost: \"<x>\r\n\r\n") == 200 &&
	      said(want));
	CHECK(ask("GET /d/a b/100% HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
	CHECK(said("a b|100%|-|/d/a b/100%|" RAW_SCHEME "://h"));
}

static void client_head(void)
{
	dial(port);
	put("HEAD /hello HTTP/1.1\r\nHost: h\r\n\r\n");
	get_head();
	CHECK(reply.status == 200 && has("\r\nContent-Length: 5\r\n"));
	put("HEAD /download/1000/length HTTP/1.1\r\nHost: h\r\n\r\n");
	get_head();
	CHECK(reply.status == 200 && has("\r\nContent-Length: 1000\r\n"));
	put("HEAD /nowhere HTTP/1.1\r\nHost: h\r\n\r\n");
	get_head();
	CHECK(reply.status == 404);
	put("HEAD /download/1000/chunked HTTP/1.1\r\nHost: h\r\n\r\n");
	get_head();
	CHECK(reply.status == 200 && at_end());
	expect_alone();
}

static void client_half_close(void)
{
	static const char *const requests[] = {
		"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /later HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
		"POST /later HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"PUT /upload?bite=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
		"PUT /late HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
	};

	for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
		dial(port);
		put(requests[i]);
		raw_half_close(conn.fd);
		CHECK(get_reply(true) == 200 && (said("hello") || said("5 99162322")));
		CHECK(at_end());
	}
	/* the same on a connection that has been used */
	dial(port);
	CHECK(ask(requests[1]) == 200);
	put(requests[1]);
	raw_half_close(conn.fd);
	CHECK(get_reply(true) == 200 && said("hello") && at_end());
	expect_alone();
}

static void client_disconnects(void)
{
	static const char *const requests[] = {
		"GET /hel",
		"GET /hello HTTP/1.1\r\nHost: h\r\nX",
		"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel",
		"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
		"PUT /upload?bite=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\nhello",
		"PUT /late HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\nhello",
		"PUT /stop HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\nhello",
		"POST /later HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
		"GET /download/67108864/length HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /download/67108864/chunked HTTP/1.1\r\nHost: h\r\n\r\n",
		"GET /hang HTTP/1.1\r\nHost: h\r\n\r\n",
	};
	struct linger reset = { 1, 0 };

	for (int how = 0; how < 4; how++)
		for (size_t i = 0; i < ARRAY_LEN(requests); i++) {
			dial(port);
			put(requests[i]);
			if (how & 1)
				usleep(5000);
			if (how & 2)
				setsockopt(conn.fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		}
	dial(port);
	CHECK(ask("GET /release HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
	expect_alone();
}

/* Connections of the server on that port that a process still holds (orphans have no inode). */
static size_t held(uint16_t at)
{
	char line[300];
	unsigned local;
	unsigned state;
	unsigned long inode;
	size_t count = 0;
	FILE *f = fopen("/proc/net/tcp", "re");

	CHECK(f);
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, " %*u: %*x:%x %*x:%*x %x %*x:%*x %*x:%*x %*x %*u %*u %lu", &local,
			   &state, &inode) == 3)
			count += local == at && state != 10 && inode;
	fclose(f);
	return count;
}

/* The server has taken all connections made before, and looks at none of them for a while. */
static void begin_nap(void)
{
	conn.fd = 0;
	dial(patient_port);
	CHECK(ask("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
	put("GET /nap?ms=300 HTTP/1.1\r\nHost: h\r\n\r\n");
	usleep(50000);
}

/* Requests whose last bytes and end of file are there before the server looks. */
static void client_ends_unseen(void)
{
	static const char *const requests[] = {
		"",
		"GET /hel",
		"GET /hello HTTP/1.1\r\nHost: h\r\nX",
		"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel",
		"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
		"PUT /upload?bite=1 HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\nhello",
		"PUT /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\nhello",
		"PUT /stop HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\nhello",
		"POST /secret HTTP/1.1\r\nHost: h\r\nContent-Length: 50\r\n\r\nhello",
	};
	static int fds[50 * ARRAY_LEN(requests)];
	size_t left = 0;

	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		conn.fd = 0;
		dial(patient_port);
		fds[i] = conn.fd;
	}
	begin_nap();
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		const char *text = requests[i % ARRAY_LEN(requests)];

		CHECK(!*text || raw_send(fds[i], text, strlen(text)) == (ssize_t)strlen(text));
		close(fds[i]);
	}
	CHECK(get_reply(true) == 200); /* of the nap */
	/* The same by chance. */
	for (size_t i = 0; i < 1000; i++) {
		dial(patient_port);
		put(requests[i % ARRAY_LEN(requests)]);
	}
	for (int i = 0; i < 1000; i++) {
		dial(patient_port);
		CHECK(ask("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n") == 200); /* all accepted */
		left = held(patient_port);
		if (left <= 2) /* this one, perhaps its predecessor */
			return;
		usleep(10000);
	}
	fprintf(stderr, "connections left over: %zu\n", left);
	_exit(1);
}

/* Whoever has sent all of a request and closed that half gets the answer, and then the end. */
static void client_half_close_waits(void)
{
	static const char *const requests[] = {
		"GET /hello HTTP/1.1\r\nHost: h\r\n\r\n",
		"POST /later?ms=2500 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
		"POST /later?ms=2500 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		"PUT /late?ms=2500 HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello",
	};
	static int fds[2 * ARRAY_LEN(requests)];

	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		conn.fd = 0;
		dial(patient_port);
		fds[i] = conn.fd;
	}
	begin_nap();
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		if (i == ARRAY_LEN(requests))
			CHECK(get_reply(true) == 200); /* of the nap: the others come awake */
		const char *text = requests[i % ARRAY_LEN(requests)];

		CHECK(!*text || raw_send(fds[i], text, strlen(text)) == (ssize_t)strlen(text));
		raw_half_close(fds[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		close(conn.fd);
		conn.fd = fds[i];
		conn.len = 0;
		CHECK(get_reply(true) == 200 && (said("hello") || said("5 99162322")));
		CHECK(at_end());
	}
}

static void client_upload(const char *framing, bool chunked, const char *query)
{
	static char piece[65536];
	char head[300];
	char want[64];
	unsigned sum = 0;

	for (size_t i = 0; i < sizeof(piece); i++)
		piece[i] = (char)(i * 7);
	for (size_t i = 0; i < BIG; i++)
		sum = sum * 31 + (unsigned char)piece[i % sizeof(piece)];
	snprintf(head, sizeof(head), "PUT /upload%s HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n", query,
		 framing);
	dial(port);
	unsigned long before = resident();

	put(head);
	for (size_t sent = 0; sent < BIG; sent += sizeof(piece)) {
		if (chunked)
			put("10000\r\n");
		put_n(piece, sizeof(piece));
		if (chunked)
			put("\r\n");
	}
	if (chunked)
		put("0\r\n\r\n");
	snprintf(want, sizeof(want), "%d %u", BIG, sum);
	CHECK(get_reply(true) == 200 && said(want));
	unsigned long after = resident();

	(void)before;
	(void)after;
#if !SANITIZED
	CHECK(after < before + 2 * 1024 * 1024);
#endif
}

static void client_uploads(void)
{
	client_upload("Content-Length: 67108864", false, "");
	client_upload("Content-Length: 67108864", false, "?bite=10000");
	client_upload("Transfer-Encoding: chunked", true, "?bite=10000");
	dial(port);
	CHECK(ask("PUT /late HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n") ==
		      200 &&
	      said("5 99162322"));
	CHECK(ask("PUT /upload HTTP/1.1\r\nHost: h\r\n\r\n") == 200 && said("0 0"));
	CHECK(ask("PUT /upload HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n") ==
	      100);
	CHECK(ask("hello") == 200 && said("5 99162322"));
}

static void client_early(void)
{
	static char body[1000000];

	memset(body, 'b', sizeof(body));
	/* little left: the connection stays */
	dial(port);
	CHECK(ask("PUT /stop HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello") == 409);
	CHECK(error_code("Conflict") && strstr(reply.body, "enough \\ufffd"));
	CHECK(ask("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
	/* much left: answered at once, read on for a while */
	put("PUT /stop HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n");
	put_n(body, 10);
	CHECK(get_reply(true) == 409 && has("\r\nConnection: close\r\n") && at_end());
	put_n(body, sizeof(body) - 10);
	dial(port);
	put("PUT /stop HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nf4240\r\n");
	put_n(body, sizeof(body));
	CHECK(get_reply(true) == 409 && at_end());
	dial(port);
	put("PUT /stop?how=stream HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n");
	CHECK(get_reply(true) == 409 && said("hello") && at_end());
	/* more than the socket holds */
	dial(port);
	put("PUT /stop?how=big HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nx");
	usleep(100000);
	put_n(body, sizeof(body) - 2);
	CHECK(get_reply(false) == 409 && reply.len == BIG && at_end());
	dial(port);
	put("PUT /stop?how=big HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nx");
	usleep(10000);
	close(conn.fd);
	conn.fd = 0;
	expect_alone();
}

static void client_downloads(void)
{
	dial(port);
	unsigned long before = resident();

	put("GET /download/67108864/length HTTP/1.1\r\nHost: h\r\n\r\n");
	usleep(300000); /* a client that does not read */
#if !SANITIZED
	struct conn saved = conn;

	conn.fd = 0;
	dial(port);
	CHECK(resident() < before + 2 * 1024 * 1024);
	close(conn.fd);
	conn = saved;
#else
	(void)before;
#endif
	CHECK(get_reply(false) == 200 && reply.len == BIG);
	put("GET /download/67108864/chunked HTTP/1.1\r\nHost: h\r\n\r\n");
	CHECK(get_reply(false) == 200 && reply.len == BIG);
	CHECK(ask("GET /download/0/chunked HTTP/1.1\r\nHost: h\r\n\r\n") == 200 && said(""));
	CHECK(ask("GET /download/0/length HTTP/1.1\r\nHost: h\r\n\r\n") == 200 && said(""));
	put("GET /download/1000/chunked HTTP/1.0\r\nHost: h\r\n\r\n");
	get_head();
	reply.len = 0;
	take_body(1000, false);
	CHECK(at_end());
	/* cut: no last chunk */
	dial(port);
	put("GET /download/1000/cut HTTP/1.1\r\nHost: h\r\n\r\n");
	while (raw_recv(conn.fd, conn.in, sizeof(conn.in)) > 0)
		CHECK(!memmem(conn.in, sizeof(conn.in), "0\r\n\r\n", 5));
	expect_alone();
}

static void client_idle(void)
{
	dial(port);
	put("GET /hel");
	CHECK(at_end()); /* the idle timeout of the test's server is two seconds */
}

static void client_leaves_hung(void)
{
	for (int i = 0; i < 3; i++) {
		dial(port);
		put("GET /hang HTTP/1.1\r\nHost: h\r\n\r\n");
	}
	dial(port);
	CHECK(ask("GET /hello HTTP/1.1\r\nHost: h\r\n\r\n") == 200);
}

/* ---- frame ---- */

/* ret_port: of the listener that clients use. */
static struct http_server *serve(struct http_config *config, uint16_t *ret_port, struct err *e)
{
#ifdef RAW_HTTP_TLS
	if (!tls)
		tls = tls_files_make();
	raw_ca_file = tls_ca_file;
	config->tls = tls;
	config->tls_socket_fd = tls_socket(ret_port);
	return tls ? http_server_new(config, NULL, e) : NULL;
#else
	return http_server_new(config, ret_port, e);
#endif
}

static int setup(void **state)
{
	struct http_config config = {
		.address = "127.0.0.1",
		.body_max = BODY_MAX,
		.idle_timeout_s = 2,
		.authorize = authorize,
		.finished = finished,
	};
	struct err e = ERR_INIT;

	(void)state;
	if (clients_init(&e) < 0)
		return -1;
	server = serve(&config, &port, &e);
	config.idle_timeout_s = 300;
	patient = server ? serve(&config, &patient_port, &e) : NULL;
	if (!patient || http_server_routes(server, routes, ARRAY_LEN(routes), NULL, &e) < 0 ||
	    http_server_routes(patient, routes, ARRAY_LEN(routes), NULL, &e) < 0) {
		fprintf(stderr, "%s\n", e.msg);
		return -1;
	}
	return 0;
}

static void test_server_free(void **state)
{
	(void)state;
	assert_int_equal(live, 3); /* left hanging */
	http_server_free(server);
	http_server_free(patient);
	assert_int_equal(live, 0);
	assert_true(finished_count >= started);
	clients_done();
#ifdef RAW_HTTP_TLS
	http_tls_free(tls);
	tls_files_done();
#endif
}

static void test_bad_address(void **state)
{
	struct http_config config = { .address = "localhost" };
	struct err e = ERR_INIT;

	(void)state;
	assert_null(http_server_new(&config, NULL, &e));
	assert_int_equal(e.code, ERR_INVALID);
	config.address = "127.0.0.1";
	config.port = port; /* taken */
	assert_null(http_server_new(&config, NULL, &e));
	assert_int_equal(e.code, ERR_SYSTEM);
	assert_true(fcntl(0, F_GETFD) >= 0); /* 0 was no socket of the server's */
}

static void test_socket_is_taken_over(void **state)
{
	char address[100];
	struct http_config config = { .address = address };
	struct err e = ERR_INIT;

	(void)state;
	memset(address, '1', sizeof(address) - 1);
	address[sizeof(address) - 1] = '\0';
	assert_int_equal(http_bind("127.0.0.1", 0, &config.socket_fd, &e), 0);
	assert_null(http_server_new(&config, NULL, &e));
	assert_int_equal(e.code, ERR_INVALID);
	assert_int_equal(fcntl(config.socket_fd, F_GETFD), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		client(keepalive),
		client(pipelining),
		client(bodies),
		client(refusals),
		client(framing),
		client(targets),
		client(head),
		client(half_close),
		client(disconnects),
		client(ends_unseen),
		client(half_close_waits),
		client(early),
		client(uploads),
		client(downloads),
		client(idle),
		client(leaves_hung),
		cmocka_unit_test(test_bad_address),
		cmocka_unit_test(test_socket_is_taken_over),
		cmocka_unit_test(test_server_free),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
