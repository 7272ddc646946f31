/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Terminals of a session against agents that say what the test says, lies included.
 */
#include "fake_backend.h"
#include "pool/internal.h"

#include <sys/socket.h>

static struct session *session;
static char told[2048];
static char last_id[33];
static size_t told_bytes;
static bool delete_when_replaced;

static int setup(void **state)
{
	told[0] = last_id[0] = '\0';
	told_bytes = 0;
	delete_when_replaced = false;
	return fake_setup(state);
}

static void open_session(void)
{
	struct pools_config config = fake_config();

	session = fake_open_session(&config);
}

static bool session_lives(void)
{
	return fake_session("ann-1");
}

/* --- somebody at a terminal --- */

struct user {
	const char *name;
	struct terminal *t;
};

static void tell(const struct user *u, const char *what)
{
	size_t have = strlen(told);

	snprintf(told + have, sizeof(told) - have, "%s:%s, ", u->name, what);
}

#define assert_told(what)                                                                          \
	do {                                                                                       \
		assert_string_equal(told, what);                                                   \
		told[0] = '\0';                                                                    \
	} while (0)

static void on_attached(void *arg, const char *id, bool fresh)
{
	snprintf(last_id, sizeof(last_id), "%s", id);
	tell(arg, fresh ? "new" : "attached");
}

static void on_output(void *arg, struct str bytes)
{
	OWNED_MEM char *what = bytes.len < 100 ? str_printf("%.*s", STR_ARG(bytes))
					       : str_printf("%zu", bytes.len);

	told_bytes += bytes.len;
	tell(arg, what);
}

static void on_drained(void *arg)
{
	tell(arg, "drained");
}

static void on_ended(void *arg, enum agent_death death, uint32_t code)
{
	OWNED_MEM char *what = str_printf("ended %d %u", (int)death, code);

	((struct user *)arg)->t = NULL;
	tell(arg, what);
}

static void on_replaced(void *arg)
{
	((struct user *)arg)->t = NULL;
	tell(arg, "replaced");
	if (delete_when_replaced)
		session_delete(session);
}

static void on_failed(void *arg, const struct err *e)
{
	OWNED_MEM char *what = str_printf("failed %s", err_api_code(e->code));

	((struct user *)arg)->t = NULL;
	tell(arg, what);
}

static const struct terminal_events events = {
	.attached = on_attached,
	.output = on_output,
	.drained = on_drained,
	.ended = on_ended,
	.replaced = on_replaced,
	.failed = on_failed,
};

static struct terminal_params params(const char *id)
{
	return (struct terminal_params){ .id = str_from(id), .columns = 80, .rows = 24 };
}

static void open_terminal(struct user *u, const char *id)
{
	struct terminal_params p = params(id);
	struct err e = ERR_INIT;

	u->t = terminal_open(session, &p, &events, u, &e);
	if (!u->t)
		fail_msg("%s", e.msg);
}

static void assert_refused(const struct terminal_params *p, enum err_code code, const char *word)
{
	struct user nobody = { "nobody", NULL };
	struct err e = ERR_INIT;

	assert_null(terminal_open(session, p, &events, &nobody, &e));
	assert_int_equal(e.code, code);
	if (!strstr(e.msg, word))
		fail_msg("no '%s' in: %s", word, e.msg);
	assert_told("");
}

static uint64_t op_of(size_t n)
{
	return heard_nth(AGENT_TERM_OPEN, n)->op;
}

static void say_state(uint64_t op, bool ended, enum agent_death death, uint32_t code)
{
	char payload[6] = { ended, (char)death, (char)code, (char)(code >> 8), 0, 0 };

	say_frame(AGENT_TERM_STATE, op, (struct str){ payload, sizeof(payload) });
}

static void say_runs(uint64_t op)
{
	say_state(op, false, AGENT_DEATH_NONE, 0);
}

static void say_output(uint64_t op, const char *text)
{
	say_frame(AGENT_TERM_OUTPUT, op, str_from(text));
}

