/*
 * The bytes of a slot, and storing keys and values in it.
 *
 * A session's layers lie one after another, each compact for the session's own
 * window: keys [head][block of 16 places][dim][16], so that lanes of a score are
 * keys, then values [head][place][dims padded to 16].  Which place a position has
 * is window.h's.  The bytes of a place are written whole or not at all by store.
 * In a cache of eight bits that is so for the sinks; the ring's bytes come after
 * them, as struct split (isa.h) has them.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

#define COPY_BYTES ((size_t)1 << 20)     /* of a slot, by one thread at a time */

static size_t type_bytes(enum kv_type t)         /* Q8: of the sinks */
{
	return t == KV_F32 ? 4 : 2;
}

static size_t align64(size_t n)
{
	return (n + CPU_ALIGN - 1) / CPU_ALIGN * CPU_ALIGN;
}

/* The layer at bytes; returns where the next one starts. */
static size_t place_layer(const struct kv_shape *s, const struct kv_layer *l, struct window w,
                          size_t at, struct layer_place *p)
{
	size_t places, ring, size = type_bytes(s->type);

	p->span = window_span(w, l->local, s->n_chunk);
	places = s->type == KV_Q8 ? p->span.n_head : span_places(p->span);
	p->k = at;
	p->v = align64(at + l->n_head_kv * places * l->head_dim * size);
	at = align64(p->v + l->n_head_kv * places * ROUND16(l->head_dim) * size);
	if (s->type != KV_Q8)
		return at;
	ring = (size_t)l->n_head_kv * p->span.n_ring;
	p->k8 = at;
	p->v8 = align64(p->k8 + ring * ROUND32(l->head_dim));
	p->k8_scale = align64(p->v8 + ring * ROUND16(l->head_dim));
	p->v8_scale = align64(p->k8_scale + ring * (ROUND32(l->head_dim) / 32) * sizeof(uint16_t));
	return align64(p->v8_scale + ring * sizeof(uint16_t));
}

void cpu_kv_split(const struct kv *kv, const struct layer_place *p, const uint8_t *slot, uint32_t head,
                  uint32_t dim, struct split *s)
{
	const size_t size = type_bytes(kv->shape.type);
	size_t places = kv->shape.type == KV_Q8 ? p->span.n_head : span_places(p->span);

	if (s->type != KV_Q8) {
		s->k = slot + p->k + head * places * dim * size;
		s->v = slot + p->v + head * places * ROUND16(dim) * size;
		return;
	}
	places = (size_t)head * p->span.n_ring;
	s->k = slot + p->k8 + places * ROUND32(dim);
	s->v = slot + p->v8 + places * ROUND16(dim);
	s->k_scale = (const uint16_t *)(const void *)(slot + p->k8_scale) + places * (ROUND32(dim) / 32);
	s->v_scale = (const uint16_t *)(const void *)(slot + p->v8_scale) + places;
}

/* So that a slot can be given back to the system. */
static size_t whole_pages(size_t n)
{
	return (n + 4095) / 4096 * 4096;
}

size_t cpu_kv_bytes(const struct kv_shape *shape, struct window w)
{
	struct layer_place p;
	size_t at = 0;

	for (uint32_t l = 0; l < shape->n_layer; l++)
		at = place_layer(shape, &shape->layers[l], w, at, &p);
	return whole_pages(at);
}

/* A sink and another token need not take the same: a layer takes most where all are the one or the other. */
size_t cpu_slot_bytes(const struct kv_shape *shape)
{
	const struct window w = shape->most, sinks = { w.n_recent, w.n_sink };
	struct layer_place p;
	size_t at = 0;

	for (uint32_t l = 0; l < shape->n_layer; l++) {
		const size_t recent = place_layer(shape, &shape->layers[l], w, at, &p);
		const size_t other = place_layer(shape, &shape->layers[l], sinks, at, &p);

		at = recent > other ? recent : other;
	}
	return whole_pages(at);
}

const char *cpu_kv_layout(const struct backend *b, enum kv_type type)
{
	/* What was computed from activations of other bits, or in another order, is other numbers; kv3: since activations
	 * of fifteen bits have a power of two for a scale. */
	static const char *const names[][2] = {
		[KV_F16] = { "cpu-kv3-f16-b16", "cpu-kv3-f16-b16-a8" }, [KV_F32] = { "cpu-kv3-f32-b16", "cpu-kv3-f32-b16-a8" },
		[KV_Q8] = { "cpu-kv3-q8-b16", "cpu-kv3-q8-b16-a8" },
	};

	return names[type][b->n_plane == 1];
}

static uint32_t most_dim(const struct kv_shape *s)
{
	uint32_t dim = 0;

	for (uint32_t l = 0; l < s->n_layer; l++)
		dim = s->layers[l].head_dim > dim ? s->layers[l].head_dim : dim;
	return dim;
}

