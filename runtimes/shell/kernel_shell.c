/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_shell.h"

#include "base/buf.h"
#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define BASH      "/bin/bash"
#define LINE_MAX_ 1024
/** A state larger than this is no longer written after each command, only when bash exits. */
#define STATE_MAX (256 << 10)
#define STATE_END "#end\n"

/*
 * Sourced by bash with the file to write as $1. Within a function (an exit in it, an interrupt) its
 * local variables hide the global ones, and nothing tells them apart: then only directory, functions
 * and options are of that moment, the variables those of the last finished command.
 *
 * The text it writes is sourced by the next bash, with an argument if options are wanted. extglob
 * while functions are read, because their patterns may need it; aliases behind functions, because
 * they would be expanded in them again.
 */
static const char script[] =
	"{\n"
	"if [[ ${FUNCNAME[1]-} ]]; then builtin printf 'builtin . /proc/%1$d/fd/%2$d\\n'\n"
	"else builtin declare -p; fi\n"
	"builtin printf 'builtin cd -- %%q||builtin cd -P .\\n' \"${PWD-}\"\n"
	"builtin umask -p\n"
	"builtin printf 'builtin shopt -s extglob\\n'\n"
	"builtin declare -f\n"
	"builtin declare -F\n"
	"builtin printf 'builtin shopt -u extglob\\n'\n"
	"builtin alias -p\n"
	"builtin printf '[[ ${1-} ]]||builtin return 0\\n'\n"
	"builtin shopt -p\n"
	"builtin shopt -po\n"
	"builtin printf '" "#end" "\\n'\n"
	"} >\"$1\" 2>/dev/null\n";

static int memory_file(const char *name)
{
	return memfd_create(name, MFD_CLOEXEC);
}

