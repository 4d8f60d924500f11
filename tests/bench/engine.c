/*
 * What a model costs on a backend, without the daemon, as one object of JSON.
 *
 *     tests/bench/engine [--backend cpu|cuda] [--module FILE.so] [--threads N] [--isa NAME]
 *         [--window S+R] [--kv f16|q8] [--activation-bits 15|8] [--chunk N] [--steps N] [--prompt N] [--sessions N,N,...]
 *         [--rows NAME,NAME,...] [--stream N] [--bandwidth BYTES/S] [--rate OPS/S] MODEL.gguf
 *
 * Prefill; decode of one session in an empty window, in a full one, at the positions
 * 1,000 and 1,000,000, and of several sessions at once, in full windows and in empty
 * ones; --rows: only these, as the table of rows names them.  --stream: a full window
 * and N tokens after it, with a row for each hundredth part, whose last --steps tokens are
 * timed one by one, and those before them come in chunks; a second session whose window has
 * just become full, each time anew, takes turns with it, so that a noisy machine is noisy
 * for both.  Each row has
 * the bytes that a step must move (matrices once, and what the sessions see of their
 * caches) and the operations of its products; with --bandwidth and --rate, too, the
 * time that these alone would take, the floor.
 *
 * A cache is filled once and copied: what is in it does not change what it costs.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/model/gguf.h"
#include "tests/bench/usage.h"
#include "tests/golden/rig.h"

#define SESSIONS_MOST 256u
#define SINKS_AND(r) ((uint64_t)(r).n_sink + (r).n_recent)

struct options {
	const char *model, *backend, *module, *isa;
	unsigned n_thread;
	struct window window;
	const char *rows;                      /* NULL: all */
	enum kv_type kv;
	unsigned n_act_bit;
	uint32_t n_chunk, n_step, n_prompt, n_stream, sessions[8], n_sessions;
	double bandwidth, rate;
};

struct bench {
	struct options o;
	struct rig r;
	uint64_t weight_bytes, n_weight;       /* of the matrices that a token goes through */
	struct timeline t[SESSIONS_MOST];
	struct candidates tops[SESSIONS_MOST];
	double *times;                         /* of steps, seconds */
	bool rows;                             /* a row was printed */
};

/* ---- what must be moved ---- */

static void weights_count(struct bench *b)
{
	const struct gguf_tensor *t;
	struct reason why = { "", "" };
	struct gguf *g;
	size_t i;

	if (gguf_open(&g, b->o.model, &why))
		give_up(b->o.model, why.text);
	for (i = 0; (t = gguf_tensor_at(g, i)); i++) {
		const bool embd = t->name.n == 17 && !memcmp(t->name.data, "token_embd.weight", 17);

		if (t->ne[1] < 2 || (embd && gguf_tensor(g, "output.weight")))
			continue;
		b->weight_bytes += t->n_byte;
		b->n_weight += t->ne[0] * t->ne[1] * t->ne[2];
	}
	gguf_close(g);
}

/* Bytes of the cache that the token at t->pos sees. */
static uint64_t seen_bytes(const struct bench *b, const struct timeline *t)
{
	const struct model_info *m = model_info(b->r.model);
	uint64_t sum = 0, sinks, recent, pair;
	uint32_t l;

	for (l = 0; l < m->n_layer; l++) {
		const struct kv_layer *k = &m->kv_layers[l];
		const struct span s = window_span(t->window, k->local, b->o.n_chunk);
		const uint64_t lo = span_lo(s, t->pos, t->start);

		sinks = span_sinks(s, t->pos);
		recent = t->pos >= lo ? t->pos - lo + 1 : 0;
		/* eight bits have a scale for 32 values of a key and one for a value; sinks are halves */
		pair = b->o.kv == KV_Q8 ? 2 * k->head_dim + 2 + k->head_dim / 16 : 4 * k->head_dim;
		sum += (sinks * 4 * k->head_dim + recent * pair) * k->n_head_kv;
	}
	return sum;
}

