/* SPDX-License-Identifier: Apache-2.0 */
#include "api/mcp.h"

#include "arm/mcp_keys.h"
#include "base/clock.h"
#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>

#define BATCH_MAX 32
/* SECURITY: a batch runs no further tool once its results have so many bytes, so that 32 times the
 * largest result is not what one request can make the daemon hold. */
#define RESULTS_MAX (16u << 20)

/* Newest last: what is answered to a client that asks for one we do not know. */
static const char *const versions[] = { "2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25" };
/* What the real service answers, and what a client that names no version gets. */
#define VERSION_DEFAULT "2025-03-26"

static void step(struct mcp *m);

static const char *find_version(const char *wanted)
{
	for (size_t i = 0; wanted && i < ARRAY_LEN(versions); i++)
		if (strcmp(versions[i], wanted) == 0)
			return versions[i];
	return NULL;
}

int mcp_authorize(struct http_request *rq, const struct data_plane_config *config, struct err *e)
{
	struct str key;

	if (!http_header(rq, "x-ms-apikey", &key))
		return 0;
	struct pool *pool = call_pool(rq, config, NULL);

	/* SECURITY: whether there is such a pool is not for those without a key to know. */
	if (pool && pool_spec(pool)->mcp && !pool_spec(pool)->mcp_key_off &&
	    mcp_keys_good(config->store, pool_spec(pool)->key, clock_wall_us(), key))
		return 1;
	return err_set(
		e, ERR_UNAUTHORIZED,
		"The header x-ms-apikey is not the MCP key of this session pool. Fetch it with "
		"POST …/fetchMcpServerCredentials.");
}

/* --- replies --- */

const char *mcp_text(const json_t *value)
{
	const char *text = json_string_value(value);

	return text && strlen(text) == json_string_length(value) ? text : NULL;
}

/* body: "result" or "error"; takes it. */
static void add_reply(struct mcp *m, json_t *id, const char *name, json_t *body)
{
	json_t *reply = body ? json_pack("{s:s,s:O,s:o}", "jsonrpc", "2.0", "id", id, name, body)
			     : NULL;

	if (!reply || json_array_append_new(m->replies, reply) < 0)
		m->no_memory = true;
}

/* A message may quote the caller, and be cut within a character; jansson takes UTF-8 only. */
static json_t *message_text(const char *message)
{
	struct buf clean;

	buf_init(&clean, 4 * ERR_MSG_MAX);
	buf_add_utf8(&clean, str_from(message));
	json_t *text = json_stringn(buf_str(&clean).ptr, clean.len);

	buf_done(&clean);
	return text;
}

static json_t *error_object(int code, const struct err *e, const char *message)
{
	json_t *error =
		json_pack("{s:i,s:o}", "code", code, "message", message_text(e ? e->msg : message));

	/* What a REST call would have said. */
	if (error && e && code == MCP_REFUSED)
		json_object_set_new(error, "data",
				    json_pack("{s:s,s:i}", "code", err_api_code(e->code), "status",
					      err_http_status(e->code)));
	return error;
}

static json_t *message_id(const struct mcp *m)
{
	json_t *id = json_object_get(json_array_get(m->messages, m->at), "id");

	return id ? id : json_null(); /* json_null() is no reference that anybody counts */
}

static void fail(struct mcp *m, int code, const char *message)
{
	add_reply(m, message_id(m), "error", error_object(code, NULL, message));
}

/* The tool is through: on with the next message, unless step() is on the stack and does it. */
static void tool_ended(struct mcp *m)
{
	m->waiting = false;
	m->arguments = NULL;
	m->execution = NULL;
	m->file = NULL;
	buf_done(&m->bytes);
	if (m->stepping)
		return;
	m->at++;
	step(m);
}

/* A model reads the text: 0.1 is not to be 0.10000000000000001 there. */
static size_t dump_flags(const json_t *structured)
{
	const json_t *value = json_object_get(structured, "executionResult");
	char text[40];
	int digits = 15;

	for (; json_is_real(value) && digits < 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, json_real_value(value));
		if (strtod(text, NULL) == json_real_value(value))
			break;
	}
	return JSON_COMPACT | JSON_REAL_PRECISION((size_t)digits);
}

/* The bytes of images among content blocks. */
static size_t content_bytes(const json_t *content)
{
	size_t bytes = 0;
	size_t i;
	json_t *block;

	json_array_foreach(content, i, block)
		bytes += json_string_length(json_object_get(block, "data"));
	return bytes;
}

