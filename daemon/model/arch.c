/*
 * The table of architectures, and the numbers of a model read from its keys.
 *
 * The one hard idea: everything that sizes memory or divides is bounded here, by
 * the name of its key, before anything uses it; so what follows can compute in 64
 * bits without a thought of overflow.
 *
 * It must not look at tensors' data, nor call a backend.
 */
#include "daemon/model/arch.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

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

/* ---- the rows ---- */

#define T(x) (1u << T_##x)
#define L(x) (1u << L_##x)
#define ATTN (L(ATTN_Q) | L(ATTN_K) | L(ATTN_V) | L(ATTN_OUT))
#define FFN_GATED (L(FFN_GATE) | L(FFN_UP) | L(FFN_DOWN))

/* Gemma 3 27B divides by the width of an embedding's share of a head, the others
 * by head_dim; no key says so, its 62 layers do (as in llama.cpp). */
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
		.may_layer = L(ATTN_Q_B) | L(ATTN_K_B) | L(ATTN_V_B) | L(ATTN_OUT_B),
		.norm = NORM_RMS, .eps_key = "attention.layer_norm_rms_epsilon",
		.rope = ROPE_NORM,         /* rows of q and k are interleaved in a llama GGUF */
		.glu = GLU_SILU,
	},
	{
		.name = "gemma3",
		.needs_model = T(TOKEN_EMBD) | T(OUTPUT_NORM),
		.may_model = T(OUTPUT),
		.needs_layer = L(ATTN_NORM) | ATTN | L(ATTN_Q_NORM) | L(ATTN_K_NORM) | L(ATTN_POST_NORM) |
		               L(FFN_NORM) | FFN_GATED | L(FFN_POST_NORM),
		.norm = NORM_RMS, .eps_key = "attention.layer_norm_rms_epsilon",
		.rope = ROPE_NEOX,
		.glu = GLU_GELU_TANH,
		.qk_norm = true, .post_norm = true, .embd_sqrt = true,
		.local_period = 6, .rope_base_local = 10000.0,
		.adjust = gemma3_adjust,
	},
};

#undef T
#undef L
#undef ATTN
#undef FFN_GATED

const struct arch *arch_at(size_t i)
{
	return i < sizeof archs / sizeof *archs ? &archs[i] : NULL;
}

uint32_t hparams_dim(const struct hparams *h, enum dim d)
{
	switch (d) {
	case DIM_EMBD: return h->n_embd;
	case DIM_FF: return h->n_ff;
	case DIM_Q: return h->n_head * h->head_dim;
	case DIM_KV: return h->n_head_kv * h->head_dim;
	case DIM_HEAD: return h->head_dim;
	case DIM_VOCAB: return h->n_vocab;
	case DIM_ROT_HALF: return h->n_rot / 2;
	default: return 1;
	}
}

uint32_t hparams_local(const struct hparams *h, uint32_t l)
{
	return h->local && l % h->local_period != h->local_period - 1 ? h->local : 0;
}

/* ---- keys ---- */

struct reader {
	const struct gguf *g;
	const struct arch *arch;
	struct reason *why;
	char key[96];
};

static const char *key(struct reader *r, const char *suffix)
{
	snprintf(r->key, sizeof r->key, "%s.%s", r->arch->name, suffix);
	return r->key;
}

/* A count in 1 .. most; absent: *out stays as it is, and 0 is refused. */
static int count_read(struct reader *r, const char *suffix, uint32_t most, uint32_t *out)
{
	uint64_t v = *out;

	if (gguf_has(r->g, key(r, suffix)) && !gguf_u64(r->g, r->key, &v)) {
		struct gguf_array a;

		if (gguf_array(r->g, r->key, &a))
			return refuse(r->why, "unsupported", "%s differs from layer to layer", r->key);
		return refuse(r->why, "bad_model", "%s is not a count", r->key);
	}
	if (v == 0 && !gguf_has(r->g, r->key))
		return refuse(r->why, "bad_model", "%s is missing", r->key);
	if (v == 0 || v > most)
		return refuse(r->why, "bad_model", "%s is %" PRIu64 "; 1 to %" PRIu32 " can be", r->key, v, most);
	*out = (uint32_t)v;
	return 0;
}

/* A finite number in (lo, hi); absent: *out stays as it is, and a NaN is refused. */
static int real_read(struct reader *r, const char *suffix, double lo, double hi, double *out)
{
	bool there = gguf_has(r->g, key(r, suffix));

	if (there && !gguf_f64(r->g, r->key, out))
		return refuse(r->why, "bad_model", "%s is not a floating-point number", r->key);
	if (!there && isnan(*out))
		return refuse(r->why, "bad_model", "%s is missing", r->key);
	if (!(*out > lo && *out < hi))
		return refuse(r->why, "bad_model", "%s is %g, which cannot be", r->key, *out);
	return 0;
}

#define TRY(x) do { int rc_ = (x); if (rc_) return rc_; } while (0)

