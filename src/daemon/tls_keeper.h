/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * tls_keeper: the protocol between bivouacd and bivouac-tls-keeper, which stays root and opens the
 * two files of --tls-certificate and --tls-key anew for each request.
 *
 * The daemon cannot: it sees an empty root, and its user may not read the key. Keeping descriptors
 * of the directories would not do either: certbot's names are symbolic links into other
 * directories. SECURITY: a request is one byte without meaning, the names are arguments of the
 * program: a daemon that was taken over gets by it what it has already, the key it serves with.
 * The keeper reads nothing else from the daemon, gives read-only descriptors of regular files, and
 * can do nothing but that (its seccomp filter; of root's capabilities it keeps the one to read).
 *
 * It ends with its socket (descriptor 3).
 */

#include <stdint.h>

enum { TLS_KEEPER_CERTIFICATE, TLS_KEEPER_KEY, TLS_KEEPER_FILES };

#define TLS_KEEPER_FD       3
#define TLS_KEEPER_FILE_MAX (1024 * 1024)

/** Reply: with errnum 0 two descriptors come along, certificate first. */
struct tls_keeper_reply {
	int32_t errnum;
	int32_t which; /* file that could not be opened */
};
