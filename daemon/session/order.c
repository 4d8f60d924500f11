/*
 * Orders: work that is accepted.  Everything that can be wrong with it is found
 * here, before it is accepted; then it is put on disk, and only then is the
 * client answered.
 *
 * The hard idea: accepted work is not kept in memory.  A session knows how many
 * orders wait for it and asks the store for the next one, so a queue of any
 * length costs nothing, and a new process stands where the old one stood.
 */
#include <stdlib.h>
#include <string.h>

#include "daemon/base/log.h"
#include "daemon/session/engine-internal.h"

/* ---- the queue ---- */

static void asked(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;

	t->asking = false;
	if (t->deleting || t->gone)
		return;
	if (t->failed != NULL)         /* which the answer knows nothing of; who retries asks again */
		return;
	if (j->rc != 0 && store_passes(&j->why)) {
		timeline_stall(t, &j->why);    /* where its requests stand waits for the disk */
		return;
	}
	if (j->rc != 0 && timeline_read_only(t, j))
		return;
	if (j->rc != 0) {
		timeline_damaged(t, "its queue cannot be read");
		return;
	}
	if (j->order == NULL) {
		t->n_queued = 0;
		waiters_none(t);
		return;
	}
	t->cur = j->order;
	j->order = NULL;
	t->fresh = t->cur->progress.stage == 0 && t->cur->progress.offset == 0;
	held_clear(&t->held);
	t->cancel = bond_gone(t, t->cur);
	if (t->cur->kind != ORDER_APPEND && waiters_cancel(t, t->cur->id))
		t->cancel = true;
	order_cancel_waiting(t);
}

void order_ask(struct timeline *t)
{
	struct store_job *j;

	if (t->asking || t->cur != NULL)
		return;
	t->asking = true;
	j = store_job_new(STORE_ORDER_NEXT, t->row.id);
	j->from = t->last_order;
	call_post(call_new(t->engine, t, NULL, asked), j);
}

static void unqueue(struct timeline *t, uint64_t n_byte);

/* ---- an answer that is cancelled while its session has no slot, or no cache yet ----
 *
 * What of it is in the log stays; the end of its turn is an entry like any other, which needs no
 * cache.  Where appends stand before it, it leaves the queue from between them. */

static bool slotless(const struct timeline *t)
{
	return t->engine->phase == PHASE_READY && t->state != TIMELINE_READY && !t->deleting && !t->gone &&
	       !t->stalled && timeline_workable(t, NULL) == 0;
}

/* Who is put back into its slot by a copy of before finds its own log: nothing was computed since. */
static void renew_copy(struct timeline *t, uint64_t before)
{
	struct swap_copy *copy = t->engine->swap != NULL ? swap_find(t->engine->swap, t->row.id) : NULL;

	if (copy != NULL && copy->c.n_computed == t->row.n_token && copy->c.chain == before)
		copy->c.chain = t->row.chain;
}

/* o (owned) ends; what is current stays so. */
static void cancel_now(struct timeline *t, struct order *o)
{
	struct order *cur = t->cur == o ? NULL : t->cur;
	uint64_t last = t->last_order, chain = t->row.chain;
	bool fresh = t->fresh;

	t->cur = o;
	generate_end(t, TURN_CANCELLED);
	t->last_order = last;          /* others may have come before it */
	t->cur = cur;
	t->fresh = fresh;
	renew_copy(t, chain);
}

static void sought(struct call *c, struct store_job *j)
{
	struct order_progress none = { 0 };
	struct timeline *t = c->t;
	struct order *o = j->order;

	t->seeking = false;
	if (j->rc != 0 && store_passes(&j->why) && slotless(t))
		timeline_stall(t, &j->why);
	/* Else it is cancelled when its turn comes, or was found on another way. */
	if (j->rc != 0 || !slotless(t) || t->asking || t->failed != NULL)
		return;
	if (t->cur != NULL && t->cur->kind != ORDER_APPEND) {
		order_cancel_waiting(t);
	} else if (o == NULL && t->n_putting == 0) {
		waiters_answer(t, NEXT_ANSWER, &none);
	} else if (o == NULL) {
		order_cancel_waiting(t);       /* it was put behind this question */
	} else if (waiters_cancel(t, o->id)) {
		j->order = NULL;
		cancel_now(t, o);
	}
}

static bool wants_cancel(const struct timeline *t)
{
	const struct waiter *w = t->waiters;

	while (w != NULL && w->request->verb != VERB_CANCEL)
		w = w->next;
	return w != NULL;
}

void order_cancel_waiting(struct timeline *t)
{
	struct store_job *j;

	if (!slotless(t) || t->asking || t->seeking || t->failed != NULL)
		return;
	if (t->cur != NULL && t->cur->kind != ORDER_APPEND) {
		if (t->cancel)
			cancel_now(t, t->cur);
		return;
	}
	if (!wants_cancel(t))
		return;
	t->seeking = true;
	j = store_job_new(STORE_ORDER_NEXT, t->row.id);
	j->from = t->last_order;
	j->answers = true;
	call_post(call_new(t->engine, t, NULL, sought), j);
}

