/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/pool_body.h"

#include "base/fdio.h"
#include "base/own.h"
#include "base/str.h"

#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define PROBES_MAX (1024 * 1024)

static const char *const container_types[] = { "CustomContainer", "PythonLTS", "NodeLTS", "Shell",
					       NULL };

static const char *const lifecycle_types[] = { "Timed", "OnContainerExit", NULL };
static const char *const network_statuses[] = { "EgressEnabled", "EgressDisabled", NULL };
static const char *const isolations[] = { "auto", "process", "oci", "microvm", NULL };

static const char *const isolation_floors[] = { "process", "oci", "microvm", NULL };

const struct cli_flag cli_flags_pool_create[] = {
	{ .name = "location",
	  .letter = 'l',
	  .kind = FLAG_TEXT,
	  .arg = "LOCATION",
	  .required = true,
	  .help = "Location." },
	{ .name = "container-type",
	  .kind = FLAG_TEXT,
	  .arg = "TYPE",
	  .fallback = "PythonLTS",
	  .help = "Kind of the sessions: PythonLTS, NodeLTS, Shell, CustomContainer, or that of a "
		  "runtime of your own." },
	{ .name = "environment",
	  .kind = FLAG_TEXT,
	  .arg = "NAME",
	  .help = "Name or resource id of the environment (CustomContainer only)." },
	{ .name = "isolation",
	  .kind = FLAG_ENUM,
	  .arg = "TIER",
	  .choices = isolations,
	  .help = "Isolation tier of the sessions (not in az)." },
	{ .name = "minimum-isolation",
	  .kind = FLAG_ENUM,
	  .arg = "TIER",
	  .choices = isolation_floors,
	  .help = "Refuse to place sessions with less isolation (not in az)." },
	{ .name = "tags", .kind = FLAG_LIST, .arg = "KEY=VALUE", .help = "Tags." },
	{ .name = NULL },
};

const struct cli_flag cli_flags_pool_common[] = {
	{ .name = "max-sessions",
	  .kind = FLAG_INT,
	  .arg = "N",
	  .min = 1,
	  .max = INT_MAX,
	  .help = "Most sessions alive at a time (create: 10 if absent)." },
	{ .name = "ready-sessions",
	  .kind = FLAG_INT,
	  .arg = "N",
	  .min = 0,
	  .max = INT_MAX,
	  .help = "Sandboxes kept ready (custom containers: 5 if absent)." },
	{ .name = "cooldown-period",
	  .kind = FLAG_INT,
	  .arg = "SECONDS",
	  .min = 0,
	  .max = INT_MAX,
	  .help = "Idle time after which a session ends (create: 300 if absent)." },
	{ .name = "max-alive-period",
	  .kind = FLAG_INT,
	  .arg = "SECONDS",
	  .min = 0,
	  .max = INT_MAX,
	  .help = "Longest life of a session with OnContainerExit (create: 3600 if absent)." },
	{ .name = "lifecycle-type",
	  .kind = FLAG_ENUM,
	  .arg = "TYPE",
	  .choices = lifecycle_types,
	  .help = "What ends a session (create: Timed if absent)." },
	{ .name = "network-status",
	  .alias = "session-network-status",
	  .kind = FLAG_ENUM,
	  .arg = "STATUS",
	  .choices = network_statuses,
	  .help = "Whether sessions reach the network (create: EgressDisabled if absent)." },
	{ .name = "mi-system-assigned",
	  .kind = FLAG_BOOL,
	  .help = "A managed identity of its own." },
	{ .name = "mi-user-assigned",
	  .kind = FLAG_LIST,
	  .arg = "ID",
	  .help = "Resource ids of user-assigned identities." },
	{ .name = "no-wait", .kind = FLAG_BOOL, .help = "Do not wait for the end." },
	{ .name = NULL },
};

