/*
 * The window arithmetic against a naive list: what each token sees, on random
 * walks with chunks, wraps, jumps and positions past 2^32; and what lies in a
 * place when it is read.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/window.h"

#define KEYS 4000

static uint64_t random_state = 1;

static uint32_t below(uint32_t n)
{
	random_state = random_state * UINT64_C(6364136223846793005) + 1442695040888963407u;
	return (uint32_t)((random_state >> 33) % n);
}

/* The naive list: all positions ever processed, and the rule in words. */
struct list { uint64_t pos[KEYS]; uint32_t n; };

static uint32_t naive(const struct list *l, uint32_t n_sink, uint32_t n_recent, uint64_t start, uint64_t t, uint64_t *seen)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < l->n; i++) {
		uint64_t p = l->pos[i];
		bool sink = p < n_sink, recent = p <= t && t - p <= n_recent;

		if (p <= t && (sink || (recent && p >= start)))
			seen[n++] = p;
	}
	return n;
}

/* The same from window.h: the sinks, then the window, each looked up in its place. */
static uint32_t ours(struct span s, uint64_t start, uint64_t t, const uint64_t *places, uint64_t *seen)
{
	uint32_t n = 0, n_sink = span_sinks(s, t);

	for (uint32_t p = 0; p < n_sink; p++)
		seen[n++] = places[span_place(s, p)];
	for (uint64_t p = span_lo(s, t, start); p <= t; p++)
		seen[n++] = places[span_place(s, p)];
	return n;
}

static void walk(struct window w, uint32_t local, uint32_t n_chunk, uint64_t jump, bool small_ring)
{
	struct span s = window_span(w, local, n_chunk);
	uint32_t n_recent = local && local - 1 < w.n_recent ? local - 1 : w.n_recent, n_sink = local ? 0 : w.n_sink;
	uint64_t *places, *a = malloc(KEYS * sizeof(*a)), *b = malloc(KEYS * sizeof(*b)), t = 0, start = 0;
	struct list *l = calloc(1, sizeof(*l));
	uint32_t bad = 0;

	if (small_ring)
		s.n_ring = n_recent + n_chunk - 1;
	else
		assert_true(s.n_head % WINDOW_BLOCK == 0 && s.n_ring % WINDOW_BLOCK == 0);
	places = calloc(span_places(s), sizeof(*places));
	while (l->n < 700) {
		uint32_t n = small_ring ? n_chunk : 1 + below(n_chunk);

		if (jump && t < w.n_sink && t + n > w.n_sink)
			n = w.n_sink - (uint32_t)t;
		if (jump && t == w.n_sink)
			t = start = jump;
		for (uint32_t i = 0; i < n; i++) {            /* a chunk: all stored, then all read */
			l->pos[l->n++] = t + i;
			assert_true(span_place(s, t + i) < span_places(s));
			places[span_place(s, t + i)] = t + i;
		}
		for (uint32_t i = 0; i < n; i++) {
			uint32_t want = naive(l, n_sink, n_recent, start, t + i, a), got = ours(s, start, t + i, places, b);

			bad += want != got || memcmp(a, b, want * sizeof(*a));
		}
		t += n;
	}
	if (small_ring)
		assert_true(bad > 0);                   /* one place less is noticed */
	else
		assert_int_equal(bad, 0);
	free(places);
	free(a);
	free(b);
	free(l);
}

static void walks(void **state)
{
	static const uint32_t sinks[] = { 0, 1, 4, 5, 16, 17, 40 }, recents[] = { 0, 1, 15, 16, 60, 252 },
	                      chunks[] = { 1, 7, 16, 64 };
	static const uint64_t jumps[] = { 0, 1000, UINT64_C(1000000000000), UINT64_C(18446744073709500000) };

	(void)state;
	for (int i = 0; i < 7; i++)
		for (int j = 0; j < 6; j++)
			for (int k = 0; k < 4; k++)
				walk((struct window){ sinks[i], recents[j] }, below(3) ? 0 : 1 + below(80), chunks[k],
				     jumps[below(4)], false);
}

static void ring_too_small(void **state)
{
	(void)state;
	walk((struct window){ 4, 60 }, 0, 7, 0, true);
	walk((struct window){ 0, 16 }, 0, 16, 0, true);
	walk((struct window){ 4, 252 }, 33, 2, 0, true);
}

static void query_place(void **state)
{
	const struct window w = { 4, 60 };

	(void)state;
	assert_int_equal(window_query(w, 0), 0);
	assert_int_equal(window_query(w, 63), 63);
	assert_int_equal(window_query(w, 64), 64);
	assert_int_equal(window_query(w, 65), 64);
	assert_int_equal(window_query(w, UINT64_MAX), 64);
	assert_int_equal(window_query((struct window){ UINT32_MAX, UINT32_MAX }, UINT64_MAX), 2 * (uint64_t)UINT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(walks),
		cmocka_unit_test(ring_too_small),
		cmocka_unit_test(query_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
