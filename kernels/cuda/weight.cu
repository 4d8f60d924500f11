/*
 * Weights: packed on the host, kept quantized on the device (struct packed), and
 * embed.  What is stored represents the file's values exactly.
 */
#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/launch.h"
#include "kernels/cuda/packed.h"
#include "kernels/check.h"

/* Where the parts of a packed weight lie: lay_out counts with base NULL. */
struct parts {
	uint8_t *plain;
	uint8_t *plane[4];
	uint16_t *d, *m;
	int8_t *scale, *min;
};

static uint8_t *part(uint8_t *base, size_t *at, size_t n)
{
	uint8_t *p = base ? base + *at : NULL;

	*at = (*at + n + 255) / 256 * 256;
	return p;
}

static size_t lay_out(const struct packed *p, uint8_t *base, struct parts *o)
{
	const size_t n_chunk = (size_t)p->n_out * (p->n_in / CHUNK);
	size_t at = 0, n_block, n_sub;

	memset(o, 0, sizeof(*o));
	if (p->pack != PACK_QUANTS) {
		o->plain = part(base, &at, (size_t)p->n_out * p->stride * (p->pack == PACK_F32 ? 4 : 2));
		return at;
	}
	for (uint32_t i = 0, bits = 8; bits > 0; i++, bits /= 2)
		if (p->n_bit & bits)
			o->plane[i] = part(base, &at, n_chunk * bits * 4);
	n_block = (size_t)p->n_out * (p->n_in / (p->super ? 256 : 32));
	n_sub = p->super ? (size_t)p->n_out * (p->n_in / p->n_sub) : 0;
	o->d = (uint16_t *)(void *)part(base, &at, n_block * 2);
	if (p->has_min)
		o->m = (uint16_t *)(void *)part(base, &at, n_block * 2);
	if (p->super)
		o->scale = (int8_t *)part(base, &at, n_sub);
	if (p->super && p->has_min)
		o->min = (int8_t *)part(base, &at, n_sub);
	return at;
}

/* 32 values into the planes of their chunk. */
static void pack_chunk(const struct packed *p, const struct parts *o, size_t chunk, const int8_t *q)
{
	for (uint32_t i = 0; i < CHUNK; i++) {
		uint32_t x = (uint32_t)(q[i] + p->offset), t = i / 4, shift = 0;

		for (uint32_t plane = 0, bits = 8; bits > 0; plane++, bits /= 2) {
			const uint32_t per = 8 / bits;
			uint32_t *word;

			if (!(p->n_bit & bits))
				continue;
			word = (uint32_t *)(void *)o->plane[plane] + chunk * bits + t / per;
			*word |= (x >> shift & ((1u << bits) - 1)) << (t % per * bits + i % 4 * 8);
			shift += bits;
		}
	}
}

static void pack_row(const struct packed *p, const struct quant *q, const struct parts *o, uint32_t row,
                     const uint8_t *src)
{
	const uint32_t n_block = p->n_in / q->n_block, subs = q->n_block / q->n_sub;
	struct quant_parts x;

	for (uint32_t b = 0; b < n_block; b++, src += q->n_byte) {
		const size_t block = (size_t)row * n_block + b;

		q->unpack(src, &x);
		for (uint32_t i = 0; i < q->n_block; i += CHUNK)
			pack_chunk(p, o, (block * q->n_block + i) / CHUNK, x.q + i);
		o->d[block] = x.d;
		if (p->has_min)
			o->m[block] = x.m;
		for (uint32_t j = 0; j < subs && p->super; j++) {
			o->scale[block * subs + j] = x.scale[j];
			if (p->has_min)
				o->min[block * subs + j] = x.min[j];
		}
	}
}

static void pack_all(const struct packed *p, const struct quant *q, const uint8_t *src, uint8_t *base)
{
	const size_t row_bytes = (size_t)(p->n_in / q->n_block) * q->n_byte;
	struct parts o;

	lay_out(p, base, &o);
	for (uint32_t row = 0; row < p->n_out; row++, src += row_bytes)
		if (p->pack == PACK_QUANTS)
			pack_row(p, q, &o, row, src);
		else if (q->n_byte == (p->pack == PACK_F32 ? 4u : 2u))
			memcpy(o.plain + (size_t)row * p->stride * q->n_byte, src, row_bytes);
		else
			q->dequantize(src, (float *)(void *)o.plain, p->n_in / q->n_block);
}

/* Is every value within a half's range?  Of quantized ones this is a bound. */
static bool are_halves(const struct packed *p, uint8_t *base)
{
	const float most = 65504, steps = ldexpf(1, (int)p->n_bit), subs = p->super ? 128 : 1;
	struct parts o;
	bool all = true;

	lay_out(p, base, &o);
	if (p->pack == PACK_F32 || p->pack == PACK_F16)
		return p->pack == PACK_F16;
	if (p->pack == PACK_BF16) {
		for (size_t i = 0; i < (size_t)p->n_out * p->stride; i++)
			all = all && (((const uint16_t *)(const void *)o.plain)[i] & 0x7fff) < 0x4780;
		return all;
	}
	for (size_t i = 0; i < (size_t)p->n_out * (p->n_in / (p->super ? 256 : 32)); i++)
		all = all && fabsf(quant_f16(o.d[i])) * steps * subs
		             + (o.m ? fabsf(quant_f16(o.m[i])) * subs : 0) <= most;
	return all;
}

