/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * list: intrusive doubly linked list. A node belongs to at most one list; `list_init` makes a node
 * that is in none, and `list_remove` of such a node is harmless.
 */

#include "base/own.h"

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next;
	struct list *prev;
};

static inline void list_init(struct list *l)
{
	l->next = l->prev = l;
}

static inline bool list_empty(const struct list *l)
{
	return l->next == l;
}

static inline void list_add_tail(struct list *head, struct list *node)
{
	node->prev = head->prev;
	node->next = head;
	head->prev->next = node;
	head->prev = node;
}

static inline void list_add_head(struct list *head, struct list *node)
{
	list_add_tail(head->next, node);
}

static inline void list_remove(struct list *node)
{
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

#define list_entry(node, type, member) container_of(node, type, member)
#define list_first(head, type, member) list_entry((head)->next, type, member)
/** list_each: `it` walks the entries; the current one may be removed in the body. */
#define list_each(head, type, member, it)                                                          \
	for (type *it = list_entry((head)->next, type, member),                                    \
		  *it##_next = list_entry(it->member.next, type, member);                          \
	     &it->member != (head);                                                                \
	     it = it##_next, it##_next = list_entry(it->member.next, type, member))
