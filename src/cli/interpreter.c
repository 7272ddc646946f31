/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
#include "cli/flags.h"

#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define CODE_MAX (16u * 1024 * 1024)

static const struct cli_flag flags_execute[] = {
	{ .name = "code",
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "CODE",
	  .help = "What to run. @FILE reads a file, - standard input." },
	{ .name = "timeout-in-seconds",
	  .kind = FLAG_INT,
	  .arg = "SECONDS",
	  .min = 1,
	  .max = 220,
	  .fallback = "60",
	  .help = "How long the code may run." },
	{ .name = "api-version",
	  .kind = FLAG_TEXT,
	  .arg = "VERSION",
	  .fallback = CLIENT_DATA_VERSION,
	  .help = "Version of the data plane, 2024-10-02-preview or later." },
	{ .name = NULL },
};

static const struct cli_flag flags_directory[] = {
	{ .name = "path",
	  .kind = FLAG_TEXT,
	  .arg = "DIR",
	  .help = "Directory in the session, below /mnt/data." },
	{ .name = NULL },
};

static const struct cli_flag flags_filename[] = {
	{ .name = "filename",
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "NAME",
	  .help = "File in the session; DIR/NAME is --path DIR and NAME." },
	{ .name = NULL },
};

static const struct cli_flag flags_upload[] = {
	{ .name = "filepath",
	  .kind = FLAG_TEXT,
	  .required = true,
	  .arg = "FILE",
	  .help = "The local file." },
	{ .name = NULL },
};

static const struct cli_flag flags_list[] = {
	{ .name = "recursive", .kind = FLAG_BOOL, .help = "With all directories below." },
	{ .name = NULL },
};

static const struct cli_flag flags_content[] = {
	{ .name = "output-file",
	  .kind = FLAG_TEXT,
	  .arg = "FILE",
	  .help = "Write the bytes to a local file (- is standard output) instead of printing a "
		  "JSON "
		  "string." },
	{ .name = NULL },
};

static const struct cli_flag flags_delete[] = {
	{ .name = "yes", .letter = 'y', .kind = FLAG_BOOL, .help = "Do not ask." },
	{ .name = NULL },
};

/** readable: a local file that is not there is the same to a script as one that is not in the
 * session. */
static int readable(const char *file, struct err *e)
{
	if (!access(file, R_OK))
		return 0;
	return errno == ENOENT ? err_set(e, ERR_NOT_FOUND, "there is no file %s", file)
			       : err_sys(e, "open %s", file);
}

static int code_read(const char *arg, struct buf *out, struct err *e)
{
	if (!strcmp(arg, "-")) {
		ssize_t n;

		while (buf_reserve(out, 65536)) {
			n = read(STDIN_FILENO, out->ptr + out->len, 65536);
			if (n < 0 && errno == EINTR)
				continue;
			if (n <= 0)
				return n ? err_sys(e, "reading standard input") : 0;
			out->len += (size_t)n;
			out->ptr[out->len] = '\0';
		}
		return err_set(e, ERR_TOO_LARGE, "the code is larger than %u MiB", CODE_MAX >> 20);
	}
	if (arg[0] == '@' && readable(arg + 1, e))
		return -1;
	if (arg[0] == '@')
		return fd_read_file(AT_FDCWD, arg + 1, CODE_MAX, out, e);
	buf_add_str(out, str_from(arg));
	return buf_ok(out) ? 0 : err_set(e, ERR_TOO_LARGE, "the code is too large");
}

static json_t *execute_body(struct cli *cli, struct err *e)
{
	struct buf code;
	json_t *body = NULL;

	buf_init(&code, CODE_MAX);
	if (!code_read(args_text(&cli->args, "code"), &code, e)) {
		body = json_pack("{sssssssi}", "codeInputType", "inline", "executionType",
				 "synchronous", "code", code.ptr ? code.ptr : "",
				 "timeoutInSeconds",
				 (int)args_int(&cli->args, "timeout-in-seconds"));
		if (!body || strlen(code.ptr ? code.ptr : "") != code.len) {
			json_decref(body);
			body = NULL;
			err_set(e, ERR_MALFORMED, "the code is not UTF-8 text");
		}
	}
	buf_done(&code);
	return body;
}

