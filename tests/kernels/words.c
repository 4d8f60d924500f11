/*
 * Products of halves and bfloats (a part of products.c's program), which are rounded to fifteen bits of the largest of 32:
 * how far, where they are exact, and what is no number.
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

static const uint32_t types[] = { QUANT_F16, QUANT_BF16 };

bool is_words(const struct quant *q, uint32_t n_in)
{
	return desk_words && n_in % 32 == 0 && (q->type == QUANT_F16 || q->type == QUANT_BF16);
}

void round_words(const float *w, uint32_t n, float *out)
{
	for (uint32_t i = 0; i < n; i += 32) {
		double most = 0, step;
		int e;

		for (uint32_t k = 0; k < 32; k++)
			most = fmax(most, fabs((double)w[i + k]));
		frexp(most, &e);
		step = ldexp(1, e - 14 > -126 ? e - 14 : -126);
		for (uint32_t k = 0; k < 32; k++)
			out[i + k] = (float)(step * nearbyint((double)w[i + k] / step));
	}
}

static void set(struct matrix *m, size_t at, float x)
{
	const uint16_t half = quant_to_f16(x);
	uint32_t bits;

	memcpy(&bits, &x, 4);
	if (m->quant->type == QUANT_F16)
		memcpy(m->bytes + at * 2, &half, 2);
	else
		memcpy(m->bytes + at * 2, (uint16_t[]){ (uint16_t)(bits >> 16) }, 2);
	m->quant->dequantize(m->bytes + at * 2, m->values + at, 1);
}

/* All of one size and sign, which is as much as the integers' sums hold; the largest and the
 * smallest beside each other; nothing but the smallest; nothing. */
void words_extremes(void **state)
{
	static const float most[] = { 65504, 3e38f }, least[] = { 0x1p-24f, 0x1p-133f };
	struct rng r = { 98 };

	(void)state;
	for (int t = 0; t < 2; t++)
		for (int fill = 0; fill < 5; fill++) {
			struct scene s = { .n_row = 17, .w = matrix_random(&r, types[t], 64, 20, 1),
			                   .inputs = matrix_random(&r, QUANT_F32, 64, TOKENS, 1) };
			const float size = t == 0 ? MOST_STEPS : MOST_STEPS / 8192;

			for (size_t i = 0; i < 64 * 20; i++)
				set(s.w, i, fill == 0 ? most[t] : fill == 1 ? -most[t] : fill == 2 ? (i % 3 ? least[t] : most[t])
				    : fill == 3 ? least[t] : 0);
			for (size_t k = 0; k < 64 * TOKENS; k++)
				((float *)(void *)s.inputs->bytes)[k] = s.inputs->values[k] = k / 64 % 2 ? -size : size;
			for (s.eight = false;; s.eight = true) {
				compare(&s, 3);
				if (s.eight || !desk_eight)
					break;
			}
			matrix_free(s.w);
			matrix_free(s.inputs);
		}
}

/* Halves down to a sixteenth of a block's largest are what they are, bfloats to a 128th: with
 * activations that are so, too, there is only the sum to round. */
void words_exact(void **state)
{
	enum { IN = 96, OUT = 33 };
	struct rng r = { 96 };

	(void)state;
	for (int t = 0; t < 2; t++) {
		struct matrix *w = matrix_random(&r, types[t], IN, OUT, 1), *inputs = matrix_random(&r, QUANT_F32, IN, TOKENS, 1);
		struct scene s = { .w = w, .inputs = inputs, .n_row = 9 };
		float out[9 * OUT];
		struct place p;

		for (size_t i = 0; i < IN * OUT; i++) {
			const uint32_t n = t == 0 ? 1024 : 128;          /* as many digits as they have */
			const float x = ldexpf((float)(n + rng_below(&r, n)) / (float)n, -(int)rng_below(&r, t == 0 ? 4 : 7));

			set(w, i, i % 32 == 5 ? 1.5f : i % 2 ? x : -x);
		}
		for (size_t k = 0; k < IN * TOKENS; k++)
			((float *)(void *)inputs->bytes)[k] = inputs->values[k]
				= k % 32 == 7 ? 2 * 16255 : 2 * ((float)rng_below(&r, 32511) - 16255);
		for (size_t i = 0; place_at(i, &p); i++) {
			play(&s, p, 9, out);
			for (uint32_t row = 0; row < 9; row++)
				for (uint32_t j = 0; j < OUT; j++) {
					double sum = 0, size = 0;

					for (uint32_t k = 0; k < IN; k++) {
						const double v = (double)w->values[j * IN + k] * 0.5
						                 * (double)inputs->values[(size_t)token_of(row) * IN + k];

						sum += v;
						size += fabs(v);
					}
					assert_true(fabs((double)out[row * OUT + j] - sum) <= 1e-6 * size);
				}
		}
		matrix_free(w);
		matrix_free(inputs);
	}
}

/* What is no number stays in its row of the weight. */
void words_not_numbers(void **state)
{
	static const float odd[] = { NAN, INFINITY, -INFINITY };
	enum { IN = 64, OUT = 20 };
	struct rng r = { 95 };
	float before[9 * OUT], after[9 * OUT];
	struct place p;

	(void)state;
	for (int i = 0; i < 6; i++) {
		struct scene s = { .w = matrix_random(&r, types[i / 3], IN, OUT, 1), .inputs = matrix_random(&r, QUANT_F32, IN, TOKENS, 1),
		                   .n_row = 9 };

		for (size_t k = 0; place_at(k, &p); k++) {
			set(s.w, 3 * IN + 40, 1);
			play(&s, p, 9, before);
			set(s.w, 3 * IN + 40, odd[i % 3]);
			play(&s, p, 9, after);
			for (uint32_t j = 0; j < 9 * OUT; j++)
				if (j % OUT == 3)
					assert_false(isfinite(after[j]));
				else
					assert_memory_equal(&before[j], &after[j], sizeof(float));
		}
		matrix_free(s.w);
		matrix_free(s.inputs);
	}
}
