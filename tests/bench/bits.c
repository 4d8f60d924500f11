/*
 * What fewer bits cost in likelihood, over a text long enough to tell: a token's nll
 * with a cache of eight bits and with activations of eight bits beside halves and
 * fifteen; and what these cost beside products of floats.
 *
 *     tests/bench/bits [--threads N] [--window S+R] [--tokens N] MODEL.gguf < TEXT
 *
 * Each line: the perplexity's change in percent with the standard error of it, and how
 * far a token's nll is off on average, whichever way.  Neighbours' differences count as
 * independent.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/bench/usage.h"
#include "tests/golden/rig.h"

struct options {
	const char *model;
	unsigned n_thread;
	struct window window;
	size_t n_token;
};

static const struct kind { const char *what; enum kv_type type; unsigned n_act_bit; bool exact; } kinds[] = {
	{ "cache of halves, activations of fifteen bits", KV_F16, 0, false },
	{ "cache of eight bits", KV_Q8, 0, false },
	{ "activations of eight bits", KV_F16, 8, false },
	{ "both of eight bits", KV_Q8, 8, false },
	{ "products of floats", KV_F16, 0, true },
};

static struct ids tokens_of(const struct options *o)
{
	char *text = NULL;
	size_t room = 0;
	const ssize_t n = getdelim(&text, &room, '\0', stdin);
	struct ids ids;

	if (n <= 0)
		give_up("standard input", "no text");
	ids = rig_ids(o->model, text, (size_t)n);
	free(text);
	if (ids.n > o->n_token)
		ids.n = o->n_token;
	if (ids.n < 2)
		give_up("standard input", "too short");
	return ids;
}

static void nll_of(const struct options *o, const struct kind *k, const struct ids *ids, double *nll)
{
	const struct rig_params p = {
		.n_thread = o->n_thread, .n_act_bit = k->n_act_bit, .n_chunk = 256, .type = k->type, .most = o->window,
	};
	struct rig r;

	if (!rig_open(&r, o->model, &p))
		exit(1);
	rig_nll(&r, o->window, k->exact, ids->data, ids->n, 256, nll);
	rig_close(&r);
}

static void compare(const char *what, const double *nll, const double *usual, size_t n)
{
	double sum = 0, square = 0, size = 0, error;

	for (size_t i = 0; i < n; i++) {
		const double d = nll[i] - usual[i];

		sum += d;
		square += d * d;
		size += fabs(d);
	}
	error = sqrt((square / (double)n - sum * sum / (double)n / (double)n) / (double)n);
	printf("%s: perplexity %+.4f %% (+- %.4f), a token's nll by %.6f\n", what, 100 * (exp(sum / (double)n) - 1), 100 * error,
	       size / (double)n);
	fflush(stdout);
}

static void options_read(struct options *o, int argc, char **argv)
{
	int i = 1;

	for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
		if (strcmp(argv[i], "--threads") == 0)
			o->n_thread = number(argv[i], argv[i + 1]);
		else if (strcmp(argv[i], "--tokens") == 0)
			o->n_token = number(argv[i], argv[i + 1]);
		else if (strcmp(argv[i], "--window") == 0)
			o->window = window_of(argv[i], argv[i + 1]);
		else
			give_up(argv[i], "not known");
	}
	if (i + 1 != argc)
		give_up("usage", "bits [--threads N] [--window S+R] [--tokens N] MODEL.gguf < TEXT");
	o->model = argv[i];
}

int main(int argc, char **argv)
{
	struct options o = { .n_thread = 2, .window = { 4, 252 }, .n_token = SIZE_MAX };
	double *usual, *nll;
	struct ids ids;

	options_read(&o, argc, argv);
	ids = tokens_of(&o);
	usual = calloc(ids.n, sizeof *usual);
	nll = calloc(ids.n, sizeof *nll);
	nll_of(&o, &kinds[0], &ids, usual);
	printf("%zu tokens, window %u+%u, %s: perplexity %.4f\n", ids.n, o.window.n_sink, o.window.n_recent,
	       kinds[0].what, exp(mean(usual, ids.n - 1)));
	for (size_t i = 1; i < sizeof kinds / sizeof *kinds; i++) {
		nll_of(&o, &kinds[i], &ids, nll);
		compare(kinds[i].what, nll, usual, ids.n - 1);
	}
	free(usual);
	free(nll);
	ids_free(&ids);
	return 0;
}
