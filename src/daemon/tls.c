/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/tls.h"

#include "base/fdio.h"
#include "base/log.h"
#include "base/own.h"
#include "daemon/own_ca.h"
#include "daemon/tls_keeper.h"
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define WARN_DAYS 14

struct daemon_tls {
	const char *certificate; /* NULL: our own authority's */
	const char *key;
	char dir[PATH_MAX]; /* of our own authority */
	char address[64];
	int keeper_fd;
	pid_t keeper_pid;
	struct loop_watch *watch;
	struct http_tls *pair;
	bool asked;
};

struct pems {
	struct buf text[TLS_KEEPER_FILES];
};

static void pems_init(struct pems *p)
{
	for (int i = 0; i < TLS_KEEPER_FILES; i++)
		buf_init(&p->text[i], TLS_KEEPER_FILE_MAX);
}

static void pems_done(struct pems *p)
{
	for (int i = 0; i < TLS_KEEPER_FILES; i++) {
		if (p->text[i].ptr)
			explicit_bzero(p->text[i].ptr, p->text[i].cap);
		buf_done(&p->text[i]);
	}
}

int tls_check(const struct options *o, struct err *e)
{
	if (!o->tls_certificate != !o->tls_key)
		return err_set(e, ERR_INVALID,
			       "--tls-certificate and --tls-key go together: --%s is missing",
			       o->tls_key ? "tls-certificate" : "tls-key");
	if (o->tls_certificate && !o->tls_listen)
		return err_set(e, ERR_INVALID,
			       "--tls-certificate is of no use without --tls-listen ADDR:PORT");
	if (o->tls_listen && !o->tls_certificate && !o->dev)
		return err_set(
			e, ERR_INVALID,
			"--tls-listen needs --tls-certificate FILE and --tls-key FILE (with --dev "
			"it makes its own)");
	return 0;
}

static int start_keeper(struct daemon_tls *t, const char *binary_dir, struct err *e)
{
	char path[PATH_MAX];
	const char *const argv[] = { "bivouac-tls-keeper", t->certificate, t->key, NULL };
	int pair[2];

	snprintf(path, sizeof(path), "%s/bivouac-tls-keeper", binary_dir);
	if (access(path, X_OK) < 0)
		return err_sys(e, "%s", path);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return err_sys(e, "socketpair");
	t->keeper_pid = fork();
	if (t->keeper_pid < 0)
		return err_sys(e, "fork");
	if (t->keeper_pid == 0) {
		/* Its socket and our stderr, nothing else. */
		int high = fcntl(pair[1], F_DUPFD_CLOEXEC, 64);

		if (high < 0 || dup3(high, TLS_KEEPER_FD, 0) < 0 ||
		    syscall(SYS_close_range, TLS_KEEPER_FD + 1, ~0U, 0) < 0)
			_exit(71);
		execv(path, (char *const *)argv);
		_exit(71);
	}
	close(pair[1]);
	t->keeper_fd = pair[0];
	return 0;
}

int tls_prepare(const struct options *o, const char *binary_dir, struct daemon_tls **ret,
		struct err *e)
{
	if (!o->tls_listen)
		return 0;
	struct daemon_tls *t = calloc(1, sizeof(*t));

	if (!t)
		return err_set(e, ERR_NOMEM, "out of memory");
	t->certificate = o->tls_certificate;
	t->key = o->tls_key;
	t->keeper_fd = -1;
	*ret = t;
	return t->certificate ? start_keeper(t, binary_dir, e) : 0;
}

/* ---- reading ---- */

static const char *option_of(int which)
{
	return which == TLS_KEEPER_KEY ? "--tls-key" : "--tls-certificate";
}

static const char *file_of(const struct daemon_tls *t, int which)
{
	return which == TLS_KEEPER_KEY ? t->key : t->certificate;
}

static int read_fd(int fd, struct buf *out, struct err *e)
{
	for (;;) {
		if (!buf_reserve(out, 4096))
			return err_set(e, ERR_INVALID, "larger than %d bytes", TLS_KEEPER_FILE_MAX);
		ssize_t n = read(fd, out->ptr + out->len, 4096);

		if (n < 0)
			return err_sys(e, "read");
		if (n == 0)
			return 0;
		out->len += (size_t)n;
		out->ptr[out->len] = '\0';
	}
}

/* The keeper's answer; waits for it unless the socket is non-blocking. */
static int receive(struct daemon_tls *t, struct pems *pems, struct err *e)
{
	struct tls_keeper_reply reply;
	int fds[TLS_KEEPER_FILES] = { -1, -1 };
	size_t count = TLS_KEEPER_FILES;
	ssize_t n = fd_recv(t->keeper_fd, &reply, sizeof(reply), fds, &count);
	int rc = 0;

	if (n != sizeof(reply) || (!reply.errnum && count != TLS_KEEPER_FILES))
		rc = err_set(e, ERR_SYSTEM,
			     "bivouac-tls-keeper has ended; restart bivouacd to read certificates");
	if (rc == 0 && reply.errnum) {
		const char *why = reply.errnum == EFBIG    ? "larger than 1 MiB"
				  : reply.errnum == EINVAL ? "not a regular file"
							   : strerror(reply.errnum);

		rc = err_set(e, ERR_INVALID, "%s %s: %s", option_of(reply.which),
			     file_of(t, reply.which), why);
	}
	for (int i = 0; i < TLS_KEEPER_FILES; i++) {
		if (rc == 0 && read_fd(fds[i], &pems->text[i], e) < 0)
			rc = err_wrap(e, "%s %s", option_of(i), file_of(t, i));
		close_fd(&fds[i]);
	}
	return rc;
}

