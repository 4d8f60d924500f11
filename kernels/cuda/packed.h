/*
 * Weights in registers: a chunk of 32 values of a row, of any format.
 *
 * The formats differ in a few constants, which are template parameters of the
 * products (struct kind) and plain numbers where speed does not matter.  A value
 * is (d * scale) * (q - offset) + m * min, like struct quant_parts.
 */
#ifndef KERNELS_CUDA_PACKED_H
#define KERNELS_CUDA_PACKED_H

#include "kernels/cuda/cuda.h"
#include "kernels/cuda/intrinsics.h"

/* Values 4t..4t+3 of a plane of the chunk, as bytes. */
template <unsigned bits>
static inline __device__ uint32_t plane_quad(const uint32_t *words, unsigned t)
{
	const unsigned per = 8 / bits;
	const uint32_t mask = 0x01010101u * ((1u << bits) - 1);

	return (words[t / per] >> t % per * bits) & mask;
}

/* bits words of a chunk's plane: one or two 16-byte loads, or 8 or 4 bytes */
template <unsigned bits>
static inline __device__ void plane_load(const uint32_t *plane, size_t chunk, uint32_t *words)
{
	if constexpr (bits >= 4) {
		const uint4 *at = reinterpret_cast<const uint4 *>(plane) + chunk * (bits / 4);

		UNROLL
		for (unsigned i = 0; i < bits / 4; i++) {
			const uint4 x = at[i];

			words[4 * i] = x.x;
			words[4 * i + 1] = x.y;
			words[4 * i + 2] = x.z;
			words[4 * i + 3] = x.w;
		}
	} else if constexpr (bits == 2) {
		const uint2 x = reinterpret_cast<const uint2 *>(plane)[chunk];

		words[0] = x.x;
		words[1] = x.y;
	} else {
		words[0] = plane[chunk];
	}
}

template <unsigned bits>
static inline __device__ void plane_join(const struct packed &p, unsigned plane, unsigned shift, size_t chunk,
                                         uint32_t *quads)
{
	uint32_t words[bits];

	plane_load<bits>(p.plane[plane], chunk, words);
	UNROLL
	for (unsigned t = 0; t < 8; t++)
		quads[t] |= plane_quad<bits>(words, t) << shift;
}

/* The scale of sub-block sub of row, and what is added to its values. */
static inline __device__ float sub_scale(const struct packed &p, bool super, uint32_t row, uint32_t sub, uint32_t n_sub)
{
	if (super) {
		const size_t block = (size_t)row * (p.n_in / 256) + sub / (256 / n_sub);

		return half_bits(p.d[block]) * (float)p.scale[(size_t)row * (p.n_in / n_sub) + sub];
	}
	return half_bits(p.d[(size_t)row * (p.n_in / 32) + sub]);
}

static inline __device__ float sub_min(const struct packed &p, bool super, uint32_t row, uint32_t sub, uint32_t n_sub)
{
	if (super) {
		const size_t block = (size_t)row * (p.n_in / 256) + sub / (256 / n_sub);

		return half_bits(p.m[block]) * (float)p.min[(size_t)row * (p.n_in / n_sub) + sub];
	}
	return half_bits(p.m[(size_t)row * (p.n_in / 32) + sub]);
}

struct kind_f32 {
	static __device__ void load(const struct packed &p, uint32_t row, uint32_t chunk, float *w)
	{
		const float4 *at = reinterpret_cast<const float4 *>(static_cast<const float *>(p.plain)
		                   + (size_t)row * p.stride + chunk * CHUNK);

		UNROLL
		for (unsigned i = 0; i < 8; i++) {
			const float4 x = at[i];

			w[4 * i] = x.x;
			w[4 * i + 1] = x.y;
			w[4 * i + 2] = x.z;
			w[4 * i + 3] = x.w;
		}
	}
};

template <bool bfloat> struct kind_16 {
	static __device__ float value(uint32_t bits)
	{
		return bfloat ? bfloat_bits((uint16_t)bits) : half_bits((uint16_t)bits);
	}
	static __device__ void load(const struct packed &p, uint32_t row, uint32_t chunk, float *w)
	{
		const uint4 *at = reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(p.plain)
		                  + (size_t)row * p.stride + chunk * CHUNK);

		UNROLL
		for (unsigned i = 0; i < 4; i++) {
			const uint4 x = at[i];
			const uint32_t words[4] = { x.x, x.y, x.z, x.w };

			UNROLL
			for (unsigned k = 0; k < 4; k++) {
				w[8 * i + 2 * k] = value(words[k] & 0xffff);
				w[8 * i + 2 * k + 1] = value(words[k] >> 16);
			}
		}
	}
};

template <unsigned n_bit, unsigned n_sub, bool super, bool has_min> struct kind_quants {
	static __device__ void load(const struct packed &p, uint32_t row, uint32_t chunk, float *w)
	{
		const size_t at = (size_t)row * (p.n_in / CHUNK) + chunk;
		constexpr int offset = has_min ? 0 : 1 << (n_bit - 1);
		uint32_t quads[8] = { 0 };

		if constexpr (n_bit & 8)
			plane_join<8>(p, 0, 0, at, quads);
		if constexpr (n_bit & 4)
			plane_join<4>(p, 1, 0, at, quads);
		if constexpr (n_bit & 2)
			plane_join<2>(p, 2, n_bit & 4, at, quads);
		if constexpr (n_bit & 1)
			plane_join<1>(p, 3, n_bit & 6, at, quads);
		UNROLL
		for (unsigned s = 0; s < CHUNK / n_sub; s++) {
			const uint32_t sub = chunk * (CHUNK / n_sub) + s;
			const float d = sub_scale(p, super, row, sub, n_sub);
			const float m = has_min ? sub_min(p, super, row, sub, n_sub) : 0;

			UNROLL
			for (unsigned i = s * n_sub; i < (s + 1) * n_sub; i++) {
				const float q = (float)((int)(quads[i / 4] >> i % 4 * 8 & 255) - offset);

				w[i] = has_min ? mul_add(d, q, m) : d * q;
			}
		}
	}
};

/* One value, of any format: for embed. */
static inline __device__ float packed_value(const struct packed &p, uint32_t row, uint32_t i)
{
	if (p.pack == PACK_F32)
		return static_cast<const float *>(p.plain)[(size_t)row * p.stride + i];
	if (p.pack != PACK_QUANTS) {
		const uint16_t bits = static_cast<const uint16_t *>(p.plain)[(size_t)row * p.stride + i];

		return p.pack == PACK_F16 ? half_bits(bits) : bfloat_bits(bits);
	}
	const size_t chunk = (size_t)row * (p.n_in / CHUNK) + i / CHUNK;
	const uint32_t t = i % CHUNK / 4;
	uint32_t q = 0, shift = 0;

	for (uint32_t plane = 0, bits = 8; bits > 0; plane++, bits /= 2) {
		const uint32_t per = 8 / bits;

		if (!(p.n_bit & bits))
			continue;
		q |= (p.plane[plane][chunk * bits + t / per] >> (t % per * bits + i % 4 * 8) & ((1u << bits) - 1)) << shift;
		shift += bits;
	}
	const float d = sub_scale(p, p.super, row, i / p.n_sub, p.n_sub);
	const float m = p.has_min ? sub_min(p, p.super, row, i / p.n_sub, p.n_sub) : 0;

	return p.has_min ? mul_add(d, (float)((int)q - p.offset), m) : d * (float)((int)q - p.offset);
}

#endif
