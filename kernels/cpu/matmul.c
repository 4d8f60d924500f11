/*
 * Matrix times activations: which group of rows is whose; and experts.
 *
 * An item is a few groups of sixteen output rows against all activation rows, so
 * a weight is read from memory once a step.  Many rows are shared out instead, the same
 * ones to the same worker as in operations by rows: what it wrote it reads again, and
 * workers read the same weights at about the same time.
 *
 * The hard idea: workers meet at the end of whatever is run, and a small product is
 * hardly longer than the meeting.  So a product waits (b->waiting) for others of the
 * same input, and they are run as one by whatever operation comes next.
 */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/cpu.h"

#define ITEM_BYTES 131072u       /* of weights at most: long enough for the memory to see what comes */
#define ITEM_ROWS 2u             /* with more rows items are shorter, down to an eighth: the last one is waited for */
#define OWN_ROWS 32u             /* of a worker at least, where rows are shared out (measured) */

_Static_assert(ROWS_NEAR % PANEL_ROWS == 0, "a part of the rows begins with a panel");

static enum form form_of(const struct weight *w)
{
	return w->pack == PACK_WORD ? FORM_WORDS : FORM_BYTES;
}

/* Rows row..row+n-1 as a product reads them; panels: in these. */
static struct rows rows_of(const struct product *p, uint32_t row, uint32_t n, bool panels)
{
	const struct act *in = p->in;
	const enum form form = form_of(p->w);

	return (struct rows){
		.n = n, .n_plane = p->b->n_plane, .x = in->x + row * in->stride, .x_stride = in->stride,
		.in = cpu_quanta(p->b, in, form, (size_t)row * (in->width / 32)),
		.q_stride = cpu_row_bytes(p->b, in, form), .b_stride = in->width / 32,
		.panels = panels ? cpu_panels(p->b, in, row) : NULL,
		.out = p->out->x + row * p->out->stride, .out_stride = p->out->stride,
	};
}

/* tile: the group as floats, or NULL */
static void product_group(const struct product *p, uint32_t group, const struct rows *r, const float *tile)
{
	const struct isa *isa = p->b->isa;
	const struct weight *w = p->w;

	if (!tile && w->pack == PACK_F32)
		tile = (const float *)(const void *)w->values + (size_t)group * w->n_in * 16;
	if (tile)
		isa->dot_float(tile, w->n_in, group, r, p->bias);
	else if (r->panels)
		isa->dot_panels(w, group, r, p->bias);
	else
		isa->dot(w, group, r, p->bias);
}

/* The first row of a part: about where pool_run_near cuts rows. */
static uint32_t part_row(const struct backend *b, uint32_t part)
{
	const uint32_t n = ((b->n_row + ROWS_NEAR - 1) / ROWS_NEAR * part + b->n_part - 1) / b->n_part * ROWS_NEAR;

	return n < b->n_row ? n : b->n_row;
}

/* Groups first..last-1, by some rows at a time, which stay in the cache meanwhile: all in panels, or none. */
static void multiply(const struct product *p, uint32_t part, uint32_t first, uint32_t last, unsigned worker)
{
	const uint32_t begin = part_row(p->b, part), end = part_row(p->b, part + 1);
	const uint32_t panels = p->w->pack == PACK_INT && !p->exact ? cpu_panel_rows(p->b) : 0;
	float *tile = p->exact ? p->b->scratch[worker].tile : NULL;

	for (uint32_t row = begin, n; row < end; row += n) {
		const uint32_t to = row < panels && panels < end ? panels : end;
		struct rows r;

		n = to - row < ROWS_MOST ? to - row : ROWS_MOST;
		r = rows_of(p, row, n, row < panels);
		for (uint32_t g = first; g < last; g++) {
			if (tile && (row == begin || last - first > 1))
				cpu_weight_tile(p->w, g, tile);
			product_group(p, g, &r, tile);
		}
	}
}

