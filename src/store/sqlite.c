/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store.h"

#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#define SCHEMA_VERSION 1

enum statement {
	/* documents.db */
	DOC_BEGIN,
	DOC_COMMIT,
	DOC_ROLLBACK,
	DOC_ETAG,
	DOC_NEXT_ETAG,
	DOC_PUT,
	DOC_GET,
	DOC_DELETE,
	/* sessions.db */
	SES_PUT,
	SES_TOUCH,
	SES_DELETE,
	EXE_PUT,
	EXE_FINISH,
	EXE_DELETE,
	EXE_GET,
	STATEMENT_MAX
};
#define FIRST_SESSION_STATEMENT SES_PUT

static const char *const statements[STATEMENT_MAX] = {
	[DOC_BEGIN] = "BEGIN IMMEDIATE",
	[DOC_COMMIT] = "COMMIT",
	[DOC_ROLLBACK] = "ROLLBACK",
	[DOC_ETAG] = "SELECT etag FROM documents WHERE key = ?1",
	[DOC_NEXT_ETAG] = "UPDATE counter SET etag = etag + 1 RETURNING etag",
	[DOC_PUT] = "INSERT INTO documents (key, type, json, etag) VALUES (?1, ?2, ?3, ?4)"
		    " ON CONFLICT (key) DO UPDATE SET type = ?2, json = ?3, etag = ?4",
	[DOC_GET] = "SELECT key, type, json, etag FROM documents WHERE key = ?1",
	[DOC_DELETE] = "DELETE FROM documents WHERE key = ?1",
	[SES_PUT] = "INSERT OR REPLACE INTO sessions"
		    " (sid, pool_key, identifier, guid, image, created_us, accessed_us)"
		    " VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
	[SES_TOUCH] = "UPDATE sessions SET accessed_us = ?2 WHERE sid = ?1",
	[SES_DELETE] = "DELETE FROM sessions WHERE sid = ?1",
	[EXE_PUT] = "INSERT INTO executions (sid, id, op, request, result, created_us)"
		    " VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (sid, id) DO UPDATE"
		    " SET op = ?3, request = ?4, result = ?5, created_us = ?6",
	[EXE_FINISH] = "UPDATE executions SET result = ?3 WHERE sid = ?1 AND id = ?2",
	[EXE_DELETE] = "DELETE FROM executions WHERE sid = ?1 AND id = ?2",
	[EXE_GET] = "SELECT sid, id, op, request, result, created_us FROM executions"
		    " WHERE sid = ?1 AND id = ?2",
};

/* The order of these columns is that of fill_session() and fill_execution(). The ORDER BY matches
 * no index, so SQLite sorts the whole result before the first row: the callbacks may write. */
static const char session_each_sql[] = "SELECT sid, pool_key, identifier, guid, image, created_us, "
				       "accessed_us FROM sessions"
				       " ORDER BY created_us, +sid";
static const char execution_each_sql[] = "SELECT sid, id, op, request, result, created_us FROM "
					 "executions WHERE sid = ?1"
					 " ORDER BY +rowid";
static const char doc_list_sql[] = "SELECT key, type, json, etag FROM documents WHERE key > ?1 AND "
				   "key >= ?2 AND key < ?3"
				   " AND (?4 IS NULL OR type = ?4) ORDER BY key LIMIT ?5";

static const char documents_schema[] = "CREATE TABLE documents (key TEXT PRIMARY KEY NOT NULL, "
				       "type TEXT NOT NULL, json TEXT NOT NULL,"
				       " etag INTEGER NOT NULL);"
				       "CREATE TABLE counter (etag INTEGER NOT NULL);"
				       "INSERT INTO counter VALUES (0);";

static const char sessions_schema[] =
	"CREATE TABLE sessions (sid TEXT PRIMARY KEY NOT NULL, pool_key TEXT NOT NULL,"
	" identifier TEXT NOT NULL, guid TEXT NOT NULL, image TEXT NOT NULL,"
	" created_us INTEGER NOT NULL, accessed_us INTEGER NOT NULL) WITHOUT ROWID;"
	"CREATE TABLE executions (sid TEXT NOT NULL, id TEXT NOT NULL, op INTEGER NOT NULL,"
	" request TEXT NOT NULL, result TEXT, created_us INTEGER NOT NULL, UNIQUE (sid, id));"
	/* A trigger, so that ending a session is one statement and therefore one transaction. */
	"CREATE TRIGGER session_end AFTER DELETE ON sessions BEGIN"
	" DELETE FROM executions WHERE sid = OLD.sid; END;";

