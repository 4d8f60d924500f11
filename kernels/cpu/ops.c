/*
 * Operations that take rows one by one: embed, norm, sum and norm, gated activation,
 * add, select, softcap, clamp, read.
 *
 * Few rows are done by the caller: waking a worker costs more.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define ALONE_FLOATS 8192u       /* work that is not worth a second worker */
#define COLUMNS 8192u            /* of an item of a wide row */

typedef void op_fn(void *ctx, uint32_t item, unsigned worker);

struct op {
	struct backend *b;
	const struct weight *w;
	const struct norm *norm;
	const struct act *x, *y;
	struct act *sum, *out;
	enum glu_kind kind;
	float factor;
	op_fn *fn;
	uint32_t n_column;       /* items of a row */
};

/* The item's place in acts of out's width, and its length. */
static size_t stretch(const struct op *o, uint32_t item, size_t *n)
{
	size_t row = item / o->n_column, column = item % o->n_column * (size_t)COLUMNS;
	size_t width = ROUND16((size_t)o->out->width), left = width - column;

	*n = o->n_column == 1 ? width : left < COLUMNS ? left : COLUMNS;
	return row * o->out->stride + column;
}

/* The integers of what fn wrote, while it is in the cache and without another meeting. */
static void then_ints(void *ctx, uint32_t item, unsigned worker)
{
	const struct op *o = ctx;
	size_t n;

	stretch(o, item, &n);
	o->fn(ctx, item, worker);
	cpu_ints_make(o->b, o->out, item / o->n_column, item % o->n_column * (COLUMNS / 32), (uint32_t)n / 32);
}

void cpu_by_rows(struct backend *b, void (*fn)(void *ctx, uint32_t item, unsigned worker), void *ctx, uint32_t n,
                 size_t n_float)
{
	if (n_float > ALONE_FLOATS) {
		pool_run_near(b->pool, fn, ctx, n, ROWS_NEAR);
		return;
	}
	for (uint32_t i = 0; i < n; i++)
		fn(ctx, i, 0);
}

/* Runs fn for every row of out, or for every stretch of COLUMNS of wide ones. */
static void by_rows(struct op *o, op_fn *fn, bool columns)
{
	const size_t width = o->out->width;
	op_fn *item = cpu_ints_wanted(o->out) ? then_ints : fn;
	uint32_t n;

	o->fn = fn;
	o->n_column = columns ? (uint32_t)((width + COLUMNS - 1) / COLUMNS) : 1;
	n = o->b->n_row * o->n_column;
	cpu_by_rows(o->b, item, o, n, o->b->n_row * width);
	cpu_ints_made(o->b, o->out);
}

static void embed_row(void *ctx, uint32_t row, unsigned worker)
{
	const struct op *o = ctx;

	(void)worker;
	cpu_weight_row(o->w, (uint32_t)o->b->batch->rows[row].token, o->factor,
	               o->out->x + row * o->out->stride);
}

void cpu_embed(struct backend *b, const struct weight *w, float scale, struct act *out)
{
	struct op o = { .b = b, .w = w, .out = out, .factor = scale };

	cpu_products(b);
	assert(b->batch && !b->selected && out->width == w->n_in);
	for (uint32_t i = 0; i < b->batch->n_row && !b->rc; i++)
		if (b->batch->rows[i].token < 0 || (uint32_t)b->batch->rows[i].token >= w->n_out)
			cpu_fail(b, -EINVAL, "a token is outside of the vocabulary");
	if (b->rc)
		return;
	by_rows(&o, embed_row, false);
}

static void normalise(const struct op *o, const struct act *in, uint32_t row)
{
	const struct norm *n = o->norm;
	const bool each = n->weight && n->weight->n_in > n->width;       /* group has its own weights */

	for (uint32_t i = 0; i < o->out->width; i += n->width)
		o->b->isa->norm(n, n->weight ? n->weight->vector + (each ? i : 0) : NULL, n->bias ? n->bias->vector : NULL,
		                in->x + row * in->stride + i, o->out->x + row * o->out->stride + i);
}

static void norm_row(void *ctx, uint32_t row, unsigned worker)
{
	const struct op *o = ctx;

	(void)worker;
	normalise(o, o->x, row);
}

static void add_norm_row(void *ctx, uint32_t row, unsigned worker)
{
	const struct op *o = ctx;
	const size_t at = row * o->sum->stride;

	(void)worker;
	o->b->isa->add(o->x->x + at, o->y->x + at, o->sum->x + at, ROUND16(o->sum->width));
	normalise(o, o->sum, row);
}

static bool is_vector(const struct weight *w, uint32_t width)
{
	return !w || (w->vector && w->n_in == width);
}

