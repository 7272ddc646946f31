/* SPDX-License-Identifier: Apache-2.0 */

/*
 * PID 1 of a micro VM: tries src/jailer/cgroup.c on a cgroup layout that the building machine need
 * not have. `bivouac.layout=` on the kernel's command line says which one (see mount_layout).
 * Everything a check makes is gone when it ends. Times are bounds only: the guest is emulated.
 */

#include "cgroup_guest.h"

#include "base/fdio.h"
#include "base/own.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

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
	expect_text(TREE "/" SID "/cpu.weight", "10");
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

static void check_set_memory(void)
{
	struct err e = ERR_INIT;
	int status = 0;

	create(SID);
	OWNED_FD int oom_fd = cgroup_oom_fd(&layout, SID);
	pid_t kernel = start_kernel(SID, hog_half);

	waitpid(kernel, &status, WUNTRACED);
	EXPECT(cgroup_set_memory(&layout, SID, MEMORY / 2, &e) < 0 && e.code == ERR_CONFLICT,
	       "less than it holds: %s", e.msg);
	expect_text(TREE "/" SID "/memory.max", "25165824");
	EXPECT(is_alive(kernel) && oom_kills(oom_fd) == 0, "a refused limit killed");
	EXPECT(cgroup_set_memory(&layout, SID, 2 * MEMORY, &e) == 0, "raise: %s", e.msg);
	expect_text(TREE "/" SID "/memory.max", "50331648");
	pid_t second = start_kernel(SID, hog_half);

	EXPECT(waitpid(second, &status, WUNTRACED) == second && WIFSTOPPED(status),
	       "the raised limit does not hold two: %#x", (unsigned)status);
	end(second);
	EXPECT(cgroup_set_memory(&layout, SID, MEMORY, &e) == 0, "lower again: %s", e.msg);
	expect_text(TREE "/" SID "/memory.max", "25165824");
	expect_killed(start_kernel(SID, hog_all));
	end(kernel);
	remove_sandbox(SID);
}

/* Two seconds at least: while the emulator itself waits for a processor, whoever runs in the guest
 * seems to run on, and the quota makes up for that later. Without a quota the share is a half. */
#define THROTTLED 100

/* Lets agent and kernel spin until the kernel was throttled often enough; returns the kernel's
 * share of a processor in thousandths. */
static uint64_t spin_both(const char *kernel_stat, uint64_t *ret_agent_us, const char *agent_stat)
{
	pid_t agent = start_agent(SID, spin);
	pid_t kernel = start_kernel(SID, spin);
	struct timespec from, to;
	int64_t until = seconds() + PATIENCE_S;

	clock_gettime(CLOCK_MONOTONIC, &from);
	while (read_number(kernel_stat, "nr_throttled ") < THROTTLED && seconds() < until)
		usleep(20000);
	clock_gettime(CLOCK_MONOTONIC, &to);
	uint64_t kernel_us = read_number(kernel_stat, "usage_usec ");
	uint64_t wall_us = (uint64_t)((to.tv_sec - from.tv_sec) * 1000000 +
				      (to.tv_nsec - from.tv_nsec) / 1000);

	*ret_agent_us = read_number(agent_stat, "usage_usec ");
	EXPECT(read_number(kernel_stat, "nr_throttled ") >= THROTTLED, "not throttled: %s",
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

	EXPECT(share < 4 * QUOTA, "the kernel had %llu/1000 of a processor",
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
	{ "v2", "memory limit is raised and lowered", check_set_memory },
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
