/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/cgroup.h"

#include "base/fdio.h"
#include "base/own.h"
#include "jailer/cgroup_tree.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <mntent.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const names[CGROUP_CONTROLLERS] = { "memory", "pids", "cpu" };
#define MIB (1u << 20)
/* The longest that setting a memory limit may hold the jailer. */
#define HURRY_MS 50

static const char *const leaves[] = { "agent", "kernel" };

static bool has_word(const char *text, const char *word)
{
	size_t len = strlen(word);

	for (const char *p = text; (p = strstr(p, word)); p += len)
		if ((p == text || p[-1] == ' ' || p[-1] == ',') &&
		    (p[len] == '\0' || p[len] == ' ' || p[len] == ',' || p[len] == '\n'))
			return true;
	return false;
}

static int open_dir(int dfd, const char *path)
{
	return openat(dfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

/* Makes <mount>/bivouac/<instance> and returns it open. */
static int make_instance(int root, const char *mount, const char *instance, struct err *e)
{
	char path[64];

	snprintf(path, sizeof(path), "bivouac/%s", instance);
	if ((mkdirat(root, "bivouac", 0755) < 0 && errno != EEXIST) ||
	    (mkdirat(root, path, 0755) < 0 && errno != EEXIST))
		return err_sys(e, "make cgroup %s/%s", mount, path);
	int dfd = open_dir(root, path);

	return dfd < 0 ? err_sys(e, "open cgroup %s/%s", mount, path) : dfd;
}

static int open_v1(const char *mount, const char *instance, struct err *e)
{
	OWNED_FD int root = open_dir(AT_FDCWD, mount);

	return root < 0 ? err_sys(e, "open %s", mount) : make_instance(root, mount, instance, e);
}

static bool offers(int root_dfd, const char *controller)
{
	struct err ignored;
	struct buf text;

	buf_init(&text, 4096);
	bool found = fd_read_file(root_dfd, "cgroup.controllers", 4096, &text, &ignored) == 0 &&
		     has_word(buf_str(&text).ptr, controller);

	buf_done(&text);
	return found;
}

static int open_v2(struct cgroup_layout *l, const char *mount, const char *controller,
		   struct err *e)
{
	OWNED_FD int root = open_dir(AT_FDCWD, mount);

	if (root < 0)
		return err_sys(e, "open %s", mount);
	/* Nobody is moved for a controller that is not here. */
	if (!offers(root, controller))
		return err_set(e, ERR_UNAVAILABLE, "not among the cgroup.controllers of %s", mount);
	int moved = cgroup_tree_vacate(root, e);

	if (moved < 0)
		return -1;
	l->moved += moved;
	OWNED_FD int dfd = make_instance(root, mount, l->instance, e);

	/* One by one: a controller that is not delegated must not keep the others off. */
	if (dfd < 0 || cgroup_tree_hand_down(root, l->instance, controller, e) < 0)
		return -1;
	return take_fd(dfd);
}

static void note_missing(struct cgroup_layout *l, const char *word, const char *why)
{
	size_t n = strlen(l->missing);
	size_t r = strlen(l->reason);

	snprintf(l->missing + n, sizeof(l->missing) - n, "%s%s", n ? " " : "", word);
	snprintf(l->reason + r, sizeof(l->reason) - r, "%s%s: %s", r ? "; " : "", word, why);
}

/* Whether memory can leave for swap without being counted. */
static bool swap_escapes(const struct cgroup_layout *l)
{
	int dfd = l->ctrl[CGROUP_MEMORY].parent_dfd;
	const char *file = l->ctrl[CGROUP_MEMORY].version == 2 ? "memory.swap.max"
							       : "memory.memsw.limit_in_bytes";

	return dfd >= 0 && access("/proc/swaps", F_OK) == 0 && faccessat(dfd, file, F_OK, 0) < 0;
}

int cgroup_open(struct cgroup_layout *l, const char *instance, struct err *e)
{
	FILE *mounts = setmntent("/proc/self/mounts", "re");
	struct err why[CGROUP_CONTROLLERS];
	struct mntent *m;
	char v2_mount[256] = "";

	if (!mounts)
		return err_sys(e, "open /proc/self/mounts");
	*l = (struct cgroup_layout){ .moved = 0 };
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
		l->ctrl[c].parent_dfd = -1;
		err_set(&why[c], ERR_UNAVAILABLE, "no hierarchy with it is mounted");
	}
	snprintf(l->instance, sizeof(l->instance), "%s", instance);
	while ((m = getmntent(mounts))) {
		if (strcmp(m->mnt_type, "cgroup2") == 0 && !v2_mount[0])
			snprintf(v2_mount, sizeof(v2_mount), "%s", m->mnt_dir);
		if (strcmp(m->mnt_type, "cgroup") != 0)
			continue;
		for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
			if (l->ctrl[c].parent_dfd >= 0 || !has_word(m->mnt_opts, names[c]))
				continue;
			l->ctrl[c].parent_dfd = open_v1(m->mnt_dir, instance, &why[c]);
			l->ctrl[c].version = 1;
		}
	}
	endmntent(mounts);
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
		/* What is bound to a v1 hierarchy is not on the v2 tree. */
		if (l->ctrl[c].version != 1 && v2_mount[0]) {
			l->ctrl[c].parent_dfd = open_v2(l, v2_mount, names[c], &why[c]);
			l->ctrl[c].version = 2;
		}
		if (l->ctrl[c].parent_dfd < 0)
			note_missing(l, names[c], why[c].msg);
	}
	if (swap_escapes(l))
		note_missing(l, "swap",
			     "this kernel does not account it (boot with swapaccount=1)");
	return 0;
}

