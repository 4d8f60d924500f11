/* Products of rows that choose experts.  A part of products.c's program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/products.h"

#define EXPERTS 40

/* Rows that choose experts, beside one that all have: against plain sums over the chosen ones,
 * and bitwise the same however the rows are cut. */
struct mixture {
	struct matrix *w, *bias, *router, *shared, *inputs;      /* w: [n_expert * n_out] */
	uint32_t n_expert, n_out, n_used, n_row;
	bool exact, eight;               /* eight: bits of activations */
};

static void mixture_play(const struct mixture *m, struct place place, uint32_t n, float *out)
{
	struct backend *b = place_open(place, n);
	struct weight *w = matrix_load(b, m->w), *bias = matrix_load(b, m->bias), *table = matrix_load(b, m->inputs);
	struct weight *router = matrix_load(b, m->router), *shared = matrix_load(b, m->shared);
	struct act *x, *y, *z, *sum, *logits;
	float *before = malloc(n * m->n_out * sizeof *before), *after = malloc(n * m->n_out * sizeof *after);
	struct batch_row rows[ROWS];
	struct batch_seq seq = { .window = { 4, 1000 } };
	struct batch batch = { .n_seq = 1, .rows = rows, .seqs = &seq, .exact = m->exact };

	assert_int_equal(desk_ops->act_new(b, m->w->n_in, &x), 0);
	assert_int_equal(desk_ops->act_new(b, m->n_out, &y), 0);
	assert_int_equal(desk_ops->act_new(b, m->n_out, &z), 0);
	assert_int_equal(desk_ops->act_new(b, m->n_out, &sum), 0);
	assert_int_equal(desk_ops->act_new(b, m->n_expert, &logits), 0);
	for (uint32_t first = 0; first < m->n_row; first += n) {
		batch.n_row = m->n_row - first < n ? m->n_row - first : n;
		for (uint32_t i = 0; i < batch.n_row; i++)
			rows[i] = (struct batch_row){ token_of(first + i), 0, first + i };
		desk_ops->begin(b, NULL, &batch);
		desk_ops->embed(b, table, 0.5f, x);
		desk_ops->matmul(b, router, NULL, x, logits);
		desk_ops->matmul(b, shared, NULL, x, z);
		desk_ops->read(b, z, before);
		desk_ops->route(b, m->n_used, logits);
		for (uint32_t k = 0; k < m->n_used; k++) {
			desk_ops->matmul_routed(b, k, w, bias, x, y);
			desk_ops->add_routed(b, k, y, sum);
		}
		desk_ops->matmul(b, shared, NULL, x, z);
		desk_ops->read(b, z, after);
		desk_ops->add(b, sum, z, sum);
		desk_ops->read(b, sum, out + (size_t)first * m->n_out);
		assert_int_equal(desk_ops->end(b, NULL), 0);
		assert_memory_equal(before, after, batch.n_row * m->n_out * sizeof *before);
	}
	free(before);
	free(after);
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->act_free(b, z);
	desk_ops->act_free(b, sum);
	desk_ops->act_free(b, logits);
	desk_ops->weight_free(b, w);
	desk_ops->weight_free(b, bias);
	desk_ops->weight_free(b, table);
	desk_ops->weight_free(b, router);
	desk_ops->weight_free(b, shared);
	desk_ops->close(b);
}

static double mixture_logit(const struct mixture *m, uint32_t e, const float *x)
{
	double sum = 0;

	for (uint32_t i = 0; i < m->w->n_in; i++)
		sum += (double)m->router->values[e * m->w->n_in + i] * (double)x[i] * 0.5;
	return sum;
}

