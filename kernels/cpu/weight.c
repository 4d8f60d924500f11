/*
 * Weights, repacked at load so that a SIMD lane is an output row.
 *
 * The hard idea: a group is sixteen output rows side by side.  Per block of 32
 * inputs it holds bytes [4 inputs at a time][row][4], as an integer dot product
 * wants them, and its scales as [row]; formats differ only in the number of bits
 * and in the kind of scale (struct quant_parts), not in kernels.  What is stored
 * represents the file's values exactly; only halves and bfloats are rounded, to fifteen bits
 * of the largest of a block of 32 (isa.h), so that they meet activations of fifteen bits as
 * integers: half the time of float products.  Exact products take them from the file.
 */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/check.h"
#include "kernels/cpu/cpu.h"

static size_t align64(size_t n)
{
	return (n + 63) / 64 * 64;
}

/* Halves and bfloats without whole blocks are floats. */
static enum pack pack_of(const struct quant *q, uint32_t n_in)
{
	if (q->n_sub)
		return PACK_INT;
	return q->type == QUANT_F32 || n_in % 32 ? PACK_F32 : PACK_WORD;
}

static uint32_t bits_of(const struct quant *q)
{
	if (!q->n_sub)
		return 16;
	return q->n_bit <= 4 ? 4 : q->n_bit <= 6 ? q->n_bit : 8;
}

/* Of 32 inputs of a group. */
static size_t block_bytes(const struct weight *w)
{
	return 64 * (size_t)w->n_bit;
}

/* Sets the pointers of w into one block of memory, or counts with base NULL. */
static size_t lay_out(struct weight *w, uint8_t *base)
{
	const struct quant *q = w->quant;
	size_t group = w->n_group, n_sub, n_super, at;

	switch (w->pack) {
	case PACK_F32:
		w->values = base;
		return group * w->n_in * 16 * sizeof(float);
	case PACK_WORD:
		w->values = base;
		at = group * (w->n_in / 32) * block_bytes(w);
		w->scale8 = (int8_t *)(base + at);
		return align64(at + group * (w->n_in / 32) * 16);
	case PACK_INT:
		break;
	}
	n_sub = group * (w->n_in / q->n_sub) * 16;
	n_super = group * (w->n_in / 256) * 16;
	w->values = base;
	at = group * (w->n_in / 32) * block_bytes(w);
	if (q->n_block == 32) {
		w->scale16 = (uint16_t *)(void *)(base + at);
		at = align64(at + n_sub * 2);
		w->min16 = (uint16_t *)(void *)(base + at);
		return align64(at + (q->has_min ? n_sub * 2 : 0));
	}
	w->scale8 = (int8_t *)(base + at);
	at = align64(at + n_sub);
	w->min8 = (int8_t *)(base + at);
	at = align64(at + (q->has_min ? n_sub : 0));
	w->d = (uint16_t *)(void *)(base + at);
	at = align64(at + n_super * 2);
	w->m = (uint16_t *)(void *)(base + at);
	return align64(at + (q->has_min ? n_super * 2 : 0));
}

static void pack_floats(struct weight *w, uint32_t group, uint32_t lane, const uint8_t *src)
{
	float *dst = (float *)(void *)w->values + (size_t)group * w->n_in * 16 + lane;

	for (uint32_t i = 0; i < w->n_in; i++, src += w->quant->n_byte, dst += 16)
		w->quant->dequantize(src, dst, 1);
}

/* 32 values as q * 2^e, q to nearest even; returns e. */
static int8_t words_of(const float *x, int16_t *q)
{
	const float magic = 12582912.0f;         /* 1.5 * 2^23: rounds to an integer */
	uint32_t most = 0, bits;
	float size, by;
	int e;

	for (uint32_t i = 0; i < 32; i++) {
		memcpy(&bits, &x[i], 4);
		bits &= 0x7fffffff;
		most = bits > most ? bits : most;
	}
	memcpy(&size, &most, 4);
	memset(q, 0, 32 * sizeof(*q));
	if (most >= 0x7f800000)
		return WORD_NAN;
	frexpf(size, &e);
	e = e - WORD_BITS > -126 ? e - WORD_BITS : -126;
	by = ldexpf(1, -e);
	for (uint32_t i = 0; i < 32; i++)
		q[i] = (int16_t)((x[i] * by + magic) - magic);
	return (int8_t)e;
}