void cgroup_close(struct cgroup_layout *l)
{
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
		if (l->ctrl[c].parent_dfd < 0)
			continue;
		char up[48];

		snprintf(up, sizeof(up), "../%s", l->instance);
		unlinkat(l->ctrl[c].parent_dfd, up, AT_REMOVEDIR);
		close_fd(&l->ctrl[c].parent_dfd);
	}
}

/* Writes one limit. Files that a kernel lacks (swap accounting) are optional. */
static int set(int dfd, const char *sid, const char *file, bool optional, struct err *e,
	       const char *fmt, ...) __attribute__((format(printf, 6, 7)));

static int set(int dfd, const char *sid, const char *file, bool optional, struct err *e,
	       const char *fmt, ...)
{
	char path[128];
	char text[64];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	snprintf(path, sizeof(path), "%s/%s", sid, file);
	if (fd_write_once(dfd, path, text, e) < 0)
		return optional && e->errnum == ENOENT ? 0 : -1;
	return 0;
}

/* SECURITY: without a limit of its own v1 does not count what waits in sockets at all, and
 * gigabytes of the kernel's memory could wait there. An eighth on top of the rest. */
static int set_sockets_v1(int dfd, const char *sid, uint64_t memory_bytes, struct err *e)
{
	return set(dfd, sid, "memory.kmem.tcp.limit_in_bytes", true, e, "%" PRIu64,
		   memory_bytes / 8);
}

static int limit_memory(int dfd, int version, const char *sid, const struct jailer_limits *lim,
			struct err *e)
{
	if (version == 1) {
		if (set(dfd, sid, "memory.limit_in_bytes", false, e, "%" PRIu64,
			lim->memory_bytes) < 0)
			return -1;
		if (set_sockets_v1(dfd, sid, lim->memory_bytes, e) < 0)
			return -1;
		return set(dfd, sid, "memory.memsw.limit_in_bytes", true, e, "%" PRIu64,
			   lim->memory_bytes);
	}
	if (set(dfd, sid, "memory.max", false, e, "%" PRIu64, lim->memory_bytes) < 0)
		return -1;
	return set(dfd, sid, "memory.swap.max", true, e, "0");
}

