/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/client.h"

#include "base/clock.h"
#include "base/fdio.h"
#include "base/own.h"
#include "cli/cli.h"
#include "cli/client_impl.h"
#include "cli/progress.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define CONNECT_TIMEOUT_S   10
#define STALL_TIMEOUT_S     60   /* a file transfer that moves nothing for this long is over */
#define OPERATION_TIMEOUT_S 1500 /* as az */
#define POLL_FIRST_MS       200
#define POLL_MAX_MS         2000
#define PAGES_MAX           1000

struct exchange {
	struct cli *cli;
	const struct client_request *request;
	struct client_response *response;
	struct progress progress;
	struct err sink_err;
	char why[CURL_ERROR_SIZE];
	struct curl_slist *headers;
	curl_mime *mime;
	char *body;
};

void client_done(struct client *client)
{
	if (client->curl) {
		curl_easy_cleanup(client->curl);
		curl_global_cleanup();
	}
	json_decref(client->context);
	*client = (struct client){ .curl = NULL };
}

void client_response_done(struct client_response *response)
{
	buf_done(&response->body);
}

enum err_code client_error_code(const char *api_code, long status)
{
	for (int code = ERR_NONE + 1; api_code && code < ERR_CODE_MAX; code++)
		if (!strcasecmp(err_api_code((enum err_code)code), api_code))
			return (enum err_code)code;
	/* Several codes share a status; the general one of each comes first here. */
	static const struct {
		long status;
		enum err_code code;
	} general[] = {
		{ 400, ERR_INVALID },   { 403, ERR_FORBIDDEN },    { 404, ERR_NOT_FOUND },
		{ 413, ERR_TOO_LARGE }, { 429, ERR_SESSIONS_MAX }, { 503, ERR_UNAVAILABLE },
		{ 504, ERR_TIMEOUT },
	};

	for (size_t i = 0; i < ARRAY_LEN(general); i++)
		if (general[i].status == status)
			return general[i].code;
	for (int code = ERR_NONE + 1; code < ERR_CODE_MAX; code++)
		if (err_http_status((enum err_code)code) == status)
			return (enum err_code)code;
	return status >= 500 ? ERR_INTERNAL : ERR_INVALID;
}

static size_t on_body(char *data, size_t size, size_t count, void *arg)
{
	struct exchange *x = arg;
	size_t len = size * count;
	long status = 0;

	curl_easy_getinfo(x->cli->client.curl, CURLINFO_RESPONSE_CODE, &status);
	if (x->request->sink_fd > 0 && status < 400)
		return fd_write_all(x->request->sink_fd, data, len, &x->sink_err) ? 0 : len;
	if (!buf_add(&x->response->body, data, len)) {
		err_set(&x->sink_err, ERR_TOO_LARGE, "the answer is larger than %u MiB",
			CLIENT_BODY_MAX >> 20);
		return 0;
	}
	return len;
}

static int on_progress(void *arg, curl_off_t down_total, curl_off_t down, curl_off_t up_total,
		       curl_off_t up)
{
	struct exchange *x = arg;

	if (x->request->upload_file)
		progress_bytes(&x->progress, (uint64_t)up, (uint64_t)up_total);
	else
		progress_bytes(&x->progress, (uint64_t)down, (uint64_t)down_total);
	return 0;
}

/** header_add: SECURITY: a value with a line break would smuggle a header, so it is refused. */
static int header_add(struct exchange *x, const char *name, const char *value, struct err *e)
{
	OWNED_MEM char *line = str_printf("%s: %s", name, value);

	if (strpbrk(value, "\r\n"))
		return err_set(e, ERR_INVALID, "the value of %s has a line break in it", name);
	struct curl_slist *list = line ? curl_slist_append(x->headers, line) : NULL;

	if (!list)
		return err_set(e, ERR_NOMEM, "out of memory");
	x->headers = list;
	return 0;
}

static bool host_is_loopback(const char *host)
{
	return !strcasecmp(host, "localhost") || !strncmp(host, "127.", 4) ||
	       !strcmp(host, "[::1]") || !strcmp(host, "::1");
}

