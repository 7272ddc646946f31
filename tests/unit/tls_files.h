/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * tls_files: certificates for tests of TLS, in a directory that goes with tls_files_done().
 */

#include "base/fdio.h"
#include "daemon/own_ca.h"
#include "http/http.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char tls_dir[] = "/tmp/bivouac-tls-XXXXXX";
static char tls_ca_file[64];

/* A file of the directory; caller frees. */
static char *tls_file(const char *name)
{
	char path[128];
	struct buf b;
	struct err e = ERR_INIT;

	snprintf(path, sizeof(path), "%s/%s", tls_dir, name);
	buf_init(&b, 100000);
	if (fd_read_file(AT_FDCWD, path, 100000, &b, &e) < 0) {
		fprintf(stderr, "%s\n", e.msg);
		abort();
	}
	return buf_take(&b);
}

static inline struct http_tls *tls_files_make(void)
{
	struct err e = ERR_INIT;

	if (!mkdtemp(tls_dir) || own_ca_ensure(tls_dir, "127.0.0.1", &e) < 0) {
		fprintf(stderr, "%s\n", e.msg);
		return NULL;
	}
	snprintf(tls_ca_file, sizeof(tls_ca_file), "%s/ca.pem", tls_dir);
	char *cert = tls_file("server.pem");
	char *key = tls_file("server-key.pem");
	struct http_tls *t = http_tls_new(cert, key, &e);

	if (!t)
		fprintf(stderr, "%s\n", e.msg);
	free(cert);
	free(key);
	return t;
}

static inline void tls_forget(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", tls_dir, name);
	unlink(path);
}

static inline void tls_files_done(void)
{
	static const char *const names[] = { "ca.pem", "ca-key.pem", "server.pem",
					     "server-key.pem" };

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		tls_forget(names[i]);
	rmdir(tls_dir);
}

/* A bound socket and its port. */
static inline int tls_socket(uint16_t *ret_port)
{
	struct sockaddr_in sa;
	socklen_t len = sizeof(sa);
	struct err e = ERR_INIT;
	int fd = -1;

	if (http_bind("127.0.0.1", 0, &fd, &e) < 0 ||
	    getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		abort();
	*ret_port = ntohs(sa.sin_port);
	return fd;
}
