/* SPDX-License-Identifier: Apache-2.0 */
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

int json_check_bounds(struct str text, struct err *e)
{
	size_t depth = 0;
	size_t values = 1;
	bool quoted = false;

	for (size_t i = 0; i < text.len; i++) {
		char c = text.ptr[i];

		if (quoted) {
			if (c == '\\')
				i++;
			else if (c == '"')
				quoted = false;
		} else if (c == '"') {
			quoted = true;
		} else if (c == '{' || c == '[') {
			values++;
			if (++depth > JSON_DEPTH_MAX)
				return err_set(e, ERR_MALFORMED,
					       "The JSON nests deeper than %d levels.",
					       JSON_DEPTH_MAX);
		} else if (c == ',') {
			if (++values > JSON_VALUES_MAX)
				return err_set(e, ERR_MALFORMED,
					       "The JSON has more than %d values.",
					       JSON_VALUES_MAX);
		} else if ((c == '}' || c == ']') && depth) {
			depth--;
		}
	}
	return 0;
}

json_t *json_load_body(struct str text, size_t flags, json_error_t *je)
{
	const char *ptr = text.ptr ? text.ptr : "";

	flags |= JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
	json_t *v = json_loadb(ptr, text.len, flags, je);

	if (!v && json_error_code(je) == json_error_numeric_overflow)
		v = json_loadb(ptr, text.len, flags | JSON_DECODE_INT_AS_REAL, je);
	return v;
}

static json_t *parse(struct str text, bool body, struct err *e)
{
	json_error_t je;

	if (json_check_bounds(text, e) < 0)
		return NULL;
	json_t *v = body ? json_load_body(text, JSON_DECODE_ANY, &je)
			 : json_loadb(text.ptr ? text.ptr : "", text.len,
				      JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &je);

	if (v)
		return v;
	if (json_error_code(&je) == json_error_out_of_memory)
		err_set(e, ERR_NOMEM, "No memory for a JSON text of %zu bytes.", text.len);
	else
		err_set(e, ERR_MALFORMED, "The text is not valid JSON: %s (line %d, column %d).",
			je.text, je.line, je.column);
	return NULL;
}

json_t *json_parse(struct str text, struct err *e)
{
	return parse(text, false, e);
}

json_t *json_parse_body(struct str text, struct err *e)
{
	return parse(text, true, e);
}

json_t *json_parse_object(struct str text, struct err *e)
{
	json_t *v = json_parse(text, e);

	if (v && !json_is_object(v)) {
		json_decref(v);
		err_set(e, ERR_MALFORMED, "The text must be a JSON object, in braces.");
		return NULL;
	}
	return v;
}

const char *json_find_key(const json_t *obj, const char *name)
{
	if (!json_is_object(obj))
		return NULL;
	if (json_object_get(obj, name))
		return name;
	/* jansson's iterators take a non-const object but do not change it. */
	json_t *o = (json_t *)obj;

	for (void *it = json_object_iter(o); it; it = json_object_iter_next(o, it))
		if (strcasecmp(json_object_iter_key(it), name) == 0)
			return json_object_iter_key(it);
	return NULL;
}

json_t *json_find(const json_t *obj, const char *name)
{
	const char *key = json_find_key(obj, name);
	json_t *v = key ? json_object_get(obj, key) : NULL;

	return json_is_null(v) ? NULL : v;
}

const char *json_path(char buf[static JSON_PATH_MAX], const char *path, const char *name)
{
	snprintf(buf, JSON_PATH_MAX, "%.127s%s%.127s", path, *path ? "." : "", name);
	return buf;
}

