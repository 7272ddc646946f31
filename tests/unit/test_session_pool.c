/* SPDX-License-Identifier: Apache-2.0 */
#include "arm/arm.h"
#include "base/own.h"
#include "fake_http.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>
#include <stdio.h>
#include <sys/resource.h>

#define SUB      "/subscriptions/00000000-0000-0000-0000-000000000000"
#define GROUP    SUB "/resourceGroups/RG-one"
#define PROVIDER "/providers/Microsoft.App/sessionPools"
#define POOL     GROUP PROVIDER "/pool1"
#define KEY                                                                                        \
	"/subscriptions/00000000-0000-0000-0000-000000000000/resourcegroups/rg-one/providers/"     \
	"microsoft.app/"                                                                           \
	"sessionpools/pool1"
#define NEW "?api-version=2025-07-01"
#define OLD "?api-version=2024-02-02-preview"
#define ANY "?api-version=2021-04-01"

static char dir[64];
static struct store *store;
static struct arm *arm;
static struct http_server *server;
static struct fake_reply last;
static struct identity_caller caller = { .oid = "o", .name = "ada@example.org" };
static char changes[1024];
static char unenforced[32];

static const char *egress_off_text;

static const char *egress_off(void)
{
	return egress_off_text;
}

static const char *const *types;

static const char *container_type(size_t n)
{
	return types[n];
}

static void on_change(const char *key, bool deleted, void *arg)
{
	(void)arg;
	strncat(changes, deleted ? "-" : "+", sizeof(changes) - strlen(changes) - 1);
	strncat(changes, strrchr(key, '/') + 1, sizeof(changes) - strlen(changes) - 1);
}

static int call(const char *method, const char *target, const char *headers, const char *body)
{
	fake_reply_done(&last);
	last = fake_call(server, method, target, headers, body, &caller);
	return last.status;
}

static const char *body(void)
{
	return last.body.ptr ? last.body.ptr : "";
}

#define assert_has(text, part)                                                                     \
	do {                                                                                       \
		if (!strstr(text, part))                                                           \
			fail_msg("no '%s' in: %s", part, text);                                    \
	} while (0)
#define assert_call(want, method, target, text)                                                    \
	do {                                                                                       \
		int got_ = call(method, target, NULL, text);                                       \
		if (got_ != (want))                                                                \
			fail_msg("%s %s: %d %s", method, target, got_, body());                    \
	} while (0)

static int setup(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/bivouac-arm-XXXXXX");
	assert_non_null(mkdtemp(dir));
	if (store_open(dir, &store, &e) < 0)
		fail_msg("%s", e.msg);
	struct arm_config config = { store,         "00000000-0000-0000-0000-000000000000",
				     "local",       "My Place",
				     unenforced,    egress_off,
				     container_type };

	assert_int_equal(arm_new(&config, &arm, &e), 0);
	server = fake_server_new();
	if (arm_routes(arm, server, &e) < 0)
		fail_msg("%s", e.msg);
	static const char *const python[] = { "PythonLTS", NULL };

	types = python;
	changes[0] = '\0';
	egress_off_text = NULL;
	arm_on_change(arm, "microsoft.app/sessionpools", on_change, NULL);
	assert_call(201, "PUT", SUB "/resourcegroups/RG-one" ANY, "{\"location\":\"local\"}");
	return 0;
}

static int teardown(void **state)
{
	static const char *const files[] = {
		"documents.db", "documents.db-wal", "documents.db-shm",
		"sessions.db",  "sessions.db-wal",  "store.lock",
	};

	(void)state;
	fake_reply_done(&last);
	fake_server_free(server);
	arm_free(arm);
	store_close(store);
	for (size_t i = 0; i < ARRAY_LEN(files); i++) {
		char path[128];

		snprintf(path, sizeof(path), "%s/%s", dir, files[i]);
		unlink(path);
	}
	return rmdir(dir);
}

static struct session_pool_spec load(void)
{
	struct session_pool_spec spec;
	struct store_doc doc;
	struct err e = ERR_INIT;

	assert_int_equal(store_doc_get(store, KEY, &doc, &e), 1);
	if (session_pool_spec_load(&doc, &spec, &e) < 0)
		fail_msg("%s", e.msg);
	store_doc_done(&doc);
	return spec;
}

