/*
 * A backend: numbers on a device.  About twenty mid-grain operations that
 * daemon/model/forward.c calls once for every architecture, and the memory they
 * work on, as opaque objects.
 *
 *   struct weight  one tensor of the model, in whatever layout the backend likes
 *   struct act     activations of a batch: [rows][width] float32
 *   struct kv      the caches of all sessions: equal slots of one slab
 *
 * Shapes are given as [outer][inner]; a matrix of a GGUF with ne = {n_in, n_out}
 * is [n_out][n_in].  A *row* is one token of a batch.
 *
 * Errors: open, load and kv calls return 0 or a negative errno, and write a
 * sentence for a person into why.  Operations return nothing: the first failure
 * sticks and end() reports it.  Nothing here prints, exits or reads the
 * environment.  One thread at a time owns a backend with all of its objects.
 *
 * An act's values last until end(), and a step stores the keys and values of its
 * positions before it uses them: a backend may begin with what a step like this one
 * did before, and overwrite it when this one turns out to be another.
 *
 * A result never depends on who else is in the batch, on how a text was cut into
 * chunks, or on the number of threads: bitwise, on the CPU across its instruction sets
 * too.  A backend that is not `bitwise` keeps this for the rows that come first in a
 * batch and whose sessions have no other row, however they were batched; the other rows
 * are computed within its tolerance.
 */
#ifndef KERNELS_BACKEND_H
#define KERNELS_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/quants.h"
#include "kernels/window.h"

struct backend;
struct weight;
struct act;
struct kv;

struct backend_why {
	char text[192];
};

struct backend_params {
	unsigned n_thread;     /* 0: as many as the process may run on */
	uint32_t n_row_max;    /* most rows of a batch */
	const char *isa;       /* NULL: the best; else "scalar", "avx2", "avxvnni", "avx512" (CPU) */
	unsigned n_act_bit;    /* of activations in products of quantized weights: 0 or 15; 8 (CPU): faster, less exact */
};

/* ---- batches ---- */

struct batch_row {
	int32_t token;
	uint32_t seq;          /* index into batch.seqs */
	uint64_t pos;          /* absolute position in its timeline */
};

struct batch_seq {         /* a session that takes part */
	uint32_t slot;
	struct window window;
	uint64_t start;        /* first position after the head that the cache holds */
};

/* Rows of one session are consecutive and in ascending, gapless positions, and
 * at most kv_shape.n_chunk of them.  The caller keeps all of it until end(). */
struct batch {
	uint32_t n_row, n_seq, n_output;
	const struct batch_row *rows;
	const struct batch_seq *seqs;
	const uint32_t *outputs;   /* ascending row indices whose logits are wanted */
	bool exact;                /* weights dequantized, activations float32: for tests */
};

/* ---- parameters of operations ---- */

enum norm_kind { NORM_RMS, NORM_LAYER };

struct norm {
	enum norm_kind kind;
	uint32_t width;            /* normalised length: the act's width, or head_dim (QK norm) */
	float eps;
	const struct weight *weight;   /* [width] F32; or of the act's width: each group has its own */
	const struct weight *bias;     /* [width] F32 or NULL */
};

enum rope_order { ROPE_NONE, ROPE_NORM /* pairs 2i,2i+1 */, ROPE_NEOX /* pairs i,i+n/2 */ };

/* An angle is a 64-bit fixed-point phase in turns: (uint64_t)pos * freq[i]; it
 * wraps by itself and is as exact at 10^12 as at 0.
 * freq[i] = llround(ldexp(f_i / 2pi, 64)), f_i in radians per position. */
struct rope {
	enum rope_order order;
	uint32_t n_rot;            /* leading dims of a head that rotate; even */
	const uint64_t *freq;      /* [n_rot / 2] */
	float scale;               /* of cos and sin (YaRN's mscale); 1 */
};

struct attend {
	uint32_t layer, n_head;
	float scale;               /* of q.k */
	float softcap;             /* 0: none; else cap * tanh(x / cap) */
	const float *alibi;        /* [n_head] slopes, NULL: none; distances inside the cache */
	const struct rope *rope;   /* of the query, both rotations; NULL: none */
	const struct weight *sink; /* [n_head] F32: a logit beside the keys', without a value; NULL: none */
};

enum glu_kind { GLU_SILU, GLU_GELU_TANH, GLU_GELU_ERF, GLU_RELU,
                /* gate at most 7, up within 7: gate / (1 + e^(-1.702 gate)) * (up + 1) */
                GLU_SWIGLU_CLAMPED };

