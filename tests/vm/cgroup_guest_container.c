/* SPDX-License-Identifier: Apache-2.0 */

/* Inside a container with a cgroup namespace of its own, on a v2 tree. */

#include "cgroup_guest.h"

#include "base/fdio.h"
#include "base/own.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

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

void check_container(void)
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

void check_strangers(void)
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

void check_not_ours(void)
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

void check_not_delegated(void)
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

void check_read_only(void)
{
	tap_child(read_only);
	/* A superblock of cgroup2 is one for all mounts. */
	mount(NULL, ROOT, NULL, MS_REMOUNT, NULL);
	leave_box();
}