/** origin_of: scheme, host and port of a URL, lower-case where case does not matter. */
static int origin_of(const char *url, char *ret_origin, size_t size, char *ret_host,
		     size_t host_size, struct err *e)
{
	CURLU *u = curl_url();
	char *scheme = NULL, *host = NULL, *port = NULL;
	int rc = -1;

	if (u && !curl_url_set(u, CURLUPART_URL, url, 0) &&
	    !curl_url_get(u, CURLUPART_SCHEME, &scheme, 0) &&
	    !curl_url_get(u, CURLUPART_HOST, &host, 0) &&
	    !curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT)) {
		int n = snprintf(ret_origin, size, "%s://%s:%s", scheme, host, port);

		rc = n > 0 && (size_t)n < size && strlen(host) < host_size ? 0 : -1;
		if (!rc)
			strcpy(ret_host, host);
	}
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	curl_url_cleanup(u);
	return rc ? err_set(e, ERR_INVALID, "'%.200s' is not a usable URL", url) : 0;
}

/** link_check: SECURITY: a link in an answer gets the token too, so it must stay where the token
 * belongs. */
static int link_check(const char *from, const char *link, struct err *e)
{
	char a[512], b[512], host[256];

	if (origin_of(from, a, sizeof(a), host, sizeof(host), e) ||
	    origin_of(link, b, sizeof(b), host, sizeof(host), e))
		return -1;
	if (strcasecmp(a, b))
		return err_set(
			e, ERR_PROTOCOL,
			"the server's link leads to another origin (%.150s instead of %.150s)", b,
			a);
	return 0;
}

static int authorize(struct exchange *x, struct err *e)
{
	enum client_setting which = x->request->plane == CLIENT_ARM ? SETTING_ARM_TOKEN
								    : SETTING_TOKEN;
	const struct setting *names = client_setting_names(which);
	char origin[512], host[256];
	const char *token;

	if (client_setting(x->cli, which, true, &token, e))
		return -1;
	if (!token)
		return err_set(e, ERR_UNAUTHORIZED,
			       "no token for the %s: give --%s, set %s, or run 'bivouac token'",
			       which == SETTING_ARM_TOKEN ? "ARM endpoint" : "session pool",
			       names->flag, names->env);
	if (origin_of(x->request->url, origin, sizeof(origin), host, sizeof(host), e))
		return -1;
	if (host_is_loopback(host)) {
		/* A proxy for the outside world cannot reach this machine's own loopback. */
		curl_easy_setopt(x->cli->client.curl, CURLOPT_NOPROXY, "*");
	} else if (!strncmp(origin, "http://", 7) && !x->cli->client.warned_plain) {
		cli_warn(x->cli, "the token goes to %s unencrypted; use https", host);
		x->cli->client.warned_plain = true;
	}
	OWNED_MEM char *value = str_printf("Bearer %s", token);

	return value ? header_add(x, "Authorization", value, e)
		     : err_set(e, ERR_NOMEM, "out of memory");
}

static int attach_upload(struct exchange *x, struct err *e)
{
	struct stat st;

	if (stat(x->request->upload_file, &st))
		return err_sys(e, "open %s", x->request->upload_file);
	if (!S_ISREG(st.st_mode))
		return err_set(e, ERR_INVALID, "%s is not a regular file", x->request->upload_file);
	x->mime = curl_mime_init(x->cli->client.curl);
	curl_mimepart *part = x->mime ? curl_mime_addpart(x->mime) : NULL;

	if (!part || curl_mime_name(part, "file") ||
	    curl_mime_filedata(part, x->request->upload_file) ||
	    curl_mime_filename(part, x->request->upload_name) ||
	    curl_mime_type(part, "application/octet-stream"))
		return err_set(e, ERR_SYSTEM, "cannot read %s", x->request->upload_file);
	curl_easy_setopt(x->cli->client.curl, CURLOPT_MIMEPOST, x->mime);
	return 0;
}

