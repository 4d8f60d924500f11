/*
 * Activations as products of quantized weights see them: fifteen bits in two int8,
 * q = 128 * high + low, with one power of two for 32 values (eight bits cost half a percent
 * of perplexity).  Writing them, for every kernel that has values in registers.
 *
 * Sums of such products are exact integers, so they are the same whoever adds them up,
 * dp4a or tensor cores.
 */
#ifndef KERNELS_CUDA_PLANES_H
#define KERNELS_CUDA_PLANES_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/intrinsics.h"

#define ACT_MOST 16256.0f                /* 127 * 128 */

/* v is values 4 * quad .. 4 * quad + 3 of the row, zeros past its end.  Whole
 * warps, whose lanes 8k..8k+7 hold the eight quads of one block in order; there: the
 * block exists.  A value that is no number makes its block none. */
static inline __device__ void planes_write(const struct planes &p, uint32_t row, uint32_t quad, float4 v, bool there)
{
	const float x[4] = { v.x, v.y, v.z, v.w };
	const uint32_t block = quad / 8, t = quad % 8;
	float most = 0, inverse = 0;
	uint32_t high = 0, low = 0, d = 0;       /* d: a power of two's bits, or zero's */
	int32_t sum = 0, other;

	for (unsigned i = 0; i < 4; i++)        /* no x - x: it may be contracted with what made x */
		most = fabsf(x[i]) < INFINITY ? fmaxf(most, fabsf(x[i])) : INFINITY;
	for (unsigned by = 4; by > 0; by /= 2)
		most = fmaxf(most, __shfl_xor_sync(ALL_LANES, most, by));
	if (most > 1e-30f && most < INFINITY) {
		d = (float_word(most * (1 / ACT_MOST)) & 0x7f800000) + (1u << 23);
		inverse = word_float((254u << 23) - d);
	}
	for (unsigned i = 0; i < 4 && inverse > 0; i++) {
		const int32_t q = (int32_t)rintf(x[i] * inverse), h = (q + 64 + 16384) / 128 - 128;

		high |= ((uint32_t)h & 255) << 8 * i;
		low |= ((uint32_t)(q - 128 * h) & 255) << 8 * i;
		sum += q;
	}
	sum += __shfl_xor_sync(ALL_LANES, sum, 1);
	sum += __shfl_xor_sync(ALL_LANES, sum, 2);
	other = __shfl_xor_sync(ALL_LANES, sum, 4);
	if (!there)
		return;
	uint32_t *word = reinterpret_cast<uint32_t *>(p.q) + (((size_t)row * 4 + t / 4) * p.n_block + block) * 4 + t % 4;

	word[0] = high;
	word[(size_t)8 * p.n_block] = low;
	if (t == 0) {
		struct plane_block b;

		b.d = most < INFINITY ? word_float(d) : NAN;
		b.half[0] = sum;
		b.half[1] = other;
		b.unused = 0;
		p.blocks[(size_t)row * p.n_block + block] = b;
	}
}

/* The same where a lane has one value, at of the row, and a warp a block. */
static inline __device__ void planes_write_each(const struct planes &p, uint32_t row, uint32_t at, float v)
{
	const uint32_t t = at % 8;
	const float4 x = make_float4(__shfl_sync(ALL_LANES, v, 4 * t), __shfl_sync(ALL_LANES, v, 4 * t + 1),
	                             __shfl_sync(ALL_LANES, v, 4 * t + 2), __shfl_sync(ALL_LANES, v, 4 * t + 3));

	planes_write(p, row, at / CHUNK * 8 + t, x, at % CHUNK < 8);
}

#endif
