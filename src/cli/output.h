/* SPDX-License-Identifier: Apache-2.0 */
#pragma once

/**
 * output: results on stdout as json, jsonc (coloured), table, tsv or none, after --query, with az's
 * semantics: null prints nothing; tsv prints scalars as lines and a list of objects as rows with
 * columns in key order; table shows the scalar members of objects, without id, type and etag.
 */

#include "base/buf.h"
#include "base/err.h"

#include <jansson.h>
#include <stdbool.h>

enum output_format { OUTPUT_JSON, OUTPUT_JSONC, OUTPUT_TABLE, OUTPUT_TSV, OUTPUT_NONE };

#define OUTPUT_TEXT_MAX (256u * 1024 * 1024)

struct output {
	enum output_format format;
	bool format_given; /* -o or --query on the command line: otherwise a verb may print its own
			      way */
	const char *query; /* NULL: everything */
};

/** output_json: prints a value (borrowed). */
int output_json(const struct output *o, json_t *value, struct err *e);
/**
 * output_text: prints JSON text. Without a query, json and jsonc change white space only: numbers
 * beyond what C types hold come out as the server wrote them.
 */
int output_text(const struct output *o, struct str json, struct err *e);
/** output_load: parses a server's JSON; integers beyond 64 bits become reals. NULL and e if
 * malformed. */
json_t *output_load(struct str json, struct err *e);

/**
 * output_add_groups: what az does to every object: one whose id names a resource in a group gets
 * that group as "resourceGroup", unless it has such a member (in any case). Objects inside it too.
 */
void output_add_groups(json_t *value);

/** json_compact: JSON text of a value, reals in their shortest form that reads back the same. */
bool json_compact(struct buf *out, const json_t *value);
/** json_reformat: valid JSON text with two-space indentation; scalars untouched; colours for
 * terminals on demand. */
bool json_reformat(struct buf *out, struct str json, bool colour);
/** output_tsv, output_table: the text of those formats, for tests and the printer. */
bool output_tsv(struct buf *out, const json_t *value);
int output_table(FILE *to, const json_t *value, struct err *e);
