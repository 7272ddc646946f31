/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * zygotes: the jailer's children that start kernels, one per image; a second one where an image
 * that embeds an interpreter has other languages, or terminals, too.
 *
 * A zygote lives in its own mount, network, IPC and UTS namespaces, in the image's root, with the
 * three capabilities that entering a sandbox takes. It is started on first use and again when it
 * ends; requests that come while it loads are sent to it at once and wait in its socket.
 */

#include "base/jailer_proto.h"
#include "base/list.h"
#include "base/map.h"
#include "jailer/zygote_proto.h"

#include <sys/types.h>

#include <stdbool.h>

/** Which program: the word in <images>/<id>/zygote. */
enum zygote_kind {
	ZYGOTE_EXEC,   /* bivouac-zygote-exec: starts programs */
	ZYGOTE_PYTHON, /* bivouac-zygote-python: an embedded interpreter */
	ZYGOTE_KINDS,
};

struct zygote {
	struct list node;
	enum zygote_kind kind;
	char image[JAILER_IMAGE_SIZE];
	char template[300];
	/* Of the image's recipe: which language is forked from the embedded interpreter, and
	 * whether it is the first. Everything else is the launcher's. */
	char embedded[JAILER_LANGUAGE_SIZE];
	bool embedded_first;
	struct zygote *launcher; /* ZYGOTE_EXEC, on the same template; NULL: we are it */
	pid_t pid;
	int sock;     /* non-blocking, -1: not running */
	int listener; /* of its filter, until the caller of zygote_recv() has taken it; -1 none */
	bool loaded;
	int failures; /* in a row, without having loaded */
	int64_t retry_at_ms;
};

struct zygote_config {
	int images_dfd; /* <image>/rootfs, recipe and zygote below it */
	const char *run_dir;
	int binary_fds[ZYGOTE_KINDS]; /* sealed */
	int zygote_filter_fd;         /* SECCOMP_ZYGOTE or SECCOMP_ZYGOTE_NOTIFY */
	int rest_filter_fd;           /* SECCOMP_REST */
	bool notify;                  /* SECCOMP_ZYGOTE_NOTIFY */
};

/** zygote_prepare: mounts the image's template; the zygote is not started yet. NULL on error. */
struct zygote *zygote_prepare(const struct zygote_config *config, const char *image, struct err *e);
/** zygote_for: which of an image's zygotes starts kernels of a language. */
struct zygote *zygote_for(struct zygote *z, const char *language);
void zygote_free(struct zygote *z); /* accepts NULL; kills it */
int zygote_start(const struct zygote_config *config, struct zygote *z, struct err *e);
int zygote_send(struct zygote *z, const struct zygote_request *rq, const int *fds, size_t fd_count,
		struct err *e);
/** zygote_recv: 1 a reply, 0 nothing yet, -1 the zygote has ended: stop watching, zygote_ended().
 */
int zygote_recv(struct zygote *z, struct zygote_reply *ret);
/** zygote_ended: reaps it (kills it if need be) and closes its socket. */
void zygote_ended(struct zygote *z);
