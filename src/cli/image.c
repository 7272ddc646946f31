/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/cli.h"
#include "cli/progress.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/own.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SCRIPT            "build-image.sh"
#define IMAGE_DIR_DEFAULT "/var/cache/bivouac/images"
#define ID_LEN            64
#define TAIL_MAX          (16 * 1024)
#define PROGRESS_FD       3

static const struct cli_flag flags_dir[] = {
	{ .name = "image-dir",
	  .kind = FLAG_TEXT,
	  .arg = "DIR",
	  .fallback = IMAGE_DIR_DEFAULT,
	  .help = "Where images are." },
	{ .name = NULL },
};

static const struct cli_flag flags_runtime[] = {
	{ .name = "runtime",
	  .kind = FLAG_TEXT,
	  .arg = "NAME",
	  .fallback = "python",
	  .help = "Which runtime's image: python, node or shell." },
	{ .name = NULL },
};

static const struct cli_flag flags_build[] = {
	{ .name = "runtime",
	  .kind = FLAG_TEXT,
	  .arg = "NAME",
	  .fallback = "python",
	  .help = "Which runtime's image: python, node, shell, or all." },
	{ .name = "from",
	  .kind = FLAG_TEXT,
	  .arg = "DIR",
	  .help = "A runtime of your own: the folder of its recipe." },
	{ .name = NULL },
};

/** exe_dir: directory of this program; heap. */
static char *exe_dir(void)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (n <= 0)
		return NULL;
	path[n] = '\0';
	char *slash = strrchr(path, '/');

	*slash = '\0';
	return str_dup(str_from(path));
}

/** What is built; all heap. */
struct source {
	char *script;
	char *folder;
	char *programs; /* where built programs are that go into the image */
};

static void source_done(struct source *s)
{
	free(s->script);
	free(s->folder);
	free(s->programs);
	*s = (struct source){ 0 };
}

/** runtimes_dir: where the build script and the runtimes are; heap. BIVOUAC_DATADIR, else where it
 * was installed, else beside the program. */
static char *runtimes_dir(struct err *e)
{
	const char *env = getenv("BIVOUAC_DATADIR");
	OWNED_MEM char *exe = exe_dir();
	OWNED_MEM char *beside = str_printf("%s/..", exe ? exe : ".");
	const char *places[] = { env,
#ifdef BIVOUAC_DATADIR
				 BIVOUAC_DATADIR,
#endif
				 beside };

	for (size_t i = 0; i < ARRAY_LEN(places); i++) {
		if (!places[i] || !*places[i])
			continue;
		OWNED_MEM char *dir = str_printf("%s/runtimes", places[i]);
		OWNED_MEM char *script = str_printf("%s/runtimes/" SCRIPT, places[i]);

		if (dir && script && !access(script, R_OK))
			return take_ptr(dir);
		/* What was named is meant: no silent fall-back to another copy. */
		if (places[i] == env)
			break;
	}
	err_set(e, ERR_NOT_FOUND, "no build script runtimes/" SCRIPT " (BIVOUAC_DATADIR=%s)",
		env && *env ? env : "unset");
	return NULL;
}

static int source_of_folder(struct source *ret, const char *runtimes, const char *folder,
			    struct err *e)
{
	OWNED_MEM char *recipe = str_printf("%s/recipe", folder);

	if (!recipe || access(recipe, R_OK))
		return err_set(e, ERR_NOT_FOUND, "%s is not a runtime: it has no recipe", folder);
	ret->script = str_printf("%s/" SCRIPT, runtimes);
	ret->folder = str_dup(str_from(folder));
	ret->programs = exe_dir();
	if (ret->script && ret->folder && ret->programs)
		return 0;
	source_done(ret);
	return err_set(e, ERR_NOMEM, "out of memory");
}

