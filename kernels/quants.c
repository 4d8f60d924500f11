/*
 * The table of block formats.
 *
 * Each quantized format is one function that takes a block apart into integers,
 * integer scales and two halves (struct quant_parts); dequantizing is the same
 * arithmetic for all of them.  Layouts: ggml-common.h.  Nothing here knows a
 * device: packing for one is its backend's.
 */
#include "kernels/quants.h"

#include <string.h>

float quant_f16(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023, bits;
	float x;

	if (e == 0) {
		x = (float)m * 0x1p-24f;        /* zero and subnormals */
		return sign ? -x : x;
	}
	bits = e == 31 ? sign | 0x7f800000u | m << 13 : sign | (e + 112) << 23 | m << 13;
	memcpy(&x, &bits, sizeof(x));
	return x;
}

uint16_t quant_to_f16(float x)
{
	uint32_t bits, sign, mag, e, m, shift, rest, half;

	memcpy(&bits, &x, sizeof(bits));
	sign = bits >> 16 & 0x8000;
	mag = bits & 0x7fffffffu;
	if (mag > 0x7f800000u)                  /* NaN stays one */
		return (uint16_t)(sign | 0x7e00 | (mag >> 13 & 0x3ff));
	if (mag >= 0x477ff000u)                 /* rounds to 65536 or more */
		return (uint16_t)(sign | 0x7c00);
	if (mag < 0x33000000u)                  /* less than half of the least subnormal */
		return (uint16_t)sign;
	e = mag >> 23;
	if (e < 113) {                          /* subnormal: shift the full mantissa */
		m = (mag & 0x7fffffu) | 0x800000u;
		shift = 126 - e;
	} else {
		m = mag - (112u << 23);
		shift = 13;
	}
	rest = m & ((1u << shift) - 1);
	half = 1u << (shift - 1);
	m >>= shift;
	if (rest > half || (rest == half && (m & 1)))
		m++;
	return (uint16_t)(sign | m);
}

float quant_bf16(uint16_t h)
{
	uint32_t bits = (uint32_t)h << 16;
	float x;

	memcpy(&x, &bits, sizeof(x));
	return x;
}

