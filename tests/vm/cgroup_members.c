/* SPDX-License-Identifier: Apache-2.0 */
#include "cgroup_guest.h"

#include "base/fdio.h"
#include "base/own.h"
#include "tap.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct cgroup_layout layout;
const struct jailer_limits limits = { .memory_bytes = MEMORY, .pids = PIDS, .cpu_millis = QUOTA };

const char *read_text(const char *path)
{
	static char text[4096];
	struct err e = ERR_INIT;
	struct buf b;

	buf_init(&b, sizeof(text) - 1);
	if (fd_read_file(AT_FDCWD, path, sizeof(text) - 1, &b, &e) < 0)
		snprintf(text, sizeof(text), "(%.200s)", e.msg);
	else
		snprintf(text, sizeof(text), "%.*s", (int)b.len, buf_str(&b).ptr);
	buf_done(&b);
	char *newline = strchr(text, '\n');

	if (newline && !newline[1])
		*newline = '\0';
	return text;
}

uint64_t read_number(const char *path, const char *word)
{
	const char *text = read_text(path);
	const char *at = strstr(text, word);

	return EXPECT(at != NULL, "no '%s' in %s: %s", word, path, text)
		       ? strtoull(at + strlen(word), NULL, 10)
		       : 0;
}

void expect_text(const char *path, const char *want)
{
	const char *text = read_text(path);

	EXPECT(strcmp(text, want) == 0, "%s: '%s' instead of '%s'", path, text, want);
}

void expect_gone(const char *path)
{
	EXPECT(access(path, F_OK) < 0 && errno == ENOENT, "%s is still there", path);
}

int64_t seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec;
}

/* What members of a sandbox do. */

void idle(void)
{
	for (;;)
		pause();
}

void spin(void)
{
	for (volatile unsigned i = 0;; i++)
		;
}

static char *touch(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		_exit(9);
	for (size_t i = 0; i < bytes; i += 4096)
		p[i] = 1;
	return p;
}

void hog_all(void)
{
	touch(3 * MEMORY);
}

/* Two of them do not fit, one does. */
void hog_half(void)
{
	touch(MEMORY * 6 / 10);
	kill(getpid(), SIGSTOP);
	idle();
}

/* Exit status: how many children there could be. */
void fork_all(void)
{
	for (int n = 0;; n++) {
		pid_t pid = fork();

		if (pid == 0)
			idle();
		if (pid < 0)
			_exit(errno == EAGAIN ? n : 99);
	}
}

pid_t start_agent(const char *sid, void (*fn)(void))
{
	struct err e = ERR_INIT;
	int go[2];

	if (!EXPECT(pipe2(go, O_CLOEXEC) == 0, "pipe"))
		return -1;
	pid_t pid = fork();

	if (pid == 0) {
		char c;

		close(go[1]);
		/* What counts is what is touched after the move. */
		(void)!read(go[0], &c, 1);
		fn();
		_exit(0);
	}
	EXPECT(cgroup_attach_agent(&layout, sid, pid, &e) == 0, "attach: %s", e.msg);
	close(go[0]);
	close(go[1]);
	return pid;
}

pid_t start_kernel(const char *sid, void (*fn)(void))
{
	struct err e = ERR_INIT;
	int fds[CGROUP_CONTROLLERS];
	int n = cgroup_kernel_fds(&layout, sid, fds, &e);

	EXPECT(n > 0, "kernel descriptors: %s", e.msg);
	pid_t pid = fork();

	if (pid == 0) {
		for (int i = 0; i < n; i++)
			if (write(fds[i], "0", 1) != 1)
				_exit(98);
		fn();
		_exit(0);
	}
	while (n > 0)
		close(fds[--n]);
	return pid;
}

void end(pid_t pid)
{
	if (pid > 0) {
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

int wait_end(pid_t pid)
{
	int status = -1;

	EXPECT(waitpid(pid, &status, 0) == pid, "wait");
	return status;
}

void expect_killed(pid_t pid)
{
	int status = wait_end(pid);

	EXPECT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "status %#x instead of SIGKILL",
	       (unsigned)status);
}

bool is_alive(pid_t pid)
{
	return waitpid(pid, NULL, WNOHANG) == 0;
}

void create(const char *sid)
{
	struct err e = ERR_INIT;

	EXPECT(cgroup_create(&layout, sid, &limits, &e) == 0, "create: %s", e.msg);
}

/* A killed process leaves its cgroup a moment after it was reaped. */
void remove_sandbox(const char *sid)
{
	struct err e = ERR_INIT;
	int64_t until = seconds() + PATIENCE_S;
	int rc;

	while ((rc = cgroup_remove(&layout, sid, &e)) == 1 && seconds() < until)
		usleep(10000);
	EXPECT(rc == 0, "remove: %d %s", rc, e.msg);
}
