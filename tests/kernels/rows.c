/*
 * Operations by rows against double precision: embed, norm, gated activations,
 * add, softcap, clamp, select; bitwise the same on every instruction set and number of
 * threads.  The largest of a row are top.c's.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tests/kernels/desk.h"
#include "tests/kernels/top.h"

#define TOKENS 40
#define MOST_ROWS 33

/* One operation on two inputs of a width: what the backend makes of it, and what
 * it should be for a row. */
struct operation {
	const char *name;
	void (*make)(struct backend *b, const struct operation *o, struct act *x, struct act *y);
	void (*should)(const struct operation *o, uint32_t width, const float *x, const float *y, double *out);
	uint32_t width, part;            /* part: of a norm */
	int kind;
	double tolerance;                /* relative to 1 + |value| */
	float size;                      /* of the inputs */
};

static struct matrix *norm_weight, *norm_bias;       /* [part] of the operation under test */
static struct weight *loaded_weight, *loaded_bias;

static void make_norm(struct backend *b, const struct operation *o, struct act *x, struct act *y)
{
	const struct norm n = { (enum norm_kind)o->kind, o->part, 1e-5f, loaded_weight,
	                        o->kind == NORM_LAYER ? loaded_bias : NULL };

	desk_ops->norm(b, &n, x, o->size > 5 ? y : x);
	if (o->size > 5)
		desk_ops->norm(b, &n, y, x);         /* into another act, and norm of a norm */
}

static void norm_once(const struct operation *o, uint32_t width, double *v)
{
	for (uint32_t at = 0; at < width; at += o->part) {
		double mean = 0, square = 0;

		for (uint32_t i = 0; i < o->part && o->kind == NORM_LAYER; i++)
			mean += v[at + i] / o->part;
		for (uint32_t i = 0; i < o->part; i++)
			square += (v[at + i] - mean) * (v[at + i] - mean) / o->part;
		for (uint32_t i = 0; i < o->part; i++) {
			v[at + i] = (v[at + i] - mean) / sqrt(square + 1e-5) * (double)norm_weight->values[i];
			if (o->kind == NORM_LAYER)
				v[at + i] += (double)norm_bias->values[i];
		}
	}
}

static void should_norm(const struct operation *o, uint32_t width, const float *x, const float *y, double *out)
{
	(void)y;
	for (uint32_t i = 0; i < width; i++)
		out[i] = (double)x[i];
	norm_once(o, width, out);
	if (o->size > 5)
		norm_once(o, width, out);
}

/* Weights for each group: part values of them lie where the group does. */
static void should_norm_each(const struct operation *o, uint32_t width, const float *x, const float *y, double *out)
{
	(void)y;
	for (uint32_t at = 0; at < width; at += (uint32_t)o->kind) {
		double square = 0;

		for (uint32_t i = 0; i < (uint32_t)o->kind; i++)
			square += (double)x[at + i] * (double)x[at + i] / o->kind;
		for (uint32_t i = 0; i < (uint32_t)o->kind; i++)
			out[at + i] = (double)x[at + i] / sqrt(square + 1e-5) * (double)norm_weight->values[at + i];
	}
}

static void make_norm_each(struct backend *b, const struct operation *o, struct act *x, struct act *y)
{
	const struct norm n = { NORM_RMS, (uint32_t)o->kind, 1e-5f, loaded_weight, NULL };

	(void)y;
	desk_ops->norm(b, &n, x, x);
}

static void make_clamp(struct backend *b, const struct operation *o, struct act *x, struct act *y)
{
	(void)y;
	desk_ops->clamp(b, (float)o->kind, x);
}

static void should_clamp(const struct operation *o, uint32_t width, const float *x, const float *y, double *out)
{
	(void)y;
	for (uint32_t i = 0; i < width; i++)
		out[i] = fmax(-o->kind, fmin(o->kind, (double)x[i]));
}

static void should_swiglu(const struct operation *o, uint32_t width, const float *x, const float *y, double *out)
{
	(void)o;
	for (uint32_t i = 0; i < width; i++) {
		double gate = fmin(7, (double)x[i]), up = fmax(-7, fmin(7, (double)y[i]));

		out[i] = gate / (1 + exp(-1.702 * gate)) * (up + 1);
	}
}

static void make_glu(struct backend *b, const struct operation *o, struct act *x, struct act *y)
{
	desk_ops->glu(b, (enum glu_kind)o->kind, x, o->part ? y : NULL, x);
}

