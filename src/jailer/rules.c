/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/rules.h"

#include "base/own.h"
#include "jailer/netfilter.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/close_range.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define NFT_DEADLINE_MS 10000
#define NFT_OUTPUT_MAX  (64u << 10)
#define BURST_MIN       262144
/* Each new one may walk over all. */
#define HOST_CONNECTIONS 32768

/* What no sandbox reaches unless the operator names it: this network, private, shared (RFC 6598),
 * loopback, link-local with the metadata service, Azure's wire server, protocol assignments,
 * documentation, 6to4 relays, benchmarking (where our own addresses are), multicast, reserved. */
static const char refused_ranges[] =
	"0.0.0.0/8, 10.0.0.0/8, 100.64.0.0/10, 127.0.0.0/8, 168.63.129.16, 169.254.0.0/16, "
	"172.16.0.0/12, 192.0.0.0/24, 192.0.2.0/24, 192.88.99.0/24, 192.168.0.0/16, 198.18.0.0/15, "
	"198.51.100.0/24, 203.0.113.0/24, 224.0.0.0/4, 240.0.0.0/4";

static void add_address(struct buf *out, uint32_t a)
{
	buf_addf(out, "%u.%u.%u.%u", a >> 24, a >> 16 & 255, a >> 8 & 255, a & 255);
}

static void add_allowed(const struct egress_options *o, struct buf *out)
{
	buf_addf(out, "\tset allowed {\n\t\ttype ipv4_addr; flags interval; auto-merge;\n");
	for (size_t i = 0; i < o->allow_count; i++) {
		buf_addf(out, i ? ", " : "\t\telements = { ");
		add_address(out, o->allow[i].address);
		buf_addf(out, "/%u", o->allow[i].prefix);
	}
	buf_addf(out, o->allow_count ? " }\n\t}\n" : "\t}\n");
}

static void add_elements(const uint32_t *items, size_t count, struct buf *out)
{
	for (size_t i = 0; i < count; i++) {
		buf_addf(out, i ? ", " : "{ ");
		add_address(out, items[i]);
	}
	buf_addf(out, " }");
}

static void add_table(struct buf *out, const char *name)
{
	/* Deleting what may not be there takes making it first; all of it is one transaction. */
	buf_addf(out, "add table inet %s\ndelete table inet %s\ntable inet %s {\n", name, name,
		 name);
}

/* One chain per reason. What is logged of each sandbox is limited, so that a flood fills nobody's
 * log. Callers are told at once instead of waiting for a timeout; who goes on after a few hundred
 * answers a second gets none. */
static void add_reasons(struct buf *out)
{
	static const struct {
		const char *reason;
		const char *verdict;
	} chains[] = {
		{ "address", "reject with icmpx admin-prohibited" },
		{ "host", "reject with icmpx admin-prohibited" },
		{ "connections", "reject with icmpx admin-prohibited" },
		{ "rate", "reject with icmpx admin-prohibited" },
		{ "protocol", "reject with icmpx admin-prohibited" },
		{ "spoofed", "drop" },
	};

	for (size_t i = 0; i < ARRAY_LEN(chains); i++)
		buf_addf(
			out,
			"\tchain refuse_%s {\n"
			"\t\tupdate @logged { iif limit rate 50/second burst 200 packets } "
			"log prefix \"%s\" group %d snaplen %d\n"
			"\t\tupdate @rejected { iif limit rate over 200/second burst 400 packets } drop\n"
			"\t\t%s\n\t}\n",
			chains[i].reason, chains[i].reason, GATEWAY_LOG_GROUP, GATEWAY_LOG_BYTES,
			chains[i].verdict);
}

/* The share of one sandbox in one direction: what is more is dropped, as a slow line would do. */
static void add_police(const struct egress_options *o, const char *set, const char *key,
		       struct buf *out)
{
	uint64_t burst = o->bandwidth > BURST_MIN ? o->bandwidth : BURST_MIN;

	buf_addf(out,
		 "\t\tupdate @%s { %s limit rate over %" PRIu64 " bytes/second burst %" PRIu64
		 " bytes } drop\n",
		 set, key, o->bandwidth, burst);
}

/*
 * Before defragmentation and connection tracking. SECURITY: whatever the gateway's tracking sees
 * of a connection, the host's must see too. A reset that ended the connection here and went no
 * further would leave the host's entry for its whole timeout, without counting any more against
 * the sandbox; so what the gateway's routing would drop (the last hop, options such as a source
 * route) and what exceeds the share is dropped first. The share is that of the link: by source
 * address, one sandbox could use up another's.
 */
