/*
 * Queries against the cache: sinks and window, two rotations, one softmax.
 *
 * The hard idea: keys are reduced in splits of 16 blocks whose limits are
 * positions (block / 16), the head's first, then the ring's in ascending order,
 * and partial results are merged in that order.  So it is free to a step who
 * computes a split: one worker all of a tile's, or, for few rows over a long
 * window, each worker some.  A tile is a few rows of one session times the heads
 * that share a key head.
 */
#include <assert.h>
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define SPLIT_ITEMS_MOST 64u     /* tiles fewer than this may be split over workers */
#define PARTS 4u                 /* of a worker, or a few more: taking one costs a third of a microsecond */

struct tile {                    /* rows of one session x heads of one key head */
	uint32_t item, row, n_row, head_kv, head, n_head;
	const struct layer_place *place;
	const struct batch_seq *seq;
	const uint8_t *slot;
	uint64_t ring_first;     /* first split of the ring */
	uint32_t n_head_split, n_ring_split;
};

struct job {
	struct backend *b;
	const struct attend *a;
	const struct rope_table *table;
	const struct act *q;
	struct act *out;
	const struct kv_layer *layer;
	bool ints;               /* are made of out, while it is in the cache and without another meeting */
	uint32_t rep;            /* query heads of a key head */
	uint32_t heads_tile, n_head_tile;
	uint32_t n_split;        /* most of any tile, when split over workers */
	uint32_t part, n_part;   /* splits of an item, items of a tile */
	uint64_t call;           /* of cpu_attend, in the upper half */
	_Atomic uint32_t left[SPLIT_ITEMS_MOST];         /* items of a tile still to be computed */
};

static uint64_t start_of(const struct batch_seq *s, uint64_t pos)
{
	return pos < s->window.n_sink ? 0 : s->start;     /* start counts after the head */
}

static uint64_t row_lo(const struct tile *t, uint64_t pos)
{
	return span_lo(t->place->span, pos, start_of(t->seq, pos));
}

/* Which rows, heads and splits tile item is: tiles of rows come in the order of
 * the batch, and never mix sessions. */
static void tile_find(const struct job *j, uint32_t item, struct tile *t)
{
	const struct batch *batch = j->b->batch;
	const uint32_t per_row = j->layer->n_head_kv * j->n_head_tile;
	const uint32_t *first_row = j->b->kv->tiles + item / per_row;
	const uint32_t row = first_row[0], part = item % per_row;
	const struct span *s;
	uint64_t first, last;

	t->item = item;
	t->row = row;
	t->n_row = first_row[1] - row;
	t->head_kv = part / j->n_head_tile;
	t->head = t->head_kv * j->rep + part % j->n_head_tile * j->heads_tile;
	t->n_head = (t->head_kv + 1) * j->rep - t->head;
	if (t->n_head > j->heads_tile)
		t->n_head = j->heads_tile;
	t->seq = &batch->seqs[batch->rows[row].seq];
	t->place = &j->b->kv->places[(size_t)batch->rows[row].seq * j->b->kv->shape.n_layer + j->a->layer];
	t->slot = j->b->kv->memory + t->seq->slot * j->b->kv->slot_bytes;
	s = &t->place->span;
	first = batch->rows[row].pos;
	last = batch->rows[row + t->n_row - 1].pos;
	t->n_head_split = (span_sinks(*s, last) + SPLIT_KEYS - 1) / SPLIT_KEYS;
	t->n_ring_split = 0;
	t->ring_first = 0;
	if (last >= s->n_sink) {
		/* row_lo does not fall from row to row, but a row in the head has no window */
		uint64_t lo = row_lo(t, first < s->n_sink ? s->n_sink : first);

		t->ring_first = (lo - s->n_sink) / SPLIT_KEYS;
		t->n_ring_split = (uint32_t)((last - s->n_sink) / SPLIT_KEYS - t->ring_first) + 1;
	}
}

/* The keys that the token at pos sees in the split, as lo..hi-1 of its keys. */
static void seen(const struct tile *t, bool head, uint64_t split, uint64_t pos, uint32_t *lo, uint32_t *hi)
{
	const struct span s = t->place->span;
	uint64_t from = head ? 0 : row_lo(t, pos), to = head ? span_sinks(s, pos) : pos + 1;
	uint64_t base = split * SPLIT_KEYS + (head ? 0 : s.n_sink);

	*lo = *hi = 0;
	if (from >= to || to <= base || from >= base + SPLIT_KEYS)
		return;
	*lo = from > base ? (uint32_t)(from - base) : 0;
	*hi = to < base + SPLIT_KEYS ? (uint32_t)(to - base) : SPLIT_KEYS;
}

