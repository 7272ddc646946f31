/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What sandboxes do on the network: records of the gateway become lines of the log, and JSON
 * documents for whoever keeps them.
 *
 * SECURITY: the gateway reads packets of sandboxes and may be taken over. It names a sandbox by its
 * address; whose that is, is known here alone, from the jailer. Records of other addresses are
 * dropped and counted; names are bytes of the sandbox's choice and are escaped; per sandbox and in
 * all there are so many lines a second, the rest is counted. Lines carry the session's GUID, never
 * its identifier, which is a secret.
 */
#include "pool/internal.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/rand.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How long records of a sandbox that is gone still find its names, unless its address is another's
 * before. */
#define GONE_MS 30000
/* Lines a second. */
#define SANDBOX_BUDGET 300
#define BUDGET         3000
/* Of these, to each sandbox when half is used: the first ones leave something to the others. */
#define SHARE          30
#define UNKNOWN_SAY_MS 60000
#define NAME_TEXT_MAX  (4 * FLOW_NAME_SIZE)

struct flow_owner {
	struct map_node node; /* pools.flow_owners, by address */
	struct list gone;     /* pools.flow_gone */
	struct pools *pools;
	uint32_t address;
	struct sandbox *sandbox; /* NULL: not connected any more, and these say who it was: */
	int64_t gone_ms;
	char guid[UUID_TEXT_SIZE];
	char pool[sizeof(((struct session_pool_spec *)0)->name)];
	char *pool_key;
	struct flow_budget budget;
};

/* Whose a record is, in words. */
struct flow_names {
	const char *session; /* NULL: of no session */
	const char *pool;
	const char *pool_key;
};

static struct str address_key(const uint32_t *address)
{
	return (struct str){ (const char *)address, sizeof(*address) };
}

static struct flow_owner *find(struct pools *p, uint32_t address)
{
	struct map_node *n = map_get(&p->flow_owners, address_key(&address));

	return n ? container_of(n, struct flow_owner, node) : NULL;
}

static struct flow_names names_of(const struct flow_owner *o)
{
	if (!o)
		return (struct flow_names){ NULL, NULL, NULL };
	if (!o->sandbox)
		return (struct flow_names){ *o->guid ? o->guid : NULL, o->pool, o->pool_key };
	const struct session *s = o->sandbox->session;
	const struct session_pool_spec *spec = &o->sandbox->pool->spec;

	return (struct flow_names){ s ? s->guid : NULL, spec->name, spec->key };
}

static const char *event_word(unsigned event)
{
	static const char *const words[] = { NULL, "new", "refused", "end", "dns", "lost" };

	return event < ARRAY_LEN(words) ? words[event] : NULL;
}

static const char *reason_word(unsigned reason)
{
	static const char *const words[] = {
		NULL, "address", "host", "connections", "rate", "spoofed", "protocol", "query",
	};

	return reason < ARRAY_LEN(words) ? words[reason] : "unknown";
}

static const char *protocol_word(unsigned protocol, char buf[static 8])
{
	switch (protocol) {
	case IPPROTO_TCP:
		return "tcp";
	case IPPROTO_UDP:
		return "udp";
	case IPPROTO_ICMP:
		return "icmp";
	default:
		snprintf(buf, 8, "%u", protocol);
		return buf;
	}
}

/* Printable ASCII without what would break a line of key=value pairs; other bytes as \xNN. */
static const char *name_text(const char *name, char buf[static NAME_TEXT_MAX])
{
	size_t n = 0;

	for (const unsigned char *c = (const unsigned char *)name; *c; c++) {
		if (*c > 0x20 && *c < 0x7f && !strchr("\"\\=", *c))
			buf[n++] = (char)*c;
		else
			n += (size_t)snprintf(buf + n, NAME_TEXT_MAX - n, "\\x%02x", *c);
	}
	buf[n] = '\0';
	return buf;
}

static json_t *number(uint64_t n)
{
	return json_integer((json_int_t)(n & INT64_MAX));
}

static void add_destination(json_t *doc, const struct flow_record *r)
{
	char text[INET_ADDRSTRLEN];
	char number[8];
	struct in_addr address = { htonl(r->address) };

	/* A question for a name goes to one place only. */
	if (!r->address || r->event == FLOW_DNS)
		return;
	json_object_set_new(doc, "protocol", json_string(protocol_word(r->protocol, number)));
	json_object_set_new(doc, "address",
			    json_string(inet_ntop(AF_INET, &address, text, sizeof(text))));
	json_object_set_new(doc, "port", json_integer(r->port));
}

/* The members of a record that mean something, in the order people read them. */
static json_t *document(const struct flow_names *names, const struct flow_record *r)
{
	char text[NAME_TEXT_MAX];
	const char *reason = reason_word(r->reason);
	char when[CLOCK_TEXT_SIZE];
	json_t *doc = json_pack("{s:s, s:s, s:s?, s:s?, s:s?}", "time",
				clock_format(clock_wall_us(), when), "event", event_word(r->event),
				"session", names->session, "pool", names->pool, "poolId",
				names->pool_key);

	add_destination(doc, r);
	if (r->event == FLOW_REFUSED && reason)
		json_object_set_new(doc, "reason", json_string(reason));
	if (r->event == FLOW_END) {
		json_object_set_new(doc, "bytesOut", number(r->bytes_out));
		json_object_set_new(doc, "bytesIn", number(r->bytes_in));
	}
	/* Of questions that were refused there is one record a second. */
	if (r->event == FLOW_LOST || (r->event == FLOW_REFUSED && r->count))
		json_object_set_new(doc, "count", number(r->count));
	if (*r->name)
		json_object_set_new(doc, "name", json_string(name_text(r->name, text)));
	return doc;
}

