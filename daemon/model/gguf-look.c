/*
 * Questions about an open GGUF file: typed look-ups, listings, the fingerprint.
 * Everything here was checked when it was opened.
 */
#include "daemon/model/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "daemon/model/gguf-inside.h"

const struct value_row gguf_values[N_VALUE_TYPE] = {
	[V_U8] = { "u8", 1 },   [V_I8] = { "i8", 1 },   [V_U16] = { "u16", 2 }, [V_I16] = { "i16", 2 },
	[V_U32] = { "u32", 4 }, [V_I32] = { "i32", 4 }, [V_F32] = { "f32", 4 }, [V_BOOL] = { "bool", 1 },
	[V_STRING] = { "str", 0 }, [V_ARRAY] = { "list", 0 },
	[V_U64] = { "u64", 8 }, [V_I64] = { "i64", 8 }, [V_F64] = { "f64", 8 },
};

int gguf_compare(struct gguf_str a, struct gguf_str b)
{
	int c = memcmp(a.data, b.data, a.n < b.n ? a.n : b.n);

	return c ? c : (a.n > b.n) - (a.n < b.n);
}

void gguf_print(struct gguf_str s, char *dst, size_t n)
{
	size_t i = 0, o = 0;

	if (n == 0)
		return;
	for (; i < s.n && o + 1 < n; i++)
		dst[o++] = s.data[i] >= 32 && s.data[i] < 127 ? s.data[i] : '?';
	dst[o] = 0;
	if (i < s.n && n > 3)
		memcpy(dst + o - 3, "...", 3);
}

/* ---- look-ups ---- */

