/*
 * Sixteen lanes in two AVX2 registers; integer products with AVX-VNNI.  Equal to
 * lanes-scalar.h bitwise, see there for what each operation means.
 */
#ifndef KERNELS_CPU_LANES_H
#define KERNELS_CPU_LANES_H

#include "kernels/cpu/lanes-256.h"

#define ABREAST 2
#define SUMS 2                   /* at most */
#define ABREAST_HALVES 2
#define WORD_ROWS 8              /* a little faster than four here (measured) */

typedef struct { __m256i w[8][2]; int off; } vw;
typedef struct { v16i of[2 * ABREAST]; } vplanes_;        /* sums, for each row one or two */

INLINE vw vw_load(const uint8_t *p, const int n_bit, int off)
{
	vw w;

	w.off = off;
	load_(w.w, p, n_bit);
	return w;
}

INLINE v16i both_(int32_t x) { return (v16i){ _mm256_set1_epi32(x), _mm256_set1_epi32(x) }; }

INLINE vplanes_ quads_(const vw *w, const int n, const int8_t *const *x, int j, vplanes_ r)
{
	UNROLL for (int i = 0; i < n; i++) {
		const __m256i y = quad_(x[i] + 4 * j);

		r.of[i].a = _mm256_dpbusd_avx_epi32(r.of[i].a, w->w[j][0], y);
		r.of[i].b = _mm256_dpbusd_avx_epi32(r.of[i].b, w->w[j][1], y);
	}
	return r;
}

/* start: -8 times the sum of x.  More than two sums go in a loop, or compilers load much too early and have
 * nowhere to keep it. */
INLINE vplanes_ dots_(const vw *w, const int n, const int8_t *const *x, const int32_t *start, int from, int to)
{
	vplanes_ r;

	UNROLL for (int i = 0; i < n; i++)
		r.of[i] = both_(w->off / 8 * start[i]);
	if (n <= 2)
		UNROLL for (int j = from; j < to; j++)
			r = quads_(w, n, x, j, r);
	else
		UNROLL2 for (int j = from; j < to; j++)
			r = quads_(w, n, x, j, r);
	return r;
}

/* ---- sixteen lanes of four bytes q + 128 against the same four of x ---- */

typedef v16i vq;
typedef __m256i vx;

INLINE vq vq_load(const uint8_t *p) { return vp_load(p); }
INLINE vx vx_load(const int8_t *x) { return quad_(x); }
INLINE v16i vq_dot(v16i sum, vq w, vx x)
{
	return (v16i){ _mm256_dpbusd_avx_epi32(sum.a, w.a, x), _mm256_dpbusd_avx_epi32(sum.b, w.b, x) };
}
INLINE v16i vq_start(int32_t start) { return both_(16 * start); }
INLINE v16i v_join(v16i high, v16i low)
{
	return (v16i){ _mm256_add_epi32(_mm256_slli_epi32(high.a, 7), low.a), _mm256_add_epi32(_mm256_slli_epi32(high.b, 7), low.b) };
}

#include "kernels/cpu/lanes-vnni.h"

/* ---- sixteen lanes of two words against the same two of x ---- */

INLINE v16i vp_dot(const vp *w, const int n, const int8_t *x)
{
	v16i sum = both_(0);

	UNROLL for (int j = 0; j < n; j++) {
		sum.a = _mm256_dpwssd_avx_epi32(sum.a, w[j].a, quad_(x + 4 * j));
		sum.b = _mm256_dpwssd_avx_epi32(sum.b, w[j].b, quad_(x + 4 * j));
	}
	return sum;
}

#endif
