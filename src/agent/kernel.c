/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/own.h"
#include "base/rand.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void send_state(struct agent *a, uint32_t number, enum agent_kernel_state state,
		       enum agent_death death, uint32_t code)
{
	struct buf b;

	buf_init(&b, 16);
	wire_put_u32(&b, number);
	wire_put_u8(&b, (uint8_t)state);
	wire_put_u8(&b, (uint8_t)death);
	wire_put_u32(&b, code);
	conn_send(a, AGENT_KERNEL_STATE, 0, buf_str(&b));
	buf_done(&b);
}

struct agent_kernel *kernel_find(struct agent *a, uint32_t number)
{
	struct agent_kernel *k = number < AGENT_KERNELS_MAX ? a->kernels[number] : NULL;

	return k && k->state != AGENT_KERNEL_NONE ? k : NULL;
}

void kernel_arm(struct agent *a, struct agent_kernel *k, enum agent_deadline what, int64_t ms)
{
	k->deadline = what;
	k->deadline_ns = what == DEADLINE_NONE ? 0 : clock_mono_ns() + ms * 1000000;
	agent_rearm(a);
}

void kernel_signal(const struct agent_kernel *k, int sig)
{
	/* SECURITY: a dead kernel's number may be another's, and to kill(), 0 is the agent's own
	 * group. */
	if (k->pid <= 1 || k->dead)
		return;
	kill(-k->pid, sig);
	if (sig == SIGKILL)
		kill(k->pid, sig);
}

static void watch(struct agent *a, struct agent_kernel *k)
{
	if (k->sock >= 0)
		agent_watch(a, k->sock, EVENT_KERNEL, k->number,
			    (k->waiting ? 0 : EPOLLIN) | (k->out.len ? EPOLLOUT : 0), &k->watched);
}

static void close_socket(struct agent *a, struct agent_kernel *k)
{
	/* Taken out by hand: the daemon may still hold the same socket. */
	if (k->sock >= 0)
		agent_watch(a, k->sock, EVENT_KERNEL, k->number, 0, &k->watched);
	close_fd(&k->sock);
	buf_clear(&k->out);
}

/* Nothing is left of it but the memory, which its callers still hold. */
static void kernel_forget(struct agent *a, struct agent_kernel *k)
{
	close_socket(a, k);
	output_close(a, k);
	k->state = AGENT_KERNEL_NONE;
	k->pid = 0;
	kernel_arm(a, k, DEADLINE_NONE, 0);
}

void kernels_tidy(struct agent *a)
{
	for (size_t i = 0; i < AGENT_KERNELS_MAX; i++) {
		struct agent_kernel *k = a->kernels[i];

		if (!k || k->state != AGENT_KERNEL_NONE)
			continue;
		buf_done(&k->label);
		buf_done(&k->in);
		buf_done(&k->out);
		buf_done(&k->exec.displays);
		buf_done(&k->streams[0].kept);
		buf_done(&k->streams[1].kept);
		free(k);
		a->kernels[i] = NULL;
	}
}

static struct agent_kernel *kernel_new(struct agent *a, uint32_t number, struct str label)
{
	kernels_tidy(a);
	struct agent_kernel *k = calloc(1, sizeof(*k));

	if (!k)
		return NULL;
	k->number = number;
	k->sock = k->streams[0].fd = k->streams[1].fd = -1;
	k->state = AGENT_KERNEL_STARTING;
	buf_init(&k->label, AGENT_LABEL_MAX);
	buf_init(&k->in, KERNEL_FRAME_MAX + KERNEL_HEADER_SIZE + 65536);
	buf_init(&k->out, AGENT_CODE_MAX + 4096);
	buf_init(&k->exec.displays, KERNEL_FRAME_MAX);
	buf_add_str(&k->label, label);
	a->kernels[number] = k;
	return k;
}

/* INIT with the write ends of two new pipes. */
static bool send_init(struct agent_kernel *k)
{
	unsigned char entropy[32];
	int out[2] = { -1, -1 };
	int err[2] = { -1, -1 };
	struct buf b;

	if (pipe2(out, O_CLOEXEC) < 0 || pipe2(err, O_CLOEXEC) < 0) {
		close_fd(&out[0]);
		close_fd(&out[1]);
		return false;
	}
	/* Only our ends: the kernel's writes must block, as programs expect of a pipe. */
	fd_set_nonblock(out[0], true);
	fd_set_nonblock(err[0], true);
	fd_set_nonblock(k->sock, true);
	k->streams[0].fd = out[0];
	k->streams[1].fd = err[0];
	rand_bytes(entropy, sizeof(entropy));
	buf_init(&b, 64);
	wire_put_u32(&b, 4 + sizeof(entropy));
	wire_put_u8(&b, KERNEL_INIT);
	wire_put_blob(&b, (struct str){ (const char *)entropy, sizeof(entropy) });
	int fds[] = { out[1], err[1] };

	/* A fresh socket has room for 41 bytes. */
	fd_send(k->sock, b.ptr, b.len, fds, 2);
	buf_done(&b);
	close(out[1]);
	close(err[1]);
	return true;
}

