/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor.h"

#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#define KERNEL_MIN_MAJOR  5
#define KERNEL_MIN_MINOR  10
#define KERNEL_GOOD_MINOR 14 /* cgroup.kill; Landlock came with 5.13 */
/* Linux 5.13, 6.10, 6.12. TCP (ABI 4) is not used: sessions without egress have only a loopback. */
#define LANDLOCK_ABI_FILES   1
#define LANDLOCK_ABI_DEVICES 5
#define LANDLOCK_ABI_SCOPES  6
#define SECCOMP_ERRNO        ENOTUNIQ /* nothing but our filter gives it for getppid */

static void check_version(struct doctor *d)
{
	struct utsname name;
	int major = 0, minor = 0;

	uname(&name);
	if (sscanf(name.release, "%d.%d", &major, &minor) != 2)
		major = 0;
	int number = major * 1000 + minor;

	doctor_add(d,
		   number < KERNEL_MIN_MAJOR * 1000 + KERNEL_MIN_MINOR    ? FINDING_FAIL
		   : number < KERNEL_MIN_MAJOR * 1000 + KERNEL_GOOD_MINOR ? FINDING_WARN
									  : FINDING_OK,
		   "kernel", "use Linux 5.10 or later; from 5.14 on everything is there", "%s %s",
		   name.release, name.machine);
}

static const struct namespace_kind {
	const char *name;
	const char *link;
	int flag;
} namespaces[] = {
	{ "namespace user", "/proc/self/ns/user", CLONE_NEWUSER },
	{ "namespace pid", "/proc/self/ns/pid_for_children", CLONE_NEWPID },
	{ "namespace mount", "/proc/self/ns/mnt", CLONE_NEWNS },
	{ "namespace net", "/proc/self/ns/net", CLONE_NEWNET },
	{ "namespace ipc", "/proc/self/ns/ipc", CLONE_NEWIPC },
	{ "namespace uts", "/proc/self/ns/uts", CLONE_NEWUTS },
	{ "namespace cgroup", "/proc/self/ns/cgroup", CLONE_NEWCGROUP },
};

/** wait_exit: exit status of a child, -1 if it died otherwise. */
static int wait_exit(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -1;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/** unshare_failed: ENOSPC means a limit, not a disk. */
static void unshare_failed(struct trial *t)
{
	trial_set(t, TRIAL_FAILED, "unshare: %s",
		  errno == ENOSPC ? "no more namespaces are allowed (user.max_*_namespaces)"
				  : strerror(errno));
}

/** A namespace is tried as sandboxes use it: together with a user namespace of its own. */
static void trial_namespace(struct trial *t, const void *arg)
{
	const struct namespace_kind *kind = arg;
	char before[64] = "", after[64] = "";

	if (readlink(kind->link, before, sizeof(before) - 1) < 0) {
		trial_set(t, TRIAL_FAILED, "%s: %s", kind->link, strerror(errno));
		return;
	}
	if (unshare(CLONE_NEWUSER | kind->flag)) {
		unshare_failed(t);
		return;
	}
	if (kind->flag == CLONE_NEWPID) {
		pid_t pid = fork();

		if (pid == 0)
			_exit(getpid() == 1 ? 0 : 1);
		int status = pid < 0 ? -1 : wait_exit(pid);

		trial_set(t, status ? TRIAL_FAILED : TRIAL_OK,
			  status ? "no PID 1 in it" : "made, with a PID 1 in it");
		return;
	}
	if (readlink(kind->link, after, sizeof(after) - 1) < 0 || !strcmp(before, after))
		trial_set(t, TRIAL_FAILED, "unshare changes nothing");
	else
		trial_set(t, TRIAL_OK, "made");
}

static void check_namespaces(struct doctor *d)
{
	for (size_t i = 0; i < ARRAY_LEN(namespaces); i++) {
		struct trial t = doctor_child(trial_namespace, &namespaces[i], TRIAL_DEADLINE_MS);

		doctor_add(d, t.result == TRIAL_OK ? FINDING_OK : FINDING_FAIL, namespaces[i].name,
			   "no sandbox is made without it: use a kernel (or outer container) that "
			   "allows it; check user.max_*_namespaces and the host's LSM",
			   "%s", t.text);
	}
}

static void trial_seccomp(struct trial *t, const void *arg)
{
	/* Enough for a trial: without the architecture check a real filter begins with. */
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | SECCOMP_ERRNO),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { ARRAY_LEN(code), code };

	(void)arg;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
	    syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program)) {
		trial_set(t, TRIAL_FAILED, "installing a filter: %s", strerror(errno));
		return;
	}
	errno = 0;
	if (syscall(__NR_getppid) >= 0 || errno != SECCOMP_ERRNO) {
		trial_set(t, TRIAL_FAILED, "a filter was installed but does not filter");
		return;
	}
	trial_set(t, TRIAL_OK, "a filter was installed and filters");
}