/* What az and the SDKs send, nulls and strings included. */
static void test_create(void **state)
{
	(void)state;
	assert_call(200, "PUT", POOL NEW,
		    "{\"location\":\"my "
		    "place\",\"tags\":{\"Owner\":\"ada\"},\"identity\":{\"type\":\"None\","
		    "\"userAssignedIdentities\":null},\"unknown\":1,\"properties\":{"
		    "\"environmentId\":null,"
		    "\"customContainerTemplate\":null,\"secrets\":null,\"managedIdentitySettings\":"
		    "null,"
		    "\"POOLMANAGEMENTTYPE\":\"dynamic\",\"containertype\":\"pythonlts\","
		    "\"scaleconfiguration\":{"
		    "\"MaxConcurrentSessions\":\"20\",\"readySessionInstances\":\"5\"},"
		    "\"dynamicPoolConfiguration\":{\"lifecycleConfiguration\":{\"LifecycleType\":"
		    "\"timed\","
		    "\"coolDownPeriodInSeconds\":\"600\"}},\"sessionNetworkConfiguration\":{"
		    "\"status\":"
		    "\"egressdisabled\"},\"sessionLimits\":{\"Memory\":\"2Gi\",\"CPU\":\"0.5\"}}}");
	assert_has(body(), "\"id\":\"" POOL "\"");
	assert_has(body(), "\"name\":\"pool1\"");
	assert_has(body(), "\"type\":\"Microsoft.App/sessionPools\"");
	assert_has(body(), "\"location\":\"My Place\"");
	assert_has(body(), "\"tags\":{\"Owner\":\"ada\"}");
	assert_has(body(), "\"containerType\":\"PythonLTS\"");
	assert_has(body(), "\"poolManagementType\":\"Dynamic\"");
	assert_has(body(), "\"maxConcurrentSessions\":20,\"readySessionInstances\":5");
	assert_has(body(), "\"lifecycleType\":\"Timed\",\"cooldownPeriodInSeconds\":600");
	assert_has(body(), "\"status\":\"EgressDisabled\"");
	assert_has(body(), "\"provisioningState\":\"Succeeded\"");
	assert_has(body(), "\"poolManagementEndpoint\":\"http://localhost:8080" GROUP
			   "/sessionPools/pool1\"");
	assert_has(body(), "\"createdBy\":\"ada@example.org\",\"createdByType\":\"User\"");
	assert_null(strstr(body(), "unknown"));
	assert_has(last.headers.ptr, "api-supported-versions: 2023-08-01-preview, ");
	assert_has(last.headers.ptr, "ETag: \"");
	assert_string_equal(last.permission, ARM_WRITE);
	struct session_pool_spec s = load();

	assert_string_equal(s.key, KEY);
	assert_string_equal(s.subscription, "00000000-0000-0000-0000-000000000000");
	assert_string_equal(s.group, "RG-one");
	assert_string_equal(s.name, "pool1");
	assert_string_equal(s.container_type, "PythonLTS");
	assert_string_equal(s.isolation, "auto");
	assert_int_equal(s.sessions_max, 20);
	assert_int_equal(s.ready_min, 5);
	assert_int_equal(s.cooldown_s, 600);
	assert_false(s.egress);
	assert_true(s.memory_bytes == 2ull << 30);
	assert_int_equal(s.cpu_millis, 500);
	/* The rest has its defaults. */
	assert_true(s.data_bytes == 512ull << 20);
	assert_true(s.tmp_bytes == 256ull << 20);
	assert_int_equal(s.inodes, 65536);
	assert_int_equal(s.pids, 256);
	assert_int_equal(s.open_files, 4096);
	assert_int_equal(s.output_max, 4096);
	assert_int_equal(s.timeout_default_ms, 1800000);
	assert_int_equal(s.timeout_max_ms, 1800000);
	assert_int_equal(s.queue_max, 1024);
	assert_true(s.upload_max_bytes == 128ull << 20);
	assert_string_equal(changes, "+pool1");
}

static void test_forms(void **state)
{
	(void)state;
	/* The flat form, at an old and at a new version. */
	static const char flat[] = "{\"location\":\"local\",\"properties\":{\"containerType\":"
				   "\"PythonLTS\","
				   "\"dynamicPoolConfiguration\":{\"executionType\":\"Timed\","
				   "\"cooldownPeriodInSeconds\":61}}}";

	assert_call(200, "PUT", POOL OLD, flat);
	assert_has(body(), "\"dynamicPoolConfiguration\":{\"executionType\":\"Timed\","
			   "\"cooldownPeriodInSeconds\":61}");
	assert_null(strstr(body(), "lifecycleConfiguration"));
	assert_call(200, "PUT", POOL NEW, flat);
	assert_has(body(), "\"dynamicPoolConfiguration\":{\"lifecycleConfiguration\":{"
			   "\"lifecycleType\":\"Timed\","
			   "\"cooldownPeriodInSeconds\":61}}");
	assert_int_equal(load().cooldown_s, 61);
	/* The last flat version and the first other one. */
	assert_call(200, "GET", POOL "?api-version=2024-10-02-preview", NULL);
	assert_has(body(), "executionType");
	assert_call(200, "GET", POOL "?api-version=2025-01-01", NULL);
	assert_has(body(), "lifecycleConfiguration");
	/* New form at an old version. */
	assert_call(200, "PUT", POOL OLD,
		    "{\"properties\":{\"dynamicPoolConfiguration\":{\"lifecycleConfiguration\":{"
		    "\"cooldownPeriodInSeconds\":62}}}}");
	assert_int_equal(load().cooldown_s, 62);
	/* Both at once: only if they agree. */
	assert_call(200, "PUT", POOL NEW,
		    "{\"properties\":{\"dynamicPoolConfiguration\":{\"cooldownPeriodInSeconds\":"
		    "\"63\","
		    "\"lifecycleConfiguration\":{\"cooldownPeriodInSeconds\":63}}}}");
	assert_call(400, "PUT", POOL NEW,
		    "{\"properties\":{\"dynamicPoolConfiguration\":{\"cooldownPeriodInSeconds\":64,"
		    "\"lifecycleConfiguration\":{\"cooldownPeriodInSeconds\":63}}}}");
	assert_has(body(), "It contradicts");
	/* PATCH with either form. */
	assert_call(200, "PATCH", POOL OLD,
		    "{\"properties\":{\"dynamicPoolConfiguration\":{\"CooldownPeriodInSeconds\":"
		    "\"70\"}}}");
	assert_int_equal(load().cooldown_s, 70);
	assert_call(200, "PATCH", POOL NEW,
		    "{\"properties\":{\"DynamicPoolConfiguration\":{\"LifecycleConfiguration\":{"
		    "\"cooldownPeriodInSeconds\":71}}}}");
	assert_int_equal(load().cooldown_s, 71);
	assert_call(200, "PATCH", POOL NEW,
		    "{\"properties\":{\"dynamicPoolConfiguration\":{\"cooldownPeriodInSeconds\":"
		    "null}}}");
	assert_int_equal(load().cooldown_s, 300);
	/* No configuration at all: defaults. */
	assert_call(200, "PUT", POOL NEW, "{}");
	assert_int_equal(load().sessions_max, 10);
	assert_has(body(), "\"scaleConfiguration\":{\"maxConcurrentSessions\":10}");
}

