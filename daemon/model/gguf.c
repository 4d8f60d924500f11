/*
 * A GGUF file over a read-only mapping.  Owns the mapping and two sorted indices
 * (keys, tensors) into it; everything that it hands out is a view.
 *
 * The one hard idea: nothing that the file says is believed.  One cursor walks the
 * header once, every count is compared with the bytes that could still hold so
 * many before anything is allocated or multiplied, and after gguf_open() every
 * view is known to lie inside the mapping.  What fails is refused by the name of
 * the key or the tensor.
 *
 * It must not know what any key means, but for general.alignment, which is part of
 * the format.
 *
 * Source: the GGUF specification of ggml (docs/gguf.md).
 */
#include "daemon/model/gguf.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/model/gguf-inside.h"
#include "kernels/quants.h"

#define KEYS_MAX (1u << 16)
#define TENSORS_MAX (1u << 20)
#define KEY_BYTES_MAX 65535u       /* of a key: the specification */
#define NAME_BYTES_MAX 64u         /* of a tensor's name: the specification */
#define KEY_BYTES_MIN 13u          /* length 8, type 4, a value of one byte */
#define TENSOR_BYTES_MIN 32u       /* length 8, dimensions 4 + 8, format 4, offset 8 */
#define ALIGNMENT_DEFAULT 32u

/* A place in the mapping; at <= n always. */
struct cursor {
	const uint8_t *p;
	size_t at, n;
};

struct label { char s[80]; };

static struct label label(struct gguf_str s)
{
	struct label l;

	gguf_print(s, l.s, sizeof l.s);
	return l;
}

/* ---- the cursor ---- */

static const uint8_t *take(struct cursor *c, uint64_t n)
{
	const uint8_t *p = c->p + c->at;

	if (n > c->n - c->at)
		return NULL;
	c->at += (size_t)n;
	return p;
}

static bool take_u32(struct cursor *c, uint32_t *out)
{
	const uint8_t *p = take(c, sizeof *out);

	if (p)
		memcpy(out, p, sizeof *out);
	return p != NULL;
}

static bool take_u64(struct cursor *c, uint64_t *out)
{
	const uint8_t *p = take(c, sizeof *out);

	if (p)
		memcpy(out, p, sizeof *out);
	return p != NULL;
}

static bool take_string(struct cursor *c, struct gguf_str *out)
{
	uint64_t n;

	if (!take_u64(c, &n))
		return false;
	out->data = (const char *)take(c, n);
	out->n = (size_t)n;
	return out->data != NULL;
}

/* Whether n things of at least size bytes may follow. */
static bool may_follow(const struct cursor *c, uint64_t n, size_t size)
{
	return n <= (c->n - c->at) / size;
}

/* ---- keys ---- */

static int array_read(struct cursor *c, struct entry *e, struct reason *why)
{
	struct gguf_array *a = &e->array;
	struct gguf_str s;
	uint64_t i;
	bool whole;

	if (!take_u32(c, &a->type) || !take_u64(c, &a->n))
		return refuse(why, "bad_model", "the file ends inside the key %s", label(e->key).s);
	if (a->type >= N_VALUE_TYPE || a->type == V_ARRAY)
		return refuse(why, "bad_model", "the key %s is a list of type %" PRIu32, label(e->key).s, a->type);
	whole = may_follow(c, a->n, a->type == V_STRING ? 8 : gguf_values[a->type].size);
	a->data = c->p + c->at;
	if (whole && a->type == V_STRING) {
		for (i = 0; whole && i < a->n; i++)
			whole = take_string(c, &s);
	} else if (whole) {
		whole = take(c, a->n * gguf_values[a->type].size) != NULL;
	}
	if (!whole)
		return refuse(why, "bad_model", "the key %s says %" PRIu64 " elements, more than the file holds",
		              label(e->key).s, a->n);
	return 0;
}

static int key_read(struct cursor *c, struct entry *e, size_t i, struct reason *why)
{
	struct gguf_str s;

	if (!take_string(c, &e->key))
		return refuse(why, "bad_model", "the file ends inside key %zu", i);
	if (e->key.n == 0 || e->key.n > KEY_BYTES_MAX)
		return refuse(why, "bad_model", "key %zu has a name of %zu bytes", i, e->key.n);
	if (!take_u32(c, &e->type))
		return refuse(why, "bad_model", "the file ends inside the key %s", label(e->key).s);
	if (e->type >= N_VALUE_TYPE)
		return refuse(why, "bad_model", "the key %s has type %" PRIu32, label(e->key).s, e->type);
	if (e->type == V_ARRAY)
		return array_read(c, e, why);
	if (e->type == V_STRING) {
		if (!take_string(c, &s))
			return refuse(why, "bad_model", "the file ends inside the key %s", label(e->key).s);
		e->data = (const uint8_t *)s.data;
		e->n_string = s.n;
		return 0;
	}
	e->data = take(c, gguf_values[e->type].size);
	if (!e->data)
		return refuse(why, "bad_model", "the file ends inside the key %s", label(e->key).s);
	return 0;
}

