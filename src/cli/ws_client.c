/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/ws_client.h"

#include "base/clock.h"
#include "base/own.h"
#include "base/rand.h"
#include "cli/cli.h"
#include "cli/output.h"

#include <openssl/sha.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>
#include <wslay/wslay.h>

#define HEAD_MAX  (32u * 1024)
#define ERROR_MAX (64u * 1024)
#define GUID      "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" /* RFC 6455 §1.3 */
#define OPEN_MS   30000

struct ws_client {
	CURL *curl; /* the CLI's */
	curl_socket_t fd;
	wslay_event_context_ptr wslay;
	struct buf in; /* read with the head of the answer already */
	const struct ws_client_events *ev;
	void *arg;
	bool over;
};

static void ended(struct ws_client *ws, unsigned code)
{
	if (ws->over)
		return;
	ws->over = true;
	ws->ev->closed(ws->arg, code);
}

/* --- wslay's callbacks --- */

static ssize_t on_recv(wslay_event_context_ptr ctx, uint8_t *data, size_t len, int flags, void *arg)
{
	struct ws_client *ws = arg;
	size_t n = 0;

	(void)flags;
	if (ws->in.len) {
		n = ws->in.len < len ? ws->in.len : len;
		memcpy(data, ws->in.ptr, n);
		buf_consume(&ws->in, n);
		return (ssize_t)n;
	}
	CURLcode rc = curl_easy_recv(ws->curl, data, len, &n);

	if (rc == CURLE_OK && n > 0)
		return (ssize_t)n;
	wslay_event_set_error(ctx, rc == CURLE_AGAIN ? WSLAY_ERR_WOULDBLOCK
						     : WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

static ssize_t on_send(wslay_event_context_ptr ctx, const uint8_t *data, size_t len, int flags,
		       void *arg)
{
	struct ws_client *ws = arg;
	size_t n = 0;
	CURLcode rc = curl_easy_send(ws->curl, data, len, &n);

	(void)flags;
	if (rc == CURLE_OK && n > 0)
		return (ssize_t)n;
	wslay_event_set_error(ctx, rc == CURLE_AGAIN || rc == CURLE_OK
					   ? WSLAY_ERR_WOULDBLOCK
					   : WSLAY_ERR_CALLBACK_FAILURE);
	return -1;
}

static int on_mask(wslay_event_context_ptr ctx, uint8_t *data, size_t len, void *arg)
{
	(void)ctx;
	(void)arg;
	rand_bytes(data, len);
	return 0;
}

static void on_message(wslay_event_context_ptr ctx, const struct wslay_event_on_msg_recv_arg *m,
		       void *arg)
{
	struct ws_client *ws = arg;

	(void)ctx;
	if (m->opcode == WSLAY_TEXT_FRAME || m->opcode == WSLAY_BINARY_FRAME)
		ws->ev->message(ws->arg, m->opcode == WSLAY_TEXT_FRAME,
				(struct str){ (const char *)m->msg, m->msg_length });
}

/* --- the handshake --- */

static int send_all(struct ws_client *ws, struct str text, struct err *e)
{
	int64_t until = clock_mono_ms() + OPEN_MS;

	while (text.len) {
		struct pollfd p = { .fd = ws->fd, .events = POLLOUT };
		size_t n = 0;
		CURLcode rc = curl_easy_send(ws->curl, text.ptr, text.len, &n);

		if (rc != CURLE_OK && rc != CURLE_AGAIN)
			return err_set(e, ERR_UNAVAILABLE, "%s", curl_easy_strerror(rc));
		text.ptr += n;
		text.len -= n;
		if (text.len && (clock_mono_ms() > until || poll(&p, 1, 1000) < 0))
			return err_set(e, ERR_TIMEOUT, "the server takes no request");
	}
	return 0;
}

/* More of the answer; 0 at its end. */
static int read_more(struct ws_client *ws, size_t max, struct err *e)
{
	int64_t until = clock_mono_ms() + OPEN_MS;

	for (;;) {
		struct pollfd p = { .fd = ws->fd, .events = POLLIN };
		size_t n = 0;

		if (ws->in.len >= max || !buf_reserve(&ws->in, 4096))
			return err_set(e, ERR_PROTOCOL, "the server's answer is too long");
		CURLcode rc = curl_easy_recv(ws->curl, ws->in.ptr + ws->in.len, 4096, &n);

		if (rc == CURLE_OK) {
			ws->in.len += n;
			ws->in.ptr[ws->in.len] = '\0';
			return n > 0;
		}
		if (rc != CURLE_AGAIN)
			return err_set(e, ERR_UNAVAILABLE, "%s", curl_easy_strerror(rc));
		if (clock_mono_ms() > until || poll(&p, 1, 1000) < 0)
			return err_set(e, ERR_TIMEOUT, "the server does not answer");
	}
}

static bool header_is(struct str head, const char *name, const char *value)
{
	OWNED_MEM char *line = str_printf("\r\n%s: %s\r\n", name, value);

	for (size_t i = 0; line && i + strlen(line) <= head.len; i++)
		if (strncasecmp(head.ptr + i, line, strlen(line)) == 0)
			return true;
	return false;
}

/* Of the head's Content-Length; without one, until the end. */
static size_t body_length(const char *head)
{
	const char *line = strcasestr(head, "\r\nContent-Length:");
	size_t n = line ? strtoul(strchr(line, ':') + 1, NULL, 10) : ERROR_MAX;

	return n < ERROR_MAX ? n : ERROR_MAX;
}

/* The server's refusal, as any other request would show it; what is there of it will do. */
static int refused(struct ws_client *ws, size_t length, long status, struct err *e)
{
	struct err ignored = ERR_INIT;

	while (ws->in.len < length && read_more(ws, ERROR_MAX, &ignored) > 0)
		;
	const char *brace = strchr(ws->in.ptr ? ws->in.ptr : "", '{');

	return client_refusal(status, str_from(brace ? brace : ""), e);
}

static int check_answer(struct ws_client *ws, const char *key, struct err *e)
{
	OWNED_MEM char *joined = str_printf("%s" GUID, key);
	unsigned char digest[SHA_DIGEST_LENGTH];
	struct buf accept;
	const char *end;
	long status = 0;

	while (!(end = ws->in.ptr ? strstr(ws->in.ptr, "\r\n\r\n") : NULL)) {
		int rc = read_more(ws, HEAD_MAX, e);

		if (rc <= 0)
			return rc < 0 ? -1
				      : err_set(e, ERR_UNAVAILABLE,
						"the server closed the connection");
	}
	struct str head = { ws->in.ptr, (size_t)(end - ws->in.ptr) + 2 };

	if (sscanf(ws->in.ptr, "HTTP/1.1 %ld", &status) != 1)
		return err_set(e, ERR_PROTOCOL, "the server does not speak HTTP/1.1");
	if (status != 101) {
		size_t length = body_length(ws->in.ptr);

		buf_consume(&ws->in, head.len + 2);
		return refused(ws, length, status, e);
	}
	if (!joined)
		return err_set(e, ERR_NOMEM, "out of memory");
	SHA1((const unsigned char *)joined, strlen(joined), digest);
	buf_init(&accept, 64);
	base64_encode(&accept, digest, sizeof(digest));
	bool ok = header_is(head, "Sec-WebSocket-Accept", accept.ptr);

	buf_done(&accept);
	if (!ok)
		return err_set(e, ERR_PROTOCOL, "the server's WebSocket handshake is wrong");
	buf_consume(&ws->in, head.len + 2);
	return 0;
}

static int handshake(struct ws_client *ws, struct cli *cli, const char *url, const char *protocol,
		     struct err *e)
{
	OWNED_MEM char *target = NULL;
	OWNED_MEM char *headers = NULL;
	unsigned char nonce[16];
	struct buf key;

	if (client_connect(cli, CLIENT_DATA, url, &target, &headers, e) < 0)
		return -1;
	ws->curl = cli->client.curl;
	if (curl_easy_getinfo(ws->curl, CURLINFO_ACTIVESOCKET, &ws->fd) != CURLE_OK)
		return err_set(e, ERR_SYSTEM, "libcurl has no socket");
	rand_bytes(nonce, sizeof(nonce));
	buf_init(&key, 64);
	base64_encode(&key, nonce, sizeof(nonce));
	OWNED_MEM char *request = str_printf("GET %s HTTP/1.1\r\n%s"
					     "Upgrade: websocket\r\nConnection: Upgrade\r\n"
					     "Sec-WebSocket-Version: 13\r\n"
					     "Sec-WebSocket-Protocol: %s\r\n"
					     "Sec-WebSocket-Key: %s\r\n\r\n",
					     target, headers, protocol, key.ptr);
	int rc = -1;

	if (!request)
		err_set(e, ERR_NOMEM, "out of memory");
	else if (send_all(ws, str_from(request), e) == 0)
		rc = check_answer(ws, key.ptr, e);
	buf_done(&key);
	return rc;
}

struct ws_client *ws_client_open(struct cli *cli, const char *url, const char *protocol,
				 const struct ws_client_events *ev, void *arg, struct err *e)
{
	static const struct wslay_event_callbacks callbacks = {
		.recv_callback = on_recv,
		.send_callback = on_send,
		.genmask_callback = on_mask,
		.on_msg_recv_callback = on_message,
	};
	struct ws_client *ws = calloc(1, sizeof(*ws));

	if (!ws) {
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	ws->fd = -1;
	ws->ev = ev;
	ws->arg = arg;
	buf_init(&ws->in, HEAD_MAX + ERROR_MAX);
	if (handshake(ws, cli, url, protocol, e) < 0) {
		ws_client_free(ws);
		return NULL;
	}
	if (wslay_event_context_client_init(&ws->wslay, &callbacks, ws) != 0) {
		err_set(e, ERR_NOMEM, "out of memory");
		ws_client_free(ws);
		return NULL;
	}
	wslay_event_config_set_max_recv_msg_length(ws->wslay, WS_CLIENT_MESSAGE_MAX);
	return ws;
}

void ws_client_free(struct ws_client *ws)
{
	if (!ws)
		return;
	if (ws->wslay)
		wslay_event_context_free(ws->wslay);
	buf_done(&ws->in);
	free(ws);
}

int ws_client_fd(const struct ws_client *ws)
{
	return ws->fd;
}

short ws_client_wants(const struct ws_client *ws)
{
	return (short)(POLLIN | (wslay_event_want_write(ws->wslay) ? POLLOUT : 0));
}

void ws_client_turn(struct ws_client *ws)
{
	if (ws->over)
		return;
	/* The library says 0 also when it would have to wait. */
	if (wslay_event_recv(ws->wslay) != 0 || wslay_event_send(ws->wslay) != 0)
		ended(ws, 1006);
	else if (wslay_event_get_close_received(ws->wslay))
		ended(ws, wslay_event_get_status_code_received(ws->wslay));
}

size_t ws_client_queued(const struct ws_client *ws)
{
	return wslay_event_get_queued_msg_length(ws->wslay);
}

void ws_client_send(struct ws_client *ws, bool text, struct str data)
{
	struct wslay_event_msg m = { .opcode = text ? WSLAY_TEXT_FRAME : WSLAY_BINARY_FRAME,
				     .msg = (const uint8_t *)data.ptr,
				     .msg_length = data.len };

	if (!ws->over && wslay_event_queue_msg(ws->wslay, &m) != 0)
		ended(ws, 1006);
}

void ws_client_close(struct ws_client *ws)
{
	if (!ws->over && wslay_event_queue_close(ws->wslay, 1000, NULL, 0) == 0)
		wslay_event_send(ws->wslay);
}
