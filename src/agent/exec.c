/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/clock.h"
#include "base/own.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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

static void put_report(struct agent *a, struct buf *b, const struct exec_report *d, bool whole)
{
	struct str out = whole ? kept_of(d->out) : STR("");
	struct str err = whole ? kept_of(d->err) : STR("");

	wire_put_u8(b, (uint8_t)d->status);
	wire_put_u8(b, (uint8_t)a->kernel.state);
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

static void send_not_run(struct agent *a, uint64_t op)
{
	struct exec_report none = { .status = AGENT_RESULT_NOT_RUN };
	struct buf b;

	buf_init(&b, 256);
	put_report(a, &b, &none, true);
	conn_send(a, AGENT_EXEC_DONE, op, buf_str(&b));
	buf_done(&b);
}

void exec_start(struct agent *a, uint64_t op, struct wire_reader *r)
{
	struct agent_exec *x = &a->exec;
	uint32_t kernel = wire_get_u32(r);
	uint8_t flags = wire_get_u8(r);
	uint32_t timeout_ms = wire_get_u32(r);
	uint32_t stdout_max = wire_get_u32(r);
	uint32_t stderr_max = wire_get_u32(r);
	uint32_t result_max = wire_get_u32(r);

	wire_get_u32(r); /* credit */
	struct str code = wire_get_blob(r, AGENT_CODE_MAX);

	if (!wire_ok(r) || kernel != 0 || x->running || a->kernel.state != AGENT_KERNEL_IDLE ||
	    a->done_count >= AGENT_DONE_MAX) {
		send_not_run(a, op);
		return;
	}
	x->running = true;
	x->op = op;
	x->result_max = result_max;
	x->ending = AGENT_RESULT_OK;
	x->started_ns = clock_mono_ns();
	x->oom_kills = exec_oom_kills();
	x->display_count = 0;
	buf_clear(&x->displays);
	/* Three bytes more than the limit, so that the daemon can cut between characters. */
	a->out.kept.max = (size_t)stdout_max + 3;
	a->err.kept.max = (size_t)stderr_max + 3;
	a->out.total = a->err.total = 0;
	buf_clear(&a->out.kept);
	buf_clear(&a->err.kept);
	struct buf *out = &a->kernel.out;

	wire_put_u32(out, (uint32_t)(4 + 1 + 4 + code.len));
	wire_put_u8(out, KERNEL_RUN);
	wire_put_u32(out, ++a->kernel.cells);
	wire_put_u8(out, flags);
	wire_put_blob(out, code);
	a->kernel.state = AGENT_KERNEL_BUSY;
	if (timeout_ms)
		agent_arm(a, DEADLINE_RUN, timeout_ms);
	kernel_event(a, 0);
}

void exec_cancel(struct agent *a, uint64_t op)
{
	struct agent_exec *x = &a->exec;

	if (!x->running || x->op != op || x->ending != AGENT_RESULT_OK)
		return;
	x->ending = AGENT_RESULT_CANCELED;
	kill(-a->kernel.pid, SIGINT);
	agent_arm(a, DEADLINE_KILL, AGENT_CANCEL_GRACE_MS);
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

void exec_resend(struct agent *a)
{
	list_each(&a->done, struct agent_done, node, d)
		conn_send(a, AGENT_EXEC_DONE, d->op, buf_str(&d->payload));
}

void exec_display(struct agent *a, struct str frame)
{
	struct agent_exec *x = &a->exec;
	struct wire_reader r = wire_reader(frame.ptr, frame.len);
	uint8_t kind = wire_get_u8(&r);
	struct str value = wire_get_blob(&r, KERNEL_FRAME_MAX);

	/* Past the limits a display is dropped; the result still carries the last image. */
	if (!wire_ok(&r) || kind > KERNEL_VALUE_IMAGE || x->display_count >= AGENT_DISPLAYS_MAX ||
	    x->displays.len + value.len + 5 > x->result_max)
		return;
	wire_put_u8(&x->displays, kind);
	wire_put_blob(&x->displays, value);
	x->display_count++;
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

void exec_finish(struct agent *a, enum agent_exec_status status, struct str frame,
		 const char *error_text)
{
	static const char too_large[] = "<value too large to return>";
	struct agent_exec *x = &a->exec;
	struct exec_report d = { 0 };
	struct agent_done *done = calloc(1, sizeof(*done));

	if (frame.len && !parse_done(frame, &d)) {
		status = AGENT_RESULT_KERNEL_DIED;
		error_text = "the kernel broke the protocol";
		kernel_kill(a);
		d = (struct exec_report){ 0 };
	} else if (frame.len && x->ending != AGENT_RESULT_OK) {
		status = x->ending; /* interrupted by us, whatever the code made of it */
	} else if (frame.len && d.kernel_status != KERNEL_OK) {
		status = AGENT_RESULT_ERROR;
	}
	if (d.value.len > x->result_max) {
		d.kind = KERNEL_VALUE_TEXT;
		d.value = STR(too_large);
	}
	if (error_text)
		d.text = str_from(error_text);
	if (!done)
		abort(); /* 64 bytes: the sandbox is beyond help, and its PID 1 ending says so */
	list_init(&done->node);
	done->op = x->op;
	d.status = status;
	d.duration_us = (uint64_t)((clock_mono_ns() - x->started_ns) / 1000);
	d.out = &a->out;
	d.err = &a->err;
	d.displays = buf_str(&x->displays);
	d.display_count = x->display_count;
	struct buf *b = &done->payload;

	buf_init(b, AGENT_FRAME_MAX);
	put_report(a, b, &d, true);
	if (!buf_ok(b)) {
		/* Does not fit, or no memory for it: what is said in few words is. */
		buf_clear(b);
		d.kind = KERNEL_VALUE_TEXT;
		d.value = STR(too_large);
		put_report(a, b, &d, false);
	}
	list_add_tail(&a->done, &done->node);
	a->done_count++;
	x->running = false;
	agent_arm(a, DEADLINE_NONE, 0);
	conn_send(a, AGENT_EXEC_DONE, done->op, buf_str(b));
	if (x->displays.cap > 256 * 1024)
		buf_done(&x->displays);
}
