/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * map: intrusive chained hash table keyed by bytes that the entry owns.
 *
 * The table holds pointers to nodes embedded in the caller's objects; it never frees them. Hashes
 * are keyed (hash_bytes), so keys chosen by callers cannot make it slow. Single-threaded.
 */

#include "base/own.h"
#include "base/str.h"

struct map_node {
	struct map_node *next;
	uint64_t hash;
	struct str key;
};

struct map {
	struct map_node **slots;
	size_t slot_count;
	size_t len;
};

void map_init(struct map *m);
void map_done(struct map *m);
/** map_put: inserts; key bytes must live as long as the node. -1 when memory is out; no duplicate
 * check. */
int map_put(struct map *m, struct map_node *node, struct str key);
struct map_node *map_get(const struct map *m, struct str key);
/** map_remove: harmless if node is not in the map. */
void map_remove(struct map *m, struct map_node *node);
/** map_next: iteration; start with NULL; inserting while iterating is not allowed, removing `it`
 * after fetching next is. */
struct map_node *map_next(const struct map *m, const struct map_node *it);
