/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/netfilter.h"

#include "base/buf.h"
#include "base/fdio.h"
#include "base/gateway_proto.h"
#include "base/own.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <string.h>
#include <sys/socket.h>

#define MESSAGE_SIZE 1024
#define DUMP_SIZE    32768
#define EVENTS_BYTES (4 << 20)
#define TUPLES_MAX   (8u << 20)

static struct nlmsghdr *request(void *buf, unsigned type, uint16_t flags, uint8_t family,
				uint16_t resource)
{
	static unsigned sequence;
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *nfg = mnl_nlmsg_put_extra_header(nlh, sizeof(*nfg));

	nlh->nlmsg_type = (uint16_t)type;
	nlh->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
	nlh->nlmsg_seq = ++sequence;
	nfg->nfgen_family = family;
	nfg->version = NFNETLINK_V0;
	nfg->res_id = htons(resource);
	return nlh;
}

static int ask(struct mnl_socket *nl, struct nlmsghdr *nlh, mnl_cb_t fn, void *arg)
{
	char answer[DUMP_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	int rc = MNL_CB_OK;

	if (mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		return -1;
	while (rc > MNL_CB_STOP) {
		ssize_t n = mnl_socket_recvfrom(nl, answer, sizeof(answer));

		rc = n < 0 ? -1
			   : mnl_cb_run(answer, (size_t)n, nlh->nlmsg_seq,
					mnl_socket_get_portid(nl), fn, arg);
	}
	return rc;
}

static struct mnl_socket *open_socket(struct err *e)
{
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);

	if (nl && mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) == 0)
		return nl;
	err_sys(e, "netfilter socket (CONFIG_NETFILTER_NETLINK)");
	if (nl)
		mnl_socket_close(nl);
	return NULL;
}

/* A descriptor of its own, without libmnl's wrapper. */
static int detach(struct mnl_socket *nl, struct err *e)
{
	OWNED_FD int fd = fcntl(mnl_socket_get_fd(nl), F_DUPFD_CLOEXEC, 3);
	int room = EVENTS_BYTES;

	mnl_socket_close(nl);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0 ||
	    fd_set_nonblock(fd, true) < 0)
		return err_sys(e, "netfilter socket");
	return take_fd(fd);
}

static int configure_log(struct mnl_socket *nl)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	const unsigned type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
	struct nfulnl_msg_config_cmd bind = { NFULNL_CFG_CMD_BIND };
	struct nfulnl_msg_config_mode mode = { .copy_range = htonl(GATEWAY_LOG_BYTES),
					       .copy_mode = NFULNL_COPY_PACKET };
	struct nlmsghdr *nlh = request(buf, type, 0, AF_UNSPEC, GATEWAY_LOG_GROUP);

	mnl_attr_put(nlh, NFULA_CFG_CMD, sizeof(bind), &bind);
	if (ask(nl, nlh, NULL, NULL) < 0)
		return -1;
	nlh = request(buf, type, 0, AF_UNSPEC, GATEWAY_LOG_GROUP);
	mnl_attr_put(nlh, NFULA_CFG_MODE, sizeof(mode), &mode);
	mnl_attr_put_u32(nlh, NFULA_CFG_TIMEOUT, htonl(10)); /* hundredths of a second */
	return ask(nl, nlh, NULL, NULL);
}

int netfilter_open_log(struct err *e)
{
	struct mnl_socket *nl = open_socket(e);

	if (!nl)
		return -1;
	if (configure_log(nl) == 0)
		return detach(nl, e);
	err_sys(e, "packet log (CONFIG_NETFILTER_NETLINK_LOG)");
	mnl_socket_close(nl);
	return -1;
}

static int open_group(int group, const char *what, struct err *e)
{
	struct mnl_socket *nl = open_socket(e);

	if (!nl)
		return -1;
	if (mnl_socket_setsockopt(nl, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) == 0)
		return detach(nl, e);
	err_sys(e, "%s", what);
	mnl_socket_close(nl);
	return -1;
}

