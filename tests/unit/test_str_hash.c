/* SPDX-License-Identifier: Apache-2.0 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "str_hash.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a kernel finds: hashes of text the zygote knew, of text it did not, and whether Python still
 * works. */
struct report {
	Py_hash_t known;
	Py_hash_t known_again; /* the same text in another object, made after the fork */
	Py_hash_t fresh;
	Py_hash_t fresh_again;
	Py_hash_t wide;
	Py_hash_t empty;
	int works;
};

static const char *const known_text = "text the zygote has hashed";
static const char *const fresh_text = "text only the session knows";
static const char *const wide_text = "\xe2\x82\xac \xf0\x9f\x98\x80 seen by nobody before";

static PyObject *globals; /* has a dict whose keys were hashed before the fork */

static Py_hash_t hash_of(const char *text)
{
	PyObject *s = PyUnicode_FromString(text);
	Py_hash_t h = PyObject_Hash(s);

	Py_DECREF(s);
	return h;
}

static int works(void)
{
	static const char script[] =
		"fresh = ''.join(['te', 'xt only ', 'the session knows'])\n"
		"made = ''.join(['text the zygote', ' has hashed'])\n"
		"table[fresh] = 2\n"
		"assert table[made] == 1 and table[''.join(['text only', ' the session knows'])] == 2\n"
		"assert hash(fresh) == hash('text only the session knows')\n"
		"class C: pass\n"
		"c = C()\n"
		"setattr(c, 'attr' + 'ibute', 3)\n"
		"assert c.attribute == 3 and len({str(i) for i in range(10000)}) == 10000\n"
		"assert all(table[k] for k in list(table))\n"
		"import json; assert json.loads('{\"a\": 1}')['a'] == 1\n";
	PyObject *ok = PyRun_String(script, Py_file_input, globals, globals);

	if (!ok)
		PyErr_Print();
	Py_XDECREF(ok);
	return ok != NULL;
}

static void run_kernel(int fd)
{
	struct report r = { 0 };

	str_hash_reseed();
	r.known = hash_of(known_text);
	r.known_again = hash_of(known_text);
	r.fresh = hash_of(fresh_text);
	r.fresh_again = hash_of(fresh_text);
	r.wide = hash_of(wide_text);
	r.empty = hash_of("");
	r.works = works();
	_exit(write(fd, &r, sizeof(r)) == sizeof(r) ? 0 : 1);
}

static struct report fork_kernel(void)
{
	struct report r = { 0 };
	int fds[2];
	int status;

	assert_int_equal(pipe(fds), 0);
	pid_t pid = fork();

	if (pid == 0)
		run_kernel(fds[1]);
	assert_true(pid > 0);
	close(fds[1]);
	assert_int_equal(read(fds[0], &r, sizeof(r)), sizeof(r));
	close(fds[0]);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	return r;
}

static void test_sessions(void **state)
{
	struct report a = fork_kernel();
	struct report b = fork_kernel();
	Py_hash_t zygote = hash_of(known_text);

	(void)state;
	assert_true(a.works);
	assert_true(b.works);
	/* Old dicts stay valid: what the zygote hashed keeps its hash, everywhere. */
	assert_true(a.known == zygote && b.known == zygote);
	assert_true(a.known_again == zygote && b.known_again == zygote);
	/* Equal strings hash equal, but in one session only. */
	assert_true(a.fresh == a.fresh_again && b.fresh == b.fresh_again);
	assert_true(a.fresh != b.fresh);
	assert_true(a.wide != b.wide);
	assert_true(a.fresh != -1 && a.wide != -1); /* which means an error */
	assert_true(a.empty == 0 && b.empty == 0);
	/* Last, as it makes them known: neither has the zygote's hash. */
	assert_true(hash_of(fresh_text) != a.fresh);
	assert_true(hash_of(wide_text) != a.wide);
	struct report c = fork_kernel();

	assert_true(c.fresh == hash_of(fresh_text));
}

static int setup(void **state)
{
	(void)state;
	str_hash_install();
	Py_InitializeEx(0);
	globals = PyDict_New();
	PyDict_SetItemString(globals, "__builtins__", PyEval_GetBuiltins());
	PyObject *table = PyDict_New();
	PyObject *one = PyLong_FromLong(1);

	PyDict_SetItemString(table, known_text, one);
	PyDict_SetItemString(globals, "table", table);
	Py_DECREF(one);
	Py_DECREF(table);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	Py_DECREF(globals);
	return Py_FinalizeEx();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sessions),
	};

	return cmocka_run_group_tests_name("str_hash", tests, setup, teardown);
}
