/*
 * Tokenizers: any bytes come back from their ids, merging equals a plain list,
 * and special tokens are found as llama.cpp finds them and never in users' text.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/vocab-make.h"

#define BPE "tests/data/tiny-llama.gguf"
#define SPM "tests/data/tiny-gemma3.gguf"

static uint64_t random_state;

static uint32_t random_below(uint32_t n)
{
	uint64_t z = random_state += 0x9e3779b97f4a7c15u;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
	z = (z ^ z >> 27) * 0x94d049bb133111ebu;
	return (uint32_t)((z ^ z >> 31) >> 32) % n;
}

struct vocabulary {
	struct gguf *g;
	struct tokenizer *t;
};

static struct vocabulary made(const char *path, struct vocab_change c)
{
	struct vocabulary v;

	vocab_make(&v.g, &v.t, test_file(path), &c);
	return v;
}

static void discard(struct vocabulary *v)
{
	tokenizer_close(v->t);
	gguf_close(v->g);
}

static void encode(const struct vocabulary *v, const char *text, size_t n, unsigned flags, struct ids *out)
{
	out->n = 0;
	assert_int_equal(tokenizer_encode(v->t, text, n, flags, out), 0);
}

/* ids as "piece|piece|", special ones spelled. */
static const char *spelt(const struct vocabulary *v, const char *text, unsigned flags)
{
	static char s[1024];
	struct ids ids = { 0 };
	size_t n = 0;

	encode(v, text, strlen(text), flags, &ids);
	for (size_t i = 0; i < ids.n; i++) {
		struct gguf_str p = tokenizer_piece(v->t, ids.data[i], true);

		assert_true(n + p.n + 2 < sizeof s);
		memcpy(s + n, p.data, p.n);
		n += p.n;
		s[n++] = '|';
	}
	s[n] = 0;
	ids_free(&ids);
	return s;
}

/* ---- any bytes ---- */

/* A text of whatever makes trouble. */
static size_t hostile(char *s, size_t most)
{
	static const char *const parts[] = {
		" ", "  ", "\n", "\n\n", "\r\n", "\t", "the", " the cat", "'s", "don't", "123", "4", "é", "世", "界", "👨‍👩‍👧", "\xcc\x81",
		"<|im_start|>", "<|im_end|>", "<start_of_turn>", "<0x0A>", "<unk>", "\xff", "\xc3", "\xe4\xb8", "\xed\xa0\x80", "\xf0\x9f\x98",
		"\xf4\x90\x80\x80", "\xc0\x80", "\xfe\xff", "\x80", "\xe2\x80\xa8", "\xc2\xa0", "!?", "...", "ab", "bcd", "\x7f",
	};
	size_t n = 0, k;

	if (random_below(4) == 0) {
		n = random_below((uint32_t)most);
		for (k = 0; k < n; k++)
			s[k] = (char)random_below(256);
		return n;
	}
	for (uint32_t i = random_below(12); i; i--) {
		const char *p = parts[random_below(sizeof parts / sizeof parts[0])];

		k = strlen(p);
		if (n + k > most)
			break;
		memcpy(s + n, p, k);
		n += k;
		if (random_below(16) == 0 && n < most)
			s[n++] = 0;
	}
	return n;
}

static void round_trips(struct vocabulary v, unsigned n_text, const char *const *never)
{
	char text[64], back[256];
	struct ids ids = { 0 };

	random_state = 7;
	for (unsigned i = 0; i < n_text; i++) {
		size_t n = hostile(text, sizeof text), k = 0;

		encode(&v, text, n, 0, &ids);
		assert_true(ids.n <= n);
		for (size_t j = 0; j < ids.n; j++) {
			struct gguf_str p = tokenizer_piece(v.t, ids.data[j], false);

			assert_true(k + p.n <= sizeof back);
			memcpy(back + k, p.data, p.n);
			k += p.n;
			for (size_t m = 0; never[m]; m++)
				assert_int_not_equal(ids.data[j], tokenizer_find(v.t, never[m]));
		}
		assert_int_equal(k, n);
		assert_memory_equal(back, text, n);
	}
	ids_free(&ids);
	discard(&v);
}

static void test_round_trip(void **state)
{
	static const char *const bpe[] = { "<|im_start|>", "<|im_end|>", "<|endoftext|>", NULL };
	static const char *const spm[] = { "<start_of_turn>", "<end_of_turn>", "<unk>", "<bos>", NULL };

	(void)state;
	round_trips(made(BPE, (struct vocab_change){ .user = { "ab", "bcd", "\n\n" } }), 50000, bpe);
	round_trips(made(SPM, (struct vocab_change){ .user = { "  ", "\n\n", "ab" } }), 50000, spm);
}

