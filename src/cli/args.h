/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * args: command-line words → one verb of the tables and the values of its flags.
 *
 * A command group is one file that exports a `struct cli_group`; --help is generated from the same
 * tables (help.h). Nothing is allocated: values point into argv or into the tables. Flags follow
 * az: `--flag value`,
 * `--flag=value`, `-x value`, `-xvalue`; list flags take all words up to the next flag; enumerated
 * values match case-insensitively and come back in the table's spelling. A flag given twice: the
 * last one counts (lists add up). Pure functions over their arguments, so they are tested as units.
 */

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

#define ARGS_VALUES_MAX   256
#define ARGS_WORDS_MAX    8
#define CLI_FLAG_SETS_MAX 5

struct cli;

enum cli_flag_kind { FLAG_BOOL, FLAG_TEXT, FLAG_INT, FLAG_ENUM, FLAG_LIST };

/** A set of flags is an array that ends with an entry without a name. */
struct cli_flag {
	const char *name;  /* without the dashes */
	const char *alias; /* a second long name, or NULL */
	char letter;       /* 0: none */
	char letter_alias; /* a second letter, or 0 */
	enum cli_flag_kind kind;
	bool required;
	const char *arg; /* how help names the value */
	const char *help;
	const char *fallback;       /* value when absent, or NULL */
	const char *const *choices; /* FLAG_ENUM: NULL-terminated */
	long min;                   /* FLAG_INT: inclusive bounds */
	long max;
};

struct cli_verb {
	const char *name;
	const char *summary;
	const char *notes;   /* more lines for --help, or NULL */
	const char *example; /* arguments after the command's name, or NULL */
	const struct cli_flag *flags[CLI_FLAG_SETS_MAX]; /* sets; unused ones NULL */
	bool takes_words;                                /* accepts words that are not flags */
	int (*run)(struct cli *cli, struct err *e);
};

struct cli_group {
	const char *path; /* "session code-interpreter"; "" for verbs at the top */
	const char *summary;
	const struct cli_verb *verbs; /* ends with an entry without a name */
};

struct args_value {
	const struct cli_flag *flag;
	const char *text; /* "" for FLAG_BOOL */
};

struct args {
	const struct cli_group *const *groups; /* NULL-terminated */
	const struct cli_flag *global;         /* flags every verb has */
	const struct cli_group *group;         /* NULL if none was named */
	const struct cli_verb *verb;           /* NULL if none was named (then help is set) */
	bool help;                             /* --help, or no verb at all */
	struct args_value values[ARGS_VALUES_MAX];
	size_t value_count;
	const char *words[ARGS_WORDS_MAX];
	size_t word_count;
};

/**
 * args_parse: fills ret from argv[1…]. A leading "containerapp" is skipped, so that az commands
 * work as written. Failures are usage errors (ERR_INVALID) that name the nearest match; ret->verb
 * and ret->group are set as far as known.
 */
int args_parse(struct args *ret, const struct cli_group *const *groups,
	       const struct cli_flag *global, int argc, char *const *argv, struct err *e);

/** Values. The name must be one of the verb's or global flags (asserted). args_text: NULL if absent
 * without fallback. */
bool args_given(const struct args *a, const char *name);
const char *args_text(const struct args *a, const char *name);
long args_int(const struct args *a, const char *name);
/** args_list: the i-th value of a list flag, NULL past the end. */
const char *args_list(const struct args *a, const char *name, size_t i);

/** args_duration: "90", "90s", "5m", "1h", "30d" → seconds. */
int args_duration(const char *text, long *ret_s, struct err *e);

/** args_distance: edits (insert, delete, replace, swap neighbours) between two words, whatever the
 * case; large if either is over 63 bytes. */
unsigned args_distance(const char *a, const char *b);
