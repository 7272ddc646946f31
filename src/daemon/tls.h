/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * tls: where the daemon's certificate comes from: the files of --tls-certificate and --tls-key, or
 * with --dev an authority of its own (own_ca.h); and what SIGHUP does.
 *
 * Order: tls_check, as root tls_prepare, after the drop of rights tls_open, with the loop there
 * tls_watch.
 */

#include "daemon/options.h"
#include "http/http.h"

struct daemon_tls;

/** tls_check: that the options fit together. */
int tls_check(const struct options *o, struct err *e);
/** tls_prepare: *ret stays NULL without --tls-listen. Starts bivouac-tls-keeper if files are named.
 */
int tls_prepare(const struct options *o, const char *binary_dir, struct daemon_tls **ret,
		struct err *e);
/** tls_open: reads or makes the certificate. state_dir: as the daemon sees it; address: listened
 * on. */
int tls_open(struct daemon_tls *t, const char *state_dir, const char *address, struct err *e);
int tls_watch(struct daemon_tls *t, struct err *e);
/** tls_reload: the files anew, for connections from now on; failures are logged, the pair in use
 * stays. Accepts NULL. */
void tls_reload(struct daemon_tls *t);
struct http_tls *tls_pair(const struct daemon_tls *t); /* accepts NULL */
/** tls_own_ca: clients are to trust STATE/tls/ca.pem. */
bool tls_own_ca(const struct daemon_tls *t);
void tls_close(struct daemon_tls *t); /* after the server; accepts NULL */
