/* Prints the tables of proto/ for tests/proto/docs.py, one row a line. */
#include <stdio.h>

#include "proto/errors.h"
#include "proto/methods.h"

static const char *const type_names[] = {
	[TYPE_BOOL] = "bool", [TYPE_UINT] = "uint", [TYPE_REAL] = "real", [TYPE_NAME] = "name",
	[TYPE_TEXT] = "text", [TYPE_KEY] = "key", [TYPE_IDS] = "ids", [TYPE_TEXTS] = "texts",
};

int main(void)
{
	const struct proto_method *m;
	const struct proto_error_row *e;
	size_t i;
	int p;

	for (i = 0; (m = proto_method_at(i)); i++) {
		printf("method\t%s\t%s\n", m->name, m->finished ? "finished" : "not_finished");
		for (p = 0; p < N_PARAM; p++)
			if (m->takes >> p & 1)
				printf("param\t%s\t%s\t%s\t%s\n", m->name, proto_params[p].key,
				       type_names[proto_params[p].type], m->needs >> p & 1 ? "*" : "");
		if (m->needs & ~m->takes)
			printf("broken\t%s needs what it does not take\n", m->name);
	}
	for (i = 0; (e = proto_error_at(i)); i++)
		printf("error\t%d\t%s\t%s\n", e->code, e->name, e->help);
	return 0;
}
