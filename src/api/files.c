/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"

#include "base/own.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_PART_MAX 255
#define LAST          SIZE_MAX

static const char *const types[][2] = {
	{ ".txt", "text/plain; charset=utf-8" },
	{ ".log", "text/plain; charset=utf-8" },
	{ ".csv", "text/csv; charset=utf-8" },
	{ ".md", "text/markdown; charset=utf-8" },
	{ ".html", "text/html; charset=utf-8" },
	{ ".css", "text/css; charset=utf-8" },
	{ ".js", "text/javascript; charset=utf-8" },
	{ ".py", "text/x-python; charset=utf-8" },
	{ ".json", "application/json" },
	{ ".xml", "application/xml" },
	{ ".pdf", "application/pdf" },
	{ ".zip", "application/zip" },
	{ ".gz", "application/gzip" },
	{ ".png", "image/png" },
	{ ".jpg", "image/jpeg" },
	{ ".jpeg", "image/jpeg" },
	{ ".gif", "image/gif" },
	{ ".svg", "image/svg+xml" },
	{ ".xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" },
	{ ".docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document" },
};

const char *files_content_type(struct str name)
{
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		struct str suffix = str_from(types[i][0]);

		if (name.len > suffix.len &&
		    str_eq_nocase((struct str){ name.ptr + name.len - suffix.len, suffix.len },
				  suffix))
			return types[i][1];
	}
	return "application/octet-stream";
}

/* Cuts one name and the slashes after it; false if path does not begin with it. */
static bool cut_name(struct str *path, const char *name)
{
	size_t len = strlen(name);

	if (path->len < len || memcmp(path->ptr, name, len) != 0 ||
	    (path->len > len && path->ptr[len] != '/'))
		return false;
	while (len < path->len && path->ptr[len] == '/')
		len++;
	path->ptr += len;
	path->len -= len;
	return true;
}

/* "/mnt/data/x", "/data/x" and "x" are one file, and "//" is "/". */
static struct str below_root(struct str path)
{
	struct str found = path;

	if (cut_name(&found, "") &&
	    ((cut_name(&found, "mnt") && cut_name(&found, "data")) || cut_name(&found, "data")))
		return found;
	return path;
}

static int add_parts(struct str path, char *out, size_t *at, struct err *e)
{
	while (path.len) {
		const char *slash = memchr(path.ptr, '/', path.len);
		size_t len = slash ? (size_t)(slash - path.ptr) : path.len;
		struct str part = { path.ptr, len };

		path.ptr += len + (slash ? 1 : 0);
		path.len -= len + (slash ? 1 : 0);
		if (!len)
			continue;
		/* SECURITY: the agent checks again and resolves beneath /mnt/data; this is for a
		 * clear answer. */
		if (str_eq(part, STR(".")) || str_eq(part, STR("..")))
			return err_set(e, ERR_INVALID,
				       "A file path may not contain '.' or '..' (400).");
		if (len > NAME_PART_MAX)
			return err_set(e, ERR_INVALID,
				       "A part of the file path has %zu bytes; the limit is %d.",
				       len, NAME_PART_MAX);
		for (size_t i = 0; i < len; i++)
			if ((unsigned char)part.ptr[i] < 0x20 || part.ptr[i] == 0x7f ||
			    part.ptr[i] == '\\')
				return err_set(
					e, ERR_INVALID,
					"A file path may not contain control characters or backslashes.");
		if (!utf8_valid(part))
			return err_set(e, ERR_INVALID, "The file path is not valid UTF-8.");
		if (*at + len + 2 > AGENT_PATH_MAX)
			return err_set(e, ERR_INVALID, "The file path is longer than %d bytes.",
				       AGENT_PATH_MAX);
		if (*at)
			out[(*at)++] = '/';
		memcpy(out + *at, part.ptr, len);
		*at += len;
	}
	out[*at] = '\0';
	return 0;
}

int files_path(struct str directory, struct str name, char out[AGENT_PATH_MAX + 1], struct err *e)
{
	size_t at = 0;
	bool absolute = name.len && name.ptr[0] == '/';

	out[0] = '\0';
	/* An absolute name says where it belongs; the directory would only be put in twice. */
	if (!absolute && add_parts(below_root(directory), out, &at, e) < 0)
		return -1;
	return add_parts(below_root(name), out, &at, e);
}

