/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bivouac-bench-load: an HTTP/1.1 keep-alive client that measures bivouacd, request by request.
 *
 *   bivouac-bench-load MODE POOL-URL [n=N] [pace_us=N] [connections=N] [warmup_ms=N] [ms=N]
 *
 *   get    N times GET /health
 *   stream N streamed executions in one session: from the print to its first byte here
 *   live   N executions of 1+1 (command=1: shell commands) in one session, one after the other
 *   new    N new identifiers one after the other: execute (timed), delete (not timed), pause
 *   hold   N new identifiers one after the other, left alive (prefix=TEXT names them)
 *   burst  N new identifiers at once, each on its own connection; deleted afterwards, not timed
 *   rate   create, execute, delete in a circle on `connections` connections for `ms`
 *
 * The bearer token comes from BIVOUAC_BENCH_TOKEN. Every execution's answer is checked: a reply
 * that is not `2` ends the run with status 1. Output, one record a line: `sample NANOSECONDS
 * ALLOCATION_MS` per measured request, where the second is the daemon's x-ms-allocation-time (-1
 * if it sent none), and `total NAME NUMBER`.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CONNECTIONS_MAX 1024
#define REQUEST_MAX     8192
#define REPLY_MAX       65536
#define API_VERSION     "2025-02-02-preview"

struct settings {
	struct sockaddr_in address;
	char host[64];
	char path[512];
	const char *token;
	const char *prefix;
	long n, pace_us, connections, warmup_ms, ms, command;
};

struct reply {
	int status;
	double allocation_ms;
	const char *body;
	size_t body_len;
};

enum phase { IDLE, EXECUTING, DELETING };

struct conn {
	int fd;
	enum phase phase;
	int64_t started_ns;
	char id[96];
	size_t len;
	char in[REPLY_MAX];
};

static struct settings s = { .n = 100, .connections = 8, .warmup_ms = 1000, .ms = 5000 };

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	fputs("bivouac-bench-load: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void pause_us(long us)
{
	struct timespec t = { us / 1000000, us % 1000000 * 1000 };

	if (us > 0)
		nanosleep(&t, NULL);
}

static void next_id(char *id, size_t size)
{
	static long count;

	snprintf(id, size, "%s-%d-%ld", s.prefix ? s.prefix : "bench", (int)getpid(), ++count);
}

/* --- requests --- */

static size_t request_get(char *buf)
{
	return (size_t)snprintf(buf, REQUEST_MAX, "GET /health HTTP/1.1\r\nHost: %s\r\n\r\n",
				s.host);
}

static size_t request_execute(char *buf, const char *id)
{
	const char *body =
		s.command
			? "{\"shellCommand\":\"echo 2\"}"
			: "{\"codeInputType\":\"inline\",\"executionType\":\"synchronous\",\"code\":\"1+1\"}";

	return (size_t)snprintf(buf, REQUEST_MAX,
				"POST %s/executions?api-version=" API_VERSION
				"&identifier=%s HTTP/1.1\r\nHost: %s\r\n"
				"Authorization: Bearer %s\r\nContent-Type: application/json\r\n"
				"Content-Length: %zu\r\n\r\n%s",
				s.path, id, s.host, s.token, strlen(body), body);
}

/* Prints the time of its print, on the clock of the whole machine, and goes on for a while. */
static size_t request_stream(char *buf, const char *id)
{
	const char *body = "{\"code\":\"import time\\ntime.sleep(0.005)\\n"
			   "print(time.monotonic_ns())\\ntime.sleep(0.02)\"}";

	return (size_t)snprintf(buf, REQUEST_MAX,
				"POST %s/executions?api-version=" API_VERSION
				"&identifier=%s HTTP/1.1\r\nHost: %s\r\n"
				"Accept: text/event-stream\r\n"
				"Authorization: Bearer %s\r\nContent-Type: application/json\r\n"
				"Content-Length: %zu\r\n\r\n%s",
				s.path, id, s.host, s.token, strlen(body), body);
}

static size_t request_delete(char *buf, const char *id)
{
	return (size_t)snprintf(buf, REQUEST_MAX,
				"DELETE %s/session?api-version=" API_VERSION
				"&identifier=%s HTTP/1.1\r\nHost: %s\r\n"
				"Authorization: Bearer %s\r\n\r\n",
				s.path, id, s.host, s.token);
}

/* --- one connection --- */

static struct conn *conn_new(void)
{
	struct conn *c = calloc(1, sizeof(*c));
	int on = 1;

	if (!c)
		die("out of memory");
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&s.address, sizeof(s.address)) < 0)
		die("connect to %s: %s", s.host, strerror(errno));
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return c;
}

