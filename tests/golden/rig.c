/* See rig.h. */
#include "daemon/model/gguf.h"
#include "tests/golden/rig.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/model/sample.h"

#ifdef RIG_BACKEND               /* another backend than the CPU's */
extern const struct backend_ops RIG_BACKEND;
#else
#define RIG_BACKEND backend_cpu
#endif

static int n_failed;

double furthest(const double *a, const double *b, size_t n)
{
	double most = 0;
	size_t i;

	for (i = 0; i < n; i++)
		most = fabs(a[i] - b[i]) > most || isnan(a[i]) ? fabs(a[i] - b[i]) : most;
	return most;
}

double mean(const double *x, size_t n)
{
	double sum = 0;
	size_t i;

	for (i = 0; i < n; i++)
		sum += x[i];
	return sum / (double)n;
}

void check(bool ok, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("%s ", ok ? "ok    " : "FAILED");
	vprintf(fmt, ap);
	printf("\n");
	fflush(stdout);
	va_end(ap);
	n_failed += !ok;
}

int check_status(void)
{
	return n_failed ? 1 : 0;
}

static void *must(const void *p, const char *what)
{
	if (!p) {
		printf("FAILED %s\n", what);
		exit(1);
	}
	return (void *)(uintptr_t)p;
}

double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- vectors ---- */

char *file_read(const char *folder, const char *name)
{
	char path[4096], *text;
	FILE *f;
	long n;

	snprintf(path, sizeof path, "%s/%s", folder, name);
	f = must(fopen(path, "r"), path);
	fseek(f, 0, SEEK_END);
	n = ftell(f);
	rewind(f);
	text = must(calloc(1, (size_t)n + 1), "memory");
	must(fread(text, 1, (size_t)n, f) == (size_t)n ? text : NULL, path);
	fclose(f);
	return text;
}

double *list_read(const char *text, const char *key, size_t *n, const char **end)
{
	char quoted[64];
	const char *p;
	double *out;
	size_t room = 1;

	snprintf(quoted, sizeof quoted, "\"%s\": [", key);
	p = strstr(text, quoted);
	*n = 0;
	if (!p)
		return NULL;
	p += strlen(quoted);
	for (const char *c = p; *c && *c != ']'; c++)
		room += *c == ',';
	out = must(calloc(room, sizeof *out), "memory");
	while (*p && *p != ']') {
		char *next;

		out[(*n)++] = strtod(p, &next);
		for (p = next; *p == ',' || *p == ' ' || *p == '\n'; p++)
			;
		must(*n < room || *p == ']' ? out : NULL, "a list in a vector file");
	}
	*end = p;
	return out;
}

static double number_read(const char *text, const char *key)
{
	char quoted[64];
	const char *p;

	snprintf(quoted, sizeof quoted, "\"%s\": ", key);
	p = must(strstr(text, quoted), key);
	return strtod(p + strlen(quoted), NULL);
}

void vectors_read(struct vectors *v, const char *folder, const char *name)
{
	char *text = file_read(folder, name);
	const char *p = text, *end;
	double *ids;
	size_t i;

	memset(v, 0, sizeof *v);
	ids = must(list_read(text, "tokens", &v->n_token, &end), "the key tokens");
	v->tokens = must(calloc(v->n_token, sizeof *v->tokens), "memory");
	for (i = 0; i < v->n_token; i++)
		v->tokens[i] = (int32_t)ids[i];
	free(ids);
	while ((p = strstr(p, "\"sinks\": ")) && v->n_run < sizeof v->runs / sizeof *v->runs) {
		struct run *r = &v->runs[v->n_run++];

		r->window.n_sink = (uint32_t)number_read(p, "sinks");
		r->window.n_recent = (uint32_t)number_read(p, "recent");
		r->ppl = number_read(p, "ppl");
		r->nll = must(list_read(p, "nll", &r->n, &end), "the key nll");
		must(r->n == v->n_token - 1 ? r : NULL, "a vector file with one nll for each token but the first");
		p = end;
	}
	must(v->n_run ? v : NULL, "the key runs");
	free(text);
}

void vectors_free(struct vectors *v)
{
	size_t i;

	for (i = 0; i < v->n_run; i++)
		free(v->runs[i].nll);
	free(v->tokens);
}

/* ---- the rig ---- */

bool under_sanitizer(void)
{
	const char *set = getenv("SANITIZE");

	return set && *set && strcmp(set, "no") != 0;
}

const char *model_path(const char *variable, const char *file)
{
	static char path[4096];
	const char *set = getenv(variable), *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");

	if (set && *set)
		snprintf(path, sizeof path, "%s", set);
	else if (cache && *cache)
		snprintf(path, sizeof path, "%s/sinkd/%s", cache, file);
	else
		snprintf(path, sizeof path, "%s/.cache/sinkd/%s", home ? home : "", file);
	return access(path, R_OK) == 0 ? path : NULL;
}

