/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * cli: what all commands of one run share: parsed arguments, output settings, HTTP client.
 *
 * Commands return 0 or -1 with an error; only main.c writes errors and chooses the exit status
 * (base/err.h's table; usage errors are 64). Results go to stdout, everything else to stderr.
 */

#include "base/err.h"
#include "cli/args.h"
#include "cli/client.h"
#include "cli/output.h"

#ifndef BIVOUAC_VERSION
#define BIVOUAC_VERSION "unversioned"
#endif

struct cli {
	struct args args;
	struct output output;
	struct client client;
	bool only_errors; /* --only-show-errors */
	int status;       /* exit status of a command that succeeded, where it has one to say */
};

extern const struct cli_group cli_group_top; /* main.c: version, help */
extern const struct cli_group cli_group_sessionpool;
extern const struct cli_group cli_group_session;
extern const struct cli_group cli_group_interpreter;
extern const struct cli_group cli_group_terminal;
extern const struct cli_group cli_group_group;
extern const struct cli_group cli_group_image;
extern const struct cli_group cli_group_token;
extern const struct cli_group cli_group_doctor;

/** cli_warn: "WARNING: …" on stderr, unless --only-show-errors. */
void cli_warn(const struct cli *cli, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** cli_confirm: asks "… (y/n)" on the terminal; without one it fails and names --yes. */
int cli_confirm(const char *question, struct err *e);
