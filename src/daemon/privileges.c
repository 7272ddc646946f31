/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/privileges.h"

#include "base/fdio.h"
#include "base/own.h"
#include "base/sanitized.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

int privileges_find_user(const char *name, struct privileges *ret, struct err *e)
{
	errno = 0;
	struct passwd *pw = getpwnam(name);

	if (!pw)
		return err_set(
			e, ERR_INVALID,
			"user '%s' does not exist; make it with: useradd --system --no-create-home --shell "
			"/usr/sbin/nologin %s (make deps does)",
			name, name);
	if (pw->pw_uid == 0)
		return err_set(e, ERR_INVALID, "--user %s is root; name a user without rights",
			       name);
	ret->uid = pw->pw_uid;
	ret->gid = pw->pw_gid;
	return 0;
}

int privileges_make_dir(const char *path, mode_t mode, uid_t owner, struct err *e)
{
	if (fd_mkdirs(path, mode, e) < 0)
		return -1;
	if (owner && chown(path, owner, (gid_t)-1) < 0)
		return err_sys(e, "chown %s", path);
	if (chmod(path, mode) < 0)
		return err_sys(e, "chmod %s", path);
	return 0;
}

/*
 * SECURITY: a daemon that was taken over finds no /proc, no /etc, no other user's files: an empty
 * read-only root with its two directories. It also makes them reachable below parents that only
 * root may enter.
 */
static int private_root(struct places *io, struct err *e)
{
	static const char *const names[] = { "state", "run" };
	const char *paths[] = { io->state_dir, io->run_dir };
	int dfds[ARRAY_LEN(paths)];

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(e, "private mount namespace");
	/* Opened in the new namespace (mounts of another cannot be bound), before
	 * /tmp is covered. */
	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		dfds[i] = open(paths[i], O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (dfds[i] < 0)
			return err_sys(e, "open %s", paths[i]);
	}
	if (mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "size=64k,mode=755") <
	    0)
		return err_sys(e, "private root");
	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		char from[64];
		char to[64];

		snprintf(from, sizeof(from), "/proc/self/fd/%d", dfds[i]);
		snprintf(to, sizeof(to), "/tmp/%s", names[i]);
		if (mkdir(to, 0755) < 0 || mount(from, to, NULL, MS_BIND, NULL) < 0 ||
		    mount(NULL, to, NULL, MS_REMOUNT | MS_BIND | MS_NOSUID | MS_NODEV | MS_NOEXEC,
			  NULL) < 0)
			return err_sys(e, "bind %s", paths[i]);
		close(dfds[i]);
	}
	if (mount(NULL, "/tmp", NULL, MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "size=64k,mode=755") < 0 ||
	    chdir("/tmp") < 0 || syscall(SYS_pivot_root, ".", ".") < 0 ||
	    umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return err_sys(e, "private root");
	io->state_dir = "/state";
	io->run_dir = "/run";
	return 0;
}

int privileges_drop(const struct privileges *p, struct places *io_places, struct err *e)
{
	if (!SANITIZED && private_root(io_places, e) < 0)
		return -1;
	if (setgroups(0, NULL) < 0 || setresgid(p->gid, p->gid, p->gid) < 0 ||
	    setresuid(p->uid, p->uid, p->uid) < 0)
		return err_sys(e, "become uid %u", p->uid);
	/* SECURITY: leaving uid 0 empties the capability sets; no_new_privs keeps them empty. */
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return err_sys(e, "no_new_privs");
	if (setresuid(0, 0, 0) == 0)
		return err_set(e, ERR_INTERNAL, "root could be regained; refusing to run");
	return 0;
}

int privileges_start_jailer(const char *binary_dir, const char *const *argv, int lock_fd,
			    int *ret_fd, pid_t *ret_pid, struct err *e)
{
	char path[512];
	int pair[2];

	snprintf(path, sizeof(path), "%s/bivouac-jailer", binary_dir);
	if (access(path, X_OK) < 0)
		return err_sys(e, "%s", path);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(e, "socketpair");
	pid_t pid = fork();

	if (pid < 0)
		return err_sys(e, "fork");
	if (pid == 0) {
		int high = fcntl(pair[1], F_DUPFD_CLOEXEC, 64);
		int lock = fcntl(lock_fd, F_DUPFD_CLOEXEC, 64);

		/* The jailer gets its socket, the lock and our stderr, nothing else. */
		if (high < 0 || lock < 0 || dup3(high, 3, 0) < 0 || dup3(lock, 4, 0) < 0 ||
		    syscall(SYS_close_range, 5, ~0U, 0) < 0)
			_exit(71);
		execv(path, (char *const *)argv);
		_exit(71);
	}
	close(pair[1]);
	*ret_fd = pair[0];
	*ret_pid = pid;
	return 0;
}
