/*
 * The largest logits of every row, in order, and what the whole row sums to.
 *
 * A value and its place become one 64-bit key, larger for larger values and, of equal
 * ones, for the smaller id: all keys of a row differ, so there is one right answer,
 * whoever compares what first.  Blocks sort tiles of a row into runs and halve them,
 * keeping of any two runs the larger keys; one block does so with what these leave.
 *
 * Which block has which tile, and every order of additions, is the width's alone.
 */
#include <assert.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"

#define THREADS 128u
#define RUN CANDIDATES                   /* keys of a run */
#define TILE 1024u                       /* values that a block sorts at once */
#define PARTS_MOST 64u                   /* blocks of a row */
#define ROWS_AT_ONCE 32u
static_assert((RUN & (RUN - 1)) == 0 && TILE % RUN == 0 && RUN <= THREADS, "runs merge by halves");
static_assert(THREADS / WARP == 4, "a block's sum is of four warps'");

struct top_part {                            /* of a row: what a block leaves */
	uint64_t keys[RUN];
	float sum;                       /* of exp(x - its largest) */
	uint32_t unused;
};

/* NaNs are larger than all numbers; no key is 0. */
static __device__ uint64_t key_of(float x, uint32_t id)
{
	const uint32_t bits = float_bits(x == 0 ? 0.0f : x);   /* one zero */
	const uint32_t order = x != x ? UINT32_MAX : bits >> 31 ? ~bits : bits | 1u << 31;

	return (uint64_t)order << 32 | ~id;
}

static __device__ float value_of(uint64_t key)
{
	const uint32_t order = (uint32_t)(key >> 32);

	return bits_float(order >> 31 ? order & ~(1u << 31) : ~order);
}

static __device__ float term(float x, float most)
{
	return x == most ? 1.0f : expf(x - most);              /* infinite ones, too */
}

/* The larger of two keys to the front, in all pairs of a span: opposite ones, or those
 * half a span apart. */
static __device__ void exchange(uint64_t *keys, uint32_t n, uint32_t span, bool opposite)
{
	for (uint32_t t = threadIdx.x; t < n / 2; t += THREADS) {
		const uint32_t first = t / (span / 2) * span, k = t % (span / 2);
		const uint32_t i = first + k, j = opposite ? first + span - 1 - k : i + span / 2;
		const uint64_t x = keys[i], y = keys[j];

		if (x < y) {
			keys[i] = y;
			keys[j] = x;
		}
	}
	__syncthreads();
}

/* Of spans that rise and fall, or fall and rise: what falls. */
static __device__ void fall(uint64_t *keys, uint32_t n, uint32_t span)
{
	for (; span > 1; span /= 2)
		exchange(keys, n, span, false);
}

static __device__ void sort_runs(uint64_t *keys, uint32_t n)
{
	for (uint32_t span = 2; span <= RUN; span *= 2) {
		exchange(keys, n, span, true);
		fall(keys, n, span / 2);
	}
}

/* Of n_run runs that fall, the largest keys, in the first. */
static __device__ void largest(uint64_t *keys, uint32_t n_run)
{
	while (n_run > 1) {
		const uint32_t kept = (n_run + 1) / 2;

		for (uint32_t i = threadIdx.x; i < (n_run - kept) * RUN; i += THREADS) {
			const uint64_t x = keys[(kept + i / RUN) * RUN + RUN - 1 - i % RUN];

			if (keys[i] < x)
				keys[i] = x;
		}
		__syncthreads();
		fall(keys, kept * RUN, RUN);
		n_run = kept;
	}
}

