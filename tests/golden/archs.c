/*
 * Golden: every architecture against Hugging Face's transformers, dense and far past
 * the window (tests/golden/arch/README), on every instruction set; and copies of them
 * in Q8_0 and Q4_0, whose quantized products must say what their weights say.
 *
 *   archs [-v] [NAME ...]        -v: what passes, too
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/model/arch.h"
#include "tests/golden/requantize.h"
#include "tests/golden/rig.h"

/* File, its architecture, and whether rotation depends on the cache's size. */
static const struct golden { const char *name, *arch; bool frozen; } goldens[] = {
	{ "llama", "llama", false }, { "llama3", "llama", false }, { "llama-linear", "llama", false },
	{ "llama-yarn", "llama", false }, { "mistral", "llama", false },
	{ "mpt", "mpt", false }, { "falcon7b", "falcon", false }, { "falcon40b", "falcon", false },
	{ "gptneox", "gptneox", false }, { "gptneox-serial", "gptneox", false }, { "gptj", "gptj", false },
	{ "stablelm", "stablelm", false }, { "stablelm-12b", "stablelm", false },
	{ "qwen2", "qwen2", false }, { "qwen3", "qwen3", false },
	{ "gemma2", "gemma2", false }, { "gemma3", "gemma3", false },
	{ "phi3", "phi3", false }, { "phi3-long", "phi3", true },
	{ "olmo2", "olmo2", false }, { "olmo3", "olmo2", false }, { "smollm3", "smollm3", false }, { "starcoder2", "starcoder2", false },
	{ "mixtral", "llama", false }, { "qwen3moe", "qwen3moe", false }, { "gpt-oss", "gpt-oss", false },
	{ "gemma2-27b", "gemma2", false }, { "gemma3-27b", "gemma3", false },
};
static const char *const others[] = { "avx2", "avxvnni", "scalar" };       /* beside the best one */
#define N_CHUNK 64

static bool verbose, lean;             /* lean: under sanitizers every path once is enough */
static double worst_exact, worst_ppl[2];

static void say(bool ok, const char *what, const struct golden *g, const struct run *run, double far, const char *unit)
{
	if (!ok || verbose)
		check(ok, "%s %u+%u: %s (furthest %.2g%s)", g->name, run->window.n_sink, run->window.n_recent, what, far, unit);
}

static bool open_for(struct rig *r, const char *path, const struct run *run, const char *isa)
{
	const struct rig_params p = {
		.isa = isa, .n_thread = 1, .n_chunk = N_CHUNK, .type = KV_F32, .most = run->window,
		.n_cache = run->window.n_sink + run->window.n_recent,
	};

	return rig_open(r, path, &p);
}

static void one_run(const struct golden *g, const char *path, const struct vectors *v, const struct run *run, bool all)
{
	static const uint32_t chunks[] = { N_CHUNK, 1, 7 };
	size_t i, n = v->n_token - 1;
	double *first = calloc(n, sizeof *first), *nll = calloc(n, sizeof *nll), far;
	struct rig r;

	if (open_for(&r, path, run, NULL)) {
		for (i = 0; i < 3; i++) {
			if (lean && chunks[i] == 1)
				continue;
			rig_nll(&r, run->window, true, v->tokens, v->n_token, chunks[i], i ? nll : first);
			if (i)
				say(!memcmp(first, nll, n * sizeof *nll), "any chunk, the same bits", g, run, furthest(first, nll, n), "");
		}
		rig_close(&r);
	}
	far = furthest(first, run->nll, n);
	worst_exact = far > worst_exact ? far : worst_exact;
	say(far < 2e-4, "every nll within 2e-4", g, run, far, "");      /* the kinds of GELU are 2e-3 apart */
	for (i = 0; all && !lean && i < sizeof others / sizeof *others; i++) {
		if (!open_for(&r, path, run, others[i]))
			continue;
		rig_nll(&r, run->window, true, v->tokens, v->n_token, N_CHUNK, nll);
		rig_close(&r);
		say(!memcmp(first, nll, n * sizeof *nll), others[i], g, run, furthest(first, nll, n), "");
	}
	free(first);
	free(nll);
}

