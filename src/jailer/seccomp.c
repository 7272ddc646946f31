/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/seccomp.h"

#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* Linux 6.5 */
#endif
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41 /* Linux 5.17 */
#endif

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
	"fallocate",
	"fchdir",
	"fchmod",
	"fchmodat",
	"fchown",
	"fchownat",
	"fgetxattr",
	"flistxattr",
	"flock",
	"fremovexattr",
	"fsetxattr",
	"fstat",
	"fstatfs",
	"ftruncate",
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
	"stat",
	"statfs",
	"statx",
	"symlink",
	"symlinkat",
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
	"membarrier",
	"mincore",
	"mlock",
	"mlock2",
	"mlockall",
	"mprotect",
	"mremap",
	"munlock",
	"munlockall",
	"munmap",
	"pkey_alloc",
	"pkey_free",
	"pkey_mprotect",
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
	"sched_yield",
	"setgid",
	"setgroups",
	"setitimer",
	"setpgid",
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
	"capget",
	"landlock_create_ruleset",
	"landlock_add_rule",
	"landlock_restrict_self",
	/* waiting */
	"epoll_create",
	"epoll_create1",
	"epoll_ctl",
	"epoll_pwait",
	"epoll_pwait2",
	"epoll_wait",
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
	"listen",
	"recvfrom",
	"recvmmsg",
	"recvmsg",
	"sendmmsg",
	"sendmsg",
	"sendto",
	"shutdown",
	/* System V semaphores and shared memory: own IPC namespace, charged to the cgroup */
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
 * Known and dangerous: a clear EPERM instead of "no such call", and the user is told which call it
 * was. inotify is among them because the image is shared: a watch on it tells when other sessions
 * open its files.
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

/*
 * Told by name as well, but as if the kernel did not have them, so that programs fall back: much
 * kernel code behind each, and nothing that CPython, numpy, Node or a shell would miss.
 */
static const char *const absent[] = {
	"fanotify_init",
	"fanotify_mark",
	"get_mempolicy",
	"io_uring_enter",
	"io_uring_register",
	"io_uring_setup",
	"mbind",
	"memfd_secret",
	"migrate_pages",
	"move_pages",
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
	"process_mrelease",
	"remap_file_pages",
	"set_mempolicy",
	"splice",
	"tee",
	"ustat",
};

/*
 * SECURITY: succeed and do nothing. A session has no file on a disk, so there is nothing to write
 * back but other people's data (through the image each of these reaches the host's file system, its
 * journal and the disk's cache), and advice may not throw the shared image out of the page cache.
 */
static const char *const idle[] = {
	"fadvise64", "fdatasync", "fsync", "sync", "sync_file_range", "syncfs",
};

/* Refused like those above; a zygote needs them to enter a sandbox. */
static const char *const entering[] = { "setns", "capset", "seccomp" };

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

/* Allows a call if the low 32 bits of an argument are not this value. The kernel looks at these
 * only, a plain comparison here at all 64 (CVE-2019-10063), so it is said bit by bit. */
static int allow_if_not(scmp_filter_ctx ctx, int call, unsigned arg, uint32_t value)
{
	int rc = 0;

	for (uint32_t bit = 1; bit; bit <<= 1)
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, call, 1,
				       SCMP_CMP(arg, SCMP_CMP_MASKED_EQ, bit, ~value & bit));
	return rc;
}

/*
 * SECURITY: every ioctl but those that push input into a terminal (TIOCSTI, TIOCLINUX) and that
 * which makes the kernel load a line discipline (TIOCSETD: n_hdlc, n_gsm). With masks, as above: a
 * request is allowed if a bit that all of them have in common differs, or if the other bits are
 * none's. What no rule allows falls to the default action.
 */
static int allow_harmless_ioctls(scmp_filter_ctx ctx)
{
	static const uint32_t bad[] = { TIOCSTI, TIOCLINUX, TIOCSETD };
	uint32_t differ = 0;
	int rc = 0;

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		differ |= bad[0] ^ bad[i];
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(ioctl), 1,
				       SCMP_A1(SCMP_CMP_MASKED_EQ, UINT32_MAX, bad[i]));
	}
	for (uint32_t bit = 1; bit; bit <<= 1)
		if (!(differ & bit))
			rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
					       SCMP_A1(SCMP_CMP_MASKED_EQ, bit, ~bad[0] & bit));
	/* All values of the differing bits, by counting through the subsets of their mask. */
	uint32_t value = 0;

	do {
		bool is_bad = false;

		for (size_t i = 0; i < ARRAY_LEN(bad); i++)
			is_bad = is_bad || value == (bad[i] & differ);
		if (!is_bad)
			rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(ioctl), 1,
					       SCMP_A1(SCMP_CMP_MASKED_EQ, differ, value));
		value = (value - differ) & differ;
	} while (value);
	return rc;
}

/*
 * SECURITY: every socket option but two. TCP_ULP puts other code of the kernel (kTLS, SMC) under a
 * connection; SO_PEERPIDFD of the socket to the agent would be a descriptor of the jailer.
 */
