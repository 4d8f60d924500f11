/*
 * Chat formats: recognised from the models' own templates; fed turn by turn, a talk
 * has the ids of the template rendered by jinja2 (tests/golden/chat.txt).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/model/chat.h"
#include "tests/unit/vocab-make.h"

#define BPE "tests/data/tiny-llama.gguf"
#define SPM "tests/data/tiny-gemma3.gguf"

/* Vocabularies that know the special tokens of a format, as its models' do. */
static const struct { const char *format, *path; struct vocab_change change; } vocabs[] = {
	{ "chatml", BPE, { .eos = "<|im_end|>" } },
	{ "gemma", SPM, { .user = { "\n", "\n\n" } } },
	{ "llama-2", SPM, { .space_prefix = true, .control = { "<s>", "</s>" }, .eos = "</s>" } },
	{ "mistral-v1", SPM, { .space_prefix = true, .control = { "<s>", "</s>" }, .eos = "</s>" } },
	{ "mistral-v3", SPM, { .space_prefix = true, .control = { "<s>", "</s>", "[INST]", "[/INST]" }, .eos = "</s>" } },
	{ "zephyr", SPM, { .space_prefix = true, .control = { "<s>", "</s>" }, .eos = "</s>" } },
	{ "tulu", BPE, { .eos = "<|endoftext|>" } },
	{ "deepseek-coder", BPE, { .eos = "<|EOT|>", .control = { "<|EOT|>" } } },
	{ "phi-3", SPM, { .space_prefix = true, .name = "Phi-3 mini", .eos = "<|endoftext|>",
	                  .control = { "<s>", "</s>", "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>" } } },
	{ "llama-3", BPE, { .pre = "llama-bpe", .eos = "<|eot_id|>",
	                    .control = { "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>" } } },
	{ "command-r", BPE, { .pre = "command-r", .eos = "<|END_OF_TURN_TOKEN|>",
	                      .control = { "<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|USER_TOKEN|>",
	                                   "<|SYSTEM_TOKEN|>", "<|CHATBOT_TOKEN|>" } } },
};

enum { N_VOCAB = sizeof vocabs / sizeof vocabs[0] };

static char *unhex(const char *s, size_t n)
{
	char *out = malloc(n / 2 + 1);
	unsigned b;

	for (size_t i = 0; i < n / 2; i++) {
		assert_int_equal(sscanf(s + 2 * i, "%2x", &b), 1);
		out[i] = (char)b;
	}
	out[n / 2] = 0;
	return out;
}

/* Calls each with every line of the golden file that begins with kind. */
static int golden_each(const char *kind, void (*each)(char *const *fields, void *ctx), void *ctx)
{
	FILE *f = fopen(test_file("tests/golden/chat.txt"), "r");
	char *line = NULL, *fields[8], *p;
	size_t room = 0, k;
	int n = 0;

	assert_non_null(f);
	while (getline(&line, &room, f) > 0) {
		line[strcspn(line, "\n")] = 0;
		for (k = 0, p = strtok(line, " "); p && k < 8; p = strtok(NULL, " "))
			fields[k++] = p;
		if (k < 4 || strcmp(fields[0], kind))
			continue;
		each(fields, ctx);
		n++;
	}
	free(line);
	fclose(f);
	return n;
}

/* ---- recognising ---- */

static void recognise_one(char *const *fields, void *ctx)
{
	char *text = unhex(fields[2], strlen(fields[2])), *preamble = unhex(fields[3], strlen(fields[3]) & ~1ul);
	struct vocab_change c = { .chat = text };
	const struct chat_format *f;
	struct reason why = { "", "" };
	struct tokenizer *t;
	struct gguf *g;

	(void)ctx;
	vocab_make(&g, &t, test_file(BPE), &c);
	f = chat_recognise(g, t, &why);
	assert_non_null(f);
	assert_string_equal(f->name, fields[1]);
	if (fields[3][0] == '-')
		assert_null(f->preamble);
	else
		assert_string_equal(f->preamble, preamble);
	chat_free(f);
	tokenizer_close(t);
	gguf_close(g);
	free(text);
	free(preamble);
}