static int attach_body(struct exchange *x, struct err *e)
{
	CURL *curl = x->cli->client.curl;

	if (x->request->upload_file)
		return attach_upload(x, e);
	if (!x->request->body) {
		if (!strcmp(x->request->method, "POST"))
			curl_easy_setopt(curl, CURLOPT_POSTFIELDS, "");
		return 0;
	}
	x->body = json_dumps(x->request->body, JSON_COMPACT);
	if (!x->body)
		return err_set(e, ERR_INVALID, "the request cannot be written as JSON");
	curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)strlen(x->body));
	curl_easy_setopt(curl, CURLOPT_POSTFIELDS, x->body);
	return header_add(x, "Content-Type", "application/json", e);
}

/* What every connection needs. */
static CURL *curl_new(struct exchange *x, struct err *e)
{
	struct client *client = &x->cli->client;
	const char *ca;

	if (!client->curl) {
		curl_global_init(CURL_GLOBAL_DEFAULT);
		client->curl = curl_easy_init();
	}
	CURL *curl = client->curl;

	if (!curl)
		err_set(e, ERR_SYSTEM, "libcurl does not start");
	if (!curl || client_setting(x->cli, SETTING_CA, true, &ca, e))
		return NULL;
	curl_easy_reset(curl);
	if (ca)
		curl_easy_setopt(curl, CURLOPT_CAINFO, ca);
	curl_easy_setopt(curl, CURLOPT_URL, x->request->url);
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, x->why);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "bivouac/" BIVOUAC_VERSION);
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_TIMEOUT_S);
	curl_easy_setopt(curl, CURLOPT_PATH_AS_IS, 1L);
	return curl;
}

static int curl_start(struct exchange *x, struct err *e)
{
	CURL *curl = curl_new(x, e);
	bool transfer = x->request->upload_file || x->request->sink_fd > 0;
	long timeout = x->request->timeout_s ? x->request->timeout_s : CLIENT_TIMEOUT_S;

	if (!curl)
		return -1;
	if (transfer) {
		curl_easy_setopt(curl, CURLOPT_LOW_SPEED_LIMIT, 1L);
		curl_easy_setopt(curl, CURLOPT_LOW_SPEED_TIME, (long)STALL_TIMEOUT_S);
	} else {
		curl_easy_setopt(curl, CURLOPT_TIMEOUT, timeout);
	}
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, x);
	if (x->progress.tty) {
		curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
		curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, on_progress);
		curl_easy_setopt(curl, CURLOPT_XFERINFODATA, x);
	}
	if (header_add(x, "Accept", "application/json, */*;q=0.5", e) || authorize(x, e) ||
	    attach_body(x, e))
		return -1;
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, x->request->method);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, x->headers);
	return 0;
}

static void header_copy(CURL *curl, const char *name, char *ret, size_t size)
{
	struct curl_header *h;

	ret[0] = '\0';
	if (!curl_easy_header(curl, name, 0, CURLH_HEADER, -1, &h) && strlen(h->value) < size)
		strcpy(ret, h->value);
}

/** clean: a server's text may not move the terminal or forge lines. */
static void clean(char *text)
{
	for (; *text; text++)
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			*text = ' ';
}

static int refusal(long status, struct str text, const char *challenge, struct err *e)
{
	json_t *body = json_loadb(text.ptr ? text.ptr : "", text.len, JSON_DISABLE_EOF_CHECK, NULL);
	json_t *error = json_object_get(body, "error");
	json_t *source = json_is_object(error) ? error : body;
	const char *code = json_string_value(json_object_get(source, "code"));
	const char *message = json_string_value(json_object_get(source, "message"));
	enum err_code mapped = client_error_code(code, status);

	if (!code)
		code = err_api_code(mapped);
	if (message)
		err_set(e, mapped, "(%.80s) %s", code, message);
	else if (status == 401)
		err_set(e, mapped, "(%.80s) the server refuses the token%s%s", code,
			*challenge ? ": " : "", challenge);
	else
		err_set(e, mapped, "(%.80s) HTTP status %ld without an explanation", code, status);
	if (e)
		clean(e->msg);
	json_decref(body);
	return -1;
}

