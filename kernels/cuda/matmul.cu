/*
 * Matrix times activations: which way rows go (the table below), and the way in floats,
 * for weights that are floats and for exact batches.
 *
 * In that way a warp owns an output row; a lane turns n_value weights into floats at a time and uses
 * them for up to four activation rows.  The order of additions
 * of one result is fixed by n_in alone and every step is a fused multiply-add, so a
 * result is the same whatever else is in the batch.
 *
 * A launch costs as much as a small product.  So a product waits (b->waiting) for others
 * of the same rows, and those of one kind are one launch, when anything else is queued.
 */
#include <assert.h>

#include "kernels/cuda/packed.h"
#include "kernels/cuda/product.h"

template <unsigned n_value>
static inline __device__ float float_unit(float sum, const float *w, const float *in)
{
	const float4 *x = reinterpret_cast<const float4 *>(in);

	UNROLL
	for (unsigned i = 0; i < n_value / 4; i++) {
		const float4 v = x[i];

		sum = fmaf(w[4 * i], v.x, sum);
		sum = fmaf(w[4 * i + 1], v.y, sum);
		sum = fmaf(w[4 * i + 2], v.z, sum);
		sum = fmaf(w[4 * i + 3], v.w, sum);
	}
	return sum;
}

/* The warp's output row, of rows of a group. */
template <typename K, unsigned n_tile>
static inline __device__ void float_rows(const struct product_part &o, const float *in, uint32_t in_stride, uint32_t j,
                                         const struct group &g)
{
	const struct packed &p = o.p;
	const uint32_t lane = threadIdx.x, at = g.expert * o.n_out + j;
	float w[K::n_value], sum[n_tile];

	UNROLL
	for (unsigned r = 0; r < n_tile; r++)
		sum[r] = 0;
	UNROLL_BY(K::n_value == 8 ? 4 : 1)
	for (uint32_t unit = lane; unit < p.stride / K::n_value; unit += WARP) {
		K::load(p, at, unit, w);
		UNROLL
		for (unsigned r = 0; r < n_tile; r++)
			sum[r] = float_unit<K::n_value>(sum[r], w, in + (size_t)g.row[r] * in_stride + unit * K::n_value);
	}
	UNROLL
	for (unsigned r = 0; r < n_tile; r++) {
		const float total = warp_sum(sum[r]);

		if (lane == 0 && r < g.n)
			o.out[(size_t)g.row[r] * o.stride + j] = o.bias ? total + o.bias[at] : total;
	}
}

template <typename K, unsigned n_tile>
static __global__ void __launch_bounds__(WARPS * WARP, 2)
float_kernel(const __grid_constant__ struct product_parts parts, const float *in, uint32_t in_stride,
             const struct product_rows rows)
{
	uint32_t block;
	const struct product_part o = part_here(parts, block);
	const uint32_t j = block * WARPS + threadIdx.y;
	const struct group g = group_here<n_tile>(rows);

	if (j >= o.n_out || g.n == 0)           /* a whole warp, a whole block */
		return;
	if (n_tile == 1 || g.n == 1)
		float_rows<K, 1>(o, in, in_stride, j, g);
	else
		float_rows<K, n_tile>(o, in, in_stride, j, g);
}

template <typename K, unsigned n_tile> static void run_tile(const struct products *s)
{
	const struct product_parts parts = product_parts_of(s, WARPS);

	launch(s->b, "matmul", float_kernel<K, n_tile>, product_grid(&parts, &s->rows, n_tile), dim3(WARP, WARPS), 0, parts,
	       s->in->x, s->in->stride, s->rows);
}

template <typename K> static void run_kind(const struct products *s)
{
	if (s->rows.n_row == 1)
		run_tile<K, 1>(s);
	else if (s->rows.n_row == 2)
		run_tile<K, 2>(s);
	else
		run_tile<K, GROUP_MOST>(s);
}

static const struct product_kind<product_run> kinds[] = PRODUCT_KINDS(run_kind);

static bool writes(const struct products *s, const struct act *a)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->all[i].out == a)
			return true;
	return false;
}

