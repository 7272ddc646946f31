/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel_shell.h"

#include "base/buf.h"
#include "base/fdio.h"
#include "base/own.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define PROCESSES_MAX 512

/* The pids in /proc/<pid>/task/<pid>/children, appended. */
static size_t add_children(pid_t pid, pid_t *pids, size_t count)
{
	char path[64];
	struct buf text;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	buf_init(&text, 65536);
	if (fd_read_file(AT_FDCWD, path, 65536, &text, NULL) == 0 && text.len) {
		char *at = text.ptr, *end;

		for (long child; count < PROCESSES_MAX && (child = strtol(at, &end, 10)) > 0;
		     at = end)
			pids[count++] = (pid_t)child;
	}
	buf_done(&text);
	return count;
}

static unsigned long long mask_of(const struct buf *status, const char *key)
{
	const char *line = status->len ? strstr(status->ptr, key) : NULL;

	return line ? strtoull(line + strlen(key), NULL, 16) : 0;
}

/*
 * A program in a group of its own has not got the signal; one in ours that neither ignores nor
 * catches it would be gone, had it not got it while it was being forked. Who catches it is at it.
 * bash itself ignores it until the command begins; whether it was before or behind is not known.
 */
static bool missed_it(pid_t pid, bool is_bash)
{
	const unsigned long long bit = 1ull << (SIGINT - 1);
	char path[64];
	struct buf status;

	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	buf_init(&status, 16384);
	bool read = fd_read_file(AT_FDCWD, path, 16384, &status, NULL) == 0;
	bool ignores = mask_of(&status, "\nSigIgn:\t") & bit;
	bool catches = mask_of(&status, "\nSigCgt:\t") & bit;

	buf_done(&status);
	return read && !ignores && (is_bash || !catches || getpgid(pid) != getpgrp());
}

/* Once each: to many programs the second one means more. */
static void interrupt_once(struct shell *s, pid_t pid)
{
	for (size_t i = 0; i < s->interrupted_count; i++)
		if (s->interrupted[i] == pid)
			return;
	if (s->interrupted_count == SHELL_INTERRUPTED_MAX)
		return;
	s->interrupted[s->interrupted_count++] = pid;
	kill(pid, SIGINT);
}

void shell_interrupt_stragglers(struct shell *s)
{
	pid_t pids[PROCESSES_MAX] = { s->pid };
	size_t count = s->pid > 0;

	for (size_t i = 0; i < count; i++)
		count = add_children(pids[i], pids, count);
	for (size_t i = 0; i < count; i++)
		if (missed_it(pids[i], i == 0))
			interrupt_once(s, pids[i]);
}
