/*
 * Sixteen tokens of the small model through the CUDA backend, past a window of 4+8,
 * against the exact mode of the CPU backend: every nll within 2e-2.  Skipped where
 * the model is not.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "tests/golden/rig.h"

#define N 17u                    /* the last is only told */

static const struct window window = { 4, 8 };

static void nll_of(const char *path, const struct backend_ops *ops, bool exact, enum kv_type type, const int32_t *ids, double *nll)
{
	const struct rig_params p = { .ops = ops, .n_thread = 2, .n_chunk = 8, .type = type, .most = window };
	struct rig r;

	if (!rig_open(&r, path, &p))
		exit(1);
	rig_nll(&r, window, exact, ids, N, 8, nll);
	rig_close(&r);
}

int main(int argc, char **argv)
{
	const char *top = argc > 1 ? argv[1] : getenv("srcdir");
	const char *path = model_path("SINKD_SMALL_MODEL", "SmolLM2-135M-Instruct.Q4_1.gguf");
	double want[N] = { 0 }, nll[N] = { 0 }, far, begin;
	char folder[2048];
	struct vectors v;

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
	nll_of(path, &backend_cpu, true, KV_F32, v.tokens, want);
	begin = now();
	nll_of(path, NULL, false, KV_F16, v.tokens, nll);
	far = furthest(nll, want, N - 1);
	check(want[N - 2] > 0 && far < 2e-2, "%u tokens, %u+%u: every nll within 2e-2 of the CPU backend's (furthest %.2g, %.1f s)", N - 1,
	      window.n_sink, window.n_recent, far, now() - begin);
	vectors_free(&v);
	return check_status();
}