void kernel_attach(struct agent *a, uint32_t number, struct str label, int sock)
{
	struct agent_kernel *k = kernel_find(a, number);

	if (k) {
		close(sock);
		send_state(a, number, k->state, AGENT_DEATH_NONE, 0);
		return;
	}
	k = kernel_new(a, number, label);
	if (!k) {
		close(sock);
		send_state(a, number, AGENT_KERNEL_NONE, AGENT_DEATH_KILLED, 0);
		return;
	}
	k->sock = sock;
	if (!send_init(k)) {
		kernel_kill(a, k); /* so that it is tried again */
		return;
	}
	k->oom_kills = exec_oom_kills();
	watch(a, k);
	output_resume(a, k);
	kernel_arm(a, k, DEADLINE_START, AGENT_KERNEL_START_MS);
	send_state(a, number, k->state, AGENT_DEATH_NONE, 0);
}

void kernel_kill(struct agent *a, struct agent_kernel *k)
{
	if (k->state == AGENT_KERNEL_NONE || k->killed)
		return;
	k->killed = true;
	k->state = AGENT_KERNEL_BUSY;
	if (k->pid > 1) {
		kernel_signal(k, SIGKILL);
		return;
	}
	/* It never said READY; the end of its socket ends it, or it is an orphan now. */
	kernel_forget(a, k);
	send_state(a, k->number, AGENT_KERNEL_NONE, AGENT_DEATH_KILLED, 0);
	reap_orphans(a);
}

/* The execution ends with the kernel; the answer does not wait for it: a process with gigabytes to
 * give back takes its time to die. */
static void kill_run(struct agent *a, struct agent_kernel *k, enum agent_exec_status why)
{
	k->exec.ending = why;
	output_settle(a, k, KERNEL_GONE);
	kernel_kill(a, k);
	exec_finish(a, k, why, (struct str){ 0 }, "killed");
}

void kernel_end(struct agent *a, uint32_t number)
{
	struct agent_kernel *k = kernel_find(a, number);

	if (k)
		output_unwatched(a, k); /* what is over may end now as it did */
	if (!k) {
		send_state(a, number, AGENT_KERNEL_NONE, AGENT_DEATH_NONE, 0);
	} else if (k->exec.running) {
		kill_run(a, k, AGENT_RESULT_CANCELED);
	} else {
		kernel_kill(a, k);
	}
}

static void kernel_flush(struct agent *a, struct agent_kernel *k)
{
	while (k->out.len) {
		ssize_t n = send(k->sock, k->out.ptr, k->out.len, MSG_NOSIGNAL);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			break;
		if (n < 0)
			buf_clear(&k->out); /* its end, which reading tells */
		else
			buf_consume(&k->out, (size_t)n);
	}
	watch(a, k);
	if (!k->out.len && k->out.cap > 256 * 1024)
		buf_done(&k->out);
}

void kernel_run(struct agent *a, struct agent_kernel *k, uint8_t flags, struct str code)
{
	wire_put_u32(&k->out, (uint32_t)(4 + 1 + 4 + code.len));
	wire_put_u8(&k->out, KERNEL_RUN);
	wire_put_u32(&k->out, k->cells++);
	wire_put_u8(&k->out, flags);
	wire_put_blob(&k->out, code);
	kernel_flush(a, k);
}

static void kernel_ready(struct agent *a, struct agent_kernel *k, struct str payload)
{
	struct wire_reader r = wire_reader(payload.ptr, payload.len);
	/* SECURITY: no user code has run yet, so the pid is the driver's word. */
	pid_t pid = (pid_t)wire_get_u32(&r);

	if (!wire_ok(&r) || pid <= 1 || reap_known(a, pid)) {
		kernel_kill(a, k);
		return;
	}
	/* Reaped before this was read: its end would never be heard of. */
	siginfo_t ended = { 0 };

	if (waitid(P_PID, (id_t)pid, &ended, WEXITED | WNOHANG | WNOWAIT) < 0 && errno == ECHILD) {
		kernel_kill(a, k);
		return;
	}
	k->pid = pid;
	k->warming = true;
	/* Cell 0: what the way from here to the interpreter and back touches for the first time is
	 * touched before anybody waits for it. */
	kernel_run(a, k, 0, STR(""));
}

