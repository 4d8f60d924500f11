/*
 * Golden: the tiny models against tests/tools/streaming_nll.py, far past their
 * windows; and what must hold bitwise: any chunk, any number of threads, any
 * instruction set, and the bounded catch-up.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/model/sample.h"
#include "tests/golden/rig.h"

/* The best machine takes all chunks; the others show that they equal it. */
static const uint32_t chunks[] = { 1, 7, 64, 256 }, few[] = { 7, 256 };
static const struct { const char *isa; unsigned n_thread; const uint32_t *chunks; size_t n; } machines[] = {
	{ NULL, 1, chunks, 4 }, { NULL, 2, chunks, 4 }, { "scalar", 2, few, 2 }, { "avx2", 1, few, 2 },
	{ "avxvnni", 1, few, 1 }, { "avx512", 2, few, 1 },
};

static bool same(const double *a, const double *b, size_t n)
{
	return memcmp(a, b, n * sizeof *a) == 0;
}

/* Every window of the vectors on one machine; first: the values that all others
 * must equal bitwise ([run][mode][token]; filled where NULL). */
static void machine(const char *name, const char *path, const struct vectors *v, size_t which, double *first[16][2])
{
	const char *isa = machines[which].isa ? machines[which].isa : "best";
	const unsigned n_thread = machines[which].n_thread;
	const struct rig_params p = { .isa = machines[which].isa, .n_thread = n_thread, .n_chunk = 256, .type = KV_F32, .most = { 16, 80 } };
	size_t n = v->n_token - 1, i, c;
	double *nll = calloc(n, sizeof *nll), far;
	struct rig r;
	int exact;

	if (!rig_open(&r, path, &p)) {
		free(nll);
		return;
	}
	for (i = 0; i < v->n_run; i++) for (exact = 0; exact < 2; exact++) {
		const struct run *run = &v->runs[i];

		for (c = 0; c < machines[which].n; c++) {
			rig_nll(&r, run->window, exact, v->tokens, v->n_token, machines[which].chunks[c], nll);
			if (!first[i][exact]) {
				first[i][exact] = calloc(n, sizeof *nll);
				memcpy(first[i][exact], nll, n * sizeof *nll);
			}
			check(same(nll, first[i][exact], n), "%s %s, %u threads, %u+%u%s, chunk %u: the same bits (furthest %.2g)",
			      name, isa, n_thread, run->window.n_sink, run->window.n_recent, exact ? " exact" : "",
			      machines[which].chunks[c], furthest(nll, first[i][exact], n));
		}
		far = furthest(nll, run->nll, n);
		if (exact)
			check(far < 2e-3, "%s %s %u+%u exact: every nll within 2e-3 (furthest %.2g)", name, isa,
			      run->window.n_sink, run->window.n_recent, far);
	}
	rig_close(&r);
	free(nll);
}

/* The state after all tokens, and after the head and the last ones alone. */
static void catch_up(const char *name, const char *path, const struct vectors *v, struct window w, uint32_t chunk)
{
	const struct rig_params p = { .n_thread = 2, .n_chunk = 64, .type = KV_F16, .most = { 16, 80 } };
	struct timeline all = { .window = w }, jump = { .window = w };
	struct rig r;
	uint64_t replay;
	float *want;

	if (!rig_open(&r, path, &p))
		return;
	replay = model_replay(r.model, w);
	check(replay + w.n_sink + 10 < v->n_token, "%s %u+%u: the replay of %u tokens is shorter than the text", name,
	      w.n_sink, w.n_recent, (unsigned)replay);
	rig_feed(&r, &all, v->tokens, v->n_token, 64, NULL, NULL);
	want = malloc(r.n_vocab * sizeof *want);
	memcpy(want, r.logits, r.n_vocab * sizeof *want);
	if (w.n_sink)
		rig_feed(&r, &jump, v->tokens, w.n_sink, chunk, NULL, NULL);
	jump.start = jump.pos = v->n_token - replay;
	rig_feed(&r, &jump, v->tokens + jump.pos, v->n_token - jump.pos, chunk, NULL, NULL);
	check(memcmp(want, r.logits, r.n_vocab * sizeof *want) == 0,
	      "%s %u+%u: head and last %u tokens at chunk %u give the logits of all, bitwise", name, w.n_sink,
	      w.n_recent, (unsigned)replay, chunk);
	jump = (struct timeline){ .window = w };
	if (w.n_sink)
		rig_feed(&r, &jump, v->tokens, w.n_sink, chunk, NULL, NULL);
	jump.start = jump.pos = v->n_token - replay / 2;
	rig_feed(&r, &jump, v->tokens + jump.pos, v->n_token - jump.pos, chunk, NULL, NULL);
	check(memcmp(want, r.logits, r.n_vocab * sizeof *want) != 0, "%s %u+%u: half of them do not", name, w.n_sink, w.n_recent);
	free(want);
	rig_close(&r);
}

static void model(const char *folder, const char *data, const char *name)
{
	double *first[16][2] = { { NULL } };
	char path[4096], file[64];
	struct vectors v;
	size_t i;

	snprintf(path, sizeof path, "%s/%s.gguf", data, name);
	snprintf(file, sizeof file, "%s.json", name);
	vectors_read(&v, folder, file);
	for (i = 0; i < sizeof machines / sizeof *machines; i++)
		machine(name, path, &v, i, first);
	catch_up(name, path, &v, (struct window){ 4, 20 }, 1);
	catch_up(name, path, &v, (struct window){ 4, 20 }, 7);
	catch_up(name, path, &v, (struct window){ 0, 24 }, 64);
	for (i = 0; i < v.n_run; i++) {
		free(first[i][0]);
		free(first[i][1]);
	}
	vectors_free(&v);
}

int main(int argc, char **argv)
{
	const char *top = argc > 1 ? argv[1] : getenv("srcdir");
	char folder[2048], data[2048];

	snprintf(folder, sizeof folder, "%s/tests/golden", top ? top : ".");
	snprintf(data, sizeof data, "%s/tests/data", top ? top : ".");
	model(folder, data, "tiny-llama");
	model(folder, data, "tiny-gemma3");
	return check_status();
}
