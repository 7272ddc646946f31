/* SPDX-License-Identifier: Apache-2.0 */
#include "arm/arm.h"
#include "arm/mcp_keys.h"
#include "base/clock.h"
#include "base/own.h"
#include "fake_http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>

#define GROUP "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/rg"
#define POOL  GROUP "/providers/Microsoft.App/sessionPools/pool1"
#define KEY                                                                                        \
	"/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/rg/providers/"         \
	"microsoft.app/sessionpools/pool1"
#define VERSION "?api-version=2025-10-02-preview"
#define SECOND  1000000ll

static char dir[64];
static struct store *store;
static struct arm *arm;
static struct http_server *server;
static struct fake_reply last;

static int call(const char *method, const char *target, const char *body)
{
	fake_reply_done(&last);
	last = fake_call(server, method, target, NULL, body, NULL);
	return last.status;
}

static int setup(void **state)
{
	struct err e = ERR_INIT;
	struct arm_config config = {
		.subscription = "00000000-0000-0000-0000-000000000000",
		.location = "local",
		.location_display = "Local",
	};

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/bivouac-mcp-XXXXXX");
	assert_non_null(mkdtemp(dir));
	assert_int_equal(store_open(dir, &store, &e), 0);
	config.store = store;
	assert_int_equal(arm_new(&config, &arm, &e), 0);
	server = fake_server_new();
	assert_int_equal(arm_routes(arm, server, &e), 0);
	assert_int_equal(call("PUT", GROUP "?api-version=2021-04-01", "{\"location\":\"local\"}"),
			 201);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	fake_reply_done(&last);
	last = (struct fake_reply){ 0 };
	fake_server_free(server);
	arm_free(arm);
	store_close(store);
	OWNED_MEM char *command = str_printf("rm -rf %s", dir);

	assert_int_equal(system(command), 0);
	return 0;
}

static void put_pool(const char *settings)
{
	OWNED_MEM char *body = str_printf("{\"location\":\"local\",\"properties\":{"
					  "\"mcpServerSettings\":%s}}",
					  settings);

	assert_int_equal(call("PUT", POOL VERSION, body), 200);
}

static json_t *reply(void)
{
	json_t *json = json_loads(last.body.ptr ? last.body.ptr : "", 0, NULL);

	assert_non_null(json);
	return json;
}

static void fetch(const char *action, char ret[static MCP_KEY_SIZE])
{
	OWNED_MEM char *target = str_printf(POOL "/%s" VERSION, action);

	assert_int_equal(call("POST", target, NULL), 200);
	assert_string_equal(last.permission, ARM_WRITE);
	json_t *json = reply();
	const char *key = json_string_value(json_object_get(json, "apiKey"));

	assert_int_equal(json_object_size(json), 1);
	assert_non_null(key);
	assert_true(str_copy(str_from(key), ret, MCP_KEY_SIZE));
	assert_int_equal(strlen(ret), MCP_KEY_SIZE - 1);
	json_decref(json);
}

static void assert_refused(int status, const char *text)
{
	assert_int_equal(last.status, status);
	if (!strstr(last.body.ptr, text))
		fail_msg("no '%s' in %s", text, last.body.ptr);
}

static void test_fetch_and_rotate(void **state)
{
	char one[MCP_KEY_SIZE], again[MCP_KEY_SIZE], two[MCP_KEY_SIZE], three[MCP_KEY_SIZE];
	int64_t now = clock_wall_us();

	(void)state;
	put_pool("{\"isMCPServerEnabled\":true}");
	assert_false(mcp_keys_good(store, KEY, now, STR("")));
	fetch("fetchMcpServerCredentials", one);
	fetch("fetchMCPServerCredentials", again); /* as the documentation spells it */
	assert_string_equal(one, again);
	assert_true(mcp_keys_good(store, KEY, now, str_from(one)));
	fetch("rotateMcpServerCredentials", two);
	assert_string_not_equal(one, two);
	assert_true(mcp_keys_good(store, KEY, clock_wall_us(), str_from(one)));
	assert_true(mcp_keys_good(store, KEY, clock_wall_us(), str_from(two)));
	fetch("rotateMcpServerCredentials", three);
	/* Of the old ones only the last is good. */
	assert_false(mcp_keys_good(store, KEY, clock_wall_us(), str_from(one)));
	assert_true(mcp_keys_good(store, KEY, clock_wall_us(), str_from(two)));
	fetch("fetchMcpServerCredentials", again);
	assert_string_equal(three, again);
}