/* Puts a pool whose properties are the printed text; returns the status. */
static int put_with(const char *fmt, ...)
{
	char props[512];
	char text[700];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(props, sizeof(props), fmt, ap);
	va_end(ap);
	snprintf(text, sizeof(text), "{\"location\":\"local\",\"properties\":{%s}}", props);
	return call("PUT", POOL NEW, NULL, text);
}

static void test_limits(void **state)
{
	static const struct {
		const char *path; /* printf of the properties with one value */
		const char *name; /* in the message */
		const char *good[2];
		const char *bad[2];
	} rows[] = {
#define LIMIT(n) "\"sessionLimits\":{\"" n "\":%s}", "'sessionLimits." n "'"
		{ LIMIT("memory"), { "\"64Mi\"", "\"1Ti\"" }, { "67108863", "1099511627777" } },
		{ LIMIT("dataSize"), { "\"1Mi\"", "\"1024Gi\"" }, { "\"1023Ki\"", "\"1.1Ti\"" } },
		{ LIMIT("tmpSize"), { "1048576", "1099511627776" }, { "1048575", "\"x\"" } },
		{ LIMIT("inodes"), { "64", "\"16777216\"" }, { "63", "16777217" } },
		{ LIMIT("pids"), { "8", "32768" }, { "7", "32769" } },
		{ LIMIT("openFiles"), { "64", "\"1024\"" }, { "63", "1048577" } },
		{ LIMIT("cpu"), { "0.05", "256" }, { "\"0.049\"", "256.1" } },
		{ LIMIT("outputStreamsMaxLength"), { "1", "1048576" }, { "0", "1048577" } },
		{ LIMIT("maxTimeoutInSeconds"), { "1", "86400" }, { "0", "86401" } },
		{ LIMIT("defaultTimeoutInSeconds"), { "1", "1800" }, { "0", "1801" } },
		{ LIMIT("queueLength"), { "1", "10000" }, { "-1", "10001" } },
		{ LIMIT("maxUploadSizeInBytes"), { "1", "68719476736" }, { "0", "68719476737" } },
		{ "\"scaleConfiguration\":{\"maxConcurrentSessions\":%s}",
		  "'scaleConfiguration.maxConcurrentSessions'",
		  { "1", "10000" },
		  { "0", "10001" } },
		{ "\"scaleConfiguration\":{\"readySessionInstances\":%s}",
		  "readySessionInstances",
		  { "0", "9" },
		  { "-1", "10" } },
		{ "\"dynamicPoolConfiguration\":{\"lifecycleConfiguration\":{"
		  "\"cooldownPeriodInSeconds\":%s}}",
		  "Unexpected value: 'dynamicPoolConfiguration.lifecycleConfiguration."
		  "cooldownPeriodInSeconds'. 'Must not be null and be >= 60 and be <= 3600.'",
		  { "60", "3600" },
		  { "59", "\"3601\"" } },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		for (size_t j = 0; j < 2; j++) {
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
			if (put_with(rows[i].path, rows[i].good[j]) != 200)
				fail_msg("%s %s: %s", rows[i].name, rows[i].good[j], body());
			if (put_with(rows[i].path, rows[i].bad[j]) != 400)
				fail_msg("%s %s was accepted", rows[i].name, rows[i].bad[j]);
#pragma GCC diagnostic pop
			assert_has(body(), rows[i].name);
		}
	}
	assert_int_equal(put_with("\"sessionLimits\":{\"defaultTimeoutInSeconds\":7200,"
				  "\"maxTimeoutInSeconds\":7200}"),
			 200);
	assert_int_equal(load().timeout_default_ms, 7200000);
	/* A maximum below the standard default lowers it. */
	assert_int_equal(put_with("\"sessionLimits\":{\"maxTimeoutInSeconds\":30}"), 200);
	assert_int_equal(load().timeout_default_ms, 30000);
}

