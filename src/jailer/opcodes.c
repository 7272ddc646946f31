/* SPDX-License-Identifier: Apache-2.0 */
#include "jailer/jailer.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/log.h"
#include "base/own.h"
#include "base/recipe.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define ZYGOTE_RETRY_MS 500
#define PENDING_MAX     4096

static bool is_hex(const char *text, size_t digits)
{
	for (size_t i = 0; i < digits; i++)
		if (!((text[i] >= '0' && text[i] <= '9') || (text[i] >= 'a' && text[i] <= 'f')))
			return false;
	return text[digits] == '\0';
}

/* Terminated, and nothing behind the end: the zygote gets all of it. */
static bool language_ok(const char language[static JAILER_LANGUAGE_SIZE])
{
	size_t len = strnlen(language, JAILER_LANGUAGE_SIZE);

	for (size_t i = len; i < JAILER_LANGUAGE_SIZE; i++)
		if (language[i])
			return false;
	return !len || recipe_language_ok((struct str){ language, len });
}

static bool memory_ok(uint64_t bytes)
{
	return bytes >= (16u << 20) && bytes <= 1ull << 40;
}

static bool limits_ok(const struct jailer_limits *l)
{
	const uint64_t tib = 1ull << 40;

	return memory_ok(l->memory_bytes) && l->data_bytes >= (1u << 20) && l->data_bytes <= tib &&
	       l->tmp_bytes >= (1u << 20) && l->tmp_bytes <= tib && l->inodes >= 64 &&
	       l->inodes <= (1u << 28) && l->pids >= 8 && l->pids <= 1000000 &&
	       l->cpu_millis <= 1000000 && l->open_files >= 64 && l->open_files <= 1048576;
}

bool opcode_request_ok(const void *packet, size_t len, struct err *e)
{
	const struct jailer_request *rq = packet;

	if (len != sizeof(*rq) || rq->version != JAILER_PROTO_VERSION) {
		err_set(e, ERR_PROTOCOL, "request of %zu bytes or another version", len);
		return false;
	}
	bool names_sid = rq->op == JAILER_CREATE || rq->op == JAILER_START_KERNEL ||
			 rq->op == JAILER_DESTROY || rq->op == JAILER_STATS ||
			 rq->op == JAILER_MEMORY || rq->op == JAILER_NETWORK ||
			 rq->op == JAILER_REFUSED;
	bool names_image = rq->op == JAILER_CREATE || rq->op == JAILER_IMAGE;

	bool lists = rq->op == JAILER_LIST && rq->sid[0];

	if ((names_sid || lists) && !is_hex(rq->sid, JAILER_SID_SIZE - 1))
		err_set(e, ERR_PROTOCOL, "sandbox id is not %d hexadecimal digits",
			JAILER_SID_SIZE - 1);
	else if (names_image && !is_hex(rq->image, JAILER_IMAGE_SIZE - 1))
		err_set(e, ERR_PROTOCOL, "image id is not %d hexadecimal digits",
			JAILER_IMAGE_SIZE - 1);
	else if (rq->op == JAILER_START_KERNEL && !language_ok(rq->language))
		err_set(e, ERR_PROTOCOL,
			"language is not up to %d lower-case letters, digits and '-'",
			JAILER_LANGUAGE_SIZE - 1);
	else if (rq->op == JAILER_CREATE && !limits_ok(&rq->limits))
		err_set(e, ERR_PROTOCOL, "limits out of range");
	else if (rq->op == JAILER_MEMORY && rq->limits.memory_bytes &&
		 !memory_ok(rq->limits.memory_bytes))
		err_set(e, ERR_PROTOCOL, "memory limit out of range");
	else if (rq->op == JAILER_NETWORK && rq->network > 1)
		err_set(e, ERR_PROTOCOL, "network is 0 or 1");
	else
		return true;
	return false;
}

