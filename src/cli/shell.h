/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/** shell: `bivouac session shell`: this terminal on a terminal of a session. */

#include "cli/cli.h"

extern const struct cli_flag cli_flags_shell[];
int shell_run(struct cli *cli, struct err *e);