/* Not more than the host gives, whatever the table allows. */
static void test_open_files_of_host(void **state)
{
	struct rlimit host;
	char value[24];

	(void)state;
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &host), 0);
	if (host.rlim_max > 1048575)
		host.rlim_max = 1048575;
	struct rlimit lower = { host.rlim_max - 1, host.rlim_max - 1 };

	assert_int_equal(setrlimit(RLIMIT_NOFILE, &lower), 0);
	snprintf(value, sizeof(value), "%llu", (unsigned long long)host.rlim_max - 1);
	assert_int_equal(put_with("\"sessionLimits\":{\"openFiles\":%s}", value), 200);
	assert_int_equal(load().open_files, host.rlim_max - 1);
	snprintf(value, sizeof(value), "%llu", (unsigned long long)host.rlim_max);
	assert_int_equal(put_with("\"sessionLimits\":{\"openFiles\":%s}", value), 400);
	snprintf(value, sizeof(value), "<= %llu,", (unsigned long long)host.rlim_max - 1);
	assert_has(body(), value);
	assert_has(body(), "'sessionLimits.openFiles'");
}

static void test_unenforced(void **state)
{
	(void)state;
	assert_int_equal(put_with("\"sessionLimits\":{}"), 200);
	assert_null(strstr(body(), "unenforced"));
	snprintf(unenforced, sizeof(unenforced), "pids cpu");
	assert_call(200, "GET", POOL NEW, NULL);
	assert_has(body(), "\"unenforced\":[\"pids\",\"cpu\"]");
	/* Read only: what a client sends back is nothing to keep. */
	assert_int_equal(put_with("\"unenforced\":[\"landlock\"]"), 200);
	assert_has(body(), "\"unenforced\":[\"pids\",\"cpu\"]");
	unenforced[0] = '\0';
	assert_call(200, "GET", POOL NEW, NULL);
	assert_null(strstr(body(), "unenforced"));
}

static void test_refusals(void **state)
{
	static const struct {
		const char *props;
		const char *want;
	} rows[] = {
		{ "\"containerType\":\"NodeLTS\"", "SessionTypeNotSupportedInRegion: Session type "
						   "'NodeLTS' is not "
						   "supported in this location: its image is "
						   "not built. Build it with: bivouac image build "
						   "--runtime node, and start bivouacd again. "
						   "Supported here: [PythonLTS]." },
		{ "\"containerType\":\"shell\"", "bivouac image build --runtime shell" },
		{ "\"containerType\":\"CustomContainer\"",
		  "SessionTypeNotSupportedInRegion: Session type 'CustomContainer' is not "
		  "supported in this location. Supported here: [PythonLTS]." },
		{ "\"containerType\":\"Cobol\"", "Valid types are: [PythonLTS, CustomContainer, "
						 "NodeLTS, GpuBase, CsharpLTS, Shell]" },
		{ "\"containerType\":7", "InvalidRequestContent: 'properties.containerType' must "
					 "be" },
		{ "\"poolManagementType\":\"System\"", "SessionPoolInvalidPoolManagementType" },
		{ "\"scaleConfiguration\":{\"readySessionInstances\":10}",
		  "SessionPoolInvalidReadySessionInstances" },
		{ "\"isolation\":\"oci\"", "'isolation'. 'Isolation oci is not available" },
		{ "\"isolation\":\"MicroVM\"", "Isolation microvm is not available" },
		{ "\"isolation\":\"cage\"", "Valid values are: auto, process, oci, microvm" },
		{ "\"minimumIsolation\":\"microvm\"", "'minimumIsolation'" },
		{ "\"sessionNetworkConfiguration\":{\"status\":\"Maybe\"}", "Valid values are: "
									    "EgressEnabled, "
									    "EgressDisabled" },
		{ "\"environmentId\":\"/x\"", "'environmentId'" },
		{ "\"customContainerTemplate\":{}", "'customContainerTemplate'" },
		{ "\"managedIdentitySettings\":[{\"identity\":\"system\",\"lifecycle\":\"Main\"}]",
		  "SessionPoolManagedIdentityCreationError" },
		{ "\"dynamicPoolConfiguration\":{\"lifecycleConfiguration\":{\"lifecycleType\":"
		  "\"OnContainerExit\"}}",
		  "'Must be Timed" },
		{ "\"dynamicPoolConfiguration\":{\"lifecycleConfiguration\":{"
		  "\"maxAlivePeriodInSeconds\":60}}",
		  "maxAlivePeriodInSeconds" },
		{ "\"secrets\":[{\"name\":\"a\"}]", "'secrets[0].value'" },
		{ "\"secrets\":[{\"value\":\"a\"}]", "'secrets[0].name'" },
		{ "\"scaleConfiguration\":{\"a\":1,\"a\":2}", "InvalidRequestContent" },
		{ "\"isolation\":\"auto\",\"Isolation\":\"process\"", "given twice" },
		{ "\"scaleConfiguration\":[]", "must be an object" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(put_with("%s", rows[i].props), 400);
		assert_has(body(), rows[i].want);
	}
	assert_string_equal(changes, "");
	assert_call(404, "GET", POOL NEW, NULL);
	assert_has(body(), "ResourceNotFound");
	assert_call(400, "PUT", POOL NEW, "{\"properties\":{}}");
	assert_has(body(), "LocationRequired");
	assert_call(400, "PUT", POOL NEW, "{\"location\":\"east;us\"}");
	assert_has(body(), "LocationNotAvailableForResourceType");
	assert_call(400, "PUT", POOL NEW,
		    "{\"location\":\"local\",\"identity\":{\"type\":\"SystemAssigned\"}}");
	assert_has(body(), "SessionPoolManagedIdentityCreationError");
	assert_call(400, "PUT", POOL NEW, "[]");
	assert_call(400, "PUT", POOL NEW, "");
	assert_call(404, "PUT", SUB "/resourceGroups/none" PROVIDER "/pool1" NEW,
		    "{\"location\":\"local\"}");
	assert_has(body(), "ResourceGroupNotFound");
	static const char *const names[] = { "ab", "1abc", "Abc", "ab-", "a_b", "a%2Fb" };

	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		OWNED_MEM char *url = str_printf(GROUP PROVIDER "/%s" NEW, names[i]);

		assert_call(400, "PUT", url, "{\"location\":\"local\"}");
		assert_has(body(), "InvalidResourceName");
	}
	for (int len = 63; len <= 64; len++) {
		OWNED_MEM char *url = str_printf(GROUP PROVIDER "/a%0*d" NEW, len - 1, 1);

		assert_call(len == 63 ? 200 : 400, "PUT", url, "{\"location\":\"local\"}");
	}
}

