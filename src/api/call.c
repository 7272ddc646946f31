/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"

#include "base/clock.h"
#include "base/own.h"
#include "base/rand.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* azure-api.md §2: what the data plane of the real service is known to take. */
static const char api_versions[] =
	"2023-08-01-preview, 2024-02-02-preview, 2024-08-02-preview, 2024-09-01, 2024-10-02-preview, "
	"2025-02-02-preview, 2025-10-02-preview";

/* "2024-10-02" or "2024-10-02-preview"; later ones than we know are treated as the newest. */
static bool version_ok(struct str v)
{
	static const char shape[] = "dddd-dd-dd";

	if (v.len < sizeof(shape) - 1)
		return false;
	for (size_t i = 0; i < sizeof(shape) - 1; i++) {
		bool digit = v.ptr[i] >= '0' && v.ptr[i] <= '9';

		if (shape[i] == 'd' ? !digit : v.ptr[i] != '-')
			return false;
	}
	return v.len == sizeof(shape) - 1 ||
	       str_eq_nocase((struct str){ v.ptr + 10, v.len - 10 }, STR("-preview"));
}

void call_fail(struct call *c, const struct err *e)
{
	if (http_replied(c->rq))
		return;
	if (e->code == ERR_SESSIONS_MAX || e->code == ERR_QUEUE_FULL || e->code == ERR_UNAVAILABLE)
		http_set_header(c->rq, "Retry-After", "1");
	http_reply_err(c->rq, e);
}

static void forget_wait(void *arg)
{
	struct call *c = arg;

	session_wait_cancel(c->wait);
	c->wait = NULL;
}

static struct pool *find_default_pool(const struct data_plane_config *config, struct err *e)
{
	struct pool *pool = pool_find(config->pools, str_from(config->default_pool));

	if (!pool)
		err_set(e, ERR_NO_POOL,
			"The session pool 'default' was deleted (404), and the path names no other: "
			"/subscriptions/{id}/resourceGroups/{group}/sessionPools/{pool}/…");
	return pool;
}

struct pool *call_pool(struct http_request *rq, const struct data_plane_config *config,
		       struct err *e)
{
	struct str sub = http_param(rq, "sub");
	struct str group = http_param(rq, "rg");
	struct str name = http_param(rq, "pool");
	char key[512];

	if (!name.len)
		return find_default_pool(config, e);
	int n = snprintf(
		key, sizeof(key),
		"/subscriptions/%.*s/resourcegroups/%.*s/providers/microsoft.app/sessionpools/%.*s",
		STR_ARG(sub), STR_ARG(group), STR_ARG(name));

	for (char *p = key; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p = (char)(*p + 32);
	struct pool *pool = n < (int)sizeof(key) ? pool_find(config->pools, str_from(key)) : NULL;

	if (!pool)
		err_set(e, ERR_NO_POOL,
			"Session pool '%.*s' was not found in resource group '%.*s' (404). Create it, or check the "
			"path: /subscriptions/{id}/resourceGroups/{group}/sessionPools/{pool}/…",
			STR_ARG(name), STR_ARG(group));
	return pool;
}

struct call *call_begin(struct http_request *rq, void *ctx, enum shape shape)
{
	struct err e = ERR_INIT;
	struct call *c = http_alloc(rq, sizeof(*c));

