/* The slots of a cache: many sessions at once, shapes that are refused, what eight bits save. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/desk.h"
#include "tests/kernels/slots.h"

#define CHUNK 64u

enum { MANY = 64, MANY_TOKENS = 90, MANY_ROWS = 9 };

struct crowd {
	uint32_t n_head, n_head_kv, head_dim;
	enum kv_type type;
	struct backend *b;
	struct kv *kv;
	struct weight *wq, *wk, *wv;
	struct act *q, *k, *v, *o;
	struct rope rope;
};

static void crowd_open(struct crowd *c, const struct matrix *q, const struct matrix *k, const struct matrix *v,
                       struct place place, const uint64_t *freq)
{
	const struct kv_layer layer = { c->n_head_kv, c->head_dim, 0 };
	const struct kv_shape shape = { .type = c->type, .n_layer = 1, .layers = &layer, .n_chunk = CHUNK,
	                                .most = { 16, 160 }, .n_slot = MANY };
	struct backend_why why = { "" };

	c->b = place_open(place, MANY + MANY_ROWS);
	assert_int_equal(desk_ops->kv_open(c->b, &shape, NULL, &c->kv, &why), 0);
	c->wq = matrix_load(c->b, q);
	c->wk = matrix_load(c->b, k);
	c->wv = matrix_load(c->b, v);
	assert_int_equal(desk_ops->act_new(c->b, q->n_in, &c->q), 0);
	assert_int_equal(desk_ops->act_new(c->b, k->n_in, &c->k), 0);
	assert_int_equal(desk_ops->act_new(c->b, k->n_in, &c->v), 0);
	assert_int_equal(desk_ops->act_new(c->b, q->n_in, &c->o), 0);
	c->rope = (struct rope){ ROPE_NEOX, c->head_dim, freq, 1.0f };
}

static void crowd_close(struct crowd *c)
{
	struct act *const acts[] = { c->q, c->k, c->v, c->o };

	for (int i = 0; i < 4; i++)
		desk_ops->act_free(c->b, acts[i]);
	desk_ops->weight_free(c->b, c->wq);
	desk_ops->weight_free(c->b, c->wk);
	desk_ops->weight_free(c->b, c->wv);
	desk_ops->kv_close(c->b, c->kv);
	desk_ops->close(c->b);
}

/* Windows of many sizes, and sessions of many lengths. */
static struct window window_of(uint32_t i)
{
	return (struct window){ i % 7, 1 + 19 * (i % 9) };
}

static uint64_t length_of(uint32_t i)
{
	return 1 + 7 * i % 80;
}

/* Sessions first..first+n-1, each with rows from its position on; the last one n_last. */
static void crowd_step(struct crowd *c, uint32_t first, uint32_t n, uint64_t from, uint32_t n_last, float *out)
{
	struct batch_row rows[MANY + MANY_ROWS];
	struct batch_seq seqs[MANY];
	struct batch batch = { .n_seq = n, .rows = rows, .seqs = seqs };
	const struct attend a = { .n_head = c->n_head, .scale = 0.2f, .rope = &c->rope };
	struct backend_why why;

	for (uint32_t i = 0; i < n; i++) {
		const uint64_t pos = from == UINT64_MAX ? length_of(first + i) : from;

		seqs[i] = (struct batch_seq){ first + i, window_of(first + i), 0 };
		for (uint32_t k = 0; k < (i + 1 == n ? n_last : 1); k++)
			rows[batch.n_row++] = (struct batch_row){ (int32_t)((first + i + pos + k) % MANY_TOKENS), i, pos + k };
	}
	desk_ops->begin(c->b, c->kv, &batch);
	desk_ops->embed(c->b, c->wq, 1, c->q);
	desk_ops->embed(c->b, c->wk, 1, c->k);
	desk_ops->embed(c->b, c->wv, 1, c->v);
	desk_ops->store(c->b, 0, &c->rope, c->k, c->v);
	desk_ops->attend(c->b, &a, c->q, c->o);
	desk_ops->read(c->b, c->o, out);
	assert_int_equal(desk_ops->end(c->b, &why), 0);
}

static void crowd_play(struct crowd *c, const struct matrix *q, const struct matrix *k, const struct matrix *v)
{
	const size_t width = q->n_in, size = (MANY + MANY_ROWS) * width;
	float *alone = malloc(size * sizeof(float)), *among = malloc(size * sizeof(float));
	struct place place;
	uint64_t freq[64];

	for (uint32_t i = 0; i < c->head_dim / 2; i++)
		freq[i] = (uint64_t)llround(ldexp(pow(10000, -2.0 * i / c->head_dim) / (2 * M_PI), 62)) * 4;
	for (size_t p = 0; place_at(p, &place); p += 2) {
		crowd_open(c, q, k, v, place, freq);
		for (uint32_t i = 0; i < MANY; i++)
			for (uint64_t at = 0, n; at < length_of(i); at += n) {
				n = length_of(i) - at < CHUNK ? length_of(i) - at : CHUNK;
				crowd_step(c, i, 1, at, (uint32_t)n, among);
			}
		for (uint32_t n_last = 1; n_last <= MANY_ROWS; n_last += MANY_ROWS - 1) {
			for (uint32_t i = 0; i < MANY; i++)
				crowd_step(c, i, 1, UINT64_MAX, i + 1 == MANY ? n_last : 1, alone + i * width);
			crowd_step(c, 0, MANY, UINT64_MAX, n_last, among);
			for (uint32_t i = 0; i < MANY - 1 + n_last; i++)
				if (memcmp(alone + i * width, among + i * width, width * sizeof(float)))
					fail_msg("%s, %u heads: session %u differs among %u with %u rows", place.isa,
					         c->n_head, i, MANY, n_last);
		}
		crowd_close(c);
	}
	free(alone);
	free(among);
}

