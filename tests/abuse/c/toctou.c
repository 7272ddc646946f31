/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes what pointers lead to while calls are decided on. Prints per kind: attempts, and how
 * often something got through that no single reading of the arguments allows.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile struct clone_args args = { .exit_signal = SIGCHLD };
static char path[32] = "/mnt/data/x";
static volatile int stop;

static void *flip(void *unused)
{
	(void)unused;
	while (!stop) {
		args.flags = 0;
		memcpy(path, "/mnt/data/x", 12);
		args.flags = CLONE_NEWUSER;
		memcpy(path, "/etc/passwd", 12);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	time_t end = time(NULL) + (argc > 1 ? atoi(argv[1]) : 1) + 1;
	unsigned long tries = 0, mounts = 0, clones = 0, sockets = 0, opens = 0;
	pthread_t t;

	pthread_create(&t, NULL, flip, NULL);
	for (; time(NULL) < end; tries++) {
		if (mount("none", path, "tmpfs", 0, NULL) == 0)
			mounts++;
		long pid = syscall(SYS_clone3, &args, sizeof(args));

		if (pid == 0)
			_exit(0);
		if (pid > 0) {
			clones++;
			waitpid((pid_t)pid, NULL, 0);
		}
		int fd = (int)syscall(SYS_socket, (unsigned long)AF_PACKET | (tries << 32),
				      SOCK_RAW, 0);

		if (fd >= 0) {
			sockets++;
			close(fd);
		}
		fd = open(path, O_WRONLY);
		if (fd >= 0) {
			char name[64], target[64] = "";

			snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
			if (readlink(name, target, sizeof(target) - 1) > 0 &&
			    strncmp(target, "/etc", 4) == 0)
				opens++;
			close(fd);
		}
	}
	stop = 1;
	pthread_join(t, NULL);
	printf("mount %lu %lu\nclone3 %lu %lu\nsocket %lu %lu\nopen %lu %lu\n", tries, mounts,
	       tries, clones, tries, sockets, tries, opens);
	return 0;
}
