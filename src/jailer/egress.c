/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/egress.h"

#include "base/str.h"

#include <arpa/inet.h>
#include <inttypes.h>

#define CONNECTIONS_MAX 65536
#define RATE_MAX        10000
/* The kernel keeps a limit's burst, which is a second's worth, in 32 bits. */
#define BANDWIDTH_MIN 65536
#define BANDWIDTH_MAX 4000000000u

/* Dotted decimal only: no octal, no short forms. */
static bool parse_address(struct str text, uint32_t *ret)
{
	char copy[INET_ADDRSTRLEN];
	struct in_addr in;

	if (!str_copy(text, copy, sizeof(copy)) || inet_pton(AF_INET, copy, &in) != 1)
		return false;
	*ret = ntohl(in.s_addr);
	return true;
}

static int parse_cidr(struct str text, struct cidr *ret, struct err *e)
{
	const char *slash = memchr(text.ptr, '/', text.len);
	struct str address = { text.ptr, slash ? (size_t)(slash - text.ptr) : text.len };
	uint64_t prefix = 32;
	struct cidr c;

	if (!parse_address(address, &c.address) ||
	    (slash &&
	     !str_to_u64((struct str){ slash + 1, text.len - address.len - 1 }, 32, &prefix)))
		return err_set(e, ERR_INVALID,
			       "--egress-allow: '%.*s' is no IPv4 network such as 10.1.0.0/16",
			       text.len > 40 ? 40 : (int)text.len, text.ptr);
	if (prefix == 0)
		return err_set(e, ERR_INVALID,
			       "--egress-allow: a prefix of 0 would allow everything, the host "
			       "included; name the networks");
	c.prefix = (unsigned)prefix;
	if (c.address & ~(UINT32_MAX << (32 - c.prefix)))
		return err_set(e, ERR_INVALID, "--egress-allow: '%.*s' has bits beyond its prefix",
			       STR_ARG(text));
	*ret = c;
	return 0;
}

/* Cuts the part before the next comma off `rest`; false when nothing is left. */
static bool next_item(struct str *rest, struct str *ret)
{
	if (!rest->ptr)
		return false;
	const char *comma = memchr(rest->ptr, ',', rest->len);

	ret->ptr = rest->ptr;
	ret->len = comma ? (size_t)(comma - rest->ptr) : rest->len;
	*rest = comma ? (struct str){ comma + 1, rest->len - ret->len - 1 }
		      : (struct str){ NULL, 0 };
	return true;
}

int egress_parse_switch(struct egress_options *o, const char *text, struct err *e)
{
	o->off = strcmp(text, "off") == 0;
	return o->off || strcmp(text, "on") == 0
		       ? 0
		       : err_set(e, ERR_INVALID, "--egress: on or off, not '%.40s'", text);
}

int egress_parse_allow(struct egress_options *o, const char *text, struct err *e)
{
	struct str rest = str_from(text);

	for (struct str item; next_item(&rest, &item);) {
		if (o->allow_count == EGRESS_ALLOW_MAX)
			return err_set(e, ERR_INVALID, "--egress-allow: more than %d networks",
				       EGRESS_ALLOW_MAX);
		if (parse_cidr(item, &o->allow[o->allow_count], e) < 0)
			return -1;
		o->allow_count++;
	}
	return 0;
}

int egress_parse_dns(struct egress_options *o, const char *text, struct err *e)
{
	struct str rest = str_from(text);

	o->dns_given = true;
	o->dns_count = 0;
	for (struct str item; next_item(&rest, &item);) {
		if (o->dns_count == EGRESS_DNS_MAX)
			return err_set(e, ERR_INVALID, "--dns: more than %d resolvers",
				       EGRESS_DNS_MAX);
		if (!parse_address(item, &o->dns[o->dns_count]))
			return err_set(e, ERR_INVALID, "--dns: '%.*s' is no IPv4 address",
				       item.len > 40 ? 40 : (int)item.len, item.ptr);
		o->dns_count++;
	}
	return 0;
}

static int parse_number(const char *option, const char *text, uint64_t min, uint64_t max,
			uint64_t *ret, struct err *e)
{
	uint64_t value;

	if (!str_to_u64(str_from(text), max, &value) || value < min)
		return err_set(e, ERR_INVALID, "%s: a number from %" PRIu64 " to %" PRIu64, option,
			       min, max);
	*ret = value;
	return 0;
}

int egress_parse_connections(struct egress_options *o, const char *text, struct err *e)
{
	uint64_t value;

	if (parse_number("--egress-connections", text, 1, CONNECTIONS_MAX, &value, e) < 0)
		return -1;
	o->connections = (uint32_t)value;
	return 0;
}

int egress_parse_rate(struct egress_options *o, const char *text, struct err *e)
{
	uint64_t value;

	if (parse_number("--egress-rate", text, 1, RATE_MAX, &value, e) < 0)
		return -1;
	o->rate = (uint32_t)value;
	return 0;
}

int egress_parse_bandwidth(struct egress_options *o, const char *text, struct err *e)
{
	return parse_number("--egress-bandwidth", text, BANDWIDTH_MIN, BANDWIDTH_MAX, &o->bandwidth,
			    e);
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

size_t egress_read_resolv_conf(const char *text, uint32_t dns[static EGRESS_DNS_MAX])
{
	static const char keyword[] = "nameserver";
	size_t count = 0;

	while (*text && count < EGRESS_DNS_MAX) {
		size_t line = strcspn(text, "\n");
		struct str rest = { text, line };

		text += line + (text[line] == '\n');
		if (rest.len < sizeof(keyword) ||
		    memcmp(rest.ptr, keyword, sizeof(keyword) - 1) != 0 ||
		    !is_blank(rest.ptr[sizeof(keyword) - 1]))
			continue;
		rest = str_trim(
			(struct str){ rest.ptr + sizeof(keyword), rest.len - sizeof(keyword) });
		rest.len = strcspn(rest.ptr, " \t\r\n#;") < rest.len
				   ? strcspn(rest.ptr, " \t\r\n#;")
				   : rest.len;
		if (parse_address(rest, &dns[count]))
			count++;
	}
	return count;
}
