/*
 * The CUDA backend: opening it, a step's begin and end, and the table, which is
 * the module's one exported symbol.  The rest of the room: cuda.h.
 */
#include "config.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/launch.h"
#include "kernels/check.h"

#define BACK_LEAST ((size_t)64 << 10)    /* bytes of pinned memory for what a step gives */
#define BACK_MOST ((size_t)64 << 20)

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
	bool lost = false;

	if (!b)
		return;
	cuda_graphs_free(b);
	if (b->stream) {
		lost = cudaStreamSynchronize(b->stream) != cudaSuccess;
		cuda_gemm_free(b);
		cudaStreamDestroy(b->stream);
	}
	cudaFreeHost(b->pinned);
	cudaFreeHost(b->back);
	cudaFree(b->room);
	cudaFree(b->choices);
	cudaFree(b->groups);
	cuda_top_free(b);
	/* An error that sticks is the context's, and goes with it. */
	if (lost)
		cudaDeviceReset();
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
	    || cudaHostAlloc((void **)&b->back, BACK_LEAST, cudaHostAllocDefault) != cudaSuccess
	    || cudaMalloc((void **)&b->room, n) != cudaSuccess
	    || cudaMalloc((void **)&b->choices, b->n_row_max * sizeof(*b->choices)) != cudaSuccess
	    || cudaMalloc((void **)&b->groups, (size_t)ROUTE_MOST * b->n_row_max * sizeof(*b->groups)) != cudaSuccess
	    || cuda_top_new(b) < 0)
		return -ENOMEM;
	b->room_bytes = n;
	b->back_bytes = BACK_LEAST;
	return 0;
}

