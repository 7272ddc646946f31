/* SPDX-License-Identifier: Apache-2.0 */
#include "http/multipart.h"

#include "base/buf.h"
#include "http/router.h"

#include <stdlib.h>

#define LINE_MAX_BYTES 128 /* longer lines before the first boundary cannot be one */
#define PADDING_MAX    16  /* blanks that may follow a boundary */
#define HELD_MAX       (4 + MULTIPART_BOUNDARY_MAX + PADDING_MAX + 4)

enum state { PREAMBLE, HEADERS, DATA, EPILOGUE };

/* Where in "CR? LF -- boundary (-- | blanks CR? LF)" the held bytes end. */
enum delimiter { D_NONE, D_CR, D_TEXT, D_TAIL, D_TAIL_DASH, D_TAIL_CR };

struct multipart {
	struct multipart_events events;
	void *arg;
	enum state state;
	char delimiter[2 + MULTIPART_BOUNDARY_MAX]; /* "--" and the boundary */
	size_t delimiter_len;                       /* 0: to be sniffed */
	unsigned parts;

	/* PREAMBLE: the current line */
	char line[LINE_MAX_BYTES];
	size_t line_len;
	bool line_long;
	bool seen_line;

	/* HEADERS */
	struct buf headers;
	size_t headers_line; /* start of the current line */

	/* DATA: bytes that may turn out to be a delimiter, and those that turned out not to be */
	char held[HELD_MAX];
	size_t held_len;
	enum delimiter at;
	size_t matched; /* of delimiter[] */
	size_t padding;
	char flush[HELD_MAX];
	size_t flush_len;
	size_t flush_at;
};

/* ---- parameters of Content-Type and Content-Disposition ---- */

/* A parameter's value, quoted or not, decoded into out (as long as in at most); returns what
 * follows. */
static struct str take_value(struct str in, char *out, struct str *ret)
{
	size_t n = 0;
	size_t i = 0;

	in = str_trim(in);
	if (!in.len || in.ptr[0] != '"') {
		const char *semi = memchr(in.ptr, ';', in.len);
		size_t len = semi ? (size_t)(semi - in.ptr) : in.len;
		struct str bare = str_trim((struct str){ in.ptr, len });

		if (bare.len)
			memcpy(out, bare.ptr, bare.len);
		*ret = (struct str){ out, bare.len };
		return (struct str){ in.ptr + len, in.len - len };
	}
	for (i = 1; i < in.len && in.ptr[i] != '"'; i++) {
		/* Only these two escapes: others are the backslashes of a path. */
		if (in.ptr[i] == '\\' && in.len - i > 1 &&
		    (in.ptr[i + 1] == '"' || in.ptr[i + 1] == '\\'))
			i++;
		out[n++] = in.ptr[i];
	}
	*ret = (struct str){ out, n };
	in = (struct str){ in.ptr + i, in.len - i };
	const char *semi = memchr(in.ptr, ';', in.len);

	return semi ? (struct str){ semi, (size_t)(in.ptr + in.len - semi) }
		    : (struct str){ in.ptr, 0 };
}

/* Next parameter of *left, which starts at a ';'. Uses *out, which has room for all of it. */
static bool next_param(struct str *left, char **out, struct str *ret_name, struct str *ret_value)
{
	while (left->len && (left->ptr[0] == ';' || left->ptr[0] == ' ' || left->ptr[0] == '\t')) {
		left->ptr++;
		left->len--;
	}
	if (!left->len)
		return false;
	const char *semi = memchr(left->ptr, ';', left->len);
	size_t max = semi ? (size_t)(semi - left->ptr) : left->len;
	const char *eq = memchr(left->ptr, '=', max);

	if (!eq) {
		*ret_name = str_trim((struct str){ left->ptr, max });
		*ret_value = (struct str){ left->ptr, 0 };
		*left = (struct str){ left->ptr + max, left->len - max };
		return true;
	}
	size_t name_len = (size_t)(eq - left->ptr);

	*ret_name = str_trim((struct str){ left->ptr, name_len });
	*left = take_value((struct str){ eq + 1, left->len - name_len - 1 }, *out, ret_value);
	*out += ret_value->len;
	return true;
}

