/*
 * Every architecture of tests/golden/arch through the CUDA backend, past a window:
 * in the exact mode every nll within 2e-3, in the normal one within 2e-2.  On the
 * simulated device, or on the device of a module (tests/gpu).
 *
 *   archs [-v] [TOP [NAME ...]]        -v: what passes, too
 */
#include <glob.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/cusim/modes.h"
#include "tests/golden/rig.h"

#define CHUNK 24u
#define ARCHS 28u                /* as tests/golden/archs counts them */

/* A model says the same for any number of tokens: as many as pass the window.  The
 * fifth is phi3-long's alone, whose factors depend on the window. */
static const struct { size_t run, n_token; bool exact; double most; } ways[] = {
	{ 2, 44, true, 2e-3 }, { 1, 56, false, 2e-2 }, { 4, 20, true, 2e-3 },
};
#define N_WAY (sizeof ways / sizeof *ways)

static bool verbose;
static double worst[2];

static void way(const char *name, const char *path, const struct vectors *v, size_t w)
{
	const struct run *run = &v->runs[ways[w].run];
	const size_t n = ways[w].n_token < v->n_token ? ways[w].n_token : v->n_token;
	const struct rig_params p = {
		.n_chunk = CHUNK, .type = KV_F32, .most = run->window, .n_cache = run->window.n_sink + run->window.n_recent,
	};
	double *nll, far;
	struct rig r;

	if (!rig_open(&r, path, &p)) {
		check(false, "%s: the backend opens", name);
		return;
	}
	nll = calloc(n, sizeof *nll);
	rig_nll(&r, run->window, ways[w].exact, v->tokens, n, CHUNK, nll);
	rig_close(&r);
	far = furthest(nll, run->nll, n - 1);
	worst[ways[w].exact] = fmax(worst[ways[w].exact], far);
	if (verbose || !(far < ways[w].most))
		check(far < ways[w].most, "%s %u+%u%s: every nll of %zu within %g (furthest %.2g)", name, run->window.n_sink,
		      run->window.n_recent, ways[w].exact ? " exact" : "", n, ways[w].most, far);
	free(nll);
}

/* lean: under sanitizers every path once is enough */
static void model(const char *folder, const char *path, bool lean)
{
	char file[256], name[256];
	struct vectors v;
	size_t w;

	snprintf(name, sizeof name, "%s", strrchr(path, '/') + 1);
	name[strlen(name) - strlen(".gguf")] = 0;
	snprintf(file, sizeof file, "%.200s.json", name);
	vectors_read(&v, folder, file);
	for (w = 0; w < (lean ? 1 : N_WAY); w++)
		if (ways[w].run < v.n_run)
			way(name, path, &v, w);
	vectors_free(&v);
}

int main(int argc, char **argv)
{
	const char *top;
	char folder[2048], pattern[2100];
	size_t i, n = 0;
	glob_t g;

	verbose = argc > 1 && !strcmp(argv[1], "-v");
	argv += verbose;
	argc -= verbose;
	top = argc > 1 ? argv[1] : getenv("srcdir");
	snprintf(folder, sizeof folder, "%s/tests/golden/arch", top ? top : ".");
	snprintf(pattern, sizeof pattern, "%s/*.gguf", folder);
	check(cusim_mode("poison"), "a mode");
	if (glob(pattern, 0, NULL, &g) == 0) {
		for (i = 0; i < g.gl_pathc; i++) {
			bool wanted = argc < 3;
			int k;

			for (k = 2; k < argc; k++)
				wanted = wanted || strstr(g.gl_pathv[i], argv[k]);
			n += wanted;
			if (wanted)
				model(folder, g.gl_pathv[i], under_sanitizer());
		}
		globfree(&g);
	}
	check(argc > 2 || n >= ARCHS, "%zu models of architectures: nll within %.2g (exact) and %.2g", n, worst[1], worst[0]);
	check(cusim_faults(NULL) == 0, "no faults of the device");
	return check_status();
}