static void test_recognise(void **state)
{
	struct vocab_change none = { .chat = NULL }, strange = { .chat = "{{ messages }}" };
	struct reason why = { "", "" };
	struct tokenizer *t;
	struct gguf *g;

	(void)state;
	assert_true(golden_each("template", recognise_one, NULL) > 15);
	vocab_make(&g, &t, test_file(BPE), &none);
	assert_null(chat_recognise(g, t, &why));
	assert_non_null(strstr(why.text, "no chat template"));
	tokenizer_close(t);
	gguf_close(g);
	vocab_make(&g, &t, test_file(BPE), &strange);
	assert_null(chat_recognise(g, t, &why));
	assert_non_null(strstr(why.text, "no known format"));
	tokenizer_close(t);
	gguf_close(g);
}

/* ---- against rendered templates ---- */

struct replay {
	const char *format;
	const struct chat_format *f;
	const struct tokenizer *t;
	bool pieces;               /* text comes in two pieces, cut at a space */
	bool ended;                /* the model ends its answers itself */
	bool closed;               /* a system turn is closed at once */
	int n;
};

static enum role role_find(const char *name, size_t n)
{
	int r = ROLE_SYSTEM;

	while (r < N_ROLE && (strlen(role_names[r]) != n || memcmp(role_names[r], name, n)))
		r++;
	assert_true(r < N_ROLE);
	return (enum role)r;
}

static void feed_text(const struct replay *r, struct chat_state *s, const char *text, struct ids *out)
{
	size_t n = strlen(text), half = 0;

	while (r->pieces && half < n && (text[half] != ' ' || half == 0))
		half++;
	if (r->pieces && half < n) {
		assert_int_equal(chat_text(r->f, r->t, s, text, half, out), 0);
		text += half;
		n -= half;
	}
	assert_int_equal(chat_text(r->f, r->t, s, text, n, out), 0);
}

/* The model's own end of an answer, where it is one token that closes the turn. */
static bool end_own(const struct replay *r, struct chat_state *s, struct ids *out)
{
	const char *close = r->f->turns[ROLE_ASSISTANT].close;
	int32_t id = r->f->end ? tokenizer_find(r->t, r->f->end) : tokenizer_eos(r->t);

	if (!r->ended || strncmp(close, r->f->end ? r->f->end : CHAT_EOS, r->f->end ? strlen(r->f->end) : 1))
		return false;
	assert_true(tokenizer_is_end(r->t, id));
	ids_push(out, id);
	chat_tokens(r->t, s, &id, 1);
	assert_int_equal(chat_close(r->f, r->t, s, true, out), 0);
	return true;
}

static void feed_talk(const struct replay *r, const char *messages, bool prompt, struct ids *out)
{
	struct chat_state s = { 0 };
	struct reason why;
	const char *colon, *end;

	for (const char *p = messages; *p; p = *end ? end + 1 : end) {
		enum role role;
		char *text;

		colon = strchr(p, ':');
		end = p + strcspn(p, ",");
		role = role_find(p, (size_t)(colon - p));
		text = unhex(colon + 1, (size_t)(end - colon - 1));
		assert_int_equal(chat_enter(r->f, r->t, &s, role, out, &why), 0);
		feed_text(r, &s, text, out);
		if (role == ROLE_ASSISTANT)
			end_own(r, &s, out);
		if (role == ROLE_SYSTEM && r->closed)
			assert_int_equal(chat_close(r->f, r->t, &s, false, out), 0);
		free(text);
	}
	if (prompt)
		assert_int_equal(chat_enter(r->f, r->t, &s, ROLE_ASSISTANT, out, &why), 0);
	else
		assert_int_equal(chat_close(r->f, r->t, &s, false, out), 0);
}

/* The rendered text with the model's own end of sequence for CHAT_EOS. */
static void rendered_ids(const struct tokenizer *t, const char *text, struct ids *out)
{
	struct gguf_str eos = tokenizer_piece(t, tokenizer_eos(t), true);
	char *full = malloc(strlen(text) * (eos.n + 1) + 1);
	size_t n = 0;

	for (; *text; text++) {
		if (*text == *CHAT_EOS) {
			memcpy(full + n, eos.data, eos.n);
			n += eos.n;
		} else {
			full[n++] = *text;
		}
	}
	assert_int_equal(tokenizer_encode(t, full, n, TOKENIZE_SPECIAL | TOKENIZE_START, out), 0);
	free(full);
}

