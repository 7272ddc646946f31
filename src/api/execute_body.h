/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * execute_body: what the body of an execute request asks for.
 *
 * All generations of clients at once: properties at the top or in `properties`, old names beside
 * new ones. Nothing here needs or makes a session: a request that is wrong must not cost one.
 */

#include "api/internal.h"

#include <jansson.h>

enum on_disconnect {
	ON_DISCONNECT_UNSAID,
	ON_DISCONNECT_STOP,
	ON_DISCONNECT_CONTINUE,
};

/** params point into the rest of it, and into the runtime of the call's pool. */
struct execute_body {
	struct execution_params params; /* without id and watcher */
	enum on_disconnect on_disconnect;
	json_t *json;
	char *code_owned; /* decoded base64, or the words of a program */
	char type[24];
};

/** execute_body_parse: of the call's request; execute_body_done() in any case. */
int execute_body_parse(const struct call *c, struct execute_body *b, struct err *e);
void execute_body_done(struct execute_body *b);

/** text_property: a string without NUL characters; 1 found, 0 absent or null, -1 anything else. */
int text_property(const json_t *props, const char *name, struct str *ret, struct err *e);
