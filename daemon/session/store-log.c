/*
 * The log: entries appended in order, read in order, and every one that is read
 * verified against the chain of the one before it.
 *
 * Positions never fall with seq, so an entry is found by its position with a
 * binary search over seqs: twenty look-ups for a million entries, and no index
 * that every append would pay for.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/session/store-inside.h"

#define READ_ENTRIES 1000
#define READ_BYTES (512u << 10)
#define TAIL_LOOK 1000         /* entries without tokens that a checkpoint may lie behind */

/* ---- appending ---- */

int entry_insert(struct store *s, const struct event *e, uint64_t chain, struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, SQL_LOG_INSERT, why);
	int i = 1;

	if (q == NULL)
		return REFUSED;
	bind_u64(q, &i, e->session);
	bind_u64(q, &i, e->seq);
	sqlite3_bind_int64(q, i++, e->time);
	bind_u64(q, &i, e->kind);
	bind_u64(q, &i, e->role);
	bind_u64(q, &i, e->reason);
	bind_u64(q, &i, e->order);
	bind_u64(q, &i, e->position);
	bind_u64(q, &i, e->n_prompt);
	bind_u64(q, &i, e->n_generated);
	bind_u64(q, &i, e->window_start);
	bind_u64(q, &i, chain);
	bind_blob(q, &i, e->ids.data, e->ids.n * sizeof *e->ids.data);
	bind_blob(q, &i, e->text, e->n_text);
	return db_run(s, q, why);
}

/* Our own mistakes, found before anything is written. */
static int log_check(const struct store_job *j, const struct track *t)
{
	uint64_t seq = t->n_seq, position = t->n_token;
	size_t i;

	for (i = 0; i < j->n_event; i++) {
		const struct event *e = &j->events[i];

		if (e->session != t->id || e->seq != ++seq || e->position != position ||
		    e->kind < EVENT_TEXT || e->kind > EVENT_APPLIED)
			return -EINVAL;
		position += e->ids.n;
	}
	return j->row.n_token == position ? 0 : -EINVAL;
}

static int session_advance(struct store *s, const struct track *t, const struct session_row *r,
                           struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, SQL_SESSION_ADVANCE, why);
	int i = 1;

	if (q == NULL)
		return REFUSED;
	bind_u64(q, &i, t->n_seq);
	bind_u64(q, &i, t->n_token);
	bind_u64(q, &i, t->chain);
	bind_u64(q, &i, t->n_stored);
	sqlite3_bind_int64(q, i++, r->used);
	bind_blob(q, &i, &r->chat, sizeof r->chat);
	bind_u64(q, &i, r->n_kill);
	bind_u64(q, &i, t->id);
	return db_run(s, q, why);
}

static int log_append(struct store *s, struct store_job *j, struct track *t)
{
	size_t i;
	int rc;

	for (i = 0; i < j->n_event; i++) {
		const struct event *e = &j->events[i];
		uint64_t chain = event_chain(t->chain, e);

		rc = entry_insert(s, e, chain, &j->why);
		if (rc == DB_CONSTRAINT)       /* an entry that nobody knew of */
			rc = track_damaged(t, &j->why, "log entry %" PRIu64 " is there already", e->seq);
		if (rc != 0)
			return rc;
		t->n_seq = e->seq;
		t->n_token += e->ids.n;
		t->n_stored += event_stored(e);
		t->chain = chain;
	}
	rc = session_advance(s, t, &j->row, &j->why);
	if (rc == 0 && j->order_id != 0)
		rc = order_advance(s, t, j->order_id, &j->progress, &j->why);
	return rc;
}

int run_log(struct store *s, struct store_job *j)
{
	struct track *t;
	int rc;

	rc = track_get(s, j->session, &t, &j->why);
	if (rc != 0)
		return rc;
	rc = log_check(j, t);
	if (rc < 0 && t->gap)
		return refuse(&j->why, "disk", "entries before it were not written");
	if (rc < 0)
		return ERROR(rc);
	rc = db_begin(s, &j->why);
	if (rc != 0)
		return rc;
	track_dirty(s, t);
	rc = log_append(s, j, t);
	if (rc != 0) {
		s->failed = true;      /* half of it is staged */
		return rc;
	}
	if (j->n_event > 0 && !j->fresh)       /* one written again does not fill the gap behind it */
		t->gap = false;
	j->row.n_seq = t->n_seq;
	j->row.chain = t->chain;
	return 0;
}

void log_refused(struct store *s, const struct store_job *j)
{
	struct track *t = track_find(s, j->session);

	if (t != NULL && j->n_event > 0)
		t->gap = true;
}

/* ---- reading ---- */

