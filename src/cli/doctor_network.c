/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor.h"

#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Loading a ruleset for the first time may load a dozen kernel modules. */
#define NFT_DEADLINE_MS 15000

/* One of each expression that the ruleset of egress is made of, and its log group. */
static const char ruleset[] =
	"table inet bivouac_doctor {\n"
	"set ranges { type ipv4_addr; flags interval; auto-merge; elements = { 10.0.0.0/8 } }\n"
	"set open { type ipv4_addr; flags dynamic; size 16; }\n"
	"set speed { type ipv4_addr; flags dynamic,timeout; timeout 1m; size 16; }\n"
	"chain raw {\n"
	"type filter hook prerouting priority raw; policy accept;\n"
	"fib saddr . iif oif 0 drop\n"
	"udp dport 53 notrack\n"
	"}\n"
	"chain forward {\n"
	"type filter hook forward priority filter; policy drop;\n"
	"ct state established,related accept\n"
	"ip daddr @ranges reject with icmpx admin-prohibited\n"
	"update @speed { ip saddr limit rate over 1000 bytes/second burst 2000 bytes } drop\n"
	"add @open { ip saddr ct count over 8 } drop\n"
	"log prefix \"x\" group 2 snaplen 64\n"
	"}\n"
	"chain post {\n"
	"type nat hook postrouting priority srcnat; policy accept;\n"
	"masquerade\n"
	"}\n"
	"}\n";

static const char loss[] = "pools with EgressEnabled have no network; others do not need it: ";

static void add_trial(struct doctor *d, const char *what, const char *fix, const struct trial *t)
{
	char text[400];

	snprintf(text, sizeof(text), "%s%s", loss, fix);
	doctor_add(d, t->result == TRIAL_OK ? FINDING_OK : FINDING_WARN, what, text, "%s", t->text);
}

static bool own_network(struct trial *t)
{
	if (unshare(CLONE_NEWNET) == 0)
		return true;
	trial_set(t, TRIAL_FAILED, "no network namespace to try it in: %s", strerror(errno));
	return false;
}

/** A request to make a pair of veth; room for its attributes, which are nested. */
struct veth_request {
	struct nlmsghdr head;
	struct ifinfomsg link;
	char attributes[128];
};

static struct rtattr *add_attribute(struct veth_request *rq, unsigned short type, const void *data,
				    size_t len)
{
	struct rtattr *a = (struct rtattr *)((char *)rq + NLMSG_ALIGN(rq->head.nlmsg_len));

	a->rta_type = type;
	a->rta_len = (unsigned short)RTA_LENGTH(len);
	if (len)
		memcpy(RTA_DATA(a), data, len);
	rq->head.nlmsg_len = NLMSG_ALIGN(rq->head.nlmsg_len) + (unsigned)RTA_ALIGN(a->rta_len);
	return a;
}

static void end_nested(const struct veth_request *rq, struct rtattr *a)
{
	a->rta_len = (unsigned short)((const char *)rq + rq->head.nlmsg_len - (const char *)a);
}

static void trial_veth(struct trial *t, const void *arg)
{
	struct veth_request rq = { .head = { .nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)),
					     .nlmsg_type = RTM_NEWLINK,
					     .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK |
							    NLM_F_CREATE | NLM_F_EXCL } };
	struct {
		struct nlmsghdr head;
		struct nlmsgerr error;
	} reply;

	(void)arg;
	if (!own_network(t))
		return;
	struct rtattr *info = add_attribute(&rq, IFLA_LINKINFO, NULL, 0);

	add_attribute(&rq, IFLA_INFO_KIND, "veth", 4);
	end_nested(&rq, info);
	OWNED_FD int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	if (fd < 0 || send(fd, &rq, rq.head.nlmsg_len, 0) < 0 ||
	    recv(fd, &reply, sizeof(reply), 0) < (ssize_t)sizeof(reply.head) + 4)
		trial_set(t, TRIAL_FAILED, "netlink: %s", strerror(errno));
	else if (reply.head.nlmsg_type != NLMSG_ERROR || reply.error.error)
		trial_set(t, TRIAL_FAILED, "a pair of veth cannot be made: %s",
			  strerror(-reply.error.error));
	else
		trial_set(t, TRIAL_OK, "a pair was made in a network namespace");
}

/** exec_nft: by its system path and with an environment of its own, as bivouacd runs it; it ends
 * with the trial, whose deadline may pass meanwhile. */
