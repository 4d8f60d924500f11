/*
 * Rotary positions: from 64-bit phases to sines, and the rotation of a head.
 *
 * An angle is pos * freq in turns, wrapping by itself; the top bits choose the
 * eighth of a circle and the rest, at most an eighth of a turn, goes through a
 * polynomial in double.  Compiled once, for no particular instruction set: every
 * machine computes the same.
 */
#include <assert.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

/* sin and cos of turns of a circle in [-1/8, 1/8] */
static void small_sines(double turn, double *s, double *c)
{
	double x = turn * 6.283185307179586476925, z = x * x;

	*s = x * (1 + z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880
	     + z * (-1.0 / 39916800 + z * (1.0 / 6227020800.0)))))));
	*c = 1 + z * (-1.0 / 2 + z * (1.0 / 24 + z * (-1.0 / 720 + z * (1.0 / 40320
	     + z * (-1.0 / 3628800 + z * (1.0 / 479001600.0 + z * (-1.0 / 87178291200.0)))))));
}

static void sines(uint64_t phase, float scale, float *out)
{
	uint64_t quarter = (phase + (UINT64_C(1) << 61)) >> 62;     /* nearest quarter turn */
	double s, c;

	/* what is left, as a signed fraction of a turn */
	small_sines((double)(int64_t)(phase - (quarter << 62)) * 0x1p-64, &s, &c);
	switch (quarter) {
	case 0: out[0] = (float)c;  out[1] = (float)s;  break;
	case 1: out[0] = (float)-s; out[1] = (float)c;  break;
	case 2: out[0] = (float)-c; out[1] = (float)-s; break;
	default: out[0] = (float)s; out[1] = (float)-c; break;
	}
	out[0] *= scale;
	out[1] *= scale;
}

static void fill(const struct backend *b, const struct rope *r, struct rope_table *t)
{
	const uint32_t half = r->n_rot / 2;
	float *at = t->at;

	for (uint32_t row = 0; row < b->batch->n_row; row++) {
		const struct batch_row *x = &b->batch->rows[row];
		uint64_t sink = window_query(b->batch->seqs[x->seq].window, x->pos);

		for (uint32_t i = 0; i < half; i++, at += 2)
			sines(x->pos * r->freq[i], r->scale, at);
		for (uint32_t i = 0; i < half; i++, at += 2)
			sines(sink * r->freq[i], r->scale, at);
	}
}

const struct rope_table *cpu_rope(struct backend *b, const struct rope *r)
{
	struct rope_table *t = b->ropes;
	uint32_t n = 0;

	if (!r || r->order == ROPE_NONE || r->n_rot == 0)
		return NULL;
	assert(r->n_rot % 2 == 0 && r->freq);
	for (; n < ROPE_TABLES && t->freq; n++, t++)
		if (t->freq == r->freq && t->n_rot == r->n_rot && t->scale == r->scale)
			return t;
	if (n == ROPE_TABLES) {                 /* more than we keep: the last gives way */
		t--;
		n--;
	}
	assert((size_t)b->n_row_max * 2 * r->n_rot <= b->kv->rope_room_floats);
	*t = (struct rope_table){ .freq = r->freq, .n_rot = r->n_rot, .scale = r->scale };
	t->at = b->kv->rope_room + n * b->kv->rope_room_floats;
	fill(b, r, t);
	return t;
}

void cpu_rotate(const struct backend *b, const struct rope *r, const struct rope_table *t,
                uint32_t row, int query, uint32_t head_dim, float scale, const float *in, float *out)
{
	uint32_t half, step, pair;
	const float *at;

	(void)b;
	for (uint32_t i = 0; i < head_dim; i++)
		out[i] = in[i] * scale;
	if (!t)
		return;
	half = r->n_rot / 2;
	at = t->at + ((size_t)row * 2 + (uint32_t)query) * r->n_rot;
	step = r->order == ROPE_NEOX ? 1 : 2;        /* between pairs */
	pair = r->order == ROPE_NEOX ? half : 1;     /* between the two of a pair */
	for (uint32_t i = 0; i < half; i++) {
		float *x = out + i * step, a = x[0], z = x[pair];

		x[0] = a * at[2 * i] - z * at[2 * i + 1];
		x[pair] = a * at[2 * i + 1] + z * at[2 * i];
	}
}
