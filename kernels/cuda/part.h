/*
 * A warp's work in attention: a few queries against one part of the keys.
 *
 * The queries are query heads of one kv head, of one row or of several neighbouring
 * rows, so a key and a value are loaded once for all.  Tiles of 64 keys: a lane scores
 * two keys, then the lanes that hold a value's dims, eight each, sum the values up.
 * The order of additions depends on the part alone: keys that a row does not see are
 * left out of its softmax and its sums, be they NaN.
 *
 * No barrier of the block in here: warps return when they like.
 */
#ifndef KERNELS_CUDA_PART_H
#define KERNELS_CUDA_PART_H

#include <math.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/rotary.h"

#define QUERIES 8u                       /* most of a warp */
#define TILE 64u                         /* keys */
#define DIMS 8u                          /* of a lane, 16 bytes of halves */
#define DEPTH 4u                         /* values of a lane that are loaded at once */
#define PARTS 32u                        /* of a window that is long */
#define PART_LEAST TILE

struct query {                           /* an attend, as kernels see it */
	struct rotary rope;
	float slopes[HEADS_MOST];
	const float *q, *sink;
	float *out, *partials;           /* [row][head][n_part][pad sums, most, total] */
	uint32_t stride, dim, pad;
	uint32_t width;                  /* lanes that hold a value; a power of two */
	uint32_t n_row;                  /* of the batch */
	uint32_t n_tile;                 /* of a warp, at most: a power of two */
	uint32_t n_head, n_head_kv, rep; /* rep: query heads of a kv head */
	uint32_t group, n_group;         /* of rep: heads of a warp */
	uint32_t layer, n_layer, n_part;
	float scale, softcap;
	bool alibi, f16;
	const struct batch_row *rows;
	const struct batch_seq *seqs;
	const struct layer_place *places;
	const uint8_t *memory;
};

/* What a warp looks at. */
struct view {
	const uint8_t *k, *v;            /* of its kv head */
	struct span span;
	struct window window;
	uint64_t pos, start;             /* of its first row */
	uint32_t row, n_row, head, n_head;
	uint32_t shift;                  /* a part has 1 << shift keys */
};

/* Keys of one kind that a row sees: sinks from position 0, or the window from S on. */
struct reach {
	uint64_t first, end;
};

/* A query in a part; keys counted from the part's first. */
struct alignas(16) facts {
	int32_t from, to;                /* the keys that it sees; none: from >= to */
	int32_t stand;                   /* where the query stands */
	float slope;
};

/* A warp's shared memory. */
struct room {
	float *queries;                  /* [n][pad] rotated and scaled */
	float *weights;                  /* [TILE][n] of a tile, or at last: */
	float *sums, *totals;            /* [n][pad] and [n], in the same place */
	float *merged;                   /* [n][pad] of all parts, of tiles only */
	uint32_t *places;                /* [TILE] */
	struct facts *facts;             /* [n] */
};

static inline __host__ __device__ uint32_t room_sums(uint32_t pad)
{
	return pad < TILE ? TILE : pad;
}

static inline __host__ __device__ uint32_t room_floats(uint32_t pad, uint32_t n, bool merges)
{
	return n * (pad + room_sums(pad) + (merges ? pad : 0) + 4 /* facts */ + 4 /* totals */) + TILE;
}

static inline __device__ struct room room_of(float *shared, uint32_t pad, uint32_t n, bool merges)
{
	float *at = shared + threadIdx.y * room_floats(pad, n, merges);
	struct room r;

	r.facts = reinterpret_cast<struct facts *>(at);
	r.places = reinterpret_cast<uint32_t *>(at + 4 * n);
	r.queries = at + 4 * n + TILE;
	r.weights = r.sums = r.queries + n * pad;
	r.totals = r.sums + n * room_sums(pad);
	r.merged = r.totals + 4 * n;
	return r;
}

/* ---- where things are ---- */

/* x % n for n below 2^28, which a ring is: 64-bit division is a call, and a call
 * spills registers. */