static const char *type_name(const json_t *v)
{
	static const char *const names[] = {
		[JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "a string",
		[JSON_INTEGER] = "a number", [JSON_REAL] = "a number",  [JSON_TRUE] = "true",
		[JSON_FALSE] = "false",      [JSON_NULL] = "null",
	};

	return names[json_typeof(v)];
}

static int wrong_type(const json_t *v, const char *path, const char *name, const char *want,
		      struct err *e)
{
	char full[JSON_PATH_MAX];

	return err_set(e, ERR_MALFORMED, "'%s' must be %s, not %s.", json_path(full, path, name),
		       want, type_name(v));
}

bool json_to_int(const json_t *value, int64_t *ret)
{
	if (json_is_integer(value)) {
		*ret = json_integer_value(value);
		return true;
	}
	if (json_is_real(value)) {
		double d = json_real_value(value);

		if (!(d >= -9e15 && d <= 9e15) || d != floor(d))
			return false;
		*ret = (int64_t)d;
		return true;
	}
	if (!json_is_string(value))
		return false;
	const char *text = json_string_value(value);
	size_t len = json_string_length(value);
	size_t digits = text[0] == '-' ? 1 : 0;

	if (len == digits || len > 19 || strspn(text + digits, "0123456789") != len - digits)
		return false;
	errno = 0;
	*ret = strtoll(text, NULL, 10);
	return errno == 0;
}

bool json_to_number(const json_t *value, double *ret)
{
	if (json_is_number(value)) {
		*ret = json_number_value(value);
		return isfinite(*ret);
	}
	if (!json_is_string(value))
		return false;
	const char *text = json_string_value(value);
	size_t len = json_string_length(value);
	char *end = NULL;

	/* Decimal notation only: strtod alone would take "inf", "nan" and hexadecimal. */
	if (!len || len > 32 || strspn(text, "0123456789.-") != len)
		return false;
	*ret = strtod(text, &end);
	return end == text + len && isfinite(*ret);
}

int json_get_string(const json_t *obj, const char *path, const char *name, const char **ret,
		    struct err *e)
{
	const json_t *v = json_find(obj, name);

	if (!v)
		return 0;
	if (!json_is_string(v))
		return wrong_type(v, path, name, "a string", e);
	*ret = json_string_value(v);
	return 1;
}

int json_get_bool(const json_t *obj, const char *path, const char *name, bool *ret, struct err *e)
{
	const json_t *v = json_find(obj, name);

	if (!v)
		return 0;
	if (!json_is_boolean(v))
		return wrong_type(v, path, name, "true or false", e);
	*ret = json_is_true(v);
	return 1;
}

int json_get_int(const json_t *obj, const char *path, const char *name, int64_t *ret, struct err *e)
{
	const json_t *v = json_find(obj, name);

	if (!v)
		return 0;
	if (!json_to_int(v, ret))
		return wrong_type(v, path, name, "a whole number", e);
	return 1;
}

int json_get_number(const json_t *obj, const char *path, const char *name, double *ret,
		    struct err *e)
{
	const json_t *v = json_find(obj, name);

	if (!v)
		return 0;
	if (!json_to_number(v, ret))
		return wrong_type(v, path, name, "a decimal number", e);
	return 1;
}

int json_get_object(const json_t *obj, const char *path, const char *name, json_t **ret,
		    struct err *e)
{
	json_t *v = json_find(obj, name);

	if (!v)
		return 0;
	if (!json_is_object(v))
		return wrong_type(v, path, name, "an object", e);
	*ret = v;
	return 1;
}

int json_get_array(const json_t *obj, const char *path, const char *name, json_t **ret,
		   struct err *e)
{
	json_t *v = json_find(obj, name);

	if (!v)
		return 0;
	if (!json_is_array(v))
		return wrong_type(v, path, name, "an array", e);
	*ret = v;
	return 1;
}

const char *json_word(const char *const *words, const char *text)
{
	for (; *words; words++)
		if (strcasecmp(*words, text) == 0)
			return *words;
	return NULL;
}

static int unknown_word(const char *const *words, const char *text, const char *path,
			const char *name, struct err *e)
{
	char full[JSON_PATH_MAX];
	char list[160] = "";
	size_t n = 0;

	for (; *words && n < sizeof(list); words++)
		n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", n ? ", " : "", *words);
	return err_set(e, ERR_MALFORMED, "'%s' cannot be '%.40s'. Valid values are: %s.",
		       json_path(full, path, name), text, list);
}

int json_get_word(const json_t *obj, const char *path, const char *name, const char *const *words,
		  const char **ret, struct err *e)
{
	const char *text = NULL;
	int r = json_get_string(obj, path, name, &text, e);

	if (r <= 0)
		return r;
	const char *word = json_word(words, text);

	if (!word)
		return unknown_word(words, text, path, name, e);
	*ret = word;
	return 1;
}

/* The depth is that of the patch, at most JSON_DEPTH_MAX: bounded recursion. */
static json_t *merge(const json_t *target, const json_t *patch, int depth)
{
	if (!json_is_object(patch))
		return json_deep_copy(patch);
	if (depth > JSON_DEPTH_MAX)
		return NULL;
	json_t *out = json_is_object(target) ? json_copy((json_t *)target) : json_object();
	const char *key;
	json_t *v;

	if (!out)
		return NULL;
	json_object_foreach((json_t *)patch, key, v) {
		const char *have = json_find_key(out, key);

		if (json_is_null(v)) {
			if (have)
				json_object_del(out, have);
			continue;
		}
		json_t *merged = merge(have ? json_object_get(out, have) : NULL, v, depth + 1);

		if (!merged || json_object_set_new(out, have ? have : key, merged) != 0) {
			json_decref(out);
			return NULL;
		}
	}
	return out;
}

json_t *json_merge_patch(const json_t *target, const json_t *patch)
{
	json_t *shared = merge(target, patch, 1);
	json_t *own = shared ? json_deep_copy(shared) : NULL;

	json_decref(shared);
	return own;
}

static json_t *respell_list(const json_t *v, const struct json_shape *s, const char *full,
			    struct err *e)
{
	json_t *out = json_array();
	size_t i;
	json_t *item;

	json_array_foreach((json_t *)v, i, item) {
		char at[JSON_PATH_MAX];
		json_t *fixed = NULL;

		snprintf(at, sizeof(at), "%.230s[%zu]", full, i);
		if (!json_is_object(item))
			wrong_type(item, "", at, "an object", e);
		else
			fixed = json_respell(item, s->members, at, e);
		if (!fixed || json_array_append_new(out, fixed) != 0) {
			json_decref(out);
			return NULL;
		}
	}
	return out;
}

static json_t *respell_map(const json_t *v, const char *full, struct err *e)
{
	const char *key;
	json_t *item;
	json_t *out = json_object();

	json_object_foreach((json_t *)v, key, item) {
		if (json_is_null(item))
			continue;
		if (!json_is_string(item)) {
			wrong_type(item, full, key, "a string", e);
			json_decref(out);
			return NULL;
		}
		if (json_object_set(out, key, item) != 0) {
			json_decref(out);
			return NULL;
		}
	}
	return out;
}

static json_t *respell_value(const json_t *v, const struct json_shape *s, const char *path,
			     struct err *e)
{
	char full[JSON_PATH_MAX];
	const char *word;
	int64_t n;
	double d;

	json_path(full, path, s->name);
	switch (s->kind) {
	case JSON_KIND_ANY:
		return json_deep_copy(v);
	case JSON_KIND_STRING:
		if (json_is_string(v))
			return json_copy((json_t *)v);
		wrong_type(v, path, s->name, "a string", e);
		return NULL;
	case JSON_KIND_INT:
		if (json_to_int(v, &n))
			return json_integer(n);
		wrong_type(v, path, s->name, "a whole number", e);
		return NULL;
	case JSON_KIND_NUMBER:
		if (json_to_number(v, &d))
			return json_real(d);
		wrong_type(v, path, s->name, "a decimal number", e);
		return NULL;
	case JSON_KIND_BOOL:
		if (json_is_boolean(v))
			return json_boolean(json_is_true(v));
		wrong_type(v, path, s->name, "true or false", e);
		return NULL;
	case JSON_KIND_WORD:
		if (!json_is_string(v)) {
			wrong_type(v, path, s->name, "a string", e);
			return NULL;
		}
		word = json_word(s->words, json_string_value(v));
		if (!word)
			unknown_word(s->words, json_string_value(v), path, s->name, e);
		return word ? json_string(word) : NULL;
	case JSON_KIND_OBJECT:
		if (json_is_object(v))
			return json_respell(v, s->members, full, e);
		wrong_type(v, path, s->name, "an object", e);
		return NULL;
	case JSON_KIND_LIST:
		if (json_is_array(v))
			return respell_list(v, s, full, e);
		wrong_type(v, path, s->name, "an array", e);
		return NULL;
	case JSON_KIND_MAP:
		if (json_is_object(v))
			return respell_map(v, full, e);
		wrong_type(v, path, s->name, "an object", e);
		return NULL;
	}
	return NULL;
}

/* Recursion follows the shape, a constant table, not the input. */
json_t *json_respell(const json_t *obj, const struct json_shape *shape, const char *path,
		     struct err *e)
{
	json_t *out = json_object();
	char full[JSON_PATH_MAX];
	const char *key;
	json_t *v;

	json_object_foreach((json_t *)obj, key, v) {
		const struct json_shape *s = shape;

		while (s->name && strcasecmp(s->name, key) != 0)
			s++;
		if (!s->name || json_is_null(v))
			continue;
		if (json_object_get(out, s->name)) {
			err_set(e, ERR_MALFORMED, "'%s' is given twice, in different spellings.",
				json_path(full, path, s->name));
			goto fail;
		}
		/* So that NULL without a message of its own reads as what it is. */
		err_set(e, ERR_NOMEM, "No memory for '%s'.", json_path(full, path, s->name));
		json_t *fixed = respell_value(v, s, path, e);

		if (!fixed || json_object_set_new(out, s->name, fixed) != 0)
			goto fail;
	}
	if (e)
		*e = ERR_INIT;
	return out;
fail:
	json_decref(out);
	return NULL;
}
