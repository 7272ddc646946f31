/* SPDX-License-Identifier: Apache-2.0 */
#include "base/log.h"

#include "base/clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static const char *process_name = "bivouac";
static enum log_level level_min = LOG_INFO;

void log_init(const char *process, enum log_level min)
{
	process_name = process;
	level_min = min;
}

void log_msg(enum log_level level, const char *fmt, ...)
{
	static const char *const names[] = { "debug", "info", "warn", "error" };
	char text[1024];
	char line[4400];
	char when[CLOCK_TEXT_SIZE];

	if (level < level_min)
		return;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	int n = snprintf(line, sizeof(line), "%s %s %s[%d]: ", clock_format(clock_wall_us(), when),
			 names[level], process_name, (int)getpid());

	for (const unsigned char *p = (const unsigned char *)text; *p && n < (int)sizeof(line) - 8;
	     p++) {
		if (*p >= 0x20 && *p != 0x7f)
			line[n++] = (char)*p;
		else
			n += snprintf(line + n, 5, "\\x%02x", *p);
	}
	line[n++] = '\n';
	/* One write per line keeps lines of several processes apart; a full pipe loses the line,
	 * not the process. */
	ssize_t ignored = write(STDERR_FILENO, line, (size_t)n);

	(void)ignored;
}
