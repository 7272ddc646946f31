/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
#include "cli/help.h"
#include "cli/query.h"

#include <locale.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const formats[] = {
	[OUTPUT_JSON] = "json", [OUTPUT_JSONC] = "jsonc", [OUTPUT_TABLE] = "table",
	[OUTPUT_TSV] = "tsv",   [OUTPUT_NONE] = "none",   NULL
};

static const struct cli_flag flags_global[] = {
	{ .name = "output",
	  .letter = 'o',
	  .kind = FLAG_ENUM,
	  .arg = "FORMAT",
	  .choices = formats,
	  .help = "How results are printed.",
	  .fallback = "json" },
	{ .name = "query",
	  .kind = FLAG_TEXT,
	  .arg = "PATH",
	  .help = "Part of the result to print, in JMESPath: dotted paths, \"quoted names\", [0], "
		  "[-1], "
		  "[] and [*]." },
	{ .name = "subscription",
	  .kind = FLAG_TEXT,
	  .arg = "ID",
	  .help = "Subscription of the resources.",
	  .fallback = CLIENT_SUBSCRIPTION },
	{ .name = "arm-endpoint",
	  .kind = FLAG_TEXT,
	  .arg = "URL",
	  .help = "Management endpoint (BIVOUAC_ARM_ENDPOINT, or armEndpoint of the file "
		  "BIVOUAC_CONTEXT, by default " CLIENT_CONTEXT_DEFAULT ")." },
	{ .name = "arm-token",
	  .kind = FLAG_TEXT,
	  .arg = "TOKEN",
	  .help = "Token for it (BIVOUAC_ARM_TOKEN; other users of a machine can read command "
		  "lines, so "
		  "prefer the variable)." },
	{ .name = "endpoint",
	  .kind = FLAG_TEXT,
	  .arg = "URL",
	  .help = "Endpoint of the session pool (BIVOUAC_ENDPOINT), instead of asking ARM for "
		  "it." },
	{ .name = "token",
	  .kind = FLAG_TEXT,
	  .arg = "TOKEN",
	  .help = "Token for session pools (BIVOUAC_TOKEN)." },
	{ .name = "ca-file",
	  .kind = FLAG_TEXT,
	  .arg = "FILE",
	  .help = "Certificates to trust for https (BIVOUAC_CA_FILE, or caFile of that file), in place "
		  "of the system's." },
	{ .name = "verbose",
	  .kind = FLAG_BOOL,
	  .help = "Show requests on stderr, without tokens." },
	{ .name = "debug", .kind = FLAG_BOOL, .help = "As --verbose, with bodies." },
	{ .name = "only-show-errors", .kind = FLAG_BOOL, .help = "No warnings, no progress." },
	{ .name = NULL },
};

static const struct cli_group *const groups[] = {
	&cli_group_sessionpool, &cli_group_session,
	&cli_group_interpreter, &cli_group_terminal,
	&cli_group_group,       &cli_group_image,
	&cli_group_token,       &cli_group_doctor,
	&cli_group_top,         NULL,
};

void cli_warn(const struct cli *cli, const char *fmt, ...)
{
	va_list ap;

	if (cli->only_errors)
		return;
	fputs("WARNING: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

int cli_confirm(const char *question, struct err *e)
{
	char answer[16];

	if (!isatty(STDIN_FILENO))
		return err_set(e, ERR_INVALID, "no terminal to ask for confirmation: use --yes");
	fprintf(stderr, "%s (y/n): ", question);
	fflush(stderr);
	if (!fgets(answer, sizeof(answer), stdin) || (answer[0] != 'y' && answer[0] != 'Y'))
		return err_set(e, ERR_CONFLICT, "not confirmed");
	return 0;
}

static int run_version(struct cli *cli, struct err *e)
{
	json_t *v = json_pack("{ssssss}", "bivouac", BIVOUAC_VERSION, "jansson",
			      jansson_version_str(), "libcurl",
			      curl_version_info(CURLVERSION_NOW)->version);

	if (!v)
		return err_set(e, ERR_NOMEM, "out of memory");
	int rc = output_json(&cli->output, v, e);

	json_decref(v);
	return rc;
}

static int run_help(struct cli *cli, struct err *e)
{
	struct args about;
	char *argv[ARGS_WORDS_MAX + 2] = { (char *)"bivouac" };
	int argc = 1;

	for (size_t i = 0; i < cli->args.word_count; i++)
		argv[argc++] = (char *)cli->args.words[i];
	argv[argc++] = (char *)"--help";
	if (args_parse(&about, groups, flags_global, argc, argv, e))
		return -1;
	help_print(stdout, &about);
	return 0;
}

static const struct cli_verb verbs_top[] = {
	{ .name = "version",
	  .summary = "Show the version of this program and its libraries.",
	  .run = run_version },
	{ .name = "help",
	  .summary = "Show help for a command.",
	  .example = "sessionpool create",
	  .takes_words = true,
	  .run = run_help },
	{ .name = NULL },
};

const struct cli_group cli_group_top = { "", "", verbs_top };

static int fail(const struct err *e)
{
	fprintf(stderr, "ERROR: %s\n", e->msg);
	return err_exit_status(e->code);
}

static int settings_take(struct cli *cli, struct err *e)
{
	const char *format = args_text(&cli->args, "output");

	for (int i = 0; formats[i]; i++)
		if (!strcmp(formats[i], format))
			cli->output.format = (enum output_format)i;
	cli->output.query = args_text(&cli->args, "query");
	cli->output.format_given = args_given(&cli->args, "output") || cli->output.query;
	cli->client.trace_bodies = args_given(&cli->args, "debug");
	cli->client.trace = cli->client.trace_bodies || args_given(&cli->args, "verbose");
	cli->only_errors = args_given(&cli->args, "only-show-errors");
	/* Before anything happens, not after a pool was made. */
	return cli->output.query ? query_check(cli->output.query, e) : 0;
}

int main(int argc, char **argv)
{
	struct cli cli = { .only_errors = false };
	struct err e = ERR_INIT;

	setlocale(LC_CTYPE, "");
	signal(SIGPIPE, SIG_IGN);
	if (argc == 2 && (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-v"))) {
		puts("bivouac " BIVOUAC_VERSION);
		return 0;
	}
	if (args_parse(&cli.args, groups, flags_global, argc, argv, &e)) {
		int status = fail(&e);
		const char *path = cli.args.group ? cli.args.group->path : "";
		const char *verb = cli.args.verb ? cli.args.verb->name : "";

		fprintf(stderr, "Try 'bivouac %s%s%s%s--help'.\n", path, *path ? " " : "", verb,
			*verb ? " " : "");
		return status;
	}
	if (cli.args.help) {
		help_print(stdout, &cli.args);
		return 0;
	}
	int status = settings_take(&cli, &e) || cli.args.verb->run(&cli, &e) ? fail(&e)
									     : cli.status;

	client_done(&cli.client);
	return status;
}
