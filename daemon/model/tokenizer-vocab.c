/*
 * The vocabulary of a GGUF: what each token is, what bytes it stands for, and the
 * token of a text.
 *
 * The one hard idea: a quarter of a million tokens load in tens of milliseconds,
 * because nothing is made per token: texts are views into the mapping, the bytes
 * they stand for lie in one block, and one open-addressed table finds them.
 *
 * It must not believe the file: every length and id is checked, and what does not
 * fit is refused by the name of its key.
 */
#include "daemon/model/tokenizer-parts.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SPECIAL_TEXT_MAX 512u      /* a special token is no longer than this */

/* GGUF's numbers for types, in order. */
static const uint8_t kinds[] = { KIND_NORMAL, KIND_NORMAL, KIND_UNKNOWN, KIND_CONTROL, KIND_USER, KIND_UNUSED, KIND_BYTE };

/* Spellings of tokens that end a generation.  Some converters give them the wrong
 * type; those that cannot be anything else become control tokens (sure).  "</s>" is
 * an HTML tag in Gemma and ends nothing there; but llama.cpp takes it for a control
 * token everywhere, so that it is not looked for in text, and neither do we. */
static const struct { const char *text; bool sure; } ends[] = {
	{ "<|im_end|>", true }, { "<|eot_id|>", true }, { "<|eom_id|>", true }, { "<end_of_turn>", true },
	{ "<turn|>", true }, { "<|end|>", true }, { "<|return|>", true }, { "<|call|>", true },
	{ "<|endoftext|>", true }, { "<|end_of_text|>", true }, { "<|END_OF_TURN_TOKEN|>", true },
	{ "<end_of_utterance>", true }, { "<｜end▁of▁sentence｜>", true }, { "<|fim_pad|>", true },
	{ "<|repo_name|>", true }, { "<|file_sep|>", true }, { "<reponame>", false }, { "<EOT>", true },
	{ "_<EOT>", true }, { "[EOT]", false }, { "[EOS]", false }, { "<eos>", false }, { "</s>", false },
};

size_t byte_spell(uint8_t b, char out[2])
{
	uint32_t c = b;

	if (b <= 32)
		c = 256u + b;
	else if (b >= 127 && b <= 160)
		c = 256u + 33 + (b - 127u);
	else if (b == 173)
		c = 256u + 33 + 34;
	if (c < 128) {
		out[0] = (char)c;
		return 1;
	}
	out[0] = (char)(0xc0 | c >> 6);
	out[1] = (char)(0x80 | (c & 63));
	return 2;
}

/* The byte that the character at the start of a text stands for; its length in n. */
static int byte_read(const char *text, size_t left, size_t *n)
{
	uint32_t c = (uint8_t)text[0];

	*n = 1;
	if (c < 128)
		return c > 32 && c < 127 ? (int)c : -1;
	if (c < 0xc2 || c > 0xc5 || left < 2)
		return -1;
	*n = 2;
	c = (c & 31) << 6 | ((uint8_t)text[1] & 63);
	if (c < 256)
		return c > 160 && c != 173 ? (int)c : -1;
	c -= 256;
	return c <= 32 ? (int)c : c < 33 + 34 ? (int)(c - 33 + 127) : c == 33 + 34 ? 173 : -1;
}

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* "<0x0A>": the byte, or -1. */
static int byte_token(struct gguf_str s)
{
	if (s.n != 6 || memcmp(s.data, "<0x", 3) || s.data[5] != '>' || hex_digit(s.data[3]) < 0 || hex_digit(s.data[4]) < 0)
		return -1;
	return hex_digit(s.data[3]) << 4 | hex_digit(s.data[4]);
}

/* ---- look-up ---- */

int32_t vocab_find(const struct vocab *v, const char *text, size_t n, uint8_t want)
{
	uint64_t h;
	size_t i;

	if (n == 0 || n > v->n_text_max)
		return -1;
	h = XXH3_64bits(text, n);
	if (!(v->seen[(h >> 32 & v->seen_mask) >> 3] & 1 << (h >> 32 & 7)))
		return -1;
	for (i = h & v->slot_mask; v->slots[i].id1; i = (i + 1) & v->slot_mask) {
		uint32_t id = v->slots[i].id1 - 1;

		if (v->slots[i].tag == (uint32_t)(h >> 32) && v->text[id].n == n && v->kind[id] & want &&
		    memcmp(v->text[id].data, text, n) == 0)
			return (int32_t)id;
	}
	return -1;
}