#define ROUTE_MOST 32u         /* experts that one row may use */

#define CANDIDATES 64u         /* logits of a row that come to the host in order */

struct candidate { float logit; int32_t id; };

/* Of a row: its n = min(width, CANDIDATES) largest values, falling, of equal ones the
 * smaller id first; NaNs before all numbers. */
struct candidates {
	uint32_t n;
	float sum;                 /* of exp(x - top[0].logit) over the whole row, equal ones each 1: within
	                              CANDIDATES_SLACK of it; anything where there is a NaN */
	struct candidate top[CANDIDATES];
};
#define CANDIDATES_SLACK 1e-4

/* ---- caches ---- */

enum kv_type {
	KV_F16, KV_F32,
	KV_Q8,                     /* eight bits, but for the sinks (halves) */
};

struct kv_layer {
	uint32_t n_head_kv, head_dim;
	uint32_t local;            /* 0: global; else the sliding window w of the GGUF */
};

struct kv_shape {
	enum kv_type type;
	uint32_t n_layer;
	const struct kv_layer *layers;   /* [n_layer], copied */
	uint32_t n_chunk;          /* longest chunk of one session, or more: a ring has that many
	                              places beside its window, and a cache may be set back by what
	                              chunks do not use */
	struct window most;        /* the largest window that a slot must hold, wherever sinks and the rest part */
	uint32_t n_slot;
};

/* ---- the table ---- */

/* Of this file: counts up with whatever changes in it, so that a module is not
 * taken for what it is not. */
#define BACKEND_VERSION 6u

struct backend_ops {
	/* These two stay first for ever: nothing else is looked at before they are known
	 * to be ours. */
	uint32_t version;          /* BACKEND_VERSION */
	const char *build;         /* PACKAGE_VERSION */

	const char *name;          /* "cpu" */
	bool bitwise;              /* the guarantee above holds bitwise */
	bool own_slots;            /* slots lie on the device: kv_open takes no memory of the caller's */

	/* -ENODEV: there is no such device in this machine, which is no fault. */
	int (*open)(struct backend **out, const struct backend_params *p, struct backend_why *why);
	/* Also after a failure that stuck: an open after it begins with nothing of it. */
	void (*close)(struct backend *b);                     /* NULL is fine */
	/* One line for people: device, instruction set, threads. */
	const char *(*describe)(const struct backend *b);

	/* rows x cols values of a GGUF tensor at data (which stays mapped as long as
	 * the weight lives).  1-d tensors: n_out = 1.  -ENOTSUP: format unknown. */
	int (*weight_load)(struct backend *b, uint32_t type, uint64_t n_in, uint64_t n_out,
	                   const void *data, struct weight **out, struct backend_why *why);
	void (*weight_free)(struct backend *b, struct weight *w);     /* by the backend that loaded it, before it is closed */
	size_t (*weight_bytes)(const struct weight *w);       /* memory of its own */

	/* The same before it is made: what weight_load and act_new take, exactly but for the
	 * rest of a large page; 0 where they would refuse.  act_size NULL: nobody counts activations. */
	size_t (*weight_size)(uint32_t type, uint64_t n_in, uint64_t n_out);
	size_t (*act_size)(const struct backend *b, uint32_t width);

	int (*act_new)(struct backend *b, uint32_t width, struct act **out); /* n_row_max rows */
	void (*act_free)(struct backend *b, struct act *a);

	/* Bytes of a slot that a session with window w uses: constant, known before
	 * it is made. */
	size_t (*kv_bytes)(const struct kv_shape *shape, struct window w);
	/* Bytes that a slot has: enough for shape->most, and for every window that has fewer tokens
	 * by two blocks (sinks and the rest are rounded up to blocks), wherever its sinks end. */
	size_t (*slot_bytes)(const struct kv_shape *shape);
	/* A name for the byte layout of slots (NULL: no caches of this type); two caches with the same layout name,
	 * shape and window may exchange bytes. */
	const char *(*kv_layout)(const struct backend *b, enum kv_type type);
	/* memory: n_slot * slot_bytes(shape) zeroed bytes, page aligned, the
	 * caller's, or NULL: the backend's own. */
	int (*kv_open)(struct backend *b, const struct kv_shape *shape, void *memory,
	               struct kv **out, struct backend_why *why);
	void (*kv_close)(struct backend *b, struct kv *kv);
	int (*kv_read)(struct kv *kv, uint32_t slot, void *dst, size_t n);
	int (*kv_write)(struct kv *kv, uint32_t slot, const void *src, size_t n);
	/* Zeroes a slot: nobody reads what was in it.  NULL: only where slots are the caller's. */
	int (*kv_clear)(struct kv *kv, uint32_t slot);