static inline __device__ uint32_t remainder_of(uint64_t x, uint32_t n)
{
	uint32_t r = (uint32_t)(x >> 32) % n;

	for (uint32_t i = 0, low = (uint32_t)x; i < 8; i++, low <<= 4)
		r = (r << 4 | low >> 28) % n;
	return r;
}

static inline __host__ __device__ uint32_t part_shift(struct span s)
{
	uint32_t shift = 6;

	while ((PARTS << shift) < s.n_sink + s.n_recent)
		shift++;
	return shift;
}

static inline __device__ uint32_t sink_parts(const struct view &w)
{
	return (w.span.n_sink + (1u << w.shift) - 1) >> w.shift;
}

static inline __device__ uint64_t parts_within(struct reach r, uint32_t shift)
{
	return r.end > r.first ? ((r.end - 1) >> shift) - (r.first >> shift) + 1 : 0;
}

/* Rows row.. of one session, and a group of the query heads of a kv head. */
static inline __device__ void look(const struct query &a, uint32_t row, uint32_t n_row, uint32_t unit, struct view *w)
{
	const struct batch_row r = a.rows[row];
	const struct batch_seq seq = a.seqs[r.seq];
	const struct layer_place p = a.places[(size_t)r.seq * a.n_layer + a.layer];
	const uint32_t kv = unit / a.n_group, first = unit % a.n_group * a.group;
	const size_t values = (size_t)kv * span_places(p.span) * a.pad;
	const size_t bytes = a.f16 ? values * 2 : values * 4;

	w->k = a.memory + p.k + bytes;
	w->v = a.memory + p.v + bytes;
	w->span = p.span;
	w->window = seq.window;
	w->pos = r.pos;
	w->start = seq.start;
	w->row = row;
	w->n_row = n_row;
	w->head = kv * a.rep + first;
	w->n_head = a.rep - first < a.group ? a.rep - first : a.group;
	w->shift = part_shift(p.span);
}

static inline __device__ struct reach reach_of(const struct view &w, bool sink, uint32_t r)
{
	const uint64_t pos = w.pos + r, lo = span_lo(w.span, pos, pos < w.window.n_sink ? 0 : w.start);

	if (sink)
		return { 0, span_sinks(w.span, pos) };
	if (lo > pos)
		return { 0, 0 };
	return { lo - w.span.n_sink, pos + 1 - w.span.n_sink };
}

static inline __device__ uint64_t stand_of(const struct view &w, bool sink, uint32_t r)
{
	return sink ? window_query(w.window, w.pos + r) : w.pos + r;
}

/* A key of the kind, counted from a part's first. */
static inline __device__ int32_t within(const struct view &w, uint64_t key, uint64_t first)
{
	const uint64_t most = UINT64_C(1) << w.shift;

	return key <= first ? 0 : (int32_t)(key - first < most ? key - first : most);
}

/* ---- queries ---- */

static inline __device__ void load_queries(const struct query &a, const struct view &w, bool sink, float *queries)
{
	__syncwarp();                    /* the ones of before are no longer read */
	for (uint32_t r = 0; r < w.n_row; r++) {
		const float *const x = a.q + (size_t)(w.row + r) * a.stride + (size_t)w.head * a.dim;

		for (uint32_t d = threadIdx.x; d < a.pad; d += WARP) {
			const struct turn t = turn_of(a.rope, stand_of(w, sink, r), d);

			for (uint32_t h = 0; h < w.n_head; h++)
				queries[(r * w.n_head + h) * a.pad + d] =
					d < a.dim ? turned(t, x + h * a.dim, d) * a.scale : 0;
		}
	}
}

/* A lane says it of one query. */
static inline __device__ void note_facts(const struct query &a, const struct view &w, bool sink, uint64_t first,
                                         uint32_t n, struct facts *facts)
{
	const uint32_t q = threadIdx.x, r = q / w.n_head;
	struct facts f = { 0, 0, 0, 0 };

	if (r < w.n_row) {
		const struct reach reach = reach_of(w, sink, r);

		f.from = within(w, reach.first, first);
		f.to = within(w, reach.end, first);
		f.stand = (int32_t)(stand_of(w, sink, r) - first - (sink ? 0 : w.span.n_sink));
		f.slope = a.alibi ? a.slopes[w.head + q % w.n_head] : 0;
	}
	if (q < n)
		facts[q] = f;
}

