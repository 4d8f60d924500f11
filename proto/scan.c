/*
 * The scanner: walks MessagePack headers and keeps only counters.
 *
 * Its one idea is `owed`, the fewest bytes that must still come for the message
 * to be whole: a value owes one byte until its header is read, then what the
 * header declares (a payload, or one byte for every element, two for a pair).
 * seen + owed over the cap can never become a message, so it is refused at the
 * header that says so; owed = 0 is the end of the message.
 *
 * It must not allocate, keep payload, or trust a size before that check.
 */
#include "proto/scan.h"

#include <assert.h>

enum form { FIXED, SIZED, ARRAY, MAP, NEVER };

struct form_row {
	uint8_t form;
	uint8_t n_size;        /* bytes of the size behind the first byte */
	uint8_t n_more;        /* payload bytes, beyond a declared size */
};

/* First bytes 0xc0 .. 0xdf, in order. */
static const struct form_row rows[32] = {
	{ FIXED, 0, 0 }, { NEVER, 0, 0 }, { FIXED, 0, 0 }, { FIXED, 0, 0 },    /* nil, -, false, true */
	{ SIZED, 1, 0 }, { SIZED, 2, 0 }, { SIZED, 4, 0 },                     /* bin */
	{ SIZED, 1, 1 }, { SIZED, 2, 1 }, { SIZED, 4, 1 },                     /* ext: and its type */
	{ FIXED, 0, 4 }, { FIXED, 0, 8 },                                      /* float */
	{ FIXED, 0, 1 }, { FIXED, 0, 2 }, { FIXED, 0, 4 }, { FIXED, 0, 8 },    /* uint */
	{ FIXED, 0, 1 }, { FIXED, 0, 2 }, { FIXED, 0, 4 }, { FIXED, 0, 8 },    /* int */
	{ FIXED, 0, 2 }, { FIXED, 0, 3 }, { FIXED, 0, 5 }, { FIXED, 0, 9 }, { FIXED, 0, 17 }, /* fixext */
	{ SIZED, 1, 0 }, { SIZED, 2, 0 }, { SIZED, 4, 0 },                     /* str */
	{ ARRAY, 2, 0 }, { ARRAY, 4, 0 }, { MAP, 2, 0 }, { MAP, 4, 0 },
};

/* What a first byte declares; *small = the size that some carry in themselves. */
static struct form_row form_of(uint8_t b, uint8_t *small)
{
	static const struct form_row fixed = { FIXED, 0, 0 }, sized = { SIZED, 0, 0 };
	static const struct form_row array = { ARRAY, 0, 0 }, map = { MAP, 0, 0 };

	*small = 0;
	if (b < 0x80 || b >= 0xe0)
		return fixed;
	if (b >= 0xc0)
		return rows[b - 0xc0];
	*small = b & (b < 0xa0 ? 0x0f : 0x1f);
	return b < 0x90 ? map : b < 0xa0 ? array : sized;
}

void scan_reset(struct scan *s, size_t cap)
{
	*s = (struct scan){ .left = { 1 }, .owed = 1, .cap = cap };
}

/* A value has ended: so do the containers whose last one it was. */
static void value_end(struct scan *s)
{
	while (--s->left[s->depth] == 0 && s->depth > 0)
		s->depth--;
}

static enum scan_result container_open(struct scan *s, uint64_t n)
{
	if (s->depth == PROTO_DEPTH_MAX)
		return SCAN_TOO_DEEP;
	s->owed += n;
	if (n == 0)
		value_end(s);
	else
		s->left[++s->depth] = n;
	return SCAN_MORE;
}

/* The header is whole. */
static enum scan_result header_end(struct scan *s)
{
	uint8_t small;
	struct form_row row = form_of(s->head[0], &small);
	uint64_t n = small;
	int i;

	for (i = 1; i <= row.n_size; i++)
		n = n << 8 | s->head[i];
	s->n_head = 0;
	if (row.form == ARRAY)
		return container_open(s, n);
	if (row.form == MAP)
		return container_open(s, 2 * n);
	s->skip = n + row.n_more;
	s->owed += s->skip;
	if (s->skip == 0)
		value_end(s);
	return SCAN_MORE;
}

static enum scan_result header_byte(struct scan *s, uint8_t b)
{
	uint8_t small;
	struct form_row row;

	if (s->n_head == 0) {
		row = form_of(b, &small);
		if (row.form == NEVER)
			return SCAN_BAD;
		s->want = 1 + row.n_size;
		s->owed += row.n_size;
	}
	s->head[s->n_head++] = b;
	s->seen++;
	s->owed--;
	return s->n_head == s->want ? header_end(s) : SCAN_MORE;
}

static size_t payload_skip(struct scan *s, size_t n)
{
	size_t take = s->skip < n ? (size_t)s->skip : n;

	s->skip -= take;
	s->owed -= take;
	s->seen += take;
	if (s->skip == 0)
		value_end(s);
	return take;
}

enum scan_result scan_feed(struct scan *s, const void *p, size_t n, size_t *used)
{
	const uint8_t *bytes = p;
	enum scan_result rc = SCAN_MORE;
	size_t at = 0;

	assert(s->owed > 0);   /* reset */
	while (at < n && s->owed > 0) {
		if (s->skip > 0) {
			at += payload_skip(s, n - at);
			continue;
		}
		if (s->owed > s->cap - s->seen) {
			rc = SCAN_TOO_LARGE;
			break;
		}
		rc = header_byte(s, bytes[at++]);
		if (rc == SCAN_MORE && s->owed > s->cap - s->seen)
			rc = SCAN_TOO_LARGE;
		if (rc != SCAN_MORE)
			break;
	}
	*used = at;
	return rc == SCAN_MORE && s->owed == 0 ? SCAN_DONE : rc;
}
