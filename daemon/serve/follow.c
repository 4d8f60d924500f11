/*
 * Readers.  A watch is a peer's cursor into one session's log: a follow, which
 * gets events as notifications, or a read that waits for news.
 *
 * The one hard idea is the hand-over from old entries to new ones without a gap
 * or a repetition.  Old ones come in pages, which the store reads; new ones are
 * published by the engine.  A watch is linked to its session's list before the
 * page is asked that finds nothing more, and remembers the highest seq published
 * while a page was under way: only when that is below its cursor is it live.
 * Live, an event is taken when its seq is the cursor; an older one is known
 * already, a newer one means that something was missed: back to pages.  Where a page
 * ends before the log does, as far as that is known, a write has failed: what lacks
 * comes when that is made good, and until then is asked for at intervals.
 *
 * A writer is never slowed by a reader: pages are asked only when the peer has
 * read what it has, and a live follower that does not read is told `lagged`,
 * with the seq to go on from, and forgotten.
 */
#include "daemon/serve/follow.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/serve/answer.h"
#include "daemon/serve/peer.h"

#define PAUSE_MS 100
#define PAUSE_MOST_MS 3200

static unsigned bucket(uint64_t session)
{
	return (unsigned)(session * UINT64_C(0x9e3779b97f4a7c15) >> 56) % N_BUCKET;
}

/* ---- watches ---- */

/* NULL: no memory, which the peer has been told, and r is gone. */
static struct watch *watch_new(struct peer *p, bool follow, uint32_t id, const struct args *a,
                               const struct request *r)
{
	struct watch *w = calloc(1, sizeof *w);

	if (!w) {
		answer_error(p, id, "memory", "no memory for the request");
		request_free((struct request *)r);
		return NULL;
	}
	if (!follow)
		p->n_wait++;
	w->peer = p;
	w->follow = follow;
	w->id = id;
	w->cursor = r->from > 0 ? r->from : 1;
	w->limit = r->limit;
	w->wait_ms = a->wait_ms;
	w->owner = r->owner;
	memcpy(w->name, r->name, sizeof w->name);
	memcpy(w->prefix, a->prefix, sizeof w->prefix);
	LIST_INSERT_HEAD(&p->watches, w, by_peer);
	return w;
}

void watch_free(struct watch *w)
{
	if (w->call) {
		w->call->watch = NULL;
		w->call->dropped = true;
	}
	if (w->session)
		LIST_REMOVE(w, by_session);
	LIST_REMOVE(w, by_peer);
	if (!w->follow)
		w->peer->n_wait--;
	else if (!w->again)
		w->peer->n_follow--;
	if (w->timer)
		event_free(w->timer);
	if (w->pause)
		event_free(w->pause);
	free(w);
}

static void link_session(struct watch *w, uint64_t session)
{
	w->session = session;
	LIST_INSERT_HEAD(&w->peer->serve->watches[bucket(session)], w, by_session);
}

static void end_lagged(struct watch *w);

/* It cannot go on for lack of memory: who follows may follow again. */
static void give_up(struct watch *w)
{
	if (w->follow && w->answered) {
		end_lagged(w);
		return;
	}
	answer_error(w->peer, w->id, "memory", "no memory for the request");
	watch_free(w);
}

/* Sends r, about the watch's session, to the engine.  May end the watch. */
static void ask(struct watch *w, struct request *r)
{
	struct peer *p = w->peer;
	struct call *c = r ? peer_call(p->serve, p, w->id, 0) : NULL;

	if (!c) {
		request_free(r);
		give_up(w);
		return;
	}
	c->watch = w;
	w->call = c;
	w->state = WATCH_ASKING;
	peer_post(p->serve, c, r);
}

static void ask_page(struct watch *w)
{
	struct request *r;

	if (!engine_takes(w->peer->serve)) {
		w->state = WATCH_FULL;         /* for good */
		return;
	}
	r = peer_request(w->peer, VERB_READ);
	if (!r) {
		give_up(w);
		return;
	}
	r->owner = w->owner;
	memcpy(r->name, w->name, sizeof r->name);
	r->session = w->session;       /* it may be being renamed */
	r->from = w->cursor;
	r->limit = w->limit;
	w->news = false;
	ask(w, r);
}

static void on_pause(evutil_socket_t fd, short what, void *ctx)
{
	struct watch *w = ctx;

	(void)fd;
	(void)what;
	if (w->state == WATCH_PAUSED)
		ask_page(w);
}

/* Nothing came, though there is something. */
static void ask_later(struct watch *w)
{
	struct timeval t;

	w->pause_ms = w->pause_ms == 0 ? PAUSE_MS : w->pause_ms < PAUSE_MOST_MS ? 2 * w->pause_ms : PAUSE_MOST_MS;
	t = (struct timeval){ .tv_sec = w->pause_ms / 1000, .tv_usec = 1000 * (w->pause_ms % 1000) };
	w->state = WATCH_PAUSED;
	if (!w->pause)
		w->pause = evtimer_new(w->peer->serve->base, on_pause, w);
	if (!w->pause || event_add(w->pause, &t) < 0)
		give_up(w);
}

