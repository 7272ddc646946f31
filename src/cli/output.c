/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/output.h"

#include "base/own.h"
#include "cli/query.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define COLOUR_KEY    "\033[94m"
#define COLOUR_STRING "\033[32m"
#define COLOUR_OTHER  "\033[36m"
#define COLOUR_OFF    "\033[0m"

static bool add_real(struct buf *out, double v)
{
	char text[40];

	for (int digits = 15; digits <= 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, v);
		if (strtod(text, NULL) == v)
			break;
	}
	/* Keep it a real for whoever reads it. */
	if (!strpbrk(text, ".eE"))
		strcat(text, ".0");
	return buf_add_str(out, str_from(text));
}

static bool add_string(struct buf *out, const char *ptr, size_t len)
{
	buf_add(out, "\"", 1);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)ptr[i];

		if (c == '"' || c == '\\')
			buf_addf(out, "\\%c", c);
		else if (c == '\n')
			buf_add(out, "\\n", 2);
		else if (c == '\t')
			buf_add(out, "\\t", 2);
		else if (c == '\r')
			buf_add(out, "\\r", 2);
		else if (c < 0x20 || c == 0x7f)
			buf_addf(out, "\\u%04x", c);
		else
			buf_add(out, &ptr[i], 1);
	}
	return buf_add(out, "\"", 1);
}

/* Recursion is as deep as the parser allowed (JSON_PARSER_MAX_DEPTH). */
bool json_compact(struct buf *out, const json_t *value)
{
	const char *key;
	json_t *item;
	size_t i;

	switch (json_typeof(value)) {
	case JSON_OBJECT:
		buf_add(out, "{", 1);
		i = 0;
		json_object_foreach((json_t *)value, key, item) {
			if (i++)
				buf_add(out, ",", 1);
			add_string(out, key, strlen(key));
			buf_add(out, ":", 1);
			json_compact(out, item);
		}
		return buf_add(out, "}", 1);
	case JSON_ARRAY:
		buf_add(out, "[", 1);
		json_array_foreach(value, i, item) {
			if (i)
				buf_add(out, ",", 1);
			json_compact(out, item);
		}
		return buf_add(out, "]", 1);
	case JSON_STRING:
		return add_string(out, json_string_value(value), json_string_length(value));
	case JSON_INTEGER:
		return buf_addf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	case JSON_REAL:
		return add_real(out, json_real_value(value));
	case JSON_TRUE:
		return buf_add(out, "true", 4);
	case JSON_FALSE:
		return buf_add(out, "false", 5);
	default:
		return buf_add(out, "null", 4);
	}
}

static void add_newline(struct buf *out, unsigned depth)
{
	buf_add(out, "\n", 1);
	for (unsigned i = 0; i < depth; i++)
		buf_add(out, "  ", 2);
}

/** scalar_len: bytes of the string, number or word that starts at i. */
static size_t scalar_len(struct str s, size_t i)
{
	size_t j = i + 1;

	if (s.ptr[i] != '"') {
		while (j < s.len && !strchr(" \t\r\n,:[]{}\"", s.ptr[j]))
			j++;
		return j - i;
	}
	while (j < s.len && s.ptr[j] != '"')
		j += s.ptr[j] == '\\' ? 2 : 1;
	return (j < s.len ? j + 1 : s.len) - i;
}

static size_t skip_space(struct str s, size_t i)
{
	while (i < s.len && isspace((unsigned char)s.ptr[i]))
		i++;
	return i;
}

static void add_scalar(struct buf *out, struct str s, bool is_key, bool colour)
{
	const char *tint = is_key ? COLOUR_KEY : s.ptr[0] == '"' ? COLOUR_STRING : COLOUR_OTHER;

	if (colour)
		buf_add_str(out, str_from(tint));
	buf_add_str(out, s);
	if (colour)
		buf_add_str(out, STR(COLOUR_OFF));
}

bool json_reformat(struct buf *out, struct str s, bool colour)
{
	unsigned depth = 0;

	for (size_t i = skip_space(s, 0); i < s.len; i = skip_space(s, i)) {
		char c = s.ptr[i];
		size_t next;

		switch (c) {
		case '{':
		case '[':
			buf_add(out, &c, 1);
			next = skip_space(s, i + 1);
			if (next < s.len && (s.ptr[next] == '}' || s.ptr[next] == ']')) {
				buf_add(out, &s.ptr[next], 1);
				i = next + 1;
				break;
			}
			add_newline(out, ++depth);
			i++;
			break;
		case '}':
		case ']':
			depth -= depth > 0;
			add_newline(out, depth);
			buf_add(out, &c, 1);
			i++;
			break;
		case ',':
			buf_add(out, ",", 1);
			add_newline(out, depth);
			i++;
			break;
		case ':':
			buf_add(out, ": ", 2);
			i++;
			break;
		default: {
			size_t len = scalar_len(s, i);

			next = skip_space(s, i + len);
			add_scalar(out, (struct str){ s.ptr + i, len },
				   next < s.len && s.ptr[next] == ':', colour);
			i += len;
		}
		}
	}
	return buf_ok(out);
}

json_t *output_load(struct str json, struct err *e)
{
	json_error_t why;
	size_t flags = JSON_DECODE_ANY | JSON_ALLOW_NUL;
	json_t *v = json_loadb(json.ptr, json.len, flags, &why);

	if (!v && json_error_code(&why) == json_error_numeric_overflow)
		v = json_loadb(json.ptr, json.len, flags | JSON_DECODE_INT_AS_REAL, &why);
	if (!v)
		err_set(e, ERR_PROTOCOL, "the server's answer is not valid JSON: %s (byte %d)",
			why.text, why.position);
	return v;
}