/* Room for what operations need between begin and end. */
static int open_rooms(struct backend *b, struct kv *kv)
{
	uint32_t dim = most_dim(&kv->shape);
	int rc = cpu_scratch_heads(b, ROUND16(dim));

	if (rc < 0)
		return rc;
	kv->rope_room_floats = (size_t)b->n_row_max * 2 * 2 * ROUND16(dim);
	kv->rope_room = cpu_alloc(kv->rope_room_floats * ROPE_TABLES * sizeof(float));
	kv->places = cpu_alloc((size_t)b->n_row_max * kv->shape.n_layer * sizeof(*kv->places));
	kv->tiles = cpu_alloc(((size_t)b->n_row_max + 1) * sizeof(*kv->tiles));
	kv->n_partial_floats = cpu_attend_room(b, kv);
	kv->partials = cpu_alloc(kv->n_partial_floats * sizeof(float));
	return kv->rope_room && kv->places && kv->tiles && kv->partials ? 0 : -ENOMEM;
}

int cpu_kv_open(struct backend *b, const struct kv_shape *shape, void *memory,
                struct kv **out, struct backend_why *why)
{
	struct kv *kv;
	int rc = 0;

	assert(!b->batch);
	if (!check_shape(shape, shape->type == KV_Q8 ? Q8_DIM_MOST : 4096, 32))
		return cpu_why(why, -ENOTSUP, "caches of this shape are not supported");
	kv = calloc(1, sizeof(*kv));
	if (!kv)
		return cpu_why(why, -ENOMEM, "out of memory");
	kv->pool = b->pool;
	kv->shape = *shape;
	kv->layers = malloc(shape->n_layer * sizeof(*kv->layers));
	if (!kv->layers) {
		rc = -ENOMEM;
		goto out;
	}
	memcpy(kv->layers, shape->layers, shape->n_layer * sizeof(*kv->layers));
	kv->shape.layers = kv->layers;
	kv->slot_bytes = cpu_slot_bytes(&kv->shape);
	kv->own = memory == NULL;
	kv->memory = memory ? memory : cpu_alloc(kv->slot_bytes * shape->n_slot);
	rc = kv->memory ? open_rooms(b, kv) : -ENOMEM;
	if (rc < 0)
		goto out;
	*out = kv;
	kv = NULL;
out:
	if (rc < 0)
		cpu_why(why, rc, "out of memory for %u caches of %zu bytes", shape->n_slot, kv->slot_bytes);
	cpu_kv_close(b, kv);
	return rc;
}

void cpu_kv_close(struct backend *b, struct kv *kv)
{
	if (!kv)
		return;
	assert(!b->batch || b->kv != kv);
	if (kv->own)
		cpu_free(kv->memory);
	cpu_free(kv->rope_room);
	cpu_free(kv->places);
	cpu_free(kv->tiles);
	cpu_free(kv->partials);
	free(kv->layers);
	free(kv);
}

/* A slot is tens of megabytes, and sessions wait for its copy: all threads make it. */
struct copy {
	uint8_t *dst;
	const uint8_t *src;
	size_t n;
};

static void copy_part(void *ctx, uint32_t part, unsigned worker)
{
	const struct copy *c = ctx;
	const size_t at = (size_t)part * COPY_BYTES, left = c->n - at;

	(void)worker;
	memcpy(c->dst + at, c->src + at, left < COPY_BYTES ? left : COPY_BYTES);
}

int cpu_kv_read(struct kv *kv, uint32_t slot, void *dst, size_t n)
{
	struct copy c = { .dst = dst, .n = n };

	if (slot >= kv->shape.n_slot || n > kv->slot_bytes)
		return -EINVAL;
	c.src = kv->memory + slot * kv->slot_bytes;
	pool_run_apart(kv->pool, copy_part, &c, (uint32_t)((n + COPY_BYTES - 1) / COPY_BYTES));
	return 0;
}

int cpu_kv_write(struct kv *kv, uint32_t slot, const void *src, size_t n)
{
	if (slot >= kv->shape.n_slot || n > kv->slot_bytes)
		return -EINVAL;
	memcpy(kv->memory + slot * kv->slot_bytes, src, n);
	return 0;
}

void cpu_kv_begin(struct backend *b)
{
	struct kv *kv = b->kv;
	const struct batch *batch = b->batch;

	for (uint32_t i = 0; i < batch->n_seq; i++) {
		struct layer_place *p = kv->places + (size_t)i * kv->shape.n_layer;
		size_t at = 0;

		assert(batch->seqs[i].slot < kv->shape.n_slot);
		for (uint32_t l = 0; l < kv->shape.n_layer; l++)
			at = place_layer(&kv->shape, &kv->layers[l], batch->seqs[i].window, at, p + l);
		assert(at <= kv->slot_bytes);
	}
}

/* ---- store ---- */

struct store {
	struct backend *b;
	const struct rope_table *table;
	const struct act *k, *v;
	uint32_t layer;
};

