/*
 * Unloading: a device that nobody has needed for a while is closed, and the next
 * request that needs it opens it again.
 *
 *   READY --at rest for unload_seconds--> UNLOADED, leaving --saves are back-->
 *   UNLOADED --a request waits--> LOADING --> READY
 *
 * The hard idea: nothing new has to be kept.  A session without a slot is a session
 * that sleeps, a request that comes too early is one that waits for a model that
 * loads; both were there before.
 *
 * It must not wake anybody: while nothing is asked for, it sleeps without a timer.
 */
#include <malloc.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

/* Nothing is on its way, and nobody has anything to compute. */
static bool at_rest(const struct engine *e)
{
	const struct timeline *t;
	size_t i;

	if (e->n_job > 0 || e->scores != NULL || e->deferred != NULL || e->waiting != NULL)
		return false;
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			if (t->stalled || t->state == TIMELINE_LOADING ||
			    (timeline_busy(t) && timeline_usable(t, NULL) == 0))
				return false;
	return true;
}

static double due_at(const struct engine *e)
{
	return e->used + e->p.unload_seconds;
}

int unload_wait(const struct engine *e, int wait)
{
	return e->phase == PHASE_READY && e->p.unload_seconds > 0 ? wait_until(wait, due_at(e)) : wait;
}

static void leave(struct engine *e)
{
	struct timeline *t;
	uint32_t i;

	e->phase = PHASE_UNLOADED;
	e->leaving = true;
	engine_tell(e, ENGINE_UNLOADING, 0, NULL);
	for (i = 0; i < e->p.n_slot; i++) {
		t = e->places[i].owner;
		if (t == NULL)
			continue;
		resident_save(t);
		resident_leave(t, false);
	}
}

/* Everything is on disk: the device's memory goes back, and what it took of ours. */
static void left(struct engine *e)
{
	struct timeline *t;
	size_t i;

	e->leaving = false;
	memset(&e->lost, 0, sizeof e->lost);   /* what failed now is closed anyhow */
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			t->chat = NULL;                /* the model's */
	device_close(e);
	malloc_trim(0);
	e->stats.unloads++;
	log_notice("the model is unloaded after %u s without work; the next request loads it again",
	           e->p.unload_seconds);
	engine_tell(e, ENGINE_UNLOADED, 0, NULL);
}

static void come_back(struct engine *e)
{
	struct reason why = { .name = "" };
	int rc;

	e->phase = PHASE_LOADING;
	e->load_progress = 0;
	engine_tell(e, ENGINE_LOADING, 0, NULL);
	rc = engine_bring(e, &why);
	if (e->phase == PHASE_STOPPING)
		return;
	if (rc == 0) {
		log_notice("the model is loaded again");
		engine_ready(e);
		return;
	}
	if (why.name[0] == '\0')
		refuse(&why, "internal", "the model could not be loaded again; see the log");
	log_error("the model could not be loaded again: %s: %s", why.name, why.text);
	device_close(e);
	e->phase = PHASE_UNLOADED;
	requests_refuse(e, &why);
	engine_tell(e, ENGINE_UNLOADED, 0, NULL);
}

bool unload_turn(struct engine *e, bool did)
{
	if (e->phase == PHASE_READY && did)
		e->used = clock_seconds();
	if (e->phase == PHASE_READY && e->p.unload_seconds > 0 && due_at(e) <= clock_seconds()) {
		if (at_rest(e))
			leave(e);
		else
			e->used = clock_seconds();
	}
	if (e->phase != PHASE_UNLOADED)
		return false;
	if (e->leaving && !swap_busy(e->swap))
		left(e);
	if (e->leaving || !requests_want_model(e))
		return false;
	come_back(e);
	return true;
}
