/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/own.h"
#include "store/store.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>

static char dir[64];

static int setup(void **state)
{
	struct store *s = NULL;
	struct err e = ERR_INIT;

	snprintf(dir, sizeof(dir), "/tmp/bivouac-store-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(store_open(dir, &s, &e), 0);
	*state = s;
	return 0;
}

static int teardown(void **state)
{
	static const char *const files[] = {
		"documents.db", "documents.db-wal", "documents.db-shm",
		"sessions.db",  "sessions.db-wal",  "store.lock",
	};
	char path[128];

	store_close(*state);
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		unlink(path);
	}
	return rmdir(dir);
}

static void test_documents(void **state)
{
	struct store *s = *state;
	struct err e = ERR_INIT;
	struct store_doc d = { 0 };
	uint64_t first = 0;
	uint64_t second = 0;

	assert_int_equal(store_doc_get(s, "/a", &d, &e), 0);
	assert_int_equal(store_doc_put(s, "/a", "t", "{}", STORE_ETAG_NEW, &first, &e), 0);
	assert_int_equal(store_doc_put(s, "/a", "t", "{}", STORE_ETAG_NEW, NULL, &e), -1);
	assert_int_equal(e.code, ERR_PRECONDITION);
	assert_int_equal(store_doc_put(s, "/a", "t", "{\"v\":2}", first, &second, &e), 0);
	assert_true(second > first);
	assert_int_equal(store_doc_put(s, "/a", "t", "{}", first, NULL, &e), -1);
	assert_int_equal(e.code, ERR_PRECONDITION);
	assert_int_equal(store_doc_put(s, "/none", "t", "{}", first, NULL, &e), -1);
	assert_int_equal(e.code, ERR_PRECONDITION);
	assert_int_equal(store_doc_get(s, "/a", &d, &e), 1);
	assert_string_equal(d.json, "{\"v\":2}");
	assert_string_equal(d.type, "t");
	assert_true(d.etag == second);
	store_doc_done(&d);
	assert_int_equal(store_doc_delete(s, "/a", &e), 1);
	assert_int_equal(store_doc_delete(s, "/a", &e), 0);
	/* An etag never comes back, also not after a delete. */
	assert_int_equal(store_doc_put(s, "/a", "t", "{}", STORE_ETAG_ANY, &first, &e), 0);
	assert_true(first > second);
}

struct seen {
	char keys[256];
	int stop_after;
};

static int see(const struct store_doc *d, void *arg, struct err *e)
{
	struct seen *seen = arg;

	strncat(seen->keys, d->key, sizeof(seen->keys) - strlen(seen->keys) - 1);
	strncat(seen->keys, " ", sizeof(seen->keys) - strlen(seen->keys) - 1);
	if (seen->stop_after && --seen->stop_after == 0)
		return err_set(e, ERR_INTERNAL, "enough");
	return 0;
}

static void test_list(void **state)
{
	static const char *const keys[] = { "/g/a/2", "/g/a/1", "/g/a/3", "/g/ab/1", "/g/b/1" };
	struct store *s = *state;
	struct err e = ERR_INIT;

	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		assert_int_equal(store_doc_put(s, keys[i], i == 4 ? "other" : "t", "{}",
					       STORE_ETAG_ANY, NULL, &e),
				 0);
	struct seen all = { 0 };

	assert_int_equal(store_doc_list(s, NULL, "/g/", NULL, 100, see, &all, &e), 5);
	assert_string_equal(all.keys, "/g/a/1 /g/a/2 /g/a/3 /g/ab/1 /g/b/1 ");
	struct seen typed = { 0 };

	assert_int_equal(store_doc_list(s, "t", "/g/", NULL, 100, see, &typed, &e), 4);
	struct seen page = { 0 };

	assert_int_equal(store_doc_list(s, "t", "/g/a/", "/g/a/1", 1, see, &page, &e), 1);
	assert_string_equal(page.keys, "/g/a/2 ");
	struct seen stop = { .stop_after = 2 };

	assert_int_equal(store_doc_list(s, NULL, "", NULL, 100, see, &stop, &e), -1);
	assert_string_equal(e.msg, "enough");
}

