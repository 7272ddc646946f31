/* SPDX-License-Identifier: Apache-2.0 */

/*
 * PID 1 of a micro VM: tries src/jailer/cgroup.c on a cgroup layout that the building machine need
 * not have. `bivouac.layout=` on the kernel's command line says which one (see mount_layout).
 * Everything a check makes is gone when it ends. Times are bounds only: the guest is emulated.
 */

#include "base/fdio.h"
#include "base/own.h"
#include "jailer/cgroup.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROOT     "/sys/fs/cgroup"
#define V1_CPU   "/sys/fs/v1cpu"
#define INSTANCE "0123abcd"
#define SID      "0123456789abcdef0123456789abcdef"
#define OTHER    "fedcba9876543210fedcba9876543210"
#define TREE     ROOT "/bivouac/" INSTANCE
#define MIB      (1ull << 20)
#define MEMORY   (24 * MIB)
#define PIDS     12
#define QUOTA    100 /* thousandths of a core */
/* Long for an emulated processor on a loaded machine; a check that waits this long has failed. */
#define PATIENCE_S 30

static struct cgroup_layout layout;
static const struct jailer_limits limits = { .memory_bytes = MEMORY,
					     .pids = PIDS,
					     .cpu_millis = QUOTA };

static const char *read_text(const char *path)
{
	static char text[4096];
	struct err e = ERR_INIT;
	struct buf b;

	buf_init(&b, sizeof(text) - 1);
	if (fd_read_file(AT_FDCWD, path, sizeof(text) - 1, &b, &e) < 0)
		snprintf(text, sizeof(text), "(%.200s)", e.msg);
	else
		snprintf(text, sizeof(text), "%.*s", (int)b.len, buf_str(&b).ptr);
	buf_done(&b);
	char *newline = strchr(text, '\n');

	if (newline && !newline[1])
		*newline = '\0';
	return text;
}

static uint64_t read_number(const char *path, const char *word)
{
	const char *text = read_text(path);
	const char *at = strstr(text, word);

	return EXPECT(at != NULL, "no '%s' in %s: %s", word, path, text)
		       ? strtoull(at + strlen(word), NULL, 10)
		       : 0;
}

static void expect_text(const char *path, const char *want)
{
	const char *text = read_text(path);

	EXPECT(strcmp(text, want) == 0, "%s: '%s' instead of '%s'", path, text, want);
}

static void expect_gone(const char *path)
{
	EXPECT(access(path, F_OK) < 0 && errno == ENOENT, "%s is still there", path);
}

static int64_t seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

/* What members of a sandbox do. */

static void idle(void)
{
	for (;;)
		pause();
}

static void spin(void)
{
	for (volatile unsigned i = 0;; i++)
		;
}

static char *touch(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		_exit(9);
	for (size_t i = 0; i < bytes; i += 4096)
		p[i] = 1;
	return p;
}

static void hog_all(void)
{
	touch(3 * MEMORY);
}

/* Two of them do not fit, one does. */
static void hog_half(void)
{
	touch(MEMORY * 6 / 10);
	kill(getpid(), SIGSTOP);
	idle();
}

/* Exit status: how many children there could be. */
static void fork_all(void)
{
	for (int n = 0;; n++) {
		pid_t pid = fork();

		if (pid == 0)
			idle();
		if (pid < 0)
			_exit(errno == EAGAIN ? n : 99);
	}
}

static pid_t start_agent(const char *sid, void (*fn)(void))
{
	struct err e = ERR_INIT;
	int go[2];

	if (!EXPECT(pipe2(go, O_CLOEXEC) == 0, "pipe"))
		return -1;
	pid_t pid = fork();

	if (pid == 0) {
		char c;

		close(go[1]);
		/* What counts is what is touched after the move. */
		(void)!read(go[0], &c, 1);
		fn();
		_exit(0);
	}
	EXPECT(cgroup_attach_agent(&layout, sid, pid, &e) == 0, "attach: %s", e.msg);
	close(go[0]);
	close(go[1]);
	return pid;
}

static pid_t start_kernel(const char *sid, void (*fn)(void))
{
	struct err e = ERR_INIT;
	int fds[CGROUP_CONTROLLERS];
	int n = cgroup_kernel_fds(&layout, sid, fds, &e);

	EXPECT(n > 0, "kernel descriptors: %s", e.msg);
	pid_t pid = fork();

	if (pid == 0) {
		for (int i = 0; i < n; i++)
			if (write(fds[i], "0", 1) != 1)
				_exit(98);
		fn();
		_exit(0);
	}
	while (n > 0)
		close(fds[--n]);
	return pid;
}

