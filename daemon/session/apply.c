/*
 * Orders are applied: their text becomes tokens, slice by slice between steps.
 *
 * The hard idea: where a text is cut, and so which tokens it becomes, is a pure
 * function of its bytes.  Every slice is one log entry, posted together with how
 * far the order has come, so that a new process goes on at the next slice.
 *
 * It must not compute: the model sees the tokens when schedule.c has a row free.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

size_t apply_cut(const char *text, size_t n)
{
	return n > SLICE_BYTES ? tokenizer_cut(text, n, SLICE_BYTES) : n;
}

/* What a timeline begins with. */
void apply_start(const struct engine *e, bool bos, struct chat_state *s, struct ids *out)
{
	int32_t start[2] = { e->sink_token, bos ? tokenizer_bos(e->tokenizer) : -1 };
	size_t i;

	for (i = 0; i < 2; i++)
		if (start[i] >= 0) {
			ids_push(out, start[i]);
			chat_tokens(e->tokenizer, s, &start[i], 1);
		}
}

int apply_text(const struct engine *e, const struct chat_format *f, struct chat_state *s,
               bool at_start, bool enter, enum role role, const char *text, size_t n, struct ids *out)
{
	const struct tokenizer *tk = e->tokenizer;
	int rc;

	if (at_start)
		apply_start(e, tokenizer_add_bos(tk), s, out);
	if (enter && f != NULL) {
		rc = chat_enter(f, tk, s, role, out, NULL);
		if (rc != 0)
			return rc;
	}
	return n == 0 ? 0 : chat_text(f, tk, s, text, n, out);
}

bool text_at_hand(const struct timeline *t)
{
	if (t->cur != NULL)
		return t->cur->progress.stage == 0 && t->cur->kind != ORDER_GENERATE;
	return t->n_queued > 0;
}

/* What the given ids stand for; NULL: no memory. */
static char *spell(const struct tokenizer *tk, const int32_t *ids, size_t n, size_t *n_text)
{
	size_t i, at = 0;
	char *s;

	for (i = 0; i < n; i++)
		at += tokenizer_piece(tk, ids[i], false).n;
	s = malloc(at + 1);
	if (s == NULL)
		return NULL;
	for (at = 0, i = 0; i < n; i++) {
		struct gguf_str piece = tokenizer_piece(tk, ids[i], false);

		memcpy(s + at, piece.data, piece.n);
		at += piece.n;
	}
	s[at] = '\0';
	*n_text = at;
	return s;
}

static size_t size_of(const struct order *o)
{
	return o->tokens ? o->n_payload / sizeof(int32_t) : o->n_payload;
}

static bool begins(const struct engine *e, int32_t id)
{
	return id == (e->sink_token >= 0 ? e->sink_token : tokenizer_bos(e->tokenizer));
}

/* The next slice of an order of token ids. */
static int slice_ids(struct timeline *t, bool *last)
{
	struct engine *e = t->engine;
	struct order *o = t->cur;
	size_t all = size_of(o), n = all - o->progress.offset, n_text = 0;
	const char *from = o->payload + o->progress.offset * sizeof(int32_t);
	bool begin = o->progress.offset == 0;
	int32_t given[SLICE_IDS];
	struct chat_state before = t->row.chat;
	struct ids ids = { 0 };
	char *text = NULL;
	int rc;

	if (n > SLICE_IDS)
		n = SLICE_IDS;
	memcpy(given, from, n * sizeof *given);
	/* A beginning that was given is the beginning. */
	rc = apply_text(e, t->chat, &t->row.chat, t->n_token == 0 && !begins(e, given[0]), begin,
	                (enum role)o->role, NULL, 0, &ids);
	if (rc == 0)
		rc = ids_reserve(&ids, n);
	if (rc == 0 && (text = spell(e->tokenizer, given, n, &n_text)) == NULL)
		rc = ERROR(-ENOMEM);
	if (rc != 0) {
		t->row.chat = before;
		ids_free(&ids);
		return rc;
	}
	ids_append(&ids, given, n);
	chat_tokens(e->tokenizer, &t->row.chat, given, n);
	timeline_push(t, ids.data, ids.n);
	timeline_log(t, EVENT_TEXT, (enum role)o->role, &ids, text, n_text);
	o->progress.offset += n;
	*last = o->progress.offset == all;
	return 0;
}

static int slice_text(struct timeline *t, bool *last)
{
	struct order *o = t->cur;
	const char *text = o->payload + o->progress.offset;
	size_t left = o->n_payload - o->progress.offset, n = apply_cut(text, left);
	struct chat_state before = t->row.chat;
	char *copy = event_text(text, n);
	struct ids ids = { 0 };
	int rc = copy != NULL ? 0 : ERROR(-ENOMEM);

	if (rc == 0)
		rc = apply_text(t->engine, t->chat, &t->row.chat, t->n_token == 0, o->progress.offset == 0,
		                (enum role)o->role, text, n, &ids);
	if (rc == 0 && n == left && o->given & GIVEN_PIN && t->chat != NULL)
		rc = chat_close(t->chat, t->engine->tokenizer, &t->row.chat, false, &ids);
	if (rc != 0) {
		t->row.chat = before;
		ids_free(&ids);
		free(copy);
		return rc;
	}
	timeline_push(t, ids.data, ids.n);
	timeline_log(t, EVENT_TEXT, (enum role)o->role, &ids, copy, n);
	o->progress.offset += n;
	*last = n == left;
	return 0;
}

static void applied(struct timeline *t)
{
	struct order_progress *p = &t->cur->progress;

	timeline_log(t, EVENT_APPLIED, (enum role)t->cur->role, NULL, NULL, 0);
	p->stage = 2;
	p->seq = t->row.n_seq;
	p->answer = t->n_token;
	timeline_flush(t, waiters_any(t, t->cur->id));
	order_done(t);
}

static void slice(struct timeline *t)
{
	static const struct reason short_of_memory = { .name = "memory" };
	bool last = false;
	int rc;

	rc = t->cur->tokens ? slice_ids(t, &last) : slice_text(t, &last);
	if (rc == -ENOMEM) {
		timeline_stall(t, &short_of_memory);   /* it is applied when there is some */
	} else if (rc != 0) {
		timeline_damaged(t, "an accepted text cannot be applied");
	} else if (!last) {
		timeline_flush(t, false);
	} else if (t->cur->kind == ORDER_APPEND) {
		applied(t);
	} else {
		generate_begin(t);
		if (t->n_out > 0)
			timeline_flush(t, false);
	}
}

bool apply_turn(struct timeline *t)
{
	struct order_progress *p;

	if (t->state != TIMELINE_READY || t->deleting || t->stalled || t->bad[0] != '\0' ||
	    t->n_log >= LOGS_IN_FLIGHT)
		return false;
	if (t->cur == NULL) {
		if (t->n_queued > 0)
			order_ask(t);
		return false;
	}
	p = &t->cur->progress;
	if (t->cancel && t->cur->kind != ORDER_APPEND) {
		generate_end(t, TURN_CANCELLED);
		return true;
	}
	if (p->stage == 1)
		return false;
	if (t->fresh) {
		p->answer = t->n_token;
		p->seq = t->row.n_seq;
	}
	if (t->cur->kind != ORDER_GENERATE) {
		slice(t);
		return true;
	}
	generate_begin(t);
	if (t->n_out > 0)
		timeline_flush(t, false);
	return true;
}
