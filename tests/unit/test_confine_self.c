/* SPDX-License-Identifier: Apache-2.0 */
#include "base/sanitized.h"
#include "base/own.h"
#include "daemon/confine_self.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHILD_FAILED 1
#define CHILD_SELF   2 /* confine_self() itself */

/* Runs fn in a confined child; its wait status. fn returns 0 or what went wrong (an errno). */
static int confined(int (*fn)(void *arg), void *arg)
{
	pid_t pid = fork();
	int status = -1;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct err e = ERR_INIT;

		if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || confine_self(&e) < 0) {
			fprintf(stderr, "%s\n", e.msg);
			_exit(CHILD_SELF);
		}
		_exit(fn(arg));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return status;
}

/* ---- what must stay possible ---- */

static void *thread(void *arg)
{
	*(bool *)arg = true;
	return NULL;
}

static int ordinary_work(void *arg)
{
	char path[] = "/tmp/bivouac-confine-XXXXXX";
	bool ran = false;
	int pair[2];
	pthread_t id;

	(void)arg;
	int fd = mkstemp(path);

	if (fd < 0 || unlink(path) < 0 || pwrite(fd, "x", 1, 0) != 1 || fdatasync(fd) < 0)
		return CHILD_FAILED;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
	    send(pair[0], "x", 1, MSG_NOSIGNAL) != 1)
		return CHILD_FAILED;
	if (pthread_create(&id, NULL, thread, &ran) != 0 || pthread_join(id, NULL) != 0 || !ran)
		return CHILD_FAILED;
	void *big = malloc(64u << 20);

	if (!big)
		return CHILD_FAILED;
	memset(big, 1, 64u << 20);
	free(big);
	return 0;
}

static void test_ordinary_work(void **state)
{
	(void)state;
	assert_int_equal(confined(ordinary_work, NULL), 0);
}

static int aborts(void *arg)
{
	(void)arg;
	abort();
}

/* assert() must end the process as ever, not with SIGSYS. */
static void test_abort(void **state)
{
	int status;

	(void)state;
	status = confined(aborts, NULL);
	assert_true(WIFSIGNALED(status));
	assert_int_equal(WTERMSIG(status), SIGABRT);
	assert_false(WCOREDUMP(status));
}

static int limits(void *arg)
{
	struct rlimit core;

	(void)arg;
	return getrlimit(RLIMIT_CORE, &core) < 0 || core.rlim_max ? CHILD_FAILED : 0;
}

static void test_no_core(void **state)
{
	(void)state;
	assert_int_equal(confined(limits, NULL), 0);
}

/* ---- what kills ---- */

struct call {
	const char *name;
	long nr;
	long args[6];
};

static int make_call(void *arg)
{
	const struct call *c = arg;

	errno = 0;
	if (syscall(c->nr, c->args[0], c->args[1], c->args[2], c->args[3], c->args[4],
		    c->args[5]) >= 0)
		return 0;
	return errno;
}

static void test_deadly(void **state)
{
	static char *const no_args[] = { NULL };
	struct call calls[] = {
		{ "execve", SYS_execve, { (long)"/bin/true", (long)no_args, (long)no_args } },
		{ "execveat", SYS_execveat, { -1, (long)"/bin/true", (long)no_args, 0, 0 } },
		{ "fork", SYS_fork, { 0 } },
		{ "vfork", SYS_vfork, { 0 } },
		{ "clone as fork", SYS_clone, { SIGCHLD } },
		{ "clone with namespaces", SYS_clone, { CLONE_NEWUSER | SIGCHLD } },
		{ "ptrace", SYS_ptrace, { 0 } },
		{ "unshare", SYS_unshare, { CLONE_NEWUSER } },
		{ "setns", SYS_setns, { -1, 0 } },
		{ "mount", SYS_mount, { 0 } },
		{ "pivot_root", SYS_pivot_root, { 0 } },
		{ "bpf", SYS_bpf, { 0 } },
		{ "io_uring_setup", SYS_io_uring_setup, { 1, 0 } },
		{ "keyctl", SYS_keyctl, { 0 } },
		{ "userfaultfd", SYS_userfaultfd, { 0 } },
		{ "perf_event_open", SYS_perf_event_open, { 0 } },
		{ "kexec_load", SYS_kexec_load, { 0 } },
		{ "init_module", SYS_init_module, { 0 } },
		{ "process_vm_readv", SYS_process_vm_readv, { 0 } },
		{ "setuid", SYS_setuid, { 0 } },
		{ "raw socket", SYS_socket, { AF_INET, SOCK_RAW, IPPROTO_ICMP } },
		{ "raw v6 socket", SYS_socket, { AF_INET6, SOCK_RAW | SOCK_CLOEXEC, 58 } },
		{ "packet socket", SYS_socket, { AF_PACKET, SOCK_DGRAM, 0 } },
		{ "netlink socket", SYS_socket, { AF_NETLINK, SOCK_DGRAM, 0 } },
		{ "vsock", SYS_socket, { AF_VSOCK, SOCK_STREAM, 0 } },
		{ "alg socket", SYS_socket, { AF_ALG, SOCK_SEQPACKET, 0 } },
		{ "a family beyond all", SYS_socket, { 1000, SOCK_STREAM, 0 } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
		int status = confined(make_call, &calls[i]);

		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGSYS)
			fail_msg("%s: status %#x", calls[i].name, (unsigned)status);
	}
}

