/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/network.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "base/own.h"
#include "jailer/gateway.h"
#include "jailer/links.h"
#include "jailer/netfilter.h"
#include "jailer/netns.h"
#include "jailer/records.h"
#include "jailer/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define LOOPBACK_INDEX 1
#define UPLINK_INDEX   100
#define EGRESS_INDEX   1000 /* of eth0 in a sandbox, and of s<slot>: this + slot */
#define UPLINK_PREFIX  30
#define SWEEP_MS       1000
#define REPAIR_MS      5000
#define RETRY_FIRST_MS 50
#define RETRY_LAST_MS  32000
#define RETRY_CALM_MS  10000 /* a gateway that lived this long did not fail at its start */

struct host_addresses {
	uint32_t items[RULES_HOST_MAX];
	size_t count;
};

struct network {
	struct network_config config;
	int home_fd; /* the host's network namespace */
	bool connected[RECORD_SLOTS];
	/* Cut off, but conntrack may still know its connections: a walk over all of them takes tens
	 * of milliseconds, so there is one for all that ended within SWEEP_MS. */
	bool unswept[RECORD_SLOTS];
	size_t unswept_count;
	int sweep_fd; /* timer; armed while there is one */
	/* The gateway's namespace; -1 and NULL until somebody is connected. */
	int ns_fd;
	struct mnl_socket *links;
	int addresses_fd; /* news of the host's addresses */
	int changes_fd;   /* news of the host's rulesets */
	/* News that was not acted upon yet; cleared by success alone, tried again by a timer. */
	bool addresses_dirty;
	bool host_rules_dirty;
	bool resolvers_missing; /* none was named, or one had no route at the gateway's start */
	size_t resolvers;       /* that the gateway was started with */
	int repair_fd;
	bool no_timeouts;           /* this kernel has none for the uplink alone */
	struct host_addresses host; /* as the gateway's rules have them */
	/* The program. */
	pid_t gateway_pid;
	int gateway_pidfd;
	int timer_fd; /* when to start it again */
	int64_t gateway_started_ms;
	unsigned retry_ms;
};

static void slot_name(unsigned slot, char ret[static IF_NAMESIZE])
{
	snprintf(ret, IF_NAMESIZE, "s%u", slot);
}

static void uplink_name(const struct network *n, char ret[static IF_NAMESIZE])
{
	snprintf(ret, IF_NAMESIZE, "bvk%u", n->config.index);
}

static int watch(struct network *n, int fd, struct err *e)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = n->config.watch_data };

	return epoll_ctl(n->config.epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0
		       ? err_sys(e, "watch the network")
		       : 0;
}

/* ---- what the host has of ours ---- */

static void mark_path(const struct network *n, char *ret, size_t size)
{
	snprintf(ret, size, "%s/net", n->config.run_dir);
}

/* The mark is made first and removed last: who finds it cleans. */
static int mark_host(const struct network *n, struct err *e)
{
	char path[320];

	mark_path(n, path, sizeof(path));
	OWNED_FD int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);

	return fd < 0 ? err_sys(e, "make %s", path) : 0;
}

static int clean_host(const struct network *n, struct err *e)
{
	struct mnl_socket *nl = links_open(e);
	char name[IF_NAMESIZE];
	char path[320];
	struct buf text;

	if (!nl)
		return -1;
	uplink_name(n, name);
	int rc = links_delete(nl, name, e);

	links_close(nl);
	buf_init(&text, RULES_TEXT_MAX);
	rules_uplink_remove(n->config.index, &text);
	if (rc == 0)
		rc = rules_load(n->home_fd, &text, e);
	buf_done(&text);
	if (rc < 0)
		return -1;
	mark_path(n, path, sizeof(path));
	unlink(path);
	return 0;
}

