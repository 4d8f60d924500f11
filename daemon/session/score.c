/*
 * Long requests that read a text and leave nothing behind: score, in a cache of
 * its own, and tokenize.  One slice or one chunk a turn of the loop, so that
 * sessions go on.
 *
 * It must not skip anything: every token is computed, at its true position.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session/engine-internal.h"

#define SCORE_LOGITS (64u << 20)       /* bytes of logits of one chunk, about */
#define FIRST_ROWS 8                   /* at once, before it is known how long they take */

struct score {
	struct score *next;
	struct request *r;
	struct chat_state state;
	size_t at;                 /* bytes of text that are ids */
	struct ids ids;
	struct window window;
	uint32_t chunk;
	uint64_t from;             /* first scored token */
	struct kv *kv;
	float *logits;             /* [chunk][n_vocab] */
	uint64_t n_computed, n_scored;
	double sum, began;
	double row_seconds;        /* measured */
	uint32_t n_lost;           /* chunks of it in which the device failed */
	struct value *per_token;   /* NULL: not wanted */
};

static void score_free(struct engine *e, struct score *s)
{
	ids_free(&s->ids);
	if (s->kv != NULL)
		e->ops->kv_close(e->backend, s->kv);
	free(s->logits);
	value_free(s->per_token);
	free(s);
}

/* Out of the queue, its request answered. */
static void score_end(struct engine *e, struct score *s)
{
	struct score **at = &e->scores;

	while (*at != s)
		at = &(*at)->next;
	*at = s->next;
	if (e->scores_last == &s->next)
		e->scores_last = at;
	answer(e, s->r);
	score_free(e, s);
}

void score_peer_gone(struct engine *e, uint64_t peer)
{
	struct score *s, *next;

	for (s = e->scores; s != NULL; s = next) {
		next = s->next;
		if (s->r->peer != peer)
			continue;
		s->r->rc = refuse(&s->r->why, "cancelled", "the client has left");
		score_end(e, s);
	}
}

void score_refuse_all(struct engine *e, const char *name, const char *text)
{
	while (e->scores != NULL) {
		e->scores->r->rc = refuse(&e->scores->r->why, name, "%s", text);
		score_end(e, e->scores);
	}
}

/* The device is to be closed: those that have begun begin again, unless it fails with them. */
void score_restart_all(struct engine *e)
{
	struct score *s, *next;

	for (s = e->scores; s != NULL; s = next) {
		next = s->next;
		if (s->n_lost >= LOSSES_MOST) {
			s->r->rc = refuse(&s->r->why, "device_lost", "the device failed again and again while computing it");
			score_end(e, s);
			continue;
		}
		if (s->kv == NULL)
			continue;
		e->ops->kv_close(e->backend, s->kv);
		s->kv = NULL;
		free(s->logits);
		s->logits = NULL;
		s->n_computed = s->n_scored = 0;
		s->sum = 0;
		if (s->per_token != NULL) {
			value_free(s->per_token);
			s->per_token = value_list();
		}
	}
}

/* ---- ids ---- */

static int next_slice(struct engine *e, struct score *s)
{
	struct request *r = s->r;
	size_t n = apply_cut(r->text + s->at, r->n_text - s->at);
	bool start = s->at == 0 && r->verb == VERB_SCORE;
	int rc;

	rc = apply_text(e, NULL, &s->state, start, false, ROLE_RAW, r->text + s->at, n, &s->ids);
	s->at += n;
	return rc != 0 ? refuse(&r->why, "memory", "no memory for the tokens") : 0;
}

static struct value *ids_value(const struct ids *ids)
{
	struct value *list = value_list();
	size_t i;

	for (i = 0; i < ids->n; i++)
		value_push(list, value_int(ids->data[i]));
	return list;
}

/* ---- chunks ---- */

static int score_open(struct engine *e, struct score *s)
{
	struct reason *why = &s->r->why;
	struct kv_shape shape = e->shape;
	struct backend_why bad = { .text = "" };
	size_t n_vocab = model_info(e->model)->n_vocab;
	uint32_t most = (uint32_t)(SCORE_LOGITS / sizeof(float) / n_vocab);

	if (s->ids.n < 2)
		return refuse(why, "bad_param", "text: at least two tokens");
	if (s->from >= s->ids.n)
		return refuse(why, "bad_param", "from: the text has %zu tokens", s->ids.n);
	if (s->chunk > most)
		s->chunk = most > 0 ? most : 1;
	shape.type = s->r->exact ? KV_F32 : e->shape.type;
	shape.n_chunk = s->chunk;
	shape.most = s->window;
	shape.n_slot = 1;
	if (e->ops->kv_open(e->backend, &shape, NULL, &s->kv, &bad) != 0)
		return refuse(why, "memory", "%s", bad.text);
	s->logits = malloc(s->chunk * n_vocab * sizeof *s->logits);
	if (s->logits == NULL)
		return refuse(why, "memory", "no memory for the logits of %u tokens", s->chunk);
	s->began = clock_seconds();
	return 0;
}

/* Sessions wait no longer than for a step of theirs, others' questions for a long one; but where the rows of a step
 * move the result, and all of them take no time to speak of, the clock has no say in it. */