static void send_reply(const struct jailer_reply *reply, int fd)
{
	/* The socket blocks: a daemon that does not read its replies stops getting new sandboxes,
	 * nothing else. */
	if (fd_send(JAILER_SOCK_FD, reply, sizeof(*reply), &fd, fd >= 0 ? 1 : 0) < 0 &&
	    errno != EPIPE)
		log_error("reply to the daemon: errno %d", errno);
}

void opcode_reply(struct jailer *j, uint16_t op, uint32_t tag, const struct err *e,
		  int64_t started_ns, int fd)
{
	struct jailer_reply reply = { .version = JAILER_PROTO_VERSION, .op = op, .tag = tag };

	(void)j;
	reply.err = *e;
	reply.duration_us = (uint64_t)((clock_mono_ns() - started_ns) / 1000);
	send_reply(&reply, fd);
}

void opcode_restarted(struct jailer *j)
{
	struct jailer_reply reply = { .version = JAILER_PROTO_VERSION, .op = JAILER_RESTARTED };

	snprintf(reply.missing, sizeof(reply.missing), "%s", j->missing);
	send_reply(&reply, -1);
}

static struct zygote *get_zygote(struct jailer *j, const char *image, const char *language,
				 struct err *e)
{
	struct zygote *found = sandbox_image(j, image, e);

	if (!found)
		return NULL;
	found = zygote_for(found, language);
	if (found->sock >= 0)
		return found;
	/* A zygote that ends while loading is tried again, but not in a circle that eats the
	 * machine. */
	int64_t now = clock_mono_ms();

	if (found->failures && now < found->retry_at_ms) {
		err_set(e, ERR_UNAVAILABLE, "the zygote of image %.16s does not start; retrying",
			image);
		return NULL;
	}
	found->retry_at_ms =
		now + (int64_t)ZYGOTE_RETRY_MS * (found->failures < 6 ? 1 << found->failures : 64);
	if (zygote_start(&j->zygote_config, found, e) < 0)
		return NULL;
	struct epoll_event ev = { .events = EPOLLIN,
				  .data.ptr = (void *)((uintptr_t)found | WATCH_ZYGOTE) };

	if (epoll_ctl(j->epoll_fd, EPOLL_CTL_ADD, found->sock, &ev) < 0) {
		err_sys(e, "watch the zygote");
		zygote_ended(found);
		return NULL;
	}
	return found;
}

static struct pending *add_pending(struct jailer *j, const struct jailer_request *rq,
				   struct zygote *z, struct err *e)
{
	/* SECURITY: requests wait in root's memory while a zygote loads: a bound. */
	if (j->pending_count >= PENDING_MAX) {
		err_set(e, ERR_UNAVAILABLE, "%d requests wait for zygotes already", PENDING_MAX);
		return NULL;
	}
	struct pending *p = calloc(1, sizeof(*p));

	if (!p) {
		err_sys(e, "request");
		return NULL;
	}
	if (++j->next_zygote_tag == 0)
		j->next_zygote_tag = 1;
	p->zygote_tag = rq->op == JAILER_IMAGE ? 0 : j->next_zygote_tag;
	p->tag = rq->tag;
	p->op = rq->op;
	p->zygote = z;
	p->agent_end = -1;
	p->started_ns = clock_mono_ns();
	list_add_tail(&j->pending, &p->node);
	j->pending_count++;
	return p;
}

static void pending_free(struct jailer *j, struct pending *p)
{
	list_remove(&p->node);
	j->pending_count--;
	free(p);
}

void opcode_drop_pending(struct jailer *j)
{
	list_each(&j->pending, struct pending, node, p) {
		close_fd(&p->agent_end);
		pending_free(j, p);
	}
}

static void finish_pending(struct jailer *j, struct pending *p, const struct err *e)
{
	opcode_reply(j, p->op, p->tag, e, p->started_ns, e->code == ERR_NONE ? p->agent_end : -1);
	if (p->agent_end >= 0)
		close(p->agent_end);
	pending_free(j, p);
}