static double activation(int kind, double x)
{
	switch (kind) {
	case GLU_SILU:      return x / (1 + exp(-x));
	case GLU_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
	case GLU_GELU_ERF:  return 0.5 * x * (1 + erf(x / M_SQRT2));
	default:            return x > 0 ? x : 0;
	}
}

static void should_glu(const struct operation *o, uint32_t width, const float *x, const float *y, double *out)
{
	for (uint32_t i = 0; i < width; i++)
		out[i] = activation(o->kind, (double)x[i]) * (o->part ? (double)y[i] : 1);
}

static void make_add(struct backend *b, const struct operation *o, struct act *x, struct act *y)
{
	(void)o;
	desk_ops->add(b, x, y, x);
}

static void should_add(const struct operation *o, uint32_t width, const float *x, const float *y, double *out)
{
	(void)o;
	for (uint32_t i = 0; i < width; i++)
		out[i] = (double)(x[i] + y[i]);
}

static void make_softcap(struct backend *b, const struct operation *o, struct act *x, struct act *y)
{
	(void)y;
	desk_ops->softcap(b, (float)o->kind, x);
}

static void should_softcap(const struct operation *o, uint32_t width, const float *x, const float *y, double *out)
{
	(void)y;
	for (uint32_t i = 0; i < width; i++)
		out[i] = o->kind * tanh((double)x[i] / o->kind);
}

static const struct operation operations[] = {
	{ "rms norm",       make_norm, should_norm, 576, 576, NORM_RMS, 2e-6, 1 },
	{ "rms norm, twice", make_norm, should_norm, 96, 96, NORM_RMS, 2e-6, 9 },
	{ "rms norm, odd",  make_norm, should_norm, 37, 37, NORM_RMS, 2e-6, 1 },
	{ "rms norm by heads", make_norm, should_norm, 160, 40, NORM_RMS, 2e-6, 1 },
	{ "rms norm, wide", make_norm, should_norm, 3000, 3000, NORM_RMS, 2e-6, 1 },
	{ "rms norm, widest", make_norm, should_norm, 9001, 9001, NORM_RMS, 2e-6, 1 },
	{ "layer norm",     make_norm, should_norm, 100, 100, NORM_LAYER, 4e-6, 1 },
	{ "layer norm, large", make_norm, should_norm, 1024, 1024, NORM_LAYER, 4e-6, 1 },
	{ "silu",           make_glu, should_glu, 1536, 1, GLU_SILU, 4e-7, 6 },
	{ "silu, no up",    make_glu, should_glu, 33, 0, GLU_SILU, 4e-7, 30 },
	{ "gelu tanh",      make_glu, should_glu, 640, 1, GLU_GELU_TANH, 1e-6, 3 },
	{ "gelu erf",       make_glu, should_glu, 640, 0, GLU_GELU_ERF, 1e-6, 3 },
	{ "relu",           make_glu, should_glu, 17, 1, GLU_RELU, 4e-7, 3 },
	{ "swiglu, clamped", make_glu, should_swiglu, 96, 1, GLU_SWIGLU_CLAMPED, 4e-7, 6 },
	{ "rms norm of each head", make_norm_each, should_norm_each, 160, 160, 40, 2e-6, 1 },
	{ "clamp",          make_clamp, should_clamp, 9001, 0, 2, 0, 2 },
	{ "add",            make_add, should_add, 577, 0, 0, 0, 1 },
	{ "add, wide",      make_add, should_add, 20011, 0, 0, 0, 1 },
	{ "softcap",        make_softcap, should_softcap, 9001, 0, 30, 4e-7, 40 },
};

static void play(const struct operation *o, struct place p, uint32_t n, const struct matrix *a,
                 const struct matrix *b2, float *out)
{
	struct backend *b = place_open(p, n);
	struct weight *wx = matrix_load(b, a), *wy = matrix_load(b, b2);
	struct batch_row rows[MOST_ROWS];
	struct batch_seq seq = { .window = { 4, 60 } };
	struct batch batch = { .n_row = n, .n_seq = 1, .rows = rows, .seqs = &seq };
	struct act *x, *y;

	loaded_weight = norm_weight ? matrix_load(b, norm_weight) : NULL;
	loaded_bias = norm_bias ? matrix_load(b, norm_bias) : NULL;
	assert_int_equal(desk_ops->act_new(b, o->width, &x), 0);
	assert_int_equal(desk_ops->act_new(b, o->width, &y), 0);
	for (uint32_t i = 0; i < n; i++)
		rows[i] = (struct batch_row){ (int32_t)(i % TOKENS), 0, i };
	desk_ops->begin(b, NULL, &batch);
	desk_ops->embed(b, wx, 1, x);
	desk_ops->embed(b, wy, 1, y);
	o->make(b, o, x, y);
	desk_ops->read(b, x, out);
	assert_int_equal(desk_ops->end(b, NULL), 0);
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->weight_free(b, wx);
	desk_ops->weight_free(b, wy);
	desk_ops->weight_free(b, loaded_weight);
	desk_ops->weight_free(b, loaded_bias);
	desk_ops->close(b);
}