static int forward_on_host(struct err *e)
{
	struct buf now;

	buf_init(&now, 16);
	int rc = fd_read_file(AT_FDCWD, "/proc/sys/net/ipv4/ip_forward", 16, &now, e);
	bool off = rc == 0 && now.len && now.ptr[0] == '0';

	buf_done(&now);
	if (rc < 0 || !off)
		return rc;
	if (sysctl_set("ipv4/ip_forward", "1", true, e) < 0)
		return -1;
	log_info("set net.ipv4.ip_forward=1: connected sandboxes need it");
	return 0;
}

/* The host's end: its settings before it is up, so that it never speaks IPv6. */
static int configure_uplink(const struct network *n, struct mnl_socket *nl, const char *name,
			    struct err *e)
{
	static const char *const settings[][2] = {
		{ "ipv6/conf/%s/disable_ipv6", "1" },     { "ipv4/conf/%s/rp_filter", "1" },
		{ "ipv4/conf/%s/accept_redirects", "0" }, { "ipv4/conf/%s/send_redirects", "0" },
		{ "ipv4/conf/%s/forwarding", "1" },
	};
	unsigned index = if_nametoindex(name);

	if (!index)
		return err_sys(e, "find %s", name);
	for (size_t i = 0; i < ARRAY_LEN(settings); i++) {
		char path[64];

		snprintf(path, sizeof(path), settings[i][0], name);
		if (sysctl_set(path, settings[i][1], i > 0, e) < 0)
			return -1;
	}
	return links_add_address(nl, index, rules_uplink_host(n->config.index), UPLINK_PREFIX, e) <
				       0 ||
			       links_set_up(nl, index, e) < 0
		       ? -1
		       : 0;
}

static int load_uplink_text(const struct network *n, bool timeouts, struct err *e)
{
	struct buf text;

	buf_init(&text, RULES_TEXT_MAX);
	rules_uplink(n->config.options, n->config.index, timeouts, &text);
	int rc = rules_load(n->home_fd, &text, e);

	buf_done(&text);
	return rc;
}

/* SECURITY: the rules come before the link they are about. */
static int load_uplink_rules(struct network *n, struct err *e)
{
	struct err first = ERR_INIT;

	if (!n->no_timeouts && load_uplink_text(n, true, &first) == 0)
		return 0;
	int rc = load_uplink_text(n, false, e);

	if (rc == 0 && !n->no_timeouts)
		log_warn("this kernel has no timeouts for connections of one network "
			 "(CONFIG_NF_CONNTRACK_TIMEOUT), silent ones stay for the host's: %s",
			 first.msg);
	n->no_timeouts = n->no_timeouts || rc == 0;
	return rc;
}

static int make_uplink(struct network *n, struct err *e)
{
	struct mnl_socket *nl = links_open(e);
	char name[IF_NAMESIZE];

	if (!nl)
		return -1;
	uplink_name(n, name);
	const struct link_end inside = { RULES_UP, UPLINK_INDEX, true };
	const struct link_end outside = { .name = name };

	int rc = load_uplink_rules(n, e);

	if (rc == 0)
		rc = links_delete(nl, name, e);
	if (rc == 0)
		rc = links_add_pair(n->links, &inside, &outside, n->home_fd, e);
	if (rc == 0)
		rc = configure_uplink(n, nl, name, e);
	links_close(nl);
	return rc;
}

/* ---- the gateway's namespace ---- */

