/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Terminals: the master of a pseudo-terminal each, whose first process is a child of the agent.
 *
 * The last output is always kept in a ring. Attached, everything leaves in order as far as the
 * reader has given credit and the connection has room; the master is read only when all that is
 * kept has left, so nothing falls out of the ring unsent, and without credit the program waits.
 * Detached, it is read and old bytes fall out: the program goes on.
 *
 * SECURITY: what is behind a terminal is hostile. Its bytes are passed on and kept, never read; of
 * its first process only the number counts, which the launcher told before any code of the session
 * ran in it.
 */
#include "agent/agent.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/own.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* Reads of one turn, as of an execution's output. */
#define TURN_READS 4

static struct agent_terminal *find(struct agent *a, uint64_t op)
{
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++)
		if (a->terminals[i] && a->terminals[i]->op == op)
			return a->terminals[i];
	return NULL;
}

static void arm(struct agent *a, struct agent_terminal *t, int64_t ms)
{
	t->deadline_ns = ms ? clock_mono_ns() + ms * 1000000 : 0;
	agent_rearm(a);
}

static void send_state(struct agent *a, const struct agent_terminal *t, bool over)
{
	bool signaled = over && WIFSIGNALED(t->status);
	enum agent_death death = !over        ? AGENT_DEATH_NONE
				 : t->closing ? AGENT_DEATH_KILLED
				 : signaled   ? AGENT_DEATH_SIGNAL
					      : AGENT_DEATH_EXIT;
	struct buf b;

	buf_init(&b, 8);
	wire_put_u8(&b, over);
	wire_put_u8(&b, (uint8_t)death);
	wire_put_u32(&b, !over      ? 0
			 : signaled ? (uint32_t)WTERMSIG(t->status)
				    : (uint32_t)WEXITSTATUS(t->status));
	conn_send(a, AGENT_TERM_STATE, t->op, buf_str(&b));
	buf_done(&b);
}

static void close_master(struct agent *a, struct agent_terminal *t)
{
	if (t->master >= 0)
		agent_watch(a, t->master, EVENT_TERMINAL, t->slot, 0, &t->watched);
	close_fd(&t->master);
	close_fd(&t->slave);
	buf_done(&t->input);
	t->eof = true;
}

static void close_launcher(struct agent *a, struct agent_terminal *t)
{
	uint32_t watched = EPOLLIN;

	if (t->sock >= 0)
		agent_watch(a, t->sock, EVENT_LAUNCHER, t->slot, 0, &watched);
	close_fd(&t->sock);
}

static void terminal_free(struct agent *a, struct agent_terminal *t)
{
	close_master(a, t);
	close_launcher(a, t);
	buf_done(&t->label);
	a->terminals[t->slot] = NULL;
	free(t->ring);
	free(t);
	agent_rearm(a);
}

static bool may_send(const struct agent *a, const struct agent_terminal *t)
{
	return t->attached && t->credit && conn_room(a);
}

static void watch(struct agent *a, struct agent_terminal *t)
{
	bool wanted = !t->attached || (t->sent == t->total && may_send(a, t));

	if (t->master >= 0 && t->pid)
		agent_watch(a, t->master, EVENT_TERMINAL, t->slot,
			    (wanted && !t->eof ? EPOLLIN : 0) | (t->input.len ? EPOLLOUT : 0),
			    &t->watched);
}

static void send_kept(struct agent *a, struct agent_terminal *t)
{
	while (t->sent < t->total && may_send(a, t)) {
		size_t at = t->sent % AGENT_TERMINAL_KEPT;
		size_t room = conn_room(a);
		size_t n = AGENT_TERMINAL_KEPT - at;

		n = n < t->total - t->sent ? n : t->total - t->sent;
		n = n < t->credit ? n : t->credit;
		n = n < AGENT_STREAM_CHUNK ? n : AGENT_STREAM_CHUNK;
		n = n < room ? n : room;
		conn_send(a, AGENT_TERM_OUTPUT, t->op, (struct str){ t->ring + at, n });
		t->sent += n;
		t->credit -= (uint32_t)n;
	}
}