/* RFC 5987: charset'language'percent-encoded, to UTF-8 in out (2 * in.len). False if not usable. */
static bool decode_extended(struct str in, char *out, struct str *ret)
{
	const char *q1 = memchr(in.ptr, '\'', in.len);

	if (!q1)
		return false;
	struct str charset = { in.ptr, (size_t)(q1 - in.ptr) };
	struct str rest = { q1 + 1, in.len - charset.len - 1 };
	const char *q2 = memchr(rest.ptr, '\'', rest.len);

	if (!q2)
		return false;
	rest = (struct str){ q2 + 1, (size_t)(rest.ptr + rest.len - q2 - 1) };
	if (str_eq_nocase(charset, STR("utf-8"))) {
		*ret = (struct str){ out, percent_decode(rest, out) };
		return utf8_valid(*ret);
	}
	if (!str_eq_nocase(charset, STR("iso-8859-1")))
		return false;
	/* Decode into the upper half, widen from the lower end: the reader stays ahead of the
	 * writer. */
	char *from = out + in.len;
	size_t len = percent_decode(rest, from);
	size_t n = 0;

	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)from[i];

		if (c >= 0x80) {
			out[n++] = (char)(0xc0 | c >> 6);
			c = 0x80 | (c & 0x3f);
		}
		out[n++] = (char)c;
	}
	*ret = (struct str){ out, n };
	return true;
}

static int boundary_from_type(struct multipart *m, struct str type, struct err *e)
{
	struct str name;
	struct str value;

	if (!str_starts_nocase(type, STR("multipart/")))
		return 0;
	const char *semi = memchr(type.ptr, ';', type.len);

	if (!semi)
		return 0;
	char *mem = malloc(type.len + 1);
	char *out = mem;
	int result = 0;

	if (!mem)
		return err_set(e, ERR_NOMEM, "out of memory");
	type = (struct str){ semi, (size_t)(type.ptr + type.len - semi) };
	while (next_param(&type, &out, &name, &value)) {
		if (!str_eq_nocase(name, STR("boundary")))
			continue;
		while (value.len && value.ptr[value.len - 1] == ' ')
			value.len--;
		if (value.len > MULTIPART_BOUNDARY_MAX || memchr(value.ptr, '\r', value.len) ||
		    memchr(value.ptr, '\n', value.len)) {
			result = err_set(e, ERR_MALFORMED, "the multipart boundary is not valid");
		} else if (value.len) {
			memcpy(m->delimiter, "--", 2);
			memcpy(m->delimiter + 2, value.ptr, value.len);
			m->delimiter_len = value.len + 2;
		}
		break;
	}
	free(mem);
	return result;
}

struct multipart *multipart_new(struct str content_type, const struct multipart_events *events,
				void *arg, struct err *e)
{
	struct multipart *m = calloc(1, sizeof(*m));

	if (!m) {
		err_set(e, ERR_NOMEM, "out of memory");
		return NULL;
	}
	m->events = *events;
	m->arg = arg;
	buf_init(&m->headers, MULTIPART_HEADERS_MAX);
	if (boundary_from_type(m, str_trim(content_type), e) < 0) {
		multipart_free(m);
		return NULL;
	}
	return m;
}

void multipart_free(struct multipart *m)
{
	if (!m)
		return;
	buf_done(&m->headers);
	free(m);
}

/* ---- before the first part ---- */

static struct str trim_line(struct str line)
{
	while (line.len && strchr(" \t\r", line.ptr[line.len - 1]) && line.ptr[line.len - 1])
		line.len--;
	return line;
}

/* A first line that starts with "--" names the boundary, whatever the Content-Type said. */
static bool sniff(struct multipart *m, struct str line)
{
	if (m->seen_line || line.len < 3 || line.len > sizeof(m->delimiter) ||
	    memcmp(line.ptr, "--", 2) != 0)
		return false;
	for (size_t i = 2; i < line.len; i++)
		if (line.ptr[i] < ' ' || line.ptr[i] == 127)
			return false;
	memcpy(m->delimiter, line.ptr, line.len);
	m->delimiter_len = line.len;
	return true;
}

static void start_headers(struct multipart *m)
{
	m->state = HEADERS;
	buf_clear(&m->headers);
	m->headers_line = 0;
}

