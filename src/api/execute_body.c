/* SPDX-License-Identifier: Apache-2.0 */
#include "api/execute_body.h"

#include "base/json.h"
#include "base/own.h"
#include "base/rand.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MEMORY_MIN     (64u << 20)
#define LANGUAGE_SHELL "shell"

int text_property(const json_t *props, const char *name, struct str *ret, struct err *e)
{
	const json_t *v = json_find(props, name);

	if (!v)
		return 0;
	if (!json_is_string(v))
		return err_set(e, ERR_INVALID, "The property '%s' must be a string.", name);
	*ret = (struct str){ json_string_value(v), json_string_length(v) };
	if (memchr(ret->ptr, '\0', ret->len))
		return err_set(e, ERR_INVALID, "The property '%s' contains a NUL character.", name);
	return 1;
}

static int parse_place(const struct call *c, struct execute_body *b, json_t *props, struct err *e)
{
	struct str language = { 0 };
	int found = text_property(props, "context", &b->params.context, e);

	if (found < 0 || (found && context_name_check(b->params.context, e) < 0))
		return -1;
	found = text_property(props, "language", &language, e);
	if (found < 0 || (found && language_find(c->pool, language, &b->params.language, e) < 0))
		return -1;
	return 0;
}

/* ---- what is to be run ---- */

static bool is_shell_pool(const struct call *c)
{
	const struct runtime *r = pool_runtime(c->pool);

	return r && r->language_count && strcmp(r->languages[0], LANGUAGE_SHELL) == 0;
}

static int check_code_len(const struct call *c, size_t len, const char *what, struct err *e)
{
	if (len > c->config->code_max)
		return err_set(e, ERR_TOO_LARGE,
			       "The %s has %zu bytes; the limit is %zu. Upload it as a file.", what,
			       len, c->config->code_max);
	return 0;
}

static int decode_base64(struct execute_body *b, struct err *e)
{
	struct buf out;

	buf_init(&out, b->params.code.len);
	bool ok = base64_decode(&out, b->params.code) && utf8_valid(buf_str(&out));

	b->params.code = (struct str){ "", 0 };
	if (ok && out.len) {
		b->params.code.len = out.len;
		b->params.code.ptr = b->code_owned = buf_take(&out);
	}
	buf_done(&out);
	if (!ok)
		return err_set(e, ERR_INVALID, "The property 'code' is not base64 of UTF-8 text.");
	return 0;
}

/* On Shell pools the service has commands only; here code runs there too, if it says in what. */
static int code_missing(const struct call *c, struct err *e)
{
	if (is_shell_pool(c))
		return err_set(e, ERR_PROPERTY_MISSING,
			       "The property 'shellCommand' is missing from the request body: this "
			       "session pool runs commands. To run 'code' in it, name its "
			       "'language'.");
	return err_set(
		e, ERR_PROPERTY_MISSING,
		"The property 'code' is missing from the request body (looked at the top level and in "
		"'properties').");
}

/* `code`, or `pythonCode` of the oldest clients, plain or base64. */
static int parse_code(const struct call *c, struct execute_body *b, json_t *props, struct err *e)
{
	const char *name = json_find(props, "code") ? "code" : "pythonCode";
	struct str input = STR("Inline");
	json_t *code = json_find(props, name);

	if (!code || (is_shell_pool(c) && !b->params.language.len && !b->params.context.len))
		return code_missing(c, e);
	if (!json_is_string(code))
		return err_set(e, ERR_INVALID, "The property '%s' must be a string.", name);
	if (text_property(props, "codeInputType", &input, e) < 0)
		return -1;
	bool base64 = str_eq_nocase(input, STR("InlineBase64"));

	if (!base64 && !str_eq_nocase(input, STR("Inline")) &&
	    !str_eq_nocase(input, STR("InlineText")))
		return err_set(
			e, ERR_INVALID,
			"codeInputType '%.*s' is unknown: use Inline, InlineText or InlineBase64.",
			(int)utf8_cut(input, 40), input.ptr);
	b->params.code = (struct str){ json_string_value(code), json_string_length(code) };
	if ((base64 && decode_base64(b, e) < 0) ||
	    check_code_len(c, b->params.code.len, "code", e) < 0)
		return -1;
	if (memchr(b->params.code.ptr, '\0', b->params.code.len))
		return err_set(e, ERR_INVALID, "The property '%s' contains a NUL character.", name);
	return 0;
}

static int check_word(const json_t *word, size_t at, struct err *e)
{
	if (!json_is_string(word))
		return err_set(e, ERR_INVALID, "execCommandAndArgs[%zu] must be a string.", at);
	if (memchr(json_string_value(word), '\0', json_string_length(word)))
		return err_set(e, ERR_INVALID, "execCommandAndArgs[%zu] contains a NUL character.",
			       at);
	if (at == 0 && !json_string_length(word))
		return err_set(e, ERR_INVALID,
			       "execCommandAndArgs[0] is the program and must not be empty.");
	return 0;
}

