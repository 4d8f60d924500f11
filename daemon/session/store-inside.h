/*
 * Inside the store: its state, shared by the files store*.c and by nothing else.
 * Everything here belongs to the store's thread (before store_start, to the
 * thread that opened it), except what says otherwise.
 */
#ifndef DAEMON_SESSION_STORE_INSIDE_H
#define DAEMON_SESSION_STORE_INSIDE_H

#include <pthread.h>
#include <sqlite3.h>
#include <stdatomic.h>

#include "daemon/session/disk.h"
#include "daemon/session/store.h"

#define STORE_VERSION 1                /* user_version of the database */
#define STORE_APPLICATION 0x73696e6b   /* application_id: "sink" */
#define STORE_TAIL 10000               /* log entries of a session verified at start */

/* What the store knows of a session without asking the database. */
struct track {
	uint64_t id;
	bool loaded;               /* false after a rollback: the numbers are to be read again */
	bool dirty;                /* has staged entries */
	bool gap;                  /* entries were refused for the disk: later ones cannot follow yet */
	uint64_t n_seq, n_token, chain, n_stored;      /* staged */
	uint64_t durable_seq;      /* committed */
	uint32_t n_sink;
	uint64_t n_kept;           /* finished orders kept for their keys */
	char bad[160];             /* not empty: damaged, and how */
	struct track *next_dirty;
};

#define SETTINGS "temperature, top_k, top_p, min_p, repeat_penalty, seed, stops, max_tokens"
#define N_SETTINGS "?,?,?,?,?,?,?,?"
#define ORDER "id, session, kind, role, tokens, given, " SETTINGS ", key, payload, " \
	"stage, offset, n_generated, answer, seq, log_seq, sum"
#define SESSION "uid, gid, name, created, used, fingerprint, model, n_sink, n_recent, raw, share, " \
	SETTINGS ", sum, chat, n_kill"

/* X(symbol, SQL) */
#define STATEMENTS(X) \
	X(BEGIN, "BEGIN IMMEDIATE") \
	X(COMMIT, "COMMIT") \
	X(ROLLBACK, "ROLLBACK") \
	X(SESSION_INSERT, "INSERT INTO sessions(" SESSION ", n_seq, n_token, chain, n_stored)" \
		" VALUES (?,?,?,?,?,?,?,?,?,?,?," N_SETTINGS ",?,?,?,0,0,0,0)") \
	X(SESSION_UPDATE, "UPDATE sessions SET (name, share, " SETTINGS ", sum, n_kill) =" \
		" (?,?," N_SETTINGS ",?,?) WHERE id = ?") \
	X(SESSION_ADVANCE, "UPDATE sessions SET n_seq=?, n_token=?, chain=?, n_stored=?, used=?," \
		" chat=?, n_kill=? WHERE id = ?") \
	X(SESSION_ALL, "SELECT id, " SESSION ", n_seq, n_token, chain, n_stored FROM sessions ORDER BY id") \
	X(SESSION_DOWN, "SELECT id, " SESSION ", n_seq, n_token, chain, n_stored FROM sessions ORDER BY id DESC") \
	X(SESSION_COPY, "INSERT INTO sessions(" SESSION ", id, n_seq, n_token, chain, n_stored)" \
		" VALUES (?,?,?,?,?,?,?,?,?,?,?," N_SETTINGS ",?,?,?,?,?,?,?,?)") \
	X(SESSION_TRACK, "SELECT n_seq, n_token, chain, n_stored, n_sink FROM sessions WHERE id = ?") \
	X(SESSION_DELETE, "DELETE FROM sessions WHERE id = ?") \
	X(OPEN_DELETE, "DELETE FROM queue WHERE session = ? AND stage < 2") \
	X(KEPT_DELETE, "DELETE FROM queue WHERE session = ? AND key IS NOT NULL AND stage = 2") \
	X(LOG_DELETE, "DELETE FROM log WHERE session = ?") \
	X(ORDER_INSERT, "INSERT INTO queue(session, kind, role, tokens, given, " SETTINGS ", key, payload," \
		" stage, offset, n_generated, answer, seq, log_seq, sum)" \
		" VALUES (?,?,?,?,?," N_SETTINGS ",?,?,?,?,?,?,?,?,?)") \
	X(ORDER_ALL, "SELECT " ORDER " FROM queue ORDER BY id") \
	X(ORDER_COPY, "INSERT INTO queue(session, kind, role, tokens, given, " SETTINGS ", key, payload," \
		" stage, offset, n_generated, answer, seq, log_seq, sum, id)" \
		" VALUES (?,?,?,?,?," N_SETTINGS ",?,?,?,?,?,?,?,?,?,?)") \
	X(ORDER_BY_KEY, "SELECT id, stage, offset, n_generated, answer, seq, log_seq FROM queue" \
		" WHERE session = ? AND key = ?") \
	X(ORDER_NEXT, "SELECT " ORDER " FROM queue" \
		" WHERE session = ? AND id > ? AND stage < 2 ORDER BY id LIMIT 1") \
	X(ANSWER_NEXT, "SELECT " ORDER " FROM queue" \
		" WHERE session = ? AND id > ? AND stage < 2 AND kind <> 1 ORDER BY id LIMIT 1") \
	X(ORDER_PROGRESS, "UPDATE queue SET stage=?, offset=?, n_generated=?, answer=?, seq=?" \
		" WHERE id = ? AND session = ? AND stage < 2") \
	X(ORDER_FORGET, "DELETE FROM queue WHERE id = ? AND key IS NULL") \
	X(ORDER_KEEP, "UPDATE queue SET payload = NULL WHERE id = ?") \
	X(ORDER_COUNT, "SELECT count(*), total(length(payload)) FROM queue WHERE session = ? AND stage < 2") \
	X(KEPT_COUNT, "SELECT count(*) FROM queue WHERE session = ? AND key IS NOT NULL AND stage = 2") \
	X(KEPT_TRIM, "DELETE FROM queue WHERE id = (SELECT id FROM queue" \
		" WHERE session = ? AND key IS NOT NULL AND stage = 2 ORDER BY id LIMIT 1)") \
	X(LOG_INSERT, "INSERT INTO log(session, seq, time, kind, role, reason, request, position," \
		" n_prompt, n_generated, window_start, chain, ids, text)" \
		" VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)") \
	X(LOG_WALK, "SELECT seq, time, kind, role, reason, request, position, n_prompt, n_generated," \
		" window_start, chain, ids, text FROM log WHERE session = ? AND seq >= ? ORDER BY seq") \
	X(LOG_AT, "SELECT position, chain FROM log WHERE session = ? AND seq = ?")