/* Runs inside it, before it has any link: what comes later inherits `default`. */
static int configure_inside(void *arg, struct err *e)
{
	static const struct {
		const char *name;
		const char *value;
		bool must;
	} settings[] = {
		{ "ipv6/conf/all/disable_ipv6", "1", false },
		{ "ipv6/conf/default/disable_ipv6", "1", false },
		{ "ipv4/ip_forward", "1", true },
		{ "ipv4/conf/all/rp_filter", "1", true },
		{ "ipv4/conf/default/rp_filter", "1", true },
		{ "ipv4/conf/all/send_redirects", "0", true },
		{ "ipv4/conf/default/send_redirects", "0", true },
		{ "ipv4/conf/all/accept_redirects", "0", true },
		{ "ipv4/conf/default/accept_redirects", "0", true },
		{ "ipv4/conf/all/accept_source_route", "0", true },
		{ "ipv4/conf/default/accept_source_route", "0", true },
		{ "ipv4/conf/all/proxy_arp", "0", true },
		{ "ipv4/conf/default/proxy_arp", "0", true },
		/* Refusals are answered each; the kernel's own limit would turn the seventh of a
		 * second into a timeout. How many are answered is limited by our rules. */
		{ "ipv4/icmp_ratemask", "0", true },
	};
	struct network *n = arg;

	for (size_t i = 0; i < ARRAY_LEN(settings); i++)
		if (sysctl_set(settings[i].name, settings[i].value, settings[i].must, e) < 0)
			return -1;
	n->links = links_open(e);
	return n->links && links_set_up(n->links, LOOPBACK_INDEX, e) == 0
		       ? links_add_address(n->links, LOOPBACK_INDEX, GATEWAY_ADDRESS, 32, e)
		       : -1;
}

/* Runs inside it, when the rules have loaded the connection tracking. */
static int configure_tracking(void *arg, struct err *e)
{
	static const char *const settings[][2] = {
		{ "netfilter/nf_conntrack_acct", "1" },
		/* Always, and not only while somebody listens: the gateway may be started again. */
		{ "netfilter/nf_conntrack_events", "1" },
		/* The end of a connection is a record; it should not come two minutes late. */
		{ "netfilter/nf_conntrack_tcp_timeout_time_wait", "10" },
		/* Silent connections: RFC 5382 asks for two hours and four minutes, not five days.
		 */
		{ "netfilter/nf_conntrack_tcp_timeout_established", "7440" },
	};

	(void)arg;
	for (size_t i = 0; i < ARRAY_LEN(settings); i++)
		if (sysctl_set(settings[i][0], settings[i][1], i == 0, e) < 0)
			return -1;
	return 0;
}

static int read_host_addresses(struct host_addresses *ret, struct err *e)
{
	struct mnl_socket *nl = links_open(e);

	if (!nl)
		return -1;
	int count = links_addresses(nl, ret->items, RULES_HOST_MAX, e);

	links_close(nl);
	if (count < 0)
		return -1;
	ret->count = (size_t)count < RULES_HOST_MAX ? (size_t)count : RULES_HOST_MAX;
	return 0;
}

static int load_gateway_rules(struct network *n, struct err *e)
{
	struct buf text;

	buf_init(&text, RULES_TEXT_MAX);
	rules_gateway(n->config.options, n->host.items, n->host.count, &text);
	int rc = rules_load(n->ns_fd, &text, e);

	buf_done(&text);
	return rc;
}

/* ---- the gateway's program ---- */

static void set_timer(int fd, unsigned ms)
{
	const struct itimerspec when = { .it_value = { ms / 1000, (long)(ms % 1000) * 1000000 } };

	timerfd_settime(fd, 0, &when, NULL);
}

static bool timer_due(int fd)
{
	uint64_t times;

	return read(fd, &times, sizeof(times)) == (ssize_t)sizeof(times);
}

static size_t resolvers(const struct network *n, uint32_t dns[static EGRESS_DNS_MAX])
{
	const struct egress_options *o = n->config.options;
	struct err ignored;
	struct buf text;
	size_t count = 0;

	if (o->dns_given) {
		memcpy(dns, o->dns, sizeof(o->dns));
		return o->dns_count;
	}
	buf_init(&text, 65536);
	if (fd_read_file(AT_FDCWD, "/etc/resolv.conf", 65536, &text, &ignored) == 0 && text.ptr)
		count = egress_read_resolv_conf(text.ptr, dns);
	buf_done(&text);
	return count;
}

/* How many the gateway could be started with now. */
static size_t reachable(const uint32_t *dns, size_t count)
{
	size_t found = 0;

	for (size_t i = 0; i < count; i++)
		found += gateway_reaches(dns[i]);
	return found;
}

