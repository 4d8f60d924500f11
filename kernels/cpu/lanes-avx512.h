/*
 * Sixteen lanes in one AVX-512 register; integer products with VNNI.  Equal to
 * lanes-scalar.h bitwise, see there for what each operation means.
 */
#ifndef KERNELS_CPU_LANES_H
#define KERNELS_CPU_LANES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define V_ROOM 32                /* v16 that fit into the registers */

typedef __m512 v16;
typedef __m512i v16i;

INLINE v16 v_set1(float x) { return _mm512_set1_ps(x); }
INLINE v16 v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE v16 v_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE v16 v_load_i8(const int8_t *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
/* 2^p, and -infinity for -128 */
INLINE v16 v_load_exp2(const int8_t *p)
{
	__m512i e = _mm512_add_epi32(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)), _mm512_set1_epi32(127));

	return _mm512_castsi512_ps(_mm512_slli_epi32(e, 23));
}
INLINE v16 v_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
INLINE v16 v_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
INLINE v16 v_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
INLINE v16 v_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
INLINE v16 v_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
/* v_fma(v_set1(*x), b, c): compilers would keep what they broadcast, at the cost of a
 * load port's and a register's time */
INLINE v16 v_fma_of(const float *x, v16 b, v16 c)
{
	__asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(c) : "v"(b), "m"(*x));
	return c;
}
INLINE v16 v_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
INLINE v16 v_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
INLINE v16 v_abs(v16 a) { return _mm512_abs_ps(a); }
INLINE v16 v_pick(unsigned mask, v16 a, v16 b) { return _mm512_mask_blend_ps((__mmask16)mask, b, a); }
INLINE v16 v_less(v16 a, v16 b, v16 x, v16 y)
{
	return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
INLINE unsigned v_below(v16 a, v16 b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
INLINE __m256 upper_(v16 a) { return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1)); }
INLINE float v_sum(v16 a)
{
	__m256 x = _mm256_add_ps(_mm512_castps512_ps256(a), upper_(a));
	__m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

	y = _mm_add_ps(y, _mm_movehl_ps(y, y));
	return _mm_cvtss_f32(_mm_add_ss(y, _mm_movehdup_ps(y)));
}
INLINE float v_most(v16 a)
{
	__m256 x = _mm256_max_ps(_mm512_castps512_ps256(a), upper_(a));
	__m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));

	y = _mm_max_ps(y, _mm_movehl_ps(y, y));
	return _mm_cvtss_f32(_mm_max_ss(y, _mm_movehdup_ps(y)));
}
/* Of numbers without a sign, as their bits are ordered: a NaN is above all. */
INLINE v16 v_max_size(v16 a, v16 b)
{
	return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
#define FOUR_(op) \
	v16i x = op(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b)); \
	v16i y = op(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d)); \
	\
	x = op(_mm512_unpacklo_epi64(x, y), _mm512_unpackhi_epi64(x, y)); \
	x = op(x, _mm512_shuffle_i64x2(x, x, 0x4e)); \
	return op(x, _mm512_shuffle_i64x2(x, x, 0xb1))
INLINE v16i most_of4_(v16i a, v16i b, v16i c, v16i d) { FOUR_(_mm512_max_epi32); }
INLINE v16i v_total4(v16i a, v16i b, v16i c, v16i d) { FOUR_(_mm512_add_epi32); }
#undef FOUR_
INLINE v16 v_most_size4(v16 a, v16 b, v16 c, v16 d)
{
	return _mm512_castsi512_ps(most_of4_(_mm512_castps_si512(a), _mm512_castps_si512(b),
	                                     _mm512_castps_si512(c), _mm512_castps_si512(d)));
}
INLINE void v_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
INLINE void v_store_f16(uint16_t *p, v16 a)
{
	_mm256_storeu_si256((void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE v16 v_swap_pairs(v16 a) { return _mm512_permute_ps(a, 0xb1); }
/* a * *d, where *d = 2^*e, or a is 0: no product, and so beside those of integers (measured) */
INLINE v16 v_scaled(v16 a, const float *d, const float *e)
{
	(void)d;
	__asm__("vscalefps %1%{1to16%}, %0, %0" : "+v"(a) : "m"(*e));
	return a;
}
INLINE v16 v_exponent(v16 a) { return _mm512_cvtepi32_ps(_mm512_srli_epi32(_mm512_castps_si512(a), 23)); }
INLINE v16 v_scale2(v16 a, v16 t)
{
	__m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);

	return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), n));
}
INLINE v16i v_int(v16 a) { return _mm512_cvtps_epi32(a); }
INLINE v16i v_store_i8(int8_t *p, v16 a)
{
	__m512i q = _mm512_cvtps_epi32(a);

	_mm_storeu_si128((void *)p, _mm512_cvtepi32_epi8(q));
	return q;
}
INLINE v16i v_store_i16(void *p, v16 a)
{
	__m512i q = _mm512_cvtps_epi32(a);

	_mm256_storeu_si256(p, _mm512_cvtepi32_epi16(q));
	return q;
}
INLINE v16i v_store_evens(void *p, v16 a)
{
	__m512i q = _mm512_cvtps_epi32(a);

	_mm256_storeu_si256(p, _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(_mm512_cvtepi32_epi16(q), 0xd8), 0xd8));
	return q;
}
INLINE v16i v_store_i15(int8_t *high, int8_t *low, v16 a)
{
	__m512i q = _mm512_cvtps_epi32(a), h = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), 7);

	_mm_storeu_si128((void *)high, _mm512_cvtepi32_epi8(h));
	_mm_storeu_si128((void *)low, _mm512_cvtepi32_epi8(_mm512_sub_epi32(q, _mm512_slli_epi32(h, 7))));
	return q;
}
INLINE v16i v_plus(v16i a, v16i b) { return _mm512_add_epi32(a, b); }
INLINE v16i v_join(v16i high, v16i low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 7), low); }
INLINE v16 v_float(v16i a) { return _mm512_cvtepi32_ps(a); }