void mcp_result(struct mcp *m, json_t *structured, json_t *content, bool is_error)
{
	char *text = structured ? json_dumps(structured, dump_flags(structured)) : NULL;
	json_t *blocks = text ? json_pack("[{s:s,s:s}]", "type", "text", "text", text) : NULL;

	/* The text is there twice. */
	m->reply_bytes += (text ? 2 * strlen(text) : 0) + content_bytes(content);
	free(text);
	if (blocks && content && json_array_extend(blocks, content) < 0)
		m->no_memory = true;
	json_decref(content);
	add_reply(m, message_id(m), "result",
		  json_pack("{s:o,s:o,s:b}", "content", blocks, "structuredContent", structured,
			    "isError", is_error));
	tool_ended(m);
}

void mcp_error(struct mcp *m, int code, const struct err *e)
{
	add_reply(m, message_id(m), "error", error_object(code, e, NULL));
	tool_ended(m);
}

void mcp_refuse(struct mcp *m, const struct err *e)
{
	mcp_error(m, MCP_REFUSED, e);
}

static void send(struct mcp *m, int status, json_t *body)
{
	struct err e = ERR_INIT;
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

	if (!text) {
		err_set(&e, ERR_NOMEM, "out of memory");
		http_reply_err(m->call->rq, &e);
		return;
	}
	http_reply_owned(m->call->rq, status, "application/json", text, strlen(text));
}

static void send_all(struct mcp *m)
{
	if (m->no_memory)
		send(m, 500, NULL);
	else if (json_array_size(m->replies) == 0)
		http_reply_empty(m->call->rq, 202);
	else
		send(m, 200, m->batch ? m->replies : json_array_get(m->replies, 0));
}

/* --- methods --- */

static void initialize(struct mcp *m, json_t *params)
{
	const char *wanted = mcp_text(json_object_get(params, "protocolVersion"));
	const char *version = wanted ? find_version(wanted) : VERSION_DEFAULT;
	/* call and list are not in MCP's schema; the real service says them. */
	json_t *result = json_pack(
		"{s:s,s:{s:{s:b,s:b,s:b}},s:{s:s,s:s,s:s},s:s}", "protocolVersion",
		version ? version : versions[ARRAY_LEN(versions) - 1], "capabilities", "tools",
		"call", 1, "list", 1, "listChanged", 0, "serverInfo", "name",
		"Microsoft Container Apps MCP Server", "title", "Bivouac", "version",
		BIVOUAC_VERSION, "instructions",
		"Each environment is an isolated computer. Launch one with launchShell and give its "
		"environmentId to the other tools; variables and files stay between calls. It ends "
		"after a time without use; files of interest are below /mnt/data.");

	add_reply(m, message_id(m), "result", result);
}

/* Whether there is room for the result of a further tool; replies if not. */
static bool has_room(struct mcp *m)
{
	struct err e = ERR_INIT;

	if (m->reply_bytes <= RESULTS_MAX)
		return true;
	err_set(&e, ERR_TOO_LARGE,
		"The results of this batch have %zu bytes already; after %u no further tool is run. "
		"Send the rest in another request.",
		m->reply_bytes, RESULTS_MAX);
	add_reply(m, message_id(m), "error", error_object(MCP_REFUSED, &e, NULL));
	return false;
}

static void tools_call(struct mcp *m, json_t *params)
{
	const char *name = mcp_text(json_object_get(params, "name"));
	json_t *arguments = json_object_get(params, "arguments");
	char text[160];

	if (!name) {
		fail(m, MCP_INVALID_PARAMS, "params.name must be a string: which tool?");
		return;
	}
	if (arguments && !json_is_object(arguments) && !json_is_null(arguments)) {
		fail(m, MCP_INVALID_PARAMS, "params.arguments must be an object.");
		return;
	}
	if (!has_room(m))
		return;
	m->arguments = json_is_object(arguments) ? arguments : NULL;
	m->waiting = true;
	if (mcp_tool_run(m, name))
		return;
	m->waiting = false;
	snprintf(text, sizeof(text), "Unknown tool '%.64s'. tools/list names those of this pool.",
		 name);
	fail(m, MCP_INVALID_PARAMS, text);
}

static void request(struct mcp *m, const char *method, json_t *params)
{
	char text[160];

	if (strcmp(method, "initialize") == 0) {
		initialize(m, params);
	} else if (strcmp(method, "ping") == 0) {
		add_reply(m, message_id(m), "result", json_object());
	} else if (strcmp(method, "tools/list") == 0) {
		/* All on one page: a cursor is none of ours. */
		if (json_object_get(params, "cursor") &&
		    !json_is_null(json_object_get(params, "cursor")))
			fail(m, MCP_INVALID_PARAMS,
			     "params.cursor is not one that this server issued.");
		else
			add_reply(m, message_id(m), "result",
				  json_pack("{s:o}", "tools", mcp_tools(m)));
	} else if (strcmp(method, "tools/call") == 0) {
		tools_call(m, params);
	} else {
		snprintf(
			text, sizeof(text),
			"Method '%.64s' not found. This server has initialize, ping, tools/list and "
			"tools/call.",
			method);
		fail(m, MCP_METHOD_NOT_FOUND, text);
	}
}

