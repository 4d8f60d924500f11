/*
 * The schedule: who is in the next batch, and with how many rows.
 *
 * A batch is one row for each session that generates and has everything else
 * computed, and a bounded chunk of prefill, given out in turn.  While somebody
 * generates the chunk is as long as STEP_SECONDS allows.
 *
 * The hard idea is the bounded catch-up.  Layer l sees R_l tokens back, so the
 * state of a session depends on its head and on its last 1 + sum(R_l) tokens
 * alone (`bound`).  A session that is further behind than that jumps: the tokens
 * between are never computed, and the result is the same, bit for bit.
 *
 * It must not know what tokens mean, or what an order is beyond "it generates"
 * and "more text is at hand".
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

#define PREFILL_LEAST 16       /* rows of prefill in a step, however slow */
#define BUDGET_STEP 8          /* rows that a budget moves by */

bool timeline_busy(const struct timeline *t)
{
	if (t->deleting || t->bad[0] != '\0')
		return false;
	return t->cur != NULL || t->n_queued > 0 ||
	       (t->state == TIMELINE_READY && t->n_computed < t->n_token);
}

bool engine_busy(const struct engine *e)
{
	uint32_t i;

	for (i = 0; i < e->p.n_slot; i++)
		if (e->places[i].owner != NULL && timeline_busy(e->places[i].owner))
			return true;
	return false;
}

static bool blocked(const struct timeline *t)
{
	return t->state != TIMELINE_READY || t->deleting || t->stalled || t->bad[0] != '\0' ||
	       t->killing || t->n_log >= LOGS_IN_FLIGHT || (t->cancel && generating(t));
}

/* A session that was at work when the engine ended: that is written down before
 * its first step, and taken back after it, so that one that ends the engine twice
 * is set aside. */
static void begin_probation(struct timeline *t)
{
	t->resumed = false;
	t->alone = t->row.n_kill > 0;
	t->row.n_kill++;
	t->killing = t->probation = true;
	timeline_flush(t, true);
}

static void end_probation(struct timeline *t)
{
	t->probation = false;
	t->alone = t->n_lost > 1;
	t->row.n_kill = 0;
	timeline_flush(t, true);
}

static void jump(struct timeline *t)
{
	uint64_t sinks = t->row.window.n_sink, start = t->n_token - t->bound;

	if (start < sinks)
		start = sinks;
	if (start <= t->n_computed)
		return;
	t->engine->stats.skipped += start - t->n_computed;
	t->start = t->n_computed = start;
}

/* More than a slice of its text waits.  Taking that in is a matter of milliseconds,
 * computing what it becomes one of seconds, most of which a jump may save: so it is
 * taken in first, and steps are short meanwhile for the sessions that generate.
 * Counted is what has been accepted, be it on its way to disk. */
static bool much_at_hand(const struct timeline *t)
{
	uint64_t taken = 0;

	if (t->cur != NULL && !text_at_hand(t))
		return false;          /* an answer, and what waits behind it */
	if (t->cur != NULL)
		taken = t->cur->progress.offset * (t->cur->tokens ? sizeof(int32_t) : 1);
	return t->n_queued_bytes > taken + SLICE_BYTES;
}

/* Rows that t could take part with. */
static uint32_t wanted(struct timeline *t)
{
	uint32_t chunk = t->engine->n_chunk;
	uint64_t todo;

	if (blocked(t))
		return 0;
	/* The logits of the newest token are not kept: it is computed once more. */
	if (t->n_computed == t->n_token && generating(t))
		t->n_computed--;
	todo = t->n_token - t->n_computed;
	if (todo == 0 || much_at_hand(t))
		return 0;
	if (t->resumed) {
		begin_probation(t);
		return 0;
	}
	if (todo > t->bound + chunk) {
		/* What would be computed now would be jumped over. */
		if (text_at_hand(t))
			return 0;
		if (t->n_computed < t->row.window.n_sink)
			todo = t->row.window.n_sink - t->n_computed;
		else
			jump(t);
		if (todo > t->n_token - t->n_computed)
			todo = t->n_token - t->n_computed;
	}
	return todo < chunk ? (uint32_t)todo : chunk;
}