static int run_execute(struct cli *cli, struct err *e)
{
	json_t *body = execute_body(cli, e);

	if (!body)
		return -1;
	OWNED_MEM char *base = client_pool_endpoint(cli, e);
	OWNED_MEM char *url = base ? client_url_format(base,
						       "/executions?api-version=%s&identifier=%s",
						       args_text(&cli->args, "api-version"),
						       args_text(&cli->args, "identifier"))
				   : NULL;
	struct client_request request = {
		.plane = CLIENT_DATA,
		.method = "POST",
		.url = url,
		.body = body,
		/* Executions of one session queue; leave time for those before. */
		.timeout_s = CLIENT_TIMEOUT_S + args_int(&cli->args, "timeout-in-seconds"),
	};
	int rc = -1;

	if (url)
		rc = client_print(cli, &request, e);
	else if (base)
		client_url_too_long("--identifier or --api-version", e);
	json_decref(body);
	return rc;
}

struct place {
	char *name; /* heap; NULL for the directory itself */
	char *dir;  /* heap, "" for the root */
};

static void place_done(struct place *p)
{
	free(p->name);
	free(p->dir);
}

/** place_of: splits DIR/NAME, joined to --path. */
static int place_of(struct cli *cli, const char *filename, struct place *ret, struct err *e)
{
	const char *path = args_text(&cli->args, "path");
	const char *slash = filename ? strrchr(filename, '/') : NULL;

	path = path ? path : "";
	if (filename)
		ret->name = str_dup(str_from(slash ? slash + 1 : filename));
	if (!slash)
		ret->dir = str_dup(str_from(path));
	else
		ret->dir = str_printf("%s%s%.*s", path, *path ? "/" : "", (int)(slash - filename),
				      filename);
	if (!ret->dir || (filename && !ret->name))
		return err_set(e, ERR_NOMEM, "out of memory");
	if (filename && !*ret->name)
		return err_set(e, ERR_INVALID, "'%s' does not name a file", filename);
	return 0;
}

/** files_url: tail is "" or "/content"; NULL and e on failure. */
static char *files_url(struct cli *cli, const struct place *place, const char *tail, bool recursive,
		       struct err *e)
{
	OWNED_MEM char *base = client_pool_endpoint(cli, e);
	const char *id = args_text(&cli->args, "identifier");

	if (!base)
		return NULL;
	OWNED_MEM char *file = place->name ? client_url_format("", "/%s", place->name)
					   : str_dup(STR(""));
	OWNED_MEM char *where = *place->dir ? client_url_format("", "&path=%s", place->dir)
					    : str_dup(STR(""));
	OWNED_MEM char *query =
		client_url_format("", "?api-version=" CLIENT_DATA_VERSION "&identifier=%s", id);

	if (!query) {
		client_url_too_long("--identifier", e);
		return NULL;
	}
	char *url = file && where ? str_printf("%s/files%s%s%s%s%s", base, file, tail, query, where,
					       recursive ? "&recursive=true" : "")
				  : NULL;

	if (url && strlen(url) <= CLIENT_URL_MAX)
		return url;
	free(url);
	client_url_too_long(place->name ? "--path with --filename" : "--path", e);
	return NULL;
}

static int run_files(struct cli *cli, const char *method, const char *filename, bool recursive,
		     struct err *e)
{
	struct place place = { NULL, NULL };
	OWNED_MEM char *url = NULL;
	int rc = place_of(cli, filename, &place, e);

	if (!rc) {
		url = files_url(cli, &place, "", recursive, e);
		struct client_request request = { .plane = CLIENT_DATA,
						  .method = method,
						  .url = url };

		rc = url ? client_print(cli, &request, e) : -1;
	}
	place_done(&place);
	return rc;
}

static int run_upload(struct cli *cli, struct err *e)
{
	const char *file = args_text(&cli->args, "filepath");
	const char *slash = strrchr(file, '/');
	struct place place = { NULL, NULL };
	OWNED_MEM char *url = NULL;
	int rc = -1;

	if (readable(file, e))
		return -1;
	if (!place_of(cli, NULL, &place, e))
		url = files_url(cli, &place, "", false, e);
	if (url) {
		struct client_request request = {
			.plane = CLIENT_DATA,
			.method = "POST",
			.url = url,
			.upload_file = file,
			.upload_name = slash ? slash + 1 : file,
			.progress = "Uploading",
		};

		rc = client_print(cli, &request, e);
	}
	place_done(&place);
	return rc;
}

static int run_list_files(struct cli *cli, struct err *e)
{
	return run_files(cli, "GET", NULL, args_given(&cli->args, "recursive"), e);
}

static int run_metadata(struct cli *cli, struct err *e)
{
	return run_files(cli, "GET", args_text(&cli->args, "filename"), false, e);
}

