/*
 * Who waits for an order, and whose orders end with him.
 *
 * Neither is on disk: a client that waits, and a peer that an answer was to end with,
 * are gone with the process.  An answer that was to end then ends when it is asked of
 * the store again (GIVEN_UNTIL); a client asks again.
 */
#include <stdlib.h>

#include "daemon/session/engine-internal.h"

/* ---- waiters ---- */

void wait_for(struct timeline *t, struct request *r, uint64_t order)
{
	struct waiter *w = calloc(1, sizeof *w);

	if (w == NULL)
		abort();
	w->request = r;
	w->order = order;
	w->next = t->waiters;
	t->waiters = w;
}

bool waiters_any(const struct timeline *t, uint64_t order)
{
	const struct waiter *w;

	for (w = t->waiters; w != NULL; w = w->next)
		if (w->order == order)
			return true;
	return false;
}

/* Does anybody want this answer cancelled?  Who wants the next one means this. */
bool waiters_cancel(struct timeline *t, uint64_t order)
{
	struct waiter *w;
	bool any = false;

	for (w = t->waiters; w != NULL; w = w->next) {
		if (w->order == NEXT_ANSWER)
			w->order = order;
		any = any || (w->order == order && w->request->verb == VERB_CANCEL);
	}
	return any;
}

struct value *cancelled_value(bool yes)
{
	struct value *v = value_map();

	value_put(v, "cancelled", value_bool(yes));
	return v;
}

struct value *done_value(uint64_t order, const struct order_progress *p)
{
	struct value *v = value_map();

	value_put(v, "request", value_uint(order));
	value_put(v, "seq", value_uint(p->seq));
	value_put(v, "position", value_uint(p->answer));
	return v;
}

void waiters_answer(struct timeline *t, uint64_t order, const struct order_progress *p)
{
	struct waiter **at = &t->waiters, *w;

	while ((w = *at) != NULL) {
		if (w->order != order) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		w->request->result = w->request->verb == VERB_CANCEL ? cancelled_value(order != NEXT_ANSWER)
		                                                      : done_value(order, p);
		answer(t->engine, w->request);
		free(w);
	}
}

/* Is an answer in the queue, or on its way to it? */
bool answers_to_come(const struct timeline *t)
{
	return t->n_queued > 0 || t->n_putting > 0;
}

/* Where the queue is empty there was no answer to cancel. */
void waiters_none(struct timeline *t)
{
	struct order_progress none = { 0 };

	if (!answers_to_come(t))
		waiters_answer(t, NEXT_ANSWER, &none);
}

static void waiters_drop(struct timeline *t, uint64_t peer, const char *name, const char *text)
{
	struct waiter **at = &t->waiters, *w;

	while ((w = *at) != NULL) {
		if (peer != 0 && w->request->peer != peer) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		answer_refused(t->engine, w->request, name, "%s", text);
		free(w);
	}
}

void waiters_refuse(struct timeline *t, const char *name, const char *text)
{
	waiters_drop(t, 0, name, text);
}

/* ---- orders of peers that may leave ---- */

static struct bond **bond_of(struct timeline *t, uint64_t order)
{
	struct bond **at = &t->bonds;

	while (*at != NULL && (*at)->order != order)
		at = &(*at)->next;
	return at;
}

void bond_make(struct timeline *t, uint64_t order, uint64_t peer)
{
	struct bond *b = calloc(1, sizeof *b);

	if (b == NULL)
		abort();
	b->order = order;
	b->peer = peer;
	b->next = t->bonds;
	t->bonds = b;
}

/* The order that a bond of this peer was made for has got its id; 0: it has not
 * been accepted.  Bonds of one peer that have none yet are all alike. */
void bond_settle(struct timeline *t, uint64_t peer, uint64_t order)
{
	struct bond **at = &t->bonds, *b;

	while ((b = *at) != NULL && (b->order != 0 || b->peer != peer))
		at = &b->next;
	if (b == NULL)
		return;
	b->order = order;
	if (order == 0) {
		*at = b->next;
		free(b);
	}
}

void bond_end(struct timeline *t, uint64_t order)
{
	struct bond **at = bond_of(t, order), *b = *at;

	if (b != NULL) {
		*at = b->next;
		free(b);
	}
}

bool bond_gone(struct timeline *t, const struct order *o)
{
	const struct bond *b = *bond_of(t, o->id);

	return b != NULL ? b->gone : (o->given & GIVEN_UNTIL) != 0;
}

/* It is to end also where it is asked of the store once more. */
static void bond_break(struct timeline *t, uint64_t order)
{
	if (*bond_of(t, order) == NULL)
		bond_make(t, order, 0);
	(*bond_of(t, order))->gone = true;
}

/* Who cancels does not wait for room on a disk: what is begun ends as soon as its end can be written, what
 * is to come cannot be looked for. */
void waiters_no_disk(struct timeline *t, const char *text)
{
	struct waiter **at = &t->waiters, *w;

	while ((w = *at) != NULL) {
		if (w->request->verb != VERB_CANCEL) {
			at = &w->next;
			continue;
		}
		*at = w->next;
		if (w->order != NEXT_ANSWER)
			bond_break(t, w->order);
		answer_refused(t->engine, w->request, "disk", "%s; %s", text,
		               w->order == NEXT_ANSWER ? "no answer is cancelled" : "the answer ends as soon as its end can be written");
		free(w);
	}
}

void verb_peer_gone(struct engine *e, struct request *r, struct timeline *none)
{
	struct timeline *t = NULL;
	struct bond *b;
	size_t i;

	(void)none;
	requests_peer_gone(e, r->peer);
	score_peer_gone(e, r->peer);
	for (i = 0; i < HASH_SIZE; i++)
		for (t = e->hash[i]; t != NULL; t = t->hash_next) {
			waiters_drop(t, r->peer, "cancelled", "the client has left");
			for (b = t->bonds; b != NULL; b = b->next) {
				if (b->peer != r->peer)
					continue;
				b->gone = true;
				if (t->cur != NULL && t->cur->id == b->order)
					t->cancel = true;
			}
		}
	request_free(r);
}
