/*
 * RMS and layer norm, and the sum before them: a block owns a group of a row; a warp
 * does where the group is small.  A group is read once, into registers; mean and
 * variance are two passes over these, so that large means cost no digits.  The int8 form
 * of a whole row is written with it.
 */
#include <assert.h>
#include <string.h>
#include <errno.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/planes.h"

#define MOST_WARPS 16u

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

struct normal {                          /* a norm, as its kernel sees it */
	enum norm_kind kind;
	uint32_t width, stride;
	float eps;
	bool each;                       /* each group has weights of its own */
	const float *weight, *bias, *in;
	const float *more;               /* added to in; NULL: nothing */
	float *sum, *out;                /* sum: where that goes */
	struct planes planes;            /* of out; q NULL: they are not wanted */
};

/* Values 4i..4i+3 of a group that is n long; what is past it is 0. */
static __device__ float4 quad(const float *x, uint32_t i, uint32_t n)
{
	if (n % 4 == 0)                         /* then all groups are aligned */
		return 4 * i < n ? reinterpret_cast<const float4 *>(x)[i] : make_float4(0, 0, 0, 0);
	return make_float4(4 * i < n ? x[4 * i] : 0, 4 * i + 1 < n ? x[4 * i + 1] : 0,
	                   4 * i + 2 < n ? x[4 * i + 2] : 0, 4 * i + 3 < n ? x[4 * i + 3] : 0);
}

static __device__ void put_quad(float *x, uint32_t i, uint32_t n, float4 v)
{
	const float values[4] = { v.x, v.y, v.z, v.w };

	if (n % 4 == 0 && 4 * i < n) {
		reinterpret_cast<float4 *>(x)[i] = v;
		return;
	}
	UNROLL
	for (uint32_t j = 0; j < 4; j++)
		if (4 * i + j < n)
			x[4 * i + j] = values[j];
}

static __device__ float4 sum_of(float4 x, float4 y)
{
	return make_float4(x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w);
}

/* The sum over the group of (x - mean)^2; what is past its end does not count. */
template <uint32_t n_quad> static __device__ float squares(const float4 *x, uint32_t width, float mean)
{
	float sum = 0;

	UNROLL
	for (uint32_t k = 0; k < n_quad; k++) {
		const float values[4] = { x[k].x, x[k].y, x[k].z, x[k].w };

		UNROLL
		for (uint32_t j = 0; j < 4; j++) {
			const float d = values[j] - mean;

			if (4 * (threadIdx.x + k * blockDim.x) + j < width)
				sum = fmaf(d, d, sum);
		}
	}
	return block_sum(sum, SHARED_FLOATS);
}

/* Explicit operations: the same in every template. */
static __device__ float4 scaled(float4 x, float mean, float scale, const float4 *w, const float4 *bias)
{
	const float in[4] = { x.x, x.y, x.z, x.w }, by[4] = { w->x, w->y, w->z, w->w };
	const float add[4] = { bias->x, bias->y, bias->z, bias->w };
	float v[4];

	UNROLL
	for (uint32_t j = 0; j < 4; j++)
		v[j] = mul_add((in[j] - mean) * scale, by[j], add[j]);
	return make_float4(v[0], v[1], v[2], v[3]);
}

/* A thread holds n_quad quads of the group, which is read once. */
template <uint32_t n_quad> static __global__ void __launch_bounds__(MOST_WARPS * WARP)
norm_kernel(const __grid_constant__ struct normal n)
{
	const size_t at = (size_t)blockIdx.y * n.stride + (size_t)blockIdx.x * n.width, own = n.each ? (size_t)blockIdx.x * n.width : 0;
	float mean = 0, scale;
	float4 x[n_quad];

	UNROLL
	for (uint32_t k = 0; k < n_quad; k++) {
		const uint32_t i = threadIdx.x + k * blockDim.x;

		x[k] = quad(n.in + at, i, n.width);
		if (n.more) {
			x[k] = sum_of(x[k], quad(n.more + at, i, n.width));
			put_quad(n.sum + at, i, n.width, x[k]);
		}
		mean += x[k].x + x[k].y + (x[k].z + x[k].w);
	}
	mean = n.kind == NORM_LAYER ? block_sum(mean, SHARED_FLOATS) / (float)n.width : 0;
	scale = 1.0f / sqrtf(squares<n_quad>(x, n.width, mean) / (float)n.width + n.eps);
	UNROLL
	for (uint32_t k = 0; k < n_quad; k++) {
		const uint32_t i = threadIdx.x + k * blockDim.x;
		const float4 w = n.weight ? quad(n.weight + own, i, n.width) : make_float4(1, 1, 1, 1);
		const float4 bias = n.bias ? quad(n.bias, i, n.width) : make_float4(0, 0, 0, 0);

		const float4 v = scaled(x[k], mean, scale, &w, &bias);

		put_quad(n.out + at, i, n.width, v);
		if (n.planes.q)
			planes_write(n.planes, blockIdx.y, i, v, 4 * i < n.width);
	}
}

static const float *vector(const struct weight *w)
{
	return w ? static_cast<const float *>(w->p.plain) : NULL;
}

/* sum = in + more, if there is more; out = norm of it.  The number of threads is the
 * width's, and so is the order of additions. */
static void run(struct backend *b, const struct norm *n, const struct act *in, const struct act *more,
                struct act *sum, struct act *out)
{
	const uint32_t quads = up_to(n->width, 4) / 4;
	const uint32_t threads = quads < MOST_WARPS * WARP ? up_to(quads, WARP) : MOST_WARPS * WARP;
	struct normal x;
	void (*kernel)(const struct normal) = norm_kernel<1>;

	assert(b->batch && in->width == out->width && n->width > 0 && out->width % n->width == 0);
	assert(cuda_is_vector(n->weight, n->width) || cuda_is_vector(n->weight, out->width));
	assert(cuda_is_vector(n->bias, n->width));
	if (b->rc || b->n_row == 0)
		return;
	if (quads > 8 * threads) {
		cuda_fail(b, -ENOTSUP, "a norm of so many values is not supported");
		return;
	}
	memset(&x, 0, sizeof(x));
	x.kind = n->kind;
	x.width = n->width;
	x.stride = out->stride;
	x.eps = n->eps;
	x.each = n->weight && n->weight->p.n_in > n->width;
	x.weight = vector(n->weight);
	x.bias = vector(n->bias);
	x.in = in->x;
	x.more = more ? more->x : NULL;
	x.sum = sum ? sum->x : NULL;
	x.out = out->x;
	if (n->width == out->width)
		x.planes = cuda_planes_beside(b, out);
	if (quads > threads)
		kernel = quads <= 4 * threads ? norm_kernel<4> : norm_kernel<8>;
	launch(b, "norm", kernel, dim3(out->width / n->width, b->n_row), threads, MOST_WARPS * sizeof(float), x);
	if (x.planes.q)
		cuda_planes_are(b, out, b->n_row);
}

void cuda_norm(struct backend *b, const struct norm *n, const struct act *in, struct act *out)
{
	run(b, n, in, NULL, NULL, out);
}

void cuda_add_norm(struct backend *b, const struct norm *n, const struct act *x, const struct act *y,
                   struct act *sum, struct act *out)
{
	assert(x->width == out->width && y->width == out->width && sum->width == out->width && n->width == out->width);
	assert(sum != out);
	run(b, n, x, y, sum, out);
}
