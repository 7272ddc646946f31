/* SPDX-License-Identifier: Apache-2.0 */
/*
 * native.node: what the Node kernel driver cannot do in JavaScript. Interrupting running code,
 * keeping descriptors, writing to them without an event loop.
 *
 * Interrupts. JavaScript that never returns to the event loop can only be ended by V8
 * (TerminateExecution), and only from outside. The handler of SIGINT marks the running cell and
 * wakes a thread; the thread asks V8 to call on_interrupt() at the next safe point of the running
 * code, and the event loop to call on_wake(). If code runs, on_interrupt() terminates it; on_wake()
 * then tells the driver, which ends the cell. If nothing runs (the cell awaits something),
 * on_wake() comes first and takes the mark. A mark names the cell (its epoch), so that no
 * interrupt meant for one cell hits the next.
 *
 * Node's own means were measured and left: vm's breakOnSigint leaves SIGINT at its default action
 * between two cells and does not reach code after an await; a worker thread with an inspector
 * session costs 8.5 MiB and 50 ms per session.
 */
#include "napi.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* V8's own functions, unchanged from V8 4 (2015) on; a Node without them does not load this. */
extern void *isolate_current(void) __asm__("_ZN2v87Isolate10GetCurrentEv");
extern void
isolate_cancel_terminate(void *isolate) __asm__("_ZN2v87Isolate24CancelTerminateExecutionEv");
extern void isolate_on_call_completed(void *isolate, void (*callback)(void *)) __asm__(
	"_ZN2v87Isolate24AddCallCompletedCallbackEPFvPS0_E");
extern void isolate_on_microtasks_completed(
	void *isolate, void (*callback)(void *, void *),
	void *data) __asm__("_ZN2v87Isolate30AddMicrotasksCompletedCallbackEPFvPS0_PvES2_");
extern void isolate_terminate(void *isolate) __asm__("_ZN2v87Isolate18TerminateExecutionEv");
extern void
isolate_request_interrupt(void *isolate, void (*callback)(void *, void *),
			  void *data) __asm__("_ZN2v87Isolate16RequestInterruptEPFvPS0_PvES2_");

enum { STDOUT_AND_STDERR = 2, HIGH_FD = 200, STACK_SIZE = 64 * 1024 };

struct kept_fd {
	int copy; /* close-on-exec, far above the numbers user code sees; -1: none */
	dev_t dev;
	ino_t ino;
};

static struct {
	void *isolate;
	napi_threadsafe_function wake;
	sem_t signalled;
	_Atomic uint32_t epoch;  /* of the running cell; 0: none runs */
	_Atomic uint32_t marked; /* epoch of the cell that is to be interrupted */
	_Atomic bool stopping;   /* driver_stop() was called, on_wake() has not come yet */
	bool terminated;         /* and on_call_completed() has not come yet */
	uint32_t last_epoch;
	uint32_t *hook_fields; /* Node's stack of async contexts, see forget_async_contexts() */
	double *async_ids;
	uint32_t stack_length_index;
	struct kept_fd kept[STDOUT_AND_STDERR];
} driver;

static void on_sigint(int sig)
{
	int saved = errno;
	uint32_t epoch = atomic_load(&driver.epoch);

	(void)sig;
	if (epoch) {
		atomic_store(&driver.marked, epoch);
		sem_post(&driver.signalled);
	}
	errno = saved;
}

static bool is_marked(void)
{
	uint32_t epoch = atomic_load(&driver.epoch);

	return epoch && atomic_load(&driver.marked) == epoch;
}

/*
 * Terminated code leaves the async contexts that Node's JavaScript has entered without leaving
 * them, and Node aborts when the next one that it leaves is not the one on top. An empty stack it
 * takes for one that an exception has cleared.
 */
static void forget_async_contexts(void)
{
	driver.hook_fields[driver.stack_length_index] = 0;
	driver.async_ids[0] = driver.async_ids[1] = 0; /* execution and trigger id */
}

/*
 * On the main thread, when running JavaScript has returned to Node's C++, or V8's microtasks to
 * whoever ran them. What went through microtasks stays pending in V8, and without this would end
 * whatever runs next, for ever.
 */
static void on_call_completed(void *isolate)
{
	if (driver.terminated) {
		driver.terminated = false;
		isolate_cancel_terminate(isolate);
	}
}

static void on_microtasks_completed(void *isolate, void *data)
{
	(void)data;
	on_call_completed(isolate);
}

static void terminate(void)
{
	forget_async_contexts();
	driver.terminated = true;
	isolate_terminate(driver.isolate);
}

/* On the main thread, from within running JavaScript. */
static void on_interrupt(void *isolate, void *data)
{
	(void)isolate;
	(void)data;
	if (is_marked())
		terminate();
}

static void *watch(void *unused)
{
	(void)unused;
	for (;;) {
		if (sem_wait(&driver.signalled) < 0)
			continue; /* EINTR */
		if (!is_marked())
			continue;
		isolate_request_interrupt(driver.isolate, on_interrupt, NULL);
		(void)napi_call_threadsafe_function(driver.wake, NULL, NAPI_NONBLOCKING);
	}
	return NULL;
}