/* The words of a program, each ended by a NUL byte. */
static int parse_words(const struct call *c, struct execute_body *b, const json_t *words,
		       struct err *e)
{
	struct buf out;
	size_t total = 0;

	if (!json_is_array(words) || !json_array_size(words))
		return err_set(e, ERR_INVALID,
			       "execCommandAndArgs must be an array of strings: the program, then "
			       "its arguments.");
	for (size_t i = 0; i < json_array_size(words); i++) {
		const json_t *word = json_array_get(words, i);

		if (check_word(word, i, e) < 0)
			return -1;
		total += json_string_length(word) + 1;
	}
	if (check_code_len(c, total, "command with its arguments", e) < 0)
		return -1;
	buf_init(&out, total);
	for (size_t i = 0; i < json_array_size(words); i++) {
		const json_t *word = json_array_get(words, i);

		buf_add(&out, json_string_value(word), json_string_length(word) + 1);
	}
	if (!buf_ok(&out)) {
		buf_done(&out);
		return err_set(e, ERR_NOMEM, "out of memory");
	}
	b->params.argv = true;
	b->params.code.len = out.len;
	b->params.code.ptr = b->code_owned = buf_take(&out);
	return 0;
}

/* azure-api.md §1.3: the text names this version whatever was asked. */
static int check_command_version(const struct call *c, struct err *e)
{
	bool old = c->api_version.len >= 10 && memcmp(c->api_version.ptr, "2025-02-02", 10) < 0;

	if (c->shape == SHAPE_NEW && !old)
		return 0;
	return err_set(
		e, ERR_NOT_SUPPORTED,
		"Shell execution is not supported in API version 2023-08-01-preview. POST to "
		"…/executions with api-version 2025-02-02-preview or later.");
}

/* The language of commands: `language` may say it, and nothing else. */
static int command_language(const struct call *c, struct execute_body *b, struct err *e)
{
	struct err unused = ERR_INIT;
	struct str shell;

	if (language_find(c->pool, STR(LANGUAGE_SHELL), &shell, &unused) < 0)
		return err_set(e, ERR_NOT_SUPPORTED,
			       "shellCommand and execCommandAndArgs need an image with a shell: %s",
			       unused.msg);
	if (b->params.language.len && !str_eq(b->params.language, shell))
		return err_set(e, ERR_INVALID,
			       "shellCommand and execCommandAndArgs run in the language '%s', not "
			       "in '%.*s'; use 'code' for others.",
			       LANGUAGE_SHELL, STR_ARG(b->params.language));
	b->params.language = shell;
	return 0;
}

/* `shellCommand` or `execCommandAndArgs`; 0 if it is neither. */
static int parse_command(const struct call *c, struct execute_body *b, json_t *props, struct err *e)
{
	const json_t *words = json_find(props, "execCommandAndArgs");
	const json_t *command = json_find(props, "shellCommand");

	if (!words && !command)
		return 0;
	if (check_command_version(c, e) < 0)
		return -1;
	if (!!words + !!command + (json_find(props, "code") || json_find(props, "pythonCode")) > 1)
		return err_set(e, ERR_INVALID,
			       "Only one of 'shellCommand', 'execCommandAndArgs' and 'code' can be "
			       "run at once.");
	if (command_language(c, b, e) < 0)
		return -1;
	if (words ? parse_words(c, b, words, e) < 0
		  : text_property(props, "shellCommand", &b->params.code, e) < 0 ||
			    check_code_len(c, b->params.code.len, "shellCommand", e) < 0)
		return -1;
	b->params.command = true;
	return 1;
}

/* ---- how ---- */

static int parse_type(struct execute_body *b, json_t *props, struct err *e)
{
	struct str type = STR("Synchronous");

	if (text_property(props, "executionType", &type, e) < 0)
		return -1;
	b->params.async = str_eq_nocase(type, STR("Asynchronous"));
	if (!b->params.async && !str_eq_nocase(type, STR("Synchronous")))
		return err_set(e, ERR_INVALID,
			       "executionType '%.*s' is unknown: use Synchronous or Asynchronous.",
			       (int)utf8_cut(type, 40), type.ptr);
	str_copy(type, b->type, sizeof(b->type));
	b->params.execution_type = b->type;
	return 0;
}

static int parse_on_disconnect(struct execute_body *b, json_t *props, struct err *e)
{
	struct str word = { 0 };
	int found = text_property(props, "onDisconnect", &word, e);

	if (found <= 0)
		return found;
	if (str_eq_nocase(word, STR("stop")))
		b->on_disconnect = ON_DISCONNECT_STOP;
	else if (str_eq_nocase(word, STR("continue")))
		b->on_disconnect = ON_DISCONNECT_CONTINUE;
	else
		return err_set(e, ERR_INVALID,
			       "onDisconnect '%.*s' is unknown: use stop or continue.",
			       (int)utf8_cut(word, 40), word.ptr);
	if (b->params.async && b->on_disconnect == ON_DISCONNECT_STOP)
		return err_set(e, ERR_INVALID,
			       "onDisconnect 'stop' needs a caller that waits: an Asynchronous "
			       "execution has none. DELETE executions/{id} stops it.");
	return 0;
}

