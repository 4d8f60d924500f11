/* What tests of the store share: a store with a mailbox, questions that wait for
 * their answer, and a session whose log grows by itself. */
#ifndef TESTS_UNIT_STORE_DESK_H
#define TESTS_UNIT_STORE_DESK_H

#include "daemon/session/store.h"

struct desk {
	char dir[256];
	const char *vfs;
	const struct disk *disk;
	struct store *store;
	struct mailbox *box;
	struct reason why;         /* of the last question */
};

void desk_dir(struct desk *d);                 /* a new directory of its own */
int desk_open(struct desk *d);                 /* opens the store and starts it */
int desk_open_only(struct desk *d);
void desk_close(struct desk *d);
void desk_remove(struct desk *d);              /* the directory and all in it */
/* Posts j and waits until it is back; its rc. */
int desk_ask(struct desk *d, struct store_job *j);
void desk_post(struct desk *d, struct store_job *j);
struct store_job *desk_wait(struct desk *d);   /* the next that comes back */
int desk_sync(struct desk *d);

/* A session row with every field set to something of its own. */
void make_row(struct session_row *r, const char *name);
uint64_t desk_session(struct desk *d, struct session_row *r, const char *name);
struct order *make_order(uint64_t session, const char *key, const char *payload);
/* The next entry of a session: n_ids tokens, text; r moves on. */
void make_event(struct event *e, struct session_row *r, size_t n_ids, const char *text);
/* A STORE_LOG job with n such entries, whose content follows from seq alone. */
struct store_job *make_log(struct session_row *r, size_t n);
int32_t token_at(uint64_t position);

#endif
