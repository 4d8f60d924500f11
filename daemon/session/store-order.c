/*
 * The queue: accepted orders, first in first out for each session.  A finished
 * order is deleted, or, where it has a key, kept without its payload until
 * KEYS_KEPT newer ones are finished, so that a repetition is known for one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/session/store-inside.h"

/* Over what must not change unseen: on disk, never renumbered. */
static uint64_t order_sum(const struct order *o)
{
	uint64_t fields[] = { o->session, o->kind, o->role, o->tokens, o->given, o->n_key, o->n_payload };
	uint64_t sum = XXH3_64bits(fields, sizeof fields);

	sum = XXH3_64bits_withSeed(o->key, o->n_key, sum);
	return XXH3_64bits_withSeed(o->n_payload > 0 ? o->payload : "", o->n_payload, sum);
}

static void progress_read(sqlite3_stmt *q, int *i, struct order_progress *p)
{
	p->stage = (uint8_t)column_u64(q, i);
	p->offset = column_u64(q, i);
	p->n_generated = (uint32_t)column_u64(q, i);
	p->answer = column_u64(q, i);
	p->seq = column_u64(q, i);
}

static void progress_bind(sqlite3_stmt *q, int *i, const struct order_progress *p)
{
	bind_u64(q, i, p->stage);
	bind_u64(q, i, p->offset);
	bind_u64(q, i, p->n_generated);
	bind_u64(q, i, p->answer);
	bind_u64(q, i, p->seq);
}

/* STORE_REPEATED where the key is known. */
static int find_key(struct store *s, struct order *o, struct reason *why)
{
	sqlite3_stmt *q;
	bool row;
	int i = 0, rc;

	if (o->n_key == 0)
		return 0;
	q = db_statement(s, SQL_ORDER_BY_KEY, why);
	if (q == NULL)
		return REFUSED;
	sqlite3_bind_int64(q, 1, (sqlite3_int64)o->session);
	sqlite3_bind_blob(q, 2, o->key, (int)o->n_key, SQLITE_STATIC);
	rc = db_row(s, q, &row, why);
	if (rc != 0 || !row)
		return rc;
	o->id = column_u64(q, &i);
	progress_read(q, &i, &o->progress);
	o->log_seq = column_u64(q, &i);
	db_done(q);
	return STORE_REPEATED;
}

static void order_bind(sqlite3_stmt *q, int *i, const struct order *o, unsigned char *scratch)
{
	bind_u64(q, i, o->session);
	bind_u64(q, i, o->kind);
	bind_u64(q, i, o->role);
	bind_u64(q, i, o->tokens);
	bind_u64(q, i, o->given);
	settings_bind(q, i, &o->settings, scratch);
	if (o->n_key > 0)
		sqlite3_bind_blob(q, *i, o->key, (int)o->n_key, SQLITE_STATIC);
	(*i)++;                        /* else NULL */
	bind_blob(q, i, o->payload, o->n_payload);
	progress_bind(q, i, &o->progress);
	bind_u64(q, i, o->log_seq);
	bind_u64(q, i, order_sum(o));
}

int order_copy(struct store *s, const struct order *o, struct reason *why)
{
	unsigned char scratch[STOPS_SIZE];
	sqlite3_stmt *q = db_statement(s, SQL_ORDER_COPY, why);
	int i = 1;

	if (q == NULL)
		return REFUSED;
	order_bind(q, &i, o, scratch);
	bind_u64(q, &i, o->id);
	return db_run(s, q, why);
}

static int order_insert(struct store *s, struct order *o, struct reason *why)
{
	unsigned char scratch[STOPS_SIZE];
	sqlite3_stmt *q = db_statement(s, SQL_ORDER_INSERT, why);
	int i = 1, rc;

	if (q == NULL)
		return REFUSED;
	order_bind(q, &i, o, scratch);
	rc = db_run(s, q, why);
	if (rc == DB_CONSTRAINT)
		return ERROR(-EINVAL);
	if (rc == 0)
		o->id = (uint64_t)sqlite3_last_insert_rowid(s->db);
	return rc;
}

int run_order_put(struct store *s, struct store_job *j)
{
	struct order *o = j->order;
	struct track *t;
	int rc;

	if (o == NULL || o->n_key > KEY_MAX || (o->session != 0 && o->session != j->session))
		return ERROR(-EINVAL);
	o->session = j->session;
	rc = track_get(s, j->session, &t, &j->why);
	if (rc == 0)
		rc = find_key(s, o, &j->why);
	if (rc == 0 && j->known_only)
		return REFUSED;
	if (rc == 0)
		rc = db_begin(s, &j->why);
	if (rc != 0)
		return rc;
	o->log_seq = t->n_seq;
	rc = order_insert(s, o, &j->why);
	j->fresh = rc == 0;
	return rc;
}

