/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The MCP server: whatever the body says, and whichever way its tools end, a request is answered
 * once, every message with an id by one reply with that id, in order; a client that leaves in the
 * middle leaves nothing under way. Input: a script of bytes up to the first line break (how
 * operations end; the first byte: after how many turns the client leaves, 0 never), then the body.
 */
#include "base/json.h"
#include "mcp_world.h"

#include <assert.h>
#include <math.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_reply(const json_t *reply)
{
	json_t *error = json_object_get(reply, "error");
	json_t *result = json_object_get(reply, "result");

	assert(strcmp(json_string_value(json_object_get(reply, "jsonrpc")), "2.0") == 0);
	assert(json_object_get(reply, "id") && !error != !result);
	if (!error)
		return;
	assert(json_is_integer(json_object_get(error, "code")));
	assert(json_string_length(json_object_get(error, "message")) > 0);
}

static bool is_id(const json_t *id)
{
	int64_t n;
	double d = json_is_real(id) ? json_real_value(id) : 0.5;

	return json_is_string(id) || (json_is_number(id) && (d != floor(d) || json_to_int(id, &n)));
}

/* A whole number may come back without its ".0". */
static bool same_id(const json_t *a, const json_t *b)
{
	if (json_is_real(a) && json_is_integer(b))
		return json_real_value(a) == (double)json_integer_value(b);
	return json_equal(a, b);
}

/* Each reply whose id is not null belongs to the next message with that id. */
static void check_order(json_t *messages, json_t *replies)
{
	size_t at = 0;
	size_t i;
	json_t *reply;

	json_array_foreach(replies, i, reply) {
		json_t *id = json_object_get(reply, "id");

		check_reply(reply);
		if (json_is_null(id))
			continue;
		while (at < json_array_size(messages) &&
		       !same_id(json_object_get(json_array_get(messages, at), "id"), id))
			at++;
		assert(at < json_array_size(messages));
		at++;
	}
}

/* Those that must have a reply with their id. */
static size_t calls(json_t *messages)
{
	size_t count = 0;
	size_t i;
	json_t *msg;

	json_array_foreach(messages, i, msg) {
		const char *version = json_string_value(json_object_get(msg, "jsonrpc"));

		count += mcp_text(json_object_get(msg, "method")) && version &&
			 mcp_text(json_object_get(msg, "jsonrpc")) && strcmp(version, "2.0") == 0 &&
			 is_id(json_object_get(msg, "id"));
	}
	return count;
}

static size_t replies_with_id(json_t *replies)
{
	size_t count = 0;
	size_t i;
	json_t *reply;

	json_array_foreach(replies, i, reply)
		count += is_id(json_object_get(reply, "id"));
	return count;
}

static void check(const struct http_request *rq)
{
	struct err e = ERR_INIT;
	json_t *body = json_parse_body(rq->body, &e);

	assert(rq->status == 200 || rq->status == 202 || rq->status == 400);
	if (rq->status == 202) {
		json_t *messages = json_is_array(body) ? json_incref(body) : json_pack("[O]", body);

		assert(!rq->reply && body && calls(messages) == 0);
		json_decref(messages);
		json_decref(body);
		return;
	}
	json_t *reply = json_loadb(rq->reply, rq->reply_len, JSON_ALLOW_NUL, NULL);

	assert(reply);
	if (rq->status == 400) {
		check_reply(reply);
	} else {
		assert(body && json_is_array(reply) == json_is_array(body));
		json_t *messages = json_is_array(body) ? json_incref(body) : json_pack("[O]", body);
		json_t *replies = json_is_array(reply) ? json_incref(reply)
						       : json_pack("[O]", reply);

		check_order(messages, replies);
		assert(calls(messages) == replies_with_id(replies));
		json_decref(messages);
		json_decref(replies);
	}
	json_decref(reply);
	json_decref(body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *in = (const char *)data;
	const char *line = size ? memchr(in, '\n', size) : NULL;
	size_t head = line ? (size_t)(line - in) : 0;
	size_t skip = line ? head + 1 : 0;
	struct http_request rq;

	mcp_world_begin(&rq, (struct str){ in, head }, (struct str){ in + skip, size - skip });
	unsigned turns = mcp_world_byte();

	mcp_post(&rq, NULL);
	/* A script that has ended ends every operation. */
	for (unsigned turn = 1; turn != turns && mcp_world_turn(); turn++)
		;
	if (rq.status)
		check(&rq);
	else
		assert(turns);
	mcp_world_end(&rq);
	return 0;
}
