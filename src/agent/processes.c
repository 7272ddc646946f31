/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/own.h"

#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STAT_MAX 512

static int64_t uptime_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool processes_parse(const char *stat, struct agent_process *ret)
{
	/* SECURITY: a process chooses its name: brackets and spaces too, but never what comes after
	 * the last bracket. */
	const char *rest = strrchr(stat, ')');
	unsigned long long started;
	int pid, parent, session;
	char state;

	if (!rest || sscanf(stat, "%d (", &pid) != 1 ||
	    sscanf(rest + 1,
		   " %c %d %*d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
		   &state, &parent, &session, &started) != 4)
		return false;
	if (pid <= 1 || parent < 0 || session < 0 || strchr("ZXx", state))
		return false;
	ret->pid = pid;
	ret->parent = parent;
	ret->session = session;
	ret->runnable = state == 'R';
	ret->age_ms = uptime_ms() - (int64_t)(started * 1000 / (unsigned long)sysconf(_SC_CLK_TCK));
	return true;
}

static bool read_one(int proc_dfd, const char *name, struct agent_process *ret)
{
	char path[32];
	char text[STAT_MAX];

	if (!isdigit((unsigned char)name[0]) ||
	    snprintf(path, sizeof(path), "%s/stat", name) >= (int)sizeof(path))
		return false;
	OWNED_FD int fd = openat(proc_dfd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return false;
	text[n] = '\0';
	return processes_parse(text, ret);
}

static int64_t cpu_ns(pid_t pid)
{
	struct timespec used;
	clockid_t clock;

	if (clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &used) < 0)
		return 0;
	return (int64_t)used.tv_sec * 1000000000 + used.tv_nsec;
}

static unsigned runnable_threads(int proc_dfd, pid_t pid)
{
	char path[32];
	struct agent_process thread; /* their lines look the same */
	unsigned count = 0;

	snprintf(path, sizeof(path), "%d/task", pid);
	int fd = openat(proc_dfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *tasks = fd < 0 ? NULL : fdopendir(fd);

	if (!tasks) {
		close_fd(&fd);
		return 0;
	}
	for (struct dirent *d; (d = readdir(tasks));)
		if (read_one(dirfd(tasks), d->d_name, &thread))
			count += thread.runnable;
	closedir(tasks);
	return count;
}

struct agent_work processes_work(pid_t session)
{
	struct agent_work work = { 0 };
	struct agent_process p;
	DIR *proc = opendir("/proc");

	if (!proc)
		return work;
	for (struct dirent *d; (d = readdir(proc));) {
		if (!read_one(dirfd(proc), d->d_name, &p) || p.session != session)
			continue;
		work.cpu_ns += cpu_ns(p.pid);
		work.runnable += runnable_threads(dirfd(proc), p.pid);
	}
	closedir(proc);
	return work;
}

size_t processes_read(struct agent_process *ret, size_t max)
{
	DIR *proc = opendir("/proc");
	size_t count = 0;

	if (!proc)
		return 0;
	for (struct dirent *d; count < max && (d = readdir(proc));)
		if (read_one(dirfd(proc), d->d_name, &ret[count]))
			count++;
	closedir(proc);
	return count;
}
