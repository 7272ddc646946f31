/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/witness.h"

#include "base/clock.h"
#include "base/own.h"
#include "jailer/jail.h"
#include "jailer/records.h"
#include "jailer/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Host id of witnesses within the daemon's block; sandboxes use the first two of each sixteen. */
#define WITNESS_ID 9

struct witness_place *witness_map(const char *run_dir, struct err *e)
{
	const size_t size = RECORD_SLOTS * sizeof(struct witness_place);
	char path[320];

	snprintf(path, sizeof(path), "%s/refused", run_dir);
	OWNED_FD int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0 || ftruncate(fd, (off_t)size) < 0) {
		err_sys(e, "%s", path);
		return NULL;
	}
	void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (at == MAP_FAILED) {
		err_sys(e, "map %s", path);
		return NULL;
	}
	return at;
}

void witness_clear(struct witness_place *place)
{
	if (place->calls[0].at_ns)
		memset(place, 0, sizeof(*place));
}

static void note(struct witness_place *place, int nr)
{
	size_t oldest = 0;

	for (size_t i = 0; i < WITNESS_CALLS; i++) {
		if (place->calls[i].at_ns && place->calls[i].nr == nr) {
			place->calls[i].at_ns = clock_mono_ns();
			return;
		}
		if (place->calls[i].at_ns < place->calls[oldest].at_ns)
			oldest = i;
	}
	place->calls[oldest].nr = nr;
	place->calls[oldest].at_ns = clock_mono_ns();
}

size_t witness_names(const struct witness_place *place, int64_t since_ns,
		     char (*names)[JAILER_CALL_SIZE], size_t max)
{
	struct witness_place copy = *place;
	size_t count = 0;

	while (count < max) {
		size_t latest = 0;

		for (size_t i = 1; i < WITNESS_CALLS; i++)
			if (copy.calls[i].at_ns > copy.calls[latest].at_ns)
				latest = i;
		if (copy.calls[latest].at_ns < since_ns || !copy.calls[latest].at_ns)
			break;
		char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE,
							      (int)copy.calls[latest].nr);

		snprintf(names[count++], sizeof(names[0]), "%s", name ? name : "?");
		free(name);
		copy.calls[latest].at_ns = 0;
	}
	return count;
}

/* The slot of a process by its host user id; -1: none of ours. */
static long slot_of(int proc_dfd, uint32_t pid, uid_t uid_base)
{
	char path[32];
	char text[1024];
	unsigned long uid;

	snprintf(path, sizeof(path), "%u/status", pid);
	OWNED_FD int fd = openat(proc_dfd, path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	if (n <= 0)
		return -1;
	text[n] = '\0';
	const char *line = strstr(text, "\nUid:\t");

	if (!line)
		return -1;
	uid = strtoul(line + 6, NULL, 10);
	if (uid < uid_base || uid >= uid_base + (uid_t)(RECORD_SLOTS * JAIL_IDS_PER_SLOT))
		return -1;
	return (long)((uid - uid_base) / JAIL_IDS_PER_SLOT);
}

/*
 * SECURITY: nothing of the caller's memory is read, only the call's number, which the kernel
 * wrote: there is no pointer whose target could change meanwhile. Every call is answered with an
 * error, none is ever let through.
 */
static void serve(struct witness_place *places, int listener, int proc_dfd, uid_t uid_base)
{
	struct seccomp_notif_sizes sizes;

	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0)
		return;
	size_t size = sizes.seccomp_notif > sizeof(struct seccomp_notif)
			      ? sizes.seccomp_notif
			      : sizeof(struct seccomp_notif);
	struct seccomp_notif *n = malloc(size);
	struct seccomp_notif_resp *r = calloc(1, sizes.seccomp_notif_resp + sizeof(*r));

	for (struct pollfd p = { .fd = listener, .events = POLLIN }; n && r;) {
		if (poll(&p, 1, -1) < 0 && errno != EINTR)
			break;
		if (p.revents & (POLLHUP | POLLERR | POLLNVAL))
			break; /* nobody is left under the filter */
		memset(n, 0, size);
		if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, n) < 0)
			continue; /* the caller was killed meanwhile */
		long slot = slot_of(proc_dfd, n->pid, uid_base);

		/* A process id may have gone to another meanwhile; the call's id says so. */
		if (slot >= 0 && ioctl(listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &n->id) == 0)
			note(&places[slot], n->data.nr);
		r->id = n->id;
		r->error = -seccomp_refusal_errno(n->data.nr);
		ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, r);
	}
	free(n);
	free(r);
}

static void witness_main(struct witness_place *places, int listener, int alive, uid_t uid_base)
{
	uid_t own = uid_base + WITNESS_ID;

	prctl(PR_SET_NAME, "bivouac-witness");
	/* A session that does nothing but refused calls must not slow the others down. */
	setpriority(PRIO_PROCESS, 0, 19);
	setsid();
	int null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	int proc_dfd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int want[] = { null_fd, null_fd, null_fd, listener, proc_dfd, alive };

	for (int i = 0; i < (int)ARRAY_LEN(want); i++)
		want[i] = fcntl(want[i], F_DUPFD_CLOEXEC, 64);
	for (int i = 0; i < (int)ARRAY_LEN(want); i++)
		if (want[i] < 0 || dup2(want[i], i) < 0)
			_exit(1);
	/* SECURITY: it talks to hostile processes, if only in numbers: no rights, no descriptors
	 * but these, memory of its own and the one file. */
	if (syscall(SYS_close_range, ARRAY_LEN(want), ~0U, 0) < 0)
		_exit(1);
	if (setgroups(0, NULL) < 0 || setresgid(own, own, own) < 0 ||
	    setresuid(own, own, own) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		_exit(1);
	serve(places, 3, 4, uid_base);
	_exit(0);
}

int witness_start(struct witness_place *places, int listener, int alive, uid_t uid_base,
		  struct err *e)
{
	pid_t pid = fork();
	int status = 1;

	if (pid < 0)
		return err_sys(e, "fork the witness");
	if (pid == 0) {
		/* The keeper's child, which reaps whatever comes its way. */
		pid_t child = fork();

		if (child == 0)
			witness_main(places, listener, alive, uid_base);
		_exit(child < 0);
	}
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return status == 0 ? 0 : err_set(e, ERR_SYSTEM, "fork the witness: no more processes");
}