static void message(struct mcp *m, json_t *msg)
{
	json_t *id = json_object_get(msg, "id");
	json_t *method = json_object_get(msg, "method");
	json_t *params = json_object_get(msg, "params");
	const char *version = mcp_text(json_object_get(msg, "jsonrpc"));

	if (!json_is_object(msg) || !version || strcmp(version, "2.0") != 0) {
		add_reply(m, json_null(), "error",
			  error_object(MCP_INVALID_REQUEST, NULL,
				       "A message is an object with \"jsonrpc\":\"2.0\"."));
		return;
	}
	if (!method && (json_object_get(msg, "result") || json_object_get(msg, "error")))
		return; /* a response; we ask nothing */
	if (!mcp_text(method) || (id && !json_is_string(id) && !json_is_number(id))) {
		add_reply(m, json_null(), "error",
			  error_object(
				  MCP_INVALID_REQUEST, NULL,
				  "\"method\" must be a string without NUL, \"id\" a string or a "
				  "number."));
		return;
	}
	if (!id)
		return; /* a notification: nothing here depends on one */
	if (params && !json_is_object(params) && !json_is_null(params)) {
		fail(m, MCP_INVALID_PARAMS, "\"params\" must be an object.");
		return;
	}
	request(m, json_string_value(method), params);
}

static void step(struct mcp *m)
{
	if (m->ended)
		return;
	m->stepping = true;
	while (m->at < json_array_size(m->messages)) {
		message(m, json_array_get(m->messages, m->at));
		if (m->waiting)
			break;
		m->at++;
	}
	m->stepping = false;
	if (!m->waiting)
		send_all(m);
}

/* --- the HTTP request --- */

static void mcp_done(void *arg)
{
	struct mcp *m = arg;

	m->ended = true;
	session_wait_cancel(m->wait);
	/* The client may have gone, which MCP does not take for a wish to stop: code runs on. */
	if (m->execution)
		execution_detach(m->execution, false);
	agent_file_cancel(m->file);
	buf_done(&m->bytes);
	json_decref(m->messages);
	json_decref(m->replies);
}

static bool version_header_ok(struct http_request *rq)
{
	struct str given;
	char text[32];

	if (!http_header(rq, "MCP-Protocol-Version", &given))
		return true;
	return str_copy(given, text, sizeof(text)) && find_version(text);
}

static void refuse_whole(struct mcp *m, int code, const char *message)
{
	json_t *body = json_pack("{s:s,s:n,s:o}", "jsonrpc", "2.0", "id", "error",
				 error_object(code, NULL, message));

	send(m, 400, body);
	json_decref(body);
}

/* Takes the body apart; false: answered. */
static bool read_messages(struct mcp *m)
{
	struct err e = ERR_INIT;
	char text[96];
	json_t *body = json_parse_nul(http_body(m->call->rq), &e);

	if (!body) {
		refuse_whole(m, MCP_PARSE_ERROR, e.msg);
		return false;
	}
	m->batch = json_is_array(body);
	m->messages = m->batch ? body : json_pack("[o]", body);
	m->replies = json_array();
	if (json_array_size(m->messages) && json_array_size(m->messages) <= BATCH_MAX)
		return true;
	snprintf(text, sizeof(text), "A batch has 1 to %d messages.", BATCH_MAX);
	refuse_whole(m, MCP_INVALID_REQUEST, text);
	return false;
}

void mcp_post(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);
	struct mcp *m = c ? http_alloc(rq, sizeof(*m)) : NULL;
	struct err e = ERR_INIT;

	if (!c)
		return;
	if (!m) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(c, &e);
		return;
	}
	if (!pool_spec(c->pool)->mcp) {
		err_set(&e, ERR_NO_MCP,
			"Session pool '%s' does not have MCP Server enabled. Set "
			"properties.mcpServerSettings.isMcpServerEnabled to true.",
			pool_spec(c->pool)->name);
		call_fail(c, &e);
		return;
	}
	m->call = c;
	http_defer(rq, mcp_done, m);
	if (!version_header_ok(rq)) {
		refuse_whole(
			m, MCP_INVALID_REQUEST,
			"MCP-Protocol-Version is not one of 2024-11-05, 2025-03-26, 2025-06-18, "
			"2025-11-25.");
		return;
	}
	if (read_messages(m))
		step(m);
}
