/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * sanitized: SANITIZED is 1 in builds under AddressSanitizer (gcc and clang say it differently),
 * else 0. Its runtime reads /proc and makes system calls of its own, so it cannot live under the
 * filters and in the roots that programs give themselves.
 */

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif
