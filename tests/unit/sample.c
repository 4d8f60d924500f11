/*
 * The sampler: each step of the chain has an exact expectation; frequencies are
 * compared with probabilities over a fixed run of positions, so that the same
 * numbers come out each time.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/model/sample.h"

#define N 8

static const float logits[N] = { 1, 3, 2, -1, 3, 0, -INFINITY, 2.5f };
static const struct sampling plain = { .temperature = 1, .top_p = 1, .repeat_penalty = 1 };

static int32_t pick_of(const float *x, size_t n, struct sampling p, uint64_t pos, const int32_t *last, size_t n_last)
{
	struct sampler *s;
	float copy[64];
	int32_t id;

	assert_int_equal(sampler_new(&s, n), 0);
	memcpy(copy, x, n * sizeof *x);
	id = sampler_pick(s, &p, pos, copy, last, n_last);
	sampler_free(s);
	return id;
}

static int32_t pick(struct sampling p, uint64_t pos)
{
	return pick_of(logits, N, p, pos, NULL, 0);
}

/* How often each id comes, over n positions. */
static void count(struct sampling p, int n, int *often)
{
	struct sampler *s;
	float copy[N];
	int i;

	memset(often, 0, N * sizeof *often);
	assert_int_equal(sampler_new(&s, N), 0);
	for (i = 0; i < n; i++) {
		memcpy(copy, logits, sizeof copy);
		often[sampler_pick(s, &p, (uint64_t)i, copy, NULL, 0)]++;
	}
	sampler_free(s);
}

/* Within 1.5 % of n of the probabilities that weights stand for. */
static void expect(const int *often, int n, const double *weights)
{
	double sum = 0;
	int i;

	for (i = 0; i < N; i++)
		sum += weights[i];
	for (i = 0; i < N; i++) {
		if (weights[i] == 0)
			assert_int_equal(often[i], 0);
		else
			assert_true(fabs((double)often[i] / n - weights[i] / sum) < 0.015);
	}
}

static void test_greedy(void **state)
{
	struct sampling p = plain;

	(void)state;
	p.temperature = 0;
	assert_int_equal(pick(p, 0), 1);       /* the first of two equal ones */
	p.temperature = -1;
	assert_int_equal(pick(p, 0), 1);
	p = plain;
	p.top_k = 1;
	assert_int_equal(pick(p, 5), 1);
	p = plain;
	p.top_p = 0;                           /* at least one is left */
	assert_int_equal(pick(p, 5), 1);
	p = plain;
	p.min_p = 2;
	assert_int_equal(pick(p, 5), 1);
}

static void test_temperature(void **state)
{
	double w[N];
	int often[N], i;
	struct sampling p = plain;

	(void)state;
	for (i = 0; i < N; i++)
		w[i] = exp((double)logits[i]);
	count(p, 20000, often);
	expect(often, 20000, w);
	p.temperature = 0.5f;
	for (i = 0; i < N; i++)
		w[i] = exp(2 * (double)logits[i]);
	count(p, 20000, often);
	expect(often, 20000, w);
}

static void test_top_k(void **state)
{
	const double w[N] = { [1] = exp(3), [4] = exp(3), [7] = exp(2.5) };
	struct sampling p = plain;
	int often[N];

	(void)state;
	p.top_k = 3;
	count(p, 20000, often);
	expect(often, 20000, w);
}

/* Probabilities of the sorted list: .291 .291 .177 .107 .039 ... */
static void test_top_p(void **state)
{
	const double two[N] = { [1] = 1, [4] = 1 }, three[N] = { [1] = exp(3), [4] = exp(3), [7] = exp(2.5) };
	struct sampling p = plain;
	int often[N];

	(void)state;
	p.top_p = 0.55f;
	count(p, 20000, often);
	expect(often, 20000, two);
	p.top_p = 0.65f;
	count(p, 20000, often);
	expect(often, 20000, three);
	/* Looks at temperature 1, whatever the temperature; draws with it. */
	p.top_p = 0.65f;
	p.temperature = 100;
	count(p, 20000, often);
	expect(often, 20000, (const double[N]){ [1] = exp(.03), [4] = exp(.03), [7] = exp(.025) });
}

static void test_min_p(void **state)
{
	const double w[N] = { [1] = exp(3), [4] = exp(3), [7] = exp(2.5), [2] = exp(2) };
	struct sampling p = plain;
	int often[N];

	(void)state;
	p.min_p = 0.3f;                        /* e^-1 = .37 stays, e^-2 goes */
	count(p, 20000, often);
	expect(often, 20000, w);
}

