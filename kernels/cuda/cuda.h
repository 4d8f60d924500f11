/*
 * Inside the CUDA backend: its objects, and what its files offer each other.
 *
 *   backend.cu  open, begin, end, the table    weight.cu  packing, embed
 *   matmul.cu   products                       cache.cu   the slots' bytes, store
 *   norm.cu     norms                          attend.cu  queries against the cache
 *   experts.cu  which experts a row uses
 *   rows.cu     everything by rows             launch.h   the one way to start a kernel
 *   packed.h    weights in registers           rotary.h   phases to sines
 *   intrinsics.h  what only a GPU has, each with a body for the host
 *
 * One stream; the host waits in read, end, kv_read and kv_write only.  What a step
 * depends on (rows, tokens, sessions, where caches lie) is copied to the device by
 * begin and read from there.  The same files are compiled by g++ against
 * tests/cusim.
 *
 * Not here yet: int8 products, fused operations, a window split over blocks,
 * cuBLAS for prefill, decode graphs, sampling, a memory budget, swapping.
 */
#ifndef KERNELS_CUDA_CUDA_H
#define KERNELS_CUDA_CUDA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cuda_runtime.h>

extern "C" {
#include "kernels/backend.h"
}

#define CHUNK 32u                        /* values that one lane handles at once */
#define HEAD_DIM_MOST 256u
#define HEADS_MOST 256u                  /* with slopes */
#define CUDA_HIDDEN __attribute__((visibility("hidden")))

static inline __host__ __device__ uint32_t up_to(uint32_t n, uint32_t step)
{
	return (n + step - 1) / step * step;
}

enum pack { PACK_F32, PACK_F16, PACK_BF16, PACK_QUANTS };

/* A weight as kernels see it; pointers are the device's.
 *
 * Plain formats: rows of stride values.  Quantized ones: q is cut into planes of
 * 8, 4, 2 and 1 bits that together have n_bit, low bits first in that order; a
 * chunk of 32 values has 32, 16, 8 or 4 bytes of a plane, [n_out][n_in / 32].
 * Bits of values 4t..4t+3 are bytes of one 32-bit word, ready to be added up:
 *     (word[t / per] >> t % per * bits) & mask, per = 8 / bits
 * Scales are [n_out][n_in / n_sub]: halves with blocks of 32, else int8 times the
 * half of a block of 256.  Without mins, q is stored with offset added. */
struct packed {
	enum pack pack;
	uint32_t n_in, n_out;
	uint32_t stride;                 /* plain: values of a row, whole chunks; the rest is 0 */
	uint32_t n_bit, n_sub;           /* quantized */
	int32_t offset;
	bool super, has_min;             /* super: blocks of 256 */
	const void *plain;
	const uint32_t *plane[4];        /* of 8, 4, 2, 1 bits; NULL: none */
	const uint16_t *d, *m;           /* [n_out][n_in / (super ? 256 : 32)] */
	const int8_t *scale, *min;       /* super: [n_out][n_in / n_sub] */
};

struct weight {
	struct packed p;                 /* 1-d tensors are PACK_F32 */
	void *memory;
	size_t n_byte;
};

struct act {
	uint32_t width, stride;          /* whole chunks; what is past width is 0 */
	float *x;                        /* [n_row_max][stride] on the device */
};

struct layer_place {                     /* where a layer of a session lies in the slab */
	struct span span;
	uint64_t k, v;                   /* bytes from the slab's start */
};

struct kv {
	struct kv_shape shape;
	struct kv_layer *layers;
	struct backend *b;
	uint8_t *memory;                 /* on the device */
	size_t slot_bytes;
};

struct choice {                          /* of a row: its experts, heaviest first */
	uint32_t expert[ROUTE_MOST];
	float weight[ROUTE_MOST];
};

/* What begin copies to the device: pointers into one block. */
struct step {
	struct batch_row *rows;
	struct batch_seq *seqs;
	uint32_t *outputs;
	struct layer_place *places;      /* [n_seq][n_layer] */
};