static int key_order(const void *a, const void *b)
{
	return gguf_compare((*(const struct entry *const *)a)->key, (*(const struct entry *const *)b)->key);
}

static int keys_read(struct gguf *g, struct cursor *c, struct reason *why)
{
	size_t i;
	int rc;

	/* One more, so that a file without keys allocates something. */
	g->keys = calloc(g->n_key + 1, sizeof *g->keys);
	g->key_index = calloc(g->n_key + 1, sizeof *g->key_index);
	if (!g->keys || !g->key_index)
		return ERROR(-ENOMEM);
	for (i = 0; i < g->n_key; i++) {
		rc = key_read(c, &g->keys[i], i, why);
		if (rc)
			return rc;
		g->key_index[i] = &g->keys[i];
	}
	qsort(g->key_index, g->n_key, sizeof *g->key_index, key_order);
	for (i = 1; i < g->n_key; i++)
		if (key_order(&g->key_index[i - 1], &g->key_index[i]) == 0)
			return refuse(why, "bad_model", "the key %s is there twice", label(g->key_index[i]->key).s);
	return 0;
}

/* ---- tensors ---- */

/* Shape, format and (for now in n_byte) the offset that the file says. */
static int tensor_read(struct cursor *c, struct gguf_tensor *t, size_t i, struct reason *why)
{
	uint32_t d;

	if (!take_string(c, &t->name))
		return refuse(why, "bad_model", "the file ends inside tensor %zu", i);
	if (t->name.n == 0 || t->name.n > NAME_BYTES_MAX)
		return refuse(why, "bad_model", "tensor %zu has a name of %zu bytes", i, t->name.n);
	if (!take_u32(c, &t->n_dim))
		return refuse(why, "bad_model", "the file ends inside the tensor %s", label(t->name).s);
	if (t->n_dim < 1 || t->n_dim > 4)
		return refuse(why, "bad_model", "the tensor %s has %" PRIu32 " dimensions", label(t->name).s, t->n_dim);
	for (d = 0; d < 4; d++)
		t->ne[d] = 1;
	for (d = 0; d < t->n_dim; d++)
		if (!take_u64(c, &t->ne[d]))
			return refuse(why, "bad_model", "the file ends inside the tensor %s", label(t->name).s);
	if (!take_u32(c, &t->type) || !take_u64(c, &t->n_byte))
		return refuse(why, "bad_model", "the file ends inside the tensor %s", label(t->name).s);
	return 0;
}

/* Number of values; false: zero, or more than fit in 63 bits. */
static bool tensor_values(const struct gguf_tensor *t, uint64_t *out)
{
	uint64_t n = 1;
	uint32_t d;

	for (d = 0; d < 4; d++)
		if (t->ne[d] == 0 || __builtin_mul_overflow(n, t->ne[d], &n) || n > INT64_MAX)
			return false;
	*out = n;
	return true;
}

static int tensor_place(struct gguf_tensor *t, const uint8_t *data, uint64_t n_data, uint64_t align,
                        struct reason *why)
{
	const struct quant *q = quant_find(t->type);
	uint64_t offset = t->n_byte, n, bytes;

	t->n_byte = 0;
	if (!tensor_values(t, &n))
		return refuse(why, "bad_model", "the tensor %s has the shape %" PRIu64 " x %" PRIu64 " x %" PRIu64 " x %" PRIu64,
		              label(t->name).s, t->ne[0], t->ne[1], t->ne[2], t->ne[3]);
	if (offset % align)
		return refuse(why, "bad_model", "the tensor %s is not aligned to %" PRIu64 " bytes", label(t->name).s, align);
	if (!q)
		return 0;          /* not ours: whoever wants it refuses it by name */
	if (t->ne[0] % q->n_block)
		return refuse(why, "bad_model", "the tensor %s has rows of %" PRIu64 " values, not whole blocks of %s",
		              label(t->name).s, t->ne[0], q->name);
	if (__builtin_mul_overflow(n / q->n_block, (uint64_t)q->n_byte, &bytes) || offset > n_data || bytes > n_data - offset)
		return refuse(why, "bad_model", "the file ends inside the data of the tensor %s", label(t->name).s);
	t->data = data + offset;
	t->n_byte = bytes;
	return 0;
}

static int tensor_order(const void *a, const void *b)
{
	return gguf_compare((*(const struct gguf_tensor *const *)a)->name, (*(const struct gguf_tensor *const *)b)->name);
}

