/*
 * Experts: which ones a row uses, and adding up what they say.  Their products are
 * matmul.cu's, with an offset that a row reads from its choice.
 */
#include <assert.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"

/* A thread chooses for a row: tens of logits, and the choice stays on the device. */
static __global__ void route_kernel(const float *logits, uint32_t stride, uint32_t n, uint32_t n_used, uint32_t n_row,
                                    struct choice *choices)
{
	const uint32_t row = blockIdx.x * blockDim.x + threadIdx.x;
	const float *x = logits + (size_t)row * stride;
	float sum = 0;

	if (row >= n_row)
		return;
	struct choice *c = choices + row;
	for (uint32_t k = 0; k < n_used; k++) {
		bool found = false;
		uint32_t best = 0;

		for (uint32_t e = 0; e < n; e++) {
			bool taken = false;

			for (uint32_t i = 0; i < k; i++)
				taken = taken || c->expert[i] == e;
			if (taken || (found && !(x[e] > x[best])))
				continue;
			best = e;               /* a NaN may be chosen, and stays one */
			found = true;
		}
		c->expert[k] = best;
	}
	for (uint32_t k = 0; k < n_used; k++) {
		c->weight[k] = expf(x[c->expert[k]] - x[c->expert[0]]);
		sum += c->weight[k];
	}
	for (uint32_t k = 0; k < n_used; k++)
		c->weight[k] /= sum;
}

void cuda_route(struct backend *b, uint32_t n_used, const struct act *logits)
{
	assert(b->batch && n_used > 0 && n_used <= ROUTE_MOST && n_used <= logits->width);
	b->n_used = n_used;
	if (!b->rc && b->n_row)
		launch(b, "route", route_kernel, up_to(b->n_row, WARP) / WARP, WARP, 0, logits->x, logits->stride,
		       logits->width, n_used, b->n_row, b->choices);
}

static __global__ void add_routed_kernel(const struct choice *choices, uint32_t which, const float *x, float *out,
                                         uint32_t width, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
	const size_t at = (size_t)blockIdx.y * stride + i;

	if (i < width)
		out[at] = mul_add(choices[blockIdx.y].weight[which], x[at], which ? out[at] : 0);
}

void cuda_add_routed(struct backend *b, uint32_t which, const struct act *x, struct act *out)
{
	assert(b->batch && x->width == out->width && x != out && which < b->n_used);
	if (!b->rc && b->n_row)
		launch(b, "add_routed", add_routed_kernel, dim3(up_to(out->width, 256) / 256, b->n_row), 256, 0, b->choices,
		       which, x->x, out->x, out->width, out->stride);
}
