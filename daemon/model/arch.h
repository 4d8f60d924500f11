/*
 * Architectures as data.  A row says what differs: switches, which tensors there
 * are, and at most two hooks.  forward.c reads the switches; nothing else in the
 * daemon knows an architecture's name.  Adding one is a row in arch.c (and a slot
 * here, where it has a tensor that no other one has).
 *
 * Names are GGUF's: keys are "<arch>.<suffix>", tensors "blk.<layer>.<name>".
 */
#ifndef DAEMON_MODEL_ARCH_H
#define DAEMON_MODEL_ARCH_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/error.h"
#include "daemon/model/gguf.h"
#include "kernels/backend.h"

/* ---- tensors: X(symbol, "name", inputs, outputs); an output of ONE: a vector ---- */

enum dim { DIM_ONE, DIM_EMBD, DIM_FF, DIM_Q /* n_head * head_dim */, DIM_KV /* n_head_kv * head_dim */,
           DIM_HEAD, DIM_N_HEAD, DIM_N_HEAD_KV, DIM_VOCAB, DIM_ROT_HALF,
           DIM_EXPERT, DIM_EXPERT_VECTORS, DIM_FF_EXPERT, DIM_EMBD_STACK /* of every expert, one behind the other */, DIM_FF_STACK, N_DIM };

#define MODEL_TENSORS(X) \
	X(TOKEN_EMBD,         "token_embd.weight",         EMBD, VOCAB) \
	X(OUTPUT_NORM,        "output_norm.weight",        EMBD, ONE) \
	X(OUTPUT_NORM_B,      "output_norm.bias",          EMBD, ONE) \
	X(OUTPUT,             "output.weight",             EMBD, VOCAB)     /* absent: tied to token_embd */ \
	X(OUTPUT_B,           "output.bias",               VOCAB, ONE) \
	X(ROPE_FREQS,         "rope_freqs.weight",         ROT_HALF, ONE)   /* divisors of the frequencies */ \
	X(ROPE_FACTORS_SHORT, "rope_factors_short.weight", ROT_HALF, ONE)   /* the same, up to the original context */ \
	X(ROPE_FACTORS_LONG,  "rope_factors_long.weight",  ROT_HALF, ONE)   /* and past it */

/* Three ways to normalise q and k: by one head's weights, by each head's own (a
 * vector for each, stacked), or as a whole. */
