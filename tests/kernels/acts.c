/*
 * What an act is to several products: written or selected between them, read by them at once,
 * and numbers in it that are none.  A part of products.c's program.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/products.h"

/* Rows of tokens first, first + each, ..., clamped, or of those some selected, through w; before: all went through
 * that one, too, as they were. */
struct between {
	const struct matrix *inputs, *before, *w;
	uint32_t n_row, first, each;
	uint32_t n_output, output, step;         /* rows output, output + step, ...; none: they are clamped */
};

static void between_play(const struct between *t, struct place place, float *out)
{
	struct backend *b = place_open(place, t->n_row);
	struct kv *kv = cache_open(b, 1);
	struct weight *w = matrix_load(b, t->w), *table = matrix_load(b, t->inputs);
	struct weight *before = t->before ? matrix_load(b, t->before) : NULL;
	struct batch_seq seq = { .window = { 4, 8 } };
	struct batch_row rows[ROWS];
	uint32_t outputs[ROWS];
	const struct batch batch = { .n_row = t->n_row, .n_seq = 1, .n_output = t->n_output, .rows = rows, .seqs = &seq, .outputs = outputs };
	struct act *x, *y;

	for (uint32_t i = 0; i < t->n_row; i++)
		rows[i] = (struct batch_row){ token_of(t->first + t->each * i), 0, i };
	for (uint32_t i = 0; i < t->n_output; i++)
		outputs[i] = t->output + t->step * i;
	assert_int_equal(desk_ops->act_new(b, t->w->n_in, &x), 0);
	assert_int_equal(desk_ops->act_new(b, t->w->n_out, &y), 0);
	desk_ops->begin(b, kv, &batch);
	desk_ops->embed(b, table, 1, x);
	if (before)
		desk_ops->matmul(b, before, NULL, x, y);
	if (t->n_output)
		desk_ops->select(b, x, x);
	else
		desk_ops->clamp(b, 0.25f, x);
	desk_ops->matmul(b, w, NULL, x, y);
	desk_ops->read(b, y, out);
	assert_int_equal(desk_ops->end(b, NULL), 0);
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->weight_free(b, w);
	desk_ops->weight_free(b, table);
	desk_ops->weight_free(b, before);
	desk_ops->kv_close(b, kv);
	desk_ops->close(b);
}

/* Place and bits of activations number i; false: there are no more. */
static bool place_and_bits(size_t i, struct place *p)
{
	if (!place_at(i / 2, p))
		return false;
	p->n_act_bit = desk_eight && i % 2 ? 8 : 0;
	return true;
}

/* The form of an act that a product left is not the next one's, once it is written; nor has
 * it all that a weight of another format reads. */
void written_between(void **state)
{
	struct rng r = { 8 };
	struct matrix *w[] = { matrix_random(&r, QUANT_Q4_K, 256, 17, 1), matrix_random(&r, QUANT_Q6_K, 256, 17, 1),
	                       matrix_random(&r, QUANT_Q2_K, 256, 17, 1), matrix_random(&r, QUANT_F16, 256, 17, 1) };
	struct matrix *inputs = matrix_random(&r, QUANT_F32, 256, TOKENS, 1);
	float alone[20 * 17] = { 0 }, after[20 * 17] = { 0 };
	struct place p;

	(void)state;
	for (size_t i = 0; place_and_bits(i, &p); i++)
		for (uint32_t n = 3; n <= 20; n += 17)
			for (int k = 0; k < 4; k++) {
				struct between t = { .inputs = inputs, .w = w[k], .n_row = n, .each = 1 };

				between_play(&t, p, alone);
				for (int before = 0; before < 4; before += 3) {
					t.before = w[before];
					between_play(&t, p, after);
					assert_memory_equal(alone, after, sizeof alone);
				}
			}
	for (int k = 0; k < 4; k++)
		matrix_free(w[k]);
	matrix_free(inputs);
}

