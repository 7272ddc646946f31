/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * client_impl: what endpoint.c (where to send, as whom) and client.c (sending) share, and nobody
 * else.
 */

#include "cli/client.h"

enum client_setting {
	SETTING_ARM_ENDPOINT,
	SETTING_ARM_TOKEN,
	SETTING_ENDPOINT,
	SETTING_TOKEN,
	SETTING_CA
};

struct setting {
	const char *flag;
	const char *env;
	const char *key; /* in the context file */
};

const struct setting *client_setting_names(enum client_setting which);
/** client_setting: flag, else environment, else (with_context) context file; *ret is NULL if
 * nowhere. */
int client_setting(struct cli *cli, enum client_setting which, bool with_context, const char **ret,
		   struct err *e);
