/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/jailer.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "base/own.h"
#include "base/rand.h"
#include "jailer/cgroup_tree.h"
#include "jailer/jail.h"
#include "jailer/landlock.h"
#include "jailer/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* SECURITY: what sandboxes can see running is a sealed copy, so that nothing they do can reach the
 * file on the host (CVE-2019-5736), nor does /proc/self/exe tell its path. */
static int load_sealed(const char *binary_dir, const char *name, struct err *e)
{
	char path[320];
	struct stat st;

	snprintf(path, sizeof(path), "%s/%s", binary_dir, name);
	OWNED_FD int file = open(path, O_RDONLY | O_CLOEXEC);
	OWNED_FD int mem = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (file < 0 || mem < 0 || fstat(file, &st) < 0)
		return err_sys(e, "open %s", path);
	for (off_t at = 0; at < st.st_size;)
		if (sendfile(mem, file, &at, (size_t)(st.st_size - at)) <= 0)
			return err_sys(e, "read %s", path);
	if (fchmod(mem, 0555) < 0 ||
	    fcntl(mem, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return err_sys(e, "seal %s", name);
	/* A descriptor open for writing would make exec fail with ETXTBSY. */
	char self[64];

	snprintf(self, sizeof(self), "/proc/self/fd/%d", mem);
	int readonly = open(self, O_RDONLY | O_CLOEXEC);

	return readonly < 0 ? err_sys(e, "reopen %s", name) : readonly;
}

static int open_below(const char *run_dir, const char *name, mode_t mode, struct err *e)
{
	char path[320];

	snprintf(path, sizeof(path), "%s/%s", run_dir, name);
	if (mkdir(path, mode) < 0 && errno != EEXIST)
		return err_sys(e, "mkdir %s", path);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? err_sys(e, "open %s", path) : fd;
}

/* A private view of the host's mounts, with nothing in it that a sandbox would have to copy for no
 * use. */
static int private_mounts(struct err *e)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(e, "private mount namespace");
	return 0;
}

static void send_flows(void *arg, int fd)
{
	struct err none = ERR_INIT;

	opcode_reply(arg, JAILER_FLOWS, 0, &none, clock_mono_ns(), fd);
}

static int init_network(struct jailer *j, struct err *e)
{
	const struct network_config config = {
		.options = &j->config.egress,
		.binary_dir = j->config.binary_dir,
		.run_dir = j->config.run_dir,
		.index = record_uid_index(j->uid_base),
		.gateway_uid = j->uid_base + JAIL_ID_GATEWAY,
		.epoll_fd = j->epoll_fd,
		.watch_data = (void *)((uintptr_t)j | WATCH_NETWORK),
		.flows = send_flows,
		.arg = j,
	};

	j->network = network_new(&config, e);
	return j->network ? 0 : -1;
}

static int jailer_init(struct jailer *j, const struct jailer_config *config, struct err *e)
{
	struct stat st;
	char instance[20];
	int zygote_filter = -1;
	int rest_filter = -1;

	j->config = *config;
	map_init(&j->sandboxes);
	list_init(&j->zygotes);
	list_init(&j->pending);
	list_init(&j->busy);
	if (stat(config->run_dir, &st) < 0)
		return err_sys(e, "run directory %s", config->run_dir);
	/* Device and inode name the instance: stable over restarts on the same directory, unique on
	 * the machine. */
	snprintf(instance, sizeof(instance), "%08llx",
		 (unsigned long long)((st.st_dev * 2654435761u) ^ st.st_ino) & 0xffffffffu);
	/* SECURITY: an empty session keyring instead of the one of whoever started us, for us and
	 * all we start; where the kernel has no keys there is nothing to leave. */
	syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL);
	prctl(PR_SET_DUMPABLE, 0);
	if (private_mounts(e) < 0 || cgroup_open(&j->cgroups, instance, e) < 0 ||
	    record_uid_block(config->uid_dir, config->run_dir, &j->uid_base, e) < 0)
		return -1;
	j->records_dfd = open_below(config->run_dir, "j", 0700, e);
	j->sockets_dfd = open_below(config->run_dir, "s", 0700, e);
	if (j->records_dfd < 0 || j->sockets_dfd < 0)
		return -1;
	if (fchown(j->sockets_dfd, config->owner, (gid_t)-1) < 0)
		return err_sys(e, "socket directory");
	bool notify = seccomp_can_notify();
	int *binaries = j->zygote_config.binary_fds;

	binaries[ZYGOTE_EXEC] = load_sealed(config->binary_dir, "bivouac-zygote-exec", e);
	binaries[ZYGOTE_PYTHON] = load_sealed(config->binary_dir, "bivouac-zygote-python", e);
	j->agent_fd = load_sealed(config->binary_dir, "bivouac-agent", e);
	if (binaries[ZYGOTE_EXEC] < 0 || binaries[ZYGOTE_PYTHON] < 0 || j->agent_fd < 0 ||
	    seccomp_compile(SECCOMP_FULL, &j->filter_fd, e) < 0 ||
	    seccomp_compile(notify ? SECCOMP_ZYGOTE_NOTIFY : SECCOMP_ZYGOTE, &zygote_filter, e) <
		    0 ||
	    seccomp_compile(SECCOMP_REST, &rest_filter, e) < 0)
		return -1;
	j->places = witness_map(config->run_dir, e);
	if (!j->places || pipe2(j->witnesses, O_CLOEXEC) < 0)
		return err_wrap(e, "witness");
	int images = open(config->images_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (images < 0)
		return err_sys(e, "image directory %s", config->images_dir);
	j->zygote_config.images_dfd = images;
	j->zygote_config.run_dir = config->run_dir;
	j->zygote_config.zygote_filter_fd = zygote_filter;
	j->zygote_config.rest_filter_fd = rest_filter;
	j->zygote_config.notify = notify;
	j->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (j->epoll_fd < 0)
		return err_sys(e, "epoll");
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = NULL };

	if (epoll_ctl(j->epoll_fd, EPOLL_CTL_ADD, JAILER_SOCK_FD, &ev) < 0)
		return err_sys(e, "watch the daemon");
	return init_network(j, e) < 0 ? -1 : sandboxes_recover(j, e);
}

