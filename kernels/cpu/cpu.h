/*
 * Inside the CPU backend: its objects, and what its files offer each other.
 *
 *   backend.c  open, begin, end, the table      pool.c    workers
 *   memory.c   blocks, and shelves of weights   rope.c    phases to turns
 *   weight.c   packing                          cache.c   the slots' bytes, store
 *   act.c      rows, and their integers         attend.c  queries against the cache
 *   matmul.c   products, experts                top.c     the largest logits
 *   ops.c      everything by rows
 *   isa-*.c    inner loops of an instruction set (isa.h)
 *
 * One thread owns a backend; workers touch an operation's data only while the
 * operation runs.  Operations assert what forward.c must keep to.
 */
#ifndef KERNELS_CPU_CPU_H
#define KERNELS_CPU_CPU_H

#include "kernels/backend.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"

#define CPU_ALIGN 64u
#define ROPE_TABLES 4u                   /* different ropes in one batch */
#define ROWS_NEAR 16u                    /* neighbours that a worker takes at once, at most: their bytes share lines of the cache */

/* Of integers: PACK_INT reads bytes of rows, or panels; PACK_WORD words. */
enum form { FORM_BYTES, FORM_WORDS, FORM_PANELS, N_FORM };

struct ints {                            /* of an act's x; NULL if width % 32 */
	/* of rows: q [n_row_max][cpu_row_bytes], arrays [n_row_max][width / 32]; of panels halves alone */
	struct quanta of;
	void *blocks;                    /* the arrays' room */
	uint8_t *panels;                 /* [n_row_max / PANEL_ROWS][cpu_row_bytes], NULL where that is none, and of rows */
	uint32_t n_row;                  /* current rows that they were made for, which says what is in panels; 0: none */
	bool wanted;                     /* by a product: who writes rows makes them, where act.c says so, */
	bool all;                        /* of rows that are in panels, too */
};

struct act {
	uint32_t width;
	size_t stride;                   /* width padded to 16, and then to an odd number of those */
	float *x;                        /* [n_row_max][stride] */
	struct ints ints[N_FORM];
};

/* Turns (isa.h) of every row of the batch, of one rope. */
struct rope_table {
	const uint64_t *freq;            /* NULL: unused */
	enum rope_order order;
	uint32_t n_rot;
	float scale;
	float *at;                       /* [n_row_max][2 queries][2][n_rot] */
};

enum { ROPE_WINDOW, ROPE_SINK };         /* at pos; at window_query(pos) */

struct layer_place {                     /* where a layer of a session lies in its slot */
	struct span span;
	size_t k, v;                     /* bytes from the slot's start; Q8: of the sinks, */
	size_t k8, v8, k8_scale, v8_scale;       /* and of the ring (struct split) */
};

struct kv {
	struct pool *pool;
	struct kv_shape shape;
	struct kv_layer *layers;
	uint8_t *memory;
	bool own;
	size_t slot_bytes;
	float *rope_room;                /* ROPE_TABLES tables */
	size_t rope_room_floats;         /* of one */
	struct layer_place *places;      /* [n_row_max][n_layer]: of the batch's sessions */
	uint32_t *tiles;                 /* [n_row_max + 1]: first rows of an attend's tiles */
	float *partials;                 /* room of a split attend */
	size_t n_partial_floats;
};

struct choice {                          /* of one row: experts and their weights */
	uint32_t expert[ROUTE_MOST];
	float weight[ROUTE_MOST];
};

struct scratch {                         /* of one worker */
	float *tile;                     /* [n_in][16] dequantized */
	float *q;                        /* [ATTEND_TILE][dim_pad] */
	struct planes *planes;           /* [ATTEND_TILE], of q */
	uint64_t queries;                /* which ones q has (attend.c) */
	float *score;                    /* [ATTEND_TILE][SPLIT_KEYS] */
	float *o;                        /* [2][ATTEND_TILE][dim_pad] */
};

