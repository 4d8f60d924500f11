/* What the bench programs say of their arguments: one line that names the argument, and exit status 1. */
#ifndef TESTS_BENCH_USAGE_H
#define TESTS_BENCH_USAGE_H

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/window.h"

static inline _Noreturn void give_up(const char *what, const char *why)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, why);
	exit(1);
}

/* 1 to 2^30 */
static inline uint32_t number(const char *name, const char *text)
{
	char *end;
	const unsigned long n = strtoul(text, &end, 10);

	if (end == text || *end || n == 0 || n > 1ul << 30)
		give_up(name, "not a number from 1 to 2^30");
	return (uint32_t)n;
}

static inline struct window window_of(const char *name, const char *text)
{
	struct window w;
	int n = 0;

	if (sscanf(text, "%u+%u%n", &w.n_sink, &w.n_recent, &n) != 2 || text[n] || w.n_recent < 2)
		give_up(name, "not S+R, sinks and recent tokens, as 4+2000");
	return w;
}

#endif
