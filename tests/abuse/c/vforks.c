/* SPDX-License-Identifier: Apache-2.0 */
/* A parent that waits in vfork for a child that ignores everything and never execs. */
#include <signal.h>
#include <unistd.h>

int main(void)
{
	if (vfork() == 0) {
		for (int sig = 1; sig < 65; sig++)
			signal(sig, SIG_IGN);
		for (;;)
			pause();
	}
	return 0;
}
