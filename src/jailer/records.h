/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * records: what the jailer must know about its sandboxes after it was killed: one small file each
 * in <run>/j, written when a sandbox is complete, and the block of host uids that belongs to this
 * run directory.
 */

#include "base/jailer_proto.h"
#include "jailer/confine.h"

#include <sys/types.h>

struct record {
	char sid[JAILER_SID_SIZE];
	char image[JAILER_IMAGE_SIZE];
	unsigned slot;
	pid_t pid;
	unsigned long long
		start_time; /* field 22 of /proc/pid/stat: tells a reused pid from ours */
	/* SECURITY: of every kernel to come; kept here and not asked for in START_KERNEL, so that
	 * the daemon cannot change them once the sandbox is made. The memory is what CREATE set,
	 * and the most that MEMORY may set. */
	struct confine_limits limits;
};

int record_write(int dfd, const struct record *r, struct err *e);
void record_remove(int dfd, const char *sid);
/** record_each: unreadable files are passed to fn as a record with pid 0. */
int record_each(int dfd, void (*fn)(const struct record *r, void *arg), void *arg, struct err *e);
/** record_start_time: 1 and the start time of a living process, 0 if there is none, -1 cannot say.
 */
int record_start_time(pid_t pid, unsigned long long *ret, struct err *e);

/** Sandboxes per daemon, and host ids per daemon: RECORD_SLOTS * JAIL_IDS_PER_SLOT. */
#define RECORD_SLOTS 16384
/**
 * record_uid_block: the first host uid of this run directory's block; the same again after a
 * restart. Blocks are kept in `dir` (shared by all daemons of the machine), one link per block that
 * names its run directory.
 */
int record_uid_block(const char *dir, const char *run_dir, uid_t *ret, struct err *e);
/** record_uid_index: which block that is, from 0; as unique on the machine as the block. */
unsigned record_uid_index(uid_t first);
void record_uid_release(const char *dir, const char *run_dir);
