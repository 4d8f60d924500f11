/* See desk.h. */
#include "tests/kernels/desk.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

uint64_t rng_next(struct rng *r)
{
	uint64_t z = r->state += UINT64_C(0x9e3779b97f4a7c15);       /* splitmix64 */

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

uint32_t rng_below(struct rng *r, uint32_t n)
{
	return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}

float rng_normal(struct rng *r)
{
	float sum = 0;

	for (int i = 0; i < 12; i++)
		sum += (float)(rng_next(r) >> 40) * 0x1p-24f;
	return sum - 6.0f;
}

#ifdef DESK_CUSIM
#include "tests/cusim/modes.h"

extern const struct backend_ops sinkd_backend;
const struct backend_ops *const desk_ops = &sinkd_backend;
const bool desk_rounds = true, desk_eight = false, desk_words = false;
const enum kv_type desk_kv_most = KV_F32;
const char *const desk_layout = "cuda-kv3-f32";

static const struct place places[] = {
#ifdef DESK_MODULE                /* one device, which has no modes */
	{ NULL, 1, 0 },
#else
	{ "poison", 1, 0 }, { "poison,lazy,order:reverse", 1, 0 }, { "poison,unreadable,order:7", 1, 0 },
#endif
};

/* A fault of the device also fails the step, and so the test. */
static bool place_choose(struct place p, struct backend_params *q)
{
	bool known = cusim_mode(p.isa);

	assert(known);
	q->isa = NULL;
	return true;
}
#else
const struct backend_ops *const desk_ops = &backend_cpu;
const bool desk_rounds = true, desk_eight = true, desk_words = true;
const enum kv_type desk_kv_most = KV_Q8;
const char *const desk_layout = "cpu-kv3-f32-b16";

static const struct place places[] = {
	{ "scalar", 1, 0 }, { "scalar", 2, 0 }, { "avx2", 1, 0 }, { "avx2", 2, 0 },
	{ "avxvnni", 1, 0 }, { "avx512", 1, 0 }, { "avx512", 2, 0 },
	{ NULL, 3, 0 },
};

static bool place_choose(struct place p, struct backend_params *q)
{
	struct backend_params one = { .n_thread = 1, .n_row_max = 1, .isa = p.isa };
	struct backend *b;
	int rc = backend_cpu.open(&b, &one, NULL);

	q->isa = p.isa;
	if (rc == -ENOTSUP)
		return false;
	assert(rc == 0);
	backend_cpu.close(b);
	return true;
}
#endif

bool place_at(size_t i, struct place *out)
{
	struct backend_params unused;

	for (size_t k = 0; k < sizeof(places) / sizeof(places[0]); k++)
		if (place_choose(places[k], &unused) && i-- == 0) {
			*out = places[k];
			return true;
		}
	return false;
}

struct backend *place_open(struct place p, uint32_t n_row_max)
{
	struct backend_params params = { p.n_thread, n_row_max, p.isa, p.n_act_bit };
	struct backend_why why;
	struct backend *b;
	bool here = place_choose(p, &params);
	int rc = desk_ops->open(&b, &params, &why);

	assert(here && rc == 0);
	return b;
}

/* Where a format keeps its halves; -1: none.  The rest of a block may be anything. */
static const struct { uint32_t type; int d, m; } halves[] = {
	{ QUANT_Q4_0, 0, -1 }, { QUANT_Q4_1, 0, 2 }, { QUANT_Q5_0, 0, -1 }, { QUANT_Q5_1, 0, 2 },
	{ QUANT_Q8_0, 0, -1 }, { QUANT_Q2_K, 80, 82 }, { QUANT_Q3_K, 108, -1 }, { QUANT_Q4_K, 0, 2 },
	{ QUANT_Q5_K, 0, 2 }, { QUANT_Q6_K, 208, -1 },
};

static void put_half(uint8_t *p, float x)
{
	uint16_t h = quant_to_f16(x);

	memcpy(p, &h, 2);
}

static void random_block(struct rng *r, const struct quant *q, uint8_t *p, float size)
{
	float x = size * rng_normal(r);
	uint32_t bits;

	for (uint32_t i = 0; i < q->n_byte; i++)
		p[i] = (uint8_t)rng_next(r);
	if (q->type == QUANT_F32)
		memcpy(p, &x, 4);
	if (q->type == QUANT_F16)
		put_half(p, x);
	memcpy(&bits, &x, 4);
	if (q->type == QUANT_BF16)
		memcpy(p, (uint16_t[]){ (uint16_t)(bits >> 16) }, 2);
	for (size_t i = 0; i < sizeof(halves) / sizeof(halves[0]); i++)
		if (halves[i].type == q->type) {
			put_half(p + halves[i].d, 0.02f * size * rng_normal(r));
			if (halves[i].m >= 0)
				put_half(p + halves[i].m, 0.1f * size * rng_normal(r));
		}
}

struct matrix *matrix_random(struct rng *r, uint32_t type, uint32_t n_in, uint32_t n_out, float size)
{
	struct matrix *m = calloc(1, sizeof(*m));
	const struct quant *q = quant_find(type);
	size_t n_block = (size_t)n_in / q->n_block * n_out;

	assert(n_in % q->n_block == 0);
	m->quant = q;
	m->n_in = n_in;
	m->n_out = n_out;
	m->bytes = malloc(n_block * q->n_byte);
	m->values = malloc((size_t)n_in * n_out * sizeof(float));
	for (size_t i = 0; i < n_block; i++)
		random_block(r, q, m->bytes + i * q->n_byte, size);
	q->dequantize(m->bytes, m->values, n_block);
	return m;
}

void matrix_free(struct matrix *m)
{
	if (!m)
		return;
	free(m->bytes);
	free(m->values);
	free(m);
}

struct weight *matrix_load(struct backend *b, const struct matrix *m)
{
	struct backend_why why = { "" };
	struct weight *w = NULL;
	int rc = desk_ops->weight_load(b, m->quant->type, m->n_in, m->n_out, m->bytes, &w, &why);

	assert(rc == 0);
	return w;
}
