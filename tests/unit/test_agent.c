/* SPDX-License-Identifier: Apache-2.0 */

/* The real agent, as PID 1 of namespaces of its own: streams, several kernels, terminals. */
#include "agent/agent.h"
#include "agent_sandbox.h"
#include "base/fdio.h"
#include "base/own.h"
#include "sandbox/agent_frames.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *agent_binary;
static struct agent_sandbox sandbox;
static uint64_t next_op = 1;

/* ---- what a daemon sends ---- */

static void send_numbers(enum agent_msg type, uint64_t op, const uint32_t *numbers, size_t count)
{
	struct buf b;

	buf_init(&b, 64);
	for (size_t i = 0; i < count; i++)
		wire_put_u32(&b, numbers[i]);
	sandbox_send(&sandbox, type, op, buf_str(&b), -1);
	buf_done(&b);
}

static void send_number(enum agent_msg type, uint64_t op, uint32_t number)
{
	send_numbers(type, op, &number, 1);
}

static void send_empty(enum agent_msg type, uint64_t op)
{
	sandbox_send(&sandbox, type, op, STR(""), -1);
}

static uint64_t execute(uint32_t kernel, uint8_t flags, uint32_t timeout_ms, uint32_t credit,
			const char *code)
{
	uint64_t op = next_op++;
	struct buf b;

	buf_init(&b, 8192);
	wire_put_u32(&b, kernel);
	wire_put_u8(&b, flags);
	wire_put_u32(&b, timeout_ms);
	wire_put_u32(&b, 1000); /* stdout */
	wire_put_u32(&b, 1000); /* stderr */
	wire_put_u32(&b, 1 << 20);
	wire_put_u32(&b, credit);
	wire_put_blob(&b, str_from(code));
	sandbox_send(&sandbox, AGENT_EXEC, op, buf_str(&b), -1);
	buf_done(&b);
	return op;
}

/* ---- what it gets ---- */

struct frame {
	uint8_t type;
	uint64_t op;
	struct str payload;
};

static struct frame next_frame(void)
{
	struct frame f;

	f.payload = sandbox_next(&sandbox, &f.type, &f.op);
	return f;
}

/* The next frame is one of this type. */
static struct frame expect(enum agent_msg type, uint64_t op)
{
	struct frame f = next_frame();

	if (f.type != type || f.op != op)
		fail_msg("frame of type %u, operation %llu; expected %u, %llu", f.type,
			 (unsigned long long)f.op, type, (unsigned long long)op);
	return f;
}

static struct agent_kernel_change expect_kernel(uint32_t number, enum agent_kernel_state state)
{
	struct frame f = expect(AGENT_KERNEL_STATE, 0);
	struct wire_reader r = wire_reader(f.payload.ptr, f.payload.len);
	struct agent_kernel_change c;

	assert_true(agent_frame_kernel_state(&r, &c));
	assert_int_equal(c.kernel, number);
	assert_int_equal(c.state, state);
	return c;
}

static struct agent_result result_of(struct frame f)
{
	struct wire_reader r = wire_reader(f.payload.ptr, f.payload.len);
	struct agent_result result;

	assert_true(agent_frame_result(&r, &result));
	send_empty(AGENT_EXEC_ACK, f.op);
	return result;
}

static struct agent_result expect_result(uint64_t op, enum agent_exec_status status)
{
	struct agent_result result = result_of(expect(AGENT_EXEC_DONE, op));

	assert_int_equal(result.status, status);
	return result;
}

static struct agent_status hello(void)
{
	struct agent_status status;

	send_empty(AGENT_HELLO, 0);
	struct frame f = expect(AGENT_STATUS, 0);
	struct wire_reader r = wire_reader(f.payload.ptr, f.payload.len);

	assert_true(agent_frame_status(&r, &status));
	return status;
}

