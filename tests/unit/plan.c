/*
 * What a model file must be, on the tiny models with one thing changed: each is
 * refused by the name of the key or the tensor.
 */
#include <assert.h>
#include <glob.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/model/plan.h"
#include "tests/unit/gguf-make.h"

static struct make llama, gemma;

/* Whether the file would load; else name and text of the reason. */
static int plan(const struct make *m, struct reason *why, struct plan *out)
{
	struct plan p = { 0 };
	struct gguf *g = NULL;
	int rc = make_open(&g, m->data, m->n, why);

	if (!rc)
		rc = plan_make(&p, g, why);
	if (out)
		*out = p;
	plan_free(&p);
	gguf_close(g);
	return rc;
}

static void refused(const struct make *m, const char *name, const char *text)
{
	struct reason why = { "", "" };

	assert_int_equal(plan(m, &why, NULL), REFUSED);
	if (strcmp(why.name, name) || !strstr(why.text, text))
		fail_msg("\"%s: %s\" is not \"%s: ...%s...\"", why.name, why.text, name, text);
}

/* m with the bytes behind a spelling overwritten, refused, and mended again. */
static void changed(struct make *m, const char *spelling, size_t skip, const void *p, size_t n, const char *name, const char *text)
{
	size_t at = make_find(m, spelling) - 4 + skip;
	uint8_t old[64];

	assert_true(at > 4 && n <= sizeof old);
	memcpy(old, m->data + at, n);
	memcpy(m->data + at, p, n);
	refused(m, name, text);
	memcpy(m->data + at, old, n);
}

static void key_u32(const char *key, uint32_t v, const char *name, const char *text)
{
	changed(&llama, key, 4, &v, sizeof v, name, text);
}

static void test_tiny_models_have_plans(void **state)
{
	struct reason why = { "", "" };
	struct plan p;

	(void)state;
	assert_int_equal(plan(&llama, &why, &p), 0);
	assert_string_equal(p.arch->name, "llama");
	assert_int_equal(p.h.n_layer, 3);
	assert_int_equal(p.h.head_dim, 16);
	assert_int_equal(p.h.n_vocab, 419);
	assert_true(p.h.local == 0 && hparams_local(&p.h, 1) == 0);
	assert_true(p.h.attn_scale == 0.25f && p.h.embd_scale == 1);
	assert_int_equal(plan(&gemma, &why, &p), 0);
	assert_string_equal(p.arch->name, "gemma3");
	assert_int_equal(p.h.head_dim, 32);
	assert_true(hparams_local(&p.h, 4) == 24 && hparams_local(&p.h, 5) == 0 && hparams_local(&p.h, 6) == 24);
	assert_true(p.h.embd_scale == 8 && p.h.rope.base == 1e6 && p.h.rope_local.base == 1e4);
}

static void test_impossible_numbers(void **state)
{
	const float nan = NAN, negative = -1e-5f, inf = INFINITY;

	(void)state;
	key_u32("llama.block_count", 0, "bad_model", "llama.block_count is 0");
	key_u32("llama.block_count", 1u << 31, "bad_model", "llama.block_count is 2147483648");
	key_u32("llama.block_count", 4, "bad_model", "blk.3.attn_norm.weight is missing");
	key_u32("llama.block_count", 2, "unsupported", "blk.2.attn_norm.weight is not one");
	key_u32("llama.attention.head_count", 0, "bad_model", "llama.attention.head_count is 0");
	key_u32("llama.attention.head_count_kv", 0, "bad_model", "llama.attention.head_count_kv is 0");
	key_u32("llama.attention.head_count_kv", 3, "bad_model", "does not divide the 4 heads");
	key_u32("llama.attention.head_count_kv", 8, "bad_model", "llama.attention.head_count_kv is 8");
	key_u32("llama.embedding_length", 0, "bad_model", "llama.embedding_length is 0");
	key_u32("llama.embedding_length", 66, "bad_model", "does not divide embedding_length, 66");
	key_u32("llama.embedding_length", 128, "bad_model", "token_embd.weight has the shape 64 x 419");
	key_u32("llama.feed_forward_length", UINT32_MAX, "bad_model", "llama.feed_forward_length is 4294967295");
	key_u32("llama.feed_forward_length", 96, "bad_model", "ffn_gate.weight has the shape 64 x 128");
	key_u32("llama.context_length", 0, "bad_model", "llama.context_length is 0");
	key_u32("llama.rope.dimension_count", 17, "bad_model", "llama.rope.dimension_count is 17");
	key_u32("llama.rope.dimension_count", 15, "bad_model", "llama.rope.dimension_count is odd");
	changed(&llama, "llama.attention.layer_norm_rms_epsilon", 4, &nan, 4, "bad_model", "layer_norm_rms_epsilon is nan");
	changed(&llama, "llama.attention.layer_norm_rms_epsilon", 4, &negative, 4, "bad_model", "layer_norm_rms_epsilon is -1e-05");
	changed(&llama, "llama.rope.freq_base", 4, &inf, 4, "bad_model", "llama.rope.freq_base is inf");
	changed(&llama, "llama.rope.freq_base", 4, &nan, 4, "bad_model", "llama.rope.freq_base is nan");
}

