/* SPDX-License-Identifier: Apache-2.0 */
#include "agent/agent.h"

#include "base/own.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#ifndef TIOCSIG
#define TIOCSIG _IOW('T', 0x36, int)
#endif
#ifndef TIOCGPTPEER
#define TIOCGPTPEER _IO('T', 0x41)
#endif

int pty_open(uint16_t columns, uint16_t rows, int *ret_master, int *ret_slave, struct err *e)
{
	OWNED_FD int master = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	int unlocked = 0;

	if (master < 0)
		return err_set(e, ERR_UNAVAILABLE,
			       "the session has no terminal left (devpts of the sandbox, errno %d)",
			       errno);
	pty_resize(master, columns, rows);
	/* SECURITY: the slave by the master's own word, not by a path that the sandbox could have
	 * something else at. */
	int slave = ioctl(master, TIOCSPTLCK, &unlocked) < 0
			    ? -1
			    : ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);

	if (slave < 0)
		return err_sys(e, "open a terminal");
	*ret_master = take_fd(master);
	*ret_slave = slave;
	return 0;
}

void pty_resize(int master, uint16_t columns, uint16_t rows)
{
	struct winsize size = { .ws_col = columns, .ws_row = rows };

	ioctl(master, TIOCSWINSZ, &size);
}

void pty_signal(int master, int sig)
{
	pid_t group = 0;

	/* These the terminal sends itself, to the group that is in front at that moment. */
	if (sig == SIGINT || sig == SIGQUIT || sig == SIGTSTP) {
		ioctl(master, TIOCSIG, sig);
		return;
	}
	/* SECURITY: a group in the terminal's own session: no other can be put in front. */
	if (ioctl(master, TIOCGPGRP, &group) == 0 && group > 1)
		kill(-group, sig);
}
