/*
 * Hostile vocabularies are refused by name, and damaged ones are refused or opened, never
 * anything else.
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

struct wrong {
	const char *says;              /* in the reason */
	const char *name;
	const char *model, *pre;       /* NULL: no such key */
	const char *const *tokens;     /* NULL: no such key */
	const char *const *merges;
	int n_type, n_score;           /* -1: no such key */
	uint32_t type, score;
	uint32_t bos;
};

static const char *const abc[] = { "a", "b", "ab", "", NULL };
static const char *const merge_ab[] = { "a b", NULL };
static const char *const merge_none[] = { "ab", NULL };
static const char *const merge_end[] = { "a ", NULL };
static const char *const merge_other[] = { "x y", "y z", NULL };
static const char *const nothing[] = { NULL };

static const struct wrong wrongs[] = {
	{ "tokenizer.ggml.model is missing", "bad_model", NULL, NULL, abc, merge_ab, 4, 4, 1, 0, 0 },
	{ "the tokenizer model bert", "unsupported", "bert", NULL, abc, merge_ab, 4, 4, 1, 0, 0 },
	{ "the pre-tokenizer nosuch; known: default, smollm", "unsupported", "gpt2", "nosuch", abc, merge_ab, 4, 4, 1, 0, 0 },
	{ "the pre-tokenizer ?x", "unsupported", "gpt2", "\nx", abc, merge_ab, 4, 4, 1, 0, 0 },
	{ "tokenizer.ggml.tokens is missing", "bad_model", "gpt2", "gpt-2", NULL, merge_ab, 4, 4, 1, 0, 0 },
	{ "tokenizer.ggml.tokens has 0", "bad_model", "gpt2", "gpt-2", nothing, merge_ab, 0, 0, 1, 0, 0 },
	{ "token_type has 3 entries for 4", "bad_model", "gpt2", "gpt-2", abc, merge_ab, 3, 4, 1, 0, 0 },
	{ "token_type has 5 entries for 4", "bad_model", "llama", NULL, abc, merge_ab, 5, 4, 1, 0, 0 },
	{ "token_type: entry 0", "bad_model", "gpt2", "gpt-2", abc, merge_ab, 4, 4, 7, 0, 0 },
	{ "token_type: entry 0", "bad_model", "gpt2", "gpt-2", abc, merge_ab, 4, 4, 0xffffffff, 0, 0 },
	{ "merges is missing", "bad_model", "gpt2", "gpt-2", abc, NULL, 4, 4, 1, 0, 0 },
	{ "merges: entry 0", "bad_model", "gpt2", "gpt-2", abc, merge_none, 4, 4, 1, 0, 0 },
	{ "merges: entry 0", "bad_model", "gpt2", "gpt-2", abc, merge_end, 4, 4, 1, 0, 0 },
	{ "merges: only 0 of 2", "bad_model", "gpt2", "gpt-2", abc, merge_other, 4, 4, 1, 0, 0 },
	{ "scores is missing", "bad_model", "llama", NULL, abc, merge_ab, 4, -1, 1, 0, 0 },
	{ "scores has 2 entries for 4", "bad_model", "llama", NULL, abc, merge_ab, 4, 2, 1, 0, 0 },
	{ "scores: entry 0", "bad_model", "llama", NULL, abc, merge_ab, 4, 4, 1, 0x7fc00000, 0 },
	{ "bos_token_id is 4", "bad_model", "gpt2", "gpt-2", abc, merge_ab, 4, 4, 1, 0, 4 },
	{ "bos_token_id is 4294967294", "bad_model", "llama", NULL, abc, merge_ab, 4, 4, 1, 0, 0xfffffffe },
	{ "there is no bos token", "bad_model", "llama", NULL, abc, merge_ab, 4, 4, 1, 0, 0xffffffff },
	/* And these are right: the frame of the wrong ones, without types, an empty token. */
	{ NULL, NULL, "gpt2", "gpt-2", abc, merge_ab, 4, 4, 1, 0, 0 },
	{ NULL, NULL, "llama", NULL, abc, merge_ab, -1, 4, 1, 0, 3 },
	{ NULL, NULL, "gpt2", NULL, abc, merge_ab, -1, -1, 1, 0, 0xffffffff },
};

