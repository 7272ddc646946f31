/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/backend.h"

#include "base/fdio.h"
#include "base/list.h"
#include "base/log.h"
#include "base/map.h"
#include "base/own.h"
#include "loop/loop.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Calls of one turn of the loop that can fail, and say so, when there is no memory to make them. */
#define SPARE_CALLS 64

/* One request on its way to the jailer. */
struct call {
	struct map_node node; /* by tag */
	struct list unsent;   /* the socket was full; or in process_backend.unmade, .spare */
	bool is_spare;
	bool is_unmade;
	struct jailer_request rq;
	void *arg;
	backend_done_fn done;
	backend_kernel_fn kernel_done;
	backend_list_fn list_done;
	void (*stats_done)(void *arg, const struct jailer_stats *stats, const struct err *e);
	backend_network_fn network_done;
	backend_refused_fn refused_done;
	char (*sids)[JAILER_SID_SIZE]; /* LIST: what earlier packets brought */
	size_t sid_count;
};

struct process_backend {
	struct backend base;
	int fd;
	const char *sockets_dir;
	struct loop_watch *watch;
	struct map calls;
	struct list unsent;
	struct list unmade; /* for want of memory: fail in the next turn */
	struct list spare;
	struct call spares[SPARE_CALLS];
	struct loop_timer *fail; /* calls whose failure is known already */
	uint32_t next_tag;
	bool lost;
	int flows_fd; /* -1: nothing is connected yet */
	struct loop_watch *flows_watch;
};

static struct process_backend *self(struct backend *b)
{
	return container_of(b, struct process_backend, base);
}

static void call_free(struct process_backend *p, struct call *c)
{
	map_remove(&p->calls, &c->node);
	list_remove(&c->unsent);
	free(c->sids);
	if (c->is_spare)
		list_add_tail(&p->spare, &c->unsent);
	else
		free(c);
}

static void call_end(struct process_backend *p, struct call *c, const struct jailer_reply *reply,
		     int fd, const struct err *e)
{
	struct call copy = *c;

	c->sids = NULL;
	call_free(p, c);
	if (copy.kernel_done) {
		copy.kernel_done(copy.arg, e->code == ERR_NONE ? fd : -1, e);
		if (e->code != ERR_NONE && fd >= 0)
			close(fd);
	} else if (fd >= 0) {
		close(fd);
	}
	if (copy.done)
		copy.done(copy.arg, e);
	if (copy.stats_done)
		copy.stats_done(copy.arg, reply ? &reply->stats : NULL, e);
	if (copy.network_done)
		copy.network_done(copy.arg, reply ? reply->address : 0, e);
	if (copy.refused_done) {
		const char *names[JAILER_REFUSED_MAX];
		size_t count = 0;

		while (reply && count < reply->refused_count && count < JAILER_REFUSED_MAX) {
			names[count] = reply->refused[count];
			count++;
		}
		copy.refused_done(copy.arg, names, count, e);
	}
	if (copy.list_done) {
		const char **sids = calloc(copy.sid_count + 1, sizeof(*sids));

		for (size_t i = 0; sids && i < copy.sid_count; i++)
			sids[i] = copy.sids[i];
		copy.list_done(copy.arg, sids, sids ? copy.sid_count : 0, e);
		free(sids);
	}
	free(copy.sids);
}

/* Takes all calls there are now out of the table; what their callbacks start anew is not among
 * them. */
static void detach_all(struct process_backend *p, struct list *detached)
{
	list_init(detached);
	for (struct map_node *n; (n = map_next(&p->calls, NULL));) {
		struct call *c = container_of(n, struct call, node);

		map_remove(&p->calls, n);
		list_remove(&c->unsent);
		list_add_tail(detached, &c->unsent);
	}
}

static void fail_detached(struct process_backend *p, struct list *detached, const struct err *e)
{
	while (!list_empty(detached))
		call_end(p, list_first(detached, struct call, unsent), NULL, -1, e);
}

static void fail_all(struct process_backend *p, const struct err *e)
{
	struct list failed;

	detach_all(p, &failed);
	fail_detached(p, &failed, e);
}

