/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
#include "cli/flags.h"

#include "base/own.h"

#include <string.h>

static const struct cli_flag flags_name[] = {
	{ .name = "name",
	  .alias = "resource-group",
	  .letter = 'n',
	  .letter_alias = 'g',
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "GROUP",
	  .help = "Resource group." },
	{ .name = NULL },
};

static const struct cli_flag flags_create[] = {
	{ .name = "location",
	  .letter = 'l',
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "LOCATION",
	  .help = "Location." },
	{ .name = "tags", .kind = FLAG_LIST, .arg = "KEY=VALUE", .help = "Tags." },
	{ .name = NULL },
};

const struct cli_flag cli_flags_delete[] = {
	{ .name = "yes", .letter = 'y', .kind = FLAG_BOOL, .help = "Do not ask." },
	{ .name = "no-wait", .kind = FLAG_BOOL, .help = "Do not wait for the end." },
	{ .name = NULL },
};

static char *group_url(struct cli *cli, struct err *e)
{
	return client_arm_url(
		cli, e, "/subscriptions/%s/resourcegroups/%s?api-version=" CLIENT_GROUP_VERSION,
		client_subscription(cli), args_text(&cli->args, "name"));
}

static int run_create(struct cli *cli, struct err *e)
{
	OWNED_MEM char *url = group_url(cli, e);
	json_t *body = json_pack("{ss}", "location", args_text(&cli->args, "location"));
	const char *tag;
	int rc = url && body ? 0 : -1;

	for (size_t i = 0; !rc && (tag = args_list(&cli->args, "tags", i)); i++) {
		const char *equals = strchr(tag, '=');
		OWNED_MEM char *key = str_dup((struct str){ tag, strcspn(tag, "=") });
		json_t *tags = json_object_get(body, "tags");

		if (!tags) {
			tags = json_object();
			json_object_set_new(body, "tags", tags);
		}
		if (!key || json_object_set_new(tags, key, json_string(equals ? equals + 1 : "")))
			rc = err_set(e, ERR_MALFORMED, "tag '%s' is not UTF-8", tag);
	}
	struct client_request request = {
		.plane = CLIENT_ARM, .method = "PUT", .url = url, .body = body
	};

	if (url && !body)
		rc = err_set(e, ERR_MALFORMED, "the location is not UTF-8");
	if (!rc)
		rc = client_print(cli, &request, e);
	json_decref(body);
	return rc;
}

static int run_show(struct cli *cli, struct err *e)
{
	OWNED_MEM char *url = group_url(cli, e);
	struct client_request request = { .plane = CLIENT_ARM, .method = "GET", .url = url };

	return url ? client_print(cli, &request, e) : -1;
}

static int run_list(struct cli *cli, struct err *e)
{
	OWNED_MEM char *url = client_arm_url(
		cli, e, "/subscriptions/%s/resourcegroups?api-version=" CLIENT_GROUP_VERSION,
		client_subscription(cli));

	return url ? client_print_all(cli, CLIENT_ARM, url, "value", e) : -1;
}

static int run_delete(struct cli *cli, struct err *e)
{
	if (!args_given(&cli->args, "yes") &&
	    cli_confirm("Delete this resource group and everything in it?", e))
		return -1;
	OWNED_MEM char *url = group_url(cli, e);

	return url ? client_delete(cli, url, e) : -1;
}

static const struct cli_verb verbs[] = {
	{ .name = "create",
	  .summary = "Make a resource group.",
	  .example = "--name my-group --location local",
	  .flags = { flags_name, flags_create },
	  .run = run_create },
	{ .name = "show",
	  .summary = "Show a resource group.",
	  .flags = { flags_name },
	  .run = run_show },
	{ .name = "list", .summary = "List resource groups.", .run = run_list },
	{ .name = "delete",
	  .summary = "Delete a resource group and everything in it.",
	  .flags = { flags_name, cli_flags_delete },
	  .run = run_delete },
	{ .name = NULL },
};

const struct cli_group cli_group_group = { "group", "Resource groups", verbs };
