/*
 * Operations by single values (gated activation, add, softcap, clamp), select and
 * read, and the acts they work on.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"

int cuda_act_new(struct backend *b, uint32_t width, struct act **out)
{
	struct act *a;
	size_t n;

	assert(out);
	if (width == 0 || width > 1u << 28)
		return -EINVAL;
	a = (struct act *)calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->width = width;
	a->stride = up_to(width, CHUNK);
	n = (size_t)b->n_row_max * a->stride * sizeof(float);
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
	cudaStreamSynchronize(b->stream);       /* what is queued may use it */
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

static __global__ void glu_kernel(enum glu_kind kind, const float *gate, const float *up, float *out,
                                  uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const size_t at = (size_t)blockIdx.y * stride + i;

	if (i >= width)
		return;
	if (kind == GLU_SWIGLU_CLAMPED)
		out[at] = swiglu_clamped(gate[at], up[at]);
	else
		out[at] = up ? activate(kind, gate[at]) * up[at] : activate(kind, gate[at]);
}

static __global__ void add_kernel(const float *x, const float *y, float *out, uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const size_t at = (size_t)blockIdx.y * stride + i;

	if (i < width)
		out[at] = x[at] + y[at];
}

static __global__ void softcap_kernel(float cap, float *x, uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const size_t at = (size_t)blockIdx.y * stride + i;

	if (i < width)
		x[at] = cap * tanhf(x[at] / cap);
}

static __global__ void clamp_kernel(float most, float *x, uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const size_t at = (size_t)blockIdx.y * stride + i;

	if (i < width)                          /* a NaN stays one */
		x[at] = x[at] > most ? most : x[at] < -most ? -most : x[at];
}

static dim3 values_grid(const struct backend *b, const struct act *a)
{
	return dim3(up_to(a->width, 256) / 256, b->n_row);
}

static bool idle(const struct backend *b)
{
	return b->rc || b->n_row == 0;
}

void cuda_glu(struct backend *b, enum glu_kind kind, const struct act *gate, const struct act *up, struct act *out)
{
	assert(b->batch && gate->width == out->width && (!up || up->width == out->width));
	assert(up || kind != GLU_SWIGLU_CLAMPED);
	if (!idle(b))
		launch(b, "glu", glu_kernel, values_grid(b, out), 256, 0, kind, gate->x, up ? up->x : NULL, out->x,
		       out->width, out->stride);
}

void cuda_add(struct backend *b, const struct act *x, const struct act *y, struct act *out)
{
	assert(b->batch && x->width == out->width && y->width == out->width);
	if (!idle(b))
		launch(b, "add", add_kernel, values_grid(b, out), 256, 0, x->x, y->x, out->x, out->width, out->stride);
}

void cuda_softcap(struct backend *b, float cap, struct act *x)
{
	assert(b->batch && cap > 0);
	if (!idle(b))
		launch(b, "softcap", softcap_kernel, values_grid(b, x), 256, 0, cap, x->x, x->width, x->stride);
}

void cuda_clamp(struct backend *b, float most, struct act *x)
{
	assert(b->batch && most > 0);
	if (!idle(b))
		launch(b, "clamp", clamp_kernel, values_grid(b, x), 256, 0, most, x->x, x->width, x->stride);
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
	b->selected = true;
	b->n_row = b->batch->n_output;
	if (!idle(b))
		launch(b, "select", select_kernel, dim3(up_to(out->width, 64) / 64), 64, 0, b->step.outputs, b->n_row,
		       in->x, out->x, out->width, out->stride);
}

void cuda_read(struct backend *b, const struct act *a, float *dst)
{
	const size_t width = a->width * sizeof(float);

	assert(b->batch);
	if (idle(b))
		return;
	if (cuda_good(b, cudaMemcpy2DAsync(dst, width, a->x, a->stride * sizeof(float), width, b->n_row,
	                                   cudaMemcpyDeviceToHost, b->stream), "read"))
		cuda_good(b, cudaStreamSynchronize(b->stream), "a step");
}
