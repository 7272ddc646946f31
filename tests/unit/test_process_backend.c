/* SPDX-License-Identifier: Apache-2.0 */

/* The process tier's calls when there is no memory to make them: they fail, and from the loop. */
#include <stdbool.h>
#include <stdlib.h>

static bool no_memory;

static void *scarce_calloc(size_t count, size_t size)
{
	return no_memory ? NULL : (calloc)(count, size);
}

#define calloc(count, size) scarce_calloc(count, size)
/* With its calls to calloc() ours. NOLINTNEXTLINE(bugprone-suspicious-include) */
#include "../../src/sandbox/process.c"
#undef calloc

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#define SID "00000000000000000000000000000001"

static struct backend *backend;
static int jailer_fd;
static int answers, answers_max;
static enum err_code code;
static bool inside; /* a verb */

static int setup(void **state)
{
	struct err e = ERR_INIT;
	int pair[2];

	(void)state;
	log_init("test", LOG_ERROR);
	assert_int_equal(loop_init(&e), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	jailer_fd = pair[1];
	backend = process_backend_new(pair[0], "/nowhere", &e);
	assert_non_null(backend);
	answers = 0;
	code = ERR_NONE;
	no_memory = false;
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	no_memory = false;
	backend->ops->free(backend);
	close(jailer_fd);
	loop_done();
	return 0;
}

static void answered(const struct err *e)
{
	assert_false(inside);
	code = e->code;
	if (++answers == answers_max)
		loop_stop();
}

static void done(void *arg, const struct err *e)
{
	assert_ptr_equal(arg, backend);
	answered(e);
}

static void kernel_done(void *arg, int fd, const struct err *e)
{
	assert_int_equal(fd, -1);
	done(arg, e);
}

static void list_done(void *arg, const char *const *sids, size_t count, const struct err *e)
{
	(void)sids;
	assert_int_equal(count, 0);
	done(arg, e);
}

static void stats_done(void *arg, const struct jailer_stats *stats, const struct err *e)
{
	assert_null(stats);
	done(arg, e);
}

static void network_done(void *arg, uint32_t address, const struct err *e)
{
	assert_int_equal(address, 0);
	done(arg, e);
}

static void refused_done(void *arg, const char *const *names, size_t count, const struct err *e)
{
	(void)names;
	assert_int_equal(count, 0);
	done(arg, e);
}

static void call_every_verb(void)
{
	const struct backend_ops *ops = backend->ops;
	struct sandbox_spec spec = { .sid = SID, .image = "image" };

	inside = true;
	ops->load_image(backend, "image", done, backend);
	ops->create(backend, &spec, done, backend);
	ops->start_kernel(backend, SID, "python", kernel_done, backend);
	ops->destroy(backend, SID, done, backend);
	ops->list(backend, list_done, backend);
	ops->stats(backend, SID, stats_done, backend);
	ops->memory(backend, SID, 1, done, backend);
	ops->network(backend, SID, true, network_done, backend);
	ops->refused(backend, SID, 0, refused_done, backend);
	inside = false;
}

static void test_no_memory_fails_from_the_loop(void **state)
{
	(void)state;
	no_memory = true;
	/* Again and again: what failed once makes room for the next to fail. */
	for (int i = 1; i <= 30; i++) {
		answers_max = 9 * i;
		call_every_verb();
		assert_int_equal(answers, 9 * (i - 1));
		loop_run();
		assert_int_equal(answers, 9 * i);
		assert_int_equal(code, ERR_NOMEM);
	}
}

static void memory_again(void *arg, const struct err *e)
{
	(void)arg;
	answered(e);
	if (answers >= answers_max)
		return;
	inside = true;
	backend->ops->memory(backend, SID, 1, memory_again, backend);
	inside = false;
}

static void test_failing_calls_do_not_nest(void **state)
{
	(void)state;
	no_memory = true;
	answers_max = 1000;
	inside = true;
	backend->ops->memory(backend, SID, 1, memory_again, backend);
	inside = false;
	loop_run();
	assert_int_equal(answers, 1000);
}

static void on_lost(void *arg, const struct err *e)
{
	(void)arg;
	(void)e;
}

static void test_lost_jailer_fails_from_the_loop(void **state)
{
	(void)state;
	backend->lost = on_lost;
	answers_max = 9;
	call_every_verb();
	shutdown(jailer_fd, SHUT_RDWR);
	loop_run();
	assert_int_equal(code, ERR_UNAVAILABLE);
	answers_max = 18;
	call_every_verb();
	assert_int_equal(answers, 9);
	loop_run();
	assert_int_equal(answers, 18);
	assert_int_equal(code, ERR_UNAVAILABLE);
}

static void test_unmade_calls_are_freed(void **state)
{
	(void)state;
	no_memory = true;
	call_every_verb();
	assert_int_equal(answers, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_no_memory_fails_from_the_loop),
		TEST(test_failing_calls_do_not_nest),
		TEST(test_lost_jailer_fails_from_the_loop),
		TEST(test_unmade_calls_are_freed),
	};

	return cmocka_run_group_tests_name("process_backend", tests, NULL, NULL);
}
