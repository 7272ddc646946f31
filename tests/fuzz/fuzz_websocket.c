/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Input: a byte that says in what pieces the rest comes and whether the owner pauses, then what a
 * peer sends after the handshake. Whatever it is: messages are whole, not too long, UTF-8 if they
 * are text, and do not come in a pause; closed() comes once; what goes out are frames.
 */

#include "http/websocket.c"

#include <assert.h>

#define MESSAGE_MAX 2000
#define QUEUE_MAX   4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct http_server server = { .stopping = true, .config = { .buffers_max = 1 << 20 } };
static struct listener listener = { .server = &server };
static bool pauses;
static int closed;
static struct websocket *now;

static void fuzz_message(void *arg, bool text, struct str message)
{
	(void)arg;
	assert(!closed && !now->paused && message.len <= MESSAGE_MAX);
	assert(!text || utf8_valid(message));
	websocket_send(now, text, message);
	if (pauses)
		websocket_pause(now);
	if (message.len == 3)
		websocket_close(now, 4000, "three");
}

static void fuzz_drained(void *arg)
{
	(void)arg;
	assert(!closed);
}

static void fuzz_closed(void *arg, int code)
{
	(void)arg;
	assert(code >= 1000 && code < 5000);
	closed++;
}

static const struct websocket_events events = { fuzz_message, fuzz_drained, fuzz_closed };

/* All that our side has said, which must be whole frames as long as nobody stops reading. */
static void check_output(int fd)
{
	static uint8_t out[1 << 18];
	ssize_t n = recv(fd, out, sizeof(out), MSG_DONTWAIT);
	size_t at = 0;

	while (n > 0 && at < (size_t)n) {
		assert(at + 2 <= (size_t)n && !(out[at] & 0x70) && !(out[at + 1] & 0x80));
		size_t len = out[at + 1];
		size_t head = len < 126 ? 2 : 4;

		assert(len != 127 && at + head <= (size_t)n);
		if (len == 126)
			len = (size_t)out[at + 2] << 8 | out[at + 3];
		at += head + len;
		assert(at <= (size_t)n);
	}
}

static void talk(struct websocket *ws, int peer, const uint8_t *data, size_t size, size_t piece)
{
	while (size && ws->stage != STAGE_OVER) {
		size_t n = size < piece ? size : piece;

		if (send(peer, data, n, MSG_NOSIGNAL | MSG_DONTWAIT) != (ssize_t)n)
			break;
		data += n;
		size -= n;
		on_socket(ws, LOOP_READ);
		check_output(peer);
		if (ws->stage != STAGE_OVER && ws->paused) {
			websocket_resume(ws);
			on_socket(ws, LOOP_READ);
			check_output(peer);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct websocket_config config = { NULL, MESSAGE_MAX, QUEUE_MAX, 0 };
	struct http_request rq = { .server = &server, .listener = &listener };
	int pair[2];

	if (size < 1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return 0;
	struct websocket *ws = new_websocket(&config);

	if (!ws)
		abort();
	now = ws;
	closed = 0;
	pauses = data[0] & 0x80;
	ws->rq = &rq;
	rq.websocket = ws;
	ws->ev = events;
	ws->fd = pair[0];
	ws->stage = STAGE_OPEN;
	talk(ws, pair[1], data + 1, size - 1, (size_t)(data[0] & 0x7f) * 8 + 1);
	close(pair[1]);
	if (ws->stage != STAGE_OVER)
		on_socket(ws, LOOP_READ);
	free_websocket(ws);
	assert(closed == 1);
	buffers_done(&rq);
	assert(!server.buffered);
	close(pair[0]);
	return 0;
}
