/* SPDX-License-Identifier: Apache-2.0 */
/* JSON helpers. The input is one text, or two separated by a NUL byte: a document and a patch for
 * it. */
#include "base/json.h"
#include "base/own.h"

#include <assert.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const words[] = { "One", "Two", NULL };
static const struct json_shape inner[] = {
	{ .name = "int", .kind = JSON_KIND_INT },
	{ .name = "number", .kind = JSON_KIND_NUMBER },
	{ .name = "bool", .kind = JSON_KIND_BOOL },
	{ .name = "word", .kind = JSON_KIND_WORD, .words = words },
	{ .name = "string", .kind = JSON_KIND_STRING },
	{ 0 },
};
static const struct json_shape shape[] = {
	{ .name = "inner", .kind = JSON_KIND_OBJECT, .members = inner },
	{ .name = "list", .kind = JSON_KIND_LIST, .members = inner },
	{ .name = "map", .kind = JSON_KIND_MAP },
	{ .name = "any", .kind = JSON_KIND_ANY },
	{ 0 },
};

static void check_object(const json_t *v)
{
	struct err e = ERR_INIT;
	json_t *once = json_respell(v, shape, "", &e);

	if (once) {
		/* What is canonical stays as it is. */
		json_t *twice = json_respell(once, shape, "", &e);

		assert(json_equal(once, twice));
		json_decref(twice);
		json_decref(once);
	} else {
		assert(e.code == ERR_MALFORMED && e.msg[0]);
	}
	const json_t *in = json_find(v, "inner");
	const char *text;
	int64_t n;
	double d;
	bool b;
	json_t *part;

	json_get_int(in, "inner", "int", &n, &e);
	json_get_number(in, "inner", "number", &d, &e);
	json_get_bool(in, "inner", "bool", &b, &e);
	json_get_string(in, "inner", "string", &text, &e);
	json_get_word(in, "inner", "word", words, &text, &e);
	json_get_object(v, "", "map", &part, &e);
	json_get_array(v, "", "list", &part, &e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *mark = size ? memchr(data, 0, size) : NULL;
	size_t len = mark ? (size_t)(mark - data) : size;
	struct err e = ERR_INIT;
	json_t *doc = json_parse((struct str){ (const char *)data, len }, &e);
	json_t *patch = NULL;

	if (mark)
		patch = json_parse((struct str){ (const char *)mark + 1, size - len - 1 }, &e);
	if (doc) {
		OWNED_MEM char *text = json_dumps(doc, JSON_COMPACT | JSON_ENCODE_ANY);
		json_t *again = json_parse(str_from(text), &e);

		assert(again && json_equal(doc, again));
		json_decref(again);
		if (json_is_object(doc))
			check_object(doc);
	}
	if (doc && patch) {
		json_t *out = json_merge_patch(doc, patch);

		assert(out);
		json_decref(out);
	}
	json_decref(patch);
	json_decref(doc);
	return 0;
}
