/* SPDX-License-Identifier: Apache-2.0 */
#include "http/internal.h"

#include "base/clock.h"
#include "base/own.h"

#include <assert.h>
#include <gnutls/abstract.h>
#include <sys/socket.h>

/*
 * Known limit of MHD 0.9.75: requests it cannot parse at all (header block larger than
 * connection_memory, malformed request line or header line, bad chunk sizes) are answered by MHD
 * itself, before any callback, with its own short HTML page (400, 413, 414, 431) and a closed
 * connection. There is no hook to change it.
 */

#define CONNECTIONS_DEFAULT 4096
#define MEMORY_DEFAULT      (32 * 1024)
#define IDLE_DEFAULT_S      75
#define BODY_DEFAULT        (4 * 1024 * 1024)
#define BUFFERS_DEFAULT     (512 * 1024 * 1024)
#define HEAD_DEFAULT_S      15
#define WINDOW_DEFAULT_S    30
#define REQUESTS_DEFAULT    100000
/* Rounds of MHD in one pump before other watchers of the loop get their turn. */
#define PUMP_ROUNDS  32
#define ARENA_INLINE 768

/* Servers to pump later in this turn. The queued jobs carry no pointer, so a server may go before
 * them. */
static struct list to_run = { &to_run, &to_run };

int request_fd(const struct http_request *rq)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(rq->conn, MHD_CONNECTION_INFO_CONNECTION_FD);

	return info ? info->connect_fd : -1;
}

void request_wake(struct http_request *rq)
{
	struct http_server *s = rq->server;

	if (s->stopping || rq->ended)
		return;
	if (rq->suspended) {
		rq->suspended = false;
		peer_body_window(rq);
		MHD_resume_connection(rq->conn);
	}
	if (s->in_run)
		s->rerun = true;
	else
		server_schedule(s);
}

void request_suspend(struct http_request *rq)
{
	if (rq->suspended)
		return;
	rq->suspended = true;
	MHD_suspend_connection(rq->conn);
}

void request_kill(struct http_request *rq)
{
	if (rq->ended)
		return;
	/* MHD meets the end of file when it reads, and a refusal when it calls us: it ends the
	 * request. */
	rq->killed = true;
	shutdown(request_fd(rq), SHUT_RDWR);
	request_wake(rq);
}

void server_upgrade_ends(struct http_request *rq)
{
	rq->upgrade_ends = true;
	rq->server->upgrades_ending++;
	if (rq->peer)
		rq->peer->upgraded_ms = clock_mono_ms();
	request_wake(rq);
}

static void arm_timer(struct http_server *s, int64_t delay_ms)
{
	int64_t due = clock_mono_ms() + delay_ms;

	/* Idle deadlines only move away: an armed timer that fires early finds the next one. */
	if (s->timer_due_ms && s->timer_due_ms <= due)
		return;
	s->timer_due_ms = due;
	loop_timer_start(s->timer, delay_ms);
}

/* Each daemon once; how long until one wants to run again. */
static int64_t run_daemons(struct http_server *s)
{
	int64_t wait_ms = IDLE_DEFAULT_S * 1000;

	for (int i = 0; i < LISTENERS; i++) {
		struct MHD_Daemon *mhd = s->listeners[i].mhd;
		MHD_UNSIGNED_LONG_LONG due_ms;

		if (!mhd)
			continue;
		MHD_run(mhd);
		if (s->listeners[i].tls)
			tls_rest(s);
		if (MHD_get_timeout(mhd, &due_ms) == MHD_YES && (int64_t)due_ms < wait_ms)
			wait_ms = (int64_t)due_ms;
	}
	return wait_ms;
}

void server_pump(struct http_server *s)
{
	int64_t wait_ms = 0;

	if (s->in_run || s->stopping)
		return;
	s->in_run = true;
	for (int i = 0; !wait_ms && i < PUMP_ROUNDS; i++) {
		s->rerun = false;
		wait_ms = run_daemons(s);
		/* MHD ends an upgraded connection in the run after that which sent the last of it,
		 * and does not say that it wants one. */
		if (s->rerun || (!i && s->upgrades_ending))
			wait_ms = 0;
	}
	s->in_run = false;
	if (wait_ms)
		arm_timer(s, wait_ms + 1);
	else
		server_schedule(s);
}

