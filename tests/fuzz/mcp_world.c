/* SPDX-License-Identifier: Apache-2.0 */
#include "mcp_world.h"

#include "arm/mcp_keys.h"

#include <assert.h>
#include <stdlib.h>

struct session_wait {
	void (*open)(void *arg, struct session *s, struct agent_link *link);
	void (*failed)(void *arg, const struct err *e);
	void *arg;
};

struct agent_file_op {
	const struct agent_file_events *ev;
	void *arg;
	bool listing, reading, deleting;
};

static struct str script;
static bool there; /* the session */
/* What is under way: at most one of them. */
static struct session_wait *wait;
static struct execution *running;
static struct agent_file_op *file;
static struct session_pool_spec spec = { .name = "fuzz",
					 .mcp = true,
					 .cooldown_s = 300,
					 .timeout_default_ms = 1000,
					 .timeout_max_ms = 2000,
					 .output_max = 100,
					 .upload_max_bytes = 200 };
static const struct pools_config pools = { .output_limit = 1000 };
static const struct data_plane_config config = { .code_max = 100, .list_max = 10 };

uint8_t mcp_world_byte(void)
{
	if (!script.len)
		return 0;
	script.len--;
	return (uint8_t)*script.ptr++;
}

static struct session *the_session(void)
{
	static int place;

	return (struct session *)&place;
}

static struct agent_link *the_link(void)
{
	static int place;

	return (struct agent_link *)&place;
}

static void *new_thing(size_t size)
{
	void *p = calloc(1, size);

	assert(p && mcp_world_idle());
	return p;
}

bool mcp_world_idle(void)
{
	return !wait && !running && !file;
}

void mcp_world_begin(struct http_request *rq, struct str new_script, struct str body)
{
	*rq = (struct http_request){ .body = body };
	script = new_script;
	there = false;
	assert(mcp_world_idle());
}

void mcp_world_end(struct http_request *rq)
{
	if (rq->deferred)
		rq->deferred(rq->deferred_arg);
	assert(mcp_world_idle());
	for (size_t i = 0; i < rq->memory_count; i++)
		free(rq->memory[i]);
	free(rq->reply);
}

/* --- what goes on by itself --- */

static void turn_wait(const struct err *e)
{
	struct session_wait w = *wait;

	free(wait);
	wait = NULL;
	if (mcp_world_byte() & 1)
		w.failed(w.arg, e);
	else
		w.open(w.arg, the_session(), the_link());
}

static void turn_execution(const struct err *e)
{
	struct execution *x = running;

	running = NULL;
	x->state = EXECUTION_FINISHED;
	x->result.status = mcp_world_byte() & 1 ? AGENT_RESULT_ERROR : AGENT_RESULT_OK;
	x->done(x->arg, x, mcp_world_byte() & 1 ? e : NULL);
	free(x);
}

static void end_file(void (**ret_done)(void *), const struct agent_file_events **ev, void **arg)
{
	*ev = file->ev;
	*arg = file->arg;
	*ret_done = file->ev->done;
	free(file);
	file = NULL;
}

static void turn_file(const struct err *e)
{
	static const struct agent_file entry = { .size = 7, .path = { "a\xff", 2 } };
	const struct agent_file_events *ev = file->ev;
	void *arg = file->arg;
	uint8_t how = mcp_world_byte();
	void (*done)(void *);

	if (how % 4 == 1) {
		end_file(&done, &ev, &arg);
		ev->failed(arg, e);
	} else if (file->reading && how % 4 == 2) {
		ev->info(arg, &entry);
	} else if (file->reading && how % 4 == 3) {
		ev->data(arg, (struct str){ "\xc3\xa4z", 1 + how / 4 % 3 });
	} else if (!file->reading && ev->drained && how % 4 == 2) {
		ev->drained(arg);
	} else if (file->listing) {
		end_file(&done, &ev, &arg);
		ev->entries(arg, &entry, how / 4 % 2, how / 8 % 2);
	} else if (file->reading || file->deleting) {
		end_file(&done, &ev, &arg);
		done(arg);
	} else {
		end_file(&done, &ev, &arg);
		ev->info(arg, &entry);
	}
}

bool mcp_world_turn(void)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_CONFLICT, "cut within a character: \xe2\x82");
	if (wait)
		turn_wait(&e);
	else if (running)
		turn_execution(&e);
	else if (file)
		turn_file(&e);
	else
		return false;
	return true;
}

