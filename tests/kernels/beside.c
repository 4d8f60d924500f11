/*
 * Products of sessions that decode beside one that has many rows: where a backend is not
 * bitwise, the rows that decode are.  A part of products.c's program.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/products.h"

struct mixed {
	struct matrix *w, *bias, *inputs;
	uint32_t n_decode, n_prefill;
	bool exact, select;              /* select: products of the output rows, which are all */
	bool large;                      /* values that no half has */
	struct backend *b;
	struct kv *kv;
};

/* Rows from first on in one batch: two products of the same act, into the same rows of
 * out, which has n_out with bias and n_out without. */
static void mixed_play(const struct mixed *m, uint32_t first, uint32_t n, float *out)
{
	struct weight *w = matrix_load(m->b, m->w), *table = matrix_load(m->b, m->inputs), *bias = matrix_load(m->b, m->bias);
	const uint32_t n_out = m->w->n_out;
	struct act *x, *y[2];
	struct batch_row rows[ROWS];
	struct batch_seq seqs[ROWS];
	uint32_t outputs[ROWS];
	struct batch batch = { n, 0, m->select ? n : 0, rows, seqs, outputs, m->exact };
	float *got = malloc(n * n_out * sizeof *got);

	for (uint32_t i = 0; i < n; i++) {
		const uint32_t row = first + i, prefill = row > m->n_decode ? row - m->n_decode : 0;

		if (prefill == 0 || i == 0)
			batch.n_seq++;
		rows[i] = (struct batch_row){ token_of(row), batch.n_seq - 1, prefill };
		seqs[batch.n_seq - 1] = (struct batch_seq){ row - prefill, { 4, 8 }, 0 };
		outputs[i] = i;
	}
	assert_int_equal(desk_ops->act_new(m->b, m->w->n_in, &x), 0);
	for (int k = 0; k < 2; k++)
		assert_int_equal(desk_ops->act_new(m->b, n_out, &y[k]), 0);
	desk_ops->begin(m->b, m->kv, &batch);
	desk_ops->embed(m->b, table, 1, x);
	if (m->select)
		desk_ops->select(m->b, x, x);
	for (int k = 0; k < 2; k++)
		desk_ops->matmul(m->b, w, k ? NULL : bias, x, y[k]);
	for (uint32_t k = 0; k < 2; k++) {
		desk_ops->read(m->b, y[k], got);
		for (uint32_t i = 0; i < n; i++)
			memcpy(out + ((first + i) * 2 + k) * n_out, got + i * n_out, n_out * sizeof *got);
		desk_ops->act_free(m->b, y[k]);
	}
	assert_int_equal(desk_ops->end(m->b, NULL), 0);
	desk_ops->act_free(m->b, x);
	desk_ops->weight_free(m->b, w);
	desk_ops->weight_free(m->b, bias);
	desk_ops->weight_free(m->b, table);
	free(got);
}

/* A row against a sum in double, and what halves may add. */
static void mixed_check(const struct mixed *m, uint32_t row, const float *out)
{
	const uint32_t n_in = m->w->n_in, n_out = m->w->n_out;
	const float *x = m->inputs->values + (size_t)token_of(row) * n_in;

	for (uint32_t j = 0; j < 2 * n_out; j++) {
		const float *w = m->w->values + (size_t)(j % n_out) * n_in;
		double sum = j < n_out ? (double)m->bias->values[j] : 0, size = fabs(sum);

		for (uint32_t i = 0; i < n_in; i++) {
			sum += (double)w[i] * (double)x[i];
			size += fabs((double)w[i] * (double)x[i]);
		}
		if (!(fabs((double)out[j] - sum) <= 0x1p-10 * size + 1e-12))
			fail_msg("%s %u x %u row %u of %u + %u, out %u: %.9g, should be %.9g", m->w->quant->name, n_in, n_out, row,
			         m->n_decode, m->n_prefill, j, (double)out[j], sum);
	}
}

static bool rounds_prefill(const struct mixed *m)
{
	return !desk_ops->bitwise && m->n_prefill >= 16 && !m->exact && !m->select && !m->large
	       && m->w->quant->type != QUANT_F32;
}