/* A key spelled otherwise is a missing key. */
static void test_missing_keys(void **state)
{
	static const char *const needed[] = {
		"llama.block_count", "llama.embedding_length", "llama.feed_forward_length", "llama.context_length",
		"llama.attention.layer_norm_rms_epsilon", "general.architecture",
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof needed / sizeof *needed; i++) {
		char text[80];

		snprintf(text, sizeof text, "%s is missing", needed[i]);
		changed(&llama, needed[i], (size_t)-1, "X", 1, "bad_model", text);
	}
}

static void test_ill_typed_keys(void **state)
{
	const uint32_t as_float = 6, as_u32 = 4;

	(void)state;
	changed(&llama, "llama.block_count", 0, &as_float, 4, "bad_model", "llama.block_count is not a count");
	changed(&llama, "llama.rope.freq_base", 0, &as_u32, 4, "bad_model", "llama.rope.freq_base is not a floating-point number");
}

static void test_unknown_things(void **state)
{
	const uint32_t iq = 16;

	(void)state;
	/* behind the key: its type, the string's length, the string */
	changed(&llama, "general.architecture", 12, "llamb", 5, "unsupported", "the architecture \"llamb\"; known are: llama, mpt, falcon");
	changed(&llama, "blk.1.attn_k.weight", (size_t)-6, "wrongs", 6, "bad_model", "blk.1.attn_k.weight is missing");
	/* behind the name: n_dim, two sizes, the format */
	changed(&llama, "blk.2.ffn_up.weight", 20, &iq, 4, "unsupported", "blk.2.ffn_up.weight has the format IQ2_XXS");
}

static void test_wrong_shapes(void **state)
{
	const uint64_t flat[2] = { 32, 64 }, one = 32;

	(void)state;
	changed(&llama, "blk.0.attn_k.weight", 4, flat, sizeof flat, "bad_model", "blk.0.attn_k.weight has the shape 32 x 64");
	changed(&llama, "output_norm.weight", 4, &one, sizeof one, "bad_model", "output_norm.weight has the shape 32");
	changed(&gemma, "blk.5.attn_q_norm.weight", 4, &(uint64_t){ 16 }, 8, "bad_model", "blk.5.attn_q_norm.weight has the shape 16");
}

/* Keys alone: the numbers are read before a tensor is looked for. */
static void keys_begin(struct make *m)
{
	make_begin(m, 3);
	make_key_string(m, "general.architecture", "llama");
	make_key_u32(m, "llama.block_count", 1);
	make_key_u32(m, "llama.embedding_length", 64);
	make_key_u32(m, "llama.feed_forward_length", 64);
	make_key_u32(m, "llama.context_length", 64);
	make_key_u32(m, "llama.attention.head_count", 4);
	make_key_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
}

static void keys_end(struct make *m, const char *name, const char *text)
{
	make_tensor(m, "t", 1, (uint64_t[]){ 8 }, 0, 0);
	make_data(m, 32, 32);
	make_counts(m);
	refused(m, name, text);
	make_free(m);
}

static void test_unsupported_keys(void **state)
{
	struct make m;

	(void)state;
	keys_begin(&m);
	keys_end(&m, "bad_model", "token_embd.weight is missing");     /* the keys above are enough */
	keys_begin(&m);
	make_key_string(&m, "llama.rope.scaling.type", "dynamic");
	keys_end(&m, "unsupported", "rope scaling \"dynamic\"");
	keys_begin(&m);
	make_key_string(&m, "llama.rope.scaling.type", "linear");
	make_key_f32(&m, "llama.rope.scaling.factor", 0);
	keys_end(&m, "bad_model", "llama.rope.scaling.factor is 0");
	keys_begin(&m);
	make_key_u32(&m, "llama.attention.value_length", 32);
	keys_end(&m, "unsupported", "llama.attention.value_length differs");
	keys_begin(&m);
	make_key_u32(&m, "llama.expert_count", 8);
	keys_end(&m, "bad_model", "llama.expert_used_count is missing");
	keys_begin(&m);
	make_key(&m, "llama.attention.head_count_kv", 9);
	make_u32(&m, 4);
	make_u64(&m, 1);
	make_u32(&m, 4);
	keys_end(&m, "unsupported", "llama.attention.head_count_kv differs from layer to layer");
}