/* --- pool --- */

const struct session_pool_spec *pool_spec(const struct pool *pool)
{
	(void)pool;
	return &spec;
}

const struct pools_config *pool_config(const struct pool *pool)
{
	(void)pool;
	return &pools;
}

const struct runtime *pool_runtime(const struct pool *pool)
{
	static const struct runtime all = { .languages = { "python", "shell", "node" },
					    .language_count = 3 };

	(void)pool;
	return &all;
}

bool runtime_has(const struct runtime *r, const char *language)
{
	return r->language_count && *language;
}

int identifier_check(struct str identifier, struct err *e)
{
	for (size_t i = 0; i < identifier.len; i++)
		if (identifier.ptr[i] <= ' ' || identifier.ptr[i] >= 0x7f)
			return err_set(e, ERR_INVALID, "characters");
	return identifier.len < IDENTIFIER_MIN || identifier.len > IDENTIFIER_MAX
		       ? err_set(e, ERR_INVALID, "length")
		       : 0;
}

struct session *session_find(struct pool *pool, struct str identifier)
{
	(void)pool;
	(void)identifier;
	return there ? the_session() : NULL;
}

struct session *session_open(struct pool *pool, struct str identifier, struct err *e)
{
	(void)pool;
	assert(identifier_check(identifier, e) == 0);
	if (mcp_world_byte() & 1) {
		err_set(e, ERR_SESSIONS_MAX, "full");
		return NULL;
	}
	there = true;
	return the_session();
}

void session_delete(struct session *s)
{
	assert(s == the_session() && there);
	there = false;
}

struct session_wait *session_when_open(struct session *s,
				       void (*open)(void *arg, struct session *s,
						    struct agent_link *link),
				       void (*failed)(void *arg, const struct err *e), void *arg)
{
	struct err e = ERR_INIT;

	assert(s == the_session() && mcp_world_idle());
	switch (mcp_world_byte() % 3) {
	case 0:
		open(arg, s, the_link());
		return NULL;
	case 1:
		err_set(&e, ERR_QUEUE_FULL, "queue");
		failed(arg, &e);
		return NULL;
	}
	wait = new_thing(sizeof(*wait));
	*wait = (struct session_wait){ open, failed, arg };
	return wait;
}

void session_wait_cancel(struct session_wait *w)
{
	assert(w == wait);
	free(w);
	wait = NULL;
}

struct execution *session_execute(struct session *s, const struct execution_params *p,
				  void (*done)(void *arg, struct execution *x, const struct err *e),
				  void *arg, struct err *e)
{
	assert(s == the_session());
	assert(p->code.len <= config.code_max && utf8_valid(p->code));
	assert(p->timeout_ms > 0 && p->timeout_ms <= spec.timeout_max_ms);
	assert(p->output_max <= pools.output_limit);
	assert(p->argv ? !p->code.ptr[p->code.len - 1] : !memchr(p->code.ptr, 0, p->code.len));
	if (mcp_world_byte() & 1) {
		err_set(e, ERR_QUEUE_FULL, "queue");
		return NULL;
	}
	running = new_thing(sizeof(*running));
	running->done = done;
	running->arg = arg;
	return running;
}

void execution_detach(struct execution *x, bool keep)
{
	assert(x == running && !keep);
	free(x);
	running = NULL;
}

void render_execution(struct buf *b, const struct call *c, const struct execution *x)
{
	static const char *const replies[] = {
		"{\"status\":\"Succeeded\",\"result\":{\"stdout\":\"\\u0000\",\"executionResult\":0.1}}",
		"{\"status\":\"Succeeded\",\"result\":{\"executionResult\":{\"type\":\"image\","
		"\"format\":\"png\",\"base64_data\":\"QQ==\"}}}",
		"{\"status\":\"Failed\",\"error\":{\"code\":\"x\"},\"result\":{\"displayData\":["
		"{\"format\":\"png\",\"base64_data\":\"QQ==\"},{\"format\":1}]}}",
		"{",
	};

	assert(c->identifier.len >= IDENTIFIER_MIN && x->state == EXECUTION_FINISHED);
	buf_add_str(b, str_from(replies[mcp_world_byte() % ARRAY_LEN(replies)]));
}

bool mcp_keys_good(struct store *s, const char *pool_key, int64_t now_us, struct str key)
{
	(void)s;
	return pool_key && now_us && key.len;
}

/* --- files --- */

