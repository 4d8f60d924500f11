/* What the files of the simulation offer each other. */
#ifndef TESTS_CUSIM_INSIDE_H
#define TESTS_CUSIM_INSIDE_H

#include "tests/cusim/cusim.h"
#include "tests/cusim/modes.h"
#if defined(CUSIM_TSAN)
#include <sanitizer/tsan_interface.h>
#endif

/* The simulation's own files are compiled without -fsanitize=thread, and CUSIM_TSAN
 * says so: then every thread of a block and every stream is a thread for it, and what
 * happens before what is said with acquire and release. */
#if defined(CUSIM_TSAN)
#define CUSIM_FIBERS_SHARED false
static inline void cusim_acquire(void *p) { __tsan_acquire(p); }
static inline void cusim_release(void *p) { __tsan_release(p); }
static inline void *cusim_thread_new(void) { return __tsan_create_fiber(0); }
static inline void cusim_thread_end(void *t) { __tsan_destroy_fiber(t); }
static inline void *cusim_thread(void) { return __tsan_get_current_fiber(); }
/* From here on we are t; sync: what this one did happens before. */
static inline void cusim_thread_be(void *t, bool sync) { __tsan_switch_to_fiber(t, sync ? 0 : __tsan_switch_to_fiber_no_sync); }
#else
#define CUSIM_FIBERS_SHARED true
static inline void cusim_acquire(void *) {}
static inline void cusim_release(void *) {}
static inline void *cusim_thread_new(void) { return NULL; }
static inline void cusim_thread_end(void *) {}
static inline void *cusim_thread(void) { return NULL; }
static inline void cusim_thread_be(void *, bool) {}
#endif
#if defined(__SANITIZE_ADDRESS__)
#define CUSIM_FENCED 0u                /* AddressSanitizer guards the ends of memory */
#else
#define CUSIM_FENCED 1u
#endif

#define CUSIM_FIBERS 1024u
#define CUSIM_HOME UINT32_MAX

/* Before a launch: home is the thread that runs, and fibers run this. */
void cusim_fibers_begin(void (*body)(void));
/* Whatever they were doing, fibers are new. */
void cusim_fibers_forget(void);
/* A fiber that has not begun; wanted: which one, where they are not shared. */
unsigned cusim_fiber_take(unsigned wanted);
void cusim_fiber_give(unsigned i);
void cusim_fiber_switch(unsigned from, unsigned to, bool dies);

#define CUSIM_FAILS 4

struct cusim_modes {
	enum { FORWARD, REVERSE, SEEDED } order;
	uint64_t seed;
	bool lazy;                     /* queued work runs only when the host waits */
	bool poison;                   /* fresh memory is NaN */
	bool unreadable;               /* device memory faults when the host touches it */
	cudaError_t absent;            /* what every call answers; 0: there is a device */
	size_t memory = (size_t)2 << 30;               /* bytes of the device */
	struct { char name[48]; uint64_t left; } fails[CUSIM_FAILS];   /* the call that takes left to 0 */
	char fail_file[256];           /* "": none */
	char fail_file_of[48];         /* of what it is */
	unsigned char fail_bytes[16];  /* [n_fail_bytes] */
	size_t n_fail_bytes;           /* 0: none */
};

extern struct cusim_modes cusim_modes;

/* Takes the environment's CUSIM once, where nobody chose a mode. */
void cusim_begin(void);
/* Does this call of name fail?  "launch": a kernel that begins. */
bool cusim_injected(const char *name);
/* Does a copy of these bytes to the device fail? */
bool cusim_poisonous(const void *p, size_t n);
/* The device is whole again: no error sticks. */
void cusim_healed(void);

/* A call begins: what it must answer at once; e is the error that a mode injects. */
cudaError_t cusim_enter(const char *name, cudaError_t e);
bool cusim_good(void);                         /* no error sticks */
/* Runs when the stream does, or is a node of the graph that s is captured into. */
cudaError_t cusim_queue(cudaStream_t s, cusim_closure *c);
bool cusim_captures(cudaStream_t s);
void cusim_capture(cudaStream_t s, cusim_closure *c);
/* What must not happen while a stream is captured: true, and the capture is spoiled. */
bool cusim_capture_forbids(const char *what);
extern struct cusim_counts cusim_counts;

/* For ThreadSanitizer alone: what the streams have run so far came before this. */
void cusim_ordered(void);
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
size_t cusim_memory_taken(void);               /* of the device's */
void cusim_memory_drop(void);                  /* frees every piece */
void cusim_memory_open(bool open);             /* for the device's own work */

#endif
