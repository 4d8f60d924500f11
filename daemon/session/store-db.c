/*
 * The store's connection to SQLite: opening, the schema, statements made once,
 * and the one place where an SQLite result becomes an error of ours.
 *
 * The hard idea: a statement that fails for the disk's sake leaves a transaction
 * that nobody can trust, so `failed` is set and the whole group goes; a database
 * that is damaged is never written again.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/session/store-inside.h"

static const char *const texts[N_STATEMENT] = {
#define X(symbol, sql) sql,
	STATEMENTS(X)
#undef X
};

#define SETTINGS_TYPES \
	"temperature REAL NOT NULL, top_k INTEGER NOT NULL, top_p REAL NOT NULL, min_p REAL NOT NULL," \
	"repeat_penalty REAL NOT NULL, seed INTEGER NOT NULL, stops BLOB NOT NULL, max_tokens INTEGER NOT NULL,"

/* The log is clustered by (session, seq): one tree, and an entry is found and
 * followed without a second one.  Integers over 2^63 are stored as negative. */
static const char schema[] =
	"CREATE TABLE sessions("
	" id INTEGER PRIMARY KEY AUTOINCREMENT, uid INTEGER NOT NULL, gid INTEGER NOT NULL,"
	" name TEXT NOT NULL, created INTEGER NOT NULL, used INTEGER NOT NULL,"
	" fingerprint INTEGER NOT NULL, model TEXT NOT NULL, n_sink INTEGER NOT NULL,"
	" n_recent INTEGER NOT NULL, raw INTEGER NOT NULL, share INTEGER NOT NULL, "
	SETTINGS_TYPES
	" sum INTEGER NOT NULL, chat BLOB NOT NULL, n_kill INTEGER NOT NULL, n_seq INTEGER NOT NULL, n_token INTEGER NOT NULL,"
	" chain INTEGER NOT NULL, n_stored INTEGER NOT NULL, UNIQUE(uid, name)) STRICT;"

	"CREATE TABLE queue("
	" id INTEGER PRIMARY KEY AUTOINCREMENT, session INTEGER NOT NULL, kind INTEGER NOT NULL,"
	" role INTEGER NOT NULL, tokens INTEGER NOT NULL, given INTEGER NOT NULL, "
	SETTINGS_TYPES
	" key BLOB, payload BLOB, stage INTEGER NOT NULL, offset INTEGER NOT NULL,"
	" n_generated INTEGER NOT NULL, answer INTEGER NOT NULL, seq INTEGER NOT NULL,"
	" log_seq INTEGER NOT NULL, sum INTEGER NOT NULL) STRICT;"
	"CREATE UNIQUE INDEX queue_key ON queue(session, key) WHERE key IS NOT NULL;"
	"CREATE INDEX queue_open ON queue(session, id) WHERE stage < 2;"
	"CREATE INDEX queue_kept ON queue(session, id) WHERE key IS NOT NULL AND stage = 2;"

	"CREATE TABLE log("
	" session INTEGER NOT NULL, seq INTEGER NOT NULL, time INTEGER NOT NULL, kind INTEGER NOT NULL,"
	" role INTEGER NOT NULL, reason INTEGER NOT NULL, request INTEGER NOT NULL,"
	" position INTEGER NOT NULL, n_prompt INTEGER NOT NULL, n_generated INTEGER NOT NULL,"
	" window_start INTEGER NOT NULL, chain INTEGER NOT NULL, ids BLOB NOT NULL, text BLOB NOT NULL,"
	" PRIMARY KEY(session, seq)) STRICT, WITHOUT ROWID;";

void store_set_read_only(struct store *s, const char *fmt, ...)
{
	char text[200];
	va_list ap;

	if (atomic_load(&s->read_only))
		return;
	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	refuse(&s->read_only_why, "read_only", "%s; it is open for reading only, sinkd --salvage saves what is readable",
	       text);
	log_error("%s: %s", s->dir, s->read_only_why.text);
	atomic_store(&s->read_only, true);
	if (s->db != NULL) {
		sqlite3_exec(s->db, "PRAGMA query_only = ON", NULL, NULL, NULL);
		sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	}
}

bool store_read_only(const struct store *s, struct reason *why)
{
	bool yes = atomic_load(&s->read_only);

	if (yes && why != NULL)
		*why = s->read_only_why;
	return yes;
}

/* ---- failures ---- */

int db_fail(struct store *s, int rc, struct reason *why)
{
	const char *what = sqlite3_errstr(rc);

	if (rc == SQLITE_IOERR_NOMEM)
		rc = SQLITE_NOMEM;
	switch (rc & 0xff) {
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		s->failed = true;
		store_set_read_only(s, "the database is damaged (%s)", what);
		if (why != NULL)
			*why = s->read_only_why;
		return REFUSED;
	case SQLITE_NOMEM:
		s->failed = true;
		log_error("%s: database: %s", s->dir, what);
		return refuse(why, "memory", "no memory for the database's work");
	case SQLITE_FULL:
	case SQLITE_IOERR:
	case SQLITE_CANTOPEN:
	case SQLITE_READONLY:
	case SQLITE_BUSY:
	case SQLITE_LOCKED:
	case SQLITE_PROTOCOL:
		s->failed = true;
		log_error("%s: database: %s", s->dir, what);
		return refuse(why, "disk", "the database could not be written or read: %s", what);
	default:                       /* a mistake of ours */
		s->failed = true;
		log_error("database: %s: %s", what, s->db != NULL ? sqlite3_errmsg(s->db) : "not open");
		return ERROR(-EIO);
	}
}