/* Who may use more gets more when all want to run: one core is the kernel's standard weight. */
static int share_cpu(int dfd, int version, const char *sid, uint32_t cpu_millis, struct err *e)
{
	uint64_t standard = version == 1 ? 1024 : 100;
	uint64_t least = version == 1 ? 2 : 1;
	uint64_t most = version == 1 ? 262144 : 10000;
	uint64_t weight = cpu_millis * standard / 1000;

	if (weight < least)
		weight = least;
	if (weight > most)
		weight = most;
	return set(dfd, sid, version == 1 ? "cpu.shares" : "cpu.weight", false, e, "%" PRIu64,
		   weight);
}

static int limit_cpu(int dfd, int version, const char *sid, const struct jailer_limits *lim,
		     struct err *e)
{
	if (!lim->cpu_millis)
		return 0;
	if (share_cpu(dfd, version, sid, lim->cpu_millis, e) < 0)
		return -1;
	/* A short period keeps the pauses of a throttled kernel short; quota is per period. */
	uint32_t period_us = 20000;
	uint32_t quota_us = (uint32_t)((uint64_t)lim->cpu_millis * period_us / 1000);

	if (quota_us < 1000) /* the kernel's minimum */
		quota_us = 1000;
	if (version == 1) {
		if (set(dfd, sid, "cpu.cfs_period_us", false, e, "%u", period_us) < 0)
			return -1;
		return set(dfd, sid, "cpu.cfs_quota_us", false, e, "%u", quota_us);
	}
	return set(dfd, sid, "kernel/cpu.max", false, e, "%u %u", quota_us, period_us);
}

static int make_v2_leaves(int dfd, const char *sid, struct err *e)
{
	char path[64];
	struct err ignored;

	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", sid);
	fd_write_once(dfd, path, "+cpu", &ignored);
	for (size_t i = 0; i < ARRAY_LEN(leaves); i++) {
		snprintf(path, sizeof(path), "%s/%s", sid, leaves[i]);
		if (mkdirat(dfd, path, 0755) < 0 && errno != EEXIST)
			return err_sys(e, "make cgroup %s", path);
	}
	return 0;
}

int cgroup_create(const struct cgroup_layout *l, const char *sid, const struct jailer_limits *lim,
		  struct err *e)
{
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
		int dfd = l->ctrl[c].parent_dfd;
		int version = l->ctrl[c].version;

		if (dfd < 0)
			continue;
		if (mkdirat(dfd, sid, 0755) < 0 && errno != EEXIST)
			return err_sys(e, "make %s cgroup", names[c]);
		if (version == 2 && make_v2_leaves(dfd, sid, e) < 0)
			return -1;
		int rc = 0;

		if (c == CGROUP_MEMORY)
			rc = limit_memory(dfd, version, sid, lim, e);
		else if (c == CGROUP_PIDS)
			rc = set(dfd, sid, "pids.max", false, e, "%u", lim->pids);
		else
			rc = limit_cpu(dfd, version, sid, lim, e);
		if (rc < 0)
			return err_wrap(e, "%s limit", names[c]);
	}
	return 0;
}

/* Whether an earlier controller already stands for the same v2 directory. */
static bool same_v2_tree(const struct cgroup_layout *l, size_t c)
{
	for (size_t i = 0; i < c; i++)
		if (l->ctrl[i].parent_dfd >= 0 && l->ctrl[i].version == 2 &&
		    l->ctrl[c].version == 2)
			return true;
	return false;
}

int cgroup_attach_agent(const struct cgroup_layout *l, const char *sid, pid_t pid, struct err *e)
{
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
		if (l->ctrl[c].parent_dfd < 0 || same_v2_tree(l, c))
			continue;
		if (set(l->ctrl[c].parent_dfd, sid,
			l->ctrl[c].version == 2 ? "agent/cgroup.procs" : "cgroup.procs", false, e,
			"%d", (int)pid) < 0)
			return -1;
	}
	return 0;
}

