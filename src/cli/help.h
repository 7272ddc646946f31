/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * help: the text of --help, generated from the tables of groups, verbs and flags.
 */

#include "cli/args.h"

#include <stdio.h>

/** help_print: for a->verb, else the commands below a->group, else everything at the top. */
void help_print(FILE *to, const struct args *a);
