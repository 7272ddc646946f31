/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * recipe: reads the text that describes a runtime (docs/runtimes.md): lines of `key = value`, a key
 * may come again. Lines that begin with '#' are comments. Root writes recipes; they are read by the
 * daemon and, in the image, by zygotes.
 */

#include "base/str.h"

/** The largest recipe that is read. */
#define RECIPE_MAX (64u * 1024)
/** A language's name with NUL, as everywhere (JAILER_LANGUAGE_SIZE). */
#define RECIPE_LANGUAGE_SIZE 16
/** Not a language: the launcher of interactive programs. */
#define RECIPE_TERMINAL "terminal"
/** Instead of a program: the kernel is forked from the interpreter that the zygote embeds. */
#define RECIPE_OWN_INTERPRETER "@zygote"

/** recipe_next: the next line that is `key = value`; *text moves behind it. Views into the text.
 * False at the end. */
bool recipe_next(struct str *text, struct str *ret_key, struct str *ret_value);
/** recipe_word: cuts the first word off *value; empty when there is none left. */
struct str recipe_word(struct str *value);
/** recipe_language_ok: lower-case letters, digits and '-', 1 to RECIPE_LANGUAGE_SIZE - 1 of them.
 */
bool recipe_language_ok(struct str name);
