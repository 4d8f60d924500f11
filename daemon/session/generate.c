/*
 * Answers: a token is picked, its text is held back while it could still be the
 * beginning of a stop string or ends inside a character, then it is an entry.
 *
 * The hard idea: how an answer is grouped into entries is a pure function of its
 * tokens, and what has been logged never contains the beginning of a stop string.
 * So after a crash the last entry is all that must be known to go on: what was
 * held back is generated again, the same.
 *
 * It must not know about batches; it is given what the model says of the next token.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/utf8.h"
#include "daemon/session/engine-internal.h"

bool generating(const struct timeline *t)
{
	return t->cur != NULL && t->cur->kind != ORDER_APPEND && t->cur->progress.stage == 1;
}

/* ---- text held back ---- */

void held_clear(struct held *h)
{
	h->ids.n = 0;
	h->n_text = 0;
}

void held_free(struct held *h)
{
	ids_free(&h->ids);
	free(h->text);
	free(h->ends);
	memset(h, 0, sizeof *h);
}

static void held_add(struct held *h, int32_t id, struct gguf_str piece)
{
	if (h->text == NULL || h->n_text + piece.n > h->text_room) {
		h->text_room = 2 * (h->n_text + piece.n) + 64;
		h->text = realloc(h->text, h->text_room);
	}
	if (h->ids.n >= h->ends_room) {
		h->ends_room = 2 * h->ends_room + 16;
		h->ends = realloc(h->ends, h->ends_room * sizeof *h->ends);
	}
	if (h->text == NULL || h->ends == NULL)
		abort();
	if (piece.n > 0)
		memcpy(h->text + h->n_text, piece.data, piece.n);
	h->n_text += piece.n;
	h->ends[h->ids.n] = (uint32_t)h->n_text;
	ids_push(&h->ids, id);
}

/* The first n ids and the text before n_text become an entry (n_text may be less
 * than their text: what a stop string hides). */
static void held_log(struct timeline *t, size_t n, size_t n_text)
{
	struct held *h = &t->held;
	struct ids ids = { 0 };
	size_t i, gone;
	char *text;

	if (n == 0)
		return;
	gone = h->ends[n - 1];
	n_text = n_text < gone ? n_text : gone;
	text = event_text(h->text, n_text);
	if (text == NULL)
		abort();
	ids_append(&ids, h->ids.data, n);
	chat_tokens(t->engine->tokenizer, &t->row.chat, ids.data, n);
	t->cur->progress.n_generated += (uint32_t)n;
	timeline_log(t, EVENT_TEXT, ROLE_ASSISTANT, &ids, text, n_text);
	memmove(h->ids.data, h->ids.data + n, (h->ids.n - n) * sizeof *h->ids.data);
	h->ids.n -= n;
	for (i = 0; i < h->ids.n; i++)
		h->ends[i] = h->ends[i + n] - (uint32_t)gone;
	memmove(h->text, h->text + gone, h->n_text - gone);
	h->n_text -= gone;
}

/* ---- stop strings ---- */

/* Where the first stop string begins in text[n]; n: none. */
static size_t stop_find(const struct stops *s, const char *text, size_t n)
{
	size_t first = n;
	uint32_t i;

	for (i = 0; i < s->n; i++) {
		const char *p = s->at[i].n > 0 ? memmem(text, n, s->at[i].data, s->at[i].n) : NULL;

		if (p != NULL && (size_t)(p - text) < first)
			first = (size_t)(p - text);
	}
	return first;
}

/* Where the earliest end of text begins that a stop string could begin with. */
static size_t stop_begin(const struct stops *s, const char *text, size_t n)
{
	size_t at = n > STOP_BYTES ? n - STOP_BYTES : 0;
	uint32_t i;

	for (; at < n; at++)
		for (i = 0; i < s->n; i++)
			if (n - at < s->at[i].n && memcmp(text + at, s->at[i].data, n - at) == 0)
				return at;
	return n;
}

/* Logs as many whole tokens as may be shown. */
static void held_show(struct timeline *t)
{
	struct held *h = &t->held;
	size_t safe = stop_begin(&t->cur->settings.stops, h->text, h->n_text), n = h->ids.n;

	while (n > 0 && (h->ends[n - 1] > safe ||
	                 utf8_complete_prefix(h->text, h->ends[n - 1]) != h->ends[n - 1]))
		n--;
	held_log(t, n, h->n_text);
}

/* ---- an answer's life ---- */