/* ---- steps ---- */

static int32_t token(const struct bench *b, uint64_t pos)
{
	return (int32_t)(pos * 7919 % (b->r.n_vocab - 300) + 259);
}

/* One token of each of n sessions from first on, and the next ones' candidates, as the
 * daemon asks for them. */
static void step_of(struct bench *b, uint32_t first, uint32_t n)
{
	struct batch_row rows[SESSIONS_MOST];
	struct batch_seq seqs[SESSIONS_MOST];
	uint32_t outputs[SESSIONS_MOST], i;
	const struct batch batch = { .n_row = n, .n_seq = n, .n_output = n, .rows = rows, .seqs = seqs, .outputs = outputs };
	struct reason why = { "", "" };

	for (i = 0; i < n; i++) {
		struct timeline *t = &b->t[first + i];

		seqs[i] = (struct batch_seq){ first + i, t->window, t->start };
		rows[i] = (struct batch_row){ token(b, t->pos + i), i, t->pos };
		outputs[i] = i;
		t->pos++;
	}
	model_begin(b->r.model, b->r.kv, &batch);
	model_candidates(b->r.model, b->tops);
	if (model_end(b->r.model, &why))
		give_up("a step", why.text);
}

static void step(struct bench *b, uint32_t n)
{
	step_of(b, 0, n);
}

static void feed(struct bench *b, uint64_t n)
{
	int32_t *ids = calloc(n, sizeof *ids);
	uint64_t i;

	for (i = 0; i < n; i++)
		ids[i] = token(b, b->t[0].pos + i);
	rig_feed(&b->r, &b->t[0], ids, n, b->o.n_chunk, NULL, NULL);
	free(ids);
}

static int by_size(const void *x, const void *y)
{
	const double a = *(const double *)x, b = *(const double *)y;

	return (a > b) - (a < b);
}

static void floor_print(const struct bench *b, double bytes, double ops, double seconds)
{
	const double move = b->o.bandwidth > 0 ? bytes / b->o.bandwidth : 0, count = b->o.rate > 0 ? ops / b->o.rate : 0;
	const double least = move > count ? move : count;

	printf("\"bytes\": %.0f, \"operations\": %.0f, \"floor_seconds\": ", bytes, ops);
	if (least > 0)
		printf("%.9f, \"floor_of_measured\": %.4f", least, least / seconds);
	else
		printf("null, \"floor_of_measured\": null");
}

static void row_begin(struct bench *b, const char *what)
{
	printf("%s\n    {\"what\": \"%s\", ", b->rows ? "," : "", what);
	b->rows = true;
}

/* n_step steps of n sessions. */
static void decode(struct bench *b, const char *what, uint32_t n)
{
	const uint64_t pos = b->t[0].pos, bytes = b->weight_bytes + n * seen_bytes(b, &b->t[0]);
	const uint32_t n_step = b->o.n_step;
	double begin, all = 0;
	uint32_t i;

	for (i = 0; i < 3; i++)                /* what is made at the first of its kind */
		step(b, n);
	for (i = 0; i < n_step; i++) {
		begin = now();
		step(b, n);
		all += b->times[i] = now() - begin;
	}
	qsort(b->times, n_step, sizeof *b->times, by_size);
	row_begin(b, what);
	printf("\"sessions\": %u, \"position\": %llu, \"steps\": %u, \"seconds\": %.6f, \"tokens_per_second\": %.3f, "
	       "\"p50_seconds\": %.9f, \"p99_seconds\": %.9f, ", n, (unsigned long long)pos, n_step, all, n * n_step / all,
	       b->times[n_step / 2], b->times[(n_step * 99 - 1) / 100]);
	floor_print(b, (double)bytes, 2.0 * (double)b->n_weight * n, all / n_step);
	printf("}");
	fflush(stdout);
}

