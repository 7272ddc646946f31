/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/shell.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/own.h"
#include "cli/flags.h"
#include "cli/ws_client.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <unistd.h>

#define PROTOCOL    "bivouac.terminal.v1"
#define INPUT_MAX   16384
#define QUEUED_MAX  (64u * 1024)
#define END_OF_FILE "\004"

/* How often the end of the input is said again: often as long as the program may be about to read
 * it, then seldom. */
#define EOF_SOON_MS    150
#define EOF_SELDOM_MS  1000
#define EOF_SOON_FOR   5000
#define SHELL_START_MS 1000 /* until a new shell has read what it reads first */

#define WAY_BACK "Back to it: bivouac session shell … --terminal "

const struct cli_flag cli_flags_shell[] = {
	{ .name = "command",
	  .kind = FLAG_TEXT,
	  .arg = "COMMAND",
	  .help = "Run this instead of an interactive shell." },
	{ .name = "terminal",
	  .kind = FLAG_TEXT,
	  .arg = "ID",
	  .help = "Go on with a terminal that was left; 'session terminal list' shows them." },
	{ .name = "hang-up-after",
	  .kind = FLAG_INT,
	  .arg = "SECONDS",
	  .min = 1,
	  .max = 86400,
	  .fallback = "60",
	  .help = "Standard input has ended and the program has shown nothing for so long: hang "
		  "up." },
	{ .name = NULL },
};

struct shell {
	struct ws_client *ws;
	bool tty;       /* stdin is a terminal, in raw mode */
	bool own_shell; /* the program is a new shell, which reads lines */
	bool line_start;
	bool tilde; /* the line begins with a ~ that was not sent */
	bool left;  /* by ~. */
	bool over;
	bool exited;
	bool lost;  /* the connection, not the terminal */
	int status; /* of the program; 128 + n for a signal */

	bool no_input;    /* stdin has ended */
	bool hung_up;     /* after the input's end */
	int64_t quiet_ms; /* how long the program may be quiet after the input's end */
	int64_t opened_at;
	int64_t active_at; /* when the program last showed or took something */
	int64_t said_at;   /* the end of the input, the last time */
	size_t queued;     /* what waited to be sent then */
	char terminal[80];
	char problem[ERR_MSG_MAX];
};

/*
 * What a signal that ends this program needs. The handler ends it whatever it is doing, also in the
 * middle of a write that nobody takes; so it uses nothing but calls that may interrupt anything.
 */
static struct {
	struct termios before;
	volatile sig_atomic_t raw; /* to be restored */
	volatile sig_atomic_t farewell_len;
	char farewell[sizeof(WAY_BACK) + 128];
} ending;

static void on_ending(int signum)
{
	struct pollfd p = { .fd = STDERR_FILENO, .events = POLLOUT };

	if (ending.raw)
		tcsetattr(STDIN_FILENO, TCSANOW, &ending.before);
	if (ending.farewell_len && poll(&p, 1, 0) == 1 &&
	    write(STDERR_FILENO, ending.farewell, (size_t)ending.farewell_len) > 0)
		ending.farewell_len = 0;
	_exit(128 + signum);
}

static void catch_endings(void)
{
	static const int signals[] = { SIGHUP, SIGINT, SIGQUIT, SIGTERM };
	struct sigaction action = { .sa_handler = on_ending };
	struct sigaction old;

	sigfillset(&action.sa_mask);
	for (size_t i = 0; i < ARRAY_LEN(signals); i++)
		/* What the caller ignores (nohup) stays ignored. */
		if (sigaction(signals[i], NULL, &old) == 0 && old.sa_handler != SIG_IGN)
			sigaction(signals[i], &action, NULL);
}

static void on_ready(struct shell *s, const char *id)
{
	/* SECURITY: it is shown on this terminal, and a server's text may not move it. */
	if (id[strspn(id, "0123456789abcdef")] != '\0')
		return;
	snprintf(s->terminal, sizeof(s->terminal), "%s", id);
	ending.farewell_len = 0;
	int n = snprintf(ending.farewell, sizeof(ending.farewell),
			 "\nThe terminal goes on. " WAY_BACK "%s\n", s->terminal);

	ending.farewell_len = n;
}

/* Bells are how a program answers an end of input that it does not want. */
static bool only_bells(struct str data)
{
	for (size_t i = 0; i < data.len; i++)
		if (data.ptr[i] != '\a')
			return false;
	return true;
}

