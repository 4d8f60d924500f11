/*
 * UTF-8: one step function, and what is made of it.  The hard idea: the range of
 * the second byte depends on the first (table 3-7); all later ones are 80..BF.
 */
#include "daemon/base/utf8.h"

#include <stdlib.h>
#include <string.h>

/* Rows of table 3-7: first byte, length, range of the second byte. */
static const struct {
	unsigned char first, last, n, low, high;
} rows[] = {
	{ 0xc2, 0xdf, 2, 0x80, 0xbf },
	{ 0xe0, 0xe0, 3, 0xa0, 0xbf },
	{ 0xe1, 0xec, 3, 0x80, 0xbf },
	{ 0xed, 0xed, 3, 0x80, 0x9f },
	{ 0xee, 0xef, 3, 0x80, 0xbf },
	{ 0xf0, 0xf0, 4, 0x90, 0xbf },
	{ 0xf1, 0xf3, 4, 0x80, 0xbf },
	{ 0xf4, 0xf4, 4, 0x80, 0x8f },
};

size_t utf8_step(const char *s, size_t n, bool *valid, bool *cut)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t i, k;

	*valid = false;
	if (cut != NULL)
		*cut = false;
	if (p[0] < 0x80) {
		*valid = true;
		return 1;
	}
	for (i = 0; i < sizeof rows / sizeof *rows; i++)
		if (p[0] >= rows[i].first && p[0] <= rows[i].last)
			break;
	if (i == sizeof rows / sizeof *rows)
		return 1;
	for (k = 1; k < rows[i].n; k++) {
		unsigned char low = k == 1 ? rows[i].low : 0x80;
		unsigned char high = k == 1 ? rows[i].high : 0xbf;

		if (k == n) {
			if (cut != NULL)
				*cut = true;
			return k;
		}
		if (p[k] < low || p[k] > high)
			return k;
	}
	*valid = true;
	return k;
}

size_t utf8_valid_prefix(const char *s, size_t n)
{
	bool valid = true;
	size_t at = 0, step = 0;

	while (at < n && (step = utf8_step(s + at, n - at, &valid, NULL), valid))
		at += step;
	return at;
}

bool utf8_is_valid(const char *s, size_t n)
{
	return utf8_valid_prefix(s, n) == n;
}

char *utf8_scrub(const char *s, size_t n, size_t *n_out)
{
	char *out = malloc(3 * n + 1);
	size_t i = 0, o = 0;
	bool valid;

	if (out == NULL)
		return NULL;
	while (i < n) {
		size_t k = utf8_step(s + i, n - i, &valid, NULL);

		memcpy(out + o, valid ? s + i : "\xef\xbf\xbd", valid ? k : 3);
		o += valid ? k : 3;
		i += k;
	}
	out[o] = '\0';
	if (n_out != NULL)
		*n_out = o;
	return out;
}

size_t utf8_complete_prefix(const char *s, size_t n)
{
	size_t back;
	bool valid, cut;

	for (back = 1; back <= 3 && back <= n; back++) {
		if (((unsigned char)s[n - back] & 0xc0) == 0x80)
			continue;       /* not a first byte: look further back */
		utf8_step(s + n - back, back, &valid, &cut);
		return cut ? n - back : n;
	}
	return n;
}
