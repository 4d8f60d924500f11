/*
 * The forward pass: one page, for every architecture and every backend.
 *
 * The one hard idea: architectures differ in switches (arch.h), so the pass is one
 * list of operations, each named after llama.cpp's stage, and an absent weight is
 * an absent operation.  A dump of CPU, CUDA and Python can be compared stage by
 * stage.
 *
 * It must not know an architecture by name, nor anything of the device.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "daemon/model/model-inside.h"

struct pass {
	struct model *m;
	const struct backend_ops *ops;
	struct backend *b;
	const struct batch *batch;
	const struct forward_dump *dump;       /* NULL: none */
	float *host;                           /* for the dump: a stage's rows */
	uint32_t n_row;                        /* rows from here on */
	uint32_t layer;
	bool normed;                           /* act.h is the next layer's attention input already */
};

static void stage(struct pass *p, const char *name, const struct act *a, enum dim d)
{
	uint32_t width = hparams_dim(&p->m->h, d);

	if (!p->dump)
		return;
	p->ops->read(p->b, a, p->host);
	p->dump->stage(p->dump->ctx, name, p->layer, p->host, p->n_row, width);
}

/* in -> out, normalised by weight w (and bias) over groups of d values. */
static void norm(struct pass *p, const char *name, const struct weight *w, const struct weight *bias,
                 enum dim d, const struct act *in, struct act *out, enum dim width)
{
	const struct norm n = { p->m->arch->norm, hparams_dim(&p->m->h, d), p->m->h.eps, w, bias };

	p->ops->norm(p->b, &n, in, out);
	stage(p, name, out, width);
}

/* A block's input: x normalised into out by the layer's w (its bias follows it in
 * the table), or x itself, where the architecture has no norm there. */
static struct act *block_input(struct pass *p, const char *name, const struct layer *l, enum layer_tensor w,
                               struct act *x, struct act *out)
{
	if (!l->w[w])
		return x;
	norm(p, name, l->w[w], l->w[w + 1], DIM_EMBD, x, out, DIM_EMBD);
	return out;
}

/* act.x += act.h; true: and out is its norm by w of l (NULL: no norm follows), where no dump
 * wants the sum by itself. */
static bool add_residual(struct pass *p, const struct layer *l, enum layer_tensor w, struct act *out)
{
	const struct acts *x = &p->m->act;
	struct norm n;

	if (!l || !l->w[w] || p->dump) {
		p->ops->add(p->b, x->x, x->h, x->x);
		return false;
	}
	n = (struct norm){ p->m->arch->norm, p->m->h.n_embd, p->m->h.eps, l->w[w], l->w[w + 1] };
	p->ops->add_norm(p->b, &n, x->x, x->h, x->x, out);
	return true;
}

static void post_norm(struct pass *p, const char *name, const struct layer *l, enum layer_tensor w, struct act *x)
{
	if (l->w[w])
		norm(p, name, l->w[w], NULL, DIM_EMBD, x, x, DIM_EMBD);
}

static void project(struct pass *p, const char *name, const struct layer *l, enum layer_tensor w,
                    enum layer_tensor bias, const struct act *in, struct act *out)
{
	p->ops->matmul(p->b, l->w[w], l->w[bias], in, out);
	stage(p, name, out, layer_tensors[w].out);
}

static void clamp(struct pass *p, struct act *x)
{
	if (p->m->h.qkv_clamp > 0)
		p->ops->clamp(p->b, p->m->h.qkv_clamp, x);
}

static void head_norm(struct pass *p, const char *name, const struct layer *l, enum layer_tensor shared,
                      enum layer_tensor each, enum layer_tensor whole, enum dim width, struct act *x)
{
	const struct weight *w = l->w[shared] ? l->w[shared] : l->w[each] ? l->w[each] : l->w[whole];

	if (w)
		norm(p, name, w, NULL, w == l->w[whole] ? width : DIM_HEAD, x, x, width);
}

/* in (a block's input) -> m->act.h; false: nothing after the store is wanted of this
 * batch. */
