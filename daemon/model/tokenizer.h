/*
 * Text <-> token ids, from a GGUF's vocabulary: byte-level BPE ("gpt2", with the
 * pre-tokenizer expressions of tokenizer.ggml.pre as a table) and SentencePiece
 * style ("llama": merges by score, byte fallback).  An unknown pre-tokenizer is
 * refused by name with the list of known ones.
 *
 * Text is bytes: invalid UTF-8 becomes byte tokens, and
 * detokenize(tokenize(x)) == x.  Two exceptions, both those of the reference
 * implementations: a byte that a vocabulary has no token for is left out
 * (SmolLM2 lacks 21, C0 and FF among them), and SentencePiece reads U+2581 as a
 * space.  Immutable once open; any thread.
 */
#ifndef DAEMON_MODEL_TOKENIZER_H
#define DAEMON_MODEL_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/error.h"
#include "daemon/model/gguf.h"

struct tokenizer;

struct ids {                   /* a growing list of token ids */
	int32_t *data;
	size_t n, room;
};
int ids_reserve(struct ids *v, size_t more);   /* -ENOMEM: what users size comes after it; the others abort */
void ids_push(struct ids *v, int32_t id);
void ids_append(struct ids *v, const int32_t *data, size_t n);
void ids_free(struct ids *v);  /* leaves it empty */

/* The gguf must stay open as long as the tokenizer. */
int tokenizer_open(struct tokenizer **out, const struct gguf *g, struct reason *why);
void tokenizer_close(struct tokenizer *t);             /* NULL is fine */

enum tokenize_flags {
	TOKENIZE_SPECIAL = 1,      /* special tokens spelled in the text are parsed: templates only */
	/* SentencePiece's leading-space rule (tokenizer.ggml.add_space_prefix) applies: set at
	 * the start of a text, as llama.cpp does, not in the middle of one. */
	TOKENIZE_START = 2,
};

/* Appends to out.  Never adds BOS or EOS.  -ENOMEM, or 0. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags,
                     struct ids *out);

/* The bytes that a token stands for: what it adds to a transcript.  A control
 * token stands for nothing (n = 0) unless special is set: then its spelling.
 * The view lives as long as the tokenizer. */
struct gguf_str tokenizer_piece(const struct tokenizer *t, int32_t id, bool special);

size_t tokenizer_n_vocab(const struct tokenizer *t);
int32_t tokenizer_bos(const struct tokenizer *t);      /* -1: none */
/* The learned sink token of a model that was trained with one (the paper's second
 * proposal; key tokenizer.ggml.sink_token_id): what every timeline begins with,
 * before BOS.  -1: none. */
int32_t tokenizer_sink(const struct tokenizer *t);
bool tokenizer_add_bos(const struct tokenizer *t);     /* once, at the start of a timeline */
int32_t tokenizer_eos(const struct tokenizer *t);      /* -1: none */
/* A control or user-defined token: one that is never made by merging. */
bool tokenizer_is_special(const struct tokenizer *t, int32_t id);
/* An end-of-generation token (eos, eot, and the known spellings of end-of-turn). */
bool tokenizer_is_end(const struct tokenizer *t, int32_t id);
int32_t tokenizer_find(const struct tokenizer *t, const char *spelling);   /* -1: absent */
const char *tokenizer_pre_at(size_t i);                /* known pre-tokenizers; NULL past the end */

/* Where a text of n bytes may be cut so that both parts tokenize as the whole would,
 * or nearly: n where n <= n_max, else the largest cut <= n_max at a line end, else
 * before the space of a word, else at a character boundary; never 0 for n > 0.
 * A pure function of the bytes.  n_max > 0. */
size_t tokenizer_cut(const char *text, size_t n, size_t n_max);

#endif