/* Fewer rows after a product of all: some of those that were in a panel, and at another place in theirs. */
void product_of_selected(void **state)
{
	enum { ALL = 40, N = 17, FIRST = 3, EACH = 2, OUT = 33 };
	struct rng r = { 12 };
	struct matrix *m = matrix_random(&r, QUANT_Q6_K, 256, OUT, 1), *inputs = matrix_random(&r, QUANT_F32, 256, TOKENS, 1);
	const struct between some = { .inputs = inputs, .w = m, .n_row = N, .first = FIRST, .each = EACH, .n_output = N, .step = 1 },
	                     all = { .inputs = inputs, .before = m, .w = m, .n_row = ALL, .each = 1, .n_output = N, .output = FIRST, .step = EACH };
	float alone[N * OUT], after[N * OUT];
	struct place p;

	(void)state;
	for (size_t i = 0; place_and_bits(i, &p); i++) {
		between_play(&some, p, alone);
		between_play(&all, p, after);
		assert_memory_equal(alone, after, sizeof alone);
	}
	matrix_free(m);
	matrix_free(inputs);
}

/* A row with a number that is none says so, and the rows beside it are what they are without it. */
void no_number_in_a_row(void **state)
{
	enum { N = 20, OUT = 17, ODD = 5 };
	static const uint32_t types[] = { QUANT_Q4_1, QUANT_Q8_0, QUANT_Q6_K, QUANT_F16 };
	static const float odd[] = { NAN, INFINITY, -INFINITY };
	struct rng r = { 14 };
	float without[N * OUT], with[N * OUT];
	struct place p;

	(void)state;
	for (size_t at = 0; at < 4 * 3; at++) {
		struct matrix *m = matrix_random(&r, types[at / 3], 256, OUT, 1), *inputs = matrix_random(&r, QUANT_F32, 256, TOKENS, 1);
		struct scene s = { .w = m, .inputs = inputs, .n_row = N };
		float *bad = (float *)(void *)inputs->bytes + (size_t)token_of(ODD) * 256 + 70, good = *bad;

		for (size_t i = 0; place_and_bits(i, &p); i++) {
			*bad = good;
			play(&s, p, N, without);
			*bad = odd[at % 3];
			play(&s, p, N, with);
			assert_memory_equal(with, without, ODD * OUT * sizeof *with);
			assert_memory_equal(with + (ODD + 1) * OUT, without + (ODD + 1) * OUT, (N - ODD - 1) * OUT * sizeof *with);
			for (int k = 0; k < OUT; k++)
				assert_false(isfinite(with[ODD * OUT + k]));
		}
		matrix_free(m);
		matrix_free(inputs);
	}
}

/* Products of one input, which a backend may make at once, and what must not wait: an act
 * that is written twice, one that is the next product's input, rows that others take. */
#define PARTS 8

struct shared {
	struct matrix *w[PARTS], *bias[PARTS], *next, *inputs;
	uint32_t n_row;
	bool exact;
};

static const struct { uint32_t type, n_out, to; } shared_parts[PARTS] = {
	{ QUANT_Q8_0, 64, 0 }, { QUANT_Q8_0, 5, 1 }, { QUANT_Q4_1, 17, 2 },
	{ QUANT_F16, 64, 3 }, { QUANT_F16, 3, 4 }, { QUANT_Q6_K, 33, 5 }, { QUANT_Q3_K, 17, 6 }, { QUANT_Q8_0, 64, 3 },
};