static void prefill(struct bench *b, const char *what, uint64_t n)
{
	double begin;

	begin = now();
	feed(b, n);
	begin = now() - begin;
	row_begin(b, what);
	printf("\"sessions\": 1, \"position\": %llu, \"chunk\": %u, \"tokens\": %llu, \"seconds\": %.6f, \"tokens_per_second\": %.3f, ",
	       (unsigned long long)(b->t[0].pos - n), b->o.n_chunk, (unsigned long long)n, begin, (double)n / begin);
	/* each chunk moves the matrices once (the head, too, is counted: only the last one needs it) */
	floor_print(b, (double)b->weight_bytes * (double)((n + b->o.n_chunk - 1) / b->o.n_chunk),
	            2.0 * (double)(b->n_weight - (uint64_t)model_info(b->r.model)->n_embd * b->r.n_vocab) * (double)n, begin);
	printf("}");
	fflush(stdout);
}

/* The first session's cache, for all others. */
static void spread(struct bench *b, uint32_t n)
{
	const struct kv_shape shape = {
		.type = b->o.kv, .n_layer = model_info(b->r.model)->n_layer, .layers = model_info(b->r.model)->kv_layers,
		.n_chunk = b->o.n_chunk, .most = b->o.window, .n_slot = b->r.p.n_slot,
	};
	const size_t size = b->r.ops->kv_bytes(&shape, b->o.window);
	void *bytes = malloc(size);
	uint32_t i;

	if (!bytes || b->r.ops->kv_read(b->r.kv, 0, bytes, size))
		give_up("a cache", "it could not be read");
	for (i = 1; i < n; i++) {
		if (b->r.ops->kv_write(b->r.kv, i, bytes, size))
			give_up("a cache", "it could not be written");
		b->t[i] = b->t[0];
	}
	free(bytes);
}

/* A full window that ends at pos. */
static void place_at(struct bench *b, struct window w, uint64_t pos)
{
	const uint64_t n = SINKS_AND(w);

	b->t[0] = (struct timeline){ .window = w };
	if (pos > n) {
		feed(b, w.n_sink ? w.n_sink : 1);
		b->t[0].start = b->t[0].pos = pos - w.n_recent;
	}
	feed(b, pos - b->t[0].pos);
}

static void row_prefill(struct bench *b)
{
	b->t[0] = (struct timeline){ .window = b->o.window };
	feed(b, b->o.n_prompt);                /* the first use of everything */
	b->t[0] = (struct timeline){ .window = b->o.window };
	prefill(b, "prefill", b->o.n_prompt);
}

static void row_empty(struct bench *b)
{
	b->t[0] = (struct timeline){ .window = b->o.window };
	decode(b, "decode_empty", 1);
}

static void row_at(struct bench *b, const char *what, uint64_t pos)
{
	const struct window w = { b->o.window.n_sink, b->o.window.n_recent < 900 ? b->o.window.n_recent : 900 };

	place_at(b, w, pos > SINKS_AND(w) + 4 ? pos : SINKS_AND(w) + 4);
	decode(b, what, 1);
}

static void row_1000(struct bench *b) { row_at(b, "decode_at_1000", 1000); }
static void row_1000000(struct bench *b) { row_at(b, "decode_at_1000000", 1000000); }

static void row_full(struct bench *b)
{
	place_at(b, b->o.window, SINKS_AND(b->o.window) + 1);
	decode(b, "decode_full", 1);
}

static void row_sessions(struct bench *b)
{
	uint32_t i;

	place_at(b, b->o.window, SINKS_AND(b->o.window) + 1);
	for (i = 0; i < b->o.n_sessions; i++) {
		spread(b, b->o.sessions[i]);
		decode(b, "decode_sessions", b->o.sessions[i]);
	}
}

static void row_sessions_empty(struct bench *b)
{
	uint32_t i, k;

	for (i = 0; i < b->o.n_sessions; i++) {
		for (k = 0; k < b->o.sessions[i]; k++)
			b->t[k] = (struct timeline){ .window = b->o.window };
		decode(b, "decode_sessions_empty", b->o.sessions[i]);
	}
}

