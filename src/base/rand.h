/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * rand: random bytes from the kernel, UUIDs, hexadecimal and base64 text.
 */

#include "base/buf.h"

#include <stdint.h>

/** rand_bytes: never fails (aborts if the kernel has no entropy call, which no supported kernel
 * lacks). */
void rand_bytes(void *buf, size_t len);
uint64_t rand_u64(void);

#define UUID_TEXT_SIZE 37
/** uuid_new: random (version 4) UUID as text. */
const char *uuid_new(char buf[static UUID_TEXT_SIZE]);

/** hex_encode: 2*len characters and a NUL into out. */
void hex_encode(const void *data, size_t len, char *out);
bool hex_decode(struct str text, void *out, size_t out_len);

/** base64: standard alphabet with padding. decode ignores line breaks; false if malformed or too
 * large. */
bool base64_encode(struct buf *out, const void *data, size_t len);
bool base64_decode(struct buf *out, struct str text);