static void attach_kernel(uint32_t number, int lifeline)
{
	struct buf b;

	buf_init(&b, 64);
	wire_put_u32(&b, number);
	wire_put_blob(&b, STR("label"));
	sandbox_send(&sandbox, AGENT_KERNEL_ATTACH, 0, buf_str(&b),
		     sandbox_kernel(&sandbox, lifeline));
	buf_done(&b);
	expect_kernel(number, AGENT_KERNEL_STARTING);
	expect_kernel(number, AGENT_KERNEL_IDLE);
}

/* Byte `at` of all that a kernel has written. */
static void check_bytes(struct str bytes, uint64_t at)
{
	for (size_t i = 0; i < bytes.len; i++)
		if (bytes.ptr[i] != (char)('a' + (at + i) % 26))
			fail_msg("byte %llu of the stream is wrong", (unsigned long long)at + i);
}

static struct str output_of(struct frame f, int expected_stream)
{
	struct wire_reader r = wire_reader(f.payload.ptr, f.payload.len);
	struct str bytes;
	int stream;

	assert_true(agent_frame_output(&r, &stream, &bytes));
	assert_int_equal(stream, expected_stream);
	return bytes;
}

static int setup(void **state)
{
	(void)state;
	next_op = 1;
	return sandbox_start(&sandbox, agent_binary) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	sandbox_stop(&sandbox);
	return 0;
}

/* ---- streams ---- */

static void test_stream_in_constant_memory(void **state)
{
	const uint64_t total = 64u << 20;
	uint64_t got = 0, back = 0;
	size_t most = 0;

	(void)state;
	attach_kernel(0, -1);
	size_t before = sandbox_rss(&sandbox);
	uint64_t op = execute(0, KERNEL_RUN_STREAM, 0, 20000, "out 67108864");
	struct frame f = next_frame();

	for (; f.type == AGENT_EXEC_OUTPUT; f = next_frame()) {
		struct str bytes = output_of(f, 1);

		check_bytes(bytes, got);
		got += bytes.len;
		assert_true(got <= back + 20000);
		/* A reader that gives back what it has read in portions of its own. */
		if (got - back >= 10000) {
			send_number(AGENT_EXEC_CREDIT, op, (uint32_t)(got - back));
			back = got;
		}
		size_t now = got % 64 ? 0 : sandbox_rss(&sandbox);

		most = now > most ? now : most;
	}
	assert_int_equal(f.type, AGENT_EXEC_DONE);
	struct agent_result result = result_of(f);

	assert_int_equal(got, total);
	assert_int_equal(result.status, AGENT_RESULT_OK);
	assert_int_equal(result.out.len, 1003);
	check_bytes(result.out, 0);
	assert_int_equal(result.stdout_dropped, total - 1003);
	/* A chunk on its way, and what the allocator keeps of it. */
	size_t after = sandbox_rss(&sandbox);

	print_message("# agent: %zu KiB idle, %zu KiB while streaming\n", before / 1024,
		      most / 1024);
	assert_true(most < before + (1 << 20) && after < before + (1 << 20));
}