int cgroup_detach_agent(const struct cgroup_layout *l, pid_t pid, struct err *e)
{
	/* The namespace keeps the sandbox's directory as its root, so that no process in it,
	 * kernels included, sees the host's path; the agent itself must not be slowed by the quota.
	 */
	if (l->ctrl[CGROUP_CPU].parent_dfd < 0 || l->ctrl[CGROUP_CPU].version != 1)
		return 0;
	return set(l->ctrl[CGROUP_CPU].parent_dfd, ".", "cgroup.procs", false, e, "%d", (int)pid);
}

int cgroup_kernel_fds(const struct cgroup_layout *l, const char *sid, int fds[CGROUP_CONTROLLERS],
		      struct err *e)
{
	int n = 0;

	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
		char path[96];

		if (l->ctrl[c].parent_dfd < 0 || same_v2_tree(l, c))
			continue;
		snprintf(path, sizeof(path), "%s/%scgroup.procs", sid,
			 l->ctrl[c].version == 2 ? "kernel/" : "");
		fds[n] = openat(l->ctrl[c].parent_dfd, path, O_WRONLY | O_CLOEXEC);
		if (fds[n] < 0) {
			err_sys(e, "open %s cgroup", names[c]);
			while (n > 0)
				close(fds[--n]);
			return -1;
		}
		n++;
	}
	return n;
}

int cgroup_oom_fd(const struct cgroup_layout *l, const char *sid)
{
	char path[96];

	if (l->ctrl[CGROUP_MEMORY].parent_dfd < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/%s", sid,
		 l->ctrl[CGROUP_MEMORY].version == 2 ? "memory.events" : "memory.oom_control");
	return openat(l->ctrl[CGROUP_MEMORY].parent_dfd, path, O_RDONLY | O_CLOEXEC);
}

int cgroup_remove(const struct cgroup_layout *l, const char *sid, struct err *e)
{
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
		int dfd = l->ctrl[c].parent_dfd;

		if (dfd < 0)
			continue;
		for (size_t i = 0; l->ctrl[c].version == 2 && i < ARRAY_LEN(leaves); i++) {
			char path[64];

			snprintf(path, sizeof(path), "%s/%s", sid, leaves[i]);
			if (unlinkat(dfd, path, AT_REMOVEDIR) < 0 && errno == EBUSY)
				return 1;
		}
		if (unlinkat(dfd, sid, AT_REMOVEDIR) < 0 && errno != ENOENT) {
			if (errno == EBUSY)
				return 1;
			return err_sys(e, "remove %s cgroup of %s", names[c], sid);
		}
	}
	return 0;
}

/* SECURITY: the pid may have gone to a stranger since it was listed: the pidfd holds on to whoever
 * has it now, and only if that one is in a cgroup of this sandbox is the signal sent. */
