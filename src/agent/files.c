/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/own.h"
#include "base/rand.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define DEPTH_MAX 64

struct file_op {
	struct list node;
	uint64_t op;
	bool writing;
	int fd;
	uint64_t size; /* reading: bytes promised; writing: bytes so far */
	uint64_t size_max;
	uint64_t at;
	uint32_t credit; /* reading: bytes we may still send */
	char path[AGENT_PATH_MAX + 1];
};

/*
 * SECURITY: every path from outside is opened here and only here: relative to /mnt/data, never
 * leaving it by "..", by an absolute or magic link, or onto another mount, whatever the sandbox's
 * code does to the tree at the same time.
 */
static int open_beneath(struct agent *a, const char *path, uint64_t flags, mode_t mode)
{
	struct open_how how = {
		.flags = flags | O_CLOEXEC,
		.mode = mode,
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
	};

	for (int i = 0; i < 16; i++) {
		long fd = syscall(SYS_openat2, a->data_dfd, *path ? path : ".", &how, sizeof(how));

		/* EAGAIN: something was renamed meanwhile and ".." could not be checked. */
		if (fd >= 0 || (errno != EAGAIN && errno != EINTR))
			return (int)fd;
	}
	return -1;
}

/* Copies a path; refuses what no client has a reason to send. */
static int take_path(struct str s, bool allow_root, char path[AGENT_PATH_MAX + 1], struct err *e)
{
	size_t depth = 0;

	if (!str_copy(s, path, AGENT_PATH_MAX + 1))
		return err_set(e, ERR_INVALID, "file path has a NUL byte or more than %d bytes",
			       AGENT_PATH_MAX);
	if (!s.len)
		return allow_root ? 0 : err_set(e, ERR_INVALID, "file name is empty");
	for (const char *p = path; p;) {
		const char *slash = strchr(p, '/');
		size_t len = slash ? (size_t)(slash - p) : strlen(p);

		if (len == 0 || len > NAME_MAX || (len == 1 && p[0] == '.') ||
		    (len == 2 && p[0] == '.' && p[1] == '.'))
			return err_set(e, ERR_INVALID,
				       "file path has an empty, dot or overlong part");
		if (++depth > DEPTH_MAX)
			return err_set(e, ERR_INVALID, "file path is deeper than %d", DEPTH_MAX);
		p = slash ? slash + 1 : NULL;
	}
	return 0;
}

/* ERR_NO_FILE: the daemon puts the path before the text, as its caller wrote it. */
static int no_regular(struct err *e)
{
	return err_set(e, ERR_NO_FILE,
		       "is neither a regular file nor a directory, so it cannot be read through "
		       "the API (404); code in the session can");
}

static int file_err(struct err *e, const char *path)
{
	switch (errno) {
	case ENOENT:
	case ENOTDIR:
	case ELOOP:
	case EXDEV:
		return err_set(e, ERR_NO_FILE, "does not exist below /mnt/data (404)");
	case ENXIO: /* a socket, or a FIFO nobody reads */
	case ENODEV:
		return no_regular(e);
	case ENOSPC:
	case EDQUOT:
		return err_set(e, ERR_STORAGE_FULL,
			       "the session's storage is full; delete files or raise dataSize");
	case EACCES:
	case EPERM:
		return err_set(e, ERR_CONFLICT,
			       "'%.200s' is closed to the session's user by its mode (chmod)",
			       path);
	case EISDIR:
		return err_set(e, ERR_CONFLICT, "'%.200s' is a directory", path);
	case ENOTEMPTY:
	case EEXIST:
		return err_set(e, ERR_CONFLICT, "directory '%.200s' is not empty", path);
	default:
		return err_sys(e, "file '%.200s'", path);
	}
}

