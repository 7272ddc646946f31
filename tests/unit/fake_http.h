/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * fake_http: enough of http.h to call handlers without sockets. Uses the real router
 * (http/router.c); a test links this instead of the server. Handlers must answer at once; bodies
 * are buffers.
 */

#include "base/buf.h"
#include "http/http.h"

struct fake_reply {
	int status;
	struct buf body;
	struct buf headers;  /* "Name: value\n"… */
	char permission[32]; /* of the matched route */
};

struct http_server *fake_server_new(void);
void fake_server_free(struct http_server *s);
/** fake_call: target is path and query; headers "Name: value\n"… or NULL; body or NULL. */
struct fake_reply fake_call(struct http_server *s, const char *method, const char *target,
			    const char *headers, const char *body, void *caller);
void fake_reply_done(struct fake_reply *r);
