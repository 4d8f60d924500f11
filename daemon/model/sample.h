/*
 * The sampler: logits -> a token.  Greedy, temperature, top-k, top-p, min-p and
 * repetition penalty.  Randomness is a pure function of (seed, position), a
 * counter-based generator, so that a generation cut off by a crash goes on with
 * the very tokens it would have produced.  Pure; any thread.
 *
 * Order, as llama.cpp's default chain: penalty, top-k, top-p, min-p, temperature.
 */
#ifndef DAEMON_MODEL_SAMPLE_H
#define DAEMON_MODEL_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"

struct sampling {
	float temperature;         /* 0: greedy */
	uint32_t top_k;            /* 0: off */
	float top_p;               /* 1: off */
	float min_p;               /* 0: off */
	float repeat_penalty;      /* 1: off */
	uint64_t seed;
};

#define SAMPLING_DEFAULT { .temperature = 0.7f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, \
                           .repeat_penalty = 1.0f, .seed = 0 }
#define SAMPLE_LAST 64         /* tokens that the repetition penalty looks at */

struct sampler;                /* scratch for n_vocab candidates */
int sampler_new(struct sampler **out, size_t n_vocab);
void sampler_free(struct sampler *s);

/* pos: absolute position that the token will take.  last: the n_last tokens before
 * it, oldest first.  logits are overwritten.  Never fails: with NaN logits it
 * returns -1. */
int32_t sampler_pick(struct sampler *s, const struct sampling *p, uint64_t pos,
                     float *logits, const int32_t *last, size_t n_last);

/* The same from the row's candidates alone: the very token, or SAMPLE_WHOLE_ROW, where
 * they do not tell.  They do wherever they hold what the settings leave: top_k of at
 * most CANDIDATES, less those that a penalty puts behind the last; else a cut by top_p
 * or min_p among them. */
#define SAMPLE_WHOLE_ROW (-2)
int32_t sampler_pick_top(struct sampler *s, const struct sampling *p, uint64_t pos,
                         const struct candidates *c, const int32_t *last, size_t n_last);

/* The random number of a choice, in [0, 1): a pure function of both. */
double sample_uniform(uint64_t seed, uint64_t pos);

/* -ln softmax(logits)[id], in double; NaN: a logit is one, or id is none. */
double sample_nll(const float *logits, size_t n_vocab, int32_t id);

#endif
