/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/loop.h"

#include "base/list.h"

#include <stdlib.h>
#include <uv.h>

struct loop_timer {
	uv_timer_t uv;
	loop_timer_fn fn;
	void *arg;
};

struct loop_watch {
	uv_poll_t uv;
	loop_watch_fn fn;
	void *arg;
};

struct later {
	struct list node;
	void (*fn)(void *arg);
	void *arg;
};

static uv_loop_t loop;
static uv_check_t later_check;
static uv_idle_t later_idle; /* keeps the loop from sleeping while jobs wait */
static struct list laters;
static uv_signal_t signals[4];
static size_t signal_count;

static void run_laters(uv_check_t *check)
{
	struct list batch;

	(void)check;
	if (list_empty(&laters))
		return;
	/* Jobs queued by jobs wait for the next turn: take the present ones as a batch. */
	list_init(&batch);
	list_each(&laters, struct later, node, l) {
		list_remove(&l->node);
		list_add_tail(&batch, &l->node);
	}
	uv_idle_stop(&later_idle);
	while (!list_empty(&batch)) {
		struct later *l = list_first(&batch, struct later, node);

		list_remove(&l->node);
		l->fn(l->arg);
		free(l);
	}
}

static void idle_nothing(uv_idle_t *idle)
{
	(void)idle;
}

int loop_init(struct err *e)
{
	int rc = uv_loop_init(&loop);

	if (rc < 0)
		return err_set(e, ERR_SYSTEM, "event loop: %s", uv_strerror(rc));
	list_init(&laters);
	uv_check_init(&loop, &later_check);
	uv_check_start(&later_check, run_laters);
	uv_idle_init(&loop, &later_idle);
	return 0;
}

static void close_any(uv_handle_t *handle, void *arg)
{
	(void)arg;
	if (!uv_is_closing(handle))
		uv_close(handle, NULL);
}

void loop_done(void)
{
	uv_walk(&loop, close_any, NULL);
	uv_run(&loop, UV_RUN_DEFAULT);
	while (!list_empty(&laters)) {
		struct later *l = list_first(&laters, struct later, node);

		list_remove(&l->node);
		free(l);
	}
	uv_loop_close(&loop);
}

struct uv_loop_s *loop_uv(void)
{
	return &loop;
}

void loop_run(void)
{
	uv_run(&loop, UV_RUN_DEFAULT);
}

void loop_stop(void)
{
	uv_stop(&loop);
}

int64_t loop_now_ms(void)
{
	return (int64_t)uv_now(&loop);
}

static void timer_fired(uv_timer_t *uv)
{
	struct loop_timer *t = container_of(uv, struct loop_timer, uv);

	t->fn(t->arg);
}

struct loop_timer *loop_timer_new(loop_timer_fn fn, void *arg)
{
	struct loop_timer *t = calloc(1, sizeof(*t));

	if (!t)
		return NULL;
	uv_timer_init(&loop, &t->uv);
	t->fn = fn;
	t->arg = arg;
	return t;
}

void loop_timer_start(struct loop_timer *t, int64_t delay_ms)
{
	/* libuv counts from its cached time; bring it up to date or a long callback shortens the
	 * timer. */
	uv_update_time(&loop);
	uv_timer_start(&t->uv, timer_fired, delay_ms > 0 ? (uint64_t)delay_ms : 0, 0);
}

void loop_timer_stop(struct loop_timer *t)
{
	uv_timer_stop(&t->uv);
}

static void free_timer(uv_handle_t *handle)
{
	free(container_of((uv_timer_t *)handle, struct loop_timer, uv));
}

void loop_timer_free(struct loop_timer *t)
{
	if (t)
		uv_close((uv_handle_t *)&t->uv, free_timer);
}

static void watch_fired(uv_poll_t *uv, int status, int events)
{
	struct loop_watch *w = container_of(uv, struct loop_watch, uv);
	int out = 0;

	if (status < 0 || (events & (UV_READABLE | UV_DISCONNECT)))
		out |= LOOP_READ;
	if (events & UV_WRITABLE)
		out |= LOOP_WRITE;
	w->fn(w->arg, out);
}

struct loop_watch *loop_watch_new(int fd, loop_watch_fn fn, void *arg)
{
	struct loop_watch *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	if (uv_poll_init(&loop, &w->uv, fd) < 0) {
		free(w);
		return NULL;
	}
	w->fn = fn;
	w->arg = arg;
	return w;
}

void loop_watch_set(struct loop_watch *w, int events)
{
	int uv = (events & LOOP_READ ? UV_READABLE : 0) | (events & LOOP_WRITE ? UV_WRITABLE : 0);

	if (uv)
		uv_poll_start(&w->uv, uv, watch_fired);
	else
		uv_poll_stop(&w->uv);
}

static void free_watch(uv_handle_t *handle)
{
	free(container_of((uv_poll_t *)handle, struct loop_watch, uv));
}

void loop_watch_free(struct loop_watch *w)
{
	if (w)
		uv_close((uv_handle_t *)&w->uv, free_watch);
}

static void signal_fired(uv_signal_t *handle, int signum)
{
	void (*fn)(int) = handle->data;

	fn(signum);
}

int loop_signal(int signum, void (*fn)(int signum), struct err *e)
{
	if (signal_count >= ARRAY_LEN(signals))
		return err_set(e, ERR_INTERNAL, "too many signal handlers");
	uv_signal_t *s = &signals[signal_count++];

	uv_signal_init(&loop, s);
	s->data = fn;
	int rc = uv_signal_start(s, signal_fired, signum);

	return rc < 0 ? err_set(e, ERR_SYSTEM, "signal %d: %s", signum, uv_strerror(rc)) : 0;
}

int loop_later(void (*fn)(void *arg), void *arg)
{
	struct later *l = malloc(sizeof(*l));

	if (!l)
		return -1;
	list_init(&l->node);
	l->fn = fn;
	l->arg = arg;
	list_add_tail(&laters, &l->node);
	uv_idle_start(&later_idle, idle_nothing);
	return 0;
}
