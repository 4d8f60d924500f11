/*
 * The table of sessions, and the verbs that show, change and remove them.
 *
 * Sessions are keyed by (owner's uid, name).  One that is being made is in the
 * table, so that its name is taken, and one that is being removed until the store
 * has overwritten it: who names such a one waits.
 *
 * It must not touch tokens or caches.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/session/engine-internal.h"

/* ---- the table ---- */

static struct timeline **bucket_of(struct engine *e, uid_t uid, const char *name)
{
	uint32_t h = 2166136261u ^ (uint32_t)uid;

	for (; *name != '\0'; name++)
		h = (h ^ (unsigned char)*name) * 16777619u;
	return &e->hash[(h ^ h >> 15) % HASH_SIZE];
}

static void link_in(struct timeline *t)
{
	struct timeline **at = bucket_of(t->engine, t->row.uid, t->row.name);

	t->hash_next = *at;
	*at = t;
}

static void link_out(struct timeline *t)
{
	struct timeline **at = bucket_of(t->engine, t->row.uid, t->row.name);

	while (*at != t)
		at = &(*at)->hash_next;
	*at = t->hash_next;
}

struct timeline *timeline_find(struct engine *e, uid_t uid, const char *name)
{
	struct timeline *t = *bucket_of(e, uid, name);

	while (t != NULL && (t->row.uid != uid || strcmp(t->row.name, name) != 0))
		t = t->hash_next;
	return t;
}

struct timeline *timeline_to_be(struct engine *e, uid_t uid, const char *name)
{
	struct timeline *t;
	size_t i;

	for (i = 0; e->n_renaming > 0 && i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			if (t->row.uid == uid && t->new_name[0] != '\0' && strcmp(t->new_name, name) == 0)
				return t;
	return NULL;
}

struct timeline *timeline_by_id(struct engine *e, uint64_t id)
{
	struct timeline *t;
	size_t i;

	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			if (t->row.id == id)
				return t;
	return NULL;
}

struct timeline *timeline_new(struct engine *e, const struct session_row *row)
{
	struct timeline *t = calloc(1, sizeof *t);

	if (t == NULL)
		abort();
	t->engine = e;
	t->row = *row;
	t->n_token = row->n_token;
	t->failed_last = &t->failed;
	link_in(t);
	e->n_session++;
	if (e->phase == PHASE_READY)
		timeline_adopt(t);
	return t;
}

void timeline_adopt(struct timeline *t)
{
	struct engine *e = t->engine;

	t->changed = t->row.fingerprint != model_info(e->model)->fingerprint;
	t->oversize = window_check(e, t->row.window, NULL) != 0;
	t->chat = t->row.raw || t->changed ? NULL : model_chat(e->model);
	t->bound = model_replay(e->model, t->row.window);
	t->told_start = timeline_window_start(t, t->row.n_token);
}

void timeline_free(struct timeline *t)
{
	struct store_job *j;
	struct bond *b;
	size_t i;

	if (t == NULL)
		return;
	while ((j = t->failed) != NULL) {
		t->failed = (struct store_job *)j->letter.next;
		store_job_free(j);
	}
	while ((b = t->bonds) != NULL) {
		t->bonds = b->next;
		free(b);
	}
	for (i = 0; i < t->n_out; i++)
		event_clear(&t->out[i]);
	free(t->out);
	order_free(t->cur);
	held_free(&t->held);
	free(t);
}

/* Out of every table; freed when its last job is back. */
void timeline_unlink(struct timeline *t)
{
	link_out(t);
	resident_forget(t);
	t->engine->n_session--;
	t->engine->again = true;       /* who names it waits no more */
	t->gone = true;
}

uint64_t timeline_stored(const struct timeline *t)
{
	const struct engine *e = t->engine;

	/* The log, and the checkpoint. */
	return t->n_stored + (e->kv != NULL && t->row.n_token > 0 ? e->ops->kv_bytes(&e->shape, t->row.window) : 0);
}

/* ---- checks ---- */

int window_check(const struct engine *e, struct window w, struct reason *why)
{
	if (w.n_recent == 0)
		return refuse(why, "bad_param", "window: at least 1 token");
	if ((uint64_t)w.n_sink + w.n_recent + 1 > e->n_window_max)
		return refuse(why, "window_too_large", "sinks %u + window %u + 1 is over %u tokens",
		              w.n_sink, w.n_recent, e->n_window_max);
	return 0;
}

int settings_check(const struct settings *s, unsigned given, struct reason *why)
{
	const struct sampling *p = &s->sampling;
	uint32_t i;

	if (given & GIVEN_TEMPERATURE && !(p->temperature >= 0 && p->temperature <= 100))
		return refuse(why, "bad_param", "temperature: 0 to 100");
	if (given & GIVEN_TOP_P && !(p->top_p >= 0 && p->top_p <= 1))
		return refuse(why, "bad_param", "top_p: 0 to 1");
	if (given & GIVEN_MIN_P && !(p->min_p >= 0 && p->min_p <= 1))
		return refuse(why, "bad_param", "min_p: 0 to 1");
	if (given & GIVEN_REPEAT_PENALTY && !(p->repeat_penalty > 0 && p->repeat_penalty <= 100))
		return refuse(why, "bad_param", "repeat_penalty: over 0, to 100");
	if (given & GIVEN_MAX_TOKENS && s->max_tokens == 0)
		return refuse(why, "bad_param", "max_tokens: at least 1");
	if (!(given & GIVEN_STOP))
		return 0;
	if (s->stops.n > STOP_MAX)
		return refuse(why, "bad_param", "stop: at most %d", STOP_MAX);
	for (i = 0; i < s->stops.n; i++)
		if (s->stops.at[i].n == 0 || s->stops.at[i].n > STOP_BYTES)
			return refuse(why, "bad_param", "stop: 1 to %d bytes each", STOP_BYTES);
	return 0;
}

/* As asked; what was not asked is made to fit the model. */
struct window window_of(const struct engine *e, const struct request *r)
{
	struct window w = e->p.window;
	uint32_t most = e->n_window_max - 1;

