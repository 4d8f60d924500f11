/*
 * Rotary positions: from 64-bit phases to sines, and a rotated value of a head.
 *
 * An angle is pos * freq in turns, wrapping by itself; the nearest quarter turn is
 * taken off in integers and the rest, at most an eighth of a turn, goes through a
 * polynomial: no cosf, whose range reduction wants local memory, and as exact at
 * 10^12 as at 0.
 */
#ifndef KERNELS_CUDA_ROTARY_H
#define KERNELS_CUDA_ROTARY_H

#include <math.h>

#include "kernels/cuda/cuda.h"

/* By value to a kernel: a model's frequencies never change. */
struct rotary {
	uint32_t n_rot;                  /* 0: nothing rotates */
	uint32_t neox;
	float scale;
	uint64_t freq[HEAD_DIM_MOST / 2];
};

static inline void rotary_of(const struct rope *r, struct rotary *out)
{
	out->n_rot = r && r->order != ROPE_NONE ? r->n_rot : 0;
	out->neox = r && r->order == ROPE_NEOX;
	out->scale = r ? r->scale : 1;
	for (uint32_t i = 0; i < HEAD_DIM_MOST / 2; i++)
		out->freq[i] = i < out->n_rot / 2 ? r->freq[i] : 0;
}

static inline __device__ void sines(uint64_t phase, float scale, float *c, float *s)
{
	const uint64_t quarter = (phase + (UINT64_C(1) << 61)) >> 62;
	/* what is left, as a signed fraction of a turn, in radians */
	const float x = (float)(int64_t)(phase - (quarter << 62)) * 3.4061215800564e-19f, z = x * x;
	const float sine = fmaf(x * z, fmaf(z, fmaf(z, fmaf(z, 2.7557319e-6f, -1.9841270e-4f), 8.3333333e-3f), -0.16666667f), x);
	const float cosine = fmaf(z, fmaf(z, fmaf(z, fmaf(z, 2.4801587e-5f, -1.3888889e-3f), 4.1666667e-2f), -0.5f), 1.0f);
	const bool swap = quarter & 1;

	*c = (swap ? sine : cosine) * (quarter == 1 || quarter == 2 ? -scale : scale);
	*s = (swap ? cosine : sine) * (quarter == 2 || quarter == 3 ? -scale : scale);
}

/* What turns value d of a head at pos: the same for all heads. */
struct turn {
	float c, s;
	uint32_t other;                  /* the other value of its pair; itself: nothing turns */
};

static inline __device__ struct turn turn_of(const struct rotary &r, uint64_t pos, uint32_t d)
{
	const uint32_t n = r.n_rot / 2;
	const bool second = r.neox ? d >= n : d & 1;
	struct turn t = { 1, 0, d };

	if (d >= r.n_rot)
		return t;
	sines(pos * r.freq[r.neox ? (second ? d - n : d) : d / 2], r.scale, &t.c, &t.s);
	if (!second)
		t.s = -t.s;
	t.other = r.neox ? (second ? d - n : d + n) : d ^ 1;
	return t;
}

static inline __device__ float turned(const struct turn &t, const float *x, uint32_t d)
{
	return t.other == d ? x[d] : fmaf(x[d], t.c, x[t.other] * t.s);
}

#endif