static void check_seccomp(struct doctor *d)
{
	struct trial t = doctor_child(trial_seccomp, NULL, TRIAL_DEADLINE_MS);

	doctor_add(d, t.result == TRIAL_OK ? FINDING_OK : FINDING_FAIL, "seccomp",
		   "no sandbox is made: use a kernel with CONFIG_SECCOMP_FILTER", "%s", t.text);
}

static void trial_notify(struct trial *t, const void *arg)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { 1, &allow };
	uint32_t notify = SECCOMP_RET_USER_NOTIF;
	struct seccomp_notif_sizes sizes = { 0 };

	(void)arg;
	if (syscall(__NR_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &notify))
		trial_set(t, TRIAL_FAILED, "user notification: %s", strerror(errno));
	else if (syscall(__NR_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes))
		trial_set(t, TRIAL_FAILED, "sizes of notifications: %s", strerror(errno));
	else if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
		 syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
			 &program) < 0)
		trial_set(t, TRIAL_FAILED, "installing a filter with a listener: %s",
			  strerror(errno));
	else
		trial_set(t, TRIAL_OK, "a filter with a listener was installed");
}

static void check_seccomp_notify(struct doctor *d)
{
	struct trial t = doctor_child(trial_notify, NULL, TRIAL_DEADLINE_MS);

	doctor_add(d, t.result == TRIAL_OK ? FINDING_OK : FINDING_WARN, "seccomp notify",
		   "executions that a refused system call made fail do not name it: use Linux 5.0 "
		   "or later, and no outer seccomp filter that hides it or listens itself",
		   "%s", t.text);
}

static const struct landlock_part {
	const char *what;
	long abi;
	const char *gives;
	const char *fix;
} landlock_parts[] = {
	{ "landlock", LANDLOCK_ABI_FILES, "files",
	  "files of sessions have one wall, mounts and namespaces, instead of two: boot with "
	  "lsm=landlock,… on a kernel with CONFIG_SECURITY_LANDLOCK (Linux 5.13)" },
	{ "landlock devices", LANDLOCK_ABI_DEVICES, "ioctl of devices",
	  "device control has one wall, the seccomp filter, instead of two: use Linux 6.10 or "
	  "later" },
	{ "landlock scopes", LANDLOCK_ABI_SCOPES, "abstract sockets and signals",
	  "abstract sockets and signals have one wall, namespaces, instead of two: use Linux 6.12 "
	  "or later" },
};

static void check_landlock(struct doctor *d)
{
	long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	int why = abi > 0 ? 0 : errno;

	for (size_t i = 0; i < ARRAY_LEN(landlock_parts); i++) {
		const struct landlock_part *part = &landlock_parts[i];

		if (abi >= part->abi)
			doctor_add(d, FINDING_OK, part->what, "", "ABI %ld: %s", abi, part->gives);
		else if (abi > 0)
			doctor_add(d, FINDING_WARN, part->what, part->fix,
				   "ABI %ld, ABI %ld has it", abi, part->abi);
		else
			doctor_add(d, FINDING_WARN, part->what, part->fix, "%s",
				   why == EOPNOTSUPP ? "built in, not enabled"
						     : "not in this kernel");
	}
}

static bool call_pidfd(void)
{
	int fd = (int)syscall(__NR_pidfd_open, getpid(), 0);

	if (fd < 0)
		return false;
	long rc = syscall(__NR_pidfd_send_signal, fd, 0, NULL, 0);

	close(fd);
	return rc == 0;
}

static bool call_clone3(void)
{
	int pidfd = -1;
	struct clone_args args = { .flags = CLONE_PIDFD,
				   .pidfd = (uint64_t)(uintptr_t)&pidfd,
				   .exit_signal = SIGCHLD };
	long pid = syscall(__NR_clone3, &args, sizeof(args));

	if (pid == 0)
		_exit(0);
	if (pid < 0)
		return false;
	close_fd(&pidfd);
	return wait_exit((pid_t)pid) == 0;
}

