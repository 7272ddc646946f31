/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * data_plane: the REST API of code-interpreter pools, all generations of it (azure-api.md §2,
 * clients.md).
 *
 * The path decides the call, `api-version` the shape of files calls, and absence of it is allowed.
 * Old shape: `code/execute`, `files/upload`…, replies wrapped in `properties`. New shape:
 * `executions`, flat replies. The founding document's form `…/identifier/{id}/code/execute` has a
 * reply of its own.
 */

#include "http/http.h"
#include "pool/pool.h"

struct data_plane_config {
	struct pools *pools;
	struct store *store; /* of the keys of MCP servers */
	/** metadata: JSON text for GET metadata of a container type
	 * ({"runtimes":…,"preInstalledPackages":…}). */
	const char *(*metadata)(const char *container_type, void *arg);
	void *metadata_arg;
	const char *default_pool; /* key of the pool that paths without one mean; NULL: no such
				     paths */
	size_t code_max;          /* bytes of source in one execution */
	uint32_t list_max;        /* entries of one listing */
	const char *mcp_origins;  /* pages that may call MCP servers, ',' between; NULL: none but
				     loopback's and our own */
};

/** data_plane_origins_check: of mcp_origins, for --mcp-origin; NULL is fine. */
int data_plane_origins_check(const char *list, struct err *e);

/** data_plane_routes: config is copied. */
int data_plane_routes(const struct data_plane_config *config, struct http_server *server,
		      struct err *e);

/** The permission of routes that take an API key in place of a bearer token. */
#define DATA_PLANE_MCP "mcp:call"
/** data_plane_api_key: for the authorize hook on such routes: 1 good, 0 none given, -1 with e. */
int data_plane_api_key(struct http_request *rq, struct err *e);