static int tensors_read(struct gguf *g, struct cursor *c, struct reason *why)
{
	size_t i;
	int rc;

	g->tensors = calloc(g->n_tensor + 1, sizeof *g->tensors);
	g->tensor_index = calloc(g->n_tensor + 1, sizeof *g->tensor_index);
	if (!g->tensors || !g->tensor_index)
		return ERROR(-ENOMEM);
	for (i = 0; i < g->n_tensor; i++) {
		rc = tensor_read(c, &g->tensors[i], i, why);
		if (rc)
			return rc;
		g->tensor_index[i] = &g->tensors[i];
	}
	g->n_header = c->at;
	qsort(g->tensor_index, g->n_tensor, sizeof *g->tensor_index, tensor_order);
	for (i = 1; i < g->n_tensor; i++)
		if (tensor_order(&g->tensor_index[i - 1], &g->tensor_index[i]) == 0)
			return refuse(why, "bad_model", "the tensor %s is there twice", label(g->tensor_index[i]->name).s);
	return 0;
}

static int tensors_place(struct gguf *g, struct reason *why)
{
	const struct entry *e = NULL;
	uint64_t align = ALIGNMENT_DEFAULT, start;
	size_t i;
	int rc;

	for (i = 0; i < g->n_key; i++)
		if (g->keys[i].key.n == 17 && memcmp(g->keys[i].key.data, "general.alignment", 17) == 0)
			e = &g->keys[i];
	if (e && (!gguf_u64(g, "general.alignment", &align) || align == 0 || align & (align - 1) || align > UINT32_MAX))
		return refuse(why, "bad_model", "general.alignment is not a power of two");
	start = (g->n_header + align - 1) / align * align;
	if (start > g->n_map)
		start = g->n_map;  /* tensors without data may still be none */
	for (i = 0; i < g->n_tensor; i++) {
		rc = tensor_place(&g->tensors[i], g->map + start, g->n_map - start, align, why);
		if (rc)
			return rc;
	}
	return 0;
}

/* ---- open and close ---- */

static int header_read(struct gguf *g, struct reason *why)
{
	struct cursor c = { g->map, 0, g->n_map };
	const uint8_t *magic = take(&c, 4);
	uint64_t n_key, n_tensor;
	uint32_t version;
	int rc;

	if (!magic || memcmp(magic, "GGUF", 4))
		return refuse(why, "bad_model", "not a GGUF file");
	if (!take_u32(&c, &version) || !take_u64(&c, &n_tensor) || !take_u64(&c, &n_key))
		return refuse(why, "bad_model", "the file ends inside its header");
	if (version == __builtin_bswap32(2) || version == __builtin_bswap32(3))
		return refuse(why, "bad_model", "a big-endian GGUF file");
	if (version != 2 && version != 3)
		return refuse(why, "bad_model", "GGUF version %" PRIu32 "; versions 2 and 3 are known", version);
	if (n_key > KEYS_MAX || !may_follow(&c, n_key, KEY_BYTES_MIN))
		return refuse(why, "bad_model", "the header says %" PRIu64 " keys, more than can follow", n_key);
	if (n_tensor > TENSORS_MAX || !may_follow(&c, n_tensor, TENSOR_BYTES_MIN))
		return refuse(why, "bad_model", "the header says %" PRIu64 " tensors, more than can follow", n_tensor);
	g->n_key = (size_t)n_key;
	g->n_tensor = (size_t)n_tensor;
	rc = keys_read(g, &c, why);
	if (!rc)
		rc = tensors_read(g, &c, why);
	if (!rc)
		rc = tensors_place(g, why);
	return rc;
}

/* -errno, traced, with a sentence for the person who gave the path. */
static int open_failed(struct reason *why, const char *what)
{
	int rc = -errno;

	refuse(why, "bad_model", "cannot %s the file: %s", what, strerror(-rc));
	return ERROR(rc);
}

static int file_map(struct gguf *g, const char *path, struct reason *why)
{
	int rc = 0, fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct stat st;
	void *p;

	if (fd < 0)
		return open_failed(why, "open");
	if (fstat(fd, &st) < 0) {
		rc = open_failed(why, "examine");
	} else if (!S_ISREG(st.st_mode)) {
		rc = refuse(why, "bad_model", "not a regular file");
	} else if (st.st_size == 0) {
		rc = refuse(why, "bad_model", "the file is empty");
	} else {
		p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p == MAP_FAILED) {
			rc = open_failed(why, "map");
		} else {
			g->map = p;
			g->n_map = (size_t)st.st_size;
		}
	}
	close(fd);
	return rc;
}

int gguf_open(struct gguf **out, const char *path, struct reason *why)
{
	struct gguf *g = calloc(1, sizeof *g);
	int rc;

	*out = NULL;
	if (!g)
		return ERROR(-ENOMEM);
	rc = file_map(g, path, why);
	if (!rc)
		rc = header_read(g, why);
	if (rc) {
		gguf_close(g);
		return rc;
	}
	*out = g;
	return 0;
}

void gguf_rest(struct gguf *g)
{
	madvise((void *)(uintptr_t)g->map, g->n_map, MADV_DONTNEED);
}

void gguf_close(struct gguf *g)
{
	if (!g)
		return;
	if (g->map)
		munmap((void *)(uintptr_t)g->map, g->n_map);
	free(g->keys);
	free(g->key_index);
	free(g->tensors);
	free(g->tensor_index);
	free(g);
}
