/* See vocab-make.h. */
#include "tests/unit/vocab-make.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { T_I32 = 5, T_F32 = 6, T_BOOL = 7, T_STRING = 8, T_LIST = 9 };

const char *test_file(const char *path)
{
	static char full[2048];
	const char *top = getenv("srcdir");

	snprintf(full, sizeof full, "%s/%s", top ? top : ".", path);
	return full;
}

static void list_begin(struct make *m, const char *key, uint32_t type, uint64_t n)
{
	make_key(m, key, T_LIST);
	make_u32(m, type);
	make_u64(m, n);
}

void vocab_list(struct make *m, const char *key, const char *const *list)
{
	uint64_t n = 0;

	if (!list)
		return;
	while (list[n])
		n++;
	list_begin(m, key, T_STRING, n);
	for (uint64_t i = 0; i < n; i++)
		make_string(m, list[i]);
}

void vocab_numbers(struct make *m, const char *key, uint32_t type, int n, uint32_t value)
{
	if (n < 0)
		return;
	list_begin(m, key, type, (uint64_t)n);
	for (int i = 0; i < n; i++)
		make_u32(m, value);
}

static void string_copy(struct make *m, struct gguf_str s)
{
	char text[512];

	if (s.n >= sizeof text || memchr(s.data, 0, s.n))
		abort();
	memcpy(text, s.data, s.n);
	text[s.n] = 0;
	make_string(m, text);
}

static size_t count(const char *const *list, size_t most)
{
	size_t n = 0;

	while (n < most && list[n])
		n++;
	return n;
}

static void tokens_copy(struct make *m, const struct gguf *g, const struct vocab_change *c, uint32_t *eos)
{
	size_t n_control = count(c->control, 24), n_user = count(c->user, 8), cursor = 0;
	struct gguf_array a, types;
	struct gguf_str s;
	uint64_t i, type;

	if (!gguf_array(g, "tokenizer.ggml.tokens", &a) || !gguf_array(g, "tokenizer.ggml.token_type", &types))
		abort();
	list_begin(m, "tokenizer.ggml.tokens", T_STRING, a.n + n_control + n_user);
	for (i = 0; i < a.n && gguf_array_next(&a, &cursor, &s); i++) {
		string_copy(m, s);
		if (c->eos && strlen(c->eos) == s.n && memcmp(c->eos, s.data, s.n) == 0)
			*eos = (uint32_t)i;
	}
	for (i = 0; i < n_control; i++) {
		make_string(m, c->control[i]);
		if (c->eos && strcmp(c->eos, c->control[i]) == 0)
			*eos = (uint32_t)(a.n + i);
	}
	for (i = 0; i < n_user; i++)
		make_string(m, c->user[i]);
	list_begin(m, "tokenizer.ggml.token_type", T_I32, a.n + n_control + n_user);
	for (i = 0; i < a.n && gguf_array_u64(&types, i, &type); i++)
		make_u32(m, (uint32_t)type);
	for (i = 0; i < n_control + n_user; i++)
		make_u32(m, i < n_control ? 3 : 4);
	if (!gguf_array(g, "tokenizer.ggml.scores", &a))
		return;
	list_begin(m, "tokenizer.ggml.scores", T_F32, a.n + n_control + n_user);
	for (i = 0; i < a.n + n_control + n_user; i++) {
		double score = 0;
		float f;

		if (i < a.n)
			gguf_array_f64(&a, i, &score);
		f = (float)score;
		memcpy(&type, &f, sizeof f);
		make_u32(m, (uint32_t)type);
	}
}

static void merges_copy(struct make *m, const struct gguf *g)
{
	struct gguf_array a;
	struct gguf_str s;
	size_t cursor = 0;

	if (!gguf_array(g, "tokenizer.ggml.merges", &a))
		return;
	list_begin(m, "tokenizer.ggml.merges", T_STRING, a.n);
	for (uint64_t i = 0; i < a.n && gguf_array_next(&a, &cursor, &s); i++)
		string_copy(m, s);
}

void vocab_make(struct gguf **g, struct tokenizer **t, const char *path, const struct vocab_change *c)
{
	struct reason why = { "", "" };
	struct gguf *from = NULL;
	struct gguf_str model;
	struct make m;
	uint64_t id;
	uint32_t eos;

	if (gguf_open(&from, path, &why) || !gguf_string(from, "tokenizer.ggml.model", &model) ||
	    !gguf_u64(from, "tokenizer.ggml.eos_token_id", &id)) {
		fprintf(stderr, "%s: %s\n", path, why.text);
		abort();
	}
	eos = (uint32_t)id;
	make_begin(&m, 3);
	make_key(&m, "tokenizer.ggml.model", T_STRING);
	string_copy(&m, model);
	make_key_string(&m, "tokenizer.ggml.pre", c->pre ? c->pre : "smollm");
	make_key_string(&m, "general.name", c->name ? c->name : "made");
	if (c->chat)
		make_key_string(&m, "tokenizer.chat_template", c->chat);
	tokens_copy(&m, from, c, &eos);
	merges_copy(&m, from);
	make_key_u32(&m, "tokenizer.ggml.eos_token_id", eos);
	if (gguf_u64(from, "tokenizer.ggml.bos_token_id", &id))
		make_key_u32(&m, "tokenizer.ggml.bos_token_id", (uint32_t)id);
	make_key(&m, "tokenizer.ggml.add_space_prefix", T_BOOL);
	m.data = realloc(m.data, m.n + 1);
	m.room = m.n + 1;
	m.data[m.n++] = c->space_prefix;
	make_counts(&m);
	if (make_open(g, m.data, m.n, &why) || tokenizer_open(t, *g, &why)) {
		fprintf(stderr, "a made vocabulary: %s\n", why.text);
		abort();
	}
	make_free(&m);
	gguf_close(from);
}
