/*
 * Inside the products: the ways that matmul.cu sends rows, the kinds of quantized
 * weights, and which rows of the batch and of which weight a block of threads works on.
 */
#ifndef KERNELS_CUDA_PRODUCT_H
#define KERNELS_CUDA_PRODUCT_H

#include <assert.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"

#define WARPS 4u                         /* of a block: each owns an output row */

typedef void product_run(const struct products *s);

/* A kind of quantized block, and what is done with it. */
template <typename F> struct product_kind {
	uint32_t n_bit, n_sub;
	bool super, has_min;
	F *run;
};

#define PRODUCT_KIND(run, n_bit, n_sub, super, has_min) \
	{ n_bit, n_sub, super, has_min, run<kind_quants<n_bit, n_sub, super, has_min>> }
#define PRODUCT_KINDS(run) { \
	PRODUCT_KIND(run, 4, 32, false, false), PRODUCT_KIND(run, 4, 32, false, true),   /* Q4_0, Q4_1 */ \
	PRODUCT_KIND(run, 5, 32, false, false), PRODUCT_KIND(run, 5, 32, false, true),   /* Q5_0 and MXFP4, Q5_1 */ \
	PRODUCT_KIND(run, 8, 32, false, false),                                         /* Q8_0 */ \
	PRODUCT_KIND(run, 2, 16, true, true), PRODUCT_KIND(run, 3, 16, true, false),     /* Q2_K, Q3_K */ \
	PRODUCT_KIND(run, 4, 32, true, true), PRODUCT_KIND(run, 5, 32, true, true),      /* Q4_K, Q5_K */ \
	PRODUCT_KIND(run, 6, 16, true, false),                                          /* Q6_K */ \
}

/* NULL: the weight is of none of them. */
template <typename F, size_t n> static inline F *product_of(const struct product_kind<F> (&kinds)[n], const struct packed *w)
{
	for (const struct product_kind<F> &k : kinds)
		if (w->pack == PACK_QUANTS && k.n_bit == w->n_bit && k.n_sub == w->n_sub && k.super == w->super
		    && k.has_min == w->has_min)
			return k.run;
	return NULL;
}

/* The ways of a product; false: not by these weights, all of one kind. */
typedef bool product_way(const struct products *s);
CUDA_HIDDEN product_way cuda_gemm;       /* halves; first is where prefill begins */
CUDA_HIDDEN product_way cuda_wide;       /* cuda_dot's bits, on tensor cores; first is 0 */
CUDA_HIDDEN product_way cuda_dot;        /* quantized weights by quantized activations; first is 0 */

/* Products as one kernel sees them: the blocks of one after those of another. */
struct product_part {
	struct packed p;
	const float *bias;               /* NULL: none */
	float *out;
	uint32_t stride, n_out;
};

struct product_parts {
	struct product_part part[PRODUCTS_MOST];
	uint32_t end[PRODUCTS_MOST], unused;     /* the block after its last one */
};

/* A block has side output rows. */
static inline struct product_parts product_parts_of(const struct products *s, uint32_t side)
{
	struct product_parts o;
	uint32_t end = 0;

	memset(static_cast<void *>(&o), 0, sizeof(o));
	for (uint32_t i = 0; i < PRODUCTS_MOST; i++) {
		if (i < s->n) {
			const struct product *p = &s->all[i];

			memcpy(&o.part[i].p, &p->w->p, sizeof(struct packed));   /* with its padding */
			o.part[i].bias = p->bias;
			o.part[i].out = p->out->x;
			o.part[i].stride = p->out->stride;
			o.part[i].n_out = p->out->width;
			end += up_to(p->out->width, side) / side;
		}
		o.end[i] = end;
	}
	return o;
}

/* Of this block, in registers: behind a reference loops would read it again and again.
 * at: which of the part's blocks it is. */
static inline __device__ struct product_part part_here(const struct product_parts &o, uint32_t &at)
{
	const uint32_t i = (blockIdx.x >= o.end[0]) + (blockIdx.x >= o.end[1]);

	static_assert(PRODUCTS_MOST == 3, "a block is of one of three");
	at = blockIdx.x - (i ? o.end[i - 1] : 0);
	return o.part[i];
}

/* Of this block; n_tile is the most that it takes. */
template <unsigned n_tile> static inline __device__ struct group group_here(const struct product_rows &r)
{
	struct group g = { 0, 0, { 0 } };

	static_assert(n_tile <= GROUP_MOST, "rows of a block are a group");
	if (r.groups)
		return r.groups[blockIdx.y];
	const uint32_t first = r.first + blockIdx.y * n_tile, rest = r.first + r.n_row - first;

	g.n = rest < n_tile ? rest : n_tile;
	UNROLL
	for (unsigned i = 0; i < n_tile; i++)
		g.row[i] = first + (i < g.n ? i : g.n - 1);
	return g;
}

static inline dim3 product_grid(const struct product_parts *o, const struct product_rows *r, uint32_t n_tile)
{
	return dim3(o->end[PRODUCTS_MOST - 1], r->groups ? r->n_group : up_to(r->n_row, n_tile) / n_tile);
}

#endif
