/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * own_ca: the certificate authority of `--dev`, and the server certificate that it signs, so that
 * clients can verify TLS without anybody having bought a certificate.
 *
 * In DIR: ca.pem, ca-key.pem, server.pem, server-key.pem (ECDSA P-256, keys readable by their owner
 * only). The CA lives ten years and is kept over restarts; clients trust ca.pem. The server's
 * certificate lives 396 days, as strict clients take no longer ones, and is renewed with less than
 * 30 days left, or when it does not name the address. SECURITY: made by the daemon's user in the
 * daemon's own directory; whoever can read ca-key.pem can be any server for the clients that trust
 * the CA, so it is for development.
 */

#include "base/buf.h"
#include "base/err.h"

/** own_ca_ensure: makes what is missing or ends soon in dir (itself made if absent); address: what
 * the server listens on. */
int own_ca_ensure(const char *dir, const char *address, struct err *e);
