/*
 * Products of every format and of odd shapes against a plain sum in double, and
 * bitwise the same from every instruction set, number of threads and number of
 * rows at once.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/desk.h"

#define ROWS 70                  /* more than a panel, and all tile sizes */
#define TOKENS 77

struct scene {
	struct matrix *w, *bias, *inputs;        /* bias NULL: none */
	bool exact;
	uint32_t n_row;
};

static int32_t token_of(uint32_t row)
{
	return (int32_t)(row * 31 % TOKENS);
}

/* out [n_row][n_out], at most n rows in a batch */
static void play(const struct scene *s, struct place place, uint32_t n, float *out)
{
	struct backend *b = place_open(place, n);
	struct weight *w = matrix_load(b, s->w), *table = matrix_load(b, s->inputs);
	struct weight *bias = s->bias ? matrix_load(b, s->bias) : NULL;
	struct act *x, *y;
	struct batch_row rows[ROWS];
	struct batch_seq seq = { .window = { 4, 1000 } };
	struct batch batch = { .n_seq = 1, .rows = rows, .seqs = &seq, .exact = s->exact };
	struct backend_why why;

	assert_int_equal(desk_ops->act_new(b, s->w->n_in, &x), 0);
	assert_int_equal(desk_ops->act_new(b, s->w->n_out, &y), 0);
	for (uint32_t first = 0; first < s->n_row; first += n) {
		batch.n_row = s->n_row - first < n ? s->n_row - first : n;
		for (uint32_t i = 0; i < batch.n_row; i++)
			rows[i] = (struct batch_row){ token_of(first + i), 0, first + i };
		desk_ops->begin(b, NULL, &batch);
		desk_ops->embed(b, table, 0.5f, x);
		desk_ops->matmul(b, w, bias, x, y);
		desk_ops->read(b, y, out + (size_t)first * s->w->n_out);
		assert_int_equal(desk_ops->end(b, &why), 0);
	}
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->weight_free(b, w);
	desk_ops->weight_free(b, table);
	desk_ops->weight_free(b, bias);
	desk_ops->close(b);
}

/* The activation as the product sees it: rounded to 16256 steps of its block's largest. */
static void round_inputs(float *x, uint32_t n)
{
	for (uint32_t i = 0; i < n; i += 32) {
		float most = 0, inverse;

		for (uint32_t k = 0; k < 32; k++)
			most = fmaxf(most, fabsf(x[i + k]));
		inverse = most > 0 ? 16256.0f / most : 0;
		for (uint32_t k = 0; k < 32; k++)
			x[i + k] = most / 16256.0f * rintf(x[i + k] * inverse);
	}
}

static void check(const struct scene *s, const float *out)
{
	const uint32_t n_in = s->w->n_in;
	float *x = malloc(n_in * sizeof(float));

	for (uint32_t row = 0; row < s->n_row; row++) {
		for (uint32_t i = 0; i < n_in; i++)
			x[i] = 0.5f * s->inputs->values[(size_t)token_of(row) * n_in + i];
		if (desk_rounds && s->w->quant->n_sub && !s->exact && s->w->n_out > 1)
			round_inputs(x, n_in);
		for (uint32_t j = 0; j < s->w->n_out; j++) {
			double sum = s->bias ? (double)s->bias->values[j] : 0, size = fabs(sum), got;

			for (uint32_t i = 0; i < n_in; i++) {
				double t = (double)s->w->values[(size_t)j * n_in + i] * (double)x[i];

				sum += t;
				size += fabs(t);
			}
			got = (double)out[(size_t)row * s->w->n_out + j];
			if (!(fabs(got - sum) <= 1e-6 * size + 1e-12))
				fail_msg("%s %u x %u row %u out %u: %.9g, should be %.9g", s->w->quant->name,
				         n_in, s->w->n_out, row, j, got, sum);
		}
	}
	free(x);
}