/* Bytes that are not UTF-8 are byte tokens, one each, and part nothing else. */
static void test_invalid(void **state)
{
	struct vocabulary v = made(SPM, (struct vocab_change){ 0 });

	(void)state;
	assert_string_equal(spelt(&v, "the\xff\xc3 the", 0), "t|h|e|\xff|\xc3| the|");
	assert_int_equal(tokenizer_piece(v.t, tokenizer_find(v.t, "<0xFF>"), false).n, 1);
	discard(&v);
	v = made(BPE, (struct vocab_change){ 0 });
	assert_string_equal(spelt(&v, " the\xff the\xe4\xb8", 0), " the|\xff| the|\xe4|\xb8|");
	discard(&v);
}

/* ---- merging ---- */

struct pair { char left[64], right[64]; };

/* The plain way: the texts of the symbols, and the list of merges searched for the
 * first that fits, leftmost; again and again. */
static size_t merge_plainly(const struct pair *pairs, size_t n_pair, char (*symbols)[64], size_t n)
{
	for (;;) {
		size_t best = n_pair, at = 0;

		for (size_t i = 0; i + 1 < n; i++)
			for (size_t k = 0; k < best; k++)
				if (!strcmp(pairs[k].left, symbols[i]) && !strcmp(pairs[k].right, symbols[i + 1])) {
					best = k;
					at = i;
				}
		if (best == n_pair)
			return n;
		memcpy(symbols[at] + strlen(symbols[at]), symbols[at + 1], strlen(symbols[at + 1]) + 1);
		memmove(symbols[at + 1], symbols[at + 2], (n - at - 2) * sizeof *symbols);
		n--;
	}
}

static void test_merges(void **state)
{
	struct vocabulary v = made(BPE, (struct vocab_change){ 0 });
	char (*symbols)[64] = calloc(128, sizeof *symbols);
	struct ids ids = { 0 };
	struct gguf_array a;
	struct gguf_str s;
	struct pair *pairs;
	size_t cursor = 0, n_merged = 0;

	(void)state;
	assert_true(gguf_array(v.g, "tokenizer.ggml.merges", &a));
	pairs = calloc(a.n, sizeof *pairs);
	for (uint64_t i = 0; i < a.n && gguf_array_next(&a, &cursor, &s); i++) {
		const char *cut = memchr(s.data, ' ', s.n);

		memcpy(pairs[i].left, s.data, (size_t)(cut - s.data));
		memcpy(pairs[i].right, cut + 1, s.n - (size_t)(cut - s.data) - 1);
	}
	random_state = 11;
	for (int round = 0; round < 500; round++) {
		char word[64] = "";
		size_t n = 1 + random_below(40), n_symbol;

		/* Letters of the merges, so that much merges; one word for the pre-tokenizer. */
		for (size_t i = 0; i < n; i++)
			word[i] = "theandiorswlcag"[random_below(15)];
		for (size_t i = 0; i < n; i++) {
			symbols[i][0] = word[i];
			symbols[i][1] = 0;
		}
		n_symbol = merge_plainly(pairs, a.n, symbols, n);
		n_merged += n - n_symbol;
		encode(&v, word, n, 0, &ids);
		assert_int_equal(ids.n, n_symbol);
		for (size_t i = 0; i < n_symbol; i++)
			assert_int_equal(ids.data[i], tokenizer_find(v.t, symbols[i]));
	}
	assert_true(n_merged > 500);
	free(pairs);
	free(symbols);
	ids_free(&ids);
	discard(&v);
}

/* Runs that make a quadratic loop take minutes; they must just come back whole. */
static void test_long(void **state)
{
	static const char *const parts[] = { "a", "the", " ", "\n", "\xff", "世", "1", " the cat sat", "a\xff", "\xe4\xb8" };
	enum { N = 1 << 18 };
	char *text = malloc(N);
	struct ids ids = { 0 };

	(void)state;
	for (int spm = 0; spm < 2; spm++) {
		struct vocabulary v = made(spm ? SPM : BPE, (struct vocab_change){ .user = { "  ", "\n\n" } });

		for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
			size_t k = strlen(parts[i]), n = N / k * k, total = 0;

			for (size_t at = 0; at < n; at += k)
				memcpy(text + at, parts[i], k);
			encode(&v, text, n, 0, &ids);
			for (size_t j = 0; j < ids.n; j++)
				total += tokenizer_piece(v.t, ids.data[j], false).n;
			assert_int_equal(total, n);
		}
		discard(&v);
	}
	free(text);
	ids_free(&ids);
}

/* ---- special tokens ---- */

