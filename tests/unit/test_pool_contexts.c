/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Contexts against agents that say what the test says: which kernel runs what, in what order, what
 * becomes of those that are deleted, and what the next daemon finds.
 */
#include "fake_backend.h"
#include "pool/internal.h"

static struct session *session;

static void open_session(void)
{
	struct pools_config config = fake_config();

	session = fake_open_session(&config);
}

static void adopt_session(void)
{
	struct pools_config config = fake_config();

	session = fake_adopt_session(&config);
}

static void run_in(struct outcome *o, const char *context, const char *language, unsigned mib)
{
	struct execution_params p = fake_execution();

	p.context = str_from(context);
	p.language = str_from(language);
	p.memory_bytes = (uint64_t)mib * MIB;
	run_params(session, o, &p);
}

static struct context_info info(const char *name)
{
	struct context_info i;
	struct err e = ERR_INIT;

	if (context_open(session, str_from(name), STR(""), &i, &e) < 0)
		fail_msg("%s", e.msg);
	return i;
}

/* Its kernel, of the n-th call, comes up with this number. */
static void come_up(uint32_t number)
{
	size_t before = heard_count(AGENT_KERNEL_ATTACH);

	answer_kernel(ERR_NONE);
	settle();
	assert_int_equal(heard_count(AGENT_KERNEL_ATTACH), before + 1);
	assert_int_equal(heard_last(AGENT_KERNEL_ATTACH)->first, number);
	say_kernel_n(number, AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	settle();
}

static void assert_label(const struct fake_heard *h, const char *label)
{
	struct wire_reader r = wire_reader(h->payload, h->len);

	wire_get_u32(&r);
	struct str s = wire_get_blob(&r, AGENT_LABEL_MAX);

	if (!wire_ok(&r) || !str_eq(s, str_from(label)))
		fail_msg("label %.*s, not %s", STR_ARG(s), label);
}

static uint64_t op_of(size_t n)
{
	return heard_nth(AGENT_EXEC, n)->op;
}

static void done_of(size_t n, enum agent_exec_status status)
{
	say_done(op_of(n), status,
		 status == AGENT_RESULT_KERNEL_DIED ? AGENT_KERNEL_NONE : AGENT_KERNEL_IDLE, "");
	settle();
}

/* --- names and languages --- */

static void test_kernels_have_labels(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	assert_label(heard_nth(AGENT_KERNEL_ATTACH, 0), "default\npython");
	run_in(&o, "work", "node", 0);
	assert_string_equal(info("work").state, "starting");
	assert_asked("kernel node, ");
	come_up(1);
	assert_label(heard_nth(AGENT_KERNEL_ATTACH, 1), "work\nnode");
	assert_started(1);
	assert_int_equal(heard_nth(AGENT_EXEC, 0)->first, 1);
	assert_string_equal(info("work").state, "busy");
	done_of(0, AGENT_RESULT_OK);
	assert_outcome(&o, AGENT_RESULT_OK, "");
	assert_string_equal(info("work").state, "idle");
	assert_int_equal(info("work").executions, 1);
	assert_int_equal(info("default").executions, 0);
}

static void assert_refused(const char *name, const char *language, enum err_code code,
			   const char *word)
{
	struct context_info i;
	struct err e = ERR_INIT;

	assert_int_equal(context_open(session, str_from(name), str_from(language), &i, &e), -1);
	assert_int_equal(e.code, code);
	if (!strstr(e.msg, word))
		fail_msg("no '%s' in: %s", word, e.msg);
}

static void test_names_and_languages(void **state)
{
	char name[CONTEXT_NAME_MAX + 2];
	struct context_info i;
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	memset(name, 'n', sizeof(name));
	name[CONTEXT_NAME_MAX + 1] = '\0';
	assert_refused(name, "", ERR_INVALID, "1 to 64");
	name[CONTEXT_NAME_MAX] = '\0';
	assert_int_equal(context_open(session, str_from(name), STR(""), &i, &e), 0);
	assert_refused("", "", ERR_INVALID, "name");
	assert_refused("a b", "", ERR_INVALID, "name");
	assert_refused("a/b", "", ERR_INVALID, "name");
	assert_refused("a\nb", "", ERR_INVALID, "name");
	assert_refused("caf\xc3\xa9", "", ERR_INVALID, "name");
	assert_refused("other", "cobol", ERR_INVALID, "python, shell, node");
	assert_refused("other", "terminal", ERR_INVALID, "terminal");
	assert_refused("default", "node", ERR_CONFLICT, "language python");
	assert_refused("default", "cobol", ERR_INVALID, "cobol");
	assert_int_equal(context_open(session, STR("default"), STR("python"), &i, &e), 0);
	assert_string_equal(i.language, "python");
}

/* A language without a context: the first one of it, else one of its own name. */
static void test_context_of_a_language(void **state)
{
	static struct outcome a, b, c;
	struct execution_params p = fake_execution();
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	run_in(&a, "", "python", 0);
	assert_started(1);
	assert_int_equal(heard_nth(AGENT_EXEC, 0)->first, 0);
	run_in(&b, "", "shell", 0);
	assert_asked("kernel shell, ");
	come_up(1);
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->first, 1);
	run_in(&c, "shell", "", 0);
	assert_int_equal(info("shell").queue_len, 1);
	assert_asked("");
	p.language = STR("cobol");
	assert_null(session_execute(session, &p, executed, &c, &e));
	assert_int_equal(e.code, ERR_INVALID);
	/* One that took the name for something else. */
	run_in(&c, "node", "python", 0);
	p.language = STR("node");
	e = ERR_INIT;
	assert_null(session_execute(session, &p, executed, &c, &e));
	assert_int_equal(e.code, ERR_CONFLICT);
}

