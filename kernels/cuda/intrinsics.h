/*
 * What only a GPU has, beyond barriers and shuffles, each with a body for the host;
 * and the two things that all kernels share: the dynamic shared array and sums
 * over a warp.
 *
 * Arithmetic that must not be contracted, or must, is written with these: a result
 * is the same whatever template it is compiled in.
 */
#ifndef KERNELS_CUDA_INTRINSICS_H
#define KERNELS_CUDA_INTRINSICS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include <cuda_fp16.h>

#define WARP 32u
#define ALL_LANES 0xffffffffu

#ifdef __CUDACC__
extern __shared__ __align__(16) float shared_floats[];
#define SHARED_FLOATS shared_floats
#define UNROLL _Pragma("unroll")
#define UNROLL_TWICE _Pragma("unroll 2")
#define PRAGMA(text) _Pragma(#text)
#define UNROLL_BY(n) PRAGMA(unroll n)
#else
#define SHARED_FLOATS CUSIM_SHARED
#define UNROLL
#define UNROLL_TWICE
#define UNROLL_BY(n)
#endif

/* x * y + z, rounded twice */
static inline __device__ float mul_add(float x, float y, float z)
{
#ifdef __CUDA_ARCH__
	return __fadd_rn(__fmul_rn(x, y), z);
#else
	return x * y + z;
#endif
}

static inline __device__ float half_bits(uint16_t bits)
{
	return __half2float(__ushort_as_half(bits));
}

static inline __device__ uint16_t to_half_bits(float x)
{
	return __half_as_ushort(__float2half_rn(x));
}

static inline __device__ uint32_t float_bits(float x)
{
	uint32_t bits;

	memcpy(&bits, &x, sizeof bits);
	return bits;
}

static inline __device__ float bits_float(uint32_t bits)
{
	float x;

	memcpy(&x, &bits, sizeof x);
	return x;
}

/* x in the low half of the word */
static inline __device__ uint32_t to_halves(float x, float y)
{
	return to_half_bits(x) | (uint32_t)to_half_bits(y) << 16;
}

static inline __device__ uint32_t float_word(float x)
{
	uint32_t word;

	memcpy(&word, &x, sizeof word);
	return word;
}

static inline __device__ float word_float(uint32_t word)
{
	float x;

	memcpy(&x, &word, sizeof x);
	return x;
}

static inline __device__ float bfloat_bits(uint16_t bits)
{
	return word_float((uint32_t)bits << 16);
}

/* sum + a . b, of four int8 each */
static inline __device__ int32_t dot4(uint32_t a, uint32_t b, int32_t sum)
{
#ifdef __CUDA_ARCH__
	return __dp4a((int)a, (int)b, sum);
#else
	for (unsigned i = 0; i < 32; i += 8)
		sum += (int8_t)(a >> i) * (int8_t)(b >> i);
	return sum;
#endif
}

/* d += a . b on tensor cores, by a whole warp: 16 x 32 int8 times 32 x 8.  Of lane 4g + t:
 * a: rows g, g + 8, values 4t .. 4t + 3 of both, and then 16 further on; b: the same of
 * column g; d: row g and columns 2t, 2t + 1, and row g + 8. */
static inline __device__ void mma_s8(int32_t *d, const uint32_t *a, const uint32_t *b)
{
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
	asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
	    : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
	    : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#elif defined(__CUDA_ARCH__)
	for (unsigned i = 0; i < 4; i++)
		asm("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
		    : "+r"(d[i % 2 * 2]), "+r"(d[i % 2 * 2 + 1]) : "r"(a[i]), "r"(b[i / 2]));
#else
	const unsigned g = threadIdx.x / 4, t = threadIdx.x % 4;

	for (unsigned i = 0; i < 4; i++)
		for (unsigned k = 0; k < 4; k++) {
			const uint32_t x = __shfl_sync(ALL_LANES, a[i], 4 * g + k);

			for (unsigned c = 0; c < 2; c++)
				d[i % 2 * 2 + c] = dot4(x, __shfl_sync(ALL_LANES, b[i / 2], 4 * (2 * t + c) + k), d[i % 2 * 2 + c]);
		}
#endif
}

/* Every lane gets the sum; always in the same order. */
static inline __device__ float warp_sum(float x)
{
	for (unsigned by = 16; by > 0; by /= 2)
		x += __shfl_xor_sync(ALL_LANES, x, by);
	return x;
}

static inline __device__ float warp_max(float x)
{
	for (unsigned by = 16; by > 0; by /= 2)
		x = fmaxf(x, __shfl_xor_sync(ALL_LANES, x, by));
	return x;
}

#endif
