/* SPDX-License-Identifier: Apache-2.0 */
#include "pool/internal.h"

#include "base/own.h"

#include <stdio.h>
#include <string.h>

/* What clients and people call them. */
static const struct {
	struct str alias;
	struct str language;
} aliases[] = {
	{ { "js", 2 }, { "node", 4 } },        { { "javascript", 10 }, { "node", 4 } },
	{ { "nodejs", 6 }, { "node", 4 } },    { { "bash", 4 }, { "shell", 5 } },
	{ { "sh", 2 }, { "shell", 5 } },       { { "py", 2 }, { "python", 6 } },
	{ { "python3", 7 }, { "python", 6 } },
};

static bool find(const struct runtime *r, struct str name, struct str *ret)
{
	for (size_t i = 0; i < r->language_count; i++)
		if (str_eq_nocase(str_from(r->languages[i]), name)) {
			*ret = str_from(r->languages[i]);
			return true;
		}
	return false;
}

int language_find(const struct pool *pool, struct str name, struct str *ret, struct err *e)
{
	const struct runtime *r = pool->runtime;
	char has[256] = "";
	size_t len = 0;

	if (!r)
		return err_set(e, ERR_UNAVAILABLE, "The image of %s sessions is not installed.",
			       pool->spec.container_type);
	if (find(r, name, ret))
		return 0;
	for (size_t i = 0; i < ARRAY_LEN(aliases); i++)
		if (str_eq_nocase(aliases[i].alias, name) && find(r, aliases[i].language, ret))
			return 0;
	for (size_t i = 0; i < r->language_count && len < sizeof(has); i++)
		len += (size_t)snprintf(has + len, sizeof(has) - len, "%s%s", i ? ", " : "",
					r->languages[i]);
	return err_set(e, ERR_INVALID,
		       "Sessions of this pool (%s) do not have the language '%.*s'. They have: %s.",
		       pool->spec.container_type, (int)utf8_cut(name, 40), name.ptr, has);
}

int context_name_check(struct str name, struct err *e)
{
	bool ok = name.len >= 1 && name.len <= CONTEXT_NAME_MAX;

	for (size_t i = 0; ok && i < name.len; i++) {
		char c = name.ptr[i];

		ok = (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z') || c == '-' ||
		     c == '_' || c == '.';
	}
	if (ok)
		return 0;
	return err_set(e, ERR_INVALID,
		       "The context's name '%.*s' is not valid. It must have 1 to %d letters, "
		       "digits, '-', '_' and '.' only.",
		       (int)utf8_cut(name, 80), name.ptr, CONTEXT_NAME_MAX);
}
