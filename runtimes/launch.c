/* SPDX-License-Identifier: Apache-2.0 */
#include "launch.h"

#include "base/fdio.h"
#include "base/kernel_proto.h"
#include "base/own.h"
#include "base/wire.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ENTROPY_MAX  4096
#define TERM_DEFAULT "xterm-256color"
#define HOME         "/home/session"

/* What runtimes/python sets for its kernels, but for what concerns Python alone. */
static const char *const fixed_environment[] = {
	"PATH=" HOME "/.local/bin:/usr/local/bin:/usr/bin:/bin",
	"HOME=" HOME,
	"USER=session",
	"LOGNAME=session",
	"LANG=C.UTF-8",
	"PAGER=cat",
	"GIT_PAGER=cat",
};

/* The session's memory in words. */

struct memory_share {
	struct str before, after; /* in the word */
	unsigned percent;         /* 0: the word has none */
};

static int find_share(const char *word, struct memory_share *ret, struct err *e)
{
	const char *at = strstr(word, LAUNCH_MEMORY);
	const char *end = at ? strchr(at, '}') : NULL;
	uint64_t percent = 0;

	*ret = (struct memory_share){ 0 };
	if (!at)
		return 0;
	const char *number = at + sizeof(LAUNCH_MEMORY) - 1;

	if (!end || !str_to_u64((struct str){ number, (size_t)(end - number) }, 100, &percent) ||
	    !percent || strstr(end, LAUNCH_MEMORY))
		return err_set(e, ERR_INVALID,
			       "'%.80s': it is " LAUNCH_MEMORY "1} to " LAUNCH_MEMORY
			       "100}, once in a word",
			       word);
	*ret = (struct memory_share){ .before = { word, (size_t)(at - word) },
				      .after = str_from(end + 1),
				      .percent = (unsigned)percent };
	return 0;
}

/* 0: nobody says. */
static uint64_t session_mib(void)
{
	struct rlimit limit;

	return getrlimit(RLIMIT_RSS, &limit) < 0 || limit.rlim_max == RLIM_INFINITY
		       ? 0
		       : limit.rlim_max >> 20;
}

/* The program's arguments with their shares filled in. What is made here lasts until exec. */
static int fill_shares(char *argv[static LAUNCH_WORDS_MAX + 1], struct err *e)
{
	uint64_t mib = session_mib();
	size_t kept = 1;

	for (size_t i = 1; argv[i]; i++) {
		struct memory_share share;

		if (find_share(argv[i], &share, e) < 0)
			return -1;
		if (share.percent && !mib)
			continue;
		argv[kept] = !share.percent
				     ? argv[i]
				     : str_printf("%.*s%" PRIu64 "%.*s", STR_ARG(share.before),
						  mib * share.percent / 100, STR_ARG(share.after));
		if (!argv[kept++])
			return err_set(e, ERR_NOMEM, "words: out of memory");
	}
	argv[kept] = NULL;
	return 0;
}

/* The recipe. */

/* Cuts words apart in place. forks: they may stand for a kernel that no program is started for. */
static int split_words(struct str value, char **argv, const char *key, bool forks, struct err *e)
{
	struct memory_share share;
	size_t count = 0;

	for (struct str word; (word = recipe_word(&value)).len;) {
		if (count == LAUNCH_WORDS_MAX)
			return err_set(e, ERR_INVALID, "%s has more than %d words", key,
				       LAUNCH_WORDS_MAX);
		char *start = (char *)word.ptr;

		if (value.len)
			value = (struct str){ value.ptr + 1, value.len - 1 };
		start[word.len] = '\0';
		if (find_share(start, &share, e) < 0)
			return err_wrap(e, "%s", key);
		if (share.percent && !count)
			return err_set(e, ERR_INVALID, "%s: '%.80s' cannot be a program", key,
				       start);
		argv[count++] = start;
	}
	argv[count] = NULL;
	if (!count)
		return err_set(e, ERR_INVALID, "%s names no program", key);
	if (argv[0][0] != '/' && !(forks && strcmp(argv[0], RECIPE_OWN_INTERPRETER) == 0))
		return err_set(e, ERR_INVALID, "%s: '%.80s' is not an absolute path", key, argv[0]);
	return 0;
}