static void unqueue(struct timeline *t, uint64_t n_byte)
{
	t->n_queued_bytes -= n_byte < t->n_queued_bytes ? n_byte : t->n_queued_bytes;
}

void order_done(struct timeline *t)
{
	unqueue(t, t->cur->n_payload);
	if (t->n_queued > 0)
		t->n_queued--;
	t->last_order = t->cur->id;
	bond_end(t, t->cur->id);
	order_free(t->cur);
	t->cur = NULL;
	t->cancel = false;
	held_clear(&t->held);
	if (t->n_queued == 0)
		waiters_none(t);
	else if (t->state == TIMELINE_READY)
		order_ask(t);
}

/* ---- accepting ---- */

static void wait_while_it_can(struct timeline *t, struct request *r, uint64_t order)
{
	struct engine *e = t->engine;
	struct reason why;

	if (e->phase == PHASE_STOPPING)
		answer_refused(e, r, "stopping", "accepted; the daemon is stopping");
	else if (timeline_workable(t, &why) != 0)
		answer_refused(e, r, why.name, "accepted; %s", why.text);
	else
		wait_for(t, r, order);
}

static void not_accepted(struct engine *e, struct request *r, const struct store_job *j)
{
	const struct reason why = r->why;

	if (j->known_only && j->why.name[0] == '\0')
		answer_refused(e, r, why.name, "%s", why.text);
	else
		answer_failed(e, r, j, "the request could not be written to disk");
}

static void accepted(struct call *c, struct store_job *j)
{
	struct timeline *t = c->t;
	struct request *r = c->r;
	struct order *o = j->order;
	struct order_progress *p = &o->progress;
	bool again = j->rc == STORE_REPEATED;

	t->n_putting -= o->kind != ORDER_APPEND;
	if (j->rc != 0)
		unqueue(t, c->n);
	if (o->given & GIVEN_UNTIL)
		bond_settle(t, r->peer, j->rc == 0 ? o->id : 0);
	if (j->rc == 0)
		t->n_queued++;         /* also where it is being deleted: that may fail */
	waiters_none(t);
	/* One that was accepted before its session goes is accepted, but will never be done. */
	if ((t->deleting || t->gone) && ((j->rc != 0 && !again) || (r->wait && p->stage != 2))) {
		answer_refused(c->engine, r, "no_session", "the session has been deleted");
		return;
	}
	if (j->rc != 0 && !again) {
		not_accepted(c->engine, r, j);
		return;
	}
	if (!again) {
		c->engine->stats.orders++;
		resident_want(t);
	}
	if (r->wait && p->stage != 2) {
		wait_while_it_can(t, r, o->id);
		return;
	}
	if (again && p->stage == 2 && (o->kind == ORDER_APPEND || r->wait)) {
		r->result = done_value(o->id, p);
	} else {
		/* What it adds to the log comes after this seq: the first one's, whenever it is repeated;
		 * but a log that was salvaged may end before it. */
		r->result = value_map();
		value_put(r->result, "request", value_uint(o->id));
		value_put(r->result, "seq", value_uint(o->log_seq < t->row.n_seq ? o->log_seq : t->row.n_seq));
	}
	answer(c->engine, r);
}

static int payload(const struct engine *e, const struct request *r, struct order *o, struct reason *why)
{
	size_t i, n_vocab = tokenizer_n_vocab(e->tokenizer);

	o->tokens = (r->given & GIVEN_TOKENS) != 0;
	if (o->tokens && (r->given & GIVEN_TEXT))
		return refuse(why, "bad_param", "text or tokens, not both");
	if (o->tokens && r->tokens.n == 0)
		return refuse(why, "bad_param", "tokens: an empty list");
	for (i = 0; i < r->tokens.n; i++)
		if (r->tokens.data[i] < 0 || (size_t)r->tokens.data[i] >= n_vocab)
			return refuse(why, "bad_param", "tokens: %d is not a token id of this model", r->tokens.data[i]);
	o->n_payload = o->tokens ? r->tokens.n * sizeof(int32_t) : r->n_text;
	o->payload = malloc(o->n_payload + 1);
	if (o->payload == NULL)
		return refuse(why, "memory", "no memory for the text");
	if (o->n_payload > 0)
		memcpy(o->payload, o->tokens ? (const char *)r->tokens.data : r->text, o->n_payload);
	o->payload[o->n_payload] = '\0';
	return 0;
}

static int role_check(const struct timeline *t, enum role role, struct reason *why)
{
	struct chat_state s = t->row.chat;
	struct ids ids = { 0 };
	int rc;

	if (role == ROLE_RAW)
		return 0;
	if (t->chat == NULL)
		return refuse(why, "role_unknown", "the session is raw: it has no roles");
	rc = chat_enter(t->chat, t->engine->tokenizer, &s, role, &ids, why);
	ids_free(&ids);
	return rc;
}