static int entry_read(sqlite3_stmt *q, uint64_t session, struct event *e, uint64_t *chain)
{
	const void *ids, *text;
	int i = 0, n;

	memset(e, 0, sizeof *e);
	e->session = session;
	e->seq = column_u64(q, &i);
	e->time = (int64_t)column_u64(q, &i);
	e->kind = (uint8_t)column_u64(q, &i);
	e->role = (uint8_t)column_u64(q, &i);
	e->reason = (uint8_t)column_u64(q, &i);
	e->order = column_u64(q, &i);
	e->position = column_u64(q, &i);
	e->n_prompt = (uint32_t)column_u64(q, &i);
	e->n_generated = (uint32_t)column_u64(q, &i);
	e->window_start = column_u64(q, &i);
	*chain = column_u64(q, &i);
	ids = sqlite3_column_blob(q, i);
	n = sqlite3_column_bytes(q, i++);
	if (n % (int)sizeof(int32_t) != 0)
		*chain = 0;            /* no entry's: it will not verify */
	e->ids.n = e->ids.room = (size_t)n / sizeof(int32_t);
	e->ids.data = malloc((size_t)n + 1);
	text = sqlite3_column_blob(q, i);
	e->n_text = (size_t)sqlite3_column_bytes(q, i);
	e->text = malloc(e->n_text + 1);
	if (e->ids.data == NULL || e->text == NULL) {
		event_clear(e);
		return ERROR(-ENOMEM);
	}
	if (n > 0)
		memcpy(e->ids.data, ids, (size_t)n);
	if (e->n_text > 0)
		memcpy(e->text, text, e->n_text);
	e->text[e->n_text] = '\0';
	return 0;
}

/* Position and chain of one entry. */
static int entry_at(struct store *s, struct track *t, uint64_t seq, uint64_t *position, uint64_t *chain,
                    struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, SQL_LOG_AT, why);
	bool row;
	int i = 0, rc;

	if (q == NULL)
		return REFUSED;
	sqlite3_bind_int64(q, 1, (sqlite3_int64)t->id);
	sqlite3_bind_int64(q, 2, (sqlite3_int64)seq);
	rc = db_row(s, q, &row, why);
	if (rc != 0)
		return rc;
	if (!row)
		return track_damaged(t, why, "log entry %" PRIu64 " is missing", seq);
	*position = column_u64(q, &i);
	*chain = column_u64(q, &i);
	db_done(q);
	return 0;
}

int walk_begin(struct walk *w, struct store *s, struct track *t, uint64_t seq, struct reason *why)
{
	uint64_t position;
	int rc;

	w->s = s;
	w->t = t;
	w->q = NULL;
	w->seq = seq > 0 ? seq : 1;
	w->chain = 0;
	if (w->seq > t->n_seq)
		return 0;              /* nothing to verify against, nothing to read */
	if (w->seq > 1) {
		rc = entry_at(s, t, w->seq - 1, &position, &w->chain, why);
		if (rc != 0)
			return rc;
	}
	w->q = db_statement(s, SQL_LOG_WALK, why);
	if (w->q == NULL)
		return REFUSED;
	sqlite3_bind_int64(w->q, 1, (sqlite3_int64)t->id);
	sqlite3_bind_int64(w->q, 2, (sqlite3_int64)w->seq);
	return 0;
}

int walk_next(struct walk *w, struct event *e, bool *row, struct reason *why)
{
	struct track *t = w->t;
	uint64_t chain;
	int rc;

	*row = false;
	if (w->seq > t->n_seq)
		return 0;
	rc = db_row(w->s, w->q, row, why);
	if (rc != 0) {
		w->q = NULL;
		return rc;
	}
	if (!*row) {
		w->q = NULL;
		return track_damaged(t, why, "log entry %" PRIu64 " is missing", w->seq);
	}
	*row = false;
	rc = entry_read(w->q, t->id, e, &chain);
	if (rc != 0)
		return rc;
	if (e->seq != w->seq)
		rc = track_damaged(t, why, "log entry %" PRIu64 " is missing", w->seq);
	else if (event_chain(w->chain, e) != chain || (w->seq == t->n_seq && chain != t->chain) ||
	         e->kind < EVENT_TEXT || e->kind > EVENT_APPLIED)
		rc = track_damaged(t, why, "log entry %" PRIu64 " does not verify", w->seq);
	if (rc != 0) {
		event_clear(e);
		return rc;
	}
	e->forgotten = e->window_start > t->n_sink ? e->window_start - t->n_sink : 0;
	w->chain = chain;
	w->seq++;
	*row = true;
	return 0;
}

void walk_end(struct walk *w)
{
	db_done(w->q);
	w->q = NULL;
}

int log_verify_tail(struct store *s, struct track *t, uint64_t n, struct reason *why)
{
	uint64_t position = 0;
	struct event e;
	struct walk w;
	bool row;
	int rc;

	rc = walk_begin(&w, s, t, t->n_seq > n ? t->n_seq - n + 1 : 1, why);
	while (rc == 0 && (rc = walk_next(&w, &e, &row, why)) == 0 && row) {
		position = e.position + e.ids.n;
		event_clear(&e);
	}
	walk_end(&w);
	if (rc == 0 && position != t->n_token)
		rc = track_damaged(t, why, "its row says %" PRIu64 " tokens, its log %" PRIu64, t->n_token, position);
	return rc;
}