static int add_program(struct launch_plan *plan, struct str value, struct err *e)
{
	struct str name = recipe_word(&value);
	struct launch_program *p = &plan->programs[plan->program_count];

	if (!recipe_language_ok(name) || str_eq(name, STR(RECIPE_TERMINAL)))
		return err_set(e, ERR_INVALID, "kernel: '%.*s' cannot be a language",
			       (int)(name.len < 80 ? name.len : 80), name.ptr);
	if (plan->program_count == LAUNCH_LANGUAGES_MAX)
		return err_set(e, ERR_INVALID, "more than %d kernels", LAUNCH_LANGUAGES_MAX);
	str_copy(name, p->language, sizeof(p->language));
	for (size_t i = 0; i < plan->program_count; i++)
		if (strcmp(plan->programs[i].language, p->language) == 0)
			return err_set(e, ERR_INVALID, "kernel: language '%s' comes twice",
				       p->language);
	if (split_words(value, p->argv, "kernel", true, e) < 0)
		return -1;
	plan->program_count++;
	return 0;
}

static int set_terminal(struct launch_plan *plan, struct str value, struct err *e)
{
	if (plan->terminal[0])
		return err_set(e, ERR_INVALID, "terminal comes twice");
	return split_words(value, plan->terminal, "terminal", false, e);
}