/* ---- a tile ---- */

template <bool f16> static inline __device__ void load8(const uint8_t *memory, size_t at, float *x)
{
	if constexpr (f16) {
		const uint4 y = reinterpret_cast<const uint4 *>(memory)[at / 8];
		const uint32_t words[4] = { y.x, y.y, y.z, y.w };

		UNROLL
		for (unsigned i = 0; i < 4; i++) {
			x[2 * i] = half_bits((uint16_t)(words[i] & 0xffff));
			x[2 * i + 1] = half_bits((uint16_t)(words[i] >> 16));
		}
	} else {
		UNROLL
		for (unsigned i = 0; i < 2; i++) {
			const float4 y = reinterpret_cast<const float4 *>(memory)[at / 4 + i];

			x[4 * i] = y.x;
			x[4 * i + 1] = y.y;
			x[4 * i + 2] = y.z;
			x[4 * i + 3] = y.w;
		}
	}
}

/* Where a lane's two keys are; a key that nobody sees is one that somebody does. */
static inline __device__ void find_places(const struct view &w, bool sink, uint64_t part, int32_t tile,
                                          int32_t from, int32_t to, uint32_t *places)
{
	const uint32_t start = sink ? (uint32_t)part : remainder_of(part, w.span.n_ring);

	UNROLL
	for (unsigned j = 0; j < 2; j++) {
		const int32_t key = tile + (int32_t)(threadIdx.x + WARP * j);
		const uint32_t seen = start + (uint32_t)(key < from ? from : key < to ? key : to - 1);

		places[threadIdx.x + WARP * j] = sink ? seen : w.span.n_head + seen % w.span.n_ring;
	}
}

template <bool f16, unsigned n> static inline __device__ void
score(const struct query &a, const uint8_t *keys, const struct room &room, float (*s)[2])
{
	const uint32_t place[2] = { room.places[threadIdx.x], room.places[threadIdx.x + WARP] };

	UNROLL
	for (unsigned q = 0; q < n; q++)
		s[q][0] = s[q][1] = 0;
	UNROLL_TWICE
	for (uint32_t d = 0; d < a.pad; d += DIMS) {
		float k[2][DIMS];

		UNROLL
		for (unsigned j = 0; j < 2; j++)
			load8<f16>(keys, key_at(place[j], d, a.pad), k[j]);
		UNROLL
		for (unsigned q = 0; q < n; q++) {
			float x[DIMS];

			load8<false>(reinterpret_cast<const uint8_t *>(room.queries), q * a.pad + d, x);
			UNROLL
			for (unsigned i = 0; i < DIMS; i++) {
				s[q][0] = fmaf(x[i], k[0][i], s[q][0]);
				s[q][1] = fmaf(x[i], k[1][i], s[q][1]);
			}
		}
	}
}

/* Scores to weights under the highest score so far; before: what older weights count. */
template <unsigned n> static inline __device__ void
weigh(const struct query &a, const struct room &room, int32_t tile, float (*s)[2], float *most, float *before)
{
	UNROLL
	for (unsigned q = 0; q < n; q++) {
		const struct facts f = room.facts[q];
		float top = most[q];
		bool seen[2];

		UNROLL
		for (unsigned j = 0; j < 2; j++) {
			const int32_t key = tile + (int32_t)(threadIdx.x + WARP * j);

			seen[j] = key >= f.from && key < f.to;
			if (a.softcap > 0)
				s[q][j] = a.softcap * tanhf(s[q][j] / a.softcap);
			if (a.alibi)
				s[q][j] = fmaf(-f.slope, (float)(f.stand - key), s[q][j]);
			top = seen[j] ? fmaxf(top, s[q][j]) : top;
		}
		top = warp_max(top);
		before[q] = most[q] == top ? 1 : expf(most[q] - top);
		most[q] = top;
		UNROLL
		for (unsigned j = 0; j < 2; j++)
			room.weights[(threadIdx.x + WARP * j) * n + q] = seen[j] ? expf(s[q][j] - top) : 0;
	}
}

