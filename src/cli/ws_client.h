/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * ws_client: the client's end of a WebSocket, over a connection of libcurl (TLS and all) and
 * libwslay. Non-blocking after ws_client_open(): whoever drives it polls ws_client_fd().
 */

#include "cli/client.h"

#define WS_CLIENT_MESSAGE_MAX (1u << 20)

struct ws_client;

struct ws_client_events {
	void (*message)(void *arg, bool text, struct str data);
	/** closed: the server said goodbye, or the connection ended (code 1006). */
	void (*closed)(void *arg, unsigned code);
};

/** ws_client_open: url is http or https. A server that refuses becomes its error. */
struct ws_client *ws_client_open(struct cli *cli, const char *url, const char *protocol,
				 const struct ws_client_events *ev, void *arg, struct err *e);
void ws_client_free(struct ws_client *ws); /* accepts NULL */
int ws_client_fd(const struct ws_client *ws);
/** ws_client_events_wanted: POLLIN, POLLOUT. */
short ws_client_wants(const struct ws_client *ws);
/** ws_client_turn: reads and writes what is possible. */
void ws_client_turn(struct ws_client *ws);
/** ws_client_queued: bytes that wait to be sent. */
size_t ws_client_queued(const struct ws_client *ws);
void ws_client_send(struct ws_client *ws, bool text, struct str data);
void ws_client_close(struct ws_client *ws);
