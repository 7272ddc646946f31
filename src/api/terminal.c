/* SPDX-License-Identifier: Apache-2.0 */
#include "api/internal.h"

#include "base/json.h"
#include "http/websocket.h"

#include <signal.h>
#include <stdio.h>

#define PROTOCOL    "bivouac.terminal.v1"
#define MESSAGE_MAX (64u * 1024)
#define QUEUE_MAX   (256u * 1024)
#define CELLS_MAX   1000

/* Codes of closing (RFC 6455 §7.4); 4001 is from the range for applications. */
#define CLOSE_NORMAL   1000
#define CLOSE_FAILED   1011
#define CLOSE_BUSY     1013
#define CLOSE_REPLACED 4001

/*
 * One WebSocket on a terminal. Bytes go both ways in binary messages, control in JSON text. Bounded
 * on both sides: what the client does not read stays in the sandbox, where the program waits; what
 * the program does not read stays with the client.
 */
struct terminal_call {
	struct call *call;
	struct terminal *terminal; /* NULL: over */
	struct websocket *ws;      /* NULL before the upgrade, and when it is closed */
	bool wants_new;            /* no terminal was named */
	struct buf typed;          /* taken from the client, not yet by the program */
	struct buf shown;          /* from the program, not yet taken by the queue */
	struct buf farewell;       /* the last message, after what is shown */
	int close_code;            /* 0: not closing */
	const char *close_reason;
};

static void terminal_done(void *arg)
{
	struct terminal_call *t = arg;

	terminal_detach(t->terminal);
	t->terminal = NULL;
	buf_done(&t->typed);
	buf_done(&t->shown);
	buf_done(&t->farewell);
}

/* --- to the client --- */

static void send_text(struct terminal_call *t, struct buf *b)
{
	if (t->ws && buf_ok(b))
		websocket_send(t->ws, true, buf_str(b));
	buf_done(b);
}

static void put_error(struct buf *b, const struct err *e)
{
	buf_add(b, "{", 1);
	json_key_str(b, "type", "error");
	json_key_str(b, "code", err_api_code(e->code));
	json_key_str(b, "message", e->msg);
	buf_add(b, "}", 1);
}

/* One that does not fit the queue is left out: the client sends nonsense faster than it reads. */
static void send_error(struct terminal_call *t, const struct err *e)
{
	struct buf b;

	buf_init(&b, 4096);
	put_error(&b, e);
	send_text(t, &b);
}

static void on_output(void *arg, struct str bytes)
{
	struct terminal_call *t = arg;

	/* In order: what waits goes first. */
	if (!t->shown.len && t->ws && websocket_send(t->ws, false, bytes)) {
		terminal_credit(t->terminal, bytes.len);
		return;
	}
	buf_add_str(&t->shown, bytes); /* at most what is not credited: its bound is never met */
	if (t->ws && !http_stream_hold(t->call->rq, t->shown.cap))
		websocket_close(t->ws, CLOSE_BUSY, "the server holds too much; try again later");
}

static void ws_drained(void *arg)
{
	struct terminal_call *t = arg;

	while (t->shown.len) {
		struct str part = buf_str(&t->shown);

		if (part.len > AGENT_STREAM_CHUNK)
			part.len = AGENT_STREAM_CHUNK;
		if (!websocket_send(t->ws, false, part))
			return;
		if (t->terminal)
			terminal_credit(t->terminal, part.len);
		buf_consume(&t->shown, part.len);
	}
	if (t->shown.cap) {
		buf_done(&t->shown);
		http_stream_hold(t->call->rq, 0);
	}
	if (!t->close_code)
		return;
	if (t->farewell.len && !websocket_send(t->ws, true, buf_str(&t->farewell)))
		return;
	buf_clear(&t->farewell);
	websocket_close(t->ws, t->close_code, t->close_reason);
}

/* Says `farewell` behind what is still to be shown, and closes. */
static void finish(struct terminal_call *t, int code, const char *reason)
{
	t->close_code = code;
	t->close_reason = reason;
	ws_drained(t);
}

/* --- from the client --- */

static void type_more(struct terminal_call *t)
{
	size_t taken = terminal_input(t->terminal, t->typed.ptr, t->typed.len);

	buf_consume(&t->typed, taken);
	if (t->typed.len)
		websocket_pause(t->ws);
	else
		websocket_resume(t->ws);
}

static bool size_of(const json_t *msg, const char *name, uint16_t *ret)
{
	int64_t n = 0;

	if (json_get_int(msg, "", name, &n, NULL) != 1 || n < 1 || n > CELLS_MAX)
		return false;
	*ret = (uint16_t)n;
	return true;
}

