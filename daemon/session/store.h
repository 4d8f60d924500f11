/*
 * The store: SQLite, checkpoint files and fsync, in a thread of its own.
 *
 * It owns one connection (WAL, synchronous=FULL, secure_delete) on
 * STATE/sinkd.db and the files STATE/checkpoint/ID.kv.  Work comes as jobs, in
 * order; jobs gather in one transaction that is committed when a job needs it
 * (durable), at the latest COMMIT_MS after its first write.  A durable job comes
 * back after the commit; others as soon as they ran, unless a durable one is
 * waiting before them: then with it, in order.  Reads see what is staged.
 *
 * A job is an owned letter: the poster fills the inputs, letter.open and
 * reply_to; the store runs it, fills rc, why and the outputs, and posts it to
 * reply_to, whose owner frees it (store_job_free).  reply_to NULL: the store
 * frees it.  rc as everywhere: 0, REFUSED, or negative.
 *
 * When a commit fails (disk full), every job of its group that has not come back
 * yet comes back REFUSED disk with its inputs whole, so that it can be posted
 * again; nothing of it is kept.  Log entries that were not durable and had come
 * back are kept in memory and written before anything else: until that works,
 * writing jobs fail with the same name.  A damaged database makes the store
 * read-only.  What was acknowledged is never lost.
 */
#ifndef DAEMON_SESSION_STORE_H
#define DAEMON_SESSION_STORE_H

#include "daemon/base/error.h"
#include "daemon/base/mailbox.h"
#include "daemon/session/event.h"
#include "daemon/session/row.h"

#define STORE_COMMIT_MS 500

struct disk;
struct store;

struct store_params {
	const char *dir;           /* made 0700 where missing */
	const char *vfs;           /* NULL: the default; tests name their own */
	const struct disk *disk;   /* NULL: the real one; file operations of checkpoints */
	/* All of a database of so many bytes is going to be read, which may take long.  May be NULL. */
	void (*checking)(uint64_t n_byte);
};

/* REFUSED: state_in_use (another daemon holds the directory), bad_state. A
 * structurally damaged database opens read-only (store_read_only). */
int store_open(struct store **out, const struct store_params *p, struct reason *why);
/* Commits, ends the thread.  Post nothing afterwards. */
void store_close(struct store *s);
/* A job that was refused for this may go through another time: the disk, memory. */
bool store_passes(const struct reason *why);
bool store_read_only(const struct store *s, struct reason *why);

/* All sessions, before store_start.  A session whose log chain is broken comes
 * with bad set (a sentence naming the entry): it can be listed and deleted only. */
struct store_session {
	struct session_row row;
	char bad[160];
	uint64_t n_queued, n_queued_bytes;     /* orders that are not finished */
	uint64_t n_stored_bytes;               /* event_stored() of all entries */
};
int store_each(struct store *s, int (*each)(void *ctx, const struct store_session *), void *ctx);
int store_start(struct store *s);      /* starts the thread */

/* `sinkd --salvage`: copies what can be read of a damaged database into a new one
 * and puts that in its place; the damaged one stays beside it under the name given
 * back in kept.  A log is kept up to its first entry that does not verify.
 * REFUSED: state_in_use, bad_state, disk. */
struct salvage { uint64_t n_session, n_entry, n_order, n_cut; char kept[96]; };
int store_salvage(const char *dir, struct salvage *out, struct reason *why);

enum store_op {
	STORE_SESSION_PUT,     /* row: insert (id 0, gets one) or update (what requests change: name, share,
	                          settings, n_kill; the rest STORE_LOG alone moves). session_exists, no_session.
	                          durable */
	STORE_SESSION_DELETE,  /* session: its rows, log, queue, checkpoint, overwritten. durable */
	STORE_ORDER_PUT,       /* order: gets its id; positive STORE_REPEATED: the key was seen,
	                          order.id, .progress and .log_seq are the first one's; the last
	                          KEYS_KEPT finished ones of a session are known. durable */
	STORE_ORDER_NEXT,      /* session, order id `from`: the first unfinished order with id > from,
	                          which is an answer where answers is set; order NULL: none */
	STORE_LOG,             /* events (n_event) of one session, going on from the last in seq and
	                          position; row: n_token (the last one's position + ids, checked),
	                          chat, used, n_kill are stored; n_seq and chain are outputs.
	                          order_id + progress when order_id is not 0 (stage 2: the payload
	                          is dropped). durable if asked */
	STORE_READ,            /* session, from (seq), limit (entries, 0: 1,000), limit_bytes (of
	                          event_cost, 0: 512 KiB; one entry comes in any case): events
	                          (forgotten filled in), next (where to read on), durable_seq */
	STORE_TOKENS,          /* session, from (position), limit (0: all): ids, in one list.  disk: some
	                          of them have been answered and wait to be written */
	STORE_CHECKPOINT_PUT,  /* session, checkpoint: a commit, then temporary name, fsync, rename */
	STORE_CHECKPOINT_GET,  /* session: checkpoint, with the chain of the log where that has got no tokens
	                          since; REFUSED bad_checkpoint; positive STORE_NONE */
	STORE_CHECKPOINT_DROP, /* session: overwritten and removed */
	STORE_SYNC,            /* a commit now. durable */
	STORE_STOP,            /* store_close's own */
	N_STORE_OP
};
enum { STORE_REPEATED = 2, STORE_NONE = 3 };

/* A session's KV at a position: a cache of the log.  On disk behind a header with
 * a version, all of these, and XXH3 over everything. */
struct checkpoint {
	uint64_t fingerprint;      /* model */
	char layout[48];           /* backend's kv_layout */
	struct window window;
	uint32_t n_chunk;
	uint64_t n_computed;       /* tokens whose KV it holds */
	uint64_t start;            /* batch_seq.start */
	uint64_t chain;            /* event chain after the log entry that reaches n_computed or beyond */
	/* The ring has room for one chunk more than the window, so a cache may be set
	 * back by up to n_chunk tokens: the next token's logits need not be stored, a
	 * resumed session computes its last token again. */
	size_t n_kv, n_logits;
	void *kv;                  /* n_kv bytes, owned, or */
	bool lent;                 /* the poster's, until its job is back */
	float *logits;             /* [n_logits] of the next token, owned, or NULL */
};

struct store_job {
	struct letter letter;
	enum store_op op;
	struct mailbox *reply_to;
	void *ctx;                 /* the poster's */
	bool durable;

	uint64_t session;
	uint64_t from;
	uint64_t limit, limit_bytes;
	struct session_row row;
	struct order *order;       /* owned */
	bool answers;              /* ORDER_NEXT */
	bool known_only;           /* ORDER_PUT: refused, without a reason, unless its key is known */
	uint64_t order_id;
	struct order_progress progress;
	struct event *events;      /* owned, [n_event] */
	size_t n_event;
	struct checkpoint *checkpoint;     /* owned */
	struct ids ids;
	uint64_t next, durable_seq;

	bool fresh;                /* the store's own: it gave the row its id; a copy of its own */

	int rc;
	struct reason why;
};

struct store_job *store_job_new(enum store_op op, uint64_t session);
void store_job_free(struct store_job *j);      /* with all that it owns; NULL is fine */
void checkpoint_free(struct checkpoint *c);
void store_post(struct store *s, struct store_job *j);     /* any thread */

#endif