/* ---- reads that wait ---- */

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
	struct watch *w = ctx;

	(void)fd;
	(void)what;
	w->timeout = true;
	if (w->state == WATCH_LIVE || w->state == WATCH_PAUSED)
		ask_page(w);       /* the empty page, as the engine words it */
}

static void wait_for_news(struct watch *w)
{
	struct timeval t = { .tv_sec = (time_t)(w->wait_ms / 1000), .tv_usec = (long)(w->wait_ms % 1000) * 1000 };

	w->state = WATCH_LIVE;
	if (!w->timer) {
		w->timer = evtimer_new(w->peer->serve->base, on_timer, w);
		if (!w->timer || event_add(w->timer, &t) < 0) {
			give_up(w);
			return;
		}
	}
	if (w->newest >= w->cursor)
		ask_later(w);
}

void follow_wait(struct peer *p, uint32_t id, const struct args *a, struct request *r)
{
	struct watch *w = watch_new(p, false, id, a, r);

	if (w)
		ask(w, r);
}

static bool has_events(const struct request *r)
{
	const struct value *events = value_get(r->result, "events");

	return events && events->kind == VALUE_LIST && events->l.n > 0;
}

static void wait_answer(struct watch *w, struct request *r)
{
	bool first = w->session == 0;

	if (first && r->session)
		link_session(w, r->session);
	if (has_events(r) || w->timeout || !w->session || w->peer->serve->stopping) {
		answer_rename((struct value *)value_get(r->result, "events"), w->prefix);
		answer_result(w->peer, w->id, r->result);
		watch_free(w);
	} else if (first || (w->news && w->newest >= w->cursor)) {
		ask_page(w);
	} else {
		wait_for_news(w);
	}
}

/* ---- follows ---- */

static struct watch *find_follow(const struct peer *p, const struct request *r)
{
	struct watch *w;

	LIST_FOREACH(w, &p->watches, by_peer)
		if (w->follow && w->owner == r->owner && strcmp(w->name, r->name) == 0)
			return w;
	return NULL;
}

void follow_begin(struct peer *p, uint32_t id, const struct args *a, struct request *r)
{
	bool again = find_follow(p, r) != NULL;
	struct watch *w;

	if (!again && p->n_follow >= PEER_FOLLOWS) {
		answer_error(p, id, "too_large", "a connection follows at most 256 sessions");
		request_free(r);
		return;
	}
	w = watch_new(p, true, id, a, r);
	if (!w)
		return;
	w->again = again;
	p->n_follow += !again;
	if (!(a->given & PARAM(FROM))) {
		r->verb = VERB_INFO;   /* where the log ends */
		w->cursor = 0;
	}
	ask(w, r);
}

void follow_end(struct peer *p, uint32_t id, const struct request *r)
{
	struct watch *w;

	while ((w = find_follow(p, r))) {
		if (!w->answered)
			answer_error(p, w->id, "cancelled", "unfollowed");
		watch_free(w);
	}
	answer_result(p, id, NULL);
}

static struct value *news(const struct watch *w, const char *kind)
{
	struct value *v = value_map();
	char name[sizeof w->prefix + sizeof w->name];

	strcpy(name, w->prefix);
	strcat(name, w->name);
	value_put(v, "session", value_str(name));
	value_put(v, "seq", value_uint(0));
	value_put(v, "time", value_int(clock_ms()));
	value_put(v, "kind", value_str(kind));
	return v;
}

static void end_lagged(struct watch *w)
{
	struct value *v = news(w, "lagged");

	value_put(v, "next", value_uint(w->cursor));
	answer_event(w->peer, v);
	value_free(v);
	watch_free(w);
}

static void end_deleted(struct watch *w)
{
	struct value *v = news(w, "state");

	value_put(v, "state", value_str("deleted"));
	answer_event(w->peer, v);
	value_free(v);
	watch_free(w);
}

static void ask_more(struct watch *w)
{
	if (peer_unread(w->peer) < PEER_HIGH_WATER)
		ask_page(w);
	else
		w->state = WATCH_FULL;
}

/* The peer's follow of the same session that was answered before w. */
static struct watch *answered_before(const struct watch *w)
{
	struct watch *old;

	LIST_FOREACH(old, &w->peer->watches, by_peer)
		if (old->answered && old->session == w->session)
			return old;
	return NULL;
}

/* From here on the session's events come from this follow alone. */
static void answer_next(struct watch *w)
{
	struct watch *old = answered_before(w);
	struct value *v = value_map();

	if (old)
		watch_free(old);
	w->peer->n_follow += w->again;
	w->again = false;
	value_put(v, "next", value_uint(w->cursor));
	answer_result(w->peer, w->id, v);
	value_free(v);
	w->answered = true;
}

/* The end of the log, asked when a follow begins with what is new.  The engine
 * itself answers it, so what it publishes afterwards comes afterwards: live. */
static void end_of_log(struct watch *w, struct request *r)
{
	const struct value *seq = value_get(r->result, "seq");

	w->cursor = (seq && seq->kind == VALUE_UINT ? seq->u : 0) + 1;
	link_session(w, r->session);
	answer_next(w);
	w->state = WATCH_LIVE;
}

