/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * managed_identity: GET /msi/token of --dev, the endpoint at which the credentials of Azure SDKs
 * fetch tokens inside Azure's own hosts (IDENTITY_ENDPOINT and IDENTITY_HEADER, api-version
 * 2019-08-01). With these two variables a program gets its token as it does in Azure.
 */

#include "http/http.h"
#include "identity/identity.h"

/** managed_identity_allowed: whether the endpoint may exist on this listening address: loopback
 * ones only. */
bool managed_identity_allowed(const char *address);
/** managed_identity_routes: makes the secret of this run and the route. oid, name: whose tokens
 * they are; not copied. */
int managed_identity_routes(struct identity *identity, const char *oid, const char *name,
			    struct http_server *server, struct err *e);
/** managed_identity_secret: what IDENTITY_HEADER must hold; "" without the route. */
const char *managed_identity_secret(void);
