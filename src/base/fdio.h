/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * fdio: descriptors, small files and descriptor passing. Everything opens with O_CLOEXEC.
 */

#include "base/buf.h"
#include "base/err.h"

#include <sys/types.h>

#define FDS_MAX 16

/** fd_write_all: blocking write of everything. */
int fd_write_all(int fd, const void *data, size_t len, struct err *e);
/** fd_read_file: whole file below dirfd (AT_FDCWD allowed) of at most max bytes,
 * appended to out. */
int fd_read_file(int dirfd, const char *path, size_t max, struct buf *out, struct err *e);
/** fd_write_file: creates or replaces atomically (temporary name, fsync, rename) with this mode. */
int fd_write_file(int dirfd, const char *path, const void *data, size_t len, mode_t mode,
		  struct err *e);
/** fd_write_once: open, one write, close: for /proc and cgroup files. */
int fd_write_once(int dirfd, const char *path, const char *text, struct err *e);
/** fd_mkdirs: mkdir -p. */
int fd_mkdirs(const char *path, mode_t mode, struct err *e);
int fd_set_nonblock(int fd, bool on);

/**
 * fd_send: one sendmsg with descriptors; returns bytes sent, -1 with errno (EAGAIN when it would
 * block). fd_recv: one recvmsg; up to *fd_count descriptors are stored (the rest closed by the
 * kernel) and *fd_count is set to how many came. All arrive with close-on-exec. Returns bytes, 0 at
 * end, -1 errno.
 */
ssize_t fd_send(int sock, const void *data, size_t len, const int *fds, size_t fd_count);
ssize_t fd_recv(int sock, void *data, size_t len, int *fds, size_t *fd_count);

/** fd_unix_connect: non-blocking stream connection; paths over 107 bytes do not fit the system's
 * address. */
int fd_unix_connect(const char *path, struct err *e);