static void test_penalty(void **state)
{
	const float x[4] = { 2, 1.5f, -1, -1.2f }, low[3] = { -1, -1.2f, -5 };
	const int32_t last[] = { 0, 0, 0 }, odd[] = { -3, 99, 0 };
	struct sampling p = plain;
	int32_t many[SAMPLE_LAST + 1];
	int i;

	(void)state;
	p.temperature = 0;
	p.repeat_penalty = 1.3f;
	assert_int_equal(pick_of(x, 4, p, 0, last, 0), 0);
	assert_int_equal(pick_of(x, 4, p, 0, last, 1), 0);     /* 2 / 1.3 > 1.5 */
	assert_int_equal(pick_of(x, 4, p, 0, last, 3), 0);     /* once, however often it came */
	p.repeat_penalty = 1.4f;
	assert_int_equal(pick_of(x, 4, p, 0, last, 1), 1);
	assert_int_equal(pick_of(x, 4, p, 0, odd, 3), 1);      /* ids that are none are passed over */
	assert_int_equal(pick_of(low, 3, p, 0, last, 1), 1);   /* negative ones are multiplied */
	for (i = 0; i <= SAMPLE_LAST; i++)
		many[i] = i == 0 ? 0 : 3;
	assert_int_equal(pick_of(x, 4, p, 0, many, SAMPLE_LAST + 1), 0);   /* too long ago */
	assert_int_equal(pick_of(x, 4, p, 0, many, SAMPLE_LAST), 1);
}

static void test_same_choice(void **state)
{
	struct sampling p = plain;
	int pos, differs = 0, moved = 0;

	(void)state;
	for (pos = 0; pos < 200; pos++) {
		p.seed = 7;
		assert_int_equal(pick(p, (uint64_t)pos), pick(p, (uint64_t)pos));
		differs += pick(p, (uint64_t)pos) != pick(p, (uint64_t)pos + 1);
		p.seed = 8;
		moved += pick(p, (uint64_t)pos) != pick(plain, (uint64_t)pos);
	}
	assert_true(differs > 50 && moved > 50);
}

static void test_uniform(void **state)
{
	double x, mean = 0, lag = 0;
	int cells[16] = { 0 }, i;

	(void)state;
	/* Written down once: these numbers are in every session's future. */
	assert_true(fabs(sample_uniform(0, 0) - 0.8345968258741528) < 1e-15);
	assert_true(fabs(sample_uniform(1, UINT64_C(1000000000000)) - 0.6809824265612039) < 1e-15);
	for (i = 0; i < 16000; i++) {
		x = sample_uniform(3, (uint64_t)i);
		assert_true(x >= 0 && x < 1);
		cells[(int)(x * 16)]++;
		mean += x / 16000;
		lag += (x - 0.5) * (sample_uniform(4, (uint64_t)i) - 0.5) / 16000;
	}
	assert_true(fabs(mean - 0.5) < 0.01 && fabs(lag) < 0.003);
	for (i = 0; i < 16; i++)
		assert_true(cells[i] > 850 && cells[i] < 1150);
	assert_true(sample_uniform(5, 6) != sample_uniform(6, 5));
	assert_true(sample_uniform(5, 6) != sample_uniform(4, 7));
}

static void test_strange_logits(void **state)
{
	const float bad[4] = { 1, NAN, 2, 0 }, none[2] = { -INFINITY, -INFINITY }, hot[3] = { 0, INFINITY, 1 };
	const float one[1] = { -3 };
	struct sampling p = plain, cold = plain;

	(void)state;
	cold.temperature = 0;
	p.top_k = 2;
	p.top_p = 0.9f;
	p.min_p = 0.1f;
	assert_int_equal(pick_of(bad, 4, p, 0, NULL, 0), -1);
	assert_int_equal(pick_of(bad, 4, cold, 0, NULL, 0), -1);
	assert_int_equal(pick_of(none, 2, p, 0, NULL, 0), -1);
	assert_int_equal(pick_of(none, 2, cold, 0, NULL, 0), -1);
	assert_int_equal(pick_of(hot, 3, p, 0, NULL, 0), 1);
	assert_int_equal(pick_of(hot, 3, plain, 0, NULL, 0), 1);
	assert_int_equal(pick_of(one, 1, p, 0, NULL, 0), 0);
}

/* ---- from the candidates ---- */

#define WIDE 3000
#define ROUNDS 20                              /* rows of each kind */

struct row {
	size_t n;
	float x[WIDE];
	struct candidates top;
};

static uint64_t luck;

static double chance(void)                     /* in [0, 1) */
{
	return sample_uniform(1234, luck++);
}

static int by_logit(const void *a, const void *b)
{
	const struct candidate *p = a, *q = b;

	if (isnan(p->logit) != isnan(q->logit))
		return isnan(p->logit) ? -1 : 1;
	return p->logit > q->logit ? -1 : p->logit < q->logit ? 1 : p->id < q->id ? -1 : 1;
}

/* Normal logits of a spread; some kinds of rows have ties, few that are possible, or NaNs. */
static void row_make(struct row *r, unsigned kind, double spread)
{
	static struct candidate all[WIDE];
	double sum = 0;
	size_t i;

	r->n = kind == 1 ? 1 + (size_t)(70 * chance()) : 65 + (size_t)((WIDE - 65) * chance());
	for (i = 0; i < r->n; i++) {
		r->x[i] = (float)(spread * sqrt(-2 * log(1 - chance())) * cos(6.283185307179586 * chance()));
		if (kind == 2)
			r->x[i] = rintf(r->x[i]);
		if (kind == 3 && chance() > 0.02)
			r->x[i] = -INFINITY;
		all[i] = (struct candidate){ r->x[i], (int32_t)i };
	}
	if (kind == 4)
		all[r->n / 2].logit = r->x[r->n / 2] = chance() < 0.5 ? NAN : INFINITY;
	qsort(all, r->n, sizeof *all, by_logit);
	for (i = 0; i < r->n; i++)
		sum += all[i].logit == all[0].logit ? 1 : exp((double)all[i].logit - (double)all[0].logit);
	r->top.n = r->n < CANDIDATES ? (uint32_t)r->n : CANDIDATES;
	memcpy(r->top.top, all, r->top.n * sizeof *all);
	/* anything that the backend may say */
	r->top.sum = (float)(sum * (1 + CANDIDATES_SLACK * 0.99 * (2 * chance() - 1)));
}

static size_t last_make(const struct row *r, int32_t *last)
{
	size_t n = (size_t)(SAMPLE_LAST * chance() * 1.3), i;

	for (i = 0; i < n; i++)                /* of the likely ones, or any, or none */
		last[i] = chance() < 0.3 ? r->top.top[(size_t)(r->top.n * chance())].id
		                         : (int32_t)(1.1 * (double)r->n * chance()) - 3;
	return n;
}

/* Of the last tokens, how many are candidates? */
static unsigned listed(const struct row *r, const int32_t *last, size_t n_last)
{
	unsigned n = 0, i;
	size_t k, first = n_last > SAMPLE_LAST ? n_last - SAMPLE_LAST : 0;

	for (i = 0; i < r->top.n; i++) {
		for (k = first; k < n_last && last[k] != r->top.top[i].id; k++)
			;
		n += k < n_last;
	}
	return n;
}

struct told { unsigned asked, whole; };

static bool one_choice(struct sampler *s, const struct row *r, const struct sampling *p, const int32_t *last, size_t n_last,
                       struct told *told)
{
	static float copy[WIDE];
	const uint64_t pos = (uint64_t)(1e6 * chance());
	int32_t id = sampler_pick_top(s, p, pos, &r->top, last, n_last), want;

	memcpy(copy, r->x, r->n * sizeof *copy);
	want = sampler_pick(s, p, pos, copy, last, n_last);
	told->asked++;
	told->whole += id == SAMPLE_WHOLE_ROW;
	/* what must be told */
	if (p->top_k > 0 && p->top_k <= CANDIDATES && (p->repeat_penalty == 1 ||
	    (p->repeat_penalty > 1 && listed(r, last, n_last) + p->top_k <= CANDIDATES)))
		assert_int_not_equal(id, SAMPLE_WHOLE_ROW);
	return id == SAMPLE_WHOLE_ROW || id == want;
}

