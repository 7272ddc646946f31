/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/shell.h"

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

const struct cli_flag cli_flags_shell[] = {
	{ .name = "command",
	  .kind = FLAG_TEXT,
	  .arg = "COMMAND",
	  .help = "Run this instead of an interactive shell." },
	{ .name = "terminal",
	  .kind = FLAG_TEXT,
	  .arg = "ID",
	  .help = "Go on with a terminal that was left with ~." },
	{ .name = NULL },
};

struct shell {
	struct ws_client *ws;
	struct termios before;
	bool tty; /* stdin and stdout are this terminal, in raw mode */
	bool line_start;
	bool tilde;    /* the line begins with a ~ that was not sent */
	bool no_input; /* stdin has ended */
	bool left;     /* by ~. */
	bool over;
	bool exited;
	int status; /* of the program; 128 + n for a signal */
	char terminal[80];
	char problem[ERR_MSG_MAX];
};

static void on_message(void *arg, bool text, struct str data)
{
	struct shell *s = arg;

	if (!text) {
		if (fd_write_all(STDOUT_FILENO, data.ptr, data.len, NULL) < 0)
			s->over = true;
		return;
	}
	json_t *msg = json_loadb(data.ptr, data.len, 0, NULL);
	const char *type = json_string_value(json_object_get(msg, "type"));
	const char *id = json_string_value(json_object_get(msg, "terminal"));
	const char *problem = json_string_value(json_object_get(msg, "message"));
	json_t *status = json_object_get(msg, "status");

	if (type && strcmp(type, "ready") == 0 && id) {
		snprintf(s->terminal, sizeof(s->terminal), "%s", id);
	} else if (type && strcmp(type, "exit") == 0) {
		s->exited = true;
		s->status = status ? (int)json_integer_value(status)
				   : 128 + (int)json_integer_value(json_object_get(msg, "signal"));
	} else if (type && strcmp(type, "replaced") == 0) {
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
	if (!s->exited && !s->left && !*s->problem)
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

	s->tty = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &s->before) == 0;
	if (!s->tty)
		return;
	raw = s->before;
	cfmakeraw(&raw);
	tcsetattr(STDIN_FILENO, TCSADRAIN, &raw);
}

static void restore_mode(struct shell *s)
{
	if (s->tty)
		tcsetattr(STDIN_FILENO, TCSADRAIN, &s->before);
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

static void read_input(struct shell *s)
{
	static char typed[INPUT_MAX];
	static char out[2 * INPUT_MAX];
	ssize_t n = read(STDIN_FILENO, typed, sizeof(typed));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0) {
		s->no_input = true;
		ws_client_send(s->ws, false, STR(END_OF_FILE));
		return;
	}
	struct str keys = { typed, (size_t)n };

	if (s->tty) {
		keys.len = filter(s, keys, out);
		keys.ptr = out;
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

		if (poll(p, 3, -1) < 0 && errno != EINTR)
			return;
		if (p[1].revents)
			read_input(s);
		if (p[2].revents && read(signals, &info, sizeof(info)) == sizeof(info))
			send_size(s);
		ws_client_turn(s->ws);
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
		fprintf(stderr,
			"Left the terminal; it goes on. Back to it: bivouac session shell … "
			"--terminal %s\n",
			s->terminal);
		return 0;
	}
	if (!s->exited)
		return err_set(e, ERR_UNAVAILABLE, "%s", s->problem);
	cli->status = s->status;
	return 0;
}

int shell_run(struct cli *cli, struct err *e)
{
	struct shell s = { .line_start = true };
	OWNED_MEM char *url = terminal_url(cli, e);
	sigset_t winch;

	if (!url)
		return -1;
	s.ws = ws_client_open(cli, url, PROTOCOL, &events, &s, e);
	if (!s.ws)
		return -1;
	sigemptyset(&winch);
	sigaddset(&winch, SIGWINCH);
	sigprocmask(SIG_BLOCK, &winch, NULL);
	OWNED_FD int signals = signalfd(-1, &winch, SFD_CLOEXEC | SFD_NONBLOCK);

	raw_mode(&s);
	loop(&s, signals);
	restore_mode(&s);
	ws_client_free(s.ws);
	return result(cli, &s, e);
}
