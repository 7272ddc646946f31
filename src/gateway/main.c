/* SPDX-License-Identifier: Apache-2.0 */

/*
 * bivouac-gateway: DNS and the connection log of sandboxes with egress. Not started by hand:
 * bivouac-jailer does it, with descriptors ready-made (base/gateway_proto.h).
 */

#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "base/own.h"
#include "base/str.h"
#include "gateway/gateway.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/** While something has a deadline, the loop looks at it this often. */
#define TICK_MS 100
/** Netlink datagrams taken before the others get their turn. */
#define DATAGRAMS_A_TURN 32

void gateway_watch(struct gateway *g, int fd, enum gateway_source source, unsigned index,
		   uint32_t events, bool add)
{
	struct epoll_event ev = { .events = events, .data.u64 = (uint64_t)source << 32 | index };

	epoll_ctl(g->epoll_fd, add ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &ev);
}

struct sandbox *gateway_sandbox(struct gateway *g, uint32_t address)
{
	if ((address & GATEWAY_SANDBOX_MASK) != GATEWAY_SANDBOX_NET)
		return NULL;
	return &g->sandboxes[address & ~GATEWAY_SANDBOX_MASK];
}

bool gateway_take(const struct gateway *g, int64_t *bucket_ns, unsigned per_s, unsigned burst)
{
	int64_t token_ns = 1000000000 / per_s;
	int64_t from_ns = *bucket_ns > g->now_ns ? *bucket_ns : g->now_ns;

	if (from_ns - g->now_ns > (int64_t)(burst - 1) * token_ns)
		return false;
	*bucket_ns = from_ns + token_ns;
	return true;
}

static void usage(FILE *out)
{
	fputs("usage: bivouac-gateway --uid UID --resolvers N --sockets-each M\nStarted by bivouac-jailer with its sockets as descriptors 3 and up; see docs/architecture.md.\n",
	      out);
}

static int parse_number(const char *option, uint64_t min, uint64_t max, unsigned *ret)
{
	uint64_t v;

	if (!str_to_u64(str_from(optarg), max, &v) || v < min) {
		fprintf(stderr, "bivouac-gateway: --%s: '%s' is not a number from %llu to %llu\n",
			option, optarg, (unsigned long long)min, (unsigned long long)max);
		return -1;
	}
	*ret = (unsigned)v;
	return 0;
}

