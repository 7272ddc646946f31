/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * pool_body: the JSON of a session pool from the flags of `sessionpool create` and `update`.
 */

#include "base/err.h"
#include "cli/args.h"

#include <jansson.h>

/** Flags both commands have. */
extern const struct cli_flag cli_flags_pool_common[];
/** Flags of custom containers. */
extern const struct cli_flag cli_flags_pool_container[];
/** Flags only create has. */
extern const struct cli_flag cli_flags_pool_create[];

/** pool_body_create: body of the PUT; new reference. */
json_t *pool_body_create(const struct args *a, struct err *e);
/** pool_body_update: body of the PATCH; current is the pool as it is (lists in a merge patch
 * replace as a whole). */
json_t *pool_body_update(const struct args *a, const json_t *current, struct err *e);
