/* SPDX-License-Identifier: Apache-2.0 */

/* bivouac-tls-keeper CERTIFICATE KEY: see tls_keeper.h. Started by bivouacd. */

#include "daemon/tls_keeper.h"

#include "base/fdio.h"
#include "base/own.h"
#include "base/sanitized.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define OPEN_FLAGS (O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)

/* SECURITY: as root without capabilities it reads what root owns; this one is for keys that belong
 * to the user of an ACME client. */
static int keep_one_capability(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2] = { { 0 }, { 0 } };

	sets[0].effective = sets[0].permitted = 1u << CAP_DAC_READ_SEARCH;
	if (syscall(SYS_capset, &header, sets) == 0)
		return 0;
	sets[0].effective = sets[0].permitted = 0; /* it is not there to be kept */
	return (int)syscall(SYS_capset, &header, sets);
}

static int install_filter(void)
{
	static const int calls[] = {
		SCMP_SYS(recvmsg), SCMP_SYS(sendmsg),    SCMP_SYS(close),
		SCMP_SYS(fstat),   SCMP_SYS(newfstatat), SCMP_SYS(exit_group)
	};
	scmp_filter_ctx ctx = seccomp_init(SCMP_ACT_KILL_PROCESS);
	int rc = ctx ? 0 : -ENOMEM;

	for (size_t i = 0; i < ARRAY_LEN(calls) && rc == 0; i++)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, calls[i], 0);
	if (rc == 0)
		rc = seccomp_rule_add(ctx, SCMP_ACT_ALLOW, SCMP_SYS(openat), 1,
				      SCMP_A2_32(SCMP_CMP_EQ, OPEN_FLAGS));
	if (rc == 0)
		rc = seccomp_load(ctx);
	seccomp_release(ctx);
	return rc;
}

static int confine(void)
{
	const struct rlimit none = { 0, 0 };

	if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
	    keep_one_capability() < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -1;
	return SANITIZED ? 0 : install_filter();
}

/* -1 with errno. Who renames files into place may make them anything. */
static int open_file(const char *path)
{
	OWNED_FD int fd = openat(AT_FDCWD, path, OPEN_FLAGS);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -1;
	if (!S_ISREG(st.st_mode) || st.st_size > TLS_KEEPER_FILE_MAX) {
		errno = S_ISREG(st.st_mode) ? EFBIG : EINVAL;
		return -1;
	}
	return take_fd(fd);
}

static int answer(char *const *paths)
{
	struct tls_keeper_reply reply = { 0, 0 };
	int fds[TLS_KEEPER_FILES] = { -1, -1 };
	ssize_t n;

	for (int i = 0; i < TLS_KEEPER_FILES && !reply.errnum; i++) {
		fds[i] = open_file(paths[i]);
		if (fds[i] < 0)
			reply = (struct tls_keeper_reply){ errno, i };
	}
	n = fd_send(TLS_KEEPER_FD, &reply, sizeof(reply), fds, reply.errnum ? 0 : TLS_KEEPER_FILES);
	for (int i = 0; i < TLS_KEEPER_FILES; i++)
		close_fd(&fds[i]);
	return n == sizeof(reply) ? 0 : -1;
}

int main(int argc, char **argv)
{
	if (argc != 1 + TLS_KEEPER_FILES) {
		fputs("bivouac-tls-keeper is started by bivouacd\n", stderr);
		return 64;
	}
	/* The terminal's signals are for the daemon, whose end is ours. */
	signal(SIGHUP, SIG_IGN);
	signal(SIGINT, SIG_IGN);
	signal(SIGPIPE, SIG_IGN);
	if (confine() != 0)
		return 71;
	for (;;) {
		size_t fd_count = 0;
		char byte;
		ssize_t n = fd_recv(TLS_KEEPER_FD, &byte, 1, NULL, &fd_count);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0 || answer(argv + 1) < 0)
			_exit(0);
	}
}