static int slots_fill(struct vocab *v)
{
	size_t size = 16;

	while (size < 2 * v->n)
		size *= 2;
	v->slot_mask = size - 1;
	v->seen_mask = 8 * size - 1;
	v->slots = calloc(size, sizeof *v->slots);
	v->seen = calloc(size, 1);
	if (!v->slots || !v->seen)
		return ERROR(-ENOMEM);
	for (size_t id = 0; id < v->n; id++) {
		uint64_t h = XXH3_64bits(v->text[id].data, v->text[id].n);
		size_t i = h & v->slot_mask;

		if (v->text[id].n == 0)
			continue;
		while (v->slots[i].id1)
			i = (i + 1) & v->slot_mask;
		v->slots[i] = (struct slot){ (uint32_t)(h >> 32), (uint32_t)id + 1 };
		v->seen[(h >> 32 & v->seen_mask) >> 3] |= (uint8_t)(1 << (h >> 32 & 7));
	}
	return 0;
}

/* ---- reading ---- */

static int texts_read(struct vocab *v, const struct gguf *g, struct reason *why)
{
	struct gguf_array a;
	size_t cursor = 0, id, total = 0;

	if (!gguf_array(g, "tokenizer.ggml.tokens", &a) || a.type != 8)
		return refuse(why, "bad_model", "tokenizer.ggml.tokens is missing or not a list of texts");
	if (a.n == 0 || a.n > INT32_MAX / 2)
		return refuse(why, "bad_model", "tokenizer.ggml.tokens has %" PRIu64 " entries", a.n);
	v->n = (size_t)a.n;
	v->text = calloc(v->n, sizeof *v->text);
	v->kind = malloc(v->n);
	v->piece_at = calloc(v->n + 1, sizeof *v->piece_at);
	if (!v->text || !v->kind || !v->piece_at)
		return ERROR(-ENOMEM);
	for (id = 0; id < v->n; id++) {
		if (!gguf_array_next(&a, &cursor, &v->text[id]))
			return refuse(why, "bad_model", "tokenizer.ggml.tokens ends at entry %zu", id);
		if (v->text[id].n > v->n_text_max)
			v->n_text_max = v->text[id].n;
		total += v->text[id].n;
	}
	if (total > UINT32_MAX)
		return refuse(why, "bad_model", "tokenizer.ggml.tokens holds %zu bytes", total);
	v->piece_data = malloc(total + 1);     /* no piece is longer than its text */
	return v->piece_data ? 0 : ERROR(-ENOMEM);
}

static int kinds_read(struct vocab *v, const struct gguf *g, struct reason *why)
{
	struct gguf_array a;
	uint64_t type;

	v->typed = gguf_array(g, "tokenizer.ggml.token_type", &a);
	if (!v->typed) {
		for (size_t i = 0; i < v->n; i++)
			v->kind[i] = !v->byte_level && byte_token(v->text[i]) >= 0 ? KIND_BYTE : KIND_NORMAL;
		return 0;
	}
	if (a.type == 8 || a.n != v->n)
		return refuse(why, "bad_model", "tokenizer.ggml.token_type has %" PRIu64 " entries for %zu tokens", a.n, v->n);
	for (size_t i = 0; i < v->n; i++) {
		if (!gguf_array_u64(&a, i, &type) || type >= sizeof kinds)
			return refuse(why, "bad_model", "tokenizer.ggml.token_type: entry %zu is none of 0 to %zu", i, sizeof kinds - 1);
		v->kind[i] = kinds[type];
	}
	return 0;
}

static int scores_read(struct vocab *v, const struct gguf *g, struct reason *why)
{
	struct gguf_array a;
	double score;

	if (!gguf_array(g, "tokenizer.ggml.scores", &a) || a.type == 8)
		return refuse(why, "bad_model", "tokenizer.ggml.scores is missing or not a list of numbers");
	if (a.n != v->n)
		return refuse(why, "bad_model", "tokenizer.ggml.scores has %" PRIu64 " entries for %zu tokens", a.n, v->n);
	v->score = malloc(v->n * sizeof *v->score);
	if (!v->score)
		return ERROR(-ENOMEM);
	for (size_t i = 0; i < v->n; i++) {
		if (!gguf_array_f64(&a, i, &score) || isnan(score))
			return refuse(why, "bad_model", "tokenizer.ggml.scores: entry %zu is not a number", i);
		v->score[i] = (float)score;
	}
	return 0;
}

