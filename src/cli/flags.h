/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * flags: sets of flags that several command groups share.
 */

#include "cli/args.h"

/** cli_flags_pool_of: --name and --resource-group, optional because an endpoint may name the pool
 * instead. */
extern const struct cli_flag cli_flags_pool_of[];
/** cli_flags_delete: --yes and --no-wait, of ARM resources. */
extern const struct cli_flag cli_flags_delete[];
/** cli_flags_session: --identifier. */
extern const struct cli_flag cli_flags_session[];
