/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Egress settings of the jailer's command line, and resolv.conf. The first byte says which; what is
 * accepted is in range, and a ruleset printed from it has no byte of the input that is not a
 * number.
 */
#include "base/own.h"
#include "jailer/rules.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_allow(const struct egress_options *o)
{
	static const char set[] = "elements = { ";
	struct buf text;

	assert(o->allow_count <= EGRESS_ALLOW_MAX);
	for (size_t i = 0; i < o->allow_count; i++) {
		assert(o->allow[i].prefix >= 1 && o->allow[i].prefix <= 32);
		assert(!(o->allow[i].address & ~(UINT32_MAX << (32 - o->allow[i].prefix))));
	}
	buf_init(&text, RULES_TEXT_MAX);
	rules_uplink(o, 0, true, &text);
	assert(buf_ok(&text));
	char *elements = strstr(text.ptr, set);

	assert(!elements == !o->allow_count);
	if (elements) {
		elements += sizeof(set) - 1;
		assert(elements[strspn(elements, "0123456789./, ")] == '}');
	}
	buf_done(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct egress_options o = EGRESS_OPTIONS_INIT;
	struct err e = ERR_INIT;

	if (!size)
		return 0;
	OWNED_MEM char *text = str_dup((struct str){ (const char *)data + 1, size - 1 });

	assert(text);
	if (data[0] == 'a') {
		int rc = egress_parse_allow(&o, text, &e);

		assert((rc == 0) == (e.code == ERR_NONE));
		check_allow(&o);
	} else if (data[0] == 'd') {
		int rc = egress_parse_dns(&o, text, &e);

		assert((rc == 0) == (e.code == ERR_NONE));
		assert(o.dns_count <= EGRESS_DNS_MAX);
	} else {
		assert(egress_read_resolv_conf(text, o.dns) <= EGRESS_DNS_MAX);
	}
	return 0;
}