	if (r->given & GIVEN_SINKS)
		w.n_sink = r->window.n_sink;
	if (w.n_recent == 0)
		w.n_recent = 2000;
	if (r->given & GIVEN_WINDOW)
		w.n_recent = r->window.n_recent;
	else if (w.n_sink < most && w.n_recent > most - w.n_sink)
		w.n_recent = most - w.n_sink;
	return w;
}

bool name_check(const char *s)
{
	size_t i;

	for (i = 0; s[i] != '\0'; i++)
		if (strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", s[i]) == NULL &&
		    (i == 0 || strchr("._-", s[i]) == NULL))
			return false;
	return i > 0 && i <= SESSION_NAME_MAX;
}

/* ---- list, info ---- */

static int by_name(const void *a, const void *b)
{
	const struct timeline *x = *(struct timeline *const *)a, *y = *(struct timeline *const *)b;

	if (x->row.uid != y->row.uid)
		return x->row.uid < y->row.uid ? -1 : 1;
	return strcmp(x->row.name, y->row.name);
}

void verb_list(struct engine *e, struct request *r, struct timeline *none)
{
	struct timeline **all = calloc(e->n_session + 1, sizeof *all), *t;
	struct value *list = value_list();
	size_t i, n = 0;

	(void)none;
	if (all == NULL) {
		value_free(list);
		answer_refused(e, r, "memory", "no memory for the list");
		return;
	}
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next)
			if (!t->creating && !t->deleting && may(r, t, ACCESS_READ))
				all[n++] = t;
	qsort(all, n, sizeof *all, by_name);
	for (i = 0; i < n; i++)
		value_push(list, session_value(all[i]));
	free(all);
	r->result = value_map();
	value_put(r->result, "sessions", list);
	answer(e, r);
}

/* ---- set, rename ---- */

static void take_name(struct timeline *t, const char *name)
{
	link_out(t);
	snprintf(t->row.name, sizeof t->row.name, "%s", name);
	link_in(t);
}

static void changed_row(struct call *c, struct store_job *j)
{
	struct engine *e = c->engine;
	struct timeline *t = c->t;
	struct request *r = c->r;
	const bool renamed = t->new_name[0] != '\0';

	t->changing = false;
	t->new_name[0] = '\0';
	e->n_renaming -= renamed;
	e->again = true;
	if (j->rc != 0) {
		answer_failed(e, r, j, "the change could not be written to disk");
		return;
	}
	t->row.settings = j->row.settings;
	t->row.share = j->row.share;
	if (r->given & GIVEN_MODEL)
		t->row.n_kill = j->row.n_kill;
	if (renamed) {
		take_name(t, j->row.name);
		timeline_news(t, EVENT_STATE, "renamed", 1);
	}
	r->result = session_value(t);
	answer(e, r);
	resident_want(t);
}