const struct cli_flag cli_flags_pool_container[] = {
	{ .name = "image",
	  .letter = 'i',
	  .kind = FLAG_TEXT,
	  .arg = "IMAGE",
	  .help = "Container image (CustomContainer)." },
	{ .name = "container-name", .kind = FLAG_TEXT, .arg = "NAME", .help = "Container name." },
	{ .name = "cpu", .kind = FLAG_TEXT, .arg = "CORES", .help = "Cores, 0.25 to 2.0." },
	{ .name = "memory", .kind = FLAG_TEXT, .arg = "SIZE", .help = "Memory, e.g. 1.0Gi." },
	{ .name = "env-vars",
	  .kind = FLAG_LIST,
	  .arg = "KEY=VALUE",
	  .help = "Environment; VALUE may be secretref:NAME." },
	{ .name = "command", .kind = FLAG_LIST, .arg = "WORD", .help = "Entry point." },
	{ .name = "args", .kind = FLAG_LIST, .arg = "WORD", .help = "Its arguments." },
	{ .name = "target-port",
	  .kind = FLAG_INT,
	  .arg = "PORT",
	  .min = 1,
	  .max = 65535,
	  .help = "Port the container listens on." },
	{ .name = "probe-yaml",
	  .kind = FLAG_TEXT,
	  .arg = "FILE",
	  .help = "Probes: a JSON file with a list, or an object with a list 'probes'." },
	{ .name = "secrets",
	  .letter = 's',
	  .kind = FLAG_LIST,
	  .arg = "KEY=VALUE",
	  .help = "Secrets." },
	{ .name = "registry-server", .kind = FLAG_TEXT, .arg = "HOST", .help = "Registry." },
	{ .name = "registry-username", .kind = FLAG_TEXT, .arg = "USER", .help = "Its user." },
	{ .name = "registry-password",
	  .kind = FLAG_TEXT,
	  .arg = "PASSWORD",
	  .help = "Its password." },
	{ .name = "registry-identity",
	  .kind = FLAG_TEXT,
	  .arg = "ID",
	  .help = "Identity for it instead of a password." },
	{ .name = NULL },
};

/** child: the object under a key, made if absent. */
static json_t *child(json_t *parent, const char *key)
{
	json_t *c = json_object_get(parent, key);

	if (!json_is_object(c)) {
		json_object_set_new(parent, key, json_object());
		c = json_object_get(parent, key);
	}
	return c;
}

static int set_text(json_t *object, const char *key, const char *value, struct err *e)
{
	if (value && json_object_set_new(object, key, json_string(value)))
		return err_set(e, ERR_MALFORMED, "a value for %s is not UTF-8 text", key);
	return 0;
}

/** set_int: from a flag, or from a default where there is one (0: none). */
static void set_int(const struct args *a, const char *flag, json_t *object, const char *key,
		    long otherwise)
{
	long value = args_given(a, flag) ? args_int(a, flag) : otherwise;

	if (args_given(a, flag) || otherwise)
		json_object_set_new(object, key, json_integer(value));
}

static json_t *list_of(const struct args *a, const char *flag, struct err *e)
{
	json_t *list = json_array();
	const char *word;

	for (size_t i = 0; (word = args_list(a, flag, i)); i++) {
		if (json_array_append_new(list, json_string(word))) {
			json_decref(list);
			err_set(e, ERR_MALFORMED, "--%s: a value is not UTF-8 text", flag);
			return NULL;
		}
	}
	return list;
}

/** pairs_of: KEY=VALUE words → list of {name, value}; secretref:NAME becomes secretRef where
 * allowed. */
static json_t *pairs_of(const struct args *a, const char *flag, bool secret_refs, struct err *e)
{
	json_t *list = json_array();
	const char *word;

	for (size_t i = 0; (word = args_list(a, flag, i)); i++) {
		const char *equals = strchr(word, '=');
		bool ref = equals && secret_refs && !strncmp(equals + 1, "secretref:", 10);
		json_t *pair = !equals ? NULL
				       : json_pack("{ss%ss}", "name", word, (size_t)(equals - word),
						   ref ? "secretRef" : "value",
						   equals + 1 + (ref ? 10 : 0));

		if (!pair || json_array_append_new(list, pair)) {
			json_decref(list);
			err_set(e, ERR_INVALID, "--%s: '%.*s' is not KEY=VALUE", flag,
				(int)strcspn(word, "="), word);
			return NULL;
		}
	}
	return list;
}

