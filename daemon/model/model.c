/*
 * A model's life: open the file, check the plan, load every weight through the
 * backend, allocate the activations, and give all of it back.
 *
 * The one hard idea: the frequencies of rope.  An angle is a 64-bit fixed-point
 * phase, so a frequency is rounded once, from a long double, to 2^-64 of a turn;
 * the backend multiplies it by a position and lets it wrap.
 *
 * It must not know how a forward pass goes (forward.c) nor what a file needs
 * (plan.c).
 */
#include "daemon/model/model.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/model/model-inside.h"
#include "daemon/model/plan.h"

/* ---- rope ---- */

/* Turns per position, as a fraction of 2^64. */
static uint64_t phase(long double radians)
{
	long double turns = radians / (2 * 3.14159265358979323846264338327950288L);
	long double scaled = roundl(ldexpl(turns - floorl(turns), 64));

	return scaled >= 18446744073709551616.0L ? 0 : (uint64_t)scaled;
}

/* How many dimensions' frequency YaRN has divided when a wave turns n times within
 * the original context: the first it touches, or the last that it leaves alone. */
static double yarn_dim(const struct rope_numbers *n, uint32_t n_rot, double turns)
{
	return n_rot * log(n->n_ctx_orig / (turns * 2 * 3.14159265358979323846)) / (2 * log(n->base));
}

/* The share of pair i that is stretched: 0 below the ramp, 1 above it. */
static double yarn_share(const struct rope_numbers *n, const struct arch *arch, uint32_t n_rot, uint32_t i)
{
	double low = yarn_dim(n, n_rot, n->beta_fast), high = yarn_dim(n, n_rot, n->beta_slow), x;

	if (!arch->yarn_ramp_between) {
		low = floor(low);
		high = ceil(high);
	}
	low = low > 0 ? low : 0;
	high = high < n_rot - 1 ? high : n_rot - 1;
	x = (i - low) / (high > low ? high - low : 0.001);
	return x < 0 ? 0 : x > 1 ? 1 : x;
}

/* factors: divisors of the frequencies, F32 [n_rot / 2], or of NULL. */
static int rope_make(struct rope *r, const struct arch *arch, const struct hparams *h, const struct rope_numbers *n,
                     const struct part *factors, struct reason *why)
{
	uint32_t i, half = h->n_rot / 2;
	uint64_t *freq = calloc(half, sizeof *freq);
	float divisor = 1;

	r->order = arch->rope;
	r->n_rot = h->n_rot;
	r->scale = (float)n->scale;
	r->freq = freq;
	if (!freq)
		return ERROR(-ENOMEM);
	for (i = 0; i < half; i++) {
		long double f = powl(n->base, -2.0L * i / h->n_rot);
		double share = n->yarn ? yarn_share(n, arch, h->n_rot, i) : 1;

		if (factors->of)
			memcpy(&divisor, (const char *)factors->data + i * sizeof divisor, sizeof divisor);
		if (!(divisor > 0 && divisor < 1e9f))
			return refuse(why, "bad_model", "the frequencies' divisors hold %g", (double)divisor);
		freq[i] = phase((f / n->factor * share + f * (1 - share)) / divisor);
	}
	return 0;
}

/* Rope scaling that depends on a length is frozen at the cache's: places never go
 * past it. */
static bool is_long(const struct plan *p, uint32_t n_cache)
{
	return p->model[T_ROPE_FACTORS_LONG].of && n_cache > p->h.rope.n_ctx_orig;
}

static int ropes_make(struct model *m, const struct plan *p, uint32_t n_cache, struct reason *why)
{
	const struct hparams *h = &m->h;
	const struct part *factors = &p->model[T_ROPE_FREQS];
	int rc;

	if (m->arch->rope == ROPE_NONE)
		return 0;
	if (p->model[T_ROPE_FACTORS_SHORT].of)
		factors = &p->model[is_long(p, n_cache) ? T_ROPE_FACTORS_LONG : T_ROPE_FACTORS_SHORT];
	rc = rope_make(&m->rope[0], m->arch, h, &h->rope, factors, why);
	if (!rc)
		rc = rope_make(&m->rope[1], m->arch, h, &h->rope_local, factors, why);
	return rc;
}

/* Slopes of ALiBi: a geometric row over the largest power of two of heads, then
 * every other one of a row twice as dense. */
static int alibi_make(struct model *m)
{
	const double bias = (double)m->h.alibi_bias;
	uint32_t h, n = 1;

	if (!(bias > 0))
		return 0;
	while (n * 2 <= m->h.n_head)
		n *= 2;
	m->alibi = calloc(m->h.n_head, sizeof *m->alibi);
	if (!m->alibi)
		return ERROR(-ENOMEM);
	for (h = 0; h < m->h.n_head; h++)
		m->alibi[h] = (float)exp2(h < n ? -bias / n * (h + 1) : -bias / 2 / n * (2 * (h - n) + 1));
	return 0;
}

