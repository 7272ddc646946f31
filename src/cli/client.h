/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * client: requests to ARM and to a pool's data plane, over libcurl, with bearer tokens.
 *
 * Endpoints and tokens come from, in this order: flags, the environment (BIVOUAC_ENDPOINT,
 * BIVOUAC_ARM_ENDPOINT, BIVOUAC_TOKEN, BIVOUAC_ARM_TOKEN), the context file (BIVOUAC_CONTEXT,
 * default /run/bivouac/ready.json: the daemon's ready line). Files stream in constant memory in
 * both directions; other bodies are held up to CLIENT_BODY_MAX. A token only ever goes to the
 * endpoint it was given for: redirects are not followed, and links in answers (operations, next
 * pages) must stay on the endpoint's origin.
 */

#include "base/buf.h"
#include "base/err.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdbool.h>

#define CLIENT_BODY_MAX (64u * 1024 * 1024)
/* The longest path of a file and the longest command have 4096 bytes, 12288 when encoded. */
#define CLIENT_URL_MAX         16384
#define CLIENT_CONTEXT_DEFAULT "/run/bivouac/ready.json"
#define CLIENT_ARM_VERSION     "2025-07-01"
#define CLIENT_DATA_VERSION    "2025-10-02-preview"
#define CLIENT_GROUP_VERSION   "2021-04-01"
#define CLIENT_SUBSCRIPTION    "00000000-0000-0000-0000-000000000000"

struct cli;

enum client_plane { CLIENT_ARM, CLIENT_DATA };

struct client {
	CURL *curl;      /* made by the first request */
	json_t *context; /* the context file; NULL until read or absent */
	bool context_read;
	bool trace;        /* --verbose: method, URL, status */
	bool trace_bodies; /* --debug: JSON bodies as well */
	bool warned_plain;
};

struct client_request {
	enum client_plane plane;
	const char *method;
	const char *url;
	const json_t *body;      /* sent as JSON; NULL: none */
	const char *upload_file; /* sent as multipart part "file", streamed */
	const char *upload_name;
	int sink_fd;          /* > 0: a successful body is written there */
	const char *progress; /* label of a progress bar, NULL: none */
	long timeout_s;       /* 0: CLIENT_TIMEOUT_S; transfers of files only end when they stall */
};

struct client_response {
	long status;
	struct buf body;                /* NUL-terminated */
	char async_url[CLIENT_URL_MAX]; /* Azure-AsyncOperation */
	char location[CLIENT_URL_MAX];
	long retry_after_s; /* -1: not given */
};

#define CLIENT_TIMEOUT_S 300

void client_done(struct client *client);

/**
 * client_send: one exchange. An answer of 400 or more becomes an error "(Code) Message" with the
 * matching err_code; otherwise ret holds the answer and the caller ends it with
 * client_response_done.
 */
int client_send(struct cli *cli, const struct client_request *request, struct client_response *ret,
		struct err *e);
void client_response_done(struct client_response *response);
/**
 * client_connect: connects to the server of a URL and stops there: cli->client.curl sends and
 * receives bytes (curl_easy_send). ret_target: path and query; ret_headers: header lines with Host
 * and the token; both on the heap.
 */
int client_connect(struct cli *cli, enum client_plane plane, const char *url, char **ret_target,
		   char **ret_headers, struct err *e);
/** client_print: one exchange whose answer is printed unchanged, or nothing if it is empty. */
int client_print(struct cli *cli, const struct client_request *request, struct err *e);
/** client_delete: of an ARM resource, waited for unless --no-wait. */
int client_delete(struct cli *cli, const char *url, struct err *e);
/** client_refusal: the error of an answer with this status and body. Returns -1. */
int client_refusal(long status, struct str body, struct err *e);
/** client_wait: polls Azure-AsyncOperation or Location of a long-running answer to its end;
 * replaces the answer. */
int client_wait(struct cli *cli, struct client_response *response, struct err *e);
/** client_get_all: the items of all pages of a list, as one array; next links are followed. */
json_t *client_get_all(struct cli *cli, enum client_plane plane, const char *url, const char *list,
		       struct err *e);
/** client_print_all: the same, printed. */
int client_print_all(struct cli *cli, enum client_plane plane, const char *url, const char *list,
		     struct err *e);

/** URLs. Results are heap strings, NULL if longer than CLIENT_URL_MAX. A %s in fmt is a path
 * segment or query value and comes out percent-encoded. */
char *client_arm_url(struct cli *cli, struct err *e, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
char *client_url_format(const char *base, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/** client_url_too_long: the error of a URL that is NULL; what: the arguments in it. */
int client_url_too_long(const char *what, struct err *e);
const char *client_subscription(struct cli *cli);
/**
 * client_pool_endpoint: where the pool's data plane is: --endpoint or BIVOUAC_ENDPOINT as given,
 * else the pool's properties.poolManagementEndpoint, else (no --name) the context's endpoint.
 */
char *client_pool_endpoint(struct cli *cli, struct err *e);

/** client_error_code: the err_code behind an API error code and an HTTP status. */
enum err_code client_error_code(const char *api_code, long status);
