/*
 * Inside the CUDA backend: its objects, and what its files offer each other.
 *
 *   backend.cu  open, begin, end, the table    weight.cu  packing, embed
 *   matmul.cu   products, in floats            cache.cu   the slots' bytes, store
 *   dot.cu      products, in int8              wide.cu    the same on tensor cores
 *   planes.cu   activations in int8
 *   norm.cu     norms                          attend.cu  queries against the cache
 *   experts.cu  rows by their experts         top.cu     the largest logits
 *   gemm.cu     products of many rows, by cuBLAS
 *   rows.cu     everything by rows             launch.h   the one way to start a kernel
 *   graph.cu    a decode step as one graph launch
 *   packed.h    weights in registers           rotary.h   phases to sines
 *   intrinsics.h  what only a GPU has, each with a body for the host
 *
 * One stream, on which a step queues through cuda_work alone; the host waits in read,
 * candidates, end, kv_read and kv_write only.  What a step depends on (rows, tokens,
 * sessions, where caches lie) is copied to the device by begin and read from there;
 * what it gives comes back through pinned memory.  The same files are compiled by g++ against
 * tests/cusim.
 *
 * A row that decodes (backend.h: its session has no other, and comes first) has the same bits
 * whoever else is in the batch.  Sixteen rows or more of prefill go through halves (gemm.cu):
 * the bits of a product depend on how many rows there are.  Weights of F32 (which choose
 * experts) and those that a half cannot hold, experts, exact batches, the output rows and
 * steps without caches never do.  matmul.cu has the table of ways.
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
#define MANY_ROWS 16u                    /* from here on a product is arithmetic: tensor cores */
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
	bool are_halves;                 /* every value is in the range of a half: gemm.cu may take it */
};

struct act {
	uint32_t width, stride;          /* whole chunks; what is past width is 0 */
	float *x;                        /* [n_row_max][stride] on the device */
};

/* 32 values of an act in fifteen bits, x = d * q, and the sums of q of both halves. */
struct plane_block {
	float d;
	int32_t half[2], unused;
};

/* An act's int8 form (planes.h writes it): of a block 16 bytes lie beside the same 16 of
 * the next one, highs of both halves and then lows: q[row][4][n_block].  Rows are the
 * current rows.  Of prefill, gemm.cu has float16 there: q[row] is [stride] of them, and the
 * d of a row's first block what they are to be multiplied by. */
struct planes {
	uint4 *q;
	struct plane_block *blocks;      /* [row][n_block] */
	uint32_t n_block, unused;        /* no padding: launch.h compares bytes */
};

struct layer_place {                     /* where a layer of a session lies in the slab */
	struct span span;
	uint64_t k, v;                   /* bytes from the slab's start */
};

/* Where eight dims of a key begin, in values from its head's first. */
static inline __host__ __device__ size_t key_at(uint32_t place, uint32_t dim, uint32_t pad)
{
	return (size_t)(place / 16) * 16 * pad + (size_t)dim * 16 + place % 16 * 8;
}

struct kv {
	struct kv_shape shape;
	struct kv_layer *layers;
	struct backend *b;
	uint8_t *memory;                 /* on the device */
	size_t slot_bytes;
	float *partials;                 /* on the device: of attend's parts */
	size_t n_partial;
};

struct choice {                          /* of a row: its experts, heaviest first */
	uint32_t expert[ROUTE_MOST];
	float weight[ROUTE_MOST];
};

/* Rows that a block of threads multiplies by the same weights: of a batch, or of those whose
 * k-th choice is the same expert, for which route writes them. */
#define GROUP_MOST 4u                    /* eight spill registers */
struct group {
	uint32_t expert, n;              /* n 0: nobody */
	uint32_t row[GROUP_MOST];        /* past n the last one again: cheaper than a branch */
};

/* Which rows blocks multiply, and by which matrix of the weight: rows of
 * [first, first + n_row), as many at once as a block takes, or the groups of experts. */
struct product_rows {
	uint32_t first, n_row;
	const struct group *groups;      /* NULL: the weight is one matrix */
	uint32_t n_group, unused;        /* no padding: launch.h compares bytes */
};

struct product {
	const struct weight *w;
	const float *bias;               /* on the device; NULL: none */
	struct act *out;
};