static void run_queued(void *arg)
{
	struct list batch;

	(void)arg;
	list_init(&batch);
	list_each(&to_run, struct http_server, run_node, s) {
		list_remove(&s->run_node);
		list_add_tail(&batch, &s->run_node);
	}
	while (!list_empty(&batch)) {
		struct http_server *s = list_first(&batch, struct http_server, run_node);

		list_remove(&s->run_node);
		server_pump(s);
	}
}

void server_schedule(struct http_server *s)
{
	if (s->stopping || !list_empty(&s->run_node))
		return;
	if (loop_later(run_queued, NULL) < 0) {
		arm_timer(s, 0); /* out of memory: the timer is there already */
		return;
	}
	list_add_tail(&to_run, &s->run_node);
}

static void on_watch(void *arg, int events)
{
	(void)events;
	server_pump(arg);
}

static void on_timer(void *arg)
{
	struct http_server *s = arg;

	s->timer_due_ms = 0;
	server_pump(s);
}

/* MHD: a connection has come, or is about to be closed. */
static void on_connection(void *cls, struct MHD_Connection *conn, void **context,
			  enum MHD_ConnectionNotificationCode what)
{
	struct listener *l = cls;
	const union MHD_ConnectionInfo *info;

	if (what == MHD_CONNECTION_NOTIFY_CLOSED) {
		peer_free(*context);
		*context = NULL;
		return;
	}
	info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
	if (!info)
		return;
	int fd = info->connect_fd;
	struct peer *p = peer_new(l->server, fd);

	*context = p;
	info = l->tls ? MHD_get_connection_info(conn, MHD_CONNECTION_INFO_GNUTLS_SESSION) : NULL;
	/* A connection that nobody can look after ends at once. */
	if (!p || (l->tls && (!info || tls_begin(p, l->tls, conn, info->tls_session) < 0)))
		shutdown(fd, SHUT_RDWR);
}

struct peer *peer_of(struct MHD_Connection *conn)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(conn, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

/* ---- requests ---- */

/* A fresh UUID without a system call and a printf for each. */
void server_make_id(struct http_server *s, char out[static UUID_TEXT_SIZE])
{
	static const unsigned char groups[] = { 4, 2, 2, 2, 6 };

	if (s->random_left < 16) {
		rand_bytes(s->random, sizeof(s->random));
		s->random_left = sizeof(s->random);
	}
	s->random_left -= 16;
	unsigned char *b = s->random + s->random_left;

	b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	for (size_t i = 0; i < sizeof(groups); i++) {
		if (i)
			*out++ = '-';
		hex_encode(b, groups[i], out);
		out += 2 * groups[i];
		b += groups[i];
	}
}

/* MHD: the request line is in. The raw target is copied because MHD takes its own copy apart. */
static void *on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
	struct listener *l = cls;
	struct http_server *s = l->server;
	size_t len = uri ? strlen(uri) : 0;
	/* One block: the struct, the beginning of its arena (aligned), the target. */
	size_t arena_at = (sizeof(struct http_request) + sizeof(max_align_t) - 1) &
			  ~(sizeof(max_align_t) - 1);
	struct http_request *rq = malloc(arena_at + ARENA_INLINE + len + 1);

	if (!rq)
		return NULL;
	memset(rq, 0, sizeof(*rq));
	rq->arena = (char *)rq + arena_at;
	rq->arena_left = ARENA_INLINE;
	char *copy = rq->arena + ARENA_INLINE;

	if (len)
		memcpy(copy, uri, len);
	copy[len] = '\0';
	rq->uri = (struct str){ copy, len };
	rq->uri_at = uri;
	rq->server = s;
	rq->listener = l;
	rq->conn = conn;
	rq->started_ns = clock_mono_ns();
	buf_init(&rq->body, s->config.body_max);
	server_make_id(s, rq->id);
	list_add_tail(&s->requests, &rq->node);
	rq->peer = peer_of(conn);
	peer_begins(rq);
	return rq;
}

static enum MHD_Result on_access(void *cls, struct MHD_Connection *conn, const char *url,
				 const char *method, const char *version, const char *data,
				 size_t *len, void **context)
{
	struct http_request *rq = *context;

	(void)cls;
	(void)conn;
	(void)url;
	if (!rq)
		return MHD_NO; /* no memory for it */
	if (!rq->framed)
		return intake_headers(rq, method, version);
	if (!*len)
		return intake_complete(rq);
	size_t n = *len;

	*len = 0;
	return intake_body(rq, data, n);
}

