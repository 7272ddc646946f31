/* SPDX-License-Identifier: Apache-2.0 */
#include "api/mcp.h"

#include <arpa/inet.h>
#include <stdio.h>

#define ORIGIN_MAX  300
#define ORIGINS_MAX 64

struct origin {
	struct str scheme; /* http or https */
	struct str host;   /* with the brackets of an IPv6 address */
	struct str port;   /* empty if there is none */
};

static bool is_host(struct str host)
{
	static const char name[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
	bool brackets = host.len > 2 && host.ptr[0] == '[' && host.ptr[host.len - 1] == ']';

	if (brackets)
		host = (struct str){ host.ptr + 1, host.len - 2 };
	for (size_t i = 0; i < host.len; i++)
		if (!host.ptr[i] ||
		    !strchr(brackets ? "0123456789abcdefABCDEF:." : name, host.ptr[i]))
			return false;
	return host.len > 0;
}

/* "scheme://host[:port]" and nothing behind it: so browsers write it (RFC 6454, 6.1). */
static bool origin_split(struct str text, struct origin *ret)
{
	bool https = str_starts_nocase(text, STR("https://"));
	uint64_t port;

	if (text.len > ORIGIN_MAX || (!https && !str_starts_nocase(text, STR("http://"))))
		return false;
	ret->scheme = (struct str){ text.ptr, https ? 5 : 4 };
	struct str rest = { text.ptr + ret->scheme.len + 3, text.len - ret->scheme.len - 3 };
	const char *end = rest.len && rest.ptr[0] == '[' ? memchr(rest.ptr, ']', rest.len)
							 : memchr(rest.ptr, ':', rest.len);

	if (end && *end == ']')
		end++;
	size_t len = end ? (size_t)(end - rest.ptr) : rest.len;

	ret->host = (struct str){ rest.ptr, len };
	ret->port = STR("");
	if (len < rest.len) {
		ret->port = (struct str){ rest.ptr + len + 1, rest.len - len - 1 };
		if (rest.ptr[len] != ':' || !str_to_u64(ret->port, 65535, &port))
			return false;
	}
	return is_host(ret->host);
}

static bool is_loopback(const struct origin *o)
{
	return str_eq_nocase(o->host, STR("localhost")) || str_eq(o->host, STR("127.0.0.1")) ||
	       str_eq(o->host, STR("[::1]"));
}

static bool is_address(struct str host)
{
	struct in_addr address;
	char text[INET_ADDRSTRLEN];

	return host.ptr[0] == '[' ||
	       (str_copy(host, text, sizeof(text)) && inet_pton(AF_INET, text, &address) == 1);
}

/* The item before the next ',' of a list; false at its end. */
static bool next_item(const char **list, struct str *ret)
{
	if (!*list)
		return false;
	const char *comma = strchr(*list, ',');

	*ret = (struct str){ *list, comma ? (size_t)(comma - *list) : strlen(*list) };
	*list = comma ? comma + 1 : NULL;
	return true;
}

/*
 * SECURITY: DNS rebinding. A page whose name its owner lets point here may call us from its
 * visitor's browser, with the visitor's way through the network, and read the replies; the browser
 * tells by Origin whose page it is. Host proves nothing then, as it is that name as well: it counts
 * only where it is an address, which cannot be rebound, or where TLS has proved the name.
 */
int mcp_origin_check(struct http_request *rq, const char *allowed, struct err *e)
{
	struct str given;
	struct str item;
	struct origin o;

	if (!http_header(rq, "Origin", &given))
		return 0;
	if (origin_split(given, &o)) {
		if (is_loopback(&o))
			return 0;
		if ((o.scheme.len == 5 || is_address(o.host)) &&
		    str_eq_nocase(given, str_from(http_base_url(rq))))
			return 0;
		while (next_item(&allowed, &item))
			if (str_eq_nocase(given, item))
				return 0;
	}
	given.len = utf8_cut(given, 100);
	return err_set(e, ERR_FORBIDDEN,
		       "The Origin '%.*s' may not call this MCP server. To let the pages of that "
		       "origin in, name it with --mcp-origin of bivouacd.",
		       STR_ARG(given));
}

int data_plane_origins_check(const char *list, struct err *e)
{
	struct str item;
	struct origin o;
	size_t count = 0;

	while (next_item(&list, &item)) {
		if (!origin_split(item, &o))
			return err_set(e, ERR_INVALID,
				       "--mcp-origin takes origins as https://tools.example or "
				       "http://10.0.0.5:6274, with ',' between, not '%.*s'",
				       (int)utf8_cut(item, 100), item.ptr);
		if (++count > ORIGINS_MAX)
			return err_set(e, ERR_INVALID, "--mcp-origin names more than %d origins",
				       ORIGINS_MAX);
	}
	return 0;
}