static int source_of_runtime(struct source *ret, const char *runtime, struct err *e)
{
	if (!*runtime ||
	    strspn(runtime, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(runtime))
		return err_set(e, ERR_INVALID, "--runtime: '%s' is not a runtime's name", runtime);
	OWNED_MEM char *dir = runtimes_dir(e);
	OWNED_MEM char *folder = dir ? str_printf("%s/%s", dir, runtime) : NULL;

	return folder ? source_of_folder(ret, dir, folder, e) : -1;
}

struct build {
	int output_fd; /* the script's stdout and stderr */
	int progress_fd;
	struct buf line;   /* the progress line that is not complete yet */
	struct buf tail;   /* last output, for when it fails */
	bool pass_through; /* show the output as it comes */
	struct progress progress;
};

static void progress_line(struct build *b, const char *line)
{
	static const char prefix[] = "BIVOUAC-PROGRESS ";
	char *text;

	if (strncmp(line, prefix, sizeof(prefix) - 1) != 0)
		return;
	long percent = strtol(line + sizeof(prefix) - 1, &text, 10);

	if (percent < 0 || percent > 100)
		return;
	text += strspn(text, " ");
	if (b->progress.tty)
		progress_percent(&b->progress, (int)percent, text);
	else if (b->progress.label)
		fprintf(stderr, "%3ld%% %s\n", percent, text);
}

/** progress_read: complete lines are shown; false at the end. */
static bool progress_read(struct build *b)
{
	char chunk[1024];
	ssize_t n = read(b->progress_fd, chunk, sizeof(chunk));

	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0)
		return false;
	for (ssize_t i = 0; i < n; i++) {
		if (chunk[i] != '\n') {
			buf_add(&b->line, &chunk[i], 1);
			continue;
		}
		if (buf_ok(&b->line) && b->line.len)
			progress_line(b, b->line.ptr);
		buf_clear(&b->line);
	}
	return true;
}

static bool output_read(struct build *b)
{
	char chunk[4096];
	ssize_t n = read(b->output_fd, chunk, sizeof(chunk));

	if (n < 0 && errno == EINTR)
		return true;
	if (n <= 0)
		return false;
	if (b->pass_through) {
		fwrite(chunk, 1, (size_t)n, stderr);
		return true;
	}
	if (b->tail.len + (size_t)n > TAIL_MAX)
		buf_consume(&b->tail, b->tail.len + (size_t)n - TAIL_MAX);
	buf_add(&b->tail, chunk, (size_t)n);
	return true;
}

/** script_start: SCRIPT FOLDER with two more arguments; stdout and stderr to out_fd, descriptor 3
 * to progress_fd (-1: none). */
static pid_t script_start(const struct source *s, const char *arg1, const char *arg2, int out_fd,
			  int err_fd, int progress_fd, struct err *e)
{
	pid_t pid = fork();

	if (pid < 0)
		err_sys(e, "fork");
	if (pid)
		return pid;
	if (dup2(out_fd, STDOUT_FILENO) < 0 || (err_fd >= 0 && dup2(err_fd, STDERR_FILENO) < 0))
		_exit(127);
	/* dup2 onto itself would keep close-on-exec. */
	if (progress_fd == PROGRESS_FD)
		fcntl(progress_fd, F_SETFD, 0);
	else if (progress_fd >= 0 && dup2(progress_fd, PROGRESS_FD) < 0)
		_exit(127);
	signal(SIGPIPE, SIG_DFL);
	execl("/bin/bash", "bash", s->script, s->folder, "--programs", s->programs, arg1, arg2,
	      (char *)NULL);
	_exit(127);
}

static int script_wait(pid_t pid, const char *script, struct err *e)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return err_sys(e, "waitpid");
	if (WIFSIGNALED(status))
		return err_set(e, ERR_SYSTEM, "%s was ended by signal %d", script,
			       WTERMSIG(status));
	if (WEXITSTATUS(status))
		return err_set(e, ERR_SYSTEM, "%s ended with status %d", script,
			       WEXITSTATUS(status));
	return 0;
}

static bool is_id(const char *text)
{
	return strlen(text) == ID_LEN && strspn(text, "0123456789abcdef") == ID_LEN;
}

/** script_ask: one line that the script prints. */
static int script_ask(const struct source *s, const char *question, char *ret, size_t size,
		      struct err *e)
{
	int pipe_fds[2];
	size_t len = 0;
	ssize_t n;

	if (pipe2(pipe_fds, O_CLOEXEC))
		return err_sys(e, "pipe");
	OWNED_FD int read_fd = pipe_fds[0];
	OWNED_FD int write_fd = pipe_fds[1];
	pid_t pid = script_start(s, question, NULL, write_fd, -1, -1, e);

	if (pid < 0)
		return -1;
	close_fd(&write_fd);
	while (len < size - 1 && (n = read(read_fd, ret + len, size - 1 - len)) > 0)
		len += (size_t)n;
	close_fd(&read_fd);
	if (script_wait(pid, s->script, e))
		return -1;
	ret[len] = '\0';
	ret[strcspn(ret, "\n")] = '\0';
	return 0;
}

/** script_id: which image the script would build. */
static int script_id(const struct source *s, char ret[static ID_LEN + 1], struct err *e)
{
	char text[ID_LEN + 2];

	if (script_ask(s, "--id", text, sizeof(text), e))
		return -1;
	if (!is_id(text))
		return err_set(e, ERR_PROTOCOL, "%s --id does not print an image id", s->script);
	strcpy(ret, text);
	return 0;
}

