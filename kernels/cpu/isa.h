/*
 * What an instruction set offers: the inner loops, as a table of functions.
 *
 * The hard idea: every variant is the same source (rows.inc, dot.inc, attend.inc,
 * attend8.inc, top.inc; panel.inc beside dot.inc where that is faster) over sixteen lanes of
 * its own (lanes-*.h), so all of them make the same float operations in the same order, and
 * their results are bitwise equal.  A lane is an output row of a matrix, a key of a score, a dim of a value:
 * there are no horizontal sums but in norm, softmax and what logits sum to, which
 * have one fixed tree.
 *
 * Called from any worker; touches only what it is given.  Floats have no
 * alignment; rows are padded to 16 lanes and the padding may be written.
 */
#ifndef KERNELS_CPU_ISA_H
#define KERNELS_CPU_ISA_H

#include "kernels/backend.h"

/* Inner loops are written over small arrays that must end up in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#define UNROLL2 _Pragma("unroll 2")
#else
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL2 _Pragma("GCC unroll 2")
#endif
#define INLINE static inline __attribute__((always_inline))

/* What is read soon, into the second cache.  A builtin's address becomes one more pointer that
 * compilers keep in a register. */
#if defined(__x86_64__)
#define ASK(p) __asm__ volatile("prefetcht1 %0" : : "m"(*(const char *)(p)))
#else
#define ASK(p) __builtin_prefetch((p), 0, 2)
#endif

#define ROUND16(n) (((n) + 15) / 16 * 16)

/* ---- packed weights: groups of 16 output rows, lane = row ---- */

enum pack {
	PACK_F32,                        /* [group][n_in][16] */
	PACK_WORD,                       /* halves and bfloats: [group][n_in/32] blocks of int16 [16][row][2 inputs] */
	PACK_INT,                        /* [group][n_in/32] blocks of 64 * n_bit bytes, see lanes-scalar.h: q + off */
};

/* Of a block's inputs in one row, x = q * 2^e, |q| <= 2^WORD_BITS: the largest has fifteen bits, and
 * so four halves' exponents, or seven of bfloats, are exact.  e = WORD_NAN, of which v_load_exp2
 * makes an infinity to meet zeros: one of them is no number. */
#define WORD_BITS 14
#define WORD_NAN (-128)

struct weight {
	const struct quant *quant;
	const uint8_t *data;             /* as in the file */
	uint32_t n_in, n_out, n_group;
	enum pack pack;
	uint32_t n_bit;                  /* PACK_INT: 4, 5, 6 or 8; PACK_WORD: 16 */
	float *vector;                   /* n_out = 1: its values, padded; nothing is packed */
	uint8_t *values;                 /* 64-byte aligned; what follows lies behind it */
	uint16_t *scale16, *min16;       /* halves [group][n_in/sub][16], formats with one scale */
	int8_t *scale8, *min8;           /* K formats: the same shape, ...; PACK_WORD: e [group][n_in/32][16] */
	uint16_t *d, *m;                 /* ... times halves [group][n_in/256][16] */
	size_t n_byte;
};

/* ---- activations in fifteen bits: two int8, q = 128 * high + low, or int16, as the instruction set has it
 * (v_store_fifteen), and int16 in their order for words; or in eight; or as panels have it ---- */

/* Fifteen bits cost nothing that shows, and with few rows the second product hides behind
 * the weights' way from memory.  With many it does not: who asks for eight bits has one
 * int8, at most 127. */
#define ACT_MOST 16256.0f                /* 127 * 128: of fifteen bits */

/* Values in blocks of 32, x = d * q, where d of fifteen bits is a power of two: a float times it needs
 * no multiplication, of which integer products leave none, and of so many bits one is easily spared
 * (from 2^108 on what is finite may end as an infinity).  Of eight bits it is not one: a token's nll
 * would move by half as much again.  All but q are arrays over blocks, since many rows of them must
 * stay in the first cache: who reads a block of a row reads its neighbours next. */