static int end_preamble_line(struct multipart *m, struct err *e)
{
	struct str line = trim_line((struct str){ m->line, m->line_len });
	struct str delimiter = { m->delimiter, m->delimiter_len };
	bool overlong = m->line_long;

	m->line_len = 0;
	m->line_long = false;
	if (!overlong && !line.len)
		return 0;
	if (!overlong && m->delimiter_len) {
		if (str_eq(line, delimiter)) {
			start_headers(m);
			return 0;
		}
		if (line.len == delimiter.len + 2 &&
		    memcmp(line.ptr, delimiter.ptr, delimiter.len) == 0 &&
		    memcmp(line.ptr + delimiter.len, "--", 2) == 0) {
			m->state = EPILOGUE;
			return 0;
		}
	}
	if (!overlong && sniff(m, line)) {
		start_headers(m);
		return 0;
	}
	m->seen_line = true;
	if (!m->delimiter_len)
		return err_set(e, ERR_MALFORMED, "the request body is not multipart/form-data");
	return 0;
}

static int feed_preamble(struct multipart *m, struct str *in, struct err *e)
{
	while (in->len && m->state == PREAMBLE) {
		const char *lf = memchr(in->ptr, '\n', in->len);
		size_t n = lf ? (size_t)(lf - in->ptr) : in->len;
		size_t room = sizeof(m->line) - m->line_len;

		if (n > room)
			m->line_long = true;
		memcpy(m->line + m->line_len, in->ptr, n < room ? n : room);
		m->line_len += n < room ? n : room;
		n += lf != NULL;
		in->ptr += n;
		in->len -= n;
		if (lf && end_preamble_line(m, e) < 0)
			return -1;
		/* Do not read on for ever in a body that cannot be sniffed. */
		if (m->line_long && !m->delimiter_len)
			return err_set(e, ERR_MALFORMED,
				       "the request body is not multipart/form-data");
	}
	return 0;
}

/* ---- headers of a part ---- */

struct part_text {
	struct multipart_part part;
	bool name_extended;
	bool filename_extended;
	char *out; /* room for everything decoded */
};

static void read_disposition(struct part_text *t, struct str value)
{
	struct str name;
	struct str text;
	const char *semi = memchr(value.ptr, ';', value.len);

	if (!semi)
		return;
	value = (struct str){ semi, (size_t)(value.ptr + value.len - semi) };
	while (next_param(&value, &t->out, &name, &text)) {
		struct str wide;
		bool extended = name.len && name.ptr[name.len - 1] == '*';

		if (extended) {
			if (!decode_extended(text, t->out, &wide))
				continue;
			t->out += 2 * text.len;
			text = wide;
		}
		if (str_eq_nocase(name, STR("name*")) ||
		    (str_eq_nocase(name, STR("name")) && !t->name_extended)) {
			t->part.name = text;
			t->name_extended = extended;
		} else if (str_eq_nocase(name, STR("filename*")) ||
			   (str_eq_nocase(name, STR("filename")) && !t->filename_extended)) {
			t->part.filename = text;
			t->filename_extended = extended;
		}
	}
}

static void read_header(struct part_text *t, struct str line)
{
	const char *colon = memchr(line.ptr, ':', line.len);

	if (!colon)
		return;
	struct str name = str_trim((struct str){ line.ptr, (size_t)(colon - line.ptr) });
	struct str value =
		str_trim((struct str){ colon + 1, (size_t)(line.ptr + line.len - colon - 1) });

	if (str_eq_nocase(name, STR("Content-Disposition")))
		read_disposition(t, value);
	else if (str_eq_nocase(name, STR("Content-Type")))
		t->part.content_type = value;
}

static int begin_part(struct multipart *m, struct err *e)
{
	struct str left = buf_str(&m->headers);
	struct part_text t = { .part = { STR(""), { NULL, 0 }, STR("") } };

	if (++m->parts > MULTIPART_PARTS_MAX)
		return err_set(e, ERR_MALFORMED, "the request body has more than %d parts",
			       MULTIPART_PARTS_MAX);
	/* A parameter is decoded once plainly and once, twice as long at most, from RFC 5987. */
	char *mem = malloc(3 * left.len + 1);

	if (!mem)
		return err_set(e, ERR_NOMEM, "out of memory");
	t.out = mem;
	while (left.len) {
		const char *lf = memchr(left.ptr, '\n', left.len);
		size_t n = lf ? (size_t)(lf - left.ptr) : left.len;

		read_header(&t, trim_line((struct str){ left.ptr, n }));
		n += lf != NULL;
		left.ptr += n;
		left.len -= n;
	}
	int result = m->events.part ? m->events.part(m->arg, &t.part, e) : 0;

	free(mem);
	m->state = DATA;
	m->held_len = 0;
	/* The line break of the empty line may already be that of the delimiter: a part without
	 * contents. */
	m->at = D_TEXT;
	m->matched = 0;
	return result < 0 ? -1 : 0;
}

