/*
 * A step as a list of plain records, and a decode step as one graph launch.
 *
 * Everything that a step queues comes here as (function, bytes).  The first step of
 * a class (the same caches, the same number of sessions, one row each) runs as it
 * comes and is recorded; the second finds the records and captures them as a graph.
 * From then on the graph starts at the step's first operation that is the recorded
 * one, and the others are only compared with the records while the device works.
 *
 * The hard idea: the graph is a guess of what the caller is going to ask for, and
 * guesses may be wrong.  At the first operation that differs, what was right so far
 * is run once more, in order, and the step goes on as it comes.  Acts hold nothing
 * between steps and a position's keys and values are stored before they are read
 * (backend.h), so what ran too early is overwritten before anyone can see it.
 *
 * Every number of sessions has a graph of its own: its second step is a capture, and
 * its records are some six KiB a layer on the host; the numbers used last keep theirs.
 * To pad steps to a few sizes, rows of nobody would need a slot that they may write, be
 * left out of what comes back and be computed by every operation.
 *
 * A record holds pointers to the device: all records go whenever memory does.  It
 * must not know what a record does.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/cuda.h"

#define GRAPHS_MOST 32u
#define RECORD_BYTES_MOST (64u << 20)

struct record {
	void (*run)(struct backend *b, const char *what, const void *bytes);
	const char *what;
	size_t n;                        /* bytes behind it, padded to 16 */
	size_t unused;
};
static_assert(sizeof(struct record) % 16 == 0, "what is behind a record is aligned");

struct graph {
	struct kv *kv;                   /* the class: these three */
	uint32_t n_row;
	bool exact;
	bool hopeless;                   /* the device did not take it */
	uint64_t used;                   /* clock of its last step; 0: the place is free */
	uint8_t *records;
	size_t n, room;                  /* bytes */
	cudaGraphExec_t exec;
};

enum step_state { AS_IT_COMES, RECORDS, COMPARES };

struct graphs {
	struct graph all[GRAPHS_MOST];
	struct graph *now;               /* of the running step; NULL: not of a class */
	enum step_state state;
	bool closed;                     /* all is recorded, or the step is not one to repeat */
	size_t at;                       /* COMPARES: bytes of records that were right */
	unsigned n_right;                /* of them */
	uint64_t clock;
};

int cuda_graphs_new(struct backend *b)
{
	b->graphs = (struct graphs *)calloc(1, sizeof(*b->graphs));
	return b->graphs ? 0 : -1;
}

/* The device does not use it now. */
static void forget(struct graph *g)
{
	if (g->exec)
		cudaGraphExecDestroy(g->exec);
	free(g->records);
	memset(g, 0, sizeof(*g));
}

static void run_records(struct backend *b, const struct graph *g, size_t n)
{
	for (size_t at = 0; at < n && !b->rc;) {
		const struct record *r = reinterpret_cast<const struct record *>(g->records + at);

		r->run(b, r->what, r + 1);
		at += sizeof(*r) + r->n;
	}
	b->queued = b->queued || n > 0;
}

/* The guess was wrong from here on. */
static void as_it_comes(struct backend *b)
{
	struct graphs *s = b->graphs;

	s->state = RECORDS;
	s->now->n = s->at;
	run_records(b, s->now, s->at);
}

void cuda_graphs_drop(struct backend *b)
{
	struct graphs *s = b->graphs;

	if (!s)
		return;
	if (s->now && s->state == COMPARES)
		as_it_comes(b);
	cudaStreamSynchronize(b->stream);
	s->now = NULL;
	s->state = AS_IT_COMES;
	for (struct graph &g : s->all)
		forget(&g);
}

void cuda_graphs_free(struct backend *b)
{
	cuda_graphs_drop(b);
	free(b->graphs);
	b->graphs = NULL;
}

void cuda_graphs_never(struct backend *b)
{
	struct graphs *s = b->graphs;

	if (!s->now)
		return;
	if (s->state == COMPARES)
		as_it_comes(b);
	s->state = AS_IT_COMES;
	s->now->n = 0;
}

/* In COMPARES, what the graph did beyond may have spoiled what is to be copied. */
void cuda_graphs_close(struct backend *b)
{
	struct graphs *s = b->graphs;

	if (!s->now)
		return;
	if (s->state == COMPARES && s->at != s->now->n)
		as_it_comes(b);
	s->closed = true;
}

/* ---- records ---- */