/* It is as before until the store has taken the row; meanwhile who names it waits. */
static void change_row(struct request *r, struct timeline *t, struct store_job *j)
{
	j->durable = true;
	t->changing = true;
	call_post(call_new(t->engine, t, r, changed_row), j);
}

static int set_check(const struct request *r, const struct timeline *t)
{
	struct reason *why = &((struct request *)r)->why;

	if (r->given & (GIVEN_SINKS | GIVEN_WINDOW))
		return refuse(why, "bad_param", "the window of a session is fixed when it is made");
	if (r->given & GIVEN_SHARE && r->share >= N_SHARE)
		return refuse(why, "bad_param", "share: none, group-read or group-write");
	if (r->given & GIVEN_MODEL && t->changed)
		return refuse(why, "not_finished", "a session cannot be rebuilt with another model yet");
	return settings_check(&r->settings, r->given, why);
}

static struct store_job *row_job(const struct timeline *t)
{
	struct store_job *j = store_job_new(STORE_SESSION_PUT, t->row.id);

	j->row = t->row;
	return j;
}

void verb_set(struct engine *e, struct request *r, struct timeline *t)
{
	struct store_job *j;

	r->rc = store_read_only(e->p.store, &r->why) ? REFUSED : set_check(r, t);
	if (r->rc != 0) {
		answer(e, r);
		return;
	}
	j = row_job(t);
	settings_merge(&j->row.settings, &r->settings, r->given);
	if (r->given & GIVEN_SHARE)
		j->row.share = r->share;
	/* Rebuilt with the loaded model: one that was set aside gets another chance. */
	if (r->given & GIVEN_MODEL)
		j->row.n_kill = 0;
	change_row(r, t, j);
}

void verb_rename(struct engine *e, struct request *r, struct timeline *t)
{
	const struct timeline *there;
	struct store_job *j;

	if (store_read_only(e->p.store, &r->why)) {
		r->rc = REFUSED;
		answer(e, r);
	} else if (!name_check(r->new_name)) {
		answer_refused(e, r, "bad_name", "a name is [A-Za-z0-9][A-Za-z0-9._-]{0,63}");
	} else if ((there = timeline_find(e, t->row.uid, r->new_name)) != NULL && there->undoing) {
		answer_refused(e, r, "disk", "what was to be %s is not off the disk yet", r->new_name);
	} else if (there != NULL) {
		answer_refused(e, r, "session_exists", "there is a session %s", r->new_name);
	} else {
		j = row_job(t);
		snprintf(j->row.name, sizeof j->row.name, "%s", r->new_name);
		snprintf(t->new_name, sizeof t->new_name, "%s", r->new_name);
		e->n_renaming++;
		change_row(r, t, j);
	}
}

/* ---- delete ---- */

static void deleted(struct call *c, struct store_job *j)
{
	struct engine *e = c->engine;
	struct timeline *t = c->t;
	struct published *p;

	e->again = true;
	if (j->rc != 0) {
		t->deleting = false;
		resident_want(t);
		answer_failed(e, c->r, j, "the session could not be removed from disk");
		return;
	}
	p = calloc(1, sizeof *p);
	if (p == NULL)
		abort();
	p->event.session = t->row.id;
	p->event.kind = EVENT_STATE;
	p->event.state = "deleted";
	p->event.time = clock_ms();
	p->event.position = t->row.n_token;
	p->event.progress = 1;
	p->deleted = true;
	memcpy(p->name, t->row.name, sizeof p->name);
	p->owner = t->row.uid;
	p->letter.open = e->p.on_published;
	mailbox_post(e->p.serve, &p->letter);
	timeline_unlink(t);
	c->r->result = value_map();
	answer(e, c->r);
}

void verb_delete(struct engine *e, struct request *r, struct timeline *t)
{
	struct store_job *j;

	if (store_read_only(e->p.store, &r->why)) {
		r->rc = REFUSED;
		answer(e, r);
		return;
	}
	t->deleting = true;
	waiters_refuse(t, "no_session", "the session has been deleted");
	if (t->state != TIMELINE_ASLEEP)
		resident_leave(t, false);
	if (e->swap != NULL)
		swap_forget(e->swap, t->row.id);
	j = store_job_new(STORE_SESSION_DELETE, t->row.id);
	j->durable = true;
	call_post(call_new(e, t, r, deleted), j);
}
