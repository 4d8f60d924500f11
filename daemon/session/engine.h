/*
 * The engine: one thread that owns the backend, the model and every session, and
 * runs steps.  serve posts requests; each comes back, answered, to the mailbox
 * of serve.  What happens in sessions is published there as letters too.
 *
 *   serve --request--> engine --job--> store          accepted: on disk
 *         <--answer---        <--job---
 *   engine: step -> log entries -> store, and published to serve
 */
#ifndef DAEMON_SESSION_ENGINE_H
#define DAEMON_SESSION_ENGINE_H

#include <sys/types.h>

#include "daemon/base/config.h"
#include "daemon/base/error.h"
#include "daemon/base/mailbox.h"
#include "daemon/base/value.h"
#include "daemon/session/event.h"
#include "daemon/session/row.h"
#include "daemon/session/store.h"

struct engine;

struct engine_caps {               /* per uid */
	uint32_t sessions;
	uint64_t queued_bytes, stored_bytes;
};

struct engine_params {
	const char *model;         /* path */
	const char *backend;       /* auto, cpu, cuda */
	const char *cuda_module;   /* path; NULL: the installed one */
	unsigned n_thread;         /* 0: all */
	const char *isa;           /* NULL: the best */
	uint32_t n_slot;           /* sessions whose caches are on the device at once; 0: the usual */
	uint32_t n_chunk;          /* longest prefill chunk */
	struct config_amount gpu_memory;       /* of a device's own: for weights, work and slots */
	uint64_t swap_bytes;       /* of the machine's memory, for caches without a slot; 0: only on disk */
	uint32_t unload_seconds;   /* without work, after which the model is unloaded; 0: never */
	double slot_seconds;       /* that a busy session keeps its slot while others wait; 0: 10 */
	const char *kv_type;       /* of the caches: f16 (NULL), q8 */
	unsigned n_act_bit;        /* of activations in products of integers: 0 or 15; 8 (CPU) */
	const char *sink_token;    /* spelling or id of a learned sink token; NULL: the model says */
	struct window window;      /* of new sessions; n_recent 0: min(2000, n_ctx - 5) */
	struct settings settings;  /* of new sessions */
	struct engine_caps caps;
	bool crashed;              /* the process before ended by a fault of its own */
	struct store *store;       /* open, not started; not owned */
	int slab_fd;               /* the slab of the process before us; 0: none.  Owned from here on */
	struct mailbox *serve;     /* answers and publications go here */
	/* serve's functions for letters that arrive there */
	void (*on_answer)(void *serve, struct letter *request);
	void (*on_published)(void *serve, struct letter *published);
	void (*on_status)(void *serve, struct letter *status);
};

enum verb {
	VERB_CREATE, VERB_LIST, VERB_INFO, VERB_SET, VERB_RENAME, VERB_DELETE,
	VERB_APPEND, VERB_GENERATE, VERB_SAY, VERB_CANCEL,
	VERB_READ,                 /* answered by the store through the engine */
	VERB_SHOW, VERB_SCORE, VERB_TOKENIZE, VERB_DETOKENIZE,
	VERB_SERVER_INFO, VERB_SERVER_STATS,
	VERB_PING,                 /* the watchdog's: answered between steps */
	VERB_PEER_GONE,            /* no answer; peer has left */
	N_VERB
};

/* One call of a client.  serve fills it, the engine answers it. */
struct request {
	struct letter letter;
	enum verb verb;
	uint64_t peer;             /* serve's number of the connection; never 0 */
	uint64_t tag;              /* serve's own */
	uid_t uid;                 /* who calls */
	gid_t gid;
	gid_t *groups; size_t n_group;     /* owned */

	uid_t owner;               /* whose session */
	char name[SESSION_NAME_MAX + 1];
	char new_name[SESSION_NAME_MAX + 1];
	unsigned given;            /* enum given */
	struct settings settings;
	struct window window;
	uint8_t role, share;
	bool raw, pin, wait, until_disconnect, exact, per_token;
	char *text; size_t n_text;         /* owned; text, system text */
	char *system; size_t n_system;     /* owned */
	struct ids tokens;                 /* owned */
	char key[KEY_MAX]; size_t n_key;
	uint64_t from, limit;      /* READ: seq, entries. SCORE: first scored token */
	uint32_t chunk;            /* SCORE */

	int rc;                    /* 0: result; REFUSED or negative: why */
	struct reason why;
	struct value *result;      /* owned */
	uint64_t session;          /* READ, and all that name one: its id.  Given: that one, whatever
	                              its name is by now */
	uint64_t next_seq;         /* READ: where to read on; entries below it were given */
	uint64_t last_seq;         /* READ: of the log as it is known; what is not on disk yet was not given */
	struct request *older;     /* the engine's: while it waits, one that came before it */
};
struct request *request_new(enum verb verb);
void request_free(struct request *r);          /* NULL is fine */

/* An event of a session, published to serve as it happens: log entries in order of
 * seq, none left out, and news (seq 0).  deleted: the session is gone. */
struct published {
	struct letter letter;
	struct event event;
	char name[SESSION_NAME_MAX + 1];
	uid_t owner;
	bool deleted;
	bool bare;                 /* no memory for its text: it is to be read */
};
void published_free(struct published *p);

/* Life of the engine: loading (progress), ready, unloading, unloaded (and loading again when it
 * is needed), failed (why). */
struct engine_status {
	struct letter letter;
	enum { ENGINE_LOADING, ENGINE_READY, ENGINE_UNLOADING, ENGINE_UNLOADED, ENGINE_FAILED, ENGINE_STOPPED } state;
	double progress;
	char text[200];            /* for STATUS=: model, backend, memory */
	struct reason why;
	int slab_fd;               /* READY: a new slab that a service manager may keep; -1: none */
	bool slab_gone;            /* READY: caches are on a device; what was kept is of no use */
};

/* Starts the thread, which loads the model, starts the store, brings sessions back
 * and says ENGINE_READY.  Requests posted while it loads are answered: those that
 * need the model wait, or are refused `loading`. */
int engine_start(struct engine **out, const struct engine_params *p, struct reason *why);
void engine_post(struct engine *e, struct request *r);     /* any thread */
/* Ends the running step, checkpoints every session, commits; ENGINE_STOPPED is the
 * last letter.  Returns at once. */
void engine_stop(struct engine *e);
void engine_join(struct engine *e);            /* after ENGINE_STOPPED; frees e */

#endif
