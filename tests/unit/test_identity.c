/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"
#include "base/fdio.h"
#include "base/own.h"
#include "identity/identity.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cjose/base64.h>
#include <cjose/cjose.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>

static char dir[64];
static cjose_jwk_t
	*key; /* a second reader of the issuer's key, to sign what the issuer never would */

static int setup(void **state)
{
	struct identity *id = NULL;
	struct err e = ERR_INIT;
	struct buf text;
	char path[128];

	snprintf(dir, sizeof(dir), "/tmp/bivouac-identity-XXXXXX");
	assert_non_null(mkdtemp(dir));
	if (identity_open(dir, &id, &e) < 0)
		fail_msg("%s", e.msg);
	snprintf(path, sizeof(path), "%s/issuer.jwk", dir);
	buf_init(&text, 65536);
	assert_int_equal(fd_read_file(AT_FDCWD, path, 65536, &text, &e), 0);
	key = cjose_jwk_import(text.ptr, text.len, NULL);
	assert_non_null(key);
	buf_done(&text);
	*state = id;
	return 0;
}

static int teardown(void **state)
{
	char path[128];

	identity_close(*state);
	cjose_jwk_release(key);
	snprintf(path, sizeof(path), "%s/issuer.jwk", dir);
	unlink(path);
	return rmdir(dir);
}

static int check(struct identity *id, const char *token, enum identity_plane plane,
		 struct identity_caller *ret, struct err *e)
{
	OWNED_MEM char *header = str_printf("Bearer %s", token);

	*e = ERR_INIT;
	return identity_check(id, str_from(header), plane, ret, e);
}

static void assert_refused(struct identity *id, const char *token, const char *why)
{
	struct identity_caller c;
	struct err e;

	/* Twice: a refusal must not be remembered as a success. */
	for (int i = 0; i < 2; i++) {
		assert_int_equal(check(id, token, IDENTITY_PLANE_DATA, &c, &e), -1);
		assert_int_equal(e.code, ERR_UNAUTHORIZED);
		if (!strstr(e.msg, why))
			fail_msg("'%s' does not say '%s'", e.msg, why);
	}
}

static char *sign_with(cjose_jwk_t *jwk, const char *alg, const char *claims)
{
	cjose_header_t *head = cjose_header_new(NULL);
	const char *text = NULL;

	assert_true(cjose_header_set(head, "alg", alg, NULL));
	cjose_jws_t *jws = cjose_jws_sign(jwk, head, (const uint8_t *)claims, strlen(claims), NULL);

	assert_non_null(jws);
	assert_true(cjose_jws_export(jws, &text, NULL));
	char *copy = strdup(text);

	cjose_jws_release(jws);
	cjose_header_release(head);
	return copy;
}

static char *claims_text(const char *iss, const char *aud, int64_t nbf, int64_t exp)
{
	int64_t now = clock_wall_us() / 1000000;

	return str_printf("{\"iss\":\"%s\",\"aud\":%s,\"oid\":\"o-1\",\"nbf\":%lld,\"exp\":%lld}",
			  iss, aud, (long long)(now + nbf), (long long)(now + exp));
}

static void test_issued(void **state)
{
	static const char *const data[] = { "https://dynamicsessions.io",
					    "https://dynamicsessions.io/",
					    "https://dynamicsessions.io/.default",
					    "https://acasessions.io/.default",
					    "https://DynamicSessions.io//.default" };
	static const char *const arm[] = { "https://management.azure.com/",
					   "https://management.azure.com//.default",
					   "https://management.core.windows.net" };
	struct identity *id = *state;
	struct err e = ERR_INIT;
	struct identity_caller c;

	for (size_t i = 0; i < ARRAY_LEN(data); i++) {
		OWNED_MEM char *t = identity_issue(id, data[i], "oid-1", "Ada \xc3\xa9", 60, &e);

		assert_int_equal(check(id, t, IDENTITY_PLANE_DATA, &c, &e), 0);
		assert_string_equal(c.oid, "oid-1");
		assert_string_equal(c.name, "Ada \xc3\xa9");
		assert_int_equal(c.planes, IDENTITY_PLANE_DATA);
		assert_int_equal(check(id, t, IDENTITY_PLANE_ARM, &c, &e), -1);
		assert_non_null(strstr(e.msg, IDENTITY_AUDIENCE_ARM));
	}
	for (size_t i = 0; i < ARRAY_LEN(arm); i++) {
		OWNED_MEM char *t = identity_issue(id, arm[i], "oid-1", "x", 31536000, &e);

		assert_int_equal(check(id, t, IDENTITY_PLANE_ARM, &c, &e), 0);
		assert_refused(id, t, "another audience");
	}
	assert_null(identity_issue(id, data[0], "o", "n", 59, &e));
	assert_null(identity_issue(id, data[0], "o", "n", 31536001, &e));
	assert_null(identity_issue(id, data[0], "", "n", 60, &e));
	assert_null(identity_issue(id, data[0], "o", "\xff", 60, &e));
	assert_int_equal(e.code, ERR_INVALID);
}