static void conn_free(struct conn *c)
{
	close(c->fd);
	free(c);
}

static void conn_send(struct conn *c, const char *buf, size_t len)
{
	if (len >= REQUEST_MAX)
		die("request too long");
	c->len = 0;
	c->started_ns = now_ns();
	/* One request is smaller than any socket buffer. */
	if (send(c->fd, buf, len, MSG_NOSIGNAL) != (ssize_t)len)
		die("send: %s", strerror(errno));
}

static const char *header(const char *head, const char *name)
{
	const char *line = strcasestr(head, name);

	return line ? line + strlen(name) : NULL;
}

/* True when the whole reply is there. */
static bool reply_parse(struct conn *c, struct reply *ret)
{
	c->in[c->len] = '\0';
	char *end = strstr(c->in, "\r\n\r\n");

	if (!end)
		return false;
	end[2] = '\0';
	const char *length = header(c->in, "\r\nContent-Length:");
	const char *allocation = header(c->in, "\r\nx-ms-allocation-time:");
	struct reply r = {
		.allocation_ms = allocation ? strtod(allocation, NULL) : -1,
		.body = end + 4,
		.body_len = length ? strtoul(length, NULL, 10) : 0,
	};

	if (sscanf(c->in, "HTTP/1.1 %d", &r.status) != 1)
		die("no HTTP reply: %.80s", c->in);
	end[2] = '\r';
	if (c->len < (size_t)(r.body - c->in) + r.body_len)
		return false;
	*ret = r;
	return true;
}