static void say_zeros(uint64_t op, size_t len)
{
	static char zeros[AGENT_STREAM_CHUNK + 1];

	say_frame(AGENT_TERM_OUTPUT, op, (struct str){ zeros, len });
}

static void say_error(uint64_t op, enum err_code code)
{
	struct buf b;

	buf_init(&b, 256);
	wire_put_u32(&b, code);
	wire_put_blob(&b, STR("no terminal"));
	say_frame(AGENT_ERROR, op, buf_str(&b));
	buf_done(&b);
}

static void say_credit(uint64_t op, uint32_t bytes)
{
	char payload[4] = { (char)bytes, (char)(bytes >> 8), (char)(bytes >> 16),
			    (char)(bytes >> 24) };

	say_frame(AGENT_TERM_CREDIT, op, (struct str){ payload, sizeof(payload) });
}

/* A user at a new terminal that runs; returns its operation. */
static uint64_t sit_down(struct user *u)
{
	size_t before = heard_count(AGENT_TERM_OPEN);

	open_terminal(u, "");
	answer_kernel(ERR_NONE);
	settle();
	uint64_t op = op_of(before);

	say_runs(op);
	say_runs(op);
	settle();
	fake.asked[0] = told[0] = '\0';
	return op;
}

/* --- opening --- */

static void test_open(void **state)
{
	struct user ann = { "ann", NULL };
	struct terminal_params p = params("");
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	p.term = STR("vt100");
	p.command = STR("vim 'a b'");
	ann.t = terminal_open(session, &p, &events, &ann, &e);
	assert_non_null(ann.t);
	assert_asked("kernel terminal, ");
	answer_kernel(ERR_NONE);
	settle();
	struct wire_reader r = wire_reader(heard_nth(AGENT_TERM_OPEN, 0)->payload,
					   heard_nth(AGENT_TERM_OPEN, 0)->len);

	assert_int_equal(wire_get_u16(&r), 80);
	assert_int_equal(wire_get_u16(&r), 24);
	assert_true(str_eq(wire_get_blob(&r, 64), STR("vt100")));
	assert_true(str_eq(wire_get_blob(&r, 64), STR("vim 'a b'")));
	struct str label = wire_get_blob(&r, 64);

	assert_true(wire_ok(&r));
	assert_int_equal(heard_nth(AGENT_TERM_ATTACH, 0)->op, op_of(0));
	assert_int_equal(heard_nth(AGENT_TERM_ATTACH, 0)->first, AGENT_STREAM_WINDOW);
	say_runs(op_of(0));
	settle();
	assert_told(""); /* it runs, and is not attached yet */
	say_output(op_of(0), "too early");
	say_runs(op_of(0));
	say_output(op_of(0), "hello");
	settle();
	assert_told("ann:new, ann:hello, ");
	assert_int_equal(strlen(last_id), 32);
	assert_true(str_eq(label, str_from(last_id)));
	say_state(op_of(0), true, AGENT_DEATH_EXIT, 3);
	settle();
	assert_told("ann:ended 1 3, ");
	say_output(op_of(0), "too late");
	settle();
	assert_true(session_lives());
}

static void test_bad_parameters(void **state)
{
	struct terminal_params p = params("");
	static char big[5000];

	(void)state;
	open_session();
	p.columns = 0;
	assert_refused(&p, ERR_INVALID, "1 to 1000 columns");
	p.columns = 1001;
	assert_refused(&p, ERR_INVALID, "not 1001");
	p = params("");
	p.rows = 0;
	assert_refused(&p, ERR_INVALID, "rows");
	p.rows = 1001;
	assert_refused(&p, ERR_INVALID, "rows");
	p = params("");
	memset(big, 'x', sizeof(big));
	p.term = (struct str){ big, 65 };
	assert_refused(&p, ERR_INVALID, "term");
	p.term = STR("a b");
	assert_refused(&p, ERR_INVALID, "term");
	p.term = STR("a\0");
	assert_refused(&p, ERR_INVALID, "term");
	p = params("");
	p.command = (struct str){ big, 4097 };
	assert_refused(&p, ERR_INVALID, "4096");
	p.command = STR("a\0b");
	assert_refused(&p, ERR_INVALID, "NUL");
	p = params("0123");
	assert_refused(&p, ERR_NO_TERMINAL, "32");
	p = params("../../../../../../../../../../..");
	assert_refused(&p, ERR_NO_TERMINAL, "32");
	p = params("0123456789abcdef0123456789abcdef");
	assert_refused(&p, ERR_NO_TERMINAL, "no terminal");
	assert_asked("");
}

