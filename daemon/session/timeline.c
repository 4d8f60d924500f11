/*
 * A session's tokens and log entries: positions are given here, and nowhere else.
 *
 * The hard idea: numbers never depend on timing.  A position is given when an id
 * is pushed, a seq when an entry is made, and everything that is made between two
 * steps goes to the store as one job together with where the session and its
 * order then stand; so whatever is lost in a crash is made again with the same
 * numbers.
 *
 * It must not decide what the tokens are.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

void timeline_push(struct timeline *t, const int32_t *ids, size_t n)
{
	uint32_t room = t->engine->ring_room;
	size_t i;

	if (t->ring == NULL) {         /* who gets a slot reads them from the log */
		t->n_token += n;
		return;
	}
	for (i = 0; i < n; i++, t->n_token++) {
		if (t->n_token < t->row.window.n_sink)
			t->head[t->n_token] = ids[i];
		t->ring[t->n_token % room] = ids[i];
	}
	if (t->n_token > room && t->ring_from < t->n_token - room)
		t->ring_from = t->n_token - room;
}

int32_t timeline_id(const struct timeline *t, uint64_t pos)
{
	assert(pos < t->n_token);
	if (pos < t->row.window.n_sink)
		return t->head[pos];
	assert(pos >= t->ring_from);
	return t->ring[pos % t->engine->ring_room];
}

size_t timeline_last(const struct timeline *t, int32_t *out, size_t n)
{
	uint64_t have = t->n_token - t->ring_from, pos;
	size_t i;

	if (n > have)
		n = have;
	for (i = 0, pos = t->n_token - n; i < n; i++, pos++)
		out[i] = t->ring[pos % t->engine->ring_room];
	return n;
}

/* What the newest of n_token tokens sees of the window. */
uint64_t timeline_window_start(const struct timeline *t, uint64_t n_token)
{
	struct span s = { .n_sink = t->row.window.n_sink, .n_recent = t->row.window.n_recent };

	return n_token == 0 ? s.n_sink : span_lo(s, n_token - 1, 0);
}

static void stand(struct timeline *t, struct event *ev)
{
	ev->session = t->row.id;
	ev->time = clock_ms();
	ev->window_start = timeline_window_start(t, t->row.n_token);
	ev->forgotten = ev->window_start - t->row.window.n_sink;
}

struct event *timeline_log(struct timeline *t, enum event_kind kind, enum role role,
                           struct ids *ids, char *text, size_t n_text)
{
	struct event *ev;

	if (t->n_out == t->out_room) {
		t->out_room = t->out_room == 0 ? 4 : 2 * t->out_room;
		t->out = realloc(t->out, t->out_room * sizeof *t->out);
		if (t->out == NULL)
			abort();
	}
	ev = &t->out[t->n_out++];
	memset(ev, 0, sizeof *ev);
	ev->kind = (uint8_t)kind;
	ev->role = (uint8_t)role;
	ev->order = t->cur != NULL ? t->cur->id : 0;
	ev->position = t->row.n_token;
	ev->seq = ++t->row.n_seq;
	if (ids != NULL) {
		ev->ids = *ids;
		memset(ids, 0, sizeof *ids);
		t->row.n_token += ev->ids.n;
	}
	assert(t->row.n_token <= t->n_token);
	ev->text = text != NULL ? text : calloc(1, 1);
	if (ev->text == NULL)
		abort();
	ev->n_text = n_text;
	stand(t, ev);
	t->fresh = false;
	return ev;
}

void published_free(struct published *p)
{
	if (p == NULL)
		return;
	event_clear(&p->event);
	free(p);
}

static void publish(struct timeline *t, const struct event *ev)
{
	struct engine *e = t->engine;
	struct published *p = calloc(1, sizeof *p);

	if (p == NULL)
		abort();
	p->bare = event_copy(&p->event, ev) != 0;
	memcpy(p->name, t->row.name, sizeof p->name);
	p->owner = t->row.uid;
	p->letter.open = e->p.on_published;
	mailbox_post(e->p.serve, &p->letter);
}

void timeline_news(struct timeline *t, enum event_kind kind, const char *state, double progress)
{
	struct event ev = { .kind = (uint8_t)kind, .state = state, .progress = progress };

	stand(t, &ev);
	ev.position = t->row.n_token;
	publish(t, &ev);
}

void timeline_back(struct timeline *t)
{
	timeline_news(t, EVENT_STATE, generating(t) ? "generating" : "idle", 1);
}

static void tell_evicted(struct timeline *t)
{
	uint64_t start = timeline_window_start(t, t->row.n_token);

	if (start > t->told_start && start > t->row.window.n_sink)
		timeline_news(t, EVENT_EVICTED, NULL, 0);
	t->told_start = start;
}

/* ---- the way to the store ---- */

void timeline_stall(struct timeline *t, const struct reason *why)
{
	int ms = strcmp(why->name, "memory") == 0 ? RETRY_MEMORY_MS : RETRY_MS;
	double at = clock_seconds() + ms / 1000.0;
	struct engine *e = t->engine;

	/* What was refused only for coming behind another does not put it off. */
	if (!e->retry || at < e->retry_at)
		e->retry_at = at;
	t->stalled = e->retry = true;
	if (strcmp(why->name, "disk") == 0)
		waiters_no_disk(t, why->text);
}

