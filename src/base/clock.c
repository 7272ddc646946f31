/* SPDX-License-Identifier: Apache-2.0 */
#include "base/clock.h"

#include <stdio.h>

const char *clock_format(int64_t wall_us, char buf[static CLOCK_TEXT_SIZE])
{
	time_t sec = (time_t)(wall_us / 1000000);
	struct tm tm;

	gmtime_r(&sec, &tm);
	size_t n = strftime(buf, CLOCK_TEXT_SIZE, "%Y-%m-%dT%H:%M:%S", &tm);

	snprintf(buf + n, CLOCK_TEXT_SIZE - n, ".%06dZ", (int)(wall_us % 1000000));
	return buf;
}
