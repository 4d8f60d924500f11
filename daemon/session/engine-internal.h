/*
 * What the files of the engine share: the engine, its sessions (struct timeline),
 * and which file offers what.  Everything here belongs to the engine's thread; no
 * other room and no other thread includes it.
 *
 * Three numbers say where a timeline stands, and they never mix:
 *   row.n_token   tokens in the log (posted to the store)
 *   n_token       tokens that have a position: those, and generated ones whose
 *                 text is still held back
 *   n_computed    tokens whose keys and values are in the cache
 * row.n_token <= n_token, n_computed <= n_token.
 */
#ifndef DAEMON_SESSION_ENGINE_INTERNAL_H
#define DAEMON_SESSION_ENGINE_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/base/clock.h"
#include "daemon/model/model.h"
#include "daemon/session/budget.h"
#include "daemon/session/engine.h"
#include "daemon/session/slots.h"
#include "daemon/session/swap.h"

#define SLICE_BYTES 16384          /* text tokenized between two steps */
#define SLICE_IDS 4096             /* the same of given token ids */
#define LOGS_IN_FLIGHT 64          /* STORE_LOG jobs of a session before it waits */
#define STEP_SECONDS 0.06          /* of a step while anybody generates, about */
#define LONG_STEP 0.5              /* the same when nobody does */
#define SET_BACK 64                /* tokens that a kept cache may be ahead of the committed log */
#define RETRY_MS 3000              /* after a failed write */
#define RETRY_MEMORY_MS 50         /* after one that had no memory */
#define LOSSES_MOST 3u             /* of the device with the same tokens, until who has them is blamed */
#define READ_ENTRIES 1000           /* of one answer to READ */
#define READ_BYTES (512u << 10)    /* of one answer to READ */
#define GIVEN_SETTINGS (GIVEN_TEMPERATURE | GIVEN_TOP_K | GIVEN_TOP_P | GIVEN_MIN_P | \
                        GIVEN_REPEAT_PENALTY | GIVEN_SEED | GIVEN_STOP | GIVEN_MAX_TOKENS)

enum timeline_state {
	TIMELINE_ASLEEP,           /* no slot */
	TIMELINE_LOADING,          /* has a slot; the store is asked for its cache and tokens */
	TIMELINE_READY,            /* takes part in steps */
};

/* The text of an answer that is not logged yet: it could still be the beginning of
 * a stop string, or ends inside a character. */
struct held {
	struct ids ids;
	char *text;                /* [n_text] */
	uint32_t *ends;            /* [ids.n] bytes of text up to and with each id */
	size_t n_text, text_room, ends_room;
};

/* Somebody who waits for an order. */
struct waiter {
	struct waiter *next;
	struct request *request;   /* owned; answered when the order is done */
	uint64_t order;
};

/* An order that ends when its peer leaves. */
struct bond {
	struct bond *next;
	uint64_t order, peer;
	bool gone;
};

struct timeline {
	struct engine *engine;
	struct timeline *hash_next, *wait_next;
	struct session_row row;    /* as posted to the store */
	char bad[160];             /* its log does not verify: why */
	bool creating;             /* not stored yet: nobody sees it */
	bool undoing;              /* it is not to be after all: out of the store again, however often that fails */
	bool changing;             /* a request's change of its row is on its way to disk */
	char new_name[SESSION_NAME_MAX + 1];   /* and with it this name; "": none */
	bool deleting, gone;       /* gone: out of every table, freed with its last job */
	bool changed;              /* belongs to another model */
	bool oversize;             /* its window is larger than a slot */
	bool waiting;              /* stands in engine.waiting */
	bool resumed;              /* had unfinished work when the engine started */
	bool killing;              /* a row that says so is on its way to disk */
	bool probation;            /* until a step of it has ended well */
	bool alone;                /* was computing when the engine died, or the device twice: shares no step */
	uint32_t n_lost;           /* steps of it in which the device failed, since it got past such a one, */
	uint64_t lost_at;          /* which is when so many tokens are computed */
	bool stalled;              /* a write of its log failed, or there was no memory to go on */
	bool row_due;              /* one that had no entries: its row is to be written once more */
	enum timeline_state state;
	const struct chat_format *chat;        /* NULL: raw */

