/* SPDX-License-Identifier: Apache-2.0 */
#include "zygote.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "jailer/confine.h"
#include "jailer/landlock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int own_pid_ns_fd;

/* setns, fork and friends demand one thread; a library that starts one must not go unnoticed. */
static int check_single_thread(struct err *e)
{
	struct stat st;

	/* Link count of the task directory: ".", ".." and one per thread. */
	if (stat("/proc/self/task", &st) == 0 && st.st_nlink > 3)
		return err_set(e, ERR_INTERNAL, "an import started %d threads",
			       (int)st.st_nlink - 3);
	return 0;
}

static int enter_sandbox(const struct zygote_request *rq, const int *fds, size_t fd_count,
			 struct err *e)
{
	/* SECURITY: limits first, so that there is no moment outside them. */
	for (size_t i = 2; i < fd_count; i++)
		if (write(fds[i], "0", 1) != 1)
			return err_sys(e, "join cgroup");
	if (setns(fds[0], CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS |
				  CLONE_NEWCGROUP) < 0)
		return err_sys(e, "enter namespaces");
	/* SECURITY: of all descriptors only the socket to the agent goes on, and the filter until
	 * it is loaded. */
	if (dup3(fds[1], ZYGOTE_KERNEL_FD, O_CLOEXEC) < 0 ||
	    dup3(ZYGOTE_FILTER_FD, ZYGOTE_KERNEL_FD + 1, O_CLOEXEC) < 0 ||
	    syscall(SYS_close_range, 3, ZYGOTE_KERNEL_FD - 1, 0) < 0 ||
	    syscall(SYS_close_range, ZYGOTE_KERNEL_FD + 2, ~0U, 0) < 0)
		return err_sys(e, "descriptors");
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd < 3; fd++)
		if (null_fd < 0 || dup2(null_fd, fd) < 0)
			return err_sys(e, "/dev/null");
	close(null_fd);
	/* The kernel, not the agent, is what the out-of-memory killer should take. */
	int oom = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (oom >= 0) {
		(void)!write(oom, "500", 3);
		close(oom);
	}
	if (confine_become_session(&rq->limits, e) < 0 || landlock_confine(e) < 0 ||
	    confine_install_filter(ZYGOTE_KERNEL_FD + 1, NULL, e) < 0)
		return -1;
	close(ZYGOTE_KERNEL_FD + 1);
	setsid();
	return 0;
}

/* The new kernel; does not return. */
static void kernel_main(const struct zygote_ops *ops, const struct zygote_request *rq,
			const int *fds, size_t fd_count)
{
	struct err e = ERR_INIT;

	if (enter_sandbox(rq, fds, fd_count, &e) < 0)
		_exit(120);
	_exit(ops->kernel(rq));
}

static int fork_kernel(const struct zygote_ops *ops, const struct zygote_request *rq,
		       const int *fds, size_t fd_count, struct err *e)
{
	int status = 0;

	if (setns(fds[0], CLONE_NEWPID) < 0)
		return err_sys(e, "point children at the sandbox");
	if (ops->before_fork)
		ops->before_fork();
	pid_t between = vfork();

	if (between == 0) {
		/* Shares our memory and stack: fork, and nothing else. */
		pid_t kernel = fork();

		if (kernel == 0)
			kernel_main(ops, rq, fds, fd_count);
		_exit(kernel < 0 ? 1 : 0);
	}
	int vfork_errno = errno;

	if (ops->after_fork)
		ops->after_fork();
	/* Reaped at once: a sandbox whose PID 1 dies waits for every process that
	 * was born in it. */
	while (between > 0 && waitpid(between, &status, 0) < 0 && errno == EINTR)
		;
	if (setns(own_pid_ns_fd, CLONE_NEWPID) < 0) {
		/* Without the way back the next child would be born in the wrong sandbox. */
		abort();
	}
	errno = vfork_errno;
	if (between < 0)
		return err_sys(e, "fork");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return err_set(e, ERR_UNAVAILABLE, "fork in the sandbox failed (status %d)",
			       status);
	return 0;
}

static int serve_jailer(const struct zygote_ops *ops)
{
	for (;;) {
		struct zygote_request rq;
		int fds[FDS_MAX];
		size_t fd_count = FDS_MAX;
		ssize_t n = fd_recv(ZYGOTE_SOCK_FD, &rq, sizeof(rq), fds, &fd_count);
		int64_t started = clock_mono_ns();

		if (n <= 0)
			return 0;
		struct zygote_reply reply = { .tag = rq.tag };

		rq.language[sizeof(rq.language) - 1] = '\0';
		if (n != (ssize_t)sizeof(rq) || fd_count != 2 + (size_t)rq.cgroup_fds)
			err_set(&reply.err, ERR_PROTOCOL, "request of %zd bytes, %zu descriptors",
				n, fd_count);
		else if (!ops->check || ops->check(&rq, &reply.err) == 0)
			fork_kernel(ops, &rq, fds, fd_count, &reply.err);
		for (size_t i = 0; i < fd_count; i++)
			close(fds[i]);
		reply.duration_us = (uint64_t)((clock_mono_ns() - started) / 1000);
		if (fd_send(ZYGOTE_SOCK_FD, &reply, sizeof(reply), NULL, 0) < 0)
			return 1;
	}
}

int zygote_main(int argc, char **argv, const struct zygote_ops *ops)
{
	struct zygote_reply ready = { 0 };
	int64_t started = clock_mono_ns();
	bool notify = argc == 2 && strcmp(argv[1], "--notify") == 0;
	int listener = -1;

	prctl(PR_SET_PDEATHSIG,
	      SIGKILL); /* exec of a file with other rights would have cleared it */
	prctl(PR_SET_NAME, "bivouac-zygote");
	fcntl(ZYGOTE_SOCK_FD, F_SETFD, FD_CLOEXEC);
	fcntl(ZYGOTE_FILTER_FD, F_SETFD, FD_CLOEXEC);
	fcntl(ZYGOTE_OWN_FILTER_FD, F_SETFD, FD_CLOEXEC);
	own_pid_ns_fd = open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC);
	if (own_pid_ns_fd < 0)
		err_sys(&ready.err, "own PID namespace");
	if (ready.err.code == ERR_NONE && ops->load(&ready.err) == 0)
		check_single_thread(&ready.err);
	prctl(PR_SET_DUMPABLE, 0);
	if (ready.err.code == ERR_NONE)
		confine_install_filter(ZYGOTE_OWN_FILTER_FD, notify ? &listener : NULL, &ready.err);
	close(ZYGOTE_OWN_FILTER_FD);
	ready.duration_us = (uint64_t)((clock_mono_ns() - started) / 1000);
	if (fd_send(ZYGOTE_SOCK_FD, &ready, sizeof(ready), &listener, listener >= 0 ? 1 : 0) < 0 ||
	    ready.err.code != ERR_NONE)
		return 1;
	/* SECURITY: no kernel may hold it: it decides about refused calls. */
	if (listener >= 0)
		close(listener);
	return serve_jailer(ops);
}
