/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_shell.h"

#include "base/buf.h"
#include "base/kernel_proto.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

/* As bash words it. */
static int complain(const char *name, int errnum)
{
	bool by_path = strchr(name, '/') != NULL;
	struct stat st;

	if (errnum == EACCES && by_path && stat(name, &st) == 0 && S_ISDIR(st.st_mode))
		errnum = EISDIR;
	if (errnum == ENOENT && !by_path)
		dprintf(2, "bash: %s: command not found\n", name);
	else
		dprintf(2, "bash: %s: %s\n", name, strerror(errnum));
	return errnum == ENOENT ? 127 : 126;
}

static int read_words(const char *driver_pid, const char *fd_text, struct buf *ret)
{
	char path[64];
	uint64_t pid, fd;

	if (!str_to_u64(str_from(driver_pid), INT_MAX, &pid) ||
	    !str_to_u64(str_from(fd_text), INT_MAX, &fd))
		return -1;
	snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, (int)fd);
	OWNED_FD int file = open(path, O_RDONLY | O_CLOEXEC);

	for (;;) {
		if (file < 0 || !buf_reserve(ret, 65536))
			return -1;
		ssize_t n = read(file, ret->ptr + ret->len, 65536);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 || !ret->len || ret->ptr[ret->len - 1] != '\0' ? -1 : 0;
		ret->len += (size_t)n;
	}
}

/* Returns only if the program cannot be started: the exit code. */
static int run_words(struct str words)
{
	size_t count = 0;
	const char *at = words.ptr;

	for (size_t i = 0; i < words.len; i++)
		count += words.ptr[i] == '\0';
	OWNED_MEM char **argv = calloc(count + 1, sizeof(*argv));

	if (!argv || !count)
		return complain(words.ptr, ENOMEM);
	for (size_t i = 0; i < count; i++) {
		argv[i] = (char *)at;
		at += strlen(at) + 1;
	}
	execvp(argv[0], argv);
	return complain(argv[0], errno);
}

int exec_main(const char *driver_pid, const char *fd)
{
	struct buf words;
	int code = 126;

	buf_init(&words, KERNEL_FRAME_MAX + 65536);
	if (read_words(driver_pid, fd, &words) < 0)
		dprintf(2, "bash: the command's words cannot be read\n");
	else
		code = run_words(buf_str(&words));
	buf_done(&words);
	return code;
}
