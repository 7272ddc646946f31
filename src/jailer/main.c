/* SPDX-License-Identifier: Apache-2.0 */

/*
 * bivouac-jailer: the root half of Bivouac. Not started by hand: bivouacd does it, with one end of
 * a SOCK_SEQPACKET pair as descriptor 3.
 *
 * Two processes. The keeper only waits: it starts the worker again when it is lost, and, as
 * subreaper, inherits and reaps the sandboxes of lost workers. The worker does everything else.
 * Both hold the same socket, so that the daemon's end stays valid when the worker is killed.
 */

#include "base/err.h"
#include "base/log.h"
#include "base/own.h"
#include "base/str.h"
#include "jailer/jailer.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void usage(FILE *out)
{
	fputs("usage: bivouac-jailer --run-dir DIR --images DIR --owner UID [--uid-dir DIR]\n"
	      "         [--egress on|off] [--egress-allow CIDR[,CIDR…]] [--egress-connections N] [--egress-rate N]\n"
	      "         [--egress-bandwidth BYTES] [--dns ADDRESS[,ADDRESS…]]\nStarted by bivouacd with its socket as descriptor 3; see docs/jailer-protocol.md.\n",
	      out);
}

/* Settings of egress, in the order of their options below. */
static int (*const egress_parsers[])(struct egress_options *o, const char *text, struct err *e) = {
	egress_parse_allow,     egress_parse_connections, egress_parse_rate,
	egress_parse_bandwidth, egress_parse_dns,         egress_parse_switch,
};
#define EGRESS_OPTION 256 /* + index: a value that no character has */

static const struct option options[] = {
	{ "run-dir", required_argument, NULL, 'r' },
	{ "images", required_argument, NULL, 'i' },
	{ "owner", required_argument, NULL, 'o' },
	{ "uid-dir", required_argument, NULL, 'u' },
	{ "egress-allow", required_argument, NULL, EGRESS_OPTION },
	{ "egress-connections", required_argument, NULL, EGRESS_OPTION + 1 },
	{ "egress-rate", required_argument, NULL, EGRESS_OPTION + 2 },
	{ "egress-bandwidth", required_argument, NULL, EGRESS_OPTION + 3 },
	{ "dns", required_argument, NULL, EGRESS_OPTION + 4 },
	{ "egress", required_argument, NULL, EGRESS_OPTION + 5 },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static int parse_egress(struct jailer_config *config, int which)
{
	struct err e = ERR_INIT;

	if (egress_parsers[which - EGRESS_OPTION](&config->egress, optarg, &e) == 0)
		return 0;
	fprintf(stderr, "bivouac-jailer: %s\n", e.msg);
	return -1;
}

static int parse(int argc, char **argv, struct jailer_config *config)
{
	bool owner = false;

	for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
		switch (c) {
		case 'r':
			config->run_dir = optarg;
			break;
		case 'i':
			config->images_dir = optarg;
			break;
		case 'o':
			config->owner = (uid_t)strtoul(optarg, NULL, 10);
			owner = true;
			break;
		case 'u':
			config->uid_dir = optarg;
			break;
		case 'h':
			usage(stdout);
			exit(0);
		default:
			if (c < EGRESS_OPTION || parse_egress(config, c) < 0)
				return -1;
		}
	}
	if (!config->run_dir || !config->images_dir || !owner || config->run_dir[0] != '/')
		return -1;
	return fcntl(JAILER_SOCK_FD, F_GETFD) < 0 ? -1 : 0;
}

static const char *own_dir(void)
{
	static char path[300];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);

	if (n <= 0)
		return ".";
	path[n] = '\0';
	char *slash = strrchr(path, '/');

	*slash = '\0';
	return path;
}

/* Two descriptors a sandbox: as many as root allows, whatever the shell that started us had. */
static void raise_open_files(void)
{
	struct rlimit lim;

	if (getrlimit(RLIMIT_NOFILE, &lim) == 0 && lim.rlim_cur < lim.rlim_max) {
		lim.rlim_cur = lim.rlim_max;
		setrlimit(RLIMIT_NOFILE, &lim);
	}
}

static pid_t start_worker(struct jailer_config *config)
{
	pid_t keeper = getpid();
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != keeper)
		_exit(1);
	prctl(PR_SET_NAME, "bivouac-jailer");
	log_init("jailer", LOG_INFO);
	/* exit and not _exit: sanitizers report and coverage is written at exit. */
	exit(jailer_run(config));
}

int main(int argc, char **argv)
{
	struct jailer_config config = { .uid_dir = "/run/bivouac-uids",
					.egress = EGRESS_OPTIONS_INIT };

	if (parse(argc, argv, &config) < 0) {
		usage(stderr);
		return 64;
	}
	config.binary_dir = own_dir();
	log_init("jailer-keeper", LOG_INFO);
	setsid(); /* a Ctrl-C in the daemon's terminal is for the daemon alone */
	signal(SIGPIPE, SIG_IGN);
	fcntl(JAILER_SOCK_FD, F_SETFD, FD_CLOEXEC);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	/* The daemon's lock on the run directory, shared by descriptor: a new daemon waits for it
	 * until the last of us is gone. */
	fcntl(JAILER_LOCK_FD, F_SETFD, FD_CLOEXEC);
	raise_open_files();
	for (unsigned pause_ms = 50;;) {
		time_t started = time(NULL);
		pid_t worker = start_worker(&config);
		int status = 0;

		if (worker < 0) {
			log_error("fork: errno %d", errno);
			return 71;
		}
		for (pid_t pid = 0; pid != worker;) {
			pid = waitpid(-1, &status, 0);
			if (pid < 0 && errno != EINTR)
				return 71;
		}
		if (WIFEXITED(status))
			return WEXITSTATUS(status);
		struct pollfd daemon = { .fd = JAILER_SOCK_FD };

		if (poll(&daemon, 1, 0) > 0 && daemon.revents & (POLLHUP | POLLERR))
			return 0; /* nobody to work for */
		log_error("the jailer was lost (signal %d); starting it again", WTERMSIG(status));
		if (time(NULL) - started > 10)
			pause_ms = 50; /* an accident, not a circle */
		usleep(pause_ms * 1000);
		pause_ms = pause_ms < 2000 ? pause_ms * 2 : pause_ms;
	}
}
