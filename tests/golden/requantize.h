/*
 * A copy of a GGUF file with its matrices in another format, for tests: the plainest
 * rounding there is, in memory.
 */
#ifndef TESTS_GOLDEN_REQUANTIZE_H
#define TESTS_GOLDEN_REQUANTIZE_H

#include "kernels/quants.h"

/* type: QUANT_Q8_0 or QUANT_Q4_0; a matrix whose rows are no whole blocks stays as it
 * is.  Returns a descriptor (the file is /proc/self/fd/N), which the caller closes. */
int requantize(const char *path, enum quant_type type);

#endif
