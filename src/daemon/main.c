/* SPDX-License-Identifier: Apache-2.0 */

/* bivouacd: starts as root, starts the jailer, gives its rights away, serves. */

#include "api/data_plane.h"
#include "arm/arm.h"
#include "base/fdio.h"
#include "base/log.h"
#include "base/own.h"
#include "daemon/confine_self.h"
#include "daemon/egress.h"
#include "daemon/egress_log.h"
#include "daemon/managed_identity.h"
#include "daemon/options.h"
#include "daemon/privileges.h"
#include "daemon/tls.h"
#include "http/http.h"
#include "http/websocket.h"
#include "identity/identity.h"
#include "http/websocket.h"
#include "image/image.h"
#include "loop/loop.h"
#include "pool/pool.h"
#include "sandbox/backend.h"
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define SUBSCRIPTION         "00000000-0000-0000-0000-000000000000"
#define DEV_OID              "00000000-0000-0000-0000-0000000000d0"
#define DEV_NAME             "dev"
#define DEV_TOKEN_LIFETIME_S (30 * 86400)
#define DEV_POOL_KEY                                                                               \
	"/subscriptions/" SUBSCRIPTION                                                             \
	"/resourcegroups/default/providers/microsoft.app/sessionpools/default"
#define FILES_RESERVE_MAX 1024
#define DEV_POOL_PATH     "/subscriptions/" SUBSCRIPTION "/resourceGroups/default/sessionPools/default"
#define TOKEN_MAX         2048
#define LOCK_TRIES        250
#define LOCK_PAUSE_US     20000
#define ARM_VERSION       "2025-07-01"

static struct daemon {
	struct options options;
	struct places places;
	char binary_dir[PATH_MAX];
	char sockets_dir[PATH_MAX + 4];
	char base_url[128];
	char tls_url[128];
	char state_outside[PATH_MAX]; /* as its starter sees it */
	char address[64];
	char tls_address[64];
	uint16_t port;
	uint16_t tls_port;
	int listen_fd;
	int tls_fd;
	struct daemon_tls *tls;
	pid_t jailer_pid;
	const char *egress_off; /* why pools cannot have egress; NULL: they can */
	struct images *images;
	struct store *store;
	struct identity *identity;
	struct arm *arm;
	struct backend *backend;
	struct pools *pools;
	struct http_server *server;
	bool backend_up;
	bool stopping;
	int exit_status;
} d;

static void fatal(const struct err *e)
{
	log_error("%s", e->msg);
	fprintf(stderr, "bivouacd: %s\n", e->msg);
	exit(err_exit_status(e->code) ? err_exit_status(e->code) : 70);
}

static int parse_address(const char *option, const char *text, char ret_address[static 64],
			 uint16_t *ret_port, struct err *e)
{
	const char *colon = strrchr(text, ':');
	uint64_t port;

	if (!colon || colon == text || colon - text >= 64 ||
	    !str_to_u64(str_from(colon + 1), 65535, &port))
		return err_set(e, ERR_INVALID,
			       "--%s must be ADDR:PORT, as 127.0.0.1:8900, not '%s'", option, text);
	snprintf(ret_address, 64, "%.*s", (int)(colon - text), text);
	*ret_port = (uint16_t)port;
	return 0;
}

static int parse_listen(const struct options *o, struct err *e)
{
	if (parse_address("listen", o->listen, d.address, &d.port, e) < 0)
		return -1;
	return o->tls_listen
		       ? parse_address("tls-listen", o->tls_listen, d.tls_address, &d.tls_port, e)
		       : 0;
}

/* Bound before the drop of rights, as the daemon gives away the right to make network sockets; it
 * listens when it can serve. */
static int bind_sockets(struct err *e)
{
	if (http_bind(d.address, d.port, &d.listen_fd, e) < 0)
		return -1;
	if (!d.options.tls_listen)
		return 0;
	if (http_bind(d.tls_address, d.tls_port, &d.tls_fd, e) < 0)
		return err_wrap(e, "--tls-listen");
	return 0;
}

