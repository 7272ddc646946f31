/* SPDX-License-Identifier: Apache-2.0 */
#include "tap.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static bool failed;

bool tap_expect(bool holds, const char *file, int line, const char *fmt, ...)
{
	char text[600];
	va_list ap;

	if (holds)
		return true;
	failed = true;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	printf("# %s:%d: %s\n", file, line, text);
	fflush(stdout);
	return false;
}

void tap_child(void (*fn)(void))
{
	int status = 0;
	pid_t pid = fork();

	if (pid == 0) {
		failed = false;
		fn();
		_exit(failed);
	}
	EXPECT(pid > 0 && waitpid(pid, &status, 0) == pid, "no child");
	EXPECT(status == 0, "the child ended with status %#x", (unsigned)status);
}

void tap_run(const struct tap_check *checks, size_t count, const char *layout)
{
	int planned = 0;
	int done = 0;

	for (size_t i = 0; i < count; i++)
		planned += strcmp(checks[i].layout, layout) == 0;
	printf("1..%d\n", planned);
	for (size_t i = 0; i < count; i++) {
		if (strcmp(checks[i].layout, layout) != 0)
			continue;
		failed = false;
		checks[i].run();
		printf("%sok %d - %s\n", failed ? "not " : "", ++done, checks[i].name);
		fflush(stdout);
	}
}
