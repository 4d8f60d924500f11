/*
 * Matrix times activations: a warp owns an output row.
 *
 * A lane dequantizes a chunk of 32 weights in registers and uses them for up to
 * four activation rows, so a weight is read once for four rows (eight spill
 * registers).  The order of additions of one result is fixed by n_in alone and every step is a fused
 * multiply-add, so a result is the same whatever else is in the batch.
 */
#include <assert.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed.h"

#define WARPS 4u

template <typename K, unsigned n_tile>
static __global__ void __launch_bounds__(WARPS * WARP)
matmul_kernel(const struct packed p, const float *bias, const float *in, uint32_t in_stride,
              float *out, uint32_t out_stride, uint32_t n_row, uint32_t n_out, const struct choice *choices, uint32_t which)
{
	const uint32_t lane = threadIdx.x, j = blockIdx.x * WARPS + threadIdx.y, first = blockIdx.y * n_tile;
	const uint32_t n = n_row - first < n_tile ? n_row - first : n_tile;
	/* an expert's rows of the weight: a tile is one row then */
	const uint32_t from = choices ? choices[first].expert[which] * n_out : 0;
	float w[CHUNK], sum[n_tile];

	if (j >= n_out)                       /* a whole warp */
		return;
	UNROLL
	for (unsigned r = 0; r < n_tile; r++)
		sum[r] = 0;
	for (uint32_t chunk = lane; chunk < p.stride / CHUNK; chunk += WARP) {
		K::load(p, from + j, chunk, w);
		UNROLL
		for (unsigned r = 0; r < n_tile; r++) {
			/* rows that are not there repeat the last: cheaper than a branch */
			const uint32_t row = first + (r < n ? r : n - 1);
			const float4 *x = reinterpret_cast<const float4 *>(in + (size_t)row * in_stride + chunk * CHUNK);

			UNROLL
			for (unsigned i = 0; i < CHUNK / 4; i++) {
				const float4 v = x[i];

				sum[r] = fmaf(w[4 * i], v.x, sum[r]);
				sum[r] = fmaf(w[4 * i + 1], v.y, sum[r]);
				sum[r] = fmaf(w[4 * i + 2], v.z, sum[r]);
				sum[r] = fmaf(w[4 * i + 3], v.w, sum[r]);
			}
		}
	}
	UNROLL
	for (unsigned r = 0; r < n_tile; r++) {
		const float total = warp_sum(sum[r]);

		if (lane == 0 && r < n)
			out[(size_t)(first + r) * out_stride + j] = bias ? total + bias[from + j] : total;
	}
}

struct product {
	struct backend *b;
	const struct weight *w;
	const float *bias;
	const struct act *in;
	struct act *out;
	const struct choice *choices;    /* NULL: the weight is one matrix */
	uint32_t which;
};

template <typename K, unsigned n_tile> static void run_tile(const struct product *p)
{
	const dim3 grid(up_to(p->out->width, WARPS) / WARPS, up_to(p->b->n_row, n_tile) / n_tile);

	launch(p->b, "matmul", matmul_kernel<K, n_tile>, grid, dim3(WARP, WARPS), 0, p->w->p, p->bias,
	       p->in->x, p->in->stride, p->out->x, p->out->stride, p->b->n_row,
	       p->out->width, p->choices, p->which);
}

template <typename K> static void run_kind(const struct product *p)
{
	if (p->b->n_row == 1 || p->choices)
		run_tile<K, 1>(p);
	else if (p->b->n_row == 2)
		run_tile<K, 2>(p);
	else
		run_tile<K, 4>(p);
}

struct kind {
	uint32_t n_bit, n_sub;
	bool super, has_min;
	void (*run)(const struct product *p);
};

#define KIND(n_bit, n_sub, super, has_min) \
	{ n_bit, n_sub, super, has_min, run_kind<kind_quants<n_bit, n_sub, super, has_min>> }

static const struct kind kinds[] = {
	KIND(4, 32, false, false), KIND(4, 32, false, true),    /* Q4_0, Q4_1 */
	KIND(5, 32, false, false), KIND(5, 32, false, true),    /* Q5_0, Q5_1 */
	KIND(8, 32, false, false),                              /* Q8_0 */
	KIND(2, 16, true, true), KIND(3, 16, true, false),      /* Q2_K, Q3_K */
	KIND(4, 32, true, true), KIND(5, 32, true, true),       /* Q4_K, Q5_K */
	KIND(6, 16, true, false),                               /* Q6_K */
};

static void run_quants(const struct product *p)
{
	const struct packed *w = &p->w->p;

	for (const struct kind &k : kinds)
		if (k.n_bit == w->n_bit && k.n_sub == w->n_sub && k.super == w->super && k.has_min == w->has_min) {
			k.run(p);
			return;
		}
	assert(!"a format without a product");
}

static void run(const struct product *p)
{
	if (p->b->rc || p->b->n_row == 0)
		return;
	switch (p->w->p.pack) {
	case PACK_F32:    run_kind<kind_f32>(p); break;
	case PACK_F16:    run_kind<kind_16<false>>(p); break;
	case PACK_BF16:   run_kind<kind_16<true>>(p); break;
	case PACK_QUANTS: run_quants(p); break;
	}
}

static const float *vector(const struct weight *w)
{
	return w ? static_cast<const float *>(w->p.plain) : NULL;
}

void cuda_matmul(struct backend *b, const struct weight *w, const struct weight *bias,
                 const struct act *in, struct act *out)
{
	const struct product p = { b, w, vector(bias), in, out, NULL, 0 };

	assert(b->batch && in != out && in->width == w->p.n_in && out->width == w->p.n_out);
	assert(cuda_is_vector(bias, w->p.n_out));
	run(&p);
}

void cuda_matmul_routed(struct backend *b, uint32_t which, const struct weight *w, const struct weight *bias,
                        const struct act *in, struct act *out)
{
	const struct product p = { b, w, vector(bias), in, out, b->choices, which };

	assert(b->batch && in != out && in->width == w->p.n_in && w->p.n_out % out->width == 0 && which < b->n_used);
	assert(cuda_is_vector(bias, w->p.n_out));
	run(&p);
}
