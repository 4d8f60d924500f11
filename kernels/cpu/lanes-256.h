/*
 * Sixteen lanes in two registers of AVX2, without products of integers, which differ.
 * Included by the lanes that have them.
 */
#ifndef KERNELS_CPU_LANES_256_H
#define KERNELS_CPU_LANES_256_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define V_ROOM 8                 /* v16 that fit into the registers */
#define ROWS_APART 0             /* none asks between rows: slower here (measured) */

typedef struct { __m256 a, b; } v16;       /* lanes 0..7, 8..15 */
typedef struct { __m256i a, b; } v16i;

#define BOTH(expression_a, expression_b) return (v16){ expression_a, expression_b }

INLINE v16 v_set1(float x) { BOTH(_mm256_set1_ps(x), _mm256_set1_ps(x)); }
INLINE v16 v_load(const float *p) { BOTH(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)); }
INLINE __m256 half8_(const uint16_t *p) { return _mm256_cvtph_ps(_mm_loadu_si128((const void *)p)); }
INLINE v16 v_load_f16(const uint16_t *p) { BOTH(half8_(p), half8_(p + 8)); }
INLINE __m256 byte8_(const int8_t *p)
{
	return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)));
}
INLINE v16 v_load_i8(const int8_t *p) { BOTH(byte8_(p), byte8_(p + 8)); }
/* 2^p, and -infinity for -128 */
INLINE __m256 exp8_(const int8_t *p)
{
	__m256i e = _mm256_add_epi32(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)p)), _mm256_set1_epi32(127));

	return _mm256_castsi256_ps(_mm256_slli_epi32(e, 23));
}
INLINE v16 v_load_exp2(const int8_t *p) { BOTH(exp8_(p), exp8_(p + 8)); }
INLINE v16 v_add(v16 x, v16 y) { BOTH(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)); }
INLINE v16 v_sub(v16 x, v16 y) { BOTH(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)); }
INLINE v16 v_mul(v16 x, v16 y) { BOTH(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)); }
INLINE v16 v_div(v16 x, v16 y) { BOTH(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)); }
INLINE v16 v_fma(v16 x, v16 y, v16 z)
{
	BOTH(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}
INLINE v16 v_fma_of(const float *x, v16 b, v16 c) { return v_fma(v_set1(*x), b, c); }
INLINE v16 v_min(v16 x, v16 y) { BOTH(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)); }
INLINE v16 v_max(v16 x, v16 y) { BOTH(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)); }
INLINE v16 v_abs(v16 x)
{
	const __m256 sign = _mm256_set1_ps(-0.0f);

	BOTH(_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b));
}
INLINE __m256 spread_(unsigned mask)
{
	const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
	__m256i m = _mm256_and_si256(_mm256_set1_epi32((int)mask), bit);

	return _mm256_castsi256_ps(_mm256_cmpeq_epi32(m, bit));
}
INLINE v16 v_pick(unsigned mask, v16 x, v16 y)
{
	BOTH(_mm256_blendv_ps(y.a, x.a, spread_(mask)), _mm256_blendv_ps(y.b, x.b, spread_(mask >> 8)));
}
INLINE v16 v_less(v16 a, v16 b, v16 x, v16 y)
{
	BOTH(_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
	     _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ)));
}
INLINE float v_sum(v16 x)
{
	__m256 y = _mm256_add_ps(x.a, x.b);
	__m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));

	z = _mm_add_ps(z, _mm_movehl_ps(z, z));
	return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
}
INLINE float v_most(v16 x)
{
	__m256 y = _mm256_max_ps(x.a, x.b);
	__m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));

	z = _mm_max_ps(z, _mm_movehl_ps(z, z));
	return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
}
INLINE unsigned v_below(v16 x, v16 y)
{
	return (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ))
	       | (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ)) << 8;
}
/* Of numbers without a sign, as their bits are ordered: a NaN is above all. */
INLINE __m256 max_size_(__m256 a, __m256 b)
{
	return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
INLINE v16 v_max_size(v16 x, v16 y) { BOTH(max_size_(x.a, y.a), max_size_(x.b, y.b)); }
#define FOUR_(op) \
	__m256i x = op(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)); \
	__m256i y = op(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d)); \
	\
	x = op(_mm256_unpacklo_epi64(x, y), _mm256_unpackhi_epi64(x, y)); \
	return op(x, _mm256_permute2x128_si256(x, x, 1))
