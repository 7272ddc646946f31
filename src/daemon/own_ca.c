/* SPDX-License-Identifier: Apache-2.0 */
#include "daemon/own_ca.h"

#include "base/fdio.h"
#include "base/own.h"
#include "base/rand.h"
#include "base/str.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define DAY_S        86400L
#define CA_DAYS      3650L
#define SERVER_DAYS  396L /* 397 with the hour before now */
#define RENEW_DAYS   30L
#define SKEW_S       3600L /* clients' clocks may be behind */
#define PEM_MAX      (64 * 1024)
#define SERIAL_BYTES 16

struct identity_pair {
	X509 *cert;
	EVP_PKEY *key;
};

struct extension {
	int nid;
	const char *value;
};

static const struct extension ca_extensions[] = {
	{ NID_basic_constraints, "critical,CA:TRUE,pathlen:0" },
	{ NID_key_usage, "critical,keyCertSign,cRLSign" },
	{ NID_subject_key_identifier, "hash" },
	{ NID_authority_key_identifier, "keyid:always" },
};

static const struct extension server_extensions[] = {
	{ NID_basic_constraints, "critical,CA:FALSE" },
	{ NID_key_usage, "critical,digitalSignature" },
	{ NID_ext_key_usage, "serverAuth" },
	{ NID_subject_key_identifier, "hash" },
	{ NID_authority_key_identifier, "keyid:always" },
};

static void pair_done(struct identity_pair *p)
{
	X509_free(p->cert);
	EVP_PKEY_free(p->key);
	*p = (struct identity_pair){ NULL, NULL };
}

#define OWNED_PAIR __attribute__((cleanup(pair_done)))

/* ---- files ---- */

static int write_pem(int dir_fd, const char *name, BIO *pem, mode_t mode, struct err *e)
{
	char *data;
	long len = BIO_get_mem_data(pem, &data);

	return fd_write_file(dir_fd, name, data, (size_t)len, mode, e);
}

static int save(int dir_fd, const struct identity_pair *p, const char *cert_name,
		const char *key_name, struct err *e)
{
	BIO *cert = BIO_new(BIO_s_mem());
	BIO *key = BIO_new(BIO_s_secmem());
	int rc;

	if (!cert || !key || !PEM_write_bio_X509(cert, p->cert) ||
	    !PEM_write_bio_PKCS8PrivateKey(key, p->key, NULL, NULL, 0, NULL, NULL))
		rc = err_set(e, ERR_NOMEM, "out of memory");
	else
		rc = write_pem(dir_fd, key_name, key, 0600, e) < 0
			     ? -1
			     : write_pem(dir_fd, cert_name, cert, 0644, e);
	BIO_free(cert);
	BIO_free(key);
	return rc;
}

static BIO *open_pem(int dir_fd, const char *name, struct buf *text)
{
	buf_init(text, PEM_MAX);
	if (fd_read_file(dir_fd, name, PEM_MAX, text, NULL) < 0 || !text->len)
		return NULL;
	return BIO_new_mem_buf(text->ptr, (int)text->len);
}

/* What is not there or is damaged is made anew. */
static void load(int dir_fd, struct identity_pair *p, const char *cert_name, const char *key_name)
{
	struct buf text;
	BIO *bio = open_pem(dir_fd, cert_name, &text);

	if (bio)
		p->cert = PEM_read_bio_X509(bio, NULL, NULL, NULL);
	BIO_free(bio);
	buf_done(&text);
	bio = open_pem(dir_fd, key_name, &text);
	if (bio)
		p->key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
	BIO_free(bio);
	if (text.ptr)
		explicit_bzero(text.ptr, text.cap);
	buf_done(&text);
	if (!p->cert || !p->key || X509_check_private_key(p->cert, p->key) != 1)
		pair_done(p);
}

/* ---- certificates ---- */

static bool ends_soon(const X509 *cert)
{
	time_t then = time(NULL) + RENEW_DAYS * DAY_S;

	return X509_cmp_time(X509_get0_notAfter(cert), &then) <= 0;
}

static bool names_address(X509 *cert, const char *address)
{
	return X509_check_ip_asc(cert, address, 0) == 1;
}

/* Not one that may be listened on, but any. */
static bool is_wildcard(const char *address)
{
	return strcmp(address, "0.0.0.0") == 0 || strcmp(address, "::") == 0;
}

static bool add_extension(X509 *cert, X509V3_CTX *ctx, int nid, const char *value)
{
	X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, ctx, nid, value);
	bool ok = ext && X509_add_ext(cert, ext, -1);

	X509_EXTENSION_free(ext);
	return ok;
}

