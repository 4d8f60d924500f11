/*
 * Golden: 250 lines of hostile text against the ids of HuggingFace's tokenizers
 * (SmolLM2) and llama.cpp (Gemma 3), on the real vocabularies; and the pieces of the
 * ids are the text again, but for what a vocabulary cannot say.  Every pre-tokenizer
 * of the table: the hash of the ids that the two give with SmolLM2's vocabulary
 * (tokenizer-pre.txt).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/golden/rig.h"
#include "tests/unit/vocab-make.h"

struct line {
	char *text;
	size_t n;
	int32_t ids[8192];
	size_t n_id;
};

static int hex(char c)
{
	return c <= '9' ? c - '0' : c - 'a' + 10;
}

/* Reads "hex TAB ids NEWLINE" at p; returns what follows. */
static const char *line_read(const char *p, struct line *l)
{
	const char *tab = strchr(p, '\t');
	char *end;

	if (!tab || (tab - p) % 2)
		abort();
	l->n = (size_t)(tab - p) / 2;
	l->text = malloc(l->n + 1);
	for (size_t i = 0; i < l->n; i++)
		l->text[i] = (char)(hex(p[2 * i]) << 4 | hex(p[2 * i + 1]));
	for (l->n_id = 0, p = tab + 1; *p != '\n'; p = *end == ' ' ? end + 1 : end)
		l->ids[l->n_id++] = (int32_t)strtol(p, &end, 10);
	return p + 1;
}

/* Whether a byte-level vocabulary has a token for the byte, looked up under its
 * letter: control characters stand at U+0100, Latin letters for themselves. */
static bool has_byte(const struct tokenizer *t, uint8_t b)
{
	unsigned c = b <= 32 ? 256u + b : b;
	char letter[3] = { (char)(0xc0 | c >> 6), (char)(0x80 | (c & 63)) };

	return (b > 32 && b < 0xc0) || tokenizer_find(t, letter) >= 0;
}

/* What the ids say of the text: bytes without a token are left out, and
 * SentencePiece reads U+2581 as a space. */
static size_t expected(const struct tokenizer *t, bool spm, const struct line *l, char *dst)
{
	size_t n = 0;

	for (size_t i = 0; i < l->n; i++) {
		if (spm && l->n - i >= 3 && memcmp(l->text + i, "\xe2\x96\x81", 3) == 0) {
			dst[n++] = ' ';
			i += 2;
		} else if (spm || has_byte(t, (uint8_t)l->text[i])) {
			dst[n++] = l->text[i];
		}
	}
	return n;
}

static bool same_text(const struct tokenizer *t, bool spm, const struct line *l, const struct ids *ids)
{
	char *want = malloc(l->n + 1), *got = malloc(l->n + 64);
	size_t n = expected(t, spm, l, want), k = 0;
	bool same;

	for (size_t i = 0; i < ids->n; i++) {
		struct gguf_str s = tokenizer_piece(t, ids->data[i], false);

		if (s.n > l->n + 64 - k)
			break;
		memcpy(got + k, s.data, s.n);
		k += s.n;
	}
	same = k == n && memcmp(want, got, n) == 0;
	if (!same && l->n < 80)
		printf("       text is not itself: \"%s\"\n", l->text);
	free(want);
	free(got);
	return same;
}