/* MHD: the request is over, for whatever reason. The only place where a request ends. */
static void on_completed(void *cls, struct MHD_Connection *conn, void **context,
			 enum MHD_RequestTerminationCode how)
{
	struct http_request *rq = *context;

	(void)cls;
	(void)how;
	*context = NULL;
	if (!rq)
		return;
	struct http_server *s = rq->server;

	rq->ended = true;
	list_remove(&rq->node);
	s->upgrades_ending -= rq->upgrade_ends;
	peer_ends(rq);
	if (!rq->status && !rq->framed) {
		/* Refused by MHD itself. */
		const union MHD_ConnectionInfo *info =
			MHD_get_connection_info(conn, MHD_CONNECTION_INFO_HTTP_STATUS);

		rq->status = info ? (int)info->http_status : 0;
	}
	if (s->config.finished)
		s->config.finished(rq, rq->status, (clock_mono_ns() - rq->started_ns) / 1000,
				   s->config.ctx);
	while (rq->deferred) {
		struct deferred *d = rq->deferred;

		rq->deferred = d->next;
		d->fn(d->arg);
	}
	early_free(rq->early);
	stream_free(rq->stream);
	free(rq->owned);
	buf_done(&rq->body);
	buffers_done(rq);
	request_free_memory(rq);
	free(rq);
}

/*
 * MHD would decode path and query. %2F must stay raw until the path is split, so it is told that
 * everything is decoded already.
 */
static size_t on_unescape(void *cls, struct MHD_Connection *conn, char *text)
{
	(void)cls;
	(void)conn;
	return strlen(text);
}

/* Sessions have their pair before this is asked; who has none is refused. */
static int no_certificate(gnutls_session_t session, const gnutls_datum_t *issuers, int issuer_count,
			  const gnutls_pk_algorithm_t *algorithms, int algorithm_count,
			  gnutls_pcert_st **ret_chain, unsigned int *ret_count,
			  gnutls_privkey_t *ret_key)
{
	(void)session;
	(void)issuers;
	(void)issuer_count;
	(void)algorithms;
	(void)algorithm_count;
	(void)ret_chain;
	(void)ret_count;
	(void)ret_key;
	return -1;
}

static int start_mhd(struct listener *l, struct err *e)
{
	const struct http_config *config = &l->server->config;
	struct MHD_OptionItem tls[] = {
		{ MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)no_certificate },
		{ MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)TLS_PRIORITIES },
		{ MHD_OPTION_END, 0, NULL },
	};
	struct MHD_OptionItem *more = l->tls ? tls : tls + 2;

	/* TURBO: no shutdown() before close(); nothing is written blindly on the strength of it.
	 * TLS says goodbye before close(). */
	l->mhd = MHD_start_daemon(
		MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_ALLOW_UPGRADE |
			MHD_USE_NO_LISTEN_SOCKET | (l->tls ? MHD_USE_TLS : MHD_USE_TURBO),
		0, NULL, NULL, on_access, l, MHD_OPTION_CONNECTION_LIMIT,
		(unsigned int)config->connections_max + 1, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		config->connection_memory, MHD_OPTION_CONNECTION_TIMEOUT, config->idle_timeout_s,
		MHD_OPTION_NOTIFY_COMPLETED, on_completed, l, MHD_OPTION_NOTIFY_CONNECTION,
		on_connection, l, MHD_OPTION_URI_LOG_CALLBACK, on_uri, l,
		MHD_OPTION_UNESCAPE_CALLBACK, on_unescape, NULL, MHD_OPTION_ARRAY, more,
		MHD_OPTION_END);
	if (!l->mhd)
		return err_sys(e, "starting the HTTP server");
	const union MHD_DaemonInfo *info = MHD_get_daemon_info(l->mhd, MHD_DAEMON_INFO_EPOLL_FD);

	l->watch = info ? loop_watch_new(info->epoll_fd, on_watch, l->server) : NULL;
	if (!l->watch)
		return err_set(e, ERR_NOMEM, "out of memory");
	loop_watch_set(l->watch, LOOP_READ);
	return 0;
}

