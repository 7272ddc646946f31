/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/seccomp.h"

#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const allowed[] = {
	/* files */
	"access",
	"chdir",
	"chmod",
	"chown",
	"close",
	"close_range",
	"copy_file_range",
	"creat",
	"dup",
	"dup2",
	"dup3",
	"faccessat",
	"faccessat2",
	"fadvise64",
	"fallocate",
	"fchdir",
	"fchmod",
	"fchmodat",
	"fchown",
	"fchownat",
	"fcntl",
	"fdatasync",
	"fgetxattr",
	"flistxattr",
	"flock",
	"fremovexattr",
	"fsetxattr",
	"fstat",
	"fstatfs",
	"fsync",
	"ftruncate",
	"futimesat",
	"getcwd",
	"getdents",
	"getdents64",
	"getxattr",
	"lchown",
	"lgetxattr",
	"link",
	"linkat",
	"listxattr",
	"llistxattr",
	"lremovexattr",
	"lseek",
	"lsetxattr",
	"lstat",
	"mkdir",
	"mkdirat",
	"mknod",
	"mknodat",
	"newfstatat",
	"open",
	"openat",
	"openat2",
	"pipe",
	"pipe2",
	"pread64",
	"preadv",
	"preadv2",
	"pwrite64",
	"pwritev",
	"pwritev2",
	"read",
	"readahead",
	"readlink",
	"readlinkat",
	"readv",
	"removexattr",
	"rename",
	"renameat",
	"renameat2",
	"rmdir",
	"sendfile",
	"setxattr",
	"splice",
	"stat",
	"statfs",
	"statx",
	"symlink",
	"symlinkat",
	"sync",
	"sync_file_range",
	"syncfs",
	"tee",
	"truncate",
	"umask",
	"unlink",
	"unlinkat",
	"utime",
	"utimensat",
	"utimes",
	"write",
	"writev",
	/* memory */
	"brk",
	"madvise",
	"membarrier",
	"memfd_create",
	"mincore",
	"mlock",
	"mlock2",
	"mlockall",
	"mmap",
	"mprotect",
	"mremap",
	"msync",
	"munlock",
	"munlockall",
	"munmap",
	"pkey_alloc",
	"pkey_free",
	"pkey_mprotect",
	"get_mempolicy",
	"set_mempolicy",
	"mbind",
	/* processes, threads, signals, time */
	"alarm",
	"arch_prctl",
	"clock_getres",
	"clock_gettime",
	"clock_nanosleep",
	"execve",
	"execveat",
	"exit",
	"exit_group",
	"fork",
	"futex",
	"futex_waitv",
	"getcpu",
	"getegid",
	"geteuid",
	"getgid",
	"getgroups",
	"getitimer",
	"getpgid",
	"getpgrp",
	"getpid",
	"getppid",
	"getpriority",
	"getrandom",
	"getresgid",
	"getresuid",
	"getrlimit",
	"get_robust_list",
	"getrusage",
	"getsid",
	"gettid",
	"gettimeofday",
	"getuid",
	"kill",
	"nanosleep",
	"pause",
	"pidfd_open",
	"pidfd_send_signal",
	"prctl",
	"restart_syscall",
	"rseq",
	"rt_sigaction",
	"rt_sigpending",
	"rt_sigprocmask",
	"rt_sigqueueinfo",
	"rt_sigreturn",
	"rt_sigsuspend",
	"rt_sigtimedwait",
	"rt_tgsigqueueinfo",
	"sched_getaffinity",
	"sched_getattr",
	"sched_getparam",
	"sched_get_priority_max",
	"sched_get_priority_min",
	"sched_getscheduler",
	"sched_rr_get_interval",
	"sched_setaffinity",
	"sched_yield",
	"setgid",
	"setgroups",
	"setitimer",
	"setpgid",
	"setpriority",
	"setregid",
	"setresgid",
	"setresuid",
	"setreuid",
	"setrlimit",
	"set_robust_list",
	"setsid",
	"set_tid_address",
	"setuid",
	"sigaltstack",
	"sysinfo",
	"tgkill",
	"time",
	"timer_create",
	"timer_delete",
	"timer_getoverrun",
	"timer_gettime",
	"timer_settime",
	"timerfd_create",
	"timerfd_gettime",
	"timerfd_settime",
	"times",
	"tkill",
	"uname",
	"vfork",
	"wait4",
	"waitid",
	"seccomp",
	"capget",
	"landlock_create_ruleset",
	"landlock_add_rule",
	"landlock_restrict_self",
	/* waiting */
	"epoll_create",
	"epoll_create1",
	"epoll_ctl",
	"epoll_ctl_old",
	"epoll_pwait",
	"epoll_pwait2",
	"epoll_wait",
	"epoll_wait_old",
	"eventfd",
	"eventfd2",
	"poll",
	"ppoll",
	"pselect6",
	"select",
	"signalfd",
	"signalfd4",
	/* sockets (socket and socketpair have rules of their own) */
	"accept",
	"accept4",
	"bind",
	"connect",
	"getpeername",
	"getsockname",
	"getsockopt",
	"listen",
	"recvfrom",
	"recvmmsg",
	"recvmsg",
	"sendmmsg",
	"sendmsg",
	"sendto",
	"setsockopt",
	"shutdown",
	/* System V and POSIX messages: own IPC namespace */
	"mq_getsetattr",
	"mq_notify",
	"mq_open",
	"mq_timedreceive",
	"mq_timedsend",
	"mq_unlink",
	"msgctl",
	"msgget",
	"msgrcv",
	"msgsnd",
	"semctl",
	"semget",
	"semop",
	"semtimedop",
	"shmat",
	"shmctl",
	"shmdt",
	"shmget",
};

