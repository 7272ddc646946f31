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
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Answers at once: so many, then one each PACE_NS. */
#define PACE_NS      1000000ll
#define BURST_NS     (200 * PACE_NS)
#define DEFERRED_MAX 8192
#define ABSENT_MAX   512 /* system-call numbers */

struct witness_place *witness_map(const char *run_dir, struct err *e)
{
	const size_t size = RECORD_SLOTS * sizeof(struct witness_place);
	char path[320];

	snprintf(path, sizeof(path), "%s/refused", run_dir);
	OWNED_FD int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	/* SECURITY: the room is taken now, so that a file system which others fill later is no
	 * SIGBUS in a process with rights. */
	int rc = fd < 0 ? errno : posix_fallocate(fd, 0, (off_t)size);

	if (rc) {
		errno = rc;
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

/* Answers that wait for their turn, a binary heap by time. */
struct deferred {
	int64_t due_ns;
	uint64_t id;
	int nr;
};

struct witness {
	struct witness_place *places;
	int listener;
	int proc_dfd;
	uid_t uid_base;
	int64_t next_ns[RECORD_SLOTS]; /* when the slot's next answer is due */
	struct deferred heap[DEFERRED_MAX];
	size_t deferred;
	struct seccomp_notif_resp *answer;
	bool absent[ABSENT_MAX];
};

static void swap(struct deferred *a, struct deferred *b)
{
	struct deferred t = *a;

	*a = *b;
	*b = t;
}

static void defer(struct witness *w, int64_t due_ns, uint64_t id, int nr)
{
	size_t i = w->deferred++;

	w->heap[i] = (struct deferred){ due_ns, id, nr };
	for (; i && w->heap[(i - 1) / 2].due_ns > w->heap[i].due_ns; i = (i - 1) / 2)
		swap(&w->heap[(i - 1) / 2], &w->heap[i]);
}

static struct deferred take_first(struct witness *w)
{
	struct deferred first = w->heap[0];

	w->heap[0] = w->heap[--w->deferred];
	for (size_t i = 0, child; (child = 2 * i + 1) < w->deferred; i = child) {
		if (child + 1 < w->deferred && w->heap[child + 1].due_ns < w->heap[child].due_ns)
			child++;
		if (w->heap[i].due_ns <= w->heap[child].due_ns)
			break;
		swap(&w->heap[i], &w->heap[child]);
	}
	return first;
}

/*
 * SECURITY: every call is answered with an error, none is ever let through (that would be
 * SECCOMP_USER_NOTIF_FLAG_CONTINUE).
 */
static void answer(struct witness *w, uint64_t id, int nr)
{
	w->answer->id = id;
	w->answer->val = 0;
	w->answer->flags = 0;
	w->answer->error = nr >= 0 && nr < ABSENT_MAX && w->absent[nr] ? -ENOSYS : -EPERM;
	ioctl(w->listener, SECCOMP_IOCTL_NOTIF_SEND, w->answer); /* fails if the caller is dead */
}

/*
 * SECURITY: nothing of the caller's memory is read, only the call's number, which the kernel
 * wrote: there is no pointer whose target could change meanwhile. A sandbox that makes refused
 * calls in a loop waits for its answers, a thousand a second, while those of the others come at
 * once: the flood costs this process next to nothing and nobody else anything.
 */
static void take(struct witness *w, const struct seccomp_notif *n)
{
	long slot = slot_of(w->proc_dfd, n->pid, w->uid_base);
	int64_t now = clock_mono_ns();

	/* A process id may have gone to another meanwhile; the call's id says so. */
	if (slot < 0 || ioctl(w->listener, SECCOMP_IOCTL_NOTIF_ID_VALID, &n->id) < 0) {
		answer(w, n->id, n->data.nr);
		return;
	}
	note(&w->places[slot], n->data.nr);
	int64_t *next = &w->next_ns[slot];

	if (*next < now - BURST_NS)
		*next = now - BURST_NS;
	*next += PACE_NS;
	if (*next <= now || w->deferred == DEFERRED_MAX)
		answer(w, n->id, n->data.nr);
	else
		defer(w, *next, n->id, n->data.nr);
}

/* Milliseconds until the first deferred answer is due; -1: there is none. */
static int answer_due(struct witness *w)
{
	int64_t now = clock_mono_ns();

	while (w->deferred && w->heap[0].due_ns <= now) {
		struct deferred d = take_first(w);

		answer(w, d.id, d.nr);
	}
	return w->deferred ? (int)((w->heap[0].due_ns - now) / 1000000) + 1 : -1;
}

static void serve(struct witness *w)
{
	struct seccomp_notif_sizes sizes;

	if (syscall(SYS_seccomp, SECCOMP_GET_NOTIF_SIZES, 0, &sizes) < 0)
		return;
	size_t size = sizes.seccomp_notif > sizeof(struct seccomp_notif)
			      ? sizes.seccomp_notif
			      : sizeof(struct seccomp_notif);
	struct seccomp_notif *n = malloc(size);

	w->answer = calloc(1, sizes.seccomp_notif_resp + sizeof(*w->answer));
	for (int nr = 0; nr < ABSENT_MAX; nr++)
		w->absent[nr] = seccomp_refusal_errno(nr) == ENOSYS;
	for (struct pollfd p = { .fd = w->listener, .events = POLLIN }; n && w->answer;) {
		int ready = poll(&p, 1, answer_due(w));

		if (ready < 0 && errno != EINTR)
			break;
		if (ready <= 0)
			continue;
		if (p.revents & (POLLHUP | POLLERR | POLLNVAL))
			break; /* nobody is left under the filter */
		memset(n, 0, size);
		if (ioctl(w->listener, SECCOMP_IOCTL_NOTIF_RECV, n) == 0)
			take(w, n); /* else the caller was killed meanwhile */
	}
	free(n);
	free(w->answer);
}

static void witness_main(struct witness_place *places, int listener, int alive, uid_t uid_base)
{
	uid_t own = uid_base + JAIL_ID_WITNESS;

	prctl(PR_SET_NAME, "bivouac-witness");
	setsid();
	(void)!chdir("/"); /* the worker's directory is an image's, which must not stay in use */
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
	struct witness *w = calloc(1, sizeof(*w));

	if (!w)
		_exit(1);
	w->places = places;
	w->listener = 3;
	w->proc_dfd = 4;
	w->uid_base = uid_base;
	serve(w);
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
