/* SPDX-License-Identifier: Apache-2.0 */
#include "base/rand.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

void rand_bytes(void *buf, size_t len)
{
	char *p = buf;

	while (len) {
		ssize_t n = getrandom(p, len, 0);

		if (n <= 0)
			abort();
		p += n;
		len -= (size_t)n;
	}
}

uint64_t rand_u64(void)
{
	uint64_t v;

	rand_bytes(&v, sizeof(v));
	return v;
}

const char *uuid_new(char buf[static UUID_TEXT_SIZE])
{
	unsigned char b[16];

	rand_bytes(b, sizeof(b));
	b[6] = (unsigned char)((b[6] & 0x0f) | 0x40);
	b[8] = (unsigned char)((b[8] & 0x3f) | 0x80);
	snprintf(buf, UUID_TEXT_SIZE,
		 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0], b[1],
		 b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
		 b[15]);
	return buf;
}

void hex_encode(const void *data, size_t len, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *p = data;

	for (size_t i = 0; i < len; i++) {
		out[2 * i] = digits[p[i] >> 4];
		out[2 * i + 1] = digits[p[i] & 15];
	}
	out[2 * len] = '\0';
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

bool hex_decode(struct str text, void *out, size_t out_len)
{
	unsigned char *p = out;

	if (text.len != out_len * 2)
		return false;
	for (size_t i = 0; i < out_len; i++) {
		int hi = hex_value(text.ptr[2 * i]);
		int lo = hex_value(text.ptr[2 * i + 1]);

		if (hi < 0 || lo < 0)
			return false;
		p[i] = (unsigned char)(hi << 4 | lo);
	}
	return true;
}

static const char b64[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

bool base64_encode(struct buf *out, const void *data, size_t len)
{
	const unsigned char *p = data;

	if (!buf_reserve(out, (len + 2) / 3 * 4))
		return false;
	char *q = out->ptr + out->len;

	for (; len >= 3; p += 3, len -= 3) {
		*q++ = b64[p[0] >> 2];
		*q++ = b64[(p[0] & 3) << 4 | p[1] >> 4];
		*q++ = b64[(p[1] & 15) << 2 | p[2] >> 6];
		*q++ = b64[p[2] & 63];
	}
	if (len) {
		unsigned char second = len > 1 ? p[1] : 0;

		*q++ = b64[p[0] >> 2];
		*q++ = b64[(p[0] & 3) << 4 | second >> 4];
		*q++ = len > 1 ? b64[(second & 15) << 2] : '=';
		*q++ = '=';
	}
	*q = '\0';
	out->len = (size_t)(q - out->ptr);
	return true;
}

bool base64_decode(struct buf *out, struct str text)
{
	unsigned int acc = 0;
	int bits = 0;
	size_t pad = 0;
	size_t count = 0;

	for (size_t i = 0; i < text.len; i++) {
		char c = text.ptr[i];

		if (c == '\n' || c == '\r')
			continue;
		count++;
		if (c == '=') {
			if (++pad > 2)
				return false;
			continue;
		}
		const char *at = c ? strchr(b64, c) : NULL;

		if (!at || pad)
			return false;
		acc = acc << 6 | (unsigned int)(at - b64);
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			unsigned char byte = (unsigned char)(acc >> bits);

			if (!buf_add(out, &byte, 1))
				return false;
		}
	}
	return count % 4 == 0;
}
