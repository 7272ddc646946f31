/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Microsoft.App/sessionPools. The service's own properties are those of azure-api.md §5. Our
 * extension properties, which unmodified clients neither send nor miss:
 *
 * - properties.isolation: the tier of the sandboxes; auto (default), process, oci or microvm
 * - properties.minimumIsolation: the same words; a weaker placement is refused
 * - properties.sessionLimits: what one session may use; names, ranges, defaults:
 *   session_limits.c
 * - properties.unenforced: read only, which of these the machine does not keep; absent if none
 *
 * A tier, container type or network that this machine does not offer is refused when the pool is
 * written, never replaced by something weaker.
 */
#include "arm/arm.h"
#include "arm/internal.h"
#include "arm/mcp_keys.h"

#include "base/own.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

#define COOLDOWN_MIN_S     60
#define COOLDOWN_MAX_S     3600
#define COOLDOWN_DEFAULT_S 300
#define SESSIONS_MAX       10000
#define SESSIONS_DEFAULT   10
#define SECRETS_MAX        100
/** The last version that shows dynamicPoolConfiguration flat, without lifecycleConfiguration. */
#define LAST_FLAT_VERSION "2024-10-02-preview"

static const char *const api_versions[] = {
	"2023-08-01-preview", "2023-11-02-preview", "2024-02-02-preview", "2024-08-02-preview",
	"2024-10-02-preview", "2025-01-01",         "2025-02-02-preview", "2025-07-01",
	"2025-10-02-preview", "2026-01-01",         "2026-07-01",         NULL,
};

/* Every word the service knows. Served are those whose image is installed, known or not. */
static const struct {
	const char *type;
	const char *runtime; /* that comes with Bivouac; NULL: none does */
} known_types[] = {
	{ "PythonLTS", "python" }, { "CustomContainer", NULL }, { "NodeLTS", "node" },
	{ "GpuBase", NULL },       { "CsharpLTS", NULL },       { "Shell", "shell" },
};
static const char *const isolation_words[] = { "auto", "process", "oci", "microvm", NULL };
static const char *const served_isolation[] = { "auto", "process", NULL };
static const char *const lifecycle_types[] = { "Timed", "OnContainerExit", NULL };
static const char *const network_states[] = { "EgressEnabled", "EgressDisabled", NULL };
static const char *const identity_lifecycles[] = { "None", "Main", NULL };

/* --- shape --- */

