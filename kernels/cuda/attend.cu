/*
 * Queries against the cache: sinks and window, two rotations, one softmax.
 *
 * The hard idea: keys are cut into parts at fixed places, the sinks from position 0
 * on and the window from position S on, and a part's length depends on the
 * session's window alone (part.h).  A part has its own softmax and its own sums, and
 * parts are merged in ascending order, sinks first.  So a row's result is the same
 * bits whoever computes it: in decode, where a warp takes one part and another kernel
 * merges (splits), and in a chunk, where a warp takes a few rows and merges its parts
 * as it goes (tiles).  Which of the two runs depends on the batch's shape only, and so
 * do the grids: warps past a session's position return at once.
 *
 * All query heads of a kv head share the loads of keys and values, and so do
 * neighbouring rows of a chunk.  No tensor cores: their sums have another order.
 */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/part.h"
#include "kernels/cuda/planes.h"

#define WARPS 4u                         /* most of a block */
#define SHARED_MOST (48u << 10)          /* bytes of a block without asking for more */
#define PARTIALS_MOST (8u << 20)         /* floats: past this, decode does not split */

/* A merged softmax of several parts; its sums are elsewhere. */
struct merged {
	float most, total;
};

/* Adds a part: sums of before count keep times, the part's take times. */
static __device__ void merge(struct merged *m, float most, float total, float *keep, float *take)
{
	const float top = fmaxf(m->most, most);

	*keep = m->most == top ? 1 : expf(m->most - top);
	*take = most == top ? 1 : expf(most - top);
	m->total = fmaf(total, *take, m->total * *keep);
	m->most = top;
}

/* The value of sum under all parts, and the logit beside them. */
static __device__ float finish(const struct query &a, uint32_t head, struct merged m, float sum)
{
	float keep = 1, take;

	if (a.sink)
		merge(&m, a.sink[head], 1, &keep, &take);
	return sum * keep / m.total;
}

/* ---- splits: a warp takes one part of one row ---- */

template <bool f16, unsigned n> static __global__ void __launch_bounds__(WARPS * WARP, 1)
split_kernel(const __grid_constant__ struct query a)
{
	const struct room room = room_of(SHARED_FLOATS, a.pad, n, false);
	const uint32_t slot = blockIdx.z * blockDim.y + threadIdx.y;
	float most[n];
	struct view w;

	look(a, blockIdx.y, 1, blockIdx.x, &w);
	const bool sink = slot < sink_parts(w);
	const struct reach r = reach_of(w, sink, 0);
	const uint64_t number = sink ? slot : slot - sink_parts(w) + (r.first >> w.shift);

	if (number << w.shift >= r.end)
		return;
	load_queries(a, w, sink, room.queries);
	attend_part<f16, n>(a, w, room, sink, number, most);
	const size_t at = ((size_t)blockIdx.y * a.n_head + w.head) * a.n_part + slot;
	UNROLL
	for (unsigned q = 0; q < n; q++) {
		if (q >= w.n_head)
			break;
		float *const to = a.partials + (at + (size_t)q * a.n_part) * (a.pad + 2);

		for (uint32_t d = threadIdx.x; d < a.pad; d += WARP)
			to[d] = room.sums[q * a.pad + d];
		if (threadIdx.x == 0) {
			to[a.pad] = most[q];
			to[a.pad + 1] = room.totals[q];
		}
	}
}

/* A block: one head of one row; a thread: a dim.  p: of out; q NULL: they are not wanted. */
static __global__ void merge_kernel(const __grid_constant__ struct query a, const struct planes p)
{
	const uint32_t head = blockIdx.x, d = threadIdx.x;
	const float *part = a.partials + ((size_t)blockIdx.y * a.n_head + head) * a.n_part * (a.pad + 2);
	struct merged m = { -INFINITY, 0 };
	float sum = 0, keep, take;
	struct view w;

	look(a, blockIdx.y, 1, head / a.rep * a.n_group, &w);
	for (unsigned kind = 0; kind < 2; kind++) {
		const struct reach r = reach_of(w, kind == 0, 0);

		for (uint64_t i = r.first >> w.shift; i << w.shift < r.end; i++, part += a.pad + 2) {
			merge(&m, part[a.pad], part[a.pad + 1], &keep, &take);
			if (d < a.dim)
				sum = fmaf(part[d], take, sum * keep);
		}
		if (kind == 0)               /* sinks that are not there yet have room */
			part += (size_t)(a.pad + 2) * (sink_parts(w) - (uint32_t)parts_within(r, w.shift));
	}
	sum = finish(a, head, m, sum);
	if (d < a.dim)
		a.out[(size_t)blockIdx.y * a.stride + (size_t)head * a.dim + d] = sum;
	if (p.q)                             /* then a warp has a block */
		planes_write_each(p, blockIdx.y, head * a.dim + d, sum);
}

