/* SPDX-License-Identifier: Apache-2.0 */
#include "arm/internal.h"

#include "base/own.h"
#include "base/rand.h"

#include <ctype.h>
#include <stdio.h>
#include <strings.h>

static void reply_unknown(struct http_request *rq, enum err_code code, const char *what,
			  struct str name, const char *why)
{
	struct err e = ERR_INIT;

	err_set(&e, code, "The %s '%.*s' %s.", what, (int)(name.len < 80 ? name.len : 80), name.ptr,
		why);
	http_reply_err(rq, &e);
}

/* Common start: api-version, and a subscription that is well-formed. Any such subscription is
 * served: the ids that clients bring along cost nothing until a resource group is made in one. */
static const char *begin(struct http_request *rq, struct arm_id *id)
{
	struct err e = ERR_INIT;
	const char *version = arm_begin(rq, NULL);

	if (!version)
		return NULL;
	if (arm_id_make(NULL, http_param(rq, "subscription"), STR("any"), (struct str){ 0 }, id,
			&e) < 0) {
		http_reply_err(rq, &e);
		return NULL;
	}
	return version;
}

/* --- subscriptions --- */

static json_t *subscription_body(const struct arm *arm, const char *subscription)
{
	return json_pack("{s:o, s:s, s:s, s:s, s:s, s:s, s:{s:s, s:s, s:s}}", "id",
			 json_sprintf("/subscriptions/%s", subscription), "subscriptionId",
			 subscription, "tenantId", ARM_TENANT, "displayName",
			 arm->config.location_display, "state", "Enabled", "authorizationSource",
			 "RoleBased", "subscriptionPolicies", "locationPlacementId",
			 "Internal_2014-09-01", "quotaId", "Internal_2014-09-01", "spendingLimit",
			 "Off");
}

struct subscriptions {
	struct arm *arm;
	json_t *value;
	char last[64];
};