static int find_signal(const char *name)
{
	static const struct {
		const char *name;
		int number;
	} signals[] = {
		{ "SIGINT", SIGINT },   { "SIGQUIT", SIGQUIT }, { "SIGTSTP", SIGTSTP },
		{ "SIGTERM", SIGTERM }, { "SIGHUP", SIGHUP },   { "SIGKILL", SIGKILL },
		{ "SIGCONT", SIGCONT },
	};

	for (size_t i = 0; name && i < ARRAY_LEN(signals); i++)
		if (strcmp(signals[i].name, name) == 0)
			return signals[i].number;
	return 0;
}

static int control(struct terminal_call *t, const json_t *msg, struct err *e)
{
	const char *type = json_string_value(json_object_get(msg, "type"));
	uint16_t columns;
	uint16_t rows;

	if (type && strcmp(type, "resize") == 0) {
		if (!size_of(msg, "cols", &columns) || !size_of(msg, "rows", &rows))
			return err_set(e, ERR_INVALID,
				       "resize needs \"cols\" and \"rows\" from 1 to %d.",
				       CELLS_MAX);
		terminal_resize(t->terminal, columns, rows);
		return 0;
	}
	if (type && strcmp(type, "signal") == 0) {
		int number = find_signal(json_string_value(json_object_get(msg, "signal")));

		if (!number)
			return err_set(e, ERR_INVALID,
				       "signal needs \"signal\": SIGINT, SIGQUIT, SIGTSTP, "
				       "SIGTERM, SIGHUP, SIGKILL or SIGCONT.");
		terminal_signal(t->terminal, number);
		return 0;
	}
	if (type && strcmp(type, "close") == 0) {
		terminal_close(t->terminal);
		return 0;
	}
	return err_set(e, ERR_INVALID,
		       "A text message is a JSON object whose \"type\" is resize, signal or close; "
		       "input goes into binary messages.");
}

static void ws_message(void *arg, bool text, struct str data)
{
	struct terminal_call *t = arg;
	struct err e = ERR_INIT;

	if (!t->terminal)
		return;
	if (!text) {
		buf_add_str(&t->typed, data);
		type_more(t);
		return;
	}
	json_t *msg = json_parse_object(data, &e);

	if (!msg || control(t, msg, &e) < 0)
		send_error(t, &e);
	json_decref(msg);
}

static void ws_closed(void *arg, int code)
{
	struct terminal_call *t = arg;

	(void)code;
	t->ws = NULL;
	terminal_detach(t->terminal);
	t->terminal = NULL;
}

static const struct websocket_events ws_events = {
	.message = ws_message,
	.drained = ws_drained,
	.closed = ws_closed,
};

/* --- the terminal --- */

static void on_attached(void *arg, const char *id, bool fresh)
{
	static const struct websocket_config config = {
		.protocol = PROTOCOL,
		.message_max = MESSAGE_MAX,
		.queue_max = QUEUE_MAX,
	};
	struct terminal_call *t = arg;
	struct err e = ERR_INIT;
	struct buf b;

	t->ws = websocket_accept(t->call->rq, &config, &ws_events, t, &e);
	if (!t->ws) {
		if (fresh)
			terminal_close(t->terminal); /* nobody knows its id */
		call_fail(t->call, &e);
		return;
	}
	buf_init(&b, 4096);
	buf_add(&b, "{", 1);
	json_key_str(&b, "type", "ready");
	json_key_str(&b, "terminal", id);
	json_key(&b, "new");
	buf_add_str(&b, fresh ? STR("true") : STR("false"));
	buf_add(&b, "}", 1);
	send_text(t, &b);
}

static void on_drained(void *arg)
{
	struct terminal_call *t = arg;

	if (t->ws)
		type_more(t);
}

static void on_ended(void *arg, enum agent_death death, uint32_t code)
{
	struct terminal_call *t = arg;
	struct buf *b = &t->farewell;
	struct err e = ERR_INIT;

	t->terminal = NULL;
	if (!t->ws) {
		err_set(&e, t->wants_new ? ERR_UNAVAILABLE : ERR_NO_TERMINAL,
			"The program of the terminal ended before it was attached. Open a new "
			"one.");
		call_fail(t->call, &e);
		return;
	}
	buf_add(b, "{", 1);
	json_key_str(b, "type", "exit");
	json_key_int(b, death == AGENT_DEATH_EXIT ? "status" : "signal", code);
	buf_add(b, "}", 1);
	finish(t, CLOSE_NORMAL, "the program ended");
}

static void on_replaced(void *arg)
{
	struct terminal_call *t = arg;
	struct err e = ERR_INIT;

	t->terminal = NULL;
	if (!t->ws) {
		err_set(&e, ERR_CONFLICT,
			"Another client attached to the terminal at the same moment and has it now "
			"(409). Attach again to take it over.");
		call_fail(t->call, &e);
		return;
	}
	buf_add_str(&t->farewell, STR("{\"type\":\"replaced\"}"));
	finish(t, CLOSE_REPLACED, "attached elsewhere");
}