/* Places of n blocks of a split; own_ring: its blocks are counted from 0. */
static void places_of(const struct tile *t, bool head, bool own_ring, uint64_t split, uint32_t n, uint32_t *places)
{
	const struct span s = t->place->span;
	const uint32_t n_head = s.n_head / WINDOW_BLOCK, n_ring = s.n_ring / WINDOW_BLOCK;
	const uint32_t first = own_ring ? 0 : n_head;
	uint64_t at = split * SPLIT_BLOCKS;

	if (!head)
		at %= n_ring;
	for (uint32_t i = 0; i < n; i++, at++) {
		if (!head && at == n_ring)
			at = 0;
		places[i] = !head ? first + (uint32_t)at : at < n_head ? (uint32_t)at : 0;
	}
}

/* Keys of the split that is probably next. */
static const void *after(const struct split *s, const struct tile *t, bool head, bool own_ring, uint64_t split)
{
	const size_t block = (size_t)16 * (s->type == KV_Q8 ? ROUND32(s->head_dim)
	                                   : s->head_dim * (s->type == KV_F32 ? 4 : 2));
	uint32_t place;

	places_of(t, head, own_ring, split + 1, 1, &place);
	return (const uint8_t *)s->k + place * block;
}

/* The tile's queries as one part sees them, once for all splits that a worker computes
 * in turn; false: they lie there from the split before. */
static bool queries(const struct job *j, const struct tile *t, bool head, struct scratch *room)
{
	const uint32_t dim = j->layer->head_dim;
	const uint64_t these = j->call | (t->item * 2 + head);

	if (room->queries == these)
		return false;
	room->queries = these;
	for (uint32_t r = 0, i = 0; r < t->n_row; r++)
		for (uint32_t h = 0; h < t->n_head; h++, i++)
			cpu_rotate(j->b, j->table, t->row + r, head ? ROPE_SINK : ROPE_WINDOW,
			           dim, j->a->scale, j->q->x + (t->row + r) * j->q->stride + (t->head + h) * dim,
			           room->q + i * ROUND16(dim));
	return true;
}

/* Split number n of a tile: the head's come first. */
static void run_split(const struct job *j, const struct tile *t, uint32_t n, struct scratch *room,
                      struct partial *out)
{
	const bool head = n < t->n_head_split;
	const uint64_t split = head ? n : t->ring_first + (n - t->n_head_split);
	const struct kv *kv = j->b->kv;
	const uint32_t dim = j->layer->head_dim;
	const bool q8 = kv->shape.type == KV_Q8;
	struct split s = {
		.type = q8 && head ? KV_F16 : kv->shape.type, .head_dim = dim, .dim_pad = ROUND16(dim),
		.n_query = t->n_row * t->n_head, .q = room->q, .score = room->score, .out = out,
		.alibi = j->a->alibi != NULL, .softcap = j->a->softcap, .planes = room->planes, .n_plane = j->b->n_plane,
		.fresh = queries(j, t, head, room),
	};
	uint64_t base = split * SPLIT_KEYS + (head ? 0 : t->place->span.n_sink);

	cpu_kv_split(kv, t->place, t->slot, t->head_kv, dim, &s);
	places_of(t, head, q8, split, SPLIT_BLOCKS, s.places);
	s.after = after(&s, t, head, q8, split);
	for (uint32_t r = 0, i = 0; r < t->n_row; r++) {
		uint64_t pos = j->b->batch->rows[t->row + r].pos;
		uint64_t at = head ? window_query(t->seq->window, pos) : pos;
		uint32_t lo, hi;

		seen(t, head, split, pos, &lo, &hi);
		for (uint32_t h = 0; h < t->n_head; h++, i++) {
			s.lo[i] = lo;
			s.hi[i] = hi;
			s.slope[i] = s.alibi ? j->a->alibi[t->head + h] : 0;
			s.distance[i] = (float)(int64_t)(at - base);
		}
	}
	j->b->isa->attend(&s);
}

static void partials_init(struct partial *p, float *o, uint32_t dim_pad)
{
	for (uint32_t i = 0; i < ATTEND_TILE; i++)
		p[i] = (struct partial){ .o = o + i * dim_pad };
}

/* The head's learned logit joins the softmax last: e^(it - most) and no value. */
static void add_sink(const struct job *j, struct partial *p, uint32_t head, float *zeros)
{
	const struct partial sink = { j->a->sink->vector[head], 1, true, zeros };

	j->b->isa->merge(p, &sink, ROUND16(j->layer->head_dim));
}