	/* tokens and cache; ring, head: the slot's, while it has one */
	uint64_t n_token, n_computed, start;
	uint64_t bound;            /* model_replay of its window */
	uint32_t slot;
	int32_t *ring, *head;
	uint64_t ring_from;        /* first position that the ring still holds */
	uint64_t rebuild_from;     /* n_computed when a rebuild began */
	uint64_t told_start;       /* window start of the last `evicted` */
	uint64_t woken_token, woken_chain;     /* of the log, when it got its slot */
	uint64_t since_saved;      /* tokens computed since the last checkpoint */
	bool rebuilding, saving, moved;
	int progress_told;         /* per cent */
	double woken, left;        /* when it became ready; when it was put out at work, 0: it was not */
	uint64_t last_step;        /* engine.n_step when it last had work: for eviction */

	/* orders */
	uint64_t n_queued, n_queued_bytes, last_order;
	uint32_t n_putting;        /* say and generate that are on their way to disk */
	struct order *cur;
	bool asking;               /* STORE_ORDER_NEXT is on its way */
	bool seeking;              /* the same, for an answer that is to be cancelled without a slot */
	bool cancel;               /* the current generation is to end */
	bool fresh;                /* cur has no entry in the log yet */
	struct held held;
	struct waiter *waiters;
	struct bond *bonds;

	/* the log */
	uint64_t n_stored;         /* bytes of the log */
	struct event *out;         /* made, not posted */
	size_t n_out, out_room;
	uint32_t n_log;            /* STORE_LOG jobs in flight */
	struct store_job *failed, **failed_last;       /* to be posted again, in order */
	uint32_t n_job, n_own;     /* all jobs in flight; those that no request asked for */
};

/* A slot and the token ids that go with it; made once. */
struct place {
	struct timeline *owner;    /* NULL: free */
	int32_t *ring;             /* [engine.ring_room] */
	int32_t *head;             /* [engine.head_room] */
};

/* A job on its way through the store, and what to do when it is back. */
struct call {
	struct engine *engine;
	struct timeline *t;        /* NULL: none */
	struct request *r;         /* NULL: none */
	bool own;                  /* no request asked for it */
	void (*done)(struct call *c, struct store_job *j);
	uint64_t n;                /* the caller's */
	struct store_job *keep;    /* set by done: the job is not freed */
	struct swap_copy *copy;    /* save: what is written */
};

struct stats {
	uint64_t steps, computed, prefill, generated, skipped;
	uint64_t whole_rows;       /* of logits that came to the host */
	uint64_t kept;             /* caches taken over from the process before */
	uint64_t rebuilt, checkpoints_written, checkpoints_loaded, checkpoints_refused;
	uint64_t swapped_out, swapped_in;              /* caches, to and from the machine's memory */
	uint64_t unloads;
	uint64_t device_failures;
	uint64_t slots_evicted, requests, orders, scores;
	double step_seconds;
};

struct score;

enum engine_phase { PHASE_LOADING, PHASE_READY, PHASE_FAILED, PHASE_STOPPING, PHASE_UNLOADED };

#define HASH_SIZE 1024u
#define PEER_HASH 256u

struct engine {
	struct engine_params p;
	char *model_path, *backend_name, *module_path, *isa, *sink_name;
	pthread_t thread;
	struct mailbox *mail;
	struct letter stop;
	struct sampler *sampler;
	enum engine_phase phase;
	struct reason failed;      /* FAILED: why */
	struct reason lost;        /* the device has failed: why; it is to be opened again */
	uint32_t n_failure;        /* of the device, without many good steps between */
	uint64_t failed_at;        /* stats.steps then */
	double reopen_at;          /* while it is lost: the next attempt */
	double load_progress;
	double used;               /* when the model was last needed */
	bool leaving;              /* UNLOADED: sessions are being saved, the device is there still */
	int load_told;
	int64_t started;

	const struct backend_ops *ops;         /* NULL: not chosen yet */
	struct backend *backend;
	struct model *model;
	const struct tokenizer *tokenizer;
	enum kv_type kv_type;
	int32_t sink_token;        /* -1: none */
	struct slots *slots;
	struct swap *swap;
	struct kv *kv;             /* the slots' */
	struct kv_shape shape;
	size_t slot_bytes;
	struct budget budget;
	uint64_t device_taken;     /* of its memory, after loading; as budget_bytes said, or not */
	uint32_t n_slot_asked;     /* 0: the usual; p.n_slot: those that are */
	uint32_t n_window_max;     /* most of sinks + window + 1 */
	uint32_t n_row_max, n_chunk;
	uint32_t ring_room, head_room;
	struct place *places;      /* [p.n_slot] */