#define LAYER_TENSORS(X) \
	X(ATTN_NORM,         "attn_norm.weight",           EMBD, ONE) \
	X(ATTN_NORM_B,       "attn_norm.bias",             EMBD, ONE) \
	X(ATTN_NORM_2,       "attn_norm_2.weight",         EMBD, ONE)    /* attention's, attn_norm is then ffn's */ \
	X(ATTN_NORM_2_B,     "attn_norm_2.bias",           EMBD, ONE) \
	X(ATTN_Q,            "attn_q.weight",              EMBD, Q) \
	X(ATTN_Q_B,          "attn_q.bias",                Q,    ONE) \
	X(ATTN_K,            "attn_k.weight",              EMBD, KV) \
	X(ATTN_K_B,          "attn_k.bias",                KV,   ONE) \
	X(ATTN_V,            "attn_v.weight",              EMBD, KV) \
	X(ATTN_V_B,          "attn_v.bias",                KV,   ONE) \
	X(ATTN_OUT,          "attn_output.weight",         Q,    EMBD) \
	X(ATTN_OUT_B,        "attn_output.bias",           EMBD, ONE) \
	X(ATTN_Q_NORM,       "attn_q_norm.weight",         HEAD, ONE) \
	X(ATTN_K_NORM,       "attn_k_norm.weight",         HEAD, ONE) \
	X(ATTN_Q_NORM_EACH,  "attn_q_norm.weight",         HEAD, N_HEAD) \
	X(ATTN_K_NORM_EACH,  "attn_k_norm.weight",         HEAD, N_HEAD_KV) \
	X(ATTN_Q_NORM_WHOLE, "attn_q_norm.weight",         Q,    ONE) \
	X(ATTN_K_NORM_WHOLE, "attn_k_norm.weight",         KV,   ONE) \
	X(ATTN_SINKS,        "attn_sinks.weight",          N_HEAD, ONE)  /* a learned logit of each head */ \
	X(ATTN_POST_NORM,    "post_attention_norm.weight", EMBD, ONE) \
	X(FFN_NORM,          "ffn_norm.weight",            EMBD, ONE) \
	X(FFN_NORM_B,        "ffn_norm.bias",              EMBD, ONE) \
	X(FFN_GATE,          "ffn_gate.weight",            EMBD, FF) \
	X(FFN_UP,            "ffn_up.weight",              EMBD, FF) \
	X(FFN_UP_B,          "ffn_up.bias",                FF,   ONE) \
	X(FFN_DOWN,          "ffn_down.weight",            FF,   EMBD) \
	X(FFN_DOWN_B,        "ffn_down.bias",              EMBD, ONE) \
	X(FFN_POST_NORM,     "post_ffw_norm.weight",       EMBD, ONE) \
	X(FFN_ROUTER,        "ffn_gate_inp.weight",        EMBD, EXPERT) \
	X(FFN_ROUTER_B,      "ffn_gate_inp.bias",          EXPERT, ONE) \
	X(FFN_GATE_EXPS,     "ffn_gate_exps.weight",       EMBD, FF_STACK) \
	X(FFN_GATE_EXPS_B,   "ffn_gate_exps.bias",         FF_EXPERT, EXPERT_VECTORS) \
	X(FFN_UP_EXPS,       "ffn_up_exps.weight",         EMBD, FF_STACK) \
	X(FFN_UP_EXPS_B,     "ffn_up_exps.bias",           FF_EXPERT, EXPERT_VECTORS) \
	X(FFN_DOWN_EXPS,     "ffn_down_exps.weight",       FF_EXPERT, EMBD_STACK) \
	X(FFN_DOWN_EXPS_B,   "ffn_down_exps.bias",         EMBD, EXPERT_VECTORS)

/* Tensors of a file that are several of these, one behind the other.
 * X(symbol, "name", its parts) */
#define LAYER_FUSED(X) \
	X(ATTN_QKV,    "attn_qkv.weight", L_ATTN_Q, L_ATTN_K, L_ATTN_V) \
	X(ATTN_QKV_B,  "attn_qkv.bias",   L_ATTN_Q_B, L_ATTN_K_B, L_ATTN_V_B) \
	X(FFN_GATE_UP, "ffn_up.weight",   L_FFN_GATE, L_FFN_UP) \
	X(FFN_NORM_2,  "post_attention_norm.weight", L_FFN_NORM)      /* after attention is before ffn */

enum model_tensor {
#define X(symbol, name, in, out) T_##symbol,
	MODEL_TENSORS(X)
#undef X
	N_MODEL_TENSOR
};

enum layer_tensor {
#define X(symbol, name, in, out) L_##symbol,
	LAYER_TENSORS(X)
#undef X
	N_LAYER_TENSOR
};

enum layer_fused {
#define X(symbol, name, ...) F_##symbol,
	LAYER_FUSED(X)
#undef X
	N_LAYER_FUSED
};

#define FUSED_PARTS 3
struct tensor_row { const char *name; enum dim in, out; };
struct fused_row { const char *name; enum layer_tensor parts[FUSED_PARTS]; uint32_t n_part; };
extern const struct tensor_row model_tensors[N_MODEL_TENSOR];
extern const struct tensor_row layer_tensors[N_LAYER_TENSOR];
extern const struct fused_row layer_fused[N_LAYER_FUSED];

/* A vector, or a stack of them that is one vector to a backend. */
static inline bool tensor_is_vector(const struct tensor_row *row)
{
	return row->out == DIM_ONE || row->out == DIM_N_HEAD || row->out == DIM_N_HEAD_KV ||
	       row->out == DIM_EXPERT_VECTORS;
}