static void test_special(void **state)
{
	struct vocabulary v = made(BPE, (struct vocab_change){ .user = { "ab", "bcd", "xyxy", "yx" }, .control = { "<|end|>" } });

	(void)state;
	/* Control tokens: parsed where asked for, text otherwise. */
	assert_string_equal(spelt(&v, "<|im_start|>the<|im_end|>", TOKENIZE_SPECIAL), "<|im_start|>|t|h|e|<|im_end|>|");
	assert_null(strstr(spelt(&v, "<|im_start|>the", 0), "<|im_start|>|"));
	/* User-defined ones: always, the longest first wherever it stands. */
	assert_string_equal(spelt(&v, "abcd", 0), "a|bcd|");
	assert_string_equal(spelt(&v, "abab", 0), "ab|ab|");
	assert_string_equal(spelt(&v, "yxyxyx", 0), "y|xyxy|x|");
	assert_string_equal(spelt(&v, "zxyxyxz", 0), "z|xyxy|x|z|");
	assert_true(tokenizer_is_special(v.t, tokenizer_find(v.t, "bcd")));
	assert_false(tokenizer_is_special(v.t, tokenizer_find(v.t, "he")));
	/* No way of merging makes a control token. */
	discard(&v);
	v = made(SPM, (struct vocab_change){ .control = { "<x", "zq" } });
	assert_string_equal(spelt(&v, "<xzq", 0), "<|x|z|q|");
	discard(&v);
	v = made(BPE, (struct vocab_change){ .pre = "llama-bpe", .control = { "zq", "<|end|>" }, .user = { "bcd" } });
	assert_string_equal(spelt(&v, "zq", 0), "z|q|");
	/* Ends of a generation: the model's, and known spellings. */
	assert_true(tokenizer_is_end(v.t, tokenizer_find(v.t, "<|im_end|>")));
	assert_true(tokenizer_is_end(v.t, tokenizer_find(v.t, "<|end|>")));
	assert_false(tokenizer_is_end(v.t, tokenizer_find(v.t, "<|im_start|>")));
	assert_false(tokenizer_is_end(v.t, -1));
	assert_false(tokenizer_is_end(v.t, 1 << 30));
	assert_int_equal(tokenizer_find(v.t, "no such token"), -1);
	/* A control token stands for nothing in a transcript. */
	assert_int_equal(tokenizer_piece(v.t, tokenizer_find(v.t, "<|im_end|>"), false).n, 0);
	assert_int_equal(tokenizer_piece(v.t, -1, true).n, 0);
	discard(&v);
}

static void test_space_prefix(void **state)
{
	struct vocabulary v = made(SPM, (struct vocab_change){ .space_prefix = true, .user = { "##" } });

	(void)state;
	assert_string_equal(spelt(&v, "the", TOKENIZE_START), " the|");
	assert_string_equal(spelt(&v, "the", 0), "t|h|e|");
	/* Behind any special token, as at the start. */
	assert_string_equal(spelt(&v, "the##the", 0), "t|h|e|##| the|");
	assert_string_equal(spelt(&v, "<start_of_turn>the", TOKENIZE_SPECIAL), "<start_of_turn>| the|");
	discard(&v);
	v = made(SPM, (struct vocab_change){ 0 });
	assert_string_equal(spelt(&v, "the", TOKENIZE_START), "t|h|e|");
	discard(&v);
}

/* Every row of the table compiles and splits, losing nothing. */
static void test_pre(void **state)
{
	const char text[] = "It's 12345 o'clock, I'M HERE\r\n\n  and thére 世界 \t x=1;\n\u180e\u00a0y '\u017f Straße 한국어";
	struct ids ids = { 0 };
	const char *name;
	size_t i = 0;

	(void)state;
	for (; (name = tokenizer_pre_at(i)); i++) {
		struct vocabulary v = made(BPE, (struct vocab_change){ .pre = name });
		size_t n = 0;

		encode(&v, text, strlen(text), 0, &ids);
		for (size_t k = 0; k < ids.n; k++) {
			struct gguf_str p = tokenizer_piece(v.t, ids.data[k], false);

			assert_memory_equal(p.data, text + n, p.n);
			n += p.n;
		}
		assert_int_equal(n, strlen(text));
		discard(&v);
	}
	assert_true(i > 40);
	ids_free(&ids);
}

/* ---- cutting ---- */