	struct timeline *hash[HASH_SIZE];
	uint64_t n_session;
	uint32_t n_renaming;       /* of them on their way to another name */
	struct timeline *waiting, **waiting_last;
	struct request *deferred, **deferred_last;     /* those that wait; see request.c */
	struct request *deferred_of[PEER_HASH];        /* the same by peer: the newest, and through older the rest */
	bool again;                /* some of them need not wait any more */
	struct score *scores, **scores_last;
	uint64_t n_job;            /* in flight */
	bool retry;                /* a session is stalled, or waits for memory: try at retry_at */
	double retry_at;
	bool stop_begun, stop_whole, store_started, read_only_told;

	/* the batch of a step */
	struct batch_row *rows;    /* [n_row_max] */
	struct batch_seq *seqs;    /* [p.n_slot] */
	uint32_t *outputs;         /* [p.n_slot] */
	struct timeline **members; /* [p.n_slot] */
	uint32_t *member_rows;     /* [p.n_slot] */
	uint32_t *wants;           /* [p.n_slot] */
	struct timeline **choosers;            /* [p.n_slot] whose outputs these are */
	int32_t *chosen;           /* [p.n_slot] of each */
	struct candidates *tops;   /* [p.n_slot] */
	float *logits;             /* [p.n_slot][n_vocab] */
	uint32_t *score_outputs;   /* [n_row_max] */
	uint32_t turn;             /* the slot that begins the next batch */
	uint32_t apply_turn;       /* the slot whose text is next */
	double row_seconds;        /* of a row in a long batch, measured */
	uint32_t shared_rows;      /* of prefill in a step while anybody generates */
	struct stats stats;
};

