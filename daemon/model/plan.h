/*
 * A plan: what of a file would be loaded, checked whole before a backend sees a
 * byte.  model_open follows it, model_inspect only says whether there is one.
 * Views into the gguf, which must stay open.
 */
#ifndef DAEMON_MODEL_PLAN_H
#define DAEMON_MODEL_PLAN_H

#include "daemon/model/arch.h"

/* A tensor of the file, or some of its rows: what stands in one slot. */
struct part {
	const struct gguf_tensor *of;          /* NULL: not in this model */
	uint64_t n_in, n_out, n_byte;          /* n_out 1: a vector */
	const void *data;
};

struct plan {
	const struct arch *arch;
	struct hparams h;
	struct part model[N_MODEL_TENSOR];
	struct part (*layers)[N_LAYER_TENSOR];                     /* [n_layer] */
	uint64_t n_byte, n_param;                                  /* of all of these */
};

/* REFUSED: bad_model (missing tensor, wrong shape, impossible number), unsupported
 * (architecture, format, a tensor that the architecture does not have), by name. */
int plan_make(struct plan *p, const struct gguf *g, struct reason *why);
void plan_free(struct plan *p);

/* GGML's name of a tensor format, ours or not; "format 99" for one without a name
 * (in buf). */
const char *plan_format(uint32_t type, char buf[24]);

#endif
