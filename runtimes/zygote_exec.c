/* SPDX-License-Identifier: Apache-2.0 */

/*
 * bivouac-zygote-exec: starts kernels and terminals that are programs of their own (launch.h). Its
 * few pages are what a fork copies; so also images with an embedded interpreter have one, for
 * everything that is not forked from that interpreter.
 *
 * bivouac-zygote-exec --check-recipe FILE says what it would not take of a recipe; build-image.sh
 * asks, so that no image is built that cannot run.
 */

#include "base/fdio.h"
#include "launch.h"
#include "zygote.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define RECIPE "/opt/bivouac/recipe"

static struct launch_plan plan;

static int read_recipe(const char *path, struct err *e)
{
	struct buf text;

	buf_init(&text, RECIPE_MAX);
	int rc = fd_read_file(AT_FDCWD, path, RECIPE_MAX, &text, e);

	if (rc == 0)
		rc = launch_parse(&plan, buf_str(&text), e);
	buf_done(&text);
	return rc;
}

static int load(struct err *e)
{
	return read_recipe(RECIPE, e);
}

static int check_recipe(const char *path)
{
	struct err e = ERR_INIT;

	if (read_recipe(path, &e) == 0)
		return 0;
	fprintf(stderr, "%s\n", e.msg);
	return err_exit_status(e.code);
}

static int check(const struct zygote_request *rq, struct err *e)
{
	return launch_find(&plan, rq->language, e) ? 0 : -1;
}

static int kernel(const struct zygote_request *rq)
{
	return launch_run(&plan, rq->language, ZYGOTE_KERNEL_FD);
}

int main(int argc, char **argv)
{
	static const struct zygote_ops ops = { .load = load, .check = check, .kernel = kernel };

	if (argc == 3 && strcmp(argv[1], "--check-recipe") == 0)
		return check_recipe(argv[2]);
	return zygote_main(argc, argv, &ops);
}
