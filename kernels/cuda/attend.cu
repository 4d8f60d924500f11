/*
 * Queries against the cache: sinks and window, two rotations, one softmax.
 *
 * A block owns one head of one row.  Its keys are numbered, the sinks first, then
 * the window in ascending positions, and cut into tiles of 32 that warps take in
 * turn: a lane scores a key, then a lane sums up a few dims of the values.  Each
 * warp keeps a running softmax, and the four are merged at the end, always in the
 * same order.  Numbers and tiles depend on the token's position and window only.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rotary.h"

#define WARPS 4u
#define DIMS (HEAD_DIM_MOST / WARP)      /* most dims of a lane */

struct query {
	struct rotary rope;
	float slopes[HEADS_MOST];
	const float *q, *sink;
	float *out;
	uint32_t stride, dim, rep, layer, n_layer;
	float scale, softcap;
	bool alibi;
	const struct batch_row *rows;
	const struct batch_seq *seqs;
	const struct layer_place *places;
	const uint8_t *memory;
};

/* Shared, in floats: both queries, then of each warp weights and places of a tile,
 * or, at the end, its sums. */
static __host__ __device__ uint32_t shared_of_warp(uint32_t dim)
{
	return up_to(dim, WARP) + 2 * WARP;
}

template <bool f16> static __device__ float key_dot(const uint8_t *memory, size_t at, const float *q, uint32_t pad)
{
	float sum = 0;

	for (uint32_t d = 0; d < pad; d += 8) {
		if (f16) {
			const uint4 x = *reinterpret_cast<const uint4 *>(reinterpret_cast<const uint16_t *>(memory) + at + d);
			const uint32_t words[4] = { x.x, x.y, x.z, x.w };

			UNROLL
			for (unsigned i = 0; i < 4; i++) {
				sum = fmaf(q[d + 2 * i], half_bits((uint16_t)(words[i] & 0xffff)), sum);
				sum = fmaf(q[d + 2 * i + 1], half_bits((uint16_t)(words[i] >> 16)), sum);
			}
		} else {
			UNROLL
			for (unsigned i = 0; i < 8; i += 4) {
				const float4 x = *reinterpret_cast<const float4 *>(reinterpret_cast<const float *>(memory) + at + d + i);

				sum = fmaf(q[d + i], x.x, sum);
				sum = fmaf(q[d + i + 1], x.y, sum);
				sum = fmaf(q[d + i + 2], x.z, sum);
				sum = fmaf(q[d + i + 3], x.w, sum);
			}
		}
	}
	return sum;
}

template <bool f16> static __device__ float value_at(const uint8_t *memory, size_t at)
{
	return f16 ? half_bits(reinterpret_cast<const uint16_t *>(memory)[at]) : reinterpret_cast<const float *>(memory)[at];
}

