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
extern __shared__ float shared_floats[];
#define SHARED_FLOATS shared_floats
#define UNROLL _Pragma("unroll")
#else
#define SHARED_FLOATS CUSIM_SHARED
#define UNROLL
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

static inline __device__ float bfloat_bits(uint16_t bits)
{
#ifdef __CUDA_ARCH__
	return __uint_as_float((uint32_t)bits << 16);
#else
	const uint32_t word = (uint32_t)bits << 16;
	float x;

	memcpy(&x, &word, sizeof x);
	return x;
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
