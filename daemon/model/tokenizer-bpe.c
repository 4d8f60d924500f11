/*
 * Byte-level BPE ("gpt2"): the pre-tokenizer cuts the text into words, and the
 * bytes of a word merge by rank.
 *
 * The one hard idea: merges are pairs of token ids, so a rank is one probe of a
 * table and no text is put together while merging.
 *
 * It must not look for special tokens, which are gone from the text by then.
 */
#include "daemon/model/tokenizer-parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/utf8.h"

struct merge {
	int32_t left, right;       /* left < 0: free */
	uint32_t rank;
	int32_t id;
};

struct bpe {
	const struct vocab *v;
	struct pre *pre;
	bool ignore_merges;
	struct merge *merges;
	size_t mask;
};

static size_t merge_hash(int32_t left, int32_t right)
{
	uint64_t x = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9e3779b97f4a7c15u;

	return (size_t)(x >> 29);
}

static struct merge *merge_slot(const struct bpe *b, int32_t left, int32_t right)
{
	size_t i = merge_hash(left, right) & b->mask;

	while (b->merges[i].left >= 0 && (b->merges[i].left != left || b->merges[i].right != right))
		i = (i + 1) & b->mask;
	return &b->merges[i];
}

/* "left right", split at the first space that is not the first character. */
static int merge_add(struct bpe *b, struct gguf_str s, uint32_t rank, char *joined, size_t *n_used,
                     struct reason *why)
{
	const char *cut = s.n > 1 ? memchr(s.data + 1, ' ', s.n - 1) : NULL;
	size_t n_left = cut ? (size_t)(cut - s.data) : 0, n_right = cut ? s.n - n_left - 1 : 0;
	int32_t left, right, id;
	struct merge *m;

	if (n_right == 0)
		return refuse(why, "bad_model", "tokenizer.ggml.merges: entry %u is not two texts and a space", rank);
	if (n_left + n_right > b->v->n_text_max)
		return 0;
	memcpy(joined, s.data, n_left);
	memcpy(joined + n_left, cut + 1, n_right);
	left = vocab_find(b->v, joined, n_left, KIND_TEXT);
	right = vocab_find(b->v, joined + n_left, n_right, KIND_TEXT);
	id = vocab_find(b->v, joined, n_left + n_right, KIND_TEXT);
	if (left < 0 || right < 0 || id < 0)
		return 0;
	++*n_used;
	m = merge_slot(b, left, right);
	if (m->left < 0)           /* the first of two wins */
		*m = (struct merge){ left, right, rank, id };
	return 0;
}

static int merges_read(struct bpe *b, const struct gguf *g, struct reason *why)
{
	size_t size = 16, cursor = 0, n_used = 0;
	struct gguf_array a;
	struct gguf_str s;
	char *joined = NULL;
	int rc = 0;

	if (!gguf_array(g, "tokenizer.ggml.merges", &a) || a.type != 8)
		return refuse(why, "bad_model", "tokenizer.ggml.merges is missing or not a list of texts");
	if (a.n > INT32_MAX)
		return refuse(why, "bad_model", "tokenizer.ggml.merges has more entries than tokens can have");
	while (size < 2 * a.n)
		size *= 2;
	b->mask = size - 1;
	b->merges = malloc(size * sizeof *b->merges);
	joined = malloc(b->v->n_text_max + 1);
	if (!b->merges || !joined) {
		rc = ERROR(-ENOMEM);
		goto out;
	}
	for (size_t i = 0; i < size; i++)
		b->merges[i].left = -1;
	for (uint32_t rank = 0; !rc && rank < a.n && gguf_array_next(&a, &cursor, &s); rank++)
		rc = merge_add(b, s, rank, joined, &n_used, why);
	/* A few that name texts outside the vocabulary are met in the wild; most of
	 * them means that the two lists are not of one model. */
	if (!rc && n_used < a.n / 2)
		rc = refuse(why, "bad_model", "tokenizer.ggml.merges: only %zu of %llu make tokens of the vocabulary",
		            n_used, (unsigned long long)a.n);
out:
	free(joined);
	return rc;
}

int bpe_open(struct bpe **out, const struct vocab *v, const struct gguf *g, const struct pre_row *row,
             struct reason *why)
{
	struct bpe *b = calloc(1, sizeof *b);
	int rc;

	*out = NULL;
	if (!b)
		return ERROR(-ENOMEM);
	b->v = v;
	b->ignore_merges = row->ignore_merges;
	rc = merges_read(b, g, why);
	if (!rc)
		rc = pre_open(&b->pre, row, why);
	if (rc) {
		bpe_close(b);
		return rc;
	}
	*out = b;
	return 0;
}

void bpe_close(struct bpe *b)
{
	if (!b)
		return;
	pre_close(b->pre);
	free(b->merges);
	free(b);
}

/* ---- encoding ---- */

struct bpe_run {
	const struct bpe *b;
	struct merger m;
	struct ids *out;
};

static bool bpe_pair(const void *ctx, const struct symbol *left, const struct symbol *right,
                     uint32_t *rank, int32_t *id)
{
	const struct merge *m = merge_slot(ctx, left->id, right->id);

	*rank = m->rank;
	*id = m->id;
	return m->left >= 0;
}

/* The token whose text is the whole word; -1: none. */
static int32_t word_token(const struct bpe *b, const char *word, size_t n)
{
	char text[512];
	size_t o = 0;

	if (2 * n > sizeof text)
		return -1;
	for (size_t i = 0; i < n; i++)
		o += byte_spell((uint8_t)word[i], text + o);
	return vocab_find(b->v, text, o, KIND_TEXT);
}

static int bpe_word(void *ctx, const char *word, size_t n)
{
	struct bpe_run *r = ctx;
	int32_t id = r->b->ignore_merges ? word_token(r->b, word, n) : -1;
	int rc;

	if (id >= 0) {
		ids_push(r->out, id);
		return 0;
	}
	rc = merger_reserve(&r->m, n);
	if (rc)
		return rc;
	for (size_t i = 0; i < n; i++) {
		id = r->b->v->byte[(uint8_t)word[i]];
		if (id >= 0)       /* a byte without a token is left out before merging */
			merger_push(&r->m, (uint32_t)i, 1, id);
	}
	merger_run(&r->m, bpe_pair, r->b);
	for (int32_t i = r->m.n ? 0 : -1; i >= 0; i = r->m.symbols[i].next)
		ids_push(r->out, r->m.symbols[i].id);
	return 0;
}

int bpe_encode(const struct bpe *b, const char *text, size_t n, struct ids *out)
{
	struct bpe_run r = { b, { 0 }, out };
	struct split *split;
	size_t run;
	int rc = pre_begin(&split, b->pre);

	if (!rc)
		rc = ids_reserve(out, n);
	while (!rc && n) {
		run = utf8_valid_prefix(text, n);
		if (run) {
			rc = pre_split(split, text, run, bpe_word, &r);
		} else {
			run = 1;   /* not UTF-8: its byte, alone */
			if (b->v->byte[(uint8_t)*text] >= 0)
				ids_push(out, b->v->byte[(uint8_t)*text]);
		}
		text += run;
		n -= run;
	}
	merger_free(&r.m);
	pre_end(split);
	return rc;
}