int client_refusal(long status, struct str body, struct err *e)
{
	return refusal(status, body, "", e);
}

static int http_error(struct exchange *x, struct err *e)
{
	char challenge[200];

	header_copy(x->cli->client.curl, "WWW-Authenticate", challenge, sizeof(challenge));
	return refusal(x->response->status, buf_str(&x->response->body), challenge, e);
}

static void trace_request(const struct exchange *x)
{
	if (!x->cli->client.trace)
		return;
	fprintf(stderr, "> %s %s\n", x->request->method, x->request->url);
	if (x->request->upload_file)
		fprintf(stderr, "> multipart file %s as %s\n", x->request->upload_file,
			x->request->upload_name);
	if (!x->body || !x->cli->client.trace_bodies)
		return;
	/* SECURITY: secret values and passwords of a pool stay out of traces, as tokens do. */
	json_t *copy = json_deep_copy(x->request->body), *secret;
	json_t *secrets = json_object_get(json_object_get(copy, "properties"), "secrets");
	size_t i;

	json_array_foreach(secrets, i, secret)
		json_object_set_new(secret, "value", json_string("***"));
	OWNED_MEM char *text = json_dumps(copy, JSON_COMPACT);

	fprintf(stderr, "> %s\n", text ? text : "");
	json_decref(copy);
}

static void trace_response(const struct exchange *x, int64_t started_ms)
{
	struct client_response *r = x->response;

	if (!x->cli->client.trace)
		return;
	fprintf(stderr, "< %ld in %lld ms, %zu bytes\n", r->status,
		(long long)(clock_mono_ms() - started_ms), r->body.len);
	if (!x->cli->client.trace_bodies || !r->body.len)
		return;
	/* SECURITY: keys and tokens that the server hands out stay out of traces. */
	if (strcasestr(r->body.ptr, "token\"") || strcasestr(r->body.ptr, "apiKey\""))
		fputs("< (not shown: there is a key or a token in it)\n", stderr);
	else
		fprintf(stderr, "< %.*s\n", (int)(r->body.len < 4096 ? r->body.len : 4096),
			r->body.ptr);
}

static int transport_error(const struct exchange *x, CURLcode rc, struct err *e)
{
	const char *why = *x->why ? x->why : curl_easy_strerror(rc);

	if (x->sink_err.code) {
		if (e)
			*e = x->sink_err;
		return -1;
	}
	if (rc == CURLE_OPERATION_TIMEDOUT)
		return err_set(e, ERR_TIMEOUT, "%.200s: %s", x->request->url, why);
	return err_set(e, ERR_UNAVAILABLE, "cannot reach %.200s: %s (is bivouacd running?)",
		       x->request->url, why);
}

static int exchange_run(struct exchange *x, struct err *e)
{
	struct client_response *r = x->response;
	char retry[32];

	if (curl_start(x, e))
		return -1;
	trace_request(x);
	int64_t started_ms = clock_mono_ms();
	CURLcode rc = curl_easy_perform(x->cli->client.curl);

	progress_done(&x->progress);
	if (rc)
		return transport_error(x, rc, e);
	curl_easy_getinfo(x->cli->client.curl, CURLINFO_RESPONSE_CODE, &r->status);
	trace_response(x, started_ms);
	if (r->status >= 400)
		return http_error(x, e);
	if (r->status >= 300)
		return err_set(e, ERR_PROTOCOL, "%.200s answers with a redirection (%ld)",
			       x->request->url, r->status);
	header_copy(x->cli->client.curl, "Azure-AsyncOperation", r->async_url,
		    sizeof(r->async_url));
	header_copy(x->cli->client.curl, "Location", r->location, sizeof(r->location));
	header_copy(x->cli->client.curl, "Retry-After", retry, sizeof(retry));
	r->retry_after_s = *retry ? strtol(retry, NULL, 10) : -1;
	return 0;
}