static void test_terminals_max(void **state)
{
	struct user a = { "a", NULL }, b = { "b", NULL };
	struct terminal_params p = params("");

	(void)state;
	open_session();
	uint64_t op = sit_down(&a);

	open_terminal(&b, "");
	assert_refused(&p, ERR_QUOTA, "--terminals-max");
	terminal_detach(a.t);
	assert_refused(&p, ERR_QUOTA, "2 terminals");
	/* One that ends while nobody looks makes room. */
	say_state(op, true, AGENT_DEATH_EXIT, 0);
	settle();
	open_terminal(&a, "");
	terminal_detach(a.t);
	terminal_detach(b.t);
}

static void test_no_launcher(void **state)
{
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	open_terminal(&ann, "");
	answer_kernel(ERR_NOT_SUPPORTED);
	assert_told("ann:failed SessionRequestNotSupported, ");
	open_terminal(&ann, "");
	answer_kernel(ERR_NONE);
	settle();
	say_error(op_of(0), ERR_UNAVAILABLE);
	say_error(op_of(0), ERR_NO_TERMINAL); /* the answer to ATTACH */
	settle();
	assert_told("ann:failed ServiceUnavailable, ");
	sit_down(&ann);
	terminal_detach(ann.t);
}

static void test_before_the_sandbox(void **state)
{
	struct user ann = { "ann", NULL }, ben = { "ben", NULL }, kim = { "kim", NULL };
	struct pools_config config = fake_config();
	struct err e = ERR_INIT;

	(void)state;
	fake_start(&config, FAKE_ONE_SESSION);
	settle();
	fake.hold_creates = true;
	session = session_open(pool_find(fake.pools, STR(KEY)), STR("ann-1"), &e);
	assert_non_null(session);
	open_terminal(&ann, "");
	open_terminal(&ben, "");
	open_terminal(&kim, "0123456789abcdef0123456789abcdef");
	terminal_detach(ben.t);
	settle();
	assert_asked("");
	fake.held_create(fake.held_create_arg, &(struct err){ 0 });
	settle();
	assert_asked("kernel, kernel terminal, ");
	assert_told("kim:failed SessionTerminalNotFound, ");
	terminal_detach(ann.t);
	answer_kernel(ERR_NONE);
	settle();
	assert_int_equal(heard_count(AGENT_TERM_OPEN), 0);
}

static void test_left_before_it_opened(void **state)
{
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	open_terminal(&ann, "");
	answer_kernel(ERR_NONE);
	settle();
	say_runs(op_of(0));
	settle();
	terminal_detach(ann.t);
	settle();
	/* Nobody was told its id. */
	assert_int_equal(heard_count(AGENT_TERM_CLOSE), 1);
	say_runs(op_of(0));
	say_state(op_of(0), true, AGENT_DEATH_KILLED, 0);
	settle();
	assert_told("");
	for (int i = 0; i < 2; i++) {
		sit_down(&ann);
		terminal_detach(ann.t);
	}
}

static void test_closed_before_it_opened(void **state)
{
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	open_terminal(&ann, "");
	terminal_close(ann.t);
	answer_kernel(ERR_NONE);
	settle();
	assert_int_equal(heard_count(AGENT_TERM_CLOSE), 1);
	say_error(op_of(0), ERR_UNAVAILABLE);
	settle();
	assert_told("ann:failed ServiceUnavailable, ");
}