/* apart: something is queued after each of them */
static void shared_play(const struct shared *m, struct place place, bool apart, float *out)
{
	struct backend *b = place_open(place, m->n_row);
	struct weight *w[PARTS], *bias[PARTS], *next = matrix_load(b, m->next), *table = matrix_load(b, m->inputs);
	struct batch_row rows[ROWS];
	const struct batch_seq seq = { .window = { 4, 1000 } };
	const uint32_t last = m->n_row - 1;
	const struct batch batch = { .n_row = m->n_row, .n_seq = 1, .n_output = 1, .rows = rows, .seqs = &seq,
	                             .outputs = &last, .exact = m->exact };
	struct act *x, *y[PARTS], *z;

	for (uint32_t i = 0; i < m->n_row; i++)
		rows[i] = (struct batch_row){ token_of(i), 0, i };
	assert_int_equal(desk_ops->act_new(b, m->inputs->n_in, &x), 0);
	assert_int_equal(desk_ops->act_new(b, m->next->n_out, &z), 0);
	for (int i = 0; i < PARTS; i++) {
		w[i] = matrix_load(b, m->w[i]);
		bias[i] = m->bias[i] ? matrix_load(b, m->bias[i]) : NULL;
		assert_int_equal(desk_ops->act_new(b, m->w[i]->n_out, &y[i]), 0);
	}
	desk_ops->begin(b, NULL, &batch);
	desk_ops->embed(b, table, 0.5f, x);
	desk_ops->embed(b, table, 0.5f, z);
	for (int i = 0; i < PARTS; i++) {
		desk_ops->matmul(b, w[i], bias[i], x, y[shared_parts[i].to]);
		if (apart)
			desk_ops->clamp(b, INFINITY, z);
	}
	desk_ops->matmul(b, next, NULL, y[3], z);
	for (int i = 0; i < PARTS - 1; i++, out += m->n_row * m->w[i - 1]->n_out)
		desk_ops->read(b, y[i], out);
	desk_ops->read(b, z, out);
	desk_ops->clamp(b, INFINITY, z);
	desk_ops->matmul(b, next, NULL, y[3], z);
	desk_ops->select(b, z, z);
	desk_ops->read(b, z, out + m->n_row * m->next->n_out);
	assert_int_equal(desk_ops->end(b, NULL), 0);
	assert_memory_equal(out + last * m->next->n_out, out + m->n_row * m->next->n_out, m->next->n_out * sizeof *out);
	for (int i = 0; i < PARTS; i++) {
		desk_ops->act_free(b, y[i]);
		desk_ops->weight_free(b, w[i]);
		desk_ops->weight_free(b, bias[i]);
	}
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, z);
	desk_ops->weight_free(b, next);
	desk_ops->weight_free(b, table);
	desk_ops->close(b);
}

void one_input(void **state)
{
	static const uint32_t batches[] = { 1, 2, 20, ROWS };
	struct rng r = { 17 };
	struct shared m = { .next = matrix_random(&r, QUANT_Q8_0, 64, 256, 1), .inputs = matrix_random(&r, QUANT_F32, 256, TOKENS, 1) };
	const size_t most = ROWS * 1024;
	float *apart = malloc(most * sizeof(float)), *together = malloc(most * sizeof(float));
	struct place p;

	(void)state;
	for (int i = 0; i < PARTS; i++) {
		m.w[i] = matrix_random(&r, shared_parts[i].type, 256, shared_parts[i].n_out, 1);
		m.bias[i] = i % 2 ? matrix_random(&r, QUANT_F32, shared_parts[i].n_out, 1, 1) : NULL;
	}
	for (size_t k = 0; place_at(k, &p); k++)
		for (int i = 0; i < 8; i++) {
			m.n_row = batches[i % 4];
			m.exact = i >= 4;
			memset(apart, 0xee, most * sizeof(float));
			memset(together, 0xee, most * sizeof(float));
			shared_play(&m, p, true, apart);
			shared_play(&m, p, false, together);
			if (memcmp(apart, together, most * sizeof(float)))
				fail_msg("%s, %u rows: products of one input are not what each is", p.isa, m.n_row);
		}
	for (int i = 0; i < PARTS; i++) {
		matrix_free(m.w[i]);
		matrix_free(m.bias[i]);
	}
	matrix_free(m.next);
	matrix_free(m.inputs);
	free(apart);
	free(together);
}