static void count_one(const struct context_info *c, void *arg)
{
	(void)c;
	(*(int *)arg)++;
}

static void test_contexts_max(void **state)
{
	int count = 0;
	struct context_info i;
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	info("two");
	info("three");
	info("four");
	assert_refused("five", "", ERR_QUOTA, "--contexts-max");
	context_each(session, count_one, &count);
	assert_int_equal(count, 4);
	/* One that is deleted counts while its kernel is asked for: no caller piles up calls. */
	assert_int_equal(context_delete(session, STR("two"), &e), 0);
	assert_refused("five", "", ERR_QUOTA, "--contexts-max");
	/* Then no more, even before its kernel has ended. */
	answer_kernel(ERR_NONE);
	settle();
	assert_int_equal(context_open(session, STR("five"), STR(""), &i, &e), 0);
}

/* --- order --- */

static void test_side_by_side(void **state)
{
	static struct outcome a, b, c;

	(void)state;
	open_session();
	run_in(&a, "", "", 0);
	run_in(&b, "", "", 0);
	run_in(&c, "work", "", 0);
	assert_asked("kernel python, ");
	come_up(1);
	assert_started(2);
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->first, 1);
	done_of(1, AGENT_RESULT_OK);
	assert_int_equal(c.calls, 1);
	assert_int_equal(a.calls + b.calls, 0);
	done_of(0, AGENT_RESULT_OK);
	assert_started(3);
	assert_int_equal(heard_nth(AGENT_EXEC, 2)->first, 0);
}

static void test_queue_limits_are_the_sessions(void **state)
{
	static struct outcome o[3];
	struct pools_config config = fake_config();
	struct execution_params p = fake_execution();
	struct err e = ERR_INIT;

	(void)state;
	config.queued_code_max = 10;
	fake_start(&config, "\"scaleConfiguration\":{\"maxConcurrentSessions\":1,"
			    "\"readySessionInstances\":0},\"sessionLimits\":{\"queueLength\":2}");
	session = session_open(pool_find(fake.pools, STR(KEY)), STR("ann-1"), &e);
	assert_non_null(session);
	settle();
	run_in(&o[0], "", "", 0);
	run_in(&o[1], "", "", 0);
	p.context = STR("work");
	p.code = STR("0123456789");
	assert_null(session_execute(session, &p, executed, &o[2], &e));
	assert_int_equal(e.code, ERR_QUEUE_FULL);
	assert_non_null(strstr(e.msg, "--queued-code-max"));
	run_in(&o[2], "work", "", 0);
	p.code = STR("1");
	assert_null(session_execute(session, &p, executed, &o[2], &e));
	assert_non_null(strstr(e.msg, "queueLength"));
}