static void set_events(struct process_backend *p)
{
	loop_watch_set(p->watch, LOOP_READ | (list_empty(&p->unsent) ? 0 : LOOP_WRITE));
}

static void flush(struct process_backend *p)
{
	list_each(&p->unsent, struct call, unsent, c) {
		if (fd_send(p->fd, &c->rq, sizeof(c->rq), NULL, 0) < 0)
			break; /* EAGAIN; other errors come back as the end of the socket */
		list_remove(&c->unsent);
	}
	set_events(p);
}

static struct call *take_spare(struct process_backend *p)
{
	/* A call that is forgotten leaves its caller waiting for ever; a new daemon does not. */
	if (list_empty(&p->spare)) {
		log_error("out of memory for calls to the jailer");
		abort();
	}
	struct call *c = list_first(&p->spare, struct call, unsent);

	list_remove(&c->unsent);
	*c = (struct call){ .is_spare = true };
	return c;
}

/* Never NULL: what cannot be made fails from the loop, like any other call. */
static struct call *call_new(struct process_backend *p, enum jailer_op op, const char *sid,
			     void *arg)
{
	struct call *c = calloc(1, sizeof(*c));

	if (!c) {
		c = take_spare(p);
		c->is_unmade = true;
	}
	if (++p->next_tag == 0)
		p->next_tag = 1;
	c->rq.version = JAILER_PROTO_VERSION;
	c->rq.op = (uint16_t)op;
	c->rq.tag = p->next_tag;
	c->arg = arg;
	list_init(&c->unsent);
	if (sid)
		snprintf(c->rq.sid, sizeof(c->rq.sid), "%s", sid);
	if (!c->is_unmade &&
	    map_put(&p->calls, &c->node, (struct str){ (char *)&c->rq.tag, sizeof(c->rq.tag) }) < 0)
		c->is_unmade = true;
	return c;
}

/* Callbacks never run inside the verb that made the call. */
static void fail_later(void *arg)
{
	struct process_backend *p = arg;
	struct err e = ERR_INIT;
	struct list unmade;

	list_init(&unmade);
	while (!list_empty(&p->unmade)) {
		struct call *c = list_first(&p->unmade, struct call, unsent);

		list_remove(&c->unsent);
		list_add_tail(&unmade, &c->unsent);
	}
	err_set(&e, ERR_NOMEM, "out of memory");
	fail_detached(p, &unmade, &e);
	if (!p->lost)
		return;
	err_set(&e, ERR_UNAVAILABLE, "the jailer is gone");
	fail_all(p, &e);
}

static void call_send(struct process_backend *p, struct call *c)
{
	if (c->is_unmade)
		list_add_tail(&p->unmade, &c->unsent);
	if (c->is_unmade || p->lost) {
		loop_timer_start(p->fail, 0);
		return;
	}
	list_add_tail(&p->unsent, &c->unsent);
	flush(p);
}

static void take_list(struct process_backend *p, struct call *c, const struct jailer_reply *reply)
{
	size_t count = reply->list_count <= JAILER_LIST_MAX ? reply->list_count : 0;
	void *grown = realloc(c->sids, (c->sid_count + count + 1) * JAILER_SID_SIZE);
	struct err none = ERR_INIT;

	if (grown) {
		c->sids = grown;
		memcpy(c->sids + c->sid_count, reply->sids, count * JAILER_SID_SIZE);
		c->sid_count += count;
	}
	if (!reply->list_more || !count || !grown) {
		call_end(p, c, reply, -1, &none);
		return;
	}
	memcpy(c->rq.sid, c->sids[c->sid_count - 1], sizeof(c->rq.sid));
	call_send(p, c);
}

static void close_flows(struct process_backend *p)
{
	loop_watch_free(p->flows_watch);
	p->flows_watch = NULL;
	if (p->flows_fd >= 0)
		close(p->flows_fd);
	p->flows_fd = -1;
}

