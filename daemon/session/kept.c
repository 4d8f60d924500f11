/*
 * Kept caches: sessions whose slots an earlier process left in its slab go on where
 * they are, without a checkpoint.
 *
 * The hard idea: the process before us may have been ahead of what is committed, and
 * may have died inside a step.  What it had computed is what we would compute again,
 * so its cache is simply set back to the committed log; the ring has SET_BACK places
 * more than steps use, so the keys that this takes are still there.  Where they are
 * not, or the catch-up that a jump began was not finished, the slot is dropped and
 * the session comes back the ordinary way.
 *
 * It must not read the slot's bytes.
 */
#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

void kept_stamp(const struct timeline *t, uint64_t n_written)
{
	const struct slab_stamp stamp = {
		.session = t->row.id, .window = t->row.window, .n_computed = t->n_computed,
		.n_written = n_written, .start = t->start,
	};

	slots_stamp(t->engine->slots, t->slot, &stamp);
}

/* Is what the stamp says of use to t, whose committed log it has to meet? */
static bool usable(const struct timeline *t, const struct slab_stamp *s)
{
	uint64_t n = s->n_computed < t->row.n_token ? s->n_computed : t->row.n_token;
	uint64_t ahead = s->n_written > s->n_computed ? s->n_written : s->n_computed;

	if (timeline_usable(t, NULL) != 0 || t->state != TIMELINE_ASLEEP || t->row.n_token == 0 || t->deleting ||
	    s->window.n_sink != t->row.window.n_sink || s->window.n_recent != t->row.window.n_recent)
		return false;
	if (s->start > t->row.window.n_sink && t->row.n_token < s->start + t->bound)
		return false;
	/* One more: the newest token is computed again for its logits. */
	return n > s->start && n - 1 + t->engine->shape.n_chunk >= ahead;
}

void kept_adopt(struct engine *e)
{
	struct slab_stamp s;
	struct timeline *t;
	uint32_t slot, n = 0;

	if (!slots_kept(e->slots))
		return;
	for (slot = 0; slot < e->p.n_slot; slot++) {
		if (!slots_left(e->slots, slot, &s))
			continue;
		t = timeline_by_id(e, s.session);
		if (t == NULL || !usable(t, &s)) {
			slots_drop(e->slots, slot);
			continue;
		}
		resident_adopt(t, slot, s.n_computed < t->row.n_token ? s.n_computed : t->row.n_token, s.start);
		n++;
	}
	e->stats.kept = n;
	log_info("session memory of the daemon before: %u caches go on as they are", n);
}
