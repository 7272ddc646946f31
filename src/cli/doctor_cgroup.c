/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor.h"

#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MOUNTINFO_MAX (1024 * 1024)
#define PATH_SIZE     512

static const struct controller {
	const char *name;
	const char *controller; /* that it is a part of */
	const char *v1_file;
	const char *v1_value;
	const char *v2_file;
	const char *v2_value;
	enum finding_status without;
	const char *loss;
} controllers[] = {
	{ "memory", "memory", "memory.limit_in_bytes", "67108864", "memory.max", "67108864",
	  FINDING_FAIL,
	  "sessions have no memory limit: enable the memory controller (cgroup_enable=memory)" },
	{ "swap", "memory", "memory.memsw.limit_in_bytes", "-1", "memory.swap.max", "0",
	  FINDING_WARN,
	  "what sessions have in swap is outside of their memory limit: boot with swapaccount=1, or "
	  "swapoff" },
	{ "pids", "pids", "pids.max", "64", "pids.max", "64", FINDING_FAIL,
	  "sessions have no process limit but RLIMIT_NPROC: enable the pids controller" },
	{ "cpu", "cpu", "cpu.cfs_quota_us", "50000", "cpu.max", "50000 100000", FINDING_WARN,
	  "sessions share the processors without a limit: enable the cpu controller with "
	  "bandwidth" },
	{ "freezer", "freezer", "freezer.state", "FROZEN", "cgroup.freeze", "1", FINDING_WARN,
	  "sessions cannot be frozen: enable the freezer" },
};

struct layout {
	char v1[ARRAY_LEN(controllers)][PATH_SIZE]; /* mount points; "" if not mounted */
	char v2[PATH_SIZE];
	bool any_v1;
};

static bool has_word(const char *list, const char *word, char separator)
{
	size_t len = strlen(word);

	for (const char *p = list; (p = strstr(p, word)); p += len)
		if ((p == list || p[-1] == separator) &&
		    (!p[len] || p[len] == separator || p[len] == '\n'))
			return true;
	return false;
}

/** layout_line: "… root mountpoint options … - type source superoptions". */
static void layout_line(struct layout *l, char *line)
{
	char *dash = strstr(line, " - "), *mount = line, *save = NULL;

	if (!dash)
		return;
	for (int field = 0; field < 4 && mount; field++) {
		mount = strchr(mount, ' ');
		mount = mount ? mount + 1 : NULL;
	}
	char *type = strtok_r(dash + 3, " ", &save);
	char *source = strtok_r(NULL, " ", &save);
	char *super = strtok_r(NULL, " ", &save);

	if (!mount || !type || !source || !super)
		return;
	mount[strcspn(mount, " ")] = '\0';
	/* Octal escapes would name another path; no cgroup mount has them. */
	if (strlen(mount) >= PATH_SIZE - 64 || strchr(mount, '\\'))
		return;
	if (!strcmp(type, "cgroup2") && !*l->v2)
		strcpy(l->v2, mount);
	if (strcmp(type, "cgroup"))
		return;
	l->any_v1 = true;
	for (size_t i = 0; i < ARRAY_LEN(controllers); i++)
		if (has_word(super, controllers[i].controller, ','))
			strcpy(l->v1[i], mount);
}

static int layout_read(struct layout *l, struct err *e)
{
	struct buf b;
	char *save = NULL;

	memset(l, 0, sizeof(*l));
	buf_init(&b, MOUNTINFO_MAX);
	if (fd_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &b, e)) {
		buf_done(&b);
		return -1;
	}
	for (char *line = b.ptr ? strtok_r(b.ptr, "\n", &save) : NULL; line;
	     line = strtok_r(NULL, "\n", &save))
		layout_line(l, line);
	buf_done(&b);
	return 0;
}

/** try_file: makes a cgroup, writes the limit, removes it again. */
static int try_file(const char *mount, const char *file, const char *value, struct err *e)
{
	char dir[PATH_SIZE];
	int rc;

	snprintf(dir, sizeof(dir), "%s/bivouac-doctor-%d", mount, (int)getpid());
	if (mkdir(dir, 0755))
		return err_sys(e, "mkdir %s", dir);
	int dirfd = open(dir, O_DIRECTORY | O_RDONLY | O_CLOEXEC);

	rc = dirfd < 0 ? err_sys(e, "open %s", dir) : 0;
	if (!rc && faccessat(dirfd, file, W_OK, 0))
		rc = err_sys(e, "%s", file);
	if (!rc)
		rc = fd_write_once(dirfd, file, value, e);
	if (dirfd >= 0)
		close(dirfd);
	/* A frozen v1 group without processes can be removed as it is. */
	if (rmdir(dir) && !rc)
		rc = err_sys(e, "rmdir %s", dir);
	return rc;
}

