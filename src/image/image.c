/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image.h"

#include "base/fdio.h"
#include "base/log.h"
#include "base/own.h"
#include "base/recipe.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#define ID_SIZE      65
#define METADATA_MAX (4u << 20)
#define RUNTIMES_MAX 32
#define SUFFIX       ".image-id"
/** As the store keeps it. */
#define CONTAINER_TYPE_SIZE 24

struct installed {
	struct runtime base;
	char *name;
	char id[ID_SIZE];
	char container_type[CONTAINER_TYPE_SIZE];
	char languages[RUNTIME_LANGUAGES_MAX][RECIPE_LANGUAGE_SIZE];
	char *metadata;
};

struct images {
	struct installed of[RUNTIMES_MAX];
	size_t count;
};

static bool is_id(const char *text)
{
	return strspn(text, "0123456789abcdef") == ID_SIZE - 1 && text[ID_SIZE - 1] == '\0';
}

/* A whole small file as a C string on the heap; NULL with the reason. */
static char *read_text(const char *path, size_t max, struct err *e)
{
	struct buf b;

	buf_init(&b, max);
	if (fd_read_file(AT_FDCWD, path, max, &b, e) < 0) {
		buf_done(&b);
		return NULL;
	}
	char *text = buf_take(&b);

	if (!text)
		err_set(e, ERR_NOMEM, "out of memory");
	return text;
}

