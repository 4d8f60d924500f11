/*
 * Writes a model of a real shape with random weights: speed does not depend on the
 * values.  Blocks come from a pool of plausible ones, at disk speed; the vocabulary
 * is the 256 bytes and words without a meaning.
 *
 *     tests/bench/make-model --shape tiny|small|1b|8b --type Q8_0|Q4_K|Q6_K FILE.gguf
 *
 * Shapes are those of Llama 3 8B and Llama 3.2 1B; small has 230 million weights, in rows that
 * blocks of 256 fit.  Every matrix has the type, the norms are F32.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quants.h"
#include "tests/unit/gguf-make.h"

#define POOL (4u << 20)          /* bytes, about */
#define ALIGN 32u

static const struct shape {
	const char *name;
	uint32_t n_layer, n_embd, n_ff, n_head, n_head_kv, n_vocab;
	bool tied;
} shapes[] = {
	{ "tiny", 2, 256, 512, 4, 2, 512, true },
	{ "small", 16, 1024, 3072, 16, 4, 32768, true },
	{ "1b", 16, 2048, 8192, 32, 8, 128256, true },
	{ "8b", 32, 4096, 14336, 32, 8, 128256, false },
};

/* Halves of a block and what makes its values some 0.02 large; m -1: none. */
static const struct filling {
	const char *name;
	uint32_t type;
	int d, m;
	float d_size, m_size;
} fillings[] = {
	{ "Q8_0", QUANT_Q8_0, 0, -1, 2.7e-4f, 0 },
	{ "Q4_K", QUANT_Q4_K, 0, 2, 1.2e-4f, 9e-4f },
	{ "Q6_K", QUANT_Q6_K, 208, -1, 2e-5f, 0 },
};

enum kind { MATRIX, NORM };
struct tensor { char name[48]; uint64_t n_in, n_out; enum kind kind; };

static struct tensor *tensors;
static size_t n_tensor;
static uint64_t state = 1;