struct store {
	sqlite3 *docs;
	sqlite3 *sessions;
	sqlite3_stmt *prepared[STATEMENT_MAX];
	int lock_fd;
};

static int db_err(sqlite3 *db, const char *what, struct err *e)
{
	int code = sqlite3_errcode(db) & 0xff;

	if (code == SQLITE_NOMEM)
		return err_set(e, ERR_NOMEM, "store: %s: out of memory", what);
	if (code == SQLITE_FULL)
		return err_set(e, ERR_STORAGE_FULL,
			       "store: %s: the disk of the state directory is full", what);
	if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB)
		return err_set(e, ERR_SYSTEM,
			       "store: %s: the file is damaged (%s); restore it from a backup",
			       what, sqlite3_errmsg(db));
	return err_set(e, ERR_SYSTEM, "store: %s: %s", what, sqlite3_errmsg(db));
}

/* Leaves a statement as it was found, whichever way its user returns. */
static void reset_stmt(sqlite3_stmt **st)
{
	if (*st) {
		sqlite3_reset(*st);
		sqlite3_clear_bindings(*st);
	}
}
#define USING_STMT __attribute__((cleanup(reset_stmt)))

static void finalize_stmt(sqlite3_stmt **st)
{
	sqlite3_finalize(*st);
}
#define OWNED_STMT __attribute__((cleanup(finalize_stmt)))

static sqlite3 *db_of(sqlite3_stmt *st)
{
	return sqlite3_db_handle(st);
}

static void bind_text(sqlite3_stmt *st, int index, const char *text)
{
	/* SQLITE_STATIC: every caller's text outlives the step, and the bindings are cleared after
	 * it. */
	if (text)
		sqlite3_bind_text(st, index, text, -1, SQLITE_STATIC);
	else
		sqlite3_bind_null(st, index);
}

static const char *column(sqlite3_stmt *st, int index)
{
	return (const char *)sqlite3_column_text(st, index);
}

/* Runs a statement that yields no row. */
static int run(sqlite3_stmt *st, const char *what, struct err *e)
{
	if (sqlite3_step(st) == SQLITE_DONE)
		return 0;
	return db_err(db_of(st), what, e);
}

static int run_bare(struct store *s, enum statement which, const char *what, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[which];

	return run(st, what, e);
}

/* --- opening --- */

static int lock_dir(struct store *s, const char *dir, struct err *e)
{
	char path[4096];
	char pid[32] = "";

	snprintf(path, sizeof(path), "%s/store.lock", dir);
	s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->lock_fd < 0)
		return err_sys(e, "store: open %s", path);
	if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0) {
		int n = snprintf(pid, sizeof(pid), "%ld\n", (long)getpid());

		/* The number is only for the message below; the lock is what counts. */
		if (ftruncate(s->lock_fd, 0) != 0 || pwrite(s->lock_fd, pid, (size_t)n, 0) != n)
			return err_sys(e, "store: write %s", path);
		return 0;
	}
	if (errno != EWOULDBLOCK)
		return err_sys(e, "store: lock %s", path);
	ssize_t n = pread(s->lock_fd, pid, sizeof(pid) - 1, 0);

	pid[n > 0 ? n : 0] = '\0';
	pid[strcspn(pid, "\n")] = '\0';
	return err_set(e, ERR_CONFLICT,
		       "the state directory %s is in use by another bivouacd (process %s); stop "
		       "it, or give "
		       "this one its own directory",
		       dir, pid[0] ? pid : "unknown");
}

static int exec_sql(sqlite3 *db, const char *sql, const char *what, struct err *e)
{
	if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
		return db_err(db, what, e);
	return 0;
}

static int schema_version(sqlite3 *db, const char *path, int64_t *ret, struct err *e)
{
	OWNED_STMT sqlite3_stmt *st = NULL;

	if (sqlite3_prepare_v2(db, "PRAGMA user_version", -1, &st, NULL) != SQLITE_OK ||
	    sqlite3_step(st) != SQLITE_ROW)
		return db_err(db, path, e);
	*ret = sqlite3_column_int64(st, 0);
	return 0;
}