static void compare(const struct scene *s, uint32_t n)
{
	size_t size = (size_t)s->n_row * s->w->n_out * sizeof(float);
	float *first = malloc(size), *other = malloc(size);
	struct place p;

	for (size_t i = 0; place_at(i, &p); i++) {
		memset(other, 0xee, size);
		play(s, p, i == 0 ? s->n_row : n, i == 0 ? first : other);
		if (i == 0)
			check(s, first);
		else if (memcmp(first, other, size))
			fail_msg("%s %u x %u, %s, %u threads, %u rows at once: not the same bits",
			         s->w->quant->name, s->w->n_in, s->w->n_out, p.isa, p.n_thread, n);
	}
	free(first);
	free(other);
}

static void format(const struct quant *q)
{
	static const uint32_t outs[] = { 2, 5, 17, 192 }, plain[] = { 1, 7, 32, 100, 577 },
	                      small[] = { 32, 96, 576, 576, 64 }, large[] = { 256, 768, 256, 512, 1536 },
	                      batches[] = { 1, 3, 9, 12, 70 };
	struct rng r = { q->type };

	for (int i = 0; i < 5; i++)
		for (int k = 0; k < 4; k++) {
			uint32_t n_in = q->n_block == 1 ? plain[i] : q->n_block == 32 ? small[i] : large[i];
			struct scene s = { .n_row = i == 4 ? ROWS : 13 };

			s.w = matrix_random(&r, q->type, n_in, outs[k], 1);
			s.bias = k % 2 ? matrix_random(&r, QUANT_F32, outs[k], 1, 1) : NULL;
			s.inputs = matrix_random(&r, QUANT_F32, n_in, TOKENS, 1);
			compare(&s, batches[(i + k) % 5] < s.n_row ? batches[(i + k) % 5] : s.n_row);
			s.exact = true;
			if (k != 3 || i == 0)
				compare(&s, batches[i] < s.n_row ? batches[i] : s.n_row);
			matrix_free(s.w);
			matrix_free(s.bias);
			matrix_free(s.inputs);
		}
}

static void every_format(void **state)
{
	const struct quant *q;

	(void)state;
	for (size_t i = 0; (q = quant_at(i)) != NULL; i++)
		format(q);
}

/* Extremes of the integers: every byte 0x00 or 0xff, inputs all of one size and sign. */
static void extreme_bytes(void **state)
{
	struct rng r = { 99 };
	const struct quant *q;

	(void)state;
	for (size_t i = 0; (q = quant_at(i)) != NULL; i++)
		for (int fill = 0; fill < 3; fill++) {
			struct scene s = { .n_row = 4 };
			struct matrix *flat = matrix_random(&r, QUANT_F32, 256, TOKENS, 1);
			size_t half = 0;

			if (!q->n_sub) {
				matrix_free(flat);
				continue;
			}
			s.w = matrix_random(&r, q->type, 256, 20, 1);
			/* keep the halves: change only bytes that leave d and m finite */
			for (size_t at = 0; at < 20 * (256 / q->n_block); at++) {
				uint8_t *p = s.w->bytes + at * q->n_byte;
				uint8_t keep[4][2];

				half = q->type == QUANT_Q2_K ? 80 : q->type == QUANT_Q3_K ? 108 : q->type == QUANT_Q6_K ? 208 : 0;
				memcpy(keep, p + half, q->has_min ? 4 : 2);
				memset(p, fill == 0 ? 0 : fill == 1 ? 0xff : 0x80, q->n_byte);
				memcpy(p + half, keep, q->has_min ? 4 : 2);
			}
			q->dequantize(s.w->bytes, s.w->values, 20 * (256 / q->n_block));
			for (size_t k = 0; k < 256 * TOKENS; k++)
				((float *)(void *)flat->bytes)[k] = flat->values[k] = k / 256 % 2 ? -3.0f : 3.0f;
			s.inputs = flat;
			compare(&s, 3);
			matrix_free(s.w);
			matrix_free(flat);
		}
}

static void one_output(void **state)
{
	struct rng r = { 5 };
	struct scene s = { .n_row = 5 };

	(void)state;
	s.w = matrix_random(&r, QUANT_Q4_K, 512, 1, 1);
	s.inputs = matrix_random(&r, QUANT_F32, 512, TOKENS, 1);
	compare(&s, 2);
	matrix_free(s.w);
	matrix_free(s.inputs);
}