static void end(pid_t pid)
{
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static int wait_end(pid_t pid)
{
	int status = -1;

	EXPECT(waitpid(pid, &status, 0) == pid, "wait");
	return status;
}

static void expect_killed(pid_t pid)
{
	int status = wait_end(pid);

	EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %#x instead of SIGKILL",
	       (unsigned)status);
}

static bool is_alive(pid_t pid)
{
	return waitpid(pid, NULL, WNOHANG) == 0;
}

static void create(const char *sid)
{
	struct err e = ERR_INIT;

	EXPECT(cgroup_create(&layout, sid, &limits, &e) == 0, "create: %s", e.msg);
}

/* A killed process leaves its cgroup a moment after it was reaped. */
static void remove_sandbox(const char *sid)
{
	struct err e = ERR_INIT;
	int64_t until = seconds() + PATIENCE_S;
	int rc;

	while ((rc = cgroup_remove(&layout, sid, &e)) == 1 && seconds() < until)
		usleep(10000);
	EXPECT(rc == 0, "remove: %d %s", rc, e.msg);
}

/* Layout v2: every controller on one tree. */

static void check_open(void)
{
	EXPECT(layout.missing[0] == '\0', "missing: %s", layout.missing);
	for (size_t c = 0; c < CGROUP_CONTROLLERS; c++)
		EXPECT(layout.ctrl[c].parent_dfd >= 0 && layout.ctrl[c].version == 2,
		       "controller %zu: version %d", c, layout.ctrl[c].version);
	expect_text(TREE "/cgroup.subtree_control", "cpu memory pids");
}

static void check_limits(void)
{
	create(SID);
	expect_text(TREE "/" SID "/memory.max", "25165824");
	expect_text(TREE "/" SID "/pids.max", "12");
	expect_text(TREE "/" SID "/kernel/cpu.max", "2000 20000");
	expect_text(TREE "/" SID "/agent/cpu.max", "max 100000");
	/* Debian's kernel accounts swap. */
	expect_text(TREE "/" SID "/memory.swap.max", "0");
	remove_sandbox(SID);
	expect_gone(TREE "/" SID);
}

static void check_join(void)
{
	char want[32];

	create(SID);
	pid_t agent = start_agent(SID, idle);
	pid_t kernel = start_kernel(SID, idle);
	int64_t until = seconds() + PATIENCE_S;

	snprintf(want, sizeof(want), "%d", (int)agent);
	expect_text(TREE "/" SID "/agent/cgroup.procs", want);
	while (!*read_text(TREE "/" SID "/kernel/cgroup.procs") && seconds() < until)
		usleep(1000);
	snprintf(want, sizeof(want), "%d", (int)kernel);
	expect_text(TREE "/" SID "/kernel/cgroup.procs", want);
	end(kernel);
	end(agent);
	remove_sandbox(SID);
}

static uint64_t oom_kills(int oom_fd)
{
	char text[512];
	ssize_t n = pread(oom_fd, text, sizeof(text) - 1, 0);

	if (!EXPECT(n > 0, "the out-of-memory file cannot be read"))
		return 0;
	text[n] = '\0';
	const char *at = strstr(text, "oom_kill ");

	return EXPECT(at != NULL, "no oom_kill in %s", text) ? strtoull(at + 9, NULL, 10) : 0;
}

static void check_oom(void)
{
	struct jailer_stats stats = { 0 };
	struct err e = ERR_INIT;

	create(SID);
	create(OTHER);
	OWNED_FD int oom_fd = cgroup_oom_fd(&layout, SID);
	OWNED_FD int other_fd = cgroup_oom_fd(&layout, OTHER);
	pid_t agent = start_agent(SID, idle);
	pid_t neighbour = start_kernel(OTHER, hog_half);

	EXPECT(oom_kills(oom_fd) == 0, "killed before anything began");
	expect_killed(start_kernel(SID, hog_all));
	EXPECT(oom_kills(oom_fd) == 1, "%llu kills", (unsigned long long)oom_kills(oom_fd));
	EXPECT(oom_kills(other_fd) == 0, "the neighbour's count changed");
	EXPECT(is_alive(agent), "the agent was killed with it");
	EXPECT(is_alive(neighbour), "the neighbour was killed with it");
	EXPECT(cgroup_stats(&layout, SID, &stats, &e) == 0 && stats.oom_kills == 1,
	       "statistics say %u", stats.oom_kills);
	end(agent);
	end(neighbour);
	remove_sandbox(SID);
	remove_sandbox(OTHER);
}

