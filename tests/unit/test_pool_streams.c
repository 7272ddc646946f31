/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Watched and canceled executions against agents that say what the test says, lies included.
 */
#include "fake_backend.h"

static struct session *session;

static void open_session(void)
{
	struct pools_config config = fake_config();

	session = fake_open_session(&config);
}

static bool session_lives(void)
{
	return fake_session("ann-1");
}

/* --- a watcher that notes what it is told --- */

static char told[4096];
static size_t told_bytes;
static bool delete_when_started, detach_when_started;

static void tell(const char *what)
{
	size_t have = strlen(told);

	snprintf(told + have, sizeof(told) - have, "%s, ", what);
}

#define assert_told(what)                                                                          \
	do {                                                                                       \
		assert_string_equal(told, what);                                                   \
		told[0] = '\0';                                                                    \
	} while (0)

static void on_started(void *arg, struct execution *x)
{
	(void)arg;
	tell("started");
	if (detach_when_started)
		execution_detach(x, false);
	if (delete_when_started)
		session_delete(session);
}

static void on_output(void *arg, struct execution *x, int stream, struct str bytes)
{
	OWNED_MEM char *what = bytes.len < 100 ? str_printf("%d:%.*s", stream, STR_ARG(bytes))
					       : str_printf("%d:%zu", stream, bytes.len);

	(void)arg;
	(void)x;
	told_bytes += bytes.len;
	tell(what);
}

static void on_display(void *arg, struct execution *x, const char *format, struct str base64)
{
	OWNED_MEM char *what = str_printf("%s:%.*s", format, STR_ARG(base64));

	(void)arg;
	(void)x;
	tell(what);
}

static const struct execution_watcher watcher = { on_started, on_output, on_display };

static void on_done(void *arg, struct execution *x, const struct err *e)
{
	executed(arg, x, e);
	tell("done");
}

static void watch(struct outcome *o)
{
	struct execution_params p = fake_execution();
	struct err e = ERR_INIT;

	told[0] = '\0';
	told_bytes = 0;
	delete_when_started = detach_when_started = false;
	p.watcher = &watcher;
	*o = (struct outcome){ 0 };
	o->x = session_execute(session, &p, on_done, o, &e);
	if (!o->x)
		fail_msg("%s", e.msg);
}

static void run(struct outcome *o)
{
	struct execution_params p = fake_execution();

	run_params(session, o, &p);
}

static uint64_t op_of(size_t n)
{
	return heard_nth(AGENT_EXEC, n)->op;
}

static void say_output(uint64_t op, int stream, struct str bytes)
{
	struct buf b;

	buf_init(&b, MIB);
	wire_put_u8(&b, (uint8_t)stream);
	buf_add_str(&b, bytes);
	say_frame(AGENT_EXEC_OUTPUT, op, buf_str(&b));
	buf_done(&b);
}

static void say_bytes(uint64_t op, size_t len)
{
	static char zeros[AGENT_STREAM_CHUNK + 1];

	say_output(op, 1, (struct str){ zeros, len });
}

static void say_display(uint64_t op, enum kernel_value kind, struct str data)
{
	struct buf b;

	buf_init(&b, 2 * MIB);
	wire_put_u8(&b, (uint8_t)kind);
	wire_put_blob(&b, data);
	say_frame(AGENT_EXEC_DISPLAY, op, buf_str(&b));
	buf_done(&b);
}

static uint32_t credit_sent(const struct fake_heard *h)
{
	struct wire_reader r = wire_reader(h->payload + 4 + 1 + 4 * 4, 4);

	return wire_get_u32(&r);
}

static int setup(void **state)
{
	told[0] = '\0';
	told_bytes = 0;
	delete_when_started = detach_when_started = false;
	return fake_setup(state);
}

/* --- watching --- */