static bool call_close_range(void)
{
	int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 500);

	if (fd < 0 || syscall(__NR_close_range, fd, fd, 0))
		return false;
	return fcntl(fd, F_GETFD) < 0;
}

static bool call_openat2(void)
{
	struct open_how how = { .flags = O_PATH | O_CLOEXEC,
				.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS };
	OWNED_FD int proc_fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int inside = (int)syscall(__NR_openat2, proc_fd, "self", &how, sizeof(how));
	int outside = (int)syscall(__NR_openat2, proc_fd, "..", &how, sizeof(how));
	bool good = inside >= 0 && outside < 0 && errno == EXDEV;

	close_fd(&inside);
	close_fd(&outside);
	return good;
}

static bool call_memfd_seal(void)
{
	OWNED_FD int fd = memfd_create("bivouac-doctor", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0 || write(fd, "x", 1) != 1 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE))
		return false;
	return write(fd, "y", 1) < 0 && errno == EPERM;
}

static void trial_calls(struct trial *t, const void *arg)
{
	static const struct {
		const char *name;
		bool (*call)(void);
	} calls[] = {
		{ "pidfd", call_pidfd },
		{ "clone3", call_clone3 },
		{ "close_range", call_close_range },
		{ "openat2", call_openat2 },
		{ "memfd sealing", call_memfd_seal },
	};
	char missing[TRIAL_TEXT_MAX - 32] = "";
	size_t used = 0;

	(void)arg;
	for (size_t i = 0; i < ARRAY_LEN(calls); i++)
		if (!calls[i].call())
			used += (size_t)snprintf(missing + used, sizeof(missing) - used, "%s%s",
						 used ? ", " : "", calls[i].name);
	if (used)
		trial_set(t, TRIAL_FAILED, "do not work: %s", missing);
	else
		trial_set(t, TRIAL_OK,
			  "pidfd, clone3, close_range, openat2 and memfd sealing work");
}

static void check_calls(struct doctor *d)
{
	struct trial t = doctor_child(trial_calls, NULL, TRIAL_DEADLINE_MS);

	doctor_add(d, t.result == TRIAL_OK ? FINDING_OK : FINDING_FAIL, "system calls",
		   "no sandbox is made without them: use Linux 5.10 or later, and no outer seccomp "
		   "filter that refuses them",
		   "%s", t.text);
}

/** enter_user: user and other namespaces with ourselves as root in them. */
static int enter_user(struct trial *t, int flags)
{
	char map[64];
	unsigned uid = geteuid(), gid = getegid();
	struct err e = ERR_INIT;

	if (unshare(CLONE_NEWUSER | flags)) {
		unshare_failed(t);
		return -1;
	}
	fd_write_once(AT_FDCWD, "/proc/self/setgroups", "deny", NULL);
	snprintf(map, sizeof(map), "0 %u 1", uid);
	int rc = fd_write_once(AT_FDCWD, "/proc/self/uid_map", map, &e);

	snprintf(map, sizeof(map), "0 %u 1", gid);
	if (rc || fd_write_once(AT_FDCWD, "/proc/self/gid_map", map, &e)) {
		trial_set(t, TRIAL_FAILED, "%.150s", e.msg);
		return -1;
	}
	return 0;
}

/** scratch: an own, empty tmpfs over /tmp of a private mount namespace; nobody else sees it. */
static int scratch(struct trial *t)
{
	if (enter_user(t, CLONE_NEWNS))
		return -1;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,nr_inodes=64")) {
		trial_set(t, TRIAL_FAILED, "mounting tmpfs: %s", strerror(errno));
		return -1;
	}
	return 0;
}

static void trial_tmpfs(struct trial *t, const void *arg)
{
	char name[32];
	int made = 0;

	(void)arg;
	if (scratch(t))
		return;
	if (mkdir("/tmp/dir", 0700)) {
		trial_set(t, TRIAL_FAILED, "writing into it: %s", strerror(errno));
		return;
	}
	for (int i = 0; i < 100; i++) {
		snprintf(name, sizeof(name), "/tmp/%d", i);
		made += mkdir(name, 0700) == 0;
	}
	trial_set(t, made < 64 ? TRIAL_OK : TRIAL_FAILED,
		  made < 64 ? "mounts, and its inode limit holds"
			    : "its inode limit does not hold");
}

