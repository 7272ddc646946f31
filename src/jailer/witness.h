/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * witness: tells which system calls the filter refused to whom.
 *
 * The filter of a zygote, which all its kernels inherit, sends known and dangerous calls to a
 * listener instead of failing them itself. At the other end sits one small process per zygote, the
 * witness: it writes the call's number and the time into the caller's place of a file in the run
 * directory, then lets the call fail. The jailer reads the file when the daemon asks. Calls that
 * are allowed cost nothing; no kernel pays for loading another filter.
 *
 * The witness outlives the jailer, as sandboxes do, and ends when the last process under its filter
 * has ended. If it is lost, refused calls fail with ENOSYS: still refused, only nameless.
 */

#include "base/jailer_proto.h"

#include <sys/types.h>

#include <stdint.h>

#define WITNESS_CALLS 8

/** What one sandbox was refused lately; zero: never used. */
struct witness_place {
	struct {
		int64_t at_ns; /* CLOCK_MONOTONIC, of the last time */
		int64_t nr;
	} calls[WITNESS_CALLS];
};

/** witness_map: the file with a place for every slot, made if it is not there; NULL on error. */
struct witness_place *witness_map(const char *run_dir, struct err *e);
/**
 * witness_start: forks the witness. It holds on to `listener`, which the caller closes, and to
 * `alive`, the writing end of a pipe whose end of file says that all witnesses are gone.
 */
int witness_start(struct witness_place *places, int listener, int alive, uid_t uid_base,
		  struct err *e);
/** witness_clear: a slot begins its life with another sandbox. */
void witness_clear(struct witness_place *place);
/** witness_names: of calls refused since then, latest first; returns how many (at most max). */
size_t witness_names(const struct witness_place *place, int64_t since_ns,
		     char (*names)[JAILER_CALL_SIZE], size_t max);
