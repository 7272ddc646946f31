/* SPDX-License-Identifier: Apache-2.0 */
/*
 * native.node: what the Node kernel driver cannot do in JavaScript: evaluating as a console does,
 * interrupting running code, keeping descriptors, writing to them without an event loop.
 *
 * Interrupts. JavaScript that never returns to the event loop can only be ended by V8
 * (TerminateExecution), and only from outside. The handler of SIGINT marks the running cell and
 * wakes a thread; the thread asks V8 to call on_interrupt() at the next safe point of the running
 * code, and the event loop to call on_wake(). If code runs, on_interrupt() terminates it, and
 * on_wake() comes when it has unwound; if none runs (the cell awaits something), on_wake() comes at
 * once. It tells the driver, which ends the cell. A mark names the cell (its epoch), so that no
 * interrupt meant for one cell hits the next.
 *
 * What was tried first. vm's breakOnSigint leaves SIGINT at its deadly default between two cells
 * and does not reach code after an await. A worker thread with an inspector session costs 8.5 MiB
 * and 50 ms per session. The inspector's own Runtime.evaluate aborts the process if what it has
 * called is terminated at the wrong moment.
 *
 * A full heap. V8 ends the process when its heap is full, and asks once before (on_heap_full()).
 * The cell is then interrupted like by SIGINT, in a heap that may grow by what that takes, and
 * fails; variables stay. Where the room does not suffice, on_out_of_memory() is what V8 calls last.
 */
#include "napi.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* clang-format off: a symbol does not break */
/*
 * V8's own functions, which Node-API does not offer; a Node that does not have them does not load
 * this. The first is what the inspector's Runtime.evaluate with replMode calls; of a v8::Local a
 * napi_value is the pointer in it.
 */
extern napi_value v8_evaluate(void *isolate, napi_value source, int mode, bool repl) __asm__(
	"_ZN2v85debug14EvaluateGlobalEPNS_7IsolateENS_5LocalINS_6StringEEENS0_18EvaluateGlobalModeEb");
extern void *v8_current(void) __asm__("_ZN2v87Isolate10GetCurrentEv");
extern void v8_terminate(void *isolate) __asm__("_ZN2v87Isolate18TerminateExecutionEv");
extern bool v8_is_terminating(void *isolate) __asm__("_ZN2v87Isolate22IsExecutionTerminatingEv");
extern void
v8_cancel_terminate(void *isolate) __asm__("_ZN2v87Isolate24CancelTerminateExecutionEv");
extern void
v8_request_interrupt(void *isolate, void (*callback)(void *, void *),
		     void *data) __asm__("_ZN2v87Isolate16RequestInterruptEPFvPS0_PvES2_");
extern void v8_on_call_completed(void *isolate, void (*callback)(void *)) __asm__(
	"_ZN2v87Isolate24AddCallCompletedCallbackEPFvPS0_E");
extern void v8_on_microtasks_completed(
	void *isolate, void (*callback)(void *, void *),
	void *data) __asm__("_ZN2v87Isolate30AddMicrotasksCompletedCallbackEPFvPS0_PvES2_");
/* The topmost script's, or NULL. */
extern napi_value v8_current_script_name(void *isolate) __asm__(
	"_ZN2v810StackTrace28CurrentScriptNameOrSourceURLEPNS_7IsolateE");
/*
 * Weak: without them a full heap ends the process, as it does without us. The handler's second
 * argument, which is not used, is a bool in Node 18 and a reference in Node 20, by two names.
 */
#define WEAK __attribute__((weak))
extern void v8_on_near_heap_limit(
	void *isolate, size_t (*callback)(void *, size_t, size_t),
	void *data) __asm__("_ZN2v87Isolate24AddNearHeapLimitCallbackEPFmPvmmES1_") WEAK;
extern void v8_restore_heap_limit(void *isolate, double below) __asm__(
	"_ZN2v87Isolate36AutomaticallyRestoreInitialHeapLimitEd") WEAK;
extern void v8_on_out_of_memory(void *isolate, void (*handler)(const char *, bool)) __asm__(
	"_ZN2v87Isolate18SetOOMErrorHandlerEPFvPKcbE") WEAK;
extern void
v8_on_out_of_memory_details(void *isolate, void (*handler)(const char *, const void *)) __asm__(
	"_ZN2v87Isolate18SetOOMErrorHandlerEPFvPKcRKNS_10OOMDetailsEE") WEAK;
/* clang-format on */

