/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image.h"

#include "base/fdio.h"
#include "base/own.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"

#define PYTHON                                                                                     \
	"name = python\ncontainer_type = PythonLTS\nkernel = python @zygote\nkernel = shell /s\n"

static char dir[64], bin[80], shared[80];
static struct images *images;

static void put(const char *where, const char *name, const char *text)
{
	struct err e = ERR_INIT;
	OWNED_MEM char *path = str_printf("%s/%s", where, name);

	if (fd_write_file(AT_FDCWD, path, text, strlen(text), 0644, &e) < 0)
		fail_msg("%s", e.msg);
}

/* An image as build-image.sh leaves it; recipe NULL: none. */
static void install(const char *id, const char *recipe)
{
	struct err e = ERR_INIT;
	OWNED_MEM char *image = str_printf("%s/%s", shared, id);
	OWNED_MEM char *rootfs = str_printf("%s/rootfs", image);

	assert_int_equal(fd_mkdirs(rootfs, 0755, &e), 0);
	put(image, "metadata.json", "{\"of\":1}");
	if (recipe)
		put(image, "recipe", recipe);
}

static int setup(void **state)
{
	struct err e = ERR_INIT;

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/bivouac-image-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(bin, sizeof(bin), "%s/bin", dir);
	snprintf(shared, sizeof(shared), "%s/images", dir);
	assert_int_equal(fd_mkdirs(bin, 0755, &e), 0);
	assert_int_equal(fd_mkdirs(shared, 0755, &e), 0);
	install(A, PYTHON);
	put(bin, "python.image-id", A "\n");
	images = NULL;
	return 0;
}

static int teardown(void **state)
{
	OWNED_MEM char *command = str_printf("rm -rf '%s'", dir);

	(void)state;
	images_close(images);
	return system(command);
}

static void open_images(void)
{
	struct err e = ERR_INIT;

	if (images_open(bin, shared, &images, &e) < 0)
		fail_msg("%s", e.msg);
}

static void test_installed(void **state)
{
	(void)state;
	/* One that came along, one that did not, and one that is not built. */
	install(B, "container_type = NodeLTS\nkernel = node /n\n");
	put(bin, "node.image-id", B);
	install(C, "container_type=PerlLTS\n# kernel = no\nkernel = perl /p a b\n");
	put(shared, "perl.image-id", C "\n");
	put(bin, "shell.image-id",
	    "dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd0123\n");
	put(bin, ".image-id", B);
	put(bin, "python.image-id.old", B);
	open_images();
	assert_int_equal(images_count(images), 3);
	assert_null(images_at(images, 3));
	const struct runtime *r = images_runtime(images, "PythonLTS");

	assert_ptr_equal(r, images_at(images, 0));
	assert_string_equal(r->name, "python");
	assert_string_equal(r->id, A);
	assert_string_equal(r->metadata, "{\"of\":1}");
	assert_int_equal(r->language_count, 2);
	assert_string_equal(r->languages[0], "python");
	assert_true(runtime_has(r, "shell"));
	assert_false(runtime_has(r, "node"));
	assert_false(runtime_has(r, ""));
	r = images_runtime(images, "PerlLTS");
	assert_string_equal(r->name, "perl");
	assert_string_equal(r->languages[0], "perl");
	assert_string_equal(images_runtime(images, "NodeLTS")->id, B);
	/* The caller has the canonical spelling. */
	assert_null(images_runtime(images, "perllts"));
	assert_null(images_runtime(images, "Shell"));
}

static void test_first_of_a_name_and_a_type(void **state)
{
	(void)state;
	install(B, "container_type = PythonLTS\nkernel = other /o\n");
	put(shared, "other.image-id", B);
	install(C, PYTHON);
	put(shared, "python.image-id", C);
	open_images();
	assert_int_equal(images_count(images), 1);
	assert_string_equal(images_at(images, 0)->id, A);
}

/* Others are left out; the Python one is needed, and its error says what to do. */
static void test_bad_images(void **state)
{
	static const struct {
		const char *id, *recipe, *want;
	} rows[] = {
		{ "", NULL, "has no image id" },
		{ "short", NULL, "has no image id" },
		{ "../" A, NULL, "has no image id" },
		{ A "a", NULL, "has no image id" },
		{ C, NULL, "bivouac image build --runtime python" },
		{ B, NULL, "recipe" },
		{ B, "", "no container_type" },
		{ B, "container_type = X\n", "no kernel" },
		{ B, "kernel = a /a\n", "no container_type" },
		{ B, "container_type = a/b\nkernel = a /a\n", "letters and digits" },
		{ B, "container_type =\nkernel = a /a\n", "1 to 23 characters" },
		{ B, "container_type = abcdefghijklmnopqrstuvwx\nkernel = a /a\n", "1 to 23" },
		{ B, "container_type = X\nkernel = A /a\n", "language's name" },
		{ B, "container_type = X\nkernel = terminal /a\n", "language's name" },
		{ B, "container_type = X\nkernel = abcdefghijklmnop /a\n", "language's name" },
		{ B, "container_type = X\nkernel = a /a\nkernel = a /b\n", "comes twice" },
		{ B,
		  "container_type = X\nkernel = a /\nkernel = b /\nkernel = c /\nkernel = d /\n"
		  "kernel = e /\nkernel = f /\nkernel = g /\nkernel = h /\nkernel = i /\n",
		  "more than 8 languages" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		struct err e = ERR_INIT;

		install(B, rows[i].recipe);
		put(bin, "python.image-id", rows[i].id);
		assert_int_equal(images_open(bin, shared, &images, &e), -1);
		assert_null(images);
		if (!strstr(e.msg, rows[i].want))
			fail_msg("row %zu: %s", i, e.msg);
		put(bin, "python.image-id", A);
		put(bin, "another.image-id", rows[i].id);
		open_images();
		assert_int_equal(images_count(images), 1);
		images_close(images);
		images = NULL;
	}
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(test_installed),
		TEST(test_first_of_a_name_and_a_type),
		TEST(test_bad_images),
	};

	return cmocka_run_group_tests_name("image", tests, NULL, NULL);
}
