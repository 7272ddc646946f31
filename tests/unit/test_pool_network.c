/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The pool controller against a backend whose answers the test gives: which sandboxes are connected
 * and cut, in what order, and whose the flow records are.
 */
#include "fake_backend.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <netinet/in.h>

static char lines[16384];
static size_t line_count;

static size_t wanted_calls;

static bool enough_calls(void)
{
	return fake.network_count >= wanted_calls;
}

static void run_until_calls(size_t count)
{
	wanted_calls = count;
	run_until(enough_calls);
	assert_int_equal(fake.network_count, count);
}

static size_t wanted_ready;

static bool enough_ready(void)
{
	return pool_counts(pool_find(fake.pools, STR(KEY))).ready == wanted_ready;
}

static void run_until_ready(size_t count)
{
	wanted_ready = count;
	run_until(enough_ready);
}

/* --- the pool --- */

static void keep_line(const char *json, size_t len)
{
	size_t have = strlen(lines);

	line_count++;
	snprintf(lines + have, sizeof(lines) - have, "%.*s\n", (int)len, json);
}

static void put_pool(bool egress, int ready)
{
	OWNED_MEM char *properties =
		str_printf("\"scaleConfiguration\":{\"maxConcurrentSessions\":40,"
			   "\"readySessionInstances\":%d},"
			   "\"sessionNetworkConfiguration\":{\"status\":\"%s\"}",
			   ready, egress ? "EgressEnabled" : "EgressDisabled");

	if (fake.pools && pool_find(fake.pools, STR(KEY))) {
		fake_put_pool(properties);
		return;
	}
	struct pools_config config = fake_config();

	config.egress = true;
	config.flow_line = keep_line;
	fake_start(&config, properties);
}

static void start(bool egress, int ready)
{
	put_pool(egress, ready);
}

static struct session *open_session(const char *identifier)
{
	struct err e = ERR_INIT;
	struct session *s = session_open(pool_find(fake.pools, STR(KEY)), str_from(identifier), &e);

	if (!s)
		fail_msg("%s", e.msg);
	return s;
}

static int setup(void **state)
{
	line_count = 0;
	lines[0] = '\0';
	return fake_setup(state);
}

/* --- tests --- */

static void test_disabled_makes_no_call(void **state)
{
	(void)state;
	start(false, 2);
	run_until_ready(2);
	open_session("ann-1");
	run_until_ready(2);
	pools_backend_restarted(fake.pools);
	settle();
	assert_int_equal(fake.network_count, 0);
}

static void test_connected_before_ready(void **state)
{
	(void)state;
	start(true, 1);
	run_until_calls(1);
	settle();
	assert_true(fake.network[0].on);
	assert_int_equal(pool_counts(pool_find(fake.pools, STR(KEY))).ready, 0);
	open_session("ann-1");
	answer_network(0, ERR_NONE);
	run_until_calls(2); /* the next one of the stock; the session needs no more */
	assert_string_not_equal(fake.network[0].sid, fake.network[1].sid);
	answer_network(1, ERR_NONE);
	run_until_ready(1);
	settle();
	assert_int_equal(fake.network_count, 2);
}

static void test_unconnected_is_not_given_out(void **state)
{
	(void)state;
	start(true, 0);
	settle();
	open_session("ann-1");
	for (size_t i = 0; i < 5; i++) {
		run_until_calls(i + 1);
		assert_non_null(fake_session("ann-1"));
		answer_network(i, ERR_SYSTEM);
		assert_true(box_of(fake.network[i].sid)->destroyed);
	}
	/* Who waits hears of it, like of any sandbox that does not come up. */
	assert_null(fake_session("ann-1"));
}

static void test_switch_of_a_live_session(void **state)
{
	(void)state;
	start(false, 0);
	settle();
	struct session *s = open_session("ann-1");

	settle();
	put_pool(true, 0);
	assert_int_equal(fake.network_count, 1);
	assert_true(fake.network[0].on);
	/* The last wish wins: what is under way is waited for, and then put right. */
	put_pool(false, 0);
	put_pool(true, 0);
	put_pool(false, 0);
	assert_int_equal(fake.network_count, 1);
	answer_network(0, ERR_NONE);
	assert_int_equal(fake.network_count, 2);
	assert_false(fake.network[1].on);
	put_pool(true, 0);
	put_pool(false, 0);
	answer_network(1, ERR_NONE);
	settle();
	assert_int_equal(fake.network_count, 2);
	put_pool(true, 0);
	answer_network(2, ERR_NONE);
	settle();
	assert_int_equal(fake.network_count, 3);
	assert_ptr_equal(session_find(pool_find(fake.pools, STR(KEY)), STR("ann-1")), s);
	assert_false(box_of(fake.network[0].sid)->destroyed);
}