static void build_pump(struct build *b)
{
	struct pollfd fds[2] = { { .fd = b->output_fd, .events = POLLIN },
				 { .fd = b->progress_fd, .events = POLLIN } };

	/* The output's end is the build's end; a forgotten child may keep the progress pipe. */
	while (fds[0].fd >= 0) {
		if (poll(fds, 2, -1) < 0 && errno != EINTR)
			return;
		if (fds[1].revents && !progress_read(b))
			fds[1].fd = -1;
		if (fds[0].revents && !output_read(b))
			fds[0].fd = -1;
	}
}

static int build_run(struct cli *cli, const struct source *s, const char *dir, struct err *e)
{
	struct build b = { .output_fd = -1 };
	int out[2], progress[2];

	if (pipe2(out, O_CLOEXEC))
		return err_sys(e, "pipe");
	OWNED_FD int out_read = out[0];
	OWNED_FD int out_write = out[1];

	if (pipe2(progress, O_CLOEXEC))
		return err_sys(e, "pipe");
	OWNED_FD int progress_read_fd = progress[0];
	OWNED_FD int progress_write = progress[1];
	pid_t pid = script_start(s, "--out", dir, out_write, out_write, progress_write, e);

	if (pid < 0)
		return -1;
	close_fd(&out_write);
	close_fd(&progress_write);
	b.output_fd = out_read;
	b.progress_fd = progress_read_fd;
	buf_init(&b.line, 1024);
	buf_init(&b.tail, TAIL_MAX);
	progress_init(&b.progress, cli->only_errors ? NULL : "Building");
	b.pass_through = cli->client.trace;
	if (b.pass_through)
		b.progress.tty = false;
	build_pump(&b);
	progress_done(&b.progress);
	int rc = script_wait(pid, s->script, e);

	if (rc && b.tail.len)
		fwrite(b.tail.ptr, 1, b.tail.len, stderr);
	buf_done(&b.line);
	buf_done(&b.tail);
	return rc;
}

/** image_entry: what is known about DIR/ID; NULL if it is no image. */
static json_t *image_entry(const char *dir, const char *id)
{
	OWNED_MEM char *path = str_printf("%s/%s", dir, id);
	OWNED_MEM char *rootfs = str_printf("%s/%s/rootfs", dir, id);
	char created[CLOCK_TEXT_SIZE];
	struct stat st;

	if (!path || !rootfs || !is_id(id) || stat(rootfs, &st) || !S_ISDIR(st.st_mode) ||
	    stat(path, &st))
		return NULL;
	int64_t us = (int64_t)st.st_mtim.tv_sec * 1000000 + st.st_mtim.tv_nsec / 1000;

	return json_pack("{ssssssss}", "id", id, "createdAt", clock_format(us, created), "path",
			 path, "rootfs", rootfs);
}

/** source_build: builds one image; *ret is what is known about it then. */
static int source_build(struct cli *cli, const struct source *s, const char *dir, json_t **ret,
			struct err *e)
{
	char id[ID_LEN + 1], name[64];

	if (script_id(s, id, e) || script_ask(s, "--name", name, sizeof(name), e) ||
	    build_run(cli, s, dir, e))
		return -1;
	json_t *image = image_entry(dir, id);

	if (!image)
		return err_set(e, ERR_INTERNAL, "%s ended well but %s/%s/rootfs is not there",
			       s->script, dir, id);
	json_object_set_new(image, "runtime", json_string(name));
	*ret = image;
	return 0;
}

/** build_foreign: a runtime that did not come with Bivouac; daemons find its image by the file
 * that is written here. */
static int build_foreign(struct cli *cli, const char *folder, const char *dir, json_t **ret,
			 struct err *e)
{
	struct source s = { 0 };
	OWNED_MEM char *runtimes = runtimes_dir(e);
	int rc = runtimes ? source_of_folder(&s, runtimes, folder, e) : -1;

	if (rc == 0)
		rc = source_build(cli, &s, dir, ret, e);
	source_done(&s);
	if (rc < 0)
		return -1;
	OWNED_MEM char *path = str_printf("%s/%s.image-id", dir,
					  json_string_value(json_object_get(*ret, "runtime")));
	OWNED_MEM char *line = str_printf("%s\n", json_string_value(json_object_get(*ret, "id")));

