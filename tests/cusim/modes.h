/* What a test sees of the simulated device; C and C++. */
#ifndef TESTS_CUSIM_MODES_H
#define TESTS_CUSIM_MODES_H

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "order:forward", "order:reverse", "order:N" (seeded), "lazy", "poison", "unreadable",
 * "nodevice", by commas; NULL or "": none.  The environment's CUSIM is the first mode
 * of a process.  False, and nothing changes: a word is not known, or memory is held
 * that the mode would have made otherwise. */
bool cusim_mode(const char *words);
/* Divergence, wrong masks, wrong pointers and launches so far; what the last one was. */
unsigned cusim_faults(const char **last);

#ifdef __cplusplus
}
#endif
#endif
