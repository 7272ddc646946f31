/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/output.h"

#include "base/own.h"

#include <ctype.h>
#include <libsmartcols/libsmartcols.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define COLUMNS_MAX 24

struct columns {
	const char *keys[COLUMNS_MAX];
	size_t count;
};

static void columns_add(struct columns *c, const char *key)
{
	for (size_t i = 0; i < c->count; i++)
		if (!strcmp(c->keys[i], key))
			return;
	if (c->count < COLUMNS_MAX)
		c->keys[c->count++] = key;
}

/** columns_choose: scalar members of any row; the ones that name the thing come first; az's
 * exclusions. */
static void columns_choose(struct columns *c, const json_t *rows)
{
	static const char *const first[] = { "name", "status", "location", "resourceGroup",
					     "what", "id",     NULL };
	static const char *const hidden[] = { "id", "type", "etag", "$id", NULL };
	json_t *row, *item;
	const char *key;
	size_t i;

	for (size_t f = 0; first[f]; f++)
		json_array_foreach(rows, i, row) {
			item = json_object_get(row, first[f]);
			/* An id is a column only where there is no name to show. */
			if (item && (strcmp(first[f], "id") || !json_object_get(row, "name")))
				columns_add(c, first[f]);
		}
	json_array_foreach(rows, i, row) {
		json_object_foreach(row, key, item) {
			bool skip = json_is_object(item) || json_is_array(item);

			for (size_t h = 0; hidden[h]; h++)
				skip = skip || !strcmp(hidden[h], key);
			if (!skip)
				columns_add(c, key);
		}
	}
}

static int line_set(struct libscols_line *line, size_t column, const json_t *v, struct err *e)
{
	struct buf b;
	int rc;

	if (!v || json_is_null(v))
		return 0;
	buf_init(&b, OUTPUT_TEXT_MAX);
	if (json_is_string(v))
		buf_add(&b, json_string_value(v), json_string_length(v));
	else
		json_compact(&b, v);
	rc = buf_ok(&b) ? scols_line_set_data(line, column, b.ptr) : -1;
	buf_done(&b);
	return rc ? err_set(e, ERR_NOMEM, "out of memory") : 0;
}

static int table_fill(struct libscols_table *table, const struct columns *c, const json_t *rows,
		      struct err *e)
{
	char title[64];
	json_t *row;
	size_t i;

	for (size_t k = 0; k < c->count; k++) {
		snprintf(title, sizeof(title), "%s", c->keys[k]);
		title[0] = (char)toupper((unsigned char)title[0]);
		/* Only the last column may be folded to the terminal's width: it
		 * is the prose one. */
		if (!scols_table_new_column(table, title, 0, k + 1 == c->count ? SCOLS_FL_WRAP : 0))
			return err_set(e, ERR_NOMEM, "out of memory");
	}
	json_array_foreach(rows, i, row) {
		struct libscols_line *line = scols_table_new_line(table, NULL);

		if (!line)
			return err_set(e, ERR_NOMEM, "out of memory");
		for (size_t k = 0; k < c->count; k++)
			if (line_set(line, k, json_object_get(row, c->keys[k]), e))
				return -1;
	}
	return 0;
}

static size_t terminal_width(FILE *to)
{
	struct winsize ws;

	if (isatty(fileno(to)) && !ioctl(fileno(to), TIOCGWINSZ, &ws) && ws.ws_col > 20)
		return ws.ws_col;
	return 0;
}

/** rows_of: a list of objects that shows the value as rows; new reference. */
static json_t *rows_of(const json_t *value)
{
	static const char *const lists[] = { "value", "sessions", NULL };
	json_t *rows = json_array(), *item;
	size_t i;

	for (size_t l = 0; json_is_object(value) && lists[l]; l++)
		if (json_is_array(json_object_get(value, lists[l])))
			value = json_object_get(value, lists[l]);
	if (!json_is_array(value)) {
		json_array_append_new(rows, json_is_object(value)
						    ? json_incref((json_t *)value)
						    : json_pack("{sO}", "result", value));
		return rows;
	}
	json_array_foreach(value, i, item)
		json_array_append_new(rows, json_is_object(item)
						    ? json_incref(item)
						    : json_pack("{sO}", "result", item));
	return rows;
}

int output_table(FILE *to, const json_t *value, struct err *e)
{
	struct columns columns = { .count = 0 };
	json_t *rows = rows_of(value);
	int rc = -1;

	columns_choose(&columns, rows);
	if (!columns.count) {
		json_decref(rows);
		return 0;
	}
	struct libscols_table *table = scols_new_table();

	if (!table) {
		json_decref(rows);
		return err_set(e, ERR_NOMEM, "out of memory");
	}
	scols_table_set_stream(table, to);
	scols_table_set_column_separator(table, "  ");
	if (terminal_width(to)) {
		scols_table_set_termforce(table, SCOLS_TERMFORCE_ALWAYS);
		scols_table_set_termwidth(table, terminal_width(to));
	} else {
		scols_table_set_termforce(table, SCOLS_TERMFORCE_NEVER);
	}
	if (!table_fill(table, &columns, rows, e)) {
		rc = scols_print_table(table);
		if (rc || fflush(to))
			rc = err_set(e, ERR_SYSTEM, "printing the table failed");
	}
	scols_unref_table(table);
	json_decref(rows);
	return rc;
}
