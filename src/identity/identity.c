/* SPDX-License-Identifier: Apache-2.0 */
#include "identity/identity.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/json.h"
#include "base/list.h"
#include "base/map.h"
#include "base/own.h"
#include "base/rand.h"

#include <cjose/base64.h>
#include <cjose/header.h>
#include <cjose/jwk.h>
#include <cjose/jws.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <sys/stat.h>

#define KEY_FILE             "issuer.jwk"
#define LEEWAY_S             60
#define ISSUER               "bivouac"
#define TENANT               "00000000-0000-0000-0000-000000000000"
#define HOWTO                "Get a token with 'bivouac token'."
#define HASH_SIZE            32
#define ES256_SIGNATURE_TEXT 86 /* 64 bytes in base64url without padding */

struct cached {
	struct map_node node; /* key: hash */
	struct list lru;
	unsigned char hash[HASH_SIZE];
	struct identity_caller caller;
};

struct identity {
	cjose_jwk_t *key;
	char kid[64];
	EVP_MD *sha256;
	EVP_MD_CTX *hasher;
	struct map cache;
	struct list lru; /* most recently used first */
};

static const struct {
	const char *audience;
	enum identity_plane plane;
} audiences[] = {
	{ "https://dynamicsessions.io", IDENTITY_PLANE_DATA },
	{ "https://acasessions.io", IDENTITY_PLANE_DATA },
	{ "https://management.azure.com", IDENTITY_PLANE_ARM },
	{ "https://management.core.windows.net", IDENTITY_PLANE_ARM },
};

static int refuse(struct err *e, const char *why)
{
	return err_set(e, ERR_UNAUTHORIZED, "%s " HOWTO, why);
}

static void release_jws(cjose_jws_t **jws)
{
	if (*jws)
		cjose_jws_release(*jws);
}
#define OWNED_JWS __attribute__((cleanup(release_jws)))

static void release_json(json_t **v)
{
	json_decref(*v);
}
#define OWNED_JSON __attribute__((cleanup(release_json)))

static void release_header(cjose_header_t **h)
{
	if (*h)
		cjose_header_release(*h);
}
#define OWNED_HEADER __attribute__((cleanup(release_header)))

/* --- the key --- */

static int key_load(struct identity *id, int dir_fd, struct err *e)
{
	struct stat sb;
	struct buf text;
	cjose_err ce = { 0 };

	/* SECURITY: whoever can read this file can be anybody; a key that others can read is not
	 * used. */
	if (fstatat(dir_fd, KEY_FILE, &sb, AT_SYMLINK_NOFOLLOW) != 0)
		return err_sys(e, "identity: " KEY_FILE);
	if (!S_ISREG(sb.st_mode) || (sb.st_mode & 077))
		return err_set(e, ERR_FORBIDDEN,
			       "identity: " KEY_FILE " may be read by others (mode %03o); make it "
			       "0600",
			       (unsigned)(sb.st_mode & 0777));
	buf_init(&text, 16 * 1024);
	if (fd_read_file(dir_fd, KEY_FILE, 16 * 1024, &text, e) < 0) {
		buf_done(&text);
		return -1;
	}
	id->key = cjose_jwk_import(text.ptr ? text.ptr : "", text.len, &ce);
	OPENSSL_cleanse(text.ptr, text.len);
	buf_done(&text);
	if (!id->key || cjose_jwk_get_kty(id->key, &ce) != CJOSE_JWK_KTY_EC ||
	    cjose_jwk_EC_get_curve(id->key, &ce) != CJOSE_JWK_EC_P_256)
		return err_set(e, ERR_MALFORMED,
			       "identity: " KEY_FILE " is not a JWK with a P-256 key; restore it, "
			       "or remove it to get a new one (all tokens "
			       "become invalid)");
	return 0;
}

