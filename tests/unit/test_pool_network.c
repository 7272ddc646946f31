/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The pool controller against a backend whose answers the test gives: which sandboxes are connected
 * and cut, in what order, and whose the flow records are.
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

#include <arpa/inet.h>
#include <cmocka.h>
#include <fcntl.h>
#include <jansson.h>
#include <netinet/in.h>
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
#define CALLS_MAX   256
#define BOXES_MAX   64

/* --- the backend --- */

static struct box {
	char sid[33];
	int agent_fd; /* the agent's end of the link */
	bool destroyed;
} boxes[BOXES_MAX];
static size_t box_count;

static struct network_call {
	char sid[33];
	bool on;
	bool answered;
	backend_network_fn done;
	void *arg;
} calls[CALLS_MAX];
static size_t call_count;

static const char *listed; /* the sandbox that an earlier daemon left */
static bool hold_creates;
static backend_done_fn held_done;
static void *held_arg;

static char dir[64];
static struct store *store;
static struct arm *arm;
static struct pools *pools;
static char lines[16384];
static size_t line_count;

struct later {
	backend_done_fn done;
	backend_kernel_fn kernel;
	backend_list_fn list;
	void *arg;
	struct box *box;
};

static struct box *box_of(const char *sid)
{
	for (size_t i = 0; i < box_count; i++)
		if (strcmp(boxes[i].sid, sid) == 0)
			return &boxes[i];
	fail_msg("no sandbox %s", sid);
	return NULL;
}

/* "The kernel is idle", as the agent says it. */
static void say_idle(struct box *b)
{
	struct buf frame;

	buf_init(&frame, 64);
	wire_put_u32(&frame, 10);
	wire_put_u8(&frame, AGENT_PROTO_VERSION);
	wire_put_u8(&frame, AGENT_KERNEL_STATE);
	wire_put_u16(&frame, 0);
	wire_put_u64(&frame, 0);
	wire_put_u32(&frame, 0);
	wire_put_u8(&frame, AGENT_KERNEL_IDLE);
	wire_put_u8(&frame, AGENT_DEATH_NONE);
	wire_put_u32(&frame, 0);
	/* A sandbox that was destroyed meanwhile has nobody at the other end. */
	ssize_t n = send(b->agent_fd, frame.ptr, frame.len, MSG_NOSIGNAL);

	assert_true(n == (ssize_t)frame.len || b->destroyed);
	buf_done(&frame);
}

