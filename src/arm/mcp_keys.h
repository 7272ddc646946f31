/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * mcp_keys: the API key of a session pool's MCP server (azure-api.md §4).
 *
 * A key is 32 random bytes as 64 hexadecimal digits, made when it is first fetched. Rotating
 * replaces it; the one before stays good for MCP_KEY_GRACE_S, as the real service's does, and not
 * a second longer, also when the daemon restarts meanwhile. Keys live in the store in a document of
 * their own, never in the pool's, so no reading of resources shows them; they go with the pool.
 */

#include "arm/arm.h"
#include "base/err.h"
#include "base/str.h"
#include "store/store.h"

#include <stdbool.h>

#define MCP_KEY_SIZE    65 /* with NUL */
#define MCP_KEY_GRACE_S 300

/** mcp_keys_fetch: the key in force, made if there is none. pool_key: of its document. */
int mcp_keys_fetch(struct store *s, const char *pool_key, char ret[static MCP_KEY_SIZE],
		   struct err *e);
int mcp_keys_rotate(struct store *s, const char *pool_key, int64_t now_us,
		    char ret[static MCP_KEY_SIZE], struct err *e);
/** mcp_keys_good: whether that is the pool's key, or the one before in its time of grace. */
bool mcp_keys_good(struct store *s, const char *pool_key, int64_t now_us, struct str key);
/** mcp_keys_forget: the pool is gone. */
void mcp_keys_forget(struct store *s, const char *pool_key);

/** mcp_key_actions: fetchMcpServerCredentials and rotateMcpServerCredentials of a session pool. */
extern const struct arm_action mcp_key_actions[];
void mcp_keys_removing(struct arm *arm, const char *pool_key);
