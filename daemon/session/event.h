/*
 * An event: one entry of a session's log, or (seq 0) news that is not kept.
 *
 * The log is the session: text, turn and applied entries in token order carry
 * every token id of the timeline, the template's among them, so that it can be
 * rebuilt from them alone.  Numbers never depend on timing: seqs count entries
 * from 1, positions count tokens from 0, and what is generated again after a
 * crash gets the same numbers.
 */
#ifndef DAEMON_SESSION_EVENT_H
#define DAEMON_SESSION_EVENT_H

#include <stddef.h>
#include <stdint.h>

#include "daemon/base/value.h"
#include "daemon/model/chat.h"
#include "daemon/model/tokenizer.h"

enum event_kind {              /* numbers are on disk: never renumber */
	EVENT_TEXT = 1,        /* text of role; ids */
	EVENT_TURN = 2,        /* begin or end of a generated answer; ids: template tokens */
	EVENT_APPLIED = 3,     /* an order has been applied whole */
	EVENT_EVICTED = 4,     /* not kept: the window's start, total forgotten */
	EVENT_STATE = 5,       /* not kept: loading, rebuilding, ... with progress */
	N_EVENT_KIND
};
extern const char *const event_kind_names[N_EVENT_KIND];

enum turn_reason { TURN_BEGIN = 0, TURN_STOP = 1, TURN_LENGTH = 2, TURN_CANCELLED = 3, TURN_ERROR = 4 };
extern const char *const turn_reason_names[];

struct event {
	uint64_t session;      /* id */
	uint64_t seq;
	int64_t time;          /* milliseconds since the epoch */
	uint8_t kind;          /* enum event_kind */
	uint8_t role;          /* enum role */
	uint8_t reason;        /* TURN: enum turn_reason */
	uint64_t order;        /* the order it comes from, 0: none */
	uint64_t position;     /* of its first token (of the next one where it has none) */
	uint32_t n_prompt, n_generated;    /* TURN end */
	struct ids ids;
	char *text;            /* bytes, as they are */
	size_t n_text;
	uint64_t window_start; /* first window position still seen after this entry */
	uint64_t forgotten;    /* tokens no longer seen, in all (derived, not stored) */
	const char *state;     /* STATE: a static word */
	double progress;       /* STATE: 0 .. 1 */
};

void event_clear(struct event *e);                      /* what it owns, not e itself (libevent has an event_free) */
char *event_text(const char *text, size_t n);  /* a copy, NUL behind it; NULL: no memory */
int event_copy(struct event *to, const struct event *from);
/* XXH3-64 of (previous chain value, session, seq, payload). */
uint64_t event_chain(uint64_t previous, const struct event *e);
/* Bytes that an entry is counted with against caps. */
uint64_t event_stored(const struct event *e);
/* No fewer bytes than event_value takes on the wire: for limits. */
size_t event_cost(const struct event *e);
/* As a client reads it: {session, seq, time, kind, position, ...}; text that is not
 * UTF-8 comes as U+FFFD in text and as it is in bytes. */
struct value *event_value(const struct event *e, const char *name);

#endif