static void answer_later(void *arg)
{
	struct later *l = arg;
	struct err none = ERR_INIT;

	if (l->done)
		l->done(l->arg, &none);
	if (l->list)
		l->list(l->arg, &listed, listed ? 1 : 0, &none);
	if (l->kernel) {
		l->kernel(l->arg, open("/dev/null", O_RDWR | O_CLOEXEC), &none);
		say_idle(l->box);
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

static struct box *add_box(const char *sid)
{
	assert_true(box_count < BOXES_MAX);
	struct box *box = &boxes[box_count++];

	*box = (struct box){ .agent_fd = -1 };
	snprintf(box->sid, sizeof(box->sid), "%s", sid);
	return box;
}

static void fake_create(struct backend *b, const struct sandbox_spec *spec, backend_done_fn done,
			void *arg)
{
	(void)b;
	add_box(spec->sid);
	if (hold_creates) {
		held_done = done;
		held_arg = arg;
	} else {
		later((struct later){ .done = done, .arg = arg });
	}
}

static void fake_start_kernel(struct backend *b, const char *sid, const char *language,
			      backend_kernel_fn done, void *arg)
{
	(void)b;
	assert_string_equal(language, "");
	later((struct later){ .kernel = done, .arg = arg, .box = box_of(sid) });
}

static void fake_destroy(struct backend *b, const char *sid, backend_done_fn done, void *arg)
{
	struct box *box = box_of(sid);

	(void)b;
	box->destroyed = true;
	later((struct later){ .done = done, .arg = arg });
}

static void fake_list(struct backend *b, backend_list_fn done, void *arg)
{
	(void)b;
	later((struct later){ .list = done, .arg = arg });
}

static void fake_network(struct backend *b, const char *sid, bool on, backend_network_fn done,
			 void *arg)
{
	(void)b;
	assert_true(call_count < CALLS_MAX);
	struct network_call *c = &calls[call_count++];

	*c = (struct network_call){ .on = on, .done = done, .arg = arg };
	snprintf(c->sid, sizeof(c->sid), "%s", sid);
}

static int fake_connect(struct backend *b, const char *sid, struct err *e)
{
	int pair[2];

	(void)b;
	(void)e;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	box_of(sid)->agent_fd = pair[1];
	return pair[0];
}

static const struct backend_ops fake_ops = {
	.name = "fake",
	.load_image = fake_load_image,
	.create = fake_create,
	.start_kernel = fake_start_kernel,
	.destroy = fake_destroy,
	.list = fake_list,
	.network = fake_network,
	.connect = fake_connect,
};
static struct backend backend = { .ops = &fake_ops };

/* Address of the n-th call's sandbox: the same each time it is connected. */
static uint32_t address_of(const char *sid)
{
	return 0xc6120000u + 1 + (uint32_t)(box_of(sid) - boxes);
}

static void answer(size_t n, enum err_code code)
{
	struct err e = ERR_INIT;
	struct network_call *c = &calls[n];

	assert_true(n < call_count && !c->answered);
	if (code != ERR_NONE)
		err_set(&e, code, "no such luck");
	c->answered = true;
	c->done(c->arg, c->on && code == ERR_NONE ? address_of(c->sid) : 0, &e);
}

/* --- the loop --- */

static struct loop_timer *poller;
static bool (*until)(void);
static int polls;

static void poll_until(void *arg)
{
	(void)arg;
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
	return ++turns > 60;
}

/* Everything that happens without an answer of ours has happened; longer than any pause that the
 * controller makes before refilling. */
static void settle(void)
{
	turns = 0;
	run_until(turned);
}

static size_t wanted_calls;

static bool enough_calls(void)
{
	return call_count >= wanted_calls;
}

static void run_until_calls(size_t count)
{
	wanted_calls = count;
	run_until(enough_calls);
	assert_int_equal(call_count, count);
}

static size_t wanted_ready;

static bool enough_ready(void)
{
	return pool_counts(pool_find(pools, STR(KEY))).ready == wanted_ready;
}

static void run_until_ready(size_t count)
{
	wanted_ready = count;
	run_until(enough_ready);
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

static void keep_line(const char *json, size_t len)
{
	size_t have = strlen(lines);

	line_count++;
	snprintf(lines + have, sizeof(lines) - have, "%.*s\n", (int)len, json);
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

static void put_pool(bool egress, int ready)
{
	struct err e = ERR_INIT;
	OWNED_MEM char *body = str_printf(
		"{\"location\":\"local\",\"properties\":{\"containerType\":\"PythonLTS\","
		"\"scaleConfiguration\":{\"maxConcurrentSessions\":40,\"readySessionInstances\":%d},"
		"\"sessionNetworkConfiguration\":{\"status\":\"%s\"}}}",
		ready, egress ? "EgressEnabled" : "EgressDisabled");

	if (arm_put_internal(arm, POOL, body, "2025-07-01", &e) < 0)
		fail_msg("%s", e.msg);
}

static void start(bool egress, int ready)
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
		.egress = true,
		.flow_line = keep_line,
	};

	assert_int_equal(pools_new(&config, &pools, &e), 0);
	arm_on_change(arm, "Microsoft.App/sessionPools", on_change, NULL);
	put_pool(egress, ready);
	pools_start(pools, on_ready, NULL);
}

static struct session *open_session(const char *identifier)
{
	struct err e = ERR_INIT;
	struct session *s = session_open(pool_find(pools, STR(KEY)), str_from(identifier), &e);

	if (!s)
		fail_msg("%s", e.msg);
	return s;
}

static bool has_session(const char *identifier)
{
	return session_find(pool_find(pools, STR(KEY)), str_from(identifier)) != NULL;
}

static int setup(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	log_init("test", LOG_ERROR);
	snprintf(dir, sizeof(dir), "/tmp/bivouac-poolnet-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(loop_init(&e), 0);
	assert_int_equal(store_open(dir, &store, &e), 0);
	struct arm_config config = { store, SUB, "local", "Local", NULL };

	assert_int_equal(arm_new(&config, &arm, &e), 0);
	assert_int_equal(arm_put_internal(arm, GROUP, "{\"location\":\"local\"}", "2021-04-01", &e),
			 0);
	poller = loop_timer_new(poll_until, NULL);
	box_count = call_count = line_count = 0;
	lines[0] = '\0';
	listed = NULL;
	hold_creates = false;
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
	for (size_t i = 0; i < call_count; i++)
		if (!calls[i].answered)
			answer(i, ERR_UNAVAILABLE);
	run_until(is_drained);
	settle();
	for (size_t i = 0; i < box_count; i++)
		if (boxes[i].agent_fd >= 0)
			close(boxes[i].agent_fd);
	pools_free(pools);
	arm_free(arm);
	store_close(store);
	loop_timer_free(poller);
	loop_done();
	return system(command);
}

/* --- tests --- */

static void test_disabled_makes_no_call(void **state)
{
	(void)state;
	start(false, 2);
	run_until_ready(2);
	open_session("ann-1");
	run_until_ready(2);
	pools_backend_restarted(pools);
	settle();
	assert_int_equal(call_count, 0);
}

static void test_connected_before_ready(void **state)
{
	(void)state;
	start(true, 1);
	run_until_calls(1);
	settle();
	assert_true(calls[0].on);
	assert_int_equal(pool_counts(pool_find(pools, STR(KEY))).ready, 0);
	open_session("ann-1");
	answer(0, ERR_NONE);
	run_until_calls(2); /* the next one of the stock; the session needs no more */
	assert_string_not_equal(calls[0].sid, calls[1].sid);
	answer(1, ERR_NONE);
	run_until_ready(1);
	settle();
	assert_int_equal(call_count, 2);
}

static void test_unconnected_is_not_given_out(void **state)
{
	(void)state;
	start(true, 0);
	settle();
	open_session("ann-1");
	for (size_t i = 0; i < 5; i++) {
		run_until_calls(i + 1);
		assert_true(has_session("ann-1"));
		answer(i, ERR_SYSTEM);
		assert_true(box_of(calls[i].sid)->destroyed);
	}
	/* Who waits hears of it, like of any sandbox that does not come up. */
	assert_false(has_session("ann-1"));
}

static void test_switch_of_a_live_session(void **state)
{
	(void)state;
	start(false, 0);
	settle();
	struct session *s = open_session("ann-1");

	settle();
	put_pool(true, 0);
	assert_int_equal(call_count, 1);
	assert_true(calls[0].on);
	/* The last wish wins: what is under way is waited for, and then put right. */
	put_pool(false, 0);
	put_pool(true, 0);
	put_pool(false, 0);
	assert_int_equal(call_count, 1);
	answer(0, ERR_NONE);
	assert_int_equal(call_count, 2);
	assert_false(calls[1].on);
	put_pool(true, 0);
	put_pool(false, 0);
	answer(1, ERR_NONE);
	settle();
	assert_int_equal(call_count, 2);
	put_pool(true, 0);
	answer(2, ERR_NONE);
	settle();
	assert_int_equal(call_count, 3);
	assert_ptr_equal(session_find(pool_find(pools, STR(KEY)), STR("ann-1")), s);
	assert_false(box_of(calls[0].sid)->destroyed);
}

static void test_switch_while_made(void **state)
{
	(void)state;
	start(true, 1);
	run_until_calls(1);
	put_pool(false, 1);
	assert_true(box_of(calls[0].sid)->destroyed);
	answer(0, ERR_NONE); /* too late: it is gone */
	run_until_ready(1);
	assert_int_equal(call_count, 1);
	/* And while CREATE is under way, the other way round. */
	hold_creates = true;
	put_pool(false, 2);
	settle();
	assert_non_null(held_done);
	put_pool(true, 2);
	hold_creates = false;
	held_done(held_arg, &(struct err){ 0 });
	settle();
	for (size_t i = 1; i < call_count; i++) {
		assert_true(calls[i].on);
		assert_false(box_of(calls[i].sid)->destroyed);
		answer(i, ERR_NONE);
	}
	run_until_ready(2);
	/* Nothing that was connected is left when it is off again. */
	put_pool(false, 2);
	for (size_t i = 0; i < call_count; i++)
		assert_true(box_of(calls[i].sid)->destroyed);
}

static void test_failed_connect_is_tried_again(void **state)
{
	(void)state;
	start(false, 0);
	settle();
	open_session("ann-1");
	settle();
	put_pool(true, 0);
	answer(0, ERR_SYSTEM);
	run_until_calls(2);
	assert_true(calls[1].on);
	answer(1, ERR_UNAVAILABLE);
	/* A change of mind does not wait for the pause. */
	put_pool(false, 0);
	assert_int_equal(call_count, 3);
	assert_false(calls[2].on);
	answer(2, ERR_NONE);
	settle();
	assert_int_equal(call_count, 3);
	assert_true(has_session("ann-1"));
}

static void test_uncuttable_session_ends(void **state)
{
	(void)state;
	start(true, 0);
	settle();
	open_session("ann-1");
	run_until_calls(1);
	answer(0, ERR_NONE);
	settle();
	put_pool(false, 0);
	for (size_t i = 1; i <= 5; i++) {
		run_until_calls(i + 1);
		assert_false(calls[i].on);
		assert_true(has_session("ann-1"));
		answer(i, ERR_SYSTEM);
	}
	assert_false(has_session("ann-1"));
	assert_true(box_of(calls[0].sid)->destroyed);
}

/* Connects that failed before do not count against the cut, nor hide its failures. */
static void test_uncuttable_after_failed_connects(void **state)
{
	(void)state;
	start(false, 0);
	settle();
	open_session("ann-1");
	settle();
	put_pool(true, 0);
	for (size_t i = 0; i < 2; i++) {
		run_until_calls(i + 1);
		answer(i, ERR_SYSTEM);
	}
	put_pool(false, 0);
	for (size_t i = 2; i < 7; i++) {
		run_until_calls(i + 1);
		assert_false(calls[i].on);
		assert_true(has_session("ann-1"));
		answer(i, ERR_SYSTEM);
	}
	assert_false(has_session("ann-1"));
}

static bool session_is_asked_again(void)
{
	for (size_t i = 3; i < call_count; i++)
		if (strcmp(calls[i].sid, calls[0].sid) == 0)
			return calls[i].on;
	return false;
}

static void test_asked_again_after_a_restart(void **state)
{
	(void)state;
	start(true, 1);
	run_until_calls(1);
	answer(0, ERR_NONE);
	run_until_ready(1);
	open_session("ann-1");
	run_until_calls(2);
	answer(1, ERR_NONE);
	run_until_ready(1);
	pools_backend_restarted(pools);
	/* The ready one could be given out before it is connected again: it goes. */
	assert_true(box_of(calls[1].sid)->destroyed);
	assert_int_equal(call_count, 3);
	assert_true(calls[2].on);
	answer(2, ERR_SYSTEM);
	run_until(session_is_asked_again);
	assert_true(has_session("ann-1"));
	assert_true(box_of(calls[1].sid)->destroyed);
}

static void adopt(bool egress)
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
	add_box(ADOPTED_SID);
	start(egress, 0);
	run_until_calls(1);
	assert_string_equal(calls[0].sid, ADOPTED_SID);
	assert_int_equal(calls[0].on, egress);
	answer(0, ERR_NONE);
	settle();
	assert_int_equal(call_count, 1);
	assert_true(has_session("ann-1"));
}

static void test_adopted_is_connected(void **state)
{
	(void)state;
	adopt(true);
}

/* The daemon before us may have died between the document and the cut. */
static void test_adopted_is_cut(void **state)
{
	(void)state;
	adopt(false);
}

static void test_connects_take_turns_cuts_do_not(void **state)
{
	char name[16];

	(void)state;
	start(false, 0);
	settle();
	for (int i = 0; i < 12; i++) {
		snprintf(name, sizeof(name), "user-%d", i);
		open_session(name);
	}
	settle();
	put_pool(true, 0);
	assert_int_equal(call_count, 8);
	answer(0, ERR_NONE);
	answer(1, ERR_SYSTEM);
	assert_int_equal(call_count, 10);
	/* Two were not asked yet, one is done and one failed: the latter may be connected. */
	put_pool(false, 0);
	assert_int_equal(call_count, 12);
	assert_false(calls[10].on || calls[11].on);
	for (size_t i = 2; i < 10; i++)
		answer(i, ERR_NONE);
	assert_int_equal(call_count, 20);
	for (size_t i = 10; i < 20; i++) {
		assert_false(calls[i].on);
		answer(i, ERR_NONE);
	}
	settle();
	assert_int_equal(call_count, 20);
}

#define assert_line(part)                                                                          \
	do {                                                                                       \
		if (!strstr(lines, part))                                                          \
			fail_msg("no '%s' in: %s", part, lines);                                   \
		lines[0] = '\0';                                                                   \
	} while (0)

static struct flow_record record(enum flow_event event, uint32_t session)
{
	return (struct flow_record){
		.version = FLOW_PROTO_VERSION,
		.event = (uint16_t)event,
		.protocol = IPPROTO_TCP,
		.port = 443,
		.session = session,
		.address = 0x5db8d822, /* 93.184.216.34 */
	};
}

static void test_records_of_stock_and_session(void **state)
{
	(void)state;
	start(true, 1);
	run_until_calls(1);
	answer(0, ERR_NONE);
	run_until_ready(1);
	uint32_t address = address_of(calls[0].sid);
	struct flow_record r = record(FLOW_NEW, address);

	pools_flow(pools, &r);
	assert_line("\"event\":\"new\",\"session\":null,\"pool\":\"pool1\",\"poolId\":\"" KEY
		    "\",\"protocol\":\"tcp\",\"address\":\"93.184.216.34\",\"port\":443}");
	struct session *s = open_session("ann-secret");
	OWNED_MEM char *guid = str_printf("\"session\":\"%s\"", session_info(s).guid);

	pools_flow(pools, &r);
	assert_null(strstr(lines, "ann-secret"));
	assert_line(guid);
	r.event = FLOW_REFUSED;
	r.reason = FLOW_REASON_CONNECTIONS;
	pools_flow(pools, &r);
	assert_line("\"reason\":\"connections\"");
	r.reason = 99;
	pools_flow(pools, &r);
	assert_line("\"reason\":\"unknown\"");
	r = record(FLOW_DNS, address);
	r.address = 0;
	snprintf(r.name, sizeof(r.name), "a b\n\"x\\y\xff=.example");
	pools_flow(pools, &r);
	assert_line("\"name\":\"a\\\\x20b\\\\x0a\\\\x22x\\\\x5cy\\\\xff\\\\x3d.example\"");
	memset(r.name, 0xff, sizeof(r.name) - 1);
	pools_flow(pools, &r);
	assert_line("\\\\xff\\\\xff\\\\xff");
	/* The last ones of a session that is gone are still its own. */
	session_delete(s);
	r = record(FLOW_END, address);
	r.bytes_out = 10;
	r.bytes_in = UINT64_MAX;
	pools_flow(pools, &r);
	assert_non_null(strstr(lines, "\"bytesOut\":10,\"bytesIn\":9223372036854775807"));
	assert_line(guid);
	/* Its link lost its route before it lost its sandbox; nobody's address was taken. */
	lines[0] = '\0';
	r = record(FLOW_REFUSED, address);
	r.reason = FLOW_REASON_SPOOFED;
	pools_flow(pools, &r);
	assert_string_equal(lines, "");
}

static void test_records_of_nobody(void **state)
{
	struct flow_record r = record(FLOW_NEW, 0xc6120105);

	(void)state;
	start(true, 1);
	run_until_calls(1);
	pools_flow(pools, &r);
	r.session = 0;
	pools_flow(pools, &r);
	answer(0, ERR_NONE);
	r = record((enum flow_event)77, address_of(calls[0].sid));
	pools_flow(pools, &r);
	r.event = 0;
	pools_flow(pools, &r);
	assert_string_equal(lines, "");
	/* What the gateway could not send concerns nobody in particular. */
	r = (struct flow_record){ .event = FLOW_LOST, .count = 12 };
	pools_flow(pools, &r);
	assert_line(
		"\"event\":\"lost\",\"session\":null,\"pool\":null,\"poolId\":null,\"count\":12}");
}

static bool next_second(void)
{
	static int64_t from;

	if (!from)
		from = loop_now_ms() / 1000;
	if (loop_now_ms() / 1000 == from)
		return false;
	from = 0;
	return true;
}

static void test_records_are_bounded(void **state)
{
	(void)state;
	start(true, 1);
	run_until_calls(1);
	answer(0, ERR_NONE);
	run_until_ready(1);
	struct flow_record r = record(FLOW_NEW, address_of(calls[0].sid));

	while (!next_second())
		settle();
	for (int i = 0; i < 10000; i++) {
		pools_flow(pools, &r);
		lines[0] = '\0';
	}
	assert_int_equal(line_count, 300);
	while (!next_second())
		settle();
	pools_flow(pools, &r);
	assert_line("\"event\":\"lost\",\"session\":null,\"pool\":\"pool1\",\"poolId\":\"" KEY
		    "\",\"count\":9700}");
}

/* Sandboxes that use up what there is for all leave something to those that come later. */
static void test_records_of_all_are_shared(void **state)
{
	enum { NOISY = 11 };

	(void)state;
	start(true, NOISY + 1);
	run_until_calls(NOISY + 1);
	for (size_t i = 0; i <= NOISY; i++)
		answer(i, ERR_NONE);
	run_until_ready(NOISY + 1);
	while (!next_second())
		settle();
	line_count = 0;
	for (int i = 0; i <= NOISY; i++) {
		struct flow_record r = record(FLOW_NEW, address_of(calls[i].sid));

		for (int k = 0; k < 400; k++) {
			pools_flow(pools, &r);
			lines[0] = '\0';
		}
	}
	assert_int_equal(line_count, 5 * 300 + (NOISY + 1 - 5) * 30);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_disabled_makes_no_call),
		TEST(test_connected_before_ready),
		TEST(test_unconnected_is_not_given_out),
		TEST(test_switch_of_a_live_session),
		TEST(test_switch_while_made),
		TEST(test_failed_connect_is_tried_again),
		TEST(test_uncuttable_session_ends),
		TEST(test_uncuttable_after_failed_connects),
		TEST(test_asked_again_after_a_restart),
		TEST(test_adopted_is_connected),
		TEST(test_adopted_is_cut),
		TEST(test_connects_take_turns_cuts_do_not),
		TEST(test_records_of_stock_and_session),
		TEST(test_records_of_nobody),
		TEST(test_records_are_bounded),
		TEST(test_records_of_all_are_shared),
	};

	return cmocka_run_group_tests_name("pool_network", tests, NULL, NULL);
}
