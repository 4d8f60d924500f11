/*
 * Logits -> a token.
 *
 * The one hard idea: nothing here remembers anything.  The one random number of a
 * choice is a hash of (seed, position), and candidates are ordered by (logit
 * falling, id rising), so that a choice depends on its arguments alone and a
 * generation that was cut off goes on with the very tokens.
 *
 * Order, as llama.cpp's default chain: penalty, top-k, top-p, min-p, temperature.
 * So top-p and min-p look at the probabilities at temperature 1, and the last step
 * draws from what is left at the temperature asked for.  Sums are doubles, in the
 * order of candidates.
 */
#include "daemon/model/sample.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/error.h"

struct candidate { float logit; int32_t id; };

struct sampler {
	size_t n_vocab;
	struct candidate *cands;       /* [n_vocab] */
	double *weights;               /* [n_vocab] exp(logit - the highest) */
	uint8_t *seen;                 /* [n_vocab] penalised already; zero between calls */
};

int sampler_new(struct sampler **out, size_t n_vocab)
{
	struct sampler *s = calloc(1, sizeof *s);

	*out = NULL;
	if (!s)
		return ERROR(-ENOMEM);
	s->n_vocab = n_vocab;
	s->cands = calloc(n_vocab, sizeof *s->cands);
	s->weights = calloc(n_vocab, sizeof *s->weights);
	s->seen = calloc(n_vocab, 1);
	if (!s->cands || !s->weights || !s->seen) {
		sampler_free(s);
		return ERROR(-ENOMEM);
	}
	*out = s;
	return 0;
}

void sampler_free(struct sampler *s)
{
	if (!s)
		return;
	free(s->cands);
	free(s->weights);
	free(s->seen);
	free(s);
}

/* ---- randomness ---- */

/* SplitMix64's finalizer: a bijection that scatters every bit. */
static uint64_t scatter(uint64_t z)
{
	z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
	return z ^ z >> 31;
}

/* In [0, 1), 53 bits; a pure function, different streams for different seeds: the
 * seed is scattered before the position is added, so that (seed, pos + 1) is not
 * (seed + 1, pos). */
double sample_uniform(uint64_t seed, uint64_t pos)
{
	uint64_t z = scatter(seed + UINT64_C(0x9E3779B97F4A7C15));

	z = scatter(z + pos * UINT64_C(0xD1342543DE82EF95) + UINT64_C(0x2545F4914F6CDD1D));
	return (double)(z >> 11) * 0x1p-53;
}

/* ---- the chain ---- */

/* Each of the last tokens once: a positive logit is divided, a negative multiplied. */
static void penalise(struct sampler *s, float penalty, float *logits, const int32_t *last, size_t n_last)
{
	size_t i, n = n_last < SAMPLE_LAST ? n_last : SAMPLE_LAST;

	last += n_last - n;
	for (i = 0; i < n; i++) {
		if (last[i] < 0 || (size_t)last[i] >= s->n_vocab || s->seen[last[i]])
			continue;
		s->seen[last[i]] = 1;
		logits[last[i]] = logits[last[i]] > 0 ? logits[last[i]] / penalty : logits[last[i]] * penalty;
	}
	for (i = 0; i < n; i++)
		if (last[i] >= 0 && (size_t)last[i] < s->n_vocab)
			s->seen[last[i]] = 0;
}

/* The first of the highest; -1: a NaN, or nothing above minus infinity. */
static int32_t highest(const float *logits, size_t n)
{
	int32_t best = -1;
	size_t i;

	for (i = 0; i < n; i++) {
		if (isnan(logits[i]))
			return -1;
		if (logits[i] > -INFINITY && (best < 0 || logits[i] > logits[best]))
			best = (int32_t)i;
	}
	return best;
}

/* a comes before b */
static bool before(const struct candidate *a, const struct candidate *b)
{
	return a->logit != b->logit ? a->logit > b->logit : a->id < b->id;
}

