/*
 * The inside of a loaded model, for model.c (which builds it) and forward.c (which
 * runs it).  Nobody else includes this.
 */
#ifndef DAEMON_MODEL_MODEL_INSIDE_H
#define DAEMON_MODEL_MODEL_INSIDE_H

#include "daemon/model/arch.h"
#include "daemon/model/model.h"

struct layer {
	struct weight *w[N_LAYER_TENSOR];      /* NULL: not in this model */
	const struct rope *rope;               /* NULL: this layer does not rotate */
};

/* Activations of one step, allocated once. */
struct acts {
	struct act *x;                         /* [n_embd] the residual stream */
	struct act *h;                         /* [n_embd] attention's input, or a block's result */
	struct act *f;                         /* [n_embd] ffn's input */
	struct act *q, *a;                     /* [n_head * head_dim] queries, attention */
	struct act *k, *v;                     /* [n_head_kv * head_dim] */
	struct act *gate, *up;                 /* [n_ff] */
	struct act *router;                    /* [n_expert], and one expert's: */
	struct act *expert_gate, *expert_up;   /* [n_ff_expert] */
	struct act *expert_out;                /* [n_embd] */
	struct act *logits;                    /* [n_vocab] */
};

struct model {
	const struct backend_ops *ops;
	struct backend *backend;               /* not owned */
	struct gguf *gguf;
	struct tokenizer *tokenizer;
	const struct chat_format *chat;
	const struct arch *arch;
	struct hparams h;
	struct weight *w[N_MODEL_TENSOR];
	struct layer *layers;                  /* [n_layer] */
	struct kv_layer *kv_layers;            /* [n_layer] */
	struct rope rope[2];                   /* global, local; freq owned */
	float *alibi;                          /* [n_head] slopes, NULL: none */
	struct acts act;
	struct model_info info;
};

#endif
