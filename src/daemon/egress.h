/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * egress: the daemon's settings of it: checked before anything starts, handed to the jailer, and
 * the reason why it is not offered.
 */

#include "daemon/options.h"

/** egress_check: of --egress, --egress-allow and --dns; numbers are checked by the options. */
int egress_check(const struct options *o, struct err *e);

/** egress_find: why sessions cannot have egress on this machine and what to do, NULL: they can.
 * To be called as root, before the daemon's own root is empty. */
const char *egress_find(const struct options *o, const char *binary_dir);

#define EGRESS_ARGS_MAX 12
/** egress_args: the jailer's options for it, NULL-terminated; valid as long as o. */
void egress_args(const struct options *o, bool offered, const char *ret[EGRESS_ARGS_MAX + 1]);