static void mixture_check(const struct mixture *m, const float *out)
{
	const uint32_t n_in = m->w->n_in;
	const size_t n = (size_t)n_in * m->w->n_out;
	const bool words = is_words(m->w->quant, n_in) && !m->exact;
	float *weights = malloc(n * sizeof(float)), shared[512 * 48];

	memcpy(weights, m->w->values, n * sizeof(float));
	memcpy(shared, m->shared->values, (size_t)n_in * m->n_out * sizeof(float));
	if (words) {
		round_words(m->w->values, (uint32_t)n, weights);
		round_words(m->shared->values, n_in * m->n_out, shared);
	}
	for (uint32_t row = 0; row < m->n_row; row++) {
		float *x = m->inputs->values + (size_t)token_of(row) * n_in, seen[512];
		double logit[EXPERTS], weight[EXPERTS], total = 0;

		for (uint32_t i = 0; i < n_in; i++)
			seen[i] = 0.5f * x[i];
		if (desk_rounds && (m->w->quant->n_sub || words) && !m->exact)
			round_inputs(seen, n_in, m->eight && !words);
		for (uint32_t e = 0; e < m->n_expert; e++)
			logit[e] = mixture_logit(m, e, x);
		for (uint32_t e = 0; e < m->n_expert; e++) {
			uint32_t before = 0;             /* that are chosen first */

			for (uint32_t k = 0; k < m->n_expert; k++)
				before += logit[k] > logit[e] || (logit[k] == logit[e] && k < e);
			weight[e] = before < m->n_used ? exp(logit[e]) : 0;
			total += weight[e];
		}
		for (uint32_t j = 0; j < m->n_out; j++) {
			double sum = 0, got = (double)out[(size_t)row * m->n_out + j], size = 0;

			for (uint32_t i = 0; i < n_in; i++) {
				double t = (double)shared[j * n_in + i] * (double)seen[i];

				sum += t;
				size += fabs(t);
			}
			for (uint32_t e = 0; e < m->n_expert; e++) {
				double part = (double)m->bias->values[e * m->n_out + j];

				for (uint32_t i = 0; i < n_in; i++) {
					double t = (double)weights[((size_t)e * m->n_out + j) * n_in + i] * (double)seen[i];

					part += t;
					size += fabs(t) * weight[e] / total;
				}
				sum += part * weight[e] / total;
			}
			if (!(fabs(got - sum) <= 2e-6 * size + 1e-6))
				fail_msg("%s experts, row %u out %u: %.9g, should be %.9g", m->w->quant->name, row, j, got, sum);
		}
	}
	free(weights);
}

/* router: how far its values are from 0, where all experts are equal */
static void mixture(struct mixture m, uint32_t type, float router)
{
	static const uint32_t batches[] = { ROWS, 1, 4, ROWS, 17 };
	const size_t size = (size_t)m.n_row * m.n_out * sizeof(float);
	float *first = malloc(size), *other = malloc(size);
	struct rng r = { 77 };
	struct place p;

	m.w = matrix_random(&r, type, 256, m.n_expert * m.n_out, 1);
	m.bias = matrix_random(&r, QUANT_F32, m.n_expert * m.n_out, 1, 1);
	m.router = matrix_random(&r, QUANT_F32, 256, m.n_expert, router);
	m.shared = matrix_random(&r, type, 256, m.n_out, 1);
	m.inputs = matrix_random(&r, QUANT_F32, 256, TOKENS, 1);
	for (size_t k = 0; place_at(k, &p); k++) {
		memset(other, 0xee, size);
		p.n_act_bit = m.eight ? 8 : 0;
		mixture_play(&m, p, batches[k % 5] < m.n_row ? batches[k % 5] : m.n_row, k ? other : first);
		if (k == 0)
			mixture_check(&m, first);
		else if (memcmp(first, other, size))
			fail_msg("%s, %u experts, %s, %u threads: not the same bits", m.w->quant->name, m.n_expert, p.isa,
			         p.n_thread);
	}
	free(first);
	free(other);
	matrix_free(m.w);
	matrix_free(m.bias);
	matrix_free(m.router);
	matrix_free(m.shared);
	matrix_free(m.inputs);
}

void experts(void **state)
{
	const struct quant *q;

	(void)state;
	for (size_t i = 0; (q = quant_at(i)) != NULL; i++)
		for (int how = 0; how < (desk_eight ? 3 : 2); how++)
			mixture((struct mixture){ .n_expert = 5, .n_out = 48, .n_used = 1 + i % 3, .n_row = (i + (size_t)how) % 2 ? 13 : 20,
			                          .exact = how == 1, .eight = how == 2 }, q->type, 0.1f);
}

/* More than a warp of experts and a block of rows; every row with the same two. */
void many_experts(void **state)
{
	(void)state;
	mixture((struct mixture){ .n_expert = EXPERTS, .n_out = 16, .n_used = 8, .n_row = 42 }, QUANT_Q4_K, 0.1f);
	mixture((struct mixture){ .n_expert = EXPERTS, .n_out = 16, .n_used = 2, .n_row = ROWS }, QUANT_Q8_0, 0);
}
