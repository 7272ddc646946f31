/* SPDX-License-Identifier: Apache-2.0 */
#include "arm/internal.h"

#include "base/own.h"
#include "base/rand.h"

#include <ctype.h>
#include <stdio.h>

#define PAGE_DEFAULT 100
#define PAGE_MAX     1000

static void reply_set(struct http_request *rq, enum err_code code, const char *text)
{
	struct err e = ERR_INIT;

	err_set(&e, code, "%s", text);
	http_reply_err(rq, &e);
}

const char *arm_begin(struct http_request *rq, const struct arm_type *type)
{
	struct err e = ERR_INIT;
	struct str version = { 0 };

	http_query(rq, "api-version", &version);
	if (arm_check_api_version(type, version, &e) < 0) {
		http_reply_err(rq, &e);
		return NULL;
	}
	char *copy = http_alloc(rq, version.len + 1);

	if (!copy) {
		reply_set(rq, ERR_NOMEM, "arm: out of memory");
		return NULL;
	}
	for (size_t i = 0; i < version.len; i++)
		copy[i] = (char)tolower((unsigned char)version.ptr[i]);
	return copy;
}

void arm_reply_json(struct http_request *rq, int status, json_t *body)
{
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

	json_decref(body);
	if (!text)
		reply_set(rq, ERR_NOMEM, "arm: out of memory");
	else
		http_reply_owned(rq, status, "application/json; charset=utf-8", text, strlen(text));
}

/* Common start of the handlers of a resource: version, id. */
static const char *begin_resource(struct http_request *rq, struct arm_binding *b, struct arm_id *id)
{
	struct err e = ERR_INIT;

	if (b->supported[0])
		http_set_header(rq, "api-supported-versions", b->supported);
	const char *version = arm_begin(rq, b->type);

	if (!version)
		return NULL;
	if (arm_id_make(b->type, http_param(rq, "subscription"), http_param(rq, "group"),
			http_param(rq, "name"), id, &e) < 0) {
		http_reply_err(rq, &e);
		return NULL;
	}
	return version;
}

static struct arm_condition condition_of(struct http_request *rq)
{
	struct arm_condition c = { 0 };

	if (!http_header(rq, "If-Match", &c.if_match))
		c.if_match = (struct str){ 0 };
	if (!http_header(rq, "If-None-Match", &c.if_none_match))
		c.if_none_match = (struct str){ 0 };
	return c;
}

static void reply_resource(struct http_request *rq, struct arm_binding *b, int status,
			   const struct arm_resource *r, const char *version)
{
	char etag[ARM_ETAG_SIZE];

	http_set_header(rq, "ETag", arm_etag_text(r->etag, etag));
	arm_reply_json(rq, status, b->type->render(b->arm, r->json, version, http_base_url(rq)));
}

static void handle_get(struct http_request *rq, void *ctx)
{
	struct arm_binding *b = ctx;
	struct arm_id id;
	struct arm_resource r = { 0 };
	struct err e = ERR_INIT;
	const char *version = begin_resource(rq, b, &id);

	if (!version)
		return;
	int found = arm_resource_get(b->arm, id.key, &r, &e);

	if (found <= 0) {
		if (found == 0)
			arm_resource_missing(b->type, &id, &e);
		http_reply_err(rq, &e);
		return;
	}
	struct arm_condition c = condition_of(rq);

	if (c.if_none_match.ptr && arm_etag_listed(c.if_none_match, r.etag)) {
		char etag[ARM_ETAG_SIZE];

		http_set_header(rq, "ETag", arm_etag_text(r.etag, etag));
		http_reply_empty(rq, 304);
	} else {
		reply_resource(rq, b, 200, &r, version);
	}
	arm_resource_done(&r);
}