static int key_create(struct identity *id, int dir_fd, struct err *e)
{
	cjose_err ce = { 0 };
	unsigned char random[8];
	char kid[2 * sizeof(random) + 1];

	rand_bytes(random, sizeof(random));
	hex_encode(random, sizeof(random), kid);
	id->key = cjose_jwk_create_EC_random(CJOSE_JWK_EC_P_256, &ce);
	if (!id->key || !cjose_jwk_set_kid(id->key, kid, strlen(kid), &ce))
		return err_set(e, ERR_INTERNAL, "identity: make a key: %s",
			       ce.message ? ce.message : "?");
	char *text = cjose_jwk_to_json(id->key, true, &ce);

	if (!text)
		return err_set(e, ERR_NOMEM, "identity: write the key");
	int r = fd_write_file(dir_fd, KEY_FILE, text, strlen(text), 0600, e);

	OPENSSL_cleanse(text, strlen(text));
	free(text);
	return r;
}

static int key_open(struct identity *id, const char *state_dir, struct err *e)
{
	OWNED_FD int dir_fd = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	cjose_err ce = { 0 };

	if (dir_fd < 0)
		return err_sys(e, "identity: open %s", state_dir);
	if (faccessat(dir_fd, KEY_FILE, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		if (key_load(id, dir_fd, e) < 0)
			return -1;
	} else if (errno != ENOENT) {
		return err_sys(e, "identity: %s/" KEY_FILE, state_dir);
	} else if (key_create(id, dir_fd, e) < 0) {
		return -1;
	}
	const char *kid = cjose_jwk_get_kid(id->key, &ce);

	if (kid && !str_copy(str_from(kid), id->kid, sizeof(id->kid)))
		return err_set(e, ERR_MALFORMED, "identity: the kid in " KEY_FILE " is too long");
	/* A file with the public half only would fail at the first login; better now. */
	OWNED_MEM char *probe = identity_issue(id, IDENTITY_AUDIENCE_DATA, "probe", "probe", 60, e);

	return probe ? 0 : err_wrap(e, "identity: " KEY_FILE " cannot sign");
}

int identity_open(const char *state_dir, struct identity **ret, struct err *e)
{
	struct identity *id = calloc(1, sizeof(*id));

	if (!id)
		return err_set(e, ERR_NOMEM, "identity: out of memory");
	map_init(&id->cache);
	list_init(&id->lru);
	/* Fetched once: looking the algorithm up costs more than hashing a token. */
	id->sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	id->hasher = EVP_MD_CTX_new();
	if (!id->sha256 || !id->hasher) {
		identity_close(id);
		return err_set(e, ERR_NOMEM, "identity: no SHA-256");
	}
	if (key_open(id, state_dir, e) < 0) {
		identity_close(id);
		return -1;
	}
	*ret = id;
	return 0;
}

static void cache_drop(struct identity *id, struct cached *c)
{
	map_remove(&id->cache, &c->node);
	list_remove(&c->lru);
	free(c);
}

void identity_close(struct identity *id)
{
	if (!id)
		return;
	list_each(&id->lru, struct cached, lru, it)
		cache_drop(id, it);
	map_done(&id->cache);
	if (id->key)
		cjose_jwk_release(id->key);
	EVP_MD_CTX_free(id->hasher);
	EVP_MD_free(id->sha256);
	free(id);
}

/* --- checking --- */

static struct str next_part(struct str *rest)
{
	const char *dot = rest->len ? memchr(rest->ptr, '.', rest->len) : NULL;
	size_t len = dot ? (size_t)(dot - rest->ptr) : rest->len;
	struct str part = { rest->ptr, len };
	size_t skip = dot ? len + 1 : len;

	rest->ptr += skip;
	rest->len -= skip;
	return part;
}

static bool base64url_only(struct str s)
{
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.ptr[i];

		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
		      c == '-' || c == '_'))
			return false;
	}
	return s.len > 0;
}

/* SECURITY: the header is untrusted until the signature is checked, and decides how it is checked.
 * It is read here, strictly (no duplicate keys, so that no second reader sees another alg), and
 * only the one algorithm that fits the key passes: never "none", never an HMAC keyed with the
 * public key. "crit" means extensions we do not know. */
