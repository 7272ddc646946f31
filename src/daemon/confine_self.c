/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/confine_self.h"

#include "base/own.h"
#include "base/sanitized.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <seccomp.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What libuv, libmicrohttpd, SQLite, OpenSSL and libc do for a server that has started. */
static const char *const allowed[] = {
	/* files: below a root that has the daemon's two directories only */
	"access",
	"close",
	"close_range",
	"dup",
	"dup3",
	"faccessat",
	"faccessat2",
	"fallocate",
	"fchmod",
	"fdatasync",
	"flock",
	"fstat",
	"fstatfs",
	"fsync",
	"ftruncate",
	"getcwd",
	"getdents64",
	"lseek",
	"lstat",
	"mkdir",
	"mkdirat",
	"newfstatat",
	"open",
	"openat",
	"openat2",
	"pipe2",
	"pread64",
	"preadv",
	"pwrite64",
	"pwritev",
	"read",
	"readlink",
	"readlinkat",
	"readv",
	"rename",
	"renameat",
	"renameat2",
	"rmdir",
	"sendfile",
	"stat",
	"statfs",
	"statx",
	"umask",
	"unlink",
	"unlinkat",
	"write",
	"writev",
	/* memory: mmap and mprotect have rules of their own */
	"brk",
	"madvise",
	"membarrier",
	"mincore",
	"mremap",
	"msync",
	"munmap",
	/* this process */
	"clock_getres",
	"clock_gettime",
	"clock_nanosleep",
	"exit",
	"exit_group",
	"futex",
	"getcpu",
	"getegid",
	"geteuid",
	"getgid",
	"getpid",
	"getppid",
	"getrandom",
	"getrlimit",
	"getrusage",
	"gettid",
	"gettimeofday",
	"getuid",
	"nanosleep",
	"pause",
	"restart_syscall",
	"rseq",
	"rt_sigaction",
	"rt_sigpending",
	"rt_sigprocmask",
	"rt_sigreturn",
	"rt_sigsuspend",
	"rt_sigtimedwait",
	"sched_getaffinity",
	"sched_yield",
	"set_robust_list",
	"set_tid_address",
	"sigaltstack",
	"sysinfo",
	"time",
	"times",
	"uname",
	"wait4",
	"waitid",
	/* waiting */
	"epoll_create1",
	"epoll_ctl",
	"epoll_pwait",
	"epoll_pwait2",
	"epoll_wait",
	"eventfd2",
	"poll",
	"ppoll",
	"pselect6",
	"select",
	"signalfd4",
	"timerfd_create",
	"timerfd_gettime",
	"timerfd_settime",
	/* sockets that are there; how they come to be has rules of its own */
	"accept",
	"accept4",
	"connect",
	"getpeername",
	"getsockname",
	"getsockopt",
	"listen",
	"recvfrom",
	"recvmmsg",
	"recvmsg",
	"shutdown",
};

/*
 * SECURITY: no code of ours and no library under it makes these after the start. A process that
 * does has been taken over, so it dies and is started again, instead of looking for what works. The
 * rest of what is not allowed fails with ENOSYS, because a library may try and fall back.
 */
static const char *const deadly[] = {
	/* other programs, other processes */
	"execve",
	"execveat",
	"fork",
	"vfork",
	"ptrace",
	"process_vm_readv",
	"process_vm_writev",
	"process_madvise",
	"pidfd_getfd",
	"kcmp",
	/* namespaces, mounts, users */
	"unshare",
	"setns",
	"chroot",
	"pivot_root",
	"mount",
	"umount2",
	"mount_setattr",
	"move_mount",
	"open_tree",
	"fsopen",
	"fsconfig",
	"fsmount",
	"fspick",
	"setuid",
	"setgid",
	"setreuid",
	"setregid",
	"setresuid",
	"setresgid",
	"setgroups",
	"capset",
	"open_by_handle_at",
	/* the kernel at large */
	"bpf",
	"io_uring_setup",
	"io_uring_enter",
	"io_uring_register",
	"keyctl",
	"add_key",
	"request_key",
	"userfaultfd",
	"perf_event_open",
	"kexec_load",
	"kexec_file_load",
	"init_module",
	"finit_module",
	"delete_module",
	"iopl",
	"ioperm",
	"modify_ldt",
	"reboot",
	"swapon",
	"swapoff",
	"syslog",
	"acct",
	"quotactl",
	"settimeofday",
	"clock_settime",
	"adjtimex",
	"clock_adjtime",
	"personality",
	"vmsplice",
};

