/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of execute requests. One that is accepted has code and limits within what the pool and the
 * daemon allow; one that is refused has a message and a code for a caller's mistake.
 */
#include "base/json.h"
#include "pool/internal.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct str fuzz_text;

static struct str fuzz_body(struct http_request *rq)
{
	(void)rq;
	return fuzz_text;
}

/* The parser is static; its request is these bytes. */
#define http_body(rq) fuzz_body(rq)
#include "../../src/api/execute_body.c"

#define CODE_MAX   1000
#define OUTPUT_MAX 100000

/* NUL bytes end words, and are nowhere else. */
static void check_text(const struct execution_params *p)
{
	assert(p->code.len <= CODE_MAX && utf8_valid(p->code));
	if (!p->argv) {
		assert(!p->code.len || !memchr(p->code.ptr, 0, p->code.len));
		return;
	}
	assert(p->command && p->code.len >= 2 && p->code.ptr[0]);
	assert(!p->code.ptr[p->code.len - 1]);
}

static void check_accepted(const struct call *c, const struct execute_body *b)
{
	const struct execution_params *p = &b->params;
	const struct session_pool_spec *spec = pool_spec(c->pool);
	struct err e = ERR_INIT;

	check_text(p);
	assert(p->output_max <= OUTPUT_MAX);
	assert(p->execution_type[0] && strlen(p->execution_type) < sizeof(b->type));
	if (p->async)
		assert(p->timeout_ms <= 7 * 86400 * 1000 && b->on_disconnect != ON_DISCONNECT_STOP);
	else
		assert(p->timeout_ms > 0 && p->timeout_ms <= spec->timeout_max_ms);
	if (p->language.len)
		assert(str_eq(p->language, STR("python")) || str_eq(p->language, STR("shell")));
	if (p->command)
		assert(str_eq(p->language, STR("shell")) && c->shape == SHAPE_NEW);
	if (p->context.len)
		assert(context_name_check(p->context, &e) == 0);
}

static void parse(struct pool *pool, enum shape shape)
{
	static const struct data_plane_config config = { .code_max = CODE_MAX };
	struct call call = { .config = &config, .pool = pool, .shape = shape };
	struct execute_body body = { 0 };
	struct err e = ERR_INIT;

	if (execute_body_parse(&call, &body, &e) == 0) {
		assert(e.code == ERR_NONE);
		check_accepted(&call, &body);
	} else {
		int status = err_http_status(e.code);

		assert(e.msg[0] && (status == 400 || status == 413));
	}
	execute_body_done(&body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct pools pools = { .config = { .output_limit = OUTPUT_MAX } };
	static const struct runtime python = { .languages = { "python", "shell" },
					       .language_count = 2 };
	static const struct runtime shell = { .languages = { "shell", "python" },
					      .language_count = 2 };
	static struct pool pool = { .pools = &pools,
				    .spec = { .container_type = "PythonLTS",
					      .memory_bytes = 1u << 30,
					      .timeout_default_ms = 60000,
					      .timeout_max_ms = 220000,
					      .output_max = 5000 } };

	fuzz_text = (struct str){ (const char *)data, size };
	pool.runtime = &python;
	parse(&pool, SHAPE_NEW);
	parse(&pool, SHAPE_OLD);
	pool.runtime = &shell;
	parse(&pool, SHAPE_NEW);
	return 0;
}
