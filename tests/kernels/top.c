/*
 * The largest values of rows, in order, against a plain sort; and that a row's do not
 * depend on who else is in the batch, bit for bit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/desk.h"
#include "tests/kernels/top.h"

#define KINDS 7

/* Rows of all kinds: what the sort must see. */
static float value(struct rng *r, unsigned kind, uint32_t i, uint32_t width)
{
	const float x = 4 * rng_normal(r);

	switch (kind) {
	case 0: return x;
	case 1: return roundf(x);                      /* many equal ones, zeros of both signs */
	case 2: return -1.5f;
	case 3: return i % 7 == 3 && i < width / 2 ? x : -INFINITY;
	case 4: return i == width / 2 ? NAN : i == width - 1 ? -NAN : x;
	case 5: return i % 11 == 0 ? INFINITY : x * 1e37f;
	default: return (float)i * 1e-3f - 9;          /* the largest are the last */
	}
}

static bool before(const struct candidate *a, const struct candidate *b)
{
	const bool p = isnan(a->logit), q = isnan(b->logit);

	if (p != q)
		return p;
	return p || a->logit == b->logit ? a->id < b->id : a->logit > b->logit;
}

static int order(const void *a, const void *b)
{
	return before(a, b) ? -1 : 1;
}

static void check_row(const float *x, uint32_t width, const struct candidates *got)
{
	struct candidate *all = malloc(width * sizeof *all);
	double sum = 0;

	for (uint32_t i = 0; i < width; i++)
		all[i] = (struct candidate){ x[i], (int32_t)i };
	qsort(all, width, sizeof *all, order);
	assert_int_equal(got->n, width < CANDIDATES ? width : CANDIDATES);
	for (uint32_t i = 0; i < got->n; i++) {
		assert_int_equal(got->top[i].id, all[i].id);
		assert_true(got->top[i].logit == all[i].logit || (isnan(got->top[i].logit) && isnan(all[i].logit)));
	}
	for (uint32_t i = 0; i < width; i++)
		sum += x[i] == all[0].logit ? 1 : exp((double)x[i] - (double)all[0].logit);
	if (!isnan(all[0].logit))
		assert_true(fabs((double)got->sum - sum) <= CANDIDATES_SLACK / 10 * sum);
	free(all);
}

static struct matrix *rows_of(uint32_t width, uint64_t seed)
{
	struct rng r = { seed };
	struct matrix *m = matrix_random(&r, QUANT_F32, width, KINDS, 1);

	for (uint32_t k = 0; k < KINDS; k++)
		for (uint32_t i = 0; i < width; i++)
			m->values[(size_t)k * width + i] = value(&r, k, i, width);
	memcpy(m->bytes, m->values, (size_t)width * KINDS * sizeof(float));
	return m;
}

/* Rows are the tokens' of the table: out [n]. */
static void top_of(struct backend *b, const struct matrix *m, const int32_t *tokens, uint32_t n, struct candidates *out)
{
	struct batch_row rows[40];
	struct batch_seq seq = { .window = { 4, 60 } };
	const struct batch batch = { .n_row = n, .n_seq = 1, .rows = rows, .seqs = &seq };
	struct weight *w = matrix_load(b, m);
	float *values = malloc((size_t)n * m->n_in * sizeof *values);
	struct act *x;

	for (uint32_t i = 0; i < n; i++)
		rows[i] = (struct batch_row){ tokens[i], 0, i };
	assert_int_equal(desk_ops->act_new(b, m->n_in, &x), 0);
	desk_ops->begin(b, NULL, &batch);
	desk_ops->embed(b, w, 1, x);
	desk_ops->candidates(b, x, out);
	desk_ops->read(b, x, values);                  /* and they are still there */
	assert_int_equal(desk_ops->end(b, NULL), 0);
	for (uint32_t i = 0; i < n; i++)
		if (tokens[i] != 4)                    /* a NaN may change its bits */
			assert_memory_equal(values + (size_t)i * m->n_in, m->bytes + (size_t)tokens[i] * m->n_in * 4,
			                    4 * m->n_in);
	desk_ops->act_free(b, x);
	desk_ops->weight_free(b, w);
	free(values);
}

void top_as_sorted(void **state)
{
	static const uint32_t widths[] = { 1, 2, 63, 64, 65, 255, 1023, 1024, 1025, 2049, 49152, 66001 };
	static const int32_t tokens[KINDS] = { 0, 1, 2, 3, 4, 5, 6 };
	const size_t n_width = sizeof widths / sizeof widths[0];
	struct candidates *got = calloc(KINDS, sizeof *got), *first = calloc(n_width * KINDS, sizeof *first);
	struct place p;

	(void)state;
	for (size_t at = 0; place_at(at, &p); at++)
		for (size_t k = 0; k < n_width; k++) {
			const uint32_t n = widths[k] > 4000 && at > 0 ? 1 : KINDS;      /* keeps it quick */
			struct backend *b = place_open(p, KINDS);
			struct matrix *m = rows_of(widths[k], 77 + k);

			memset(got, 0, KINDS * sizeof *got);
			top_of(b, m, tokens, n, got);
			if (at == 0)
				memcpy(first + k * KINDS, got, n * sizeof *got);
			for (uint32_t row = 0; row < n; row++) {
				check_row(m->values + (size_t)row * m->n_in, m->n_in, &got[row]);
				if (row != 4)          /* a sum with a NaN is anything */
					assert_memory_equal(&got[row], first + k * KINDS + row, sizeof *got);
			}
			matrix_free(m);
			desk_ops->close(b);
		}
	free(got);
	free(first);
}

/* A row alone, scalar and by one thread, and beside 39 others on what is best here. */
void top_whoever_is_there(void **state)
{
	struct candidates *all = calloc(40, sizeof *all), alone;
	struct matrix *m = rows_of(9001, 5);
	struct backend *few, *many;
	int32_t tokens[40];
	struct place first;

	(void)state;
	for (int32_t i = 0; i < 40; i++)
		tokens[i] = i % KINDS;
	assert_true(place_at(0, &first));
	few = place_open(first, 1);
	many = place_open((struct place){ NULL, 2, 0 }, 40);
	top_of(many, m, tokens, 40, all);              /* more than are looked at at once */
	for (int32_t i = 0; i < 40; i++) {
		top_of(few, m, &tokens[i], 1, &alone);
		if (i % KINDS != 4)                    /* a sum with a NaN is anything */
			assert_memory_equal(&alone, &all[i], sizeof alone);
	}
	desk_ops->close(few);
	desk_ops->close(many);
	matrix_free(m);
	free(all);
}
