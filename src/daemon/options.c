/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/options.h"

#include "base/own.h"
#include "base/str.h"

#include <ini.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

enum kind { FLAG, TEXT, NUMBER };

static const struct option_row {
	const char *name;
	enum kind kind;
	size_t offset;
	const char *arg;
	const char *fallback;
	long min, max;
	const char *help;
} rows[] = {
#define AT(field) offsetof(struct options, field)
	{ "dev", FLAG, AT(dev), NULL, NULL, 0, 0,
	  "make a resource group and a session pool 'default', print tokens" },
	{ "listen", TEXT, AT(listen), "ADDR:PORT", "127.0.0.1:8900", 0, 0,
	  "where to serve HTTP; port 0 picks one" },
	{ "tls-listen", TEXT, AT(tls_listen), "ADDR:PORT", NULL, 0, 0,
	  "where to serve HTTPS as well; port 0 picks one" },
	{ "tls-certificate", TEXT, AT(tls_certificate), "FILE", NULL, 0, 0,
	  "its certificate and chain (PEM), read anew on SIGHUP; default with --dev: its own" },
	{ "tls-key", TEXT, AT(tls_key), "FILE", NULL, 0, 0, "the certificate's private key (PEM)" },
	{ "state", TEXT, AT(state_dir), "DIR", "/var/lib/bivouac", 0, 0,
	  "what must survive a reboot" },
	{ "run-dir", TEXT, AT(run_dir), "DIR", "/run/bivouac", 0, 0,
	  "sockets and records of running sandboxes" },
	{ "images", TEXT, AT(images_dir), "DIR", "/var/cache/bivouac/images", 0, 0,
	  "images made by 'bivouac image build'" },
	{ "user", TEXT, AT(user), "NAME", "bivouac", 0, 0, "user to run as after the start" },
	{ "uid-dir", TEXT, AT(uid_dir), "DIR", "/run/bivouac-uids", 0, 0,
	  "where the daemons of a machine share out host user ids" },
	{ "location", TEXT, AT(location), "NAME", "local", 0, 0,
	  "location that ARM resources show" },
	{ "config", TEXT, AT(config), "FILE", NULL, 0, 0,
	  "settings, section [bivouacd], these names" },
	{ "log-level", TEXT, AT(log_level), "LEVEL", "info", 0, 0, "debug, info, warn or error" },
	{ "keep-sessions", FLAG, AT(keep_sessions), NULL, NULL, 0, 0,
	  "leave sessions running on SIGTERM; the next start takes them over" },
	{ "strict", FLAG, AT(strict), NULL, NULL, 0, 0,
	  "refuse to start where a limit or defence of sessions cannot be enforced" },
	{ "ready", NUMBER, AT(ready), "N", "4", 0, 10000,
	  "ready sandboxes of a pool without readySessionInstances" },
	{ "shells", NUMBER, AT(shells), "N", "4", 0, 10000,
	  "sandboxes without a kernel kept per pool for when none is ready" },
	{ "starting-max", NUMBER, AT(starting_max), "N", "8", 1, 1000,
	  "sandboxes in the making at once" },
	{ "connections-max", NUMBER, AT(connections_max), "N", "4096", 1, 19000,
	  "HTTP connections at once" },
	{ "body-max", NUMBER, AT(body_max), "BYTES", "8388608", 1024, 1L << 30,
	  "size of a JSON request body" },
	{ "buffers-max", NUMBER, AT(buffers_max), "BYTES", "536870912", 1L << 20, 1L << 40,
	  "request bodies and unread replies of all connections together" },
	{ "code-max", NUMBER, AT(code_max), "BYTES", "4194304", 1024, 7L << 20,
	  "source text of one execution" },
	{ "output-max", NUMBER, AT(output_max), "BYTES", "1048576", 1024, 4L << 20,
	  "most that outputStreamsMaxLength may ask for" },
	{ "result-max", NUMBER, AT(result_max), "BYTES", "8388608", 1024, 8L << 20,
	  "value and images of one execution" },
	{ "list-max", NUMBER, AT(list_max), "N", "10000", 1, 100000,
	  "entries of one file listing" },
	{ "executions-kept", NUMBER, AT(executions_kept), "N", "64", 1, 10000,
	  "finished executions remembered per session" },
	{ "contexts-max", NUMBER, AT(contexts_max), "N", "8", 1, 16,
	  "contexts of one session, the default one included" },
	{ "terminals-max", NUMBER, AT(terminals_max), "N", "4", 0, 8, "terminals of one session" },
	{ "queued-code-max", NUMBER, AT(queued_code_max), "BYTES", "67108864", 1024, 1L << 40,
	  "source text of the executions that wait in one session" },
	{ "results-kept-max", NUMBER, AT(results_kept_max), "BYTES", "33554432", 1024, 1L << 40,
	  "their results together, per session; the last one is kept in any case" },
	{ "idle-timeout", NUMBER, AT(idle_timeout_s), "SECONDS", "75", 1, 86400,
	  "close connections that are silent this long" },
	{ "head-timeout", NUMBER, AT(head_timeout_s), "SECONDS", "15", 1, 3600,
	  "refuse requests whose headers are not complete by then" },
	{ "body-rate-min", NUMBER, AT(body_rate_min), "BYTES", "1024", 0, 1L << 30,
	  "refuse bodies that bring less a second for 30 seconds" },
	{ "requests-per-connection", NUMBER, AT(requests_max), "N", "100000", 1, 1000000000,
	  "close a connection after so many" },
	{ "egress", TEXT, AT(egress), "on|off", "on", 0, 0,
	  "whether pools may let their sessions reach the network" },
	{ "egress-allow", TEXT, AT(egress_allow), "CIDR,…", NULL, 0, 0,
	  "private networks that connected sessions may reach all the same" },
	{ "egress-connections", NUMBER, AT(egress_connections), "N", "256", 1, 65536,
	  "connections of one session at once" },
	{ "egress-rate", NUMBER, AT(egress_rate), "N", "100", 1, 10000,
	  "new connections of one session per second" },
	{ "egress-bandwidth", NUMBER, AT(egress_bandwidth), "BYTES", "12500000", 65536, 4000000000,
	  "bytes per second of one session, each way" },
	{ "egress-log-max", NUMBER, AT(egress_log_max), "BYTES", "67108864", 0, 1L << 40,
	  "size at which egress.jsonl in --state is rotated; 0: no such file" },
	{ "dns", TEXT, AT(dns), "ADDR,…", NULL, 0, 0,
	  "DNS servers that answer connected sessions; default: the machine's" },
	{ "mcp-origin", TEXT, AT(mcp_origin), "ORIGIN,…", NULL, 0, 0,
	  "web pages that may call MCP servers from a browser, as https://tools.example" },
	{ "help", FLAG, AT(help), NULL, NULL, 0, 0, "show this" },
	{ "version", FLAG, AT(version), NULL, NULL, 0, 0, "show the version" },
#undef AT
};