/* Every tensor's entry cut off, and every tensor's data. */
static void test_truncated_at_every_tensor(void **state)
{
	struct reason why = { "", "" };
	const struct gguf_tensor *t;
	const uint8_t *base;
	size_t i, n_tensor = 0;
	struct gguf *g;

	(void)state;
	assert_int_equal(make_open(&g, llama.data, llama.n, &why), 0);
	base = (const uint8_t *)gguf_tensor_at(g, 0)->name.data - make_find(&llama, "token_embd.weight") + 4 + 17;
	for (i = 0; (t = gguf_tensor_at(g, i)); i++, n_tensor++) {
		const struct make entry = { .data = llama.data, .n = (size_t)((const uint8_t *)t->name.data - base) };
		const struct make data = { .data = llama.data, .n = (size_t)((const uint8_t *)t->data - base) + t->n_byte - 1 };

		refused(&entry, "bad_model", "the file ends inside tensor");
		refused(&data, "bad_model", "the file ends inside the data of the tensor");
	}
	assert_int_equal(n_tensor, 3 * 9 + 3);
	gguf_close(g);
}

/* ---- every architecture: its golden files, with one thing changed ---- */

static struct file { struct make m; const char *arch; } files[64];
static size_t n_files;

/* The place behind a key or a tensor's name (its length stands before it); 0: absent. */
static size_t behind(const struct make *m, const char *name)
{
	const uint64_t n = strlen(name);
	uint8_t spelling[8 + 96], *p;

	assert_true(n <= 96);
	memcpy(spelling, &n, 8);
	memcpy(spelling + 8, name, n);
	p = memmem(m->data, m->n, spelling, 8 + n);
	return p ? (size_t)(p - m->data) + 8 + n : 0;
}

/* Bytes overwritten: refused, and by which name; then mended.  shape: what no longer
 * fits may be named instead. */
static void hostile(struct make *m, size_t at, const void *p, size_t n, const char *text, bool shape)
{
	struct reason why = { "", "" };
	uint8_t old[64];
	bool named;

	assert_true(at > 0 && n <= sizeof old);
	memcpy(old, m->data + at, n);
	memcpy(m->data + at, p, n);
	if (plan(m, &why, NULL) != REFUSED)
		fail_msg("%s may be anything", text);
	named = strstr(why.text, text) || (shape && (strstr(why.text, "the tensor ") || strstr(why.text, "does not divide")));
	if (!named || (strcmp(why.name, "bad_model") && strcmp(why.name, "unsupported")))
		fail_msg("\"%s: %s\" does not name %s", why.name, why.text, text);
	memcpy(m->data + at, old, n);
}

