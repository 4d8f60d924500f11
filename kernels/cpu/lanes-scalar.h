/*
 * Sixteen lanes in plain C: the reference that the SIMD variants must equal
 * bitwise.  Same names as the other lanes-*.h; every operation is
 * one IEEE operation a lane, so nothing depends on the width of a register.
 */
#ifndef KERNELS_CPU_LANES_H
#define KERNELS_CPU_LANES_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define V_ROOM 8                 /* v16 that fit into the registers: how much is done at once */
#define ROWS_APART 0             /* none asks between rows, see lanes-avx512.h */

#include "kernels/quants.h"

/* The compiler knows best what to do with loops over lanes. */
#undef UNROLL
#define UNROLL
#undef INLINE
#define INLINE static __attribute__((unused, noinline))

typedef struct { float f[16]; } v16;
typedef struct { int32_t i[16]; } v16i;

#define LANES(expression) \
	v16 r; \
	for (int l = 0; l < 16; l++) \
		r.f[l] = (expression); \
	return r

static inline v16 v_set1(float x) { LANES(x); }
static inline v16 v_load(const float *p) { LANES(p[l]); }
static inline v16 v_load_f16(const uint16_t *p) { LANES(quant_f16(p[l])); }
static inline v16 v_load_i8(const int8_t *p) { LANES((float)p[l]); }
/* 2^p, and -infinity for -128 */
static inline float exp2_(int8_t p)
{
	const uint32_t bits = (uint32_t)(p + 127) << 23;
	float x;

	memcpy(&x, &bits, 4);
	return x;
}
static inline v16 v_load_exp2(const int8_t *p) { LANES(exp2_(p[l])); }
static inline v16 v_add(v16 a, v16 b) { LANES(a.f[l] + b.f[l]); }
static inline v16 v_sub(v16 a, v16 b) { LANES(a.f[l] - b.f[l]); }
static inline v16 v_mul(v16 a, v16 b) { LANES(a.f[l] * b.f[l]); }
static inline v16 v_div(v16 a, v16 b) { LANES(a.f[l] / b.f[l]); }
static inline v16 v_fma(v16 a, v16 b, v16 c) { LANES(fmaf(a.f[l], b.f[l], c.f[l])); }
static inline v16 v_fma_of(const float *x, v16 b, v16 c) { return v_fma(v_set1(*x), b, c); }
/* b where either is NaN, as the instructions have it */
static inline v16 v_min(v16 a, v16 b) { LANES(a.f[l] < b.f[l] ? a.f[l] : b.f[l]); }
static inline v16 v_max(v16 a, v16 b) { LANES(a.f[l] > b.f[l] ? a.f[l] : b.f[l]); }
static inline v16 v_abs(v16 a) { LANES(fabsf(a.f[l])); }
/* lanes of mask from a, the others from b */
static inline v16 v_pick(unsigned mask, v16 a, v16 b) { LANES(mask >> l & 1 ? a.f[l] : b.f[l]); }
/* x where a < b, else y */
static inline v16 v_less(v16 a, v16 b, v16 x, v16 y) { LANES(a.f[l] < b.f[l] ? x.f[l] : y.f[l]); }

static inline v16 v_swap_pairs(v16 a) { LANES(a.f[l ^ 1]); }

/* lanes where a < b */
static inline unsigned v_below(v16 a, v16 b)
{
	unsigned mask = 0;

	for (int l = 0; l < 16; l++)
		mask |= (unsigned)(a.f[l] < b.f[l]) << l;
	return mask;
}

/* One tree: lanes 8 apart, then 4, 2, 1. */
static inline float v_sum(v16 a)
{
	for (int step = 8; step > 0; step /= 2)
		for (int l = 0; l < step; l++)
			a.f[l] += a.f[l + step];
	return a.f[0];
}

static inline float v_most(v16 a)
{
	for (int step = 8; step > 0; step /= 2)
		for (int l = 0; l < step; l++)
			a.f[l] = a.f[l] > a.f[l + step] ? a.f[l] : a.f[l + step];
	return a.f[0];
}

