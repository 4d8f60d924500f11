/*
 * Store and attend against the rule written plainly: a list of all keys, which of
 * them a token sees, where it stands, double precision.  And bitwise the same from
 * every instruction set, number of threads, cut into batches, and neighbour.
 */
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
#define OUTPUTS 17u              /* of a product of attention's output */

struct scene {
	const char *name;
	uint32_t n_head, n_head_kv, head_dim;
	struct window window;
	uint32_t local;                  /* the second layer's; the first is global */
	uint32_t n_token;                /* processed */
	uint64_t jump;                   /* after the head, go on at this position; 0: no jump */
	enum rope_order order;
	uint32_t n_rot;
	float softcap;
	bool alibi;
	enum kv_type type;
	bool sink;                       /* a learned logit of each head */
};

static const struct scene scenes[] = {
	/* name              heads     dim  window      local  n  jump         rope               cap alibi */
	{ "sinks",            3, 1,  64, { 4, 60 },        17, 200, 0, ROPE_NEOX, 64,  0, false, KV_F32, false },
	{ "halves",           3, 1,  64, { 4, 60 },        17, 200, 0, ROPE_NEOX, 64,  0, false, KV_F16, false },
	{ "one recent",       2, 2,  64, { 4, 1 },          1,  90, 0, ROPE_NORM, 64,  0, false, KV_F32, false },
	{ "no sinks",         4, 1,  80, { 0, 16 },        16, 150, 0, ROPE_NEOX, 32,  0, false, KV_F32, false },
	{ "no recent",        4, 4,   8, { 5, 0 },          2,  90, 0, ROPE_NONE,  0,  0, false, KV_F32, false },
	{ "one sink",         4, 1, 128, { 1, 15 },         9, 120, 0, ROPE_NORM, 64,  0, false, KV_F16, false },
	{ "block of sinks",   4, 4,  64, { 16, 16 },       32, 150, 0, ROPE_NEOX, 64, 30, false, KV_F32, false },
	{ "many sinks",       6, 2, 256, { 17, 60 },       33, 170, 0, ROPE_NEOX, 256, 0, false, KV_F32, false },
	{ "few turns",        2, 1,  40, { 4, 20 },        17,  90, 0, ROPE_NORM, 20,  0, false, KV_F32, false },
	{ "wide group",      34, 2,  24, { 5, 33 },        20, 120, 0, ROPE_NEOX, 24,  0, false, KV_F32, false },
	{ "distances",        8, 8,  16, { 4, 60 },        17, 200, 0, ROPE_NONE,  0,  0, true,  KV_F32, false },
	{ "several splits",   3, 1,  64, { 4, 600 },      300, 800, 0, ROPE_NEOX, 64, 0, false, KV_F32, false },
	{ "pinned head",      2, 1,  32, { 520, 40 },     300, 760, 0, ROPE_NEOX, 32,  0, false, KV_F32, false },
	{ "under a border",   5, 1,  96, { 0, 63 },        64, 150, 0, ROPE_NEOX, 96,  0, false, KV_F16, false },
	{ "at a border",      7, 1,  64, { 64, 64 },       65, 210, 0, ROPE_NEOX, 64,  0, false, KV_F16, false },
	{ "over a border",    9, 1,  32, { 65, 65 },       66, 210, 0, ROPE_NORM, 32,  0, true,  KV_F32, false },
	{ "eight of one",    16, 2,  40, { 3, 129 },      128, 200, 0, ROPE_NEOX, 40, 20, false, KV_F16, false },
	{ "eleven of one",   11, 1,  32, { 4, 60 },        17, 120, 0, ROPE_NEOX, 32,  0, false, KV_F32, false },
	{ "thirteen of one", 13, 1,  80, { 4, 60 },        17, 120, 0, ROPE_NEOX, 80,  0, false, KV_F16, false },
	{ "fifteen of one",  15, 1,  64, { 4, 300 },       40, 400, 0, ROPE_NEOX, 64,  0, false, KV_F16, false },
	{ "wide heads",       4, 1, 256, { 4, 70 },        33, 120, 0, ROPE_NEOX, 64,  0, false, KV_F16, false },
	{ "own keys",         3, 3, 128, { 4, 70 },        33, 120, 0, ROPE_NEOX, 128, 0, false, KV_F16, false },
	{ "long parts",       2, 1,  16, { 4, 2100 },     200, 450, 0, ROPE_NEOX, 16,  0, false, KV_F32, false },
	{ "nearly long parts", 2, 1, 16, { 4, 2000 },     200, 140, 0, ROPE_NEOX, 16,  0, false, KV_F32, false },
	{ "sink logits",      6, 2,  24, { 4, 60 },        17, 200, 0, ROPE_NEOX, 24,  0, false, KV_F32, true },
	{ "sink logits, splits", 2, 1, 64, { 4, 600 },    300, 720, 0, ROPE_NEOX, 64, 0, false, KV_F32, true },
	{ "jump",             3, 1,  64, { 4, 252 },       60, 700, UINT64_C(1000000000000), ROPE_NEOX, 64, 0, false, KV_F32, false },
	{ "jump, distances",  3, 3,  16, { 4, 60 },        20, 200, UINT64_C(1000000000123), ROPE_NONE, 0, 0, true, KV_F32, false },
	{ "jump over 2^64 turns", 2, 1, 64, { 4, 30 },     20, 200, UINT64_C(18446744073709551000), ROPE_NORM, 64, 0, false, KV_F32, false },
	{ "eight bits",       3, 1,  64, { 4, 60 },        17, 200, 0, ROPE_NEOX, 64,  0, false, KV_Q8, false },
	{ "eight bits, no sinks", 4, 1, 80, { 0, 16 },     16, 150, 0, ROPE_NEOX, 32,  0, false, KV_Q8, false },
	{ "eight bits, splits", 6, 2, 64, { 4, 600 },     300, 1300, 0, ROPE_NEOX, 64, 30, false, KV_Q8, true },
	{ "eight bits, distances", 8, 8, 16, { 20, 60 },   17, 200, 0, ROPE_NONE,  0,  0, true,  KV_Q8, false },
	{ "eight bits, wide", 34, 2, 256, { 5, 33 },       20, 120, 0, ROPE_NEOX, 24,  0, false, KV_Q8, false },
};

