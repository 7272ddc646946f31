/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/jailer.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "base/own.h"
#include "jailer/jail.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

struct sandbox *sandbox_find(struct jailer *j, const char *sid)
{
	struct map_node *n = map_get(&j->sandboxes, str_from(sid));

	return n ? container_of(n, struct sandbox, node) : NULL;
}

static int watch_pidfd(struct jailer *j, struct sandbox *s)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.ptr = s };

	return epoll_ctl(j->epoll_fd, EPOLL_CTL_ADD, s->pidfd, &ev);
}

/* Enters a living sandbox into the table; takes pidfd. */
static int adopt(struct jailer *j, const struct record *r, int pidfd, struct err *e)
{
	struct sandbox *s = calloc(1, sizeof(*s));

	if (!s) {
		close(pidfd);
		return err_sys(e, "sandbox %s", r->sid);
	}
	s->rec = *r;
	s->pidfd = pidfd;
	list_init(&s->busy_node);
	if (watch_pidfd(j, s) < 0 || map_put(&j->sandboxes, &s->node, str_from(s->rec.sid)) < 0) {
		err_sys(e, "sandbox %s", r->sid);
		close(pidfd);
		free(s);
		return -1;
	}
	j->slots[r->slot] = 1;
	return 0;
}

static void forget_files(struct jailer *j, const char *sid)
{
	char name[JAILER_SID_SIZE + 8];

	snprintf(name, sizeof(name), "%s.sock", sid);
	unlinkat(j->sockets_dfd, name, 0);
	record_remove(j->records_dfd, sid);
}

static void recover_record(const struct record *r, void *arg)
{
	struct jailer *j = arg;
	struct err e = ERR_INIT;
	int pidfd = r->pid ? (int)syscall(SYS_pidfd_open, r->pid, 0) : -1;

	if (pidfd < 0 && r->pid && errno != ESRCH && errno != EINVAL) {
		log_error("sandbox %s: pidfd: errno %d", r->sid, errno);
		j->recovery_failed = true;
		return;
	}
	/* SECURITY: a pid alone may have been reused; pidfd first, then the start time, proves it
	 * is the same. */
	unsigned long long start = 0;
	int alive = pidfd < 0 ? 0 : record_start_time(r->pid, &start, &e);

	if (alive == 0 || (alive > 0 && start != r->start_time)) {
		if (pidfd >= 0)
			close(pidfd);
		forget_files(j, r->sid);
		return;
	}
	if (alive > 0 && adopt(j, r, pidfd, &e) == 0)
		return;
	if (alive < 0)
		close(pidfd);
	/* A want of memory or descriptors is no proof of death: nothing is destroyed for it. */
	log_error("cannot take over sandbox %s: %s", r->sid, e.msg);
	j->recovery_failed = true;
}

static void recover_cgroup(const char *sid, void *arg)
{
	struct jailer *j = arg;
	struct err e = ERR_INIT;

	if (sandbox_find(j, sid))
		return;
	cgroup_kill(&j->cgroups, sid);
	for (int i = 0; i < 200 && cgroup_remove(&j->cgroups, sid, &e) == 1; i++) {
		usleep(5000);
		cgroup_kill(&j->cgroups, sid);
	}
	forget_files(j, sid);
}

int sandboxes_recover(struct jailer *j, struct err *e)
{
	if (record_each(j->records_dfd, recover_record, j, e) < 0)
		return -1;
	if (j->recovery_failed)
		return err_set(
			e, ERR_UNAVAILABLE,
			"sandboxes of an earlier jailer could not be taken over; see the log");
	cgroup_each(&j->cgroups, recover_cgroup, j);
	return 0;
}

static int take_slot(struct jailer *j, unsigned *ret, struct err *e)
{
	/* Round robin: a uid range rests as long as possible before it serves another tenant. */
	for (unsigned i = 0; i < RECORD_SLOTS; i++) {
		unsigned slot = (j->next_slot + i) % RECORD_SLOTS;

		if (!j->slots[slot]) {
			j->slots[slot] = 1;
			witness_clear(&j->places[slot]);
			j->next_slot = slot + 1;
			*ret = slot;
			return 0;
		}
	}
	return err_set(e, ERR_UNAVAILABLE, "all %d sandboxes of this daemon are in use",
		       RECORD_SLOTS);
}

/* The socket the agent will accept the daemon on; only the daemon's user may connect. */
static int make_listen_socket(struct jailer *j, const char *sid, struct err *e)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char name[JAILER_SID_SIZE + 8];
	OWNED_FD int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return err_sys(e, "agent socket");
	snprintf(name, sizeof(name), "%s.sock", sid);
	snprintf(addr.sun_path, sizeof(addr.sun_path), "/proc/self/fd/%d/%s", j->sockets_dfd, name);
	unlinkat(j->sockets_dfd, name, 0);
	mode_t old = umask(0177);
	int rc = bind(fd, (struct sockaddr *)&addr, sizeof(addr));

	umask(old);
	if (rc < 0 ||
	    fchownat(j->sockets_dfd, name, j->config.owner, (gid_t)-1, AT_SYMLINK_NOFOLLOW) < 0 ||
	    listen(fd, 4) < 0)
		return err_sys(e, "agent socket %s", name);
	return take_fd(fd);
}

struct attach_arg {
	struct jailer *j;
	struct record *record;
};