static void flows_readable(void *arg, int events)
{
	struct process_backend *p = arg;

	(void)events;
	for (int i = 0; i < 64; i++) {
		struct flow_record r;
		ssize_t n = recv(p->flows_fd, &r, sizeof(r), MSG_DONTWAIT | MSG_TRUNC);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			close_flows(p); /* the gateway ended; a new one brings its own socket */
			return;
		}
		/* SECURITY: exactly one record, its text terminated; what it says is the
		 * receiver's to check. */
		if (n != (ssize_t)sizeof(r) || r.version != FLOW_PROTO_VERSION || !p->base.flow)
			continue;
		r.name[sizeof(r.name) - 1] = '\0';
		p->base.flow(p->base.arg, &r);
	}
}

static void take_flows(struct process_backend *p, int fd)
{
	close_flows(p);
	if (fd < 0)
		return;
	p->flows_fd = fd;
	p->flows_watch = loop_watch_new(fd, flows_readable, p);
	if (!p->flows_watch) {
		log_error("flow records: out of memory");
		close_flows(p);
		return;
	}
	loop_watch_set(p->flows_watch, LOOP_READ);
}

static void take_reply(struct process_backend *p, struct jailer_reply *reply, int fd)
{
	struct map_node *n =
		map_get(&p->calls, (struct str){ (char *)&reply->tag, sizeof(reply->tag) });

	reply->err.msg[sizeof(reply->err.msg) - 1] = '\0';
	reply->missing[sizeof(reply->missing) - 1] = '\0';
	for (size_t i = 0; i < JAILER_REFUSED_MAX; i++)
		reply->refused[i][sizeof(reply->refused[i]) - 1] = '\0';
	if (reply->op == JAILER_RESTARTED && reply->tag == 0) {
		struct err e = ERR_INIT;
		struct list lost;

		if (reply->err.code != ERR_NONE) {
			p->lost = true;
			p->base.lost(p->base.arg, &reply->err);
			return;
		}
		snprintf(p->base.missing, sizeof(p->base.missing), "%s", reply->missing);
		err_set(&e, ERR_UNAVAILABLE, "the jailer was restarted; try again");
		/* First the news, then its consequences: who hears of a failed call must know why.
		 */
		detach_all(p, &lost);
		p->base.restarted(p->base.arg);
		fail_detached(p, &lost, &e);
		return;
	}
	if (reply->op == JAILER_FLOWS && reply->tag == 0) {
		take_flows(p, fd);
		return;
	}
	if (!n) {
		if (fd >= 0)
			close(fd);
		return;
	}
	struct call *c = container_of(n, struct call, node);

	if (c->rq.op == JAILER_LIST && reply->err.code == ERR_NONE)
		take_list(p, c, reply);
	else
		call_end(p, c, reply, fd, &reply->err);
}

static void readable(void *arg, int events)
{
	struct process_backend *p = arg;

	if (events & LOOP_WRITE)
		flush(p);
	for (int i = 0; i < 64 && (events & LOOP_READ); i++) {
		struct jailer_reply reply;
		int fd = -1;
		size_t fds = 1;
		ssize_t n = fd_recv(p->fd, &reply, sizeof(reply), &fd, &fds);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n != (ssize_t)sizeof(reply) || reply.version != JAILER_PROTO_VERSION) {
			struct err e = ERR_INIT;

			err_set(&e, ERR_UNAVAILABLE, "the jailer has ended");
			loop_watch_set(p->watch, 0);
			p->lost = true;
			fail_all(p, &e);
			p->base.lost(p->base.arg, &e);
			return;
		}
		take_reply(p, &reply, fds ? fd : -1);
	}
}

static void process_load_image(struct backend *b, const char *image, backend_done_fn done,
			       void *arg)
{
	struct call *c = call_new(self(b), JAILER_IMAGE, NULL, arg);

	snprintf(c->rq.image, sizeof(c->rq.image), "%s", image);
	c->done = done;
	call_send(self(b), c);
}

static void process_create(struct backend *b, const struct sandbox_spec *spec, backend_done_fn done,
			   void *arg)
{
	struct call *c = call_new(self(b), JAILER_CREATE, spec->sid, arg);

	snprintf(c->rq.image, sizeof(c->rq.image), "%s", spec->image);
	c->rq.limits = spec->limits;
	c->done = done;
	call_send(self(b), c);
}