static void test_stream_waits_for_credit(void **state)
{
	(void)state;
	attach_kernel(0, -1);
	uint64_t op = execute(0, KERNEL_RUN_STREAM, 0, 10, "out 30;show");

	check_bytes(output_of(expect(AGENT_EXEC_OUTPUT, op), 1), 0);
	/* The agent serves all others meanwhile. */
	struct agent_status status = hello();

	assert_int_equal(status.exec_count, 1);
	assert_int_equal(status.execs[0].state, AGENT_EXEC_RUNNING);
	assert_int_equal(status.kernels[0].state, AGENT_KERNEL_BUSY);
	send_number(AGENT_EXEC_CREDIT, op, 19);
	assert_int_equal(output_of(expect(AGENT_EXEC_OUTPUT, op), 1).len, 19);
	hello();
	/* The display follows the last byte before it. */
	send_number(AGENT_EXEC_CREDIT, op, 1);
	assert_int_equal(output_of(expect(AGENT_EXEC_OUTPUT, op), 1).len, 1);
	expect(AGENT_EXEC_DISPLAY, op);
	struct agent_result result = expect_result(op, AGENT_RESULT_OK);

	assert_int_equal(result.out.len, 30);
	assert_int_equal(result.display_count, 1);
	/* The other stream; and the result waits for the last byte of it. */
	op = execute(0, KERNEL_RUN_STREAM, 0, 1, "err xy");
	assert_int_equal(output_of(expect(AGENT_EXEC_OUTPUT, op), 2).len, 1);
	assert_int_equal(hello().execs[0].state, AGENT_EXEC_RUNNING);
	send_number(AGENT_EXEC_CREDIT, op, 1);
	assert_int_equal(output_of(expect(AGENT_EXEC_OUTPUT, op), 2).len, 1);
	assert_int_equal(expect_result(op, AGENT_RESULT_OK).err.len, 2);
}

static void test_stream_that_nobody_watches(void **state)
{
	(void)state;
	attach_kernel(0, -1);
	uint64_t op = execute(0, KERNEL_RUN_STREAM, 0, 10, "out 5000000");

	assert_int_equal(output_of(expect(AGENT_EXEC_OUTPUT, op), 1).len, 10);
	send_number(AGENT_EXEC_CREDIT, op, 0);
	assert_int_equal(expect_result(op, AGENT_RESULT_OK).stdout_dropped, 5000000 - 1003);
	/* The daemon goes away while the program waits for it. */
	op = execute(0, KERNEL_RUN_STREAM, 0, 10, "out 5000000");
	assert_int_equal(output_of(expect(AGENT_EXEC_OUTPUT, op), 1).len, 10);
	sandbox_connect(&sandbox);
	struct agent_status status = hello();

	assert_int_equal(status.exec_count, 1);
	assert_true(status.execs[0].op == op);
	assert_int_equal(expect_result(op, AGENT_RESULT_OK).stdout_dropped, 5000000 - 1003);
}

static void test_stream_ends_without_its_reader(void **state)
{
	(void)state;
	attach_kernel(0, -1);
	/* Blocked in its write: the deadline and a cancel reach it all the same. */
	uint64_t op = execute(0, KERNEL_RUN_STREAM, 50, 0, "out 200000");

	if (!expect_result(op, AGENT_RESULT_TIMEOUT).kernel_idle) {
		/* It was too slow to answer before it was killed. */
		expect_kernel(0, AGENT_KERNEL_NONE);
		attach_kernel(0, -1);
	}
	op = execute(0, KERNEL_RUN_STREAM, 0, 0, "out 5000000");
	sandbox_send(&sandbox, AGENT_EXEC_CANCEL, op, STR("\1"), -1);
	expect_result(op, AGENT_RESULT_CANCELED);
	/* What a kernel wrote before it died is waited for. */
	op = execute(0, KERNEL_RUN_STREAM, 0, 0, "out 40;exit 9");
	hello();
	send_number(AGENT_EXEC_CREDIT, op, 100);
	assert_int_equal(output_of(expect(AGENT_EXEC_OUTPUT, op), 1).len, 40);
	expect_result(op, AGENT_RESULT_KERNEL_DIED);
	struct agent_kernel_change c = expect_kernel(0, AGENT_KERNEL_NONE);

	assert_int_equal(c.death, AGENT_DEATH_EXIT);
	assert_int_equal(c.code, 9);
}

/* ---- kernels ---- */