sqlite3_stmt *db_statement(struct store *s, enum statement i, struct reason *why)
{
	int rc;

	if (s->db == NULL) {
		if (why != NULL)
			*why = s->read_only_why;
		return NULL;
	}
	if (s->statements[i] == NULL) {
		rc = sqlite3_prepare_v3(s->db, texts[i], -1, SQLITE_PREPARE_PERSISTENT,
		                        &s->statements[i], NULL);
		if (rc != SQLITE_OK) {
			db_fail(s, rc, why);
			return NULL;
		}
	}
	return s->statements[i];
}

void db_done(sqlite3_stmt *q)
{
	if (q == NULL)
		return;
	sqlite3_reset(q);
	sqlite3_clear_bindings(q);
}

int db_row(struct store *s, sqlite3_stmt *q, bool *row, struct reason *why)
{
	int rc = sqlite3_step(q);

	*row = rc == SQLITE_ROW;
	if (*row)
		return 0;
	db_done(q);
	return rc == SQLITE_DONE ? 0 : db_fail(s, rc, why);
}

int db_run(struct store *s, sqlite3_stmt *q, struct reason *why)
{
	int rc = sqlite3_step(q);

	db_done(q);
	if (rc == SQLITE_DONE)
		return 0;
	if ((rc & 0xff) == SQLITE_CONSTRAINT)
		return DB_CONSTRAINT;
	return db_fail(s, rc, why);
}

/* ---- transactions ---- */

int db_begin(struct store *s, struct reason *why)
{
	sqlite3_stmt *q;
	int rc;

	if (s->in_transaction)
		return 0;
	if (s->db != NULL && !sqlite3_get_autocommit(s->db)) {
		db_rollback(s);
		if (!sqlite3_get_autocommit(s->db))
			return db_fail(s, SQLITE_NOMEM, why);
	}
	q = db_statement(s, SQL_BEGIN, why);
	if (q == NULL)
		return REFUSED;
	rc = db_run(s, q, why);
	if (rc != 0)
		return rc;
	s->in_transaction = true;
	s->deadline = clock_steady_ms() + STORE_COMMIT_MS;
	return 0;
}

int db_commit(struct store *s, struct reason *why)
{
	sqlite3_stmt *q = db_statement(s, SQL_COMMIT, why);
	int rc;

	if (q == NULL)
		return REFUSED;
	rc = db_run(s, q, why);
	if (rc == 0)
		s->in_transaction = false;
	return rc;
}

void db_rollback(struct store *s)
{
	sqlite3_stmt *q = s->statements[SQL_ROLLBACK];

	if (s->db != NULL && !sqlite3_get_autocommit(s->db)) {
		if (q != NULL)         /* made beforehand: what it is for may be that there is no memory */
			sqlite3_step(q);
		else
			sqlite3_exec(s->db, "ROLLBACK", NULL, NULL, NULL);
		db_done(q);
	}
	s->in_transaction = false;
}

void db_truncate_wal(struct store *s)
{
	int rc = sqlite3_wal_checkpoint_v2(s->db, NULL, SQLITE_CHECKPOINT_TRUNCATE, NULL, NULL);

	if (rc != SQLITE_OK)
		log_warning("the write-ahead log could not be emptied yet: %s", sqlite3_errstr(rc));
	else
		s->truncate_wal = false;
}

/* ---- opening ---- */

static int exec(struct store *s, const char *sql, struct reason *why)
{
	int rc = sqlite3_exec(s->db, sql, NULL, NULL, NULL);

	return rc == SQLITE_OK ? 0 : db_fail(s, rc, why);
}

/* The first column of the first row. */
static int ask(struct store *s, const char *sql, char *text, size_t n_text, struct reason *why)
{
	sqlite3_stmt *q = NULL;
	int rc = sqlite3_prepare_v2(s->db, sql, -1, &q, NULL);
	const char *found;

	text[0] = '\0';
	if (rc == SQLITE_OK)
		rc = sqlite3_step(q);
	if (rc == SQLITE_ROW) {
		found = (const char *)sqlite3_column_text(q, 0);
		snprintf(text, n_text, "%s", found != NULL ? found : "");
		/* A number becomes text in memory of its own. */
		rc = found == NULL && sqlite3_errcode(s->db) == SQLITE_NOMEM ? SQLITE_NOMEM : SQLITE_DONE;
	}
	sqlite3_finalize(q);
	return rc == SQLITE_DONE ? 0 : db_fail(s, rc, why);
}

