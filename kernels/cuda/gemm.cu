/*
 * Many rows at once: weights as halves, activations as halves, cuBLAS on tensor cores
 * with sums in floats.
 *
 * Quantized weights become halves a slab at a time, which the second cache of a large
 * GPU holds until the product has read it.  Halves of activations lie where the int8
 * form of their row would (as many bytes), times a power of two for a row whose
 * values are too large or too small; the last kernel undoes it.  A half has eleven bits,
 * fewer where a weight is below 2^-14 or an activation 2^-10 of its row's largest: a
 * result is within 2^-10 or so of the sum of its terms' sizes.
 *
 * The order of cuBLAS's additions depends on the shape: so no row that decodes may come
 * here, and with them no step that is repeated as a graph.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include <cublas_v2.h>

#include "kernels/cuda/packed.h"
#include "kernels/cuda/product.h"

#define SLAB_VALUES ((size_t)16 << 20)
#define WORKSPACE_BYTES ((size_t)32 << 20)
#define THREADS 128u

struct gemm {
	cublasHandle_t handle;
	void *workspace;
	uint16_t *slab;                  /* [SLAB_VALUES] on the device */
};

static bool gives(struct backend *b, const char *what, cublasStatus_t status)
{
	char text[128];

	if (status == CUBLAS_STATUS_SUCCESS)
		return true;
	snprintf(text, sizeof(text), "cuBLAS: %s: %s", what, cublasGetStatusString(status));
	cuda_fail(b, status == CUBLAS_STATUS_ALLOC_FAILED ? -ENOMEM : -EIO, text);
	return false;
}

/* ---- opening: the handle from open on, its memory from kv_open on ---- */

int cuda_gemm_new(struct backend *b)
{
	if (b->n_row_max < MANY_ROWS)
		return 0;
	b->gemm = (struct gemm *)calloc(1, sizeof(*b->gemm));
	if (!b->gemm)
		return -ENOMEM;
	if (gives(b, "start", cublasCreate(&b->gemm->handle)))
		gives(b, "stream", cublasSetStream(b->gemm->handle, b->stream));
	return b->rc;
}

size_t cuda_gemm_size(const struct backend *b)
{
	return b->gemm && !b->gemm->slab ? WORKSPACE_BYTES + SLAB_VALUES * sizeof(uint16_t) : 0;
}

int cuda_gemm_room(struct backend *b)
{
	struct gemm *g = b->gemm;

	if (!g || g->slab)
		return 0;
	if (cudaMalloc(&g->workspace, WORKSPACE_BYTES) == cudaSuccess
	    && cublasSetWorkspace(g->handle, g->workspace, WORKSPACE_BYTES) == CUBLAS_STATUS_SUCCESS
	    && cudaMalloc((void **)&g->slab, SLAB_VALUES * sizeof(uint16_t)) == cudaSuccess)
		return 0;
	cudaFree(g->workspace);
	g->workspace = NULL;
	g->slab = NULL;
	return -ENOMEM;
}

void cuda_gemm_free(struct backend *b)
{
	if (!b->gemm)
		return;
	if (b->gemm->handle)
		cublasDestroy(b->gemm->handle);
	cudaFree(b->gemm->workspace);
	cudaFree(b->gemm->slab);
	free(b->gemm);
	b->gemm = NULL;
}

/* ---- weights as halves ---- */

/* A thread turns n_value values; rows lie one after another on both sides. */
template <typename K>
static __global__ void __launch_bounds__(THREADS)
slab_kernel(const struct packed p, uint32_t first, uint32_t n_unit, uint32_t n, uint32_t *out)
{
	const uint32_t i = blockIdx.x * THREADS + threadIdx.x;
	float w[K::n_value];

	if (i >= n)
		return;
	K::load(p, first + i / n_unit, i % n_unit, w);
	uint4 *to = reinterpret_cast<uint4 *>(out) + (size_t)i * (K::n_value / 8);

	UNROLL
	for (unsigned k = 0; k < K::n_value / 8; k++)
		to[k] = make_uint4(to_halves(w[8 * k], w[8 * k + 1]), to_halves(w[8 * k + 2], w[8 * k + 3]),
		                   to_halves(w[8 * k + 4], w[8 * k + 5]), to_halves(w[8 * k + 6], w[8 * k + 7]));
}

template <typename K> static void fill(struct backend *b, const struct packed *p, uint32_t first, uint32_t n_row)
{
	const uint32_t n_unit = p->stride / K::n_value, n = n_row * n_unit;

	launch(b, "weights as halves", slab_kernel<K>, up_to(n, THREADS) / THREADS, THREADS, 0, *p, first, n_unit, n,
	       (uint32_t *)(void *)b->gemm->slab);
}

typedef void fill_slab(struct backend *b, const struct packed *p, uint32_t first, uint32_t n_row);

static const struct product_kind<fill_slab> kinds[] = PRODUCT_KINDS(fill);

/* Of a weight that is not of halves already; NULL: of floats. */
static fill_slab *filler(const struct packed *w)
{
	return w->pack == PACK_BF16 ? fill<kind_16<true>> : product_of(kinds, w);
}

/* ---- activations as halves ---- */

/* What a row is multiplied by: 1, unless its largest value is far from a half's. */
static inline __device__ float row_scale(float most)
{
	if (!(most < INFINITY) || most < 1e-30f || (most >= 0x1p-4f && most < 0x1p15f))
		return 1;
	return most < 1 ? ldexpf(1, -ilogbf(most)) : ldexpf(1, 14 - ilogbf(most));
}