static const struct json_shape identity_shape[] = {
	{ .name = "type", .kind = JSON_KIND_STRING },
	{ .name = "userAssignedIdentities", .kind = JSON_KIND_ANY },
	{ 0 },
};
static const struct json_shape scale_shape[] = {
	{ .name = "maxConcurrentSessions", .kind = JSON_KIND_INT },
	{ .name = "readySessionInstances", .kind = JSON_KIND_INT },
	{ 0 },
};
static const struct json_shape secret_shape[] = {
	{ .name = "name", .kind = JSON_KIND_STRING },
	{ .name = "value", .kind = JSON_KIND_STRING },
	{ 0 },
};
static const struct json_shape lifecycle_shape[] = {
	{ .name = "lifecycleType", .kind = JSON_KIND_WORD, .words = lifecycle_types },
	{ .name = "cooldownPeriodInSeconds", .kind = JSON_KIND_INT },
	{ .name = "maxAlivePeriodInSeconds", .kind = JSON_KIND_INT },
	{ 0 },
};
static const struct json_shape dynamic_shape[] = {
	{ .name = "lifecycleConfiguration", .kind = JSON_KIND_OBJECT, .members = lifecycle_shape },
	{ 0 },
};
static const struct json_shape network_shape[] = {
	{ .name = "status", .kind = JSON_KIND_WORD, .words = network_states },
	{ 0 },
};
static const struct json_shape identity_setting_shape[] = {
	{ .name = "identity", .kind = JSON_KIND_STRING },
	{ .name = "lifecycle", .kind = JSON_KIND_WORD, .words = identity_lifecycles },
	{ 0 },
};
static const struct json_shape mcp_shape[] = {
	{ .name = "isMcpServerEnabled", .kind = JSON_KIND_BOOL },
	{ .name = "isMcpServerApiKeyDisabled", .kind = JSON_KIND_BOOL },
	{ 0 },
};
static const struct json_shape limits_shape[] = {
	{ .name = "memory", .kind = JSON_KIND_ANY },
	{ .name = "dataSize", .kind = JSON_KIND_ANY },
	{ .name = "tmpSize", .kind = JSON_KIND_ANY },
	{ .name = "inodes", .kind = JSON_KIND_INT },
	{ .name = "pids", .kind = JSON_KIND_INT },
	{ .name = "openFiles", .kind = JSON_KIND_INT },
	{ .name = "cpu", .kind = JSON_KIND_NUMBER },
	{ .name = "outputStreamsMaxLength", .kind = JSON_KIND_INT },
	{ .name = "defaultTimeoutInSeconds", .kind = JSON_KIND_INT },
	{ .name = "maxTimeoutInSeconds", .kind = JSON_KIND_INT },
	{ .name = "queueLength", .kind = JSON_KIND_INT },
	{ .name = "maxUploadSizeInBytes", .kind = JSON_KIND_INT },
	{ 0 },
};
static const struct json_shape properties_shape[] = {
	{ .name = "environmentId", .kind = JSON_KIND_STRING },
	{ .name = "containerType", .kind = JSON_KIND_STRING },
	{ .name = "poolManagementType", .kind = JSON_KIND_STRING },
	{ .name = "scaleConfiguration", .kind = JSON_KIND_OBJECT, .members = scale_shape },
	{ .name = "secrets", .kind = JSON_KIND_LIST, .members = secret_shape },
	{ .name = "dynamicPoolConfiguration", .kind = JSON_KIND_OBJECT, .members = dynamic_shape },
	{ .name = "customContainerTemplate", .kind = JSON_KIND_ANY },
	{ .name = "sessionNetworkConfiguration",
	  .kind = JSON_KIND_OBJECT,
	  .members = network_shape },
	{ .name = "managedIdentitySettings",
	  .kind = JSON_KIND_LIST,
	  .members = identity_setting_shape },
	{ .name = "mcpServerSettings", .kind = JSON_KIND_OBJECT, .members = mcp_shape },
	{ .name = "isolation", .kind = JSON_KIND_STRING },
	{ .name = "minimumIsolation", .kind = JSON_KIND_STRING },
	{ .name = "sessionLimits", .kind = JSON_KIND_OBJECT, .members = limits_shape },
	{ 0 },
};
static const struct json_shape shape[] = {
	{ .name = "location", .kind = JSON_KIND_STRING },
	{ .name = "tags", .kind = JSON_KIND_MAP },
	{ .name = "identity", .kind = JSON_KIND_OBJECT, .members = identity_shape },
	{ .name = "properties", .kind = JSON_KIND_OBJECT, .members = properties_shape },
	{ 0 },
};
static const char *const patchable[] = {
	"scaleConfiguration",
	"secrets",
	"dynamicPoolConfiguration",
	"customContainerTemplate",
	"sessionNetworkConfiguration",
	"managedIdentitySettings",
	"mcpServerSettings",
	"isolation",
	"minimumIsolation",
	"sessionLimits",
	NULL,
};

/* --- older spellings --- */

static bool same_scalar(const json_t *a, const json_t *b)
{
	int64_t x;
	int64_t y;

	if (json_to_int(a, &x) && json_to_int(b, &y))
		return x == y;
	return json_is_string(a) && json_is_string(b) &&
	       str_eq_nocase(str_from(json_string_value(a)), str_from(json_string_value(b)));
}

/* Moves a member of the flat dynamicPoolConfiguration below lifecycleConfiguration, where newer
 * versions have it. Both forms are taken at any version; both at once must agree. */
static int move_flat(json_t *dynamic, const char *from, const char *to, struct err *e)
{
	const char *from_key = json_find_key(dynamic, from);
	const char *life_key = json_find_key(dynamic, "lifecycleConfiguration");

	if (!from_key)
		return 0;
	json_t *life = life_key ? json_object_get(dynamic, life_key) : NULL;

	if (!json_is_object(life)) {
		if (life && !json_is_null(life))
			return 0; /* json_respell says what is wrong with it */
		life_key = life_key ? life_key : "lifecycleConfiguration";
		if (json_object_set_new(dynamic, life_key, json_object()) != 0)
			return err_set(e, ERR_NOMEM, "arm: out of memory");
		life = json_object_get(dynamic, life_key);
		from_key = json_find_key(dynamic, from);
	}
	json_t *value = json_object_get(dynamic, from_key);
	json_t *other = json_find(life, to);

	if (other && !json_is_null(value) && !same_scalar(value, other))
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: 'dynamicPoolConfiguration.%s'. 'It contradicts "
			       "lifecycleConfiguration.%s.' Give only one of them.",
			       from, to);
	if (!other && json_object_set(life, to, value) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	json_object_del(dynamic, from_key);
	return 0;
}

