/* See requantize.h. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/model/gguf.h"
#include "tests/golden/requantize.h"
#include "tests/unit/gguf-make.h"

#define BLOCK 32

static void half(uint8_t *dst, float x)
{
	const _Float16 h = (_Float16)x;

	memcpy(dst, &h, sizeof h);
}

static float of_half(const uint8_t *src)
{
	_Float16 h;

	memcpy(&h, src, sizeof h);
	return (float)h;
}

static size_t block_q8_0(const float *x, uint8_t *dst)
{
	float most = 0;
	int i;

	for (i = 0; i < BLOCK; i++)
		most = fmaxf(most, fabsf(x[i]));
	half(dst, most / 127);
	most = of_half(dst);
	for (i = 0; i < BLOCK; i++)
		dst[2 + i] = (uint8_t)(int8_t)fmaxf(-127, fminf(127, most > 0 ? roundf(x[i] / most) : 0));
	return 2 + BLOCK;
}

static size_t block_q4_0(const float *x, uint8_t *dst)
{
	float most = 0, d;
	int i;

	for (i = 0; i < BLOCK; i++)
		most = fabsf(x[i]) > fabsf(most) ? x[i] : most;
	half(dst, most / -8);
	d = of_half(dst);
	memset(dst + 2, 0, BLOCK / 2);
	for (i = 0; i < BLOCK; i++) {
		uint8_t q = (uint8_t)fmaxf(0, fminf(15, (d != 0 ? roundf(x[i] / d) : 0) + 8));

		dst[2 + i % 16] |= (uint8_t)(i < 16 ? q : q << 4);
	}
	return 2 + BLOCK / 2;
}

/* t's data in the new format, appended; returns the format. */
static uint32_t data_append(struct make *m, const struct gguf_tensor *t, enum quant_type type)
{
	const struct quant *q = quant_find(t->type);
	const size_t n = (size_t)(t->ne[0] * t->ne[1] * t->ne[2]);
	float *x;
	size_t i, at;

	make_data(m, 32, 0);
	if (t->type != QUANT_F16 || t->ne[0] % BLOCK) {
		at = m->n;
		make_data(m, 1, t->n_byte);
		memcpy(m->data + at, t->data, t->n_byte);
		return t->type;
	}
	x = malloc(n * sizeof *x);
	q->dequantize(t->data, x, n / q->n_block);
	at = m->n;
	make_data(m, 1, n / BLOCK * (type == QUANT_Q8_0 ? 34 : 18));
	for (i = 0; i < n; i += BLOCK)
		at += (type == QUANT_Q8_0 ? block_q8_0 : block_q4_0)(x + i, m->data + at);
	free(x);
	return type;
}

static void fail(const char *what, const char *path)
{
	printf("FAILED %s of %s\n", what, path);
	exit(1);
}

/* The bytes before the tensor table, unchanged. */
static void head_copy(struct make *out, const char *path, const struct gguf *g)
{
	const struct gguf_tensor *t = gguf_tensor_at(g, 0);
	struct make entry = { 0 }, file = { 0 };
	const uint8_t *table;

	make_load(&file, path);
	make_u64(&entry, t->name.n);
	make_data(&entry, 1, t->name.n);
	memcpy(entry.data + 8, t->name.data, t->name.n);
	table = memmem(file.data, file.n, entry.data, entry.n);
	if (!table)
		fail("the tensor table", path);
	make_data(out, 1, (size_t)(table - file.data));
	memcpy(out->data, file.data, (size_t)(table - file.data));
	make_free(&entry);
	make_free(&file);
}

int requantize(const char *path, enum quant_type type)
{
	struct make out = { 0 }, data = { 0 };
	const struct gguf_tensor *t;
	struct reason why = { "", "" };
	struct gguf *g;
	size_t i, d, n;
	int fd = memfd_create("requantized", MFD_CLOEXEC);

	if (fd < 0 || gguf_open(&g, path, &why))
		fail(why.text, path);
	head_copy(&out, path, g);
	for (i = 0; (t = gguf_tensor_at(g, i)); i++) {
		make_u64(&out, t->name.n);
		n = out.n;
		make_data(&out, 1, t->name.n);
		memcpy(out.data + n, t->name.data, t->name.n);
		make_u32(&out, t->n_dim);
		for (d = 0; d < t->n_dim; d++)
			make_u64(&out, t->ne[d]);
		make_data(&data, 32, 0);
		n = data.n;
		make_u32(&out, data_append(&data, t, type));
		make_u64(&out, n);
	}
	make_data(&out, 32, 0);
	if (write(fd, out.data, out.n) != (ssize_t)out.n || write(fd, data.data, data.n) != (ssize_t)data.n)
		fail("a copy", path);
	make_free(&out);
	make_free(&data);
	gguf_close(g);
	return fd;
}