static bool attention(struct pass *p, const struct layer *l, const struct act *in, bool last)
{
	struct model *m = p->m;
	const struct acts *x = &m->act;
	const struct attend a = {
		.layer = p->layer, .n_head = m->h.n_head, .scale = m->h.attn_scale, .softcap = m->h.attn_softcap,
		.alibi = m->alibi, .rope = l->rope, .sink = l->w[L_ATTN_SINKS],
	};

	project(p, "Qcur", l, L_ATTN_Q, L_ATTN_Q_B, in, x->q);
	project(p, "Kcur", l, L_ATTN_K, L_ATTN_K_B, in, x->k);
	project(p, "Vcur", l, L_ATTN_V, L_ATTN_V_B, in, x->v);
	clamp(p, x->q);
	clamp(p, x->k);
	clamp(p, x->v);
	head_norm(p, "Qcur_normed", l, L_ATTN_Q_NORM, L_ATTN_Q_NORM_EACH, L_ATTN_Q_NORM_WHOLE, DIM_Q, x->q);
	head_norm(p, "Kcur_normed", l, L_ATTN_K_NORM, L_ATTN_K_NORM_EACH, L_ATTN_K_NORM_WHOLE, DIM_KV, x->k);
	p->ops->store(p->b, p->layer, l->rope, x->k, x->v);
	if (last && p->batch->n_output == 0)
		return false;
	p->ops->attend(p->b, &a, x->q, x->a);
	stage(p, "kqv_out", x->a, DIM_Q);
	project(p, "attn_out", l, L_ATTN_OUT, L_ATTN_OUT_B, x->a, x->h);
	post_norm(p, "attn_post_norm", l, L_ATTN_POST_NORM, x->h);
	return true;
}

/* in -> m->act.h; each row goes through the experts that the router chose for it. */
static void experts(struct pass *p, const struct layer *l, const struct act *in)
{
	const struct acts *x = &p->m->act;
	uint32_t k;

	project(p, "ffn_moe_logits", l, L_FFN_ROUTER, L_FFN_ROUTER_B, in, x->router);
	p->ops->route(p->b, p->m->h.n_expert_used, x->router);
	for (k = 0; k < p->m->h.n_expert_used; k++) {
		p->ops->matmul_routed(p->b, k, l->w[L_FFN_UP_EXPS], l->w[L_FFN_UP_EXPS_B], in, x->expert_up);
		p->ops->matmul_routed(p->b, k, l->w[L_FFN_GATE_EXPS], l->w[L_FFN_GATE_EXPS_B], in, x->expert_gate);
		p->ops->glu(p->b, p->m->arch->glu, x->expert_gate, x->expert_up, x->expert_up);
		p->ops->matmul_routed(p->b, k, l->w[L_FFN_DOWN_EXPS], l->w[L_FFN_DOWN_EXPS_B], x->expert_up, x->expert_out);
		p->ops->add_routed(p->b, k, x->expert_out, x->h);
	}
}

/* in -> m->act.h */
static void mlp(struct pass *p, const struct layer *l, const struct act *in)
{
	const struct acts *x = &p->m->act;

	project(p, "ffn_up", l, L_FFN_UP, L_FFN_UP_B, in, x->up);
	if (l->w[L_FFN_GATE]) {
		p->ops->matmul(p->b, l->w[L_FFN_GATE], NULL, in, x->gate);
		stage(p, "ffn_gate", x->gate, DIM_FF);
		p->ops->glu(p->b, p->m->arch->glu, x->gate, x->up, x->up);
	} else {
		p->ops->glu(p->b, p->m->arch->glu, x->up, NULL, x->up);
	}
	p->ops->matmul(p->b, l->w[L_FFN_DOWN], l->w[L_FFN_DOWN_B], x->up, x->h);
}

/* in (a block's input) -> m->act.h */
static void feed_forward(struct pass *p, const struct layer *l, const struct act *in)
{
	if (l->w[L_FFN_ROUTER])
		experts(p, l, in);
	else
		mlp(p, l, in);
	stage(p, "ffn_out", p->m->act.h, DIM_EMBD);
	post_norm(p, "ffn_post_norm", l, L_FFN_POST_NORM, p->m->act.h);
}

/* From here on the batch has only the rows whose logits are wanted. */
static void outputs_only(struct pass *p, struct act *x)
{
	p->ops->select(p->b, x, x);
	p->n_row = p->batch->n_output;
}

static enum layer_tensor attn_norm(const struct layer *l)
{
	return l->w[L_ATTN_NORM_2] ? L_ATTN_NORM_2 : L_ATTN_NORM;
}

