/* SPDX-License-Identifier: Apache-2.0 */
/* Asks for a large core and crashes. */
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

static char large[64 << 20];

int main(void)
{
	struct rlimit lim = { RLIM_INFINITY, RLIM_INFINITY };

	setrlimit(RLIMIT_CORE, &lim);
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	memset(large, 1, sizeof(large));
	kill(getpid(), SIGSEGV);
	return 0;
}