static void describe(struct packed *p, const struct quant *q, uint32_t n_in, uint32_t n_out)
{
	memset(p, 0, sizeof(*p));
	p->n_in = n_in;
	p->n_out = n_out;
	p->stride = up_to(n_in, CHUNK);
	p->pack = n_out == 1 || q->type == QUANT_F32 ? PACK_F32 : q->type == QUANT_F16 ? PACK_F16
	          : q->type == QUANT_BF16 ? PACK_BF16 : PACK_QUANTS;
	p->n_bit = q->n_bit;
	p->n_sub = q->n_sub;
	p->super = q->n_block == 256;
	p->has_min = q->has_min;
	p->offset = p->pack != PACK_QUANTS || q->has_min ? 0 : 1 << (q->n_bit - 1);
}

static void point(struct packed *p, uint8_t *device)
{
	struct parts o;

	lay_out(p, device, &o);
	p->plain = o.plain;
	for (int i = 0; i < 4; i++)
		p->plane[i] = (const uint32_t *)(const void *)o.plane[i];
	p->d = o.d;
	p->m = o.m;
	p->scale = o.scale;
	p->min = o.min;
}

int cuda_weight_load(struct backend *b, uint32_t type, uint64_t n_in, uint64_t n_out,
                     const void *data, struct weight **out, struct backend_why *why)
{
	const struct quant *q = quant_find(type);
	int rc = check_weight(q, type, n_in, n_out, why);
	struct parts none;
	struct weight *w;
	uint8_t *host = NULL;

	assert(data && out && !b->batch);
	if (rc < 0)
		return rc;
	w = (struct weight *)calloc(1, sizeof(*w));
	if (!w)
		return cuda_why(why, -ENOMEM, "out of memory");
	describe(&w->p, q, (uint32_t)n_in, (uint32_t)n_out);
	b->n_quantized += w->p.pack == PACK_QUANTS;
	w->n_byte = lay_out(&w->p, NULL, &none);
	host = (uint8_t *)calloc(1, w->n_byte);
	if (!host || cudaMalloc(&w->memory, w->n_byte) != cudaSuccess) {
		rc = cuda_why(why, -ENOMEM, "no %zu bytes for a tensor on the device", w->n_byte);
		goto out;
	}
	pack_all(&w->p, q, (const uint8_t *)data, host);
	w->are_halves = are_halves(&w->p, host);
	point(&w->p, (uint8_t *)w->memory);
	if (cudaMemcpyAsync(w->memory, host, w->n_byte, cudaMemcpyHostToDevice, b->stream) != cudaSuccess
	    || cudaStreamSynchronize(b->stream) != cudaSuccess) {
		rc = cuda_why(why, -EIO, "a tensor could not be copied to the device");
		goto out;
	}
	*out = w;
	w = NULL;
out:
	free(host);
	cuda_weight_free(b, w);
	return rc;
}

void cuda_weight_free(struct backend *b, struct weight *w)
{
	if (!w)
		return;
	cuda_graphs_drop(b);
	b->n_quantized -= w->p.pack == PACK_QUANTS;
	cudaFree(w->memory);
	free(w);
}

size_t cuda_weight_bytes(const struct weight *w)
{
	return w->n_byte;
}

size_t cuda_weight_size(uint32_t type, uint64_t n_in, uint64_t n_out)
{
	const struct quant *q = quant_find(type);
	struct packed p;
	struct parts none;

	if (check_weight(q, type, n_in, n_out, NULL) < 0)
		return 0;
	describe(&p, q, (uint32_t)n_in, (uint32_t)n_out);
	return lay_out(&p, NULL, &none);
}

bool cuda_is_vector(const struct weight *w, uint32_t width)
{
	return !w || (w->p.n_out == 1 && w->p.n_in == width);
}

/* ---- embed ---- */

static __global__ void embed_kernel(const struct packed p, const struct batch_row *rows, float scale,
                                    float *out, uint32_t stride)
{
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;

	if (i < p.n_in)
		out[(size_t)blockIdx.y * stride + i] = packed_value(p, (uint32_t)rows[blockIdx.y].token, i) * scale;
}

void cuda_embed(struct backend *b, const struct weight *w, float scale, struct act *out)
{
	const struct batch *batch = b->batch;

	assert(batch && !b->selected && out->width == w->p.n_in);
	for (uint32_t i = 0; i < batch->n_row && !b->rc; i++)
		if (batch->rows[i].token < 0 || (uint32_t)batch->rows[i].token >= w->p.n_out)
			cuda_fail(b, -EINVAL, "a token is outside of the vocabulary");
	if (b->rc)
		return;
	launch(b, "embed", embed_kernel, dim3(up_to(out->width, 256) / 256, batch->n_row), 256, 0,
	       w->p, b->step.rows, scale, out->x, out->stride);
}