/* Zeros, and values too small for a scale, are zero (or next to it) and not NaN. */
static void tiny_inputs(void **state)
{
	struct rng r = { 6 };
	struct scene s = { .n_row = 3 };
	struct place p;
	float out[3 * 17];

	(void)state;
	s.w = matrix_random(&r, QUANT_Q8_0, 64, 17, 1);
	s.inputs = matrix_random(&r, QUANT_F32, 64, TOKENS, 0);
	for (size_t k = 0; k < 64 * TOKENS; k++)
		((float *)(void *)s.inputs->bytes)[k] = k % 2 ? 1e-40f : 0;
	for (size_t i = 0; place_at(i, &p); i++) {
		play(&s, p, 3, out);
		for (int k = 0; k < 3 * 17; k++)
			assert_true(desk_rounds ? out[k] == 0 : fabsf(out[k]) < 1e-30f);
	}
	matrix_free(s.w);
	matrix_free(s.inputs);
}

static void refusals(void **state)
{
	struct backend *b = place_open((struct place){ NULL, 1 }, 4), *none = NULL;
	struct backend_params p = { .n_thread = 1, .n_row_max = 4, .isa = "mmx" };
	struct backend_why why = { "" };
	struct weight *w = NULL;
	uint8_t bytes[256] = { 0 };

	(void)state;
	assert_int_equal(desk_ops->weight_load(b, 99, 32, 2, bytes, &w, &why), -ENOTSUP);
	assert_non_null(strstr(why.text, "99"));
	assert_int_equal(desk_ops->weight_load(b, QUANT_Q4_0, 40, 2, bytes, &w, &why), -ENOTSUP);
	assert_non_null(strstr(why.text, "Q4_0"));
	assert_int_equal(desk_ops->weight_load(b, QUANT_Q4_K, 32, 2, bytes, &w, &why), -ENOTSUP);
	assert_int_equal(desk_ops->weight_load(b, QUANT_F32, 0, 2, bytes, &w, &why), -ENOTSUP);
	assert_int_equal(desk_ops->weight_load(b, QUANT_F32, 2, UINT64_MAX, bytes, &w, &why), -ENOTSUP);
	assert_null(w);
	assert_int_equal(desk_ops->open(&none, &p, &why), -ENOTSUP);
	assert_non_null(strstr(why.text, "mmx"));
	p.isa = NULL;
	p.n_row_max = 0;
	assert_int_equal(desk_ops->open(&none, &p, &why), -EINVAL);
	assert_null(none);
	desk_ops->close(b);
	desk_ops->close(NULL);
	desk_ops->weight_free(NULL, NULL);
}

/* Rows that choose experts: against plain sums over the chosen ones, and bitwise the
 * same however the rows are cut. */
struct mixture {
	struct matrix *w, *bias, *router, *inputs;       /* w: [n_expert * n_out] */
	uint32_t n_expert, n_out, n_used;
	bool exact;
};