static void check_oom_sum(void)
{
	int status = 0;

	create(SID);
	OWNED_FD int oom_fd = cgroup_oom_fd(&layout, SID);
	pid_t agent = start_agent(SID, hog_half);

	EXPECT(waitpid(agent, &status, WUNTRACED) == agent && WIFSTOPPED(status),
	       "half of the memory does not fit: %#x", (unsigned)status);
	pid_t kernel = start_kernel(SID, hog_half);
	pid_t dead = waitpid(-1, &status, 0);

	EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %#x", (unsigned)status);
	EXPECT(oom_kills(oom_fd) == 1, "%llu kills", (unsigned long long)oom_kills(oom_fd));
	end(dead == agent ? kernel : agent);
	remove_sandbox(SID);
}

static void check_pids(void)
{
	struct jailer_stats stats = { 0 };
	struct err e = ERR_INIT;

	create(SID);
	pid_t agent = start_agent(SID, idle);
	int status = wait_end(start_kernel(SID, fork_all));

	/* The agent and the kernel itself count. */
	EXPECT(WIFEXITED(status) && WEXITSTATUS(status) == PIDS - 2, "status %#x",
	       (unsigned)status);
	EXPECT(cgroup_stats(&layout, SID, &stats, &e) == 0 && stats.pids == PIDS - 1,
	       "statistics: %u processes", stats.pids);
	cgroup_kill(&layout, SID);
	expect_killed(agent);
	while (waitpid(-1, NULL, 0) > 0)
		;
	remove_sandbox(SID);
}

/* Lets agent and kernel spin until the kernel was throttled often enough; returns the kernel's
 * share of a processor in thousandths. */
static uint64_t spin_both(const char *kernel_stat, uint64_t *ret_agent_us, const char *agent_stat)
{
	pid_t agent = start_agent(SID, spin);
	pid_t kernel = start_kernel(SID, spin);
	struct timespec from, to;
	int64_t until = seconds() + PATIENCE_S;

	clock_gettime(CLOCK_MONOTONIC, &from);
	while (read_number(kernel_stat, "nr_throttled ") < 40 && seconds() < until)
		usleep(20000);
	clock_gettime(CLOCK_MONOTONIC, &to);
	uint64_t kernel_us = read_number(kernel_stat, "usage_usec ");
	uint64_t wall_us = (uint64_t)((to.tv_sec - from.tv_sec) * 1000000 +
				      (to.tv_nsec - from.tv_nsec) / 1000);

	*ret_agent_us = read_number(agent_stat, "usage_usec ");
	EXPECT(read_number(kernel_stat, "nr_throttled ") >= 40, "not throttled: %s",
	       read_text(kernel_stat));
	end(kernel);
	end(agent);
	return kernel_us * 1000 / wall_us;
}

static void check_quota(void)
{
	struct jailer_stats stats = { 0 };
	struct err e = ERR_INIT;
	uint64_t agent_us;

	create(SID);
	uint64_t share = spin_both(TREE "/" SID "/kernel/cpu.stat", &agent_us,
				   TREE "/" SID "/agent/cpu.stat");

	EXPECT(share < 3 * QUOTA, "the kernel had %llu/1000 of a processor",
	       (unsigned long long)share);
	EXPECT(read_number(TREE "/" SID "/agent/cpu.stat", "nr_throttled ") == 0,
	       "the agent was throttled");
	EXPECT(agent_us > 0, "the agent had no processor");
	EXPECT(cgroup_stats(&layout, SID, &stats, &e) == 0 && stats.cpu_us >= agent_us,
	       "statistics: %llu us", (unsigned long long)stats.cpu_us);
	remove_sandbox(SID);
}

