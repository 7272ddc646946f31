/* SPDX-License-Identifier: Apache-2.0 */
#include "http/websocket.h"

#include "base/clock.h"
#include "http/internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <wslay/wslay.h>

/*
 * MHD hands the socket over once the 101 has left (over TLS one of a pair, behind which it goes on
 * to decrypt) and takes it back by MHD_upgrade_action(). In between the request lives on. All
 * callbacks to the owner come from the loop, never from inside a call of the owner's.
 *
 * Over TLS, what goes out does not take the way through the pair: MHD 0.9.75 has no room left in
 * the connection's pool after a head, and encrypts four bytes at a time. It goes to the session
 * itself, which MHD leaves alone as long as nothing comes out of the pair.
 */

#define PING_S_DEFAULT 30
#define GOODBYE_MS     5000 /* for the peer's close, and for it to read ours */
#define RETRY_MS       1000
#define FED_AT_ONCE    (64 * 1024) /* then other watchers of the loop get their turn */
#define CONTROLS_MAX   64          /* control frames that wait to leave; then nothing is read */
#define QUEUED_EXTRA   64          /* what a queued message takes beside its bytes */
#define HELD_EXTRA     (16 * 1024)
#define REASON_MAX     123
#define LEAVE_MS       30000

enum stage {
	STAGE_WAITING, /* the 101 has not left yet */
	STAGE_OPEN,
	STAGE_LINGER, /* our close has left; what comes is dropped until the peer closes */
	STAGE_OVER,
};

struct websocket {
	struct http_request *rq;
	struct websocket_config config;
	struct websocket_events ev;
	void *arg;
	enum stage stage;
	int fd;
	struct MHD_UpgradeResponseHandle *upgrade;
	struct loop_watch *watch;
	struct loop_watch *tls_room; /* over TLS: the socket itself, to write */
	struct loop_timer *timer;
	wslay_event_context_ptr wslay;
	struct buf early;    /* what came in one read with the request's head */
	struct buf message;  /* so much of it as has come */
	struct buf held;     /* messages that one read brought after a pause */
	uint8_t opcode;      /* of the frame that comes in */
	size_t fed;          /* in this turn */
	uint64_t frame_left; /* of the frame that goes out */
	size_t controls;     /* frames that wait to go out */
	bool paused;
	bool full;    /* a send did not fit */
	bool starved; /* for buffers_max */
	bool ended;   /* the peer has been told that nothing more comes */
	bool left;    /* over TLS, where MHD keeps the end of file to itself */
	bool broken;
	bool failing; /* our close says what the peer did wrong */
	bool leaving; /* our close is queued when nothing else is: a close overtakes messages */
	bool closing; /* our close is queued */
	int leave_code;
	int64_t leave_ms; /* until when what is queued may leave first */
	char leave_reason[REASON_MAX + 1];
	bool told;      /* closed() has been called */
	int64_t due_ms; /* the timer */
	int64_t goodbye_ms;
	int64_t left_ms;
	int64_t heard_ms;
	int64_t pinged_ms; /* 0: no ping is out */
};

/* ---- ends ---- */

static void arm(struct websocket *ws);

static bool over_tls(const struct websocket *ws)
{
	return ws->rq->listener->tls;
}

static void tell_closed(struct websocket *ws)
{
	if (ws->told)
		return;
	ws->told = true;
	ws->ev.closed(ws->arg, wslay_event_get_close_received(ws->wslay)
				       ? wslay_event_get_status_code_received(ws->wslay)
				       : WSLAY_CODE_ABNORMAL_CLOSURE);
}

static void stop_watching(struct websocket *ws)
{
	loop_watch_free(ws->watch);
	loop_watch_free(ws->tls_room);
	loop_timer_free(ws->timer);
	ws->watch = NULL;
	ws->tls_room = NULL;
	ws->timer = NULL;
}

/* Once: a second goodbye would be sent into a connection that has ended. */
static void end_output(struct websocket *ws)
{
	if (!ws->ended && over_tls(ws))
		peer_end_of_file(ws->rq->peer);
	else if (!ws->ended)
		shutdown(ws->fd, SHUT_WR);
	ws->ended = true;
}

/* The socket goes back to MHD, which sends what it has, closes it and ends the request. */
static void give_back(struct websocket *ws)
{
	if (ws->stage == STAGE_OVER)
		return;
	ws->stage = STAGE_OVER;
	stop_watching(ws);
	tell_closed(ws);
	if (over_tls(ws))
		end_output(ws);
	MHD_upgrade_action(ws->upgrade, MHD_UPGRADE_ACTION_CLOSE);
	server_upgrade_ends(ws->rq);
}