	if (!c) {
		err_set(&e, ERR_NOMEM, "out of memory");
		http_reply_err(rq, &e);
		return NULL;
	}
	c->rq = rq;
	c->config = ctx;
	c->shape = shape;
	c->pool = call_pool(rq, c->config, &e);
	if (c->pool && http_query(rq, "api-version", &c->api_version) && c->api_version.len &&
	    !version_ok(c->api_version))
		err_set(&e, ERR_INVALID, "api-version '%.*s' is not a version; supported are: %s",
			(int)(c->api_version.len < 40 ? c->api_version.len : 40),
			c->api_version.ptr, api_versions);
	if (e.code != ERR_NONE) {
		http_reply_err(rq, &e);
		return NULL;
	}
	http_defer(rq, forget_wait, c);
	return c;
}

bool call_is_old(const struct call *c)
{
	/* "2024-10-02-preview" and later are new; without a version the path decides. */
	if (c->shape == SHAPE_OLD || c->shape == SHAPE_FLAT)
		return true;
	return c->api_version.len >= 7 && memcmp(c->api_version.ptr, "2024-10", 7) < 0;
}

int call_identifier(struct call *c, struct err *e)
{
	c->identifier = http_param(c->rq, "identifier");
	if (!c->identifier.len && !http_query(c->rq, "identifier", &c->identifier))
		return err_set(
			e, ERR_INVALID,
			"The query parameter 'identifier' is missing: add ?identifier=<4 to 128 characters>.");
	return identifier_check(c->identifier, e);
}

struct call *call_begin_of(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);
	struct err e = ERR_INIT;

	if (!c || call_identifier(c, &e) == 0)
		return c;
	call_fail(c, &e);
	return NULL;
}

struct session *call_session(struct call *c, struct err *e)
{
	if (call_identifier(c, e) < 0)
		return NULL;
	struct session *s = session_find(c->pool, c->identifier);

	c->fresh = !s;
	return session_open(c->pool, c->identifier, e);
}

static void opened(void *arg, struct session *s, struct agent_link *link)
{
	struct call *c = arg;

	c->wait = NULL;
	c->open(c->open_arg, s, link);
}

static void not_opened(void *arg, const struct err *e)
{
	struct call *c = arg;

	c->wait = NULL;
	call_fail(c, e);
}

void call_when_open(struct call *c, struct session *s,
		    void (*open)(void *arg, struct session *s, struct agent_link *link), void *arg)
{
	c->open = open;
	c->open_arg = arg;
	c->wait = session_when_open(s, opened, not_opened, c);
}

void call_session_headers(struct call *c, const struct session *s)
{
	struct session_info info = session_info(s);

	http_set_header(c->rq, "x-ms-session-guid", info.guid);
	http_set_header(c->rq, "api-supported-versions", api_versions);
}

void call_reply_json(struct call *c, int status, struct buf *b)
{
	struct err e = ERR_INIT;

	if (!buf_ok(b)) {
		buf_done(b);
		err_set(&e, ERR_INTERNAL, "the reply is too large");
		http_reply_err(c->rq, &e);
		return;
	}
	size_t len = b->len;

	http_reply_owned(c->rq, status, "application/json; charset=utf-8", buf_take(b), len);
}

#define POOL_PATH "/subscriptions/{sub}/resourceGroups/{rg}/sessionPools/{pool}"
#define WITH_ID   POOL_PATH "/identifier/{identifier}"
#define EXECUTE   "sessions:execute"
#define READ      "sessions:read"

/* Each call twice: as the service has it, and with the identifier in the path as a page of its
 * documentation had it. */
#define BOTH(method, path, handler, body, permission, summary)                                     \
	{ method, POOL_PATH path, handler, body, permission, summary },                            \
	{                                                                                          \
		method, WITH_ID path, handler, body, permission, summary                           \
	}