enum { N_LAYER = 2 };

struct world {                           /* inputs of a scene: row i of q, k, v is token i */
	const struct scene *s;
	struct matrix *q, *k, *v, *o, *sink;         /* o: what is made of the output; NULL: its width is no whole blocks */
	uint64_t freq[128];
	float slopes[64];
	float *out;                      /* [layer][n_token][n_head * head_dim] */
};

static uint64_t pos_of(const struct scene *s, uint32_t token)
{
	if (s->jump && token >= s->window.n_sink)
		return s->jump + token - s->window.n_sink;
	return token;
}

static float scale_of(const struct scene *s)
{
	return 1.7f / sqrtf((float)s->head_dim);
}

/* ---- the rule, plainly ---- */

static void rotate(const struct world *w, uint64_t at, const float *x, double *y)
{
	const uint32_t half = w->s->n_rot / 2;

	for (uint32_t i = 0; i < w->s->head_dim; i++)
		y[i] = (double)x[i];
	for (uint32_t i = 0; i < half && w->s->order != ROPE_NONE; i++) {
		double angle = ldexp((double)(at * w->freq[i] >> 8), -56) * 2 * M_PI;
		uint32_t a = w->s->order == ROPE_NEOX ? i : 2 * i, b = w->s->order == ROPE_NEOX ? i + half : 2 * i + 1;
		double p = y[a], q = y[b];

		y[a] = p * cos(angle) - q * sin(angle);
		y[b] = p * sin(angle) + q * cos(angle);
	}
}

/* Does the token at t see the key at p, in a layer; start: what came after the head */
static bool sees(const struct scene *s, uint32_t layer, uint64_t t, uint64_t p, bool *sink)
{
	uint64_t recent = s->window.n_recent, n_sink = s->window.n_sink, start = t >= n_sink ? s->jump : 0;

	*sink = false;
	if (layer == 1) {
		n_sink = 0;
		if (recent > s->local - 1)
			recent = s->local - 1;
	}
	if (p > t)
		return false;
	if (p < n_sink)
		return *sink = true;
	return p >= start && t - p <= recent;
}

/* One head of one token; hide: a key that is left out although it is seen (a wrong
 * rule, to see that the comparison would notice), or -1. */