/* The request is over. */
static void free_websocket(void *arg)
{
	struct websocket *ws = arg;

	stop_watching(ws);
	tell_closed(ws);
	wslay_event_context_free(ws->wslay);
	buf_done(&ws->early);
	buf_done(&ws->message);
	buf_done(&ws->held);
	ws->rq->websocket = NULL;
	free(ws);
}

/* Our last word; the peer may have some of its own before. */
static void queue_close(struct websocket *ws, int code, struct str reason)
{
	if (ws->closing)
		return;
	ws->closing = true;
	ws->controls++;
	ws->goodbye_ms = clock_mono_ms() + GOODBYE_MS;
	if (wslay_event_queue_close(ws->wslay, (uint16_t)code, (const uint8_t *)reason.ptr,
				    reason.len) != 0)
		ws->broken = true;
}

static void leave(struct websocket *ws)
{
	if (ws->leaving && !wslay_event_get_queued_msg_count(ws->wslay))
		queue_close(ws, ws->leave_code, str_from(ws->leave_reason));
}

static void fail(struct websocket *ws, int code, const char *reason)
{
	queue_close(ws, code, str_from(reason));
	ws->failing = true;
	wslay_event_shutdown_read(ws->wslay);
}

/* ---- what goes out ---- */

static size_t queued(const struct websocket *ws)
{
	return wslay_event_get_queued_msg_length(ws->wslay) +
	       QUEUED_EXTRA * wslay_event_get_queued_msg_count(ws->wslay);
}

size_t websocket_room(const struct websocket *ws)
{
	size_t used = queued(ws) + QUEUED_EXTRA;

	return used < ws->config.queue_max ? ws->config.queue_max - used : 0;
}

/*
 * SECURITY: who pings and reads nothing would have pongs pile up. wslay does not say how many of
 * its queued frames are controls, so they are counted as they leave: it hands over each header from
 * its beginning, then the payload.
 */
static void count_out(struct websocket *ws, const uint8_t *data, size_t len)
{
	if (ws->frame_left || len < 2)
		return;
	uint64_t payload = data[1] & 0x7f;
	size_t head = payload == 127 ? 10 : payload == 126 ? 4 : 2;

	if (head > 2 && len >= head) {
		payload = 0;
		for (size_t i = 2; i < head; i++)
			payload = payload << 8 | data[i];
	}
	ws->frame_left = head + payload;
	if ((data[0] & 0xf) >= WSLAY_CONNECTION_CLOSE && ws->controls)
		ws->controls--;
}

static ssize_t put(struct websocket *ws, const void *data, size_t len, bool more)
{
	if (over_tls(ws))
		return peer_send(ws->rq->peer, data, len);
	return send(ws->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT | (more ? MSG_MORE : 0));
}

static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags,
		       void *arg)
{
	struct websocket *ws = arg;

	count_out(ws, data, len);
	ssize_t n = put(ws, data, len, flags & WSLAY_MSG_MORE);

	if (n < 0)
		wslay_event_set_error(ctx, errno == EAGAIN || errno == EINTR
						   ? WSLAY_ERR_WOULDBLOCK
						   : WSLAY_ERR_CALLBACK_FAILURE);
	else
		ws->frame_left -= (uint64_t)n < ws->frame_left ? (uint64_t)n : ws->frame_left;
	return n;
}

bool websocket_send(struct websocket *ws, bool text, struct str data)
{
	struct wslay_event_msg msg = { text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME,
				       (const uint8_t *)data.ptr, data.len };

	if (ws->leaving || ws->closing || ws->broken || ws->stage > STAGE_OPEN)
		return false;
	/* What waits to leave counts with the other buffers. */
	ws->starved = !buffers_set(ws->rq, BUFFER_STREAM, queued(ws) + QUEUED_EXTRA + data.len);
	if (data.len > websocket_room(ws) || ws->starved ||
	    wslay_event_queue_msg(ws->wslay, &msg) != 0) {
		ws->full = true;
		arm(ws);
		return false;
	}
	arm(ws);
	return true;
}

/* ---- what comes in ---- */

static bool reads(const struct websocket *ws)
{
	return !ws->paused && !ws->broken && !ws->held.len && ws->controls < CONTROLS_MAX &&
	       wslay_event_want_read(ws->wslay);
}

