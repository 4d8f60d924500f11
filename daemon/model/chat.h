/*
 * Chat formats: how turns are spelled, as a table.  The format is recognised from
 * the model's template (tokenizer.chat_template), whose Jinja is never run.
 *
 * A timeline is a sequence of turns.  A turn opens, takes text any number of
 * times (text is never parsed for special tokens) and closes; consecutive text of
 * one role stays in one open turn.  The answer is a turn of the role assistant
 * whose closing token the model itself produces, or we do.
 *
 * Fed turn by turn, a timeline has the token ids of the rendered template.  Two
 * things see to that: a space that ends a template piece is held back and joined
 * to the text that follows it ("[INST] " + "Hi" is "[INST]", " Hi"), and text after
 * a special token gets SentencePiece's leading space where the model wants one.
 * So text goes in through chat_text, not through tokenizer_encode.
 */
#ifndef DAEMON_MODEL_CHAT_H
#define DAEMON_MODEL_CHAT_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/model/tokenizer.h"

enum role { ROLE_RAW, ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT, ROLE_TOOL, N_ROLE };
extern const char *const role_names[N_ROLE];           /* "raw", "system", ... */

/* Spelled with special tokens; CHAT_EOS stands for the model's own end of sequence. */
#define CHAT_EOS "\x01"

struct chat_turn {
	const char *open, *close;
};

struct chat_format {
	const char *name;              /* "chatml" */
	const char *marks[4];          /* all of these occur in the template */
	struct chat_turn turns[N_ROLE];    /* RAW unused; open NULL: role not in this format */
	/* Text of the system turn that opens a session when the first turn is not a
	 * system one, as the model's template has it; NULL: none. */
	const char *preamble;
	/* The system text stands inside the user turn (llama-2, gemma): the system turn
	 * opens as a user turn, and its close leads on into that turn. */
	bool system_in_user;
	const char *end;               /* spelling of the token that ends an answer; NULL: eos */
};

/* From the model's template; NULL: none recognised (the session is raw), and
 * why then says so.  The caller frees it with chat_free. */
const struct chat_format *chat_recognise(const struct gguf *g, const struct tokenizer *t, struct reason *why);
void chat_free(const struct chat_format *f);           /* one of chat_recognise; NULL is fine */
const struct chat_format *chat_at(size_t i);           /* rows of the table; NULL past the end */
const struct chat_format *chat_find(const char *name); /* NULL: unknown */

/* Where a session stands between turns: plain data, journalled with it; all zero
 * at the start of a timeline. */
struct chat_state {
	uint8_t open;                  /* enum role + 1 of the open turn, 0: none */
	uint8_t started;               /* something has been fed */
	uint8_t space;                 /* a space of the template waits for the text */
	uint8_t special;               /* the last token fed or produced was a special one */
};

/* Template tokens that bring the session into an open turn of `role` (closing the
 * open one first), appended to out; may be none.  Opening ROLE_ASSISTANT is the
 * generation prompt.  The preamble comes with the first turn.  ROLE_RAW closes
 * what is open.  REFUSED role_unknown where the format has no such role. */
int chat_enter(const struct chat_format *f, const struct tokenizer *t, struct chat_state *s,
               enum role role, struct ids *out, struct reason *why);
/* Text of the open turn, in as many pieces as the caller likes; f NULL or no turn
 * open: plain text.  -ENOMEM, or 0. */
int chat_text(const struct chat_format *f, const struct tokenizer *t, struct chat_state *s,
              const char *text, size_t n, struct ids *out);
/* Tokens that did not come as text (generated, or appended as ids): keeps s right. */
void chat_tokens(const struct tokenizer *t, struct chat_state *s, const int32_t *ids, size_t n);
/* Template tokens that close the open turn (a system turn that stands inside the user's
 * leads on into that); ended: the model has produced the
 * end-of-turn token itself (only what follows it is appended). */
int chat_close(const struct chat_format *f, const struct tokenizer *t, struct chat_state *s,
               bool ended, struct ids *out);

#endif