/* Quantized products against the same weights in float32. */
static void quantized(const struct golden *g, const char *path, const struct vectors *v, const struct run *run, bool four)
{
	const double most = four ? 0.05 : 0.01;
	size_t n = v->n_token - 1;
	double *exact = calloc(n, sizeof *exact), *fast = calloc(n, sizeof *fast), far;
	char copy[64];
	struct rig r;
	int fd = requantize(path, four ? QUANT_Q4_0 : QUANT_Q8_0);

	snprintf(copy, sizeof copy, "/proc/self/fd/%d", fd);
	if (open_for(&r, copy, run, NULL)) {
		rig_nll(&r, run->window, true, v->tokens, v->n_token, N_CHUNK, exact);
		rig_nll(&r, run->window, false, v->tokens, v->n_token, N_CHUNK, fast);
		far = fabs(exp(mean(fast, n) - mean(exact, n)) - 1);
		worst_ppl[four] = far > worst_ppl[four] ? far : worst_ppl[four];
		say(far < most, four ? "Q4_0, ppl within 5 %" : "Q8_0, ppl within 1 %", g, run, 100 * far, " %");
		say(furthest(exact, run->nll, n) > 1e-3, "a rounded copy says something else", g, run, furthest(exact, run->nll, n), "");
		rig_nll(&r, run->window, false, v->tokens, v->n_token, 7, exact);
		say(!memcmp(exact, fast, n * sizeof *fast), "quantized, any chunk, the same bits", g, run, furthest(exact, fast, n), "");
		rig_close(&r);
	}
	close(fd);
	free(exact);
	free(fast);
}

static void golden(const struct golden *g, const char *folder)
{
	char path[4096], file[64];
	struct vectors v;
	size_t i;

	snprintf(path, sizeof path, "%s/%s.gguf", folder, g->name);
	snprintf(file, sizeof file, "%s.json", g->name);
	vectors_read(&v, folder, file);
	worst_exact = worst_ppl[0] = worst_ppl[1] = 0;
	check(v.n_run > 1 && v.runs[0].window.n_recent >= v.n_token, "%s: a dense run and others", g->name);
	for (i = 0; i < (lean ? 2 : v.n_run); i++)
		one_run(g, path, &v, &v.runs[i], i < 2);
	for (i = 0; i < 2; i++) {
		quantized(g, path, &v, &v.runs[i], false);
		if (lean)
			break;
		quantized(g, path, &v, &v.runs[i], true);
	}
	if (g->frozen) {               /* a test of the test: the other divisors say something else */
		struct run wrong = v.runs[0];
		double *nll = calloc(v.n_token, sizeof *nll);
		const struct rig_params p = { .n_thread = 1, .n_chunk = N_CHUNK, .type = KV_F32, .most = wrong.window, .n_cache = 1 };
		struct rig r;

		rig_open(&r, path, &p);
		rig_nll(&r, wrong.window, true, v.tokens, v.n_token, N_CHUNK, nll);
		check(model_info(r.model)->n_ctx == 128, "%s: its context is the original one then", g->name);
		check(furthest(nll, wrong.nll, v.n_token - 1) > 2e-3, "%s: a cache of another size turns otherwise", g->name);
		rig_close(&r);
		free(nll);
	}
	check(true, "%s: nll within %.2g of transformers; ppl within %.2g %% (Q8_0), %.2g %% (Q4_0) of exact products", g->name,
	      worst_exact, 100 * worst_ppl[0], 100 * worst_ppl[1]);
	vectors_free(&v);
}

int main(int argc, char **argv)
{
	const char *top = getenv("srcdir");
	const struct arch *a;
	char folder[2048];
	size_t i, k;
	int n;

	if (argc > 1 && !strcmp(argv[1], "-v"))
		verbose = true;
	lean = under_sanitizer();
	snprintf(folder, sizeof folder, "%s/tests/golden/arch", top ? top : ".");
	for (i = 0; i < sizeof goldens / sizeof *goldens; i++) {
		bool wanted = argc == 1 + verbose;

		for (n = 1 + verbose; n < argc; n++)
			wanted = wanted || !strcmp(argv[n], goldens[i].name);
		if (wanted)
			golden(&goldens[i], folder);
	}
	for (i = 0; (a = arch_at(i)); i++) {
		for (k = 0; k < sizeof goldens / sizeof *goldens && strcmp(goldens[k].arch, a->name); k++)
			;
		if (k == sizeof goldens / sizeof *goldens)
			check(false, "%s has no golden", a->name);
	}
	return check_status();
}
