/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/clock.h"
#include "base/own.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOO_LARGE "<value too large to return>"

unsigned long long exec_oom_kills(void)
{
	char text[512];
	ssize_t n = pread(AGENT_OOM_FD, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return 0;
	text[n] = '\0';
	char *at = strstr(text, "oom_kill ");

	return at ? strtoull(at + strlen("oom_kill "), NULL, 10) : 0;
}

/** What EXEC_DONE says; kernel.c's DONE frame fills the second half. */
struct exec_report {
	enum agent_exec_status status;
	uint64_t duration_us;
	struct agent_output *out; /* NULL: not kept */
	struct agent_output *err;
	struct str displays;
	uint32_t display_count;
	uint8_t kernel_status;
	uint8_t kind;
	struct str value, name, text, traceback;
};

static struct str kept_of(const struct agent_output *o)
{
	return o ? buf_str(&o->kept) : STR("");
}

static void put_report(struct buf *b, const struct agent_kernel *k, const struct exec_report *d,
		       bool whole)
{
	struct str out = whole ? kept_of(d->out) : STR("");
	struct str err = whole ? kept_of(d->err) : STR("");

	wire_put_u8(b, (uint8_t)d->status);
	wire_put_u8(b, (uint8_t)(k ? k->state : AGENT_KERNEL_NONE));
	wire_put_u64(b, d->duration_us);
	wire_put_u64(b, d->out ? d->out->total - out.len : 0);
	wire_put_u64(b, d->err ? d->err->total - err.len : 0);
	wire_put_u8(b, d->kind);
	wire_put_blob(b, d->value);
	wire_put_blob(b, out);
	wire_put_blob(b, err);
	wire_put_blob(b, d->name);
	wire_put_blob(b, d->text);
	wire_put_blob(b, d->traceback);
	wire_put_u32(b, whole ? d->display_count : 0);
	if (whole)
		buf_add_str(b, d->displays);
}

static void send_not_run(struct agent *a, const struct agent_kernel *k, uint64_t op)
{
	struct exec_report none = { .status = AGENT_RESULT_NOT_RUN };
	struct buf b;

	buf_init(&b, 256);
	put_report(&b, k, &none, true);
	conn_send(a, AGENT_EXEC_DONE, op, buf_str(&b));
	buf_done(&b);
}

static struct agent_kernel *find_running(struct agent *a, uint64_t op)
{
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		if (a->kernels[i] && a->kernels[i]->exec.running && a->kernels[i]->exec.op == op)
			return a->kernels[i];
	return NULL;
}

/* Each execution that runs will need a place among the results. */
static bool done_full(const struct agent *a)
{
	size_t count = a->done_count;

	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++)
		count += a->kernels[i] && a->kernels[i]->exec.running;
	return count >= AGENT_DONE_MAX;
}

static bool is_known(struct agent *a, uint64_t op)
{
	list_each(&a->done, struct agent_done, node, d)
		if (d->op == op)
			return true;
	return find_running(a, op) != NULL;
}

static void output_begin(struct agent_output *o, uint32_t max)
{
	/* Three bytes more than the limit, so that the daemon can cut between characters. */
	o->kept.max = (size_t)max + 3;
	o->total = 0;
	buf_clear(&o->kept);
}

