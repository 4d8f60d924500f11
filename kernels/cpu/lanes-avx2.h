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

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

#define V_ROOM 8                 /* v16 that fit into the registers */

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

#define TILE_ROWS 8              /* their sums lie in the first cache, and a block is made ready for all of them */
#define ABREAST 2
#define ABREAST_HALVES 2
#define WORD_ROWS 4              /* eight were slower (measured) */

typedef struct { __m256i w[8][2], size[8][2]; int n_bit, off; } vw;        /* size: |w| of eight bits, which are made signed */
typedef struct { v16i of[ABREAST]; } vsums;

/* up < 0: down */
INLINE __m256i shift_(__m256i x, const int up)
{
	return up > 0 ? _mm256_slli_epi16(x, up) : up < 0 ? _mm256_srli_epi16(x, -up) : x;
}

INLINE __m256i line_(const uint8_t *p, int j, int h)
{
	return _mm256_loadu_si256((const void *)(p + 64 * j + 32 * h));
}

INLINE vw vw_load(const uint8_t *p, const int n_bit, int off)
{
	const int above = n_bit - 4, n = above ? 8 / above : 8;
	const __m256i low = _mm256_set1_epi8(15), high = _mm256_set1_epi8((char)(((1 << above) - 1) << 4));
	const __m256i flip = _mm256_set1_epi8((char)off);
	vw w;

	w.n_bit = n_bit;
	w.off = off;
	UNROLL for (int j = 0; j < 8; j++)
		UNROLL for (int h = 0; h < 2; h++) {
			if (n_bit == 8) {
				w.w[j][h] = _mm256_xor_si256(line_(p, j, h), flip);
				w.size[j][h] = _mm256_abs_epi8(w.w[j][h]);
				continue;
			}
			w.w[j][h] = _mm256_and_si256(j < 4 ? line_(p, j, h) : _mm256_srli_epi16(line_(p, j - 4, h), 4), low);
			if (above)
				w.w[j][h] = _mm256_or_si256(w.w[j][h], _mm256_and_si256(shift_(line_(p + 256, j / n, h), 4 - j % n * above), high));
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

/* Four bytes, or two words, for all lanes. */
INLINE __m256i quad_(const int8_t *x)
{
	int32_t quad;

	memcpy(&quad, x, 4);
	return _mm256_set1_epi32(quad);
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

INLINE v16i v_store_fifteen(int8_t *q, unsigned at, v16 x)
{
	v16i r = v_int(x);
	__m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(r.a, r.b), 0xd8);

	words = _mm256_shufflehi_epi16(_mm256_shufflelo_epi16(words, 0xd8), 0xd8);
	_mm256_storeu_si256((void *)(q + 2 * at), words);
	return r;
}

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

typedef struct { __m256i a, b; } vp;

INLINE vp vp_load(const uint8_t *p)
{
	return (vp){ _mm256_loadu_si256((const void *)p), _mm256_loadu_si256((const void *)(p + 32)) };
}
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
