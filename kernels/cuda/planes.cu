/*
 * The planes of the act that products read now, behind its values: written by who writes
 * the act, where products are likely to follow (norms, gated activations, attention), or when one
 * first needs them, and good until a kernel runs that is no product (launch.h), so that
 * products that follow each other share them.
 */
#include "kernels/cuda/launch.h"
#include "kernels/cuda/planes.h"

size_t cuda_planes_bytes(uint32_t n_row_max, uint32_t width)
{
	return (size_t)n_row_max * (up_to(width, CHUNK) / CHUNK) * (4 * sizeof(uint4) + sizeof(struct plane_block));
}

static struct planes place(const struct backend *b, const struct act *a)
{
	struct planes p;

	p.n_block = a->stride / CHUNK;
	p.unused = 0;
	p.q = reinterpret_cast<uint4 *>(a->x + (size_t)b->n_row_max * a->stride);
	p.blocks = reinterpret_cast<struct plane_block *>(p.q + (size_t)b->n_row_max * 4 * p.n_block);
	return p;
}

static __global__ void planes_kernel(const float *in, uint32_t stride, const struct planes p)
{
	const uint32_t quad = blockIdx.x * blockDim.x + threadIdx.x;
	const bool there = quad < p.n_block * 8;
	const float4 *x = reinterpret_cast<const float4 *>(in + (size_t)blockIdx.y * stride);

	planes_write(p, blockIdx.y, quad, there ? x[quad] : make_float4(0, 0, 0, 0), there);
}

struct planes cuda_planes(struct backend *b, const struct act *a, uint32_t n_planes)
{
	const struct planes p = place(b, a);

	if (b->planes_of == a && b->n_planes == n_planes)
		return p;
	if (n_planes)
		launch(b, "planes", planes_kernel, dim3(up_to(p.n_block * 8, 128) / 128, n_planes), 128, 0, a->x, a->stride, p);
	if (n_planes < b->n_row)
		cuda_gemm_halves(b, a, &p, n_planes);
	cuda_planes_are(b, a, n_planes);
	return p;
}

struct planes cuda_planes_beside(const struct backend *b, const struct act *a)
{
	const struct planes none = { NULL, NULL, 0, 0 };
	const bool halves = b->n_row - b->prefill_from >= MANY_ROWS;

	return b->n_quantized && !b->batch->exact && !halves && a->width % CHUNK == 0 ? place(b, a) : none;
}