static void kill_member(pid_t pid, const char *sid)
{
	OWNED_FD int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	char path[64];
	struct buf text;
	struct err e;

	if (pidfd < 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/cgroup", (int)pid);
	buf_init(&text, 16384);
	if (fd_read_file(AT_FDCWD, path, 16384, &text, &e) == 0 && text.ptr &&
	    strstr(text.ptr, sid))
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
	buf_done(&text);
}

static void kill_listed(int dfd, const char *path, const char *sid)
{
	struct buf text;
	struct err e;

	buf_init(&text, 1 << 20);
	if (fd_read_file(dfd, path, 1 << 20, &text, &e) == 0) {
		for (char *p = text.len ? text.ptr : NULL; p && *p;) {
			long pid = strtol(p, &p, 10);

			if (pid > 1)
				kill_member((pid_t)pid, sid);
			while (p && *p == '\n')
				p++;
		}
	}
	buf_done(&text);
}

void cgroup_kill(const struct cgroup_layout *l, const char *sid)
{
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
		char path[96];
		struct err ignored;

		if (l->ctrl[c].parent_dfd < 0)
			continue;
		snprintf(path, sizeof(path), "%s/cgroup.kill", sid);
		/* Linux 5.14: the whole tree at once, whatever it forks meanwhile. */
		if (l->ctrl[c].version == 2 &&
		    fd_write_once(l->ctrl[c].parent_dfd, path, "1", &ignored) == 0)
			continue;
		snprintf(path, sizeof(path), "%s/cgroup.procs", sid);
		kill_listed(l->ctrl[c].parent_dfd, path, sid);
		for (size_t i = 0; l->ctrl[c].version == 2 && i < ARRAY_LEN(leaves); i++) {
			snprintf(path, sizeof(path), "%s/%s/cgroup.procs", sid, leaves[i]);
			kill_listed(l->ctrl[c].parent_dfd, path, sid);
		}
	}
}

/* The number after `word` in a cgroup file ("" for files that hold one number). */
static uint64_t read_number(int dfd, const char *sid, const char *file, const char *word)
{
	char path[96];
	struct buf text;
	struct err e;
	uint64_t v = 0;

	if (dfd < 0)
		return 0;
	snprintf(path, sizeof(path), "%s/%s", sid, file);
	buf_init(&text, 64 * 1024);
	if (fd_read_file(dfd, path, 64 * 1024, &text, &e) == 0 && text.ptr) {
		const char *at = *word ? strstr(text.ptr, word) : text.ptr;

		if (at)
			v = strtoull(at + strlen(word), NULL, 10);
	}
	buf_done(&text);
	return v;
}

/* What reclaim cannot free: everything charged but the page cache. tmpfs files are no page cache
 * here, they stay. */
static uint64_t held_memory(int dfd, bool v2, const char *sid)
{
	uint64_t used = read_number(dfd, sid, v2 ? "memory.current" : "memory.usage_in_bytes", "");
	uint64_t cache =
		read_number(dfd, sid, "memory.stat", v2 ? "\nactive_file " : "total_active_file ") +
		read_number(dfd, sid, "memory.stat",
			    v2 ? "\ninactive_file " : "total_inactive_file ");

	return used > cache ? used - cache : 0;
}

/* v1 keeps limit <= memory+swap limit at every step: lowering begins with the first, raising with
 * the second. */
static int set_memory_v1(int dfd, const char *sid, uint64_t bytes, struct err *e)
{
	static const char limit[] = "memory.limit_in_bytes";
	static const char with_swap[] = "memory.memsw.limit_in_bytes";
	uint64_t now = read_number(dfd, sid, limit, "");
	struct err ignored;

	if (bytes >= now) {
		if (set(dfd, sid, with_swap, true, e, "%" PRIu64, bytes) < 0)
			return -1;
		set_sockets_v1(dfd, sid, bytes, &ignored);
		return set(dfd, sid, limit, false, e, "%" PRIu64, bytes);
	}
	if (set(dfd, sid, limit, false, e, "%" PRIu64, bytes) < 0)
		return -1;
	if (set(dfd, sid, with_swap, true, e, "%" PRIu64, bytes) == 0) {
		set_sockets_v1(dfd, sid, bytes, &ignored); /* not below what they hold already */
		return 0;
	}
	set(dfd, sid, limit, false, &ignored, "%" PRIu64, now);
	return -1;
}

static int err_held(uint64_t held, uint64_t bytes, struct err *e)
{
	return err_set(e, ERR_CONFLICT,
		       "the session holds %" PRIu64 " MiB of memory already, and the limit "
		       "would be %" PRIu64 " MiB",
		       (held + MIB - 1) / MIB, bytes / MIB);
}

static void on_alarm(int sig)
{
	(void)sig;
}

