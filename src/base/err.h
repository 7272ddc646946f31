/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * err: the one error value of the project, fixed size, never allocated.
 *
 * Passed last as `struct err *e`; a failing function fills it and returns -1 (or NULL), so that
 * `return err_set(e, ERR_X, "…")` is the whole failure path. It can be filled after a fork and sent
 * over a socket in one write. The table below maps each code to the HTTP status and API code a
 * caller sees and to the exit status of the command line; a code without a row does not exist.
 * API codes are those of the real service where it has one (azure-api.md §1.3, §5.3).
 */

#include <stddef.h>

#define ERR_MSG_MAX 400

/*  code                    HTTP  API code                                exit */
#define ERR_TABLE(X)                                                                               \
	X(ERR_NONE, 200, "", 0)                                                                    \
	X(ERR_INTERNAL, 500, "InternalServerError", 70)                                            \
	X(ERR_SYSTEM, 500, "InternalServerError", 71)                                              \
	X(ERR_NOMEM, 503, "OutOfMemory", 71)                                                       \
	X(ERR_UNAVAILABLE, 503, "ServiceUnavailable", 69)                                          \
	X(ERR_PROTOCOL, 502, "SandboxProtocolError", 76)                                           \
	X(ERR_MALFORMED, 400, "InvalidRequestContent", 65)                                         \
	X(ERR_INVALID, 400, "SessionRequestValidationFailed", 64)                                  \
	X(ERR_PROPERTY_MISSING, 400, "SessionPropertiesMissing", 64)                               \
	X(ERR_NOT_SUPPORTED, 400, "SessionRequestNotSupported", 64)                                \
	X(ERR_NO_SESSION, 400, "SessionWithIdentifierNotFound", 66)                                \
	X(ERR_API_VERSION, 400, "InvalidApiVersionParameter", 64)                                  \
	X(ERR_NO_API_VERSION, 400, "MissingApiVersionParameter", 64)                               \
	X(ERR_POOL_CONFIG, 400, "InvalidSessionPoolConfiguration", 64)                             \
	X(ERR_POOL_READY, 400, "SessionPoolInvalidReadySessionInstances", 64)                      \
	X(ERR_POOL_MGMT_TYPE, 400, "SessionPoolInvalidPoolManagementType", 64)                     \
	X(ERR_SESSION_TYPE, 400, "SessionTypeNotSupportedInRegion", 64)                            \
	X(ERR_RESOURCE_NAME, 400, "InvalidResourceName", 64)                                       \
	X(ERR_PROPERTY_IMMUTABLE, 400, "PropertyChangeNotAllowed", 64)                             \
	X(ERR_LOCATION, 400, "LocationRequired", 64)                                               \
	X(ERR_LOCATION_UNAVAILABLE, 400, "LocationNotAvailableForResourceType", 64)                \
	X(ERR_POOL_IDENTITY, 400, "SessionPoolManagedIdentityCreationError", 64)                   \
	X(ERR_LOCATION_CHANGE, 409, "InvalidResourceLocation", 73)                                 \
	X(ERR_NO_PROVIDER, 404, "InvalidResourceNamespace", 66)                                    \
	X(ERR_SUBSCRIPTION, 400, "InvalidSubscriptionId", 64)                                      \
	X(ERR_UNAUTHORIZED, 401, "Unauthorized", 77)                                               \
	X(ERR_FORBIDDEN, 403, "AuthorizationFailed", 77)                                           \
	X(ERR_NOT_FOUND, 404, "NotFound", 66)                                                      \
	X(ERR_NO_FILE, 404, "SessionFileNotFound", 66)                                             \
	X(ERR_NO_EXECUTION, 404, "SessionExecutionNotFound", 66)                                   \
	X(ERR_NO_CONTEXT, 404, "SessionContextNotFound", 66)                                       \
	X(ERR_NO_TERMINAL, 404, "SessionTerminalNotFound", 66)                                     \
	X(ERR_NO_MCP, 400, "SessionMCPServerNotEnabled", 64)                                       \
	X(ERR_NO_POOL, 404, "SessionPoolNotFound", 66)                                             \
	X(ERR_NO_RESOURCE, 404, "ResourceNotFound", 66)                                            \
	X(ERR_NO_GROUP, 404, "ResourceGroupNotFound", 66)                                          \
	X(ERR_METHOD, 405, "MethodNotAllowed", 64)                                                 \
	X(ERR_CONFLICT, 409, "Conflict", 73)                                                       \
	X(ERR_PRECONDITION, 412, "PreconditionFailed", 73)                                         \
	X(ERR_TOO_LARGE, 413, "RequestEntityTooLarge", 65)                                         \
	X(ERR_STORAGE_FULL, 507, "SessionStorageFull", 73)                                         \
	X(ERR_SESSIONS_MAX, 429, "SessionPoolCapacityReached", 75)                                 \
	X(ERR_QUEUE_FULL, 429, "SessionQueueFull", 75)                                             \
	X(ERR_QUOTA, 400, "QuotaExceeded", 75)                                                     \
	X(ERR_HEADERS_TOO_LARGE, 431, "RequestHeaderFieldsTooLarge", 65)                           \
	X(ERR_UPGRADE_REQUIRED, 426, "UpgradeRequired", 64)                                        \
	X(ERR_TIMEOUT, 408, "RequestTimeout", 75)

enum err_code {
#define X(code, http, api, exit) code,
	ERR_TABLE(X)
#undef X
		ERR_CODE_MAX
};

struct err {
	enum err_code code;
	int errnum; /* errno behind it, 0 if none */
	char msg[ERR_MSG_MAX];
};

#define ERR_INIT ((struct err){ ERR_NONE, 0, "" })

/** err_set: fills e (may be NULL) and returns -1. */
int err_set(struct err *e, enum err_code code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/** err_sys: as err_set with ERR_SYSTEM, appending the text of the current errno. */
int err_sys(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** err_wrap: puts "context: " before the message that e already has; keeps the code. Returns -1. */
int err_wrap(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

int err_http_status(enum err_code code);
const char *err_api_code(enum err_code code);
int err_exit_status(enum err_code code);