static void pack_words(struct weight *w, uint32_t group, uint32_t lane, const uint8_t *src)
{
	const size_t first = (size_t)group * (w->n_in / 32);
	float x[32];
	int16_t q[32];

	for (size_t block = first; block < first + w->n_in / 32; block++, src += 32 * w->quant->n_byte) {
		w->quant->dequantize(src, x, 32);
		w->scale8[block * 16 + lane] = words_of(x, q);
		for (uint32_t j = 0; j < 16; j++)
			memcpy(w->values + (block * 16 + j) * 64 + lane * 4, q + 2 * j, 4);
	}
}

static int offset_of(const struct weight *w)
{
	return w->quant->has_min ? 0 : 1 << (w->n_bit - 1);
}

/* 32 values of one row into their block of the group: bytes, or four bits and then the one
 * or two above them (lanes-scalar.h).  Four inputs at a time; q + off is q with one bit
 * turned. */
static void pack_values(const struct weight *w, uint8_t *dst, uint32_t lane, const int8_t *q)
{
	const uint32_t each = 0x01010101, above = w->n_bit - 4, n_quad = above ? 8 / above : 1;
	const uint32_t off = (uint32_t)offset_of(w) * each, bits = ((1u << w->n_bit) - 1) * each;
	const uint32_t high = ((1u << above) - 1) * each;
	const uint32_t n_word = w->n_bit == 8 ? 8 : 4 + above;
	uint32_t quads[8], words[8] = { 0 };

	memcpy(quads, q, sizeof(quads));
	for (uint32_t j = 0; j < 8; j++)
		quads[j] = (quads[j] ^ off) & bits;
	if (w->n_bit == 8)
		memcpy(words, quads, sizeof(words));
	for (uint32_t j = 0; j < 4 && w->n_bit < 8; j++)
		words[j] = (quads[j] & 15 * each) | (quads[j + 4] & 15 * each) << 4;
	for (uint32_t j = 0; j < 8 && n_word > 4 && w->n_bit < 8; j++)
		words[4 + j / n_quad] |= (quads[j] >> 4 & high) << j % n_quad * above;
	for (uint32_t j = 0; j < n_word; j++)
		memcpy(dst + (j * 16 + lane) * 4, &words[j], 4);
}

static void pack_quantized(struct weight *w, uint32_t group, uint32_t lane, const uint8_t *src)
{
	const struct quant *q = w->quant;
	const uint32_t n_block = w->n_in / q->n_block, n_sub = q->n_block / q->n_sub;
	const size_t bytes = block_bytes(w);
	uint8_t *dst = w->values + (size_t)group * (w->n_in / 32) * bytes;
	struct quant_parts o;

	for (uint32_t b = 0; b < n_block; b++, src += q->n_byte) {
		size_t sub = ((size_t)group * n_block + b) * n_sub * 16 + lane;
		size_t super = ((size_t)group * n_block + b) * 16 + lane;

		q->unpack(src, &o);
		for (uint32_t i = 0; i < q->n_block; i += 32, dst += bytes)
			pack_values(w, dst, lane, o.q + i);
		if (q->n_block == 32) {
			w->scale16[sub] = o.d;
			if (q->has_min)
				w->min16[sub] = o.m;
			continue;
		}
		w->d[super] = o.d;
		if (q->has_min)
			w->m[super] = o.m;
		for (uint32_t j = 0; j < n_sub; j++) {
			w->scale8[sub + j * 16] = o.scale[j];
			if (q->has_min)
				w->min8[sub + j * 16] = o.min[j];
		}
	}
}

static size_t row_bytes(const struct weight *w)
{
	return (size_t)(w->n_in / w->quant->n_block) * w->quant->n_byte;
}