INLINE __m256i most_of4_(__m256i a, __m256i b, __m256i c, __m256i d) { FOUR_(_mm256_max_epi32); }
INLINE __m256i total4_(__m256i a, __m256i b, __m256i c, __m256i d) { FOUR_(_mm256_add_epi32); }
#undef FOUR_
INLINE __m256i most_bits_(v16 x) { return _mm256_castps_si256(max_size_(x.a, x.b)); }
INLINE v16 v_most_size4(v16 a, v16 b, v16 c, v16 d)
{
	__m256 most = _mm256_castsi256_ps(most_of4_(most_bits_(a), most_bits_(b), most_bits_(c), most_bits_(d)));

	BOTH(most, most);
}
INLINE v16i v_total4(v16i a, v16i b, v16i c, v16i d)
{
	__m256i sum = total4_(_mm256_add_epi32(a.a, a.b), _mm256_add_epi32(b.a, b.b),
	                      _mm256_add_epi32(c.a, c.b), _mm256_add_epi32(d.a, d.b));

	return (v16i){ sum, sum };
}
INLINE void v_store(float *p, v16 x)
{
	_mm256_storeu_ps(p, x.a);
	_mm256_storeu_ps(p + 8, x.b);
}
INLINE void v_store_f16(uint16_t *p, v16 x)
{
	_mm_storeu_si128((void *)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
	_mm_storeu_si128((void *)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
}
INLINE v16 v_swap_pairs(v16 x) { BOTH(_mm256_permute_ps(x.a, 0xb1), _mm256_permute_ps(x.b, 0xb1)); }
INLINE __m256 scale8_(__m256 a, __m256 t)
{
	__m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);

	return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(a), n));
}
INLINE v16 v_scaled(v16 x, const float *d, const float *e)
{
	(void)e;
	return v_mul(x, v_set1(*d));
}
INLINE v16 v_exponent(v16 x)
{
	BOTH(_mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_castps_si256(x.a), 23)),
	     _mm256_cvtepi32_ps(_mm256_srli_epi32(_mm256_castps_si256(x.b), 23)));
}
INLINE v16 v_scale2(v16 x, v16 t) { BOTH(scale8_(x.a, t.a), scale8_(x.b, t.b)); }
INLINE v16i v_int(v16 x) { return (v16i){ _mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b) }; }
INLINE v16i v_store_i8(int8_t *p, v16 x)
{
	v16i q = v_int(x);
	__m128i a = _mm_packs_epi32(_mm256_castsi256_si128(q.a), _mm256_extracti128_si256(q.a, 1));
	__m128i b = _mm_packs_epi32(_mm256_castsi256_si128(q.b), _mm256_extracti128_si256(q.b, 1));

	_mm_storeu_si128((void *)p, _mm_packs_epi16(a, b));
	return q;
}
INLINE v16i v_store_i16(void *p, v16 x)
{
	v16i q = v_int(x);

	_mm256_storeu_si256(p, _mm256_permute4x64_epi64(_mm256_packs_epi32(q.a, q.b), 0xd8));
	return q;
}
INLINE v16i v_store_evens(void *p, v16 x)
{
	v16i r = v_int(x);
	__m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(r.a, r.b), 0xd8);

	_mm256_storeu_si256(p, _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xd8), 0xd8));
	return r;
}
INLINE v16i v_store_i15(int8_t *high, int8_t *low, v16 x)
{
	const __m128i half = _mm_set1_epi16(64);
	v16i q = v_int(x);
	__m128i qa = _mm_packs_epi32(_mm256_castsi256_si128(q.a), _mm256_extracti128_si256(q.a, 1));
	__m128i qb = _mm_packs_epi32(_mm256_castsi256_si128(q.b), _mm256_extracti128_si256(q.b, 1));
	__m128i ha = _mm_srai_epi16(_mm_add_epi16(qa, half), 7), hb = _mm_srai_epi16(_mm_add_epi16(qb, half), 7);

	_mm_storeu_si128((void *)high, _mm_packs_epi16(ha, hb));
	_mm_storeu_si128((void *)low, _mm_packs_epi16(_mm_sub_epi16(qa, _mm_slli_epi16(ha, 7)),
	                                              _mm_sub_epi16(qb, _mm_slli_epi16(hb, 7))));
	return q;
}
INLINE v16i v_plus(v16i x, v16i y) { return (v16i){ _mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b) }; }
INLINE v16 v_float(v16i x) { BOTH(_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)); }

#undef BOTH

/* ---- integers as they lie in memory ---- */

/* up < 0: down */
INLINE __m256i shift_(__m256i x, const int up)
{
	return up > 0 ? _mm256_slli_epi16(x, up) : up < 0 ? _mm256_srli_epi16(x, -up) : x;
}

INLINE __m256i line_(const uint8_t *p, int j, int h)
{
	return _mm256_loadu_si256((const void *)(p + 64 * j + 32 * h));
}

/* A block's weights: of eight bits as they are, of fewer as bytes. */
INLINE void load_(__m256i (*w)[2], const uint8_t *p, const int n_bit)
{
	const int above = n_bit - 4, n = above ? 8 / above : 8;
	const __m256i low = _mm256_set1_epi8(15), high = _mm256_set1_epi8((char)(((1 << above) - 1) << 4));

	UNROLL for (int j = 0; j < 8; j++)
		UNROLL for (int h = 0; h < 2; h++) {
			w[j][h] = n_bit == 8 || j < 4 ? line_(p, j, h) : _mm256_srli_epi16(line_(p, j - 4, h), 4);
			if (n_bit == 8)
				continue;
			w[j][h] = _mm256_and_si256(w[j][h], low);
			if (above)
				w[j][h] = _mm256_or_si256(w[j][h], _mm256_and_si256(shift_(line_(p + 256, j / n, h), 4 - j % n * above), high));
		}
}

/* Four bytes, or two words, for all lanes. */
INLINE __m256i quad_(const int8_t *x)
{
	int32_t quad;

	memcpy(&quad, x, 4);
	return _mm256_set1_epi32(quad);
}

/* Sixteen lanes of two words. */
typedef v16i vp;

INLINE vp vp_load(const uint8_t *p)
{
	return (vp){ _mm256_loadu_si256((const void *)p), _mm256_loadu_si256((const void *)(p + 32)) };
}

#endif