static void test_container_types(void **state)
{
	static const char *const installed[] = { "PythonLTS", "NodeLTS", "PerlLTS", NULL };
	static const char *const without_perl[] = { "PythonLTS", "NodeLTS", NULL };
	const char *perl =
		"{\"location\":\"local\",\"properties\":{\"containerType\":\"perlLTS\"}}";

	(void)state;
	assert_int_equal(put_with("\"containerType\":\"perllts\""), 400);
	assert_has(body(), "'perllts' is not a valid type");
	types = installed;
	/* Respelled as its recipe has it. */
	assert_int_equal(put_with("\"containerType\":\"perllts\""), 200);
	assert_has(body(), "\"containerType\":\"PerlLTS\"");
	assert_string_equal(load().container_type, "PerlLTS");
	assert_call(200, "PUT", POOL NEW, perl);
	assert_call(400, "PUT", POOL NEW,
		    "{\"location\":\"local\",\"properties\":{\"containerType\":\"nodelts\"}}");
	assert_has(body(), "Changing property 'properties.containerType' from 'PerlLTS'");
	assert_call(400, "PUT", POOL NEW,
		    "{\"location\":\"local\",\"properties\":{\"containerType\":\"Cobol\"}}");
	assert_has(body(), "Valid types are: [PythonLTS, CustomContainer, NodeLTS, GpuBase, "
			   "CsharpLTS, Shell, PerlLTS].");
	/* Its image is gone: the pool can be changed, no other one made. */
	types = without_perl;
	assert_call(200, "PUT", POOL NEW, perl);
	assert_call(200, "PATCH", POOL NEW,
		    "{\"properties\":{\"scaleConfiguration\":{\"maxConcurrentSessions\":7}}}");
	assert_has(body(), "\"containerType\":\"PerlLTS\"");
	assert_call(400, "PUT", GROUP PROVIDER "/another" NEW, perl);
	assert_has(body(), "'perlLTS' is not a valid type");
	assert_call(200, "PUT", GROUP PROVIDER "/another" NEW,
		    "{\"location\":\"local\",\"properties\":{\"containerType\":\"NODELTS\"}}");
	assert_has(body(), "\"containerType\":\"NodeLTS\"");
}