	/* ---- a device with memory of its own; all NULL where there is none ---- */
	/* Bytes that nobody has taken now, all, and what open took; 0 or a negative errno. */
	int (*memory)(const struct backend *b, size_t *free, size_t *total, size_t *own);
	/* Bytes that open took, and that kv_open and steps take beside weights, acts and
	 * slots, exactly; asked between open and kv_open. */
	size_t (*work_size)(const struct backend *b, const struct kv_shape *shape);
	/* Memory of the host that kv_read and kv_write move without a copy between; NULL:
	 * there is none.  Freed before close. */
	void *(*host_new)(struct backend *b, size_t n);
	void (*host_free)(struct backend *b, void *p);        /* NULL is fine */

	/* ---- one step: begin, operations, end ---- */
	void (*begin)(struct backend *b, struct kv *kv, const struct batch *batch);
	int (*end)(struct backend *b, struct backend_why *why);

	/* out[row] = w[token of row] * scale */
	void (*embed)(struct backend *b, const struct weight *w, float scale, struct act *out);
	/* Every group of n->width values of a row is normalised; out may be in. */
	void (*norm)(struct backend *b, const struct norm *n, const struct act *in, struct act *out);
	/* out[row][j] = sum_i w[j][i] * in[row][i] (+ bias[j]); bias [n_out] F32 or NULL */
	void (*matmul)(struct backend *b, const struct weight *w, const struct weight *bias,
	               const struct act *in, struct act *out);
	/* k, v [n_head_kv * head_dim]: k rotated at its absolute position, both stored */
	void (*store)(struct backend *b, uint32_t layer, const struct rope *r,
	              const struct act *k, const struct act *v);
	/* q, out [n_head * head_dim]: sinks and window, two rotations, one softmax */
	void (*attend)(struct backend *b, const struct attend *a, const struct act *q, struct act *out);
	/* out = act(gate) * up; up NULL: out = act(gate); out may be gate or up */
	void (*glu)(struct backend *b, enum glu_kind kind, const struct act *gate,
	            const struct act *up, struct act *out);
	/* out = x + y; out may be either */
	void (*add)(struct backend *b, const struct act *x, const struct act *y, struct act *out);
	/* From here to end() the batch has only its output rows; out may be in. */
	void (*select)(struct backend *b, const struct act *in, struct act *out);
	/* x = cap * tanh(x / cap) */
	void (*softcap)(struct backend *b, float cap, struct act *x);
	/* x = min(max(x, -most), most) */
	void (*clamp)(struct backend *b, float most, struct act *x);

	/* sum = x + y; out = norm(sum), the same bits as one after the other.  sum may be x or y, out may be
	 * the other.  n->width is the row's. */
	void (*add_norm)(struct backend *b, const struct norm *n, const struct act *x, const struct act *y,
	                 struct act *sum, struct act *out);
	/* ---- experts: matrices stacked in one weight, of which a row uses n_used ----
	 * Every current row chooses the n_used largest logits, the first of equal ones
	 * first, and weighs them by a softmax over these alone. */
	void (*route)(struct backend *b, uint32_t n_used, const struct act *logits);
	/* matmul with the row's which-th expert; out->width rows of w (whole groups of 16)
	 * and values of bias belong to one expert */
	void (*matmul_routed)(struct backend *b, uint32_t which, const struct weight *w, const struct weight *bias,
	                      const struct act *in, struct act *out);
	/* out = x * weight of the row's which-th expert, added to what out is when which > 0 */
	void (*add_routed)(struct backend *b, uint32_t which, const struct act *x, struct act *out);
	/* dst [rows]: of every current row, on the host; completes everything queued before
	 * it.  A read may follow. */
	void (*candidates)(struct backend *b, const struct act *a, struct candidates *dst);
	/* Copies the current rows to the host: dst [rows][width of a]; completes
	 * everything queued before it. */
	void (*read)(struct backend *b, const struct act *a, float *dst);
};

extern const struct backend_ops backend_cpu;

#endif