static int write_all_at(int fd, const char *data, size_t len, off_t at)
{
	while (len) {
		ssize_t n = pwrite(fd, data, len, at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		data += n;
		len -= (size_t)n;
		at += n;
	}
	return 0;
}

int shell_init(struct shell *s)
{
	char text[sizeof(script) + 64];

	*s = (struct shell){ .ctl_fd = -1, .dir = "" };
	s->code_fd = memory_file("command");
	s->script_fd = memory_file("script");
	s->base_fd = memory_file("state");
	s->next_fd = memory_file("state-next");
	s->exit_fd = memory_file("state-exit");
	if (s->code_fd < 0 || s->script_fd < 0 || s->base_fd < 0 || s->next_fd < 0 ||
	    s->exit_fd < 0)
		return -1;
	int len = snprintf(text, sizeof(text), script, getpid(), s->base_fd);

	return write_all_at(s->script_fd, text, (size_t)len, 0);
}

/* Whether a state was written to its end. */
static bool is_whole(int fd, off_t *ret_size)
{
	static const char end[] = STATE_END;
	char tail[sizeof(end) - 1];
	struct stat st;

	if (fstat(fd, &st) < 0 || st.st_size < (off_t)sizeof(tail) ||
	    pread(fd, tail, sizeof(tail), st.st_size - (off_t)sizeof(tail)) !=
		    (ssize_t)sizeof(tail))
		return false;
	*ret_size = st.st_size;
	return memcmp(tail, end, sizeof(tail)) == 0;
}

static int copy_file(int from, int to, off_t size)
{
	char chunk[16384];
	off_t at = 0;

	if (ftruncate(to, 0) < 0)
		return -1;
	while (at < size) {
		ssize_t n = pread(from, chunk, sizeof(chunk), at);

		if (n <= 0 || write_all_at(to, chunk, (size_t)n, at) < 0)
			return -1;
		at += n;
	}
	return 0;
}

/* The state of a command that has finished becomes the one to fall back to. */
static void keep_state(struct shell *s)
{
	off_t size;

	if (!is_whole(s->next_fd, &size))
		return;
	if (size > STATE_MAX)
		s->large = true;
	else
		s->has_base = copy_file(s->next_fd, s->base_fd, size) == 0;
	ftruncate(s->next_fd, 0);
}

/* In its own message, so that the socket tells when bash has read exactly this. */
static int send_line(struct shell *s, const char *line, int len)
{
	if (len <= 0 || len >= LINE_MAX_)
		return -1;
	return send(s->ctl_fd, line, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT) == len ? 0 : -1;
}

/* The rest of every batch: write down the state and say so. The empty line is what bash reads when
 * it is through with all of this, whatever became of it. */
static int send_epilogue(struct shell *s)
{
	char line[LINE_MAX_];
	int pid = getpid();
	int len = s->large ? snprintf(line, sizeof(line), "builtin printf d >&0\n")
			   : snprintf(line, sizeof(line),
				      "builtin . /proc/%d/fd/%d /proc/%d/fd/%d||LINENO=0;"
				      "builtin printf d >&0\n",
				      pid, s->script_fd, pid, s->next_fd);

	if (send_line(s, line, len) < 0)
		return -1;
	return send_line(s, "\n", 1);
}

static void become_bash(const struct shell *s, int sock, bool state)
{
	static const char *const argv[] = { "bash", "--noprofile", "--norc", NULL };
	static char *const nothing[] = { NULL };
	sigset_t none;
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	sigemptyset(&none);
	if (null_fd < 0 || dup2(sock, 0) < 0 || dup2(null_fd, 1) < 0 || dup2(null_fd, 2) < 0 ||
	    sigprocmask(SIG_SETMASK, &none, NULL) < 0)
		_exit(126);
	/* A directory that is gone leaves it where the driver is. */
	if (s->dir[0])
		(void)!chdir(s->dir);
	/* With a state the environment comes from it alone: what was unset stays unset. */
	execve(BASH, (char *const *)argv, state ? nothing : environ);
	_exit(127);
}

int shell_start(struct shell *s, bool state, bool options)
{
	char line[LINE_MAX_] = "";
	int pair[2];
	int pid = getpid();
	int from_fd = s->has_exit ? s->exit_fd : s->base_fd;

	state = state && (s->has_exit || s->has_base);
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	s->pid = fork();
	if (s->pid == 0)
		become_bash(s, pair[1], state);
	close(pair[1]);
	s->ctl_fd = pair[0];
	if (s->pid < 0) {
		close_fd(&s->ctl_fd);
		s->pid = 0;
		return -1;
	}
	s->state = SHELL_BUSY;
	s->report_len = 0;
	s->large = false;
	int len = state ? snprintf(line, sizeof(line), "builtin . /proc/%d/fd/%d %s\n", pid,
				   from_fd, options ? "options" : "")
			: snprintf(line, sizeof(line), "\n");

	if (send_line(s, line, len) < 0)
		return -1;
	len = snprintf(line, sizeof(line),
		       "builtin trap 'builtin . /proc/%d/fd/%d /proc/%d/fd/%d 2>/dev/null' EXIT;"
		       "builtin trap 'builtin exit 130' INT\n",
		       pid, s->script_fd, pid, s->exit_fd);
	if (send_line(s, line, len) < 0)
		return -1;
	return send_epilogue(s);
}

static int send_command(struct shell *s, bool is_argv)
{
	char line[LINE_MAX_];
	int pid = getpid();
	int len;

	/*
	 * SECURITY: the command is data: bash reads it out of a file into a variable and evaluates
	 * that. The variable is gone before the command's first line, which is line 1; if it is
	 * still there afterwards, the command never began.
	 */
	if (!is_argv) {
		len = snprintf(line, sizeof(line),
			       "builtin mapfile -d '' BIVOUAC_COMMAND </proc/%d/fd/%d||"
			       "BIVOUAC_COMMAND=;LINENO=0;builtin eval \"$BIVOUAC_COMMAND\" "
			       "</dev/null >/proc/%d/fd/1 2>/proc/%d/fd/2\n",
			       pid, s->code_fd, pid, pid);
		if (send_line(s, line, len) < 0)
			return -1;
		len = snprintf(line, sizeof(line),
			       "builtin printf 's%%s;' \"$?${BIVOUAC_COMMAND+!}\" >&0\n");
		return send_line(s, line, len);
	}
	/* bash gives the program environment, directory and parent, but does not see its words. A
	 * condition, as `set -e` is not about it. */
	len = snprintf(line, sizeof(line),
		       "if { /proc/%d/exe %d %d;} </dev/null >/proc/%d/fd/1 2>/proc/%d/fd/2;"
		       "then builtin printf 's0;' >&0;else builtin printf 's%%s;' \"$?\" >&0;fi\n",
		       pid, pid, s->code_fd, pid, pid);
	return send_line(s, line, len);
}

int shell_run(struct shell *s, struct str code, bool is_argv)
{
	static const char head[] = "builtin unset -v BIVOUAC_COMMAND\n";
	off_t at = 0;

	if (ftruncate(s->code_fd, 0) < 0)
		return -1;
	if (!is_argv) {
		if (write_all_at(s->code_fd, head, sizeof(head) - 1, 0) < 0)
			return -1;
		at = sizeof(head) - 1;
	}
	if (write_all_at(s->code_fd, code.ptr, code.len, at) < 0)
		return -1;
	at += (off_t)code.len;
	/* A newline that ends the last line, and the end that mapfile looks for. */
	if (!is_argv && write_all_at(s->code_fd, "\n", 2, at) < 0)
		return -1;
	ftruncate(s->exit_fd, 0);
	if (send_command(s, is_argv) < 0 || send_epilogue(s) < 0)
		return -1;
	s->state = SHELL_RUNNING;
	return 0;
}

static void remember_dir(struct shell *s)
{
	char path[64], dir[PATH_MAX];

	snprintf(path, sizeof(path), "/proc/%d/cwd", s->pid);
	ssize_t n = readlink(path, dir, sizeof(dir) - 1);

	if (n > 0) {
		dir[n] = '\0';
		memcpy(s->dir, dir, (size_t)n + 1);
	}
}

/* Consumes the first report: "s<code>;", "s<code>!;" (the command never began) or "d". */
static enum shell_event parse_report(struct shell *s)
{
	char *end = memchr(s->report, ';', s->report_len);
	size_t used = 1;
	enum shell_event event = SHELL_BROKEN;

	if (!s->report_len)
		return SHELL_NOTHING;
	if (s->report[0] == 'd' && s->state == SHELL_BUSY) {
		s->state = SHELL_IDLE;
		event = SHELL_READY;
		keep_state(s);
	} else if (s->report[0] == 's' && s->state == SHELL_RUNNING) {
		uint64_t code;

		if (!end)
			return s->report_len < SHELL_REPORT_MAX ? SHELL_NOTHING : SHELL_BROKEN;
		used = (size_t)(end - s->report) + 1;
		if (str_to_u64((struct str){ s->report + 1, used - 2 }, 255, &code)) {
			s->exit_code = (int)code;
			s->state = SHELL_BUSY;
			event = SHELL_FINISHED;
			remember_dir(s);
			ftruncate(s->code_fd, 0);
		}
	}
	s->report_len -= used;
	memmove(s->report, s->report + used, s->report_len);
	return event;
}

enum shell_event shell_take(struct shell *s)
{
	int unread = 0;

	if (s->ctl_fd < 0)
		return SHELL_NOTHING;
	/*
	 * Before the reports are read: when bash has read its last line and has not reported by
	 * now, it never will (`set -n`, a function named builtin, no descriptor left).
	 */
	bool through = ioctl(s->ctl_fd, SIOCOUTQ, &unread) == 0 && unread == 0;
	ssize_t n = recv(s->ctl_fd, s->report + s->report_len, SHELL_REPORT_MAX - s->report_len,
			 MSG_DONTWAIT);

	/* Otherwise it has closed its end: it exits, or became another program. */
	bool starved = n < 0 && errno == EAGAIN;

	if (n > 0)
		s->report_len += (size_t)n;
	enum shell_event event = parse_report(s);

	if (event == SHELL_NOTHING && through && starved &&
	    (s->state == SHELL_BUSY || s->state == SHELL_RUNNING))
		return SHELL_BROKEN;
	return event;
}

static void forget(struct shell *s)
{
	close_fd(&s->ctl_fd);
	s->pid = 0;
	s->state = SHELL_DOWN;
	ftruncate(s->code_fd, 0);
}

enum shell_event shell_reap(struct shell *s)
{
	int status;
	off_t size;
	pid_t pid = s->pid > 0 ? waitpid(s->pid, &status, WNOHANG) : 0;

	if (pid <= 0 || pid != s->pid)
		return SHELL_NOTHING;
	s->exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
	s->has_exit = is_whole(s->exit_fd, &size);
	forget(s);
	return SHELL_ENDED;
}

void shell_kill(struct shell *s)
{
	if (s->pid > 0) {
		kill(s->pid, SIGKILL);
		while (waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	forget(s);
}
