/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/args.h"

#include "base/own.h"
#include "base/str.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define WORD_MAX 63

static unsigned min3(unsigned a, unsigned b, unsigned c)
{
	unsigned m = a < b ? a : b;

	return m < c ? m : c;
}

static char lower(char c)
{
	return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c;
}

unsigned args_distance(const char *a, const char *b)
{
	unsigned rows[3][WORD_MAX + 1];
	size_t a_len = strlen(a), b_len = strlen(b);

	if (a_len > WORD_MAX || b_len > WORD_MAX)
		return 1000;
	for (size_t j = 0; j <= b_len; j++)
		rows[0][j] = (unsigned)j;
	for (size_t i = 1; i <= a_len; i++) {
		unsigned *row = rows[i % 3], *up = rows[(i + 2) % 3], *up2 = rows[(i + 1) % 3];

		row[0] = (unsigned)i;
		for (size_t j = 1; j <= b_len; j++) {
			row[j] = min3(up[j] + 1, row[j - 1] + 1,
				      up[j - 1] + (lower(a[i - 1]) != lower(b[j - 1])));
			if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) &&
			    lower(a[i - 2]) == lower(b[j - 1]) && up2[j - 2] + 1 < row[j])
				row[j] = up2[j - 2] + 1;
		}
	}
	return rows[a_len % 3][b_len];
}

struct nearest {
	const char *word;
	const char *best;
	unsigned best_distance;
};

static void nearest_offer(struct nearest *n, const char *candidate)
{
	unsigned distance = args_distance(n->word, candidate);

	/* A beginning of the right word ("sess", "--resource") is near, however much is missing. */
	if (strlen(n->word) >= 3 && !strncmp(candidate, n->word, strlen(n->word)) && distance > 2)
		distance = 2;
	if (distance < n->best_distance) {
		n->best = candidate;
		n->best_distance = distance;
	}
}

/** nearest_start: only words within a third of the length count as a typing error of each other. */
static struct nearest nearest_start(const char *word)
{
	size_t limit = strlen(word) / 3 + 2;

	return (struct nearest){ word, NULL, (unsigned)limit };
}

/** flag_each: the i-th flag of the verb, global ones last; NULL past the end. */
static const struct cli_flag *flag_at(const struct args *a, size_t i)
{
	for (size_t set = 0; set <= CLI_FLAG_SETS_MAX; set++) {
		const struct cli_flag *f = set == CLI_FLAG_SETS_MAX ? a->global
					   : a->verb                ? a->verb->flags[set]
								    : NULL;

		for (; f && f->name; f++)
			if (i-- == 0)
				return f;
	}
	return NULL;
}

static const struct cli_flag *flag_find_long(const struct args *a, struct str name)
{
	const struct cli_flag *f;

	for (size_t i = 0; (f = flag_at(a, i)); i++)
		if (str_eq(str_from(f->name), name) ||
		    (f->alias && str_eq(str_from(f->alias), name)))
			return f;
	return NULL;
}

static const struct cli_flag *flag_find_letter(const struct args *a, char letter)
{
	const struct cli_flag *f;

	for (size_t i = 0; (f = flag_at(a, i)); i++)
		if (f->letter == letter || f->letter_alias == letter)
			return f;
	return NULL;
}

static bool is_help(const char *word)
{
	return !strcmp(word, "--help") || !strcmp(word, "-h");
}

/** is_flag: the word can only be meant as a flag, so it is not taken as another flag's value. */
static bool is_flag(const struct args *a, const char *word)
{
	if (is_help(word))
		return true;
	if (!strncmp(word, "--", 2)) {
		size_t len = strcspn(word + 2, "=");

		return flag_find_long(a, (struct str){ word + 2, len }) != NULL;
	}
	return word[0] == '-' && word[1] && !word[2] && flag_find_letter(a, word[1]);
}

static int flag_unknown(const struct args *a, const char *word, struct err *e)
{
	struct nearest n = nearest_start(word + strspn(word, "-"));
	const struct cli_flag *f;

	for (size_t i = 0; (f = flag_at(a, i)); i++) {
		nearest_offer(&n, f->name);
		if (f->alias)
			nearest_offer(&n, f->alias);
	}
	if (n.best)
		return err_set(e, ERR_INVALID, "unknown flag '%s': did you mean '--%s'?", word,
			       n.best);
	return err_set(e, ERR_INVALID, "unknown flag '%s'", word);
}

