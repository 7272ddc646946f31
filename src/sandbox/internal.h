/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/** internal: what the files that make up the connection to an agent share. */

#include "base/buf.h"
#include "base/list.h"
#include "loop/loop.h"
#include "sandbox/agent_link.h"

/* One for each kernel and terminal there can be, and as many that are replaced meanwhile. */
#define ATTACHMENTS_MAX (2 * (AGENT_KERNELS_MAX + AGENT_TERMINALS_MAX))

struct agent_link {
	int fd;
	struct loop_watch *watch;
	struct buf in;
	struct buf out;
	bool writing;
	bool broken;
	bool busy; /* inside a callback loop: freeing is postponed */
	bool freed;
	const struct agent_link_events *events;
	void *arg;
	struct list files;     /* struct agent_file_op */
	struct list terminals; /* struct agent_terminal */
	size_t terminal_count;
	uint64_t next_op;
	/* Descriptors that wait for their frames to reach the front of `out`, in order. */
	struct attachment {
		int fd;
		size_t at; /* bytes of `out` before that frame */
	} attachments[ATTACHMENTS_MAX];
	size_t attachment_count;
};

/* agent_link.c */
/** link_send: queues one frame; -1 if the link is broken, which comes back as its end. */
int link_send(struct agent_link *l, enum agent_msg type, uint64_t op, struct str head,
	      struct str tail);
int link_send_u32(struct agent_link *l, enum agent_msg type, uint64_t op, uint32_t value);
/** link_send_fd: queues one that a descriptor goes with; takes fd. */
void link_send_fd(struct agent_link *l, enum agent_msg type, uint64_t op, struct str payload,
		  int fd);

/*
 * agent_files.c, agent_terminals.c: take_… handle a frame and return false if it breaks the
 * protocol; …_fail ends all operations until the link is freed by one of them, …_done forgets them.
 */
bool files_take(struct agent_link *l, enum agent_msg type, uint64_t op, struct str payload);
/** files_take_error: false: no file operation has this number. */
bool files_take_error(struct agent_link *l, uint64_t op, const struct err *e);
void files_fail(struct agent_link *l, const struct err *e, bool freeing);
bool terminals_take(struct agent_link *l, enum agent_msg type, uint64_t op, struct str payload);
void terminals_take_error(struct agent_link *l, uint64_t op, const struct err *e);
void terminals_fail(struct agent_link *l, const struct err *e, bool freeing);
