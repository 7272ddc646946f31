/* SPDX-License-Identifier: Apache-2.0 */
#include "api/mcp.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/rand.h"

#include <stdio.h>
#include <stdlib.h>

static void launch(struct mcp *m);
static void run_shell(struct mcp *m);
static void run_python(struct mcp *m);
static void run_javascript(struct mcp *m);
static void end_environment(struct mcp *m);

#define OBJECT(properties, required)                                                               \
	"{\"type\":\"object\",\"properties\":{" properties "},\"required\":[" required "]}"
#define STRING(name, text)  "\"" name "\":{\"type\":\"string\",\"description\":\"" text "\"}"
#define INTEGER(name, text) "\"" name "\":{\"type\":\"integer\",\"description\":\"" text "\"}"
#define BOOLEAN(name, text) "\"" name "\":{\"type\":\"boolean\",\"description\":\"" text "\"}"
#define ENVIRONMENT                                                                                \
	STRING("environmentId",                                                                    \
	       "Which environment: what launchShell returned, or an identifier of "                \
	       "your own with 4 to 128 characters.")
#define LIMITS                                                                                     \
	",\"timeoutSeconds\":{\"type\":\"number\",\"description\":\"The code is ended after so "   \
	"many seconds.\"}," INTEGER("outputStreamsMaxLength",                                      \
				    "Bytes of stdout and of stderr that are returned.")

static const struct tool {
	const char *name;
	const char *language; /* the image must have it; NULL: every pool has the tool */
	const char *title;
	const char *description;
	const char *schema;
	bool read_only;
	bool destructive;
	void (*run)(struct mcp *m);
} tools[] = {
	{ "launchShell", NULL, "Launch an environment",
	  "Launches a new isolated environment and returns its environmentId for the other tools.",
	  OBJECT("", ""), false, false, launch },
	{ "launchPythonEnvironment", "python", "Launch a Python environment",
	  "The same as launchShell.", OBJECT("", ""), false, false, launch },
	{ "runShellCommandInRemoteEnvironment", "shell", "Run a shell command",
	  "Runs a command in the environment's shell, or a program with arguments without a shell. "
	  "Working directory and environment variables are kept between calls.",
	  OBJECT(ENVIRONMENT "," STRING(
			 "shellCommand",
			 "Command for bash.") ",\"execCommandAndArgs\":"
					      "{\"type\":\"array\",\"items\":{\"type\":\"string\"},\"description\":\"A program and "
					      "its arguments, in place of shellCommand.\"}" LIMITS,
		 "\"environmentId\""),
	  false, true, run_shell },
	{ "runPythonCodeInRemoteEnvironment", "python", "Run Python code",
	  "Runs Python code in the environment's interpreter. Variables are kept between calls; the "
	  "value of the last expression is returned.",
	  OBJECT(ENVIRONMENT "," STRING("pythonCode", "Python source text.") LIMITS,
		 "\"environmentId\",\"pythonCode\""),
	  false, true, run_python },
	{ "runJavaScriptCodeInRemoteEnvironment", "node", "Run JavaScript code",
	  "Runs JavaScript in the environment's Node.js. Variables are kept between calls; top-level "
	  "await works; the value of the last expression is returned.",
	  OBJECT(ENVIRONMENT "," STRING("javaScriptCode", "JavaScript source text.") LIMITS,
		 "\"environmentId\",\"javaScriptCode\""),
	  false, true, run_javascript },
	{ "listFilesInRemoteEnvironment", NULL, "List files",
	  "Lists the files below /mnt/data of the environment.",
	  OBJECT(ENVIRONMENT "," STRING("path", "Directory; default /mnt/data.") "," BOOLEAN(
			 "recursive", "Also the directories in it."),
		 "\"environmentId\""),
	  true, false, mcp_list_files },
	{ "readFileInRemoteEnvironment", NULL, "Read a file",
	  "Returns the contents of a file below /mnt/data: as text, or as base64 if it is not UTF-8.",
	  OBJECT(ENVIRONMENT "," STRING("path", "File.") "," INTEGER(
			 "maxBytes", "At most so many bytes; default 262144, at most 4194304."),
		 "\"environmentId\",\"path\""),
	  true, false, mcp_read_file },
	{ "writeFileInRemoteEnvironment", NULL, "Write a file",
	  "Writes a file below /mnt/data; missing directories are made, a file of that name is "
	  "replaced.",
	  OBJECT(ENVIRONMENT
		 "," STRING("path", "File.") "," STRING("content", "What to write.") "," STRING(
			 "encoding", "utf-8 (default), or base64 for bytes."),
		 "\"environmentId\",\"path\",\"content\""),
	  false, true, mcp_write_file },
	{ "deleteFileInRemoteEnvironment", NULL, "Delete a file",
	  "Deletes a file or an empty directory below /mnt/data.",
	  OBJECT(ENVIRONMENT "," STRING("path", "File."), "\"environmentId\",\"path\""), false,
	  true, mcp_delete_file },
	{ "endRemoteEnvironment", NULL, "End an environment",
	  "Ends the environment at once; its variables and files are gone.",
	  OBJECT(ENVIRONMENT, "\"environmentId\""), false, true, end_environment },
};