static void test_kernels_side_by_side(void **state)
{
	(void)state;
	attach_kernel(0, -1);
	attach_kernel(9, -1);
	uint64_t first = execute(0, KERNEL_RUN_STREAM, 0, 0, "out 5000000");
	uint64_t second = execute(9, 0, 0, 0, "out 5");

	/* The one that waits for its reader holds up nobody. */
	assert_int_equal(expect_result(second, AGENT_RESULT_OK).out.len, 5);
	second = execute(9, 0, 50, 0, "hang");
	expect_result(second, AGENT_RESULT_TIMEOUT);
	expect_kernel(9, AGENT_KERNEL_NONE);
	struct agent_status status = hello();

	assert_int_equal(status.kernel_count, 1);
	assert_true(str_eq(status.kernels[0].label, STR("label")));
	assert_int_equal(status.exec_count, 1);
	expect_result(execute(9, 0, 0, 0, "out 1"), AGENT_RESULT_NOT_RUN);
	expect_result(execute(0, 0, 0, 0, "out 1"), AGENT_RESULT_NOT_RUN);
	send_number(AGENT_KERNEL_END, 0, 0);
	expect_result(first, AGENT_RESULT_CANCELED);
	assert_int_equal(expect_kernel(0, AGENT_KERNEL_NONE).death, AGENT_DEATH_KILLED);
	send_number(AGENT_KERNEL_END, 0, 0);
	expect_kernel(0, AGENT_KERNEL_NONE);
}

/* Blocks until nobody holds the other end of a lifeline. */
static void wait_for_end(int fd)
{
	char byte;

	assert_int_equal(read(fd, &byte, 1), 0);
}

static void test_what_dies_with_a_kernel(void **state)
{
	int member[2], orphan[2], child[2];

	(void)state;
	assert_int_equal(pipe(member) | pipe(orphan) | pipe(child), 0);
	attach_kernel(0, child[1]);
	attach_kernel(1, member[1]);
	attach_kernel(2, orphan[1]);
	close(child[1]);
	close(member[1]);
	close(orphan[1]);
	expect_result(execute(0, 0, 0, 0, "child"), AGENT_RESULT_OK);
	expect_result(execute(1, 0, 0, 0, "member"), AGENT_RESULT_OK);
	expect_result(execute(2, 0, 0, 0, "orphan"), AGENT_RESULT_OK);
	/* In its session, without parents. */
	send_number(AGENT_KERNEL_END, 0, 1);
	expect_kernel(1, AGENT_KERNEL_NONE);
	wait_for_end(member[0]);
	/* Nobody's: spared while it might be a new kernel. */
	send_number(AGENT_KERNEL_END, 0, 2);
	expect_kernel(2, AGENT_KERNEL_NONE);
	wait_for_end(orphan[0]);
	/* In a session of its own, but a living kernel's child: alive, as is its kernel. */
	char byte;

	assert_int_equal(fd_set_nonblock(child[0], true), 0);
	assert_int_equal(read(child[0], &byte, 1), -1);
	expect_result(execute(0, 0, 0, 0, "out 1"), AGENT_RESULT_OK);
	assert_int_equal(fd_set_nonblock(child[0], false), 0);
	send_number(AGENT_KERNEL_END, 0, 0);
	expect_kernel(0, AGENT_KERNEL_NONE);
	wait_for_end(child[0]);
	close(member[0]);
	close(orphan[0]);
	close(child[0]);
}

static void test_line_of_a_process(void **state)
{
	static const char tail[] = " 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 100 9 9";
	struct agent_process p;
	char line[256];

	(void)state;
	snprintf(line, sizeof(line), "42 (sh) S 7 42 41%s", tail);
	assert_true(processes_parse(line, &p));
	assert_int_equal(p.pid, 42);
	assert_int_equal(p.parent, 7);
	assert_int_equal(p.session, 41);
	assert_true(p.age_ms > 0);
	assert_false(p.runnable);
	snprintf(line, sizeof(line), "42 (sh) R 7 42 41%s", tail);
	assert_true(processes_parse(line, &p));
	assert_true(p.runnable);
	/* Names that look like what follows a name. */
	snprintf(line, sizeof(line), "42 (a) S 1 1 1) R 7 42 41%s", tail);
	assert_true(processes_parse(line, &p));
	assert_int_equal(p.session, 41);
	snprintf(line, sizeof(line), "42 (sh) Z 7 42 41%s", tail);
	assert_false(processes_parse(line, &p));
	snprintf(line, sizeof(line), "1 (agent) S 0 1 1%s", tail);
	assert_false(processes_parse(line, &p));
	assert_false(processes_parse("42 (sh) S 7 42 41", &p));
	assert_false(processes_parse("42 (sh", &p));
	assert_false(processes_parse("", &p));
}

