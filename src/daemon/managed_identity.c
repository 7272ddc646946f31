/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/managed_identity.h"

#include "base/clock.h"
#include "base/own.h"
#include "base/rand.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <jansson.h>
#include <netinet/in.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>

#define API_VERSION "2019-08-01"
#define LIFETIME_S  86400 /* as tokens of managed identities have */
#define SECRET_SIZE 32

static struct {
	struct identity *identity;
	const char *oid;
	const char *name;
	char secret[2 * SECRET_SIZE + 1];
} self;

bool managed_identity_allowed(const char *address)
{
	struct in_addr v4;
	struct in6_addr v6;

	/* SECURITY: whoever has the secret is everyone that --dev serves. It travels in clear, so
	 * it must not leave the machine. */
	if (inet_pton(AF_INET, address, &v4) == 1)
		return ntohl(v4.s_addr) >> 24 == 127;
	return inet_pton(AF_INET6, address, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

/*
 * SECURITY: the time of the comparison says nothing about the secret. A page in a browser on this
 * machine cannot ask in its user's name either: the header makes its request a preflighted one,
 * which nobody here answers.
 */
static int check_secret(struct http_request *rq, struct err *e)
{
	struct str given = STR("");

	http_header(rq, "X-IDENTITY-HEADER", &given);
	if (given.len == 2 * SECRET_SIZE &&
	    CRYPTO_memcmp(given.ptr, self.secret, 2 * SECRET_SIZE) == 0)
		return 0;
	return err_set(e, ERR_FORBIDDEN,
		       "The header X-IDENTITY-HEADER %s: set IDENTITY_HEADER to 'identityHeader' "
		       "of the line that bivouacd printed when it was ready.",
		       given.len ? "is wrong" : "is missing");
}

/* SECURITY: an audience that nothing here serves gets no token, which another service that trusts
 * the issuer's key could take for its own. */
static int check_query(struct http_request *rq, struct str *ret_resource, const char **ret_audience,
		       struct err *e)
{
	struct str version = STR("");
	struct str resource = STR("");
	enum identity_plane plane;

	if (!http_query(rq, "api-version", &version) || !str_eq(version, STR(API_VERSION)))
		return err_set(e, ERR_INVALID,
			       "The query parameter 'api-version' must be " API_VERSION ".");
	http_query(rq, "resource", &resource);
	*ret_audience = identity_audience(resource, &plane);
	if (!*ret_audience)
		return err_set(
			e, ERR_INVALID,
			"The query parameter 'resource' is %s; known are " IDENTITY_AUDIENCE_DATA
			", https://acasessions.io, " IDENTITY_AUDIENCE_ARM
			" and https://management.core.windows.net/.",
			resource.len ? "unknown" : "missing");
	*ret_resource = resource;
	return 0;
}

static char *token_json(struct str resource, const char *audience, struct err *e)
{
	OWNED_MEM char *token =
		identity_issue(self.identity, audience, self.oid, self.name, LIFETIME_S, e);
	char expires[24];

	if (!token)
		return NULL;
	snprintf(expires, sizeof(expires), "%" PRId64, clock_wall_us() / 1000000 + LIFETIME_S);
	json_t *body = json_pack("{s:s,s:s,s:s%,s:s}", "access_token", token, "expires_on", expires,
				 "resource", resource.ptr, resource.len, "token_type", "Bearer");
	char *text = body ? json_dumps(body, JSON_COMPACT) : NULL;

	json_decref(body);
	if (!text)
		err_set(e, ERR_NOMEM, "out of memory");
	return text;
}

static void get_token(struct http_request *rq, void *ctx)
{
	struct err e = ERR_INIT;
	struct str resource = STR("");
	const char *audience = NULL;
	char *text = NULL;

	(void)ctx;
	if (check_secret(rq, &e) == 0 && check_query(rq, &resource, &audience, &e) == 0)
		text = token_json(resource, audience, &e);
	http_set_header(rq, "Cache-Control", "no-store");
	if (text)
		http_reply_owned(rq, 200, "application/json; charset=utf-8", text, strlen(text));
	else
		http_reply_err(rq, &e);
}

static const struct http_route routes[] = {
	{ "GET", "/msi/token", get_token, HTTP_BODY_NONE, NULL,
	  "Token for a credential with IDENTITY_ENDPOINT and IDENTITY_HEADER (--dev)" },
};

int managed_identity_routes(struct identity *identity, const char *oid, const char *name,
			    struct http_server *server, struct err *e)
{
	unsigned char secret[SECRET_SIZE];

	rand_bytes(secret, sizeof(secret));
	hex_encode(secret, sizeof(secret), self.secret);
	self.identity = identity;
	self.oid = oid;
	self.name = name;
	return http_server_routes(server, routes, ARRAY_LEN(routes), NULL, e);
}

const char *managed_identity_secret(void)
{
	return self.secret;
}