static int open_db(const char *dir, const char *name, const char *pragmas, const char *schema,
		   sqlite3 **ret, struct err *e)
{
	char path[4096];
	char sql[2048];
	int64_t version = 0;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	/* SECURITY: identifiers are the only secret of a session and documents hold secrets of
	 * pools: the file is made unreadable to others first; SQLite gives its -wal and -shm files
	 * the same mode. */
	OWNED_FD int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return err_sys(e, "store: open %s", path);
	close_fd(&fd);
	if (sqlite3_open_v2(path, ret, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL) !=
	    SQLITE_OK)
		return *ret ? db_err(*ret, path, e) : err_set(e, ERR_NOMEM, "store: %s", path);
	sqlite3_busy_timeout(*ret,
			     2000); /* a backup with the sqlite3 program may hold it for a moment */
	if (exec_sql(*ret, pragmas, path, e) < 0 || schema_version(*ret, path, &version, e) < 0)
		return -1;
	if (version > SCHEMA_VERSION)
		return err_set(e, ERR_CONFLICT,
			       "store: %s was written by a newer bivouac (schema %lld, this "
			       "program knows %d); "
			       "install that version or start with an empty state directory",
			       path, (long long)version, SCHEMA_VERSION);
	if (version == SCHEMA_VERSION)
		return 0;
	snprintf(sql, sizeof(sql), "BEGIN IMMEDIATE;%s PRAGMA user_version=%d;COMMIT;", schema,
		 SCHEMA_VERSION);
	return exec_sql(*ret, sql, path, e);
}

static int prepare_all(struct store *s, struct err *e)
{
	for (int i = 0; i < STATEMENT_MAX; i++) {
		sqlite3 *db = i < FIRST_SESSION_STATEMENT ? s->docs : s->sessions;

		if (sqlite3_prepare_v3(db, statements[i], -1, SQLITE_PREPARE_PERSISTENT,
				       &s->prepared[i], NULL) != SQLITE_OK)
			return db_err(db, "prepare", e);
	}
	return 0;
}

int store_open(const char *dir, struct store **ret, struct err *e)
{
	struct store *s = calloc(1, sizeof(*s));

	if (!s)
		return err_set(e, ERR_NOMEM, "store: out of memory");
	s->lock_fd = -1;
	if (lock_dir(s, dir, e) < 0 ||
	    open_db(dir, "documents.db",
		    "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA trusted_schema=OFF;"
		    "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-512;",
		    documents_schema, &s->docs, e) < 0 ||
	    /* Exclusive locking: this file is nobody else's business, and each write saves the lock
	     * calls and the shared-memory index. */
	    open_db(dir, "sessions.db",
		    "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA "
		    "synchronous=OFF;"
		    "PRAGMA trusted_schema=OFF; PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2048;",
		    sessions_schema, &s->sessions, e) < 0 ||
	    prepare_all(s, e) < 0) {
		store_close(s);
		return -1;
	}
	*ret = s;
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	for (int i = 0; i < STATEMENT_MAX; i++)
		sqlite3_finalize(s->prepared[i]);
	sqlite3_close(s->docs);
	sqlite3_close(s->sessions);
	close_fd(&s->lock_fd);
	free(s);
}

/* --- documents --- */

void store_doc_done(struct store_doc *d)
{
	free(d->key);
	free(d->type);
	free(d->json);
	*d = (struct store_doc){ 0 };
}

/* 1 and its etag, 0 none, -1. */
static int current_etag(struct store *s, const char *key, uint64_t *ret, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[DOC_ETAG];

	bind_text(st, 1, key);
	switch (sqlite3_step(st)) {
	case SQLITE_ROW:
		*ret = (uint64_t)sqlite3_column_int64(st, 0);
		return 1;
	case SQLITE_DONE:
		return 0;
	default:
		return db_err(s->docs, "read a document", e);
	}
}

static int next_etag(struct store *s, uint64_t *ret, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[DOC_NEXT_ETAG];

	if (sqlite3_step(st) != SQLITE_ROW)
		return db_err(s->docs, "count the write", e);
	*ret = (uint64_t)sqlite3_column_int64(st, 0);
	return run(st, "count the write", e);
}

static int put_in_transaction(struct store *s, const char *key, const char *type, const char *json,
			      uint64_t expect, uint64_t *ret_etag, struct err *e)
{
	uint64_t have = 0;
	int found = current_etag(s, key, &have, e);

	if (found < 0)
		return -1;
	if (expect == STORE_ETAG_NEW && found)
		return err_set(e, ERR_PRECONDITION, "The resource exists already.");
	if (expect != STORE_ETAG_NEW && expect != STORE_ETAG_ANY && (!found || have != expect))
		return err_set(e, ERR_PRECONDITION,
			       "The resource was changed by somebody else. Read it again.");
	if (next_etag(s, ret_etag, e) < 0)
		return -1;
	USING_STMT sqlite3_stmt *st = s->prepared[DOC_PUT];

	bind_text(st, 1, key);
	bind_text(st, 2, type);
	bind_text(st, 3, json);
	sqlite3_bind_int64(st, 4, (sqlite3_int64)*ret_etag);
	return run(st, "write a document", e);
}