static int value_check_enum(const struct cli_flag *f, const char **text, struct err *e)
{
	struct nearest n = nearest_start(*text);
	char all[200] = "";
	size_t used = 0;

	for (size_t i = 0; f->choices[i]; i++) {
		if (!strcasecmp(f->choices[i], *text)) {
			*text = f->choices[i];
			return 0;
		}
		nearest_offer(&n, f->choices[i]);
		int w = snprintf(all + used, sizeof(all) - used, "%s%s", i ? ", " : "",
				 f->choices[i]);

		used = w > 0 && used + (size_t)w < sizeof(all) ? used + (size_t)w : used;
	}
	if (n.best)
		return err_set(e, ERR_INVALID, "--%s: '%s' is not one of %s: did you mean '%s'?",
			       f->name, *text, all, n.best);
	return err_set(e, ERR_INVALID, "--%s: '%s' is not one of %s", f->name, *text, all);
}

static int value_add(struct args *a, const struct cli_flag *f, const char *text, struct err *e)
{
	if (a->value_count == ARGS_VALUES_MAX)
		return err_set(e, ERR_INVALID, "more than %d values", ARGS_VALUES_MAX);
	if (f->kind == FLAG_ENUM && value_check_enum(f, &text, e))
		return -1;
	if (f->kind == FLAG_INT) {
		char *end;

		errno = 0;
		long v = strtol(text, &end, 10);

		if (end == text || *end || errno || v < f->min || v > f->max)
			return err_set(e, ERR_INVALID, "--%s: '%s' is not a number from %ld to %ld",
				       f->name, text, f->min, f->max);
	}
	a->values[a->value_count++] = (struct args_value){ f, text };
	return 0;
}

/** flag_take: the flag at argv[i]; *next becomes the index after it and its values. */
static int flag_take(struct args *a, int argc, char *const *argv, int i, int *next, struct err *e)
{
	const char *word = argv[i], *inline_value = NULL;
	const struct cli_flag *f;

	if (word[1] == '-') {
		size_t len = strcspn(word + 2, "=");

		f = flag_find_long(a, (struct str){ word + 2, len });
		if (word[2 + len])
			inline_value = word + 2 + len + 1;
	} else {
		f = flag_find_letter(a, word[1]);
		if (word[2])
			inline_value = word + 2 + (word[2] == '=');
	}
	if (!f)
		return flag_unknown(a, word, e);
	*next = i + 1;
	if (f->kind == FLAG_BOOL) {
		if (inline_value)
			return err_set(e, ERR_INVALID, "--%s takes no value", f->name);
		return value_add(a, f, "", e);
	}
	if (inline_value)
		return value_add(a, f, inline_value, e);
	if (f->kind != FLAG_LIST) {
		if (*next >= argc || is_flag(a, argv[*next]))
			return err_set(e, ERR_INVALID, "--%s needs a value", f->name);
		return value_add(a, f, argv[(*next)++], e);
	}
	/* An empty list is meaningful (it clears), and shows as given without values. */
	if (value_add(a, f, NULL, e))
		return -1;
	while (*next < argc && !is_flag(a, argv[*next]) && strncmp(argv[*next], "--", 2))
		if (value_add(a, f, argv[(*next)++], e))
			return -1;
	return 0;
}

/** path_match: how many words of argv the group's path takes, -1 if it does not match. */
static int path_match(const char *path, int argc, char *const *argv)
{
	int words = 0;

	while (*path) {
		size_t len = strcspn(path, " ");

		if (words >= argc || strlen(argv[words]) != len ||
		    strncmp(argv[words], path, len) != 0)
			return -1;
		path += len + (path[len] == ' ');
		words++;
	}
	return words;
}

static int verb_unknown(const struct args *a, const char *word, struct err *e)
{
	struct nearest n = nearest_start(word);
	const char *within = a->group ? a->group->path : "";
	size_t within_len = strlen(within);
	char names[32][WORD_MAX + 1];
	size_t count = 0;

	for (size_t g = 0; a->groups[g]; g++) {
		const struct cli_group *group = a->groups[g];
		const char *rest = group->path + within_len;

		if (strncmp(group->path, within, within_len) != 0)
			continue;
		rest += *rest == ' ';
		if (*rest && count < ARRAY_LEN(names)) {
			snprintf(names[count], sizeof(names[0]), "%.*s", (int)strcspn(rest, " "),
				 rest);
			nearest_offer(&n, names[count++]);
		}
		for (const struct cli_verb *v = group->verbs; !*rest && v->name; v++)
			nearest_offer(&n, v->name);
	}
	const char *space = *within ? " " : "";

	if (n.best)
		return err_set(e, ERR_INVALID,
			       "unknown command 'bivouac %s%s%s': did you mean '%s%s%s'?", within,
			       space, word, within, space, n.best);
	return err_set(e, ERR_INVALID, "unknown command 'bivouac %s%s%s'", within, space, word);
}