/* --- use --- */

static void test_input_window(void **state)
{
	static char data[AGENT_STREAM_WINDOW + 1];
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	uint64_t op = sit_down(&ann);

	assert_int_equal(terminal_input(ann.t, data, 10), 10);
	assert_int_equal(terminal_input(ann.t, data, sizeof(data)), AGENT_STREAM_WINDOW - 10);
	assert_int_equal(terminal_input(ann.t, data, 1), 0);
	settle();
	say_credit(op, 10);
	settle();
	assert_told("");
	say_credit(op, AGENT_STREAM_CHUNK);
	settle();
	assert_told("ann:drained, ");
	assert_int_equal(terminal_input(ann.t, data, sizeof(data)), AGENT_STREAM_CHUNK + 10);
	/* More than was sent is worth no more than the window. */
	say_credit(op, UINT32_MAX);
	settle();
	assert_told("ann:drained, ");
	assert_int_equal(terminal_input(ann.t, data, sizeof(data)), AGENT_STREAM_WINDOW);
	terminal_detach(ann.t);
	/* Who attaches next does not have the window over again. */
	open_terminal(&ann, last_id);
	settle();
	say_runs(op);
	settle();
	assert_int_equal(terminal_input(ann.t, data, 1), 0);
	terminal_detach(ann.t);
}

static void test_output_window(void **state)
{
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	uint64_t op = sit_down(&ann);

	for (int i = 0; i < 4; i++)
		say_zeros(op, AGENT_STREAM_CHUNK);
	settle();
	assert_int_equal(told_bytes, AGENT_STREAM_WINDOW);
	terminal_credit(ann.t, AGENT_STREAM_CHUNK - 1);
	settle();
	assert_int_equal(heard_count(AGENT_TERM_CREDIT), 0);
	terminal_credit(ann.t, 1);
	settle();
	assert_int_equal(heard_last(AGENT_TERM_CREDIT)->first, AGENT_STREAM_CHUNK);
	say_zeros(op, AGENT_STREAM_CHUNK);
	settle();
	assert_true(session_lives());
	say_zeros(op, 1);
	settle();
	assert_false(session_lives());
	assert_non_null(strstr(told, "ann:failed ServiceUnavailable, "));
	assert_int_equal(told_bytes, AGENT_STREAM_WINDOW + AGENT_STREAM_CHUNK);
}

static void test_resize_and_signals(void **state)
{
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	sit_down(&ann);
	terminal_resize(ann.t, 132, 43);
	terminal_resize(ann.t, 0, 43);
	terminal_resize(ann.t, 132, 1001);
	terminal_signal(ann.t, 2);
	terminal_signal(ann.t, 0);
	terminal_signal(ann.t, 65);
	terminal_signal(ann.t, -1);
	settle();
	assert_int_equal(heard_count(AGENT_TERM_RESIZE), 1);
	assert_int_equal(heard_last(AGENT_TERM_RESIZE)->first, 132 | 43 << 16);
	assert_int_equal(heard_count(AGENT_TERM_SIGNAL), 1);
	assert_int_equal(heard_last(AGENT_TERM_SIGNAL)->first, 2);
	terminal_close(ann.t);
	settle();
	assert_int_equal(heard_count(AGENT_TERM_CLOSE), 1);
	say_state(op_of(0), true, AGENT_DEATH_KILLED, 0);
	settle();
	assert_told("ann:ended 4 0, ");
}

/* --- who comes after --- */