static int normalize(json_t *body, struct err *e)
{
	json_t *dynamic = json_find(json_find(body, "properties"), "dynamicPoolConfiguration");

	if (!json_is_object(dynamic))
		return 0;
	if (move_flat(dynamic, "executionType", "lifecycleType", e) < 0)
		return -1;
	return move_flat(dynamic, "cooldownPeriodInSeconds", "cooldownPeriodInSeconds", e);
}

/* --- validation --- */

/* The object of that name, made if absent. NULL only when memory is out. */
static json_t *member(json_t *obj, const char *name)
{
	json_t *v = json_object_get(obj, name);

	if (v)
		return v;
	return json_object_set_new(obj, name, json_object()) == 0 ? json_object_get(obj, name)
								  : NULL;
}

static int set_default(json_t *obj, const char *name, json_t *value, struct err *e)
{
	if (json_object_get(obj, name)) {
		json_decref(value);
		return 0;
	}
	if (json_object_set_new(obj, name, value) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	return 0;
}

static const char *join(const char *const *words, char *buf, size_t size)
{
	size_t n = 0;

	buf[0] = '\0';
	for (; *words && n < size; words++)
		n += (size_t)snprintf(buf + n, size - n, "%s%s", n ? ", " : "", *words);
	return buf;
}

static int check_name(const char *name, struct err *e)
{
	size_t len = strlen(name);
	bool ok = len >= 3 && len <= 63 && islower((unsigned char)name[0]) && name[len - 1] != '-';

	for (size_t i = 0; i < len; i++)
		ok = ok && (islower((unsigned char)name[i]) || isdigit((unsigned char)name[i]) ||
			    name[i] == '-');
	if (ok)
		return 0;
	return err_set(e, ERR_RESOURCE_NAME,
		       "Invalid session pool name '%s'. A name has 3 to 63 lower case letters, "
		       "digits and '-', starts with a letter and ends with a letter or digit.",
		       name);
}

static const char *installed_type(const struct arm *arm, size_t n)
{
	const char *(*nth)(size_t n) = arm_config(arm)->container_type;

	if (nth)
		return nth(n);
	return n == 0 ? known_types[0].type : NULL;
}

/* In its canonical spelling; NULL: its image is not installed. */
static const char *find_installed(const struct arm *arm, const char *type)
{
	const char *word;

	for (size_t n = 0; (word = installed_type(arm, n)); n++)
		if (str_eq_nocase(str_from(word), str_from(type)))
			return word;
	return NULL;
}

static int find_known(const char *type)
{
	for (size_t i = 0; i < ARRAY_LEN(known_types); i++)
		if (str_eq_nocase(str_from(known_types[i].type), str_from(type)))
			return (int)i;
	return -1;
}

static void append_word(char *buf, size_t size, const char *word)
{
	size_t n = strlen(buf);

	snprintf(buf + n, size - n, "%s%s", n ? ", " : "", word);
}

/* The installed types; with `known`, what the service knows first. */
static const char *list_types(const struct arm *arm, bool known, char *buf, size_t size)
{
	const char *word;

	buf[0] = '\0';
	for (size_t i = 0; known && i < ARRAY_LEN(known_types); i++)
		append_word(buf, size, known_types[i].type);
	for (size_t n = 0; (word = installed_type(arm, n)); n++)
		if (!known || find_known(word) < 0)
			append_word(buf, size, word);
	return buf;
}

static int refuse_type(const struct arm *arm, const char *given, struct err *e)
{
	char list[200];
	int known = find_known(given);

	if (known < 0)
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: 'containerType'. '%.40s' is not a valid type. "
			       "Valid types are: [%s].",
			       given, list_types(arm, true, list, sizeof(list)));
	const char *type = known_types[known].type;
	const char *runtime = known_types[known].runtime;

	list_types(arm, false, list, sizeof(list));
	if (!runtime)
		return err_set(e, ERR_SESSION_TYPE,
			       "Session type '%s' is not supported in this location. Supported "
			       "here: [%s].",
			       type, list);
	return err_set(e, ERR_SESSION_TYPE,
		       "Session type '%s' is not supported in this location: its image is not "
		       "built. Build it with: bivouac image build --runtime %s, and start "
		       "bivouacd again. Supported here: [%s].",
		       type, runtime, list);
}

