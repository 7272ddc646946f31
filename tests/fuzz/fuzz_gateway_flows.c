/* SPDX-License-Identifier: Apache-2.0 */
#include "base/gateway_proto.h"
#include "gateway/flows.h"

#include <assert.h>
#include <string.h>

/* Input: one datagram from the kernel. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(void *arg, const struct flow_record *r)
{
	(void)arg;
	assert(r->version == FLOW_PROTO_VERSION);
	assert(r->event == FLOW_NEW || r->event == FLOW_REFUSED || r->event == FLOW_END);
	assert((r->event == FLOW_REFUSED) == (r->reason != FLOW_REASON_NONE));
	assert((r->session & GATEWAY_SANDBOX_MASK) == GATEWAY_SANDBOX_NET);
	assert(r->count == 0 && r->name[0] == '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	flows_parse(data, size, check, NULL);
	return 0;
}