static int set_tags(const struct args *a, json_t *body, struct err *e)
{
	const char *tag;

	if (args_given(a, "tags"))
		child(body, "tags");
	for (size_t i = 0; (tag = args_list(a, "tags", i)); i++) {
		const char *equals = strchr(tag, '=');
		OWNED_MEM char *key = str_dup((struct str){ tag, strcspn(tag, "=") });

		if (!key || set_text(child(body, "tags"), key, equals ? equals + 1 : "", e))
			return err_set(e, ERR_MALFORMED, "tag '%s' is not UTF-8 text", tag);
	}
	return 0;
}

static json_t *probes_read(const char *path, struct err *e)
{
	struct buf b;
	json_t *all = NULL, *probes = NULL;

	buf_init(&b, PROBES_MAX);
	if (!fd_read_file(AT_FDCWD, path, PROBES_MAX, &b, e)) {
		all = json_loadb(b.ptr ? b.ptr : "", b.len, 0, NULL);
		probes = json_is_object(all) ? json_object_get(all, "probes") : all;
		if (json_is_array(probes))
			json_incref(probes);
		else
			probes = NULL;
		if (!probes)
			err_set(e, ERR_INVALID, "%s is not a list of probes in JSON", path);
	}
	json_decref(all);
	buf_done(&b);
	return probes;
}

static int set_list(json_t *object, const char *key, json_t *list)
{
	return list ? json_object_set_new(object, key, list) : -1;
}

static int container_apply(const struct args *a, json_t *container, struct err *e)
{
	const char *cpu = args_text(a, "cpu");
	char *end = NULL;

	if (cpu) {
		double cores = strtod(cpu, &end);

		if (*end || !(cores > 0))
			return err_set(e, ERR_INVALID, "--cpu: '%s' is not a number of cores", cpu);
		json_object_set_new(child(container, "resources"), "cpu", json_real(cores));
	}
	if (args_text(a, "memory") &&
	    set_text(child(container, "resources"), "memory", args_text(a, "memory"), e))
		return -1;
	if (set_text(container, "image", args_text(a, "image"), e) ||
	    set_text(container, "name", args_text(a, "container-name"), e))
		return -1;
	if (args_given(a, "env-vars") &&
	    set_list(container, "env", pairs_of(a, "env-vars", true, e)))
		return -1;
	if (args_given(a, "command") && set_list(container, "command", list_of(a, "command", e)))
		return -1;
	if (args_given(a, "args") && set_list(container, "args", list_of(a, "args", e)))
		return -1;
	if (args_text(a, "probe-yaml") &&
	    set_list(container, "probes", probes_read(args_text(a, "probe-yaml"), e)))
		return -1;
	return 0;
}

/** secret_put: adds or replaces in the list of {name, value}. */
static void secret_put(json_t *properties, const char *name, const char *value)
{
	json_t *secrets = json_object_get(properties, "secrets"), *secret;
	size_t i;

	if (!json_is_array(secrets)) {
		json_object_set_new(properties, "secrets", json_array());
		secrets = json_object_get(properties, "secrets");
	}
	json_array_foreach(secrets, i, secret) {
		if (!strcmp(json_string_value(json_object_get(secret, "name")), name)) {
			json_object_set_new(secret, "value", json_string(value));
			return;
		}
	}
	json_array_append_new(secrets, json_pack("{ssss}", "name", name, "value", value));
}

/** registry_apply: the password becomes a secret named as az names it: server without dots, dash,
 * user. */
static int registry_apply(const struct args *a, json_t *properties, json_t *template, struct err *e)
{
	const char *server = args_text(a, "registry-server");
	const char *user = args_text(a, "registry-username");
	const char *password = args_text(a, "registry-password");

	if (!server && (user || password || args_text(a, "registry-identity")))
		return err_set(e, ERR_INVALID,
			       "--registry-server is required with a registry flag");
	if (!server)
		return 0;
	json_t *credentials = child(template, "registryCredentials");

	if (set_text(credentials, "server", server, e) ||
	    set_text(credentials, "username", user, e) ||
	    set_text(credentials, "identity", args_text(a, "registry-identity"), e))
		return -1;
	if (!password)
		return 0;
	OWNED_MEM char *name = str_printf("%s-%s", server, user ? user : "");

	if (!name)
		return err_set(e, ERR_NOMEM, "out of memory");
	char *to = name;

	for (const char *from = name; *from; from++)
		if (*from != '.')
			*to++ = *from;
	*to = '\0';
	secret_put(properties, name, password);
	return set_text(credentials, "passwordSecretRef", name, e);
}

