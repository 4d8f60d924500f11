/*
 * Sixteen lanes in two AVX2 registers.  Equal to lanes-scalar.h bitwise, see
 * there for what each operation means.
 *
 * The hard idea is in the integer products: maddubs adds two products in 16 bits
 * and saturates.  Nibbles are safe even eight deep (8 * 2 * 15 * 127 = 30480), six bits
 * two deep (2 * 2 * 63 * 127 = 32004); bytes are taken as |w| * (x with w's sign), at most
 * 2 * 128 * 127 = 32512.
 */
#ifndef KERNELS_CPU_LANES_H
#define KERNELS_CPU_LANES_H

#include "kernels/cpu/lanes-256.h"

#define ABREAST 2
#define ABREAST_HALVES 2
#define WORD_ROWS 4              /* eight were slower (measured) */

typedef struct { __m256i w[8][2], size[8][2]; int n_bit, off; } vw;        /* size: |w| of eight bits, which are made signed */
typedef struct { v16i of[ABREAST]; } vsums;

INLINE vw vw_load(const uint8_t *p, const int n_bit, int off)
{
	vw w;

	w.n_bit = n_bit;
	w.off = off;
	load_(w.w, p, n_bit);
	UNROLL for (int j = 0; j < 8 && n_bit == 8; j++)
		UNROLL for (int h = 0; h < 2; h++) {
			w.w[j][h] = _mm256_xor_si256(w.w[j][h], _mm256_set1_epi8((char)off));
			w.size[j][h] = _mm256_abs_epi8(w.w[j][h]);
		}
	return w;
}

