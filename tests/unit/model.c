/*
 * A whole model, on the tiny ones: what loads is told, a load can be given up, one
 * session's logits do not depend on who else is in the batch, stages have
 * llama.cpp's names, and inspection says what opening would.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/model/model.h"

#define CHUNK 24

static const struct backend_ops *const ops = &backend_cpu;
static char paths[2][4096];

struct loaded {
	struct backend *b;
	struct model *m;
	struct kv *kv;
};

static void load(struct loaded *l, const char *path)
{
	const struct backend_params bp = { .n_thread = 2, .n_row_max = 2 * CHUNK };
	struct kv_shape shape = { .type = KV_F16, .n_chunk = CHUNK, .most = { 4, 40 }, .n_slot = 3 };
	struct model_params mp = { .ops = ops };
	struct backend_why bw;
	struct reason why;

	assert_int_equal(ops->open(&l->b, &bp, &bw), 0);
	mp.backend = l->b;
	assert_int_equal(model_open(&l->m, path, &mp, &why), 0);
	shape.n_layer = model_info(l->m)->n_layer;
	shape.layers = model_info(l->m)->kv_layers;
	assert_int_equal(ops->kv_open(l->b, &shape, NULL, &l->kv, &bw), 0);
}

static void unload(struct loaded *l)
{
	ops->kv_close(l->b, l->kv);
	model_close(l->m);
	ops->close(l->b);
}

static void test_info(void **state)
{
	struct loaded l;
	const struct model_info *i;

	(void)state;
	load(&l, paths[0]);
	i = model_info(l.m);
	assert_string_equal(i->name, "Tiny llama");
	assert_string_equal(i->arch, "llama");
	assert_int_equal(i->n_layer, 3);
	assert_int_equal(i->n_vocab, tokenizer_n_vocab(model_tokenizer(l.m)));
	assert_true(i->n_param > 150000 && i->n_byte > i->n_param);
	assert_non_null(model_chat(l.m));
	assert_int_equal(model_replay(l.m, (struct window){ 4, 40 }), 1 + 3 * 40);
	unload(&l);
	load(&l, paths[1]);
	assert_string_equal(model_info(l.m)->arch, "gemma3");
	/* seven local layers see 23 tokens back, the global one all of the window */
	assert_int_equal(model_replay(l.m, (struct window){ 4, 40 }), 1 + 7 * 23 + 40);
	assert_int_equal(model_replay(l.m, (struct window){ 4, 10 }), 1 + 8 * 10);
	unload(&l);
}

static int give_up(void *ctx, uint64_t done, uint64_t total)
{
	int *left = ctx;

	assert_true(done > 0 && done <= total);
	return --*left < 0;
}

static void test_progress(void **state)
{
	const struct backend_params bp = { .n_thread = 1, .n_row_max = 4 };
	struct model_params mp = { .ops = ops, .progress = give_up };
	struct backend_why bw;
	struct reason why;
	struct model *m;
	int left = 10;

	(void)state;
	assert_int_equal(ops->open(&mp.backend, &bp, &bw), 0);
	mp.ctx = &left;
	assert_int_equal(model_open(&m, paths[1], &mp, &why), -ECANCELED);
	assert_null(m);
	assert_int_equal(left, -1);
	left = 1 << 20;
	assert_int_equal(model_open(&m, paths[1], &mp, &why), 0);
	model_close(m);
	ops->close(mp.backend);
}

static int32_t token(uint32_t seq, uint64_t pos)
{
	return (int32_t)((pos * 37 + seq * 101 + pos * pos % 13) % 400);
}

/* One step of all sessions in the set; n rows each, logits of the last of each. */
static void step(struct loaded *l, const uint32_t *seqs, uint32_t n_seq, uint64_t pos, uint32_t n, float *logits)
{
	struct batch_row rows[2 * CHUNK];
	struct batch_seq all[2];
	uint32_t outputs[2], i, s;
	struct batch b = { .n_row = n * n_seq, .n_seq = n_seq, .rows = rows, .seqs = all, .outputs = outputs,
	                   .n_output = logits ? n_seq : 0 };
	struct reason why;

	for (s = 0; s < n_seq; s++) {
		all[s] = (struct batch_seq){ .slot = seqs[s], .window = { 4, 40 } };
		for (i = 0; i < n; i++)
			rows[s * n + i] = (struct batch_row){ token(seqs[s], pos + i), s, pos + i };
		outputs[s] = s * n + n - 1;
	}
	assert_int_equal(model_forward(l->m, l->kv, &b, logits, NULL, &why), 0);
}