static int read_own(const struct daemon_tls *t, struct pems *pems, struct err *e)
{
	static const char *const names[] = { "server.pem", "server-key.pem" };

	if (own_ca_ensure(t->dir, t->address, e) < 0)
		return -1;
	OWNED_FD int dir_fd = open(t->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	for (int i = 0; i < TLS_KEEPER_FILES; i++)
		if (fd_read_file(dir_fd, names[i], TLS_KEEPER_FILE_MAX, &pems->text[i], e) < 0)
			return -1;
	return 0;
}

static void report_expiry(const struct daemon_tls *t)
{
	int64_t left = http_tls_expires(t->pair) - time(NULL);

	if (left < 0)
		log_warn(
			"the TLS certificate has expired: clients will refuse it; replace the file and send "
			"SIGHUP");
	else if (left < WARN_DAYS * 86400)
		log_warn("the TLS certificate expires in %d days", (int)(left / 86400));
}

/* Takes the new pair, or keeps the old one. */
static int use(struct daemon_tls *t, const struct pems *pems, struct err *e)
{
	const char *cert = buf_str(&pems->text[TLS_KEEPER_CERTIFICATE]).ptr;
	const char *key = buf_str(&pems->text[TLS_KEEPER_KEY]).ptr;
	int rc;

	if (t->pair) {
		rc = http_tls_reload(t->pair, cert, key, e);
	} else {
		t->pair = http_tls_new(cert, key, e);
		rc = t->pair ? 0 : -1;
	}
	if (rc < 0)
		return t->certificate ? err_wrap(e, "--tls-certificate %s, --tls-key %s",
						 t->certificate, t->key)
				      : err_wrap(e, "certificates in %s", t->dir);
	report_expiry(t);
	return 0;
}

int tls_open(struct daemon_tls *t, const char *state_dir, const char *address, struct err *e)
{
	struct pems pems;
	int rc;

	if (!t)
		return 0;
	snprintf(t->dir, sizeof(t->dir), "%s/tls", state_dir);
	snprintf(t->address, sizeof(t->address), "%s", address);
	pems_init(&pems);
	if (!t->certificate)
		rc = read_own(t, &pems, e);
	else if (send(t->keeper_fd, "r", 1, MSG_NOSIGNAL) != 1)
		rc = err_sys(e, "bivouac-tls-keeper");
	else
		rc = receive(t, &pems, e);
	if (rc == 0)
		rc = use(t, &pems, e);
	pems_done(&pems);
	return rc;
}

/* ---- SIGHUP ---- */

static void finish_reload(struct daemon_tls *t, int rc, const struct pems *pems, struct err *e)
{
	if (rc == 0 && use(t, pems, e) == 0)
		log_info("TLS certificate and key read anew");
	else
		log_error("TLS certificate and key stay as they are: %s", e->msg);
}

static void on_keeper(void *arg, int events)
{
	struct daemon_tls *t = arg;
	struct err e = ERR_INIT;
	struct pems pems;

	(void)events;
	pems_init(&pems);
	int rc = receive(t, &pems, &e);

	char byte;

	if (rc < 0 && recv(t->keeper_fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0)
		loop_watch_set(t->watch, 0); /* it has ended */
	t->asked = false;
	finish_reload(t, rc, &pems, &e);
	pems_done(&pems);
}

int tls_watch(struct daemon_tls *t, struct err *e)
{
	if (!t || t->keeper_fd < 0)
		return 0;
	t->watch = loop_watch_new(t->keeper_fd, on_keeper, t);
	if (!t->watch)
		return err_set(e, ERR_NOMEM, "out of memory");
	loop_watch_set(t->watch, LOOP_READ);
	return 0;
}

void tls_reload(struct daemon_tls *t)
{
	struct err e = ERR_INIT;
	struct pems pems;

	if (!t) {
		log_info("SIGHUP: nothing to read anew without --tls-listen");
	} else if (!t->certificate) {
		pems_init(&pems);
		int rc = read_own(t, &pems, &e);

		finish_reload(t, rc, &pems, &e);
		pems_done(&pems);
	} else if (!t->asked) {
		t->asked = send(t->keeper_fd, "r", 1, MSG_NOSIGNAL | MSG_DONTWAIT) == 1;
		if (!t->asked)
			log_error(
				"TLS certificate and key stay as they are: bivouac-tls-keeper has ended; "
				"restart bivouacd");
	}
}

struct http_tls *tls_pair(const struct daemon_tls *t)
{
	return t ? t->pair : NULL;
}

bool tls_own_ca(const struct daemon_tls *t)
{
	return t && !t->certificate;
}

void tls_close(struct daemon_tls *t)
{
	if (!t)
		return;
	loop_watch_free(t->watch);
	close_fd(&t->keeper_fd); /* its end */
	while (t->keeper_pid > 0 && waitpid(t->keeper_pid, NULL, 0) < 0 && errno == EINTR)
		;
	http_tls_free(t->pair);
	free(t);
}
