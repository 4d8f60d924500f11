/*
 * The largest logits of every row, in order, and what the whole row sums to.
 *
 * A value and its place become one 64-bit key, larger for larger values and, of equal
 * ones, for the smaller id: all keys of a row differ, so there is one right answer.
 * Of as many groups as candidates are wanted, the least of their largest values is above
 * none of these; and above nearly everything else, which is never sorted.
 *
 * The stretches of a row are its width's alone, so are the order of additions and the sum.
 */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define STRETCH 4096u            /* values of an item, or more: */
#define STRETCHES 64u            /* items of a row, at most: sums of float32 stay short */
#define ROWS_AT_ONCE 8u

_Static_assert(TOP_GROUPS >= CANDIDATES, "a bound is below so many");

struct top_row {
	float least, most;
	struct top_part parts[STRETCHES];
};

struct top {
	const struct isa *isa;
	const struct act *a;
	uint32_t first;                  /* row of the act */
	uint32_t n_value, n_part;        /* of a stretch, stretches of a row */
	struct top_row *rows;
	struct candidates *out;
};

static int falling(const void *a, const void *b)
{
	const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? 1 : x > y ? -1 : 0;
}

/* NaNs are larger than all numbers; zeros are equal. */
static uint64_t key_of(float x, uint32_t id)
{
	uint32_t bits, order;

	x = x == 0 ? 0 : x;
	memcpy(&bits, &x, 4);
	order = isnan(x) ? UINT32_MAX : bits >> 31 ? ~bits : bits | 1u << 31;
	return (uint64_t)order << 32 | ~id;
}

void cpu_top_push(struct top_part *p, float x, uint32_t id)
{
	uint64_t key = key_of(x, id);

	if (p->full && key < p->keys[CANDIDATES - 1])
		return;
	p->keys[p->n++] = key;
	if (p->n < TOP_ROOM)
		return;
	qsort(p->keys, p->n, sizeof *p->keys, falling);
	p->n = CANDIDATES;
	p->full = true;
}

static const float *row_of(const struct top *t, uint32_t row)
{
	return t->a->x + (t->first + row) * t->a->stride;
}

static uint32_t stretch_end(const struct top *t, uint32_t part)
{
	const uint32_t end = (part + 1) * t->n_value;

	return end < t->a->width ? end : t->a->width;
}

static void bounds_of(void *ctx, uint32_t item, unsigned worker)
{
	const struct top *t = ctx;
	const uint32_t row = item / t->n_part, part = item % t->n_part, at = part * t->n_value;

	(void)worker;
	t->isa->top_bounds(row_of(t, row) + at, stretch_end(t, part) - at, t->rows[row].parts[part].bound);
}

static void bound_row(const struct top *t, struct top_row *r)
{
	r->least = INFINITY;
	r->most = -INFINITY;
	for (uint32_t g = 0; g < TOP_GROUPS; g++) {
		float most = -INFINITY;

		for (uint32_t i = 0; i < t->n_part; i++)
			if (r->parts[i].bound[g] > most)
				most = r->parts[i].bound[g];
		r->least = most < r->least ? most : r->least;
		r->most = most > r->most ? most : r->most;
	}
}

static void collect(void *ctx, uint32_t item, unsigned worker)
{
	const struct top *t = ctx;
	const uint32_t row = item / t->n_part, part = item % t->n_part;
	const struct top_row *r = &t->rows[row];

	(void)worker;
	t->isa->top_collect(row_of(t, row), part * t->n_value, stretch_end(t, part), r->least, r->most,
	                    &t->rows[row].parts[part]);
}

static void put_in_order(void *ctx, uint32_t row, unsigned worker)
{
	const struct top *t = ctx;
	const struct top_row *r = &t->rows[row];
	struct candidates *out = t->out + t->first + row;
	uint64_t keys[STRETCHES * TOP_ROOM];
	uint32_t n = 0;

	(void)worker;
	out->sum = 0;
	for (uint32_t i = 0; i < t->n_part; n += r->parts[i++].n) {
		memcpy(keys + n, r->parts[i].keys, r->parts[i].n * sizeof *keys);
		out->sum += r->parts[i].sum;
	}
	qsort(keys, n, sizeof *keys, falling);
	out->n = n < CANDIDATES ? n : CANDIDATES;
	for (uint32_t i = 0; i < out->n; i++) {
		const uint32_t id = ~(uint32_t)keys[i];

		out->top[i] = (struct candidate){ row_of(t, row)[id], (int32_t)id };
	}
}

int cpu_top_new(struct backend *b)
{
	b->tops = cpu_alloc(ROWS_AT_ONCE * sizeof *b->tops);
	return b->tops ? 0 : -ENOMEM;
}

void cpu_top_free(struct backend *b)
{
	cpu_free(b->tops);
}

void cpu_candidates(struct backend *b, const struct act *a, struct candidates *dst)
{
	struct top t = { .isa = b->isa, .a = a, .rows = b->tops, .out = dst };

	cpu_products(b);
	assert(b->batch);
	if (b->rc)
		return;
	t.n_value = ROUND16((a->width + STRETCHES - 1) / STRETCHES);
	t.n_value = t.n_value < STRETCH ? STRETCH : t.n_value;
	t.n_part = (a->width + t.n_value - 1) / t.n_value;
	for (; t.first < b->n_row; t.first += ROWS_AT_ONCE) {
		const uint32_t left = b->n_row - t.first, n = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;

		pool_run(b->pool, bounds_of, &t, n * t.n_part);
		for (uint32_t row = 0; row < n; row++)
			bound_row(&t, &t.rows[row]);
		pool_run(b->pool, collect, &t, n * t.n_part);
		pool_run(b->pool, put_in_order, &t, n);
	}
}