static void process_start_kernel(struct backend *b, const char *sid, const char *language,
				 backend_kernel_fn done, void *arg)
{
	struct call *c = call_new(self(b), JAILER_START_KERNEL, sid, arg);

	snprintf(c->rq.language, sizeof(c->rq.language), "%s", language);
	c->kernel_done = done;
	call_send(self(b), c);
}

static void process_destroy(struct backend *b, const char *sid, backend_done_fn done, void *arg)
{
	struct call *c = call_new(self(b), JAILER_DESTROY, sid, arg);

	c->done = done;
	call_send(self(b), c);
}

static void process_list(struct backend *b, backend_list_fn done, void *arg)
{
	struct call *c = call_new(self(b), JAILER_LIST, NULL, arg);

	c->list_done = done;
	call_send(self(b), c);
}

static void process_stats(struct backend *b, const char *sid,
			  void (*done)(void *arg, const struct jailer_stats *stats,
				       const struct err *e),
			  void *arg)
{
	struct call *c = call_new(self(b), JAILER_STATS, sid, arg);

	c->stats_done = done;
	call_send(self(b), c);
}

static void process_memory(struct backend *b, const char *sid, uint64_t bytes, backend_done_fn done,
			   void *arg)
{
	struct call *c = call_new(self(b), JAILER_MEMORY, sid, arg);

	c->rq.limits.memory_bytes = bytes;
	c->done = done;
	call_send(self(b), c);
}

static void process_network(struct backend *b, const char *sid, bool on, backend_network_fn done,
			    void *arg)
{
	struct call *c = call_new(self(b), JAILER_NETWORK, sid, arg);

	c->rq.network = on;
	c->network_done = done;
	call_send(self(b), c);
}

static void process_refused(struct backend *b, const char *sid, int64_t since_ns,
			    backend_refused_fn done, void *arg)
{
	struct call *c = call_new(self(b), JAILER_REFUSED, sid, arg);

	c->rq.since_ns = (uint64_t)since_ns;
	c->refused_done = done;
	call_send(self(b), c);
}

static int process_connect(struct backend *b, const char *sid, struct err *e)
{
	char path[512];

	snprintf(path, sizeof(path), "%s/%s.sock", self(b)->sockets_dir, sid);
	return fd_unix_connect(path, e);
}

static void process_free(struct backend *b)
{
	struct process_backend *p = self(b);

	while (map_next(&p->calls, NULL))
		call_free(p, container_of(map_next(&p->calls, NULL), struct call, node));
	while (!list_empty(&p->unmade))
		call_free(p, list_first(&p->unmade, struct call, unsent));
	map_done(&p->calls);
	loop_timer_free(p->fail);
	loop_watch_free(p->watch);
	close_flows(p);
	close(p->fd);
	free(p);
}

static const struct backend_ops process_ops = {
	.name = "process",
	.load_image = process_load_image,
	.create = process_create,
	.start_kernel = process_start_kernel,
	.destroy = process_destroy,
	.list = process_list,
	.stats = process_stats,
	.memory = process_memory,
	.network = process_network,
	.refused = process_refused,
	.connect = process_connect,
	.free = process_free,
};

struct backend *process_backend_new(int jailer_fd, const char *sockets_dir, struct err *e)
{
	struct process_backend *p = calloc(1, sizeof(*p));

	if (!p) {
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	p->base.ops = &process_ops;
	p->fd = jailer_fd;
	p->flows_fd = -1;
	p->sockets_dir = sockets_dir;
	map_init(&p->calls);
	list_init(&p->unsent);
	list_init(&p->unmade);
	list_init(&p->spare);
	for (size_t i = 0; i < SPARE_CALLS; i++)
		list_add_tail(&p->spare, &p->spares[i].unsent);
	fd_set_nonblock(jailer_fd, true);
	p->watch = loop_watch_new(jailer_fd, readable, p);
	p->fail = loop_timer_new(fail_later, p);
	if (!p->watch || !p->fail) {
		err_set(e, ERR_SYSTEM, "watch the jailer");
		loop_watch_free(p->watch);
		loop_timer_free(p->fail);
		free(p);
		return NULL;
	}
	loop_watch_set(p->watch, LOOP_READ);
	return &p->base;
}
