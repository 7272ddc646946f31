/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * mcp: the MCP server of a session pool (Model Context Protocol, streamable HTTP, without
 * sessions): JSON-RPC 2.0 over POST, plain JSON replies. azure-api.md §4 has the real service's
 * tools and shapes; docs/api.md ours.
 *
 * mcp.c speaks JSON-RPC and answers messages in order; mcp_tools.c has the table of tools and runs
 * code; mcp_files.c has those for files; mcp_origin.c says which pages' browsers may call. An
 * environment is a session: `environmentId` is its
 * identifier, its sandbox is allocated when the first tool needs it.
 */

#include "api/internal.h"

#include <jansson.h>

/** JSON-RPC's error codes; the last is ours, for what the sandbox or its pool refuses. */
#define MCP_PARSE_ERROR      (-32700)
#define MCP_INVALID_REQUEST  (-32600)
#define MCP_METHOD_NOT_FOUND (-32601)
#define MCP_INVALID_PARAMS   (-32602)
#define MCP_REFUSED          (-32000)

/** What one HTTP request brought: a message, or a batch of them. */
struct mcp {
	struct call *call;
	json_t *messages; /* array */
	bool batch;
	size_t at; /* the one being answered */
	json_t *replies;
	size_t reply_bytes; /* of the results in replies, about */
	bool no_memory;     /* a reply is missing */
	bool stepping;
	bool waiting; /* for a tool */
	bool ended;   /* the HTTP request is over */

	/* Of the tool that runs. */
	json_t *arguments;      /* borrowed from the message */
	struct str environment; /* the same */
	struct session_wait *wait;
	struct execution *execution;
	struct agent_file_op *file;
	void (*open)(struct mcp *m, struct session *s, struct agent_link *link);
	const char *language; /* of the code in bytes */
	bool argv;            /* bytes has a program and its arguments, a NUL behind each */
	struct buf bytes;     /* code, or of a file, on its way in or out */
	size_t bytes_at;
	size_t bytes_max;
	uint64_t file_size;
	bool recursive;
	char path[AGENT_PATH_MAX + 1];
};

/* mcp.c: what a tool ends with, exactly once. */
/** mcp_result: takes both. structured: NULL when memory was out. content: further content blocks
 * beside the text of structured, or NULL. */
void mcp_result(struct mcp *m, json_t *structured, json_t *content, bool is_error);
void mcp_error(struct mcp *m, int code, const struct err *e);
/** mcp_refuse: an error of the sandbox or its pool. */
void mcp_refuse(struct mcp *m, const struct err *e);

/** mcp_text: a string without NUL; NULL if it is none. Borrowed. */
const char *mcp_text(const json_t *value);

/* mcp_tools.c */
/** mcp_tools: new reference: what tools/list answers for the pool. */
json_t *mcp_tools(const struct mcp *m);
/** mcp_tool_run: false if there is no such tool for the pool. */
bool mcp_tool_run(struct mcp *m, const char *name);
/** mcp_with_session: allocates the environment if need be; calls open when the environment's
 * sandbox can be talked to, or ends the tool with an error. */
void mcp_with_session(struct mcp *m,
		      void (*open)(struct mcp *m, struct session *s, struct agent_link *link));
/** mcp_argument: a string of the arguments; required ones that are missing end the tool. */
bool mcp_argument(struct mcp *m, const char *name, bool required, const char **ret);
/** mcp_flag: true or false, false if it is missing; what is neither ends the tool. */
bool mcp_flag(struct mcp *m, const char *name, bool *ret);

/* mcp_origin.c */
/** mcp_origin_check: whether the page that a browser calls for may; allowed: further origins with
 * ',' between, or NULL. */
int mcp_origin_check(struct http_request *rq, const char *allowed, struct err *e);

/* mcp_files.c */
void mcp_list_files(struct mcp *m);
void mcp_read_file(struct mcp *m);
void mcp_write_file(struct mcp *m);
void mcp_delete_file(struct mcp *m);