struct product {                         /* see matmul.c */
	struct backend *b;
	const struct weight *w;
	const float *bias;
	const struct act *in;
	struct act *out;
	uint64_t before, group;          /* bytes of those that wait before it, of one of its groups */
	bool exact;
};

#define PRODUCTS_WAITING 3u

struct backend {
	const struct isa *isa;
	struct pool *pool;
	uint32_t n_row_max;
	unsigned n_plane;                /* of activations */
	char description[96];
	struct scratch *scratch;         /* [workers] */
	uint32_t tile_in, dim_pad;       /* what the scratch has room for */
	int rc;                          /* first failure of this step */
	struct backend_why why;
	struct kv *kv;
	const struct batch *batch;
	uint32_t n_row;                  /* current rows: the batch's, or its outputs */
	bool selected;
	struct product waiting[PRODUCTS_WAITING];        /* of one input; every other operation runs them first */
	uint32_t n_waiting;
	uint32_t n_part, n_part_item;    /* of those: parts of the rows, items of a part, */
	uint64_t n_part_byte;            /* bytes of weights */
	uint32_t n_attend;               /* counts calls */
	struct choice *choices;          /* [n_row_max], of the last route */
	uint32_t n_used;
	struct rope_table ropes[ROPE_TABLES];
	struct top_row *tops;            /* top.c's room */
	struct shelf *shelves;           /* memory.c: the one that is filled, then older ones */
};

/* memory: zeroed, 64-byte aligned; large blocks are mapped and cost nothing
 * before they are touched */
void *cpu_alloc(size_t n);
void cpu_free(void *p);                  /* NULL is fine */
/* Of weights: zeroed, 64-byte aligned, in large pages where the system has them; NULL: out of memory. */
void *cpu_shelf_take(struct backend *b, size_t n);
void cpu_shelf_give(struct backend *b, void *p); /* NULL is fine */