/* On the main thread, from the event loop: no JavaScript is running. */
static void on_wake(napi_env env, napi_value function, void *context, void *data)
{
	uint32_t epoch = atomic_load(&driver.epoch);
	napi_value self = NULL;
	napi_value interrupted = NULL;

	(void)context;
	(void)data;
	if (!env)
		return; /* Node is shutting down */
	bool marked = epoch && atomic_compare_exchange_strong(&driver.marked, &epoch, 0);
	bool stopped = atomic_exchange(&driver.stopping, false);

	if (!marked && !stopped)
		return;
	if (napi_get_undefined(env, &self) || napi_get_boolean(env, marked, &interrupted))
		return;
	(void)napi_call_function(env, self, function, 1, &interrupted, NULL);
}

/* SIGINT is never left at its default action, which would end the session. */
static void take_sigint(void)
{
	struct sigaction sa = { .sa_handler = on_sigint }; /* write() is to end: no SA_RESTART */
	sigset_t set;

	sigemptyset(&sa.sa_mask);
	sigaction(SIGINT, &sa, NULL);
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static bool start_watch(void)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all;
	sigset_t old;

	if (sem_init(&driver.signalled, 0, 0) < 0 || pthread_attr_init(&attr) != 0)
		return false;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old); /* signals are for the main thread */
	bool started = pthread_attr_setstacksize(&attr, STACK_SIZE) == 0 &&
		       pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED) == 0 &&
		       pthread_create(&thread, &attr, watch, NULL) == 0;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return started;
}

static int dup_high(int fd)
{
	int copy = fcntl(fd, F_DUPFD_CLOEXEC, HIGH_FD);

	return copy >= 0 ? copy : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static void keep_output(void)
{
	for (int i = 0; i < STDOUT_AND_STDERR; i++) {
		struct stat st;

		driver.kept[i].copy = -1;
		if (fstat(i + 1, &st) < 0)
			continue;
		driver.kept[i] = (struct kept_fd){ dup_high(i + 1), st.st_dev, st.st_ino };
	}
}

/* Arguments of a call; false (with an exception pending) if there are fewer than wanted. */
static bool arguments(napi_env env, napi_callback_info info, napi_value *argv, size_t wanted)
{
	size_t argc = wanted;

	if (napi_get_cb_info(env, info, &argc, argv, NULL, NULL) == 0 && argc == wanted)
		return true;
	(void)napi_throw_error(env, NULL, "wrong arguments");
	return false;
}

static bool async_fields(napi_env env, napi_value fields, napi_value ids, napi_value index)
{
	int fields_type = 0;
	int ids_type = 0;
	size_t count = 0;
	size_t ids_count = 0;
	void *fields_data = NULL;
	void *ids_data = NULL;

	if (napi_get_typedarray_info(env, fields, &fields_type, &count, &fields_data, NULL, NULL) ||
	    napi_get_typedarray_info(env, ids, &ids_type, &ids_count, &ids_data, NULL, NULL) ||
	    napi_get_value_uint32(env, index, &driver.stack_length_index))
		return false;
	if (fields_type != NAPI_UINT32_ARRAY || ids_type != NAPI_FLOAT64_ARRAY || ids_count < 2 ||
	    driver.stack_length_index >= count)
		return false;
	driver.hook_fields = fields_data;
	driver.async_ids = ids_data;
	return true;
}

/* start(onWake, asyncHookFields, asyncIdFields, indexOfStackLength): once, before any cell. */
static napi_value driver_start(napi_env env, napi_callback_info info)
{
	napi_value argv[4] = { NULL };
	napi_value name = NULL;

	if (!arguments(env, info, argv, 4))
		return NULL;
	driver.isolate = isolate_current();
	if (!async_fields(env, argv[1], argv[2], argv[3]) ||
	    napi_create_string_utf8(env, "interrupt", NAPI_AUTO_LENGTH, &name) ||
	    napi_create_threadsafe_function(env, argv[0], NULL, name, 0, 1, NULL, NULL, NULL,
					    on_wake, &driver.wake) ||
	    napi_unref_threadsafe_function(env, driver.wake) || !start_watch()) {
		(void)napi_throw_error(env, NULL, "the interrupt thread does not start");
		return NULL;
	}
	isolate_on_call_completed(driver.isolate, on_call_completed);
	isolate_on_microtasks_completed(driver.isolate, on_microtasks_completed, NULL);
	keep_output();
	take_sigint();
	return NULL;
}

/* arm(): a cell begins; from here on SIGINT interrupts it. */
static napi_value driver_arm(napi_env env, napi_callback_info info)
{
	(void)env;
	(void)info;
	if (++driver.last_epoch == 0)
		driver.last_epoch = 1;
	atomic_store(&driver.epoch, driver.last_epoch);
	return NULL;
}

/* disarm(): the cell has ended; from here on SIGINT is ignored. */
static napi_value driver_disarm(napi_env env, napi_callback_info info)
{
	(void)env;
	(void)info;
	atomic_store(&driver.epoch, 0);
	return NULL;
}

/* stop(): terminates the JavaScript that calls it, and has onWake(false) called afterwards. */
static napi_value driver_stop(napi_env env, napi_callback_info info)
{
	(void)env;
	(void)info;
	atomic_store(&driver.stopping, true);
	(void)napi_call_threadsafe_function(driver.wake, NULL, NAPI_NONBLOCKING);
	terminate();
	return NULL;
}

/* restore(): takes back what a cell may have done to SIGINT and to descriptors 1 and 2. */
static napi_value driver_restore(napi_env env, napi_callback_info info)
{
	(void)env;
	(void)info;
	take_sigint();
	for (int i = 0; i < STDOUT_AND_STDERR; i++) {
		const struct kept_fd *k = &driver.kept[i];
		struct stat st;

		if (k->copy < 0)
			continue;
		if (fstat(i + 1, &st) < 0 || st.st_dev != k->dev || st.st_ino != k->ino)
			(void)dup2(k->copy, i + 1);
	}
	return NULL;
}

/* moveAway(fd): a close-on-exec copy with a high number; fd is closed. Returns the copy, or -1. */
static napi_value driver_move_away(napi_env env, napi_callback_info info)
{
	napi_value fd_value = NULL;
	napi_value ret = NULL;
	int32_t fd = -1;

	if (!arguments(env, info, &fd_value, 1) || napi_get_value_int32(env, fd_value, &fd))
		return NULL;
	int copy = dup_high(fd);

	if (copy >= 0)
		(void)close(fd);
	return napi_create_int32(env, copy, &ret) ? NULL : ret;
}

/* Somebody made a shared pipe non-blocking, or it is the driver's socket: wait for room. */
static void wait_writable(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLOUT };

	(void)poll(&p, 1, -1);
}