/* Adds keys from..to-1 of a tile; each group of lanes takes every so many-th. */
template <bool f16, unsigned n> static inline __device__ void
gather(const struct query &a, const uint8_t *values, const struct room &room, uint32_t from, uint32_t to,
       float (*acc)[DIMS], float *total)
{
	const uint32_t groups = WARP / a.width, mine = threadIdx.x % a.width * DIMS, d = mine < a.pad ? mine : 0;

	for (uint32_t i = from / groups / DEPTH * DEPTH; i * groups < to; i += DEPTH) {
		const uint32_t key = i * groups + threadIdx.x / a.width;
		float v[DEPTH][DIMS];

		UNROLL
		for (unsigned j = 0; j < DEPTH; j++)
			load8<f16>(values, (size_t)room.places[key + j * groups] * a.pad + d, v[j]);
		UNROLL
		for (unsigned j = 0; j < DEPTH; j++)
			UNROLL
			for (unsigned q = 0; q < n; q++) {
				const float p = room.weights[(key + j * groups) * n + q];

				total[q] += p;
				UNROLL
				for (unsigned c = 0; c < DIMS; c++)
					acc[q][c] = p != 0 ? fmaf(p, v[j][c], acc[q][c]) : acc[q][c];
			}
	}
}

/* The sums of all groups of lanes, one after another. */
template <unsigned n> static inline __device__ void
fold(const struct query &a, const struct room &room, const float (*acc)[DIMS], const float *total)
{
	const uint32_t mine = threadIdx.x / a.width, d = threadIdx.x % a.width * DIMS;

	for (uint32_t g = 0; g < WARP / a.width; g++) {
		__syncwarp();
		if (g != mine || d >= a.pad)
			continue;
		UNROLL
		for (unsigned q = 0; q < n; q++) {
			float *const sum = room.sums + q * a.pad + d;

			UNROLL
			for (unsigned c = 0; c < DIMS; c++)
				sum[c] = g ? sum[c] + acc[q][c] : acc[q][c];
			if (d == 0)
				room.totals[q] = g ? room.totals[q] + total[q] : total[q];
		}
	}
	__syncwarp();
}

/* ---- a part ---- */

/* Part number of a kind: most, and in the room sums and totals.  A query that sees
 * nothing of it has none of them (facts). */
template <bool f16, unsigned n> static inline __device__ void
attend_part(const struct query &a, const struct view &w, const struct room &room, bool sink, uint64_t number, float *most)
{
	const uint64_t part = number << w.shift;
	const int32_t from = within(w, reach_of(w, sink, 0).first, part);
	const int32_t to = within(w, reach_of(w, sink, w.n_row - 1).end, part);
	float acc[n][DIMS], total[n], s[n][2], before[n];

	__syncwarp();                    /* sums and facts are no longer read */
	note_facts(a, w, sink, part, n, room.facts);
	UNROLL
	for (unsigned q = 0; q < n; q++) {
		most[q] = -INFINITY;
		total[q] = 0;
		UNROLL
		for (unsigned c = 0; c < DIMS; c++)
			acc[q][c] = 0;
	}
	for (int32_t tile = from / (int32_t)TILE * (int32_t)TILE; tile < to; tile += (int32_t)TILE) {
		__syncwarp();
		find_places(w, sink, part, tile, from, to, room.places);
		__syncwarp();
		score<f16, n>(a, w.k, room, s);
		weigh<n>(a, room, tile, s, most, before);
		__syncwarp();
		UNROLL
		for (unsigned q = 0; q < n; q++) {
			total[q] *= before[q];
			UNROLL
			for (unsigned c = 0; c < DIMS; c++)
				acc[q][c] *= before[q];
		}
		gather<f16, n>(a, w.v, room, (uint32_t)(from > tile ? from - tile : 0),
		               (uint32_t)(to - tile < (int32_t)TILE ? to - tile : (int32_t)TILE), acc, total);
	}
	fold<n>(a, room, acc, total);
}

#endif
