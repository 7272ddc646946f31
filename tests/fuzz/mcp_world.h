/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * mcp_world: what src/api/mcp*.c talk to, faked: a request, one session, executions and file
 * operations that end at once, later or never, as a script of bytes says. Everything that waits is
 * in one slot: a tool has at most one thing under way.
 */

#include "api/mcp.h"

struct http_request {
	struct str body;
	char *reply; /* with NUL */
	size_t reply_len;
	int status; /* 0: none yet */
	void *memory[4];
	size_t memory_count;
	void (*deferred)(void *arg);
	void *deferred_arg;
};

/** mcp_world_begin: the script decides how each operation ends. */
void mcp_world_begin(struct http_request *rq, struct str script, struct str body);
/** mcp_world_turn: what waits goes on; false if nothing does. */
bool mcp_world_turn(void);
/** mcp_world_byte: the next of the script; 0 after its end. */
uint8_t mcp_world_byte(void);
/** mcp_world_idle: nothing is under way. */
bool mcp_world_idle(void);
/** mcp_world_end: the request is over, answered or not; all of it is freed. */
void mcp_world_end(struct http_request *rq);