static void add_arrival(const struct egress_options *o, struct buf *out)
{
	buf_addf(out, "\tchain arrival {\n"
		      "\t\ttype filter hook prerouting priority -450; policy accept;\n"
		      "\t\tiifname != \"s*\" accept\n"
		      "\t\tmeta nfproto != ipv4 drop\n");
	add_police(o, "up", "iif", out);
	buf_addf(out, "\t\tip ttl < 2 drop\n"
		      "\t\tip hdrlength != 5 drop\n"
		      "\t}\n");
}

/*
 * Before routing, which would drop some of this without a word. SECURITY: the link is point to
 * point and its one route is the sandbox's address, so the reverse path proves the sender; it makes
 * no difference what a sandbox could put into a packet.
 */
static void add_prerouting(struct buf *out)
{
	buf_addf(out, "\tchain prerouting {\n"
		      "\t\ttype filter hook prerouting priority raw; policy accept;\n"
		      "\t\tiifname != \"s*\" accept\n"
		      "\t\tfib saddr . iif oif 0 goto refuse_spoofed\n"
		      "\t\tip daddr { 0.0.0.0/8, 127.0.0.0/8, 224.0.0.0/4, 240.0.0.0/4 } "
		      "goto refuse_address\n"
		      /* Questions to the forwarder are not worth a connection's memory each. */
		      "\t\tip daddr 169.254.1.1 udp dport 53 notrack\n"
		      "\t}\n");
}

/* The gateway's own namespace offers DNS to sandboxes, and nothing to the outside. */
static void add_local(struct buf *out)
{
	buf_addf(out, "\tchain input {\n"
		      "\t\ttype filter hook input priority filter; policy drop;\n"
		      "\t\tiifname != \"s*\" drop\n"
		      "\t\tip daddr 169.254.1.1 udp dport 53 accept\n"
		      "\t\tct state invalid drop\n"
		      "\t\tct state established,related accept\n"
		      "\t\tip daddr 169.254.1.1 tcp dport 53 goto resolve\n"
		      "\t\tgoto refuse_address\n"
		      "\t}\n"
		      "\tchain resolve {\n"
		      /* Closed ones are not counted, but remembered for a while. */
		      "\t\tupdate @asking { ip saddr limit rate over 20/second burst 40 packets } "
		      "goto refuse_rate\n"
		      "\t\tadd @resolving { ip saddr ct count over 8 } goto refuse_connections\n"
		      "\t\taccept\n"
		      "\t}\n"
		      "\tchain untracked {\n"
		      "\t\ttype filter hook output priority raw; policy accept;\n"
		      "\t\tip saddr 169.254.1.1 udp sport 53 notrack\n"
		      "\t}\n"
		      "\tchain output {\n"
		      "\t\ttype filter hook output priority filter; policy drop;\n"
		      "\t\toifname != \"s*\" drop\n"
		      "\t\tip saddr 169.254.1.1 udp sport 53 accept\n"
		      "\t\tip saddr 169.254.1.1 tcp sport 53 ct state established accept\n"
		      "\t\ticmp type { destination-unreachable, time-exceeded } accept\n"
		      "\t}\n");
}

static void add_forward(const struct egress_options *o, struct buf *out)
{
	buf_addf(out, "\tchain forward {\n"
		      "\t\ttype filter hook forward priority filter; policy drop;\n"
		      "\t\tiifname \"" RULES_UP "\" goto inbound\n"
		      "\t\tiifname \"s*\" goto outbound\n"
		      "\t}\n"
		      "\tchain inbound {\n");
	add_police(o, "down", "ip daddr", out);
	buf_addf(out, "\t\tct state established,related accept\n"
		      "\t}\n"
		      "\tchain outbound {\n"
		      /* Before anything else: no setting connects two sandboxes. */
		      "\t\toifname != \"" RULES_UP "\" goto refuse_address\n"
		      "\t\tip daddr 198.18.0.0/15 goto refuse_address\n"
		      "\t\tct state invalid drop\n"
		      "\t\tct state established,related accept\n"
		      "\t\tmeta l4proto != { tcp, udp, icmp } goto refuse_protocol\n"
		      "\t\ticmp type != echo-request goto refuse_protocol\n"
		      "\t\tip daddr @allowed goto admit\n"
		      "\t\tip daddr @host goto refuse_host\n"
		      "\t\tip daddr @refused goto refuse_address\n"
		      "\t\tgoto admit\n"
		      "\t}\n");
	buf_addf(out,
		 "\tchain admit {\n"
		 "\t\tupdate @begun { ip saddr limit rate over %" PRIu32 "/second burst %" PRIu32
		 " packets } goto refuse_rate\n"
		 "\t\tadd @open { ip saddr ct count over %" PRIu32 " } goto refuse_connections\n"
		 "\t\tlog prefix \"new\" group %d snaplen %d\n"
		 "\t\taccept\n"
		 "\t}\n",
		 o->rate, o->rate, o->connections, GATEWAY_LOG_GROUP, GATEWAY_LOG_BYTES);
}

