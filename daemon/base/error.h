/*
 * Errors.  0 = done.  Negative = unexpected: -errno, traced once where it
 * happens (ERROR), passed up unchanged, never matched.  Positive = a condition
 * documented at the function, handled by its caller.
 *
 * Where a person will read why, the last parameter is a struct reason.  Its name
 * is an error name of proto/errors.h; a test checks that each one used is there.
 * Users' text never goes into a reason.
 */
#ifndef DAEMON_BASE_ERROR_H
#define DAEMON_BASE_ERROR_H

enum { REFUSED = 1 };      /* the reason says why */

struct reason {
	char name[32];         /* "session_exists"; empty: none */
	char text[256];
};

/* Fills r (NULL is fine) and returns REFUSED. */
int refuse(struct reason *r, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/* Traces a negative error once, with the place, and returns it. */
#define ERROR(rc) error_trace((rc), __FILE__, __LINE__, __func__)
int error_trace(int rc, const char *file, int line, const char *func);

#endif
