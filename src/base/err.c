/* SPDX-License-Identifier: Apache-2.0 */
#include "base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const struct {
	int http;
	const char *api;
	int exit;
} rows[] = {
#define X(code, http, api, exit) [code] = { http, api, exit },
	ERR_TABLE(X)
#undef X
};

int err_set(struct err *e, enum err_code code, const char *fmt, ...)
{
	if (!e)
		return -1;
	va_list ap;

	va_start(ap, fmt);
	e->code = code;
	e->errnum = 0;
	vsnprintf(e->msg, sizeof(e->msg), fmt, ap);
	va_end(ap);
	return -1;
}

int err_sys(struct err *e, const char *fmt, ...)
{
	int saved = errno;

	if (!e)
		return -1;
	va_list ap;

	va_start(ap, fmt);
	e->code = saved == ENOMEM ? ERR_NOMEM : ERR_SYSTEM;
	e->errnum = saved;
	int n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);

	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(e->msg))
		snprintf(e->msg + n, sizeof(e->msg) - (size_t)n, ": %s", strerror(saved));
	errno = saved;
	return -1;
}

int err_wrap(struct err *e, const char *fmt, ...)
{
	if (!e)
		return -1;
	char old[ERR_MSG_MAX];
	va_list ap;

	memcpy(old, e->msg, sizeof(old));
	va_start(ap, fmt);
	int n = vsnprintf(e->msg, sizeof(e->msg), fmt, ap);

	va_end(ap);
	if (n >= 0 && (size_t)n < sizeof(e->msg))
		snprintf(e->msg + n, sizeof(e->msg) - (size_t)n, ": %.*s",
			 (int)(sizeof(e->msg) - (size_t)n), old);
	return -1;
}

int err_http_status(enum err_code code)
{
	return (size_t)code < ERR_CODE_MAX ? rows[code].http : 500;
}

const char *err_api_code(enum err_code code)
{
	return (size_t)code < ERR_CODE_MAX ? rows[code].api : "InternalServerError";
}

int err_exit_status(enum err_code code)
{
	return (size_t)code < ERR_CODE_MAX ? rows[code].exit : 70;
}
