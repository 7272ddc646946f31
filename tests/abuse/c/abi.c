/* SPDX-License-Identifier: Apache-2.0 */
/* System calls by another ABI than the filter was made for: i386 (int 0x80) and x32. */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static long i386(long nr, long a, long b, long c)
{
	long ret;

	__asm__ volatile("int $0x80" : "=a"(ret) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory");
	return ret;
}

int main(int argc, char **argv)
{
	if (argc == 2 && strcmp(argv[1], "i386") == 0) {
		/* The path must lie below 4 GiB for a 32-bit call. */
		char *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

		if (low == MAP_FAILED)
			return 1;
		strcpy(low, "/etc/passwd");
		printf("open %ld\n", i386(5, (long)low, 0, 0));
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "i386-getpid") == 0) {
		printf("getpid %ld\n", i386(20, 0, 0, 0));
		return 0;
	}
	if (argc == 2 && strcmp(argv[1], "x32") == 0) {
		printf("getpid %ld\n", syscall(0x40000000 | SYS_getpid));
		return 0;
	}
	return 64;
}
