/*
 * Decode steps of a tiny model as graphs: the same bits as chunks, which never are
 * graphs, far past the window; one graph launch and one wait a token; sessions that
 * come, go and change places.  Where the largest logits do, nothing else leaves the
 * device, and a look at all of them afterwards costs a copy and a wait, no more.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/model/sample.h"
#include "tests/cusim/modes.h"
#include "tests/golden/requantize.h"
#include "tests/golden/rig.h"

#define TOKENS 44u
#define SEQS 3u

static const struct rig_params params = { .n_chunk = 8, .type = KV_F16, .most = { 2, 12 } };

static bool one_launch(struct cusim_counts before)
{
	struct cusim_counts now = cusim_count();

	return now.queued == before.queued + 1 && now.graph_launches == before.graph_launches + 1 &&
	       now.waits == before.waits + 1 && now.graphs_made == before.graphs_made;
}

struct bench {
	struct rig r;
	struct kv *kv;
	size_t n_vocab;
	float *logits;             /* [SEQS][n_vocab] */
	struct sampler *sampler;
};

static bool bench_open(struct bench *b, const char *path)
{
	struct kv_shape shape = { .type = params.type, .n_chunk = params.n_chunk, .most = params.most, .n_slot = SEQS };
	struct backend_why why = { "" };

	if (!rig_open(&b->r, path, &params))
		return false;
	shape.n_layer = model_info(b->r.model)->n_layer;
	shape.layers = model_info(b->r.model)->kv_layers;
	b->n_vocab = b->r.n_vocab;
	b->logits = calloc(SEQS * b->n_vocab, sizeof *b->logits);
	if (sampler_new(&b->sampler, b->n_vocab) != 0)
		return false;
	return b->r.ops->kv_open(b->r.backend, &shape, NULL, &b->kv, &why) == 0;
}

static void bench_close(struct bench *b)
{
	b->r.ops->kv_close(b->r.backend, b->kv);
	rig_close(&b->r);
	free(b->logits);
	sampler_free(b->sampler);
}

/* n rows of one session, or one row each of several; all are outputs. */
static bool feed(struct bench *b, const uint32_t *slots, uint32_t n_seq, uint64_t pos, const int32_t *ids, uint32_t n,
                 float *logits, const struct forward_dump *dump)
{
	struct batch_row rows[8];
	struct batch_seq seqs[SEQS];
	uint32_t outputs[8], i;
	const struct batch batch = { .n_row = n, .n_seq = n_seq, .n_output = n, .rows = rows, .seqs = seqs, .outputs = outputs };
	struct reason why = { "", "" };

	for (i = 0; i < n_seq; i++)
		seqs[i] = (struct batch_seq){ slots[i], params.most, 0 };
	for (i = 0; i < n; i++) {
		rows[i] = (struct batch_row){ ids[i], n_seq > 1 ? i : 0, n_seq > 1 ? pos : pos + i };
		outputs[i] = i;
	}
	if (model_forward(b->r.model, b->kv, &batch, logits, dump, &why) == 0)
		return true;
	printf("FAILED a step: %s\n", why.text);
	return false;
}

static int32_t id_of(uint32_t seq, uint32_t i)
{
	return (int32_t)(1 + (seq * 37 + i * 11) % 200);
}

/* What each session's tokens give, in chunks of five: no graphs. */
static float *in_chunks(struct bench *b)
{
	float *all = calloc((size_t)SEQS * TOKENS * b->n_vocab, sizeof *all);
	struct cusim_counts before = cusim_count();
	uint32_t s, i, k, n;
	int32_t ids[5];

	for (s = 0; s < SEQS; s++)
		for (i = 0; i < TOKENS; i += n) {
			n = TOKENS - i < 5 ? TOKENS - i : 5;
			for (k = 0; k < n; k++)
				ids[k] = id_of(s, i + k);
			check(feed(b, &s, 1, i, ids, n, all + ((size_t)s * TOKENS + i) * b->n_vocab, NULL), "a chunk");
		}
	check(cusim_count().graph_launches == before.graph_launches, "chunks are no graphs");
	return all;
}