static void put_info(struct buf *b, const struct stat *st, const char *path)
{
	wire_put_u8(b, S_ISDIR(st->st_mode) ? 1 : 0);
	wire_put_u64(b, S_ISDIR(st->st_mode) ? 4096 : (uint64_t)st->st_size);
	wire_put_u64(b,
		     (uint64_t)st->st_mtim.tv_sec * 1000000 + (uint64_t)st->st_mtim.tv_nsec / 1000);
	wire_put_blob(b, str_from(path));
}

static void send_info(struct agent *a, uint64_t op, const struct stat *st, const char *path)
{
	struct buf b;

	buf_init(&b, AGENT_PATH_MAX + 64);
	put_info(&b, st, path);
	conn_send(a, AGENT_FILE_INFO, op, buf_str(&b));
	buf_done(&b);
}

static struct file_op *op_find(struct agent *a, uint64_t op)
{
	list_each(&a->files, struct file_op, node, f)
		if (f->op == op)
			return f;
	return NULL;
}

static void op_free(struct agent *a, struct file_op *f)
{
	list_remove(&f->node);
	a->file_count--;
	close_fd(&f->fd);
	free(f);
}

static void op_fail(struct agent *a, struct file_op *f, const struct err *e)
{
	conn_send_error(a, f->op, e);
	op_free(a, f);
}

void files_reset(struct agent *a)
{
	list_each(&a->files, struct file_op, node, f)
		op_free(a, f);
}

/* Takes fd; -1: answers with e, as for an operation that finds no place. */
static struct file_op *op_begin(struct agent *a, uint64_t op, const char *path, int fd,
				struct err *e)
{
	struct file_op *f = fd >= 0 && a->file_count < AGENT_FILE_OPS_MAX ? calloc(1, sizeof(*f))
									  : NULL;

	if (!f) {
		if (fd >= 0) {
			close(fd);
			err_set(e, ERR_UNAVAILABLE, "more than %d file operations at once",
				AGENT_FILE_OPS_MAX);
		}
		conn_send_error(a, op, e);
		return NULL;
	}
	f->op = op;
	f->fd = fd;
	snprintf(f->path, sizeof(f->path), "%s", path);
	list_add_tail(&a->files, &f->node);
	a->file_count++;
	return f;
}

/* Listing: directories wait in `todo`, so that depth costs memory of our choosing and no stack. */
struct listing {
	struct buf entries;
	uint32_t count;
	uint32_t max;
	bool more;
	struct buf todo; /* NUL-terminated paths */
};

static void list_one(struct agent *a, struct listing *l, const char *dir, const char *name,
		     bool recursive)
{
	char path[AGENT_PATH_MAX + NAME_MAX + 2];
	struct stat st;

	if (snprintf(path, sizeof(path), "%s%s%s", dir, *dir ? "/" : "", name) > AGENT_PATH_MAX)
		return;
	OWNED_FD int fd = open_beneath(a, path, O_PATH, 0);

	/* Dangling links, links that lead out, and what is neither file nor directory are not
	 * there. */
	if (fd < 0 || fstat(fd, &st) < 0 || !(S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)))
		return;
	if (l->count >= l->max) {
		l->more = true;
		return;
	}
	size_t before = l->entries.len;

	put_info(&l->entries, &st, path);
	if (!buf_ok(&l->entries)) {
		l->entries.len = before; /* half an entry is none */
		l->entries.failed = false;
		l->more = true;
		return;
	}
	l->count++;
	if (recursive && S_ISDIR(st.st_mode)) {
		struct stat link;
		OWNED_FD int self = open_beneath(a, path, O_PATH | O_NOFOLLOW, 0);

		if (self >= 0 && fstat(self, &link) == 0 && S_ISDIR(link.st_mode))
			buf_add(&l->todo, path, strlen(path) + 1);
	}
}

static int list_directory(struct agent *a, struct listing *l, const char *dir, bool recursive,
			  struct err *e)
{
	int fd = open_beneath(a, dir, O_RDONLY | O_DIRECTORY | O_NONBLOCK, 0);

