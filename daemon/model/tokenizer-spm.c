/*
 * SentencePiece-style tokens ("llama"): the characters of the whole text merge by
 * score, and what is no token falls back to its bytes.
 *
 * The one hard idea: spaces are the character U+2581 while merging.
 *
 * It must not look for special tokens, which are gone from the text by then.
 */
#include "daemon/model/tokenizer-parts.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/utf8.h"

static const char space[3] = "\xe2\x96\x81";

struct spm_text {
	const struct vocab *v;
	const char *text;
};

/* Higher scores first: a float's bits, made to sort as the number does, upside down. */
static uint32_t score_rank(float score)
{
	uint32_t u;

	score += 0.0f;             /* -0 is 0 */
	memcpy(&u, &score, sizeof u);
	return u & 0x80000000u ? u : 0x7fffffffu - u;
}

static bool spm_pair(const void *ctx, const struct symbol *left, const struct symbol *right,
                     uint32_t *rank, int32_t *id)
{
	const struct spm_text *s = ctx;

	*id = vocab_find(s->v, s->text + left->at, (size_t)left->n + right->n, KIND_TEXT);
	if (*id < 0)
		return false;
	*rank = score_rank(s->v->score[*id]);
	return true;
}

/* A copy with U+2581 for spaces; the caller frees it. */
static char *spaces_escape(const char *text, size_t n, bool prefix, size_t *n_out)
{
	size_t o = 0, i, n_space = prefix;
	char *out;

	for (i = 0; i < n; i++)
		n_space += text[i] == ' ';
	out = malloc(n + 3 * n_space + 1);
	if (!out)
		return NULL;
	if (prefix) {
		memcpy(out, space, 3);
		o = 3;
	}
	for (i = 0; i < n; i++) {
		if (text[i] == ' ') {
			memcpy(out + o, space, 3);
			o += 3;
		} else {
			out[o++] = text[i];
		}
	}
	*n_out = o;
	return out;
}

static void push_bytes(const struct vocab *v, const char *text, size_t n, struct ids *out)
{
	for (size_t i = 0; i < n; i++) {
		int32_t id = v->byte[(uint8_t)text[i]];

		if (id < 0)
			id = v->unk;
		if (id >= 0)
			ids_push(out, id);
	}
}

int spm_encode(const struct vocab *v, const char *text, size_t n, bool prefix, struct ids *out)
{
	struct merger m = { 0 };
	struct spm_text s = { v, NULL };
	char *copy;
	size_t at, len;
	bool valid;
	int rc = 0;

	s.text = copy = spaces_escape(text, n, prefix, &n);
	if (!copy)
		return ERROR(-ENOMEM);
	rc = merger_reserve(&m, n);
	if (!rc)
		rc = ids_reserve(out, n);
	if (rc)
		goto out;
	for (at = 0; at < n; at += len) {
		len = utf8_step(copy + at, n - at, &valid, NULL);
		if (!valid)
			len = 1;           /* not UTF-8: a byte by itself, which is no token's text */
		merger_push(&m, (uint32_t)at, (uint32_t)len, vocab_find(v, copy + at, len, KIND_TEXT));
	}
	merger_run(&m, spm_pair, &s);
	for (int32_t i = m.n ? 0 : -1; i >= 0; i = m.symbols[i].next) {
		if (m.symbols[i].id >= 0)
			ids_push(out, m.symbols[i].id);
		else
			push_bytes(v, copy + m.symbols[i].at, m.symbols[i].n, out);
	}
out:
	merger_free(&m);
	free(copy);
	return rc;
}