int netfilter_open_ends(struct err *e)
{
	return open_group(NFNLGRP_CONNTRACK_DESTROY, "connection events (CONFIG_NF_CT_NETLINK)", e);
}

int netfilter_open_changes(struct err *e)
{
	return open_group(NFNLGRP_NFTABLES, "ruleset events (CONFIG_NF_TABLES)", e);
}

int netfilter_has_table(const char *name, struct err *e)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct mnl_socket *nl = open_socket(e);
	struct nlmsghdr *nlh =
		request(buf, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, 0, NFPROTO_INET, 0);

	if (!nl)
		return -1;
	mnl_attr_put_strz(nlh, NFTA_TABLE_NAME, name);
	int rc = ask(nl, nlh, NULL, NULL) == 0 ? 1 : errno == ENOENT ? 0 : -1;

	if (rc < 0)
		err_sys(e, "look for a ruleset");
	mnl_socket_close(nl);
	return rc;
}

static const struct nlattr *inner(const struct nlattr *outer, uint16_t type)
{
	const struct nlattr *attr;

	mnl_attr_for_each_nested(attr, outer)
	{
		if (mnl_attr_get_type(attr) == type)
			return attr;
	}
	return NULL;
}

struct walk {
	bool (*ended)(void *arg, uint32_t address);
	void *arg;
	struct buf tuples;
};

/* Keeps an entry's original tuple as the kernel wrote it: what it takes to delete that entry. */
static int keep_tuple(const struct nlmsghdr *nlh, void *arg)
{
	struct walk *w = arg;
	const struct nlattr *attr;

	mnl_attr_for_each(attr, nlh, sizeof(struct nfgenmsg))
	{
		if (mnl_attr_get_type(attr) != CTA_TUPLE_ORIG)
			continue;
		const struct nlattr *ip = inner(attr, CTA_TUPLE_IP);
		const struct nlattr *from = ip ? inner(ip, CTA_IP_V4_SRC) : NULL;

		if (from && mnl_attr_validate(from, MNL_TYPE_U32) == 0 &&
		    w->ended(w->arg, ntohl(mnl_attr_get_u32(from))))
			buf_add(&w->tuples, attr, MNL_ALIGN(attr->nla_len));
	}
	return MNL_CB_OK;
}

static int list_tuples(struct mnl_socket *nl, struct walk *w)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));

	return ask(nl,
		   request(buf, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET, NLM_F_DUMP, AF_INET,
			   0),
		   keep_tuple, w);
}

static int delete_tuple(struct mnl_socket *nl, const struct nlattr *tuple)
{
	char buf[MESSAGE_SIZE] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *nlh =
		request(buf, NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE, 0, AF_INET, 0);

	mnl_attr_put(nlh, CTA_TUPLE_ORIG | NLA_F_NESTED, mnl_attr_get_payload_len(tuple),
		     mnl_attr_get_payload(tuple));
	/* One that ended in the meantime is no loss. */
	return ask(nl, nlh, NULL, NULL) < 0 && errno != ENOENT ? -1 : 0;
}

int netfilter_forget(bool (*ended)(void *arg, uint32_t address), void *arg, struct err *e)
{
	struct mnl_socket *nl = open_socket(e);
	struct walk w = { .ended = ended, .arg = arg };

	if (!nl)
		return -1;
	buf_init(&w.tuples, TUPLES_MAX);
	int rc = list_tuples(nl, &w);

	for (size_t at = 0; rc == 0 && at < w.tuples.len;) {
		const struct nlattr *tuple = (const void *)(w.tuples.ptr + at);

		rc = delete_tuple(nl, tuple);
		at += MNL_ALIGN(tuple->nla_len);
	}
	if (rc == 0 && !buf_ok(&w.tuples))
		rc = err_set(e, ERR_NOMEM, "end the connections of sandboxes: too many");
	else if (rc < 0)
		err_sys(e, "end the connections of sandboxes");
	buf_done(&w.tuples);
	mnl_socket_close(nl);
	return rc;
}