static void on_message(void *arg, bool text, struct str data)
{
	struct shell *s = arg;

	if (!text) {
		struct err e = ERR_INIT;

		if (!only_bells(data))
			s->active_at = clock_mono_ms();
		if (fd_write_all(STDOUT_FILENO, data.ptr, data.len, &e) < 0) {
			snprintf(s->problem, sizeof(s->problem), "standard output: %s", e.msg);
			s->over = s->lost = true;
		}
		return;
	}
	json_t *msg = json_loadb(data.ptr, data.len, 0, NULL);
	const char *type = json_string_value(json_object_get(msg, "type"));
	const char *id = json_string_value(json_object_get(msg, "terminal"));
	const char *problem = json_string_value(json_object_get(msg, "message"));
	json_t *status = json_object_get(msg, "status");

	if (type && strcmp(type, "ready") == 0 && id) {
		on_ready(s, id);
	} else if (type && strcmp(type, "exit") == 0) {
		s->exited = true;
		ending.farewell_len = 0;
		s->status = status ? (int)json_integer_value(status)
				   : 128 + (int)json_integer_value(json_object_get(msg, "signal"));
	} else if (type && strcmp(type, "replaced") == 0) {
		s->lost = true;
		snprintf(s->problem, sizeof(s->problem), "the terminal was attached elsewhere");
	} else if (type && strcmp(type, "error") == 0 && problem) {
		snprintf(s->problem, sizeof(s->problem), "%s", problem);
	}
	json_decref(msg);
}

static void on_closed(void *arg, unsigned code)
{
	struct shell *s = arg;

	s->over = true;
	if (s->exited || s->left || *s->problem)
		return;
	s->lost = true;
	snprintf(s->problem, sizeof(s->problem), "the connection ended (%u)", code);
}

static const struct ws_client_events events = { .message = on_message, .closed = on_closed };

/* --- this side's terminal --- */

static struct winsize size_here(void)
{
	struct winsize size;

	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0 || !size.ws_col || !size.ws_row)
		size = (struct winsize){ .ws_row = 24, .ws_col = 80 };
	size.ws_col = size.ws_col < 1000 ? size.ws_col : 1000;
	size.ws_row = size.ws_row < 1000 ? size.ws_row : 1000;
	return size;
}

static void send_size(struct shell *s)
{
	struct winsize size = size_here();
	char text[80];
	int n = snprintf(text, sizeof(text), "{\"type\":\"resize\",\"cols\":%u,\"rows\":%u}",
			 size.ws_col, size.ws_row);

	ws_client_send(s->ws, true, (struct str){ text, (size_t)n });
}

static void raw_mode(struct shell *s)
{
	struct termios raw;

	s->tty = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &ending.before) == 0;
	if (!s->tty)
		return;
	raw = ending.before;
	cfmakeraw(&raw);
	ending.raw = true;
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
}

static void restore_mode(struct shell *s)
{
	if (s->tty)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &ending.before);
	ending.raw = false;
}

/*
 * What was typed, without the way out: ~. at the beginning of a line leaves, as in ssh; ~~ is a
 * tilde. Returns how many bytes of out are to be sent.
 */
static size_t filter(struct shell *s, struct str typed, char out[static 2 * INPUT_MAX])
{
	size_t n = 0;

	for (size_t i = 0; i < typed.len; i++) {
		char c = typed.ptr[i];

		if (s->tilde) {
			s->tilde = false;
			if (c == '.') {
				s->left = true;
				return n;
			}
			if (c != '~')
				out[n++] = '~';
		} else if (s->line_start && c == '~') {
			s->tilde = true;
			s->line_start = false;
			continue;
		}
		out[n++] = c;
		s->line_start = c == '\r' || c == '\n';
	}
	return n;
}

/*
 * A terminal has no end of input but the character for it, which counts only where a program waits
 * for a line: one that comes before bash has switched the terminal is lost, or a byte of what the
 * next program reads; one in the middle of a line only hands the line over. So it waits until the
 * program is quiet, and is said again until the program ends. A program that wants none is hung up
 * when it has been quiet for long.
 */
static void end_input(struct shell *s)
{
	int64_t now = clock_mono_ms();
	size_t queued = ws_client_queued(s->ws);

	if (!s->no_input || s->hung_up || s->over)
		return;
	if (queued != s->queued)
		s->active_at = now;
	s->queued = queued;
	int64_t quiet = now - s->active_at;
	int64_t said = now - s->said_at;

	if (quiet >= s->quiet_ms) {
		s->hung_up = true;
		ws_client_send(s->ws, true, STR("{\"type\":\"close\"}"));
	} else if (!queued &&
		   (said >= EOF_SELDOM_MS ||
		    (said >= EOF_SOON_MS && quiet < EOF_SOON_FOR && quiet >= EOF_SOON_MS))) {
		s->said_at = now;
		ws_client_send(s->ws, false, STR(END_OF_FILE));
	}
}