/*
 * Known and dangerous: a clear EPERM instead of "no such call". inotify is among them because the
 * image is shared: a watch on it tells when other sessions open its files.
 */
static const char *const refused[] = {
	"inotify_add_watch",
	"inotify_init",
	"inotify_init1",
	"acct",
	"add_key",
	"adjtimex",
	"bpf",
	"chroot",
	"clock_adjtime",
	"clock_settime",
	"delete_module",
	"finit_module",
	"fsconfig",
	"fsmount",
	"fsopen",
	"fspick",
	"init_module",
	"ioperm",
	"iopl",
	"kcmp",
	"kexec_file_load",
	"kexec_load",
	"keyctl",
	"lookup_dcookie",
	"modify_ldt",
	"mount",
	"mount_setattr",
	"move_mount",
	"name_to_handle_at",
	"open_by_handle_at",
	"open_tree",
	"perf_event_open",
	"pidfd_getfd",
	"pivot_root",
	"process_madvise",
	"process_vm_readv",
	"process_vm_writev",
	"ptrace",
	"quotactl",
	"quotactl_fd",
	"reboot",
	"request_key",
	"sched_setattr",
	"sched_setparam",
	"sched_setscheduler",
	"setdomainname",
	"setfsgid",
	"setfsuid",
	"sethostname",
	"settimeofday",
	"swapoff",
	"swapon",
	"syslog",
	"umount2",
	"unshare",
	"uselib",
	"userfaultfd",
	"vhangup",
	"vmsplice",
};

/* Refused like those above; a zygote needs them to enter a sandbox. */
static const char *const entering[] = { "setns", "capset" };

/* Namespace bits of clone's flags; CLONE_NEWTIME shares a bit with the exit signal and is refused
 * by clone itself. */
static const unsigned long namespace_flags = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS |
					     CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID |
					     CLONE_NEWNET;

static int add_words(scmp_filter_ctx ctx, uint32_t action, const char *const *words, size_t count,
		     struct err *e)
{
	for (size_t i = 0; i < count; i++) {
		int nr = seccomp_syscall_resolve_name(words[i]);

		if (nr == __NR_SCMP_ERROR)
			continue; /* newer than this libseccomp: stays under the default action */
		int rc = seccomp_rule_add(ctx, action, nr, 0);

		if (rc < 0 && rc != -EDOM && rc != -EACCES)
			return err_set(e, ERR_INTERNAL, "seccomp rule %s: %d", words[i], rc);
	}
	return 0;
}

/*
 * SECURITY: every ioctl but TIOCSTI and TIOCLINUX, which push input into a terminal. The kernel
 * looks at the low 32 bits of the request, a plain comparison here at all 64 (CVE-2019-10063), so
 * everything is said with masks: a request is allowed if a bit that both have in common differs, or
 * if the bits in which they differ from each other are neither one's. What no rule allows falls to
 * the default action.
 */