static void ignore(void *ctx, const char *name, uint32_t layer, const float *x, uint32_t n_row, uint32_t width)
{
	(void)name, (void)layer, (void)x, (void)n_row, (void)width;
	++*(unsigned *)ctx;
}

/* One session alone; a dump looks into step 20. */
static void alone(struct bench *b, const float *all)
{
	unsigned n_stage = 0, launches = 0;
	const struct forward_dump dump = { ignore, &n_stage };
	struct cusim_counts before;
	uint32_t i, slot = 1;
	bool same = true;
	int32_t id;

	for (i = 0; i < TOKENS && same; i++) {
		id = id_of(0, i);
		before = cusim_count();
		same = feed(b, &slot, 1, i, &id, 1, b->logits, i == 20 ? &dump : NULL) &&
		       memcmp(b->logits, all + (size_t)i * b->n_vocab, b->n_vocab * sizeof *all) == 0;
		launches += one_launch(before);
	}
	check(same, "token by token gives the bits of chunks (token %u)", i - 1);
	/* built at 1 and, after the dump, at 22 */
	check(launches == TOKENS - 5, "one launch and one wait a token: %u of %u", launches, TOKENS);
	check(n_stage > 0, "the dump was called");
}

/* Session s is in slot (s + turn) % SEQS of the batch's order, and some stay away. */
static void together(struct bench *b, const float *all)
{
	uint32_t step, s, k, m, slots[SEQS], who[SEQS];
	unsigned launches = 0;
	struct cusim_counts before;
	bool same = true;
	int32_t ids[SEQS];

	for (step = 0; step < TOKENS && same; step++) {
		m = step % 7 == 6 ? 2 : 3;          /* all are at the same position: who stays away ends */
		for (k = 0; k < m; k++) {
			s = who[k] = (k + step) % m;
			slots[k] = s;
			ids[k] = id_of(s, step);
		}
		if (m == 2) {                       /* the third alone */
			slots[2] = 2;
			ids[2] = id_of(2, step);
			same = feed(b, &slots[2], 1, step, &ids[2], 1, b->logits, NULL) &&
			       memcmp(b->logits, all + ((size_t)2 * TOKENS + step) * b->n_vocab, b->n_vocab * sizeof *all) == 0;
		}
		before = cusim_count();
		same = same && feed(b, slots, m, step, ids, m, b->logits, NULL);
		launches += one_launch(before);
		for (k = 0; k < m && same; k++)
			same = memcmp(b->logits + k * b->n_vocab, all + ((size_t)who[k] * TOKENS + step) * b->n_vocab,
			              b->n_vocab * sizeof *all) == 0;
	}
	check(same, "sessions together, two and three, give the bits of each alone (step %u)", step - 1);
	check(launches == TOKENS - 4, "one launch and one wait a step: %u of %u", launches, TOKENS);
}

/* A step of one session whose logits stay on the device: the token of the usual settings,
 * which is that of all logits; whole: these come, too. */
static int32_t choose(struct bench *b, uint64_t pos, int32_t id, bool whole)
{
	const struct batch_row row = { id, 0, pos };
	const struct batch_seq seq = { 1, params.most, 0 };
	const uint32_t output = 0;
	const struct batch batch = { .n_row = 1, .n_seq = 1, .n_output = 1, .rows = &row, .seqs = &seq, .outputs = &output };
	const struct sampling p = SAMPLING_DEFAULT;
	struct candidates top = { 0 };
	struct reason why = { "", "" };
	int32_t got;

	model_begin(b->r.model, b->kv, &batch);
	model_candidates(b->r.model, &top);
	got = sampler_pick_top(b->sampler, &p, pos, &top, NULL, 0);
	if (whole)
		model_logits(b->r.model, b->logits);
	return model_end(b->r.model, &why) == 0 ? got : -1;
}

/* The whole rows are looked at in every fifth step, and from 30 on in all of them: that
 * is a copy and a wait more, and the graph stays. */