static void test_switch_while_made(void **state)
{
	(void)state;
	start(true, 1);
	run_until_calls(1);
	put_pool(false, 1);
	assert_true(box_of(fake.network[0].sid)->destroyed);
	answer_network(0, ERR_NONE); /* too late: it is gone */
	run_until_ready(1);
	assert_int_equal(fake.network_count, 1);
	/* And while CREATE is under way, the other way round. */
	fake.hold_creates = true;
	put_pool(false, 2);
	settle();
	assert_non_null(fake.held_create);
	put_pool(true, 2);
	fake.hold_creates = false;
	fake.held_create(fake.held_create_arg, &(struct err){ 0 });
	settle();
	for (size_t i = 1; i < fake.network_count; i++) {
		assert_true(fake.network[i].on);
		assert_false(box_of(fake.network[i].sid)->destroyed);
		answer_network(i, ERR_NONE);
	}
	run_until_ready(2);
	/* Nothing that was connected is left when it is off again. */
	put_pool(false, 2);
	for (size_t i = 0; i < fake.network_count; i++)
		assert_true(box_of(fake.network[i].sid)->destroyed);
}

static void test_failed_connect_is_tried_again(void **state)
{
	(void)state;
	start(false, 0);
	settle();
	open_session("ann-1");
	settle();
	put_pool(true, 0);
	answer_network(0, ERR_SYSTEM);
	run_until_calls(2);
	assert_true(fake.network[1].on);
	answer_network(1, ERR_UNAVAILABLE);
	/* A change of mind does not wait for the pause. */
	put_pool(false, 0);
	assert_int_equal(fake.network_count, 3);
	assert_false(fake.network[2].on);
	answer_network(2, ERR_NONE);
	settle();
	assert_int_equal(fake.network_count, 3);
	assert_non_null(fake_session("ann-1"));
}

static void test_uncuttable_session_ends(void **state)
{
	(void)state;
	start(true, 0);
	settle();
	open_session("ann-1");
	run_until_calls(1);
	answer_network(0, ERR_NONE);
	settle();
	put_pool(false, 0);
	for (size_t i = 1; i <= 5; i++) {
		run_until_calls(i + 1);
		assert_false(fake.network[i].on);
		assert_non_null(fake_session("ann-1"));
		answer_network(i, ERR_SYSTEM);
	}
	assert_null(fake_session("ann-1"));
	assert_true(box_of(fake.network[0].sid)->destroyed);
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
		answer_network(i, ERR_SYSTEM);
	}
	put_pool(false, 0);
	for (size_t i = 2; i < 7; i++) {
		run_until_calls(i + 1);
		assert_false(fake.network[i].on);
		assert_non_null(fake_session("ann-1"));
		answer_network(i, ERR_SYSTEM);
	}
	assert_null(fake_session("ann-1"));
}

static bool session_is_asked_again(void)
{
	for (size_t i = 3; i < fake.network_count; i++)
		if (strcmp(fake.network[i].sid, fake.network[0].sid) == 0)
			return fake.network[i].on;
	return false;
}

static void test_asked_again_after_a_restart(void **state)
{
	(void)state;
	start(true, 1);
	run_until_calls(1);
	answer_network(0, ERR_NONE);
	run_until_ready(1);
	open_session("ann-1");
	run_until_calls(2);
	answer_network(1, ERR_NONE);
	run_until_ready(1);
	pools_backend_restarted(fake.pools);
	/* The ready one could be given out before it is connected again: it goes. */
	assert_true(box_of(fake.network[1].sid)->destroyed);
	assert_int_equal(fake.network_count, 3);
	assert_true(fake.network[2].on);
	answer_network(2, ERR_SYSTEM);
	run_until(session_is_asked_again);
	assert_non_null(fake_session("ann-1"));
	assert_true(box_of(fake.network[1].sid)->destroyed);
}