/* ---- tiles: a warp takes all parts of a few rows ---- */

/* Rows from..: as many as stand before the next multiple of n_tile; 0: an earlier
 * warp has this one. */
static __device__ uint32_t tile_rows(const struct query &a, uint32_t from)
{
	const struct batch_row row = a.rows[from];
	uint32_t n = 1;

	if (from > 0 && a.rows[from - 1].seq == row.seq && (row.pos & (a.n_tile - 1)))
		return 0;
	while (from + n < a.n_row && a.rows[from + n].seq == row.seq && ((row.pos + n) & (a.n_tile - 1)))
		n++;
	return n;
}

/* The parts of one kind, merged into room.merged. */
template <bool f16, unsigned n> static __device__ void
merge_kind(const struct query &a, const struct view &w, const struct room &room, bool sink, struct merged *m)
{
	const uint64_t first = reach_of(w, sink, 0).first, end = reach_of(w, sink, w.n_row - 1).end;
	float most[n], keep, take;

	load_queries(a, w, sink, room.queries);
	for (uint64_t number = first >> w.shift; number << w.shift < end; number++) {
		attend_part<f16, n>(a, w, room, sink, number, most);
		UNROLL
		for (unsigned q = 0; q < n; q++) {
			if (room.facts[q].from >= room.facts[q].to)
				continue;        /* this row sees nothing of the part */
			merge(&m[q], most[q], room.totals[q], &keep, &take);
			for (uint32_t d = threadIdx.x; d < a.pad; d += WARP) {
				float *const sum = room.merged + q * a.pad + d;

				*sum = fmaf(room.sums[q * a.pad + d], take, *sum * keep);
			}
		}
	}
}

template <bool f16, unsigned n> static __global__ void __launch_bounds__(WARPS * WARP, 1)
tile_kernel(const __grid_constant__ struct query a)
{
	const struct room room = room_of(SHARED_FLOATS, a.pad, n, true);
	const uint32_t unit = blockIdx.x * blockDim.y + threadIdx.y, n_row = tile_rows(a, blockIdx.y);
	struct merged m[n];
	struct view w;

	if (n_row == 0 || unit >= a.n_head_kv * a.n_group)
		return;
	look(a, blockIdx.y, n_row, unit, &w);
	UNROLL
	for (unsigned q = 0; q < n; q++)
		m[q] = { -INFINITY, 0 };
	for (uint32_t i = threadIdx.x; i < n * a.pad; i += WARP)
		room.merged[i] = 0;
	merge_kind<f16, n>(a, w, room, true, m);
	merge_kind<f16, n>(a, w, room, false, m);
	UNROLL
	for (unsigned q = 0; q < n; q++) {
		if (q >= w.n_row * w.n_head)
			break;
		const uint32_t head = w.head + q % w.n_head;

		for (uint32_t d = threadIdx.x; d < a.dim; d += WARP)
			a.out[(size_t)(w.row + q / w.n_head) * a.stride + (size_t)head * a.dim + d] =
				finish(a, head, m[q], room.merged[q * a.pad + d]);
	}
}

/* ---- the host's side ---- */

/* Parts of a row of any session of these caches, at most. */
static uint32_t parts_most(const struct kv_shape *s)
{
	/* a session with more sinks has fewer recent places, in the same bytes */
	const uint32_t n = window_round(s->most.n_sink) + window_round(s->most.n_recent + s->n_chunk);

	return (n < PARTS * PART_LEAST ? n / PART_LEAST : PARTS) + 3;
}

/* How many rows share the partials is not known here, nor how many query heads: enough
 * for any model with sixteen a kv head, within bounds. */
size_t cuda_attend_room(const struct kv_shape *s, uint32_t n_row_max)
{
	const size_t rows = n_row_max < s->n_slot ? n_row_max : s->n_slot;
	size_t most = 0;

	for (uint32_t l = 0; l < s->n_layer; l++) {
		const size_t n = rows * s->layers[l].n_head_kv * 16 * parts_most(s) * (up_to(s->layers[l].head_dim, DIMS) + 2);

		most = n > most ? n : most;
	}
	return most < PARTIALS_MOST ? most : PARTIALS_MOST;
}

typedef void (*kernel_fn)(const struct query);

/* [16 bits][log2 of queries]; NULL: too many for the registers (queries_most) */
static const kernel_fn splits[2][4] = {
	{ split_kernel<false, 1>, split_kernel<false, 2>, split_kernel<false, 4>, NULL },
	{ split_kernel<true, 1>, split_kernel<true, 2>, split_kernel<true, 4>, split_kernel<true, 8> },
};
static const kernel_fn tiles[2][4] = {
	{ tile_kernel<false, 1>, tile_kernel<false, 2>, tile_kernel<false, 4>, NULL },
	{ tile_kernel<true, 1>, tile_kernel<true, 2>, tile_kernel<true, 4>, tile_kernel<true, 8> },
};