static int start_gateway(struct network *n, struct err *e)
{
	uint32_t dns[EGRESS_DNS_MAX];
	const struct gateway_config config = {
		.binary_dir = n->config.binary_dir,
		.uid = n->config.gateway_uid,
		.ns_fd = n->ns_fd,
		.home_fd = n->home_fd,
		.dns = dns,
		.dns_count = resolvers(n, dns),
	};
	OWNED_FD int flows = -1;

	if (!config.dns_count && !n->config.options->dns_given && !n->resolvers_missing)
		log_warn("no IPv4 nameserver in /etc/resolv.conf and no --dns: connected sandboxes "
			 "resolve no names");
	n->resolvers = reachable(dns, config.dns_count);
	n->resolvers_missing = n->resolvers < config.dns_count ||
			       (!config.dns_count && !n->config.options->dns_given);
	if (n->resolvers_missing)
		set_timer(n->repair_fd, REPAIR_MS);
	if (gateway_start(&config, &n->gateway_pid, &n->gateway_pidfd, &flows, e) < 0)
		return -1;
	n->gateway_started_ms = clock_mono_ms();
	if (watch(n, n->gateway_pidfd, e) < 0)
		return -1;
	n->config.flows(n->config.arg, flows);
	return 0;
}

static void start_later(struct network *n)
{
	set_timer(n->timer_fd, n->retry_ms);
	n->retry_ms = n->retry_ms < RETRY_LAST_MS / 2 ? n->retry_ms * 2 : RETRY_LAST_MS;
}

static void reap_gateway(struct network *n)
{
	if (n->gateway_pidfd < 0)
		return;
	kill(n->gateway_pid, SIGKILL);
	while (waitpid(n->gateway_pid, NULL, 0) < 0 && errno == EINTR)
		;
	close_fd(&n->gateway_pidfd); /* closing takes it out of the epoll set */
}

static void restart_gateway(struct network *n)
{
	reap_gateway(n);
	set_timer(n->timer_fd, 1);
}

static void gateway_ended(struct network *n)
{
	siginfo_t info = { 0 };

	if (n->gateway_pidfd < 0 ||
	    waitid(P_PIDFD, (id_t)n->gateway_pidfd, &info, WEXITED | WNOHANG | WNOWAIT) < 0 ||
	    !info.si_pid)
		return;
	reap_gateway(n);
	if (clock_mono_ms() - n->gateway_started_ms > RETRY_CALM_MS)
		n->retry_ms = RETRY_FIRST_MS;
	log_error("bivouac-gateway ended (%s %d); starting it again in %u ms",
		  info.si_code == CLD_EXITED ? "status" : "signal", info.si_status, n->retry_ms);
	start_later(n);
}

static void gateway_due(struct network *n)
{
	struct err e = ERR_INIT;

	if (!timer_due(n->timer_fd) || n->ns_fd < 0 || n->gateway_pidfd >= 0 ||
	    start_gateway(n, &e) == 0)
		return;
	log_error("bivouac-gateway: %s", e.msg);
	reap_gateway(n);
	start_later(n);
}

/* ---- life of the gateway ---- */

static void stop(struct network *n)
{
	reap_gateway(n);
	set_timer(n->timer_fd, 0);
	set_timer(n->sweep_fd, 0);
	set_timer(n->repair_fd, 0);
	n->addresses_dirty = n->host_rules_dirty = n->resolvers_missing = false;
	links_close(n->links);
	n->links = NULL;
	close_fd(&n->addresses_fd);
	close_fd(&n->changes_fd);
	close_fd(&n->ns_fd);
	memset(n->connected, 0, sizeof(n->connected));
	memset(n->unswept, 0, sizeof(n->unswept));
	n->unswept_count = 0;
}

