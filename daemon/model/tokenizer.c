/*
 * Text <-> token ids: finds the special tokens in a text, hands what lies between
 * them to byte-level BPE or SentencePiece, and says what a token stands for.
 *
 * The one hard idea: special tokens are found longest first over the whole text,
 * not from left to right; that is what llama.cpp does, and it decides where two
 * of them overlap.  Without TOKENIZE_SPECIAL only user-defined tokens are looked
 * for, and no path makes a control token.
 *
 * It must not know chat formats, and never adds BOS or EOS.
 */
#include "daemon/model/tokenizer.h"
#include "daemon/model/tokenizer-parts.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct tokenizer {
	struct vocab v;
	struct bpe *bpe;           /* NULL: SentencePiece */
};

/* ---- ids ---- */

int ids_reserve(struct ids *v, size_t more)
{
	size_t room = v->room ? v->room : 64;
	int32_t *data;

	if (v->room - v->n >= more)
		return 0;
	while (room - v->n < more)
		room *= 2;
	data = realloc(v->data, room * sizeof *data);
	if (!data)
		return ERROR(-ENOMEM);
	v->data = data;
	v->room = room;
	return 0;
}

void ids_push(struct ids *v, int32_t id)
{
	if (v->n == v->room && ids_reserve(v, 1))
		abort();           /* what users size was reserved before */
	v->data[v->n++] = id;
}

void ids_append(struct ids *v, const int32_t *data, size_t n)
{
	if (n == 0)
		return;
	if (ids_reserve(v, n))
		abort();
	memcpy(v->data + v->n, data, n * sizeof *data);
	v->n += n;
}

void ids_free(struct ids *v)
{
	free(v->data);
	*v = (struct ids){ 0 };
}

/* ---- open and close ---- */

static int pre_unknown(struct gguf_str name, struct reason *why)
{
	char known[200] = "";
	size_t n = 0, i = 0;
	const char *s;

	while ((s = tokenizer_pre_at(i++)) && n + strlen(s) + 10 < sizeof known)
		n += (size_t)sprintf(known + n, "%s%s", n ? ", " : "", s);
	return refuse(why, "unsupported", "the pre-tokenizer %.*s; known: %s%s", (int)(name.n < 32 ? name.n : 32), name.data,
	              known, s ? ", ..." : "");
}

static int tokenizer_read(struct tokenizer *t, const struct gguf *g, struct reason *why)
{
	struct gguf_str model, name = { "default", 7 };
	const struct pre_row *row = NULL;
	char printed[40];
	int rc;

	if (!gguf_string(g, "tokenizer.ggml.model", &model))
		return refuse(why, "bad_model", "tokenizer.ggml.model is missing");
	if (model.n == 5 && memcmp(model.data, "llama", 5) == 0)
		return vocab_open(&t->v, g, false, true, why);
	if (model.n != 4 || memcmp(model.data, "gpt2", 4)) {
		gguf_print(model, printed, sizeof printed);
		return refuse(why, "unsupported", "the tokenizer model %s; known: gpt2, llama", printed);
	}
	gguf_string(g, "tokenizer.ggml.pre", &name);
	row = pre_find(name);
	if (!row) {
		gguf_print(name, printed, sizeof printed);
		return pre_unknown((struct gguf_str){ printed, strlen(printed) }, why);
	}
	rc = vocab_open(&t->v, g, true, row->add_bos, why);
	return rc ? rc : bpe_open(&t->bpe, &t->v, g, row, why);
}

int tokenizer_open(struct tokenizer **out, const struct gguf *g, struct reason *why)
{
	struct tokenizer *t = calloc(1, sizeof *t);
	int rc;

	*out = NULL;
	if (!t)
		return ERROR(-ENOMEM);
	rc = tokenizer_read(t, g, why);
	if (rc) {
		tokenizer_close(t);
		return rc;
	}
	*out = t;
	return 0;
}

void tokenizer_close(struct tokenizer *t)
{
	if (!t)
		return;
	bpe_close(t->bpe);
	vocab_close(&t->v);
	free(t);
}

/* ---- special tokens in a text ---- */

struct found {                     /* places where a special token may begin */
	uint32_t *at;
	size_t n;
	int32_t *id;               /* token that begins there, -1: none */
	uint8_t *busy;             /* [length of the text]: inside a special token */
};

static bool may_begin(const struct special_set *set, const uint8_t *p, size_t n)
{
	return set->one[p[0]] || (n > 1 && set->two[(p[0] << 8 | p[1]) >> 3] & 1 << (p[1] & 7));
}

static int found_collect(struct found *f, const struct special_set *set, const char *text, size_t n)
{
	const uint8_t *p = (const uint8_t *)text;
	size_t i, k = 0;

	if (set->n_length == 0)
		return 0;
	for (i = 0; i < n; i++)
		f->n += may_begin(set, p + i, n - i);
	if (f->n == 0)
		return 0;
	f->at = malloc(f->n * sizeof *f->at);
	f->id = malloc(f->n * sizeof *f->id);
	f->busy = calloc(n, 1);
	if (!f->at || !f->id || !f->busy)
		return ERROR(-ENOMEM);
	for (i = 0; i < n; i++)
		if (may_begin(set, p + i, n - i)) {
			f->id[k] = -1;
			f->at[k++] = (uint32_t)i;
		}
	return 0;
}

