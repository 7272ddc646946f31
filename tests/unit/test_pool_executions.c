/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Executions against a backend and an agent that say what the test says, in the worst order: memory
 * limits of single executions, names of refused calls, results that come twice.
 */
#include "arm/arm.h"
#include "base/list.h"
#include "base/log.h"
#include "base/own.h"
#include "base/wire.h"
#include "loop/loop.h"
#include "pool/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define SUB         "00000000-0000-0000-0000-000000000000"
#define GROUP       "/subscriptions/" SUB "/resourceGroups/g"
#define POOL        GROUP "/providers/Microsoft.App/sessionPools/pool1"
#define KEY         "/subscriptions/" SUB "/resourcegroups/g/providers/microsoft.app/sessionpools/pool1"
#define IMAGE       "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define ADOPTED_SID "00000000000000000000000000000001"
#define MIB         (1u << 20)
#define CALLS_MAX   32

static char dir[64];
static struct store *store;
static struct arm *arm;
static struct pools *pools;
static struct session *session;
static int names_wait_ms;

/* --- the backend: one sandbox --- */

static int agent_fd; /* the agent's end of the link */
static const char *listed;
static bool hold_kernel; /* the agent is told to start one and says nothing */
static char asked[1024]; /* "memory 64, kernel, refused, " in the order of the calls */

static struct memory_call {
	backend_done_fn done;
	void *arg;
} memory_calls[CALLS_MAX];
static size_t memory_count, memory_answered;

static struct refused_call {
	backend_refused_fn done;
	void *arg;
} refused_calls[CALLS_MAX];
static size_t refused_count, refused_answered;

struct later {
	backend_done_fn done;
	backend_kernel_fn kernel;
	backend_list_fn list;
	backend_network_fn network;
	void *arg;
};

static void note(const char *what)
{
	size_t have = strlen(asked);

	snprintf(asked + have, sizeof(asked) - have, "%s, ", what);
}

#define assert_asked(what)                                                                         \
	do {                                                                                       \
		assert_string_equal(asked, what);                                                  \
		asked[0] = '\0';                                                                   \
	} while (0)

static void say_kernel(enum agent_kernel_state state, enum agent_death death);

static void answer_later(void *arg)
{
	struct later *l = arg;
	struct err none = ERR_INIT;

	if (l->done)
		l->done(l->arg, &none);
	if (l->list)
		l->list(l->arg, &listed, listed ? 1 : 0, &none);
	if (l->network)
		l->network(l->arg, 0, &none);
	if (l->kernel) {
		l->kernel(l->arg, open("/dev/null", O_RDWR | O_CLOEXEC), &none);
		if (!hold_kernel)
			say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	}
	free(l);
}

static void later(struct later l)
{
	struct later *copy = malloc(sizeof(*copy));

	*copy = l;
	assert_int_equal(loop_later(answer_later, copy), 0);
}

static void fake_load_image(struct backend *b, const char *image, backend_done_fn done, void *arg)
{
	(void)b;
	(void)image;
	later((struct later){ .done = done, .arg = arg });
}

static void fake_create(struct backend *b, const struct sandbox_spec *spec, backend_done_fn done,
			void *arg)
{
	(void)b;
	(void)spec;
	later((struct later){ .done = done, .arg = arg });
}

static void fake_start_kernel(struct backend *b, const char *sid, const char *language,
			      backend_kernel_fn done, void *arg)
{
	(void)b;
	(void)sid;
	assert_string_equal(language, "");
	note("kernel");
	later((struct later){ .kernel = done, .arg = arg });
}

static void fake_destroy(struct backend *b, const char *sid, backend_done_fn done, void *arg)
{
	(void)b;
	(void)sid;
	later((struct later){ .done = done, .arg = arg });
}

static void fake_list(struct backend *b, backend_list_fn done, void *arg)
{
	(void)b;
	later((struct later){ .list = done, .arg = arg });
}

static void fake_memory(struct backend *b, const char *sid, uint64_t bytes, backend_done_fn done,
			void *arg)
{
	OWNED_MEM char *what = str_printf("memory %u", (unsigned)(bytes / MIB));

	(void)b;
	(void)sid;
	assert_true(memory_count < CALLS_MAX);
	note(what);
	memory_calls[memory_count++] = (struct memory_call){ done, arg };
}