static int shape_read(struct reader *r, struct hparams *h)
{
	/* Every layer has a tensor at least; memory is never sized by a bare number. */
	size_t n_tensor = gguf_n_tensor(r->g);
	static const struct { const char *suffix; uint32_t most; size_t at; } counts[] = {
		{ "embedding_length",     1u << 18, offsetof(struct hparams, n_embd) },
		{ "feed_forward_length",  1u << 20, offsetof(struct hparams, n_ff) },
		{ "attention.head_count", 1u << 12, offsetof(struct hparams, n_head) },
		{ "context_length",       1u << 30, offsetof(struct hparams, n_ctx) },
	};
	uint32_t v_dim;
	size_t i;

	TRY(count_read(r, "block_count", n_tensor < 1024 ? (uint32_t)n_tensor : 1024, &h->n_layer));
	for (i = 0; i < sizeof counts / sizeof *counts; i++)
		TRY(count_read(r, counts[i].suffix, counts[i].most, (uint32_t *)((char *)h + counts[i].at)));
	h->n_head_kv = h->n_head;
	TRY(count_read(r, "attention.head_count_kv", h->n_head, &h->n_head_kv));
	if (h->n_head % h->n_head_kv)
		return refuse(r->why, "bad_model", "%s is %" PRIu32 ", which does not divide the %" PRIu32 " heads",
		              r->key, h->n_head_kv, h->n_head);
	if (!gguf_has(r->g, key(r, "attention.key_length"))) {
		if (h->n_embd % h->n_head)
			return refuse(r->why, "bad_model", "%s.attention.head_count is %" PRIu32 ", which does not divide embedding_length, %" PRIu32,
			              r->arch->name, h->n_head, h->n_embd);
		h->head_dim = h->n_embd / h->n_head;
	}
	TRY(count_read(r, "attention.key_length", 1024, &h->head_dim));
	v_dim = h->head_dim;
	TRY(count_read(r, "attention.value_length", 1024, &v_dim));
	if (v_dim != h->head_dim)
		return refuse(r->why, "unsupported", "%s differs from key_length", r->key);
	return 0;
}

static int rope_read(struct reader *r, struct hparams *h)
{
	struct gguf_str type = { "none", 4 };
	char name[40];

	h->n_rot = h->head_dim;
	TRY(count_read(r, "rope.dimension_count", h->head_dim, &h->n_rot));
	if (h->n_rot % 2)
		return refuse(r->why, "bad_model", "%s is odd", r->key);
	h->rope_base = 10000.0;
	h->rope_factor = h->rope_factor_local = 1.0;
	TRY(real_read(r, "rope.freq_base", 0.5, 1e15, &h->rope_base));
	TRY(real_read(r, "rope.scale_linear", 0.0, 1e6, &h->rope_factor));   /* the old name */
	if (gguf_has(r->g, key(r, "rope.scaling.type")) && !gguf_string(r->g, r->key, &type))
		return refuse(r->why, "bad_model", "%s is not a string", r->key);
	if (type.n == 6 && memcmp(type.data, "linear", 6) == 0)
		TRY(real_read(r, "rope.scaling.factor", 0.0, 1e6, &h->rope_factor));
	else if (type.n != 4 || memcmp(type.data, "none", 4)) {
		gguf_print(type, name, sizeof name);
		return refuse(r->why, "unsupported", "rope scaling \"%s\"; none and linear are known", name);
	}
	return 0;
}

static int local_read(struct reader *r, struct hparams *h)
{
	uint64_t w = 0;

	h->rope_base_local = r->arch->rope_base_local > 0 ? r->arch->rope_base_local : h->rope_base;
	h->local_period = r->arch->local_period;
	if (!h->local_period || (gguf_u64(r->g, key(r, "attention.sliding_window"), &w) && w == 0) ||
	    !gguf_has(r->g, r->key))
		return 0;
	TRY(count_read(r, "attention.sliding_window", 1u << 30, &h->local));
	TRY(count_read(r, "attention.sliding_window_pattern", 1024, &h->local_period));
	TRY(real_read(r, "rope.freq_base_swa", 0.5, 1e15, &h->rope_base_local));
	return 0;
}

static int extras_read(struct reader *r, struct hparams *h)
{
	double eps = NAN, cap = 0;
	uint64_t n;

	TRY(real_read(r, r->arch->eps_key, 0.0, 1.0, &eps));
	h->eps = (float)eps;
	TRY(real_read(r, "final_logit_softcapping", -1e-30, 1e6, &cap));
	h->output_softcap = (float)cap;
	cap = 0;
	TRY(real_read(r, "attn_logit_softcapping", -1e-30, 1e6, &cap));
	h->attn_softcap = (float)cap;
	h->attn_scale = 1.0f / sqrtf((float)h->head_dim);
	h->embd_scale = r->arch->embd_sqrt ? sqrtf((float)h->n_embd) : 1.0f;
	if (gguf_u64(r->g, key(r, "expert_count"), &n) && n > 0)
		return refuse(r->why, "unsupported", "a mixture of %" PRIu64 " experts", n);
	return 0;
}

#undef TRY

static int arch_choose(struct reader *r)
{
	struct gguf_str name;
	char known[128] = "", shown[64];
	size_t i, n = 0;

	if (!gguf_string(r->g, "general.architecture", &name))
		return refuse(r->why, "bad_model", "general.architecture is missing");
	for (i = 0; (r->arch = arch_at(i)); i++) {
		if (strlen(r->arch->name) == name.n && memcmp(r->arch->name, name.data, name.n) == 0)
			return 0;
		if (n < sizeof known)
			n += (size_t)snprintf(known + n, sizeof known - n, "%s%s", i ? ", " : "", r->arch->name);
	}
	gguf_print(name, shown, sizeof shown);
	return refuse(r->why, "unsupported", "the architecture \"%s\"; known are: %s", shown, known);
}

int arch_read(const struct gguf *g, const struct arch **arch, struct hparams *h, struct reason *why)
{
	struct reader r = { .g = g, .why = why };
	int rc;

	memset(h, 0, sizeof *h);
	rc = arch_choose(&r);
	if (!rc)
		rc = shape_read(&r, h);
	if (!rc)
		rc = rope_read(&r, h);
	if (!rc)
		rc = local_read(&r, h);
	if (!rc)
		rc = extras_read(&r, h);
	if (!rc && r.arch->adjust)
		r.arch->adjust(h);
	*arch = r.arch;
	return rc;
}
