/*
 * Who else is in a batch changes nothing: tokens of several sessions decoded in one
 * batch against each of them alone, bitwise; with other windows, far past them, and
 * beside a long chunk of somebody else.  And a session that is built anew from its
 * last tokens, as daemon/session/schedule.c jumps, says what it said: bitwise where
 * the backend promises that, else every log-probability within REBUILT.
 *
 *   together [TOP [MODEL]]
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/golden/rig.h"

#define SESSIONS 6u
#define CHUNK 80u                /* of the session beside them */
#define OTHER (2 * SESSIONS)     /* its slot */
#define REBUILT 5e-2

static const struct { struct window window; uint32_t n_token; } sessions[SESSIONS] = {
	{ { 4, 12 }, 21 }, { { 0, 16 }, 40 }, { { 8, 8 }, 33 }, { { 2, 24 }, 30 }, { { 4, 12 }, 5 }, { { 1, 30 }, 47 },
};

/* Which sessions decode, and how many tokens of another stand before which of them; after
 * all of them where the backend is not bitwise (backend.h). */
static const struct { uint32_t first, n, at, n_chunk; bool exact; } steps[] = {
	{ 0, 6, 0, 0, false }, { 1, 2, 0, 0, false }, { 0, 6, 6, CHUNK, false }, { 0, 3, 0, 17, false },
	{ 2, 4, 2, CHUNK, true }, { 0, 6, 0, 0, true },
};

struct place { struct timeline t; uint32_t slot; };

struct desk {
	struct rig r;
	const struct vectors *v;
	const char *name;
	struct place together[SESSIONS], alone[SESSIONS], other;
	struct batch_row rows[CHUNK + SESSIONS];
	struct batch_seq seqs[SESSIONS + 1];
	uint32_t outputs[SESSIONS];
	struct batch b;
};

static int32_t token(const struct desk *d, uint32_t slot, uint64_t pos)
{
	return d->v->tokens[(pos * (slot % SESSIONS + 1) + slot % SESSIONS) % d->v->n_token];
}

static void batch_begin(struct desk *d, bool exact)
{
	d->b = (struct batch){ .rows = d->rows, .seqs = d->seqs, .outputs = d->outputs, .exact = exact };
}

/* n more tokens of a session; want: the last one's logits. */
static void batch_add(struct desk *d, struct place *p, uint32_t n, bool want)
{
	uint32_t i;

	d->seqs[d->b.n_seq] = (struct batch_seq){ p->slot, p->t.window, p->t.start };
	for (i = 0; i < n; i++, p->t.pos++)
		d->rows[d->b.n_row++] = (struct batch_row){ token(d, p->slot, p->t.pos), d->b.n_seq, p->t.pos };
	if (want)
		d->outputs[d->b.n_output++] = d->b.n_row - 1;
	d->b.n_seq++;
}

static void batch_run(struct desk *d)
{
	struct reason why = { "", "" };

	if (model_forward(d->r.model, d->r.kv, &d->b, d->r.logits, NULL, &why)) {
		printf("FAILED a forward pass: %s: %s\n", why.name, why.text);
		exit(1);
	}
}

/* Each session twice: computed once, the cache copied into another slot. */
static void fill(struct desk *d)
{
	const struct kv_shape shape = {
		.type = KV_F16, .n_layer = model_info(d->r.model)->n_layer, .layers = model_info(d->r.model)->kv_layers,
		.n_chunk = CHUNK, .most = d->r.p.most, .n_slot = d->r.p.n_slot,
	};
	uint32_t i, part;

	for (i = 0; i < SESSIONS; i++) {
		const size_t n = d->r.ops->kv_bytes(&shape, sessions[i].window);
		void *bytes = malloc(n);

		d->together[i] = (struct place){ { .window = sessions[i].window }, i };
		while (d->together[i].t.pos < sessions[i].n_token) {
			part = sessions[i].n_token - (uint32_t)d->together[i].t.pos;
			batch_begin(d, false);
			batch_add(d, &d->together[i], part < 19 ? part : 19, false);
			batch_run(d);
		}
		check(d->r.ops->kv_read(d->r.kv, i, bytes, n) == 0 && d->r.ops->kv_write(d->r.kv, SESSIONS + i, bytes, n) == 0,
		      "%s %u+%u: a cache is copied", d->name, sessions[i].window.n_sink, sessions[i].window.n_recent);
		d->alone[i] = d->together[i];
		d->alone[i].slot += SESSIONS;
		free(bytes);
	}
	d->other = (struct place){ { .window = { 4, 20 } }, OTHER };
}

static float furthest_logit(const float *a, const float *b, size_t n)
{
	float most = 0;
	size_t i;

	for (i = 0; i < n; i++)
		most = fabsf(a[i] - b[i]) > most || isnan(a[i]) ? fabsf(a[i] - b[i]) : most;
	return most;
}