/* SECURITY: names in a sandbox may be any bytes; JSON gets valid UTF-8. */
void files_clean_name(struct buf *b, struct str name)
{
	if (utf8_valid(name)) {
		buf_add_str(b, name);
		return;
	}
	for (size_t i = 0; i < name.len; i++)
		buf_add(b, (unsigned char)name.ptr[i] < 0x80 ? &name.ptr[i] : "\xef\xbf\xbd",
			(unsigned char)name.ptr[i] < 0x80 ? 1 : 3);
}

static void put_name(struct buf *b, const char *key, struct str name)
{
	struct buf clean;

	buf_init(&clean, AGENT_PATH_MAX * 3);
	files_clean_name(&clean, name);
	json_key(b, key);
	json_str(b, buf_str(&clean));
	buf_done(&clean);
}

static void put_oldest(struct buf *b, const struct agent_file *f, struct str name)
{
	buf_add(b, "{", 1);
	json_key_str(b, "$id", "2");
	put_name(b, "filename", name);
	json_key_int(b, "size", (int64_t)f->size);
	json_key_time(b, "last_modified_time", f->mtime_us);
	buf_add(b, "}", 1);
}

static void put_old(struct buf *b, const struct agent_file *f, struct str name)
{
	buf_add(b, "{\"$id\":\"2\",\"properties\":{", strlen("{\"$id\":\"2\",\"properties\":{"));
	json_key_str(b, "$id", "3");
	put_name(b, "filename", name);
	json_key_int(b, "size", (int64_t)f->size);
	json_key_time(b, "lastModifiedTime", f->mtime_us);
	json_key_time(b, "last_modified_time", f->mtime_us);
	buf_add(b, "}}", 2);
}

void files_put_entry(struct buf *b, const struct call *c, const struct agent_file *f,
		     struct str relative_to, bool recursive)
{
	struct str rel = f->path;

	if (relative_to.len && rel.len > relative_to.len) {
		rel.ptr += relative_to.len + 1;
		rel.len -= relative_to.len + 1;
	}
	json_item(b);
	if (c->shape == SHAPE_FLAT) {
		put_oldest(b, f, rel);
		return;
	}
	if (call_is_old(c)) {
		put_old(b, f, rel);
		return;
	}
	const char *slash = memrchr(rel.ptr, '/', rel.len);
	size_t dir_len = slash ? (size_t)(slash - rel.ptr) : 0;
	struct str name = slash ? (struct str){ slash + 1, rel.len - dir_len - 1 } : rel;

	buf_add(b, "{", 1);
	put_name(b, "name", name);
	json_key_str(b, "type", f->directory ? "directory" : "file");
	json_key_str(b, "contentType",
		     f->directory ? "application/octet-stream" : files_content_type(name));
	json_key_int(b, "sizeInBytes", (int64_t)f->size);
	json_key_time(b, "lastModifiedAt", f->mtime_us);
	if (recursive)
		put_name(b, "directory", (struct str){ rel.ptr, dir_len });
	buf_add(b, "}", 1);
}

void files_error(const char *path, const struct err *e, struct err *ret)
{
	struct str name = str_from(path);

	*ret = *e;
	/* What an agent says is shown as ASCII; the name is here as the caller wrote it. */
	if (e->code != ERR_NO_FILE)
		return;
	name.len = utf8_cut(name, NAME_PART_MAX);
	err_set(ret, ERR_NO_FILE, "'%.*s' %.140s.", STR_ARG(name), e->msg);
}

void call_fail_file(struct call *c, const char *path, const struct err *e)
{
	struct err mine;

	files_error(path, e, &mine);
	call_fail(c, &mine);
}

/* A call on one path: list, stat, delete. */
struct file_call {
	struct call *call;
	struct agent_file_op *op;
	enum { FILE_LIST, FILE_STAT, FILE_DELETE } what;
	bool recursive;
	char path[AGENT_PATH_MAX + 1];
};

static void file_call_done(void *arg)
{
	struct file_call *f = arg;

	agent_file_cancel(f->op);
}

