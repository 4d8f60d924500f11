/*
 * Requests: one table says for each verb what it needs and who may use it; what
 * passes the table's checks goes to the verb's function.
 *
 * The hard idea: what has to wait stands in one line.  It waits for the model; or for
 * the store, where it names a session that is being made or deleted; or behind
 * another one of its peer that does and names the same session, so that what is sent
 * on one connection is taken in the order in which it was sent.  When any of these is
 * over, the whole line is asked again, from its beginning.
 *
 * It must not know how requests travel, and must not let anybody learn whether a
 * session exists that is not his to see.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

struct verb_row {
	void (*run)(struct engine *, struct request *, struct timeline *);
	enum access access;        /* NONE: names no session (or makes one) */
	bool needs_model;
	bool waits;                /* for a model that loads, which says what of a session is usable */
	bool asks;                 /* only asks: where its peer has left nobody wants it */
	bool damaged;              /* works on a session whose log does not verify */
	bool always;               /* also while stopping */
};

static const struct verb_row verbs[N_VERB] = {
	[VERB_CREATE]       = { .run = verb_create, .needs_model = true },
	[VERB_LIST]         = { .run = verb_list },
	[VERB_INFO]         = { .run = verb_info, .access = ACCESS_READ, .asks = true, .damaged = true },
	[VERB_SET]          = { .run = verb_set, .access = ACCESS_OWNER, .needs_model = true },
	[VERB_RENAME]       = { .run = verb_rename, .access = ACCESS_OWNER },
	[VERB_DELETE]       = { .run = verb_delete, .access = ACCESS_OWNER, .damaged = true },
	[VERB_APPEND]       = { .run = verb_order, .access = ACCESS_WRITE, .needs_model = true },
	[VERB_GENERATE]     = { .run = verb_order, .access = ACCESS_WRITE, .needs_model = true },
	[VERB_SAY]          = { .run = verb_order, .access = ACCESS_WRITE, .needs_model = true },
	[VERB_CANCEL]       = { .run = verb_cancel, .access = ACCESS_WRITE, .waits = true },
	[VERB_READ]         = { .run = verb_read, .access = ACCESS_READ, .asks = true },
	[VERB_SHOW]         = { .run = verb_show, .access = ACCESS_READ, .needs_model = true, .asks = true },
	[VERB_SCORE]        = { .run = verb_score, .needs_model = true, .asks = true },
	[VERB_TOKENIZE]     = { .run = verb_tokenize, .needs_model = true, .asks = true },
	[VERB_DETOKENIZE]   = { .run = verb_detokenize, .needs_model = true, .asks = true },
	[VERB_SERVER_INFO]  = { .run = verb_server_info, .always = true },
	[VERB_SERVER_STATS] = { .run = verb_server_stats, .always = true },
	[VERB_PING]         = { .run = verb_ping, .always = true },
	[VERB_PEER_GONE]    = { .run = verb_peer_gone, .always = true },
};

struct request *request_new(enum verb verb)
{
	struct request *r = calloc(1, sizeof *r);

	if (r != NULL)
		r->verb = verb;
	return r;
}

void request_free(struct request *r)
{
	if (r == NULL)
		return;
	free(r->groups);
	free(r->text);
	free(r->system);
	ids_free(&r->tokens);
	value_free(r->result);
	free(r);
}

static bool in_group(const struct request *r, gid_t gid)
{
	size_t i;

	for (i = 0; i < r->n_group; i++)
		if (r->groups[i] == gid)
			return true;
	return r->gid == gid;
}

bool may(const struct request *r, const struct timeline *t, enum access a)
{
	if (r->uid == 0 || r->uid == t->row.uid)
		return true;
	if (a == ACCESS_OWNER || t->row.share == SHARE_NONE || !in_group(r, t->row.gid))
		return false;
	return a == ACCESS_READ || t->row.share == SHARE_GROUP_WRITE;
}

int timeline_usable(const struct timeline *t, struct reason *why)
{
	if (t->bad[0] != '\0')
		return refuse(why, "session_damaged", "%s: %s", t->row.name, t->bad);
	if (t->changed)
		return refuse(why, "model_changed", "%s belongs to the model %s", t->row.name, t->row.model);
	if (t->oversize)
		return refuse(why, "window_too_large", "sinks %u + window %u: the device's slots are for %u tokens; see --window",
		              t->row.window.n_sink, t->row.window.n_recent, t->engine->n_window_max);
	if (t->row.n_kill >= 2 && !t->probation)
		return refuse(why, "session_set_aside", "the engine ended, or its device failed, again and again while computing it");
	return 0;
}

int timeline_workable(const struct timeline *t, struct reason *why)
{
	int rc = timeline_usable(t, why);

	return rc == 0 && store_read_only(t->engine->p.store, why) ? REFUSED : rc;
}

/* The session that r names, where it may be seen; else r is answered. */
static struct timeline *session_of(struct engine *e, struct request *r, const struct verb_row *v)
{
	struct timeline *t = timeline_find(e, r->owner, r->name);