static int allow_socket_options(scmp_filter_ctx ctx)
{
	int rc = 0;

	rc |= allow_if_not(ctx, SCMP_SYS(setsockopt), 1, IPPROTO_TCP);
	rc |= allow_if_not(ctx, SCMP_SYS(setsockopt), 2, TCP_ULP);
	rc |= allow_if_not(ctx, SCMP_SYS(getsockopt), 1, SOL_SOCKET);
	rc |= allow_if_not(ctx, SCMP_SYS(getsockopt), 2, SO_PEERPIDFD);
	return rc;
}

/* The options of prctl that programs use; no filters, memory maps, core scheduling. */
static int allow_prctl(scmp_filter_ctx ctx)
{
	static const int options[] = {
		PR_SET_PDEATHSIG,
		PR_GET_PDEATHSIG,
		PR_GET_DUMPABLE,
		PR_SET_DUMPABLE,
		PR_GET_KEEPCAPS,
		PR_SET_KEEPCAPS,
		PR_SET_NAME,
		PR_GET_NAME,
		PR_GET_SECCOMP,
		PR_CAPBSET_READ,
		PR_CAPBSET_DROP,
		PR_GET_TSC,
		PR_GET_SECUREBITS,
		PR_SET_SECUREBITS,
		PR_SET_TIMERSLACK,
		PR_GET_TIMERSLACK,
		PR_SET_CHILD_SUBREAPER,
		PR_GET_CHILD_SUBREAPER,
		PR_SET_NO_NEW_PRIVS,
		PR_GET_NO_NEW_PRIVS,
		PR_GET_TID_ADDRESS,
		PR_SET_THP_DISABLE,
		PR_GET_THP_DISABLE,
		PR_CAP_AMBIENT,
		PR_GET_SPECULATION_CTRL,
		PR_SET_SPECULATION_CTRL,
		PR_SET_PTRACER,
		PR_SET_VMA,
	};
	int rc = 0;

	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prctl), 1,
				       SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)options[i]));
	return rc;
}

/*
 * SECURITY: only the three families whose code a namespace contains, of these TCP and UDP alone:
 * any other protocol number would make the kernel load a module (SCTP, DCCP, SMC) with a history.
 * The type's upper bits are flags. AF_UNIX pairs of any type carry nothing but bytes.
 */
static int allow_sockets(scmp_filter_ctx ctx)
{
	static const struct {
		uint32_t type, protocol;
	} kinds[] = { { SOCK_STREAM, IPPROTO_TCP }, { SOCK_DGRAM, IPPROTO_UDP } };
	static const int families[] = { AF_INET, AF_INET6 };
	int rc = 0;

	for (size_t i = 0; i < ARRAY_LEN(families); i++) {
		struct scmp_arg_cmp family = SCMP_A0_32(SCMP_CMP_EQ, (uint32_t)families[i]);

		for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
			struct scmp_arg_cmp type =
				SCMP_A1_32(SCMP_CMP_MASKED_EQ, 0xf, kinds[k].type);

			rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3, family,
					       type, SCMP_A2_32(SCMP_CMP_EQ, 0));
			rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 3, family,
					       type, SCMP_A2_32(SCMP_CMP_EQ, kinds[k].protocol));
		}
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(socket), 2, family,
				       SCMP_A1_32(SCMP_CMP_MASKED_EQ, 0xf, SOCK_RAW));
	}
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX));
	for (uint32_t family = 0; family < 64; family++) {
		if (family == AF_UNIX || family == AF_INET || family == AF_INET6)
			continue;
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EAFNOSUPPORT), SCMP_SYS(socket), 1,
				       SCMP_A0_32(SCMP_CMP_EQ, family));
	}
	return rc;
}

/*
 * SECURITY: huge pages come out of a stock of the whole machine and are not charged to the memory
 * cgroup. Asked for by mmap they are refused, as by memfd_create; shmget needs a capability.
 */
static int allow_small_pages(scmp_filter_ctx ctx)
{
	int rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				  SCMP_A3_32(SCMP_CMP_MASKED_EQ, MAP_HUGETLB, 0));

	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOMEM), SCMP_SYS(mmap), 1,
			       SCMP_A3_32(SCMP_CMP_MASKED_EQ, MAP_HUGETLB, MAP_HUGETLB));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(memfd_create), 1,
			       SCMP_A1_32(SCMP_CMP_MASKED_EQ, MFD_HUGETLB, 0));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(ENOMEM), SCMP_SYS(memfd_create), 1,
			       SCMP_A1_32(SCMP_CMP_MASKED_EQ, MFD_HUGETLB, MFD_HUGETLB));
	return rc;
}

/*
 * SECURITY: the commands that programs use. Among those left out: F_NOTIFY, which like inotify
 * tells who opens the shared image's files, and leases, which make others wait for them.
 */