void exec_start(struct agent *a, uint64_t op, struct wire_reader *r)
{
	struct agent_kernel *k = kernel_find(a, wire_get_u32(r));
	uint8_t flags = wire_get_u8(r);
	uint32_t timeout_ms = wire_get_u32(r);
	uint32_t stdout_max = wire_get_u32(r);
	uint32_t stderr_max = wire_get_u32(r);
	uint32_t result_max = wire_get_u32(r);
	uint32_t credit = wire_get_u32(r);
	struct str code = wire_get_blob(r, AGENT_CODE_MAX);

	if (wire_ok(r) && is_known(a, op))
		return; /* its result comes, or has come */
	if (!wire_ok(r) || !k || k->exec.running || k->state != AGENT_KERNEL_IDLE || done_full(a)) {
		send_not_run(a, k, op);
		return;
	}
	struct agent_exec *x = &k->exec;

	output_settle(a, k, KERNEL_RUN); /* what comes before belongs to nobody */
	x->running = true;
	x->streaming = flags & KERNEL_RUN_STREAM;
	x->op = op;
	x->result_max = result_max;
	x->credit = credit < AGENT_STREAM_WINDOW ? credit : AGENT_STREAM_WINDOW;
	x->ending = AGENT_RESULT_OK;
	x->started_ns = clock_mono_ns();
	x->ended_ns = 0;
	x->display_count = 0;
	buf_clear(&x->displays);
	k->oom_kills = exec_oom_kills();
	output_begin(&k->streams[0], stdout_max);
	output_begin(&k->streams[1], stderr_max);
	k->state = AGENT_KERNEL_BUSY;
	if (timeout_ms)
		kernel_arm(a, k, DEADLINE_RUN, timeout_ms);
	output_resume(a, k);
	kernel_run(a, k, flags & (KERNEL_RUN_STREAM | KERNEL_RUN_ARGV), code);
}

void exec_cancel(struct agent *a, uint64_t op)
{
	struct agent_kernel *k = find_running(a, op);

	if (!k || k->exec.ending != AGENT_RESULT_OK)
		return;
	if (k->exec.ended_ns) {
		output_unwatched(a, k); /* it is over; only its reader is not */
		return;
	}
	k->exec.ending = AGENT_RESULT_CANCELED;
	kernel_signal(k, SIGINT);
	kernel_arm(a, k, DEADLINE_KILL, AGENT_CANCEL_GRACE_MS);
	output_resume(a, k);
}

void exec_credit(struct agent *a, uint64_t op, struct wire_reader *r)
{
	struct agent_kernel *k = find_running(a, op);
	uint32_t more = wire_get_u32(r);

	if (!k || !wire_ok(r) || !k->exec.streaming)
		return;
	if (!more) {
		output_unwatched(a, k);
		return;
	}
	uint32_t room = AGENT_STREAM_WINDOW - k->exec.credit;

	k->exec.credit += more < room ? more : room;
	output_resume(a, k);
}

void exec_ack(struct agent *a, uint64_t op)
{
	list_each(&a->done, struct agent_done, node, d) {
		if (d->op != op)
			continue;
		list_remove(&d->node);
		buf_done(&d->payload);
		free(d);
		a->done_count--;
		return;
	}
}

void exec_pump(struct agent *a)
{
	list_each(&a->done, struct agent_done, node, d) {
		if (d->sent)
			continue;
		if (!conn_room(a))
			return;
		d->sent = true;
		conn_send(a, AGENT_EXEC_DONE, d->op, buf_str(&d->payload));
	}
}

void exec_resend(struct agent *a)
{
	list_each(&a->done, struct agent_done, node, d)
		d->sent = false;
	exec_pump(a);
}

void exec_display(struct agent *a, struct agent_kernel *k, struct str frame)
{
	struct agent_exec *x = &k->exec;
	struct wire_reader r = wire_reader(frame.ptr, frame.len);
	uint8_t kind = wire_get_u8(&r);
	struct str value = wire_get_blob(&r, KERNEL_FRAME_MAX);

	/* Past the limits a display is dropped; the result still carries the last image. */
	if (!wire_ok(&r) || kind > KERNEL_VALUE_IMAGE || x->display_count >= AGENT_DISPLAYS_MAX ||
	    x->displays.len + value.len + 5 > x->result_max)
		return;
	size_t before = x->displays.len;

	wire_put_u8(&x->displays, kind);
	wire_put_blob(&x->displays, value);
	if (!buf_ok(&x->displays)) {
		x->displays.len = before; /* half a display is none */
		x->displays.failed = false;
		return;
	}
	x->display_count++;
	if (x->streaming)
		conn_send(a, AGENT_EXEC_DISPLAY, x->op, frame);
}

