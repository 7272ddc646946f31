/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * progress: a bar on stderr when that is a terminal, nothing (or plain lines, for builds)
 * otherwise.
 */

#include <stdbool.h>
#include <stdint.h>

struct progress {
	const char *label; /* NULL: show nothing */
	bool tty;
	bool drawn;
	int64_t last_ms;
	int last_percent;
};

void progress_init(struct progress *p, const char *label);
/** progress_percent: draws at most ten times a second; text is cut to the line and cleaned of
 * control bytes. */
void progress_percent(struct progress *p, int percent, const char *text);
/** progress_bytes: total 0 means unknown. */
void progress_bytes(struct progress *p, uint64_t done, uint64_t total);
/** progress_done: removes the bar. */
void progress_done(struct progress *p);