static void test_kernel_death_is_its_contexts_own(void **state)
{
	static struct outcome a, b, next;

	(void)state;
	open_session();
	run_in(&a, "", "", 0);
	run_in(&b, "work", "", 0);
	run_in(&next, "work", "", 0);
	come_up(1);
	assert_started(2);
	assert_asked("kernel python, ");
	say_done(op_of(1), AGENT_RESULT_OOM, AGENT_KERNEL_NONE, "");
	say_kernel_n(1, AGENT_KERNEL_NONE, AGENT_DEATH_OOM);
	settle();
	assert_outcome(&b, AGENT_RESULT_OOM, "");
	assert_int_equal(a.calls, 0);
	assert_string_equal(info("work").state, "starting");
	while (!fake.asked[0])
		settle();
	assert_asked("kernel python, ");
	come_up(1);
	assert_started(3);
	done_of(0, AGENT_RESULT_OK);
	done_of(2, AGENT_RESULT_OK);
	assert_outcome(&a, AGENT_RESULT_OK, "");
	assert_outcome(&next, AGENT_RESULT_OK, "");
}

/* A kernel that never comes up: who waits for it hears of it, nobody else does. */
static void test_kernel_that_does_not_start(void **state)
{
	static struct outcome a, b;

	(void)state;
	open_session();
	run_in(&a, "work", "shell", 0);
	while (!a.calls) {
		if (fake.kernels_answered < fake.kernel_count)
			answer_kernel(ERR_SYSTEM);
		settle();
	}
	assert_failed(&a, ERR_SYSTEM);
	run_in(&b, "", "", 0);
	assert_started(1);
	done_of(0, AGENT_RESULT_OK);
	assert_outcome(&b, AGENT_RESULT_OK, "");
}

/* --- executions that run alone --- */

static void two_contexts(void)
{
	open_session();
	info("work");
	come_up(1);
	assert_asked("kernel python, ");
}

static void test_alone_waits_for_what_runs(void **state)
{
	static struct outcome a, alone, later, again;

	(void)state;
	two_contexts();
	run_in(&a, "work", "", 0);
	run_in(&alone, "", "", 64);
	run_in(&later, "work", "", 0);
	assert_started(1);
	assert_asked("");
	done_of(0, AGENT_RESULT_OK);
	/* The one that came later waits, though its kernel is idle. */
	assert_asked("memory 64, ");
	answer_memory(ERR_NONE);
	assert_started(2);
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->first, 0);
	run_in(&again, "", "", 64);
	settle();
	assert_int_equal(heard_count(AGENT_EXEC), 2);
	/* And it is not passed by the next of its kind. */
	done_of(1, AGENT_RESULT_OK);
	assert_asked("memory 0, ");
	answer_memory(ERR_NONE);
	assert_started(3);
	assert_int_equal(heard_nth(AGENT_EXEC, 2)->first, 1);
	assert_int_equal(again.calls, 0);
	done_of(2, AGENT_RESULT_OK);
	assert_asked("memory 64, ");
	answer_memory(ERR_NONE);
	assert_started(4);
}

static void test_two_alone(void **state)
{
	static struct outcome a, b;

	(void)state;
	two_contexts();
	run_in(&a, "", "", 64);
	run_in(&b, "work", "", 64);
	assert_asked("memory 64, ");
	answer_memory(ERR_NONE);
	assert_started(1);
	done_of(0, AGENT_RESULT_OK);
	/* Under the same limit: it need not be set again. */
	assert_started(2);
	assert_asked("");
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->first, 1);
	done_of(1, AGENT_RESULT_OK);
	assert_asked("memory 0, ");
}

static void test_refused_limit_is_its_own(void **state)
{
	static struct outcome a, b;

	(void)state;
	two_contexts();
	run_in(&a, "", "", 64);
	run_in(&b, "work", "", 0);
	answer_memory(ERR_CONFLICT);
	assert_failed(&a, ERR_CONFLICT);
	assert_started(1);
	assert_int_equal(heard_nth(AGENT_EXEC, 0)->first, 1);
	assert_int_equal(b.calls, 0);
}