/* An id of the file; fallback where it is absent, or said to be none (all ones). */
static int id_read(const struct vocab *v, const struct gguf *g, const char *key, int32_t fallback, int32_t *out,
                   struct reason *why)
{
	uint64_t id;

	*out = fallback >= 0 && (size_t)fallback < v->n ? fallback : -1;
	if (!gguf_u64(g, key, &id))
		return 0;
	if (id == UINT32_MAX) {
		*out = -1;
		return 0;
	}
	if (id >= v->n)
		return refuse(why, "bad_model", "%s is %" PRIu64 ", and there are %zu tokens", key, id, v->n);
	*out = (int32_t)id;
	return 0;
}

/* Which tokens end a generation. */
static void ends_mark(struct vocab *v, const int32_t *ids, size_t n)
{
	int32_t end = vocab_find(v, "<|end|>", 7, KIND_ANY), id;

	for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
		id = vocab_find(v, ends[i].text, strlen(ends[i].text), KIND_ANY);
		if (id < 0)
			continue;
		if (ends[i].sure || v->kind[id] & KIND_CONTROL)
			v->kind[id] = KIND_CONTROL | KIND_END;
		else if (v->kind[id] & KIND_USER)
			v->kind[id] = KIND_UNUSED;
	}
	/* In the harmony format <|end|> closes a message, and the answer goes on. */
	if (end >= 0 && vocab_find(v, "<|return|>", 10, KIND_ANY) >= 0 && vocab_find(v, "<|call|>", 8, KIND_ANY) >= 0)
		v->kind[end] &= (uint8_t)~KIND_END;
	for (size_t i = 0; i < n; i++)
		if (ids[i] >= 0)
			v->kind[ids[i]] |= KIND_END;
}

static int ids_read(struct vocab *v, const struct gguf *g, struct reason *why)
{
	bool llama = !v->byte_level;
	int32_t end[3];
	int rc = id_read(v, g, "tokenizer.ggml.bos_token_id", llama ? 1 : -1, &v->bos, why);

	if (!rc)
		rc = id_read(v, g, "tokenizer.ggml.eos_token_id", llama ? 2 : -1, &v->eos, why);
	if (!rc)
		rc = id_read(v, g, "tokenizer.ggml.unknown_token_id", llama ? 0 : -1, &v->unk, why);
	if (!rc)
		rc = id_read(v, g, "tokenizer.ggml.sink_token_id", -1, &v->sink, why);
	if (!rc)
		rc = id_read(v, g, "tokenizer.ggml.eot_token_id", -1, &end[1], why);
	if (!rc)
		rc = id_read(v, g, "tokenizer.ggml.eom_token_id", -1, &end[2], why);
	if (rc)
		return rc;
	if (!v->typed) {           /* what can be known without types */
		if (v->unk >= 0)
			v->kind[v->unk] = KIND_UNKNOWN;
		if (v->bos >= 0)
			v->kind[v->bos] = KIND_CONTROL;
		if (v->eos >= 0)
			v->kind[v->eos] = KIND_CONTROL;
	}
	end[0] = v->eos;
	ends_mark(v, end, 3);
	gguf_bool(g, "tokenizer.ggml.add_bos_token", &v->add_bos);
	if (llama)
		gguf_bool(g, "tokenizer.ggml.add_space_prefix", &v->add_space_prefix);
	if (v->add_bos && v->bos < 0)
		return refuse(why, "bad_model", "tokenizer.ggml.add_bos_token is true, and there is no bos token");
	return 0;
}

/* ---- pieces ---- */

/* A normal token's bytes; returns how many. */
static size_t piece_decode(const struct vocab *v, struct gguf_str s, char *dst)
{
	size_t i = 0, o = 0, len;
	int b;

	while (i < s.n) {
		if (v->byte_level) {
			b = byte_read(s.data + i, s.n - i, &len);
			dst[o++] = b >= 0 ? (char)b : s.data[i];
			if (b < 0)
				len = 1;
		} else if (s.n - i >= 3 && memcmp(s.data + i, "\xe2\x96\x81", 3) == 0) {
			dst[o++] = ' ';
			len = 3;
		} else {
			dst[o++] = s.data[i];
			len = 1;
		}
		i += len;
	}
	return o;
}