static int start_in_namespace(struct network *n, struct err *e)
{
	const struct link_route out = { .index = UPLINK_INDEX,
					.via = rules_uplink_host(n->config.index) };

	/* The watch begins before the list is read, so that no change falls between them. */
	if (netns_run(n->ns_fd, n->home_fd, configure_inside, n, e) < 0)
		return -1;
	n->addresses_fd = links_watch(e);
	n->changes_fd = n->addresses_fd < 0 ? -1 : netfilter_open_changes(e);
	if (n->changes_fd < 0 || watch(n, n->addresses_fd, e) < 0 ||
	    watch(n, n->changes_fd, e) < 0 || mark_host(n, e) < 0 || make_uplink(n, e) < 0 ||
	    read_host_addresses(&n->host, e) < 0 || load_gateway_rules(n, e) < 0 ||
	    netns_run(n->ns_fd, n->home_fd, configure_tracking, n, e) < 0 ||
	    links_add_address(n->links, UPLINK_INDEX, rules_uplink_gateway(n->config.index),
			      UPLINK_PREFIX, e) < 0 ||
	    links_add_route(n->links, &out, e) < 0 || forward_on_host(e) < 0)
		return -1;
	n->retry_ms = RETRY_FIRST_MS;
	return start_gateway(n, e);
}

static int start(struct network *n, struct err *e)
{
	struct err ignored;

	if (n->ns_fd >= 0)
		return 0;
	n->ns_fd = netns_new(n->home_fd, e);
	if (n->ns_fd >= 0 && start_in_namespace(n, e) == 0)
		return 0;
	stop(n);
	clean_host(n, &ignored);
	return err_wrap(e, "network of connected sandboxes");
}

struct network *network_new(const struct network_config *config, struct err *e)
{
	struct network *n = calloc(1, sizeof(*n));
	struct err left = ERR_INIT;
	char mark[320];

	if (!n) {
		err_sys(e, "network");
		return NULL;
	}
	n->config = *config;
	n->ns_fd = n->addresses_fd = n->changes_fd = n->gateway_pidfd = -1;
	n->home_fd = netns_current(e);
	n->timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	n->sweep_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	n->repair_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (n->home_fd < 0 || watch(n, n->timer_fd, e) < 0 || watch(n, n->sweep_fd, e) < 0 ||
	    watch(n, n->repair_fd, e) < 0) {
		network_free(n);
		return NULL;
	}
	mark_path(n, mark, sizeof(mark));
	if (access(mark, F_OK) == 0 && clean_host(n, &left) < 0)
		log_error("what an earlier jailer left of the network stays: %s", left.msg);
	return n;
}

void network_free(struct network *n)
{
	struct err e = ERR_INIT;

	if (!n)
		return;
	bool used = n->ns_fd >= 0;

	stop(n);
	if (used && clean_host(n, &e) < 0)
		log_error("the network's rules stay on the host: %s", e.msg);
	close_fd(&n->timer_fd);
	close_fd(&n->sweep_fd);
	close_fd(&n->repair_fd);
	close_fd(&n->home_fd);
	free(n);
}

/* Takes what a watch brings; what it says is not looked at, because news may be lost and states are
 * not. */
static bool any_news(int fd)
{
	char news[4096];
	bool any = false;

	while (fd >= 0) {
		ssize_t got = recv(fd, news, sizeof(news), 0);

		if (got < 0 && errno != EINTR && errno != ENOBUFS)
			break;
		any = true;
	}
	return any;
}

static int update_addresses(struct network *n, struct err *e)
{
	struct host_addresses now;
	struct buf text;

	if (read_host_addresses(&now, e) < 0)
		return -1;
	if (now.count == n->host.count &&
	    memcmp(now.items, n->host.items, now.count * sizeof(*now.items)) == 0)
		return 0;
	buf_init(&text, RULES_TEXT_MAX);
	rules_host_addresses(now.items, now.count, &text);
	int rc = rules_load(n->ns_fd, &text, e);

	buf_done(&text);
	if (rc < 0)
		return -1;
	n->host.count = now.count;
	memcpy(n->host.items, now.items, now.count * sizeof(*now.items));
	/* Its sockets to resolvers may have the old address as their own, and resolv.conf may name
	 * others now. */
	restart_gateway(n);
	return 0;
}

