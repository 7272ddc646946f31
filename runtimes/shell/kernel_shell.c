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

#define BASH "/bin/bash"
/** A state larger than this is no longer written after each command, only when bash exits. */
#define STATE_MAX (256 << 10)
#define STATE_END "#end\n"

/*
 * Sourced by bash with the file to write as $1. Within a function (an exit in it, an interrupt) its
 * local variables hide the global ones, and nothing tells them apart: then only directory,
 * functions and options are of that moment, the variables those of the last finished command.
 *
 * The text it writes is sourced by the next bash. extglob while functions are read, because their
 * patterns may need it; aliases behind functions, because they would be expanded in them again.
 * `set -eu` goes on with the argument "options" only: a shell that a command has ended must not be
 * followed by one that ends as easily.
 */
static const char script[] =
	"{\n"
	"if [[ ${FUNCNAME[1]-} ]]; then builtin printf 'builtin . /proc/%1$d/fd/%2$d options\\n'; fi\n"
	"builtin printf 'builtin cd -- %%q\\n' \"${PWD-}\"\n"
	"if [[ ! ${FUNCNAME[1]-} ]]; then builtin declare -p; fi\n"
	"builtin printf '[[ . -ef ${PWD-} ]]||builtin cd -P .\\n'\n"
	"builtin umask -p\n"
	"builtin printf 'builtin shopt -s extglob\\n'\n"
	"builtin declare -f\n"
	"builtin declare -F\n"
	"builtin alias -p\n"
	"builtin shopt -p\n"
	"builtin shopt -po\n"
	"builtin printf '[[ ${1-} ]]||builtin set +eu\\n#end\\n'\n"
	"} >\"$1\" 2>/dev/null\n";

/*
 * All that bash gets as script, one line (so that a command's first line is line 1 in messages). It
 * reads tokens from the socket:
 *
 *   e  evaluate the command      x  run it as words, without the shell
 *   s  report its exit code      w  write down the state
 *   r  report ready              n  nothing: read when all before is done
 *
 * A `break` or `continue` of a command that is in no loop of its own is one of this loop: the exit
 * code is still "c" then.
 *
 * Nothing in it trusts what a command left behind. `builtin` passes by functions, redirections are
 * undone after each command, 1 and 2 are /dev/null outside of it (traces of the loop go there). A
 * redirection's last word notes that the command begins. Where the shell executes nothing any more
 * (`set -n`) or has a function named builtin, arithmetic, which is neither, ends the loop, and the
 * expansion error ends the shell. An interrupt ends the command, behind whatever the foreground
 * program makes of the signal; outside of commands it is ignored.
 */
static const char loop[] =
	"%1$s"
	"builtin trap 'BIVOUAC=;builtin . /proc/%2$d/fd/%3$d /proc/%2$d/fd/%4$d 2>/dev/null' EXIT;"
	"builtin trap '' INT;"
	"for((BIVOUAC[1]=1;BIVOUAC[1]==1;BIVOUAC[1]--));do "
	"BIVOUAC=;builtin mapfile -tn1 -O0 BIVOUAC;"
	"case ${BIVOUAC-} in "
	"e)BIVOUAC[1]=2;BIVOUAC[2]=1;BIVOUAC[3]=c;builtin trap 'builtin exit 130' INT;"
	"builtin mapfile -d '' -O0 BIVOUAC </proc/%2$d/fd/%6$d&&"
	"builtin eval \"$BIVOUAC\" </dev/null >/proc/%2$d/fd/1 "
	"2>/proc/%2$d/fd/$((BIVOUAC[2]=0,2));"
	"BIVOUAC[3]=$?;BIVOUAC[1]=2;;"
	"x)BIVOUAC[1]=2;BIVOUAC[2]=1;builtin trap LINENO=0 INT;"
	/* A condition, because `set -e` is not about it. */
	"if { /proc/%2$d/exe %2$d %6$d;} </dev/null >/proc/%2$d/fd/1 "
	"2>/proc/%2$d/fd/$((BIVOUAC[2]=0,2));then BIVOUAC[3]=0;else BIVOUAC[3]=$?;fi;;"
	"s)BIVOUAC[1]=2;builtin trap '' INT;"
	"builtin printf 's%%s %%s;' \"${BIVOUAC[3]-0}\" \"${BIVOUAC[2]-0}\" >&0;;"
	"w)BIVOUAC[1]=2;builtin . /proc/%2$d/fd/%3$d /proc/%2$d/fd/%5$d;;"
	"r)BIVOUAC[1]=2;builtin printf d >&0;;"
	"n)BIVOUAC[1]=2;;esac;done;"
	"[[ ${BIVOUAC[1]-} == 2 ]]&&builtin printf 's%%s 0;' \"${BIVOUAC[3]-0}\" >&0;"
	"builtin exit;[[ ${BIVOUAC[9]?} ]]\n";

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

