/*
 * The CUDA backend: opening it, a step's begin and end, and the table, which is
 * the module's one exported symbol.  The rest of the room: cuda.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

/* ---- errors ---- */

int cuda_why(struct backend_why *why, int rc, const char *fmt, ...)
{
	va_list args;

	if (!why)
		return rc;
	va_start(args, fmt);
	vsnprintf(why->text, sizeof(why->text), fmt, args);
	va_end(args);
	return rc;
}

void cuda_fail(struct backend *b, int rc, const char *text)
{
	if (b->rc == 0)
		b->rc = cuda_why(&b->why, rc, "%s", text);
}

bool cuda_good(struct backend *b, cudaError_t e, const char *what)
{
	if (e != cudaSuccess && b->rc == 0)
		b->rc = cuda_why(&b->why, e == cudaErrorMemoryAllocation ? -ENOMEM : -EIO, "CUDA: %s: %s", what,
		                 cudaGetErrorString(e));
	return e == cudaSuccess;
}

/* ---- open ---- */

static void backend_close(struct backend *b)
{
	if (!b)
		return;
	if (b->stream)
		cudaStreamDestroy(b->stream);
	cudaFreeHost(b->pinned);
	cudaFree(b->room);
	cudaFree(b->choices);
	free(b);
}

static int find_device(struct backend *b, struct backend_why *why)
{
	cudaDeviceProp p;
	cudaError_t e;
	int n = 0;

	e = cudaGetDeviceCount(&n);
	if (e == cudaErrorNoDevice || e == cudaErrorInsufficientDriver || (e == cudaSuccess && n == 0))
		return cuda_why(why, -ENODEV, "this machine has no GPU that CUDA can use");
	if (e == cudaSuccess)
		e = cudaSetDevice(0);
	if (e == cudaSuccess)
		e = cudaGetDeviceProperties(&p, 0);
	if (e == cudaSuccess)
		e = cudaStreamCreateWithFlags(&b->stream, cudaStreamNonBlocking);
	if (e != cudaSuccess)
		return cuda_why(why, -EIO, "CUDA: %s", cudaGetErrorString(e));
	snprintf(b->description, sizeof(b->description), "cuda: %s, compute %d.%d, %.1f GiB", p.name, p.major, p.minor,
	         (double)p.totalGlobalMem / (1 << 30));
	return 0;
}

/* A step without caches: rows, sessions and outputs; kv_open makes room for more. */
static int first_room(struct backend *b)
{
	const size_t n = b->n_row_max * (sizeof(struct batch_row) + sizeof(struct batch_seq) + sizeof(uint32_t)) + 4 * 256;

	if (cudaHostAlloc((void **)&b->pinned, n, cudaHostAllocDefault) != cudaSuccess
	    || cudaMalloc((void **)&b->room, n) != cudaSuccess
	    || cudaMalloc((void **)&b->choices, b->n_row_max * sizeof(*b->choices)) != cudaSuccess)
		return -ENOMEM;
	b->room_bytes = n;
	return 0;
}

static int backend_open(struct backend **out, const struct backend_params *p, struct backend_why *why)
{
	struct backend *b;
	int rc;

	if (p->n_row_max == 0 || p->n_row_max > 1u << 15)
		return cuda_why(why, -EINVAL, "a batch of %u rows is not possible", p->n_row_max);
	if (p->isa)
		return cuda_why(why, -ENOTSUP, "instruction set %s is not one of CUDA's", p->isa);
	b = (struct backend *)calloc(1, sizeof(*b));
	if (!b)
		return cuda_why(why, -ENOMEM, "out of memory");
	b->n_row_max = p->n_row_max;
	rc = find_device(b, why);
	if (rc == 0) {
		rc = first_room(b);
		if (rc < 0)
			cuda_why(why, rc, "no memory on the device for a batch of %u rows", p->n_row_max);
	}
	if (rc < 0) {
		backend_close(b);
		return rc;
	}
	*out = b;
	return 0;
}

static const char *backend_describe(const struct backend *b)
{
	return b->description;
}

/* ---- a step ---- */

