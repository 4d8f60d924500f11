/*
 * The tokenizer's own parts, seen by tokenizer*.c only: the vocabulary, the
 * pre-tokenizer, the merge loop and the two kinds of tokenizer built on them.
 */
#ifndef DAEMON_MODEL_TOKENIZER_PARTS_H
#define DAEMON_MODEL_TOKENIZER_PARTS_H

#include "daemon/model/tokenizer.h"

/* ---- vocabulary (tokenizer-vocab.c) ---- */

/* GGUF's token types, as bits, so that a look-up can say which it wants. */
enum kind {
	KIND_NORMAL = 1, KIND_UNKNOWN = 2, KIND_CONTROL = 4, KIND_USER = 8, KIND_UNUSED = 16, KIND_BYTE = 32,
	KIND_END = 128,                /* besides: ends a generation */
	KIND_ANY = 63,
	/* What text may become by merging.  Control tokens are not among them: a text
	 * that spells one stays text. */
	KIND_TEXT = KIND_NORMAL | KIND_USER | KIND_UNUSED,
	KIND_SPECIAL = KIND_CONTROL | KIND_UNKNOWN | KIND_USER,
};

/* Tokens that are looked for in the text before anything else. */
struct special_set {
	uint8_t kinds;
	uint8_t one[256];              /* bytes that are such a token */
	uint8_t two[65536 / 8];        /* bit: first two bytes of such a token */
	uint16_t *lengths;             /* their lengths, longest first */
	size_t n_length;
};

struct vocab {
	size_t n;
	bool byte_level;               /* normal tokens are in GPT-2's byte alphabet */
	bool typed;                    /* the file says what kinds its tokens are */
	struct gguf_str *text;         /* views into the mapping, as the file has them */
	uint8_t *kind;
	float *score;                  /* SentencePiece only */
	char *piece_data;              /* bytes that the tokens stand for, one behind another */
	uint32_t *piece_at;            /* [n + 1] */
	struct slot { uint32_t tag, id1; } *slots;     /* id + 1; 0: free */
	uint8_t *seen;                 /* bit: such a text may be in slots; small enough for a cache */
	size_t slot_mask, seen_mask;
	size_t n_text_max;
	int32_t byte[256];             /* token of a byte, -1: none */
	int32_t bos, eos, unk, sink;
	bool add_bos, add_space_prefix;
	bool strip_after_special;      /* phi-3: white space behind a special token is eaten */
	struct special_set special[2]; /* user-defined ones; all */
};

int vocab_open(struct vocab *v, const struct gguf *g, bool byte_level, bool add_bos, struct reason *why);
void vocab_close(struct vocab *v);
/* The token of one of those kinds with this text; -1: none. */
int32_t vocab_find(const struct vocab *v, const char *text, size_t n, uint8_t kinds);
/* GPT-2's byte alphabet: UTF-8 of the character for byte b; its length, 1 or 2. */
size_t byte_spell(uint8_t b, char out[2]);

/* ---- pre-tokenizer (tokenizer-pre.c) ---- */

struct pre_row {
	const char *names[12];         /* of tokenizer.ggml.pre */
	const char *exprs[6];          /* one after another, each inside the pieces of the last */
	bool ignore_merges;            /* a piece that is a token is taken whole */
	bool add_bos;
};
const struct pre_row *pre_find(struct gguf_str name);

struct pre;
int pre_open(struct pre **out, const struct pre_row *row, struct reason *why);
void pre_close(struct pre *p);
/* What splitting needs: of one thread, for as many texts as it likes. */
struct split;
int pre_begin(struct split **out, const struct pre *p);    /* -ENOMEM */
void pre_end(struct split *s);
/* Calls word for each piece of the valid UTF-8 text, in order; stops at its first
 * return other than 0 and returns that. */
int pre_split(struct split *s, const char *text, size_t n,
              int (*word)(void *ctx, const char *text, size_t n), void *ctx);

/* ---- merge loop (tokenizer-merge.c) ---- */

struct symbol {
	uint32_t at, n;                /* bytes of the text; n = 0: merged away */
	int32_t id;                    /* its token, -1: none */
	int32_t prev, next;            /* -1: end */
};

struct merger {
	struct symbol *symbols;
	struct bigram *heap;
	size_t n, room, n_heap;
};

/* Whether two neighbours make a token: which, and how urgent (smaller is first). */
typedef bool merge_pair(const void *ctx, const struct symbol *left, const struct symbol *right,
                        uint32_t *rank, int32_t *id);

int merger_reserve(struct merger *m, size_t n);    /* -ENOMEM; empties it */
void merger_push(struct merger *m, uint32_t at, uint32_t n, int32_t id);
/* Merges until nothing merges; symbol 0 heads what is left. */
void merger_run(struct merger *m, merge_pair *pair, const void *ctx);
void merger_free(struct merger *m);

/* ---- the two kinds ---- */

struct bpe;
int bpe_open(struct bpe **out, const struct vocab *v, const struct gguf *g, const struct pre_row *row,
             struct reason *why);
void bpe_close(struct bpe *b);
int bpe_encode(const struct bpe *b, const char *text, size_t n, struct ids *out);

int spm_encode(const struct vocab *v, const char *text, size_t n, bool prefix, struct ids *out);

#endif