static _Noreturn void exec_nft(pid_t trial, int in_fd, int out_fd)
{
	static const char *const places[] = { "/usr/sbin/nft", "/sbin/nft" };
	static char path[] = "PATH=/usr/sbin:/sbin";
	static char language[] = "LC_ALL=C";
	char *const environment[] = { path, language, NULL };

	if (prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == trial &&
	    dup2(in_fd, STDIN_FILENO) >= 0 && dup2(out_fd, STDOUT_FILENO) >= 0 &&
	    dup2(out_fd, STDERR_FILENO) >= 0)
		for (size_t i = 0; i < ARRAY_LEN(places); i++)
			execle(places[i], "nft", "-f", "-", (char *)NULL, environment);
	_exit(127);
}

/** load_ruleset: exit status of nft, -1 if it could not be run; text is its first line of
 * complaint. */
static int load_ruleset(char *ret_text, size_t size)
{
	int in[2], out[2], status = -1;

	if (pipe2(in, O_CLOEXEC))
		return -1;
	OWNED_FD int in_fd = in[0];
	int to_nft = in[1];

	if (pipe2(out, O_CLOEXEC)) {
		close(to_nft);
		return -1;
	}
	OWNED_FD int out_fd = out[0];
	pid_t trial = getpid();
	pid_t pid = fork();

	if (pid == 0)
		exec_nft(trial, in[0], out[1]);
	close(out[1]);
	/* Smaller than a pipe: no wait. */
	fd_write_all(to_nft, ruleset, sizeof(ruleset) - 1, NULL);
	close(to_nft);
	ssize_t n = read(out_fd, ret_text, size - 1);

	ret_text[n > 0 ? n : 0] = '\0';
	ret_text[strcspn(ret_text, "\n")] = '\0';
	if (pid < 0 || waitpid(pid, &status, 0) < 0 || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

static void trial_nft(struct trial *t, const void *arg)
{
	char text[160] = "";

	(void)arg;
	if (!own_network(t))
		return;
	int status = load_ruleset(text, sizeof(text));

	if (status == 0)
		trial_set(t, TRIAL_OK, "a ruleset with all that egress uses was loaded");
	else if (status == 127)
		trial_set(t, TRIAL_FAILED, "nft is not installed");
	else
		trial_set(t, TRIAL_FAILED, "a ruleset was refused: %s", text);
}

static void trial_accounting(struct trial *t, const void *arg)
{
	struct err e = ERR_INIT;
	char text[160] = "";

	(void)arg;
	if (!own_network(t))
		return;
	/* Tracking begins in a namespace with the first rule that asks for it. */
	load_ruleset(text, sizeof(text));
	if (fd_write_once(AT_FDCWD, "/proc/sys/net/netfilter/nf_conntrack_acct", "1", &e))
		trial_set(t, TRIAL_FAILED, "%.150s", e.msg);
	else
		trial_set(t, TRIAL_OK, "bytes of connections can be counted");
}

static void check_forwarding(struct doctor *d)
{
	static const char path[] = "/proc/sys/net/ipv4/ip_forward";
	static const char what[] = "ip_forward";
	struct err e = ERR_INIT;
	struct buf b;

	buf_init(&b, 16);
	int rc = fd_read_file(AT_FDCWD, path, 15, &b, &e);
	bool on = !rc && b.len && b.ptr[0] == '1';

	buf_done(&b);
	/* Opened, not written: nothing is changed here. */
	OWNED_FD int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (rc)
		doctor_add(d, FINDING_WARN, what, "mount /proc with sys", "%s", e.msg);
	else if (on)
		doctor_add(d, FINDING_OK, what, "", "1");
	else if (fd >= 0)
		doctor_add(d, FINDING_OK, what, "",
			   "0; bivouac-jailer sets it when a pool needs it");
	else
		doctor_add(d, FINDING_WARN, what,
			   "pools with EgressEnabled have no network; others do not need it: "
			   "sysctl -w net.ipv4.ip_forward=1",
			   "0, and it cannot be set: %s", strerror(errno));
}

void doctor_check_network(struct doctor *d)
{
	struct trial t = doctor_child(trial_veth, NULL, TRIAL_DEADLINE_MS);

	add_trial(d, "veth", "use a kernel with CONFIG_VETH (modprobe veth)", &t);
	t = doctor_child(trial_nft, NULL, NFT_DEADLINE_MS);
	add_trial(d, "nftables",
		  "apt install nftables, on a kernel with CONFIG_NF_TABLES and its ct, connlimit, "
		  "fib, limit, log, masq and reject expressions",
		  &t);
	t = doctor_child(trial_accounting, NULL, NFT_DEADLINE_MS);
	doctor_add(d, t.result == TRIAL_OK ? FINDING_OK : FINDING_WARN, "conntrack accounting",
		   "egress records have no byte counts: use a kernel with CONFIG_NF_CONNTRACK, and "
		   "a writable /proc/sys",
		   "%s", t.text);
	check_forwarding(d);
}
