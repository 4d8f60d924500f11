/* The largest of a row against a plain sort: a part of rows.c's program. */
#ifndef TESTS_KERNELS_TOP_H
#define TESTS_KERNELS_TOP_H

void top_as_sorted(void **state);
void top_whoever_is_there(void **state);

#endif
