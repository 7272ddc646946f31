/* SPDX-License-Identifier: Apache-2.0 */
#include "http/internal.h"
#include "http/websocket.h"

#include <openssl/evp.h>

/* What a request has to say to become a WebSocket (RFC 6455 §4.2). */

#define KEY_BYTES     16
#define BEARER_PREFIX "base64url.bearer.authorization.bivouac."

static struct str next_token(struct str *list)
{
	const char *comma = memchr(list->ptr, ',', list->len);
	size_t len = comma ? (size_t)(comma - list->ptr) : list->len;
	struct str one = { list->ptr, len };

	len += comma ? 1 : 0;
	*list = (struct str){ list->ptr + len, list->len - len };
	return str_trim(one);
}

/* Whether a header of comma-separated tokens has this one. */
static bool has_token(struct http_request *rq, const char *name, struct str token)
{
	struct str list;

	if (!http_header(rq, name, &list))
		return false;
	while (list.len) {
		struct str one = next_token(&list);

		if (str_eq_nocase(one, token))
			return true;
	}
	return false;
}

static bool wants_upgrade(struct http_request *rq)
{
	return str_eq(rq->method, STR("GET")) && !rq->http10 &&
	       has_token(rq, "Upgrade", STR("websocket")) &&
	       has_token(rq, "Connection", STR("upgrade"));
}

bool websocket_wanted(struct http_request *rq)
{
	struct str version;

	return wants_upgrade(rq) && http_header(rq, "Sec-WebSocket-Version", &version) &&
	       str_eq(version, STR("13"));
}

static bool base64url_decode(struct str text, char *out, size_t size)
{
	char standard[4096];
	struct buf b;

	if (text.len + 3 >= sizeof(standard))
		return false;
	for (size_t i = 0; i < text.len; i++)
		standard[i] = text.ptr[i] == '-' ? '+' : text.ptr[i] == '_' ? '/' : text.ptr[i];
	while (text.len % 4)
		standard[text.len++] = '=';
	buf_init(&b, size);
	bool ok = base64_decode(&b, (struct str){ standard, text.len }) && b.len && b.len < size &&
		  !memchr(b.ptr, '\0', b.len);

	if (ok)
		memcpy(out, b.ptr, b.len + 1);
	buf_done(&b);
	return ok;
}

bool websocket_bearer(struct http_request *rq, char *buf, size_t size)
{
	struct str list;

	if (!http_header(rq, "Sec-WebSocket-Protocol", &list))
		return false;
	while (list.len) {
		struct str one = next_token(&list);
		struct str prefix = STR(BEARER_PREFIX);

		if (str_starts_nocase(one, prefix))
			return base64url_decode(
				(struct str){ one.ptr + prefix.len, one.len - prefix.len }, buf,
				size);
	}
	return false;
}

static bool accept_key(struct str key, char out[static 32])
{
	static const char magic[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
	unsigned char digest[EVP_MAX_MD_SIZE];
	char text[24 + sizeof(magic)];
	unsigned len = 0;
	struct buf b;

	buf_init(&b, 64);
	/* 16 bytes are 24 characters. */
	bool ok = key.len == 24 && base64_decode(&b, key) && b.len == KEY_BYTES;

	buf_done(&b);
	if (!ok)
		return false;
	memcpy(text, key.ptr, key.len);
	memcpy(text + key.len, magic, sizeof(magic));
	if (!EVP_Digest(text, key.len + sizeof(magic) - 1, digest, &len, EVP_sha1(), NULL))
		return false;
	buf_init(&b, 32);
	ok = base64_encode(&b, digest, len) && str_copy(buf_str(&b), out, 32);
	buf_done(&b);
	return ok;
}

int websocket_check(struct http_request *rq, char ret_accept[static 32], struct err *e)
{
	struct str version = STR("");
	struct str key = STR("");

	if (!wants_upgrade(rq))
		return err_set(
			e, ERR_UPGRADE_REQUIRED,
			"this is a WebSocket: send GET with Upgrade: websocket, Connection: Upgrade");
	http_header(rq, "Sec-WebSocket-Version", &version);
	if (!str_eq(version, STR("13")))
		return err_set(e, ERR_UPGRADE_REQUIRED,
			       "Sec-WebSocket-Version must be 13 (RFC 6455)");
	http_header(rq, "Sec-WebSocket-Key", &key);
	if (!accept_key(key, ret_accept))
		return err_set(e, ERR_MALFORMED, "Sec-WebSocket-Key must be 16 bytes in base64");
	if (rq->chunked || rq->content_length)
		return err_set(e, ERR_MALFORMED, "a WebSocket's request has no body");
	if (rq->replied || rq->ended)
		return err_set(e, ERR_INTERNAL, "the request has been answered already");
	return 0;
}

bool websocket_offers(struct http_request *rq, const char *protocol)
{
	struct str list;

	if (!protocol || !http_header(rq, "Sec-WebSocket-Protocol", &list))
		return false;
	while (list.len)
		if (str_eq(next_token(&list), str_from(protocol)))
			return true;
	return false;
}
