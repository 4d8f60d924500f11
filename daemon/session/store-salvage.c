/*
 * Salvage: what is readable of a damaged database, copied into a new one.
 *
 * The hard idea: a timeline has no holes, so a log is kept up to its first entry
 * that does not verify, and the session goes on from there.  The new database is
 * whole and on disk before the damaged one gives up its name, and the damaged one
 * is kept; dir_database finishes the renames if they were cut off.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/session/store-inside.h"

#define NEW "sinkd.db.salvaged"

struct rows { struct store_session *at; size_t n, room; };

static bool row_known(const struct rows *r, uint64_t id)
{
	size_t i;

	for (i = 0; i < r->n; i++)
		if (r->at[i].row.id == id)
			return true;
	return false;
}

/* What one scan gives until it ends, fails, or meets what is known. */
static void scan_sessions(struct store *s, enum statement which, struct rows *r)
{
	sqlite3_stmt *q = db_statement(s, which, NULL);
	struct store_session v;
	bool row;

	while (q != NULL && db_row(s, q, &row, NULL) == 0 && row) {
		memset(&v, 0, sizeof v);
		session_read(q, &v);
		if (row_known(r, v.row.id))
			break;
		if (v.bad[0] != '\0') {        /* whose is it? root's, until root says */
			log_warning("session %" PRIu64 ": %s; it is kept for root", v.row.id, v.bad);
			v.row.uid = 0;
			v.row.share = SHARE_NONE;
			v.bad[0] = '\0';
		}
		if (r->n == r->room) {
			r->room = r->room ? 2 * r->room : 16;
			r->at = realloc(r->at, r->room * sizeof *r->at);
			if (r->at == NULL)
				abort();
		}
		r->at[r->n++] = v;
	}
	db_done(q);
}

/* Where the chat format stands after a log that was cut, as well as it can be told. */
static void chat_guess(struct chat_state *c, const struct event *last)
{
	memset(c, 0, sizeof *c);
	c->started = 1;
	if (last->kind == EVENT_TEXT && last->role != ROLE_RAW)
		c->open = (uint8_t)(last->role + 1);
	else if (last->kind == EVENT_TURN && last->reason == TURN_BEGIN)
		c->open = ROLE_ASSISTANT + 1;
}

/* Copies the log of v up to its first bad entry and makes v's row say so. */
static int copy_log(struct store *from, struct store *to, struct store_session *v, struct salvage *out,
                    struct reason *why)
{
	struct session_row *r = &v->row;
	struct track *t = track_make(from, r->id);
	struct event e, last = { .seq = 0 };
	struct walk w = { .q = NULL };
	bool row = false;
	int rc = 0;

	t->loaded = true;
	t->n_seq = r->n_seq;
	t->chain = r->chain;
	r->n_token = r->chain = r->n_seq = v->n_stored_bytes = 0;
	if (walk_begin(&w, from, t, 1, NULL) == 0)
		while (rc == 0 && walk_next(&w, &e, &row, NULL) == 0 && row) {
			if (e.position == r->n_token)
				rc = entry_insert(to, &e, w.chain, why);
			else
				row = false;
			if (rc == 0 && row) {
				r->n_token += e.ids.n;
				r->n_seq = e.seq;
				r->chain = w.chain;
				v->n_stored_bytes += event_stored(&e);
				last = e;      /* its plain fields */
				out->n_entry++;
			}
			event_clear(&e);
			if (!row)
				break;
		}
	walk_end(&w);
	if (r->n_seq < t->n_seq) {
		out->n_cut++;
		log_warning("session %" PRIu64 ": its log is kept up to entry %" PRIu64 " of %" PRIu64,
		            r->id, r->n_seq, t->n_seq);
		chat_guess(&r->chat, &last);
		if (r->n_seq == 0)
			memset(&r->chat, 0, sizeof r->chat);
		snprintf(v->bad, sizeof v->bad, "cut");
	}
	return rc;
}

static int copy_sessions(struct store *from, struct store *to, struct rows *r, struct salvage *out,
                         struct reason *why)
{
	size_t i;
	int rc;

	scan_sessions(from, SQL_SESSION_ALL, r);
	scan_sessions(from, SQL_SESSION_DOWN, r);
	for (i = 0; i < r->n; i++) {
		if ((rc = db_begin(to, why)) != 0 ||
		    (rc = copy_log(from, to, &r->at[i], out, why)) != 0)
			return rc;
		rc = session_copy(to, &r->at[i], why);
		if (rc == 0)
			out->n_session++;
		else if (rc != DB_CONSTRAINT)  /* a row that is no row is left behind */
			return rc;
		rc = db_commit(to, why);
		if (rc != 0)
			return rc;
	}
	return 0;
}

