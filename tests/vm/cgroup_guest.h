/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * cgroup_guest: sandboxes made with src/jailer/cgroup.c inside a guest, and processes in them.
 *
 * Whoever starts a process ends it (end, expect_killed) and then removes the sandbox.
 */

#include "jailer/cgroup.h"

#include <stdint.h>
#include <sys/types.h>

#define ROOT     "/sys/fs/cgroup"
#define V1_CPU   "/sys/fs/v1cpu"
#define INSTANCE "0123abcd"
#define SID      "0123456789abcdef0123456789abcdef"
#define OTHER    "fedcba9876543210fedcba9876543210"
#define TREE     ROOT "/bivouac/" INSTANCE
#define MIB      (1ull << 20)
#define MEMORY   (24 * MIB)
#define PIDS     12
#define QUOTA    100 /* thousandths of a core */
/* Long for an emulated processor on a loaded machine; a check that waits this long has failed. */
#define PATIENCE_S 30

/** layout: what the checks work with; open from the guest's start. */
extern struct cgroup_layout layout;
extern const struct jailer_limits limits;

/** read_text: a file without its only newline; valid until the next call. */
const char *read_text(const char *path);
uint64_t read_number(const char *path, const char *word);
void expect_text(const char *path, const char *want);
void expect_gone(const char *path);
int64_t seconds(void);

/** What members of a sandbox do: wait, use the processor, take three times the memory limit, take
 * 60 % of it and stop, fork until refused and exit with the number of children. */
void idle(void);
void spin(void);
void hog_all(void);
void hog_half(void);
void fork_all(void);

/** start_agent: a process moved in by pid, which then runs fn. */
pid_t start_agent(const char *sid, void (*fn)(void));
/** start_kernel: a process that joins by itself and runs fn. */
pid_t start_kernel(const char *sid, void (*fn)(void));
void end(pid_t pid);
int wait_end(pid_t pid);
void expect_killed(pid_t pid);
bool is_alive(pid_t pid);

void create(const char *sid);
void remove_sandbox(const char *sid);

/** Checks of cgroup_guest_container.c: Bivouac where only a part of the tree is visible. */
void check_container(void);
void check_strangers(void);
void check_not_ours(void);
void check_not_delegated(void);
void check_read_only(void);