static void pieces_fill(struct vocab *v)
{
	size_t o = 0;

	for (size_t id = 0; id < v->n; id++) {
		struct gguf_str s = v->text[id];
		int b = v->kind[id] & KIND_BYTE ? byte_token(s) : -1;

		v->piece_at[id] = (uint32_t)o;
		if (b >= 0) {
			v->piece_data[o++] = (char)b;
		} else if (v->kind[id] & KIND_SPECIAL) {
			memcpy(v->piece_data + o, s.data, s.n);
			o += s.n;
		} else {
			o += piece_decode(v, s, v->piece_data + o);
		}
	}
	v->piece_at[v->n] = (uint32_t)o;
}

static void bytes_fill(struct vocab *v)
{
	char text[8];

	for (unsigned b = 0; b < 256; b++) {
		if (v->byte_level) {
			v->byte[b] = vocab_find(v, text, byte_spell((uint8_t)b, text), KIND_TEXT);
			continue;
		}
		memcpy(text, "<0x00>", 6);
		text[3] = "0123456789ABCDEF"[b >> 4];
		text[4] = "0123456789ABCDEF"[b & 15];
		v->byte[b] = vocab_find(v, text, 6, KIND_ANY);
	}
}

/* ---- special tokens ---- */

static int length_order(const void *a, const void *b)
{
	return (int)*(const uint16_t *)b - (int)*(const uint16_t *)a;
}

static int special_fill(const struct vocab *v, struct special_set *set, uint8_t want, struct reason *why)
{
	bool seen[SPECIAL_TEXT_MAX + 1] = { false };

	set->kinds = want;
	set->lengths = calloc(SPECIAL_TEXT_MAX, sizeof *set->lengths);
	if (!set->lengths)
		return ERROR(-ENOMEM);
	for (size_t id = 0; id < v->n; id++) {
		struct gguf_str s = v->text[id];
		const uint8_t *p = (const uint8_t *)s.data;

		if (!(v->kind[id] & want) || s.n == 0)
			continue;
		if (s.n > SPECIAL_TEXT_MAX)
			return refuse(why, "bad_model", "token %zu is a special one of %zu bytes", id, s.n);
		if (s.n == 1)
			set->one[p[0]] = 1;
		else
			set->two[(p[0] << 8 | p[1]) >> 3] |= (uint8_t)(1 << (p[1] & 7));
		if (!seen[s.n])
			set->lengths[set->n_length++] = (uint16_t)s.n;
		seen[s.n] = true;
	}
	qsort(set->lengths, set->n_length, sizeof *set->lengths, length_order);
	return 0;
}

/* Phi-3 was trained with white space behind its special tokens eaten, and a GGUF
 * has no key for it: llama.cpp goes by the name, too. */
static bool name_is_phi3(const struct gguf *g)
{
	struct gguf_str s;

	if (!gguf_string(g, "general.name", &s))
		return false;
	for (size_t i = 0; i + 4 <= s.n; i++)
		if (strncasecmp(s.data + i, "phi3", 4) == 0 || (i + 5 <= s.n && strncasecmp(s.data + i, "phi-3", 5) == 0))
			return true;
	return false;
}

int vocab_open(struct vocab *v, const struct gguf *g, bool byte_level, bool add_bos, struct reason *why)
{
	int rc;

	*v = (struct vocab){ .byte_level = byte_level, .add_bos = add_bos, .add_space_prefix = !byte_level };
	rc = texts_read(v, g, why);
	if (!rc)
		rc = kinds_read(v, g, why);
	if (!rc && !byte_level)
		rc = scores_read(v, g, why);
	if (!rc)
		rc = slots_fill(v);
	if (!rc)
		rc = ids_read(v, g, why);
	if (rc)
		return rc;
	pieces_fill(v);
	bytes_fill(v);
	v->strip_after_special = name_is_phi3(g);
	rc = special_fill(v, &v->special[0], KIND_USER, why);
	return rc ? rc : special_fill(v, &v->special[1], KIND_SPECIAL, why);
}

void vocab_close(struct vocab *v)
{
	free(v->text);
	free(v->kind);
	free(v->score);
	free(v->piece_data);
	free(v->piece_at);
	free(v->slots);
	free(v->seen);
	free(v->special[0].lengths);
	free(v->special[1].lengths);
}
