/*
 * Operations by single values (gated activation, add, softcap, clamp), select and
 * read, and the acts they work on.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/planes.h"

size_t cuda_act_size(const struct backend *b, uint32_t width)
{
	return (size_t)b->n_row_max * up_to(width, CHUNK) * sizeof(float) + cuda_planes_bytes(b->n_row_max, width);
}

int cuda_act_new(struct backend *b, uint32_t width, struct act **out)
{
	struct act *a;
	const size_t n = cuda_act_size(b, width);

	assert(out);
	if (width == 0 || width > 1u << 28)
		return -EINVAL;
	a = (struct act *)calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->width = width;
	a->stride = up_to(width, CHUNK);
	if (cudaMalloc((void **)&a->x, n) != cudaSuccess || cudaMemsetAsync(a->x, 0, n, b->stream) != cudaSuccess) {
		cuda_act_free(b, a);
		return -ENOMEM;
	}
	*out = a;
	return 0;
}

void cuda_act_free(struct backend *b, struct act *a)
{
	if (!a)
		return;
	cuda_graphs_drop(b);
	cudaFree(a->x);
	free(a);
}

/* ---- by values ---- */

static __device__ float activate(enum glu_kind kind, float x)
{
	switch (kind) {
	case GLU_SILU:      return x / (1.0f + expf(-x));
	case GLU_GELU_TANH: return 0.5f * x * (1.0f + tanhf(0.7978845608028654f * fmaf(0.044715f * x * x, x, x)));
	case GLU_GELU_ERF:  return 0.5f * x * (1.0f + erff(x * 0.7071067811865476f));
	case GLU_RELU:      return x > 0 ? x : 0;
	case GLU_SWIGLU_CLAMPED: break;         /* not of x alone */
	}
	return x;
}

/* A NaN stays one. */
static __device__ float swiglu_clamped(float gate, float up)
{
	const float x = gate > 7 ? 7 : gate, u = up > 7 ? 7 : up < -7 ? -7 : up;

	return x / (1.0f + expf(-1.702f * x)) * (u + 1.0f);
}

/* A thread has four values.  Rows are whole chunks, so the last four may be past the
 * width: 0, which all of these leave 0. */
static __device__ float4 quad(const float *x, size_t at)
{
	return reinterpret_cast<const float4 *>(x)[at];
}

static __device__ float gated(enum glu_kind kind, float gate, bool has_up, float up)
{
	if (kind == GLU_SWIGLU_CLAMPED)
		return swiglu_clamped(gate, up);
	return has_up ? activate(kind, gate) * up : activate(kind, gate);
}

/* p: of out; q NULL: they are not wanted. */
static __global__ void glu_kernel(enum glu_kind kind, const float *gate, const float *up, float *out,
                                  uint32_t width, uint32_t stride, const struct planes p)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const size_t at = (size_t)blockIdx.y * (stride / 4) + i;
	const bool there = 4 * i < width, has = up != NULL;
	float4 v = make_float4(0, 0, 0, 0);

	if (there) {
		const float4 g = quad(gate, at), u = has ? quad(up, at) : v;

		v = make_float4(gated(kind, g.x, has, u.x), gated(kind, g.y, has, u.y), gated(kind, g.z, has, u.z),
		                gated(kind, g.w, has, u.w));
		reinterpret_cast<float4 *>(out)[at] = v;
	}
	if (p.q)
		planes_write(p, blockIdx.y, i, v, there);
}