static int run_delete(struct cli *cli, struct err *e)
{
	if (!args_given(&cli->args, "yes") && cli_confirm("Delete this file of the session?", e))
		return -1;
	return run_files(cli, "DELETE", args_text(&cli->args, "filename"), false, e);
}

static int content_print(struct cli *cli, const struct client_request *request, struct err *e)
{
	struct client_response response;

	if (client_send(cli, request, &response, e))
		return -1;
	json_t *text = json_stringn(response.body.ptr ? response.body.ptr : "", response.body.len);
	int rc = text ? output_json(&cli->output, text, e)
		      : err_set(e, ERR_MALFORMED,
				"the file is not UTF-8 text; use --output-file to get its bytes");

	json_decref(text);
	client_response_done(&response);
	return rc;
}

/**
 * content_save: into a temporary name beside the file, so that a broken transfer leaves what was
 * there. What is not a regular file (a device, a pipe) is written in place.
 */
static int content_save(struct cli *cli, struct client_request *request, const char *file,
			struct err *e)
{
	struct client_response response;
	struct stat st;
	bool in_place = !stat(file, &st) && !S_ISREG(st.st_mode);
	OWNED_MEM char *temp = str_printf("%s%s", file, in_place ? "" : ".XXXXXX");

	if (!temp)
		return err_set(e, ERR_NOMEM, "out of memory");
	OWNED_FD int fd = in_place ? open(file, O_WRONLY | O_CLOEXEC) : mkostemp(temp, O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, "create %s", file);
	request->sink_fd = fd;
	request->progress = "Downloading";
	int rc = client_send(cli, request, &response, e);

	if (!rc)
		client_response_done(&response);
	if (in_place)
		return rc;
	mode_t mask = umask(0);

	umask(mask);
	if (!rc && (fchmod(fd, 0666 & ~mask) || rename(temp, file)))
		rc = err_sys(e, "write %s", file);
	if (rc)
		unlink(temp);
	return rc;
}

static int run_content(struct cli *cli, struct err *e)
{
	const char *file = args_text(&cli->args, "output-file");
	struct place place = { NULL, NULL };
	OWNED_MEM char *url = NULL;
	struct client_response response;
	int rc = -1;

	if (!place_of(cli, args_text(&cli->args, "filename"), &place, e))
		url = files_url(cli, &place, "/content", false, e);
	place_done(&place);
	if (!url)
		return -1;
	struct client_request request = { .plane = CLIENT_DATA, .method = "GET", .url = url };

	if (!file)
		return content_print(cli, &request, e);
	if (strcmp(file, "-"))
		return content_save(cli, &request, file, e);
	request.sink_fd = STDOUT_FILENO;
	rc = client_send(cli, &request, &response, e);
	if (!rc)
		client_response_done(&response);
	return rc;
}

#define FILE_FLAGS cli_flags_pool_of, cli_flags_session, flags_directory

static const struct cli_verb verbs[] = {
	{ .name = "execute",
	  .summary = "Run code in a session, which comes into being with its first use.",
	  .notes = "Prints the server's answer. Code that fails is an answer with status Failed "
		   "and its "
		   "traceback in result.stderr; the exit status is 0.",
	  .example = "-n my-pool -g my-group -i user-4711 --code 'print(1 + 1)'",
	  .flags = { cli_flags_pool_of, cli_flags_session, flags_execute },
	  .run = run_execute },
	{ .name = "upload-file",
	  .summary = "Put a file into a session.",
	  .example = "-n my-pool -g my-group -i user-4711 --filepath data.csv",
	  .flags = { FILE_FLAGS, flags_upload },
	  .run = run_upload },
	{ .name = "list-files",
	  .summary = "List files of a session.",
	  .flags = { FILE_FLAGS, flags_list },
	  .run = run_list_files },
	{ .name = "show-file-content",
	  .summary = "Print a file as a JSON string, or save its bytes.",
	  .example =
		  "-n my-pool -g my-group -i user-4711 --filename plot.png --output-file plot.png",
	  .flags = { FILE_FLAGS, flags_filename, flags_content },
	  .run = run_content },
	{ .name = "show-file-metadata",
	  .summary = "Show name, type, size and time of a file.",
	  .flags = { FILE_FLAGS, flags_filename },
	  .run = run_metadata },
	{ .name = "delete-file",
	  .summary = "Delete a file of a session.",
	  .flags = { FILE_FLAGS, flags_filename, flags_delete },
	  .run = run_delete },
	{ .name = NULL },
};

const struct cli_group cli_group_interpreter = { "session code-interpreter",
						 "Code and files in sessions", verbs };
