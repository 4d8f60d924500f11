/*
 * sink: the command-line client.  Owns the table of verbs, and help.  Talks to the
 * daemon through libsink only; text goes to standard output, all else to
 * standard error.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "config.h"
#include "client/client.h"

static const struct verb verbs[] = {
	{ "new", "NAME", "make a session", options_new, verb_new, 1, 1 },
	{ "ls", "", "sessions: state, tokens seen, window, last use", NULL, verb_ls, 0, 0 },
	{ "append", "NAME [TEXT]", "add text without generating", options_append, verb_append, 1, -1 },
	{ "say", "NAME [TEXT]", "say something and stream the reply", options_say, verb_say, 1, -1 },
	{ "generate", "NAME", "go on generating", options_generate, verb_generate, 1, 1 },
	{ "read", "NAME", "the transcript", options_read, verb_read, 1, 1 },
	{ "attach", "NAME", "converse: Ctrl-C stops an answer, Ctrl-D detaches", NULL, verb_attach, 1, 1 },
	{ "show", "NAME", "exactly the text that the model still sees", NULL, verb_show, 1, 1 },
	{ "cancel", "NAME", "stop the answer that is being made", NULL, verb_cancel, 1, 1 },
	{ "set", "NAME KEY=VALUE...", "change settings", NULL, verb_set, 2, -1 },
	{ "rename", "NAME NEW", "give a session a new name", NULL, verb_rename, 2, 2 },
	{ "rm", "NAME...", "remove sessions and all their text", NULL, verb_rm, 1, -1 },
	{ "score", "[TEXT]", "how likely the model finds a text, as JSON", options_score, verb_score, 0, -1 },
	{ "info", "[NAME]", "the daemon, its model and memory; or a session", NULL, verb_info, 0, 1 },
	{ "stats", "", "counters of the daemon", options_stats, verb_stats, 0, 0 },
	{ "fork", "NAME NEW", "a second session that goes on from here", NULL, NULL, 0, -1 },
	{ "rewind", "NAME", "forget everything from an entry on", NULL, NULL, 0, -1 },
	{ "export", "NAME", "a session as a file", NULL, NULL, 0, -1 },
	{ "import", "NAME", "a session from a file", NULL, NULL, 0, -1 },
	{ "help", "[VERB]", "this, or how to use a verb", NULL, verb_help, 0, 1 },
};

static const struct option options_global[] = {
	{ "-S", "SOCKET", NULL, OPTION_TEXT, "the daemon's socket; default: $SINKD_SOCKET, the user's, the system's" },
	{ "--json", NULL, NULL, OPTION_FLAG, "print answers as JSON, as they came" },
	{ "--help", NULL, NULL, OPTION_FLAG, "how to use it" },
	{ "--version", NULL, NULL, OPTION_FLAG, "which version this is" },
	{ NULL, NULL, NULL, OPTION_FLAG, NULL }
};

const struct verb *verb_at(size_t i)
{
	return i < sizeof verbs / sizeof verbs[0] ? &verbs[i] : NULL;
}

const struct verb *verb_find(const char *name)
{
	const struct verb *v;
	size_t i;

	for (i = 0; (v = verb_at(i)); i++)
		if (strcmp(v->name, name) == 0)
			return v;
	return NULL;
}

static void options_print(FILE *f, const struct option *o)
{
	char left[48];

	for (; o && o->name; o++) {
		snprintf(left, sizeof left, "%s%s%s", o->name, o->arg ? " " : "", o->arg ? o->arg : "");
		fprintf(f, "  %-22s %s\n", left, o->help);
	}
}

static void verb_print(FILE *f, const struct verb *v)
{
	fprintf(f, "usage: sink %s%s%s%s\n%s%s\n", v->name, v->options ? " [OPTION...]" : "",
	        *v->args ? " " : "", v->args, v->help, v->run ? "" : " (not in this version)");
	options_print(f, v->options);
}

static void help_print(FILE *f)
{
	const struct verb *v;
	char left[48];
	size_t i;

	fputs("usage: sink [-S SOCKET] [--json] VERB ...\n", f);
	options_print(f, options_global);
	fputs("verbs:\n", f);
	for (i = 0; (v = verb_at(i)); i++) {
		snprintf(left, sizeof left, "%s %s", v->name, v->args);
		fprintf(f, "  %-22s %s%s\n", left, v->help, v->run ? "" : " (not in this version)");
	}
	fputs("TEXT comes from the arguments, or from standard input where there are none; a\n"
	      "single - stands for standard input.  sink help VERB tells a verb's options.\n", f);
}

int verb_help(struct client *c)
{
	const struct verb *v;

	if (c->argc == 0) {
		help_print(stdout);
		return 0;
	}
	v = verb_find(c->argv[0]);
	if (!v)
		return usage_error("no verb %s; sink help lists them", c->argv[0]);
	verb_print(stdout, v);
	return 0;
}

int usage_error(const char *fmt, ...)
{
	va_list ap;

	fputs("sink: usage: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return EXIT_USAGE;
}

static void interrupted(int sig)
{
	(void)sig;
	_exit(EXIT_INTERRUPTED);
}

/* SIGINT ends us with a code that a script can tell, unless it is ignored. */
static void signals_init(void)
{
	struct sigaction sa = { .sa_handler = interrupted }, old;

	sigemptyset(&sa.sa_mask);
	if (sigaction(SIGINT, NULL, &old) == 0 && old.sa_handler != SIG_IGN)
		sigaction(SIGINT, &sa, NULL);
}

/* Options before the verb are global ones; behind it they may be either. */
static int verb_run(struct client *c, int argc, char **argv)
{
	int rc = options_parse(c, argc, argv, options_global);

	if (rc)
		return rc;
	if (option_given(c, "--version")) {
		puts("sink " PACKAGE_VERSION);
		return 0;
	}
	c->socket = option_value(c, "-S");
	c->json = option_given(c, "--json");
	if (option_given(c, "--help") || !c->verb) {
		if (c->verb)
			verb_print(stdout, c->verb);
		else
			help_print(option_given(c, "--help") ? stdout : stderr);
		return option_given(c, "--help") ? 0 : EXIT_USAGE;
	}
	if (!c->verb->run) {
		fprintf(stderr, "sink: not_finished: %s is not in this version\n", c->verb->name);
		return EXIT_REFUSED;
	}
	if (c->argc < c->verb->n_least || (c->verb->n_most >= 0 && c->argc > c->verb->n_most))
		return usage_error("sink %s %s; sink help %s tells more", c->verb->name, c->verb->args,
		                   c->verb->name);
	return c->verb->run(c);
}

/* Without a standard input and the like a socket would get their numbers.  Read-only: what
 * is written to a standard output that is not there is lost, and that is an error. */
static void standard_files(void)
{
	int fd;

	do
		fd = open("/dev/null", O_RDONLY);
	while (fd >= 0 && fd <= STDERR_FILENO);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	struct client c = { 0 };
	int rc;

	standard_files();
	signals_init();
	c.argv = calloc((size_t)argc + 1, sizeof *c.argv);
	if (!c.argv)
		return EXIT_REFUSED;
	rc = verb_run(&c, argc - 1, argv + 1);
	if ((fflush(stdout) || ferror(stdout)) && rc == 0) {
		perror("sink: standard output");
		rc = EXIT_REFUSED;
	}
	sink_close(c.sink);
	free(c.renamed);
	free(c.argv);
	return rc;
}
