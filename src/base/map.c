/* SPDX-License-Identifier: Apache-2.0 */
#include "base/map.h"

#include <stdlib.h>

void map_init(struct map *m)
{
	*m = (struct map){ 0 };
}

void map_done(struct map *m)
{
	free(m->slots);
	*m = (struct map){ 0 };
}

static int grow(struct map *m)
{
	size_t count = m->slot_count ? m->slot_count * 2 : 64;
	struct map_node **slots = calloc(count, sizeof(struct map_node *));

	if (!slots)
		return -1;
	for (size_t i = 0; i < m->slot_count; i++) {
		for (struct map_node *n = m->slots[i], *next; n; n = next) {
			next = n->next;
			n->next = slots[n->hash & (count - 1)];
			slots[n->hash & (count - 1)] = n;
		}
	}
	free(m->slots);
	m->slots = slots;
	m->slot_count = count;
	return 0;
}

int map_put(struct map *m, struct map_node *node, struct str key)
{
	if (m->len >= m->slot_count && grow(m) < 0)
		return -1;
	node->key = key;
	node->hash = hash_bytes(key.ptr, key.len);
	size_t slot = node->hash & (m->slot_count - 1);

	node->next = m->slots[slot];
	m->slots[slot] = node;
	m->len++;
	return 0;
}

struct map_node *map_get(const struct map *m, struct str key)
{
	if (!m->slot_count)
		return NULL;
	uint64_t hash = hash_bytes(key.ptr, key.len);

	for (struct map_node *n = m->slots[hash & (m->slot_count - 1)]; n; n = n->next)
		if (n->hash == hash && str_eq(n->key, key))
			return n;
	return NULL;
}

void map_remove(struct map *m, struct map_node *node)
{
	if (!m->slot_count)
		return;
	for (struct map_node **p = &m->slots[node->hash & (m->slot_count - 1)]; *p;
	     p = &(*p)->next) {
		if (*p == node) {
			*p = node->next;
			node->next = NULL;
			m->len--;
			return;
		}
	}
}

struct map_node *map_next(const struct map *m, const struct map_node *it)
{
	size_t slot = 0;

	if (it) {
		if (it->next)
			return it->next;
		slot = (it->hash & (m->slot_count - 1)) + 1;
	}
	for (; slot < m->slot_count; slot++)
		if (m->slots[slot])
			return m->slots[slot];
	return NULL;
}
