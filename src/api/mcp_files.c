/* SPDX-License-Identifier: Apache-2.0 */
#include "api/mcp.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/rand.h"

#include <stdio.h>

#define READ_DEFAULT (256 * 1024)
#define READ_MAX     (4 * 1024 * 1024)

static void on_failed(void *arg, const struct err *e)
{
	struct mcp *m = arg;
	struct err mine;

	m->file = NULL;
	files_error(m->path, e, &mine);
	mcp_refuse(m, &mine);
}

static void no_memory(struct mcp *m)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_NOMEM, "out of memory");
	mcp_refuse(m, &e);
}

/* The argument `path`, checked and made relative; false: the tool has ended. */
static bool path_argument(struct mcp *m, bool required)
{
	struct err e = ERR_INIT;
	const char *path;

	if (!mcp_argument(m, "path", required, &path))
		return false;
	if (files_path(STR(""), str_from(path ? path : ""), m->path, &e) == 0 &&
	    (m->path[0] || !required))
		return true;
	if (e.code == ERR_NONE)
		err_set(&e, ERR_INVALID, "The argument 'path' names no file below /mnt/data.");
	mcp_error(m, MCP_INVALID_PARAMS, &e);
	return false;
}

static json_t *name_of(struct str name)
{
	struct buf clean;

	buf_init(&clean, AGENT_PATH_MAX * 3);
	files_clean_name(&clean, name);
	json_t *text = json_stringn(buf_str(&clean).ptr, clean.len);

	buf_done(&clean);
	return text;
}

static json_t *entry_of(const struct agent_file *f)
{
	char time[CLOCK_TEXT_SIZE];

	return json_pack("{s:o,s:s,s:I,s:s}", "path", name_of(f->path), "type",
			 f->directory ? "directory" : "file", "sizeInBytes", (json_int_t)f->size,
			 "lastModifiedAt", clock_format(f->mtime_us, time));
}

/* --- list --- */

static void on_entries(void *arg, const struct agent_file *files, size_t count, bool more)
{
	struct mcp *m = arg;
	json_t *list = json_array();

	m->file = NULL;
	for (size_t i = 0; i < count; i++)
		json_array_append_new(list, entry_of(&files[i]));
	mcp_result(m, json_pack("{s:o,s:b}", "files", list, "truncated", more), NULL, false);
}

static const struct agent_file_events list_events = { .failed = on_failed, .entries = on_entries };

static void list_open(struct mcp *m, struct session *s, struct agent_link *link)
{
	(void)s;
	m->file = agent_file_list(link, str_from(m->path), m->recursive, m->call->config->list_max,
				  &list_events, m);
	if (!m->file)
		no_memory(m);
}

void mcp_list_files(struct mcp *m)
{
	if (path_argument(m, false) && mcp_flag(m, "recursive", &m->recursive))
		mcp_with_session(m, list_open);
}

/* --- read --- */

static void read_ended(struct mcp *m)
{
	struct str bytes = buf_str(&m->bytes);
	bool truncated = m->file_size > bytes.len;
	struct buf encoded;

	/* A text that is cut is cut between characters, which have at most four bytes. */
	if (truncated && bytes.len - utf8_run(bytes) < 4)
		bytes.len = utf8_run(bytes);
	bool text = utf8_valid(bytes) && !memchr(bytes.ptr, '\0', bytes.len);

	buf_init(&encoded, 2 * READ_MAX);
	if (!text)
		base64_encode(&encoded, bytes.ptr, bytes.len);
	if (!buf_ok(&encoded)) {
		buf_done(&encoded);
		no_memory(m);
		return;
	}
	struct str content = text ? bytes : buf_str(&encoded);
	json_t *result = json_pack("{s:o,s:I,s:s,s:o,s:b}", "path", name_of(str_from(m->path)),
				   "sizeInBytes", (json_int_t)m->file_size, "encoding",
				   text ? "utf-8" : "base64", "content",
				   json_stringn(content.ptr, content.len), "truncated", truncated);

	buf_done(&encoded);
	mcp_result(m, result, NULL, false);
}

static void on_read_info(void *arg, const struct agent_file *f)
{
	struct mcp *m = arg;

	m->file_size = f->size;
}

static void on_read_data(void *arg, struct str bytes)
{
	struct mcp *m = arg;
	size_t room = m->bytes_max - m->bytes.len;

	if (!buf_add(&m->bytes, bytes.ptr, bytes.len < room ? bytes.len : room)) {
		agent_file_cancel(m->file);
		m->file = NULL;
		no_memory(m);
	} else if (bytes.len >= room) {
		/* Enough; whether there is more, its size has said. */
		agent_file_cancel(m->file);
		m->file = NULL;
		if (m->file_size < m->bytes.len)
			m->file_size = m->bytes.len; /* it has grown meanwhile */
		read_ended(m);
	} else {
		agent_file_credit(m->file, bytes.len);
	}
}