static int check_container_type(const struct arm *arm, json_t *props, const json_t *old_props,
				struct err *e)
{
	const char *given = json_string_value(json_object_get(props, "containerType"));
	const char *had = json_string_value(json_object_get(old_props, "containerType"));
	const char *type = given ? given : had ? had : known_types[0].type;
	const char *word = find_installed(arm, type);
	bool same = had && str_eq_nocase(str_from(had), str_from(type));

	if (!word && !same && find_known(type) < 0)
		return refuse_type(arm, type, e);
	if (had && !same)
		return err_set(e, ERR_PROPERTY_IMMUTABLE,
			       "Changing property 'properties.containerType' from '%s' to '%.40s' "
			       "is not allowed. Create another session pool.",
			       had, type);
	/* A pool whose image is gone can still be changed. */
	if (!word && !had)
		return refuse_type(arm, type, e);
	if (json_object_set_new(props, "containerType", json_string(word ? word : had)) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	const char *management = json_string_value(json_object_get(props, "poolManagementType"));

	if (management && !str_eq_nocase(str_from(management), STR("Dynamic")))
		return err_set(e, ERR_POOL_MGMT_TYPE,
			       "Invalid pool management type '%.40s'. Supported values are: "
			       "Dynamic.",
			       management);
	if (json_object_set_new(props, "poolManagementType", json_string("Dynamic")) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	return 0;
}

/* What belongs to custom containers only. */
static int check_builtin(const json_t *props, const json_t *old_props, struct err *e)
{
	const char *env = json_string_value(json_object_get(props, "environmentId"));

	if (env && *env)
		return err_set(e, old_props ? ERR_PROPERTY_IMMUTABLE : ERR_POOL_CONFIG,
			       "Unexpected value: 'environmentId'. 'Must be null for a pool of a "
			       "built-in type.' %s",
			       old_props ? "It cannot be changed." : "Leave it out.");
	if (json_object_get(props, "customContainerTemplate"))
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: 'customContainerTemplate'. 'Must be null for a "
			       "pool of a built-in type.' Leave it out.");
	return 0;
}

static int check_scale(json_t *props, struct err *e)
{
	json_t *scale = member(props, "scaleConfiguration");
	json_t *ready_value = json_object_get(scale, "readySessionInstances");

	if (!scale ||
	    set_default(scale, "maxConcurrentSessions", json_integer(SESSIONS_DEFAULT), e) < 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	json_int_t max = json_integer_value(json_object_get(scale, "maxConcurrentSessions"));
	json_int_t ready = json_integer_value(ready_value);

	if (max < 1 || max > SESSIONS_MAX)
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: 'scaleConfiguration.maxConcurrentSessions'. "
			       "'Must be >= 1 and <= %d.'",
			       SESSIONS_MAX);
	/* 0 is what the service refuses and we take: sandboxes are made on demand. */
	if (ready < 0 || (ready > 0 && ready >= max))
		return err_set(e, ERR_POOL_READY,
			       "Invalid readySessionInstances '%lld'. Supported values should be "
			       "greater than 0 and smaller than maxConcurrentSessions (%lld); 0 "
			       "makes sessions on demand.",
			       (long long)ready, (long long)max);
	return 0;
}

static int check_lifecycle(json_t *props, struct err *e)
{
	json_t *dynamic = member(props, "dynamicPoolConfiguration");
	json_t *life = dynamic ? member(dynamic, "lifecycleConfiguration") : NULL;

	if (!life || set_default(life, "lifecycleType", json_string("Timed"), e) < 0 ||
	    set_default(life, "cooldownPeriodInSeconds", json_integer(COOLDOWN_DEFAULT_S), e) < 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	const char *type = json_string_value(json_object_get(life, "lifecycleType"));
	json_int_t cooldown = json_integer_value(json_object_get(life, "cooldownPeriodInSeconds"));

	if (strcmp(type, "Timed") != 0)
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: "
			       "'dynamicPoolConfiguration.lifecycleConfiguration.lifecycleType'. "
			       "'Must be Timed for a pool of a built-in type.'");
	if (json_object_get(life, "maxAlivePeriodInSeconds"))
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: "
			       "'dynamicPoolConfiguration.lifecycleConfiguration."
			       "maxAlivePeriodInSeconds'. 'Must be null for lifecycle type "
			       "Timed.'");
	if (cooldown < COOLDOWN_MIN_S || cooldown > COOLDOWN_MAX_S)
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: "
			       "'dynamicPoolConfiguration.lifecycleConfiguration."
			       "cooldownPeriodInSeconds'. 'Must not be null and be >= %d and be <= "
			       "%d.'",
			       COOLDOWN_MIN_S, COOLDOWN_MAX_S);
	return 0;
}