enum statement {
#define X(symbol, sql) SQL_##symbol,
	STATEMENTS(X)
#undef X
	N_STATEMENT
};

struct store {
	char *dir;
	const char *database;      /* "sinkd.db" */
	int fd_dir, fd_lock, fd_checkpoint;
	const struct disk *disk;

	sqlite3 *db;
	sqlite3_stmt *statements[N_STATEMENT];
	bool opened;               /* and checked as far as it had to be */
	bool in_transaction;
	bool failed;               /* a statement failed: the transaction has to go */
	bool truncate_wal;         /* something was deleted: no text stays in the WAL */
	int64_t deadline;          /* of the commit; of the next try where redo_waits */

	atomic_bool read_only;
	struct reason read_only_why;   /* written once, before read_only */

	struct mailbox *mail;
	pthread_t thread;
	bool started, stopping;
	struct store_job *waiting, **waiting_last;     /* ran, come back after the commit */
	struct store_job *redo, **redo_last;   /* copies of jobs that came back before it */
	bool redo_waits;           /* a commit failed: redo runs before anything else */

	struct track **tracks;     /* ascending by id */
	size_t n_track, room_track;
	struct track *dirty;
};

/* ---- store-db.c: one connection, its statements, and what their failures mean ---- */
/* whole: every page of it is checked. */
int db_open(struct store *s, const char *vfs, bool whole, struct reason *why);
/* The same for salvage: nothing is checked, nothing will be written. */
int db_open_damaged(struct store *s, struct reason *why);
bool db_close(struct store *s);        /* false: there was none, or it is not all in its one file */
/* The statement, reset, made on first use; NULL: failed (why is filled). */
sqlite3_stmt *db_statement(struct store *s, enum statement i, struct reason *why);
enum { DB_CONSTRAINT = 4 };
/* Runs it to its end, without rows, and resets it.  DB_CONSTRAINT: nothing was
 * changed and the transaction lives. */