/* Shared memory and registers hold no more queries of a warp. */
static uint32_t queries_most(const struct query *x)
{
	return x->f16 && x->pad <= 128 ? QUERIES : QUERIES / 2;
}

/* Fewer than n warps of a block, if shared memory holds no more. */
static uint32_t warps_of(const struct query *x, uint32_t n, uint32_t n_query, bool merges)
{
	const uint32_t fit = SHARED_MOST / (room_floats(x->pad, n_query, merges) * (uint32_t)sizeof(float));

	n = n < WARPS ? n : WARPS;
	return n < fit ? n : fit;
}

static void run(struct backend *b, struct query *x, const struct act *out)
{
	const bool chunks = b->batch->n_row > b->batch->n_seq;
	const size_t partials = (size_t)b->n_row * x->n_head * x->n_part * (x->pad + 2);
	const bool split = !chunks && partials <= b->kv->n_partial;
	const uint32_t unit = x->n_head_kv * x->n_group;
	uint32_t n = 1, log = 0, warps;

	x->n_tile = chunks && x->n_group == 1 ? queries_most(x) / x->rep : 1;
	assert((x->n_tile & (x->n_tile - 1)) == 0 && x->n_tile * x->group <= queries_most(x));
	while (n < x->n_tile * x->group) {
		n *= 2;
		log++;
	}
	warps = warps_of(x, split ? x->n_part : unit, n, !split);
	const size_t shared = warps * room_floats(x->pad, n, !split) * sizeof(float);
	if (split) {
		struct planes p = cuda_planes_beside(b, out);

		if (x->dim % CHUNK)
			p.q = NULL;
		launch(b, "attend", splits[x->f16][log], dim3(unit, b->n_row, up_to(x->n_part, warps) / warps),
		       dim3(WARP, warps), shared, *x);
		launch(b, "attend", merge_kernel, dim3(x->n_head, b->n_row), dim3(up_to(x->dim, WARP)), 0, *x, p);
		if (p.q)
			cuda_planes_are(b, out, b->n_row);
	} else {
		launch(b, "attend", tiles[x->f16][log], dim3(up_to(unit, warps) / warps, b->n_row), dim3(WARP, warps),
		       shared, *x);
	}
}

/* How the query heads of a kv head are dealt out to warps. */
static void deal(struct query *x)
{
	const uint32_t most = queries_most(x);

	x->n_group = up_to(x->rep, most) / most;
	x->group = up_to(x->rep, x->n_group) / x->n_group;
	x->n_group = up_to(x->rep, x->group) / x->group;
}

static void describe(const struct backend *b, const struct attend *a, struct query *x)
{
	const struct kv_layer *l = &b->kv->layers[a->layer];

	memset(x, 0, sizeof(*x));
	rotary_of(a->rope, &x->rope);
	for (uint32_t h = 0; h < a->n_head && a->alibi; h++)
		x->slopes[h] = a->alibi[h];
	x->alibi = a->alibi != NULL;
	x->f16 = b->kv->shape.type == KV_F16;
	x->sink = a->sink ? static_cast<const float *>(a->sink->p.plain) : NULL;
	x->partials = b->kv->partials;
	x->dim = l->head_dim;
	x->pad = up_to(l->head_dim, DIMS);
	for (x->width = 2; x->width * DIMS < x->pad; x->width *= 2)
		;
	x->n_row = b->n_row;
	x->n_head = a->n_head;
	x->n_head_kv = l->n_head_kv;
	x->rep = a->n_head / l->n_head_kv;
	x->layer = a->layer;
	x->n_layer = b->kv->shape.n_layer;
	x->n_part = parts_most(&b->kv->shape);
	x->scale = a->scale;
	x->softcap = a->softcap;
	x->rows = b->step.rows;
	x->seqs = b->step.seqs;
	x->places = b->step.places;
	x->memory = b->kv->memory;
	deal(x);
}

void cuda_attend(struct backend *b, const struct attend *a, const struct act *q, struct act *out)
{
	const struct kv_layer *l;
	struct query x;

	assert(b->batch && b->kv && !b->selected && a->layer < b->kv->shape.n_layer && q != out);
	l = &b->kv->layers[a->layer];
	assert(a->n_head > 0 && a->n_head % l->n_head_kv == 0 && (!a->alibi || a->n_head <= HEADS_MOST));
	assert(q->width == a->n_head * l->head_dim && out->width == q->width);
	assert(!a->sink || (a->sink->p.n_out == 1 && a->sink->p.n_in == a->n_head));
	assert(!a->rope || a->rope->order == ROPE_NONE || a->rope->n_rot <= l->head_dim);
	if (b->rc)
		return;
	describe(b, a, &x);
	x.q = q->x;
	x.out = out->x;
	x.stride = q->stride;
	run(b, &x, out);
}