static void test_claims(void **state)
{
	static const char data[] = "\"https://dynamicsessions.io\"";
	static const struct {
		const char *iss;
		const char *aud;
		int64_t nbf;
		int64_t exp;
		const char *why; /* NULL: accepted */
	} rows[] = {
		{ "bivouac", data, 0, 100, NULL },
		{ "bivouac", "[\"x\",\"https://acasessions.io\",7]", 0, 100, NULL },
		{ "bivouac", data, 0, -57, NULL },
		{ "bivouac", data, 0, -61, "expired at" },
		{ "bivouac", data, 57, 100, NULL },
		{ "bivouac", data, 65, 100, "not valid yet" },
		{ "other", data, 0, 100, "another issuer" },
		{ "bivouac", "\"https://vault.azure.net\"", 0, 100, "another audience" },
		{ "bivouac", "[]", 0, 100, "another audience" },
		{ "bivouac", "{}", 0, 100, "another audience" },
		{ "bivouac", data, 0, 200000000000, "no valid expiry" },
	};
	struct identity *id = *state;
	struct identity_caller c;
	struct err e;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		OWNED_MEM char *text =
			claims_text(rows[i].iss, rows[i].aud, rows[i].nbf, rows[i].exp);
		OWNED_MEM char *t = sign_with(key, "ES256", text);

		if (rows[i].why)
			assert_refused(id, t, rows[i].why);
		else if (check(id, t, IDENTITY_PLANE_DATA, &c, &e) < 0)
			fail_msg("row %zu: %s", i, e.msg);
	}
	static const char *const odd[][2] = {
		{ "[]", "not a JSON object" },
		{ "{\"iss\":\"bivouac\",\"oid\":\"x\"}", "no valid expiry" },
		{ "{\"iss\":\"bivouac\",\"iss\":\"bivouac\"}", "not a JSON object" },
		{ "{\"iss\":\"bivouac\",\"exp\":99999999999}", "no principal" },
		{ "{\"iss\":\"bivouac\",\"exp\":99999999999,\"oid\":7,\"sub\":\"\"}", "no "
										      "principal" },
		{ "{\"iss\":\"bivouac\",\"exp\":99999999999,\"oid\":"
		  "\"1234567890123456789012345678901234567890123456789012345678901234\"}",
		  "no principal" },
		{ "{\"iss\":\"bivouac\",\"exp\":99999999999,\"oid\":\"x\",\"nbf\":\"soon\"}",
		  "nbf "
		  "is "
		  "not "
		  "a "
		  "time" },
		{ "{\"iss\":\"bivouac\",\"exp\":\"99999999999\",\"oid\":\"x\"}", "no valid "
										 "expiry" },
	};

	for (size_t i = 0; i < ARRAY_LEN(odd); i++) {
		OWNED_MEM char *t = sign_with(key, "ES256", odd[i][0]);

		assert_refused(id, t, odd[i][1]);
	}
}

static char *encode(const char *head, const char *body, const char *signature)
{
	char *h = NULL;
	char *b = NULL;
	size_t n;

	assert_true(cjose_base64url_encode((const uint8_t *)head, strlen(head), &h, &n, NULL));
	assert_true(cjose_base64url_encode((const uint8_t *)body, strlen(body), &b, &n, NULL));
	char *t = str_printf("%s.%s.%s", h, b, signature);

	free(h);
	free(b);
	return t;
}

