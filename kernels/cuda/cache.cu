/*
 * The bytes of a slot on the device, and storing keys and values in it.
 *
 * A session's layers lie one after another, each compact for the session's own
 * window: keys [head][place][dim], then values likewise, dims padded to 8 with
 * zeros.  Which place a position has is window.h's.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/intrinsics.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/rotary.h"

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

/* The limits keep every size in range. */
static bool shape_fits(const struct kv_shape *s)
{
	const uint32_t most = 1u << 26;
	size_t sum = 0, one;

	if (s->n_layer == 0 || s->n_layer > 65536 || s->n_chunk == 0 || s->n_chunk > most || s->n_slot == 0
	    || s->most.n_sink > most || s->most.n_recent > most || (s->type != KV_F16 && s->type != KV_F32))
		return false;
	for (uint32_t l = 0; l < s->n_layer; l++) {
		const struct kv_layer *k = &s->layers[l];

		if (k->n_head_kv == 0 || k->n_head_kv > 4096 || k->head_dim == 0 || k->head_dim > HEAD_DIM_MOST)
			return false;
		if (__builtin_mul_overflow((size_t)k->n_head_kv * up_to(k->head_dim, 8) * 8,
		                           (size_t)span_places(window_span(s->most, k->local, s->n_chunk)), &one)
		    || __builtin_add_overflow(sum, one + 4096, &sum))
			return false;
	}
	return !__builtin_mul_overflow(sum, (size_t)s->n_slot, &sum) && sum < SIZE_MAX / 2;
}

size_t cuda_kv_bytes(const struct kv_shape *shape, struct window w)
{
	struct layer_place p;
	size_t at = 0;

	for (uint32_t l = 0; l < shape->n_layer; l++)
		at = place_layer(shape, &shape->layers[l], w, at, &p);
	return (at + 4095) / 4096 * 4096;
}

const char *cuda_kv_layout(const struct backend *b, enum kv_type type)
{
	(void)b;
	return type == KV_F16 ? "cuda-kv1-f16" : "cuda-kv1-f32";
}

/* Room for what begin copies, with the places of n_layer layers. */
static int step_room(struct backend *b, uint32_t n_layer)
{
	const size_t row = sizeof(struct batch_row) + sizeof(struct batch_seq) + sizeof(uint32_t)
	                   + n_layer * sizeof(struct layer_place);
	const size_t n = b->n_row_max * row + 4 * 256;

	if (n <= b->room_bytes)
		return 0;
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

int cuda_kv_open(struct backend *b, const struct kv_shape *shape, void *memory,
                 struct kv **out, struct backend_why *why)
{
	struct kv *kv;
	size_t n = 0;
	int rc = 0;

	assert(!b->batch);
	if (!shape_fits(shape))
		return cuda_why(why, -ENOTSUP, "caches of this shape are not supported");
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
	kv->slot_bytes = cuda_kv_bytes(&kv->shape, shape->most);
	n = kv->slot_bytes * shape->n_slot;
	rc = step_room(b, shape->n_layer);
	if (rc == 0 && (cudaMalloc((void **)&kv->memory, n) != cudaSuccess
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
	cudaFree(kv->memory);
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
	uint32_t stride, dim, layer, n_layer;
	const struct batch_row *rows;
	const struct layer_place *places;
	uint8_t *memory;
};

static __device__ void put(uint8_t *to, size_t at, bool f16, float x)
{
	if (f16)
		reinterpret_cast<uint16_t *>(to)[at] = to_half_bits(x);
	else
		reinterpret_cast<float *>(to)[at] = x;
}

/* A block: one head of one row. */
static __global__ void store_kernel(const __grid_constant__ struct store s, bool f16)
{
	const struct batch_row row = s.rows[blockIdx.y];
	const struct layer_place &p = s.places[(size_t)row.seq * s.n_layer + s.layer];
	const uint32_t pad = up_to(s.dim, 8);
	const size_t at = ((size_t)blockIdx.x * span_places(p.span) + span_place(p.span, row.pos)) * pad;
	const float *k = s.k + (size_t)blockIdx.y * s.stride + (size_t)blockIdx.x * s.dim;
	const float *v = s.v + (size_t)blockIdx.y * s.stride + (size_t)blockIdx.x * s.dim;

	for (uint32_t d = threadIdx.x; d < pad; d += blockDim.x) {
		put(s.memory + p.k, at + d, f16, d < s.dim ? rotated(s.rope, row.pos, k, d) : 0);
		put(s.memory + p.v, at + d, f16, d < s.dim ? v[d] : 0);
	}
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
	rotary_of(r, &s.rope);
	s.k = k->x;
	s.v = v->x;
	s.stride = k->stride;
	s.dim = l->head_dim;
	s.layer = layer;
	s.n_layer = b->kv->shape.n_layer;
	s.rows = b->step.rows;
	s.places = b->step.places;
	s.memory = b->kv->memory;
	launch(b, "store", store_kernel, dim3(l->n_head_kv, b->n_row), 64, 0, s, b->kv->shape.type == KV_F16);
}