/* ---- engine.c ---- */
int wait_until(int wait, double at);           /* ms (-1: for ever), or less: until clock_seconds is at */
void answer(struct engine *e, struct request *r);      /* gives r back to serve */
int answer_refused(struct engine *e, struct request *r, const char *name, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
/* By what the store has refused, in words of ours where it has none. */
void answer_failed(struct engine *e, struct request *r, const struct store_job *j, const char *otherwise);
/* Posts a job; done is called in the engine's thread when it is back. */
struct call *call_new(struct engine *e, struct timeline *t, struct request *r,
                      void (*done)(struct call *, struct store_job *));
void call_post(struct call *c, struct store_job *j);
void engine_fail(struct engine *e, const char *name, const char *text);
void engine_tell(struct engine *e, int state, double progress, const struct reason *why);      /* serve */
int engine_bring(struct engine *e, struct reason *why);        /* the device, for the sessions that are */
void engine_ready(struct engine *e);
/* Progress of a model that loads: opens the mail meanwhile.  Not 0: stop. */
int engine_loading(void *engine, uint64_t done, uint64_t total);

/* ---- backend.c: which backend, and where it comes from ---- */
/* The i-th backend to try for a choice (a name, or auto); NULL: no more. */
const char *backend_wanted(const char *choice, unsigned i);
/* module: path of the module, NULL: the installed one.  REFUSED: it is not there, why;
 * *expected: which is no fault of anybody. */
int backend_find(const char *name, const char *module, const struct backend_ops **out, bool *expected,
                 struct reason *why);

/* ---- device.c: the backend, the model, the slots ---- */
/* The first time it chooses the backend too; a device that is opened again is the same.
 * On failure (REFUSED why, or negative) what has been opened stays so; close it. */
int device_open(struct engine *e, struct reason *why);
/* No session may have a slot, and no score a cache. */
void device_close(struct engine *e);           /* not opened, or half: fine */

/* ---- recover.c: a device that fails is closed and opened again ---- */
void device_failed(struct engine *e, const char *text);        /* to be called inside a turn */
/* The step that failed had the first n members of the batch. */
void recover_suspect(struct engine *e, uint32_t n_member);
void recover_clear(struct timeline *t);        /* a step of it has ended well */
bool recover_turn(struct engine *e);           /* between turns; true: something was done */
int recover_wait(const struct engine *e, int wait);

/* ---- request.c: the table of verbs and who may use them ---- */
enum access { ACCESS_NONE, ACCESS_READ, ACCESS_WRITE, ACCESS_OWNER };
void request_open(struct engine *e, struct request *r);
void requests_again(struct engine *e);         /* those that wait, and need not any more */
bool requests_want_model(const struct engine *e);      /* does any of them? */
void requests_refuse(struct engine *e, const struct reason *why);      /* those that do: it does not come */
void requests_peer_gone(struct engine *e, uint64_t peer);      /* those that are its alone */
bool may(const struct request *r, const struct timeline *t, enum access a);
/* The session's model verbs: is it whole, of this model, not set aside? */
int timeline_usable(const struct timeline *t, struct reason *why);
/* And can what it does be written? */
int timeline_workable(const struct timeline *t, struct reason *why);

/* ---- sessions.c: list, info, set, rename, delete; the table of sessions ---- */
struct timeline *timeline_new(struct engine *e, const struct session_row *row);
void timeline_free(struct timeline *t);
struct timeline *timeline_find(struct engine *e, uid_t uid, const char *name);
/* One that is on its way to that name. */
struct timeline *timeline_to_be(struct engine *e, uid_t uid, const char *name);
struct timeline *timeline_by_id(struct engine *e, uint64_t id);
struct timeline *timeline_at(struct engine *e, size_t bucket, struct timeline *after);
void timeline_adopt(struct timeline *t);       /* what depends on the loaded model */
void timeline_unlink(struct timeline *t);
uint64_t timeline_stored(const struct timeline *t);     /* bytes that it takes on disk, about */
int window_check(const struct engine *e, struct window w, struct reason *why);
int settings_check(const struct settings *s, unsigned given, struct reason *why);
struct window window_of(const struct engine *e, const struct request *r);
bool name_check(const char *s);
void verb_list(struct engine *e, struct request *r, struct timeline *t);
void verb_info(struct engine *e, struct request *r, struct timeline *t);
void verb_set(struct engine *e, struct request *r, struct timeline *t);
void verb_rename(struct engine *e, struct request *r, struct timeline *t);
void verb_delete(struct engine *e, struct request *r, struct timeline *t);

/* ---- create.c ---- */
void verb_create(struct engine *e, struct request *r, struct timeline *t);
void timeline_undo(struct timeline *t);        /* undoing: removes it from the store */

/* ---- waiters.c: who waits for an order, and whose orders end with him ---- */
#define NEXT_ANSWER UINT64_MAX /* cancels whatever answer comes next */
void wait_for(struct timeline *t, struct request *r, uint64_t order);
bool waiters_any(const struct timeline *t, uint64_t order);
bool waiters_cancel(struct timeline *t, uint64_t order);       /* does one want it cancelled?  NEXT_ANSWER means this */
void waiters_answer(struct timeline *t, uint64_t order, const struct order_progress *p);
void waiters_none(struct timeline *t);         /* NEXT_ANSWER, where there is none to come */
void waiters_refuse(struct timeline *t, const char *name, const char *text);
void waiters_no_disk(struct timeline *t, const char *text);
bool answers_to_come(const struct timeline *t);        /* in the queue, or on the way to it */
struct value *cancelled_value(bool yes);
struct value *done_value(uint64_t order, const struct order_progress *p);
void bond_make(struct timeline *t, uint64_t order, uint64_t peer);     /* peer 0: nobody's */
void bond_settle(struct timeline *t, uint64_t peer, uint64_t order);
bool bond_gone(struct timeline *t, const struct order *o);     /* is it to end? */
void bond_end(struct timeline *t, uint64_t order);     /* nobody ends it any more */
void verb_peer_gone(struct engine *e, struct request *r, struct timeline *t);

/* ---- order.c: accepting work, ending it ---- */
void verb_order(struct engine *e, struct request *r, struct timeline *t);      /* append, generate, say */
int caps_check(const struct engine *e, uid_t uid, size_t n, struct reason *why);       /* may so many more bytes wait? */
void verb_cancel(struct engine *e, struct request *r, struct timeline *t);
void order_cancel_waiting(struct timeline *t); /* what it has no slot for, where somebody wants it cancelled */
void order_ask(struct timeline *t);            /* the next one, from the store */
void order_done(struct timeline *t);           /* stage 2 has been posted: cur ends */

/* ---- apply.c: an order becomes tokens ---- */
bool apply_turn(struct timeline *t);           /* a slice; true: something was done */
/* What every timeline begins with: the sink token, BOS. */
void apply_start(const struct engine *e, bool bos, struct chat_state *s, struct ids *out);
/* What text of role adds to a timeline: BOS at its start, the template, the text. */
int apply_text(const struct engine *e, const struct chat_format *f, struct chat_state *s,
               bool at_start, bool enter, enum role role, const char *text, size_t n, struct ids *out);
size_t apply_cut(const char *text, size_t n);  /* bytes of the next slice */
bool text_at_hand(const struct timeline *t);

/* ---- generate.c: picking tokens, holding text back, ending an answer ---- */
void generate_begin(struct timeline *t);
/* The token that the logits choose (overwritten), or where these are NULL the largest of
 * them; changes nothing. */
int32_t generate_pick(const struct timeline *t, const struct candidates *top, float *logits);
void generate_take(struct timeline *t, int32_t id);    /* the answer goes on with it, or ends */
void generate_end(struct timeline *t, enum turn_reason reason);
bool generating(const struct timeline *t);
void held_clear(struct held *h);
void held_free(struct held *h);

/* ---- timeline.c: tokens and log entries ---- */
void timeline_push(struct timeline *t, const int32_t *ids, size_t n);  /* positions are given */
int32_t timeline_id(const struct timeline *t, uint64_t pos);
size_t timeline_last(const struct timeline *t, int32_t *out, size_t n);        /* oldest first */
/* Adds an entry; ids are moved, text (allocated, or NULL) is taken over. */
struct event *timeline_log(struct timeline *t, enum event_kind kind, enum role role,
                           struct ids *ids, char *text, size_t n_text);
void timeline_flush(struct timeline *t, bool durable);         /* to the store and to serve */
void timeline_news(struct timeline *t, enum event_kind kind, const char *state, double progress);
void timeline_back(struct timeline *t);        /* news: its cache is whole again */
void timeline_stall(struct timeline *t, const struct reason *why);    /* it waits for disk or memory, until timeline_retry */
void timeline_damaged(struct timeline *t, const char *text);   /* logged; nothing of it will be done */
/* Has the job failed because the database can only be read?  Then it has no more work, but can be read. */
bool timeline_read_only(struct timeline *t, const struct store_job *j);
void timeline_retry(struct timeline *t);
uint64_t timeline_window_start(const struct timeline *t, uint64_t n_token);

/* ---- schedule.c: who is in the next batch ---- */
bool engine_step(struct engine *e);            /* false: nobody has rows */
bool timeline_busy(const struct timeline *t);  /* has work that needs a slot */
bool engine_busy(const struct engine *e);      /* any session has rows to compute, about */

/* ---- resident.c: slots, checkpoints, rebuilding ---- */
void resident_want(struct timeline *t);        /* it has work: it gets a slot in its turn */
void resident_forget(struct timeline *t);      /* it is to be freed */
bool resident_serve(struct engine *e);         /* gives slots to those who wait */
void resident_leave(struct timeline *t, bool keep);       /* keep: its cache, as a copy and a checkpoint */
void resident_save(struct timeline *t);        /* a checkpoint */
void resident_save_when_due(struct timeline *t);

/* The slot's cache is whole for n_computed tokens. */
void resident_adopt(struct timeline *t, uint32_t slot, uint64_t n_computed, uint64_t start);

/* ---- kept.c: caches that outlive the process ---- */
void kept_stamp(const struct timeline *t, uint64_t n_written);
void kept_adopt(struct engine *e);

/* ---- unload.c: the device is closed when idle, and comes back ---- */
bool unload_turn(struct engine *e, bool did);  /* did: something else was done; true: go on at once */
int unload_wait(const struct engine *e, int wait);     /* ms; -1: for ever */

/* ---- score.c, show.c, stats.c ---- */
void verb_score(struct engine *e, struct request *r, struct timeline *t);
bool score_turn(struct engine *e);             /* one chunk; false: nothing to score */
void score_peer_gone(struct engine *e, uint64_t peer);
void score_restart_all(struct engine *e);      /* before the device is closed */
void score_refuse_all(struct engine *e, const char *name, const char *text);
void verb_show(struct engine *e, struct request *r, struct timeline *t);
void verb_read(struct engine *e, struct request *r, struct timeline *t);
void verb_tokenize(struct engine *e, struct request *r, struct timeline *t);
void verb_detokenize(struct engine *e, struct request *r, struct timeline *t);
void verb_server_info(struct engine *e, struct request *r, struct timeline *t);
void verb_server_stats(struct engine *e, struct request *r, struct timeline *t);
void verb_ping(struct engine *e, struct request *r, struct timeline *t);
struct value *session_value(const struct timeline *t);
void status_text(const struct engine *e, char *out, size_t n);

#endif