/* Eight lanes of four bytes; size: |w| */
INLINE __m256i signed_(__m256i w, __m256i size, __m256i x, __m256i sum)
{
	const __m256i p = _mm256_maddubs_epi16(size, _mm256_sign_epi8(x, w));

	return _mm256_add_epi32(sum, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}

/* Quads j and j + 1; x, y: the row's. */
INLINE __m256i unsigned_(const vw *w, int j, int h, __m256i x, __m256i y, __m256i sum)
{
	const __m256i p = _mm256_add_epi16(_mm256_maddubs_epi16(w->w[j][h], x), _mm256_maddubs_epi16(w->w[j + 1][h], y));

	return w->n_bit == 4 ? _mm256_add_epi16(sum, p) : _mm256_add_epi32(sum, _mm256_madd_epi16(p, _mm256_set1_epi16(1)));
}

/* Quad j of signed weights, or j and j + 1 of unsigned ones; x: the row's. */
INLINE v16i quads_(const vw *w, const int8_t *x, int j, v16i r)
{
	const __m256i y = quad_(x + 4 * j), z = w->n_bit == 8 ? y : quad_(x + 4 * j + 4);

	if (w->n_bit == 8)
		return (v16i){ signed_(w->w[j][0], w->size[j][0], y, r.a), signed_(w->w[j][1], w->size[j][1], y, r.b) };
	return (v16i){ unsigned_(w, j, 0, y, z, r.a), unsigned_(w, j, 1, y, z, r.b) };
}

/* Rows that have a block of unsigned weights in turns go in a loop, or compilers load much too early and have
 * nowhere to keep it. */
INLINE vsums vw_dots(const vw *w, const int n, const int8_t *const *x, const int32_t *start, int from, int to)
{
	const __m256i ones = _mm256_set1_epi16(1);
	vsums r;

	UNROLL for (int i = 0; i < n; i++)
		r.of[i].a = r.of[i].b = _mm256_setzero_si256();
	if (w->n_bit == 8)
		UNROLL for (int i = 0; i < n; i++)
			UNROLL for (int j = from; j < to; j++)
				r.of[i] = quads_(w, x[i], j, r.of[i]);
	else if (n == 1)
		UNROLL for (int j = from; j < to; j += 2)
			r.of[0] = quads_(w, x[0], j, r.of[0]);
	else
		for (int j = from; j < to; j += 2)
			UNROLL for (int i = 0; i < n; i++)
				r.of[i] = quads_(w, x[i], j, r.of[i]);
	UNROLL for (int i = 0; i < n; i++) {
		const __m256i begin = _mm256_set1_epi32(w->n_bit == 8 ? 0 : w->off / 8 * start[i]);

		r.of[i].a = _mm256_add_epi32(w->n_bit == 4 ? _mm256_madd_epi16(r.of[i].a, ones) : r.of[i].a, begin);
		r.of[i].b = _mm256_add_epi32(w->n_bit == 4 ? _mm256_madd_epi16(r.of[i].b, ones) : r.of[i].b, begin);
	}
	return r;
}

/* ---- the same with activations of fifteen bits ----
 * Words meet words: half as many products at once as of bytes, but once, and none saturates.  Four bytes
 * of a row become two words of two lanes, the even and the odd ones, so x lies 0, 2, 1, 3. */

INLINE v16i v_store_fifteen(int8_t *q, unsigned at, v16 x) { return v_store_evens(q + 2 * at, x); }

typedef struct { __m256i w[16][2]; int off; } vw15;        /* [even and odd of a quad][lanes 0..7, 8..15] */

INLINE void words_(__m256i (*w)[2], int h, __m256i bytes)
{
	w[0][h] = _mm256_and_si256(bytes, _mm256_set1_epi16(255));
	w[1][h] = _mm256_srli_epi16(bytes, 8);
}

/* Quads j and j + 4 of nibbles. */
INLINE void nibble_words_(vw15 *w, int j, int h, __m256i x)
{
	const __m256i low = _mm256_set1_epi16(15);

	w->w[2 * j][h] = _mm256_and_si256(x, low);
	w->w[2 * j + 8][h] = _mm256_and_si256(_mm256_srli_epi16(x, 4), low);
	w->w[2 * j + 1][h] = _mm256_and_si256(_mm256_srli_epi16(x, 8), low);
	w->w[2 * j + 9][h] = _mm256_srli_epi16(x, 12);
}

/* The bits above those of quad j: from bit `at` of each byte. */
INLINE void above_words_(vw15 *w, int j, int h, __m256i y, const int at, const int n_bit)
{
	const __m256i high = _mm256_set1_epi16((short)(((1 << (n_bit - 4)) - 1) << 4));

	w->w[2 * j][h] = _mm256_or_si256(w->w[2 * j][h], _mm256_and_si256(shift_(y, 4 - at), high));
	w->w[2 * j + 1][h] = _mm256_or_si256(w->w[2 * j + 1][h], _mm256_and_si256(_mm256_srli_epi16(y, 4 + at), high));
}

INLINE void vw15_load(vw15 *w, const uint8_t *p, const int n_bit, int off)
{
	const int above = n_bit - 4, n = above ? 8 / above : 8;

	w->off = off;
	UNROLL for (int j = 0; j < 8; j++)
		UNROLL for (int h = 0; h < 2; h++) {
			if (n_bit == 8)
				words_(w->w + 2 * j, h, line_(p, j, h));
			else if (j < 4)
				nibble_words_(w, j, h, line_(p, j, h));
		}
	if (n_bit < 8 && above)
		UNROLL for (int j = 0; j < 8; j++)
			UNROLL for (int h = 0; h < 2; h++)
				above_words_(w, j, h, line_(p + 256, j / n, h), j % n * above, n_bit);
}

INLINE vsums vw15_pairs_(const vw15 *w, const int n, const int8_t *const *x, int j, vsums r)
{
	UNROLL for (int i = 0; i < n; i++) {
		const __m256i y = quad_(x[i] + 4 * j);

		r.of[i].a = _mm256_add_epi32(r.of[i].a, _mm256_madd_epi16(w->w[j][0], y));
		r.of[i].b = _mm256_add_epi32(r.of[i].b, _mm256_madd_epi16(w->w[j][1], y));
	}
	return r;
}

INLINE vsums vw15_dots(const vw15 *w, const int n, const int8_t *const *x, const int32_t *start, int from, int to)
{
	vsums r;

	UNROLL for (int i = 0; i < n; i++)
		r.of[i].a = r.of[i].b = _mm256_set1_epi32(w->off / 8 * start[i]);
	if (n == 1)
		UNROLL for (int j = 2 * from; j < 2 * to; j++)
			r = vw15_pairs_(w, n, x, j, r);
	else
		UNROLL2 for (int j = 2 * from; j < 2 * to; j++)
			r = vw15_pairs_(w, n, x, j, r);
	return r;
}

/* ---- sixteen lanes of four bytes q + 128 against the same four of x ---- */

typedef struct { __m256i a, b, size_a, size_b; } vq;
typedef __m256i vx;

INLINE vq vq_load(const uint8_t *p)
{
	const __m256i flip = _mm256_set1_epi8((char)128);
	__m256i a = _mm256_xor_si256(_mm256_loadu_si256((const void *)p), flip);
	__m256i b = _mm256_xor_si256(_mm256_loadu_si256((const void *)(p + 32)), flip);

	return (vq){ a, b, _mm256_abs_epi8(a), _mm256_abs_epi8(b) };
}
INLINE vx vx_load(const int8_t *x) { return quad_(x); }
INLINE v16i vq_dot(v16i sum, vq w, vx x)
{
	return (v16i){ signed_(w.a, w.size_a, x, sum.a), signed_(w.b, w.size_b, x, sum.b) };
}
/* The bytes are made signed as they are loaded. */
INLINE v16i vq_start(int32_t start)
{
	(void)start;
	return (v16i){ _mm256_setzero_si256(), _mm256_setzero_si256() };
}

typedef struct { __m256i w[2][2]; } vq15;         /* as a quad of vw15 */
typedef struct { __m256i even, odd; } vx15;
typedef v16i vsum15;

INLINE vq15 vq15_load(const uint8_t *p)
{
	vq15 w;

	words_(w.w, 0, _mm256_loadu_si256((const void *)p));
	words_(w.w, 1, _mm256_loadu_si256((const void *)(p + 32)));
	return w;
}
INLINE vx15 vx15_load(const int8_t *x, size_t j)
{
	return (vx15){ quad_(x + 8 * j), quad_(x + 8 * j + 4) };
}
INLINE vsum15 vq15_start(int32_t start)
{
	const __m256i s = _mm256_set1_epi32(16 * start);

	return (v16i){ s, s };
}
INLINE __m256i words8_(__m256i sum, __m256i even, __m256i odd, vx15 x)
{
	return _mm256_add_epi32(_mm256_add_epi32(sum, _mm256_madd_epi16(even, x.even)), _mm256_madd_epi16(odd, x.odd));
}
INLINE vsum15 vq15_dot(vsum15 sum, vq15 w, vx15 x)
{
	return (v16i){ words8_(sum.a, w.w[0][0], w.w[1][0], x), words8_(sum.b, w.w[0][1], w.w[1][1], x) };
}
INLINE v16i vq15_sum(vsum15 sum) { return sum; }

/* ---- sixteen lanes of two words against the same two of x ---- */

INLINE v16i vp_dot(const vp *w, const int n, const int8_t *x)
{
	v16i sum = { _mm256_setzero_si256(), _mm256_setzero_si256() };

	UNROLL for (int j = 0; j < n; j++) {
		sum.a = _mm256_add_epi32(sum.a, _mm256_madd_epi16(w[j].a, quad_(x + 4 * j)));
		sum.b = _mm256_add_epi32(sum.b, _mm256_madd_epi16(w[j].b, quad_(x + 4 * j)));
	}
	return sum;
}

#endif
