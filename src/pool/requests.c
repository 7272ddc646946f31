/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/internal.h"

#include <stdio.h>

/* What an execution was asked to do, as the store keeps it until the result is there. */

char *request_to_json(const struct execution *x)
{
	json_t *doc = json_pack("{s:s%,s:b,s:b,s:s,s:s,s:s,s:I,s:I,s:I}", "code", x->code,
				x->code_len, "argv", x->argv, "command", x->command, "context",
				x->context->name, "language", x->context->language, "executionType",
				x->execution_type, "timeoutMs", (json_int_t)x->timeout_ms,
				"outputMax", (json_int_t)x->output_max, "memoryBytes",
				(json_int_t)x->memory_bytes);
	char *text = doc ? json_dumps(doc, JSON_COMPACT) : NULL;

	json_decref(doc);
	return text;
}

int request_from_json(struct execution *x, const char *request, const char **ret_context,
		      const char **ret_language, json_t **ret_doc)
{
	json_error_t je;
	json_t *doc = json_loads(request, JSON_ALLOW_NUL, &je);
	const char *code = "";
	const char *type = "Asynchronous";
	json_int_t timeout = 0;
	json_int_t output = 4096;
	json_int_t memory = 0;
	size_t len = 0;
	int argv = 0;
	int command = 0;

	*ret_doc = doc;
	if (!doc ||
	    json_unpack(doc, "{s:s%,s?b,s?b,s?s,s?s,s:s,s:I,s:I,s?I}", "code", &code, &len, "argv",
			&argv, "command", &command, "context", ret_context, "language",
			ret_language, "executionType", &type, "timeoutMs", &timeout, "outputMax",
			&output, "memoryBytes", &memory) < 0 ||
	    !(x->code = str_dup((struct str){ code, len })))
		return -1;
	x->code_len = len;
	x->argv = argv;
	x->command = command;
	snprintf(x->execution_type, sizeof(x->execution_type), "%s", type);
	x->timeout_ms = (uint32_t)timeout;
	x->output_max = (uint32_t)output;
	x->memory_bytes = (uint64_t)memory;
	return 0;
}
