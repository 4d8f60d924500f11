/*
 * The store's thread: takes jobs in order, runs them in one open transaction,
 * commits, answers.
 *
 * The hard idea is what an answer promises.  From the first durable job of a
 * transaction on, everything waits for the commit; what came back before it (log
 * entries that need not be durable) is a prefix of the transaction, kept as
 * copies in `redo` until the commit.  If the commit fails, the waiting jobs fail
 * and the prefix is written again before anything else: so no job ever sees a
 * history other than the one that was answered.
 *
 * It must not know what sessions and logs mean: that is in store-*.c.
 */
#include "daemon/session/store.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/session/checkpoint.h"
#include "daemon/session/store-inside.h"

#define RETRY_MS 2000

/* ---- jobs ---- */

struct store_job *store_job_new(enum store_op op, uint64_t session)
{
	struct store_job *j = calloc(1, sizeof *j);

	if (j == NULL)
		abort();
	j->op = op;
	j->session = session;
	return j;
}

void store_job_free(struct store_job *j)
{
	size_t i;

	if (j == NULL)
		return;
	order_free(j->order);
	for (i = 0; i < j->n_event; i++)
		event_clear(&j->events[i]);
	free(j->events);
	checkpoint_free(j->checkpoint);
	ids_free(&j->ids);
	free(j);
}

void store_post(struct store *s, struct store_job *j)
{
	mailbox_post(s->mail, &j->letter);
}

static void answer(struct store_job *j)
{
	if (j->reply_to != NULL)
		mailbox_post(j->reply_to, &j->letter);
	else
		store_job_free(j);
}

bool store_passes(const struct reason *why)
{
	return strcmp(why->name, "disk") == 0 || strcmp(why->name, "memory") == 0;
}

/* ---- the group: one transaction and who waits for it ---- */

static void redo_free(struct store *s)
{
	struct store_job *j;

	while ((j = s->redo) != NULL) {
		s->redo = (struct store_job *)j->letter.next;
		store_job_free(j);
	}
	s->redo_last = &s->redo;
	s->redo_waits = false;
}

/* A copy of a STORE_LOG job that comes back before its commit; false: no memory. */
static bool redo_add(struct store *s, const struct store_job *from)
{
	struct store_job *j = store_job_new(STORE_LOG, from->session);
	size_t i;

	j->fresh = true;
	j->row = from->row;
	j->order_id = from->order_id;
	j->progress = from->progress;
	j->events = calloc(from->n_event ? from->n_event : 1, sizeof *j->events);
	for (i = 0; j->events != NULL && i < from->n_event && event_copy(&j->events[i], &from->events[i]) == 0; i++)
		j->n_event++;
	if (j->events == NULL || i < from->n_event) {
		store_job_free(j);
		return false;
	}
	*s->redo_last = j;
	s->redo_last = (struct store_job **)&j->letter.next;
	return true;
}

static void group_add(struct store *s, struct store_job *j)
{
	j->letter.next = NULL;
	*s->waiting_last = j;
	s->waiting_last = (struct store_job **)&j->letter.next;
}

static struct store_job *group_take(struct store *s)
{
	struct store_job *j = s->waiting;

	s->waiting = NULL;
	s->waiting_last = &s->waiting;
	return j;
}

/* Gives back what a job that did not happen had put into its inputs. */
static void job_undo(struct store *s, struct store_job *j)
{
	if (j->fresh && j->op == STORE_SESSION_PUT)
		j->row.id = j->session = 0;
	if (j->fresh && j->op == STORE_ORDER_PUT)
		j->order->id = 0;
	j->fresh = false;
	if (j->op == STORE_LOG)
		log_refused(s, j);
}

static void group_fail(struct store *s, const struct reason *why)
{
	struct store_job *j = group_take(s), *next;

	db_rollback(s);
	s->failed = false;
	tracks_rolled_back(s);
	if (s->redo != NULL && atomic_load(&s->read_only)) {
		log_error("%s: staged log entries are lost: the database is damaged", s->dir);
		redo_free(s);
	}
	s->redo_waits = s->redo != NULL;
	s->deadline = clock_steady_ms() + RETRY_MS;
	for (; j != NULL; j = next) {
		next = (struct store_job *)j->letter.next;
		job_undo(s, j);
		j->rc = REFUSED;
		j->why = *why;
		answer(j);
	}
}

static void group_commit(struct store *s)
{
	struct reason why = { "disk", "the transaction was given up" };
	struct store_job *j, *next;

	if (s->in_transaction) {
		if (db_commit(s, &why) != 0) {
			group_fail(s, &why);
			return;
		}
		tracks_committed(s);
		redo_free(s);
		if (s->truncate_wal)
			db_truncate_wal(s);
	}
	for (j = group_take(s); j != NULL; j = next) {
		next = (struct store_job *)j->letter.next;
		answer(j);
	}
}