static void plain(const struct world *w, uint32_t layer, uint32_t token, uint32_t head, int64_t hide, double *out)
{
	const struct scene *s = w->s;
	const uint32_t dim = s->head_dim, kv = head / (s->n_head / s->n_head_kv), stand = s->window.n_sink + s->window.n_recent;
	const uint64_t t = pos_of(s, token);
	double *score = malloc((token + 1) * sizeof(double)), q[256], k[256], most = -1e300, sum = 0;
	bool sink;

	for (uint32_t i = 0; i <= token; i++) {
		uint64_t p = pos_of(s, i), at = t;

		score[i] = -INFINITY;
		if (!sees(s, layer, t, p, &sink) || i == hide)
			continue;
		if (sink && at > stand)
			at = stand;
		rotate(w, at, w->q->values + ((size_t)token * s->n_head + head) * dim, q);
		rotate(w, p, w->k->values + ((size_t)i * s->n_head_kv + kv) * dim, k);
		score[i] = 0;
		for (uint32_t d = 0; d < dim; d++)
			score[i] += q[d] * k[d] * (double)scale_of(s);
		if (s->softcap > 0)
			score[i] = (double)s->softcap * tanh(score[i] / (double)s->softcap);
		if (s->alibi)
			score[i] -= (double)w->slopes[head] * (double)(at - p);
		most = score[i] > most ? score[i] : most;
	}
	memset(out, 0, dim * sizeof(double));
	if (s->sink && (double)w->sink->values[head] > most)
		most = (double)w->sink->values[head];
	if (s->sink)
		sum = exp((double)w->sink->values[head] - most);
	for (uint32_t i = 0; i <= token; i++) {
		double p = exp(score[i] - most);

		sum += p;
		for (uint32_t d = 0; d < dim; d++)
			out[d] += p * (double)w->v->values[((size_t)i * s->n_head_kv + kv) * dim + d];
	}
	for (uint32_t d = 0; d < dim; d++)
		out[d] /= sum;
	free(score);
}

/* Largest difference of one head. */
static double differ(const struct world *w, const float *out, uint32_t layer, uint32_t token, uint32_t head, int64_t hide)
{
	const uint32_t dim = w->s->head_dim;
	double should[256], most = 0;

	plain(w, layer, token, head, hide, should);
	for (uint32_t d = 0; d < dim; d++) {
		double got = (double)out[(((size_t)layer * w->s->n_token + token) * w->s->n_head + head) * dim + d];

		if (!(fabs(got - should[d]) <= most))          /* fmax would not see a NaN */
			most = fabs(got - should[d]);
		if (isnan(most))
			break;
	}
	return most;
}

static void check(const struct world *w, unsigned n_act_bit, const float *out)
{
	const struct scene *s = w->s;
	/* measured: 0.031 with a cache of eight bits, 0.044 with activations of eight bits, too */
	const double most = n_act_bit == 8 ? 5e-2 : (const double[]){ [KV_F16] = 4e-3, [KV_F32] = 2e-5, [KV_Q8] = 4e-2 }[s->type];
	const uint32_t step = s->n_token > 300 ? 7 : 1;

	for (uint32_t layer = 0; layer < N_LAYER; layer++)
		for (uint32_t t = 0; t < s->n_token; t += step)
			for (uint32_t h = 0; h < s->n_head; h += s->n_head > 8 ? 5 : 1)
				if (!(differ(w, out, layer, t, h, -1) <= most))
					fail_msg("%s: layer %u token %u head %u differs by %g", s->name, layer, t, h,
					         differ(w, out, layer, t, h, -1));
}

/* The comparison with floats is sharp: a ring one place too small would lose the oldest key of
 * some token, and that is far outside of the tolerance. */
static void check_sharp(const struct world *w, const float *out)
{
	const struct scene *s = w->s;
	const uint32_t t = s->n_token - 1;
	double most = 0;

	for (uint32_t h = 0; h < s->n_head; h++)
		most = fmax(most, differ(w, out, 0, t, h, (int64_t)(t - s->window.n_recent)));
	if (s->n_token > s->window.n_sink + s->window.n_recent && most < 1e-4)
		fail_msg("%s: a lost key would not be noticed (%g)", s->name, most);
}

/* ---- the backend ---- */