static int order(const void *a, const void *b)
{
	return before(a, b) ? -1 : 1;
}

/* Restores the heap whose root (the last in order) is at 0, below place i. */
static void sink_down(struct candidate *c, size_t n, size_t i)
{
	size_t child;
	struct candidate x = c[i];

	while ((child = 2 * i + 1) < n) {
		if (child + 1 < n && before(&c[child], &c[child + 1]))
			child++;
		if (!before(&x, &c[child]))
			break;
		c[i] = c[child];
		i = child;
	}
	c[i] = x;
}

/* The first k in order, ordered: a heap of k whose root is the worst kept. */
static size_t take_top(struct sampler *s, const float *logits, size_t k)
{
	struct candidate x, *c = s->cands;
	size_t i, n = 0;

	for (i = 0; i < s->n_vocab; i++) {
		x = (struct candidate){ logits[i], (int32_t)i };
		if (!(x.logit > -INFINITY))
			continue;
		if (n < k) {
			c[n++] = x;
			if (n == k && k < s->n_vocab)
				for (size_t j = k / 2; j-- > 0;)
					sink_down(c, k, j);
		} else if (before(&x, &c[0])) {
			c[0] = x;
			sink_down(c, k, 0);
		}
	}
	qsort(c, n, sizeof *c, order);
	return n;
}

/* Fills weights relative to the first candidate; their sum. */
static double weigh(struct sampler *s, size_t n, double temperature)
{
	double sum = 0, top = s->cands[0].logit;
	size_t i;

	for (i = 0; i < n; i++) {
		/* Where the first is infinite, the first alone counts. */
		s->weights[i] = i == 0 ? 1 : exp((s->cands[i].logit - top) / temperature);
		if (isnan(s->weights[i]))
			s->weights[i] = 0;
		sum += s->weights[i];
	}
	return sum;
}

/* How many of n ordered candidates top-p and then min-p leave; at least one. */
static size_t narrow(struct sampler *s, const struct sampling *p, size_t n)
{
	double sum, part = 0;
	size_t i;

	if (!(p->top_p < 1) && !(p->min_p > 0))
		return n;
	sum = weigh(s, n, 1);
	if (p->top_p < 1) {
		for (i = 0; i < n; ) {
			part += s->weights[i++];
			if (part >= (double)p->top_p * sum)
				break;
		}
		n = i;
	}
	if (p->min_p > 0) {
		for (i = 1; i < n && s->weights[i] >= (double)p->min_p; i++)
			;
		n = i;
	}
	return n;
}

int32_t sampler_pick(struct sampler *s, const struct sampling *p, uint64_t pos,
                     float *logits, const int32_t *last, size_t n_last)
{
	double left;
	size_t i, n;

	if (p->repeat_penalty > 0 && p->repeat_penalty != 1)
		penalise(s, p->repeat_penalty, logits, last, n_last);
	if (!(p->temperature > 0) || p->top_k == 1 || highest(logits, s->n_vocab) < 0)
		return highest(logits, s->n_vocab);
	n = take_top(s, logits, p->top_k > 0 && p->top_k < s->n_vocab ? p->top_k : s->n_vocab);
	n = narrow(s, p, n);
	left = sample_uniform(p->seed, pos) * weigh(s, n, (double)p->temperature);
	for (i = 0; i + 1 < n; i++) {
		left -= s->weights[i];
		if (left < 0)
			break;
	}
	return s->cands[i].id;
}

double sample_nll(const float *logits, size_t n_vocab, int32_t id)
{
	int32_t best = highest(logits, n_vocab);
	double sum = 0;
	size_t i;

	if (best < 0 || id < 0 || (size_t)id >= n_vocab)
		return NAN;
	for (i = 0; i < n_vocab; i++)
		sum += exp((double)logits[i] - (double)logits[best]);
	return log(sum) - ((double)logits[id] - (double)logits[best]);
}