/* False: it has to wait for output that was written before it. */
static bool kernel_frame(struct agent *a, struct agent_kernel *k, uint8_t type, struct str payload)
{
	struct agent_exec *x = &k->exec;

	if (type == KERNEL_READY && k->state == AGENT_KERNEL_STARTING && !k->warming) {
		kernel_ready(a, k, payload);
	} else if (type == KERNEL_DONE && k->warming) {
		output_settle(a, k, type);
		k->warming = false;
		k->state = AGENT_KERNEL_IDLE;
		kernel_arm(a, k, DEADLINE_NONE, 0);
		send_state(a, k->number, k->state, AGENT_DEATH_NONE, 0);
	} else if (type == KERNEL_DISPLAY && x->running) {
		/* SECURITY: past the limit a display costs us nothing; we are outside the CPU
		 * quota. */
		if (x->display_count < AGENT_DISPLAYS_MAX && !output_settle(a, k, type))
			return false;
		exec_display(a, k, payload);
	} else if (type == KERNEL_DONE && x->running && k->state == AGENT_KERNEL_BUSY) {
		/* Over in time, however long its reader takes. */
		if (x->ending == AGENT_RESULT_OK)
			kernel_arm(a, k, DEADLINE_NONE, 0);
		if (!x->ended_ns)
			x->ended_ns = clock_mono_ns();
		if (!output_settle(a, k, type))
			return false;
		if (!k->dead)
			k->state = AGENT_KERNEL_IDLE;
		exec_finish(a, k, AGENT_RESULT_OK, payload, NULL);
	} else if (type != KERNEL_DISPLAY && type != KERNEL_DONE) {
		kernel_kill(a, k);
	}
	/* A DISPLAY or DONE nobody waits for is late, not hostile: its execution timed out. */
	return true;
}

static void take_frames(struct agent *a, struct agent_kernel *k)
{
	size_t at = 0;

	while (k->state != AGENT_KERNEL_NONE && k->in.len - at >= KERNEL_HEADER_SIZE) {
		struct wire_reader r = wire_reader(k->in.ptr + at, KERNEL_HEADER_SIZE);
		uint32_t len = wire_get_u32(&r);
		uint8_t type = wire_get_u8(&r);

		if (len > KERNEL_FRAME_MAX) {
			kernel_kill(a, k);
			at = k->in.len;
			break;
		}
		if (k->in.len - at - KERNEL_HEADER_SIZE < len ||
		    !kernel_frame(a, k, type,
				  (struct str){ k->in.ptr + at + KERNEL_HEADER_SIZE, len }))
			break;
		at += KERNEL_HEADER_SIZE + len;
	}
	buf_consume(&k->in, at);
	if (!k->in.len && k->in.cap > 256 * 1024)
		buf_done(&k->in);
}

/* Closed by its code, or its process is ending: either way it cannot serve any more. */
static void socket_ended(struct agent *a, struct agent_kernel *k)
{
	close_socket(a, k);
	if (k->pid > 1) {
		/* Not `killed`: how it ended is for its exit status to say. */
		k->state = AGENT_KERNEL_BUSY;
		kernel_signal(k, SIGKILL);
	} else {
		kernel_kill(a, k);
	}
}

void kernel_event(struct agent *a, struct agent_kernel *k, uint32_t events)
{
	if (k->sock < 0)
		return;
	kernel_flush(a, k);
	if (k->waiting || !(events & (EPOLLIN | EPOLLHUP | EPOLLERR)))
		return;
	if (!buf_reserve(&k->in, 16384)) {
		kernel_kill(a, k);
		return;
	}
	ssize_t n = recv(k->sock, k->in.ptr + k->in.len, k->in.cap - k->in.len - 1, 0);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		socket_ended(a, k);
		return;
	}
	k->in.len += (size_t)n;
	kernel_advance(a, k);
}

/* What the dead has said may still be in its socket. */
static void read_last_words(struct agent_kernel *k)
{
	for (int i = 0; i < 64 && k->sock >= 0; i++) {
		ssize_t n = buf_reserve(&k->in, 65536)
				    ? recv(k->sock, k->in.ptr + k->in.len, 65536, MSG_DONTWAIT)
				    : 0;

		if (n <= 0)
			break;
		k->in.len += (size_t)n;
	}
}