/* Fills why (NULL is fine) and returns rc. */
int cpu_why(struct backend_why *why, int rc, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The step has failed; the first reason stays. */
void cpu_fail(struct backend *b, int rc, const char *text);
/* Room in every worker's scratch; 0 or -ENOMEM. */
int cpu_scratch_tile(struct backend *b, uint32_t n_in);
int cpu_scratch_heads(struct backend *b, uint32_t dim_pad);

int cpu_weight_load(struct backend *b, uint32_t type, uint64_t n_in, uint64_t n_out,
                    const void *data, struct weight **out, struct backend_why *why);
void cpu_weight_free(struct backend *b, struct weight *w);
size_t cpu_weight_bytes(const struct weight *w);
size_t cpu_weight_size(uint32_t type, uint64_t n_in, uint64_t n_out);
/* Groups first..first+n-1 as a weight of their own: a view, not to be freed. */
struct weight cpu_weight_groups(const struct weight *w, uint32_t first, uint32_t n);
/* Row of a weight as floats, from the file's bytes. */
void cpu_weight_row(const struct weight *w, uint32_t row, float scale, float *out);
/* A group as float32 [n_in][16], from the packed form, the vector or, where that is rounded, the file's bytes. */
void cpu_weight_tile(const struct weight *w, uint32_t group, float *tile);

/* Turns of the batch's rows for r; NULL where r turns nothing. */
const struct rope_table *cpu_rope(struct backend *b, const struct rope *r);
/* out = in * scale with the first n_rot dims rotated; t may be NULL */
void cpu_rotate(const struct backend *b, const struct rope_table *t, uint32_t row, int query, uint32_t head_dim,
                float scale, const float *in, float *out);

size_t cpu_kv_bytes(const struct kv_shape *shape, struct window w);
size_t cpu_slot_bytes(const struct kv_shape *shape);
const char *cpu_kv_layout(const struct backend *b, enum kv_type type);
int cpu_kv_open(struct backend *b, const struct kv_shape *shape, void *memory,
                struct kv **out, struct backend_why *why);
void cpu_kv_close(struct backend *b, struct kv *kv);
int cpu_kv_read(struct kv *kv, uint32_t slot, void *dst, size_t n);
int cpu_kv_write(struct kv *kv, uint32_t slot, const void *src, size_t n);
void cpu_kv_begin(struct backend *b);    /* places of the batch's sessions */
/* Where the keys and values of a key head lie: s's k, v and scales, for s's type. */
void cpu_kv_split(const struct kv *kv, const struct layer_place *p, const uint8_t *slot, uint32_t head,
                  uint32_t dim, struct split *s);
void cpu_store(struct backend *b, uint32_t layer, const struct rope *r,
               const struct act *k, const struct act *v);
void cpu_attend(struct backend *b, const struct attend *a, const struct act *q, struct act *out);
size_t cpu_attend_room(const struct backend *b, const struct kv *kv);

void cpu_route(struct backend *b, uint32_t n_used, const struct act *logits);
void cpu_matmul_routed(struct backend *b, uint32_t which, const struct weight *w, const struct weight *bias,
                       const struct act *in, struct act *out);
void cpu_add_routed(struct backend *b, uint32_t which, const struct act *x, struct act *out);

void cpu_products(struct backend *b);    /* runs those that wait */
void cpu_matmul(struct backend *b, const struct weight *w, const struct weight *bias,
                const struct act *in, struct act *out);

int cpu_act_new(struct backend *b, uint32_t width, struct act **out);
void cpu_act_free(struct backend *b, struct act *a);
void cpu_act_written(struct act *a);     /* its integers are none of x's any more */
uint32_t cpu_panel_rows(const struct backend *b);        /* the current rows' first ones, which are in panels */
size_t cpu_row_bytes(const struct backend *b, const struct act *a, enum form form);      /* or a panel's */
/* Of rows: from block on, of all rows' blocks; panels from row on, which begins one. */
struct quanta cpu_quanta(const struct backend *b, const struct act *a, enum form form, size_t block);
const uint8_t *cpu_panels(const struct backend *b, const struct act *a, uint32_t row);
/* Integers for w, of all current rows; routed: each of them is a row by itself. */
void cpu_ints_need(struct backend *b, const struct weight *w, const struct act *in, bool routed);
bool cpu_ints_wanted(const struct act *a);
/* Those that are wanted, of blocks block..block+n-1 of a row; then, when all of them are made. */
void cpu_ints_make(const struct backend *b, const struct act *a, uint32_t row, uint32_t block, uint32_t n);
void cpu_ints_made(const struct backend *b, struct act *a);
/* Items 0..n-1, of n_float values in all: by the caller alone where that is little. */
void cpu_by_rows(struct backend *b, void (*fn)(void *ctx, uint32_t item, unsigned worker), void *ctx, uint32_t n,
                 size_t n_float);
void cpu_embed(struct backend *b, const struct weight *w, float scale, struct act *out);
void cpu_norm(struct backend *b, const struct norm *n, const struct act *in, struct act *out);
void cpu_add_norm(struct backend *b, const struct norm *n, const struct act *x, const struct act *y,
                  struct act *sum, struct act *out);
void cpu_glu(struct backend *b, enum glu_kind kind, const struct act *gate,
             const struct act *up, struct act *out);
void cpu_add(struct backend *b, const struct act *x, const struct act *y, struct act *out);
void cpu_select(struct backend *b, const struct act *in, struct act *out);
void cpu_softcap(struct backend *b, float cap, struct act *x);
void cpu_clamp(struct backend *b, float most, struct act *x);
int cpu_top_new(struct backend *b);      /* 0 or -ENOMEM */
void cpu_top_free(struct backend *b);
void cpu_candidates(struct backend *b, const struct act *a, struct candidates *dst);
void cpu_read(struct backend *b, const struct act *a, float *dst);

#endif
