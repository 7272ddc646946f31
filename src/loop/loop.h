/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * loop: the daemon's one event loop (libuv) in the few shapes the daemon needs.
 *
 * One thread. Callbacks run on the loop and must not block. Timers and watches are embedded in
 * their owner's object but closed asynchronously by libuv, so each is a small heap object owned by
 * the loop: `x = loop_timer_new()`, `loop_timer_free(x)` may be called from anywhere, also from its
 * own callback.
 */

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

struct uv_loop_s;
struct loop_timer;
struct loop_watch;

typedef void (*loop_timer_fn)(void *arg);
typedef void (*loop_watch_fn)(void *arg, int events);

enum { LOOP_READ = 1, LOOP_WRITE = 2 };

int loop_init(struct err *e);
void loop_done(void);
struct uv_loop_s *loop_uv(void);
/** loop_run: until loop_stop(). */
void loop_run(void);
void loop_stop(void);
/** loop_now_ms: the loop's cached monotonic clock. */
int64_t loop_now_ms(void);

struct loop_timer *loop_timer_new(loop_timer_fn fn, void *arg);
/** loop_timer_start: fires once after delay_ms; restarts if pending. */
void loop_timer_start(struct loop_timer *t, int64_t delay_ms);
void loop_timer_stop(struct loop_timer *t);
void loop_timer_free(struct loop_timer *t); /* accepts NULL */

/** loop_watch_new: polls fd (not owned) for LOOP_READ/LOOP_WRITE; error conditions wake as
 * LOOP_READ. */
struct loop_watch *loop_watch_new(int fd, loop_watch_fn fn, void *arg);
void loop_watch_set(struct loop_watch *w, int events); /* 0 stops */
/** loop_watch_free: the caller may close fd right after. Accepts NULL. */
void loop_watch_free(struct loop_watch *w);

/** loop_signal: calls fn on the loop for each signum from now on. */
int loop_signal(int signum, void (*fn)(int signum), struct err *e);

/** loop_later: runs fn(arg) on the next turn of the loop, once. */
int loop_later(void (*fn)(void *arg), void *arg);