static void test_forged(void **state)
{
	struct identity *id = *state;
	struct err e = ERR_INIT;
	OWNED_MEM char *claims = claims_text("bivouac", "\"https://dynamicsessions.io\"", 0, 100);
	OWNED_MEM char *good = sign_with(key, "ES256", claims);
	const char *signature = strrchr(good, '.') + 1;
	static const char *const heads[][2] = {
		{ "{\"alg\":\"none\"}", "accepted algorithm" },
		{ "{\"alg\":\"None\"}", "accepted algorithm" },
		{ "{\"alg\":\"es256\"}", "accepted algorithm" },
		{ "{\"alg\":\"ES384\"}", "accepted algorithm" },
		{ "{\"alg\":null}", "accepted algorithm" },
		{ "{}", "accepted algorithm" },
		{ "{\"alg\":\"ES256\",\"alg\":\"none\"}", "not a JSON object" },
		{ "{\"alg\":\"ES256\",\"crit\":[\"b64\"],\"b64\":false}", "unknown extension" },
		{ "{\"alg\":\"ES256\",\"kid\":\"zz\"}", "not this server's" },
		{ "{\"alg\":\"ES256\",\"kid\":7}", "not this server's" },
		{ "{\"alg\":\"ES256\",\"x\":1}", "signature is wrong" },
		{ "not json", "not a JSON object" },
	};

	for (size_t i = 0; i < ARRAY_LEN(heads); i++) {
		OWNED_MEM char *t = encode(heads[i][0], claims, signature);

		assert_refused(id, t, heads[i][1]);
	}
	/* HS256 with the public key as the secret: the classic confusion. */
	OWNED_MEM char *pub = cjose_jwk_to_json(key, false, NULL);
	cjose_jwk_t *oct = cjose_jwk_create_oct_spec((uint8_t *)pub, strlen(pub), NULL);
	OWNED_MEM char *hs = sign_with(oct, "HS256", claims);

	assert_refused(id, hs, "accepted algorithm");
	cjose_jwk_release(oct);
	/* Right algorithm, somebody else's key. */
	cjose_jwk_t *stranger = cjose_jwk_create_EC_random(CJOSE_JWK_EC_P_256, NULL);
	OWNED_MEM char *foreign = sign_with(stranger, "ES256", claims);

	assert_refused(id, foreign, "signature is wrong");
	cjose_jwk_release(stranger);
	/* Every single character matters (the last one has unused bits and is left out). */
	for (size_t i = 0; i + 1 < strlen(good); i += 3) {
		OWNED_MEM char *t = strdup(good);
		struct identity_caller c;

		t[i] = t[i] == 'A' ? 'B' : 'A';
		assert_int_equal(check(id, t, IDENTITY_PLANE_DATA, &c, &e), -1);
	}
	OWNED_MEM char *longer = str_printf("%sAA", good);
	OWNED_MEM char *zero = encode(
		"{\"alg\":\"ES256\"}", claims,
		"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA");

	assert_refused(id, longer, "wrong length");
	assert_refused(id, zero, "signature is wrong");
}

static void test_garbage(void **state)
{
	static const char *const rows[][2] = {
		{ "", "no Authorization" },
		{ "Bearer", "must be 'Bearer'" },
		{ "Basic abc", "must be 'Bearer'" },
		{ "Bearer a", "not a JSON Web Token" },
		{ "Bearer a.b", "not a JSON Web Token" },
		{ "Bearer ..", "not a JSON Web Token" },
		{ "Bearer a.b.c.d", "not a JSON Web Token" },
		{ "Bearer a+.b.c", "not a JSON Web Token" },
		{ "Bearer a.b.c", "header" },
		{ "bearer   e30.e30.e30", "accepted algorithm" },
	};
	struct identity *id = *state;
	struct identity_caller c;
	struct err e;

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(
			identity_check(id, str_from(rows[i][0]), IDENTITY_PLANE_DATA, &c, &e), -1);
		assert_int_equal(e.code, ERR_UNAUTHORIZED);
		if (!strstr(e.msg, rows[i][1]))
			fail_msg("'%s' does not say '%s'", e.msg, rows[i][1]);
	}
	for (size_t over = 0; over < 2; over++) {
		OWNED_MEM char *big = calloc(1, IDENTITY_TOKEN_MAX + 2);

		memset(big, 'a', IDENTITY_TOKEN_MAX + over);
		assert_refused(id, big, over ? "longer than" : "not a JSON Web Token");
	}
}