/* m->act.x -> m->act.x */
static bool layer_run(struct pass *p, bool last)
{
	struct model *m = p->m;
	const struct layer *l = &m->layers[p->layer];
	const struct acts *x = &m->act;
	const enum layer_tensor ffn = l->w[L_FFN_NORM] || !m->h.parallel ? L_FFN_NORM : L_ATTN_NORM;
	struct act *in = NULL;
	bool normed;

	if (m->h.parallel)         /* ffn beside attention: from the layer's input, too */
		in = block_input(p, "ffn_norm", l, ffn, x->x, x->f);
	if (!attention(p, l, p->normed ? x->h : block_input(p, "attn_norm", l, attn_norm(l), x->x, x->h), last))
		return false;
	normed = add_residual(p, last || m->h.parallel ? NULL : l, ffn, x->f);
	if (last && !m->h.parallel)
		outputs_only(p, x->x);
	stage(p, "ffn_inp", x->x, DIM_EMBD);
	if (!m->h.parallel)
		in = normed ? x->f : block_input(p, "ffn_norm", l, ffn, x->x, x->f);
	feed_forward(p, l, in);
	p->normed = add_residual(p, last ? NULL : l + 1, attn_norm(last ? l : l + 1), x->h);
	if (last && m->h.parallel)
		outputs_only(p, x->x);
	stage(p, "l_out", x->x, DIM_EMBD);
	return true;
}

static void run(struct pass *p)
{
	struct model *m = p->m;
	const struct acts *x = &m->act;
	struct weight *head = m->w[T_OUTPUT] ? m->w[T_OUTPUT] : m->w[T_TOKEN_EMBD];

	p->ops->embed(p->b, m->w[T_TOKEN_EMBD], m->h.embd_scale, x->x);
	stage(p, "inp_embd", x->x, DIM_EMBD);
	for (p->layer = 0; p->layer < m->h.n_layer; p->layer++)
		if (!layer_run(p, p->layer + 1 == m->h.n_layer))
			return;
	norm(p, "result_norm", m->w[T_OUTPUT_NORM], m->w[T_OUTPUT_NORM_B], DIM_EMBD, x->x, x->h, DIM_EMBD);
	p->ops->matmul(p->b, head, m->w[T_OUTPUT_B], x->h, x->logits);
	if (m->h.output_softcap > 0)
		p->ops->softcap(p->b, m->h.output_softcap, x->logits);
	stage(p, "result_output", x->logits, DIM_VOCAB);
}

static void begin(struct pass *p, struct kv *kv)
{
	uint32_t i;

	assert(p->batch->n_row > 0);
	for (i = 0; i < p->batch->n_row; i++)
		assert(p->batch->rows[i].token >= 0 && (uint32_t)p->batch->rows[i].token < p->m->h.n_vocab);
	p->ops->begin(p->b, kv, p->batch);
	run(p);
}

void model_begin(struct model *m, struct kv *kv, const struct batch *batch)
{
	struct pass p = { .m = m, .ops = m->ops, .b = m->backend, .batch = batch, .n_row = batch->n_row };

	begin(&p, kv);
}

void model_candidates(struct model *m, struct candidates *out)
{
	m->ops->candidates(m->backend, m->act.logits, out);
}

void model_logits(struct model *m, float *out)
{
	m->ops->read(m->backend, m->act.logits, out);
}

int model_end(struct model *m, struct reason *why)
{
	struct backend_why w = { "" };
	int rc = m->ops->end(m->backend, &w);

	if (rc == 0)
		return 0;
	refuse(why, "backend", "%s", w.text);
	return ERROR(rc);
}

int model_forward(struct model *m, struct kv *kv, const struct batch *batch, float *logits,
                  const struct forward_dump *dump, struct reason *why)
{
	struct pass p = { .m = m, .ops = m->ops, .b = m->backend, .batch = batch, .dump = dump, .n_row = batch->n_row };
	uint32_t d, most = 0;

	assert(logits || batch->n_output == 0);
	if (dump) {
		for (d = 0; d < N_DIM; d++)
			most = hparams_dim(&m->h, d) > most ? hparams_dim(&m->h, d) : most;
		p.host = calloc((size_t)most * batch->n_row, sizeof *p.host);
		if (!p.host)
			return ERROR(-ENOMEM);
	}
	begin(&p, kv);
	if (batch->n_output > 0)
		model_logits(m, logits);
	free(p.host);
	return model_end(m, why);
}
