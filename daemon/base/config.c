/*
 * Options from a table.  The one hard idea: every source goes through
 * config_set, which checks the value even when a stronger source has already
 * given the field, so that a file is judged whole whatever the command line says.
 *
 * inih parses the file; it calls back without line numbers, so our reader counts
 * them: a callback comes before the next line is read.
 */
#include "daemon/base/config.h"

#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static int problem(struct config *c, const char *where, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

static int problem(struct config *c, const char *where, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	if (c->report)
		c->report(c->ctx, where, text);
	return 1;
}

static void *field(const struct config *c, const struct config_row *row)
{
	return (char *)c->target + row->offset;
}

const struct config_row *config_find(const struct config *c, const char *name)
{
	const struct config_row *row;

	for (row = c->rows; row->name; row++)
		if (strcmp(row->name, name) == 0)
			return row;
	return NULL;
}

/* ---- values ----
 * set: text to a field; false: not a value of this row; keep: only look. */

static bool in_range(const struct config_row *row, double x)
{
	return x >= row->least && x <= row->most;      /* false for a NaN */
}

static bool read_whole(const char *text, bool suffix, uint64_t *out)
{
	static const char suffixes[] = "KMG";
	unsigned long long v;
	const char *s;
	char *end;

	if (text[0] < '0' || text[0] > '9')
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno)
		return false;
	if (suffix && *end && (s = strchr(suffixes, *end))) {
		unsigned shift = 10 * (unsigned)(s - suffixes + 1);

		if (v > UINT64_MAX >> shift)
			return false;
		v <<= shift;
		end++;
	}
	*out = v;
	return *end == '\0';
}

static bool set_count(const struct config_row *row, const char *text, void *to, bool keep)
{
	uint64_t v;

	if (!read_whole(text, false, &v) || !in_range(row, (double)v))
		return false;
	if (!keep)
		*(uint32_t *)to = (uint32_t)v;
	return true;
}

static bool set_bytes(const struct config_row *row, const char *text, void *to, bool keep)
{
	uint64_t v;

	if (!read_whole(text, true, &v) || !in_range(row, (double)v))
		return false;
	if (!keep)
		*(uint64_t *)to = v;
	return true;
}

static bool set_amount(const struct config_row *row, const char *text, void *to, bool keep)
{
	struct config_amount a = { .bytes = 0 };
	char *end;

	if (!read_whole(text, true, &a.bytes)) {
		a.percent = strtof(text, &end);
		if (text[0] < '0' || text[0] > '9' || strcmp(end, "%") != 0 || !(a.percent > 0 && a.percent <= 100))
			return false;
		a.bytes = 0;
	} else if (!in_range(row, (double)a.bytes)) {
		return false;
	}
	if (!keep)
		*(struct config_amount *)to = a;
	return true;
}

static bool set_real(const struct config_row *row, const char *text, void *to, bool keep)
{
	char *end;
	double v = strtod(text, &end);

	if (end == text || *end || !in_range(row, v))
		return false;
	if (!keep)
		*(float *)to = (float)v;
	return true;
}

static bool set_text(const struct config_row *row, const char *text, void *to, bool keep)
{
	char *copy;

	if (keep)
		return true;
	/* Empty text is none; but what the command line alone has was asked for, and is told from none. */
	copy = text[0] || row->argument_only ? strdup(text) : NULL;
	if ((text[0] || row->argument_only) && !copy)
		abort();
	free(*(char **)to);
	*(char **)to = copy;
	return true;
}

static bool is_word(const char *words, const char *text)
{
	size_t n = strlen(text);
	const char *at = words;

	while (at && n > 0) {
		if (strncmp(at, text, n) == 0 && (at[n] == '|' || at[n] == '\0'))
			return true;
		at = strchr(at, '|');
		if (at)
			at++;
	}
	return false;
}

static bool set_word(const struct config_row *row, const char *text, void *to, bool keep)
{
	return is_word(row->words, text) && set_text(row, text, to, keep);
}

static bool set_flag(const struct config_row *row, const char *text, void *to, bool keep)
{
	(void)row;
	if (!keep)
		*(bool *)to = text != NULL;
	return true;
}

static void show_count(const void *from, char *text, size_t n)
{
	snprintf(text, n, "%u", (unsigned)*(const uint32_t *)from);
}

static void show_bytes(const void *from, char *text, size_t n)
{
	uint64_t v = *(const uint64_t *)from;
	unsigned k = 0;

	while (v && k < 3 && v % 1024 == 0) {
		v /= 1024;
		k++;
	}
	snprintf(text, n, "%llu%.1s", (unsigned long long)v, &"\0KMG"[k]);
}

