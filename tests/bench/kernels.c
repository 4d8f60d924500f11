/*
 * What the kernels cost: products by shape and format (GB/s of packed weights),
 * attention by window, and whole steps of a model of SmolLM2-135M's shapes with
 * random weights.  Writes CSV.
 *
 *   tests/bench/kernels [--isa NAME] [--threads N] [--activation-bits 15|8] [--quick] [--cpu]
 *                       [--steps] [--attend] [--products]
 *
 * --cpu: times are the process's processor time, for one thread on a busy machine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/bench/usage.h"
#include "tests/kernels/desk.h"

static const struct backend_ops *const cpu = &backend_cpu;

enum { N_EMBD = 576, N_FF = 1536, N_HEAD = 9, N_HEAD_KV = 3, HEAD_DIM = 64, N_VOCAB = 49152, N_LAYER = 30,
       CHUNK = 256 };

static struct place place = { NULL, 0, 0 };
static double budget = 0.4;              /* seconds a number */
static clockid_t watch = CLOCK_MONOTONIC;

static double now(void)
{
	struct timespec t;

	clock_gettime(watch, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static struct batch_row rows[CHUNK];
static struct batch_seq seq = { 0, { 4, 252 }, 0 };
static uint32_t last_output;
static struct batch batch = { .n_seq = 1, .n_output = 1, .rows = rows, .seqs = &seq, .outputs = &last_output };

static void set_rows(uint32_t n, uint64_t pos)
{
	for (uint32_t i = 0; i < n; i++)
		rows[i] = (struct batch_row){ (int32_t)((pos + i) % 4096), 0, pos + i };
	batch.n_row = n;
	last_output = n - 1;
}

static struct weight *random_weight(struct backend *b, uint32_t type, uint32_t n_in, uint32_t n_out)
{
	struct rng r = { n_in + n_out };
	struct matrix *m = matrix_random(&r, type, n_in, n_out, 0.1f);   /* kept: embed reads it */

	return matrix_load(b, m);
}

static void bench_product(uint32_t type, uint32_t n_in, uint32_t n_out, uint32_t n_row)
{
	struct backend *b = place_open(place, CHUNK);
	enum { N_COPY = 64 };
	struct rng r = { n_in + n_out };
	struct matrix *m = matrix_random(&r, type, n_in, n_out, 0.1f);
	struct weight *w[N_COPY];
	size_t bytes = 0, n_copy = 0, count = 0;
	struct act *x, *y;
	double start, t;

	/* as many as do not fit into the caches */
	while (n_copy < N_COPY && bytes < (size_t)100 << 20) {
		w[n_copy] = matrix_load(b, m);
		bytes += cpu->weight_bytes(w[n_copy++]);
	}
	cpu->act_new(b, n_in, &x);
	cpu->act_new(b, n_out, &y);
	set_rows(n_row, 0);
	start = now();
	do {
		cpu->begin(b, NULL, &batch);
		for (size_t i = 0; i < n_copy; i++, count++)
			cpu->matmul(b, w[i], NULL, x, y);
		cpu->end(b, NULL);
	} while ((t = now() - start) < budget);
	printf("matmul,%s,%u,%u,%u,%.2f us,%.1f GB/s,%.1f GMAC/s\n", quant_find(type)->name, n_in, n_out, n_row,
	       t / (double)count * 1e6, (double)bytes / (double)n_copy * (double)count / t / 1e9,
	       (double)n_in * n_out * n_row * (double)count / t / 1e9);
	for (size_t i = 0; i < n_copy; i++)
		cpu->weight_free(b, w[i]);
	cpu->act_free(b, x);
	cpu->act_free(b, y);
	cpu->close(b);
	matrix_free(m);
}

static uint64_t freq[HEAD_DIM / 2];
static struct rope rope = { ROPE_NEOX, HEAD_DIM, freq, 1.0f };

static struct kv *open_kv(struct backend *b, enum kv_type type, uint32_t n_layer, uint32_t recent)
{
	struct kv_layer layers[N_LAYER];
	struct kv_shape shape = { type, n_layer, layers, CHUNK, { 4, recent }, 1 };
	struct kv *kv;

	for (uint32_t i = 0; i < n_layer; i++)
		layers[i] = (struct kv_layer){ N_HEAD_KV, HEAD_DIM, 0 };
	for (uint32_t i = 0; i < HEAD_DIM / 2; i++)
		freq[i] = UINT64_C(0x28be60db9391054a) >> (i / 3);
	seq.window = shape.most;
	if (cpu->kv_open(b, &shape, NULL, &kv, NULL) < 0)
		abort();
	return kv;
}

/* One layer stays in the processor's caches, a model's do not. */
static void bench_attend(enum kv_type type, uint32_t n_layer, uint32_t recent, uint32_t n_row)
{
	struct backend *b = place_open(place, CHUNK);
	struct kv *kv = open_kv(b, type, n_layer, recent);
	struct attend a = { .n_head = N_HEAD, .scale = 0.125f, .rope = &rope };
	struct act *q, *k, *o;
	uint64_t pos = 100000;
	size_t count = 0;
	double start, t;

	cpu->act_new(b, N_HEAD * HEAD_DIM, &q);
	cpu->act_new(b, N_HEAD * HEAD_DIM, &o);
	cpu->act_new(b, N_HEAD_KV * HEAD_DIM, &k);
	/* pages that nobody wrote are all the same one */
	for (; pos < 100000 + recent + CHUNK; pos += CHUNK) {
		set_rows(CHUNK, pos);
		cpu->begin(b, kv, &batch);
		for (uint32_t i = 0; i < n_layer; i++)
			cpu->store(b, i, &rope, k, k);
		cpu->end(b, NULL);
	}
	start = now();
	do {
		set_rows(n_row, pos);
		cpu->begin(b, kv, &batch);
		for (uint32_t i = 0; i < N_LAYER; i++, count++) {
			a.layer = i % n_layer;
			cpu->store(b, a.layer, &rope, k, k);
			cpu->attend(b, &a, q, o);
		}
		cpu->end(b, NULL);
		pos += n_row;
	} while ((t = now() - start) < budget);
	printf("store+attend,9/3 heads of 64 %s %u layers,4+%u,,%u,%.2f us,,%.1f GMAC/s\n", type == KV_Q8 ? "q8" : "f16",
	       n_layer, recent, n_row, t / (double)count * 1e6,
	       2.0 * N_HEAD * HEAD_DIM * (recent + 5) * n_row * (double)count / t / 1e9);
	fflush(stdout);
	cpu->act_free(b, q);
	cpu->act_free(b, o);
	cpu->act_free(b, k);
	cpu->kv_close(b, kv);
	cpu->close(b);
}

static void bench_attends(void)
{
	static const enum kv_type types[] = { KV_F16, KV_Q8 };

	for (int i = 0; i < 2; i++)
		for (uint32_t recent = 252; recent < 9000; recent = recent * 5 + 740)
			for (uint32_t n = 1; n <= 64; n *= 64) {
				bench_attend(types[i], 1, recent, n);
				bench_attend(types[i], N_LAYER, recent, n);
			}
}

/* ---- whole steps ---- */

struct layer { struct weight *norm1, *norm2, *q, *k, *v, *o, *gate, *up, *down; };

struct model {
	struct backend *b;
	struct kv *kv;
	struct weight *embd, *norm;
	struct layer layers[N_LAYER];
	struct act *x, *h, *q, *k, *v, *att, *gate, *up, *last, *logits;
};

static void model_open(struct model *m, uint32_t type, uint32_t recent)
{
	struct backend *b = m->b = place_open(place, CHUNK);

	m->kv = open_kv(b, KV_F16, N_LAYER, recent);
	m->embd = random_weight(b, QUANT_Q8_0, N_EMBD, N_VOCAB);
	m->norm = random_weight(b, QUANT_F32, N_EMBD, 1);
	for (int i = 0; i < N_LAYER; i++) {
		struct layer *l = &m->layers[i];

		l->norm1 = random_weight(b, QUANT_F32, N_EMBD, 1);
		l->norm2 = random_weight(b, QUANT_F32, N_EMBD, 1);
		l->q = random_weight(b, type, N_EMBD, N_HEAD * HEAD_DIM);
		l->k = random_weight(b, type, N_EMBD, N_HEAD_KV * HEAD_DIM);
		l->v = random_weight(b, type, N_EMBD, N_HEAD_KV * HEAD_DIM);
		l->o = random_weight(b, type, N_HEAD * HEAD_DIM, N_EMBD);
		l->gate = random_weight(b, type, N_EMBD, N_FF);
		l->up = random_weight(b, type, N_EMBD, N_FF);
		l->down = random_weight(b, type, N_FF, N_EMBD);
	}
	cpu->act_new(b, N_EMBD, &m->x);
	cpu->act_new(b, N_EMBD, &m->h);
	cpu->act_new(b, N_EMBD, &m->q);
	cpu->act_new(b, N_HEAD_KV * HEAD_DIM, &m->k);
	cpu->act_new(b, N_HEAD_KV * HEAD_DIM, &m->v);
	cpu->act_new(b, N_EMBD, &m->att);
	cpu->act_new(b, N_FF, &m->gate);
	cpu->act_new(b, N_FF, &m->up);
	cpu->act_new(b, N_EMBD, &m->last);
	cpu->act_new(b, N_VOCAB, &m->logits);
}

static void model_step(struct model *m, uint32_t n, uint64_t pos)
{
	static float logits[N_VOCAB];
	struct backend *b = m->b;
	struct norm norm = { NORM_RMS, N_EMBD, 1e-5f, NULL, NULL };
	struct attend a = { .n_head = N_HEAD, .scale = 0.125f, .rope = &rope };

	set_rows(n, pos);
	cpu->begin(b, m->kv, &batch);
	cpu->embed(b, m->embd, 1, m->x);
	for (uint32_t i = 0; i < N_LAYER; i++) {
		struct layer *l = &m->layers[i];

		norm.weight = l->norm1;
		cpu->norm(b, &norm, m->x, m->h);
		cpu->matmul(b, l->q, NULL, m->h, m->q);
		cpu->matmul(b, l->k, NULL, m->h, m->k);
		cpu->matmul(b, l->v, NULL, m->h, m->v);
		cpu->store(b, i, &rope, m->k, m->v);
		a.layer = i;
		cpu->attend(b, &a, m->q, m->att);
		cpu->matmul(b, l->o, NULL, m->att, m->h);
		cpu->add(b, m->x, m->h, m->x);
		norm.weight = l->norm2;
		cpu->norm(b, &norm, m->x, m->h);
		cpu->matmul(b, l->gate, NULL, m->h, m->gate);
		cpu->matmul(b, l->up, NULL, m->h, m->up);
		cpu->glu(b, GLU_SILU, m->gate, m->up, m->gate);
		cpu->matmul(b, l->down, NULL, m->gate, m->h);
		cpu->add(b, m->x, m->h, m->x);
	}
	cpu->select(b, m->x, m->last);
	norm.weight = m->norm;
	cpu->norm(b, &norm, m->last, m->last);
	cpu->matmul(b, m->embd, NULL, m->last, m->logits);
	cpu->read(b, m->logits, logits);
	cpu->end(b, NULL);
}

static void bench_steps(uint32_t type, uint32_t recent)
{
	static const uint32_t sizes[] = { 1, 16, 64, 256 };
	struct model *m = calloc(1, sizeof(*m));
	uint64_t pos = 0;

	model_open(m, type, recent);
	for (; pos < recent + 256; pos += 64)
		model_step(m, 64, pos);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		double start = now(), t;
		size_t count = 0;

		do {
			model_step(m, sizes[i], pos);
			pos += sizes[i];
			count++;
		} while ((t = now() - start) < 3 * budget);
		printf("step,SmolLM2-135M %s,4+%u,,%u,%.0f us,,%.1f tokens/s\n", quant_find(type)->name, recent, sizes[i],
		       t / (double)count * 1e6, sizes[i] * (double)count / t);
		fflush(stdout);
	}
	cpu->close(m->b);        /* the rest goes with the process */
	free(m);
}

static bool quick, processor, steps, attend, products;

static const struct { const char *name; bool *there; } flags[] = {
	{ "--quick", &quick }, { "--cpu", &processor }, { "--steps", &steps }, { "--attend", &attend }, { "--products", &products },
};

static bool flag(const char *name)
{
	for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
		if (strcmp(name, flags[i].name) == 0)
			return *flags[i].there = true;
	return false;
}

static void options_read(int argc, char **argv)
{
	for (int i = 1; i < argc; i++) {
		const char *name = argv[i];

		if (flag(name))
			continue;
		if (++i == argc)
			give_up(name, "not known, or without a value");
		if (strcmp(name, "--isa") == 0)
			place.isa = argv[i];
		else if (strcmp(name, "--threads") == 0)
			place.n_thread = number(name, argv[i]);
		else if (strcmp(name, "--activation-bits") == 0)
			place.n_act_bit = number(name, argv[i]);
		else
			give_up(name, "not known");
	}
	if (quick)
		budget = 0.05;
	if (processor)
		watch = CLOCK_PROCESS_CPUTIME_ID;
}

static void bench_all_products(void)
{
	for (uint32_t n = 1; n <= 64; n *= 8) {
		bench_product(QUANT_Q4_1, N_EMBD, N_EMBD, n);
		bench_product(QUANT_Q4_1, N_EMBD, N_FF, n);
		bench_product(QUANT_Q4_1, N_FF, N_EMBD, n);
	}
	bench_product(QUANT_Q8_0, N_EMBD, N_VOCAB, 1);
	for (size_t i = 0; quant_at(i); i++)
		for (uint32_t n = 1; n <= 64; n *= 8)
			bench_product(quant_at(i)->type, 768, 3072, n);
}

static void bench_all_steps(void)
{
	bench_steps(QUANT_Q4_1, 252);
	bench_steps(QUANT_Q4_1, 2000);
	bench_steps(QUANT_Q4_0, 252);
}

int main(int argc, char **argv)
{
	struct backend_params params = { .n_row_max = 1 };
	struct backend_why why;
	struct backend *b;
	bool all;

	options_read(argc, argv);
	all = !steps && !attend && !products;
	params.n_thread = place.n_thread;
	params.isa = place.isa;
	params.n_act_bit = place.n_act_bit;
	if (cpu->open(&b, &params, &why))
		give_up("the backend", why.text);
	printf("# %s\nwhat,kind,in,out,rows,time,bandwidth,rate\n", cpu->describe(b));
	cpu->close(b);
	if (all || steps)
		bench_all_steps();
	if (all || products)
		bench_all_products();
	if (all || attend)
		bench_attends();
	return 0;
}