static int check_header(const struct identity *id, struct str part, struct err *e)
{
	cjose_err ce = { 0 };
	uint8_t *raw = NULL;
	size_t raw_len = 0;
	const char *alg = NULL;
	const char *kid = NULL;

	if (!cjose_base64url_decode(part.ptr, part.len, &raw, &raw_len, &ce))
		return refuse(e, "The token's header cannot be decoded.");
	OWNED_JSON json_t *head = json_parse_object((struct str){ (char *)raw, raw_len }, NULL);

	free(raw);
	if (!head)
		return refuse(e, "The token's header is not a JSON object.");
	json_t *alg_value = json_object_get(head, "alg");
	json_t *kid_value = json_object_get(head, "kid");

	alg = json_string_value(alg_value);
	kid = json_string_value(kid_value);
	if (!alg || strcmp(alg, CJOSE_HDR_ALG_ES256) != 0)
		return refuse(e, "The token is not signed with an accepted algorithm (ES256).");
	if (json_object_get(head, "crit"))
		return refuse(e, "The token demands an unknown extension.");
	if (kid_value && (!kid || strcmp(kid, id->kid) != 0))
		return refuse(e, "The token was signed with a key that is not this server's.");
	return 0;
}

static int check_signature(const struct identity *id, struct str token, json_t **ret_claims,
			   struct err *e)
{
	struct str rest = token;
	struct str head = next_part(&rest);
	struct str body = next_part(&rest);
	cjose_err ce = { 0 };
	uint8_t *text = NULL;
	size_t len = 0;

	if (!base64url_only(head) || !base64url_only(body) || !base64url_only(rest))
		return refuse(e, "The bearer token is not a JSON Web Token (three base64url "
				 "parts).");
	if (check_header(id, head, e) < 0)
		return -1;
	if (rest.len != ES256_SIGNATURE_TEXT)
		return refuse(e, "The token's signature has the wrong length.");
	OWNED_JWS cjose_jws_t *jws = cjose_jws_import(token.ptr, token.len, &ce);

	if (!jws)
		return refuse(e, "The bearer token cannot be decoded.");
	if (!cjose_jws_verify(jws, id->key, &ce))
		return refuse(e, "The token's signature is wrong; it was not issued by this "
				 "server.");
	if (!cjose_jws_get_plaintext(jws, &text, &len, &ce))
		return err_set(e, ERR_NOMEM, "identity: out of memory");
	*ret_claims = json_parse_object((struct str){ (char *)text, len }, NULL);
	return *ret_claims ? 0 : refuse(e, "The token's claims are not a JSON object.");
}

const char *identity_audience(struct str aud, enum identity_plane *ret_plane)
{
	struct str suffix = STR("/.default");

	if (aud.len >= suffix.len &&
	    str_eq((struct str){ aud.ptr + aud.len - suffix.len, suffix.len }, suffix))
		aud.len -= suffix.len;
	while (aud.len && aud.ptr[aud.len - 1] == '/')
		aud.len--;
	for (size_t i = 0; i < ARRAY_LEN(audiences); i++)
		if (str_eq_nocase(aud, str_from(audiences[i].audience))) {
			*ret_plane = audiences[i].plane;
			return audiences[i].audience;
		}
	return NULL;
}

static unsigned audience_planes(struct str aud)
{
	enum identity_plane plane;

	return identity_audience(aud, &plane) ? plane : 0;
}

static unsigned claimed_planes(const json_t *claims)
{
	json_t *aud = json_object_get(claims, "aud");
	unsigned planes = 0;
	size_t i;
	json_t *item;

	if (json_is_string(aud))
		return audience_planes(str_from(json_string_value(aud)));
	json_array_foreach(aud, i, item) {
		if (json_is_string(item))
			planes |= audience_planes(str_from(json_string_value(item)));
	}
	return planes;
}

/* A NumericDate, which may be a fraction; false if it is none or beyond reason. */
static bool claim_time(const json_t *claims, const char *name, int64_t *ret)
{
	const json_t *v = json_object_get(claims, name);
	double d = json_number_value(v);

	if (!json_is_number(v) || !(d >= 0 && d < 1e11))
		return false;
	*ret = (int64_t)d;
	return true;
}

/* Copies a claim that will be shown and logged: no control characters, cut to size. */
static bool claim_text(const json_t *claims, const char *name, char *out, size_t size)
{
	const char *text = json_string_value(json_object_get(claims, name));

	if (!text || !*text)
		return false;
	size_t len = utf8_cut(str_from(text), size - 1);

	for (size_t i = 0; i < len; i++)
		out[i] = (unsigned char)text[i] < ' ' || text[i] == 127 ? '?' : text[i];
	out[len] = '\0';
	return true;
}