static int check_network(struct arm *arm, json_t *props, struct err *e)
{
	const char *off = arm_config(arm)->egress_off ? arm_config(arm)->egress_off() : NULL;
	json_t *network = member(props, "sessionNetworkConfiguration");

	if (!network || set_default(network, "status", json_string("EgressDisabled"), e) < 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	/* A pool never promises a network that is not there. */
	if (off &&
	    strcmp(json_string_value(json_object_get(network, "status")), "EgressDisabled") != 0)
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: 'sessionNetworkConfiguration.status'. "
			       "'EgressEnabled is not available on this machine: %s.' Or choose "
			       "EgressDisabled.",
			       off);
	return 0;
}

static int check_isolation_word(json_t *props, const char *name, struct err *e)
{
	char list[80];
	const char *given = json_string_value(json_object_get(props, name));
	const char *word = given ? json_word(isolation_words, given) : NULL;

	if (!given)
		return 0;
	if (!word)
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: '%s'. '%.40s' is unknown. Valid values are: %s.",
			       name, given, join(isolation_words, list, sizeof(list)));
	/* SECURITY: never silently weaker than what was asked for. */
	if (!json_word(served_isolation, word))
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: '%s'. 'Isolation %s is not available on this "
			       "machine.' Available are: %s.",
			       name, word, join(served_isolation, list, sizeof(list)));
	if (json_object_set_new(props, name, json_string(word)) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	return 0;
}

static int check_identity(json_t *wanted, const json_t *props, struct err *e)
{
	json_t *identity = json_object_get(wanted, "identity");
	const char *type = json_string_value(json_object_get(identity, "type"));

	if ((type && !str_eq_nocase(str_from(type), STR("None"))) ||
	    json_array_size(json_object_get(props, "managedIdentitySettings")) > 0)
		return err_set(e, ERR_POOL_IDENTITY,
			       "Managed identities are not available to session pools of built-in "
			       "types. Use identity type 'None' and no managedIdentitySettings.");
	if (identity && json_object_set_new(identity, "type", json_string("None")) != 0)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	json_object_del(identity, "userAssignedIdentities");
	return 0;
}

static const char *old_secret(const json_t *old_props, const char *name)
{
	size_t i;
	json_t *s;

	json_array_foreach(json_object_get(old_props, "secrets"), i, s) {
		const char *have = json_string_value(json_object_get(s, "name"));

		if (have && strcmp(have, name) == 0)
			return json_string_value(json_object_get(s, "value"));
	}
	return NULL;
}

/* Values are never shown, so a client that sends back what it has read leaves them out: the old
 * value stays. */
static int check_secrets(const json_t *props, const json_t *old_props, struct err *e)
{
	json_t *secrets = json_object_get(props, "secrets");
	size_t i;
	json_t *s;

	if (json_array_size(secrets) > SECRETS_MAX)
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: 'secrets'. 'At most %d are allowed.'",
			       SECRETS_MAX);
	json_array_foreach(secrets, i, s) {
		const char *name = json_string_value(json_object_get(s, "name"));
		const char *had = name ? old_secret(old_props, name) : NULL;

		if (!name || !*name)
			return err_set(e, ERR_POOL_CONFIG,
				       "Unexpected value: 'secrets[%zu].name'. 'Must not be null.'",
				       i);
		if (json_object_get(s, "value"))
			continue;
		if (!had)
			return err_set(e, ERR_POOL_CONFIG,
				       "Unexpected value: 'secrets[%zu].value'. 'Must not be null "
				       "for a new secret.'",
				       i);
		if (json_object_set_new(s, "value", json_string(had)) != 0)
			return err_set(e, ERR_NOMEM, "arm: out of memory");
	}
	return 0;
}