bool log_tail_has(struct store *s, struct track *t, uint64_t chain)
{
	uint64_t seq, position, at;
	struct reason why;

	for (seq = t->n_seq; seq > 0 && t->n_seq - seq < TAIL_LOOK; seq--) {
		if (entry_at(s, t, seq, &position, &at, &why) != 0)
			return false;
		if (at == chain)
			return true;
		if (position < t->n_token)
			return false;
	}
	return false;
}

static void events_free(struct store_job *j)
{
	size_t i;

	for (i = 0; i < j->n_event; i++)
		event_clear(&j->events[i]);
	free(j->events);
	j->events = NULL;
	j->n_event = 0;
}

static int events_push(struct store_job *j, size_t *room, struct event *e)
{
	size_t more = *room ? 2 * *room : 16;
	void *p;

	if (j->n_event == *room) {
		p = realloc(j->events, more * sizeof *j->events);
		if (p == NULL) {
			event_clear(e);
			return ERROR(-ENOMEM);
		}
		j->events = p;
		*room = more;
	}
	j->events[j->n_event++] = *e;
	return 0;
}

int run_read(struct store *s, struct store_job *j)
{
	uint64_t most = j->limit > 0 ? j->limit : READ_ENTRIES;
	uint64_t most_bytes = j->limit_bytes > 0 ? j->limit_bytes : READ_BYTES, bytes = 0;
	size_t room = 0;
	struct track *t;
	struct event e;
	struct walk w;
	bool row = false;
	int rc;

	events_free(j);
	rc = track_get(s, j->session, &t, &j->why);
	if (rc != 0)
		return rc;
	j->durable_seq = t->durable_seq;
	rc = walk_begin(&w, s, t, j->from, &j->why);
	j->next = w.seq;
	while (rc == 0 && j->n_event < most && (rc = walk_next(&w, &e, &row, &j->why)) == 0 && row) {
		bytes += event_cost(&e);
		if (j->n_event > 0 && bytes > most_bytes) {
			event_clear(&e);
			break;
		}
		j->next = e.seq + 1;
		rc = events_push(j, &room, &e);
	}
	walk_end(&w);
	if (rc != 0)
		events_free(j);
	return rc;
}

/* The last entry whose first position is not behind `position`. */
static int seq_of(struct store *s, struct track *t, uint64_t position, uint64_t *seq, struct reason *why)
{
	uint64_t lo = 1, hi = t->n_seq, at, chain;

	while (lo < hi) {
		uint64_t mid = lo + (hi - lo + 1) / 2;
		int rc = entry_at(s, t, mid, &at, &chain, why);

		if (rc != 0)
			return rc;
		if (at <= position)
			lo = mid;
		else
			hi = mid - 1;
	}
	*seq = lo;
	return 0;
}

/* Takes what lies in [from, to) of an entry's ids. */
static int take_ids(struct ids *out, const struct event *e, uint64_t from, uint64_t to)
{
	uint64_t lo = from > e->position ? from - e->position : 0;
	uint64_t hi = to - e->position < e->ids.n ? to - e->position : e->ids.n;

	if (lo >= hi)
		return 0;
	if (ids_reserve(out, (size_t)(hi - lo)) != 0)
		return -ENOMEM;
	ids_append(out, e->ids.data + lo, (size_t)(hi - lo));
	return 0;
}

int run_tokens(struct store *s, struct store_job *j)
{
	uint64_t seq, to;
	struct track *t;
	struct event e;
	struct walk w;
	bool row;
	int rc;

	ids_free(&j->ids);
	rc = track_get(s, j->session, &t, &j->why);
	if (rc != 0 || j->from >= t->n_token)
		return rc;
	to = j->limit == 0 || j->limit > t->n_token - j->from ? t->n_token : j->from + j->limit;
	rc = seq_of(s, t, j->from, &seq, &j->why);
	if (rc != 0)
		return rc;
	rc = walk_begin(&w, s, t, seq, &j->why);
	while (rc == 0 && j->from + j->ids.n < to && (rc = walk_next(&w, &e, &row, &j->why)) == 0 && row) {
		uint64_t want = j->from + j->ids.n;

		if (e.position <= want && want - e.position <= e.ids.n)
			rc = take_ids(&j->ids, &e, j->from, to);
		else
			rc = track_damaged(t, &j->why, "the positions of log entry %" PRIu64 " do not follow", e.seq);
		event_clear(&e);
	}
	walk_end(&w);
	if (rc == 0 && j->from + j->ids.n != to)
		rc = track_damaged(t, &j->why, "its log ends before token %" PRIu64, to);
	if (rc != 0)
		ids_free(&j->ids);
	return rc;
}