struct run {
	struct place place;
	uint32_t n;                      /* rows of the scene in a batch */
	uint32_t n_chunk;                /* of the caches */
	bool neighbour;                  /* another session before it in each batch */
};

struct stage {
	struct backend *b;
	struct kv *kv;
	struct weight *wq, *wk, *wv, *wo, *sink;
	struct act *q, *k, *v, *o, *z;
	struct kv_layer layers[N_LAYER];
	struct rope rope;
};

static void stage_open(struct stage *g, const struct world *w, const struct run *r)
{
	const struct scene *s = w->s;
	const struct kv_layer layer = { s->n_head_kv, s->head_dim, 0 };
	struct kv_shape shape = { .type = s->type, .n_layer = N_LAYER, .layers = g->layers,
	                          .n_chunk = r->n_chunk, .most = { s->window.n_sink + 20, s->window.n_recent + 50 },
	                          .n_slot = 2 };
	struct backend_why why = { "" };

	g->b = place_open(r->place, 2 * CHUNK);
	g->layers[0] = layer;
	g->layers[1] = layer;
	g->layers[1].local = s->local;
	assert_int_equal(desk_ops->kv_open(g->b, &shape, NULL, &g->kv, &why), 0);
	g->wq = matrix_load(g->b, w->q);
	g->wk = matrix_load(g->b, w->k);
	g->wv = matrix_load(g->b, w->v);
	g->wo = w->o ? matrix_load(g->b, w->o) : NULL;
	g->sink = s->sink ? matrix_load(g->b, w->sink) : NULL;
	assert_int_equal(desk_ops->act_new(g->b, w->q->n_in, &g->q), 0);
	assert_int_equal(desk_ops->act_new(g->b, w->k->n_in, &g->k), 0);
	assert_int_equal(desk_ops->act_new(g->b, w->k->n_in, &g->v), 0);
	assert_int_equal(desk_ops->act_new(g->b, w->q->n_in, &g->o), 0);
	assert_int_equal(desk_ops->act_new(g->b, OUTPUTS, &g->z), 0);
	g->rope = (struct rope){ s->order, s->n_rot, w->freq, 1.0f };
}

static void stage_close(struct stage *g)
{
	desk_ops->act_free(g->b, g->q);
	desk_ops->act_free(g->b, g->k);
	desk_ops->act_free(g->b, g->v);
	desk_ops->act_free(g->b, g->o);
	desk_ops->act_free(g->b, g->z);
	desk_ops->weight_free(g->b, g->wq);
	desk_ops->weight_free(g->b, g->wk);
	desk_ops->weight_free(g->b, g->wv);
	desk_ops->weight_free(g->b, g->wo);
	desk_ops->weight_free(g->b, g->sink);
	desk_ops->kv_close(g->b, g->kv);
	desk_ops->close(g->b);
}

/* A product reads what attention wrote as it reads the same written once more: whoever makes its integers. */
static void output(struct stage *g, uint32_t n_row)
{
	const size_t n = (size_t)n_row * OUTPUTS;
	float *z = malloc(2 * n * sizeof(float));

	for (int again = 0; again < 2; again++) {
		if (again)
			desk_ops->clamp(g->b, INFINITY, g->o);
		desk_ops->matmul(g->b, g->wo, NULL, g->o, g->z);
		desk_ops->read(g->b, g->z, z + again * n);
	}
	assert_memory_equal(z, z + n, n * sizeof(float));
	free(z);
}