static bool parse_done(struct str frame, struct exec_report *ret)
{
	struct wire_reader r = wire_reader(frame.ptr, frame.len);

	ret->kernel_status = wire_get_u8(&r);
	ret->kind = wire_get_u8(&r);
	ret->value = wire_get_blob(&r, KERNEL_FRAME_MAX);
	ret->name = wire_get_blob(&r, 1024);
	ret->text = wire_get_blob(&r, AGENT_TRACEBACK_MAX);
	ret->traceback = wire_get_blob(&r, AGENT_TRACEBACK_MAX);
	return wire_ok(&r) && ret->kernel_status <= KERNEL_INTERRUPTED &&
	       ret->kind <= KERNEL_VALUE_IMAGE;
}

/* Keeps the report until it is acknowledged, and sends it. */
static void keep_report(struct agent *a, const struct agent_kernel *k, struct exec_report *d)
{
	struct agent_done *done = calloc(1, sizeof(*done));

	if (!done)
		abort(); /* 80 bytes: the sandbox is beyond help, and its PID 1 ending says so */
	list_init(&done->node);
	done->op = k->exec.op;
	done->kernel = k->number;
	done->sent = true;
	struct buf *b = &done->payload;

	buf_init(b, AGENT_FRAME_MAX);
	put_report(b, k, d, true);
	if (!buf_ok(b)) {
		/* Does not fit, or no memory for it: what is said in few words is. */
		buf_clear(b);
		d->kind = KERNEL_VALUE_TEXT;
		d->value = STR(TOO_LARGE);
		put_report(b, k, d, false);
	}
	list_add_tail(&a->done, &done->node);
	a->done_count++;
	conn_send(a, AGENT_EXEC_DONE, done->op, buf_str(b));
}

/* What memory took from a pipeline, or from a program's children, may not show in its result. */
static void note_lost_processes(struct agent_kernel *k)
{
	struct agent_output *err = &k->streams[1];
	unsigned long long now = exec_oom_kills();
	char text[128];

	if (now <= k->oom_kills)
		return;
	bool fresh = !err->kept.len || err->kept.ptr[err->kept.len - 1] == '\n';
	int n = snprintf(text, sizeof(text),
			 "%s[The session ran out of memory: %llu process%s ended.]\n",
			 fresh ? "" : "\n", now - k->oom_kills,
			 now - k->oom_kills == 1 ? " was" : "es were");
	output_keep(err, (struct str){ text, (size_t)n });
}

void exec_finish(struct agent *a, struct agent_kernel *k, enum agent_exec_status status,
		 struct str frame, const char *error_text)
{
	struct agent_exec *x = &k->exec;
	struct exec_report d = { 0 };

	if (frame.ptr && !parse_done(frame, &d)) {
		status = AGENT_RESULT_KERNEL_DIED;
		error_text = "the kernel broke the protocol";
		kernel_kill(a, k);
		d = (struct exec_report){ 0 };
	} else if (frame.ptr && x->ending != AGENT_RESULT_OK) {
		status = x->ending; /* interrupted by us, whatever the code made of it */
	} else if (frame.ptr && d.kernel_status != KERNEL_OK) {
		status = AGENT_RESULT_ERROR;
	} else if (frame.ptr && str_eq(d.name, STR(KERNEL_NAME_KILLED)) &&
		   exec_oom_kills() > k->oom_kills) {
		status = AGENT_RESULT_OOM;
	}
	if (frame.ptr && d.kernel_status == KERNEL_OK)
		d.name = STR("");
	if (d.value.len > x->result_max) {
		d.kind = KERNEL_VALUE_TEXT;
		d.value = STR(TOO_LARGE);
	}
	if (error_text)
		d.text = str_from(error_text);
	int64_t ended_ns = x->ended_ns ? x->ended_ns : clock_mono_ns();

	if (status == AGENT_RESULT_OK || status == AGENT_RESULT_ERROR)
		note_lost_processes(k);
	d.status = status;
	d.duration_us = (uint64_t)((ended_ns - x->started_ns) / 1000);
	d.out = &k->streams[0];
	d.err = &k->streams[1];
	d.displays = buf_str(&x->displays);
	d.display_count = x->display_count;
	keep_report(a, k, &d);
	x->running = x->streaming = false;
	kernel_arm(a, k, DEADLINE_NONE, 0);
	output_resume(a, k);
	if (x->displays.cap > 256 * 1024)
		buf_done(&x->displays);
}