static void from_the_top(struct bench *b, const float *all)
{
	const struct sampling p = SAMPLING_DEFAULT;
	const size_t row = b->n_vocab * sizeof *all;
	struct cusim_counts before, now;
	unsigned launches = 0, seen = 0, cheap = 0;
	float *copy = malloc(row);
	uint32_t i;
	bool same = true, whole;

	for (i = 0; i < TOKENS && same; i++) {
		whole = i % 5 == 4 || i >= 30;
		before = cusim_count();
		memcpy(copy, all + (size_t)i * b->n_vocab, row);
		same = choose(b, i, id_of(0, i), whole) == sampler_pick(b->sampler, &p, i, copy, NULL, 0) &&
		       (!whole || memcmp(b->logits, all + (size_t)i * b->n_vocab, row) == 0);
		now = cusim_count();
		/* at 0 there is a graph of before, which reads all logits in vain */
		cheap += now.bytes_back - before.bytes_back == sizeof(struct candidates) + (whole ? row : 0) &&
		         now.waits - before.waits == 1u + whole;
		launches += one_launch(before) && !whole;
		seen += now.graph_launches == before.graph_launches + 1 && now.graphs_made == before.graphs_made &&
		        now.queued == before.queued + 2 && whole;
	}
	check(same, "the largest logits choose as all do (token %u)", i - 1);
	check(cheap == TOKENS - 1, "nothing else comes back: %u of %u", cheap, TOKENS);
	/* two steps until there is a graph; whole rows: 4, 9, ... 29, 30 ... 43 */
	check(launches == 22 && seen == 20, "one launch a token: %u of 22, and with a second look %u of 20", launches, seen);
	free(copy);
}

/* What a step of one session queues, where all matrices are of one quantized format: the
 * copy of begin, embed and its layers, the last of which is followed by a sum and a norm.
 * planes: 1 where heads are no whole blocks, of which attention leaves no int8 form.  In
 * chunks it never does, and their bits are the same. */
static void nodes(const char *top, const char *model, unsigned planes)
{
	enum { NORM = 1, ATTEND = 2, CANDIDATES_AND_COPY = 3,
	       ATTENTION = NORM + 1 + 1 + ATTEND + 1,           /* q k v at once, store, attn_out */
	       MLP = NORM + 1 + 1 + 1 };                                 /* gate and up at once, glu, down */
	unsigned n_layer, expected;
	char name[2048];
	struct bench b;
	float *all;
	uint32_t i;
	int fd;

	snprintf(name, sizeof name, "%s/tests/golden/arch/%s.gguf", top, model);
	fd = requantize(name, QUANT_Q8_0);
	snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
	check(bench_open(&b, name), "the backend opens");
	all = in_chunks(&b);
	alone(&b, all);
	free(all);
	for (i = 0; i < 3; i++)
		check(choose(&b, i, id_of(0, i), false) >= 0, "a step");
	n_layer = model_info(b.r.model)->n_layer;
	/* the last layer's sum and norm are two, and select is nothing; then the sum and the norm of all, and the head */
	expected = 2 + n_layer * (ATTENTION + planes + MLP) + 1 + 2 + 1 + CANDIDATES_AND_COPY;
	check(cusim_count().graph_nodes == expected, "%u nodes in a step of %u layers: %u", expected, n_layer,
	      cusim_count().graph_nodes);
	bench_close(&b);
	close(fd);
}

static void run(const char *path, const char *mode)
{
	struct bench b;
	float *all;

	check(cusim_mode(mode), "the mode %s", mode);
	check(bench_open(&b, path), "the backend opens");
	all = in_chunks(&b);
	alone(&b, all);
	from_the_top(&b, all);
	together(&b, all);
	free(all);
	bench_close(&b);
}

int main(int argc, char **argv)
{
	const char *top = argc > 1 ? argv[1] : getenv("srcdir");
	char path[2048];

	snprintf(path, sizeof path, "%s/tests/data/tiny-llama.gguf", top ? top : ".");
	run(path, "poison,lazy,unreadable");
	nodes(top ? top : ".", "llama", 1);
	nodes(top ? top : ".", "mistral", 0);
	check(cusim_faults(NULL) == 0, "no faults of the device");
	return check_status();
}