static bool is_variable(struct str s)
{
	const char *equals = memchr(s.ptr, '=', s.len);
	size_t len = equals ? (size_t)(equals - s.ptr) : 0;

	for (size_t i = 0; i < len; i++) {
		char c = s.ptr[i];

		if (!((c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_' ||
		      (i && c >= '0' && c <= '9')))
			return false;
	}
	return len > 0;
}

static int add_variable(struct launch_plan *plan, struct str value, struct err *e)
{
	if (!is_variable(value))
		return err_set(e, ERR_INVALID, "environment is NAME=value");
	if (plan->environment_count == LAUNCH_ENV_MAX)
		return err_set(e, ERR_INVALID, "more than %d lines of environment", LAUNCH_ENV_MAX);
	char *text = (char *)value.ptr;

	text[value.len] = '\0';
	plan->environment[plan->environment_count++] = text;
	return 0;
}

static int parse_line(struct launch_plan *plan, struct str key, struct str value, struct err *e)
{
	if (str_eq(key, STR("kernel")))
		return add_program(plan, value, e);
	if (str_eq(key, STR("terminal")))
		return set_terminal(plan, value, e);
	if (str_eq(key, STR("environment")))
		return add_variable(plan, value, e);
	return 0;
}

static size_t line_at(struct str text, size_t at)
{
	size_t line = 1;

	for (size_t i = 0; i < at; i++)
		line += text.ptr[i] == '\n';
	return line;
}

int launch_parse(struct launch_plan *plan, struct str recipe, struct err *e)
{
	if (recipe.len > RECIPE_MAX)
		return err_set(e, ERR_TOO_LARGE, "recipe: more than %u bytes", RECIPE_MAX);
	*plan = (struct launch_plan){ 0 };
	memcpy(plan->text, recipe.ptr, recipe.len);
	struct str rest = { plan->text, recipe.len }, key, value;

	while (recipe_next(&rest, &key, &value))
		if (parse_line(plan, key, value, e) < 0)
			return err_wrap(e, "recipe:%zu",
					line_at(recipe, (size_t)(key.ptr - plan->text)));
	return plan->program_count ? 0 : err_set(e, ERR_INVALID, "recipe: no kernel");
}

char *const *launch_find(const struct launch_plan *plan, const char *language, struct err *e)
{
	char *const *argv = NULL;

	if (strcmp(language, RECIPE_TERMINAL) == 0) {
		argv = plan->terminal;
	} else {
		for (size_t i = 0; i < plan->program_count && !argv; i++)
			if (!*language || strcmp(plan->programs[i].language, language) == 0)
				argv = plan->programs[i].argv;
	}
	if (argv && argv[0] && argv[0][0] == '/')
		return argv;
	if (argv == plan->terminal)
		err_set(e, ERR_INVALID, "this image has no terminals");
	else
		err_set(e, ERR_INVALID, "this image starts no program for language '%s'", language);
	return NULL;
}

/* The first frame. */

struct first_frame {
	uint8_t type;
	struct buf payload;
	int fds[2];
	size_t fd_count;
};

/* Exactly len bytes; descriptors on the way are kept. */
static int read_exactly(int sock, void *to, size_t len, struct first_frame *f, struct err *e)
{
	for (size_t have = 0; have < len;) {
		int fds[FDS_MAX];
		size_t count = FDS_MAX;
		ssize_t n = fd_recv(sock, (char *)to + have, len - have, fds, &count);

		if (n < 0)
			return err_sys(e, "read from the agent");
		if (n == 0)
			return err_set(e, ERR_PROTOCOL, "the agent closed the socket");
		have += (size_t)n;
		for (size_t i = 0; i < count; i++) {
			if (f->fd_count == ARRAY_LEN(f->fds))
				return err_set(e, ERR_PROTOCOL, "more descriptors than expected");
			f->fds[f->fd_count++] = fds[i];
		}
	}
	return 0;
}

static int read_first(int sock, struct first_frame *f, struct err *e)
{
	unsigned char header[KERNEL_HEADER_SIZE];
	size_t max = LAUNCH_COMMAND_MAX + LAUNCH_TERM_MAX + 8;

	buf_init(&f->payload, max + 1);
	if (read_exactly(sock, header, sizeof(header), f, e) < 0)
		return -1;
	struct wire_reader r = wire_reader(header, sizeof(header));
	uint32_t len = wire_get_u32(&r);

	f->type = wire_get_u8(&r);
	/* SECURITY: the agent may have been taken over; it gets no more memory than this. */
	if (len > max || !buf_reserve(&f->payload, len + 1))
		return err_set(e, ERR_PROTOCOL, "first frame of %u bytes", len);
	if (read_exactly(sock, f->payload.ptr, len, f, e) < 0)
		return -1;
	f->payload.len = len;
	return 0;
}

static int check_type(const struct first_frame *f, uint8_t type, size_t fds, struct err *e)
{
	if (f->type != type || f->fd_count != fds)
		return err_set(e, ERR_PROTOCOL, "first frame of type %u with %zu descriptors",
			       f->type, f->fd_count);
	return 0;
}

/* The new process. */

static int place(const int from[3], struct err *e)
{
	for (int fd = 0; fd < 3; fd++)
		if (from[fd] >= 0 && dup2(from[fd], fd) < 0)
			return err_sys(e, "place descriptors");
	return 0;
}

static void enter_directory(void)
{
	static const char *const choices[] = { "/mnt/data", HOME, "/" };

	for (size_t i = 0; i < ARRAY_LEN(choices); i++)
		if (chdir(choices[i]) == 0)
			return;
}

static int set_environment(const struct launch_plan *plan, const char *term, struct err *e)
{
	clearenv();
	int rc = setenv("TERM", term, 1) |
		 setenv("SHELL", plan->terminal[0] ? plan->terminal[0] : "/bin/sh", 1);

	for (size_t i = 0; i < ARRAY_LEN(fixed_environment); i++)
		rc |= putenv((char *)fixed_environment[i]);
	for (size_t i = 0; i < plan->environment_count; i++)
		rc |= putenv(plan->environment[i]);
	return rc ? err_sys(e, "environment") : 0;
}

/* A kernel: null, two pipes, and the socket as KERNEL_FD. */
static int become_kernel(struct launch_plan *plan, struct first_frame *f, int sock, struct err *e)
{
	struct wire_reader r = wire_reader(f->payload.ptr, f->payload.len);

	wire_get_blob(&r, ENTROPY_MAX);
	if (check_type(f, KERNEL_INIT, 2, e) < 0)
		return -1;
	if (!wire_ok(&r))
		return err_set(e, ERR_PROTOCOL, "malformed INIT");
	if (place((int[]){ -1, f->fds[0], f->fds[1] }, e) < 0)
		return -1;
	/* SECURITY: nothing but these four descriptors is open in the program. */
	if (dup2(sock, KERNEL_FD) < 0 || syscall(SYS_close_range, KERNEL_FD + 1, ~0U, 0) < 0)
		return err_sys(e, "place the socket");
	return set_environment(plan, "dumb", e);
}

static int check_term(struct str term, char ret[static LAUNCH_TERM_MAX + 1], struct err *e)
{
	for (size_t i = 0; i < term.len; i++)
		if (term.ptr[i] <= ' ' || term.ptr[i] > '~')
			return err_set(e, ERR_PROTOCOL, "TERM is not printable");
	if (!str_copy(term.len ? term : STR(TERM_DEFAULT), ret, LAUNCH_TERM_MAX + 1))
		return err_set(e, ERR_PROTOCOL, "TERM of more than %d characters", LAUNCH_TERM_MAX);
	return 0;
}

/* The terminal's first process says that it is there, and is not heard of again. */
static int say_ready(int sock, struct err *e)
{
	struct buf b;

	buf_init(&b, 64);
	wire_put_u32(&b, 4);
	wire_put_u8(&b, KERNEL_READY);
	wire_put_u32(&b, (uint32_t)getpid());
	ssize_t n = buf_ok(&b) ? send(sock, b.ptr, b.len, MSG_NOSIGNAL) : -1;

	buf_done(&b);
	return n < 0 ? err_sys(e, "answer the agent") : 0;
}

/* argv becomes that of the command, if there is one. */
static int become_terminal(struct launch_plan *plan, struct first_frame *f, int sock,
			   char *argv[static LAUNCH_WORDS_MAX + 1], struct err *e)
{
	struct wire_reader r = wire_reader(f->payload.ptr, f->payload.len);
	struct str term = wire_get_blob(&r, LAUNCH_TERM_MAX);
	struct str command = wire_get_blob(&r, LAUNCH_COMMAND_MAX);
	char name[LAUNCH_TERM_MAX + 1];

	if (check_type(f, KERNEL_TERMINAL, 1, e) < 0)
		return -1;
	if (!wire_ok(&r) || memchr(command.ptr, '\0', command.len))
		return err_set(e, ERR_PROTOCOL, "malformed TERMINAL");
	if (check_term(term, name, e) < 0)
		return -1;
	int tty = f->fds[0];

	/* We lead a session of our own (zygote.c), which has no terminal yet. */
	if (ioctl(tty, TIOCSCTTY, 0) < 0)
		return err_sys(e, "make it the controlling terminal");
	if (place((int[]){ tty, tty, tty }, e) < 0 || set_environment(plan, name, e) < 0 ||
	    say_ready(sock, e) < 0)
		return -1;
	if (syscall(SYS_close_range, 3, ~0U, 0) < 0)
		return err_sys(e, "close descriptors");
	if (command.len) {
		/* The payload is followed by a byte that is ours (read_first). */
		((char *)command.ptr)[command.len] = '\0';
		argv[1] = (char *)"-c";
		argv[2] = (char *)command.ptr;
		argv[3] = NULL;
	}
	return 0;
}

int launch_run(struct launch_plan *plan, const char *language, int sock)
{
	struct first_frame f = { 0 };
	struct err e = ERR_INIT;
	char *argv[LAUNCH_WORDS_MAX + 1];
	char *const *program = launch_find(plan, language, &e);
	bool terminal = strcmp(language, RECIPE_TERMINAL) == 0;
	int rc = program ? read_first(sock, &f, &e) : -1;

	if (program)
		memcpy(argv, program, sizeof(argv));
	if (rc == 0)
		rc = fill_shares(argv, &e);
	if (rc == 0)
		rc = terminal ? become_terminal(plan, &f, sock, argv, &e)
			      : become_kernel(plan, &f, sock, &e);
	if (rc == 0) {
		enter_directory();
		execv(argv[0], argv);
		err_sys(&e, "cannot start %s", argv[0]);
	}
	dprintf(STDERR_FILENO, "bivouac: %s\n", e.msg);
	return LAUNCH_FAILED;
}
