/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * clock: monotonic time for intervals, wall time for people, and the RFC 3339 text of both APIs.
 */

#include <stddef.h>
#include <stdint.h>
#include <time.h>

static inline int64_t clock_mono_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static inline int64_t clock_mono_ms(void)
{
	return clock_mono_ns() / 1000000;
}

/** clock_wall_us: microseconds since 1970, UTC. */
static inline int64_t clock_wall_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

#define CLOCK_TEXT_SIZE 40
/** clock_format: "2026-11-21T20:38:44.123456Z" (six digits: Azure allows seven, Jupyter at most
 * six). */
const char *clock_format(int64_t wall_us, char buf[static CLOCK_TEXT_SIZE]);
