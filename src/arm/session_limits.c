/* SPDX-License-Identifier: Apache-2.0 */

/* properties.sessionLimits of session pools: what one session may use. docs/limits.md says what a
 * caller sees at each. */

#include "arm/arm.h"
#include "arm/internal.h"
#include "base/own.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define OPEN_FILES_MAX 1048576

enum limit_kind { LIMIT_SIZE, LIMIT_COUNT, LIMIT_CORES };

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

/* Sizes in bytes, cores in thousandths; `scale` turns the property's unit into
 * that of the field. */
static const struct limit {
	const char *name;
	enum limit_kind kind;
	uint64_t min;
	uint64_t max;
	uint64_t standard;
	uint64_t scale;
	size_t offset;
	size_t size;
} limits[] = {
#define FIELD(f) offsetof(struct session_pool_spec, f), sizeof(((struct session_pool_spec *)0)->f)
	/* kernels, agent and file contents together */
	{ "memory", LIMIT_SIZE, 64 * MIB, 1024 * GIB, GIB, 1, FIELD(memory_bytes) },
	{ "dataSize", LIMIT_SIZE, MIB, 1024 * GIB, 512 * MIB, 1,
	  FIELD(data_bytes) },                                                      /* /mnt/data */
	{ "tmpSize", LIMIT_SIZE, MIB, 1024 * GIB, 256 * MIB, 1, FIELD(tmp_bytes) }, /* /tmp, home */
	{ "inodes", LIMIT_COUNT, 64, 16777216, 65536, 1, FIELD(inodes) }, /* of each of these */
	{ "pids", LIMIT_COUNT, 8, 32768, 256, 1, FIELD(pids) },
	{ "openFiles", LIMIT_COUNT, 64, OPEN_FILES_MAX, 4096, 1, FIELD(open_files) },
	{ "cpu", LIMIT_CORES, 50, 256000, 1000, 1, FIELD(cpu_millis) },
	{ "outputStreamsMaxLength", LIMIT_COUNT, 1, MIB, 4096, 1, FIELD(output_max) },
	{ "defaultTimeoutInSeconds", LIMIT_COUNT, 1, 86400, 1800, 1000, FIELD(timeout_default_ms) },
	{ "maxTimeoutInSeconds", LIMIT_COUNT, 1, 86400, 1800, 1000, FIELD(timeout_max_ms) },
	{ "queueLength", LIMIT_COUNT, 1, 10000, 1024, 1, FIELD(queue_max) },
	{ "maxUploadSizeInBytes", LIMIT_COUNT, 1, 64 * GIB, 128 * MIB, 1, FIELD(upload_max_bytes) },
#undef FIELD
};

/* A limit's value as its property spells it. */
static const char *limit_text(const struct limit *l, uint64_t value, char buf[static 32])
{
	static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti" };
	size_t unit = 0;

	if (l->kind == LIMIT_CORES) {
		snprintf(buf, 32, "%g", (double)value / 1000);
		return buf;
	}
	while (l->kind == LIMIT_SIZE && value && value % 1024 == 0 && unit + 1 < ARRAY_LEN(units)) {
		value /= 1024;
		unit++;
	}
	snprintf(buf, 32, "%llu%s", (unsigned long long)value, units[unit]);
	return buf;
}

static bool limit_parse(const struct limit *l, const json_t *v, uint64_t *ret)
{
	int64_t n;
	double d;

	if (l->kind == LIMIT_SIZE && json_is_string(v))
		return str_parse_size(str_from(json_string_value(v)), ret);
	if (l->kind == LIMIT_CORES) {
		if (!json_to_number(v, &d) || !(d >= 0 && d < 1e6))
			return false;
		*ret = (uint64_t)llround(d * 1000);
		return true;
	}
	if (!json_to_int(v, &n) || n < 0)
		return false;
	*ret = (uint64_t)n;
	return true;
}

static int limit_err(const struct limit *l, struct err *e)
{
	static const char *const what[] = {
		[LIMIT_SIZE] = "a size like '512Mi' or a number of bytes,",
		[LIMIT_COUNT] = "a whole number",
		[LIMIT_CORES] = "a number of cores",
	};
	char min[32];
	char max[32];
	char standard[32];

	return err_set(e, ERR_POOL_CONFIG,
		       "Unexpected value: 'sessionLimits.%s'. 'Must be %s >= %s and <= %s.' Choose "
		       "a value in that range, or leave it out for the default, %s.",
		       l->name, what[l->kind], limit_text(l, l->min, min),
		       limit_text(l, l->max, max), limit_text(l, l->standard, standard));
}

int session_limits_read(const json_t *given, struct session_pool_spec *spec, struct err *e)
{
	for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
		const struct limit *l = &limits[i];
		const json_t *v = json_object_get(given, l->name);
		uint64_t value = l->standard;

		if (v && (!limit_parse(l, v, &value) || value < l->min || value > l->max))
			return limit_err(l, e);
		value *= l->scale;
		if (l->size == sizeof(uint64_t)) {
			memcpy((char *)spec + l->offset, &value, sizeof(value));
		} else {
			uint32_t narrow = (uint32_t)value;

			memcpy((char *)spec + l->offset, &narrow, sizeof(narrow));
		}
	}
	if (spec->timeout_default_ms <= spec->timeout_max_ms)
		return 0;
	if (json_object_get(given, "defaultTimeoutInSeconds"))
		return err_set(e, ERR_POOL_CONFIG,
			       "Unexpected value: 'sessionLimits.defaultTimeoutInSeconds'. 'Must "
			       "be <= maxTimeoutInSeconds, which is %u.' Lower it, or raise "
			       "maxTimeoutInSeconds.",
			       spec->timeout_max_ms / 1000);
	spec->timeout_default_ms = spec->timeout_max_ms;
	return 0;
}

/* The jailer cannot give a session more descriptors than the host gives root. */
static int check_open_files(const json_t *given, const struct session_pool_spec *spec,
			    struct err *e)
{
	struct rlimit host;

	if (!json_object_get(given, "openFiles") || getrlimit(RLIMIT_NOFILE, &host) < 0 ||
	    spec->open_files <= host.rlim_max)
		return 0;
	return err_set(e, ERR_POOL_CONFIG,
		       "Unexpected value: 'sessionLimits.openFiles'. 'Must be <= %llu, the open "
		       "files that this machine allows a process.' Choose less, or start bivouacd "
		       "with a higher hard limit (LimitNOFILE=, ulimit -Hn).",
		       (unsigned long long)host.rlim_max);
}

int session_limits_check(const json_t *given, struct err *e)
{
	struct session_pool_spec spec;

	if (session_limits_read(given, &spec, e) < 0)
		return -1;
	return check_open_files(given, &spec, e);
}