template <bool f16> static __global__ void __launch_bounds__(WARPS * WARP)
attend_kernel(const __grid_constant__ struct query a)
{
	const uint32_t head = blockIdx.x, lane = threadIdx.x, warp = threadIdx.y, pad = up_to(a.dim, 8);
	const struct batch_row row = a.rows[blockIdx.y];
	const struct batch_seq seq = a.seqs[row.seq];
	const struct layer_place p = a.places[(size_t)row.seq * a.n_layer + a.layer];
	const size_t base = (size_t)(head / a.rep) * span_places(p.span);
	const uint64_t lo = span_lo(p.span, row.pos, row.pos < seq.window.n_sink ? 0 : seq.start);
	const uint64_t sink_at = window_query(seq.window, row.pos);
	const uint32_t n_sink = span_sinks(p.span, row.pos);
	const uint32_t n_key = n_sink + (lo <= row.pos ? (uint32_t)(row.pos - lo) + 1 : 0);
	float *const queries = SHARED_FLOATS, *const sums = queries + 2 * HEAD_DIM_MOST;
	float *const weights = sums + warp * shared_of_warp(a.dim);
	uint32_t *const places = reinterpret_cast<uint32_t *>(weights + WARP);
	float most = -INFINITY, total = 0, sum[DIMS];

	const float *const q = a.q + (size_t)blockIdx.y * a.stride + (size_t)head * a.dim;
	for (uint32_t d = warp * WARP + lane; d < pad; d += WARPS * WARP) {
		queries[d] = d < a.dim ? rotated(a.rope, row.pos, q, d) * a.scale : 0;
		queries[HEAD_DIM_MOST + d] = d < a.dim ? rotated(a.rope, sink_at, q, d) * a.scale : 0;
	}
	UNROLL
	for (unsigned i = 0; i < DIMS; i++)
		sum[i] = 0;
	__syncthreads();
	for (uint32_t first = warp * WARP; first < n_key; first += WARPS * WARP) {
		const uint32_t key = first + lane, n = n_key - first < WARP ? n_key - first : WARP;
		float score = -INFINITY, before = most;

		if (key < n_key) {
			const bool sink = key < n_sink;
			const uint64_t pos = sink ? key : lo + (key - n_sink);
			const uint32_t place = span_place(p.span, pos);

			score = key_dot<f16>(a.memory + p.k, (base + place) * pad, queries + (sink ? HEAD_DIM_MOST : 0), pad);
			if (a.softcap > 0)
				score = a.softcap * tanhf(score / a.softcap);
			if (a.alibi)
				score -= a.slopes[head] * (float)((sink ? sink_at : row.pos) - pos);
			places[lane] = place;
		}
		most = fmaxf(most, warp_max(score));
		weights[lane] = key < n_key ? expf(score - most) : 0;
		before = expf(before - most);
		total = fmaf(total, before, weights[lane]);
		__syncwarp();
		UNROLL
		for (unsigned i = 0; i < DIMS; i++)
			sum[i] *= before;
		for (uint32_t k = 0; k < n; k++) {
			const size_t at = (base + places[k]) * pad + lane;

			UNROLL
			for (unsigned i = 0; i < DIMS; i++)
				if (lane + i * WARP < a.dim)
					sum[i] = fmaf(weights[k], value_at<f16>(a.memory + p.v, at + i * WARP), sum[i]);
		}
		__syncwarp();
	}
	/* the warp's part: its sums, then its most and total */
	total = warp_sum(total);
	UNROLL
	for (unsigned i = 0; i < DIMS; i++)
		if (lane + i * WARP < a.dim)
			weights[lane + i * WARP] = sum[i];
	if (lane == 0) {
		weights[up_to(a.dim, WARP)] = most;
		weights[up_to(a.dim, WARP) + 1] = total;
	}
	__syncthreads();
	float top = a.sink ? a.sink[head] : -INFINITY, below, parts[WARPS];
	UNROLL
	for (unsigned w = 0; w < WARPS; w++)
		top = fmaxf(top, sums[w * shared_of_warp(a.dim) + up_to(a.dim, WARP)]);
	below = a.sink ? expf(a.sink[head] - top) : 0;
	UNROLL
	for (unsigned w = 0; w < WARPS; w++) {
		parts[w] = expf(sums[w * shared_of_warp(a.dim) + up_to(a.dim, WARP)] - top);
		below = fmaf(parts[w], sums[w * shared_of_warp(a.dim) + up_to(a.dim, WARP) + 1], below);
	}
	for (uint32_t d = warp * WARP + lane; d < a.dim; d += WARPS * WARP) {
		float x = 0;

		UNROLL
		for (unsigned w = 0; w < WARPS; w++)
			x = fmaf(parts[w], sums[w * shared_of_warp(a.dim) + d], x);
		a.out[(size_t)blockIdx.y * a.stride + (size_t)head * a.dim + d] = x / below;
	}
}

void cuda_attend(struct backend *b, const struct attend *a, const struct act *q, struct act *out)
{
	const struct kv_layer *l;
	struct query x;
	dim3 grid;
	size_t shared;

	assert(b->batch && b->kv && !b->selected && a->layer < b->kv->shape.n_layer && q != out);
	l = &b->kv->layers[a->layer];
	assert(a->n_head > 0 && a->n_head % l->n_head_kv == 0 && (!a->alibi || a->n_head <= HEADS_MOST));
	assert(q->width == a->n_head * l->head_dim && out->width == q->width);
	assert(!a->sink || (a->sink->p.n_out == 1 && a->sink->p.n_in == a->n_head));
	assert(!a->rope || a->rope->order == ROPE_NONE || a->rope->n_rot <= l->head_dim);
	if (b->rc)
		return;
	memset(&x, 0, sizeof(x));
	rotary_of(a->rope, &x.rope);
	for (uint32_t h = 0; h < a->n_head && a->alibi; h++)
		x.slopes[h] = a->alibi[h];
	x.alibi = a->alibi != NULL;
	x.q = q->x;
	x.sink = a->sink ? static_cast<const float *>(a->sink->p.plain) : NULL;
	x.out = out->x;
	x.stride = q->stride;
	x.dim = l->head_dim;
	x.rep = a->n_head / l->n_head_kv;
	x.layer = a->layer;
	x.n_layer = b->kv->shape.n_layer;
	x.scale = a->scale;
	x.softcap = a->softcap;
	x.rows = b->step.rows;
	x.seqs = b->step.seqs;
	x.places = b->step.places;
	x.memory = b->kv->memory;
	grid = dim3(a->n_head, b->n_row);
	shared = (2 * HEAD_DIM_MOST + WARPS * shared_of_warp(l->head_dim)) * sizeof(float);
	if (b->kv->shape.type == KV_F16)
		launch(b, "attend", attend_kernel<true>, grid, dim3(WARP, WARPS), shared, x);
	else
		launch(b, "attend", attend_kernel<false>, grid, dim3(WARP, WARPS), shared, x);
}