	if (fd < 0 && errno == ENOTDIR) {
		OWNED_FD int other = open_beneath(a, dir, O_PATH, 0);

		if (other >= 0)
			return err_set(e, ERR_NO_FILE,
				       "is not a directory (404): only directories are listed; ask "
				       "for a file by its name");
		return file_err(e, dir);
	}
	if (fd < 0)
		return file_err(e, dir);
	DIR *d = fdopendir(fd);

	if (!d) {
		close(fd);
		return err_sys(e, "list");
	}
	for (struct dirent *ent; !l->more && (ent = readdir(d));)
		if (strcmp(ent->d_name, ".") != 0 && strcmp(ent->d_name, "..") != 0)
			list_one(a, l, dir, ent->d_name, recursive);
	closedir(d);
	return 0;
}

static void op_list(struct agent *a, uint64_t op, struct wire_reader *r)
{
	struct listing l = { 0 };
	struct err e = ERR_INIT;
	char path[AGENT_PATH_MAX + 1];
	bool recursive = wire_get_u8(r) != 0;

	l.max = wire_get_u32(r);
	buf_init(&l.entries, 16u << 20);
	buf_init(&l.todo, 4u << 20);
	int rc = take_path(wire_get_blob(r, AGENT_PATH_MAX), true, path, &e);

	if (rc == 0)
		rc = list_directory(a, &l, path, recursive, &e);
	for (size_t at = 0; rc == 0 && !l.more && at < l.todo.len;) {
		char dir[AGENT_PATH_MAX + 1];
		struct err gone;

		snprintf(dir, sizeof(dir), "%s", l.todo.ptr + at);
		at += strlen(dir) + 1;
		list_directory(a, &l, dir, true, &gone); /* may have vanished meanwhile */
	}
	if (rc < 0) {
		conn_send_error(a, op, &e);
	} else {
		struct buf b;

		buf_init(&b, AGENT_FRAME_MAX);
		wire_put_u8(&b, l.more || !buf_ok(&l.entries) || !buf_ok(&l.todo));
		wire_put_u32(&b, l.count);
		buf_add_str(&b, buf_str(&l.entries));
		conn_send(a, AGENT_FILE_ENTRIES, op, buf_str(&b));
		buf_done(&b);
	}
	buf_done(&l.entries);
	buf_done(&l.todo);
}

static int open_regular(struct agent *a, const char *path, struct stat *st, bool data,
			struct err *e)
{
	/* O_NONBLOCK: a FIFO must not hold us; fstat then refuses it. */
	int fd = open_beneath(a, path, data ? O_RDONLY | O_NONBLOCK | O_NOCTTY : O_PATH, 0);

	if (fd < 0)
		return file_err(e, path);
	if (fstat(fd, st) == 0 && (S_ISREG(st->st_mode) || (!data && S_ISDIR(st->st_mode))))
		return fd;
	close(fd);
	if (!S_ISDIR(st->st_mode))
		return no_regular(e);
	return err_set(e, ERR_NO_FILE,
		       "is a directory (404): list the files in it, and read them one by one");
}

static void op_stat(struct agent *a, uint64_t op, struct wire_reader *r)
{
	char path[AGENT_PATH_MAX + 1];
	struct err e = ERR_INIT;
	struct stat st;

	if (take_path(wire_get_blob(r, AGENT_PATH_MAX), false, path, &e) == 0) {
		OWNED_FD int fd = open_regular(a, path, &st, false, &e);

		if (fd >= 0) {
			send_info(a, op, &st, path);
			return;
		}
	}
	conn_send_error(a, op, &e);
}

static void op_read(struct agent *a, uint64_t op, struct wire_reader *r)
{
	char path[AGENT_PATH_MAX + 1];
	struct err e = ERR_INIT;
	struct stat st;
	int fd = -1;

	if (take_path(wire_get_blob(r, AGENT_PATH_MAX), false, path, &e) == 0)
		fd = open_regular(a, path, &st, true, &e);
	struct file_op *f = op_begin(a, op, path, fd, &e);

	if (!f)
		return;
	f->size = (uint64_t)st.st_size;
	f->credit = AGENT_FILE_WINDOW;
	send_info(a, op, &st, path);
}

