/* SPDX-License-Identifier: Apache-2.0 */
#include "base/str.h"
#include "gateway/flows.h"
#include "gateway/gateway.h"

#include <errno.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define DATAGRAM_MAX 65536
#define DNS_PORT     53

void records_init(struct gateway *g)
{
	list_init(&g->refusing);
}

static bool send_now(struct gateway *g, const struct flow_record *r)
{
	ssize_t n = send(GATEWAY_RECORDS_FD, r, sizeof(*r), MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
		g->ending = true; /* nobody to work for */
	return n >= 0;
}

static void flush(struct gateway *g)
{
	struct flow_record r = { .version = FLOW_PROTO_VERSION,
				 .event = FLOW_LOST,
				 .count = g->records_lost };

	if (g->records_lost && send_now(g, &r))
		g->records_lost = 0;
}

void records_lost(struct gateway *g, uint64_t count)
{
	g->records_lost += count;
	flush(g);
}

void records_send(struct gateway *g, const struct flow_record *r)
{
	flush(g);
	if (g->records_lost || !send_now(g, r))
		g->records_lost++;
}

/* SECURITY: one sandbox's flood of connections must not push out the records of the others. */
static void send_flow(void *arg, const struct flow_record *r)
{
	struct gateway *g = arg;
	struct sandbox *s = gateway_sandbox(g, r->session);

	if (s && gateway_take(g, &s->records_ns, RECORDS_PER_S, RECORDS_BURST))
		records_send(g, r);
	else
		g->records_lost++;
}

bool records_netlink(struct gateway *g, int fd)
{
	static char data[DATAGRAM_MAX] __attribute__((aligned(8)));
	struct sockaddr_nl from = { 0 };
	struct iovec iov = { data, sizeof(data) };
	struct msghdr msg = {
		.msg_name = &from, .msg_namelen = sizeof(from), .msg_iov = &iov, .msg_iovlen = 1
	};
	ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);

	if (n < 0) {
		/* The kernel had more to tell than the socket holds: how much, it does not say. */
		if (errno == ENOBUFS)
			records_lost(g, 1);
		return errno == ENOBUFS;
	}
	if (msg.msg_flags & MSG_TRUNC)
		records_lost(g, 1);
	else if (from.nl_pid == 0) /* the kernel, not a process */
		flows_parse(data, (size_t)n, send_flow, g);
	return n > 0;
}

static uint32_t address_of(const struct gateway *g, const struct sandbox *s)
{
	return GATEWAY_SANDBOX_NET | (uint32_t)(s - g->sandboxes);
}

void records_name(struct gateway *g, struct sandbox *s, uint8_t protocol, const struct dns_query *q)
{
	uint64_t hash = hash_bytes(q->name, q->name_len);
	struct flow_record r = { .version = FLOW_PROTO_VERSION,
				 .event = FLOW_DNS,
				 .protocol = protocol,
				 .port = DNS_PORT,
				 .session = address_of(g, s),
				 .address = GATEWAY_ADDRESS };

	_Static_assert(DNS_TEXT_SIZE <= FLOW_NAME_SIZE, "a name fits its record");
	/* Whoever looks a name up asks for both kinds of address. */
	if (s->name_hash == hash && s->name_ms && g->now_ms - s->name_ms < NAME_EACH_MS)
		return;
	s->name_hash = hash;
	s->name_ms = g->now_ms;
	dns_text(q, r.name);
	records_send(g, &r);
}

static void report_refused(struct gateway *g, struct sandbox *s)
{
	struct flow_record r = { .version = FLOW_PROTO_VERSION,
				 .event = FLOW_REFUSED,
				 .reason = FLOW_REASON_QUERY,
				 .protocol = s->refused_protocol,
				 .port = DNS_PORT,
				 .session = address_of(g, s),
				 .address = GATEWAY_ADDRESS,
				 .count = s->refused };

	if (s->refused_ms && g->now_ms - s->refused_ms < REFUSED_EACH_MS)
		return;
	s->refused = 0;
	s->refused_ms = g->now_ms;
	list_remove(&s->refused_node);
	records_send(g, &r);
}

void records_refused(struct gateway *g, struct sandbox *s, uint8_t protocol)
{
	s->refused_protocol = protocol;
	if (!s->refused++)
		list_add_tail(&g->refusing, &s->refused_node);
	report_refused(g, s);
}

void records_tick(struct gateway *g)
{
	flush(g);
	list_each(&g->refusing, struct sandbox, refused_node, s)
		report_refused(g, s);
}