/* n values, step apart; x is read no farther. */
static void put(const struct backend *b, uint8_t *to, size_t at, size_t step, const float *x, uint32_t n)
{
	const uint32_t whole = step == 1 ? n / 16 * 16 : 0;
	uint16_t half[64];
	float tail[16] = { 0 };

	if (b->kv->shape.type == KV_F32) {
		for (uint32_t i = 0; i < n; i++)
			((float *)(void *)to)[at + i * step] = x[i];
		return;
	}
	b->isa->to_f16(x, (uint16_t *)(void *)to + at, whole);
	for (uint32_t i = whole, m; i < n; i += m) {
		m = n - i >= 64 ? 64 : n - i >= 16 ? (n - i) / 16 * 16 : n - i;
		if (m < 16)
			memcpy(tail, x + i, m * sizeof *tail);
		b->isa->to_f16(m < 16 ? tail : x + i, half, ROUND16(m));
		for (uint32_t j = 0; j < m; j++)
			((uint16_t *)(void *)to)[at + (i + j) * step] = half[j];
	}
}

/* A key and its value at place of the ring. */
static void put_q8(const struct backend *b, const struct split *s, size_t place, const float *k, const float *v, uint32_t dim)
{
	const uint32_t dim_k = ROUND32(dim), dim_v = ROUND16(dim), lane = place % 16;
	uint8_t *to = (uint8_t *)(uintptr_t)s->k + place / 16 * dim_k * 16, q[Q8_DIM_MOST];
	uint16_t *scale = (uint16_t *)(uintptr_t)s->k_scale + place / 16 * (dim_k / 2), d[Q8_DIM_MOST / 32];
	float x[Q8_DIM_MOST] = { 0 };

	memcpy(x, k, dim * sizeof *x);
	b->isa->to_q8(x, dim_k, 32, q, d);
	for (uint32_t i = 0; i < dim_k; i += 4)
		memcpy(to + i * 16 + lane * 4, q + i, 4);
	for (uint32_t i = 0; i < dim_k / 32; i++)
		scale[i * 16 + lane] = d[i];
	memcpy(x, v, dim * sizeof *x);
	b->isa->to_q8(x, dim_v, dim_v, q, d);
	to = (uint8_t *)(uintptr_t)s->v + place / 16 * dim_v * 16;
	for (uint32_t i = 0; i < dim_v; i++)
		to[(i / 16 * 4 + lane / 4) * 64 + i % 16 * 4 + lane % 4] = q[i];
	((uint16_t *)(uintptr_t)s->v_scale)[place] = d[0];
}

static void store_row(void *ctx, uint32_t row, unsigned worker)
{
	const struct store *s = ctx;
	struct backend *b = s->b;
	const struct batch_row *r = &b->batch->rows[row];
	const struct kv_layer *l = &b->kv->layers[s->layer];
	const struct layer_place *p = &b->kv->places[(size_t)r->seq * b->kv->shape.n_layer + s->layer];
	const bool q8 = b->kv->shape.type == KV_Q8, ring = r->pos >= p->span.n_sink;
	const size_t places = q8 ? p->span.n_head : span_places(p->span), place = span_place(p->span, r->pos);
	const uint32_t dim = l->head_dim, dim_pad = ROUND16(dim);
	struct split s8 = { .type = KV_Q8 };
	uint8_t *slot = b->kv->memory + b->batch->seqs[r->seq].slot * b->kv->slot_bytes;
	float *k = b->scratch[worker].q;

	for (uint32_t h = 0; h < l->n_head_kv; h++) {
		cpu_rotate(b, s->table, row, ROPE_WINDOW, dim, 1.0f, s->k->x + row * s->k->stride + h * dim, k);
		if (q8 && ring) {
			cpu_kv_split(b->kv, p, slot, h, dim, &s8);
			put_q8(b, &s8, place - p->span.n_head, k, s->v->x + row * s->v->stride + h * dim, dim);
			continue;
		}
		put(b, slot + p->k, (h * places + place / 16 * 16) * dim + place % 16, 16, k, dim);
		put(b, slot + p->v, (h * places + place) * dim_pad, 1,
		    s->v->x + row * s->v->stride + h * dim, dim);
	}
}

void cpu_store(struct backend *b, uint32_t layer, const struct rope *r,
               const struct act *k, const struct act *v)
{
	struct store s = { b, NULL, k, v, layer };
	const struct kv_layer *l;

	cpu_products(b);
	assert(b->batch && b->kv && !b->selected && layer < b->kv->shape.n_layer);
	l = &b->kv->layers[layer];
	assert(k->width == l->n_head_kv * l->head_dim && v->width == k->width);
	assert(!r || r->order == ROPE_NONE || r->n_rot <= l->head_dim);
	if (b->rc)
		return;
	s.table = cpu_rope(b, r);
	pool_run_near(b->pool, store_row, &s, b->n_row, ROWS_NEAR);
}
