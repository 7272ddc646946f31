/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * own: scope-bound ownership of heap memory and descriptors.
 *
 * `OWNED_MEM char *p = NULL;` frees p when the scope ends, `OWNED_FD int fd = -1;` closes fd.
 * `take_ptr(p)` and `take_fd(fd)` hand the value over and disarm the variable. Any process may use
 * it.
 */

#include <stdlib.h>
#include <unistd.h>

static inline void own_free_mem(void *p)
{
	free(*(void **)p);
}

static inline void own_close_fd(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

#define OWNED_MEM __attribute__((cleanup(own_free_mem)))
#define OWNED_FD  __attribute__((cleanup(own_close_fd)))

#define take_ptr(p)                                                                                \
	({                                                                                         \
		__typeof__(p) take_ptr_ = (p);                                                     \
		(p) = NULL;                                                                        \
		take_ptr_;                                                                         \
	})

#define take_fd(fd)                                                                                \
	({                                                                                         \
		int take_fd_ = (fd);                                                               \
		(fd) = -1;                                                                         \
		take_fd_;                                                                          \
	})

/** close_fd: closes *fd if open and marks it closed. */
static inline void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

#define ARRAY_LEN(a)                    (sizeof(a) / sizeof((a)[0]))
#define container_of(ptr, type, member) ((type *)((char *)(ptr)-offsetof(type, member)))