/* Every row with every setting: the same token, or none. */
static void test_from_the_top(void **state)
{
	static const float temperatures[] = { 0, 0.7f, 3 }, top_ps[] = { 0, 0.5f, 0.95f, 1 }, min_ps[] = { 0, 0.05f, 0.3f };
	static const float penalties[] = { 1, 1.1f, 1.7f, 0.8f };
	static const uint32_t top_ks[] = { 0, 1, 40, 64, 65, 500 };
	static const double spreads[] = { 0.1, 2, 6 };
	struct told usual = { 0 }, all = { 0 }, wide = { 0 }, least = { 0 }, penal = { 0 };
	const struct sampling ours = SAMPLING_DEFAULT;
	static struct row r;
	int32_t last[2 * SAMPLE_LAST];
	struct sampler *s;
	struct sampling p;
	size_t i, n_last;
	unsigned k;

	(void)state;
	for (i = 0; i < 5 * 3 * ROUNDS; i++) {
		row_make(&r, i % 5, spreads[i / 5 % 3]);
		n_last = last_make(&r, last);
		assert_int_equal(sampler_new(&s, r.n), 0);
		for (k = 0; k < 3 * 4 * 3 * 4 * 6; k++) {
			p = (struct sampling){ temperatures[k % 3], top_ks[k / 144], top_ps[k / 3 % 4], min_ps[k / 12 % 3],
			                       penalties[k / 36 % 4], k };
			assert_true(one_choice(s, &r, &p, last, n_last, &all));
		}
		assert_true(one_choice(s, &r, &ours, last, n_last, &usual));
		p = ours;
		p.repeat_penalty = 1.1f;
		assert_true(one_choice(s, &r, &p, last, n_last, &penal));
		p = ours;
		p.top_k = 0;
		if (i / 5 % 3 == 2)                    /* sharp, as a model's are */
			assert_true(one_choice(s, &r, &p, last, n_last, &wide));
		p.top_p = 1;
		p.min_p = 0;
		if (i % 5 == 0)
			assert_true(one_choice(s, &r, &p, last, n_last, &least));
		sampler_free(s);
	}
	printf("whole rows: %u of %u with all settings; %u of %u with the defaults, %u of %u with a penalty too,\n"
	       "%u of %u sharp ones without top_k, %u of %u of anything goes\n", all.whole, all.asked, usual.whole,
	       usual.asked, penal.whole, penal.asked, wide.whole, wide.asked, least.whole, least.asked);
	assert_int_equal(usual.whole, 0);
	assert_true(wide.whole < wide.asked / 4 && least.whole == least.asked);
	assert_true(all.whole > all.asked / 50 && all.whole < all.asked / 2);
}

/* A cut so near to an edge that the sum's slack decides is left to the whole row. */
static void test_slack(void **state)
{
	struct sampling p = plain;
	static struct row r;
	struct sampler *s;
	int wrong;

	(void)state;
	row_make(&r, 0, 6);
	p.top_p = 0.5f;
	assert_int_equal(sampler_new(&s, r.n), 0);
	for (wrong = 0; wrong < 2; wrong++) {
		double sum = 0, part = r.top.n > 0, edge;
		size_t i;

		for (i = 0; i < r.n; i++)
			sum += exp((double)r.x[i] - (double)r.top.top[0].logit);
		edge = part + exp((double)r.top.top[1].logit - (double)r.top.top[0].logit);
		/* exactly the first two: just enough, or just not */
		p.top_p = (float)(edge / sum * (wrong ? 1 + 1e-5 : 1 - 1e-5));
		r.top.sum = (float)(sum * (wrong ? 1 - 5e-5 : 1 + 5e-5));
		assert_int_equal(sampler_pick_top(s, &p, 0, &r.top, NULL, 0), SAMPLE_WHOLE_ROW);
		p.top_p = (float)(edge / sum * (wrong ? 1 + 1e-3 : 1 - 1e-3));
		assert_int_not_equal(sampler_pick_top(s, &p, 0, &r.top, NULL, 0), SAMPLE_WHOLE_ROW);
	}
	sampler_free(s);
}

static void test_nll(void **state)
{
	const float two[2] = { 0, 0 }, far[3] = { 1000, 0, -1000 }, bad[2] = { NAN, 0 };

	(void)state;
	assert_true(fabs(sample_nll(two, 2, 1) - log(2)) < 1e-15);
	assert_true(sample_nll(far, 3, 0) == 0);
	assert_true(sample_nll(far, 3, 2) == 2000);
	assert_true(fabs(sample_nll(logits, N, 4) - (log(2 * exp(3) + exp(1) + exp(2) + exp(-1) + 1 + exp(2.5)) - 3)) < 1e-14);
	assert_true(isnan(sample_nll(bad, 2, 1)));
	assert_true(isnan(sample_nll(two, 2, 2)));
	assert_true(isnan(sample_nll(two, 2, -1)));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_greedy), cmocka_unit_test(test_temperature), cmocka_unit_test(test_top_k),
		cmocka_unit_test(test_top_p), cmocka_unit_test(test_min_p), cmocka_unit_test(test_penalty),
		cmocka_unit_test(test_same_choice), cmocka_unit_test(test_uniform), cmocka_unit_test(test_strange_logits),
		cmocka_unit_test(test_nll), cmocka_unit_test(test_from_the_top), cmocka_unit_test(test_slack),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