/* ---- the batch ---- */

static void join(struct engine *e, struct batch *b, struct timeline *t, uint32_t n)
{
	uint32_t i;

	e->seqs[b->n_seq].slot = t->slot;
	e->seqs[b->n_seq].window = t->row.window;
	e->seqs[b->n_seq].start = t->start;
	e->members[b->n_seq] = t;
	e->member_rows[b->n_seq] = n;
	for (i = 0; i < n; i++) {
		e->rows[b->n_row + i].token = timeline_id(t, t->n_computed + i);
		e->rows[b->n_row + i].seq = b->n_seq;
		e->rows[b->n_row + i].pos = t->n_computed + i;
	}
	b->n_row += n;
	b->n_seq++;
	if (t->n_computed + n == t->n_token && generating(t)) {
		e->choosers[b->n_output] = t;
		e->outputs[b->n_output++] = b->n_row - 1;
	}
}

static bool decodes(const struct timeline *t, uint32_t want)
{
	return want == 1 && t->n_computed + 1 == t->n_token && generating(t);
}

static uint32_t prefill_budget(const struct engine *e, bool any_decode)
{
	/* the first is short where it may be: it tells how long they take */
	double rows = e->row_seconds > 0 ? LONG_STEP / e->row_seconds : e->ops->bitwise ? PREFILL_LEAST : e->n_chunk;
	uint32_t n = rows < e->n_chunk ? (uint32_t)rows / 8 * 8 : e->n_chunk;

	if (any_decode)
		n = swap_busy(e->swap) ? e->shared_rows / 2 : e->shared_rows;  /* a checkpoint is written: time is short */
	return n < PREFILL_LEAST ? PREFILL_LEAST : n;
}

/* A step that was shared, and had as much prefill as it could, says whether the next may
 * have more: little by little, so that no two gaps between tokens differ much. */
static void adapt_budget(struct engine *e, const struct batch *b, double seconds)
{
	const uint32_t rows = e->shared_rows;

	if (b->n_output == 0 || b->n_row < b->n_output + prefill_budget(e, true) || swap_busy(e->swap))
		return;
	if (seconds > STEP_SECONDS)
		e->shared_rows = rows > PREFILL_LEAST ? rows - BUDGET_STEP : PREFILL_LEAST;
	else if (seconds < STEP_SECONDS * 3 / 4 && rows + BUDGET_STEP <= e->n_chunk)
		e->shared_rows = rows < PREFILL_LEAST ? PREFILL_LEAST : rows + BUDGET_STEP;
}

static void fill(struct engine *e, struct batch *b, uint32_t *want)
{
	uint32_t n_slot = e->p.n_slot, left, i, n, slot, next = e->turn;
	struct timeline *t;

	for (i = 0; i < n_slot; i++) {
		t = e->places[i].owner;
		want[i] = t != NULL ? wanted(t) : 0;
	}
	for (i = 0; i < n_slot; i++) {
		t = e->places[i].owner;
		if (want[i] > 0 && t->alone) {
			join(e, b, t, want[i]);
			return;
		}
	}
	for (i = 0; i < n_slot; i++) {
		t = e->places[i].owner;
		if (want[i] > 0 && decodes(t, want[i])) {
			join(e, b, t, 1);
			want[i] = 0;
		}
	}
	left = prefill_budget(e, b->n_row > 0);
	for (i = 0; i < n_slot && left > 0; i++) {
		slot = (e->turn + i) % n_slot;
		if (want[slot] == 0)
			continue;
		n = want[slot] < left ? want[slot] : left;
		join(e, b, e->places[slot].owner, n);
		left -= n;
		next = (slot + 1) % n_slot;
	}
	e->turn = next;
}

