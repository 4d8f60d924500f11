/*
 * RMS and layer norm: a block owns a group of a row; a warp does where the group
 * is small.  Mean and variance are two passes, so that large means cost no digits.
 */
#include <assert.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"

#define MOST_WARPS 8u

/* Every thread gets the sum.  room: [MOST_WARPS] shared. */
static __device__ float block_sum(float x, float *room)
{
	const uint32_t n_warp = blockDim.x / WARP;
	float sum = 0;

	x = warp_sum(x);
	if (n_warp == 1)
		return x;
	__syncthreads();                        /* room may still be read */
	if (threadIdx.x % WARP == 0)
		room[threadIdx.x / WARP] = x;
	__syncthreads();
	for (uint32_t i = 0; i < n_warp; i++)
		sum += room[i];
	return sum;
}

static __global__ void norm_kernel(enum norm_kind kind, uint32_t width, float eps, const float *weight, bool each,
                                   const float *bias, const float *in, float *out, uint32_t stride)
{
	const size_t at = (size_t)blockIdx.y * stride + (size_t)blockIdx.x * width;
	const float *w = weight && each ? weight + (size_t)blockIdx.x * width : weight;
	float mean = 0, square = 0, scale;

	if (kind == NORM_LAYER) {
		for (uint32_t i = threadIdx.x; i < width; i += blockDim.x)
			mean += in[at + i];
		mean = block_sum(mean, SHARED_FLOATS) / (float)width;
	}
	for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
		const float x = in[at + i] - mean;

		square = fmaf(x, x, square);
	}
	scale = 1.0f / sqrtf(block_sum(square, SHARED_FLOATS) / (float)width + eps);
	for (uint32_t i = threadIdx.x; i < width; i += blockDim.x) {
		float x = (in[at + i] - mean) * scale;

		if (w)
			x *= w[i];
		out[at + i] = bias ? x + bias[i] : x;
	}
}

void cuda_norm(struct backend *b, const struct norm *n, const struct act *in, struct act *out)
{
	const bool each = n->weight && n->weight->p.n_in > n->width;
	const uint32_t threads = n->width <= 128 ? WARP : n->width <= 1024 ? 4 * WARP : MOST_WARPS * WARP;

	assert(b->batch && in->width == out->width && n->width > 0 && out->width % n->width == 0);
	assert(cuda_is_vector(n->weight, n->width) || cuda_is_vector(n->weight, out->width));
	assert(cuda_is_vector(n->bias, n->width));
	if (b->rc || b->n_row == 0)
		return;
	launch(b, "norm", norm_kernel, dim3(out->width / n->width, b->n_row), threads, MOST_WARPS * sizeof(float),
	       n->kind, n->width, n->eps, n->weight ? static_cast<const float *>(n->weight->p.plain) : NULL, each,
	       n->bias ? static_cast<const float *>(n->bias->p.plain) : NULL, in->x, out->x, out->stride);
}