	/* One who reads on means the session that he began with. */
	if (r->session != 0 && (t == NULL || t->row.id != r->session))
		t = timeline_by_id(e, r->session);
	if (t == NULL || t->creating || t->deleting || !may(r, t, ACCESS_READ)) {
		answer_refused(e, r, "no_session", "no session %s", r->name);
		return NULL;
	}
	if (!may(r, t, v->access)) {
		answer_refused(e, r, "not_allowed", v->access == ACCESS_OWNER ?
		               "only the owner of %s may do that" : "%s is shared for reading only", r->name);
		return NULL;
	}
	if (t->bad[0] != '\0' && !v->damaged) {
		r->rc = timeline_usable(t, &r->why);
		answer(e, r);
		return NULL;
	}
	r->session = t->row.id;
	return t;
}

/* ---- those that wait ---- */

static void defer(struct engine *e, struct request *r)
{
	struct request **newest = &e->deferred_of[r->peer % PEER_HASH];

	r->letter.next = NULL;
	*e->deferred_last = r;
	e->deferred_last = (struct request **)&r->letter.next;
	r->older = *newest;
	*newest = r;
}

static struct request *next_of(const struct request *r)
{
	return (struct request *)r->letter.next;
}

/* All of them, for each to be answered, taken or deferred again. */
static struct request *take_deferred(struct engine *e)
{
	struct request *r = e->deferred;

	e->deferred = NULL;
	e->deferred_last = &e->deferred;
	memset(e->deferred_of, 0, sizeof e->deferred_of);
	return r;
}

bool requests_want_model(const struct engine *e)
{
	const struct request *r = e->deferred;

	while (r != NULL && !verbs[r->verb].needs_model)
		r = next_of(r);
	return r != NULL;
}

/* Is the session, or its name, on its way to disk, or from there?  That is nothing to those who may not see it. */
static bool in_the_making(struct engine *e, const struct request *r, const char *name)
{
	const struct timeline *t = timeline_find(e, r->owner, name), *to_be = timeline_to_be(e, r->owner, name);

	return (t != NULL && ((t->creating && !t->undoing) || t->deleting || t->changing) && may(r, t, ACCESS_READ)) ||
	       (to_be != NULL && may(r, to_be, ACCESS_READ));
}

static bool names(const struct request *r, uid_t owner, const char *name)
{
	return name[0] != '\0' && r->owner == owner &&
	       (strcmp(r->name, name) == 0 || strcmp(r->new_name, name) == 0);
}

static bool behind_another(const struct engine *e, const struct request *r)
{
	const struct request *q = e->deferred_of[r->peer % PEER_HASH];

	while (q != NULL && (q->peer != r->peer ||
	                     !(names(q, r->owner, r->name) || names(q, r->owner, r->new_name))))
		q = q->older;
	return q != NULL;
}

static bool must_wait(struct engine *e, const struct verb_row *v, const struct request *r)
{
	if (e->phase == PHASE_LOADING && (v->needs_model || v->waits))
		return true;
	if (e->phase == PHASE_UNLOADED && (v->needs_model || (v->waits && requests_want_model(e))))
		return true;
	/* Who reads on has found his session. */
	return r->session == 0 &&
	       (in_the_making(e, r, r->name) || in_the_making(e, r, r->new_name) || behind_another(e, r));
}

static void take(struct engine *e, struct request *r)
{
	const struct verb_row *v = &verbs[r->verb];
	struct timeline *t = NULL;

	if (e->phase == PHASE_STOPPING && !v->always) {
		answer_refused(e, r, "stopping", "the daemon is stopping");
		return;
	}
	if (v->needs_model)
		e->used = clock_seconds();
	if (must_wait(e, v, r)) {
		defer(e, r);
		return;
	}
	/* Without a store that runs nobody is answered by it, and a stop would wait for that. */
	if ((v->needs_model || v->waits || (!v->always && !e->store_started)) && e->phase == PHASE_FAILED) {
		answer_refused(e, r, e->failed.name, "%s", e->failed.text);
		return;
	}
	if (v->access != ACCESS_NONE) {
		t = session_of(e, r, v);
		if (t == NULL)
			return;
	}
	v->run(e, r, t);
}

void requests_again(struct engine *e)
{
	struct request *r = take_deferred(e), *next;

	e->again = false;
	for (; r != NULL; r = next) {
		next = next_of(r);
		take(e, r);
	}
}

void requests_refuse(struct engine *e, const struct reason *why)
{
	struct request *r = take_deferred(e), *next;

	for (; r != NULL; r = next) {
		next = next_of(r);
		if (verbs[r->verb].needs_model || verbs[r->verb].waits)
			answer_refused(e, r, why->name, "%s", why->text);
		else
			take(e, r);
	}
}

void requests_peer_gone(struct engine *e, uint64_t peer)
{
	struct request *r = take_deferred(e), *next;

	for (; r != NULL; r = next) {
		next = next_of(r);
		if (r->peer == peer && (r->until_disconnect || verbs[r->verb].asks))
			answer_refused(e, r, "cancelled", "the client has left");
		else
			defer(e, r);
	}
	e->again = true;               /* some may have waited behind those */
}

void request_open(struct engine *e, struct request *r)
{
	e->stats.requests++;
	take(e, r);
}
