/*
 * The table of architectures.
 *
 * The one hard idea: a model that people know by a name is a row of switches, and
 * an absent tensor is an absent operation, so a new one is new data.  A row says
 * what Hugging Face's transformers compute; tests/golden/archs.c holds it to that.
 *
 * It must not look at a file: hparams.c does.
 */
#include "daemon/model/arch.h"

#include <math.h>
#include <stddef.h>

const struct tensor_row model_tensors[N_MODEL_TENSOR] = {
#define X(symbol, name, in, out) { name, DIM_##in, DIM_##out },
	MODEL_TENSORS(X)
#undef X
};

const struct tensor_row layer_tensors[N_LAYER_TENSOR] = {
#define X(symbol, name, in, out) { name, DIM_##in, DIM_##out },
	LAYER_TENSORS(X)
#undef X
};

const struct fused_row layer_fused[N_LAYER_FUSED] = {
#define N_OF(...) (sizeof((enum layer_tensor[]){ __VA_ARGS__ }) / sizeof(enum layer_tensor))
#define X(symbol, name, ...) { name, { __VA_ARGS__ }, N_OF(__VA_ARGS__) },
	LAYER_FUSED(X)
#undef X
#undef N_OF
};

/* ---- the rows ---- */

#define T(x) (1u << T_##x)
#define L(x) (UINT64_C(1) << L_##x)
#define F(x) (1u << F_##x)
#define ATTN (L(ATTN_Q) | L(ATTN_K) | L(ATTN_V) | L(ATTN_OUT))
#define QKV_B (L(ATTN_Q_B) | L(ATTN_K_B) | L(ATTN_V_B))
#define FFN (L(FFN_UP) | L(FFN_DOWN))
#define FFN_GATED (L(FFN_GATE) | FFN)
#define EXPERTS (L(FFN_ROUTER) | L(FFN_GATE_EXPS) | L(FFN_UP_EXPS) | L(FFN_DOWN_EXPS))
#define EXPERTS_B (L(FFN_ROUTER_B) | L(FFN_GATE_EXPS_B) | L(FFN_UP_EXPS_B) | L(FFN_DOWN_EXPS_B))
#define RMS .norm = NORM_RMS, .eps_key = "attention.layer_norm_rms_epsilon"
#define LAYER_NORM .norm = NORM_LAYER, .eps_key = "attention.layer_norm_epsilon"

/* Gemma 27B divides by the width of an embedding's share of a head, the others by
 * head_dim; no key says so, the number of layers does (as in llama.cpp). */
static void gemma2_adjust(struct hparams *h)
{
	if (h->n_layer == 46)
		h->attn_scale = 1.0f / sqrtf((float)h->n_embd / (float)h->n_head);
}

static void gemma3_adjust(struct hparams *h)
{
	if (h->n_layer == 62)
		h->attn_scale = 1.0f / sqrtf((float)h->n_embd / (float)h->n_head);
}

