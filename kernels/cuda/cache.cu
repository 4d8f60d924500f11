/*
 * The bytes of a slot on the device, and storing keys and values in it.
 *
 * A session's layers lie one after another, each compact for the session's own
 * window: keys [head][block of 16 places][8 dims at a time][16][8], so that lanes of a
 * score are keys and load 16 bytes side by side, then values [head][place][dim]; dims
 * are padded to 8 with zeros.  Which place a position has is window.h's.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rotary.h"
#include "kernels/check.h"

static size_t type_bytes(enum kv_type t)
{
	return t == KV_F16 ? 2 : 4;
}

/* The layer at bytes; returns where the next one starts. */
static size_t place_layer(const struct kv_shape *s, const struct kv_layer *l, struct window w,
                          size_t at, struct layer_place *p)
{
	size_t n;

	p->span = window_span(w, l->local, s->n_chunk);
	n = (size_t)l->n_head_kv * span_places(p->span) * up_to(l->head_dim, 8) * type_bytes(s->type);
	n = (n + 255) / 256 * 256;
	p->k = at;
	p->v = at + n;
	return at + 2 * n;
}

size_t cuda_kv_bytes(const struct kv_shape *shape, struct window w)
{
	struct layer_place p;
	size_t at = 0;

	for (uint32_t l = 0; l < shape->n_layer; l++)
		at = place_layer(shape, &shape->layers[l], w, at, &p);
	return (at + 4095) / 4096 * 4096;
}

/* A sink takes what any other token takes. */
size_t cuda_slot_bytes(const struct kv_shape *shape)
{
	return cuda_kv_bytes(shape, shape->most);
}

const char *cuda_kv_layout(const struct backend *b, enum kv_type type)
{
	(void)b;
	return type == KV_F16 ? "cuda-kv3-f16" : type == KV_F32 ? "cuda-kv3-f32" : NULL;
}

/* Bytes of what begin copies, with the places of n_layer layers. */
static size_t step_bytes(const struct backend *b, uint32_t n_layer)
{
	const size_t row = sizeof(struct batch_row) + sizeof(struct batch_seq) + sizeof(uint32_t)
	                   + n_layer * sizeof(struct layer_place);

	return b->n_row_max * row + 4 * 256;
}

size_t cuda_work_size(const struct backend *b, const struct kv_shape *shape)
{
	const size_t n = step_bytes(b, shape->n_layer), partials = cuda_attend_room(shape, b->n_row_max) * sizeof(float);

	return b->n_own + partials + cuda_gemm_size(b) + (n > b->room_bytes ? n - b->room_bytes : 0);
}

static int step_room(struct backend *b, uint32_t n_layer)
{
	const size_t n = step_bytes(b, n_layer);

	if (n <= b->room_bytes)
		return 0;
	cuda_graphs_drop(b);
	cudaFreeHost(b->pinned);
	cudaFree(b->room);
	b->pinned = b->room = NULL;
	b->room_bytes = 0;
	if (cudaHostAlloc((void **)&b->pinned, n, cudaHostAllocDefault) != cudaSuccess
	    || cudaMalloc((void **)&b->room, n) != cudaSuccess)
		return -ENOMEM;
	b->room_bytes = n;
	return 0;
}

/* What it takes beside the slots is counted by cuda_work_size. */
int cuda_kv_open(struct backend *b, const struct kv_shape *shape, void *memory,
                 struct kv **out, struct backend_why *why)
{
	struct kv *kv;
	size_t n = 0;
	int rc = 0;

	assert(!b->batch);
	if (!check_shape(shape, HEAD_DIM_MOST, 8))
		return cuda_why(why, -ENOTSUP, "caches of this shape are not supported");
	if (shape->type == KV_Q8)
		return cuda_why(why, -ENOTSUP, "caches of eight bits are not supported by this backend");
	if (memory)
		return cuda_why(why, -ENOTSUP, "caches of this backend lie on its device");
	kv = (struct kv *)calloc(1, sizeof(*kv));
	if (!kv)
		return cuda_why(why, -ENOMEM, "out of memory");
	kv->b = b;
	kv->shape = *shape;
	kv->layers = (struct kv_layer *)malloc(shape->n_layer * sizeof(*kv->layers));
	if (!kv->layers) {
		rc = -ENOMEM;
		goto out;
	}
	memcpy(kv->layers, shape->layers, shape->n_layer * sizeof(*kv->layers));
	kv->shape.layers = kv->layers;
	kv->slot_bytes = cuda_slot_bytes(&kv->shape);
	n = kv->slot_bytes * shape->n_slot;
	kv->n_partial = cuda_attend_room(&kv->shape, b->n_row_max);
	rc = step_room(b, shape->n_layer);
	if (rc == 0)
		rc = cuda_gemm_room(b);
	if (rc == 0 && (cudaMalloc((void **)&kv->memory, n) != cudaSuccess
	                || cudaMalloc((void **)&kv->partials, kv->n_partial * sizeof(float)) != cudaSuccess
	                || cudaMemsetAsync(kv->memory, 0, n, b->stream) != cudaSuccess
	                || cudaStreamSynchronize(b->stream) != cudaSuccess))
		rc = -ENOMEM;
	if (rc < 0)
		goto out;
	*out = kv;
	kv = NULL;
out:
	if (rc < 0)
		cuda_why(why, rc, "no memory on the device for %u caches of %zu bytes", shape->n_slot, kv->slot_bytes);
	cuda_kv_close(b, kv);
	return rc;
}