static const struct http_route routes[] = {
	{ "POST", WITH_ID "/code/execute", execute_founding, HTTP_BODY_BUFFER, EXECUTE,
	  "Run code (founding form)" },
	{ "POST", POOL_PATH "/code/execute", execute_old, HTTP_BODY_BUFFER, EXECUTE,
	  "Run code, api-version up to 2024-08-02-preview" },
	BOTH("POST", "/python/execute", execute_flat, HTTP_BODY_BUFFER, EXECUTE,
	     "Run code, api-version 2023-08-01-preview"),
	BOTH("POST", "/executions", execute_new, HTTP_BODY_BUFFER, EXECUTE, "Run code"),
	BOTH("GET", "/executions/{id}", execution_get, HTTP_BODY_NONE, EXECUTE,
	     "State and result of an execution"),
	BOTH("DELETE", "/executions/{id}", execution_delete, HTTP_BODY_NONE, EXECUTE,
	     "Cancel an execution"),
	BOTH("GET", "/contexts", contexts_list, HTTP_BODY_NONE, EXECUTE, "Contexts of a session"),
	BOTH("PUT", "/contexts/{name}", context_put, HTTP_BODY_BUFFER, EXECUTE, "Make a context"),
	BOTH("DELETE", "/contexts/{name}", context_remove, HTTP_BODY_NONE, EXECUTE,
	     "End a context"),
	BOTH("POST", "/contexts/{name}/restart", context_renew, HTTP_BODY_BUFFER, EXECUTE,
	     "Give a context a fresh kernel"),
	BOTH("POST", "/files/upload", files_upload_old, HTTP_BODY_STREAM, EXECUTE,
	     "Upload files, old form"),
	BOTH("POST", "/python/uploadFile", files_upload_old, HTTP_BODY_STREAM, EXECUTE,
	     "Upload files, oldest form"),
	BOTH("POST", "/files", files_upload, HTTP_BODY_STREAM, EXECUTE, "Upload a file"),
	BOTH("GET", "/files", files_list, HTTP_BODY_NONE, EXECUTE, "List files"),
	BOTH("GET", "/python/files", files_list_flat, HTTP_BODY_NONE, EXECUTE,
	     "List files, oldest form"),
	BOTH("GET", "/python/downloadFile", files_download_legacy, HTTP_BODY_NONE, EXECUTE,
	     "Download a file, oldest form"),
	BOTH("GET", "/files/{path*}", files_get, HTTP_BODY_NONE, EXECUTE,
	     "Metadata of a file, or its bytes with /content"),
	BOTH("DELETE", "/files/{path*}", files_delete, HTTP_BODY_NONE, EXECUTE, "Delete a file"),
	BOTH("GET", "/session", session_get, HTTP_BODY_NONE, EXECUTE, "A session"),
	BOTH("DELETE", "/session", session_remove, HTTP_BODY_NONE, EXECUTE, "End a session"),
	BOTH("GET", "/terminal", terminal_get, HTTP_BODY_NONE, EXECUTE,
	     "A terminal in a session (WebSocket)"),
	BOTH("GET", "/terminals", terminal_list, HTTP_BODY_NONE, EXECUTE,
	     "The terminals of a session"),
	BOTH("DELETE", "/terminals/{terminal}", terminal_remove, HTTP_BODY_NONE, EXECUTE,
	     "Hang up a terminal"),
	{ "GET", POOL_PATH "/listSessions", session_list, HTTP_BODY_NONE, READ,
	  "All sessions of the pool" },
	{ "GET", POOL_PATH "/metadata", pool_metadata, HTTP_BODY_NONE, READ,
	  "What the pool's image has" },
	{ "POST", POOL_PATH "/mcp", mcp_post, HTTP_BODY_BUFFER, DATA_PLANE_MCP,
	  "MCP server of the pool (JSON-RPC)" },
	{ "POST", POOL_PATH "/.management/{action}", session_management, HTTP_BODY_BUFFER, EXECUTE,
	  "getSession, listSessions" },
};

static struct data_plane_config kept;

int data_plane_api_key(struct http_request *rq, struct err *e)
{
	return mcp_authorize(rq, &kept, e);
}

int data_plane_routes(const struct data_plane_config *config, struct http_server *server,
		      struct err *e)
{
	static struct http_route bare[ARRAY_LEN(routes)];

	kept = *config;
	if (http_server_routes(server, routes, ARRAY_LEN(routes), &kept, e) < 0)
		return -1;
	if (!kept.default_pool)
		return 0;
	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		bare[i] = routes[i];
		bare[i].pattern += strlen(POOL_PATH);
	}
	return http_server_routes(server, bare, ARRAY_LEN(bare), &kept, e);
}
