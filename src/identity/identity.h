/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * identity: who is calling. Bearer JWTs (RFC 7519, signed ES256 or RS256) of the built-in issuer.
 *
 * The issuer's private key lives in the state directory as issuer.jwk (mode 0600, made on first
 * open; ES256). Tokens are verified for signature, algorithm (allow-list; "none" and HMAC never),
 * issuer, audience, exp and nbf (60 s leeway). The last IDENTITY_CACHE_MAX verified tokens are
 * remembered by SHA-256 until they expire, so that a busy client costs one signature check. Knows
 * tokens and roles and nothing else.
 */

#include "base/err.h"
#include "base/str.h"

#include <stdint.h>

#define IDENTITY_TOKEN_MAX     (16 * 1024)
#define IDENTITY_CACHE_MAX     1024
#define IDENTITY_AUDIENCE_DATA "https://dynamicsessions.io"
#define IDENTITY_AUDIENCE_ARM  "https://management.azure.com/"

struct identity;

/** Planes a token's audience opens; trailing slashes and "/.default" are ignored in comparison.
 * DATA: https://dynamicsessions.io, https://acasessions.io. ARM: https://management.azure.com,
 * https://management.core.windows.net. */
enum identity_plane { IDENTITY_PLANE_DATA = 1, IDENTITY_PLANE_ARM = 2 };

struct identity_caller {
	char oid[64];   /* object id of the principal */
	char name[128]; /* for logs and systemData.createdBy */
	unsigned planes;
	int64_t expires_s; /* unix time */
};

int identity_open(const char *state_dir, struct identity **ret, struct err *e);
void identity_close(struct identity *id); /* accepts NULL */
/** identity_check: header is the value of Authorization. ERR_UNAUTHORIZED with what is wrong and
 * how to get a token. */
int identity_check(struct identity *id, struct str header, enum identity_plane plane,
		   struct identity_caller *ret, struct err *e);
/** identity_audience: the known audience that aud stands for, as its plane's tokens have it; NULL
 * if none. */
const char *identity_audience(struct str aud, enum identity_plane *ret_plane);
/** identity_issue: a signed token for an audience; caller frees. lifetime_s 60…31536000. */
char *identity_issue(struct identity *id, const char *audience, const char *oid, const char *name,
		     int64_t lifetime_s, struct err *e);