/* Reads what is there (at least one byte, unless the socket would block); true at a whole reply. */
static bool conn_receive(struct conn *c, struct reply *ret)
{
	ssize_t n = recv(c->fd, c->in + c->len, sizeof(c->in) - 1 - c->len, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (n <= 0)
		die("connection lost: %s", n < 0 ? strerror(errno) : "closed by the server");
	c->len += (size_t)n;
	return reply_parse(c, ret);
}

static void check_execution(const struct reply *r)
{
	const char *want = s.command ? "\"stdout\":\"2\\n\"" : "\"executionResult\":2,";

	if (r->status != 200 || !memmem(r->body, r->body_len, want, strlen(want)))
		die("unexpected reply %d: %.*s", r->status, (int)r->body_len, r->body);
}

static void check_deletion(const struct reply *r)
{
	if (r->status != 204)
		die("delete answered %d: %.*s", r->status, (int)r->body_len, r->body);
}

static int64_t exchange(struct conn *c, const char *buf, size_t len, struct reply *ret)
{
	conn_send(c, buf, len);
	while (!conn_receive(c, ret))
		;
	return now_ns() - c->started_ns;
}

static void delete_session(struct conn *c, const char *id)
{
	char buf[REQUEST_MAX];
	struct reply r;

	exchange(c, buf, request_delete(buf, id), &r);
	check_deletion(&r);
}

static void sample(int64_t ns, double allocation_ms)
{
	printf("sample %lld %.4f\n", (long long)ns, allocation_ms);
}

/* --- modes --- */

static void mode_get(void)
{
	struct conn *c = conn_new();
	char buf[REQUEST_MAX];
	struct reply r;

	for (long i = -50; i < s.n; i++) {
		int64_t ns = exchange(c, buf, request_get(buf), &r);

		if (r.status != 200)
			die("GET /health answered %d", r.status);
		if (i >= 0)
			sample(ns, -1);
	}
	conn_free(c);
}

static void mode_live(void)
{
	struct conn *c = conn_new();
	char buf[REQUEST_MAX], id[96];
	struct reply r;

	next_id(id, sizeof(id));
	for (long i = -50; i < s.n; i++) {
		int64_t ns = exchange(c, buf, request_execute(buf, id), &r);

		check_execution(&r);
		if (i >= 0)
			sample(ns, r.allocation_ms);
	}
	delete_session(c, id);
	conn_free(c);
}

static void mode_new(bool keep)
{
	struct conn *c = conn_new();
	char buf[REQUEST_MAX], id[96];
	struct reply r;

	for (long i = 0; i < s.n; i++) {
		next_id(id, sizeof(id));
		int64_t ns = exchange(c, buf, request_execute(buf, id), &r);

		check_execution(&r);
		sample(ns, r.allocation_ms);
		if (!keep)
			delete_session(c, id);
		pause_us(s.pace_us);
	}
	conn_free(c);
}

/* What came up to the end of the stream; the time since the print, once its figure is there. */
static int64_t stream_receive(struct conn *c, bool *over)
{
	ssize_t n = recv(c->fd, c->in + c->len, sizeof(c->in) - 1 - c->len, 0);
	int64_t now = now_ns(), printed = 0;

	if (n <= 0)
		die("stream lost after %zu bytes", c->len);
	c->len += (size_t)n;
	c->in[c->len] = '\0';
	*over = strstr(c->in, "event: result") && c->len >= 5 &&
		memcmp(c->in + c->len - 5, "0\r\n\r\n", 5) == 0;
	const char *event = strstr(c->in, "event: stdout");
	const char *figure = event ? strpbrk(event, "0123456789") : NULL;

	if (figure && strchr(figure, '}'))
		printed = strtoll(figure, NULL, 10);
	return printed ? now - printed : -1;
}

static void mode_stream(void)
{
	struct conn *c = conn_new();
	char buf[REQUEST_MAX], id[96];

	next_id(id, sizeof(id));
	for (long i = -5; i < s.n; i++) {
		int64_t took = -1;
		bool over = false;

		conn_send(c, buf, request_stream(buf, id));
		while (!over) {
			int64_t ns = stream_receive(c, &over);

			if (took < 0 && !over)
				took = ns;
		}
		if (took < 0 || !strstr(c->in, "\"status\":\"Succeeded\""))
			die("no output before the end: %s", c->in);
		if (i >= 0)
			sample(took, -1);
	}
	delete_session(c, id);
	conn_free(c);
}

static int watch(struct conn **conns, long n)
{
	int fd = epoll_create1(EPOLL_CLOEXEC);

	for (long i = 0; i < n; i++) {
		struct epoll_event ev = { .events = EPOLLIN, .data.ptr = conns[i] };

		if (fd < 0 || epoll_ctl(fd, EPOLL_CTL_ADD, conns[i]->fd, &ev) < 0)
			die("epoll: %s", strerror(errno));
	}
	return fd;
}

static void mode_burst(void)
{
	static struct conn *conns[CONNECTIONS_MAX];
	static int64_t took_ns[CONNECTIONS_MAX];
	static double allocation_ms[CONNECTIONS_MAX];
	struct epoll_event events[64];
	char buf[REQUEST_MAX];
	struct reply r;
	long answered = 0;

	for (long i = 0; i < s.n; i++) {
		conns[i] = conn_new();
		next_id(conns[i]->id, sizeof(conns[i]->id));
		exchange(conns[i], buf, request_get(buf), &r); /* the server has accepted it */
	}
	int epoll_fd = watch(conns, s.n);
	int64_t started = now_ns();

	for (long i = 0; i < s.n; i++)
		conn_send(conns[i], buf, request_execute(buf, conns[i]->id));
	while (answered < s.n) {
		int got = epoll_wait(epoll_fd, events, 64, 60000);

		if (got <= 0)
			die("burst: %ld of %ld answers after a minute", answered, s.n);
		for (int i = 0; i < got; i++) {
			struct conn *c = events[i].data.ptr;

			if (!conn_receive(c, &r))
				continue;
			check_execution(&r);
			took_ns[answered] = now_ns() - c->started_ns;
			allocation_ms[answered++] = r.allocation_ms;
		}
	}
	printf("total burst_ns %lld\n", (long long)(now_ns() - started));
	for (long i = 0; i < s.n; i++) {
		sample(took_ns[i], allocation_ms[i]);
		delete_session(conns[i], conns[i]->id);
		conn_free(conns[i]);
	}
	close(epoll_fd);
}

/* Time all processors together were busy since the machine started. */
static double machine_busy_s(void)
{
	unsigned long long user, nice, system, idle, iowait, irq, softirq;
	FILE *f = fopen("/proc/stat", "re");

	if (!f || fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &user, &nice, &system, &idle,
			 &iowait, &irq, &softirq) != 7)
		die("/proc/stat cannot be read");
	fclose(f);
	return (double)(user + nice + system + irq + softirq) / (double)sysconf(_SC_CLK_TCK);
}

