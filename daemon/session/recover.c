/*
 * Recovery: a device that has failed in a step is closed and opened again under the
 * sessions, which come back from their checkpoints and logs.
 *
 *   READY --a failure--> LOADING, the slots are left --copies are on disk--> closed
 *   --opened again, at once or after a while--> READY
 *
 * The hard idea: nothing on the device is believed any more, and nothing of it is
 * needed.  What a session computed is a function of its log, what it will say a
 * function of its seed and position; so an answer that was cut off goes on with the
 * very tokens that it would have had, and who waits for it only waits longer.
 *
 * It is the same device again or none: one that fails over and over, or does not
 * open, ends the daemon, and a new process decides anew.
 *
 * A failure is nobody's fault, until the same tokens of a session have met it again and
 * again, the last time with no other session in the step, on a device that computes
 * otherwise: each time it is opened it is tried.  Such a session is set aside.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

#define FAILURES_MOST 6u       /* steps and attempts, of which the last ends the daemon, */
#define GOOD_STEPS 100u        /* unless as many steps went well before it */

/* Seconds before the device is opened for the n-th time since it was well. */
static unsigned pause_before(uint32_t n)
{
	return n < 2 ? 0 : 1u << (n - 2);
}

void device_failed(struct engine *e, const char *text)
{
	if (e->lost.name[0] == '\0')
		refuse(&e->lost, "device_lost", "%s", text[0] != '\0' ? text : "a step failed; see the log");
}

static void end(struct engine *e, const char *what, const char *text)
{
	struct reason why;

	refuse(&why, "device_lost", "%s: %.160s", what, text);
	engine_fail(e, why.name, why.text);
}

/* ---- whose fault it is ---- */

/* As one that ended the daemon twice is; its log and its checkpoint stay. */
static void set_aside(struct timeline *t)
{
	struct reason why;

	t->row.n_kill = 2;
	t->probation = t->alone = false;
	t->n_lost = 0;
	timeline_flush(t, true);
	timeline_usable(t, &why);
	log_error("session %llu is set aside: %s", (unsigned long long)t->row.id, why.text);
	waiters_refuse(t, why.name, why.text);
	timeline_news(t, EVENT_STATE, "set_aside", 1);
}

void recover_suspect(struct engine *e, uint32_t n_member)
{
	struct timeline *t;
	uint64_t end;
	uint32_t i;

	for (i = 0; i < n_member; i++) {
		t = e->members[i];
		end = t->n_computed + e->member_rows[i];
		t->n_lost++;
		t->lost_at = end > t->lost_at ? end : t->lost_at;
		t->alone = t->alone || t->n_lost > 1;
	}
	if (n_member == 1 && e->members[0]->n_lost >= LOSSES_MOST)
		set_aside(e->members[0]);
}

void recover_clear(struct timeline *t)
{
	if (t->n_lost == 0 || t->n_computed < t->lost_at)
		return;
	t->n_lost = 0;
	t->lost_at = 0;
	t->alone = false;
}

/* ---- closing and opening ---- */

/* Every session gives up its slot, unsaved, and forgets the model. */
static void leave(struct engine *e)
{
	struct timeline *t;
	size_t i;

	e->phase = PHASE_LOADING;
	e->load_progress = 0;
	for (i = 0; i < e->p.n_slot; i++)
		if (e->places[i].owner != NULL)
			resident_leave(e->places[i].owner, false);
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next) {
			resident_forget(t);
			t->chat = NULL;
		}
	score_restart_all(e);
	engine_tell(e, ENGINE_LOADING, 0, NULL);
}

/* A step or an attempt has failed; false: that was the last one. */
static bool goes_on(struct engine *e)
{
	if (e->stats.steps - e->failed_at >= GOOD_STEPS)
		e->n_failure = 0;
	e->failed_at = e->stats.steps;
	e->n_failure++;
	e->reopen_at = clock_seconds() + pause_before(e->n_failure);
	return e->n_failure < FAILURES_MOST;
}

static void failed(struct engine *e)
{
	e->stats.device_failures++;
	log_error("the device failed in a step: %s", e->lost.text);
	if (goes_on(e))
		leave(e);
	else
		end(e, "the device failed again and again", e->lost.text);
}

/* One token, in a slot that nobody has yet: does the device compute at all? */
static int try_out(struct engine *e, struct reason *why)
{
	const struct batch_row row = { .token = 0 };
	const struct batch_seq seq = { .window = { .n_sink = 1, .n_recent = 4 } };
	const uint32_t output = 0;
	const struct batch b = { .n_row = 1, .n_seq = 1, .n_output = 1, .rows = &row, .seqs = &seq, .outputs = &output };
	int rc;

	if (!e->ops->own_slots)
		return 0;
	rc = model_forward(e->model, e->kv, &b, e->logits, NULL, why);
	if (rc == 0 && e->ops->kv_clear(e->kv, seq.slot) != 0)
		rc = refuse(why, "backend", "a cache could not be overwritten");
	return rc;
}

static void reopen(struct engine *e)
{
	struct reason why = { .name = "" };
	int rc = engine_bring(e, &why);

	if (rc == 0)
		rc = try_out(e, &why);
	if (e->phase == PHASE_STOPPING)
		return;
	if (rc == 0) {
		memset(&e->lost, 0, sizeof e->lost);
		log_notice("the device is open again; sessions come back from their checkpoints and logs");
		engine_ready(e);
		return;
	}
	device_close(e);
	if (goes_on(e))
		log_warning("the device is not to be had (%u of %u failures): %s; it is tried again in %u s", e->n_failure,
		            FAILURES_MOST, why.text, pause_before(e->n_failure));
	else
		end(e, "the device failed and could not be opened again", why.text);
}

/* What the store still writes lies in the device's pinned memory. */
static bool writes(const struct engine *e)
{
	return e->swap != NULL && swap_busy(e->swap);
}

bool recover_turn(struct engine *e)
{
	if (e->lost.name[0] == '\0' || e->phase == PHASE_FAILED || e->phase == PHASE_STOPPING)
		return false;
	if (e->phase == PHASE_READY)
		failed(e);
	if (e->phase != PHASE_LOADING || writes(e))
		return false;
	device_close(e);
	if (clock_seconds() < e->reopen_at)
		return false;
	reopen(e);
	return true;
}

int recover_wait(const struct engine *e, int wait)
{
	bool waits = e->lost.name[0] != '\0' && e->phase == PHASE_LOADING && !writes(e);

	return waits ? wait_until(wait, e->reopen_at) : wait;
}