/* Longest first; what is inside one already found is passed over.  Nothing shorter
 * than what was found can lie around it, so its two ends tell whether it is free. */
static void found_match(struct found *f, const struct vocab *v, const struct special_set *set, const char *text, size_t n)
{
	for (size_t l = 0; l < set->n_length; l++) {
		size_t len = set->lengths[l];

		for (size_t k = 0; k < f->n; k++) {
			size_t at = f->at[k];

			if (n - at < len || f->busy[at] || f->busy[at + len - 1])
				continue;
			f->id[k] = vocab_find(v, text + at, len, set->kinds);
			if (f->id[k] >= 0)
				memset(f->busy + at, 1, len);
		}
	}
}

static void found_free(struct found *f)
{
	free(f->at);
	free(f->id);
	free(f->busy);
}

static int encode_plain(const struct tokenizer *t, const char *text, size_t n, bool prefix, struct ids *out)
{
	if (n == 0)
		return 0;
	return t->bpe ? bpe_encode(t->bpe, text, n, out) : spm_encode(&t->v, text, n, prefix && t->v.add_space_prefix, out);
}

static bool is_blank(char c)
{
	return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The token's own exceptions are those without a turn's meaning. */
static bool strips(const struct vocab *v, int32_t id)
{
	return v->strip_after_special && v->kind[id] & KIND_CONTROL && id != v->bos && id != v->unk &&
	       id != vocab_find(v, "<|endoftext|>", 13, KIND_ANY);
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n, unsigned flags, struct ids *out)
{
	const struct special_set *set = &t->v.special[flags & TOKENIZE_SPECIAL ? 1 : 0];
	struct found f = { 0 };
	bool prefix = flags & TOKENIZE_START;
	size_t at = 0;
	int rc;

	if (n > INT32_MAX / 4)
		return ERROR(-E2BIG);
	rc = found_collect(&f, set, text, n);
	if (rc)
		goto out;
	found_match(&f, &t->v, set, text, n);
	for (size_t k = 0; k < f.n; k++) {
		if (f.id[k] < 0)
			continue;
		if (f.at[k] > at)
			rc = encode_plain(t, text + at, f.at[k] - at, prefix, out);
		if (!rc)
			rc = ids_reserve(out, 1);
		if (rc)
			goto out;
		ids_push(out, f.id[k]);
		at = f.at[k] + t->v.text[f.id[k]].n;
		if (strips(&t->v, f.id[k]))
			while (at < n && is_blank(text[at]))
				at++;
		prefix = true;
	}
	if (at < n)
		rc = encode_plain(t, text + at, n - at, prefix, out);
out:
	found_free(&f);
	return rc;
}

/* ---- what tokens are ---- */

static bool is_id(const struct tokenizer *t, int32_t id)
{
	return id >= 0 && (size_t)id < t->v.n;
}

struct gguf_str tokenizer_piece(const struct tokenizer *t, int32_t id, bool special)
{
	const struct vocab *v = &t->v;

	if (!is_id(t, id) || (!special && v->kind[id] & (KIND_CONTROL | KIND_UNKNOWN)))
		return (struct gguf_str){ "", 0 };
	return (struct gguf_str){ v->piece_data + v->piece_at[id], v->piece_at[id + 1] - v->piece_at[id] };
}

size_t tokenizer_n_vocab(const struct tokenizer *t)
{
	return t->v.n;
}

int32_t tokenizer_bos(const struct tokenizer *t)
{
	return t->v.bos;
}

int32_t tokenizer_eos(const struct tokenizer *t)
{
	return t->v.eos;
}

int32_t tokenizer_sink(const struct tokenizer *t)
{
	return t->v.sink;
}

bool tokenizer_add_bos(const struct tokenizer *t)
{
	return t->v.add_bos;
}

bool tokenizer_is_end(const struct tokenizer *t, int32_t id)
{
	return is_id(t, id) && t->v.kind[id] & KIND_END;
}

bool tokenizer_is_special(const struct tokenizer *t, int32_t id)
{
	return is_id(t, id) && t->v.kind[id] & KIND_SPECIAL;
}

int32_t tokenizer_find(const struct tokenizer *t, const char *spelling)
{
	return vocab_find(&t->v, spelling, strlen(spelling), KIND_ANY);
}

/* ---- cutting ---- */

/* Whether a text may be cut before text[i], 0 < i < n: behind the end of a line, or
 * before the space of a word.  White space that touches more of it is left whole,
 * since expressions and user-defined tokens take runs of it together. */
static bool may_cut(const char *text, size_t n, size_t i, bool line)
{
	if (line)
		return text[i - 1] == '\n' && !is_blank(text[i]) && (i < 2 || !is_blank(text[i - 2]));
	return text[i] == ' ' && !is_blank(text[i - 1]) && i + 1 < n && !is_blank(text[i + 1]);
}

size_t tokenizer_cut(const char *text, size_t n, size_t n_max)
{
	size_t cut;

	if (n <= n_max)
		return n;
	for (int line = 1; line >= 0; line--)
		for (cut = n_max; cut > 0; cut--)
			if (may_cut(text, n, cut, line))
				return cut;
	for (cut = n_max; cut > 1 && n_max - cut < 3 && ((uint8_t)text[cut] & 0xc0) == 0x80; cut--)
		;
	return ((uint8_t)text[cut] & 0xc0) == 0x80 ? n_max : cut;
}
