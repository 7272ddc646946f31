/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * launch: starts the kernels and terminals of an image that are programs of their own.
 *
 * What there is to start is said by the image's recipe (docs/runtimes.md), read once. A launched
 * program gets what a kernel that is forked from an interpreter gets by itself: the agent's first
 * frame is taken from the socket, its descriptors become standard output and error (or all three:
 * the terminal), the environment and the working directory are those of a session; then it is
 * executed. It runs in a new process that is confined already (zygote.h).
 */

#include "base/err.h"
#include "base/recipe.h"

#include <stdbool.h>

#define LAUNCH_LANGUAGES_MAX 8
#define LAUNCH_WORDS_MAX     32
#define LAUNCH_ENV_MAX       64
/** Bytes of a terminal's command, and of what TERM is set to. */
#define LAUNCH_COMMAND_MAX (64u * 1024)
#define LAUNCH_TERM_MAX    64
/** Exit status of what could not be started; the reason is its only output. */
#define LAUNCH_FAILED 127

/** What a recipe says; words point into `text`. */
struct launch_plan {
	char text[RECIPE_MAX + 1];
	struct launch_program {
		char language[RECIPE_LANGUAGE_SIZE];
		char *argv[LAUNCH_WORDS_MAX + 1];
	} programs[LAUNCH_LANGUAGES_MAX];
	size_t program_count;
	char *terminal[LAUNCH_WORDS_MAX + 1]; /* [0] NULL: the image has none */
	char *environment[LAUNCH_ENV_MAX + 1];
	size_t environment_count;
};

/**
 * In a word of a kernel or terminal `{memory_mib:70}` (1 to 100, once) stands for 70 percent of the
 * session's memory in MiB, which the launcher knows by RLIMIT_RSS (confine.h). Where that says
 * nothing, the whole word is left out.
 */
#define LAUNCH_MEMORY "{memory_mib:"

/** launch_parse: reads a recipe into *plan. What is wrong with a line begins with
 * "recipe:NUMBER: ". */
int launch_parse(struct launch_plan *plan, struct str recipe, struct err *e);
/** launch_find: the program of a language ("": of the first, RECIPE_TERMINAL: see `terminal`).
 * NULL with the reason. */
char *const *launch_find(const struct launch_plan *plan, const char *language, struct err *e);
/**
 * launch_run: reads the agent's first frame from sock and executes the program. Returns only on
 * failure, with the exit status.
 */
int launch_run(struct launch_plan *plan, const char *language, int sock);
