/* What the files of the simulation offer each other. */
#ifndef TESTS_CUSIM_INSIDE_H
#define TESTS_CUSIM_INSIDE_H

#include "tests/cusim/cusim.h"

struct cusim_modes {
	enum { FORWARD, REVERSE, SEEDED } order;
	uint64_t seed;
	bool lazy;                     /* queued work runs only when the host waits */
	bool poison;                   /* fresh memory is NaN */
	bool unreadable;               /* device memory faults when the host touches it */
	bool nodevice;
};

extern struct cusim_modes cusim_modes;

/* Says it on stderr and counts it. */
void cusim_fault(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* Runs all blocks of a launch; false: a fault. */
bool cusim_run(const cudaLaunchConfig_t *c, cusim_closure *kernel);

enum cusim_kind { CUSIM_DEVICE, CUSIM_PINNED };
void *cusim_memory_new(size_t n, cusim_kind kind);
bool cusim_memory_free(void *p, cusim_kind kind);
/* Do n bytes at p lie inside of one piece of device memory? */
bool cusim_memory_holds(const void *p, size_t n);
bool cusim_memory_touches(const void *p);      /* inside of any piece of device memory */
size_t cusim_memory_held(void);
void cusim_memory_open(bool open);             /* for the device's own work */

#endif