/* Firewalls that load their rules anew often begin by removing everybody's. */
static int update_host_rules(struct network *n, struct err *e)
{
	char table[RULES_TABLE_SIZE];

	rules_uplink_table(n->config.index, table);
	int there = netfilter_has_table(table, e);

	if (there == 0) {
		log_warn("somebody removed the ruleset %s; loading it again", table);
		there = load_uplink_rules(n, e);
	}
	return there < 0 ? -1 : 0;
}

static void check_resolvers(struct network *n)
{
	uint32_t dns[EGRESS_DNS_MAX];

	if (reachable(dns, resolvers(n, dns)) > n->resolvers)
		restart_gateway(n);
}

/* Does what the news ask for; what fails is tried again later. */
static void repair(struct network *n)
{
	struct err e = ERR_INIT;

	if (n->addresses_dirty) {
		n->addresses_dirty = update_addresses(n, &e) < 0;
		if (n->addresses_dirty)
			log_error("the host's addresses changed: %s; trying again", e.msg);
	}
	if (n->host_rules_dirty) {
		n->host_rules_dirty = update_host_rules(n, &e) < 0;
		if (n->host_rules_dirty)
			log_error("the host's rulesets changed: %s; trying again", e.msg);
	}
	if (n->addresses_dirty || n->host_rules_dirty || n->resolvers_missing)
		set_timer(n->repair_fd, REPAIR_MS);
}

static bool is_unswept(void *arg, uint32_t address)
{
	const struct network *n = arg;
	uint32_t slot = address - rules_sandbox_address(0);

	return slot < RECORD_SLOTS && n->unswept[slot];
}

static int sweep_inside(void *arg, struct err *e)
{
	return netfilter_forget(is_unswept, arg, e);
}

/* SECURITY: an entry that stayed would lead answers to an ended sandbox's connections to the next
 * one with its address; whoever gets that address waits for this. */
static int sweep(struct network *n, struct err *e)
{
	if (netns_run(n->ns_fd, n->home_fd, sweep_inside, n, e) < 0)
		return -1;
	memset(n->unswept, 0, sizeof(n->unswept));
	n->unswept_count = 0;
	set_timer(n->sweep_fd, 0);
	return 0;
}

static void sweep_due(struct network *n)
{
	struct err e = ERR_INIT;

	if (!timer_due(n->sweep_fd) || n->ns_fd < 0 || sweep(n, &e) == 0)
		return;
	log_error("network: %s", e.msg);
	set_timer(n->sweep_fd, SWEEP_MS);
}

void network_event(struct network *n)
{
	gateway_ended(n);
	gateway_due(n);
	sweep_due(n);
	bool due = timer_due(n->repair_fd);
	bool addresses = any_news(n->addresses_fd);
	bool rules = any_news(n->changes_fd);

	if (n->ns_fd < 0)
		return;
	n->addresses_dirty = n->addresses_dirty || addresses;
	n->host_rules_dirty = n->host_rules_dirty || rules;
	if (due && n->resolvers_missing && n->gateway_pidfd >= 0)
		check_resolvers(n);
	if (due || addresses || rules)
		repair(n);
}

/* ---- sandboxes ---- */

/* Runs in the sandbox's namespace. IPv6 stays on its loopback. */
static int open_in_sandbox(void *arg, struct err *e)
{
	struct mnl_socket **ret = arg;

	if (sysctl_set("ipv6/conf/default/disable_ipv6", "1", false, e) < 0)
		return -1;
	*ret = links_open(e);
	return *ret ? 0 : -1;
}

static struct link_route route_back(unsigned slot)
{
	return (struct link_route){ .to = rules_sandbox_address(slot),
				    .prefix = 32,
				    .index = EGRESS_INDEX + slot,
				    .source = GATEWAY_ADDRESS };
}