static int add_words(scmp_filter_ctx ctx, uint32_t action, const char *const *words, size_t count)
{
	int rc = 0;

	for (size_t i = 0; i < count; i++) {
		int nr = seccomp_syscall_resolve_name(words[i]);

		/* A call newer than this libseccomp stays under the default action. */
		if (nr != __NR_SCMP_ERROR)
			rc |= seccomp_rule_add(ctx, action, nr, 0);
	}
	return rc;
}

/* One rule for each value that argument `arg` may have. */
static int allow_values(scmp_filter_ctx ctx, int nr, unsigned arg, const uint32_t *values,
			size_t count)
{
	int rc = 0;

	for (size_t i = 0; i < count; i++)
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, nr, 1,
				       SCMP_CMP32(arg, SCMP_CMP_EQ, values[i]));
	return rc;
}

/*
 * SECURITY: pages are never made executable: no code but what was mapped at the start, and no
 * library is loaded later (the root has none). A process can be left only through what is mapped.
 */
static int add_memory(scmp_filter_ctx ctx)
{
	return seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mmap), 1,
				SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0)) |
	       seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(mprotect), 1,
				SCMP_A2(SCMP_CMP_MASKED_EQ, PROT_EXEC, 0));
}

/* SECURITY: threads yes (allocators and libuv may want one), processes and namespaces no. clone3
 * hides its flags and stays under the default action: libc falls back to clone. Signals reach
 * ourselves only, for abort(): other daemons of this user are none of ours. */
static int add_processes(scmp_filter_ctx ctx)
{
	static const uint32_t names[] = { PR_SET_NAME, PR_GET_NAME };
	const uint32_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC |
				    CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;
	const uint32_t own = (uint32_t)getpid();

	return seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, SCMP_SYS(clone), 1,
				SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD, 0)) |
	       seccomp_rule_add(
		       ctx, SCMP_ACT_ALLOW, SCMP_SYS(clone), 1,
		       SCMP_A0(SCMP_CMP_MASKED_EQ, CLONE_THREAD | namespaces, CLONE_THREAD)) |
	       allow_values(ctx, SCMP_SYS(tgkill), 0, &own, 1) |
	       allow_values(ctx, SCMP_SYS(prctl), 0, names, ARRAY_LEN(names)) |
	       seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(prlimit64), 1,
				SCMP_A0_32(SCMP_CMP_EQ, 0));
}

/*
 * SECURITY: the socket to serve on exists, agents are unix sockets: no other family is ever asked
 * for. A connection that was accepted could be disconnected and connected to somewhere else;
 * connect() with its address behind a pointer is not the filter's to judge, so Landlock refuses
 * that (below), and MSG_FASTOPEN, which connects without it, is refused here.
 */
static int add_sockets(scmp_filter_ctx ctx)
{
	static const uint32_t inet[] = { AF_INET, AF_INET6 };
	int rc = 0;

	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socket), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX));
	for (size_t i = 0; i < ARRAY_LEN(inet); i++)
		for (uint32_t type = SOCK_STREAM; type <= SOCK_PACKET; type++)
			rc |= seccomp_rule_add(
				ctx,
				type == SOCK_RAW ? SCMP_ACT_KILL_PROCESS : SCMP_ACT_ERRNO(EACCES),
				SCMP_SYS(socket), 2, SCMP_A0_32(SCMP_CMP_EQ, inet[i]),
				SCMP_A1_32(SCMP_CMP_MASKED_EQ, 0xf, type));
	for (uint32_t family = AF_INET + 1; family < AF_INET6; family++)
		rc |= seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, SCMP_SYS(socket), 1,
				       SCMP_A0_32(SCMP_CMP_EQ, family));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_KILL_PROCESS, SCMP_SYS(socket), 1,
			       SCMP_A0(SCMP_CMP_GT, AF_INET6));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(socketpair), 1,
			       SCMP_A0_32(SCMP_CMP_EQ, AF_UNIX));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sendto), 1,
			       SCMP_A3(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
	rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(sendmsg), 1,
			       SCMP_A2(SCMP_CMP_MASKED_EQ, MSG_FASTOPEN, 0));
	return rc;
}