static void mixture_play(const struct mixture *m, struct place place, uint32_t n, float *out)
{
	struct backend *b = place_open(place, n);
	struct weight *w = matrix_load(b, m->w), *bias = matrix_load(b, m->bias), *table = matrix_load(b, m->inputs);
	struct weight *router = matrix_load(b, m->router);
	struct act *x, *y, *sum, *logits;
	struct batch_row rows[ROWS];
	struct batch_seq seq = { .window = { 4, 1000 } };
	struct batch batch = { .n_seq = 1, .rows = rows, .seqs = &seq, .exact = m->exact };

	assert_int_equal(desk_ops->act_new(b, m->w->n_in, &x), 0);
	assert_int_equal(desk_ops->act_new(b, m->n_out, &y), 0);
	assert_int_equal(desk_ops->act_new(b, m->n_out, &sum), 0);
	assert_int_equal(desk_ops->act_new(b, m->n_expert, &logits), 0);
	for (uint32_t first = 0; first < 13; first += n) {
		batch.n_row = 13 - first < n ? 13 - first : n;
		for (uint32_t i = 0; i < batch.n_row; i++)
			rows[i] = (struct batch_row){ token_of(first + i), 0, first + i };
		desk_ops->begin(b, NULL, &batch);
		desk_ops->embed(b, table, 0.5f, x);
		desk_ops->matmul(b, router, NULL, x, logits);
		desk_ops->route(b, m->n_used, logits);
		for (uint32_t k = 0; k < m->n_used; k++) {
			desk_ops->matmul_routed(b, k, w, bias, x, y);
			desk_ops->add_routed(b, k, y, sum);
		}
		desk_ops->read(b, sum, out + (size_t)first * m->n_out);
		assert_int_equal(desk_ops->end(b, NULL), 0);
	}
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->act_free(b, sum);
	desk_ops->act_free(b, logits);
	desk_ops->weight_free(b, w);
	desk_ops->weight_free(b, bias);
	desk_ops->weight_free(b, table);
	desk_ops->weight_free(b, router);
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

	for (uint32_t row = 0; row < 13; row++) {
		float *x = m->inputs->values + (size_t)token_of(row) * n_in, seen[512];
		double logit[16], weight[16], total = 0;

		for (uint32_t i = 0; i < n_in; i++)
			seen[i] = 0.5f * x[i];
		if (desk_rounds && m->w->quant->n_sub && !m->exact)
			round_inputs(seen, n_in);
		for (uint32_t e = 0; e < m->n_expert; e++)
			logit[e] = mixture_logit(m, e, x);
		for (uint32_t e = 0; e < m->n_expert; e++) {
			uint32_t before = 0;             /* that are larger */

			for (uint32_t k = 0; k < m->n_expert; k++)
				before += logit[k] > logit[e];
			weight[e] = before < m->n_used ? exp(logit[e]) : 0;
			total += weight[e];
		}
		for (uint32_t j = 0; j < m->n_out; j++) {
			double sum = 0, got = (double)out[(size_t)row * m->n_out + j], size = 0;

			for (uint32_t e = 0; e < m->n_expert; e++) {
				double part = (double)m->bias->values[e * m->n_out + j];

				for (uint32_t i = 0; i < n_in; i++) {
					double t = (double)m->w->values[((size_t)e * m->n_out + j) * n_in + i] * (double)seen[i];

					part += t;
					size += fabs(t) * weight[e] / total;
				}
				sum += part * weight[e] / total;
			}
			if (!(fabs(got - sum) <= 2e-6 * size + 1e-6))
				fail_msg("%s experts, row %u out %u: %.9g, should be %.9g", m->w->quant->name, row, j, got, sum);
		}
	}
}

static void experts(void **state)
{
	static const uint32_t batches[] = { 13, 1, 4, 13, 5 };
	struct rng r = { 77 };
	const struct quant *q;
	float first[13 * 48], other[13 * 48];
	struct place p;

	(void)state;
	for (size_t i = 0; (q = quant_at(i)) != NULL; i++)
		for (int exact = 0; exact < 2; exact++) {
			struct mixture m = { .n_expert = 5, .n_out = 48, .n_used = 1 + i % 3, .exact = exact };

			m.w = matrix_random(&r, q->type, 256, m.n_expert * m.n_out, 1);
			m.bias = matrix_random(&r, QUANT_F32, m.n_expert * m.n_out, 1, 1);
			m.router = matrix_random(&r, QUANT_F32, 256, m.n_expert, 0.1f);
			m.inputs = matrix_random(&r, QUANT_F32, 256, TOKENS, 1);
			for (size_t k = 0; place_at(k, &p); k++) {
				mixture_play(&m, p, batches[k % 5], k ? other : first);
				if (k == 0)
					mixture_check(&m, first);
				else if (memcmp(first, other, sizeof first))
					fail_msg("%s experts, %s, %u threads: not the same bits", q->name, p.isa, p.n_thread);
			}
			matrix_free(m.w);
			matrix_free(m.bias);
			matrix_free(m.router);
			matrix_free(m.inputs);
		}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_format),
		cmocka_unit_test(extreme_bytes),
		cmocka_unit_test(one_output),
		cmocka_unit_test(tiny_inputs),
		cmocka_unit_test(refusals),
		cmocka_unit_test(experts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