/* ---- what is refused ---- */

static void test_refused(void **state)
{
	struct call calls[] = {
		{ "TCP socket", SYS_socket, { AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0 } },
		{ "UDP socket", SYS_socket, { AF_INET, SOCK_DGRAM, 0 } },
		{ "TCP6 socket", SYS_socket, { AF_INET6, SOCK_STREAM, 0 } },
		{ "executable memory",
		  SYS_mmap,
		  { 0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0 } },
		{ "mprotect", SYS_mprotect, { (long)&make_call & ~4095L, 4096, PROT_EXEC } },
		{ "kill", SYS_kill, { getppid(), 0 } },
		{ "tgkill of another", SYS_tgkill, { getppid(), getppid(), 0 } },
		{ "bind", SYS_bind, { -1, 0, 0 } },
		{ "tty input", SYS_ioctl, { 0, 0x5412, 0 } },
		{ "socket filter", SYS_setsockopt, { -1, SOL_SOCKET, SO_ATTACH_FILTER, 0, 0 } },
		{ "fast open", SYS_sendto, { -1, 0, 0, MSG_FASTOPEN, 0, 0 } },
		{ "dumpable again", SYS_prctl, { PR_SET_DUMPABLE, 1, 0, 0, 0 } },
		{ "another process's limits", SYS_prlimit64, { getppid(), RLIMIT_CPU, 0, 0 } },
		{ "inotify", SYS_inotify_init1, { 0 } },
		{ "a number of no call", 1000, { 0 } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
		int status = confined(make_call, &calls[i]);
		int error = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

		if (error != ENOSYS && error != EACCES)
			fail_msg("%s: status %#x", calls[i].name, (unsigned)status);
	}
}

/* ---- an accepted connection turned around ---- */

static int local_listener(struct sockaddr_in *sa)
{
	socklen_t len = sizeof(*sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*sa = (struct sockaddr_in){ .sin_family = AF_INET };
	sa->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)sa, sizeof(*sa)), 0);
	assert_int_equal(listen(fd, 5), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)sa, &len), 0);
	return fd;
}

struct reuse {
	int fd;
	struct sockaddr_in to;
};

static int turn_around(void *arg)
{
	const struct reuse *r = arg;
	struct sockaddr nowhere = { .sa_family = AF_UNSPEC };

	if (connect(r->fd, &nowhere, sizeof(nowhere)) < 0)
		return 0; /* refused even that */
	if (connect(r->fd, (const struct sockaddr *)&r->to, sizeof(r->to)) == 0)
		return CHILD_FAILED;
	return errno == EACCES ? 0 : CHILD_FAILED;
}

static void test_connections_stay_what_they_are(void **state)
{
	struct sockaddr_in sa;
	struct reuse reuse;

	(void)state;
	/* LANDLOCK_CREATE_RULESET_VERSION; TCP came with ABI 4 (Linux 6.7). */
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < 4) {
		print_message("# this kernel's Landlock knows no TCP\n");
		return;
	}
	OWNED_FD int door = local_listener(&sa);
	OWNED_FD int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	assert_int_equal(connect(client, (struct sockaddr *)&sa, sizeof(sa)), 0);
	OWNED_FD int accepted = accept(door, NULL, NULL);

	assert_true(accepted >= 0);
	reuse = (struct reuse){ accepted, sa };
	assert_int_equal(confined(turn_around, &reuse), 0);
}

static void test_open_files(void **state)
{
	struct rlimit lim;

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &lim), 0);
	rlim_t hard = lim.rlim_max;

	lim.rlim_cur = 64;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lim), 0);
	assert_int_equal(confine_self_open_files(), hard);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &lim), 0);
	assert_int_equal(lim.rlim_cur, hard);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ordinary_work),
		cmocka_unit_test(test_abort),
		cmocka_unit_test(test_no_core),
#if !SANITIZED /* a sanitizer's runtime cannot live under the filter */
		cmocka_unit_test(test_deadly),
		cmocka_unit_test(test_refused),
		cmocka_unit_test(test_connections_stay_what_they_are),
#endif
		cmocka_unit_test(test_open_files),
	};

#if SANITIZED
	(void)test_deadly;
	(void)test_refused;
	(void)test_connections_stay_what_they_are;
#endif
	return cmocka_run_group_tests_name("confine_self", tests, NULL, NULL);
}