static void page(struct watch *w, struct request *r)
{
	struct value *events = (struct value *)value_get(r->result, "events");
	bool first = w->session == 0, more = has_events(r);
	size_t i;

	if (first)
		link_session(w, r->session);
	if (!w->answered)
		answer_next(w);
	if (more)
		answer_rename(events, w->prefix);
	for (i = 0; more && i < events->l.n; i++)
		answer_event(w->peer, events->l.items[i]);
	if (more && r->next_seq > w->cursor)
		w->cursor = r->next_seq;
	if (more)
		w->pause_ms = 0;
	if (more || first || (w->news && w->newest >= w->cursor))
		ask_more(w);
	else if (w->newest >= w->cursor)
		ask_later(w);
	else
		w->state = WATCH_LIVE;
}

/* ---- what comes from the engine ---- */

void follow_answer(struct call *c, struct request *r)
{
	struct watch *w = c->watch;

	w->call = NULL;
	w->newest = r->last_seq > w->newest ? r->last_seq : w->newest;
	if (r->rc == 0 && r->result->kind == VALUE_LOST)
		r->rc = refuse(&r->why, "memory", "no memory for the answer");
	if (r->rc != 0) {
		if (w->follow && w->answered && strcmp(r->why.name, "no_session") == 0)
			end_deleted(w);
		else if (w->follow && w->answered)
			end_lagged(w);         /* following again tells why */
		else {
			answer_reason(w->peer, w->id, r->rc, &r->why);
			watch_free(w);
		}
	} else if (!w->follow) {
		wait_answer(w, r);
	} else if (r->verb == VERB_INFO) {
		end_of_log(w, r);
	} else {
		page(w, r);
	}
}

/* One event for many followers: its value is made once. */
struct fresh {
	const struct published *e;
	struct value *v;
	char prefix[64];           /* v has this one */
};

static const struct value *fresh_value(struct fresh *f, const struct watch *w)
{
	char name[sizeof w->prefix + sizeof f->e->name];

	if (f->v && strcmp(f->prefix, w->prefix) == 0)
		return f->v;
	value_free(f->v);
	strcpy(f->prefix, w->prefix);
	strcpy(name, w->prefix);
	strcat(name, f->e->name);
	f->v = event_value(&f->e->event, name);
	return f->v;
}

static void take_news(struct watch *w, struct fresh *f)
{
	if (w->follow && w->answered && peer_unread(w->peer) < PEER_HIGH_WATER)
		answer_event(w->peer, fresh_value(f, w));
}

static void take_entry(struct watch *w, struct fresh *f)
{
	uint64_t seq = f->e->event.seq;

	w->news = true;
	w->newest = seq > w->newest ? seq : w->newest;
	if (w->state != WATCH_LIVE || seq < w->cursor) {
		;                      /* comes with the next page, or came with one */
	} else if (!w->follow || seq > w->cursor || f->e->bare) {
		ask_page(w);
	} else if (peer_unread(w->peer) >= PEER_HIGH_WATER) {
		end_lagged(w);
	} else {
		answer_event(w->peer, fresh_value(f, w));
		w->cursor = seq + 1;
	}
}

static void take_deleted(struct watch *w)
{
	if (w->follow && w->answered)
		end_deleted(w);
	else {
		answer_error(w->peer, w->id, "no_session", "the session was deleted");
		watch_free(w);
	}
}

/* Ends watches, never peers: the list stays walkable. */
void follow_published(struct serve *s, const struct published *e)
{
	struct fresh f = { .e = e };
	struct watch *w, *next;

	for (w = LIST_FIRST(&s->watches[bucket(e->event.session)]); w; w = next) {
		next = LIST_NEXT(w, by_session);
		if (w->session != e->event.session)
			continue;
		if (!e->deleted)
			memcpy(w->name, e->name, sizeof w->name);      /* it may have been renamed */
		if (e->deleted)
			take_deleted(w);
		else if (e->event.seq == 0)
			take_news(w, &f);
		else
			take_entry(w, &f);
	}
	value_free(f.v);
}

void follow_renamed(struct serve *s, uint64_t session, const char *name)
{
	struct watch *w;

	LIST_FOREACH(w, &s->watches[bucket(session)], by_session)
		if (w->session == session)
			snprintf(w->name, sizeof w->name, "%s", name);
}

/* ---- what comes from the peer ---- */

void follow_resume(struct peer *p)
{
	struct watch *w, *next;

	for (w = LIST_FIRST(&p->watches); w; w = next) {
		next = LIST_NEXT(w, by_peer);
		if (w->state == WATCH_FULL)
			ask_more(w);
	}
}

void follow_stop(struct serve *s)
{
	struct watch *w, *next;
	struct peer *p;

	LIST_FOREACH(p, &s->peers, link)
		for (w = LIST_FIRST(&p->watches); w; w = next) {
			next = LIST_NEXT(w, by_peer);
			if (!w->follow && (w->state == WATCH_LIVE || w->state == WATCH_PAUSED))
				ask_page(w);
		}
}