struct quanta {
	int8_t *q;                       /* [block][n_plane * 32]: fifteen bits; with one plane q itself; or words */
	float *d, *e;                    /* of fifteen bits d = 2^e, or d = e = 0 or no number; of eight no e */
	float *s[3];                     /* d * (sum of q), of all 32 and of each sixteen */
	int32_t *start[3];               /* -8 * (sum of q): where products start whose weights are 8 too large */
	bool halves;                     /* what is said of each sixteen is made, too: only weights of such blocks read it */
};

/* The same of sixteen rows side by side, block by block (as the micro-panels of GotoBLAS): what a product of
 * many rows reads lies at distances that are known when it is compiled.  With pointers to so many rows
 * compilers keep those in vector registers, and fetch them through the ports that the products need. */
#define PANEL_ROWS 16u
#define ROWS_MOST 64u                    /* of a product at once: they stay in the cache, and panels' sums in the first one */

/* Of a block, behind its q: [PANEL_ROWS][n_plane * 32] int8, or in fifteen bits int16, 0, 2, 1, 3 of each four */
struct panel_numbers {
	float scale[PANEL_ROWS];         /* struct quanta's e of fifteen bits, d of eight */
	float s[3][PANEL_ROWS];
	int32_t start[3][PANEL_ROWS];    /* of eight bits: of fifteen weights are signed */
};

#define PANEL_BLOCK(n_plane) (PANEL_ROWS * (n_plane) * 32 + sizeof(struct panel_numbers))       /* bytes */

struct rows {                            /* of a matmul; strides in elements */
	uint32_t n;
	unsigned n_plane;                /* 2: fifteen bits; 1: eight */
	const float *x;
	size_t x_stride;
	struct quanta in;                /* of the first row, to be read; a row has q_stride bytes and b_stride blocks */
	size_t q_stride, b_stride;
	const uint8_t *panels;           /* of these rows, each [block][PANEL_BLOCK]: what dot_panels reads */
	float *out;
	size_t out_stride;
};

/* ---- attention over one split of one part (head or ring) of one kv head ---- */

#define ATTEND_TILE 16u                  /* most queries at once */
#define SPLIT_BLOCKS 16u                 /* blocks of a split: fixed by position, not by load */
#define SPLIT_KEYS (SPLIT_BLOCKS * WINDOW_BLOCK)

#define Q8_DIM_MOST 256u                 /* of a head with a cache of eight bits */
#define ROUND32(n) (((n) + 31) / 32 * 32)

struct planes {                          /* up to 256 values in fifteen bits or eight */
	int8_t q[2 * SPLIT_KEYS];        /* struct quanta's */
	float d[SPLIT_KEYS / 32], e[SPLIT_KEYS / 32], s[SPLIT_KEYS / 32];
	int32_t start[SPLIT_KEYS / 32];
};

struct split {
	enum kv_type type;               /* KV_Q8 in the ring only: sinks are halves */
	const void *k;                   /* [block][head_dim][16]; Q8: [block][ROUND32(head_dim) / 4][16 keys][4] */
	const void *v;                   /* [block * 16][dim_pad]; Q8: [block][dim_pad / 16][4][16 dims][4 keys] */
	const uint16_t *k_scale;         /* Q8: halves [block][ROUND32(head_dim) / 32][16] */
	const uint16_t *v_scale;         /* Q8: halves [block][16] */
	uint32_t head_dim, dim_pad;
	uint32_t places[SPLIT_BLOCKS];   /* where each block of this split lies */
	const void *after;               /* what is probably read next: asked for with the last values */
	uint32_t n_query;
	const float *q;                  /* [n_query][dim_pad], rotated and scaled */
	struct planes *planes;           /* Q8: [n_query], of q */
	unsigned n_plane;                /* of these, and of what values are weighed by */
	bool fresh;                      /* planes are to be made of q; else they are */
	uint32_t lo[ATTEND_TILE], hi[ATTEND_TILE];   /* keys seen: lo <= key < hi <= SPLIT_KEYS */
	float slope[ATTEND_TILE];        /* ALiBi: score -= slope * (distance - key) */
	float distance[ATTEND_TILE];     /* from the query to key 0 */
	bool alibi;
	float softcap;
	float *score;                    /* room: [ATTEND_TILE][SPLIT_KEYS] */
	struct partial *out;             /* [n_query] */
};

