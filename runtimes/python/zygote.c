/* SPDX-License-Identifier: Apache-2.0 */

/*
 * bivouac-zygote-python: an embedded CPython with its libraries loaded, forked to make a kernel.
 *
 * Started by the jailer in the image's root with three descriptors (jailer/zygote_proto.h) and
 * three capabilities; zygote.h has the rest.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "base/err.h"
#include "str_hash.h"
#include "zygote.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#define HUGE_PAGE (2ul << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#define DRIVER_DIR L"/opt/bivouac"

static PyObject *serve_fn;

/* The text of the current Python exception, for the jailer's log. */
static int err_python(struct err *e, const char *what)
{
	PyObject *type, *value, *trace;

	PyErr_Fetch(&type, &value, &trace);
	PyErr_NormalizeException(&type, &value, &trace);
	PyObject *text = value ? PyObject_Repr(value) : NULL;
	const char *utf8 = text ? PyUnicode_AsUTF8(text) : NULL;

	err_set(e, ERR_INTERNAL, "%s: %s", what, utf8 ? utf8 : "unknown Python error");
	PyErr_Clear();
	Py_XDECREF(text);
	Py_XDECREF(type);
	Py_XDECREF(value);
	Py_XDECREF(trace);
	return -1;
}

static int start_python(struct err *e)
{
	PyConfig config;

	PyConfig_InitPythonConfig(&config);
	config.use_environment = 0;
	config.user_site_directory = 0;
	config.parse_argv = 0;
	config.install_signal_handlers = 1;
	config.write_bytecode = 0;
	config.buffered_stdio = 1;
	PyStatus status = PyConfig_SetString(&config, &config.program_name, L"/usr/bin/python3");

	if (!PyStatus_Exception(status))
		status = PyConfig_SetString(&config, &config.executable, L"/usr/bin/python3");
	if (!PyStatus_Exception(status))
		status = Py_InitializeFromConfig(&config);
	PyConfig_Clear(&config);
	if (PyStatus_Exception(status))
		return err_set(e, ERR_INTERNAL, "python does not start: %s", status.err_msg);
	PyObject *path = PySys_GetObject("path"); /* borrowed */
	PyObject *dir = PyUnicode_FromWideChar(DRIVER_DIR, -1);

	if (!path || !dir || PyList_Append(path, dir) < 0)
		return err_python(e, "sys.path");
	Py_DECREF(dir);
	PyObject *module = PyImport_ImportModule("bivouac_kernel");

	if (!module)
		return err_python(e, "import bivouac_kernel");
	PyObject *done = PyObject_CallMethod(module, "prepare", NULL);

	if (!done)
		return err_python(e, "prepare");
	Py_DECREF(done);
	serve_fn = PyObject_GetAttrString(module, "serve");
	Py_DECREF(module);
	return serve_fn ? 0 : err_python(e, "bivouac_kernel.serve");
}

/*
 * What the imports freed waits unsorted in malloc's lists; the first larger request sorts it into
 * bins and so writes to the head of every free chunk. Here it is done once, in a kernel it would
 * unshare two megabytes of pages. The size is past the small bins and below the threshold of mmap.
 */
static void settle_heap(void)
{
	for (int i = 0; i < 16; i++) {
		void *volatile p = malloc(100 * 1024);

		free(p);
	}
}

/*
 * Forking copies page tables: 8 us for each MiB in small pages, next to nothing in huge ones. A
 * kernel that writes still copies 4 KiB at a time. Best effort: not every kernel can.
 */
static void collapse_heap(void)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	char line[512];

	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long from, to, inode;
		char perms[8];

		if (sscanf(line, "%lx-%lx %7s %*s %*s %lu", &from, &to, perms, &inode) != 4 ||
		    inode != 0 || perms[0] != 'r' || perms[1] != 'w')
			continue;
		from = (from + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1);
		to &= ~(HUGE_PAGE - 1);
		for (; from < to; from += HUGE_PAGE)
			madvise((void *)from, HUGE_PAGE, MADV_COLLAPSE);
	}
	if (maps)
		fclose(maps);
}

static int load(struct err *e)
{
	str_hash_install();
	if (start_python(e) < 0)
		return -1;
	settle_heap();
	collapse_heap();
	return 0;
}

static int kernel(const struct zygote_request *rq)
{
	(void)rq; /* the jailer asks us for our own language only */
	/* Changing ids made the process undumpable; its own /proc/self is its own to read. */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	prctl(PR_SET_NAME, "python3");
	PyOS_AfterFork_Child();
	str_hash_reseed();
	PyObject *done = PyObject_CallFunction(serve_fn, "i", ZYGOTE_KERNEL_FD);

	return done ? 0 : 121;
}

int main(int argc, char **argv)
{
	static const struct zygote_ops ops = {
		.load = load,
		.before_fork = PyOS_BeforeFork,
		.after_fork = PyOS_AfterFork_Parent,
		.kernel = kernel,
	};

	return zygote_main(argc, argv, &ops);
}