/** will_be_vacated: what is seen as the root is a container's cgroup with processes, this one and
 * only visible ones among them: bivouacd moves them away before it hands controllers down. */
static bool will_be_vacated(int root_dfd)
{
	struct buf b;
	char self[24];

	buf_init(&b, MOUNTINFO_MAX);
	bool ok = !faccessat(root_dfd, "cgroup.type", F_OK, 0) &&
		  !fd_read_file(root_dfd, "cgroup.procs", MOUNTINFO_MAX, &b, NULL) && b.len;

	snprintf(self, sizeof(self), "%d", (int)getpid());
	/* 0 stands for a process of an outer PID namespace. */
	ok = ok && has_word(b.ptr, self, '\n') && !has_word(b.ptr, "0", '\n');
	buf_done(&b);
	return ok;
}

/** try_v2: a controller that the root does not hand to its children yet is handed down for the
 * trial only. */
static int try_v2(const char *mount, const struct controller *c, struct err *e)
{
	struct buf b;
	char text[64];
	OWNED_FD int dirfd = open(mount, O_DIRECTORY | O_RDONLY | O_CLOEXEC);
	bool core = !strncmp(c->v2_file, "cgroup.", 7), down = true;

	if (dirfd < 0)
		return err_sys(e, "open %s", mount);
	if (core)
		return try_file(mount, c->v2_file, c->v2_value, e);
	buf_init(&b, 4096);
	int rc = fd_read_file(dirfd, "cgroup.controllers", 4095, &b, e);

	if (!rc && !has_word(b.ptr ? b.ptr : "", c->controller, ' '))
		rc = err_set(e, ERR_NOT_SUPPORTED, "not among the controllers of %s", mount);
	buf_clear(&b);
	if (!rc && !(rc = fd_read_file(dirfd, "cgroup.subtree_control", 4095, &b, e)))
		down = has_word(b.ptr ? b.ptr : "", c->controller, ' ');
	buf_done(&b);
	if (!rc && !down) {
		snprintf(text, sizeof(text), "+%s", c->controller);
		rc = fd_write_once(dirfd, "cgroup.subtree_control", text, e);
		if (rc && e->errnum == EBUSY && will_be_vacated(dirfd))
			return 0;
	}
	if (rc)
		return rc;
	rc = try_file(mount, c->v2_file, c->v2_value, e);
	if (!down) {
		snprintf(text, sizeof(text), "-%s", c->controller);
		fd_write_once(dirfd, "cgroup.subtree_control", text, NULL);
	}
	return rc;
}

static void check_controller(struct doctor *d, const struct layout *l, size_t i)
{
	const struct controller *c = &controllers[i];
	struct err e = ERR_INIT;
	char what[40];
	int rc = -1;

	if (!strcmp(c->name, "swap") && access("/proc/swaps", F_OK))
		return; /* a kernel without swap */

	snprintf(what, sizeof(what), "cgroup %s", c->name);
	if (*l->v1[i])
		rc = try_file(l->v1[i], c->v1_file, c->v1_value, &e);
	else if (*l->v2)
		rc = try_v2(l->v2, c, &e);
	else
		err_set(&e, ERR_NOT_SUPPORTED, "not mounted");
	if (rc)
		doctor_add(d, c->without, what, c->loss, "%s", e.msg);
	else
		doctor_add(d, FINDING_OK, what, "", "%s: a limit can be set (%s)",
			   *l->v1[i] ? l->v1[i] : l->v2, *l->v1[i] ? c->v1_file : c->v2_file);
}

void doctor_check_cgroup(struct doctor *d)
{
	struct err e = ERR_INIT;
	struct layout l;

	if (layout_read(&l, &e)) {
		doctor_add(d, FINDING_FAIL, "cgroup layout", "mount /proc", "%s", e.msg);
		return;
	}
	if (!l.any_v1 && !*l.v2)
		doctor_add(d, FINDING_FAIL, "cgroup layout", "mount cgroup2 at /sys/fs/cgroup",
			   "no cgroup file system is mounted");
	else
		doctor_add(d, FINDING_OK, "cgroup layout", "", "%s",
			   !l.any_v1 ? "v2"
			   : *l.v2   ? "hybrid (v1 controllers, v2 tree)"
				     : "v1");
	for (size_t i = 0; i < ARRAY_LEN(controllers); i++)
		check_controller(d, &l, i);
}