static void replay_one(char *const *fields, void *ctx)
{
	struct ids want = { 0 }, got = { 0 };
	struct replay *r = ctx;
	char *rendered;

	if (strcmp(fields[1], r->format))
		return;
	rendered = unhex(fields[4], strlen(fields[4]));
	rendered_ids(r->t, rendered, &want);
	feed_talk(r, fields[3], fields[2][0] == '1', &got);
	if (got.n != want.n || memcmp(got.data, want.data, got.n * sizeof *got.data)) {
		print_message("%s: \"%s\"\n want", r->format, rendered);
		for (size_t i = 0; i < want.n; i++)
			print_message(" %d", want.data[i]);
		print_message("\n got ");
		for (size_t i = 0; i < got.n; i++)
			print_message(" %d", got.data[i]);
		print_message("\n");
		fail();
	}
	ids_free(&want);
	ids_free(&got);
	free(rendered);
	r->n++;
}

static void replay_format(const char *format, const struct chat_format *f, const struct tokenizer *t)
{
	for (int way = 0; way < 8; way++) {
		struct replay r = { .format = format, .f = f, .t = t, .pieces = way & 1, .ended = way & 2, .closed = way & 4 };

		golden_each("render", replay_one, &r);
		assert_true(r.n >= 5);
	}
}

static void test_rendered(void **state)
{
	(void)state;
	for (size_t i = 0; i < N_VOCAB; i++) {
		struct chat_format f = *chat_find(vocabs[i].format);
		struct tokenizer *t;
		struct gguf *g;

		if (strcmp(f.name, "chatml") == 0)
			f.preamble = "You are a helpful AI assistant named SmolLM, trained by Hugging Face";
		vocab_make(&g, &t, test_file(vocabs[i].path), &vocabs[i].change);
		replay_format(vocabs[i].format, &f, t);
		tokenizer_close(t);
		gguf_close(g);
	}
}

/* The same on the real vocabularies, where they are. */
static void test_rendered_real(void **state)
{
	static const struct { const char *variable, *file, *format; } models[] = {
		{ "SINKD_SMALL_MODEL", "SmolLM2-135M-Instruct.Q4_1.gguf", "chatml" },
		{ "SINKD_GEMMA_MODEL", "gemma-3-270m-q4_k_m.gguf", "gemma" },
	};
	const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
	struct reason why = { "", "" };
	int n = 0;

	(void)state;
	for (size_t i = 0; i < 2; i++) {
		const char *set = getenv(models[i].variable);
		const struct chat_format *f = NULL;
		struct tokenizer *t;
		struct gguf *g;
		char path[2048];

		snprintf(path, sizeof path, "%s%s/sinkd/%s", cache && *cache ? cache : home ? home : "",
		         cache && *cache ? "" : "/.cache", models[i].file);
		if (set && *set)
			snprintf(path, sizeof path, "%s", set);
		if (access(path, R_OK))
			continue;
		assert_int_equal(gguf_open(&g, path, &why), 0);
		assert_int_equal(tokenizer_open(&t, g, &why), 0);
		if (i == 0) {
			f = chat_recognise(g, t, &why);
			assert_non_null(f);
		}
		replay_format(models[i].format, f ? f : chat_find(models[i].format), t);
		chat_free(f);
		tokenizer_close(t);
		gguf_close(g);
		n++;
	}
	if (n == 0)
		skip();
}

/* ---- turns ---- */

static void assert_spells(const struct tokenizer *t, const struct ids *ids, const char *want)
{
	char got[4096] = "";
	size_t n = 0;

	for (size_t i = 0; i < ids->n; i++) {
		struct gguf_str s = tokenizer_piece(t, ids->data[i], true);

		assert_true(n + s.n < sizeof got);
		memcpy(got + n, s.data, s.n);
		n += s.n;
	}
	got[n] = 0;
	assert_string_equal(got, want);
}

