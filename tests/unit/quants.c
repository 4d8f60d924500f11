/*
 * Block formats against values made by gguf-py (tests/tools/make_quant_golden.py),
 * exactly (but for the sign of a zero), and the halves against every one of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quants.h"

static const struct quant *by_name(const char *name)
{
	const struct quant *q;

	for (size_t i = 0; (q = quant_at(i)) != NULL; i++)
		if (strcmp(q->name, name) == 0)
			return q;
	return NULL;
}

/* Hex to bytes; returns how many. */
static size_t unhex(const char *hex, uint8_t *out)
{
	size_t n = 0;
	unsigned x;

	for (; sscanf(hex, "%2x", &x) == 1; hex += 2)
		out[n++] = (uint8_t)x;
	return n;
}

static void golden(void **state)
{
	static char line[8192], name[16], block[1024], values[4096];
	static uint8_t raw[1025], want[2048], copy[1024];
	static float got[512];
	const char *top = getenv("srcdir");
	uint64_t seen = 0;
	char path[4096];
	FILE *f;

	(void)state;
	snprintf(path, sizeof(path), "%s/tests/golden/quants.txt", top ? top : ".");
	f = fopen(path, "r");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f)) {
		const struct quant *q;
		size_t n, n_want;

		assert_int_equal(sscanf(line, "%15s %1023s %4095s", name, block, values), 3);
		q = by_name(name);
		assert_non_null(q);
		assert_ptr_equal(q, quant_find(q->type));
		n = unhex(block, copy);
		n_want = unhex(values, want);
		assert_int_equal(n % q->n_byte, 0);
		assert_int_equal(n / q->n_byte * q->n_block * 4, n_want);
		memcpy(raw + 1, copy, n);               /* not aligned */
		q->dequantize(raw + 1, got, n / q->n_byte);
		for (size_t i = 0; i < n_want / 4; i++) {
			float x;

			memcpy(&x, want + 4 * i, 4);
			if (got[i] != x)
				fail_msg("%s: value %zu is %.9g, should be %.9g", name, i, (double)got[i], (double)x);
		}
		seen |= UINT64_C(1) << (q->type % 64);
	}
	fclose(f);
	for (size_t i = 0; quant_at(i); i++)
		if (!(seen >> (quant_at(i)->type % 64) & 1))
			fail_msg("no golden block of %s", quant_at(i)->name);
	assert_null(quant_find(4));
	assert_null(quant_find(UINT32_MAX));
}

/* Parts keep their promises to the backends that pack them. */
static void parts(void **state)
{
	const struct quant *q;
	uint8_t raw[256];
	uint64_t x = 1;

	(void)state;
	for (size_t i = 0; (q = quant_at(i)) != NULL; i++)
		for (int round = 0; q->unpack && round < 200; round++) {
			struct quant_parts o;

			memset(&o, 0, sizeof(o));
			for (size_t k = 0; k < q->n_byte; k++)
				raw[k] = (uint8_t)((x = x * UINT64_C(6364136223846793005) + 1) >> 56);
			q->unpack(raw, &o);
			for (uint32_t k = 0; k < q->n_block; k++)
				assert_true(q->has_min ? o.q[k] >= 0 && o.q[k] < 1 << q->n_bit
				                       : o.q[k] >= -(1 << (q->n_bit - 1)) && o.q[k] < 1 << (q->n_bit - 1));
		}
}

static void halves(void **state)
{
	(void)state;
	for (uint32_t h = 0; h < 65536; h++) {
		int e = (int)(h >> 10 & 31), m = (int)(h & 1023);
		double x = e == 0 ? ldexp(m, -24) : ldexp(1024 + m, e - 25);
		float got = quant_f16((uint16_t)h);

		if (e == 31) {
			assert_true(m ? isnan(got) : isinf(got));
			assert_true(m || quant_to_f16(got) == h);
			continue;
		}
		assert_true((double)got == (h & 0x8000 ? -x : x) && !signbit(got) == !(h & 0x8000));
		assert_int_equal(quant_to_f16(got), h);
		if ((h & 0x7fff) < 0x7bff) {
			float next = quant_f16((uint16_t)(h + 1)), middle = (got + next) / 2;

			/* halfway goes to the even one, a hair beside it to the nearer */
			assert_int_equal(quant_to_f16(middle), h & 1 ? h + 1 : h);
			assert_int_equal(quant_to_f16(nextafterf(middle, got)), h);
			assert_int_equal(quant_to_f16(nextafterf(middle, next)), h + 1);
		}
	}
	assert_int_equal(quant_to_f16(65519.0f), 0x7bff);
	assert_int_equal(quant_to_f16(65520.0f), 0x7c00);
	assert_int_equal(quant_to_f16(-1e30f), 0xfc00);
	assert_int_equal(quant_to_f16(1e-30f), 0);
	assert_true(isnan(quant_f16(quant_to_f16(NAN))));
	assert_true(quant_bf16(0x3f80) == 1.0f && quant_bf16(0xc049) == -3.140625f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(golden),
		cmocka_unit_test(parts),
		cmocka_unit_test(halves),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