/* Path and query, and the Host line, of a URL. */
static int split_url(const char *url, char **ret_target, struct buf *headers, struct err *e)
{
	CURLU *u = curl_url();
	char *host = NULL, *port = NULL, *path = NULL, *query = NULL;
	int rc = -1;

	if (u && !curl_url_set(u, CURLUPART_URL, url, CURLU_PATH_AS_IS) &&
	    !curl_url_get(u, CURLUPART_HOST, &host, 0) &&
	    !curl_url_get(u, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) &&
	    !curl_url_get(u, CURLUPART_PATH, &path, 0)) {
		curl_url_get(u, CURLUPART_QUERY, &query, 0);
		*ret_target = str_printf("%s%s%s", path, query ? "?" : "", query ? query : "");
		buf_addf(headers, "Host: %s:%s\r\n", host, port);
		rc = *ret_target ? 0 : -1;
	}
	curl_free(host);
	curl_free(port);
	curl_free(path);
	curl_free(query);
	curl_url_cleanup(u);
	return rc ? err_set(e, ERR_INVALID, "'%.200s' is not a usable URL", url) : 0;
}

int client_connect(struct cli *cli, enum client_plane plane, const char *url, char **ret_target,
		   char **ret_headers, struct err *e)
{
	struct client_request request = { .plane = plane, .method = "GET", .url = url };
	struct exchange x = { .cli = cli, .request = &request };
	OWNED_MEM char *target = NULL;
	struct buf headers;
	int rc = -1;

	buf_init(&headers, 64 * 1024);
	if (curl_new(&x, e) && authorize(&x, e) == 0 && split_url(url, &target, &headers, e) == 0) {
		CURL *curl = cli->client.curl;

		trace_request(&x);
		curl_easy_setopt(curl, CURLOPT_CONNECT_ONLY, 1L);
		curl_easy_setopt(curl, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
		CURLcode code = curl_easy_perform(curl);

		rc = code ? transport_error(&x, code, e) : 0;
	}
	for (struct curl_slist *h = x.headers; h; h = h->next)
		buf_addf(&headers, "%s\r\n", h->data);
	curl_slist_free_all(x.headers);
	/* The buffer of curl's messages goes out of scope. */
	if (cli->client.curl)
		curl_easy_setopt(cli->client.curl, CURLOPT_ERRORBUFFER, NULL);
	if (rc == 0 && !buf_ok(&headers))
		rc = err_set(e, ERR_NOMEM, "out of memory");
	if (rc == 0) {
		*ret_target = take_ptr(target);
		*ret_headers = buf_take(&headers);
	}
	buf_done(&headers);
	return rc;
}

int client_send(struct cli *cli, const struct client_request *request, struct client_response *ret,
		struct err *e)
{
	struct exchange x = { .cli = cli, .request = request, .response = ret };

	*ret = (struct client_response){ .retry_after_s = -1 };
	buf_init(&ret->body, CLIENT_BODY_MAX);
	progress_init(&x.progress, cli->only_errors ? NULL : request->progress);
	int rc = exchange_run(&x, e);

	curl_slist_free_all(x.headers);
	curl_mime_free(x.mime);
	free(x.body);
	if (rc)
		client_response_done(ret);
	return rc;
}

int client_print(struct cli *cli, const struct client_request *request, struct err *e)
{
	struct client_response response;

	if (client_send(cli, request, &response, e))
		return -1;
	int rc = response.body.len ? output_text(&cli->output, buf_str(&response.body), e) : 0;

	client_response_done(&response);
	return rc;
}

static bool status_is_final(const char *status)
{
	return !strcasecmp(status, "Succeeded") || !strcasecmp(status, "Failed") ||
	       !strcasecmp(status, "Canceled");
}

/** operation_ended: 1 ended well, 0 goes on, -1 ended badly. */
static int operation_ended(const struct client_response *r, bool async, struct err *e)
{
	if (!async)
		return r->status != 202;
	json_t *body = output_load(buf_str(&r->body), e);
	const char *status = json_string_value(json_object_get(body, "status"));
	const char *message =
		json_string_value(json_object_get(json_object_get(body, "error"), "message"));
	int rc = 0;

	if (!status)
		rc = body ? err_set(e, ERR_PROTOCOL, "the operation has no status") : -1;
	else if (status_is_final(status))
		rc = !strcasecmp(status, "Succeeded")
			     ? 1
			     : err_set(e, ERR_CONFLICT, "the operation ended as %.40s%s%s", status,
				       message ? ": " : "", message ? message : "");
	json_decref(body);
	return rc;
}

static void sleep_ms(long ms)
{
	struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&ts, NULL);
}