static void test_detach_and_attach(void **state)
{
	struct user ann = { "ann", NULL }, ben = { "ben", NULL };

	(void)state;
	open_session();
	uint64_t op = sit_down(&ann);

	terminal_detach(ann.t);
	say_output(op, "on its way");
	settle();
	assert_int_equal(heard_count(AGENT_TERM_DETACH), 1);
	assert_told("");
	open_terminal(&ben, last_id);
	settle();
	say_runs(op);
	say_output(op, "kept");
	settle();
	assert_told("ben:attached, ben:kept, ");
	assert_int_equal(heard_last(AGENT_TERM_RESIZE)->first, 80 | 24 << 16);
	assert_asked("");
	terminal_detach(ben.t);
}

static void test_replaced(void **state)
{
	struct user ann = { "ann", NULL }, ben = { "ben", NULL };

	(void)state;
	open_session();
	uint64_t op = sit_down(&ann);

	for (int i = 0; i < 3; i++)
		say_zeros(op, AGENT_STREAM_CHUNK);
	settle();
	told[0] = '\0';
	open_terminal(&ben, last_id);
	assert_told(""); /* never from inside */
	/* What was on its way to ann is not ben's, nor counts for him. */
	say_zeros(op, AGENT_STREAM_CHUNK);
	settle();
	assert_told("ann:replaced, ");
	say_runs(op);
	for (int i = 0; i < 4; i++)
		say_zeros(op, AGENT_STREAM_CHUNK);
	settle();
	assert_true(session_lives());
	assert_non_null(strstr(told, "ben:attached, ben:65536, "));
	terminal_detach(ben.t);
}

/* And again, before the agent has answered the one before. */
static void test_replaced_in_a_hurry(void **state)
{
	struct user ann = { "ann", NULL }, ben = { "ben", NULL }, kim = { "kim", NULL };

	(void)state;
	open_session();
	uint64_t op = sit_down(&ann);

	open_terminal(&ben, last_id);
	open_terminal(&kim, last_id);
	settle();
	assert_told("ann:replaced, ben:replaced, ");
	say_runs(op);
	say_zeros(op, AGENT_STREAM_CHUNK);
	settle();
	assert_told("");
	say_runs(op);
	say_output(op, "hello");
	settle();
	assert_told("kim:attached, kim:hello, ");
	terminal_detach(kim.t);
}

static void test_replaced_who_leaves(void **state)
{
	struct user ann = { "ann", NULL }, ben = { "ben", NULL }, kim = { "kim", NULL };

	(void)state;
	open_session();
	sit_down(&ann);
	open_terminal(&ben, last_id);
	terminal_detach(ann.t);
	settle();
	assert_told("");
	delete_when_replaced = true;
	open_terminal(&kim, last_id);
	settle();
	assert_told("ben:replaced, kim:failed Conflict, ");
}

/* It ended when the agent had not heard yet that somebody attaches. */
static void test_attach_to_what_has_ended(void **state)
{
	struct user ann = { "ann", NULL };
	struct terminal_params p;

	(void)state;
	open_session();
	uint64_t op = sit_down(&ann);

	terminal_detach(ann.t);
	open_terminal(&ann, last_id);
	say_state(op, true, AGENT_DEATH_SIGNAL, 9);
	say_error(op, ERR_NO_TERMINAL);
	settle();
	assert_told("ann:ended 2 9, ");
	p = params(last_id);
	assert_refused(&p, ERR_NO_TERMINAL, last_id);
}

static size_t listed, listed_attached;

static void list_one(const char *id, bool attached, void *arg)
{
	(void)arg;
	assert_int_equal(strlen(id), 32);
	listed++;
	listed_attached += attached;
}

static void assert_listed(size_t count, size_t attached)
{
	listed = listed_attached = 0;
	terminal_each(session, list_one, NULL);
	assert_int_equal(listed, count);
	assert_int_equal(listed_attached, attached);
}

