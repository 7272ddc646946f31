/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * kernel_shell: the one bash behind a shell kernel, replaced whenever a command ends it.
 *
 * bash reads fixed lines from descriptor 0, a socket to the driver, and reports on the same socket.
 * What comes from outside is never part of a line: a line says where to find it, as a file that the
 * driver holds open in memory (/proc/<driver>/fd/<n>). So nothing that a command says can be taken
 * for the driver's words, and commands inherit no descriptor but 0, 1 and 2.
 *
 * After each command bash writes its state (directory, variables, functions, aliases, options) as
 * text that it can read back, and again when it exits; the next bash starts from the newest state
 * that is whole.
 *
 * Single-threaded; the caller polls ctl_fd (edge-triggered, both ways) and SIGCHLD.
 */

#include "base/str.h"

#include <limits.h>
#include <sys/types.h>

enum shell_state {
	SHELL_DOWN,    /* no bash */
	SHELL_BUSY,    /* starting, or writing down its state */
	SHELL_IDLE,    /* takes a command */
	SHELL_RUNNING, /* a command runs */
};

/** What happened, for the caller to act on. */
enum shell_event {
	SHELL_NOTHING,
	SHELL_FINISHED, /* the command ended: exit_code */
	SHELL_READY,    /* takes the next command */
	SHELL_ENDED,    /* bash is gone; exit_code, if it was running */
	SHELL_STRAYED,  /* the same, by a `break` or `continue` in no loop: the rest was not run */
	SHELL_REFUSED,  /* the command did not begin; bash is in no state to run one */
	SHELL_BROKEN,   /* bash lives but does not take commands any more: kill and start again */
};

#define SHELL_REPORT_MAX      64
#define SHELL_INTERRUPTED_MAX 64

struct shell {
	enum shell_state state;
	pid_t pid;
	int ctl_fd;
	int exit_code;
	int code_fd;   /* the command to run */
	int script_fd; /* what writes down the state */
	int base_fd;   /* state after the last finished command, whole */
	int next_fd;   /* the same, being written */
	int exit_fd;   /* state when bash exited */
	bool has_base;
	bool has_exit;
	bool large; /* its state is too large to be written down after each command */
	char dir[PATH_MAX];
	pid_t interrupted[SHELL_INTERRUPTED_MAX]; /* by shell_interrupt_stragglers() */
	size_t interrupted_count;
	char report[SHELL_REPORT_MAX];
	size_t report_len;
};

/** shell_init: memory files and the script; no bash yet. */
int shell_init(struct shell *s);
/**
 * shell_start: a new bash. With `state` it takes over what the last one left, with `options` its
 * shell options too; without, it starts from the driver's environment in the last directory.
 */
int shell_start(struct shell *s, bool state, bool options);
/** shell_run: hands over a command; the shell must be idle. */
int shell_run(struct shell *s, struct str code, bool is_argv);
/** shell_take: one event out of ctl_fd; call until SHELL_NOTHING. */
enum shell_event shell_take(struct shell *s);
/** shell_reap: call on SIGCHLD. */
enum shell_event shell_reap(struct shell *s);
/** shell_kill: ends bash at once; state is DOWN. */
void shell_kill(struct shell *s);

/**
 * shell_interrupt_stragglers: SIGINT for programs of the running command that it did not reach when
 * the process group got it: those in groups of their own (`timeout`, `set -m`), and those that were
 * just being forked. What a command put into the background ignores it. May be called again: each
 * gets it once.
 */
void shell_interrupt_stragglers(struct shell *s);

/** exec_main: the other way to start this program: becomes the command of a RUN with ARGV. */
int exec_main(const char *driver_pid, const char *fd);