/* A number, or decimal text of one, of the first of two names that is there; fallback if neither
 * is. min: 0 for above 0. */
static int parse_number(json_t *props, const char *name, const char *alias, double fallback,
			double min, double max, double *ret, struct err *e)
{
	json_t *v = json_find(props, name);

	if (!v || json_is_null(v)) {
		v = alias ? json_find(props, alias) : NULL;
		name = v ? alias : name;
	}
	*ret = fallback;
	if (!v || json_is_null(v))
		return 0;
	if (json_to_number(v, ret) && *ret > 0 && *ret >= min && *ret <= max)
		return 0;
	return err_set(e, ERR_INVALID, "%s must be a number %s and at most %.0f.", name,
		       min > 0 ? "of at least 1" : "greater than 0", max);
}

/* `maxMemory`, or `max_memory`: a number of bytes or text as "512Mi"; it can only lower. */
static int parse_memory(const struct call *c, struct execute_body *b, json_t *props, struct err *e)
{
	uint64_t most = pool_spec(c->pool)->memory_bytes;
	json_t *v = json_find(props, "maxMemory");
	uint64_t bytes = 0;
	int64_t n;

	if (!v || json_is_null(v))
		v = json_find(props, "max_memory");
	if (!v || json_is_null(v))
		return 0;
	if (json_is_number(v))
		bytes = json_to_int(v, &n) && n > 0 ? (uint64_t)n : 0;
	else if (!json_is_string(v) || !str_parse_size(str_from(json_string_value(v)), &bytes))
		bytes = 0;
	if (bytes < MEMORY_MIN)
		return err_set(e, ERR_INVALID,
			       "maxMemory must be a size like '512Mi' or a number of bytes, at "
			       "least %u (64Mi).",
			       MEMORY_MIN);
	if (bytes > most)
		return err_set(e, ERR_INVALID,
			       "maxMemory is %" PRIu64
			       " bytes; sessionLimits.memory of the session "
			       "pool is %" PRIu64 ", and a call can only lower it.",
			       bytes, most);
	b->params.memory_bytes = bytes < most ? bytes : 0;
	return 0;
}

static int parse_limits(const struct call *c, struct execute_body *b, json_t *props, struct err *e)
{
	const struct session_pool_spec *spec = pool_spec(c->pool);
	double sync_max = spec->timeout_max_ms / 1000.0;
	/* Asynchronous runs have no limit of their own; a week is where milliseconds end. */
	double max = b->params.async ? 7 * 86400.0 : sync_max;
	double timeout_s;
	double output;

	if (parse_number(props, "timeoutInSeconds", "timeout",
			 b->params.async ? 0 : spec->timeout_default_ms / 1000.0, 0, max,
			 &timeout_s, e) < 0 ||
	    parse_number(props, "outputStreamsMaxLength", NULL, spec->output_max, 1,
			 pool_config(c->pool)->output_limit, &output, e) < 0)
		return -1;
	b->params.timeout_ms = (uint32_t)(timeout_s * 1000);
	if (timeout_s > 0 && !b->params.timeout_ms)
		b->params.timeout_ms = 1;
	b->params.output_max = (uint32_t)output;
	return parse_memory(c, b, props, e);
}

/* Text writers of .NET and PowerShell put a byte order mark first, which JSON lets a reader ignore
 * (RFC 8259, 8.1). */
static struct str without_mark(struct str body)
{
	struct str mark = STR("\xef\xbb\xbf");
	bool marked = body.len >= mark.len && memcmp(body.ptr, mark.ptr, mark.len) == 0;
	size_t skip = marked ? mark.len : 0;

	return (struct str){ body.ptr + skip, body.len - skip };
}

int execute_body_parse(const struct call *c, struct execute_body *b, struct err *e)
{
	struct str body = without_mark(http_body(c->rq));
	json_error_t je;

	if (json_check_bounds(body, e) < 0)
		return -1;
	b->json = json_load_body(body, 0, &je);
	if (!b->json)
		return err_set(e, ERR_MALFORMED,
			       "The request body is not valid JSON (line %d, column %d): %.160s.",
			       je.line, je.column, je.text);
	if (!json_is_object(b->json))
		return err_set(e, ERR_MALFORMED, "The request body must be a JSON object.");
	/* Old clients wrap, new ones do not, az wraps against the new API: take what is there. */
	json_t *props = json_find(b->json, "properties");

	if (!json_is_object(props))
		props = b->json;
	if (parse_type(b, props, e) < 0 || parse_place(c, b, props, e) < 0 ||
	    parse_on_disconnect(b, props, e) < 0)
		return -1;
	int command = parse_command(c, b, props, e);

	if (command < 0 || (!command && parse_code(c, b, props, e) < 0))
		return -1;
	return parse_limits(c, b, props, e);
}

void execute_body_done(struct execute_body *b)
{
	json_decref(b->json);
	free(b->code_owned);
	*b = (struct execute_body){ 0 };
}