static int find_binary_dir(struct err *e)
{
	ssize_t n = readlink("/proc/self/exe", d.binary_dir, sizeof(d.binary_dir) - 1);

	if (n <= 0)
		return err_sys(e, "own program");
	d.binary_dir[n] = '\0';
	*strrchr(d.binary_dir, '/') = '\0';
	return 0;
}

/*
 * One daemon per run directory. The jailer shares the lock, so a daemon that starts right after
 * another was killed waits here until the other's jailer has noticed.
 */
static int lock_run_dir(const char *run_dir, int *ret_fd, struct err *e)
{
	int fd = open(run_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return err_sys(e, "open %s", run_dir);
	for (int i = 0; flock(fd, LOCK_EX | LOCK_NB) < 0; i++) {
		if (i == LOCK_TRIES) {
			close(fd);
			return err_set(e, ERR_CONFLICT, "another bivouacd runs on %s", run_dir);
		}
		usleep(LOCK_PAUSE_US);
	}
	*ret_fd = fd;
	return 0;
}

/* Everything that takes root. */
static int start_as_root(int *ret_jailer_fd, struct err *e)
{
	static char state_dir[PATH_MAX];
	static char run_dir[PATH_MAX];
	static char images_dir[PATH_MAX];
	struct options *o = &d.options;
	struct privileges user;
	char owner[16];

	if (geteuid() != 0)
		return err_set(
			e, ERR_FORBIDDEN,
			"must be started as root: it starts the jailer and then runs as user '%s'",
			o->user);
	if (privileges_find_user(o->user, &user, e) < 0 ||
	    privileges_make_dir(o->state_dir, 0700, user.uid, e) < 0 ||
	    privileges_make_dir(o->run_dir, 0755, 0, e) < 0)
		return -1;
	if (!realpath(o->state_dir, state_dir) || !realpath(o->run_dir, run_dir))
		return err_sys(e, "state or run directory");
	int lock_fd = -1;

	if (lock_run_dir(run_dir, &lock_fd, e) < 0)
		return -1;
	if (!realpath(o->images_dir, images_dir))
		return err_set(
			e, ERR_NOT_FOUND,
			"image directory %s does not exist; make the image with: bivouac image build",
			o->images_dir);
	if (images_open(d.binary_dir, images_dir, &d.images, e) < 0)
		return -1;
	if (bind_sockets(e) < 0 || tls_prepare(o, d.binary_dir, &d.tls, e) < 0)
		return -1;
	snprintf(d.state_outside, sizeof(d.state_outside), "%s", state_dir);
	snprintf(owner, sizeof(owner), "%u", user.uid);
	const char *argv[9 + EGRESS_ARGS_MAX + 1] = {
		"bivouac-jailer", "--run-dir", run_dir,     "--images", images_dir,
		"--owner",        owner,       "--uid-dir", o->uid_dir,
	};

	d.egress_off = egress_find(o, d.binary_dir);
	if (d.egress_off)
		log_info("pools cannot enable egress: %s", d.egress_off);
	egress_args(o, !d.egress_off, argv + 9);
	if (privileges_start_jailer(d.binary_dir, argv, lock_fd, ret_jailer_fd, &d.jailer_pid, e) <
	    0)
		return -1;
	d.places = (struct places){ state_dir, run_dir };
	return privileges_drop(&user, &d.places, e) < 0 ? -1 : confine_self(e);
}

/*
 * Connections must not take the descriptors that sandboxes need (one each), nor those of databases.
 */
static size_t connections_max(void)
{
	size_t files = confine_self_open_files();
	size_t reserve = files / 4 < FILES_RESERVE_MAX ? files / 4 : FILES_RESERVE_MAX;
	size_t wanted = (size_t)d.options.connections_max;

	if (wanted <= files - reserve)
		return wanted;
	log_warn("connections-max is %zu, not %zu: the limit of open files is %zu, and %zu are "
		 "kept for sandboxes",
		 files - reserve, wanted, files, reserve);
	return files - reserve;
}

static void free_caller(void *arg)
{
	free(arg);
}

/* Every route names a permission; its first word says for which plane the token must be. */
static int authorize(struct http_request *rq, const struct http_route *route, void *ctx,
		     struct err *e)
{
	struct identity_caller found;
	struct str header = STR("");

	(void)ctx;
	if (!route->permission)
		return 0;
	if (strcmp(route->permission, DATA_PLANE_MCP) == 0) {
		int key = data_plane_api_key(rq, e);

		if (key)
			return key > 0 ? 0 : -1;
	}
	enum identity_plane plane = strncmp(route->permission, "arm:", 4) == 0
					    ? IDENTITY_PLANE_ARM
					    : IDENTITY_PLANE_DATA;

	char bearer[TOKEN_MAX + sizeof("Bearer ")] = "Bearer ";

	/* Browsers cannot give a WebSocket an Authorization header. */
	if (!http_header(rq, "Authorization", &header) && websocket_wanted(rq) &&
	    websocket_bearer(rq, bearer + strlen(bearer), TOKEN_MAX))
		header = str_from(bearer);
	if (identity_check(d.identity, header, plane, &found, e) < 0)
		return -1;
	struct identity_caller *caller = malloc(sizeof(*caller));

	if (!caller)
		return err_set(e, ERR_NOMEM, "out of memory");
	*caller = found;
	http_set_caller(rq, caller);
	if (http_defer(rq, free_caller, caller) < 0) {
		http_set_caller(rq, NULL);
		free(caller);
		return err_set(e, ERR_NOMEM, "out of memory");
	}
	return 0;
}

static void finished(struct http_request *rq, int status, int64_t duration_us, void *ctx)
{
	struct str path = http_path(rq);
	struct str method = http_method(rq);

	(void)ctx;
	/* SECURITY: the query may hold identifiers, the only secret of a session;
	 * it is not logged. */
	log_msg(status >= 500 ? LOG_WARN : LOG_DEBUG,
		"%.*s %.*s -> %d in %" PRId64 " us, request %s", STR_ARG(method),
		(int)(path.len < 300 ? path.len : 300), path.ptr, status, duration_us,
		http_request_id(rq));
}

static void health(struct http_request *rq, void *ctx)
{
	static const char text[] = "{\"status\":\"healthy\"}";

	(void)ctx;
	http_reply(rq, 200, "application/json", text, sizeof(text) - 1);
}

static const struct http_route own_routes[] = {
	{ "GET", "/health", health, HTTP_BODY_NONE, NULL, "Whether the daemon serves" },
};

static const struct runtime *runtime_of(const char *container_type, void *arg)
{
	(void)arg;
	return images_runtime(d.images, container_type);
}

static const char *metadata_of(const char *container_type, void *arg)
{
	(void)arg;
	const struct runtime *r = images_runtime(d.images, container_type);

	return r ? r->metadata : NULL;
}

static void pool_changed(const char *key, bool deleted, void *arg)
{
	(void)arg;
	pools_document(d.pools, key, deleted);
}

/* The pool of --dev; kept as it is if an earlier start made it. */
static int make_dev_pool(struct err *e)
{
	static const char group[] = "/subscriptions/" SUBSCRIPTION "/resourceGroups/default";
	static const char pool[] =
		"/subscriptions/" SUBSCRIPTION
		"/resourceGroups/default/providers/Microsoft.App/sessionPools/default";
	static const char pool_body[] =
		"{\"location\":\"local\",\"properties\":{\"containerType\":\"PythonLTS\","
		"\"poolManagementType\":\"Dynamic\","
		"\"scaleConfiguration\":{\"maxConcurrentSessions\":100,\"readySessionInstances\":10},"
		"\"dynamicPoolConfiguration\":{\"lifecycleConfiguration\":{\"lifecycleType\":\"Timed\","
		"\"cooldownPeriodInSeconds\":300}},"
		"\"sessionNetworkConfiguration\":{\"status\":\"EgressDisabled\"}}}";
	struct store_doc doc = { 0 };
	int found = store_doc_get(d.store, DEV_POOL_KEY, &doc, e);

	store_doc_done(&doc);
	if (found)
		return found < 0 ? -1 : 0;
	if (arm_put_internal(d.arm, group, "{\"location\":\"local\"}", ARM_VERSION, e) < 0)
		return -1;
	return arm_put_internal(d.arm, pool, pool_body, ARM_VERSION, e);
}

static json_t *dev_line(const char *endpoint, struct err *e)
{
	OWNED_MEM char *token = identity_issue(d.identity, IDENTITY_AUDIENCE_DATA, DEV_OID,
					       DEV_NAME, DEV_TOKEN_LIFETIME_S, e);
	OWNED_MEM char *arm_token = identity_issue(d.identity, IDENTITY_AUDIENCE_ARM, DEV_OID,
						   DEV_NAME, DEV_TOKEN_LIFETIME_S, e);
	const char *secret = managed_identity_secret();

	if (!token || !arm_token)
		return NULL;
	json_t *line = json_pack("{s:s,s:s,s:s,s:s}", "endpoint", endpoint, "armEndpoint",
				 d.base_url, "token", token, "armToken", arm_token);
	if (line && *secret) {
		OWNED_MEM char *url = str_printf("%s/msi/token", d.base_url);

		json_object_set_new(line, "identityEndpoint", url ? json_string(url) : NULL);
		json_object_set_new(line, "identityHeader", json_string(secret));
	}
	return line;
}

static void add_tls_line(json_t *line)
{
	OWNED_MEM char *endpoint =
		str_printf("%s%s", d.tls_url, d.options.dev ? DEV_POOL_PATH : "");
	OWNED_MEM char *ca_file = str_printf("%s/tls/ca.pem", d.state_outside);

	json_object_set_new(line, "tlsEndpoint", endpoint ? json_string(endpoint) : NULL);
	if (tls_own_ca(d.tls))
		json_object_set_new(line, "caFile", ca_file ? json_string(ca_file) : NULL);
}

static void print_ready(void)
{
	struct err e = ERR_INIT;
	OWNED_MEM char *endpoint = str_printf("%s%s", d.base_url, DEV_POOL_PATH);
	json_t *line = d.options.dev ? dev_line(endpoint, &e)
				     : json_pack("{s:s}", "armEndpoint", d.base_url);

	if (line && *d.tls_url)
		add_tls_line(line);
	if (e.code != ERR_NONE)
		fatal(&e);
	OWNED_MEM char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;

	if (text)
		printf("%s\n", text);
	fflush(stdout);
	json_decref(line);
}

/* With --dev only: on a machine that others use, tokens come from 'bivouac token'. */
static int dev_routes(struct err *e)
{
	const char *tls = d.options.tls_listen ? d.tls_address : NULL;

	if (!d.options.dev)
		return 0;
	/* Both listeners have the same routes. */
	if (managed_identity_allowed(d.address) && (!tls || managed_identity_allowed(tls)))
		return managed_identity_routes(d.identity, DEV_OID, DEV_NAME, d.server, e);
	log_info("no /msi/token: %s is not a loopback address",
		 managed_identity_allowed(d.address) ? tls : d.address);
	return 0;
}

static void set_urls(void)
{
	const char *format = strchr(d.address, ':') ? "http://[%s]:%u" : "http://%s:%u";

	snprintf(d.base_url, sizeof(d.base_url), format, d.address, d.port);
	if (!d.options.tls_listen)
		return;
	format = strchr(d.tls_address, ':') ? "https://[%s]:%u" : "https://%s:%u";
	snprintf(d.tls_url, sizeof(d.tls_url), format, d.tls_address, http_tls_port(d.server));
}

static int start_http(struct err *e)
{
	struct http_config config = {
		.address = d.address,
		.port = d.port,
		.socket_fd = d.listen_fd,
		.tls_socket_fd = d.tls_fd,
		.tls = tls_pair(d.tls),
		.connections_max = connections_max(),
		.head_timeout_s = (unsigned)d.options.head_timeout_s,
		.body_rate_min = (uint64_t)d.options.body_rate_min,
		.requests_max = (uint64_t)d.options.requests_max,
		.idle_timeout_s = (unsigned)d.options.idle_timeout_s,
		.body_max = (size_t)d.options.body_max,
		.buffers_max = (size_t)d.options.buffers_max,
		.authorize = authorize,
		.finished = finished,
	};
	struct data_plane_config plane = {
		.pools = d.pools,
		.store = d.store,
		.metadata = metadata_of,
		.code_max = (size_t)d.options.code_max,
		.list_max = (uint32_t)d.options.list_max,
		.mcp_origins = d.options.mcp_origin,
		.default_pool = d.options.dev ? DEV_POOL_KEY : NULL,
	};

	d.server = http_server_new(&config, &d.port, e);
	if (!d.server ||
	    http_server_routes(d.server, own_routes, ARRAY_LEN(own_routes), NULL, e) < 0 ||
	    data_plane_routes(&plane, d.server, e) < 0 || arm_routes(d.arm, d.server, e) < 0 ||
	    dev_routes(e) < 0)
		return -1;
	set_urls();
	return 0;
}

static void pools_ready(void *arg, const struct err *e)
{
	struct err mine = *e;

	(void)arg;
	if (mine.code != ERR_NONE || start_http(&mine) < 0)
		fatal(&mine);
	log_info("serving on %s%s%s", d.base_url, *d.tls_url ? " and " : "", d.tls_url);
	print_ready();
}

/* Never silently unlimited: in the log, in every pool's document, and with --strict not at all. */
static void report_missing(const char *missing)
{
	struct err e = ERR_INIT;

	if (!*missing)
		return;
	if (d.options.strict && !d.backend_up) {
		err_set(&e, ERR_UNAVAILABLE,
			"--strict: this machine does not enforce: %s. For memory, pids, cpu: mount "
			"the cgroup controllers writable (v1), or have them delegated (v2, "
			"cgroup.subtree_control); for swap: boot with swapaccount=1, or without "
			"swap; for landlock: a kernel with lsm=landlock; for "
			"refused-call-names: no other seccomp listener around bivouacd. "
			"'bivouac doctor' says more. Or start without --strict.",
			missing);
		fatal(&e);
	}
	log_warn("this machine does not enforce: %s; session pools say so in "
		 "properties.unenforced (pids: RLIMIT_NPROC still holds)",
		 missing);
}

static void backend_restarted(void *arg)
{
	(void)arg;
	report_missing(d.backend->missing);
	if (d.backend_up) {
		log_warn("the jailer was replaced; comparing sandboxes");
		pools_backend_restarted(d.pools);
		return;
	}
	d.backend_up = true;
	pools_start(d.pools, pools_ready, NULL);
}

static void backend_flow(void *arg, const struct flow_record *r)
{
	(void)arg;
	pools_flow(d.pools, r);
}

static void backend_lost(void *arg, const struct err *e)
{
	(void)arg;
	if (d.stopping)
		return;
	/* Root cannot be had back here. A fresh start takes every session over. */
	log_error("%s; ending, so that whoever supervises starts us again", e->msg);
	d.exit_status = 69;
	d.stopping = true;
	loop_stop();
}

static void drained(void *arg)
{
	(void)arg;
	loop_stop();
}

static void on_signal(int signum)
{
	if (d.stopping) {
		log_warn("signal %d again: not waiting any longer", signum);
		loop_stop();
		return;
	}
	d.stopping = true;
	log_info("signal %d: %s", signum,
		 d.options.keep_sessions ? "ending; sessions go on" : "ending all sessions");
	if (d.options.keep_sessions)
		loop_stop();
	else
		pools_drain(d.pools, drained, NULL);
}

static void on_reload(int signum)
{
	(void)signum;
	tls_reload(d.tls);
}

static const char *egress_off(void)
{
	return d.egress_off;
}

static const char *container_type(size_t n)
{
	const struct runtime *r = images_at(d.images, n);

	return r ? r->container_type : NULL;
}

static int start_services(int jailer_fd, struct err *e)
{
	struct options *o = &d.options;
	struct arm_config arm = {
		.subscription = SUBSCRIPTION,
		.location = o->location,
		.egress_off = egress_off,
		.container_type = container_type,
	};
	struct pools_config pools = {
		.runtime_of = runtime_of,
		.ready_default = (int)o->ready,
		.shells = (int)o->shells,
		.starting_max = (int)o->starting_max,
		.output_limit = (uint32_t)o->output_max,
		.result_max = (uint32_t)o->result_max,
		.executions_kept = (int)o->executions_kept,
		.contexts_max = (int)o->contexts_max,
		.terminals_max = (int)o->terminals_max,
		.queued_code_max = (uint64_t)o->queued_code_max,
		.results_kept_max = (uint64_t)o->results_kept_max,
		.answer_wait_ms = 2000,
		.names_wait_ms = 200,
		.egress = !d.egress_off,
		.flow_line = o->egress_log_max ? egress_log_write : NULL,
	};

	snprintf(d.sockets_dir, sizeof(d.sockets_dir), "%s/s", d.places.run_dir);
	if (loop_init(e) < 0 || store_open(d.places.state_dir, &d.store, e) < 0 ||
	    identity_open(d.places.state_dir, &d.identity, e) < 0 ||
	    tls_open(d.tls, d.places.state_dir, d.tls_address, e) < 0)
		return -1;
	egress_log_open(d.places.state_dir, (uint64_t)o->egress_log_max);
	arm.store = d.store;
	arm.location_display = strcmp(o->location, "local") == 0 ? "Local" : o->location;
	d.backend = process_backend_new(jailer_fd, d.sockets_dir, e);
	if (!d.backend)
		return -1;
	arm.unenforced = d.backend->missing;
	if (arm_new(&arm, &d.arm, e) < 0)
		return -1;
	pools.store = d.store;
	pools.backend = d.backend;
	if (pools_new(&pools, &d.pools, e) < 0)
		return -1;
	d.backend->restarted = backend_restarted;
	d.backend->lost = backend_lost;
	d.backend->flow = backend_flow;
	if (o->dev && make_dev_pool(e) < 0)
		return -1;
	arm_on_change(d.arm, "Microsoft.App/sessionPools", pool_changed, NULL);
	if (loop_signal(SIGTERM, on_signal, e) < 0 || loop_signal(SIGINT, on_signal, e) < 0 ||
	    loop_signal(SIGHUP, on_reload, e) < 0)
		return -1;
	return tls_watch(d.tls, e);
}

static void stop_services(void)
{
	if (d.server)
		http_server_free(d.server);
	pools_free(d.pools);
	arm_free(d.arm);
	d.backend->ops->free(d.backend); /* the end of its socket ends the jailer */
	tls_close(d.tls);
	loop_done();
	identity_close(d.identity);
	store_close(d.store);
	egress_log_close();
	images_close(d.images);
	while (waitpid(d.jailer_pid, NULL, 0) < 0 && errno == EINTR)
		;
}

static int log_level(const char *word, enum log_level *ret)
{
	static const char *const words[] = { "debug", "info", "warn", "error" };

	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (strcmp(words[i], word) == 0) {
			*ret = (enum log_level)i;
			return 0;
		}
	}
	return -1;
}