/* Of numbers without a sign, as their bits are ordered: a NaN is above all. */
static inline int32_t bits_(float x)
{
	int32_t i;

	memcpy(&i, &x, 4);
	return i;
}
static inline v16 v_max_size(v16 a, v16 b) { LANES(bits_(a.f[l]) > bits_(b.f[l]) ? a.f[l] : b.f[l]); }
/* The most of each of four, in its lane, and again in every fourth lane from there. */
static inline v16 v_most_size4(v16 a, v16 b, v16 c, v16 d)
{
	const v16 *of[] = { &a, &b, &c, &d };
	v16 r;

	for (int l = 0; l < 16; l++) {
		r.f[l] = of[l % 4]->f[0];
		for (int i = 1; i < 16; i++)
			if (bits_(of[l % 4]->f[i]) > bits_(r.f[l]))
				r.f[l] = of[l % 4]->f[i];
	}
	return r;
}

static inline void v_store(float *p, v16 a)
{
	memcpy(p, a.f, sizeof(a.f));
}

static inline void v_store_f16(uint16_t *p, v16 a)
{
	for (int l = 0; l < 16; l++)
		p[l] = quant_to_f16(a.f[l]);
}

/* a * *d, where *d = 2^*e, or a is 0 */
static inline v16 v_scaled(v16 a, const float *d, const float *e)
{
	(void)e;
	return v_mul(a, v_set1(*d));
}

/* Of numbers without a sign, 127 + the power of two that is at most as large; 255 of infinities. */
static inline v16 v_exponent(v16 a) { LANES((float)(bits_(a.f[l]) >> 23)); }

/* a * 2^n, where n is in the low bits of t = n + 1.5 * 2^23 */
static inline v16 v_scale2(v16 a, v16 t)
{
	v16 r;

	for (int l = 0; l < 16; l++) {
		uint32_t n, x;

		memcpy(&n, &t.f[l], 4);
		memcpy(&x, &a.f[l], 4);
		x += n << 23;
		memcpy(&r.f[l], &x, 4);
	}
	return r;
}

/* to nearest even */
static inline v16i v_int(v16 a)
{
	v16i r;

	for (int l = 0; l < 16; l++)
		r.i[l] = (int32_t)lrintf(a.f[l]);
	return r;
}

/* a, |a| <= 127, rounded to nearest even */
static inline v16i v_store_i8(int8_t *p, v16 a)
{
	v16i r = v_int(a);

	for (int l = 0; l < 16; l++)
		p[l] = (int8_t)r.i[l];
	return r;
}

/* a, |a| <= 16256, rounded to nearest even, as int16 */
static inline v16i v_store_i16(void *p, v16 a)
{
	v16i r = v_int(a);
	int16_t q[16];

	for (int l = 0; l < 16; l++)
		q[l] = (int16_t)r.i[l];
	memcpy(p, q, sizeof(q));
	return r;
}

/* The same, 0, 2, 1, 3 of each four: what meets the even bytes of a quad, and the odd ones */
static inline v16i v_store_evens(void *p, v16 a)
{
	v16i r = v_int(a);
	int16_t q[16];

	for (int l = 0; l < 16; l++)
		q[l] = (int16_t)r.i[l / 4 * 4 + l % 2 * 2 + l / 2 % 2];
	memcpy(p, q, sizeof(q));
	return r;
}

/* a, |a| <= 16256, rounded to nearest even, as 128 * high + low */
static inline v16i v_store_i15(int8_t *high, int8_t *low, v16 a)
{
	v16i r;

	for (int l = 0; l < 16; l++) {
		int32_t q = (int32_t)lrintf(a.f[l]);

		high[l] = (int8_t)((q + 64 + 16384) / 128 - 128);      /* rounded down */
		low[l] = (int8_t)(q - 128 * high[l]);
		r.i[l] = q;
	}
	return r;
}

/* The sums of four, as v_most_size4 has them. */
static inline v16i v_total4(v16i a, v16i b, v16i c, v16i d)
{
	const v16i *of[] = { &a, &b, &c, &d };
	v16i r = { { 0 } };

	for (int l = 0; l < 16; l++)
		for (int i = 0; i < 16; i++)
			r.i[l] += of[l % 4]->i[i];
	return r;
}

static inline v16i v_plus(v16i x, v16i y)
{
	for (int l = 0; l < 16; l++)
		x.i[l] += y.i[l];
	return x;
}

static inline v16i v_join(v16i high, v16i low)
{
	v16i r;

	for (int l = 0; l < 16; l++)
		r.i[l] = 128 * high.i[l] + low.i[l];
	return r;
}

static inline v16 v_float(v16i a) { LANES((float)a.i[l]); }

#undef LANES