/* Orders of sessions that were cut are kept where nothing of them was applied. */
static bool order_wanted(const struct rows *r, const struct order *o)
{
	const struct order_progress *p = &o->progress;
	size_t i;

	for (i = 0; i < r->n; i++)
		if (r->at[i].row.id == o->session)
			return r->at[i].bad[0] == '\0' || p->stage == 2 || (p->stage == 0 && p->offset == 0);
	return false;
}

static int copy_orders(struct store *from, struct store *to, const struct rows *r, struct salvage *out,
                       struct reason *why)
{
	sqlite3_stmt *q = db_statement(from, SQL_ORDER_ALL, NULL);
	int rc = db_begin(to, why);
	struct order *o = NULL;
	bool row, sound = false;

	while (rc == 0 && q != NULL && db_row(from, q, &row, NULL) == 0 && row) {
		rc = order_read(q, &o, &sound);
		if (rc == 0 && sound && order_wanted(r, o)) {
			rc = order_copy(to, o, why);
			if (rc == 0)
				out->n_order++;
			else if (rc == DB_CONSTRAINT)
				rc = 0;
		}
		order_free(o);
		o = NULL;
	}
	db_done(q);
	return rc == 0 ? db_commit(to, why) : rc;
}

static void remove_new(int dir)
{
	static const char *const names[] = { NEW, NEW "-wal", NEW "-shm", NEW "-journal" };
	size_t i;

	for (i = 0; i < sizeof names / sizeof *names; i++)
		unlinkat(dir, names[i], 0);
}

/* See dir_database for what happens when this is cut off. */
static int swap(int dir, struct salvage *out, struct reason *why)
{
	char wal[sizeof out->kept + 8];

	snprintf(out->kept, sizeof out->kept, "sinkd.db.damaged-%lld", (long long)time(NULL));
	snprintf(wal, sizeof wal, "%s-wal", out->kept);
	if (fsync(dir) < 0 ||
	    renameat(dir, "sinkd.db", dir, out->kept) < 0 ||
	    (renameat(dir, "sinkd.db-wal", dir, wal) < 0 && errno != ENOENT) ||
	    renameat(dir, NEW, dir, "sinkd.db") < 0 ||
	    fsync(dir) < 0)
		return refuse(why, "disk", "renaming the databases: %s", strerror(errno));
	return 0;
}

int store_salvage(const char *dir, struct salvage *out, struct reason *why)
{
	struct store from = { .database = "sinkd.db" };
	struct store to = { .database = NEW, .fd_dir = -1, .fd_lock = -1, .fd_checkpoint = -1 };
	struct rows r = { NULL, 0, 0 };
	int rc;

	memset(out, 0, sizeof *out);
	rc = dir_open(&from, dir, why);
	if (rc == 0 && faccessat(from.fd_dir, "sinkd.db", F_OK, 0) < 0)
		rc = refuse(why, "bad_state", "%s/sinkd.db: %s", from.dir, strerror(errno));
	if (rc == 0)
		rc = dir_database(&from, why);
	if (rc == 0)
		rc = db_open_damaged(&from, why);
	if (rc != 0)
		goto out;
	remove_new(from.fd_dir);
	to.dir = strdup(from.dir);
	if (to.dir == NULL) {
		rc = ERROR(-ENOMEM);
		goto out;
	}
	rc = dir_new(&from, NEW, why);
	if (rc == 0)
		rc = db_open(&to, NULL, true, why);
	if (rc == 0)
		rc = copy_sessions(&from, &to, &r, out, why);
	if (rc == 0)
		rc = copy_orders(&from, &to, &r, out, why);
	if (rc == 0) {
		to.truncate_wal = true;
		db_truncate_wal(&to);
		rc = to.truncate_wal ? refuse(why, "disk", "the new database could not be finished") : 0;
	}
	db_close(&to);
	db_close(&from);
	if (rc == 0)
		rc = swap(from.fd_dir, out, why);
	else
		remove_new(from.fd_dir);
out:
	db_close(&to);
	db_close(&from);
	tracks_free(&from);
	tracks_free(&to);
	dir_close(&to);
	dir_close(&from);
	free(r.at);
	return rc;
}