static bool container_flags_given(const struct args *a)
{
	for (const struct cli_flag *f = cli_flags_pool_container; f->name; f++)
		if (strcmp(f->name, "secrets") && args_given(a, f->name))
			return true;
	return false;
}

/** template_apply: onto the template as it is (empty for a new pool). */
static int template_apply(const struct args *a, json_t *properties, json_t *template, struct err *e)
{
	json_t *containers = json_object_get(template, "containers");

	if (!json_array_size(containers)) {
		containers = json_array();
		json_array_append_new(containers, json_object());
		json_object_set_new(template, "containers", containers);
	}
	if (args_given(a, "target-port"))
		json_object_set_new(child(template, "ingress"), "targetPort",
				    json_integer(args_int(a, "target-port")));
	if (container_apply(a, json_array_get(containers, 0), e))
		return -1;
	return registry_apply(a, properties, template, e);
}

static int lifecycle_apply(const struct args *a, json_t *properties, bool create, struct err *e)
{
	const char *type = args_text(a, "lifecycle-type");
	bool cooldown = args_given(a, "cooldown-period"), alive = args_given(a, "max-alive-period");
	bool on_exit = type && !strcmp(type, "OnContainerExit");

	if (cooldown && alive)
		return err_set(e, ERR_INVALID,
			       "--cooldown-period and --max-alive-period exclude each other");
	if (on_exit && cooldown)
		return err_set(e, ERR_INVALID, "--cooldown-period needs --lifecycle-type Timed");
	if ((type || create) && !on_exit && alive)
		return err_set(e, ERR_INVALID,
			       "--max-alive-period needs --lifecycle-type OnContainerExit");
	if (!create && !type && !cooldown && !alive)
		return 0;
	json_t *life =
		child(child(properties, "dynamicPoolConfiguration"), "lifecycleConfiguration");

	if (set_text(life, "lifecycleType", type ? type : create ? "Timed" : NULL, e))
		return -1;
	if (on_exit || alive)
		set_int(a, "max-alive-period", life, "maxAlivePeriodInSeconds", create ? 3600 : 0);
	else
		set_int(a, "cooldown-period", life, "cooldownPeriodInSeconds", create ? 300 : 0);
	return 0;
}

static int identity_apply(const struct args *a, json_t *body, json_t *properties, struct err *e)
{
	bool system = args_given(a, "mi-system-assigned"), user = args_given(a, "mi-user-assigned");
	json_t *identity, *settings;
	const char *id;

	if (!system && !user)
		return 0;
	identity = child(body, "identity");
	settings = json_array();
	json_object_set_new(properties, "managedIdentitySettings", settings);
	if (set_text(identity, "type",
		     system && user ? "SystemAssigned, UserAssigned"
		     : system       ? "SystemAssigned"
				    : "UserAssigned",
		     e))
		return -1;
	if (system)
		json_array_append_new(
			settings, json_pack("{ssss}", "identity", "system", "lifecycle", "Main"));
	for (size_t i = 0; (id = args_list(a, "mi-user-assigned", i)); i++) {
		if (json_object_set_new(child(identity, "userAssignedIdentities"), id,
					json_object()) ||
		    json_array_append_new(settings,
					  json_pack("{ssss}", "identity", id, "lifecycle", "Main")))
			return err_set(e, ERR_MALFORMED, "an identity is not UTF-8 text");
	}
	return 0;
}