static int make_schema(struct store *s, struct reason *why)
{
	char numbers[80];
	int rc;

	snprintf(numbers, sizeof numbers, "PRAGMA application_id = %d; PRAGMA user_version = %d;",
	         STORE_APPLICATION, STORE_VERSION);
	if ((rc = exec(s, "BEGIN IMMEDIATE", why)) != 0 ||
	    (rc = exec(s, schema, why)) != 0 ||
	    (rc = exec(s, numbers, why)) != 0)
		return rc;
	return exec(s, "COMMIT", why);
}

static int check_schema(struct store *s, struct reason *why)
{
	char application[32], version[32], tables[32];
	long have;
	int rc;

	if ((rc = ask(s, "PRAGMA application_id", application, sizeof application, why)) != 0 ||
	    (rc = ask(s, "PRAGMA user_version", version, sizeof version, why)) != 0 ||
	    (rc = ask(s, "SELECT count(*) FROM sqlite_schema", tables, sizeof tables, why)) != 0)
		return rc;
	have = strtol(version, NULL, 10);
	if (strtol(application, NULL, 10) == 0 && have == 0 && strcmp(tables, "0") == 0)
		return make_schema(s, why);
	if (strtol(application, NULL, 10) != STORE_APPLICATION)
		return refuse(why, "bad_state", "%s/%s is another program's database",
		              s->dir, s->database);
	if (have > STORE_VERSION)
		return refuse(why, "bad_state", "%s/%s has version %ld, this sinkd knows %d: a newer one wrote it",
		              s->dir, s->database, have, STORE_VERSION);
	return 0;
}

static int configure(struct store *s, struct reason *why)
{
	char mode[32];
	int rc;

	sqlite3_extended_result_codes(s->db, 1);
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
	/* EXCLUSIVE: we alone have it (see the lock file), so the WAL's index stays in
	 * our memory.  temp_store: users' text gets into no temporary file. */
	rc = exec(s, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA temp_store = MEMORY;"
	             "PRAGMA cell_size_check = ON; PRAGMA secure_delete = ON;", why);
	if (rc == 0)
		rc = ask(s, "PRAGMA journal_mode = WAL", mode, sizeof mode, why);
	if (rc != 0)
		return rc;
	if (strcmp(mode, "wal") != 0)
		return refuse(why, "bad_state", "%s: no write-ahead log here (%s)", s->dir, mode);
	return exec(s, "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = 1000;"
	               "PRAGMA journal_size_limit = 8388608;", why);
}

static int db_connect(struct store *s, const char *vfs, struct reason *why)
{
	char path[4096 + 32];
	int rc;

	snprintf(path, sizeof path, "%s/%s", s->dir, s->database);
	rc = sqlite3_open_v2(path, &s->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE |
	                     SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_PRIVATECACHE, vfs);
	if (rc != SQLITE_OK) {
		rc = refuse(why, rc == SQLITE_NOMEM ? "memory" : "bad_state", "%s: %s", path, sqlite3_errstr(rc));
		sqlite3_close(s->db);
		s->db = NULL;
		return rc;
	}
	return configure(s, why);
}

int db_open_damaged(struct store *s, struct reason *why)
{
	int rc = db_connect(s, NULL, why);

	if (s->db == NULL)
		return rc;
	sqlite3_exec(s->db, "PRAGMA query_only = ON", NULL, NULL, NULL);
	sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	return 0;
}

/* What a start reads, or all, which takes as long as the logs of all sessions are. */
static int check_pages(struct store *s, bool whole, struct reason *why)
{
	static const char *const all[] = { "PRAGMA quick_check(1)", NULL };
	static const char *const some[] = { "PRAGMA quick_check(sessions)", "PRAGMA quick_check(queue)", NULL };
	const char *const *sql;
	char verdict[200];
	int rc = 0;

	for (sql = whole ? all : some; *sql != NULL && rc == 0 && !atomic_load(&s->read_only); sql++) {
		rc = ask(s, *sql, verdict, sizeof verdict, why);
		if (rc == 0 && strcmp(verdict, "ok") != 0)
			store_set_read_only(s, "the database is damaged");
	}
	return rc;
}

int db_open(struct store *s, const char *vfs, bool whole, struct reason *why)
{
	int rc;

	rc = db_connect(s, vfs, why);
	if (rc == 0)
		rc = check_schema(s, why);
	if (rc == 0)
		rc = check_pages(s, whole, why);
	if (rc == 0 && db_statement(s, SQL_ROLLBACK, why) == NULL)
		rc = REFUSED;
	if (rc != 0 && !atomic_load(&s->read_only)) {
		if (strcmp(why->name, "disk") == 0)
			snprintf(why->name, sizeof why->name, "bad_state");
		return rc;
	}
	db_rollback(s);
	s->failed = false;
	return 0;
}

bool db_close(struct store *s)
{
	bool closed = s->db != NULL;
	size_t i;

	for (i = 0; i < N_STATEMENT; i++) {
		sqlite3_finalize(s->statements[i]);
		s->statements[i] = NULL;
	}
	if (s->db != NULL && sqlite3_close(s->db) != SQLITE_OK) {
		log_error("the database did not close: %s", sqlite3_errmsg(s->db));
		closed = false;
	}
	s->db = NULL;
	return closed;
}