/* A kernel comes up under the session's own limit, and what runs alone waits for that. */
static void test_alone_and_kernels(void **state)
{
	static struct outcome a, b, c;

	(void)state;
	two_contexts();
	run_in(&a, "", "", 64);
	answer_memory(ERR_NONE);
	assert_started(1);
	assert_asked("memory 64, ");
	run_in(&b, "third", "shell", 0);
	run_in(&c, "work", "", 64);
	settle();
	assert_asked("");
	done_of(0, AGENT_RESULT_OK);
	assert_asked("memory 0, kernel shell, ");
	answer_memory(ERR_NONE);
	settle();
	assert_asked("");
	assert_int_equal(heard_count(AGENT_EXEC), 1);
	come_up(2);
	assert_started(2);
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->first, 2);
	done_of(1, AGENT_RESULT_OK);
	assert_asked("memory 64, ");
	answer_memory(ERR_NONE);
	assert_started(3);
}

/* One whose kernel cannot come up must not hold up the others. */
static void test_alone_beside_a_dead_kernel(void **state)
{
	static struct outcome a, b;

	(void)state;
	open_session();
	run_in(&a, "work", "shell", 64);
	run_in(&b, "", "", 0);
	assert_started(1);
	done_of(0, AGENT_RESULT_OK);
	assert_outcome(&b, AGENT_RESULT_OK, "");
	run_in(&b, "", "", 64);
	settle();
	assert_asked("kernel shell, ");
	answer_kernel(ERR_SYSTEM);
	settle();
	assert_asked("memory 64, ");
	answer_memory(ERR_NONE);
	assert_started(2);
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->first, 0);
}

static void test_alone_that_leaves(void **state)
{
	static struct outcome a, alone, later;

	(void)state;
	two_contexts();
	run_in(&a, "", "", 0);
	run_in(&alone, "work", "", 64);
	run_in(&later, "work", "", 0);
	assert_started(1);
	execution_detach(alone.x, false);
	assert_started(2);
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->first, 1);
}

/* --- the end of contexts --- */

static void test_delete(void **state)
{
	static struct outcome runs, waits, waits_too;
	struct context_info i;
	struct err e = ERR_INIT;

	(void)state;
	two_contexts();
	run_in(&runs, "work", "", 0);
	run_in(&waits, "work", "", 0);
	run_in(&waits_too, "work", "", 0);
	assert_started(1);
	assert_int_equal(context_get(session, STR("work"), &i, &e), 0);
	assert_string_equal(i.state, "busy");
	assert_int_equal(i.queue_len, 2);
	assert_int_equal(context_delete(session, STR("work"), &e), 0);
	assert_int_equal(waits.calls, 0); /* never from inside */
	settle();
	assert_outcome(&waits, AGENT_RESULT_CANCELED, "canceled");
	assert_outcome(&waits_too, AGENT_RESULT_CANCELED, "canceled");
	assert_int_equal(runs.calls, 0);
	assert_int_equal(heard_last(AGENT_KERNEL_END)->first, 1);
	assert_int_equal(context_delete(session, STR("work"), &e), -1);
	assert_int_equal(e.code, ERR_NO_CONTEXT);
	e = (struct err)ERR_INIT;
	assert_int_equal(context_get(session, STR("work"), &i, &e), -1);
	assert_int_equal(e.code, ERR_NO_CONTEXT);
	/* However the agent puts it. */
	say_done(op_of(0), AGENT_RESULT_KERNEL_DIED, AGENT_KERNEL_NONE, "");
	say_kernel_n(1, AGENT_KERNEL_NONE, AGENT_DEATH_KILLED);
	settle();
	assert_outcome(&runs, AGENT_RESULT_CANCELED, "canceled");
	assert_null(strstr(runs.text, "variables"));
	assert_asked("");
	assert_int_equal(heard_count(AGENT_EXEC_ACK), 1);
}

static void test_default_is_not_deleted(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	assert_int_equal(context_delete(session, STR("default"), &e), -1);
	assert_int_equal(e.code, ERR_CONFLICT);
	assert_int_equal(context_restart(session, STR("none"), &e), -1);
	assert_int_equal(e.code, ERR_NO_CONTEXT);
	assert_int_equal(context_delete(session, STR("no\nne"), &e), -1);
	assert_int_equal(e.code, ERR_INVALID);
}