static void check_stats(void)
{
	struct jailer_stats stats = { 0 };
	struct err e = ERR_INIT;
	int status = 0;

	create(SID);
	pid_t agent = start_agent(SID, idle);
	pid_t kernel = start_kernel(SID, hog_half);

	waitpid(kernel, &status, WUNTRACED);
	EXPECT(cgroup_stats(&layout, SID, &stats, &e) == 0, "statistics: %s", e.msg);
	EXPECT(stats.memory_bytes > MEMORY / 2 && stats.memory_bytes <= MEMORY, "%llu bytes",
	       (unsigned long long)stats.memory_bytes);
	EXPECT(stats.pids == 2, "%u processes", stats.pids);
	EXPECT(stats.oom_kills == 0, "%u kills", stats.oom_kills);
	EXPECT(stats.cpu_us > 0, "no processor time");
	end(kernel);
	end(agent);
	remove_sandbox(SID);
}

static void check_remove(void)
{
	struct err e = ERR_INIT;

	create(SID);
	pid_t agent = start_agent(SID, idle);

	EXPECT(cgroup_remove(&layout, SID, &e) == 1, "an occupied sandbox was removed");
	EXPECT(is_alive(agent), "by killing who was in it");
	end(agent);
	remove_sandbox(SID);
	expect_gone(TREE "/" SID);
	EXPECT(cgroup_remove(&layout, SID, &e) == 0, "a second time: %s", e.msg);
}

/* Multiplies as fast as it can. */
static void bomb(void)
{
	for (;;)
		if (fork() < 0)
			usleep(100);
}

static void check_kill(void)
{
	create(SID);
	create(OTHER);
	pid_t agent = start_agent(SID, idle);
	pid_t kernel = start_kernel(SID, bomb);
	pid_t neighbour = start_kernel(OTHER, idle);
	int64_t until = seconds() + PATIENCE_S;

	while (read_number(TREE "/" SID "/pids.current", "") < PIDS && seconds() < until)
		usleep(1000);
	cgroup_kill(&layout, SID);
	expect_killed(agent);
	expect_killed(kernel);
	while (read_number(TREE "/" SID "/pids.current", "") > 0 && seconds() < until)
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	EXPECT(read_number(TREE "/" SID "/pids.current", "") == 0, "the bomb goes on");
	EXPECT(is_alive(neighbour), "a neighbour was killed");
	end(neighbour);
	remove_sandbox(SID);
	remove_sandbox(OTHER);
}

static void count_sid(const char *sid, void *arg)
{
	int *seen = arg;

	seen[strcmp(sid, SID) == 0 ? 0 : strcmp(sid, OTHER) == 0 ? 1 : 2]++;
}

static void check_each(void)
{
	int seen[3] = { 0 };

	create(SID);
	create(OTHER);
	mkdir(TREE "/stranger", 0755);
	cgroup_each(&layout, count_sid, seen);
	EXPECT(seen[0] > 0 && seen[1] > 0 && seen[2] == 0, "seen %d %d %d", seen[0], seen[1],
	       seen[2]);
	rmdir(TREE "/stranger");
	remove_sandbox(SID);
	remove_sandbox(OTHER);
}

static void check_close(void)
{
	struct cgroup_layout l;
	struct err e = ERR_INIT;

	EXPECT(cgroup_open(&l, "99999999", &e) == 0, "open: %s", e.msg);
	EXPECT(access(ROOT "/bivouac/99999999/cgroup.procs", F_OK) == 0, "no directory was made");
	cgroup_close(&l);
	expect_gone(ROOT "/bivouac/99999999");
	EXPECT(access(TREE, F_OK) == 0, "another instance was removed");
}

/* Bivouac inside a container with a cgroup namespace of its own. */

#define BOX ROOT "/box"

static pid_t strangers[2];

/* This process into the box, which becomes the root of what it sees. */
static bool enter_box(const char *controllers, unsigned long mount_flags)
{
	struct err e = ERR_INIT;
	bool ok = true;

	rmdir(BOX);
	for (const char *p = controllers; *p && ok; p += strcspn(p, " "), p += strspn(p, " ")) {
		char word[16];

		snprintf(word, sizeof(word), "%.*s", (int)strcspn(p, " "), p);
		ok = fd_write_once(AT_FDCWD, ROOT "/cgroup.subtree_control", word, &e) == 0;
	}
	ok = ok && (mkdir(BOX, 0755) == 0 || errno == EEXIST) &&
	     fd_write_once(AT_FDCWD, BOX "/cgroup.procs", "0", &e) == 0 &&
	     unshare(CLONE_NEWCGROUP | CLONE_NEWNS) == 0 &&
	     mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 && umount(ROOT) == 0 &&
	     mount("cgroup2", ROOT, "cgroup2", mount_flags, NULL) == 0;
	return EXPECT(ok, "entering the box: %s %s", e.msg, strerror(errno));
}

