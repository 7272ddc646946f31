/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Executions against a backend and an agent that say what the test says, in the worst order: memory
 * limits of single executions, names of refused calls, results that come twice.
 */
#include "fake_backend.h"

#include "base/clock.h"

static struct session *session;
static int names_wait_ms;
static int answer_wait_ms;

static void say_status(enum agent_kernel_state state, uint64_t running)
{
	struct buf payload;

	buf_init(&payload, 256);
	wire_put_u32(&payload, state != AGENT_KERNEL_NONE ? 1 : 0);
	if (state != AGENT_KERNEL_NONE) {
		wire_put_u32(&payload, 0);
		wire_put_u8(&payload, (uint8_t)state);
		wire_put_blob(&payload, STR("default"));
	}
	wire_put_u32(&payload, running ? 1 : 0);
	if (running) {
		wire_put_u64(&payload, running);
		wire_put_u8(&payload, AGENT_EXEC_RUNNING);
		wire_put_u32(&payload, 0);
	}
	wire_put_u32(&payload, 0);
	say_frame(AGENT_STATUS, 0, buf_str(&payload));
	buf_done(&payload);
}

/* Of the last execution. */
static uint64_t exec_op(void)
{
	return heard_last(AGENT_EXEC)->op;
}

/* --- executions --- */

static void run(struct outcome *o, unsigned memory_mib)
{
	struct execution_params p = fake_execution();

	p.memory_bytes = (uint64_t)memory_mib * MIB;
	run_params(session, o, &p);
}

/* --- the pool --- */

static struct pools_config config(void)
{
	struct pools_config config = fake_config();

	config.names_wait_ms = names_wait_ms;
	config.answer_wait_ms = answer_wait_ms;
	return config;
}

static void open_session(void)
{
	struct pools_config c = config();

	session = fake_open_session(&c);
}

static void adopt_session(void)
{
	struct pools_config c = config();

	session = fake_adopt_session(&c);
}

static int setup(void **state)
{
	names_wait_ms = answer_wait_ms = 3600 * 1000;
	return fake_setup(state);
}

/* --- timeouts --- */

static struct outcome waited;

static bool has_outcome(void)
{
	return waited.calls > 0;
}

static void run_for_a_millisecond(void)
{
	struct execution_params p = fake_execution();

	p.timeout_ms = 1;
	run_params(session, &waited, &p);
	assert_started(1);
}

static bool is_late(void)
{
	return clock_mono_ns() - waited.x->started_ns > 20 * 1000000;
}

/* Only the agent has what the code wrote. */
static void test_late_answer_is_awaited(void **state)
{
	(void)state;
	open_session();
	run_for_a_millisecond();
	run_until(is_late);
	assert_int_equal(waited.calls, 0);
	say_done(exec_op(), AGENT_RESULT_TIMEOUT, AGENT_KERNEL_IDLE, "written so far");
	settle();
	assert_outcome(&waited, AGENT_RESULT_TIMEOUT, "written so far");
	assert_int_equal(heard_count(AGENT_EXEC_ACK), 1);
}

