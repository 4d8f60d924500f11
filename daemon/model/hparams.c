/*
 * The numbers of a model, read from its keys.
 *
 * The one hard idea: everything that sizes memory or divides is bounded here, by
 * the name of its key, before anything uses it; so what follows can compute in 64
 * bits without a thought of overflow.
 *
 * It must not look at tensors' data, nor call a backend.
 */
#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "daemon/model/arch.h"

uint32_t hparams_dim(const struct hparams *h, enum dim d)
{
	switch (d) {
	case DIM_EMBD: return h->n_embd;
	case DIM_FF: return h->n_ff;
	case DIM_Q: return h->n_head * h->head_dim;
	case DIM_KV: return h->n_head_kv * h->head_dim;
	case DIM_HEAD: return h->head_dim;
	case DIM_N_HEAD: return h->n_head;
	case DIM_N_HEAD_KV: return h->n_head_kv;
	case DIM_VOCAB: return h->n_vocab;
	case DIM_ROT_HALF: return h->n_rot / 2;
	case DIM_EXPERT: case DIM_EXPERT_VECTORS: return h->n_expert;
	case DIM_FF_EXPERT: return h->n_ff_expert;
	case DIM_EMBD_STACK: return h->n_embd * h->n_expert;
	case DIM_FF_STACK: return h->n_ff_expert * h->n_expert;
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

/* A number in (lo, hi); absent: *out stays as it is, and a NaN is refused. */
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

/* Yes or no; absent: *out stays as it is. */
static int flag_read(struct reader *r, const char *suffix, bool *out)
{
	if (gguf_has(r->g, key(r, suffix)) && !gguf_bool(r->g, r->key, out))
		return refuse(r->why, "bad_model", "%s is not true or false", r->key);
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

static bool is(struct gguf_str s, const char *word)
{
	return s.n == strlen(word) && memcmp(s.data, word, s.n) == 0;
}

/* YaRN: slow dimensions are stretched, fast ones stay, and cos and sin are scaled. */
static int yarn_read(struct reader *r, struct rope_numbers *n)
{
	const bool whole = r->arch->yarn_scale_whole && gguf_has(r->g, key(r, "rope.scaling.attn_factor"));
	double attn = 1;

	n->yarn = true;
	n->n_ctx_orig = 0;             /* must be there */
	TRY(real_read(r, "rope.scaling.factor", 0.0, 1e6, &n->factor));
	TRY(count_read(r, "rope.scaling.original_context_length", 1u << 30, &n->n_ctx_orig));
	TRY(real_read(r, "rope.scaling.yarn_beta_fast", 0.0, 1e6, &n->beta_fast));
	TRY(real_read(r, "rope.scaling.yarn_beta_slow", 0.0, n->beta_fast, &n->beta_slow));
	TRY(real_read(r, "rope.scaling.attn_factor", 0.0, 1e3, &attn));
	n->scale = attn * (n->factor > 1 && !whole ? 1 + 0.1 * log(n->factor) : 1);
	return 0;
}

static int scaling_read(struct reader *r, struct rope_numbers *n)
{
	struct gguf_str type = { "none", 4 };
	char name[40];

	if (gguf_has(r->g, key(r, "rope.scaling.factor")))
		type = (struct gguf_str){ "linear", 6 };       /* where no type is said, as in llama.cpp */
	if (gguf_has(r->g, key(r, "rope.scaling.type")) && !gguf_string(r->g, r->key, &type))
		return refuse(r->why, "bad_model", "%s is not a string", r->key);
	if (is(type, "linear"))
		return real_read(r, "rope.scaling.factor", 0.0, 1e6, &n->factor);
	if (is(type, "yarn"))
		return yarn_read(r, n);
	if (is(type, "none") || is(type, "longrope")) {
		/* Of a file with two sets of divisors, which stand in tensors. */
		TRY(count_read(r, "rope.scaling.original_context_length", 1u << 30, &n->n_ctx_orig));
		return real_read(r, "rope.scaling.attn_factor", 0.0, 1e3, &n->scale);
	}
	gguf_print(type, name, sizeof name);
	return refuse(r->why, "unsupported", "rope scaling \"%s\"; known are: none, linear, yarn, longrope", name);
}

static int rope_read(struct reader *r, struct hparams *h)
{
	h->rope = (struct rope_numbers){ .base = 10000, .factor = 1, .n_ctx_orig = h->n_ctx, .beta_fast = 32, .beta_slow = 1, .scale = 1 };
	h->n_rot = h->head_dim;
	h->no_rope_period = r->arch->no_rope_period;
	if (r->arch->rope == ROPE_NONE)
		return 0;
	TRY(count_read(r, "rope.dimension_count", h->head_dim, &h->n_rot));
	if (h->n_rot % 2)
		return refuse(r->why, "bad_model", "%s is odd", r->key);
	TRY(real_read(r, "rope.freq_base", 1.0, 1e15, &h->rope.base));
	TRY(real_read(r, "rope.scale_linear", 0.0, 1e6, &h->rope.factor));   /* the old name */
	return scaling_read(r, &h->rope);
}

/* Every how many layers the last is global: a count, or a list of which layers are not. */
static int period_read(struct reader *r, struct hparams *h)
{
	struct gguf_array a;
	uint64_t local;

	if (!gguf_array(r->g, key(r, "attention.sliding_window_pattern"), &a))
		return count_read(r, "attention.sliding_window_pattern", 1024, &h->local_period);
	h->local_period = 0;
	for (uint32_t l = 0; l < h->n_layer; l++) {
		if (l >= a.n || !gguf_array_u64(&a, l, &local))
			return refuse(r->why, "bad_model", "%s does not say which of %" PRIu32 " layers are local", r->key, h->n_layer);
		if (local == 0 && h->local_period == 0)
			h->local_period = l + 1;
		if (h->local_period > 0 && (local != 0) != (l % h->local_period != h->local_period - 1))
			return refuse(r->why, "unsupported", "%s has no period: layer %" PRIu32 " breaks it", r->key, l);
	}
	if (h->local_period == 0)
		return refuse(r->why, "unsupported", "%s has no layer that is global", r->key);
	return 0;
}

static int local_read(struct reader *r, struct hparams *h)
{
	const struct arch *a = r->arch;
	uint64_t w = a->local;
	bool there = gguf_has(r->g, key(r, "attention.sliding_window"));

	h->rope_local = h->rope;
	if (a->local_unscaled)
		h->rope_local = (struct rope_numbers){ .base = h->rope.base, .factor = 1, .scale = 1 };
	if (a->rope_base_local > 0)
		h->rope_local.base = a->rope_base_local;
	h->local_period = a->local_period;
	if (there && gguf_u64(r->g, r->key, &w) && w == 0)
		return 0;
	if (!a->local_period || (!there && w == 0))
		return 0;
	h->local = a->local;
	TRY(count_read(r, "attention.sliding_window", 1u << 30, &h->local));
	if (h->local_period == LOCAL_ALWAYS) {
		h->n_ctx = h->local < h->n_ctx ? h->local : h->n_ctx;
		h->local = h->local_period = 0;
		return 0;
	}
	TRY(period_read(r, h));
	return real_read(r, "rope.freq_base_swa", 1.0, 1e15, &h->rope_local.base);
}

static int extras_read(struct reader *r, struct hparams *h)
{
	const struct arch *a = r->arch;
	double eps = NAN, attn_cap = a->attn_softcap, output_cap = a->output_softcap, clamp = 0, alibi = a->alibi_bias;

	h->parallel = a->parallel;
	TRY(real_read(r, a->eps_key, 0.0, 1.0, &eps));
	TRY(real_read(r, "final_logit_softcapping", -1e-30, 1e6, &output_cap));
	TRY(real_read(r, "attn_logit_softcapping", -1e-30, 1e6, &attn_cap));
	TRY(real_read(r, "attention.clamp_kqv", -1e-30, 1e6, &clamp));
	if (a->alibi_bias > 0)
		TRY(real_read(r, "attention.max_alibi_bias", 0.0, 1e3, &alibi));
	TRY(flag_read(r, "use_parallel_residual", &h->parallel));
	if (a->parallel_by_norm)
		h->parallel = gguf_tensor(r->g, "blk.0.ffn_norm.weight") == NULL;
	h->eps = (float)eps;
	h->output_softcap = (float)output_cap;
	h->attn_softcap = (float)attn_cap;
	h->qkv_clamp = (float)clamp;
	h->alibi_bias = (float)alibi;
	h->attn_scale = 1.0f / sqrtf((float)h->head_dim);
	h->embd_scale = a->embd_sqrt ? sqrtf((float)h->n_embd) : 1.0f;
	return 0;
}

static int experts_read(struct reader *r, struct hparams *h)
{
	const bool must = !(r->arch->needs_layer >> L_FFN_UP & 1);
	uint64_t n = 0;

	if (!must && (!gguf_has(r->g, key(r, "expert_count")) || (gguf_u64(r->g, r->key, &n) && n == 0)))
		return 0;
	TRY(count_read(r, "expert_count", 1024, &h->n_expert));
	if (!r->arch->needs_expert)
		return refuse(r->why, "unsupported", "%s is %" PRIu32 "; %s has no experts here", r->key, h->n_expert, r->arch->name);
	TRY(count_read(r, "expert_used_count", h->n_expert < ROUTE_MOST ? h->n_expert : ROUTE_MOST, &h->n_expert_used));
	h->n_ff_expert = h->n_ff;
	TRY(count_read(r, "expert_feed_forward_length", 1u << 20, &h->n_ff_expert));
	if (h->n_ff_expert % 16)
		return refuse(r->why, "unsupported", "%s is %" PRIu32 ", no multiple of 16", r->key, h->n_ff_expert);
	if (h->n_embd % 16)
		return refuse(r->why, "unsupported", "%s is %" PRIu32 ", no multiple of 16", key(r, "embedding_length"), h->n_embd);
	return 0;
}

#undef TRY

static int arch_choose(struct reader *r)
{
	struct gguf_str name;
	char known[256] = "", shown[64];
	size_t i, n = 0;

	if (!gguf_string(r->g, "general.architecture", &name))
		return refuse(r->why, "bad_model", "general.architecture is missing");
	for (i = 0; (r->arch = arch_at(i)); i++) {
		if (is(name, r->arch->name))
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
	if (!rc)
		rc = experts_read(&r, h);
	if (!rc && r.arch->adjust)
		r.arch->adjust(h);
	*arch = r.arch;
	return rc;
}
