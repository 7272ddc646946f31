/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/jail.h"

#include "base/fdio.h"
#include "base/own.h"
#include "base/rand.h"
#include "jailer/confine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define AGENT_OPEN_FILES 4096

static int make_dev(const char *target, struct err *e)
{
	static const struct {
		const char *name;
		unsigned minor;
		unsigned major;
	} nodes[] = {
		{ "null", 3, 1 },   { "zero", 5, 1 },    { "full", 7, 1 },
		{ "random", 8, 1 }, { "urandom", 9, 1 }, { "tty", 0, 5 },
	};
	static const char *const links[][2] = {
		{ "/proc/self/fd", "fd" },       { "/proc/self/fd/0", "stdin" },
		{ "/proc/self/fd/1", "stdout" }, { "/proc/self/fd/2", "stderr" },
		{ "pts/ptmx", "ptmx" },
	};
	char dev[512];

	snprintf(dev, sizeof(dev), "%s/dev", target);
	if (mount("tmpfs", dev, "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k,nr_inodes=32") <
	    0)
		return err_sys(e, "mount %s", dev);
	OWNED_FD int dfd = open(dev, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (dfd < 0)
		return err_sys(e, "open %s", dev);
	for (size_t i = 0; i < ARRAY_LEN(nodes); i++)
		if (mknodat(dfd, nodes[i].name, S_IFCHR, makedev(nodes[i].major, nodes[i].minor)) <
			    0 ||
		    fchmodat(dfd, nodes[i].name, 0666, 0) < 0)
			return err_sys(e, "make device %s", nodes[i].name);
	for (size_t i = 0; i < ARRAY_LEN(links); i++)
		if (symlinkat(links[i][0], dfd, links[i][1]) < 0)
			return err_sys(e, "make /dev/%s", links[i][1]);
	if (mkdirat(dfd, "shm", 0755) < 0 || mkdirat(dfd, "pts", 0755) < 0)
		return err_sys(e, "make /dev directories");
	if (mount(NULL, dev, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NOEXEC, NULL) <
	    0)
		return err_sys(e, "remount %s", dev);
	return 0;
}

int jail_template(int rootfs_dfd, const char *target, struct err *e)
{
	char source[64];

	if (fd_mkdirs(target, 0700, e) < 0)
		return -1;
	snprintf(source, sizeof(source), "/proc/self/fd/%d", rootfs_dfd);
	if (mount(source, target, NULL, MS_BIND, NULL) < 0)
		return err_sys(e, "bind image");
	/* SECURITY: read-only, no device nodes, no setuid: flags that a less privileged mount
	 * namespace cannot clear. */
	if (mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV,
		  NULL) < 0)
		return err_sys(e, "remount image read-only");
	if (make_dev(target, e) == 0)
		return 0;
	umount2(target, MNT_DETACH); /* nothing half made, or the next try stacks on it */
	return -1;
}

static int mount_tmpfs(const char *where, uint64_t size, uint32_t inodes, const char *mode,
		       unsigned long flags, struct err *e)
{
	char options[160];

	snprintf(options, sizeof(options),
		 "size=%" PRIu64 ",nr_inodes=%u,mode=%s,uid=%d,gid=%d,huge=never", size, inodes,
		 mode, CONFINE_UID, CONFINE_UID);
	if (mount("tmpfs", where, "tmpfs", MS_NOSUID | MS_NODEV | flags, options) == 0)
		return 0;
	/* Kernels without huge pages refuse the word. */
	char *huge = strstr(options, ",huge=");

	*huge = '\0';
	if (mount("tmpfs", where, "tmpfs", MS_NOSUID | MS_NODEV | flags, options) < 0)
		return err_sys(e, "mount tmpfs on %s", where);
	return 0;
}