static void on_read_done(void *arg)
{
	struct mcp *m = arg;

	m->file = NULL;
	/* It may have shrunk meanwhile. */
	m->file_size = m->bytes.len;
	read_ended(m);
}

static const struct agent_file_events read_events = {
	.failed = on_failed,
	.info = on_read_info,
	.data = on_read_data,
	.done = on_read_done,
};

static void read_open(struct mcp *m, struct session *s, struct agent_link *link)
{
	(void)s;
	m->file = agent_file_read(link, str_from(m->path), &read_events, m);
	if (!m->file)
		no_memory(m);
}

void mcp_read_file(struct mcp *m)
{
	struct err e = ERR_INIT;
	int64_t max = READ_DEFAULT;

	if (!path_argument(m, true))
		return;
	if (json_get_int(m->arguments, "", "maxBytes", &max, &e) < 0 || max < 1 || max > READ_MAX) {
		err_set(&e, ERR_INVALID, "The argument 'maxBytes' must be a number from 1 to %d.",
			READ_MAX);
		mcp_error(m, MCP_INVALID_PARAMS, &e);
		return;
	}
	m->bytes_max = (size_t)max;
	buf_init(&m->bytes, READ_MAX);
	mcp_with_session(m, read_open);
}

/* --- write --- */

static void write_more(struct mcp *m)
{
	struct str bytes = buf_str(&m->bytes);

	m->bytes_at += agent_file_put(m->file, bytes.ptr + m->bytes_at, bytes.len - m->bytes_at);
	if (m->bytes_at == m->bytes.len)
		agent_file_end(m->file);
}

static void on_write_drained(void *arg)
{
	write_more(arg);
}

static void on_written(void *arg, const struct agent_file *f)
{
	struct mcp *m = arg;

	m->file = NULL;
	mcp_result(m, entry_of(f), NULL, false);
}

static const struct agent_file_events write_events = {
	.failed = on_failed,
	.info = on_written,
	.drained = on_write_drained,
};

static void write_open(struct mcp *m, struct session *s, struct agent_link *link)
{
	(void)s;
	m->file = agent_file_write(link, str_from(m->path),
				   pool_spec(m->call->pool)->upload_max_bytes, &write_events, m);
	if (!m->file) {
		no_memory(m);
		return;
	}
	m->bytes_at = 0;
	write_more(m);
}

void mcp_write_file(struct mcp *m)
{
	json_t *content = json_find(m->arguments, "content");
	const char *encoding;
	struct err e = ERR_INIT;

	if (!path_argument(m, true) || !mcp_argument(m, "encoding", false, &encoding))
		return;
	struct str text = { json_string_value(content), json_string_length(content) };
	bool base64 = encoding && str_eq_nocase(str_from(encoding), STR("base64"));

	buf_init(&m->bytes, text.len + 1);
	if (!json_is_string(content))
		err_set(&e, ERR_INVALID, "The argument 'content' must be a string.");
	else if (encoding && !base64 && !str_eq_nocase(str_from(encoding), STR("utf-8")) &&
		 !str_eq_nocase(str_from(encoding), STR("utf8")))
		err_set(&e, ERR_INVALID, "The argument 'encoding' must be utf-8 or base64.");
	else if (base64 && !base64_decode(&m->bytes, text))
		err_set(&e, ERR_INVALID, "The argument 'content' is not base64.");
	else if (!base64 && !buf_add_str(&m->bytes, text))
		err_set(&e, ERR_NOMEM, "out of memory");
	else if (m->bytes.len > pool_spec(m->call->pool)->upload_max_bytes)
		err_set(&e, ERR_TOO_LARGE,
			"The file would have %zu bytes; the limit of the pool is %llu "
			"(sessionLimits.maxUploadSizeInBytes).",
			m->bytes.len,
			(unsigned long long)pool_spec(m->call->pool)->upload_max_bytes);
	if (e.code != ERR_NONE)
		mcp_error(m, MCP_INVALID_PARAMS, &e);
	else
		mcp_with_session(m, write_open);
}

/* --- delete --- */

static void on_deleted(void *arg)
{
	struct mcp *m = arg;

	m->file = NULL;
	mcp_result(m, json_pack("{s:b}", "deleted", 1), NULL, false);
}

static const struct agent_file_events delete_events = { .failed = on_failed, .done = on_deleted };

static void delete_open(struct mcp *m, struct session *s, struct agent_link *link)
{
	(void)s;
	m->file = agent_file_delete(link, str_from(m->path), &delete_events, m);
	if (!m->file)
		no_memory(m);
}

void mcp_delete_file(struct mcp *m)
{
	if (path_argument(m, true))
		mcp_with_session(m, delete_open);
}