/* A process that leads a session of its own. */
static pid_t in_session(bool busy, int *ret_fd)
{
	int fds[2];
	char byte;

	assert_int_equal(pipe(fds), 0);
	pid_t pid = fork();

	if (pid == 0) {
		setsid();
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)!write(fds[1], "x", 1);
		while (busy)
			;
		for (;;)
			pause();
	}
	assert_true(pid > 0);
	close(fds[1]);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	*ret_fd = fds[0];
	return pid;
}

static void end_session(pid_t pid, int fd)
{
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	close(fd);
}

static void test_work_of_a_session(void **state)
{
	int fds[2];
	pid_t busy = in_session(true, &fds[0]);
	pid_t quiet = in_session(false, &fds[1]);

	(void)state;
	/* Time passes; nothing else makes the busy one work, or the quiet one sleep. */
	while (processes_work(busy).cpu_ns < 20 * 1000000 || processes_work(quiet).runnable)
		usleep(1000);
	assert_int_equal(processes_work(busy).runnable, 1);
	int64_t before = processes_work(quiet).cpu_ns;

	usleep(20000);
	assert_true(processes_work(quiet).cpu_ns == before && before > 0);
	end_session(busy, fds[0]);
	end_session(quiet, fds[1]);
	assert_int_equal(processes_work(busy).cpu_ns, 0);
	assert_int_equal(processes_work(busy).runnable, 0);
}

/* ---- terminals ---- */

static void open_terminal(uint64_t op)
{
	struct buf b;

	buf_init(&b, 256);
	wire_put_u16(&b, 80);
	wire_put_u16(&b, 24);
	wire_put_blob(&b, STR("dumb"));
	wire_put_blob(&b, STR(""));
	wire_put_blob(&b, STR("term"));
	sandbox_send(&sandbox, AGENT_TERM_OPEN, op, buf_str(&b), sandbox_launcher(&sandbox));
	buf_done(&b);
}

static struct agent_terminal_change expect_terminal(uint64_t op, bool ended)
{
	struct frame f = expect(AGENT_TERM_STATE, op);
	struct wire_reader r = wire_reader(f.payload.ptr, f.payload.len);
	struct agent_terminal_change c;

	assert_true(agent_frame_terminal_state(&r, &c));
	assert_int_equal(c.ended, ended);
	return c;
}

/* As a daemon opens one. */
static void open_attached(uint64_t op)
{
	open_terminal(op);
	send_number(AGENT_TERM_ATTACH, op, AGENT_STREAM_WINDOW);
	expect_terminal(op, false);
	expect_terminal(op, false);
}

static void type(uint64_t op, const char *text)
{
	sandbox_send(&sandbox, AGENT_TERM_INPUT, op, str_from(text), -1);
}

/* All output up to this text, which it ends with. */
static void read_until(uint64_t op, struct buf *seen, const char *text)
{
	while (!seen->ptr || !strstr(seen->ptr, text)) {
		struct frame f = next_frame();

		if (f.type == AGENT_TERM_CREDIT)
			continue;
		assert_int_equal(f.type, AGENT_TERM_OUTPUT);
		assert_true(f.op == op);
		buf_add_str(seen, f.payload);
		send_number(AGENT_TERM_CREDIT, op, (uint32_t)f.payload.len);
	}
}