static int start_listener(struct http_server *s, int which, int bound_fd, struct http_tls *tls,
			  struct err *e)
{
	struct listener *l = &s->listeners[which];

	l->tls = tls;
	return listener_open(l, bound_fd, s->config.port, e) < 0 ? -1 : start_mhd(l, e);
}

static void set_defaults(struct http_config *c)
{
	if (!c->connections_max)
		c->connections_max = CONNECTIONS_DEFAULT;
	if (!c->connection_memory)
		c->connection_memory = MEMORY_DEFAULT;
	if (!c->idle_timeout_s)
		c->idle_timeout_s = IDLE_DEFAULT_S;
	if (!c->body_max)
		c->body_max = BODY_DEFAULT;
	if (!c->buffers_max)
		c->buffers_max = BUFFERS_DEFAULT;
	if (!c->head_timeout_s)
		c->head_timeout_s = HEAD_DEFAULT_S;
	if (!c->body_window_s)
		c->body_window_s = WINDOW_DEFAULT_S;
	if (!c->requests_max)
		c->requests_max = REQUESTS_DEFAULT;
}

static int start(struct http_server *s, int *io_fd, int *io_tls_fd, struct err *e)
{
	if (!str_copy(str_from(s->config.address ? s->config.address : "127.0.0.1"), s->address,
		      sizeof(s->address)))
		return err_set(e, ERR_INVALID, "the address to listen on is too long");
	s->router = router_new(e);
	if (!s->router)
		return -1;
	s->timer = loop_timer_new(on_timer, s);
	if (!s->timer)
		return err_set(e, ERR_NOMEM, "out of memory");
	if (peers_start(s, e) < 0 || start_listener(s, PLAIN, take_fd(*io_fd), NULL, e) < 0)
		return -1;
	return *io_tls_fd < 0 ? 0
			      : start_listener(s, SECURE, take_fd(*io_tls_fd), s->config.tls, e);
}

struct http_server *http_server_new(const struct http_config *config, uint16_t *ret_port,
				    struct err *e)
{
	OWNED_FD int bound_fd = config->socket_fd ? config->socket_fd : -1;
	OWNED_FD int tls_fd = config->tls_socket_fd ? config->tls_socket_fd : -1;
	struct http_server *s = calloc(1, sizeof(*s));

	if (!s) {
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	assert(tls_fd < 0 || config->tls);
	s->config = *config;
	list_init(&s->requests);
	list_init(&s->run_node);
	list_init(&s->peers);
	list_init(&s->strangers);
	list_init(&s->regulars);
	list_init(&s->handshakes);
	for (int i = 0; i < LISTENERS; i++) {
		s->listeners[i].server = s;
		s->listeners[i].fd = -1;
	}
	set_defaults(&s->config);
	if (start(s, &bound_fd, &tls_fd, e) < 0) {
		http_server_free(s);
		return NULL;
	}
	if (ret_port)
		*ret_port = s->listeners[PLAIN].port;
	return s;
}

uint16_t http_tls_port(const struct http_server *s)
{
	return s->listeners[SECURE].port;
}

int http_server_routes(struct http_server *s, const struct http_route *routes, size_t count,
		       void *ctx, struct err *e)
{
	return router_add(s->router, routes, count, ctx, e);
}

void http_server_free(struct http_server *s)
{
	if (!s)
		return;
	assert(!s->in_run); /* never from a handler or a deferred function */
	bool spoke = false;

	list_each(&s->requests, struct http_request, node, rq) {
		if (!rq->websocket)
			continue;
		websocket_going_away(rq->websocket);
		spoke = true;
	}
	if (spoke)
		server_pump(s);
	s->stopping = true;
	list_remove(&s->run_node);
	loop_timer_free(s->timer);
	peers_stop(s);
	/* MHD aborts the process if it is stopped with suspended connections. */
	tls_rouse(s);
	list_each(&s->requests, struct http_request, node, rq) {
		if (rq->suspended)
			MHD_resume_connection(rq->conn);
		rq->suspended = false;
	}
	for (int i = 0; i < LISTENERS; i++) {
		struct listener *l = &s->listeners[i];

		loop_watch_free(l->watch);
		listener_close(l);
		if (l->mhd)
			MHD_stop_daemon(l->mhd);
	}
	router_free(s->router);
	free(s);
}
