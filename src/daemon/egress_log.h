/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * egress_log: STATE/egress.jsonl, one line per record of what connected sessions do on the network;
 * at its size limit it becomes egress.jsonl.1, whose predecessor goes. Never fails its caller: what
 * cannot be written (a full disk) is lost, which is logged once until it works again.
 */

#include <stddef.h>
#include <stdint.h>

/** egress_log_open: dir is borrowed; max 0: keeps no file. */
void egress_log_open(const char *dir, uint64_t max_bytes);
void egress_log_write(const char *line, size_t len);
void egress_log_close(void);