static void on_failed(void *arg, const struct err *e)
{
	struct file_call *f = arg;

	f->op = NULL;
	call_fail_file(f->call, f->path, e);
}

static int by_path(const void *a, const void *b)
{
	const struct agent_file *x = a;
	const struct agent_file *y = b;
	size_t len = x->path.len < y->path.len ? x->path.len : y->path.len;
	int rc = len ? memcmp(x->path.ptr, y->path.ptr, len) : 0;

	return rc ? rc : (x->path.len > y->path.len) - (x->path.len < y->path.len);
}

static void on_entries(void *arg, const struct agent_file *files, size_t count, bool more)
{
	struct file_call *f = arg;
	struct call *c = f->call;
	struct err e = ERR_INIT;
	struct buf b;

	f->op = NULL;
	if (more) {
		err_set(&e, ERR_TOO_LARGE,
			"The listing has more than %u entries; list a sub-directory with 'path'.",
			c->config->list_max);
		call_fail(c, &e);
		return;
	}
	OWNED_MEM struct agent_file *sorted = malloc((count + 1) * sizeof(*sorted));

	if (!sorted) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(c, &e);
		return;
	}
	memcpy(sorted, files, count * sizeof(*sorted));
	qsort(sorted, count, sizeof(*sorted), by_path);
	buf_init(&b, 64u << 20);
	if (c->shape == SHAPE_FLAT)
		buf_add_str(&b, STR("{\"$id\":\"1\",\"$values\":["));
	else
		buf_add_str(&b, call_is_old(c) ? STR("{\"$id\":\"1\",\"value\":[")
					       : STR("{\"value\":["));
	for (size_t i = 0; i < count; i++)
		if (!sorted[i].directory || !call_is_old(c))
			files_put_entry(&b, c, &sorted[i], str_from(f->path), f->recursive);
	buf_add_str(&b, STR("],\"nextLink\":null}"));
	call_reply_json(c, 200, &b);
}

static void on_info(void *arg, const struct agent_file *file)
{
	struct file_call *f = arg;
	struct call *c = f->call;
	struct buf b;

	f->op = NULL;
	const char *slash = strrchr(f->path, '/');
	struct str parent = { f->path, slash ? (size_t)(slash - f->path) : 0 };

	buf_init(&b, 1 << 16);
	if (call_is_old(c))
		buf_add_str(&b, STR("{\"$id\":\"1\",\"value\":["));
	files_put_entry(&b, c, file, parent, false);
	if (call_is_old(c))
		buf_add_str(&b, STR("]}"));
	call_reply_json(c, 200, &b);
}

static void on_done(void *arg)
{
	struct file_call *f = arg;
	static const char text[] = "{\"message\": \"file deleted successfully\"}";

	f->op = NULL;
	if (call_is_old(f->call))
		http_reply(f->call->rq, 200, "application/json; charset=utf-8", text,
			   sizeof(text) - 1);
	else
		http_reply_empty(f->call->rq, 204);
}

static const struct agent_file_events file_events = {
	.failed = on_failed,
	.done = on_done,
	.info = on_info,
	.entries = on_entries,
};

static void on_open(void *arg, struct session *s, struct agent_link *link)
{
	struct file_call *f = arg;
	struct call *c = f->call;
	struct str path = str_from(f->path);
	struct err e = ERR_INIT;

	call_session_headers(c, s);
	if (f->what == FILE_LIST)
		f->op = agent_file_list(link, path, f->recursive, c->config->list_max, &file_events,
					f);
	else if (f->what == FILE_STAT)
		f->op = agent_file_stat(link, path, &file_events, f);
	else
		f->op = agent_file_delete(link, path, &file_events, f);
	if (!f->op) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(c, &e);
	}
}

static void start(struct call *c, int what, struct str directory, struct str name)
{
	struct file_call *f = http_alloc(c->rq, sizeof(*f));
	struct err e = ERR_INIT;
	struct str recursive;

	if (!f) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(c, &e);
		return;
	}
	f->call = c;
	f->what = what;
	http_defer(c->rq, file_call_done, f);
	if (what == FILE_LIST && http_query(c->rq, "recursive", &recursive) &&
	    !str_to_bool(recursive, &f->recursive))
		err_set(&e, ERR_INVALID,
			"The query parameter 'recursive' must be true or false, not '%.*s'.",
			(int)utf8_cut(recursive, 40), recursive.ptr);
	else if (files_path(directory, name, f->path, &e) == 0 && what != FILE_LIST && !f->path[0])
		err_set(&e, ERR_INVALID, "The file name is missing.");
	struct session *s = e.code == ERR_NONE ? call_session(c, &e) : NULL;

	if (!s)
		call_fail(c, &e);
	else
		call_when_open(c, s, on_open, f);
}

static struct str directory_of(struct call *c)
{
	struct str path;

	return http_query(c->rq, "path", &path) ? path : STR("");
}

void files_list(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);

	if (c)
		start(c, FILE_LIST, directory_of(c), STR(""));
}

void files_list_flat(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_FLAT);

	if (c)
		start(c, FILE_LIST, directory_of(c), STR(""));
}

struct raw_segment {
	struct str text;
	bool doubled; /* more than one slash is before it */
};

/* The segment at an index of a path that is not decoded yet, the last one at LAST. */
static struct raw_segment raw_segment(struct str path, size_t index)
{
	struct raw_segment found = { STR(""), false };
	size_t next;

	for (size_t i = 0; i < path.len; i = next) {
		const char *at = path.ptr + i;
		const char *end = memchr(at, '/', path.len - i);
		size_t len = end ? (size_t)(end - at) : path.len - i;

		next = i + len + 1;
		if (!len)
			continue;
		found = (struct raw_segment){ { at, len },
					      i > 1 && at[-1] == '/' && at[-2] == '/' };
		if (index-- == 0)
			break;
	}
	return found;
}

static bool is_content(struct str path, size_t index)
{
	return str_eq_nocase(raw_segment(path, index).text, STR("content"));
}

/*
 * The name in the path, without the word of files/content/{name}, of files/{name}/content, or of
 * both at once as one published sample has it (ret_content NULL: the call has no such word). They
 * are looked for before decoding: "content%2Fx" is one segment, so a name, which clients send for a
 * file in a directory of that name.
 */
static struct str name_in_path(struct http_request *rq, bool *ret_content)
{
	const size_t word = strlen("content/");
	struct str path = http_path(rq);
	struct str rest = http_param(rq, "path");
	size_t index = 0;

	for (const char *p = http_route(rq)->pattern; *p; p++)
		index += *p == '/';
	index--;
	bool before = ret_content && is_content(path, index) && rest.len > word;
	bool after = ret_content && is_content(path, LAST) && rest.len > word + (before ? word : 0);

	if (ret_content)
		*ret_content = before || after;
	if (before) {
		rest.ptr += word;
		rest.len -= word;
	}
	if (after)
		rest.len -= word;
	/* "files/content//mnt/data/x": an absolute name that the client put in as it was. The slash
	 * is there: decoded segments are joined by it (router.h). */
	if (raw_segment(path, index + before).doubled) {
		rest.ptr--;
		rest.len++;
	}
	return rest;
}

void files_get(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);
	char path[AGENT_PATH_MAX + 1];
	struct err e = ERR_INIT;

	if (!c)
		return;
	bool content;
	struct str rest = name_in_path(rq, &content);

	if (!content)
		start(c, FILE_STAT, directory_of(c), rest);
	else if (files_path(directory_of(c), rest, path, &e) < 0)
		call_fail(c, &e);
	else
		files_download(c, str_from(path));
}

void files_download_legacy(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_OLD);
	char path[AGENT_PATH_MAX + 1];
	struct err e = ERR_INIT;
	struct str name;

	if (!c)
		return;
	if (!http_query(rq, "filename", &name) || !name.len)
		err_set(&e, ERR_INVALID, "The query parameter 'filename' is missing.");
	else if (files_path(STR(""), name, path, &e) == 0) {
		files_download(c, str_from(path));
		return;
	}
	call_fail(c, &e);
}

void files_delete(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);

	if (c)
		start(c, FILE_DELETE, directory_of(c), name_in_path(rq, NULL));
}
