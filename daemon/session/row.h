/*
 * What is kept of a session and of an accepted request ("order"), as plain
 * structs: the rows of the tables sessions and queue.  No behaviour.
 */
#ifndef DAEMON_SESSION_ROW_H
#define DAEMON_SESSION_ROW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "daemon/model/chat.h"
#include "daemon/model/sample.h"
#include "kernels/window.h"

#define SESSION_NAME_MAX 64
#define STOP_MAX 8             /* stop strings */
#define STOP_BYTES 128         /* bytes of one */
#define KEY_MAX 64             /* bytes of an idempotency key */
#define KEYS_KEPT 1024         /* keys remembered of a session */

enum share { SHARE_NONE, SHARE_GROUP_READ, SHARE_GROUP_WRITE, N_SHARE };
extern const char *const share_names[N_SHARE];

struct stops {
	uint32_t n;
	struct { uint32_t n; char data[STOP_BYTES]; } at[STOP_MAX];
};

/* How a session generates, unless a generation says otherwise. */
struct settings {
	struct sampling sampling;
	struct stops stops;
	uint32_t max_tokens;       /* of one answer */
};

/* Which fields of a struct settings (or of a session) a request gives. */
enum given {
	GIVEN_TEMPERATURE = 1 << 0, GIVEN_TOP_K = 1 << 1, GIVEN_TOP_P = 1 << 2, GIVEN_MIN_P = 1 << 3,
	GIVEN_REPEAT_PENALTY = 1 << 4, GIVEN_SEED = 1 << 5, GIVEN_STOP = 1 << 6, GIVEN_MAX_TOKENS = 1 << 7,
	GIVEN_SINKS = 1 << 8, GIVEN_WINDOW = 1 << 9, GIVEN_SHARE = 1 << 10, GIVEN_MODEL = 1 << 11,
	GIVEN_ROLE = 1 << 12, GIVEN_KEY = 1 << 13, GIVEN_TEXT = 1 << 14, GIVEN_TOKENS = 1 << 15,
	GIVEN_SYSTEM = 1 << 16,
	/* Of a stored order: it is bound to its peer; a new process has no such peer. */
	GIVEN_UNTIL = 1 << 17,
	/* Of a stored order: its text is pinned, and so is what closes its turn, which comes with it. */
	GIVEN_PIN = 1 << 18,
};
/* to = from, field by field where given. */
void settings_merge(struct settings *to, const struct settings *from, unsigned given);

struct session_row {
	uint64_t id;               /* 0: not stored yet; never used again */
	uid_t uid;
	gid_t gid;                 /* for share */
	char name[SESSION_NAME_MAX + 1];
	int64_t created, used;     /* milliseconds since the epoch */
	uint64_t fingerprint;      /* of the model that its tokens belong to */
	char model[96];            /* its name, for messages */
	struct window window;
	bool raw;                  /* no chat format */
	uint8_t share;
	struct settings settings;
	/* Where the timeline stands after its last log entry; written with it. */
	uint64_t n_seq, n_token;
	uint64_t chain;            /* event_chain of the last entry, 0: none */
	struct chat_state chat;
	uint32_t n_kill;           /* times it was computing when the engine died */
};

enum order_kind { ORDER_APPEND = 1, ORDER_GENERATE = 2, ORDER_SAY = 3 };   /* on disk */

/* How far an order has been applied; written in the same transaction as the log
 * entries that say so, so that a new process goes on in the middle. */
struct order_progress {
	uint8_t stage;             /* 0 text, 1 generating, 2 done */
	uint64_t offset;           /* stage 0: bytes of text (or tokens) applied; 1: tokens of the prompt */
	uint32_t n_generated;      /* tokens generated and logged */
	uint64_t answer;           /* position of its first token; 1: where the answer began; 2: behind it */
	uint64_t seq;              /* last entry before its own; 2: the entry that finished it */
};

struct order {
	uint64_t id;               /* 0: not stored yet */
	uint64_t session;
	uint8_t kind;              /* enum order_kind */
	uint8_t role;              /* enum role, of the text */
	bool tokens;               /* the payload is int32 token ids, not text */
	unsigned given;            /* settings given with it */
	struct settings settings;
	uint64_t until_peer;       /* cancel when this peer leaves; 0: go on (not stored) */
	size_t n_key;
	char key[KEY_MAX];
	size_t n_payload;
	char *payload;             /* owned */
	struct order_progress progress;
	uint64_t log_seq;          /* last entry of the log when it was accepted; the store sets it */
};

void order_free(struct order *o);      /* o and its payload; NULL is fine */

#endif