/* The adopted one is cut off, whatever it was before. */
static void fake_network(struct backend *b, const char *sid, bool on, backend_network_fn done,
			 void *arg)
{
	(void)b;
	(void)sid;
	assert_false(on);
	later((struct later){ .network = done, .arg = arg });
}

static void fake_refused(struct backend *b, const char *sid, int64_t since_ns,
			 backend_refused_fn done, void *arg)
{
	(void)b;
	(void)sid;
	(void)since_ns;
	assert_true(refused_count < CALLS_MAX);
	note("refused");
	refused_calls[refused_count++] = (struct refused_call){ done, arg };
}

static int fake_connect(struct backend *b, const char *sid, struct err *e)
{
	int pair[2];

	(void)b;
	(void)sid;
	(void)e;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	assert_int_equal(agent_fd, -1);
	agent_fd = pair[1];
	return pair[0];
}

static const struct backend_ops fake_ops = {
	.name = "fake",
	.load_image = fake_load_image,
	.create = fake_create,
	.start_kernel = fake_start_kernel,
	.destroy = fake_destroy,
	.list = fake_list,
	.memory = fake_memory,
	.network = fake_network,
	.refused = fake_refused,
	.connect = fake_connect,
};
static struct backend backend = { .ops = &fake_ops };

static void answer_memory(enum err_code code)
{
	struct err e = ERR_INIT;

	assert_true(memory_answered < memory_count);
	struct memory_call c = memory_calls[memory_answered++];

	if (code != ERR_NONE)
		err_set(&e, code, "no such luck");
	c.done(c.arg, &e);
}

static void answer_refused(const char *name)
{
	struct err none = ERR_INIT;

	assert_true(refused_answered < refused_count);
	struct refused_call c = refused_calls[refused_answered++];

	c.done(c.arg, &name, name ? 1 : 0, &none);
}

/* --- the agent --- */

static struct buf heard;
static size_t exec_count, ack_count;
static uint64_t exec_op; /* of the last one */

static void add_frame(struct buf *b, enum agent_msg type, uint64_t op, struct str payload)
{
	wire_put_u32(b, (uint32_t)payload.len);
	wire_put_u8(b, AGENT_PROTO_VERSION);
	wire_put_u8(b, (uint8_t)type);
	wire_put_u16(b, 0);
	wire_put_u64(b, op);
	buf_add_str(b, payload);
}

static void say(struct buf *frames)
{
	assert_true(buf_ok(frames));
	assert_int_equal(send(agent_fd, frames->ptr, frames->len, MSG_NOSIGNAL), frames->len);
	buf_done(frames);
}

static void say_kernel(enum agent_kernel_state state, enum agent_death death)
{
	char payload[10] = { 0, 0, 0, 0, (char)state, (char)death };
	struct buf b;

	buf_init(&b, 256);
	add_frame(&b, AGENT_KERNEL_STATE, 0, (struct str){ payload, sizeof(payload) });
	say(&b);
}

static void say_status(enum agent_kernel_state state, uint64_t running)
{
	struct buf payload, b;

	buf_init(&payload, 256);
	buf_init(&b, 256);
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
	add_frame(&b, AGENT_STATUS, 0, buf_str(&payload));
	buf_done(&payload);
	say(&b);
}

static void add_done(struct buf *b, uint64_t op, enum agent_exec_status status,
		     enum agent_kernel_state kernel, const char *text)
{
	struct buf payload;

	buf_init(&payload, 4096);
	wire_put_u8(&payload, (uint8_t)status);
	wire_put_u8(&payload, (uint8_t)kernel);
	for (int i = 0; i < 3; i++)
		wire_put_u64(&payload, 0);
	wire_put_u8(&payload, KERNEL_VALUE_NONE);
	wire_put_blob(&payload, STR(""));
	wire_put_blob(&payload, STR("out"));
	wire_put_blob(&payload, str_from(text));
	for (int i = 0; i < 3; i++)
		wire_put_blob(&payload, STR("word"));
	wire_put_u32(&payload, 0);
	add_frame(b, AGENT_EXEC_DONE, op, buf_str(&payload));
	buf_done(&payload);
}

