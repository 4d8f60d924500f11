/*
 * The terminal that a conversation is in (attach).
 */
#ifndef CLIENT_SCREEN_H
#define CLIENT_SCREEN_H

#include <stdbool.h>
#include <wchar.h>

enum screen_change { SCREEN_SAME, SCREEN_RESIZED, SCREEN_CONTINUED };

/* From here on screen_fd is readable once the screen has another size or may have
 * another content; Ctrl-Z leaves the terminal as it was found now, until we go on. */
void screen_open(void);
int screen_fd(void);                           /* -1: it is never told */
enum screen_change screen_changed(void);       /* since the last call */

/* How many rows below its first one a text ends that begins in this column. */
unsigned screen_rows(unsigned column, const wchar_t *s, const wchar_t *end);

#endif
