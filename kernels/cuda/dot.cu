/*
 * Quantized weights by quantized activations: a warp owns an output row, and a lane
 * every 32nd block of it.
 *
 * The hard idea is one order of float additions, fixed by n_in alone: lane l adds up
 * the blocks l, l + 32, ... one after another, each an exact integer times both
 * scales, and then the lanes are added as a tree.  So a row's bits depend neither on the
 * tile that it is in nor on who else is in the batch.
 *
 * Memory: sixteen bytes of weights a lane and load, four blocks in flight for one row;
 * activations come through the first cache, sixteen bytes a lane side by side.
 */
#include <assert.h>

#include "kernels/cuda/packed.h"
#include "kernels/cuda/planes.h"
#include "kernels/cuda/product.h"

/* + a chunk of weights times the same block of a row */
template <typename K>
static inline __device__ float dot_chunk(float sum, const uint32_t *q, const struct scales<K> &s, const struct planes &x,
                                         uint32_t row, uint32_t chunk)
{
	constexpr unsigned n = CHUNK / K::n_sub;
	const uint4 *at = x.q + (size_t)row * 4 * x.n_block + chunk;
	const struct plane_block b = x.blocks[(size_t)row * x.n_block + chunk];
	int32_t high[2] = { 0, 0 }, low[2] = { 0, 0 };

	UNROLL
	for (unsigned k = 0; k < 2; k++) {
		const uint4 h = at[(size_t)k * x.n_block], l = at[(size_t)(2 + k) * x.n_block];

		high[k] = dot4(q[4 * k], h.x, high[k]);
		high[k] = dot4(q[4 * k + 1], h.y, high[k]);
		high[k] = dot4(q[4 * k + 2], h.z, high[k]);
		high[k] = dot4(q[4 * k + 3], h.w, high[k]);
		low[k] = dot4(q[4 * k], l.x, low[k]);
		low[k] = dot4(q[4 * k + 1], l.y, low[k]);
		low[k] = dot4(q[4 * k + 2], l.z, low[k]);
		low[k] = dot4(q[4 * k + 3], l.w, low[k]);
	}
	if constexpr (n == 1)
		return dot_add<K>(sum, s, 0, b.d, high[0] + high[1], low[0] + low[1], b.half[0] + b.half[1]);
	sum = dot_add<K>(sum, s, 0, b.d, high[0], low[0], b.half[0]);
	return dot_add<K>(sum, s, n - 1, b.d, high[1], low[1], b.half[1]);
}

/* The warp's output row, of rows of a group. */
template <typename K, unsigned n_tile>
static inline __device__ void dot_rows(const struct product_part &o, const struct planes &x, uint32_t j, const struct group &g)
{
	const struct packed &p = o.p;
	const uint32_t lane = threadIdx.x, n_chunk = p.n_in / CHUNK, at = g.expert * o.n_out + j;
	float sum[n_tile];

	UNROLL
	for (unsigned r = 0; r < n_tile; r++)
		sum[r] = 0;
	UNROLL_BY(n_tile == 1 ? 4 : n_tile == 2 ? 2 : 1)       /* more spills */
	for (uint32_t chunk = lane; chunk < n_chunk; chunk += WARP) {
		struct scales<K> s;
		uint32_t q[8];

		K::quads(p, at, chunk, q);
		scales_load<K>(p, at, chunk, &s);
		UNROLL
		for (unsigned r = 0; r < n_tile; r++)
			sum[r] = dot_chunk<K>(sum[r], q, s, x, g.row[r], chunk);
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
dot_kernel(const __grid_constant__ struct product_parts parts, const struct planes x, const struct product_rows rows)
{
	uint32_t block;
	const struct product_part o = part_here(parts, block);
	const uint32_t j = block * WARPS + threadIdx.y;
	const struct group g = group_here<n_tile>(rows);

	if (j >= o.n_out || g.n == 0)           /* a whole warp, a whole block */
		return;
	if (n_tile == 1 || g.n == 1)
		dot_rows<K, 1>(o, x, j, g);
	else if (n_tile == 2 || g.n == 2)
		dot_rows<K, n_tile == 1 ? 1 : 2>(o, x, j, g);
	else
		dot_rows<K, n_tile>(o, x, j, g);
}

template <typename K, unsigned n_tile> static void run_tile(const struct products *s)
{
	const struct planes x = cuda_planes(s->b, s->in, s->rows.n_row);
	const struct product_parts parts = product_parts_of(s, WARPS);

	launch(s->b, "matmul", dot_kernel<K, n_tile>, product_grid(&parts, &s->rows, n_tile), dim3(WARP, WARPS), 0, parts, x,
	       s->rows);
	cuda_planes_are(s->b, s->in, s->rows.n_row);
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

bool cuda_dot(const struct products *s)
{
	const auto run = product_of(kinds, &s->all[0].w->p);

	if (run)
		run(s);
	return run;
}