static void say_done(uint64_t op, enum agent_exec_status status, enum agent_kernel_state kernel,
		     const char *text)
{
	struct buf b;

	buf_init(&b, 4096);
	add_done(&b, op, status, kernel, text);
	say(&b);
}

static void hear(void)
{
	size_t at = 0;
	ssize_t n = 1;

	while (agent_fd >= 0 && n > 0 && buf_reserve(&heard, 4096)) {
		n = recv(agent_fd, heard.ptr + heard.len, 4096, MSG_DONTWAIT);
		if (n > 0)
			heard.len += (size_t)n;
	}
	while (heard.len - at >= AGENT_HEADER_SIZE) {
		struct wire_reader r = wire_reader(heard.ptr + at, AGENT_HEADER_SIZE);
		uint32_t len = wire_get_u32(&r);

		wire_get_u8(&r);
		uint8_t type = wire_get_u8(&r);

		wire_get_u16(&r);
		uint64_t op = wire_get_u64(&r);

		if (heard.len - at - AGENT_HEADER_SIZE < len)
			break;
		at += AGENT_HEADER_SIZE + len;
		ack_count += type == AGENT_EXEC_ACK;
		if (type == AGENT_EXEC) {
			exec_count++;
			exec_op = op;
		}
	}
	buf_consume(&heard, at);
}

/* --- the loop --- */

static struct loop_timer *poller;
static bool (*until)(void);
static int polls;

static void poll_until(void *arg)
{
	(void)arg;
	hear();
	if (until() || ++polls > 10000)
		loop_stop();
	else
		loop_timer_start(poller, 1);
}

static void run_until(bool (*condition)(void))
{
	until = condition;
	polls = 0;
	loop_timer_start(poller, 0);
	loop_run();
	assert_true(condition());
}

static int turns;

static bool turned(void)
{
	return ++turns > 20;
}

/* Everything that happens without an answer of ours has happened, but for what waits longer. */
static void settle(void)
{
	turns = 0;
	run_until(turned);
}

/* --- executions --- */

struct outcome {
	struct execution *x; /* until it is done */
	int calls;
	enum err_code code;
	enum agent_exec_status status;
	char text[512]; /* of stderr, or of the error */
};

static void executed(void *arg, struct execution *x, const struct err *e)
{
	struct outcome *o = arg;

	o->x = NULL;
	o->calls++;
	if (e) {
		o->code = e->code;
		snprintf(o->text, sizeof(o->text), "%s", e->msg);
		return;
	}
	assert_int_equal(x->state, EXECUTION_FINISHED);
	o->status = x->result.status;
	snprintf(o->text, sizeof(o->text), "%s", x->result.err.ptr);
}

static void run(struct outcome *o, unsigned memory_mib)
{
	struct err e = ERR_INIT;
	struct execution_params p = {
		.code = STR("1"),
		.execution_type = "Synchronous",
		.output_max = 4096,
		.memory_bytes = (uint64_t)memory_mib * MIB,
	};

	*o = (struct outcome){ 0 };
	o->x = session_execute(session, &p, executed, o, &e);
	if (!o->x)
		fail_msg("%s", e.msg);
}

/* The agent has heard of that many. */
static void assert_started(size_t count)
{
	settle();
	assert_int_equal(exec_count, count);
}

static void assert_outcome(const struct outcome *o, enum agent_exec_status status, const char *text)
{
	assert_int_equal(o->calls, 1);
	assert_int_equal(o->code, ERR_NONE);
	assert_int_equal(o->status, status);
	if (!strstr(o->text, text))
		fail_msg("no '%s' in: %s", text, o->text);
}

static void assert_failed(const struct outcome *o, enum err_code code)
{
	assert_int_equal(o->calls, 1);
	assert_int_equal(o->code, code);
}

/* --- the pool --- */