static double timed(struct bench *b, uint32_t session)
{
	const double begin = now();

	step_of(b, session, 1);
	return now() - begin;
}

/* One session goes on for ever, or for as long as is asked. */
static void row_stream(struct bench *b)
{
	const uint32_t part = b->o.n_stream / 100 ? b->o.n_stream / 100 : 1;
	const uint32_t n = b->o.n_step < part ? b->o.n_step : part;
	double *young = calloc(n, sizeof *young), all;
	struct timeline full;
	uint32_t done, i;

	place_at(b, b->o.window, SINKS_AND(b->o.window) + 1);
	spread(b, 2);
	full = b->t[1];
	for (done = part; done <= b->o.n_stream; done += part) {
		feed(b, part - n);
		b->t[1] = full;
		for (i = 0, all = 0; i < n; i++) {
			young[i] = timed(b, 1);
			all += b->times[i] = timed(b, 0);
		}
		qsort(b->times, n, sizeof *b->times, by_size);
		qsort(young, n, sizeof *young, by_size);
		row_begin(b, "stream");
		printf("\"sessions\": 1, \"position\": %llu, \"tokens\": %u, \"steps\": %u, \"seconds\": %.6f, \"tokens_per_second\": %.3f, "
		       "\"p50_seconds\": %.9f, \"just_full_p50_seconds\": %.9f}",
		       (unsigned long long)b->t[0].pos, done, n, all, n / all, b->times[n / 2], young[n / 2]);
		fflush(stdout);
	}
	free(young);
}

static const struct row {
	const char *name;
	void (*run)(struct bench *b);
	bool asked;                            /* only where it is named */
} rows[] = {
	{ "prefill", row_prefill, false },
	{ "empty", row_empty, false },
	{ "at-1000", row_1000, false },
	{ "at-1000000", row_1000000, false },
	{ "full", row_full, false },
	{ "sessions", row_sessions, false },
	{ "sessions-empty", row_sessions_empty, true },
	{ "stream", row_stream, true },
};