/* ---- operations ---- */

/* Everything before it is committed; REFUSED disk where it is not. */
static int barrier(struct store *s, struct reason *why)
{
	if (!s->in_transaction)
		return 0;
	group_commit(s);
	return s->redo_waits ? refuse(why, "disk", "the log could not be written") : 0;
}

static int run_checkpoint_put(struct store *s, struct store_job *j)
{
	struct track *t;
	int rc = track_get(s, j->session, &t, &j->why);

	if (rc != 0)
		return rc;
	if (j->checkpoint == NULL)
		return ERROR(-EINVAL);
	rc = barrier(s, &j->why);      /* a checkpoint is never ahead of the log */
	if (rc != 0)
		return rc;
	return checkpoint_put(s->disk, s->fd_checkpoint, j->session, j->checkpoint, &j->why);
}

static int run_checkpoint_get(struct store *s, struct store_job *j)
{
	struct checkpoint *c;
	struct track *t;
	struct reason why;
	int rc;

	checkpoint_free(j->checkpoint);
	rc = checkpoint_get(s->disk, s->fd_checkpoint, j->session, &j->checkpoint, &j->why);
	c = j->checkpoint;
	/* An answer that was cancelled while it waited has left an entry, and no tokens. */
	if (rc == 0 && track_get(s, j->session, &t, &why) == 0 && c->n_computed == t->n_token && c->chain != t->chain &&
	    log_tail_has(s, t, c->chain))
		c->chain = t->chain;
	return rc;
}

static int run_checkpoint_drop(struct store *s, struct store_job *j)
{
	return checkpoint_drop(s->disk, s->fd_checkpoint, j->session, &j->why);
}

static int run_sync(struct store *s, struct store_job *j)
{
	(void)s, (void)j;
	return 0;
}

static int run_stop(struct store *s, struct store_job *j)
{
	(void)j;
	s->stopping = true;
	return 0;
}

static const struct op {
	int (*run)(struct store *s, struct store_job *j);
	bool writes;                   /* refused where the store is read-only */
	bool durable;                  /* always; else where the job asks for it */
	bool goes_on;                  /* reads where a session stands: what was answered, not only what is committed */
} ops[N_STORE_OP] = {
	[STORE_SESSION_PUT]     = { run_session_put, true, true, false },
	[STORE_SESSION_DELETE]  = { run_session_delete, true, true, false },
	[STORE_ORDER_PUT]       = { run_order_put, true, true, false },
	[STORE_ORDER_NEXT]      = { run_order_next, false, false, true },
	[STORE_LOG]             = { run_log, true, false, false },
	[STORE_READ]            = { run_read, false, false, false },
	[STORE_TOKENS]          = { run_tokens, false, false, true },
	[STORE_CHECKPOINT_PUT]  = { run_checkpoint_put, true, false, false },
	[STORE_CHECKPOINT_GET]  = { run_checkpoint_get, false, false, false },
	[STORE_CHECKPOINT_DROP] = { run_checkpoint_drop, true, false, false },
	[STORE_SYNC]            = { run_sync, true, true, false },
	[STORE_STOP]            = { run_stop, false, false, false },
};

/* Writes again what had been answered before a commit that failed.  An entry that
 * cannot be (its session is damaged, or gone) is given up by name. */
static int redo_run(struct store *s, struct reason *why)
{
	struct store_job *j;
	int rc;

	s->redo_waits = false;
	for (j = s->redo; j != NULL; j = (struct store_job *)j->letter.next) {
		rc = run_log(s, j);
		if (s->failed) {
			*why = j->why;
			s->redo_waits = true;
			return REFUSED;
		}
		if (rc != 0)
			log_error("staged log entries were lost: %s", j->why.text);
	}
	return 0;
}

static int job_allowed(struct store *s, const struct op *op, struct store_job *j)
{
	struct reason why = { "disk", "the log could not be written" };

	if (op->writes && store_read_only(s, &j->why))
		return REFUSED;
	if (!s->redo_waits || redo_run(s, &why) == 0)
		return 0;
	group_fail(s, &why);
	if (!op->writes && !op->goes_on)       /* what is committed will do */
		return 0;
	j->why = why;
	return REFUSED;
}

