/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bearer tokens. The input is used three ways: as an Authorization header, as a token, and as the
 * claims of a token with a good signature (so that the reading of claims is reached). Nothing
 * unsigned may ever be accepted.
 */
#include "base/fdio.h"
#include "base/own.h"
#include "identity/identity.h"

#include <assert.h>
#include <cjose/cjose.h>
#include <fcntl.h>
#include <stdio.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct identity *identity;
static cjose_jwk_t *key;

static void prepare(void)
{
	char dir[] = "/tmp/fuzz-jwt-XXXXXX";
	char path[64];
	struct err e = ERR_INIT;
	struct buf text;

	if (!mkdtemp(dir) || identity_open(dir, &identity, &e) < 0)
		abort();
	snprintf(path, sizeof(path), "%s/issuer.jwk", dir);
	buf_init(&text, 65536);
	if (fd_read_file(AT_FDCWD, path, 65536, &text, &e) < 0)
		abort();
	key = cjose_jwk_import(text.ptr, text.len, NULL);
	buf_done(&text);
	unlink(path);
	rmdir(dir);
}

static void check_signed(struct str claims)
{
	cjose_header_t *head = cjose_header_new(NULL);
	const char *compact = NULL;
	struct identity_caller c = { 0 };
	struct err e = ERR_INIT;

	cjose_header_set(head, "alg", "ES256", NULL);
	cjose_jws_t *jws = cjose_jws_sign(key, head, (const uint8_t *)claims.ptr, claims.len, NULL);

	if (jws && cjose_jws_export(jws, &compact, NULL)) {
		OWNED_MEM char *header = str_printf("Bearer %s", compact);

		for (int i = 0; i < 2; i++)
			if (identity_check(identity, str_from(header), IDENTITY_PLANE_DATA, &c,
					   &e) == 0)
				assert(c.oid[0] && (c.planes & IDENTITY_PLANE_DATA) &&
				       utf8_valid(str_from(c.name)));
	}
	if (jws)
		cjose_jws_release(jws);
	cjose_header_release(head);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct str input = { (const char *)data, size };
	struct identity_caller c;
	struct err e = ERR_INIT;
	struct buf header;

	if (!identity)
		prepare();
	assert(identity_check(identity, input, IDENTITY_PLANE_ARM, &c, &e) == -1);
	buf_init(&header, size + 16);
	buf_add_str(&header, STR("Bearer "));
	buf_add_str(&header, input);
	assert(identity_check(identity, buf_str(&header), IDENTITY_PLANE_DATA, &c, &e) == -1);
	buf_done(&header);
	if (size && size < 4096)
		check_signed(input);
	return 0;
}
