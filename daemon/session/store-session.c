/*
 * Rows of the table sessions, and the tracks: what the store knows of a session
 * in memory.  The hard idea: a track is always ahead of the database by exactly
 * the open transaction, so a rollback only marks it to be read again.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/base/log.h"
#include "daemon/session/checkpoint.h"
#include "daemon/session/store-inside.h"

/* ---- tracks ---- */

static size_t track_place(const struct store *s, uint64_t id)
{
	size_t lo = 0, hi = s->n_track;

	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;

		if (s->tracks[mid]->id < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct track *track_make(struct store *s, uint64_t id)
{
	size_t at = track_place(s, id);
	struct track *t;

	if (at < s->n_track && s->tracks[at]->id == id)
		return s->tracks[at];
	if (s->n_track == s->room_track) {
		s->room_track = s->room_track ? 2 * s->room_track : 64;
		s->tracks = realloc(s->tracks, s->room_track * sizeof *s->tracks);
	}
	t = calloc(1, sizeof *t);
	if (s->tracks == NULL || t == NULL)
		abort();
	t->id = id;
	memmove(s->tracks + at + 1, s->tracks + at, (s->n_track - at) * sizeof *s->tracks);
	s->tracks[at] = t;
	s->n_track++;
	return t;
}

static void track_remove(struct store *s, struct track *t)
{
	size_t at = track_place(s, t->id);
	struct track **d;

	for (d = &s->dirty; *d != NULL; d = &(*d)->next_dirty)
		if (*d == t) {
			*d = t->next_dirty;
			break;
		}
	memmove(s->tracks + at, s->tracks + at + 1, (s->n_track - at - 1) * sizeof *s->tracks);
	s->n_track--;
	free(t);
}

/* Reads the numbers of a track that is new, or was rolled back. */
static int track_load(struct store *s, struct track *t, bool fresh, struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, SQL_SESSION_TRACK, why);
	bool row;
	int i = 0, rc;

	if (q == NULL)
		return REFUSED;
	sqlite3_bind_int64(q, 1, (sqlite3_int64)t->id);
	rc = db_row(s, q, &row, why);
	if (rc != 0)
		return rc;
	if (!row)
		return refuse(why, "no_session", "no session with the number %" PRIu64, t->id);
	t->n_seq = column_u64(q, &i);
	t->n_token = column_u64(q, &i);
	t->chain = column_u64(q, &i);
	t->n_stored = column_u64(q, &i);
	t->n_sink = (uint32_t)column_u64(q, &i);
	db_done(q);
	q = db_statement(s, SQL_KEPT_COUNT, why);
	if (q == NULL)
		return REFUSED;
	sqlite3_bind_int64(q, 1, (sqlite3_int64)t->id);
	rc = db_row(s, q, &row, why);
	if (rc != 0)
		return rc;
	t->n_kept = (uint64_t)sqlite3_column_int64(q, 0);
	db_done(q);
	if (fresh)
		t->durable_seq = t->n_seq;
	t->loaded = true;
	return 0;
}

struct track *track_find(struct store *s, uint64_t id)
{
	size_t at = track_place(s, id);

	return at < s->n_track && s->tracks[at]->id == id ? s->tracks[at] : NULL;
}

int track_get(struct store *s, uint64_t session, struct track **out, struct reason *why)
{
	struct track *t = track_find(s, session);
	bool fresh = t == NULL;
	int rc;

	if (fresh)
		t = track_make(s, session);
	if (!t->loaded) {
		rc = track_load(s, t, fresh, why);
		if (rc != 0) {
			if (fresh)
				track_remove(s, t);
			return rc;
		}
	}
	if (t->bad[0] != '\0')
		return refuse(why, "session_damaged", "%s", t->bad);
	*out = t;
	return 0;
}

int track_damaged(struct track *t, struct reason *why, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(t->bad, sizeof t->bad, fmt, ap);
	va_end(ap);
	log_error("session %" PRIu64 ": %s", t->id, t->bad);
	return refuse(why, "session_damaged", "%s", t->bad);
}

void track_dirty(struct store *s, struct track *t)
{
	if (t->dirty)
		return;
	t->dirty = true;
	t->next_dirty = s->dirty;
	s->dirty = t;
}

void tracks_committed(struct store *s)
{
	struct track *t;

	while ((t = s->dirty) != NULL) {
		s->dirty = t->next_dirty;
		t->dirty = false;
		t->durable_seq = t->n_seq;
	}
}

void tracks_rolled_back(struct store *s)
{
	struct track *t;
	size_t i;

	while ((t = s->dirty) != NULL) {
		s->dirty = t->next_dirty;
		t->dirty = false;
	}
	for (i = 0; i < s->n_track; i++)
		s->tracks[i]->loaded = false;
}

void tracks_free(struct store *s)
{
	size_t i;

	for (i = 0; i < s->n_track; i++)
		free(s->tracks[i]);
	free(s->tracks);
}

/* ---- columns ---- */

static size_t stops_encode(unsigned char *p, const struct stops *v)
{
	size_t n = 0;
	uint32_t i;

	assert(v->n <= STOP_MAX);
	for (i = 0; i < v->n; i++) {
		assert(v->at[i].n <= STOP_BYTES);
		p[n++] = (unsigned char)v->at[i].n;
		memcpy(p + n, v->at[i].data, v->at[i].n);
		n += v->at[i].n;
	}
	return n;
}
_Static_assert(STOP_BYTES < 256, "the length of a stop string is one byte on disk");

static void stops_decode(struct stops *v, const unsigned char *p, size_t n)
{
	memset(v, 0, sizeof *v);
	while (n > 0 && v->n < STOP_MAX && p[0] <= STOP_BYTES && p[0] < n) {
		v->at[v->n].n = p[0];
		memcpy(v->at[v->n].data, p + 1, p[0]);
		n -= 1 + (size_t)p[0];
		p += 1 + (size_t)p[0];
		v->n++;
	}
}

void settings_bind(sqlite3_stmt *q, int *i, const struct settings *v, unsigned char *scratch)
{
	const struct sampling *m = &v->sampling;

	sqlite3_bind_double(q, (*i)++, (double)m->temperature);
	bind_u64(q, i, m->top_k);
	sqlite3_bind_double(q, (*i)++, (double)m->top_p);
	sqlite3_bind_double(q, (*i)++, (double)m->min_p);
	sqlite3_bind_double(q, (*i)++, (double)m->repeat_penalty);
	bind_u64(q, i, m->seed);
	bind_blob(q, i, scratch, stops_encode(scratch, &v->stops));
	bind_u64(q, i, v->max_tokens);
}

void settings_read(sqlite3_stmt *q, int *i, struct settings *v)
{
	struct sampling *m = &v->sampling;
	const void *stops;

	m->temperature = (float)sqlite3_column_double(q, (*i)++);
	m->top_k = (uint32_t)column_u64(q, i);
	m->top_p = (float)sqlite3_column_double(q, (*i)++);
	m->min_p = (float)sqlite3_column_double(q, (*i)++);
	m->repeat_penalty = (float)sqlite3_column_double(q, (*i)++);
	m->seed = column_u64(q, i);
	stops = sqlite3_column_blob(q, *i);
	stops_decode(&v->stops, stops, (size_t)sqlite3_column_bytes(q, (*i)++));
	v->max_tokens = (uint32_t)column_u64(q, i);
}

/* Where the chat format stands is stored as its bytes: fields are only ever added
 * behind, and start as zero. */
_Static_assert(_Alignof(struct chat_state) == 1, "chat_state is bytes on disk");

/* Over what says whose a session is and how it generates: a changed row is not
 * believed.  On disk: never change.  (Where its timeline stands, the log says.) */
static uint64_t session_sum(const struct session_row *r)
{
	const struct settings *v = &r->settings;
	unsigned char stops[STOPS_SIZE];
	uint64_t fields[] = {
		r->uid, r->gid, (uint64_t)r->created, r->fingerprint, r->window.n_sink, r->window.n_recent,
		r->raw, r->share, v->sampling.top_k, v->sampling.seed, v->max_tokens,
	};
	float reals[] = {
		v->sampling.temperature, v->sampling.top_p, v->sampling.min_p, v->sampling.repeat_penalty,
	};
	uint64_t sum = XXH3_64bits(fields, sizeof fields);

	sum = XXH3_64bits_withSeed(reals, sizeof reals, sum);
	sum = XXH3_64bits_withSeed(r->name, strlen(r->name), sum);
	sum = XXH3_64bits_withSeed(r->model, strlen(r->model), sum);
	return XXH3_64bits_withSeed(stops, stops_encode(stops, &v->stops), sum);
}

static void session_bind(sqlite3_stmt *q, int *i, const struct session_row *r, unsigned char *scratch)
{
	bind_u64(q, i, r->uid);
	bind_u64(q, i, r->gid);
	sqlite3_bind_text(q, (*i)++, r->name, -1, SQLITE_STATIC);
	sqlite3_bind_int64(q, (*i)++, r->created);
	sqlite3_bind_int64(q, (*i)++, r->used);
	bind_u64(q, i, r->fingerprint);
	sqlite3_bind_text(q, (*i)++, r->model, -1, SQLITE_STATIC);
	bind_u64(q, i, r->window.n_sink);
	bind_u64(q, i, r->window.n_recent);
	bind_u64(q, i, r->raw);
	bind_u64(q, i, r->share);
	settings_bind(q, i, &r->settings, scratch);
	bind_u64(q, i, session_sum(r));
	bind_blob(q, i, &r->chat, sizeof r->chat);
	bind_u64(q, i, r->n_kill);
}

static void column_str(sqlite3_stmt *q, int *i, char *out, size_t n)
{
	/* As a blob: text with an end may want memory, and be none without it. */
	const char *text = sqlite3_column_blob(q, *i);
	int n_text = sqlite3_column_bytes(q, (*i)++);

	snprintf(out, n, "%.*s", text != NULL ? n_text : 0, text != NULL ? text : "");
}

static void column_chat(sqlite3_stmt *q, int *i, struct chat_state *out)
{
	const void *p = sqlite3_column_blob(q, *i);
	size_t n = (size_t)sqlite3_column_bytes(q, (*i)++);

	memset(out, 0, sizeof *out);
	if (n > 0)
		memcpy(out, p, n < sizeof *out ? n : sizeof *out);
}

void session_read(sqlite3_stmt *q, struct store_session *v)
{
	struct session_row *r = &v->row;
	int i = 0;

	r->id = column_u64(q, &i);
	r->uid = (uid_t)column_u64(q, &i);
	r->gid = (gid_t)column_u64(q, &i);
	column_str(q, &i, r->name, sizeof r->name);
	r->created = (int64_t)column_u64(q, &i);
	r->used = (int64_t)column_u64(q, &i);
	r->fingerprint = column_u64(q, &i);
	column_str(q, &i, r->model, sizeof r->model);
	r->window.n_sink = (uint32_t)column_u64(q, &i);
	r->window.n_recent = (uint32_t)column_u64(q, &i);
	r->raw = column_u64(q, &i) != 0;
	r->share = (uint8_t)column_u64(q, &i);
	settings_read(q, &i, &r->settings);
	if (column_u64(q, &i) != session_sum(r))
		snprintf(v->bad, sizeof v->bad, "its row does not verify");
	column_chat(q, &i, &r->chat);
	r->n_kill = (uint32_t)column_u64(q, &i);
	r->n_seq = column_u64(q, &i);
	r->n_token = column_u64(q, &i);
	r->chain = column_u64(q, &i);
	v->n_stored_bytes = column_u64(q, &i);
	if (r->share >= N_SHARE)
		r->share = SHARE_NONE;
}

/* ---- jobs ---- */

static int session_insert(struct store *s, struct store_job *j)
{
	unsigned char scratch[STOPS_SIZE];
	struct session_row *r = &j->row;
	sqlite3_stmt *q;
	int i = 1, rc;

	q = db_statement(s, SQL_SESSION_INSERT, &j->why);
	if (q == NULL)
		return REFUSED;
	session_bind(q, &i, r, scratch);
	rc = db_run(s, q, &j->why);
	if (rc != 0)
		return rc;
	j->fresh = true;
	r->id = j->session = (uint64_t)sqlite3_last_insert_rowid(s->db);
	r->n_seq = r->n_token = r->chain = 0;
	track_make(s, r->id)->loaded = false;
	return 0;
}

static int session_update(struct store *s, struct store_job *j)
{
	unsigned char scratch[STOPS_SIZE];
	struct session_row *r = &j->row;
	sqlite3_stmt *q;
	struct track *t;
	int i = 1, rc;

	rc = track_get(s, r->id, &t, &j->why);
	if (rc != 0)
		return rc;
	q = db_statement(s, SQL_SESSION_UPDATE, &j->why);
	if (q == NULL)
		return REFUSED;
	sqlite3_bind_text(q, i++, r->name, -1, SQLITE_STATIC);
	bind_u64(q, &i, r->share);
	settings_bind(q, &i, &r->settings, scratch);
	bind_u64(q, &i, session_sum(r));
	bind_u64(q, &i, r->n_kill);
	bind_u64(q, &i, r->id);
	rc = db_run(s, q, &j->why);
	if (rc != 0)
		return rc;
	r->n_seq = t->n_seq;
	r->n_token = t->n_token;
	r->chain = t->chain;
	return 0;
}

int session_copy(struct store *s, const struct store_session *v, struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, SQL_SESSION_COPY, why);
	unsigned char scratch[STOPS_SIZE];
	int i = 1;

	if (q == NULL)
		return REFUSED;
	session_bind(q, &i, &v->row, scratch);
	bind_u64(q, &i, v->row.id);
	bind_u64(q, &i, v->row.n_seq);
	bind_u64(q, &i, v->row.n_token);
	bind_u64(q, &i, v->row.chain);
	bind_u64(q, &i, v->n_stored_bytes);
	return db_run(s, q, why);
}

