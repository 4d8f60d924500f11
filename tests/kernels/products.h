/* What the files of tests/kernels/products share: its scenes, and the tests of the others. */
#ifndef TESTS_KERNELS_PRODUCTS_H
#define TESTS_KERNELS_PRODUCTS_H

#include "tests/kernels/desk.h"

#define ROWS 107                 /* more than ROWS_MOST, all tile sizes, and enough for three workers to have rows of their own */
#define TOKENS 77
/* Half of it, which is what products see, rounds to as many steps as fifteen bits have, 16256. */
#define MOST_STEPS (32511.5f / 4096)

struct scene {
	struct matrix *w, *bias, *inputs;        /* bias NULL: none */
	bool exact, eight;                       /* eight: bits of activations */
	uint32_t n_row;
};

/* out [n_row][n_out], at most n rows in a batch */
void play(const struct scene *s, struct place place, uint32_t n, float *out);
/* Against a sum in double, and bitwise the same in every place and with n rows at once. */
void compare(const struct scene *s, uint32_t n);

/* The token of a row, and so its input. */
int32_t token_of(uint32_t row);
/* The activation as the product sees it: a multiple of the least power of two of which its block's
 * largest is below 16256; with eight bits, of the 127th part of that. */
void round_inputs(float *x, uint32_t n, bool eight);
/* Are weights of this kind rounded to words, and does so: fifteen bits of the largest of 32. */
bool is_words(const struct quant *q, uint32_t n_in);
void round_words(const float *w, uint32_t n, float *out);
/* Steps with caches may have other products: smallest caches. */
struct kv *cache_open(struct backend *b, uint32_t n_slot);

void decode_beside_prefill(void **state);      /* beside.c */
void large_weights(void **state);
void long_rows(void **state);
void words_extremes(void **state);             /* words.c */
void words_exact(void **state);
void words_not_numbers(void **state);
void written_between(void **state);            /* acts.c */
void product_of_selected(void **state);
void no_number_in_a_row(void **state);
void one_input(void **state);
void experts(void **state);                    /* experts.c */
void many_experts(void **state);

#endif
