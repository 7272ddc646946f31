/* SPDX-License-Identifier: Apache-2.0 */
/*
 * bivouac-bench-floors: what this machine cannot do faster, so that the rest can be read as ratios.
 *
 *   bivouac-bench-floors http N        HTTP/1.1 round trip over loopback, keep-alive, with an epoll
 *                                      server that answers from a buffer
 *   bivouac-bench-floors worker N      round trip with a forked process over a SOCK_SEQPACKET pair
 *   bivouac-bench-floors fork N KIB HUGE_KIB
 *                                      fork of a process with so much touched private memory in
 *                                      small and in huge pages, whose child exits, and wait
 *
 * Output: one line `sample NANOSECONDS` per measurement. Sizes of the messages are those of a
 * bivouacd execution: about 1 KiB of request, 1 KiB of reply.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WARMUP 100

__attribute__((noreturn)) static void die(const char *what)
{
	fprintf(stderr, "bivouac-bench-floors: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void sample(long i, int64_t ns)
{
	if (i >= 0)
		printf("sample %lld\n", (long long)ns);
}

/* The child dies with its parent. */
static pid_t spawn(void)
{
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* --- http --- */

static const char pad[] = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

static size_t http_message(char *buf, size_t size, const char *first, int lines)
{
	size_t len = (size_t)snprintf(buf, size, "%s\r\nContent-Length: 64\r\n", first);

	for (int i = 0; i < lines; i++)
		len += (size_t)snprintf(buf + len, size - len, "X-Pad-%d: %s\r\n", i, pad);
	return len + (size_t)snprintf(buf + len, size - len, "\r\n%s", pad);
}

/* Bytes of the message at the start of buf, 0 if it is not complete. */
static size_t http_complete(const char *buf)
{
	const char *end = strstr(buf, "\r\n\r\n");
	const char *length = end ? strcasestr(buf, "\r\nContent-Length:") : NULL;

	if (!length)
		return 0;
	size_t whole = (size_t)(end + 4 - buf) + strtoul(length + 17, NULL, 10);

	return strlen(buf) >= whole ? whole : 0;
}

static void http_serve(int listen_fd)
{
	static char in[65536], out[4096];
	size_t len = 0, out_len = http_message(out, sizeof(out), "HTTP/1.1 200 OK", 11);
	int epoll_fd = epoll_create1(EPOLL_CLOEXEC), on = 1;
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = listen_fd };

	if (epoll_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, listen_fd, &ev) < 0)
		die("epoll");
	for (;;) {
		if (epoll_wait(epoll_fd, &ev, 1, -1) != 1)
			continue;
		if (ev.data.fd == listen_fd) {
			int fd = accept(listen_fd, NULL, NULL);

			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
			ev = (struct epoll_event){ .events = EPOLLIN, .data.fd = fd };
			if (fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
				die("accept");
			continue;
		}
		ssize_t n = recv(ev.data.fd, in + len, sizeof(in) - 1 - len, 0);

		if (n <= 0)
			_exit(0);
		len += (size_t)n;
		in[len] = '\0';
		if (!http_complete(in))
			continue;
		len = 0;
		if (send(ev.data.fd, out, out_len, MSG_NOSIGNAL) != (ssize_t)out_len)
			_exit(1);
	}
}

static void floor_http(long n)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	static char out[4096], in[65536];
	socklen_t size = sizeof(a);
	int on = 1, listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (listen_fd < 0 || bind(listen_fd, (struct sockaddr *)&a, size) < 0 ||
	    listen(listen_fd, 16) < 0 || getsockname(listen_fd, (struct sockaddr *)&a, &size) < 0)
		die("listen");
	if (spawn() == 0)
		http_serve(listen_fd);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	size_t out_len = http_message(out, sizeof(out), "POST /executions HTTP/1.1", 12);

	if (fd < 0 || connect(fd, (struct sockaddr *)&a, size) < 0)
		die("connect");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	for (long i = -WARMUP; i < n; i++) {
		int64_t started = now_ns();
		size_t len = 0;

		if (send(fd, out, out_len, MSG_NOSIGNAL) != (ssize_t)out_len)
			die("send");
		do {
			ssize_t got = recv(fd, in + len, sizeof(in) - 1 - len, 0);

			if (got <= 0)
				die("recv");
			len += (size_t)got;
			in[len] = '\0';
		} while (!http_complete(in));
		sample(i, now_ns() - started);
	}
}

/* --- worker --- */

static void floor_worker(long n)
{
	char buf[256] = { 0 };
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		die("socketpair");
	if (spawn() == 0) {
		ssize_t got;

		close(fds[0]);
		while ((got = recv(fds[1], buf, sizeof(buf), 0)) > 0)
			if (send(fds[1], buf, (size_t)got, MSG_NOSIGNAL) != got)
				break;
		_exit(0);
	}
	close(fds[1]);
	for (long i = -WARMUP; i < n; i++) {
		int64_t started = now_ns();

		if (send(fds[0], buf, 128, MSG_NOSIGNAL) != 128 ||
		    recv(fds[0], buf, sizeof(buf), 0) != 128)
			die("worker");
		sample(i, now_ns() - started);
	}
	close(fds[0]);
	wait(NULL);
}

/* --- fork --- */

static void touch(size_t kib, int advice)
{
	const size_t huge = 2 << 20;
	size_t size = kib * 1024;
	char *memory =
		mmap(NULL, size + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		die("mmap");
	memory += huge - (uintptr_t)memory % huge;
	madvise(memory, size, advice);
	memset(memory, 1, size);
}

static void floor_fork(long n, size_t kib, size_t huge_kib)
{
	touch(kib, MADV_NOHUGEPAGE);
	touch(huge_kib, MADV_HUGEPAGE);
	for (long i = -3; i < n; i++) {
		int64_t started = now_ns();
		pid_t pid = fork();

		if (pid == 0)
			_exit(0);
		if (pid < 0 || waitpid(pid, NULL, 0) != pid)
			die("fork");
		sample(i, now_ns() - started);
	}
}

int main(int argc, char **argv)
{
	static char buffer[1 << 20]; /* no write between two measurements */
	long n = argc > 2 ? strtol(argv[2], NULL, 10) : 0;

	setvbuf(stdout, buffer, _IOFBF, sizeof(buffer));
	if (argc == 3 && n > 0 && strcmp(argv[1], "http") == 0)
		floor_http(n);
	else if (argc == 3 && n > 0 && strcmp(argv[1], "worker") == 0)
		floor_worker(n);
	else if (argc == 5 && n > 0 && strcmp(argv[1], "fork") == 0)
		floor_fork(n, strtoul(argv[3], NULL, 10), strtoul(argv[4], NULL, 10));
	else {
		fputs("usage: bivouac-bench-floors http N | worker N | fork N KIB HUGE_KIB\n",
		      stderr);
		return 2;
	}
	return 0;
}
