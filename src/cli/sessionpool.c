/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/pool_body.h"

#include "base/own.h"

#include <string.h>

static const struct cli_flag flags_name[] = {
	{ .name = "name",
	  .letter = 'n',
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "POOL",
	  .help = "Session pool." },
	{ .name = "resource-group",
	  .letter = 'g',
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "GROUP",
	  .help = "Resource group." },
	{ .name = NULL },
};

static const struct cli_flag flags_list[] = {
	{ .name = "resource-group",
	  .letter = 'g',
	  .kind = FLAG_TEXT,
	  .arg = "GROUP",
	  .help = "Only pools of this group." },
	{ .name = NULL },
};

static char *pool_url(struct cli *cli, struct err *e)
{
	return client_arm_url(
		cli, e,
		"/subscriptions/%s/resourceGroups/%s/providers/Microsoft.App/sessionPools/%s"
		"?api-version=" CLIENT_ARM_VERSION,
		client_subscription(cli), args_text(&cli->args, "resource-group"),
		args_text(&cli->args, "name"));
}

static int print_done(struct cli *cli, struct client_response *response, struct err *e)
{
	int rc = 0;

	if (response->body.len) {
		json_t *pool = output_load(buf_str(&response->body), e);

		output_add_groups(pool);
		rc = pool ? output_json(&cli->output, pool, e) : -1;
		json_decref(pool);
	}
	client_response_done(response);
	return rc;
}

static int show(struct cli *cli, const char *url, struct err *e)
{
	struct client_request request = { .plane = CLIENT_ARM, .method = "GET", .url = url };
	struct client_response response;

	return client_send(cli, &request, &response, e) ? -1 : print_done(cli, &response, e);
}

static int run_show(struct cli *cli, struct err *e)
{
	OWNED_MEM char *url = pool_url(cli, e);

	return url ? show(cli, url, e) : -1;
}

static int run_create(struct cli *cli, struct err *e)
{
	json_t *body = pool_body_create(&cli->args, e);
	OWNED_MEM char *url = body ? pool_url(cli, e) : NULL;
	struct client_request request = {
		.plane = CLIENT_ARM, .method = "PUT", .url = url, .body = body
	};
	struct client_response response;
	int rc = url ? client_send(cli, &request, &response, e) : -1;

	json_decref(body);
	if (rc)
		return -1;
	if (response.status != 201 || !*response.async_url || args_given(&cli->args, "no-wait"))
		return print_done(cli, &response, e);
	rc = client_wait(cli, &response, e);
	client_response_done(&response);
	return rc ? -1 : show(cli, url, e);
}

/** pool_get: the pool as JSON, new reference. */
static json_t *pool_get(struct cli *cli, const char *url, struct err *e)
{
	struct client_request request = { .plane = CLIENT_ARM, .method = "GET", .url = url };
	struct client_response response;

	if (client_send(cli, &request, &response, e))
		return NULL;
	json_t *pool = output_load(buf_str(&response.body), e);

	client_response_done(&response);
	return pool;
}

static int run_update(struct cli *cli, struct err *e)
{
	OWNED_MEM char *url = pool_url(cli, e);
	json_t *current = url ? pool_get(cli, url, e) : NULL;
	json_t *body = current ? pool_body_update(&cli->args, current, e) : NULL;
	struct client_request request = {
		.plane = CLIENT_ARM, .method = "PATCH", .url = url, .body = body
	};
	struct client_response response;
	int rc = body ? client_send(cli, &request, &response, e) : -1;

	json_decref(current);
	json_decref(body);
	if (rc)
		return -1;
	if (response.status != 202 || args_given(&cli->args, "no-wait"))
		return print_done(cli, &response, e);
	rc = client_wait(cli, &response, e);
	client_response_done(&response);
	return rc ? -1 : show(cli, url, e);
}

static int run_list(struct cli *cli, struct err *e)
{
	const char *group = args_text(&cli->args, "resource-group");
	OWNED_MEM char *url =
		group ? client_arm_url(cli, e,
				       "/subscriptions/%s/resourceGroups/%s/providers/"
				       "Microsoft.App/sessionPools?api-version=" CLIENT_ARM_VERSION,
				       client_subscription(cli), group)
		      : client_arm_url(cli, e,
				       "/subscriptions/%s/providers/Microsoft.App/sessionPools"
				       "?api-version=" CLIENT_ARM_VERSION,
				       client_subscription(cli));
	json_t *pools = url ? client_get_all(cli, CLIENT_ARM, url, "value", e) : NULL;

	output_add_groups(pools);
	int rc = pools ? output_json(&cli->output, pools, e) : -1;

	json_decref(pools);
	return rc;
}

static int run_delete(struct cli *cli, struct err *e)
{
	if (!args_given(&cli->args, "yes") &&
	    cli_confirm("Delete this session pool and its sessions?", e))
		return -1;
	OWNED_MEM char *url = pool_url(cli, e);

	return url ? client_delete(cli, url, e) : -1;
}

static const struct cli_verb verbs[] = {
	{ .name = "create",
	  .summary = "Make or replace a session pool.",
	  .example = "--name my-pool --resource-group my-group --location local --max-sessions 100 "
		     "--container-type PythonLTS --cooldown-period 300",
	  .flags = { flags_name, cli_flags_pool_create, cli_flags_pool_common,
		     cli_flags_pool_container },
	  .run = run_create },
	{ .name = "show",
	  .summary = "Show a session pool.",
	  .example = "-n my-pool -g my-group --query properties.poolManagementEndpoint -o tsv",
	  .flags = { flags_name },
	  .run = run_show },
	{ .name = "list",
	  .summary = "List session pools.",
	  .flags = { flags_list },
	  .run = run_list },
	{ .name = "update",
	  .summary = "Change settings of a session pool.",
	  .example = "-n my-pool -g my-group --network-status EgressEnabled",
	  .flags = { flags_name, cli_flags_pool_common, cli_flags_pool_container },
	  .run = run_update },
	{ .name = "delete",
	  .summary = "Delete a session pool and its sessions.",
	  .flags = { flags_name, cli_flags_delete },
	  .run = run_delete },
	{ .name = NULL },
};

const struct cli_group cli_group_sessionpool = { "sessionpool", "Session pools", verbs };
