/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The main of a fuzz target in builds without libFuzzer: feeds the target an empty input and then
 * every file of the corpus directories that are given.
 */

#include "base/fdio.h"
#include "base/own.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>

#define INPUT_MAX (16u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A block of exactly the input's size: ASan sees any read beyond it. */
static void feed(struct str input)
{
	OWNED_MEM uint8_t *exact = malloc(input.len);

	if (!exact && input.len)
		abort();
	if (input.len)
		memcpy(exact, input.ptr, input.len);
	LLVMFuzzerTestOneInput(exact, input.len);
}

/* Returns how many files it has fed, -1 if one cannot be read. */
static int feed_directory(const char *path)
{
	DIR *dir = opendir(path);
	int count = 0;

	if (!dir) {
		perror(path);
		return -1;
	}
	for (struct dirent *d; (d = readdir(dir));) {
		struct err e = ERR_INIT;
		struct buf input;

		if (d->d_name[0] == '.')
			continue;
		buf_init(&input, INPUT_MAX);
		if (fd_read_file(dirfd(dir), d->d_name, INPUT_MAX, &input, &e) < 0) {
			fprintf(stderr, "%s/%s: %s\n", path, d->d_name, e.msg);
			exit(1);
		}
		/* Which input it was, when the target ends the process. */
		fprintf(stderr, "%s\n", d->d_name);
		feed(buf_str(&input));
		buf_done(&input);
		count++;
	}
	closedir(dir);
	return count;
}

int main(int argc, char **argv)
{
	feed((struct str){ NULL, 0 });
	for (int i = 1; i < argc; i++) {
		if (feed_directory(argv[i]) <= 0) {
			fprintf(stderr, "%s: no corpus\n", argv[i]);
			return 1;
		}
	}
	return 0;
}