static const struct option_row *find_row(const char *name, size_t len)
{
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (strlen(rows[i].name) == len && memcmp(rows[i].name, name, len) == 0)
			return &rows[i];
	return NULL;
}

static int set(struct options *o, const struct option_row *r, const char *value, struct err *e)
{
	char *field = (char *)o + r->offset;
	uint64_t n;

	switch (r->kind) {
	case FLAG:
		if (value && strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
			return err_set(e, ERR_INVALID, "%s is true or false, not '%s'", r->name,
				       value);
		*(bool *)field = !value || strcmp(value, "true") == 0;
		return 0;
	case TEXT:
		*(const char **)field = value;
		return 0;
	case NUMBER:
		if (!str_to_u64(str_from(value), (uint64_t)r->max, &n) || (long)n < r->min)
			return err_set(e, ERR_INVALID,
				       "%s must be a number from %ld to %ld, not '%s'", r->name,
				       r->min, r->max, value);
		*(long *)field = (long)n;
		return 0;
	}
	return 0;
}

struct file_arg {
	struct options *o;
	const bool *given; /* rows set on the command line */
	struct err *e;
};

static int file_line(void *arg, const char *section, const char *name, const char *value)
{
	struct file_arg *f = arg;
	const struct option_row *r = find_row(name, strlen(name));

	if (strcmp(section, "bivouacd") != 0 || !r || strcmp(name, "config") == 0) {
		err_set(f->e, ERR_INVALID, "unknown setting [%s] %s", section, name);
		return 0;
	}
	if (f->given[r - rows])
		return 1;
	if (r->kind != TEXT)
		return set(f->o, r, value, f->e) == 0;
	char *kept = strdup(value); /* lives as long as the process */

	return kept && set(f->o, r, kept, f->e) == 0;
}

static int parse_file(struct options *o, const bool *given, struct err *e)
{
	struct file_arg arg = { o, given, e };
	int rc = ini_parse(o->config, file_line, &arg);

	if (rc == 0)
		return 0;
	if (e->code == ERR_NONE)
		err_set(e, ERR_INVALID, rc < 0 ? "cannot be read" : "line %d is no setting", rc);
	return err_wrap(e, "%s", o->config);
}

int options_parse(struct options *o, int argc, char **argv, struct err *e)
{
	bool given[ARRAY_LEN(rows)] = { false };

	memset(o, 0, sizeof(*o));
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		if (rows[i].fallback && set(o, &rows[i], rows[i].fallback, e) < 0)
			return -1;
	for (int i = 1; i < argc; i++) {
		const char *name = argv[i];

		if (strncmp(name, "--", 2) != 0)
			return err_set(e, ERR_INVALID, "unknown argument '%s' (see --help)", name);
		name += 2;
		size_t len = strcspn(name, "=");
		const struct option_row *r = find_row(name, len);
		const char *value = name[len] == '=' ? name + len + 1 : NULL;

		if (!r)
			return err_set(e, ERR_INVALID, "unknown option '%s' (see --help)", argv[i]);
		if (r->kind != FLAG && !value) {
			if (++i >= argc)
				return err_set(e, ERR_INVALID, "--%s needs a value: %s", r->name,
					       r->arg);
			value = argv[i];
		}
		if (set(o, r, value, e) < 0)
			return -1;
		given[r - rows] = true;
	}
	return o->config ? parse_file(o, given, e) : 0;
}

void options_help(FILE *out)
{
	fputs("usage: bivouacd [--dev] [OPTIONS]\n"
	      "Gives every identifier its own isolated computer, over the API of Azure Container Apps dynamic "
	      "sessions.\n\n",
	      out);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		char left[48];

		snprintf(left, sizeof(left), "--%s%s%s", rows[i].name, rows[i].arg ? " " : "",
			 rows[i].arg ? rows[i].arg : "");
		fprintf(out, "  %-26s %s", left, rows[i].help);
		if (rows[i].fallback)
			fprintf(out, " (default %s)", rows[i].fallback);
		fputc('\n', out);
	}
	fputs("\nWhen ready it prints one line of JSON: endpoint, armEndpoint, and with --dev token, armToken,\n"
	      "and on a loopback address identityEndpoint and identityHeader (for IDENTITY_ENDPOINT and IDENTITY_HEADER).\n"
	      "SIGTERM ends it; sessions end with it unless --keep-sessions is given.\n",
	      out);
}
