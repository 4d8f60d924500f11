/*
 * The error table as rows.  The table itself is PROTO_ERRORS; nothing is said
 * here that it does not say.
 */
#include "proto/errors.h"

#include <string.h>

static const struct proto_error_row rows[] = {
#define X(symbol, code, name, help) { code, name, help },
	PROTO_ERRORS(X)
#undef X
};

const struct proto_error_row *proto_error_at(size_t i)
{
	return i < sizeof rows / sizeof rows[0] ? &rows[i] : NULL;
}

const struct proto_error_row *proto_error_find(const char *name)
{
	const struct proto_error_row *row;
	size_t i;

	for (i = 0; (row = proto_error_at(i)); i++)
		if (strcmp(row->name, name) == 0)
			return row;
	return NULL;
}
