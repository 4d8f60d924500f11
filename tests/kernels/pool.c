/* The pool: every item once, by whichever worker; and the caller works alone where its
 * processor is another's while workers take part. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/pool.h"

struct marks { atomic_uint count[1000]; atomic_uint who[8]; };

static void mark(void *ctx, uint32_t item, unsigned worker)
{
	struct marks *m = ctx;

	atomic_fetch_add(&m->count[item], 1);
	atomic_fetch_add(&m->who[worker], 1);
}

static void pool_items(void **state)
{
	static struct marks m;
	struct pool *p;
	uint32_t n, total = 0;
	unsigned who = 0;

	(void)state;
	assert_int_equal(pool_open(&p, 5), 0);
	assert_int_equal(pool_threads(p), 5);
	for (int round = 0; round < 2000; round++) {
		n = (uint32_t)(round * 7 % 401);
		memset(&m.count, 0, sizeof(m.count));
		if (round % 2)
			pool_run_near(p, mark, &m, n, 1 + (uint32_t)round % 20);
		else
			pool_run(p, mark, &m, n);
		if (round % 50 == 0)
			pool_rest(p);
		for (uint32_t i = 0; i < 401; i++)
			assert_int_equal(atomic_load(&m.count[i]), i < n);
		total += n;
	}
	for (int i = 0; i < 8; i++)
		who += atomic_load(&m.who[i]);
	assert_int_equal(who, total);
	pool_close(p);
	pool_close(NULL);
}

/* A processor that is shared, as the caller sees it: its time is taken away while workers
 * take part. */
struct shared {
	atomic_bool together;
	bool before, free;
	double wall, own;      /* seconds of jobs with workers, and of the caller's processor in them */
};

static double seconds_of(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static double seconds(void)
{
	return seconds_of(CLOCK_MONOTONIC);
}

static void share(void *ctx, uint32_t item, unsigned worker)
{
	const struct timespec ms = { .tv_nsec = 1000000 };
	struct shared *s = ctx;
	double end = seconds() + 1e-3;

	(void)item;
	if (worker != 0)
		atomic_store(&s->together, true);
	if (worker != 0 || (s->before && !s->free))
		nanosleep(&ms, NULL);
	while (seconds() < end)
		;
}

/* Until every job has been so for longer than a trial; false: not within a minute. */
static bool until(struct pool *p, struct shared *s, bool together)
{
	double now = seconds(), end = now + 60, since = now, began, own;

	s->wall = s->own = 0;
	while (now < end && now - since < 0.15) {
		began = now;
		own = seconds_of(CLOCK_THREAD_CPUTIME_ID);
		pool_run(p, share, s, 8);
		s->before = atomic_exchange(&s->together, false);
		now = seconds();
		s->wall += s->before ? now - began : 0;
		s->own += s->before ? seconds_of(CLOCK_THREAD_CPUTIME_ID) - own : 0;
		since = s->before == together ? since : now;
	}
	return now - since >= 0.15;
}

/* Together; not only where the caller, in the jobs with workers that were tried, has really
 * had less than most of a processor: others are at work here. */
static void until_together(struct pool *p, struct shared *s)
{
	if (until(p, s, true))
		return;
	assert_true(s->wall > 0);
	assert_true(s->own < 0.75 * s->wall);
	pool_close(p);
	skip();
}

static void pool_works_alone(void **state)
{
	struct shared s = { .free = true };
	struct pool *p;

	(void)state;
	assert_int_equal(pool_open(&p, 3), 0);
	until_together(p, &s);
	s.free = false;
	assert_true(until(p, &s, false));
	s.free = true;
	until_together(p, &s);
	pool_close(p);
}

/* What a caller waits for while weights are packed is no reason to go on alone; only that
 * it has lacked a processor in these steps, too, is. */
static void pool_counts_steps(void **state)
{
	struct shared load = { .before = true }, s = { .free = true };
	double begin = seconds(), wall, own;
	int alone = 0;         /* jobs in a row; a worker may be late for one */
	struct pool *p;

	(void)state;
	assert_int_equal(pool_open(&p, 3), 0);
	while (seconds() < begin + 0.25)
		pool_run_apart(p, share, &load, 8);
	/* The first trial, and some of what it leads to. */
	begin = seconds();
	own = seconds_of(CLOCK_THREAD_CPUTIME_ID);
	while (alone < 4 && seconds() < begin + 0.19) {
		pool_run(p, share, &s, 8);
		alone = atomic_exchange(&s.together, false) ? 0 : alone + 1;
	}
	wall = seconds() - begin;
	own = seconds_of(CLOCK_THREAD_CPUTIME_ID) - own;
	pool_close(p);
	if (alone == 4 && own < 0.8 * wall)
		skip();
	assert_in_range(alone, 0, 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pool_items),
		cmocka_unit_test(pool_counts_steps),
		cmocka_unit_test(pool_works_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
