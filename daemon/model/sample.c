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
 *
 * Where a row's largest logits are known, and of the others a bound of their sum, the
 * same steps go over these: what the whole row would decide is either certain or said
 * not to be.
 */
#include "daemon/model/sample.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/error.h"

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

/* A positive logit is divided, a negative multiplied. */
static float penalised(float logit, float penalty)
{
	return logit > 0 ? logit / penalty : logit * penalty;
}

/* Each of the last tokens once; logits of all, or NULL: of the first n_cand candidates. */
static void penalise(struct sampler *s, float penalty, float *logits, size_t n_cand, const int32_t *last, size_t n_last)
{
	size_t i, n = n_last < SAMPLE_LAST ? n_last : SAMPLE_LAST;

	if (n > 0)
		last += n_last - n;
	for (i = 0; i < n; i++) {
		if (last[i] < 0 || (size_t)last[i] >= s->n_vocab || s->seen[last[i]])
			continue;
		s->seen[last[i]] = 1;
		if (logits != NULL)
			logits[last[i]] = penalised(logits[last[i]], penalty);
	}
	for (i = 0; i < n_cand; i++)
		if (s->seen[s->cands[i].id])
			s->cands[i].logit = penalised(s->cands[i].logit, penalty);
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

/* How many of n candidates weigh enough together; n + 1: all do not. */
static size_t enough(const struct sampler *s, size_t n, double weight)
{
	double part = 0;
	size_t i;

	for (i = 0; i < n; ) {
		part += s->weights[i++];
		if (part >= weight)
			return i;
	}
	return n + 1;
}

/* How many of n weighed candidates are not too light; n + 1: all, and perhaps more. */
static size_t heavy(const struct sampler *s, size_t n, double least)
{
	size_t i;

	for (i = 1; i < n; i++)
		if (!(s->weights[i] >= least))
			return i;
	return n + 1;
}

/* How many candidates top-p and then min-p leave, at least one, where the first n are
 * weighed and all weigh sum; n + 1: more than n. */
static size_t narrow(const struct sampler *s, const struct sampling *p, size_t n, double sum)
{
	size_t by_top = p->top_p < 1 ? enough(s, n, (double)p->top_p * sum) : n + 1;
	size_t by_min = p->min_p > 0 ? heavy(s, n, (double)p->min_p) : n + 1;

	return by_top < by_min ? by_top : by_min;
}

static bool narrows(const struct sampling *p)
{
	return p->top_p < 1 || p->min_p > 0;
}

/* One of n ordered candidates, n > 0. */
static int32_t draw(struct sampler *s, const struct sampling *p, uint64_t pos, size_t n)
{
	double left;
	size_t i;

	left = sample_uniform(p->seed, pos) * weigh(s, n, (double)p->temperature);
	for (i = 0; i + 1 < n; i++) {
		left -= s->weights[i];
		if (left < 0)
			break;
	}
	return s->cands[i].id;
}

/* The same, where they are all that top-k leaves. */
static int32_t narrow_and_draw(struct sampler *s, const struct sampling *p, uint64_t pos, size_t n)
{
	size_t few = narrows(p) ? narrow(s, p, n, weigh(s, n, 1)) : n;

	return draw(s, p, pos, few < n ? few : n);
}

static size_t top_k(const struct sampler *s, const struct sampling *p)
{
	return p->top_k > 0 && p->top_k < s->n_vocab ? p->top_k : s->n_vocab;
}

static bool penalises(const struct sampling *p)
{
	return p->repeat_penalty > 0 && p->repeat_penalty != 1;
}

int32_t sampler_pick(struct sampler *s, const struct sampling *p, uint64_t pos,
                     float *logits, const int32_t *last, size_t n_last)
{
	if (penalises(p))
		penalise(s, p->repeat_penalty, logits, 0, last, n_last);
	if (!(p->temperature > 0) || p->top_k == 1 || highest(logits, s->n_vocab) < 0)
		return highest(logits, s->n_vocab);
	return narrow_and_draw(s, p, pos, take_top(s, logits, top_k(s, p)));
}

/* ---- the chain over the candidates ---- */

/* A row of which the first candidates are known: s->cands. */
struct known {
	size_t n;                      /* nothing else comes before the last of these */
	bool all;                      /* nothing else is above minus infinity */
	double least, most;            /* what all weigh together, relative to the first */
};

static size_t without_infinities(const struct sampler *s, size_t n)
{
	while (n > 0 && !(s->cands[n - 1].logit > -INFINITY))
		n--;
	return n;
}

/* Others are behind the last and stay there; a candidate that falls behind it, too, may
 * be behind some of them. */
static void penalise_known(struct sampler *s, float penalty, struct known *k, const int32_t *last, size_t n_last)
{
	const struct candidate edge = s->cands[k->n - 1];
	const double was = s->cands[0].logit;

	penalise(s, penalty, NULL, k->n, last, n_last);
	qsort(s->cands, k->n, sizeof *s->cands, order);
	k->n = without_infinities(s, k->n);
	while (!k->all && k->n > 0 && before(&edge, &s->cands[k->n - 1]))
		k->n--;
	k->least = 0;
	k->most *= exp(was - s->cands[0].logit);
}

/* How many candidates are left by a cut that lies among them; 0: it may not. */
static size_t cut(struct sampler *s, const struct sampling *p, struct known k)
{
	double part = narrows(p) ? weigh(s, k.n, 1) : 0;
	size_t few, many;

	if (isinf(s->cands[0].logit) || !narrows(p))
		return 0;
	/* With top-k beyond them, all are fewer. */
	if (top_k(s, p) < s->n_vocab || k.least < part)
		k.least = part;
	few = narrow(s, p, k.n, k.least);
	many = narrow(s, p, k.n, k.most);
	return few == many && few <= k.n ? few : 0;
}

int32_t sampler_pick_top(struct sampler *s, const struct sampling *p, uint64_t pos,
                         const struct candidates *c, const int32_t *last, size_t n_last)
{
	struct known k;

	/* A NaN would be the first. */
	if (c->n == 0 || !(c->top[0].logit > -INFINITY))
		return -1;
	memcpy(s->cands, c->top, c->n * sizeof *s->cands);
	k.n = without_infinities(s, c->n);
	k.all = k.n < c->n || c->n == s->n_vocab;
	k.least = (double)c->sum * (1 - CANDIDATES_SLACK);
	k.most = (double)c->sum * (1 + CANDIDATES_SLACK);
	if (penalises(p)) {
		if (!k.all && !(p->repeat_penalty > 1))
			return SAMPLE_WHOLE_ROW;
		penalise_known(s, p->repeat_penalty, &k, last, n_last);
	}
	if (k.n == 0)
		return k.all ? -1 : SAMPLE_WHOLE_ROW;
	if (!(p->temperature > 0) || p->top_k == 1)
		return s->cands[0].id;
	if (k.all || top_k(s, p) <= k.n)
		return narrow_and_draw(s, p, pos, top_k(s, p) < k.n ? top_k(s, p) : k.n);
	k.n = cut(s, p, k);
	return k.n > 0 ? draw(s, p, pos, k.n) : SAMPLE_WHOLE_ROW;
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
