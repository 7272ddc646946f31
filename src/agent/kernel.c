/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/fdio.h"
#include "base/own.h"
#include "base/rand.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_CHUNK 65536

static void send_state(struct agent *a, enum agent_death death, uint32_t code)
{
	struct buf b;

	buf_init(&b, 16);
	wire_put_u32(&b, 0);
	wire_put_u8(&b, (uint8_t)a->kernel.state);
	wire_put_u8(&b, (uint8_t)death);
	wire_put_u32(&b, code);
	conn_send(a, AGENT_KERNEL_STATE, 0, buf_str(&b));
	buf_done(&b);
}

void kernel_send_status(struct agent *a)
{
	struct buf b;

	buf_init(&b, 4096);
	wire_put_u32(&b, a->kernel.state == AGENT_KERNEL_NONE ? 0 : 1);
	if (a->kernel.state != AGENT_KERNEL_NONE) {
		wire_put_u32(&b, 0);
		wire_put_u8(&b, (uint8_t)a->kernel.state);
		wire_put_blob(&b, buf_str(&a->kernel.label));
	}
	wire_put_u32(&b, (uint32_t)a->done_count + (a->exec.running ? 1 : 0));
	if (a->exec.running) {
		wire_put_u64(&b, a->exec.op);
		wire_put_u8(&b, AGENT_EXEC_RUNNING);
		wire_put_u32(&b, 0);
	}
	list_each(&a->done, struct agent_done, node, d) {
		wire_put_u64(&b, d->op);
		wire_put_u8(&b, AGENT_EXEC_FINISHED);
		wire_put_u32(&b, 0);
	}
	wire_put_u32(&b, 0);
	conn_send(a, AGENT_STATUS, 0, buf_str(&b));
	buf_done(&b);
}

static void kernel_forget(struct agent *a)
{
	struct agent_kernel *k = &a->kernel;

	close_fd(&k->sock);
	close_fd(&a->out.fd);
	close_fd(&a->err.fd);
	buf_done(&k->in);
	buf_done(&k->out);
	buf_done(&k->label);
	k->state = AGENT_KERNEL_NONE;
	k->pid = 0;
	k->writing = k->killed = k->warming = false;
	if (a->deadline == DEADLINE_START)
		agent_arm(a, DEADLINE_NONE, 0);
}

void kernel_attach(struct agent *a, int sock, struct str label)
{
	struct agent_kernel *k = &a->kernel;
	unsigned char entropy[32];
	int out[2] = { -1, -1 };
	int err[2];

	if (k->state != AGENT_KERNEL_NONE) {
		close(sock);
		return;
	}
	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0) {
		close(sock);
		close_fd(&out[0]);
		close_fd(&out[1]);
		send_state(a, AGENT_DEATH_KILLED, 0); /* so that it is tried again */
		return;
	}
	/* Only our ends: the kernel's writes must block, as programs expect of a pipe. */
	fd_set_nonblock(out[0], true);
	fd_set_nonblock(err[0], true);
	fd_set_nonblock(sock, true);
	k->sock = sock;
	buf_init(&k->label, AGENT_LABEL_MAX);
	buf_add_str(&k->label, label);
	k->cells = 0;
	k->oom_kills = exec_oom_kills();
	k->state = AGENT_KERNEL_STARTING;
	a->out.fd = out[0];
	a->err.fd = err[0];
	agent_watch(a, sock, EVENT_KERNEL, EPOLLIN, true);
	agent_watch(a, out[0], EVENT_STDOUT, EPOLLIN, true);
	agent_watch(a, err[0], EVENT_STDERR, EPOLLIN, true);
	struct buf b;

	rand_bytes(entropy, sizeof(entropy));
	buf_init(&b, 64);
	wire_put_u32(&b, 4 + sizeof(entropy));
	wire_put_u8(&b, KERNEL_INIT);
	wire_put_blob(&b, (struct str){ (const char *)entropy, sizeof(entropy) });
	int fds[] = { out[1], err[1] };

	/* A fresh socket has room for 41 bytes. */
	fd_send(sock, b.ptr, b.len, fds, 2);
	buf_done(&b);
	close(out[1]);
	close(err[1]);
	agent_arm(a, DEADLINE_START, AGENT_KERNEL_START_MS);
	send_state(a, AGENT_DEATH_NONE, 0);
}