static void trial_overlay(struct trial *t, const void *arg)
{
	static const char options[] = "lowerdir=/tmp/lower,upperdir=/tmp/upper,workdir=/tmp/work";

	(void)arg;
	if (scratch(t))
		return;
	if (mkdir("/tmp/lower", 0755) || mkdir("/tmp/upper", 0755) || mkdir("/tmp/work", 0755) ||
	    mkdir("/tmp/merged", 0755) || mkdir("/tmp/lower/seen", 0755)) {
		trial_set(t, TRIAL_FAILED, "mkdir: %s", strerror(errno));
		return;
	}
	char with_xattr[sizeof(options) + 16];

	snprintf(with_xattr, sizeof(with_xattr), "%s,userxattr", options);
	if (mount("overlay", "/tmp/merged", "overlay", 0, with_xattr) &&
	    mount("overlay", "/tmp/merged", "overlay", 0, options)) {
		trial_set(t, TRIAL_FAILED, "mounting in a user namespace: %s", strerror(errno));
		return;
	}
	bool good = !access("/tmp/merged/seen", F_OK) && !mkdir("/tmp/merged/new", 0755) &&
		    !access("/tmp/upper/new", F_OK);

	trial_set(t, good ? TRIAL_OK : TRIAL_FAILED,
		  good ? "mounts in a user namespace, and writes go to the upper layer"
		       : "mounts in a user namespace but does not layer");
}

/** proc_inside: PID 1 of the new namespaces tries; its exit status is the trial's result. */
static int proc_inside(void)
{
	const unsigned long flags = MS_NOSUID | MS_NODEV | MS_NOEXEC;
	struct stat st;

	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL))
		return TRIAL_FAILED;
	if (mount("proc", "/proc", "proc", flags, "hidepid=invisible,subset=pid"))
		return mount("proc", "/proc", "proc", flags, NULL) ? TRIAL_FAILED : TRIAL_PARTLY;
	/* Own processes, and nothing about the machine. */
	return stat("/proc/1", &st) || !stat("/proc/sys", &st) ? TRIAL_PARTLY : TRIAL_OK;
}

static void trial_proc(struct trial *t, const void *arg)
{
	(void)arg;
	if (enter_user(t, CLONE_NEWPID | CLONE_NEWNS))
		return;
	pid_t pid = fork();

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* at the deadline */
		_exit(proc_inside());
	}
	int status = pid < 0 ? -1 : wait_exit(pid);

	if (status == TRIAL_OK)
		trial_set(t, TRIAL_OK,
			  "mounts in a user and PID namespace, with hidepid and subset=pid");
	else if (status == TRIAL_PARTLY)
		trial_set(t, TRIAL_FAILED,
			  "mounts in a user and PID namespace, but hidepid=invisible,subset=pid is "
			  "refused (Linux 5.8 has it)");
	else
		trial_set(t, TRIAL_FAILED, "does not mount in a user and PID namespace");
}

static void check_mounts(struct doctor *d)
{
	static const struct {
		const char *what;
		trial_fn fn;
		enum finding_status without;
		const char *fix;
	} mounts[] = {
		{ "tmpfs", trial_tmpfs, FINDING_FAIL,
		  "no sandbox is made: use a kernel and host that allow mounts in user "
		  "namespaces" },
		{ "proc", trial_proc, FINDING_FAIL,
		  "no sandbox is made; an outer container that masks parts of /proc prevents it: "
		  "unmask (e.g. "
		  "--security-opt systempaths=unconfined) or run on the host" },
		{ "overlayfs", trial_overlay, FINDING_WARN,
		  "use Linux 5.11 or later with CONFIG_OVERLAY_FS; sessions then use read-only "
		  "images" },
	};

	for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
		struct trial t = doctor_child(mounts[i].fn, NULL, TRIAL_DEADLINE_MS);

		doctor_add(d,
			   t.result == TRIAL_OK       ? FINDING_OK
			   : t.result == TRIAL_PARTLY ? FINDING_WARN
						      : mounts[i].without,
			   mounts[i].what, mounts[i].fix, "%s", t.text);
	}
}

void doctor_check_kernel(struct doctor *d)
{
	check_version(d);
	check_calls(d);
	check_namespaces(d);
	check_seccomp(d);
	check_seccomp_notify(d);
	check_landlock(d);
	check_mounts(d);
}
