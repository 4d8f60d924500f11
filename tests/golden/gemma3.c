/*
 * Golden: Gemma 3 270M, teacher-forced on llama.cpp's own greedy output
 * (gemma3-greedy.json, see tests/tools/make_gemma_golden.py).  The first choice may
 * differ only where llama.cpp's two highest logits are within 0.1 nat, and at 1 % of
 * the positions: of the continuations, and of everything, 1,500 tokens of a novel
 * among it.  Every likelihood is within 0.05 of llama.cpp's.
 *
 * --exact runs it in the exact mode as well, which is slower.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/model/sample.h"
#include "tests/golden/rig.h"

struct prompt {
	size_t n, n_prompt;
	int32_t *tokens;
	double *top1, *gap, *nll;
	/* ours */
	size_t n_other, n_wide;    /* other choices, and those where the gap is not small */
	size_t n_other_new;        /* in the continuation */
	double sum, sum_theirs, far;
	const struct rig *rig;
};

static void each(void *ctx, size_t i, const float *logits)
{
	struct prompt *p = ctx;
	size_t j, best = 0, n = p->rig->n_vocab;
	double nll;

	for (j = 1; j < n; j++)
		if (logits[j] > logits[best])
			best = j;
	if (best != (size_t)p->top1[i]) {
		p->n_other++;
		p->n_other_new += i >= p->n_prompt - 1;
		p->n_wide += !(p->gap[i] < 0.1);
		printf("       position %zu: %zu, llama.cpp has %.0f with a gap of %.4f\n", i, best, p->top1[i], p->gap[i]);
	}
	if (i + 1 < p->n) {
		nll = sample_nll(logits, n, p->tokens[i + 1]);
		p->sum += nll;
		p->sum_theirs += p->nll[i];
		p->far = fabs(nll - p->nll[i]) > p->far || isnan(nll) ? fabs(nll - p->nll[i]) : p->far;
	}
}

/* Reads one prompt from text on; where it ends, NULL: no more. */
static const char *prompt_read(const char *text, struct prompt *p)
{
	const char *at = strstr(text, "\"n_prompt\": ");
	double *ids;
	size_t n, i;

	if (!at)
		return NULL;
	memset(p, 0, sizeof *p);
	p->n_prompt = (size_t)strtod(at + 12, NULL);
	ids = list_read(at, "tokens", &p->n, &at);
	p->top1 = list_read(at, "top1", &n, &at);
	p->gap = list_read(at, "gap", &n, &at);
	p->nll = list_read(at, "nll", &n, &at);
	p->tokens = calloc(p->n, sizeof *p->tokens);
	for (i = 0; i < p->n; i++)
		p->tokens[i] = (int32_t)ids[i];
	free(ids);
	return at;
}

static void run(struct rig *r, const char *text, bool exact)
{
	size_t n_other = 0, n = 0, n_other_new = 0, n_new = 0;
	struct prompt p;

	while ((text = prompt_read(text, &p))) {
		struct timeline t = { .window = { 4, 2000 }, .exact = exact };
		double begin = now();

		p.rig = r;
		rig_feed(r, &t, p.tokens, p.n, 64, each, &p);
		check(p.n_wide == 0, "%zu + %zu tokens%s: %zu other choices, none where the gap is 0.1 nat or more (%.1f s)",
		      p.n_prompt, p.n - p.n_prompt, exact ? " exact" : "", p.n_other, now() - begin);
		check(p.far < 0.05, "  mean nll %.4f, llama.cpp's %.4f, every token's within 0.05 (furthest %.3f)",
		      p.sum / (double)(p.n - 1), p.sum_theirs / (double)(p.n - 1), p.far);
		n_other += p.n_other;
		n_other_new += p.n_other_new;
		n += p.n;
		n_new += p.n - p.n_prompt;
		free(p.tokens);
		free(p.top1);
		free(p.gap);
		free(p.nll);
	}
	check(n_new >= 300 && 100 * n_other_new <= n_new, "%zu other choices of %zu, at most 1 %%", n_other_new, n_new);
	check(n >= 1800 && 100 * n_other <= n, "with the prompts %zu of %zu, at most 1 %%", n_other, n);
}

int main(int argc, char **argv)
{
	const char *top = getenv("srcdir"), *path = model_path("SINKD_GEMMA_MODEL", "gemma-3-270m-q4_k_m.gguf");
	const struct rig_params p = { .n_thread = 2, .n_chunk = 64, .type = KV_F16, .most = { 4, 2000 } };
	char folder[2048], *text;
	struct rig r;

	if (under_sanitizer()) {
		printf("skip   too slow under a sanitizer\n");
		return 77;
	}
	if (!path) {
		printf("skip   the gemma3 model is not here; tools/fetch-model gemma3 brings it\n");
		return 77;
	}
	snprintf(folder, sizeof folder, "%s/tests/golden", top ? top : ".");
	text = file_read(folder, "gemma3-greedy.json");
	if (!rig_open(&r, path, &p))
		return 1;
	run(&r, text, false);
	if (argc > 1 && strcmp(argv[1], "--exact") == 0)
		run(&r, text, true);
	rig_close(&r);
	free(text);
	return check_status();
}