/* All that is the backend's own before there are caches. */
static int take(struct backend *b, struct backend_why *why)
{
	size_t before = 0, after = 0, total;
	int rc = cudaMemGetInfo(&before, &total) != cudaSuccess || cuda_graphs_new(b) < 0 ? -ENOMEM : first_room(b);

	if (rc < 0)
		return cuda_why(why, rc, "no memory on the device for a batch of %u rows", b->n_row_max);
	rc = cuda_gemm_new(b);
	if (rc < 0)
		return cuda_why(why, rc, "%s", b->rc ? b->why.text : "out of memory");
	if (cudaMemGetInfo(&after, &total) == cudaSuccess && before > after)
		b->n_own = before - after;       /* cuBLAS does not say what it takes */
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
	if (rc == 0 && p->n_act_bit == 8)
		rc = cuda_why(why, -ENOTSUP, "activations of 8 bits are the CPU backend's alone");
	if (rc == 0)
		rc = take(b, why);
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

/* ---- memory ---- */

static int backend_memory(const struct backend *b, size_t *free, size_t *total, size_t *own)
{
	*own = b->n_own;
	return cudaMemGetInfo(free, total) == cudaSuccess ? 0 : -EIO;
}

static void *host_new(struct backend *b, size_t n)
{
	void *p = NULL;

	(void)b;
	return cudaHostAlloc(&p, n, cudaHostAllocDefault) == cudaSuccess ? p : NULL;
}

static void host_free(struct backend *b, void *p)
{
	(void)b;
	cudaFreeHost(p);
}

/* ---- a step ---- */

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

struct staged { void *to; const void *from; size_t n; };

static void copy_staged(struct backend *b, const char *what, const void *bytes)
{
	const struct staged *s = static_cast<const struct staged *>(bytes);

	cuda_good(b, cudaMemcpyAsync(s->to, s->from, s->n, cudaMemcpyHostToDevice, b->stream), what);
}

/* Rows whose session has no other, up to the first that has one. */
static uint32_t leading_singles(const struct batch *batch)
{
	uint32_t i = 0;

	while (i < batch->n_row && (i + 1 == batch->n_row || batch->rows[i + 1].seq != batch->rows[i].seq))
		i++;
	return i;
}

static void backend_begin(struct backend *b, struct kv *kv, const struct batch *batch)
{
	struct staged s;
	size_t at = 0;

	assert(!b->batch);
	b->kv = kv;
	check_batch(batch, b->n_row_max, kv ? &kv->shape : NULL);
	b->batch = batch;
	b->rc = 0;
	b->n_row = batch->n_row;
	b->selected = false;
	b->prefill_from = kv ? leading_singles(batch) : batch->n_row;
	b->n_used = 0;
	b->fetched = false;
	cuda_graphs_begin(b, kv, batch);
	b->planes_of = NULL;
	stage(b, &at, batch->n_row, batch->rows, &b->step.rows);
	stage(b, &at, batch->n_seq, batch->seqs, &b->step.seqs);
	stage(b, &at, batch->n_output, batch->outputs, &b->step.outputs);
	if (kv)
		cuda_kv_places(kv, batch, stage(b, &at, (size_t)batch->n_seq * kv->shape.n_layer,
		                                (const struct layer_place *)NULL, &b->step.places));
	s = { b->room, b->pinned, at };
	work(b, "begin", copy_staged, s);
}

/* ---- what a step gives ---- */

struct fetched { void *to; const void *from; size_t from_step, width, n_row; };

static void copy_back(struct backend *b, const char *what, const void *bytes)
{
	const struct fetched *f = static_cast<const struct fetched *>(bytes);

	cuda_good(b, cudaMemcpy2DAsync(f->to, f->width, f->from, f->from_step, f->width, f->n_row,
	                               cudaMemcpyDeviceToHost, b->stream), what);
}

static void finish(struct backend *b)
{
	if (b->queued)
		cuda_good(b, cudaStreamSynchronize(b->stream), "a step");
	b->queued = false;
}

/* false: there is no pinned memory of n bytes. */
static bool back_room(struct backend *b, size_t n)
{
	size_t room = BACK_LEAST;

	while (room < n)
		room *= 2;
	if (n <= b->back_bytes)
		return true;
	if (n > BACK_MOST)
		return false;
	cuda_graphs_drop(b);
	cudaFreeHost(b->back);
	b->back = NULL;
	b->back_bytes = 0;
	if (cudaHostAlloc((void **)&b->back, room, cudaHostAllocDefault) != cudaSuccess) {
		cudaGetLastError();
		return false;
	}
	b->back_bytes = room;
	return true;
}

void cuda_fetch(struct backend *b, const char *what, const void *from, size_t from_step, size_t width,
                size_t n_row, void *dst)
{
	struct fetched f = { dst, from, from_step, width, n_row };
	bool pinned;

	cuda_products(b);
	if (b->rc)
		return;
	pinned = back_room(b, width * n_row);
	if (pinned)
		f.to = b->back;
	if (b->fetched) {                   /* a second look: the graph has done its work, or this is a dump */
		cuda_graphs_close(b);
		b->queued = true;
		copy_back(b, what, &f);
	} else {
		if (!pinned)                /* the caller's memory */
			cuda_graphs_never(b);
		work(b, what, copy_back, f);
	}
	b->fetched = true;
	finish(b);
	if (pinned && b->rc == 0)
		memcpy(dst, b->back, width * n_row);
}

static int backend_end(struct backend *b, struct backend_why *why)
{
	assert(b->batch);
	cuda_products(b);
	finish(b);
	cuda_graphs_end(b);
	b->batch = NULL;
	b->kv = NULL;
	if (b->rc && why)
		*why = b->why;
	return b->rc;
}

/* Not bitwise: gemm.cu. */
extern "C" {
extern const struct backend_ops sinkd_backend __attribute__((visibility("default")));
const struct backend_ops sinkd_backend = {
	.version = BACKEND_VERSION, .build = PACKAGE_VERSION, .name = "cuda", .bitwise = false, .own_slots = true,
	.open = backend_open, .close = backend_close, .describe = backend_describe,
	.weight_load = cuda_weight_load, .weight_free = cuda_weight_free, .weight_bytes = cuda_weight_bytes,
	.weight_size = cuda_weight_size, .act_size = cuda_act_size,
	.act_new = cuda_act_new, .act_free = cuda_act_free,
	.kv_bytes = cuda_kv_bytes, .slot_bytes = cuda_slot_bytes, .kv_layout = cuda_kv_layout, .kv_open = cuda_kv_open,
	.kv_close = cuda_kv_close, .kv_read = cuda_kv_read, .kv_write = cuda_kv_write, .kv_clear = cuda_kv_clear,
	.memory = backend_memory, .work_size = cuda_work_size, .host_new = host_new, .host_free = host_free,
	.begin = backend_begin, .end = backend_end,
	.embed = cuda_embed, .norm = cuda_norm, .matmul = cuda_matmul, .store = cuda_store,
	.attend = cuda_attend, .glu = cuda_glu, .add = cuda_add, .select = cuda_select,
	.softcap = cuda_softcap, .clamp = cuda_clamp, .add_norm = cuda_add_norm,
	.route = cuda_route, .matmul_routed = cuda_matmul_routed, .add_routed = cuda_add_routed,
	.candidates = cuda_candidates, .read = cuda_read,
};
}