static void replay(const char *model, const char *folder, const char *name, bool spm)
{
	static struct line l;
	size_t n = 0, n_same = 0, n_text = 0;
	struct tokenizer *t;
	struct reason why;
	struct gguf *g;
	char *file = file_read(folder, name);
	const char *p = file;

	if (gguf_open(&g, model, &why) || tokenizer_open(&t, g, &why)) {
		check(false, "%s: %s", model, why.text);
		exit(1);
	}
	while (*p == '#')
		p = strchr(p, '\n') + 1;
	for (; *p; n++) {
		struct ids ids = { 0 };
		bool same;

		p = line_read(p, &l);
		if (tokenizer_encode(t, l.text, l.n, TOKENIZE_START, &ids))
			abort();
		same = ids.n == l.n_id && (ids.n == 0 || memcmp(ids.data, l.ids, ids.n * sizeof *l.ids) == 0);
		if (!same) {
			printf("       line %zu (%zu bytes):", n, l.n);
			for (size_t i = 0; i < ids.n && i < 24; i++)
				printf(" %d%s", ids.data[i], i < l.n_id && ids.data[i] == l.ids[i] ? "" : "!");
			printf("\n");
		}
		n_same += same;
		n_text += same_text(t, spm, &l, &ids);
		ids_free(&ids);
		free(l.text);
	}
	check(n >= 200 && n_same == n, "%s: the ids of %zu lines of %zu", name, n_same, n);
	check(n_text == n, "%s: the text of %zu lines of %zu", name, n_text, n);
	tokenizer_close(t);
	gguf_close(g);
	free(file);
}

/* ---- pre-tokenizers ---- */

static uint64_t hash_id(uint64_t h, int32_t id)
{
	for (int i = 0; i < 4; i++)
		h = (h ^ ((uint32_t)id >> 8 * i & 255)) * 0x100000001b3u;
	return h;
}

static uint64_t pre_hash(const char *model, const char *pre, const char *p)
{
	const struct vocab_change change = { .pre = pre };
	static struct line l;
	uint64_t h = 0xcbf29ce484222325u;
	struct tokenizer *t;
	struct gguf *g;

	vocab_make(&g, &t, model, &change);
	while (*p) {
		struct ids ids = { 0 };

		p = line_read(p, &l);
		if (!memchr(l.text, 4, l.n)) {
			if (tokenizer_encode(t, l.text, l.n, 0, &ids))
				abort();
			for (size_t i = 0; i < ids.n; i++)
				h = hash_id(h, ids.data[i]);
			h = hash_id(h, -1);
		}
		ids_free(&ids);
		free(l.text);
	}
	tokenizer_close(t);
	gguf_close(g);
	return h;
}

static void replay_pre(const char *model, const char *folder)
{
	char *file = file_read(folder, "tokenizer-pre.txt"), *texts = file_read(folder, "tokenizer-smollm2.txt"), *end;
	const char *first = texts, *name;
	size_t n = 0, n_same = 0, n_known = 0;

	while (*first == '#')
		first = strchr(first, '\n') + 1;
	for (char *line = strtok_r(file, "\n", &end); line; line = strtok_r(NULL, "\n", &end)) {
		char *tab = strchr(line, '\t');

		if (*line == '#')
			continue;
		*tab = 0;
		n++;
		if (pre_hash(model, line, first) == strtoull(tab + 1, NULL, 16))
			n_same++;
		else
			printf("       %s\n", line);
	}
	while ((name = tokenizer_pre_at(n_known)))
		n_known++;
	check(n_same == n && n == n_known, "tokenizer-pre.txt: %zu of %zu pre-tokenizers, %zu known", n_same, n, n_known);
	free(file);
	free(texts);
}

int main(void)
{
	static const struct { const char *variable, *file, *golden; bool spm; } models[] = {
		{ "SINKD_SMALL_MODEL", "SmolLM2-135M-Instruct.Q4_1.gguf", "tokenizer-smollm2.txt", false },
		{ "SINKD_GEMMA_MODEL", "gemma-3-270m-q4_k_m.gguf", "tokenizer-gemma3.txt", true },
	};
	const char *top = getenv("srcdir"), *path;
	char folder[2048];
	int n = 0;

	snprintf(folder, sizeof folder, "%s/tests/golden", top ? top : ".");
	for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
		path = model_path(models[i].variable, models[i].file);
		if (!path) {
			printf("skip   %s is not here; tools/fetch-model brings it\n", models[i].file);
			continue;
		}
		replay(path, folder, models[i].golden, models[i].spm);
		if (i == 0)
			replay_pre(path, folder);
		n++;
	}
	return n ? check_status() : 77;
}
