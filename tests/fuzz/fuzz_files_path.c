/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names of files: a directory, a NUL, a name. A path that is accepted is relative, has no empty,
 * "." or ".." part, is UTF-8 without control characters, and stays as it is when taken again.
 */
#include "api/internal.h"
#include "base/own.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_path(const char *path)
{
	assert(strlen(path) <= AGENT_PATH_MAX && path[0] != '/');
	assert(utf8_valid(str_from(path)));
	for (const char *p = path; *p; p++)
		assert((unsigned char)*p >= 0x20 && *p != 0x7f && *p != '\\');
	for (const char *part = path; *part;) {
		size_t len = strcspn(part, "/");
		struct str s = { part, len };

		assert(len > 0 && len <= 255 && !str_eq(s, STR(".")) && !str_eq(s, STR("..")));
		part += len;
		assert(*part != '/' || part[1] != '\0');
		part += *part == '/';
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data;
	const char *mark = size ? memchr(text, 0, size) : NULL;
	struct str directory = { text, mark ? (size_t)(mark - text) : 0 };
	struct str name = mark ? (struct str){ mark + 1, size - directory.len - 1 }
			       : (struct str){ text, size };
	char path[AGENT_PATH_MAX + 1];
	char again[AGENT_PATH_MAX + 1];
	struct err e = ERR_INIT;

	if (files_path(directory, name, path, &e) < 0) {
		assert(e.code == ERR_INVALID && e.msg[0]);
	} else {
		check_path(path);
		if (strlen(path) < AGENT_PATH_MAX - 1) {
			assert(files_path(STR(""), str_from(path), again, &e) == 0);
			assert(strcmp(path, again) == 0);
		}
	}
	assert(strchr(files_content_type(name), '/'));
	return 0;
}