static void operate(const struct operation *o)
{
	struct rng r = { o->width + (uint32_t)o->kind };
	struct matrix *x = matrix_random(&r, QUANT_F32, o->width, TOKENS, o->size);
	struct matrix *y = matrix_random(&r, QUANT_F32, o->width, TOKENS, o->size);
	size_t size = (size_t)MOST_ROWS * o->width * sizeof(float);
	float *first = malloc(size), *other = malloc(size);
	double *should = malloc(o->width * sizeof(double));
	struct place p;

	norm_weight = o->part > 1 ? matrix_random(&r, QUANT_F32, o->part, 1, 1) : NULL;
	norm_bias = o->part > 1 ? matrix_random(&r, QUANT_F32, o->part, 1, 1) : NULL;
	for (size_t i = 0; place_at(i, &p); i++) {
		uint32_t n = i % 3 == 1 ? 1 : i % 3 == 2 ? 5 : MOST_ROWS;

		play(o, p, n, x, y, i ? other : first);
		if (memcmp(first, i ? other : first, n * o->width * sizeof(float)))
			fail_msg("%s: %s, %u threads: not the same bits", o->name, p.isa, p.n_thread);
	}
	for (uint32_t row = 0; row < MOST_ROWS; row++) {
		o->should(o, o->width, x->values + row * o->width, y->values + row * o->width, should);
		for (uint32_t i = 0; i < o->width; i++) {
			double got = (double)first[row * o->width + i];

			if (!(fabs(got - should[i]) <= o->tolerance * (1 + fabs(should[i]) * (o->part == 1 ? 8 : 1))))
				fail_msg("%s: row %u value %u: %.9g, should be %.9g", o->name, row, i, got, should[i]);
		}
	}
	matrix_free(x);
	matrix_free(y);
	matrix_free(norm_weight);
	matrix_free(norm_bias);
	free(first);
	free(other);
	free(should);
}

static void every_operation(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(operations) / sizeof(operations[0]); i++)
		operate(&operations[i]);
}

static void embed_every_format(void **state)
{
	struct rng r = { 8 };
	struct backend *b = place_open((struct place){ NULL, 2, 0 }, 3);
	struct batch_row rows[3] = { { 5, 0, 0 }, { 0, 0, 1 }, { TOKENS - 1, 0, 2 } };
	struct batch_seq seq = { .window = { 4, 60 } };
	struct batch batch = { .n_row = 3, .n_seq = 1, .rows = rows, .seqs = &seq };
	const struct quant *q;
	float out[3 * 512];
	struct act *x;

	(void)state;
	assert_int_equal(desk_ops->act_new(b, 512, &x), 0);
	for (size_t i = 0; (q = quant_at(i)) != NULL; i++) {
		struct matrix *m = matrix_random(&r, q->type, 512, TOKENS, 1);
		struct weight *w = matrix_load(b, m);

		desk_ops->begin(b, NULL, &batch);
		desk_ops->embed(b, w, 24.0f, x);
		desk_ops->read(b, x, out);
		assert_int_equal(desk_ops->end(b, NULL), 0);
		for (uint32_t row = 0; row < 3; row++)
			for (uint32_t k = 0; k < 512; k++)
				assert_true(out[row * 512 + k] == 24.0f * m->values[(size_t)rows[row].token * 512 + k]);
		desk_ops->weight_free(b, w);
		matrix_free(m);
	}
	desk_ops->act_free(b, x);
	desk_ops->close(b);
}

