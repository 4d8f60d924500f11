/* Errors: filling a reason, and tracing an unexpected one once where it happens. */
#include "daemon/base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "daemon/base/log.h"

int refuse(struct reason *r, const char *name, const char *fmt, ...)
{
	va_list ap;

	if (r == NULL)
		return REFUSED;
	snprintf(r->name, sizeof r->name, "%s", name);
	va_start(ap, fmt);
	vsnprintf(r->text, sizeof r->text, fmt, ap);
	va_end(ap);
	return REFUSED;
}

int error_trace(int rc, const char *file, int line, const char *func)
{
	char text[128];

	if (rc < 0)
		log_error("%s:%d %s: %s (%d)", file, line, func,
		          strerror_r(-rc, text, sizeof text), rc);
	return rc;
}