/* ---- 16 rows x 32 inputs of unsigned weights, and their integer products ---- */

#define ABREAST 1
#define ABREAST_HALVES 1
#define WORD_ROWS 8

typedef struct { uint8_t w[8][16][4]; int off; } vw;
/* Of rows; by value, or compilers keep them in memory. */
typedef struct { v16i of[ABREAST]; } vsums;

/* Nibbles: byte [j][row][b] is input 4j+b (low) and 4j+b+16 (high); then, as many bits
 * more as there are, [j/n][row][b] with those of n = 8 (one bit) or 4 quads, low bits
 * first. */
static inline vw load_nibbles_(const uint8_t *p, const int n_bit, int off)
{
	const int above = n_bit - 4, n = above ? 8 / above : 8;
	vw w = { .off = off };

	for (int j = 0; j < 8; j++)
		for (int l = 0; l < 16; l++)
			for (int b = 0; b < 4; b++) {
				const int low = p[(j % 4 * 16 + l) * 4 + b] >> j / 4 * 4 & 15;
				const int high = above ? p[256 + (j / n * 16 + l) * 4 + b] >> j % n * above & ((1 << above) - 1) : 0;

				w.w[j][l][b] = (uint8_t)(high << 4 | low);
			}
	return w;
}

static inline vw vw_load(const uint8_t *p, const int n_bit, int off)
{
	vw w = { .off = off };

	if (n_bit < 8)
		return load_nibbles_(p, n_bit, off);
	memcpy(w.w, p, sizeof(w.w));
	return w;
}

/* Each sum, of n, over quads from..to-1 of (w - off) * x; start: -8 times that of x over them */
static inline vsums vw_dots(const vw *w, const int n, const int8_t *const *x, const int32_t *start, int from, int to)
{
	vsums r;

	for (int i = 0; i < n; i++)
		for (int l = 0; l < 16; l++) {
			int32_t s = w->off / 8 * start[i];

			for (int j = from; j < to; j++)
				for (int b = 0; b < 4; b++)
					s += w->w[j][l][b] * x[i][4 * j + b];
			r.of[i].i[l] = s;
		}
	return r;
}

/* ---- sixteen lanes of four bytes q + 128 against the same four of x ---- */

typedef struct { uint8_t b[16][4]; } vq;
typedef struct { int8_t b[4]; } vx;

static inline vq vq_load(const uint8_t *p)
{
	vq w;

	memcpy(w.b, p, 64);
	return w;
}

static inline vx vx_load(const int8_t *x)
{
	vx r;

	memcpy(r.b, x, 4);
	return r;
}

static inline v16i vq_dot(v16i sum, vq w, vx x)
{
	for (int l = 0; l < 16; l++)
		for (int b = 0; b < 4; b++)
			sum.i[l] += w.b[l][b] * x.b[b];
	return sum;
}

/* What a sum begins with; start: -8 times that of all x that it will see */
static inline v16i vq_start(int32_t start)
{
	v16i r;

	for (int l = 0; l < 16; l++)
		r.i[l] = 16 * start;
	return r;
}

/* ---- the same with activations of fifteen bits ---- */

#include "kernels/cpu/lanes-planes.h"

static inline vsums vw15_dots(const vw15 *w, const int n, const int8_t *const *x, const int32_t *start, int from, int to)
{
	vsums r;

	for (int i = 0; i < n; i++) {
		const int8_t *const high = x[i], *const low = high + 32;
		const int32_t none = 0;

		r.of[i] = v_join(vw_dots(w, 1, &high, &none, from, to).of[0], vw_dots(w, 1, &low, &start[i], from, to).of[0]);
	}
	return r;
}

/* ---- sixteen lanes of two words against the same two of x ---- */

typedef struct { int16_t w[16][2]; } vp;

static inline vp vp_load(const uint8_t *p)
{
	vp w;

	memcpy(w.w, p, 64);
	return w;
}

/* sum over n pairs, x: [n][2] int16, unaligned */
static inline v16i vp_dot(const vp *w, const int n, const int8_t *x)
{
	int16_t pair[2];
	v16i r = { { 0 } };

	for (int j = 0; j < n; j++) {
		memcpy(pair, x + 4 * j, 4);
		for (int l = 0; l < 16; l++)
			r.i[l] += w[j].w[l][0] * pair[0] + w[j].w[l][1] * pair[1];
	}
	return r;
}

#endif