static int make_parents(struct agent *a, const char *path, struct err *e)
{
	char part[AGENT_PATH_MAX + 1];

	snprintf(part, sizeof(part), "%s", path);
	for (char *slash = strchr(part, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = '\0';
		OWNED_FD int fd = open_beneath(a, part, O_PATH | O_DIRECTORY, 0);

		if (fd < 0 && errno == ENOENT) {
			char *name = strrchr(part, '/');

			if (name)
				*name = '\0';
			OWNED_FD int up =
				open_beneath(a, name ? part : "", O_PATH | O_DIRECTORY, 0);

			if (up < 0 ||
			    (mkdirat(up, name ? name + 1 : part, 0755) < 0 && errno != EEXIST))
				return file_err(e, path);
			if (name)
				*name = '/';
		} else if (fd < 0 && errno == ENOTDIR) {
			return err_set(e, ERR_CONFLICT, "'%.200s' is a file, not a directory",
				       part);
		} else if (fd < 0) {
			return file_err(e, path);
		}
		*slash = '/';
	}
	return 0;
}

/* The directory a path's last part lives in; *ret_name points into path. */
static int open_parent(struct agent *a, const char *path, const char **ret_name, struct err *e)
{
	char dir[AGENT_PATH_MAX + 1];

	snprintf(dir, sizeof(dir), "%s", path);
	char *slash = strrchr(dir, '/');

	*ret_name = slash ? path + (slash - dir) + 1 : path;
	if (slash)
		*slash = '\0';
	int fd = open_beneath(a, slash ? dir : "", O_RDONLY | O_DIRECTORY, 0);

	return fd < 0 ? file_err(e, path) : fd;
}

static void op_write(struct agent *a, uint64_t op, struct wire_reader *r)
{
	char path[AGENT_PATH_MAX + 1];
	const char *name;
	struct err e = ERR_INIT;
	uint64_t size_max = wire_get_u64(r);
	int fd = -1;

	if (take_path(wire_get_blob(r, AGENT_PATH_MAX), false, path, &e) == 0 &&
	    make_parents(a, path, &e) == 0) {
		OWNED_FD int dir = open_parent(a, path, &name, &e);

		/* Nameless until complete: a listing never shows half a file, and a lost upload
		 * leaves nothing. */
		if (dir >= 0) {
			fd = openat(dir, ".", O_TMPFILE | O_WRONLY | O_CLOEXEC, 0644);
			if (fd < 0)
				file_err(&e, path);
		}
	}
	struct file_op *f = op_begin(a, op, path, fd, &e);

	if (!f)
		return;
	f->writing = true;
	f->size_max = size_max;
}

static void send_credit(struct agent *a, uint64_t op, uint32_t bytes)
{
	struct buf b;

	buf_init(&b, 8);
	wire_put_u32(&b, bytes);
	conn_send(a, AGENT_FILE_CREDIT, op, buf_str(&b));
	buf_done(&b);
}

static void op_data(struct agent *a, struct file_op *f, struct str data)
{
	struct err e = ERR_INIT;
	uint32_t len = (uint32_t)data.len;

	if (!f->writing)
		return;
	f->size += data.len;
	if (f->size > f->size_max) {
		err_set(&e, ERR_TOO_LARGE, "the upload is larger than %llu bytes",
			(unsigned long long)f->size_max);
		op_fail(a, f, &e);
		return;
	}
	while (data.len) {
		ssize_t n = write(f->fd, data.ptr, data.len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			file_err(&e, f->path);
			op_fail(a, f, &e);
			return;
		}
		data.ptr += n;
		data.len -= (size_t)n;
	}
	send_credit(a, f->op, len);
}

static void op_end(struct agent *a, struct file_op *f)
{
	struct err e = ERR_INIT;
	char self[64];
	char tmp[32];
	const char *name;
	struct stat st;

	snprintf(self, sizeof(self), "/proc/self/fd/%d", f->fd);
	snprintf(tmp, sizeof(tmp), ".upload-%016llx", (unsigned long long)rand_u64());
	OWNED_FD int dir = open_parent(a, f->path, &name, &e);

	if (dir >= 0 && linkat(AT_FDCWD, self, dir, tmp, AT_SYMLINK_FOLLOW) == 0 &&
	    renameat(dir, tmp, dir, name) == 0 && fstat(f->fd, &st) == 0) {
		send_info(a, f->op, &st, f->path);
		op_free(a, f);
		return;
	}
	if (dir >= 0) {
		file_err(&e, f->path);
		unlinkat(dir, tmp, 0);
	}
	op_fail(a, f, &e);
}

static void op_delete(struct agent *a, uint64_t op, struct wire_reader *r)
{
	char path[AGENT_PATH_MAX + 1];
	const char *name;
	struct err e = ERR_INIT;

	if (take_path(wire_get_blob(r, AGENT_PATH_MAX), false, path, &e) == 0) {
		OWNED_FD int dir = open_parent(a, path, &name, &e);

		if (dir >= 0) {
			int rc = unlinkat(dir, name, 0);

			if (rc < 0 && errno == EISDIR)
				rc = unlinkat(dir, name, AT_REMOVEDIR);
			if (rc == 0) {
				conn_send(a, AGENT_DONE, op, (struct str){ 0 });
				return;
			}
			file_err(&e, path);
		}
	}
	conn_send_error(a, op, &e);
}

void files_frame(struct agent *a, enum agent_msg type, uint64_t op, struct wire_reader *r)
{
	struct file_op *f = op_find(a, op);

	switch (type) {
	case AGENT_FILE_LIST:
		op_list(a, op, r);
		break;
	case AGENT_FILE_STAT:
		op_stat(a, op, r);
		break;
	case AGENT_FILE_READ:
		op_read(a, op, r);
		break;
	case AGENT_FILE_WRITE:
		op_write(a, op, r);
		break;
	case AGENT_FILE_DELETE:
		op_delete(a, op, r);
		break;
	case AGENT_FILE_DATA:
		if (f)
			op_data(a, f, wire_get_rest(r));
		break;
	case AGENT_FILE_END:
		if (f && f->writing)
			op_end(a, f);
		break;
	case AGENT_FILE_ABORT:
		if (f)
			op_free(a, f);
		break;
	case AGENT_FILE_CREDIT:
		if (f && !f->writing) {
			uint32_t more = wire_get_u32(r);

			f->credit += more <= AGENT_FILE_WINDOW - f->credit ? more : 0;
		}
		break;
	default:
		break;
	}
}

/* One chunk of one file; false when it has to wait or is finished. */
static bool pump_one(struct agent *a, struct file_op *f)
{
	static char chunk[AGENT_FILE_CHUNK];
	uint64_t want = f->size - f->at;

	if (want > AGENT_FILE_CHUNK)
		want = AGENT_FILE_CHUNK;
	if (want && (want > f->credit || conn_room(a) < AGENT_FILE_CHUNK))
		return false;
	ssize_t n = want ? pread(f->fd, chunk, (size_t)want, (off_t)f->at) : 0;

	/* A file that shrank ends early; the daemon then breaks the transfer off, as it promised a
	 * length. */
	conn_send(a, AGENT_FILE_DATA, f->op, (struct str){ chunk, n > 0 ? (size_t)n : 0 });
	if (n <= 0) {
		op_free(a, f);
		return false;
	}
	f->at += (uint64_t)n;
	f->credit -= (uint32_t)n;
	return true;
}

void files_pump(struct agent *a)
{
	/* In turns, so that one large file does not hold up the others. */
	for (bool more = true; more && !a->conn.broken;) {
		more = false;
		list_each(&a->files, struct file_op, node, f)
			if (!f->writing && !a->conn.broken && pump_one(a, f))
				more = true;
	}
}
