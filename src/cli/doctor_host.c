/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor.h"

#include "base/fdio.h"
#include "base/own.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

/* What one session needs, for estimates: agent connection, pidfd, namespace and cgroup descriptors;
 * agent, kernel, a program or two. */
#define SESSION_FDS     4
#define SESSION_PIDS    4
#define FDS_RESERVED    200
#define SESSIONS_WANTED 1000
#define IMAGE_DISK_MIN  (4ull << 30)
#define MEMORY_MIN      (1ull << 30)
#define CLOCK_SANE_YEAR 2025

static bool proc_number(const char *path, uint64_t *ret)
{
	struct buf b;

	buf_init(&b, 64);
	bool ok = !fd_read_file(AT_FDCWD, path, 63, &b, NULL);

	if (ok) {
		struct str text = buf_str(&b);

		while (text.len && text.ptr[text.len - 1] == '\n')
			text.len--;
		ok = str_to_u64(text, UINT64_MAX, ret);
	}
	buf_done(&b);
	return ok;
}

static void check_root(struct doctor *d)
{
	if (geteuid() == 0)
		doctor_add(d, FINDING_OK, "root", "", "effective user is root");
	else
		doctor_add(d, FINDING_FAIL, "root",
			   "run as root: the daemon starts so and drops it",
			   "effective user id is %u", (unsigned)geteuid());
}

static void check_namespace_limits(struct doctor *d)
{
	static const char *const kinds[] = { "user", "pid", "mnt", "net", "ipc", "uts", "cgroup" };
	uint64_t least = UINT64_MAX, value;
	const char *which = "none";
	char path[64];

	for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
		snprintf(path, sizeof(path), "/proc/sys/user/max_%s_namespaces", kinds[i]);
		if (!proc_number(path, &value))
			continue;
		if (value < least) {
			least = value;
			which = kinds[i];
		}
	}
	if (least == UINT64_MAX) {
		doctor_add(d, FINDING_WARN, "namespace limits", "mount /proc with sys",
			   "/proc/sys/user cannot be read");
		return;
	}
	doctor_add(d,
		   least == 0                ? FINDING_FAIL
		   : least < SESSIONS_WANTED ? FINDING_WARN
					     : FINDING_OK,
		   "namespace limits",
		   least ? "each session takes one of each: raise user.max_*_namespaces with sysctl"
			 : "no sandbox is made: raise user.max_*_namespaces with sysctl",
		   "%llu sessions at most (user.max_%s_namespaces is the least)",
		   (unsigned long long)least, which);
}

/* Distributions' switches against user namespaces of unprivileged users. Sandboxes are made by
 * root and cannot make namespaces themselves, so these may stay on. */
static void check_user_namespace_switches(struct doctor *d)
{
	static const struct {
		const char *name;
		const char *path;
		uint64_t restricts;
	} switches[] = {
		{ "kernel.unprivileged_userns_clone", "/proc/sys/kernel/unprivileged_userns_clone",
		  0 },
		{ "kernel.apparmor_restrict_unprivileged_userns",
		  "/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1 },
	};
	char found[160] = "";
	uint64_t value;

	for (size_t i = 0; i < ARRAY_LEN(switches); i++)
		if (proc_number(switches[i].path, &value) && value == switches[i].restricts)
			snprintf(found + strlen(found), sizeof(found) - strlen(found), "%s%s=%llu",
				 *found ? ", " : "", switches[i].name, (unsigned long long)value);
	if (!*found)
		doctor_add(d, FINDING_OK, "user namespaces", "", "not restricted by a switch");
	else if (geteuid() == 0)
		doctor_add(d, FINDING_OK, "user namespaces", "",
			   "%s: no hindrance to root, who makes the sandboxes", found);
	else
		doctor_add(d, FINDING_WARN, "user namespaces",
			   "run as root, who is not restricted: namespaces below cannot be tried",
			   "%s", found);
}

static void check_files(struct doctor *d)
{
	struct rlimit limit;
	uint64_t nr_open = 0;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		return;
	proc_number("/proc/sys/fs/nr_open", &nr_open);
	unsigned long long hard = limit.rlim_max == RLIM_INFINITY ? nr_open : limit.rlim_max;
	unsigned long long sessions = hard > FDS_RESERVED ? (hard - FDS_RESERVED) / SESSION_FDS : 0;

	doctor_add(d, sessions < SESSIONS_WANTED ? FINDING_WARN : FINDING_OK, "open files",
		   "raise LimitNOFILE of the service (ulimit -Hn)",
		   "RLIMIT_NOFILE %llu (hard) is enough for about %llu sessions", hard, sessions);
}

static void check_pids(struct doctor *d)
{
	uint64_t pid_max = 0, threads_max = 0;

	if (!proc_number("/proc/sys/kernel/pid_max", &pid_max))
		return;
	proc_number("/proc/sys/kernel/threads-max", &threads_max);
	uint64_t least = threads_max && threads_max < pid_max ? threads_max : pid_max;

	doctor_add(d, least / SESSION_PIDS < SESSIONS_WANTED ? FINDING_WARN : FINDING_OK,
		   "processes", "raise kernel.pid_max and kernel.threads-max with sysctl",
		   "pid_max %llu, threads-max %llu: about %llu sessions",
		   (unsigned long long)pid_max, (unsigned long long)threads_max,
		   (unsigned long long)(least / SESSION_PIDS));
}

static uint64_t meminfo_kib(const char *text, const char *name)
{
	const char *line = strstr(text, name);

	return line ? strtoull(line + strlen(name), NULL, 10) : 0;
}

static void check_memory(struct doctor *d)
{
	struct buf b;

	buf_init(&b, 65536);
	if (!fd_read_file(AT_FDCWD, "/proc/meminfo", 65535, &b, NULL) && b.ptr) {
		uint64_t total = meminfo_kib(b.ptr, "MemTotal:") << 10;
		uint64_t available = meminfo_kib(b.ptr, "MemAvailable:") << 10;

		doctor_add(d, available < MEMORY_MIN ? FINDING_WARN : FINDING_OK, "memory",
			   "free or add memory", "%.1f of %.1f GiB available",
			   (double)available / (double)(1 << 30),
			   (double)total / (double)(1 << 30));
	}
	buf_done(&b);
}

static void check_disk(struct doctor *d)
{
	static const char *const places[] = { "/var/cache/bivouac", "/var/cache", "/var", "/" };
	struct statvfs st;

	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		if (statvfs(places[i], &st))
			continue;
		unsigned long long available =
			(unsigned long long)st.f_bavail * (unsigned long long)st.f_frsize;

		doctor_add(d, available < IMAGE_DISK_MIN ? FINDING_WARN : FINDING_OK, "disk",
			   "an image needs about 4 GiB while it is built",
			   "%.1f GiB available for images (%s)",
			   (double)available / (double)(1 << 30), places[i]);
		return;
	}
}

