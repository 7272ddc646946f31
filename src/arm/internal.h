/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * arm/internal: what the files of arm/ share. resource.c changes documents and knows no HTTP;
 * routes.c speaks HTTP; pages.c has the read-only pages around the resources (subscriptions,
 * providers, operations).
 */

#include "arm/arm.h"
#include "base/clock.h"

#define ARM_KEY_MAX         512
#define ARM_ACTIONS_MAX     2
#define ARM_ROUTES_PER_TYPE (7 + ARM_ACTIONS_MAX)
#define ARM_WATCHERS_MAX    16
/** Finished operations that can still be asked for; older ones are forgotten. */
#define ARM_OPERATIONS_MAX 256
#define ARM_TENANT         "00000000-0000-0000-0000-000000000000"

/** One resource id, checked. Lower-cased it is the document's key. */
struct arm_id {
	char subscription[64];
	char group[96];
	char name[96];
	char path[ARM_KEY_MAX]; /* canonical spelling of the fixed parts, names as the caller
				   spelled them */
	char key[ARM_KEY_MAX];
};

/** A registered type with its routes (the context of its handlers). */
struct arm_binding {
	struct arm *arm;
	const struct arm_type *type;
	char key_type[96];   /* lower-cased name */
	char supported[512]; /* api-supported-versions */
	char patterns[3 + ARM_ACTIONS_MAX][160];
	struct http_route routes[ARM_ROUTES_PER_TYPE];
	size_t route_count;
};

struct arm_operation {
	char id[160]; /* base64("sessionPools:<x-ms-request-id>"), as the real service's look */
	char subscription[64];
	char key[ARM_KEY_MAX];
	int64_t started_us;
	int64_t ended_us;
};

struct arm {
	struct arm_config config;
	char *subscription;
	char *location;
	char *location_display;
	struct arm_binding types[2];
	struct {
		const char *type;
		arm_changed_fn fn;
		void *arg;
	} watchers[ARM_WATCHERS_MAX];
	size_t watcher_count;
	struct arm_operation operations[ARM_OPERATIONS_MAX];
	size_t operation_next;
};

/** If-Match and If-None-Match; ptr NULL where absent. */
struct arm_condition {
	struct str if_match;
	struct str if_none_match;
};

/** A document in hand. */
struct arm_resource {
	json_t *json;
	uint64_t etag;
	bool created;
};
void arm_resource_done(struct arm_resource *r);

/* resource.c */
#define ARM_ETAG_SIZE 24
const char *arm_etag_text(uint64_t etag, char buf[static ARM_ETAG_SIZE]);
/** arm_etag_listed: whether a header value names this etag ("*" names every one). */
bool arm_etag_listed(struct str header, uint64_t etag);
/** arm_id_make: checks subscription and group; type NULL or a container: the id of the group
 * itself. */
int arm_id_make(const struct arm_type *type, struct str subscription, struct str group,
		struct str name, struct arm_id *ret, struct err *e);
int arm_check_api_version(const struct arm_type *type, struct str version, struct err *e);
/** arm_resource_get: 1, 0, -1. */
int arm_resource_get(struct arm *arm, const char *key, struct arm_resource *ret, struct err *e);
/** arm_resource_missing: the 404 of a type. Returns -1. */
int arm_resource_missing(const struct arm_type *type, const struct arm_id *id, struct err *e);
/** arm_resource_write: PUT or PATCH. body is not changed. */
int arm_resource_write(const struct arm_binding *b, const struct arm_id *id, const json_t *body,
		       bool patch, const char *api_version, const char *by,
		       const struct arm_condition *cond, struct arm_resource *ret, struct err *e);
/** arm_resource_delete: 1 deleted, 0 there was none, -1. */
int arm_resource_delete(const struct arm_binding *b, const struct arm_id *id,
			const struct arm_condition *cond, struct err *e);

/* routes.c */
/** arm_begin: api-version of the request, copied to its memory; replies and returns NULL if it is
 * not acceptable. */
const char *arm_begin(struct http_request *rq, const struct arm_type *type);
void arm_reply_json(struct http_request *rq, int status,
		    json_t *body); /* takes body; NULL: out of memory */

/* session_limits.c: properties.sessionLimits of a session pool (NULL: all defaults). */
/** session_limits_read: fills the limits of a spec. */
int session_limits_read(const json_t *given, struct session_pool_spec *spec, struct err *e);
/** session_limits_check: for writing: what the host does not allow is refused too. */
int session_limits_check(const json_t *given, struct err *e);

/* pages.c */
extern const struct http_route arm_pages[];
extern const size_t arm_page_count;
void arm_operation_record(struct arm *arm, const struct arm_type *type, const struct arm_id *id,
			  const char *request_id, int64_t started_us);