static double most_rows(const struct engine *e, const struct score *s)
{
	if (engine_busy(e) && s->row_seconds > 0)
		return STEP_SECONDS / s->row_seconds;
	if (!e->ops->bitwise)
		return s->chunk;
	return s->row_seconds > 0 ? LONG_STEP / s->row_seconds : FIRST_ROWS;
}

static int next_chunk(struct engine *e, struct score *s)
{
	struct batch_seq seq = { .slot = 0, .window = s->window };
	struct batch b = { .rows = e->rows, .seqs = &seq, .n_seq = 1, .outputs = e->score_outputs,
	                   .exact = s->r->exact };
	size_t n_vocab = model_info(e->model)->n_vocab;
	uint64_t left = s->ids.n - 1 - s->n_computed;
	struct reason why = { .name = "" };
	uint32_t i, n = left < s->chunk ? (uint32_t)left : s->chunk;
	double nll, most, began = clock_seconds();
	int rc;

	most = most_rows(e, s);
	if (n > most)
		n = most >= 1 ? (uint32_t)most : 1;

	for (i = 0; i < n; i++) {
		e->rows[i].token = s->ids.data[s->n_computed + i];
		e->rows[i].seq = 0;
		e->rows[i].pos = s->n_computed + i;
		if (s->n_computed + i + 1 >= s->from)
			e->score_outputs[b.n_output++] = i;
	}
	b.n_row = n;
	rc = model_forward(e->model, s->kv, &b, b.n_output > 0 ? s->logits : NULL, NULL, &why);
	if (rc != 0) {
		device_failed(e, why.text);
		s->n_lost++;
		return 0;
	}
	for (i = 0; i < b.n_output; i++) {
		nll = sample_nll(s->logits + i * n_vocab, n_vocab,
		                 s->ids.data[s->n_computed + e->score_outputs[i] + 1]);
		s->sum += nll;
		s->n_scored++;
		if (s->per_token != NULL)
			value_push(s->per_token, value_real(nll));
	}
	s->n_computed += n;
	s->row_seconds = (clock_seconds() - began) / n;
	e->stats.steps++;
	e->stats.computed += n;
	e->stats.prefill += n;
	return 0;
}

static void scored(struct engine *e, struct score *s)
{
	struct value *v = value_map();
	double seconds = clock_seconds() - s->began, mean = s->sum / (double)s->n_scored;

	value_put(v, "tokens", value_uint(s->ids.n));
	value_put(v, "ids", ids_value(&s->ids));
	value_put(v, "nll", value_real(mean));
	value_put(v, "ppl", value_real(exp(mean)));
	value_put(v, "tokens_per_second", value_real(seconds > 0 ? (double)s->n_computed / seconds : 0));
	value_put(v, "chunk", value_uint(s->chunk));
	if (s->per_token != NULL)
		value_put(v, "per_token", s->per_token);
	s->per_token = NULL;
	s->r->result = v;
	e->stats.scores++;
	score_end(e, s);
}

bool score_turn(struct engine *e)
{
	struct score *s = e->scores;
	struct request *r;

	if (s == NULL)
		return false;
	r = s->r;
	if (s->at < r->n_text) {
		r->rc = next_slice(e, s);
	} else if (r->verb == VERB_TOKENIZE) {
		r->result = value_map();
		value_put(r->result, "tokens", ids_value(&s->ids));
		score_end(e, s);
		return true;
	} else if (s->kv == NULL) {
		r->rc = score_open(e, s);
	} else if (s->n_computed + 1 < s->ids.n) {
		r->rc = next_chunk(e, s);
	} else {
		scored(e, s);
		return true;
	}
	if (r->rc != 0 && e->scores == s)
		score_end(e, s);
	return true;
}

static void queue(struct engine *e, struct request *r, struct score *s)
{
	s->r = r;
	*e->scores_last = s;
	e->scores_last = &s->next;
}

static struct score *score_new(void)
{
	struct score *s = calloc(1, sizeof *s);

	if (s == NULL)
		abort();
	return s;
}

static int score_check(struct engine *e, struct request *r, struct window w)
{
	size_t i, n_vocab = tokenizer_n_vocab(e->tokenizer);

	for (i = 0; i < r->tokens.n; i++)
		if (r->tokens.data[i] < 0 || (size_t)r->tokens.data[i] >= n_vocab)
			return refuse(&r->why, "bad_param", "tokens: %d is not a token id of this model", r->tokens.data[i]);
	return window_check(e, w, &r->why);
}

void verb_score(struct engine *e, struct request *r, struct timeline *none)
{
	struct window w = window_of(e, r);
	struct score *s;

	(void)none;
	r->rc = score_check(e, r, w);
	if (r->rc != 0) {
		answer(e, r);
		return;
	}
	s = score_new();
	s->window = w;
	s->chunk = r->chunk == 0 ? e->n_chunk : r->chunk < e->n_row_max ? r->chunk : e->n_row_max;
	s->from = r->from > 0 ? r->from : 1;
	if (r->per_token)
		s->per_token = value_list();
	if (r->tokens.n > 0) {
		ids_append(&s->ids, r->tokens.data, r->tokens.n);
		s->at = r->n_text;
	}
	queue(e, r, s);
}

void verb_tokenize(struct engine *e, struct request *r, struct timeline *none)
{
	(void)none;
	queue(e, r, score_new());
}
