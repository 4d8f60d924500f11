/* The slots of a cache: a part of attention.c's program. */
#ifndef TESTS_KERNELS_SLOTS_H
#define TESTS_KERNELS_SLOTS_H

void slots_among_many(void **state);
void slots_bad_shapes(void **state);
void slots_half_the_bytes(void **state);
void slots_hold_all_windows(void **state);

#endif
