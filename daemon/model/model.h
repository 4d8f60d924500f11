/*
 * A GGUF file becomes weights on a backend, a tokenizer, a chat format and one
 * forward pass.  Architectures are rows of a table (arch.h).  Owned by the thread
 * that owns the backend; the tokenizer and the info may be read by any.
 */
#ifndef DAEMON_MODEL_MODEL_H
#define DAEMON_MODEL_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/error.h"
#include "daemon/model/chat.h"
#include "daemon/model/tokenizer.h"
#include "kernels/backend.h"

struct model;

struct model_info {
	char name[96];             /* general.name, printable; else the file's name */
	const char *arch;          /* "llama" */
	uint32_t n_layer, n_embd, n_head, n_head_kv, head_dim, n_ff, n_vocab;
	uint32_t n_ctx;            /* context length that it was trained with */
	uint64_t n_param;
	uint64_t n_byte;           /* of the file */
	uint64_t fingerprint;
	const struct kv_layer *kv_layers;     /* [n_layer] */
};

/* What a model takes on the backend, known before anything is loaded. */
struct model_need {
	uint64_t weights, acts;    /* bytes */
};

struct model_params {
	const struct backend_ops *ops;
	struct backend *backend;   /* open, n_row_max known to the caller; not owned */
	uint32_t n_cache;          /* places of the windows to come: decides longrope; info.n_ctx is then what fits */
	/* Called when the file is understood and nothing is loaded yet; may be NULL.  A
	 * return other than 0 is model_open's. */
	int (*planned)(void *ctx, const struct model_info *info, const struct model_need *need, struct reason *why);
	/* Called while loading, done of total bytes; may be NULL.  A return other than
	 * 0 gives up with -ECANCELED. */
	int (*progress)(void *ctx, uint64_t done, uint64_t total);
	void *ctx;
};

/* REFUSED: bad_model, unsupported (architecture, tensor format, tokenizer: by name). */
int model_open(struct model **out, const char *path, const struct model_params *p, struct reason *why);
void model_close(struct model *m);                     /* NULL is fine */

const struct model_info *model_info(const struct model *m);
const struct tokenizer *model_tokenizer(const struct model *m);
const struct chat_format *model_chat(const struct model *m);    /* NULL: none */

/* One forward pass.  logits [n_output][n_vocab], NULL where n_output is 0.
 * dump: called with every named stage (llama.cpp's names: attn_norm, Qcur, ...)
 * when not NULL. */
struct forward_dump {
	void (*stage)(void *ctx, const char *name, uint32_t layer, const float *x, uint32_t n_row, uint32_t width);
	void *ctx;
};
int model_forward(struct model *m, struct kv *kv, const struct batch *b, float *logits,
                  const struct forward_dump *dump, struct reason *why);
/* The same in parts, for logits that are looked at where they are: between begin and
 * end they may be asked for, where n_output is not 0, candidates [n_output] first.
 * What is given is of use only when end says 0. */
void model_begin(struct model *m, struct kv *kv, const struct batch *b);
void model_candidates(struct model *m, struct candidates *out);
void model_logits(struct model *m, float *out);
int model_end(struct model *m, struct reason *why);

/* Tokens whose replay rebuilds a whole session of window w (without the head):
 * 1 + sum over layers of R_l. */
uint64_t model_replay(const struct model *m, struct window w);

/* `sinkd --gguf`: prints what is in the file to stdout-like f, and whether it
 * would load.  0: it would; REFUSED: it would not, why. */
int model_inspect(const char *path, int fd, struct reason *why);

#endif
