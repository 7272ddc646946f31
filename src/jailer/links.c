/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/links.h"

#include "base/own.h"

#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>

#define MESSAGE_SIZE 1024
#define DUMP_SIZE    32768

struct mnl_socket *links_open(struct err *e)
{
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_ROUTE, SOCK_CLOEXEC);

	if (nl && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) == 0)
		return nl;
	err_sys(e, "rtnetlink socket");
	links_close(nl);
	return NULL;
}

void links_close(struct mnl_socket *nl)
{
	if (nl)
		mnl_socket_close(nl);
}

/* Else it answers a request that was given up before; a datagram answers one only. */
static bool is_answer(const char *answer, size_t len, unsigned sequence)
{
	const struct nlmsghdr *nlh = (const void *)answer;

	return len >= sizeof(*nlh) && nlh->nlmsg_seq == sequence;
}

/* Sends one request and takes its answers: 0, or -1 with errno as the kernel said it. */
static int ask(struct mnl_socket *nl, struct nlmsghdr *nlh, mnl_cb_t fn, void *arg)
{
	static unsigned sequence;
	char answer[DUMP_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	int rc = MNL_CB_OK;

	nlh->nlmsg_seq = ++sequence;
	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -1;
	while (rc > MNL_CB_STOP) {
		ssize_t n = mnl_socket_recvfrom(nl, answer, sizeof(answer));

		if (n >= 0 && !is_answer(answer, (size_t)n, nlh->nlmsg_seq))
			continue;
		rc = n < 0 ? -1
			   : mnl_cb_run(answer, (size_t)n, nlh->nlmsg_seq,
					mnl_socket_get_portid(nl), fn, arg);
	}
	return rc;
}

static struct nlmsghdr *request(void *buf, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);

	nlh->nlmsg_type = type;
	nlh->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
	return nlh;
}

static void put_end(struct nlmsghdr *nlh, const struct link_end *end)
{
	struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifi));

	ifi->ifi_index = (int)end->index;
	ifi->ifi_flags = end->up ? IFF_UP : 0;
	ifi->ifi_change = IFF_UP;
	mnl_attr_put_strz(nlh, IFLA_IFNAME, end->name);
	/* Else it gets one queue for each processor of the machine. */
	mnl_attr_put_u32(nlh, IFLA_NUM_TX_QUEUES, 1);
	mnl_attr_put_u32(nlh, IFLA_NUM_RX_QUEUES, 1);
}

int links_add_pair(struct mnl_socket *nl, const struct link_end *here, const struct link_end *there,
		   int there_ns_fd, struct err *e)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *nlh = request(buf, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL);

	put_end(nlh, here);
	struct nlattr *info = mnl_attr_nest_start(nlh, IFLA_LINKINFO);

	mnl_attr_put_strz(nlh, IFLA_INFO_KIND, "veth");
	struct nlattr *data = mnl_attr_nest_start(nlh, IFLA_INFO_DATA);
	struct nlattr *peer = mnl_attr_nest_start(nlh, VETH_INFO_PEER);

	put_end(nlh, there);
	mnl_attr_put_u32(nlh, IFLA_NET_NS_FD, (uint32_t)there_ns_fd);
	mnl_attr_nest_end(nlh, peer);
	mnl_attr_nest_end(nlh, data);
	mnl_attr_nest_end(nlh, info);
	if (ask(nl, nlh, NULL, NULL) == 0)
		return 0;
	if (errno == EOPNOTSUPP)
		return err_set(e, ERR_UNAVAILABLE,
			       "this kernel has no veth interfaces (CONFIG_VETH, module veth)");
	return err_sys(e, "make interface %s", here->name);
}

int links_delete(struct mnl_socket *nl, const char *name, struct err *e)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *nlh = request(buf, RTM_DELLINK, 0);

	mnl_nlmsg_put_extra_header(nlh, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(nlh, IFLA_IFNAME, name);
	if (ask(nl, nlh, NULL, NULL) < 0 && errno != ENODEV)
		return err_sys(e, "delete interface %s", name);
	return 0;
}

int links_set_up(struct mnl_socket *nl, unsigned index, struct err *e)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *nlh = request(buf, RTM_NEWLINK, 0);
	struct ifinfomsg *ifi = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifi));

	ifi->ifi_index = (int)index;
	ifi->ifi_flags = IFF_UP;
	ifi->ifi_change = IFF_UP;
	return ask(nl, nlh, NULL, NULL) < 0 ? err_sys(e, "bring interface %u up", index) : 0;
}