/* A token outside of the vocabulary fails the step, by name, and the next is fine. */
static void bad_token(void **state)
{
	struct rng r = { 9 };
	struct backend *b = place_open((struct place){ NULL, 2, 0 }, 1);
	struct matrix *m = matrix_random(&r, QUANT_F32, 32, TOKENS, 1);
	struct weight *w = matrix_load(b, m);
	struct batch_row row = { TOKENS, 0, 0 };
	struct batch_seq seq = { .window = { 4, 60 } };
	struct batch batch = { .n_row = 1, .n_seq = 1, .rows = &row, .seqs = &seq };
	struct backend_why why = { "" };
	struct act *x;

	(void)state;
	assert_int_equal(desk_ops->act_new(b, 32, &x), 0);
	for (int32_t t = -1; t < TOKENS + 1; t += TOKENS + 1) {
		row.token = t;
		desk_ops->begin(b, NULL, &batch);
		desk_ops->embed(b, w, 1, x);
		desk_ops->add(b, x, x, x);
		assert_int_equal(desk_ops->end(b, &why), -EINVAL);
		assert_non_null(strstr(why.text, "token"));
	}
	row.token = 3;
	desk_ops->begin(b, NULL, &batch);
	desk_ops->embed(b, w, 1, x);
	assert_int_equal(desk_ops->end(b, &why), 0);
	desk_ops->act_free(b, x);
	desk_ops->weight_free(b, w);
	matrix_free(m);
	desk_ops->close(b);
}

static void select_rows(void **state)
{
	static const uint32_t outputs[] = { 1, 2, 6 };
	struct rng r = { 10 };
	struct backend *b = place_open((struct place){ NULL, 2, 0 }, 8);
	struct matrix *m = matrix_random(&r, QUANT_F32, 40, TOKENS, 1);
	struct weight *w = matrix_load(b, m);
	struct batch_row rows[8];
	struct batch_seq seq = { .window = { 4, 60 } };
	struct batch batch = { 8, 1, 3, rows, &seq, outputs, false };
	float out[3 * 40];
	struct act *x, *y;

	(void)state;
	for (uint32_t i = 0; i < 8; i++)
		rows[i] = (struct batch_row){ (int32_t)(i * 4), 0, i };
	assert_int_equal(desk_ops->act_new(b, 40, &x), 0);
	assert_int_equal(desk_ops->act_new(b, 40, &y), 0);
	for (int in_place = 0; in_place < 2; in_place++) {
		struct act *to = in_place ? x : y;

		desk_ops->begin(b, NULL, &batch);
		desk_ops->embed(b, w, 1, x);
		desk_ops->select(b, x, to);
		desk_ops->add(b, to, to, to);
		desk_ops->read(b, to, out);
		assert_int_equal(desk_ops->end(b, NULL), 0);
		for (uint32_t i = 0; i < 3; i++)
			for (uint32_t k = 0; k < 40; k++)
				assert_true(out[i * 40 + k] == 2 * m->values[outputs[i] * 4 * 40 + k]);
	}
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->weight_free(b, w);
	matrix_free(m);
	desk_ops->close(b);
}

/* The int8 form of an act is not used after the act was written again. */
static void act_written_again(void **state)
{
	struct rng r = { 11 };
	struct backend *b = place_open((struct place){ NULL, 2, 0 }, 1);
	struct matrix *m = matrix_random(&r, QUANT_F32, 64, TOKENS, 1), *q = matrix_random(&r, QUANT_Q8_0, 64, 20, 1);
	struct weight *table = matrix_load(b, m), *w = matrix_load(b, q);
	struct batch_row row = { 1, 0, 0 };
	struct batch_seq seq = { .window = { 4, 60 } };
	struct batch batch = { .n_row = 1, .n_seq = 1, .rows = &row, .seqs = &seq };
	struct act *x, *y;
	float one[20], two[20];

	(void)state;
	assert_int_equal(desk_ops->act_new(b, 64, &x), 0);
	assert_int_equal(desk_ops->act_new(b, 20, &y), 0);
	desk_ops->begin(b, NULL, &batch);
	desk_ops->embed(b, table, 1, x);
	desk_ops->matmul(b, w, NULL, x, y);
	desk_ops->read(b, y, one);
	desk_ops->add(b, x, x, x);
	desk_ops->matmul(b, w, NULL, x, y);
	desk_ops->read(b, y, two);
	assert_int_equal(desk_ops->end(b, NULL), 0);
	for (int i = 0; i < 20; i++)
		assert_true(one[i] != 0 && two[i] == 2 * one[i]);
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->weight_free(b, table);
	desk_ops->weight_free(b, w);
	matrix_free(m);
	matrix_free(q);
	desk_ops->close(b);
}