/* Makes the template the root, with this sandbox's own writable places. */
static int enter_root(const struct jail_spawn *s, struct err *e)
{
	const struct jailer_limits *lim = s->limits;

	/* Nothing we mount may travel back to the host, nothing the host mounts later may come
	 * here. */
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return err_sys(e, "make mounts private");
	/* The template is our working directory: its path may lead through directories that this
	 * namespace's root must not enter. A copy of the tree goes on top of it, as inherited
	 * mounts are locked and cannot become the root. */
	OWNED_FD int tree = (int)syscall(SYS_open_tree, AT_FDCWD, ".",
					 OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);

	if (tree < 0 ||
	    syscall(SYS_move_mount, tree, "", AT_FDCWD, ".", MOVE_MOUNT_F_EMPTY_PATH) < 0 ||
	    fchdir(tree) < 0)
		return err_sys(e, "copy the root");
	if (mount_tmpfs("tmp", lim->tmp_bytes, lim->inodes, "1777", 0, e) < 0 ||
	    mount_tmpfs("home/session", lim->tmp_bytes, lim->inodes, "755", 0, e) < 0 ||
	    mount_tmpfs("mnt/data", lim->data_bytes, lim->inodes, "755", 0, e) < 0 ||
	    mount_tmpfs("dev/shm", lim->tmp_bytes, lim->inodes, "1777", MS_NOEXEC, e) < 0)
		return -1;
	/*
	 * SECURITY: of /proc only the own processes, and of these only those that the reader could
	 * look into: nothing about the host (hardware, memory, interrupts, kernel symbols, mounts'
	 * devices), no /proc/sys to write to, no agent. An allow-list, where masking single files
	 * forgets the next one. Linux 5.8; without it no sandbox is made.
	 */
	if (mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC,
		  "hidepid=invisible,subset=pid") < 0)
		return err_sys(e, "mount /proc (hidepid=invisible,subset=pid)");
	/* A terminal is no loss worth a refusal: some hosts forbid devpts in user namespaces.
	 * SECURITY: a bounded part of the terminals, which all instances together share. */
	(void)!mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		     "newinstance,ptmxmode=0666,mode=0620,max=16");
	/* SECURITY: the old root is detached with everything on it; no path or descriptor leads
	 * back, because close_range() below leaves none that names a directory. */
	if (syscall(SYS_pivot_root, ".", ".") < 0)
		return err_sys(e, "pivot_root");
	if (umount2(".", MNT_DETACH) < 0 || chdir("/") < 0)
		return err_sys(e, "leave the old root");
	return 0;
}

static int bring_lo_up(struct err *e)
{
	OWNED_FD int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { .ifr_flags = IFF_UP | IFF_RUNNING };

	memcpy(ifr.ifr_name, "lo", sizeof("lo"));
	if (sock < 0 || ioctl(sock, SIOCSIFFLAGS, &ifr) < 0)
		return err_sys(e, "bring lo up");
	return 0;
}

/* Process numbers of a session are as unlike another's as its random numbers. Needs a kernel with
 * checkpoint support; without it they begin at 2. */
static void scatter_pids(void)
{
	struct err ignored;
	char text[16];

	snprintf(text, sizeof(text), "%u", 300 + (unsigned)(rand_u64() % 16000));
	fd_write_once(AT_FDCWD, "/proc/sys/kernel/ns_last_pid", text, &ignored);
}

/* Runs in the new namespaces. Returns only on failure. */
static int child_main(const struct jail_spawn *s, int *io_status_fd, struct err *e)
{
	int sync_fd = *io_status_fd;
	static const char *const argv[] = { "bivouac-agent", NULL };
	static const char *const envp[] = { "PATH=/usr/local/bin:/usr/bin:/bin",
					    "HOME=/home/session", NULL };
	sigset_t none;
	char go;

	/* The parent maps our ids and puts us into our cgroups first; if it dies we see the end of
	 * the socket. */
	if (read(sync_fd, &go, 1) != 1)
		return err_set(e, ERR_SYSTEM, "the jailer went away");
	/* SECURITY: now, and not with clone: the namespace's root is the cgroup we are in, so the
	 * path of the host's hierarchy is invisible. */
	if (unshare(CLONE_NEWCGROUP) < 0)
		return err_sys(e, "cgroup namespace");
	if (setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0)
		return err_sys(e, "become root of the namespace");
	if (sethostname("session", 7) < 0)
		return err_sys(e, "set host name");
	scatter_pids();
	if (bring_lo_up(e) < 0 || enter_root(s, e) < 0)
		return -1;
	setsid();
	umask(022);
	/* Descriptors into place: 3 listening socket, 4 memory events, 5 agent binary, 6 filter, 7
	 * status. */
	int want[] = { s->listen_fd, s->oom_fd, s->agent_fd, s->seccomp_fd, sync_fd };
	int high[ARRAY_LEN(want)];

	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		high[i] = want[i] < 0 ? -1 : fcntl(want[i], F_DUPFD_CLOEXEC, 64);
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		int to = 3 + (int)i;

		if (high[i] < 0)
			close(to); /* no memory events on this machine */
		else if (dup3(high[i], to, i < 2 ? 0 : O_CLOEXEC) < 0)
			return err_sys(e, "place descriptors");
	}
	*io_status_fd = 7;
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd < 3; fd++)
		if (null_fd < 0 || dup2(null_fd, fd) < 0)
			return err_sys(e, "open /dev/null");
	/* SECURITY: nothing else of the host survives this; 5 to 7 close on exec. */
	if (syscall(SYS_close_range, 8, ~0U, 0) < 0)
		return err_sys(e, "close descriptors");
	/* The agent's own files are bounded by its protocol; openFiles is for the caller's code. */
	const struct confine_limits limits = { AGENT_OPEN_FILES, s->limits->pids,
					       s->limits->memory_bytes };

	if (confine_become_session(&limits, e) < 0 || confine_install_filter(6, NULL, e) < 0)
		return -1;
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	syscall(SYS_execveat, 5, "", argv, envp, AT_EMPTY_PATH);
	return err_sys(e, "start the agent");
}