static void type_until(uint64_t op, const char *input, const char *text)
{
	struct buf seen;

	buf_init(&seen, 1 << 20);
	type(op, input);
	read_until(op, &seen, text);
	buf_done(&seen);
}

static struct agent_terminal_change read_to_end(uint64_t op)
{
	struct frame f = next_frame();
	struct agent_terminal_change c;

	while (f.type != AGENT_TERM_STATE)
		f = next_frame();
	struct wire_reader r = wire_reader(f.payload.ptr, f.payload.len);

	assert_true(agent_frame_terminal_state(&r, &c) && f.op == op);
	assert_true(c.ended);
	return c;
}

static void test_terminal(void **state)
{
	static const uint32_t size = 132 | 50u << 16;

	(void)state;
	open_attached(5);
	type_until(5, "stty size\n", "24 80");
	send_number(AGENT_TERM_RESIZE, 5, size);
	type_until(5, "stty size\n", "50 132");
	/* Ctrl-C, and a signal from outside, end what is in front and not the shell. */
	type_until(5, "trap 'echo took-it' INT; echo on$((1))\n", "on1");
	type_until(5, "sh -c 'echo st$((1))arted; exec sleep 1000'\n", "st1arted");
	type_until(5, "\003", "took-it");
	type_until(5, "sh -c 'echo c$((1))at; exec cat'; echo gone=$?\n", "c1at");
	type_until(5, "abc\n", "abc\r\nabc");
	send_number(AGENT_TERM_SIGNAL, 5, SIGTERM);
	type_until(5, "", "gone=143");
	type(5, "echo last words; exit 7\n");
	struct buf seen;

	buf_init(&seen, 1 << 20);
	read_until(5, &seen, "last words\r\n"); /* not the echo; a prompt may be before it */
	buf_done(&seen);
	struct agent_terminal_change c = read_to_end(5);

	assert_int_equal(c.death, AGENT_DEATH_EXIT);
	assert_int_equal(c.code, 7);
	send_number(AGENT_TERM_ATTACH, 5, 100);
	struct frame f = expect(AGENT_ERROR, 5);
	struct wire_reader r = wire_reader(f.payload.ptr, f.payload.len);
	struct err e = ERR_INIT;

	assert_true(agent_frame_error(&r, &e));
	assert_int_equal(e.code, ERR_NO_TERMINAL);
}

static void test_terminal_is_replayed(void **state)
{
	struct buf seen;

	(void)state;
	open_attached(5);
	type_until(5, "PS1=; stty -echo; echo ready$((1))\n", "ready1");
	/* More than is kept, while nobody is attached; then the daemon is another one. */
	type(5, "seq 100000 130000; echo end-of-it; read x\n");
	while (next_frame().type != AGENT_TERM_CREDIT)
		;
	sandbox_connect(&sandbox);
	struct agent_status status = hello();

	assert_int_equal(status.terminal_count, 1);
	assert_true(status.terminals[0].op == 5);
	assert_true(str_eq(status.terminals[0].label, STR("term")));
	send_number(AGENT_TERM_ATTACH, 5, AGENT_STREAM_WINDOW);
	expect_terminal(5, false);
	buf_init(&seen, 4 << 20);
	read_until(5, &seen, "end-of-it");
	/* Every number follows the one before it: nothing is lost or said twice. */
	char *at = seen.ptr;
	unsigned long number = 0;

	while (number < 100000) {
		at = strchr(at, '\n') + 1;
		number = strtoul(at, NULL, 10);
	}
	at += 6;
	for (; number < 130000; number++)
		assert_int_equal(strtoul(at, &at, 10), number + 1);
	/* Again, from the start of what is kept: exactly as much. */
	send_number(AGENT_TERM_ATTACH, 5, AGENT_STREAM_WINDOW);
	size_t len = 0;

	for (bool answered = false; len < AGENT_TERMINAL_KEPT;) {
		struct frame f = next_frame();

		if (f.type == AGENT_TERM_STATE)
			answered = true;
		else if (answered && f.type == AGENT_TERM_OUTPUT)
			len += f.payload.len;
	}
	assert_int_equal(len, AGENT_TERMINAL_KEPT);
	buf_done(&seen);
}