static struct store_session session(const char *sid)
{
	struct store_session row = { .pool_key = "/pool",
				     .identifier = "user-1",
				     .guid = "g",
				     .image = "img",
				     .created_us = 10,
				     .accessed_us = 20 };

	snprintf(row.sid, sizeof(row.sid), "%s", sid);
	return row;
}

static int count_session(const struct store_session *row, void *arg, struct err *e)
{
	(void)e;
	assert_string_equal(row->identifier, "user-1");
	assert_int_equal(row->accessed_us, 99);
	++*(int *)arg;
	return 0;
}

struct drop {
	struct store *s;
	int count;
};

static int drop_session(const struct store_session *row, void *arg, struct err *e)
{
	struct drop *d = arg;

	d->count++;
	return store_session_delete(d->s, row->sid, e);
}

static int see_execution(const struct store_execution *row, void *arg, struct err *e)
{
	struct seen *seen = arg;

	(void)e;
	strncat(seen->keys, row->id, sizeof(seen->keys) - strlen(seen->keys) - 1);
	strncat(seen->keys, row->result ? "+ " : "- ", sizeof(seen->keys) - strlen(seen->keys) - 1);
	return 0;
}

static void test_sessions(void **state)
{
	static const char sid[] = "00112233445566778899aabbccddeeff";
	struct store *s = *state;
	struct err e = ERR_INIT;
	struct store_session row = session(sid);
	int count = 0;

	assert_int_equal(store_session_put(s, &row, &e), 0);
	assert_int_equal(store_session_touch(s, sid, 99, &e), 0);
	assert_int_equal(store_session_each(s, count_session, &count, &e), 0);
	assert_int_equal(count, 1);
	for (int i = 3; i > 0; i--) {
		char id[8];
		struct store_execution x = { .id = id, .op = (uint64_t)i, .request = "{}" };

		snprintf(id, sizeof(id), "e%d", i);
		memcpy(x.sid, sid, sizeof(x.sid));
		assert_int_equal(store_execution_put(s, &x, &e), 0);
	}
	assert_int_equal(store_execution_finish(s, sid, "e2", "{\"r\":1}", &e), 0);
	assert_int_equal(store_execution_finish(s, sid, "e9", "{}", &e), -1);
	assert_int_equal(e.code, ERR_NO_EXECUTION);
	struct seen order = { 0 };

	assert_int_equal(store_execution_each(s, sid, see_execution, &order, &e), 0);
	assert_string_equal(order.keys, "e3- e2+ e1- ");
	assert_int_equal(store_execution_delete(s, sid, "e3", &e), 0);
	struct seen one = { 0 };

	assert_int_equal(store_execution_get(s, sid, "e2", see_execution, &one, &e), 1);
	assert_int_equal(store_execution_get(s, sid, "e3", see_execution, &one, &e), 0);
	assert_string_equal(one.keys, "e2+ ");
	struct drop drop = { s, 0 };
	struct store_session other = session("ffeeddccbbaa99887766554433221100");

	assert_int_equal(store_session_put(s, &other, &e), 0);
	assert_int_equal(store_session_each(s, drop_session, &drop, &e), 0);
	assert_int_equal(drop.count, 2);
	struct seen none = { 0 };

	assert_int_equal(store_execution_each(s, sid, see_execution, &none, &e), 0);
	assert_string_equal(none.keys, "");
}

static void test_lock(void **state)
{
	struct err e = ERR_INIT;
	struct store *second = NULL;

	(void)state;
	assert_int_equal(store_open(dir, &second, &e), -1);
	assert_null(second);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_non_null(strstr(e.msg, "in use by another bivouacd"));
	assert_int_equal(store_open("/nonexistent/dir", &second, &e), -1);
	assert_int_equal(e.code, ERR_SYSTEM);
}