/* The product's first group that begins at a byte of all that wait, or behind it. */
static uint32_t group_at(const struct product *p, uint64_t byte)
{
	const uint64_t g = byte <= p->before ? 0 : (byte - p->before + p->group - 1) / p->group;

	return g < p->w->n_group ? (uint32_t)g : p->w->n_group;
}

static void multiply_waiting(void *ctx, uint32_t item, unsigned worker)
{
	const struct backend *b = ctx;
	const uint32_t part = item / b->n_part_item, n = b->n_part_item;
	const uint64_t from = b->n_part_byte * (item % n) / n, to = b->n_part_byte * (item % n + 1) / n;

	for (uint32_t i = 0; i < b->n_waiting; i++) {
		const struct product *p = &b->waiting[i];

		multiply(p, part, group_at(p, from), group_at(p, to), worker);
	}
}

/* As many for every worker, of as many bytes; where floats are made for all rows, about one for each group. */
static uint32_t n_item(const struct backend *b, uint32_t n_group, bool tiles)
{
	const size_t n_row = b->n_row < ITEM_ROWS ? ITEM_ROWS : b->n_row < 8 * ITEM_ROWS ? b->n_row : 8 * ITEM_ROWS;
	const uint64_t own = b->n_part_byte / pool_threads(b->pool) / (ITEM_BYTES * ITEM_ROWS / n_row) + 1;
	const uint64_t n = own * pool_threads(b->pool);

	return tiles || n > n_group ? n_group : (uint32_t)n;
}

void cpu_products(struct backend *b)
{
	const uint32_t n_thread = pool_threads(b->pool);
	bool tiles = false;
	uint32_t n_group = 0;

	b->n_part_byte = 0;
	for (uint32_t i = 0; i < b->n_waiting; i++) {
		struct product *p = &b->waiting[i];

		p->before = b->n_part_byte;
		p->group = p->w->n_byte / p->w->n_group + 1;
		b->n_part_byte += p->group * p->w->n_group;
		n_group += p->w->n_group;
		tiles = tiles || p->exact;
	}
	b->n_part_item = n_item(b, n_group, tiles);
	/* a tile of floats is made once for all rows, so these are not shared out then */
	b->n_part = !tiles && b->n_row >= OWN_ROWS * n_thread ? n_thread : 1;
	if (n_group > 0)
		pool_run(b->pool, multiply_waiting, b, b->n_part_item * b->n_part);
	b->n_waiting = 0;
}

/* Beside those that wait: another input, or the same output. */
static bool must_follow(const struct backend *b, const struct act *in, const struct act *out)
{
	bool follows = b->n_waiting == PRODUCTS_WAITING || (b->n_waiting > 0 && b->waiting[0].in != in);

	for (uint32_t i = 0; i < b->n_waiting; i++)
		follows = follows || b->waiting[i].out == out;
	return follows;
}

void cpu_matmul(struct backend *b, const struct weight *w, const struct weight *bias,
                const struct act *in, struct act *out)
{
	const bool ints = w->pack != PACK_F32;
	struct product p = { .b = b, .w = w, .in = in, .out = out };

	assert(b->batch && in != out && in->width == w->n_in && out->width == w->n_out);
	assert(!bias || (bias->vector && bias->n_in == w->n_out));
	if (must_follow(b, in, out))
		cpu_products(b);
	if (b->rc)
		return;
	p.bias = bias ? bias->vector : NULL;
	p.exact = w->vector || (ints && b->batch->exact);
	if (ints && !p.exact)
		cpu_ints_need(b, w, in, false);
	cpu_act_written(out);
	b->waiting[b->n_waiting++] = p;
}

/* ---- experts ---- */

struct routed {
	struct backend *b;
	const struct weight *w, *bias;
	const struct act *in;
	struct act *out;
	uint32_t which, n_group, n_part, part;   /* groups of an expert, items of a row, groups of an item */
	bool exact;
};