static bool read_master(struct agent_terminal *t)
{
	size_t at = t->total % AGENT_TERMINAL_KEPT;
	size_t max = AGENT_TERMINAL_KEPT - at;
	ssize_t n = t->eof ? 0
			   : read(t->master, t->ring + at,
				  max < AGENT_STREAM_CHUNK ? max : AGENT_STREAM_CHUNK);

	if (n > 0) {
		t->total += (size_t)n;
		return true;
	}
	/* EIO: nobody holds the other end any more. */
	if (n == 0 || (errno != EAGAIN && errno != EINTR))
		t->eof = true;
	return false;
}

/* Forgets one that has ended, when all its output has left. */
static bool finish(struct agent *a, struct agent_terminal *t)
{
	if (!t->ended || (t->awaited && !t->closing) ||
	    (t->attached && !t->closing && !(t->eof && t->sent == t->total)))
		return false;
	send_state(a, t, true);
	terminal_free(a, t);
	return true;
}

/* Frees a terminal that is over. */
static void pump(struct agent *a, struct agent_terminal *t)
{
	bool empty = false;

	for (int reads = 0;; reads++) {
		send_kept(a, t);
		if ((t->attached && (t->sent < t->total || !may_send(a, t))) || reads == TURN_READS)
			break;
		if (!read_master(t)) {
			empty = true;
			break;
		}
	}
	if (finish(a, t))
		return;
	/* What its processes left is here, but others hold the terminal and might yet write. */
	if (t->ended && empty && !t->deadline_ns)
		arm(a, t, AGENT_LAST_OUTPUT_MS);
	watch(a, t);
}

