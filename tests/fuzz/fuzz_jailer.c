/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Packets to the jailer. One that is accepted has names that are hexadecimal digits and a NUL (they
 * become parts of paths), a language that is a word, and limits in range; one that is refused says
 * why.
 */
#include "base/own.h"
#include "jailer/jailer.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_name(const char *name, size_t size)
{
	assert(strnlen(name, size) == size - 1);
	assert(strspn(name, "0123456789abcdef") == size - 1);
}

static void check_accepted(const struct jailer_request *rq)
{
	const struct jailer_limits *l = &rq->limits;

	assert(rq->version == JAILER_PROTO_VERSION);
	if (rq->op == JAILER_CREATE || rq->op == JAILER_START_KERNEL || rq->op == JAILER_DESTROY ||
	    rq->op == JAILER_STATS || rq->op == JAILER_MEMORY || rq->op == JAILER_NETWORK ||
	    rq->op == JAILER_REFUSED || (rq->op == JAILER_LIST && rq->sid[0]))
		check_name(rq->sid, sizeof(rq->sid));
	if (rq->op == JAILER_CREATE || rq->op == JAILER_IMAGE)
		check_name(rq->image, sizeof(rq->image));
	if (rq->op == JAILER_START_KERNEL) {
		size_t len = strnlen(rq->language, sizeof(rq->language));

		assert(len < sizeof(rq->language));
		assert(strspn(rq->language, "abcdefghijklmnopqrstuvwxyz0123456789-") == len);
	}
	assert(rq->op != JAILER_NETWORK || rq->network <= 1);
	if (rq->op == JAILER_MEMORY && l->memory_bytes) /* 0: that of CREATE */
		assert(l->memory_bytes >= 16u << 20 && l->memory_bytes <= 1ull << 40);
	if (rq->op != JAILER_CREATE)
		return;
	assert(l->memory_bytes && l->memory_bytes <= 1ull << 40);
	assert(l->data_bytes && l->data_bytes <= 1ull << 40);
	assert(l->tmp_bytes && l->tmp_bytes <= 1ull << 40);
	assert(l->pids >= 8 && l->inodes >= 64 && l->open_files >= 64);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	/* As the jailer receives it: aligned, one byte larger than any request. */
	union {
		struct jailer_request rq;
		char bytes[sizeof(struct jailer_request) + 1];
	} packet = { .bytes = { 0 } };
	struct err e = ERR_INIT;

	if (size > sizeof(packet.bytes))
		size = sizeof(packet.bytes);
	if (size)
		memcpy(packet.bytes, data, size);
	if (opcode_request_ok(&packet, size, &e)) {
		assert(size == sizeof(packet.rq) && e.code == ERR_NONE);
		check_accepted(&packet.rq);
	} else {
		assert(e.code == ERR_PROTOCOL && e.msg[0]);
	}
	return 0;
}
