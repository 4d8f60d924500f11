/*
 * Residents: which sessions have a slot, how they get one and how they leave it.
 *
 *   ASLEEP --slot--> LOADING --copy or checkpoint, token ids--> READY --leave--> ASLEEP
 *
 * The hard idea: a cache is only a cache.  Whatever is wrong with a checkpoint
 * (absent, damaged, of another layout, ahead of the log), the session is built
 * again from its log: the head and the last `bound` tokens, by the scheduler's
 * own catch-up.  All of it is asynchronous; other sessions go on.
 *
 * It must not decide who computes: that is schedule.c.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

#define SLOT_SECONDS 10        /* engine_params.slot_seconds, when not given */

static uint64_t at_least_zero(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

/* ---- waiting for a slot ---- */

void resident_want(struct timeline *t)
{
	struct engine *e = t->engine;

	if (e->phase != PHASE_READY || t->waiting || t->state != TIMELINE_ASLEEP || t->deleting ||
	    t->creating || t->gone || t->stalled || t->n_queued == 0 || timeline_workable(t, NULL) != 0)
		return;
	t->waiting = true;
	t->wait_next = NULL;
	*e->waiting_last = t;
	e->waiting_last = &t->wait_next;
	order_cancel_waiting(t);
}

/* It is deleted: it stands in no line. */
void resident_forget(struct timeline *t)
{
	struct engine *e = t->engine;
	struct timeline **at = &e->waiting;

	if (!t->waiting)
		return;
	while (*at != t)
		at = &(*at)->wait_next;
	*at = t->wait_next;
	if (e->waiting_last == &t->wait_next)
		e->waiting_last = at;
	t->waiting = false;
}

static bool idle(const struct timeline *t)
{
	return t->state == TIMELINE_READY && !timeline_busy(t) && !t->stalled;
}

/* Who gives up its slot for t: the idle session that has been so for longest; where all
 * are at work, the one that has had it longest, once its time is over.  But one that was put out itself
 * puts nobody out before as long: else one that waits would have all others change places. */
static struct timeline *victim(const struct engine *e, const struct timeline *t)
{
	const double keep = e->p.slot_seconds > 0 ? e->p.slot_seconds : SLOT_SECONDS, now = clock_seconds();
	struct timeline *best = NULL, *other;
	uint32_t i;

	for (i = 0; i < e->p.n_slot; i++) {
		other = e->places[i].owner;
		if (other != NULL && idle(other) && (best == NULL || other->last_step < best->last_step))
			best = other;
	}
	if (best != NULL || (t->left > 0 && now - t->left <= keep))
		return best;
	for (i = 0; i < e->p.n_slot; i++) {
		other = e->places[i].owner;
		if (other != NULL && other->state == TIMELINE_READY && !other->stalled && !other->saving &&
		    now - other->woken > keep && (best == NULL || other->woken < best->woken))
			best = other;
	}
	return best;
}

/* Nobody here can make room: the system has no memory for a slot that is free. */
static void no_memory(struct engine *e, int rc, const struct reason *why)
{
	if (rc < 0 || e->retry)
		return;
	log_warning("a session waits: %s", why->text);
	e->retry = true;
	e->retry_at = clock_seconds() + RETRY_MS / 1000.0;
}

static void wake(struct timeline *t, uint32_t slot);

bool resident_serve(struct engine *e)
{
	struct timeline *t, *out;
	struct reason why;
	bool any = false;
	uint32_t slot;
	int rc;

	while (e->lost.name[0] == '\0' && (t = e->waiting) != NULL) {
		if (!t->deleting && !t->stalled && t->n_queued > 0 && timeline_workable(t, NULL) == 0) {
			rc = slots_take(e->slots, e->ops->kv_bytes(&e->shape, t->row.window), &slot, &why);
			if (rc > 0 && swap_shrink(e->swap))
				continue;
			if (rc != 0) {
				out = victim(e, t);
				if (out == NULL) {
					no_memory(e, rc, &why);
					break;
				}
				e->stats.slots_evicted++;
				out->left = timeline_busy(out) ? clock_seconds() : 0;
				resident_leave(out, true);
				continue;
			}
			wake(t, slot);
			any = true;
		}
		e->waiting = t->wait_next;
		if (e->waiting == NULL)
			e->waiting_last = &e->waiting;
		t->waiting = false;
	}
	return any;
}

/* ---- coming back ---- */

static void ready(struct timeline *t)
{
	t->state = TIMELINE_READY;
	t->woken = clock_seconds();
	if (t->rebuilding) {
		t->engine->stats.rebuilt++;
		t->progress_told = 0;
		timeline_news(t, EVENT_STATE, "rebuilding", 0);
	}
}

static void lacking(struct timeline *t, const struct store_job *j)
{
	/* What it lacks may be on its way still, or wait for the disk. */
	if (store_passes(&j->why))
		timeline_stall(t, &j->why);
	if (timeline_read_only(t, j) || t->stalled || t->n_log > 0) {
		resident_leave(t, false);
		return;
	}
	timeline_damaged(t, "its log lacks tokens");
	resident_leave(t, false);
}

static void got_tokens(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;
	uint64_t from = j->from, n = j->ids.n, room = t->engine->ring_room, i;
	bool tail = c->n != 0;

	if (t->deleting || t->gone || t->state != TIMELINE_LOADING)
		return;
	if (j->rc != 0 || n != j->limit) {
		lacking(t, j);
		return;
	}
	for (i = 0; i < n; i++) {
		if (from + i < t->row.window.n_sink)
			t->head[from + i] = j->ids.data[i];
		if (from + i + room >= t->n_token)     /* it may have gone on: see cancel_now */
			t->ring[(from + i) % room] = j->ids.data[i];
	}
	if (!tail)
		return;
	t->ring_from = from > at_least_zero(t->n_token, room) ? from : at_least_zero(t->n_token, room);
	ready(t);
	if (!t->rebuilding)
		timeline_back(t);
}

static void ask_tokens(struct timeline *t, uint64_t from, uint64_t to, bool tail)
{
	struct store_job *j = store_job_new(STORE_TOKENS, t->row.id);
	struct call *c = call_new(t->engine, t, NULL, got_tokens);

	j->from = from;
	j->limit = to - from;
	c->n = tail;
	call_post(c, j);
}

/* The head where it has to be computed, and the tail that steps and the sampler
 * can ask for. */
static void load_tokens(struct timeline *t)
{
	struct engine *e = t->engine;
	uint64_t n = t->row.n_token, sinks = t->row.window.n_sink, from;
	uint64_t oldest = at_least_zero(n, t->bound + e->n_chunk);

	from = at_least_zero(t->n_computed, 1);
	if (from < oldest)
		from = oldest;
	if (from > at_least_zero(n, SAMPLE_LAST))
		from = at_least_zero(n, SAMPLE_LAST);
	if (t->n_computed < sinks + 1 || from < sinks) {
		/* The head is short; where it does not meet the tail it comes first. */
		if (from <= sinks)
			from = 0;
		else if (sinks > 0)
			ask_tokens(t, 0, sinks < n ? sinks : n, false);
	}
	ask_tokens(t, from, n, true);
}

/* Why a checkpoint is of no use; NULL: it is. */
static const char *unusable(const struct timeline *t, const struct checkpoint *c)
{
	const struct engine *e = t->engine;

	if (c->fingerprint != t->row.fingerprint)
		return "it is of another model";
	if (strcmp(c->layout, e->ops->kv_layout(e->backend, e->shape.type)) != 0 || c->n_chunk != e->shape.n_chunk ||
	    c->window.n_sink != t->row.window.n_sink || c->window.n_recent != t->row.window.n_recent ||
	    c->n_kv != e->ops->kv_bytes(&e->shape, t->row.window))
		return "it has another layout";
	if (c->n_computed > t->woken_token || c->start > c->n_computed)
		return "it is ahead of the log";
	if (c->n_computed == t->woken_token && c->chain != t->woken_chain)
		return "it is of another log";
	return NULL;
}

static void got_checkpoint(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;
	struct engine *e = t->engine;
	const char *wrong = NULL;

	if (t->deleting || t->gone || t->state != TIMELINE_LOADING)
		return;
	if (j->rc != 0 && j->rc != STORE_NONE)
		wrong = j->why.name[0] != '\0' ? j->why.text : "it cannot be read";
	if (j->rc == 0)
		wrong = unusable(t, j->checkpoint);
	if (j->rc == 0 && wrong == NULL &&
	    e->ops->kv_write(e->kv, t->slot, j->checkpoint->kv, j->checkpoint->n_kv) != 0) {
		device_failed(e, "a checkpoint could not be copied to it");
		return;
	}
	if (wrong != NULL && j->rc != 0 && store_passes(&j->why)) {    /* the file is as good as it was */
		log_warning("session %llu: its checkpoint was not read (%s); it is built again from its log",
		            (unsigned long long)t->row.id, j->why.name);
	} else if (wrong != NULL) {
		log_warning("session %llu: bad_checkpoint: %s; it is built again from its log",
		            (unsigned long long)t->row.id, wrong);
		e->stats.checkpoints_refused++;
		call_post(call_new(e, t, NULL, NULL), store_job_new(STORE_CHECKPOINT_DROP, t->row.id));
	}
	if (j->rc == 0 && wrong == NULL) {
		t->n_computed = j->checkpoint->n_computed;
		t->start = j->checkpoint->start;
		e->stats.checkpoints_loaded++;
	} else {
		t->rebuilding = true;
	}
	load_tokens(t);
}

/* From a copy in the machine's memory; false: there is none that fits. */
static bool swap_in(struct timeline *t)
{
	struct engine *e = t->engine;
	struct swap_copy *copy = swap_find(e->swap, t->row.id);
	bool fits = copy != NULL && unusable(t, &copy->c) == NULL;

	if (fits && e->ops->kv_write(e->kv, t->slot, copy->c.kv, copy->c.n_kv) != 0) {
		device_failed(e, "a cache could not be copied to it");
		return false;
	}
	if (fits) {
		t->n_computed = copy->c.n_computed;
		t->start = copy->c.start;
		e->stats.swapped_in++;
	}
	if (copy != NULL)
		swap_spend(e->swap, copy);
	return fits;
}

static void settle(struct timeline *t, uint32_t slot, uint64_t n_computed, uint64_t start)
{
	struct engine *e = t->engine;
	struct place *p = &e->places[slot];

	assert(p->owner == NULL);
	p->owner = t;
	t->slot = slot;
	t->ring = p->ring;
	t->head = p->head;
	t->n_token = t->row.n_token;
	t->n_computed = n_computed;
	t->start = start;
	t->ring_from = t->n_token;
	t->woken_token = t->row.n_token;
	t->woken_chain = t->row.chain;
	t->rebuilding = t->moved = false;
	t->since_saved = 0;
	t->last_step = e->stats.steps;
	t->state = TIMELINE_LOADING;
}

static void wake(struct timeline *t, uint32_t slot)
{
	struct engine *e = t->engine;

	settle(t, slot, 0, 0);
	if (t->cur == NULL)
		order_ask(t);
	if (t->n_token == 0) {
		ready(t);
		return;
	}
	timeline_news(t, EVENT_STATE, "loading", 0);
	if (swap_in(t)) {
		load_tokens(t);
		return;
	}
	if (e->lost.name[0] != '\0')           /* it leaves again before this turn is over */
		return;
	call_post(call_new(e, t, NULL, got_checkpoint), store_job_new(STORE_CHECKPOINT_GET, t->row.id));
}

void resident_adopt(struct timeline *t, uint32_t slot, uint64_t n_computed, uint64_t start)
{
	settle(t, slot, n_computed, start);
	t->moved = true;
	kept_stamp(t, n_computed);
	if (t->cur == NULL && t->n_queued > 0)
		order_ask(t);
	load_tokens(t);
}

/* ---- leaving ---- */

static void saved(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;

	swap_release(c->engine->swap, c->copy);
	t->saving = false;
	if (j->rc == 0) {
		c->engine->stats.checkpoints_written++;
		return;
	}
	t->moved = true;               /* what is on disk is older */
	if (!t->deleting)
		log_warning("session %llu: its checkpoint could not be written", (unsigned long long)t->row.id);
}

/* The slot as it is now, of whose tokens the first n are logged; leaving: it stays
 * in memory.  NULL: there is no memory, or nobody wants it. */
static struct swap_copy *copy_slot(struct timeline *t, uint64_t n, bool leaving)
{
	struct engine *e = t->engine;
	struct swap_copy *copy = swap_new(e->swap, t->row.id, e->ops->kv_bytes(&e->shape, t->row.window));
	struct checkpoint *c;

	if (copy == NULL) {
		log_warning("session %llu: no memory for a checkpoint", (unsigned long long)t->row.id);
		return NULL;
	}
	if (leaving)
		swap_keep(e->swap, copy);
	if (!t->moved && !copy->kept) {
		swap_release(e->swap, copy);
		return NULL;
	}
	c = &copy->c;
	c->fingerprint = t->row.fingerprint;
	snprintf(c->layout, sizeof c->layout, "%s", e->ops->kv_layout(e->backend, e->shape.type));
	c->window = t->row.window;
	c->n_chunk = e->shape.n_chunk;
	c->n_computed = n;
	c->start = t->start;
	c->chain = t->row.chain;
	if (e->ops->kv_read(e->kv, t->slot, c->kv, c->n_kv) == 0)
		return copy;
	swap_spend(e->swap, copy);
	swap_release(e->swap, copy);
	device_failed(e, "a cache could not be copied from it");
	return NULL;
}

static void write_copy(struct timeline *t, struct swap_copy *copy)
{
	struct store_job *j = store_job_new(STORE_CHECKPOINT_PUT, t->row.id);
	struct call *call = call_new(t->engine, t, NULL, saved);

	j->checkpoint = malloc(sizeof *j->checkpoint);
	if (j->checkpoint == NULL)
		abort();
	*j->checkpoint = copy->c;
	j->checkpoint->lent = true;
	call->copy = copy;
	t->saving = true;
	t->moved = false;
	t->since_saved = 0;
	call_post(call, j);
}

static void save(struct timeline *t, bool leaving)
{
	struct engine *e = t->engine;
	uint64_t n = t->n_computed < t->row.n_token ? t->n_computed : t->row.n_token;
	struct swap_copy *copy;

	/* A cache can be set back by a chunk, not by more. */
	if (t->state != TIMELINE_READY || (!t->moved && !leaving) || n == 0 || t->n_computed - n >= e->n_chunk ||
	    t->start > n || t->stalled || t->bad[0] != '\0' || t->n_out > 0)
		return;
	copy = copy_slot(t, n, leaving);
	if (copy == NULL)
		return;
	e->stats.swapped_out += copy->kept;
	if (t->moved)
		write_copy(t, copy);
	else
		swap_release(e->swap, copy);
}

void resident_save(struct timeline *t)
{
	save(t, false);
}

/* So often that a restart replays no more than min(R, 10 s of prefill); not while
 * it is far behind, since it will jump. */
void resident_save_when_due(struct timeline *t)
{
	struct engine *e = t->engine;
	uint64_t due = t->row.window.n_recent;

	if (e->row_seconds > 0 && due > 10 / e->row_seconds)
		due = (uint64_t)(10 / e->row_seconds);
	if (due < e->n_chunk)
		due = e->n_chunk;
	if (t->since_saved >= due && !t->saving && t->n_token - t->n_computed <= t->bound)
		resident_save(t);
}

/* Gives the slot back, in the middle of its work if need be: what is not logged is
 * generated again, the same. */
void resident_leave(struct timeline *t, bool keep)
{
	struct engine *e = t->engine;

	if (keep)
		save(t, true);
	slots_drop(e->slots, t->slot);
	e->places[t->slot].owner = NULL;
	t->ring = t->head = NULL;
	t->state = TIMELINE_ASLEEP;
	t->n_token = t->row.n_token;
	held_clear(&t->held);
	order_free(t->cur);
	t->cur = NULL;
	resident_want(t);
}
