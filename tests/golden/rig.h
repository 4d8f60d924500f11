/*
 * What the golden tests share: vectors read from JSON files, and a rig (a backend,
 * a model, a cache) that feeds token ids in chunks and hands out each token's
 * logits.  Any failure of the machinery ends the test with a message.
 */
#ifndef TESTS_GOLDEN_RIG_H
#define TESTS_GOLDEN_RIG_H

#include "daemon/model/model.h"
#include "daemon/model/tokenizer.h"

/* ---- vectors ---- */

struct run {
	struct window window;
	double ppl;
	double *nll;               /* [n] */
	size_t n;
};

struct vectors {
	int32_t *tokens;
	size_t n_token;
	struct run runs[16];
	size_t n_run;
};

void vectors_read(struct vectors *v, const char *folder, const char *name);
void vectors_free(struct vectors *v);
/* The whole file, NUL behind it; the caller frees it. */
char *file_read(const char *folder, const char *name);
/* Numbers of the list behind "key": from text on; *end behind it.  NULL: absent. */
double *list_read(const char *text, const char *key, size_t *n, const char **end);

/* ---- the rig ---- */

struct rig_params {
	const struct backend_ops *ops;   /* NULL: that of RIG_BACKEND, the CPU's where none is defined */
	const char *isa;           /* NULL: the best */
	unsigned n_thread, n_act_bit;    /* 0: as usual */
	uint32_t n_chunk;          /* most rows of a session in a batch */
	uint32_t n_row;            /* most rows of a batch; 0: n_chunk */
	uint32_t n_slot;           /* 0: one */
	enum kv_type type;
	struct window most;
	uint32_t n_cache;          /* of struct model_params */
};

struct rig {
	const struct backend_ops *ops;
	struct backend *backend;
	struct model *model;
	struct kv *kv;
	float *logits;             /* [n_row][n_vocab] */
	size_t n_vocab;
	struct rig_params p;
};

/* A place in a timeline: plain data. */
struct timeline {
	struct window window;
	uint64_t pos, start;
	bool exact;
};

/* path, with XDG and SINKD rules for the models; NULL: not on this machine. */
/* The real models take too long there; tests/e2e/52 takes sixteen tokens of the small one. */
bool under_sanitizer(void);
const char *model_path(const char *variable, const char *file);
bool rig_open(struct rig *r, const char *model, const struct rig_params *p);   /* false: isa not here */
void rig_close(struct rig *r);
/* Feeds ids[n] in chunks; logits of every token go to each (NULL: of none but the
 * last, which stand in r->logits afterwards). */
void rig_feed(struct rig *r, struct timeline *t, const int32_t *ids, size_t n, uint32_t chunk,
              void (*each)(void *ctx, size_t i, const float *logits), void *ctx);
/* nll[i] of ids[i + 1] for all i < n - 1, from a fresh session. */
void rig_nll(struct rig *r, struct window w, bool exact, const int32_t *ids, size_t n, uint32_t chunk, double *nll);

/* The tokens of a text, with the model's vocabulary. */
struct ids rig_ids(const char *model, const char *text, size_t n);

/* The largest difference; NaN where a has one. */
double furthest(const double *a, const double *b, size_t n);
double mean(const double *x, size_t n);

/* Counts a failure and says so; check_status() is what main returns. */
void check(bool ok, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int check_status(void);
double now(void);

#endif