int run_session_put(struct store *s, struct store_job *j)
{
	int rc = db_begin(s, &j->why);

	if (rc != 0)
		return rc;
	rc = j->row.id == 0 ? session_insert(s, j) : session_update(s, j);
	if (rc == DB_CONSTRAINT)
		return refuse(&j->why, "session_exists", "a session named %s is there", j->row.name);
	return rc;
}

int run_session_delete(struct store *s, struct store_job *j)
{
	static const enum statement deletes[] = {
		SQL_LOG_DELETE, SQL_OPEN_DELETE, SQL_KEPT_DELETE, SQL_SESSION_DELETE,
	};
	struct track *t;
	size_t k;
	int rc;

	rc = track_get(s, j->session, &t, &j->why);
	if (rc != 0 && strcmp(j->why.name, "session_damaged") != 0)
		return rc;
	/* The checkpoint goes first: without it the session is rebuilt from its log,
	 * should the rest fail. */
	rc = checkpoint_drop(s->disk, s->fd_checkpoint, j->session, &j->why);
	if (rc == 0)
		rc = db_begin(s, &j->why);
	for (k = 0; rc == 0 && k < sizeof deletes / sizeof *deletes; k++) {
		sqlite3_stmt *q = db_statement(s, deletes[k], &j->why);

		if (q == NULL)
			return REFUSED;
		sqlite3_bind_int64(q, 1, (sqlite3_int64)j->session);
		rc = db_run(s, q, &j->why);
	}
	if (rc != 0)
		return rc;
	t = track_find(s, j->session);
	if (t != NULL)
		track_remove(s, t);
	s->truncate_wal = true;
	memset(&j->why, 0, sizeof j->why);
	return 0;
}