/* A line of the headers has ended: 1 if it was the empty one. Folded lines are unfolded. */
static int end_header_line(struct multipart *m)
{
	size_t start = m->headers_line;
	char *line = m->headers.ptr + start;
	size_t len = m->headers.len - start;

	if (len == 1 || (len == 2 && line[0] == '\r')) {
		m->headers.len = start;
		return 1;
	}
	if (start && (line[0] == ' ' || line[0] == '\t')) {
		line[-1] = ' ';
		if (start > 1 && line[-2] == '\r')
			line[-2] = ' ';
	}
	m->headers_line = m->headers.len;
	return 0;
}

static int feed_headers(struct multipart *m, struct str *in, struct err *e)
{
	while (in->len) {
		const char *lf = memchr(in->ptr, '\n', in->len);
		size_t n = lf ? (size_t)(lf - in->ptr) + 1 : in->len;

		if (!buf_add(&m->headers, in->ptr, n))
			return err_set(e, ERR_MALFORMED, "the headers of a part are too long");
		in->ptr += n;
		in->len -= n;
		if (lf && end_header_line(m))
			return begin_part(m, e);
	}
	return 0;
}

/* ---- contents of a part ---- */

enum step { STEP_HELD, STEP_NOT, STEP_NEXT_PART, STEP_END };

static enum step tail_step(struct multipart *m, char c)
{
	if (c == '\n')
		return STEP_NEXT_PART;
	if (m->at == D_TAIL_CR)
		return STEP_NOT;
	if (m->at == D_TAIL_DASH)
		return c == '-' ? STEP_END : STEP_NOT;
	if (c == '\r') {
		m->at = D_TAIL_CR;
		return STEP_HELD;
	}
	if (c == '-' && !m->padding) {
		m->at = D_TAIL_DASH;
		return STEP_HELD;
	}
	return (c == ' ' || c == '\t') && ++m->padding <= PADDING_MAX ? STEP_HELD : STEP_NOT;
}

/* Whether c continues what is held towards a delimiter. */
static enum step delimiter_step(struct multipart *m, char c)
{
	switch (m->at) {
	case D_NONE:
		if (c != '\r' && c != '\n')
			return STEP_NOT;
		m->at = c == '\r' ? D_CR : D_TEXT;
		m->matched = 0;
		return STEP_HELD;
	case D_CR:
		if (c != '\n')
			return STEP_NOT;
		m->at = D_TEXT;
		m->matched = 0;
		return STEP_HELD;
	case D_TEXT:
		if (c != m->delimiter[m->matched])
			return STEP_NOT;
		if (++m->matched == m->delimiter_len) {
			m->at = D_TAIL;
			m->padding = 0;
		}
		return STEP_HELD;
	case D_TAIL_DASH:
		if (c == '\n')
			return STEP_NOT;
		return tail_step(m, c);
	case D_TAIL:
	case D_TAIL_CR:
		break;
	}
	return tail_step(m, c);
}

/* Offers *in to the consumer; 1 if it took all, 0 if it stopped, -1 on its error. */
static int offer(struct multipart *m, const char *data, size_t len, size_t *ret_took, struct err *e)
{
	ssize_t n = m->events.data ? m->events.data(m->arg, data, len, e) : (ssize_t)len;

	if (n < 0)
		return -1;
	*ret_took = (size_t)n < len ? (size_t)n : len;
	return *ret_took == len;
}

static int flush_held(struct multipart *m, struct err *e)
{
	size_t took = 0;

	if (m->flush_at == m->flush_len)
		return 1;
	int more = offer(m, m->flush + m->flush_at, m->flush_len - m->flush_at, &took, e);

	m->flush_at += took;
	return more;
}

static int end_part(struct multipart *m, enum step how, struct err *e)
{
	m->held_len = 0;
	m->at = D_NONE;
	if (how == STEP_END)
		m->state = EPILOGUE;
	else
		start_headers(m);
	return m->events.part_end && m->events.part_end(m->arg, e) < 0 ? -1 : 1;
}