static void step(struct desk *d, size_t s)
{
	const size_t n = d->r.n_vocab;
	const uint32_t at = d->r.ops->bitwise ? steps[s].at : steps[s].n;
	float *want = malloc(steps[s].n * n * sizeof *want), far = 0;
	bool same = true;
	uint32_t i;

	batch_begin(d, steps[s].exact);
	for (i = 0; i <= steps[s].n; i++) {
		if (steps[s].n_chunk && i == at)
			batch_add(d, &d->other, steps[s].n_chunk, false);
		if (i < steps[s].n)
			batch_add(d, &d->together[steps[s].first + i], 1, true);
	}
	batch_run(d);
	memcpy(want, d->r.logits, steps[s].n * n * sizeof *want);
	for (i = 0; i < steps[s].n; i++) {
		batch_begin(d, steps[s].exact);
		batch_add(d, &d->alone[steps[s].first + i], 1, true);
		batch_run(d);
		same = same && !memcmp(want + i * n, d->r.logits, n * sizeof *want);
		far = fmaxf(far, furthest_logit(want + i * n, d->r.logits, n));
	}
	check(same, "%s%s: %u sessions%s %u tokens of another, the bits of each alone (furthest %.2g)", d->name,
	      steps[s].exact ? " exact" : "", steps[s].n, steps[s].n_chunk ? " and" : ", ", steps[s].n_chunk, (double)far);
	free(want);
}

static struct rig rig(const char *path, struct window most, uint32_t n_slot)
{
	const struct rig_params p = {
		.n_thread = 2, .n_chunk = CHUNK, .n_row = CHUNK + SESSIONS, .n_slot = n_slot, .type = KV_F16, .most = most,
	};
	struct rig r;

	if (!rig_open(&r, path, &p))
		exit(1);
	return r;
}

static void together(const char *name, const char *path, const struct vectors *v)
{
	struct desk d = { .r = rig(path, (struct window){ 8, 30 }, 2 * SESSIONS + 1), .v = v, .name = name };
	size_t s;

	fill(&d);
	for (s = 0; s < sizeof steps / sizeof *steps; s++)
		step(&d, s);
	rig_close(&d.r);
}

/* out[i] = log p(i) */
static void log_softmax(const float *logits, size_t n, double *out)
{
	double most = (double)logits[0], sum = 0;
	size_t i;

	for (i = 0; i < n; i++)
		most = fmax(most, (double)logits[i]);
	for (i = 0; i < n; i++)
		sum += exp((double)logits[i] - most);
	for (i = 0; i < n; i++)
		out[i] = (double)logits[i] - most - log(sum);
}

/* The furthest log-probability of a session that holds the head and the last n tokens. */
static double again(struct rig *r, const struct vectors *v, size_t n_all, struct window w, size_t n, const float *want)
{
	double *a = calloc(r->n_vocab, sizeof *a), *b = calloc(r->n_vocab, sizeof *b), far = 0;
	struct timeline t = { .window = w };
	size_t i;

	rig_feed(r, &t, v->tokens, w.n_sink, CHUNK, NULL, NULL);
	t.start = t.pos = n_all - n;
	rig_feed(r, &t, v->tokens + t.pos, n, CHUNK, NULL, NULL);
	log_softmax(want, r->n_vocab, a);
	log_softmax(r->logits, r->n_vocab, b);
	for (i = 0; i < r->n_vocab; i++)
		far = fabs(a[i] - b[i]) > far || isnan(b[i]) ? fabs(a[i] - b[i]) : far;
	if (r->ops->bitwise && memcmp(want, r->logits, r->n_vocab * sizeof *want) && far == 0)
		far = 1e-9;
	free(a);
	free(b);
	return far;
}

static void rebuilt(const char *name, const char *path, const struct vectors *v)
{
	const struct window w = { 4, 12 };
	struct rig r = rig(path, w, 1);
	const double most = r.ops->bitwise ? 0 : REBUILT;
	const size_t bound = model_replay(r.model, w), n = bound + w.n_sink + 20;
	struct timeline t = { .window = w };
	float *want = calloc(r.n_vocab, sizeof *want);
	double far;

	rig_feed(&r, &t, v->tokens, n, 1, NULL, NULL);            /* token by token: never built anew */
	memcpy(want, r.logits, r.n_vocab * sizeof *want);
	far = again(&r, v, n, w, bound, want);
	check(far <= most, "%s %u+%u: from its last %zu of %zu tokens every log-probability within %g (furthest %.2g)", name,
	      w.n_sink, w.n_recent, bound, n, most, far);
	far = again(&r, v, n, w, 8, want);
	check(far > REBUILT, "%s: from the last 8 it says something else (furthest %.2g)", name, far);
	free(want);
	rig_close(&r);
}

static void model(const char *top, const char *name)
{
	char folder[2048], path[2048], file[64];
	struct vectors v;

	snprintf(folder, sizeof folder, "%s/tests/golden", top);
	snprintf(path, sizeof path, "%s/tests/data/%s.gguf", top, name);
	snprintf(file, sizeof file, "%s.json", name);
	vectors_read(&v, folder, file);
	together(name, path, &v);
	rebuilt(name, path, &v);
	vectors_free(&v);
}

int main(int argc, char **argv)
{
	static const char *const names[] = { "tiny-llama", "tiny-gemma3" };
	const char *top = argc > 1 ? argv[1] : getenv("srcdir");

	for (size_t i = 0; i < 2; i++)
		if (argc < 3 || !strcmp(argv[2], names[i]))
			model(top ? top : ".", names[i]);
	return check_status();
}