static __global__ void add_kernel(const float *x, const float *y, float *out, uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const size_t at = (size_t)blockIdx.y * (stride / 4) + i;

	if (4 * i >= width)
		return;
	const float4 a = quad(x, at), b = quad(y, at);

	reinterpret_cast<float4 *>(out)[at] = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

static __global__ void softcap_kernel(float cap, float *x, uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const size_t at = (size_t)blockIdx.y * (stride / 4) + i;

	if (4 * i >= width)
		return;
	const float4 a = quad(x, at);

	reinterpret_cast<float4 *>(x)[at] = make_float4(cap * tanhf(a.x / cap), cap * tanhf(a.y / cap),
	                                                cap * tanhf(a.z / cap), cap * tanhf(a.w / cap));
}

/* A NaN stays one. */
static __device__ float clamped(float x, float most)
{
	return x > most ? most : x < -most ? -most : x;
}

static __global__ void clamp_kernel(float most, float *x, uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const size_t at = (size_t)blockIdx.y * (stride / 4) + i;

	if (4 * i >= width)
		return;
	const float4 a = quad(x, at);

	reinterpret_cast<float4 *>(x)[at] = make_float4(clamped(a.x, most), clamped(a.y, most), clamped(a.z, most),
	                                                clamped(a.w, most));
}

#define QUAD_THREADS 128u

static dim3 values_grid(const struct backend *b, const struct act *a)
{
	return dim3(up_to(a->width, 4 * QUAD_THREADS) / (4 * QUAD_THREADS), b->n_row);
}

static bool idle(const struct backend *b)
{
	return b->rc || b->n_row == 0;
}

void cuda_glu(struct backend *b, enum glu_kind kind, const struct act *gate, const struct act *up, struct act *out)
{
	assert(b->batch && gate->width == out->width && (!up || up->width == out->width));
	assert(up || kind != GLU_SWIGLU_CLAMPED);
	if (idle(b))
		return;
	const struct planes p = cuda_planes_beside(b, out);

	launch(b, "glu", glu_kernel, values_grid(b, out), QUAD_THREADS, 0, kind, gate->x, up ? up->x : NULL, out->x,
	       out->width, out->stride, p);
	if (p.q)
		cuda_planes_are(b, out, b->n_row);
}

void cuda_add(struct backend *b, const struct act *x, const struct act *y, struct act *out)
{
	assert(b->batch && x->width == out->width && y->width == out->width);
	if (!idle(b))
		launch(b, "add", add_kernel, values_grid(b, out), QUAD_THREADS, 0, x->x, y->x, out->x, out->width, out->stride);
}

void cuda_softcap(struct backend *b, float cap, struct act *x)
{
	assert(b->batch && cap > 0);
	if (!idle(b))
		launch(b, "softcap", softcap_kernel, values_grid(b, x), QUAD_THREADS, 0, cap, x->x, x->width, x->stride);
}

void cuda_clamp(struct backend *b, float most, struct act *x)
{
	assert(b->batch && most > 0);
	if (!idle(b))
		launch(b, "clamp", clamp_kernel, values_grid(b, x), QUAD_THREADS, 0, most, x->x, x->width, x->stride);
}

/* ---- select and read ---- */

/* A thread owns a column and goes down the rows: outputs ascend, so out may be in. */
static __global__ void select_kernel(const uint32_t *outputs, uint32_t n, const float *in, float *out,
                                     uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

	for (uint32_t row = 0; row < n && i < width; row++)
		out[(size_t)row * stride + i] = in[(size_t)outputs[row] * stride + i];
}

void cuda_select(struct backend *b, const struct act *in, struct act *out)
{
	assert(b->batch && !b->selected && in->width == out->width);
	cuda_products(b);                       /* of all rows */
	b->selected = true;
	b->n_row = b->prefill_from = b->batch->n_output;
	if (in == out && b->n_row == b->batch->n_row)
		return;                         /* a decode step */
	b->planes_of = NULL;                    /* rows are other ones now */
	if (!idle(b))
		launch(b, "select", select_kernel, dim3(up_to(out->width, 64) / 64), 64, 0, b->step.outputs, b->n_row,
		       in->x, out->x, out->width, out->stride);
}

void cuda_read(struct backend *b, const struct act *a, float *dst)
{
	const size_t width = a->width * sizeof(float);

	assert(b->batch);
	if (!idle(b))
		cuda_fetch(b, "read", a->x, a->stride * sizeof(float), width, b->n_row, dst);
}