static const struct runtime *runtime_of(const char *container_type, void *arg)
{
	static const struct runtime runtime = {
		.name = "python",
		.container_type = "PythonLTS",
		.id = IMAGE,
		.languages = { "python", "shell" },
		.language_count = 2,
	};

	(void)container_type;
	(void)arg;
	return &runtime;
}

static void on_change(const char *key, bool deleted, void *arg)
{
	(void)arg;
	pools_document(pools, key, deleted);
}

static void on_ready(void *arg, const struct err *e)
{
	(void)arg;
	(void)e;
}

static void start(void)
{
	struct err e = ERR_INIT;
	struct pools_config config = {
		.store = store,
		.backend = &backend,
		.runtime_of = runtime_of,
		.contexts_max = 4,
		.terminals_max = 2,
		.starting_max = 20,
		.result_max = 1 << 20,
		.executions_kept = 4,
		.queued_code_max = 1 << 20,
		.results_kept_max = 1 << 20,
		.names_wait_ms = names_wait_ms,
	};

	assert_int_equal(pools_new(&config, &pools, &e), 0);
	arm_on_change(arm, "Microsoft.App/sessionPools", on_change, NULL);
	if (arm_put_internal(arm, POOL,
			     "{\"location\":\"local\",\"properties\":{\"containerType\":"
			     "\"PythonLTS\",\"scaleConfiguration\":{\"maxConcurrentSessions\":1,"
			     "\"readySessionInstances\":0}}}",
			     "2025-07-01", &e) < 0)
		fail_msg("%s", e.msg);
	pools_start(pools, on_ready, NULL);
	settle();
}

/* A session with an idle kernel. */
static void open_session(void)
{
	struct err e = ERR_INIT;

	start();
	session = session_open(pool_find(pools, STR(KEY)), STR("ann-1"), &e);
	if (!session)
		fail_msg("%s", e.msg);
	settle();
	assert_asked("kernel, ");
}

/* A session that an earlier daemon left; its agent has said nothing yet. */
static void adopt_session(void)
{
	struct err e = ERR_INIT;
	struct store_session row = { .sid = ADOPTED_SID,
				     .pool_key = KEY,
				     .identifier = "ann-1",
				     .guid = "11111111-1111-4111-8111-111111111111",
				     .image = IMAGE,
				     .created_us = INT64_MAX / 2,
				     .accessed_us = INT64_MAX / 2 };

	assert_int_equal(store_session_put(store, &row, &e), 0);
	listed = ADOPTED_SID;
	start();
	session = session_find(pool_find(pools, STR(KEY)), STR("ann-1"));
	assert_non_null(session);
	assert_asked("");
}

