/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/query.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum step_kind { STEP_FIELD, STEP_INDEX, STEP_EACH, STEP_FLATTEN };

struct step {
	enum step_kind kind;
	long index;
	char *name; /* below the plan's names */
};

struct plan {
	struct step steps[QUERY_STEPS_MAX];
	size_t count;
	char names[QUERY_TEXT_MAX * 2];
	size_t names_len;
};

static int refuse(struct err *e, const char *what, const char *at)
{
	return err_set(e, ERR_INVALID,
		       "--query: %s is not supported (at '%.40s'); supported are dotted paths, "
		       "\"quoted names\", [0], [-1], [] and [*]",
		       what, at);
}

/** refuse_at: names the construct of JMESPath that starts at p. */
static int refuse_at(const char *p, struct err *e)
{
	static const struct {
		const char *start;
		const char *what;
	} constructs[] = {
		{ "||", "an or expression (||)" },
		{ "|", "a pipe (|)" },
		{ "&&", "an and expression (&&)" },
		{ "&", "an expression reference (&)" },
		{ "*", "an object projection (*)" },
		{ "@", "the current node (@)" },
		{ "{", "a multi-select hash ({…})" },
		{ "[?", "a filter ([?…])" },
		{ "[", "a multi-select list ([…])" },
		{ "`", "a literal (`…`)" },
		{ "'", "a raw string ('…')" },
		{ "==", "a comparison" },
		{ "!=", "a comparison" },
		{ "<", "a comparison" },
		{ ">", "a comparison" },
		{ "!", "a not expression (!)" },
		{ "(", "a function call or group ((…))" },
		{ "-", "'-' in a name without quotes" },
	};

	for (size_t i = 0; i < sizeof(constructs) / sizeof(constructs[0]); i++)
		if (!strncmp(p, constructs[i].start, strlen(constructs[i].start)))
			return refuse(e, constructs[i].what, p);
	if (!*p)
		return err_set(e, ERR_INVALID, "--query: the expression ends too early");
	return err_set(e, ERR_INVALID, "--query: unexpected character at '%.40s'", p);
}

static struct step *plan_add(struct plan *plan, enum step_kind kind, struct err *e)
{
	if (plan->count == QUERY_STEPS_MAX) {
		err_set(e, ERR_INVALID, "--query: more than %d steps", QUERY_STEPS_MAX);
		return NULL;
	}
	plan->steps[plan->count] = (struct step){ .kind = kind };
	return &plan->steps[plan->count++];
}

static int plan_add_field(struct plan *plan, const char *name, size_t len, struct err *e)
{
	struct step *s = plan_add(plan, STEP_FIELD, e);

	if (!s)
		return -1;
	if (plan->names_len + len + 1 > sizeof(plan->names))
		return err_set(e, ERR_INVALID, "--query: the expression is too long");
	s->name = plan->names + plan->names_len;
	memcpy(s->name, name, len);
	s->name[len] = '\0';
	plan->names_len += len + 1;
	return 0;
}

static int parse_quoted(struct plan *plan, const char **p, struct err *e)
{
	json_t *name = json_loads(*p, JSON_DECODE_ANY | JSON_DISABLE_EOF_CHECK, NULL);
	const char *end = *p + 1;

	if (!name)
		return err_set(e, ERR_INVALID, "--query: malformed quoted name at '%.40s'", *p);
	while (*end != '"')
		end += *end == '\\' ? 2 : 1;
	*p = end + 1;
	int rc = plan_add_field(plan, json_string_value(name), json_string_length(name), e);

	json_decref(name);
	return rc;
}

static int parse_name(struct plan *plan, const char **p, struct err *e)
{
	const char *end = *p;

	if (**p == '"')
		return parse_quoted(plan, p, e);
	if (!isalpha((unsigned char)*end) && *end != '_')
		return refuse_at(*p, e);
	while (isalnum((unsigned char)*end) || *end == '_')
		end++;
	if (*end == '(')
		return refuse(e, "a function call", *p);
	if (plan_add_field(plan, *p, (size_t)(end - *p), e))
		return -1;
	*p = end;
	return 0;
}