enum { STDOUT_AND_STDERR = 2, HIGH_FD = 200, STACK_SIZE = 64 * 1024 };
enum { OFTEN_MS = 1, OFTEN_TIMES = 100, AGAIN_MS = 20, LEFT_OVER_MS = 200 };
/* A full heap may grow by two eighths at first: an array that grew is a sixth of it, and young
 * objects are promoted, 16 MiB at once, while the cell unwinds. One more is for the next cell,
 * which gives up what this one left behind. Below HEAP_RESTORED of what it may have it is full no
 * more. */
enum { HEAP_PARTS = 8, HEAP_FIRST = 2, HEAP_LAST = 3 };
#define HEAP_RESTORED 0.8
enum { EXIT_NO_MEMORY = 71 }; /* KERNEL_EXIT_NO_MEMORY of base/kernel_proto.h */
enum { DELICATE_TIMES = 100, NAME_SIZE = 256 };
#define LEFT_OVER UINT32_MAX /* epoch of code that runs between cells */

struct kept_fd {
	int copy; /* close-on-exec, far above the numbers user code sees; -1: none */
	dev_t dev;
	ino_t ino;
};

static struct {
	void *isolate;
	napi_env env;
	char directory[NAME_SIZE]; /* of the driver's scripts, with a slash at the end */
	size_t directory_len;
	napi_threadsafe_function wake;
	sem_t signalled;
	_Atomic uint32_t epoch;  /* of the running cell; 0: none runs */
	_Atomic uint32_t marked; /* epoch of the cell that is to be interrupted */
	_Atomic bool asked;      /* V8 has been asked to call on_interrupt(), and has not yet */
	_Atomic bool stopping;   /* driver_stop() was called, on_wake() has not come yet */
	int delicate;            /* times in a row that the code at hand was not to be terminated */
	bool held;               /* what runs is on_wake()'s function */
	size_t heap_bytes;       /* what the heap may have, once it was full in this cell; else 0 */
	bool terminated;         /* V8 was asked to terminate, and has not been seen to do it */
	uint32_t last_epoch;
	uint32_t *hook_fields; /* Node's stack of async contexts, see forget_async_contexts() */
	double *async_ids;
	uint32_t stack_length_index;
	struct kept_fd kept[STDOUT_AND_STDERR];
} driver;

static void mark(void)
{
	uint32_t epoch = atomic_load(&driver.epoch);

	atomic_store(&driver.marked, epoch ? epoch : LEFT_OVER);
	sem_post(&driver.signalled);
}

static void on_sigint(int sig)
{
	int saved = errno;

	(void)sig;
	mark();
	errno = saved;
}