static void kernel_gone(struct agent *a, struct agent_kernel *k)
{
	struct agent_exec *x = &k->exec;
	bool signaled = WIFSIGNALED(k->status);
	uint32_t code = (uint32_t)(signaled ? WTERMSIG(k->status) : WEXITSTATUS(k->status));
	char text[160];

	kernel_forget(a, k);
	if (x->running && x->ending != AGENT_RESULT_OK) {
		exec_finish(a, k, x->ending, (struct str){ 0 }, "killed");
	} else if (x->running && k->death == AGENT_DEATH_OOM) {
		exec_finish(a, k, AGENT_RESULT_OOM, (struct str){ 0 }, "");
	} else if (x->running) {
		if (signaled)
			snprintf(text, sizeof(text), "signal %u (%s)", code, strsignal((int)code));
		else
			snprintf(text, sizeof(text), "exit status %u", code);
		exec_finish(a, k, AGENT_RESULT_KERNEL_DIED, (struct str){ 0 }, text);
	}
	send_state(a, k->number, k->state, k->death, code);
}

void kernel_advance(struct agent *a, struct agent_kernel *k)
{
	if (k->state == AGENT_KERNEL_NONE)
		return;
	/* Frames that wait are read no further. */
	if (k->dead && (!k->waiting || k->waiting == KERNEL_GONE))
		read_last_words(k);
	take_frames(a, k);
	if (k->state == AGENT_KERNEL_NONE)
		return;
	if (k->dead && (!k->waiting || k->waiting == KERNEL_GONE) &&
	    output_settle(a, k, KERNEL_GONE)) {
		kernel_gone(a, k);
		return;
	}
	watch(a, k);
}

void kernel_died(struct agent *a, struct agent_kernel *k, int status)
{
	/* SECURITY: its code can end with this status too, and is told so much of itself. */
	bool oom = WIFSIGNALED(status)
			   ? WTERMSIG(status) == SIGKILL && exec_oom_kills() > k->oom_kills
			   : WEXITSTATUS(status) == KERNEL_EXIT_NO_MEMORY;

	k->death = oom                   ? AGENT_DEATH_OOM
		   : k->killed           ? AGENT_DEATH_KILLED
		   : WIFSIGNALED(status) ? AGENT_DEATH_SIGNAL
					 : AGENT_DEATH_EXIT;
	k->status = status;
	k->dead = k->killed = true;
	k->state = AGENT_KERNEL_BUSY;
	if (k->exec.running && !k->exec.ended_ns)
		k->exec.ended_ns = clock_mono_ns();
	kernel_arm(a, k, DEADLINE_NONE, 0);
	reap_orphans(a);
	kernel_advance(a, k);
}

static void interrupt_overdue(struct agent *a, struct agent_kernel *k)
{
	struct agent_exec *x = &k->exec;

	x->ending = AGENT_RESULT_TIMEOUT;
	kernel_signal(k, SIGINT);
	kernel_arm(a, k, DEADLINE_KILL, AGENT_TIMEOUT_GRACE_MS);
	x->interrupted_ns = clock_mono_ns();
	x->interrupted_cpu_ns = processes_work(k->pid).cpu_ns;
	output_resume(a, k);
}

/* Whether the machine, not the code, kept the interrupt from being heeded so far. */
static bool starved(const struct agent_kernel *k)
{
	const struct agent_exec *x = &k->exec;

	/* SECURITY: what it looks like is up to the code; so is no more than this. */
	if (x->ending != AGENT_RESULT_TIMEOUT ||
	    clock_mono_ns() - x->interrupted_ns > (int64_t)AGENT_TIMEOUT_LAST_MS * 1000000)
		return false;
	struct agent_work work = processes_work(k->pid);
	int64_t threads = work.runnable < AGENT_TIMEOUT_THREADS ? work.runnable
								: AGENT_TIMEOUT_THREADS;

	return work.cpu_ns - x->interrupted_cpu_ns < threads * AGENT_TIMEOUT_CPU_MS * 1000000;
}

void kernel_deadline(struct agent *a, struct agent_kernel *k)
{
	struct agent_exec *x = &k->exec;
	enum agent_deadline what = k->deadline;

	kernel_arm(a, k, DEADLINE_NONE, 0);
	if (what == DEADLINE_START) {
		kernel_kill(a, k);
	} else if (what == DEADLINE_RUN && x->running) {
		interrupt_overdue(a, k);
	} else if (what == DEADLINE_KILL && x->running && starved(k)) {
		kernel_arm(a, k, DEADLINE_KILL, AGENT_TIMEOUT_GRACE_MS);
	} else if (what == DEADLINE_KILL && x->running) {
		kill_run(a, k, x->ending);
	}
}