int db_run(struct store *s, sqlite3_stmt *q, struct reason *why);
/* One step; *row: there is one.  Without one (or failed) it has been reset. */
int db_row(struct store *s, sqlite3_stmt *q, bool *row, struct reason *why);
void db_done(sqlite3_stmt *q);
int db_fail(struct store *s, int sqlite_rc, struct reason *why);
int db_begin(struct store *s, struct reason *why);
int db_commit(struct store *s, struct reason *why);
void db_rollback(struct store *s);
void db_truncate_wal(struct store *s);
void store_set_read_only(struct store *s, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static inline void bind_u64(sqlite3_stmt *q, int *i, uint64_t v)
{
	sqlite3_bind_int64(q, (*i)++, (sqlite3_int64)v);
}
/* Borrowed until the statement is reset; an empty blob is not NULL. */
static inline void bind_blob(sqlite3_stmt *q, int *i, const void *p, size_t n)
{
	if (n == 0)
		sqlite3_bind_zeroblob(q, (*i)++, 0);
	else
		sqlite3_bind_blob64(q, (*i)++, p, n, SQLITE_STATIC);
}
static inline uint64_t column_u64(sqlite3_stmt *q, int *i)
{
	return (uint64_t)sqlite3_column_int64(q, (*i)++);
}

/* ---- store-dir.c: the directory, its lock, modes ---- */
int dir_open(struct store *s, const char *path, struct reason *why);
int dir_database(struct store *s, struct reason *why);         /* the file, 0600, durable name */
bool dir_emptied(struct store *s);     /* there was a database, and the file is empty */
void dir_remember(struct store *s);    /* there is one now */
/* The file is as dir_closed() left it, which is forgotten now: the next one has to say so again. */
bool dir_untouched(struct store *s);
void dir_closed(struct store *s);
uint64_t dir_size(const struct store *s);      /* bytes of the database and of its log */
int dir_new(struct store *s, const char *name, struct reason *why);    /* an empty file, 0600 */
void dir_close(struct store *s);

/* ---- store-session.c ---- */
/* The session's track, loaded; REFUSED no_session, session_damaged. */
int track_get(struct store *s, uint64_t session, struct track **out, struct reason *why);
void track_dirty(struct store *s, struct track *t);
void tracks_committed(struct store *s);
void tracks_rolled_back(struct store *s);
void tracks_free(struct store *s);
struct track *track_make(struct store *s, uint64_t id);        /* not loaded */
struct track *track_find(struct store *s, uint64_t id);        /* NULL: none yet */
int track_damaged(struct track *t, struct reason *why, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
int run_session_put(struct store *s, struct store_job *j);
int run_session_delete(struct store *s, struct store_job *j);
void settings_bind(sqlite3_stmt *q, int *i, const struct settings *v, unsigned char *scratch);
void settings_read(sqlite3_stmt *q, int *i, struct settings *v);
/* The column of sessions that the statement is at. */
void session_read(sqlite3_stmt *q, struct store_session *v);
int session_copy(struct store *s, const struct store_session *v, struct reason *why);
#define STOPS_SIZE (STOP_MAX * (STOP_BYTES + 1))       /* of scratch */

/* ---- store-order.c ---- */
int run_order_put(struct store *s, struct store_job *j);
int run_order_next(struct store *s, struct store_job *j);
/* The row of queue that the statement is at; *sound: it verifies. */
int order_read(sqlite3_stmt *q, struct order **out, bool *sound);
int order_copy(struct store *s, const struct order *o, struct reason *why);
int order_advance(struct store *s, struct track *t, uint64_t id, const struct order_progress *p,
                  struct reason *why);

/* ---- store-log.c ---- */
int run_log(struct store *s, struct store_job *j);
void log_refused(struct store *s, const struct store_job *j);  /* a STORE_LOG that did not happen */
int run_read(struct store *s, struct store_job *j);
int run_tokens(struct store *s, struct store_job *j);
/* Reads entries in order, each verified against the one before it.  The events
 * are the caller's. */
struct walk {
	struct store *s;
	struct track *t;
	sqlite3_stmt *q;
	uint64_t seq, chain;       /* of the next entry; of the last one */
};
int walk_begin(struct walk *w, struct store *s, struct track *t, uint64_t seq, struct reason *why);
int walk_next(struct walk *w, struct event *e, bool *row, struct reason *why);
void walk_end(struct walk *w);
int entry_insert(struct store *s, const struct event *e, uint64_t chain, struct reason *why);
int log_verify_tail(struct store *s, struct track *t, uint64_t n, struct reason *why);
/* Is this the chain after one of the last entries, behind which there are no tokens? */
bool log_tail_has(struct store *s, struct track *t, uint64_t chain);

#endif