/* The same name at once again is another context, on another number. */
static void test_delete_and_make_again(void **state)
{
	static struct outcome o;
	struct err e = ERR_INIT;

	(void)state;
	two_contexts();
	assert_int_equal(context_delete(session, STR("work"), &e), 0);
	run_in(&o, "work", "node", 0);
	assert_asked("kernel node, ");
	say_kernel_n(1, AGENT_KERNEL_NONE, AGENT_DEATH_KILLED);
	come_up(2);
	assert_started(1);
	assert_string_equal(info("work").language, "node");
	done_of(0, AGENT_RESULT_OK);
	assert_outcome(&o, AGENT_RESULT_OK, "");
	/* The number of the first one is free again. */
	info("other");
	come_up(1);
}

/* With every number taken a new kernel waits for the end of one. */
static void test_all_numbers_taken(void **state)
{
	static struct outcome o;
	struct pools_config config = fake_config();
	struct err e = ERR_INIT;
	char name[8];

	(void)state;
	config.contexts_max = AGENT_KERNELS_MAX;
	session = fake_open_session(&config);
	for (uint32_t i = 1; i < AGENT_KERNELS_MAX; i++) {
		snprintf(name, sizeof(name), "c%u", i);
		info(name);
		come_up(i);
	}
	fake.asked[0] = '\0';
	assert_int_equal(context_delete(session, STR("c5"), &e), 0);
	run_in(&o, "c5", "shell", 0);
	settle();
	assert_asked("");
	assert_string_equal(info("c5").state, "starting");
	/* Deleted before it ever began: nothing is left of it. */
	assert_int_equal(context_delete(session, STR("c5"), &e), 0);
	settle();
	assert_outcome(&o, AGENT_RESULT_CANCELED, "");
	run_in(&o, "c5", "shell", 0);
	settle();
	assert_asked("");
	say_kernel_n(5, AGENT_KERNEL_NONE, AGENT_DEATH_KILLED);
	settle();
	assert_asked("kernel shell, ");
	come_up(5);
	assert_started(1);
	assert_int_equal(heard_nth(AGENT_EXEC, 0)->first, 5);
	assert_int_equal(heard_count(AGENT_KERNEL_END), 1);
}

static void test_delete_while_it_starts(void **state)
{
	static struct outcome o;
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	run_in(&o, "work", "shell", 0);
	assert_asked("kernel shell, ");
	assert_int_equal(context_delete(session, STR("work"), &e), 0);
	settle();
	assert_outcome(&o, AGENT_RESULT_CANCELED, "");
	answer_kernel(ERR_NONE);
	settle();
	/* The agent never hears of it. */
	assert_int_equal(heard_count(AGENT_KERNEL_ATTACH), 1);
	assert_int_equal(heard_count(AGENT_KERNEL_END), 0);
	info("next");
	come_up(1);
}

static void test_restart(void **state)
{
	static struct outcome runs, waits;
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	run_in(&runs, "", "", 0);
	run_in(&waits, "", "", 0);
	assert_started(1);
	assert_int_equal(context_restart(session, STR("default"), &e), 0);
	assert_int_equal(context_restart(session, STR("default"), &e), 0);
	settle();
	assert_int_equal(heard_count(AGENT_KERNEL_END), 1);
	assert_asked("");
	fake.silent_kernels = true;
	say_done(op_of(0), AGENT_RESULT_CANCELED, AGENT_KERNEL_NONE, "");
	say_kernel(AGENT_KERNEL_NONE, AGENT_DEATH_KILLED);
	settle();
	assert_outcome(&runs, AGENT_RESULT_CANCELED, "");
	assert_asked("kernel, ");
	/* It had died by itself just before: the agent answers that there is none. */
	say_kernel(AGENT_KERNEL_NONE, AGENT_DEATH_NONE);
	settle();
	assert_asked("");
	say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	assert_started(2);
	assert_int_equal(waits.calls, 0);
}