#define PRODUCTS_MOST 3u
struct products {                        /* of the same rows of one act */
	struct backend *b;
	const struct act *in;
	struct product_rows rows;
	uint32_t n;
	struct product all[PRODUCTS_MOST];
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
	size_t n_own;                    /* bytes of the device that open took */
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
	struct group *groups;            /* [ROUTE_MOST][n_row_max] on the device */
	uint32_t n_used, n_group;        /* since route: experts of a row, groups of a choice at most */
	struct top_part *parts;          /* top.cu's, on the device */
	struct candidates *candidates;   /* [n_row_max] on the device */
	uint8_t *back;                   /* pinned: what a step gives */
	size_t back_bytes;
	bool fetched;                    /* the step has used it */
	bool queued;                     /* the device may be at work */
	struct graphs *graphs;
	const struct act *planes_of;     /* the act whose planes are what it is; NULL: none's */
	uint32_t n_planes;               /* its rows that have planes; those after them have halves */
	uint32_t prefill_from;           /* current rows from here on are prefill; n_row: none */
	struct gemm *gemm;               /* NULL: batches are always small */
	uint32_t n_quantized;            /* weights whose products read planes */
	struct products waiting;         /* for more of the same act: matmul.cu */
};

/* Fills why (NULL is fine) and returns rc. */
CUDA_HIDDEN int cuda_why(struct backend_why *why, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The step has failed; the first reason stays. */
CUDA_HIDDEN void cuda_fail(struct backend *b, int rc, const char *text);
/* false: e is an error, which fails the step under the name of what was done. */
CUDA_HIDDEN bool cuda_good(struct backend *b, cudaError_t e, const char *what);

/* The one way to queue something in a step: run(b, what, bytes) does it, now or later,
 * once or several times; it reads its bytes and the device's memory only.  Device
 * pointers among the bytes stay good until cuda_graphs_drop. */
CUDA_HIDDEN void cuda_work(struct backend *b, const char *what,
                           void (*run)(struct backend *b, const char *what, const void *bytes),
                           const void *bytes, size_t n);
/* Copies rows of the device to the host, after everything queued before. */
CUDA_HIDDEN void cuda_fetch(struct backend *b, const char *what, const void *from, size_t from_step,
                            size_t width, size_t n_row, void *dst);
CUDA_HIDDEN int cuda_graphs_new(struct backend *b);
CUDA_HIDDEN void cuda_graphs_free(struct backend *b);
/* The step's graph ends here, if nothing but copies to the host follows. */
CUDA_HIDDEN void cuda_graphs_close(struct backend *b);
/* Before memory of the device, or pinned memory, that steps use is freed; waits. */
CUDA_HIDDEN void cuda_graphs_drop(struct backend *b);
CUDA_HIDDEN void cuda_graphs_never(struct backend *b);         /* this step is not one to repeat */
CUDA_HIDDEN void cuda_graphs_begin(struct backend *b, struct kv *kv, const struct batch *batch);
CUDA_HIDDEN void cuda_graphs_end(struct backend *b);           /* the device is idle */

CUDA_HIDDEN int cuda_weight_load(struct backend *b, uint32_t type, uint64_t n_in, uint64_t n_out,
                                 const void *data, struct weight **out, struct backend_why *why);
CUDA_HIDDEN void cuda_weight_free(struct backend *b, struct weight *w);
CUDA_HIDDEN size_t cuda_weight_bytes(const struct weight *w);
CUDA_HIDDEN size_t cuda_weight_size(uint32_t type, uint64_t n_in, uint64_t n_out);
CUDA_HIDDEN size_t cuda_act_size(const struct backend *b, uint32_t width);
CUDA_HIDDEN size_t cuda_work_size(const struct backend *b, const struct kv_shape *shape);
CUDA_HIDDEN bool cuda_is_vector(const struct weight *w, uint32_t width);       /* NULL is fine */

CUDA_HIDDEN size_t cuda_kv_bytes(const struct kv_shape *shape, struct window w);
CUDA_HIDDEN size_t cuda_slot_bytes(const struct kv_shape *shape);
CUDA_HIDDEN const char *cuda_kv_layout(const struct backend *b, enum kv_type type);
CUDA_HIDDEN int cuda_kv_open(struct backend *b, const struct kv_shape *shape, void *memory,
                             struct kv **out, struct backend_why *why);
CUDA_HIDDEN void cuda_kv_close(struct backend *b, struct kv *kv);
CUDA_HIDDEN int cuda_kv_read(struct kv *kv, uint32_t slot, void *dst, size_t n);
CUDA_HIDDEN int cuda_kv_write(struct kv *kv, uint32_t slot, const void *src, size_t n);
CUDA_HIDDEN int cuda_kv_clear(struct kv *kv, uint32_t slot);
CUDA_HIDDEN void cuda_kv_places(const struct kv *kv, const struct batch *batch, struct layer_place *out);

CUDA_HIDDEN int cuda_act_new(struct backend *b, uint32_t width, struct act **out);
CUDA_HIDDEN void cuda_act_free(struct backend *b, struct act *a);

/* The most groups that n_row rows make which choose among n_expert. */
static inline uint32_t cuda_groups_most(uint32_t n_row, uint32_t n_expert)
{
	const uint32_t n_some = n_row < n_expert ? n_row : n_expert;     /* experts with rows */

	return (n_row + (GROUP_MOST - 1) * n_some) / GROUP_MOST;
}

/* Queues the products that wait.  Whatever else is queued does so first (launch.h); so do
 * those who ask whether anything is. */
CUDA_HIDDEN void cuda_products(struct backend *b);

/* Planes lie behind an act's values.  cuda_planes makes them unless they are there: of the
 * first n_planes rows, and halves of the others.  Every launch forgets them, as it may write
 * the act; who writes them, or does not write the act, says so after it: cuda_planes_are. */
CUDA_HIDDEN size_t cuda_planes_bytes(uint32_t n_row_max, uint32_t width);
CUDA_HIDDEN struct planes cuda_planes(struct backend *b, const struct act *a, uint32_t n_planes);
/* Where a kernel that writes all current rows of a is to write their planes, too (planes.h);
 * q NULL: no product of this step reads them all. */
CUDA_HIDDEN struct planes cuda_planes_beside(const struct backend *b, const struct act *a);

static inline void cuda_planes_are(struct backend *b, const struct act *a, uint32_t n_planes)
{
	b->planes_of = a;
	b->n_planes = n_planes;
}

/* gemm.cu: opening; the memory that it takes of the device, which kv_open gives it once;
 * and halves of the rows from first on. */
CUDA_HIDDEN int cuda_gemm_new(struct backend *b);
CUDA_HIDDEN void cuda_gemm_free(struct backend *b);
CUDA_HIDDEN size_t cuda_gemm_size(const struct backend *b);
CUDA_HIDDEN int cuda_gemm_room(struct backend *b);
CUDA_HIDDEN void cuda_gemm_halves(struct backend *b, const struct act *a, const struct planes *p, uint32_t first);

CUDA_HIDDEN void cuda_embed(struct backend *b, const struct weight *w, float scale, struct act *out);
CUDA_HIDDEN void cuda_norm(struct backend *b, const struct norm *n, const struct act *in, struct act *out);
CUDA_HIDDEN void cuda_add_norm(struct backend *b, const struct norm *n, const struct act *x, const struct act *y,
                               struct act *sum, struct act *out);
CUDA_HIDDEN void cuda_matmul(struct backend *b, const struct weight *w, const struct weight *bias,
                             const struct act *in, struct act *out);
CUDA_HIDDEN void cuda_store(struct backend *b, uint32_t layer, const struct rope *r,
                            const struct act *k, const struct act *v);
CUDA_HIDDEN void cuda_attend(struct backend *b, const struct attend *a, const struct act *q, struct act *out);
CUDA_HIDDEN size_t cuda_attend_room(const struct kv_shape *shape, uint32_t n_row_max);      /* floats */
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
CUDA_HIDDEN int cuda_top_new(struct backend *b);               /* 0, or -1: no memory */
CUDA_HIDDEN void cuda_top_free(struct backend *b);
CUDA_HIDDEN void cuda_candidates(struct backend *b, const struct act *a, struct candidates *dst);
CUDA_HIDDEN void cuda_read(struct backend *b, const struct act *a, float *dst);

#endif
