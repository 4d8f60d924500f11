/*
 * A session is made: what is asked for is checked, its row goes to the store, its
 * system prompt behind it as the first order, and then it is there.
 *
 * One whose prompt could not be stored goes from the store again, however often that
 * fails: else it would be there after a restart.
 *
 * It must not touch tokens or caches.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "daemon/base/clock.h"
#include "daemon/session/engine-internal.h"

static uint64_t any_seed(void)
{
	uint64_t seed = 0;

	if (getrandom(&seed, sizeof seed, 0) != (ssize_t)sizeof seed)
		return (uint64_t)clock_ms();
	return seed >> 11;             /* exact in any client's number */
}

/* Tokens of BOS and the whole system turn: what `pin` makes part of the head. */
static int pin_count(struct engine *e, const struct request *r, const struct chat_format *chat, size_t *n)
{
	struct chat_state s = { 0 };
	struct ids ids = { 0 };
	size_t at = 0, cut;
	int rc = 0;

	while (rc == 0 && at < r->n_system) {
		cut = apply_cut(r->system + at, r->n_system - at);
		rc = apply_text(e, chat, &s, ids.n == 0, at == 0, chat != NULL ? ROLE_SYSTEM : ROLE_RAW,
		                r->system + at, cut, &ids);
		at += cut;
	}
	if (rc == 0 && chat != NULL)
		rc = chat_close(chat, e->tokenizer, &s, false, &ids);
	*n = ids.n;
	ids_free(&ids);
	return rc;
}

/* May there be one more, and of this name? */
static int place_check(struct engine *e, const struct request *r, struct reason *why)
{
	const struct timeline *t = timeline_find(e, r->owner, r->name);
	size_t i, mine = 0;

	if (r->uid != 0 && r->uid != r->owner)
		return refuse(why, "not_allowed", "sessions are made under one's own name");
	if (!name_check(r->name))
		return refuse(why, "bad_name", "a name is [A-Za-z0-9][A-Za-z0-9._-]{0,63}");
	if (t != NULL && t->undoing)
		return refuse(why, "disk", "what was to be %s is not off the disk yet", r->name);
	if (t != NULL)
		return refuse(why, "session_exists", "there is a session %s", r->name);
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			mine += t->row.uid == r->owner;
	if (mine >= e->p.caps.sessions)
		return refuse(why, "cap_sessions", "%u sessions are as many as one user may have", e->p.caps.sessions);
	return 0;
}

/* n_pin: the tokens of it that are to stay for ever. */
static int system_check(struct engine *e, struct request *r, const struct chat_format *chat, size_t *n_pin)
{
	struct chat_state s = { 0 };
	struct ids ids = { 0 };
	int rc = caps_check(e, r->owner, r->n_system, &r->why);

	if (rc == 0 && chat != NULL)
		rc = chat_enter(chat, e->tokenizer, &s, ROLE_SYSTEM, &ids, &r->why);
	ids_free(&ids);
	return rc != 0 || !r->pin ? rc : pin_count(e, r, chat, n_pin);
}

static int create_check(struct engine *e, struct request *r, struct session_row *row)
{
	size_t n_pin = 0;
	int rc = place_check(e, r, &r->why);

	if (rc == 0 && r->given & GIVEN_SHARE && r->share >= N_SHARE)
		return refuse(&r->why, "bad_param", "share: none, group-read or group-write");
	if (rc == 0 && r->n_system > 0)
		rc = system_check(e, r, r->raw ? NULL : model_chat(e->model), &n_pin);
	if (rc != 0)
		return rc;
	row->window = window_of(e, r);
	if (n_pin > row->window.n_sink) {
		struct request grown = { .given = r->given | GIVEN_SINKS, .window = r->window };

		if (n_pin >= e->n_window_max)
			return refuse(&r->why, "window_too_large", "the system prompt has %zu tokens, sinks + window + 1 may be %u",
			              n_pin, e->n_window_max);
		grown.window.n_sink = (uint32_t)n_pin;
		row->window = window_of(e, &grown);
	}
	rc = window_check(e, row->window, &r->why);
	return rc != 0 ? rc : settings_check(&row->settings, GIVEN_SETTINGS, &r->why);
}

static void create_failed(struct timeline *t, struct request *r, const struct store_job *j)
{
	answer_failed(t->engine, r, j, "the session could not be written to disk");
}

static void undone(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;

	if (j->rc != 0 && store_passes(&j->why))
		timeline_stall(t, &j->why);    /* else it would be there after a restart */
	else
		timeline_unlink(t);
}

void timeline_undo(struct timeline *t)
{
	t->undoing = t->engine->again = true;  /* who names it waits no more */
	t->n_queued_bytes = 0;
	call_post(call_new(t->engine, t, NULL, undone), store_job_new(STORE_SESSION_DELETE, t->row.id));
}

static void created_finish(struct timeline *t, struct request *r)
{
	t->creating = false;
	t->engine->again = true;
	r->session = t->row.id;
	r->result = session_value(t);
	answer(t->engine, r);
	resident_want(t);
}

static void system_put(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;

	if (j->rc != 0) {
		timeline_undo(t);      /* nobody has seen it: it goes again */
		create_failed(t, c->r, j);
		return;
	}
	t->n_queued = 1;
	t->n_queued_bytes = j->order->n_payload;
	created_finish(t, c->r);
}

static void created(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;
	struct request *r = c->r;
	struct order *o;

	if (j->rc != 0) {
		timeline_unlink(t);
		create_failed(t, r, j);
		return;
	}
	t->row.id = j->row.id;
	if (r->n_system == 0) {
		created_finish(t, r);
		return;
	}
	o = calloc(1, sizeof *o);
	if (o == NULL)
		abort();
	o->session = t->row.id;
	o->kind = ORDER_APPEND;
	o->role = t->chat != NULL ? ROLE_SYSTEM : ROLE_RAW;
	o->settings = t->row.settings;
	o->given = r->pin ? GIVEN_PIN : 0;
	o->payload = r->system;
	o->n_payload = r->n_system;
	r->system = NULL;
	j = store_job_new(STORE_ORDER_PUT, t->row.id);
	j->order = o;
	j->durable = true;
	call_post(call_new(c->engine, t, r, system_put), j);
}

void verb_create(struct engine *e, struct request *r, struct timeline *none)
{
	struct session_row row = { .uid = r->owner, .gid = r->gid, .raw = r->raw, .settings = e->p.settings };
	struct timeline *t;
	struct store_job *j;

	(void)none;
	memcpy(row.name, r->name, sizeof row.name);
	row.created = row.used = clock_ms();
	row.fingerprint = model_info(e->model)->fingerprint;
	snprintf(row.model, sizeof row.model, "%s", model_info(e->model)->name);
	settings_merge(&row.settings, &r->settings, r->given);
	if (!(r->given & GIVEN_SEED) && row.settings.sampling.seed == 0)
		row.settings.sampling.seed = any_seed();
	if (r->given & GIVEN_SHARE)
		row.share = r->share;
	/* A model without a chat format has raw sessions only. */
	row.raw = r->raw || model_chat(e->model) == NULL;
	r->rc = store_read_only(e->p.store, &r->why) ? REFUSED : create_check(e, r, &row);
	if (r->rc != 0) {
		answer(e, r);
		return;
	}
	t = timeline_new(e, &row);
	t->creating = true;
	t->n_queued_bytes = r->n_system;
	j = store_job_new(STORE_SESSION_PUT, 0);
	j->durable = true;
	j->row = row;
	call_post(call_new(e, t, r, created), j);
}