/* HEAD of a group: 204 or 404, without a body. */
static void handle_head(struct http_request *rq, void *ctx)
{
	struct arm_binding *b = ctx;
	struct arm_id id;
	struct arm_resource r = { 0 };
	struct err e = ERR_INIT;

	if (!begin_resource(rq, b, &id))
		return;
	int found = arm_resource_get(b->arm, id.key, &r, &e);

	arm_resource_done(&r);
	if (found < 0)
		http_reply_err(rq, &e);
	else
		http_reply_empty(rq, found ? 204 : 404);
}

static void write_resource(struct http_request *rq, struct arm_binding *b, bool patch)
{
	struct arm_id id;
	struct arm_resource r = { 0 };
	struct err e = ERR_INIT;
	int64_t started_us = clock_wall_us();
	struct arm_condition cond = condition_of(rq);
	const struct identity_caller *caller = http_caller(rq);
	const char *version = begin_resource(rq, b, &id);

	if (!version)
		return;
	json_t *body = json_parse_object(http_body(rq), &e);
	int rc = body ? arm_resource_write(b, &id, body, patch, version,
					   caller && caller->name[0] ? caller->name : "anonymous",
					   &cond, &r, &e)
		      : -1;

	json_decref(body);
	if (rc < 0) {
		http_reply_err(rq, &e);
		return;
	}
	arm_operation_record(b->arm, b->type, &id, http_request_id(rq), started_us);
	/* Session pools answer 200 also when new, as the service does for built-in types: 201 would
	 * start polling. */
	reply_resource(rq, b, r.created && b->type->container ? 201 : 200, &r, version);
	arm_resource_done(&r);
}

static void handle_put(struct http_request *rq, void *ctx)
{
	write_resource(rq, ctx, false);
}

static void handle_patch(struct http_request *rq, void *ctx)
{
	write_resource(rq, ctx, true);
}

static void handle_delete(struct http_request *rq, void *ctx)
{
	struct arm_binding *b = ctx;
	struct arm_id id;
	struct err e = ERR_INIT;
	int64_t started_us = clock_wall_us();
	struct arm_condition cond = condition_of(rq);

	if (!begin_resource(rq, b, &id))
		return;
	int r = arm_resource_delete(b, &id, &cond, &e);

	if (r == 0 && b->type->container)
		r = arm_resource_missing(b->type, &id, &e);
	if (r < 0) {
		http_reply_err(rq, &e);
		return;
	}
	if (r == 1)
		arm_operation_record(b->arm, b->type, &id, http_request_id(rq), started_us);
	http_reply_empty(rq, r ? 200 : 204);
}

static void handle_action(struct http_request *rq, void *ctx)
{
	struct arm_binding *b = ctx;
	const struct arm_action *action = b->type->actions;
	struct arm_id id;
	struct arm_resource r = { 0 };
	struct err e = ERR_INIT;
	json_t *body = NULL;

	if (!begin_resource(rq, b, &id))
		return;
	for (size_t i = 0; http_route(rq)->pattern != b->patterns[3 + i]; i++)
		action++;
	int found = arm_resource_get(b->arm, id.key, &r, &e);

	if (found == 0)
		found = arm_resource_missing(b->type, &id, &e);
	if (found > 0)
		found = action->run(b->arm, id.key, r.json, &body, &e);
	arm_resource_done(&r);
	if (found < 0)
		http_reply_err(rq, &e);
	else
		arm_reply_json(rq, 200, body);
}

/* --- lists --- */

struct page {
	struct arm_binding *b;
	const char *version;
	const char *base_url;
	json_t *value;
	size_t top;
	bool more;
	char last[ARM_KEY_MAX];
};