/* What backend.h's comments promise, for our own mistakes. */
static void check_batch(const struct backend *b, const struct batch *batch)
{
	uint32_t run = 0;

	assert(batch->n_row > 0 && batch->n_row <= b->n_row_max);
	assert(batch->n_seq > 0 && batch->n_seq <= batch->n_row && batch->n_output <= batch->n_row);
	for (uint32_t i = 0; i < batch->n_row; i++) {
		const struct batch_row *r = &batch->rows[i];

		assert(r->seq < batch->n_seq);
		run = i > 0 && r->seq == r[-1].seq ? run + 1 : 1;
		assert(run == 1 || r->pos == r[-1].pos + 1);
		assert(!b->kv || run <= b->kv->shape.n_chunk);
		assert(r->pos < batch->seqs[r->seq].window.n_sink || r->pos >= batch->seqs[r->seq].start);
	}
	for (uint32_t i = 0; i < batch->n_output; i++)
		assert(batch->outputs[i] < batch->n_row && (i == 0 || batch->outputs[i] > batch->outputs[i - 1]));
	(void)run;
}

/* The next n things of a step's block: src is copied (NULL: left for the caller) and
 * the device's pointer goes to *device. */
template <typename T> static T *stage(struct backend *b, size_t *at, size_t n, const T *src, T **device)
{
	T *host = reinterpret_cast<T *>(b->pinned + *at);

	*device = reinterpret_cast<T *>(b->room + *at);
	*at = (*at + n * sizeof(T) + 255) / 256 * 256;
	assert(*at <= b->room_bytes);
	if (src && n)
		memcpy(host, src, n * sizeof(T));
	return host;
}

static void backend_begin(struct backend *b, struct kv *kv, const struct batch *batch)
{
	size_t at = 0;

	assert(!b->batch);
	b->kv = kv;
	check_batch(b, batch);
	b->batch = batch;
	b->rc = 0;
	b->n_row = batch->n_row;
	b->selected = false;
	b->n_used = 0;
	stage(b, &at, batch->n_row, batch->rows, &b->step.rows);
	stage(b, &at, batch->n_seq, batch->seqs, &b->step.seqs);
	stage(b, &at, batch->n_output, batch->outputs, &b->step.outputs);
	if (kv)
		cuda_kv_places(kv, batch, stage(b, &at, (size_t)batch->n_seq * kv->shape.n_layer,
		                                (const struct layer_place *)NULL, &b->step.places));
	cuda_good(b, cudaMemcpyAsync(b->room, b->pinned, at, cudaMemcpyHostToDevice, b->stream), "begin");
}

static int backend_end(struct backend *b, struct backend_why *why)
{
	assert(b->batch);
	cuda_good(b, cudaStreamSynchronize(b->stream), "a step");
	b->batch = NULL;
	b->kv = NULL;
	if (b->rc && why)
		*why = b->why;
	return b->rc;
}

/* One set of templates, whatever the number of rows: the same order of additions. */
extern "C" {
extern const struct backend_ops sinkd_backend __attribute__((visibility("default")));
const struct backend_ops sinkd_backend = {
	.name = "cuda", .bitwise = true,
	.open = backend_open, .close = backend_close, .describe = backend_describe,
	.weight_load = cuda_weight_load, .weight_free = cuda_weight_free, .weight_bytes = cuda_weight_bytes,
	.act_new = cuda_act_new, .act_free = cuda_act_free,
	.kv_bytes = cuda_kv_bytes, .kv_layout = cuda_kv_layout, .kv_open = cuda_kv_open,
	.kv_close = cuda_kv_close, .kv_read = cuda_kv_read, .kv_write = cuda_kv_write,
	.begin = backend_begin, .end = backend_end,
	.embed = cuda_embed, .norm = cuda_norm, .matmul = cuda_matmul, .store = cuda_store,
	.attend = cuda_attend, .glu = cuda_glu, .add = cuda_add, .select = cuda_select,
	.softcap = cuda_softcap, .clamp = cuda_clamp, .route = cuda_route, .matmul_routed = cuda_matmul_routed, .add_routed = cuda_add_routed, .read = cuda_read,
};
}
