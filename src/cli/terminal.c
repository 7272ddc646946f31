/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
#include "cli/flags.h"

#include "base/own.h"

static const struct cli_flag flags_terminal[] = {
	{ .name = "terminal",
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "ID",
	  .help = "The terminal, as 'session terminal list' shows it." },
	{ .name = NULL },
};

static int run_list(struct cli *cli, struct err *e)
{
	OWNED_MEM char *base = client_pool_endpoint(cli, e);

	if (!base)
		return -1;
	OWNED_MEM char *url = client_url_format(
		base, "/terminals?api-version=" CLIENT_DATA_VERSION "&identifier=%s",
		args_text(&cli->args, "identifier"));

	return url ? client_print_all(cli, CLIENT_DATA, url, "value", e)
		   : client_url_too_long("--identifier", e);
}

static int run_delete(struct cli *cli, struct err *e)
{
	OWNED_MEM char *base = client_pool_endpoint(cli, e);

	if (!base)
		return -1;
	/* It is a part of the path: without one this would be another request. */
	if (!*args_text(&cli->args, "terminal"))
		return err_set(e, ERR_INVALID, "--terminal is empty");
	OWNED_MEM char *url = client_url_format(
		base, "/terminals/%s?api-version=" CLIENT_DATA_VERSION "&identifier=%s",
		args_text(&cli->args, "terminal"), args_text(&cli->args, "identifier"));
	struct client_request request = { .plane = CLIENT_DATA, .method = "DELETE", .url = url };

	return url ? client_print(cli, &request, e)
		   : client_url_too_long("--terminal or --identifier", e);
}

static const struct cli_verb verbs[] = {
	{ .name = "list",
	  .summary = "List the terminals of a session, attached or left.",
	  .example = "-n my-pool -g my-group -i user-4711 -o table",
	  .flags = { cli_flags_pool_of, cli_flags_session },
	  .run = run_list },
	{ .name = "delete",
	  .summary = "Hang up a terminal: its program ends.",
	  .example = "-n my-pool -g my-group -i user-4711 --terminal "
		     "0123456789abcdef0123456789abcdef",
	  .flags = { cli_flags_pool_of, cli_flags_session, flags_terminal },
	  .run = run_delete },
	{ .name = NULL },
};

const struct cli_group cli_group_terminal = { "session terminal", "Terminals of a session", verbs };
