/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * image: which image serves a container type, and what is in it.
 *
 * Images are built beforehand (`bivouac image build`) as <images>/<id>/rootfs, where id is a hash
 * over everything that makes the image. Which id belongs to this build of the daemon is written
 * down beside its program
 * (<runtime>.image-id), so that two versions on one machine do not mix.
 */

#include "base/err.h"

struct images;

/** images_open: reads the ids in binary_dir and checks that those images exist below images_dir. */
int images_open(const char *binary_dir, const char *images_dir, struct images **ret, struct err *e);
void images_close(struct images *i); /* accepts NULL */
/** images_id: for a container type (PythonLTS); NULL if there is none. */
const char *images_id(const struct images *i, const char *container_type);
/** images_metadata: JSON text of GET metadata. */
const char *images_metadata(const struct images *i, const char *container_type);