int links_add_address(struct mnl_socket *nl, unsigned index, uint32_t address, unsigned prefix,
		      struct err *e)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *nlh = request(buf, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL);
	struct ifaddrmsg *ifa = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifa));

	ifa->ifa_family = AF_INET;
	ifa->ifa_prefixlen = (uint8_t)prefix;
	ifa->ifa_scope = RT_SCOPE_UNIVERSE;
	ifa->ifa_index = index;
	mnl_attr_put_u32(nlh, IFA_LOCAL, htonl(address));
	mnl_attr_put_u32(nlh, IFA_ADDRESS, htonl(address));
	return ask(nl, nlh, NULL, NULL) < 0 ? err_sys(e, "add an address") : 0;
}

static int ask_route(struct mnl_socket *nl, uint16_t type, uint16_t flags,
		     const struct link_route *r)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *nlh = request(buf, type, flags);
	struct rtmsg *rtm = mnl_nlmsg_put_extra_header(nlh, sizeof(*rtm));

	rtm->rtm_family = AF_INET;
	rtm->rtm_dst_len = (unsigned char)r->prefix;
	rtm->rtm_table = RT_TABLE_MAIN;
	rtm->rtm_protocol = RTPROT_STATIC;
	rtm->rtm_scope = r->via ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
	rtm->rtm_type = RTN_UNICAST;
	if (r->prefix)
		mnl_attr_put_u32(nlh, RTA_DST, htonl(r->to));
	mnl_attr_put_u32(nlh, RTA_OIF, r->index);
	if (r->via)
		mnl_attr_put_u32(nlh, RTA_GATEWAY, htonl(r->via));
	if (r->source)
		mnl_attr_put_u32(nlh, RTA_PREFSRC, htonl(r->source));
	return ask(nl, nlh, NULL, NULL);
}

int links_add_route(struct mnl_socket *nl, const struct link_route *r, struct err *e)
{
	return ask_route(nl, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, r) < 0
		       ? err_sys(e, "add a route")
		       : 0;
}

int links_delete_route(struct mnl_socket *nl, const struct link_route *r, struct err *e)
{
	return ask_route(nl, RTM_DELROUTE, 0, r) < 0 && errno != ESRCH && errno != ENODEV
		       ? err_sys(e, "delete a route")
		       : 0;
}

struct address_list {
	uint32_t *items;
	size_t max;
	size_t count;
};

/* Keeps the list sorted and free of repetitions. */
static void insert_address(struct address_list *l, uint32_t address)
{
	size_t stored = l->count < l->max ? l->count : l->max;
	size_t at = stored;

	while (at > 0 && l->items[at - 1] > address)
		at--;
	if (at > 0 && l->items[at - 1] == address)
		return;
	l->count++;
	if (at >= l->max)
		return;
	if (stored == l->max)
		stored--;
	memmove(l->items + at + 1, l->items + at, (stored - at) * sizeof(*l->items));
	l->items[at] = address;
}

static int take_attribute(const struct nlattr *attr, void *arg)
{
	const struct nlattr **local = arg;

	if (mnl_attr_get_type(attr) == IFA_LOCAL && mnl_attr_validate(attr, MNL_TYPE_U32) == 0)
		*local = attr;
	return MNL_CB_OK;
}

static int take_address(const struct nlmsghdr *nlh, void *arg)
{
	const struct nlattr *local = NULL;

	mnl_attr_parse(nlh, sizeof(struct ifaddrmsg), take_attribute, (void *)&local);
	if (local)
		insert_address(arg, ntohl(mnl_attr_get_u32(local)));
	return MNL_CB_OK;
}

int links_addresses(struct mnl_socket *nl, uint32_t *ret, size_t max, struct err *e)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *nlh = request(buf, RTM_GETADDR, NLM_F_DUMP);
	struct ifaddrmsg *ifa = mnl_nlmsg_put_extra_header(nlh, sizeof(*ifa));
	struct address_list list = { ret, max, 0 };

	ifa->ifa_family = AF_INET;
	if (ask(nl, nlh, take_address, &list) < 0)
		return err_sys(e, "list the host's addresses");
	return (int)list.count;
}

int links_watch(struct err *e)
{
	OWNED_FD int fd =
		socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_ROUTE);
	struct sockaddr_nl addr = { .nl_family = AF_NETLINK, .nl_groups = RTMGRP_IPV4_IFADDR };

	if (fd < 0 || bind(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(e, "watch the host's addresses");
	return take_fd(fd);
}
