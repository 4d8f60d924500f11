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
	{ 39, "MXFP4" },
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

/* The tensor `name` in the place of row; *out NULL where it is absent and only may
 * be there. */
static int slot_fill(const struct gguf *g, struct plan *p, const char *name, const struct tensor_row *row,
                     bool needed, const struct gguf_tensor **out, struct reason *why)
{
	const struct gguf_tensor *t = gguf_tensor(g, name);
	uint64_t in = hparams_dim(&p->h, row->in), n_out = hparams_dim(&p->h, row->out);
	char buf[24];

	*out = t;
	if (!t)
		return needed ? refuse(why, "bad_model", "the tensor %s is missing", name) : 0;
	if (t->ne[0] != in || t->ne[1] != n_out || t->ne[2] != 1 || t->ne[3] != 1)
		return refuse(why, "bad_model", "the tensor %s has the shape %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64
		              ", not %" PRIu64 " x %" PRIu64, name, t->ne[0], t->ne[1], t->ne[2], t->ne[3], in, n_out);
	if (t->n_byte == 0)
		return refuse(why, "unsupported", "the tensor %s has the format %s", name, plan_format(t->type, buf));
	if (row->out == DIM_ONE && t->type != QUANT_F32)
		return refuse(why, "unsupported", "the tensor %s has the format %s; a vector is F32", name, plan_format(t->type, buf));
	p->n_byte += t->n_byte;
	p->n_param += in * n_out;
	return 0;
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
		*n_used += p->model[i] != NULL;
	}
	return 0;
}

static int layer_fill(struct plan *p, const struct gguf *g, uint32_t l, size_t *n_used, struct reason *why)
{
	uint32_t i, all = p->arch->needs_layer | p->arch->may_layer;
	char name[96];
	int rc;

	for (i = 0; i < N_LAYER_TENSOR; i++) {
		if (!(all >> i & 1))
			continue;
		snprintf(name, sizeof name, "blk.%" PRIu32 ".%s", l, layer_tensors[i].name);
		rc = slot_fill(g, p, name, &layer_tensors[i], p->arch->needs_layer >> i & 1, &p->layers[l][i], why);
		if (rc)
			return rc;
		*n_used += p->layers[l][i] != NULL;
	}
	return 0;
}

static bool taken(const struct plan *p, const struct gguf_tensor *t)
{
	uint32_t l, i;

	for (i = 0; i < N_MODEL_TENSOR; i++)
		if (p->model[i] == t)
			return true;
	for (l = 0; l < p->h.n_layer; l++)
		for (i = 0; i < N_LAYER_TENSOR; i++)
			if (p->layers[l][i] == t)
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
