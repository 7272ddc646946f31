/* SPDX-License-Identifier: Apache-2.0 */
/* Takes memory of a kind until it is refused or killed; prints what it got. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define STEP (1u << 20)

static size_t anon(size_t max, int flags)
{
	size_t got = 0;

	for (; got < max; got += STEP) {
		char *p = mmap(NULL, STEP, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

		if (p == MAP_FAILED)
			break;
		memset(p, 1, STEP);
	}
	return got;
}

static size_t file(int fd, size_t max)
{
	static char block[STEP];
	size_t got = 0;

	memset(block, 1, sizeof(block));
	for (; got < max; got += STEP)
		if (write(fd, block, STEP) != STEP)
			break;
	return got;
}

static size_t sysv(size_t max)
{
	size_t got = 0;

	for (; got < max; got += 4 * STEP) {
		int id = shmget(IPC_PRIVATE, 4 * STEP, IPC_CREAT | 0600);
		char *p = id < 0 ? (char *)-1 : shmat(id, NULL, 0);

		if (p == (char *)-1)
			break;
		memset(p, 1, 4 * STEP);
	}
	return got;
}

static size_t pipes(size_t max)
{
	size_t got = 0;
	int p[2];

	while (got < max && pipe2(p, O_NONBLOCK) == 0) {
		fcntl(p[1], F_SETPIPE_SZ, STEP);
		got += file(p[1], STEP);
	}
	return got;
}

static size_t unix_sockets(size_t max)
{
	static char block[65536];
	size_t got = 0;
	int s[2];

	while (got < max && socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s) == 0)
		for (ssize_t n; (n = write(s[0], block, sizeof(block))) > 0;)
			got += (size_t)n;
	return got;
}

static size_t locked(size_t max)
{
	size_t got = 0;

	for (; got < max; got += STEP) {
		char *p = mmap(NULL, STEP, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			       0);

		if (p == MAP_FAILED || mlock(p, STEP) < 0)
			break;
	}
	return got;
}

int main(int argc, char **argv)
{
	const char *kind = argc > 2 ? argv[1] : "";
	size_t max = argc > 2 ? (size_t)atol(argv[2]) * STEP : 0;
	size_t got = 0;

	if (strcmp(kind, "anon") == 0)
		got = anon(max, 0);
	else if (strcmp(kind, "locked-map") == 0)
		got = anon(max, MAP_LOCKED);
	else if (strcmp(kind, "huge-map") == 0)
		got = anon(max, MAP_HUGETLB);
	else if (strcmp(kind, "memfd") == 0)
		got = file(memfd_create("hog", 0), max);
	else if (strcmp(kind, "huge-memfd") == 0)
		got = memfd_create("hog", MFD_HUGETLB) < 0 ? 0 : max;
	else if (strcmp(kind, "sysv") == 0)
		got = sysv(max);
	else if (strcmp(kind, "pipes") == 0)
		got = pipes(max);
	else if (strcmp(kind, "unix") == 0)
		got = unix_sockets(max);
	else if (strcmp(kind, "mlock") == 0)
		got = locked(max);
	else if (strcmp(kind, "mlockall") == 0)
		got = mlockall(MCL_CURRENT | MCL_FUTURE) < 0 ? 0 : anon(max, 0);
	else if (strcmp(kind, "secret") == 0)
		got = syscall(447, 0) < 0 ? 0 : max;
	else if (strncmp(kind, "file:", 5) == 0)
		got = file(open(kind + 5, O_CREAT | O_WRONLY | O_APPEND, 0600), max);
	else
		return 64;
	printf("%zu MiB, then %s\n", got / STEP, strerrorname_np(errno));
	fflush(stdout);
	if (argc > 3)
		pause(); /* so that the host can look */
	return 0;
}