/* Rows first..first+n-1 of the scene, with or without a stranger's in front. */
static void step(struct stage *g, const struct world *w, const struct run *r, uint32_t first, uint32_t n, float *out)
{
	const struct scene *s = w->s;
	const uint32_t width = s->n_head * s->head_dim, lead = r->neighbour ? 1 + first % 5 : 0;
	struct batch_row rows[2 * CHUNK];
	struct batch_seq seqs[2] = { { 0, { 3, 20 }, 0 }, { 1, s->window, 0 } };
	struct batch batch = { .n_row = n + lead, .n_seq = lead ? 2 : 1, .rows = rows, .seqs = seqs + (lead ? 0 : 1) };
	struct attend a = { .n_head = s->n_head, .scale = scale_of(s), .softcap = s->softcap,
	                    .alibi = s->alibi ? w->slopes : NULL, .rope = &g->rope, .sink = g->sink };
	float *all = malloc((size_t)(n + lead) * width * sizeof(float));
	struct backend_why why;

	seqs[1].start = pos_of(s, first) >= s->jump ? s->jump : 0;
	for (uint32_t i = 0; i < lead; i++)
		rows[i] = (struct batch_row){ (int32_t)((first + i * 3) % s->n_token), 0, first + i };
	for (uint32_t i = 0; i < n; i++)
		rows[lead + i] = (struct batch_row){ (int32_t)(first + i), lead ? 1 : 0, pos_of(s, first + i) };
	desk_ops->begin(g->b, g->kv, &batch);
	desk_ops->embed(g->b, g->wq, 1, g->q);
	desk_ops->embed(g->b, g->wk, 1, g->k);
	desk_ops->embed(g->b, g->wv, 1, g->v);
	for (uint32_t layer = 0; layer < N_LAYER; layer++) {
		a.layer = layer;
		desk_ops->store(g->b, layer, &g->rope, g->k, g->v);
		desk_ops->attend(g->b, &a, g->q, g->o);
		if (g->wo)
			output(g, n + lead);
		desk_ops->read(g->b, g->o, all);
		memcpy(out + ((size_t)layer * s->n_token + first) * width, all + (size_t)lead * width,
		       (size_t)n * width * sizeof(float));
	}
	assert_int_equal(desk_ops->end(g->b, &why), 0);
	free(all);
}

static void play(const struct world *w, const struct run *r, float *out)
{
	const struct scene *s = w->s;
	struct stage g;

	stage_open(&g, w, r);
	for (uint32_t first = 0, n; first < s->n_token; first += n) {
		n = s->n_token - first < r->n ? s->n_token - first : r->n;
		if (s->jump && first < s->window.n_sink && first + n > s->window.n_sink)
			n = s->window.n_sink - first;
		step(&g, w, r, first, n, out);
	}
	stage_close(&g);
}

static struct world *world_new(const struct scene *s)
{
	struct world *w = calloc(1, sizeof(*w));
	struct rng r = { s->n_head * 1000u + s->head_dim };

	w->s = s;
	w->q = matrix_random(&r, QUANT_F32, s->n_head * s->head_dim, s->n_token, 1);
	w->k = matrix_random(&r, QUANT_F32, s->n_head_kv * s->head_dim, s->n_token, 1);
	w->v = matrix_random(&r, QUANT_F32, s->n_head_kv * s->head_dim, s->n_token, 1);
	if (w->q->n_in % 32 == 0)        /* blocks with halves, words, or neither */
		w->o = matrix_random(&r, w->q->n_in % 256 == 0 ? QUANT_Q6_K : s->type == KV_F16 ? QUANT_F16 : QUANT_Q4_0,
		                     w->q->n_in, OUTPUTS, 0.1f);
	w->sink = s->sink ? matrix_random(&r, QUANT_F32, s->n_head, 1, 3) : NULL;
	for (uint32_t i = 0; i < s->n_rot / 2; i++)
		w->freq[i] = (uint64_t)llround(ldexp(pow(10000, -2.0 * i / s->n_rot) / (2 * M_PI), 62)) * 4;
	for (uint32_t h = 0; h < s->n_head; h++)
		w->slopes[h] = ldexpf(1, -(int)(h + 1) * 8 / (int)s->n_head);
	return w;
}

static void world_free(struct world *w)
{
	matrix_free(w->q);
	matrix_free(w->k);
	matrix_free(w->v);
	matrix_free(w->o);
	matrix_free(w->sink);
	free(w);
}

static void scene_play(const struct scene *s, unsigned n_act_bit)
{
	static const uint32_t cuts[] = { CHUNK, 1, 7, CHUNK, 33, 16, 5 };
	struct world *w = world_new(s);
	size_t size = (size_t)N_LAYER * s->n_token * s->n_head * s->head_dim * sizeof(float);
	float *first = malloc(size), *other = malloc(size);
	struct run r = { .n = CHUNK, .n_chunk = CHUNK };

	for (size_t i = 0; place_at(i, &r.place); i++) {
		r.place.n_act_bit = n_act_bit;
		r.n = cuts[i % 7];
		r.n_chunk = i % 2 ? r.n > 8 ? r.n : 8 : CHUNK;
		r.neighbour = i % 3 == 2;
		memset(other, 0xee, size);
		play(w, &r, i == 0 ? first : other);
		if (i == 0) {
			check(w, n_act_bit, first);
			check_sharp(w, first);
		} else if (memcmp(first, other, size)) {
			fail_msg("%s: %s, %u threads, %u at once: not the same bits", s->name, r.place.isa,
			         r.place.n_thread, r.n);
		}
	}
	free(first);
	free(other);
	world_free(w);
}

