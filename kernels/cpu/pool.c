/*
 * Workers that take items from counters: each from its own, then from the others'.  See
 * pool.h for the idea.
 *
 * A job is a generation number and a counter in one 64-bit ticket, for each worker's
 * stretch of the items.  A worker takes an item by moving a ticket on from a value of the
 * generation whose fields it has read; a job ends only when all items taken are done, so
 * fields of a generation never change while its items run, and a worker that wakes late
 * finds tickets of another generation and takes nothing.
 *
 * Workers that bring nothing are parked.  Where others run on the processors too, two
 * threads wait for each other, and together bring little more than one; and a group
 * that the system shares processors among gives each of two threads less than one
 * alone would have.  So where the caller has less than most of its time for itself, it
 * sees in turn what it has with and without workers, and where that is clearly more
 * without, it goes on alone for a while.
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
#define TRIAL_NS 100000000u      /* some steps, and time for processors to be taken away and given back */
#define FREE 0.7                 /* of its time: a caller that had so much of a processor is not disturbed */
#define MORE 1.15                /* times the share of a processor with workers: better alone (measured) */
#define HOLD_NS 200000000u       /* a decision holds so long at first; then twice as long each time */
#define HOLD_MOST_NS 3200000000u
#define PARTS 4u                 /* of a worker at least, where there are so many items */

typedef void item_fn(void *ctx, uint32_t item, unsigned worker);

struct worker {
	struct pool *pool;
	pthread_t thread;
	unsigned index;
};

/* Do workers help?  The caller's own. */
struct gain {
	uint64_t ns, cpu_ns;             /* of this trial, without rests: its time, the caller's of a processor */
	uint64_t since, cpu_since;       /* not yet among these; 0: the pool rests */
	double share[2];                 /* of a processor, of late: with workers, alone; 0: not tried */
	uint64_t hold, until;            /* ns: so long, and until then, a decision holds */
	bool probing;                    /* this trial is for comparison */
	bool alone;                      /* workers are parked */
};

struct stretch {                                 /* a worker's of the items */
	_Alignas(64) _Atomic uint64_t ticket;    /* generation << 32 | next item */
};