static bool floats(const struct products *s)
{
	struct backend *b = s->b;
	const struct packed *w = &s->all[0].w->p;
	const struct act *had = writes(s, b->planes_of) ? NULL : b->planes_of;

	switch (w->pack) {
	case PACK_F32:    run_kind<kind_f32>(s); break;
	case PACK_F16:    run_kind<kind_16<false>>(s); break;
	case PACK_BF16:   run_kind<kind_16<true>>(s); break;
	case PACK_QUANTS: product_of(kinds, w)(s); break;
	}
	cuda_planes_are(b, had, b->n_planes);
	return true;
}

/* ---- which way ---- */

/* The fastest first.  Each takes what the ones before it left: all rows, or those of
 * prefill, which come last. */
static const struct way {
	uint32_t n_row;                  /* so many or more */
	bool decode, routed, exact;      /* also: rows that decode, rows by their experts, exact batches */
	product_way *run;
} ways[] = {
	{ MANY_ROWS, false, false, false, cuda_gemm },
	{ MANY_ROWS, true, false, false, cuda_wide },
	{ 1, true, true, false, cuda_dot },
	{ 1, true, true, true, floats },
};

/* All of one kind. */
static void run(struct products *s)
{
	const struct backend *b = s->b;
	uint32_t left = b->n_row;

	for (const struct way &w : ways) {
		s->rows.first = w.decode ? 0 : b->prefill_from;
		if (b->rc || left < s->rows.first + w.n_row || (s->rows.groups && !w.routed) || (b->batch->exact && !w.exact))
			continue;
		s->rows.n_row = left - s->rows.first;
		if (w.run(s))
			left = s->rows.first;
	}
	assert(b->rc || left == 0);
}

/* ---- products that wait ---- */

static bool alike(const struct weight *w, const struct weight *v)
{
	const struct packed *a = &w->p, *b = &v->p;

	return a->pack == b->pack && a->n_bit == b->n_bit && a->n_sub == b->n_sub && a->super == b->super
	       && a->has_min == b->has_min && w->are_halves == v->are_halves;
}

void cuda_products(struct backend *b)
{
	struct products rest = b->waiting, some = rest;

	b->waiting.n = 0;
	while (rest.n > 0 && !b->rc) {
		const uint32_t n = rest.n;

		some.n = rest.n = 0;
		for (uint32_t i = 0; i < n; i++) {
			const struct product p = rest.all[i];
			struct products *to = some.n == 0 || alike(some.all[0].w, p.w) ? &some : &rest;

			to->all[to->n++] = p;
		}
		run(&some);
	}
}

/* groups: of experts; NULL: none */
static void let_wait(struct backend *b, const struct group *groups, const struct act *in, const struct product &p)
{
	struct products *s = &b->waiting;

	if (s->n == PRODUCTS_MOST || s->in != in || s->rows.groups != groups || writes(s, p.out))
		cuda_products(b);
	if (b->rc || b->n_row == 0)
		return;
	s->b = b;
	s->in = in;
	s->rows = { 0, 0, groups, groups ? b->n_group : 0, 0 };
	s->all[s->n++] = p;
}

static const float *vector(const struct weight *w)
{
	return w ? static_cast<const float *>(w->p.plain) : NULL;
}

void cuda_matmul(struct backend *b, const struct weight *w, const struct weight *bias,
                 const struct act *in, struct act *out)
{
	assert(b->batch && in != out && in->width == w->p.n_in && out->width == w->p.n_out);
	assert(cuda_is_vector(bias, w->p.n_out));
	let_wait(b, NULL, in, { w, vector(bias), out });
}

void cuda_matmul_routed(struct backend *b, uint32_t which, const struct weight *w, const struct weight *bias,
                        const struct act *in, struct act *out)
{
	assert(b->batch && in != out && in->width == w->p.n_in && w->p.n_out % out->width == 0 && which < b->n_used);
	assert(cuda_is_vector(bias, w->p.n_out));
	let_wait(b, b->groups + (size_t)which * b->n_row_max, in, { w, vector(bias), out });
}