#define ABREAST 4                /* rows of a product whose integer sums grow in turns; */
#define ABREAST_HALVES 2         /* where a block has two; */
#define ROWS_APART 8             /* of a product: each asks for its share of the weights that come next */
#define SUMS 16                  /* in turns, of panels */
#define WORD_ROWS 8              /* of a product of words */

typedef struct { __m512i w[8]; int off; } vw;
typedef struct { v16i of[2 * ABREAST]; } vplanes_;        /* sums, for each row one or two */

/* up < 0: down */
INLINE __m512i shift_(__m512i x, const int up)
{
	return up > 0 ? _mm512_slli_epi16(x, up) : up < 0 ? _mm512_srli_epi16(x, -up) : x;
}

INLINE vw load_nibbles_(const uint8_t *p, const int n_bit, int off)
{
	const int above = n_bit - 4, n = above ? 8 / above : 8;
	const __m512i low = _mm512_set1_epi8(15), high = _mm512_set1_epi8((char)(((1 << above) - 1) << 4));
	vw w;

	w.off = off;
	UNROLL for (int j = 0; j < 4; j++) {
		__m512i x = _mm512_loadu_si512(p + 64 * j);

		w.w[j] = _mm512_and_si512(x, low);
		w.w[j + 4] = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
	}
	if (above)
		UNROLL for (int j = 0; j < 8; j++) {
			__m512i x = shift_(_mm512_loadu_si512(p + 256 + 64 * (j / n)), 4 - j % n * above);

			w.w[j] = _mm512_ternarylogic_epi32(x, high, w.w[j], 0xea);        /* x & high | w */
		}
	return w;
}

INLINE vw vw_load(const uint8_t *p, const int n_bit, int off)
{
	vw w;

	if (n_bit < 8)
		return load_nibbles_(p, n_bit, off);
	w.off = off;
	UNROLL for (int j = 0; j < 4; j++) {
		w.w[j] = _mm512_loadu_si512(p + 64 * j);
		w.w[j + 4] = _mm512_loadu_si512(p + 256 + 64 * j);
	}
	return w;
}

/* start: -8 times the sum of x */
INLINE v16i start_(int32_t start, const int off)
{
	__m512i r = _mm512_set1_epi32(start);

	return off == 0 ? _mm512_setzero_si512() : off == 8 ? r : _mm512_slli_epi32(r, off == 16 ? 1 : off == 32 ? 2 : 4);
}

/* In turns: each sum waits for its own last product.  Compilers would load what is broadcast into a
 * register of its own. */
INLINE vplanes_ dots_(const vw *w, const int n, const int8_t *const *x, const int32_t *start, int from, int to)
{
	vplanes_ r;

	UNROLL for (int i = 0; i < n; i++)
		r.of[i] = start_(start[i], w->off);
	UNROLL for (int j = from; j < to; j++)
		UNROLL for (int i = 0; i < n; i++)
			__asm__("vpdpbusd %2%{1to16%}, %1, %0"
			        : "+v"(r.of[i]) : "v"(w->w[j]), "m"(*(const int8_t (*)[4])(x[i] + 4 * j)));
	return r;
}

/* ---- sixteen lanes of four bytes q + 128 against the same four of x ---- */

typedef __m512i vq, vx;