/*
 * One message: the socket's queue is empty when bash has read the last token of it, which is when
 * it is through with all before. A bash that is gone is no error here; shell_reap() tells its end.
 */
static int send_to_bash(const struct shell *s, const char *text)
{
	size_t len = strlen(text);

	return send(s->ctl_fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)len ||
			       errno == EPIPE || errno == ECONNRESET
		       ? 0
		       : -1;
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

/* The one line of script that bash gets. */
static int send_loop(const struct shell *s, int state_fd, bool options)
{
	char restore[64] = "";
	struct buf text;
	int pid = getpid();

	if (state_fd >= 0)
		snprintf(restore, sizeof(restore), "builtin . /proc/%d/fd/%d %s||BIVOUAC=;", pid,
			 state_fd, options ? "options" : "");
	buf_init(&text, 4096);
	buf_addf(&text, loop, restore, pid, s->script_fd, s->exit_fd, s->next_fd, s->code_fd);
	buf_addf(&text, "w\nr\nn\n");
	int rc = buf_ok(&text) ? send_to_bash(s, text.ptr) : -1;

	buf_done(&text);
	return rc;
}

int shell_start(struct shell *s, bool state, bool options)
{
	int pair[2];
	/* What a bash leaves when it exits may refer to the state before. */
	int state_fd = !state || !s->has_base ? -1 : s->has_exit ? s->exit_fd : s->base_fd;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	s->pid = fork();
	if (s->pid == 0)
		become_bash(s, pair[1], state_fd >= 0);
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
	return send_loop(s, state_fd, options);
}

int shell_run(struct shell *s, struct str code, bool is_argv)
{
	/* SECURITY: a command is data: bash reads it out of this file into a variable and evaluates
	 * that, or starts this program again, which reads its words out of it. The NUL is the end
	 * that mapfile looks for. */
	if (ftruncate(s->code_fd, 0) < 0 || write_all_at(s->code_fd, code.ptr, code.len, 0) < 0 ||
	    (!is_argv && write_all_at(s->code_fd, "\n", 2, (off_t)code.len) < 0))
		return -1;
	ftruncate(s->exit_fd, 0);
	s->has_exit = false;
	s->interrupted_count = 0;
	char tokens[] = "e\ns\nw\nr\nn\n";

	if (is_argv)
		tokens[0] = 'x';
	if (s->large)
		tokens[4] = 'n';
	if (send_to_bash(s, tokens) < 0)
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

/* Consumes the first report: "s<code> <0, or 1 if the command did not begin>;" or "d". A code "c"
 * says that it left the loop around it. */
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
		unsigned code, refused;

		if (!end)
			return s->report_len < SHELL_REPORT_MAX ? SHELL_NOTHING : SHELL_BROKEN;
		*end = '\0';
		used = (size_t)(end - s->report) + 1;
		if (sscanf(s->report + 1, "%3u %1u", &code, &refused) == 2) {
			s->exit_code = (int)(code & 255);
			s->state = SHELL_BUSY;
			event = refused ? SHELL_REFUSED : SHELL_FINISHED;
		} else if (s->report[1] == 'c') {
			s->exit_code = 1;
			s->state = SHELL_BUSY;
			event = SHELL_STRAYED;
		}
		remember_dir(s);
		ftruncate(s->code_fd, 0);
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