static ssize_t take_early(struct websocket *ws, uint8_t *out, size_t len)
{
	size_t n = ws->early.len < len ? ws->early.len : len;

	memcpy(out, ws->early.ptr, n);
	buf_consume(&ws->early, n);
	return (ssize_t)n;
}

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *out, size_t len, int flags, void *arg)
{
	struct websocket *ws = arg;
	ssize_t n;

	(void)flags;
	wslay_event_set_error(ctx, WSLAY_ERR_WOULDBLOCK);
	if (!reads(ws) || ws->fed >= FED_AT_ONCE)
		return -1;
	if (ws->early.len)
		return take_early(ws, out, len);
	n = recv(ws->fd, out, len, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR) && !ws->left)
		return -1;
	if (n <= 0) {
		ws->broken = true;
		wslay_event_set_error(ctx, WSLAY_ERR_CALLBACK_FAILURE);
		return -1;
	}
	ws->fed += (size_t)n;
	ws->heard_ms = clock_mono_ms();
	ws->pinged_ms = 0;
	return n;
}

static void too_big(struct websocket *ws)
{
	fail(ws, WSLAY_CODE_MESSAGE_TOO_BIG, "message too big");
}

static void on_frame(wslay_event_context_ptr ctx,
		     const struct wslay_event_on_frame_recv_start_arg *frame, void *arg)
{
	struct websocket *ws = arg;

	(void)ctx;
	ws->opcode = frame->opcode;
	if (!wslay_is_ctrl_frame(frame->opcode) &&
	    frame->payload_length > ws->config.message_max - ws->message.len)
		too_big(ws);
}

/*
 * SECURITY: memory grows with what has come, not with what a frame announces, nor (as in wslay's
 * own buffers) with the number of fragments.
 */
static void on_chunk(wslay_event_context_ptr ctx,
		     const struct wslay_event_on_frame_recv_chunk_arg *chunk, void *arg)
{
	struct websocket *ws = arg;

	(void)ctx;
	if (ws->closing || wslay_is_ctrl_frame(ws->opcode))
		return;
	if (!buf_add(&ws->message, chunk->data, chunk->data_length))
		too_big(ws);
	else if (!buffers_set(ws->rq, BUFFER_BODY, ws->message.cap))
		fail(ws, 1013, "the server holds too much; try again later");
}

static void forget_message(struct websocket *ws)
{
	buf_done(&ws->message);
	buffers_set(ws->rq, BUFFER_BODY, 0);
}

/* wslay parses all of one read, so some messages may come after a pause. */
static void hold(struct websocket *ws, bool text)
{
	uint64_t size = ws->message.len;

	if (!buf_add(&ws->held, &text, sizeof(text)) || !buf_add(&ws->held, &size, sizeof(size)) ||
	    !buf_add(&ws->held, ws->message.ptr, ws->message.len))
		fail(ws, WSLAY_CODE_INTERNAL_SERVER_ERROR, "out of memory");
}

static void on_message(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *msg,
		       void *arg)
{
	struct websocket *ws = arg;

	(void)ctx;
	if (wslay_is_ctrl_frame(msg->opcode)) {
		ws->controls += msg->opcode != WSLAY_PONG;
		return;
	}
	if (!ws->closing) {
		bool text = msg->opcode == WSLAY_TEXT_FRAME;

		if (ws->paused || ws->held.len)
			hold(ws, text);
		else
			ws->ev.message(ws->arg, text, buf_str(&ws->message));
	}
	forget_message(ws);
}

static void deliver_held(struct websocket *ws)
{
	size_t at = 0;

	while (at < ws->held.len && !ws->paused && !ws->closing) {
		bool text;
		uint64_t size;

		memcpy(&text, ws->held.ptr + at, sizeof(text));
		memcpy(&size, ws->held.ptr + at + sizeof(text), sizeof(size));
		at += sizeof(text) + sizeof(size);
		ws->ev.message(ws->arg, text, (struct str){ ws->held.ptr + at, (size_t)size });
		at += (size_t)size;
	}
	buf_consume(&ws->held, ws->closing ? ws->held.len : at);
}

/* ---- turns of the loop ---- */

/* What the peer is still sending would make the end a reset, which destroys our close before it is
 * read. */
static void begin_linger(struct websocket *ws)
{
	if (ws->stage != STAGE_OPEN)
		return;
	ws->stage = STAGE_LINGER;
	end_output(ws);
}

static void drop_input(struct websocket *ws)
{
	char bin[16 * 1024];
	ssize_t n = recv(ws->fd, bin, sizeof(bin), MSG_DONTWAIT);

	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		ws->broken = true;
}

/* Of a malformed control frame wslay makes a close without a code: ours goes instead. */
static void say_protocol_error(struct websocket *ws)
{
	static const char frame[] = "\x88\x02\x03\xea"; /* 1002 */

	wslay_event_shutdown_write(ws->wslay);
	if (ws->closing || ws->frame_left || put(ws, frame, sizeof(frame) - 1, false) < 0)
		ws->broken = true;
	else
		begin_linger(ws);
	ws->closing = true;
	ws->goodbye_ms = clock_mono_ms() + GOODBYE_MS;
}