static int parse_bracket(struct plan *plan, const char **p, struct err *e)
{
	const char *at = *p;
	char *end;

	if (!strncmp(at, "[]", 2) || !strncmp(at, "[*]", 3)) {
		bool flatten = at[1] == ']';

		*p += flatten ? 2 : 3;
		return plan_add(plan, flatten ? STEP_FLATTEN : STEP_EACH, e) ? 0 : -1;
	}
	if (at[1] == ':')
		return refuse(e, "a slice ([a:b])", at);
	if (!isdigit((unsigned char)at[1]) && !(at[1] == '-' && isdigit((unsigned char)at[2])))
		return refuse_at(at, e);
	long index = strtol(at + 1, &end, 10);

	if (*end == ':')
		return refuse(e, "a slice ([a:b])", at);
	if (*end != ']')
		return refuse_at(at, e);
	struct step *s = plan_add(plan, STEP_INDEX, e);

	if (!s)
		return -1;
	s->index = index;
	*p = end + 1;
	return 0;
}

static int parse(const char *p, struct plan *plan, struct err *e)
{
	plan->count = 0;
	plan->names_len = 0;
	if (strlen(p) > QUERY_TEXT_MAX)
		return err_set(e, ERR_INVALID, "--query: longer than %d bytes", QUERY_TEXT_MAX);
	p += strspn(p, " \t\n");
	if (*p == '[' ? parse_bracket(plan, &p, e) : parse_name(plan, &p, e))
		return -1;
	for (;;) {
		p += strspn(p, " \t\n");
		if (!*p)
			return 0;
		if (*p == '.') {
			p++;
			p += strspn(p, " \t\n");
			if (parse_name(plan, &p, e))
				return -1;
		} else if (*p == '[') {
			if (parse_bracket(plan, &p, e))
				return -1;
		} else {
			return refuse_at(p, e);
		}
	}
}

static json_t *pick_index(json_t *v, long index)
{
	long size = (long)json_array_size(v);

	if (index < 0)
		index += size;
	return index >= 0 && index < size ? json_array_get(v, (size_t)index) : NULL;
}

/**
 * walk: steps without STEP_FLATTEN on one value; new reference, NULL for JMESPath's null. Recurses
 * once per STEP_EACH, so at most QUERY_STEPS_MAX deep whatever the input.
 */
static json_t *walk(json_t *v, const struct step *s, const struct step *end)
{
	for (; s < end && v; s++) {
		if (s->kind == STEP_FIELD) {
			v = json_object_get(v, s->name);
		} else if (s->kind == STEP_INDEX) {
			v = json_is_array(v) ? pick_index(v, s->index) : NULL;
		} else {
			if (!json_is_array(v))
				return NULL;
			json_t *out = json_array(), *item;
			size_t i;

			json_array_foreach(v, i, item) {
				json_t *r = walk(item, s + 1, end);

				if (r)
					json_array_append_new(out, r);
			}
			return out;
		}
	}
	return v && !json_is_null(v) ? json_incref(v) : NULL;
}

/** flatten: one level of lists within the list is opened; NULL if v is no list. Takes v over. */
static json_t *flatten(json_t *v)
{
	json_t *out = NULL, *item;
	size_t i;

	if (json_is_array(v)) {
		out = json_array();
		json_array_foreach(v, i, item) {
			if (json_is_array(item))
				json_array_extend(out, item);
			else
				json_array_append(out, item);
		}
	}
	json_decref(v);
	return out;
}

json_t *query_run(const char *expression, json_t *root, struct err *e)
{
	struct plan plan;

	if (parse(expression, &plan, e))
		return NULL;
	const struct step *s = plan.steps, *last = plan.steps + plan.count, *end = s;

	while (end < last && end->kind != STEP_FLATTEN)
		end++;
	json_t *v = walk(root, s, end);

	/* A flatten ends every projection to its left and starts a new one. */
	while (v && end < last) {
		s = end + 1;
		for (end = s; end < last && end->kind != STEP_FLATTEN;)
			end++;
		v = flatten(v);
		json_t *out = v ? json_array() : NULL, *item;
		size_t i;

		json_array_foreach(v, i, item) {
			json_t *r = walk(item, s, end);

			if (r)
				json_array_append_new(out, r);
		}
		json_decref(v);
		v = out;
	}
	return v ? v : json_null();
}

int query_check(const char *expression, struct err *e)
{
	struct plan plan;

	return parse(expression, &plan, e);
}