/* ---- at start ---- */

static int count_orders(struct store *s, struct store_session *v, struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, SQL_ORDER_COUNT, why);
	bool row;
	int i = 0, rc;

	if (q == NULL)
		return REFUSED;
	sqlite3_bind_int64(q, 1, (sqlite3_int64)v->row.id);
	rc = db_row(s, q, &row, why);
	if (rc == 0 && row) {
		v->n_queued = column_u64(q, &i);
		v->n_queued_bytes = (uint64_t)sqlite3_column_double(q, i);
		db_done(q);
	}
	return rc;
}

static int read_sessions(struct store *s, struct store_session **out, size_t *n, struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, SQL_SESSION_ALL, why);
	struct store_session *all = NULL;
	size_t room = 0;
	bool row;
	int rc;

	*n = 0;
	if (q == NULL)
		return REFUSED;
	while ((rc = db_row(s, q, &row, why)) == 0 && row) {
		if (*n == room) {
			room = room ? 2 * room : 16;
			all = realloc(all, room * sizeof *all);
			if (all == NULL)
				abort();
		}
		memset(&all[*n], 0, sizeof *all);
		session_read(q, &all[(*n)++]);
	}
	*out = all;                    /* with what was readable */
	return rc;
}

/* What there is no memory to read is neither damaged nor gone. */
static bool no_memory(int rc, const struct reason *why)
{
	return rc == -ENOMEM || (rc != 0 && strcmp(why->name, "memory") == 0);
}