static void feed(struct websocket *ws)
{
	deliver_held(ws);
	ws->fed = 0;
	if (reads(ws) && wslay_event_recv(ws->wslay) < 0 && !ws->broken)
		say_protocol_error(ws);
	/* wslay answers what breaks the protocol with a close of its own. */
	if (!wslay_event_get_read_enabled(ws->wslay) && !ws->closing) {
		ws->closing = true;
		ws->goodbye_ms = clock_mono_ms() + GOODBYE_MS;
		ws->failing = !wslay_event_get_close_received(ws->wslay);
	}
}

/* After our close: where both have said goodbye it is over. */
static void after_close(struct websocket *ws)
{
	if (wslay_event_get_close_received(ws->wslay)) {
		ws->broken = true;
	} else if (ws->failing) {
		begin_linger(ws);
	}
}

static void settle(struct websocket *ws)
{
	if (ws->stage == STAGE_OPEN && wslay_event_want_write(ws->wslay) &&
	    wslay_event_send(ws->wslay) < 0)
		ws->broken = true;
	leave(ws);
	buffers_set(ws->rq, BUFFER_STREAM, queued(ws));
	if (wslay_event_get_close_sent(ws->wslay))
		after_close(ws);
	if (ws->broken) {
		give_back(ws);
		return;
	}
	if (ws->full && !ws->leaving && !ws->closing && queued(ws) <= ws->config.queue_max / 2) {
		ws->full = false;
		ws->ev.drained(ws->arg);
	}
	arm(ws);
}

static void on_socket(void *arg, int events)
{
	struct websocket *ws = arg;

	if (ws->stage == STAGE_LINGER)
		drop_input(ws);
	else if (events & LOOP_READ)
		feed(ws);
	settle(ws);
}

static void on_tls_room(void *arg, int events)
{
	(void)events;
	settle(arg);
}

static int64_t ping_ms(const struct websocket *ws)
{
	return (int64_t)(ws->config.ping_s ? ws->config.ping_s : PING_S_DEFAULT) * 1000;
}

/* What is not read cannot be heard: a pause is no silence of the peer's. */
static void check_silence(struct websocket *ws, int64_t now)
{
	const struct wslay_event_msg ping = { WSLAY_PING, NULL, 0 };

	if (ws->paused && !ws->left) {
		ws->heard_ms = now;
		ws->pinged_ms = 0;
	} else if (ws->left_ms && now - ws->left_ms >= 2 * ping_ms(ws)) {
		ws->broken = true;
	} else if (ws->pinged_ms && now - ws->pinged_ms >= 2 * ping_ms(ws)) {
		ws->broken = true;
	} else if (!ws->pinged_ms && now - ws->heard_ms >= ping_ms(ws)) {
		ws->pinged_ms = now;
		ws->controls++;
		wslay_event_queue_msg(ws->wslay, &ping);
	}
}

static void on_timer(void *arg)
{
	struct websocket *ws = arg;
	int64_t now = clock_mono_ms();

	ws->due_ms = 0;
	if ((ws->goodbye_ms && now >= ws->goodbye_ms) ||
	    (ws->leaving && !ws->closing && now >= ws->leave_ms))
		ws->broken = true;
	else if (!ws->closing)
		check_silence(ws, now);
	if (ws->stage == STAGE_OPEN && (ws->held.len || ws->early.len || ws->left))
		feed(ws);
	settle(ws);
}

/* What the loop is to wait for next. The owner is never called from here. */
static void arm(struct websocket *ws)
{
	int events = 0;
	int64_t delay_ms = ping_ms(ws) / 2;

	if (!ws->watch)
		return;
	if (ws->stage == STAGE_LINGER || reads(ws))
		events |= LOOP_READ;
	bool writes = ws->stage == STAGE_OPEN && wslay_event_want_write(ws->wslay);

	if (ws->tls_room)
		loop_watch_set(ws->tls_room, writes ? LOOP_WRITE : 0);
	else if (writes)
		events |= LOOP_WRITE;
	loop_watch_set(ws->watch, events);
	ws->broken |= ws->left && !ws->paused && !ws->held.len && !reads(ws);
	if (ws->broken || (ws->held.len && !ws->paused) ||
	    (reads(ws) && (ws->early.len || ws->left)))
		delay_ms = 0;
	else if (ws->starved || ws->goodbye_ms || ws->leaving)
		delay_ms = RETRY_MS;
	int64_t now = clock_mono_ms();

	if (ws->due_ms > now && ws->due_ms <= now + delay_ms)
		return;
	ws->due_ms = now + delay_ms;
	loop_timer_start(ws->timer, delay_ms);
}