static bool program_find(const char *name, char *ret, size_t size)
{
	const char *path = getenv("PATH");

	/* The system's own directories are not in everybody's PATH. */
	OWNED_MEM char *all =
		str_printf("%s:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin", path ? path : "");
	char *save = NULL;

	for (char *dir = all ? strtok_r(all, ":", &save) : NULL; dir;
	     dir = strtok_r(NULL, ":", &save)) {
		int n = snprintf(ret, size, "%s/%s", dir, name);

		if (n > 0 && (size_t)n < size && !access(ret, X_OK))
			return true;
	}
	return false;
}

static void check_programs(struct doctor *d)
{
	static const struct {
		const char *name;
		const char *fix;
	} programs[] = {
		{ "mmdebstrap", "apt install mmdebstrap: 'bivouac image build' needs it" },
		{ "nft", "apt install nftables: pools with EgressEnabled need it" },
		{ "crun", "optional: apt install crun, for isolation oci" },
		{ "qemu-system-x86_64",
		  "optional: apt install qemu-system-x86, for isolation microvm" },
	};
	char path[4096], what[64];

	for (size_t i = 0; i < ARRAY_LEN(programs); i++) {
		bool found = program_find(programs[i].name, path, sizeof(path));

		snprintf(what, sizeof(what), "program %s", programs[i].name);
		doctor_add(d, found ? FINDING_OK : FINDING_WARN, what, programs[i].fix, "%s",
			   found ? path : "not installed");
	}
}

static void check_user(struct doctor *d)
{
	const struct passwd *user = getpwnam("bivouac");

	if (!user)
		doctor_add(d, FINDING_WARN, "user bivouac",
			   "useradd --system --no-create-home --shell /usr/sbin/nologin bivouac",
			   "there is no user for the daemon to become");
	else
		doctor_add(d, user->pw_uid ? FINDING_OK : FINDING_FAIL, "user bivouac",
			   "give it a user id other than 0", "user id %u", (unsigned)user->pw_uid);
}

static void check_clock(struct doctor *d)
{
	struct timex state = { .modes = 0 };
	time_t now = time(NULL);
	struct tm tm;
	char text[40];

	gmtime_r(&now, &tm);
	strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &tm);
	if (tm.tm_year + 1900 < CLOCK_SANE_YEAR)
		doctor_add(d, FINDING_FAIL, "clock", "set the time: tokens depend on it", "%s",
			   text);
	else if (adjtimex(&state) < 0 || (state.status & STA_UNSYNC))
		doctor_add(d, FINDING_WARN, "clock",
			   "run a time service, e.g. chrony: tokens expire by this clock",
			   "%s, not synchronized", text);
	else
		doctor_add(d, FINDING_OK, "clock", "", "%s, synchronized", text);
}

void doctor_check_host(struct doctor *d)
{
	check_root(d);
	check_namespace_limits(d);
	check_user_namespace_switches(d);
	check_files(d);
	check_pids(d);
	check_memory(d);
	check_disk(d);
	check_programs(d);
	check_user(d);
	check_clock(d);
}