static const struct entry *find(const struct gguf *g, const char *key)
{
	struct gguf_str want = { key, strlen(key) };
	size_t lo = 0, hi = g->n_key, mid;
	int c;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		c = gguf_compare(want, g->key_index[mid]->key);
		if (c == 0)
			return g->key_index[mid];
		if (c < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}

/* The number of type at p as an integer; false: not one, or negative. */
static bool number_u64(uint32_t type, const uint8_t *p, uint64_t *out)
{
	uint64_t u = 0;
	int64_t i = 0;

	switch (type) {
	case V_U8: case V_BOOL: u = *p; break;
	case V_U16: memcpy(&u, p, 2); break;
	case V_U32: memcpy(&u, p, 4); break;
	case V_U64: memcpy(&u, p, 8); break;
	case V_I8: i = (int8_t)*p; break;
	case V_I16: { int16_t x; memcpy(&x, p, 2); i = x; break; }
	case V_I32: { int32_t x; memcpy(&x, p, 4); i = x; break; }
	case V_I64: memcpy(&i, p, 8); break;
	default: return false;
	}
	if (i < 0)
		return false;
	*out = u | (uint64_t)i;
	return true;
}

static bool number_f64(uint32_t type, const uint8_t *p, double *out)
{
	float f;

	if (type == V_F32) {
		memcpy(&f, p, sizeof f);
		*out = f;
	} else if (type == V_F64) {
		memcpy(out, p, sizeof *out);
	} else {
		return false;
	}
	return true;
}

bool gguf_has(const struct gguf *g, const char *key)
{
	return find(g, key) != NULL;
}

bool gguf_u64(const struct gguf *g, const char *key, uint64_t *out)
{
	const struct entry *e = find(g, key);

	return e && e->type != V_BOOL && number_u64(e->type, e->data, out);
}

bool gguf_f64(const struct gguf *g, const char *key, double *out)
{
	const struct entry *e = find(g, key);

	return e && number_f64(e->type, e->data, out);
}

bool gguf_bool(const struct gguf *g, const char *key, bool *out)
{
	const struct entry *e = find(g, key);

	if (!e || e->type != V_BOOL)
		return false;
	*out = *e->data != 0;
	return true;
}

bool gguf_string(const struct gguf *g, const char *key, struct gguf_str *out)
{
	const struct entry *e = find(g, key);

	if (!e || e->type != V_STRING)
		return false;
	out->data = (const char *)e->data;
	out->n = e->n_string;
	return true;
}

bool gguf_array(const struct gguf *g, const char *key, struct gguf_array *out)
{
	const struct entry *e = find(g, key);

	if (!e || e->type != V_ARRAY)
		return false;
	*out = e->array;
	return true;
}

bool gguf_array_u64(const struct gguf_array *a, uint64_t i, uint64_t *out)
{
	return i < a->n && a->type != V_STRING &&
	       number_u64(a->type, (const uint8_t *)a->data + i * gguf_values[a->type].size, out);
}

bool gguf_array_f64(const struct gguf_array *a, uint64_t i, double *out)
{
	return i < a->n && a->type != V_STRING &&
	       number_f64(a->type, (const uint8_t *)a->data + i * gguf_values[a->type].size, out);
}

/* Only as far as the array's n: the caller counts.  Walked once by gguf_open. */
bool gguf_array_next(const struct gguf_array *a, size_t *cursor, struct gguf_str *out)
{
	const uint8_t *p = (const uint8_t *)a->data + *cursor;
	uint64_t n;

	if (a->type != V_STRING)
		return false;
	memcpy(&n, p, sizeof n);
	out->data = (const char *)p + sizeof n;
	out->n = (size_t)n;
	*cursor += sizeof n + (size_t)n;
	return true;
}

size_t gguf_n_tensor(const struct gguf *g)
{
	return g->n_tensor;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, size_t i)
{
	return i < g->n_tensor ? &g->tensors[i] : NULL;
}

const struct gguf_tensor *gguf_tensor(const struct gguf *g, const char *name)
{
	struct gguf_str want = { name, strlen(name) };
	size_t lo = 0, hi = g->n_tensor, mid;
	int c;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		c = gguf_compare(want, g->tensor_index[mid]->name);
		if (c == 0)
			return g->tensor_index[mid];
		if (c < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	return NULL;
}

size_t gguf_size(const struct gguf *g)
{
	return g->n_map;
}

/* ---- for people ---- */

static void number_print(uint32_t type, const uint8_t *p, char *dst, size_t n)
{
	uint64_t u;
	double d;
	int64_t i = 0;

	if (type == V_BOOL)
		snprintf(dst, n, "%s", *p ? "true" : "false");
	else if (number_f64(type, p, &d))
		snprintf(dst, n, "%g", d);
	else if (number_u64(type, p, &u))
		snprintf(dst, n, "%" PRIu64, u);
	else {
		memcpy(&i, p, gguf_values[type].size);
		i = (int64_t)((uint64_t)i << (64 - 8 * gguf_values[type].size)) >> (64 - 8 * gguf_values[type].size);
		snprintf(dst, n, "%" PRId64, i);
	}
}

bool gguf_key_at(const struct gguf *g, size_t i, struct gguf_str *key, char *value, size_t n_value)
{
	const struct entry *e;
	struct gguf_str s;

	if (i >= g->n_key)
		return false;
	e = &g->keys[i];
	*key = e->key;
	if (e->type == V_STRING) {
		s = (struct gguf_str){ (const char *)e->data, e->n_string };
		gguf_print(s, value, n_value);
	} else if (e->type == V_ARRAY) {
		snprintf(value, n_value, "%" PRIu64 " x %s", e->array.n, gguf_values[e->array.type].name);
	} else {
		number_print(e->type, e->data, value, n_value);
	}
	return true;
}

/* First, middle and last bytes of each tensor: another quantization or another
 * training step differs there, and a model of 100 GB is named in milliseconds. */
uint64_t gguf_fingerprint(const struct gguf *g)
{
	enum { SAMPLE = 256 };
	const struct gguf_tensor *t;
	const uint8_t *p;
	uint64_t size = g->n_map, h;
	size_t i, n, part;
	XXH3_state_t *x = XXH3_createState();

	if (!x)
		abort();           /* a few hundred bytes of our own sizing */
	XXH3_64bits_reset(x);
	XXH3_64bits_update(x, g->map, g->n_header);
	XXH3_64bits_update(x, &size, sizeof size);
	for (i = 0; i < g->n_tensor; i++) {
		t = &g->tensors[i];
		p = t->data;
		n = (size_t)t->n_byte;
		part = n < SAMPLE ? n : SAMPLE;
		if (n == 0)
			continue;
		XXH3_64bits_update(x, p, part);
		XXH3_64bits_update(x, p + (n - part) / 2, part);
		XXH3_64bits_update(x, p + n - part, part);
	}
	h = XXH3_64bits_digest(x);
	XXH3_freeState(x);
	return h;
}
