/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * arm: generic resource provider: routing, CRUD, merge patch, ETags, paging, error envelope,
 * systemData, for resources that are JSON documents in the store. A resource type is one file that
 * fills in struct arm_type.
 *
 * Property names and enum values in requests match case-insensitively and are stored in canonical
 * spelling. Numbers may come as strings (the az CLI does that). Unknown properties are dropped.
 * Duplicate keys: 400.
 */

#include "base/err.h"
#include "base/json.h"
#include "http/http.h"
#include "identity/identity.h"
#include "store/store.h"

#include <jansson.h>

struct arm;

struct arm_config {
	struct store *store;
	const char *subscription; /* default subscription, all zeros */
	const char *location;     /* short name; the location of this machine, e.g. "local" */
	const char *location_display;
	/* What the machine does not enforce, words with a space between; read at each GET; NULL:
	 * nothing. */
	const char *unenforced;
	/** egress_off: why sessions cannot have egress on this machine, and after a ';' what to do
	 * about it; NULL (or no function): they can. */
	const char *(*egress_off)(void);
	/** container_type: the n-th one that an installed image serves, in its canonical spelling;
	 * NULL behind the last. No function: PythonLTS is the only one. */
	const char *(*container_type)(size_t n);
};

/** What happened to a document; called after the store was written, from the request's handler. */
typedef void (*arm_changed_fn)(const char *key, bool deleted, void *arg);

/** A POST below a resource, as listKeys of other providers. */
struct arm_action {
	const char *name; /* last segment of the path */
	const char *summary;
	/** run: doc is the stored resource; *ret a new reference to the body of the 200. */
	int (*run)(struct arm *arm, const char *key, const json_t *doc, json_t **ret,
		   struct err *e);
};

struct arm_type {
	const char *name; /* canonical: "Microsoft.App/sessionPools" */
	const char *const
		*api_versions; /* NULL-terminated, oldest first; NULL: any well-formed version */
	const struct json_shape *shape; /* of the whole resource, as far as a caller may write it */
	/** normalize: rewrites older spellings in a request body (PUT or PATCH, as sent) to those
	 * of `shape`; may be NULL. */
	int (*normalize)(json_t *body, struct err *e);
	/**
	 * validate: old is NULL on create. `wanted` is the complete new resource (respelled after
	 * `shape`, with id, name, type, location, systemData) and may be corrected in place
	 * (defaults).
	 */
	int (*validate)(struct arm *arm, const json_t *old, json_t *wanted, const char *api_version,
			struct err *e);
	/** render: new reference to the body to show for this api-version; base_url is how the
	 * caller named us. */
	json_t *(*render)(struct arm *arm, const json_t *doc, const char *api_version,
			  const char *base_url);
	/** patchable: property names (below properties) a PATCH may carry; NULL-terminated; NULL:
	 * all. */
	const char *const *patchable;
	const struct arm_action *actions; /* ends with a NULL name; NULL: none */
	/** removing: a resource is about to be deleted, by itself or with its group; may be NULL.
	 */
	void (*removing)(struct arm *arm, const char *key);
	/** needs_group: whether the resource group must exist (it is made by PUT
	 * …/resourceGroups/{rg}). */
	bool needs_group;
	/** container: a resource group: its id has no provider part, and deleting it deletes what
	 * is in it. */
	bool container;
};

int arm_new(const struct arm_config *config, struct arm **ret, struct err *e);
void arm_free(struct arm *arm); /* accepts NULL */
const struct arm_config *arm_config(const struct arm *arm);
void arm_on_change(struct arm *arm, const char *type, arm_changed_fn fn, void *arg);
/** arm_routes: adds all ARM routes to a server (once); the arm must outlive it. Handlers expect
 * http_caller() to be a struct identity_caller, or NULL where nobody is asked who he is. */
#define ARM_READ  "arm:read"
#define ARM_WRITE "arm:write"
int arm_routes(struct arm *arm, struct http_server *server, struct err *e);
/** arm_put_internal: what a PUT would do, for the daemon itself (--dev's default
 * group and pool). */
int arm_put_internal(struct arm *arm, const char *resource_id, const char *body_json,
		     const char *api_version, struct err *e);

extern const struct arm_type arm_resource_group;

/* arm/session_pool.c: the type Microsoft.App/sessionPools, as the pool controller reads it. */
struct session_pool_spec {
	char key[512]; /* lower-cased resource id */
	char subscription[64];
	char group[128];
	char name[64];
	char container_type[24]; /* PythonLTS, … */
	char isolation[16];      /* extension property: auto, process, oci, microvm; default auto */
	int sessions_max;        /* scaleConfiguration.maxConcurrentSessions */
	int ready_min;           /* scaleConfiguration.readySessionInstances; -1 if absent */
	int cooldown_s;
	bool egress;      /* sessionNetworkConfiguration.status is EgressEnabled */
	bool mcp;         /* mcpServerSettings.isMcpServerEnabled */
	bool mcp_key_off; /* isMcpServerApiKeyDisabled: bearer tokens only */
	/* Extension properties below properties.sessionLimits, with the daemon's defaults where
	 * absent: */
	uint64_t memory_bytes;
	uint64_t data_bytes;
	uint64_t tmp_bytes;
	uint32_t inodes;
	uint32_t pids;
	uint32_t open_files;
	uint32_t cpu_millis;
	uint32_t output_max; /* default of outputStreamsMaxLength, bytes per stream */
	uint32_t timeout_default_ms;
	uint32_t timeout_max_ms;
	uint32_t queue_max; /* executions waiting per session */
	uint64_t upload_max_bytes;
	char created_at[40]; /* systemData, RFC 3339 */
	char modified_at[40];
};
extern const struct arm_type arm_session_pool;
/** session_pool_spec_load: from a stored document. */
int session_pool_spec_load(const struct store_doc *doc, struct session_pool_spec *ret,
			   struct err *e);