/* A part has every n_part-th tile of a row; keys[TILE..] are the largest of those done. */
static __global__ void __launch_bounds__(THREADS)
top_parts_kernel(const float *rows, uint32_t stride, uint32_t width, struct top_part *parts)
{
	uint64_t *keys = reinterpret_cast<uint64_t *>(SHARED_FLOATS);
	float *sums = SHARED_FLOATS + 2 * (TILE + RUN), sum = 0, most;
	const float *x = rows + (size_t)blockIdx.y * stride;
	struct top_part *out = parts + (size_t)blockIdx.y * gridDim.x + blockIdx.x;

	for (uint32_t tile = blockIdx.x; tile * TILE < width; tile += gridDim.x) {
		for (uint32_t i = threadIdx.x; i < TILE; i += THREADS)
			keys[i] = tile * TILE + i < width ? key_of(x[tile * TILE + i], tile * TILE + i) : 0;
		__syncthreads();
		sort_runs(keys, TILE);
		largest(keys, TILE / RUN + (tile != blockIdx.x));
		if (threadIdx.x < RUN)
			keys[TILE + threadIdx.x] = keys[threadIdx.x];
	}
	most = value_of(keys[0]);
	__syncthreads();
	for (uint32_t tile = blockIdx.x; tile * TILE < width; tile += gridDim.x)
		for (uint32_t i = tile * TILE + threadIdx.x; i < (tile + 1) * TILE && i < width; i += THREADS)
			sum += term(x[i], most);
	sum = warp_sum(sum);
	if (threadIdx.x % WARP == 0)
		sums[threadIdx.x / WARP] = sum;
	if (threadIdx.x < RUN)
		out->keys[threadIdx.x] = keys[threadIdx.x];
	__syncthreads();
	if (threadIdx.x == 0)
		out->sum = sums[0] + sums[1] + (sums[2] + sums[3]);
}

static __global__ void __launch_bounds__(THREADS)
top_rows_kernel(const struct top_part *parts, uint32_t n_part, uint32_t width, struct candidates *rows)
{
	uint64_t *keys = reinterpret_cast<uint64_t *>(SHARED_FLOATS);
	const struct top_part *in = parts + (size_t)blockIdx.x * n_part;
	struct candidates *out = rows + blockIdx.x;
	const uint32_t i = threadIdx.x, n = width < CANDIDATES ? width : CANDIDATES;
	float sum = 0, most;

	for (uint32_t k = i; k < n_part * RUN; k += THREADS)
		keys[k] = in[k / RUN].keys[k % RUN];
	__syncthreads();
	largest(keys, n_part);
	most = value_of(keys[0]);
	if (i < CANDIDATES) {
		out->top[i].logit = i < n ? value_of(keys[i]) : 0;
		out->top[i].id = i < n ? (int32_t)~(uint32_t)keys[i] : -1;
	}
	if (i >= WARP)
		return;
	for (uint32_t k = i; k < n_part; k += WARP)
		sum += in[k].sum * term(value_of(in[k].keys[0]), most);
	sum = warp_sum(sum);
	if (i == 0) {
		out->n = n;
		out->sum = sum;
	}
}

/* ---- memory ---- */

int cuda_top_new(struct backend *b)
{
	const uint32_t n = b->n_row_max < ROWS_AT_ONCE ? b->n_row_max : ROWS_AT_ONCE;

	return cudaMalloc((void **)&b->parts, n * PARTS_MOST * sizeof(*b->parts)) == cudaSuccess
	       && cudaMalloc((void **)&b->candidates, b->n_row_max * sizeof(*b->candidates)) == cudaSuccess ? 0 : -1;
}

void cuda_top_free(struct backend *b)
{
	cudaFree(b->parts);
	cudaFree(b->candidates);
}

void cuda_candidates(struct backend *b, const struct act *a, struct candidates *dst)
{
	const uint32_t tiles = up_to(a->width, TILE) / TILE, n_part = tiles < PARTS_MOST ? tiles : PARTS_MOST;

	assert(b->batch);
	for (uint32_t at = 0; at < b->n_row && !b->rc; at += ROWS_AT_ONCE) {
		const uint32_t n = b->n_row - at < ROWS_AT_ONCE ? b->n_row - at : ROWS_AT_ONCE;

		launch(b, "candidates", top_parts_kernel, dim3(n_part, n), THREADS,
		       (TILE + RUN) * sizeof(uint64_t) + THREADS / WARP * sizeof(float), a->x + (size_t)at * a->stride,
		       a->stride, a->width, b->parts);
		launch(b, "candidates", top_rows_kernel, n, THREADS, n_part * RUN * sizeof(uint64_t), b->parts, n_part,
		       a->width, b->candidates + at);
	}
	if (!b->rc && b->n_row)
		cuda_fetch(b, "candidates", b->candidates, sizeof(*dst), sizeof(*dst), b->n_row, dst);
}