static void input_ended(struct shell *s)
{
	/* As a shell that reads a file takes a last line without its end. */
	if (s->own_shell && !s->line_start)
		ws_client_send(s->ws, false, STR("\n"));
	s->no_input = true;
	s->active_at = s->said_at = clock_mono_ms();
	if (s->own_shell && s->said_at < s->opened_at + SHELL_START_MS)
		s->said_at = s->opened_at + SHELL_START_MS - EOF_SOON_MS;
}

static void read_input(struct shell *s)
{
	static char typed[INPUT_MAX];
	static char out[2 * INPUT_MAX];
	ssize_t n = read(STDIN_FILENO, typed, sizeof(typed));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0 && s->tty) {
		/* The terminal has gone: no end of what is typed. */
		snprintf(s->problem, sizeof(s->problem), "the terminal here was hung up");
		s->over = s->lost = true;
		return;
	}
	if (n <= 0) {
		input_ended(s);
		return;
	}
	struct str keys = { typed, (size_t)n };

	if (s->tty) {
		keys.len = filter(s, keys, out);
		keys.ptr = out;
	} else {
		s->line_start = typed[n - 1] == '\n';
	}
	if (keys.len)
		ws_client_send(s->ws, false, keys);
	if (s->left)
		ws_client_close(s->ws);
}

static void loop(struct shell *s, int signals)
{
	while (!s->over && !s->left) {
		bool listen = !s->no_input && ws_client_queued(s->ws) < QUEUED_MAX;
		struct pollfd p[] = {
			{ .fd = ws_client_fd(s->ws), .events = ws_client_wants(s->ws) },
			{ .fd = listen ? STDIN_FILENO : -1, .events = POLLIN },
			{ .fd = signals, .events = POLLIN },
		};
		struct signalfd_siginfo info;

		if (poll(p, 3, s->no_input ? EOF_SOON_MS : -1) < 0 && errno != EINTR)
			return;
		if (p[1].revents)
			read_input(s);
		if (p[2].revents && read(signals, &info, sizeof(info)) == sizeof(info))
			send_size(s);
		ws_client_turn(s->ws);
		end_input(s);
	}
}

static char *terminal_url(struct cli *cli, struct err *e)
{
	OWNED_MEM char *base = client_pool_endpoint(cli, e);
	const char *term = getenv("TERM");
	const char *command = args_text(&cli->args, "command");
	const char *id = args_text(&cli->args, "terminal");
	struct winsize size = size_here();
	char columns[8];
	char rows[8];

	if (!base)
		return NULL;
	snprintf(columns, sizeof(columns), "%u", size.ws_col);
	snprintf(rows, sizeof(rows), "%u", size.ws_row);
	char *url =
		client_url_format(base,
				  "/terminal?api-version=" CLIENT_DATA_VERSION
				  "&identifier=%s&cols=%s&rows=%s&term=%s&command=%s&terminal=%s",
				  args_text(&cli->args, "identifier"), columns, rows,
				  term ? term : "", command ? command : "", id ? id : "");

	if (!url)
		client_url_too_long("--identifier, --command or --terminal", e);
	return url;
}

static int result(struct cli *cli, struct shell *s, struct err *e)
{
	if (s->left) {
		fprintf(stderr, "Left the terminal; it goes on. " WAY_BACK "%s\n", s->terminal);
		return 0;
	}
	if (s->lost && *s->terminal)
		return err_set(e, ERR_UNAVAILABLE, "%s. " WAY_BACK "%s", s->problem, s->terminal);
	if (!s->exited)
		return err_set(e, ERR_UNAVAILABLE, "%s", s->problem);
	if (s->hung_up)
		return err_set(e, ERR_TIMEOUT,
			       "the program did not end with its input; after %lld quiet seconds "
			       "it was hung up (--hang-up-after)",
			       (long long)s->quiet_ms / 1000);
	cli->status = s->status;
	return 0;
}

int shell_run(struct cli *cli, struct err *e)
{
	const struct args *args = &cli->args;
	struct shell s = {
		.line_start = true,
		.own_shell = !args_given(args, "command") && !args_given(args, "terminal"),
		.quiet_ms = args_int(args, "hang-up-after") * 1000,
	};
	OWNED_MEM char *url = terminal_url(cli, e);
	sigset_t winch;

	if (!url)
		return -1;
	s.ws = ws_client_open(cli, url, PROTOCOL, &events, &s, e);
	if (!s.ws)
		return -1;
	s.opened_at = clock_mono_ms();
	sigemptyset(&winch);
	sigaddset(&winch, SIGWINCH);
	sigprocmask(SIG_BLOCK, &winch, NULL);
	OWNED_FD int signals = signalfd(-1, &winch, SFD_CLOEXEC | SFD_NONBLOCK);

	catch_endings();
	raw_mode(&s);
	loop(&s, signals);
	restore_mode(&s);
	ws_client_free(s.ws);
	return result(cli, &s, e);
}
