/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/cgroup_tree.h"

#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PROCS_MAX (1 << 20)
/* Rounds in which processes that were forked meanwhile are moved after their parents. */
#define ROUNDS 50

struct census {
	int count;
	bool self;
	bool invisible;
};

static long next_pid(char **p)
{
	char *at = *p;
	long pid = strtol(at, p, 10);

	return *p == at ? -1 : pid;
}

static int take_census(struct buf *procs, int root_dfd, struct census *ret, struct err *e)
{
	struct census c = { 0 };
	char *p;

	buf_clear(procs);
	if (fd_read_file(root_dfd, "cgroup.procs", PROCS_MAX, procs, e) < 0)
		return -1;
	p = procs->ptr;
	for (long pid; p && (pid = next_pid(&p)) >= 0; c.count++) {
		c.self = c.self || pid == getpid();
		/* The kernel's way to show a process of an outer PID namespace. */
		c.invisible = c.invisible || pid == 0;
	}
	*ret = c;
	return 0;
}

/* Moves what the last census listed. */
static int move_all(const struct buf *procs, int root_dfd, struct err *e)
{
	char *p = procs->ptr;
	char text[24];

	/* SECURITY: a listed pid may have gone to another process of this PID namespace since. None
	 * of them is a sandbox's: while a sandbox exists, controllers are handed down, and then the
	 * kernel lets no process into the root, so there is no list. */
	for (long pid; (pid = next_pid(&p)) > 0;) {
		snprintf(text, sizeof(text), "%ld", pid);
		if (fd_write_once(root_dfd, CGROUP_HOST_LEAF "/cgroup.procs", text, e) < 0 &&
		    e->errnum != ESRCH)
			return err_wrap(e,
					"process %ld cannot be moved out of the root of the cgroup "
					"tree",
					pid);
	}
	return 0;
}

static int vacate(struct buf *procs, int root_dfd, struct err *e)
{
	struct census c;
	int moved = 0;

	for (int round = 0; round < ROUNDS; round++) {
		if (take_census(procs, root_dfd, &c, e) < 0)
			return -1;
		if (c.count == 0)
			return moved;
		if (c.invisible)
			return err_set(e, ERR_UNAVAILABLE,
				       "processes outside of this container's PID namespace are in "
				       "the root of its cgroup tree and cannot be moved");
		if (!c.self && !moved)
			return err_set(e, ERR_UNAVAILABLE,
				       "%d processes of others are in the root of the cgroup tree; "
				       "move them into a cgroup of their own",
				       c.count);
		if (mkdirat(root_dfd, CGROUP_HOST_LEAF, 0755) < 0 && errno != EEXIST)
			return err_sys(e, "make cgroup %s", CGROUP_HOST_LEAF);
		if (move_all(procs, root_dfd, e) < 0)
			return -1;
		moved += c.count;
	}
	return err_set(e, ERR_UNAVAILABLE,
		       "new processes keep appearing in the root of the cgroup tree");
}

int cgroup_tree_vacate(int root_dfd, struct err *e)
{
	struct buf procs;

	/* The machine's own root has no type, and may have processes. */
	if (faccessat(root_dfd, "cgroup.type", F_OK, 0) < 0)
		return 0;
	buf_init(&procs, PROCS_MAX);
	int moved = vacate(&procs, root_dfd, e);

	buf_done(&procs);
	return moved;
}

int cgroup_tree_hand_down(int root_dfd, const char *instance, const char *controller, struct err *e)
{
	static const char *const levels[] = { ".", "bivouac", "bivouac/" };
	char word[24];

	snprintf(word, sizeof(word), "+%s", controller);
	for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
		char file[96];

		snprintf(file, sizeof(file), "%s%s/cgroup.subtree_control", levels[i],
			 i == 2 ? instance : "");
		if (fd_write_once(root_dfd, file, word, e) == 0)
			continue;
		if (e->errnum == ENOENT || e->errnum == EINVAL)
			return err_set(e, ERR_UNAVAILABLE,
				       "the kernel or the outer container does not offer it");
		return -1;
	}
	return 0;
}
