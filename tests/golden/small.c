/*
 * Golden: SmolLM2-135M against the reference implementation's evaluation loop
 * (smollm2-northanger.json says where it comes from).  Exact mode: every token's
 * nll within 2e-3.  Quantized: each run's perplexity within 1 %, and the same bits
 * for chunks of 1 and 64 and for 1 and 2 threads.
 *
 * --full also takes the chunks 1, 7 and 256 in the exact mode, which takes minutes.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/golden/rig.h"

static void exact_check(struct rig *r, const struct vectors *v, const struct run *run, uint32_t chunk, double *nll)
{
	double far, begin = now();

	rig_nll(r, run->window, true, v->tokens, v->n_token, chunk, nll);
	far = furthest(nll, run->nll, run->n);
	check(far < 2e-3, "%u+%u exact, chunk %u: every nll within 2e-3 (furthest %.2g, %.1f s)",
	      run->window.n_sink, run->window.n_recent, chunk, far, now() - begin);
}

static double perplexity(struct rig *r, const struct vectors *v, const struct run *run, double *nll)
{
	rig_nll(r, run->window, false, v->tokens, v->n_token, 64, nll);
	return exp(mean(nll, run->n));
}

static void quantized_check(struct rig *r, const struct vectors *v, const struct run *run, double *nll)
{
	double begin = now(), ppl = perplexity(r, v, run, nll);

	check(fabs(ppl / run->ppl - 1) < 0.01, "%u+%u quantized: ppl %.4f, the reference's %.4f (%+.2f %%, %.1f s)",
	      run->window.n_sink, run->window.n_recent, ppl, run->ppl, 100 * (ppl / run->ppl - 1), now() - begin);
}

/* What eight bits cost beside a cache of halves and activations of fifteen.  Over so few tokens a
 * perplexity moves by 0.15 % (a cache) or 0.3 % (activations) by chance, whichever way sums are rounded: it
 * may seem to win more than it loses, and long_text_check has the rest.  How far each token's nll moves,
 * whichever way, can be told to a twentieth.  Without sinks, where the model is lost anyhow (see the
 * perplexities), four and ten times as much. */
static void eight_bits_check(struct rig *r, const struct vectors *v, const struct run *run, const char *what, double most,
                             double most_ppl, const double *usual, double *nll)
{
	double ppl = perplexity(r, v, run, nll) / exp(mean(usual, run->n)), far = 0;

	for (size_t i = 0; i < run->n; i++)
		far += fabs(nll[i] - usual[i]) / (double)run->n;
	if (run->window.n_sink == 0) {
		most *= 4;
		most_ppl *= 10;
	}
	check(far > 0 && far < most, "%u+%u, %s of eight bits: a token's nll by %.4f on average, at most %.3f",
	      run->window.n_sink, run->window.n_recent, what, far, most);
	check(ppl - 1 < most_ppl && 1 - ppl < fmax(most_ppl, 0.005), "%u+%u, %s of eight bits: ppl %+.3f %%, at most %.1f",
	      run->window.n_sink, run->window.n_recent, what, 100 * (ppl - 1), 100 * most_ppl);
}

static struct rig rig(const char *path, unsigned n_thread, enum kv_type type, unsigned n_act_bit)
{
	const struct rig_params p = { .n_thread = n_thread, .n_act_bit = n_act_bit, .n_chunk = 256, .type = type, .most = { 4, 252 } };
	struct rig r;

	if (!rig_open(&r, path, &p))
		exit(1);
	return r;
}