static void test_update(void **state)
{
	char headers[128];

	(void)state;
	assert_call(404, "PATCH", POOL NEW, "{}");
	assert_call(200, "PUT", POOL NEW,
		    "{\"location\":\"local\",\"tags\":{\"a\":\"1\",\"b\":\"2\"},\"properties\":{"
		    "\"containerType\":"
		    "\"PythonLTS\",\"secrets\":[{\"name\":\"s\",\"value\":\"hush\"}],\"isolation\":"
		    "\"PROCESS\"}}");
	assert_null(strstr(body(), "hush"));
	assert_has(body(), "\"secrets\":[{\"name\":\"s\"}]");
	assert_string_equal(load().isolation, "process");
	/* What was read can be sent back. */
	OWNED_MEM char *shown = strdup(body());

	assert_call(200, "PUT", POOL NEW, shown);
	assert_call(200, "PATCH", POOL NEW, shown);
	struct store_doc doc;

	assert_int_equal(store_doc_get(store, KEY, &doc, NULL), 1);
	assert_has(doc.json, "hush");
	store_doc_done(&doc);
	/* Merge patch; immutable and read-only properties. */
	assert_call(200, "PATCH", POOL NEW,
		    "{\"tags\":{\"A\":null,\"c\":\"3\"},\"properties\":{\"ScaleConfiguration\":{"
		    "\"maxConcurrentSessions\":7},\"provisioningState\":\"x\",\"containerType\":"
		    "\"pythonlts\"}}");
	assert_has(body(), "\"tags\":{\"b\":\"2\",\"c\":\"3\"}");
	assert_int_equal(load().sessions_max, 7);
	assert_call(400, "PATCH", POOL NEW, "{\"properties\":{\"containerType\":\"Shell\"}}");
	assert_has(body(), "PropertyChangeNotAllowed");
	assert_call(400, "PUT", POOL NEW, "{\"properties\":{\"containerType\":\"Shell\"}}");
	assert_has(body(), "PropertyChangeNotAllowed");
	assert_call(400, "PATCH", POOL NEW, "{\"properties\":{\"environmentId\":\"/e\"}}");
	assert_has(body(), "PropertyChangeNotAllowed");
	assert_call(409, "PUT", POOL NEW, "{\"location\":\"mars\"}");
	assert_has(body(), "InvalidResourceLocation");
	/* Names in any case name the same pool. */
	assert_call(200, "GET",
		    "//SUBSCRIPTIONS/00000000-0000-0000-0000-000000000000/resourcegroups/rg-ONE/"
		    "PROVIDERS/"
		    "microsoft.app//SESSIONPOOLS/POOL1/" NEW,
		    NULL);
	assert_has(body(), "\"id\":\"" POOL "\"");
	/* ETags. */
	const char *etag = strstr(last.headers.ptr, "ETag: ") + 6;

	snprintf(headers, sizeof(headers), "If-None-Match: W/%.*s\n", (int)strcspn(etag, "\n"),
		 etag);
	assert_int_equal(call("GET", POOL NEW, headers, NULL), 304);
	etag = strstr(last.headers.ptr, "ETag: ") + 6;
	snprintf(headers, sizeof(headers), "If-Match: \"0\", %.*s\n", (int)strcspn(etag, "\n"),
		 etag);
	assert_int_equal(call("PATCH", POOL NEW, headers, "{}"), 200);
	assert_int_equal(call("PATCH", POOL NEW, headers, "{}"), 412);
	assert_int_equal(call("PUT", POOL NEW, "If-None-Match: *\n", "{}"), 412);
	assert_int_equal(call("DELETE", POOL NEW, headers, NULL), 412);
	assert_int_equal(call("DELETE", POOL NEW, "If-Match: *\n", NULL), 200);
	assert_int_equal(call("PUT", POOL NEW, "If-Match: *\n", "{\"location\":\"local\"}"), 412);
	assert_int_equal(call("DELETE", POOL NEW, NULL, NULL), 204);
}

static void test_egress(void **state)
{
	static const char enabled[] =
		"{\"properties\":{\"sessionNetworkConfiguration\":{\"Status\":\"egressENABLED\"}}}";
	static const char disabled[] =
		"{\"properties\":{\"sessionNetworkConfiguration\":{\"status\":\"egressdisabled\"}}}";

	(void)state;
	assert_call(200, "PUT", POOL NEW, "{\"location\":\"local\"}");
	assert_has(body(), "{\"status\":\"EgressDisabled\"}");
	assert_false(load().egress);
	assert_call(200, "PATCH", POOL NEW, enabled);
	assert_has(body(), "{\"status\":\"EgressEnabled\"}");
	assert_true(load().egress);
	/* What is not said stays. */
	assert_call(200, "PATCH", POOL NEW, "{\"tags\":{\"a\":\"b\"}}");
	assert_true(load().egress);
	assert_call(200, "PATCH", POOL NEW, disabled);
	assert_false(load().egress);
	/* Where it is not offered, the reason is told and the pool stays as it is. */
	egress_off_text = "nft is not installed; apt install nftables";
	changes[0] = '\0';
	assert_call(400, "PATCH", POOL NEW, enabled);
	assert_has(body(), "InvalidSessionPoolConfiguration");
	assert_has(body(),
		   "'sessionNetworkConfiguration.status'. 'EgressEnabled is not available "
		   "on this machine: nft is not installed; apt install nftables.' Or choose "
		   "EgressDisabled.");
	assert_int_equal(
		put_with("%s", "\"sessionNetworkConfiguration\":{\"status\":\"EgressEnabled\"}"),
		400);
	assert_string_equal(changes, "");
	assert_false(load().egress);
	assert_call(200, "PATCH", POOL NEW, disabled);
}

