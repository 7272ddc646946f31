/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/records.h"

#include "base/fdio.h"
#include "base/own.h"
#include "jailer/jail.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define BLOCKS          512
#define BLOCK_FIRST_UID 0x40000000u

int record_write(int dfd, const struct record *r, struct err *e)
{
	char tmp[JAILER_SID_SIZE + 4];
	char text[256];
	int n = snprintf(text, sizeof(text), "2 %u %d %llu %s %u %u %" PRIu64 "\n", r->slot,
			 (int)r->pid, r->start_time, r->image, r->limits.open_files, r->limits.pids,
			 r->limits.memory_bytes);

	/* No fsync: sandboxes do not survive the machine. The rename makes the record whole or
	 * absent. */
	snprintf(tmp, sizeof(tmp), "%s.new", r->sid);
	OWNED_FD int fd = openat(dfd, tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, text, (size_t)n) != n || renameat(dfd, tmp, dfd, r->sid) < 0)
		return err_sys(e, "write record %s", r->sid);
	return 0;
}

void record_remove(int dfd, const char *sid)
{
	unlinkat(dfd, sid, 0);
}

int record_each(int dfd, void (*fn)(const struct record *r, void *arg), void *arg, struct err *e)
{
	int fd = openat(dfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);

	if (!dir)
		return err_sys(e, "read records");
	for (struct dirent *d; (d = readdir(dir));) {
		struct record r = { 0 };
		struct buf text;
		int pid = 0;

		if (d->d_name[0] == '.')
			continue;
		if (strlen(d->d_name) != JAILER_SID_SIZE - 1) {
			unlinkat(dfd, d->d_name,
				 0); /* ".new" of a jailer that was killed while writing */
			continue;
		}
		buf_init(&text, 512);
		snprintf(r.sid, sizeof(r.sid), "%.32s", d->d_name);
		if (fd_read_file(dfd, r.sid, 512, &text, e) < 0 || !text.ptr ||
		    sscanf(text.ptr, "2 %u %d %llu %64s %u %u %" SCNu64, &r.slot, &pid,
			   &r.start_time, r.image, &r.limits.open_files, &r.limits.pids,
			   &r.limits.memory_bytes) != 7 ||
		    r.slot >= RECORD_SLOTS || pid <= 1)
			pid = 0;
		r.pid = pid;
		buf_done(&text);
		fn(&r, arg);
	}
	closedir(dir);
	return 0;
}

int record_start_time(pid_t pid, unsigned long long *ret, struct err *e)
{
	char path[64];
	struct buf text;
	int rc = 0;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	buf_init(&text, 4096);
	if (fd_read_file(AT_FDCWD, path, 4096, &text, e) < 0) {
		rc = e->errnum == ENOENT || e->errnum == ESRCH ? 0 : -1;
	} else {
		char *p = text.ptr ? strrchr(text.ptr, ')') : NULL;
		char state = 'X';

		/* Fields 3 (state) and 22 (start time); a zombie is no living process. */
		rc = p &&
		     sscanf(p + 2,
			    "%c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d "
			    "%*d %*d %llu",
			    &state, ret) == 2 &&
		     state != 'Z' && state != 'X';
	}
	buf_done(&text);
	return rc;
}

/* Whether any process runs under the ids of a block: sandboxes whose run directory was deleted. */
static bool block_lives(unsigned block)
{
	unsigned first = BLOCK_FIRST_UID + block * RECORD_SLOTS * JAIL_IDS_PER_SLOT;
	DIR *proc = opendir("/proc");
	bool lives = false;

	for (struct dirent *d; proc && !lives && (d = readdir(proc));) {
		char path[300];
		struct buf text;
		struct err e;
		unsigned uid;

		if (d->d_name[0] < '1' || d->d_name[0] > '9')
			continue;
		snprintf(path, sizeof(path), "/proc/%s/status", d->d_name);
		buf_init(&text, 8192);
		if (fd_read_file(AT_FDCWD, path, 8192, &text, &e) == 0) {
			char *at = strstr(text.ptr, "\nUid:");

			lives = at && sscanf(at + 5, "%u", &uid) == 1 && uid >= first &&
				uid - first < RECORD_SLOTS * JAIL_IDS_PER_SLOT;
		}
		buf_done(&text);
	}
	if (proc)
		closedir(proc);
	return lives;
}

#define OWNER_SIZE 512

/* The run directory a block's link names; "" if the block has none. */
static void block_owner(int dfd, int block, char name[static 16], char owner[static OWNER_SIZE])
{
	snprintf(name, 16, "%d", block);
	ssize_t n = readlinkat(dfd, name, owner, OWNER_SIZE - 1);

	owner[n > 0 ? n : 0] = '\0';
}

/* A block may be free when the run directory it names is gone. */
static bool owner_gone(const char *owner)
{
	return !*owner || (access(owner, F_OK) < 0 && errno == ENOENT);
}

int record_uid_block(const char *dir, const char *run_dir, uid_t *ret, struct err *e)
{
	if (fd_mkdirs(dir, 0755, e) < 0)
		return -1;
	OWNED_FD int dfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dfd < 0 || flock(dfd, LOCK_EX) < 0)
		return err_sys(e, "lock %s", dir);
	int found = -1;

	for (int i = 0; i < BLOCKS; i++) {
		char name[16];
		char owner[OWNER_SIZE];

		block_owner(dfd, i, name, owner);
		if (strcmp(owner, run_dir) == 0) {
			found = i;
			break;
		}
		if (found < 0 && owner_gone(owner) && !block_lives((unsigned)i))
			found = i;
	}
	if (found < 0)
		return err_set(e, ERR_UNAVAILABLE, "all %d blocks of host user ids are in use",
			       BLOCKS);
	char name[16];

	snprintf(name, sizeof(name), "%d", found);
	unlinkat(dfd, name, 0);
	if (symlinkat(run_dir, dfd, name) < 0)
		return err_sys(e, "reserve user ids in %s", dir);
	*ret = BLOCK_FIRST_UID + (uid_t)found * RECORD_SLOTS * JAIL_IDS_PER_SLOT;
	return 0;
}

unsigned record_uid_index(uid_t first)
{
	return (first - BLOCK_FIRST_UID) / (RECORD_SLOTS * JAIL_IDS_PER_SLOT);
}

void record_uid_release(const char *dir, const char *run_dir)
{
	OWNED_FD int dfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (dfd < 0 || flock(dfd, LOCK_EX) < 0)
		return;
	for (int i = 0; i < BLOCKS; i++) {
		char name[16];
		char owner[OWNER_SIZE];

		block_owner(dfd, i, name, owner);
		if (strcmp(owner, run_dir) == 0)
			unlinkat(dfd, name, 0);
	}
}