/* x + y and its norm: one after the other, at once, and at once into a third act. */
enum fused { APART, AT_ONCE, THIRD, N_FUSED };

static void fused_play(struct backend *b, const struct norm *n, struct weight *const *w, enum fused how, float *got)
{
	struct batch_row rows[3] = { { 5, 0, 0 }, { 0, 0, 1 }, { TOKENS - 1, 0, 2 } };
	struct batch_seq seq = { .window = { 4, 60 } };
	struct batch batch = { .n_row = 3, .n_seq = 1, .rows = rows, .seqs = &seq };
	struct act *x, *y, *z;

	assert_int_equal(desk_ops->act_new(b, n->width, &x), 0);
	assert_int_equal(desk_ops->act_new(b, n->width, &y), 0);
	assert_int_equal(desk_ops->act_new(b, n->width, &z), 0);
	desk_ops->begin(b, NULL, &batch);
	desk_ops->embed(b, w[0], 1, x);
	desk_ops->embed(b, w[1], 1, y);
	if (how == APART) {
		desk_ops->add(b, x, y, x);
		desk_ops->norm(b, n, x, y);
	} else
		desk_ops->add_norm(b, n, x, y, x, how == THIRD ? z : y);
	desk_ops->read(b, x, got);
	desk_ops->read(b, how == THIRD ? z : y, got + 3 * (size_t)n->width);
	assert_int_equal(desk_ops->end(b, NULL), 0);
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->act_free(b, z);
}

/* Sum and norm at once are what they are one after the other, in the acts that the
 * forward pass has them in. */
static void fused_norm(void **state)
{
	static const uint32_t widths[] = { 37, 96, 576, 3000 };
	float *got = malloc(2 * 2 * 3 * 3000 * sizeof(float));

	(void)state;
	for (size_t i = 0; i < 8; i++) {
		const uint32_t width = widths[i / 2];
		const enum norm_kind kind = i % 2 ? NORM_LAYER : NORM_RMS;
		const size_t size = (size_t)2 * 3 * width;
		struct rng r = { 12 + i };
		struct backend *b = place_open((struct place){ NULL, 2, 0 }, 3);
		struct matrix *m[4] = { matrix_random(&r, QUANT_F32, width, TOKENS, 1), matrix_random(&r, QUANT_F32, width, TOKENS, 2),
		                        matrix_random(&r, QUANT_F32, width, 1, 1), matrix_random(&r, QUANT_F32, width, 1, 1) };
		struct weight *w[4];

		for (int k = 0; k < 4; k++)
			w[k] = matrix_load(b, m[k]);
		const struct norm n = { kind, width, 1e-5f, w[2], kind == NORM_LAYER ? w[3] : NULL };

		fused_play(b, &n, w, APART, got);
		for (enum fused how = AT_ONCE; how < N_FUSED; how++) {
			fused_play(b, &n, w, how, got + size);
			assert_memory_equal(got, got + size, size * sizeof(float));
		}
		for (int k = 0; k < 4; k++) {
			desk_ops->weight_free(b, w[k]);
			matrix_free(m[k]);
		}
		desk_ops->close(b);
	}
	free(got);
}

/* What a product sees of what an operation wrote is what it sees when something has been
 * queued between, which keeps the values: whoever makes the int8 form. */
struct beside {
	const char *name;
	uint32_t width;
	int kind;
	void (*make)(struct backend *b, const struct norm *n, int kind, struct act *x, struct act *y);     /* into x */
};

static void beside_norm(struct backend *b, const struct norm *n, int kind, struct act *x, struct act *y)
{
	(void)kind, (void)y;
	desk_ops->norm(b, n, x, x);
}

static void beside_add_norm(struct backend *b, const struct norm *n, int kind, struct act *x, struct act *y)
{
	(void)kind;
	desk_ops->add_norm(b, n, y, x, y, x);
}

static void beside_glu(struct backend *b, const struct norm *n, int kind, struct act *x, struct act *y)
{
	(void)n;
	desk_ops->glu(b, (enum glu_kind)kind, y, x, x);
}