int order_read(sqlite3_stmt *q, struct order **out, bool *sound)
{
	struct order *o = calloc(1, sizeof *o);
	const void *key, *payload;
	int i = 0;

	*out = o;
	if (o == NULL)
		return ERROR(-ENOMEM);
	o->id = column_u64(q, &i);
	o->session = column_u64(q, &i);
	o->kind = (uint8_t)column_u64(q, &i);
	o->role = (uint8_t)column_u64(q, &i);
	o->tokens = column_u64(q, &i) != 0;
	o->given = (unsigned)column_u64(q, &i);
	settings_read(q, &i, &o->settings);
	key = sqlite3_column_blob(q, i);
	o->n_key = (size_t)sqlite3_column_bytes(q, i++);
	if (o->n_key > KEY_MAX)
		o->n_key = 0;          /* its sum will not be right */
	if (o->n_key > 0)
		memcpy(o->key, key, o->n_key);
	payload = sqlite3_column_blob(q, i);
	o->n_payload = (size_t)sqlite3_column_bytes(q, i++);
	o->payload = malloc(o->n_payload + 1);
	if (o->payload == NULL)
		return ERROR(-ENOMEM);
	if (o->n_payload > 0)
		memcpy(o->payload, payload, o->n_payload);
	o->payload[o->n_payload] = '\0';
	progress_read(q, &i, &o->progress);
	o->log_seq = column_u64(q, &i);
	/* The payload of a finished one has gone. */
	*sound = column_u64(q, &i) == order_sum(o) || o->progress.stage == 2;
	return 0;
}

int run_order_next(struct store *s, struct store_job *j)
{
	struct order *o = NULL;
	struct track *t;
	sqlite3_stmt *q;
	bool row, sound = false;
	int rc;

	order_free(j->order);
	j->order = NULL;
	rc = track_get(s, j->session, &t, &j->why);
	if (rc != 0)
		return rc;
	q = db_statement(s, j->answers ? SQL_ANSWER_NEXT : SQL_ORDER_NEXT, &j->why);
	if (q == NULL)
		return REFUSED;
	sqlite3_bind_int64(q, 1, (sqlite3_int64)j->session);
	sqlite3_bind_int64(q, 2, (sqlite3_int64)j->from);
	rc = db_row(s, q, &row, &j->why);
	if (rc != 0 || !row)
		return rc;
	rc = order_read(q, &o, &sound);
	db_done(q);
	if (rc == 0 && !sound)
		rc = track_damaged(t, &j->why, "request %" PRIu64 " in its queue does not verify", o->id);
	if (rc == 0) {
		j->order = o;
		o = NULL;
	}
	order_free(o);
	return rc;
}

static int order_simple(struct store *s, enum statement i, uint64_t id, struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, i, why);

	if (q == NULL)
		return REFUSED;
	sqlite3_bind_int64(q, 1, (sqlite3_int64)id);
	return db_run(s, q, why);
}

static int order_finish(struct store *s, struct track *t, uint64_t id, struct reason *why)
{
	int rc = order_simple(s, SQL_ORDER_FORGET, id, why);

	if (rc != 0 || sqlite3_changes(s->db) > 0)
		return rc;
	rc = order_simple(s, SQL_ORDER_KEEP, id, why);
	if (rc == 0 && ++t->n_kept > KEYS_KEPT) {
		rc = order_simple(s, SQL_KEPT_TRIM, t->id, why);
		t->n_kept--;
	}
	return rc;
}

int order_advance(struct store *s, struct track *t, uint64_t id, const struct order_progress *p,
                  struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, SQL_ORDER_PROGRESS, why);
	int i = 1, rc;

	if (q == NULL)
		return REFUSED;
	progress_bind(q, &i, p);
	bind_u64(q, &i, id);
	bind_u64(q, &i, t->id);
	rc = db_run(s, q, why);
	if (rc != 0)
		return rc;
	if (sqlite3_changes(s->db) == 0) {
		s->failed = true;      /* its entries may be staged already */
		return ERROR(-ENOENT);
	}
	return p->stage == 2 ? order_finish(s, t, id, why) : 0;
}
