/*
 * Workers that take items from one counter.  See pool.h for the idea.
 *
 * A job is a generation number and a counter in one 64-bit ticket.  A worker
 * takes an item by moving the ticket on from a value of the generation whose
 * fields it has read; a job ends only when all items taken are done, so fields
 * of a generation never change while its items run, and a worker that wakes late
 * finds a ticket of another generation and takes nothing.
 */
#include "kernels/cpu/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPIN_NS 20000            /* the longest look for work before sleeping */

typedef void item_fn(void *ctx, uint32_t item, unsigned worker);

struct worker {
	struct pool *pool;
	pthread_t thread;
	unsigned index;
};

struct pool {
	_Alignas(64) _Atomic uint64_t ticket;    /* generation << 32 | next item */
	_Alignas(64) _Atomic uint32_t done;      /* items of this generation; a futex */
	_Alignas(64) _Atomic uint32_t generation; /* a futex: changes when there is work */
	_Atomic(item_fn *) fn;
	_Atomic(void *) ctx;
	_Atomic uint32_t n;
	_Atomic uint32_t sleepers;
	_Atomic uint32_t caller_sleeps;
	_Atomic bool rest, stop;
	unsigned n_thread;
	struct worker *workers;                  /* [n_thread], 0 unused */
};

static void futex_wait(_Atomic uint32_t *word, uint32_t value)
{
	syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word, int n)
{
	syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Spins a little while *word is value; true when it changed. */
static bool spin_while(_Atomic uint32_t *word, uint32_t value, _Atomic bool *give_up)
{
	uint64_t end = now_ns() + SPIN_NS;

	do {
		for (int i = 0; i < 32; i++) {
			if (atomic_load_explicit(word, memory_order_acquire) != value)
				return true;
			relax();
		}
	} while (!(give_up && atomic_load_explicit(give_up, memory_order_relaxed)) && now_ns() < end);
	return false;
}

/* Takes items of this generation until there are none. */
static void take_items(struct pool *p, uint32_t generation, unsigned worker)
{
	uint64_t ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
	item_fn *fn = atomic_load_explicit(&p->fn, memory_order_acquire);
	void *ctx = atomic_load_explicit(&p->ctx, memory_order_acquire);
	uint32_t n = atomic_load_explicit(&p->n, memory_order_acquire);

	while ((uint32_t)(ticket >> 32) == generation && (uint32_t)ticket < n) {
		if (!atomic_compare_exchange_weak_explicit(&p->ticket, &ticket, ticket + 1,
		                                           memory_order_acq_rel, memory_order_acquire))
			continue;
		fn(ctx, (uint32_t)ticket, worker);
		if (atomic_fetch_add(&p->done, 1) + 1 == n && atomic_load(&p->caller_sleeps))
			futex_wake(&p->done, 1);
		ticket = atomic_load_explicit(&p->ticket, memory_order_acquire);
	}
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct pool *p = w->pool;
	uint32_t seen = 0, now;

	while (!atomic_load(&p->stop)) {
		if (!spin_while(&p->generation, seen, &p->rest)) {
			atomic_fetch_add(&p->sleepers, 1);
			while (atomic_load(&p->generation) == seen)
				futex_wait(&p->generation, seen);
			atomic_fetch_sub(&p->sleepers, 1);
		}
		now = atomic_load(&p->generation);
		seen = now;
		take_items(p, now, w->index);
	}
	return NULL;
}

/* A new generation: workers look at the ticket. */
static void announce(struct pool *p)
{
	atomic_fetch_add(&p->generation, 1);
	if (atomic_load(&p->sleepers) > 0)
		futex_wake(&p->generation, (int)p->n_thread);
}

void pool_run(struct pool *p, item_fn *fn, void *ctx, uint32_t n)
{
	uint32_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed) + 1, done;

	if (n <= 1 || p->n_thread <= 1) {
		for (uint32_t i = 0; i < n; i++)
			fn(ctx, i, 0);
		return;
	}
	atomic_store_explicit(&p->rest, false, memory_order_relaxed);
	/* An empty ticket of the new generation first: a worker that sees a new field
	 * can then no longer take from the old ticket. */
	atomic_store_explicit(&p->ticket, (uint64_t)generation << 32 | UINT32_MAX, memory_order_relaxed);
	atomic_store_explicit(&p->fn, fn, memory_order_release);
	atomic_store_explicit(&p->ctx, ctx, memory_order_release);
	atomic_store_explicit(&p->n, n, memory_order_release);
	atomic_store_explicit(&p->done, 0, memory_order_relaxed);
	atomic_store_explicit(&p->ticket, (uint64_t)generation << 32, memory_order_release);
	announce(p);
	take_items(p, generation, 0);
	while ((done = atomic_load_explicit(&p->done, memory_order_acquire)) != n) {
		if (spin_while(&p->done, done, NULL))
			continue;
		atomic_store(&p->caller_sleeps, 1);
		done = atomic_load(&p->done);
		if (done != n)
			futex_wait(&p->done, done);
		atomic_store(&p->caller_sleeps, 0);
	}
}

void pool_rest(struct pool *p)
{
	atomic_store_explicit(&p->rest, true, memory_order_relaxed);
}

unsigned pool_threads(const struct pool *p)
{
	return p->n_thread;
}

void pool_close(struct pool *p)
{
	if (!p)
		return;
	if (p->n_thread > 1) {
		atomic_store(&p->stop, true);
		announce(p);
	}
	for (unsigned i = 1; i < p->n_thread; i++)
		pthread_join(p->workers[i].thread, NULL);
	free(p->workers);
	free(p);
}

int pool_open(struct pool **out, unsigned n_thread)
{
	struct pool *p = aligned_alloc(64, sizeof(*p));
	sigset_t all, old;
	int rc = 0;

	if (!p)
		return -ENOMEM;
	*p = (struct pool){ .n_thread = 1 };
	p->workers = calloc(n_thread, sizeof(*p->workers));
	if (!p->workers) {
		free(p);
		return -ENOMEM;
	}
	/* signals are the program's, never a worker's */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	for (unsigned i = 1; i < n_thread && rc == 0; i++) {
		p->workers[i] = (struct worker){ .pool = p, .index = i };
		rc = -pthread_create(&p->workers[i].thread, NULL, work, &p->workers[i]);
		if (rc == 0)
			p->n_thread++;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc < 0) {
		pool_close(p);
		return rc;
	}
	*out = p;
	return 0;
}