/* zeros: [dim_pad] of room */
static void finish(const struct job *j, const struct tile *t, struct partial *p, float *zeros)
{
	const uint32_t dim = j->layer->head_dim;

	if (j->a->sink) {
		memset(zeros, 0, ROUND16(dim) * sizeof *zeros);
		for (uint32_t r = 0, i = 0; r < t->n_row; r++)
			for (uint32_t h = 0; h < t->n_head; h++, i++)
				add_sink(j, &p[i], t->head + h, zeros);
	}

	for (uint32_t r = 0, i = 0; r < t->n_row; r++) {
		for (uint32_t h = 0; h < t->n_head; h++, i++)
			j->b->isa->finish(&p[i], j->out->x + (t->row + r) * j->out->stride + (t->head + h) * dim, dim);
		if (j->ints)
			cpu_ints_make(j->b, j->out, t->row + r, t->head * dim / 32, t->n_head * dim / 32);
	}
}

/* One worker computes all splits of a tile. */
static void whole_tile(void *ctx, uint32_t item, unsigned worker)
{
	const struct job *j = ctx;
	struct scratch *room = &j->b->scratch[worker];
	const uint32_t dim_pad = ROUND16(j->layer->head_dim);
	struct partial sum[ATTEND_TILE], p[ATTEND_TILE];
	struct tile t;

	tile_find(j, item, &t);
	partials_init(sum, room->o, dim_pad);
	partials_init(p, room->o + ATTEND_TILE * dim_pad, dim_pad);
	for (uint32_t n = 0; n < t.n_head_split + t.n_ring_split; n++) {
		run_split(j, &t, n, room, p);
		for (uint32_t i = 0; i < t.n_row * t.n_head; i++)
			j->b->isa->merge(&sum[i], &p[i], dim_pad);
	}
	finish(j, &t, sum, room->o + ATTEND_TILE * dim_pad);
}

/* ---- a tile's splits on several workers ---- */

/* A split's results: [ATTEND_TILE] of most, sum, any and o. */
static size_t stored_floats(uint32_t dim_pad)
{
	return ATTEND_TILE * ((size_t)dim_pad + 16);
}

static float *stored_at(const struct job *j, uint32_t item, uint32_t n)
{
	return j->b->kv->partials + ((size_t)item * j->n_split + n) * stored_floats(ROUND16(j->layer->head_dim));
}

static void merge_tile(const struct job *j, const struct tile *t, struct scratch *room)
{
	const uint32_t dim_pad = ROUND16(j->layer->head_dim);
	struct partial sum[ATTEND_TILE], p;

	partials_init(sum, room->o, dim_pad);
	for (uint32_t n = 0; n < t->n_head_split + t->n_ring_split; n++) {
		float *store = stored_at(j, t->item, n);

		for (uint32_t i = 0; i < t->n_row * t->n_head; i++) {
			p = (struct partial){ store[i * 16], store[i * 16 + 1], store[i * 16 + 2] != 0,
			                      store + ATTEND_TILE * 16 + (size_t)i * dim_pad };
			j->b->isa->merge(&sum[i], &p, dim_pad);
		}
	}
	finish(j, t, sum, room->o + ATTEND_TILE * dim_pad);
}

static void one_split(const struct job *j, const struct tile *t, uint32_t n, struct scratch *room)
{
	const uint32_t dim_pad = ROUND16(j->layer->head_dim);
	float *store = stored_at(j, t->item, n);
	struct partial p[ATTEND_TILE];

	partials_init(p, store + ATTEND_TILE * 16, dim_pad);
	run_split(j, t, n, room, p);
	for (uint32_t q = 0; q < t->n_row * t->n_head; q++) {
		store[q * 16] = p[q].most;
		store[q * 16 + 1] = p[q].sum;
		store[q * 16 + 2] = p[q].any;
	}
}

/* Some splits of a tile; who computes the last ones merges all. */
static void part_of_tile(void *ctx, uint32_t i, unsigned worker)
{
	struct job *j = ctx;
	struct scratch *room = &j->b->scratch[worker];
	const uint32_t item = i / j->n_part, first = i % j->n_part * j->part;
	struct tile t;

	tile_find(j, item, &t);
	for (uint32_t n = first; n < first + j->part && n < t.n_head_split + t.n_ring_split; n++)
		one_split(j, &t, n, room);
	if (atomic_fetch_sub(&j->left[item], 1) == 1)
		merge_tile(j, &t, room);
}