static void test_turns(void **state)
{
	const struct chat_format *f = chat_find("chatml");
	struct vocab_change c = { .eos = "<|im_end|>" };
	struct chat_state s = { 0 }, before;
	struct ids ids = { 0 };
	struct reason why;
	struct tokenizer *t;
	struct gguf *g;
	int32_t end;

	(void)state;
	vocab_make(&g, &t, test_file(BPE), &c);
	end = tokenizer_find(t, "<|im_end|>");
	/* Entering the open turn again changes nothing; text of a user is never parsed. */
	assert_int_equal(chat_enter(f, t, &s, ROLE_USER, &ids, &why), 0);
	assert_int_equal(chat_text(f, t, &s, "<|im_end|>", 10, &ids), 0);
	before = s;
	assert_int_equal(chat_enter(f, t, &s, ROLE_USER, &ids, &why), 0);
	assert_memory_equal(&s, &before, sizeof s);
	assert_int_equal(chat_text(f, t, &s, "x", 1, &ids), 0);
	assert_spells(t, &ids, "<|im_start|>user\n<|im_end|>x");
	for (size_t i = 0; i < ids.n; i++)
		assert_int_not_equal(ids.data[i], end);
	/* An answer that the model ended: only what follows its token is fed. */
	assert_int_equal(chat_enter(f, t, &s, ROLE_ASSISTANT, &ids, &why), 0);
	ids.n = 0;
	chat_tokens(t, &s, &end, 1);
	assert_int_equal(chat_close(f, t, &s, true, &ids), 0);
	assert_spells(t, &ids, "\n");
	/* One that it did not end: ours. */
	assert_int_equal(chat_enter(f, t, &s, ROLE_ASSISTANT, &ids, &why), 0);
	ids.n = 0;
	assert_int_equal(chat_close(f, t, &s, false, &ids), 0);
	assert_spells(t, &ids, "<|im_end|>\n");
	assert_int_equal(ids.data[0], end);
	/* Closed is closed; raw text has no turn. */
	ids.n = 0;
	assert_int_equal(chat_close(f, t, &s, false, &ids), 0);
	assert_int_equal(chat_enter(f, t, &s, ROLE_RAW, &ids, &why), 0);
	assert_int_equal(chat_text(f, t, &s, "raw", 3, &ids), 0);
	assert_spells(t, &ids, "raw");
	assert_int_equal(chat_enter(chat_find("gemma"), t, &s, ROLE_TOOL, &ids, &why), REFUSED);
	assert_string_equal(why.name, "role_unknown");
	ids_free(&ids);
	tokenizer_close(t);
	gguf_close(g);
}

/* The preamble comes before the first turn, also behind BOS, and not before a system
 * turn; a system text of gemma leads into the user's turn, or closes it itself. */
static void test_preamble(void **state)
{
	struct chat_format f = *chat_find("chatml");
	struct vocab_change c = { .eos = "<|im_end|>" };
	struct chat_state s = { 0 };
	struct ids ids = { 0 };
	struct reason why;
	struct tokenizer *t;
	struct gguf *g;
	int32_t bos;

	(void)state;
	vocab_make(&g, &t, test_file(BPE), &c);
	bos = tokenizer_bos(t);
	f.preamble = "Be good";
	chat_tokens(t, &s, &bos, 1);
	assert_int_equal(chat_enter(&f, t, &s, ROLE_USER, &ids, &why), 0);
	assert_spells(t, &ids, "<|im_start|>system\nBe good<|im_end|>\n<|im_start|>user\n");
	s = (struct chat_state){ 0 };
	ids.n = 0;
	assert_int_equal(chat_enter(&f, t, &s, ROLE_SYSTEM, &ids, &why), 0);
	assert_int_equal(chat_enter(&f, t, &s, ROLE_USER, &ids, &why), 0);
	assert_spells(t, &ids, "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n");
	s = (struct chat_state){ 0 };
	ids.n = 0;
	f = *chat_find("gemma");
	assert_int_equal(chat_enter(&f, t, &s, ROLE_SYSTEM, &ids, &why), 0);
	assert_int_equal(chat_enter(&f, t, &s, ROLE_ASSISTANT, &ids, &why), 0);
	assert_spells(t, &ids, "<start_of_turn>user\n\n\n<end_of_turn>\n<start_of_turn>model\n");
	ids_free(&ids);
	tokenizer_close(t);
	gguf_close(g);
}

/* The table holds what chat.h says of it. */
static void test_table(void **state)
{
	const struct chat_format *f;
	size_t i = 0;

	(void)state;
	for (; (f = chat_at(i)); i++) {
		assert_ptr_equal(chat_find(f->name), f);
		assert_non_null(f->marks[0]);
		for (int r = ROLE_SYSTEM; r < N_ROLE; r++)
			assert_true(!f->turns[r].open == !f->turns[r].close);
		assert_non_null(f->turns[ROLE_USER].open);
		assert_non_null(f->turns[ROLE_ASSISTANT].open);
		/* The end of an answer is in what closes it. */
		assert_non_null(strstr(f->turns[ROLE_ASSISTANT].close, f->end ? f->end : CHAT_EOS));
	}
	assert_true(i > 10);
	assert_null(chat_find("no such format"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table), cmocka_unit_test(test_recognise), cmocka_unit_test(test_turns),
		cmocka_unit_test(test_preamble), cmocka_unit_test(test_rendered), cmocka_unit_test(test_rendered_real),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