static int connect_links(struct network *n, struct mnl_socket *sandbox, int sandbox_ns,
			 unsigned slot, struct err *e)
{
	char name[IF_NAMESIZE];
	const uint32_t address = rules_sandbox_address(slot);
	const struct link_end here = { name, EGRESS_INDEX + slot, true };
	const struct link_end there = { .name = "eth0", .index = EGRESS_INDEX };
	const struct link_route back = route_back(slot);
	const struct link_route gateway = { .to = GATEWAY_ADDRESS,
					    .prefix = 32,
					    .index = EGRESS_INDEX };
	const struct link_route out = { .index = EGRESS_INDEX, .via = GATEWAY_ADDRESS };

	slot_name(slot, name);
	/* What a killed worker's namespace, or this slot's last sandbox, may still hold on to. */
	if (links_delete(sandbox, "eth0", e) < 0 || links_delete(n->links, name, e) < 0)
		return -1;
	if (links_add_pair(n->links, &here, &there, sandbox_ns, e) < 0)
		return -1;
	if (links_add_route(n->links, &back, e) < 0 ||
	    links_add_address(sandbox, EGRESS_INDEX, address, 32, e) < 0 ||
	    links_set_up(sandbox, EGRESS_INDEX, e) < 0 ||
	    links_add_route(sandbox, &gateway, e) < 0 || links_add_route(sandbox, &out, e) < 0) {
		struct err ignored;

		links_delete(n->links, name, &ignored);
		return -1;
	}
	return 0;
}

int network_connect(struct network *n, unsigned slot, int pidfd, uint32_t *ret_address,
		    struct err *e)
{
	struct mnl_socket *sandbox = NULL;

	/* SECURITY: whatever the daemon asks for. Cutting off is never refused. */
	if (n->config.options->off)
		return err_set(
			e, ERR_UNAVAILABLE,
			"the jailer runs with --egress off; start bivouacd with --egress on");
	OWNED_FD int sandbox_ns = netns_of_process(pidfd, n->home_fd, e);

	if (sandbox_ns < 0)
		return -1;
	if (n->connected[slot]) {
		*ret_address = rules_sandbox_address(slot);
		return 0;
	}
	if (start(n, e) < 0 || (n->unswept[slot] && sweep(n, e) < 0) ||
	    netns_run(sandbox_ns, n->home_fd, open_in_sandbox, (void *)&sandbox, e) < 0)
		return -1;
	int rc = connect_links(n, sandbox, sandbox_ns, slot, e);

	links_close(sandbox);
	if (rc < 0)
		return -1;
	n->connected[slot] = true;
	*ret_address = rules_sandbox_address(slot);
	return 0;
}

int network_disconnect(struct network *n, unsigned slot, int pidfd, struct err *e)
{
	struct mnl_socket *sandbox = NULL;
	OWNED_FD int sandbox_ns = netns_of_process(pidfd, n->home_fd, e);

	if (sandbox_ns < 0 ||
	    netns_run(sandbox_ns, n->home_fd, open_in_sandbox, (void *)&sandbox, e) < 0)
		return -1;
	/* From the sandbox's side, where it is whoever made it: this worker or one before it. */
	int rc = links_delete(sandbox, "eth0", e);

	links_close(sandbox);
	if (rc == 0)
		network_forget(n, slot);
	return rc;
}

void network_forget(struct network *n, unsigned slot)
{
	struct err e = ERR_INIT;

	if (!n || !n->connected[slot])
		return;
	n->connected[slot] = false;
	n->unswept[slot] = true;
	if (n->unswept_count++ == 0)
		set_timer(n->sweep_fd, SWEEP_MS);
	/* The link goes with the sandbox's namespace, in the kernel's own time; waiting for it here
	 * would take tens of milliseconds. SECURITY: without the route back, whatever still comes
	 * from it is a foreign source address and makes no entry. */
	const struct link_route back = route_back(slot);

	if (links_delete_route(n->links, &back, &e) < 0)
		log_error("network of slot %u: %s", slot, e.msg);
}
