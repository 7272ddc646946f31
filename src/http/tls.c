/* SPDX-License-Identifier: Apache-2.0 */
#include "http/internal.h"

#include "base/clock.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define CHAIN_MAX 16

/* Connections keep the pair that they have begun with. */
struct tls_pair {
	gnutls_certificate_credentials_t cred;
	unsigned refs;
	time_t expires;
};

struct http_tls {
	struct tls_pair *pair;
};

static void pair_unref(struct tls_pair *p)
{
	if (!p || --p->refs)
		return;
	gnutls_certificate_free_credentials(p->cred);
	free(p);
}

static int read_chain(const gnutls_datum_t *pem, struct tls_pair *p, struct err *e)
{
	gnutls_x509_crt_t chain[CHAIN_MAX];
	unsigned count = CHAIN_MAX;
	int rc = gnutls_x509_crt_list_import(chain, &count, pem, GNUTLS_X509_FMT_PEM,
					     GNUTLS_X509_CRT_LIST_IMPORT_FAIL_IF_EXCEED |
						     GNUTLS_X509_CRT_LIST_FAIL_IF_UNSORTED);

	if (rc == GNUTLS_E_SHORT_MEMORY_BUFFER)
		return err_set(e, ERR_INVALID, "the chain has more than %d certificates",
			       CHAIN_MAX);
	if (rc == GNUTLS_E_CERTIFICATE_LIST_UNSORTED)
		return err_set(
			e, ERR_INVALID,
			"the chain is not in order: the server's certificate comes first, each "
			"next one has signed the one before");
	if (rc <= 0)
		return err_set(e, ERR_INVALID, "no certificate in PEM form: %s",
			       gnutls_strerror(rc));
	p->expires = gnutls_x509_crt_get_expiration_time(chain[0]);
	for (int i = 0; i < rc; i++)
		gnutls_x509_crt_deinit(chain[i]);
	return 0;
}

static int check_key(const gnutls_datum_t *pem, struct err *e)
{
	gnutls_x509_privkey_t key;
	int rc = gnutls_x509_privkey_init(&key);

	if (rc == 0) {
		rc = gnutls_x509_privkey_import2(key, pem, GNUTLS_X509_FMT_PEM, NULL, 0);
		gnutls_x509_privkey_deinit(key);
	}
	if (rc == GNUTLS_E_DECRYPTION_FAILED)
		return err_set(e, ERR_INVALID, "the key is encrypted; give one without passphrase");
	if (rc < 0)
		return err_set(e, ERR_INVALID, "no private key in PEM form: %s",
			       gnutls_strerror(rc));
	return 0;
}

static struct tls_pair *pair_new(const char *certificate_pem, const char *key_pem, struct err *e)
{
	struct str cert = str_from(certificate_pem);
	struct str key = str_from(key_pem);
	gnutls_datum_t cert_datum = { (unsigned char *)cert.ptr, (unsigned)cert.len };
	gnutls_datum_t key_datum = { (unsigned char *)key.ptr, (unsigned)key.len };
	struct tls_pair *p = calloc(1, sizeof(*p));

	if (!p || gnutls_certificate_allocate_credentials(&p->cred) < 0) {
		free(p);
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	p->refs = 1;
	if (read_chain(&cert_datum, p, e) == 0 && check_key(&key_datum, e) == 0) {
		int rc = gnutls_certificate_set_x509_key_mem(p->cred, &cert_datum, &key_datum,
							     GNUTLS_X509_FMT_PEM);

		if (rc >= 0)
			return p;
		if (rc == GNUTLS_E_CERTIFICATE_KEY_MISMATCH)
			err_set(e, ERR_INVALID, "the key does not belong to the certificate");
		else
			err_set(e, ERR_INVALID, "certificate and key: %s", gnutls_strerror(rc));
	}
	pair_unref(p);
	return NULL;
}

struct http_tls *http_tls_new(const char *certificate_pem, const char *key_pem, struct err *e)
{
	struct http_tls *t = calloc(1, sizeof(*t));

	if (!t) {
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	t->pair = pair_new(certificate_pem, key_pem, e);
	if (!t->pair) {
		free(t);
		return NULL;
	}
	return t;
}

int http_tls_reload(struct http_tls *t, const char *certificate_pem, const char *key_pem,
		    struct err *e)
{
	struct tls_pair *p = pair_new(certificate_pem, key_pem, e);