static void test_api_version(void **state)
{
	static const char *const bad[] = { "?api-version=2020-01-01", "?api-version=latest",
					   "?api-version=2025-07-011" };

	(void)state;
	assert_call(400, "GET", POOL, NULL);
	assert_has(body(), "MissingApiVersionParameter");
	assert_call(400, "GET", POOL "?api-version=", NULL);
	assert_has(body(), "MissingApiVersionParameter");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		OWNED_MEM char *url = str_printf("%s%s", POOL, bad[i]);

		assert_call(400, "GET", url, NULL);
		assert_has(body(), "InvalidApiVersionParameter");
		assert_has(body(), "2023-08-01-preview,");
		assert_has(body(), "2026-07-01'");
	}
	assert_call(404, "GET", POOL "?API-VERSION=2024-10-02-PREVIEW", NULL);
	assert_call(400, "GET", SUB "?api-version=x", NULL);
	assert_has(body(), "InvalidApiVersionParameter");
	assert_call(200, "GET", SUB "?api-version=2099-01-01", NULL);
	assert_call(405, "POST", POOL NEW, NULL);
	assert_call(400, "GET", "/subscriptions/a%20b" ANY, NULL);
	assert_has(body(), "InvalidSubscriptionId");
}

static void test_lists(void **state)
{
	(void)state;
	assert_call(201, "PUT", SUB "/resourcegroups/RG-two" ANY, "{\"location\":\"My Place\"}");
	for (int i = 0; i < 5; i++) {
		OWNED_MEM char *url = str_printf(SUB "/resourceGroups/RG-%s" PROVIDER "/pool%d" NEW,
						 i < 3 ? "one" : "two", i);

		assert_call(200, "PUT", url, "{\"location\":\"local\"}");
	}
	assert_call(200, "GET", GROUP PROVIDER NEW, NULL);
	json_t *v = json_loads(body(), 0, NULL);

	assert_int_equal(json_array_size(json_object_get(v, "value")), 3);
	assert_null(json_object_get(v, "nextLink"));
	json_decref(v);
	/* Pages of two over the subscription. */
	OWNED_MEM char *next = strdup(SUB PROVIDER NEW "&$top=2");
	int pages = 0;
	size_t total = 0;

	while (next) {
		assert_call(200, "GET", next, NULL);
		v = json_loads(body(), 0, NULL);
		const char *link = json_string_value(json_object_get(v, "nextLink"));

		total += json_array_size(json_object_get(v, "value"));
		pages++;
		free(next);
		next = link ? strdup(link + strlen("http://localhost:8080")) : NULL;
		json_decref(v);
	}
	assert_int_equal(pages, 3);
	assert_int_equal(total, 5);
	static const char *const bad[] = { "&$top=0",        "&$top=1001",       "&$top=x",
					   "&$skipToken=zz", "&$skipToken=2f61", "&$skipToken=2" };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		OWNED_MEM char *url = str_printf("%s%s", SUB PROVIDER NEW, bad[i]);

		assert_call(400, "GET", url, NULL);
	}
	assert_call(404, "GET", SUB "/resourceGroups/none" PROVIDER NEW, NULL);
	assert_call(200, "GET", SUB "/resourcegroups" ANY, NULL);
	assert_has(body(), "RG-two");
	/* Deleting a group takes its pools along. */
	changes[0] = '\0';
	assert_call(200, "DELETE", SUB "/resourcegroups/rg-ONE" ANY, NULL);
	assert_string_equal(changes, "-pool0-pool1-pool2");
	assert_call(404, "GET", POOL NEW, NULL);
	assert_call(404, "DELETE", SUB "/resourcegroups/rg-ONE" ANY, NULL);
	assert_call(200, "GET", SUB PROVIDER NEW, NULL);
	assert_null(strstr(body(), "RG-one"));
	assert_has(body(), "pool4");
}

static void test_groups(void **state)
{
	(void)state;
	assert_call(200, "GET", GROUP ANY, NULL);
	assert_has(body(), "\"id\":\"" GROUP "\"");
	assert_has(body(), "\"type\":\"Microsoft.Resources/resourceGroups\"");
	assert_has(body(), "\"location\":\"local\"");
	assert_has(body(), "\"properties\":{\"provisioningState\":\"Succeeded\"}");
	assert_null(strstr(body(), "systemData"));
	assert_call(204, "HEAD", GROUP ANY, NULL);
	assert_call(404, "HEAD", SUB "/resourceGroups/none" ANY, NULL);
	assert_call(200, "PUT", GROUP ANY,
		    "{\"properties\":{},\"location\":\"local\",\"tags\":{\"a\":\"b\"}}");
	assert_call(200, "PATCH", GROUP ANY, "{\"tags\":{\"c\":\"d\"}}");
	assert_has(body(), "\"tags\":{\"a\":\"b\",\"c\":\"d\"}");
	assert_call(400, "PUT", SUB "/resourceGroups/ends." ANY, "{\"location\":\"local\"}");
	assert_call(400, "PUT", SUB "/resourceGroups/g" ANY, "{}");
	assert_call(400, "PUT", GROUP ANY, "{\"tags\":{\"\":\"x\"}}");
	for (int n = 50; n <= 51; n++) {
		struct buf b;

		buf_init(&b, 1 << 16);
		buf_addf(&b, "{\"location\":\"local\",\"tags\":{");
		for (int i = 0; i < n; i++)
			buf_addf(&b, "%s\"t%d\":\"\"", i ? "," : "", i);
		buf_addf(&b, "}}");
		assert_call(n == 50 ? 200 : 400, "PUT", GROUP ANY, b.ptr);
		buf_done(&b);
	}
	assert_string_equal(last.permission, ARM_WRITE);
}