static bool is_marked(void)
{
	uint32_t epoch = atomic_load(&driver.epoch);

	return atomic_load(&driver.marked) == (epoch ? epoch : LEFT_OVER);
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

/* On the main thread: the JavaScript that runs ends at its next loop or call. */
static void terminate(void)
{
	driver.terminated = true;
	v8_terminate(driver.isolate);
}

/* On the main thread: takes back a termination that was asked for and has not happened. */
static void unterminate(void)
{
	if (driver.terminated) {
		driver.terminated = false;
		v8_cancel_terminate(driver.isolate);
	}
}

/*
 * Node's own scripts and the driver's keep state that half an update would break for good, such as
 * the list of timers. They are short, but for the few that a program can keep busy.
 */
static bool is_delicate(void)
{
	napi_value script = v8_current_script_name(driver.isolate);
	char name[NAME_SIZE];
	size_t len = 0;

	if (!script || napi_get_value_string_utf8(driver.env, script, name, sizeof(name), &len))
		return false;
	return strncmp(name, "node:", 5) == 0 ||
	       strncmp(name, driver.directory, driver.directory_len) == 0;
}

/* On the main thread, from within running JavaScript. */
static void on_interrupt(void *isolate, void *data)
{
	(void)isolate;
	(void)data;
	atomic_store(&driver.asked, false);
	if (!is_marked() || driver.held)
		return;
	if (driver.delicate < DELICATE_TIMES && is_delicate()) {
		driver.delicate++;
		return;
	}
	driver.delicate = 0;
	terminate();
}

/*
 * One at a time: V8 queues what is asked for while it collects garbage, for long in a full heap,
 * and delicate code would have been asked for often enough before it had a chance to go on.
 */
static void ask_interrupt(void)
{
	if (!atomic_exchange(&driver.asked, true))
		v8_request_interrupt(driver.isolate, on_interrupt, NULL);
}

/* On the main thread, when all JavaScript has returned to Node's event loop. */
static void on_call_completed(void *isolate)
{
	(void)isolate;
	if (driver.terminated)
		forget_async_contexts();
	unterminate();
}

/*
 * On the main thread, when V8's microtasks have returned to whoever ran them. Terminated ones leave
 * the termination pending, and nothing would run any more.
 */
static void on_microtasks_completed(void *isolate, void *data)
{
	(void)data;
	if (v8_is_terminating(isolate))
		on_call_completed(isolate);
}

/*
 * On the main thread, within the garbage collector: what lives leaves no room. Returns the new
 * limit in bytes; if that is the old one, V8 ends the process.
 */
static size_t on_heap_full(void *data, size_t limit, size_t initial)
{
	size_t part = initial / HEAP_PARTS;
	size_t first = initial + HEAP_FIRST * part;
	size_t last = initial + HEAP_LAST * part;

	(void)data;
	if (limit >= last)
		return limit;
	driver.heap_bytes = initial;
	mark();
	/* The thread does so too, but may get its turn when it is too late. */
	ask_interrupt();
	return limit < first ? first : last;
}

static void on_out_of_memory(const char *where, bool of_heap)
{
	(void)of_heap;
	dprintf(STDERR_FILENO, "FATAL ERROR: %s: JavaScript heap out of memory\n", where);
	_exit(EXIT_NO_MEMORY);
}

static void on_out_of_memory_details(const char *where, const void *details)
{
	(void)details;
	on_out_of_memory(where, true);
}

static void watch_heap(void)
{
	if (v8_on_near_heap_limit && v8_restore_heap_limit) {
		v8_on_near_heap_limit(driver.isolate, on_heap_full, NULL);
		v8_restore_heap_limit(driver.isolate, HEAP_RESTORED);
	}
	if (v8_on_out_of_memory)
		v8_on_out_of_memory(driver.isolate, on_out_of_memory);
	if (v8_on_out_of_memory_details)
		v8_on_out_of_memory_details(driver.isolate, on_out_of_memory_details);
}

static void call_wake(void)
{
	(void)napi_call_threadsafe_function(driver.wake, NULL, NAPI_NONBLOCKING);
}

/* Waits for a signal; false when the time is up. */
static bool wait_signal(int time_ms)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += time_ms * 1000000L;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_nsec -= 1000000000L;
		until.tv_sec++;
	}
	while (sem_timedwait(&driver.signalled, &until) < 0)
		if (errno != EINTR)
			return false;
	return true;
}

/*
 * Between cells SIGINT means nothing, but what an earlier cell left behind may keep the next from
 * beginning. It is to be ended if the event loop does not come round for a while: true.
 */
static bool is_stuck(void)
{
	while (atomic_load(&driver.marked) == LEFT_OVER && is_marked()) {
		call_wake();
		if (!wait_signal(LEFT_OVER_MS))
			break;
	}
	return is_marked();
}

/*
 * What is terminated may not be all there is to end, what Node runs next may be as busy; and what
 * is delicate is not terminated. So it is asked again until the cell has ended: often at first, for
 * the agent waits 30 ms; then seldom, for each time may cost a callback.
 */
static void *watch(void *unused)
{
	(void)unused;
	for (;;) {
		if (sem_wait(&driver.signalled) < 0)
			continue;
		for (int times = 0; is_stuck(); times++) {
			ask_interrupt();
			call_wake();
			(void)wait_signal(times < OFTEN_TIMES ? OFTEN_MS : AGAIN_MS);
		}
	}
	return NULL;
}

/* What the session has (confine.c), 0 if nobody says. */
static uint64_t session_bytes(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_RSS, &limit) == 0 && limit.rlim_max != RLIM_INFINITY
		       ? limit.rlim_max
		       : 0;
}