static void beside_play(const struct beside *o, struct place p, struct matrix *const *m, bool apart, float *out)
{
	struct batch_row rows[3] = { { 5, 0, 0 }, { 0, 0, 1 }, { TOKENS - 1, 0, 2 } };
	struct batch_seq seq = { .window = { 4, 60 } };
	const struct batch batch = { .n_row = 3, .n_seq = 1, .rows = rows, .seqs = &seq };
	struct backend *b = place_open(p, 4);
	struct weight *w[4];
	struct act *x, *y, *z;

	for (int k = 0; k < 4; k++)
		w[k] = matrix_load(b, m[k]);
	const struct norm n = { (enum norm_kind)o->kind, o->width, 1e-5f, w[2], NULL };

	assert_int_equal(desk_ops->act_new(b, o->width, &x), 0);
	assert_int_equal(desk_ops->act_new(b, o->width, &y), 0);
	assert_int_equal(desk_ops->act_new(b, m[3]->n_out, &z), 0);
	desk_ops->begin(b, NULL, &batch);
	desk_ops->embed(b, w[0], 1, x);
	desk_ops->embed(b, w[1], 1, y);
	if (!apart)              /* what a product has read is made ready for it again as it is written */
		desk_ops->matmul(b, w[3], NULL, x, z);
	o->make(b, &n, o->kind, x, y);
	if (apart)
		desk_ops->clamp(b, INFINITY, x);
	desk_ops->matmul(b, w[3], NULL, x, z);
	desk_ops->read(b, z, out);
	assert_int_equal(desk_ops->end(b, NULL), 0);
	desk_ops->act_free(b, x);
	desk_ops->act_free(b, y);
	desk_ops->act_free(b, z);
	for (int k = 0; k < 4; k++)
		desk_ops->weight_free(b, w[k]);
	desk_ops->close(b);
}

static void planes_beside(void **state)
{
	static const struct beside all[] = {
		{ "norm", 32, NORM_RMS, beside_norm }, { "norm", 96, NORM_LAYER, beside_norm },
		{ "norm", 576, NORM_RMS, beside_norm }, { "norm", 3008, NORM_RMS, beside_norm },
		{ "norm", 9024, NORM_LAYER, beside_norm }, { "sum and norm", 96, NORM_RMS, beside_add_norm },
		{ "sum and norm", 3008, NORM_LAYER, beside_add_norm }, { "glu", 32, GLU_SILU, beside_glu },
		{ "glu", 96, GLU_GELU_TANH, beside_glu }, { "glu", 1536, GLU_SILU, beside_glu },
		{ "glu", 576, GLU_SWIGLU_CLAMPED, beside_glu }, { "glu", 9024, GLU_RELU, beside_glu },
	};
	float beside[3 * 17], apart[3 * 17], first[2][3 * 17];
	struct rng r = { 13 };
	struct place p;

	(void)state;
	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		const uint32_t width = all[i].width;
		struct matrix *m[4] = { matrix_random(&r, QUANT_F32, width, TOKENS, 1), matrix_random(&r, QUANT_F32, width, TOKENS, 2),
		                        matrix_random(&r, QUANT_F32, width, 1, 1), matrix_random(&r, i % 3 == 2 ? QUANT_F16 : QUANT_Q8_0, width, 17, 1) };

		((float *)(void *)m[0]->bytes)[31] = desk_eight && i % 2 ? INFINITY : NAN;       /* of token 0: row 1 */
		for (size_t k = 0; place_at(desk_eight ? k / 2 : k, &p); k++) {
			p.n_act_bit = desk_eight && k % 2 ? 8 : 0;
			beside_play(&all[i], p, m, false, beside);
			beside_play(&all[i], p, m, true, apart);
			if (memcmp(beside, apart, sizeof beside))
				fail_msg("%s of %u: a product right after it has other bits", all[i].name, width);
			assert_true(beside[0] != 0 && beside[0] - beside[0] == 0);
			assert_true(beside[17] != beside[17]);
			if (desk_eight && k < 2)
				memcpy(first[k], beside, sizeof beside);
			else if (desk_eight && (memcmp(beside, first[k % 2], 17 * sizeof(float))
			                        || memcmp(beside + 34, first[k % 2] + 34, 17 * sizeof(float))))
				fail_msg("%s of %u: %s has other bits", all[i].name, width, p.isa ? p.isa : "the best");
		}
		for (int k = 0; k < 4; k++)
			matrix_free(m[k]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_operation),
		cmocka_unit_test(embed_every_format),
		cmocka_unit_test(bad_token),
		cmocka_unit_test(select_rows),
		cmocka_unit_test(act_written_again),
		cmocka_unit_test(fused_norm),
		cmocka_unit_test(planes_beside),
		cmocka_unit_test(top_as_sorted),
		cmocka_unit_test(top_whoever_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