struct backend {
	cudaStream_t stream;
	uint32_t n_row_max;
	char description[320];
	int rc;                          /* first failure of this step */
	struct backend_why why;
	struct kv *kv;
	const struct batch *batch;
	uint32_t n_row;                  /* current rows: the batch's, or its outputs */
	bool selected;
	uint8_t *pinned, *room;          /* a step's block, on the host and on the device */
	size_t room_bytes;
	struct step step;
	struct choice *choices;          /* [n_row_max] on the device */
	uint32_t n_used;                 /* experts of a row, since route */
};

/* Fills why (NULL is fine) and returns rc. */
CUDA_HIDDEN int cuda_why(struct backend_why *why, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The step has failed; the first reason stays. */
CUDA_HIDDEN void cuda_fail(struct backend *b, int rc, const char *text);
/* false: e is an error, which fails the step under the name of what was done. */
CUDA_HIDDEN bool cuda_good(struct backend *b, cudaError_t e, const char *what);

CUDA_HIDDEN int cuda_weight_load(struct backend *b, uint32_t type, uint64_t n_in, uint64_t n_out,
                                 const void *data, struct weight **out, struct backend_why *why);
CUDA_HIDDEN void cuda_weight_free(struct backend *b, struct weight *w);
CUDA_HIDDEN size_t cuda_weight_bytes(const struct weight *w);
CUDA_HIDDEN bool cuda_is_vector(const struct weight *w, uint32_t width);       /* NULL is fine */

CUDA_HIDDEN size_t cuda_kv_bytes(const struct kv_shape *shape, struct window w);
CUDA_HIDDEN const char *cuda_kv_layout(const struct backend *b, enum kv_type type);
CUDA_HIDDEN int cuda_kv_open(struct backend *b, const struct kv_shape *shape, void *memory,
                             struct kv **out, struct backend_why *why);
CUDA_HIDDEN void cuda_kv_close(struct backend *b, struct kv *kv);
CUDA_HIDDEN int cuda_kv_read(struct kv *kv, uint32_t slot, void *dst, size_t n);
CUDA_HIDDEN int cuda_kv_write(struct kv *kv, uint32_t slot, const void *src, size_t n);
CUDA_HIDDEN void cuda_kv_places(const struct kv *kv, const struct batch *batch, struct layer_place *out);

CUDA_HIDDEN int cuda_act_new(struct backend *b, uint32_t width, struct act **out);
CUDA_HIDDEN void cuda_act_free(struct backend *b, struct act *a);

CUDA_HIDDEN void cuda_embed(struct backend *b, const struct weight *w, float scale, struct act *out);
CUDA_HIDDEN void cuda_norm(struct backend *b, const struct norm *n, const struct act *in, struct act *out);
CUDA_HIDDEN void cuda_matmul(struct backend *b, const struct weight *w, const struct weight *bias,
                             const struct act *in, struct act *out);
CUDA_HIDDEN void cuda_store(struct backend *b, uint32_t layer, const struct rope *r,
                            const struct act *k, const struct act *v);
CUDA_HIDDEN void cuda_attend(struct backend *b, const struct attend *a, const struct act *q, struct act *out);
CUDA_HIDDEN void cuda_glu(struct backend *b, enum glu_kind kind, const struct act *gate,
                          const struct act *up, struct act *out);
CUDA_HIDDEN void cuda_add(struct backend *b, const struct act *x, const struct act *y, struct act *out);
CUDA_HIDDEN void cuda_select(struct backend *b, const struct act *in, struct act *out);
CUDA_HIDDEN void cuda_softcap(struct backend *b, float cap, struct act *x);
CUDA_HIDDEN void cuda_clamp(struct backend *b, float most, struct act *x);
CUDA_HIDDEN void cuda_route(struct backend *b, uint32_t n_used, const struct act *logits);
CUDA_HIDDEN void cuda_matmul_routed(struct backend *b, uint32_t which, const struct weight *w,
                                    const struct weight *bias, const struct act *in, struct act *out);
CUDA_HIDDEN void cuda_add_routed(struct backend *b, uint32_t which, const struct act *x, struct act *out);
CUDA_HIDDEN void cuda_read(struct backend *b, const struct act *a, float *dst);

#endif
