/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/gateway.h"

#include "base/log.h"
#include "base/own.h"
#include "jailer/netfilter.h"
#include "jailer/netns.h"
#include "jailer/rules.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define FIRST_FD    GATEWAY_NFLOG_FD
#define FIXED_FDS   (GATEWAY_UPSTREAM_FD - FIRST_FD)
#define FDS_MOST    (FIXED_FDS + EGRESS_DNS_MAX * GATEWAY_SOCKETS_EACH)
#define FLOWS_BYTES (1 << 20)
#define DNS_PORT    53
#define DNS_BACKLOG 128
#define DNS_BYTES   (1 << 20)

struct descriptors {
	int fds[FDS_MOST];
	size_t count;
	size_t resolvers;
};

static void close_all(struct descriptors *d)
{
	for (size_t i = 0; i < d->count; i++)
		close(d->fds[i]);
	d->count = 0;
}

static int add(struct descriptors *d, int fd)
{
	if (fd < 0)
		return -1;
	d->fds[d->count++] = fd;
	return 0;
}

static int open_dns(int type, struct err *e)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_port = htons(DNS_PORT),
				  .sin_addr.s_addr = htonl(GATEWAY_ADDRESS) };
	OWNED_FD int fd = socket(AF_INET, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int room = DNS_BYTES;

	if (fd < 0 || bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 ||
	    (type == SOCK_STREAM && listen(fd, DNS_BACKLOG) < 0) ||
	    (type == SOCK_DGRAM &&
	     setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room)) < 0))
		return err_sys(e, "DNS socket of the gateway");
	return take_fd(fd);
}

/* What belongs to the gateway's namespace; runs inside it. */
static int open_inside(void *arg, struct err *e)
{
	struct descriptors *d = arg;

	return add(d, netfilter_open_log(e)) < 0 || add(d, netfilter_open_ends(e)) < 0 ||
			       add(d, open_dns(SOCK_DGRAM, e)) < 0 ||
			       add(d, open_dns(SOCK_STREAM, e)) < 0
		       ? -1
		       : 0;
}

static int open_upstream(uint32_t resolver, struct err *e)
{
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_port = htons(DNS_PORT),
				  .sin_addr.s_addr = htonl(resolver) };
	OWNED_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		return err_sys(e, "resolver %u.%u.%u.%u", resolver >> 24, resolver >> 16 & 255,
			       resolver >> 8 & 255, resolver & 255);
	return take_fd(fd);
}

bool gateway_reaches(uint32_t resolver)
{
	struct err ignored;
	OWNED_FD int fd = open_upstream(resolver, &ignored);

	return fd >= 0;
}

/* A resolver without a route today is left out; the gateway serves with the others. */
static void add_resolver(struct descriptors *d, uint32_t resolver)
{
	size_t before = d->count;
	struct err e = ERR_INIT;

	for (int i = 0; i < GATEWAY_SOCKETS_EACH; i++)
		if (add(d, open_upstream(resolver, &e)) < 0) {
			log_warn("gateway: %s", e.msg);
			while (d->count > before)
				close(d->fds[--d->count]);
			return;
		}
	d->resolvers++;
}

static void become_gateway(const struct gateway_config *config, const struct descriptors *d,
			   const char *path, pid_t parent)
{
	char uid[16];
	char resolvers[16];
	char each[16];
	const char *argv[] = { "bivouac-gateway", "--uid",          uid,  "--resolvers",
			       resolvers,         "--sockets-each", each, NULL };
	static const char *const envp[] = { NULL };
	int high[FDS_MOST];
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	for (size_t i = 0; i < d->count; i++)
		high[i] = fcntl(d->fds[i], F_DUPFD_CLOEXEC, FIRST_FD + FDS_MOST);
	for (size_t i = 0; i < d->count; i++)
		if (high[i] < 0 || dup2(high[i], FIRST_FD + (int)i) < 0)
			_exit(1);
	int null_fd = open("/dev/null", O_RDWR);

	if (null_fd < 0 || dup2(null_fd, 0) < 0 || dup2(null_fd, 1) < 0 ||
	    syscall(SYS_close_range, FIRST_FD + (unsigned)d->count, ~0U, 0) < 0)
		_exit(1);
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	snprintf(uid, sizeof(uid), "%u", config->uid);
	snprintf(resolvers, sizeof(resolvers), "%zu", d->resolvers);
	snprintf(each, sizeof(each), "%d", GATEWAY_SOCKETS_EACH);
	execve(path, (char *const *)argv, (char *const *)envp);
	_exit(127);
}

static int start(const struct gateway_config *config, struct descriptors *d, const char *path,
		 pid_t *ret_pid, int *ret_pidfd, struct err *e)
{
	pid_t self = getpid();
	pid_t pid = fork();

	if (pid < 0)
		return err_sys(e, "fork the gateway");
	if (pid == 0)
		become_gateway(config, d, path, self);
	/* It is our child and not reaped yet: the number cannot be another's. */
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (pidfd < 0) {
		err_sys(e, "watch the gateway");
		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
		return -1;
	}
	*ret_pid = pid;
	*ret_pidfd = pidfd;
	return 0;
}

int gateway_start(const struct gateway_config *config, pid_t *ret_pid, int *ret_pidfd,
		  int *ret_flows, struct err *e)
{
	struct descriptors d = { .count = 0 };
	int room = FLOWS_BYTES;
	char path[320];
	int pair[2];

	snprintf(path, sizeof(path), "%s/bivouac-gateway", config->binary_dir);
	if (access(path, X_OK) < 0)
		return err_sys(e, "%s", path);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		return err_sys(e, "socketpair");
	OWNED_FD int ours = pair[0];
	OWNED_FD int theirs = pair[1];
	int rc = setsockopt(theirs, SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)) < 0
			 ? err_sys(e, "flow record socket")
			 : netns_run(config->ns_fd, config->home_fd, open_inside, &d, e);

	if (rc == 0) {
		add(&d, take_fd(theirs));
		for (size_t i = 0; i < config->dns_count; i++)
			add_resolver(&d, config->dns[i]);
		rc = start(config, &d, path, ret_pid, ret_pidfd, e);
	}
	close_all(&d);
	if (rc == 0)
		*ret_flows = take_fd(ours);
	return rc;
}