/* One packet from the daemon; false when it has closed its end. */
static bool serve_daemon(struct jailer *j)
{
	union {
		struct jailer_request rq;
		char bytes[sizeof(struct jailer_request) + 1];
	} packet;
	ssize_t n = recv(JAILER_SOCK_FD, &packet, sizeof(packet), MSG_DONTWAIT);
	struct err e = ERR_INIT;

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n <= 0) /* an empty packet looks the same, and no daemon in its senses sends one */
		return false;
	if (opcode_request_ok(&packet, (size_t)n, &e)) {
		opcode_dispatch(j, &packet.rq);
	} else {
		bool has_tag = (size_t)n >= offsetof(struct jailer_request, sid);

		/* SECURITY: a daemon that was taken over does not fill the log: the first of a
		 * kind and then every power of two. */
		j->refused_requests++;
		if ((j->refused_requests & (j->refused_requests - 1)) == 0)
			log_warn("refused a request (%" PRIu64 " so far): %s", j->refused_requests,
				 e.msg);
		opcode_reply(j, has_tag ? packet.rq.op : 0, has_tag ? packet.rq.tag : 0, &e, 0, -1);
	}
	return true;
}

static void settle_busy(struct jailer *j)
{
	list_each(&j->busy, struct sandbox, busy_node, s)
		sandbox_settle(j, s);
}

static void jailer_done(struct jailer *j)
{
	(void)!chdir("/"); /* the last sandbox was made from inside a template */
	list_each(&j->zygotes, struct zygote, node, z)
		zygote_free(z);
	network_free(j->network);
	opcode_drop_pending(j);
	if (j->sandboxes.len) {
		/* They live on; a later jailer finds them. */
		for (struct map_node *n; (n = map_next(&j->sandboxes, NULL));) {
			map_remove(&j->sandboxes, n);
			free(container_of(n, struct sandbox, node));
		}
		map_done(&j->sandboxes);
		return;
	}
	map_done(&j->sandboxes);
	char path[320];

	/* They end with the last process under their filter, which was a zygote. */
	close_fd(&j->witnesses[1]);
	poll(&(struct pollfd){ .fd = j->witnesses[0] }, 1, 1000);
	snprintf(path, sizeof(path), "%s/refused", j->config.run_dir);
	unlink(path);
	cgroup_close(&j->cgroups);
	for (const char *const *name = (const char *const[]){ "j", "s", "t", NULL }; *name;
	     name++) {
		snprintf(path, sizeof(path), "%s/%s", j->config.run_dir, *name);
		rmdir(path);
	}
	record_uid_release(j->config.uid_dir, j->config.run_dir);
}

/* Never silent about what this machine does not do: the daemon puts it where people look. */
static void name_missing(struct jailer *j)
{
	bool landlock = landlock_abi() >= LANDLOCK_ABI_WANTED;
	bool names = j->zygote_config.notify;

	if (j->cgroups.moved)
		log_info("moved the %d processes in the root of this container's cgroup tree to %s",
			 j->cgroups.moved, CGROUP_HOST_LEAF);
	if (j->cgroups.missing[0])
		log_warn("limits that are not enforced: %s", j->cgroups.reason);
	snprintf(j->missing, sizeof(j->missing), "%s%s%s", j->cgroups.missing,
		 landlock ? "" : " landlock", names ? "" : " refused-call-names");
	if (j->missing[0] == ' ')
		memmove(j->missing, j->missing + 1, strlen(j->missing));
}

int jailer_run(const struct jailer_config *config)
{
	struct jailer *j = calloc(1, sizeof(*j));
	struct err e = ERR_INIT;

	if (!j || jailer_init(j, config, &e) < 0) {
		opcode_reply(j, JAILER_RESTARTED, 0, &e, 0, -1);
		log_error("cannot start: %s", e.msg);
		return err_exit_status(e.code);
	}
	name_missing(j);
	opcode_restarted(j);
	for (bool serving = true; serving;) {
		struct epoll_event events[64];
		int n = epoll_wait(j->epoll_fd, events, ARRAY_LEN(events),
				   list_empty(&j->busy) ? -1 : 1);

		for (int i = 0; i < n; i++) {
			uintptr_t p = (uintptr_t)events[i].data.ptr;

			if (!p)
				serving = serve_daemon(j);
			else if (p & WATCH_ZYGOTE)
				opcode_zygote_event(j, (struct zygote *)(p - WATCH_ZYGOTE));
			else if (p & WATCH_NETWORK)
				network_event(j->network);
			else
				sandbox_settle(j, (struct sandbox *)p);
		}
		settle_busy(j);
	}
	jailer_done(j);
	free(j);
	return 0;
}