static uint16_t half_at(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

/* ---- formats of 32 values with one scale ---- */

static void one_scale(struct quant_parts *o, uint16_t d, uint16_t m)
{
	o->d = d;
	o->m = m;
	o->scale[0] = 1;
	o->min[0] = 1;
}

/* 16 bytes: low nibbles are values 0..15, high ones 16..31. */
static void nibbles(const uint8_t *p, int8_t *q, int centre)
{
	for (int i = 0; i < 16; i++) {
		q[i] = (int8_t)((p[i] & 15) - centre);
		q[i + 16] = (int8_t)((p[i] >> 4) - centre);
	}
}

/* The same with a fifth bit for each value from the 32 bits at h. */
static void five_bits(const uint8_t *h, const uint8_t *p, int8_t *q, int centre)
{
	for (int i = 0; i < 16; i++) {
		q[i] = (int8_t)(((p[i] & 15) | (h[i / 8] >> i % 8 & 1) << 4) - centre);
		q[i + 16] = (int8_t)(((p[i] >> 4) | (h[2 + i / 8] >> i % 8 & 1) << 4) - centre);
	}
}

static void unpack_q4_0(const void *src, struct quant_parts *o)
{
	const uint8_t *p = src;

	one_scale(o, half_at(p), 0);
	nibbles(p + 2, o->q, 8);
}

/* Four-bit floats: doubled, they are whole.  The scale is a power of two, of which a
 * half holds those from 2^-24 to 2^15; weights of others would be nothing, or absurd. */
static void unpack_mxfp4(const void *src, struct quant_parts *o)
{
	static const int8_t doubled[16] = { 0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12 };
	const uint8_t *p = src;
	const int e = p[0] - 128;

	/* halves: below 2^-14 they lose their leading one */
	one_scale(o, e < -24 ? 0 : e < -14 ? (uint16_t)(1 << (e + 24)) : (uint16_t)(((e > 15 ? 15 : e) + 15) << 10), 0);
	nibbles(p + 1, o->q, 0);
	for (int i = 0; i < 32; i++)
		o->q[i] = doubled[o->q[i]];
}

static void unpack_q4_1(const void *src, struct quant_parts *o)
{
	const uint8_t *p = src;

	one_scale(o, half_at(p), half_at(p + 2));
	nibbles(p + 4, o->q, 0);
}

static void unpack_q5_0(const void *src, struct quant_parts *o)
{
	const uint8_t *p = src;

	one_scale(o, half_at(p), 0);
	five_bits(p + 2, p + 6, o->q, 16);
}

static void unpack_q5_1(const void *src, struct quant_parts *o)
{
	const uint8_t *p = src;

	one_scale(o, half_at(p), half_at(p + 2));
	five_bits(p + 4, p + 8, o->q, 0);
}

static void unpack_q8_0(const void *src, struct quant_parts *o)
{
	const uint8_t *p = src;

	one_scale(o, half_at(p), 0);
	memcpy(o->q, p + 2, 32);
}

/* ---- K formats: 256 values, integer scales of their own ---- */

/* 2-bit values: 64 bytes, in two halves of 128 values; within a half the bits
 * 2s..2s+1 of 32 bytes are values 32s..32s+31. */
static void two_bits(const uint8_t *p, int8_t *q)
{
	for (int i = 0; i < 256; i++)
		q[i] = (int8_t)(p[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3);
}

static void unpack_q2_k(const void *src, struct quant_parts *o)
{
	const uint8_t *p = src;

	o->d = half_at(p + 80);
	o->m = half_at(p + 82);
	for (int j = 0; j < 16; j++) {
		o->scale[j] = (int8_t)(p[j] & 15);
		o->min[j] = (int8_t)-(p[j] >> 4);
	}
	two_bits(p + 16, o->q);
}

static void unpack_q3_k(const void *src, struct quant_parts *o)
{
	const uint8_t *h = src, *s = h + 96;
	int low, high;

	o->d = half_at(h + 108);
	o->m = 0;
	for (int j = 0; j < 16; j++) {
		low = j < 8 ? s[j] & 15 : s[j - 8] >> 4;
		high = s[8 + j % 4] >> j / 4 * 2 & 3;
		o->scale[j] = (int8_t)((low | high << 4) - 32);
	}
	two_bits(h + 32, o->q);
	for (int i = 0; i < 256; i++)
		if (!(h[i % 32] >> i / 32 & 1))
			o->q[i] = (int8_t)(o->q[i] - 4);
}

/* The twelve bytes of 6-bit scales and mins that Q4_K and Q5_K share. */
static void six_bit_scales(const uint8_t *s, struct quant_parts *o)
{
	for (int j = 0; j < 4; j++) {
		o->scale[j] = (int8_t)(s[j] & 63);
		o->min[j] = (int8_t)-(s[j + 4] & 63);
		o->scale[j + 4] = (int8_t)((s[j + 8] & 15) | s[j] >> 6 << 4);
		o->min[j + 4] = (int8_t)-(s[j + 8] >> 4 | s[j + 4] >> 6 << 4);
	}
}

/* Nibbles in runs of 64: 32 low ones, then the 32 high ones of the same bytes. */
static int nibble_k(const uint8_t *p, int i)
{
	return p[i / 64 * 32 + i % 32] >> i % 64 / 32 * 4 & 15;
}

static void unpack_q4_k(const void *src, struct quant_parts *o)
{
	const uint8_t *p = src;

	o->d = half_at(p);
	o->m = half_at(p + 2);
	six_bit_scales(p + 4, o);
	for (int i = 0; i < 256; i++)
		o->q[i] = (int8_t)nibble_k(p + 16, i);
}

static void unpack_q5_k(const void *src, struct quant_parts *o)
{
	const uint8_t *p = src, *h = p + 16;

	o->d = half_at(p);
	o->m = half_at(p + 2);
	six_bit_scales(p + 4, o);
	for (int i = 0; i < 256; i++)
		o->q[i] = (int8_t)(nibble_k(p + 48, i) | (h[i % 32] >> i / 32 & 1) << 4);
}

static void unpack_q6_k(const void *src, struct quant_parts *o)
{
	const uint8_t *l = src, *h = l + 128;
	int half, low, high;

	o->d = half_at(l + 208);
	o->m = 0;
	memcpy(o->scale, l + 192, 16);
	for (int i = 0; i < 256; i++) {
		half = i / 128;
		low = l[half * 64 + i % 64] >> i % 128 / 64 * 4 & 15;
		high = h[half * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
		o->q[i] = (int8_t)((low | high << 4) - 32);
	}
}

/* ---- values ---- */

static void values(const struct quant *k, const uint8_t *src, float *dst, size_t n)
{
	struct quant_parts o;
	float d, m, scale, min;

	for (; n > 0; n--, src += k->n_byte) {
		k->unpack(src, &o);
		d = quant_f16(o.d);
		m = quant_f16(o.m);
		for (uint32_t j = 0; j < k->n_block / k->n_sub; j++) {
			scale = d * (float)o.scale[j];
			min = k->has_min ? m * (float)o.min[j] : 0;
			for (uint32_t i = 0; i < k->n_sub; i++) {
				float v = scale * (float)o.q[j * k->n_sub + i];

				*dst++ = k->has_min ? v + min : v;
			}
		}
	}
}

static void dequantize_f32(const void *src, float *dst, size_t n)
{
	memcpy(dst, src, n * sizeof(float));
}

static void dequantize_f16(const void *src, float *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = quant_f16(half_at((const uint8_t *)src + 2 * i));
}

static void dequantize_bf16(const void *src, float *dst, size_t n)
{
	for (size_t i = 0; i < n; i++)
		dst[i] = quant_bf16(half_at((const uint8_t *)src + 2 * i));
}

/* name, type, values, bytes, sub-block, bits of q, has mins */
#define QUANTIZED(X) \
	X(q4_0, Q4_0, 32,   18, 32, 4, 0) \
	X(q4_1, Q4_1, 32,   20, 32, 4, 1) \
	X(q5_0, Q5_0, 32,   22, 32, 5, 0) \
	X(q5_1, Q5_1, 32,   24, 32, 5, 1) \
	X(q8_0, Q8_0, 32,   34, 32, 8, 0) \
	X(mxfp4, MXFP4, 32, 17, 32, 5, 0) \
	X(q2_k, Q2_K, 256,  84, 16, 2, 1) \
	X(q3_k, Q3_K, 256, 110, 16, 3, 0) \
	X(q4_k, Q4_K, 256, 144, 32, 4, 1) \
	X(q5_k, Q5_K, 256, 176, 32, 5, 1) \
	X(q6_k, Q6_K, 256, 210, 16, 6, 0)

#define DECLARE(f, T, values, bytes, sub, bits, mins) \
	static void dequantize_##f(const void *src, float *dst, size_t n);
QUANTIZED(DECLARE)

#define ROW(f, T, values, bytes, sub, bits, mins) \
	{ #T, QUANT_##T, values, bytes, dequantize_##f, unpack_##f, sub, bits, mins },
#define INDEX(f, T, values, bytes, sub, bits, mins) AT_##T,
enum { QUANTIZED(INDEX) N_QUANTIZED };

static const struct quant quants[] = {
	QUANTIZED(ROW)
	{ "F32",  QUANT_F32,  1, 4, dequantize_f32,  NULL, 0, 32, 0 },
	{ "F16",  QUANT_F16,  1, 2, dequantize_f16,  NULL, 0, 16, 0 },
	{ "BF16", QUANT_BF16, 1, 2, dequantize_bf16, NULL, 0, 16, 0 },
};

#define DEFINE(f, T, n_value, bytes, sub, bits, mins) \
	static void dequantize_##f(const void *src, float *dst, size_t n) \
	{ \
		values(&quants[AT_##T], src, dst, n); \
	}
QUANTIZED(DEFINE)

const struct quant *quant_at(size_t i)
{
	return i < sizeof(quants) / sizeof(quants[0]) ? &quants[i] : NULL;
}

const struct quant *quant_find(uint32_t type)
{
	const struct quant *k;

	for (size_t i = 0; (k = quant_at(i)) != NULL; i++)
		if (k->type == type)
			return k;
	return NULL;
}