int files_path(struct str directory, struct str name, char out[AGENT_PATH_MAX + 1], struct err *e)
{
	assert(!directory.len);
	if (name.len && (name.ptr[0] == '.' || !str_copy(name, out, AGENT_PATH_MAX + 1)))
		return err_set(e, ERR_INVALID, "path");
	if (!name.len)
		out[0] = '\0';
	return 0;
}

void files_clean_name(struct buf *b, struct str name)
{
	buf_add_utf8(b, name);
}

static struct agent_file_op *new_file(struct str path, const struct agent_file_events *ev,
				      void *arg)
{
	assert(path.len <= AGENT_PATH_MAX);
	if (mcp_world_byte() & 1)
		return NULL;
	file = new_thing(sizeof(*file));
	file->ev = ev;
	file->arg = arg;
	return file;
}

struct agent_file_op *agent_file_list(struct agent_link *l, struct str path, bool recursive,
				      uint32_t max, const struct agent_file_events *ev, void *arg)
{
	struct agent_file_op *f = new_file(path, ev, arg);

	assert(l == the_link() && max == config.list_max);
	(void)recursive;
	if (f)
		f->listing = true;
	return f;
}

struct agent_file_op *agent_file_read(struct agent_link *l, struct str path,
				      const struct agent_file_events *ev, void *arg)
{
	struct agent_file_op *f = new_file(path, ev, arg);

	assert(l == the_link() && path.len);
	if (f)
		f->reading = true;
	return f;
}

struct agent_file_op *agent_file_delete(struct agent_link *l, struct str path,
					const struct agent_file_events *ev, void *arg)
{
	struct agent_file_op *f = new_file(path, ev, arg);

	assert(l == the_link() && path.len);
	if (f)
		f->deleting = true;
	return f;
}

struct agent_file_op *agent_file_write(struct agent_link *l, struct str path, uint64_t size_max,
				       const struct agent_file_events *ev, void *arg)
{
	assert(l == the_link() && path.len && size_max == spec.upload_max_bytes);
	return new_file(path, ev, arg);
}

void agent_file_credit(struct agent_file_op *op, size_t bytes)
{
	assert(op == file && bytes);
}

size_t agent_file_put(struct agent_file_op *op, const char *data, size_t len)
{
	size_t n = mcp_world_byte();

	assert(op == file && len <= spec.upload_max_bytes && data);
	return n < len ? n : len;
}

void agent_file_end(struct agent_file_op *op)
{
	assert(op == file);
}

void agent_file_cancel(struct agent_file_op *op)
{
	assert(op == file);
	free(op);
	file = NULL;
}

/* --- request --- */

struct call *call_begin(struct http_request *rq, void *ctx, enum shape shape)
{
	struct call *c = http_alloc(rq, sizeof(*c));

	assert(!ctx);
	c->rq = rq;
	c->config = &config;
	c->shape = shape;
	return c;
}

struct pool *call_pool(struct http_request *rq, const struct data_plane_config *data_plane,
		       struct err *e)
{
	(void)rq;
	(void)data_plane;
	(void)e;
	return NULL;
}

void call_fail(struct call *c, const struct err *e)
{
	http_reply_err(c->rq, e);
}

void *http_alloc(struct http_request *rq, size_t size)
{
	void *p = calloc(1, size);

	assert(p && rq->memory_count < ARRAY_LEN(rq->memory));
	return rq->memory[rq->memory_count++] = p;
}

int http_defer(struct http_request *rq, void (*fn)(void *arg), void *arg)
{
	assert(!rq->deferred);
	rq->deferred = fn;
	rq->deferred_arg = arg;
	return 0;
}

bool http_header(const struct http_request *rq, const char *name, struct str *ret)
{
	(void)rq;
	(void)name;
	(void)ret;
	return false;
}

struct str http_body(const struct http_request *rq)
{
	return rq->body;
}

static void answered(struct http_request *rq, int status)
{
	assert(!rq->status);
	rq->status = status;
}

void http_reply_owned(struct http_request *rq, int status, const char *content_type, char *data,
		      size_t len)
{
	answered(rq, status);
	assert(strcmp(content_type, "application/json") == 0 && !data[len]);
	rq->reply = data;
	rq->reply_len = len;
}

void http_reply_empty(struct http_request *rq, int status)
{
	answered(rq, status);
}

void http_reply_err(struct http_request *rq, const struct err *e)
{
	answered(rq, err_http_status(e->code));
}
