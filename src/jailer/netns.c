/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/netns.h"

#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

int netns_current(struct err *e)
{
	int fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	return fd < 0 ? err_sys(e, "open the network namespace") : fd;
}

static void come_home(int home_fd)
{
	if (setns(home_fd, CLONE_NEWNET) < 0)
		abort();
}

int netns_new(int home_fd, struct err *e)
{
	if (unshare(CLONE_NEWNET) < 0)
		return err_sys(e, "make a network namespace");
	int fd = netns_current(e);

	come_home(home_fd);
	return fd;
}

int netns_of_process(int pidfd, int home_fd, struct err *e)
{
	if (setns(pidfd, CLONE_NEWNET) < 0)
		return errno == ESRCH ? err_set(e, ERR_NOT_FOUND, "the sandbox has ended")
				      : err_sys(e, "enter the sandbox's network namespace");
	int fd = netns_current(e);

	come_home(home_fd);
	return fd;
}

int netns_run(int ns_fd, int home_fd, int (*fn)(void *arg, struct err *e), void *arg, struct err *e)
{
	if (setns(ns_fd, CLONE_NEWNET) < 0)
		return err_sys(e, "enter a network namespace");
	int rc = fn(arg, e);

	come_home(home_fd);
	return rc;
}

int sysctl_set(const char *name, const char *value, bool must, struct err *e)
{
	struct err failed = ERR_INIT;
	char path[128];

	snprintf(path, sizeof(path), "/proc/sys/net/%s", name);
	if (fd_write_once(AT_FDCWD, path, value, &failed) == 0 ||
	    (!must && failed.errnum == ENOENT))
		return 0;
	*e = failed;
	return -1;
}
