/* SPDX-License-Identifier: Apache-2.0 */
#include "http/internal.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

/*
 * We accept ourselves and hand MHD the connections: connections_max holds for all listeners
 * together, and MHD does not say when it stops accepting because descriptors have run out.
 */

#define LISTEN_BACKLOG 1024
/* Then other watchers of the loop get their turn. */
#define ACCEPT_AT_ONCE 32

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

int http_bind(const char *address, uint16_t port, int *ret_fd, struct err *e)
{
	union address sa = { 0 };
	socklen_t sa_len;
	int on = 1;

	if (inet_pton(AF_INET, address, &sa.v4.sin_addr) == 1) {
		sa.v4.sin_family = AF_INET;
		sa.v4.sin_port = htons(port);
		sa_len = sizeof(sa.v4);
	} else if (inet_pton(AF_INET6, address, &sa.v6.sin6_addr) == 1) {
		sa.v6.sin6_family = AF_INET6;
		sa.v6.sin6_port = htons(port);
		sa_len = sizeof(sa.v6);
	} else {
		return err_set(e, ERR_INVALID, "not an IP address to listen on: %s", address);
	}
	OWNED_FD int fd = socket(sa.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_sys(e, "socket");
	/* TCP_NODELAY of the listener is inherited by what it accepts. */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
	    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) < 0)
		return err_sys(e, "setsockopt");
	if (bind(fd, &sa.any, sa_len) < 0)
		return err_sys(e, "listen on %s port %u", address, port);
	*ret_fd = take_fd(fd);
	return 0;
}

static void watch_door(struct listener *l, bool on)
{
	if (l->door && l->door_watched != on) {
		l->door_watched = on;
		loop_watch_set(l->door, on ? LOOP_READ : 0);
	}
}

void doors_open(struct http_server *s)
{
	for (int i = 0; i < LISTENERS; i++)
		watch_door(&s->listeners[i], true);
}

/* One leaves for the one at the door. */
static bool make_place(struct http_server *s)
{
	if (!peers_make_room(s))
		return false;
	server_pump(s); /* MHD closes it */
	return true;
}

static int accept_one(const struct listener *l, union address *sa, socklen_t *sa_len)
{
	int fd;

	do {
		*sa_len = sizeof(*sa);
		fd = accept4(l->fd, &sa->any, sa_len, SOCK_NONBLOCK | SOCK_CLOEXEC);
	} while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	return fd;
}

static void on_door(void *arg, int events)
{
	struct listener *l = arg;
	struct http_server *s = l->server;
	union address sa;
	socklen_t sa_len;

	(void)events;
	for (int i = 0; i < ACCEPT_AT_ONCE; i++) {
		/* That somebody is at the door is known of the first only. */
		if (peers_full(s) && i)
			break;
		if (peers_full(s) && (!make_place(s) || peers_full(s))) {
			/* With authorized requests on all places, who waits at the door goes on
			 * waiting, until a place gets free or the next check. */
			watch_door(l, false);
			break;
		}
		int fd = accept_one(l, &sa, &sa_len);

		if (fd < 0 && (errno == EMFILE || errno == ENFILE) && make_place(s))
			fd = accept_one(l, &sa, &sa_len);
		if (fd < 0 && errno != EAGAIN) {
			/* Out of descriptors or memory: the next check tries again. */
			watch_door(l, false);
			peers_watch(s);
		}
		if (fd < 0)
			break;
		MHD_add_connection(l->mhd, fd, &sa.any, sa_len);
	}
	server_pump(s);
}

int listener_open(struct listener *l, int bound_fd, uint16_t port, struct err *e)
{
	struct http_server *s = l->server;
	union address sa;
	socklen_t sa_len = sizeof(sa);

	l->fd = bound_fd;
	if (l->fd < 0 && http_bind(s->address, port, &l->fd, e) < 0)
		return -1;
	if (listen(l->fd, LISTEN_BACKLOG) < 0)
		return err_sys(e, "listen on %s port %u", s->address, port);
	if (getsockname(l->fd, &sa.any, &sa_len) < 0)
		return err_sys(e, "getsockname");
	l->port = ntohs(sa.any.sa_family == AF_INET ? sa.v4.sin_port : sa.v6.sin6_port);
	l->door = loop_watch_new(l->fd, on_door, l);
	if (!l->door)
		return err_set(e, ERR_NOMEM, "out of memory");
	watch_door(l, true);
	return 0;
}

void listener_close(struct listener *l)
{
	loop_watch_free(l->door);
	l->door = NULL;
	close_fd(&l->fd);
}
