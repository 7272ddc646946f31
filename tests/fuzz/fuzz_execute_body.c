/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bodies of execute requests. One that is accepted has code and limits within what the pool and the
 * daemon allow; one that is refused has a message and a code for a caller's mistake.
 */
#include "api/internal.h"
#include "base/json.h"
#include "base/own.h"
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
#include "../../src/api/execute.c"

#define CODE_MAX   1000
#define OUTPUT_MAX 100000

static void check_accepted(const struct execute_state *st)
{
	const struct execution_params *p = &st->params;
	const struct session_pool_spec *spec = pool_spec(st->call->pool);

	assert(p->code.len <= CODE_MAX && utf8_valid(p->code));
	assert(!p->code.len || !memchr(p->code.ptr, 0, p->code.len));
	assert(p->output_max <= OUTPUT_MAX);
	assert(p->execution_type[0] && strlen(p->execution_type) < sizeof(st->type));
	if (p->async)
		assert(p->timeout_ms <= 7 * 86400 * 1000);
	else
		assert(p->timeout_ms > 0 && p->timeout_ms <= spec->timeout_max_ms);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct pools pools = { .config = { .output_limit = OUTPUT_MAX } };
	static struct pool pool = { .pools = &pools,
				    .spec = { .container_type = "PythonLTS",
					      .timeout_default_ms = 60000,
					      .timeout_max_ms = 220000,
					      .output_max = 5000 } };
	static const struct data_plane_config config = { .code_max = CODE_MAX };
	struct call call = { .config = &config, .pool = &pool };
	struct execute_state st = { .call = &call };
	struct err e = ERR_INIT;

	fuzz_text = (struct str){ (const char *)data, size };
	if (parse_body(&st, &e) == 0) {
		assert(e.code == ERR_NONE);
		check_accepted(&st);
	} else {
		int status = err_http_status(e.code);

		assert(e.msg[0] && (status == 400 || status == 413));
	}
	json_decref(st.body);
	free(st.code_owned);
	return 0;
}
