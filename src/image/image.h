/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * image: the runtimes that are installed: which image serves a container type, and what is in it.
 *
 * Images are built beforehand (`bivouac image build`) as <images>/<id>/rootfs, where id is a hash
 * over everything that makes the image; beside it lie its recipe and metadata.json. Which id
 * belongs to this build of the daemon is written down beside its program (<runtime>.image-id), so
 * that two versions on one machine do not mix. Runtimes that did not come with Bivouac have theirs
 * in the directory of images, written when they are built.
 *
 * The recipe (docs/runtimes.md) is root's: it says the container type and the languages.
 */

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

#define RUNTIME_LANGUAGES_MAX 8

struct runtime {
	const char *name;                             /* of its folder: "python" */
	const char *container_type;                   /* "PythonLTS" */
	const char *id;                               /* content id of the image */
	const char *metadata;                         /* JSON text of GET metadata */
	const char *languages[RUNTIME_LANGUAGES_MAX]; /* first: that of the default context */
	size_t language_count;
};

struct images;

/**
 * images_open: reads what is installed below images_dir for the programs in binary_dir. A runtime
 * whose image is not built is none, which is said in the log; the Python one must be there.
 */
int images_open(const char *binary_dir, const char *images_dir, struct images **ret, struct err *e);
void images_close(struct images *i); /* accepts NULL */
/** images_runtime: for a container type; NULL if there is none. */
const struct runtime *images_runtime(const struct images *i, const char *container_type);
size_t images_count(const struct images *i);
const struct runtime *images_at(const struct images *i, size_t n);
/** runtime_has: whether it has a language. */
bool runtime_has(const struct runtime *r, const char *language);