void cuda_kv_close(struct backend *b, struct kv *kv)
{
	if (!kv)
		return;
	assert(!b->batch || b->kv != kv);
	cuda_graphs_drop(b);
	cudaFree(kv->memory);
	cudaFree(kv->partials);
	free(kv->layers);
	free(kv);
}

static int move(struct kv *kv, uint32_t slot, void *host, size_t n, bool in)
{
	uint8_t *at = kv->memory + slot * kv->slot_bytes;
	cudaError_t e;

	if (slot >= kv->shape.n_slot || n > kv->slot_bytes)
		return -EINVAL;
	e = in ? cudaMemcpyAsync(at, host, n, cudaMemcpyHostToDevice, kv->b->stream)
	       : cudaMemcpyAsync(host, at, n, cudaMemcpyDeviceToHost, kv->b->stream);
	if (e == cudaSuccess)
		e = cudaStreamSynchronize(kv->b->stream);
	return e == cudaSuccess ? 0 : -EIO;
}

int cuda_kv_read(struct kv *kv, uint32_t slot, void *dst, size_t n)
{
	return move(kv, slot, dst, n, false);
}

int cuda_kv_write(struct kv *kv, uint32_t slot, const void *src, size_t n)
{
	return move(kv, slot, const_cast<void *>(src), n, true);
}

/* In the stream's order: what comes after it finds the slot empty. */
int cuda_kv_clear(struct kv *kv, uint32_t slot)
{
	if (slot >= kv->shape.n_slot)
		return -EINVAL;
	return cudaMemsetAsync(kv->memory + slot * kv->slot_bytes, 0, kv->slot_bytes, kv->b->stream) == cudaSuccess ? 0 : -EIO;
}

void cuda_kv_places(const struct kv *kv, const struct batch *batch, struct layer_place *p)
{
	for (uint32_t i = 0; i < batch->n_seq; i++) {
		const size_t slot = batch->seqs[i].slot * kv->slot_bytes;
		size_t at = 0;

		assert(batch->seqs[i].slot < kv->shape.n_slot);
		for (uint32_t l = 0; l < kv->shape.n_layer; l++, p++) {
			at = place_layer(&kv->shape, &kv->layers[l], batch->seqs[i].window, at, p);
			p->k += slot;
			p->v += slot;
		}
		assert(at <= kv->slot_bytes);
	}
}

/* ---- store ---- */

struct store {
	struct rotary rope;
	const float *k, *v;
	uint32_t stride, dim, n_head, layer, n_layer;
	const struct batch_row *rows;
	const struct layer_place *places;
	uint8_t *memory;
};

static __device__ void put8(uint8_t *memory, size_t at, bool f16, const float *x)
{
	if (f16) {
		uint32_t words[4];

		UNROLL
		for (unsigned i = 0; i < 4; i++)
			words[i] = to_half_bits(x[2 * i]) | (uint32_t)to_half_bits(x[2 * i + 1]) << 16;
		reinterpret_cast<uint4 *>(memory)[at / 8] = make_uint4(words[0], words[1], words[2], words[3]);
	} else {
		reinterpret_cast<float4 *>(memory)[at / 4] = make_float4(x[0], x[1], x[2], x[3]);
		reinterpret_cast<float4 *>(memory)[at / 4 + 1] = make_float4(x[4], x[5], x[6], x[7]);
	}
}

/* A thread: eight dims of one head of one row. */
static __global__ void store_kernel(const __grid_constant__ struct store s, bool f16)
{
	const struct batch_row row = s.rows[blockIdx.y];
	const struct layer_place &p = s.places[(size_t)row.seq * s.n_layer + s.layer];
	const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x, eights = up_to(s.dim, 8) / 8;
	const uint32_t head = i / eights, first = i % eights * 8, place = span_place(p.span, row.pos);
	const size_t at = (size_t)blockIdx.y * s.stride + (size_t)head * s.dim;
	const size_t base = (size_t)head * span_places(p.span) * eights * 8;
	float k[8], v[8];

	if (head >= s.n_head)
		return;
	UNROLL
	for (unsigned j = 0; j < 8; j++) {
		const uint32_t d = first + j;

		k[j] = d < s.dim ? turned(turn_of(s.rope, row.pos, d), s.k + at, d) : 0;
		v[j] = d < s.dim ? s.v[at + d] : 0;
	}
	put8(s.memory + p.k, base + key_at(place, first, eights * 8), f16, k);
	put8(s.memory + p.v, base + (size_t)place * eights * 8 + first, f16, v);
}

void cuda_store(struct backend *b, uint32_t layer, const struct rope *r,
                const struct act *k, const struct act *v)
{
	const struct kv_layer *l;
	struct store s;

	assert(b->batch && b->kv && !b->selected && layer < b->kv->shape.n_layer);
	l = &b->kv->layers[layer];
	assert(k->width == l->n_head_kv * l->head_dim && v->width == k->width);
	assert(!r || r->order == ROPE_NONE || r->n_rot <= l->head_dim);
	if (b->rc)
		return;
	memset(&s, 0, sizeof(s));
	rotary_of(r, &s.rope);
	s.k = k->x;
	s.v = v->x;
	s.stride = k->stride;
	s.dim = l->head_dim;
	s.n_head = l->n_head_kv;
	s.layer = layer;
	s.n_layer = b->kv->shape.n_layer;
	s.rows = b->step.rows;
	s.places = b->step.places;
	s.memory = b->kv->memory;
	launch(b, "store", store_kernel, dim3(up_to(l->n_head_kv * up_to(l->head_dim, 8) / 8, 64) / 64, b->n_row), 64, 0, s,
	       b->kv->shape.type == KV_F16);
}