/* SECURITY: of calls that are many calls in one, those in use. */
static int add_multiplexers(scmp_filter_ctx ctx)
{
	static const uint32_t requests[] = { FIONBIO, FIOCLEX, FIONREAD, TCGETS };
	static const uint32_t commands[] = {
		F_DUPFD, F_DUPFD_CLOEXEC, F_GETFD, F_SETFD,  F_GETFL,
		F_SETFL, F_GETLK,         F_SETLK, F_SETLKW,
	};
	static const uint32_t socket_options[] = { SO_LINGER, SO_KEEPALIVE, SO_SNDBUF, SO_RCVBUF };
	static const uint32_t tcp_options[] = { TCP_NODELAY, TCP_CORK };
	int rc = allow_values(ctx, SCMP_SYS(ioctl), 1, requests, ARRAY_LEN(requests)) |
		 allow_values(ctx, SCMP_SYS(fcntl), 1, commands, ARRAY_LEN(commands));

	for (size_t i = 0; i < ARRAY_LEN(socket_options); i++)
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(setsockopt), 2,
				       SCMP_A1_32(SCMP_CMP_EQ, SOL_SOCKET),
				       SCMP_A2_32(SCMP_CMP_EQ, socket_options[i]));
	for (size_t i = 0; i < ARRAY_LEN(tcp_options); i++)
		rc |= seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(setsockopt), 2,
				       SCMP_A1_32(SCMP_CMP_EQ, IPPROTO_TCP),
				       SCMP_A2_32(SCMP_CMP_EQ, tcp_options[i]));
	return rc;
}

static int install_filter(struct err *e)
{
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
	int rc = -ENOMEM;

	if (ctx) {
		/* TSYNC: threads that exist already are not left out. */
		rc = seccomp_attr_set(ctx, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS) |
		     seccomp_attr_set(ctx, SCMP_FLTATR_CTL_TSYNC, 1) |
		     seccomp_attr_set(ctx, SCMP_FLTATR_CTL_OPTIMIZE, 2) |
		     add_words(ctx, SCMP_ACT_ALLOW, allowed, ARRAY_LEN(allowed)) |
		     add_words(ctx, SCMP_ACT_KILL_PROCESS, deadly, ARRAY_LEN(deadly)) |
		     add_memory(ctx) | add_processes(ctx) | add_sockets(ctx) |
		     add_multiplexers(ctx);
		if (rc == 0)
			rc = seccomp_load(ctx);
		seccomp_release(ctx);
	}
	return rc ? err_set(e, ERR_SYSTEM, "the daemon's own seccomp filter: %d", rc) : 0;
}

/* linux/landlock.h of Linux 6.12; Debian 12's ends at ABI 2. */
struct landlock_attr {
	uint64_t fs;
	uint64_t net;
	uint64_t scoped;
};
#define LANDLOCK_NET_BIND_CONNECT      3u
#define LANDLOCK_SCOPE_UNIX_AND_SIGNAL 3u
#define LANDLOCK_ABI_NET               4
#define LANDLOCK_ABI_SCOPE             6

/*
 * SECURITY: no rule is added, so what is handled is refused: TCP bind and connect, abstract unix
 * sockets and signals of anybody else. Kernels that cannot (before 6.7, as Debian 12's) do without:
 * there, a daemon that was taken over can turn an accepted connection into one of its own.
 */
static int install_landlock(struct err *e)
{
	struct landlock_attr attr = { .net = LANDLOCK_NET_BIND_CONNECT };
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);

	if (abi < LANDLOCK_ABI_NET)
		return 0;
	if (abi >= LANDLOCK_ABI_SCOPE)
		attr.scoped = LANDLOCK_SCOPE_UNIX_AND_SIGNAL;
	OWNED_FD int fd = (int)syscall(
		SYS_landlock_create_ruleset, &attr,
		abi >= LANDLOCK_ABI_SCOPE ? sizeof(attr) : offsetof(struct landlock_attr, scoped),
		0);

	if (fd < 0 || syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		return err_sys(e, "Landlock for the daemon");
	return 0;
}

int confine_self(struct err *e)
{
	const struct rlimit none = { 0, 0 };

	/* SECURITY: tokens and the issuer's key are in this memory: no core files, and nobody of
	 * the same user attaches or reads /proc/PID/mem. */
	if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
		return err_sys(e, "no core dumps");
	if (SANITIZED)
		return 0;
	/* Landlock first: the filter knows no such calls. */
	return install_landlock(e) < 0 ? -1 : install_filter(e);
}

size_t confine_self_open_files(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) < 0)
		return 1024;
	if (lim.rlim_cur < lim.rlim_max) {
		rlim_t before = lim.rlim_cur;

		lim.rlim_cur = lim.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &lim) < 0)
			lim.rlim_cur = before;
	}
	return lim.rlim_cur;
}