static void job_run(struct store *s, struct store_job *j)
{
	const struct op *op = &ops[j->op];
	bool durable = op->durable || j->durable;
	bool logged;

	assert(j->op < N_STORE_OP);
	memset(&j->why, 0, sizeof j->why);
	j->fresh = false;
	j->rc = job_allowed(s, op, j);
	if (j->rc == 0)
		j->rc = op->run(s, j);
	else
		job_undo(s, j);
	if (j->rc == -ENOMEM)
		j->rc = refuse(&j->why, "memory", "no memory for it");
	if (s->failed) {
		struct reason why = j->why;

		if (!store_passes(&why) && strcmp(why.name, "read_only") != 0)
			refuse(&why, "disk", "the transaction was given up");
		job_undo(s, j);
		group_fail(s, &why);
		answer(j);
		return;
	}
	logged = j->op == STORE_LOG && j->rc == 0;
	if (s->waiting != NULL || (durable && op->writes && s->in_transaction &&
	                           (j->rc == 0 || j->rc == STORE_REPEATED))) {
		group_add(s, j);
		return;
	}
	/* Without a copy it may not be answered before the commit. */
	if (logged && s->in_transaction && !redo_add(s, j))
		group_add(s, j);
	else
		answer(j);
}

static int wait_ms(const struct store *s)
{
	int64_t left;

	if (!s->in_transaction && !s->redo_waits)
		return -1;             /* idle: until there is mail */
	left = s->deadline - clock_steady_ms();
	return left > 0 ? (int)left : 0;
}

static void *store_main(void *arg)
{
	struct store *s = arg;
	struct letter *l, *next;
	struct reason why;

	s->failed = false;             /* whatever was read before is over */
	while (!s->stopping) {
		for (l = mailbox_wait(s->mail, wait_ms(s)); l != NULL; l = next) {
			next = l->next;
			job_run(s, (struct store_job *)l);
		}
		if (s->redo_waits && clock_steady_ms() >= s->deadline && redo_run(s, &why) != 0)
			group_fail(s, &why);
		if (s->waiting != NULL || s->stopping || (s->in_transaction && clock_steady_ms() >= s->deadline))
			group_commit(s);
	}
	if (s->redo_waits)
		log_error("%s: staged log entries could not be written and are lost", s->dir);
	return NULL;
}

/* ---- life ---- */

static bool session_known(void *ctx, uint64_t session)
{
	struct reason why;
	struct track *t;
	int rc = track_get(ctx, session, &t, &why);

	return rc == 0 || strcmp(why.name, "no_session") != 0;
}

static void store_free(struct store *s)
{
	if (s == NULL)
		return;
	if (db_close(s) && s->opened && !atomic_load(&s->read_only))
		dir_closed(s);
	redo_free(s);
	tracks_free(s);
	mailbox_close(s->mail);
	dir_close(s);
	free(s);
}

static int open_database(struct store *s, const struct store_params *p, struct reason *why)
{
	bool whole = p->vfs != NULL || !dir_untouched(s);
	uint64_t n_byte = dir_size(s);

	if (whole && n_byte > 0 && p->checking != NULL)
		p->checking(n_byte);
	return db_open(s, p->vfs, whole, why);
}

int store_open(struct store **out, const struct store_params *p, struct reason *why)
{
	struct store *s = calloc(1, sizeof *s);
	struct reason here;
	int rc;

	if (s == NULL)
		return ERROR(-ENOMEM);
	if (why == NULL)
		why = &here;
	memset(why, 0, sizeof *why);
	s->database = "sinkd.db";
	s->disk = p->disk != NULL ? p->disk : &disk_real;
	s->waiting_last = &s->waiting;
	s->redo_last = &s->redo;
	rc = dir_open(s, p->dir, why);
	if (rc == 0 && p->vfs == NULL)
		rc = dir_database(s, why);
	if (rc == 0 && p->vfs == NULL && dir_emptied(s))
		store_set_read_only(s, "the database is damaged (an empty file)");
	else if (rc == 0)
		rc = open_database(s, p, why);
	if (rc == 0)
		rc = mailbox_open(&s->mail);
	if (rc != 0) {
		store_free(s);
		return rc;
	}
	if (!atomic_load(&s->read_only)) {
		dir_remember(s);
		checkpoint_sweep(s->disk, s->fd_checkpoint, session_known, s);
	}
	s->opened = true;
	*out = s;
	return 0;
}

int store_start(struct store *s)
{
	int rc = pthread_create(&s->thread, NULL, store_main, s);

	if (rc != 0)
		return ERROR(-rc);
	s->started = true;
	return 0;
}

void store_close(struct store *s)
{
	struct letter *l, *next;

	if (s == NULL)
		return;
	if (s->started) {
		store_post(s, store_job_new(STORE_STOP, 0));
		pthread_join(s->thread, NULL);
	}
	for (l = mailbox_take(s->mail); l != NULL; l = next) {
		next = l->next;
		store_job_free((struct store_job *)l);
	}
	store_free(s);
}