/* The same as key=value pairs; a line of the log has its time already. */
static void log_document(json_t *doc)
{
	char line[2048];
	size_t n = 0;
	const char *key;
	json_t *v;

	json_object_foreach(doc, key, v) {
		size_t left = sizeof(line) - n;

		if (strcmp(key, "time") == 0 || strcmp(key, "poolId") == 0)
			continue;
		int len = json_is_integer(v)
				  ? snprintf(line + n, left, " %s=%" JSON_INTEGER_FORMAT, key,
					     json_integer_value(v))
				  : snprintf(line + n, left, " %s=%s", key,
					     json_is_string(v) ? json_string_value(v) : "-");

		if (len < 0 || (size_t)len >= left)
			break;
		n += (size_t)len;
	}
	line[n] = '\0';
	log_info("egress%s", line);
}

static void say(struct pools *p, const struct flow_names *names, const struct flow_record *r)
{
	json_t *doc = document(names, r);
	char *text = doc && p->config.flow_line ? json_dumps(doc, JSON_COMPACT) : NULL;

	if (doc)
		log_document(doc);
	if (text)
		p->config.flow_line(text, strlen(text));
	free(text);
	json_decref(doc);
}

static void say_lost(struct pools *p, const struct flow_owner *o, struct flow_budget *b)
{
	struct flow_record r = { .event = FLOW_LOST, .count = b->dropped };
	struct flow_names names = names_of(o);

	if (b->dropped)
		say(p, &names, &r);
	b->dropped = 0;
}

/* Whether one more line fits into this second; o: whose budget it is, NULL: that of all. */
static bool spend(struct pools *p, const struct flow_owner *o, struct flow_budget *b, unsigned max)
{
	int64_t second = loop_now_ms() / 1000;

	if (second != b->second) {
		b->second = second;
		b->used = 0;
		say_lost(p, o, b);
	}
	if (b->used >= max) {
		b->dropped++;
		return false;
	}
	b->used++;
	return true;
}

static void owner_free(struct flow_owner *o)
{
	say_lost(o->pools, o, &o->budget);
	map_remove(&o->pools->flow_owners, &o->node);
	list_remove(&o->gone);
	free(o->pool_key);
	free(o);
}

static void prune(struct pools *p)
{
	while (!list_empty(&p->flow_gone)) {
		struct flow_owner *o = list_first(&p->flow_gone, struct flow_owner, gone);

		if (loop_now_ms() - o->gone_ms < GONE_MS)
			return;
		owner_free(o);
	}
}

struct flow_owner *flow_owner_new(struct sandbox *sb, uint32_t address)
{
	struct pools *p = sb->pool->pools;
	struct flow_owner *before = find(p, address);
	struct flow_owner *o = calloc(1, sizeof(*o));

	if (!o)
		return NULL;
	if (before && before->sandbox) {
		/* The jailer's word is the later one; the other's records have no owner, and it
		 * asks again when next its pool or the jailer changes. */
		log_error("sandboxes %s and %s have the same address", before->sandbox->sid,
			  sb->sid);
		before->sandbox->network.owner = NULL;
	}
	if (before)
		owner_free(before);
	prune(p);
	o->pools = p;
	o->sandbox = sb;
	o->address = address;
	list_init(&o->gone);
	if (map_put(&p->flow_owners, &o->node, address_key(&o->address)) < 0) {
		free(o);
		return NULL;
	}
	return o;
}

uint32_t flow_owner_address(const struct flow_owner *o)
{
	return o->address;
}

void flow_owner_leave(struct flow_owner *o)
{
	if (!o)
		return;
	struct flow_names names = names_of(o);

	o->pool_key = str_dup(str_from(names.pool_key));
	snprintf(o->guid, sizeof(o->guid), "%s", names.session ? names.session : "");
	snprintf(o->pool, sizeof(o->pool), "%s", names.pool);
	o->sandbox = NULL;
	o->gone_ms = loop_now_ms();
	list_add_tail(&o->pools->flow_gone, &o->gone);
}

static void note_unknown(struct pools *p)
{
	p->flows_unknown++;
	if (loop_now_ms() < p->flows_unknown_next_ms)
		return;
	p->flows_unknown_next_ms = loop_now_ms() + UNKNOWN_SAY_MS;
	log_warn("%" PRIu64 " egress records of unknown sandboxes dropped so far",
		 p->flows_unknown);
}

void pools_flow(struct pools *p, const struct flow_record *r)
{
	prune(p);
	struct flow_owner *o = find(p, r->session);

	if (!event_word(r->event) || (!o && r->event != FLOW_LOST)) {
		note_unknown(p);
		return;
	}
	/* What a link without a route still sends while its sandbox ends was not spoofed. */
	if (o && !o->sandbox && r->event == FLOW_REFUSED && r->reason == FLOW_REASON_SPOOFED)
		return;
	bool scarce = p->flow_budget.second == loop_now_ms() / 1000 &&
		      p->flow_budget.used >= BUDGET / 2;

	if (o && !spend(p, o, &o->budget, scarce ? SHARE : SANDBOX_BUDGET))
		return;
	if (!spend(p, NULL, &p->flow_budget, BUDGET))
		return;
	struct flow_names names = names_of(o);

	say(p, &names, r);
}

void flows_done(struct pools *p)
{
	for (struct map_node *n; (n = map_next(&p->flow_owners, NULL));)
		owner_free(container_of(n, struct flow_owner, node));
	map_done(&p->flow_owners);
}