static void norm_check(const struct norm *n, const struct act *out)
{
	assert(n->width > 0 && out->width % n->width == 0);
	assert(is_vector(n->weight, n->width) || is_vector(n->weight, out->width));
	assert(is_vector(n->bias, n->width));
}

void cpu_norm(struct backend *b, const struct norm *n, const struct act *in, struct act *out)
{
	struct op o = { .b = b, .norm = n, .x = in, .out = out };

	cpu_products(b);
	assert(b->batch && in->width == out->width);
	norm_check(n, out);
	if (b->rc)
		return;
	by_rows(&o, norm_row, false);
}

void cpu_add_norm(struct backend *b, const struct norm *n, const struct act *x, const struct act *y,
                  struct act *sum, struct act *out)
{
	struct op o = { .b = b, .norm = n, .x = x, .y = y, .sum = sum, .out = out };

	cpu_products(b);
	assert(b->batch && x->width == out->width && y->width == out->width && sum->width == out->width);
	assert(n->width == out->width && sum != out);
	norm_check(n, out);
	if (b->rc)
		return;
	cpu_act_written(sum);
	by_rows(&o, add_norm_row, false);
}

static void glu_stretch(void *ctx, uint32_t item, unsigned worker)
{
	const struct op *o = ctx;
	size_t n, at = stretch(o, item, &n);

	(void)worker;
	o->b->isa->glu(o->kind, o->x->x + at, o->y ? o->y->x + at : NULL, o->out->x + at, n);
}

void cpu_glu(struct backend *b, enum glu_kind kind, const struct act *gate,
             const struct act *up, struct act *out)
{
	struct op o = { .b = b, .kind = kind, .x = gate, .y = up, .out = out };

	cpu_products(b);
	assert(b->batch && gate->width == out->width && (!up || up->width == out->width));
	assert(up || kind != GLU_SWIGLU_CLAMPED);
	if (b->rc)
		return;
	by_rows(&o, glu_stretch, true);
}

static void add_stretch(void *ctx, uint32_t item, unsigned worker)
{
	const struct op *o = ctx;
	size_t n, at = stretch(o, item, &n);

	(void)worker;
	o->b->isa->add(o->x->x + at, o->y->x + at, o->out->x + at, n);
}

void cpu_add(struct backend *b, const struct act *x, const struct act *y, struct act *out)
{
	struct op o = { .b = b, .x = x, .y = y, .out = out };

	cpu_products(b);
	assert(b->batch && x->width == out->width && y->width == out->width);
	if (b->rc)
		return;
	by_rows(&o, add_stretch, true);
}

static void softcap_stretch(void *ctx, uint32_t item, unsigned worker)
{
	const struct op *o = ctx;
	size_t n, at = stretch(o, item, &n);

	(void)worker;
	o->b->isa->softcap(o->factor, o->out->x + at, n);
}

void cpu_softcap(struct backend *b, float cap, struct act *x)
{
	struct op o = { .b = b, .factor = cap, .out = x };

	cpu_products(b);
	assert(b->batch && cap > 0);
	if (b->rc)
		return;
	by_rows(&o, softcap_stretch, true);
}

static void clamp_stretch(void *ctx, uint32_t item, unsigned worker)
{
	const struct op *o = ctx;
	size_t n, at = stretch(o, item, &n);
	float *x = o->out->x + at;

	(void)worker;
	for (size_t i = 0; i < n; i++)           /* a NaN stays one */
		x[i] = x[i] > o->factor ? o->factor : x[i] < -o->factor ? -o->factor : x[i];
}

void cpu_clamp(struct backend *b, float most, struct act *x)
{
	struct op o = { .b = b, .factor = most, .out = x };

	cpu_products(b);
	assert(b->batch && most > 0);
	if (b->rc)
		return;
	by_rows(&o, clamp_stretch, true);
}

void cpu_select(struct backend *b, const struct act *in, struct act *out)
{
	const struct batch *batch = b->batch;

	cpu_products(b);
	assert(batch && !b->selected && in->width == out->width);
	b->selected = true;
	b->n_row = batch->n_output;
	if (b->rc)
		return;
	cpu_act_written(out);
	/* outputs ascend, so out may be in */
	for (uint32_t i = 0; i < batch->n_output; i++)
		memmove(out->x + i * out->stride, in->x + batch->outputs[i] * in->stride,
		        in->width * sizeof(float));
}

void cpu_read(struct backend *b, const struct act *a, float *dst)
{
	cpu_products(b);
	assert(b->batch);
	if (b->rc)
		return;
	for (uint32_t i = 0; i < b->n_row; i++)
		memcpy(dst + (size_t)i * a->width, a->x + i * a->stride, a->width * sizeof(float));
}