static void stalled_by(struct timeline *t, const struct store_job *j)
{
	if (!t->stalled)
		log_error("session %llu: its log cannot be written (%s); it waits",
		          (unsigned long long)t->row.id, j->why.name[0] ? j->why.name : "error");
	timeline_stall(t, &j->why);
}

static void keep_failed(struct timeline *t, struct call *c, struct store_job *j)
{
	stalled_by(t, j);
	j->letter.next = NULL;
	*t->failed_last = j;
	t->failed_last = (struct store_job **)&j->letter.next;
	c->keep = j;
}

static void set_bad(struct timeline *t, const char *text)
{
	struct reason why;

	if (t->bad[0] == '\0')
		timeline_news(t, EVENT_STATE, "damaged", 1);
	snprintf(t->bad, sizeof t->bad, "%.*s", (int)sizeof t->bad - 1, text);
	timeline_usable(t, &why);
	waiters_refuse(t, why.name, why.text);
}

void timeline_damaged(struct timeline *t, const char *text)
{
	log_error("session %llu: %s", (unsigned long long)t->row.id, text);
	set_bad(t, text);
}

bool timeline_read_only(struct timeline *t, const struct store_job *j)
{
	if (strcmp(j->why.name, "read_only") != 0)
		return false;
	t->stalled = true;             /* for good */
	waiters_refuse(t, "read_only", j->why.text);
	return true;
}

/* A write that failed.  One without entries says only where the session stands, which what
 * is written later says as well: it is made anew. */
static void failed(struct timeline *t, struct call *c, struct store_job *j)
{
	if (timeline_read_only(t, j))
		return;
	if (strcmp(j->why.name, "session_damaged") == 0) {
		set_bad(t, j->why.text);       /* the store has said so */
	} else if (j->n_event == 0 && (j->order_id == 0 || j->progress.stage != 2)) {
		stalled_by(t, j);
		t->row_due = true;
	} else {
		keep_failed(t, c, j);
	}
}

static void logged(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;

	t->n_log--;
	if (j->rc != 0 && !t->gone)    /* kept while it is being deleted, too: that may fail as well */
		failed(t, c, j);
	t->killing = t->killing && (t->n_log > 0 || t->row_due || t->failed != NULL);
	if (t->gone || j->rc != 0)
		return;
	/* One that failed before it is still to come: the entries would not follow. */
	if (t->stalled && t->failed != NULL && j->n_event > 0)
		timeline_damaged(t, "its log could not be written in order; restart the daemon");
	if (j->order_id == 0 || j->progress.stage != 2)
		return;
	waiters_answer(t, j->order_id, &j->progress);
	bond_end(t, j->order_id);      /* one that a full disk has made since */
}

static void post(struct timeline *t, struct store_job *j)
{
	t->n_log++;
	call_post(call_new(t->engine, t, NULL, logged), j);
}

/* Failed writes again, in their order, and what could not be read meanwhile. */
void timeline_retry(struct timeline *t)
{
	struct store_job *j, *next;

	if (t->undoing) {
		t->stalled = false;
		timeline_undo(t);
		return;
	}
	if (store_read_only(t->engine->p.store, NULL))
		return;
	if (t->n_own > 0) {            /* what is under way goes before it, and may fail for it */
		t->engine->retry = true;
		t->engine->retry_at = clock_seconds() + RETRY_MEMORY_MS / 1000.0;
		return;
	}
	for (j = t->failed; j != NULL; j = next) {
		next = (struct store_job *)j->letter.next;
		j->rc = 0;
		memset(&j->why, 0, sizeof j->why);
		post(t, j);
	}
	t->failed = NULL;
	t->failed_last = &t->failed;
	t->stalled = false;
	if (t->row_due)
		timeline_flush(t, true);
	t->row_due = false;
	if (t->state != TIMELINE_ASLEEP && t->n_queued > 0)
		order_ask(t);
	resident_want(t);
	order_cancel_waiting(t);
}

void timeline_flush(struct timeline *t, bool durable)
{
	struct store_job *j = store_job_new(STORE_LOG, t->row.id);
	size_t i, n = t->n_out;

	for (i = 0; i < n; i++) {
		t->row.chain = event_chain(t->row.chain, &t->out[i]);
		t->n_stored += event_stored(&t->out[i]);
		publish(t, &t->out[i]);
	}
	t->row.used = clock_ms();
	j->durable = durable;
	j->row = t->row;
	if (t->cur != NULL) {
		j->order_id = t->cur->id;
		j->progress = t->cur->progress;
	}
	j->events = t->out;
	j->n_event = n;
	t->out = NULL;
	t->n_out = t->out_room = 0;
	post(t, j);
	if (n > 0)
		tell_evicted(t);
	if (n > 0 && t->state != TIMELINE_ASLEEP)
		t->moved = true;       /* its chain has: a checkpoint of before would be of another log */
}