static int attach_agent(pid_t pid, void *arg, struct err *e)
{
	struct attach_arg *a = arg;
	struct record *r = a->record;

	/* The record comes first: from here on a later jailer finds the sandbox, whatever happens
	 * to us. */
	r->pid = pid;
	if (record_start_time(pid, &r->start_time, e) < 0 ||
	    record_write(a->j->records_dfd, r, e) < 0)
		return -1;
	return cgroup_attach_agent(&a->j->cgroups, r->sid, pid, e);
}

struct zygote *sandbox_image(struct jailer *j, const char *image, struct err *e)
{
	list_each(&j->zygotes, struct zygote, node, z)
		if (strcmp(z->image, image) == 0)
			return z;
	struct zygote *fresh = zygote_prepare(&j->zygote_config, image, e);

	if (fresh)
		list_add_tail(&j->zygotes, &fresh->node);
	return fresh;
}

static int create_with_slot(struct jailer *j, const struct jailer_request *rq, struct zygote *z,
			    struct record *r, struct err *e)
{
	OWNED_FD int listen_fd = make_listen_socket(j, rq->sid, e);

	if (listen_fd < 0 || cgroup_create(&j->cgroups, rq->sid, &rq->limits, e) < 0)
		return -1;
	OWNED_FD int oom_fd = cgroup_oom_fd(&j->cgroups, rq->sid);
	OWNED_FD int pidfd = -1;
	struct attach_arg arg = { j, r };
	struct jail_spawn spawn = {
		.template = z->template,
		.limits = &rq->limits,
		.agent_fd = j->agent_fd,
		.seccomp_fd = j->filter_fd,
		.listen_fd = listen_fd,
		.oom_fd = oom_fd,
		.uid_base = j->uid_base + (uid_t)(r->slot * JAIL_IDS_PER_SLOT),
	};

	if (jail_spawn(&spawn, attach_agent, &arg, &r->pid, &pidfd, e) < 0)
		return -1;
	if (cgroup_detach_agent(&j->cgroups, r->pid, e) < 0 ||
	    adopt(j, r, fcntl(pidfd, F_DUPFD_CLOEXEC, 3), e) < 0) {
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
		while (waitpid(r->pid, NULL, 0) < 0 && errno == EINTR)
			;
		return -1;
	}
	return 0;
}

int sandbox_create(struct jailer *j, const struct jailer_request *rq, struct err *e)
{
	struct zygote *z = sandbox_image(j, rq->image, e);
	struct record r = { .limits = { rq->limits.open_files, rq->limits.pids,
					rq->limits.memory_bytes } };

	if (!z)
		return -1;
	if (sandbox_find(j, rq->sid))
		return err_set(e, ERR_CONFLICT, "sandbox %s exists", rq->sid);
	if (take_slot(j, &r.slot, e) < 0)
		return -1;
	snprintf(r.sid, sizeof(r.sid), "%s", rq->sid);
	snprintf(r.image, sizeof(r.image), "%s", rq->image);
	if (create_with_slot(j, rq, z, &r, e) == 0)
		return 0;
	struct err ignored = ERR_INIT;

	for (int i = 0; i < 100 && cgroup_remove(&j->cgroups, rq->sid, &ignored) == 1; i++)
		usleep(1000);
	forget_files(j, rq->sid);
	j->slots[r.slot] = 0;
	return -1;
}

void sandbox_kill(struct jailer *j, struct sandbox *s)
{
	(void)j;
	if (s->dying)
		return;
	s->dying = true;
	s->destroy_started_ns = clock_mono_ns();
	/* Death of PID 1 is death of everything in its PID namespace; the pidfd becomes readable
	 * when all is gone. */
	syscall(SYS_pidfd_send_signal, s->pidfd, SIGKILL, NULL, 0);
}

bool sandbox_settle(struct jailer *j, struct sandbox *s)
{
	struct err e = ERR_INIT;

	if (!s->reaped) {
		siginfo_t info;

		/* Our child, or a child of the worker before us, which the keeper reaps. */
		while (waitid(P_PIDFD, (id_t)s->pidfd, &info, WEXITED | WNOHANG) < 0 &&
		       errno == EINTR)
			;
		epoll_ctl(j->epoll_fd, EPOLL_CTL_DEL, s->pidfd, NULL);
		s->reaped = true;
		s->dying = true;
		if (!s->destroy_started_ns)
			s->destroy_started_ns = clock_mono_ns();
	}
	int rc = cgroup_remove(&j->cgroups, s->rec.sid, &e);

	if (rc == 1 && s->tries++ < 2000) {
		/* A kernel may have joined the cgroup and not yet entered the dead namespace. */
		if (s->tries % 100 == 0)
			cgroup_kill(&j->cgroups, s->rec.sid);
		if (list_empty(&s->busy_node))
			list_add_tail(&j->busy, &s->busy_node);
		return false;
	}
	if (rc != 0)
		log_error("sandbox %s: its cgroup stays behind: %s", s->rec.sid,
			  rc < 0 ? e.msg : "busy");
	forget_files(j, s->rec.sid);
	network_forget(j->network, s->rec.slot);
	for (size_t i = 0; i < s->waiting_count; i++) {
		struct err none = ERR_INIT;

		opcode_reply(j, JAILER_DESTROY, s->waiting[i], &none, s->destroy_started_ns, -1);
	}
	list_remove(&s->busy_node);
	map_remove(&j->sandboxes, &s->node);
	j->slots[s->rec.slot] = 0;
	close(s->pidfd);
	free(s);
	return true;
}