static const struct arch archs[] = {
	{
		.name = "llama",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT) | T(ROPE_FREQS),
		.needs_layer = L(ATTN_NORM) | ATTN | L(FFN_NORM) | FFN_GATED,
		.may_layer = QKV_B | L(ATTN_OUT_B),
		.needs_expert = EXPERTS,   /* Mixtral */
		RMS,
		.rope = ROPE_NORM,         /* rows of q and k are interleaved in a llama GGUF */
		.glu = GLU_SILU,
	},
	{
		.name = "mpt",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | ATTN | L(FFN_NORM) | FFN,
		.fused = F(ATTN_QKV),
		LAYER_NORM,
		.alibi_bias = 8,
		.glu = GLU_GELU_ERF,
	},
	{
		.name = "falcon",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM) | T(OUTPUT_NORM_B),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | L(ATTN_NORM_B) | ATTN | FFN,
		.may_layer = L(ATTN_NORM_2) | L(ATTN_NORM_2_B),      /* 40B and its like */
		.fused = F(ATTN_QKV),
		LAYER_NORM,
		.rope = ROPE_NEOX,
		.parallel = true,
		.glu = GLU_GELU_ERF,
	},
	{
		.name = "gptneox",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM) | T(OUTPUT_NORM_B),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | L(ATTN_NORM_B) | ATTN | L(FFN_NORM) | L(FFN_NORM_B) |
		               FFN | L(FFN_UP_B) | L(FFN_DOWN_B),
		.may_layer = QKV_B | L(ATTN_OUT_B),
		.fused = F(ATTN_QKV) | F(ATTN_QKV_B),
		LAYER_NORM,
		.rope = ROPE_NEOX,
		.parallel = true,
		.glu = GLU_GELU_ERF,
	},
	{
		.name = "gptj",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM) | T(OUTPUT_NORM_B) | T(OUTPUT),
		.may_model = T(OUTPUT_B),
		.needs_layer = L(ATTN_NORM) | L(ATTN_NORM_B) | ATTN | FFN | L(FFN_UP_B) | L(FFN_DOWN_B),
		LAYER_NORM,
		.rope = ROPE_NORM,
		.parallel = true,
		.glu = GLU_GELU_TANH,
	},
	{
		.name = "stablelm",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM) | T(OUTPUT_NORM_B),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | L(ATTN_NORM_B) | ATTN | FFN_GATED,
		.may_layer = QKV_B | L(ATTN_Q_NORM_EACH) | L(ATTN_K_NORM_EACH) | L(FFN_NORM) | L(FFN_NORM_B),
		LAYER_NORM,
		.rope = ROPE_NEOX,
		.parallel_by_norm = true,  /* the conversion writes the key as true where the model says nothing, and means no */
		.glu = GLU_SILU,
	},
	{
		.name = "qwen2",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | ATTN | QKV_B | L(FFN_NORM) | FFN_GATED,
		RMS,
		.rope = ROPE_NEOX,
		.glu = GLU_SILU,
	},
	{
		.name = "qwen3",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | ATTN | L(ATTN_Q_NORM) | L(ATTN_K_NORM) | L(FFN_NORM) | FFN_GATED,
		RMS,
		.rope = ROPE_NEOX,
		.glu = GLU_SILU,
	},
	{
		.name = "qwen3moe",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | ATTN | L(ATTN_Q_NORM) | L(ATTN_K_NORM) | L(FFN_NORM),
		.needs_expert = EXPERTS,
		RMS,
		.rope = ROPE_NEOX,
		.glu = GLU_SILU,
	},
	{
		.name = "gemma2",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | ATTN | L(ATTN_POST_NORM) | L(FFN_NORM) | FFN_GATED | L(FFN_POST_NORM),
		RMS,
		.rope = ROPE_NEOX,
		.glu = GLU_GELU_TANH,
		.embd_sqrt = true,
		.attn_softcap = 50, .output_softcap = 30,
		.local_period = 2, .local = 4096,
		.adjust = gemma2_adjust,
	},
	{
		.name = "gemma3",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | ATTN | L(ATTN_Q_NORM) | L(ATTN_K_NORM) | L(ATTN_POST_NORM) |
		               L(FFN_NORM) | FFN_GATED | L(FFN_POST_NORM),
		RMS,
		.rope = ROPE_NEOX,
		.glu = GLU_GELU_TANH,
		.embd_sqrt = true,
		.local_period = 6, .rope_base_local = 10000.0, .local_unscaled = true,
		.adjust = gemma3_adjust,
	},
	{
		.name = "phi3",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT) | T(ROPE_FACTORS_SHORT) | T(ROPE_FACTORS_LONG),
		.needs_layer = L(ATTN_NORM) | ATTN | L(FFN_NORM) | FFN_GATED,
		.fused = F(ATTN_QKV) | F(FFN_GATE_UP),
		RMS,
		.rope = ROPE_NEOX,
		.glu = GLU_SILU,
		.local_period = LOCAL_ALWAYS,
	},
	{
		.name = "olmo2",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = ATTN | L(ATTN_Q_NORM_WHOLE) | L(ATTN_K_NORM_WHOLE) | L(ATTN_POST_NORM) |
		               FFN_GATED | L(FFN_POST_NORM),
		RMS,
		.rope = ROPE_NEOX,
		.glu = GLU_SILU,
		.local_period = 4, .local_unscaled = true, .yarn_scale_whole = true,         /* OLMo 3 */
	},
	{
		.name = "starcoder2",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM) | T(OUTPUT_NORM_B),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | L(ATTN_NORM_B) | ATTN | QKV_B | L(ATTN_OUT_B) | L(FFN_NORM) | L(FFN_NORM_B) |
		               FFN | L(FFN_UP_B) | L(FFN_DOWN_B),
		LAYER_NORM,
		.rope = ROPE_NEOX,
		.glu = GLU_GELU_TANH,
	},
	{
		.name = "smollm3",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | ATTN | L(FFN_NORM) | FFN_GATED,
		RMS,
		.rope = ROPE_NORM,
		.glu = GLU_SILU,
		.no_rope_period = 4,
	},
	{
		.name = "gpt-oss",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | ATTN | QKV_B | L(ATTN_OUT_B) | L(ATTN_SINKS) | L(FFN_NORM),
		.needs_expert = EXPERTS | EXPERTS_B,
		.fused = F(FFN_NORM_2),
		RMS,
		.rope = ROPE_NEOX,
		.glu = GLU_SWIGLU_CLAMPED,
		.local_period = 2,
		.yarn_ramp_between = true,
	},
};

#undef T
#undef L
#undef F
#undef ATTN
#undef QKV_B
#undef FFN
#undef FFN_GATED
#undef EXPERTS
#undef EXPERTS_B
#undef RMS
#undef LAYER_NORM

const struct arch *arch_at(size_t i)
{
	return i < sizeof archs / sizeof *archs ? &archs[i] : NULL;
}