/* On the main thread, from the event loop: no JavaScript is running. */
static void on_wake(napi_env env, napi_value function, void *context, void *data)
{
	uint32_t left_over = LEFT_OVER;
	napi_value self = NULL;
	napi_value argv[3] = { NULL };

	(void)context;
	(void)data;
	(void)atomic_compare_exchange_strong(&driver.marked, &left_over, 0);
	bool stopped = atomic_exchange(&driver.stopping, false);

	if (!env || !(is_marked() || stopped))
		return; /* no env: Node is shutting down */
	if (napi_get_undefined(env, &self) || napi_get_boolean(env, is_marked(), &argv[0]) ||
	    napi_create_double(env, (double)(driver.heap_bytes >> 20), &argv[1]) ||
	    napi_create_double(env, (double)(session_bytes() >> 20), &argv[2]))
		return;
	driver.held = true;
	(void)napi_call_function(env, self, function, 3, argv, NULL);
	driver.held = false;
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

/*
 * start(onWake, directory, asyncHookFields, asyncIdFields, indexOfStackLength): once, before any
 * cell. The directory is that of the driver's scripts.
 */
static napi_value driver_start(napi_env env, napi_callback_info info)
{
	napi_value argv[5] = { NULL };
	napi_value name = NULL;

	if (!arguments(env, info, argv, 5))
		return NULL;
	driver.isolate = v8_current();
	driver.env = env;
	if (napi_get_value_string_utf8(env, argv[1], driver.directory, NAME_SIZE,
				       &driver.directory_len) ||
	    !async_fields(env, argv[2], argv[3], argv[4]) ||
	    napi_create_string_utf8(env, "interrupt", NAPI_AUTO_LENGTH, &name) ||
	    napi_create_threadsafe_function(env, argv[0], NULL, name, 0, 1, NULL, NULL, NULL,
					    on_wake, &driver.wake) ||
	    napi_unref_threadsafe_function(env, driver.wake) || !start_watch()) {
		(void)napi_throw_error(env, NULL, "the interrupt thread does not start");
		return NULL;
	}
	v8_on_call_completed(driver.isolate, on_call_completed);
	v8_on_microtasks_completed(driver.isolate, on_microtasks_completed, NULL);
	watch_heap();
	keep_output();
	take_sigint();
	return NULL;
}

/* arm(): a cell begins; from here on SIGINT interrupts it. */
static napi_value driver_arm(napi_env env, napi_callback_info info)
{
	(void)env;
	(void)info;
	if (++driver.last_epoch == LEFT_OVER)
		driver.last_epoch = 1;
	atomic_store(&driver.marked, 0); /* if it was meant for what is over */
	driver.heap_bytes = 0;
	atomic_store(&driver.epoch, driver.last_epoch);
	return NULL;
}

/* disarm(): the cell has ended; from here on SIGINT is ignored. */
static napi_value driver_disarm(napi_env env, napi_callback_info info)
{
	(void)env;
	(void)info;
	atomic_store(&driver.epoch, 0);
	atomic_store(&driver.marked, 0);
	driver.delicate = 0;
	unterminate();
	return NULL;
}

/*
 * evaluate(source): runs it in the global scope as the console of Chrome's developer tools does:
 * names may be declared again, await works. Returns a promise of an object whose property
 * ".repl_result" is the value, or throws what V8 throws for a source that it cannot parse.
 */
static napi_value driver_evaluate(napi_env env, napi_callback_info info)
{
	napi_value source = NULL;
	int type = 0;

	if (!arguments(env, info, &source, 1))
		return NULL;
	if (napi_typeof(env, source, &type) || type != NAPI_STRING) {
		(void)napi_throw_error(env, NULL, "wrong arguments");
		return NULL;
	}
	return v8_evaluate(driver.isolate, source, 0, true);
}

/* stop(): terminates the JavaScript that calls it, and has onWake(false) called afterwards. */
static napi_value driver_stop(napi_env env, napi_callback_info info)
{
	(void)env;
	(void)info;
	atomic_store(&driver.stopping, true);
	call_wake();
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

/* What n, from a write of the bytes, means for them: false when nobody reads them. */
static bool written(ssize_t n, int fd, const char **bytes, size_t *len)
{
	if (n >= 0) {
		*bytes += n;
		*len -= (size_t)n;
	} else if (errno == EAGAIN) {
		wait_writable(fd);
	} else if (errno != EINTR) {
		return false;
	}
	return true;
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
 * interrupted, which then happens here, or there is no reader. Output never fails: it has nobody to
 * tell.
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

		if (!written(n, fd, &bytes, &len))
			break;
	}
	if (is_marked() && !driver.held)
		terminate();
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

		if (!written(n, fd, &bytes, &len))
			break;
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
		{ "start", driver_start },        { "arm", driver_arm },
		{ "disarm", driver_disarm },      { "evaluate", driver_evaluate },
		{ "stop", driver_stop },          { "restore", driver_restore },
		{ "moveAway", driver_move_away }, { "write", driver_write },
		{ "send", driver_send },          { "exit", driver_exit },
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