static bool offered(const struct mcp *m, const struct tool *t)
{
	const struct runtime *runtime = pool_runtime(m->call->pool);

	return !t->language || (runtime && runtime_has(runtime, t->language));
}

json_t *mcp_tools(const struct mcp *m)
{
	json_t *list = json_array();

	for (size_t i = 0; i < ARRAY_LEN(tools); i++) {
		const struct tool *t = &tools[i];

		if (!offered(m, t))
			continue;
		json_array_append_new(list, json_pack("{s:s,s:s,s:s,s:o,s:{s:s,s:b,s:b,s:b}}",
						      "name", t->name, "title", t->title,
						      "description", t->description, "inputSchema",
						      json_loads(t->schema, 0, NULL), "annotations",
						      "title", t->title, "readOnlyHint",
						      t->read_only, "destructiveHint",
						      t->destructive, "openWorldHint", 0));
	}
	return list;
}

static void invalid(struct mcp *m, const char *text)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_INVALID, "%s", text);
	mcp_error(m, MCP_INVALID_PARAMS, &e);
}

bool mcp_argument(struct mcp *m, const char *name, bool required, const char **ret)
{
	struct err e = ERR_INIT;
	json_t *v = json_find(m->arguments, name);

	*ret = mcp_text(v);
	if (*ret || (!v && !required))
		return true;
	if (!v)
		err_set(&e, ERR_INVALID, "The argument '%s' is missing.", name);
	else
		err_set(&e, ERR_INVALID, "The argument '%s' must be a string without NUL.", name);
	mcp_error(m, MCP_INVALID_PARAMS, &e);
	return false;
}

/* --- environments --- */

/*
 * The id of a launched environment says when that was, as a UUID of version 8: 48 bits of
 * milliseconds, a mark of ours, random bits. So an environment that has been used and has ended is
 * told from one that was not used yet, without remembering either.
 */
#define MARK_6 0x8b
#define MARK_7 0x1f

static void launch(struct mcp *m)
{
	unsigned char id[16];
	char hex[33];
	char text[UUID_TEXT_SIZE];
	uint64_t now_ms = (uint64_t)clock_wall_us() / 1000;

	rand_bytes(id, sizeof(id));
	for (int i = 0; i < 6; i++)
		id[i] = (unsigned char)(now_ms >> (40 - 8 * i));
	id[6] = MARK_6;
	id[7] = MARK_7;
	id[8] = (unsigned char)(0x80 | (id[8] & 0x3f));
	hex_encode(id, sizeof(id), hex);
	snprintf(text, sizeof(text), "%.8s-%.4s-%.4s-%.4s-%.12s", hex, hex + 8, hex + 12, hex + 16,
		 hex + 20);
	mcp_result(m, json_pack("{s:s}", "environmentId", text), NULL, false);
}

/* Whether it was launched so long ago that it cannot be still waiting for its first use. */
static bool launched_long_ago(const struct mcp *m, const char *id)
{
	unsigned char bytes[16];
	char hex[33];
	size_t n = 0;
	uint64_t ms = 0;
	int64_t cooldown_ms = (int64_t)pool_spec(m->call->pool)->cooldown_s * 1000;

	if (strlen(id) != UUID_TEXT_SIZE - 1)
		return false;
	for (const char *p = id; *p && n < 32; p++)
		if (*p != '-')
			hex[n++] = *p;
	hex[n] = '\0';
	if (!hex_decode((struct str){ hex, n }, bytes, sizeof(bytes)) || bytes[6] != MARK_6 ||
	    bytes[7] != MARK_7)
		return false;
	for (int i = 0; i < 6; i++)
		ms = ms << 8 | bytes[i];
	return (int64_t)ms + cooldown_ms < clock_wall_us() / 1000;
}