static void start_strangers(void)
{
	for (size_t i = 0; i < ARRAY_LEN(strangers); i++) {
		strangers[i] = fork();
		if (strangers[i] == 0)
			idle();
	}
}

static void end_strangers(void)
{
	for (size_t i = 0; i < ARRAY_LEN(strangers); i++)
		end(strangers[i]);
}

static void in_container(void)
{
	struct err e = ERR_INIT;
	char text[64];

	if (!enter_box("+memory +pids +cpu", 0))
		return;
	start_strangers();
	EXPECT(cgroup_open(&layout, INSTANCE, &e) == 0, "open: %s", e.msg);
	EXPECT(layout.missing[0] == '\0', "missing: %s (%s)", layout.missing, layout.reason);
	expect_text(ROOT "/cgroup.procs", "");
	expect_text("/proc/self/cgroup", "0::/bivouac.host");
	snprintf(text, sizeof(text), "/proc/%d/cgroup", (int)strangers[0]);
	expect_text(text, "0::/bivouac.host");
	create(SID);
	expect_text(TREE "/" SID "/memory.max", "25165824");
	pid_t kernel = start_kernel(SID, hog_all);

	expect_killed(kernel);
	remove_sandbox(SID);
	cgroup_close(&layout);
	/* And again, as at a restart. */
	EXPECT(cgroup_open(&layout, INSTANCE, &e) == 0 && layout.missing[0] == '\0',
	       "missing at a restart: %s", layout.missing);
	cgroup_close(&layout);
	rmdir(ROOT "/bivouac");
	end_strangers();
}

static void leave_box(void)
{
	struct err e;
	int64_t until = seconds() + PATIENCE_S;

	for (const char *const *p = (const char *const[]){ "/bivouac/" INSTANCE, "/bivouac",
							   "/bivouac.host", "", NULL };
	     *p; p++) {
		char path[128];

		snprintf(path, sizeof(path), BOX "%s", *p);
		while (rmdir(path) < 0 && errno == EBUSY && seconds() < until)
			usleep(10000);
	}
	expect_gone(BOX);
	fd_write_once(AT_FDCWD, ROOT "/cgroup.subtree_control", "+pids", &e);
	fd_write_once(AT_FDCWD, ROOT "/cgroup.subtree_control", "+cpu", &e);
}

static void check_container(void)
{
	tap_child(in_container);
	leave_box();
}

/* As PID 1 of a PID namespace, beside processes that are outside of it: they cannot be moved. */
static void among_strangers(void)
{
	struct err e = ERR_INIT;

	EXPECT(cgroup_open(&layout, INSTANCE, &e) == 0, "open: %s", e.msg);
	EXPECT(strstr(layout.missing, "memory") != NULL, "missing: '%s'", layout.missing);
	EXPECT(strstr(layout.reason, "cannot be moved") != NULL, "reason: '%s'", layout.reason);
	expect_gone(ROOT "/bivouac.host");
	EXPECT(strstr(read_text(ROOT "/cgroup.procs"), "0\n") != NULL, "strangers were moved: %s",
	       read_text(ROOT "/cgroup.procs"));
	cgroup_close(&layout);
}

static void beside_strangers(void)
{
	if (!enter_box("+memory +pids +cpu", 0))
		return;
	start_strangers();
	if (EXPECT(unshare(CLONE_NEWPID) == 0, "PID namespace"))
		tap_child(among_strangers);
	end_strangers();
}

static void check_strangers(void)
{
	tap_child(beside_strangers);
	leave_box();
}

/* Processes of others in the visible root, which is not ours to rearrange. */
static void outside_the_root(void)
{
	struct err e = ERR_INIT;

	if (!enter_box("+memory +pids +cpu", 0))
		return;
	start_strangers();
	mkdir(ROOT "/mine", 0755);
	fd_write_once(AT_FDCWD, ROOT "/mine/cgroup.procs", "0", &e);
	EXPECT(cgroup_open(&layout, INSTANCE, &e) == 0, "open: %s", e.msg);
	EXPECT(strstr(layout.missing, "memory") != NULL, "missing: '%s'", layout.missing);
	EXPECT(layout.reason[0] != '\0', "no reason");
	expect_gone(ROOT "/bivouac.host");
	cgroup_close(&layout);
	fd_write_once(AT_FDCWD, ROOT "/cgroup.procs", "0", &e);
	rmdir(ROOT "/mine");
	end_strangers();
}