/* A cache of eight bits over a text long enough to tell 0.2 % from none: its standard error is 0.03 %. */
static void long_text_check(const char *path, const char *top)
{
	static const enum kv_type types[] = { KV_F16, KV_Q8 };
	const struct window w = { 4, 252 };
	char *text = file_read(top, "tests/data/northanger-abbey.txt");
	struct ids ids = rig_ids(path, text, strlen(text));
	double *nll = calloc(ids.n, sizeof *nll), ppl[2];
	struct rig r;

	for (int i = 0; i < 2; i++) {
		r = rig(path, 2, types[i], 0);
		rig_nll(&r, w, false, ids.data, ids.n, 256, nll);
		ppl[i] = exp(mean(nll, ids.n - 1));
		rig_close(&r);
	}
	check(ids.n > 15000 && ppl[1] != ppl[0] && fabs(ppl[1] / ppl[0] - 1) < 0.002,
	      "%zu tokens, cache of eight bits: ppl %.4f, else %.4f (%+.3f %%)", ids.n, ppl[1], ppl[0], 100 * (ppl[1] / ppl[0] - 1));
	free(nll);
	free(text);
	ids_free(&ids);
}

int main(int argc, char **argv)
{
	static const uint32_t chunks[] = { 64, 1, 7, 256 };
	const char *top = getenv("srcdir"), *path = model_path("SINKD_SMALL_MODEL", "SmolLM2-135M-Instruct.Q4_1.gguf");
	bool full = argc > 1 && strcmp(argv[1], "--full") == 0;
	char folder[2048];
	double *nll, *other, *usual[16];
	struct vectors v;
	struct rig r;
	size_t i, c;

	if (under_sanitizer()) {
		printf("skip   too slow under a sanitizer\n");
		return 77;
	}
	if (!path) {
		printf("skip   the small model is not here; tools/fetch-model small brings it\n");
		return 77;
	}
	snprintf(folder, sizeof folder, "%s/tests/golden", top ? top : ".");
	vectors_read(&v, folder, "smollm2-northanger.json");
	nll = calloc(v.n_token, sizeof *nll);
	other = calloc(v.n_token, sizeof *other);
	for (i = 0; i < v.n_run; i++)
		usual[i] = calloc(v.n_token, sizeof *usual[i]);
	r = rig(path, 2, KV_F32, 0);
	for (i = 0; i < v.n_run; i++)
		for (c = 0; c < (full ? sizeof chunks / sizeof *chunks : 1); c++)
			exact_check(&r, &v, &v.runs[i], chunks[c], nll);
	rig_close(&r);
	r = rig(path, 2, KV_F16, 0);
	for (i = 0; i < v.n_run; i++)
		quantized_check(&r, &v, &v.runs[i], usual[i]);
	rig_nll(&r, v.runs[0].window, false, v.tokens, v.n_token, 64, nll);
	rig_nll(&r, v.runs[0].window, false, v.tokens, v.n_token, 1, other);
	check(memcmp(nll, other, (v.n_token - 1) * sizeof *nll) == 0, "chunks of 1 and 64: the same bits");
	rig_close(&r);
	r = rig(path, 1, KV_F16, 0);
	rig_nll(&r, v.runs[0].window, false, v.tokens, v.n_token, 64, other);
	check(memcmp(nll, other, (v.n_token - 1) * sizeof *nll) == 0, "1 and 2 threads: the same bits");
	rig_close(&r);
	r = rig(path, 2, KV_Q8, 0);
	for (i = 0; i < v.n_run; i++)
		eight_bits_check(&r, &v, &v.runs[i], "cache", 0.03, 0.002, usual[i], nll);
	rig_close(&r);
	r = rig(path, 2, KV_F16, 8);
	for (i = 0; i < v.n_run; i++)
		eight_bits_check(&r, &v, &v.runs[i], "activations", 0.075, 0.01, usual[i], nll);
	rig_close(&r);
	r = rig(path, 2, KV_Q8, 8);
	for (i = 0; i < v.n_run; i++)
		eight_bits_check(&r, &v, &v.runs[i], "cache and activations", 0.08, 0.01, usual[i], nll);
	rig_close(&r);
	long_text_check(path, top ? top : ".");
	free(nll);
	free(other);
	for (i = 0; i < v.n_run; i++)
		free(usual[i]);
	vectors_free(&v);
	return check_status();
}
