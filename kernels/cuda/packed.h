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
		quads[t] ^= plane_quad<bits>(words, t) << shift;
}

/* Quads t and t + 4 of it alone. */
template <unsigned bits>
static inline __device__ void plane_join_of(const struct packed &p, unsigned plane, unsigned shift, size_t chunk,
                                            uint32_t t, uint32_t &low, uint32_t &high)
{
	const unsigned per = 8 / bits;
	const uint32_t *words = p.plane[plane] + chunk * bits, mask = 0x01010101u * ((1u << bits) - 1);

	low ^= (words[t / per] >> t % per * bits & mask) << shift;
	high ^= (words[(t + 4) / per] >> (t + 4) % per * bits & mask) << shift;
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

/* A kind: how a lane gets n_value consecutive values of a row, whose unit-th they are. */
struct kind_f32 {
	static constexpr unsigned n_value = 8;

	static __device__ void load(const struct packed &p, uint32_t row, uint32_t unit, float *w)
	{
		const float4 *at = reinterpret_cast<const float4 *>(static_cast<const float *>(p.plain)
		                   + (size_t)row * p.stride + unit * n_value);

		UNROLL
		for (unsigned i = 0; i < n_value / 4; i++) {
			const float4 x = at[i];

			w[4 * i] = x.x;
			w[4 * i + 1] = x.y;
			w[4 * i + 2] = x.z;
			w[4 * i + 3] = x.w;
		}
	}
};

template <bool bfloat> struct kind_16 {
	static constexpr unsigned n_value = 8;

	static __device__ float value(uint32_t bits)
	{
		return bfloat ? bfloat_bits((uint16_t)bits) : half_bits((uint16_t)bits);
	}
	static __device__ void load(const struct packed &p, uint32_t row, uint32_t unit, float *w)
	{
		const uint4 x = *reinterpret_cast<const uint4 *>(static_cast<const uint16_t *>(p.plain)
		                + (size_t)row * p.stride + unit * n_value);
		const uint32_t words[4] = { x.x, x.y, x.z, x.w };

		UNROLL
		for (unsigned k = 0; k < 4; k++) {
			w[2 * k] = value(words[k] & 0xffff);
			w[2 * k + 1] = value(words[k] >> 16);
		}
	}
};

template <unsigned bits_of_q, unsigned sub, bool of_256, bool with_min> struct kind_quants {
	static constexpr unsigned n_value = CHUNK, n_bit = bits_of_q, n_sub = sub;
	static constexpr bool super = of_256, has_min = with_min;
	/* what quads has more than q; eight bits are turned back into signed bytes */
	static constexpr int offset = has_min || n_bit == 8 ? 0 : 1 << (n_bit - 1);

	static __device__ void quads(const struct packed &p, uint32_t row, uint32_t chunk, uint32_t *q)
	{
		const size_t at = (size_t)row * (p.n_in / CHUNK) + chunk;

		UNROLL
		for (unsigned t = 0; t < 8; t++)
			q[t] = n_bit == 8 ? 0x80808080u : 0;
		if constexpr (n_bit & 8)
			plane_join<8>(p, 0, 0, at, q);
		if constexpr (n_bit & 4)
			plane_join<4>(p, 1, 0, at, q);
		if constexpr (n_bit & 2)
			plane_join<2>(p, 2, n_bit & 4, at, q);
		if constexpr (n_bit & 1)
			plane_join<1>(p, 3, n_bit & 6, at, q);
	}
	/* quads t and t + 4 */
	static __device__ void quads_of(const struct packed &p, uint32_t row, uint32_t chunk, uint32_t t, uint32_t &low,
	                                uint32_t &high)
	{
		const size_t at = (size_t)row * (p.n_in / CHUNK) + chunk;

		low = high = n_bit == 8 ? 0x80808080u : 0;
		if constexpr (n_bit & 8)
			plane_join_of<8>(p, 0, 0, at, t, low, high);
		if constexpr (n_bit & 4)
			plane_join_of<4>(p, 1, 0, at, t, low, high);
		if constexpr (n_bit & 2)
			plane_join_of<2>(p, 2, n_bit & 4, at, t, low, high);
		if constexpr (n_bit & 1)
			plane_join_of<1>(p, 3, n_bit & 6, at, t, low, high);
	}
	static __device__ void load(const struct packed &p, uint32_t row, uint32_t chunk, float *w)
	{
		uint32_t q[8];

		quads(p, row, chunk, q);
		UNROLL
		for (unsigned s = 0; s < CHUNK / n_sub; s++) {
			const uint32_t at = chunk * (CHUNK / n_sub) + s;
			const float d = sub_scale(p, super, row, at, n_sub);
			const float m = has_min ? sub_min(p, super, row, at, n_sub) : 0;

			UNROLL
			for (unsigned i = s * n_sub; i < (s + 1) * n_sub; i++) {
				const uint32_t byte = q[i / 4] >> i % 4 * 8 & 255;
				const float x = (float)((n_bit == 8 ? (int)(int8_t)byte : (int)byte) - offset);

				w[i] = has_min ? mul_add(d, x, m) : d * x;
			}
		}
	}
};

/* Scales of the sub-blocks of a chunk; the order of what is added for each. */
template <typename K> struct scales {
	float d[CHUNK / K::n_sub], m[CHUNK / K::n_sub];
};

template <typename K>
static inline __device__ void scales_load(const struct packed &p, uint32_t row, uint32_t chunk, struct scales<K> *s)
{
	UNROLL
	for (unsigned i = 0; i < CHUNK / K::n_sub; i++) {
		const uint32_t at = chunk * (CHUNK / K::n_sub) + i;

		s->d[i] = sub_scale(p, K::super, row, at, K::n_sub);
		s->m[i] = K::has_min ? sub_min(p, K::super, row, at, K::n_sub) : 0;
	}
}

/* What one sub-block adds to a sum: high and low are its integer products, q_sum the
 * sum of its activations. */
template <typename K>
static inline __device__ float dot_add(float sum, const struct scales<K> &s, unsigned i, float d, int32_t high, int32_t low,
                                       int32_t q_sum)
{
	const int32_t dot = 128 * high + low - (K::offset ? K::offset * q_sum : 0);

	sum = fmaf(s.d[i] * d, (float)dot, sum);
	return K::has_min ? fmaf(s.m[i] * d, (float)q_sum, sum) : sum;
}

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