static uint64_t random_next(void)
{
	uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

static void tensor_add(enum kind kind, uint64_t n_in, uint64_t n_out, const char *fmt, uint32_t layer)
{
	struct tensor *t;

	tensors = realloc(tensors, (n_tensor + 1) * sizeof *tensors);
	t = &tensors[n_tensor++];
	*t = (struct tensor){ .n_in = n_in, .n_out = n_out, .kind = kind };
	snprintf(t->name, sizeof t->name, fmt, layer);
}

static void tensors_list(const struct shape *s)
{
	const uint64_t kv = s->n_embd / s->n_head * s->n_head_kv;
	uint32_t l;

	tensor_add(MATRIX, s->n_embd, s->n_vocab, "token_embd.weight", 0);
	for (l = 0; l < s->n_layer; l++) {
		tensor_add(NORM, s->n_embd, 1, "blk.%u.attn_norm.weight", l);
		tensor_add(MATRIX, s->n_embd, s->n_embd, "blk.%u.attn_q.weight", l);
		tensor_add(MATRIX, s->n_embd, kv, "blk.%u.attn_k.weight", l);
		tensor_add(MATRIX, s->n_embd, kv, "blk.%u.attn_v.weight", l);
		tensor_add(MATRIX, s->n_embd, s->n_embd, "blk.%u.attn_output.weight", l);
		tensor_add(NORM, s->n_embd, 1, "blk.%u.ffn_norm.weight", l);
		tensor_add(MATRIX, s->n_embd, s->n_ff, "blk.%u.ffn_gate.weight", l);
		tensor_add(MATRIX, s->n_embd, s->n_ff, "blk.%u.ffn_up.weight", l);
		tensor_add(MATRIX, s->n_ff, s->n_embd, "blk.%u.ffn_down.weight", l);
	}
	tensor_add(NORM, s->n_embd, 1, "output_norm.weight", 0);
	if (!s->tied)
		tensor_add(MATRIX, s->n_embd, s->n_vocab, "output.weight", 0);
}

static uint64_t tensor_bytes(const struct tensor *t, const struct quant *q)
{
	return t->kind == NORM ? t->n_in * 4 : t->n_in * t->n_out / q->n_block * q->n_byte;
}

static void list_begin(struct make *m, const char *name, uint32_t type, uint64_t n)
{
	make_key(m, name, 9);
	make_u32(m, type);
	make_u64(m, n);
}

/* GPT-2's letters of the bytes, in UTF-8: printable ones stand for themselves. */
static void byte_letter(unsigned b, unsigned *extra, char out[4])
{
	const bool own = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
	const unsigned c = own ? b : 256 + (*extra)++;

	if (c < 128) {
		out[0] = (char)c;
		out[1] = 0;
	} else {
		out[0] = (char)(0xc0 | c >> 6);
		out[1] = (char)(0x80 | (c & 63));
		out[2] = 0;
	}
}

static void vocabulary(struct make *m, uint32_t n)
{
	unsigned i, extra = 0;
	char word[16];

	make_key_string(m, "tokenizer.ggml.model", "gpt2");
	make_key_string(m, "tokenizer.ggml.pre", "llama-bpe");
	list_begin(m, "tokenizer.ggml.tokens", 8, n);
	make_string(m, "<|begin_of_text|>");
	make_string(m, "<|end_of_text|>");
	for (i = 0; i < 256; i++) {
		byte_letter(i, &extra, word);
		make_string(m, word);
	}
	make_string(m, "th");
	for (i = 259; i < n; i++) {
		snprintf(word, sizeof word, "w%u", i);
		make_string(m, word);
	}
	list_begin(m, "tokenizer.ggml.token_type", 5, n);
	for (i = 0; i < n; i++)
		make_u32(m, i < 2 ? 3 : 1);
	list_begin(m, "tokenizer.ggml.merges", 8, 1);
	make_string(m, "t h");
	make_key_u32(m, "tokenizer.ggml.bos_token_id", 0);
	make_key_u32(m, "tokenizer.ggml.eos_token_id", 1);
}

static void header(struct make *m, const struct shape *s, const struct filling *f, const struct quant *q)
{
	uint64_t offset = 0, ne[2];
	char name[64];
	size_t i;

	make_begin(m, 3);
	make_key_string(m, "general.architecture", "llama");
	snprintf(name, sizeof name, "random %s %s", s->name, f->name);
	make_key_string(m, "general.name", name);
	make_key_u32(m, "llama.block_count", s->n_layer);
	make_key_u32(m, "llama.context_length", 8192);
	make_key_u32(m, "llama.embedding_length", s->n_embd);
	make_key_u32(m, "llama.feed_forward_length", s->n_ff);
	make_key_u32(m, "llama.attention.head_count", s->n_head);
	make_key_u32(m, "llama.attention.head_count_kv", s->n_head_kv);
	make_key_u32(m, "llama.rope.dimension_count", s->n_embd / s->n_head);
	make_key_u32(m, "llama.vocab_size", s->n_vocab);
	make_key_f32(m, "llama.rope.freq_base", 500000);
	make_key_f32(m, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
	vocabulary(m, s->n_vocab);
	for (i = 0; i < n_tensor; i++) {
		const struct tensor *t = &tensors[i];

		ne[0] = t->n_in;
		ne[1] = t->n_out;
		make_tensor(m, t->name, t->kind == NORM ? 1 : 2, ne, t->kind == NORM ? QUANT_F32 : f->type, offset);
		offset = (offset + tensor_bytes(t, q) + ALIGN - 1) / ALIGN * ALIGN;
	}
	make_counts(m);
	make_data(m, ALIGN, 0);
}

static uint8_t *pool_new(const struct filling *f, const struct quant *q, size_t *n_block)
{
	uint8_t *pool;
	size_t i;

	*n_block = POOL / q->n_byte;
	pool = malloc(*n_block * q->n_byte);
	for (i = 0; i < *n_block * q->n_byte; i++)
		pool[i] = (uint8_t)(random_next() >> 32);
	for (i = 0; i < *n_block; i++) {
		const float x = 0.5f + (float)(random_next() >> 40) * 0x1p-24f;
		const uint16_t d = quant_to_f16(f->d_size * x), m = quant_to_f16(f->m_size * x);

		memcpy(pool + i * q->n_byte + f->d, &d, sizeof d);
		if (f->m >= 0)
			memcpy(pool + i * q->n_byte + f->m, &m, sizeof m);
	}
	return pool;
}

static bool tensor_write(FILE *file, const struct tensor *t, const struct quant *q, const uint8_t *pool, size_t n_block)
{
	static const uint8_t zeros[ALIGN];
	const uint64_t all = tensor_bytes(t, q);
	uint64_t left = all;
	const float one = 1;

	for (; t->kind == NORM && left; left -= 4)
		if (fwrite(&one, 4, 1, file) != 1)
			return false;
	while (left) {
		const size_t from = random_next() % n_block;
		size_t part = (n_block - from) * q->n_byte;

		part = left < part ? left : part;
		if (fwrite(pool + from * q->n_byte, 1, part, file) != part)
			return false;
		left -= part;
	}
	return fwrite(zeros, 1, (ALIGN - all % ALIGN) % ALIGN, file) == (ALIGN - all % ALIGN) % ALIGN;
}

static int model_write(const char *path, const struct shape *s, const struct filling *f)
{
	const struct quant *q = quant_find(f->type);
	struct make m;
	FILE *file = fopen(path, "w");
	uint8_t *pool;
	size_t n_block, i;
	bool good;

	if (!file) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		return 1;
	}
	tensors_list(s);
	header(&m, s, f, q);
	good = fwrite(m.data, 1, m.n, file) == m.n;
	pool = pool_new(f, q, &n_block);
	for (i = 0; good && i < n_tensor; i++)
		good = tensor_write(file, &tensors[i], q, pool, n_block);
	good = fclose(file) == 0 && good;
	if (!good) {
		fprintf(stderr, "%s: could not be written: %s\n", path, strerror(errno));
		remove(path);
	}
	free(pool);
	free(tensors);
	make_free(&m);
	return good ? 0 : 1;
}

int main(int argc, char **argv)
{
	const struct shape *s = NULL;
	const struct filling *f = NULL;
	const char *path = NULL;
	size_t k;
	int i;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--shape") && i + 1 < argc) {
			i++;
			for (k = 0; k < sizeof shapes / sizeof *shapes; k++)
				s = strcmp(shapes[k].name, argv[i]) ? s : &shapes[k];
		} else if (!strcmp(argv[i], "--type") && i + 1 < argc) {
			i++;
			for (k = 0; k < sizeof fillings / sizeof *fillings; k++)
				f = strcmp(fillings[k].name, argv[i]) ? f : &fillings[k];
		} else {
			path = argv[i];
		}
	}
	if (!s || !f || !path) {
		fprintf(stderr, "usage: make-model --shape tiny|small|1b|8b --type Q8_0|Q4_K|Q6_K FILE.gguf\n");
		return 2;
	}
	return model_write(path, s, f);
}