static void rule(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++) {
		if (scenes[i].type <= desk_kv_most)
			scene_play(&scenes[i], 0);
		if (scenes[i].type == KV_Q8 && desk_eight)
			scene_play(&scenes[i], 8);
	}
}

/* ---- slots ---- */

/* What other sessions left in a slot is not seen, be it NaN. */
static void dirty_slot(void **state)
{
	struct scene s = scenes[0];
	struct world *w;
	size_t size, bytes, n_out;
	struct stage g;
	struct run r = { .n = 7, .n_chunk = CHUNK };
	float *clean, *dirty;
	void *junk;
	struct kv_shape shape;

	(void)state;
	for (enum kv_type type = KV_F16; type <= desk_kv_most; type++) {
		s.type = type;
		w = world_new(&s);
		n_out = (size_t)N_LAYER * s.n_token * s.n_head * s.head_dim;
		size = n_out * sizeof(float);
		clean = malloc(size);
		dirty = malloc(size);
		for (size_t i = 0; place_at(i, &r.place); i += 2) {
			play(w, &r, clean);
			stage_open(&g, w, &r);
			shape = (struct kv_shape){ s.type, N_LAYER, g.layers, CHUNK, s.window, 1 };
			bytes = desk_ops->kv_bytes(&shape, s.window);
			junk = malloc(bytes);
			memset(junk, 0xff, bytes);
			assert_int_equal(desk_ops->kv_write(g.kv, 1, junk, bytes), 0);
			free(junk);
			for (uint32_t first = 0; first < s.n_token; first += 7)
				step(&g, w, &r, first, s.n_token - first < 7 ? s.n_token - first : 7, dirty);
			stage_close(&g);
			assert_memory_equal(clean, dirty, size);
		}
		free(clean);
		free(dirty);
		world_free(w);
	}
}

/* A slot's bytes, read and written elsewhere, go on with the same bits. */
static void moved_slot(void **state)
{
	const struct scene *s = &scenes[0];
	struct world *w = world_new(s);
	size_t size = (size_t)N_LAYER * s->n_token * s->n_head * s->head_dim * sizeof(float), bytes;
	struct run r = { .n = 10, .n_chunk = CHUNK };
	float *stay = malloc(size), *move = malloc(size);
	struct stage one, two;
	struct kv_shape shape;
	void *copy;

	(void)state;
	place_at(0, &r.place);
	play(w, &r, stay);
	stage_open(&one, w, &r);
	stage_open(&two, w, &r);
	shape = (struct kv_shape){ s->type, N_LAYER, one.layers, CHUNK, s->window, 1 };
	bytes = desk_ops->kv_bytes(&shape, s->window);
	copy = malloc(bytes);
	for (uint32_t first = 0; first < 150; first += 10)
		step(&one, w, &r, first, 10, move);
	assert_int_equal(desk_ops->kv_read(one.kv, 1, copy, bytes), 0);
	assert_int_equal(desk_ops->kv_write(two.kv, 1, copy, bytes), 0);
	for (uint32_t first = 150; first < 200; first += 10)
		step(&two, w, &r, first, 10, move);
	assert_memory_equal(stay, move, size);
	assert_string_equal(desk_ops->kv_layout(one.b, KV_F32), desk_layout);
	assert_true(desk_ops->kv_read(one.kv, 2, copy, bytes) < 0);
	assert_true(desk_ops->kv_read(one.kv, 0, copy, (size_t)1 << 40) < 0);
	free(copy);
	free(stay);
	free(move);
	stage_close(&one);
	stage_close(&two);
	world_free(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(rule),
		cmocka_unit_test(slots_among_many),
		cmocka_unit_test(dirty_slot),
		cmocka_unit_test(moved_slot),
		cmocka_unit_test(slots_bad_shapes),
		cmocka_unit_test(slots_half_the_bytes),
		cmocka_unit_test(slots_hold_all_windows),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
