/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * log: one line per event on stderr: time, level, process, message, then key=value pairs in the
 * message.
 *
 * Libraries do not log; request handlers, controllers and main programs do, once per event. Bytes
 * that are not printable are escaped, so that nothing a caller chose can forge a line or move a
 * terminal.
 */

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

void log_init(const char *process, enum log_level min);
void log_msg(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_debug(...) log_msg(LOG_DEBUG, __VA_ARGS__)
#define log_info(...)  log_msg(LOG_INFO, __VA_ARGS__)
#define log_warn(...)  log_msg(LOG_WARN, __VA_ARGS__)
#define log_error(...) log_msg(LOG_ERROR, __VA_ARGS__)