static void on_failed(void *arg, const struct err *e)
{
	struct terminal_call *t = arg;

	t->terminal = NULL;
	if (!t->ws) {
		call_fail(t->call, e);
		return;
	}
	put_error(&t->farewell, e);
	finish(t, CLOSE_FAILED, "the session ended");
}

static const struct terminal_events events = {
	.attached = on_attached,
	.output = on_output,
	.drained = on_drained,
	.ended = on_ended,
	.replaced = on_replaced,
	.failed = on_failed,
};

/* --- the request --- */

static int query_size(struct http_request *rq, const char *name, uint16_t fallback, uint16_t *ret,
		      struct err *e)
{
	struct str text;
	uint64_t n;

	*ret = fallback;
	if (!http_query(rq, name, &text) || !text.len)
		return 0;
	if (!str_to_u64(text, CELLS_MAX, &n) || n < 1)
		return err_set(e, ERR_INVALID,
			       "The query parameter '%s' must be a number from 1 to %d.", name,
			       CELLS_MAX);
	*ret = (uint16_t)n;
	return 0;
}

static int read_query(struct http_request *rq, struct terminal_params *p, struct err *e)
{
	http_query(rq, "terminal", &p->id);
	http_query(rq, "term", &p->term);
	http_query(rq, "command", &p->command);
	if (p->id.len && p->command.len)
		return err_set(e, ERR_INVALID,
			       "'command' is for a new terminal; leave it out with 'terminal'.");
	return query_size(rq, "cols", 80, &p->columns, e) < 0
		       ? -1
		       : query_size(rq, "rows", 24, &p->rows, e);
}

void terminal_get(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin(rq, ctx, SHAPE_NEW);
	struct terminal_params p = { 0 };
	struct err e = ERR_INIT;

	if (!c)
		return;
	struct terminal_call *t = http_alloc(rq, sizeof(*t));

	if (!t) {
		err_set(&e, ERR_NOMEM, "out of memory");
		call_fail(c, &e);
		return;
	}
	t->call = c;
	buf_init(&t->typed, MESSAGE_MAX);
	buf_init(&t->shown, AGENT_STREAM_WINDOW + AGENT_STREAM_CHUNK);
	buf_init(&t->farewell, 4096);
	http_defer(rq, terminal_done, t);
	if (!websocket_wanted(rq)) {
		http_set_header(rq, "Upgrade", "websocket");
		err_set(&e, ERR_UPGRADE_REQUIRED,
			"A terminal is a WebSocket (426): connect with a WebSocket client, "
			"subprotocol " PROTOCOL ", or with 'bivouac session shell'.");
		call_fail(c, &e);
		return;
	}
	if (read_query(rq, &p, &e) < 0) {
		call_fail(c, &e);
		return;
	}
	struct session *s = call_session(c, &e);

	http_mind_leaving(rq); /* nobody else would know of its terminal */
	t->wants_new = !p.id.len;
	if (s)
		t->terminal = terminal_open(s, &p, &events, t, &e);
	if (!t->terminal)
		call_fail(c, &e);
}

static void put_terminal(const char *id, bool attached, void *arg)
{
	struct buf *b = arg;

	json_item(b);
	buf_add(b, "{", 1);
	json_key_str(b, "id", id);
	json_key(b, "attached");
	buf_add_str(b, attached ? STR("true") : STR("false"));
	buf_add(b, "}", 1);
}

void terminal_list(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin_of(rq, ctx);
	struct buf b;

	if (!c)
		return;
	struct session *s = session_find(c->pool, c->identifier);

	buf_init(&b, 64 * 1024);
	buf_add_str(&b, STR("{\"value\":["));
	if (s)
		terminal_each(s, put_terminal, &b);
	buf_add_str(&b, STR("]}"));
	call_reply_json(c, 200, &b);
}

static void remove_opened(void *arg, struct session *s, struct agent_link *link)
{
	struct call *c = arg;
	struct err e = ERR_INIT;

	(void)link;
	if (terminal_delete(s, http_param(c->rq, "terminal"), &e) == 0)
		http_reply_empty(c->rq, 204);
	else
		call_fail(c, &e);
}

void terminal_remove(struct http_request *rq, void *ctx)
{
	struct call *c = call_begin_of(rq, ctx);
	struct err e = ERR_INIT;

	if (!c)
		return;
	struct session *s = session_find(c->pool, c->identifier);

	if (!s) {
		err_set(&e, ERR_NO_TERMINAL,
			"There is no such terminal: the identifier has no session (404).");
		call_fail(c, &e);
		return;
	}
	session_touch(s);
	/* After a restart of the daemon the sandbox says first what there is. */
	call_when_open(c, s, remove_opened, c);
}