static void test_pages(void **state)
{
	(void)state;
	assert_call(201, "PUT", "/subscriptions/abc/resourceGroups/g" ANY,
		    "{\"location\":\"local\"}");
	assert_call(200, "GET", "/subscriptions" ANY, NULL);
	assert_has(body(), "\"subscriptionId\":\"00000000-0000-0000-0000-000000000000\"");
	assert_has(body(), "\"id\":\"/subscriptions/abc\"");
	assert_call(200, "GET", SUB ANY, NULL);
	assert_has(body(), "\"state\":\"Enabled\"");
	assert_call(200, "GET", SUB "/locations" ANY, NULL);
	assert_has(body(), "\"name\":\"local\"");
	assert_call(200, "GET", SUB "/providers/microsoft.app" ANY, NULL);
	assert_has(body(), "\"registrationState\":\"Registered\"");
	assert_has(body(), "\"resourceType\":\"sessionPools\",\"locations\":[\"My "
			   "Place\"],\"apiVersions\":["
			   "\"2026-07-01\",\"2026-01-01\",");
	assert_call(200, "POST", SUB "/providers/Microsoft.App/register" ANY, NULL);
	assert_call(200, "GET", SUB "/providers" ANY, NULL);
	assert_has(body(), "\"namespace\":\"Microsoft.Resources\"");
	assert_call(404, "GET", SUB "/providers/Microsoft.Nope" ANY, NULL);
	assert_has(body(), "InvalidResourceNamespace");
	/* base64("sessionPools:<request id>") */
	static const char op[] =
		"c2Vzc2lvblBvb2xzOjExMTExMTExLTIyMjItNDMzMy04NDQ0LTU1NTU1NTU1NTU1NQ==";
	OWNED_MEM char *status = str_printf(SUB "/providers/Microsoft.App/locations/local/"
						"operationStatuses/%s" ANY,
					    op);
	OWNED_MEM char *result = str_printf(SUB "/providers/Microsoft.App/locations/local/"
						"operationResults/%s" ANY,
					    op);

	assert_call(404, "GET", status, NULL);
	assert_call(404, "GET", result, NULL);
	assert_call(200, "PUT", POOL NEW, "{\"location\":\"local\"}");
	assert_call(200, "GET", status, NULL);
	assert_has(body(), "\"status\":\"Succeeded\",\"startTime\":\"");
	assert_call(200, "GET", result, NULL);
	assert_has(body(), "\"name\":\"pool1\"");
	assert_call(200, "DELETE", POOL NEW, NULL);
	assert_call(204, "GET", result, NULL);
}

static void test_internal(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	assert_int_equal(arm_put_internal(arm, SUB "/resourceGroups/dev",
					  "{\"location\":\"local\"}", "2024-11-01", &e),
			 0);
	assert_int_equal(arm_put_internal(arm, SUB "/resourceGroups/dev" PROVIDER "/default",
					  "{\"location\":\"local\"}", "2025-07-01", &e),
			 0);
	assert_string_equal(changes, "+default");
	assert_int_equal(arm_put_internal(arm, SUB "/resourceGroups/dev" PROVIDER "/default", "{}",
					  "2000-01-01", &e),
			 -1);
	assert_int_equal(e.code, ERR_API_VERSION);
	assert_int_equal(
		arm_put_internal(arm, "/subscriptions/x/nothing/y", "{}", "2025-07-01", &e), -1);
	assert_int_equal(e.code, ERR_INVALID);
	assert_int_equal(arm_put_internal(arm, SUB "/resourceGroups/dev/providers/A/b/c", "{}",
					  "2025-07-01", &e),
			 -1);
	struct store_doc doc = { .key = (char *)"k", .json = (char *)"{\"properties\":{}}" };
	struct session_pool_spec spec;

	assert_int_equal(session_pool_spec_load(&doc, &spec, &e), -1);
	assert_int_equal(e.code, ERR_INTERNAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_create, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forms, setup, teardown),
		cmocka_unit_test_setup_teardown(test_limits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_open_files_of_host, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unenforced, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
		cmocka_unit_test_setup_teardown(test_container_types, setup, teardown),
		cmocka_unit_test_setup_teardown(test_update, setup, teardown),
		cmocka_unit_test_setup_teardown(test_egress, setup, teardown),
		cmocka_unit_test_setup_teardown(test_api_version, setup, teardown),
		cmocka_unit_test_setup_teardown(test_lists, setup, teardown),
		cmocka_unit_test_setup_teardown(test_groups, setup, teardown),
		cmocka_unit_test_setup_teardown(test_pages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_internal, setup, teardown),
	};

	return cmocka_run_group_tests_name("session_pool", tests, NULL, NULL);
}
