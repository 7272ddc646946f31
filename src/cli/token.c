/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"

#include "base/clock.h"
#include "base/own.h"
#include "identity/identity.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const struct cli_flag flags_token[] = {
	{ .name = "state",
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "DIR",
	  .help = "State directory of the daemon, where its issuer's key is." },
	{ .name = "audience",
	  .alias = "resource",
	  .kind = FLAG_TEXT,
	  .arg = "URI",
	  .fallback = "data",
	  .help = "data (" IDENTITY_AUDIENCE_DATA "), arm (" IDENTITY_AUDIENCE_ARM "), or a URI." },
	{ .name = "oid",
	  .kind = FLAG_TEXT,
	  .arg = "ID",
	  .fallback = "00000000-0000-0000-0000-000000000000",
	  .help = "Object id of the principal." },
	{ .name = "name",
	  .kind = FLAG_TEXT,
	  .arg = "NAME",
	  .fallback = "bivouac-cli",
	  .help = "Name of the principal in logs." },
	{ .name = "lifetime",
	  .kind = FLAG_TEXT,
	  .arg = "TIME",
	  .fallback = "1h",
	  .help = "Seconds, or a number with s, m, h or d; a minute to a year." },
	{ .name = NULL },
};

static int token_print(struct cli *cli, const char *token, const char *audience, int64_t expires_s,
		       struct err *e)
{
	char expires[CLOCK_TEXT_SIZE];

	/* Bare, so that TOKEN=$(bivouac token …) works. */
	if (!cli->output.format_given)
		return puts(token) < 0 || fflush(stdout) ? err_sys(e, "writing the token") : 0;
	json_t *v = json_pack("{sssssIssss}", "accessToken", token, "expiresOn",
			      clock_format(expires_s * 1000000, expires), "expires_on",
			      (json_int_t)expires_s, "resource", audience, "tokenType", "Bearer");

	if (!v)
		return err_set(e, ERR_MALFORMED, "the audience is not UTF-8 text");
	int rc = output_json(&cli->output, v, e);

	json_decref(v);
	return rc;
}

static int run_token(struct cli *cli, struct err *e)
{
	const char *audience = args_text(&cli->args, "audience");
	const char *state = args_text(&cli->args, "state");
	struct identity *identity;
	long lifetime_s;

	if (args_duration(args_text(&cli->args, "lifetime"), &lifetime_s, e))
		return err_wrap(e, "--lifetime");
	if (lifetime_s < 60 || lifetime_s > 31536000)
		return err_set(e, ERR_INVALID, "--lifetime: between 60 seconds and 365 days");
	/* identity_open makes a key where there is none: a mistyped directory must not get one. */
	if (access(state, R_OK | X_OK))
		return errno == ENOENT
			       ? err_set(e, ERR_NOT_FOUND, "there is no state directory %s", state)
			       : err_sys(e, "state directory %s", state);
	if (!strcmp(audience, "data"))
		audience = IDENTITY_AUDIENCE_DATA;
	else if (!strcmp(audience, "arm"))
		audience = IDENTITY_AUDIENCE_ARM;
	if (identity_open(state, &identity, e))
		return -1;
	int64_t expires_s = clock_wall_us() / 1000000 + lifetime_s;
	OWNED_MEM char *token = identity_issue(identity, audience, args_text(&cli->args, "oid"),
					       args_text(&cli->args, "name"), lifetime_s, e);

	identity_close(identity);
	return token ? token_print(cli, token, audience, expires_s, e) : -1;
}

static const struct cli_verb verbs[] = {
	{ .name = "token",
	  .summary = "Issue a token of the built-in issuer.",
	  .notes = "Reads the issuer's private key, so it needs the rights of the daemon's user or "
		   "root. "
		   "Prints the bare token; with -o or --query, an object with accessToken and "
		   "expiresOn.",
	  .example = "--state /var/lib/bivouac --audience arm --lifetime 8h",
	  .flags = { flags_token },
	  .run = run_token },
	{ .name = NULL },
};

const struct cli_group cli_group_token = { "", "", verbs };
