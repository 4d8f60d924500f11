/*
 * Block formats of quantized weights, as a table: one row a format.
 *
 * The numbers are GGML's (a GGUF file carries them), the layouts are those of
 * ggml-common.h, little endian.  Adding a format is a row in quants.c; a backend
 * packs it from its parts and needs to know no layout.  No state; any thread.
 */
#ifndef KERNELS_QUANTS_H
#define KERNELS_QUANTS_H

#include <stddef.h>
#include <stdint.h>

enum quant_type {
	QUANT_F32 = 0, QUANT_F16 = 1, QUANT_Q4_0 = 2, QUANT_Q4_1 = 3,
	QUANT_Q5_0 = 6, QUANT_Q5_1 = 7, QUANT_Q8_0 = 8,
	QUANT_Q2_K = 10, QUANT_Q3_K = 11, QUANT_Q4_K = 12, QUANT_Q5_K = 13, QUANT_Q6_K = 14,
	QUANT_BF16 = 30, QUANT_MXFP4 = 39,
};

#define QUANT_BLOCK_MAX 256

/* One quantized block taken apart.  Value i, with j = i / n_sub, is
 *     (d * scale[j]) * q[i] + m * min[j]
 * where both products in brackets and with min are exact in float32. */
struct quant_parts {
	uint16_t d, m;                  /* IEEE halves; m is 0 without mins */
	int8_t q[QUANT_BLOCK_MAX];      /* with mins >= 0, else centred on 0 */
	int8_t scale[QUANT_BLOCK_MAX / 16];
	int8_t min[QUANT_BLOCK_MAX / 16];
};

struct quant {
	const char *name;      /* "Q4_1" */
	uint32_t type;         /* enum quant_type */
	uint32_t n_block;      /* values in a block */
	uint32_t n_byte;       /* bytes of a block */
	/* dst[n_block * n] = the values of n blocks at src; src needs no alignment */
	void (*dequantize)(const void *src, float *dst, size_t n);
	/* Takes one block apart; NULL for F32, F16 and BF16, whose n_sub is 0. */
	void (*unpack)(const void *src, struct quant_parts *parts);
	uint32_t n_sub;        /* values that share a scale: 16 or 32 */
	uint8_t n_bit;         /* of q: 2 to 8 */
	uint8_t has_min;       /* parts.m and parts.min are used */
};

/* NULL: not a format of ours. */
const struct quant *quant_find(uint32_t type);

/* The i-th row of the table, NULL past the end: for tests, listings and docs. */
const struct quant *quant_at(size_t i);

float quant_f16(uint16_t h);           /* IEEE half -> float, exact */
uint16_t quant_to_f16(float x);        /* float -> IEEE half, nearest even */
float quant_bf16(uint16_t h);          /* bfloat16 -> float, exact */

#endif