static bool set_basics(X509 *cert, EVP_PKEY *key, const char *name, long days)
{
	unsigned char serial[SERIAL_BYTES];
	X509_NAME *subject = X509_get_subject_name(cert);

	rand_bytes(serial, sizeof(serial));
	serial[0] = (serial[0] & 0x7f) | 0x40; /* positive, of this length */
	BIGNUM *number = BN_bin2bn(serial, sizeof(serial), NULL);
	bool ok = number && BN_to_ASN1_INTEGER(number, X509_get_serialNumber(cert));

	BN_free(number);
	return ok && X509_set_version(cert, X509_VERSION_3) &&
	       X509_gmtime_adj(X509_getm_notBefore(cert), -SKEW_S) &&
	       X509_gmtime_adj(X509_getm_notAfter(cert), days * DAY_S) &&
	       X509_set_pubkey(cert, key) &&
	       X509_NAME_add_entry_by_txt(subject, "O", MBSTRING_UTF8,
					  (const unsigned char *)"Bivouac", -1, -1, 0) &&
	       X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, (const unsigned char *)name,
					  -1, -1, 0);
}

/* alternatives: NULL for the authority itself, issuer then is p. */
static bool issue(struct identity_pair *p, const struct identity_pair *issuer, const char *name,
		  long days, const char *alternatives, const struct extension *extensions,
		  size_t count)
{
	X509V3_CTX ctx;

	p->key = EVP_EC_gen("P-256");
	p->cert = X509_new();
	if (!p->key || !p->cert || !set_basics(p->cert, p->key, name, days) ||
	    !X509_set_issuer_name(p->cert, X509_get_subject_name(issuer->cert)))
		return false;
	X509V3_set_ctx_nodb(&ctx);
	X509V3_set_ctx(&ctx, issuer->cert, p->cert, NULL, NULL, 0);
	for (size_t i = 0; i < count; i++)
		if (!add_extension(p->cert, &ctx, extensions[i].nid, extensions[i].value))
			return false;
	if (alternatives && !add_extension(p->cert, &ctx, NID_subject_alt_name, alternatives))
		return false;
	return X509_sign(p->cert, issuer->key, EVP_sha256()) > 0;
}

static int ensure_ca(int dir_fd, struct identity_pair *ca, struct err *e)
{
	load(dir_fd, ca, "ca.pem", "ca-key.pem");
	if (ca->cert && !ends_soon(ca->cert))
		return 0;
	pair_done(ca);
	if (!issue(ca, ca, "Bivouac development CA", CA_DAYS, NULL, ca_extensions,
		   ARRAY_LEN(ca_extensions)))
		return err_set(e, ERR_INTERNAL, "making a certificate authority failed");
	return save(dir_fd, ca, "ca.pem", "ca-key.pem", e);
}

static int ensure_server(int dir_fd, const struct identity_pair *ca, const char *address,
			 struct err *e)
{
	OWNED_PAIR struct identity_pair server = { NULL, NULL };
	char names[160] = "DNS:localhost,IP:127.0.0.1,IP:::1";
	const char *also = is_wildcard(address) ? "127.0.0.1" : address;

	load(dir_fd, &server, "server.pem", "server-key.pem");
	if (server.cert && !ends_soon(server.cert) && names_address(server.cert, also) &&
	    X509_verify(server.cert, X509_get0_pubkey(ca->cert)) == 1)
		return 0;
	pair_done(&server);
	if (strcmp(also, "127.0.0.1") != 0 && strcmp(also, "::1") != 0)
		snprintf(names + strlen(names), sizeof(names) - strlen(names), ",IP:%s", also);
	if (!issue(&server, ca, "localhost", SERVER_DAYS, names, server_extensions,
		   ARRAY_LEN(server_extensions)))
		return err_set(e, ERR_INTERNAL, "making a certificate for %s failed", names);
	return save(dir_fd, &server, "server.pem", "server-key.pem", e);
}

int own_ca_ensure(const char *dir, const char *address, struct err *e)
{
	OWNED_PAIR struct identity_pair ca = { NULL, NULL };

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_sys(e, "mkdir %s", dir);
	OWNED_FD int dir_fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (dir_fd < 0)
		return err_sys(e, "open %s", dir);
	if (ensure_ca(dir_fd, &ca, e) < 0 || ensure_server(dir_fd, &ca, address, e) < 0)
		return err_wrap(e, "certificates in %s", dir);
	return 0;
}
