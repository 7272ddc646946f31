/* SPDX-License-Identifier: Apache-2.0 */

/*
 * bivouac-zygote-python: an embedded CPython with its libraries loaded, forked to make a kernel.
 *
 * Started by the jailer in the image's root with three descriptors (jailer/zygote_proto.h) and
 * three capabilities. Single-threaded for life. Per request it forks a process into a sandbox:
 *
 *   zygote ──vfork──▶ go-between ──fork──▶ kernel
 *
 * The zygote points its children at the sandbox's PID namespace, so the go-between (which shares
 * the zygote's memory and only forks and exits) and the kernel are born inside it. When the
 * go-between exits, the kernel becomes a child of the sandbox's PID 1: the agent reaps it and knows
 * how it ended, and nothing of a sandbox depends on the zygote's life. Page tables are copied once.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/fdio.h"
#include "base/own.h"
#include "jailer/confine.h"
#include "jailer/landlock.h"
#include "jailer/zygote_proto.h"
#include "str_hash.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE_PAGE (2ul << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#define KERNEL_SOCK_FD 100
#define DRIVER_DIR     L"/opt/bivouac"

static PyObject *serve_fn;
static int own_pid_ns_fd;

/* The text of the current Python exception, for the jailer's log. */
static int err_python(struct err *e, const char *what)
{
	PyObject *type, *value, *trace;

	PyErr_Fetch(&type, &value, &trace);
	PyErr_NormalizeException(&type, &value, &trace);
	PyObject *text = value ? PyObject_Repr(value) : NULL;
	const char *utf8 = text ? PyUnicode_AsUTF8(text) : NULL;

	err_set(e, ERR_INTERNAL, "%s: %s", what, utf8 ? utf8 : "unknown Python error");
	PyErr_Clear();
	Py_XDECREF(text);
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(trace);
	return -1;
}

static int start_python(struct err *e)
{
	PyConfig config;

	PyConfig_InitPythonConfig(&config);
	config.use_environment = 0;
	config.user_site_directory = 0;
	config.parse_argv = 0;
	config.install_signal_handlers = 1;
	config.write_bytecode = 0;
	config.buffered_stdio = 1;
	PyStatus status = PyConfig_SetString(&config, &config.program_name, L"/usr/bin/python3");

	if (!PyStatus_Exception(status))
		status = PyConfig_SetString(&config, &config.executable, L"/usr/bin/python3");
	if (!PyStatus_Exception(status))
		status = Py_InitializeFromConfig(&config);
	PyConfig_Clear(&config);
	if (PyStatus_Exception(status))
		return err_set(e, ERR_INTERNAL, "python does not start: %s", status.err_msg);
	PyObject *path = PySys_GetObject("path"); /* borrowed */
	PyObject *dir = PyUnicode_FromWideChar(DRIVER_DIR, -1);

	if (!path || !dir || PyList_Append(path, dir) < 0)
		return err_python(e, "sys.path");
	Py_DECREF(dir);
	PyObject *module = PyImport_ImportModule("bivouac_kernel");

	if (!module)
		return err_python(e, "import bivouac_kernel");
	PyObject *done = PyObject_CallMethod(module, "prepare", NULL);

	if (!done)
		return err_python(e, "prepare");
	Py_DECREF(done);
	serve_fn = PyObject_GetAttrString(module, "serve");
	Py_DECREF(module);
	return serve_fn ? 0 : err_python(e, "bivouac_kernel.serve");
}

/*
 * What the imports freed waits unsorted in malloc's lists; the first larger request sorts it into
 * bins and so writes to the head of every free chunk. Here it is done once, in a kernel it would
 * unshare two megabytes of pages. The size is past the small bins and below the threshold of mmap.
 */
static void settle_heap(void)
{
	for (int i = 0; i < 16; i++) {
		void *volatile p = malloc(100 * 1024);

		free(p);
	}
}

/*
 * Forking copies page tables: 8 us for each MiB in small pages, next to nothing in huge ones. A
 * kernel that writes still copies 4 KiB at a time. Best effort: not every kernel can.
 */
static void collapse_heap(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];

	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long from, to, inode;
		char perms[8];

		if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &from, &to, perms, &inode) != 4 ||
		    inode != 0 || perms[0] != 'r' || perms[1] != 'w')
			continue;
		from = (from + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
		to &= ~(HUGE_PAGE - 1);
		for (; from < to; from += HUGE_PAGE)
			madvise((void *)from, HUGE_PAGE, MADV_COLLAPSE);
	}
	if (maps)
		fclose(maps);
}

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
	if (dup3(fds[1], KERNEL_SOCK_FD, O_CLOEXEC) < 0 ||
	    dup3(ZYGOTE_FILTER_FD, KERNEL_SOCK_FD + 1, O_CLOEXEC) < 0 ||
	    syscall(SYS_close_range, 3, KERNEL_SOCK_FD - 1, 0) < 0 ||
	    syscall(SYS_close_range, KERNEL_SOCK_FD + 2, ~0U, 0) < 0)
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
	    confine_install_filter(KERNEL_SOCK_FD + 1, NULL, e) < 0)
		return -1;
	close(KERNEL_SOCK_FD + 1);
	/* Changing ids made the process undumpable; its own /proc/self is its own to read. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	setsid();
	prctl(PR_SET_NAME, "python3");
	return 0;
}

/* The new kernel; does not return. */
static void kernel_main(const struct zygote_request *rq, const int *fds, size_t fd_count)
{
	struct err e = ERR_INIT;

	if (enter_sandbox(rq, fds, fd_count, &e) < 0)
		_exit(120);
	PyOS_AfterFork_Child();
	str_hash_reseed();
	PyObject *done = PyObject_CallFunction(serve_fn, "i", KERNEL_SOCK_FD);

	_exit(done ? 0 : 121);
}

static int fork_kernel(const struct zygote_request *rq, const int *fds, size_t fd_count,
		       struct err *e)
{
	int status = 0;

	if (setns(fds[0], CLONE_NEWPID) < 0)
		return err_sys(e, "point children at the sandbox");
	PyOS_BeforeFork();
	pid_t between = vfork();

	if (between == 0) {
		/* Shares our memory and stack: fork, and nothing else. */
		pid_t kernel = fork();

		if (kernel == 0)
			kernel_main(rq, fds, fd_count);
		_exit(kernel < 0 ? 1 : 0);
	}
	int vfork_errno = errno;

	PyOS_AfterFork_Parent();
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

static int serve_jailer(void)
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

		if (n != (ssize_t)sizeof(rq) || fd_count != 2 + (size_t)rq.cgroup_fds)
			err_set(&reply.err, ERR_PROTOCOL, "request of %zd bytes, %zu descriptors",
				n, fd_count);
		else
			fork_kernel(&rq, fds, fd_count, &reply.err);
		for (size_t i = 0; i < fd_count; i++)
			close(fds[i]);
		reply.duration_us = (uint64_t)((clock_mono_ns() - started) / 1000);
		if (fd_send(ZYGOTE_SOCK_FD, &reply, sizeof(reply), NULL, 0) < 0)
			return 1;
	}
}

int main(int argc, char **argv)
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
	str_hash_install();
	if (ready.err.code == ERR_NONE && start_python(&ready.err) == 0)
		check_single_thread(&ready.err);
	settle_heap();
	collapse_heap();
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
	return serve_jailer();
}
