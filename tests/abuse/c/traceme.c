/* SPDX-License-Identifier: Apache-2.0 */
/* A child traces itself to its parent and runs a set-uid program (CVE-2019-13272). */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

int main(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		long rc = ptrace(PTRACE_TRACEME, 0, NULL, NULL);

		printf("traceme %s\n", rc == 0 ? "done" : strerrorname_np(errno));
		fflush(stdout);
		execl("/bin/su", "su", NULL);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	return 0;
}