static void pack_group(void *ctx, uint32_t group, unsigned worker)
{
	struct weight *w = ctx;

	(void)worker;
	for (uint32_t lane = 0; lane < 16 && group * 16 + lane < w->n_out; lane++) {
		const uint8_t *src = w->data + (group * (size_t)16 + lane) * row_bytes(w);

		switch (w->pack) {
		case PACK_F32:  pack_floats(w, group, lane, src); break;
		case PACK_WORD: pack_words(w, group, lane, src); break;
		case PACK_INT:  pack_quantized(w, group, lane, src); break;
		}
	}
}

static void describe(struct weight *w, const struct quant *q, uint64_t n_in, uint64_t n_out)
{
	w->quant = q;
	w->n_in = (uint32_t)n_in;
	w->n_out = (uint32_t)n_out;
	w->n_group = (w->n_out + 15) / 16;
	w->pack = pack_of(q, w->n_in);
	w->n_bit = bits_of(q);
	w->n_byte = n_out == 1 ? ROUND16((size_t)w->n_in) * sizeof(float) : lay_out(w, NULL);
}

static int load_vector(struct weight *w)
{
	w->vector = cpu_alloc(w->n_byte);
	if (!w->vector)
		return -ENOMEM;
	w->quant->dequantize(w->data, w->vector, w->n_in / w->quant->n_block);
	return 0;
}

static int load_groups(struct backend *b, struct weight *w)
{
	uint8_t *base;

	base = cpu_shelf_take(b, w->n_byte);
	if (!base)
		return -ENOMEM;
	lay_out(w, base);
	pool_run_apart(b->pool, pack_group, w, w->n_group);
	return 0;
}

int cpu_weight_load(struct backend *b, uint32_t type, uint64_t n_in, uint64_t n_out,
                    const void *data, struct weight **out, struct backend_why *why)
{
	const struct quant *q = quant_find(type);
	struct weight *w = NULL;
	int rc = check_weight(q, type, n_in, n_out, why);

	assert(data && out && !b->batch);
	if (rc < 0)
		return rc;
	w = calloc(1, sizeof(*w));
	if (!w)
		return cpu_why(why, -ENOMEM, "out of memory");
	describe(w, q, n_in, n_out);
	w->data = data;
	rc = n_out == 1 ? load_vector(w) : load_groups(b, w);
	if (rc == 0)
		rc = cpu_scratch_tile(b, w->n_in);
	if (rc < 0) {
		cpu_why(why, rc, "out of memory for a tensor of %zu bytes", w->n_byte);
		cpu_weight_free(b, w);
		return rc;
	}
	*out = w;
	return 0;
}

void cpu_weight_free(struct backend *b, struct weight *w)
{
	if (!w)
		return;
	cpu_free(w->vector);
	cpu_shelf_give(b, w->values);
	free(w);
}

struct weight cpu_weight_groups(const struct weight *w, uint32_t first, uint32_t n)
{
	const struct quant *q = w->quant;
	const uint32_t n_sub = q->n_sub ? q->n_sub : 32;
	struct weight v = *w;
	size_t sub, super;

	assert(!w->vector && (first + n) * 16 <= w->n_out);
	v.n_out = n * 16;
	v.n_group = n;
	v.data += first * 16 * row_bytes(w);
	v.values += w->pack == PACK_F32 ? (size_t)first * w->n_in * 64 : (size_t)first * (w->n_in / 32) * block_bytes(w);
	sub = (size_t)first * (w->n_in / n_sub) * 16;
	super = (size_t)first * (w->n_in / 256) * 16;
	v.scale16 = w->scale16 ? w->scale16 + sub : NULL;
	v.min16 = w->min16 ? w->min16 + sub : NULL;
	v.scale8 = w->scale8 ? w->scale8 + sub : NULL;
	v.min8 = w->min8 ? w->min8 + sub : NULL;
	v.d = w->d ? w->d + super : NULL;
	v.m = w->m ? w->m + super : NULL;
	return v;
}

