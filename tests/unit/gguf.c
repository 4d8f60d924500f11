/*
 * The GGUF reader on hand-made files: what is whole is read, what is damaged is
 * refused by name, and no view ever lies outside the mapping.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/quants.h"
#include "tests/unit/gguf-make.h"

enum { V_U8, V_I8, V_U16, V_I16, V_U32, V_I32, V_F32, V_BOOL, V_STRING, V_ARRAY, V_U64, V_I64, V_F64 };

static void bytes(struct make *m, const char *name, uint32_t type, const void *p, size_t n)
{
	make_key(m, name, type);
	for (size_t i = 0; i < n; i++) {
		/* make has no bare bytes: a u32 of which one byte stays */
		make_u32(m, ((const uint8_t *)p)[i]);
		m->n -= 3;
	}
}

/* One of everything, two tensors. */
static void whole(struct make *m)
{
	const int8_t i8 = -8;
	const uint16_t u16 = 1600;
	const int16_t i16 = -1600;
	const int32_t i32 = -320000;
	const uint64_t u64 = UINT64_C(1) << 60;
	const int64_t i64 = -5;
	const double f64 = 0.25;
	const uint8_t u8 = 200, yes = 1;

	make_begin(m, 3);
	make_key_string(m, "general.architecture", "llama");
	make_key_u32(m, "general.alignment", 64);
	bytes(m, "u8", V_U8, &u8, 1);
	bytes(m, "i8", V_I8, &i8, 1);
	bytes(m, "u16", V_U16, &u16, 2);
	bytes(m, "i16", V_I16, &i16, 2);
	bytes(m, "i32", V_I32, &i32, 4);
	bytes(m, "u64", V_U64, &u64, 8);
	bytes(m, "i64", V_I64, &i64, 8);
	bytes(m, "f64", V_F64, &f64, 8);
	bytes(m, "yes", V_BOOL, &yes, 1);
	make_key_f32(m, "f32", 1.5f);
	make_key_string(m, "empty", "");
	make_key(m, "words", V_ARRAY);
	make_u32(m, V_STRING);
	make_u64(m, 3);
	make_string(m, "a");
	make_string(m, "");
	make_string(m, "three");
	make_key(m, "numbers", V_ARRAY);
	make_u32(m, V_I32);
	make_u64(m, 2);
	make_u32(m, 7);
	make_u32(m, (uint32_t)-7);
	make_tensor(m, "one", 2, (uint64_t[]){ 32, 2 }, QUANT_Q8_0, 0);
	make_tensor(m, "two", 1, (uint64_t[]){ 8 }, QUANT_F32, 128);
	make_data(m, 64, 128 + 32);
	make_counts(m);
}

static void test_reads_a_whole_file(void **state)
{
	struct make m;
	struct gguf *g;
	struct gguf_str s;
	struct gguf_array a;
	const struct gguf_tensor *t;
	struct reason why = { "", "" };
	uint64_t u;
	size_t cursor = 0;
	double d;
	bool b;

	(void)state;
	whole(&m);
	assert_int_equal(make_open(&g, m.data, m.n, &why), 0);
	assert_true(gguf_string(g, "general.architecture", &s) && s.n == 5 && memcmp(s.data, "llama", 5) == 0);
	assert_true(gguf_u64(g, "u8", &u) && u == 200);
	assert_true(gguf_u64(g, "u16", &u) && u == 1600);
	assert_true(gguf_u64(g, "u64", &u) && u == UINT64_C(1) << 60);
	assert_false(gguf_u64(g, "i8", &u));           /* negative */
	assert_false(gguf_u64(g, "i16", &u));
	assert_false(gguf_u64(g, "i32", &u));
	assert_false(gguf_u64(g, "i64", &u));
	assert_false(gguf_u64(g, "yes", &u));          /* another type */
	assert_false(gguf_u64(g, "f32", &u));
	assert_false(gguf_u64(g, "absent", &u));
	assert_true(gguf_has(g, "i64") && !gguf_has(g, "absent"));
	assert_true(gguf_f64(g, "f32", &d) && d == 1.5);
	assert_true(gguf_f64(g, "f64", &d) && d == 0.25);
	assert_false(gguf_f64(g, "u8", &d));
	assert_true(gguf_bool(g, "yes", &b) && b);
	assert_true(gguf_string(g, "empty", &s) && s.n == 0);
	assert_true(gguf_array(g, "words", &a) && a.n == 3 && a.type == V_STRING);
	assert_false(gguf_array_u64(&a, 0, &u));
	assert_true(gguf_array_next(&a, &cursor, &s) && s.n == 1);
	assert_true(gguf_array_next(&a, &cursor, &s) && s.n == 0);
	assert_true(gguf_array_next(&a, &cursor, &s) && s.n == 5 && memcmp(s.data, "three", 5) == 0);
	assert_true(gguf_array(g, "numbers", &a) && a.n == 2);
	assert_true(gguf_array_u64(&a, 0, &u) && u == 7);
	assert_false(gguf_array_u64(&a, 1, &u));
	assert_false(gguf_array_u64(&a, 2, &u));
	assert_int_equal(gguf_n_tensor(g), 2);
	t = gguf_tensor(g, "two");
	assert_true(t && t->n_byte == 32 && t->n_dim == 1 && t->ne[0] == 8 && t->ne[1] == 1);
	assert_ptr_equal((const char *)t->data - 128, gguf_tensor(g, "one")->data);
	assert_null(gguf_tensor(g, "three"));
	assert_null(gguf_tensor_at(g, 2));
	assert_int_equal(gguf_size(g), m.n);
	gguf_close(g);
	make_free(&m);
}

