/*
 * Tokens per second of a model on the CPU backend, without the daemon.
 *
 *     tests/bench/engine MODEL.gguf [THREADS [ISA [SINKS RECENT]]]
 *
 * Prefill of 512 tokens (logits of the last alone) in chunks of 64 and 256, decode of
 * 128, and decode again after the window has wrapped.  CSV on standard output.
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/golden/rig.h"

#define N_PREFILL 512
#define N_DECODE 128

static void row(const struct rig *r, const char *what, uint32_t chunk, size_t n, double seconds)
{
	printf("%s,\"%s\",%s,%u,%zu,%.3f,%.1f\n", model_info(r->model)->name, r->ops->describe(r->backend), what, chunk, n,
	       seconds, (double)n / seconds);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	struct rig_params p = { .n_thread = argc > 2 ? (unsigned)atoi(argv[2]) : 2, .isa = argc > 3 ? argv[3] : NULL,
	                        .n_chunk = 256, .type = KV_F16 };
	struct timeline t;
	int32_t ids[N_PREFILL];
	struct window w = { argc > 4 ? (uint32_t)atoi(argv[4]) : 4, argc > 5 ? (uint32_t)atoi(argv[5]) : 2000 };
	double begin = now();
	struct rig r;
	uint32_t chunk;
	size_t i;

	if (argc < 2) {
		fprintf(stderr, "usage: tests/bench/engine MODEL.gguf [THREADS [ISA [SINKS RECENT]]]\n");
		return 2;
	}
	p.most = w;
	if (!rig_open(&r, argv[1], &p))
		return 1;
	printf("model,backend,what,chunk,tokens,seconds,tokens_per_second\n");
	row(&r, "load", 0, 1, now() - begin);
	for (i = 0; i < N_PREFILL; i++)
		ids[i] = (int32_t)(i * 7919 % (r.n_vocab - 1000) + 500);
	for (chunk = 64; chunk <= 256; chunk *= 4) {
		t = (struct timeline){ .window = w };
		begin = now();
		rig_feed(&r, &t, ids, N_PREFILL, chunk, NULL, NULL);
		row(&r, "prefill", chunk, N_PREFILL, now() - begin);
	}
	begin = now();
	rig_feed(&r, &t, ids, N_DECODE, 1, NULL, NULL);
	row(&r, "decode", 1, N_DECODE, now() - begin);
	while (t.pos < (uint64_t)w.n_sink + w.n_recent)
		rig_feed(&r, &t, ids, N_PREFILL, 256, NULL, NULL);
	begin = now();
	rig_feed(&r, &t, ids, N_DECODE, 1, NULL, NULL);
	row(&r, "decode_full_window", 1, N_DECODE, now() - begin);
	rig_close(&r);
	return 0;
}