static int set_container_type(struct installed *r, struct str value, struct err *e)
{
	for (size_t i = 0; i < value.len; i++) {
		char c = value.ptr[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')))
			return err_set(e, ERR_INVALID,
				       "recipe: container_type has other characters than letters "
				       "and digits");
	}
	if (!value.len || !str_copy(value, r->container_type, sizeof(r->container_type)))
		return err_set(e, ERR_INVALID, "recipe: container_type has 1 to %zu characters",
			       sizeof(r->container_type) - 1);
	return 0;
}

static int add_language(struct installed *r, struct str value, struct err *e)
{
	struct str name = recipe_word(&value);
	size_t n = r->base.language_count;

	if (!recipe_language_ok(name) || str_eq(name, STR(RECIPE_TERMINAL)))
		return err_set(e, ERR_INVALID,
			       "recipe: a language's name has 1 to %d lower-case letters, digits "
			       "or '-', and is not '" RECIPE_TERMINAL "'",
			       RECIPE_LANGUAGE_SIZE - 1);
	if (n == RUNTIME_LANGUAGES_MAX)
		return err_set(e, ERR_INVALID, "recipe: more than %d languages",
			       RUNTIME_LANGUAGES_MAX);
	str_copy(name, r->languages[n], sizeof(r->languages[n]));
	if (runtime_has(&r->base, r->languages[n]))
		return err_set(e, ERR_INVALID, "recipe: language '%s' comes twice",
			       r->languages[n]);
	r->base.languages[n] = r->languages[n];
	r->base.language_count++;
	return 0;
}

static int read_recipe(struct installed *r, const char *text, struct err *e)
{
	struct str rest = str_from(text), key, value;

	while (recipe_next(&rest, &key, &value)) {
		int rc = 0;

		if (str_eq(key, STR("container_type")))
			rc = set_container_type(r, value, e);
		else if (str_eq(key, STR("kernel")))
			rc = add_language(r, value, e);
		if (rc < 0)
			return -1;
	}
	if (!r->container_type[0])
		return err_set(e, ERR_INVALID, "recipe: no container_type");
	if (!r->base.language_count)
		return err_set(e, ERR_INVALID, "recipe: no kernel");
	return 0;
}

static void installed_done(struct installed *r)
{
	free(r->name);
	free(r->metadata);
	*r = (struct installed){ 0 };
}

static int load_id(struct installed *r, const char *dir, struct err *e)
{
	OWNED_MEM char *path = str_printf("%s/%s" SUFFIX, dir, r->name);
	OWNED_MEM char *text = path ? read_text(path, 256, e) : NULL;

	if (!text)
		return err_wrap(e, "which image is for %s", r->name);
	text[strcspn(text, "\n")] = '\0';
	if (!is_id(text))
		return err_set(e, ERR_INTERNAL, "%s has no image id", path);
	memcpy(r->id, text, ID_SIZE);
	return 0;
}

static int load_content(struct installed *r, const char *images_dir, struct err *e)
{
	OWNED_MEM char *root = str_printf("%s/%s/rootfs", images_dir, r->id);
	OWNED_MEM char *metadata = str_printf("%s/%s/metadata.json", images_dir, r->id);
	OWNED_MEM char *recipe = str_printf("%s/%s/recipe", images_dir, r->id);
	struct stat st;

	if (!root || !metadata || !recipe || stat(root, &st) < 0)
		return err_set(e, ERR_NOT_FOUND,
			       "the %s image of this version (%.16s…) is not in %s; build it with: "
			       "bivouac image build --runtime %s",
			       r->name, r->id, images_dir, r->name);
	OWNED_MEM char *text = read_text(recipe, RECIPE_MAX, e);

	if (!text || read_recipe(r, text, e) < 0)
		return err_wrap(e, "image %.16s of runtime %s", r->id, r->name);
	r->metadata = read_text(metadata, METADATA_MAX, e);
	return r->metadata ? 0 : -1;
}

static const struct installed *of_type(const struct images *im, const char *container_type)
{
	for (size_t i = 0; i < im->count; i++)
		if (strcmp(im->of[i].container_type, container_type) == 0)
			return &im->of[i];
	return NULL;
}

static int load(struct images *im, const char *dir, struct str name, const char *images_dir,
		struct err *e)
{
	if (im->count == RUNTIMES_MAX)
		return err_set(e, ERR_QUOTA, "more than %d runtimes", RUNTIMES_MAX);
	struct installed *r = &im->of[im->count];

	r->name = str_dup(name);
	if (!r->name)
		return err_set(e, ERR_NOMEM, "out of memory");
	if (load_id(r, dir, e) < 0 || load_content(r, images_dir, e) < 0) {
		installed_done(r);
		return -1;
	}
	const struct installed *other = of_type(im, r->container_type);

	if (other) {
		err_set(e, ERR_CONFLICT, "runtime %s: container type %s is that of runtime %s",
			r->name, r->container_type, other->name);
		installed_done(r);
		return -1;
	}
	r->base.name = r->name;
	r->base.container_type = r->container_type;
	r->base.id = r->id;
	r->base.metadata = r->metadata;
	im->count++;
	return 0;
}

static bool loaded(const struct images *im, struct str name)
{
	for (size_t i = 0; i < im->count; i++)
		if (str_eq(str_from(im->of[i].name), name))
			return true;
	return false;
}

/* In order of their names, so that a conflict always ends the same way. */
static void load_all(struct images *im, const char *dir, const char *images_dir)
{
	struct dirent **entries = NULL;
	int count = scandir(dir, &entries, NULL, alphasort);

	for (int i = 0; i < count; i++) {
		struct str name = str_from(entries[i]->d_name);
		struct err e = ERR_INIT;

		if (name.len > sizeof(SUFFIX) - 1 && name.ptr[0] != '.' &&
		    strcmp(name.ptr + name.len - (sizeof(SUFFIX) - 1), SUFFIX) == 0) {
			name.len -= sizeof(SUFFIX) - 1;
			if (!loaded(im, name) && load(im, dir, name, images_dir, &e) < 0)
				log_info("%s", e.msg);
		}
		free(entries[i]);
	}
	free(entries);
}

int images_open(const char *binary_dir, const char *images_dir, struct images **ret, struct err *e)
{
	struct images *im = calloc(1, sizeof(*im));

	if (!im)
		return err_set(e, ERR_NOMEM, "out of memory");
	if (load(im, binary_dir, STR("python"), images_dir, e) < 0) {
		images_close(im);
		return -1;
	}
	load_all(im, binary_dir, images_dir);
	load_all(im, images_dir, images_dir);
	*ret = im;
	return 0;
}

void images_close(struct images *im)
{
	if (!im)
		return;
	for (size_t i = 0; i < im->count; i++)
		installed_done(&im->of[i]);
	free(im);
}

const struct runtime *images_runtime(const struct images *im, const char *container_type)
{
	const struct installed *r = of_type(im, container_type);

	return r ? &r->base : NULL;
}

size_t images_count(const struct images *im)
{
	return im->count;
}

const struct runtime *images_at(const struct images *im, size_t n)
{
	return n < im->count ? &im->of[n].base : NULL;
}

bool runtime_has(const struct runtime *r, const char *language)
{
	for (size_t i = 0; i < r->language_count; i++)
		if (strcmp(r->languages[i], language) == 0)
			return true;
	return false;
}
