/*
 * Which tensor goes where, and whether it fits: one walk over the slots of the
 * architecture's row, one over the file's tensors.
 *
 * The one hard idea: a tensor that nobody asked for is refused as well as one that
 * is missing.  A model with a bias or a norm that we leave out would load, and
 * talk nonsense.
 */
#include "daemon/model/plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quants.h"

/* Formats of GGML that a file may have and we do not. */
static const struct { uint32_t type; const char *name; } foreign[] = {
	{ 9, "Q8_1" }, { 15, "Q8_K" }, { 16, "IQ2_XXS" }, { 17, "IQ2_XS" }, { 18, "IQ3_XXS" }, { 19, "IQ1_S" },
	{ 20, "IQ4_NL" }, { 21, "IQ3_S" }, { 22, "IQ2_S" }, { 23, "IQ4_XS" }, { 24, "I8" }, { 25, "I16" },
	{ 26, "I32" }, { 27, "I64" }, { 28, "F64" }, { 29, "IQ1_M" }, { 34, "TQ1_0" }, { 35, "TQ2_0" },
};

const char *plan_format(uint32_t type, char buf[24])
{
	const struct quant *q = quant_find(type);
	size_t i;

	if (q)
		return q->name;
	for (i = 0; i < sizeof foreign / sizeof *foreign; i++)
		if (foreign[i].type == type)
			return foreign[i].name;
	snprintf(buf, 24, "format %" PRIu32, type);
	return buf;
}

/* Whether t is what n_in x n_out says: a matrix, or a vector, perhaps in a stack. */
static int tensor_check(const struct gguf_tensor *t, const char *name, uint64_t n_in, uint64_t n_out, uint64_t n_stack, bool vector,
                        struct reason *why)
{
	char buf[24];

	if (t->ne[0] != n_in || t->ne[1] * t->ne[2] != n_out || t->ne[2] != n_stack || t->ne[3] != 1)
		return refuse(why, "bad_model", "the tensor %s has the shape %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64
		              ", not %" PRIu64 " x %" PRIu64 " x %" PRIu64, name, t->ne[0], t->ne[1], t->ne[2], t->ne[3],
		              n_in, n_out / n_stack, n_stack);
	if (t->n_byte == 0)
		return refuse(why, "unsupported", "the tensor %s has the format %s", name, plan_format(t->type, buf));
	if (vector && t->type != QUANT_F32)
		return refuse(why, "unsupported", "the tensor %s has the format %s; a vector is F32", name, plan_format(t->type, buf));
	return 0;
}

/* The next n_out rows of t (of a vector: the next n_in values), *done bytes from
 * its beginning. */
static void part_take(struct plan *p, const struct gguf_tensor *t, const struct tensor_row *row, uint64_t *done, struct part *out)
{
	bool vector = tensor_is_vector(row);
	uint64_t in = hparams_dim(&p->h, row->in), n_out = hparams_dim(&p->h, row->out);

	out->of = t;
	out->n_in = vector ? in * n_out : in;
	out->n_out = vector ? 1 : n_out;
	out->n_byte = vector ? out->n_in * sizeof(float) : t->n_byte / (t->ne[1] * t->ne[2]) * n_out;
	out->data = (const char *)t->data + *done;
	*done += out->n_byte;
	p->n_byte += out->n_byte;
	p->n_param += in * n_out;
}

/* The tensor `name` in the place of row; out->of NULL where it is absent and only
 * may be there. */
static int slot_fill(const struct gguf *g, struct plan *p, const char *name, const struct tensor_row *row,
                     bool needed, struct part *out, struct reason *why)
{
	const struct gguf_tensor *t = gguf_tensor(g, name);
	const bool stack = row->out == DIM_FF_STACK || row->out == DIM_EMBD_STACK;
	uint64_t done = 0;
	int rc;

	if (!t)
		return needed ? refuse(why, "bad_model", "the tensor %s is missing", name) : 0;
	rc = tensor_check(t, name, hparams_dim(&p->h, row->in), hparams_dim(&p->h, row->out),
	                  stack ? p->h.n_expert : 1, tensor_is_vector(row), why);
	if (!rc)
		part_take(p, t, row, &done, out);
	return rc;
}

/* The tensor `name`, if it is there, in the places of its parts. */
static int fused_fill(const struct gguf *g, struct plan *p, const char *name, const struct fused_row *f,
                      struct part *parts, struct reason *why)
{
	const struct tensor_row *first = &layer_tensors[f->parts[0]];
	const struct gguf_tensor *t = gguf_tensor(g, name);
	bool vector = tensor_is_vector(first);
	uint64_t n = 0, done = 0;
	uint32_t i;
	int rc;

	if (!t)
		return 0;
	for (i = 0; i < f->n_part; i++)
		n += hparams_dim(&p->h, vector ? layer_tensors[f->parts[i]].in : layer_tensors[f->parts[i]].out);
	rc = tensor_check(t, name, vector ? n : hparams_dim(&p->h, first->in), vector ? 1 : n, 1, vector, why);
	for (i = 0; !rc && i < f->n_part; i++)
		part_take(p, t, &layer_tensors[f->parts[i]], &done, &parts[f->parts[i]]);
	return rc;
}

