/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
#include "cli/flags.h"
#include "cli/shell.h"

#include "base/own.h"

#include <string.h>

const struct cli_flag cli_flags_pool_of[] = {
	{ .name = "name",
	  .letter = 'n',
	  .kind = FLAG_TEXT,
	  .arg = "POOL",
	  .help = "Session pool. Without it: the pool of --endpoint, or the daemon's default "
		  "pool." },
	{ .name = "resource-group",
	  .letter = 'g',
	  .kind = FLAG_TEXT,
	  .arg = "GROUP",
	  .help = "Resource group of the pool." },
	{ .name = "session-pool-location",
	  .kind = FLAG_TEXT,
	  .arg = "LOCATION",
	  .help = "Accepted for az's sake; the pool's endpoint says where it is." },
	{ .name = NULL },
};

const struct cli_flag cli_flags_session[] = {
	{ .name = "identifier",
	  .letter = 'i',
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "ID",
	  .help = "The session: 4 to 128 characters of your choice. Whoever knows it can use the "
		  "session." },
	{ .name = NULL },
};

static int run_list(struct cli *cli, struct err *e)
{
	OWNED_MEM char *base = client_pool_endpoint(cli, e);

	if (!base)
		return -1;
	OWNED_MEM char *url =
		client_url_format(base, "/listSessions?api-version=" CLIENT_DATA_VERSION);

	return url ? client_print_all(cli, CLIENT_DATA, url, "sessions", e)
		   : client_url_too_long("the endpoint", e);
}

static int run_stop(struct cli *cli, struct err *e)
{
	const char *id = args_text(&cli->args, "identifier");
	OWNED_MEM char *base = client_pool_endpoint(cli, e);
	struct client_response response;

	if (!base)
		return -1;
	OWNED_MEM char *url = client_url_format(
		base, "/.management/stopSession?api-version=" CLIENT_DATA_VERSION "&identifier=%s",
		id);
	/* Not DELETE, which is content with a session that is gone: az fails then. */
	struct client_request request = { .plane = CLIENT_DATA, .method = "POST", .url = url };

	if (!url)
		return client_url_too_long("--identifier", e);
	if (client_send(cli, &request, &response, e))
		return -1;
	client_response_done(&response);
	const char *slash = strrchr(base, '/');
	json_t *text = json_sprintf("Session %s in session pool %s stopped.", id,
				    slash ? slash + 1 : base);

	if (!text)
		return err_set(e, ERR_MALFORMED, "the identifier is not UTF-8");
	int rc = output_json(&cli->output, text, e);

	json_decref(text);
	return rc;
}

static const struct cli_verb verbs[] = {
	{ .name = "list",
	  .summary = "List the live sessions of a pool.",
	  .example = "-n my-pool -g my-group -o table",
	  .flags = { cli_flags_pool_of },
	  .run = run_list },
	{ .name = "stop",
	  .summary = "End a session now: its processes, files and memory are gone.",
	  .example = "-n my-pool -g my-group -i user-4711",
	  .flags = { cli_flags_pool_of, cli_flags_session },
	  .run = run_stop },
	{ .name = "shell",
	  .summary = "Open a terminal in a session, made if there is none.",
	  .notes =
		  "Enter ~. leaves the terminal, which goes on; Enter ~~ types a tilde. Ends with the "
		  "exit status of the program. A signal that ends the command leaves the terminal, "
		  "too, and says how to come back. When standard input that is no terminal ends, so "
		  "does the input of the program (^D, repeated); see --hang-up-after.",
	  .example = "-n my-pool -g my-group -i user-4711",
	  .flags = { cli_flags_pool_of, cli_flags_session, cli_flags_shell },
	  .run = shell_run },
	{ .name = NULL },
};

const struct cli_group cli_group_session = { "session", "Live sessions of a pool", verbs };