/* Touches every view; all lie inside the n bytes that begin 32 before the first
 * key's spelling. */
static uint64_t walk(const struct gguf *g, size_t n)
{
	const char *base = NULL;
	struct gguf_str key, s;
	struct gguf_array a;
	const struct gguf_tensor *t;
	char value[40], name[80];
	uint64_t sum = 0, u, k;
	size_t i, j, cursor;

	for (i = 0; gguf_key_at(g, i, &key, value, sizeof value); i++) {
		base = base ? base : key.data - 32;
		assert_true(key.data >= base && key.data + key.n <= base + n);
		if (key.n >= sizeof name)
			continue;
		memcpy(name, key.data, key.n);
		name[key.n] = 0;
		if (gguf_string(g, name, &s)) {
			assert_true(s.data >= base && s.data + s.n <= base + n);
			for (j = 0; j < s.n; j++)
				sum += (uint8_t)s.data[j];
		}
		if (gguf_array(g, name, &a))
			for (k = 0, cursor = 0; k < a.n; k++) {
				if (gguf_array_u64(&a, k, &u))
					sum += u;
				if (gguf_array_next(&a, &cursor, &s))
					assert_true(s.data >= base && s.data + s.n <= base + n);
			}
	}
	for (i = 0; (t = gguf_tensor_at(g, i)); i++)
		for (j = 0; j < t->n_byte; j++)
			sum += ((const uint8_t *)t->data)[j];
	return sum + gguf_fingerprint(g);
}

/* 0, or refused with a sentence; never anything else. */
static int try_open(const void *data, size_t n)
{
	struct reason why = { "", "" };
	struct gguf *g = NULL;
	int rc = make_open(&g, data, n, &why);

	if (rc == 0) {
		walk(g, n);
	} else {
		assert_int_equal(rc, REFUSED);
		assert_string_equal(why.name, "bad_model");
		assert_true(why.text[0]);
		assert_null(g);
	}
	gguf_close(g);
	return rc;
}

static void test_truncated_at_every_byte(void **state)
{
	struct make m;
	size_t n;

	(void)state;
	whole(&m);
	assert_int_equal(try_open(m.data, m.n), 0);
	for (n = 0; n < m.n; n++)
		assert_int_equal(try_open(m.data, n), REFUSED);
	make_free(&m);
}