void kernel_output_event(struct agent *a, struct agent_output *o)
{
	static char chunk[OUTPUT_CHUNK];

	/* Bounded per turn: a flood must not keep the agent from its timer. */
	for (int i = 0; i < 16 && o->fd >= 0; i++) {
		ssize_t n = read(o->fd, chunk, sizeof(chunk));

		if (n <= 0) {
			if (n == 0)
				close_fd(&o->fd); /* every writer closed it; the kernel may live on
						   */
			return;
		}
		if (!a->exec.running)
			continue; /* output of a thread between executions belongs to nobody */
		size_t room = o->kept.max > o->kept.len ? o->kept.max - o->kept.len : 0;

		o->total += (uint64_t)n;
		buf_add(&o->kept, chunk, (size_t)n < room ? (size_t)n : room);
		if ((size_t)n < sizeof(chunk))
			return;
	}
}

/* Everything that was written before a frame was sent is in the pipes now. */
static void drain_output(struct agent *a)
{
	kernel_output_event(a, &a->out);
	kernel_output_event(a, &a->err);
}

void kernel_kill(struct agent *a)
{
	struct agent_kernel *k = &a->kernel;

	if (k->state == AGENT_KERNEL_NONE || k->killed)
		return;
	k->killed = true;
	k->state = AGENT_KERNEL_BUSY;
	if (k->pid > 1) {
		kill(-k->pid, SIGKILL);
		kill(k->pid, SIGKILL);
	} else {
		kernel_forget(a); /* it never said READY; the end of its socket ends it */
		send_state(a, AGENT_DEATH_KILLED, 0);
	}
}