static void test_silent_agent_is_not(void **state)
{
	static struct outcome next;

	(void)state;
	answer_wait_ms = 1;
	open_session();
	run_for_a_millisecond();
	run_until(has_outcome);
	assert_outcome(&waited, AGENT_RESULT_TIMEOUT, "timed out");
	/* What it says at last is nobody's; then its kernel has time for the next. */
	run(&next, 0);
	settle();
	assert_int_equal(heard_count(AGENT_EXEC), 1);
	say_done(exec_op(), AGENT_RESULT_TIMEOUT, AGENT_KERNEL_IDLE, "written so far");
	assert_started(2);
	say_done(exec_op(), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_outcome(&next, AGENT_RESULT_OK, "");
	assert_int_equal(heard_count(AGENT_EXEC_ACK), 2);
}

/* --- names of refused calls --- */

static void test_names_are_added(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	run(&o, 0);
	assert_started(1);
	say_done(exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
	settle();
	assert_asked("refused, ");
	assert_int_equal(o.calls, 0);
	answer_refused("bpf");
	assert_outcome(&o, AGENT_RESULT_ERROR, "bpf()");
	settle();
	assert_int_equal(heard_count(AGENT_EXEC_ACK), 1);
}

static void test_who_is_asked_about(void **state)
{
	static const struct {
		enum agent_exec_status status;
		const char *text;
		bool asks;
	} cases[] = {
		{ AGENT_RESULT_OK, "", false },
		{ AGENT_RESULT_OK, "words", true },
		{ AGENT_RESULT_ERROR, "", true },
		{ AGENT_RESULT_TIMEOUT, "words", false },
		{ AGENT_RESULT_CANCELED, "words", false },
		{ AGENT_RESULT_OOM, "words", false },
	};
	static struct outcome o;

	(void)state;
	open_session();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		run(&o, 0);
		assert_started(i + 1);
		say_done(exec_op(), cases[i].status, AGENT_KERNEL_IDLE, cases[i].text);
		settle();
		assert_asked(cases[i].asks ? "refused, " : "");
		if (cases[i].asks)
			answer_refused(NULL);
		assert_outcome(&o, cases[i].status, "");
	}
}

/* What a taken-over agent adds to a result changes nothing. */
static void test_result_twice_while_asking(void **state)
{
	static struct outcome o;
	struct buf b;

	(void)state;
	open_session();
	run(&o, 0);
	assert_started(1);
	buf_init(&b, 4096);
	add_done(&b, exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "first");
	add_done(&b, exec_op(), AGENT_RESULT_NOT_RUN, AGENT_KERNEL_NONE, "second");
	add_done(&b, exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "third");
	say(&b);
	say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	assert_started(1);
	assert_asked("refused, ");
	assert_int_equal(o.calls, 0);
	answer_refused("bpf");
	assert_outcome(&o, AGENT_RESULT_ERROR, "first");
	say_done(exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "fourth");
	assert_started(1);
	assert_int_equal(o.calls, 1);
	assert_asked("");
}

static void test_result_twice(void **state)
{
	static struct outcome o;
	struct buf b;

	(void)state;
	open_session();
	run(&o, 0);
	assert_started(1);
	buf_init(&b, 4096);
	add_done(&b, exec_op(), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	add_done(&b, exec_op(), AGENT_RESULT_NOT_RUN, AGENT_KERNEL_NONE, "second");
	add_done(&b, exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "third");
	say(&b);
	assert_started(1);
	assert_outcome(&o, AGENT_RESULT_OK, "");
	assert_asked("");
}

static void test_not_run_runs_again(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	run(&o, 0);
	assert_started(1);
	say_done(exec_op(), AGENT_RESULT_NOT_RUN, AGENT_KERNEL_NONE, "");
	say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	assert_started(2);
	say_done(exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
	settle();
	answer_refused(NULL);
	assert_outcome(&o, AGENT_RESULT_ERROR, "bang");
}

static void test_silent_jailer(void **state)
{
	static struct outcome o;

	(void)state;
	names_wait_ms = 1;
	open_session();
	run(&waited, 0);
	assert_started(1);
	say_done(exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
	run_until(has_outcome);
	assert_outcome(&waited, AGENT_RESULT_ERROR, "bang");
	assert_asked("refused, ");
	/* It is not asked again before it has answered. */
	run(&o, 0);
	assert_started(2);
	say_done(exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "again");
	settle();
	assert_outcome(&o, AGENT_RESULT_ERROR, "again");
	assert_asked("");
	/* The answer that comes at last is nobody's. */
	run(&o, 0);
	assert_started(3);
	answer_refused("bpf");
	settle();
	assert_int_equal(o.calls, 0);
	say_done(exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "third");
	settle();
	assert_asked("refused, ");
	assert_outcome(&o, AGENT_RESULT_ERROR, "third");
	assert_null(strstr(o.text, "bpf"));
}

static void test_deleted_while_asking(void **state)
{
	static struct outcome o, next;

	(void)state;
	open_session();
	run(&o, 0);
	run(&next, 0);
	assert_started(1);
	say_done(exec_op(), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
	settle();
	assert_asked("refused, ");
	session_delete(session);
	assert_outcome(&o, AGENT_RESULT_ERROR, "bang");
	assert_failed(&next, ERR_CONFLICT);
	answer_refused("bpf");
	settle();
	assert_int_equal(o.calls, 1);
}

/* --- memory of single executions --- */

static void test_limit_of_one(void **state)
{
	static struct outcome a, b;

	(void)state;
	open_session();
	run(&a, 64);
	run(&b, 0);
	assert_asked("memory 64, ");
	assert_started(0);
	answer_memory(ERR_NONE);
	assert_started(1);
	say_done(exec_op(), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_asked("memory 0, ");
	assert_int_equal(heard_count(AGENT_EXEC), 1);
	answer_memory(ERR_NONE);
	assert_started(2);
	assert_outcome(&a, AGENT_RESULT_OK, "");
}

static void test_refused_limit(void **state)
{
	static struct outcome a, b, c;

	(void)state;
	open_session();
	run(&a, 64);
	run(&b, 64);
	run(&c, 0);
	answer_memory(ERR_CONFLICT);
	assert_failed(&a, ERR_CONFLICT);
	assert_int_equal(b.calls, 0);
	answer_memory(ERR_CONFLICT);
	assert_failed(&b, ERR_CONFLICT);
	assert_started(1);
	assert_asked("memory 64, memory 64, ");
	say_done(exec_op(), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_outcome(&c, AGENT_RESULT_OK, "");
}

static void test_refused_limit_of_nobody(void **state)
{
	static struct outcome a, b, c;

	(void)state;
	open_session();
	run(&a, 64);
	run(&b, 128);
	run(&c, 0);
	execution_detach(a.x, false);
	answer_memory(ERR_CONFLICT);
	assert_asked("memory 64, memory 128, ");
	execution_detach(b.x, false);
	answer_memory(ERR_CONFLICT);
	assert_started(1);
	assert_asked("");
	assert_int_equal(a.calls + b.calls + c.calls, 0);
}

/* Who waits behind another: forgotten, or run for nobody. */
static void test_detached_while_it_waits(void **state)
{
	static struct outcome a, b, c;

	(void)state;
	open_session();
	run(&a, 0);
	run(&b, 0);
	run(&c, 0);
	assert_started(1);
	execution_detach(b.x, false);
	execution_detach(c.x, true);
	say_done(exec_op(), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	assert_started(2);
	say_done(exec_op(), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_started(2);
	assert_outcome(&a, AGENT_RESULT_OK, "");
	assert_int_equal(b.calls + c.calls, 0);
	assert_int_equal(heard_count(AGENT_EXEC_ACK), 2);
}

static void test_lost_requests_are_repeated(void **state)
{
	static struct outcome a, b;

	(void)state;
	open_session();
	run(&a, 64);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(a.calls, 0);
		assert_asked("memory 64, ");
		answer_memory(ERR_UNAVAILABLE);
	}
	assert_failed(&a, ERR_UNAVAILABLE);
	/* What is in force nobody knows: the next one asks in any case, and tries as often. */
	assert_asked("memory 0, ");
	for (int i = 0; i < 3; i++) {
		answer_memory(ERR_UNAVAILABLE);
		assert_asked("memory 0, ");
	}
	answer_memory(ERR_UNAVAILABLE);
	assert_asked("");
	run(&b, 0);
	assert_asked("memory 0, ");
	answer_memory(ERR_UNAVAILABLE);
	assert_asked("memory 0, ");
	answer_memory(ERR_NONE);
	assert_started(1);
	assert_int_equal(b.calls, 0);
}

static void test_no_limit_without_a_controller(void **state)
{
	static struct outcome a, b;

	(void)state;
	open_session();
	run(&a, 64);
	run(&b, 0);
	answer_memory(ERR_NOT_SUPPORTED);
	assert_failed(&a, ERR_NOT_SUPPORTED);
	assert_asked("memory 64, memory 0, ");
	answer_memory(ERR_NONE);
	assert_started(1);
}

static void start_with_limit(struct outcome *o)
{
	open_session();
	run(o, 64);
	answer_memory(ERR_NONE);
	assert_started(1);
	assert_asked("memory 64, ");
	fake.silent_kernels = true;
}

static bool asked_for_a_kernel(void)
{
	return strstr(fake.asked, "kernel") != NULL;
}

static void test_memory_is_back_before_the_kernel(void **state)
{
	static struct outcome o;

	(void)state;
	start_with_limit(&o);
	say_done(exec_op(), AGENT_RESULT_OOM, AGENT_KERNEL_NONE, "");
	say_kernel(AGENT_KERNEL_NONE, AGENT_DEATH_OOM);
	run_until(asked_for_a_kernel);
	assert_asked("memory 0, kernel, ");
	assert_outcome(&o, AGENT_RESULT_OOM, "64 MiB");
}

static void test_memory_is_back_while_asking(void **state)
{
	static struct outcome o;

	(void)state;
	start_with_limit(&o);
	say_done(exec_op(), AGENT_RESULT_KERNEL_DIED, AGENT_KERNEL_NONE, "");
	say_kernel(AGENT_KERNEL_NONE, AGENT_DEATH_EXIT);
	settle();
	assert_int_equal(o.calls, 0);
	run_until(asked_for_a_kernel);
	assert_asked("refused, memory 0, kernel, ");
}

/* The jailer is replaced: whether it has given the memory back nobody knows. */
static void test_memory_lost_on_its_way_back(void **state)
{
	static struct outcome o;

	(void)state;
	start_with_limit(&o);
	say_done(exec_op(), AGENT_RESULT_OOM, AGENT_KERNEL_NONE, "");
	say_kernel(AGENT_KERNEL_NONE, AGENT_DEATH_OOM);
	run_until(asked_for_a_kernel);
	assert_asked("memory 0, kernel, ");
	answer_memory(ERR_UNAVAILABLE);
	assert_asked("memory 0, ");
	answer_memory(ERR_NONE);
	settle();
	assert_asked("");
}

static void test_kernel_waits_for_a_limit_on_its_way(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	run(&o, 64);
	assert_asked("memory 64, ");
	say_kernel(AGENT_KERNEL_NONE, AGENT_DEATH_EXIT);
	settle();
	assert_asked("");
	answer_memory(ERR_NONE);
	run_until(asked_for_a_kernel);
	assert_asked("memory 0, kernel, ");
	answer_memory(ERR_NONE);
	settle();
	assert_asked("memory 64, ");
	answer_memory(ERR_NONE);
	assert_started(1);
	assert_int_equal(o.calls, 0);
}

static void test_kernel_after_a_limit_that_failed(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	fake.silent_kernels = true;
	run(&o, 64);
	say_kernel(AGENT_KERNEL_NONE, AGENT_DEATH_EXIT);
	settle();
	assert_asked("memory 64, ");
	/* Refused: nothing to give back. */
	answer_memory(ERR_CONFLICT);
	run_until(asked_for_a_kernel);
	assert_asked("kernel, ");
	say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	settle();
	assert_asked("memory 64, ");
	assert_int_equal(o.calls, 0);
}

/* --- after a restart of the daemon --- */

static void test_adopted_with_a_dead_kernel(void **state)
{
	static struct outcome o;

	(void)state;
	fake.silent_kernels = true;
	adopt_session();
	run(&o, 0);
	settle();
	assert_asked("");
	say_status(AGENT_KERNEL_NONE, 0);
	run_until(asked_for_a_kernel);
	assert_asked("memory 0, kernel, ");
	answer_memory(ERR_UNAVAILABLE);
	assert_asked("memory 0, ");
	answer_memory(ERR_NONE);
	say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	assert_started(1);
}

/* Its limit is not touched, and nothing else starts, while an earlier daemon's execution runs. */
static void test_adopted_with_an_execution(void **state)
{
	static struct outcome o;

	(void)state;
	adopt_session();
	run(&o, 0);
	say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE); /* before it said what there is */
	settle();
	assert_asked("");
	say_status(AGENT_KERNEL_BUSY, 77);
	settle();
	assert_asked("");
	say_done(77, AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_asked("memory 0, ");
	assert_int_equal(heard_count(AGENT_EXEC), 0);
	answer_memory(ERR_NONE);
	assert_started(1);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, fake_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_late_answer_is_awaited),
		TEST(test_silent_agent_is_not),
		TEST(test_names_are_added),
		TEST(test_who_is_asked_about),
		TEST(test_result_twice_while_asking),
		TEST(test_result_twice),
		TEST(test_not_run_runs_again),
		TEST(test_silent_jailer),
		TEST(test_deleted_while_asking),
		TEST(test_limit_of_one),
		TEST(test_refused_limit),
		TEST(test_refused_limit_of_nobody),
		TEST(test_detached_while_it_waits),
		TEST(test_lost_requests_are_repeated),
		TEST(test_no_limit_without_a_controller),
		TEST(test_memory_is_back_before_the_kernel),
		TEST(test_memory_is_back_while_asking),
		TEST(test_memory_lost_on_its_way_back),
		TEST(test_kernel_waits_for_a_limit_on_its_way),
		TEST(test_kernel_after_a_limit_that_failed),
		TEST(test_adopted_with_a_dead_kernel),
		TEST(test_adopted_with_an_execution),
	};

	return cmocka_run_group_tests_name("pool_executions", tests, NULL, NULL);
}
