/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * doctor: checks of `bivouac doctor`, each of which tries the thing itself instead of reading that
 * it should work.
 *
 * What could hang, kill or change this process runs in a child with a deadline (doctor_child). A
 * check adds one or more findings. Nothing on the machine is left changed.
 */

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

enum finding_status { FINDING_OK, FINDING_WARN, FINDING_FAIL };

struct doctor {
	json_t *findings; /* list of {status, what, detail, fix} */
	bool failed;
};

/** doctor_add: fix is what to do about it, "" where nothing is. */
void doctor_add(struct doctor *d, enum finding_status status, const char *what, const char *fix,
		const char *fmt, ...) __attribute__((format(printf, 5, 6)));

#define TRIAL_TEXT_MAX    200
#define TRIAL_DEADLINE_MS 3000

/** What a child found out. */
enum trial_result { TRIAL_OK, TRIAL_PARTLY, TRIAL_FAILED, TRIAL_HUNG };
struct trial {
	enum trial_result result;
	char text[TRIAL_TEXT_MAX];
};

/** A trial runs in a child, fills in *t and returns. */
typedef void (*trial_fn)(struct trial *t, const void *arg);
void trial_set(struct trial *t, enum trial_result result, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
/** doctor_child: runs fn in a child; kills it at the deadline (TRIAL_HUNG); a death by signal is
 * TRIAL_FAILED. */
struct trial doctor_child(trial_fn fn, const void *arg, int deadline_ms);

void doctor_check_host(
	struct doctor *d); /* doctor_host.c: root, limits, memory, disk, programs, user, clock */
void doctor_check_kernel(
	struct doctor *d); /* doctor_kernel.c: version, calls, namespaces, seccomp, file systems */
void doctor_check_cgroup(struct doctor *d);  /* doctor_cgroup.c */
void doctor_check_network(struct doctor *d); /* doctor_network.c: what egress takes */
void doctor_check_kvm(struct doctor *d);     /* doctor_kvm.c */