static void test_every_bit_flipped(void **state)
{
	size_t i, n_ok = 0, n_refused = 0;
	struct make m;

	(void)state;
	whole(&m);
	for (i = 0; i < 8 * (m.n - 160); i++) {
		m.data[i / 8] ^= (uint8_t)(1 << i % 8);
		if (try_open(m.data, m.n) == 0)
			n_ok++;
		else
			n_refused++;
		m.data[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	assert_true(n_ok > 0 && n_refused > 1000);     /* both happen: the test reaches what it means to */
	make_free(&m);
}

/* Random damage of several bytes at once, with a fixed seed. */
static void test_random_damage(void **state)
{
	uint64_t s = 42;
	struct make m, d;
	int i, k;

	(void)state;
	whole(&m);
	d = m;
	d.data = malloc(m.n);
	for (i = 0; i < 20000; i++) {
		memcpy(d.data, m.data, m.n);
		for (k = 0; k < 1 + i % 4; k++) {
			s = s * 6364136223846793005u + 1442695040888963407u;
			d.data[(s >> 33) % (m.n - 160)] = (uint8_t)(s >> 25 & (i & 1 ? 0xff : 0x8f));
		}
		try_open(d.data, m.n);
	}
	free(d.data);
	make_free(&m);
}

/* ---- refusals by name ---- */

static void refused(struct make *m, const char *text)
{
	struct reason why = { "", "" };
	struct gguf *g;

	assert_int_equal(make_open(&g, m->data, m->n, &why), REFUSED);
	assert_string_equal(why.name, "bad_model");
	if (!strstr(why.text, text))
		fail_msg("\"%s\" does not say \"%s\"", why.text, text);
	make_free(m);
}

/* One key and one tensor, 64 zero bytes of data. */
static void simple(struct make *m, const char *key, uint32_t align, const char *tensor, uint32_t n_dim,
                   const uint64_t *ne, uint32_t type, uint64_t offset)
{
	make_begin(m, 2);
	make_key_u32(m, key, align);
	make_tensor(m, tensor, n_dim, ne, type, offset);
	make_data(m, 32, 64);
	make_counts(m);
}

static void test_refuses_headers_by_name(void **state)
{
	struct make m;

	(void)state;
	make_begin(&m, 1);
	refused(&m, "version 1");
	make_begin(&m, __builtin_bswap32(3));
	refused(&m, "big-endian");
	make_begin(&m, 3);
	m.data[0] = 'g';
	refused(&m, "not a GGUF file");
	make_begin(&m, 3);
	m.n_key = UINT64_C(1) << 63;
	make_counts(&m);
	refused(&m, "9223372036854775808 keys");
	make_begin(&m, 3);
	m.n_tensor = UINT64_MAX;
	make_counts(&m);
	refused(&m, "18446744073709551615 tensors");
	make_begin(&m, 3);
	make_u64(&m, UINT64_MAX);      /* length of a key's name */
	make_data(&m, 32, 64);
	m.n_key = 1;
	make_counts(&m);
	refused(&m, "inside key 0");
	make_begin(&m, 3);
	make_key(&m, "deep", V_ARRAY);
	make_u32(&m, V_ARRAY);
	make_u64(&m, 1);
	make_counts(&m);
	refused(&m, "deep is a list of type 9");
	make_begin(&m, 3);
	make_key(&m, "huge", V_ARRAY);
	make_u32(&m, V_U64);
	make_u64(&m, UINT64_C(1) << 61);       /* times 8 wraps to 0 */
	make_counts(&m);
	refused(&m, "huge says 2305843009213693952 elements");
	make_begin(&m, 3);
	make_key(&m, "huge", V_ARRAY);
	make_u32(&m, V_STRING);
	make_u64(&m, UINT64_C(1) << 40);
	make_counts(&m);
	refused(&m, "huge says");
	make_begin(&m, 3);
	make_key(&m, "odd", 13);
	make_counts(&m);
	make_u32(&m, 0);
	refused(&m, "odd has type 13");
	make_begin(&m, 3);
	make_key_u32(&m, "", 1);
	make_counts(&m);
	refused(&m, "key 0 has a name of 0 bytes");
	make_begin(&m, 3);
	make_key_u32(&m, "twice", 1);
	make_key_u32(&m, "other", 1);
	make_key_u32(&m, "twice", 1);
	make_counts(&m);
	refused(&m, "twice is there twice");
}

static void test_refuses_tensors_by_name(void **state)
{
	const uint64_t ne[] = { 8, 2, 1, 1, 1 }, empty[] = { 8, 0 }, much[] = { UINT64_C(1) << 32, UINT64_C(1) << 32 };
	const uint64_t uneven[] = { 33, 1 }, large[] = { UINT64_C(1) << 61, 1 };
	struct make m;

	(void)state;
	simple(&m, "a", 1, "t", 0, ne, QUANT_F32, 0);
	refused(&m, "t has 0 dimensions");
	simple(&m, "a", 1, "t", 5, ne, QUANT_F32, 0);
	refused(&m, "t has 5 dimensions");
	simple(&m, "a", 1, "t", 2, empty, QUANT_F32, 0);
	refused(&m, "t has the shape 8 x 0");
	simple(&m, "a", 1, "t", 2, much, QUANT_F32, 0);
	refused(&m, "t has the shape 4294967296 x 4294967296");
	simple(&m, "a", 1, "t", 2, large, QUANT_F32, 0);       /* times 4 wraps */
	refused(&m, "data of the tensor t");
	simple(&m, "a", 1, "t", 2, uneven, QUANT_Q8_0, 0);
	refused(&m, "whole blocks of Q8_0");
	simple(&m, "a", 1, "t", 2, ne, QUANT_F32, 16);
	refused(&m, "t is not aligned to 32 bytes");
	simple(&m, "a", 1, "t", 2, ne, QUANT_F32, 32);
	refused(&m, "data of the tensor t");
	simple(&m, "a", 1, "t", 2, ne, QUANT_F32, UINT64_MAX - 31);
	refused(&m, "data of the tensor t");
	simple(&m, "general.alignment", 3, "t", 2, ne, QUANT_F32, 0);
	refused(&m, "general.alignment");
	simple(&m, "general.alignment", 0, "t", 2, ne, QUANT_F32, 0);
	refused(&m, "general.alignment");
	simple(&m, "general.alignment", 1u << 31, "t", 2, ne, QUANT_F32, 0);
	refused(&m, "data of the tensor t");
	make_begin(&m, 3);
	make_tensor(&m, "t", 1, ne, QUANT_F32, 0);
	make_tensor(&m, "t", 1, ne, QUANT_F32, 0);
	make_data(&m, 32, 64);
	make_counts(&m);
	refused(&m, "t is there twice");
}

/* A format of GGML that is not ours does not stop the file, only its use. */
static void test_keeps_unknown_formats(void **state)
{
	const uint64_t ne[] = { 256, 1 };
	struct reason why = { "", "" };
	struct gguf *g;
	struct make m;

	(void)state;
	simple(&m, "a", 1, "t", 2, ne, 16, 0);
	assert_int_equal(make_open(&g, m.data, m.n, &why), 0);
	assert_int_equal(gguf_tensor(g, "t")->n_byte, 0);
	assert_null(gguf_tensor(g, "t")->data);
	gguf_close(g);
	make_free(&m);
}

static void test_fingerprint(void **state)
{
	struct reason why = { "", "" };
	struct gguf *g;
	struct make m;
	uint64_t first;
	size_t at[3], i;

	(void)state;
	whole(&m);
	assert_int_equal(make_open(&g, m.data, m.n, &why), 0);
	first = gguf_fingerprint(g);
	gguf_close(g);
	at[0] = m.n - 160;             /* a weight */
	at[1] = m.n - 1;
	at[2] = make_find(&m, "f32");  /* a key's value */
	for (i = 0; i < 3; i++) {
		m.data[at[i]] ^= 1;
		assert_int_equal(make_open(&g, m.data, m.n, &why), 0);
		assert_true(gguf_fingerprint(g) != first);
		gguf_close(g);
		m.data[at[i]] ^= 1;
	}
	assert_int_equal(make_open(&g, m.data, m.n, &why), 0);
	assert_true(gguf_fingerprint(g) == first);
	gguf_close(g);
	make_free(&m);
}

static void test_paths(void **state)
{
	struct reason why = { "", "" };
	struct gguf *g;

	(void)state;
	assert_true(gguf_open(&g, "/nowhere/at/all.gguf", &why) < 0);
	assert_non_null(strstr(why.text, "No such file"));
	assert_int_equal(gguf_open(&g, "/tmp", &why), REFUSED);
	assert_non_null(strstr(why.text, "regular"));
	assert_int_equal(gguf_open(&g, "/dev/null", &why), REFUSED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_reads_a_whole_file),
		cmocka_unit_test(test_truncated_at_every_byte),
		cmocka_unit_test(test_every_bit_flipped),
		cmocka_unit_test(test_random_damage),
		cmocka_unit_test(test_refuses_headers_by_name),
		cmocka_unit_test(test_refuses_tensors_by_name),
		cmocka_unit_test(test_keeps_unknown_formats),
		cmocka_unit_test(test_fingerprint),
		cmocka_unit_test(test_paths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
