/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image.h"

#include "base/fdio.h"
#include "base/own.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#define ID_SIZE      65
#define METADATA_MAX (4u << 20)

static const struct {
	const char *container_type;
	const char *runtime;
} kinds[] = { { "PythonLTS", "python" } };

struct images {
	struct {
		char id[ID_SIZE];
		char *metadata;
	} of[ARRAY_LEN(kinds)];
};

static int load(struct images *im, size_t k, const char *binary_dir, const char *images_dir,
		struct err *e)
{
	OWNED_MEM char *id_path = str_printf("%s/%s.image-id", binary_dir, kinds[k].runtime);
	struct buf b;
	struct stat st;

	buf_init(&b, METADATA_MAX);
	if (!id_path || fd_read_file(AT_FDCWD, id_path, 256, &b, e) < 0) {
		buf_done(&b);
		return err_wrap(e, "which image is for %s", kinds[k].container_type);
	}
	if (b.len < ID_SIZE - 1) {
		buf_done(&b);
		return err_set(e, ERR_INTERNAL, "%s has no image id", id_path);
	}
	memcpy(im->of[k].id, b.ptr, ID_SIZE - 1);
	buf_clear(&b);
	OWNED_MEM char *root = str_printf("%s/%s/rootfs", images_dir, im->of[k].id);
	OWNED_MEM char *metadata = str_printf("%s/%s/metadata.json", images_dir, im->of[k].id);

	if (!root || !metadata || stat(root, &st) < 0) {
		buf_done(&b);
		return err_set(
			e, ERR_NOT_FOUND,
			"the %s image of this version (%.16s…) is not in %s; build it with: bivouac image build",
			kinds[k].runtime, im->of[k].id, images_dir);
	}
	if (fd_read_file(AT_FDCWD, metadata, METADATA_MAX, &b, e) < 0) {
		buf_done(&b);
		return -1;
	}
	im->of[k].metadata = buf_take(&b);
	return 0;
}

int images_open(const char *binary_dir, const char *images_dir, struct images **ret, struct err *e)
{
	struct images *im = calloc(1, sizeof(*im));

	if (!im)
		return err_set(e, ERR_NOMEM, "out of memory");
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
		if (load(im, k, binary_dir, images_dir, e) < 0) {
			images_close(im);
			return -1;
		}
	}
	*ret = im;
	return 0;
}

void images_close(struct images *im)
{
	if (!im)
		return;
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
		free(im->of[k].metadata);
	free(im);
}

static int find(const char *container_type)
{
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
		if (strcmp(kinds[k].container_type, container_type) == 0)
			return (int)k;
	return -1;
}

const char *images_id(const struct images *im, const char *container_type)
{
	int k = find(container_type);

	return k < 0 ? NULL : im->of[k].id;
}

const char *images_metadata(const struct images *im, const char *container_type)
{
	int k = find(container_type);

	return k < 0 ? "{}" : im->of[k].metadata;
}
