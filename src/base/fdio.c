/* SPDX-License-Identifier: Apache-2.0 */
#include "base/fdio.h"

#include "base/own.h"
#include "base/rand.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int fd_write_all(int fd, const void *data, size_t len, struct err *e)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, "write");
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int fd_read_file(int dirfd, const char *path, size_t max, struct buf *out, struct err *e)
{
	OWNED_FD int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);

	if (fd < 0)
		return err_sys(e, "open %s", path);
	for (size_t total = 0;;) {
		char chunk[4096];
		ssize_t n = read(fd, chunk, sizeof(chunk));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return err_sys(e, "read %s", path);
		if (n == 0)
			return 0;
		total += (size_t)n;
		if (total > max)
			return err_set(e, ERR_TOO_LARGE, "%s has more than %zu bytes", path, max);
		if (!buf_add(out, chunk, (size_t)n))
			return err_set(e, ERR_NOMEM, "reading %s", path);
	}
}

int fd_write_file(int dirfd, const char *path, const void *data, size_t len, mode_t mode,
		  struct err *e)
{
	char tmp[300];

	if (snprintf(tmp, sizeof(tmp), "%s.%016llx", path, (unsigned long long)rand_u64()) >=
	    (int)sizeof(tmp))
		return err_set(e, ERR_INTERNAL, "path too long: %s", path);
	OWNED_FD int fd = openat(dirfd, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);

	if (fd < 0)
		return err_sys(e, "create %s", tmp);
	if (fd_write_all(fd, data, len, e) < 0 || fsync(fd) < 0 ||
	    renameat(dirfd, tmp, dirfd, path) < 0) {
		err_sys(e, "write %s", path);
		unlinkat(dirfd, tmp, 0);
		return -1;
	}
	return 0;
}

int fd_write_once(int dirfd, const char *path, const char *text, struct err *e)
{
	OWNED_FD int fd = openat(dirfd, path, O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, "open %s", path);
	if (write(fd, text, strlen(text)) < 0)
		return err_sys(e, "write \"%s\" to %s", text, path);
	return 0;
}

int fd_mkdirs(const char *path, mode_t mode, struct err *e)
{
	OWNED_MEM char *copy = strdup(path);

	if (!copy)
		return err_sys(e, "mkdir %s", path);
	for (char *p = copy + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(copy, 0755) < 0 && errno != EEXIST)
			return err_sys(e, "mkdir %s", copy);
		*p = '/';
	}
	if (mkdir(copy, mode) < 0 && errno != EEXIST)
		return err_sys(e, "mkdir %s", copy);
	return 0;
}

int fd_set_nonblock(int fd, bool on)
{
	int flags = fcntl(fd, F_GETFL);

	if (flags < 0)
		return -1;
	return fcntl(fd, F_SETFL, on ? flags | O_NONBLOCK : flags & ~O_NONBLOCK);
}

ssize_t fd_send(int sock, const void *data, size_t len, const int *fds, size_t fd_count)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control;
	struct iovec iov = { (void *)data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };

	if (fd_count > FDS_MAX) {
		errno = EINVAL;
		return -1;
	}
	if (fd_count) {
		msg.msg_control = control.space;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
	}
	for (;;) {
		ssize_t n = sendmsg(sock, &msg, MSG_NOSIGNAL);

		if (n >= 0 || errno != EINTR)
			return n;
	}
}

ssize_t fd_recv(int sock, void *data, size_t len, int *fds, size_t *fd_count)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int) * FDS_MAX)];
	} control;
	struct iovec iov = { data, len };
	struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
	size_t room = fd_count ? *fd_count : 0;
	ssize_t n;

	if (room > FDS_MAX)
		room = FDS_MAX;
	if (fd_count)
		*fd_count = 0;
	msg.msg_control = room ? control.space : NULL;
	msg.msg_controllen = room ? CMSG_SPACE(sizeof(int) * room) : 0;
	do {
		n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return n;
	for (struct cmsghdr *c = room ? CMSG_FIRSTHDR(&msg) : NULL; c; c = CMSG_NXTHDR(&msg, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);

		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
			if (*fd_count < room)
				fds[(*fd_count)++] = fd;
			else
				close(fd);
		}
	}
	return n;
}

int fd_unix_connect(const char *path, struct err *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };

	if (!str_copy(str_from(path), addr.sun_path, sizeof(addr.sun_path)))
		return err_set(e, ERR_INVALID, "socket path is longer than %zu bytes: %s",
			       sizeof(addr.sun_path) - 1, path);
	OWNED_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_sys(e, "socket");
	if (connect(fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(e, "connect to %s", path);
	return take_fd(fd);
}