void opcode_zygote_event(struct jailer *j, struct zygote *z)
{
	struct zygote_reply reply;
	struct err gone = ERR_INIT;
	int rc;

	if (z->sock < 0)
		return;
	while ((rc = zygote_recv(z, &reply)) > 0) {
		if (reply.tag == 0 && reply.err.code == ERR_NONE) {
			struct err e = ERR_INIT;

			if (z->listener >= 0 && witness_start(j->places, z->listener,
							      j->witnesses[1], j->uid_base, &e) < 0)
				log_warn("refused calls will have no names: %s", e.msg);
			close_fd(&z->listener);
			z->loaded = true;
			z->failures = 0;
			log_info("zygote of image %.16s loaded in %llu ms", z->image,
				 (unsigned long long)reply.duration_us / 1000);
		} else if (reply.tag == 0) {
			log_error("zygote of image %.16s: %s", z->image, reply.err.msg);
		}
		list_each(&j->pending, struct pending, node, p)
			if (p->zygote == z && p->zygote_tag == reply.tag)
				finish_pending(j, p, &reply.err);
	}
	if (rc == 0)
		return;
	epoll_ctl(j->epoll_fd, EPOLL_CTL_DEL, z->sock, NULL);
	zygote_ended(z);
	err_set(&gone, ERR_UNAVAILABLE, "the zygote of image %.16s ended", z->image);
	log_error("%s", gone.msg);
	list_each(&j->pending, struct pending, node, p)
		if (p->zygote == z)
			finish_pending(j, p, &gone);
}

/*
 * SECURITY, IMAGE: names one of the installed images by content hash. The daemon can make the
 * jailer load an image that root installed; it can neither name a path nor bring a file.
 */
static int op_image(struct jailer *j, const struct jailer_request *rq, struct err *e)
{
	struct zygote *z = get_zygote(j, rq->image, "", e);

	if (!z)
		return -1;
	if (z->loaded) {
		struct err none = ERR_INIT;

		opcode_reply(j, rq->op, rq->tag, &none, clock_mono_ns(), -1);
		return 0;
	}
	return add_pending(j, rq, z, e) ? 0 : -1;
}

/*
 * SECURITY, CREATE: makes an empty sandbox with limits inside hard bounds. Everything else (user
 * ids, mounts, the binary, the filter) is the jailer's own choice, so a daemon that was taken over
 * gets a sandbox, which is what it could have by asking politely, and never a process with rights.
 */
static int op_create(struct jailer *j, const struct jailer_request *rq, struct err *e)
{
	int64_t started = clock_mono_ns();
	struct err none = ERR_INIT;

	if (sandbox_create(j, rq, e) < 0)
		return -1;
	opcode_reply(j, rq->op, rq->tag, &none, started, -1);
	return 0;
}

/*
 * SECURITY, START_KERNEL: forks the zygote of the sandbox's own image into the sandbox. `language`
 * chooses among the programs that the image's recipe, which is root's, names. The daemon gets one
 * end of a socket that speaks to a confined process; the other end exists only in that process.
 */
static int op_start_kernel(struct jailer *j, const struct jailer_request *rq, struct err *e)
{
	struct sandbox *s = sandbox_find(j, rq->sid);
	int pair[2];
	int fds[2 + CGROUP_CONTROLLERS];

	if (!s || s->dying)
		return err_set(e, ERR_NOT_FOUND, "sandbox %s is gone", rq->sid);
	struct zygote *z = get_zygote(j, s->rec.image, rq->language, e);

	if (!z)
		return -1;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(e, "socketpair");
	OWNED_FD int kernel_end = pair[1];
	OWNED_FD int agent_end = pair[0];
	int procs = cgroup_kernel_fds(&j->cgroups, s->rec.sid, fds + 2, e);

	if (procs < 0)
		return -1;
	struct pending *p = add_pending(j, rq, z, e);
	int rc = -1;

	if (p) {
		struct zygote_request zrq = { .tag = p->zygote_tag,
					      .cgroup_fds = (uint32_t)procs,
					      .limits = s->rec.limits };

		memcpy(zrq.language, rq->language, sizeof(zrq.language));
		fds[0] = s->pidfd;
		fds[1] = kernel_end;
		rc = zygote_send(z, &zrq, fds, 2 + (size_t)procs, e);
		if (rc == 0) {
			p->agent_end = take_fd(agent_end);
		} else {
			pending_free(j, p);
		}
	}
	for (int i = 0; i < procs; i++)
		close(fds[2 + i]);
	return rc;
}