static void test_newer_schema(void **state)
{
	struct err e = ERR_INIT;
	char path[128];
	sqlite3 *db = NULL;

	store_close(*state);
	*state = NULL;
	snprintf(path, sizeof(path), "%s/documents.db", dir);
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA user_version=99", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	assert_int_equal(store_open(dir, (struct store **)state, &e), -1);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_non_null(strstr(e.msg, "newer bivouac"));
}

static void test_modes(void **state)
{
	static const char *const files[] = {
		"documents.db", "sessions.db", "sessions.db-wal", "documents.db-wal", "store.lock",
	};
	struct store *s = *state;
	struct err e = ERR_INIT;
	struct store_session row = session("00112233445566778899aabbccddeeff");

	assert_int_equal(store_session_put(s, &row, &e), 0);
	assert_int_equal(store_doc_put(s, "/a", "t", "{}", STORE_ETAG_ANY, NULL, &e), 0);
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		char path[128];
		struct stat sb;

		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		assert_int_equal(stat(path, &sb), 0);
		assert_int_equal(sb.st_mode & 0777, 0600);
	}
}

/* What was written before a SIGKILL is there afterwards. */
static void test_killed(void **state)
{
	struct err e = ERR_INIT;

	store_close(*state);
	*state = NULL;
	int sync_pipe[2];

	assert_int_equal(pipe(sync_pipe), 0);
	pid_t pid = fork();

	if (pid == 0) {
		struct store *s = NULL;
		struct store_session row = session("00112233445566778899aabbccddeeff");

		if (store_open(dir, &s, &e) < 0 || store_session_put(s, &row, &e) < 0 ||
		    store_session_touch(s, row.sid, 99, &e) < 0 ||
		    store_doc_put(s, "/a", "t", "{}", STORE_ETAG_NEW, NULL, &e) < 0 ||
		    write(sync_pipe[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	char c;

	close(sync_pipe[1]);
	assert_int_equal(read(sync_pipe[0], &c, 1), 1);
	close(sync_pipe[0]);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	struct store *s = NULL;
	struct store_doc d;
	int count = 0;

	assert_int_equal(store_open(dir, &s, &e), 0);
	*state = s;
	assert_int_equal(store_session_each(s, count_session, &count, &e), 0);
	assert_int_equal(count, 1);
	assert_int_equal(store_doc_get(s, "/a", &d, &e), 1);
	store_doc_done(&d);
}

static void test_cost(void **state)
{
	enum { N = 20000 };
	struct store *s = *state;
	struct err e = ERR_INIT;
	struct store_session row = session("00000000000000000000000000000000");
	int64_t t0 = clock_mono_ns();

	for (int i = 0; i < N; i++) {
		snprintf(row.sid, sizeof(row.sid), "%08x%024x", (unsigned)i * 2654435761u, i);
		assert_int_equal(store_session_put(s, &row, &e), 0);
	}
	int64_t t1 = clock_mono_ns();

	for (int i = 0; i < N; i++) {
		snprintf(row.sid, sizeof(row.sid), "%08x%024x", (unsigned)i * 2654435761u, i);
		assert_int_equal(store_session_delete(s, row.sid, &e), 0);
	}
	int64_t t2 = clock_mono_ns();

	print_message("# session_put %.1f us, session_delete %.1f us\n",
		      (double)(t1 - t0) / N / 1e3, (double)(t2 - t1) / N / 1e3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_documents, setup, teardown),
		cmocka_unit_test_setup_teardown(test_list, setup, teardown),
		cmocka_unit_test_setup_teardown(test_sessions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lock, setup, teardown),
		cmocka_unit_test_setup_teardown(test_newer_schema, setup, teardown),
		cmocka_unit_test_setup_teardown(test_modes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_killed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cost, setup, teardown),
	};

	return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
