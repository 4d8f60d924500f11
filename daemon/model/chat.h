/*
 * Chat formats: how turns are spelled, as a table.  The format is recognised from
 * the model's template (tokenizer.chat_template), whose Jinja is never run.
 *
 * A timeline is a sequence of turns.  A turn opens, takes text any number of
 * times (text is never parsed for special tokens) and closes; consecutive text of
 * one role stays in one open turn.  The answer is a turn of the role assistant
 * whose closing token the model itself produces, or we do.
 */
#ifndef DAEMON_MODEL_CHAT_H
#define DAEMON_MODEL_CHAT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/model/tokenizer.h"

enum role { ROLE_RAW, ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, N_ROLE };
extern const char *const role_names[N_ROLE];           /* "raw", "system", ... */

struct chat_turn {
	const char *open, *close;      /* spelled with special tokens */
};

struct chat_format {
	const char *name;              /* "chatml" */
	const char *marks[4];          /* all of these occur in the template */
	struct chat_turn turns[N_ROLE];    /* RAW unused; open NULL: role not in this format */
	/* Text that opens a session when the first turn is not a system one, as the
	 * model's template has it; NULL: none. */
	const char *preamble;
	/* The system text belongs inside the first user turn (llama-2, gemma). */
	bool system_in_user;
	const char *end;               /* spelling of the token that ends an answer; NULL: eos */
};

/* From the model's template; NULL: none recognised (the session is raw), and
 * why then says so. */
const struct chat_format *chat_recognise(const struct gguf *g, const struct tokenizer *t, struct reason *why);
const struct chat_format *chat_at(size_t i);           /* NULL past the end */
const struct chat_format *chat_find(const char *name); /* NULL: unknown */

/* Where a session stands between turns: plain data, journalled with it. */
struct chat_state {
	uint8_t open;                  /* enum role + 1 of the open turn, 0: none */
	uint8_t started;               /* a first turn has been opened */
	uint8_t pending_system;        /* system turn waits for its user turn */
};

/* Template tokens that bring the session into an open turn of `role` (closing the
 * open one first), appended to out; may be none.  Opening ROLE_ASSISTANT is the
 * generation prompt.  The preamble comes with the first turn.  REFUSED
 * role_unknown where the format has no such role. */
int chat_enter(const struct chat_format *f, const struct tokenizer *t, struct chat_state *s,
               enum role role, struct ids *out, struct reason *why);
/* Template tokens that close the open turn; ended: the model has produced the
 * end-of-turn token itself (only what follows it is appended). */
int chat_close(const struct chat_format *f, const struct tokenizer *t, struct chat_state *s,
               bool ended, struct ids *out);

#endif