static void test_list(void **state)
{
	struct user ann = { "ann", NULL }, ben = { "ben", NULL };

	(void)state;
	open_session();
	assert_listed(0, 0);
	open_terminal(&ben, "");
	assert_listed(0, 0); /* it is not there yet */
	terminal_detach(ben.t);
	answer_kernel(ERR_NONE);
	settle();
	uint64_t op = sit_down(&ann);

	assert_listed(1, 1);
	terminal_detach(ann.t);
	assert_listed(1, 0);
	say_state(op, true, AGENT_DEATH_EXIT, 0);
	settle();
	assert_listed(0, 0);
}

static void assert_not_deleted(struct str id, const char *word)
{
	struct err e = ERR_INIT;

	assert_int_equal(terminal_delete(session, id, &e), -1);
	assert_int_equal(e.code, ERR_NO_TERMINAL);
	assert_non_null(strstr(e.msg, word));
}

static void test_delete(void **state)
{
	struct user ann = { "ann", NULL }, ben = { "ben", NULL };
	struct err e = ERR_INIT;

	(void)state;
	open_session();
	assert_not_deleted(STR(""), "32");
	assert_not_deleted(STR("0123456789abcdef0123456789abcde\0"), "32");
	assert_not_deleted(STR("0123456789abcdef0123456789abcdef"), "no terminal");
	open_terminal(&ben, "");
	terminal_detach(ben.t);
	answer_kernel(ERR_NONE);
	settle();
	/* One that somebody is attached to, and then nobody. */
	for (unsigned left = 0; left < 2; left++) {
		uint64_t op = sit_down(&ann);

		told[0] = '\0';
		if (left)
			terminal_detach(ann.t);
		assert_int_equal(terminal_delete(session, str_from(last_id), &e), 0);
		settle();
		assert_int_equal(heard_count(AGENT_TERM_CLOSE), left + 1);
		assert_true(heard_last(AGENT_TERM_CLOSE)->op == op);
		say_state(op, true, AGENT_DEATH_KILLED, 0);
		settle();
		assert_told(left ? "" : "ann:ended 4 0, ");
		assert_not_deleted(str_from(last_id), "no terminal");
	}
	assert_listed(0, 0);
}

/* As if nobody had asked for anything for a long time. */
static void grow_old(void)
{
	session->accessed_us = 0;
	session_rearm(session);
	settle();
}

static void test_attached_is_use(void **state)
{
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	sit_down(&ann);
	grow_old();
	assert_true(session_lives());
	/* Its idle time begins when the last one leaves. */
	terminal_detach(ann.t);
	settle();
	assert_true(session_lives());
	assert_int_not_equal(session->accessed_us, 0);
	grow_old();
	assert_false(session_lives());
}

static void test_session_ends(void **state)
{
	struct user ann = { "ann", NULL }, ben = { "ben", NULL };

	(void)state;
	open_session();
	sit_down(&ann);
	open_terminal(&ben, "");
	session_delete(session);
	assert_told("ann:failed Conflict, ben:failed Conflict, ");
	answer_kernel(ERR_NONE);
	settle();
	assert_told("");
}

static void test_agent_goes(void **state)
{
	struct user ann = { "ann", NULL }, ben = { "ben", NULL };

	(void)state;
	open_session();
	sit_down(&ann);
	open_terminal(&ben, "");
	shutdown(the_box()->agent_fd, SHUT_RDWR);
	settle();
	assert_told("ann:failed ServiceUnavailable, ben:failed ServiceUnavailable, ");
	assert_false(session_lives());
}

/* --- what the next daemon finds --- */

static void say_status(const struct str *labels, size_t count)
{
	struct buf b;

	buf_init(&b, 8192);
	wire_put_u32(&b, 1);
	wire_put_u32(&b, 0);
	wire_put_u8(&b, AGENT_KERNEL_IDLE);
	wire_put_blob(&b, STR("default\npython"));
	wire_put_u32(&b, 0);
	wire_put_u32(&b, (uint32_t)count);
	for (size_t i = 0; i < count; i++) {
		wire_put_u64(&b, 100 + i);
		wire_put_blob(&b, labels[i]);
	}
	say_frame(AGENT_STATUS, 0, buf_str(&b));
	buf_done(&b);
	settle();
}