static int check_session(struct store *s, struct store_session *v, struct reason *why)
{
	struct track *t;
	int rc = count_orders(s, v, why);

	if (rc == 0)
		rc = track_get(s, v->row.id, &t, why);
	return rc == 0 ? log_verify_tail(s, t, STORE_TAIL, why) : rc;
}

/* Marks the track too, so that jobs are refused. */
static void row_damaged(struct store *s, const struct store_session *v)
{
	struct track *t = track_make(s, v->row.id);

	snprintf(t->bad, sizeof t->bad, "%s", v->bad);
	log_error("session %" PRIu64 ": %s", v->row.id, v->bad);
}

int store_each(struct store *s, int (*each)(void *ctx, const struct store_session *), void *ctx)
{
	struct store_session *all = NULL;
	struct reason why = { "", "" };
	size_t n = 0, i;
	int rc = 0;

	assert(!s->started);
	if (s->db != NULL)
		rc = read_sessions(s, &all, &n, &why);
	if (no_memory(rc, &why)) {
		free(all);
		return ERROR(-ENOMEM);
	}
	for (i = 0; i < n; i++) {
		struct store_session *v = &all[i];
		struct track *t;

		if (v->bad[0] != '\0')
			row_damaged(s, v);
		else if ((rc = check_session(s, v, &why)) != 0) {
			if (no_memory(rc, &why)) {
				rc = ERROR(-ENOMEM);
				break;
			}
			t = track_find(s, v->row.id);
			snprintf(v->bad, sizeof v->bad, "%.*s", (int)sizeof v->bad - 1,
			         t != NULL && t->bad[0] != '\0' ? t->bad : why.text);
		}
		rc = each(ctx, v);
		if (rc != 0)
			break;
	}
	free(all);
	if (s->failed) {               /* reading a damaged database: nothing was staged */
		db_rollback(s);
		s->failed = false;
	}
	return atomic_load(&s->read_only) && rc == REFUSED ? 0 : rc;
}
