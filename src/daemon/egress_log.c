/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/egress_log.h"

#include "base/clock.h"
#include "base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILE_NAME       "egress.jsonl"
#define OLD_NAME        FILE_NAME ".1"
#define REOPEN_PAUSE_MS 5000

static struct {
	int dfd;
	int fd;
	uint64_t max_bytes;
	uint64_t size;
	int64_t reopen_at_ms;
	bool failed; /* and said so */
} file = { .dfd = -1, .fd = -1 };

static void failed(const char *what)
{
	if (!file.failed)
		log_error("%s: %s: %s; egress records are in this log only", FILE_NAME, what,
			  strerror(errno));
	file.failed = true;
}

static void open_file(void)
{
	struct stat st;

	if (clock_mono_ms() < file.reopen_at_ms)
		return;
	file.reopen_at_ms = clock_mono_ms() + REOPEN_PAUSE_MS;
	/* O_NONBLOCK: nothing that was put there instead of a file makes us wait. */
	file.fd = openat(file.dfd, FILE_NAME,
			 O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (file.fd < 0) {
		failed("open");
		return;
	}
	file.size = fstat(file.fd, &st) == 0 ? (uint64_t)st.st_size : 0;
}

static void rotate(void)
{
	close(file.fd);
	file.fd = -1;
	file.reopen_at_ms = 0;
	if (renameat(file.dfd, FILE_NAME, file.dfd, OLD_NAME) < 0) {
		failed("rotate");
		file.reopen_at_ms = clock_mono_ms() + REOPEN_PAUSE_MS;
		return;
	}
	open_file();
}

void egress_log_open(const char *dir, uint64_t max_bytes)
{
	file.max_bytes = max_bytes;
	file.reopen_at_ms = 0;
	if (!max_bytes)
		return;
	file.dfd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (file.dfd < 0)
		failed("open its directory");
}

void egress_log_write(const char *line, size_t len)
{
	struct iovec parts[] = { { (void *)line, len }, { (void *)"\n", 1 } };

	if (file.dfd < 0)
		return;
	if (file.fd < 0)
		open_file();
	if (file.fd >= 0 && file.size && file.size + len + 1 > file.max_bytes)
		rotate();
	if (file.fd < 0)
		return;
	ssize_t n = writev(file.fd, parts, 2);

	if (n == (ssize_t)len + 1) {
		file.size += len + 1;
		file.failed = false;
		return;
	}
	if (n >= 0)
		errno = ENOSPC;
	failed("write");
	/* Half a line would spoil the next one. */
	if (n > 0 && ftruncate(file.fd, (off_t)file.size) < 0)
		file.size += (uint64_t)n;
}

void egress_log_close(void)
{
	if (file.fd >= 0)
		close(file.fd);
	if (file.dfd >= 0)
		close(file.dfd);
	file.fd = file.dfd = -1;
}
