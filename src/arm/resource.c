/* SPDX-License-Identifier: Apache-2.0 */
#include "arm/internal.h"

#include "base/own.h"

#include <ctype.h>
#include <stdio.h>
#include <strings.h>

#define TAGS_MAX      50
#define TAG_NAME_MAX  512
#define TAG_VALUE_MAX 256

static void release_json(json_t **v)
{
	json_decref(*v);
}
#define OWNED_JSON __attribute__((cleanup(release_json)))

void arm_resource_done(struct arm_resource *r)
{
	json_decref(r->json);
	*r = (struct arm_resource){ 0 };
}

const char *arm_etag_text(uint64_t etag, char buf[static ARM_ETAG_SIZE])
{
	snprintf(buf, ARM_ETAG_SIZE, "\"%llx\"", (unsigned long long)etag);
	return buf;
}

bool arm_etag_listed(struct str header, uint64_t etag)
{
	char text[ARM_ETAG_SIZE];
	struct str mine = str_from(arm_etag_text(etag, text));

	while (header.len) {
		const char *comma = memchr(header.ptr, ',', header.len);
		size_t len = comma ? (size_t)(comma - header.ptr) : header.len;
		struct str one = str_trim((struct str){ header.ptr, len });

		if (str_starts_nocase(one, STR("W/")))
			one = (struct str){ one.ptr + 2, one.len - 2 };
		if (str_eq(one, STR("*")) || str_eq(one, mine))
			return true;
		len += comma ? 1 : 0;
		header = (struct str){ header.ptr + len, header.len - len };
	}
	return false;
}

static int check_condition(const struct arm_condition *c, bool found, uint64_t etag, struct err *e)
{
	if (c->if_match.ptr && (!found || !arm_etag_listed(c->if_match, etag)))
		return err_set(e, ERR_PRECONDITION,
			       "The resource does not match If-Match: %s. Read it again and "
			       "repeat.",
			       found ? "it was changed since" : "it does not exist");
	if (c->if_none_match.ptr && found && arm_etag_listed(c->if_none_match, etag))
		return err_set(e, ERR_PRECONDITION, "The resource exists already (If-None-Match).");
	return 0;
}

/* --- ids and versions --- */

static bool only(struct str s, const char *others)
{
	for (size_t i = 0; i < s.len; i++)
		if (!isalnum((unsigned char)s.ptr[i]) && !strchr(others, s.ptr[i]))
			return false;
	return s.len > 0 && !memchr(s.ptr, '\0', s.len);
}

int arm_id_make(const struct arm_type *type, struct str subscription, struct str group,
		struct str name, struct arm_id *ret, struct err *e)
{
	struct arm_id id = { 0 };

	if (!only(subscription, "-") || subscription.len >= sizeof(id.subscription))
		return err_set(e, ERR_SUBSCRIPTION,
			       "The provided subscription identifier '%.*s' is malformed or "
			       "invalid.",
			       (int)(subscription.len < 80 ? subscription.len : 80),
			       subscription.ptr);
	if (!only(group, "-_.()") || group.len > 90 || group.ptr[group.len - 1] == '.')
		return err_set(e, ERR_RESOURCE_NAME,
			       "The resource group name '%.*s' is not valid. It has 1 to 90 "
			       "letters, digits, '-', '_', '.', '(' and ')', and does not end with "
			       "'.'.",
			       (int)(group.len < 100 ? group.len : 100), group.ptr);
	if (type && !type->container && (!only(name, "-_.") || name.len >= 64))
		return err_set(e, ERR_RESOURCE_NAME,
			       "The resource name '%.*s' is not valid. It has at most 63 letters, "
			       "digits and '-'.",
			       (int)(name.len < 100 ? name.len : 100), name.ptr);
	str_copy(subscription, id.subscription, sizeof(id.subscription));
	str_copy(group, id.group, sizeof(id.group));
	str_copy(!type || type->container ? group : name, id.name, sizeof(id.name));
	int n = snprintf(id.path, sizeof(id.path), "/subscriptions/%s/resourceGroups/%s",
			 id.subscription, id.group);

	if (type && !type->container)
		snprintf(id.path + n, sizeof(id.path) - (size_t)n, "/providers/%s/%s", type->name,
			 id.name);
	for (size_t i = 0; id.path[i]; i++)
		id.key[i] = (char)tolower((unsigned char)id.path[i]);
	*ret = id;
	return 0;
}

static bool version_well_formed(struct str v)
{
	static const char form[] = "0000-00-00";

	if (v.len < 10 || v.len > 40)
		return false;
	for (size_t i = 0; i < 10; i++)
		if (form[i] == '0' ? !isdigit((unsigned char)v.ptr[i]) : v.ptr[i] != '-')
			return false;
	return v.len == 10 ||
	       (v.ptr[10] == '-' && only((struct str){ v.ptr + 11, v.len - 11 }, "-"));
}