static int expired(int64_t expires_s, struct err *e)
{
	char at[CLOCK_TEXT_SIZE];

	return err_set(e, ERR_UNAUTHORIZED, "The token expired at %s. " HOWTO,
		       clock_format(expires_s * 1000000, at));
}

static int read_claims(const json_t *claims, int64_t now_s, struct identity_caller *ret,
		       struct err *e)
{
	const char *iss = json_string_value(json_object_get(claims, "iss"));
	struct identity_caller c = { 0 };
	int64_t from_s = 0;

	if (!iss || strcmp(iss, ISSUER) != 0)
		return refuse(e, "The token names another issuer.");
	if (!claim_time(claims, "exp", &c.expires_s))
		return refuse(e, "The token has no valid expiry time (exp).");
	if (now_s >= c.expires_s + LEEWAY_S)
		return expired(c.expires_s, e);
	if (json_object_get(claims, "nbf") && !claim_time(claims, "nbf", &from_s))
		return refuse(e, "The token's nbf is not a time.");
	if (now_s + LEEWAY_S < from_s)
		return refuse(e, "The token is not valid yet (nbf); compare the clocks.");
	/* SECURITY: an id that was cut to fit could be somebody else's; too long is refused. */
	const char *oid = json_string_value(json_object_get(claims, "oid"));

	if (!oid)
		oid = json_string_value(json_object_get(claims, "sub"));
	if (!oid || !*oid || !str_copy(str_from(oid), c.oid, sizeof(c.oid)))
		return refuse(e, "The token names no principal (oid) of 1 to 63 bytes.");
	if (!claim_text(claims, "name", c.name, sizeof(c.name)) &&
	    !claim_text(claims, "preferred_username", c.name, sizeof(c.name)))
		claim_text(claims, json_object_get(claims, "oid") ? "oid" : "sub", c.name,
			   sizeof(c.name));
	c.planes = claimed_planes(claims);
	*ret = c;
	return 0;
}

static int check_plane(const struct identity_caller *c, enum identity_plane plane, struct err *e)
{
	const char *want = plane == IDENTITY_PLANE_ARM ? IDENTITY_AUDIENCE_ARM
						       : IDENTITY_AUDIENCE_DATA;

	if (c->planes & plane)
		return 0;
	return err_set(e, ERR_UNAUTHORIZED,
		       "The token is for another audience; this call needs one for %s. Get it with "
		       "'bivouac token --resource %s'.",
		       want, want);
}

/* Out of memory only means that the next check of this token is slow again. */
static void cache_add(struct identity *id, const unsigned char hash[HASH_SIZE],
		      const struct identity_caller *caller)
{
	if (id->cache.len >= IDENTITY_CACHE_MAX)
		cache_drop(id, list_entry(id->lru.prev, struct cached, lru));
	struct cached *c = calloc(1, sizeof(*c));

	if (!c)
		return;
	memcpy(c->hash, hash, HASH_SIZE);
	c->caller = *caller;
	list_init(&c->lru);
	if (map_put(&id->cache, &c->node, (struct str){ (char *)c->hash, HASH_SIZE }) < 0) {
		free(c);
		return;
	}
	list_add_head(&id->lru, &c->lru);
}

static bool hash_token(struct identity *id, struct str token, unsigned char out[HASH_SIZE])
{
	unsigned len = 0;

	return EVP_DigestInit_ex2(id->hasher, id->sha256, NULL) &&
	       EVP_DigestUpdate(id->hasher, token.ptr, token.len) &&
	       EVP_DigestFinal_ex(id->hasher, out, &len) && len == HASH_SIZE;
}

static int bearer_token(struct str header, struct str *ret, struct err *e)
{
	header = str_trim(header);
	if (!header.len)
		return refuse(e, "The request has no Authorization header.");
	if (!str_starts_nocase(header, STR("Bearer ")))
		return refuse(e, "The Authorization header must be 'Bearer' and a token.");
	struct str token = str_trim((struct str){ header.ptr + 7, header.len - 7 });

	if (token.len > IDENTITY_TOKEN_MAX)
		return refuse(e, "The bearer token is longer than 16 KiB.");
	*ret = token;
	return 0;
}