static void check_not_ours(void)
{
	tap_child(outside_the_root);
	rmdir(BOX "/mine");
	leave_box();
}

static void without_pids(void)
{
	struct jailer_stats stats = { 0 };
	struct err e = ERR_INIT;

	if (!enter_box("-pids", 0))
		return;
	EXPECT(cgroup_open(&layout, INSTANCE, &e) == 0, "open: %s", e.msg);
	EXPECT(strcmp(layout.missing, "pids") == 0, "missing: '%s'", layout.missing);
	EXPECT(strstr(layout.reason, "pids") != NULL, "reason: '%s'", layout.reason);
	create(SID);
	expect_text(TREE "/" SID "/memory.max", "25165824");
	expect_text(TREE "/" SID "/kernel/cpu.max", "2000 20000");
	expect_killed(start_kernel(SID, hog_all));
	EXPECT(cgroup_stats(&layout, SID, &stats, &e) == 0 && stats.oom_kills == 1, "%u kills",
	       stats.oom_kills);
	remove_sandbox(SID);
	cgroup_close(&layout);
}

static void check_not_delegated(void)
{
	cgroup_close(&layout);
	rmdir(ROOT "/bivouac");
	tap_child(without_pids);
	leave_box();
	struct err e = ERR_INIT;

	EXPECT(cgroup_open(&layout, INSTANCE, &e) == 0 && !layout.missing[0], "reopen: %s",
	       layout.missing);
}

static void read_only(void)
{
	struct err e = ERR_INIT;

	if (!enter_box("+memory +pids +cpu", MS_RDONLY))
		return;
	EXPECT(cgroup_open(&layout, INSTANCE, &e) == 0, "open: %s", e.msg);
	EXPECT(strcmp(layout.missing, "memory pids cpu") == 0, "missing: '%s'", layout.missing);
	EXPECT(strstr(layout.reason, "Read-only") != NULL, "reason: '%s'", layout.reason);
}

static void check_read_only(void)
{
	tap_child(read_only);
	/* A superblock of cgroup2 is one for all mounts. */
	mount(NULL, ROOT, NULL, MS_REMOUNT, NULL);
	leave_box();
}

/* Layout hybrid: cpu is a v1 hierarchy, the rest v2. */

#define V1_TREE V1_CPU "/bivouac/" INSTANCE

static void check_hybrid_open(void)
{
	EXPECT(layout.missing[0] == '\0', "missing: %s", layout.missing);
	EXPECT(layout.ctrl[CGROUP_MEMORY].version == 2 && layout.ctrl[CGROUP_PIDS].version == 2 &&
		       layout.ctrl[CGROUP_CPU].version == 1,
	       "versions %d %d %d", layout.ctrl[CGROUP_MEMORY].version,
	       layout.ctrl[CGROUP_PIDS].version, layout.ctrl[CGROUP_CPU].version);
	expect_text(TREE "/cgroup.subtree_control", "memory pids");
}

static void check_hybrid_limits(void)
{
	create(SID);
	expect_text(TREE "/" SID "/memory.max", "25165824");
	expect_text(TREE "/" SID "/pids.max", "12");
	expect_text(V1_TREE "/" SID "/cpu.cfs_quota_us", "2000");
	expect_text(V1_TREE "/" SID "/cpu.cfs_period_us", "20000");
	remove_sandbox(SID);
	expect_gone(TREE "/" SID);
	expect_gone(V1_TREE "/" SID);
}

static void check_hybrid_quota(void)
{
	struct jailer_stats stats = { 0 };
	struct err e = ERR_INIT;
	char want[32];

	create(SID);
	pid_t agent = start_agent(SID, spin);

	snprintf(want, sizeof(want), "%d", (int)agent);
	expect_text(V1_TREE "/" SID "/cgroup.procs", want);
	EXPECT(cgroup_detach_agent(&layout, agent, &e) == 0, "detach: %s", e.msg);
	expect_text(V1_TREE "/" SID "/cgroup.procs", "");
	expect_text(TREE "/" SID "/agent/cgroup.procs", want);
	pid_t kernel = start_kernel(SID, spin);
	int64_t until = seconds() + PATIENCE_S;

	while (read_number(V1_TREE "/" SID "/cpu.stat", "nr_throttled ") < 40 && seconds() < until)
		usleep(20000);
	EXPECT(read_number(V1_TREE "/" SID "/cpu.stat", "nr_throttled ") >= 40, "not throttled");
	EXPECT(cgroup_stats(&layout, SID, &stats, &e) == 0 && stats.cpu_us > 0 && stats.pids == 2,
	       "statistics: %llu us, %u processes", (unsigned long long)stats.cpu_us, stats.pids);
	end(kernel);
	end(agent);
	remove_sandbox(SID);
}