static bool is_asked(const char *names, const char *name)
{
	const size_t n = strlen(name);
	const char *p;

	for (p = names; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		if (!strncmp(p, name, n) && (p[n] == ',' || !p[n]))
			return true;
	return false;
}

static void all_rows(struct bench *b)
{
	size_t i;

	for (i = 0; i < sizeof rows / sizeof rows[0]; i++)
		if (b->o.rows ? is_asked(b->o.rows, rows[i].name) : !rows[i].asked || (b->o.n_stream && rows[i].run == row_stream))
			rows[i].run(b);
}

/* ---- options ---- */

static void sessions_read(struct options *o, const char *text)
{
	char *end;

	for (o->n_sessions = 0; *text && o->n_sessions < 8; text = *end ? end + 1 : end) {
		const unsigned long n = strtoul(text, &end, 10);

		if (end == text || n == 0 || n > SESSIONS_MOST)
			give_up("--sessions", "numbers from 1 to 256, by commas");
		o->sessions[o->n_sessions++] = (uint32_t)n;
	}
}

static void options_read(struct options *o, int argc, char **argv)
{
	int i;

	*o = (struct options){ .backend = "cpu", .n_thread = 2, .window = { 4, 2000 }, .n_chunk = 256, .n_step = 128 };
	for (i = 1; i < argc; i++) {
		const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;

		if (strncmp(name, "--", 2)) {
			o->model = name;
			continue;
		}
		if (!value)
			give_up(name, "a value is missing");
		i++;
		if (!strcmp(name, "--backend"))
			o->backend = value;
		else if (!strcmp(name, "--module"))
			o->module = value;
		else if (!strcmp(name, "--isa"))
			o->isa = value;
		else if (!strcmp(name, "--threads"))
			o->n_thread = number(name, value);
		else if (!strcmp(name, "--activation-bits"))
			o->n_act_bit = number(name, value);
		else if (!strcmp(name, "--chunk"))
			o->n_chunk = number(name, value);
		else if (!strcmp(name, "--steps"))
			o->n_step = number(name, value);
		else if (!strcmp(name, "--prompt"))
			o->n_prompt = number(name, value);
		else if (!strcmp(name, "--stream"))
			o->n_stream = number(name, value);
		else if (!strcmp(name, "--rows"))
			o->rows = value;
		else if (!strcmp(name, "--kv") && (!strcmp(value, "f16") || !strcmp(value, "q8")))
			o->kv = value[0] == 'q' ? KV_Q8 : KV_F16;
		else if (!strcmp(name, "--sessions"))
			sessions_read(o, value);
		else if (!strcmp(name, "--bandwidth"))
			o->bandwidth = atof(value);
		else if (!strcmp(name, "--rate"))
			o->rate = atof(value);
		else if (!strcmp(name, "--window"))
			o->window = window_of(name, value);
		else
			give_up(name, "not an option, or not its value; tests/bench/engine.c says which there are");
	}
	if (!o->n_prompt)
		o->n_prompt = SINKS_AND(o->window) < 4 * o->n_chunk ? (uint32_t)SINKS_AND(o->window) : 4 * o->n_chunk;
	if (!o->model)
		give_up("usage", "tests/bench/engine [--backend cpu|cuda] [--module FILE.so] ... MODEL.gguf");
}

static const struct backend_ops *backend_find(const struct options *o)
{
	const struct backend_ops *ops;
	void *module;

	if (!strcmp(o->backend, "cpu"))
		return &backend_cpu;
	module = dlopen(o->module ? o->module : "./sinkd-cuda.so", RTLD_NOW | RTLD_LOCAL);
	if (!module)
		give_up("--module", dlerror());
	ops = dlsym(module, "sinkd_backend");
	if (!ops)
		give_up("--module", dlerror());
	return ops;
}

int main(int argc, char **argv)
{
	struct bench b = { .rows = false };
	struct rig_params p = { .n_slot = 1 };
	double begin;
	uint32_t i;

	options_read(&b.o, argc, argv);
	p.ops = backend_find(&b.o);
	p.type = b.o.kv;
	p.n_thread = b.o.n_thread;
	p.isa = b.o.isa;
	p.n_act_bit = b.o.n_act_bit;
	p.n_chunk = b.o.n_chunk;
	p.most = b.o.window;
	p.n_cache = b.o.window.n_sink + b.o.window.n_recent;
	for (i = 0; i < b.o.n_sessions; i++)
		p.n_slot = b.o.sessions[i] > p.n_slot ? b.o.sessions[i] : p.n_slot;
	if (b.o.n_stream && p.n_slot < 2)
		p.n_slot = 2;
	p.n_row = p.n_slot > p.n_chunk ? p.n_slot : p.n_chunk;
	b.times = calloc(b.o.n_step, sizeof *b.times);
	weights_count(&b);
	begin = now();
	if (!rig_open(&b.r, b.o.model, &p))
		return 77;
	printf("{\"model\": \"%s\", \"backend\": \"%s\", \"described\": \"%s\", \"kv\": \"%s\", \"window\": [%u, %u], \"load_seconds\": %.3f,\n"
	       "  \"weight_bytes\": %llu, \"weights\": %llu, \"bandwidth\": %.0f, \"rate\": %.0f, \"layers\": %u, \"rows\": [",
	       model_info(b.r.model)->name, b.r.ops->name, b.r.ops->describe(b.r.backend), b.o.kv == KV_Q8 ? "q8" : "f16", b.o.window.n_sink, b.o.window.n_recent,
	       now() - begin, (unsigned long long)b.weight_bytes, (unsigned long long)b.n_weight, b.o.bandwidth, b.o.rate,
	       model_info(b.r.model)->n_layer);
	all_rows(&b);
	printf("\n  ]}\n");
	rig_close(&b.r);
	free(b.times);
	return 0;
}