static int add_subscription(const struct store_doc *d, void *arg, struct err *e)
{
	struct subscriptions *s = arg;
	const char *start = d->key + strlen("/subscriptions/");
	char name[64];

	/* Keys come in order, so the groups of one subscription stand together. */
	if (!str_copy((struct str){ start, strcspn(start, "/") }, name, sizeof(name)) ||
	    strcmp(name, s->last) == 0 || strcasecmp(name, s->arm->config.subscription) == 0)
		return 0;
	snprintf(s->last, sizeof(s->last), "%s", name);
	if (json_array_append_new(s->value, subscription_body(s->arm, name)) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	return 0;
}

static void handle_subscriptions(struct http_request *rq, void *ctx)
{
	struct subscriptions s = { .arm = ctx, .value = json_array() };
	struct err e = ERR_INIT;

	if (!arm_begin(rq, NULL)) {
		json_decref(s.value);
		return;
	}
	if (!s.value || json_array_append_new(
				s.value, subscription_body(s.arm, s.arm->config.subscription)) != 0)
		err_set(&e, ERR_NOMEM, "arm: out of memory");
	else
		store_doc_list(s.arm->config.store, "microsoft.resources/resourcegroups",
			       "/subscriptions/", NULL, -1, add_subscription, &s, &e);
	if (e.code != ERR_NONE) {
		json_decref(s.value);
		http_reply_err(rq, &e);
		return;
	}
	arm_reply_json(rq, 200, json_pack("{s:o}", "value", s.value));
}

static void handle_subscription(struct http_request *rq, void *ctx)
{
	struct arm_id id;

	if (begin(rq, &id))
		arm_reply_json(rq, 200, subscription_body(ctx, id.subscription));
}

static void handle_locations(struct http_request *rq, void *ctx)
{
	struct arm *arm = ctx;
	struct arm_id id;

	if (!begin(rq, &id))
		return;
	arm_reply_json(rq, 200,
		       json_pack("{s:[{s:o, s:s, s:s, s:s, s:s}]}", "value", "id",
				 json_sprintf("/subscriptions/%s/locations/%s", id.subscription,
					      arm->config.location),
				 "name", arm->config.location, "type", "Region", "displayName",
				 arm->config.location_display, "regionalDisplayName",
				 arm->config.location_display));
}

/* --- providers --- */

static const char *const namespaces[] = { "Microsoft.App", "Microsoft.Resources", NULL };
/* For types that take any version: the one clients should name. */
static const char *const default_versions[] = { "2021-04-01", "2024-11-01", NULL };

/* Newest first: the az CLI takes the first one that is no preview. */
static json_t *versions_body(const char *const *versions)
{
	json_t *out = json_array();

	for (; *versions; versions++)
		json_array_insert_new(out, 0, json_string(*versions));
	return out;
}

static json_t *resource_type_body(const struct arm *arm, const char *name,
				  const char *const *versions)
{
	return json_pack("{s:s, s:[s], s:o, s:s}", "resourceType", name, "locations",
			 arm->config.location_display, "apiVersions", versions_body(versions),
			 "capabilities", "SupportsTags, SupportsLocation");
}

static json_t *provider_body(const struct arm *arm, const char *subscription, const char *space)
{
	json_t *types = json_array();
	size_t len = strlen(space);
	const char *const *last_versions = default_versions;

	for (size_t i = 0; i < ARRAY_LEN(arm->types); i++) {
		const struct arm_type *t = arm->types[i].type;

		if (strncmp(t->name, space, len) != 0 || t->name[len] != '/')
			continue;
		last_versions = t->api_versions ? t->api_versions : default_versions;
		json_array_append_new(types,
				      resource_type_body(arm, t->name + len + 1, last_versions));
	}
	if (strcmp(space, "Microsoft.App") == 0) {
		json_array_append_new(types, resource_type_body(arm, "locations/operationStatuses",
								last_versions));
		json_array_append_new(types, resource_type_body(arm, "locations/operationResults",
								last_versions));
	}
	return json_pack("{s:o, s:s, s:s, s:s, s:o}", "id",
			 json_sprintf("/subscriptions/%s/providers/%s", subscription, space),
			 "namespace", space, "registrationPolicy", "RegistrationRequired",
			 "registrationState", "Registered", "resourceTypes", types);
}

static void handle_providers(struct http_request *rq, void *ctx)
{
	struct arm_id id;

	if (!begin(rq, &id))
		return;
	json_t *value = json_array();

	for (const char *const *n = namespaces; *n; n++)
		json_array_append_new(value, provider_body(ctx, id.subscription, *n));
	arm_reply_json(rq, 200, json_pack("{s:o}", "value", value));
}

/* GET, and POST …/register: everything that is served is registered. */
static void handle_provider(struct http_request *rq, void *ctx)
{
	struct arm_id id;
	struct str name = http_param(rq, "namespace");

	if (!begin(rq, &id))
		return;
	for (const char *const *n = namespaces; *n; n++) {
		if (str_eq_nocase(name, str_from(*n))) {
			arm_reply_json(rq, 200, provider_body(ctx, id.subscription, *n));
			return;
		}
	}
	reply_unknown(rq, ERR_NO_PROVIDER, "resource namespace", name, "is invalid");
}

/* --- operations --- */

/* Every operation ends within its request. It is recorded so that a client that polls by habit, or
 * wants to know what became of a request whose answer it lost, finds it by the request id. */
void arm_operation_record(struct arm *arm, const struct arm_type *type, const struct arm_id *id,
			  const char *request_id, int64_t started_us)
{
	struct arm_operation *op = &arm->operations[arm->operation_next];
	struct buf text;
	char plain[128];
	int n = snprintf(plain, sizeof(plain), "%s:%.60s", strchr(type->name, '/') + 1,
			 request_id ? request_id : "");

	buf_init(&text, sizeof(op->id) - 1);
	if (base64_encode(&text, plain, (size_t)n) &&
	    str_copy(buf_str(&text), op->id, sizeof(op->id))) {
		memcpy(op->subscription, id->subscription, sizeof(op->subscription));
		memcpy(op->key, id->key, sizeof(op->key));
		op->started_us = started_us;
		op->ended_us = clock_wall_us();
		arm->operation_next = (arm->operation_next + 1) % ARM_OPERATIONS_MAX;
	}
	buf_done(&text);
}

static const struct arm_operation *find_operation(struct http_request *rq, const struct arm *arm,
						  const struct arm_id *id)
{
	struct str name = http_param(rq, "operation");

	for (size_t i = 0; name.len && i < ARM_OPERATIONS_MAX; i++) {
		const struct arm_operation *op = &arm->operations[i];

		if (str_eq(name, str_from(op->id)) &&
		    strcasecmp(op->subscription, id->subscription) == 0)
			return op;
	}
	reply_unknown(rq, ERR_NO_RESOURCE, "operation", name, "was not found");
	return NULL;
}

static void handle_operation_status(struct http_request *rq, void *ctx)
{
	struct arm_id id;
	char start[CLOCK_TEXT_SIZE];
	char end[CLOCK_TEXT_SIZE];

	if (!begin(rq, &id))
		return;
	const struct arm_operation *op = find_operation(rq, ctx, &id);

	if (!op)
		return;
	struct str path = http_path(rq);

	arm_reply_json(rq, 200,
		       json_pack("{s:s%, s:s, s:s, s:s, s:s}", "id", path.ptr, path.len, "name",
				 op->id, "status", "Succeeded", "startTime",
				 clock_format(op->started_us, start), "endTime",
				 clock_format(op->ended_us, end)));
}

/* What the operation made: the resource as it is now, or 204 after a DELETE. */
static void handle_operation_result(struct http_request *rq, void *ctx)
{
	struct arm *arm = ctx;
	struct arm_id id;
	struct arm_resource r = { 0 };
	struct err e = ERR_INIT;
	const char *version = begin(rq, &id);

	if (!version)
		return;
	const struct arm_operation *op = find_operation(rq, arm, &id);

	if (!op)
		return;
	int found = arm_resource_get(arm, op->key, &r, &e);

	if (found < 0) {
		http_reply_err(rq, &e);
		return;
	}
	if (!found) {
		http_reply_empty(rq, 204);
		return;
	}
	const char *name = json_string_value(json_object_get(r.json, "type"));
	const struct arm_type *type = &arm_resource_group;

	for (size_t i = 0; name && i < ARRAY_LEN(arm->types); i++)
		if (strcmp(arm->types[i].type->name, name) == 0)
			type = arm->types[i].type;
	arm_reply_json(rq, 200, type->render(arm, r.json, version, http_base_url(rq)));
	arm_resource_done(&r);
}

#define SUBSCRIPTION "/subscriptions/{subscription}"
#define APP          SUBSCRIPTION "/providers/Microsoft.App/locations/{location}"

const struct http_route arm_pages[] = {
	{ "GET", "/subscriptions", handle_subscriptions, HTTP_BODY_NONE, ARM_READ,
	  "List subscriptions" },
	{ "GET", SUBSCRIPTION, handle_subscription, HTTP_BODY_NONE, ARM_READ,
	  "Get a subscription" },
	{ "GET", SUBSCRIPTION "/locations", handle_locations, HTTP_BODY_NONE, ARM_READ,
	  "List locations" },
	{ "GET", SUBSCRIPTION "/providers", handle_providers, HTTP_BODY_NONE, ARM_READ,
	  "List resource providers" },
	{ "GET", SUBSCRIPTION "/providers/{namespace}", handle_provider, HTTP_BODY_NONE, ARM_READ,
	  "Get a resource provider" },
	{ "POST", SUBSCRIPTION "/providers/{namespace}/register", handle_provider, HTTP_BODY_NONE,
	  ARM_WRITE, "Register a resource provider" },
	{ "GET", APP "/operationStatuses/{operation}", handle_operation_status, HTTP_BODY_NONE,
	  ARM_READ, "Status of an operation" },
	{ "GET", APP "/operationResults/{operation}", handle_operation_result, HTTP_BODY_NONE,
	  ARM_READ, "Result of an operation" },
};
const size_t arm_page_count = ARRAY_LEN(arm_pages);