/* Layout disabled: the kernel was booted without pids and cpu. */

static void check_disabled(void)
{
	struct jailer_stats stats = { 0 };
	struct err e = ERR_INIT;

	EXPECT(strcmp(layout.missing, "pids cpu") == 0, "missing: '%s'", layout.missing);
	EXPECT(layout.reason[0] != '\0', "no reason");
	create(SID);
	expect_text(TREE "/" SID "/memory.max", "25165824");
	expect_gone(TREE "/" SID "/pids.max");
	pid_t agent = start_agent(SID, idle);

	expect_killed(start_kernel(SID, hog_all));
	EXPECT(is_alive(agent), "the agent was killed");
	EXPECT(cgroup_stats(&layout, SID, &stats, &e) == 0 && stats.oom_kills == 1, "%u kills",
	       stats.oom_kills);
	cgroup_kill(&layout, SID);
	expect_killed(agent);
	remove_sandbox(SID);
}

static const struct tap_check checks[] = {
	{ "v2", "every controller is found", check_open },
	{ "v2", "limits are set", check_limits },
	{ "v2", "agent and kernel join their leaves", check_join },
	{ "v2", "out of memory kills inside only", check_oom },
	{ "v2", "memory of agent and kernel is one sum", check_oom_sum },
	{ "v2", "process limit holds exactly", check_pids },
	{ "v2", "quota throttles the kernel only", check_quota },
	{ "v2", "statistics", check_stats },
	{ "v2", "occupied sandboxes are not removed", check_remove },
	{ "v2", "kill ends a fork bomb and no neighbour", check_kill },
	{ "v2", "each finds every sandbox", check_each },
	{ "v2", "close removes the instance", check_close },
	{ "v2", "container with processes in its root", check_container },
	{ "v2", "container with processes that cannot be moved", check_strangers },
	{ "v2", "root with processes of others", check_not_ours },
	{ "v2", "controller not delegated", check_not_delegated },
	{ "v2", "read-only tree", check_read_only },
	{ "hybrid", "v1 cpu beside v2 memory and pids", check_hybrid_open },
	{ "hybrid", "limits on both versions", check_hybrid_limits },
	{ "hybrid", "v1 quota throttles the kernel only", check_hybrid_quota },
	{ "hybrid", "out of memory kills inside only (hybrid)", check_oom },
	{ "hybrid", "process limit holds exactly (hybrid)", check_pids },
	{ "hybrid", "kill ends a fork bomb and no neighbour (hybrid)", check_kill },
	{ "disabled", "controllers the kernel lacks are named", check_disabled },
};

static void mount_layout(const char *name)
{
	mount("tmpfs", "/sys/fs", "tmpfs", 0, NULL);
	mkdir(ROOT, 0755);
	if (strcmp(name, "hybrid") == 0) {
		mkdir(V1_CPU, 0755);
		EXPECT(mount("cgroup", V1_CPU, "cgroup", 0, "cpu,cpuacct") == 0, "v1: %s",
		       strerror(errno));
	}
	EXPECT(mount("cgroup2", ROOT, "cgroup2", 0, NULL) == 0, "v2: %s", strerror(errno));
}

int main(void)
{
	struct err e = ERR_INIT;
	char name[16] = "v2";

	mkdir("/proc", 0555);
	mkdir("/sys", 0555);
	mkdir("/dev", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
	mount("sysfs", "/sys", "sysfs", 0, NULL);
	OWNED_FD int console = open("/dev/console", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd <= 2; fd++)
		dup2(console, fd);
	const char *arg = strstr(read_text("/proc/cmdline"), "bivouac.layout=");

	if (arg)
		sscanf(arg, "bivouac.layout=%15s", name);
	mount_layout(name);
	EXPECT(cgroup_open(&layout, INSTANCE, &e) == 0, "open: %s", e.msg);
	tap_run(checks, ARRAY_LEN(checks), name);
	cgroup_close(&layout);
	fflush(stdout);
	sync();
	reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
}