static int setup(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	log_init("test", LOG_ERROR);
	snprintf(dir, sizeof(dir), "/tmp/bivouac-poolexec-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(loop_init(&e), 0);
	assert_int_equal(store_open(dir, &store, &e), 0);
	struct arm_config config = { store, SUB, "local", "Local", NULL };

	assert_int_equal(arm_new(&config, &arm, &e), 0);
	assert_int_equal(arm_put_internal(arm, GROUP, "{\"location\":\"local\"}", "2021-04-01", &e),
			 0);
	poller = loop_timer_new(poll_until, NULL);
	buf_init(&heard, 1 << 20);
	memory_count = memory_answered = refused_count = refused_answered = 0;
	exec_count = ack_count = 0;
	exec_op = 0;
	agent_fd = -1;
	asked[0] = '\0';
	listed = NULL;
	hold_kernel = false;
	names_wait_ms = 3600 * 1000;
	return 0;
}

static bool drained_now;

static void on_drained(void *arg)
{
	(void)arg;
	drained_now = true;
}

static bool is_drained(void)
{
	return drained_now;
}

static int teardown(void **state)
{
	OWNED_MEM char *command = str_printf("rm -rf %s", dir);

	(void)state;
	drained_now = false;
	pools_drain(pools, on_drained, NULL);
	while (memory_answered < memory_count)
		answer_memory(ERR_UNAVAILABLE);
	while (refused_answered < refused_count)
		answer_refused(NULL);
	run_until(is_drained);
	settle();
	close(agent_fd);
	buf_done(&heard);
	pools_free(pools);
	arm_free(arm);
	store_close(store);
	loop_timer_free(poller);
	loop_done();
	return system(command);
}

/* --- names of refused calls --- */

static void test_names_are_added(void **state)
{
	static struct outcome o;

	(void)state;
	open_session();
	run(&o, 0);
	assert_started(1);
	say_done(exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
	settle();
	assert_asked("refused, ");
	assert_int_equal(o.calls, 0);
	answer_refused("bpf");
	assert_outcome(&o, AGENT_RESULT_ERROR, "bpf()");
	settle();
	assert_int_equal(ack_count, 1);
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
		say_done(exec_op, cases[i].status, AGENT_KERNEL_IDLE, cases[i].text);
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
	add_done(&b, exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "first");
	add_done(&b, exec_op, AGENT_RESULT_NOT_RUN, AGENT_KERNEL_NONE, "second");
	add_done(&b, exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "third");
	say(&b);
	say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	assert_started(1);
	assert_asked("refused, ");
	assert_int_equal(o.calls, 0);
	answer_refused("bpf");
	assert_outcome(&o, AGENT_RESULT_ERROR, "first");
	say_done(exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "fourth");
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
	add_done(&b, exec_op, AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	add_done(&b, exec_op, AGENT_RESULT_NOT_RUN, AGENT_KERNEL_NONE, "second");
	add_done(&b, exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "third");
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
	say_done(exec_op, AGENT_RESULT_NOT_RUN, AGENT_KERNEL_NONE, "");
	say_kernel(AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
	assert_started(2);
	say_done(exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
	settle();
	answer_refused(NULL);
	assert_outcome(&o, AGENT_RESULT_ERROR, "bang");
}

static struct outcome waited;

static bool has_outcome(void)
{
	return waited.calls > 0;
}

static void test_silent_jailer(void **state)
{
	static struct outcome o;

	(void)state;
	names_wait_ms = 1;
	open_session();
	run(&waited, 0);
	assert_started(1);
	say_done(exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
	run_until(has_outcome);
	assert_outcome(&waited, AGENT_RESULT_ERROR, "bang");
	assert_asked("refused, ");
	/* It is not asked again before it has answered. */
	run(&o, 0);
	assert_started(2);
	say_done(exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "again");
	settle();
	assert_outcome(&o, AGENT_RESULT_ERROR, "again");
	assert_asked("");
	/* The answer that comes at last is nobody's. */
	run(&o, 0);
	assert_started(3);
	answer_refused("bpf");
	settle();
	assert_int_equal(o.calls, 0);
	say_done(exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "third");
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
	say_done(exec_op, AGENT_RESULT_ERROR, AGENT_KERNEL_IDLE, "bang");
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
	say_done(exec_op, AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
	settle();
	assert_asked("memory 0, ");
	assert_int_equal(exec_count, 1);
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
	say_done(exec_op, AGENT_RESULT_OK, AGENT_KERNEL_IDLE, "");
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
	execution_detach(a.x);
	answer_memory(ERR_CONFLICT);
	assert_asked("memory 64, memory 128, ");
	execution_detach(b.x);
	answer_memory(ERR_CONFLICT);
	assert_started(1);
	assert_asked("");
	assert_int_equal(a.calls + b.calls + c.calls, 0);
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
	hold_kernel = true;
}

static bool asked_for_a_kernel(void)
{
	return strstr(asked, "kernel") != NULL;
}

static void test_memory_is_back_before_the_kernel(void **state)
{
	static struct outcome o;

	(void)state;
	start_with_limit(&o);
	say_done(exec_op, AGENT_RESULT_OOM, AGENT_KERNEL_NONE, "");
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
	say_done(exec_op, AGENT_RESULT_KERNEL_DIED, AGENT_KERNEL_NONE, "");
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
	say_done(exec_op, AGENT_RESULT_OOM, AGENT_KERNEL_NONE, "");
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
	hold_kernel = true;
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
	hold_kernel = true;
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
	assert_int_equal(exec_count, 0);
	answer_memory(ERR_NONE);
	assert_started(1);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
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