/* What must not stand in a key, for those that a file has; f: in one of a float. */
static void test_hostile_numbers(void **state)
{
	const float not_a_number = NAN, below = -1, endless = INFINITY, zero = 0;
	const struct { const char *suffix; uint32_t u; const float *f; bool shape; } changes[] = {
		{ "block_count", 0, NULL, false }, { "block_count", 1u << 31, NULL, false }, { "block_count", 900, NULL, false },
		{ "embedding_length", 0, NULL, false }, { "embedding_length", 62, NULL, true }, { "embedding_length", 1u << 31, NULL, false },
		{ "feed_forward_length", 0, NULL, false }, { "feed_forward_length", UINT32_MAX, NULL, false },
		{ "context_length", 0, NULL, false }, { "context_length", UINT32_MAX, NULL, false },
		{ "attention.head_count", 0, NULL, false }, { "attention.head_count", 7, NULL, true }, { "attention.head_count", 1u << 31, NULL, false },
		{ "attention.head_count_kv", 0, NULL, false }, { "attention.head_count_kv", 5, NULL, false },
		{ "attention.key_length", 0, NULL, false }, { "attention.key_length", 1u << 31, NULL, false },
		{ "attention.value_length", 1, NULL, false },
		{ "attention.layer_norm_epsilon", 0, &not_a_number, false }, { "attention.layer_norm_epsilon", 0, &below, false },
		{ "attention.layer_norm_rms_epsilon", 0, &not_a_number, false }, { "attention.layer_norm_rms_epsilon", 0, &endless, false },
		{ "attention.clamp_kqv", 0, &not_a_number, false }, { "attention.clamp_kqv", 0, &below, false },
		{ "attention.max_alibi_bias", 0, &not_a_number, false }, { "attention.max_alibi_bias", 0, &zero, false },
		{ "attention.sliding_window", 1u << 31, NULL, false },
		{ "attn_logit_softcapping", 0, &not_a_number, false }, { "final_logit_softcapping", 0, &below, false },
		{ "rope.dimension_count", 0, NULL, false }, { "rope.dimension_count", 7, NULL, false }, { "rope.dimension_count", 4096, NULL, false },
		{ "rope.freq_base", 0, &not_a_number, false }, { "rope.freq_base", 0, &zero, false },
		{ "rope.scaling.factor", 0, &not_a_number, false }, { "rope.scaling.factor", 0, &zero, false },
		{ "expert_count", 0, NULL, true }, { "expert_count", 2000, NULL, false }, { "expert_count", 5, NULL, true },
		{ "expert_used_count", 0, NULL, false }, { "expert_used_count", 33, NULL, false },
		{ "expert_feed_forward_length", 0, NULL, false }, { "expert_feed_forward_length", 33, NULL, false },
		{ "rope.scaling.original_context_length", 0, NULL, false }, { "rope.scaling.attn_factor", 0, &not_a_number, false },
	};
	size_t i, k, n, at;

	(void)state;
	for (i = 0; i < n_files; i++) {
		for (k = n = 0; k < sizeof changes / sizeof *changes; k++) {
			const uint32_t as_u32 = 4;
			char key[96];

			snprintf(key, sizeof key, "%s.%s", files[i].arch, changes[k].suffix);
			at = behind(&files[i].m, key);
			if (!at)
				continue;
			n++;
			hostile(&files[i].m, at + 4, changes[k].f ? (const void *)changes[k].f : &changes[k].u, 4, key, changes[k].shape);
			if (changes[k].f)
				hostile(&files[i].m, at, &as_u32, 4, key, false);
		}
		assert_true(n >= 10);
	}
}

/* Every tensor outside of the layers and of the first one: under another name, in
 * half its width, and in a format that is none. */
static void test_hostile_tensors(void **state)
{
	const struct gguf_tensor *t;
	struct reason why = { "", "" };
	struct gguf *g;
	size_t i, k, n, at;

	(void)state;
	for (i = 0; i < n_files; i++) {
		assert_int_equal(make_open(&g, files[i].m.data, files[i].m.n, &why), 0);
		for (k = n = 0; (t = gguf_tensor_at(g, k)); k++) {
			const uint64_t half = t->ne[0] / 2;
			const uint32_t format = 16;
			char name[80];

			gguf_print(t->name, name, sizeof name);
			if (!strncmp(name, "blk.", 4) && strncmp(name, "blk.0.", 6))
				continue;
			n++;
			at = behind(&files[i].m, name);
			hostile(&files[i].m, at + 4, &half, 8, name, false);
			hostile(&files[i].m, at + 4 + 8 * t->n_dim, &format, 4, name, false);
			name[strlen(name) - 1] = '\0';          /* its beginning must be told, whether missing or surplus */
			hostile(&files[i].m, at - 1, "~", 1, name, false);
		}
		assert_true(n >= 8);
		gguf_close(g);
	}
}

/* A window in every layer is a shorter context, in which sinks are seen. */
static void test_window_everywhere(void **state)
{
	struct reason why = { "", "" };
	const uint32_t w = 100;
	size_t i, n, at;
	struct plan p;

	(void)state;
	for (i = n = 0; i < n_files; i++) {
		if (strcmp(files[i].arch, "phi3"))
			continue;
		at = behind(&files[i].m, "phi3.attention.sliding_window") + 4;
		assert_int_equal(plan(&files[i].m, &why, &p), 0);
		assert_int_equal(p.h.n_ctx, 1024);
		memcpy(files[i].m.data + at, &w, 4);
		assert_int_equal(plan(&files[i].m, &why, &p), 0);
		assert_int_equal(p.h.n_ctx, 100);
		assert_int_equal(hparams_local(&p.h, 0), 0);
		memset(files[i].m.data + at, 0, 4);
		n++;
	}
	assert_int_equal(n, 2);
}

