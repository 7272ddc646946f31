/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Recipes, as zygotes read them. Whatever the text, words are terminated inside the plan's own copy
 * and what can be executed is named by an absolute path.
 */
#include "launch.h"

#include <assert.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct launch_plan plan;

static void check_word(const char *word)
{
	assert(word >= plan.text && word < plan.text + sizeof(plan.text));
	assert(memchr(word, '\0', (size_t)(plan.text + sizeof(plan.text) - word)));
}

static void check_argv(char *const *argv)
{
	size_t n = 0;

	for (; argv[n]; n++)
		check_word(argv[n]);
	assert(n > 0 && n <= LAUNCH_WORDS_MAX);
	assert(argv[0][0] == '/' || strcmp(argv[0], RECIPE_OWN_INTERPRETER) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct err e = ERR_INIT;

	if (launch_parse(&plan, (struct str){ (const char *)data, size }, &e) < 0) {
		assert(e.code != ERR_NONE && e.msg[0]);
		return 0;
	}
	assert(plan.program_count > 0 && plan.program_count <= LAUNCH_LANGUAGES_MAX);
	for (size_t i = 0; i < plan.program_count; i++) {
		const struct launch_program *p = &plan.programs[i];
		struct err none = ERR_INIT;
		char *const *argv = launch_find(&plan, p->language, &none);

		check_argv(p->argv);
		assert(recipe_language_ok(str_from(p->language)));
		assert(!argv == (none.code != ERR_NONE));
		assert(!argv || argv[0][0] == '/');
	}
	if (plan.terminal[0]) {
		check_argv(plan.terminal);
		assert(plan.terminal[0][0] == '/');
	}
	assert(plan.environment_count <= LAUNCH_ENV_MAX);
	for (size_t i = 0; i < plan.environment_count; i++) {
		check_word(plan.environment[i]);
		assert(strchr(plan.environment[i], '=') > plan.environment[i]);
	}
	return 0;
}