	if (!p)
		return -1;
	pair_unref(t->pair);
	t->pair = p;
	return 0;
}

int64_t http_tls_expires(const struct http_tls *t)
{
	return t->pair->expires;
}

void http_tls_free(struct http_tls *t)
{
	if (!t)
		return;
	pair_unref(t->pair);
	free(t);
}

/* ---- connections ---- */

/* GnuTLS: the client's last word of the handshake has come. */
static int on_finished(gnutls_session_t session, unsigned type, unsigned when, unsigned incoming,
		       const gnutls_datum_t *msg)
{
	struct MHD_Connection *conn = gnutls_session_get_ptr(session); /* MHD puts it there */

	(void)type;
	(void)when;
	(void)msg;
	struct peer *p = conn ? peer_of(conn) : NULL;

	if (incoming && p) {
		p->shook_hands = true;
		p->since_ms = clock_mono_ms();
		peer_awaits_head(p);
	}
	return 0;
}

/*
 * MHD 0.9.75 would run the handshake of a client that says nothing over and over: it takes a
 * connection in its handshake for ready to be read. SECURITY: one silent client would keep a
 * processor busy. So between what the client sends such connections are suspended, and watched
 * here.
 */
static void on_hello(void *arg, int events)
{
	struct peer *p = arg;

	(void)events;
	loop_watch_set(p->hello, 0);
	p->waits = false;
	list_add_tail(&p->server->handshakes, &p->handshake);
	MHD_resume_connection(p->conn);
	server_pump(p->server);
}

static void rest(struct peer *p)
{
	if (!p->hello)
		p->hello = loop_watch_new(p->fd, on_hello, p);
	if (!p->hello) {
		shutdown(p->fd, SHUT_RDWR); /* without memory it ends */
		return;
	}
	p->waits = true;
	MHD_suspend_connection(p->conn);
	loop_watch_set(p->hello, gnutls_record_get_direction(p->tls) ? LOOP_WRITE : LOOP_READ);
}

void tls_rest(struct http_server *s)
{
	list_each(&s->handshakes, struct peer, handshake, p) {
		list_remove(&p->handshake);
		if (!p->shook_hands) {
			rest(p);
			continue;
		}
		loop_watch_free(p->hello);
		p->hello = NULL;
	}
}

void tls_rouse(struct http_server *s)
{
	list_each(&s->peers, struct peer, node, p) {
		if (p->waits)
			MHD_resume_connection(p->conn);
		p->waits = false;
	}
}

int tls_begin(struct peer *p, const struct http_tls *t, struct MHD_Connection *conn,
	      gnutls_session_t session)
{
	static const char name[] = "http/1.1";
	const gnutls_datum_t protocol = { (unsigned char *)name, sizeof(name) - 1 };

	p->tls = session;
	p->conn = conn;
	p->pair = t->pair;
	list_add_tail(&p->server->handshakes, &p->handshake);
	p->pair->refs++;
	gnutls_handshake_set_hook_function(session, GNUTLS_HANDSHAKE_FINISHED, GNUTLS_HOOK_POST,
					   on_finished);
	/* SECURITY: a client that offers only other protocols is refused, so that no bytes of
	 * theirs are read as HTTP. */
	return gnutls_alpn_set_protocols(session, &protocol, 1, GNUTLS_ALPN_MANDATORY) |
	       gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, p->pair->cred);
}

void tls_end(struct peer *p)
{
	pair_unref(p->pair);
	loop_watch_free(p->hello);
	list_remove(&p->handshake);
	p->pair = NULL;
	p->hello = NULL;
	p->tls = NULL;
}

ssize_t peer_send(struct peer *p, const void *data, size_t len)
{
	if (!p->tls)
		return send(p->fd, data, len, MSG_NOSIGNAL | MSG_DONTWAIT);
	ssize_t n = gnutls_record_send(p->tls, data, len);

	if (n >= 0)
		return n;
	errno = n == GNUTLS_E_AGAIN ? EAGAIN : n == GNUTLS_E_INTERRUPTED ? EINTR : EPIPE;
	return -1;
}

void peer_end_of_file(struct peer *p)
{
	if (p->tls)
		gnutls_bye(p->tls, GNUTLS_SHUT_WR);
	shutdown(p->fd, SHUT_WR);
}