/* Who decodes has the bits that it has alone; prefill those of few rows, or no fewer digits than halves. */
static void mixed_case(const struct mixed *m)
{
	const uint32_t n_all = m->n_decode + m->n_prefill, n_row = 2 * m->w->n_out;
	float *few = calloc(n_all * n_row, sizeof *few), *all = calloc(n_all * n_row, sizeof *all);
	const bool rounds = rounds_prefill(m);
	uint32_t n_same = m->n_decode, n;

	mixed_play(m, 0, n_all, all);
	for (uint32_t i = 0; i < m->n_decode; i++)
		mixed_play(m, i, 1, few);
	for (uint32_t i = m->n_decode; i < n_all; i += n) {
		n = n_all - i < 9 ? n_all - i : 9;
		mixed_play(m, i, n, few);
		if (rounds)              /* other bits, or nothing of this was tested */
			assert_memory_not_equal(few + i * n_row, all + i * n_row, n * n_row * sizeof *few);
		else
			n_same += n;
	}
	if (memcmp(few, all, n_same * n_row * sizeof *few))
		fail_msg("%s, %u rows that decode beside %u: not the bits that they have alone", m->w->quant->name, m->n_decode, m->n_prefill);
	for (uint32_t i = n_same; i < n_all; i++)
		mixed_check(m, i, all + i * n_row);
	free(few);
	free(all);
}

static struct mixed mixed_new(struct rng *r, struct place p, uint32_t type, uint32_t n_in, uint32_t n_out)
{
	struct mixed m = { .w = matrix_random(r, type, n_in, n_out, 1), .inputs = matrix_random(r, QUANT_F32, n_in, TOKENS, 1),
	                   .bias = matrix_random(r, QUANT_F32, n_out, 1, 1), .b = place_open(p, ROWS) };

	m.kv = cache_open(m.b, ROWS);
	return m;
}

static void mixed_free(struct mixed *m)
{
	desk_ops->kv_close(m->b, m->kv);
	desk_ops->close(m->b);
	matrix_free(m->w);
	matrix_free(m->inputs);
	matrix_free(m->bias);
}

/* MXFP4 has scales up to 2^127: tamed, those of a model. */
static void tame(struct matrix *m)
{
	const size_t n_block = (size_t)m->n_in * m->n_out / m->quant->n_block;

	if (m->quant->type != QUANT_MXFP4)
		return;
	for (size_t i = 0; i < n_block; i++)
		m->bytes[i * m->quant->n_byte] = (uint8_t)(120 + m->bytes[i * m->quant->n_byte] % 8);
	m->quant->dequantize(m->bytes, m->values, n_block);
}

/* Rows of sizes that halves do not have, among others. */
static void make_uneven(struct matrix *m)
{
	static const float sizes[] = { 1, 1e5f, 3e-7f, 2e9f, 1, 1e-2f };

	for (uint32_t i = 0; i < m->n_in * m->n_out; i++)
		((float *)(void *)m->bytes)[i] = m->values[i] *= sizes[i / m->n_in % 6];
}

void decode_beside_prefill(void **state)
{
	static const struct { uint32_t n_decode, n_prefill; bool exact, select; } cases[] = {
		{ 3, 17, false, false }, { 0, 40, false, false }, { 1, 15, false, false },
		{ 3, 17, true, false }, { 0, 16, false, true },
	};
	struct rng r = { 31 };
	const struct quant *q;
	struct place p;

	(void)state;
	for (size_t k = 0; place_at(k, &p); k++)
		for (size_t i = 0; (q = quant_at(i)) != NULL; i++) {
			struct mixed m = mixed_new(&r, p, q->type, q->n_block == 1 ? 100 : 256, 21);

			tame(m.w);
			make_uneven(m.inputs);
			for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
				m.n_decode = cases[c].n_decode;
				m.n_prefill = cases[c].n_prefill;
				m.exact = cases[c].exact;
				m.select = cases[c].select;
				mixed_case(&m);
			}
			mixed_free(&m);
		}
}

/* Weights that are no halves stay what they are. */
void large_weights(void **state)
{
	static const uint32_t types[] = { QUANT_BF16, QUANT_Q4_K, QUANT_Q4_0, QUANT_MXFP4 };
	struct rng r = { 51 };
	struct place p;

	(void)state;
	assert_true(place_at(0, &p));
	for (size_t i = 0; i < 4; i++) {
		struct mixed m = mixed_new(&r, p, types[i], 256, 7);

		matrix_free(m.w);
		m.w = matrix_random(&r, types[i], 256, 7, 3e5f);
		m.n_prefill = 16;
		m.large = true;
		mixed_case(&m);
		mixed_free(&m);
	}
}

/* A matrix whose halves do not fit into one slab of 2^24: only one row is looked at. */
void long_rows(void **state)
{
	const uint32_t n_row = 16, n_out = 129;
	struct rng r = { 41 };
	struct mixed m;
	struct place p;
	float *out;

	(void)state;
	if (desk_ops->bitwise)           /* has no slabs */
		skip();
	assert_true(place_at(0, &p));
	m = mixed_new(&r, p, QUANT_Q8_0, 65568, n_out);
	m.n_prefill = n_row;
	out = calloc(n_row * 2 * n_out, sizeof *out);
	mixed_play(&m, 0, n_row, out);
	mixed_check(&m, 5, out + 5 * 2 * n_out);
	free(out);
	mixed_free(&m);
}