bool rig_open(struct rig *r, const char *model, const struct rig_params *p)
{
	const uint32_t n_row = p->n_row ? p->n_row : p->n_chunk;
	const struct backend_params bp = { .n_thread = p->n_thread, .n_row_max = n_row, .isa = p->isa, .n_act_bit = p->n_act_bit };
	struct model_params mp = { .ops = p->ops ? p->ops : &RIG_BACKEND, .n_cache = p->n_cache };
	struct kv_shape shape = { .type = p->type, .n_chunk = p->n_chunk, .most = p->most, .n_slot = p->n_slot ? p->n_slot : 1 };
	struct backend_why bw = { "" };
	struct reason why = { "", "" };

	memset(r, 0, sizeof *r);
	r->ops = mp.ops;
	r->p = *p;
	if (r->ops->open(&r->backend, &bp, &bw)) {
		printf("skip   %s: %s\n", p->isa ? p->isa : "best", bw.text);
		return false;
	}
	mp.backend = r->backend;
	if (model_open(&r->model, model, &mp, &why)) {
		printf("FAILED %s: %s: %s\n", model, why.name, why.text);
		exit(1);
	}
	shape.n_layer = model_info(r->model)->n_layer;
	shape.layers = model_info(r->model)->kv_layers;
	if (r->ops->kv_open(r->backend, &shape, NULL, &r->kv, &bw)) {
		printf("FAILED a cache: %s\n", bw.text);
		exit(1);
	}
	r->n_vocab = model_info(r->model)->n_vocab;
	r->logits = must(calloc(n_row, r->n_vocab * sizeof *r->logits), "memory");
	return true;
}

void rig_close(struct rig *r)
{
	r->ops->kv_close(r->backend, r->kv);
	model_close(r->model);
	r->ops->close(r->backend);
	free(r->logits);
}

/* One chunk, and the logits of its last n_output rows. */
static void chunk_feed(struct rig *r, struct timeline *t, const int32_t *ids, uint32_t n, uint32_t n_output)
{
	struct batch_row *rows = must(calloc(n, sizeof *rows), "memory");
	uint32_t i, *outputs = must(calloc(n, sizeof *outputs), "memory");
	const struct batch_seq seq = { 0, t->window, t->start };
	const struct batch b = {
		.n_row = n, .n_seq = 1, .n_output = n_output, .rows = rows, .seqs = &seq,
		.outputs = outputs, .exact = t->exact,
	};
	struct reason why = { "", "" };

	for (i = 0; i < n; i++) {
		rows[i] = (struct batch_row){ ids[i], 0, t->pos + i };
		outputs[i] = n - n_output + i;
	}
	if (model_forward(r->model, r->kv, &b, n_output > 0 ? r->logits : NULL, NULL, &why)) {
		printf("FAILED a forward pass: %s: %s\n", why.name, why.text);
		exit(1);
	}
	t->pos += n;
	free(rows);
	free(outputs);
}

void rig_feed(struct rig *r, struct timeline *t, const int32_t *ids, size_t n, uint32_t chunk,
              void (*each)(void *ctx, size_t i, const float *logits), void *ctx)
{
	uint32_t part, i;
	size_t at;

	for (at = 0; at < n; at += part) {
		part = n - at < chunk ? (uint32_t)(n - at) : chunk;
		chunk_feed(r, t, ids + at, part, each ? part : at + part == n);
		for (i = 0; each && i < part; i++)
			each(ctx, at + i, r->logits + (size_t)i * r->n_vocab);
	}
}

struct nll_ctx { const struct rig *r; const int32_t *ids; double *nll; };

static void nll_each(void *ctx, size_t i, const float *logits)
{
	const struct nll_ctx *c = ctx;

	c->nll[i] = sample_nll(logits, c->r->n_vocab, c->ids[i + 1]);
}

void rig_nll(struct rig *r, struct window w, bool exact, const int32_t *ids, size_t n, uint32_t chunk, double *nll)
{
	struct timeline t = { .window = w, .exact = exact };
	struct nll_ctx c = { r, ids, nll };

	rig_feed(r, &t, ids, n - 1, chunk, nll_each, &c);
}

struct ids rig_ids(const char *model, const char *text, size_t n)
{
	struct reason why = { "", "" };
	struct tokenizer *t;
	struct ids ids = { 0 };
	struct gguf *g;

	if (gguf_open(&g, model, &why) || tokenizer_open(&t, g, &why)) {
		printf("FAILED %s: %s\n", model, why.text);
		exit(1);
	}
	must(tokenizer_encode(t, text, n, TOKENIZE_START, &ids) == 0 ? t : NULL, "memory");
	tokenizer_close(t);
	gguf_close(g);
	return ids;
}