static void test_hostile(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof wrongs / sizeof wrongs[0]; i++) {
		const struct wrong *w = &wrongs[i];
		struct reason why = { "", "" };
		struct tokenizer *t = NULL;
		struct ids ids = { 0 };
		struct gguf *g;
		struct make m;

		make_begin(&m, 3);
		if (w->model)
			make_key_string(&m, "tokenizer.ggml.model", w->model);
		if (w->pre)
			make_key_string(&m, "tokenizer.ggml.pre", w->pre);
		vocab_list(&m, "tokenizer.ggml.tokens", w->tokens);
		vocab_list(&m, "tokenizer.ggml.merges", w->merges);
		vocab_numbers(&m, "tokenizer.ggml.token_type", 5, w->n_type, w->type);
		vocab_numbers(&m, "tokenizer.ggml.scores", 6, w->n_score, w->score);
		make_key_u32(&m, "tokenizer.ggml.bos_token_id", w->bos);
		make_counts(&m);
		assert_int_equal(make_open(&g, m.data, m.n, &why), 0);
		if (w->says) {
			assert_int_equal(tokenizer_open(&t, g, &why), REFUSED);
			assert_null(t);
			assert_string_equal(why.name, w->name);
			if (!strstr(why.text, w->says))
				fail_msg("%s: %s", w->says, why.text);
		} else {
			if (tokenizer_open(&t, g, &why))
				fail_msg("%zu: %s", i, why.text);
			/* Bytes without a token, an empty token, no unknown token: nothing breaks. */
			assert_int_equal(tokenizer_encode(t, "ab\xff z", 5, TOKENIZE_SPECIAL | TOKENIZE_START, &ids), 0);
			assert_true(ids.n >= 1);
			for (int32_t id = 0; id < 4; id++)
				assert_true(tokenizer_piece(t, id, true).n <= 2);
		}
		ids_free(&ids);
		tokenizer_close(t);
		gguf_close(g);
		make_free(&m);
	}
}

/* A special token too long to be one, and each bit of a whole vocabulary turned: refused
 * or opened, never anything else. */
static void test_damaged(void **state)
{
	char *text = calloc(1, 700);
	const char *tokens[] = { "a", text, NULL };
	struct make m;

	(void)state;
	memset(text, 'x', 600);
	make_begin(&m, 3);
	make_key_string(&m, "tokenizer.ggml.model", "gpt2");
	vocab_list(&m, "tokenizer.ggml.tokens", tokens);
	vocab_list(&m, "tokenizer.ggml.merges", nothing);
	vocab_numbers(&m, "tokenizer.ggml.token_type", 5, 2, 3);
	make_counts(&m);
	for (size_t i = 0; i <= m.n * 8; i++) {
		const uint8_t bit = (uint8_t)(1 << i % 8);
		uint8_t *at = i ? &m.data[(i - 1) / 8] : NULL;
		struct reason why = { "", "" };
		struct tokenizer *t = NULL;
		struct ids ids = { 0 };
		struct gguf *g = NULL;

		if (at)
			*at ^= bit;
		if (make_open(&g, m.data, m.n, &why) == 0 && tokenizer_open(&t, g, &why) == 0)
			assert_int_equal(tokenizer_encode(t, "aaxx", 4, TOKENIZE_SPECIAL, &ids), 0);
		else
			assert_true(why.name[0]);
		if (!at)
			assert_non_null(strstr(why.text, "token 1 is a special one of 600 bytes"));
		ids_free(&ids);
		tokenizer_close(t);
		gguf_close(g);
		if (at)
			*at ^= bit;
	}
	make_free(&m);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_hostile), cmocka_unit_test(test_damaged),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