void generate_begin(struct timeline *t)
{
	const struct tokenizer *tk = t->engine->tokenizer;
	struct order_progress *p = &t->cur->progress;
	struct event *ev;
	struct ids ids = { 0 };

	/* There is nothing to go on from in an empty timeline: BOS, wanted or not. */
	if (t->n_token == 0)
		apply_start(t->engine, t->chat == NULL || tokenizer_add_bos(tk), &t->row.chat, &ids);
	if (t->chat != NULL && chat_enter(t->chat, tk, &t->row.chat, ROLE_ASSISTANT, &ids, NULL) == -ENOMEM)
		abort();               /* an answer to another prompt would be none */
	timeline_push(t, ids.data, ids.n);
	p->stage = 1;
	p->offset = t->n_token - p->answer;
	p->answer = t->n_token;
	ev = timeline_log(t, EVENT_TURN, ROLE_ASSISTANT, &ids, NULL, 0);
	ev->reason = TURN_BEGIN;
	if (t->n_token == 0)
		generate_end(t, TURN_ERROR);
}

/* Ids that end the turn; last: what the model ended it with, -1: nothing. */
static void closing(struct timeline *t, int32_t last, struct ids *ids)
{
	const struct tokenizer *tk = t->engine->tokenizer;
	bool own = last >= 0;

	if (t->chat == NULL || t->row.chat.open != ROLE_ASSISTANT + 1) {
		if (own) {
			ids_push(ids, last);
			chat_tokens(tk, &t->row.chat, &last, 1);
		}
		return;
	}
	/* Another end token than the format's (<|endoftext|> for <|im_end|>) is
	 * replaced: the next turn must find the one that the model was trained on. */
	if (own && t->chat->end != NULL && tokenizer_find(tk, t->chat->end) != last)
		own = false;
	if (own)
		ids_push(ids, last);
	if (chat_close(t->chat, tk, &t->row.chat, own, ids) == -ENOMEM)
		abort();               /* without its end the next turn would not be what it is */
}

static void end(struct timeline *t, enum turn_reason reason, int32_t last)
{
	struct order_progress *p = &t->cur->progress;
	uint64_t n_prompt = p->stage == 1 ? p->offset : 0;
	struct ids ids = { 0 };
	struct event *ev;

	if (p->stage == 1)
		closing(t, last, &ids);
	timeline_push(t, ids.data, ids.n);
	ev = timeline_log(t, EVENT_TURN, ROLE_ASSISTANT, &ids, NULL, 0);
	ev->reason = (uint8_t)reason;
	ev->n_prompt = (uint32_t)n_prompt;
	ev->n_generated = p->n_generated;
	p->stage = 2;
	p->seq = t->row.n_seq;
	p->answer = t->n_token;
	timeline_flush(t, waiters_any(t, t->cur->id));
	order_done(t);
}

/* Between steps, whatever it is at. */
void generate_end(struct timeline *t, enum turn_reason reason)
{
	held_log(t, t->held.ids.n, t->held.n_text);
	end(t, reason, -1);
}

int32_t generate_pick(const struct timeline *t, const struct candidates *top, float *logits)
{
	const struct sampling *s = &t->cur->settings.sampling;
	int32_t last[SAMPLE_LAST];
	size_t n = timeline_last(t, last, SAMPLE_LAST);

	if (logits != NULL)
		return sampler_pick(t->engine->sampler, s, t->n_token, logits, last, n);
	return sampler_pick_top(t->engine->sampler, s, t->n_token, top, last, n);
}

void generate_take(struct timeline *t, int32_t id)
{
	struct engine *e = t->engine;
	const struct settings *s = &t->cur->settings;
	struct held *h = &t->held;
	size_t at;

	if (id < 0) {
		generate_end(t, TURN_ERROR);
		return;
	}
	e->stats.generated++;
	if (tokenizer_is_end(e->tokenizer, id)) {
		held_log(t, h->ids.n, h->n_text);
		end(t, TURN_STOP, id);
		return;
	}
	timeline_push(t, &id, 1);
	held_add(h, id, tokenizer_piece(e->tokenizer, id, false));
	at = stop_find(&s->stops, h->text, h->n_text);
	if (at < h->n_text) {
		held_log(t, h->ids.n, at);
		end(t, TURN_STOP, -1);
		return;
	}
	if (t->cur->progress.n_generated + h->ids.n >= s->max_tokens) {
		generate_end(t, TURN_LENGTH);
		return;
	}
	held_show(t);
	if (t->n_out > 0)
		timeline_flush(t, false);
}