static int common_apply(const struct args *a, json_t *body, json_t *properties, bool create,
			bool custom, struct err *e)
{
	const char *network = args_text(a, "network-status");
	json_t *scale = json_object();

	set_int(a, "max-sessions", scale, "maxConcurrentSessions", create ? 10 : 0);
	set_int(a, "ready-sessions", scale, "readySessionInstances", create && custom ? 5 : 0);
	if (json_object_size(scale))
		json_object_set(properties, "scaleConfiguration", scale);
	json_decref(scale);
	network = network ? network : create ? "EgressDisabled" : NULL;
	if (network &&
	    set_text(child(properties, "sessionNetworkConfiguration"), "status", network, e))
		return -1;
	if (args_given(a, "secrets") &&
	    set_list(properties, "secrets", pairs_of(a, "secrets", false, e)))
		return -1;
	return lifecycle_apply(a, properties, create, e) || identity_apply(a, body, properties, e)
		       ? -1
		       : 0;
}

static int environment_apply(const struct args *a, json_t *properties, bool custom, struct err *e)
{
	const char *environment = args_text(a, "environment");

	if (!environment)
		return custom ? err_set(e, ERR_INVALID,
					"--environment is required with CustomContainer")
			      : 0;
	if (!custom)
		return err_set(e, ERR_INVALID, "--environment is only for CustomContainer");
	if (environment[0] == '/')
		return set_text(properties, "environmentId", environment, e);
	OWNED_MEM char *id = str_printf("/subscriptions/%s/resourceGroups/%s/providers/"
					"Microsoft.App/managedEnvironments/%s",
					args_text(a, "subscription"),
					args_text(a, "resource-group"), environment);

	return id ? set_text(properties, "environmentId", id, e)
		  : err_set(e, ERR_NOMEM, "out of memory");
}

/** container_type: known ones in their canonical spelling; which others there are, the daemon
 * knows. */
static const char *container_type(const struct args *a)
{
	const char *text = args_text(a, "container-type");

	for (size_t i = 0; container_types[i]; i++)
		if (str_eq_nocase(str_from(container_types[i]), str_from(text)))
			return container_types[i];
	return text;
}

json_t *pool_body_create(const struct args *a, struct err *e)
{
	const char *type = container_type(a);
	bool custom = !strcmp(type, "CustomContainer");
	json_t *body = json_object(), *properties = child(body, "properties");
	int rc = set_text(body, "location", args_text(a, "location"), e) ||
		 set_text(properties, "poolManagementType", "Dynamic", e) ||
		 set_text(properties, "containerType", type, e) ||
		 set_text(properties, "isolation", args_text(a, "isolation"), e) ||
		 set_text(properties, "minimumIsolation", args_text(a, "minimum-isolation"), e) ||
		 environment_apply(a, properties, custom, e) ||
		 common_apply(a, body, properties, true, custom, e) || set_tags(a, body, e);

	if (!rc && !custom && container_flags_given(a))
		rc = err_set(e, ERR_INVALID,
			     "container flags (--image, --cpu, …) need --container-type "
			     "CustomContainer");
	if (!rc && custom && !args_given(a, "target-port"))
		rc = err_set(e, ERR_INVALID, "--target-port is required with CustomContainer");
	if (!rc && custom)
		rc = template_apply(a, properties, child(properties, "customContainerTemplate"), e);
	if (!rc)
		return body;
	json_decref(body);
	return NULL;
}

json_t *pool_body_update(const struct args *a, const json_t *current, struct err *e)
{
	const json_t *old =
		json_object_get(json_object_get(current, "properties"), "customContainerTemplate");
	json_t *body = json_object(), *properties = child(body, "properties");
	int rc = common_apply(a, body, properties, false, false, e);

	if (!rc && container_flags_given(a)) {
		json_t *template = json_is_object(old) ? json_deep_copy(old) : NULL;

		if (!template) {
			rc = err_set(e, ERR_INVALID, "container flags need a CustomContainer pool");
		} else {
			json_object_set_new(properties, "customContainerTemplate", template);
			rc = template_apply(a, properties, template, e);
		}
	}
	if (!rc && !json_object_size(properties))
		rc = err_set(e, ERR_INVALID,
			     "nothing to update: give a flag that changes something");
	if (!rc)
		return body;
	json_decref(body);
	return NULL;
}
