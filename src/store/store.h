/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * store: the only way to state that outlives the process.
 *
 * Two kinds of rows. Documents (ARM resources and the like) are few and precious: every write is
 * synced to disk before the call returns. Sessions and executions are many and die with the machine
 * anyway: a write is in the kernel's hands when the call returns (survives SIGKILL of the daemon,
 * not a power cut), so that it costs microseconds. Calls are synchronous and run on the loop's
 * thread. One daemon per store; a second open fails.
 *
 * Embedded implementation: SQLite in WAL mode, two files in the state directory, prepared
 * statements, schema version in user_version; an unknown newer version is refused. Interface is
 * meant for a second (etcd) implementation.
 */

#include "base/err.h"
#include "base/str.h"

#include <stdint.h>

struct store;

/** store_open: dir must exist and be writable. */
int store_open(const char *dir, struct store **ret, struct err *e);
void store_close(struct store *s); /* accepts NULL */

/* Documents. Keys are opaque to the store; arm/ uses lower-cased resource ids. */
struct store_doc {
	char *key;
	char *type; /* lower-cased, e.g. "microsoft.app/sessionpools" */
	char *json;
	uint64_t etag; /* grows with each write of any document */
};
void store_doc_done(struct store_doc *d);
#define STORE_ETAG_ANY 0          /* write whatever is there */
#define STORE_ETAG_NEW UINT64_MAX /* only if there is none */
/** store_doc_put: ERR_PRECONDITION if expect is an etag that is not the current one (or NEW and one
 * exists). */
int store_doc_put(struct store *s, const char *key, const char *type, const char *json,
		  uint64_t expect, uint64_t *ret_etag, struct err *e);
/** store_doc_get: 1 found (caller store_doc_done), 0 none, -1 error. */
int store_doc_get(struct store *s, const char *key, struct store_doc *ret, struct err *e);
/** store_doc_delete: 1 deleted, 0 none, -1. */
int store_doc_delete(struct store *s, const char *key, struct err *e);
/**
 * store_doc_list: calls fn for documents of a type (NULL: any) whose key starts with prefix, in key
 * order, after the key `after` (NULL: from the start), at most limit. fn returns -1 to stop with e,
 * and must not write documents. Returns count or -1.
 */
int store_doc_list(struct store *s, const char *type, const char *prefix, const char *after,
		   int limit, int (*fn)(const struct store_doc *d, void *arg, struct err *e),
		   void *arg, struct err *e);

/* Sessions: one row per allocated sandbox. */
struct store_session {
	char sid[33]; /* sandbox id */
	const char *pool_key;
	const char *identifier;
	const char *guid; /* x-ms-session-guid, etag of the session resource */
	const char *image;
	int64_t created_us; /* wall */
	int64_t accessed_us;
};
int store_session_put(struct store *s, const struct store_session *row, struct err *e);
int store_session_touch(struct store *s, const char *sid, int64_t accessed_us, struct err *e);
/** store_session_delete: with its executions. */
int store_session_delete(struct store *s, const char *sid, struct err *e);
/** store_session_each, store_execution_each: fn may write and delete what it is shown. */
int store_session_each(struct store *s,
		       int (*fn)(const struct store_session *row, void *arg, struct err *e),
		       void *arg, struct err *e);

/* Executions: asynchronous ones only, from acceptance until they are pruned or
 * their session ends. */
struct store_execution {
	const char *id; /* caller-visible, unique in the session */
	char sid[33];
	uint64_t op;         /* agent protocol operation */
	const char *request; /* JSON of the pool module: what is needed to start it again from the
				queue */
	const char *result;  /* JSON of the pool module, NULL until finished */
	int64_t created_us;
};
int store_execution_put(struct store *s, const struct store_execution *row, struct err *e);
int store_execution_finish(struct store *s, const char *sid, const char *id, const char *result,
			   struct err *e);
int store_execution_delete(struct store *s, const char *sid, const char *id, struct err *e);
/** store_execution_get: 1 and calls fn with the row, 0 none, -1. */
int store_execution_get(struct store *s, const char *sid, const char *id,
			int (*fn)(const struct store_execution *row, void *arg, struct err *e),
			void *arg, struct err *e);
/** store_execution_each: of one session, in order of creation. */
int store_execution_each(struct store *s, const char *sid,
			 int (*fn)(const struct store_execution *row, void *arg, struct err *e),
			 void *arg, struct err *e);