static int validate(struct arm *arm, const json_t *old, json_t *wanted, const char *api_version,
		    struct err *e)
{
	const json_t *old_props = json_object_get(old, "properties");
	json_t *props = member(wanted, "properties");

	(void)api_version;
	if (!props)
		return err_set(e, ERR_NOMEM, "arm: out of memory");
	if (!old && check_name(json_string_value(json_object_get(wanted, "name")), e) < 0)
		return -1;
	if (check_container_type(arm, props, old_props, e) < 0 ||
	    check_builtin(props, old_props, e) < 0 || check_scale(props, e) < 0 ||
	    check_lifecycle(props, e) < 0 || check_network(arm, props, e) < 0 ||
	    check_isolation_word(props, "isolation", e) < 0 ||
	    check_isolation_word(props, "minimumIsolation", e) < 0 ||
	    check_identity(wanted, props, e) < 0 || check_secrets(props, old_props, e) < 0)
		return -1;
	return session_limits_check(json_object_get(props, "sessionLimits"), e);
}

/* --- showing --- */

/* Extension, and only where it has something to say: limits that this machine does not keep. */
static void render_unenforced(json_t *props, const char *words)
{
	json_t *list = json_array();

	for (const char *p = words ? words : ""; *p;) {
		size_t len = strcspn(p, " ");

		if (len)
			json_array_append_new(list, json_stringn(p, len));
		p += len + strspn(p + len, " ");
	}
	if (json_array_size(list))
		json_object_set_new(props, "unenforced", list);
	else
		json_decref(list);
}

static void render_flat(json_t *props)
{
	json_t *life = json_object_get(json_object_get(props, "dynamicPoolConfiguration"),
				       "lifecycleConfiguration");

	json_object_set_new(props, "dynamicPoolConfiguration",
			    json_pack("{s:O, s:O}", "executionType",
				      json_object_get(life, "lifecycleType"),
				      "cooldownPeriodInSeconds",
				      json_object_get(life, "cooldownPeriodInSeconds")));
}

/* Once it was asked for; with the address, which nobody writes. */
static void render_mcp(json_t *props, const char *endpoint)
{
	json_t *mcp = json_object_get(props, "mcpServerSettings");

	if (!mcp || !endpoint)
		return;
	if (json_is_true(json_object_get(mcp, "isMcpServerEnabled")))
		json_object_set_new(mcp, "mcpServerEndpoint", json_sprintf("%s/mcp", endpoint));
	if (!json_object_get(mcp, "isMcpServerApiKeyDisabled"))
		json_object_set_new(mcp, "isMcpServerApiKeyDisabled", json_false());
}

static json_t *render(struct arm *arm, const json_t *doc, const char *api_version,
		      const char *base_url)
{
	json_t *out = json_deep_copy(doc);
	json_t *props = json_object_get(out, "properties");
	const char *id = json_string_value(json_object_get(out, "id"));
	const char *provider = id ? strstr(id, "/providers/Microsoft.App/") : NULL;
	size_t i;
	json_t *s;

	if (!props || !provider) {
		json_decref(out);
		return NULL;
	}
	/* The service shows the display name of its location, whatever form was sent. */
	const char *location = json_string_value(json_object_get(out, "location"));

	if (location && strcmp(location, arm_config(arm)->location) == 0)
		json_object_set_new(out, "location",
				    json_string(arm_config(arm)->location_display));
	json_array_foreach(json_object_get(props, "secrets"), i, s) {
		json_object_del(s, "value");
	}
	if (strcmp(api_version, LAST_FLAT_VERSION) <= 0)
		render_flat(props);
	json_object_set_new(props, "environmentId", json_null());
	if (!json_object_get(props, "managedIdentitySettings"))
		json_object_set_new(props, "managedIdentitySettings", json_array());
	json_object_set_new(props, "provisioningState", json_string("Succeeded"));
	render_unenforced(props, arm_config(arm)->unenforced);
	json_t *endpoint = json_sprintf("%s%.*s/%s", base_url, (int)(provider - id), id,
					provider + strlen("/providers/Microsoft.App/"));

	render_mcp(props, json_string_value(endpoint));
	json_object_set_new(props, "poolManagementEndpoint", endpoint);
	return out;
}