static void write_input(struct agent *a, struct agent_terminal *t)
{
	while (t->input.len && t->master >= 0) {
		ssize_t n = write(t->master, t->input.ptr, t->input.len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		/* Nobody will ever read it: as good as taken. */
		size_t taken = n > 0 ? (size_t)n : t->input.len;

		buf_consume(&t->input, taken);
		conn_send_number(a, AGENT_TERM_CREDIT, t->op, (uint32_t)taken);
	}
	if (!t->input.len && t->input.cap > 16384)
		buf_done(&t->input);
}

void terminal_event(struct agent *a, struct agent_terminal *t, uint32_t events)
{
	if (t->master < 0)
		return;
	if (events & EPOLLOUT)
		write_input(a, t);
	pump(a, t);
}

static bool name_ok(struct str s)
{
	for (size_t i = 0; i < s.len; i++)
		if (s.ptr[i] <= ' ' || s.ptr[i] >= 0x7f)
			return false;
	return true;
}

static struct agent_terminal *terminal_new(struct agent *a, uint64_t op, struct str label,
					   struct err *e)
{
	size_t slot = 0;

	while (slot < AGENT_TERMINALS_MAX && a->terminals[slot])
		slot++;
	if (slot == AGENT_TERMINALS_MAX) {
		err_set(e, ERR_QUOTA, "the session has %d terminals; close one",
			AGENT_TERMINALS_MAX);
		return NULL;
	}
	struct agent_terminal *t = calloc(1, sizeof(*t));
	char *ring = malloc(AGENT_TERMINAL_KEPT);

	if (!t || !ring) {
		free(t);
		free(ring);
		err_set(e, ERR_UNAVAILABLE, "the session has no memory for a terminal");
		return NULL;
	}
	t->op = op;
	t->slot = slot;
	t->ring = ring;
	t->sock = t->master = t->slave = -1;
	buf_init(&t->label, AGENT_LABEL_MAX);
	buf_init(&t->input, AGENT_STREAM_WINDOW);
	buf_add_str(&t->label, label);
	a->terminals[slot] = t;
	return t;
}

static int launch(int launcher, struct str term, struct str command, int slave, struct err *e)
{
	struct buf b;

	buf_init(&b, AGENT_COMMAND_MAX + 4096);
	wire_put_u32(&b, (uint32_t)(4 + term.len + 4 + command.len));
	wire_put_u8(&b, KERNEL_TERMINAL);
	wire_put_blob(&b, term);
	wire_put_blob(&b, command);
	/* A fresh socket has room for the largest command. */
	ssize_t n = fd_send(launcher, b.ptr, b.len, &slave, 1);
	bool whole = n == (ssize_t)b.len;

	buf_done(&b);
	return whole ? 0 : err_set(e, ERR_UNAVAILABLE, "the terminal's launcher is gone");
}

static struct agent_terminal *open_one(struct agent *a, uint64_t op, struct wire_reader *r,
				       int *io_launcher, struct err *e)
{
	uint16_t columns = wire_get_u16(r);
	uint16_t rows = wire_get_u16(r);
	struct str term = wire_get_blob(r, AGENT_TERM_NAME_MAX);
	struct str command = wire_get_blob(r, AGENT_COMMAND_MAX);
	struct str label = wire_get_blob(r, AGENT_LABEL_MAX);

	if (!wire_ok(r) || *io_launcher < 0 || !name_ok(term) || find(a, op)) {
		err_set(e, ERR_INVALID,
			"terminal: its type has at most %d printable characters, its command %u "
			"bytes",
			AGENT_TERM_NAME_MAX, AGENT_COMMAND_MAX);
		return NULL;
	}
	struct agent_terminal *t = terminal_new(a, op, label, e);

	if (!t)
		return NULL;
	t->sock = take_fd(*io_launcher);
	fd_set_nonblock(t->sock, true);
	if (pty_open(columns, rows, &t->master, &t->slave, e) < 0 ||
	    launch(t->sock, term, command, t->slave, e) < 0) {
		terminal_free(a, t);
		return NULL;
	}
	return t;
}

void terminal_open(struct agent *a, uint64_t op, struct wire_reader *r, int launcher)
{
	struct err e = ERR_INIT;
	OWNED_FD int sock = launcher;
	struct agent_terminal *t = open_one(a, op, r, &sock, &e);
	uint32_t watched = 0;

	if (!t) {
		conn_send_error(a, op, &e);
		return;
	}
	t->answers = 1;
	t->awaited = true;
	agent_watch(a, t->sock, EVENT_LAUNCHER, t->slot, EPOLLIN, &watched);
	arm(a, t, AGENT_KERNEL_START_MS);
}

static void open_failed(struct agent *a, struct agent_terminal *t, const char *why)
{
	struct err e = ERR_INIT;

	err_set(&e, ERR_UNAVAILABLE, "the terminal did not start: %s", why);
	conn_send_error(a, t->op, &e);
	terminal_free(a, t);
}

void terminal_launched(struct agent *a, struct agent_terminal *t)
{
	if (t->sock < 0)
		return;
	ssize_t n = recv(t->sock, t->ready + t->ready_len, sizeof(t->ready) - t->ready_len, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		open_failed(a, t, "its launcher ended");
		return;
	}
	t->ready_len += (size_t)n;
	if (t->ready_len < sizeof(t->ready))
		return;
	struct wire_reader r = wire_reader(t->ready, sizeof(t->ready));
	uint32_t len = wire_get_u32(&r);
	uint8_t type = wire_get_u8(&r);
	pid_t pid = (pid_t)wire_get_u32(&r);

	if (len != 4 || type != KERNEL_READY || pid <= 1 || reap_known(a, pid)) {
		open_failed(a, t, "its launcher broke the protocol");
		return;
	}
	close_launcher(a, t);
	t->pid = pid;
	arm(a, t, 0);
	for (; t->answers; t->answers--)
		send_state(a, t, false);
	pump(a, t);
}

static void hang_up(struct agent *a, struct agent_terminal *t)
{
	if (t->closing)
		return;
	t->closing = true;
	if (!t->pid) {
		open_failed(a, t, "it was closed");
		return;
	}
	if (t->ended) {
		finish(a, t);
		return;
	}
	/* The group in front, and by the end of the master the first process, which tells its
	 * others. */
	pty_signal(t->master, SIGHUP);
	close_master(a, t);
	arm(a, t, AGENT_HANGUP_GRACE_MS);
}

static void attach(struct agent *a, struct agent_terminal *t, struct wire_reader *r)
{
	uint32_t credit = wire_get_u32(r);
	uint64_t kept = t->total < AGENT_TERMINAL_KEPT ? t->total : AGENT_TERMINAL_KEPT;

	if (!wire_ok(r)) {
		conn_break(a);
		return;
	}
	t->attached = true;
	t->awaited = false;
	t->credit = credit < AGENT_STREAM_WINDOW ? credit : AGENT_STREAM_WINDOW;
	t->sent = t->total - kept;
	if (!t->pid) {
		t->answers++;
		return;
	}
	send_state(a, t, false);
	pump(a, t);
}

static void detach(struct agent *a, struct agent_terminal *t)
{
	t->attached = false;
	if (t->pid)
		pump(a, t);
}

static void input(struct agent *a, struct agent_terminal *t, struct str bytes)
{
	if (t->master < 0)
		return; /* hung up */
	if (!buf_add_str(&t->input, bytes)) {
		conn_break(a); /* more than the window, or no memory for it */
		buf_clear(&t->input);
		return;
	}
	if (t->pid)
		write_input(a, t);
	watch(a, t);
}

static void credit(struct agent *a, struct agent_terminal *t, struct wire_reader *r)
{
	uint32_t more = wire_get_u32(r);
	uint32_t room = AGENT_STREAM_WINDOW - t->credit;

	if (!wire_ok(r) || !t->attached)
		return;
	t->credit += more < room ? more : room;
	if (t->pid)
		pump(a, t);
}

static void resize(struct agent_terminal *t, struct wire_reader *r)
{
	uint16_t columns = wire_get_u16(r);
	uint16_t rows = wire_get_u16(r);

	if (wire_ok(r) && t->master >= 0)
		pty_resize(t->master, columns, rows);
}

static void forward_signal(struct agent_terminal *t, struct wire_reader *r)
{
	static const int allowed[] = { SIGINT, SIGQUIT, SIGTSTP,  SIGTERM,
				       SIGHUP, SIGKILL, SIGWINCH, SIGCONT };
	uint32_t sig = wire_get_u32(r);

	if (!wire_ok(r) || t->master < 0 || !t->pid)
		return;
	for (size_t i = 0; i < ARRAY_LEN(allowed); i++)
		if (sig == (uint32_t)allowed[i])
			pty_signal(t->master, allowed[i]);
}

void terminal_frame(struct agent *a, enum agent_msg type, uint64_t op, struct wire_reader *r)
{
	struct agent_terminal *t = find(a, op);
	struct err e = ERR_INIT;

	if (!t && type == AGENT_TERM_ATTACH) {
		err_set(&e, ERR_NO_TERMINAL, "the terminal has ended");
		conn_send_error(a, op, &e);
	}
	if (!t)
		return; /* ended meanwhile */
	switch (type) {
	case AGENT_TERM_ATTACH:
		attach(a, t, r);
		break;
	case AGENT_TERM_DETACH:
		detach(a, t);
		break;
	case AGENT_TERM_INPUT:
		input(a, t, wire_get_rest(r));
		break;
	case AGENT_TERM_CREDIT:
		credit(a, t, r);
		break;
	case AGENT_TERM_RESIZE:
		resize(t, r);
		break;
	case AGENT_TERM_SIGNAL:
		forward_signal(t, r);
		break;
	case AGENT_TERM_CLOSE:
		hang_up(a, t);
		break;
	default:
		break;
	}
}

void terminal_died(struct agent *a, struct agent_terminal *t, int status)
{
	t->status = status;
	t->ended = true;
	/* With our own hold gone, the end of the last other one ends the output. */
	close_fd(&t->slave);
	buf_clear(&t->input);
	arm(a, t, 0);
	reap_session(a, t->pid);
	pump(a, t);
}

void terminal_deadline(struct agent *a, struct agent_terminal *t)
{
	arm(a, t, 0);
	if (!t->pid) {
		open_failed(a, t, "its launcher did not answer");
	} else if (!t->ended) {
		kill(-t->pid, SIGKILL);
		kill(t->pid, SIGKILL);
	} else if (t->sent == t->total || !t->attached) {
		/* Whoever still holds the terminal left its session: their output is not its. */
		t->eof = true;
		t->awaited = false;
		pump(a, t);
	}
}

void terminals_pump(struct agent *a)
{
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++) {
		struct agent_terminal *t = a->terminals[i];

		if (t && t->attached && t->pid && t->sent < t->total)
			pump(a, t);
		else if (t)
			watch(a, t);
	}
}

void terminals_reset(struct agent *a)
{
	for (size_t i = 0; i < AGENT_TERMINALS_MAX; i++) {
		struct agent_terminal *t = a->terminals[i];

		if (!t)
			continue;
		t->awaited = false;
		/* What was on its way is lost with its daemon; the next one's window is whole. */
		buf_clear(&t->input);
		t->answers = 0;
		detach(a, t);
	}
}
