/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * json: what both APIs need on top of jansson: forgiving names, strict values, messages that name
 * the field.
 *
 * Property names match case-insensitively, as the real service does. Numbers may come as decimal
 * strings (the az CLI sends them so). A property that is null counts as absent. Messages name a
 * field by its whole path
 * ("properties.scaleConfiguration.maxConcurrentSessions"); `path` is the path of the object, "" at
 * the top. All errors are ERR_MALFORMED; a caller with a better code sets e->code afterwards.
 *
 * SECURITY: json_parse bounds nesting and the number of values before jansson sees the text, so no
 * later walk over a parsed value can be driven deep by a caller, and no value of a few bytes ("{}")
 * costs a hundred times its size in memory, two million times. The only file of base that needs
 * jansson; linked on its own.
 */

#include "base/err.h"
#include "base/str.h"

#include <jansson.h>

#define JSON_DEPTH_MAX  64
#define JSON_VALUES_MAX 10000
#define JSON_PATH_MAX   256

/** json_check_bounds: refuses nesting over JSON_DEPTH_MAX and more than JSON_VALUES_MAX values, for
 * texts that are parsed elsewhere. */
int json_check_bounds(struct str text, struct err *e);
/** json_parse: any value; what json_check_bounds() refuses, duplicate keys and trailing text
 * are refused. New reference. */
json_t *json_parse(struct str text, struct err *e);
/** json_parse_body: as json_parse; strings may have NUL characters (json_string_length()), and a
 * whole number beyond 64 bits, where JSON knows no bound, does not spoil the text: all its numbers
 * are reals then. */
json_t *json_parse_body(struct str text, struct err *e);
/** json_load_body: the same with jansson's flags and error; json_check_bounds() is the caller's. */
json_t *json_load_body(struct str text, size_t flags, json_error_t *je);
/** json_parse_object: as json_parse, and the value must be an object. */
json_t *json_parse_object(struct str text, struct err *e);

/** json_find: member of an object by name; the exact spelling wins over others. Borrowed; NULL if
 * absent or null. */
json_t *json_find(const json_t *obj, const char *name);
/** json_find_key: how the object spells that name; NULL if it has no such member (null values are
 * members). */
const char *json_find_key(const json_t *obj, const char *name);

/* Typed getters: 1 found, 0 absent or null (*ret untouched), -1 wrong type. Strings are borrowed.
 */
int json_get_string(const json_t *obj, const char *path, const char *name, const char **ret,
		    struct err *e);
int json_get_bool(const json_t *obj, const char *path, const char *name, bool *ret, struct err *e);
/** json_get_int: a whole number, or a string that is one. */
int json_get_int(const json_t *obj, const char *path, const char *name, int64_t *ret,
		 struct err *e);
/** json_get_number: a finite number, or a string that is one. */
int json_get_number(const json_t *obj, const char *path, const char *name, double *ret,
		    struct err *e);
int json_get_object(const json_t *obj, const char *path, const char *name, json_t **ret,
		    struct err *e);
int json_get_array(const json_t *obj, const char *path, const char *name, json_t **ret,
		   struct err *e);
/** json_get_word: one of the words (NULL-terminated), compared without case; *ret is the spelling
 * of the list. */
int json_get_word(const json_t *obj, const char *path, const char *name, const char *const *words,
		  const char **ret, struct err *e);

/** json_word: the list's spelling of text, or NULL. */
const char *json_word(const char *const *words, const char *text);
/** json_to_int: value itself: whole number or numeric string; false if it is neither. */
bool json_to_int(const json_t *value, int64_t *ret);
bool json_to_number(const json_t *value, double *ret);
/** json_path: "path.name", or "name" when path is empty. */
const char *json_path(char buf[static JSON_PATH_MAX], const char *path, const char *name);

/**
 * json_merge_patch: RFC 7396, keys compared without case; a member that exists keeps the target's
 * spelling. Neither argument changes (what the result shares with them is copied). New reference;
 * NULL when memory is out or the patch nests deeper than JSON_DEPTH_MAX.
 */
json_t *json_merge_patch(const json_t *target, const json_t *patch);

/** A shape: the members an object may have, in canonical spelling. Tables end with a NULL name. */
enum json_kind {
	JSON_KIND_ANY, /* copied as it is */
	JSON_KIND_STRING,
	JSON_KIND_INT, /* "300" becomes 300 */
	JSON_KIND_NUMBER,
	JSON_KIND_BOOL,
	JSON_KIND_WORD,   /* one of `words`, takes their spelling */
	JSON_KIND_OBJECT, /* of `members` */
	JSON_KIND_LIST,   /* array of objects of `members` */
	JSON_KIND_MAP,    /* object with free keys and string values, like tags */
};
struct json_shape {
	const char *name;
	enum json_kind kind;
	const struct json_shape *members;
	const char *const *words;
};
/**
 * json_respell: a new object with the known members only, in canonical spelling and type. Unknown
 * members and nulls are dropped; two spellings of one member, or a wrong type, are errors.
 */
json_t *json_respell(const json_t *obj, const struct json_shape *shape, const char *path,
		     struct err *e);
