/*
 * Sixteen lanes in one AVX-512 register; integer products with VNNI.  Equal to
 * lanes-scalar.h bitwise, see there for what each operation means.
 */
#ifndef KERNELS_CPU_LANES_H
#define KERNELS_CPU_LANES_H

#include <immintrin.h>
#include <stdint.h>
#include <string.h>

typedef __m512 v16;
typedef __m512i v16i;

INLINE v16 v_set1(float x) { return _mm512_set1_ps(x); }
INLINE v16 v_load(const float *p) { return _mm512_loadu_ps(p); }
INLINE v16 v_load_f16(const uint16_t *p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)p)); }
INLINE v16 v_load_bf16(const uint16_t *p)
{
	__m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p));

	return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
}
INLINE v16 v_load_i8(const int8_t *p)
{
	return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)p)));
}
INLINE v16 v_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
INLINE v16 v_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
INLINE v16 v_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
INLINE v16 v_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
INLINE v16 v_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
INLINE v16 v_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
INLINE v16 v_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
INLINE v16 v_abs(v16 a) { return _mm512_abs_ps(a); }
INLINE v16 v_pick(unsigned mask, v16 a, v16 b) { return _mm512_mask_blend_ps((__mmask16)mask, b, a); }
INLINE v16 v_less(v16 a, v16 b, v16 x, v16 y)
{
	return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
INLINE void v_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
INLINE void v_store_f16(uint16_t *p, v16 a)
{
	_mm256_storeu_si256((void *)p, _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE v16 v_scale2(v16 a, v16 t)
{
	__m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);

	return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(a), n));
}
INLINE int32_t v_store_i15(int8_t *high, int8_t *low, v16 a)
{
	__m512i q = _mm512_cvtps_epi32(a);
	__m512i h = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(64)), 7);

	_mm_storeu_si128((void *)high, _mm512_cvtepi32_epi8(h));
	_mm_storeu_si128((void *)low, _mm512_cvtepi32_epi8(_mm512_sub_epi32(q, _mm512_slli_epi32(h, 7))));
	return _mm512_reduce_add_epi32(q);
}
INLINE v16i v_join(v16i high, v16i low) { return _mm512_add_epi32(_mm512_slli_epi32(high, 7), low); }
INLINE v16 v_float(v16i a) { return _mm512_cvtepi32_ps(a); }

typedef struct { __m512i w[8]; int off; } vw;

INLINE vw vw_load4(const uint8_t *p, int off)
{
	const __m512i low = _mm512_set1_epi8(15);
	vw w;

	w.off = off;
	UNROLL for (int j = 0; j < 4; j++) {
		__m512i x = _mm512_loadu_si512(p + 64 * j);

		w.w[j] = _mm512_and_si512(x, low);
		w.w[j + 4] = _mm512_and_si512(_mm512_srli_epi16(x, 4), low);
	}
	return w;
}

INLINE vw vw_load8(const uint8_t *p, int off)
{
	vw w;

	w.off = off;
	UNROLL for (int j = 0; j < 8; j++)
		w.w[j] = _mm512_loadu_si512(p + 64 * j);
	return w;
}

INLINE v16i vw_dot(const vw *w, const int8_t *x, int32_t sum, int from, int to)
{
	__m512i r = w->off ? _mm512_set1_epi32(-w->off * sum) : _mm512_setzero_si512();
	int32_t quad;

	UNROLL for (int j = from; j < to; j++) {
		memcpy(&quad, x + 4 * j, 4);
		r = _mm512_dpbusd_epi32(r, w->w[j], _mm512_set1_epi32(quad));
	}
	return r;
}

#endif