/* ---- weights ---- */

/* One walk for both, so that what was counted is what is loaded. */
struct load {
	const struct model_params *params;
	bool counts;                           /* loads nothing */
	uint64_t done, total;                  /* bytes of the file */
	uint64_t n_byte;                       /* counts: on the backend */
};

static int weight_load(struct load *load, const struct part *t, struct weight **out, struct reason *why)
{
	const struct model_params *p = load->params;
	struct backend_why w = { "" };
	char name[72];
	int rc;

	if (!t->of)
		return 0;
	if (load->counts) {
		load->n_byte += p->ops->weight_size(t->of->type, t->n_in, t->n_out);
		return 0;
	}
	rc = p->ops->weight_load(p->backend, t->of->type, t->n_in, t->n_out, t->data, out, &w);
	if (rc) {
		gguf_print(t->of->name, name, sizeof name);
		refuse(why, rc == -ENOMEM ? "memory" : "unsupported", "loading the tensor %s: %s", name, w.text);
		return rc == -ENOTSUP ? REFUSED : ERROR(rc);
	}
	load->done += t->n_byte;
	if (p->progress && p->progress(p->ctx, load->done, load->total))
		return -ECANCELED;
	return 0;
}

static const struct rope *rope_of(const struct model *m, uint32_t l)
{
	const uint32_t period = m->h.no_rope_period;

	if (m->arch->rope == ROPE_NONE || (period && l % period == period - 1))
		return NULL;
	return &m->rope[hparams_local(&m->h, l) != 0];
}

static int layers_new(struct model *m)
{
	uint32_t l;

	m->layers = calloc(m->h.n_layer, sizeof *m->layers);
	m->kv_layers = calloc(m->h.n_layer, sizeof *m->kv_layers);
	if (!m->layers || !m->kv_layers)
		return ERROR(-ENOMEM);
	for (l = 0; l < m->h.n_layer; l++) {
		m->kv_layers[l] = (struct kv_layer){ m->h.n_head_kv, m->h.head_dim, hparams_local(&m->h, l) };
		m->layers[l].rope = rope_of(m, l);
	}
	return 0;
}

static int weights_load(struct model *m, const struct plan *p, struct load *load, struct reason *why)
{
	uint32_t i, l;
	int rc;

	for (i = 0; i < N_MODEL_TENSOR; i++) {
		/* The divisors of the frequencies are ours, not the backend's. */
		rc = i >= T_ROPE_FREQS ? 0 : weight_load(load, &p->model[i], &m->w[i], why);
		if (rc)
			return rc;
	}
	for (l = 0; l < m->h.n_layer; l++)
		for (i = 0; i < N_LAYER_TENSOR; i++) {
			rc = weight_load(load, &p->layers[l][i], &m->layers[l].w[i], why);
			if (rc)
				return rc;
		}
	return 0;
}

static void weights_free(struct model *m)
{
	uint32_t i, l;

	for (i = 0; i < N_MODEL_TENSOR; i++)
		if (m->w[i])
			m->ops->weight_free(m->backend, m->w[i]);
	for (l = 0; m->layers && l < m->h.n_layer; l++)
		for (i = 0; i < N_LAYER_TENSOR; i++)
			if (m->layers[l].w[i])
				m->ops->weight_free(m->backend, m->layers[l].w[i]);
	free(m->layers);
	free(m->kv_layers);
}

/* ---- activations ---- */

/* One list for both, so that none is forgotten. */
#define ACTS(X) X(x, EMBD) X(h, EMBD) X(f, EMBD) X(q, Q) X(a, Q) X(k, KV) X(v, KV) X(gate, FF) X(up, FF) X(logits, VOCAB) \
	X(router, EXPERT) X(expert_gate, FF_EXPERT) X(expert_up, FF_EXPERT) X(expert_out, EMBD)

static int acts_new(struct model *m)
{
	int rc = 0;

#define X(field, dim) if (!rc && hparams_dim(&m->h, DIM_##dim)) rc = m->ops->act_new(m->backend, hparams_dim(&m->h, DIM_##dim), &m->act.field);
	ACTS(X)
#undef X
	return rc ? ERROR(rc) : 0;
}

static uint64_t acts_size(const struct model *m)
{
	uint64_t n = 0;

	if (!m->ops->act_size)
		return 0;
#define X(field, dim) if (hparams_dim(&m->h, DIM_##dim)) n += m->ops->act_size(m->backend, hparams_dim(&m->h, DIM_##dim));
	ACTS(X)
#undef X
	return n;
}