size_t cpu_weight_bytes(const struct weight *w)
{
	return w->n_byte;
}

size_t cpu_weight_size(uint32_t type, uint64_t n_in, uint64_t n_out)
{
	const struct quant *q = quant_find(type);
	struct weight w = { 0 };

	if (check_weight(q, type, n_in, n_out, NULL) < 0)
		return 0;
	describe(&w, q, n_in, n_out);
	return w.n_byte;
}

void cpu_weight_row(const struct weight *w, uint32_t row, float scale, float *out)
{
	w->quant->dequantize(w->data + row * row_bytes(w), out, w->n_in / w->quant->n_block);
	for (uint32_t i = 0; i < w->n_in; i++)
		out[i] *= scale;
}

/* q + off of input i of a block. */
static int stored(const struct weight *w, const uint8_t *block, uint32_t i, uint32_t lane)
{
	const uint32_t j = i / 4, k = i % 4, above = w->n_bit - 4, n_quad = above ? 8 / above : 1;
	int x;

	if (w->n_bit == 8)
		return block[(j * 16 + lane) * 4 + k];
	x = block[(j % 4 * 16 + lane) * 4 + k] >> j / 4 * 4 & 15;
	if (above)
		x |= (block[256 + (j / n_quad * 16 + lane) * 4 + k] >> j % n_quad * above & ((1 << above) - 1)) << 4;
	return x;
}

static void tile_quantized(const struct weight *w, uint32_t group, float *tile)
{
	const struct quant *q = w->quant;
	const uint32_t n_block = w->n_in / 32, per = 32 / q->n_sub;
	const size_t bytes = block_bytes(w);
	const uint8_t *block = w->values + (size_t)group * n_block * bytes;
	const int off = offset_of(w);
	float scale, min;

	for (uint32_t sub = 0; sub < n_block * per; sub++)
		for (uint32_t lane = 0; lane < 16; lane++) {
			size_t at = ((size_t)group * n_block * per + sub) * 16 + lane;
			size_t super = ((size_t)group * (n_block / 8) + sub / per / 8) * 16 + lane;

			if (q->n_block == 32) {
				scale = quant_f16(w->scale16[at]);
				min = q->has_min ? quant_f16(w->min16[at]) : 0;
			} else {
				scale = quant_f16(w->d[super]) * (float)w->scale8[at];
				min = q->has_min ? quant_f16(w->m[super]) * (float)w->min8[at] : 0;
			}
			for (uint32_t i = 0; i < q->n_sub; i++) {
				uint32_t in = sub % per * q->n_sub + i;
				float v = scale * (float)(stored(w, block + sub / per * bytes, in, lane) - off);

				tile[((size_t)sub * q->n_sub + i) * 16 + lane] = q->has_min ? v + min : v;
			}
		}
}

static void tile_of_file(const struct weight *w, uint32_t group, float *tile)
{
	const uint8_t *src = w->data + (size_t)group * 16 * row_bytes(w);
	float x[32] = { 0 };

	for (uint32_t lane = 0; lane < 16; lane++, src += row_bytes(w))
		for (uint32_t i = 0; i < w->n_in; i += 32) {
			if (group * 16 + lane < w->n_out)
				w->quant->dequantize(src + i * w->quant->n_byte, x, 32);
			else
				memset(x, 0, sizeof x);
			for (uint32_t k = 0; k < 32; k++)
				tile[(size_t)(i + k) * 16 + lane] = x[k];
		}
}

void cpu_weight_tile(const struct weight *w, uint32_t group, float *tile)
{
	assert(group < w->n_group);
	if (w->vector) {
		memset(tile, 0, (size_t)w->n_in * 16 * sizeof(float));
		for (uint32_t i = 0; i < w->n_in; i++)
			tile[(size_t)i * 16] = w->vector[i];
		return;
	}
	if (w->pack == PACK_INT)
		tile_quantized(w, group, tile);
	else
		tile_of_file(w, group, tile);
}