static void adopt(bool egress)
{
	fake_store_adopted();
	start(egress, 0);
	run_until_calls(1);
	assert_string_equal(fake.network[0].sid, ADOPTED_SID);
	assert_int_equal(fake.network[0].on, egress);
	answer_network(0, ERR_NONE);
	settle();
	assert_int_equal(fake.network_count, 1);
	assert_non_null(fake_session("ann-1"));
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
	assert_int_equal(fake.network_count, 8);
	answer_network(0, ERR_NONE);
	answer_network(1, ERR_SYSTEM);
	assert_int_equal(fake.network_count, 10);
	/* Two were not asked yet, one is done and one failed: the latter may be connected. */
	put_pool(false, 0);
	assert_int_equal(fake.network_count, 12);
	assert_false(fake.network[10].on || fake.network[11].on);
	for (size_t i = 2; i < 10; i++)
		answer_network(i, ERR_NONE);
	assert_int_equal(fake.network_count, 20);
	for (size_t i = 10; i < 20; i++) {
		assert_false(fake.network[i].on);
		answer_network(i, ERR_NONE);
	}
	settle();
	assert_int_equal(fake.network_count, 20);
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
	answer_network(0, ERR_NONE);
	run_until_ready(1);
	uint32_t address = address_of(fake.network[0].sid);
	struct flow_record r = record(FLOW_NEW, address);

	pools_flow(fake.pools, &r);
	assert_line("\"event\":\"new\",\"session\":null,\"pool\":\"pool1\",\"poolId\":\"" KEY
		    "\",\"protocol\":\"tcp\",\"address\":\"93.184.216.34\",\"port\":443}");
	struct session *s = open_session("ann-secret");
	OWNED_MEM char *guid = str_printf("\"session\":\"%s\"", session_info(s).guid);

	pools_flow(fake.pools, &r);
	assert_null(strstr(lines, "ann-secret"));
	assert_line(guid);
	r.event = FLOW_REFUSED;
	r.reason = FLOW_REASON_CONNECTIONS;
	pools_flow(fake.pools, &r);
	assert_line("\"reason\":\"connections\"");
	r.reason = 99;
	pools_flow(fake.pools, &r);
	assert_line("\"reason\":\"unknown\"");
	r = record(FLOW_DNS, address);
	r.address = 0;
	snprintf(r.name, sizeof(r.name), "a b\n\"x\\y\xff=.example");
	pools_flow(fake.pools, &r);
	assert_line("\"name\":\"a\\\\x20b\\\\x0a\\\\x22x\\\\x5cy\\\\xff\\\\x3d.example\"");
	memset(r.name, 0xff, sizeof(r.name) - 1);
	pools_flow(fake.pools, &r);
	assert_line("\\\\xff\\\\xff\\\\xff");
	/* The last ones of a session that is gone are still its own. */
	session_delete(s);
	r = record(FLOW_END, address);
	r.bytes_out = 10;
	r.bytes_in = UINT64_MAX;
	pools_flow(fake.pools, &r);
	assert_non_null(strstr(lines, "\"bytesOut\":10,\"bytesIn\":9223372036854775807"));
	assert_line(guid);
	/* Its link lost its route before it lost its sandbox; nobody's address was taken. */
	lines[0] = '\0';
	r = record(FLOW_REFUSED, address);
	r.reason = FLOW_REASON_SPOOFED;
	pools_flow(fake.pools, &r);
	assert_string_equal(lines, "");
}

static void test_records_of_nobody(void **state)
{
	struct flow_record r = record(FLOW_NEW, 0xc6120105);

	(void)state;
	start(true, 1);
	run_until_calls(1);
	pools_flow(fake.pools, &r);
	r.session = 0;
	pools_flow(fake.pools, &r);
	answer_network(0, ERR_NONE);
	r = record((enum flow_event)77, address_of(fake.network[0].sid));
	pools_flow(fake.pools, &r);
	r.event = 0;
	pools_flow(fake.pools, &r);
	assert_string_equal(lines, "");
	/* What the gateway could not send concerns nobody in particular. */
	r = (struct flow_record){ .event = FLOW_LOST, .count = 12 };
	pools_flow(fake.pools, &r);
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
	answer_network(0, ERR_NONE);
	run_until_ready(1);
	struct flow_record r = record(FLOW_NEW, address_of(fake.network[0].sid));

	while (!next_second())
		settle();
	for (int i = 0; i < 10000; i++) {
		pools_flow(fake.pools, &r);
		lines[0] = '\0';
	}
	assert_int_equal(line_count, 300);
	while (!next_second())
		settle();
	pools_flow(fake.pools, &r);
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
		answer_network(i, ERR_NONE);
	run_until_ready(NOISY + 1);
	while (!next_second())
		settle();
	line_count = 0;
	for (int i = 0; i <= NOISY; i++) {
		struct flow_record r = record(FLOW_NEW, address_of(fake.network[i].sid));

		for (int k = 0; k < 400; k++) {
			pools_flow(fake.pools, &r);
			lines[0] = '\0';
		}
	}
	assert_int_equal(line_count, 5 * 300 + (NOISY + 1 - 5) * 30);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, fake_teardown)
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
