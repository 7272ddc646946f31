/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * options: the daemon's settings, from one table: command line, configuration file, --help.
 *
 * Precedence: command line, then the file named by --config (INI, section [bivouacd], same names),
 * then defaults.
 */

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>

struct options {
	bool dev;
	const char *listen;
	const char *tls_listen;
	const char *tls_certificate;
	const char *tls_key;
	const char *state_dir;
	const char *run_dir;
	const char *images_dir;
	const char *user;
	const char *uid_dir;
	const char *location;
	const char *config;
	const char *log_level;
	bool keep_sessions;
	bool strict;
	long ready;
	long shells;
	long starting_max;
	long connections_max;
	long body_max;
	long buffers_max;
	long code_max;
	long output_max;
	long result_max;
	long list_max;
	long executions_kept;
	long contexts_max;
	long terminals_max;
	long queued_code_max;
	long results_kept_max;
	long idle_timeout_s;
	long head_timeout_s;
	long body_rate_min;
	long requests_max;
	const char *egress;
	const char *egress_allow;
	long egress_connections;
	long egress_rate;
	long egress_bandwidth;
	long egress_log_max;
	const char *dns;
	const char *mcp_origin;
	bool help;
	bool version;
};

/** options_parse: values point into argv or are never freed (the process's lifetime). */
int options_parse(struct options *o, int argc, char **argv, struct err *e);
void options_help(FILE *out);