int caps_check(const struct engine *e, uid_t uid, size_t n, struct reason *why)
{
	uint64_t queued = n, stored = n;
	const struct timeline *other;
	size_t i;

	for (i = 0; i < HASH_SIZE; i++)
		for (other = e->hash[i]; other != NULL; other = other->hash_next)
			if (other->row.uid == uid) {
				queued += other->n_queued_bytes;
				stored += timeline_stored(other);
			}
	if (queued > e->p.caps.queued_bytes)
		return refuse(why, "cap_queued", "%llu bytes may wait for the sessions of one user",
		              (unsigned long long)e->p.caps.queued_bytes);
	if (stored > e->p.caps.stored_bytes)
		return refuse(why, "cap_stored", "%llu bytes may be kept of the sessions of one user",
		              (unsigned long long)e->p.caps.stored_bytes);
	return 0;
}

/* Everything that can be wrong with it. */
static int order_make(struct engine *e, const struct request *r, struct timeline *t,
                      struct order *o, struct reason *why)
{
	bool text = (r->given & (GIVEN_TEXT | GIVEN_TOKENS)) != 0;
	int rc;

	o->session = t->row.id;
	o->kind = r->verb == VERB_APPEND ? ORDER_APPEND : r->verb == VERB_SAY ? ORDER_SAY : ORDER_GENERATE;
	o->role = r->given & GIVEN_ROLE ? r->role : t->chat != NULL ? ROLE_USER : ROLE_RAW;
	o->settings = t->row.settings;
	settings_merge(&o->settings, &r->settings, r->given);
	o->given = GIVEN_SETTINGS;     /* what a later `set` says is not for this one */
	if (r->until_disconnect && o->kind != ORDER_APPEND)
		o->given |= GIVEN_UNTIL;
	if (o->kind != ORDER_GENERATE && !text)
		return refuse(why, "bad_param", "text is missing");
	if (o->kind == ORDER_GENERATE && text)
		return refuse(why, "bad_param", "text: not a parameter of generate");
	if (o->role >= N_ROLE || (r->given & GIVEN_ROLE && o->role == ROLE_ASSISTANT))
		return refuse(why, "role_unknown", "text has the role user, system, tool or raw");
	if (o->kind == ORDER_APPEND && o->role == ROLE_RAW && text && r->given & GIVEN_TEXT && r->n_text == 0)
		return refuse(why, "bad_param", "text: empty");
	if (r->n_key > KEY_MAX)
		return refuse(why, "bad_param", "key: at most %d bytes", KEY_MAX);
	memcpy(o->key, r->key, r->n_key);
	o->n_key = r->n_key;
	rc = settings_check(&o->settings, GIVEN_SETTINGS, why);
	if (rc == 0 && o->kind != ORDER_GENERATE)
		rc = role_check(t, (enum role)o->role, why);
	if (rc == 0 && o->kind != ORDER_GENERATE)
		rc = payload(e, r, o, why);
	return rc;
}

void verb_order(struct engine *e, struct request *r, struct timeline *t)
{
	struct order *o;
	struct store_job *j;
	struct call *c;
	bool over = false;

	r->rc = timeline_workable(t, &r->why);
	if (r->rc != 0) {
		answer(e, r);
		return;
	}
	o = calloc(1, sizeof *o);
	if (o == NULL)
		abort();
	r->rc = order_make(e, r, t, o, &r->why);
	if (r->rc == 0)
		over = caps_check(e, t->row.uid, o->n_payload, &r->why) != 0;
	if (over && o->n_key == 0)
		r->rc = REFUSED;
	if (r->rc != 0) {
		order_free(o);
		answer(e, r);
		return;
	}
	j = store_job_new(STORE_ORDER_PUT, t->row.id);
	j->durable = true;
	j->order = o;
	j->known_only = over;          /* what was accepted once has its answer, however full it is now */
	c = call_new(e, t, r, accepted);
	c->n = over ? 0 : o->n_payload;
	t->n_queued_bytes += c->n;
	t->n_putting += o->kind != ORDER_APPEND;
	if (o->given & GIVEN_UNTIL)            /* now: the peer may leave before it is on disk */
		bond_make(t, 0, r->peer);
	call_post(c, j);
}

void verb_cancel(struct engine *e, struct request *r, struct timeline *t)
{
	r->rc = timeline_workable(t, &r->why);
	if (r->rc != 0) {              /* nothing of it will ever be answered */
		answer(e, r);
		return;
	}
	if (t->cur != NULL && t->cur->kind != ORDER_APPEND) {
		t->cancel = true;
		wait_for(t, r, t->cur->id);
		order_cancel_waiting(t);
		return;
	}
	if (answers_to_come(t)) {
		wait_for(t, r, NEXT_ANSWER);
		order_cancel_waiting(t);
		return;
	}
	r->result = cancelled_value(false);
	answer(e, r);
}