static void test_cached(void **state)
{
	enum { N = 100000 };
	struct identity *id = *state;
	struct identity_caller c;
	struct err e = ERR_INIT;
	OWNED_MEM char *t = identity_issue(id, IDENTITY_AUDIENCE_DATA, "oid", "name", 3600, &e);
	OWNED_MEM char *header = str_printf("Bearer %s", t);
	int64_t t0 = clock_mono_ns();

	assert_int_equal(identity_check(id, str_from(header), IDENTITY_PLANE_DATA, &c, &e), 0);
	int64_t t1 = clock_mono_ns();

	for (int i = 0; i < N; i++)
		assert_int_equal(identity_check(id, str_from(header), IDENTITY_PLANE_DATA, &c, &e),
				 0);
	int64_t t2 = clock_mono_ns();

	print_message("# %zu byte token: first check %.1f us, cached %.2f us\n", strlen(t),
		      (double)(t1 - t0) / 1e3, (double)(t2 - t1) / N / 1e3);
	/* More tokens than the cache holds; the first one is still good afterwards. */
	for (int i = 0; i < IDENTITY_CACHE_MAX + 5; i++) {
		OWNED_MEM char *more =
			identity_issue(id, IDENTITY_AUDIENCE_DATA, "oid", "n", 60, &e);

		assert_int_equal(check(id, more, IDENTITY_PLANE_DATA, &c, &e), 0);
	}
	assert_int_equal(check(id, t, IDENTITY_PLANE_DATA, &c, &e), 0);
	/* A remembered token expires like any other. */
	OWNED_MEM char *claims = claims_text("bivouac", "\"https://dynamicsessions.io\"", -10, -58);
	OWNED_MEM char *late = sign_with(key, "ES256", claims);

	assert_int_equal(check(id, late, IDENTITY_PLANE_DATA, &c, &e), 0);
	sleep(3);
	assert_refused(id, late, "expired at");
}

static void test_key_file(void **state)
{
	struct err e = ERR_INIT;
	struct identity_caller c;
	struct stat sb;
	char path[128];
	OWNED_MEM char *t = identity_issue(*state, IDENTITY_AUDIENCE_DATA, "oid", "name", 60, &e);

	snprintf(path, sizeof(path), "%s/issuer.jwk", dir);
	assert_int_equal(stat(path, &sb), 0);
	assert_int_equal(sb.st_mode & 0777, 0600);
	identity_close(*state);
	*state = NULL;
	assert_int_equal(chmod(path, 0640), 0);
	assert_int_equal(identity_open(dir, (struct identity **)state, &e), -1);
	assert_int_equal(e.code, ERR_FORBIDDEN);
	assert_int_equal(chmod(path, 0600), 0);
	if (identity_open(dir, (struct identity **)state, &e) < 0)
		fail_msg("%s", e.msg);
	/* Tokens survive a restart. */
	assert_int_equal(check(*state, t, IDENTITY_PLANE_DATA, &c, &e), 0);
	identity_close(*state);
	*state = NULL;
	OWNED_MEM char *pub = cjose_jwk_to_json(key, false, NULL);
	const char *const bad[] = { pub, "{}", "", "{\"kty\":\"oct\",\"k\":\"AAAA\"}" };

	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_int_equal(fd_write_file(AT_FDCWD, path, bad[i], strlen(bad[i]), 0600, &e),
				 0);
		assert_int_equal(identity_open(dir, (struct identity **)state, &e), -1);
		assert_null(*state);
		assert_non_null(strstr(e.msg, "issuer.jwk"));
	}
	assert_int_equal(identity_open("/nonexistent", (struct identity **)state, &e), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_issued, setup, teardown),
		cmocka_unit_test_setup_teardown(test_claims, setup, teardown),
		cmocka_unit_test_setup_teardown(test_forged, setup, teardown),
		cmocka_unit_test_setup_teardown(test_garbage, setup, teardown),
		cmocka_unit_test_setup_teardown(test_cached, setup, teardown),
		cmocka_unit_test_setup_teardown(test_key_file, setup, teardown),
	};

	return cmocka_run_group_tests_name("identity", tests, NULL, NULL);
}