static void test_watched(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_told(""); /* never from inside */
	assert_started(1);
	assert_told("started, ");
	assert_int_equal(heard_nth(AGENT_EXEC, 0)->payload[4], KERNEL_RUN_STREAM);
	assert_int_equal(credit_sent(heard_nth(AGENT_EXEC, 0)), AGENT_STREAM_WINDOW);
	say_output(op_of(0), 1, STR("a"));
	say_output(op_of(0), 2, STR("b\xc3"));
	say_display(op_of(0), KERNEL_VALUE_IMAGE, STR("\3pngabc"));
	say_display(op_of(0), KERNEL_VALUE_TEXT, STR("no image"));
	say_display(op_of(0), KERNEL_VALUE_IMAGE, STR("\3P/Gabc"));
	say_done(op_of(0), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_told("1:a, 2:b\xc3, png:YWJj, done, ");
	assert_outcome(&o, AGENT_RESULT_OK, "");
}

/* Output that comes with the first turn comes after the beginning all the same. */
static void test_started_comes_first(void **state)
{
	static struct outcome o, first;

	(void)state;
	open_session();
	run(&first);
	watch(&o);
	assert_started(1);
	assert_told("");
	say_done(op_of(0), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_told("started, ");
	say_done(op_of(1), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_told("done, ");
}

static void test_unwatched_costs_nothing(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	run(&o);
	assert_started(1);
	assert_int_equal(heard_nth(AGENT_EXEC, 0)->payload[4], 0);
	assert_int_equal(credit_sent(heard_nth(AGENT_EXEC, 0)), 0);
	say_done(op_of(0), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_int_equal(heard_count(AGENT_EXEC_CREDIT), 0);
	assert_int_equal(fake.heard_count, 3); /* attach, exec, ack */
}

static void test_credit(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	for (int i = 0; i < 4; i++)
		say_bytes(op_of(0), AGENT_STREAM_CHUNK);
	settle();
	assert_int_equal(told_bytes, AGENT_STREAM_WINDOW);
	execution_credit(o.x, 1);
	execution_credit(o.x, AGENT_STREAM_WINDOW / 4 - 2);
	settle();
	assert_int_equal(heard_count(AGENT_EXEC_CREDIT), 0); /* in large steps */
	execution_credit(o.x, 1);
	settle();
	assert_int_equal(heard_last(AGENT_EXEC_CREDIT)->first, AGENT_STREAM_WINDOW / 4);
	say_bytes(op_of(0), AGENT_STREAM_CHUNK);
	settle();
	assert_int_equal(told_bytes, AGENT_STREAM_WINDOW + AGENT_STREAM_CHUNK);
	execution_credit(o.x, AGENT_STREAM_WINDOW);
	settle();
	assert_int_equal(heard_last(AGENT_EXEC_CREDIT)->first, AGENT_STREAM_WINDOW);
	assert_true(session_lives());
}

static void test_detached(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	say_output(op_of(0), 1, STR("a"));
	settle();
	execution_detach(o.x, false);
	/* On its way when the agent had not heard of it. */
	say_output(op_of(0), 1, STR("b"));
	settle();
	assert_told("started, 1:a, ");
	assert_int_equal(heard_count(AGENT_EXEC_CREDIT), 1);
	assert_int_equal(heard_last(AGENT_EXEC_CREDIT)->first, 0);
	assert_int_equal(heard_count(AGENT_EXEC_CANCEL), 0);
	say_done(op_of(0), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_told("");
	assert_int_equal(o.calls, 0);
	assert_int_equal(heard_count(AGENT_EXEC_ACK), 1);
}

static void test_watchers_that_leave_when_told(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	detach_when_started = true;
	assert_started(1);
	say_output(op_of(0), 1, STR("a"));
	say_done(op_of(0), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_told("started, ");
	watch(&o);
	delete_when_started = true;
	settle();
	assert_told("started, done, ");
	assert_failed(&o, ERR_CONFLICT);
	assert_false(session_lives());
}

static bool is_done(void)
{
	return strstr(told, "done") != NULL;
}

/* A watcher who takes nothing does not keep the promise of a timeout from being held. */
static void test_late_while_watched(void **state)
{
	static struct outcome o;
	struct execution_params p = fake_execution();
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	told[0] = '\0';
	p.watcher = &watcher;
	p.timeout_ms = 1;
	o = (struct outcome){ 0 };
	o.x = session_execute(session, &p, on_done, &o, &e);
	run_until(is_done);
	assert_outcome(&o, AGENT_RESULT_TIMEOUT, "timed out");
	settle();
	assert_int_equal(heard_last(AGENT_EXEC_CREDIT)->first, 0);
	say_output(op_of(0), 1, STR("late"));
	say_done(op_of(0), AGENT_RESULT_TIMEOUT, AGENT_KERNEL_IDLE, "");
	settle();
	assert_told("started, done, ");
	assert_true(session_lives());
}

/* --- what a taken-over agent may try --- */

static void assert_violation(const struct outcome *o)
{
	settle();
	assert_false(session_lives());
	assert_int_equal(o->calls, 1);
	assert_int_not_equal(o->code, ERR_NONE);
}

static void test_more_than_was_credited(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	for (int i = 0; i < 4; i++)
		say_bytes(op_of(0), AGENT_STREAM_CHUNK);
	say_bytes(op_of(0), 1);
	assert_violation(&o);
	assert_int_equal(told_bytes, AGENT_STREAM_WINDOW);
}

static void test_too_large_a_chunk(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	say_bytes(op_of(0), AGENT_STREAM_CHUNK + 1);
	assert_violation(&o);
	assert_int_equal(told_bytes, 0);
}

/* Else each round would bring a window of its own. */
static void test_output_of_what_was_not_run(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	say_bytes(op_of(0), 1);
	say_done(op_of(0), AGENT_RESULT_NOT_RUN, AGENT_KERNEL_NONE, "");
	assert_violation(&o);
}

static void test_output_nobody_asked_for(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	run(&o);
	assert_started(1);
	say_output(op_of(0), 1, STR("a"));
	assert_violation(&o);
}

static void test_output_of_another(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	say_output(op_of(0) + 2, 1, STR("a"));
	assert_violation(&o);
	assert_told("started, done, ");
}

static void test_output_of_a_third_stream(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	say_output(op_of(0), 3, STR("a"));
	assert_violation(&o);
}

static void test_output_after_the_result(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	say_done(op_of(0), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
	settle();
	/* While the names of refused calls are asked for. */
	say_output(op_of(0), 1, STR("a"));
	settle();
	assert_false(session_lives());
	assert_outcome(&o, AGENT_RESULT_ERROR, "bang");
	assert_told("started, done, ");
}

static void test_too_many_displays(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	for (int i = 0; i < 32; i++)
		say_display(op_of(0), KERNEL_VALUE_IMAGE, STR("\1pa"));
	settle();
	assert_true(session_lives());
	say_display(op_of(0), KERNEL_VALUE_IMAGE, STR("\1pa"));
	assert_violation(&o);
}

static void test_too_large_displays(void **state)
{
	static struct outcome o;
	static char data[MIB - 8];

	(void)state;
	open_session();
	watch(&o);
	assert_started(1);
	say_display(op_of(0), KERNEL_VALUE_TEXT, (struct str){ data, sizeof(data) });
	say_display(op_of(0), KERNEL_VALUE_TEXT, (struct str){ data, 8 });
	settle();
	assert_true(session_lives());
	say_display(op_of(0), KERNEL_VALUE_TEXT, (struct str){ data, 1 });
	assert_violation(&o);
}

static void test_unused_sandboxes_say_nothing(void **state)
{
	struct pools_config config = fake_config();

	(void)state;
	fake_start(&config, "\"scaleConfiguration\":{\"maxConcurrentSessions\":10,"
			    "\"readySessionInstances\":1}");
	settle();
	assert_int_equal(fake.box_count, 1);
	say_output(1, 1, STR("a"));
	settle();
	assert_true(fake.boxes[0].destroyed);
	while (fake.box_count < 2)
		settle();
	say_display(1, KERNEL_VALUE_IMAGE, STR("\1pa"));
	settle();
	assert_true(fake.boxes[1].destroyed);
}

/* --- cancellation --- */

static void test_cancel_queued(void **state)
{
	static struct outcome a, b, c, d;

	(void)state;
	open_session();
	run(&a);
	run(&b);
	run(&c);
	run(&d);
	assert_started(1);
	execution_cancel(c.x);
	execution_cancel(c.x);
	execution_cancel(b.x);
	assert_int_equal(b.calls + c.calls, 0); /* never from inside */
	settle();
	assert_outcome(&b, AGENT_RESULT_CANCELED, "Execution canceled");
	assert_outcome(&c, AGENT_RESULT_CANCELED, "Execution canceled");
	assert_int_equal(a.calls + d.calls, 0);
	assert_int_equal(heard_count(AGENT_EXEC_CANCEL), 0);
	say_done(op_of(0), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	assert_started(2);
	assert_int_equal(op_of(1), d.x->op);
}

/* Nor does it begin between the two. */
static void test_canceled_does_not_begin(void **state)
{
	static struct outcome a, b;

	(void)state;
	open_session();
	run(&a);
	run(&b);
	assert_started(1);
	say_done(op_of(0), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	execution_cancel(b.x);
	assert_started(1);
	assert_outcome(&a, AGENT_RESULT_OK, "");
	assert_outcome(&b, AGENT_RESULT_CANCELED, "");
}

static void test_cancel_running(void **state)
{
	static struct outcome o, next;

	(void)state;
	open_session();
	run(&o);
	run(&next);
	assert_started(1);
	execution_cancel(o.x);
	execution_cancel(o.x);
	settle();
	assert_int_equal(heard_count(AGENT_EXEC_CANCEL), 1);
	assert_int_equal(heard_last(AGENT_EXEC_CANCEL)->op, op_of(0));
	assert_int_equal(o.calls, 0);
	/* It was faster; canceled is canceled. */
	say_done(op_of(0), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_outcome(&o, AGENT_RESULT_CANCELED, "Execution canceled");
	assert_asked(""); /* nobody asks what it was refused */
	assert_started(2);
}

static void test_cancel_that_kills(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	run(&o);
	assert_started(1);
	execution_cancel(o.x);
	say_done(op_of(0), AGENT_RESULT_CANCELED, AGENT_KERNEL_NONE, "");
	settle();
	assert_outcome(&o, AGENT_RESULT_CANCELED, "variables are lost");
}

/* With its result there, but for the names of what it was refused. */
static void test_cancel_while_asking(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	run(&o);
	assert_started(1);
	say_done(op_of(0), AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
	settle();
	assert_asked("refused, ");
	execution_cancel(o.x);
	settle();
	assert_int_equal(heard_count(AGENT_EXEC_CANCEL), 0);
	answer_refused("bpf");
	assert_outcome(&o, AGENT_RESULT_ERROR, "bpf()");
}

static void test_cancel_finished(void **state)
{
	static struct outcome o;
	struct execution_params p = fake_execution();

	(void)state;
	open_session();
	p.async = true;
	p.id = "one";
	run_params(session, &o, &p);
	assert_started(1);
	say_done(op_of(0), AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	struct execution *x = execution_find(session, STR("one"));

	execution_cancel(x);
	settle();
	assert_int_equal(execution_find(session, STR("one"))->result.status, AGENT_RESULT_OK);
	assert_int_equal(heard_count(AGENT_EXEC_CANCEL), 0);
}

/* Asynchronous ones that wait have a result as well. */
static void test_cancel_asynchronous(void **state)
{
	static struct outcome a, b;
	struct execution_params p = fake_execution();

	(void)state;
	open_session();
	run(&a);
	p.async = true;
	p.id = "one";
	run_params(session, &b, &p);
	assert_started(1);
	execution_cancel(b.x);
	settle();
	struct execution *x = execution_find(session, STR("one"));

	assert_int_equal(x->state, EXECUTION_FINISHED);
	assert_int_equal(x->result.status, AGENT_RESULT_CANCELED);
	assert_false(x->unstored);
}

/* The kernel died under it, and it is not tried again. */
static void test_cancel_not_run(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	run(&o);
	assert_started(1);
	execution_cancel(o.x);
	say_done(op_of(0), AGENT_RESULT_NOT_RUN, AGENT_KERNEL_NONE, "");
	say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	assert_started(1);
	assert_outcome(&o, AGENT_RESULT_CANCELED, "");
}

static void test_cancel_then_leave(void **state)
{
	static struct outcome a, b;

	(void)state;
	open_session();
	run(&a);
	run(&b);
	assert_started(1);
	execution_cancel(b.x);
	execution_detach(b.x, false);
	execution_cancel(a.x);
	execution_detach(a.x, false);
	say_done(op_of(0), AGENT_RESULT_CANCELED, AGENT_KERNEL_IDLE, "");
	settle();
	assert_int_equal(a.calls + b.calls, 0);
	run(&a);
	assert_started(2);
}

static void test_cancel_then_delete(void **state)
{
	static struct outcome a, b;

	(void)state;
	open_session();
	run(&a);
	run(&b);
	assert_started(1);
	execution_cancel(a.x);
	execution_cancel(b.x);
	session_delete(session);
	assert_failed(&a, ERR_CONFLICT);
	assert_failed(&b, ERR_CONFLICT);
	settle();
	assert_int_equal(a.calls + b.calls, 2);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, fake_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_watched),
		TEST(test_started_comes_first),
		TEST(test_unwatched_costs_nothing),
		TEST(test_credit),
		TEST(test_detached),
		TEST(test_watchers_that_leave_when_told),
		TEST(test_late_while_watched),
		TEST(test_more_than_was_credited),
		TEST(test_too_large_a_chunk),
		TEST(test_output_of_what_was_not_run),
		TEST(test_output_nobody_asked_for),
		TEST(test_output_of_another),
		TEST(test_output_of_a_third_stream),
		TEST(test_output_after_the_result),
		TEST(test_too_many_displays),
		TEST(test_too_large_displays),
		TEST(test_unused_sandboxes_say_nothing),
		TEST(test_cancel_queued),
		TEST(test_canceled_does_not_begin),
		TEST(test_cancel_running),
		TEST(test_cancel_that_kills),
		TEST(test_cancel_while_asking),
		TEST(test_cancel_finished),
		TEST(test_cancel_asynchronous),
		TEST(test_cancel_not_run),
		TEST(test_cancel_then_leave),
		TEST(test_cancel_then_delete),
	};

	return cmocka_run_group_tests_name("pool_streams", tests, NULL, NULL);
}
