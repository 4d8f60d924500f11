/* The one-shot uses of sinkd, as a table: an option and its task. */
#include "daemon/once.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "daemon/model/gguf.h"
#include "daemon/model/model.h"
#include "daemon/model/tokenizer.h"
#include "daemon/session/store.h"

static int complain(const char *what, int rc, const struct reason *why)
{
	if (rc == 0)
		return 0;
	fprintf(stderr, "sinkd: %s: %s%s%s\n", what, why->name[0] ? why->name : "internal", why->text[0] ? ": " : "",
	        why->text);
	return 1;
}

static int show_version(const struct options *o)
{
	(void)o;
	printf("sinkd %s\n", PACKAGE_VERSION);
	return 0;
}

static int show_help(const struct options *o)
{
	printf("Usage: sinkd [--OPTION VALUE | --OPTION=VALUE]...\n"
	       "Serves one language model and named, persistent sessions over a Unix socket.\n\n");
	config_help(&o->table, stdout);
	printf("\nIn a configuration file, without the dashes, under [sinkd]: name = value. See sinkd(8).\n");
	return 0;
}

static int dump_config(const struct options *o)
{
	config_dump(&o->table, stdout);
	return 0;
}

static int inspect(const struct options *o)
{
	struct reason why = { 0 };

	return complain(o->gguf, model_inspect(o->gguf, STDOUT_FILENO, &why), &why);
}

static void print_piece(struct gguf_str piece)
{
	size_t i;

	for (i = 0; i < piece.n; i++) {
		unsigned char c = (unsigned char)piece.data[i];

		if (c == '\n')
			fputs("\\n", stdout);
		else if (c < ' ' || c == 0x7f)
			printf("\\x%02x", c);
		else
			putchar(c);
	}
}

/* A line a token: id, tab, what it stands for. */
static int tokenize(const struct options *o)
{
	struct reason why = { 0 };
	struct tokenizer *t = NULL;
	struct gguf *g = NULL;
	struct ids ids = { 0 };
	size_t i;
	int rc;

	if (!o->model) {
		fprintf(stderr, "sinkd: --tokenize needs --model\n");
		return 1;
	}
	rc = gguf_open(&g, o->model, &why);
	if (rc == 0)
		rc = tokenizer_open(&t, g, &why);
	if (rc == 0)
		rc = tokenizer_encode(t, o->tokenize, strlen(o->tokenize), TOKENIZE_START, &ids);
	for (i = 0; rc == 0 && i < ids.n; i++) {
		printf("%d\t", (int)ids.data[i]);
		print_piece(tokenizer_piece(t, ids.data[i], true));
		putchar('\n');
	}
	ids_free(&ids);
	tokenizer_close(t);
	gguf_close(g);
	return complain(o->model, rc, &why);
}

static int salvage(const struct options *o)
{
	struct reason why = { 0 };
	struct salvage s;
	int rc;

	if (!o->state) {
		fprintf(stderr, "sinkd: --salvage needs --state\n");
		return 1;
	}
	rc = store_salvage(o->state, &s, &why);
	if (rc == 0)
		printf("%llu sessions, %llu entries and %llu requests recovered; %llu logs cut; the damaged "
		       "database is kept as %s\n",
		       (unsigned long long)s.n_session, (unsigned long long)s.n_entry, (unsigned long long)s.n_order,
		       (unsigned long long)s.n_cut, s.kept);
	return complain(o->state, rc, &why);
}

static int check_config(const struct options *o)
{
	struct reason why = { 0 };
	int rc = options_check(o, &why);

	if (rc == 0)
		printf("no problems\n");
	return complain("options", rc, &why);
}

bool once_run(const struct options *o, int n_problem, int *status)
{
	const struct {
		bool asked, anyway;        /* anyway: whatever is wrong with the options */
		int (*run)(const struct options *o);
	} tasks[] = {
		{ o->help, true, show_help },
		{ o->version, true, show_version },
		{ o->check_config, false, check_config },
		{ o->dump_config, false, dump_config },
		{ o->gguf != NULL, false, inspect },
		{ o->tokenize != NULL, false, tokenize },
		{ o->salvage, false, salvage },
	};
	size_t i;

	for (i = 0; i < sizeof tasks / sizeof tasks[0]; i++) {
		if (!tasks[i].asked)
			continue;
		*status = n_problem == 0 || tasks[i].anyway ? tasks[i].run(o) : 2;
		if (fflush(stdout) != 0)
			*status = 1;
		return true;
	}
	return false;
}