static int model_fill(struct plan *p, const struct gguf *g, size_t *n_used, struct reason *why)
{
	uint32_t i, all = p->arch->needs_model | p->arch->may_model;
	int rc;

	for (i = 0; i < N_MODEL_TENSOR; i++) {
		if (!(all >> i & 1))
			continue;
		rc = slot_fill(g, p, model_tensors[i].name, &model_tensors[i], p->arch->needs_model >> i & 1, &p->model[i], why);
		if (rc)
			return rc;
		*n_used += p->model[i].of != NULL;
	}
	if (!p->model[T_ROPE_FACTORS_SHORT].of != !p->model[T_ROPE_FACTORS_LONG].of)
		return refuse(why, "bad_model", "of rope_factors_short.weight and rope_factors_long.weight one is missing");
	return 0;
}

/* Which slots a layer must fill: a block after another one that has a norm of its
 * own somewhere has it everywhere. */
static uint64_t layer_needs(const struct plan *p)
{
	const uint64_t one = 1, norm = one << L_FFN_NORM, ffn = one << L_FFN_GATE | one << L_FFN_UP | one << L_FFN_DOWN;
	const uint64_t needs = p->arch->needs_layer | (p->h.parallel ? 0 : p->arch->may_layer & norm);

	return p->h.n_expert ? (needs & ~ffn) | p->arch->needs_expert : needs;
}

static const char *usual_name(const struct arch *arch, uint32_t slot)
{
	uint32_t i, k;

	for (i = 0; i < N_LAYER_FUSED; i++)
		for (k = 0; arch->fused >> i & 1 && k < layer_fused[i].n_part; k++)
			if (layer_fused[i].parts[k] == slot)
				return layer_fused[i].name;
	return layer_tensors[slot].name;
}

static int layer_fill(struct plan *p, const struct gguf *g, uint32_t l, size_t *n_used, struct reason *why)
{
	const uint64_t needs = layer_needs(p), all = needs | p->arch->may_layer | (p->h.n_expert ? p->arch->may_expert : 0);
	struct part *parts = p->layers[l];
	char name[96];
	uint32_t i;
	int rc;

	for (i = 0; i < N_LAYER_FUSED; i++) {
		if (!(p->arch->fused >> i & 1))
			continue;
		snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", l, layer_fused[i].name);
		rc = fused_fill(g, p, name, &layer_fused[i], parts, why);
		if (rc)
			return rc;
		*n_used += parts[layer_fused[i].parts[0]].of != NULL;
	}
	for (i = 0; i < N_LAYER_TENSOR; i++) {
		if (!(all >> i & 1) || parts[i].of)
			continue;
		snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", l, layer_tensors[i].name);
		if (needs >> i & 1 && !gguf_tensor(g, name))         /* missed by its usual name */
			snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", l, usual_name(p->arch, i));
		rc = slot_fill(g, p, name, &layer_tensors[i], needs >> i & 1, &parts[i], why);
		if (rc)
			return rc;
		*n_used += parts[i].of != NULL;
	}
	return 0;
}

static bool taken(const struct plan *p, const struct gguf_tensor *t)
{
	uint32_t l, i;

	for (i = 0; i < N_MODEL_TENSOR; i++)
		if (p->model[i].of == t)
			return true;
	for (l = 0; l < p->h.n_layer; l++)
		for (i = 0; i < N_LAYER_TENSOR; i++)
			if (p->layers[l][i].of == t)
				return true;
	return false;
}

/* Only called where the counts differ: names the first tensor without a place. */
static int surplus_refuse(const struct plan *p, const struct gguf *g, struct reason *why)
{
	const struct gguf_tensor *t;
	char name[72];
	size_t i;

	for (i = 0; (t = gguf_tensor_at(g, i)); i++)
		if (!taken(p, t))
			break;
	gguf_print(t ? t->name : (struct gguf_str){ "?", 1 }, name, sizeof name);
	return refuse(why, "unsupported", "the tensor %s is not one that %s has here", name, p->arch->name);
}

int plan_make(struct plan *p, const struct gguf *g, struct reason *why)
{
	const struct gguf_tensor *embd;
	size_t n_used = 0;
	uint32_t l;
	int rc;

	memset(p, 0, sizeof *p);
	rc = arch_read(g, &p->arch, &p->h, why);
	if (rc)
		return rc;
	embd = gguf_tensor(g, model_tensors[T_TOKEN_EMBD].name);
	if (embd && embd->ne[1] > INT32_MAX)
		return refuse(why, "bad_model", "the tensor %s has %" PRIu64 " rows", model_tensors[T_TOKEN_EMBD].name, embd->ne[1]);
	p->h.n_vocab = embd ? (uint32_t)embd->ne[1] : 0;
	p->layers = calloc(p->h.n_layer, sizeof *p->layers);
	if (!p->layers)
		return ERROR(-ENOMEM);
	rc = model_fill(p, g, &n_used, why);
	for (l = 0; !rc && l < p->h.n_layer; l++)
		rc = layer_fill(p, g, l, &n_used, why);
	if (!rc && n_used != gguf_n_tensor(g))
		rc = surplus_refuse(p, g, why);
	if (rc)
		plan_free(p);
	return rc;
}

void plan_free(struct plan *p)
{
	free(p->layers);
	p->layers = NULL;
}