int identity_check(struct identity *id, struct str header, enum identity_plane plane,
		   struct identity_caller *ret, struct err *e)
{
	unsigned char hash[HASH_SIZE];
	struct str token = { 0 };
	struct identity_caller caller;
	int64_t now_s = clock_wall_us() / 1000000;

	if (bearer_token(header, &token, e) < 0)
		return -1;
	if (!hash_token(id, token, hash))
		return err_set(e, ERR_NOMEM, "identity: cannot hash a token");
	struct map_node *node = map_get(&id->cache, (struct str){ (char *)hash, HASH_SIZE });

	if (node) {
		struct cached *c = container_of(node, struct cached, node);

		if (now_s >= c->caller.expires_s + LEEWAY_S) {
			expired(c->caller.expires_s, e);
			cache_drop(id, c);
			return -1;
		}
		list_remove(&c->lru);
		list_add_head(&id->lru, &c->lru);
		if (check_plane(&c->caller, plane, e) < 0)
			return -1;
		*ret = c->caller;
		return 0;
	}
	OWNED_JSON json_t *claims = NULL;

	if (check_signature(id, token, &claims, e) < 0 ||
	    read_claims(claims, now_s, &caller, e) < 0)
		return -1;
	cache_add(id, hash, &caller);
	if (check_plane(&caller, plane, e) < 0)
		return -1;
	*ret = caller;
	return 0;
}

/* --- issuing --- */

static char *sign(struct identity *id, const char *claims, struct err *e)
{
	cjose_err ce = { 0 };
	const char *compact = NULL;
	OWNED_HEADER cjose_header_t *head = cjose_header_new(&ce);

	if (!head || !cjose_header_set(head, CJOSE_HDR_ALG, CJOSE_HDR_ALG_ES256, &ce) ||
	    !cjose_header_set(head, "typ", "JWT", &ce) ||
	    (id->kid[0] && !cjose_header_set(head, CJOSE_HDR_KID, id->kid, &ce))) {
		err_set(e, ERR_NOMEM, "identity: out of memory");
		return NULL;
	}
	OWNED_JWS cjose_jws_t *jws =
		cjose_jws_sign(id->key, head, (const uint8_t *)claims, strlen(claims), &ce);

	if (!jws || !cjose_jws_export(jws, &compact, &ce)) {
		err_set(e, ERR_INTERNAL, "identity: sign: %s", ce.message ? ce.message : "failed");
		return NULL;
	}
	char *token = str_dup(str_from(compact));

	if (!token)
		err_set(e, ERR_NOMEM, "identity: out of memory");
	return token;
}

char *identity_issue(struct identity *id, const char *audience, const char *oid, const char *name,
		     int64_t lifetime_s, struct err *e)
{
	char jti[UUID_TEXT_SIZE];
	json_int_t now_s = clock_wall_us() / 1000000;

	if (lifetime_s < 60 || lifetime_s > 31536000) {
		err_set(e, ERR_INVALID, "A token lives from 60 to 31536000 seconds, not %lld.",
			(long long)lifetime_s);
		return NULL;
	}
	if (!*audience || !*oid || strlen(oid) >= sizeof(((struct identity_caller *)0)->oid)) {
		err_set(e, ERR_INVALID, "A token needs an audience and an oid of 1 to 63 bytes.");
		return NULL;
	}
	/* tid, idtyp and appid are what Azure's clients look for in an application's token. */
	OWNED_JSON json_t *claims =
		json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:I}", "iss",
			  ISSUER, "aud", audience, "sub", oid, "oid", oid, "name", name, "tid",
			  TENANT, "appid", oid, "idtyp", "app", "jti", uuid_new(jti), "iat", now_s,
			  "nbf", now_s, "exp", now_s + (json_int_t)lifetime_s);
	OWNED_MEM char *text = claims ? json_dumps(claims, JSON_COMPACT) : NULL;

	if (!text) {
		err_set(e, ERR_INVALID, "Audience, oid and name of a token must be UTF-8 text.");
		return NULL;
	}
	return sign(id, text, e);
}
