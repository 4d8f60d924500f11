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
           DIM_HEAD, DIM_VOCAB, DIM_ROT_HALF, N_DIM };

#define MODEL_TENSORS(X) \
	X(TOKEN_EMBD,    "token_embd.weight",  EMBD, VOCAB) \
	X(OUTPUT_NORM,   "output_norm.weight", EMBD, ONE) \
	X(OUTPUT_NORM_B, "output_norm.bias",   EMBD, ONE) \
	X(OUTPUT,        "output.weight",      EMBD, VOCAB)     /* absent: tied to token_embd */ \
	X(ROPE_FREQS,    "rope_freqs.weight",  ROT_HALF, ONE)   /* divisors of the frequencies */

#define LAYER_TENSORS(X) \
	X(ATTN_NORM,      "attn_norm.weight",           EMBD, ONE) \
	X(ATTN_NORM_B,    "attn_norm.bias",             EMBD, ONE) \
	X(ATTN_Q,         "attn_q.weight",              EMBD, Q) \
	X(ATTN_Q_B,       "attn_q.bias",                Q,    ONE) \
	X(ATTN_K,         "attn_k.weight",              EMBD, KV) \
	X(ATTN_K_B,       "attn_k.bias",                KV,   ONE) \
	X(ATTN_V,         "attn_v.weight",              EMBD, KV) \
	X(ATTN_V_B,       "attn_v.bias",                KV,   ONE) \
	X(ATTN_OUT,       "attn_output.weight",         Q,    EMBD) \
	X(ATTN_OUT_B,     "attn_output.bias",           EMBD, ONE) \
	X(ATTN_Q_NORM,    "attn_q_norm.weight",         HEAD, ONE) \
	X(ATTN_K_NORM,    "attn_k_norm.weight",         HEAD, ONE) \
	X(ATTN_POST_NORM, "post_attention_norm.weight", EMBD, ONE) \
	X(FFN_NORM,       "ffn_norm.weight",            EMBD, ONE) \
	X(FFN_NORM_B,     "ffn_norm.bias",              EMBD, ONE) \
	X(FFN_GATE,       "ffn_gate.weight",            EMBD, FF) \
	X(FFN_UP,         "ffn_up.weight",              EMBD, FF) \
	X(FFN_UP_B,       "ffn_up.bias",                FF,   ONE) \
	X(FFN_DOWN,       "ffn_down.weight",            FF,   EMBD) \
	X(FFN_DOWN_B,     "ffn_down.bias",              EMBD, ONE) \
	X(FFN_POST_NORM,  "post_ffw_norm.weight",       EMBD, ONE)

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

struct tensor_row { const char *name; enum dim in, out; };
extern const struct tensor_row model_tensors[N_MODEL_TENSOR];
extern const struct tensor_row layer_tensors[N_LAYER_TENSOR];

/* ---- numbers of one model ---- */

struct hparams {
	uint32_t n_layer, n_embd, n_ff, n_head, n_head_kv, head_dim, n_rot, n_ctx, n_vocab;
	float eps;
	float embd_scale;          /* of an embedding row; 1 */
	float attn_scale;          /* of q.k; 1 / sqrt(head_dim) */
	float attn_softcap;        /* 0: none */
	float output_softcap;      /* 0: none */
	double rope_base, rope_factor;               /* of global layers; the factor divides positions */
	double rope_base_local, rope_factor_local;   /* of local ones */
	uint32_t local;            /* sliding window w of local layers, 0: every layer is global */
	uint32_t local_period;     /* every that many layers, the last one is global */
};

uint32_t hparams_dim(const struct hparams *h, enum dim d);
/* 0: layer l is global, else its window. */
uint32_t hparams_local(const struct hparams *h, uint32_t l);

/* ---- an architecture ---- */

struct arch {
	const char *name;
	uint32_t needs_model, may_model;       /* sets of 1 << enum model_tensor */
	uint32_t needs_layer, may_layer;       /* sets of 1 << enum layer_tensor */
	enum norm_kind norm;
	const char *eps_key;                   /* suffix */
	enum rope_order rope;
	enum glu_kind glu;                     /* ungated where FFN_GATE is not a tensor of it */
	bool qk_norm;                          /* heads of q and k are normalised before rope */
	bool post_norm;                        /* attention's and ffn's outputs are normalised before they are added */
	bool parallel;                         /* ffn reads the layer's input, not attention's result */
	bool embd_sqrt;                        /* embeddings are scaled by sqrt(n_embd) */
	uint32_t local_period;                 /* of local layers, where the file has a sliding window; 0: none */
	double rope_base_local;                /* their rope base; 0: the global one's */
	void (*adjust)(struct hparams *h);     /* hook: what no key says; NULL: nothing */
};

const struct arch *arch_at(size_t i);          /* NULL past the end */
/* The file's architecture and its numbers, all checked.  n_vocab comes from the
 * embedding.  REFUSED bad_model or unsupported, naming the key. */
int arch_read(const struct gguf *g, const struct arch **arch, struct hparams *h, struct reason *why);

#endif