struct pool {
	struct stretch *stretches;               /* [n_thread] */
	_Alignas(64) _Atomic uint32_t done;      /* items of this generation, told by a worker when it finds no more; a futex */
	_Alignas(64) _Atomic uint32_t generation; /* a futex: changes when there is work */
	_Atomic(item_fn *) fn;
	_Atomic(void *) ctx;
	_Atomic uint32_t n;
	_Atomic uint32_t sleepers;
	_Atomic uint32_t caller_sleeps;
	_Atomic bool rest, stop;
	unsigned n_thread;
	struct worker *workers;                  /* [n_thread], 0 unused */
	struct gain gain;
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

static uint64_t clock_ns(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Spins a little while *word is value; true when it changed. */
static bool spin_while(_Atomic uint32_t *word, uint32_t value, _Atomic bool *give_up)
{
	uint64_t end = clock_ns(CLOCK_MONOTONIC) + SPIN_NS;

	do {
		for (int i = 0; i < 32; i++) {
			if (atomic_load_explicit(word, memory_order_acquire) != value)
				return true;
			relax();
		}
	} while (!(give_up && atomic_load_explicit(give_up, memory_order_relaxed)) && clock_ns(CLOCK_MONOTONIC) < end);
	return false;
}

static uint32_t stretch_begin(const struct pool *p, uint32_t n, unsigned i)
{
	return (uint32_t)(((uint64_t)n * i + p->n_thread - 1) / p->n_thread);
}

/* Takes items of a stretch of this generation until there are none; returns how many. */
static uint32_t take_stretch(struct pool *p, unsigned i, uint32_t generation, unsigned worker)
{
	_Atomic uint64_t *at = &p->stretches[i].ticket;
	uint64_t ticket = atomic_load_explicit(at, memory_order_acquire);
	item_fn *fn = atomic_load_explicit(&p->fn, memory_order_acquire);
	void *ctx = atomic_load_explicit(&p->ctx, memory_order_acquire);
	uint32_t end = stretch_begin(p, atomic_load_explicit(&p->n, memory_order_acquire), i + 1), taken = 0;

	while ((uint32_t)(ticket >> 32) == generation && (uint32_t)ticket < end) {
		if (!atomic_compare_exchange_weak_explicit(at, &ticket, ticket + 1, memory_order_acq_rel, memory_order_acquire))
			continue;
		fn(ctx, (uint32_t)ticket, worker);
		taken++;
		ticket = atomic_load_explicit(at, memory_order_acquire);
	}
	return taken;
}

/* The worker's own stretch first, then what others have left of theirs. */
static void take_items(struct pool *p, uint32_t generation, unsigned worker)
{
	uint32_t n = atomic_load_explicit(&p->n, memory_order_acquire), taken = 0;

	for (unsigned i = 0; i < p->n_thread; i++)
		taken += take_stretch(p, (worker + i) % p->n_thread, generation, worker);
	if (taken > 0 && atomic_fetch_add(&p->done, taken) + taken == n && atomic_load(&p->caller_sleeps))
		futex_wake(&p->done, 1);
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

/* A new generation: workers look at the tickets. */
static void announce(struct pool *p)
{
	atomic_fetch_add(&p->generation, 1);
	if (atomic_load(&p->sleepers) > 0)
		futex_wake(&p->generation, (int)p->n_thread);
}

/* ---- do workers help? ---- */

/* At the end of a trial, in which the caller had that share of a processor. */
static void judge(struct gain *g, double share, uint64_t now)
{
	double *mean = &g->share[g->alone];

	*mean = *mean > 0 ? (2 * *mean + share) / 3 : share;
	if (!g->alone && share > FREE) {
		g->share[0] = g->share[1] = 0;
		g->hold = g->until = 0;
		g->probing = false;
	} else if (g->probing) {
		g->probing = false;
		g->alone = g->share[1] > MORE * g->share[0];
		g->hold = g->hold == 0 ? HOLD_NS : g->hold < HOLD_MOST_NS ? 2 * g->hold : HOLD_MOST_NS;
		g->until = now + g->hold;
	} else if (now >= g->until) {
		g->probing = true;
		g->alone = !g->alone;
	}
}

/* What the caller has had since it last looked goes to the trial. */
static void account(struct gain *g, uint64_t now)
{
	uint64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID);

	g->ns += now - g->since;
	g->cpu_ns += cpu - g->cpu_since;
	g->since = now;
	g->cpu_since = cpu;
}

static void job_begins(struct gain *g)
{
	if (g->since != 0)
		return;
	g->since = clock_ns(CLOCK_MONOTONIC);
	g->cpu_since = clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

static void job_ends(struct gain *g)
{
	uint64_t now = clock_ns(CLOCK_MONOTONIC);

	if (g->ns + (now - g->since) < TRIAL_NS)
		return;
	account(g, now);
	judge(g, (double)g->cpu_ns / (double)g->ns, now);
	g->ns = g->cpu_ns = 0;
}

/* Waits until all n items are done. */
static void wait_done(struct pool *p, uint32_t n)
{
	uint32_t done;

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

static void run_alone(item_fn *fn, void *ctx, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		fn(ctx, i, 0);
}

static void run_together(struct pool *p, item_fn *fn, void *ctx, uint32_t n)
{
	uint32_t generation = atomic_load_explicit(&p->generation, memory_order_relaxed) + 1;

	atomic_store_explicit(&p->rest, false, memory_order_relaxed);
	/* Empty tickets of the new generation first: a worker that sees a new field
	 * can then no longer take from an old ticket. */
	for (unsigned i = 0; i < p->n_thread; i++)
		atomic_store_explicit(&p->stretches[i].ticket, (uint64_t)generation << 32 | UINT32_MAX, memory_order_relaxed);
	atomic_store_explicit(&p->fn, fn, memory_order_release);
	atomic_store_explicit(&p->ctx, ctx, memory_order_release);
	atomic_store_explicit(&p->n, n, memory_order_release);
	atomic_store_explicit(&p->done, 0, memory_order_relaxed);
	for (unsigned i = 0; i < p->n_thread; i++)
		atomic_store_explicit(&p->stretches[i].ticket, (uint64_t)generation << 32 | stretch_begin(p, n, i),
		                      memory_order_release);
	announce(p);
	take_items(p, generation, 0);
	wait_done(p, n);
}

void pool_run(struct pool *p, item_fn *fn, void *ctx, uint32_t n)
{
	if (n <= 1 || p->n_thread <= 1) {
		run_alone(fn, ctx, n);
		return;
	}
	job_begins(&p->gain);
	if (p->gain.alone)
		run_alone(fn, ctx, n);
	else
		run_together(p, fn, ctx, n);
	job_ends(&p->gain);
}

void pool_run_apart(struct pool *p, item_fn *fn, void *ctx, uint32_t n)
{
	pool_rest(p);                  /* jobs before it are accounted for, it is not */
	if (n <= 1 || p->n_thread <= 1)
		run_alone(fn, ctx, n);
	else
		run_together(p, fn, ctx, n);
	pool_rest(p);
}

struct near {
	item_fn *fn;
	void *ctx;
	uint32_t n, by;
};

static void run_near(void *ctx, uint32_t item, unsigned worker)
{
	const struct near *o = ctx;

	for (uint32_t i = item * o->by; i < o->n && i / o->by == item; i++)
		o->fn(o->ctx, i, worker);
}

void pool_run_near(struct pool *p, item_fn *fn, void *ctx, uint32_t n, uint32_t most)
{
	struct near o = { fn, ctx, n, n / (PARTS * p->n_thread) };

	o.by = o.by < 1 ? 1 : o.by > most ? most : o.by;
	pool_run(p, run_near, &o, (n + o.by - 1) / o.by);
}

void pool_rest(struct pool *p)
{
	if (p->gain.since != 0)
		account(&p->gain, clock_ns(CLOCK_MONOTONIC));
	p->gain.since = 0;
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
	free(p->stretches);
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
	p->stretches = aligned_alloc(64, n_thread * sizeof(*p->stretches));
	if (!p->workers || !p->stretches) {
		pool_close(p);
		return -ENOMEM;
	}
	for (unsigned i = 0; i < n_thread; i++)
		p->stretches[i] = (struct stretch){ 0 };
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