/* Which environment; false: the tool has ended. */
static bool environment_argument(struct mcp *m)
{
	const char *id;
	struct err e = ERR_INIT;
	struct err why = ERR_INIT;

	if (!mcp_argument(m, "environmentId", true, &id))
		return false;
	m->environment = str_from(id);
	if (identifier_check(m->environment, &why) < 0) {
		err_set(&e, ERR_INVALID, "The environment id is invalid: %s", why.msg);
		mcp_error(m, MCP_INVALID_PARAMS, &e);
		return false;
	}
	if (!session_find(m->call->pool, m->environment) && launched_long_ago(m, id)) {
		err_set(&e, ERR_NO_SESSION,
			"The environment '%s' was not found: it has ended, or was not used in time. "
			"Launch another one with launchShell.",
			id);
		mcp_error(m, MCP_REFUSED, &e);
		return false;
	}
	return true;
}

bool mcp_tool_run(struct mcp *m, const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(tools); i++) {
		if (strcmp(tools[i].name, name) != 0 || !offered(m, &tools[i]))
			continue;
		if (tools[i].run == launch || environment_argument(m))
			tools[i].run(m);
		return true;
	}
	return false;
}

static void opened(void *arg, struct session *s, struct agent_link *link)
{
	struct mcp *m = arg;

	m->wait = NULL;
	m->open(m, s, link);
}

static void not_opened(void *arg, const struct err *e)
{
	struct mcp *m = arg;

	m->wait = NULL;
	mcp_refuse(m, e);
}

void mcp_with_session(struct mcp *m,
		      void (*open)(struct mcp *m, struct session *s, struct agent_link *link))
{
	struct err e = ERR_INIT;
	struct session *s = session_open(m->call->pool, m->environment, &e);

	if (!s) {
		mcp_refuse(m, &e);
		return;
	}
	m->call->identifier = m->environment; /* for the rendering */
	m->open = open;
	m->wait = session_when_open(s, opened, not_opened, m);
}

static void end_environment(struct mcp *m)
{
	struct session *s = session_find(m->call->pool, m->environment);

	if (s)
		session_delete(s);
	mcp_result(m, json_pack("{s:b}", "ended", s != NULL), NULL, false);
}

/* --- running code --- */

/* An image leaves the structure for a content block of its own: nobody wants it twice. */
static void take_image(json_t *value, json_t *content)
{
	const char *format = json_string_value(json_object_get(value, "format"));
	json_t *data = json_object_get(value, "base64_data");

	if (!format || !data)
		return;
	json_array_append_new(content, json_pack("{s:s,s:O,s:o}", "type", "image", "data", data,
						 "mimeType", json_sprintf("image/%s", format)));
	json_object_del(value, "base64_data");
}

static json_t *images_of(json_t *result)
{
	json_t *content = json_array();
	json_t *shown = json_object_get(result, "displayData");
	json_t *value = json_object_get(result, "executionResult");
	size_t i;
	json_t *d;

	json_array_foreach(shown, i, d) {
		take_image(d, content);
	}
	/* The last of those that were shown is the value as well. */
	if (json_array_size(shown))
		json_object_del(value, "base64_data");
	else
		take_image(value, content);
	return content;
}

/* The reply of a REST call, without its nesting. */
static void executed(void *arg, struct execution *x, const struct err *e)
{
	struct mcp *m = arg;
	struct err mine = ERR_INIT;
	struct buf b;

	m->execution = NULL;
	if (e) {
		mcp_refuse(m, e);
		return;
	}
	buf_init(&b, 128u << 20);
	render_execution(&b, m->call, x);
	json_t *whole = buf_ok(&b) ? json_loadb(b.ptr, b.len, JSON_ALLOW_NUL, NULL) : NULL;
	json_t *result = json_object_get(whole, "result");
	bool failed = x->result.status != AGENT_RESULT_OK;

	buf_done(&b);
	if (!result) {
		json_decref(whole);
		err_set(&mine, ERR_INTERNAL, "the result is too large");
		mcp_refuse(m, &mine);
		return;
	}
	json_t *content = images_of(result);

	json_object_set(result, "status", json_object_get(whole, "status"));
	if (json_object_get(whole, "error"))
		json_object_set(result, "error", json_object_get(whole, "error"));
	json_incref(result);
	json_decref(whole);
	mcp_result(m, result, content, failed);
}

bool mcp_flag(struct mcp *m, const char *name, bool *ret)
{
	json_t *v = json_find(m->arguments, name);
	const char *text = mcp_text(v);
	struct err e = ERR_INIT;
	int64_t n = -1;

	*ret = json_is_true(v);
	if (!v || json_is_boolean(v) || (text && str_to_bool(str_from(text), ret)))
		return true;
	if (json_is_number(v) && json_to_int(v, &n) && (n == 0 || n == 1)) {
		*ret = n == 1;
		return true;
	}
	err_set(&e, ERR_INVALID, "The argument '%s' must be true or false.", name);
	mcp_error(m, MCP_INVALID_PARAMS, &e);
	return false;
}