INLINE vq vq_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE vx vx_load(const int8_t *x)
{
	int32_t quad;

	memcpy(&quad, x, 4);
	return _mm512_set1_epi32(quad);
}
INLINE v16i vq_dot(v16i sum, vq w, vx x) { return _mm512_dpbusd_epi32(sum, w, x); }
INLINE v16i vq_start(int32_t start) { return start_(start, 128); }

#include "kernels/cpu/lanes-vnni.h"

/* ---- the same weights as words, two a lane, against fifteen bits as v_store_evens has them ----
 * 32 * 128 * ACT_MOST < 2^27: no sum wraps, and each is the integer that two planes give. */

typedef struct { __m512i w[16]; } vwords;      /* [even and odd of a quad] */

/* Quads j and j + 4 of nibbles. */
INLINE void nibble_words_(vwords *w, const int j, __m512i x)
{
	const __m512i low = _mm512_set1_epi16(15);

	w->w[2 * j] = _mm512_and_si512(x, low);
	w->w[2 * j + 8] = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
	w->w[2 * j + 1] = _mm512_and_si512(_mm512_srli_epi16(x, 8), low);
	w->w[2 * j + 9] = _mm512_srli_epi16(x, 12);
}

/* The bits above those of quad j: from bit `at` of each byte. */
INLINE void above_words_(vwords *w, const int j, __m512i x, const int at, const int n_bit)
{
	const __m512i high = _mm512_set1_epi16((short)(((1 << (n_bit - 4)) - 1) << 4));

	w->w[2 * j] = _mm512_ternarylogic_epi32(shift_(x, 4 - at), high, w->w[2 * j], 0xea);
	w->w[2 * j + 1] = _mm512_ternarylogic_epi32(_mm512_srli_epi16(x, 4 + at), high, w->w[2 * j + 1], 0xea);
}

INLINE void vwords_load(vwords *w, const uint8_t *p, const int n_bit, const int off)
{
	const int above = n_bit - 4, n = above ? 8 / above : 8;

	UNROLL for (int j = 0; j < 8; j++) {
		const __m512i x = _mm512_loadu_si512(p + 64 * (n_bit < 8 ? j % 4 : j));

		if (n_bit == 8) {
			w->w[2 * j] = _mm512_and_si512(x, _mm512_set1_epi16(255));
			w->w[2 * j + 1] = _mm512_srli_epi16(x, 8);
		} else if (j < 4)
			nibble_words_(w, j, x);
	}
	if (n_bit < 8 && above)
		UNROLL for (int j = 0; j < 8; j++)
			above_words_(w, j, _mm512_loadu_si512(p + 256 + 64 * (j / n)), j % n * above, n_bit);
	if (off)
		UNROLL for (int j = 0; j < 16; j++)
			w->w[j] = _mm512_sub_epi16(w->w[j], _mm512_set1_epi16((short)off));
}

/* Compilers would keep them in the registers that sums need. */
INLINE void vwords_keep(vwords *w) { __asm__("" : "+m"(w->w)); }

/* Of n rows side by side, x: the first one's.  An address is written out for each product: compilers would keep
 * it in a register. */
INLINE vsums vwords_dots(const vwords *w, const int n, const int8_t *x, int from, int to)
{
	vsums r;

	UNROLL for (int i = 0; i < n; i++)
		r.of[i] = _mm512_setzero_si512();
	UNROLL for (int j = 2 * from; j < 2 * to; j++)
		UNROLL for (int i = 0; i < n; i++)
			__asm__("vpdpwssd %2%{1to16%}, %1, %0"
			        : "+v"(r.of[i]) : "v"(w->w[j]), "m"(*(const int8_t (*)[4])(x + 64 * i + 4 * j)));
	return r;
}

/* The same of bytes; start: of the first row */
INLINE vsums vw_panel_dots(const vw *w, const int n, const int8_t *x, const int32_t *start, int from, int to)
{
	vsums r;

	UNROLL for (int i = 0; i < n; i++)
		r.of[i] = start_(start[i], w->off);
	UNROLL for (int j = from; j < to; j++)
		UNROLL for (int i = 0; i < n; i++)
			__asm__("vpdpbusd %2%{1to16%}, %1, %0"
			        : "+v"(r.of[i]) : "v"(w->w[j]), "m"(*(const int8_t (*)[4])(x + 32 * i + 4 * j)));
	return r;
}

/* ---- sixteen lanes of two words against the same two of x ---- */

typedef __m512i vp;

INLINE vp vp_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
INLINE v16i vp_dot(const vp *w, const int n, const int8_t *x)
{
	v16i sum = _mm512_setzero_si512();

	UNROLL for (int j = 0; j < n; j++)
		__asm__("vpdpwssd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(w[j]), "m"(*(const int8_t (*)[4])(x + 4 * j)));
	return sum;
}

#endif