static void adopt_session(void)
{
	struct pools_config config = fake_config();

	session = fake_adopt_session(&config);
}

static void test_adopted(void **state)
{
	static const struct str labels[] = {
		{ "0123456789abcdef0123456789abcdef", 32 },
		{ "0123456789ABCDEF0123456789ABCDEF", 32 },
		{ "0123456789abcdef0123456789abcdef", 32 },
		{ "", 0 },
		{ "0123456789abcdef0123456789abcde\0", 32 },
		{ "../../../../../../../../../../..", 32 },
		{ "0123456789abcdef0123456789abcdef0", 33 },
		{ "fedcba9876543210fedcba9876543210", 32 },
	};
	struct user ann = { "ann", NULL }, ben = { "ben", NULL };

	(void)state;
	adopt_session();
	/* Whether it is there nobody knows before the agent has said so. */
	open_terminal(&ann, "fedcba9876543210fedcba9876543210");
	open_terminal(&ben, "00000000000000000000000000000000");
	settle();
	assert_told("");
	say_status(labels, ARRAY_LEN(labels));
	answer_memory(ERR_NONE);
	assert_told("ben:failed SessionTerminalNotFound, ");
	assert_listed(2, 1);
	/* What it reads now is what the earlier daemon sent. */
	say_credit(107, 100);
	say_runs(107);
	say_credit(107, 100);
	settle();
	assert_told("ann:attached, ");
	assert_true(session_lives());
	say_state(100, true, AGENT_DEATH_EXIT, 0);
	settle();
	assert_listed(1, 1);
	terminal_detach(ann.t);
}

/* --- what a taken-over agent may try --- */

static void test_lies(void **state)
{
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	uint64_t op = sit_down(&ann);

	/* Of terminals there are none of. */
	say_state(op + 2, true, AGENT_DEATH_EXIT, 0);
	say_output(op + 2, "a");
	say_credit(op + 2, 1);
	say_error(op + 2, ERR_INVALID);
	settle();
	assert_told("");
	assert_true(session_lives());
	assert_listed(1, 1);
	/* An answer to nothing. */
	say_runs(op);
	settle();
	assert_false(session_lives());
	assert_told("ann:failed ServiceUnavailable, ");
}

static void test_ends_before_it_is_there(void **state)
{
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	open_terminal(&ann, "");
	answer_kernel(ERR_NONE);
	settle();
	say_state(op_of(0), true, AGENT_DEATH_EXIT, 0);
	say_runs(op_of(0));
	settle();
	assert_told("ann:ended 1 0, ");
	assert_false(session_lives());
}

static void test_too_large_a_chunk(void **state)
{
	struct user ann = { "ann", NULL };

	(void)state;
	open_session();
	say_zeros(sit_down(&ann), AGENT_STREAM_CHUNK + 1);
	settle();
	assert_false(session_lives());
	assert_int_equal(told_bytes, 0);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, fake_teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_open),
		TEST(test_bad_parameters),
		TEST(test_terminals_max),
		TEST(test_no_launcher),
		TEST(test_before_the_sandbox),
		TEST(test_left_before_it_opened),
		TEST(test_closed_before_it_opened),
		TEST(test_input_window),
		TEST(test_output_window),
		TEST(test_resize_and_signals),
		TEST(test_detach_and_attach),
		TEST(test_replaced),
		TEST(test_replaced_in_a_hurry),
		TEST(test_replaced_who_leaves),
		TEST(test_attach_to_what_has_ended),
		TEST(test_list),
		TEST(test_delete),
		TEST(test_attached_is_use),
		TEST(test_session_ends),
		TEST(test_agent_goes),
		TEST(test_adopted),
		TEST(test_lies),
		TEST(test_ends_before_it_is_there),
		TEST(test_too_large_a_chunk),
	};

	return cmocka_run_group_tests_name("pool_terminals", tests, NULL, NULL);
}
