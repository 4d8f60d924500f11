/*
 * Options of a program, as one table: each row is a name, a type, a place in a
 * struct, a default, a range and help.  The INI file, the command line, the dump
 * and the help are all made from it, so they cannot disagree.
 *
 * The command line wins over the file, the file over the defaults, in whatever
 * order they are read.  A value that cannot be used is reported with the place
 * where it stands (FILE:LINE or the argument) and leaves the field as it was.
 * Knows nothing of the options themselves.  Not thread safe.
 */
#ifndef DAEMON_BASE_CONFIG_H
#define DAEMON_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum config_type {
	CONFIG_FLAG,           /* bool; takes no value, command line only */
	CONFIG_COUNT,          /* uint32_t */
	CONFIG_BYTES,          /* uint64_t, with an optional K, M or G (1024) */
	CONFIG_AMOUNT,         /* struct config_amount: bytes as above, or a percentage: 90% */
	CONFIG_REAL,           /* float */
	CONFIG_TEXT,           /* char *, owned */
	CONFIG_WORD,           /* char *, owned: one of words */
};

struct config_amount {
	uint64_t bytes;
	float percent;             /* over 0: of what there is, and bytes says nothing */
};
static inline uint64_t config_amount_of(struct config_amount a, uint64_t all)
{
	return a.percent > 0 ? (uint64_t)((double)all * (double)a.percent / 100) : a.bytes;
}

struct config_row {
	const char *name;          /* "max-tokens" */
	enum config_type type;
	size_t offset;             /* of its field */
	const char *initial;       /* as one would write it; NULL: none */
	double least, most;        /* of COUNT, BYTES, AMOUNT (its bytes) and REAL */
	const char *words;         /* of WORD: "auto|cpu|cuda" */
	const char *unit;          /* "tokens", "FILE"; NULL: none */
	const char *help;
	bool argument_only;        /* not in a file, not dumped */
	bool reload;               /* taken over at SIGHUP */
};

enum config_source { CONFIG_DEFAULT, CONFIG_FILE, CONFIG_ARGUMENT };
#define CONFIG_ROWS_MAX 64

struct config {
	const struct config_row *rows;     /* ends with a row without a name */
	const char *section;               /* "sinkd" */
	void *target;
	uint8_t source[CONFIG_ROWS_MAX];   /* enum config_source */
	void (*report)(void *ctx, const char *where, const char *problem);
	void *ctx;
};

/* Each returns how many problems it has reported. */
int config_defaults(struct config *c);
int config_arguments(struct config *c, int argc, char **argv);
/* must: a missing file is a problem. */
int config_file(struct config *c, const char *path, bool must);

/* One field: text is NULL or empty for "none" of a TEXT without a default. */
int config_set(struct config *c, const struct config_row *row, const char *text, const char *where,
               enum config_source source);
const struct config_row *config_find(const struct config *c, const char *name);     /* NULL: unknown */
/* The field as one would write it. */
void config_value(const struct config *c, const struct config_row *row, char *text, size_t n);

void config_dump(const struct config *c, FILE *f);     /* an INI file */
void config_help(const struct config *c, FILE *f);     /* a line or two an option */
void config_free(struct config *c);                    /* the strings of the target */

#endif