/* ---- numbers of one model ---- */

struct rope_numbers {
	double base, factor;       /* the factor divides positions */
	bool yarn;                 /* it divides slow dimensions only */
	uint32_t n_ctx_orig;       /* context before it was stretched; YaRN and longrope */
	double beta_fast, beta_slow, scale;    /* YaRN: turns within n_ctx_orig; scale of cos and sin */
};

struct hparams {
	uint32_t n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_rot, n_ctx, n_vocab;
	uint32_t n_expert, n_expert_used, n_ff_expert;   /* n_expert 0: one ffn */
	float eps;
	bool parallel;             /* ffn reads the layer's input, not attention's result */
	float embd_scale;          /* of an embedding row; 1 */
	float attn_scale;          /* of q.k; 1 / sqrt(head_dim) */
	float attn_softcap;        /* 0: none */
	float output_softcap;      /* 0: none */
	float qkv_clamp;           /* 0: none; else q, k and v lie within it */
	float alibi_bias;          /* 0: no ALiBi; else the steepest head's slope is 2^-(that / n_head) */
	struct rope_numbers rope, rope_local;        /* of global layers, of local ones */
	uint32_t no_rope_period;   /* 0; else every that many layers, the last one does not rotate */
	uint32_t local;            /* sliding window w of local layers, 0: every layer is global */
	uint32_t local_period;     /* every that many layers, the last one is global */
};

uint32_t hparams_dim(const struct hparams *h, enum dim d);
/* 0: layer l is global, else its window. */
uint32_t hparams_local(const struct hparams *h, uint32_t l);

/* ---- an architecture ---- */

/* A local_period: no layer is global.  As the window counts places of the cache, that
 * is a shorter context, whose sinks are seen, and no layer is called local. */
#define LOCAL_ALWAYS UINT32_MAX

struct arch {
	const char *name;
	uint32_t needs_model, may_model;       /* sets of 1 << enum model_tensor */
	uint64_t needs_layer, may_layer;       /* sets of 1 << enum layer_tensor */
	uint64_t needs_expert, may_expert;     /* instead of an ffn's three in a model with experts; 0: none */
	uint32_t fused;                        /* set of 1 << enum layer_fused: it may have these instead */
	enum norm_kind norm;
	const char *eps_key;                   /* suffix */
	enum rope_order rope;
	enum glu_kind glu;                     /* ungated where FFN_GATE is not a tensor of it */
	bool parallel;                         /* ... unless the key use_parallel_residual says otherwise, */
	bool parallel_by_norm;                 /* or, whatever that says: where the first layer has no ffn_norm */
	bool embd_sqrt;                        /* embeddings are scaled by sqrt(n_embd) */
	uint32_t no_rope_period;
	double alibi_bias;                     /* ALiBi, unless the key attention.max_alibi_bias says how much */
	double attn_softcap, output_softcap;   /* where no key says it; 0: none */
	uint32_t local_period;                 /* of local layers, where the file has a sliding window; 0: none */
	uint32_t local;                        /* their window where no key says it; 0: there are none then */
	double rope_base_local;                /* their rope base; 0: the global one's */
	bool local_unscaled;                   /* rope scaling is for global layers alone */
	bool yarn_ramp_between;                /* YaRN's ramp begins between dimensions, not at one */
	bool yarn_scale_whole;                 /* the key rope.scaling.attn_factor is all of YaRN's scale, not a factor of it */
	void (*adjust)(struct hparams *h);     /* hook: what no key says; NULL: nothing */
};

const struct arch *arch_at(size_t i);          /* NULL past the end */
/* The file's architecture and its numbers, all checked.  n_vocab comes from the
 * embedding.  REFUSED bad_model or unsupported, naming the key. */
int arch_read(const struct gguf *g, const struct arch **arch, struct hparams *h, struct reason *why);

#endif