/* Length of the prefix that surely is data. A line break followed by no dash does not end it. */
static size_t plain_len(struct str in)
{
	size_t n = 0;

	while (n < in.len) {
		size_t lf = n;

		if (in.ptr[n] != '\n' && in.ptr[n] != '\r') {
			n++;
			continue;
		}
		if (in.ptr[n] == '\r' && ++lf < in.len && in.ptr[lf] != '\n') {
			n++;
			continue;
		}
		if (lf + 1 >= in.len || in.ptr[lf + 1] == '-')
			break;
		n = lf + 1;
	}
	return n;
}

/* Follows a possible delimiter in `in` from *pos on; STEP_HELD if it may go on behind the end. */
static enum step follow_delimiter(struct multipart *m, struct str in, size_t *pos)
{
	while (*pos < in.len) {
		enum step step = delimiter_step(m, in.ptr[*pos]);

		if (step == STEP_NOT)
			return step;
		(*pos)++;
		if (step != STEP_HELD)
			return step;
	}
	return STEP_HELD;
}

/*
 * Data with nothing held: everything up to a delimiter, or to what may be one, is offered at once.
 * SECURITY: what only looks like a delimiter does not cut the data, or a body of such beginnings
 * would cost a message to the sandbox for every few bytes.
 */
static int feed_fresh(struct multipart *m, struct str *in, struct err *e)
{
	size_t data_len = 0;
	size_t pos = 0;
	enum step step = STEP_NOT;

	while (step == STEP_NOT && pos < in->len) {
		pos += plain_len((struct str){ in->ptr + pos, in->len - pos });
		data_len = pos;
		step = follow_delimiter(m, *in, &pos);
		if (step == STEP_NOT)
			m->at = D_NONE; /* that byte may begin another one */
	}
	if (data_len) {
		size_t took = 0;
		int more = offer(m, in->ptr, data_len, &took, e);

		if (more <= 0) {
			m->at = D_NONE; /* looked at again when the consumer goes on */
			*in = (struct str){ in->ptr + took, in->len - took };
			return more;
		}
	}
	if (step == STEP_HELD) {
		m->held_len = pos - data_len;
		memcpy(m->held, in->ptr + data_len, m->held_len);
	}
	*in = (struct str){ in->ptr + pos, in->len - pos };
	return step == STEP_HELD ? 1 : end_part(m, step, e);
}

/* 1: go on, 0: the consumer stopped, -1: error. */
static int feed_data(struct multipart *m, struct str *in, struct err *e)
{
	while (in->len && m->state == DATA) {
		if (m->at == D_NONE) {
			int more = feed_fresh(m, in, e);

			if (more <= 0)
				return more;
			continue;
		}
		enum step step = delimiter_step(m, in->ptr[0]);

		if (step == STEP_NOT) {
			/* Data after all. The byte at hand is looked at again: it may start a
			 * delimiter. */
			memcpy(m->flush, m->held, m->held_len);
			m->flush_len = m->held_len;
			m->flush_at = 0;
			m->held_len = 0;
			m->at = D_NONE;
			int more = flush_held(m, e);

			if (more <= 0)
				return more;
			continue;
		}
		if (step == STEP_HELD)
			m->held[m->held_len++] = in->ptr[0];
		in->ptr++;
		in->len--;
		if (step != STEP_HELD && end_part(m, step, e) < 0)
			return -1;
	}
	return 1;
}

ssize_t multipart_feed(struct multipart *m, const char *data, size_t len, struct err *e)
{
	struct str in = { data, len };

	int more = flush_held(m, e);

	while (more > 0 && in.len) {
		switch (m->state) {
		case PREAMBLE:
			more = feed_preamble(m, &in, e) < 0 ? -1 : 1;
			break;
		case HEADERS:
			more = feed_headers(m, &in, e) < 0 ? -1 : 1;
			break;
		case DATA:
			more = feed_data(m, &in, e);
			break;
		case EPILOGUE:
			return (ssize_t)len;
		}
	}
	return more < 0 ? -1 : (ssize_t)(len - in.len);
}

int multipart_finish(struct multipart *m, struct err *e)
{
	/* The closing line of an empty form may lack its line break. */
	if (m->state == PREAMBLE && m->line_len && end_preamble_line(m, e) < 0)
		return -1;
	if (m->state != EPILOGUE)
		return err_set(e, ERR_MALFORMED,
			       "the request body ends before its closing boundary");
	return 0;
}