/* Sets that rules fill by themselves; each sandbox is one element. */
static void add_counters(struct buf *out)
{
	static const struct {
		const char *name;
		const char *type;
		bool ages;
	} sets[] = {
		{ "up", "iface_index", true },       { "down", "ipv4_addr", true },
		{ "begun", "ipv4_addr", true },      { "open", "ipv4_addr", false },
		{ "resolving", "ipv4_addr", false }, { "asking", "ipv4_addr", true },
		{ "logged", "iface_index", true },   { "rejected", "iface_index", true },
	};

	for (size_t i = 0; i < ARRAY_LEN(sets); i++)
		buf_addf(out, "\tset %s {\n\t\ttype %s; size 65535; flags dynamic%s;\n\t}\n",
			 sets[i].name, sets[i].type, sets[i].ages ? ",timeout; timeout 1m" : "");
}

void rules_gateway(const struct egress_options *o, const uint32_t *host, size_t host_count,
		   struct buf *out)
{
	add_table(out, "bivouac");
	add_allowed(o, out);
	buf_addf(out,
		 "\tset refused {\n\t\ttype ipv4_addr; flags interval;\n"
		 "\t\telements = { %s }\n\t}\n",
		 refused_ranges);
	buf_addf(out, "\tset host {\n\t\ttype ipv4_addr;\n");
	if (host_count) {
		buf_addf(out, "\t\telements = ");
		add_elements(host, host_count, out);
		buf_addf(out, "\n");
	}
	buf_addf(out, "\t}\n");
	add_counters(out);
	add_reasons(out);
	add_arrival(o, out);
	add_prerouting(out);
	add_local(out);
	add_forward(o, out);
	buf_addf(out, "\tchain postrouting {\n"
		      "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
		      "\t\toifname \"" RULES_UP "\" masquerade\n"
		      "\t}\n}\n");
}

void rules_host_addresses(const uint32_t *host, size_t host_count, struct buf *out)
{
	buf_addf(out, "flush set inet bivouac host\n");
	if (host_count) {
		buf_addf(out, "add element inet bivouac host ");
		add_elements(host, host_count, out);
		buf_addf(out, "\n");
	}
}

/*
 * SECURITY: what the host owes nobody. Before any translation of addresses (a published port of
 * another program would turn "the host" into a forwarded packet) and once more at input: nothing
 * from the uplink is for this machine, by whatever address, unless the operator named it.
 */
static void add_host_guard(const char *uplink, const char *gateway, struct buf *out)
{
	buf_addf(out,
		 "\tchain prerouting {\n"
		 "\t\ttype filter hook prerouting priority raw; policy accept;\n"
		 "\t\tiifname != \"%s\" accept\n"
		 "\t\tip saddr != %s drop\n"
		 "\t\tmeta nfproto != ipv4 drop\n"
		 "\t\tip daddr @allowed accept\n"
		 "\t\tfib daddr type { local, broadcast, anycast, multicast } drop\n"
		 "\t}\n"
		 "\tchain input {\n"
		 "\t\ttype filter hook input priority filter; policy accept;\n"
		 "\t\tiifname != \"%s\" accept\n"
		 "\t\tip daddr @allowed accept\n"
		 "\t\tdrop\n"
		 "\t}\n",
		 uplink, gateway, uplink);
}

void rules_uplink_table(unsigned index, char ret[static RULES_TABLE_SIZE])
{
	snprintf(ret, RULES_TABLE_SIZE, "bivouac_%u", index);
}

/* SECURITY: the host's memory of connections is everybody's. Whatever the gateway believes of its
 * own, all that it forwards has at most HOST_CONNECTIONS here, and none of it lasts for days. */
static void add_host_timeouts(struct buf *out)
{
	buf_addf(out, "\tct timeout brief {\n"
		      "\t\tprotocol tcp; l3proto ip;\n"
		      "\t\tpolicy = { established: 7440, time_wait: 10, close: 10 };\n"
		      "\t}\n");
}

static void add_host_forward(const char *uplink, bool timeouts, struct buf *out)
{
	buf_addf(out,
		 "\tchain forward {\n"
		 "\t\ttype filter hook forward priority filter; policy accept;\n"
		 "\t\tiifname \"%s\" goto outbound\n"
		 "\t\toifname != \"%s\" accept\n"
		 "\t\tct state established,related accept\n"
		 "\t\tdrop\n"
		 "\t}\n"
		 "\tchain outbound {\n"
		 "\t\toifname \"%s\" drop\n"
		 /* It would leave untranslated. */
		 "\t\tct state invalid drop\n"
		 "\t\tct state new ct count over %d drop\n"
		 "%s"
		 "\t}\n",
		 uplink, uplink, uplink, HOST_CONNECTIONS,
		 timeouts ? "\t\tct state new meta l4proto tcp ct timeout set \"brief\"\n" : "");
}