static void routed(void *ctx, uint32_t item, unsigned worker)
{
	const struct routed *o = ctx;
	const uint32_t row = item / o->n_part, first = item % o->n_part * o->part;
	const uint32_t expert = o->b->choices[row].expert[o->which];
	const struct weight w = cpu_weight_groups(o->w, expert * o->n_group, o->n_group);
	const struct product p = {
		.b = o->b, .w = &w, .in = o->in, .out = o->out,
		.bias = o->bias ? o->bias->vector + (size_t)expert * w.n_out : NULL,
	};
	const struct rows r = rows_of(&p, row, 1, false);
	float *tile = o->exact ? o->b->scratch[worker].tile : NULL;

	for (uint32_t g = first; g < first + o->part && g < o->n_group; g++) {
		if (tile)
			cpu_weight_tile(&w, g, tile);
		product_group(&p, g, &r, tile);
	}
}

void cpu_matmul_routed(struct backend *b, uint32_t which, const struct weight *w, const struct weight *bias,
                       const struct act *in, struct act *out)
{
	const bool ints = w->pack != PACK_F32;
	struct routed o = { .b = b, .w = w, .bias = bias, .in = in, .out = out, .which = which };
	size_t bytes;

	cpu_products(b);
	assert(b->batch && in != out && in->width == w->n_in && which < b->n_used);
	assert(!w->vector && out->width % 16 == 0 && w->n_out % out->width == 0);
	assert(!bias || (bias->vector && bias->n_in == w->n_out));
	if (b->rc)
		return;
	o.exact = ints && b->batch->exact;
	if (ints && !o.exact)
		cpu_ints_need(b, w, in, true);
	cpu_act_written(out);
	bytes = w->n_byte / w->n_group + 1;
	o.n_group = out->width / 16;
	o.part = bytes >= ITEM_BYTES ? 1 : (uint32_t)(ITEM_BYTES / bytes);
	o.n_part = (o.n_group + o.part - 1) / o.part;
	pool_run(b->pool, routed, &o, b->n_row * o.n_part);
}

static void choose(struct choice *c, const float *logits, uint32_t n, uint32_t n_used)
{
	float sum = 0;

	for (uint32_t k = 0; k < n_used; k++) {
		bool found = false;

		for (uint32_t e = 0; e < n; e++) {
			bool taken = false;

			for (uint32_t i = 0; i < k; i++)
				taken = taken || c->expert[i] == e;
			if (taken || (found && !(logits[e] > logits[c->expert[k]])))
				continue;
			c->expert[k] = e;            /* a NaN may be chosen, and stays one */
			found = true;
		}
	}
	for (uint32_t k = 0; k < n_used; k++) {
		c->weight[k] = (float)exp((double)(logits[c->expert[k]] - logits[c->expert[0]]));
		sum += c->weight[k];
	}
	for (uint32_t k = 0; k < n_used; k++)
		c->weight[k] /= sum;
}

void cpu_route(struct backend *b, uint32_t n_used, const struct act *logits)
{
	cpu_products(b);
	assert(b->batch && n_used > 0 && n_used <= ROUTE_MOST && n_used <= logits->width);
	b->n_used = n_used;
	for (uint32_t row = 0; row < b->n_row && !b->rc; row++)
		choose(&b->choices[row], logits->x + row * logits->stride, logits->width, n_used);
}

void cpu_add_routed(struct backend *b, uint32_t which, const struct act *x, struct act *out)
{
	cpu_products(b);
	assert(b->batch && x->width == out->width && x != out && which < b->n_used);
	cpu_act_written(out);
	for (uint32_t row = 0; row < b->n_row && !b->rc; row++) {
		const float weight = b->choices[row].weight[which], *from = x->x + row * x->stride;
		float *to = out->x + row * out->stride;

		for (uint32_t i = 0; i < x->width; i++)
			to[i] = which ? to[i] + weight * from[i] : weight * from[i];
	}
}
