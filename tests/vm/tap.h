/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * tap: checks of a guest, reported as TAP lines over the console.
 *
 * A check is a function that calls EXPECT(); the first one that does not hold is named in a `#`
 * line and the check goes on, so that it cleans up after itself. Checks run one after the other.
 */

#include <stdbool.h>
#include <stddef.h>

struct tap_check {
	const char *layout; /* runs when the guest was booted for this one */
	const char *name;
	void (*run)(void);
};

/** tap_run: runs those of `layout`, prints the plan and one line each. */
void tap_run(const struct tap_check *checks, size_t count, const char *layout);
/** tap_expect: what EXPECT calls; fmt says what was there instead. */
bool tap_expect(bool holds, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/** tap_child: runs fn in a child, whose failed expectations count here. */
void tap_child(void (*fn)(void));

#define EXPECT(holds, ...) tap_expect((holds), __FILE__, __LINE__, __VA_ARGS__)