static void append(struct backend *b, const struct record *r, const void *bytes, size_t n)
{
	struct graph *g = b->graphs->now;
	const size_t need = g->n + sizeof(*r) + r->n;
	uint8_t *p;

	if (need > g->room) {
		const size_t room = need > 2 * g->room ? need : 2 * g->room;

		p = room <= RECORD_BYTES_MOST ? (uint8_t *)realloc(g->records, room) : NULL;
		if (!p) {
			cuda_graphs_never(b);
			return;
		}
		g->records = p;
		g->room = room;
	}
	p = g->records + g->n;
	memcpy(p, r, sizeof(*r));
	memset(p + sizeof(*r) + n, 0, r->n - n);
	memcpy(p + sizeof(*r), bytes, n);
	g->n = need;
}

static bool recorded(const struct graphs *s, const struct record *r, const void *bytes, size_t n)
{
	const struct record *old = reinterpret_cast<const struct record *>(s->now->records + s->at);

	return s->at < s->now->n && old->run == r->run && old->n == r->n && memcmp(old + 1, bytes, n) == 0;
}

void cuda_work(struct backend *b, const char *what, void (*run)(struct backend *, const char *, const void *),
               const void *bytes, size_t n)
{
	const struct record r = { run, what, (n + 15) / 16 * 16, 0 };
	struct graphs *s = b->graphs;

	if (b->rc)
		return;
	if (s && s->closed)
		cuda_graphs_never(b);
	if (s && s->state == COMPARES) {
		if (recorded(s, &r, bytes, n)) {
			s->at += sizeof(r) + r.n;
			/* the first is begin's copy, the second the first operation */
			if (++s->n_right == 2) {
				b->queued = true;
				cuda_good(b, cudaGraphLaunch(s->now->exec, b->stream), "a step");
			}
			return;
		}
		as_it_comes(b);
	}
	if (s && s->state == RECORDS)
		append(b, &r, bytes, n);
	b->queued = true;
	run(b, what, bytes);
}

/* ---- a step ---- */

/* Captures what is recorded; the step's error stays what it was. */
static void capture(struct backend *b, struct graph *g)
{
	cudaGraph_t graph = NULL;
	bool good = cudaStreamBeginCapture(b->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess;

	if (good) {
		run_records(b, g, g->n);
		good = cudaStreamEndCapture(b->stream, &graph) == cudaSuccess && b->rc == 0 && graph
		       && cudaGraphInstantiate(&g->exec, graph, 0) == cudaSuccess;
	}
	if (graph)
		cudaGraphDestroy(graph);
	if (!good) {
		g->exec = NULL;
		g->hopeless = true;
		b->rc = 0;
		cudaGetLastError();
	}
	b->queued = false;
}

static struct graph *find(struct graphs *s, struct kv *kv, const struct batch *batch)
{
	struct graph *oldest = &s->all[0];

	for (struct graph &g : s->all) {
		if (g.used && g.kv == kv && g.n_row == batch->n_row && g.exact == batch->exact)
			return &g;
		if (g.used < oldest->used)
			oldest = &g;
	}
	forget(oldest);
	oldest->kv = kv;
	oldest->n_row = batch->n_row;
	oldest->exact = batch->exact;
	return oldest;
}

void cuda_graphs_begin(struct backend *b, struct kv *kv, const struct batch *batch)
{
	struct graphs *s = b->graphs;

	s->now = NULL;
	s->state = AS_IT_COMES;
	s->closed = false;
	s->at = s->n_right = 0;
	if (!kv || batch->n_seq != batch->n_row || batch->n_output != batch->n_row)
		return;
	s->now = find(s, kv, batch);
	s->now->used = ++s->clock;
	if (s->now->n && !s->now->exec && !s->now->hopeless)
		capture(b, s->now);
	if (s->now->hopeless)
		s->now = NULL;
	else
		s->state = s->now->exec ? COMPARES : RECORDS;
}

void cuda_graphs_end(struct backend *b)
{
	struct graphs *s = b->graphs;
	struct graph *g = s->now;

	if (b->rc)
		cuda_graphs_drop(b);
	else if (g && s->state == COMPARES && s->at != g->n)
		forget(g);               /* a step that is the beginning of another */
	else if (g && s->state != COMPARES && g->exec) {
		cudaGraphExecDestroy(g->exec);
		g->exec = NULL;
	}
	if (g && !b->rc && s->state == AS_IT_COMES)
		g->n = 0;
	s->now = NULL;
	s->state = AS_IT_COMES;
}
