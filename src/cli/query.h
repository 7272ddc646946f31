/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * query: the part of JMESPath (jmespath.org) that --query needs: dotted paths, quoted identifiers,
 * indexes ([0], [-1]), and the projections [] and [*]. Everything else of the language is refused
 * by name, never misread.
 */

#include "base/err.h"

#include <jansson.h>

#define QUERY_TEXT_MAX  1024
#define QUERY_STEPS_MAX 64

/** query_run: a new reference to what the expression selects (JSON null if nothing); NULL and e:
 * not supported. */
json_t *query_run(const char *expression, json_t *root, struct err *e);
/** query_check: whether query_run would accept the expression, before any request is made. */
int query_check(const char *expression, struct err *e);