/*
 * SECURITY: writing a limit makes the kernel reclaim, for as long as it finds something, and a
 * session can see to it that it does (MADV_FREE, and use the pages again). A signal ends that: this
 * thread serves everybody. 0 ms: enough.
 */
static void hurry(int ms)
{
	struct sigaction sa = { .sa_handler = on_alarm }; /* no SA_RESTART */
	struct itimerval t = { .it_value.tv_usec = ms * 1000, .it_interval.tv_usec = ms * 1000 };

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &t, NULL);
}

int cgroup_set_memory(const struct cgroup_layout *l, const char *sid, uint64_t bytes, struct err *e)
{
	int dfd = l->ctrl[CGROUP_MEMORY].parent_dfd;
	bool v2 = l->ctrl[CGROUP_MEMORY].version == 2;

	if (dfd < 0)
		return err_set(e, ERR_NOT_SUPPORTED,
			       "this machine has no memory controller; no memory limit is kept");
	uint64_t held = held_memory(dfd, v2, sid);

	/* Asked first: v2 would kill to get below a new limit, v1 would scan for long what it
	 * cannot free. */
	if (held > bytes)
		return err_held(held, bytes, e);
	uint64_t before = v2 ? read_number(dfd, sid, "memory.max", "") : 0;

	hurry(HURRY_MS);
	int rc = v2 ? set(dfd, sid, "memory.max", false, e, "%" PRIu64, bytes)
		    : set_memory_v1(dfd, sid, bytes, e);

	hurry(0);

	/* It grew meanwhile, or gives back too slowly. */
	if (rc < 0 && (e->errnum == EBUSY || e->errnum == EINTR))
		return err_held(held_memory(dfd, v2, sid), bytes, e);
	if (rc == 0 && v2 && read_number(dfd, sid, "memory.current", "") > bytes) {
		struct err ignored;

		/* The limit is set, what it asks for is not done: as if it had not been tried. */
		set(dfd, sid, "memory.max", false, &ignored, "%" PRIu64, before);
		return err_held(held_memory(dfd, v2, sid), bytes, e);
	}
	return rc;
}

int cgroup_stats(const struct cgroup_layout *l, const char *sid, struct jailer_stats *ret,
		 struct err *e)
{
	int memory = l->ctrl[CGROUP_MEMORY].parent_dfd;
	int cpu = l->ctrl[CGROUP_CPU].parent_dfd;
	bool v2 = l->ctrl[CGROUP_MEMORY].version == 2;

	(void)e;
	ret->memory_bytes =
		read_number(memory, sid, v2 ? "memory.current" : "memory.usage_in_bytes", "");
	ret->oom_kills = (uint32_t)read_number(
		memory, sid, v2 ? "memory.events" : "memory.oom_control", "oom_kill ");
	ret->pids = (uint32_t)read_number(l->ctrl[CGROUP_PIDS].parent_dfd, sid, "pids.current", "");
	if (l->ctrl[CGROUP_CPU].version == 2)
		ret->cpu_us = read_number(cpu, sid, "cpu.stat", "usage_usec ");
	else /* cpuacct is a hierarchy of its own on v1; co-mounted or absent here */
		ret->cpu_us = read_number(cpu, sid, "cpuacct.usage", "") / 1000;
	return 0;
}

void cgroup_each(const struct cgroup_layout *l, void (*fn)(const char *sid, void *arg), void *arg)
{
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++) {
		if (l->ctrl[c].parent_dfd < 0)
			continue;
		int dfd = open_dir(l->ctrl[c].parent_dfd, ".");
		DIR *dir = dfd < 0 ? NULL : fdopendir(dfd);

		if (!dir)
			continue;
		for (struct dirent *d; (d = readdir(dir));)
			if (d->d_type == DT_DIR && strlen(d->d_name) == JAILER_SID_SIZE - 1)
				fn(d->d_name, arg);
		closedir(dir);
	}
}