/* A row's bits do not depend on how many rows of others are in the batch, nor on
 * whether one of these brings a chunk. */
void slots_among_many(void **state)
{
	static const struct crowd crowds[] = {
		{ .n_head = 6, .n_head_kv = 2, .head_dim = 64, .type = KV_F16 },
		{ .n_head = 20, .n_head_kv = 1, .head_dim = 16, .type = KV_F32 },    /* more heads than splits have room for */
	};
	struct rng r = { 21 };

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		struct crowd c = crowds[i];
		struct matrix *q = matrix_random(&r, QUANT_F32, c.n_head * c.head_dim, MANY_TOKENS, 1);
		struct matrix *k = matrix_random(&r, QUANT_F32, c.n_head_kv * c.head_dim, MANY_TOKENS, 1);
		struct matrix *v = matrix_random(&r, QUANT_F32, c.n_head_kv * c.head_dim, MANY_TOKENS, 1);

		crowd_play(&c, q, k, v);
		matrix_free(q);
		matrix_free(k);
		matrix_free(v);
	}
}

void slots_bad_shapes(void **state)
{
	struct backend *b = place_open((struct place){ NULL, 1, 0 }, 16);
	struct kv_layer layer = { 2, 64, 0 };
	struct kv_shape shape = { KV_F16, 1, &layer, 16, { 4, 60 }, 1 };
	struct backend_why why = { "" };
	struct kv *kv = NULL;

	(void)state;
	shape.n_chunk = 0;
	assert_true(desk_ops->kv_open(b, &shape, NULL, &kv, &why) < 0);
	shape.n_chunk = 16;
	shape.most.n_recent = UINT32_MAX;
	assert_true(desk_ops->kv_open(b, &shape, NULL, &kv, &why) < 0);
	shape.most.n_recent = 1u << 26;
	shape.n_slot = UINT32_MAX;
	layer = (struct kv_layer){ 4096, 4096, 0 };
	assert_true(desk_ops->kv_open(b, &shape, NULL, &kv, &why) < 0);
	shape = (struct kv_shape){ KV_Q8, 1, &layer, 16, { 4, 60 }, 1 };
	layer.head_dim = desk_kv_most < KV_Q8 ? 64 : 257;
	assert_int_equal(desk_ops->kv_open(b, &shape, NULL, &kv, &why), -ENOTSUP);
	layer.head_dim = 0;
	assert_true(desk_ops->kv_open(b, &shape, NULL, &kv, &why) < 0);
	assert_null(kv);
	assert_string_not_equal(why.text, "");
	desk_ops->kv_close(b, NULL);
	desk_ops->close(b);
}

/* Whatever of a window are sinks, a slot has room for it; layers without sinks are there, too. */
void slots_hold_all_windows(void **state)
{
	const uint32_t dims[] = { 16, 64, 80, 256 }, most = 300;

	(void)state;
	for (size_t i = 0; i < 3 * sizeof dims / sizeof *dims; i++) {
		const enum kv_type type = i % 3 == 0 ? KV_F16 : i % 3 == 1 ? KV_F32 : KV_Q8;
		const struct kv_layer layers[] = { { 3, dims[i / 3], 0 }, { 1, dims[i / 3], 40 }, { 2, 64, 0 } };
		const struct kv_shape shape = { type, 3, layers, 48, { WINDOW_BLOCK, most + WINDOW_BLOCK }, 1 };

		for (uint32_t n_sink = 0; type <= desk_kv_most && n_sink < most; n_sink++) {
			const struct window w = { n_sink, most - n_sink };

			assert_true(desk_ops->kv_bytes(&shape, w) <= desk_ops->slot_bytes(&shape));
		}
	}
}

/* A ring of bytes takes half of one of halves, and a scale for 32 and for 64 values. */
void slots_half_the_bytes(void **state)
{
	struct kv_layer layer = { 2, 64, 0 };
	struct kv_shape shape = { KV_F16, 1, &layer, 48, { 16, 2000 }, 1 };
	size_t halves = desk_ops->kv_bytes(&shape, shape.most);

	(void)state;
	shape.type = KV_Q8;
	if (desk_kv_most == KV_Q8)
		assert_in_range(desk_ops->kv_bytes(&shape, shape.most), halves / 2, halves * 54 / 100);
}