static bool fd_and_bytes(napi_env env, napi_callback_info info, int32_t *fd, const char **bytes,
			 size_t *len)
{
	napi_value argv[2] = { NULL };
	void *data = NULL;

	if (!arguments(env, info, argv, 2))
		return false;
	if (napi_get_value_int32(env, argv[0], fd) ||
	    napi_get_buffer_info(env, argv[1], &data, len)) {
		(void)napi_throw_error(env, NULL, "wrong arguments");
		return false;
	}
	*bytes = data;
	return true;
}

/*
 * write(fd, buffer): all of it, however long the reader takes; less only if the cell is to be
 * interrupted or there is no reader. Output never fails: it has nobody to tell.
 */
static napi_value driver_write(napi_env env, napi_callback_info info)
{
	int32_t fd = -1;
	const char *bytes = NULL;
	size_t len = 0;

	if (!fd_and_bytes(env, info, &fd, &bytes, &len))
		return NULL;
	while (len > 0 && !is_marked()) {
		ssize_t n = write(fd, bytes, len);

		if (n >= 0) {
			bytes += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			wait_writable(fd);
		} else if (errno != EINTR) {
			break;
		}
	}
	return NULL;
}

/* send(fd, buffer): a whole frame, whatever interrupts; false if the agent is gone. */
static napi_value driver_send(napi_env env, napi_callback_info info)
{
	int32_t fd = -1;
	const char *bytes = NULL;
	size_t len = 0;
	napi_value ret = NULL;

	if (!fd_and_bytes(env, info, &fd, &bytes, &len))
		return NULL;
	while (len > 0) {
		ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);

		if (n >= 0) {
			bytes += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			wait_writable(fd);
		} else if (errno != EINTR) {
			break;
		}
	}
	return napi_get_boolean(env, len == 0, &ret) ? NULL : ret;
}

/* exit(status): of the process, at once; exit handlers are the user's or Node's. */
static napi_value driver_exit(napi_env env, napi_callback_info info)
{
	napi_value value = NULL;
	int32_t status = 70; /* EX_SOFTWARE of sysexits.h */

	if (arguments(env, info, &value, 1))
		(void)napi_get_value_int32(env, value, &status);
	_exit(status);
}

__attribute__((visibility("default"))) napi_value napi_register_module_v1(napi_env env,
									  napi_value exports);

napi_value napi_register_module_v1(napi_env env, napi_value exports)
{
	static const struct {
		const char *name;
		napi_callback function;
	} table[] = {
		{ "start", driver_start },     { "arm", driver_arm },
		{ "disarm", driver_disarm },   { "stop", driver_stop },
		{ "restore", driver_restore }, { "moveAway", driver_move_away },
		{ "write", driver_write },     { "send", driver_send },
		{ "exit", driver_exit },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
		napi_value function = NULL;

		if (napi_create_function(env, table[i].name, NAPI_AUTO_LENGTH, table[i].function,
					 NULL, &function) ||
		    napi_set_named_property(env, exports, table[i].name, function))
			return NULL;
	}
	return exports;
}