/* min: 0 for above 0. */
static bool number_argument(struct mcp *m, const char *name, double fallback, double min,
			    double max, double *ret)
{
	struct err e = ERR_INIT;

	*ret = fallback;
	if (json_get_number(m->arguments, "", name, ret, &e) >= 0 && *ret > 0 && *ret >= min &&
	    *ret <= max)
		return true;
	err_set(&e, ERR_INVALID, "The argument '%s' must be a number %s and at most %.0f.", name,
		min > 0 ? "of at least 1" : "greater than 0", max);
	mcp_error(m, MCP_INVALID_PARAMS, &e);
	return false;
}

static void execute(struct mcp *m, struct session *s, struct agent_link *link)
{
	const struct session_pool_spec *spec = pool_spec(m->call->pool);
	struct err e = ERR_INIT;
	double timeout_s;
	double output;

	(void)link;
	if (!number_argument(m, "timeoutSeconds", spec->timeout_default_ms / 1000.0, 0,
			     spec->timeout_max_ms / 1000.0, &timeout_s) ||
	    !number_argument(m, "outputStreamsMaxLength", spec->output_max, 1,
			     pool_config(m->call->pool)->output_limit, &output))
		return;
	struct execution_params p = {
		.code = buf_str(&m->bytes),
		.argv = m->argv,
		.command = strcmp(m->language, "shell") == 0,
		.language = str_from(m->language),
		.execution_type = "Synchronous",
		.timeout_ms = timeout_s * 1000 < 1 ? 1 : (uint32_t)(timeout_s * 1000),
		.output_max = (uint32_t)output,
	};

	m->execution = session_execute(s, &p, executed, m, &e);
	if (!m->execution)
		mcp_refuse(m, &e);
}

/* m->bytes has the code; as soon as the session is there it runs. */
static void execute_kept(struct mcp *m, const char *language, bool argv)
{
	m->language = language;
	m->argv = argv;
	mcp_with_session(m, execute);
}

static void run_text(struct mcp *m, const char *language, const char *code)
{
	size_t max = m->call->config->code_max;
	struct err e = ERR_INIT;

	buf_init(&m->bytes, max);
	if (buf_add_str(&m->bytes, str_from(code))) {
		execute_kept(m, language, false);
		return;
	}
	err_set(&e, ERR_TOO_LARGE, "The code has %zu bytes; the limit is %zu. Write it to a file.",
		strlen(code), max);
	mcp_error(m, MCP_INVALID_PARAMS, &e);
}

static void run_python(struct mcp *m)
{
	const char *code;

	if (mcp_argument(m, "pythonCode", true, &code))
		run_text(m, "python", code);
}

static void run_javascript(struct mcp *m)
{
	const char *code;

	if (mcp_argument(m, "javaScriptCode", true, &code))
		run_text(m, "node", code);
}

static void run_program(struct mcp *m, json_t *words)
{
	size_t i;
	json_t *word;

	buf_init(&m->bytes, m->call->config->code_max);
	json_array_foreach(words, i, word) {
		const char *text = mcp_text(word);

		if (!text) {
			invalid(m,
				"The argument 'execCommandAndArgs' must be an array of strings without "
				"NUL.");
			return;
		}
		buf_add(&m->bytes, text, strlen(text) + 1);
	}
	if (!buf_ok(&m->bytes) || !m->bytes.len || !m->bytes.ptr[0]) {
		invalid(m,
			m->bytes.len
				? "The argument 'execCommandAndArgs' is too long, or begins with "
				  "an empty name."
				: "The argument 'execCommandAndArgs' is empty.");
		return;
	}
	execute_kept(m, "shell", true);
}

static void run_shell(struct mcp *m)
{
	json_t *words = json_find(m->arguments, "execCommandAndArgs");
	const char *command;

	/* A lab of the real service sends the array as `command`. */
	if (!words && json_is_array(json_find(m->arguments, "command")))
		words = json_find(m->arguments, "command");
	if (!mcp_argument(m, "shellCommand", false, &command))
		return;
	if (!command == !words) {
		invalid(m,
			command ? "Give one of 'shellCommand' and 'execCommandAndArgs', not both."
				: "The argument 'shellCommand' or 'execCommandAndArgs' is missing.");
		return;
	}
	if (words && !json_is_array(words)) {
		invalid(m, "The argument 'execCommandAndArgs' must be an array of strings.");
		return;
	}
	if (words)
		run_program(m, words);
	else
		run_text(m, "shell", command);
}