/*
 * SECURITY, DESTROY: ends a sandbox of this jailer, found by id in its own table; processes are
 * signalled through the pidfd taken at their birth, never by number. Unknown ids succeed: there is
 * nothing left of them.
 */
static int op_destroy(struct jailer *j, const struct jailer_request *rq, struct err *e)
{
	struct sandbox *s = sandbox_find(j, rq->sid);
	struct err none = ERR_INIT;

	if (!s) {
		opcode_reply(j, rq->op, rq->tag, &none, clock_mono_ns(), -1);
		return 0;
	}
	if (s->waiting_count == ARRAY_LEN(s->waiting))
		return err_set(e, ERR_CONFLICT, "sandbox %s is being destroyed", rq->sid);
	s->waiting[s->waiting_count++] = rq->tag;
	sandbox_kill(j, s);
	return 0;
}

/* Keeps the smallest JAILER_LIST_MAX ids of those that come, in order: pages by id lose nothing
 * when others vanish between them. */
static void list_insert(struct jailer_reply *reply, const char *sid)
{
	uint32_t at = reply->list_count;

	while (at > 0 && strcmp(reply->sids[at - 1], sid) > 0)
		at--;
	if (reply->list_count == JAILER_LIST_MAX)
		reply->list_more = 1;
	else
		reply->list_count++;
	if (at >= JAILER_LIST_MAX)
		return;
	for (uint32_t i = reply->list_count - 1; i > at; i--)
		memcpy(reply->sids[i], reply->sids[i - 1], JAILER_SID_SIZE);
	memcpy(reply->sids[at], sid, JAILER_SID_SIZE);
}

/* SECURITY, LIST: ids that the daemon itself once chose. */
static int op_list(struct jailer *j, const struct jailer_request *rq)
{
	struct jailer_reply reply = { .version = JAILER_PROTO_VERSION,
				      .op = rq->op,
				      .tag = rq->tag };

	for (struct map_node *n = map_next(&j->sandboxes, NULL); n;
	     n = map_next(&j->sandboxes, n)) {
		struct sandbox *s = container_of(n, struct sandbox, node);

		if (!s->dying && strcmp(s->rec.sid, rq->sid) > 0)
			list_insert(&reply, s->rec.sid);
	}
	send_reply(&reply, -1);
	return 0;
}

/* SECURITY, STATS: reads four counters of a sandbox of this jailer. */
static int op_stats(struct jailer *j, const struct jailer_request *rq, struct err *e)
{
	struct jailer_reply reply = { .version = JAILER_PROTO_VERSION,
				      .op = rq->op,
				      .tag = rq->tag };

	if (!sandbox_find(j, rq->sid))
		return err_set(e, ERR_NOT_FOUND, "sandbox %s is gone", rq->sid);
	if (cgroup_stats(&j->cgroups, rq->sid, &reply.stats, e) < 0)
		return -1;
	send_reply(&reply, -1);
	return 0;
}

/*
 * SECURITY, MEMORY: moves the memory limit of a sandbox of this jailer below what CREATE set, or
 * back to it; the record keeps that bound, so that no order of requests leads above it. A limit
 * below what the sandbox holds is refused before anything is written, and what the kernel must
 * reclaim nevertheless has a deadline of 50 ms.
 */