static int allow_harmless_ioctls(scmp_filter_ctx ctx)
{
	const uint32_t differ = TIOCSTI ^ TIOCLINUX;
	int rc = 0;

	for (uint32_t bit = 1; bit; bit <<= 1)
		if (!(differ & bit))
			rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
					       SCMP_A1(SCMP_CMP_MASKED_EQ, bit, ~TIOCSTI & bit));
	/* These two by name; with the mask, as above. */
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
			       SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, TIOCSTI));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
			       SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, TIOCLINUX));
	/* All values of the differing bits, by counting through the subsets of their mask. */
	uint32_t value = 0;

	do {
		if (value != (TIOCSTI & differ) && value != (TIOCLINUX & differ))
			rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
					       SCMP_A1(SCMP_CMP_MASKED_EQ, differ, value));
		value = (value - differ) & differ;
	} while (value);
	return rc;
}

static int add_conditions(scmp_filter_ctx ctx, struct err *e)
{
	int rc = 0;

	/* SECURITY: threads and processes yes, namespaces no; clone3 hides its flags from us, so it
	 * stays under the default action (ENOSYS), and libc falls back to clone. */
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			       SCMP_A0(SCMP_CMP_MASKED_EQ, namespace_flags, 0));
	/* SECURITY: only the three families whose code a namespace contains, and no raw sockets.
	 * The type's upper bits are flags. AF_UNIX pairs of any type carry nothing but bytes. */
	static const int families[] = { AF_INET, AF_INET6 };

	for (size_t i = 0; i < ARRAY_LEN(families); i++) {
		static const int types[] = { SOCK_STREAM, SOCK_DGRAM };

		for (size_t t = 0; t < ARRAY_LEN(types); t++)
			rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 2,
					       SCMP_A0_32(SCMP_CMP_EQ, families[i]),
					       SCMP_A1_32(SCMP_CMP_MASKED_EQ, 0xf, types[t]));
	}
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX));
	for (int family = 0; family < 64; family++) {
		if (family == AF_UNIX || family == AF_INET || family == AF_INET6)
			continue;
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
				       SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)family));
	}
	rc |= allow_harmless_ioctls(ctx);
	/* Own limits only: another process of the same uid is the agent. */
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, 0));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(personality), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, 0));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(personality), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, 0xffffffff));
	return rc ? err_set(e, ERR_INTERNAL, "seccomp conditions: %d", rc) : 0;
}

static int add_part(scmp_filter_ctx ctx, enum seccomp_part part, struct err *e)
{
	uint32_t refuse = SCMP_ACT_ERRNO(EPERM);

	if (part == SECCOMP_REST)
		return add_words(ctx, refuse, entering, ARRAY_LEN(entering), e);
	if (add_words(ctx, SCMP_ACT_ALLOW, allowed, ARRAY_LEN(allowed), e) < 0 ||
	    add_words(ctx, refuse, refused, ARRAY_LEN(refused), e) < 0 ||
	    add_words(ctx, part == SECCOMP_ZYGOTE ? SCMP_ACT_ALLOW : refuse, entering,
		      ARRAY_LEN(entering), e) < 0)
		return -1;
	return add_conditions(ctx, e);
}

int seccomp_compile(enum seccomp_part part, int *ret_fd, struct err *e)
{
	scmp_filter_ctx ctx =
		seccomp_init(part == SECCOMP_REST ? SCMP_ACT_ALLOW : SCMP_ACT_ERRNO(ENOSYS));
	OWNED_FD int fd = memfd_create("seccomp", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int rc = -1;

	if (!ctx || fd < 0) {
		err_sys(e, "seccomp filter");
	} else if (seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) < 0 ||
		   seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2) < 0) {
		err_set(e, ERR_INTERNAL, "seccomp attributes");
	} else if (add_part(ctx, part, e) == 0) {
		if (seccomp_export_bpf(ctx, fd) < 0 ||
		    fcntl(fd, F_ADD_SEALS,
			  F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
			err_sys(e, "export seccomp filter");
		else
			rc = 0;
	}
	if (ctx)
		seccomp_release(ctx);
	if (rc == 0)
		*ret_fd = take_fd(fd);
	return rc;
}
