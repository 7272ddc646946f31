/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/help.h"

#include <string.h>

#define HELP_COLUMN 34
#define HELP_WIDTH  96

/** print_folded: words from a column on, folded at the right margin. */
static void print_folded(FILE *to, const char *text, int column)
{
	int at = column;

	while (*text) {
		int len = (int)strcspn(text, " \n");

		if (at > column && at + len >= HELP_WIDTH) {
			fprintf(to, "\n%*s", column, "");
			at = column;
		} else if (at > column) {
			fputc(' ', to);
			at++;
		}
		fprintf(to, "%.*s", len, text);
		at += len;
		text += len;
		if (*text == '\n') {
			fprintf(to, "\n%*s", column, "");
			at = column;
			text++;
		}
		text += *text == ' ';
	}
	fputc('\n', to);
}

static void print_entry(FILE *to, const char *left, const char *text)
{
	int len = (int)strlen(left);

	fprintf(to, "  %s", left);
	if (len + 2 > HELP_COLUMN - 2)
		fprintf(to, "\n%*s", HELP_COLUMN, "");
	else
		fprintf(to, "%*s", HELP_COLUMN - len - 2, "");
	print_folded(to, text, HELP_COLUMN);
}

static void print_flag(FILE *to, const struct cli_flag *f)
{
	char left[120], text[500];
	int n = 0;

	n += snprintf(left + n, sizeof(left) - (size_t)n, "--%s", f->name);
	if (f->alias)
		n += snprintf(left + n, sizeof(left) - (size_t)n, ", --%s", f->alias);
	if (f->letter)
		n += snprintf(left + n, sizeof(left) - (size_t)n, ", -%c", f->letter);
	if (f->letter_alias)
		n += snprintf(left + n, sizeof(left) - (size_t)n, ", -%c", f->letter_alias);
	if (f->kind != FLAG_BOOL)
		snprintf(left + n, sizeof(left) - (size_t)n, " %s%s", f->arg ? f->arg : "VALUE",
			 f->kind == FLAG_LIST ? "…" : "");
	n = snprintf(text, sizeof(text), "%s%s", f->help, f->required ? " Required." : "");
	for (size_t i = 0; f->kind == FLAG_ENUM && f->choices[i]; i++)
		n += snprintf(text + n, sizeof(text) - (size_t)n, "%s%s",
			      i ? ", " : " One of: ", f->choices[i]);
	if (f->kind == FLAG_ENUM)
		n += snprintf(text + n, sizeof(text) - (size_t)n, ".");
	if (f->kind == FLAG_INT)
		n += snprintf(text + n, sizeof(text) - (size_t)n, " %ld to %ld.", f->min, f->max);
	if (f->fallback)
		snprintf(text + n, sizeof(text) - (size_t)n, " Default: %s.", f->fallback);
	print_entry(to, left, text);
}

static void print_verb(FILE *to, const struct args *a)
{
	const struct cli_verb *v = a->verb;
	const char *path = a->group->path;

	fprintf(to, "Usage: bivouac %s%s%s [flags]%s\n\n%s\n", path, *path ? " " : "", v->name,
		v->takes_words ? " [words]" : "", v->summary);
	if (v->notes) {
		fputc('\n', to);
		print_folded(to, v->notes, 0);
	}
	if (v->flags[0])
		fputs("\nFlags:\n", to);
	for (size_t set = 0; set < CLI_FLAG_SETS_MAX; set++)
		for (const struct cli_flag *f = v->flags[set]; f && f->name; f++)
			print_flag(to, f);
	fputs("\nGlobal flags:\n", to);
	for (const struct cli_flag *f = a->global; f->name; f++)
		print_flag(to, f);
	print_entry(to, "--help, -h", "Show this text.");
	if (v->example)
		fprintf(to, "\nExample:\n  bivouac %s%s%s %s\n", path, *path ? " " : "", v->name,
			v->example);
}

/** group_is_below: whether the group is this one or nested in it. */
static bool group_is_below(const struct cli_group *g, const char *path)
{
	size_t len = strlen(path);

	return !strncmp(g->path, path, len) && (!len || !g->path[len] || g->path[len] == ' ');
}

static void print_group(FILE *to, const struct args *a)
{
	const char *path = a->group ? a->group->path : "";
	bool top_begun = false;

	fprintf(to, "Usage: bivouac %s%s<command> [flags]\n\n%s\n", path, *path ? " " : "",
		a->group ? a->group->summary
			 : "Isolated computers for every identifier, on your own machine.");
	for (size_t i = 0; a->groups[i]; i++) {
		const struct cli_group *g = a->groups[i];

		if (!group_is_below(g, path))
			continue;
		if (*g->path)
			fprintf(to, "\n%s: %s\n", g->path, g->summary);
		else if (!top_begun)
			fputs("\nOther commands:\n", to);
		top_begun = !*g->path;
		for (const struct cli_verb *v = g->verbs; v->name; v++)
			print_entry(to, v->name, v->summary);
	}
	fputs("\nGlobal flags:\n", to);
	for (const struct cli_flag *f = a->global; f->name; f++)
		print_flag(to, f);
	print_entry(to, "--help, -h", "Show help for a command.");
	if (!*path)
		fputs("\nA leading 'containerapp' is ignored, so commands written for az work as "
		      "they are."
		      "\nExit status: 0, or as sysexits.h: 64 usage or refused request, 66 not "
		      "found, "
		      "69 unreachable,\n77 not allowed, 73 conflict, 75 try again later.\n",
		      to);
}

void help_print(FILE *to, const struct args *a)
{
	if (a->verb)
		print_verb(to, a);
	else
		print_group(to, a);
}