static void test_grace_is_five_minutes(void **state)
{
	char old[MCP_KEY_SIZE], new[MCP_KEY_SIZE];
	struct err e = ERR_INIT;
	const int64_t t = 1800000000 * SECOND;

	(void)state;
	assert_int_equal(mcp_keys_fetch(store, KEY, old, &e), 0);
	assert_int_equal(mcp_keys_rotate(store, KEY, t, new, &e), 0);
	assert_true(mcp_keys_good(store, KEY, t, str_from(old)));
	assert_true(mcp_keys_good(store, KEY, t + 300 * SECOND - 1, str_from(old)));
	assert_false(mcp_keys_good(store, KEY, t + 300 * SECOND, str_from(old)));
	assert_false(mcp_keys_good(store, KEY, t - 1, str_from(old)));
	assert_true(mcp_keys_good(store, KEY, t + 300 * SECOND, str_from(new)));
	assert_true(mcp_keys_good(store, KEY, t - 1, str_from(new)));
}

static void test_wrong_keys(void **state)
{
	char key[MCP_KEY_SIZE];
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(mcp_keys_fetch(store, KEY, key, &e), 0);
	assert_false(mcp_keys_good(store, KEY "2", 1, str_from(key)));
	assert_false(mcp_keys_good(store, KEY, 1, (struct str){ key, MCP_KEY_SIZE - 2 }));
	for (size_t i = 0; i < MCP_KEY_SIZE - 1; i++) {
		key[i] ^= 1;
		assert_false(mcp_keys_good(store, KEY, 1, str_from(key)));
		key[i] ^= 1;
	}
	assert_true(mcp_keys_good(store, KEY, 1, str_from(key)));
}

static void test_namesakes_have_keys_of_their_own(void **state)
{
	char one[MCP_KEY_SIZE], two[MCP_KEY_SIZE];

	(void)state;
	put_pool("{\"isMcpServerEnabled\":true}");
	fetch("fetchMcpServerCredentials", one);
	assert_int_equal(call("DELETE", POOL VERSION, NULL), 200);
	assert_false(mcp_keys_good(store, KEY, clock_wall_us(), str_from(one)));
	put_pool("{\"isMcpServerEnabled\":true}");
	fetch("fetchMcpServerCredentials", two);
	assert_string_not_equal(one, two);
	/* With its group as well. */
	assert_int_equal(call("DELETE", GROUP "?api-version=2021-04-01", NULL), 200);
	assert_false(mcp_keys_good(store, KEY, clock_wall_us(), str_from(two)));
}

static void test_disabled(void **state)
{
	(void)state;
	assert_int_equal(call("POST", POOL "/fetchMcpServerCredentials" VERSION, NULL), 404);
	put_pool("{\"isMcpServerEnabled\":false}");
	call("POST", POOL "/fetchMcpServerCredentials" VERSION, NULL);
	assert_refused(400, "SessionMCPServerNotEnabled: Session pool");
	assert_refused(400, "Session pool 'pool1' does not have MCP Server enabled.");
	call("POST", POOL "/rotateMcpServerCredentials" VERSION, NULL);
	assert_refused(400, "SessionMCPServerNotEnabled: Session pool");
	put_pool("{\"isMcpServerEnabled\":true,\"isMcpServerApiKeyDisabled\":true}");
	call("POST", POOL "/fetchMcpServerCredentials" VERSION, NULL);
	assert_refused(400, "isMcpServerApiKeyDisabled");
	assert_int_equal(call("POST", POOL "/fetchMcpServerCredentials", NULL), 400);
	assert_int_equal(call("GET", POOL "/fetchMcpServerCredentials" VERSION, NULL), 405);
	assert_int_equal(call("POST", POOL "/stealMcpServerCredentials" VERSION, NULL), 404);
}

static void test_shown(void **state)
{
	char key[MCP_KEY_SIZE];

	(void)state;
	put_pool("{\"isMCpServerEnabled\":true}");
	fetch("fetchMcpServerCredentials", key);
	assert_int_equal(call("GET", POOL VERSION, NULL), 200);
	assert_null(strstr(last.body.ptr, key));
	json_t *json = reply();
	json_t *mcp = json_object_get(json_object_get(json, "properties"), "mcpServerSettings");
	const char *endpoint = json_string_value(json_object_get(mcp, "mcpServerEndpoint"));

	assert_true(json_is_true(json_object_get(mcp, "isMcpServerEnabled")));
	assert_true(json_is_false(json_object_get(mcp, "isMcpServerApiKeyDisabled")));
	assert_non_null(endpoint);
	assert_non_null(strstr(endpoint, "/sessionPools/pool1/mcp"));
	json_decref(json);
	put_pool("{\"isMcpServerEnabled\":false}");
	assert_int_equal(call("GET", POOL VERSION, NULL), 200);
	assert_null(strstr(last.body.ptr, "mcpServerEndpoint"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_fetch_and_rotate, setup, teardown),
		cmocka_unit_test_setup_teardown(test_grace_is_five_minutes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_keys, setup, teardown),
		cmocka_unit_test_setup_teardown(test_namesakes_have_keys_of_their_own, setup,
						teardown),
		cmocka_unit_test_setup_teardown(test_disabled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_shown, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
