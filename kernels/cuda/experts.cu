/*
 * Experts: which ones a row uses, the rows of an expert, and adding up what experts say.
 * Their products are matmul.cu's and dot.cu's.
 *
 * The hard idea: rows that chose the same expert are multiplied together, so that its
 * weights are read once for them, and yet the shape of a launch depends on the batch's alone
 * (graph.cu).  So route leaves a list of groups on the device, by expert and then by row,
 * as long as the worst case: a block past its end finds nobody there, and leaves.
 */
#include <assert.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"

#define ROUTE_WARPS 16u                  /* rows of a block */

/* Takes the largest logit that is not taken yet, the first of equal ones, into *at; a lane
 * has every 32nd and marks them in taken.  No number is the largest: it must be seen. */
static __device__ float route_take(const float *x, uint32_t n, uint32_t *taken, uint32_t *at)
{
	float best = -INFINITY;
	uint32_t e = UINT32_MAX;

	for (uint32_t i = threadIdx.x; i < n; i += WARP) {
		const float v = x[i] == x[i] ? x[i] : INFINITY;

		if (!(*taken >> i / WARP & 1) && (e == UINT32_MAX || v > best)) {
			best = v;
			e = i;
		}
	}
	for (unsigned by = WARP / 2; by > 0; by /= 2) {
		const float other = __shfl_xor_sync(ALL_LANES, best, by);
		const uint32_t its = __shfl_xor_sync(ALL_LANES, e, by);

		if (other > best || (other == best && its < e)) {
			best = other;
			e = its;
		}
	}
	if (e % WARP == threadIdx.x)
		*taken |= 1u << e / WARP;
	*at = e;
	return x[e];
}

/* A warp chooses for a row; lane k keeps choice k. */
static __device__ void route_row(const float *x, uint32_t n, uint32_t n_used, struct choice *c)
{
	const uint32_t lane = threadIdx.x;
	uint32_t taken = 0, mine = 0;
	float weight = 0, largest = 0, sum = 0;

	for (uint32_t k = 0; k < n_used; k++) {
		uint32_t e;
		const float logit = route_take(x, n, &taken, &e);

		largest = k ? largest : logit;
		if (lane == k) {
			mine = e;
			weight = expf(logit - largest);
		}
	}
	for (uint32_t k = 0; k < n_used; k++)
		sum += __shfl_sync(ALL_LANES, weight, k);
	if (lane < n_used) {
		c->expert[lane] = mine;
		c->weight[lane] = weight / sum;
	}
}

/* A warp lists the groups of all rows' k-th choices, a lane those of every 32nd expert. */
static __device__ void group_rows(const struct choice *choices, uint32_t k, uint32_t n_row, uint32_t n_expert,
                                  struct group *groups, uint32_t n_group)
{
	uint32_t end = 0;                /* groups of the experts before */

	for (uint32_t first = 0; first < n_expert; first += WARP) {
		const uint32_t e = first + threadIdx.x;
		uint32_t n = 0, at, upto;

		for (uint32_t row = 0; row < n_row; row++)
			n += choices[row].expert[k] == e;
		upto = at = up_to(n, GROUP_MOST) / GROUP_MOST;
		for (uint32_t by = 1; by < WARP; by *= 2) {
			const uint32_t before = __shfl_sync(ALL_LANES, upto, threadIdx.x < by ? threadIdx.x : threadIdx.x - by);

			upto += threadIdx.x < by ? 0 : before;
		}
		at = end + upto - at;
		end += __shfl_sync(ALL_LANES, upto, WARP - 1);
		for (uint32_t row = 0, i = 0; i < n; row++) {
			if (choices[row].expert[k] != e)
				continue;
			struct group *g = groups + at + i / GROUP_MOST;

			g->expert = e;
			g->n = i % GROUP_MOST + 1;
			for (uint32_t r = i++ % GROUP_MOST; r < GROUP_MOST; r++)
				g->row[r] = row;
		}
	}
	for (uint32_t i = end + threadIdx.x; i < n_group; i += WARP)
		groups[i].n = 0;
}

struct route {
	uint32_t n_row, n_expert, n_used, n_group;
	struct choice *choices;
	struct group *groups;            /* [n_used][step] */
	uint32_t step, unused;           /* no padding: launch.h compares bytes */
};

static __device__ void group_choices(const struct route &r)
{
	for (uint32_t k = threadIdx.y; k < r.n_used; k += blockDim.y)
		group_rows(r.choices, k, r.n_row, r.n_expert, r.groups + (size_t)k * r.step, r.n_group);
}

static __global__ void route_kernel(const float *logits, uint32_t stride, const struct route r)
{
	const uint32_t row = blockIdx.x * ROUTE_WARPS + threadIdx.y;

	if (row < r.n_row)
		route_row(logits + (size_t)row * stride, r.n_expert, r.n_used, r.choices + row);
	if (gridDim.x == 1) {            /* a decode step: no launch more */
		__syncthreads();
		group_choices(r);
	}
}

/* After the rows of many blocks. */
static __global__ void group_kernel(const struct route r)
{
	group_choices(r);
}

void cuda_route(struct backend *b, uint32_t n_used, const struct act *logits)
{
	const struct route r = { b->n_row, logits->width, n_used, cuda_groups_most(b->n_row, logits->width), b->choices,
	                         b->groups, b->n_row_max, 0 };
	const uint32_t n_block = up_to(b->n_row, ROUTE_WARPS) / ROUTE_WARPS;

	assert(b->batch && n_used > 0 && n_used <= ROUTE_MOST && n_used <= logits->width);
	assert(logits->width <= WARP * 32);             /* bits of taken */
	b->n_used = n_used;
	b->n_group = r.n_group;
	if (b->rc || !b->n_row)
		return;
	launch(b, "route", route_kernel, n_block, dim3(WARP, ROUTE_WARPS), 0, logits->x, logits->stride, r);
	if (n_block > 1)
		launch(b, "route", group_kernel, 1, dim3(WARP, ROUTE_WARPS), 0, r);
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
