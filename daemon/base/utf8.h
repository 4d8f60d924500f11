/*
 * UTF-8 as Unicode's table 3-7 has it: no overlong forms, no surrogates, nothing
 * over U+10FFFF.  Pure functions on bytes; any thread.
 */
#ifndef DAEMON_BASE_UTF8_H
#define DAEMON_BASE_UTF8_H

#include <stdbool.h>
#include <stddef.h>

/* Looks at the start of s[n], n > 0.  Returns how many bytes to go on by: those
 * of a character (*valid set), or of one maximal subpart that is not one.
 * *cut (NULL is fine): the subpart reaches the end and more bytes could finish it. */
size_t utf8_step(const char *s, size_t n, bool *valid, bool *cut);

/* Length of the valid prefix. */
size_t utf8_valid_prefix(const char *s, size_t n);
bool utf8_is_valid(const char *s, size_t n);
/* A copy in which every maximal subpart that is not valid is one U+FFFD; at most
 * 3 n bytes, NUL behind them, the caller's to free.  NULL: no memory. */
char *utf8_scrub(const char *s, size_t n, size_t *n_out);
/* The longest prefix that does not end inside a character that could still be
 * finished; at most 3 bytes shorter than n.  Invalid bytes are nobody's start. */
size_t utf8_complete_prefix(const char *s, size_t n);

#endif