static void show_amount(const void *from, char *text, size_t n)
{
	const struct config_amount *a = from;

	if (a->percent > 0)
		snprintf(text, n, "%g%%", (double)a->percent);
	else
		show_bytes(&a->bytes, text, n);
}

static void show_real(const void *from, char *text, size_t n)
{
	snprintf(text, n, "%g", (double)*(const float *)from);
}

static void show_text(const void *from, char *text, size_t n)
{
	const char *s = *(char *const *)from;

	snprintf(text, n, "%s", s ? s : "");
}

static void show_flag(const void *from, char *text, size_t n)
{
	snprintf(text, n, "%s", *(const bool *)from ? "yes" : "no");
}

static const struct {
	const char *what;      /* for a person: "is not ..." */
	bool (*set)(const struct config_row *row, const char *text, void *to, bool keep);
	void (*show)(const void *from, char *text, size_t n);
} types[] = {
	[CONFIG_FLAG] = { "a flag", set_flag, show_flag },
	[CONFIG_COUNT] = { "a whole number", set_count, show_count },
	[CONFIG_BYTES] = { "a number of bytes (K, M, G)", set_bytes, show_bytes },
	[CONFIG_AMOUNT] = { "a number of bytes (K, M, G)", set_amount, show_amount },
	[CONFIG_REAL] = { "a number", set_real, show_real },
	[CONFIG_TEXT] = { "text", set_text, show_text },
	[CONFIG_WORD] = { "one of", set_word, show_text },
};

static int bad_value(struct config *c, const struct config_row *row, const char *text, const char *where)
{
	if (row->type == CONFIG_WORD)
		return problem(c, where, "%s: '%s' is not one of %s", row->name, text, row->words);
	if (row->type == CONFIG_AMOUNT)
		return problem(c, where, "%s: '%s' is not %s from %.15g to %.15g, nor a percentage over 0%%, to 100%%",
		               row->name, text, types[row->type].what, row->least, row->most);
	return problem(c, where, "%s: '%s' is not %s from %.15g to %.15g", row->name, text,
	               types[row->type].what, row->least, row->most);
}

int config_set(struct config *c, const struct config_row *row, const char *text, const char *where,
               enum config_source source)
{
	size_t i = (size_t)(row - c->rows);
	bool keep = source < c->source[i];

	if (!types[row->type].set(row, text, field(c, row), keep))
		return bad_value(c, row, text, where);
	if (!keep)
		c->source[i] = (uint8_t)source;
	return 0;
}

void config_value(const struct config *c, const struct config_row *row, char *text, size_t n)
{
	types[row->type].show(field(c, row), text, n);
}

int config_defaults(struct config *c)
{
	const struct config_row *row;
	int bad = 0;

	memset(c->source, CONFIG_DEFAULT, sizeof c->source);
	for (row = c->rows; row->name; row++)
		if (row->initial)
			bad += config_set(c, row, row->initial, "default", CONFIG_DEFAULT);
	return bad;
}

/* ---- the command line ---- */

/* argv[*at] and its value: --name value, --name=value, --flag. */
static int argument(struct config *c, int argc, char **argv, int *at)
{
	char *arg = argv[*at], name[64];
	const struct config_row *row;
	const char *value;
	size_t n;

	if (strncmp(arg, "--", 2) != 0 || !arg[2])
		return problem(c, arg, "not an option; options begin with --");
	value = strchr(arg, '=');
	n = value ? (size_t)(value - arg) - 2 : strlen(arg) - 2;
	if (n >= sizeof name)
		return problem(c, arg, "no such option");
	memcpy(name, arg + 2, n);
	name[n] = '\0';
	row = config_find(c, name);
	if (!row)
		return problem(c, arg, "no such option");
	if (row->type == CONFIG_FLAG) {
		if (value)
			return problem(c, arg, "%s: takes no value", name);
		return config_set(c, row, "yes", arg, CONFIG_ARGUMENT);
	}
	if (value)
		return config_set(c, row, value + 1, arg, CONFIG_ARGUMENT);
	if (*at + 1 >= argc)
		return problem(c, arg, "%s: a value is missing", name);
	return config_set(c, row, argv[++*at], arg, CONFIG_ARGUMENT);
}

