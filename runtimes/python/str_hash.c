/* SPDX-License-Identifier: Apache-2.0 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "str_hash.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

/* Exported by libpython for its own modules: SipHash under the interpreter's secret. */
extern Py_hash_t _Py_HashBytes(const void *, Py_ssize_t);

static struct {
	uint64_t *slots; /* open addressing, 0 is empty; hashes of text are never 0 but for "" */
	size_t mask;
	size_t len;
	bool reseeded; /* in a kernel: the table is complete and only read */
	uint64_t key[2];
} known;

static bool known_has(uint64_t h)
{
	for (size_t i = h & known.mask; known.slots[i]; i = (i + 1) & known.mask)
		if (known.slots[i] == h)
			return true;
	return false;
}

static void known_add(uint64_t h);

static void known_grow(void)
{
	uint64_t *old = known.slots;
	size_t count = old ? known.mask + 1 : 0;
	size_t want = count ? count * 2 : 1 << 16;

	known.slots = calloc(want, sizeof(uint64_t));
	if (!known.slots)
		abort();
	known.mask = want - 1;
	known.len = 0;
	for (size_t i = 0; i < count; i++)
		if (old[i])
			known_add(old[i]);
	free(old);
}

static void known_add(uint64_t h)
{
	if (!known.slots || known.len * 2 > known.mask)
		known_grow();
	for (size_t i = h & known.mask;; i = (i + 1) & known.mask) {
		if (known.slots[i] == h)
			return;
		if (!known.slots[i]) {
			known.slots[i] = h;
			known.len++;
			return;
		}
	}
}

static uint64_t rotl(uint64_t x, int b)
{
	return (x << b) | (x >> (64 - b));
}

#define SIP_ROUND                                                                                  \
	do {                                                                                       \
		a += b, b = rotl(b, 13) ^ a, a = rotl(a, 32);                                      \
		c += d, d = rotl(d, 16) ^ c;                                                       \
		a += d, d = rotl(d, 21) ^ a;                                                       \
		c += b, b = rotl(b, 17) ^ c, c = rotl(c, 32);                                      \
	} while (0)

/* SipHash-1-3 under the session's key, the algorithm CPython uses. */
static Py_hash_t session_hash(const void *data, size_t len)
{
	const unsigned char *p = data;
	uint64_t a = known.key[0] ^ 0x736f6d6570736575ULL, b = known.key[1] ^ 0x646f72616e646f6dULL;
	uint64_t c = known.key[0] ^ 0x6c7967656e657261ULL, d = known.key[1] ^ 0x7465646279746573ULL;
	uint64_t tail = (uint64_t)len << 56;

	for (; len >= 8; p += 8, len -= 8) {
		uint64_t m;

		memcpy(&m, p, 8);
		d ^= m;
		SIP_ROUND;
		a ^= m;
	}
	for (size_t i = 0; i < len; i++)
		tail |= (uint64_t)p[i] << (8 * i);
	d ^= tail;
	SIP_ROUND;
	a ^= tail;
	c ^= 0xff;
	SIP_ROUND;
	SIP_ROUND;
	SIP_ROUND;
	Py_hash_t h = (Py_hash_t)(a ^ b ^ c ^ d);

	return h == -1 ? -2 : h;
}

static Py_hash_t str_hash(PyObject *self)
{
	PyASCIIObject *ascii = (PyASCIIObject *)self;

	if (ascii->hash != -1)
		return ascii->hash;
	const void *data = PyUnicode_DATA(self);
	size_t len = (size_t)(PyUnicode_GET_LENGTH(self) * PyUnicode_KIND(self));
	Py_hash_t h = _Py_HashBytes(data, (Py_ssize_t)len);

	if (h && !known.reseeded)
		known_add((uint64_t)h);
	else if (h && !known_has((uint64_t)h))
		h = session_hash(data, len);
	ascii->hash = h;
	return h;
}

void str_hash_install(void)
{
	PyUnicode_Type.tp_hash = str_hash;
}

void str_hash_reseed(void)
{
	if (!known.slots)
		known_grow();
	if (getrandom(known.key, sizeof(known.key), 0) != (ssize_t)sizeof(known.key))
		abort();
	known.reseeded = true;
}
