/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/egress.h"

#include "base/own.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/** What the jailer takes. */
#define ALLOW_MAX 64
#define DNS_MAX   3
/** A wider network than this is a slip of the keyboard: 0.0.0.0/0 would open the host's
 * neighbourhood and the metadata service. */
#define PREFIX_MIN 8

/* Calls check for every item between commas. */
static int check_list(const char *option, const char *text, size_t max,
		      int (*check)(const char *option, const char *item, struct err *e),
		      struct err *e)
{
	size_t count = 0;

	for (const char *at = text; at; count++) {
		size_t len = strcspn(at, ",");
		char item[64];

		if (!str_copy((struct str){ at, len }, item, sizeof(item)))
			return err_set(e, ERR_INVALID, "--%s: '%.60s…' is too long", option, at);
		if (count == max)
			return err_set(e, ERR_INVALID, "--%s takes at most %zu, with ',' between",
				       option, max);
		if (check(option, item, e) < 0)
			return -1;
		at = at[len] ? at + len + 1 : NULL;
	}
	return 0;
}

static int check_cidr(const char *option, const char *item, struct err *e)
{
	char text[64];
	struct in_addr address;
	char *slash;
	uint64_t prefix = 32;

	snprintf(text, sizeof(text), "%s", item);
	slash = strchr(text, '/');
	if (slash)
		*slash = '\0';
	if (inet_pton(AF_INET, text, &address) != 1 ||
	    (slash && !str_to_u64(str_from(slash + 1), 32, &prefix)))
		return err_set(e, ERR_INVALID,
			       "--%s takes IPv4 networks as 10.1.0.0/16 or addresses as 10.1.2.3, "
			       "with ',' between, not '%s'",
			       option, item);
	if (prefix < PREFIX_MIN)
		return err_set(e, ERR_INVALID,
			       "--%s: %s is too wide; name networks of /%d or smaller", option,
			       item, PREFIX_MIN);
	uint32_t net = ntohl(address.s_addr) & (uint32_t)(0xffffffffull << (32 - prefix));

	if (net == ntohl(address.s_addr))
		return 0;
	address.s_addr = htonl(net);
	return err_set(e, ERR_INVALID,
		       "--%s: %s is an address within a network; the network is %s/%d, the "
		       "address alone %s/32",
		       option, item,
		       inet_ntop(AF_INET, &address, (char[INET_ADDRSTRLEN]){ 0 }, INET_ADDRSTRLEN),
		       (int)prefix, text);
}

static int check_address(const char *option, const char *item, struct err *e)
{
	struct in_addr address;

	if (inet_pton(AF_INET, item, &address) == 1 && address.s_addr != 0)
		return 0;
	return err_set(e, ERR_INVALID,
		       "--%s takes IPv4 addresses as 9.9.9.9, with ',' between, not '%s'", option,
		       item);
}

int egress_check(const struct options *o, struct err *e)
{
	if (strcmp(o->egress, "on") != 0 && strcmp(o->egress, "off") != 0)
		return err_set(e, ERR_INVALID, "--egress is on or off, not '%s'", o->egress);
	if (o->egress_allow &&
	    check_list("egress-allow", o->egress_allow, ALLOW_MAX, check_cidr, e) < 0)
		return -1;
	return o->dns ? check_list("dns", o->dns, DNS_MAX, check_address, e) : 0;
}

const char *egress_find(const struct options *o, const char *binary_dir)
{
	static const char *const nft[] = { "/usr/sbin/nft", "/sbin/nft" };
	bool found = false;

	if (strcmp(o->egress, "off") == 0)
		return "bivouacd runs with --egress off; start it with --egress on";
	for (size_t i = 0; i < ARRAY_LEN(nft); i++)
		found = found || access(nft[i], X_OK) == 0;
	if (!found)
		return "nft is not installed; apt install nftables and start bivouacd again";
	OWNED_MEM char *gateway = str_printf("%s/bivouac-gateway", binary_dir);

	if (!gateway || access(gateway, X_OK) < 0)
		return "bivouac-gateway is not installed beside bivouacd; install it and start "
		       "bivouacd again";
	return NULL;
}

void egress_args(const struct options *o, bool offered, const char *ret[EGRESS_ARGS_MAX + 1])
{
	static char numbers[3][24];
	const struct {
		const char *name;
		long value;
	} given[ARRAY_LEN(numbers)] = {
		{ "--egress-connections", o->egress_connections },
		{ "--egress-rate", o->egress_rate },
		{ "--egress-bandwidth", o->egress_bandwidth },
	};
	size_t n = 0;

	/* SECURITY: a daemon that was taken over asks the jailer in vain. */
	ret[n++] = "--egress";
	ret[n++] = offered ? "on" : "off";
	for (size_t i = 0; offered && i < ARRAY_LEN(given); i++) {
		snprintf(numbers[i], sizeof(numbers[i]), "%ld", given[i].value);
		ret[n++] = given[i].name;
		ret[n++] = numbers[i];
	}
	if (offered && o->egress_allow) {
		ret[n++] = "--egress-allow";
		ret[n++] = o->egress_allow;
	}
	if (offered && o->dns) {
		ret[n++] = "--dns";
		ret[n++] = o->dns;
	}
	ret[n] = NULL;
}