void rules_uplink(const struct egress_options *o, unsigned index, bool timeouts, struct buf *out)
{
	uint32_t g = rules_uplink_gateway(index);
	char table[RULES_TABLE_SIZE];
	char uplink[16];
	char gateway[INET_ADDRSTRLEN];

	rules_uplink_table(index, table);
	snprintf(uplink, sizeof(uplink), "bvk%u", index);
	snprintf(gateway, sizeof(gateway), "%u.%u.%u.%u", g >> 24, g >> 16 & 255, g >> 8 & 255,
		 g & 255);
	add_table(out, table);
	add_allowed(o, out);
	if (timeouts)
		add_host_timeouts(out);
	add_host_guard(uplink, gateway, out);
	add_host_forward(uplink, timeouts, out);
	buf_addf(out,
		 "\tchain postrouting {\n"
		 "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
		 "\t\tip saddr %s oifname != \"%s\" masquerade\n"
		 "\t}\n}\n",
		 gateway, uplink);
}

void rules_uplink_remove(unsigned index, struct buf *out)
{
	char table[RULES_TABLE_SIZE];

	rules_uplink_table(index, table);
	buf_addf(out, "add table inet %s\ndelete table inet %s\n", table, table);
}

static int open_nft(struct err *e)
{
	static const char *const paths[] = { "/usr/sbin/nft", "/sbin/nft" };

	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

		if (fd >= 0)
			return fd;
	}
	return err_set(e, ERR_UNAVAILABLE,
		       "egress needs nft (Debian: nftables), and there is no /usr/sbin/nft");
}

/* SECURITY: nft runs as root and gets no argument, no environment and no descriptor but its text
 * and a place for at most NFT_OUTPUT_MAX bytes of complaint. */
static void nft_child(int ns_fd, int nft, int text, int output, pid_t parent)
{
	static const char *const argv[] = { "nft", "-f", "-", NULL };
	static const char *const envp[] = { NULL };
	struct rlimit most = { NFT_OUTPUT_MAX, NFT_OUTPUT_MAX };
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || setns(ns_fd, CLONE_NEWNET) < 0 ||
	    setrlimit(RLIMIT_FSIZE, &most) < 0)
		_exit(126);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	if (dup2(text, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0 ||
	    syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		_exit(126);
	syscall(SYS_execveat, nft, "", argv, envp, AT_EMPTY_PATH);
	_exit(127);
}

static int memory_file(const char *name, const struct buf *contents, struct err *e)
{
	OWNED_FD int fd = memfd_create(name, MFD_CLOEXEC);

	if (fd < 0 ||
	    (contents && pwrite(fd, contents->ptr, contents->len, 0) != (ssize_t)contents->len))
		return err_sys(e, "text for nft");
	return take_fd(fd);
}

/* Waits for nft; its exit status, or -1 with an error when it was killed. */
static int nft_wait(pid_t pid, struct err *e)
{
	OWNED_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	struct pollfd end = { .fd = pidfd, .events = POLLIN };
	int status = 0;
	int rc = -1;

	if (pidfd < 0)
		err_sys(e, "watch nft");
	else
		while ((rc = poll(&end, 1, NFT_DEADLINE_MS)) < 0 && errno == EINTR)
			;
	if (rc <= 0)
		kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (pidfd < 0)
		return -1;
	if (rc <= 0)
		return err_set(e, ERR_SYSTEM, "nft did not finish within %d s",
			       NFT_DEADLINE_MS / 1000);
	return WIFEXITED(status)
		       ? WEXITSTATUS(status)
		       : err_set(e, ERR_SYSTEM, "nft was killed (signal %d)", WTERMSIG(status));
}

static int nft_failed(int status, int output, struct err *e)
{
	char words[200];
	ssize_t n = pread(output, words, sizeof(words) - 1, 0);

	words[n > 0 ? n : 0] = '\0';
	words[strcspn(words, "\n")] = '\0';
	return err_set(e, ERR_SYSTEM, "nft refused a ruleset (status %d): %s", status, words);
}

int rules_load(int ns_fd, const struct buf *text, struct err *e)
{
	if (!buf_ok(text))
		return err_set(e, ERR_NOMEM, "ruleset: out of memory");
	OWNED_FD int nft = open_nft(e);
	OWNED_FD int input = nft < 0 ? -1 : memory_file("ruleset", text, e);
	OWNED_FD int output = input < 0 ? -1 : memory_file("nft-output", NULL, e);

	if (output < 0)
		return -1;
	pid_t self = getpid();
	pid_t pid = fork();

	if (pid < 0)
		return err_sys(e, "fork nft");
	if (pid == 0)
		nft_child(ns_fd, nft, input, output, self);
	int status = nft_wait(pid, e);

	return status > 0 ? nft_failed(status, output, e) : status;
}
