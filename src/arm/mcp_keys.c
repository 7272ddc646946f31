/* SPDX-License-Identifier: Apache-2.0 */
#include "arm/mcp_keys.h"

#include "base/clock.h"
#include "base/json.h"
#include "base/log.h"
#include "base/own.h"
#include "base/rand.h"

#define DOC_TYPE "bivouac/mcpkeys"

struct keys {
	char current[MCP_KEY_SIZE];
	char previous[MCP_KEY_SIZE]; /* empty: none */
	int64_t rotated_us;
	uint64_t etag;
};

static char *doc_key(const char *pool_key, struct err *e)
{
	char *key = str_printf("mcp-keys:%s", pool_key);

	if (!key)
		err_set(e, ERR_NOMEM, "out of memory");
	return key;
}

/* 1 found, 0 none, -1. */
static int load(struct store *s, const char *pool_key, struct keys *ret, struct err *e)
{
	OWNED_MEM char *key = doc_key(pool_key, e);
	struct store_doc doc = { 0 };
	const char *current = NULL;
	const char *previous = "";

	*ret = (struct keys){ .etag = STORE_ETAG_NEW };
	int found = key ? store_doc_get(s, key, &doc, e) : -1;

	if (found <= 0)
		return found;
	json_t *json = json_parse_object(str_from(doc.json), e);
	bool ok = json && json_get_string(json, "", "current", &current, e) == 1 &&
		  json_get_string(json, "", "previous", &previous, e) >= 0 &&
		  json_get_int(json, "", "rotatedUs", &ret->rotated_us, e) >= 0 &&
		  str_copy(str_from(current), ret->current, sizeof(ret->current)) &&
		  str_copy(str_from(previous), ret->previous, sizeof(ret->previous));

	ret->etag = doc.etag;
	json_decref(json);
	store_doc_done(&doc);
	return ok ? 1
		  : err_set(e, ERR_INTERNAL, "The stored MCP keys of '%s' are not readable.",
			    pool_key);
}

static int save(struct store *s, const char *pool_key, const struct keys *k, struct err *e)
{
	OWNED_MEM char *key = doc_key(pool_key, e);
	json_t *json = json_pack("{s:s,s:s,s:I}", "current", k->current, "previous", k->previous,
				 "rotatedUs", (json_int_t)k->rotated_us);
	OWNED_MEM char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
	uint64_t etag;

	json_decref(json);
	if (!key || !text)
		return err_set(e, ERR_NOMEM, "out of memory");
	return store_doc_put(s, key, DOC_TYPE, text, k->etag, &etag, e);
}

static void make_key(char ret[static MCP_KEY_SIZE])
{
	unsigned char random[(MCP_KEY_SIZE - 1) / 2];

	rand_bytes(random, sizeof(random));
	hex_encode(random, sizeof(random), ret);
}

int mcp_keys_fetch(struct store *s, const char *pool_key, char ret[static MCP_KEY_SIZE],
		   struct err *e)
{
	struct keys k;
	int found = load(s, pool_key, &k, e);

	if (found < 0)
		return -1;
	if (!found) {
		make_key(k.current);
		if (save(s, pool_key, &k, e) < 0)
			return -1;
	}
	memcpy(ret, k.current, MCP_KEY_SIZE);
	return 0;
}

int mcp_keys_rotate(struct store *s, const char *pool_key, int64_t now_us,
		    char ret[static MCP_KEY_SIZE], struct err *e)
{
	struct keys k;

	if (load(s, pool_key, &k, e) < 0)
		return -1;
	memcpy(k.previous, k.current, sizeof(k.previous));
	k.rotated_us = now_us;
	make_key(k.current);
	if (save(s, pool_key, &k, e) < 0)
		return -1;
	memcpy(ret, k.current, MCP_KEY_SIZE);
	return 0;
}

/* SECURITY: takes as long for a key that is wrong in its first byte as for one wrong in its last.
 */
static bool same(const char *key, struct str given)
{
	unsigned char difference = 0;

	if (!*key || given.len != MCP_KEY_SIZE - 1)
		return false;
	for (size_t i = 0; i < given.len; i++)
		difference |= (unsigned char)(key[i] ^ given.ptr[i]);
	return difference == 0;
}

bool mcp_keys_good(struct store *s, const char *pool_key, int64_t now_us, struct str key)
{
	struct err e = ERR_INIT;
	struct keys k;
	int found = load(s, pool_key, &k, &e);

	if (found < 0)
		log_error("%s", e.msg);
	if (found <= 0)
		return false;
	/* A clock that was set back must not give the old key a second life. */
	bool grace = now_us >= k.rotated_us &&
		     now_us < k.rotated_us + (int64_t)MCP_KEY_GRACE_S * 1000000;

	return same(k.current, key) || (grace && same(k.previous, key));
}

void mcp_keys_forget(struct store *s, const char *pool_key)
{
	struct err e = ERR_INIT;
	OWNED_MEM char *key = doc_key(pool_key, &e);

	if (!key || store_doc_delete(s, key, &e) < 0)
		log_error("MCP keys of a deleted pool: %s", e.msg);
}

/* --- through ARM --- */

static int check_mcp(const json_t *doc, struct err *e)
{
	const json_t *mcp =
		json_object_get(json_object_get(doc, "properties"), "mcpServerSettings");
	const char *name = json_string_value(json_object_get(doc, "name"));

	if (!json_is_true(json_object_get(mcp, "isMcpServerEnabled")))
		return err_set(e, ERR_NO_MCP,
			       "Session pool '%s' does not have MCP Server enabled. Set "
			       "properties.mcpServerSettings.isMcpServerEnabled to true.",
			       name);
	if (json_is_true(json_object_get(mcp, "isMcpServerApiKeyDisabled")))
		return err_set(e, ERR_NO_MCP,
			       "Session pool '%s' has the API key of its MCP server disabled "
			       "(isMcpServerApiKeyDisabled). Use bearer tokens.",
			       name);
	return 0;
}

static int reply_key(const char *key, json_t **ret, struct err *e)
{
	*ret = json_pack("{s:s}", "apiKey", key);
	return *ret ? 0 : err_set(e, ERR_NOMEM, "arm: out of memory");
}

static int fetch_key(struct arm *arm, const char *key, const json_t *doc, json_t **ret,
		     struct err *e)
{
	char text[MCP_KEY_SIZE];

	if (check_mcp(doc, e) < 0 || mcp_keys_fetch(arm_config(arm)->store, key, text, e) < 0)
		return -1;
	return reply_key(text, ret, e);
}

static int rotate_key(struct arm *arm, const char *key, const json_t *doc, json_t **ret,
		      struct err *e)
{
	char text[MCP_KEY_SIZE];

	if (check_mcp(doc, e) < 0 ||
	    mcp_keys_rotate(arm_config(arm)->store, key, clock_wall_us(), text, e) < 0)
		return -1;
	return reply_key(text, ret, e);
}

void mcp_keys_removing(struct arm *arm, const char *key)
{
	mcp_keys_forget(arm_config(arm)->store, key);
}

const struct arm_action mcp_key_actions[] = {
	{ "fetchMcpServerCredentials", "The API key of the pool's MCP server", fetch_key },
	{ "rotateMcpServerCredentials", "A new API key; the old one is good for five minutes more",
	  rotate_key },
	{ 0 },
};