static int write_proc(pid_t pid, const char *file, const char *text, struct err *e)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)pid, file);
	return fd_write_once(AT_FDCWD, path, text, e);
}

static int map_ids(pid_t pid, uid_t base, struct err *e)
{
	char map[96];

	snprintf(map, sizeof(map), "0 %u 1\n%d %u 1\n", base, CONFINE_UID, base + 1);
	if (write_proc(pid, "uid_map", map, e) < 0 || write_proc(pid, "gid_map", map, e) < 0)
		return err_wrap(e, "mapping ids");
	return 0;
}

/*
 * SECURITY: whoever makes a user namespace pays for what is counted per user in it (inotify
 * instances, pending signals, message queues, namespaces). Made as root, all sandboxes would draw
 * on root's account, and one of them could empty it for the host; made as the sandbox's own id,
 * each has its own. Changing ids clears the death signal, so it is set again.
 */
static long clone_as(uid_t uid, struct clone_args *args)
{
	pid_t parent = getppid();

	if (syscall(SYS_setresuid, -1, uid, -1) < 0)
		return -1;
	long pid = syscall(SYS_clone3, args, sizeof(*args));

	if (pid == 0)
		return 0;
	int saved = errno;

	if (syscall(SYS_setresuid, -1, 0, -1) < 0)
		abort(); /* a jailer that is not root any more is of no use */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	errno = saved;
	return pid;
}

/* End of the socket without a report: the agent is running, unless it was killed on the way. */
static int check_alive(int pidfd, struct err *e)
{
	siginfo_t info = { 0 };

	if (waitid(P_PIDFD, (id_t)pidfd, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid)
		return err_set(e, ERR_UNAVAILABLE, "the agent was killed before it ran (status %d)",
			       info.si_status);
	return 0;
}

int jail_spawn(const struct jail_spawn *s, int (*attach)(pid_t pid, void *arg, struct err *e),
	       void *arg, pid_t *ret_pid, int *ret_pidfd, struct err *e)
{
	int sync[2];

	if (chdir(s->template) < 0)
		return err_sys(e, "enter %s", s->template);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sync) < 0)
		return err_sys(e, "socketpair");
	OWNED_FD int ours = sync[0];
	OWNED_FD int theirs = sync[1];
	OWNED_FD int pidfd = -1;
	struct clone_args args = {
		.flags = CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC |
			 CLONE_NEWUTS | CLONE_PIDFD,
		.pidfd = (uint64_t)(uintptr_t)&pidfd,
		.exit_signal = SIGCHLD,
	};
	long pid = clone_as(s->uid_base, &args);

	if (pid < 0)
		return err_sys(e, "clone3 with new namespaces");
	if (pid == 0) {
		struct err child = ERR_INIT;
		int status_fd = theirs;

		close(ours);
		child_main(s, &status_fd, &child);
		(void)!write(status_fd, &child, sizeof(child));
		_exit(1);
	}
	struct err report = ERR_INIT;
	int rc = -1;

	close_fd(&theirs);
	if (map_ids((pid_t)pid, s->uid_base, e) == 0 && attach((pid_t)pid, arg, e) == 0) {
		ssize_t n = write(ours, "g", 1);

		n = n == 1 ? read(ours, &report, sizeof(report)) : -1;
		if (n == 0)
			rc = check_alive(pidfd, e);
		else if (n == (ssize_t)sizeof(report))
			*e = report;
		else
			err_sys(e, "starting a sandbox");
	}
	if (rc < 0) {
		kill((pid_t)pid, SIGKILL);
		while (waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR)
			;
		return err_wrap(e, "sandbox");
	}
	*ret_pid = (pid_t)pid;
	*ret_pidfd = take_fd(pidfd);
	return 0;
}