const struct arm_type arm_session_pool = {
	.name = "Microsoft.App/sessionPools",
	.api_versions = api_versions,
	.shape = shape,
	.normalize = normalize,
	.validate = validate,
	.render = render,
	.patchable = patchable,
	.actions = mcp_key_actions,
	.removing = mcp_keys_removing,
	.needs_group = true,
};

/* --- for the pool controller --- */

/* "/subscriptions/S/resourceGroups/G/providers/Microsoft.App/sessionPools/N" */
static bool split_id(const char *id, struct session_pool_spec *spec)
{
	static const struct {
		size_t index;
		size_t offset;
		size_t size;
	} parts[] = {
		{ 1, offsetof(struct session_pool_spec, subscription), sizeof(spec->subscription) },
		{ 3, offsetof(struct session_pool_spec, group), sizeof(spec->group) },
		{ 7, offsetof(struct session_pool_spec, name), sizeof(spec->name) },
	};
	size_t index = 0;
	size_t done = 0;

	for (const char *p = id ? id : ""; *p == '/'; index++) {
		size_t len = strcspn(++p, "/");

		if (done < ARRAY_LEN(parts) && parts[done].index == index) {
			if (!str_copy((struct str){ p, len }, (char *)spec + parts[done].offset,
				      parts[done].size))
				return false;
			done++;
		}
		p += len;
	}
	return done == ARRAY_LEN(parts) && index == 8;
}

static int load_from_json(const struct store_doc *doc, const json_t *json,
			  struct session_pool_spec *spec, struct err *e)
{
	const json_t *props = json_object_get(json, "properties");
	const json_t *scale = json_object_get(props, "scaleConfiguration");
	const json_t *life = json_object_get(json_object_get(props, "dynamicPoolConfiguration"),
					     "lifecycleConfiguration");
	const char *type = json_string_value(json_object_get(props, "containerType"));
	const char *isolation = json_string_value(json_object_get(props, "isolation"));
	const char *network = json_string_value(
		json_object_get(json_object_get(props, "sessionNetworkConfiguration"), "status"));

	if (!type || !life || !scale ||
	    !split_id(json_string_value(json_object_get(json, "id")), spec) ||
	    !str_copy(str_from(doc->key), spec->key, sizeof(spec->key)) ||
	    !str_copy(str_from(type), spec->container_type, sizeof(spec->container_type)) ||
	    !str_copy(str_from(isolation ? isolation : "auto"), spec->isolation,
		      sizeof(spec->isolation)))
		return err_set(e, ERR_INTERNAL, "The stored session pool '%s' is not readable.",
			       doc->key);
	spec->sessions_max =
		(int)json_integer_value(json_object_get(scale, "maxConcurrentSessions"));
	const json_t *system = json_object_get(json, "systemData");
	const char *created = json_string_value(json_object_get(system, "createdAt"));
	const char *modified = json_string_value(json_object_get(system, "lastModifiedAt"));
	json_t *ready = json_object_get(scale, "readySessionInstances");

	str_copy(str_from(created), spec->created_at, sizeof(spec->created_at));
	str_copy(str_from(modified), spec->modified_at, sizeof(spec->modified_at));
	spec->ready_min = json_is_integer(ready) ? (int)json_integer_value(ready) : -1;
	spec->cooldown_s =
		(int)json_integer_value(json_object_get(life, "cooldownPeriodInSeconds"));
	const json_t *mcp = json_object_get(props, "mcpServerSettings");

	spec->mcp = json_is_true(json_object_get(mcp, "isMcpServerEnabled"));
	spec->mcp_key_off = json_is_true(json_object_get(mcp, "isMcpServerApiKeyDisabled"));
	spec->egress = network && strcmp(network, "EgressEnabled") == 0;
	return session_limits_read(json_object_get(props, "sessionLimits"), spec, e);
}

int session_pool_spec_load(const struct store_doc *doc, struct session_pool_spec *ret,
			   struct err *e)
{
	struct session_pool_spec spec = { 0 };
	json_t *json = json_parse_object(str_from(doc->json), e);

	if (!json)
		return err_set(e, ERR_INTERNAL, "The stored session pool '%s' is not readable.",
			       doc->key);
	int r = load_from_json(doc, json, &spec, e);

	json_decref(json);
	if (r == 0)
		*ret = spec;
	return r;
}