static int add_to_page(const struct store_doc *d, void *arg, struct err *e)
{
	struct page *p = arg;

	if (json_array_size(p->value) == p->top) {
		p->more = true;
		return 0;
	}
	json_t *doc = json_parse_object(str_from(d->json), e);

	if (!doc)
		return err_set(e, ERR_INTERNAL, "The stored document '%s' is not readable.",
			       d->key);
	json_t *shown = p->b->type->render(p->b->arm, doc, p->version, p->base_url);

	json_decref(doc);
	if (!shown || json_array_append_new(p->value, shown) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	snprintf(p->last, sizeof(p->last), "%s", d->key);
	return 0;
}

/* $top and $skipToken. The token is the last key of the page before, in hexadecimal; it grants
 * nothing, and must lie in the listed range. */
static int read_paging(struct http_request *rq, const char *prefix, struct page *p,
		       char after[ARM_KEY_MAX], struct err *e)
{
	struct str text;
	uint64_t top = PAGE_DEFAULT;

	after[0] = '\0';
	if (http_query(rq, "$top", &text) && (!str_to_u64(text, PAGE_MAX, &top) || top == 0))
		return err_set(e, ERR_MALFORMED, "'$top' must be a number from 1 to %d.", PAGE_MAX);
	p->top = (size_t)top;
	if (!http_query(rq, "$skipToken", &text))
		return 0;
	size_t len = text.len / 2;

	if (text.len % 2 || len >= ARM_KEY_MAX || !hex_decode(text, after, len))
		return err_set(e, ERR_MALFORMED,
			       "'$skipToken' is not one that this server issued.");
	after[len] = '\0';
	if (strncmp(after, prefix, strlen(prefix)) != 0)
		return err_set(e, ERR_MALFORMED, "'$skipToken' belongs to another list.");
	return 0;
}

static int finish_page(struct http_request *rq, const struct page *p, json_t *out, struct err *e)
{
	char token[2 * ARM_KEY_MAX + 1];
	struct str path = http_path(rq);

	if (!p->more)
		return 0;
	hex_encode(p->last, strlen(p->last), token);
	OWNED_MEM char *link = str_printf("%s%.*s?api-version=%s&$top=%zu&$skipToken=%s",
					  p->base_url, STR_ARG(path), p->version, p->top, token);

	if (!link || json_object_set_new(out, "nextLink", json_string(link)) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	return 0;
}

static void reply_list(struct http_request *rq, struct arm_binding *b, const char *prefix,
		       const char *version)
{
	struct page p = { .b = b, .version = version, .base_url = http_base_url(rq) };
	struct err e = ERR_INIT;
	char after[ARM_KEY_MAX];

	p.value = json_array();
	json_t *out = p.value ? json_pack("{s:o}", "value", p.value) : NULL;

	if (!out) {
		reply_set(rq, ERR_NOMEM, "arm: out of memory");
		return;
	}
	if (read_paging(rq, prefix, &p, after, &e) < 0 ||
	    store_doc_list(b->arm->config.store, b->key_type, prefix, after, (int)p.top + 1,
			   add_to_page, &p, &e) < 0 ||
	    finish_page(rq, &p, out, &e) < 0) {
		json_decref(out);
		http_reply_err(rq, &e);
		return;
	}
	arm_reply_json(rq, 200, out);
}

/* Of one resource group. */
static void handle_list_group(struct http_request *rq, void *ctx)
{
	struct arm_binding *b = ctx;
	struct arm_id group;
	struct arm_resource r = { 0 };
	struct err e = ERR_INIT;
	char prefix[ARM_KEY_MAX + 128];

	if (b->supported[0])
		http_set_header(rq, "api-supported-versions", b->supported);
	const char *version = arm_begin(rq, b->type);

	if (!version)
		return;
	int found = arm_id_make(NULL, http_param(rq, "subscription"), http_param(rq, "group"),
				(struct str){ 0 }, &group, &e);

	if (found == 0)
		found = arm_resource_get(b->arm, group.key, &r, &e);
	arm_resource_done(&r);
	if (found == 0)
		found = arm_resource_missing(NULL, &group, &e);
	if (found < 0) {
		http_reply_err(rq, &e);
		return;
	}
	snprintf(prefix, sizeof(prefix), "%s/providers/%s/", group.key, b->key_type);
	reply_list(rq, b, prefix, version);
}

/* Of a subscription, whatever the group. */
static void handle_list_all(struct http_request *rq, void *ctx)
{
	struct arm_binding *b = ctx;
	struct arm_id id;
	struct err e = ERR_INIT;
	char prefix[ARM_KEY_MAX];

	if (b->supported[0])
		http_set_header(rq, "api-supported-versions", b->supported);
	const char *version = arm_begin(rq, b->type);

	if (!version)
		return;
	if (arm_id_make(NULL, http_param(rq, "subscription"), STR("any"), (struct str){ 0 }, &id,
			&e) < 0) {
		http_reply_err(rq, &e);
		return;
	}
	/* The key of a group, cut before the group's name. */
	snprintf(prefix, sizeof(prefix), "%.*s", (int)(strlen(id.key) - strlen("any")), id.key);
	reply_list(rq, b, prefix, version);
}

/* --- the provider --- */

static void add_route(struct arm_binding *b, const char *method, const char *pattern,
		      void (*handler)(struct http_request *rq, void *ctx), bool write,
		      const char *summary)
{
	bool body = handler == handle_put || handler == handle_patch;

	b->routes[b->route_count++] = (struct http_route){
		.method = method,
		.pattern = pattern,
		.handler = handler,
		.body = body ? HTTP_BODY_BUFFER : HTTP_BODY_NONE,
		.permission = write ? ARM_WRITE : ARM_READ,
		.summary = summary,
	};
}

static void bind_type(struct arm *arm, struct arm_binding *b, const struct arm_type *type)
{
	static const char in_subscription[] = "/subscriptions/{subscription}";
	static const char in_group[] = "/subscriptions/{subscription}/resourceGroups/{group}";
	size_t n = 0;

	b->arm = arm;
	b->type = type;
	for (size_t i = 0; type->name[i] && i + 1 < sizeof(b->key_type); i++)
		b->key_type[i] = (char)tolower((unsigned char)type->name[i]);
	for (const char *const *v = type->api_versions; v && *v && n < sizeof(b->supported); v++)
		n += (size_t)snprintf(b->supported + n, sizeof(b->supported) - n, "%s%s",
				      n ? ", " : "", *v);
	if (type->container) {
		snprintf(b->patterns[0], sizeof(b->patterns[0]), "%s", in_group);
		snprintf(b->patterns[1], sizeof(b->patterns[1]), "%s/resourceGroups",
			 in_subscription);
	} else {
		snprintf(b->patterns[0], sizeof(b->patterns[0]), "%s/providers/%s/{name}", in_group,
			 type->name);
		snprintf(b->patterns[1], sizeof(b->patterns[1]), "%s/providers/%s", in_subscription,
			 type->name);
		snprintf(b->patterns[2], sizeof(b->patterns[2]), "%s/providers/%s", in_group,
			 type->name);
		add_route(b, "GET", b->patterns[2], handle_list_group, false,
			  "List the resources of a resource group");
	}
	/* Before GET, whose rows also answer HEAD. */
	if (type->container)
		add_route(b, "HEAD", b->patterns[0], handle_head, false,
			  "Ask whether a group exists");
	add_route(b, "GET", b->patterns[0], handle_get, false, "Get a resource");
	add_route(b, "PUT", b->patterns[0], handle_put, true, "Create or replace a resource");
	add_route(b, "PATCH", b->patterns[0], handle_patch, true,
		  "Change a resource (merge patch)");
	add_route(b, "DELETE", b->patterns[0], handle_delete, true, "Delete a resource");
	add_route(b, "GET", b->patterns[1], handle_list_all, false,
		  "List the resources of a subscription");
	for (size_t i = 0; type->actions && type->actions[i].name; i++) {
		char *pattern = b->patterns[3 + i];

		if (snprintf(pattern, sizeof(b->patterns[0]), "%s/%s", b->patterns[0],
			     type->actions[i].name) >= (int)sizeof(b->patterns[0]))
			abort(); /* a programmer's mistake */
		add_route(b, "POST", pattern, handle_action, true, type->actions[i].summary);
	}
}

int arm_new(const struct arm_config *config, struct arm **ret, struct err *e)
{
	struct arm *arm = calloc(1, sizeof(*arm));

	if (!arm)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	arm->config = *config;
	arm->config.subscription = arm->subscription = str_dup(str_from(config->subscription));
	arm->config.location = arm->location = str_dup(str_from(config->location));
	arm->config.location_display = arm->location_display =
		str_dup(str_from(config->location_display));
	if (!arm->subscription || !arm->location || !arm->location_display) {
		arm_free(arm);
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	}
	bind_type(arm, &arm->types[0], &arm_resource_group);
	bind_type(arm, &arm->types[1], &arm_session_pool);
	*ret = arm;
	return 0;
}

void arm_free(struct arm *arm)
{
	if (!arm)
		return;
	free(arm->subscription);
	free(arm->location);
	free(arm->location_display);
	free(arm);
}

const struct arm_config *arm_config(const struct arm *arm)
{
	return &arm->config;
}

void arm_on_change(struct arm *arm, const char *type, arm_changed_fn fn, void *arg)
{
	if (arm->watcher_count == ARM_WATCHERS_MAX)
		abort(); /* a programmer's mistake: the daemon registers a fixed few at start */
	arm->watchers[arm->watcher_count].type = type;
	arm->watchers[arm->watcher_count].fn = fn;
	arm->watchers[arm->watcher_count].arg = arg;
	arm->watcher_count++;
}

int arm_routes(struct arm *arm, struct http_server *server, struct err *e)
{
	for (size_t i = 0; i < ARRAY_LEN(arm->types); i++) {
		struct arm_binding *b = &arm->types[i];

		if (http_server_routes(server, b->routes, b->route_count, b, e) < 0)
			return -1;
	}
	return http_server_routes(server, arm_pages, arm_page_count, arm, e);
}

/* Splits "/subscriptions/s/resourceGroups/g[/providers/N/T/name]" and finds the type. */
static struct arm_binding *split_id(struct arm *arm, const char *text, struct arm_id *id,
				    struct err *e)
{
	struct str part[9];
	size_t count = 0;

	for (const char *p = text; *p && count < ARRAY_LEN(part);) {
		p += strspn(p, "/");
		size_t len = strcspn(p, "/");

		if (len)
			part[count++] = (struct str){ p, len };
		p += len;
	}
	if ((count == 4 || count == 8) && str_eq_nocase(part[0], STR("subscriptions")) &&
	    str_eq_nocase(part[2], STR("resourceGroups"))) {
		for (size_t i = 0; i < ARRAY_LEN(arm->types); i++) {
			struct arm_binding *b = &arm->types[i];
			/* The namespace and the type stand side by side in the text, as in the
			 * name. */
			struct str type = count == 8 ? (struct str){ part[5].ptr,
								     part[5].len + 1 + part[6].len }
						     : (struct str){ 0 };

			if (b->type->container != (count == 4) ||
			    (count == 8 && !str_eq_nocase(type, str_from(b->type->name))))
				continue;
			return arm_id_make(b->type, part[1], part[3],
					   count == 8 ? part[7] : part[3], id, e) == 0
				       ? b
				       : NULL;
		}
	}
	err_set(e, ERR_INVALID, "'%.200s' is not the id of a resource that is served here.", text);
	return NULL;
}

int arm_put_internal(struct arm *arm, const char *resource_id, const char *body_json,
		     const char *api_version, struct err *e)
{
	struct arm_id id;
	struct arm_condition none = { 0 };
	struct arm_resource r = { 0 };
	struct arm_binding *b = split_id(arm, resource_id, &id, e);

	if (!b || arm_check_api_version(b->type, str_from(api_version), e) < 0)
		return -1;
	json_t *body = json_parse_object(str_from(body_json), e);

	if (!body)
		return -1;
	int rc = arm_resource_write(b, &id, body, false, api_version, "bivouacd", &none, &r, e);

	json_decref(body);
	arm_resource_done(&r);
	return rc;
}