static void kernel_flush(struct agent *a)
{
	struct agent_kernel *k = &a->kernel;

	while (k->out.len) {
		ssize_t n = send(k->sock, k->out.ptr, k->out.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			break; /* EAGAIN, or the end, which EPOLLHUP tells */
		buf_consume(&k->out, (size_t)n);
	}
	if (k->writing != (k->out.len > 0)) {
		k->writing = k->out.len > 0;
		agent_watch(a, k->sock, EVENT_KERNEL, EPOLLIN | (k->writing ? EPOLLOUT : 0), false);
	}
	if (!k->out.len && k->out.cap > 256 * 1024)
		buf_done(&k->out);
}

/* One cell without effect: what the way from here to the interpreter and back touches for the first
 * time is touched before anybody waits for it. */
static void warm_up(struct agent *a)
{
	struct buf *out = &a->kernel.out;

	a->kernel.warming = true;
	wire_put_u32(out, 4 + 1 + 4);
	wire_put_u8(out, KERNEL_RUN);
	wire_put_u32(out, 0);
	wire_put_u8(out, 0);
	wire_put_blob(out, STR(""));
	kernel_flush(a);
}

static void kernel_frame(struct agent *a, uint8_t type, struct str payload)
{
	struct agent_kernel *k = &a->kernel;
	struct wire_reader r = wire_reader(payload.ptr, payload.len);

	if (type == KERNEL_READY && k->state == AGENT_KERNEL_STARTING && !k->warming) {
		/* SECURITY: no user code has run yet, so the pid is the driver's word. */
		k->pid = (pid_t)wire_get_u32(&r);
		if (!wire_ok(&r) || k->pid <= 1) {
			k->pid = 0;
			kernel_kill(a);
			return;
		}
		warm_up(a);
	} else if (type == KERNEL_DONE && k->warming) {
		drain_output(a);
		k->warming = false;
		k->state = AGENT_KERNEL_IDLE;
		agent_arm(a, DEADLINE_NONE, 0);
		send_state(a, AGENT_DEATH_NONE, 0);
	} else if (type == KERNEL_DISPLAY && a->exec.running) {
		/* SECURITY: past the limit a display costs us nothing; we are outside the CPU
		 * quota. */
		if (a->exec.display_count < AGENT_DISPLAYS_MAX)
			drain_output(a);
		exec_display(a, payload);
	} else if (type == KERNEL_DONE && a->exec.running && k->state == AGENT_KERNEL_BUSY) {
		drain_output(a);
		k->state = AGENT_KERNEL_IDLE;
		exec_finish(a, AGENT_RESULT_OK, payload, NULL);
	} else if (type != KERNEL_DISPLAY && type != KERNEL_DONE) {
		kernel_kill(a);
	}
	/* A DISPLAY or DONE nobody waits for is late, not hostile: its execution timed out. */
}

static void take_frames(struct agent *a)
{
	struct agent_kernel *k = &a->kernel;
	size_t at = 0;

	while (k->sock >= 0 && k->in.len - at >= KERNEL_HEADER_SIZE) {
		struct wire_reader r = wire_reader(k->in.ptr + at, KERNEL_HEADER_SIZE);
		uint32_t len = wire_get_u32(&r);
		uint8_t type = wire_get_u8(&r);

		if (len > KERNEL_FRAME_MAX) {
			kernel_kill(a);
			return;
		}
		if (k->in.len - at - KERNEL_HEADER_SIZE < len)
			break;
		kernel_frame(a, type, (struct str){ k->in.ptr + at + KERNEL_HEADER_SIZE, len });
		at += KERNEL_HEADER_SIZE + len;
	}
	if (k->sock < 0)
		return;
	buf_consume(&k->in, at);
	if (!k->in.len && k->in.cap > 256 * 1024)
		buf_done(&k->in);
}

void kernel_event(struct agent *a, uint32_t events)
{
	struct agent_kernel *k = &a->kernel;

	if (k->sock < 0)
		return;
	kernel_flush(a);
	if (!(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	if (!buf_reserve(&k->in, 16384)) {
		kernel_kill(a);
		return;
	}
	ssize_t n = recv(k->sock, k->in.ptr + k->in.len, k->in.cap - k->in.len - 1, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		/* Closed by its code, or its process is ending: either way it cannot serve any
		 * more. */
		epoll_ctl(a->epoll_fd, EPOLL_CTL_DEL, k->sock, NULL);
		if (k->pid > 1) {
			/* Not `killed`: how it ended is for its exit status to say. */
			k->state = AGENT_KERNEL_BUSY;
			kill(-k->pid, SIGKILL);
			kill(k->pid, SIGKILL);
		} else {
			kernel_kill(a);
		}
		return;
	}
	k->in.len += (size_t)n;
	take_frames(a);
}

static void kernel_died(struct agent *a, int status)
{
	struct agent_kernel *k = &a->kernel;
	enum agent_death death = WIFSIGNALED(status) ? AGENT_DEATH_SIGNAL : AGENT_DEATH_EXIT;
	uint32_t code = (uint32_t)(WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	bool killed = k->killed;
	bool oom = WIFSIGNALED(status) && code == SIGKILL && exec_oom_kills() > k->oom_kills;
	char text[160];

	/* Its last words may still be in the socket and the pipes; its number is nobody's any more,
	 * so it is not killed for them. */
	k->killed = true;
	for (int i = 0; i < 64 && k->sock >= 0; i++) {
		size_t before = k->in.len;
		ssize_t n = buf_reserve(&k->in, 65536)
				    ? recv(k->sock, k->in.ptr + k->in.len, 65536, MSG_DONTWAIT)
				    : 0;

		if (n <= 0)
			break;
		k->in.len = before + (size_t)n;
		take_frames(a);
	}
	drain_output(a);
	/*
	 * SECURITY: everything else in the sandbox ends with its kernel, whatever group or session
	 * it fled to: the next kernel starts alone, with nobody to disturb it, and no process is
	 * left that its owner can neither see nor end. To PID 1, -1 is all but itself.
	 */
	kill(-1, SIGKILL);
	if (oom)
		death = AGENT_DEATH_OOM;
	else if (killed)
		death = AGENT_DEATH_KILLED;
	kernel_forget(a);
	if (a->exec.running && a->exec.ending != AGENT_RESULT_OK) {
		exec_finish(a, a->exec.ending, (struct str){ 0 }, "killed");
	} else if (a->exec.running && oom) {
		exec_finish(a, AGENT_RESULT_OOM, (struct str){ 0 }, "");
	} else if (a->exec.running) {
		if (WIFSIGNALED(status))
			snprintf(text, sizeof(text), "signal %u (%s)", code, strsignal((int)code));
		else
			snprintf(text, sizeof(text), "exit status %u", code);
		exec_finish(a, AGENT_RESULT_KERNEL_DIED, (struct str){ 0 }, text);
	}
	send_state(a, death, code);
}

void kernel_reap(struct agent *a)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == a->kernel.pid)
			kernel_died(a, status);
}

void kernel_deadline(struct agent *a)
{
	struct agent_exec *x = &a->exec;
	enum agent_deadline what = a->deadline;

	a->deadline = DEADLINE_NONE;
	if (what == DEADLINE_START) {
		kernel_kill(a);
	} else if (what == DEADLINE_RUN && x->running) {
		x->ending = AGENT_RESULT_TIMEOUT;
		kill(-a->kernel.pid, SIGINT);
		agent_arm(a, DEADLINE_KILL, AGENT_TIMEOUT_GRACE_MS);
	} else if (what == DEADLINE_KILL && x->running) {
		/* Answer now: a process with gigabytes to give back takes its time to die. */
		drain_output(a);
		kernel_kill(a);
		exec_finish(a, x->ending, (struct str){ 0 }, "killed");
	}
}