/* An agent that says nothing after that has lost its session; here it says something else. */
static void test_result_of_a_deleted_context(void **state)
{
	static struct outcome runs, o;
	struct err e = ERR_INIT;

	(void)state;
	two_contexts();
	run_in(&runs, "work", "", 0);
	assert_started(1);
	assert_int_equal(context_delete(session, STR("work"), &e), 0);
	say_kernel_n(1, AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	say_done(op_of(0), AGENT_RESULT_NOT_RUN, AGENT_KERNEL_NONE, "");
	settle();
	assert_outcome(&runs, AGENT_RESULT_CANCELED, "");
	say_kernel_n(1, AGENT_KERNEL_NONE, AGENT_DEATH_KILLED);
	settle();
	run_in(&o, "", "", 0);
	assert_started(2);
}

static void test_session_ends_with_its_contexts(void **state)
{
	static struct outcome a, b, c, d;
	struct err e = ERR_INIT;

	(void)state;
	two_contexts();
	run_in(&a, "", "", 0);
	run_in(&b, "work", "", 0);
	run_in(&c, "work", "", 0);
	run_in(&d, "third", "shell", 0);
	assert_started(2);
	assert_int_equal(context_delete(session, STR("work"), &e), 0);
	session_delete(session);
	assert_failed(&a, ERR_CONFLICT);
	assert_failed(&b, ERR_CONFLICT);
	assert_failed(&c, ERR_CONFLICT);
	assert_failed(&d, ERR_CONFLICT);
	answer_kernel(ERR_NONE);
	settle();
}

/* What runs in any of them is use of the session. */
static void test_running_is_use(void **state)
{
	static struct outcome o;

	(void)state;
	two_contexts();
	run_in(&o, "work", "", 0);
	assert_started(1);
	session->accessed_us = 0;
	session_rearm(session);
	settle();
	assert_int_equal(o.calls, 0);
	done_of(0, AGENT_RESULT_OK);
	assert_outcome(&o, AGENT_RESULT_OK, "");
	session->accessed_us = 0;
	session_rearm(session);
	settle();
	assert_null(session_find(pool_find(fake.pools, STR(KEY)), STR("ann-1")));
}

/* --- what the next daemon finds --- */

struct status {
	struct buf kernels, execs, terminals;
	uint32_t kernel_count, exec_count;
};

static struct status status_new(void)
{
	struct status s = { 0 };

	buf_init(&s.kernels, 4096);
	buf_init(&s.execs, 4096);
	return s;
}

static void add_kernel(struct status *s, uint32_t number, enum agent_kernel_state state,
		       struct str label)
{
	wire_put_u32(&s->kernels, number);
	wire_put_u8(&s->kernels, (uint8_t)state);
	wire_put_blob(&s->kernels, label);
	s->kernel_count++;
}

static void add_exec(struct status *s, uint64_t op, enum agent_exec_state state, uint32_t kernel)
{
	wire_put_u64(&s->execs, op);
	wire_put_u8(&s->execs, (uint8_t)state);
	wire_put_u32(&s->execs, kernel);
	s->exec_count++;
}

static void say_status(struct status *s)
{
	struct buf b;

	buf_init(&b, 8192);
	wire_put_u32(&b, s->kernel_count);
	buf_add_str(&b, buf_str(&s->kernels));
	wire_put_u32(&b, s->exec_count);
	buf_add_str(&b, buf_str(&s->execs));
	wire_put_u32(&b, 0);
	say_frame(AGENT_STATUS, 0, buf_str(&b));
	buf_done(&b);
	buf_done(&s->kernels);
	buf_done(&s->execs);
	settle();
}

static void store_request(const char *id, uint64_t op, const char *request)
{
	struct err e = ERR_INIT;
	struct store_execution row = { .id = id,
				       .sid = ADOPTED_SID,
				       .op = op,
				       .request = request,
				       .created_us = (int64_t)op };

	assert_int_equal(store_execution_put(fake.store, &row, &e), 0);
}

#define REQUEST(rest)                                                                                \
	"{\"code\":\"1\",\"executionType\":\"Asynchronous\",\"timeoutMs\":0,\"outputMax\":4096" rest \
	"}"

static void open_nothing(void *arg, struct session *s, struct agent_link *link)
{
	(void)s;
	(void)link;
	(*(int *)arg)++;
}

static void open_failed(void *arg, const struct err *e)
{
	(void)arg;
	fail_msg("%s", e->msg);
}

static void test_adopted_contexts(void **state)
{
	static struct outcome o;
	struct status s = status_new();
	int opened = 0;

	(void)state;
	adopt_session();
	/* Nobody talks to it before it has said what there is. */
	assert_non_null(session_when_open(session, open_nothing, open_failed, &opened));
	settle();
	assert_int_equal(opened, 0);
	add_kernel(&s, 0, AGENT_KERNEL_IDLE, STR("default\npython"));
	add_kernel(&s, 7, AGENT_KERNEL_BUSY, STR("work\nnode"));
	add_exec(&s, 77, AGENT_EXEC_RUNNING, 7);
	say_status(&s);
	assert_int_equal(opened, 1);
	assert_asked("");
	assert_string_equal(info("work").language, "node");
	assert_string_equal(info("work").state, "busy");
	/* Its reader is gone; it must not wait for one. */
	assert_int_equal(heard_last(AGENT_EXEC_CREDIT)->op, 77);
	assert_int_equal(heard_last(AGENT_EXEC_CREDIT)->first, 0);
	/* 77 says that it may run under a limit of its own: nothing else starts. */
	run_in(&o, "", "", 0);
	settle();
	assert_asked("");
	say_done(77, AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_asked("memory 0, ");
	answer_memory(ERR_NONE);
	assert_started(1);
	run_in(&o, "work", "", 0);
	assert_started(2);
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->first, 7);
}

/* One that runs under the session's own limit says so in its number. */
static void test_adopted_beside_an_execution(void **state)
{
	static struct outcome o;
	struct status s = status_new();

	(void)state;
	adopt_session();
	add_kernel(&s, 0, AGENT_KERNEL_IDLE, STR("default\npython"));
	add_kernel(&s, 1, AGENT_KERNEL_BUSY, STR("work\npython"));
	add_exec(&s, 79, AGENT_EXEC_RUNNING, 1);
	say_status(&s);
	run_in(&o, "", "", 0);
	assert_started(1);
	assert_asked("");
	/* So do those that are started here. */
	assert_int_equal(op_of(0) & 3, 3);
}

static void test_adopted_queue(void **state)
{
	struct status s = status_new();

	(void)state;
	store_request("old", 5, REQUEST(""));
	store_request("mine", 7,
		      REQUEST(",\"context\":\"work\",\"language\":\"shell\",\"argv\":true"));
	store_request("runs", 9, REQUEST(",\"context\":\"busy\",\"language\":\"node\""));
	adopt_session();
	add_kernel(&s, 0, AGENT_KERNEL_IDLE, STR("default\npython"));
	add_kernel(&s, 1, AGENT_KERNEL_BUSY, STR("busy\nnode"));
	add_exec(&s, 9, AGENT_EXEC_RUNNING, 1);
	say_status(&s);
	/* 9 may run under a limit of its own: nothing is started under that. */
	assert_asked("");
	assert_int_equal(heard_count(AGENT_EXEC), 0);
	assert_int_equal(execution_find(session, STR("runs"))->state, EXECUTION_RUNNING);
	say_done(9, AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_int_equal(execution_find(session, STR("runs"))->state, EXECUTION_FINISHED);
	assert_asked("memory 0, kernel shell, ");
	answer_memory(ERR_NONE);
	assert_started(1);
	assert_int_equal(op_of(0), 5);
	assert_int_equal(heard_nth(AGENT_EXEC, 0)->first, 0);
	come_up(2);
	assert_started(2);
	assert_int_equal(op_of(1), 7);
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->first, 2);
	assert_int_equal(heard_nth(AGENT_EXEC, 1)->payload[4], KERNEL_RUN_ARGV);
	assert_string_equal(info("work").language, "shell");
}

/* What is accepted here is found by the next daemon. */
static int keep_request(const struct store_execution *row, void *arg, struct err *e)
{
	(void)e;
	snprintf(arg, 512, "%s", row->request);
	return 0;
}

static void test_request_names_its_context(void **state)
{
	static struct outcome o;
	struct execution_params p = fake_execution();
	char request[512] = "";
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	p.async = true;
	p.id = "one";
	p.context = STR("work");
	p.language = STR("shell");
	p.argv = true;
	p.code = (struct str){ "echo\0a", 7 };
	run_params(session, &o, &p);
	assert_int_equal(
		store_execution_get(fake.store, the_box()->sid, "one", keep_request, request, &e),
		1);
	assert_non_null(strstr(request, "\"context\":\"work\""));
	assert_non_null(strstr(request, "\"language\":\"shell\""));
	assert_non_null(strstr(request, "\"argv\":true"));
	assert_non_null(strstr(request, "\"code\":\"echo\\u0000a\\u0000\""));
}

/* Whatever an agent calls its kernels. */
static void test_lying_labels(void **state)
{
	static const char long_name[] =
		"nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn\npython";
	static const struct str labels[] = {
		{ "", 0 },
		{ "work", 4 },
		{ "\npython", 7 },
		{ "work\n", 5 },
		{ "work\ncobol", 10 },
		{ "work\nterminal", 13 },
		{ "a/b\npython", 10 },
		{ "a\0b\npython", 10 },
		{ "work\npython\n", 12 },
		{ "work\npython\0", 12 },
		{ "%n%s\npython", 11 },
		{ "default\npython", 14 },
		{ long_name, sizeof(long_name) - 1 },
	};
	struct status s = status_new();
	int count = 0;

	(void)state;
	adopt_session();
	add_kernel(&s, 0, AGENT_KERNEL_IDLE, STR("whatever"));
	for (uint32_t i = 0; i < ARRAY_LEN(labels); i++)
		add_kernel(&s, i + 1, AGENT_KERNEL_IDLE, labels[i]);
	add_kernel(&s, 14, AGENT_KERNEL_IDLE, STR("good\nshell"));
	add_kernel(&s, 15, AGENT_KERNEL_IDLE, STR("good\nshell"));
	say_status(&s);
	context_each(session, count_one, &count);
	assert_int_equal(count, 2);
	assert_string_equal(info("default").state, "idle");
	assert_string_equal(info("good").language, "shell");
	/* All others are ended, and their numbers are free after that. */
	assert_int_equal(heard_count(AGENT_KERNEL_END), ARRAY_LEN(labels) + 1);
	for (uint32_t i = 1; i <= ARRAY_LEN(labels); i++)
		say_kernel_n(i, AGENT_KERNEL_NONE, AGENT_DEATH_KILLED);
	answer_memory(ERR_NONE);
	settle();
	fake.asked[0] = '\0';
	info("new");
	come_up(1);
}

/* What an agent says of itself counts once. */
static void test_second_status(void **state)
{
	static struct outcome o;
	struct status s = status_new();

	(void)state;
	open_session();
	run_in(&o, "", "", 0);
	assert_started(1);
	add_kernel(&s, 0, AGENT_KERNEL_IDLE, STR("default\npython"));
	add_kernel(&s, 3, AGENT_KERNEL_IDLE, STR("more\npython"));
	say_status(&s);
	run_in(&o, "", "", 0);
	assert_started(1);
	int count = 0;

	context_each(session, count_one, &count);
	assert_int_equal(count, 1);
	/* Nor do kernels that nobody started. */
	say_kernel_n(9, AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	say_kernel_n(9, AGENT_KERNEL_NONE, AGENT_DEATH_EXIT);
	assert_started(1);
	assert_asked("");
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, fake_setup, fake_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_kernels_have_labels),
		TEST(test_names_and_languages),
		TEST(test_context_of_a_language),
		TEST(test_contexts_max),
		TEST(test_side_by_side),
		TEST(test_queue_limits_are_the_sessions),
		TEST(test_kernel_death_is_its_contexts_own),
		TEST(test_kernel_that_does_not_start),
		TEST(test_alone_waits_for_what_runs),
		TEST(test_two_alone),
		TEST(test_refused_limit_is_its_own),
		TEST(test_alone_and_kernels),
		TEST(test_alone_beside_a_dead_kernel),
		TEST(test_alone_that_leaves),
		TEST(test_delete),
		TEST(test_default_is_not_deleted),
		TEST(test_delete_and_make_again),
		TEST(test_all_numbers_taken),
		TEST(test_delete_while_it_starts),
		TEST(test_restart),
		TEST(test_result_of_a_deleted_context),
		TEST(test_session_ends_with_its_contexts),
		TEST(test_running_is_use),
		TEST(test_adopted_contexts),
		TEST(test_adopted_beside_an_execution),
		TEST(test_adopted_queue),
		TEST(test_request_names_its_context),
		TEST(test_lying_labels),
		TEST(test_second_status),
	};

	return cmocka_run_group_tests_name("pool_contexts", tests, NULL, NULL);
}