static double own_busy_s(void)
{
	struct rusage u;

	getrusage(RUSAGE_SELF, &u);
	return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
	       (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void rate_create(struct conn *c)
{
	char buf[REQUEST_MAX];

	next_id(c->id, sizeof(c->id));
	c->phase = EXECUTING;
	conn_send(c, buf, request_execute(buf, c->id));
}

static void rate_delete(struct conn *c)
{
	char buf[REQUEST_MAX];

	c->phase = DELETING;
	conn_send(c, buf, request_delete(buf, c->id));
}

/* A reply came: goes on with the circle, or rests if it is over. True when a circle is complete. */
static bool rate_step(struct conn *c, const struct reply *r, bool measuring, bool over)
{
	if (c->phase == EXECUTING) {
		check_execution(r);
		if (measuring)
			sample(now_ns() - c->started_ns, r->allocation_ms);
		rate_delete(c);
		return false;
	}
	check_deletion(r);
	c->phase = IDLE;
	if (!over)
		rate_create(c);
	return true;
}

static void mode_rate(void)
{
	static struct conn *conns[CONNECTIONS_MAX];
	struct epoll_event events[64];
	struct reply r;
	long cycles = 0, all_cycles = 0, running = s.connections;

	for (long i = 0; i < s.connections; i++)
		conns[i] = conn_new();
	int epoll_fd = watch(conns, s.connections);
	int64_t begin = now_ns() + s.warmup_ms * 1000000, end = begin + s.ms * 1000000;
	int64_t began = 0, ended = 0;
	double busy = 0, own = 0;

	for (long i = 0; i < s.connections; i++)
		rate_create(conns[i]);
	while (running > 0) {
		int got = epoll_wait(epoll_fd, events, 64, 60000);
		int64_t now = now_ns();

		if (got <= 0)
			die("rate: no answer in a minute");
		if (!began && now >= begin) {
			began = now;
			busy = machine_busy_s();
			own = own_busy_s();
		}
		if (!ended && now >= end) {
			ended = now;
			busy = machine_busy_s() - busy;
			own = own_busy_s() - own;
		}
		for (int i = 0; i < got; i++) {
			struct conn *c = events[i].data.ptr;
			bool measuring = began && !ended;

			if (!conn_receive(c, &r))
				continue;
			if (rate_step(c, &r, measuring, ended != 0)) {
				cycles += measuring;
				all_cycles++;
			}
			running -= c->phase == IDLE;
		}
	}
	for (long i = 0; i < s.connections; i++)
		conn_free(conns[i]);
	close(epoll_fd);
	printf("total cycles %ld\ntotal all_cycles %ld\n", cycles, all_cycles);
	printf("total wall_s %.6f\ntotal busy_s %.6f\ntotal client_s %.6f\n",
	       (double)(ended - began) / 1e9, busy, own);
}

/* --- arguments --- */

static void parse_url(const char *url)
{
	char ip[48];
	int port, at = 0;

	if (sscanf(url, "http://%47[0-9.]:%d%n", ip, &port, &at) < 2 || !at)
		die("not a URL of the form http://IPV4:PORT/PATH: %s", url);
	s.address =
		(struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
	if (inet_pton(AF_INET, ip, &s.address.sin_addr) != 1 || strlen(url + at) >= sizeof(s.path))
		die("bad URL %s", url);
	strcpy(s.path, url + at);
	snprintf(s.host, sizeof(s.host), "%s:%d", ip, port);
}

static void parse_setting(const char *arg)
{
	static const struct {
		const char *name;
		long *to;
	} numbers[] = {
		{ "n=", &s.n },
		{ "pace_us=", &s.pace_us },
		{ "connections=", &s.connections },
		{ "warmup_ms=", &s.warmup_ms },
		{ "ms=", &s.ms },
		{ "command=", &s.command },
	};

	if (strncmp(arg, "prefix=", 7) == 0) {
		s.prefix = arg + 7;
		return;
	}
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		size_t len = strlen(numbers[i].name);

		if (strncmp(arg, numbers[i].name, len) == 0) {
			*numbers[i].to = strtol(arg + len, NULL, 10);
			return;
		}
	}
	die("unknown setting %s", arg);
}

int main(int argc, char **argv)
{
	if (argc < 3)
		die("usage: MODE POOL-URL [NAME=VALUE…]");
	const char *mode = argv[1];

	parse_url(argv[2]);
	for (int i = 3; i < argc; i++)
		parse_setting(argv[i]);
	s.token = getenv("BIVOUAC_BENCH_TOKEN");
	if (!s.token)
		die("BIVOUAC_BENCH_TOKEN is not set");
	if (s.n < 1 || s.connections < 1 || s.connections > CONNECTIONS_MAX ||
	    (strcmp(mode, "burst") == 0 && s.n > CONNECTIONS_MAX))
		die("n and connections are from 1 to %d", CONNECTIONS_MAX);
	if (strcmp(mode, "get") == 0)
		mode_get();
	else if (strcmp(mode, "stream") == 0)
		mode_stream();
	else if (strcmp(mode, "live") == 0)
		mode_live();
	else if (strcmp(mode, "new") == 0)
		mode_new(false);
	else if (strcmp(mode, "hold") == 0)
		mode_new(true);
	else if (strcmp(mode, "burst") == 0)
		mode_burst();
	else if (strcmp(mode, "rate") == 0)
		mode_rate();
	else
		die("unknown mode %s", mode);
	return 0;
}
