/* SPDX-License-Identifier: Apache-2.0 */
#include "fake_backend.h"

#include "base/list.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

struct fake fake;
const struct runtime fake_runtime = {
	.name = "python",
	.container_type = "PythonLTS",
	.id = IMAGE,
	.languages = { "python", "shell", "node" },
	.language_count = 3,
};

static char dir[64];

struct later {
	backend_done_fn done;
	backend_kernel_fn kernel;
	backend_list_fn list;
	backend_network_fn network;
	void *arg;
	struct fake_box *box;
	bool terminal;
};

static void note(const char *what)
{
	size_t have = strlen(fake.asked);

	snprintf(fake.asked + have, sizeof(fake.asked) - have, "%s, ", what);
}

struct fake_box *box_of(const char *sid)
{
	for (size_t i = 0; i < fake.box_count; i++)
		if (strcmp(fake.boxes[i].sid, sid) == 0)
			return &fake.boxes[i];
	fail_msg("no sandbox %s", sid);
	return NULL;
}

struct fake_box *add_box(const char *sid)
{
	assert_true(fake.box_count < FAKE_BOXES_MAX);
	struct fake_box *box = &fake.boxes[fake.box_count++];

	*box = (struct fake_box){ .agent_fd = -1 };
	buf_init(&box->in, 4 * MIB);
	snprintf(box->sid, sizeof(box->sid), "%s", sid);
	return box;
}

struct fake_box *the_box(void)
{
	assert_true(fake.box_count > 0);
	return &fake.boxes[fake.box_count - 1];
}

/* --- frames --- */

void add_frame(struct buf *b, enum agent_msg type, uint64_t op, struct str payload)
{
	wire_put_u32(b, (uint32_t)payload.len);
	wire_put_u8(b, AGENT_PROTO_VERSION);
	wire_put_u8(b, (uint8_t)type);
	wire_put_u16(b, 0);
	wire_put_u64(b, op);
	buf_add_str(b, payload);
}

void say_to(struct fake_box *box, struct buf *frames)
{
	assert_true(buf_ok(frames));
	ssize_t n = send(box->agent_fd, frames->ptr, frames->len, MSG_NOSIGNAL);

	/* A sandbox that was destroyed meanwhile has nobody at the other end. */
	assert_true(n == (ssize_t)frames->len || box->destroyed);
	buf_done(frames);
}

void say(struct buf *frames)
{
	say_to(the_box(), frames);
}

void say_frame(enum agent_msg type, uint64_t op, struct str payload)
{
	struct buf b;

	buf_init(&b, payload.len + 64);
	add_frame(&b, type, op, payload);
	say(&b);
}

void say_kernel_of(struct fake_box *box, uint32_t kernel, enum agent_kernel_state state,
		   enum agent_death death)
{
	char payload[10] = { (char)kernel, 0, 0, 0, (char)state, (char)death };
	struct buf b;

	buf_init(&b, 256);
	add_frame(&b, AGENT_KERNEL_STATE, 0, (struct str){ payload, sizeof(payload) });
	say_to(box, &b);
}

void say_kernel_n(uint32_t kernel, enum agent_kernel_state state, enum agent_death death)
{
	say_kernel_of(the_box(), kernel, state, death);
}

void say_kernel(enum agent_kernel_state state, enum agent_death death)
{
	say_kernel_n(0, state, death);
}