int store_doc_put(struct store *s, const char *key, const char *type, const char *json,
		  uint64_t expect, uint64_t *ret_etag, struct err *e)
{
	uint64_t etag = 0;

	if (run_bare(s, DOC_BEGIN, "begin", e) < 0)
		return -1;
	if (put_in_transaction(s, key, type, json, expect, &etag, e) < 0 ||
	    run_bare(s, DOC_COMMIT, "commit", e) < 0) {
		/* Some failures have rolled back by themselves. */
		if (!sqlite3_get_autocommit(s->docs))
			run_bare(s, DOC_ROLLBACK, "roll back", NULL);
		return -1;
	}
	if (ret_etag)
		*ret_etag = etag;
	return 0;
}

int store_doc_get(struct store *s, const char *key, struct store_doc *ret, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[DOC_GET];

	bind_text(st, 1, key);
	switch (sqlite3_step(st)) {
	case SQLITE_ROW:
		break;
	case SQLITE_DONE:
		return 0;
	default:
		return db_err(s->docs, "read a document", e);
	}
	struct store_doc d = {
		.key = str_dup(str_from(column(st, 0))),
		.type = str_dup(str_from(column(st, 1))),
		.json = str_dup(str_from(column(st, 2))),
		.etag = (uint64_t)sqlite3_column_int64(st, 3),
	};

	if (!d.key || !d.type || !d.json) {
		store_doc_done(&d);
		return err_set(e, ERR_NOMEM, "store: out of memory");
	}
	*ret = d;
	return 1;
}

int store_doc_delete(struct store *s, const char *key, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[DOC_DELETE];

	bind_text(st, 1, key);
	if (run(st, "delete a document", e) < 0)
		return -1;
	return sqlite3_changes(s->docs) ? 1 : 0;
}

int store_doc_list(struct store *s, const char *type, const char *prefix, const char *after,
		   int limit, int (*fn)(const struct store_doc *d, void *arg, struct err *e),
		   void *arg, struct err *e)
{
	OWNED_STMT sqlite3_stmt *st = NULL;
	/* Everything that starts with prefix is below prefix + 0xff: no UTF-8
	 * text has that byte. */
	OWNED_MEM char *end = str_printf("%s\xff", prefix);
	int count = 0;
	int r;

	if (!end)
		return err_set(e, ERR_NOMEM, "store: out of memory");
	if (sqlite3_prepare_v2(s->docs, doc_list_sql, -1, &st, NULL) != SQLITE_OK)
		return db_err(s->docs, "list documents", e);
	bind_text(st, 1, after ? after : "");
	bind_text(st, 2, prefix);
	bind_text(st, 3, end);
	bind_text(st, 4, type);
	sqlite3_bind_int(st, 5, limit);
	while ((r = sqlite3_step(st)) == SQLITE_ROW) {
		struct store_doc d = {
			.key = (char *)column(st, 0),
			.type = (char *)column(st, 1),
			.json = (char *)column(st, 2),
			.etag = (uint64_t)sqlite3_column_int64(st, 3),
		};

		if (!d.key || !d.type || !d.json)
			return err_set(e, ERR_NOMEM, "store: out of memory");
		if (fn(&d, arg, e) < 0)
			return -1;
		count++;
	}
	return r == SQLITE_DONE ? count : db_err(s->docs, "list documents", e);
}

/* --- sessions and executions --- */

int store_session_put(struct store *s, const struct store_session *row, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[SES_PUT];

	bind_text(st, 1, row->sid);
	bind_text(st, 2, row->pool_key);
	bind_text(st, 3, row->identifier);
	bind_text(st, 4, row->guid);
	bind_text(st, 5, row->image);
	sqlite3_bind_int64(st, 6, row->created_us);
	sqlite3_bind_int64(st, 7, row->accessed_us);
	return run(st, "write a session", e);
}

int store_session_touch(struct store *s, const char *sid, int64_t accessed_us, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[SES_TOUCH];

	bind_text(st, 1, sid);
	sqlite3_bind_int64(st, 2, accessed_us);
	return run(st, "touch a session", e);
}

int store_session_delete(struct store *s, const char *sid, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[SES_DELETE];

	bind_text(st, 1, sid);
	return run(st, "delete a session", e);
}