int main(int argc, char **argv)
{
	struct err e = ERR_INIT;
	enum log_level level = LOG_INFO;
	int jailer_fd = -1;

	if (options_parse(&d.options, argc, argv, &e) < 0) {
		fprintf(stderr, "bivouacd: %s\n", e.msg);
		return 64;
	}
	if (d.options.help) {
		options_help(stdout);
		return 0;
	}
	if (d.options.version) {
		puts("bivouacd " BIVOUAC_VERSION);
		return 0;
	}
	if (egress_check(&d.options, &e) < 0 || tls_check(&d.options, &e) < 0 ||
	    data_plane_origins_check(d.options.mcp_origin, &e) < 0) {
		fprintf(stderr, "bivouacd: %s\n", e.msg);
		return 64;
	}
	if (log_level(d.options.log_level, &level) < 0) {
		fprintf(stderr, "bivouacd: --log-level must be debug, info, warn or error\n");
		return 64;
	}
	log_init("bivouacd", level);
	signal(SIGPIPE, SIG_IGN);
	if (parse_listen(&d.options, &e) < 0 || find_binary_dir(&e) < 0 ||
	    start_as_root(&jailer_fd, &e) < 0 || start_services(jailer_fd, &e) < 0)
		fatal(&e);
	loop_run();
	stop_services();
	return d.exit_status;
}
