/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * json_out: writes JSON text straight into a buffer: the replies of the hot path, without a tree in
 * between. Strings must be valid UTF-8; the caller takes care of commas through json_key/json_item.
 */

#include "base/buf.h"

#include <stdint.h>

/** json_str: a quoted, escaped string. */
void json_str(struct buf *b, struct str s);
/** json_key: `,"name":` (no comma right after an opening brace). */
void json_key(struct buf *b, const char *name);
void json_key_str(struct buf *b, const char *name, const char *value);
/** json_key_text: of a view, which may contain NUL characters. */
void json_key_text(struct buf *b, const char *name, struct str value);
void json_key_int(struct buf *b, const char *name, int64_t value);
/** json_key_time: RFC 3339. */
void json_key_time(struct buf *b, const char *name, int64_t wall_us);
/** json_item: a comma unless it is the first item of its array. */
void json_item(struct buf *b);