int arm_check_api_version(const struct arm_type *type, struct str version, struct err *e)
{
	char list[300] = "";
	size_t n = 0;

	if (!version.len)
		return err_set(e, ERR_NO_API_VERSION,
			       "The api-version query parameter (?api-version=) is required for "
			       "all requests.");
	if (!type || !type->api_versions) {
		if (version_well_formed(version))
			return 0;
		return err_set(e, ERR_API_VERSION,
			       "The api-version '%.*s' is invalid. It has the form YYYY-MM-DD or "
			       "YYYY-MM-DD-preview.",
			       (int)(version.len < 60 ? version.len : 60), version.ptr);
	}
	for (const char *const *v = type->api_versions; *v; v++) {
		if (str_eq_nocase(version, str_from(*v)))
			return 0;
		if (n < sizeof(list))
			n += (size_t)snprintf(list + n, sizeof(list) - n, "%s%s", n ? "," : "", *v);
	}
	return err_set(e, ERR_API_VERSION,
		       "The api-version '%.*s' is invalid. The supported versions are '%s'.",
		       (int)(version.len < 60 ? version.len : 60), version.ptr, list);
}

/* --- reading --- */

int arm_resource_get(struct arm *arm, const char *key, struct arm_resource *ret, struct err *e)
{
	struct store_doc doc = { 0 };
	int r = store_doc_get(arm->config.store, key, &doc, e);

	if (r <= 0)
		return r;
	json_t *json = json_parse_object(str_from(doc.json), e);

	if (json)
		*ret = (struct arm_resource){ .json = json, .etag = doc.etag };
	else
		err_set(e, ERR_INTERNAL, "The stored document '%s' is not readable.", key);
	store_doc_done(&doc);
	return json ? 1 : -1;
}

int arm_resource_missing(const struct arm_type *type, const struct arm_id *id, struct err *e)
{
	if (!type || type->container)
		return err_set(e, ERR_NO_GROUP, "Resource group '%s' could not be found.",
			       id->group);
	return err_set(e, ERR_NO_RESOURCE,
		       "The Resource '%s/%s' under resource group '%s' was not found.", type->name,
		       id->name, id->group);
}

/* --- writing --- */

/* How a location compares: lower case, no spaces, as Azure's clients do. */
static bool location_eq(const char *a, const char *b)
{
	for (;;) {
		while (*a == ' ')
			a++;
		while (*b == ' ')
			b++;
		if (tolower((unsigned char)*a) != tolower((unsigned char)*b))
			return false;
		if (!*a)
			return true;
		a++;
		b++;
	}
}

static int fix_location(const struct arm_binding *b, const json_t *old, json_t *wanted,
			struct err *e)
{
	const struct arm_config *c = &b->arm->config;
	const char *given = json_string_value(json_object_get(wanted, "location"));
	const char *had = json_string_value(json_object_get(old, "location"));

	if (!given || !*given)
		given = had;
	if (!given)
		return err_set(e, ERR_LOCATION,
			       "The location property is required for this definition.");
	if (had && !location_eq(given, had) &&
	    !(location_eq(given, c->location_display) && location_eq(had, c->location)))
		return err_set(e, ERR_LOCATION_CHANGE,
			       "The resource exists already in location '%s'. A resource with the "
			       "same name cannot be created in location '%.60s'.",
			       had, given);
	/* Templates name the regions of the real service; all of them are this machine. What
	 * matters is that the word is well-formed and stays. */
	if (strspn(given, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ()-_.") !=
		    strlen(given) ||
	    strlen(given) > 60)
		return err_set(
			e, ERR_LOCATION_UNAVAILABLE,
			"The provided location '%.60s' is not available for resource type '%s': use '%s' "
			"or the name of a region.",
			given, b->type->name, c->location);
	if (location_eq(given, c->location_display))
		given = c->location;
	return json_object_set_new(wanted, "location", json_string(had ? had : given));
}

static int check_tags(const json_t *wanted, struct err *e)
{
	json_t *tags = json_object_get(wanted, "tags");
	const char *key;
	json_t *v;

	if (json_object_size(tags) > TAGS_MAX)
		return err_set(e, ERR_MALFORMED, "'tags' has %zu entries; at most %d are allowed.",
			       json_object_size(tags), TAGS_MAX);
	json_object_foreach(tags, key, v) {
		if (!*key || strlen(key) > TAG_NAME_MAX || json_string_length(v) > TAG_VALUE_MAX)
			return err_set(e, ERR_MALFORMED,
				       "The tag '%.60s' is too long: names have 1 to %d bytes, "
				       "values at most %d.",
				       key, TAG_NAME_MAX, TAG_VALUE_MAX);
	}
	return 0;
}

static int set_system_data(const json_t *old, json_t *wanted, const char *by)
{
	char now[CLOCK_TEXT_SIZE];
	json_t *created = json_object_get(old, "systemData");
	const char *type = strchr(by, '@') ? "User" : "Application";
	json_t *sd = json_pack("{s:s, s:s, s:s}", "lastModifiedBy", by, "lastModifiedByType", type,
			       "lastModifiedAt", clock_format(clock_wall_us(), now));

	if (!sd)
		return -1;
	static const char *const kept[] = { "createdBy", "createdByType", "createdAt" };
	const char *const fresh[] = { by, type, now };

	for (size_t i = 0; i < ARRAY_LEN(kept); i++) {
		json_t *had = json_object_get(created, kept[i]);

		json_object_set_new(sd, kept[i], had ? json_incref(had) : json_string(fresh[i]));
	}
	return json_object_set_new(wanted, "systemData", sd);
}

static bool listed(const char *const *words, const char *word)
{
	return json_word(words, word) != NULL;
}

static bool same_value(const json_t *a, const json_t *b)
{
	if (json_is_string(a) && json_is_string(b))
		return strcasecmp(json_string_value(a), json_string_value(b)) == 0;
	return json_equal(a, b);
}

/* Takes out of a PATCH what it may not carry: read-only and unknown properties silently (clients
 * send back what they have read), a change of a property that only PUT may set with an error. */
static int filter_patch(const struct arm_type *type, const json_t *old, json_t *patch,
			struct err *e)
{
	const struct json_shape *shape = type->shape;
	const char *key;
	void *next;
	json_t *v;
	json_t *props = json_find(patch, "properties");

	while (shape->name && strcmp(shape->name, "properties") != 0)
		shape++;
	if (!type->patchable || !shape->name || !json_is_object(props))
		return 0;
	json_object_foreach_safe(props, next, key, v)
	{
		const struct json_shape *s = shape->members;

		if (listed(type->patchable, key))
			continue;
		while (s->name && strcasecmp(s->name, key) != 0)
			s++;
		if (s->name && !json_is_null(v) &&
		    !same_value(v, json_find(json_find(old, "properties"), key)))
			return err_set(e, ERR_PROPERTY_IMMUTABLE,
				       "Changing property 'properties.%s' is not allowed.",
				       s->name);
		json_object_del(props, key);
	}
	return 0;
}

static json_t *build_wanted(const struct arm_binding *b, const json_t *old, const json_t *body,
			    bool patch, struct err *e)
{
	OWNED_JSON json_t *edit = json_deep_copy(body);
	OWNED_JSON json_t *merged = NULL;

	if (!edit) {
		err_set(e, ERR_NOMEM, "arm: out of memory");
		return NULL;
	}
	if (b->type->normalize && b->type->normalize(edit, e) < 0)
		return NULL;
	if (patch) {
		if (filter_patch(b->type, old, edit, e) < 0)
			return NULL;
		merged = json_merge_patch(old, edit);
		if (!merged) {
			err_set(e, ERR_NOMEM, "arm: out of memory");
			return NULL;
		}
	}
	return json_respell(patch ? merged : edit, b->type->shape, "", e);
}

static void notify(struct arm *arm, const char *key_type, const char *key, bool deleted)
{
	for (size_t i = 0; i < arm->watcher_count; i++)
		if (strcasecmp(arm->watchers[i].type, key_type) == 0)
			arm->watchers[i].fn(key, deleted, arm->watchers[i].arg);
}

/* The spelling of the group's name is that of the group, whoever writes into it. */
static int canonical_path(const struct arm_binding *b, const struct arm_id *id, const json_t *old,
			  char path[ARM_KEY_MAX], struct err *e)
{
	struct arm_id group;
	struct arm_resource r = { 0 };
	const char *old_path = json_string_value(json_object_get(old, "id"));

	snprintf(path, ARM_KEY_MAX, "%s", old_path ? old_path : id->path);
	if (!b->type->needs_group)
		return 0;
	if (arm_id_make(NULL, str_from(id->subscription), str_from(id->group), (struct str){ 0 },
			&group, e) < 0)
		return -1;
	int found = arm_resource_get(b->arm, group.key, &r, e);

	if (found <= 0)
		return found < 0 ? -1 : arm_resource_missing(NULL, id, e);
	const char *group_path = json_string_value(json_object_get(r.json, "id"));

	if (!old_path && group_path)
		snprintf(path, ARM_KEY_MAX, "%.200s/providers/%s/%s", group_path, b->type->name,
			 id->name);
	arm_resource_done(&r);
	return 0;
}

static int complete_and_store(const struct arm_binding *b, const struct arm_id *id,
			      const json_t *old, json_t *wanted, const char *api_version,
			      const char *by, uint64_t *ret_etag, struct err *e)
{
	char path[ARM_KEY_MAX];

	if (canonical_path(b, id, old, path, e) < 0 || fix_location(b, old, wanted, e) < 0 ||
	    check_tags(wanted, e) < 0)
		return -1;
	json_t *head = json_pack("{s:s, s:s, s:s}", "id", path, "name", strrchr(path, '/') + 1,
				 "type", b->type->name);
	/* People read these: id, name and type first. */
	bool ok = head && json_object_update(head, wanted) == 0 && json_object_clear(wanted) == 0 &&
		  json_object_update(wanted, head) == 0 && set_system_data(old, wanted, by) == 0;

	json_decref(head);
	if (!ok)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	if (b->type->validate(b->arm, old, wanted, api_version, e) < 0)
		return -1;
	OWNED_MEM char *text = json_dumps(wanted, JSON_COMPACT);

	if (!text)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	return store_doc_put(b->arm->config.store, id->key, b->key_type, text, STORE_ETAG_ANY,
			     ret_etag, e);
}

int arm_resource_write(const struct arm_binding *b, const struct arm_id *id, const json_t *body,
		       bool patch, const char *api_version, const char *by,
		       const struct arm_condition *cond, struct arm_resource *ret, struct err *e)
{
	struct arm_resource old = { 0 };
	uint64_t etag = 0;
	int found = arm_resource_get(b->arm, id->key, &old, e);

	if (found < 0)
		return -1;
	if (patch && !found && !cond->if_match.ptr)
		return arm_resource_missing(b->type, id, e);
	json_t *wanted = NULL;
	int r = check_condition(cond, found, old.etag, e);

	if (r == 0) {
		wanted = build_wanted(b, old.json, body, patch, e);
		r = wanted ? complete_and_store(b, id, old.json, wanted, api_version, by, &etag, e)
			   : -1;
	}
	arm_resource_done(&old);
	if (r < 0) {
		json_decref(wanted);
		return -1;
	}
	*ret = (struct arm_resource){ .json = wanted, .etag = etag, .created = !found };
	notify(b->arm, b->key_type, id->key, false);
	return 0;
}

/* --- deleting --- */

struct victims {
	size_t count;
	char (*keys)[ARM_KEY_MAX];
	char (*types)[96];
};
#define VICTIMS_PER_ROUND 64

static int collect_victim(const struct store_doc *d, void *arg, struct err *e)
{
	struct victims *v = arg;

	if (!str_copy(str_from(d->key), v->keys[v->count], ARM_KEY_MAX) ||
	    !str_copy(str_from(d->type), v->types[v->count], 96))
		return err_set(e, ERR_INTERNAL, "arm: a stored key is too long");
	v->count++;
	return 0;
}

/* What belongs to a resource goes first: a crash in between must not leave it to a namesake. */
static int delete_one(struct arm *arm, const char *key_type, const char *key, struct err *e)
{
	for (size_t i = 0; i < ARRAY_LEN(arm->types); i++)
		if (strcmp(arm->types[i].key_type, key_type) == 0 && arm->types[i].type->removing)
			arm->types[i].type->removing(arm, key);
	if (store_doc_delete(arm->config.store, key, e) < 0)
		return -1;
	notify(arm, key_type, key, true);
	return 0;
}

static int delete_contents(struct arm *arm, const char *group_key, struct err *e)
{
	OWNED_MEM char *prefix = str_printf("%s/", group_key);
	OWNED_MEM void *keys = calloc(VICTIMS_PER_ROUND, ARM_KEY_MAX);
	OWNED_MEM void *types = calloc(VICTIMS_PER_ROUND, 96);
	struct victims v = { .keys = keys, .types = types };

	if (!prefix || !keys || !types)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	do {
		v.count = 0;
		if (store_doc_list(arm->config.store, NULL, prefix, NULL, VICTIMS_PER_ROUND,
				   collect_victim, &v, e) < 0)
			return -1;
		for (size_t i = 0; i < v.count; i++)
			if (delete_one(arm, v.types[i], v.keys[i], e) < 0)
				return -1;
	} while (v.count);
	return 0;
}

int arm_resource_delete(const struct arm_binding *b, const struct arm_id *id,
			const struct arm_condition *cond, struct err *e)
{
	struct arm_resource old = { 0 };
	int found = arm_resource_get(b->arm, id->key, &old, e);
	uint64_t etag = old.etag;

	arm_resource_done(&old);
	if (found < 0 || check_condition(cond, found, etag, e) < 0)
		return -1;
	if (!found)
		return 0;
	if (b->type->container && delete_contents(b->arm, id->key, e) < 0)
		return -1;
	return delete_one(b->arm, b->key_type, id->key, e) < 0 ? -1 : 1;
}
