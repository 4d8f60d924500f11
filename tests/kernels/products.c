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
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/products.h"

int32_t token_of(uint32_t row)
{
	return (int32_t)(row * 31 % TOKENS);
}

void play(const struct scene *s, struct place place, uint32_t n, float *out)
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

void round_inputs(float *x, uint32_t n, bool eight)
{
	for (uint32_t i = 0; i < n; i += 32) {
		float most = 0, step, inverse;

		for (uint32_t k = 0; k < 32; k++)
			most = fmaxf(most, fabsf(x[i + k]));
		step = eight ? most / 127 : ldexpf(1, -60);
		while (!eight && most > 0 && step * 16256 <= most)
			step *= 2;
		inverse = most > 0 ? (eight ? 127 / most : 1 / step) : 0;
		for (uint32_t k = 0; k < 32; k++)
			x[i + k] = step * rintf(x[i + k] * inverse);
	}
}

static void check(const struct scene *s, const float *out)
{
	const uint32_t n_in = s->w->n_in;
	const bool rounds = desk_rounds && !s->exact && s->w->n_out > 1, words = rounds && is_words(s->w->quant, n_in);
	float *x = malloc(n_in * sizeof(float)), *weights = malloc((size_t)n_in * s->w->n_out * sizeof(float));

	memcpy(weights, s->w->values, (size_t)n_in * s->w->n_out * sizeof(float));
	if (words)
		round_words(s->w->values, n_in * s->w->n_out, weights);
	for (uint32_t row = 0; row < s->n_row; row++) {
		for (uint32_t i = 0; i < n_in; i++)
			x[i] = 0.5f * s->inputs->values[(size_t)token_of(row) * n_in + i];
		if (rounds && (s->w->quant->n_sub || words))
			round_inputs(x, n_in, s->eight && !words);
		for (uint32_t j = 0; j < s->w->n_out; j++) {
			double sum = s->bias ? (double)s->bias->values[j] : 0, size = fabs(sum), got;

			for (uint32_t i = 0; i < n_in; i++) {
				double t = (double)weights[(size_t)j * n_in + i] * (double)x[i];

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
	free(weights);
}

void compare(const struct scene *s, uint32_t n)
{
	size_t size = (size_t)s->n_row * s->w->n_out * sizeof(float);
	float *first = malloc(size), *other = malloc(size);
	struct place p;

	for (size_t i = 0; place_at(i, &p); i++) {
		memset(other, 0xee, size);
		p.n_act_bit = s->eight ? 8 : 0;
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
	static const uint32_t outs[] = { 2, 5, 17, 192 }, plain[] = { 1, 96, 32, 577, 576 },
	                      small[] = { 32, 96, 576, 576, 64 }, large[] = { 256, 768, 256, 512, 1536 },
	                      batches[] = { 1, 3, 9, 12, ROWS };
	struct rng r = { q->type };

	for (int i = 0; i < 5; i++)
		for (int k = 0; k < 4; k++) {
			uint32_t n_in = q->n_block == 1 ? plain[i] : q->n_block == 32 ? small[i] : large[i];
			struct scene s = { .n_row = i == 4 ? ROWS : i == 2 ? 21 : 13 };

			s.w = matrix_random(&r, q->type, n_in, outs[k], 1);
			s.bias = k % 2 ? matrix_random(&r, QUANT_F32, outs[k], 1, 1) : NULL;
			s.inputs = matrix_random(&r, QUANT_F32, n_in, TOKENS, 1);
			compare(&s, batches[(i + k) % 5] < s.n_row ? batches[(i + k) % 5] : s.n_row);
			s.exact = true;
			if (k != 3 || i == 0)
				compare(&s, batches[i] < s.n_row ? batches[i] : s.n_row);
			s.exact = false;
			s.eight = desk_eight && k == 2;
			if (s.eight)
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
			struct scene s = { .n_row = 20 };
			struct matrix *flat = matrix_random(&r, QUANT_F32, 256, TOKENS, 1);
			/* Q2_K: what its sums and minima leave of each other would be rounding, and its q are 3 at most */
			const float size = q->has_min && q->n_sub == 16 ? 3 : MOST_STEPS;
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
				((float *)(void *)flat->bytes)[k] = flat->values[k] = k / 256 % 2 ? -size : size;
			s.inputs = flat;
			for (uint32_t n = 3; n <= 20; n += 17) {
				s.eight = false;
				compare(&s, n);
				s.eight = desk_eight;
				compare(&s, n);
			}
			matrix_free(s.w);
			matrix_free(flat);
		}
}

static void one_output(void **state)
{
	static const uint32_t types[] = { QUANT_Q4_K, QUANT_F16, QUANT_BF16 };
	struct rng r = { 5 };
	struct scene s = { .n_row = 5 };

	(void)state;
	for (int i = 0; i < 3; i++) {
		s.w = matrix_random(&r, types[i], 512, 1, 1);
		s.inputs = matrix_random(&r, QUANT_F32, 512, TOKENS, 1);
		compare(&s, 2);
		matrix_free(s.w);
		matrix_free(s.inputs);
	}
}

#define FEW 31                   /* rows: sixteen at once, and each way for fewer */

/* Zeros, and values too small for a scale, are zero (or next to it) and not NaN. */
static void tiny_inputs(void **state)
{
	static const uint32_t types[] = { QUANT_Q8_0, QUANT_F16 };
	struct rng r = { 6 };
	struct scene s = { .n_row = FEW };
	struct place p;
	float out[FEW * 17];

	(void)state;
	for (int t = 0; t < 2; t++) {
		s.w = matrix_random(&r, types[t], 64, 17, 1);
		s.inputs = matrix_random(&r, QUANT_F32, 64, TOKENS, 0);
		for (size_t k = 0; k < 64 * TOKENS; k++)
			((float *)(void *)s.inputs->bytes)[k] = k % 2 ? 1e-40f : 0;
		for (size_t i = 0; place_at(i, &p); i++) {
			play(&s, p, FEW, out);
			for (int k = 0; k < FEW * 17; k++)
				assert_true(desk_rounds && (t == 0 || desk_words) ? out[k] == 0 : fabsf(out[k]) < 1e-30f);
		}
		matrix_free(s.w);
		matrix_free(s.inputs);
	}
}

/* About the smallest block that is not zero, where a scale becomes the next power of two, and large ones: the same
 * bits everywhere.  Nothing is negative, since what overflows is to stay an infinity. */
static void limits_of_scales(void **state)
{
	const float sizes[] = { 2e-30f, nextafterf(2e-30f, 1), nextafterf(2e-30f, 0), 32512, nextafterf(32512, 0), nextafterf(32512, 4e4f),
	                        0x1p100f, FLT_MAX };
	static const uint32_t types[] = { QUANT_Q8_0, QUANT_F16 };
	struct rng r = { 7 };
	float first[FEW * 17], out[FEW * 17];
	struct place p;

	(void)state;
	for (size_t at = 0; at < 2 * sizeof(sizes) / sizeof(sizes[0]); at++) {
		struct scene s = { .w = matrix_random(&r, types[at % 2], 64, 17, 1), .inputs = matrix_random(&r, QUANT_F32, 64, TOKENS, 0),
		                   .n_row = FEW };
		const size_t each = s.w->quant->n_byte;

		for (size_t i = 0; i < 64 * 17 / s.w->quant->n_block * each; i++)
			if (at % 2 ? i % 2 == 1 : i % each != 0)         /* what has a sign */
				s.w->bytes[i] &= 0x7f;
		for (size_t k = 0; k < 64 * TOKENS; k++)
			((float *)(void *)s.inputs->bytes)[k] = sizes[at / 2] * (k % 32 == 3 ? 1 : (float)rng_below(&r, 1000) / 1000);
		for (size_t i = 0; place_at(i, &p); i++) {
			play(&s, p, FEW, i == 0 ? first : out);
			assert_true(i == 0 || !memcmp(first, out, sizeof(out)));
		}
		assert_true((at / 2 == 0 || at / 2 == 2) && desk_rounds && (at % 2 == 0 || desk_words) ? first[0] == 0 : first[0] > 0);
		matrix_free(s.w);
		matrix_free(s.inputs);
	}
}

struct kv *cache_open(struct backend *b, uint32_t n_slot)
{
	static const struct kv_layer layer = { 1, 8, 0 };
	const struct kv_shape shape = { KV_F32, 1, &layer, ROWS, { 4, 8 }, n_slot };
	struct kv *kv = NULL;

	assert_int_equal(desk_ops->kv_open(b, &shape, NULL, &kv, NULL), 0);
	return kv;
}

/* Weights that lie beside others are what they were when those have gone. */
static void weights_come_and_go(void **state)
{
	enum { IN = 1280, OUT = 4096, N_IN = 64, N_OUT = 33 };
	struct rng r = { 41 };
	struct matrix *m = matrix_random(&r, QUANT_Q8_0, N_IN, N_OUT, 1), *inputs = matrix_random(&r, QUANT_F32, N_IN, TOKENS, 1);
	const struct scene s = { .w = m, .inputs = inputs, .n_row = 1 };
	const struct batch_row row = { token_of(0), 0, 0 };
	const struct batch_seq seq = { .window = { 4, 1000 } };
	const struct batch batch = { .n_row = 1, .n_seq = 1, .rows = &row, .seqs = &seq };
	struct weight *large[3], *w[3], *table;
	float *zeros = calloc(IN * OUT, sizeof *zeros), alone[N_OUT], beside[N_OUT];
	struct backend_why why;
	struct backend *b;
	struct act *x, *y;
	struct place p;

	(void)state;
	assert_true(zeros && place_at(0, &p));
	p.n_act_bit = 0;
	play(&s, p, 1, alone);
	b = place_open(p, 1);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(desk_ops->weight_load(b, QUANT_F32, IN, OUT, zeros, &large[i], &why), 0);
		w[i] = matrix_load(b, m);
	}
	table = matrix_load(b, inputs);
	assert_int_equal(desk_ops->act_new(b, N_IN, &x), 0);
	assert_int_equal(desk_ops->act_new(b, N_OUT, &y), 0);
	for (int i = 0; i < 3; i++) {
		desk_ops->weight_free(b, large[(i + 1) % 3]);
		if (i > 0)
			desk_ops->weight_free(b, w[i - 1]);
		desk_ops->begin(b, NULL, &batch);
		desk_ops->embed(b, table, 0.5f, x);
		desk_ops->matmul(b, w[i], NULL, x, y);
		desk_ops->read(b, y, beside);
		assert_int_equal(desk_ops->end(b, NULL), 0);
		assert_memory_equal(alone, beside, sizeof alone);
	}
	desk_ops->weight_free(b, w[2]);
	desk_ops->weight_free(b, table);
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->close(b);
	matrix_free(m);
	matrix_free(inputs);
	free(zeros);
}

static void refusals(void **state)
{
	struct backend *b = place_open((struct place){ NULL, 1, 0 }, 4), *none = NULL;
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
	p.n_row_max = 4;
	p.n_act_bit = 4;
	if (desk_eight) {
		assert_int_equal(desk_ops->open(&none, &p, &why), -EINVAL);
		assert_non_null(strstr(why.text, "of 4 bits"));
	}
	assert_null(none);
	desk_ops->close(b);
	desk_ops->close(NULL);
	desk_ops->weight_free(NULL, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_format),
		cmocka_unit_test(extreme_bytes),
		cmocka_unit_test(one_output),
		cmocka_unit_test(tiny_inputs),
		cmocka_unit_test(limits_of_scales),
		cmocka_unit_test(written_between),
		cmocka_unit_test(product_of_selected),
		cmocka_unit_test(no_number_in_a_row),
		cmocka_unit_test(weights_come_and_go),
		cmocka_unit_test(decode_beside_prefill),
		cmocka_unit_test(large_weights),
		cmocka_unit_test(long_rows),
		cmocka_unit_test(one_input),
		cmocka_unit_test(refusals),
		cmocka_unit_test(experts),
		cmocka_unit_test(many_experts),
		cmocka_unit_test(words_extremes),
		cmocka_unit_test(words_exact),
		cmocka_unit_test(words_not_numbers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