/* ---- life ---- */

static const struct wslay_event_callbacks callbacks = {
	.recv_callback = on_recv,
	.send_callback = on_send,
	.on_frame_recv_start_callback = on_frame,
	.on_frame_recv_chunk_callback = on_chunk,
	.on_msg_recv_callback = on_message,
};

static struct websocket *new_websocket(const struct websocket_config *config)
{
	struct websocket *ws = calloc(1, sizeof(*ws));

	if (!ws)
		return NULL;
	if (wslay_event_context_server_init(&ws->wslay, &callbacks, ws) != 0) {
		free(ws);
		return NULL;
	}
	wslay_event_config_set_no_buffering(ws->wslay, 1);
	ws->config = *config;
	ws->fd = -1;
	buf_init(&ws->early, SIZE_MAX / 4);
	buf_init(&ws->message, config->message_max);
	buf_init(&ws->held, config->message_max + HELD_EXTRA);
	return ws;
}

struct websocket *websocket_accept(struct http_request *rq, const struct websocket_config *config,
				   const struct websocket_events *ev, void *arg, struct err *e)
{
	char accept[32];

	if (websocket_check(rq, accept, e) < 0) {
		if (e->code == ERR_UPGRADE_REQUIRED) {
			http_set_header(rq, "Sec-WebSocket-Version", "13");
			http_set_header(rq, "Upgrade", "websocket");
		}
		return NULL;
	}
	struct websocket *ws = new_websocket(config);

	if (!ws || http_set_header(rq, "Upgrade", "websocket") < 0 ||
	    http_set_header(rq, "Sec-WebSocket-Accept", accept) < 0 ||
	    (websocket_offers(rq, config->protocol) &&
	     http_set_header(rq, "Sec-WebSocket-Protocol", config->protocol) < 0) ||
	    http_defer(rq, free_websocket, ws) < 0) {
		if (ws)
			wslay_event_context_free(ws->wslay);
		free(ws);
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	ws->rq = rq;
	ws->ev = *ev;
	ws->arg = arg;
	rq->websocket = ws;
	reply_upgrade(rq);
	return ws;
}

void websocket_begin(struct websocket *ws, int fd, struct str early,
		     struct MHD_UpgradeResponseHandle *upgrade)
{
	int on = 1;

	ws->fd = fd;
	ws->upgrade = upgrade;
	ws->stage = STAGE_OPEN;
	ws->heard_ms = clock_mono_ms();
	/* Frames are to leave at once; MHD has switched it off. */
	setsockopt(request_fd(ws->rq), IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	ws->watch = loop_watch_new(fd, on_socket, ws);
	ws->timer = loop_timer_new(on_timer, ws);
	if (over_tls(ws))
		ws->tls_room = loop_watch_new(request_fd(ws->rq), on_tls_room, ws);
	if (!ws->watch || !ws->timer || (over_tls(ws) && !ws->tls_room) ||
	    !buf_add(&ws->early, early.ptr, early.len))
		give_back(ws);
	else
		arm(ws);
}

void websocket_left(struct websocket *ws, bool all_read)
{
	if (ws->stage != STAGE_OPEN && ws->stage != STAGE_LINGER)
		return;
	if (!ws->left_ms)
		ws->left_ms = clock_mono_ms();
	if (!all_read)
		return;
	ws->left = true;
	if (ws->stage == STAGE_LINGER)
		ws->broken = true;
	arm(ws);
}

void websocket_going_away(struct websocket *ws)
{
	if (ws->stage != STAGE_OPEN || ws->broken)
		return;
	queue_close(ws, WSLAY_CODE_GOING_AWAY, STR("the server ends"));
	wslay_event_send(ws->wslay);
}

void websocket_pause(struct websocket *ws)
{
	ws->paused = true;
	arm(ws);
}

void websocket_resume(struct websocket *ws)
{
	ws->paused = false;
	arm(ws);
}

void websocket_close(struct websocket *ws, int code, const char *reason)
{
	struct str text = str_from(reason ? reason : "");

	text.len = utf8_cut(text, REASON_MAX);
	memcpy(ws->leave_reason, text.ptr, text.len);
	ws->leave_reason[text.len] = '\0';
	ws->leave_code = code;
	ws->leaving = true;
	ws->leave_ms = clock_mono_ms() + LEAVE_MS;
	ws->paused = false; /* for the peer's close */
	leave(ws);
	arm(ws);
}