	if (path && line)
		rc = fd_write_file(AT_FDCWD, path, line, strlen(line), 0644, e);
	if (rc < 0 || !path || !line) {
		json_decref(*ret);
		return rc < 0 ? -1 : err_set(e, ERR_NOMEM, "out of memory");
	}
	return 0;
}

static int build_runtime(struct cli *cli, const char *runtime, const char *dir, json_t **ret,
			 struct err *e)
{
	struct source s = { 0 };

	if (source_of_runtime(&s, runtime, e))
		return -1;
	int rc = source_build(cli, &s, dir, ret, e);

	source_done(&s);
	return rc;
}

/** build_all: every folder below runtimes/ that has a recipe, in order of their names. */
static int build_all(struct cli *cli, const char *dir, json_t **ret, struct err *e)
{
	OWNED_MEM char *runtimes = runtimes_dir(e);
	struct dirent **entries = NULL;
	int count = runtimes ? scandir(runtimes, &entries, NULL, alphasort) : -1;
	json_t *images = json_array();
	int rc = count < 0 ? -1 : 0;

	for (int i = 0; i < count; i++) {
		OWNED_MEM char *recipe = str_printf("%s/%s/recipe", runtimes, entries[i]->d_name);
		json_t *image = NULL;

		if (rc == 0 && entries[i]->d_name[0] != '.' && recipe && !access(recipe, R_OK)) {
			rc = build_runtime(cli, entries[i]->d_name, dir, &image, e);
			if (rc == 0)
				json_array_append_new(images, image);
		}
		free(entries[i]);
	}
	free(entries);
	if (rc == 0)
		*ret = images;
	else
		json_decref(images);
	return rc;
}

static int run_build(struct cli *cli, struct err *e)
{
	const char *dir = args_text(&cli->args, "image-dir");
	const char *runtime = args_text(&cli->args, "runtime");
	const char *from = args_text(&cli->args, "from");
	json_t *built = NULL;
	int rc;

	if (from && args_given(&cli->args, "runtime"))
		return err_set(e, ERR_INVALID, "--from and --runtime exclude each other");
	if (fd_mkdirs(dir, 0755, e))
		return -1;
	if (from)
		rc = build_foreign(cli, from, dir, &built, e);
	else if (strcmp(runtime, "all") == 0)
		rc = build_all(cli, dir, &built, e);
	else
		rc = build_runtime(cli, runtime, dir, &built, e);
	if (rc)
		return -1;
	rc = output_json(&cli->output, built, e);
	json_decref(built);
	return rc;
}

static int run_list(struct cli *cli, struct err *e)
{
	const char *dir = args_text(&cli->args, "image-dir");
	json_t *images = json_array();
	DIR *d = opendir(dir);
	struct dirent *entry;

	if (!d && errno != ENOENT) {
		json_decref(images);
		return err_sys(e, "open %s", dir);
	}
	while (d && (entry = readdir(d))) {
		json_t *image = image_entry(dir, entry->d_name);

		if (image)
			json_array_append_new(images, image);
	}
	if (d)
		closedir(d);
	int rc = output_json(&cli->output, images, e);

	json_decref(images);
	return rc;
}

static int run_path(struct cli *cli, struct err *e)
{
	const char *dir = args_text(&cli->args, "image-dir");
	const char *runtime = args_text(&cli->args, "runtime");
	struct source source = { 0 };
	char id[ID_LEN + 1];
	int rc = source_of_runtime(&source, runtime, e);

	if (rc == 0)
		rc = script_id(&source, id, e);
	source_done(&source);
	if (rc)
		return -1;
	json_t *image = image_entry(dir, id);

	if (!image)
		return err_set(e, ERR_NOT_FOUND,
			       "the %s image is not built: run 'bivouac image build --runtime %s'",
			       runtime, runtime);
	/* Bare, so that $(bivouac image path) works. */
	if (cli->output.format_given)
		rc = output_json(&cli->output, image, e);
	else if (puts(json_string_value(json_object_get(image, "rootfs"))) < 0)
		rc = err_sys(e, "writing the path");
	json_decref(image);
	return rc;
}

static const struct cli_verb verbs[] = {
	{ .name = "build",
	  .summary = "Build images of runtimes on this machine (needs root).",
	  .flags = { flags_build, flags_dir },
	  .run = run_build },
	{ .name = "list",
	  .summary = "List built images.",
	  .flags = { flags_dir },
	  .run = run_list },
	{ .name = "path",
	  .summary = "Print the root directory of a runtime's current image.",
	  .flags = { flags_runtime, flags_dir },
	  .run = run_path },
	{ .name = NULL },
};

const struct cli_group cli_group_image = { "image", "Images of runtimes", verbs };