/* Which layers are local, as a list (OLMo 3): only what has a period can be. */
static void test_window_by_list(void **state)
{
	const char *const name = "olmo2.attention.sliding_window_pattern";
	const size_t first = 4 + 4 + 8;        /* the list's type, its elements', their number */
	const uint8_t yes = 1, no = 0;
	const uint32_t six = 6;
	struct make *m = NULL;
	uint8_t *list;
	struct reason why = { "", "" };
	struct plan p;

	(void)state;
	for (size_t i = 0; i < n_files; i++)
		if (make_find(&files[i].m, name))
			m = &files[i].m;
	assert_non_null(m);
	assert_int_equal(plan(m, &why, &p), 0);
	assert_int_equal(p.h.n_layer, 5);
	assert_true(hparams_local(&p.h, 2) == 24 && hparams_local(&p.h, 3) == 0 && hparams_local(&p.h, 4) == 24);
	changed(m, name, first + 4, &no, 1, "unsupported", "has no period: layer 4 breaks it");
	changed(m, name, first + 3, &yes, 1, "unsupported", "has no layer that is global");
	changed(m, "olmo2.block_count", 4, &six, 4, "bad_model", "does not say which of 6 layers are local");
	list = m->data + make_find(m, name) - 4 + first;
	memcpy(list, "\0\0\0\0", 5);
	assert_int_equal(plan(m, &why, &p), 0);
	assert_true(hparams_local(&p.h, 0) == 0 && hparams_local(&p.h, 4) == 0);
	memcpy(list, "\1\1\1\0\1", 5);
}

/* A factor without a type stretches all dimensions, as in llama.cpp. */
static void test_scaling_without_type(void **state)
{
	const char *const name = "llama.rope.scaling.type";
	struct reason why = { "", "" };
	struct plan p;
	int n = 0;

	(void)state;
	for (size_t i = 0; i < n_files; i++) {
		struct make *m = &files[i].m;
		size_t at = make_find(m, name);

		if (!at || memcmp(m->data + at + 8, "linear", 6))
			continue;
		m->data[at - 5] = 'X';
		assert_int_equal(plan(m, &why, &p), 0);
		assert_true(p.h.rope.factor == 4 && !p.h.rope.yarn);
		m->data[at - 5] = 'e';
		n++;
	}
	assert_int_equal(n, 1);
}

static void files_load(const char *top)
{
	const struct arch *a;
	struct reason why = { "", "" };
	char pattern[4096];
	struct plan p;
	glob_t found;
	size_t i, k;

	snprintf(pattern, sizeof pattern, "%s/tests/golden/arch/*.gguf", top ? top : ".");
	assert(glob(pattern, 0, NULL, &found) == 0 && found.gl_pathc <= sizeof files / sizeof *files);
	for (i = 0; i < found.gl_pathc; i++) {
		make_load(&files[n_files].m, found.gl_pathv[i]);
		if (plan(&files[n_files].m, &why, &p)) {
			fprintf(stderr, "%s: %s: %s\n", found.gl_pathv[i], why.name, why.text);
			abort();
		}
		files[n_files++].arch = p.arch->name;
	}
	globfree(&found);
	for (i = 0; (a = arch_at(i)); i++) {
		for (k = 0; k < n_files && files[k].arch != a->name; k++)
			;
		assert(k < n_files);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_tiny_models_have_plans), cmocka_unit_test(test_impossible_numbers),
		cmocka_unit_test(test_missing_keys), cmocka_unit_test(test_ill_typed_keys),
		cmocka_unit_test(test_unknown_things), cmocka_unit_test(test_wrong_shapes),
		cmocka_unit_test(test_hostile_numbers), cmocka_unit_test(test_hostile_tensors),
		cmocka_unit_test(test_window_everywhere), cmocka_unit_test(test_window_by_list),
		cmocka_unit_test(test_scaling_without_type), cmocka_unit_test(test_unsupported_keys), cmocka_unit_test(test_truncated_at_every_tensor),
	};
	const char *top = getenv("srcdir");
	char path[4096];
	int rc;

	snprintf(path, sizeof path, "%s/tests/data/tiny-llama.gguf", top ? top : ".");
	make_load(&llama, path);
	snprintf(path, sizeof path, "%s/tests/data/tiny-gemma3.gguf", top ? top : ".");
	make_load(&gemma, path);
	files_load(top);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	make_free(&llama);
	make_free(&gemma);
	while (n_files)
		make_free(&files[--n_files].m);
	return rc;
}