/* false: SQLite ran out of memory for a text. */
static bool fill_session(sqlite3_stmt *st, struct store_session *row)
{
	*row = (struct store_session){
		.pool_key = column(st, 1),
		.identifier = column(st, 2),
		.guid = column(st, 3),
		.image = column(st, 4),
		.created_us = sqlite3_column_int64(st, 5),
		.accessed_us = sqlite3_column_int64(st, 6),
	};
	return str_copy(str_from(column(st, 0)), row->sid, sizeof(row->sid)) && row->pool_key &&
	       row->identifier && row->guid && row->image;
}

int store_session_each(struct store *s,
		       int (*fn)(const struct store_session *row, void *arg, struct err *e),
		       void *arg, struct err *e)
{
	OWNED_STMT sqlite3_stmt *st = NULL;
	struct store_session row;
	int r;

	if (sqlite3_prepare_v2(s->sessions, session_each_sql, -1, &st, NULL) != SQLITE_OK)
		return db_err(s->sessions, "list sessions", e);
	while ((r = sqlite3_step(st)) == SQLITE_ROW) {
		if (!fill_session(st, &row))
			return err_set(e, ERR_SYSTEM, "store: a session row cannot be read");
		if (fn(&row, arg, e) < 0)
			return -1;
	}
	return r == SQLITE_DONE ? 0 : db_err(s->sessions, "list sessions", e);
}

int store_execution_put(struct store *s, const struct store_execution *row, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[EXE_PUT];

	bind_text(st, 1, row->sid);
	bind_text(st, 2, row->id);
	sqlite3_bind_int64(st, 3, (sqlite3_int64)row->op);
	bind_text(st, 4, row->request);
	bind_text(st, 5, row->result);
	sqlite3_bind_int64(st, 6, row->created_us);
	return run(st, "write an execution", e);
}

int store_execution_finish(struct store *s, const char *sid, const char *id, const char *result,
			   struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[EXE_FINISH];

	bind_text(st, 1, sid);
	bind_text(st, 2, id);
	bind_text(st, 3, result);
	if (run(st, "finish an execution", e) < 0)
		return -1;
	if (!sqlite3_changes(s->sessions))
		return err_set(e, ERR_NO_EXECUTION, "There is no execution '%s'.", id);
	return 0;
}

int store_execution_delete(struct store *s, const char *sid, const char *id, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[EXE_DELETE];

	bind_text(st, 1, sid);
	bind_text(st, 2, id);
	return run(st, "delete an execution", e);
}

static bool fill_execution(sqlite3_stmt *st, struct store_execution *row)
{
	*row = (struct store_execution){
		.id = column(st, 1),
		.op = (uint64_t)sqlite3_column_int64(st, 2),
		.request = column(st, 3),
		.result = column(st, 4),
		.created_us = sqlite3_column_int64(st, 5),
	};
	return str_copy(str_from(column(st, 0)), row->sid, sizeof(row->sid)) && row->id &&
	       row->request;
}

int store_execution_get(struct store *s, const char *sid, const char *id,
			int (*fn)(const struct store_execution *row, void *arg, struct err *e),
			void *arg, struct err *e)
{
	USING_STMT sqlite3_stmt *st = s->prepared[EXE_GET];
	struct store_execution row;

	bind_text(st, 1, sid);
	bind_text(st, 2, id);
	switch (sqlite3_step(st)) {
	case SQLITE_ROW:
		if (!fill_execution(st, &row))
			return err_set(e, ERR_SYSTEM, "store: an execution row cannot be read");
		return fn(&row, arg, e) < 0 ? -1 : 1;
	case SQLITE_DONE:
		return 0;
	default:
		return db_err(s->sessions, "read an execution", e);
	}
}

int store_execution_each(struct store *s, const char *sid,
			 int (*fn)(const struct store_execution *row, void *arg, struct err *e),
			 void *arg, struct err *e)
{
	OWNED_STMT sqlite3_stmt *st = NULL;
	struct store_execution row;
	int r;

	if (sqlite3_prepare_v2(s->sessions, execution_each_sql, -1, &st, NULL) != SQLITE_OK)
		return db_err(s->sessions, "list executions", e);
	bind_text(st, 1, sid);
	while ((r = sqlite3_step(st)) == SQLITE_ROW) {
		if (!fill_execution(st, &row))
			return err_set(e, ERR_SYSTEM, "store: an execution row cannot be read");
		if (fn(&row, arg, e) < 0)
			return -1;
	}
	return r == SQLITE_DONE ? 0 : db_err(s->sessions, "list executions", e);
}