/* sum over keys of e^(score - most): alone and times the value; o: [dim_pad] */
struct partial {
	float most, sum;
	bool any;                        /* a key was seen at all */
	float *o;
};

/* ---- the largest values of a row, a stretch at a time ---- */

#define TOP_GROUPS 64u                   /* a bound for each */
#define TOP_ROOM 128u                    /* keys of a stretch */

struct top_part {
	float bound[TOP_GROUPS];         /* the largest of each group */
	uint64_t keys[TOP_ROOM];         /* of a value and its place, see top.c */
	uint32_t n;
	bool full;                       /* the first CANDIDATES of them are in order, and none before them is left */
	float sum;
};

void cpu_top_push(struct top_part *p, float x, uint32_t id);

struct isa {
	const char *name;                /* backend_params.isa */
	const char *title;               /* for people */
	/* n % 32 = 0, n_plane 1 or 2 */
	void (*quantize)(const float *x, uint32_t n, unsigned n_plane, struct quanta to);
	/* The same in fifteen bits, q as int16 [block][32]: no s, no start */
	void (*quantize_words)(const float *x, uint32_t n, struct quanta to);
	/* The same into row `row` of a panel, from the block at `panel` on; halves: as struct quanta; NULL: no panels */
	void (*quantize_panel)(const float *x, uint32_t n, unsigned n_plane, uint8_t *panel, uint32_t row, bool halves);
	/* out[row][16 * group ...] of quantized weights and activations, or of words and words */
	void (*dot)(const struct weight *w, uint32_t group, const struct rows *r, const float *bias);
	/* the same of panels; r->n % PANEL_ROWS = 0, at most ROWS_MOST */
	void (*dot_panels)(const struct weight *w, uint32_t group, const struct rows *r, const float *bias);
	/* the same in float32; tile: [n_in][16] */
	void (*dot_float)(const float *tile, uint32_t n_in, uint32_t group, const struct rows *r, const float *bias);
	void (*norm)(const struct norm *n, const float *weight, const float *bias,
	             const float *in, float *out);
	/* up may be NULL; n % 16 = 0 */
	void (*glu)(enum glu_kind kind, const float *gate, const float *up, float *out, size_t n);
	void (*add)(const float *x, const float *y, float *out, size_t n);
	void (*softcap)(float cap, float *x, size_t n);
	/* out = in * scale of n values; of these the first n_rot are turned by pairs: y = x * turn[0] + the other of
	 * the pair * turn[1], turn [2][n_rot] */
	void (*rotate)(enum rope_order order, const float *turn, uint32_t n_rot, float scale, const float *in, uint32_t n,
	               float *out);
	/* Bytes q + 128 with x = d * q, one half d for each n_same values; n % n_same = 0,
	 * n_same % 16 = 0 */
	void (*to_q8)(const float *x, uint32_t n, uint32_t n_same, uint8_t *q, uint16_t *d);
	void (*to_f16)(const float *x, uint16_t *dst, size_t n);    /* clamped to finite halves; n % 16 = 0 */
	/* bound [TOP_GROUPS]: each the largest value of a group of its own, or one of the group's where it has
	 * NaNs; a NaN where that is what is left */
	void (*top_bounds)(const float *x, uint32_t n, float *bound);
	/* Of x[first..end-1]: keys of what is not below least, the sum of e^(x - most) */
	void (*top_collect)(const float *x, uint32_t first, uint32_t end, float least, float most, struct top_part *p);
	void (*attend)(const struct split *s);
	void (*merge)(struct partial *into, const struct partial *p, uint32_t dim_pad);
	void (*finish)(const struct partial *p, float *out, uint32_t n);
};

extern const struct isa isa_scalar, isa_avx2, isa_avxvnni, isa_avx512;

#endif
