/*
 * Workers of the CPU backend: run fn(ctx, item, worker) for items 0..n-1, on all
 * of them and on the caller, and return when every item is done.
 *
 * The hard idea: waiting must cost nothing.  Workers look for work for a few
 * microseconds and then sleep in a futex; so does the caller for the last item.
 * Nobody waits for a worker that is not running: who is done with its own items takes others'.  Where
 * workers take away from the caller what they bring, it works alone.
 * The pool is its owner's thread's alone.
 */
#ifndef KERNELS_CPU_POOL_H
#define KERNELS_CPU_POOL_H

#include <stdint.h>

struct pool;

int pool_open(struct pool **out, unsigned n_thread);   /* the caller counts as one; 0 or -errno */
void pool_close(struct pool *p);                       /* NULL is fine */
unsigned pool_threads(const struct pool *p);
/* worker: 0 is the caller, the others 1..threads-1.  Every worker begins with a stretch of neighbours, which is its
 * own whenever there are as many items: what it wrote lies in its cache, and its way through memory has no gaps. */
void pool_run(struct pool *p, void (*fn)(void *ctx, uint32_t item, unsigned worker),
              void *ctx, uint32_t n);
/* The same, up to most items at a time, fewer where there are few: for small ones, or whose bytes share lines of
 * the cache. */
void pool_run_near(struct pool *p, void (*fn)(void *ctx, uint32_t item, unsigned worker), void *ctx, uint32_t n,
                   uint32_t most);
/* Of no step: with every worker, and without a word on whether they bring anything, since the caller may wait for
 * a file here, or for pages.  The pool rests behind it. */
void pool_run_apart(struct pool *p, void (*fn)(void *ctx, uint32_t item, unsigned worker), void *ctx, uint32_t n);
/* Workers sleep at once until the next run: no work is coming soon. */
void pool_rest(struct pool *p);

#endif