int config_arguments(struct config *c, int argc, char **argv)
{
	int i, bad = 0;

	for (i = 1; i < argc; i++)
		bad += argument(c, argc, argv, &i);
	return bad;
}

/* ---- the file ---- */

struct reading {
	struct config *c;
	const char *path;
	FILE *f;
	int line;                      /* of the last one read */
	int bad;
	bool seen[CONFIG_ROWS_MAX];
};

static const char *place(const struct reading *r, int line, char *where, size_t n)
{
	snprintf(where, n, "%s:%d", r->path, line);
	return where;
}

static char *read_line(char *text, int n, void *stream)
{
	struct reading *r = stream;
	char *line = fgets(text, n, r->f), where[512];
	size_t len;
	int ch;

	if (!line)
		return NULL;
	r->line++;
	len = strlen(text);
	if (len + 1 == (size_t)n && text[len - 1] != '\n' && (ch = getc(r->f)) != EOF) {
		r->bad += problem(r->c, place(r, r->line, where, sizeof where), "a line of over %d bytes", n - 1);
		while (ch != '\n' && ch != EOF)
			ch = getc(r->f);
		text[0] = '\0';
	}
	return line;
}

static int handle(void *user, const char *section, const char *name, const char *value)
{
	struct reading *r = user;
	struct config *c = r->c;
	const struct config_row *row = config_find(c, name);
	char at[512];
	const char *where = place(r, r->line, at, sizeof at);

	if (strcmp(section, c->section) != 0)
		r->bad += problem(c, where, "%s: options belong under [%s]", name, c->section);
	else if (!row)
		r->bad += problem(c, where, "%s: no such option", name);
	else if (row->argument_only)
		r->bad += problem(c, where, "%s: only on the command line", name);
	else if (r->seen[row - c->rows])
		r->bad += problem(c, where, "%s: given twice (or an indented line)", name);
	else
		r->bad += config_set(c, row, value, where, CONFIG_FILE);
	if (row)
		r->seen[row - c->rows] = true;
	return 1;
}

int config_file(struct config *c, const char *path, bool must)
{
	struct reading r = { .c = c, .path = path, .f = fopen(path, "re") };
	char where[512], text[128];
	int rc;

	if (!r.f) {
		if (errno == ENOENT && !must)
			return 0;
		return problem(c, path, "%s", strerror_r(errno, text, sizeof text));
	}
	rc = ini_parse_stream(read_line, &r, handle, &r);
	if (rc > 0)
		r.bad += problem(c, place(&r, rc, where, sizeof where), "neither [section] nor name = value");
	else if (rc < 0)
		r.bad += problem(c, path, "cannot be read");
	else if (ferror(r.f))
		r.bad += problem(c, path, "%s", strerror_r(EIO, text, sizeof text));
	fclose(r.f);
	return r.bad;
}

/* ---- out ---- */

void config_dump(const struct config *c, FILE *f)
{
	const struct config_row *row;
	char text[4096];

	fprintf(f, "[%s]\n", c->section);
	for (row = c->rows; row->name; row++) {
		if (row->argument_only)
			continue;
		config_value(c, row, text, sizeof text);
		fprintf(f, "%s%s =%s%s\n", text[0] ? "" : "; ", row->name, text[0] ? " " : "", text);
	}
}

static void help_range(const struct config_row *row, FILE *f)
{
	bool number = row->type == CONFIG_COUNT || row->type == CONFIG_BYTES || row->type == CONFIG_AMOUNT ||
	              row->type == CONFIG_REAL;

	if (number)
		fprintf(f, " (%.15g to %.15g)", row->least, row->most);
	else if (row->type == CONFIG_WORD)
		fprintf(f, " (%s)", row->words);
	if (row->initial)
		fprintf(f, " [%s]", row->initial);
}

void config_help(const struct config *c, FILE *f)
{
	const struct config_row *row;
	char left[96];

	for (row = c->rows; row->name; row++) {
		snprintf(left, sizeof left, "--%s%s%s", row->name, row->type == CONFIG_FLAG ? "" : " ",
		         row->type == CONFIG_FLAG ? "" : row->unit ? row->unit : "VALUE");
		fprintf(f, "  %-26s %s", left, row->help);
		help_range(row, f);
		fputc('\n', f);
	}
}

void config_free(struct config *c)
{
	const struct config_row *row;

	for (row = c->rows; row->name; row++)
		if (row->type == CONFIG_TEXT || row->type == CONFIG_WORD) {
			free(*(char **)field(c, row));
			*(char **)field(c, row) = NULL;
		}
}
