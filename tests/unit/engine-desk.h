/* What tests of the engine share: a store and an engine over a tiny real model, a
 * mailbox in the place of serve, questions that wait for their answer, and every
 * event as it was published. */
#ifndef TESTS_UNIT_ENGINE_DESK_H
#define TESTS_UNIT_ENGINE_DESK_H

#include "daemon/session/engine.h"

struct seen {                          /* a published event */
	struct event event;
	bool deleted;
};

struct desk {
	char dir[64];
	const char *vfs;               /* of the store; NULL: the real disk */
	const struct disk *disk;
	struct engine_params p;
	struct store *store;
	struct engine *engine;
	struct mailbox *box;
	struct seen *seen;
	size_t n_seen, room_seen;
	int status;                    /* of the last engine_status */
	struct reason failed;
	struct request *back[64];      /* answers nobody has taken yet */
	size_t n_back;
};

void desk_new(struct desk *d);                 /* a new directory, usual parameters */
void desk_start(struct desk *d);               /* returns when the engine is ready */
bool desk_try_start(struct desk *d);           /* false: the store does not open */
void desk_pump(struct desk *d, int ms);        /* takes letters for that long */
void desk_stop(struct desk *d);
void desk_remove(struct desk *d);              /* stopped; the directory and all in it */
/* The state directory as a SIGKILL would leave it now: to's, not started. */
void desk_crash(const struct desk *d, struct desk *to);
void desk_drop_checkpoints(const struct desk *d);
bool desk_has_checkpoint(const struct desk *d);

/* Takes letters until done(ctx) says so. */
void desk_until(struct desk *d, bool (*done)(struct desk *d, void *ctx), void *ctx);
void desk_post(struct desk *d, struct request *r);
/* The answer; the caller frees it. */
struct request *desk_ask(struct desk *d, struct request *r);
struct request *desk_answer(struct desk *d, struct request *r);        /* one posted before */

/* Requests as uid 1000. */
struct request *ask_new(enum verb verb, const char *session);
void ask_text(struct request *r, const char *text);
void refused(struct desk *d, struct request *r, const char *name);      /* asks, by this name; frees r */
uint64_t number(const struct request *r, const char *key);             /* of the result; asserts */
const char *word(const struct request *r, const char *key);

/* Usual steps, each asserting that it was done. */
void desk_create(struct desk *d, const char *name, bool raw, uint64_t seed, float temperature);
uint64_t desk_order(struct desk *d, enum verb verb, const char *name, const char *text, uint32_t max_tokens);
void desk_append_ids(struct desk *d, const char *name, const int32_t *ids, size_t n);
void desk_turn_end(struct desk *d, uint64_t order);                    /* waits for it */
uint8_t desk_reason(const struct desk *d, uint64_t order);
/* Text of an answer as published so far; the caller frees it. */
char *desk_text(const struct desk *d, uint64_t order, size_t *n);
/* The same from the log, through READ. */
char *desk_log(struct desk *d, const char *name);
/* seqs without gaps, positions that follow, everything READ as it was published. */
void desk_check_log(struct desk *d, const char *name);
void desk_delete(struct desk *d, const char *name);
void desk_texts(struct desk *d, uint64_t order, size_t n);     /* waits for so many entries of an answer */
bool desk_idle(struct desk *d, const char *name);              /* nothing queued */
/* The i-th of a family of conversations; one in which the tiny model's answer goes
 * on for n tokens. */
uint64_t desk_story(struct desk *d, const char *name, float temperature, uint64_t i, uint32_t n);
uint64_t desk_long_story(struct desk *d, const char *name, float temperature, uint32_t n);
/* An answer of a million tokens has begun: the tiny model goes round in circles. */
uint64_t desk_endless(struct desk *d, const char *name, bool until_disconnect);
uint64_t desk_stat(struct desk *d, const char *key);

#endif