/** group_of: the GROUP of /subscriptions/S/resourceGroups/GROUP/providers/NS/TYPE/NAME…; empty if
 * the id is none of these, like the id of a group. */
static struct str group_of(struct str id)
{
	struct str parts[9];
	size_t count = 0;

	for (size_t from = 0, to = 0; to <= id.len && count < ARRAY_LEN(parts); to++)
		if (to == id.len || id.ptr[to] == '/') {
			parts[count++] = (struct str){ id.ptr + from, to - from };
			from = to + 1;
		}
	if (count < ARRAY_LEN(parts) || !str_eq_nocase(parts[3], STR("resourceGroups")))
		return STR("");
	return parts[4];
}

/* Recursion is as deep as the parser allowed (JSON_PARSER_MAX_DEPTH). */
void output_add_groups(json_t *value)
{
	const json_t *id = json_object_get(value, "id");
	bool has_group = false;
	const char *key;
	json_t *item;
	size_t i;

	json_array_foreach(value, i, item)
		output_add_groups(item);
	json_object_foreach(value, key, item) {
		has_group = has_group || !strcasecmp(key, "resourceGroup");
		output_add_groups(item);
	}
	if (has_group || !json_is_string(id))
		return;
	struct str group = group_of((struct str){ json_string_value(id), json_string_length(id) });

	if (group.len)
		json_object_set_new(value, "resourceGroup", json_stringn(group.ptr, group.len));
}

static bool tsv_add(struct buf *out, const json_t *v, bool in_row)
{
	switch (json_typeof(v)) {
	case JSON_STRING:
		return buf_add(out, json_string_value(v), json_string_length(v));
	case JSON_ARRAY:
		return buf_addf(out, "%zu", json_array_size(v));
	case JSON_OBJECT:
		return buf_ok(out);
	case JSON_TRUE:
		return buf_add_str(out, in_row ? STR("True") : STR("true"));
	case JSON_FALSE:
		return buf_add_str(out, in_row ? STR("False") : STR("false"));
	case JSON_NULL:
		return buf_add_str(out, STR("None"));
	default:
		return json_compact(out, v);
	}
}

static int compare_keys(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool tsv_add_object(struct buf *out, const json_t *object)
{
	size_t count = json_object_size(object), i = 0;
	OWNED_MEM const char **keys = calloc(count ? count : 1, sizeof(*keys));
	const char *key;
	json_t *item;

	if (!keys)
		return false;
	json_object_foreach((json_t *)object, key, item)
		keys[i++] = key;
	qsort(keys, count, sizeof(*keys), compare_keys);
	for (i = 0; i < count; i++) {
		if (i)
			buf_add(out, "\t", 1);
		tsv_add(out, json_object_get(object, keys[i]), true);
	}
	return buf_ok(out);
}

static bool tsv_add_row(struct buf *out, const json_t *row)
{
	json_t *item;
	size_t i;

	if (json_is_object(row)) {
		tsv_add_object(out, row);
	} else if (json_is_array(row)) {
		json_array_foreach(row, i, item) {
			if (i)
				buf_add(out, "\t", 1);
			tsv_add(out, item, true);
		}
	} else {
		tsv_add(out, row, false);
	}
	return buf_add(out, "\n", 1);
}

bool output_tsv(struct buf *out, const json_t *value)
{
	json_t *item;
	size_t i;

	if (!json_is_array(value))
		return tsv_add_row(out, value);
	json_array_foreach(value, i, item)
		tsv_add_row(out, item);
	return buf_ok(out);
}

static int print_buf(struct buf *b, struct err *e)
{
	int rc = 0;

	if (!buf_ok(b))
		rc = err_set(e, ERR_TOO_LARGE, "the output is larger than %u MiB",
			     OUTPUT_TEXT_MAX >> 20);
	else if (fwrite(b->ptr ? b->ptr : "", 1, b->len, stdout) != b->len || fflush(stdout))
		rc = err_sys(e, "writing the output");
	buf_done(b);
	return rc;
}

static int print_value(const struct output *o, json_t *value, struct err *e)
{
	struct buf b, compact;

	if (json_is_null(value) || o->format == OUTPUT_NONE)
		return 0;
	if (o->format == OUTPUT_TABLE)
		return output_table(stdout, value, e);
	buf_init(&b, OUTPUT_TEXT_MAX);
	if (o->format == OUTPUT_TSV) {
		output_tsv(&b, value);
		return print_buf(&b, e);
	}
	buf_init(&compact, OUTPUT_TEXT_MAX);
	json_compact(&compact, value);
	b.failed = !buf_ok(&compact);
	json_reformat(&b, buf_str(&compact), o->format == OUTPUT_JSONC);
	buf_add(&b, "\n", 1);
	buf_done(&compact);
	return print_buf(&b, e);
}

int output_json(const struct output *o, json_t *value, struct err *e)
{
	if (!o->query)
		return print_value(o, value, e);
	json_t *picked = query_run(o->query, value, e);

	if (!picked)
		return -1;
	int rc = print_value(o, picked, e);

	json_decref(picked);
	return rc;
}

int output_text(const struct output *o, struct str json, struct err *e)
{
	json_t *value = output_load(json, e);

	if (!value)
		return -1;
	int rc;

	if (!o->query && !json_is_null(value) &&
	    (o->format == OUTPUT_JSON || o->format == OUTPUT_JSONC)) {
		struct buf b;

		buf_init(&b, OUTPUT_TEXT_MAX);
		json_reformat(&b, json, o->format == OUTPUT_JSONC);
		buf_add(&b, "\n", 1);
		rc = print_buf(&b, e);
	} else {
		rc = output_json(o, value, e);
	}
	json_decref(value);
	return rc;
}