static void test_batch_does_not_matter(void **state)
{
	const uint32_t both[2] = { 2, 0 }, one[1] = { 1 };
	struct loaded l;
	size_t n, model;
	float *together, *alone;
	uint64_t pos;

	(void)state;
	for (model = 0; model < 2; model++) {
		load(&l, paths[model]);
		n = model_info(l.m)->n_vocab;
		together = calloc(2 * n, sizeof *together);
		alone = calloc(n, sizeof *alone);
		/* Session 2 beside session 0; the first chunks without logits. */
		for (pos = 0; pos < 96; pos += CHUNK)
			step(&l, both, 2, pos, CHUNK, pos + CHUNK < 96 ? NULL : together);
		/* The text of session 2 in a slot of its own, token by token. */
		for (pos = 0; pos < 96; pos++) {
			struct batch_row row = { token(2, pos), 0, pos };
			struct batch_seq seq = { .slot = one[0], .window = { 4, 40 } };
			const uint32_t output = 0;
			struct batch b = { .n_row = 1, .n_seq = 1, .n_output = 1, .rows = &row, .seqs = &seq, .outputs = &output };
			struct reason why;

			assert_int_equal(model_forward(l.m, l.kv, &b, alone, NULL, &why), 0);
		}
		assert_memory_equal(together, alone, n * sizeof *alone);
		assert_true(memcmp(together + n, alone, n * sizeof *alone) != 0);
		free(together);
		free(alone);
		unload(&l);
	}
}

struct stages {
	char names[4096];
	uint32_t last_rows;
};

static void stage_seen(void *ctx, const char *name, uint32_t layer, const float *x, uint32_t n_row, uint32_t width)
{
	struct stages *s = ctx;
	uint32_t i;

	if (layer == 1 || strncmp(name, "result", 6) == 0) {
		strcat(s->names, name);
		strcat(s->names, " ");
	}
	for (i = 0; i < n_row * width; i++)
		assert_true(x[i] == x[i]);     /* no NaN in any stage */
	s->last_rows = n_row;
}

static void test_stages(void **state)
{
	static const char *const expect[2] = {
		"attn_norm Qcur Kcur Vcur kqv_out attn_out ffn_inp ffn_norm ffn_up ffn_gate ffn_out l_out "
		"result_norm result_output ",
		"attn_norm Qcur Kcur Vcur Qcur_normed Kcur_normed kqv_out attn_out attn_post_norm ffn_inp ffn_norm "
		"ffn_up ffn_gate ffn_out ffn_post_norm l_out result_norm result_output ",
	};
	struct batch_row rows[3] = { { 5, 0, 0 }, { 6, 0, 1 }, { 7, 0, 2 } };
	const struct batch_seq seq = { .slot = 0, .window = { 4, 40 } };
	const uint32_t output = 2;
	const struct batch b = { .n_row = 3, .n_seq = 1, .n_output = 1, .rows = rows, .seqs = &seq, .outputs = &output };
	struct loaded l;
	struct reason why;
	float *logits;
	int i;

	(void)state;
	for (i = 0; i < 2; i++) {
		struct stages s = { "", 0 };
		struct forward_dump dump = { stage_seen, &s };

		load(&l, paths[i]);
		logits = calloc(model_info(l.m)->n_vocab, sizeof *logits);
		assert_int_equal(model_forward(l.m, l.kv, &b, logits, &dump, &why), 0);
		assert_string_equal(s.names, expect[i]);
		assert_int_equal(s.last_rows, 1);
		free(logits);
		unload(&l);
	}
}

static void test_inspect(void **state)
{
	int fd = memfd_create("inspected", MFD_CLOEXEC);
	static char text[65536];
	struct reason why = { "", "" };

	(void)state;
	assert_int_equal(model_inspect(paths[1], fd, &why), 0);
	assert_true(pread(fd, text, sizeof text - 1, 0) > 0);
	assert_non_null(strstr(text, "gemma3.attention.sliding_window"));
	assert_non_null(strstr(text, "24, one layer of 6 is global"));
	assert_non_null(strstr(text, "\nwould load\n"));
	assert_int_equal(model_inspect("/dev/null", fd, &why), REFUSED);
	assert_string_equal(why.name, "bad_model");
	assert_true(pread(fd, text, sizeof text - 1, 0) > 0);
	assert_non_null(strstr(text, "would not load: bad_model: "));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_info), cmocka_unit_test(test_progress),
		cmocka_unit_test(test_batch_does_not_matter), cmocka_unit_test(test_stages),
		cmocka_unit_test(test_inspect),
	};
	const char *top = getenv("srcdir");

	snprintf(paths[0], sizeof paths[0], "%s/tests/data/tiny-llama.gguf", top ? top : ".");
	snprintf(paths[1], sizeof paths[1], "%s/tests/data/tiny-gemma3.gguf", top ? top : ".");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
