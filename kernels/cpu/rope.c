/*
 * Rotary positions: from 64-bit phases to turns.
 *
 * An angle is pos * freq in turns, wrapping by itself; the top bits choose the
 * eighth of a circle and the rest, at most an eighth of a turn, goes through a
 * polynomial in double.  Compiled once, for no particular instruction set: every
 * machine computes the same.
 */
#include <assert.h>

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

/* One query's: pairs lie side by side, or half of n_rot apart. */
static void turns(const struct rope_table *t, uint64_t pos, float *at)
{
	const uint32_t half = t->n_rot / 2, step = t->order == ROPE_NEOX ? 1 : 2, pair = t->order == ROPE_NEOX ? half : 1;
	float *other = at + t->n_rot, sc[2];

	for (uint32_t i = 0; i < half; i++) {
		sines(pos * t->freq[i], t->scale, sc);
		at[i * step] = at[i * step + pair] = sc[0];
		other[i * step] = -sc[1];
		other[i * step + pair] = sc[1];
	}
}

struct fill {
	const struct backend *b;
	const struct rope_table *t;
};

static void fill_row(void *ctx, uint32_t row, unsigned worker)
{
	const struct fill *f = ctx;
	const struct rope_table *t = f->t;
	const struct batch_row *x = &f->b->batch->rows[row];
	float *at = t->at + (size_t)row * 2 * 2 * t->n_rot;

	(void)worker;
	turns(t, x->pos, at);
	turns(t, window_query(f->b->batch->seqs[x->seq].window, x->pos), at + 2 * t->n_rot);
}

const struct rope_table *cpu_rope(struct backend *b, const struct rope *r)
{
	struct rope_table *t = b->ropes;
	uint32_t n = 0;

	if (!r || r->order == ROPE_NONE || r->n_rot == 0)
		return NULL;
	assert(r->n_rot % 2 == 0 && r->freq);
	for (; n < ROPE_TABLES && t->freq; n++, t++)
		if (t->freq == r->freq && t->order == r->order && t->n_rot == r->n_rot && t->scale == r->scale)
			return t;
	if (n == ROPE_TABLES) {                 /* more than we keep: the last gives way */
		t--;
		n--;
	}
	assert((size_t)b->n_row_max * 2 * 2 * r->n_rot <= b->kv->rope_room_floats);
	*t = (struct rope_table){ .freq = r->freq, .order = r->order, .n_rot = r->n_rot, .scale = r->scale };
	t->at = b->kv->rope_room + n * b->kv->rope_room_floats;
	cpu_by_rows(b, fill_row, &(struct fill){ b, t }, b->batch->n_row, (size_t)b->batch->n_row * 2 * 2 * t->n_rot);
	return t;
}

void cpu_rotate(const struct backend *b, const struct rope_table *t, uint32_t row, int query, uint32_t head_dim,
                float scale, const float *in, float *out)
{
	if (t)
		b->isa->rotate(t->order, t->at + ((size_t)row * 2 + (uint32_t)query) * 2 * t->n_rot, t->n_rot,
		               scale, in, head_dim, out);
	else
		b->isa->rotate(ROPE_NONE, NULL, 0, scale, in, head_dim, out);
}