static uint32_t most_splits(struct span s)
{
	return (s.n_head + SPLIT_KEYS - 1) / SPLIT_KEYS + s.n_ring / SPLIT_KEYS + 2;
}

static uint32_t split_items(const struct backend *b)
{
	uint32_t n = 4 * pool_threads(b->pool);

	return n < SPLIT_ITEMS_MOST ? n : SPLIT_ITEMS_MOST;
}

/* A smaller window may have a longer head, but never more splits than one that
 * fills the slot, but for rounding. */
size_t cpu_attend_room(const struct backend *b, const struct kv *kv)
{
	uint32_t most = 0, dim = 0;

	for (uint32_t l = 0; l < kv->shape.n_layer; l++) {
		struct span s = window_span(kv->shape.most, kv->layers[l].local, kv->shape.n_chunk);
		uint32_t n = most_splits(s) + 1;

		most = n > most ? n : most;
		dim = kv->layers[l].head_dim > dim ? kv->layers[l].head_dim : dim;
	}
	return (size_t)split_items(b) * most * stored_floats(ROUND16(dim));
}

/* Cuts the batch into tiles of at most n rows of one session; returns how many. */
static uint32_t cut_rows(const struct batch *batch, uint32_t most, uint32_t *first)
{
	uint32_t n = 0;

	for (uint32_t row = 0; row < batch->n_row; row++)
		if (row == 0 || row - first[n - 1] == most || batch->rows[row].seq != batch->rows[row - 1].seq)
			first[n++] = row;
	first[n] = batch->n_row;
	return n;
}

/* Over workers, where there are few tiles of many splits; false: there are not. */
static bool split_tiles(struct job *j, uint32_t items)
{
	struct tile t;

	if (items >= split_items(j->b) || pool_threads(j->b->pool) == 1)
		return false;
	for (uint32_t i = 0; i < items; i++) {
		tile_find(j, i, &t);
		if (t.n_head_split + t.n_ring_split > j->n_split)
			j->n_split = t.n_head_split + t.n_ring_split;
	}
	if (j->n_split < 2 || (size_t)items * j->n_split * stored_floats(ROUND16(j->layer->head_dim)) > j->b->kv->n_partial_floats)
		return false;
	j->n_part = PARTS * pool_threads(j->b->pool) / items + 1;
	j->part = (j->n_split + j->n_part - 1) / j->n_part;
	j->n_part = (j->n_split + j->part - 1) / j->part;
	for (uint32_t i = 0; i < items; i++)
		atomic_store(&j->left[i], j->n_part);
	pool_run(j->b->pool, part_of_tile, j, items * j->n_part);
	return true;
}

void cpu_attend(struct backend *b, const struct attend *a, const struct act *q, struct act *out)
{
	struct job j = { .b = b, .a = a, .q = q, .out = out };
	uint32_t items, rows_tile = 8;

	cpu_products(b);
	assert(b->batch && b->kv && !b->selected && a->layer < b->kv->shape.n_layer && q != out);
	j.layer = &b->kv->layers[a->layer];
	assert(a->n_head > 0 && a->n_head % j.layer->n_head_kv == 0);
	assert(q->width == a->n_head * j.layer->head_dim && out->width == q->width);
	assert(!a->sink || (a->sink->vector && a->sink->n_in == a->n_head));
	assert(!a->rope || a->rope->order == ROPE_NONE || a->rope->n_rot <= j.layer->head_dim);
	if (b->rc)
		return;
	cpu_act_written(out);
	j.table = cpu_rope(b, a->rope);
	j.call = (uint64_t)++b->n_attend << 32;
	j.rep = a->n_head / j.layer->n_head_kv;
	j.n_head_tile = (j.rep + ATTEND_TILE - 1) / ATTEND_TILE;
	j.heads_tile = (j.rep + j.n_head_tile - 1) / j.n_head_tile;
	j.n_head_tile = (j.rep + j.heads_tile - 1) / j.heads_tile;
	while (rows_tile > 1 && rows_tile * j.heads_tile > ATTEND_TILE)
		rows_tile /= 2;
	j.ints = cpu_ints_wanted(out) && j.layer->head_dim % 32 == 0;
	items = cut_rows(b->batch, rows_tile, b->kv->tiles) * j.layer->n_head_kv * j.n_head_tile;
	if (!split_tiles(&j, items))
		pool_run(b->pool, whole_tile, &j, items);
	if (j.ints)
		cpu_ints_made(b, out);
}