static int parse(int argc, char **argv, struct gateway *g, uid_t *ret_uid)
{
	static const struct option options[] = {
		{ "uid", required_argument, NULL, 'u' },
		{ "resolvers", required_argument, NULL, 'r' },
		{ "sockets-each", required_argument, NULL, 's' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	bool resolvers = false;
	int rc = 0;

	*ret_uid = 0;
	for (int c; rc == 0 && (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case 'u': /* 2^32-1 is no user */
			rc = parse_number("uid", 1, UINT32_MAX - 1, ret_uid);
			break;
		case 'r':
			rc = parse_number("resolvers", 0, GATEWAY_RESOLVERS_MAX, &g->resolvers);
			resolvers = true;
			break;
		case 's':
			rc = parse_number("sockets-each", 1, GATEWAY_SOCKETS_MAX, &g->sockets_each);
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			rc = -1;
		}
	}
	return rc < 0 || optind != argc || !*ret_uid || !resolvers || !g->sockets_each ? -1 : 0;
}

static int check_descriptors(const struct gateway *g, struct err *e)
{
	int end = GATEWAY_UPSTREAM_FD + (int)(g->resolvers * g->sockets_each);
	struct stat st;

	for (int fd = GATEWAY_NFLOG_FD; fd < end; fd++)
		if (fstat(fd, &st) < 0 || !S_ISSOCK(st.st_mode))
			return err_set(
				e, ERR_INVALID,
				"descriptor %d is not a socket; bivouac-jailer starts this program",
				fd);
	/* Nothing else comes along, whatever the parent had open. */
	if (close_range((unsigned)end, ~0u, 0) < 0)
		return err_sys(e, "close_range");
	/* Alone in being used without MSG_DONTWAIT. */
	if (fd_set_nonblock(GATEWAY_TCP_FD, true) < 0)
		return err_sys(e, "listening socket");
	return 0;
}

static int watch_all(struct gateway *g, struct err *e)
{
	g->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (g->epoll_fd < 0)
		return err_sys(e, "epoll");
	gateway_watch(g, GATEWAY_NFLOG_FD, SOURCE_NFLOG, 0, EPOLLIN, true);
	gateway_watch(g, GATEWAY_CONNTRACK_FD, SOURCE_CONNTRACK, 0, EPOLLIN, true);
	gateway_watch(g, GATEWAY_UDP_FD, SOURCE_UDP, 0, EPOLLIN, true);
	gateway_watch(g, GATEWAY_TCP_FD, SOURCE_TCP, 0, EPOLLIN, true);
	gateway_watch(g, GATEWAY_RECORDS_FD, SOURCE_RECORDS, 0, EPOLLRDHUP, true);
	for (unsigned i = 0; i < g->resolvers * g->sockets_each; i++)
		gateway_watch(g, GATEWAY_UPSTREAM_FD + (int)i, SOURCE_UPSTREAM, i, EPOLLIN, true);
	return 0;
}

static void read_netlink(struct gateway *g, int fd)
{
	for (unsigned i = 0; i < DATAGRAMS_A_TURN && records_netlink(g, fd); i++)
		;
}

static void dispatch(struct gateway *g, const struct epoll_event *ev)
{
	unsigned index = (unsigned)ev->data.u64;

	switch ((enum gateway_source)(ev->data.u64 >> 32)) {
	case SOURCE_NFLOG:
		read_netlink(g, GATEWAY_NFLOG_FD);
		break;
	case SOURCE_CONNTRACK:
		read_netlink(g, GATEWAY_CONNTRACK_FD);
		break;
	case SOURCE_UDP:
		forward_udp_event(g);
		break;
	case SOURCE_TCP:
		stream_accept(g);
		break;
	case SOURCE_RECORDS: /* nothing comes from there but the end */
		g->ending = true;
		break;
	case SOURCE_UPSTREAM:
		forward_upstream_event(g, index);
		break;
	case SOURCE_STREAM:
		stream_event(g, index, ev->events);
		break;
	}
}

static void read_clock(struct gateway *g)
{
	g->now_ns = clock_mono_ns();
	g->now_ms = g->now_ns / 1000000;
}

static bool has_deadlines(const struct gateway *g)
{
	return !list_empty(&g->flights) || g->streams || g->records_lost ||
	       !list_empty(&g->refusing);
}

static int serve(struct gateway *g)
{
	while (!g->ending) {
		struct epoll_event events[64];
		int n = epoll_wait(g->epoll_fd, events, ARRAY_LEN(events),
				   has_deadlines(g) ? TICK_MS : -1);

		if (n < 0 && errno != EINTR) {
			log_error("epoll: errno %d", errno);
			return 71;
		}
		read_clock(g);
		for (int i = 0; i < n && !g->ending; i++)
			dispatch(g, &events[i]);
		forward_tick(g);
		stream_tick(g);
		records_tick(g);
	}
	return 0;
}

int main(int argc, char **argv)
{
	static struct gateway gateway;
	struct err e = ERR_INIT;
	uid_t uid;

	/* SECURITY: until the end of main's preparations this is root; nobody may look into it. */
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	log_init("gateway", LOG_INFO);
	tzset(); /* reads a file, which the log's clock could not do later */
	if (parse(argc, argv, &gateway, &uid) < 0) {
		usage(stderr);
		return 64;
	}
	records_init(&gateway);
	forward_init(&gateway);
	stream_init(&gateway);
	if (check_descriptors(&gateway, &e) < 0 || watch_all(&gateway, &e) < 0 ||
	    gateway_confine(uid, &e) < 0) {
		log_error("%s", e.msg);
		return err_exit_status(e.code);
	}
	return serve(&gateway);
}
