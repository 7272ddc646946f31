/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * privileges: from root to a user without rights who sees four directories.
 */

#include "base/err.h"

#include <sys/types.h>

struct privileges {
	uid_t uid;
	gid_t gid;
};

/** Where the directories are after privileges_drop(). Without the private root: as given. */
struct places {
	const char *state_dir;
	const char *run_dir;
};

int privileges_find_user(const char *name, struct privileges *ret, struct err *e);
/** privileges_make_dir: makes it if absent (mode), gives it to uid (or leaves it to root for uid
 * 0). */
int privileges_make_dir(const char *path, mode_t mode, uid_t owner, struct err *e);
/**
 * privileges_drop: private mount namespace with state and run directory only, then the user, no
 * capabilities, no_new_privs. Sanitizer builds keep the host's root, as their runtimes read /proc.
 */
int privileges_drop(const struct privileges *p, struct places *io_places, struct err *e);
/** privileges_start_jailer: starts bivouac-jailer beside this program; *ret_fd is our end of its
 * socket. */
int privileges_start_jailer(const char *binary_dir, const char *const *argv, int lock_fd,
			    int *ret_fd, pid_t *ret_pid, struct err *e);
