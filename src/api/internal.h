/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/** internal: what the files of the data plane share. */

#include "api/data_plane.h"
#include "api/json_out.h"
#include "base/buf.h"

enum shape {
	SHAPE_FOUNDING, /* …/identifier/{id}/code/execute */
	SHAPE_FLAT,     /* python/execute: flat fields and a properties copy */
	SHAPE_OLD,      /* code/execute */
	SHAPE_NEW,      /* executions */
};

/** A request that names a pool, and mostly an identifier. Lives in the request's memory. */
struct call {
	struct http_request *rq;
	const struct data_plane_config *config;
	struct pool *pool;
	enum shape shape;
	struct str api_version; /* empty if absent */
	struct str identifier;
	bool fresh; /* this call made the session */
	struct session_wait *wait;
	/* Whoever waits for the session to open (call_when_open). */
	void (*open)(void *arg, struct session *s, struct agent_link *link);
	void *open_arg;
};

/** call_pool: the pool that the path names; NULL with e (may be NULL) if there is none. */
struct pool *call_pool(struct http_request *rq, const struct data_plane_config *config,
		       struct err *e);
/** call_begin: pool and api-version; replies with the error and returns NULL if they are wrong. */
struct call *call_begin(struct http_request *rq, void *ctx, enum shape shape);
/** call_begin_of: as call_begin, of the shape SHAPE_NEW, with the identifier. */
struct call *call_begin_of(struct http_request *rq, void *ctx);
/** call_identifier: from the path or the query, checked. */
int call_identifier(struct call *c, struct err *e);
/** call_session: the identifier's session, made if needed. */
struct session *call_session(struct call *c, struct err *e);
/**
 * call_when_open: calls open(arg) when the session's sandbox can be talked to (maybe at once); a
 * session that ends first is answered with its error.
 */
void call_when_open(struct call *c, struct session *s,
		    void (*open)(void *arg, struct session *s, struct agent_link *link), void *arg);
/** call_is_old: whether files calls of this api-version have the old shape. */
bool call_is_old(const struct call *c);
/** call_headers: session and timing headers. */
void call_session_headers(struct call *c, const struct session *s);
void call_reply_json(struct call *c, int status, struct buf *b);
void call_fail(struct call *c, const struct err *e);

/* execute.c */
void execute_old(struct http_request *rq, void *ctx);
void execute_founding(struct http_request *rq, void *ctx);
void execute_flat(struct http_request *rq, void *ctx);
void execute_new(struct http_request *rq, void *ctx);
void execution_get(struct http_request *rq, void *ctx);
void execution_delete(struct http_request *rq, void *ctx);

/* contexts.c */
void contexts_list(struct http_request *rq, void *ctx);
void context_put(struct http_request *rq, void *ctx);
void context_remove(struct http_request *rq, void *ctx);
void context_renew(struct http_request *rq, void *ctx);

/* render.c */
void render_execution(struct buf *b, const struct call *c, const struct execution *x);
/** render_error: the error object of a finished one; false if it has none. */
bool render_error(struct buf *b, const struct execution *x);

/* files.c, upload.c, download.c */
void files_upload(struct http_request *rq, void *ctx);
void files_upload_old(struct http_request *rq, void *ctx);
void files_list_flat(struct http_request *rq, void *ctx);
void files_list(struct http_request *rq, void *ctx);
void files_get(struct http_request *rq, void *ctx);
void files_download_legacy(struct http_request *rq, void *ctx);
void files_delete(struct http_request *rq, void *ctx);
/** files_download: sends one file; path is below the data root. */
void files_download(struct call *c, struct str path);
/** files_path: joins the `path` parameter and a name from the URL or the upload to
 * a checked path. */
int files_path(struct str directory, struct str name, char out[AGENT_PATH_MAX + 1], struct err *e);
/** files_error: what the agent says of a path, with the path as the caller wrote it. */
void files_error(const char *path, const struct err *e, struct err *ret);
/** call_fail_file: as call_fail, for a call on one path. */
void call_fail_file(struct call *c, const char *path, const struct err *e);
const char *files_content_type(struct str name);
/** files_clean_name: adds a name as valid UTF-8. */
void files_clean_name(struct buf *b, struct str name);
struct session;
/** files_put_entry: one file in the shape of the call; relative_to: listed directory. */
void files_put_entry(struct buf *b, const struct call *c, const struct agent_file *f,
		     struct str relative_to, bool recursive);

/* sessions.c */
void session_get(struct http_request *rq, void *ctx);
void session_remove(struct http_request *rq, void *ctx);
void session_list(struct http_request *rq, void *ctx);
void session_management(struct http_request *rq, void *ctx);
void pool_metadata(struct http_request *rq, void *ctx);

/* mcp.c */
void mcp_post(struct http_request *rq, void *ctx);
/** mcp_authorize: 1: the request brings the key of its pool's MCP server, 0: none, -1: a wrong one.
 */
int mcp_authorize(struct http_request *rq, const struct data_plane_config *config, struct err *e);

/* terminal.c */
void terminal_get(struct http_request *rq, void *ctx);
void terminal_list(struct http_request *rq, void *ctx);
void terminal_remove(struct http_request *rq, void *ctx);