static void test_terminal_waits_for_credit(void **state)
{
	size_t got = 0;

	(void)state;
	attach_kernel(0, -1);
	open_terminal(5);
	expect_terminal(5, false);
	send_number(AGENT_TERM_ATTACH, 5, 10000);
	expect_terminal(5, false);
	size_t before = sandbox_rss(&sandbox);

	type(5, "yes\n");
	while (got < 10000) {
		struct frame f = next_frame();

		got += f.type == AGENT_TERM_OUTPUT ? f.payload.len : 0;
	}
	assert_int_equal(got, 10000);
	/* The program waits, everything else goes on. */
	expect_result(execute(0, 0, 0, 0, "out 1"), AGENT_RESULT_OK);
	hello();
	/* Nobody attached: it goes on, and what it says is bounded. */
	send_empty(AGENT_TERM_DETACH, 5);
	for (int i = 0; i < 20; i++) {
		expect_result(execute(0, 0, 0, 0, "out 1000000"), AGENT_RESULT_OK);
		assert_true(sandbox_rss(&sandbox) < before + (1 << 20));
	}
	send_empty(AGENT_TERM_CLOSE, 5);
	assert_int_equal(expect_terminal(5, true).death, AGENT_DEATH_KILLED);
	assert_int_equal(hello().kernel_count, 1);
}

static void test_terminal_is_closed(void **state)
{
	(void)state;
	open_attached(5);
	/* Neither the shell nor what it started takes notice of the hang-up. */
	type_until(5, "trap '' HUP; sleep 1000 & echo on$((1)); wait\n", "on1");
	send_empty(AGENT_TERM_CLOSE, 5);
	struct agent_terminal_change c = read_to_end(5);

	assert_int_equal(c.death, AGENT_DEATH_KILLED);
	assert_int_equal(c.code, SIGKILL);
	/* As many as there may be, and one more. */
	for (uint64_t op = 10; op < 10 + AGENT_TERMINALS_MAX; op++) {
		open_terminal(op);
		expect_terminal(op, false);
	}
	open_terminal(99);
	struct frame f = expect(AGENT_ERROR, 99);
	struct wire_reader r = wire_reader(f.payload.ptr, f.payload.len);
	struct err e = ERR_INIT;

	assert_true(agent_frame_error(&r, &e));
	assert_int_equal(e.code, ERR_QUOTA);
	for (uint64_t op = 10; op < 10 + AGENT_TERMINALS_MAX; op++) {
		send_empty(AGENT_TERM_CLOSE, op);
		read_to_end(op);
	}
	assert_int_equal(hello().terminal_count, 0);
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_line_of_a_process),
		cmocka_unit_test(test_work_of_a_session),
#define IN_SANDBOX(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		IN_SANDBOX(test_stream_in_constant_memory),
		IN_SANDBOX(test_stream_waits_for_credit),
		IN_SANDBOX(test_stream_that_nobody_watches),
		IN_SANDBOX(test_stream_ends_without_its_reader),
		IN_SANDBOX(test_kernels_side_by_side),
		IN_SANDBOX(test_what_dies_with_a_kernel),
		IN_SANDBOX(test_terminal),
		IN_SANDBOX(test_terminal_is_replayed),
		IN_SANDBOX(test_terminal_waits_for_credit),
		IN_SANDBOX(test_terminal_is_closed),
	};

	if (argc != 2)
		return 1;
	agent_binary = argv[1];
	signal(SIGPIPE, SIG_IGN);
	if (!sandbox_start(&sandbox, agent_binary)) {
		printf("1..0 # SKIP no PID namespace can be made here\n");
		return 0;
	}
	sandbox_stop(&sandbox);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