int client_wait(struct cli *cli, struct client_response *response, struct err *e)
{
	bool async = *response->async_url;
	OWNED_MEM char *url = str_dup(str_from(async ? response->async_url : response->location));
	int64_t deadline_ms = clock_mono_ms() + OPERATION_TIMEOUT_S * 1000;
	long pause_ms = POLL_FIRST_MS;
	OWNED_MEM char *arm = client_arm_url(cli, e, "/");

	if (!arm || !url || !*url)
		return arm ? err_set(e, ERR_PROTOCOL, "the operation has no address to ask") : -1;
	if (link_check(arm, url, e))
		return -1;
	for (;;) {
		struct client_request request = { .plane = CLIENT_ARM,
						  .method = "GET",
						  .url = url };
		long asked_ms = response->retry_after_s * 1000;

		sleep_ms(asked_ms > pause_ms && asked_ms < 30000 ? asked_ms : pause_ms);
		pause_ms = pause_ms * 2 < POLL_MAX_MS ? pause_ms * 2 : POLL_MAX_MS;
		client_response_done(response);
		if (client_send(cli, &request, response, e))
			return -1;
		int ended = operation_ended(response, async, e);

		if (ended)
			return ended > 0 ? 0 : -1;
		if (clock_mono_ms() > deadline_ms)
			return err_set(e, ERR_TIMEOUT, "the operation is not over after %d s",
				       OPERATION_TIMEOUT_S);
	}
}

int client_delete(struct cli *cli, const char *url, struct err *e)
{
	struct client_request request = { .plane = CLIENT_ARM, .method = "DELETE", .url = url };
	struct client_response response;
	int rc = 0;

	if (client_send(cli, &request, &response, e))
		return -1;
	if (response.status == 202 && !args_given(&cli->args, "no-wait"))
		rc = client_wait(cli, &response, e);
	client_response_done(&response);
	return rc;
}

/** page_get: one page's items onto all; *next becomes the next page's address or NULL. */
static int page_get(struct cli *cli, const struct client_request *request, const char *list,
		    json_t *all, char **next, struct err *e)
{
	struct client_response response;

	*next = NULL;
	if (client_send(cli, request, &response, e))
		return -1;
	json_t *page = output_load(buf_str(&response.body), e);
	const char *link = json_string_value(json_object_get(page, "nextLink"));
	int rc = page ? 0 : -1;

	client_response_done(&response);
	if (page && json_array_extend(all, json_object_get(page, list)))
		rc = err_set(e, ERR_PROTOCOL, "the answer has no list '%s'", list);
	if (!rc && link && *link) {
		rc = link_check(request->url, link, e);
		*next = rc ? NULL : str_dup(str_from(link));
	}
	json_decref(page);
	return rc;
}

json_t *client_get_all(struct cli *cli, enum client_plane plane, const char *url, const char *list,
		       struct err *e)
{
	json_t *all = json_array();
	char *next = str_dup(str_from(url));
	int rc = 0;

	for (int pages = 0; next && !rc; pages++) {
		OWNED_MEM char *page_url = take_ptr(next);
		struct client_request request = { .plane = plane,
						  .method = "GET",
						  .url = page_url };

		if (pages == PAGES_MAX)
			rc = err_set(e, ERR_PROTOCOL, "more than %d pages", PAGES_MAX);
		else
			rc = page_get(cli, &request, list, all, &next, e);
	}
	if (!rc)
		return all;
	json_decref(all);
	return NULL;
}

int client_print_all(struct cli *cli, enum client_plane plane, const char *url, const char *list,
		     struct err *e)
{
	json_t *all = client_get_all(cli, plane, url, list, e);
	int rc = all ? output_json(&cli->output, all, e) : -1;

	json_decref(all);
	return rc;
}
