/* SPDX-License-Identifier: Apache-2.0 */
/* Leaves N daemons: double-forked, in sessions of their own, ignoring every signal. */
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	for (int i = 0; i < (argc > 1 ? atoi(argv[1]) : 1); i++) {
		if (fork() == 0) {
			setsid();
			if (fork() != 0)
				_exit(0);
			for (int fd = 0; fd < 3; fd++)
				close(fd); /* nobody waits for our end */
			for (int sig = 1; sig < 65; sig++)
				signal(sig, SIG_IGN);
			for (;;)
				pause();
		}
		wait(NULL);
	}
	return 0;
}
