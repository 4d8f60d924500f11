/*
 * Quantized weights by quantized activations on tensor cores: sixteen rows of a batch and
 * more, weights of one scale for 32 values.
 *
 * The hard idea: dot.cu's order of float additions on another shape.  There lane l of a
 * warp adds up the blocks l, l + 32, ... and then lanes are added as a tree.  Here warp w
 * of sixteen multiplies the blocks w, w + 16, ... of a tile of 16 x 16 results, whose
 * integers are exact, and keeps the even and the odd ones apart: what lanes w and w + 16
 * have there.  The tree's first step adds these two, the others go through shared memory.
 * So results are the same bits, and a row may be in either.
 */
#include "kernels/cuda/packed.h"
#include "kernels/cuda/product.h"

#define SIDE 16u                         /* of a tile: output rows, and rows of the batch */
#define WIDE_WARPS (WARP / 2)            /* a warp is two lanes of dot.cu */

/* Adds a block to the sums of a warp's tile: columns 8h .. 8h + 7 of it. */
template <typename K>
static __forceinline__ __device__ void wide_half(float *sum, const uint32_t *a, const struct scales<K> *s, const struct planes &x,
                                        const uint32_t *row, const uint32_t *mine, uint32_t chunk)
{
	const uint32_t t = threadIdx.x % 4;
	int32_t high[4] = { 0, 0, 0, 0 }, low[4] = { 0, 0, 0, 0 };
	uint32_t b[4];

	UNROLL
	for (unsigned i = 0; i < 4; i++)
		b[i] = reinterpret_cast<const uint32_t *>(x.q + ((size_t)*row * 4 + i) * x.n_block + chunk)[t];
	mma_s8(high, a, b);
	mma_s8(low, a, b + 2);
	UNROLL
	for (unsigned c = 0; c < 2; c++) {
		const struct plane_block block = x.blocks[(size_t)mine[c] * x.n_block + chunk];
		const int32_t q_sum = block.half[0] + block.half[1];

		UNROLL
		for (unsigned i = 0; i < 2; i++)
			sum[2 * i + c] = dot_add<K>(sum[2 * i + c], s[i], 0, block.d, high[2 * i + c], low[2 * i + c], q_sum);
	}
}

template <typename K>
static __forceinline__ __device__ void wide_block(float (*sum)[4], const struct packed &p, const uint32_t *j, const struct planes &x,
                                         const uint32_t *row, const uint32_t (*mine)[2], uint32_t chunk)
{
	struct scales<K> s[2];
	uint32_t a[4];

	UNROLL
	for (unsigned i = 0; i < 2; i++) {
		K::quads_of(p, j[i], chunk, threadIdx.x % 4, a[i], a[2 + i]);
		scales_load<K>(p, j[i], chunk, s + i);
	}
	UNROLL
	for (unsigned h = 0; h < 2; h++)
		wide_half<K>(sum[h], a, s, x, row + h, mine[h], chunk);
}

/* The rest of the tree, over the warps' tiles: what warp w has after the step by. */
template <unsigned by> static inline __device__ float wide_tree(const float *tiles, unsigned w)
{
	if constexpr (by == WIDE_WARPS)
		return tiles[w * SIDE * SIDE];
	else
		return wide_tree<2 * by>(tiles, w) + wide_tree<2 * by>(tiles, w + by);
}

static inline __device__ uint32_t least(uint32_t x, uint32_t most)
{
	return x < most ? x : most;
}

template <typename K>
static __global__ void __launch_bounds__(WIDE_WARPS * WARP, 1)
wide_kernel(const __grid_constant__ struct product_parts parts, const struct planes x, uint32_t n_row)
{
	uint32_t block;
	const struct product_part o = part_here(parts, block);
	const struct packed &p = o.p;
	const uint32_t lane = threadIdx.x, w = threadIdx.y, g = lane / 4, t = lane % 4, n_chunk = p.n_in / CHUNK;
	const uint32_t first_j = block * SIDE, first = blockIdx.y * SIDE;
	/* past the end the last one again, whose result nobody takes */
	const uint32_t j[2] = { least(first_j + g, p.n_out - 1), least(first_j + g + 8, p.n_out - 1) };
	const uint32_t row[2] = { least(first + g, n_row - 1), least(first + g + 8, n_row - 1) };
	const uint32_t mine[2][2] = {
		{ least(first + 2 * t, n_row - 1), least(first + 2 * t + 1, n_row - 1) },
		{ least(first + 2 * t + 8, n_row - 1), least(first + 2 * t + 9, n_row - 1) },
	};
	float even[2][4] = {}, odd[2][4] = {};

	for (uint32_t chunk = w; chunk < n_chunk; chunk += WARP)
		wide_block<K>(even, p, j, x, row, mine, chunk);
	for (uint32_t chunk = w + WIDE_WARPS; chunk < n_chunk; chunk += WARP)
		wide_block<K>(odd, p, j, x, row, mine, chunk);
	UNROLL
	for (unsigned h = 0; h < 2; h++) {
		UNROLL
		for (unsigned i = 0; i < 4; i++)        /* of row 8h + 2t + i % 2, output g + i / 2 * 8 */
			SHARED_FLOATS[(w * SIDE + 8 * h + 2 * t + i % 2) * SIDE + g + i / 2 * 8] = even[h][i] + odd[h][i];
	}
	__syncthreads();
	const uint32_t at = w * WARP + lane, r = first + at / SIDE, k = first_j + at % SIDE;

	if (at < SIDE * SIDE && r < n_row && k < p.n_out) {
		const float total = wide_tree<1>(SHARED_FLOATS + at, 0);

		o.out[(size_t)r * o.stride + k] = o.bias ? total + o.bias[k] : total;
	}
}

template <typename K> static void run_kind(const struct products *s)
{
	const struct planes x = cuda_planes(s->b, s->in, s->rows.n_row);
	const struct product_parts parts = product_parts_of(s, SIDE);

	launch(s->b, "matmul", wide_kernel<K>, product_grid(&parts, &s->rows, SIDE), dim3(WARP, WIDE_WARPS),
	       WIDE_WARPS * SIDE * SIDE * sizeof(float), parts, x, s->rows.n_row);
	cuda_planes_are(s->b, s->in, s->rows.n_row);
}

static const struct product_kind<product_run> kinds[] = {
	PRODUCT_KIND(run_kind, 4, 32, false, false), PRODUCT_KIND(run_kind, 4, 32, false, true),       /* Q4_0, Q4_1 */
	PRODUCT_KIND(run_kind, 4, 32, true, true), PRODUCT_KIND(run_kind, 8, 32, false, false),        /* Q4_K, Q8_0 */
};

bool cuda_wide(const struct products *s)
{
	const auto run = product_of(kinds, &s->all[0].w->p);

	if (run)
		run(s);
	return run;
}