static __global__ void __launch_bounds__(THREADS)
halves_kernel(const float *in, uint32_t stride, uint32_t first, const struct planes p)
{
	const uint32_t row = first + blockIdx.x;
	const float4 *x = reinterpret_cast<const float4 *>(in + (size_t)row * stride);
	uint2 *to = reinterpret_cast<uint2 *>(p.q + (size_t)row * 4 * p.n_block);
	float most = 0, scale;

	for (uint32_t i = threadIdx.x; i < stride / 4; i += THREADS) {
		const float4 v = x[i];

		most = fmaxf(most, fmaxf(fmaxf(fabsf(v.x), fabsf(v.y)), fmaxf(fabsf(v.z), fabsf(v.w))));
	}
	most = warp_max(most);
	if (threadIdx.x % WARP == 0)
		SHARED_FLOATS[threadIdx.x / WARP] = most;
	__syncthreads();
	for (uint32_t i = 0; i < THREADS / WARP; i++)
		most = fmaxf(most, SHARED_FLOATS[i]);
	scale = row_scale(most);
	for (uint32_t i = threadIdx.x; i < stride / 4; i += THREADS) {
		const float4 v = x[i];

		to[i] = make_uint2(to_halves(v.x * scale, v.y * scale), to_halves(v.z * scale, v.w * scale));
	}
	if (threadIdx.x == 0) {
		struct plane_block *b = p.blocks + (size_t)row * p.n_block;

		b->d = 1 / scale;
	}
}

void cuda_gemm_halves(struct backend *b, const struct act *a, const struct planes *p, uint32_t first)
{
	launch(b, "halves", halves_kernel, b->n_row - first, THREADS, THREADS / WARP * sizeof(float), a->x, a->stride, first, *p);
}

/* ---- the product ---- */

/* out[row][j] = x[row] . w[j], all three by rows: for cuBLAS, by columns, transposed. */
struct gemm_call {
	const void *w, *x;
	float *out;
	int n_out, n_row, n_in, w_stride, x_stride, out_stride;
};

static void run_gemm(struct backend *b, const char *what, const void *bytes)
{
	const struct gemm_call *c = static_cast<const struct gemm_call *>(bytes);
	const float one = 1, none = 0;

	gives(b, what, cublasGemmEx(b->gemm->handle, CUBLAS_OP_T, CUBLAS_OP_N, c->n_out, c->n_row, c->n_in, &one,
	                            c->w, CUDA_R_16F, c->w_stride, c->x, CUDA_R_16F, c->x_stride, &none,
	                            c->out, CUDA_R_32F, c->out_stride, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT));
}

static __global__ void undo_kernel(const struct plane_block *blocks, uint32_t n_block, const float *bias, float *out,
                                   uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const float d = blocks[(size_t)blockIdx.y * n_block].d;
	float *x = out + (size_t)blockIdx.y * stride + i;

	if (i >= width || (d == 1 && !bias))
		return;
	*x = bias ? mul_add(*x, d, bias[i]) : *x * d;
}

/* In slabs, unless halves lie there already. */
static void run_slabs(struct backend *b, const struct product *p, uint32_t first, struct gemm_call *c)
{
	const struct packed *w = &p->w->p;
	const uint32_t slab = (uint32_t)(SLAB_VALUES / w->stride), whole = slab > 128 ? slab / 128 * 128 : slab;
	const uint32_t most = w->pack == PACK_F16 ? w->n_out : whole;

	for (uint32_t from = 0; from < w->n_out && !b->rc; from += most) {
		c->n_out = (int)(w->n_out - from < most ? w->n_out - from : most);
		c->out = p->out->x + (size_t)first * p->out->stride + from;
		c->w = b->gemm->slab;
		if (w->pack == PACK_F16)
			c->w = static_cast<const uint16_t *>(w->plain) + (size_t)from * w->stride;
		else
			filler(w)(b, w, from, (uint32_t)c->n_out);
		work(b, "matmul", run_gemm, *c);
	}
}

static void multiply(const struct products *s, const struct product *p, const struct planes *x)
{
	const uint32_t first = s->rows.first, n_row = s->rows.n_row, stride = s->in->stride;
	struct gemm_call c = { NULL, x->q + (size_t)first * 4 * x->n_block, NULL, 0, (int)n_row, (int)stride, (int)stride,
	                       (int)stride, (int)p->out->stride };

	assert(stride == p->w->p.stride && first + n_row == s->b->n_row);
	run_slabs(s->b, p, first, &c);
	launch(s->b, "matmul", undo_kernel, dim3(up_to(p->out->width, 256) / 256, n_row), 256, 0,
	       x->blocks + (size_t)first * x->n_block, x->n_block, p->bias, p->out->x + (size_t)first * p->out->stride,
	       p->out->width, p->out->stride);
}

bool cuda_gemm(const struct products *s)
{
	struct planes x;

	if (!s->all[0].w->are_halves)
		return false;
	x = cuda_planes(s->b, s->in, s->rows.first);
	for (uint32_t i = 0; i < s->n; i++)
		multiply(s, &s->all[i], &x);
	cuda_planes_are(s->b, s->in, s->rows.first);
	return true;
}