/** verb_find: sets group and verb; returns how many words were taken, -1 if a word
 * matches nothing. */
static int verb_find(struct args *a, int argc, char *const *argv, struct err *e)
{
	int taken = 0;

	for (size_t g = 0; a->groups[g]; g++) {
		int words = path_match(a->groups[g]->path, argc, argv);

		if (words < 0 || (a->group && words < taken))
			continue;
		if (words > 0) {
			a->group = a->groups[g];
			taken = words;
		}
		for (const struct cli_verb *v = a->groups[g]->verbs; v->name; v++) {
			if (words < argc && !strcmp(argv[words], v->name)) {
				a->group = a->groups[g];
				a->verb = v;
				return words + 1;
			}
		}
	}
	if (taken < argc && argv[taken][0] != '-')
		return verb_unknown(a, argv[taken], e);
	return taken;
}

static int required_check(const struct args *a, struct err *e)
{
	const struct cli_flag *f;

	for (size_t i = 0; (f = flag_at(a, i)); i++)
		if (f->required && !args_given(a, f->name))
			return err_set(e, ERR_INVALID, "--%s is required", f->name);
	return 0;
}

int args_parse(struct args *ret, const struct cli_group *const *groups,
	       const struct cli_flag *global, int argc, char *const *argv, struct err *e)
{
	memset(ret, 0, sizeof(*ret));
	ret->groups = groups;
	ret->global = global;
	int i = argc > 1 && !strcmp(argv[1], "containerapp") ? 2 : 1;

	if (argc < 1)
		i = 0;
	int taken = verb_find(ret, argc - i, argv + i, e);

	if (taken < 0)
		return -1;
	for (i += taken; i < argc;) {
		if (is_help(argv[i])) {
			ret->help = true;
			return 0;
		}
		if (argv[i][0] == '-' && argv[i][1]) {
			if (flag_take(ret, argc, argv, i, &i, e))
				return -1;
			continue;
		}
		if (!ret->verb || !ret->verb->takes_words || ret->word_count == ARGS_WORDS_MAX)
			return err_set(e, ERR_INVALID, "unexpected word '%s'", argv[i]);
		ret->words[ret->word_count++] = argv[i++];
	}
	if (!ret->verb) {
		ret->help = true;
		return 0;
	}
	return required_check(ret, e);
}

static const struct cli_flag *flag_must(const struct args *a, const char *name)
{
	const struct cli_flag *f = flag_find_long(a, str_from(name));

	assert(f);
	return f;
}

bool args_given(const struct args *a, const char *name)
{
	const struct cli_flag *f = flag_must(a, name);

	for (size_t i = 0; i < a->value_count; i++)
		if (a->values[i].flag == f)
			return true;
	return false;
}

const char *args_text(const struct args *a, const char *name)
{
	const struct cli_flag *f = flag_must(a, name);

	for (size_t i = a->value_count; i > 0; i--)
		if (a->values[i - 1].flag == f)
			return a->values[i - 1].text;
	return f->fallback;
}

long args_int(const struct args *a, const char *name)
{
	const char *text = args_text(a, name);

	return text ? strtol(text, NULL, 10) : 0;
}

const char *args_list(const struct args *a, const char *name, size_t i)
{
	const struct cli_flag *f = flag_must(a, name);

	for (size_t v = 0; v < a->value_count; v++)
		if (a->values[v].flag == f && a->values[v].text && i-- == 0)
			return a->values[v].text;
	return NULL;
}

int args_duration(const char *text, long *ret_s, struct err *e)
{
	static const struct {
		char unit;
		long seconds;
	} units[] = { { 's', 1 }, { 'm', 60 }, { 'h', 3600 }, { 'd', 86400 } };
	size_t digits = strspn(text, "0123456789");
	uint64_t n;
	long factor = text[digits] ? 0 : 1;

	for (size_t i = 0; i < ARRAY_LEN(units); i++)
		if (text[digits] == units[i].unit && !text[digits + 1])
			factor = units[i].seconds;
	if (!factor || !str_to_u64((struct str){ text, digits }, 1000000000, &n))
		return err_set(e, ERR_INVALID,
			       "'%s' is not a duration: seconds, or a number with s, m, h or d",
			       text);
	*ret_s = (long)n * factor;
	return 0;
}
