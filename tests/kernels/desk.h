/*
 * What the kernel tests share: a random generator of their own, every backend
 * that this machine can open (instruction sets times threads), weights of random
 * blocks, and acts filled through embed, the only way in.
 *
 * Compiled with DESK_CUSIM, the backend is CUDA's on the simulated device, and a
 * place is one of the simulation's modes.
 */
#ifndef TESTS_KERNELS_DESK_H
#define TESTS_KERNELS_DESK_H

#include "kernels/backend.h"

struct rng { uint64_t state; };
uint64_t rng_next(struct rng *r);
uint32_t rng_below(struct rng *r, uint32_t n);
float rng_normal(struct rng *r);               /* roughly: mean 0, deviation 1 */

extern const struct backend_ops *const desk_ops;
extern const bool desk_rounds;                 /* products see activations in int8 pairs, */
extern const bool desk_eight;                  /* and in single ones where that is asked for; */
extern const bool desk_words;                  /* halves and bfloats are rounded, too (round_words) */
extern const enum kv_type desk_kv_most;        /* caches of types up to this one; those after it are refused */
extern const char *const desk_layout;          /* of float32 caches */

struct place { const char *isa; unsigned n_thread, n_act_bit; };
/* The i-th, scalar with one thread first; false past the end.  What the machine
 * lacks is left out. */
bool place_at(size_t i, struct place *out);
struct backend *place_open(struct place p, uint32_t n_row_max);

struct matrix {                                /* [n_out][n_in] of a format, and its values */
	const struct quant *quant;
	uint32_t n_in, n_out;
	uint8_t *bytes;
	float *values;
};
struct matrix *matrix_random(struct rng *r, uint32_t type, uint32_t n_in, uint32_t n_out, float size);
void matrix_free(struct matrix *m);
struct weight *matrix_load(struct backend *b, const struct matrix *m);

#endif