/* ---- the step ---- */

static void tell_progress(struct timeline *t)
{
	uint64_t todo = t->n_token - t->n_computed, all = t->row.window.n_sink + t->bound;
	int percent;

	if (!t->rebuilding)
		return;
	if (todo == 0 || (todo == 1 && generating(t))) {
		t->rebuilding = false;
		if (!t->engine->ops->bitwise)          /* close to what it was, not the same */
			timeline_news(t, EVENT_STATE, "rebuilt", 1);
		timeline_back(t);
		return;
	}
	if (all > t->n_token)
		all = t->n_token;
	percent = todo < all ? (int)(100 * (all - todo) / all) : 0;
	if (percent >= t->progress_told + 5) {
		t->progress_told = percent;
		timeline_news(t, EVENT_STATE, "rebuilding", percent / 100.0);
	}
}

/* The next token of every output, while the logits are there: from the largest of each
 * row, and from whole rows, which all come, where these do not tell for one. */
static void choose(struct engine *e, const struct batch *b)
{
	size_t n_vocab = model_info(e->model)->n_vocab;
	bool whole = false;
	uint32_t i;

	if (b->n_output == 0)
		return;
	model_candidates(e->model, e->tops);
	for (i = 0; i < b->n_output; i++) {
		e->chosen[i] = generate_pick(e->choosers[i], &e->tops[i], NULL);
		whole = whole || e->chosen[i] == SAMPLE_WHOLE_ROW;
	}
	if (!whole)
		return;
	model_logits(e->model, e->logits);
	e->stats.whole_rows += b->n_output;
	for (i = 0; i < b->n_output; i++)
		if (e->chosen[i] == SAMPLE_WHOLE_ROW)
			e->chosen[i] = generate_pick(e->choosers[i], NULL, e->logits + n_vocab * i);
}

/* id: the token that was chosen; NULL: none was to be. */
static void stepped(struct engine *e, struct timeline *t, uint32_t n, const int32_t *id)
{
	bool decode = decodes(t, n);

	t->n_computed += n;
	kept_stamp(t, t->n_computed);
	t->since_saved += n;
	t->moved = true;
	t->last_step = e->stats.steps;
	e->stats.computed += n;
	e->stats.prefill += decode ? 0 : n;
	tell_progress(t);
	if (t->probation)
		end_probation(t);
	recover_clear(t);
	if (id != NULL)
		generate_take(t, *id);
	resident_save_when_due(t);
}

bool engine_step(struct engine *e)
{
	struct batch b = { .rows = e->rows, .seqs = e->seqs, .outputs = e->outputs };
	uint32_t i, out = 0;
	struct reason why = { .name = "" };
	double began = clock_seconds(), took;
	bool chose;
	int rc;

	fill(e, &b, e->wants);
	if (b.n_row == 0)
		return false;
	for (i = 0; i < b.n_seq; i++)
		kept_stamp(e->members[i], e->members[i]->n_computed + e->member_rows[i]);
	model_begin(e->model, e->kv, &b);
	choose(e, &b);
	rc = model_end(e->model, &why);
	if (rc != 0) {
		device_failed(e, why.text);
		recover_suspect(e, b.n_seq);
		return true;
	}
	took = clock_seconds() - began;
	slots_harmless(e->slots);
	e->stats.steps++;
	e->stats.step_seconds += took;
	if (b.n_row >= PREFILL_LEAST)
		e->row_seconds = e->row_seconds == 0 ? took / b.n_row
		                                     : 0.8 * e->row_seconds + 0.2 * took / b.n_row;
	adapt_budget(e, &b, took);
	for (i = 0; i < b.n_seq; i++) {
		chose = out < b.n_output && e->choosers[out] == e->members[i];
		stepped(e, e->members[i], e->member_rows[i], chose ? &e->chosen[out] : NULL);
		out += chose;
	}
	return true;
}