static int allow_fcntl(scmp_filter_ctx ctx)
{
	static const uint32_t commands[] = {
		F_DUPFD,         F_GETFD,      F_SETFD,     F_GETFL,     F_SETFL,      F_GETLK,
		F_SETLK,         F_SETLKW,     F_SETOWN,    F_GETOWN,    F_SETSIG,     F_GETSIG,
		F_SETOWN_EX,     F_GETOWN_EX,  F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW, F_SETPIPE_SZ,
		F_DUPFD_CLOEXEC, F_GETPIPE_SZ, F_ADD_SEALS, F_GET_SEALS,
	};
	int rc = seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(fcntl), 1,
				  SCMP_A1_32(SCMP_CMP_EQ, F_NOTIFY));

	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(fcntl), 1,
				       SCMP_A1_32(SCMP_CMP_EQ, commands[i]));
	return rc;
}

/*
 * SECURITY: advice about one's own memory. Not MADV_MERGEABLE: where ksmd runs, pages that were
 * merged tell by timing what others have in theirs.
 */
static int allow_madvise(scmp_filter_ctx ctx)
{
	int rc = 0;

	for (uint32_t advice = 0; advice <= 25; advice++)
		if (advice != MADV_MERGEABLE)
			rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(madvise), 1,
					       SCMP_A2_32(SCMP_CMP_EQ, advice));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EINVAL), SCMP_SYS(madvise), 1,
			       SCMP_A2_32(SCMP_CMP_EQ, MADV_MERGEABLE));
	return rc;
}

static int add_conditions(scmp_filter_ctx ctx, uint32_t refuse, struct err *e)
{
	int rc = 0;

	/* SECURITY: threads and processes yes, namespaces no; clone3 hides its flags from us, so it
	 * stays under the default action (ENOSYS), and libc falls back to clone. */
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
			       SCMP_A0(SCMP_CMP_MASKED_EQ, namespace_flags, 0));
	for (unsigned long flags = namespace_flags; flags; flags &= flags - 1) {
		unsigned long flag = flags & -flags;

		rc |= seccomp_rule_add(ctx, refuse, SCMP_SYS(clone), 1,
				       SCMP_A0(SCMP_CMP_MASKED_EQ, flag, flag));
	}
	rc |= allow_sockets(ctx);
	rc |= allow_small_pages(ctx);
	rc |= allow_prctl(ctx);
	rc |= allow_fcntl(ctx);
	rc |= allow_madvise(ctx);
	rc |= allow_socket_options(ctx);
	/* SECURITY: of every process but PID 1, the agent, which has the same user. */
	rc |= allow_if_not(ctx, SCMP_SYS(sched_setaffinity), 0, 1);
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(sched_setaffinity), 1,
			       SCMP_A0(SCMP_CMP_MASKED_EQ, UINT32_MAX, 1));
	/* As with fsync: a shared mapping of the image would reach the disk. */
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(0), SCMP_SYS(msync), 1,
			       SCMP_A2_32(SCMP_CMP_MASKED_EQ, MS_SYNC, MS_SYNC));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(msync), 1,
			       SCMP_A2_32(SCMP_CMP_MASKED_EQ, MS_SYNC, 0));
	/* SECURITY: its own priority, not that of the agent, which has the same user. */
	for (uint32_t which = PRIO_PROCESS; which <= PRIO_PGRP; which++)
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(setpriority), 2,
				       SCMP_A0_32(SCMP_CMP_EQ, which), SCMP_A1_32(SCMP_CMP_EQ, 0));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(setpriority), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, PRIO_USER));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ERRNO(EPERM), SCMP_SYS(setpriority), 1,
			       SCMP_A1_32(SCMP_CMP_GT, 0));
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
	const uint32_t eperm = SCMP_ACT_ERRNO(EPERM);
	bool notify = part == SECCOMP_ZYGOTE_NOTIFY;
	bool zygote = notify || part == SECCOMP_ZYGOTE;
	uint32_t refuse = notify ? SCMP_ACT_NOTIFY : eperm;

	if (part == SECCOMP_REST)
		return add_words(ctx, eperm, entering, ARRAY_LEN(entering), e);
	if (add_words(ctx, SCMP_ACT_ALLOW, allowed, ARRAY_LEN(allowed), e) < 0 ||
	    add_words(ctx, SCMP_ACT_ERRNO(0), idle, ARRAY_LEN(idle), e) < 0 ||
	    add_words(ctx, refuse, refused, ARRAY_LEN(refused), e) < 0 ||
	    (notify && add_words(ctx, refuse, absent, ARRAY_LEN(absent), e) < 0) ||
	    add_words(ctx, zygote ? SCMP_ACT_ALLOW : eperm, entering, ARRAY_LEN(entering), e) < 0)
		return -1;
	return add_conditions(ctx, refuse, e);
}

int seccomp_refusal_errno(int nr)
{
	for (size_t i = 0; i < ARRAY_LEN(absent); i++)
		if (seccomp_syscall_resolve_name(absent[i]) == nr)
			return ENOSYS;
	return EPERM;
}

/* A child tries it: some container runtimes have a listener of their own, and there can be only
 * one. */
bool seccomp_can_notify(void)
{
	pid_t pid = fork();
	int status = 1;

	if (pid == 0) {
		struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
		struct sock_fprog prog = { 1, &allow };

		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		_exit(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
			      SECCOMP_FILTER_FLAG_NEW_LISTENER, &prog) < 0);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
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