static void acts_free(struct model *m)
{
#define X(field, dim) if (m->act.field) m->ops->act_free(m->backend, m->act.field);
	ACTS(X)
#undef X
}

/* ---- the model ---- */

static void info_fill(struct model *m, const struct plan *p, const char *path, uint32_t n_cache)
{
	struct model_info *i = &m->info;
	const char *slash = strrchr(path, '/');
	struct gguf_str name;

	if (!gguf_string(m->gguf, "general.name", &name) || name.n == 0)
		name = (struct gguf_str){ slash ? slash + 1 : path, strlen(slash ? slash + 1 : path) };
	gguf_print(name, i->name, sizeof i->name);
	i->arch = m->arch->name;
	i->n_layer = m->h.n_layer;
	i->n_embd = m->h.n_embd;
	i->n_head = m->h.n_head;
	i->n_head_kv = m->h.n_head_kv;
	i->head_dim = m->h.head_dim;
	i->n_ff = m->h.n_ff;
	i->n_vocab = m->h.n_vocab;
	i->n_ctx = m->h.n_ctx;
	i->n_param = p->n_param;
	i->n_byte = gguf_size(m->gguf);
	i->fingerprint = gguf_fingerprint(m->gguf);
	i->kv_layers = m->kv_layers;
	if (is_long(p, n_cache))               /* other numbers: another model to a session */
		i->fingerprint++;
	else if (p->model[T_ROPE_FACTORS_LONG].of && i->n_ctx > p->h.rope.n_ctx_orig)
		i->n_ctx = p->h.rope.n_ctx_orig;
}

static int text_open(struct model *m, struct reason *why)
{
	struct reason unrecognised;
	int rc = tokenizer_open(&m->tokenizer, m->gguf, why);

	if (rc)
		return rc;
	if (tokenizer_n_vocab(m->tokenizer) != m->h.n_vocab)
		return refuse(why, "bad_model", "the vocabulary has %zu tokens, the embedding %u rows",
		              tokenizer_n_vocab(m->tokenizer), m->h.n_vocab);
	m->chat = chat_recognise(m->gguf, m->tokenizer, &unrecognised);
	return 0;
}

/* The caller hears what it would take, and may refuse. */
static int announce(struct model *m, const struct plan *p, const struct model_params *params, struct reason *why)
{
	struct load count = { .params = params, .counts = true };
	struct model_need need;

	if (!params->planned)
		return 0;
	weights_load(m, p, &count, why);
	need = (struct model_need){ .weights = count.n_byte, .acts = acts_size(m) };
	return params->planned(params->ctx, &m->info, &need, why);
}

int model_open(struct model **out, const char *path, const struct model_params *params, struct reason *why)
{
	struct model *m = calloc(1, sizeof *m);
	struct load load = { .params = params };
	struct plan plan = { 0 };
	int rc;

	*out = NULL;
	if (!m)
		return ERROR(-ENOMEM);
	m->ops = params->ops;
	m->backend = params->backend;
	rc = gguf_open(&m->gguf, path, why);
	if (rc)
		goto out;
	rc = plan_make(&plan, m->gguf, why);
	if (rc)
		goto out;
	m->arch = plan.arch;
	m->h = plan.h;
	rc = text_open(m, why);
	if (!rc)
		rc = ropes_make(m, &plan, params->n_cache, why);
	if (!rc)
		rc = alibi_make(m);
	if (!rc)
		rc = layers_new(m);
	if (rc)
		goto out;
	info_fill(m, &plan, path, params->n_cache);
	load.total = plan.n_byte;
	rc = announce(m, &plan, params, why);
	if (!rc)
		rc = weights_load(m, &plan, &load, why);
	/* The backend has its own form of all but the rows of the embedding. */
	gguf_rest(m->gguf);
	if (!rc)
		rc = acts_new(m);
out:
	plan_free(&plan);
	if (rc)
		model_close(m);
	else
		*out = m;
	return rc;
}

void model_close(struct model *m)
{
	if (!m)
		return;
	acts_free(m);
	weights_free(m);
	free((void *)(uintptr_t)m->rope[0].freq);
	free((void *)(uintptr_t)m->rope[1].freq);
	free(m->alibi);
	chat_free(m->chat);
	tokenizer_close(m->tokenizer);
	gguf_close(m->gguf);
	free(m);
}

const struct model_info *model_info(const struct model *m)
{
	return &m->info;
}

const struct tokenizer *model_tokenizer(const struct model *m)
{
	return m->tokenizer;
}

const struct chat_format *model_chat(const struct model *m)
{
	return m->chat;
}

uint64_t model_replay(const struct model *m, struct window w)
{
	uint64_t n = 1;
	uint32_t l;

	for (l = 0; l < m->h.n_layer; l++)
		n += window_span(w, m->kv_layers[l].local, 1).n_recent;
	return n;
}