void add_done(struct buf *b, uint64_t op, enum agent_exec_status status,
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

void say_done(uint64_t op, enum agent_exec_status status, enum agent_kernel_state kernel,
	      const char *text)
{
	struct buf b;

	buf_init(&b, 4096);
	add_done(&b, op, status, kernel, text);
	say(&b);
}

/* --- what the agent hears --- */

static void keep_heard(enum agent_msg type, uint64_t op, const char *payload, size_t len)
{
	assert_true(fake.heard_count < FAKE_HEARD_MAX);
	struct fake_heard *h = &fake.heard[fake.heard_count++];
	struct wire_reader r = wire_reader(payload, len);

	*h = (struct fake_heard){ .type = type, .op = op, .len = len };
	if (len >= 4)
		h->first = wire_get_u32(&r);
	memcpy(h->payload, payload, len < sizeof(h->payload) ? len : sizeof(h->payload));
}

static void hear(struct fake_box *box)
{
	size_t at = 0;
	ssize_t n = 1;

	while (box->agent_fd >= 0 && n > 0 && buf_reserve(&box->in, 65536)) {
		n = recv(box->agent_fd, box->in.ptr + box->in.len, 65536, MSG_DONTWAIT);
		if (n > 0)
			box->in.len += (size_t)n;
	}
	while (box->in.len - at >= AGENT_HEADER_SIZE) {
		struct wire_reader r = wire_reader(box->in.ptr + at, AGENT_HEADER_SIZE);
		uint32_t len = wire_get_u32(&r);

		assert_int_equal(wire_get_u8(&r), AGENT_PROTO_VERSION);
		uint8_t type = wire_get_u8(&r);

		assert_int_equal(wire_get_u16(&r), 0);
		uint64_t op = wire_get_u64(&r);

		if (box->in.len - at - AGENT_HEADER_SIZE < len)
			break;
		if (box == the_box() && type != AGENT_HELLO)
			keep_heard((enum agent_msg)type, op, box->in.ptr + at + AGENT_HEADER_SIZE,
				   len);
		at += AGENT_HEADER_SIZE + len;
	}
	buf_consume(&box->in, at);
}

size_t heard_count(enum agent_msg type)
{
	size_t count = 0;

	for (size_t i = 0; i < fake.heard_count; i++)
		count += fake.heard[i].type == type;
	return count;
}

const struct fake_heard *heard_nth(enum agent_msg type, size_t n)
{
	for (size_t i = 0; i < fake.heard_count; i++)
		if (fake.heard[i].type == type && n-- == 0)
			return &fake.heard[i];
	fail_msg("no such message (type %d) was sent to the agent", (int)type);
	return NULL;
}

const struct fake_heard *heard_last(enum agent_msg type)
{
	size_t count = heard_count(type);

	return heard_nth(type, count ? count - 1 : 0);
}

/* --- the backend --- */

static void answer_later(void *arg)
{
	struct later *l = arg;
	struct err none = ERR_INIT;

	if (l->done)
		l->done(l->arg, &none);
	if (l->list)
		l->list(l->arg, &fake.listed, fake.listed ? 1 : 0, &none);
	if (l->network)
		l->network(l->arg, 0, &none);
	if (l->kernel) {
		l->kernel(l->arg, open("/dev/null", O_RDWR | O_CLOEXEC), &none);
		if (!fake.silent_kernels && !l->terminal)
			say_kernel_of(l->box, 0, AGENT_KERNEL_IDLE, AGENT_DEATH_NONE);
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
	add_box(spec->sid);
	if (fake.hold_creates) {
		fake.held_create = done;
		fake.held_create_arg = arg;
	} else {
		later((struct later){ .done = done, .arg = arg });
	}
}

static void add_call(struct fake_call *calls, size_t *count, struct fake_call c, const char *sid)
{
	assert_true(*count < FAKE_CALLS_MAX);
	calls[*count] = c;
	snprintf(calls[*count].sid, sizeof(calls->sid), "%s", sid);
	(*count)++;
}

/* Kernels of other languages than the first are held: who starts them says what becomes of them. */
static void fake_start_kernel(struct backend *b, const char *sid, const char *language,
			      backend_kernel_fn done, void *arg)
{
	OWNED_MEM char *what = str_printf("kernel%s%s", *language ? " " : "", language);

	(void)b;
	note(what);
	if (*language || fake.hold_kernels)
		add_call(fake.kernels, &fake.kernel_count,
			 (struct fake_call){ .kernel = done, .arg = arg }, sid);
	else
		later((struct later){ .kernel = done, .arg = arg, .box = box_of(sid) });
}

static void fake_destroy(struct backend *b, const char *sid, backend_done_fn done, void *arg)
{
	(void)b;
	box_of(sid)->destroyed = true;
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
	note(what);
	add_call(fake.memory, &fake.memory_count, (struct fake_call){ .done = done, .arg = arg },
		 sid);
}

static void fake_network(struct backend *b, const char *sid, bool on, backend_network_fn done,
			 void *arg)
{
	(void)b;
	if (fake.network_answers)
		later((struct later){ .network = done, .arg = arg });
	else
		add_call(fake.network, &fake.network_count,
			 (struct fake_call){ .on = on, .network = done, .arg = arg }, sid);
}

static void fake_refused(struct backend *b, const char *sid, int64_t since_ns,
			 backend_refused_fn done, void *arg)
{
	(void)b;
	(void)since_ns;
	note("refused");
	add_call(fake.refused, &fake.refused_count,
		 (struct fake_call){ .refused = done, .arg = arg }, sid);
}

static int fake_connect(struct backend *b, const char *sid, struct err *e)
{
	int pair[2];
	int size = 4 << 20;

	(void)b;
	(void)e;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair),
			 0);
	setsockopt(pair[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	assert_int_equal(box_of(sid)->agent_fd, -1);
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
	.memory = fake_memory,
	.network = fake_network,
	.refused = fake_refused,
	.connect = fake_connect,
};
struct backend fake_backend = { .ops = &fake_ops };

static struct err outcome(enum err_code code)
{
	struct err e = ERR_INIT;

	if (code != ERR_NONE)
		err_set(&e, code, "no such luck");
	return e;
}

void answer_memory(enum err_code code)
{
	struct err e = outcome(code);

	assert_true(fake.memory_answered < fake.memory_count);
	struct fake_call *c = &fake.memory[fake.memory_answered++];

	c->done(c->arg, &e);
}

void answer_refused(const char *name)
{
	struct err none = ERR_INIT;

	assert_true(fake.refused_answered < fake.refused_count);
	struct fake_call *c = &fake.refused[fake.refused_answered++];

	c->refused(c->arg, &name, name ? 1 : 0, &none);
}

void answer_kernel(enum err_code code)
{
	struct err e = outcome(code);

	assert_true(fake.kernels_answered < fake.kernel_count);
	struct fake_call *c = &fake.kernels[fake.kernels_answered++];

	c->kernel(c->arg, code == ERR_NONE ? open("/dev/null", O_RDWR | O_CLOEXEC) : -1, &e);
}

/* The same each time it is connected. */
uint32_t address_of(const char *sid)
{
	return 0xc6120000u + 1 + (uint32_t)(box_of(sid) - fake.boxes);
}

void answer_network(size_t n, enum err_code code)
{
	struct err e = outcome(code);
	struct fake_call *c = &fake.network[n];

	assert_true(n < fake.network_count && !c->answered);
	c->answered = true;
	c->network(c->arg, c->on && code == ERR_NONE ? address_of(c->sid) : 0, &e);
}

/* --- the loop --- */

static struct loop_timer *poller;
static bool (*until)(void);
static int polls;

static void poll_until(void *arg)
{
	(void)arg;
	for (size_t i = 0; i < fake.box_count; i++)
		hear(&fake.boxes[i]);
	if (until() || ++polls > 10000)
		loop_stop();
	else
		loop_timer_start(poller, 1);
}

void run_until(bool (*condition)(void))
{
	until = condition;
	polls = 0;
	loop_timer_start(poller, 0);
	loop_run();
	assert_true(condition());
}

static int turns;

/* Longer than any pause that the controller makes before refilling. */
static bool turned(void)
{
	return ++turns > 60;
}

void settle(void)
{
	turns = 0;
	run_until(turned);
}

/* --- the pool --- */

static const struct runtime *runtime_of(const char *container_type, void *arg)
{
	(void)container_type;
	(void)arg;
	return &fake_runtime;
}

struct pools_config fake_config(void)
{
	return (struct pools_config){
		.store = fake.store,
		.backend = &fake_backend,
		.runtime_of = runtime_of,
		.starting_max = 20,
		.result_max = 1 << 20,
		.executions_kept = 4,
		.queued_code_max = 1 << 20,
		.results_kept_max = 1 << 20,
		.contexts_max = 4,
		.terminals_max = 2,
		.answer_wait_ms = 1,
		.names_wait_ms = 3600 * 1000,
	};
}

static void on_change(const char *key, bool deleted, void *arg)
{
	(void)arg;
	pools_document(fake.pools, key, deleted);
}

static void on_ready(void *arg, const struct err *e)
{
	(void)arg;
	(void)e;
}

void fake_put_pool(const char *properties)
{
	struct err e = ERR_INIT;
	OWNED_MEM char *body =
		str_printf("{\"location\":\"local\",\"properties\":{\"containerType\":"
			   "\"PythonLTS\",%s}}",
			   properties);

	if (arm_put_internal(fake.arm, POOL, body, "2025-07-01", &e) < 0)
		fail_msg("%s", e.msg);
}

void fake_start(const struct pools_config *config, const char *properties)
{
	struct err e = ERR_INIT;

	assert_int_equal(pools_new(config, &fake.pools, &e), 0);
	arm_on_change(fake.arm, "Microsoft.App/sessionPools", on_change, NULL);
	fake_put_pool(properties);
	pools_start(fake.pools, on_ready, NULL);
}

void fake_store_adopted(void)
{
	struct err e = ERR_INIT;
	struct store_session row = { .sid = ADOPTED_SID,
				     .pool_key = KEY,
				     .identifier = "ann-1",
				     .guid = "11111111-1111-4111-8111-111111111111",
				     .image = IMAGE,
				     .created_us = INT64_MAX / 2,
				     .accessed_us = INT64_MAX / 2 };

	assert_int_equal(store_session_put(fake.store, &row, &e), 0);
	fake.listed = ADOPTED_SID;
	add_box(ADOPTED_SID);
}

struct session *fake_session(const char *identifier)
{
	return session_find(pool_find(fake.pools, STR(KEY)), str_from(identifier));
}

struct session *fake_open_session(const struct pools_config *config)
{
	struct err e = ERR_INIT;

	fake.network_answers = true;
	fake_start(config, FAKE_ONE_SESSION);
	settle();
	struct session *s = session_open(pool_find(fake.pools, STR(KEY)), STR("ann-1"), &e);

	if (!s)
		fail_msg("%s", e.msg);
	settle();
	assert_asked("kernel, ");
	return s;
}

struct session *fake_adopt_session(const struct pools_config *config)
{
	fake.network_answers = true;
	fake_store_adopted();
	fake_start(config, FAKE_ONE_SESSION);
	settle();
	assert_non_null(fake_session("ann-1"));
	assert_asked("");
	return fake_session("ann-1");
}

void executed(void *arg, struct execution *x, const struct err *e)
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

struct execution_params fake_execution(void)
{
	return (struct execution_params){
		.code = STR("1"),
		.execution_type = "Synchronous",
		.output_max = 4096,
	};
}

void run_params(struct session *s, struct outcome *o, const struct execution_params *p)
{
	struct err e = ERR_INIT;

	*o = (struct outcome){ 0 };
	o->x = session_execute(s, p, p->async ? NULL : executed, o, &e);
	if (!o->x)
		fail_msg("%s", e.msg);
}

void assert_started(size_t count)
{
	settle();
	assert_int_equal(heard_count(AGENT_EXEC), count);
}

void assert_outcome(const struct outcome *o, enum agent_exec_status status, const char *text)
{
	assert_int_equal(o->calls, 1);
	assert_int_equal(o->code, ERR_NONE);
	assert_int_equal(o->status, status);
	if (!strstr(o->text, text))
		fail_msg("no '%s' in: %s", text, o->text);
}

void assert_failed(const struct outcome *o, enum err_code code)
{
	assert_int_equal(o->calls, 1);
	assert_int_equal(o->code, code);
}

int fake_setup(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	fake = (struct fake){ 0 };
	log_init("test", LOG_ERROR);
	snprintf(dir, sizeof(dir), "/tmp/bivouac-fake-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(loop_init(&e), 0);
	assert_int_equal(store_open(dir, &fake.store, &e), 0);
	struct arm_config config = { fake.store, SUB, "local", "Local", NULL };

	assert_int_equal(arm_new(&config, &fake.arm, &e), 0);
	assert_int_equal(
		arm_put_internal(fake.arm, GROUP, "{\"location\":\"local\"}", "2021-04-01", &e), 0);
	poller = loop_timer_new(poll_until, NULL);
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

int fake_teardown(void **state)
{
	OWNED_MEM char *command = str_printf("rm -rf %s", dir);

	(void)state;
	drained_now = false;
	pools_drain(fake.pools, on_drained, NULL);
	while (fake.memory_answered < fake.memory_count)
		answer_memory(ERR_UNAVAILABLE);
	while (fake.refused_answered < fake.refused_count)
		answer_refused(NULL);
	while (fake.kernels_answered < fake.kernel_count)
		answer_kernel(ERR_UNAVAILABLE);
	for (size_t i = 0; i < fake.network_count; i++)
		if (!fake.network[i].answered)
			answer_network(i, ERR_UNAVAILABLE);
	run_until(is_drained);
	settle();
	for (size_t i = 0; i < fake.box_count; i++) {
		if (fake.boxes[i].agent_fd >= 0)
			close(fake.boxes[i].agent_fd);
		buf_done(&fake.boxes[i].in);
	}
	pools_free(fake.pools);
	arm_free(fake.arm);
	store_close(fake.store);
	loop_timer_free(poller);
	loop_done();
	return system(command);
}
