/* SPDX-License-Identifier: Apache-2.0 */
#include "base/recipe.h"

static bool is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r';
}

static struct str trim(struct str s)
{
	while (s.len && is_space(s.ptr[0]))
		s = (struct str){ s.ptr + 1, s.len - 1 };
	while (s.len && is_space(s.ptr[s.len - 1]))
		s.len--;
	return s;
}

static struct str next_line(struct str *text)
{
	const char *end = memchr(text->ptr, '\n', text->len);
	struct str line = { text->ptr, end ? (size_t)(end - text->ptr) : text->len };
	size_t used = end ? line.len + 1 : line.len;

	*text = (struct str){ text->ptr + used, text->len - used };
	return line;
}

bool recipe_next(struct str *text, struct str *ret_key, struct str *ret_value)
{
	while (text->len) {
		struct str line = trim(next_line(text));
		const char *equals = line.len ? memchr(line.ptr, '=', line.len) : NULL;

		if (!equals || line.ptr[0] == '#')
			continue;
		size_t before = (size_t)(equals - line.ptr);

		*ret_key = trim((struct str){ line.ptr, before });
		*ret_value = trim((struct str){ equals + 1, line.len - before - 1 });
		return true;
	}
	return false;
}

struct str recipe_word(struct str *value)
{
	struct str rest = trim(*value);
	size_t len = 0;

	while (len < rest.len && !is_space(rest.ptr[len]))
		len++;
	*value = (struct str){ rest.ptr + len, rest.len - len };
	return (struct str){ rest.ptr, len };
}

bool recipe_language_ok(struct str name)
{
	if (!name.len || name.len >= RECIPE_LANGUAGE_SIZE)
		return false;
	for (size_t i = 0; i < name.len; i++) {
		char c = name.ptr[i];

		if (!((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'))
			return false;
	}
	return true;
}
