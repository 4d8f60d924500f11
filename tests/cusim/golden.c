/*
 * The tiny models through the CUDA backend on the simulated device, against
 * tests/tools/streaming_nll.py, far past their windows; and for one window the same
 * bits whatever the chunk, the order of threads and the mode.
 *
 *   golden [TOP [TOKENS]]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cusim/modes.h"
#include "tests/golden/rig.h"

/* Of the vectors: three windows, and a second of work each.  Under ThreadSanitizer that is
 * a minute each: there every kernel runs, one way. */
static size_t most_tokens = 200;
static bool threads;

static const struct { const char *mode; uint32_t chunk; enum kv_type type; double most; bool exact, threads; } ways[] = {
	{ "poison", 32, KV_F32, 2e-3, true, true },                  /* the first says the bits */
	{ "poison,unreadable,lazy,order:11", 7, KV_F32, 2e-3, true, false },
	{ "poison,order:reverse", 32, KV_F16, 2e-2, true, false },
	{ "poison,unreadable,lazy,order:5", 32, KV_F16, 2e-2, false, true },         /* prefill by cuBLAS */
};
#define N_WAY (sizeof ways / sizeof ways[0])

static void way(const char *name, const char *path, const struct vectors *v, size_t w, double **first)
{
	const struct rig_params p = { .n_chunk = 32, .type = ways[w].type, .most = { 16, 80 } };
	const size_t n = v->n_token - 1;
	double *nll = calloc(n, sizeof *nll), far;
	struct rig r;
	size_t i;

	check(cusim_mode(ways[w].mode), "%s: a mode", ways[w].mode);
	if (!rig_open(&r, path, &p)) {
		check(false, "%s: the backend opens", ways[w].mode);
		free(nll);
		return;
	}
	for (i = 0; i < (w == 0 ? v->n_run : 1); i++) {
		const struct run *run = &v->runs[i];

		rig_nll(&r, run->window, ways[w].exact, v->tokens, v->n_token, ways[w].chunk, nll);
		far = furthest(nll, run->nll, n);
		check(far < ways[w].most, "%s %s %u+%u: every nll within %g (furthest %.2g)", name, ways[w].mode,
		      run->window.n_sink, run->window.n_recent, ways[w].most, far);
		if (w == 0)
			memcpy(first[i] = malloc(n * sizeof *nll), nll, n * sizeof *nll);
		else if (ways[w].type == ways[0].type && ways[w].exact)
			check(memcmp(nll, first[i], n * sizeof *nll) == 0, "%s %s %u+%u, chunk %u: the same bits", name,
			      ways[w].mode, run->window.n_sink, run->window.n_recent, ways[w].chunk);
	}
	rig_close(&r);
	free(nll);
}

static void model(const char *top, const char *name)
{
	char folder[2048], path[2048], file[64];
	double *first[16] = { NULL };
	struct vectors v;
	size_t i;

	snprintf(folder, sizeof folder, "%s/tests/golden", top);
	snprintf(path, sizeof path, "%s/tests/data/%s.gguf", top, name);
	snprintf(file, sizeof file, "%s.json", name);
	vectors_read(&v, folder, file);
	if (v.n_token > most_tokens)
		v.n_token = most_tokens;
	for (i = 0; i < N_WAY; i++)
		if (!threads || ways[i].threads)
			way(name, path, &v, i, first);
	for (i = 0; i < v.n_run; i++)
		free(first[i]);
	vectors_free(&v);
}

int main(int argc, char **argv)
{
	const char *top = argc > 1 ? argv[1] : getenv("srcdir"), *sanitizer = getenv("SANITIZE");

	if (sanitizer && strcmp(sanitizer, "thread") == 0) {
		most_tokens = 40;
		threads = true;
	}
	if (argc > 2)
		most_tokens = strtoul(argv[2], NULL, 10);
	model(top ? top : ".", "tiny-llama");
	model(top ? top : ".", "tiny-gemma3");
	check(cusim_faults(NULL) == 0, "no faults of the device");
	return check_status();
}