static void test_cut(void **state)
{
	char text[200];

	(void)state;
	assert_int_equal(tokenizer_cut("abc", 3, 3), 3);
	assert_int_equal(tokenizer_cut("a\nb c", 5, 4), 2);
	assert_int_equal(tokenizer_cut("ab cd", 5, 3), 2);
	assert_int_equal(tokenizer_cut("ab cd", 5, 4), 2);
	/* Not inside a run of white space, where there is another place. */
	assert_int_equal(tokenizer_cut("a b\n\n  c", 8, 6), 1);
	assert_int_equal(tokenizer_cut("ab世界", 8, 7), 5);
	assert_int_equal(tokenizer_cut("世", 3, 2), 2);        /* less than a character: as much as may be */
	random_state = 3;
	for (int i = 0; i < 20000; i++) {
		size_t n = hostile(text, sizeof text), most = 1 + random_below(40), cut;

		if (n == 0)
			continue;
		cut = tokenizer_cut(text, n, most);
		assert_in_range(cut, 1, most < n ? most : n);
		if (n <= most)
			assert_int_equal(cut, n);
	}
}

/* Both halves tokenize as the whole where the cut is at a line or a word. */
static void test_cut_ids(void **state)
{
	static const char text[] = "the cat sat on the mat\nand the dog ran after the cat through the garden\nuntil the rain came down there was";
	struct ids whole = { 0 }, parts = { 0 };

	(void)state;
	for (int spm = 0; spm < 2; spm++) {
		struct vocabulary v = made(spm ? SPM : BPE, (struct vocab_change){ 0 });

		encode(&v, text, strlen(text), 0, &whole);
		for (size_t most = 24; most < 60; most++) {
			parts.n = 0;
			for (size_t at = 0, n; at < strlen(text); at += n) {
				n = tokenizer_cut(text + at, strlen(text) - at, most);
				assert_int_equal(tokenizer_encode(v.t, text + at, n, 0, &parts), 0);
			}
			assert_int_equal(parts.n, whole.n);
			assert_memory_equal(parts.data, whole.data, whole.n * sizeof *whole.data);
		}
		discard(&v);
	}
	ids_free(&whole);
	ids_free(&parts);
}

/* ---- vocabularies made here ---- */

/* Without types, byte tokens and the named ids are told by what they are. */
static void test_untyped(void **state)
{
	static const char *const tokens[] = { "<unk>", "<s>", "</s>", "<0x0A>", "a", "\xe2\x96\x81", NULL };
	struct vocabulary v;
	struct reason why;
	struct make m;

	(void)state;
	make_begin(&m, 3);
	make_key_string(&m, "tokenizer.ggml.model", "llama");
	vocab_list(&m, "tokenizer.ggml.tokens", tokens);
	vocab_numbers(&m, "tokenizer.ggml.scores", 6, 6, 0);
	make_counts(&m);
	assert_int_equal(make_open(&v.g, m.data, m.n, &why), 0);
	assert_int_equal(tokenizer_open(&v.t, v.g, &why), 0);
	assert_string_equal(spelt(&v, "a\n a", TOKENIZE_START), " |a|\n| |a|");
	assert_string_equal(spelt(&v, "</s>", TOKENIZE_SPECIAL), "</s>|");
	assert_string_equal(spelt(&v, "b", 0), "<unk>|");      /* neither a token nor a byte's */
	assert_true(tokenizer_is_end(v.t, 2));
	assert_int_equal(tokenizer_piece(v.t, 2, false).n, 0);
	assert_int_equal(tokenizer_bos(v.t), 1);
	assert_int_equal(tokenizer_eos(v.t), 2);
	assert_true(tokenizer_add_bos(v.t));
	assert_int_equal(tokenizer_n_vocab(v.t), 6);
	make_free(&m);
	discard(&v);
}

/* Of a merge that is there twice the first counts. */
static void test_twice(void **state)
{
	static const char *const tokens[] = { "a", "b", "c", "ab", "bc", NULL };
	static const char *const merges[] = { "a b", "b c", "a b", NULL };
	struct vocabulary v;
	struct reason why;
	struct make m;

	(void)state;
	make_begin(&m, 3);
	make_key_string(&m, "tokenizer.ggml.model", "gpt2");
	make_key_string(&m, "tokenizer.ggml.pre", "gpt-2");
	vocab_list(&m, "tokenizer.ggml.tokens", tokens);
	vocab_list(&m, "tokenizer.ggml.merges", merges);
	make_counts(&m);
	assert_int_equal(make_open(&v.g, m.data, m.n, &why), 0);
	assert_int_equal(tokenizer_open(&v.t, v.g, &why), 0);
	assert_string_equal(spelt(&v, "abc", 0), "ab|c|");
	make_free(&m);
	discard(&v);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_invalid), cmocka_unit_test(test_merges),
		cmocka_unit_test(test_long), cmocka_unit_test(test_special), cmocka_unit_test(test_space_prefix),
		cmocka_unit_test(test_pre), cmocka_unit_test(test_cut), cmocka_unit_test(test_cut_ids),
		cmocka_unit_test(test_untyped), cmocka_unit_test(test_twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