static int op_memory(struct jailer *j, const struct jailer_request *rq, struct err *e)
{
	struct sandbox *s = sandbox_find(j, rq->sid);
	int64_t started = clock_mono_ns();
	struct err none = ERR_INIT;

	if (!s || s->dying)
		return err_set(e, ERR_NOT_FOUND, "sandbox %s is gone", rq->sid);
	uint64_t most = s->rec.limits.memory_bytes;
	uint64_t bytes = rq->limits.memory_bytes ? rq->limits.memory_bytes : most;

	if (bytes > most)
		return err_set(e, ERR_CONFLICT,
			       "%" PRIu64 " MiB is more than the session's own limit, %" PRIu64
			       " MiB",
			       bytes >> 20, most >> 20);
	/* To give back what no controller took always works. */
	if ((rq->limits.memory_bytes || j->cgroups.ctrl[CGROUP_MEMORY].parent_dfd >= 0) &&
	    cgroup_set_memory(&j->cgroups, rq->sid, bytes, e) < 0)
		return -1;
	opcode_reply(j, rq->op, rq->tag, &none, started, -1);
	return 0;
}

/*
 * SECURITY, REFUSED: names of system calls that a sandbox of this jailer was refused; text from
 * libseccomp's table, chosen by a number.
 */
static int op_refused(struct jailer *j, const struct jailer_request *rq, struct err *e)
{
	struct jailer_reply reply = { .version = JAILER_PROTO_VERSION,
				      .op = rq->op,
				      .tag = rq->tag };
	struct sandbox *s = sandbox_find(j, rq->sid);

	if (!s)
		return err_set(e, ERR_NOT_FOUND, "sandbox %s is gone", rq->sid);
	reply.refused_count = (uint32_t)witness_names(
		&j->places[s->rec.slot], (int64_t)rq->since_ns, reply.refused, JAILER_REFUSED_MAX);
	send_reply(&reply, -1);
	return 0;
}

/*
 * SECURITY, NETWORK: says of a sandbox of this jailer whether it is connected, and nothing else:
 * address, routes and rules are the jailer's. What connected sandboxes may reach comes from root's
 * command line, so a daemon that was taken over can connect sandboxes that should not be, which is
 * what it could have by configuring their pool, and cannot widen what any of them reaches. Not the
 * host, not each other.
 */
static int op_network(struct jailer *j, const struct jailer_request *rq, struct err *e)
{
	struct jailer_reply reply = { .version = JAILER_PROTO_VERSION,
				      .op = rq->op,
				      .tag = rq->tag };
	struct sandbox *s = sandbox_find(j, rq->sid);
	int64_t started = clock_mono_ns();

	if (!s || s->dying)
		return err_set(e, ERR_NOT_FOUND, "sandbox %s is gone", rq->sid);
	int rc = rq->network ? network_connect(j->network, s->rec.slot, s->pidfd, &reply.address, e)
			     : network_disconnect(j->network, s->rec.slot, s->pidfd, e);

	if (rc < 0)
		return -1;
	reply.duration_us = (uint64_t)((clock_mono_ns() - started) / 1000);
	send_reply(&reply, -1);
	return 0;
}

void opcode_dispatch(struct jailer *j, const struct jailer_request *rq)
{
	struct err e = ERR_INIT;
	int rc = -1;

	switch (rq->op) {
	case JAILER_CREATE:
		rc = op_create(j, rq, &e);
		break;
	case JAILER_START_KERNEL:
		rc = op_start_kernel(j, rq, &e);
		break;
	case JAILER_DESTROY:
		rc = op_destroy(j, rq, &e);
		break;
	case JAILER_LIST:
		rc = op_list(j, rq);
		break;
	case JAILER_STATS:
		rc = op_stats(j, rq, &e);
		break;
	case JAILER_MEMORY:
		rc = op_memory(j, rq, &e);
		break;
	case JAILER_IMAGE:
		rc = op_image(j, rq, &e);
		break;
	case JAILER_PING:
		opcode_reply(j, rq->op, rq->tag, &e, clock_mono_ns(), -1);
		rc = 0;
		break;
	case JAILER_REFUSED:
		rc = op_refused(j, rq, &e);
		break;
	case JAILER_NETWORK:
		rc = op_network(j, rq, &e);
		break;
	default:
		err_set(&e, ERR_PROTOCOL, "unknown opcode %u", rq->op);
	}
	if (rc < 0)
		opcode_reply(j, rq->op, rq->tag, &e, clock_mono_ns(), -1);
}
