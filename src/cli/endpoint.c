/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/client_impl.h"

#include "base/fdio.h"
#include "base/own.h"
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONTEXT_MAX (64 * 1024)

static const struct setting settings[] = {
	[SETTING_ARM_ENDPOINT] = { "arm-endpoint", "BIVOUAC_ARM_ENDPOINT", "armEndpoint" },
	[SETTING_ARM_TOKEN] = { "arm-token", "BIVOUAC_ARM_TOKEN", "armToken" },
	[SETTING_ENDPOINT] = { "endpoint", "BIVOUAC_ENDPOINT", "endpoint" },
	[SETTING_TOKEN] = { "token", "BIVOUAC_TOKEN", "token" },
	[SETTING_CA] = { "ca-file", "BIVOUAC_CA_FILE", "caFile" },
};

static int context_read(struct client *client, struct err *e)
{
	const char *given = getenv("BIVOUAC_CONTEXT");
	const char *path = given && *given ? given : CLIENT_CONTEXT_DEFAULT;
	struct buf b;
	struct err why = ERR_INIT;

	if (client->context_read)
		return 0;
	buf_init(&b, CONTEXT_MAX);
	if (fd_read_file(AT_FDCWD, path, CONTEXT_MAX, &b, &why)) {
		buf_done(&b);
		/* The default file is optional; one that was named must be there. */
		if (given && *given)
			return err_set(e, ERR_NOT_FOUND, "BIVOUAC_CONTEXT: %s", why.msg);
		client->context_read = true;
		return 0;
	}
	json_error_t where;
	json_t *context = json_loadb(b.ptr ? b.ptr : "", b.len, 0, &where);

	buf_done(&b);
	if (!json_is_object(context)) {
		json_decref(context);
		return err_set(e, ERR_MALFORMED, "%s is not a JSON object", path);
	}
	client->context = context;
	client->context_read = true;
	return 0;
}

int client_setting(struct cli *cli, enum client_setting which, bool with_context, const char **ret,
		   struct err *e)
{
	const struct setting *s = &settings[which];
	const char *value = args_text(&cli->args, s->flag);

	if (!value || !*value)
		value = getenv(s->env);
	if ((!value || !*value) && with_context) {
		if (context_read(&cli->client, e))
			return -1;
		value = json_string_value(json_object_get(cli->client.context, s->key));
	}
	*ret = value && *value ? value : NULL;
	return 0;
}

const struct setting *client_setting_names(enum client_setting which)
{
	return &settings[which];
}

/** endpoint_normal: the URL without a slash at the end; NULL and e if it is none. */
static char *endpoint_normal(const char *url, struct err *e)
{
	size_t len = strlen(url);
	char *copy;

	if (strncasecmp(url, "http://", 7) && strncasecmp(url, "https://", 8)) {
		err_set(e, ERR_INVALID, "endpoint '%s' does not start with http:// or https://",
			url);
		return NULL;
	}
	while (len && url[len - 1] == '/')
		len--;
	copy = str_dup((struct str){ url, len });
	if (!copy)
		err_set(e, ERR_NOMEM, "out of memory");
	return copy;
}

static void add_escaped(struct buf *b, const char *text)
{
	for (; *text; text++) {
		unsigned char c = (unsigned char)*text;

		if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
		    strchr("-._~", c))
			buf_add(b, text, 1);
		else
			buf_addf(b, "%%%02X", c);
	}
}

static char *url_vformat(const char *base, const char *fmt, va_list ap)
{
	struct buf b;

	buf_init(&b, CLIENT_URL_MAX);
	buf_add_str(&b, str_from(base));
	for (const char *p = fmt; *p; p++) {
		if (p[0] == '%' && p[1] == 's') {
			add_escaped(&b, va_arg(ap, const char *));
			p++;
		} else {
			buf_add(&b, p, 1);
		}
	}
	return buf_take(&b);
}

int client_url_too_long(const char *what, struct err *e)
{
	return err_set(e, ERR_INVALID, "%s: too long; the URL would have more than %d bytes", what,
		       CLIENT_URL_MAX);
}

char *client_url_format(const char *base, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	char *url = url_vformat(base, fmt, ap);

	va_end(ap);
	return url;
}

char *client_arm_url(struct cli *cli, struct err *e, const char *fmt, ...)
{
	const char *given;
	va_list ap;

	if (client_setting(cli, SETTING_ARM_ENDPOINT, true, &given, e))
		return NULL;
	if (!given) {
		err_set(e, ERR_INVALID,
			"no ARM endpoint: give --arm-endpoint, set BIVOUAC_ARM_ENDPOINT, or start "
			"bivouacd here (it writes %s)",
			CLIENT_CONTEXT_DEFAULT);
		return NULL;
	}
	OWNED_MEM char *base = endpoint_normal(given, e);

	if (!base)
		return NULL;
	va_start(ap, fmt);
	char *url = url_vformat(base, fmt, ap);

	va_end(ap);
	if (!url)
		client_url_too_long("the names or the endpoint", e);
	return url;
}

const char *client_subscription(struct cli *cli)
{
	return args_text(&cli->args, "subscription");
}

static char *endpoint_from_arm(struct cli *cli, const char *name, const char *group, struct err *e)
{
	OWNED_MEM char *url = client_arm_url(
		cli, e,
		"/subscriptions/%s/resourceGroups/%s/providers/Microsoft.App/sessionPools/%s"
		"?api-version=" CLIENT_ARM_VERSION,
		client_subscription(cli), group, name);
	struct client_request request = { .plane = CLIENT_ARM, .method = "GET", .url = url };
	struct client_response response;

	if (!url || client_send(cli, &request, &response, e))
		return NULL;
	json_t *pool = output_load(buf_str(&response.body), e);
	const char *endpoint = json_string_value(
		json_object_get(json_object_get(pool, "properties"), "poolManagementEndpoint"));
	char *copy = NULL;

	client_response_done(&response);
	if (endpoint)
		copy = endpoint_normal(endpoint, e);
	else if (pool)
		err_set(e, ERR_PROTOCOL, "session pool '%s' has no poolManagementEndpoint", name);
	json_decref(pool);
	return copy;
}

char *client_pool_endpoint(struct cli *cli, struct err *e)
{
	const char *name = args_text(&cli->args, "name");
	const char *group = args_text(&cli->args, "resource-group");
	const char *given;

	if (client_setting(cli, SETTING_ENDPOINT, !name, &given, e))
		return NULL;
	if (!given) {
		if (name && group)
			return endpoint_from_arm(cli, name, group, e);
		err_set(e, ERR_INVALID,
			name ? "--resource-group is required with --name"
			     : "which pool? Give --name and --resource-group, or --endpoint");
		return NULL;
	}
	OWNED_MEM char *base = endpoint_normal(given, e);

	if (!base || strstr(base, "/sessionPools/") || !name || !group)
		return take_ptr(base);
	/* A server without a pool's path: the pool is the named one. */
	char *url = client_url_format(base, "/subscriptions/%s/resourceGroups/%s/sessionPools/%s",
				      client_subscription(cli), group, name);

	if (!url)
		client_url_too_long("--name, --resource-group, --subscription or the endpoint", e);
	return url;
}
